//! What comes from outside: repositories, contexts that mean harm, secrets. Everything is looked at with programs that
//! are not ours: git, tar, and a search of bytes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use cooper_tests::bases::Base;
use cooper_tests::cooper::Cooper;
use cooper_tests::git::{GIT, Protocol, Repository, Server, TIME};
use cooper_tests::machine::Need;
use cooper_tests::process::{self, Output};
use cooper_tests::suite::{self, case};

fn main() -> ExitCode {
    let git = [Need::Cooper, GIT];
    let own = [Need::Cooper];
    let step = [Need::Cooper, Need::BUSYBOX];
    let cases = vec![
        case("git: branch, tag, commit, directory, submodules", &git, || repositories(Protocol::Two)),
        case("git: the same from a server of before version 2", &git, || repositories(Protocol::Old)),
        case("git: a private repository", &git, private),
        case("git: --keep-git-dir is what git takes for a repository", &git, kept),
        case("git: contexts and named contexts", &git, contexts),
        case("git: a known commit is not asked for again", &git, remembered),
        case("git: repositories that mean harm", &git, harmful_repositories),
        case("context: links that lead out, and farms of links", &own, links),
        case("context: pipes, sockets and devices", &[Need::Cooper, Need::Root], special_files),
        case("context: names of any bytes and of 255 of them", &own, names),
        case("context: directories very deep", &own, deep),
        case("context: a file that nobody may read", &[Need::Cooper, Need::Pod], unreadable),
        case("context: a file that changes while it is read", &own, changing),
        case("context: twenty thousand files, one of them changed", &own, many),
        case("a secret is in nothing that is written", &step, secrets),
        case("an SSH agent answers a step", &[&step[..], &[Need::GCC]].concat(), agent),
        case("resource limits and the size of shared memory", &step, limits),
    ];
    suite::main("sources", cases)
}

/// A build of a Dockerfile's text to a directory.
fn build(cooper: &Cooper, dockerfile: &str, context: &Path, more: &[&str]) -> Result<(Output, PathBuf)> {
    let file = cooper.input("Dockerfile.test", dockerfile)?;
    let out = cooper.home().join("out");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let mut output = OsString::from("type=local,dest=");
    output.push(&out);
    let mut words: Vec<OsString> = ["build", "--progress", "plain", "-f"].map(OsString::from).into();
    words.extend([file.into(), "-o".into(), output]);
    words.extend(more.iter().map(OsString::from));
    words.push(context.into());
    Ok((cooper.run(words)?, out))
}

