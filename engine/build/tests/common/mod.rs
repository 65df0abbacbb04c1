//! A bench for builds: a store and a context in temporary directories, images from a table, steps that are played.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::semicolon_if_nothing_returned,
    reason = "test support"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use cooper_build::build::{Builder, Loaded, load};
use cooper_build::cache::{CacheMode, CacheRecord, ImportedCaches};
use cooper_build::remote::{Download, DownloadRequest, Validators};
use cooper_build::report::{Event, Finish, Reporter};
use cooper_build::request::{BuildRequest, CacheUse, ContextSource, DockerfileSource, Network};
use cooper_build::source::{HttpAnswer, HttpRequest, ImageProvider};
use cooper_build::step::{
    Bytes, CancelToken, Exit, OutputStream, StepError, StepLimits, StepOutcome, StepOutput, StepRequest,
    StepRunner, TreeRecord,
};
use cooper_build::{Error, Fault, Result};
use cooper_image::compression::Compression;
use cooper_image::image::{ImageRecord, LayerRecord};
use cooper_image::platform::Platform;
use cooper_image::store::{Store, StoreOptions};
use cooper_vfs::content::ContentStore;
use cooper_vfs::tree::{Entry, Metadata, NodeKind, Tree, TreeBuilder};

/// Plays steps: `touch PATH`, `write PATH TEXT`, `fail CODE`, `env` (prints), `show PATH`, `noop`; joined by `;`.
#[derive(Debug)]
pub struct Player {
    store: std::sync::Arc<Store>,
    pub requests: Mutex<Vec<StepRequest>>,
    pub answer: Mutex<Option<StepOutcome>>,
}

impl StepRunner for Player {
    fn run(
        &self,
        request: &StepRequest,
        output: &mut dyn StepOutput,
        cancel: &CancelToken,
    ) -> std::result::Result<StepOutcome, StepError> {
        self.requests.lock().unwrap().push(request.clone());
        if cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let store: &dyn ContentStore = &*self.store;
        let base = Tree::decode(request.base.0.as_slice()).unwrap();
        let mut builder = TreeBuilder::from_tree(store, &base);
        let script = request.arguments.last().unwrap().to_text();
        let mut exit = 0;
        for command in script.split(';') {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                ["touch", path] => write(store, &mut builder, path, b""),
                ["write", path, text] => write(store, &mut builder, path, text.as_bytes()),
                ["fail", code] => exit = code.parse().unwrap(),
                ["say", rest @ ..] => {
                    output.write(OutputStream::Stdout, format!("{}\n", rest.join(" ")).as_bytes());
                }
                ["env"] => {
                    for (name, value) in &request.environment {
                        let line = format!("{}={}\n", name.to_text(), value.to_text());
                        output.write(OutputStream::Stdout, line.as_bytes());
                    }
                }
                _ => {}
            }
        }
        if let Some(answer) = self.answer.lock().unwrap().clone() {
            return Ok(StepOutcome { tree: request.base.clone(), ..answer });
        }
        let tree = if exit == 0 {
            TreeRecord(Bytes(builder.finish().unwrap().encode()))
        } else {
            request.base.clone()
        };
        Ok(StepOutcome { exit: Exit::Code(exit), tree, ..outcome() })
    }
}

pub fn outcome() -> StepOutcome {
    StepOutcome {
        exit: Exit::Code(0),
        tree: TreeRecord(Bytes(Vec::new())),
        changes: 0,
        caches: BTreeMap::new(),
        limit: None,
        unimplemented: Vec::new(),
        hints: Vec::new(),
        instructions: 0,
        peak_memory_bytes: 0,
        spooled_bytes: 0,
    }
}

fn write(store: &dyn ContentStore, builder: &mut TreeBuilder<'_>, path: &str, bytes: &[u8]) {
    let mut pack = store.pack().unwrap();
    let content = pack.add_bytes(bytes).unwrap();
    pack.finish().unwrap();
    let kind = NodeKind::File { content, size: bytes.len() as u64 };
    let mut metadata = Metadata::root_owned(0o644);
    metadata.mtime = cooper_vfs::Timestamp::from_seconds(1_700_000_000);
    let mut parent = Vec::new();
    let names: Vec<&[u8]> = cooper_vfs::path::components(path.as_bytes()).collect();
    for name in &names[..names.len() - 1] {
        parent = cooper_vfs::path::join(&parent, name);
        if builder.get(&parent).unwrap().is_none() {
            builder.put_directory(&parent, Metadata::root_owned(0o755)).unwrap();
        }
    }
    let path = cooper_vfs::path::clean(path.as_bytes());
    builder.put(&path, Entry { name: Vec::new(), metadata, kind }).unwrap();
}

