//! The binary as its users meet it: results on stdout, talk on stderr, exit codes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

struct Bench(TempDir);

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        bench.file("ctx/Dockerfile", "FROM scratch\nCOPY hello.txt /\nCMD [\"/hello.txt\"]\n");
        bench.file("ctx/hello.txt", "hello\n");
        bench
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A command without anything of the environment but a store.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cooper"));
        command.args(arguments).current_dir(self.path()).env_clear().env("COOPER_STORE", "store");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        said(&self.command(arguments).output().unwrap())
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        said(&child.wait_with_output().unwrap())
    }
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_build_prints_its_digest_only_when_quiet() {
    let bench = Bench::new();
    let loud = bench.run(&["build", "-t", "quick:1", "ctx"]);
    assert_eq!((loud.code, loud.out.as_str()), (0, ""), "{}", loud.err);
    assert!(loud.err.contains("[2/2] COPY hello.txt /"), "{}", loud.err);
    let quiet = bench.run(&["build", "-q", "--iidfile", "iid", "--metadata-file", "meta", "ctx"]);
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""));
    let digest = quiet.out.trim();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    assert_eq!(fs::read_to_string(bench.path().join("iid")).unwrap(), digest);
    let metadata: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path().join("meta")).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest);
    // The same inputs in another store give the same image.
    let again = bench.run(&["build", "-q", "--store", "other", "ctx"]);
    assert_eq!(again.out.trim(), digest);
    assert!(bench.run(&["images"]).out.contains("quick:1"));
}

#[test]
fn exit_codes_say_what_failed() {
    let bench = Bench::new();
    bench.file("bad", "FROM scratch\nRUM x\n").file("missing", "FROM scratch\nCOPY nope /\n");
    let check = |arguments: &[&str], code: i32, part: &str| {
        let said = bench.run(arguments);
        assert_eq!(said.code, code, "{arguments:?}: {}", said.err);
        assert!(
            said.err.contains(part) || said.out.contains(part),
            "{arguments:?}: {}{}",
            said.out,
            said.err
        );
    };
    check(&["build", "-f", "bad", "ctx"], 1, "did you mean `RUN`?");
    check(
        &["build", "-f", "missing", "ctx"],
        1,
        "`/nope` is not in the source of the copy\n --> missing:2:1",
    );
    check(&["build", "--check", "-f", "bad", "ctx"], 3, "unknown instruction `RUM`");
    check(&["build", "--check", "ctx"], 0, "no findings");
    check(&["build", "--nope", "ctx"], 2, "--nope");
    check(&["build", "absent"], 2, "cannot use the context `absent`");
    check(&["build", "-f", "absent", "ctx"], 2, "there is no Dockerfile `absent`");
    check(&["build", "--target", "x", "ctx"], 2, "no stage `x`");
    check(&["build", "-t", "UPPER", "ctx"], 2, "invalid --tag `UPPER`");
    check(&["pull", "127.0.0.1:1/x"], 5, "cannot pull `127.0.0.1:1/x:latest`");
    check(&["run", "--nope", "x"], 125, "--nope");
    check(&["run", "127.0.0.1:1/x", "true"], 125, "cannot pull");
    check(&["inspect", "absent"], 2, "the store has no image `absent`");
    check(&["frobnicate"], 2, "frobnicate");
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let bench = Bench::new();
    for (flag, value) in [
        ("--ssh", "default"),
        ("--cache-from", "type=gha"),
        ("--cache-to", "type=s3,bucket=x"),
        ("--provenance", "true"),
        ("--sbom", "true"),
        ("--output", "type=squash,dest=x"),
        ("--secret", "id=x,kind=y"),
        ("--build-context", "x=nope://y"),
        ("--ulimit", "files=1"),
        ("--annotation", "index:a=b"),
    ] {
        let said = bench.run(&["build", flag, value, "ctx"]);
        assert_eq!(said.code, 2, "{flag}: {}", said.err);
        assert!(said.err.contains(flag), "{flag}: {}", said.err);
    }
    let said = bench.run(&["build", "git@example.com:x.git"]);
    assert!(said.code == 2 && said.err.contains("a git repository by SSH"), "{}", said.err);
    let said = bench.run(&["build", "--ssh", "default=ctx/Dockerfile", "ctx"]);
    assert!(said.code == 2 && said.err.contains("key file"), "{}", said.err);
    assert_eq!(bench.run(&["build", "--provenance=false", "--sbom=false", "-q", "ctx"]).code, 0);
}

#[test]
fn contexts_and_dockerfiles_come_from_stdin() {
    let bench = Bench::new();
    let plain = bench.run(&["build", "-q", "ctx"]);
    let said = bench.run_with(
        &["build", "-q", "-f", "-", "ctx"],
        &fs::read(bench.path().join("ctx/Dockerfile")).unwrap(),
    );
    assert_eq!(said.out, plain.out, "{}", said.err);
    let said = bench.run_with(&["build", "-q", "-"], b"FROM scratch\nCOPY <<x /\ny\nx\n");
    assert_eq!(said.code, 0, "{}", said.err);
    // What `-o -` writes is a tar, and a tar is a context.
    bench.file("ctx/whole", "FROM scratch\nCOPY . /\n");
    let tar = bench.command(&["build", "-f", "ctx/whole", "-o", "-", "ctx"]).output().unwrap().stdout;
    let said = bench.run_with(&["build", "-q", "-"], &tar);
    assert_eq!(said.code, 0, "{}", said.err);
    let said = bench.run_with(&["build", "-q", "-f", "absent", "-"], &tar);
    assert!(said.code == 2 && said.err.contains("no `absent` in the context"), "{}", said.err);
}