fn text(path: PathBuf) -> Result<String> {
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

// ---- repositories

/// Repositories below one directory: `app.git` with a submodule `lib.git`, and what they have.
struct Sample {
    root: tempfile::TempDir,
    first: String,
}

fn sample() -> Result<Sample> {
    let root = tempfile::Builder::new().prefix("cooper-git-").tempdir_in("/tmp")?;
    let library = Repository::new(root.path().join("work/lib"))?;
    library.write("l", "lib\n")?;
    let pinned = library.commit("library")?;
    let app = Repository::new(root.path().join("work/app"))?;
    app.write("Dockerfile", "FROM scratch\nCOPY a d/e/f /\n")?;
    app.write("a", "one\n")?;
    app.write("d/e/f", "deep\n")?;
    // Big enough that the next commit is sent as a difference.
    let long: String = (0..5000).map(|number| format!("{number}\n")).collect();
    app.write("long", &long)?;
    fs::set_permissions(app.path.join("a"), fs::Permissions::from_mode(0o755))?;
    symlink("a", app.path.join("link"))?;
    let first = app.commit("first")?;
    app.git(&["tag", "light"])?;
    app.write("a", "two\n")?;
    app.write("long", &long.replace("77\n", "x\n"))?;
    app.write(".gitmodules", "[submodule \"x\"]\n\tpath = sub/lib\n\turl = ../lib.git\n")?;
    app.git(&["add", "-A"])?;
    app.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{pinned},sub/lib")])?;
    app.git(&["commit", "-q", "-m", "second"])?;
    app.git(&["tag", "-a", "v2", "-m", "annotated"])?;
    app.git(&["branch", "feature/x"])?;
    for (name, from) in [("lib.git", &library), ("app.git", &app)] {
        let to = root.path().join("served").join(name);
        let to = to.to_str().context("a path of ours is text")?;
        from.git(&["clone", "-q", "--bare", ".", to])?;
    }
    Ok(Sample { root, first })
}

impl Sample {
    fn serve(&self, protocol: Protocol, token: Option<&str>) -> Result<Server> {
        Server::start(&self.root.path().join("served"), protocol, token)
    }
}

fn repositories(protocol: Protocol) -> Result<()> {
    let (cooper, sample) = (Cooper::outside()?, sample()?);
    let server = sample.serve(protocol, None)?;
    let url = server.url("app.git");
    let empty = cooper.inputs().join("empty");
    fs::create_dir_all(&empty)?;
    let add = |address: &str, flags: &str| {
        build(&cooper, &format!("FROM scratch\nADD {flags} {address} /r\n"), &empty, &[])
    };
    for (reference, contents, has_library) in [
        ("", "two\n", true),
        ("#main", "two\n", true),
        ("#feature/x", "two\n", true),
        ("?branch=feature/x", "two\n", true),
        ("#v2", "two\n", true),
        ("#light", "one\n", false),
        ("?tag=light", "one\n", false),
        ("#refs/tags/light", "one\n", false),
        (&format!("#{}", sample.first), "one\n", false),
        ("#v2:.", "two\n", true),
        ("?submodules=false", "two\n", false),
    ] {
        let (output, out) = add(&format!("{url}{reference}"), "")?;
        output.ok()?;
        ensure!(text(out.join("r/a"))? == contents, "{reference}: another commit");
        ensure!(out.join("r/sub/lib/l").exists() == has_library, "{reference}: submodule");
        ensure!(!out.join("r/.git").exists(), "{reference}: .git");
        let metadata = fs::metadata(out.join("r/a"))?;
        ensure!((metadata.mode() & 0o777, metadata.mtime()) == (0o755, TIME), "{reference}: {metadata:?}");
        ensure!(fs::read_link(out.join("r/link"))? == Path::new("a"), "{reference}: link");
        ensure!(text(out.join("r/long"))?.contains("77\n") != (contents == "two\n"), "{reference}: long");
    }
    let (output, out) = add(&format!("{url}#main:d/e"), "")?;
    output.ok()?;
    ensure!(text(out.join("r/f"))? == "deep\n", "the directory");
    add(&format!("{url}#light"), &format!("--checksum={}", &sample.first[..10]))?.0.ok()?;
    add(&format!("{url}#main"), &format!("--checksum={}", sample.first))?
        .0
        .exits(1)?
        .says("not the expected one")?;
    add(&format!("{url}#none"), "")?.0.exits(1)?.says("has no reference `none`")?;
    add(&format!("{url}#main:none"), "")?.0.exits(1)?.says("no directory `none`")?;
    add(&server.url("none.git"), "")?.0.exits(1)?.says("no such repository")?;
    add(&format!("{url}?depth=1"), "")?.0.exits(1)?.says("`depth` is not one of")?;
    Ok(())
}

fn private() -> Result<()> {
    let token = "tok-5f2c71e09b";
    let (cooper, sample) = (Cooper::outside()?, sample()?);
    let server = sample.serve(Protocol::Two, Some(token))?;
    let url = server.url("app.git");
    let empty = cooper.inputs().join("empty");
    fs::create_dir_all(&empty)?;
    let dockerfile = format!("FROM scratch\nADD {url} /r\n");
    build(&cooper, &dockerfile, &empty, &[])?.0.exits(1)?.says("access denied")?.says("GIT_AUTH_TOKEN")?;
    let secret = cooper.input("token", token)?;
    let flag = |id: &str| format!("id={id},src={}", secret.display());
    let (output, out) = build(&cooper, &dockerfile, &empty, &["--secret", &flag("GIT_AUTH_TOKEN")])?;
    ensure!(!output.errors().contains(token), "the token is in the log\n{output:?}");
    output.ok()?;
    // The submodule is on the same host, so the token is for it, too.
    ensure!(text(out.join("r/sub/lib/l"))? == "lib\n", "the submodule");
    // A token for another host is shown to nobody else.
    let other = format!("FROM scratch\nADD {url}#light /r\n");
    build(&cooper, &other, &empty, &["--secret", &flag("GIT_AUTH_TOKEN.example.com")])?.0.exits(1)?;
    let host =
        format!("GIT_AUTH_TOKEN.{}", url.trim_start_matches("http://").split('/').next().unwrap_or_default());
    build(&cooper, &other, &empty, &["--secret", &flag(&host)])?.0.ok()?;
    let with_user = url.replace("http://", &format!("http://x-access-token:{token}@"));
    let (output, out) =
        build(&cooper, &format!("FROM scratch\nADD --keep-git-dir {with_user}#v2 /r\n"), &empty, &[])?;
    output.ok()?;
    ensure!(!text(out.join("r/.git/config"))?.contains(token), "the token is in the repository");
    Ok(())
}

fn kept() -> Result<()> {
    let (cooper, sample) = (Cooper::outside()?, sample()?);
    let server = sample.serve(Protocol::Two, None)?;
    let url = server.url("app.git");
    let empty = cooper.inputs().join("empty");
    fs::create_dir_all(&empty)?;
    for (reference, describes) in [("#v2", true), ("#light", true), ("#main", false), ("", false)] {
        let dockerfile = format!("FROM scratch\nADD --keep-git-dir=true {url}{reference} /r\n");
        let (output, out) = build(&cooper, &dockerfile, &empty, &[])?;
        output.ok()?;
        let repository = Repository { path: out.join("r") };
        repository.git(&["fsck", "--full", "--strict"])?;
        let changed = repository.git(&["status", "--porcelain", "--ignore-submodules"])?;
        ensure!(changed.is_empty(), "{reference}: git sees changes: {changed}");
        ensure!(repository.git(&["rev-list", "--count", "HEAD"])? == "1", "{reference}: history");
        if describes {
            repository.git(&["describe", "--tags", "--exact-match"])?;
        }
    }
    Ok(())
}

fn contexts() -> Result<()> {
    let (cooper, sample) = (Cooper::outside()?, sample()?);
    let server = sample.serve(Protocol::Two, None)?;
    let url = server.url("app.git");
    let context = |address: &str, more: &[&str]| -> Result<(Output, PathBuf)> {
        let out = cooper.home().join("out");
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        let output = format!("type=local,dest={}", out.display());
        let mut words = vec!["build", "-o", &output];
        words.extend(more);
        words.push(address);
        Ok((cooper.run(words)?, out))
    };
    let (output, out) = context(&format!("{url}#light"), &[])?;
    output.ok()?;
    ensure!(text(out.join("a"))? == "one\n" && text(out.join("f"))? == "deep\n", "the context");
    context(&format!("{url}#main:d"), &[])?.0.exits(2)?.says("no `Dockerfile` in the context")?;
    let named = format!("--build-context=repo={url}#main:d");
    let empty = cooper.inputs().join("empty");
    fs::create_dir_all(&empty)?;
    let (output, out) = build(&cooper, "FROM scratch\nCOPY --from=repo e /e\n", &empty, &[&named])?;
    output.ok()?;
    ensure!(text(out.join("e/f"))? == "deep\n", "the named context");
    let keep = "FROM scratch\nCOPY .git/HEAD /h\n";
    let file = cooper.input("keep", keep)?;
    let text_of = fs::read(file)?;
    let run = |more: &[&str]| {
        let mut words = vec!["build", "-f", "-", "-o", "type=tar,dest=/dev/null"];
        words.extend(more);
        words.push(&url);
        cooper.run_with(words, &text_of, process::DEADLINE)
    };
    run(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"])?.ok()?;
    run(&[])?.exits(1)?;
    cooper.run(["build", "git@example.com:a/b.git"])?.says("a git repository by SSH")?;
    Ok(())
}

fn remembered() -> Result<()> {
    let (cooper, sample) = (Cooper::outside()?, sample()?);
    let server = sample.serve(Protocol::Two, None)?;
    let empty = cooper.inputs().join("empty");
    fs::create_dir_all(&empty)?;
    let dockerfile = format!("FROM scratch\nADD {}#{} /r\n", server.url("app.git"), sample.first);
    build(&cooper, &dockerfile, &empty, &[])?.0.ok()?;
    let before = server.requests();
    build(&cooper, &dockerfile, &empty, &[])?.0.ok()?;
    ensure!(server.requests() == before, "a commit that is here was asked for");
    let branch = format!("FROM scratch\nADD {}#light /r\n", server.url("app.git"));
    build(&cooper, &branch, &empty, &[])?.0.ok()?;
    ensure!(server.requests() == before + 2, "a reference is looked up, its commit is here");
    Ok(())
}

fn harmful_repositories() -> Result<()> {
    let cooper = Cooper::outside()?;
    let root = tempfile::Builder::new().prefix("cooper-git-").tempdir_in("/tmp")?;
    let repository = Repository::new(root.path().join("bad"))?;
    let blob = {
        repository.write("f", "x\n")?;
        repository.git(&["hash-object", "-w", "f"])?
    };
    let commit_of = |tree: &str| repository.git(&["commit-tree", "-m", "bad", tree]);
    let tree = |lines: &str| -> Result<String> {
        let mut command = process::command("git", ["mktree", "--missing"]);
        command.current_dir(&repository.path);
        Ok(process::run_with(&mut command, lines.as_bytes(), process::DEADLINE)?.ok()?.text())
    };
    let mut cases = Vec::new();
    for name in ["..", ".git", ".GIT"] {
        cases.push((tree(&format!("100644 blob {blob}\t{name}\n"))?, "which git refuses"));
    }
    // Ten names in each of ten directories above one another are ten thousand million files.
    let mut bomb = tree(&(0..10).map(|name| format!("100644 blob {blob}\t{name}\n")).collect::<String>())?;
    for _ in 0..9 {
        bomb = tree(&(0..10).map(|name| format!("040000 tree {bomb}\t{name}\n")).collect::<String>())?;
    }
    cases.push((bomb, "has more than"));
    let modules = |url: &str| -> Result<String> {
        repository.write("m", &format!("[submodule \"x\"]\n\tpath = s\n\turl = {url}\n"))?;
        let id = repository.git(&["hash-object", "-w", "m"])?;
        tree(&format!("100644 blob {id}\t.gitmodules\n160000 commit {}\ts\n", "1".repeat(40)))
    };
    for url in ["/etc", "file:///etc", "ext::sh -c id", "git@example.com:x"] {
        cases.push((modules(url)?, "a submodule at"));
    }
    for (index, (tree, _)) in cases.iter().enumerate() {
        let commit = commit_of(tree)?;
        repository.git(&["update-ref", &format!("refs/heads/bad{index}"), &commit])?;
    }
    let server = Server::start(root.path(), Protocol::Two, None)?;
    let empty = cooper.inputs().join("empty");
    fs::create_dir_all(&empty)?;
    fs::rename(root.path().join("bad"), root.path().join("bad.git"))?;
    for (index, (_, says)) in cases.iter().enumerate() {
        let dockerfile = format!("FROM scratch\nADD {}#bad{index} /r\n", server.url("bad.git"));
        let (output, _) = build(&cooper, &dockerfile, &empty, &[])?;
        ensure!([1, 6].contains(&output.code), "{output:?}");
        output.says(says)?;
    }
    Ok(())
}

// ---- contexts

fn context(cooper: &Cooper) -> Result<PathBuf> {
    let at = cooper.inputs().join("context");
    if at.exists() {
        fs::remove_dir_all(&at)?;
    }
    fs::create_dir_all(&at)?;
    Ok(at)
}

/// Nothing outside of the context is read, however the sources and links are written.
fn links() -> Result<()> {
    let cooper = Cooper::outside()?;
    let at = context(&cooper)?;
    fs::write(cooper.inputs().join("outside"), "outside\n")?;
    fs::create_dir_all(cooper.inputs().join("beside"))?;
    fs::write(cooper.inputs().join("beside/b"), "outside\n")?;
    symlink("../outside", at.join("up"))?;
    symlink("../beside", at.join("updir"))?;
    symlink("/etc/passwd", at.join("absolute"))?;
    symlink("loop2", at.join("loop1"))?;
    symlink("loop1", at.join("loop2"))?;
    fs::create_dir(at.join("d"))?;
    symlink("../..", at.join("d/top"))?;
    // A farm: each directory has links to itself, to its parent and to the root.
    let mut farm = at.join("farm");
    for _ in 0..30 {
        fs::create_dir(&farm)?;
        for (name, target) in [("self", "."), ("parent", ".."), ("root", "/")] {
            symlink(target, farm.join(name))?;
        }
        farm.push("d");
    }
    for source in [
        "up",
        "absolute",
        "updir/b",
        "d/top/../../etc/passwd",
        "../outside",
        "/../../etc/passwd",
        "loop1",
        "farm/self/self/parent/root/etc/passwd",
        "d/top/outside",
    ] {
        let (output, out) = build(&cooper, &format!("FROM scratch\nCOPY {source} /x\n"), &at, &[])?;
        ensure!(output.code == 1, "{source}: {output:?}");
        ensure!(!out.join("x").exists(), "{source} was copied");
    }
    // Copied as a whole, links stay links.
    let (output, out) = build(&cooper, "FROM scratch\nCOPY . /all/\n", &at, &[])?;
    output.ok()?;
    ensure!(fs::read_link(out.join("all/up"))? == Path::new("../outside"), "the link");
    ensure!(fs::read_link(out.join("all/farm/d/d/root"))? == Path::new("/"), "the farm");
    ensure!(fs::read_link(out.join("all/loop1"))? == Path::new("loop2"), "the loop");
    Ok(())
}

fn special_files() -> Result<()> {
    let cooper = Cooper::outside()?;
    let at = context(&cooper)?;
    fs::write(at.join("f"), "f\n")?;
    for (name, words) in [("pipe", &["p"][..]), ("null", &["c", "1", "3"]), ("disk", &["b", "7", "0"])] {
        let path = at.join(name);
        let mut command = process::command("mknod", [path.as_os_str()]);
        process::run(command.args(words))?.ok()?;
    }
    let _socket = std::os::unix::net::UnixListener::bind(at.join("socket"))?;
    let archive = cooper.home().join("out.tar");
    let file = cooper.input("Dockerfile.special", "FROM scratch\nCOPY . /all/\n")?;
    let to = format!("type=tar,dest={}", archive.display());
    let words = [
        OsStr::new("build"),
        OsStr::new("-f"),
        file.as_os_str(),
        OsStr::new("-o"),
        OsStr::new(&to),
        at.as_os_str(),
    ];
    cooper.run(words)?.ok()?;
    let mut kinds = Vec::new();
    for entry in tar::Archive::new(fs::File::open(&archive)?).entries()? {
        let entry = entry?;
        kinds.push((entry.path()?.display().to_string(), entry.header().entry_type().as_byte()));
    }
    kinds.sort();
    let wanted =
        [("all/", b'5'), ("all/disk", b'4'), ("all/f", b'0'), ("all/null", b'3'), ("all/pipe", b'6')];
    ensure!(kinds == wanted.map(|(name, kind)| (name.to_owned(), kind)), "{kinds:?}");
    Ok(())
}

fn names() -> Result<()> {
    let cooper = Cooper::outside()?;
    let at = context(&cooper)?;
    let names = [
        OsString::from_vec(b"caf\xe9".to_vec()),
        OsString::from_vec(vec![b'x'; 255]),
        OsString::from_vec([b"\xff".repeat(254), b"z".to_vec()].concat()),
        OsString::from("new\nline"),
        OsString::from("-rf *"),
        OsString::from("\u{202e}txt"),
    ];
    for name in &names {
        fs::write(at.join(name), name.as_bytes())?;
    }
    let (output, out) = build(&cooper, "FROM scratch\nCOPY . /all/\n", &at, &[])?;
    output.ok()?;
    for name in &names {
        ensure!(fs::read(out.join("all").join(name))? == name.as_bytes(), "{name:?}");
    }
    let (output, out) = build(&cooper, "FROM scratch\nCOPY caf* x* /some/\n", &at, &[])?;
    output.ok()?;
    ensure!(fs::read_dir(out.join("some"))?.count() == 2, "the wildcards");
    Ok(())
}

/// Deeper than a path may be long, and than we go.
fn deep() -> Result<()> {
    let cooper = Cooper::outside()?;
    let at = context(&cooper)?;
    let mut here = at.clone();
    for _ in 0..200 {
        here.push("d");
    }
    fs::create_dir_all(&here)?;
    fs::write(here.join("f"), "deep\n")?;
    build(&cooper, "FROM scratch\nCOPY . /all/\n", &at, &[])?.0.ok()?;
    for _ in 0..400 {
        here.push("d");
    }
    fs::create_dir_all(&here)?;
    build(&cooper, "FROM scratch\nCOPY . /all/\n", &at, &[])?.0.exits(6)?.says("nested deeper")?;
    Ok(())
}

fn unreadable() -> Result<()> {
    let cooper = Cooper::in_pod()?;
    let at = context(&cooper)?;
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
    fs::write(at.join("good"), "1")?;
    fs::write(at.join("closed"), "2")?;
    fs::create_dir(at.join("shut"))?;
    for name in ["closed", "shut"] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(0o0))?;
    }
    for (name, dockerfile) in
        [("closed", "FROM scratch\nCOPY closed /x\n"), ("shut", "FROM scratch\nCOPY shut /x\n")]
    {
        let (output, _) = build(&cooper, dockerfile, &at, &[])?;
        ensure!(output.code == 1, "{output:?}");
        output.says(&format!("context/{name}`"))?.says("ermission denied")?.says(".dockerignore")?;
    }
    // What is not used, or is excluded, need not be readable.
    build(&cooper, "FROM scratch\nCOPY good /x\n", &at, &[])?.0.ok()?;
    fs::write(at.join(".dockerignore"), "closed\nshut\n")?;
    build(&cooper, "FROM scratch\nCOPY . /x\n", &at, &[])?.0.ok()?;
    Ok(())
}

