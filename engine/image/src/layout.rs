#![allow(
    clippy::disallowed_methods,
    reason = "OCI layouts are directories of the host (architecture, invariant 1)"
)]
//! OCI image layouts: images in a directory.
//!
//! Follows OCI image spec 1.1, image-layout.md. The directory is opened once, as a `cap-std` handle, and everything
//! in it is reached through that handle, so a symbolic link in a layout leads nowhere else. Blobs are written under
//! a temporary name and renamed; `index.json` comes last. A layout that exists is added to: entries of the same name
//! are replaced, others stay.

use std::io::{self, Read};
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

use crate::error::{Error, Result};
use crate::export::{Export, FULL_NAME, Files, INDEX, MARKER, REF_NAME, blob_path, write_layout};
use crate::image::Source;
use crate::manifest::{Descriptor, Document, Index, MANIFEST_BYTES};
use crate::progress::Reporter;
use crate::store::Store;

/// Bound on the file that says which version a layout has, in bytes.
const MARKER_BYTES: u64 = 4096;

/// An image layout to read from.
#[derive(Debug)]
pub struct Layout {
    directory: Dir,
    shown: String,
    index: Index,
}

impl Layout {
    /// Opens a layout and reads its index.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Document`] when it is no layout.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let directory = Dir::open_ambient_dir(path, ambient_authority())
            .map_err(|error| Error::io(format!("cannot open the layout `{shown}`"), error))?;
        check_marker(&read_small(&directory, MARKER, MARKER_BYTES, &shown)?)?;
        let index = parse_index(&read_small(&directory, INDEX, MANIFEST_BYTES, &shown)?)?;
        Ok(Self { directory, shown, index })
    }

    /// The layout's entries.
    pub fn entries(&self) -> &[Descriptor] {
        &self.index.manifests
    }

    /// The entry of this name; without a name, the only entry there is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, or more than one to choose from.
    pub fn select(&self, name: Option<&str>) -> Result<&Descriptor> {
        select_entry(self.entries(), name, &self.shown)
    }
}

impl Source for Layout {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        read_small(&self.directory, &blob_path(&descriptor.digest), MANIFEST_BYTES, &self.shown)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        let path = blob_path(&descriptor.digest);
        let file = self.directory.open(&path).map_err(|error| cannot_read(&self.shown, &path, error))?;
        Ok(Box::new(file.into_std()))
    }
}

/// Finds an entry by its tag or full name, or by its digest; without a name, the only one there is.
pub(crate) fn select_entry<'e>(
    entries: &'e [Descriptor],
    name: Option<&str>,
    shown: &str,
) -> Result<&'e Descriptor> {
    let Some(name) = name else {
        let mut images = entries.iter().filter(|entry| !entry.is_attestation());
        return match (images.next(), images.find(|other| entries[0].digest != other.digest)) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Error::NotFound { what: format!("an image in `{shown}`") }),
            (Some(_), Some(_)) => {
                Err(Error::NotFound { what: format!("a single image in `{shown}`, which has several,") })
            }
        };
    };
    let has_name = |entry: &&Descriptor| {
        let annotation = |key| entry.annotations.as_ref().and_then(|annotations| annotations.get(key));
        annotation(REF_NAME).is_some_and(|found| found == name)
            || annotation(FULL_NAME).is_some_and(|found| found == name)
            || entry.digest.to_string() == name
    };
    entries
        .iter()
        .find(has_name)
        .ok_or_else(|| Error::NotFound { what: format!("image `{name}` in `{shown}`") })
}

pub(crate) fn check_marker(bytes: &[u8]) -> Result<()> {
    let marker: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::document("oci-layout file", error.to_string()))?;
    match marker.get("imageLayoutVersion").and_then(|version| version.as_str()) {
        Some("1.0.0") => Ok(()),
        Some(other) => {
            let other = crate::error::printable(other.as_bytes());
            Err(Error::Unsupported { what: format!("image layout version `{other}`") })
        }
        None => Err(Error::document("oci-layout file", "it has no imageLayoutVersion")),
    }
}

pub(crate) fn parse_index(bytes: &[u8]) -> Result<Index> {
    match Document::parse(bytes, "")? {
        Document::Index(index) => Ok(*index),
        Document::Manifest(_) => Err(Error::document("index.json", "it is a manifest, not an index")),
    }
}

fn cannot_read(shown: &str, path: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { what: format!("`{path}` in `{shown}`") },
        _ => Error::io(format!("cannot read `{path}` in `{shown}`"), error),
    }
}

fn read_small(directory: &Dir, path: &str, limit: u64, shown: &str) -> Result<Vec<u8>> {
    let file = directory.open(path).map_err(|error| cannot_read(shown, path, error))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(shown, path, error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::Limit {
            what: format!("`{path}` in `{shown}`"),
            name: "a document's size",
            limit,
        });
    }
    Ok(bytes)
}

/// Writes images into a layout directory, making it when it is not there.
///
/// # Errors
///
/// [`Error::Io`] when the directory cannot be written, [`Error::Document`] when what is there is no layout.
pub fn write(store: &Store, path: &Path, exports: &[Export], reporter: &dyn Reporter) -> Result<()> {
    let shown = path.display().to_string();
    let action = |error| Error::io(format!("cannot write the layout `{shown}`"), error);
    std::fs::create_dir_all(path).map_err(action)?;
    let directory = Dir::open_ambient_dir(path, ambient_authority()).map_err(action)?;
    let new: Vec<Descriptor> = exports.iter().flat_map(Export::entries).collect();
    let mut entries = Vec::new();
    if directory.exists(MARKER) || directory.exists(INDEX) {
        check_marker(&read_small(&directory, MARKER, MARKER_BYTES, &shown)?)?;
        entries = parse_index(&read_small(&directory, INDEX, MANIFEST_BYTES, &shown)?)?.manifests;
        entries.retain(|old| !new.iter().any(|new| replaces(new, old)));
    }
    entries.extend(new);
    write_layout(store, exports, entries, &mut DirectoryFiles { directory }, reporter)
}

/// An entry replaces the one with its full name, or with its tag when that one has no full name; one without names
/// replaces its like with the same digest.
fn replaces(new: &Descriptor, old: &Descriptor) -> bool {
    let name = |entry: &Descriptor, key| entry.annotations.as_ref().and_then(|found| found.get(key)).cloned();
    match (name(new, FULL_NAME), name(old, FULL_NAME)) {
        (Some(new), Some(old)) => new == old,
        _ => match (name(new, REF_NAME), name(old, REF_NAME)) {
            (Some(new), Some(old)) => new == old,
            (None, None) => new.digest == old.digest,
            _ => false,
        },
    }
}

struct DirectoryFiles {
    directory: Dir,
}

impl Files for DirectoryFiles {
    fn has(&mut self, path: &str, size: u64) -> io::Result<bool> {
        match self.directory.metadata(path) {
            Ok(metadata) => Ok(metadata.is_file() && metadata.len() == size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn put(&mut self, path: &str, size: u64, data: &mut dyn Read) -> io::Result<()> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !parent.is_empty() {
            self.directory.create_dir_all(parent)?;
        }
        let temporary = format!("{path}.{}.tmp", std::process::id());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let result = self.directory.open_with(&temporary, &options).and_then(|file| {
            let mut file = file.into_std();
            let count = io::copy(data, &mut file)?;
            if count == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        });
        let result = result.and_then(|()| self.directory.rename(&temporary, &self.directory, path));
        if result.is_err() {
            // The error that counts is the first one.
            let _ = self.directory.remove_file(&temporary);
        }
        result
    }
}
