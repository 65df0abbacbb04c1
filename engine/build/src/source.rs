//! Images as sources: what `FROM` and `--from` name.
//!
//! Lowering needs an image's config; the solver needs its file system only when something is executed on it, and an
//! exporter its blobs. So an image is resolved to manifest and config first, and its tree is made when it is asked for.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use cooper_image::{Descriptor, Digest, ImageConfig, Platform};
use cooper_vfs::tree::Tree;

use crate::error::Result;
use crate::key::{Key, KeyBuilder};
use crate::step::CancelToken;

/// An image by manifest and config.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedImage {
    /// What the Dockerfile calls it.
    pub name: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers, the lowest first, as its manifest has them.
    pub layers: Vec<Descriptor>,
}

impl ResolvedImage {
    /// The identity of the file system: its diff IDs, never the compressed digests.
    pub fn identity(&self) -> Key {
        let mut key = KeyBuilder::new("image");
        key.list("layers", self.config.rootfs.diff_ids.len());
        for diff_id in &self.config.rootfs.diff_ids {
            key.bytes("diff id", diff_id.to_string().as_bytes());
        }
        key.finish()
    }
}

/// Where images come from: the local store and registries; in tests, a table.
pub trait ImageProvider: Send + Sync + fmt::Debug {
    /// Finds an image's manifest and config. With `pull` the registry is asked even where there is a local tag.
    fn resolve(&self, reference: &str, platform: &Platform, pull: bool, cancel: &CancelToken) -> Result<ResolvedImage>;

    /// The image's file system; its layers are fetched and ingested when they are not here.
    fn tree(&self, image: &ResolvedImage, progress: &dyn Fn(&str, u64, Option<u64>), cancel: &CancelToken) -> Result<Tree>;
}

/// An image in a graph.
#[derive(Debug)]
pub struct ImageSource {
    /// The image.
    pub image: ResolvedImage,
    tree: Mutex<Option<Tree>>,
}

impl ImageSource {
    /// A source whose file system nobody has asked for.
    pub fn new(image: ResolvedImage) -> Self {
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
