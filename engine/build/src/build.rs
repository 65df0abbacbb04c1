#![allow(clippy::disallowed_methods, reason = "reads the Dockerfile; architecture section 8, invariant 1")]
//! A build from request to image.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use cooper_dockerfile::dockerignore::PatternList;
use cooper_dockerfile::{Diagnostic, Dockerfile, Severity, Style};
use cooper_image::compression::Compression;
use cooper_image::image::{ImageRecord, LayerRecord, NewLayer};
use cooper_image::layer::LayerOptions;
use cooper_image::platform::Platform;
use cooper_image::store::Store;
use cooper_vfs::tree::Tree;

use crate::cache::{CacheMode, CacheRecord, ImportedCaches, IndexRecord, MountRecord};
use crate::cache_mounts;
use crate::check;
use crate::context::{self, ContextQuery, IGNORE_BYTES, Wanted, read_small};
use crate::error::{Error, Fault, Result, SourceFile};
use crate::graph::{Operation, VertexId};
use crate::image::{self, ImageOptions, LayerFormat, assemble};
use crate::lower::{Lowered, lower};
use crate::report::{Event, Reporter};
use crate::request::{BuildRequest, ContextSource, DOCKERFILE_BYTES, DockerfileSource};
use crate::run::RunMountKind;
use crate::solve::{Solution, Solver};
use crate::source::ImageProvider;
use crate::step::{CancelToken, StepRunner};

/// What a build works with.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    /// Trees, contents, records, images.
    pub store: &'a Store,
    /// Where base images come from.
    pub images: &'a dyn ImageProvider,
    /// Runs steps.
    pub runner: &'a dyn StepRunner,
    /// Where progress goes.
    pub reporter: &'a dyn Reporter,
    /// Ends the build.
    pub cancel: &'a CancelToken,
    /// Results of other builds.
    pub caches: &'a ImportedCaches,
}

/// A build whose vertices are solved; images are made of it on demand.
#[derive(Debug)]
pub struct Built<'a> {
    builder: Builder<'a>,
    lowered: Lowered,
    solution: Solution,
    request: &'a BuildRequest,
}

/// A Dockerfile as it was read and parsed.
#[derive(Debug)]
pub struct Loaded {
    /// For showing lines of it.
    pub file: Arc<SourceFile>,
    /// The instructions.
    pub dockerfile: Dockerfile,
    /// What `.dockerignore` says.
    pub ignore: PatternList,
    /// The context is an archive with a `.dockerignore` in it, which does not count.
    pub has_unused_ignore: bool,
}

impl Loaded {
    /// The findings of a severity, rendered.
    pub fn render(&self, severity: Severity, style: Style) -> Vec<String> {
        let chosen = self.dockerfile.diagnostics.iter().filter(|finding| finding.severity == severity);
        chosen.map(|finding: &Diagnostic| finding.render(&self.file.text, &self.file.name, style)).collect()
    }
}

/// Reads the Dockerfile and `.dockerignore` of a request.
pub fn load(store: &Store, request: &BuildRequest, cancel: &CancelToken) -> Result<Loaded> {
    let mut has_unused_ignore = false;
    let (name, bytes, ignore) = match &request.dockerfile {
        DockerfileSource::Text { name, bytes } => (name.clone(), bytes.clone(), None),
        DockerfileSource::File(path) => {
            let bytes = read_small(path, DOCKERFILE_BYTES)?.ok_or_else(|| {
                Error::new(Fault::Usage, format!("there is no Dockerfile `{}`", path.display()))
                    .hint("name it with `--file`")
            })?;
            let mut own_ignore = path.as_os_str().to_owned();
            own_ignore.push(".dockerignore");
            (path.display().to_string(), bytes, read_small(Path::new(&own_ignore), IGNORE_BYTES)?)
        }
        DockerfileSource::InContext(path) => {
            let tree = archive_tree(store, request, cancel)?;
            has_unused_ignore =
                read_in_tree(store, &tree, ".dockerignore")?.is_some_and(|ignore| !ignore.is_empty());
            let bytes = read_in_tree(store, &tree, path)?.ok_or_else(|| {
                Error::new(Fault::Usage, format!("there is no `{path}` in the context"))
                    .hint("name the Dockerfile with `--file`")
            })?;
            (path.clone(), bytes, None)
        }
    };
    let ignore = match (ignore, &request.context) {
        (Some(ignore), _) => Some(ignore),
        (None, ContextSource::Directory(directory)) => {
            read_small(&directory.join(".dockerignore"), IGNORE_BYTES)?
        }
        (None, _) => None,
    };
    let ignore = PatternList::parse_file(&ignore.unwrap_or_default())
        .map_err(|error| Error::new(Fault::Usage, "cannot use `.dockerignore`").caused_by(error))?;
    let dockerfile = cooper_dockerfile::parse(&bytes);
    let file = Arc::new(SourceFile { name, text: dockerfile.text.clone() });
    Ok(Loaded { file, dockerfile, ignore, has_unused_ignore })
}

