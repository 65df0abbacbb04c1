//! Every case of `tests/data/conformance`: the result that BuildKit recorded, and another one after a small change.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use cooper_tests::conformance::builder::Builder;
use cooper_tests::conformance::{self, Case, Outcome};
use cooper_tests::machine::Need;
use cooper_tests::suite::{self, case};

fn main() -> Result<ExitCode> {
    let cases = cases().context("the cases cannot be read")?;
    Ok(suite::main("conformance", cases))
}

fn cases() -> Result<Vec<suite::Case>> {
    let needs = [Need::Cooper, Need::BUSYBOX, Need::Root];
    // A machine that cannot make the base skips all cases for its lack, which each of them names.
    let builder = needs.iter().all(|need| need.missing().is_none()).then(Builder::new).transpose()?;
    let builder = Arc::new(builder);
    let mut cases = Vec::new();
    for topic in conformance::topics()? {
        let recordings = conformance::recordings(&topic)?;
        for one in conformance::cases(&topic)? {
            let (builder, recorded) = (Arc::clone(&builder), recordings.get(&one.name).cloned());
            cases.push(case(format!("{topic}: {}", one.name), &needs, move || {
                check(builder.as_ref().as_ref().context("no builder")?, &one, recorded.as_deref())
            }));
        }
    }
    Ok(cases)
}

fn check(builder: &Builder, case: &Case, recorded: Option<&str>) -> Result<()> {
    let expected = Outcome(recorded.context("not recorded: cooper-compare record")?.to_owned());
    let differences = builder.build(&case.plan()?)?.differences(&expected);
    if !differences.is_empty() {
        bail!("{}", differences.join("\n"));
    }
    // The Dockerfile's text is in the history, so a changed text always differs there.
    let about_history = case.name.starts_with("history");
    let compared = |outcome: Outcome| if about_history { outcome } else { outcome.without_history() };
    let mutated = compared(builder.build(&case.mutated()?)?);
    ensure!(!mutated.differences(&compared(expected)).is_empty(), "the small change changes nothing");
    Ok(())
}
