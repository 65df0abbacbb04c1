//! From a source into the store: whole images, or only what says what an image is.
//!
//! [`Store::import_lazily`] takes manifest and config, which is enough to build on an image as long as nobody looks at its
//! files; [`Store::complete`] fetches the layers that are not here, and [`Store::ensure_tree_from`] makes the file
//! system, reading a layer while it arrives: one pass from the network to the blob, its digest, its diff ID and its
//! pack. Where blobs came from is noted ([`Store::origins`]), so that they can be fetched later, or mounted by a push.
//!
//! What must hold: an image is recorded as complete when its last blob is in the store; nothing of a layer can be read
//! before all of it was verified, digest, size and diff ID, however it came.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use cooper_vfs::Tree;

use crate::digest::{Digest, Verifier};
use crate::error::{Error, Result};
use crate::image::{ImageRecord, LayerRecord, Source, chain_ids, in_parallel, tag_name};
use crate::layer::{self, Expected, Limits, Operations};
use crate::manifest::{
    CONFIG_BYTES, Descriptor, Document, INDEX_DEPTH, MANIFEST_BYTES, Manifest, media_type,
};
use crate::platform::Platform;
use crate::progress::{Outcome, Reporter, Transfer};
use crate::reference::Reference;
use crate::store::{Batch, BlobWriter, Keep, Store};

