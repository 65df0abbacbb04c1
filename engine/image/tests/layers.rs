//! Layers both ways: what a tree becomes, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the canary is a directory of the host")]

use std::collections::BTreeMap;

use cooper_image::compression::Compression;
use cooper_image::digest::Digest;
use cooper_image::layer::{self, Expected, LayerOptions, Limits};
use cooper_image::random::{Random, change_tree};
use cooper_image::store::{Store, StoreOptions};
use cooper_vfs::{NodeKind, Timestamp, Tree};
use proptest::prelude::*;

struct Scratch {
    store: Store,
    _directory: tempfile::TempDir,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &StoreOptions::plain()).unwrap();
    Scratch { store, _directory: directory }
}

fn ingest(store: &Store, parent: Option<&Tree>, tar: &[u8]) -> cooper_image::Result<Tree> {
    let operations = layer::scan(store, tar, &Expected::default(), &Limits::DEFAULT)?;
    layer::apply(store, parent, &operations)
}

/// One entry of an archive, header and all.
#[derive(Clone)]
struct Raw {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    body: Vec<u8>,
    /// Size that the header says, when it is not the body's.
    says: Option<u64>,
}

fn raw(kind: u8, path: &str, link: &str, body: &[u8]) -> Raw {
    Raw { kind, path: path.into(), link: link.into(), body: body.to_vec(), says: None }
}

fn file(path: &str, body: &str) -> Raw {
    raw(b'0', path, "", body.as_bytes())
}

fn directory(path: &str) -> Raw {
    raw(b'5', path, "", b"")
}

fn pax(records: &[(&str, &str)]) -> Raw {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| rest + length.to_string().len() == *length).unwrap();
        body.extend(format!("{length} {key}={value}\n").bytes());
    }
    raw(b'x', "PaxHeaders/x", "", &body)
}

fn blocks(entry: &Raw) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    {
        let bytes = header.as_mut_bytes();
        bytes[..entry.path.len()].copy_from_slice(&entry.path);
        bytes[157..157 + entry.link.len()].copy_from_slice(&entry.link);
    }
    header.set_entry_type(tar::EntryType::new(entry.kind));
    header.set_size(entry.says.unwrap_or(entry.body.len() as u64));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(&entry.body);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut out: Vec<u8> = entries.iter().flat_map(blocks).collect();
    out.extend([0; 1024]);
    out
}

fn paths(store: &Store, tree: &Tree) -> Vec<String> {
    tree.walk(store).map(|item| String::from_utf8_lossy(&item.unwrap().path).into_owned()).collect()
}

