//! Tasks: guest threads, the processes they form, and the table of both.
//!
//! A [`Task`] is one guest thread and runs on one host thread. A [`Process`] is a thread group: what its threads share
//! whatever `clone` was told. Everything else a thread points to through an `Arc` - address space, descriptors,
//! directories, credentials - so that `clone` shares or copies each on its own. Who is whose parent, in which
//! process group and session, lives in the [`table`], under one lock.
//!
//! What must hold: a task is in its process's list of threads from before it first runs until it has left the
//! table; only the thread itself changes its mask, registers, address space and credentials; others read them.

pub(crate) mod clone;
pub(crate) mod credentials;
pub(crate) mod exec;
pub(crate) mod exit;
mod host_thread;
pub(crate) mod limits;
pub(crate) mod process;
pub(crate) mod run;
pub(crate) mod table;
pub(crate) mod wait4;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cooper_vfs::Position;

use crate::cputime::ThreadClock;
use crate::files::table::DescriptorTable;
use crate::kernel::Kernel;
use crate::memory::AddressSpace;
use crate::signal::{AlternateStack, PendingSignals, SignalSet};
use crate::stop::StopFlag;
use crate::wait::{Interrupts, Sleeper, WaitEnd, WaitQueue, lock};

pub use credentials::Credentials;
pub use process::ExitStatus;
pub(crate) use process::Process;

/// Longest name of a thread, without the terminating zero.
pub(crate) const NAME_MAX: usize = 15;

/// Root directory, working directory and file creation mask; `CLONE_FS` shares them.
#[derive(Debug)]
pub(crate) struct FsContext {
    root: Mutex<Position>,
    cwd: Mutex<Position>,
    umask: AtomicU32,
}

impl FsContext {
    /// Starts in `cwd` under `root`.
    pub(crate) fn new(root: Position, cwd: Position, umask: u32) -> Arc<Self> {
        Arc::new(Self { root: Mutex::new(root), cwd: Mutex::new(cwd), umask: AtomicU32::new(umask) })
    }

    /// An own copy, as `fork` makes.
    pub(crate) fn duplicate(&self) -> Arc<Self> {
        Self::new(self.root(), self.cwd(), self.umask())
    }

    /// Where absolute paths start.
    pub(crate) fn root(&self) -> Position {
        lock(&self.root).clone()
    }

    /// Where relative paths start.
    pub(crate) fn cwd(&self) -> Position {
        lock(&self.cwd).clone()
    }

    /// `chroot`.
    pub(crate) fn set_root(&self, root: Position) {
        *lock(&self.root) = root;
    }

    /// `chdir`.
    pub(crate) fn set_cwd(&self, cwd: Position) {
        *lock(&self.cwd) = cwd;
    }

    /// Permission bits that new files do not get.
    pub(crate) fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// `umask`: returns the mask before.
    pub(crate) fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
}

/// What a new task starts with.
pub(crate) struct TaskParts {
    pub(crate) tid: u32,
    pub(crate) process: Arc<Process>,
    pub(crate) space: Arc<AddressSpace>,
    pub(crate) files: Arc<DescriptorTable>,
    pub(crate) fs: Arc<FsContext>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) mask: SignalSet,
    pub(crate) name: Vec<u8>,
}

/// One guest thread.
#[derive(Debug)]
pub(crate) struct Task {
    tid: AtomicU32,
    kernel: Arc<Kernel>,
    process: Arc<Process>,
    /// Raised when the thread has something to look at before it runs guest code again.
    pub(crate) stop: StopFlag,
    /// Set once: the thread has to end.
    killed: AtomicBool,
    sleeper: Arc<Sleeper>,
    mask: AtomicU64,
    /// The mask to go back to after `sigsuspend` and its kin.
    pub(crate) saved_mask: Mutex<Option<SignalSet>>,
    pub(crate) pending: Mutex<PendingSignals>,
    pub(crate) alternate_stack: Mutex<AlternateStack>,
    space: Mutex<Option<Arc<AddressSpace>>>,
    files: Mutex<Arc<DescriptorTable>>,
    fs: Mutex<Arc<FsContext>>,
    credentials: Mutex<Arc<Credentials>>,
    name: Mutex<Vec<u8>>,
    /// Zeroed and woken as a futex when the thread ends (`set_tid_address`).
    pub(crate) clear_child_tid: AtomicU64,
    /// Head of the robust futex list.
    pub(crate) robust_list: AtomicU64,
    /// Signal for this thread when its parent ends (`PR_SET_PDEATHSIG`).
    pub(crate) parent_death_signal: AtomicU32,
    pub(crate) no_new_privileges: AtomicBool,
    pub(crate) timer_slack: AtomicU64,
    /// The end of the wait of a call that was interrupted and may be restarted.
    restart_deadline: Mutex<Option<Option<Instant>>>,
    /// Processor time used so far.
    pub(crate) clock: ThreadClock,
    /// What `exit` was called with.
    pub(crate) exit_code: Mutex<u8>,
    /// Set while a `vfork` child uses the memory of the parent.
    pub(crate) vfork_done: Mutex<Option<Arc<VforkDone>>>,
}

