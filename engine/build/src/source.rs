//! Images as sources: what `FROM` and `--from` name.
//!
//! Lowering needs an image's config; the solver needs its file system only when something is executed on it, and an
//! exporter its blobs. So an image is resolved to manifest and config first, and its tree is made when it is asked for.
//! Its layers are fetched then, or when an exporter needs their bytes, or never: a push to the registry that they come
//! from has them mounted.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use cooper_image::digest::Digest;
use cooper_image::image::{ImageRecord, LayerRecord, Source};
use cooper_image::layer::{Expected, Limits};
use cooper_image::layout::Layout;
use cooper_image::manifest::Descriptor;
use cooper_image::platform::Platform;
use cooper_image::progress::{self, Transfer};
use cooper_image::reference::Reference;
use cooper_image::registry::{Client, ClientOptions, Remote, WebAnswer, WebRequest};
use cooper_image::store::located::RemoteBlobs;
use cooper_image::store::{Batch, Store};
use cooper_vfs::tree::Tree;

use crate::error::{Error, Fault, Result};
use crate::key::{Key, KeyBuilder};
use crate::remote::{Download, DownloadRequest, Validators};
use crate::report::{Event, Reporter, phase};
use crate::step::{CancelToken, Secret};

/// What a named context that is an image in a layout begins with.
pub const LAYOUT_SCHEME: &str = "oci-layout://";

/// The identity of an image's file system for keys: its diff IDs, never the compressed digests.
pub fn identity(image: &ImageRecord) -> Key {
    let mut key = KeyBuilder::new("image");
    key.list("layers", image.layers.len());
    for layer in &image.layers {
        key.bytes("diff id", layer.diff_id.to_string().as_bytes());
    }
    key.finish()
}

/// What is asked of a server of the web.
#[derive(Debug)]
pub struct HttpRequest<'a> {
    /// Where.
    pub url: &'a str,
    /// Value of `Authorization`, for the URL's host only.
    pub authorization: Option<&'a Secret>,
    /// Names and values of further headers.
    pub headers: &'a [(String, String)],
    /// What is posted; without it the request is a GET.
    pub body: Option<Vec<u8>>,
}

/// What it answers.
pub struct HttpAnswer {
    /// Where the answer came from in the end.
    pub url: String,
    /// The status.
    pub status: u16,
    /// `Content-Type`, empty without one.
    pub content_type: String,
    /// The body.
    pub body: Box<dyn std::io::Read + Send>,
}

impl fmt::Debug for HttpAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Where images and files of the web come from: the local store, registries, servers; in tests, a table.
pub trait ImageProvider: Send + Sync + fmt::Debug {
    /// Finds an image's manifest and config. With `pull` the registry is asked even where there is a local tag.
    fn resolve(
        &self,
        reference: &str,
        platform: &Platform,
        pull: bool,
        cancel: &CancelToken,
    ) -> Result<ImageRecord>;