fn archive_tree(store: &Store, request: &BuildRequest, cancel: &CancelToken) -> Result<Tree> {
    let (ignore, wanted) = (Arc::default(), Wanted::default());
    let query = ContextQuery { source: request.context.clone(), ignore, wanted };
    context::load(store, &query, context::Readers::Layers, cooper_vfs::Timestamp::default(), cancel)
}

fn read_in_tree(store: &Store, tree: &Tree, path: &str) -> Result<Option<Vec<u8>>> {
    let found = tree.lookup_following(store, path.as_bytes()).map_err(crate::copy::store_failed)?;
    let Some((_, entry)) = found else { return Ok(None) };
    let cooper_vfs::tree::NodeKind::File { content, size } = entry.kind else { return Ok(None) };
    if size > DOCKERFILE_BYTES {
        return Err(Error::new(Fault::Limit, format!("`{path}` is larger than {DOCKERFILE_BYTES} bytes")));
    }
    use cooper_vfs::content::ContentStore;
    let content = store.open(&content).map_err(crate::copy::store_failed)?;
    content.read_all().map(Some).map_err(crate::copy::store_failed)
}

impl<'a> Builder<'a> {
    /// Builds what the request asks for, up to the file systems.
    pub fn build(self, request: &'a BuildRequest, loaded: &Loaded) -> Result<Built<'a>> {
        if loaded.dockerfile.has_errors() {
            let diagnostics = loaded.dockerfile.diagnostics.clone();
            return Err(Error::findings(Arc::clone(&loaded.file), diagnostics));
        }
        let ignore = loaded.ignore.clone();
        let lowered = lower(&loaded.file, &loaded.dockerfile, ignore, request, self.images, self.cancel)?;
        let at_hand = |reference: &str, platform: &Platform| {
            lowered.images.get(&(reference.to_owned(), platform.to_string())).cloned()
        };
        self.warn(loaded, &check::findings(loaded, request, &at_hand))?;
        for name in &lowered.unused_arguments {
            let text = format!("warning: the build argument `{name}` is used by no ARG");
            self.reporter.event(Event::Warning { text: &text });
        }
        let mut targets = vec![lowered.image.root];
        let layers = lowered.image.history.iter().filter_map(|entry| entry.layer);
        targets.extend(layers.flat_map(|layer| [layer.before, layer.after, layer.result]));
        let solver = Solver {
            store: self.store,
            images: self.images,
            runner: self.runner,
            reporter: self.reporter,
            file: &loaded.file,
            platform: &request.platform,
            secrets: &request.secrets,
            extra_hosts: &request.extra_hosts,
            network_allow: &request.network_allow,
            limits: &request.limits,
            agents: &request.agents,
            shared_memory_bytes: request.shared_memory_bytes,
            jobs: NonZeroUsize::new(request.jobs).unwrap_or(NonZeroUsize::MIN),
            caches: self.caches,
            misses: std::sync::Mutex::default(),
        };
        let solution = solver.solve(&lowered.graph, &targets, self.cancel)?;
        Ok(Built { builder: self, lowered, solution, request })
    }
}

impl Builder<'_> {
    /// Shows the findings; those that `# check=error=true` makes errors end the build.
    fn warn(&self, loaded: &Loaded, findings: &[Diagnostic]) -> Result<()> {
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(Error::findings(Arc::clone(&loaded.file), findings.to_vec()));
        }
        for finding in findings {
            let text = finding.render(&loaded.file.text, &loaded.file.name, Style::Plain);
            self.reporter.event(Event::Warning { text: &text });
        }
        if loaded.has_unused_ignore {
            let text =
                "warning: `.dockerignore` of a context that is an archive is not applied, as in BuildKit";
            self.reporter.event(Event::Warning { text });
        }
        Ok(())
    }
}