/// Tells the parent of a `vfork` child that its memory is its own again.
#[derive(Debug, Default)]
pub(crate) struct VforkDone {
    /// Set when the child has left.
    pub(crate) done: AtomicBool,
    /// Where the parent waits.
    pub(crate) queue: WaitQueue,
}

impl VforkDone {
    /// Lets the parent go on.
    pub(crate) fn release(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
}

impl Task {
    /// Makes a task that is in no list yet.
    pub(crate) fn new(kernel: Arc<Kernel>, parts: TaskParts) -> Arc<Self> {
        Arc::new(Self {
            tid: AtomicU32::new(parts.tid),
            kernel,
            process: parts.process,
            stop: StopFlag::default(),
            killed: AtomicBool::new(false),
            sleeper: Sleeper::new(),
            mask: AtomicU64::new(parts.mask.0),
            saved_mask: Mutex::new(None),
            pending: Mutex::default(),
            alternate_stack: Mutex::new(AlternateStack::NONE),
            space: Mutex::new(Some(parts.space)),
            files: Mutex::new(parts.files),
            fs: Mutex::new(parts.fs),
            credentials: Mutex::new(parts.credentials),
            name: Mutex::new(parts.name),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            parent_death_signal: AtomicU32::new(0),
            no_new_privileges: AtomicBool::new(false),
            timer_slack: AtomicU64::new(50_000),
            restart_deadline: Mutex::new(None),
            clock: ThreadClock::default(),
            exit_code: Mutex::new(0),
            vfork_done: Mutex::new(None),
        })
    }

    /// The thread id.
    pub(crate) fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Takes over the process id as thread id, as `execve` by another thread than the first does.
    pub(crate) fn set_tid(&self, tid: u32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// The thread group.
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The memory the thread runs in; none once it has ended.
    pub(crate) fn space(&self) -> Option<Arc<AddressSpace>> {
        lock(&self.space).clone()
    }

    /// Replaces the memory, as `execve` does.
    pub(crate) fn set_space(&self, space: Arc<AddressSpace>) -> Option<Arc<AddressSpace>> {
        lock(&self.space).replace(space)
    }

    /// Lets the memory go at the end.
    pub(crate) fn drop_space(&self) {
        lock(&self.space).take();
    }

    /// The descriptors.
    pub(crate) fn files(&self) -> Arc<DescriptorTable> {
        lock(&self.files).clone()
    }

    /// Replaces the descriptors, as `unshare(CLONE_FILES)` and `execve` do.
    pub(crate) fn set_files(&self, files: Arc<DescriptorTable>) -> Arc<DescriptorTable> {
        std::mem::replace(&mut *lock(&self.files), files)
    }

    /// Directories and umask.
    pub(crate) fn fs(&self) -> Arc<FsContext> {
        lock(&self.fs).clone()
    }

    /// Replaces directories and umask, as `unshare(CLONE_FS)` does.
    pub(crate) fn set_fs(&self, fs: Arc<FsContext>) {
        *lock(&self.fs) = fs;
    }

    /// The credentials.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        lock(&self.credentials).clone()
    }

    /// Replaces the credentials.
    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        *lock(&self.credentials) = Arc::new(credentials);
    }

    /// The name of the thread (`comm`).
    pub(crate) fn name(&self) -> Vec<u8> {
        lock(&self.name).clone()
    }

    /// Renames the thread; cut to [`NAME_MAX`] bytes.
    pub(crate) fn set_name(&self, name: &[u8]) {
        *lock(&self.name) = name[..name.len().min(NAME_MAX)].to_vec();
    }

