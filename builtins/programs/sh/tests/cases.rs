//! The shell against dash, case by case.
//!
//! `tests/cases/*.txt` hold scripts with what dash 0.5.12 wrote, or, where it says `differs`, with what is right and why dash
//! is not the measure. `TOOLBOX_SH_RECORD=/path/to/dash cargo test --test cases` writes the answers of dash again, but for those;
//! `TOOLBOX_SH_UNDER=/path/to/program` runs the cases with another shell.
#![expect(
    clippy::disallowed_methods,
    reason = "a test of a program: its files and environment are the host's"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No case takes this long.
const LIMIT: Duration = Duration::from_secs(60);

/// What a script does that can be seen.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: i32,
    stdout: String,
    stderr: String,
}

struct Case {
    name: String,
    script: String,
    /// Why dash is not the measure.
    differs: Option<String>,
    answer: Answer,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut part = 0;
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.strip_prefix("==== ") {
            let answer = Answer { status: 0, stdout: String::new(), stderr: String::new() };
            cases.push(Case { name: name.trim_end().into(), script: String::new(), differs: None, answer });
            part = 0;
            continue;
        }
        let case = cases.last_mut().expect("a file begins with a case");
        if let Some(section) = line.strip_prefix("---- ") {
            let section = section.trim_end();
            if let Some(status) = section.strip_prefix("status ") {
                case.answer.status = status.parse().expect("a number");
                part = 1;
            } else if section == "stderr" {
                part = 2;
            } else {
                case.differs =
                    Some(section.strip_prefix("differs: ").expect("status, stderr or differs").into());
            }
            continue;
        }
        match part {
            0 => case.script.push_str(line),
            1 => case.answer.stdout.push_str(line),
            _ => case.answer.stderr.push_str(line),
        }
    }
    cases
}

/// A case as the files have it.
fn write(case: &Case, out: &mut String) {
    *out += &format!("==== {}\n{}", case.name, case.script);
    if let Some(reason) = &case.differs {
        *out += &format!("---- differs: {reason}\n");
    }
    *out += &format!("---- status {}\n{}", case.answer.status, case.answer.stdout);
    if !case.answer.stderr.is_empty() {
        *out += &format!("---- stderr\n{}", case.answer.stderr);
    }
}

/// Bytes as text that a file can hold: an output that does not end with a newline says so.
fn readable(bytes: &[u8], directory: &Path) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\n' | b'\t' | b' '..=b'~' => text.push(char::from(*byte)),
            _ => text += &format!("\\x{byte:02x}"),
        }
    }
    let mut text = text.replace(&*directory.to_string_lossy(), "DIR");
    if !text.is_empty() && !text.ends_with('\n') {
        text += "\\c\n";
    }
    // A line of an output is none of the file's.
    text.split_inclusive('\n')
        .map(|line| {
            if line.starts_with("====") || line.starts_with("----") {
                format!("\\{line}")
            } else {
                line.into()
            }
        })
        .collect()
}

fn run(shell: &Path, script: &str) -> Answer {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path().canonicalize().expect("it is there");
    let (work, bin) = (directory.join("w"), directory.join("b"));
    fs::create_dir(&work).expect("created");
    fs::create_dir(&bin).expect("created");
    std::os::unix::fs::symlink(shell, bin.join("sh")).expect("linked");
    let mut child = Command::new(bin.join("sh"))
        .arg0("sh")
        .args(["-c", script.strip_suffix('\n').unwrap_or(script)])
        .current_dir(&work)
        .env_clear()
        .envs([
            ("PATH", format!("{}:/usr/bin:/bin", bin.display())),
            ("HOME", "/home/x".into()),
            ("LC_ALL", "C".into()),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the shell starts");
    let started = Instant::now();
    let mut streams = [
        Box::new(child.stdout.take().expect("piped")) as Box<dyn std::io::Read + Send>,
        Box::new(child.stderr.take().expect("piped")),
    ]
    .map(|mut stream| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("read");
            bytes
        })
    })
    .into_iter();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waited") {
            break status;
        }
        if started.elapsed() > LIMIT {
            child.kill().expect("killed");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut text = || readable(&streams.next().expect("two").join().expect("read"), &directory);
    use std::os::unix::process::ExitStatusExt as _;
    Answer {
        status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: text(),
        stderr: text(),
    }
}

/// Messages of the shell are compared; empty lines in them are not.
fn without_empty_lines(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| *line != "\n").collect()
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).expect("the cases").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn answers_are_those_of_dash() {
    let recorded = std::env::var_os("TOOLBOX_SH_RECORD").map(PathBuf::from);
    let shell = std::env::var_os("TOOLBOX_SH_UNDER")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_sh")), PathBuf::from);
    let mut failures = String::new();
    let mut count = 0;
    for file in files() {
        let mut all = cases(&fs::read_to_string(&file).expect("a text"));
        count += all.len();
        if let Some(dash) = &recorded {
            let mut text = String::new();
            for case in &mut all {
                case.answer = run(if case.differs.is_some() { &shell } else { dash }, &case.script);
                write(case, &mut text);
            }
            fs::write(&file, text).expect("written");
            continue;
        }
        for case in all {
            let mut answer = run(&shell, &case.script);
            if without_empty_lines(&answer.stderr) == without_empty_lines(&case.answer.stderr) {
                answer.stderr.clone_from(&case.answer.stderr);
            }
            if answer != case.answer {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                failures += &format!(
                    "{name}: {}\n{}expected {:?}\n   found {answer:?}\n",
                    case.name, case.script, case.answer
                );
            }
        }
    }
    std::io::stderr().write_all(format!("{count} cases\n").as_bytes()).expect("said");
    assert!(failures.is_empty(), "{failures}");
}