    /// Asks a server for a file.
    fn download(&self, request: &DownloadRequest<'_>, cancel: &CancelToken) -> Result<Download>;

    /// Sends a request by HTTP and follows its redirects; a status that says no is an answer.
    fn exchange(&self, request: HttpRequest<'_>, cancel: &CancelToken) -> Result<HttpAnswer>;

    /// The image's file system; its layers are fetched and ingested when they are not here.
    fn tree(
        &self,
        image: &ImageRecord,
        progress: &dyn Fn(&str, u64, Option<u64>),
        cancel: &CancelToken,
    ) -> Result<Tree>;

    /// The file system that a layer makes of another one; the layer is fetched from where it is known to be.
    fn upper(&self, lower: &Tree, layer: &LayerRecord, cancel: &CancelToken) -> Result<Tree>;
}

/// An image in a graph.
#[derive(Debug)]
pub struct ImageSource {
    /// Its manifest, config and layers.
    pub image: ImageRecord,
    tree: Mutex<Option<Tree>>,
}

impl ImageSource {
    /// A source whose file system nobody has asked for.
    pub fn new(image: ImageRecord) -> Self {
        Self { image, tree: Mutex::new(None) }
    }

    /// The file system, made on the first call; others wait for it.
    pub fn tree(
        &self,
        provider: &dyn ImageProvider,
        progress: &dyn Fn(&str, u64, Option<u64>),
        cancel: &CancelToken,
    ) -> Result<Tree> {
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = &*tree {
            return Ok(tree.clone());
        }
        let made = provider.tree(&self.image, progress, cancel)?;
        Ok(tree.insert(made).clone())
    }
}

/// The client for registries, which is made when somebody needs it.
#[derive(Debug)]
struct Registries {
    options: ClientOptions,
    client: Mutex<Option<Arc<Client>>>,
}

impl Registries {
    fn client(&self) -> cooper_image::Result<Arc<Client>> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let made = Arc::new(Client::new(self.options.clone())?);
        Ok(Arc::clone(client.insert(made)))
    }
}

impl RemoteBlobs for Registries {
    fn range(
        &self,
        origins: &[String],
        blob: &Digest,
        range: std::ops::Range<u64>,
    ) -> cooper_image::Result<Option<Vec<u8>>> {
        let client = self.client()?;
        let mut failure = None;
        for origin in origins {
            let read = origin.parse().and_then(|reference: Reference| {
                let Some(mut part) = client.repository(&reference)?.range(blob, range.clone())? else {
                    return Ok(None);
                };
                let mut bytes = Vec::new();
                part.read_to_end(&mut bytes)
                    .map_err(|error| cooper_image::Error::io(format!("cannot read blob `{blob}`"), error))?;
                Ok(Some(bytes))
            });
            match read {
                Ok(bytes) => return Ok(bytes),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| cooper_image::Error::NotFound { what: format!("blob `{blob}`") }))
    }

    fn fetch(&self, store: &Store, blob: &Digest, size: u64) -> cooper_image::Result<()> {
        let blob = Descriptor::new("", *blob, size);
        self.client()?.fetch_missing(store, &blob, &progress::Silent)
    }
}

/// Images of the store, and of registries when the store does not have them.
#[derive(Debug)]
pub struct StoreImages<'a> {
    store: &'a Store,
    registries: Arc<Registries>,
    /// Layers that carry the indexes of others, by those others' digests, from caches that the user trusts.
    indexes: Mutex<BTreeMap<Digest, LayerRecord>>,
    reporter: &'a dyn Reporter,
    /// Images that were resolved without their layers, and by which name: they get their tags when they are complete.
    lazy: Mutex<BTreeMap<Digest, Reference>>,
}

impl<'a> StoreImages<'a> {
    /// Images of `store`; the client for registries is made when it is needed.
    pub fn new(store: &'a Store, options: ClientOptions, reporter: &'a dyn Reporter) -> Self {
        let registries = Arc::new(Registries { options, client: Mutex::new(None) });
        store.set_remote_blobs(Arc::clone(&registries) as _);
        Self { store, registries, indexes: Mutex::default(), reporter, lazy: Mutex::default() }
    }

    /// Makes indexes of layers known: layers that carry them, by the digests of what they are of.
    pub fn add_indexes(&self, indexes: &BTreeMap<Digest, LayerRecord>) {
        let mut known = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        for (blob, carrier) in indexes {
            known.entry(*blob).or_insert_with(|| carrier.clone());
        }
    }

