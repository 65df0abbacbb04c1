//! Whatever comes in, an answer comes out: every target over its stored seeds and their mutations.

use std::process::ExitCode;

use cooper_tests::fuzz::{self, targets::TARGETS};
use cooper_tests::suite::{self, case};

fn main() -> ExitCode {
    let cases = TARGETS.iter().map(|target| case(target.name, &[], || fuzz::run(target))).collect();
    suite::main("fuzz", cases)
}