/// A build while somebody writes has some state of the file or says so; the next one has the last state.
fn changing() -> Result<()> {
    let cooper = Cooper::outside()?;
    let at = context(&cooper)?;
    let path = at.join("f");
    fs::write(&path, "start")?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, path) = (Arc::clone(&stop), path.clone());
        move || -> Result<()> {
            let mut size = 1;
            while !stop.load(Ordering::SeqCst) {
                size = size * 7 % 3_000_017;
                fs::write(&path, vec![b'a' + (size % 26) as u8; size])?;
            }
            Ok(fs::write(&path, "end")?)
        }
    });
    for _ in 0..5 {
        let (output, out) = build(&cooper, "FROM scratch\nCOPY f /f\n", &at, &[])?;
        if output.code == 0 {
            ensure!(fs::metadata(out.join("f"))?.is_file(), "no file");
        } else {
            ensure!(output.code == 1, "{output:?}");
            output.says("context/f`")?;
        }
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let (output, out) = build(&cooper, "FROM scratch\nCOPY f /f\n", &at, &[])?;
    output.ok()?;
    ensure!(text(out.join("f"))? == "end", "an old state of the file");
    Ok(())
}

fn many() -> Result<()> {
    let cooper = Cooper::outside()?;
    let at = context(&cooper)?;
    for directory in 0..100 {
        let directory = at.join(format!("d{directory}"));
        fs::create_dir(&directory)?;
        for file in 0..200 {
            fs::write(directory.join(format!("f{file}")), format!("{file}"))?;
        }
    }
    let (output, out) = build(&cooper, "FROM scratch\nCOPY . /all/\n", &at, &[])?;
    output.ok()?;
    ensure!(text(out.join("all/d99/f199"))? == "199", "the last file");
    fs::write(at.join("d50/f50"), "50")?;
    fs::write(at.join("d51/f51"), "changed")?;
    let (output, out) = build(&cooper, "FROM scratch\nCOPY . /all/\n", &at, &[])?;
    output.ok()?;
    ensure!(text(out.join("all/d51/f51"))? == "changed", "the changed file");
    Ok(())
}

