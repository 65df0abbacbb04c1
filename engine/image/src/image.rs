//! Images in the store: from a source into it, as trees, and new ones out of old ones.
//!
//! An [`ImageRecord`] is what is known of one complete image: its manifest, config and layers, all of them verified
//! blobs of the store. [`Store::import`] makes one from a [`Source`] (a registry, a layout, an archive),
//! [`Store::ensure_tree`] its file system, [`Store::compose`] a new one on top. Everything is a value; the store is the
//! only thing that changes.
//!
//! What must hold: a base's blobs stay byte for byte; an image is recorded when its last blob is in the store, and
//! nothing else makes records of images.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use cooper_vfs::{Change, ContentStore, Tree};

use crate::compression::Compression;
use crate::config::ImageConfig;
use crate::digest::{Digest, Verifier};
use crate::error::{Error, Result};
use crate::layer::{self, Expected, LayerOptions, Limits, Operations};
use crate::manifest::{
    CONFIG_BYTES, Descriptor, Document, INDEX_DEPTH, Index, MANIFEST_BYTES, Manifest, media_type,
};
use crate::platform::Platform;
use crate::progress::{Outcome, Reporter, Transfer};
use crate::reference::Reference;
use crate::store::{Batch, Store};

/// Blobs that are transferred at the same time.
pub const PARALLEL_BLOBS: usize = 4;
/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;

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
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of its tar.
    pub diff_id: Digest,
}

