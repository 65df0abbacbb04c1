//! One step's kernel: its tables, its limits, and the interface to whoever runs the step.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cooper_vfs::{Caller, Errno, Follow, MountOptions, MountSource, RootFs, Walk};
use cooper_x86::interpreter::Exit;
use cooper_x86::state::CpuState;

use crate::devices::stdio::standard_descriptors;
use crate::exec::wasm::WasmLoader;
use crate::exec::{self, LoadError};
use crate::files::registry::Registry;
use crate::futex::Futexes;
use crate::ipc::Objects;
use crate::ipc::message::Queue;
use crate::ipc::semaphore::Set;
use crate::memory::segment::Segments;
use crate::memory::{AddressSpace, MemoryAccount, watch};
use crate::signal::{Actions, SignalSet, signal};
use crate::sockets::network::NetworkPolicy;
use crate::stop::StopFlag;
use crate::task::limits::{Limits, resource};
use crate::task::process::{ExitStatus, Program};
use crate::task::table::{Node, Table};
use crate::task::{Credentials, FsContext, Process, Task, TaskParts, run};
use crate::time::TimerQueue;
use crate::wait::lock;

/// Stack of the host threads that run guest threads, in bytes.
///
/// Translated code uses up to half of it; what is not touched costs nothing.
pub const HOST_STACK: usize = 36 << 20;

/// Runs the guest code of one thread.
pub trait Executor: Send {
    /// Runs from `cpu.rip` in the supervisor's address space until the supervisor says that the thread ends.
    fn run(&mut self, cpu: &mut CpuState, supervisor: &mut dyn Supervisor);

    /// How many guest instructions it has run so far.
    fn instructions(&self) -> u64;
}

/// The kernel, as the executor of one guest thread sees it.
pub trait Supervisor: Send {
    /// The thread's memory. Another one after an `execve`.
    fn space(&self) -> &Arc<AddressSpace>;

    /// Raised when the thread has to come to [`serve`](Self::serve) soon.
    fn stop(&self) -> &StopFlag;

    /// Whether the thread runs in the memory of a parent that waits for it (`vfork`): it will not run for long.
    fn is_brief(&self) -> bool;

    /// Serves whatever made guest code stop, and looks at signals. `instructions` is [`Executor::instructions`].
    fn serve(&mut self, cpu: &mut CpuState, exit: Exit, instructions: u64) -> Flow;

    /// Ends the process by a signal that its program has brought upon itself, as a fault does.
    fn fail(&mut self, signal: u32) -> Flow;

    /// Remembers something that may explain a failure.
    fn hint(&self, hint: String);
}

/// What a guest thread does after its kernel has served it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It runs on from `cpu.rip`.
    Run,
    /// It has ended.
    End,
}

/// Makes an executor for each new guest thread.
pub trait ExecutorFactory: Send + Sync {
    /// A fresh executor.
    fn executor(&self) -> Box<dyn Executor>;
}

/// Where sockets of the host have their nodes; each is mounted where the step wants it, too.
const HOST_SOCKETS: &[u8] = b"/run/cooper/sockets";

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
    /// Other limits (`RLIMIT_*`) by their `ulimit` names: soft and hard.
    pub resources: Vec<(String, u64, u64)>,
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
    /// Says which WebAssembly files are programs; without one, none is.
    pub wasm: Option<Arc<dyn WasmLoader>>,
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
    pub(crate) wasm: Option<Arc<dyn WasmLoader>>,
    pub(crate) stdio: StepIo,
    /// What the files of the step share.
    pub(crate) registry: Registry,
    pub(crate) started: Instant,
    memory: Arc<MemoryAccount>,
    pub(crate) instructions: AtomicU64,
    pub(crate) futexes: Futexes,
    pub(crate) timers: Arc<TimerQueue>,
    /// System V shared memory.
    pub(crate) segments: Mutex<Segments>,
    /// System V semaphores.
    pub(crate) semaphores: Mutex<Objects<Set>>,
    /// System V message queues.
    pub(crate) queues: Mutex<Objects<Queue>>,
    pub(crate) table: Mutex<Table>,
    /// Notified when a task has left for good.
    pub(crate) task_left: Condvar,
    report: Mutex<Report>,
}