fn text(store: &Store, tree: &Tree, path: &str) -> String {
    use cooper_vfs::ContentStore;
    match tree.lookup(store, path.as_bytes()).unwrap().expect(path).kind {
        NodeKind::File { content, .. } => {
            String::from_utf8(store.open(&content).unwrap().read_all().unwrap()).unwrap()
        }
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn refused_layers_name_the_entry_and_touch_nothing() {
    let canary = tempfile::tempdir().unwrap();
    let target = canary.path().join("passwd");
    std::fs::write(&target, "root").unwrap();
    let outside = target.to_str().unwrap().to_owned();
    let Scratch { store, _directory } = scratch();
    let check = |entries: &[Raw], reason: &str| {
        let error =
            ingest(&store, None, &archive(entries)).map(|tree| paths(&store, &tree)).expect_err(reason);
        assert!(error.to_string().contains(reason), "expected `{reason}` in: {error}");
    };
    check(&[file("../evil", "x")], "entry `../evil`: a `..` component");
    check(&[file("a/../../evil", "x")], "a `..` component");
    check(&[file("", "x")], "the name is empty");
    check(&[file(".", "x")], "the root must be a directory");
    check(&[raw(b'2', ".", "x", b"")], "the root must be a directory");
    check(
        &[raw(b'2', "a", "b", b""), raw(b'2', "b", "a", b""), file("a/x", "y")],
        "entry `a/x`: a loop of symbolic links",
    );
    check(&[file("f", "x"), file("f/below", "y")], "entry `f/below`: a parent that is no directory");
    check(&[raw(b'6', "f", "", b""), directory("f/below/more")], "a parent that is no directory");
    check(&[raw(b'1', "l", "missing", b"")], "entry `l`: a hard link to `missing`, which is not there");
    check(
        &[raw(b'1', "l", "../../etc/passwd", b"")],
        "entry `l`: a hard link to `../../etc/passwd`: a `..` component",
    );
    // Through a symbolic link out of the root is still inside: there is no such file in the image.
    check(
        &[
            raw(b'2', "up", "../../..", b""),
            raw(b'1', "l", &format!("up{}", &outside[..outside.len().min(80)]), b""),
        ],
        "which is not there",
    );
    check(&[raw(b'1', "l", &outside[..outside.len().min(90)], b"")], "which is not there");
    check(&[raw(b'1', "l", "l", b"")], "entry `l`: a hard link to itself");
    check(&[directory("d"), raw(b'1', "l", "d", b"")], "a hard link to a directory");
    check(&[raw(b'1', "l", "later", b""), file("later", "x")], "which is not there");
    check(&[pax(&[("size", "3"), ("size", "5")]), file("a", "xyz")], "two values for `size`");
    check(&[pax(&[("path", "a"), ("path", "b")]), file("a", "xyz")], "two values for `path`");
    check(&[pax(&[("size", "1024")]), file("a", "")], "entry `a`: PAX says 1024 bytes, the header 0");
    check(&[pax(&[("size", "0")]), file("a", "xyz")], "PAX says 0 bytes, the header 3");
    check(&[pax(&[("size", "-1")]), file("a", "xyz")], "`size` is not valid");
    check(&[pax(&[("mtime", "now")]), file("a", "xyz")], "`mtime` is not valid");
    check(&[pax(&[("path", "a")]), pax(&[("path", "b")]), file("c", "")], "two PAX headers for one entry");
    check(
        &[raw(b'g', "g", "", &pax(&[("path", "evil")]).body), file("c", "")],
        "a global PAX header with `path`",
    );
    check(&[pax(&[("path", "a")])], "no entry behind it");
    check(&[raw(b'x', "p", "", b"99 path=a\n"), file("c", "")], "a PAX header is damaged");
    check(&[raw(b'x', "p", "", b"garbage"), file("c", "")], "a PAX header is damaged");
    check(&[pax(&[("path", "../up")]), file("a", "")], "entry `../up`");
    check(&[pax(&[("path", "a\0b")]), file("a", "")], "zero byte");
    check(&[Raw { body: vec![1; 512], ..directory("d") }], "must not have contents");
    check(&[raw(b'V', "v", "", b"")], "the entry type `V` is not known");
    check(&[file("a/.wh.", "")], "a whiteout of no name");
    check(&[file("a/.wh...", "")], "a whiteout of no name");
    check(&[file(".wh.a/b", "x")], "an entry below a whiteout");
    check(&[pax(&[("path", &"d/".repeat(600))]), directory("x")], "layer::Limits::depth");
    check(&[pax(&[("path", &"x".repeat(5000))]), file("x", "")], "PATH_BYTES");
    check(&[pax(&[("path", &"x".repeat(256))]), file("x", "")], "a name of more than 255 bytes");
    check(&[pax(&[("SCHILY.xattr.user.x", &"v".repeat(70_000))]), file("x", "")], "XATTR_BYTES");
    check(&[Raw { says: Some(2 << 20), ..raw(b'x', "p", "", b"") }], "PAX_BYTES");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "root");
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1);
}

#[test]
fn the_text_of_a_symbolic_link_is_data_and_leads_nowhere_but_into_the_root() {
    let canary = tempfile::tempdir().unwrap();
    std::fs::write(canary.path().join("f"), "host").unwrap();
    let host = canary.path().to_str().unwrap().trim_start_matches('/').to_owned();
    let Scratch { store, _directory } = scratch();
    let up = format!("../../../../{host}");
    let layer = archive(&[
        directory("etc"),
        raw(b'2', "a/b", "../../../../etc", b""),
        raw(b'2', "to-host", &up[..up.len().min(99)], b""),
        file("a/b/through", "1"),
        raw(b'1', "a/hard", "a/b/through", b""),
        file(".wh.none", ""),
    ]);
    let tree = ingest(&store, None, &layer).unwrap();
    assert_eq!(paths(&store, &tree), ["a", "a/b", "a/hard", "etc", "etc/through", "to-host"]);
    // Writing, whiting out and clearing through it stays in the image, too.
    let upper = [file("to-host/f", "mine"), file("to-host/.wh.f", ""), file("to-host/.wh..wh..opq", "")];
    ingest(&store, Some(&tree), &archive(&upper)).unwrap();
    assert_eq!(std::fs::read_to_string(canary.path().join("f")).unwrap(), "host");
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1);
    // What we write of it comes back as it was.
    let changes = Tree::diff(&store, &Tree::empty(&store).unwrap(), &tree).unwrap();
    let mut bytes = Vec::new();
    let options = LayerOptions { compression: Compression::None, level: None, clamp: None };
    layer::write(&store, &changes, &options, &mut bytes).unwrap();
    assert_eq!(ingest(&store, None, &bytes).unwrap(), tree);
}

