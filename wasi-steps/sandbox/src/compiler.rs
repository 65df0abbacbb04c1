//! Decides what is translated, and has it done in the background.
//!
//! One host thread of the step's process collects the samples of all interpreters, by file. Code is worth translating once
//! interpreting it has cost several times what compiling it will cost: so whatever a step does, compilations add a small share
//! to what it would take anyway, and code that goes on running pays them back many times. Samples count over all processes of a
//! step and, kept in the code cache, over steps. A [helper](crate::helper) is asked about one file after the other, the hottest first; what it
//! answers is used at once by all processes of the step and kept in the code cache for later ones. Guests are interpreted meanwhile.
//! A file whose functions lie in many artifacts gets them merged when that costs little beside what the step has
//! used, because calls inside a module are cheaper.
//!
//! What must hold: the end of the step never waits for a helper, unless it was asked to settle; a helper that fails is no error of
//! the step.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cooper_vfs::{ContentId, ContentStore};
use cooper_x86::code::{CodeId, Heat};

use crate::cache::MAX_KEPT_HEAT;
use crate::compile::{CompileRequest, Compiled, MAX_FILE};
use crate::helper::{Helper, Killer, Worker};
use crate::tiers::Tiers;

/// How often samples are looked at.
const TICK: Duration = Duration::from_millis(10);
/// Files that are remembered; a step that runs more of them interprets the rest.
const MAX_FILES: usize = 4096;
/// Modules of one file that are worth making one of.
const SCATTERED: u32 = 8;
/// Processor time of a step before its first helper, which takes some milliseconds to start.
const PATIENCE: Duration = Duration::from_millis(100);
/// Processor time that interpreting a file has to have cost before a helper is sent it and looks for the functions in it.
const FIRST_LOOK: Duration = Duration::from_millis(15);
/// What an interpreted instruction is taken to cost, in nanoseconds: what the optimised interpreter takes on ordinary programs.
const INTERPRETED: u64 = 6;
/// What compiling a byte of guest code is taken to cost, in nanoseconds, before it is known.
const COMPILED: u64 = 4000;
/// Helpers together take no more than this part of the step's processor time, whatever samples say.
const SHARE: u32 = 8;
/// One compilation takes about this part of the step's processor time at most: it is lost when the step ends meanwhile.
const LARGEST_SHARE: u32 = 32;
/// The least bytes of guest code that are worth a module of their own.
const LEAST: u64 = 1024;
/// Guest code is about this part of the native code that it becomes.
const EXPANSION: u64 = 6;
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
    /// How many times interpreting a function must have cost what compiling it costs; 0 asks nothing.
    pub repay: u32,
    /// Most bytes of guest code in one go.
    pub most: u32,
    /// Whether the step waits at its end until everything hot is translated and kept.
    pub settle: bool,
}

impl Policy {
    /// For builds: compilations add at most about a tenth to what interpreting costs, and mostly save much more.
    pub const ORDINARY: Self = Self { period: 1009, function: 16, repay: 10, most: 64 << 10, settle: false };
    /// For filling a cache: what has run some hundred instructions.
    pub const WARM: Self = Self { period: 53, function: 4, repay: 0, most: 1 << 20, settle: true };
    /// For tests: everything that ran, translated when the step ends.
    pub const EAGER: Self = Self { period: 1, function: 1, repay: 0, most: 1 << 20, settle: true };
}

/// The background thread.
#[derive(Debug)]
pub(crate) struct Compiler {
    ending: Sender<()>,
    killer: Arc<Killer>,
    thread: JoinHandle<()>,
    settle: bool,
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
        let killer = Arc::new(Killer::default());
        let worker = Worker::new(helper, killer.clone());
        let mut work = Work {
            tiers,
            store,
            policy,
            worker,
            files: HashMap::new(),
            failures: 0,
            nanoseconds_per_byte: COMPILED,
        };
        let thread = thread::Builder::new().name("compiler".to_owned()).spawn(move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                work.collect();
                if !policy.settle {
                    while work.translate_hottest() || work.merge() {}
                }
            }
            work.collect();
            if policy.settle {
                work.settle();
            }
            work.keep_heat();
        })?;
        Ok(Self { ending, killer, thread, settle: policy.settle })
    }

    /// Ends the work: at once, or when everything is settled.
    pub(crate) fn finish(self) {
        drop(self.ending);
        if !self.settle {
            self.killer.kill();
        }
        drop(self.thread.join());
    }
}

