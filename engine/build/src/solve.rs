//! The solver: works a graph off, in parallel, each vertex once.
//!
//! A vertex runs when its inputs are done. It first makes its key from the identities of its inputs and its own
//! definition; when the store has a record of that key, the record is the result. The identity of a result is the id of
//! its tree (of an image: its diff IDs), so a step that makes again what it made before stops the change from spreading.
//!
//! What must hold: results are recorded only when they are complete; the first failure ends the build and cancels what
//! still runs; a worker that panics fails the build and hangs nobody; no order of execution shows in a result.
//!
//! Lock order: the schedule; an image source's tree. The schedule is never held while an operation runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cooper_dockerfile::Span;
use cooper_image::image::NewLayer;
use cooper_image::layer::LayerOptions;
use cooper_image::platform::Platform;
use cooper_image::store::{Keep, Store};
use cooper_vfs::tree::Tree;
use cooper_vfs::{Clock, Timestamp};

use crate::cache::{CacheRecord, Found, ImportedCaches};
use crate::cache_mounts::TakenCaches;
use crate::context;
use crate::copy::{self, accounts, store_failed};
use crate::error::{Error, Fault, Result, SourceFile};
use crate::git::{self, GitContext};
use crate::graph::{Graph, MakeDirectory, Operation, Vertex, VertexId};
use crate::key::{Key, KeyBuilder};
use crate::miss::{self, Miss, Missed};
use crate::remote;
use crate::report::{Event, Finish, Reporter};
use crate::run::{RunOperation, StepContext, sub_path_key};
use crate::source::{ImageProvider, ImageSource};
use crate::step::{CancelToken, Secret, StepLimits, StepRunner};

/// Record kind of results.
const RESULT: &str = "vertex";
/// Version of the results' layout.
const RESULT_VERSION: u8 = 1;
/// Stack of a worker: contexts and trees are walked recursively, to bounded depths.
const WORKER_STACK: usize = 16 << 20;

/// What the solver works with.
#[derive(Debug)]
pub struct Solver<'a> {
    /// Trees, contents and records.
    pub store: &'a Store,
    /// Images.
    pub images: &'a dyn ImageProvider,
    /// Steps.
    pub runner: &'a dyn StepRunner,
    /// Where progress goes.
    pub reporter: &'a dyn Reporter,
    /// The Dockerfile, for the places of failures.
    pub file: &'a Arc<SourceFile>,
    /// The platform of the result.
    pub platform: &'a Platform,
    /// Secrets by id.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// `--add-host`
    pub extra_hosts: &'a [(String, IpAddr)],
    /// Loopback and link-local addresses that steps may reach.
    pub network_allow: &'a [IpAddr],
    /// Bounds of each step.
    pub limits: &'a StepLimits,
    /// SSH agents of the request.
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// Size of the steps' `/dev/shm`, in bytes.
    pub shared_memory_bytes: Option<u64>,
    /// Vertices at once.
    pub jobs: NonZeroUsize,
    /// Results of other builds, besides those of the store.
    pub caches: &'a ImportedCaches,
    /// The steps that were executed, and why.
    pub misses: Mutex<Vec<Miss>>,
}

/// The result of a vertex.
#[derive(Debug)]
pub struct Output {
    tree: OutputTree,
    identity: Key,
    /// The time of the result: that of its newest input.
    pub time: Timestamp,
    /// The keys that it is found by; none for sources.
    pub keys: Vec<Key>,
}

#[derive(Debug)]
enum OutputTree {
    Ready(Tree),
    Image(Arc<ImageSource>),
    /// Of a cache, on this base.
    Found(Arc<Output>, Box<Found>),
    /// The second over the first, made when somebody reads it: a copy that is linked needs no look at its base.
    Merged(Arc<Output>, Arc<Output>, Mutex<Option<Tree>>),
}

/// The results of a graph.
#[derive(Debug)]
pub struct Solution(BTreeMap<VertexId, Arc<Output>>);