#[test]
fn damaged_archives_are_refused() {
    let Scratch { store, _directory } = scratch();
    let whole = archive(&[directory("d"), file("d/f", &"x".repeat(1000))]);
    assert!(ingest(&store, None, &whole).is_ok());
    let check = |bytes: &[u8], reason: &str| {
        let error = ingest(&store, None, bytes).expect_err(reason).to_string();
        assert!(error.contains(reason), "expected `{reason}` in: {error}");
    };
    check(&whole[..whole.len() - 1024], "end-of-archive marker is missing");
    check(&whole[..1200], "truncated");
    check(&whole[..600], "truncated");
    check(b"", "truncated");
    check(&[&whole[..], b"more"].concat(), "bytes behind the end of the archive");
    check(&[&whole[..], &archive(&[file("smuggled", "x")])].concat(), "bytes behind the end");
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    check(&flipped, "checksum is wrong");
    check(&[7; 2048], "checksum is");
    // Padding of any length is normal: tar fills its last record.
    assert!(ingest(&store, None, &[&whole[..], &[0; 9000]].concat()).is_ok());
}

#[test]
fn promised_digests_and_sizes_are_checked_and_nothing_is_left() {
    let Scratch { store, _directory } = scratch();
    let tar = archive(&[file("f", &"unique contents".repeat(400))]);
    let good = Expected {
        digest: Some(Digest::of(&tar)),
        size: Some(tar.len() as u64),
        diff_id: Some(Digest::of(&tar)),
    };
    let other = Some(Digest::of(b"other"));
    let check = |expected: Expected, reason: &str| {
        let error = layer::scan(&store, &tar[..], &expected, &Limits::DEFAULT).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    };
    check(Expected { digest: other, ..good }, "wrong digest");
    check(Expected { diff_id: other, ..good }, "diff ID");
    check(Expected { size: Some(5), ..good }, "wrong size");
    check(Expected { size: Some(tar.len() as u64 + 1), ..good }, "wrong size");
    let id = cooper_vfs::ContentId::of("unique contents".repeat(400).as_bytes());
    assert!(cooper_vfs::ContentStore::open(&store, &id).is_err(), "a refused layer left its contents");
    layer::scan(&store, &tar[..], &good, &Limits::DEFAULT).unwrap();
    assert!(cooper_vfs::ContentStore::open(&store, &id).is_ok());
}

#[test]
fn bombs_stop_at_their_limit() {
    let Scratch { store, _directory } = scratch();
    let limits = Limits { entries: 10, bytes: 1 << 20, names: 4096, depth: 8 };
    let check = |tar: &[u8], name: &str| {
        let mut encoder = cooper_image::compression::Encoder::new(Compression::Gzip, Vec::new()).unwrap();
        std::io::Write::write_all(&mut encoder, tar).unwrap();
        let layer = encoder.finish().unwrap().0;
        let error =
            layer::scan(&store, &layer[..], &Expected::default(), &limits).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    };
    let many: Vec<Raw> = (0..11).map(|number| file(&format!("f{number}"), "")).collect();
    check(&archive(&many), "layer::Limits::entries");
    check(&archive(&[raw(b'0', "zeros", "", &vec![0; 2 << 20])]), "layer::Limits::bytes");
    let long: Vec<Raw> = (0..6)
        .flat_map(|n| {
            [pax(&[("path", &format!("{n}/{}", "x/".repeat(8) + &"y".repeat(250)))]), file("f", "")]
        })
        .collect();
    check(&archive(&long), "layer::Limits::depth");
    let fat = [pax(&[("SCHILY.xattr.user.x", &"v".repeat(5000))]), file("f", "")];
    check(&archive(&fat), "layer::Limits::names");
    // A sparse file whose holes are larger than the limit, in a layer of a few blocks.
    let sparse = [pax(&[("GNU.sparse.map", "0,3"), ("GNU.sparse.size", "1099511627776")]), file("s", "abc")];
    check(&archive(&sparse), "layer::Limits::bytes");
}