// ---- secrets

/// Every byte that a build with secrets leaves is searched for them: the store with what is in its blobs, outputs of
/// all kinds, caches, the log, the metadata.
fn secrets() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let mut random = [0; 24];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = cooper.input("secret", &secret)?;
    let at = context(&cooper)?;
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E \
        test \"$(cat /run/secrets/s)\" = \"$E\" && wc -c </run/secrets/s >/length && ls -l /run/secrets >/listing\n\
        RUN --mount=type=secret,id=s,target=/root/.netrc --mount=type=cache,target=/cache \
        wc -c /root/.netrc >/cache/n; cp /cache/n /n\n";
    let recipe = cooper.input("Dockerfile.secret", dockerfile)?;
    let results = cooper.home().join("results");
    fs::create_dir_all(&results)?;
    let to = |name: &str| results.join(name).display().to_string();
    let words = [
        "build".to_owned(),
        "--progress=plain".to_owned(),
        "--verbose".to_owned(),
        "--verbose".to_owned(),
        "-f".to_owned(),
        recipe.display().to_string(),
        format!("--secret=id=s,src={}", file.display()),
        "--secret=id=e,env=SECRET".to_owned(),
        "-t".to_owned(),
        "secret:test".to_owned(),
        format!("--metadata-file={}", to("metadata")),
        format!("--iidfile={}", to("iid")),
        format!("--cache-to=type=local,dest={},mode=max,mounts=true", to("cache")),
        "--load".to_owned(),
        "-o".to_owned(),
        format!("type=oci,dest={}", to("image.tar")),
        "-o".to_owned(),
        format!("type=local,dest={}", to("files")),
        at.display().to_string(),
    ];
    let output = process::run(&mut cooper.on_store_with(&[("SECRET", &secret)], words)?)?.ok()?;
    ensure!(text(results.join("files/length"))?.trim() == "48", "the steps have not seen the secret");
    fs::write(results.join("log"), [output.stdout, output.stderr].concat())?;
    // A failing step shows its last lines; the secret is not in what we add to them.
    let failing =
        cooper.input("Dockerfile.failing", "FROM busybox\nRUN --mount=type=secret,id=s,env=S false\n")?;
    let flag = format!("--secret=id=s,src={}", file.display());
    let words =
        [OsStr::new("build"), OsStr::new("-f"), failing.as_os_str(), OsStr::new(&flag), at.as_os_str()];
    let output = cooper.run(words)?.exits(1)?;
    fs::write(results.join("log2"), [output.stdout, output.stderr].concat())?;
    let forms = [
        secret.clone().into_bytes(),
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(&secret).into_bytes(),
    ];
    let mut searched = 0;
    for root in [cooper.store(), results] {
        search(&root, &forms, &mut searched)?;
    }
    ensure!(searched > 1 << 20, "only {searched} bytes were searched");
    // The search finds what is there.
    fs::write(cooper.home().join("proof.gz"), gzipped(&secret)?)?;
    ensure!(search(&cooper.home().join("proof.gz"), &forms, &mut searched).is_err(), "the search is blind");
    Ok(())
}