impl Solution {
    /// The result of a vertex that was asked for, or that one needs.
    pub fn output(&self, id: VertexId) -> Result<&Arc<Output>> {
        self.0.get(&id).ok_or_else(|| Error::new(Fault::Bug, format!("vertex {} was not solved", id.0)))
    }
}

impl Solution {
    /// All results, inputs first.
    pub fn outputs(&self) -> impl Iterator<Item = (VertexId, &Arc<Output>)> {
        self.0.iter().map(|(id, output)| (*id, output))
    }
}

impl Output {
    fn ready(tree: Tree, time: Timestamp) -> Self {
        let identity = KeyBuilder::new("tree").tree("id", &tree.id()).finish();
        Self { tree: OutputTree::Ready(tree), identity, time, keys: Vec::new() }
    }

    /// What stands for the file system in keys.
    pub fn identity(&self) -> &Key {
        &self.identity
    }

    /// The file system; of an image it is made now.
    pub fn tree(&self, store: &Store, images: &dyn ImageProvider, cancel: &CancelToken) -> Result<Tree> {
        match &self.tree {
            OutputTree::Ready(tree) => Ok(tree.clone()),
            OutputTree::Image(source) => source.tree(images, &|_, _, _| {}, cancel),
            OutputTree::Found(base, found) => found.tree(|layer| {
                let lower = base.tree(store, images, cancel)?;
                images.upper(&lower, layer, cancel)
            }),
            OutputTree::Merged(base, upper, made) => {
                let mut made = lock(made);
                if let Some(tree) = &*made {
                    return Ok(tree.clone());
                }
                let tree = match recorded(store, &self.identity)? {
                    Some((tree, _)) => tree,
                    None => {
                        let (lower, upper) =
                            (base.tree(store, images, cancel)?, upper.tree(store, images, cancel)?);
                        let tree = copy::merge(store, &lower, &upper)?;
                        record(store, &self.identity, &tree, self.time)?;
                        tree
                    }
                };
                Ok(made.insert(tree).clone())
            }
        }
    }

    fn merged(base: &Arc<Self>, upper: &Arc<Self>) -> Self {
        let mut identity = KeyBuilder::new("merge");
        let identity = identity.key("base", &base.identity).key("upper", &upper.identity).finish();
        let (time, tree) = (base.time.max(upper.time), Mutex::new(None));
        let tree = OutputTree::Merged(Arc::clone(base), Arc::clone(upper), tree);
        Self { tree, identity, time, keys: Vec::new() }
    }

    fn found(record: CacheRecord, base: &Arc<Self>) -> Self {
        let identity = KeyBuilder::new("tree").tree("id", &record.tree.id()).finish();
        let (time, keys) = (record.time, record.keys.clone());
        Self { tree: OutputTree::Found(Arc::clone(base), Box::new(Found::new(record))), identity, time, keys }
    }

    /// The layer that a cache has for this result on a base.
    pub fn cached_layer(&self, base: &Self, options: &LayerOptions) -> Option<NewLayer> {
        match &self.tree {
            OutputTree::Found(own, found) if own.identity == base.identity => found.record.layer_as(options),
            _ => None,
        }
    }

    /// When a cache wants it not to be used any more, in seconds since 1970.
    pub fn expires(&self) -> Option<i64> {
        match &self.tree {
            OutputTree::Found(_, found) => found.record.expires,
            OutputTree::Ready(_) | OutputTree::Image(_) | OutputTree::Merged(..) => None,
        }
    }

    /// Whether somebody has to make the file system before it can be read.
    fn is_lazy(&self) -> bool {
        matches!(&self.tree, OutputTree::Found(_, found) if found.is_lazy())
    }

    /// The file system, when it need not be made any more.
    pub fn ready_tree(&self) -> Option<&Tree> {
        self.known_tree().filter(|_| !self.is_lazy())
    }

    /// The id of the file system, where it is known without making it.
    pub fn known_tree(&self) -> Option<&Tree> {
        match &self.tree {
            OutputTree::Ready(tree) => Some(tree),
            OutputTree::Found(_, found) => Some(&found.record.tree),
            OutputTree::Image(_) | OutputTree::Merged(..) => None,
        }
    }
}

