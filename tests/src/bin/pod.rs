//! `cooper-pod [--home DIR] [--volume DIR]... [--env K=V]... -- COMMAND...`: runs a command in the strict pod of
//! `cooper_tests::pod`, for the suites and for trying things by hand. Exits with the command's code, 125 for its own
//! failures.
#![allow(clippy::print_stderr, reason = "a program of the host")]

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cooper_tests::pod::{self, Plan, Pod};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(125)),
        Err(error) => {
            eprintln!("cooper-pod: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run() -> Result<i32> {
    // Kept until the command has ended, where the caller names no directory.
    let own = Pod::new()?;
    let mut plan = Plan { home: own.home(), volumes: Vec::new(), environment: Vec::new(), words: Vec::new() };
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().with_context(|| format!("{} wants a value", argument.to_string_lossy()));
        match argument.as_bytes() {
            b"--home" => plan.home = PathBuf::from(value()?),
            b"--volume" => plan.volumes.push(PathBuf::from(value()?)),
            b"--env" => plan.environment.push(pair(&value()?)?),
            b"--" => break,
            other => bail!("unknown argument `{}`", String::from_utf8_lossy(other)),
        }
    }
    plan.words = arguments.collect();
    pod::enter(&plan)
}

fn pair(text: &OsString) -> Result<(OsString, OsString)> {
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|&b| b == b'=').context("--env wants K=V")?;
    Ok((OsString::from_vec(bytes[..at].to_vec()), OsString::from_vec(bytes[at + 1..].to_vec())))
}