/// Images by name.
#[derive(Debug)]
pub struct Table {
    store: std::sync::Arc<Store>,
    pub images: Mutex<BTreeMap<String, ImageRecord>>,
    pub resolved: Mutex<Vec<String>>,
    /// Layers of caches that were read.
    pub uppers: Mutex<Vec<String>>,
    /// Files of the web: bytes and `Last-Modified` by URL.
    pub files: Mutex<BTreeMap<String, (Vec<u8>, String)>>,
}

impl ImageProvider for Table {
    fn resolve(&self, reference: &str, _: &Platform, _: bool, _: &CancelToken) -> Result<ImageRecord> {
        self.resolved.lock().unwrap().push(reference.to_owned());
        let found = self.images.lock().unwrap().get(reference).cloned();
        found.ok_or_else(|| {
            Error::new(Fault::Registry, format!("cannot pull `{reference}`: manifest unknown"))
        })
    }

    fn download(&self, request: &DownloadRequest<'_>, _: &CancelToken) -> Result<Download> {
        self.resolved.lock().unwrap().push(request.url.to_owned());
        let files = self.files.lock().unwrap();
        let Some((bytes, last_modified)) = files.get(request.url) else {
            return Err(Error::build("the server answers 404 Not Found"));
        };
        let validators = Validators { etag: String::new(), last_modified: last_modified.clone() };
        if !last_modified.is_empty() && request.known == Some(&validators) {
            return Ok(Download::NotModified);
        }
        Ok(Download::Body { reader: Box::new(std::io::Cursor::new(bytes.clone())), validators })
    }

    fn exchange(&self, request: HttpRequest<'_>, _: &CancelToken) -> Result<HttpAnswer> {
        Err(Error::new(Fault::Registry, format!("`{}` does not answer", request.url)))
    }

    fn tree(&self, image: &ImageRecord, _: &dyn Fn(&str, u64, Option<u64>), _: &CancelToken) -> Result<Tree> {
        let limits = cooper_image::layer::Limits::DEFAULT;
        Ok(self.store.ensure_tree(image, &limits, &cooper_image::progress::Silent)?)
    }

    fn upper(&self, lower: &Tree, layer: &LayerRecord, _: &CancelToken) -> Result<Tree> {
        self.uppers.lock().unwrap().push(layer.descriptor.digest.to_string());
        cooper_build::source::apply_layer(&self.store, lower, layer)
    }
}

/// Notes what happens.
#[derive(Debug, Default)]
pub struct Notes {
    pub names: Mutex<BTreeMap<usize, String>>,
    pub finished: Mutex<Vec<(usize, Finish)>>,
    pub output: Mutex<String>,
    pub warnings: Mutex<Vec<String>>,
}

impl Reporter for Notes {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Planned { vertices } => {
                self.names.lock().unwrap().extend(vertices.iter().map(|(id, name)| (id.0, name.clone())));
            }
            Event::Finished { vertex, how } => self.finished.lock().unwrap().push((vertex.0, how)),
            Event::Output { bytes, .. } => {
                self.output.lock().unwrap().push_str(&String::from_utf8_lossy(bytes))
            }
            Event::Warning { text } => self.warnings.lock().unwrap().push(text.to_owned()),
            _ => {}
        }
    }
}

pub struct Bench {
    directory: tempfile::TempDir,
    pub store: std::sync::Arc<Store>,
    pub player: Player,
    pub table: Table,
    pub notes: Notes,
    pub request: BuildRequest,
    pub cancel: CancelToken,
    pub caches: ImportedCaches,
}

/// What a build gave.
pub struct Result_ {
    pub tree: Tree,
    pub image: ImageRecord,
}