/// What follows from the graph.
struct Plan {
    users: BTreeMap<VertexId, Vec<VertexId>>,
    /// Vertices with files that steps may read.
    read_by_steps: BTreeSet<VertexId>,
}

/// What the workers share.
struct Schedule {
    /// How many inputs each vertex waits for.
    waiting: BTreeMap<VertexId, usize>,
    ready: BTreeSet<VertexId>,
    done: BTreeMap<VertexId, Arc<Output>>,
    left: usize,
    failure: Option<Error>,
}

impl Solver<'_> {
    /// Solves what `targets` need.
    pub fn solve(&self, graph: &Graph, targets: &[VertexId], cancel: &CancelToken) -> Result<Solution> {
        let needed = graph.needed(targets);
        let names: Vec<(VertexId, String)> =
            needed.iter().map(|id| (*id, graph.vertex(*id).name.clone())).collect();
        self.reporter.event(Event::Planned { vertices: &names });
        let mut users: BTreeMap<VertexId, Vec<VertexId>> = BTreeMap::new();
        let mut waiting = BTreeMap::new();
        for id in &needed {
            let inputs: BTreeSet<VertexId> = graph.vertex(*id).inputs.iter().copied().collect();
            waiting.insert(*id, inputs.len());
            for input in inputs {
                users.entry(input).or_default().push(*id);
            }
        }
        let ready = needed.iter().copied().filter(|id| waiting[id] == 0).collect();
        let schedule = Schedule { waiting, ready, done: BTreeMap::new(), left: needed.len(), failure: None };
        let shared = (Mutex::new(schedule), Condvar::new());
        // A failure cancels the other vertices, and not the caller.
        let stop = CancelToken::new();
        let passed_on = {
            let stop = stop.clone();
            cancel.on_cancel(move || stop.cancel())
        };
        let plan = Plan { users, read_by_steps: graph.read_by_steps(&needed) };
        let workers = self.jobs.get().min(needed.len().max(1));
        std::thread::scope(|scope| {
            for number in 0..workers {
                let work = || self.work(graph, &plan, &shared, &stop);
                let builder =
                    std::thread::Builder::new().name(format!("worker-{number}")).stack_size(WORKER_STACK);
                if let Err(error) = builder.spawn_scoped(scope, work) {
                    // The workers that there are do the work; without any it fails.
                    if number == 0 {
                        lock(&shared.0).failure = Some(Error::host("cannot start a thread", error));
                    }
                    break;
                }
            }
        });
        drop(passed_on);
        miss::keep_last(self.store, &lock(&self.misses));
        let schedule = shared.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        match schedule.failure {
            _ if cancel.is_cancelled() => Err(Error::cancelled()),
            Some(failure) => Err(failure),
            None => Ok(Solution(schedule.done)),
        }
    }

    fn work(&self, graph: &Graph, plan: &Plan, shared: &(Mutex<Schedule>, Condvar), stop: &CancelToken) {
        let (schedule, changed) = shared;
        loop {
            let mut state = lock(schedule);
            let id = loop {
                if state.failure.is_some() || state.left == 0 {
                    return;
                }
                match state.ready.pop_first() {
                    Some(id) => break id,
                    None => state = changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let vertex = graph.vertex(id);
            let inputs: Vec<Arc<Output>> =
                vertex.inputs.iter().map(|input| Arc::clone(&state.done[input])).collect();
            drop(state);
            let mut fuse = Fuse { shared, stop, armed: true };
            let result = self.vertex(id, vertex, &inputs, plan, stop);
            fuse.armed = false;
            let mut state = lock(schedule);
            match result {
                Ok(output) => {
                    state.done.insert(id, Arc::new(output));
                    state.left -= 1;
                    for user in plan.users.get(&id).into_iter().flatten() {
                        if let Some(waiting) = state.waiting.get_mut(user) {
                            *waiting -= 1;
                            if *waiting == 0 {
                                state.ready.insert(*user);
                            }
                        }
                    }
                }
                Err(error) => {
                    // Vertices cancelled because of a failure are not the failure.
                    state.failure.get_or_insert(error);
                    stop.cancel();
                }
            }
            drop(state);
            changed.notify_all();
        }
    }

    fn vertex(
        &self,
        id: VertexId,
        vertex: &Vertex,
        inputs: &[Arc<Output>],
        plan: &Plan,
        stop: &CancelToken,
    ) -> Result<Output> {
        self.reporter.event(Event::Started { vertex: id });
        let span = tracing::info_span!("vertex", id = id.0, name = vertex.name);
        let _entered = span.enter();
        tracing::debug!("started");
        let result = match stop.is_cancelled() {
            true => Err(Error::cancelled()),
            false => self.run(id, vertex, inputs, plan, stop),
        };
        let how = match &result {
            Ok((_, how)) => how.clone(),
            Err(error) if error.fault() == Fault::Cancelled => Finish::Cancelled,
            Err(_) => Finish::Failed,
        };
        tracing::info!(how = ?how, "finished");
        self.reporter.event(Event::Finished { vertex: id, how });
        let place = |error: Error| match vertex.span {
            Some(span) => error.at(self.file, first_line(&self.file.text, span)),
            None => error,
        };
        result.map(|(output, _)| output).map_err(place)
    }

    fn run(
        &self,
        id: VertexId,
        vertex: &Vertex,
        inputs: &[Arc<Output>],
        plan: &Plan,
        stop: &CancelToken,
    ) -> Result<(Output, Finish)> {
        match &vertex.operation {
            Operation::Scratch => {
                let tree = Tree::empty(self.store).map_err(store_failed)?;
                Ok((Output::ready(tree, Timestamp::default()), Finish::Done))
            }
            Operation::Image(source) => {
                let time = source.image.config.created.as_deref().and_then(crate::time::parse_rfc3339);
                let output = Output {
                    tree: OutputTree::Image(Arc::clone(source)),
                    identity: crate::source::identity(&source.image),
                    time: time.unwrap_or_default(),
                    keys: Vec::new(),
                };
                Ok((output, Finish::Done))
            }
            Operation::Context(query) => {
                let readers = match plan.read_by_steps.contains(&id) {
                    true => context::Readers::Steps,
                    false => context::Readers::Layers,
                };
                let tree = context::load(self.store, query, readers, cooper_vfs::HostClock.now(), stop)?;
                tracing::debug!(tree = %tree.id(), "the context is loaded");
                Ok((Output::ready(tree, Timestamp::default()), Finish::Done))
            }
            Operation::Remote(file) => {
                let secret = remote::authorization(file.host(), self.secrets);
                let progress = |what: &str, current: u64, total: Option<u64>| {
                    self.reporter.event(Event::Progress { vertex: id, what, current, total });
                };
                let tree = remote::load(self.store, self.images, file, secret.as_ref(), &progress, stop)?;
                Ok((Output::ready(tree, Timestamp::default()), Finish::Done))
            }
            Operation::Git(source) => {
                let progress = |what: &str, current: u64, total: Option<u64>| {
                    self.reporter.event(Event::Progress { vertex: id, what, current, total });
                };
                let (store, provider, secrets) = (self.store, self.images, self.secrets);
                let context = GitContext { store, provider, secrets, progress: &progress, cancel: stop };
                Ok((Output::ready(git::load(source, context)?, Timestamp::default()), Finish::Done))
            }
            Operation::Merge => {
                let [base, upper] = inputs else {
                    return Err(Error::new(Fault::Bug, "a merge without its inputs"));
                };
                Ok((Output::merged(base, upper), Finish::Done))
            }
            operation => {
                let work = Work { solver: self, id, inputs, stop };
                let definition = work.definition_key(operation)?;
                let cached = |key: &Key| -> Result<Option<Output>> {
                    if !vertex.use_cache {
                        return Ok(None);
                    }
                    if let Some(output) = self.recorded(key)? {
                        return Ok(Some(output));
                    }
                    let record = self.caches.find(self.store, key)?;
                    Ok(record.map(|record| Output::found(record, &inputs[0])))
                };
                let verifies = self.caches.verifies(operation);
                // A key that needs no look at a stage of another cache comes first.
                if let Some(definition) = &definition
                    && !verifies
                    && work.has_lazy_source()
                    && let Some(output) = cached(definition)?
                {
                    let keys = if output.keys.is_empty() { vec![*definition] } else { output.keys.clone() };
                    return Ok((Output { keys, ..output }, Finish::Cached));
                }
                let fields = work.key(operation)?;
                let key = fields.finish();
                let keys: Vec<Key> = [key].into_iter().chain(definition).collect();
                if let Some(output) = cached(&key)? {
                    let output = Output { keys, ..output };
                    if verifies && output.is_lazy() {
                        return Ok((work.verified(operation, output)?, Finish::Done));
                    }
                    return Ok((output, Finish::Cached));
                }
                tracing::debug!(%key, base = %work.base()?.identity, "cache miss: no record of this key");
                let missed = self.say_why(id, vertex, &work, &fields);
                let output = Output { keys, ..work.execute(operation)? };
                for key in &output.keys {
                    self.record(key, &output)?;
                }
                missed.keep(self.store);
                Ok((output, Finish::Done))
            }
        }
    }

    /// Tells which input of a step differs from the last time.
    fn say_why(&self, id: VertexId, vertex: &Vertex, work: &Work<'_>, fields: &KeyBuilder) -> Missed {
        let platform = self.platform.to_string();
        let name = (self.file.name.as_str(), platform.as_str(), vertex.name.as_str());
        let source = |index: usize| work.input(index).ok().and_then(|input| input.known_tree().cloned());
        let missed = Missed::new(name, fields, &vertex.operation, &source);
        let reason = match vertex.use_cache {
            true => missed.reason(self.store),
            false => "the cache is not used for it".to_owned(),
        };
        self.reporter.event(Event::VertexNote { vertex: id, text: &format!("not cached: {reason}") });
        lock(&self.misses).push(Miss { step: vertex.name.clone(), reason });
        missed
    }

    fn recorded(&self, key: &Key) -> Result<Option<Output>> {
        Ok(recorded(self.store, key)?.map(|(tree, time)| Output::ready(tree, time)))
    }

    fn record(&self, key: &Key, output: &Output) -> Result<()> {
        let OutputTree::Ready(tree) = &output.tree else { return Ok(()) };
        record(self.store, key, tree, output.time)
    }
}

/// The result that a key has in the store, and its time.
fn recorded(store: &Store, key: &Key) -> Result<Option<(Tree, Timestamp)>> {
    let Some(bytes) = store.record(RESULT, &key.0)? else { return Ok(None) };
    // A record of another version is as good as none.
    let Some((head, tree)) = bytes.split_first_chunk::<13>() else { return Ok(None) };
    let Some(Ok(tree)) = (head[0] == RESULT_VERSION).then(|| Tree::decode(tree)) else { return Ok(None) };
    let mut seconds = [0; 8];
    seconds.copy_from_slice(&head[1..9]);
    let mut nanoseconds = [0; 4];
    nanoseconds.copy_from_slice(&head[9..]);
    let time =
        Timestamp { seconds: i64::from_le_bytes(seconds), nanoseconds: u32::from_le_bytes(nanoseconds) };
    Ok(Some((tree, time)))
}

fn record(store: &Store, key: &Key, tree: &Tree, time: Timestamp) -> Result<()> {
    let mut bytes = vec![RESULT_VERSION];
    bytes.extend(time.seconds.to_le_bytes());
    bytes.extend(time.nanoseconds.to_le_bytes());
    bytes.extend(tree.encode());
    Ok(store.put_record(RESULT, &key.0, &bytes, &[Keep::Tree(tree.clone())])?)
}

/// One operation on its inputs.
struct Work<'a> {
    solver: &'a Solver<'a>,
    id: VertexId,
    inputs: &'a [Arc<Output>],
    stop: &'a CancelToken,
}