    /// The file system of an image out of the indexes of its layers; none when one has none. No layer is fetched.
    fn indexed_tree(&self, image: &ImageRecord, transfers: &Transfers<'_>) -> Result<Option<Tree>> {
        let known = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let carriers: Option<Vec<LayerRecord>> =
            image.layers.iter().map(|layer| known.get(&layer.descriptor.digest).cloned()).collect();
        drop(known);
        let Some(carriers) = carriers.filter(|carriers| !carriers.is_empty()) else { return Ok(None) };
        for carrier in &carriers {
            let Descriptor { digest, size, .. } = &carrier.descriptor;
            if !self.store.has_blob(digest, Some(*size))? {
                self.client()?.fetch_missing(self.store, &carrier.descriptor, transfers)?;
            }
        }
        let batch = Batch::new(self.store);
        let mut tree = None;
        let mut located = Vec::new();
        for (layer, carrier) in image.layers.iter().zip(&carriers) {
            let index = self.store.read_index(layer, carrier)?;
            tree = Some(cooper_image::layer::apply(&batch, tree.as_ref(), &index.operations)?);
            located.push(index);
        }
        batch.commit()?;
        for index in located {
            self.store.locate_in_blob(&index.blob, &index.operations.places, &index.points)?;
        }
        if let Some(tree) = &tree {
            self.store.hold_tree(tree)?;
        }
        Ok(tree)
    }

    /// The client for registries.
    pub fn client(&self) -> Result<Arc<Client>> {
        Ok(self.registries.client()?)
    }

    /// Takes an image of an OCI layout into the store: `PATH`, `PATH:TAG` or `PATH@DIGEST`.
    fn import_layout(&self, place: &str, platform: &Platform, cancel: &CancelToken) -> Result<ImageRecord> {
        let (path, name) = match place.rsplit_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => match place.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
                _ => (place, None),
            },
        };
        let failed = |error: cooper_image::Error| {
            let fault = Error::from_image(&error);
            Error::new(fault, format!("cannot use the layout `{place}`")).caused_by(error)
        };
        let layout = Layout::open(std::path::Path::new(path)).map_err(failed)?;
        let root = layout.select(name).map_err(failed)?.clone();
        let transfers = Transfers::new(self.reporter, place, cancel);
        self.store.import(&layout, &root, platform, &transfers).map_err(failed)
    }

    /// Brings an image from its registry into the store and gives it its tag there.
    pub fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        cancel: &CancelToken,
    ) -> Result<ImageRecord> {
        let record = self.ask(reference, cancel, |remote, transfers| {
            self.store.import(remote, remote.root(), platform, transfers)
        })?;
        if reference.digest().is_none() {
            self.store.tag_image(reference, &record)?;
        }
        Ok(record)
    }

    /// Brings manifest and config of an image into the store, and remembers under which name.
    fn pull_lazily(
        &self,
        reference: &Reference,
        platform: &Platform,
        cancel: &CancelToken,
    ) -> Result<ImageRecord> {
        let record = self
            .ask(reference, cancel, |remote, _| self.store.import_lazily(remote, remote.root(), platform))?;
        if self.store.image_media_type(record.digest())?.is_none() {
            self.store.tag_lazily(reference, platform, &record)?;
            self.remember(reference, &record);
        } else if reference.digest().is_none() {
            self.store.tag_image(reference, &record)?;
        }
        Ok(record)
    }

    fn remember(&self, reference: &Reference, image: &ImageRecord) {
        let mut lazy = self.lazy.lock().unwrap_or_else(PoisonError::into_inner);
        lazy.entry(*image.digest()).or_insert_with(|| reference.clone());
    }

    fn ask(
        &self,
        reference: &Reference,
        cancel: &CancelToken,
        work: impl FnOnce(&Remote<'_>, &Transfers<'_>) -> cooper_image::Result<ImageRecord>,
    ) -> Result<ImageRecord> {
        let name = format!("pull {reference}");
        phase(self.reporter, &name, || {
            let transfers = Transfers::new(self.reporter, &name, cancel);
            let client = self.client()?;
            let pulled = client.resolve(reference).and_then(|remote| work(&remote, &transfers));
            self.pass_warnings_on(&client);
            pulled.map_err(|error| {
                let fault = match &error {
                    cooper_image::Error::NotFound { .. } => Fault::Registry,
                    _ => Error::from_image(&error),
                };
                Error::new(fault, format!("cannot pull `{reference}`"))
                    .caused_by(error)
                    .hint("look at the name; a private image needs `cooper login`")
            })
        })
    }

    /// Shows what registries wanted the user to know.
    pub fn pass_warnings_on(&self, client: &Client) {
        for warning in client.take_warnings() {
            self.reporter.event(Event::Warning { text: &format!("warning: {warning}") });
        }
    }

    /// Fetches the layers of an image that are not in the store.
    pub fn complete(&self, image: &ImageRecord, cancel: &CancelToken) -> Result<()> {
        if self.store.image_media_type(image.digest())?.is_some() {
            return Ok(());
        }
        let name = "fetching layers of the base";
        phase(self.reporter, name, || {
            let transfers = Transfers::new(self.reporter, name, cancel);
            Ok(self.client()?.complete(self.store, image, &transfers)?)
        })
    }

    /// Gives a base its tag when all of it is here.
    fn finish_lazy(&self, image: &ImageRecord) -> Result<()> {
        let name = self.lazy.lock().unwrap_or_else(PoisonError::into_inner).get(image.digest()).cloned();
        let Some(reference) = name else { return Ok(()) };
        if !self.store.is_complete(image)? {
            return Ok(());
        }
        self.client()?.complete(self.store, image, &progress::Silent)?;
        if reference.digest().is_none() {
            self.store.tag_image(&reference, image)?;
        }
        Ok(())
    }
}

