//! `COPY` and `ADD`, as observed with BuildKit.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::os::unix::fs::symlink;

use common::Bench;

/// A context with one of everything, and the base image `base`.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.file("f1", "1", 0o644).file("f2", "2", 0o640).file("dir/inner", "3", 0o600).file(
        "dir/deep/er",
        "4",
        0o755,
    );
    bench.file("real/r", "r", 0o644);
    symlink("real", bench.context().join("lnk")).unwrap();
    symlink("f1", bench.context().join("flnk")).unwrap();
    symlink("x", bench.context().join("dir/link")).unwrap();
    bench.settle();
    bench
}

fn check(dockerfile: &str, expected: &str) {
    let mut bench = bench();
    let result = bench.build(dockerfile);
    assert_eq!(bench.list(&result.tree), expected.trim(), "{dockerfile}");
}

#[test]
fn a_file_goes_to_a_path_or_into_a_directory() {
    check(
        "FROM scratch\nCOPY f1 /x\nCOPY f2 /y/\nCOPY f1 f2 /z/\nCOPY f1 /a/b/c\n",
        r#"
0755 0:0 a/
0755 0:0 a/b/
0644 0:0 a/b/c "1"
0644 0:0 x "1"
0755 0:0 y/
0640 0:0 y/f2 "2"
0755 0:0 z/
0644 0:0 z/f1 "1"
0640 0:0 z/f2 "2""#,
    );
}

#[test]
fn of_a_directory_the_contents_are_copied() {
    check(
        "FROM scratch\nCOPY dir /d\nCOPY dir/ /e/\nCOPY dir real /f/\n",
        r#"
0755 0:0 d/
0755 0:0 d/deep/
0755 0:0 d/deep/er "4"
0600 0:0 d/inner "3"
0777 0:0 d/link -> x
0755 0:0 e/
0755 0:0 e/deep/
0755 0:0 e/deep/er "4"
0600 0:0 e/inner "3"
0777 0:0 e/link -> x
0755 0:0 f/
0755 0:0 f/deep/
0755 0:0 f/deep/er "4"
0600 0:0 f/inner "3"
0777 0:0 f/link -> x
0644 0:0 f/r "r""#,
    );
}

#[test]
fn source_links_are_followed_and_keep_their_names() {
    check(
        "FROM scratch\nCOPY lnk /o1\nCOPY flnk /o2\nCOPY flnk lnk /o3/\nCOPY fl* /o4/\nCOPY lnk/r /o5\n",
        r#"
0755 0:0 o1/
0644 0:0 o1/r "r"
0644 0:0 o2 "1"
0755 0:0 o3/
0644 0:0 o3/flnk "1"
0644 0:0 o3/r "r"
0755 0:0 o4/
0644 0:0 o4/flnk "1"
0644 0:0 o5 "r""#,
    );
}

#[test]
fn wildcards_match_names_and_may_match_nothing() {
    check(
        "FROM scratch\nCOPY f[12] /a/\nCOPY dir/[de]* /b/\nCOPY dir/i*r /b\nCOPY nothing* /c/\nCOPY ./dir/deep/../inner ../f2 /d/\n",
        r#"
0755 0:0 a/
0644 0:0 a/f1 "1"
0640 0:0 a/f2 "2"
0755 0:0 b/
0755 0:0 b/er "4"
0600 0:0 b/inner "3"
0755 0:0 d/
0640 0:0 d/f2 "2"
0600 0:0 d/inner "3""#,
    );
}

#[test]
fn destination_links_are_followed() {
    let mut bench = bench();
    symlink("/real", bench.context().join("real/abs")).unwrap();
    symlink("viafile", bench.context().join("real/flink")).unwrap();
    symlink("/dangling", bench.context().join("real/dang")).unwrap();
    bench.settle();
    let result = bench.build("FROM scratch\nCOPY real /real\nCOPY f1 /real/abs/\nCOPY f2 /real/flink\nCOPY f1 /real/dang\nCOPY dir/deep /real/abs\n");
    assert_eq!(
        bench.list(&result.tree),
        r#"0644 0:0 dangling "1"
0755 0:0 real/
0777 0:0 real/abs -> /real
0777 0:0 real/dang -> /dangling
0755 0:0 real/er "4"
0644 0:0 real/f1 "1"
0777 0:0 real/flink -> viafile
0644 0:0 real/r "r"
0640 0:0 real/viafile "2""#
    );
}

