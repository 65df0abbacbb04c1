//! The step's side of a helper that compiles.
//!
//! A [`Worker`] has at most one helper (see [`compile`](crate::compile)), started when it is first asked and used for all that
//! follows: starting one takes longer than most compilations. It is replaced when it has been sent many files.
//!
//! What must hold: once [`Killer::kill`] has returned, no helper runs and none is started.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cooper_vfs::Content;

use crate::compile::{self, CompileRequest, Compiled};

/// The largest answer of a helper, in bytes.
const MAX_ANSWER: u64 = 512 << 20;
/// Bytes of files that one helper is sent.
const MAX_SENT: u64 = 256 << 20;

/// How a helper is started.
#[derive(Clone, Debug)]
pub struct Helper {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Ends helpers from another thread.
#[derive(Debug, Default)]
pub(crate) struct Killer(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    child: Option<Child>,
    /// Set when no more are to be started.
    over: bool,
}

impl Killer {
    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the helper that runs, and lets no other start.
    pub(crate) fn kill(&self) {
        let mut running = self.lock();
        running.over = true;
        end(running.child.take());
    }
}

/// Kills and reaps.
fn end(child: Option<Child>) -> Option<String> {
    let mut child = child?;
    // One that has ended by itself is as good.
    drop(child.kill());
    child.wait().ok().map(|status| status.to_string())
}

/// A helper that runs, as its asker sees it.
struct Connection {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Files that it has.
    sent: HashSet<[u8; 32]>,
    /// Their bytes.
    size: u64,
    /// Processor time that it has used.
    used: Duration,
}

/// Compiles through helpers.
pub(crate) struct Worker {
    helper: Helper,
    killer: Arc<Killer>,
    connection: Option<Connection>,
    /// Processor time that helpers before this one have used.
    earlier: Duration,
}

impl Worker {
    /// A worker without a helper so far.
    pub(crate) fn new(helper: Helper, killer: Arc<Killer>) -> Self {
        Self { helper, killer, connection: None, earlier: Duration::ZERO }
    }

    /// Processor time of all helpers so far.
    pub(crate) fn used(&self) -> Duration {
        self.earlier + self.connection.as_ref().map_or(Duration::ZERO, |connection| connection.used)
    }

    /// Whether no helper may run any more.
    pub(crate) fn is_over(&self) -> bool {
        self.killer.lock().over
    }

    /// Has a helper work on a request about a file.
    pub(crate) fn ask(&mut self, request: &CompileRequest, file: Content) -> io::Result<Compiled> {
        if self.connection.as_ref().is_some_and(|connection| connection.size > MAX_SENT) {
            self.disconnect();
        }
        match self.exchange(request, file) {
            Ok(Ok(compiled)) => Ok(compiled),
            Ok(Err(reason)) => Err(io::Error::other(reason)),
            Err(error) => Err(match self.disconnect() {
                Some(status) => io::Error::other(format!("{error}; {status}")),
                None => error,
            }),
        }
    }

    fn exchange(&mut self, request: &CompileRequest, file: Content) -> io::Result<Result<Compiled, String>> {
        if self.connection.is_none() {
            self.connection = Some(self.connect()?);
        }
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut request = request.clone();
        if connection.sent.insert(request.id) {
            request.file = Some(file.length);
            connection.size += file.length;
        }
        // A helper reads everything before it writes.
        compile::write_request(&mut connection.input, &request, Reader { content: file, at: 0 })?;
        let answer = compile::read_answer(&mut connection.output, MAX_ANSWER)?;
        connection.used = answer.used;
        Ok(answer.made)
    }

    fn connect(&self) -> io::Result<Connection> {
        let mut running = self.killer.lock();
        if running.over {
            return Err(io::Error::other("no helper is to be started"));
        }
        let mut child = Command::new(&self.helper.program)
            .args(&self.helper.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take());
        running.child = Some(child);
        let (Some(input), Some(output)) = pipes else {
            return Err(io::Error::other("the helper has no pipes"));
        };
        let output = BufReader::new(output);
        Ok(Connection { input, output, sent: HashSet::new(), size: 0, used: Duration::ZERO })
    }

    /// Ends the helper; how it ended.
    fn disconnect(&mut self) -> Option<String> {
        self.earlier = self.used();
        self.connection = None;
        let child = self.killer.lock().child.take();
        end(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// Reads a content from its beginning.
struct Reader {
    content: Content,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read_at(self.at, buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}