/// A complete image in the store.
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
    /// Brings an image into the store: the manifest that `root` names, or that of `platform` in the index that it
    /// names, with all blobs that are not here yet.
    ///
    /// # Errors
    ///
    /// [`Error::NoPlatform`], [`Error::DigestMismatch`] and [`Error::SizeMismatch`] for bytes that are not the promised
    /// ones, [`Error::Document`] and [`Error::Unsupported`] for what is no image, and the source's and the disk's own.
    pub fn import(
        &self,
        source: &dyn Source,
        root: &Descriptor,
        platform: &Platform,
        reporter: &dyn Reporter,
    ) -> Result<ImageRecord> {
        let (descriptor, manifest, bytes) = self.fetch_manifest(source, root, platform)?;
        if let Some(record) = self.image(&descriptor.digest)? {
            return Ok(record);
        }
        manifest.check_is_image()?;
        if manifest.config.size > CONFIG_BYTES {
            let what = "image config".to_owned();
            return Err(Error::Limit { what, name: "CONFIG_BYTES", limit: CONFIG_BYTES });
        }
        let mut blobs: Vec<&Descriptor> = vec![&manifest.config];
        for layer in &manifest.layers {
            if !blobs.iter().any(|blob| blob.digest == layer.digest) {
                blobs.push(layer);
            }
        }
        in_parallel(&blobs, |blob| self.fetch_blob(source, blob, reporter))?;
        let record = self.read_record(descriptor, manifest)?;
        self.put_blob(&bytes)?;
        self.put_image(&record.descriptor.digest, &record.descriptor.media_type)?;
        Ok(record)
    }

    fn fetch_manifest(
        &self,
        source: &dyn Source,
        root: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest, Vec<u8>)> {
        let mut descriptor = root.clone();
        for _ in 0..INDEX_DEPTH {
            let bytes = self.fetch_document(source, &descriptor)?;
            match Document::parse(&bytes, &descriptor.media_type)? {
                Document::Manifest(manifest) => {
                    let kind = manifest.media_type.clone().unwrap_or_else(|| media_type::MANIFEST.to_owned());
                    let descriptor = Descriptor::new(&kind, descriptor.digest, bytes.len() as u64);
                    return Ok((descriptor, *manifest, bytes));
                }
                Document::Index(index) => {
                    descriptor = index.select(platform)?.clone();
                    // Kept, so that a reference by the index's digest is found here the next time.
                    self.put_blob(&bytes)?;
                }
            }
        }
        let what = "the nesting of indexes".to_owned();
        Err(Error::Limit { what, name: "INDEX_DEPTH", limit: INDEX_DEPTH as u64 })
    }

    fn fetch_document(&self, source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > MANIFEST_BYTES {
            let what = "manifest".to_owned();
            return Err(Error::Limit { what, name: "MANIFEST_BYTES", limit: MANIFEST_BYTES });
        }
        if self.has_blob(&descriptor.digest, Some(descriptor.size))? {
            return self.blob_bytes(&descriptor.digest, MANIFEST_BYTES);
        }
        let bytes = source.document(descriptor)?;
        let mut verifier = Verifier::new(
            format!("manifest `{}`", descriptor.digest),
            descriptor.digest,
            Some(descriptor.size),
        );
        verifier.update(&bytes)?;
        verifier.finish()?;
        Ok(bytes)
    }

    fn fetch_blob(&self, source: &dyn Source, blob: &Descriptor, reporter: &dyn Reporter) -> Result<()> {
        reporter.start(Transfer::Pull, &blob.digest, blob.size);
        if self.has_blob(&blob.digest, Some(blob.size))? {
            reporter.finish(Transfer::Pull, &blob.digest, Outcome::Present);
            return Ok(());
        }
        let action = || format!("cannot read blob `{}`", blob.digest);
        let mut reader = source.blob(blob)?;
        let mut writer = self.blob_writer(&blob.digest, Some(blob.size))?;
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        loop {
            if reporter.cancelled() {
                return Err(Error::Cancelled);
            }
            let count = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io(action(), error)),
            };
            writer.write_all(&chunk[..count]).map_err(|error| Error::io("cannot write a blob", error))?;
            done += count as u64;
            reporter.advance(Transfer::Pull, &blob.digest, done);
        }
        writer.finish()?;
        reporter.finish(Transfer::Pull, &blob.digest, Outcome::Done);
        Ok(())
    }

    /// Reads the config of a manifest whose blobs are here.
    fn read_record(&self, descriptor: Descriptor, manifest: Manifest) -> Result<ImageRecord> {
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

    /// The file system of an image; layers that were not ingested before are ingested now.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] and the other failures of [`layer::scan()`] and [`layer::apply()`]; [`Error::NotFound`] when a
    /// layer's blob was pruned.
    pub fn ensure_tree(&self, image: &ImageRecord, limits: &Limits, reporter: &dyn Reporter) -> Result<Tree> {
        let chains = chain_ids(image.layers.iter().map(|layer| &layer.diff_id));
        let mut known = None;
        for (count, chain) in chains.iter().enumerate().rev() {
            if let Some(tree) = self.chain_tree(chain)? {
                known = Some((count + 1, tree));
                break;
            }
        }
        let (done, mut tree) = match known {
            Some((done, tree)) if done == chains.len() => return Ok(tree),
            Some((done, tree)) => (done, Some(tree)),
            None => (0, None),
        };
        let scanned = self.scan_layers(&image.layers[done..], limits, reporter)?;
        let batch = Batch::new(self);
        let mut trees = Vec::new();
        for operations in scanned {
            let next = layer::apply(&batch, tree.as_ref(), &operations)?;
            trees.push(next.clone());
            tree = Some(next);
        }
        let tree = match tree {
            Some(tree) => tree,
            None => Tree::empty(&batch).map_err(|error| Error::io("cannot make the empty tree", error))?,
        };
        batch.commit()?;
        for (chain, tree) in chains[done..].iter().zip(&trees) {
            self.put_chain(chain, tree)?;
        }
        self.hold_tree(&tree)?;
        Ok(tree)
    }

    fn scan_layers(
        &self,
        layers: &[LayerRecord],
        limits: &Limits,
        reporter: &dyn Reporter,
    ) -> Result<Vec<Operations>> {
        let numbered: Vec<(usize, &LayerRecord)> = layers.iter().enumerate().collect();
        let results: Mutex<BTreeMap<usize, Operations>> = Mutex::default();
        in_parallel(&numbered, |(number, layer)| {
            if reporter.cancelled() {
                return Err(Error::Cancelled);
            }
            let Descriptor { digest, size, .. } = &layer.descriptor;
            reporter.start(Transfer::Ingest, digest, *size);
            let expected =
                Expected { digest: Some(*digest), size: Some(*size), diff_id: Some(layer.diff_id) };
            let operations = layer::scan(self, self.open_blob(digest)?, &expected, limits)?;
            reporter.finish(Transfer::Ingest, digest, Outcome::Done);
            results.lock().unwrap_or_else(PoisonError::into_inner).insert(*number, operations);
            Ok(())
        })?;
        Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
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
        let mut blob = self.new_blob()?;
        let written = layer::write(self as &dyn ContentStore, changes, options, &mut blob)?;
        let (digest, size) = blob.finish()?;
        let descriptor = Descriptor::new(options.compression.layer_media_type(), digest, size);
        Ok(NewLayer { descriptor, diff_id: written.diff_id, tree: tree.cloned() })
    }

    /// Makes a new image of a base's layers and new ones.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when a layer's blob is not in the store, and the disk's.
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
        for descriptor in &descriptors {
            if !self.has_blob(&descriptor.digest, Some(descriptor.size))? {
                return Err(Error::NotFound { what: format!("blob `{}`", descriptor.digest) });
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
        self.put_image(&digest, media_type::MANIFEST)?;
        Ok(record)
    }

    /// Makes an index of complete images, in the order given, and returns its descriptor.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when an image is not complete here, and the disk's.
    pub fn compose_index(
        &self,
        images: &[ImageRecord],
        annotations: BTreeMap<String, String>,
    ) -> Result<Descriptor> {
        let mut entries = Vec::new();
        for image in images {
            if self.image_media_type(image.digest())?.is_none() {
                return Err(Error::NotFound { what: format!("image `{}`", image.digest()) });
            }
            let mut entry = image.descriptor.clone();
            entry.platform = Some(image.config.platform());
            entries.push(entry);
        }
        let mut index = Index::new(entries);
        index.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        let bytes = index.to_bytes();
        let digest = self.put_blob(&bytes)?;
        self.put_image(&digest, media_type::INDEX)?;
        Ok(Descriptor::new(media_type::INDEX, digest, bytes.len() as u64))
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
pub const GZIP_LAYER: LayerOptions = LayerOptions { compression: Compression::Gzip, clamp: None };

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
