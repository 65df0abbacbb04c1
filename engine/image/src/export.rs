//! What an OCI image layout consists of, for whoever writes one: a directory or a tar archive.
//!
//! An [`Export`] is an image or index of the store with the names it shall have. Its files are given
//! to a [`Files`] in a fixed order: blobs, then `index.json`, then `oci-layout`, so that a layout directory that was
//! half written has no index that speaks of missing blobs.

use std::collections::BTreeSet;
use std::io::{self, Read};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Descriptor, Index, to_json};
use crate::progress::{Outcome, Reporter, Transfer};
use crate::reference::Reference;
use crate::store::Store;

/// The annotation with the tag (OCI image spec 1.1, image-layout.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the full reference, which containerd and Docker look at.
pub const FULL_NAME: &str = "io.containerd.image.name";
/// The file that says which version a layout has.
pub(crate) const MARKER: &str = "oci-layout";
pub(crate) const MARKER_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The file with the layout's images.
pub(crate) const INDEX: &str = "index.json";

/// An image or index of the store, and its names.
#[derive(Debug, Clone)]
pub struct Export {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The references it shall be found under; may be none.
    pub names: Vec<Reference>,
}

impl Export {
    /// The entries for `index.json`: one per name.
    pub(crate) fn entries(&self) -> Vec<Descriptor> {
        let own = self.descriptor.annotations.clone().filter(|own| !own.is_empty());
        let plain = Descriptor { annotations: own, ..self.descriptor.clone() };
        if self.names.is_empty() {
            return vec![plain];
        }
        let named = |name: &Reference| {
            let mut annotations = plain.annotations.clone().unwrap_or_default();
            annotations.insert(FULL_NAME.to_owned(), name.to_string());
            if let Some(tag) = name.tag() {
                annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            }
            Descriptor { annotations: Some(annotations), ..plain.clone() }
        };
        self.names.iter().map(named).collect()
    }
}

/// Takes the files of a layout. Paths are relative, with `/`.
pub trait Files {
    /// Whether a blob of this size is there already.
    ///
    /// # Errors
    ///
    /// When that cannot be found out.
    fn has(&mut self, path: &str, size: u64) -> io::Result<bool>;

    /// Writes a file of exactly `size` bytes.
    ///
    /// # Errors
    ///
    /// What the reader and the destination give.
    fn put(&mut self, path: &str, size: u64, data: &mut dyn Read) -> io::Result<()>;
}

pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Writes the blobs of `exports`, sorted by digest.
pub(crate) fn write_blobs(
    store: &Store,
    exports: &[Export],
    files: &mut dyn Files,
    reporter: &dyn Reporter,
) -> Result<()> {
    let mut blobs = BTreeSet::new();
    for export in exports {
        for blob in store.blobs_of(&export.descriptor)? {
            blobs.insert((blob.digest, blob.size));
        }
    }
    for (digest, size) in blobs {
        if reporter.cancelled() {
            return Err(Error::Cancelled);
        }
        let action = |error| Error::io(format!("cannot write blob `{digest}`"), error);
        let path = blob_path(&digest);
        reporter.start(Transfer::Push, &digest, size);
        if files.has(&path, size).map_err(action)? {
            reporter.finish(Transfer::Push, &digest, Outcome::Present);
            continue;
        }
        let mut reader = store.read_blob(&digest, Some(size))?;
        files.put(&path, size, &mut reader).map_err(action)?;
        reporter.finish(Transfer::Push, &digest, Outcome::Done);
    }
    Ok(())
}

/// Writes a whole layout with these entries in its index.
pub(crate) fn write_layout(
    store: &Store,
    exports: &[Export],
    entries: Vec<Descriptor>,
    files: &mut dyn Files,
    reporter: &dyn Reporter,
) -> Result<()> {
    write_blobs(store, exports, files, reporter)?;
    let index = to_json(&Index::new(entries));
    let action = |error| Error::io("cannot write the layout's index", error);
    files.put(INDEX, index.len() as u64, &mut index.as_slice()).map_err(action)?;
    files.put(MARKER, MARKER_TEXT.len() as u64, &mut &MARKER_TEXT[..]).map_err(action)
}