#[test]
fn owners_and_modes_follow_the_flags() {
    let accounts = "COPY <<P <<G /etc/\nusr:x:66:67::/:/bin/sh\nP\ngrp:x:77:\nG\n";
    let accounts = accounts
        .replace("<<P <<G", "<<passwd <<group")
        .replace("\nP\n", "\npasswd\n")
        .replace("\nG\n", "\ngroup\n");
    let mut bench = bench();
    let result = bench.build(&format!(
        "FROM scratch\n{accounts}COPY --chown=usr f1 /o14\nCOPY --chown=usr:root f1 /o15/\nCOPY --chown=:grp f1 /o16\n\
         COPY --chown=usr:grp dir /o17/a\nCOPY --chmod=0700 dir /o18/a\nCOPY --chmod=700 f1 /o19/a\n\
         COPY --chown=9 --chmod=u=rwX,go=r dir /ee/\n"
    ));
    let list = bench.list(&result.tree);
    let list: Vec<&str> = list.lines().filter(|line| !line.contains(" etc")).collect();
    assert_eq!(
        list.join("\n"),
        r#"0755 9:9 ee/
0744 9:9 ee/deep/
0744 9:9 ee/deep/er "4"
0644 9:9 ee/inner "3"
0777 9:9 ee/link -> x
0644 66:67 o14 "1"
0755 66:0 o15/
0644 66:0 o15/f1 "1"
0644 0:77 o16 "1"
0755 66:77 o17/
0755 66:77 o17/a/
0755 66:77 o17/a/deep/
0755 66:77 o17/a/deep/er "4"
0600 66:77 o17/a/inner "3"
0777 66:77 o17/a/link -> x
0700 0:0 o18/
0700 0:0 o18/a/
0700 0:0 o18/a/deep/
0700 0:0 o18/a/deep/er "4"
0700 0:0 o18/a/inner "3"
0777 0:0 o18/a/link -> x
0700 0:0 o19/
0700 0:0 o19/a "1""#
    );
}

#[test]
fn a_stage_keeps_its_owners_and_the_top_directory_is_made_anew() {
    check(
        "FROM scratch AS one\nCOPY --chown=5:6 --chmod=2711 dir /w/k\nFROM scratch\nUSER 7\nCOPY --from=one /w /w\nCOPY --from=0 /w/k/inner /\nCOPY --from=one --chown=3:4 /w/k /v\nCOPY f1 /\n",
        r#"
0644 0:0 f1 "1"
2711 5:6 inner "3"
0755 3:4 v/
2711 3:4 v/deep/
2711 3:4 v/deep/er "4"
2711 3:4 v/inner "3"
0777 3:4 v/link -> x
0755 0:0 w/
2711 5:6 w/k/
2711 5:6 w/k/deep/
2711 5:6 w/k/deep/er "4"
2711 5:6 w/k/inner "3"
0777 5:6 w/k/link -> x"#,
    );
}

#[test]
fn directories_merge_and_files_do_not_become_directories() {
    check(
        "FROM scratch\nCOPY --chown=1 dir /d\nCOPY f1 /d/deep/f1\nCOPY dir /d\n",
        r#"
0755 1:1 d/
0755 0:0 d/deep/
0755 0:0 d/deep/er "4"
0644 0:0 d/deep/f1 "1"
0600 0:0 d/inner "3"
0777 0:0 d/link -> x"#,
    );
    let mut bench = bench();
    let failure = bench.failure("FROM scratch\nCOPY f1 /d\nCOPY dir /d\n");
    assert!(
        failure.contains("cannot copy into `/d`: it is not a directory\n --> Dockerfile:3:1"),
        "{failure}"
    );
    let failure = bench.failure("FROM scratch\nCOPY dir /d\nCOPY f1 /x/inner\nCOPY f1 /x/inner/y\n");
    assert!(failure.contains("cannot copy into `/x/inner`"), "{failure}");
}

