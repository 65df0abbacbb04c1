//! Transcripts of the command line: every file in `tests/data/cli`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use cooper_tests::bases::Base;
use cooper_tests::cooper::Cooper;
use cooper_tests::machine::Need;
use cooper_tests::suite::{self, Case, case};
use cooper_tests::transcript;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cli");
    let mut cases: Vec<Case> = match fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().filter_map(|entry| of_file(&entry.path())).collect(),
        Err(error) => vec![case("the folder", &[], move || anyhow::bail!("tests/data/cli: {error}"))],
    };
    cases.push(case("the binary is static", &[Need::Cooper], is_static));
    let script = Need::Program { name: "script", package: "bsdutils" };
    cases.push(case("run at a terminal", &[Need::Cooper, Need::BUSYBOX, script], at_a_terminal));
    suite::main("cli", cases)
}

/// A transcript whose name starts with `base-` has the small base in its store.
fn of_file(path: &Path) -> Option<Case> {
    let name = path.file_stem()?.to_str()?.to_owned();
    let with_base = name.starts_with("base-");
    let needs = if with_base { vec![Need::Cooper, Need::BUSYBOX] } else { vec![Need::Cooper] };
    let path = path.to_owned();
    Some(case(name, &needs, move || {
        let cooper = Cooper::outside()?;
        if with_base {
            cooper.load_base(Base::Busybox)?;
        }
        transcript::run(&fs::read_to_string(&path)?, &cooper)
    }))
}

/// `script` gives cooper a terminal; the command has one of its own, of the same size, and the outer one is as before.
fn at_a_terminal() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let run = |options: &str, command: &str| {
        format!(
            "'{}' run --store '{}' {options} busybox:latest sh -c \"{command}\"",
            cooper.program().display(),
            cooper.store().display()
        )
    };
    let inner =
        "test -t 0 && test -t 1 && test -t 2 && stty size && tty && read word && echo got $word; exit 3";
    let inner = inner.replace('$', "\\$");
    fs::write(
        cooper.inputs().join("session"),
        format!("stty rows 33 cols 77\n{}\necho code $?\nstty -a\n", run("-it", &inner)),
    )?;
    let session = cooper.inputs().join("session");
    let shown =
        cooper.shell(&format!("echo typed | script -qec 'sh {}' /dev/null", session.display()))?.ok()?.text();
    for wanted in ["33 77", "/dev/pts/0", "got typed", "code 3", " icanon", " echo "] {
        anyhow::ensure!(shown.contains(wanted), "no `{wanted}` in:\n{shown}");
    }
    // Without a terminal it is refused to insist on one.
    cooper.run(["run", "-t", "busybox:latest", "true"])?.says("--tty").map(drop)
}

/// No program header asks for a loader (PT_INTERP) or for libraries (PT_DYNAMIC with DT_NEEDED): nothing is loaded at run time.
fn is_static() -> Result<()> {
    let bytes = fs::read(cooper_tests::cooper::binary()?)?;
    let number = |at: usize, size: usize| {
        bytes[at..at + size].iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    const PT_INTERP: usize = 3;
    let interpreters = (0..count).filter(|n| number(table + n * size, 4) == PT_INTERP).count();
    anyhow::ensure!(interpreters == 0, "the binary asks for a loader");
    Ok(())
}
