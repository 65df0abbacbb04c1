//! Decides what is translated, and has it done in the background.
//!
//! One host thread of the step's process collects the samples of all interpreters, by file. When a file has enough of
//! them, a helper process (see [`compile`](crate::compile)) translates its hot functions, one helper at a time; what it
//! answers is used at once by all processes of the step and kept in the code cache for later ones. Guests are interpreted meanwhile.
//! A file whose functions lie in many artifacts gets them merged when nothing else is to do, because calls inside a module are
//! cheaper. Samples that have led to nothing when a step ends are kept beside the artifacts for the next one.
//!
//! Helpers give way to everything else, and together they take no longer than the guests' own processor time allows.
//!
//! What must hold: the end of the step never waits for a helper, unless it was asked to settle; a helper that fails is no error of
//! the step.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cooper_vfs::{Content, ContentId, ContentStore};
use cooper_x86::code::{CodeId, Heat};

use crate::cache::MAX_KEPT_HEAT;
use crate::compile::{self, CompileRequest, MAX_FILE};
use crate::tiers::Tiers;

/// How often samples are looked at.
const TICK: Duration = Duration::from_millis(10);
/// The largest artifact that a helper may answer with, in bytes.
const MAX_ANSWER: u64 = 512 << 20;
/// Files that are remembered; a step that runs more of them interprets the rest.
const MAX_FILES: usize = 4096;
/// Modules of one file that are worth making one of.
const SCATTERED: u32 = 8;
/// Processor time of a step before its first helper.
const PATIENCE: Duration = Duration::from_millis(100);
/// New samples of a file that are worth keeping for the next step.
const WORTH_KEEPING: u64 = 16;
/// Failures of helpers after which no more are started.
const MAX_FAILURES: u32 = 8;

/// How eagerly code is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Instructions between two samples of an interpreter.
    pub period: u32,
    /// Samples in a function that make it worth translating.
    pub function: u32,
    /// New samples in a file that make it worth starting a helper.
    pub file: u32,
    /// Most bytes of guest code in one go.
    pub most: u32,
    /// Whether the step waits at its end until everything hot is translated and kept.
    pub settle: bool,
}

impl Policy {
    /// For builds: a function is worth a compilation of some milliseconds once it has run tens of thousands of instructions.
    pub const ORDINARY: Self = Self { period: 1009, function: 24, file: 150, most: 64 << 10, settle: false };
    /// For filling a cache: what has run some hundred instructions.
    pub const WARM: Self = Self { period: 53, function: 4, file: 1 << 20, most: 1 << 20, settle: true };
    /// For tests: everything that ran, translated when the step ends.
    pub const EAGER: Self = Self { period: 1, function: 1, file: u32::MAX, most: 1 << 20, settle: true };
}

/// How a helper is started.
#[derive(Clone, Debug)]
pub struct Helper {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// The background thread.
#[derive(Debug)]
pub(crate) struct Compiler {
    ending: Sender<()>,
    child: Arc<Mutex<Running>>,
    thread: JoinHandle<()>,
    settle: bool,
}

/// The helper that runs.
#[derive(Debug, Default)]
struct Running {
    child: Option<Child>,
    /// Set when no more are to be started.
    over: bool,
}

impl Compiler {
    /// Starts to watch the code of `tiers`.
    pub(crate) fn start(
        tiers: Arc<Tiers>,
        store: Arc<dyn ContentStore>,
        helper: Helper,
        policy: Policy,
    ) -> io::Result<Self> {
        tiers.code().set_sampling(policy.period);
        let (ending, ended) = mpsc::channel();
        let child = Arc::new(Mutex::new(Running::default()));
        let mut work = Work {
            tiers,
            store,
            helper,
            policy,
            child: child.clone(),
            files: HashMap::new(),
            failures: 0,
            spent: Duration::ZERO,
        };
        let thread = thread::Builder::new().name("compiler".to_owned()).spawn(move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                work.collect();
                while work.is_affordable() && (work.translate_hottest(policy.file) || work.merge()) {}
            }
            work.collect();
            if policy.settle {
                work.settle();
            }
            work.keep_heat();
        })?;
        Ok(Self { ending, child, thread, settle: policy.settle })
    }

    /// Ends the work: at once, or when everything is settled.
    pub(crate) fn finish(self) {
        drop(self.ending);
        if !self.settle {
            let mut running = lock(&self.child);
            running.over = true;
            if let Some(child) = &mut running.child {
                // One that has ended by itself is as good.
                drop(child.kill());
            }
        }
        drop(self.thread.join());
    }
}

