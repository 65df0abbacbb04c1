//! The process of one step, from its request to its answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cooper_build::step::{Bytes, Exit, Limit, LimitHit, Record, Stdin, StepOutcome, StepRequest, TreeRecord};
use cooper_kernel::{Console, Credentials, ExitStatus, InitCommand, Kernel, LimitKind, Report, StepIo};
use cooper_vfs::{ContentStore, Errno, RootFs};
use rustix::process::{Resource, Rlimit};

use crate::cache::CodeCache;
use crate::compiler::{Compiler, Policy};
use crate::helper::Helper;
use crate::machine::{self, World};
use crate::output::OutputPump;
use crate::tiers::Tiers;
use crate::toolbox::{self, Builtins};
use crate::wasi::loader::{Programs, WasmServices};
use crate::wire::{self, Answer, Failure, Tag, Typed};

/// The command's file creation mask, as container runtimes set it.
const UMASK: u32 = 0o022;
/// Exit code of a process that could not even answer.
const NO_ANSWER: u8 = 70;

/// Whether the tiers are compared while they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checking {
    /// They are not.
    None,
    /// The interpreter runs everything as well; the step ends where the two differ. It takes many times as long.
    LockStep,
}

/// How a step's code is translated.
#[derive(Clone, Debug)]
pub struct Translation {
    /// Whether it is checked.
    pub checking: Checking,
    /// What is worth it.
    pub policy: Policy,
    /// Starts a helper; without one only cached code is used.
    pub helper: Option<Helper>,
    /// Keeps translated code.
    pub cache: Option<Arc<dyn CodeCache>>,
}

/// What a step's process works with.
#[derive(Debug)]
pub struct StepServices {
    /// The store that the request's trees lie in.
    pub store: Arc<dyn ContentStore>,
    /// How code is translated; `None` interprets everything.
    pub translation: Option<Translation>,
    /// How WebAssembly programs are compiled.
    pub wasm: WasmServices,
    /// When the step gets the toolbox.
    pub builtins: Builtins,
}

/// Runs one step: reads the request from descriptor 0, writes output and answer to descriptor 1.
///
/// For `main` of the process that [`ProcessRunner`](crate::ProcessRunner) starts.
pub fn step_main(open: impl FnOnce() -> Result<StepServices, String>) -> ExitCode {
    let out = SharedOut::default();
    let answer = harden().and_then(|()| answer(open, out.clone()));
    let Ok(bytes) = serde_json::to_vec(&answer) else { return ExitCode::from(NO_ANSWER) };
    match wire::write_frame(&mut out.clone(), Tag::Answer, &bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(NO_ANSWER),
    }
}

/// Gives up what the step does not need: it dies with its parent, dumps no core, gains no privilege.
fn harden() -> Result<(), Failure> {
    let failed =
        |errno: rustix::io::Errno| Failure::Died(format!("cannot confine the step's process: {errno}"));
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(failed)?;
    rustix::thread::set_no_new_privs(true).map_err(failed)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(failed)?;
    // Every written file of more than 64 KiB has a descriptor, and so has every pack in use.
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })
        .map_err(failed)
}

