//! From instructions to a graph.
//!
//! Lowering walks the stages that the target needs, in order, and keeps for each what its instructions have made so
//! far: the vertex of its file system, the image config, the variables, the history. Nothing is executed. What the
//! Dockerfile may say and this version does not do is an error here, with its place.
//!
//! [`origin`] says what the names after `FROM` and `--from` mean, [`stage`] walks the instructions, [`copy`] and [`run`]
//! make the vertices of theirs, and [`settings`] holds the instructions that only change the config.
//!
//! What must hold: a stage that the target does not need is not lowered, so neither its images nor its words matter;
//! the same file and request give the same graph.

mod copy;
mod origin;
mod run;
mod settings;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cooper_dockerfile::dockerignore::PatternList;
use cooper_dockerfile::expand::ExpandError;
use cooper_dockerfile::{Dockerfile, Escape, InstructionKind, Span, Word};
use cooper_image::config::RuntimeConfig;
use cooper_image::image::ImageRecord;
use cooper_image::platform::Platform;

use crate::context::{self, ContextQuery, Wanted};
use crate::error::{Error, Fault, Result, SourceFile};
use crate::graph::{Graph, Operation, VERTICES, Vertex, VertexId};
use crate::request::{BuildRequest, CacheUse, ContextSource};
use crate::scope::{Variables, is_predefined, platform_arguments};
use crate::source::{ImageProvider, ImageSource};
use crate::step::CancelToken;

pub use origin::{Origin, TRIGGERS, target_index};

/// What lowering made.
#[derive(Debug)]
pub struct Lowered {
    /// The work.
    pub graph: Graph,
    /// The image to be made.
    pub image: ImagePlan,
    /// Build arguments that nothing declares.
    pub unused_arguments: Vec<String>,
    /// The images that were resolved, by reference and platform.
    pub images: BTreeMap<(String, String), ImageRecord>,
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
    /// Where the instruction makes a layer.
    pub layer: Option<LayerPlan>,
}

/// A layer to be made: the difference of two file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// Without the layer.
    pub before: VertexId,
    /// With it.
    pub after: VertexId,
    /// The image's file system with the layer: `after`, but for a `--link`, whose layer is made beside the image.
    pub result: VertexId,
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
    platform: Platform,
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
    for index in lowering.needed_stages(target)? {
        let state = lowering.stage(index)?;
        lowering.stages[index] = Some(state);
    }
    lowering.finish(target)
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
    /// Resolved images.
    sources: BTreeMap<origin::ImageName, Arc<ImageSource>>,
    source_vertices: BTreeMap<origin::ImageName, VertexId>,
    scratch: Option<VertexId>,
    globals: Variables,
    used_arguments: BTreeSet<String>,
    stages: Vec<Option<StageState>>,
}

impl Lowering<'_> {
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

    /// Adds the vertex of an instruction that makes a layer.
    fn layer(&mut self, state: &mut StageState, created_by: String, vertex: Vertex) -> Result<()> {
        let before = state.root;
        let after = self.add(vertex)?;
        state.root = after;
        let layer = Some(LayerPlan { before, after, result: after });
        state.history.push(HistoryPlan { created_by, layer });
        Ok(())
    }

    fn expand(&self, variables: &Variables, word: &Word) -> Result<String> {
        variables.expand(word, self.escape).map_err(|error| self.expand_failed(error, word.span))
    }

    fn expand_failed(&self, error: ExpandError, span: Span) -> Error {
        Error::build(error.to_string()).at(self.file, span)
    }

    fn finish(mut self, target: usize) -> Result<Lowered> {
        for (name, (id, source, wanted)) in std::mem::take(&mut self.contexts) {
            let ignore = if name.is_empty() { Arc::clone(&self.ignore) } else { own_ignore(&name, &source)? };
            self.graph.set_context(id, ContextQuery { source, ignore, wanted });
        }
        let state =
            self.stages[target].take().ok_or_else(|| Error::new(Fault::Bug, "the target was not lowered"))?;
        let mut runtime = state.runtime;
        runtime.labels.extend(self.request.labels.clone());
        let unused = self.request.build_args.keys();
        let unused = unused.filter(|name| !self.used_arguments.contains(*name) && !is_predefined(name));
        let images = self
            .sources
            .iter()
            .map(|(name, source)| ((name.reference.clone(), name.platform.clone()), source.image.clone()));
        Ok(Lowered {
            images: images.collect(),
            unused_arguments: unused.cloned().collect(),
            graph: self.graph,
            image: ImagePlan {
                root: state.root,
                platform: state.platform,
                base: state.base,
                runtime,
                author: state.author,
                history: state.history,
            },
        })
    }
}

/// What the `.dockerignore` of a named context says, where it is a directory.
fn own_ignore(name: &str, source: &ContextSource) -> Result<Arc<PatternList>> {
    let ContextSource::Directory(directory) = source else { return Ok(Arc::default()) };
    let text = context::read_small(&directory.join(".dockerignore"), context::IGNORE_BYTES)?;
    let parsed = PatternList::parse_file(&text.unwrap_or_default());
    let failed = |error| {
        let message = format!("cannot use the `.dockerignore` of the context `{name}`");
        Error::new(Fault::Usage, message).caused_by(error)
    };
    parsed.map(Arc::new).map_err(failed)
}

impl StageState {
    /// Adds an entry for an instruction that makes no layer.
    fn note(&mut self, created_by: String) {
        self.history.push(HistoryPlan { created_by, layer: None });
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
