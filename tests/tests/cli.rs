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