#[test]
fn outputs_hold_the_result() {
    let bench = Bench::new();
    let said = bench.run(&[
        "build",
        "-t",
        "a:1",
        "-o",
        "local",
        "-o",
        "type=oci,dest=layout,tar=false",
        "-o",
        "type=oci,dest=oci.tar",
        "-o",
        "type=docker,dest=docker.tar",
        "-o",
        "type=tar,dest=root.tar",
        "ctx",
    ]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(fs::read_to_string(bench.path().join("local/hello.txt")).unwrap(), "hello\n");
    for input in ["layout", "oci.tar", "docker.tar"] {
        let said = bench.run(&["load", "--store", "fresh", "-i", input]);
        assert_eq!((said.code, said.out.as_str()), (0, "a:1\n"), "{input}: {}", said.err);
    }
    // Nothing of a failed export is left.
    let said = bench.run(&["build", "-o", "type=tar,dest=absent/x.tar", "ctx"]);
    assert_eq!(said.code, 1, "{}", said.err);
    let names: Vec<String> =
        fs::read_dir(bench.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("partial")), "{names:?}");
}

#[test]
fn names_are_given_saved_and_removed() {
    let bench = Bench::new();
    bench.run(&["build", "-t", "a:1", "ctx"]);
    assert_eq!(bench.run(&["tag", "a:1", "b:2"]).code, 0);
    let digests = bench.run(&["images", "-q"]).out;
    let lines: Vec<&str> = digests.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{digests}");
    let inspected: serde_json::Value = serde_json::from_str(&bench.run(&["inspect", lines[0]]).out).unwrap();
    assert_eq!(inspected[0]["config"]["config"]["Cmd"][0], "/hello.txt");
    for (format, path) in [("docker", "d.tar"), ("oci", "o.tar"), ("oci-dir", "o")] {
        let said = bench.run(&["save", "--format", format, "-o", path, "a:1", "b:2"]);
        assert_eq!(said.code, 0, "{}", said.err);
        let said = bench.run(&["load", "--store", format, "-i", path]);
        assert!(said.out.contains("a:1") && said.out.contains("b:2"), "{format}: {}{}", said.out, said.err);
    }
    assert_eq!(bench.run(&["rmi", "a:1", "b:2"]).out, "a:1\nb:2\n");
    assert_eq!(bench.run(&["rmi", "a:1"]).code, 2);
    assert_eq!(bench.run(&["prune", "--all"]).code, 0);
    assert_eq!(bench.run(&["images", "-q"]).out, "");
}

#[test]
fn the_store_is_found_without_a_home() {
    let bench = Bench::new();
    let build = |variables: &[(&str, &str)]| {
        let mut command = bench.command(&["build", "-q", "ctx"]);
        command.env_remove("COOPER_STORE").envs(variables.iter().copied());
        said(&command.output().unwrap())
    };
    let at = |name: &str| bench.path().join(name).display().to_string();
    fs::create_dir(bench.path().join("tmp")).unwrap();
    bench.file("readonly", "a file is no home");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("XDG_CACHE_HOME", &at("xdg")), ("HOME", &at("home"))], "xdg/cooper"),
        (&[("HOME", &at("home"))], "home/.cache/cooper"),
    ];
    for (variables, place) in cases {
        let said = build(variables);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(bench.path().join(place).is_dir(), "{place}");
    }
    for home in [None, Some(at("readonly"))] {
        let mut variables = vec![("TMPDIR".to_owned(), at("tmp"))];
        variables.extend(home.map(|home| ("HOME".to_owned(), home)));
        let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let said = build(&variables);
        assert_eq!(said.code, 0, "{}", said.err);
        let made: Vec<_> = fs::read_dir(bench.path().join("tmp")).unwrap().collect();
        assert_eq!(made.len(), 1);
        fs::remove_dir_all(made[0].as_ref().unwrap().path()).unwrap();
    }
    // A store that was named must work.
    let said = build(&[("COOPER_STORE", &at("readonly")), ("HOME", &at("home"))]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("--store"), "{}", said.err);
}

#[test]
fn secrets_are_in_no_output_and_not_in_the_store() {
    let bench = Bench::new();
    bench.file("key", "very-secret-canary").file("ctx/D", "FROM scratch\nRUN --mount=type=secret,id=key x\n");
    let said = bench.run(&["build", "--secret", "id=key,src=key", "-f", "ctx/D", "ctx"]);
    assert_ne!(said.code, 0);
    assert!(!said.err.contains("canary") && !said.out.contains("canary"));
    fn search(directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                search(&path);
            } else {
                let bytes = fs::read(&path).unwrap();
                assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", path.display());
            }
        }
    }
    search(&bench.path().join("store"));
}

#[test]
fn the_system_calls_are_listed() {
    let said = Bench::new().run(&["syscalls"]);
    assert!(said.out.lines().any(|line| line.starts_with("0 ") && line.contains("read")), "{}", said.out);
}

#[test]
fn progress_can_be_json() {
    let bench = Bench::new();
    let said = bench.run(&["build", "--progress", "rawjson", "ctx"]);
    assert_eq!(said.code, 0);
    let events: Vec<serde_json::Value> =
        said.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["event"], "planned");
    assert!(events.iter().any(|event| event["event"] == "finished" && event["result"] == "done"));
    assert_eq!(bench.run(&["build", "--progress", "quiet", "ctx"]).err, "");
}
