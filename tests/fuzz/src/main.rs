//! One target under libFuzzer; `COOPER_FUZZ_TARGET` names it. Start it by `tests/fuzz/run`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use targets::{Check, TARGETS};

#[path = "../../src/fuzz/targets.rs"]
mod targets;

thread_local! {
    static CHECK: Check = make();
}

fn make() -> Check {
    let wanted = std::env::var("COOPER_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == wanted);
    let target = found.unwrap_or_else(|| panic!("no target `{wanted}`"));
    (target.make)().unwrap_or_else(|error| panic!("{wanted}: {error:#}"))
}

fuzz_target!(|bytes: &[u8]| CHECK.with(|check| check(bytes)));
