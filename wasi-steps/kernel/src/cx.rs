//! What a system call handler gets.
//!
//! [`Cx`] bundles the calling thread, the kernel and the registers for the time of one system call. The pieces that
//! file calls ask for again and again - root directory, credentials - are looked up once per call, so one call sees
//! one set of credentials even while another thread changes them.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cooper_vfs::{Caller, Errno, Position, Walk};
use cooper_x86::state::CpuState;

use crate::files::description::Description;
use crate::files::table::DescriptorTable;
use crate::kernel::Kernel;
use crate::memory::AddressSpace;
use crate::syscalls::SysError;
use crate::task::{Credentials, FsContext, Process, Task};
use crate::wait::{WaitEnd, WaitQueue};

/// Longest path a call accepts, with its terminating zero.
pub(crate) const PATH_MAX: usize = 4096;

/// `dirfd` that stands for the working directory.
pub(crate) const AT_FDCWD: i32 = -100;

/// The calling thread, the kernel and the registers during one system call.
pub(crate) struct Cx<'t> {
    /// The thread that calls.
    pub(crate) task: &'t Arc<Task>,
    /// The kernel of this step.
    pub(crate) kernel: &'t Arc<Kernel>,
    /// Its registers; `rax` is set from the handler's result afterwards.
    pub(crate) cpu: &'t mut CpuState,
    /// Its address space; `execve` puts a new one here.
    pub(crate) space: &'t mut Arc<AddressSpace>,
    /// Number of the call.
    pub(crate) number: u64,
    view: OnceCell<(Arc<FsContext>, Position, Arc<Credentials>)>,
}

impl<'t> Cx<'t> {
    /// The context of one call.
    pub(crate) fn new(
        task: &'t Arc<Task>,
        cpu: &'t mut CpuState,
        space: &'t mut Arc<AddressSpace>,
        number: u64,
    ) -> Self {
        Self { task, kernel: task.kernel(), cpu, space, number, view: OnceCell::new() }
    }

    /// The thread group of the caller.
    pub(crate) fn process(&self) -> &Arc<Process> {
        self.task.process()
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &AddressSpace {
        self.space
    }

    fn view(&self) -> &(Arc<FsContext>, Position, Arc<Credentials>) {
        self.view.get_or_init(|| {
            let fs = self.task.fs();
            let root = fs.root();
            (fs, root, self.task.credentials())
        })
    }

    /// From where and as whom paths are resolved.
    pub(crate) fn walk(&self) -> Walk<'_> {
        let (_, root, credentials) = self.view();
        Walk { root, credentials: &credentials.filesystem, caller: self.caller() }
    }

    /// Who asks, for `/proc/self`.
    pub(crate) fn caller(&self) -> Caller {
        Caller { process: self.process().pid(), thread: self.task.tid() }
    }

    /// The caller's credentials.
    pub(crate) fn credentials(&self) -> &Arc<Credentials> {
        &self.view().2
    }

    /// Root directory, working directory and umask.
    pub(crate) fn fs(&self) -> &Arc<FsContext> {
        &self.view().0
    }

    /// The working directory.
    pub(crate) fn cwd(&self) -> Position {
        self.fs().cwd()
    }

    /// The caller's descriptors.
    pub(crate) fn files(&self) -> Arc<DescriptorTable> {
        self.task.files()
    }

    /// The open file description of `fd`.
    ///
    /// `EBADF` when it is not open.
    pub(crate) fn file(&self, fd: u64) -> Result<Arc<Description>, Errno> {
        self.files().get(fd as i32)
    }

    /// Copies a path in.
    ///
    /// `EFAULT` when it is not readable, `ENAMETOOLONG` when it does not end within `PATH_MAX`.
    pub(crate) fn path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        self.memory().read_c_string(address, PATH_MAX)
    }

    /// Waits for `attempt` to give a value; see [`Task::wait`].
    pub(crate) fn wait<T>(
        &self,
        queues: &[&WaitQueue],
        deadline: Option<Instant>,
        attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        self.task.wait(queues, deadline, attempt)
    }

    /// The moment `timeout` from now, or from when this call was first made if it has been restarted since without
    /// a handler having run.
    pub(crate) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        self.task.deadline(timeout)
    }
}

/// Ends of waits as a call that may be restarted after a handler with `SA_RESTART` reports them.
impl From<WaitEnd> for SysError {
    fn from(end: WaitEnd) -> Self {
        match end {
            WaitEnd::Interrupted | WaitEnd::Killed => Self::Restart,
            WaitEnd::TimedOut => Self::Errno(Errno::AGAIN),
        }
    }
}