fn answer(open: impl FnOnce() -> Result<StepServices, String>, out: SharedOut) -> Answer {
    let died = |error: io::Error| Failure::Died(error.to_string());
    // Without a buffer: what follows the request is the step's standard input.
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(died)?;
    let mut input = File::from(input);
    let mut request = wire::read_request(&mut input).map_err(died)?;
    let StepServices { store, translation, wasm, builtins } = open().map_err(Failure::Store)?;
    let checking = translation.as_ref().map_or(Checking::None, |translation| translation.checking);
    let (tiers, compiler) = tiers(translation, &store).map_err(died)?;
    let (pump, pipes) = OutputPump::start(out.clone()).map_err(died)?;
    let (stdin, keyboard) = match request.stdin {
        Stdin::Null => (None, None),
        Stdin::Inherit => (Some(input), None),
        Stdin::Terminal { .. } => (None, Some(input)),
    };
    let stdio = StepIo { stdin, stdout: pipes.stdout, stderr: pipes.stderr };
    let screen = stdio.stdout.try_clone().map_err(died)?;
    let root_fs = machine::root_fs(&request, store.clone())?;
    let kernel = machine::kernel(
        &request,
        root_fs.clone(),
        stdio,
        &tiers,
        Programs::new(wasm, toolbox::contents().collect()),
    );
    let world = machine::mount(&request, &kernel, &root_fs)?;
    if let Some(line) = toolbox::serve(builtins, &mut request, &root_fs, &store)? {
        wire::write_frame(&mut out.clone(), Tag::Stderr, format!("{line}\n").as_bytes()).map_err(died)?;
    }
    let console = match request.stdin {
        Stdin::Null | Stdin::Inherit => None,
        Stdin::Terminal { rows, columns } => {
            let console = kernel.open_console(rows, columns);
            let console = console.map_err(|errno| Failure::Died(format!("no terminal: {errno}")))?;
            Some(
                Screen::start(
                    Arc::new(console),
                    keyboard.ok_or_else(|| Failure::Died("no input".to_owned()))?,
                    screen,
                )
                .map_err(died)?,
            )
        }
    };
    if checking == Checking::LockStep {
        check(&tiers, &kernel).map_err(died)?;
    }
    let ended = run(&request, &kernel, &world.root_fs);
    if let Some(console) = console {
        console.finish();
    }
    let ended = ended?;
    let mut report = kernel.report();
    if let Some(compiler) = compiler {
        compiler.finish();
    }
    report.hints.extend(tiers.complaints());
    pump.finish().map_err(died)?;
    if let Some(difference) = tiers.difference() {
        return Err(Failure::Died(difference.to_owned()));
    }
    outcome(&request, &world, &ended, report)
}

/// Has the tiers compared, and the step end when they differ.
fn check(tiers: &Tiers, kernel: &Arc<Kernel>) -> io::Result<()> {
    let (checker, differences) = mpsc::channel();
    tiers.verify(checker);
    let kernel = kernel.clone();
    // Not joined: it waits as long as there may be a difference.
    thread::Builder::new().name("verify".to_owned()).spawn(move || {
        if differences.recv().is_ok() {
            kernel.kill_all();
        }
    })?;
    Ok(())
}

/// The threads between the step's terminal and the pipes of its process.
struct Screen {
    console: Arc<Console>,
    output: thread::JoinHandle<()>,
}