#[test]
fn a_missing_source_is_an_error_with_a_hint() {
    let failure = bench().failure("FROM scratch\nCOPY f1 /\nCOPY nope /x\n");
    let expected = "\
error: `/nope` is not in the source of the copy
 --> Dockerfile:3:1
  |
3 | COPY nope /x
  | ^^^^^^^^^^^^
hint: look at the path, and at .dockerignore if it is a file of the context";
    assert_eq!(failure, expected);
    let failure = bench().failure("FROM scratch\nCOPY --chown=nobo f1 /x\n");
    assert!(failure.contains("cannot use `--chown=nobo`: the image has no user `nobo`"), "{failure}");
}

#[test]
fn heredocs_are_files_with_their_variables() {
    check(
        "FROM scratch\nENV A=b\nCOPY <<one <<\"two\" /d/\na $A\none\na $A\ntwo\nADD <<x /y\nz\nx\n",
        r#"
0755 0:0 d/
0644 0:0 d/one "a b\n"
0644 0:0 d/two "a $A\n"
0644 0:0 y "z\n""#,
    );
}

#[test]
fn ignored_files_are_not_there() {
    let mut bench = bench();
    bench.file(".dockerignore", "dir\n!dir/deep\nf2\n.dockerignore\n", 0o644).settle();
    let result = bench.build("FROM scratch\nCOPY . /\n");
    assert_eq!(
        bench.list(&result.tree),
        r#"0755 0:0 dir/
0755 0:0 dir/deep/
0755 0:0 dir/deep/er "4"
0644 0:0 f1 "1"
0777 0:0 flnk -> f1
0777 0:0 lnk -> real
0755 0:0 real/
0644 0:0 real/r "r""#
    );
    assert!(bench.failure("FROM scratch\nCOPY f2 /\n").contains("`/f2` is not in the source"));
}

#[test]
fn a_context_link_out_of_the_context_leads_into_it() {
    let mut bench = bench();
    symlink("../../../../etc/passwd", bench.context().join("out")).unwrap();
    symlink("/etc", bench.context().join("abs")).unwrap();
    assert!(bench.failure("FROM scratch\nCOPY out /\n").contains("`/out` is not in the source"));
    assert!(
        bench.failure("FROM scratch\nCOPY abs/passwd /\n").contains("`/abs/passwd` is not in the source")
    );
}

#[test]
fn hard_links_of_a_stage_stay_together() {
    let mut bench = bench();
    let tar = archive(&[("a/one", Some("x")), ("a/two", None), ("b/three", None)]);
    std::fs::write(bench.context().join("t.tar"), tar).unwrap();
    let result =
        bench.build("FROM scratch AS one\nADD t.tar /x\nFROM scratch\nCOPY --from=one /x /y\nCOPY --chown=1 --from=one /x/a /z\n");
    assert_eq!(
        bench.list(&result.tree),
        r#"0755 0:0 y/
0755 0:0 y/a/
0644 3:4 y/a/one "x"
0644 3:4 y/a/two "x" = y/a/one
0755 0:0 y/b/
0644 3:4 y/b/three "x" = y/a/one
0755 1:1 z/
0644 1:1 z/one "x"
0644 1:1 z/two "x" = z/one"#
    );
}

#[test]
fn hard_links_of_the_context_stay_together_in_a_directory() {
    let mut bench = bench();
    std::fs::hard_link(bench.context().join("dir/inner"), bench.context().join("dir/deep/again")).unwrap();
    bench.settle();
    let result = bench.build("FROM scratch\nCOPY dir /d\nCOPY dir/inner dir/deep/again /e/\n");
    let list = bench.list(&result.tree);
    let list: Vec<&str> = list.lines().filter(|line| line.contains("\"3\"")).collect();
    let expected = [
        "0600 0:0 d/deep/again \"3\"",
        "0600 0:0 d/inner \"3\" = d/deep/again",
        "0600 0:0 e/again \"3\"",
        "0600 0:0 e/inner \"3\"",
    ];
    assert_eq!(list, expected);
}