    /// The blocked signals.
    pub(crate) fn mask(&self) -> SignalSet {
        SignalSet(self.mask.load(Ordering::SeqCst))
    }

    /// Blocks exactly `mask`; what it frees is looked at before guest code runs again.
    pub(crate) fn set_mask(&self, mask: SignalSet) {
        self.mask.store(mask.as_mask().0, Ordering::SeqCst);
        self.stop.raise();
    }

    /// Blocks `mask` for this call only: it ends with the call, or is what a handler interrupts.
    pub(crate) fn set_temporary_mask(&self, mask: SignalSet) {
        lock(&self.saved_mask).get_or_insert(self.mask());
        self.set_mask(mask);
    }

    /// Goes back to the mask before [`set_temporary_mask`](Self::set_temporary_mask).
    pub(crate) fn restore_mask(&self) {
        if let Some(mask) = lock(&self.saved_mask).take() {
            self.set_mask(mask);
        }
    }

    /// The mask that a new task inherits: not that of a `sigsuspend` in between.
    pub(crate) fn saved_or_current_mask(&self) -> SignalSet {
        lock(&self.saved_mask).unwrap_or_else(|| self.mask())
    }

    /// How the thread ended by itself.
    pub(crate) fn own_exit_status(&self) -> ExitStatus {
        ExitStatus::Code(*lock(&self.exit_code))
    }

    /// Makes the thread look at what is new for it, whether it runs guest code or waits.
    pub(crate) fn notify(&self) {
        self.stop.raise();
        self.sleeper.wake();
    }

    /// Makes a waiting thread attempt again; code that runs is left alone.
    pub(crate) fn wake(&self) {
        self.sleeper.wake();
    }

    /// Tells the thread to end.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.notify();
    }

    /// Whether the thread has to end.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Waits until `attempt` gives a value. It is tried first, then again whenever one of `queues` is woken.
    ///
    /// Ends early when a signal is to be delivered, when `deadline` has passed, or when the thread has to end. Every
    /// wait of the kernel is this one; no lock may be held over it.
    pub(crate) fn wait<T>(
        &self,
        queues: &[&WaitQueue],
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        let start = Instant::now();
        let end = self.sleeper.wait(self, queues, deadline, attempt);
        self.clock.count_wait(start);
        end
    }

    /// Waits as [`wait`](Self::wait) does, but for the thread's death only (`vfork`).
    pub(crate) fn wait_killable<T>(
        &self,
        queues: &[&WaitQueue],
        attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let start = Instant::now();
        let end = self.sleeper.wait(&OnlyDeath(self), queues, None, attempt);
        self.clock.count_wait(start);
        end
    }

    /// See [`Cx::deadline`](crate::cx::Cx::deadline).
    pub(crate) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        *lock(&self.restart_deadline).get_or_insert_with(|| Instant::now().checked_add(timeout))
    }

    /// Forgets the deadline of an interrupted call, once it is not restarted.
    pub(crate) fn forget_deadline(&self) {
        *lock(&self.restart_deadline) = None;
    }

    /// The signals that are pending for the thread or its group.
    pub(crate) fn pending_set(&self) -> SignalSet {
        let shared = lock(&self.process.state).pending.set();
        lock(&self.pending).set().union(shared)
    }

    /// Whether a signal is pending that is not blocked, or the group is to stop.
    pub(crate) fn has_deliverable_signal(&self) -> bool {
        let state = lock(&self.process.state);
        let pending = lock(&self.pending).set().union(state.pending.set());
        state.stopped.is_some() || !pending.without(self.mask()).is_empty()
    }
}

impl Interrupts for Task {
    fn interruption(&self) -> Option<WaitEnd> {
        if self.is_killed() {
            return Some(WaitEnd::Killed);
        }
        // Whoever makes something pending sets the stop byte next and wakes last, so a look that comes too early is
        // followed by another.
        if !self.stop.is_raised() {
            return None;
        }
        self.has_deliverable_signal().then_some(WaitEnd::Interrupted)
    }
}

struct OnlyDeath<'a>(&'a Task);

impl Interrupts for OnlyDeath<'_> {
    fn interruption(&self) -> Option<WaitEnd> {
        self.0.is_killed().then_some(WaitEnd::Killed)
    }
}