// ---- what steps are given

/// A program that says "ping" to the socket of the variable, twice over one connection, and prints the answers.
const CLIENT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strncpy(to.sun_path, getenv("SSH_AUTH_SOCK"), sizeof to.sun_path - 1);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to)) { perror("connect"); return 1; }
    for (int i = 0; i < 2; i++) {
        char answer[64];
        if (write(s, "ping", 4) != 4) return 2;
        ssize_t n = read(s, answer, sizeof answer - 1);
        if (n <= 0) return 3;
        answer[n] = 0;
        puts(answer);
    }
    return 0;
}
"#;

fn agent() -> Result<()> {
    use std::io::Write;
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let at = context(&cooper)?;
    let source = cooper.input("client.c", CLIENT)?;
    let mut compiler = process::command("gcc", ["-static", "-O1", "-o"]);
    process::run(compiler.arg(at.join("client")).arg(&source))?.ok()?;
    let socket = cooper.inputs().join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut heard = [0; 4];
            while stream.read_exact(&mut heard).is_ok() {
                drop(stream.write_all(&[&heard[..], b"-pong"].concat()));
            }
        }
    });
    let dockerfile = "FROM busybox\nCOPY client /client\nUSER 5:6\nRUN --mount=type=ssh,uid=5,gid=6 \
        echo $SSH_AUTH_SOCK && stat -c '%a %u:%g %F' $SSH_AUTH_SOCK && /client\n\
        USER root\nRUN --mount=type=ssh,id=other,target=/root/agent,mode=0666 ls -l /root/agent && /client\n\
        RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit && test ! -e /root/agent\n";
    let given = |id: &str| format!("--ssh={id}={}", socket.display());
    let (output, out) = build(&cooper, dockerfile, &at, &[&given("default"), &given("other")])?;
    let output = output.ok()?;
    for text in ["/run/buildkit/ssh_agent.0", "600 5:6 socket", "ping-pong"] {
        ensure!(output.errors().contains(text), "no `{text}`\n{output:?}");
    }
    ensure!(
        !out.join("run/buildkit").exists() && !out.join("root/agent").exists(),
        "the socket is in the image"
    );
    // Not given: skipped, or an error where it is required; a key file is refused by name.
    let asks = |flags: &str| format!("FROM busybox\nRUN --mount=type=ssh{flags} test ! -e $SSH_AUTH_SOCK\n");
    build(&cooper, &asks(""), &at, &[])?.0.ok()?;
    build(&cooper, &asks(",required=true"), &at, &[])?
        .0
        .exits(1)?
        .says("requires the SSH agent `default`")?;
    let key = format!("--ssh=default={}", source.display());
    build(&cooper, &asks(""), &at, &[&key])?.0.exits(2)?.says("key file")?;
    build(&cooper, &asks(""), &at, &["--ssh=default"])?.0.exits(2)?.says("SSH_AUTH_SOCK")?;
    Ok(())
}

