//! Jobs: the processes of commands that run in the background, and waiting for processes.

use crate::shell::{Flow, Shell, Trap};
use crate::signals;
use crate::system::{self, Errno, POLLIN, PollFd, SIGCHLD, SignalSet, WNOHANG};

/// A background job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub number: usize,
    /// The last process, whose status is the job's.
    pub pid: i32,
    pub status: Option<i32>,
    /// Whether its status has been asked for: then the next job may take its place.
    pub waited: bool,
}

/// Jobs by age.
#[derive(Clone, Debug, Default)]
pub(crate) struct Jobs(pub Vec<Job>);

impl Jobs {
    pub(crate) fn add(&mut self, pid: i32) -> usize {
        self.0.retain(|job| job.status.is_none() || !job.waited);
        let number = self.0.iter().map(|job| job.number).max().unwrap_or(0) + 1;
        self.0.push(Job { number, pid, status: None, waited: false });
        number
    }

    fn note(&mut self, pid: i32, status: i32) {
        if let Some(job) = self.0.iter_mut().find(|job| job.pid == pid && job.status.is_none()) {
            job.status = Some(status);
        }
    }

    /// The job that `%1`, `%%`, `%+` or `%-` names. Without job control, dash keeps no text by which a job could be named.
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        let rest = name.strip_prefix(b"%")?;
        match rest {
            b"" | b"%" | b"+" => self.0.len().checked_sub(1),
            b"-" => self.0.len().checked_sub(2).or_else(|| self.0.len().checked_sub(1)),
            _ => {
                let number: usize = std::str::from_utf8(rest).ok()?.parse().ok()?;
                self.0.iter().position(|job| job.number == number)
            }
        }
    }
}

/// A wait status as `$?` has it.
pub(crate) fn exit_status(status: i32) -> i32 {
    match status & 0x7f {
        0 => status >> 8 & 0xff,
        signal => 128 + signal,
    }
}