impl Bench {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = std::sync::Arc::new(
            Store::open(&directory.path().join("store"), &StoreOptions::plain()).unwrap(),
        );
        let context = directory.path().join("context");
        fs::create_dir(&context).unwrap();
        let request = BuildRequest {
            dockerfile: DockerfileSource::Text { name: "Dockerfile".to_owned(), bytes: Vec::new() },
            context: ContextSource::Directory(context),
            named_contexts: BTreeMap::new(),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            platform: Platform::linux_amd64(),
            build_platform: Platform::linux_amd64(),
            secrets: BTreeMap::new(),
            network: Network::Default,
            allow_network_host: false,
            network_allow: Vec::new(),
            extra_hosts: Vec::new(),
            cache: CacheUse::All,
            inline_cache: false,
            pull: false,
            limits: StepLimits::default(),
            agents: BTreeMap::new(),
            shared_memory_bytes: None,
            source_date_epoch: None,
            jobs: 2,
        };
        Self {
            player: Player { store: store.clone(), requests: Mutex::default(), answer: Mutex::default() },
            table: Table {
                store: store.clone(),
                images: Mutex::default(),
                resolved: Mutex::default(),
                uppers: Mutex::default(),
                files: Mutex::default(),
            },
            store,
            notes: Notes::default(),
            request,
            cancel: CancelToken::new(),
            caches: ImportedCaches::default(),
            directory,
        }
    }

    pub fn context(&self) -> PathBuf {
        self.directory.path().join("context")
    }

    /// Writes a context file with mode and a time long past.
    pub fn file(&self, path: &str, text: &str, mode: u32) -> &Self {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set_time(&path, 1_600_000_000);
        self
    }

    /// Sets modes and times of all directories of the context, which the umask and the clock have made.
    pub fn settle(&self) -> &Self {
        fn walk(directory: &std::path::Path) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path);
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                    set_time(&path, 1_600_000_000);
                }
            }
        }
        walk(&self.context());
        self
    }

    pub fn load(&mut self, dockerfile: &str) -> Result<Loaded> {
        self.request.dockerfile =
            DockerfileSource::Text { name: "Dockerfile".to_owned(), bytes: dockerfile.as_bytes().to_vec() };
        load(&self.store, &self.request, &self.cancel)
    }

    pub fn try_build(&mut self, dockerfile: &str) -> Result<Result_> {
        let loaded = self.load(dockerfile)?;
        let builder = Builder {
            store: &self.store,
            images: &self.table,
            runner: &self.player,
            reporter: &self.notes,
            cancel: &self.cancel,
            caches: &self.caches,
        };
        let built = builder.build(&self.request, &loaded)?;
        Ok(Result_ { tree: built.tree()?, image: built.image(Compression::Gzip, &BTreeMap::new())? })
    }

    /// Builds without looking at the file system; gives the image and what a cache would keep.
    pub fn build_for_cache(&mut self, dockerfile: &str, mode: CacheMode) -> (ImageRecord, Vec<CacheRecord>) {
        let loaded = self.load(dockerfile).unwrap();
        let builder = Builder {
            store: &self.store,
            images: &self.table,
            runner: &self.player,
            reporter: &self.notes,
            cancel: &self.cancel,
            caches: &self.caches,
        };
        let built = builder.build(&self.request, &loaded).unwrap();
        let image = built.image(Compression::Gzip, &BTreeMap::new()).unwrap();
        (image, built.cache_records(mode, Compression::Gzip).unwrap())
    }

    pub fn build(&mut self, dockerfile: &str) -> Result_ {
        self.try_build(dockerfile)
            .unwrap_or_else(|error| panic!("{}", error.render(cooper_dockerfile::Style::Plain)))
    }

    /// The rendered failure.
    pub fn failure(&mut self, dockerfile: &str) -> String {
        match self.try_build(dockerfile) {
            Ok(_) => panic!("the build succeeded"),
            Err(error) => error.render(cooper_dockerfile::Style::Plain),
        }
    }

    /// Builds and keeps the result as a base image.
    pub fn base(&mut self, name: &str, dockerfile: &str) -> &mut Self {
        let image = self.build(dockerfile).image;
        self.table.images.lock().unwrap().insert(name.to_owned(), image);
        self
    }

    /// How many steps ran.
    pub fn steps(&self) -> usize {
        self.player.requests.lock().unwrap().len()
    }

    pub fn last_request(&self) -> StepRequest {
        self.player.requests.lock().unwrap().last().cloned().unwrap()
    }

    /// `mode uid:gid path [text]` of everything, a line each.
    pub fn list(&self, tree: &Tree) -> String {
        let mut lines = Vec::new();
        for item in tree.walk(&*self.store) {
            let item = item.unwrap();
            let metadata = &item.entry.metadata;
            let what = match &item.entry.kind {
                NodeKind::File { content, .. } => {
                    let text = self.store.open(content).unwrap().read_all().unwrap();
                    format!(" {:?}", String::from_utf8_lossy(&text))
                }
                NodeKind::Directory { .. } => "/".to_owned(),
                NodeKind::Symlink { target } => format!(" -> {}", String::from_utf8_lossy(target)),
                other => format!(" {other:?}"),
            };
            let link =
                item.link_to.map(|link| format!(" = {}", String::from_utf8_lossy(&link))).unwrap_or_default();
            lines.push(format!(
                "{:04o} {}:{} {}{what}{link}",
                metadata.mode,
                metadata.uid,
                metadata.gid,
                String::from_utf8_lossy(&item.path)
            ));
        }
        lines.join("\n")
    }
}

pub fn set_time(path: &std::path::Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}
