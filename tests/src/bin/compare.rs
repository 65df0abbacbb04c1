//! `cooper-compare`: what real builders make of Dockerfiles.
//!
//! ```text
//! cooper-compare record [PART...]     BuildKit's results of the cases whose `topic: name` has PART in it
//! cooper-compare accept PART...       our own results, for cases whose recording is written by hand: read them!
//! cooper-compare cases [PART...]      cases with BuildKit, buildah and Cooper; the differences
//! cooper-compare diff DIRECTORY...    the same for directories with a Dockerfile
//! ```
//!
//! Needs docker with buildx and its daemon, for `cases` and `diff` buildah too: see `cooper_tests::peers`.
#![allow(clippy::print_stdout, reason = "a program of the host")]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cooper_tests::bases::Base;
use cooper_tests::conformance::{self, Case, Outcome, Prepared, builder::Builder};
use cooper_tests::oci::Image;
use cooper_tests::peers::Peers;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (verb, rest) = arguments.split_first().context("usage: cooper-compare record|accept|cases|diff")?;
    let peers = Peers::find();
    match verb.as_str() {
        "record" => record(&peers, rest)?,
        "accept" => accept(rest)?,
        "cases" => return compare_cases(&peers, rest),
        "diff" => return compare_directories(&peers, rest),
        other => bail!("unknown verb {other}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen(topic: &str, parts: &[String]) -> Result<Vec<Case>> {
    let wanted = |case: &Case| {
        let name = format!("{}: {}", case.topic, case.name);
        parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
    };
    Ok(conformance::cases(topic)?.into_iter().filter(wanted).collect())
}

/// BuildKit's outcome of a case; `None` for cases that are written by hand.
fn recorded(peers: &Peers, case: &Case, below: &Image) -> Result<Option<Outcome>> {
    let plan = case.plan()?;
    if plan.by_hand.is_some() {
        return Ok(None);
    }
    let at = peers.directory()?;
    let prepared = plan.prepare(at.path())?;
    if let Some(method) = &plan.call {
        return peers.call(&prepared, method).map(Some);
    }
    buildkit(peers, &prepared, below).map(Some)
}

fn buildkit(peers: &Peers, prepared: &Prepared, below: &Image) -> Result<Outcome> {
    match peers.buildkit(prepared, &format!("compared-{}:latest", std::process::id()))? {
        Ok(image) => Outcome::of_image(&image, below),
        Err(message) => Ok(Outcome::refused(&message)),
    }
}

fn record(peers: &Peers, parts: &[String]) -> Result<()> {
    let below = peers.saved(Base::Busybox.reference())?;
    for topic in conformance::topics()? {
        let mut recordings = conformance::recordings(&topic)?;
        let (all, wanted) = (conformance::cases(&topic)?, chosen(&topic, parts)?);
        if wanted.is_empty() {
            continue;
        }
        recordings.retain(|name, _| all.iter().any(|case| case.name == *name));
        for case in wanted {
            if let Some(outcome) =
                recorded(peers, &case, &below).with_context(|| format!("{topic}: {}", case.name))?
            {
                let first = outcome.0.lines().next().unwrap_or_default();
                println!("{topic}: {} ... {first}", case.name);
                recordings.insert(case.name, outcome.0);
            }
        }
        conformance::write_recordings(&topic, &recordings)?;
    }
    Ok(())
}

fn accept(parts: &[String]) -> Result<()> {
    let builder = Builder::new()?;
    for topic in conformance::topics()? {
        let mut recordings = conformance::recordings(&topic)?;
        for case in chosen(&topic, parts)? {
            let plan = case.plan()?;
            if plan.by_hand.is_some() {
                let outcome = builder.build(&plan)?;
                println!("== {}\n{}", case.name, outcome.0);
                recordings.insert(case.name, outcome.0);
            }
        }
        conformance::write_recordings(&topic, &recordings)?;
    }
    Ok(())
}

/// How many builds were compared and how many differed, by builder.
#[derive(Default)]
struct Count {
    all: usize,
    buildkit: usize,
    buildah: usize,
}

impl Count {
    fn done(self) -> ExitCode {
        println!(
            "{} compared: {} differ from BuildKit, {} from buildah (without history)",
            self.all, self.buildkit, self.buildah
        );
        if self.buildkit == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn compare(&mut self, peers: &Peers, name: &str, prepared: &Prepared, ours: &Outcome) -> Result<()> {
        let below = peers.saved(Base::Busybox.reference())?;
        self.all += 1;
        let differences = ours.differences(&buildkit(peers, prepared, &below)?);
        let buildah = match peers.buildah(prepared)? {
            Ok(image) => Outcome::of_image(&image, &below)?,
            Err(message) => Outcome::refused(&message),
        };
        let others = ours.without_history().differences(&buildah.without_history());
        self.buildkit += usize::from(!differences.is_empty());
        self.buildah += usize::from(!others.is_empty());
        let word = |lines: &[String]| {
            if lines.is_empty() { "same".to_owned() } else { format!("{} differences", lines.len()) }
        };
        println!("{name}: BuildKit {}, buildah {}", word(&differences), word(&others));
        differences.iter().for_each(|line| println!("    BuildKit {line}"));
        others.iter().for_each(|line| println!("    buildah  {line}"));
        Ok(())
    }
}

fn compare_cases(peers: &Peers, parts: &[String]) -> Result<ExitCode> {
    let builder = Builder::new()?;
    let mut count = Count::default();
    for topic in conformance::topics()? {
        for case in chosen(&topic, parts)? {
            let plan = case.plan()?;
            if plan.call.is_none() && plan.by_hand.is_none() {
                let at = peers.directory()?;
                let prepared = plan.prepare(at.path())?;
                let ours = builder.build_prepared(&prepared, at.path())?;
                count.compare(peers, &format!("{topic}: {}", case.name), &prepared, &ours)?;
            }
        }
    }
    Ok(count.done())
}

fn compare_directories(peers: &Peers, directories: &[String]) -> Result<ExitCode> {
    let builder = Builder::new()?;
    let mut count = Count::default();
    for directory in directories {
        let at = peers.directory()?;
        let unique = at.path().file_name().context("a directory has a name")?;
        let context = at.path().join(unique);
        cooper_tests::cooper::copy_directory(Path::new(directory), &context)?;
        let dockerfile = context.join("Dockerfile");
        let prepared = Prepared { context, dockerfile, images: Vec::new(), flags: Vec::new() };
        let ours = builder.build_prepared(&prepared, at.path())?;
        count.compare(peers, directory, &prepared, &ours)?;
    }
    Ok(count.done())
}
