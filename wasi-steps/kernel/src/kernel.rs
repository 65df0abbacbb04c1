//! One step's kernel: its tables, its limits, and the interface to whoever runs the step.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use cooper_vfs::RootFs;
use cooper_x86::interpreter::Exit;
use cooper_x86::state::CpuState;

use crate::files::registry::Registry;
use crate::memory::AddressSpace;
use crate::sockets::network::NetworkPolicy;
use crate::task::table::Table;
use crate::wait::lock;

/// Runs guest code of one thread until something happens that is the kernel's business.
pub trait Executor: Send {
    /// Runs from `cpu.rip`; comes back soon after `stop` becomes non-zero.
    fn run(&mut self, cpu: &mut CpuState, space: &AddressSpace, stop: &AtomicU8) -> Exit;

    /// How many guest instructions it has run so far.
    fn instructions(&self) -> u64;
}

/// Makes an executor for each new guest thread.
pub trait ExecutorFactory: Send + Sync {
    /// A fresh executor.
    fn executor(&self) -> Box<dyn Executor>;
}

/// What a step may use.
#[derive(Clone, Debug)]
pub struct KernelLimits {
    /// Bytes of private writable memory of all processes together.
    pub memory_bytes: u64,
    /// Processes and threads together.
    pub tasks: usize,
    /// Descriptors of one process (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// Bytes on standard output and error together.
    pub output_bytes: u64,
}

/// What the machine says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `uname -n`.
    pub hostname: Vec<u8>,
    /// Number of processors.
    pub cpus: u32,
    /// Physical memory in bytes.
    pub memory_bytes: u64,
}

/// The step's standard streams, as host files.
#[derive(Debug)]
pub struct StepIo {
    /// Standard input; `/dev/null` when absent.
    pub stdin: Option<File>,
    /// Standard output.
    pub stdout: File,
    /// Standard error.
    pub stderr: File,
}

/// Everything a kernel is made of.
#[expect(missing_debug_implementations, reason = "executors have nothing to show")]
pub struct KernelConfig {
    /// The file system.
    pub root_fs: RootFs,
    /// What the step may use.
    pub limits: KernelLimits,
    /// What the machine says it is.
    pub identity: Identity,
    /// Runs guest code.
    pub executors: Arc<dyn ExecutorFactory>,
    /// Standard streams.
    pub stdio: StepIo,
    /// What of the outside may be reached.
    pub network: NetworkPolicy,
}

/// Which of the step's limits was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitKind {
    /// [`KernelLimits::memory_bytes`].
    Memory,
    /// [`KernelLimits::tasks`].
    Tasks,
    /// Host mappings, of which there are a bounded number.
    Mappings,
    /// [`KernelLimits::output_bytes`].
    Output,
}

/// What a step did that its caller may want to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls that are not implemented, by name, with how often they were made.
    pub unimplemented: BTreeMap<String, u64>,
    /// Limits that were reached.
    pub limits: Vec<LimitKind>,
    /// What may explain a failure: a program for another machine, say.
    pub hints: Vec<String>,
    /// Guest instructions run.
    pub instructions: u64,
    /// The most private writable memory that was mapped at once.
    pub peak_memory: u64,
}

/// The most hints that are kept.
const MAX_HINTS: usize = 16;

/// One step.
pub struct Kernel {
    pub(crate) root_fs: RootFs,
    pub(crate) limits: KernelLimits,
    pub(crate) identity: Identity,
    pub(crate) executors: Arc<dyn ExecutorFactory>,
    pub(crate) stdio: StepIo,
    /// What the files of the step share.
    pub(crate) registry: Registry,
    pub(crate) started: Instant,
    pub(crate) table: Mutex<Table>,
    /// Notified when a task has left for good.
    pub(crate) task_left: Condvar,
    report: Mutex<Report>,
}

impl Kernel {
    /// A kernel without processes.
    pub fn new(config: KernelConfig) -> Arc<Self> {
        Arc::new(Self {
            registry: Registry::new(config.network, config.limits.output_bytes),
            root_fs: config.root_fs,
            limits: config.limits,
            identity: config.identity,
            executors: config.executors,
            stdio: config.stdio,
            started: Instant::now(),
            table: Mutex::default(),
            task_left: Condvar::new(),
            report: Mutex::default(),
        })
    }

    /// What happened so far.
    pub fn report(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Time since the step's machine was started, which is its monotonic clock.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Remembers that a limit was reached.
    pub(crate) fn limit_reached(&self, limit: LimitKind) {
        let mut report = lock(&self.report);
        if !report.limits.contains(&limit) {
            report.limits.push(limit);
        }
    }

    /// Remembers something that may explain a failure.
    pub(crate) fn hint(&self, hint: String) {
        let mut report = lock(&self.report);
        if report.hints.len() < MAX_HINTS && !report.hints.contains(&hint) {
            report.hints.push(hint);
        }
    }

    /// Counts a call that is not implemented.
    pub(crate) fn count_unimplemented(&self, name: &str) {
        *lock(&self.report).unimplemented.entry(name.to_owned()).or_default() += 1;
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Kernel").field("limits", &self.limits).finish_non_exhaustive()
    }
}
