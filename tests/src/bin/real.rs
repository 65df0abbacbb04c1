//! `cooper-real [--alone] [--outside] [--log DIR] [NAME...]`: builds the real-input set and prints what came of it. Start it
//! by `tests/real/run`, which builds cooper for release and says more.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of the host that prints results"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cooper_tests::cooper::Place;
use cooper_tests::real::{self, Outcome, Peer, Real};

fn main() -> Result<ExitCode> {
    let (mut peer, mut place, mut logs) = (Peer::Asked, Place::Pod, PathBuf::from("target/real"));
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--alone" => peer = Peer::Left,
            "--outside" => place = Place::Outside,
            "--log" => logs = arguments.next().context("--log wants a directory")?.into(),
            option if option.starts_with('-') => bail!("unknown option `{option}`"),
            name => wanted.push(name.to_owned()),
        }
    }
    let all = real::all()?;
    if let Some(unknown) = wanted.iter().find(|name| all.iter().all(|real| real.name != **name)) {
        bail!("no folder `{unknown}` in tests/real");
    }
    fs::create_dir_all(&logs)?;
    println!(
        "{:<26} {:<7} {:>9} {:>9}  files against buildah's; programs run natively",
        "", "", "cooper", "buildah"
    );
    let mut failed = 0;
    for real in all.iter().filter(|real| wanted.is_empty() || wanted.contains(&real.name)) {
        failed += usize::from(!one(real, place, peer, &logs)?);
    }
    println!("{failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds one and prints its line; whether it is as it should be.
fn one(real: &Real, place: Place, peer: Peer, logs: &Path) -> Result<bool> {
    let log = logs.join(format!("{}.log", real.name));
    match real.run(place, peer) {
        Ok(outcome) => {
            let differences = outcome.peer.as_ref().map(|(_, lines)| lines.as_slice()).unwrap_or_default();
            fs::write(&log, differences.join("\n"))?;
            let same = differences.is_empty();
            println!("{:<26} {:<7} {}", real.name, if same { "ok" } else { "differs" }, shown(&outcome));
            Ok(same)
        }
        Err(error) => {
            fs::write(&log, format!("{error:?}\n"))?;
            println!("{:<26} failed  see {}", real.name, log.display());
            Ok(false)
        }
    }
}

fn shown(outcome: &Outcome) -> String {
    let ours = format!("{:>7.1} s", outcome.wall.as_secs_f64());
    let programs = if outcome.native == 0 { String::new() } else { format!("; {} native", outcome.native) };
    match &outcome.peer {
        Ok((wall, lines)) if lines.is_empty() => {
            format!("{ours} {:>7.1} s  the same{programs}", wall.as_secs_f64())
        }
        Ok((wall, lines)) => {
            format!("{ours} {:>7.1} s  {} differences{programs}", wall.as_secs_f64(), lines.len())
        }
        Err(why) => format!("{ours} {:>9}  {why}{programs}", ""),
    }
}
