//! What the names after `FROM`, `COPY --from=` and `RUN --mount=from=` mean, and which stages a target so needs.
//!
//! A name is a named context, a stage before, `scratch`, or an image, in this order. The triggers of a base image may
//! name stages and images too; they are known only when the base is resolved, so looking for what is needed goes in
//! rounds: text, images, triggers, until nothing new comes up. The images of one round are resolved at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cooper_dockerfile::{Copy, Dockerfile, Instruction, InstructionKind, Span, Stage};
use cooper_image::image::ImageRecord;
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;

use super::Lowering;
use crate::context::{ContextQuery, Wanted};
use crate::error::{Error, Fault, Result};
use crate::graph::{Operation, VertexId};
use crate::request::{BuildRequest, NamedContext};
use crate::source::ImageSource;

/// Bound on the triggers that a base image may bring.
pub const TRIGGERS: usize = 1000;

/// What a `FROM` or `--from` names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The empty file system.
    Scratch,
    /// A stage of the Dockerfile.
    Stage(usize),
    /// A named context that holds files.
    Named(String),
    /// An image.
    Image(ImageName),
}

/// An image as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    /// The reference, as written.
    pub reference: String,
    /// `os/architecture[/variant]`
    pub platform: String,
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

/// A Dockerfile names images of registries only; places of this machine are the command line's to name.
fn check_reference(name: &str) -> Result<()> {
    if name.contains("://") {
        return Err(Error::build(format!("`{name}` is neither a stage nor an image reference"))
            .hint("give it a name with `--build-context NAME=…` and use the name"));
    }
    Ok(())
}

/// The instructions that a base left for the builds that start from it.
pub(super) fn parse_triggers(texts: &[String]) -> Result<Vec<Instruction>> {
    if texts.len() > TRIGGERS {
        let message = format!("the base image has more than {TRIGGERS} triggers");
        return Err(Error::new(Fault::Limit, message));
    }
    let parse = |text: &String| {
        cooper_dockerfile::parse_trigger(text)
            .map_err(|_| Error::build(format!("the base image's trigger `{text}` is not an instruction")))
    };
    texts.iter().map(parse).collect()
}

