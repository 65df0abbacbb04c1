//! Thread groups.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cooper_vfs::Position;

use super::Task;
use super::limits::Limits;
use crate::cputime::CpuTime;
use crate::signal::{Actions, PendingSignals};
use crate::time::ProcessTimers;
use crate::wait::{WaitQueue, lock};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By `exit` with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
    /// By this signal, where Linux would have written a core dump if it were allowed to.
    Core(u8),
}

impl ExitStatus {
    /// The number that `wait4` stores. No core is ever written, so its flag is never set.
    pub fn wait_status(self) -> i32 {
        match self {
            Self::Code(code) => i32::from(code) << 8,
            Self::Signal(number) | Self::Core(number) => i32::from(number),
        }
    }
}

/// Processor time of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// Of threads that have ended.
    pub(crate) ended_threads: CpuTime,
    /// Of children that were waited for, and theirs.
    pub(crate) children: CpuTime,
}

/// What the threads of a group agree on under one lock.
#[derive(Debug, Default)]
pub(crate) struct ProcessState {
    /// The threads that have not left.
    pub(crate) threads: Vec<Arc<Task>>,
    /// Signals for any of the threads.
    pub(crate) pending: PendingSignals,
    /// The signal that stopped the group.
    pub(crate) stopped: Option<u32>,
    /// Set once: how the group ends.
    pub(crate) exiting: Option<ExitStatus>,
    /// Set while one thread ends all others for `execve`.
    pub(crate) executing: bool,
}

/// What `/proc` shows of the program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// The executable file.
    pub(crate) executable: Option<Position>,
}

/// One thread group.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pub(crate) state: Mutex<ProcessState>,
    actions: Mutex<Arc<Mutex<Actions>>>,
    pub(crate) limits: Mutex<Limits>,
    pub(crate) program: Mutex<Program>,
    pub(crate) times: Mutex<Times>,
    pub(crate) timers: Mutex<ProcessTimers>,
    /// Woken when a child changes state.
    pub(crate) children_changed: WaitQueue,
    /// Woken when the group goes on after a stop, when it ends, and when a thread leaves.
    pub(crate) state_changed: WaitQueue,
    /// When the process was made.
    pub(crate) started: Instant,
    /// Set by `execve`: `setpgid` by the parent is refused from then on.
    pub(crate) has_executed: AtomicBool,
    /// The nice value, which programs can read back and which does nothing.
    pub(crate) nice: AtomicI32,
    /// `PR_SET_DUMPABLE`.
    pub(crate) dumpable: AtomicU32,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub(crate) subreaper: AtomicBool,
}

impl Process {
    /// Makes a process that is in no table yet.
    pub(crate) fn new(pid: u32, actions: Arc<Mutex<Actions>>, limits: Limits, program: Program) -> Arc<Self> {
        Arc::new(Self {
            pid,
            state: Mutex::default(),
            actions: Mutex::new(actions),
            limits: Mutex::new(limits),
            program: Mutex::new(program),
            times: Mutex::default(),
            timers: Mutex::default(),
            children_changed: WaitQueue::new(),
            state_changed: WaitQueue::new(),
            started: Instant::now(),
            has_executed: AtomicBool::new(false),
            nice: AtomicI32::new(0),
            dumpable: AtomicU32::new(1),
            subreaper: AtomicBool::new(false),
        })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this is the step's command: like every init it gets only signals that it has handlers for.
    pub(crate) fn is_init(&self) -> bool {
        self.pid == 1
    }

    /// The signal actions.
    pub(crate) fn actions(&self) -> Arc<Mutex<Actions>> {
        lock(&self.actions).clone()
    }

    /// Replaces the signal actions by an own copy, as `execve` does.
    pub(crate) fn set_actions(&self, actions: Arc<Mutex<Actions>>) {
        *lock(&self.actions) = actions;
    }

    /// The soft limit of a resource.
    pub(crate) fn limit(&self, resource: usize) -> u64 {
        lock(&self.limits).soft(resource)
    }

    /// The threads that have not left, the first one first.
    pub(crate) fn threads(&self) -> Vec<Arc<Task>> {
        lock(&self.state).threads.clone()
    }

    /// Any thread, the first one if it is still there.
    pub(crate) fn any_thread(&self) -> Option<Arc<Task>> {
        lock(&self.state).threads.first().cloned()
    }

    /// Lets the whole group end; the first status given wins.
    pub(crate) fn begin_exit(&self, status: ExitStatus) {
        let mut state = lock(&self.state);
        state.exiting.get_or_insert(status);
        state.stopped = None;
        state.threads.iter().for_each(|task| task.kill());
        drop(state);
        self.state_changed.wake_all();
    }

    /// Processor time of all threads so far.
    pub(crate) fn cpu_time(&self) -> CpuTime {
        let running: CpuTime = lock(&self.state).threads.iter().map(|task| task.clock.read()).sum();
        lock(&self.times).ended_threads + running
    }
}