impl Work<'_> {
    fn key(&self, operation: &Operation) -> Result<KeyBuilder> {
        let what = match operation {
            Operation::Copy(_) => "copy",
            Operation::MakeDirectory(_) => "directory",
            Operation::Run(_) => "run",
            Operation::Scratch
            | Operation::Image(_)
            | Operation::Context(_)
            | Operation::Remote(_)
            | Operation::Git(_)
            | Operation::Merge => "source",
        };
        let mut key = KeyBuilder::remembering(what);
        key.bytes("platform", self.solver.platform.to_string().as_bytes());
        key.key("base", &self.base()?.identity);
        match operation {
            Operation::Copy(copy) => {
                let input = |index: usize| self.tree(self.input(index)?);
                copy.add_to_key(&mut key, self.solver.store, &input)?;
            }
            Operation::MakeDirectory(MakeDirectory { path, user }) => {
                key.bytes("path", path.as_bytes()).bytes("user", user.as_bytes());
            }
            Operation::Run(run) => {
                let mounted = |index: usize, path: &str| {
                    sub_path_key(self.solver.store, &self.tree(self.input(index)?)?, path)
                };
                run.add_to_key(&mut key, self.solver.extra_hosts, &mounted)?;
            }
            Operation::Scratch
            | Operation::Image(_)
            | Operation::Context(_)
            | Operation::Remote(_)
            | Operation::Git(_)
            | Operation::Merge => {}
        }
        Ok(key)
    }

    /// Executes what a cache has a result of, and refuses the cache when the files are others.
    fn verified(&self, operation: &Operation, found: Output) -> Result<Output> {
        let own = self.execute(operation)?;
        let (promised, made) = (found.known_tree(), own.known_tree());
        if promised.map(|tree| tree.content) != made.map(|tree| tree.content) {
            let message = "a cached result is not what the step makes: the cache is refused";
            return Err(Error::new(Fault::Refused, message)
                .hint("do not use this --cache-from, or find out who wrote it"));
        }
        Ok(found)
    }

    /// The key of a copy out of other stages by what is written and the stages' identities.
    fn definition_key(&self, operation: &Operation) -> Result<Option<Key>> {
        let Operation::Copy(copy) = operation else { return Ok(None) };
        if self.sources().all(|from| from.keys.is_empty()) {
            return Ok(None);
        }
        let mut key = KeyBuilder::new("copy by definition");
        key.bytes("platform", self.solver.platform.to_string().as_bytes());
        key.key("base", &self.base()?.identity);
        key.list("inputs", self.inputs.len());
        for from in self.sources() {
            key.key("from", &from.identity);
        }
        copy.add_definition_to_key(&mut key);
        Ok(Some(key.finish()))
    }

    /// The inputs that files are taken from.
    fn sources(&self) -> impl Iterator<Item = &Arc<Output>> {
        self.inputs.iter().skip(1)
    }

    fn has_lazy_source(&self) -> bool {
        self.sources().any(|from| from.is_lazy())
    }

    fn execute(&self, operation: &Operation) -> Result<Output> {
        let store = self.solver.store;
        let base = self.base()?;
        let time = base.time;
        match operation {
            Operation::Copy(copy) => {
                let input = |index: usize| self.tree(self.input(index)?);
                let copied = copy.execute(store, &self.tree(base)?, &input, time)?;
                Ok(Output::ready(copied.tree, copied.time))
            }
            Operation::MakeDirectory(MakeDirectory { path, user }) => {
                let tree = self.tree(base)?;
                // As in BuildKit a user that the image does not have is no error before something runs as it.
                let owner = match user.as_str() {
                    "" => crate::users::Owner { uid: 0, gid: 0 },
                    user => accounts(store, &tree)?
                        .account(user)
                        .map(|account| crate::users::Owner { uid: account.user.uid, gid: account.user.gid })
                        .unwrap_or(crate::users::Owner { uid: 0, gid: 0 }),
                };
                Ok(Output::ready(copy::make_directory(store, &tree, path, owner, time)?, time))
            }
            Operation::Run(run) => self.run_step(run, base),
            Operation::Scratch
            | Operation::Image(_)
            | Operation::Context(_)
            | Operation::Remote(_)
            | Operation::Git(_)
            | Operation::Merge => Err(Error::new(Fault::Bug, "a source was executed as an operation")),
        }
    }

    fn run_step(&self, run: &RunOperation, base: &Output) -> Result<Output> {
        let solver = self.solver;
        let context = StepContext {
            runner: solver.runner,
            agents: solver.agents,
            store: solver.store,
            secrets: solver.secrets,
            extra_hosts: solver.extra_hosts,
            network_allow: solver.network_allow,
            limits: solver.limits,
            shared_memory_bytes: solver.shared_memory_bytes,
            cancel: self.stop,
        };
        let base_tree = self.tree(base)?;
        let inputs = |index: usize| self.tree(self.input(index)?);
        let mut output = |stream, bytes: &[u8]| {
            solver.reporter.event(Event::Output { vertex: self.id, stream, bytes });
        };
        let caches = TakenCaches::take(solver.store, &run.mounts, self.stop)?;
        caches.fill(solver.caches, solver.images, self.stop)?;
        let tree = solver
            .store
            .serving_contents(|| run.execute(&context, &base_tree, &inputs, &caches, &mut output))??;
        let time = newest_change(solver.store, &base_tree, &tree)?.max(base.time);
        Ok(Output::ready(tree, time))
    }

    fn base(&self) -> Result<&Output> {
        self.input(0).map(Arc::as_ref)
    }

    fn input(&self, index: usize) -> Result<&Arc<Output>> {
        self.inputs.get(index).ok_or_else(|| Error::new(Fault::Bug, "an operation without its input"))
    }

    fn tree(&self, output: &Output) -> Result<Tree> {
        match &output.tree {
            OutputTree::Ready(tree) => Ok(tree.clone()),
            OutputTree::Image(source) => {
                let progress = |what: &str, current: u64, total: Option<u64>| {
                    self.solver.reporter.event(Event::Progress { vertex: self.id, what, current, total });
                };
                source.tree(self.solver.images, &progress, self.stop)
            }
            OutputTree::Found(base, _) => {
                let was_lazy = output.is_lazy();
                if was_lazy {
                    self.tree(base)?;
                }
                let tree = output.tree(self.solver.store, self.solver.images, self.stop)?;
                if was_lazy {
                    for key in &output.keys {
                        self.solver.record(key, &Output::ready(tree.clone(), output.time))?;
                    }
                }
                Ok(tree)
            }
            OutputTree::Merged(..) => output.tree(self.solver.store, self.solver.images, self.stop),
        }
    }
}

/// The newest time among what a step changed: the step's time, without asking a clock.
fn newest_change(store: &Store, lower: &Tree, upper: &Tree) -> Result<Timestamp> {
    let changes = Tree::diff(store, lower, upper).map_err(store_failed)?;
    let times = changes.iter().filter_map(|change| match change {
        cooper_vfs::tree::Change::Upsert { entry, .. } => Some(entry.metadata.mtime),
        _ => None,
    });
    Ok(times.max().unwrap_or_default())
}

/// Fails the build when a worker panics, so that the others do not wait for it.
struct Fuse<'a> {
    shared: &'a (Mutex<Schedule>, Condvar),
    stop: &'a CancelToken,
    armed: bool,
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        if self.armed {
            lock(&self.shared.0).failure.get_or_insert(Error::new(Fault::Bug, "a worker panicked"));
            self.stop.cancel();
            self.shared.1.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instruction's first line is enough to find it.
fn first_line(text: &str, span: Span) -> Span {
    let end = text.get(span.start..span.end).and_then(|text| text.find('\n'));
    Span::new(span.start, end.map_or(span.end, |length| span.start + length))
}
