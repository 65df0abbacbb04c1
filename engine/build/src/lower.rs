//! From instructions to a graph.
//!
//! Lowering walks the stages that the target needs, in order, and keeps for each what its instructions have made so
//! far: the vertex of its file system, the image config, the variables, the history. Nothing is executed. What the
//! Dockerfile may say and this version does not do is an error here, with its place.
//!
//! What must hold: a stage that the target does not need is not lowered, so neither its images nor its words matter;
//! the same file and request give the same graph.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cooper_dockerfile::dockerignore::PatternList;
use cooper_dockerfile::expand::ExpandError;
use cooper_dockerfile::{
    Add, CommandLine, Copy, Dockerfile, Escape, Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue,
    Mount, Run, RunCommand, RunNetwork, RunSecurity, Span, Stage, Word,
};
use cooper_image::config::{Empty, Healthcheck as HealthcheckConfig, RuntimeConfig};
use cooper_image::image::ImageRecord;
use cooper_image::platform::Platform;

use crate::context::{ContextQuery, Wanted};
use crate::copy::{CopyOperation, Source, Unpack};
use crate::error::{Error, Fault, Result, SourceFile};
use crate::graph::{Graph, MakeDirectory, Operation, VERTICES, Vertex, VertexId};
use crate::history;
use crate::mode::ModeChange;
use crate::request::{BuildRequest, CacheUse, ContextSource, NamedContext, Network};
use crate::run::{DEFAULT_PATH, RunMount, RunMountKind, RunOperation, SCRIPT_DIRECTORY};
use crate::scope::{Variables, is_predefined, platform_arguments, proxy_variables};
use crate::source::{ImageProvider, ImageSource};
use crate::step::CancelToken;

/// Bound on the triggers that a base image may bring.
pub const TRIGGERS: usize = 1000;
/// Bound on the ports of one `EXPOSE`.
const PORTS: usize = 65_536;

/// What lowering made.
#[derive(Debug)]
pub struct Lowered {
    /// The work.
    pub graph: Graph,
    /// The image to be made.
    pub image: ImagePlan,
    /// Build arguments that nothing declares.
    pub unused_arguments: Vec<String>,
}

/// An image to be made when its vertices are solved.
#[derive(Clone, Debug)]
pub struct ImagePlan {
    /// The file system.
    pub root: VertexId,
    /// The image it starts from; none for scratch.
    pub base: Option<Arc<ImageSource>>,
    /// How a container starts.
    pub runtime: RuntimeConfig,
    /// `MAINTAINER`
    pub author: Option<String>,
    /// What it is for.
    pub platform: Platform,
    /// What the instructions add to the base's history.
    pub history: Vec<HistoryPlan>,
}

/// An entry of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPlan {
    /// The instruction in BuildKit's words.
    pub created_by: String,
    /// The file systems before and after, where the instruction makes a layer.
    pub layer: Option<(VertexId, VertexId)>,
}

/// A stage at work, and when it is done.
#[derive(Clone, Debug)]
struct StageState {
    root: VertexId,
    base: Option<Arc<ImageSource>>,
    runtime: RuntimeConfig,
    author: Option<String>,
    history: Vec<HistoryPlan>,
    variables: Variables,
    /// The arguments that `ARG` declared, for the history of `RUN`; a name once.
    arguments: Vec<(String, Option<String>)>,
    cmd_set: bool,
}

/// Makes the graph of a request.
pub fn lower(
    file: &Arc<SourceFile>,
    dockerfile: &Dockerfile,
    ignore: PatternList,
    request: &BuildRequest,
    images: &dyn ImageProvider,
    cancel: &CancelToken,
) -> Result<Lowered> {
    let target = target_index(dockerfile, request)?;
    let mut lowering = Lowering {
        file,
        dockerfile,
        escape: dockerfile.directives.escape,
        request,
        images,
        cancel,
        graph: Graph::new(),
        contexts: BTreeMap::new(),
        ignore: Arc::new(ignore),
        sources: BTreeMap::new(),
        source_vertices: BTreeMap::new(),
        scratch: None,
        globals: Variables::default(),
        used_arguments: BTreeSet::new(),
        stages: vec![None; dockerfile.stages.len()],
    };
    lowering.globals = lowering.global_variables(target)?;
    let needed = lowering.needed_stages(target)?;
    lowering.resolve_images(&needed)?;
    for index in needed {
        let state = lowering.stage(index)?;
        lowering.stages[index] = Some(state);
    }
    lowering.finish(target)
}

/// Index of the stage that the request asks for.
pub fn target_index(dockerfile: &Dockerfile, request: &BuildRequest) -> Result<usize> {
    let last =
        dockerfile.stages.len().checked_sub(1).ok_or_else(|| Error::build("the Dockerfile has no stages"))?;
    let Some(name) = &request.target else { return Ok(last) };
    dockerfile.stage_index(name, dockerfile.stages.len()).ok_or_else(|| {
        let error = Error::new(Fault::Usage, format!("the Dockerfile has no stage `{name}`"));
        match dockerfile.suggest_stage(name) {
            Some(similar) => error.hint(format!("did you mean `--target {similar}`?")),
            None => error,
        }
    })
}

/// What a `FROM` or `--from` names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Scratch,
    Stage(usize),
    Named(String),
    Image(String, String),
}

