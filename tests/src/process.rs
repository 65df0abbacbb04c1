//! Commands with a deadline and captured output.
//!
//! Every command runs in a process group of its own, so that a deadline ends what it started too. Output is read by
//! threads while the command runs, so a full pipe never blocks it.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long a command may take unless the case says otherwise. Generous: a deadline is a safety net, not a test.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// What a command left behind.
#[derive(Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 plus the signal's number where a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without the line end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself if the command ended with 0, else an error with all it said.
    pub fn ok(self) -> Result<Self> {
        self.exits(0)
    }

    /// Itself if the command ended with `code`, else an error with all it said.
    pub fn exits(self, code: i32) -> Result<Self> {
        if self.code == code {
            return Ok(self);
        }
        bail!("wanted exit code {code}\n{self:?}")
    }

    /// Itself if standard error has `text` in it.
    pub fn says(self, text: &str) -> Result<Self> {
        if self.errors().contains(text) {
            return Ok(self);
        }
        bail!("standard error has no `{text}`\n{self:?}")
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        writeln!(f, "exit code {}", self.code)?;
        writeln!(f, "--- stdout\n{}", tail(&self.stdout))?;
        write!(f, "--- stderr\n{}", tail(&self.stderr))
    }
}

/// The last part of a text, so that a flood does not fill the report.
fn tail(bytes: &[u8]) -> String {
    const SHOWN: usize = 6000;
    let cut = bytes.len().saturating_sub(SHOWN);
    let text = String::from_utf8_lossy(&bytes[cut..]).into_owned();
    if cut == 0 { text } else { format!("[{cut} bytes before]\n{text}") }
}

/// Builds a command from a program and its arguments.
pub fn command<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command to its end with nothing on standard input.
pub fn run(command: &mut Command) -> Result<Output> {
    run_with(command, b"", DEADLINE)
}

/// Runs a command to its end with `input` on standard input, at most `deadline`; then its group is killed.
pub fn run_with(command: &mut Command, input: &[u8], deadline: Duration) -> Result<Output> {
    let shown = show(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let mut stdin = child.stdin.take().context("standard input was piped")?;
    let input = input.to_vec();
    // The reader may end before it has read everything; that is its business.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = collect(child.stdout.take().context("standard output was piped")?);
    let stderr = collect(child.stderr.take().context("standard error was piped")?);
    let (status, late) = wait(child, deadline)?;
    drop(writer.join());
    let output = Output {
        command: shown,
        code: code(status),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    };
    if late {
        bail!("not done after {deadline:?}, killed\n{output:?}");
    }
    Ok(output)
}

/// The exit code as a shell gives it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A command as one would type it.
fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            if word.is_empty() || word.contains(char::is_whitespace) {
                format!("'{word}'")
            } else {
                word.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read that fails ends the output; what came before is what counts.
        drop(from.read_to_end(&mut bytes));
        bytes
    })
}

/// Waits for a child; after the deadline its group is killed and `true` returned.
fn wait(mut child: Child, deadline: Duration) -> Result<(ExitStatus, bool)> {
    let group = child.id();
    let (done, ended) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        let _ = done.send(());
        status
    });
    let late = ended.recv_timeout(deadline).is_err();
    if late {
        signal_group(group, "KILL");
    }
    let status = waiter.join().map_err(|_| anyhow::anyhow!("the waiting thread panicked"))??;
    Ok((status, late))
}

/// Sends a signal to the process group that a command of ours leads.
pub fn signal_group(leader: u32, signal: &str) {
    drop(Command::new("kill").arg(format!("-{signal}")).arg("--").arg(format!("-{leader}")).status());
}

/// Sends a signal to one process of ours.
pub fn signal(pid: u32, signal: &str) {
    drop(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status());
}

/// Where a program lies, searching `PATH`.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|at| at.join(program))
        .find(|at| at.is_file())
}
