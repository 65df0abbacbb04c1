//! Images in the store: what is known of one, and new ones out of old ones.
//!
//! An [`ImageRecord`] is what is known of one image: its manifest, config and layers. [`Store::import`] makes one from a
//! [`Source`] (a registry, a layout, an archive), [`Store::ensure_tree`] its file system, [`Store::compose`] a new one on
//! top. Everything is a value; the store is the only thing that changes.
//!
//! A record's layers need not be in the store: a base whose files nobody reads is not fetched ([`crate::import`]). An
//! image is *complete*, and can have a tag, when they are.
//!
//! What must hold: a base's blobs stay byte for byte; an image is recorded as complete when its last blob is in the
//! store, and nothing else makes records of images.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use cooper_vfs::{Change, Tree};

use crate::compression::Compression;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::{self, LayerOptions};
use crate::manifest::{
    CONFIG_BYTES, Descriptor, Document, INDEX_DEPTH, Index, MANIFEST_BYTES, Manifest, media_type,
};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::located::Unchecked;
use crate::store::{Keep, Store};

/// Blobs that are transferred at the same time.
pub const PARALLEL_BLOBS: usize = 4;

/// A place that images come from.
pub trait Source: Send + Sync {
    /// The bytes of a manifest or index, not more than [`MANIFEST_BYTES`]. They need not be verified.
    ///
    /// # Errors
    ///
    /// Whatever keeps the source from giving them.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// A reader of a blob's bytes. They need not be verified.
    ///
    /// # Errors
    ///
    /// Whatever keeps the source from giving them.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>>;

    /// The repository that the blobs come from, `registry/repository`, when it is one.
    fn origin(&self) -> Option<String> {
        None
    }
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of its tar.
    pub diff_id: Digest,
}

/// An image whose manifest and config are in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRecord {
    /// The manifest's blob.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, the lowest first.
    pub layers: Vec<LayerRecord>,
}

impl ImageRecord {
    /// The manifest's digest, which is the image's.
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    /// The chain ID of all layers; none for an image without layers.
    pub fn chain_id(&self) -> Option<Digest> {
        chain_ids(self.layers.iter().map(|layer| &layer.diff_id)).pop()
    }
}

/// The chain ID after each layer (OCI image spec 1.1, config.md).
pub fn chain_ids<'d>(diff_ids: impl IntoIterator<Item = &'d Digest>) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        let chain =
            chains.last().map_or(*diff_id, |lower| Digest::of(format!("{lower} {diff_id}").as_bytes()));
        chains.push(chain);
    }
    chains
}

/// A layer that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// The blob in the store.
    pub descriptor: Descriptor,
    /// Digest of its tar.
    pub diff_id: Digest,
    /// The file system after this layer, when it is known.
    pub tree: Option<Tree>,
}

/// Record kind of layers that were compressed anew.
const RECOMPRESSED: &str = "recompressed layer";

/// What a new image is made of.
#[derive(Debug)]
pub struct Composition<'c> {
    /// The image whose layers come first.
    pub base: Option<&'c ImageRecord>,
    /// The layers on top, the lowest first.
    pub layers: &'c [NewLayer],
    /// The config. Its diff IDs are set by the composition.
    pub config: ImageConfig,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