impl Kernel {
    /// A kernel without processes.
    pub fn new(config: KernelConfig) -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryAccount::new(config.limits.memory_bytes),
            instructions: AtomicU64::new(0),
            futexes: Futexes::default(),
            timers: Arc::default(),
            segments: Mutex::default(),
            semaphores: Mutex::default(),
            queues: Mutex::default(),
            registry: Registry::new(config.network, config.limits.output_bytes),
            root_fs: config.root_fs,
            limits: config.limits,
            identity: config.identity,
            executors: config.executors,
            wasm: config.wasm,
            stdio: config.stdio,
            started: Instant::now(),
            table: Mutex::default(),
            task_left: Condvar::new(),
            report: Mutex::default(),
        })
    }

    /// Makes a socket at `target` of which every connection is one to a socket of the host.
    pub fn mount_host_socket(
        &self,
        target: &[u8],
        host: &std::path::Path,
        (mode, uid, gid): (u16, u32, u32),
    ) -> Result<(), Errno> {
        const SOCKET: u32 = 0o140_000;
        let root = self.root_fs.root();
        let credentials = cooper_vfs::Credentials::root();
        let caller = Caller { process: 0, thread: 0 };
        let walk = Walk { root: &root, credentials: &credentials, caller };
        // The node needs a file system of its own, of which only the node is seen.
        let place = MountSource::Tmpfs { size: None, mode: 0o700, uid: 0, gid: 0 };
        self.root_fs.mount(HOST_SOCKETS, place, MountOptions::WRITABLE)?;
        let base = self.root_fs.resolve(&walk, &root, HOST_SOCKETS, Follow::Yes)?;
        let node = self.root_fs.make_node(&walk, &base, b"socket", SOCKET | u32::from(mode), 0)?;
        node.set_owner(&walk, Some(uid), Some(gid))?;
        self.root_fs.mount(target, MountSource::Bind(node.clone()), MountOptions::WRITABLE)?;
        let poller = Arc::clone(&self.registry.inet.poller);
        self.registry.unix.lead_outward(node.node(), target.to_vec(), host.to_owned(), poller);
        Ok(())
    }

    /// Starts the step's command as process 1.
    ///
    /// Fails with the errno that `execve` would give: `ENOENT`, `EACCES`, `ENOEXEC` and so on.
    pub fn start_init(self: &Arc<Self>, command: InitCommand) -> Result<(), Errno> {
        start_init(self, command)
    }

    /// Waits until the command and everything it left behind have ended.
    pub fn wait_init(&self) -> ExitStatus {
        let mut table = lock(&self.table);
        while !table.tasks.is_empty() {
            table = self.task_left.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        table.process(1).and_then(|node| node.zombie).unwrap_or(ExitStatus::Code(0))
    }

    /// Ends all processes; `wait_init` returns soon after.
    pub fn kill_all(&self) {
        let mut table = lock(&self.table);
        table.ending = true;
        for node in table.processes.values() {
            node.process.begin_exit(ExitStatus::Signal(signal::KILL as u8));
        }
    }

    /// What happened so far.
    pub fn report(&self) -> Report {
        let mut report = lock(&self.report).clone();
        let (memory, mappings) = self.memory.reached();
        let output = self.registry.output.is_exhausted();
        let reached =
            [(memory, LimitKind::Memory), (mappings, LimitKind::Mappings), (output, LimitKind::Output)];
        report.limits.extend(reached.into_iter().filter(|(reached, _)| *reached).map(|(_, limit)| limit));
        report.instructions = self.instructions.load(Ordering::Relaxed);
        report.peak_memory = self.memory.peak();
        report
    }

    /// What all address spaces use together.
    pub(crate) fn memory(&self) -> &Arc<MemoryAccount> {
        &self.memory
    }

    /// Fills a buffer with random bytes of the host.
    pub(crate) fn random_bytes(&self, buffer: &mut [u8]) -> Result<(), Errno> {
        let mut filled = 0;
        while filled < buffer.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            match rustix::rand::getrandom(&mut buffer[filled..], flags) {
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
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

/// The command of a step.
#[derive(Clone, Debug)]
pub struct InitCommand {
    /// Path of the program, absolute or relative to the working directory.
    pub path: Vec<u8>,
    /// Arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=value` strings.
    pub environment: Vec<Vec<u8>>,
    /// The working directory, which must exist.
    pub working_directory: Vec<u8>,
    /// Whom it runs as.
    pub credentials: Credentials,
    /// File creation mask.
    pub umask: u32,
}

fn start_init(kernel: &Arc<Kernel>, command: InitCommand) -> Result<(), Errno> {
    let root = kernel.root_fs.root();
    let caller = Caller { process: 1, thread: 1 };
    let walk = Walk { root: &root, credentials: &command.credentials.filesystem, caller };
    let cwd = kernel.root_fs.resolve(&walk, &root, &command.working_directory, Follow::Yes)?;
    let position = kernel.root_fs.resolve(&walk, &cwd, &command.path, Follow::Yes)?;
    exec::check_executable(&walk, &position)?;
    let limits =
        Limits::new(kernel.limits.tasks as u64, kernel.limits.open_files).with(&kernel.limits.resources)?;
    let program = exec::load(
        kernel,
        exec::ExecRequest {
            position,
            path: command.path,
            arguments: command.arguments,
            environment: command.environment,
            walk,
            cwd: cwd.clone(),
            credentials: &command.credentials,
            no_new_privileges: false,
            stack_limit: limits.soft(resource::STACK),
        },
    )
    .map_err(|error| match error {
        LoadError::Errno(errno) => errno,
        LoadError::Fatal => Errno::NOEXEC,
    })?;
    let files = standard_descriptors(kernel)?;
    let image = Program { executable: Some(program.executable) };
    let process = Process::new(1, Actions::new(), limits, image);
    let parts = TaskParts {
        tid: 1,
        process: process.clone(),
        space: program.space.clone(),
        files,
        fs: FsContext::new(root.clone(), cwd, command.umask),
        credentials: Arc::new(program.credentials),
        mask: SignalSet::EMPTY,
        name: program.name,
    };
    let task = Task::new(kernel.clone(), parts);
    lock(&process.state).threads.push(task.clone());
    {
        let mut table = lock(&kernel.table);
        if table.allocate()? != 1 {
            return Err(Errno::BUSY);
        }
        table.insert(Node {
            process,
            parent: 0,
            children: std::collections::BTreeSet::new(),
            group: 1,
            session: 1,
            zombie: None,
            exit_signal: 0,
            report: None,
            uid: task.credentials().user.real,
        });
        table.tasks.insert(1, task.clone());
    }
    let started = run::start(task, program.cpu, program.space);
    watch::start(kernel);
    if started.is_err() {
        lock(&kernel.table).tasks.clear();
    }
    started
}