struct Lowering<'a> {
    file: &'a Arc<SourceFile>,
    dockerfile: &'a Dockerfile,
    escape: Escape,
    request: &'a BuildRequest,
    images: &'a dyn ImageProvider,
    cancel: &'a CancelToken,
    graph: Graph,
    /// Contexts in use: the main one has the empty name.
    contexts: BTreeMap<String, (VertexId, ContextSource, Wanted)>,
    ignore: Arc<PatternList>,
    /// Resolved images by reference and platform.
    sources: BTreeMap<(String, String), Arc<ImageSource>>,
    source_vertices: BTreeMap<(String, String), VertexId>,
    scratch: Option<VertexId>,
    globals: Variables,
    used_arguments: BTreeSet<String>,
    stages: Vec<Option<StageState>>,
}

impl Lowering<'_> {
    // ---- before the stages

    fn global_variables(&mut self, target: usize) -> Result<Variables> {
        let stage_name = self.dockerfile.stages[target].name().unwrap_or_default().to_owned();
        let mut variables =
            platform_arguments(&self.request.build_platform, &self.request.platform, &stage_name);
        for instruction in &self.dockerfile.global_args {
            let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
            for declaration in declarations {
                let name = self.expand(&variables, &declaration.name)?;
                let given = self.build_argument(&name);
                let value = match (given, &declaration.default) {
                    (Some(given), _) => Some(given),
                    (None, Some(default)) => Some(self.expand(&variables, default)?),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    variables.set(&name, &value);
                }
            }
        }
        Ok(variables)
    }

    fn build_argument(&mut self, name: &str) -> Option<String> {
        let value = self.request.build_args.get(name)?;
        self.used_arguments.insert(name.to_owned());
        Some(value.clone())
    }

    /// The stages that `target` needs, itself included, in order.
    fn needed_stages(&mut self, target: usize) -> Result<Vec<usize>> {
        let mut needed = BTreeSet::from([target]);
        let mut left = vec![target];
        while let Some(index) = left.pop() {
            let origins = self.stage_origins(index)?;
            for origin in origins {
                if let Origin::Stage(other) = origin
                    && needed.insert(other)
                {
                    left.push(other);
                }
            }
        }
        Ok(needed.into_iter().collect())
    }

    /// Everything that a stage names: its base and its `--from`s.
    fn stage_origins(&mut self, index: usize) -> Result<Vec<Origin>> {
        let stage = &self.dockerfile.stages[index];
        let mut origins = vec![self.base_origin(stage, index)?];
        for instruction in &stage.instructions {
            origins.extend(self.instruction_origins(instruction, index)?);
        }
        Ok(origins)
    }

    fn instruction_origins(&mut self, instruction: &Instruction, index: usize) -> Result<Vec<Origin>> {
        let mut origins = Vec::new();
        match &instruction.kind {
            InstructionKind::Copy(Copy { from: Some(from), .. }) => {
                origins.push(self.origin(&from.text, index, from.span)?);
            }
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    let from = mount.options.iter().rfind(|option| option.key.text == "from");
                    if let Some(from) = from.and_then(|option| option.value.as_ref())
                        && !from.text.is_empty()
                    {
                        origins.push(self.origin(&from.text, index, from.span)?);
                    }
                }
            }
            _ => {}
        }
        Ok(origins)
    }

    fn base_origin(&self, stage: &Stage, index: usize) -> Result<Origin> {
        let name = self.expand(&self.globals, &stage.from.image)?;
        if name.is_empty() {
            let message = format!(
                "the base image `{}` is empty after its variables are replaced",
                stage.from.image.text
            );
            return Err(Error::build(message)
                .hint("give the ARG a default before the first FROM, or pass --build-arg")
                .at(self.file, stage.from.image.span));
        }
        if let Some(named) = self.named(&name) {
            return Ok(named);
        }
        if name == "scratch" {
            return Ok(Origin::Scratch);
        }
        if let Some(other) = self.dockerfile.base_stage_index(&name, index) {
            return Ok(Origin::Stage(other));
        }
        Ok(Origin::Image(name, self.stage_platform(stage)?.to_string()))
    }

    fn stage_platform(&self, stage: &Stage) -> Result<Platform> {
        let Some(word) = &stage.from.platform else { return Ok(self.request.platform.clone()) };
        let text = self.expand(&self.globals, word)?;
        text.parse().map_err(|error: cooper_image::Error| {
            Error::build(format!("invalid platform `{text}`")).caused_by(error).at(self.file, word.span)
        })
    }

    fn origin(&self, name: &str, index: usize, span: Span) -> Result<Origin> {
        if let Some(named) = self.named(name) {
            return Ok(named);
        }
        if let Some(stage) = self.dockerfile.stage_index(name, index) {
            return Ok(Origin::Stage(stage));
        }
        if name.bytes().all(|byte| byte.is_ascii_digit())
            || self.dockerfile.stage_index(name, usize::MAX).is_some()
        {
            let message = format!("`{name}` is not a stage before this one");
            return Err(Error::build(message).at(self.file, span));
        }
        if name == "scratch" {
            return Ok(Origin::Scratch);
        }
        Ok(Origin::Image(name.to_owned(), self.request.platform.to_string()))
    }

    fn named(&self, name: &str) -> Option<Origin> {
        match self.request.named_contexts.get(name)? {
            NamedContext::Directory(_) => Some(Origin::Named(name.to_owned())),
            NamedContext::Image(reference) => {
                Some(Origin::Image(reference.clone(), self.request.platform.to_string()))
            }
        }
    }

    /// Resolves the images of the stages, several at once.
    fn resolve_images(&mut self, stages: &[usize]) -> Result<()> {
        let mut wanted: BTreeMap<(String, String), Span> = BTreeMap::new();
        for index in stages {
            let span = self.dockerfile.stages[*index].from.image.span;
            for origin in self.stage_origins(*index)? {
                if let Origin::Image(name, platform) = origin {
                    wanted.entry((name, platform)).or_insert(span);
                }
            }
        }
        let wanted: Vec<_> = wanted.into_iter().collect();
        let results: Vec<Result<ImageRecord>> = std::thread::scope(|scope| {
            let (images, pull, cancel) = (self.images, self.request.pull, self.cancel);
            let resolve = move |(name, platform): &(String, String)| {
                let platform: Platform = platform.parse()?;
                images.resolve(name, &platform, pull, cancel)
            };
            let threads: Vec<_> =
                wanted.iter().map(|(image, _)| scope.spawn(move || resolve(image))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(Error::new(Fault::Bug, "resolving an image panicked")))
            };
            threads.into_iter().map(join).collect()
        });
        for ((image, span), resolved) in wanted.into_iter().zip(results) {
            let resolved = resolved.map_err(|error| error.at(self.file, span))?;
            self.sources.insert(image, Arc::new(ImageSource::new(resolved)));
        }
        Ok(())
    }

    // ---- vertices

    fn add(&mut self, vertex: Vertex) -> Result<VertexId> {
        if self.graph.len() >= VERTICES {
            return Err(Error::new(Fault::Limit, format!("the build has more than {VERTICES} steps")));
        }
        Ok(self.graph.add(vertex))
    }

    fn source_vertex(&mut self, name: String, operation: Operation, span: Option<Span>) -> Result<VertexId> {
        self.add(Vertex { operation, inputs: Vec::new(), name, span, use_cache: true })
    }

    fn scratch(&mut self) -> Result<VertexId> {
        if let Some(id) = self.scratch {
            return Ok(id);
        }
        let id = self.source_vertex("FROM scratch".to_owned(), Operation::Scratch, None)?;
        self.scratch = Some(id);
        Ok(id)
    }

    /// The image that has been resolved, or one that a trigger brought up only now.
    fn image(&mut self, name: String, platform: String, span: Span) -> Result<(VertexId, Arc<ImageSource>)> {
        let image = (name, platform);
        let source = match self.sources.get(&image) {
            Some(source) => Arc::clone(source),
            None => {
                let resolved = self
                    .images
                    .resolve(&image.0, &image.1.parse()?, self.request.pull, self.cancel)
                    .map_err(|error| error.at(self.file, span))?;
                let source = Arc::new(ImageSource::new(resolved));
                self.sources.insert(image.clone(), Arc::clone(&source));
                source
            }
        };
        let id = match self.source_vertices.get(&image) {
            Some(id) => *id,
            None => {
                let name = format!("FROM {}@{}", image.0, source.image.digest());
                let id = self.source_vertex(name, Operation::Image(Arc::clone(&source)), Some(span))?;
                self.source_vertices.insert(image, id);
                id
            }
        };
        Ok((id, source))
    }

    /// The vertex of a context, and what is wanted of it.
    fn context(&mut self, name: &str) -> Result<(VertexId, &mut Wanted)> {
        if !self.contexts.contains_key(name) {
            let source = match self.request.named_contexts.get(name) {
                Some(NamedContext::Directory(path)) => ContextSource::Directory(path.clone()),
                _ => self.request.context.clone(),
            };
            let shown = if name.is_empty() {
                "load build context".to_owned()
            } else {
                format!("load context {name}")
            };
            let query =
                ContextQuery { source: source.clone(), ignore: Arc::default(), wanted: Wanted::default() };
            let id = self.source_vertex(shown, Operation::Context(Arc::new(query)), None)?;
            self.contexts.insert(name.to_owned(), (id, source, Wanted::default()));
        }
        let (id, _, wanted) =
            self.contexts.get_mut(name).ok_or_else(|| Error::new(Fault::Bug, "a lost context"))?;
        Ok((*id, wanted))
    }

    /// The vertex that a `--from` means; `wanted` is told to contexts.
    fn vertex_of(&mut self, origin: Origin, span: Span, want: &dyn Fn(&mut Wanted)) -> Result<VertexId> {
        match origin {
            Origin::Scratch => self.scratch(),
            Origin::Stage(index) => match &self.stages[index] {
                Some(stage) => Ok(stage.root),
                // Only a trigger can name a stage that nothing else needs.
                None => Err(Error::unsupported("a trigger that copies from a stage of this Dockerfile")
                    .at(self.file, span)),
            },
            Origin::Named(name) => {
                let (id, wanted) = self.context(&name)?;
                want(wanted);
                Ok(id)
            }
            Origin::Image(name, platform) => Ok(self.image(name, platform, span)?.0),
        }
    }

    fn finish(mut self, target: usize) -> Result<Lowered> {
        for (name, (id, source, wanted)) in std::mem::take(&mut self.contexts) {
            let ignore = if name.is_empty() { Arc::clone(&self.ignore) } else { Arc::default() };
            self.graph.set_context(id, ContextQuery { source, ignore, wanted });
        }
        let state =
            self.stages[target].take().ok_or_else(|| Error::new(Fault::Bug, "the target was not lowered"))?;
        let mut runtime = state.runtime;
        runtime.labels.extend(self.request.labels.clone());
        let unused = self.request.build_args.keys();
        let unused = unused.filter(|name| !self.used_arguments.contains(*name) && !is_predefined(name));
        Ok(Lowered {
            unused_arguments: unused.cloned().collect(),
            graph: self.graph,
            image: ImagePlan {
                root: state.root,
                platform: self.request.platform.clone(),
                base: state.base,
                runtime,
                author: state.author,
                history: state.history,
            },
        })
    }

    // ---- stages

    fn stage(&mut self, index: usize) -> Result<StageState> {
        let stage = &self.dockerfile.stages[index];
        let origin = self.base_origin(stage, index)?;
        let mut state = match origin {
            Origin::Scratch => {
                let mut runtime = RuntimeConfig::default();
                runtime.env.push(format!("PATH={DEFAULT_PATH}"));
                self.new_state(None, runtime)?
            }
            Origin::Stage(other) => self.stages[other]
                .clone()
                .ok_or_else(|| Error::new(Fault::Bug, "a base stage was not lowered"))?,
            Origin::Image(name, platform) => {
                let (root, source) = self.image(name, platform, stage.from.span)?;
                let mut state = self.new_state(Some(root), source.image.config.config.clone())?;
                state.author = source.image.config.author.clone();
                state.base = Some(source);
                state
            }
            Origin::Named(name) => {
                let error = Error::unsupported(format!("FROM the directory context `{name}`"));
                return Err(error.at(self.file, stage.from.image.span));
            }
        };
        state.cmd_set = false;
        // The image's variables win over arguments inherited from the other stage.
        state.variables.set_all(&state.runtime.env);
        let triggers = std::mem::take(&mut state.runtime.on_build);
        let mut steps = StepNames::new(self.dockerfile, index, triggers.len());
        self.triggers(&mut state, index, &triggers, &mut steps)?;
        for instruction in &stage.instructions {
            self.instruction(&mut state, index, instruction, &mut steps)
                .map_err(|error| error.at(self.file, instruction.span))?;
        }
        Ok(state)
    }

    fn new_state(&mut self, root: Option<VertexId>, runtime: RuntimeConfig) -> Result<StageState> {
        let root = match root {
            Some(root) => root,
            None => self.scratch()?,
        };
        Ok(StageState {
            root,
            base: None,
            runtime,
            author: None,
            history: Vec::new(),
            variables: Variables::default(),
            arguments: Vec::new(),
            cmd_set: false,
        })
    }

    /// Executes what the base image left for the builds that start from it.
    fn triggers(
        &mut self,
        state: &mut StageState,
        index: usize,
        triggers: &[String],
        steps: &mut StepNames,
    ) -> Result<()> {
        let from = self.dockerfile.stages[index].from.span;
        if triggers.len() > TRIGGERS {
            return Err(Error::new(
                Fault::Limit,
                format!("the base image has more than {TRIGGERS} triggers"),
            ));
        }
        for text in triggers {
            let failed = |error: Error| {
                Error::build(format!("the base image's trigger `{text}` failed"))
                    .caused_by(error)
                    .at(self.file, from)
            };
            let mut instruction = cooper_dockerfile::parse_trigger(text).map_err(|_| {
                Error::build(format!("the base image's trigger `{text}` is not an instruction"))
                    .at(self.file, from)
            })?;
            // Its spans point into a text that is not the Dockerfile.
            instruction.span = from;
            self.instruction(state, index, &instruction, steps).map_err(failed)?;
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        steps: &mut StepNames,
    ) -> Result<()> {
        match &instruction.kind {
            InstructionKind::Add(add) => {
                let operation = self.add_operation(state, add)?;
                self.copy(state, index, instruction, steps, operation)
            }
            InstructionKind::Copy(copy) => {
                let operation = self.copy_operation(state, copy, index)?;
                self.copy(state, index, instruction, steps, operation)
            }
            InstructionKind::Run(run) => self.run(state, index, instruction, run, steps),
            InstructionKind::Workdir(word) => self.workdir(state, index, instruction, word, steps),
            InstructionKind::Arg(declarations) => {
                let mut texts = Vec::new();
                for declaration in declarations {
                    let name = self.expand(&state.variables, &declaration.name)?;
                    let given = self.build_argument(&name);
                    let value = match (given, &declaration.default) {
                        (Some(given), _) => Some(given),
                        (None, Some(default)) => Some(self.expand(&state.variables, default)?),
                        (None, None) => self.globals.get(&name).map(str::to_owned),
                    };
                    texts.push(match &value {
                        Some(value) => format!("{name}={value}"),
                        None => name.clone(),
                    });
                    if let Some(value) = &value {
                        state.variables.set(&name, value);
                    }
                    match state.arguments.iter_mut().find(|(own, _)| *own == name) {
                        Some((_, old)) => *old = value,
                        None => state.arguments.push((name, value)),
                    }
                }
                state.note(format!("ARG {}", texts.join(" ")));
                Ok(())
            }
            InstructionKind::Env(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                for (name, value) in &pairs {
                    state.variables.set(name, value);
                    let entry = format!("{name}={value}");
                    let own = state.runtime.env.iter_mut().find(|own| own.split('=').next() == Some(name));
                    match own {
                        Some(own) => *own = entry,
                        None => state.runtime.env.push(entry),
                    }
                }
                state.note(history::pairs("ENV", &pairs));
                Ok(())
            }
            InstructionKind::Label(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                state.runtime.labels.extend(pairs.iter().cloned());
                state.note(history::pairs("LABEL", &pairs));
                Ok(())
            }
            InstructionKind::Cmd(command) => {
                let words = command_words(state, command);
                state.note(history::quoted_list("CMD", &words));
                state.runtime.cmd = Some(words);
                state.runtime.args_escaped = Some(true);
                state.cmd_set = true;
                Ok(())
            }
            InstructionKind::Entrypoint(command) => {
                let words = command_words(state, command);
                state.note(history::quoted_list("ENTRYPOINT", &words));
                state.runtime.entrypoint = (!words.is_empty()).then_some(words);
                if !state.cmd_set {
                    state.runtime.cmd = None;
                }
                Ok(())
            }
            InstructionKind::Expose(words) => self.expose(state, words),
            InstructionKind::Volume(words) => {
                let mut volumes = Vec::new();
                for word in words {
                    let volume = self.expand(&state.variables, word)?;
                    if volume.is_empty() {
                        return Err(Error::build("a volume needs a path").at(self.file, word.span));
                    }
                    volumes.push(volume);
                }
                state.runtime.volumes.extend(volumes.iter().map(|volume| (volume.clone(), Empty {})));
                state.note(history::list("VOLUME", &volumes));
                Ok(())
            }
            InstructionKind::User(word) => {
                state.runtime.user = self.expand(&state.variables, word)?;
                state.note(format!("USER {}", state.runtime.user));
                Ok(())
            }
            InstructionKind::Shell(words) => {
                let words: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
                state.note(history::list("SHELL", &words));
                state.runtime.shell = Some(words);
                Ok(())
            }
            InstructionKind::Stopsignal(word) => {
                let signal = self.expand(&state.variables, word)?;
                if !is_signal(&signal) {
                    return Err(Error::build(format!("invalid signal: `{signal}`")).at(self.file, word.span));
                }
                state.note(format!("STOPSIGNAL {signal}"));
                state.runtime.stop_signal = Some(signal);
                Ok(())
            }
            InstructionKind::Healthcheck(check) => {
                healthcheck(state, check);
                Ok(())
            }
            InstructionKind::Maintainer(word) => {
                let author = word.text.clone();
                state.note(format!("MAINTAINER {author}"));
                state.author = Some(author);
                Ok(())
            }
            InstructionKind::Onbuild(onbuild) => {
                state.runtime.on_build.push(onbuild.expression.clone());
                Ok(())
            }
        }
    }

    // ---- words

    fn expand(&self, variables: &Variables, word: &Word) -> Result<String> {
        variables.expand(word, self.escape).map_err(|error| self.expand_failed(error, word.span))
    }

    fn expand_failed(&self, error: ExpandError, span: Span) -> Error {
        Error::build(error.to_string()).at(self.file, span)
    }

    fn pairs(&self, state: &StageState, pairs: &[KeyValue]) -> Result<Vec<(String, String)>> {
        let mut expanded = Vec::new();
        for pair in pairs {
            let key = self.expand(&state.variables, &pair.key)?;
            if key.is_empty() {
                return Err(Error::build("a name is empty after its variables are replaced")
                    .at(self.file, pair.key.span));
            }
            expanded.push((key, self.expand(&state.variables, &pair.value)?));
        }
        Ok(expanded)
    }

    fn expose(&self, state: &mut StageState, words: &[Word]) -> Result<()> {
        let mut ports = BTreeSet::new();
        for word in words {
            let expanded = state.variables.expand_words(word, self.escape);
            for text in expanded.map_err(|error| self.expand_failed(error, word.span))? {
                let parsed = parse_ports(&text).ok_or_else(|| {
                    Error::build(format!("invalid port: `{text}`"))
                        .hint("a port is NUMBER[-NUMBER][/tcp|/udp|/sctp]")
                        .at(self.file, word.span)
                })?;
                ports.extend(parsed);
            }
        }
        if ports.len() > PORTS {
            return Err(Error::new(Fault::Limit, format!("EXPOSE lists more than {PORTS} ports")));
        }
        let ports: Vec<String> = ports.into_iter().collect();
        state.runtime.exposed_ports.extend(ports.iter().map(|port| (port.clone(), Empty {})));
        state.note(history::list("EXPOSE", &ports));
        Ok(())
    }

    // ---- instructions that make layers

    fn use_cache(&self, index: usize) -> bool {
        match &self.request.cache {
            CacheUse::All => true,
            CacheUse::Nothing => false,
            CacheUse::Without(stages) => {
                let name = self.dockerfile.stages[index].name().unwrap_or_default();
                !stages.iter().any(|stage| stage.eq_ignore_ascii_case(name) || *stage == index.to_string())
            }
        }
    }

    fn layer(&mut self, state: &mut StageState, created_by: String, vertex: Vertex) -> Result<()> {
        let before = state.root;
        state.root = self.add(vertex)?;
        state.history.push(HistoryPlan { created_by, layer: Some((before, state.root)) });
        Ok(())
    }

    fn workdir(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        word: &Word,
        steps: &mut StepNames,
    ) -> Result<()> {
        let text = self.expand(&state.variables, word)?;
        let path = absolute(state, &text);
        state.runtime.working_directory.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        if path == "/" {
            state.note(created_by);
            return Ok(());
        }
        let operation = MakeDirectory { path, user: state.runtime.user.clone() };
        let vertex = Vertex {
            operation: Operation::MakeDirectory(operation),
            inputs: vec![state.root],
            name: steps.next(&created_by),
            span: Some(instruction.span),
            use_cache: self.use_cache(index),
        };
        self.layer(state, created_by, vertex)
    }

    fn copy_operation(&mut self, state: &StageState, copy: &Copy, index: usize) -> Result<CopyParts> {
        for (flag, given) in
            [("--link", copy.link), ("--parents", copy.parents), ("--exclude", !copy.excludes.is_empty())]
        {
            if given {
                return Err(Error::unsupported(format!("COPY {flag}")));
            }
        }
        let from = match &copy.from {
            Some(from) => Some((self.origin(&from.text, index, from.span)?, from.span)),
            None => None,
        };
        Ok(CopyParts {
            instruction: "COPY",
            sources: self.copy_sources(state, &copy.sources)?,
            destination: self.expand(&state.variables, &copy.destination)?,
            chown: self.expand_option(state, copy.chown.as_ref())?,
            chmod: self.expand_option(state, copy.chmod.as_ref())?,
            chmod_span: copy.chmod.as_ref().map(|word| word.span),
            from,
            unpack: Unpack::Never,
        })
    }

    fn add_operation(&mut self, state: &StageState, add: &Add) -> Result<CopyParts> {
        let flags = [
            ("--link", add.link),
            ("--checksum", add.checksum.is_some()),
            ("--keep-git-dir", add.keep_git_dir.is_some()),
            ("--exclude", !add.excludes.is_empty()),
        ];
        for (flag, given) in flags {
            if given {
                return Err(Error::unsupported(format!("ADD {flag}")));
            }
        }
        let sources = self.copy_sources(state, &add.sources)?;
        for (source, word) in sources.iter().zip(&add.sources) {
            if let (Source::Path(path), cooper_dockerfile::CopySource::Path(word)) = (source, word)
                && is_remote(path)
            {
                return Err(Error::unsupported(format!("ADD of the URL `{path}`"))
                    .hint("fetch it in a RUN, or put the file into the context")
                    .at(self.file, word.span));
            }
        }
        Ok(CopyParts {
            instruction: "ADD",
            sources,
            destination: self.expand(&state.variables, &add.destination)?,
            chown: self.expand_option(state, add.chown.as_ref())?,
            chmod: self.expand_option(state, add.chmod.as_ref())?,
            chmod_span: add.chmod.as_ref().map(|word| word.span),
            from: None,
            unpack: match add.unpack {
                None => Unpack::Archives,
                Some(true) => Unpack::Always,
                Some(false) => Unpack::Never,
            },
        })
    }

    fn expand_option(&self, state: &StageState, word: Option<&Word>) -> Result<Option<String>> {
        word.map(|word| self.expand(&state.variables, word)).transpose()
    }

    fn copy_sources(
        &self,
        state: &StageState,
        sources: &[cooper_dockerfile::CopySource],
    ) -> Result<Vec<Source>> {
        let mut expanded = Vec::new();
        for source in sources {
            expanded.push(match source {
                cooper_dockerfile::CopySource::Path(word) => {
                    Source::Path(self.expand(&state.variables, word)?)
                }
                cooper_dockerfile::CopySource::Heredoc(heredoc) => Source::Inline {
                    name: heredoc.name.clone(),
                    contents: self.heredoc(state, heredoc)?.into_bytes(),
                },
            });
        }
        Ok(expanded)
    }

    fn heredoc(&self, state: &StageState, heredoc: &Heredoc) -> Result<String> {
        let text = heredoc.to_text();
        if !heredoc.expand {
            return Ok(text);
        }
        state.variables.expand_heredoc(&text).map_err(|error| self.expand_failed(error, heredoc.span))
    }

    fn copy(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        steps: &mut StepNames,
        parts: CopyParts,
    ) -> Result<()> {
        let created_by = parts.created_by();
        let mode = match &parts.chmod {
            Some(text) => Some(ModeChange::parse(text).ok_or_else(|| {
                Error::build(format!("invalid mode: `{text}`"))
                    .hint("a mode is octal, as 0755, or symbolic, as u=rwX,go=r")
                    .at(self.file, parts.chmod_span.unwrap_or(instruction.span))
            })?),
            None => None,
        };
        let paths: Vec<&String> = parts
            .sources
            .iter()
            .filter_map(|source| if let Source::Path(path) = source { Some(path) } else { None })
            .collect();
        let want = |wanted: &mut Wanted| paths.iter().for_each(|path| wanted.add_pattern(path));
        let mut inputs = vec![state.root];
        if !paths.is_empty() {
            inputs.push(match parts.from {
                Some((origin, span)) => self.vertex_of(origin, span, &want)?,
                None => {
                    let (id, wanted) = self.context("")?;
                    want(wanted);
                    id
                }
            });
        }
        let mut destination = absolute(state, &parts.destination);
        let is_directory = parts.destination.ends_with('/')
            || parts.destination.ends_with("/.")
            || parts.destination == "."
            || parts.sources.len() > 1;
        if is_directory && !destination.ends_with('/') {
            destination.push('/');
        }
        let operation = CopyOperation {
            sources: parts.sources,
            destination,
            owner: parts.chown,
            mode,
            unpack: parts.unpack,
        };
        let shown = created_by.trim_end_matches(" # buildkit").to_owned();
        let vertex = Vertex {
            operation: Operation::Copy(operation),
            inputs,
            name: steps.next(&with_from(&shown, instruction)),
            span: Some(instruction.span),
            use_cache: self.use_cache(index),
        };
        self.layer(state, created_by, vertex)
    }

    fn run(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        run: &Run,
        steps: &mut StepNames,
    ) -> Result<()> {
        if run.security == Some(RunSecurity::Insecure) {
            return Err(Error::unsupported("RUN --security=insecure"));
        }
        if let Some(device) = run.devices.first() {
            return Err(Error::unsupported("RUN --device").at(self.file, device.span));
        }
        let network = match run.network {
            None => self.request.network,
            Some(RunNetwork::Default) => Network::Default,
            Some(RunNetwork::None) => Network::None,
            Some(RunNetwork::Host) => {
                return Err(
                    Error::unsupported("RUN --network=host").hint("the default network reaches the host's")
                );
            }
        };
        let (arguments, script) = run_arguments(state, run);
        let mut inputs = vec![state.root];
        let mut mounts = Vec::new();
        for flag in &run.mounts {
            let mut expand = |word: &Word| {
                state.variables.expand(word, self.escape).map_err(|error| {
                    Box::new(cooper_dockerfile::Diagnostic::error(
                        cooper_dockerfile::Code::InvalidMount,
                        error.to_string(),
                        word.span,
                    ))
                })
            };
            let mount = flag.resolve(&mut expand).map_err(|finding| {
                let error = Error::build(finding.message.clone()).at(self.file, finding.span());
                match finding.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            })?;
            let mount = self.mount(state, index, mount, flag.value.span, &mut inputs)?;
            mounts.push(mount.map_err(|error| error.at(self.file, flag.value.span))?);
        }
        let values: Vec<(String, String)> = state
            .arguments
            .iter()
            .map(|(name, value)| {
                let current = state.variables.get(name).map(str::to_owned);
                (name.clone(), current.or_else(|| value.clone()).unwrap_or_default())
            })
            .collect();
        let created_by = history::run(&arguments, &values);
        let variables = state.variables.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let working_directory = match state.runtime.working_directory.as_str() {
            "" => "/".to_owned(),
            directory => directory.to_owned(),
        };
        let operation = RunOperation {
            arguments,
            script,
            environment: variables.collect(),
            proxies: proxy_variables(&self.request.build_args),
            working_directory,
            user: state.runtime.user.clone(),
            mounts,
            network,
        };
        let shown = self.expand_quietly(state, &instruction.source_code);
        let vertex = Vertex {
            operation: Operation::Run(Box::new(operation)),
            inputs,
            name: steps.next(&shown),
            span: Some(instruction.span),
            use_cache: self.use_cache(index),
        };
        self.layer(state, created_by, vertex)
    }

    /// A line for the progress display.
    fn expand_quietly(&self, _state: &StageState, line: &str) -> String {
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[allow(
        clippy::type_complexity,
        reason = "the outer result is ours, the inner one gets the mount's place"
    )]
    fn mount(
        &mut self,
        state: &StageState,
        index: usize,
        mount: Mount,
        span: Span,
        inputs: &mut Vec<VertexId>,
    ) -> Result<Result<RunMount>> {
        let ownership = |ownership: cooper_dockerfile::Ownership, mode: u32| {
            let mode = u16::try_from(ownership.mode.unwrap_or(mode) & 0o7777).unwrap_or(0o755);
            (mode, ownership.uid.unwrap_or(0), ownership.gid.unwrap_or(0))
        };
        let mut input = |lowering: &mut Self, from: Option<String>, source: &str| -> Result<usize> {
            let want = |wanted: &mut Wanted| wanted.add_path(source);
            let id = match from {
                Some(from) => {
                    let origin = lowering.origin(&from, index, span)?;
                    lowering.vertex_of(origin, span, &want)?
                }
                None => {
                    let (id, wanted) = lowering.context("")?;
                    want(wanted);
                    id
                }
            };
            inputs.push(id);
            Ok(inputs.len() - 1)
        };
        Ok(Ok(match mount {
            Mount::Bind { from, source, target, read_only } => {
                let source = source.unwrap_or_else(|| "/".to_owned());
                let input = input(self, from, &source)?;
                let target = absolute(state, &target);
                if target == "/" {
                    return Ok(Err(Error::build("a mount on `/` would hide the image")));
                }
                RunMount { target, kind: RunMountKind::Bind { input, source, read_only } }
            }
            Mount::Cache { id, target, from, source, sharing, read_only, ownership: owner } => {
                let target = absolute(state, &target);
                if target == "/" {
                    return Ok(Err(Error::build("a mount on `/` would hide the image")));
                }
                let from = match (from, source) {
                    (None, Some(_)) => {
                        return Ok(Err(Error::build("a cache mount with `source` needs `from`")));
                    }
                    (None, None) => None,
                    (Some(from), source) => {
                        let source = source.unwrap_or_else(|| "/".to_owned());
                        Some((input(self, Some(from), &source)?, source))
                    }
                };
                let id = id.unwrap_or_else(|| target.clone());
                let ownership = ownership(owner, 0o755);
                RunMount { target, kind: RunMountKind::Cache { id, from, sharing, read_only, ownership } }
            }
            Mount::Tmpfs { target, size, read_only } => {
                let target = absolute(state, &target);
                if target == "/" {
                    return Ok(Err(Error::build("a mount on `/` would hide the image")));
                }
                RunMount { target, kind: RunMountKind::Tmpfs { size, read_only } }
            }
            Mount::Secret { id, target, env, required, ownership: owner } => {
                let target = target.map(|target| absolute(state, &target)).unwrap_or_default();
                let ownership = ownership(owner, 0o400);
                RunMount { target, kind: RunMountKind::Secret { id, required, variable: env, ownership } }
            }
            Mount::Ssh { .. } => return Ok(Err(Error::unsupported("RUN --mount=type=ssh"))),
        }))
    }
}

/// The words of a `COPY` or `ADD`.
struct CopyParts {
    instruction: &'static str,
    sources: Vec<Source>,
    destination: String,
    chown: Option<String>,
    chmod: Option<String>,
    chmod_span: Option<Span>,
    from: Option<(Origin, Span)>,
    unpack: Unpack,
}

impl CopyParts {
    fn created_by(&self) -> String {
        let mut words = vec![self.instruction.to_owned()];
        words.extend(self.chown.as_ref().map(|chown| format!("--chown={chown}")));
        words.extend(self.chmod.as_ref().map(|chmod| format!("--chmod={chmod}")));
        for source in &self.sources {
            words.push(match source {
                Source::Path(path) => path.clone(),
                Source::Inline { name, .. } => format!("<<{name}"),
            });
        }
        words.push(self.destination.clone());
        history::with_layer(&words.join(" "))
    }
}

impl StageState {
    /// Adds an entry for an instruction that makes no layer.
    fn note(&mut self, created_by: String) {
        self.history.push(HistoryPlan { created_by, layer: None });
    }
}

/// The names of a stage's steps in the progress display: `[build 2/5] RUN make`.
struct StepNames {
    prefix: String,
    number: usize,
    total: usize,
}

impl StepNames {
    fn new(dockerfile: &Dockerfile, index: usize, triggers: usize) -> Self {
        let stage = &dockerfile.stages[index];
        let prefix = match stage.name() {
            Some(name) => format!("{name} "),
            None if dockerfile.stages.len() == 1 => String::new(),
            None => format!("stage-{index} "),
        };
        let layers = stage.instructions.iter().filter(|instruction| {
            matches!(
                instruction.kind,
                InstructionKind::Run(_)
                    | InstructionKind::Copy(_)
                    | InstructionKind::Add(_)
                    | InstructionKind::Workdir(_)
            )
        });
        Self { prefix, number: 1, total: layers.count() + triggers + 1 }
    }

    fn next(&mut self, text: &str) -> String {
        self.number += 1;
        format!("[{}{}/{}] {text}", self.prefix, self.number, self.total)
    }
}

/// Puts the `--from` back that BuildKit leaves out of the history.
fn with_from(shown: &str, instruction: &Instruction) -> String {
    let InstructionKind::Copy(Copy { from: Some(from), .. }) = &instruction.kind else {
        return shown.to_owned();
    };
    match shown.split_once(' ') {
        Some((keyword, rest)) => format!("{keyword} --from={} {rest}", from.text),
        None => shown.to_owned(),
    }
}

/// A path relative to the working directory, cleaned, absolute.
fn absolute(state: &StageState, text: &str) -> String {
    let path = if text.starts_with('/') {
        text.to_owned()
    } else {
        format!("{}/{text}", state.runtime.working_directory)
    };
    let clean = cooper_vfs::path::clean(path.as_bytes());
    // Cleaning takes and joins whole names, so the text is as valid as before.
    format!("/{}", String::from_utf8_lossy(&clean))
}

fn shell(state: &StageState) -> Vec<String> {
    state.runtime.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
}

fn command_words(state: &StageState, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        CommandLine::Shell(line) if line.text.is_empty() => Vec::new(),
        CommandLine::Shell(line) => {
            let mut words = shell(state);
            words.push(line.text.clone());
            words
        }
    }
}

