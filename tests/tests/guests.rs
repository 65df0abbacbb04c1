//! Every guest program, natively and then in Cooper, in four variants of compiler and linking: the same output.

use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use cooper_tests::cooper::Cooper;
use cooper_tests::guests::{self, PROGRAMS, Runs, Variant};
use cooper_tests::machine::Need;
use cooper_tests::suite::{self, Case, case};

fn main() -> ExitCode {
    let mut cases = vec![case("every program is listed", &[], every_program_is_listed)];
    for variant in Variant::ALL {
        for &(program, runs) in PROGRAMS {
            if runs != Runs::InCooper {
                cases.push(compared(program, runs, variant));
            }
        }
        cases.push(in_cooper(variant, "cpu"));
    }
    suite::main("guests", cases)
}

fn every_program_is_listed() -> Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(guests::sources())? {
        let name = entry?.file_name().into_string().ok().context("a source with an odd name")?;
        found.extend(name.strip_suffix(".c").map(str::to_owned));
    }
    found.sort();
    let listed: Vec<&str> = PROGRAMS.iter().map(|&(program, _)| program).collect();
    ensure!(found == listed, "tests/guests holds {found:?}, the harness lists {listed:?}");
    Ok(())
}

fn needs(runs: Runs, variant: Variant) -> Vec<Need> {
    let root = (runs == Runs::AsRoot).then_some(Need::Root);
    variant.needs().iter().copied().chain(root).chain([Need::Cooper]).collect()
}

/// Programs run under a shell, because process 1 is not like others: signals do not end it and orphans become its.
fn compared(program: &'static str, runs: Runs, variant: Variant) -> Case {
    case(format!("{}/{program}", variant.name()), &needs(runs, variant), move || {
        let native = guests::natively(&guests::compile(program, variant)?)?.ok()?;
        let guest = in_store(variant)?.run([
            "run",
            REFERENCE,
            "/bin/sh",
            "-c",
            &format!("/guests/{program}; exit $?"),
        ])?;
        if guest.code == native.code && guest.stdout == native.stdout {
            return Ok(());
        }
        bail!("{}\n{guest:?}", differences(&native.text(), &guest.text()))
    })
}

/// A program whose every line has to be `ok`.
fn in_cooper(variant: Variant, program: &'static str) -> Case {
    case(format!("{}/{program}", variant.name()), &needs(Runs::InCooper, variant), move || {
        let out = in_store(variant)?
            .run(["run", REFERENCE, "/bin/sh", "-c", &format!("/guests/{program}; exit $?")])?
            .ok()?;
        let bad: Vec<_> =
            out.text().lines().filter(|line| !line.ends_with(": ok")).map(str::to_owned).collect();
        ensure!(bad.is_empty() && !out.stdout.is_empty(), "{bad:?}\n{out:?}");
        Ok(())
    })
}

const REFERENCE: &str = "guests:latest";

/// Cooper with the image of a variant in its store, once per variant.
fn in_store(variant: Variant) -> Result<&'static Cooper> {
    static READY: [OnceLock<Result<Cooper, String>>; 4] = [const { OnceLock::new() }; 4];
    let make = || -> Result<Cooper> {
        let cooper = Cooper::outside()?;
        cooper.load(&guests::image(variant)?, REFERENCE)?;
        Ok(cooper)
    };
    let ready = READY[variant as usize].get_or_init(|| make().map_err(|error| format!("{error:#}")));
    ready.as_ref().map_err(|text| anyhow::anyhow!("{text}"))
}

/// The lines that are not the same, natively first.
fn differences(native: &str, guest: &str) -> String {
    const SHOWN: usize = 12;
    let (mut ours, mut theirs) = (native.lines(), guest.lines());
    let mut lines = Vec::new();
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => {
                lines.push(format!("native {}\ncooper {}", a.unwrap_or("(ended)"), b.unwrap_or("(ended)")));
            }
        }
        if lines.len() == SHOWN {
            break;
        }
    }
    lines.join("\n")
}
