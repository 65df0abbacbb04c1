//! The helper process that compiles a WebAssembly module nobody has compiled yet.
//!
//! A step's process starts this same program with `compile-wasm`. It gives up what it could harm with, reads the module from descriptor
//! 0 and writes native code to descriptor 1. A module made to take a compiler hours or gigabytes takes its helper's share and no more.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use super::engine;
use crate::compile::{MAX_SECONDS, confine, limit_time};
use crate::helper::Helper;

/// The largest module, in bytes.
pub(super) const MAX_MODULE: u64 = 256 << 20;
/// The most native code that a helper may answer with, in bytes.
const MAX_ANSWER: u64 = 1 << 30;

/// Runs the helper.
pub fn compile_wasm_main() -> ExitCode {
    let done = confine().and_then(|()| limit_time()).and_then(|()| {
        let mut module = Vec::new();
        io::stdin().lock().take(MAX_MODULE).read_to_end(&mut module)?;
        let code = precompile(&module).map_err(io::Error::other)?;
        io::stdout().lock().write_all(&code)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be listening.
            drop(writeln!(io::stderr(), "{error}"));
            ExitCode::FAILURE
        }
    }
}

/// What the helper does.
pub(super) fn precompile(module: &[u8]) -> Result<Vec<u8>, String> {
    let compiled = engine::compiler().and_then(|engine| engine.precompile_module(module));
    compiled.map_err(|error| format!("{error:#}"))
}

/// Has a helper compile a module. The error says why it is no program.
pub(super) fn ask(helper: &Helper, module: &[u8]) -> Result<Vec<u8>, String> {
    let trouble = |error: io::Error| format!("its compiler does not work: {error}");
    let mut child = Command::new(&helper.program)
        .args(&helper.arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(trouble)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(output), Some(errors)) = pipes else {
        return Err("its compiler has no pipes".to_owned());
    };
    // A helper reads everything before it writes.
    let sent = input.write_all(module);
    drop(input);
    let mut code = Vec::new();
    let read = output.take(MAX_ANSWER).read_to_end(&mut code);
    let mut words = String::new();
    drop(errors.take(4096).read_to_string(&mut words));
    let status = child.wait().map_err(trouble)?;
    if status.success() {
        sent.and(read.map(|_| ())).map_err(trouble)?;
        return Ok(code);
    }
    Err(failure(status, words.trim()))
}

fn failure(status: ExitStatus, words: &str) -> String {
    match status.signal() {
        Some(libc::SIGXCPU | libc::SIGKILL) => {
            format!("compiling it takes more than {MAX_SECONDS} seconds of processor time")
        }
        Some(libc::SIGABRT) => "compiling it takes more than 4 GiB of memory".to_owned(),
        Some(signal) => format!("its compiler ended by signal {signal}"),
        None => words.to_owned(),
    }
}