impl Screen {
    fn start(console: Arc<Console>, mut keyboard: File, mut screen: File) -> io::Result<Self> {
        let (typed, shown) = (console.clone(), console.clone());
        // Not joined: it waits for keys as long as the process lives.
        thread::Builder::new().name("keyboard".to_owned()).spawn(move || {
            while let Ok(Some(event)) = wire::read_typed(&mut keyboard) {
                match event {
                    Typed::Keys(keys) if typed.type_in(&keys).is_ok() => {}
                    Typed::Keys(_) => return,
                    Typed::Size { rows, columns } => typed.resize(rows, columns),
                }
            }
        })?;
        let output = thread::Builder::new().name("screen".to_owned()).spawn(move || {
            let mut buffer = [0; 1 << 14];
            while let Ok(count @ 1..) = shown.read(&mut buffer) {
                if screen.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { console, output })
    }

    /// Waits until everything is shown.
    fn finish(self) {
        self.console.end();
        // A panic there has been said by the thread itself.
        drop(self.output.join());
    }
}

fn tiers(
    translation: Option<Translation>,
    store: &Arc<dyn ContentStore>,
) -> io::Result<(Arc<Tiers>, Option<Compiler>)> {
    let Some(Translation { policy, helper, cache, .. }) = translation else {
        return Ok((Tiers::interpreted(), None));
    };
    let tiers = Tiers::translated(cache);
    let compiler =
        helper.map(|helper| Compiler::start(tiers.clone(), store.clone(), helper, policy)).transpose()?;
    Ok((tiers, compiler))
}

/// How the command ended, and whether its time was up.
struct Ended {
    status: ExitStatus,
    timed_out: bool,
}

fn run(request: &StepRequest, kernel: &Arc<Kernel>, root_fs: &RootFs) -> Result<Ended, Failure> {
    let cannot = |errno: Errno, report: Report| {
        let program = request.arguments.first().map(Bytes::to_text).unwrap_or_default();
        let reason = match errno {
            Errno::NOENT => "no such file or directory".to_owned(),
            Errno::ACCESS => "permission denied".to_owned(),
            Errno::NOEXEC => "exec format error".to_owned(),
            other => other.to_string(),
        };
        Failure::Execute {
            program,
            reason,
            missing: errno == Errno::NOENT,
            hint: report.hints.into_iter().next(),
        }
    };
    let prepared = machine::make_working_directory(root_fs, request)
        .and_then(|()| machine::find_program(root_fs, request))
        .map_err(|errno| cannot(errno, Report::default()))?;
    let user = &request.user;
    let command = InitCommand {
        path: prepared,
        arguments: request.arguments.iter().map(|argument| argument.0.clone()).collect(),
        environment: request
            .environment
            .iter()
            .map(|(name, value)| [name.as_slice(), b"=", value.as_slice()].concat())
            .collect(),
        working_directory: request.working_directory.0.clone(),
        credentials: Credentials::new(user.uid, user.gid, user.groups.clone()),
        umask: UMASK,
    };
    kernel.start_init(command).map_err(|errno| cannot(errno, kernel.report()))?;
    let timed_out = AtomicBool::new(false);
    let status = match request.limits.time {
        None => kernel.wait_init(),
        Some(time) => wait_for(kernel, time, &timed_out),
    };
    Ok(Ended { status, timed_out: timed_out.into_inner() })
}

/// Waits for the command and ends it when `time` is over.
fn wait_for(kernel: &Kernel, time: Duration, timed_out: &AtomicBool) -> ExitStatus {
    thread::scope(|scope| {
        let (ended, waiting) = mpsc::channel::<()>();
        scope.spawn(move || {
            if waiting.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                timed_out.store(true, Ordering::SeqCst);
                kernel.kill_all();
            }
        });
        let status = kernel.wait_init();
        drop(ended);
        status
    })
}

fn outcome(request: &StepRequest, world: &World, ended: &Ended, report: Report) -> Answer {
    let exit = match ended.status {
        ExitStatus::Code(code) => Exit::Code(code),
        ExitStatus::Signal(signal) | ExitStatus::Core(signal) => Exit::Signal(signal),
    };
    let limit = limit_hit(request, ended, exit, &report);
    let mut outcome = StepOutcome {
        exit,
        tree: request.base.clone(),
        changes: 0,
        caches: BTreeMap::new(),
        limit,
        unimplemented: report.unimplemented.into_iter().collect(),
        hints: report.hints,
        instructions: report.instructions,
        peak_memory_bytes: report.peak_memory,
        spooled_bytes: world.root_fs.spool_bytes(),
    };
    if let Some(error) = world.root_fs.take_host_error() {
        outcome.hints.push(format!("the store failed while the step ran: {error}"));
    }
    if exit.success() && outcome.limit.is_none() {
        for (name, mount) in &world.caches {
            let kept = world.root_fs.finish_mount(*mount).map_err(|error| machine::store_failure(&error))?;
            outcome.caches.insert(name.clone(), TreeRecord(Bytes(kept.tree.encode())));
        }
        if request.record == Record::Layer {
            let finished = world.root_fs.finish().map_err(|error| machine::store_failure(&error))?;
            outcome.tree = TreeRecord(Bytes(finished.tree.encode()));
            outcome.changes = finished.changes.len() as u64;
        }
    }
    Ok(outcome)
}

/// The limit that made the step fail: its time, its output, or one that was reached by a command that then failed.
fn limit_hit(request: &StepRequest, ended: &Ended, exit: Exit, report: &Report) -> Option<LimitHit> {
    let limits = machine::kernel_limits(request);
    if ended.timed_out {
        let time = request.limits.time.unwrap_or_default();
        return Some(LimitHit { limit: Limit::Time, value: time.as_millis().try_into().unwrap_or(u64::MAX) });
    }
    if report.limits.contains(&LimitKind::Output) {
        return Some(LimitHit { limit: Limit::Output, value: limits.output_bytes });
    }
    if exit.success() {
        return None;
    }
    report.limits.iter().find_map(|kind| match kind {
        LimitKind::Memory => Some(LimitHit { limit: Limit::Memory, value: limits.memory_bytes }),
        LimitKind::Tasks => Some(LimitHit { limit: Limit::Processes, value: limits.tasks as u64 }),
        LimitKind::Mappings | LimitKind::Output => None,
    })
}

/// Descriptor 1, which the output thread and the answer share.
#[derive(Clone, Default)]
struct SharedOut(Arc<Mutex<()>>);

impl io::Write for SharedOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