/// What is known of the heat of a file.
#[derive(Debug, Default)]
struct FileHeat {
    /// Samples that have led to nothing so far.
    heat: Heat,
    /// How many they are.
    total: u64,
    /// How many came since a helper was last asked.
    new: u64,
    /// Whether a helper was asked in this step.
    was_asked: bool,
    /// Whether it cannot be translated at all.
    hopeless: bool,
    /// Whether earlier steps have kept some of it.
    was_kept: bool,
}

impl FileHeat {
    /// Whether asking again may lead to something: the samples have grown by a part of themselves.
    fn is_ripe(&self, first: u64) -> bool {
        !self.hopeless
            && self.new > 0
            && (self.total >= first || self.was_asked)
            && self.new >= self.total / 4
    }

    /// Drops the samples that a helper has dealt with.
    fn settle(&mut self, asked: &[(u32, u32)], settled: &[bool]) {
        for ((unit, _), _) in asked.iter().zip(settled).filter(|(_, settled)| **settled) {
            self.heat.remove(unit);
        }
        self.total = self.heat.values().map(|count| u64::from(*count)).sum();
    }
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
    policy: Policy,
    worker: Worker,
    files: HashMap<CodeId, FileHeat>,
    failures: u32,
    /// What compiling has cost so far.
    nanoseconds_per_byte: u64,
}