#[allow(clippy::type_complexity, reason = "arguments, and the script that they name")]
fn run_arguments(state: &StageState, run: &Run) -> (Vec<String>, Option<(String, Vec<u8>)>) {
    let mut arguments = shell(state);
    match run.to_command() {
        RunCommand::Exec(words) => (words, None),
        RunCommand::Shell(line) => {
            arguments.push(line);
            (arguments, None)
        }
        RunCommand::Script { name, content } => {
            arguments.push(format!("{SCRIPT_DIRECTORY}/{name}"));
            (arguments, Some((name, content.into_bytes())))
        }
    }
}

fn healthcheck(state: &mut StageState, check: &Healthcheck) {
    let (config, durations, retries) = match check {
        Healthcheck::None => (
            HealthcheckConfig { test: vec!["NONE".to_owned()], ..HealthcheckConfig::default() },
            [std::time::Duration::ZERO; 4],
            0,
        ),
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                CommandLine::Exec(words) => std::iter::once("CMD".to_owned())
                    .chain(words.iter().map(|word| word.text.clone()))
                    .collect(),
                CommandLine::Shell(line) => vec!["CMD-SHELL".to_owned(), line.text.clone()],
            };
            let nanoseconds = |duration: &Option<std::time::Duration>| {
                let duration = duration.filter(|duration| !duration.is_zero())?;
                i64::try_from(duration.as_nanos()).ok()
            };
            let config = HealthcheckConfig {
                test,
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: retries.filter(|retries| *retries > 0).map(i64::from),
                ..HealthcheckConfig::default()
            };
            let durations = [interval, timeout, start_period, start_interval]
                .map(|duration| duration.unwrap_or_default());
            (config, durations, retries.unwrap_or(0))
        }
    };
    state.note(history::healthcheck(&config.test, durations, retries));
    state.runtime.healthcheck = Some(config);
}

/// The ports of one word of `EXPOSE`, as `80/tcp`.
fn parse_ports(text: &str) -> Option<Vec<String>> {
    let (range, protocol) = match text.split_once('/') {
        Some((range, protocol)) => (range, protocol.to_ascii_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    // A mapping to a host port is accepted by Docker, and only the container's side counts.
    let range = range.rsplit(':').next()?;
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(range)?, port(range)?),
    };
    (first <= last).then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// The names that `STOPSIGNAL` takes, besides numbers.
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, sign: char| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix(sign).and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n <= 15)
        })
    };
    SIGNALS.contains(&name) || real_time("RTMIN", '+') || real_time("RTMAX", '-')
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|scheme| source.starts_with(scheme))
}