/// What is known of the heat of a file.
#[derive(Debug, Default)]
struct FileHeat {
    heat: Heat,
    /// Samples since the last helper.
    new: u64,
    /// Whether it cannot be translated at all.
    hopeless: bool,
    /// Whether earlier steps have kept some of it.
    was_kept: bool,
}

/// Where an artifact goes in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    BesideOthers,
    InPlaceOfAll,
}

struct Work {
    tiers: Arc<Tiers>,
    store: Arc<dyn ContentStore>,
    helper: Helper,
    policy: Policy,
    child: Arc<Mutex<Running>>,
    files: HashMap<CodeId, FileHeat>,
    failures: u32,
    /// How long helpers have run.
    spent: Duration,
}

impl Work {
    fn collect(&mut self) {
        for (id, heat) in self.tiers.code().take_heat() {
            if self.files.len() >= MAX_FILES && !self.files.contains_key(&id) {
                continue;
            }
            if !self.files.contains_key(&id) {
                let kept = self.kept_heat(id);
                self.files.insert(id, kept);
            }
            let file = self.files.entry(id).or_default();
            for (unit, count) in heat {
                file.new += u64::from(count);
                let sum = file.heat.entry(unit).or_default();
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// What earlier steps have kept.
    fn kept_heat(&self, id: CodeId) -> FileHeat {
        let (Some(cache), Some(name)) = (self.tiers.cache(), self.tiers.code_name(id)) else {
            return FileHeat::default();
        };
        let heat: Heat = cache.heat(&name).into_iter().collect();
        let new = heat.values().map(|count| u64::from(*count)).sum();
        FileHeat { was_kept: !heat.is_empty(), heat, new, ..FileHeat::default() }
    }

    /// Keeps the samples that have led to nothing.
    fn keep_heat(&self) {
        let Some(cache) = self.tiers.cache() else { return };
        for (id, file) in &self.files {
            let Some(name) = self.tiers.code_name(*id) else { return };
            let mut heat: Vec<(u32, u32)> = Vec::new();
            if file.new >= WORTH_KEEPING && !file.hopeless {
                heat.extend(file.heat.iter().map(|(unit, count)| (*unit, *count)));
                heat.sort_by_key(|(unit, count)| (std::cmp::Reverse(*count), *unit));
                heat.truncate(MAX_KEPT_HEAT);
            }
            if (!heat.is_empty() || file.was_kept)
                && let Err(error) = cache.keep_heat(&name, &heat)
            {
                tracing::debug!(%error, "samples are not kept");
                return;
            }
        }
    }

    /// Whether the guests have run long enough for another helper.
    fn is_affordable(&self) -> bool {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let own = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32);
        self.policy.settle || own >= PATIENCE && self.spent <= own / 2
    }

    /// Makes one module of those of a file that has many; `false` when there is none.
    fn merge(&mut self) -> bool {
        let Some((id, wanted)) = self.tiers.library().scattered(SCATTERED) else { return false };
        if self.failures >= MAX_FAILURES || lock(&self.child).over {
            return false;
        }
        self.tiers.library().set_whole(id);
        let request = CompileRequest {
            id: id.0,
            heat: Vec::new(),
            threshold: 1,
            known: Vec::new(),
            wanted,
            most: u32::MAX,
            is_awaited: self.policy.settle,
        };
        if let Err(error) = self.run(id, &request, Keeping::InPlaceOfAll) {
            self.failures += 1;
            tracing::debug!(%error, "code is not merged");
        }
        true
    }

    /// Translates the hottest functions of the file with the most new samples; `false` when no file has `least`.
    fn translate_hottest(&mut self, least: u32) -> bool {
        let hot = self.files.iter().filter(|(_, file)| !file.hopeless && file.new >= u64::from(least).max(1));
        let Some(id) = hot.max_by_key(|(id, file)| (file.new, **id)).map(|(id, _)| *id) else { return false };
        if self.failures >= MAX_FAILURES || lock(&self.child).over {
            return false;
        }
        let known = self.tiers.library().known(id);
        let Some(file) = self.files.get_mut(&id) else { return false };
        let request = CompileRequest {
            id: id.0,
            heat: file.heat.iter().map(|(unit, count)| (*unit, *count)).collect(),
            threshold: self.policy.function,
            known,
            wanted: Vec::new(),
            most: self.policy.most,
            is_awaited: self.policy.settle,
        };
        let new = std::mem::take(&mut file.new);
        let result = self.run(id, &request, Keeping::BesideOthers);
        let is_over = lock(&self.child).over;
        let Some(file) = self.files.get_mut(&id) else { return false };
        match result {
            // There may be more than fits into one go.
            Ok(Some(functions)) if functions > 0 => file.new = u64::from(self.policy.settle),
            Ok(Some(_)) => file.heat.clear(),
            // The next step goes on with it.
            Err(_) if is_over => file.new = new,
            Ok(None) => self.set_hopeless(id),
            Err(error) => {
                self.failures += 1;
                self.set_hopeless(id);
                self.tiers.complain(format!("code could not be translated: {error}"));
            }
        }
        true
    }

    fn set_hopeless(&mut self, id: CodeId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.hopeless = true;
            file.heat = Heat::new();
        }
    }

    /// Translates everything that is hot enough by now.
    fn settle(&mut self) {
        self.collect();
        for file in self.files.values_mut() {
            file.new = file.new.max(1);
        }
        while self.translate_hottest(1) || self.merge() {}
    }

    /// Runs a helper and uses what it answers. How many functions it found, also those that cannot be translated; `None` for a
    /// file that is too large or not there.
    fn run(&mut self, id: CodeId, request: &CompileRequest, keeping: Keeping) -> io::Result<Option<usize>> {
        let Ok(content) = self.store.open(&ContentId(id.0)) else { return Ok(None) };
        if content.length > MAX_FILE {
            return Ok(None);
        }
        let start = Instant::now();
        let answer = self.ask(request, content);
        self.spent += start.elapsed();
        let artifact: Arc<[u8]> = answer?.into();
        let tables = self.tiers.add(id, artifact.clone()).map_err(io::Error::other)?;
        let count = tables.starts.len() + tables.refused.len();
        if count > 0
            && let (Some(cache), Some(name)) = (self.tiers.cache(), self.tiers.code_name(id))
        {
            let kept = match keeping {
                Keeping::BesideOthers => cache.put(&name, &artifact),
                Keeping::InPlaceOfAll => cache.replace(&name, &artifact),
            };
            if let Err(error) = kept {
                self.tiers.complain(format!("translated code is not kept: {error}"));
            }
        }
        if keeping == Keeping::InPlaceOfAll {
            self.tiers.library().set_whole(id);
        }
        Ok(Some(count))
    }

    /// Lets a helper work on a request.
    fn ask(&mut self, request: &CompileRequest, content: Content) -> io::Result<Vec<u8>> {
        let mut child = Command::new(&self.helper.program)
            .args(&self.helper.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(output), Some(errors)) = pipes else {
            return Err(io::Error::other("the helper has no pipes"));
        };
        {
            let mut running = lock(&self.child);
            if running.over {
                drop(child.kill());
            }
            running.child = Some(child);
        }
        // A helper reads everything before it writes.
        let sent = compile::write_request(&mut input, request, Reader { content, at: 0 });
        drop(input);
        let mut artifact = Vec::new();
        let read = output.take(MAX_ANSWER).read_to_end(&mut artifact);
        let mut words = String::new();
        drop(errors.take(4096).read_to_string(&mut words));
        let child = lock(&self.child).child.take();
        let status = child.map(|mut child| child.wait()).transpose()?;
        read?;
        if status.is_some_and(|status| status.success()) {
            sent?;
            return Ok(artifact);
        }
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        Err(io::Error::other(format!("{status} {}", words.trim())))
    }
}

/// Reads a content from its beginning.
struct Reader {
    content: Content,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read_at(self.at, buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn lock(running: &Mutex<Running>) -> std::sync::MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