impl Built<'_> {
    /// The file system of the result.
    pub fn tree(&self) -> Result<Tree> {
        let output = self.solution.output(self.lowered.image.root)?;
        output.tree(self.builder.store, self.builder.images, self.builder.cancel)
    }

    /// The image that the result's layers lie on.
    pub fn base(&self) -> Option<&ImageRecord> {
        self.lowered.image.base.as_ref().map(|source| &source.image)
    }

    /// The platform of the result.
    pub fn platform(&self) -> &Platform {
        &self.request.platform
    }

    /// Puts the image together in the store, with layers of this format, and with more annotations of its
    /// manifest.
    pub fn image(
        &self,
        format: impl Into<LayerFormat>,
        annotations: &BTreeMap<String, String>,
    ) -> Result<ImageRecord> {
        let mut all = self.request.annotations.clone();
        all.extend(annotations.clone());
        let options = ImageOptions {
            format: format.into(),
            source_date_epoch: self.request.source_date_epoch,
            annotations: all,
            inline_cache: self.request.inline_cache,
        };
        let Builder { store, images, reporter, cancel, .. } = self.builder;
        assemble(store, images, &self.lowered.image, &self.solution, &options, reporter, cancel)
    }

    /// What the cache mounts of the steps hold now, for a cache elsewhere.
    pub fn cache_mounts(&self, compression: Compression) -> Result<Vec<MountRecord>> {
        let options = LayerOptions { compression, level: None, clamp: None };
        let mut ids: BTreeSet<&str> = BTreeSet::new();
        for (id, _) in self.solution.outputs() {
            if let Operation::Run(run) = &self.lowered.graph.vertex(id).operation {
                ids.extend(run.mounts.iter().filter_map(|mount| match &mount.kind {
                    RunMountKind::Cache { id, .. } => Some(id.as_str()),
                    _ => None,
                }));
            }
        }
        let made = ids.into_iter().map(|id| cache_mounts::as_layers(self.builder.store, id, &options));
        made.filter_map(Result::transpose).collect()
    }

    /// The indexes of the layers of all bases, as far as those or their indexes are here.
    pub fn indexes(&self) -> Result<Vec<IndexRecord>> {
        let mut indexes: Vec<IndexRecord> = Vec::new();
        for (id, _) in self.solution.outputs() {
            let Operation::Image(source) = &self.lowered.graph.vertex(id).operation else { continue };
            for layer in &source.image.layers {
                let blob = layer.descriptor.digest;
                if self.builder.cancel.is_cancelled() {
                    return Err(Error::cancelled());
                }
                if indexes.iter().any(|index| index.blob == blob) {
                    continue;
                }
                if let Some(NewLayer { descriptor, diff_id, .. }) = self.builder.store.index_layer(layer)? {
                    indexes.push(IndexRecord { blob, carrier: LayerRecord { descriptor, diff_id } });
                }
            }
        }
        Ok(indexes)
    }

    /// The results as records for a cache, with the layers that they made on their bases.
    pub fn cache_records(&self, mode: CacheMode, compression: Compression) -> Result<Vec<CacheRecord>> {
        let Builder { store, images, cancel, .. } = self.builder;
        let options = LayerOptions { compression, level: None, clamp: self.request.source_date_epoch };
        let layers = self.lowered.image.history.iter().filter_map(|entry| entry.layer);
        let of_the_image: BTreeSet<VertexId> = layers.flat_map(|layer| [layer.after, layer.result]).collect();
        let mut records = Vec::new();
        for (id, output) in self.solution.outputs() {
            if output.keys.is_empty() || (mode == CacheMode::Min && !of_the_image.contains(&id)) {
                continue;
            }
            if cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            let Some(base) = self.lowered.graph.vertex(id).inputs.first() else { continue };
            let before = self.solution.output(*base)?;
            let layer = image::layer(store, images, before, output, &options, cancel)?;
            records.extend(image::record(output, &layer, &options));
        }
        Ok(records)
    }
}
