//! The step's standard streams.
//!
//! Standard input, where the step has one, is a host descriptor; without one it is `/dev/null`. Output is written
//! to host descriptors as it comes; a slow reader on the host slows the guest down. What is written is counted
//! against the step's output limit; beyond it every write is `EIO`, the limit is remembered, so that the step's error
//! names it, and all processes are ended, because one that ignores errors would write for ever.
//!
//! At a terminal the three are the slave of the step's own one.
//!
//! What must hold: a guest sees the streams as pipes or as a terminal of the step, never as the host's terminal or files.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use cooper_vfs::{Caller, Credentials, OpenFlags, Walk};
use rustix::event::{PollFd, PollFlags};

use crate::files::description::status;
use crate::files::table::DescriptorTable;
use crate::files::transfer::{copy_in, with_bounce};
use crate::files::{
    Anonymous, Description, Errno, FileObject, Input, Output, Readiness, Ready, Watch, next_inode,
};
use crate::kernel::Kernel;
use crate::sockets::host::{HostPoller, errno_of};
use crate::terminal::console;

/// Makes the descriptors a step's command starts with: 0, 1 and 2.
///
/// `EMFILE` and its kin when the host has no descriptors left.
pub(crate) fn standard_descriptors(kernel: &Arc<Kernel>) -> Result<Arc<DescriptorTable>, Errno> {
    let table = DescriptorTable::new();
    if let Some(console) = console::description(kernel)? {
        for _ in 0..3 {
            table.insert(console.clone(), 0, false, 3)?;
        }
        return Ok(table);
    }
    let clone = |file: &File| file.try_clone().map_err(|error| errno_of(&error));
    let registry = &kernel.registry;
    let input = match &kernel.stdio.stdin {
        Some(file) => {
            let object = StandardInput::new(clone(file)?, &registry.inet.poller);
            Description::new(Box::new(object), status::READ_ONLY, None)
        }
        None => null_input(kernel),
    };
    table.insert(input, 0, false, 3)?;
    for file in [&kernel.stdio.stdout, &kernel.stdio.stderr] {
        let object = StandardOutput::new(clone(file)?, Arc::clone(&registry.output), Arc::downgrade(kernel));
        table.insert(Description::new(Box::new(object), status::WRITE_ONLY, None), 0, false, 3)?;
    }
    Ok(table)
}

/// `/dev/null`, with its name where the file system has one.
fn null_input(kernel: &Kernel) -> Arc<Description> {
    let (root, credentials) = (kernel.root_fs.root(), Credentials::root());
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
    let opened = kernel.root_fs.open(&walk, &root, b"/dev/null", OpenFlags::empty(), 0);
    let position = opened.ok().map(|result| result.position);
    Description::new(Box::new(super::MemoryDevice::Null), status::READ_ONLY, position)
}

/// Bytes written to standard output and error together, and how many there may be.
#[derive(Debug)]
pub(crate) struct OutputBudget {
    written: AtomicU64,
    limit: u64,
}

impl OutputBudget {
    /// Allows `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self { written: AtomicU64::new(0), limit }
    }

    /// Counts `length` more bytes. `EIO` when they are too many.
    pub(crate) fn spend(&self, length: usize) -> Result<(), Errno> {
        let before = self.written.fetch_add(length as u64, Ordering::Relaxed);
        if before.saturating_add(length as u64) > self.limit { Err(Errno::IO) } else { Ok(()) }
    }

    /// Whether the limit was reached.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.written.load(Ordering::Relaxed) > self.limit
    }
}

/// Standard input from the host.
#[derive(Debug)]
pub(crate) struct StandardInput {
    file: File,
    changed: Arc<Readiness>,
    inode: u64,
}

impl StandardInput {
    /// Reads from a host file; `poller` tells when there is something.
    pub(crate) fn new(file: File, poller: &HostPoller) -> Self {
        let changed = Readiness::new();
        // A file that cannot be polled, such as a regular one, is always ready.
        let _ = poller.watch(&file, &changed);
        Self { file, changed, inode: next_inode() }
    }

    fn has_input(&self) -> bool {
        let mut descriptors = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut descriptors, Some(&now)).is_ok_and(|count| count > 0)
    }
}

impl FileObject for StandardInput {
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        if output.remaining() == 0 {
            return Ok(0);
        }
        if !self.has_input() {
            return Err(Errno::AGAIN);
        }
        with_bounce(|bounce| {
            let want = output.remaining().min(bounce.len());
            let count = (&self.file).read(&mut bounce[..want]).map_err(|error| errno_of(&error))?;
            if count == 0 { Ok(0) } else { output.put(&bounce[..count]) }
        })
    }

    fn poll(&self) -> Ready {
        if self.has_input() { Ready::READABLE } else { Ready::empty() }
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(&self.changed);
    }

    fn reopens(&self) -> bool {
        true
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::numbered("pipe", 0o010_600, self.inode))
    }
}

/// Standard output or error to the host.
#[derive(Debug)]
pub(crate) struct StandardOutput {
    file: File,
    budget: Arc<OutputBudget>,
    /// Whose processes end with the budget.
    kernel: Weak<Kernel>,
    inode: u64,
}

impl StandardOutput {
    /// Writes to a host file within a budget.
    pub(crate) fn new(file: File, budget: Arc<OutputBudget>, kernel: Weak<Kernel>) -> Self {
        Self { file, budget, kernel, inode: next_inode() }
    }
}

impl FileObject for StandardOutput {
    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        copy_in(input, |_, bytes| {
            if let Err(errno) = self.budget.spend(bytes.len()) {
                if let Some(kernel) = self.kernel.upgrade() {
                    kernel.kill_all();
                }
                return Err(errno);
            }
            (&self.file).write_all(bytes).map_err(|error| errno_of(&error))?;
            Ok(bytes.len())
        })
    }

    fn poll(&self) -> Ready {
        Ready::WRITABLE
    }

    fn writes_everything(&self) -> bool {
        true
    }

    fn reopens(&self) -> bool {
        true
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::numbered("pipe", 0o010_600, self.inode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::transfer::{HostInput, HostOutput};

    fn pipe() -> (File, File) {
        let (reader, writer) = std::io::pipe().expect("the host gives pipes");
        (File::from(std::os::fd::OwnedFd::from(reader)), File::from(std::os::fd::OwnedFd::from(writer)))
    }

    #[test]
    fn input_waits_for_the_host() {
        let (reader, mut writer) = pipe();
        let input = StandardInput::new(reader, &HostPoller::default());
        let mut buffer = [0; 8];
        assert_eq!(input.read(&mut HostOutput::new(&mut buffer), 0), Err(Errno::AGAIN));
        writer.write_all(b"abc").expect("the pipe is open");
        assert_eq!(input.poll(), Ready::READABLE);
        assert_eq!(input.read(&mut HostOutput::new(&mut buffer), 0), Ok(3));
        drop(writer);
        assert_eq!(input.read(&mut HostOutput::new(&mut buffer), 0), Ok(0));
    }

    #[test]
    fn output_stops_at_its_budget() {
        let (mut reader, writer) = pipe();
        let budget = Arc::new(OutputBudget::new(4));
        let output = StandardOutput::new(writer, budget.clone(), Weak::new());
        assert_eq!(output.write(&mut HostInput::new(b"abc"), 0), Ok(3));
        assert!(!budget.is_exhausted());
        assert_eq!(output.write(&mut HostInput::new(b"de"), 0), Err(Errno::IO));
        assert!(budget.is_exhausted());
        let mut buffer = [0; 8];
        assert_eq!(reader.read(&mut buffer).ok(), Some(3));
    }
}