fn limits() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let at = context(&cooper)?;
    let dockerfile = "FROM busybox\nRUN ulimit -n >/a; ulimit -Hn >>/a; ulimit -s >>/a; ulimit -c >>/a; ulimit -t >>/a; \
        ulimit -f >>/a; df -k /dev/shm | tail -n 1 | awk '{print $2}' >>/a\n\
        RUN ! head -c 9000 /dev/zero >/b\n";
    let flags = [
        "--ulimit=nofile=100:200",
        "--ulimit=stack=1048576",
        "--ulimit=core=0",
        "--ulimit=cpu=500",
        "--ulimit=fsize=8192",
        "--shm-size=3m",
    ];
    let (output, out) = build(&cooper, dockerfile, &at, &flags)?;
    output.ok()?;
    let found = text(out.join("a"))?;
    ensure!(found == "100\n200\n1024\n0\n500\n16\n3072\n", "{found}");
    ensure!(fs::metadata(out.join("b"))?.len() == 8192, "the size of files");
    for (flag, says) in [
        ("nice=1", "--ulimit nice"),
        ("core=1", "--ulimit core"),
        ("x=1", "no such limit"),
        ("cpu=2:1", "above"),
    ] {
        build(&cooper, dockerfile, &at, &["--ulimit", flag])?.0.exits(2)?.says(says)?;
    }
    Ok(())
}