/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;
/// Record kind of images whose layers are not all here, by tag and platform.
const LAZY: &str = "lazy image";

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
        let image = self.import_lazily(source, root, platform)?;
        self.complete(source, &image, reporter)?;
        Ok(image)
    }

    /// Brings manifest and config of an image into the store, and none of its layers.
    ///
    /// # Errors
    ///
    /// As [`Store::import`].
    pub fn import_lazily(
        &self,
        source: &dyn Source,
        root: &Descriptor,
        platform: &Platform,
    ) -> Result<ImageRecord> {
        let (descriptor, manifest, bytes) = self.fetch_manifest(source, root, platform)?;
        if let Some(record) = self.image(&descriptor.digest)? {
            self.note_blobs(source, &record)?;
            return Ok(record);
        }
        manifest.check_is_image()?;
        if manifest.config.size > CONFIG_BYTES {
            let what = "image config".to_owned();
            return Err(Error::Limit { what, name: "CONFIG_BYTES", limit: CONFIG_BYTES });
        }
        self.fetch_blob(source, &manifest.config, &crate::progress::Silent)?;
        let record = self.read_record(descriptor, manifest)?;
        self.put_blob(&bytes)?;
        self.note_blobs(source, &record)?;
        Ok(record)
    }

    fn note_blobs(&self, source: &dyn Source, image: &ImageRecord) -> Result<()> {
        let Some(origin) = source.origin() else { return Ok(()) };
        let blobs = image.layers.iter().map(|layer| &layer.descriptor).chain([&image.manifest.config]);
        self.note_origin(blobs.map(|blob| &blob.digest), &origin)
    }

    /// Brings a manifest, or an index with all its manifests, into the store, as documents: configs, layers and other
    /// blobs stay where they are, and where that is gets noted. What they are for is not looked at, so artifacts
    /// come along, too.
    ///
    /// # Errors
    ///
    /// As [`Store::import`].
    pub fn import_documents(&self, source: &dyn Source, root: &Descriptor) -> Result<Descriptor> {
        let mut ahead = vec![(root.clone(), INDEX_DEPTH)];
        while let Some((descriptor, depth)) = ahead.pop() {
            let bytes = self.fetch_document(source, &descriptor)?;
            match Document::parse(&bytes, &descriptor.media_type)? {
                Document::Manifest(manifest) => {
                    if let Some(origin) = source.origin() {
                        let blobs = manifest.layers.iter().chain([&manifest.config]);
                        self.note_origin(blobs.map(|blob| &blob.digest), &origin)?;
                    }
                }
                Document::Index(index) => {
                    let depth =
                        depth.checked_sub(1).filter(|depth| *depth > 0).ok_or_else(|| Error::Limit {
                            what: "the nesting of indexes".to_owned(),
                            name: "INDEX_DEPTH",
                            limit: INDEX_DEPTH as u64,
                        })?;
                    ahead.extend(index.manifests.iter().map(|entry| (entry.clone(), depth)));
                }
            }
            let mut writer = self.blob_writer(&descriptor.digest, Some(bytes.len() as u64))?;
            writer.write_all(&bytes).map_err(|error| Error::io("cannot write a blob", error))?;
            writer.finish()?;
        }
        Ok(root.clone())
    }

    /// Whether all blobs of an image are here. They are held from now on.
    ///
    /// # Errors
    ///
    /// When a hold cannot be recorded.
    pub fn is_complete(&self, image: &ImageRecord) -> Result<bool> {
        for layer in &image.layers {
            if !self.has_blob(&layer.descriptor.digest, Some(layer.descriptor.size))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fetches the layers of an image that are not here, and records it as complete.
    ///
    /// # Errors
    ///
    /// As [`Store::import`].
    pub fn complete(&self, source: &dyn Source, image: &ImageRecord, reporter: &dyn Reporter) -> Result<()> {
        if self.image_media_type(image.digest())?.is_some() {
            return Ok(());
        }
        let mut blobs: Vec<&Descriptor> = Vec::new();
        for layer in &image.layers {
            if !blobs.iter().any(|blob| blob.digest == layer.descriptor.digest) {
                blobs.push(&layer.descriptor);
            }
        }
        in_parallel(&blobs, |blob| self.fetch_blob(source, blob, reporter))?;
        self.put_image(image.digest(), &image.descriptor.media_type)
    }

    /// Tags an image of which only manifest and config are here. The next [`Store::find_lazy`] finds it; a complete
    /// image under the same name comes first.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn tag_lazily(&self, reference: &Reference, platform: &Platform, image: &ImageRecord) -> Result<()> {
        let key = lazy_key(reference, platform);
        let value = format!("{}\n{}", image.digest(), image.descriptor.media_type);
        let keeps = [Keep::Blob(*image.digest()), Keep::Blob(image.manifest.config.digest)];
        self.put_record(LAZY, &key, value.as_bytes(), &keeps)
    }

    /// Finds an image of which manifest and config are here.
    ///
    /// # Errors
    ///
    /// When the store's index cannot be read.
    pub fn find_lazy(&self, reference: &Reference, platform: &Platform) -> Result<Option<ImageRecord>> {
        let Some(value) = self.record(LAZY, &lazy_key(reference, platform))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&value);
        let Some((digest, kind)) = text.split_once('\n') else { return Ok(None) };
        let digest: Digest = digest.parse()?;
        // What was damaged since is asked for again.
        let Ok(bytes) = self.blob_bytes(&digest, MANIFEST_BYTES) else { return Ok(None) };
        match Document::parse(&bytes, kind)? {
            Document::Manifest(manifest) => {
                let descriptor = Descriptor::new(kind, digest, bytes.len() as u64);
                Ok(self.read_record(descriptor, *manifest).ok())
            }
            Document::Index(_) => Ok(None),
        }
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

    /// Fetches a blob that is not here.
    ///
    /// # Errors
    ///
    /// [`Error::DigestMismatch`], [`Error::SizeMismatch`], and the source's and the disk's own.
    pub fn fetch_blob(&self, source: &dyn Source, blob: &Descriptor, reporter: &dyn Reporter) -> Result<()> {
        reporter.start(Transfer::Pull, &blob.digest, blob.size);
        if self.has_blob(&blob.digest, Some(blob.size))? {
            reporter.finish(Transfer::Pull, &blob.digest, Outcome::Present);
            return Ok(());
        }
        let writer = self.blob_writer(&blob.digest, Some(blob.size))?;
        let mut arriving = Arriving::new(source.blob(blob)?, writer, blob, reporter);
        arriving.drain()?;
        arriving.writer.finish()?;
        reporter.finish(Transfer::Pull, &blob.digest, Outcome::Done);
        Ok(())
    }

    /// The file system of an image, when it was made before. It is held from now on.
    ///
    /// # Errors
    ///
    /// When the store's index cannot be read.
    pub fn known_tree(&self, image: &ImageRecord) -> Result<Option<Tree>> {
        match image.chain_id() {
            Some(chain) => self.chain_tree(&chain),
            None => Ok(None),
        }
    }

    /// The file system of an image whose blobs are here; layers that were not ingested before are ingested now.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] and the other failures of [`layer::scan()`] and [`layer::apply()`]; [`Error::NotFound`] when a
    /// layer's blob was pruned.
    pub fn ensure_tree(&self, image: &ImageRecord, limits: &Limits, reporter: &dyn Reporter) -> Result<Tree> {
        self.ensure_tree_from(None, image, limits, reporter)
    }

    /// The file system of an image. Layers that are not here come from `source`, and are ingested while they arrive;
    /// none is fetched below the highest layer whose file system is known.
    ///
    /// # Errors
    ///
    /// As [`Store::ensure_tree`], and the source's own.
    pub fn ensure_tree_from(
        &self,
        source: Option<&dyn Source>,
        image: &ImageRecord,
        limits: &Limits,
        reporter: &dyn Reporter,
    ) -> Result<Tree> {
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
        let scanned = self.scan_layers(source, &image.layers[done..], limits, reporter)?;
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
        source: Option<&dyn Source>,
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
            let operations = match source {
                Some(source) if !self.has_blob(digest, Some(*size))? => {
                    self.scan_arriving(source, layer, limits, reporter)?
                }
                _ => {
                    let expected =
                        Expected { digest: Some(*digest), size: Some(*size), diff_id: Some(layer.diff_id) };
                    layer::scan(self, self.open_blob(digest)?, &expected, limits)?
                }
            };
            reporter.finish(Transfer::Ingest, digest, Outcome::Done);
            results.lock().unwrap_or_else(PoisonError::into_inner).insert(*number, operations);
            Ok(())
        })?;
        Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
    }

    /// Ingests a layer while it arrives. Its pack is published after the blob was verified.
    fn scan_arriving(
        &self,
        source: &dyn Source,
        layer: &LayerRecord,
        limits: &Limits,
        reporter: &dyn Reporter,
    ) -> Result<Operations> {
        let blob = &layer.descriptor;
        let writer = self.blob_writer(&blob.digest, Some(blob.size))?;
        let mut arriving = Arriving::new(source.blob(blob)?, writer, blob, reporter);
        let expected = Expected { digest: None, size: None, diff_id: Some(layer.diff_id) };
        let scanned = layer::scan::scan_unpublished(self, &mut arriving, &expected, limits);
        match scanned {
            Ok((operations, pack)) => {
                arriving.writer.finish()?;
                pack.publish()?;
                Ok(operations)
            }
            Err(error) if arriving.failed => Err(error),
            Err(error) => {
                // Bytes that are not the promised ones are the better explanation of a layer that makes no sense.
                arriving.drain()?;
                arriving.writer.finish()?;
                Err(error)
            }
        }
    }
}

