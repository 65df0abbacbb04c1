//! Checks every promise of an image in a store.
//!
//! Independent of how the image came to be: all blobs are read again, layers are decompressed and their diff IDs
//! computed, the config is compared with the manifest, and the layers are applied to one another.

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::ImageRecord;
use crate::layer::{self, Expected, Limits};
use crate::manifest::{CONFIG_BYTES, Document, MANIFEST_BYTES};
use crate::store::{Batch, Store};

/// Checks an image; the first broken promise is the error.
///
/// # Errors
///
/// [`Error::DigestMismatch`], [`Error::SizeMismatch`], [`Error::Document`], [`Error::Layer`], [`Error::NotFound`].
pub fn image(store: &Store, digest: &Digest) -> Result<ImageRecord> {
    let wrong = |reason: String| Err(Error::document("image", reason));
    let bytes = store.blob_bytes(digest, MANIFEST_BYTES)?;
    let Document::Manifest(manifest) = Document::parse(&bytes, "")? else {
        return wrong(format!("`{digest}` is an index"));
    };
    manifest.check_is_image()?;
    let config = ImageConfig::parse(&store.blob_bytes(&manifest.config.digest, CONFIG_BYTES)?)?;
    let diff_ids = &config.rootfs.diff_ids;
    if manifest.layers.len() != diff_ids.len() {
        return wrong(format!("{} layers, {} diff IDs", manifest.layers.len(), diff_ids.len()));
    }
    let made_layers = config.history.iter().filter(|entry| entry.empty_layer != Some(true)).count();
    if !config.history.is_empty() && made_layers != diff_ids.len() {
        return wrong(format!("{} layers, {made_layers} layers in the history", diff_ids.len()));
    }
    if config.os.is_empty() || config.architecture.is_empty() {
        return wrong("the config names no platform".to_owned());
    }
    let batch = Batch::new(store);
    let mut tree = None;
    for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let expected = Expected {
            digest: Some(descriptor.digest),
            size: Some(descriptor.size),
            diff_id: Some(*diff_id),
        };
        let operations =
            layer::inspect(store, store.open_blob(&descriptor.digest)?, &expected, &Limits::DEFAULT)?;
        let kind = operations.compression.layer_media_type();
        let says = crate::manifest::media_type::to_oci(&descriptor.media_type);
        if kind != says {
            return wrong(format!("layer `{}` is `{kind}`, not `{says}`", descriptor.digest));
        }
        tree = Some(layer::apply(&batch, tree.as_ref(), &operations)?);
    }
    match store.image(digest)? {
        Some(record) => Ok(record),
        None => wrong(format!("`{digest}` is not recorded as complete")),
    }
}