fn gzipped(text: &str) -> Result<Vec<u8>> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes())?;
    Ok(encoder.finish()?)
}

/// Searches files as they are, decompressed, and what is in archives.
fn search(at: &Path, forms: &[Vec<u8>], searched: &mut u64) -> Result<()> {
    let metadata = fs::symlink_metadata(at)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(at)? {
            search(&entry?.path(), forms, searched)?;
        }
    } else if metadata.is_file() {
        search_bytes(&fs::read(at)?, &at.display().to_string(), forms, searched, 0)?;
    }
    Ok(())
}

fn search_bytes(bytes: &[u8], name: &str, forms: &[Vec<u8>], searched: &mut u64, depth: usize) -> Result<()> {
    *searched += bytes.len() as u64;
    for form in forms {
        let found = bytes.windows(form.len()).position(|window| window == form.as_slice());
        ensure!(found.is_none(), "the secret is in {name}");
    }
    if depth == 4 {
        return Ok(());
    }
    let mut plain = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain)?;
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        plain = zstd::decode_all(bytes)?;
    } else if bytes.get(257..262) == Some(b"ustar") {
        for entry in tar::Archive::new(bytes).entries()? {
            let mut entry = entry?;
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            search_bytes(&contents, name, forms, searched, depth + 1)?;
        }
        return Ok(());
    } else {
        return Ok(());
    }
    search_bytes(&plain, name, forms, searched, depth + 1)
}