#[test]
fn normal_oddities_of_real_layers_are_understood() {
    let Scratch { store, _directory } = scratch();
    let tree = ingest(
        &store,
        None,
        &archive(&[
            directory("./"),
            directory("./usr/"),
            file("/usr/absolute", "1"),
            file("usr//double", "2"),
            file("made/parents/file", "3"),
            raw(b'2', "lib", "usr", b""),
            file("lib/through", "4"),
            raw(b'2', "abs", "/usr/../usr", b""),
            file("abs/also", "5"),
            raw(b'1', "usr/hard", "lib/through", b""),
            raw(b'3', "null", "", b""),
            pax(&[("path", "long/ä"), ("SCHILY.xattr.user.a", "v"), ("mtime", "-1.5"), ("comment", "x")]),
            file("cut", "6"),
            raw(b'g', "pax_global_header", "", &pax(&[("comment", "0123abcd")]).body),
            raw(b'L', "././@LongLink", "", b"gnu/long/name\0"),
            file("cut", "7"),
        ]),
    )
    .unwrap();
    let found = paths(&store, &tree);
    let expected = [
        "abs",
        "gnu",
        "gnu/long",
        "gnu/long/name",
        "lib",
        "long",
        "long/ä",
        "made",
        "made/parents",
        "made/parents/file",
        "null",
        "usr",
        "usr/absolute",
        "usr/also",
        "usr/double",
        "usr/hard",
        "usr/through",
    ];
    assert_eq!(found, expected);
    assert_eq!(text(&store, &tree, "usr/hard"), "4");
    let entry = tree.lookup(&store, "long/ä".as_bytes()).unwrap().unwrap();
    assert_eq!(entry.metadata.mtime, Timestamp { seconds: -2, nanoseconds: 500_000_000 });
    assert_eq!(entry.metadata.xattrs, BTreeMap::from([(b"user.a".to_vec(), b"v".to_vec())]));
}

#[test]
fn sparse_files_come_out_whole() {
    let Scratch { store, _directory } = scratch();
    let map_1 = {
        let mut body = b"2\n2\n3\n10\n2\n".to_vec();
        body.resize(512, 0);
        body.extend(b"abcde");
        body
    };
    let mut old_gnu = blocks(&raw(b'S', "old", "", b"abcde"));
    {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..3].copy_from_slice(b"old");
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(5);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let bytes = header.as_mut_bytes();
        bytes[386..398].copy_from_slice(b"00000000002\0");
        bytes[398..410].copy_from_slice(b"00000000003\0");
        bytes[410..422].copy_from_slice(b"00000000012\0");
        bytes[422..434].copy_from_slice(b"00000000002\0");
        bytes[483..495].copy_from_slice(b"00000000017\0");
        header.set_cksum();
        old_gnu[..512].copy_from_slice(header.as_bytes());
    }
    let mut tar = old_gnu;
    tar.extend(archive(&[
        pax(&[("GNU.sparse.map", "2,3,10,2"), ("GNU.sparse.size", "15"), ("GNU.sparse.name", "v01")]),
        file("x", "abcde"),
        pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "15"),
            ("GNU.sparse.name", "v10"),
        ]),
        raw(b'0', "x", "", &map_1),
        file("after", "!"),
    ]));
    let tree = ingest(&store, None, &tar).unwrap();
    for name in ["old", "v01", "v10"] {
        assert_eq!(text(&store, &tree, name), "\0\0abc\0\0\0\0\0de\0\0\0", "{name}");
    }
    assert_eq!(text(&store, &tree, "after"), "!");
}