impl Store {
    /// Reads the config of a manifest whose blobs are here.
    pub(crate) fn read_record(&self, descriptor: Descriptor, manifest: Manifest) -> Result<ImageRecord> {
        let config = ImageConfig::parse(&self.blob_bytes(&manifest.config.digest, CONFIG_BYTES)?)?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            let reason = format!("the manifest has {layers} layers, the config {diff_ids} diff IDs");
            return Err(Error::document("image", reason));
        }
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        let layers = layers
            .map(|(descriptor, diff_id)| LayerRecord { descriptor: descriptor.clone(), diff_id: *diff_id })
            .collect();
        Ok(ImageRecord { descriptor, manifest, config, layers })
    }

    /// The complete image with this manifest, when it is here. It is held from now on.
    ///
    /// # Errors
    ///
    /// When the index or a blob cannot be read.
    pub fn image(&self, digest: &Digest) -> Result<Option<ImageRecord>> {
        let Some(kind) = self.image_media_type(digest)? else { return Ok(None) };
        if media_type::is_index(&kind) {
            return Ok(None);
        }
        let bytes = self.blob_bytes(digest, MANIFEST_BYTES)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, &kind)? else {
            return Err(Error::document("image record", "it says manifest, the blob is an index"));
        };
        self.read_record(Descriptor::new(&kind, *digest, bytes.len() as u64), *manifest).map(Some)
    }

    /// The complete index with this digest, when it is here. It is held from now on.
    ///
    /// # Errors
    ///
    /// When the store's index or a blob cannot be read.
    pub fn index(&self, digest: &Digest) -> Result<Option<Index>> {
        let Some(kind) = self.image_media_type(digest)? else { return Ok(None) };
        match Document::parse(&self.blob_bytes(digest, MANIFEST_BYTES)?, &kind)? {
            Document::Index(index) => Ok(Some(*index)),
            Document::Manifest(_) => Ok(None),
        }
    }

    /// Finds the image that a reference names here, without asking anybody.
    ///
    /// # Errors
    ///
    /// When the index or a blob cannot be read.
    pub fn find(&self, reference: &Reference, platform: &Platform) -> Result<Option<ImageRecord>> {
        if let Some(digest) = reference.digest() {
            return self.find_by_digest(digest, platform);
        }
        for tag in self.tag(&tag_name(reference))? {
            if tag.platform.is_empty() {
                continue;
            }
            if tag.platform.parse::<Platform>().is_ok_and(|found| found.satisfies(platform)) {
                return self.image(&tag.digest);
            }
        }
        match self.tag(&tag_name(reference))?.first() {
            Some(tag) if tag.platform.is_empty() => self.find_by_digest(&tag.digest, platform),
            _ => Ok(None),
        }
    }

    fn find_by_digest(&self, digest: &Digest, platform: &Platform) -> Result<Option<ImageRecord>> {
        let mut digest = *digest;
        for _ in 0..INDEX_DEPTH {
            if let Some(record) = self.image(&digest)? {
                return Ok(Some(record));
            }
            // The index that a pull went through is a blob without a record.
            if !self.has_blob(&digest, None)? {
                return Ok(None);
            }
            match Document::parse(&self.blob_bytes(&digest, MANIFEST_BYTES)?, "")? {
                Document::Index(index) => digest = index.select(platform)?.digest,
                Document::Manifest(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Tags a complete image. The tag stands for the image's own platform; other platforms' images keep theirs.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the image is not complete, or [`Error::Index`].
    pub fn tag_image(&self, reference: &Reference, image: &ImageRecord) -> Result<()> {
        self.set_tag(&tag_name(reference), &image.config.platform().to_string(), image.digest())
    }

    /// Writes changes as a layer into the store. `tree` is the file system after them.
    ///
    /// # Errors
    ///
    /// Those of [`layer::write()`], and the disk's.
    pub fn write_layer(
        &self,
        changes: &[Change],
        tree: Option<&Tree>,
        options: &LayerOptions,
    ) -> Result<NewLayer> {
        let mut blob = self.new_hashed_blob()?;
        let contents = Unchecked::new(self);
        let mut written = layer::write(&contents, changes, options, &mut blob)?;
        let (digest, size) = blob.finish_as(written.digest)?;
        let used = contents.into_used();
        if !used.is_empty() {
            written.places.retain(|place| used.contains(&place.id));
            self.locate_in_blob(&digest, &written.places, &written.points)?;
        }
        let descriptor = Descriptor::new(options.compression.layer_media_type(), digest, size);
        Ok(NewLayer { descriptor, diff_id: written.diff_id, tree: tree.cloned() })
    }

    /// A layer whose blob is here in another compression; it is itself when it is in that one already and no level is
    /// asked for. Contents and times stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the blob is not here, [`Error::DigestMismatch`] when it is not what its record says.
    pub fn recompress_layer(&self, layer: &LayerRecord, options: &LayerOptions) -> Result<LayerRecord> {
        let LayerRecord { descriptor, diff_id } = layer;
        if options.level.is_none()
            && Compression::of_media_type(&descriptor.media_type) == Some(options.compression)
        {
            return Ok(layer.clone());
        }
        let key = format!("{} {:?} {:?}", descriptor.digest, options.compression, options.level);
        let kind = options.compression.layer_media_type();
        let known =
            self.record(RECOMPRESSED, key.as_bytes())?.and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((digest, size)) = known.as_deref().and_then(|text| text.split_once(' '))
            && let (Ok(digest), Ok(size)) = (digest.parse(), size.parse())
            && self.has_blob(&digest, Some(size))?
        {
            return Ok(LayerRecord { descriptor: Descriptor::new(kind, digest, size), diff_id: *diff_id });
        }
        let mut blob = self.new_hashed_blob()?;
        let reader = self.read_blob(&descriptor.digest, Some(descriptor.size))?;
        let written = layer::recompress(reader, options, &mut blob)?;
        if written.diff_id != *diff_id {
            return Err(Error::wrong_digest("the layer's tar (diff ID)", *diff_id, written.diff_id));
        }
        let (digest, size) = blob.finish_as(written.digest)?;
        let value = format!("{digest} {size}");
        self.put_record(RECOMPRESSED, key.as_bytes(), value.as_bytes(), &[Keep::Blob(digest)])?;
        Ok(LayerRecord { descriptor: Descriptor::new(kind, digest, size), diff_id: *diff_id })
    }

    /// The same image with the media types of Docker's second schema, for what reads no others.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for what Docker's schema has no word for: zstd, annotations.
    pub fn with_docker_types(&self, image: &ImageRecord) -> Result<ImageRecord> {
        let mut manifest = image.manifest.clone();
        let unsupported =
            |what: &str| Error::Unsupported { what: format!("{what} with Docker's media types") };
        if manifest.annotations.is_some() {
            return Err(unsupported("an annotation"));
        }
        manifest.media_type = Some(media_type::DOCKER_MANIFEST.to_owned());
        manifest.config.media_type = media_type::DOCKER_CONFIG.to_owned();
        for layer in &mut manifest.layers {
            layer.media_type = match Compression::of_media_type(&layer.media_type) {
                Some(Compression::Gzip) => media_type::DOCKER_LAYER.to_owned(),
                Some(Compression::None) => media_type::DOCKER_LAYER_PLAIN.to_owned(),
                Some(Compression::Zstd) | None => return Err(unsupported("a layer in zstd")),
            };
        }
        let bytes = manifest.to_bytes();
        let digest = self.put_blob(&bytes)?;
        let descriptor = Descriptor::new(media_type::DOCKER_MANIFEST, digest, bytes.len() as u64);
        if self.image_media_type(image.digest())?.is_some() {
            self.put_image(&digest, media_type::DOCKER_MANIFEST)?;
        }
        self.read_record(descriptor, manifest)
    }

    /// Makes a new image of a base's layers and new ones. Layers that are not here but in a known repository make an
    /// image that is not complete.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when a layer's blob is neither in the store nor has an origin, and the disk's.
    pub fn compose(&self, composition: Composition<'_>) -> Result<ImageRecord> {
        let Composition { base, layers, mut config, annotations } = composition;
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in base.iter().flat_map(|base| &base.layers) {
            let mut descriptor = layer.descriptor.clone();
            descriptor.media_type = media_type::to_oci(&descriptor.media_type).to_owned();
            descriptors.push(descriptor);
            diff_ids.push(layer.diff_id);
        }
        for layer in layers {
            descriptors.push(layer.descriptor.clone());
            diff_ids.push(layer.diff_id);
        }
        let mut complete = true;
        for descriptor in &descriptors {
            if !self.has_blob(&descriptor.digest, Some(descriptor.size))? {
                if self.origins(&descriptor.digest)?.is_empty() {
                    return Err(Error::NotFound { what: format!("blob `{}`", descriptor.digest) });
                }
                complete = false;
            }
        }
        let chains = chain_ids(&diff_ids);
        let lower = diff_ids.len() - layers.len();
        for (chain, layer) in chains[lower..].iter().zip(layers) {
            if let Some(tree) = &layer.tree {
                self.put_chain(chain, tree)?;
            }
        }
        config.rootfs.diff_ids = diff_ids;
        let config_bytes = config.to_bytes();
        self.put_blob(&config_bytes)?;
        let mut manifest = Manifest::new(Descriptor::of(media_type::CONFIG, &config_bytes), descriptors);
        manifest.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        let bytes = manifest.to_bytes();
        let digest = self.put_blob(&bytes)?;
        let record =
            self.read_record(Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64), manifest)?;
        if complete {
            self.put_image(&digest, media_type::MANIFEST)?;
        }
        Ok(record)
    }

    /// Makes an index of images, in the order given, and returns its descriptor. It is complete when they are.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn compose_index(
        &self,
        images: &[ImageRecord],
        annotations: BTreeMap<String, String>,
    ) -> Result<Descriptor> {
        let mut entries = Vec::new();
        let mut complete = true;
        for image in images {
            complete &= self.image_media_type(image.digest())?.is_some();
            let mut entry = image.descriptor.clone();
            entry.platform = Some(image.config.platform());
            entries.push(entry);
        }
        let mut index = Index::new(entries);
        index.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        let bytes = index.to_bytes();
        let digest = self.put_blob(&bytes)?;
        if complete {
            self.put_image(&digest, media_type::INDEX)?;
        }
        Ok(Descriptor::new(media_type::INDEX, digest, bytes.len() as u64))
    }

    /// Records an index as complete, all of whose images are.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when one is not, or [`Error::Index`].
    pub fn complete_index(&self, index: &Descriptor) -> Result<()> {
        let bytes = self.blob_bytes(&index.digest, MANIFEST_BYTES)?;
        let Document::Index(found) = Document::parse(&bytes, &index.media_type)? else {
            return Err(Error::document("index", "it is a manifest"));
        };
        for entry in &found.manifests {
            if self.image_media_type(&entry.digest)?.is_none() {
                return Err(Error::NotFound { what: format!("image `{}`", entry.digest) });
            }
        }
        self.put_image(&index.digest, media_type::INDEX)
    }

    /// All blobs of a complete image or index, each once, the documents after what they speak of.
    ///
    /// # Errors
    ///
    /// When a document cannot be read.
    pub fn blobs_of(&self, root: &Descriptor) -> Result<Vec<Descriptor>> {
        let mut blobs = Vec::new();
        self.collect_blobs(root, INDEX_DEPTH, &mut blobs)?;
        Ok(blobs)
    }

    fn collect_blobs(&self, root: &Descriptor, depth: usize, blobs: &mut Vec<Descriptor>) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| Error::Limit {
            what: "the nesting of indexes".to_owned(),
            name: "INDEX_DEPTH",
            limit: INDEX_DEPTH as u64,
        })?;
        let mut add = |blob: &Descriptor| {
            if !blobs.iter().any(|other: &Descriptor| other.digest == blob.digest) {
                blobs.push(blob.clone());
            }
        };
        match Document::parse(&self.blob_bytes(&root.digest, MANIFEST_BYTES)?, &root.media_type)? {
            Document::Manifest(manifest) => {
                manifest.layers.iter().for_each(&mut add);
                add(&manifest.config);
                add(root);
            }
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.collect_blobs(entry, depth, blobs)?;
                }
                if !blobs.iter().any(|other| other.digest == root.digest) {
                    blobs.push(root.clone());
                }
            }
        }
        Ok(())
    }
}

/// The name that a tag has in the store: the full reference without digest.
pub fn tag_name(reference: &Reference) -> String {
    format!("{}:{}", reference.name(), reference.tag().unwrap_or(crate::reference::DEFAULT_TAG))
}

/// The default way to write layers: gzip, times as they are.
pub const GZIP_LAYER: LayerOptions =
    LayerOptions { compression: Compression::Gzip, level: None, clamp: None };

/// Does something with each item on a few threads; the first error ends it.
pub(crate) fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    if let [only] = items {
        return work(only);
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let first_error = Mutex::new(None);
    let take_items = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = work(item) {
                failed.store(true, Ordering::Relaxed);
                first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..items.len().min(PARALLEL_BLOBS) {
            // A pod may have no threads left; this one does the work, then.
            if thread::Builder::new().spawn_scoped(scope, take_items).is_err() {
                break;
            }
        }
        take_items();
    });
    first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
