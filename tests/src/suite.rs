//! Runs the cases of a suite and prints what came of them, in the form of the standard test harness.
//!
//! The standard harness cannot skip at run time, so these suites have their own `main`. It understands what `cargo
//! test` and `cargo nextest` pass on: name filters, `--exact`, `--list`, `--test-threads`, `--skip`. The last line is
//! the standard one, with skipped cases counted as ignored, and every skipped case names its reason.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Result;

use crate::machine::{self, Need};

/// One case of a suite.
#[allow(missing_debug_implementations, reason = "holds a closure")]
pub struct Case {
    name: String,
    needs: Vec<Need>,
    slow: bool,
    run: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

/// A case with what it needs of the machine.
pub fn case(
    name: impl Into<String>,
    needs: &[Need],
    run: impl Fn() -> Result<()> + Send + Sync + 'static,
) -> Case {
    Case { name: name.into(), needs: needs.to_vec(), slow: false, run: Box::new(run) }
}

impl Case {
    /// Marks a case that only the full run takes.
    #[must_use]
    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }
}

/// What came of a case.
enum Verdict {
    Passed,
    /// Failed, as `known-failures.txt` says it does.
    Known(String),
    Skipped(String),
    Failed(String),
}

/// What the command line asks for.
#[derive(Default)]
struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
    threads: Option<usize>,
}

/// Runs a suite; `name` is the file's name, for `known-failures.txt`.
pub fn main(name: &str, cases: Vec<Case>) -> ExitCode {
    let options = options(std::env::args().skip(1));
    let chosen: Vec<&Case> = cases.iter().filter(|case| options.takes(&case.name)).collect();
    if options.list {
        if !options.ignored_only {
            chosen.iter().for_each(|case| println!("{}: test", case.name));
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let known = known_failures(name);
    let start = Instant::now();
    let verdicts = run_all(&chosen, &known, options.threads());
    summary(&chosen, &verdicts, cases.len() - chosen.len(), start)
}

impl Options {
    fn takes(&self, name: &str) -> bool {
        let hit =
            |pattern: &String| if self.exact { name == pattern } else { name.contains(pattern.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skips.iter().any(hit)
    }

    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Options {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--exact" => options.exact = true,
            "--list" => options.list = true,
            "--ignored" => options.ignored_only = true,
            "--skip" => options.skips.extend(arguments.next()),
            "--test-threads" => options.threads = arguments.next().and_then(|n| n.parse().ok()),
            "--format" | "--color" | "--logfile" | "-Z" => drop(arguments.next()),
            other if other.starts_with("--test-threads=") => {
                options.threads = other.split_once('=').and_then(|(_, n)| n.parse().ok());
            }
            other if other.starts_with('-') => {}
            filter => options.filters.push(filter.to_owned()),
        }
    }
    options
}

fn run_all(cases: &[&Case], known: &BTreeMap<String, String>, threads: usize) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(cases.iter().map(|_| None).collect::<Vec<Option<Verdict>>>());
    thread::scope(|scope| {
        for _ in 0..threads.max(1).min(cases.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { break };
                    let verdict = judge(case, known.get(&case.name));
                    println!("test {} ... {}", case.name, verdict.word());
                    if let Ok(mut all) = verdicts.lock() {
                        all[at] = Some(verdict);
                    }
                }
            });
        }
    });
    let lost = || Verdict::Failed("the case gave no verdict".to_owned());
    verdicts.into_inner().unwrap_or_default().into_iter().map(|v| v.unwrap_or_else(lost)).collect()
}

fn judge(case: &Case, known: Option<&String>) -> Verdict {
    if case.slow && !machine::is_full() {
        return Verdict::Skipped("slow: tests/run --full".to_owned());
    }
    if let Some(why) = case.needs.iter().find_map(|need| need.missing()) {
        return if machine::is_ci() {
            Verdict::Failed(format!("in CI nothing may be skipped: {why}"))
        } else {
            Verdict::Skipped(why)
        };
    }
    let result = catch_unwind(AssertUnwindSafe(&case.run));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(panic) => Some(panic_text(panic.as_ref())),
    };
    match (failure, known) {
        (None, None) => Verdict::Passed,
        (None, Some(why)) => {
            Verdict::Failed(format!("passes, but known-failures.txt lists it ({why}): take it out"))
        }
        (Some(_), Some(why)) => Verdict::Known(why.clone()),
        (Some(text), None) => Verdict::Failed(text),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

impl Verdict {
    fn word(&self) -> String {
        match self {
            Self::Passed => "ok".to_owned(),
            Self::Known(why) => format!("ok (known failure: {why})"),
            Self::Skipped(why) => format!("ignored, {why}"),
            Self::Failed(_) => "FAILED".to_owned(),
        }
    }
}

fn summary(cases: &[&Case], verdicts: &[Verdict], filtered: usize, start: Instant) -> ExitCode {
    let count = |wanted: fn(&Verdict) -> bool| verdicts.iter().filter(|v| wanted(v)).count();
    let passed = count(|v| matches!(v, Verdict::Passed | Verdict::Known(_)));
    let skipped = count(|v| matches!(v, Verdict::Skipped(_)));
    let failed = count(|v| matches!(v, Verdict::Failed(_)));
    if failed > 0 {
        println!("\nfailures:\n");
        for (case, verdict) in cases.iter().zip(verdicts) {
            if let Verdict::Failed(text) = verdict {
                println!("---- {} ----\n{text}\n", case.name);
            }
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// The cases of a suite that `known-failures.txt` lists, with the reason given there.
fn known_failures(suite: &str) -> BTreeMap<String, String> {
    let text = include_str!("../known-failures.txt");
    parse_known_failures(text, suite)
}

/// Lines `suite::case  reason`; `#` starts a comment.
fn parse_known_failures(text: &str, suite: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once("::"))
        .filter(|(of, _)| of.trim() == suite)
        .filter_map(|(_, rest)| rest.split_once("  "))
        .map(|(case, why)| (case.trim().to_owned(), why.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(known: Option<&str>, run: impl Fn() -> Result<()> + Send + Sync + 'static) -> String {
        judge(&case("x", &[], run), known.map(str::to_owned).as_ref()).word()
    }

    #[test]
    fn a_case_passes_fails_or_is_known_to_fail() {
        assert_eq!(verdict(None, || Ok(())), "ok");
        assert_eq!(verdict(None, || anyhow::bail!("no")), "FAILED");
        assert_eq!(verdict(None, || panic!("no")), "FAILED");
        assert_eq!(verdict(Some("why"), || anyhow::bail!("no")), "ok (known failure: why)");
    }

    #[test]
    fn a_known_failure_that_passes_fails() {
        assert_eq!(verdict(Some("why"), || Ok(())), "FAILED");
    }

    #[test]
    fn known_failures_are_read_per_suite() {
        let known = parse_known_failures("# no\na::one two  because\nb::three  reason\n", "a");
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [("one two".to_owned(), "because".to_owned())]);
    }

    #[test]
    fn filters_choose_by_part_or_exactly() {
        let options = options(["par", "--skip", "parted"].map(str::to_owned).into_iter());
        assert!(options.takes("a part") && !options.takes("parted") && !options.takes("other"));
    }
}