#[test]
fn archives_are_unpacked_by_add_only() {
    let mut bench = bench();
    std::fs::write(bench.context().join("t.tar"), archive(&[("a/one", Some("x"))])).unwrap();
    std::fs::write(bench.context().join("bad.xz"), b"\xfd7zXZ\0 and more").unwrap();
    let result = bench.build("FROM scratch\nADD t.tar /o9/\nADD --chown=5 t.tar f1 /o11/\nCOPY t.tar /c/\nADD --unpack=false t.tar /d/\n");
    let list = bench.list(&result.tree);
    let list: Vec<&str> = list.lines().map(|line| line.split(" \"").next().unwrap()).collect();
    assert_eq!(
        list.join("\n"),
        "0755 0:0 c/\n0644 0:0 c/t.tar\n0755 0:0 d/\n0644 0:0 d/t.tar\n0755 5:5 o11/\n0755 5:5 o11/a/\n0644 5:5 o11/a/one\n\
         0644 5:5 o11/f1\n0755 0:0 o9/\n0755 0:0 o9/a/\n0644 3:4 o9/a/one"
    );
    // What only looks like an archive is a file, also where unpacking is asked for.
    let result = bench.build("FROM scratch\nADD bad.xz /\nADD --unpack=true f1 /\n");
    let list = bench.list(&result.tree);
    let names: Vec<&str> = list.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(names, ["bad.xz", "f1"]);
}

#[test]
fn excluded_names_are_left_out_of_directories() {
    check(
        "FROM scratch\nCOPY --exclude=i* dir /a\nCOPY --exclude=deep --exclude=link dir /b\nCOPY --exclude=f1 f1 /c\n\
         COPY --exclude=* --exclude=!deep/er dir /d\n",
        r#"
0755 0:0 a/
0755 0:0 a/deep/
0755 0:0 a/deep/er "4"
0777 0:0 a/link -> x
0755 0:0 b/
0600 0:0 b/inner "3"
0644 0:0 c "1"
0755 0:0 d/
0755 0:0 d/deep/
0755 0:0 d/deep/er "4""#,
    );
}

#[test]
fn parents_keep_the_directories_of_sources() {
    check(
        "FROM scratch\nCOPY --parents dir/deep/er f2 /a\nCOPY --parents dir/./deep/* /b/\nCOPY --parents **/er /c\n\
         COPY --parents --exclude=**/er dir /d/\n",
        r#"
0755 0:0 a/
0755 0:0 a/dir/
0755 0:0 a/dir/deep/
0755 0:0 a/dir/deep/er "4"
0640 0:0 a/f2 "2"
0755 0:0 b/
0755 0:0 b/deep/
0755 0:0 b/deep/er "4"
0755 0:0 c/
0755 0:0 c/dir/
0755 0:0 c/dir/deep/
0755 0:0 c/dir/deep/er "4"
0755 0:0 d/
0755 0:0 d/dir/
0755 0:0 d/dir/deep/
0600 0:0 d/dir/inner "3"
0777 0:0 d/dir/link -> x"#,
    );
    let failure = bench().failure("FROM scratch\nCOPY --parents dir/none /a/\n");
    assert!(failure.contains("`/dir/none` is not in the source"), "{failure}");
}

#[test]
fn linked_copies_replace_links_and_make_a_layer_that_fits_every_base() {
    let mut bench = bench();
    let copies = "COPY --link f1 /lnk/x/\nCOPY --link --chown=7 dir/deep /real\n";
    let result = bench.build(&format!("FROM scratch AS b\nCOPY real /real\nFROM b\n{copies}"));
    let plain = bench.build(&format!("FROM scratch\n{copies}"));
    assert_eq!(
        bench.list(&result.tree),
        r#"0755 0:0 lnk/
0755 0:0 lnk/x/
0644 0:0 lnk/x/f1 "1"
0755 7:7 real/
0755 7:7 real/er "4"
0644 0:0 real/r "r""#
    );
    let layers = |result: &common::Result_| -> Vec<String> {
        let layers = result.image.layers.iter().rev().take(2);
        layers.map(|layer| layer.diff_id.to_string()).collect()
    };
    assert_eq!(layers(&result), layers(&plain));
    // The tree of the layers is the tree of the merge.
    let again = bench.base("linked", &format!("FROM scratch AS b\nCOPY real /real\nFROM b\n{copies}"));
    let child = again.build("FROM linked\nRUN noop\n");
    assert_eq!(bench.list(&child.tree), bench.list(&result.tree));
}