impl Shell {
    /// Notes which background processes have ended, without waiting.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = system::wait(-1, WNOHANG) {
            self.env.jobs.note(pid, status);
            for undo in &mut self.undo {
                undo.env.jobs.note(pid, status);
            }
        }
    }

    /// Waits for a process in the foreground: its status. Says so when a signal has ended it.
    pub(crate) fn wait_foreground(&mut self, pid: i32) -> i32 {
        let status = if self.captures.is_empty() {
            match system::wait(pid, 0) {
                Ok(Some((_, status))) => status,
                _ => 127 << 8,
            }
        } else {
            self.wait_and_drain(pid)
        };
        self.tell_signal(status);
        exit_status(status)
    }

    /// Says what signal has ended a process, but for those that end many.
    fn tell_signal(&mut self, status: i32) {
        let signal = status & 0x7f;
        if signal != 0 && signal != system::SIGINT && signal != system::SIGPIPE {
            let mut text = signals::describe(signal).to_owned();
            if status & 0x80 != 0 {
                text.push_str(" (core dumped)");
            }
            text.push('\n');
            let _ = self.emit(2, text.as_bytes());
        }
    }

    /// Waits while the pipes of command substitutions are emptied, which the process may be filling.
    fn wait_and_drain(&mut self, pid: i32) -> i32 {
        let child = SignalSet::default().with(SIGCHLD);
        let before = system::mask();
        system::set_mask(before.with(SIGCHLD));
        let descriptor = system::signal_descriptor(child);
        let status = loop {
            match system::wait(pid, WNOHANG) {
                Ok(Some((_, status))) => break status,
                Ok(None) => {}
                Err(_) => break 127 << 8,
            }
            let Ok(descriptor) = descriptor else {
                break system::wait(pid, 0).ok().flatten().map_or(127 << 8, |(_, status)| status);
            };
            let ready = self.drain_until(Some((descriptor, POLLIN)));
            if ready {
                let mut information = [0; 128];
                let _ = system::read(descriptor, &mut information);
                if self.env.traps.contains_key(&SIGCHLD) {
                    self.taken.push(SIGCHLD);
                }
            }
        };
        if let Ok(descriptor) = descriptor {
            system::close(descriptor);
        }
        system::set_mask(before);
        status
    }

    /// Waits until the descriptor is ready or a pipe of a command substitution was emptied: whether it was the descriptor.
    fn drain_until(&mut self, descriptor: Option<(i32, i16)>) -> bool {
        let mut polled: Vec<PollFd> =
            self.captures.iter().map(|(fd, _)| PollFd { fd: *fd, events: POLLIN, revents: 0 }).collect();
        if let Some((fd, events)) = descriptor {
            polled.push(PollFd { fd, events, revents: 0 });
        }
        if system::poll(&mut polled, -1).is_err() {
            return false;
        }
        let mut buffer = [0; 65536];
        for ((fd, text), polled) in self.captures.iter_mut().zip(&polled) {
            if polled.revents & POLLIN != 0
                && let Ok(length) = system::read(*fd, &mut buffer)
            {
                text.extend_from_slice(&buffer[..length]);
            }
        }
        descriptor.is_some() && polled.last().is_some_and(|polled| polled.revents != 0)
    }

    /// Waits until a descriptor can be read or written while nothing else gets stuck on this process. `false`: a signal
    /// with a trap came first.
    pub(crate) fn ready(&mut self, fd: i32, events: i16) -> bool {
        let signals = if events == POLLIN { self.trapped } else { SignalSet::default() };
        if self.captures.is_empty() && signals.is_empty() {
            return true;
        }
        if signals.is_empty() {
            while !self.drain_until(Some((fd, events))) {}
            return true;
        }
        let Ok(descriptor) = system::signal_descriptor(signals) else { return true };
        let result = loop {
            let mut polled: Vec<PollFd> =
                self.captures.iter().map(|(fd, _)| PollFd { fd: *fd, events: POLLIN, revents: 0 }).collect();
            polled.push(PollFd { fd: descriptor, events: POLLIN, revents: 0 });
            polled.push(PollFd { fd, events, revents: 0 });
            match system::poll(&mut polled, -1) {
                Err(system::EINTR) => continue,
                Err(_) => break true,
                Ok(_) => {}
            }
            let count = polled.len();
            if polled[count - 1].revents != 0 {
                break true;
            }
            if polled[count - 2].revents != 0 {
                break false;
            }
            self.drain_until(None);
        };
        system::close(descriptor);
        result
    }

    /// Writes all bytes, to the output that is being collected or to a descriptor.
    pub(crate) fn emit(&mut self, fd: i32, bytes: &[u8]) -> Result<(), Errno> {
        if fd == 1
            && let Some(output) = &mut self.output
        {
            output.extend_from_slice(bytes);
            return Ok(());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            // A pipe that can be written takes a page.
            let length = if self.captures.is_empty() { rest.len() } else { rest.len().min(4096) };
            if !self.captures.is_empty() {
                self.ready(fd, system::POLLOUT);
            }
            match system::write(fd, &rest[..length]) {
                Ok(written) => rest = &rest[written..],
                Err(system::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for one background process, in `wait`: its status; `None` when a signal with a trap came first.
    pub(crate) fn wait_background(&mut self, index: usize, tell: bool) -> Result<Option<i32>, Flow> {
        let signals = self.trapped.with(SIGCHLD);
        let before = system::mask();
        system::set_mask(before.with(SIGCHLD));
        let result = loop {
            self.reap();
            match self.env.jobs.0.get(index) {
                Some(job) if job.status.is_none() => {}
                Some(job) => {
                    let status = job.status.unwrap_or(0);
                    if !std::mem::replace(&mut self.env.jobs.0[index].waited, true) && tell {
                        self.tell_signal(status);
                    }
                    break Some(exit_status(status));
                }
                None => break Some(127),
            }
            if self.trapped.is_empty() && self.captures.is_empty() {
                let pid = self.env.jobs.0[index].pid;
                match system::wait(pid, 0) {
                    Ok(Some((pid, status))) => self.env.jobs.note(pid, status),
                    _ => self.env.jobs.note(pid, 127 << 8),
                }
                continue;
            }
            match system::take_signal(signals, None) {
                Some(signal) => {
                    let trap = matches!(self.env.traps.get(&signal), Some(Trap::Run(_)));
                    if trap {
                        self.taken.push(signal);
                    }
                    if trap && signal != SIGCHLD {
                        self.status = 128 + signal;
                        break None;
                    }
                }
                None => continue,
            }
        };
        system::set_mask(before);
        Ok(result)
    }
}
