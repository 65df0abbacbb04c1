//! Brings the guests' output from their pipes into frames.
//!
//! Guests write to two pipes; one thread reads both and frames what comes onto the process's standard output. When the
//! last guest has ended it takes what is still in the pipes and stops, so the answer is always the last frame.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags};

use crate::wire::{self, Tag};

/// Most bytes that one frame of output carries.
const CHUNK: usize = 1 << 16;

/// The reading end of the guests' output.
#[derive(Debug)]
pub(crate) struct OutputPump {
    thread: JoinHandle<io::Result<()>>,
    ended: PipeWriter,
}

/// The writing ends, for the kernel.
#[derive(Debug)]
pub(crate) struct OutputPipes {
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

impl OutputPump {
    /// Starts the thread; frames go to `out`.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, OutputPipes)> {
        let (stdout, guest_stdout) = io::pipe()?;
        let (stderr, guest_stderr) = io::pipe()?;
        let (waiting, ended) = io::pipe()?;
        for pipe in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let thread = thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || pump([(stdout, Tag::Stdout), (stderr, Tag::Stderr)], &waiting, out))?;
        let file = |pipe: PipeWriter| File::from(OwnedFd::from(pipe));
        let pipes = OutputPipes { stdout: file(guest_stdout), stderr: file(guest_stderr) };
        Ok((Self { thread, ended }, pipes))
    }

    /// Waits until everything written so far is framed. For when no guest runs any more.
    pub(crate) fn finish(self) -> io::Result<()> {
        drop(self.ended);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the output thread panicked")))
    }
}

fn pump(pipes: [(PipeReader, Tag); 2], ended: &PipeReader, mut out: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut open = [true, true];
    loop {
        let mut polled: Vec<PollFd<'_>> = vec![PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
        let listened: Vec<usize> = (0..pipes.len()).filter(|index| open[*index]).collect();
        polled.extend(
            listened.iter().map(|index| PollFd::from_borrowed_fd(pipes[*index].0.as_fd(), PollFlags::IN)),
        );
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let last = !polled[0].revents().is_empty();
        drop(polled);
        for index in listened {
            let (mut pipe, tag) = (&pipes[index].0, pipes[index].1);
            // One piece at a time keeps the two streams in step; after the end, everything there is.
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => open[index] = false,
                    Ok(count) => {
                        wire::write_frame(&mut out, tag, &buffer[..count])?;
                        if last {
                            continue;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                break;
            }
        }
        if last {
            return Ok(());
        }
    }
}
