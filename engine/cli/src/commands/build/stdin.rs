//! stdin, read so that a signal ends the waiting.

use std::io::{self, Read};

use cooper_build::step::CancelToken;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a cancelled command may still wait for input.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A reader of stdin that fails once the token is cancelled.
#[derive(Debug)]
pub(super) struct Stdin {
    cancel: CancelToken,
}

impl Stdin {
    /// stdin until `cancel` says otherwise.
    pub(super) fn new(cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone() }
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = rustix::stdio::stdin();
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&PATIENCE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(rustix::io::read(stdin, buffer)?),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