impl ImageProvider for StoreImages<'_> {
    fn resolve(
        &self,
        text: &str,
        platform: &Platform,
        pull: bool,
        cancel: &CancelToken,
    ) -> Result<ImageRecord> {
        if let Some(place) = text.strip_prefix(LAYOUT_SCHEME) {
            return self.import_layout(place, platform, cancel);
        }
        let reference: Reference = text.parse().map_err(|error: cooper_image::Error| {
            Error::build(format!("`{text}` is neither a stage nor an image reference")).caused_by(error)
        })?;
        // What a digest names does not change, so there is nothing to ask.
        if !pull || reference.digest().is_some() {
            if let Some(record) = self.store.find(&reference, platform)? {
                return Ok(record);
            }
            if let Some(record) = self.store.find_lazy(&reference, platform)? {
                self.remember(&reference, &record);
                return Ok(record);
            }
        }
        self.pull_lazily(&reference, platform, cancel)
    }

    fn download(&self, request: &DownloadRequest<'_>, _cancel: &CancelToken) -> Result<Download> {
        let authorization = header(request.authorization)?;
        let known = request.known.map(|known| (known.etag.as_str(), known.last_modified.as_str()));
        let answer = self.client()?.download(request.url, authorization.as_deref(), known)?;
        Ok(match answer {
            None => Download::NotModified,
            Some(file) => Download::Body {
                validators: Validators { etag: file.etag.clone(), last_modified: file.last_modified.clone() },
                reader: Box::new(file),
            },
        })
    }

    fn exchange(&self, request: HttpRequest<'_>, _cancel: &CancelToken) -> Result<HttpAnswer> {
        let authorization = header(request.authorization)?;
        let answer = self.client()?.exchange(WebRequest {
            url: request.url,
            authorization: authorization.as_deref(),
            headers: request.headers,
            body: request.body,
        })?;
        let WebAnswer { url, status, content_type, body } = answer;
        Ok(HttpAnswer { url, status, content_type, body: Box::new(body) })
    }

    fn tree(
        &self,
        image: &ImageRecord,
        progress: &dyn Fn(&str, u64, Option<u64>),
        cancel: &CancelToken,
    ) -> Result<Tree> {
        progress("extracting", 0, None);
        let transfers = Transfers::new(self.reporter, "extract", cancel);
        if let Some(tree) = self.store.known_tree(image)? {
            return Ok(tree);
        }
        if let Some(tree) = self.indexed_tree(image, &transfers)? {
            return Ok(tree);
        }
        let client = self.client()?;
        let remote = client.source_of(self.store, image)?;
        let source = remote.as_ref().map(|remote| -> &dyn Source { remote });
        let tree = self.store.ensure_tree_from(source, image, &Limits::DEFAULT, &transfers)?;
        self.finish_lazy(image)?;
        Ok(tree)
    }

    fn upper(&self, lower: &Tree, layer: &LayerRecord, cancel: &CancelToken) -> Result<Tree> {
        let transfers = Transfers::new(self.reporter, "cache", cancel);
        let Descriptor { digest, size, .. } = &layer.descriptor;
        if !self.store.has_blob(digest, Some(*size))? {
            self.client()?.fetch_missing(self.store, &layer.descriptor, &transfers)?;
        }
        apply_layer(self.store, lower, layer)
    }
}

