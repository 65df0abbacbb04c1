//! The fast part of the real-input set, as `tests/real/run` builds all of it.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cooper_tests::cooper::Place;
use cooper_tests::machine::Need;
use cooper_tests::real::{self, Peer};
use cooper_tests::suite::{self, case};

fn main() -> ExitCode {
    let needs = [Need::Cooper, Need::Pod, Need::Debian];
    let cases = vec![
        case("the whole set can be read", &[], || real::all().map(drop)),
        case("base: Debian's own tools", &needs, || build("base", 0)),
        case("make: a C project whose program runs natively", &needs, || build("make", 1)),
    ];
    suite::main("real", cases)
}

/// Builds one in the pod; so many programs have to run natively.
fn build(name: &str, programs: usize) -> Result<()> {
    let real = real::all()?.into_iter().find(|real| real.name == name).context("a folder of the set")?;
    let outcome = real.run(Place::Pod, Peer::Left)?;
    ensure!(outcome.native == programs, "{} programs ran natively", outcome.native);
    Ok(())
}
