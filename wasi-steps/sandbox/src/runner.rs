//! The parent's side: starts the process of a step and listens to it.

use std::ffi::OsString;
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cooper_build::step::{
    CancelToken, OutputStream, Stdin, StepError, StepOutcome, StepOutput, StepRequest, StepRunner,
};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::trust::Trust;
use crate::wire::{self, Answer, Tag, Typed};

/// How much of what a dying process says about itself is kept.
const MAX_LAST_WORDS: u64 = 16 << 10;

/// Runs every step in a fresh process of this same program.
#[derive(Clone, Debug)]
pub struct ProcessRunner {
    executable: PathBuf,
    arguments: Vec<OsString>,
    trust: Option<Trust>,
}

impl ProcessRunner {
    /// A runner that starts `executable` with `arguments`, which must lead to [`step_main`](crate::step_main).
    pub fn new(executable: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { executable, arguments, trust: None }
    }

    /// The same with certificates that every step with a network trusts.
    pub fn with_trust(self, trust: Option<Trust>) -> Self {
        Self { trust, ..self }
    }

    fn start(&self) -> io::Result<Child> {
        Command::new(&self.executable)
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

impl StepRunner for ProcessRunner {
    fn run(
        &self,
        request: &StepRequest,
        output: &mut dyn StepOutput,
        cancel: &CancelToken,
    ) -> Result<StepOutcome, StepError> {
        if cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let mut process = self.start().map_err(StepError::Start)?;
        let (input, frames, words) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let process = Arc::new(Mutex::new(process));
        let victim = process.clone();
        let subscription = cancel.on_cancel(move || {
            // A process that is gone already needs no end.
            drop(lock(&victim).kill());
        });
        let words = thread::spawn(move || last_words(words));
        let mut request = request.clone();
        if let Some(trust) = &self.trust {
            trust.apply(&mut request);
        }
        let answer = send(input, &request).map(|()| frames).and_then(|frames| match frames {
            Some(frames) => listen(frames, output),
            None => Ok(None),
        });
        if !matches!(answer, Ok(Some(_))) {
            drop(lock(&process).kill());
        }
        let status = lock(&process).wait();
        drop(subscription);
        let words = words.join().unwrap_or_default();
        if cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        match answer {
            Ok(Some(answer)) => answer.map_err(StepError::from),
            Ok(None) => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(StepError::Died([status.as_str(), words.trim()].join(" ").trim_end().to_owned()))
            }
            Err(error) if words.trim().is_empty() => Err(StepError::Start(error)),
            Err(error) => Err(StepError::Died(format!("{error}: {}", words.trim()))),
        }
    }
}

/// Sends the request; where the step wants our standard input, a thread goes on copying it.
fn send(input: Option<ChildStdin>, request: &StepRequest) -> io::Result<()> {
    let mut input = input.ok_or(io::ErrorKind::BrokenPipe)?;
    wire::write_request(&mut input, request)?;
    // Not joined: they may sit in a read of a terminal long after the step has ended.
    match request.stdin {
        Stdin::Null => {}
        Stdin::Inherit => drop(thread::spawn(move || forward(&mut io::stdin().lock(), &mut input))),
        Stdin::Terminal { rows, columns } => {
            // Without a step there is nobody to type for.
            thread::spawn(move || drop(type_for(&mut input, Typed::Size { rows, columns })));
        }
    }
    Ok(())
}

/// How often the size of the terminal is looked at.
const SIZE_PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Sends keys and sizes of our terminal until the step or the terminal ends.
fn type_for(to: &mut impl Write, mut size: Typed) -> io::Result<()> {
    let keyboard = rustix::stdio::stdin();
    let mut buffer = [0; 4096];
    loop {
        let mut descriptors = [PollFd::new(&keyboard, PollFlags::IN)];
        let ready = match rustix::event::poll(&mut descriptors, Some(&SIZE_PERIOD)) {
            Err(rustix::io::Errno::INTR) => 0,
            other => other?,
        };
        let now = rustix::termios::tcgetwinsize(keyboard)?;
        let now = Typed::Size { rows: now.ws_row, columns: now.ws_col };
        if now != size {
            wire::write_typed(to, &now)?;
            size = now;
        }
        if ready > 0 {
            match rustix::io::read(keyboard, &mut buffer)? {
                0 => return Ok(()),
                count => wire::write_typed(to, &Typed::Keys(buffer[..count].to_vec()))?,
            }
        }
    }
}

fn forward(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 1 << 14];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Passes output on until the answer comes.
fn listen(frames: impl Read, output: &mut dyn StepOutput) -> io::Result<Option<Answer>> {
    let mut frames = BufReader::with_capacity(1 << 16, frames);
    while let Some((tag, bytes)) = wire::read_frame(&mut frames)? {
        match tag {
            Tag::Stdout => output.write(OutputStream::Stdout, &bytes),
            Tag::Stderr => output.write(OutputStream::Stderr, &bytes),
            Tag::Answer => return Ok(Some(serde_json::from_slice(&bytes)?)),
        }
    }
    Ok(None)
}

/// What the process itself, not the guest, wrote to its standard error.
fn last_words(words: Option<ChildStderr>) -> String {
    let Some(mut words) = words else { return String::new() };
    let mut bytes = Vec::new();
    // Words that cannot be read are none; the rest is drained so that the process never waits for us.
    drop(words.by_ref().take(MAX_LAST_WORDS).read_to_end(&mut bytes));
    drop(io::copy(&mut words, &mut io::sink()));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