impl Work {
    fn collect(&mut self) {
        for (id, heat) in self.tiers.code().take_heat() {
            if !self.files.contains_key(&id) {
                if self.files.len() >= MAX_FILES {
                    continue;
                }
                let kept = self.kept_heat(id);
                self.files.insert(id, kept);
            }
            let file = self.files.entry(id).or_default();
            for (unit, count) in heat {
                file.new += u64::from(count);
                file.total += u64::from(count);
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
        let total = heat.values().map(|count| u64::from(*count)).sum();
        FileHeat { was_kept: !heat.is_empty(), heat, total, ..FileHeat::default() }
    }

    /// Keeps the samples that have led to nothing.
    fn keep_heat(&self) {
        let Some(cache) = self.tiers.cache() else { return };
        for (id, file) in &self.files {
            let mut heat: Vec<(u32, u32)> = Vec::new();
            if file.total >= WORTH_KEEPING && !file.hopeless {
                heat.extend(file.heat.iter().map(|(unit, count)| (*unit, *count)));
                heat.sort_by_key(|(unit, count)| (std::cmp::Reverse(*count), *unit));
                heat.truncate(MAX_KEPT_HEAT);
            }
            if heat.is_empty() && !file.was_kept {
                continue;
            }
            let Some(name) = self.tiers.code_name(*id) else { return };
            if let Err(error) = cache.keep_heat(&name, &heat) {
                tracing::debug!(%error, "samples are not kept");
                return;
            }
        }
    }

    /// Nanoseconds of processor time that a sample stands for.
    fn sample(&self) -> u64 {
        u64::from(self.policy.period) * INTERPRETED
    }

    /// Most bytes of guest code that may be compiled now.
    fn allowance(&self) -> u64 {
        if self.policy.settle {
            return self.policy.most.into();
        }
        let step = processor_time();
        if step < PATIENCE {
            return 0;
        }
        let left = (step / SHARE).saturating_sub(self.worker.used()).min(step / LARGEST_SHARE);
        (left.as_nanos() as u64 / self.nanoseconds_per_byte.max(1)).min(self.policy.most.into())
    }

    /// Whether nothing is to be compiled any more.
    fn is_over(&self) -> bool {
        self.failures >= MAX_FAILURES || self.worker.is_over()
    }

    /// Makes one module of those of a file that has many; `false` when there is none, or it would cost too much.
    fn merge(&mut self) -> bool {
        let allowance = if self.policy.settle { u64::MAX } else { self.allowance() };
        let found = self.tiers.library().scattered(SCATTERED, allowance.saturating_mul(EXPANSION));
        let Some((id, wanted)) = found.filter(|_| !self.is_over()) else { return false };
        // Should that fail, it is not tried again and again.
        self.tiers.library().set_whole(id, 0);
        let request = CompileRequest {
            id: id.0,
            file: None,
            heat: Vec::new(),
            threshold: 1,
            price: 0,
            known: Vec::new(),
            wanted,
            most: u32::MAX,
        };
        if let Err(error) = self.run(id, &request, Keeping::InPlaceOfAll) {
            self.failures += 1;
            tracing::debug!(%error, "code is not merged");
        }
        true
    }

    /// Translates the hottest functions of the file with the most new samples; `false` when there is nothing to do.
    fn translate_hottest(&mut self) -> bool {
        let most = self.allowance();
        if most < LEAST || self.is_over() {
            return false;
        }
        let settles = self.policy.settle;
        let first = if settles { 1 } else { (FIRST_LOOK.as_nanos() as u64 / self.sample()).max(1) };
        let ripe = self
            .files
            .iter()
            .filter(|(_, file)| file.is_ripe(first) || settles && file.new > 0 && !file.hopeless);
        let Some(id) = ripe.max_by_key(|(id, file)| (file.new, **id)).map(|(id, _)| *id) else {
            return false;
        };
        let price = u64::from(self.policy.repay) * self.nanoseconds_per_byte * 1024 / self.sample();
        let known = self.tiers.library().known(id);
        let Some(file) = self.files.get_mut(&id) else { return false };
        let request = CompileRequest {
            id: id.0,
            file: None,
            heat: file.heat.iter().map(|(unit, count)| (*unit, *count)).collect(),
            threshold: self.policy.function,
            price,
            known,
            wanted: Vec::new(),
            most: most.try_into().unwrap_or(u32::MAX),
        };
        (file.new, file.was_asked) = (0, true);
        let result = self.run(id, &request, Keeping::BesideOthers);
        let is_over = self.worker.is_over();
        let Some(file) = self.files.get_mut(&id) else { return false };
        match result {
            Ok(Some(compiled)) => {
                file.settle(&request.heat, &compiled.settled);
                if compiled.artifact.is_some() {
                    // There may be more than fits into one go.
                    file.new = file.total;
                }
            }
            // The next step goes on with it.
            Err(_) if is_over => {}
            Ok(None) => set_hopeless(file),
            Err(error) => {
                self.failures += 1;
                set_hopeless(file);
                self.tiers.complain(format!("code could not be translated: {error}"));
            }
        }
        true
    }

    /// Translates everything that is hot enough by now.
    fn settle(&mut self) {
        self.collect();
        for file in self.files.values_mut() {
            file.new = file.new.max(1);
        }
        while self.translate_hottest() || self.merge() {}
    }

    /// Asks a helper and uses what it answers; `None` for a file that is too large or not there.
    fn run(
        &mut self,
        id: CodeId,
        request: &CompileRequest,
        keeping: Keeping,
    ) -> io::Result<Option<Compiled>> {
        let Ok(content) = self.store.open(&ContentId(id.0)) else { return Ok(None) };
        if content.length > MAX_FILE {
            return Ok(None);
        }
        let before = self.worker.used();
        let mut compiled = self.worker.ask(request, content)?;
        let cost = (self.worker.used() - before).as_nanos() as u64;
        if compiled.code >= LEAST {
            self.nanoseconds_per_byte = u64::midpoint(self.nanoseconds_per_byte, cost / compiled.code).max(1);
        }
        tracing::debug!(code = compiled.code, microseconds = cost / 1000, "a helper has answered");
        if let Some(artifact) = compiled.artifact.take() {
            let artifact: Arc<[u8]> = artifact.into();
            self.tiers.add(id, artifact.clone()).map_err(io::Error::other)?;
            if keeping == Keeping::InPlaceOfAll {
                self.tiers.library().set_whole(id, artifact.len() as u64);
            }
            if let (Some(cache), Some(name)) = (self.tiers.cache(), self.tiers.code_name(id)) {
                let kept = match keeping {
                    Keeping::BesideOthers => cache.put(&name, &artifact),
                    Keeping::InPlaceOfAll => cache.replace(&name, &artifact),
                };
                if let Err(error) = kept {
                    self.tiers.complain(format!("translated code is not kept: {error}"));
                }
            }
            compiled.artifact = Some(Vec::new());
        }
        Ok(Some(compiled))
    }
}

fn set_hopeless(file: &mut FileHeat) {
    *file = FileHeat { hopeless: true, was_kept: file.was_kept, ..FileHeat::default() };
}

/// What this process, that is the step's guests and their kernel, has used so far.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_looked_at_again_when_its_samples_have_grown() {
        let heat = Heat::from([(16, 60), (64, 40)]);
        let mut file = FileHeat { heat, total: 100, new: 100, ..FileHeat::default() };
        assert!(!file.is_ripe(101));
        assert!(file.is_ripe(100));
        (file.new, file.was_asked) = (24, true);
        assert!(!file.is_ripe(1000));
        file.new = 25;
        assert!(file.is_ripe(1000));
        file.settle(&[(64, 40), (16, 60)], &[true, false]);
        assert_eq!((file.total, file.heat.len()), (60, 1));
        set_hopeless(&mut file);
        assert!(!file.is_ripe(0));
    }
}