#[test]
fn whiteouts_speak_of_lower_layers_only() {
    let Scratch { store, _directory } = scratch();
    let lower = ingest(
        &store,
        None,
        &archive(&[
            file("d/old", "1"),
            file("d/sub/deep", "2"),
            file("gone", "3"),
            file("usr/lib/kept", "4"),
            raw(b'2', "lib", "usr/lib", b""),
            file("tree/x/y", "5"),
            file("becomes-dir", "6"),
        ]),
    )
    .unwrap();
    let upper = ingest(
        &store,
        Some(&lower),
        &archive(&[
            // The order is not the usual one: new files first, then what hides the old ones.
            file("d/new", "a"),
            file("d/.wh..wh..opq", ""),
            file("gone", "again"),
            file(".wh.gone", ""),
            file("missing/.wh.x", ""),
            // The link is replaced by a directory, so what it pointed at is not meant.
            directory("lib"),
            file("lib/.wh..wh..opq", ""),
            file("lib/.wh.kept", ""),
            file(".wh.tree", ""),
            file("becomes-dir/f", "7"),
            file(".wh.becomes-dir", ""),
            file(".wh..wh.plnk/123", "aufs"),
        ]),
    )
    .unwrap();
    let expected =
        ["becomes-dir", "becomes-dir/f", "d", "d/new", "gone", "lib", "usr", "usr/lib", "usr/lib/kept"];
    assert_eq!(paths(&store, &upper), expected);
    assert_eq!(text(&store, &upper, "gone"), "again");
}

#[test]
fn a_name_that_is_a_whiteout_cannot_be_written() {
    let Scratch { store, _directory } = scratch();
    let tree = ingest(&store, None, &archive(&[file("f", "x")])).unwrap();
    let mut changes = Tree::diff(&store, &Tree::empty(&store).unwrap(), &tree).unwrap();
    for change in &mut changes {
        if let cooper_vfs::Change::Upsert { path, .. } = change {
            *path = b"d/.wh.f".to_vec();
        }
    }
    let options = LayerOptions { compression: Compression::None, level: None, clamp: None };
    let error = layer::write(&store, &changes, &options, std::io::sink()).unwrap_err().to_string();
    assert!(error.contains("`d/.wh.f`"), "{error}");
}

#[test]
fn times_are_clamped_when_asked() {
    let Scratch { store, _directory } = scratch();
    let tree = ingest(&store, None, &archive(&[file("f", "x")])).unwrap();
    let changes = Tree::diff(&store, &Tree::empty(&store).unwrap(), &tree).unwrap();
    let mut bytes = Vec::new();
    let options = LayerOptions { compression: Compression::Zstd, level: None, clamp: Some(5) };
    let written = layer::write(&store, &changes, &options, &mut bytes).unwrap();
    assert_eq!((written.digest, written.size), (Digest::of(&bytes), bytes.len() as u64));
    let again = ingest(&store, None, &bytes).unwrap();
    assert_eq!(again.lookup(&store, b"f").unwrap().unwrap().metadata.mtime.seconds, 5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_make_a_layer_that_makes_the_same_tree(seed in any::<u64>(), steps in 1_usize..5) {
        let Scratch { store, _directory } = scratch();
        let mut random = Random::new(seed);
        let mut lower = Tree::empty(&store).unwrap();
        for step in 0..steps {
            let upper = change_tree(&store, Some(&lower), &mut random).unwrap();
            let changes = Tree::diff(&store, &lower, &upper).unwrap();
            let compression = [Compression::None, Compression::Gzip, Compression::Zstd][step % 3];
            let mut bytes = Vec::new();
            let options = LayerOptions { compression, level: None, clamp: None };
            let written = layer::write(&store, &changes, &options, &mut bytes).unwrap();
            let expected = Expected { digest: Some(written.digest), size: Some(written.size), diff_id: Some(written.diff_id) };
            let operations = layer::scan(&store, &bytes[..], &expected, &Limits::DEFAULT).unwrap();
            let again = layer::apply(&store, Some(&lower), &operations).unwrap();
            let show = |tree: &Tree| tree.walk(&store).map(|item| format!("{:?}", item.unwrap())).collect::<Vec<_>>();
            prop_assert_eq!(show(&again), show(&upper));
            prop_assert_eq!(&again, &upper);
            lower = upper;
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0_usize..6000, value in any::<u8>()) {
        let Scratch { store, _directory } = scratch();
        let _ = ingest(&store, None, &bytes);
        let mut tar = archive(&[directory("d"), pax(&[("path", "d/e"), ("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "1")]), file("f", "x"), raw(b'1', "l", "d/e", b"")]);
        let at = at % tar.len();
        tar[at] = value;
        let _ = ingest(&store, None, &tar);
    }
}