#[test]
fn files_of_the_web_are_private_and_as_old_as_the_server_says() {
    let mut bench = bench();
    let add = |bench: &Bench, url: &str, bytes: &[u8], time: &str| {
        bench.table.files.lock().unwrap().insert(url.to_owned(), (bytes.to_vec(), time.to_owned()));
    };
    add(&bench, "http://h/a/f.txt?x=1", b"hello", "Mon, 04 Mar 2019 05:06:07 GMT");
    add(&bench, "http://h/t.tar", &archive(&[("in", Some("x"))]), "");
    let dockerfile = "FROM scratch\nARG U=http://h\nADD $U/a/f.txt?x=1 /\nADD --chmod=644 $U/a/f.txt?x=1 f1 /d/\n\
        ADD http://h/t.tar /t/\nADD --unpack=true http://h/t.tar /u/\n";
    let result = bench.build(dockerfile);
    let list = bench.list(&result.tree);
    let list: Vec<&str> = list.lines().filter(|line| !line.contains("t.tar")).collect();
    assert_eq!(
        list.join("\n"),
        r#"0644 0:0 d/
0644 0:0 d/f.txt "hello"
0644 0:0 d/f1 "1"
0600 0:0 f.txt "hello"
0755 0:0 t/
0755 0:0 u/
0644 3:4 u/in "x""#
    );
    let entry = result.tree.lookup(&*bench.store, b"f.txt").unwrap().unwrap();
    assert_eq!(entry.metadata.mtime.seconds, 1_551_675_967);
    // New bytes are fetched, the same time is not.
    add(&bench, "http://h/a/f.txt?x=1", b"other", "Mon, 04 Mar 2019 05:06:08 GMT");
    let tree = bench.build(dockerfile).tree;
    assert!(bench.list(&tree).contains("f.txt \"other\""));
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let failure = bench.failure(&format!("FROM scratch\nADD --checksum={digest} http://h/a/f.txt?x=1 /\n"));
    assert!(failure.contains("the checksum of `http://h/a/f.txt` is not the expected one"), "{failure}");
    add(&bench, "http://h/a/f.txt?x=1", b"hello", "");
    let dockerfile = format!("FROM scratch\nADD --checksum={digest} http://h/a/f.txt?x=1 /\n");
    bench.build(&dockerfile);
    let asked = bench.table.resolved.lock().unwrap().len();
    bench.build(&dockerfile);
    assert_eq!(bench.table.resolved.lock().unwrap().len(), asked, "what has a checksum is asked for once");
    let failure = bench.failure("FROM scratch\nADD http://h/none /\n");
    assert!(failure.contains("cannot fetch `http://h/none`") && failure.contains("404"), "{failure}");
    let failure = bench.failure(&format!("FROM scratch\nADD --checksum={digest} f1 /\n"));
    assert!(failure.contains("exactly one source with a URL"), "{failure}");
}

#[test]
fn an_archive_cannot_leave_its_directory() {
    let mut bench = bench();
    std::fs::write(bench.context().join("t.tar"), archive(&[("a/../../x", Some("x"))])).unwrap();
    let failure = bench.failure("FROM scratch\nADD t.tar /o/\n");
    assert!(failure.contains("it leads out of the directory"), "{failure}");
}

/// A tar of files owned by 3:4; a name without text is a hard link to the first.
fn archive(files: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        let text = match text {
            Some(text) => text,
            None => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name(files[0].0).unwrap();
                ""
            }
        };
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_uid(3);
        header.set_gid(4);
        header.set_mtime(1_500_000_000);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}
