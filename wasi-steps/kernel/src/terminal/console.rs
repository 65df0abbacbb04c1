//! The step's own terminal, where the step runs at one: what is typed outside goes in, what programs write comes out.
//!
//! The outside holds the master; the step's command has the slave as its three standard descriptors and as the controlling
//! terminal of its session. What comes out counts against the step's output limit as what goes through pipes does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Terminal, TerminalEnd};
use crate::files::description::status;
use crate::files::transfer::{HostInput, HostOutput};
use crate::files::{Description, Errno, FileObject, lock};
use crate::kernel::Kernel;
use crate::signal::signal;
use crate::wait::{Interrupts, Sleeper, WaitEnd};

/// The number of the step's command, which leads the first session and its foreground group.
const INIT: u32 = 1;

/// The outer side of the step's terminal.
#[derive(Debug)]
pub struct Console {
    master: TerminalEnd,
    ended: AtomicBool,
    kernel: Arc<Kernel>,
}

/// A thread of the host: no signal ends its waits.
struct Host;

impl Interrupts for Host {
    fn interruption(&self) -> Option<WaitEnd> {
        None
    }
}

impl Kernel {
    /// Gives the step a terminal of this size. To be called once, before the first process starts.
    pub fn open_console(self: &Arc<Self>, rows: u16, columns: u16) -> Result<Console, Errno> {
        let master = self.registry.terminals.create(self, 0)?;
        {
            let mut state = lock(&master.terminal.state);
            state.locked = false;
            state.size = [rows, columns, 0, 0];
            (state.session, state.foreground) = (INIT, INIT);
        }
        *lock(&self.registry.terminals.console) = Some(Arc::downgrade(&master.terminal));
        Ok(Console { master, ended: AtomicBool::new(false), kernel: self.clone() })
    }
}

impl Console {
    fn wait(&self, mut attempt: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
        let queues = [self.master.terminal.master.queue()];
        let ready = || match attempt() {
            Err(Errno::AGAIN) if self.ended.load(Ordering::SeqCst) => Some(Ok(0)),
            Err(Errno::AGAIN) => None,
            other => Some(other),
        };
        // Nothing interrupts it and there is no deadline.
        Sleeper::new().wait(&Host, &queues, None, ready).unwrap_or(Ok(0))
    }

    /// Types; waits while the programs have not read what was typed before.
    pub fn type_in(&self, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < bytes.len() {
            match self.wait(|| self.master.write(&mut HostInput::new(&bytes[done..]), 0))? {
                0 => return Ok(()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Waits for output and takes it; 0 when no program can write any more.
    ///
    /// `EIO` when the step's output limit is reached; its processes are ended then.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let count = self.wait(|| match self.master.read(&mut HostOutput::new(buffer), 0) {
            // All slaves are closed.
            Err(Errno::IO) => Ok(0),
            other => other,
        })?;
        self.kernel.registry.output.spend(count).inspect_err(|_| self.kernel.kill_all())?;
        Ok(count)
    }

    /// Changes the size; the foreground group is told (`SIGWINCH`).
    pub fn resize(&self, rows: u16, columns: u16) {
        self.master.terminal.resize([rows, columns, 0, 0]);
    }

    /// Lets [`read`](Self::read) end once everything is taken.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.master.terminal.master.wake();
    }
}

impl Terminal {
    /// Sets the size and tells the foreground group if it is another one.
    pub(super) fn resize(&self, size: [u16; 4]) {
        let mut state = lock(&self.state);
        let changed = std::mem::replace(&mut state.size, size) != size;
        let foreground = state.foreground;
        drop(state);
        if changed {
            self.signal_group(foreground, signal::WINCH);
        }
    }
}

/// What the step's command has as descriptors 0, 1 and 2, where the step runs at a terminal.
pub(crate) fn description(kernel: &Kernel) -> Result<Option<Arc<Description>>, Errno> {
    let console = lock(&kernel.registry.terminals.console).clone();
    let Some(terminal) = console.and_then(|terminal| terminal.upgrade()) else { return Ok(None) };
    let (root, credentials) = (kernel.root_fs.root(), cooper_vfs::Credentials::root());
    let caller = cooper_vfs::Caller::default();
    let walk = cooper_vfs::Walk { root: &root, credentials: &credentials, caller };
    let path = format!("/dev/pts/{}", terminal.number);
    let position = kernel.root_fs.resolve(&walk, &root, path.as_bytes(), cooper_vfs::Follow::Yes).ok();
    let end = TerminalEnd::slave(terminal, true)?;
    Ok(Some(Description::new(Box::new(end), status::READ_WRITE, position)))
}
