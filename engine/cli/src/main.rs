//! The binary `cooper`: the only crate that reads flags, the environment, the home directory and the terminal.
//!
//! `main` parses the command line, installs the signal handlers, runs one command and turns its failure into a text
//! and an exit code (architecture section 9). stdout carries results only; everything else goes to stderr.
//!
//! What must hold: secrets and credentials are in no output; a command that is interrupted ends its steps and exits
//! with 7; `step` and `compile`, the commands that a build runs itself with, are reached before anything else is set up.

mod arguments;
mod caches;
mod code_cache;
mod commands;
mod display;
mod environment;
mod failure;
mod outputs;
mod registries;
mod runner;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use arguments::{Arguments, Command};
use failure::Failure;

fn main() -> ExitCode {
    // A step's process or its helper: no flags, no handlers, nothing of the environment.
    match std::env::args_os().nth(1) {
        Some(first) if first == "step" => return runner::step(),
        Some(first) if first == "compile-wasm" => return cooper_sandbox::compile_wasm_main(),
        Some(first) if first == "compile" => return cooper_sandbox::compile_main(),
        _ => {}
    }
    std::panic::set_hook(Box::new(|panic| {
        complain(&format!(
            "error: cooper has a bug: {panic}\nhint: please report this with the command and the Dockerfile"
        ));
    }));
    std::panic::catch_unwind(run).unwrap_or(ExitCode::from(failure::BUG))
}

fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let result = dispatch(arguments.command);
    match result {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure.text());
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Build(command) => commands::build::build(*command),
        Command::Run(command) => commands::run::run(&command),
        Command::Pull(command) => commands::images::pull(command),
        Command::Push(command) => commands::images::push(command),
        Command::Tag(command) => commands::images::tag(command),
        Command::Images(command) => commands::images::images(command),
        Command::Inspect(command) => commands::images::inspect(command),
        Command::Save(command) => commands::images::save(command),
        Command::Load(command) => commands::images::load(command),
        Command::Rmi(command) => commands::images::rmi(command),
        Command::Prune(command) => commands::images::prune(command),
        Command::Login(command) => commands::registry::login(&command),
        Command::Logout(command) => commands::registry::logout(&command),
        Command::Copy(command) => commands::registry::copy(command),
        Command::Doctor(command) => commands::registry::doctor(&command),
        Command::Cache(command) => commands::cache::cache(command),
        Command::Index(command) => commands::index::index(command),
        Command::Explain(command) => commands::explain::explain(&command),
        Command::ExplainMiss(command) => commands::explain::explain_miss(&command),
        Command::Syscalls => commands::system::syscalls(),
        Command::Version => commands::system::version(),
    }
}

/// Shows clap's message. `cooper run` keeps the codes below 125 for the command it runs.
fn usage(error: &clap::Error) -> ExitCode {
    // stdout or stderr that is gone takes no message.
    drop(error.print());
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if std::env::args_os().nth(1).is_some_and(|first| first == "run") => {
            ExitCode::from(commands::run::OWN_FAILURE)
        }
        _ => ExitCode::from(2),
    }
}

/// Writes a text for people to stderr.
#[allow(clippy::print_stderr, reason = "the place where the command line talks")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}

/// Writes a result to stdout. A reader that has gone away is no failure.
pub(crate) fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}