fn lazy_key(reference: &Reference, platform: &Platform) -> Vec<u8> {
    let name = match reference.digest() {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => tag_name(reference),
    };
    format!("{name}\n{platform}").into_bytes()
}

/// A blob on its way from a source: what is read of it is written to the store.
struct Arriving<'a, 's> {
    source: Box<dyn Read + Send + 'a>,
    writer: BlobWriter<'s>,
    blob: &'a Descriptor,
    reporter: &'a dyn Reporter,
    done: u64,
    /// The source, the disk or the caller ended it; the layer is not at fault.
    failed: bool,
}

impl<'a, 's> Arriving<'a, 's> {
    fn new(
        source: Box<dyn Read + Send + 'a>,
        writer: BlobWriter<'s>,
        blob: &'a Descriptor,
        reporter: &'a dyn Reporter,
    ) -> Self {
        Self { source, writer, blob, reporter, done: 0, failed: false }
    }

    /// Reads what is left of it.
    fn drain(&mut self) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match self.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::io(format!("cannot read blob `{}`", self.blob.digest), error));
                }
            }
        }
    }

    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.reporter.cancelled() {
            return Err(Error::Cancelled.into_io());
        }
        let count = self.source.read(buffer)?;
        self.writer.write_all(&buffer[..count])?;
        self.done += count as u64;
        if count > 0 {
            self.reporter.advance(Transfer::Pull, &self.blob.digest, self.done);
        }
        Ok(count)
    }
}

impl Read for Arriving<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.take(buffer);
        self.failed |= result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        result
    }
}