fn header(secret: Option<&Secret>) -> Result<Option<String>> {
    let text = secret.map(|secret| String::from_utf8(secret.expose().to_vec()));
    let wrong = |_| Error::new(Fault::Usage, "the secret for the server's authorization is not text");
    text.transpose().map_err(wrong)
}

/// Reads a layer of the store and applies it.
///
/// # Errors
///
/// When the layer is refused, or is not what its record says.
pub fn apply_layer(store: &Store, lower: &Tree, layer: &LayerRecord) -> Result<Tree> {
    let LayerRecord { descriptor, diff_id } = layer;
    let expected =
        Expected { digest: Some(descriptor.digest), size: Some(descriptor.size), diff_id: Some(*diff_id) };
    let blob = store.open_blob(&descriptor.digest)?;
    let operations = cooper_image::layer::scan(store, blob, &expected, &Limits::DEFAULT)?;
    let batch = Batch::new(store);
    let tree = cooper_image::layer::apply(&batch, Some(lower), &operations)?;
    batch.commit()?;
    store.hold_tree(&tree)?;
    Ok(tree)
}

/// Passes the transfers of blobs on as events of a phase.
#[derive(Debug)]
pub struct Transfers<'a> {
    reporter: &'a dyn Reporter,
    phase: &'a str,
    cancel: &'a CancelToken,
    totals: Mutex<BTreeMap<Digest, u64>>,
}

impl<'a> Transfers<'a> {
    /// Events for `phase`; the transfers end when `cancel` says so.
    pub fn new(reporter: &'a dyn Reporter, phase: &'a str, cancel: &'a CancelToken) -> Self {
        Self { reporter, phase, cancel, totals: Mutex::default() }
    }

    fn send(&self, transfer: Transfer, blob: &Digest, current: u64, total: Option<u64>) {
        let verb = match transfer {
            Transfer::Pull => "pulling",
            Transfer::Push => "pushing",
            Transfer::Ingest => "extracting",
        };
        let hex = blob.hex();
        let what = format!("{verb} {}", &hex[..hex.len().min(12)]);
        self.reporter.event(Event::PhaseProgress { name: self.phase, what: &what, current, total });
    }

    fn total(&self, blob: &Digest) -> Option<u64> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).get(blob).copied()
    }
}

impl progress::Reporter for Transfers<'_> {
    fn start(&self, transfer: Transfer, blob: &Digest, bytes: u64) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).insert(*blob, bytes);
        self.send(transfer, blob, 0, Some(bytes));
    }

    fn advance(&self, transfer: Transfer, blob: &Digest, done: u64) {
        self.send(transfer, blob, done, self.total(blob));
    }

    fn finish(&self, transfer: Transfer, blob: &Digest, _outcome: progress::Outcome) {
        let total = self.total(blob);
        self.send(transfer, blob, total.unwrap_or(0), total);
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}