impl Lowering<'_> {
    /// The stages that `target` needs, itself included, in order; their images are resolved.
    pub(super) fn needed_stages(&mut self, target: usize) -> Result<Vec<usize>> {
        let mut needed = BTreeSet::from([target]);
        loop {
            let mut left: Vec<usize> = needed.iter().copied().collect();
            let mut wanted: BTreeMap<ImageName, Span> = BTreeMap::new();
            while let Some(index) = left.pop() {
                for (origin, span) in self.stage_origins(index)? {
                    match origin {
                        Origin::Stage(other) if needed.insert(other) => left.push(other),
                        Origin::Image(name) if !self.sources.contains_key(&name) => {
                            wanted.entry(name).or_insert(span);
                        }
                        _ => {}
                    }
                }
            }
            if wanted.is_empty() {
                return Ok(needed.into_iter().collect());
            }
            self.resolve_images(wanted)?;
        }
    }

    /// Everything that a stage names: its base, its `--from`s, and those of the triggers of a base that is known.
    fn stage_origins(&self, index: usize) -> Result<Vec<(Origin, Span)>> {
        let stage = &self.dockerfile.stages[index];
        let image = stage.from.image.span;
        let base = self.base_origin(stage, index)?;
        let mut origins = Vec::new();
        for trigger in self.triggers_of(&base).map_err(|error| error.at(self.file, image))? {
            // Its own places point into a text that is not the Dockerfile.
            let named = self.instruction_origins(&trigger, index, Some(image))?;
            origins.extend(named);
        }
        origins.push((base, image));
        for instruction in &stage.instructions {
            origins.extend(self.instruction_origins(instruction, index, None)?);
        }
        Ok(origins)
    }

    /// The triggers that a stage from this base executes first, as far as the base is known.
    pub(super) fn triggers_of(&self, base: &Origin) -> Result<Vec<Instruction>> {
        match base {
            Origin::Image(name) => match self.sources.get(name) {
                Some(source) => parse_triggers(&source.image.config.config.on_build),
                None => Ok(Vec::new()),
            },
            Origin::Stage(other) => {
                let instructions = &self.dockerfile.stages[*other].instructions;
                let texts: Vec<String> = instructions
                    .iter()
                    .filter_map(|instruction| match &instruction.kind {
                        InstructionKind::Onbuild(onbuild) => Some(onbuild.expression.clone()),
                        _ => None,
                    })
                    .collect();
                parse_triggers(&texts)
            }
            Origin::Scratch | Origin::Named(_) => Ok(Vec::new()),
        }
    }

    fn instruction_origins(
        &self,
        instruction: &Instruction,
        index: usize,
        place: Option<Span>,
    ) -> Result<Vec<(Origin, Span)>> {
        let mut origins = Vec::new();
        let mut add = |name: &str, own: Span| -> Result<()> {
            let span = place.unwrap_or(own);
            origins.push((self.origin(name, index, span)?, span));
            Ok(())
        };
        match &instruction.kind {
            InstructionKind::Copy(Copy { from: Some(from), .. }) => add(&from.text, from.span)?,
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    let from = mount.options.iter().rfind(|option| option.key.text == "from");
                    if let Some(from) = from.and_then(|option| option.value.as_ref())
                        && !from.text.is_empty()
                    {
                        add(&from.text, from.span)?;
                    }
                }
            }
            _ => {}
        }
        Ok(origins)
    }

    pub(super) fn base_origin(&self, stage: &Stage, index: usize) -> Result<Origin> {
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
        let platform = self.stage_platform(stage)?;
        if let Some(named) = self.named(&name, index, &platform)? {
            return Ok(named);
        }
        if name == "scratch" {
            return Ok(Origin::Scratch);
        }
        if let Some(other) = self.dockerfile.base_stage_index(&name, index) {
            return Ok(Origin::Stage(other));
        }
        check_reference(&name).map_err(|error| error.at(self.file, stage.from.image.span))?;
        Ok(Origin::Image(ImageName { reference: name, platform: platform.to_string() }))
    }

    /// What `FROM --platform` says, else the platform of the result.
    pub(super) fn stage_platform(&self, stage: &Stage) -> Result<Platform> {
        let Some(word) = &stage.from.platform else { return Ok(self.request.platform.clone()) };
        let text = self.expand(&self.globals, word)?;
        if text.is_empty() {
            return Err(Error::build(format!(
                "the platform `{}` is empty after its variables are replaced",
                word.text
            ))
            .at(self.file, word.span));
        }
        text.parse().map_err(|error: cooper_image::Error| {
            Error::build(format!("invalid platform `{text}`")).caused_by(error).at(self.file, word.span)
        })
    }

    pub(super) fn origin(&self, name: &str, index: usize, span: Span) -> Result<Origin> {
        if let Some(named) = self.named(name, index, &self.request.platform)? {
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
        check_reference(name).map_err(|error| error.at(self.file, span))?;
        let platform = self.request.platform.to_string();
        Ok(Origin::Image(ImageName { reference: name.to_owned(), platform }))
    }

    fn named(&self, name: &str, index: usize, platform: &Platform) -> Result<Option<Origin>> {
        // An image's place may be taken under its full name too.
        let full = || name.parse::<Reference>().ok().map(|reference| reference.to_string());
        let contexts = &self.request.named_contexts;
        let found = contexts.get(name).or_else(|| full().and_then(|full| contexts.get(&full)));
        let Some(context) = found else { return Ok(None) };
        Ok(Some(match context {
            NamedContext::Files(_) => Origin::Named(name.to_owned()),
            NamedContext::Image(reference) => {
                Origin::Image(ImageName { reference: reference.clone(), platform: platform.to_string() })
            }
            NamedContext::Stage(stage) => match self.dockerfile.stage_index(stage, index) {
                Some(stage) => Origin::Stage(stage),
                None => {
                    let message =
                        format!("`--build-context {name}=target:{stage}` names no stage before its use");
                    return Err(Error::new(Fault::Usage, message));
                }
            },
        }))
    }

    /// Resolves images, several at once.
    fn resolve_images(&mut self, wanted: BTreeMap<ImageName, Span>) -> Result<()> {
        let wanted: Vec<_> = wanted.into_iter().collect();
        let results: Vec<Result<ImageRecord>> = std::thread::scope(|scope| {
            let (images, pull, cancel) = (self.images, self.request.pull, self.cancel);
            let resolve = move |name: &ImageName| {
                let platform: Platform = name.platform.parse()?;
                images.resolve(&name.reference, &platform, pull, cancel)
            };
            let threads: Vec<_> =
                wanted.iter().map(|(image, _)| scope.spawn(move || resolve(image))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(Error::new(Fault::Bug, "resolving an image panicked")))
            };
            threads.into_iter().map(join).collect()
        });
        for ((image, span), resolved) in wanted.into_iter().zip(results) {
            let resolved = resolved.map_err(|error| {
                // A stage's name that is misspelt is taken for an image.
                match self.dockerfile.suggest_stage(&image.reference) {
                    Some(stage) => error.hint_first(format!("did you mean the stage `{stage}`?")),
                    None => error,
                }
                .at(self.file, span)
            })?;
            tracing::info!(image = image.reference, digest = %resolved.digest(), "resolved");
            self.sources.insert(image, Arc::new(ImageSource::new(resolved)));
        }
        Ok(())
    }

    /// The vertex and the source of an image that has been resolved.
    pub(super) fn image(&mut self, image: ImageName, span: Span) -> Result<(VertexId, Arc<ImageSource>)> {
        let source = self
            .sources
            .get(&image)
            .cloned()
            .ok_or_else(|| Error::new(Fault::Bug, format!("`{}` was not resolved", image.reference)))?;
        let id = match self.source_vertices.get(&image) {
            Some(id) => *id,
            None => {
                let name = format!("FROM {}@{}", image.reference, source.image.digest());
                let id = self.source_vertex(name, Operation::Image(Arc::clone(&source)), Some(span))?;
                self.source_vertices.insert(image, id);
                id
            }
        };
        Ok((id, source))
    }

    /// The vertex of a context, and what is wanted of it.
    pub(super) fn context(&mut self, name: &str) -> Result<(VertexId, &mut Wanted)> {
        if !self.contexts.contains_key(name) {
            let source = match self.request.named_contexts.get(name) {
                Some(NamedContext::Files(source)) => source.clone(),
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
    pub(super) fn vertex_of(
        &mut self,
        origin: Origin,
        span: Span,
        want: &dyn Fn(&mut Wanted),
    ) -> Result<VertexId> {
        match origin {
            Origin::Scratch => self.scratch(),
            Origin::Stage(index) => match &self.stages[index] {
                Some(stage) => Ok(stage.root),
                None => Err(Error::new(Fault::Bug, format!("stage {index} was not lowered"))),
            },
            Origin::Named(name) => {
                let (id, wanted) = self.context(&name)?;
                want(wanted);
                Ok(id)
            }
            Origin::Image(name) => Ok(self.image(name, span)?.0),
        }
    }

    /// The whole of a named context as a base.
    pub(super) fn whole_context(&mut self, name: &str) -> Result<VertexId> {
        let (id, wanted) = self.context(name)?;
        wanted.add_path("");
        Ok(id)
    }
}
