//! `pidfd`: a process behind a descriptor.

use std::fmt;
use std::sync::Arc;

use super::{Anonymous, Errno, FileObject, Kind, Output, QueueRef, Ready, Watch, lock};
use crate::kernel::Kernel;
use crate::task::Process;

/// A process that a descriptor names; it stays this process when its number is given again (pidfd_open(2)).
pub(crate) struct ProcessFile {
    process: Arc<Process>,
    kernel: Arc<Kernel>,
}

impl ProcessFile {
    /// Names a process.
    pub(crate) fn new(process: Arc<Process>, kernel: Arc<Kernel>) -> Self {
        Self { process, kernel }
    }

    /// The process.
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Whether the process has ended, waited for or not.
    pub(crate) fn has_ended(&self) -> bool {
        let table = lock(&self.kernel.table);
        table
            .process(self.process.pid())
            .is_none_or(|node| node.zombie.is_some() || !Arc::ptr_eq(&node.process, &self.process))
    }
}

impl fmt::Debug for ProcessFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ProcessFile({})", self.process.pid())
    }
}

impl FileObject for ProcessFile {
    fn read(&self, _output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    fn poll(&self) -> Ready {
        if self.has_ended() { Ready::READABLE } else { Ready::empty() }
    }

    fn watch(&self, watch: &mut Watch) {
        watch.queues.push(QueueRef::Process(Arc::clone(&self.process)));
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::inode("[pidfd]"))
    }

    fn information(&self) -> String {
        let pid = if self.has_ended() { -1 } else { i64::from(self.process.pid()) };
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Process(self)
    }
}
