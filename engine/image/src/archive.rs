#![allow(clippy::disallowed_methods, reason = "archives are files of the host (architecture, invariant 1)")]
//! Images in one tar file: OCI archives and Docker archives, in and out.
//!
//! An OCI archive is an image layout in a tar. A Docker archive is what `docker save` makes: `manifest.json` names configs
//! and layers; today's holds a whole image layout besides, in older ones every layer is a plain `layer.tar` (or a link
//! to one). [`Archive::open`] reads all of them: it lists the file once and then reads by position, so nothing is
//! unpacked. What is written is both at a time for Docker, and the layout alone for OCI; names are sorted, times are
//! zero, so the same images give the same bytes.
//!
//! Nothing in the tar is a path on the host. An archive in gzip or zstd, or one that cannot be read by position, is
//! first copied into the store's scratch space.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use cooper_vfs::{ContentStore, Metadata, SpoolFile};
use serde::{Deserialize, Serialize};

use crate::compression::{Compression, decoder};
use crate::config::ImageConfig;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::export::{Export, Files, INDEX, MARKER, blob_path, write_layout};
use crate::image::Source;
use crate::layer::tar::{Archive as Tar, MemberKind};
use crate::layer::write::{Fields, header_bytes, padding};
use crate::layout::{check_marker, parse_index, select_entry};
use crate::manifest::{
    CONFIG_BYTES, Descriptor, Document, IMAGE_LAYERS, MANIFEST_BYTES, Manifest, media_type, to_json,
};
use crate::progress::Reporter;
use crate::reference::Reference;
use crate::store::Store;

/// The file that Docker looks at.
const DOCKER_MANIFEST: &str = "manifest.json";
/// Bound on the files of an archive.
pub const ARCHIVE_ENTRIES: usize = 1 << 16;
/// Links that are followed from one file of an archive.
const MOST_LINKS: usize = 8;
/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;

/// An image of `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

/// Where a file of the archive lies.
#[derive(Debug, Clone)]
enum Place {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

/// An archive to read from.
#[derive(Debug)]
pub struct Archive {
    file: Arc<File>,
    /// Keeps a copy in the store's scratch space.
    _copy: Option<SpoolFile>,
    shown: String,
    places: BTreeMap<String, Place>,
    entries: Vec<Descriptor>,
    /// What old archives have under other names: by digest.
    aliases: BTreeMap<Digest, String>,
    /// Manifests that old archives lack.
    made: BTreeMap<Digest, Vec<u8>>,
    names: BTreeMap<Digest, Vec<String>>,
}

impl Archive {
    /// Opens an archive file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Document`] and [`Error::Layer`] when it is no such archive.
    pub fn open(store: &Store, path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let file = File::open(path)
            .map_err(|error| Error::io(format!("cannot open the archive `{shown}`"), error))?;
        Self::from_file(store, file, &shown)
    }

    /// Opens an archive that is open already, as standard input is; `shown` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`Archive::open`].
    pub fn from_file(store: &Store, mut file: File, shown: &str) -> Result<Self> {
        let action = |error| Error::io(format!("cannot read the archive `{shown}`"), error);
        let by_position =
            file.metadata().map_err(action)?.is_file() && file.stream_position().is_ok_and(|at| at == 0);
        let mut first = [0; 4];
        let plain = by_position
            && file
                .read_at(&mut first, 0)
                .is_ok_and(|count| Compression::detect(&first[..count]) == Compression::None);
        let (file, copy) = if plain {
            (Arc::new(file), None)
        } else {
            let spool = store.spool().map_err(action)?;
            let (_, mut decoded) = decoder(BufReader::with_capacity(CHUNK, file)).map_err(action)?;
            store.fill_spool(&spool, &mut decoded).map_err(action)?;
            (Arc::clone(&spool.file), Some(spool))
        };
        let places = list(&file)?;
        let mut archive = Self {
            file,
            _copy: copy,
            shown: shown.to_owned(),
            places,
            entries: Vec::new(),
            aliases: BTreeMap::new(),
            made: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        archive.read_indexes()?;
        Ok(archive)
    }

    fn read_indexes(&mut self) -> Result<()> {
        if self.places.contains_key(INDEX) {
            check_marker(&self.small(MARKER, MANIFEST_BYTES)?)?;
            self.entries = parse_index(&self.small(INDEX, MANIFEST_BYTES)?)?.manifests;
        }
        let docker = match self.places.contains_key(DOCKER_MANIFEST) {
            true => self.small(DOCKER_MANIFEST, MANIFEST_BYTES)?,
            false if self.places.contains_key(INDEX) => return Ok(()),
            false => {
                let reason = format!("`{}` has neither index.json nor manifest.json", self.shown);
                return Err(Error::document("image archive", reason));
            }
        };
        let images: Vec<DockerImage> = serde_json::from_slice(&docker)
            .map_err(|error| Error::document("manifest.json", error.to_string()))?;
        if self.entries.is_empty() {
            for image in &images {
                let descriptor = self.add_docker_image(image)?;
                self.names.insert(descriptor.digest, image.tags.clone().unwrap_or_default());
                self.entries.push(descriptor);
            }
        } else if let ([only], [image]) = (self.entries.as_slice(), images.as_slice()) {
            self.names.insert(only.digest, image.tags.clone().unwrap_or_default());
        }
        Ok(())
    }

    /// Makes the manifest that an old archive lacks. Its layers are digested now; there is no other way to name them.
    fn add_docker_image(&mut self, image: &DockerImage) -> Result<Descriptor> {
        let layers = image.layers.as_deref().unwrap_or_default();
        if layers.len() > IMAGE_LAYERS {
            let what = "the list of layers".to_owned();
            return Err(Error::Limit { what, name: "IMAGE_LAYERS", limit: IMAGE_LAYERS as u64 });
        }
        let config_bytes = self.small(&image.config, CONFIG_BYTES)?;
        ImageConfig::parse(&config_bytes)?;
        let config = Descriptor::of(media_type::CONFIG, &config_bytes);
        self.aliases.insert(config.digest, image.config.clone());
        let mut descriptors = Vec::new();
        for path in layers {
            let mut reader = self.reader(path)?;
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut chunk = vec![0; CHUNK];
            let (mut size, mut first) = (0, Vec::new());
            loop {
                let count = reader.read(&mut chunk).map_err(|error| self.failed(path, error))?;
                if count == 0 {
                    break;
                }
                if first.is_empty() {
                    first = chunk[..count.min(8)].to_vec();
                }
                hasher.update(&chunk[..count]);
                size += count as u64;
            }
            let kind = Compression::detect(&first).layer_media_type();
            let descriptor = Descriptor::new(kind, hasher.finish(), size);
            self.aliases.insert(descriptor.digest, path.clone());
            descriptors.push(descriptor);
        }
        let bytes = Manifest::new(config, descriptors).to_bytes();
        let descriptor = Descriptor::of(media_type::MANIFEST, &bytes);
        self.made.insert(descriptor.digest, bytes);
        Ok(descriptor)
    }

    /// The archive's images and indexes.
    pub fn entries(&self) -> &[Descriptor] {
        &self.entries
    }

    /// The names of an entry, as the archive has them: full or familiar references.
    pub fn names(&self, entry: &Descriptor) -> Vec<String> {
        let annotation = |key: &str| entry.annotations.as_ref().and_then(|found| found.get(key)).cloned();
        let mut names: Vec<String> = annotation(crate::export::FULL_NAME).into_iter().collect();
        for name in self.names.get(&entry.digest).into_iter().flatten() {
            let same = |other: &String| other.parse::<Reference>().ok() == name.parse().ok();
            if !names.iter().any(same) {
                names.push(name.clone());
            }
        }
        names
    }

    /// The entry of this name; without a name, the only image there is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, or more than one to choose from.
    pub fn select(&self, name: Option<&str>) -> Result<&Descriptor> {
        if let Some(wanted) = name.and_then(|name| name.parse::<Reference>().ok()) {
            let named = |entry: &&Descriptor| {
                self.names(entry)
                    .iter()
                    .any(|name| name.parse::<Reference>().is_ok_and(|name| name == wanted))
            };
            if let Some(entry) = self.entries.iter().find(named) {
                return Ok(entry);
            }
        }
        select_entry(&self.entries, name, &self.shown)
    }

    fn failed(&self, path: &str, error: io::Error) -> Error {
        Error::io(
            format!("cannot read `{}` in `{}`", crate::error::printable(path.as_bytes()), self.shown),
            error,
        )
    }

    fn place(&self, path: &str) -> Result<(u64, u64)> {
        let missing = || {
            let path = crate::error::printable(path.as_bytes());
            Error::NotFound { what: format!("`{path}` in `{}`", self.shown) }
        };
        let mut path = join("", path);
        for _ in 0..=MOST_LINKS {
            match self.places.get(&path).ok_or_else(missing)? {
                Place::Bytes { offset, size } => return Ok((*offset, *size)),
                Place::Link(target) => path = target.clone(),
            }
        }
        Err(missing())
    }

    fn reader(&self, path: &str) -> Result<Range> {
        let (offset, size) = self.place(path)?;
        Ok(Range { file: Arc::clone(&self.file), offset, end: offset + size })
    }

    fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let (_, size) = self.place(path)?;
        if size > limit {
            let what = format!("`{}` in `{}`", crate::error::printable(path.as_bytes()), self.shown);
            return Err(Error::Limit { what, name: "a document's size", limit });
        }
        let mut bytes = Vec::new();
        self.reader(path)?.read_to_end(&mut bytes).map_err(|error| self.failed(path, error))?;
        Ok(bytes)
    }

    fn path_of(&self, digest: &Digest) -> String {
        self.aliases.get(digest).cloned().unwrap_or_else(|| blob_path(digest))
    }
}

impl Source for Archive {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self.made.get(&descriptor.digest) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.small(&self.path_of(&descriptor.digest), MANIFEST_BYTES),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.reader(&self.path_of(&descriptor.digest))?))
    }
}

/// A part of a file.
struct Range {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.end - self.offset).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Reads a file from its start, and knows where it is; contents are passed over without being read.
struct Positioned {
    file: Arc<File>,
    position: u64,
}

impl Read for &mut Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// Lists the files of an archive. Names are cleaned as paths are; a later entry replaces an earlier one.
fn list(file: &Arc<File>) -> Result<BTreeMap<String, Place>> {
    let mut positioned = Positioned { file: Arc::clone(file), position: 0 };
    let mut places = BTreeMap::new();
    loop {
        let mut tar = Tar::new(&mut positioned);
        let Some(member) = tar.next()? else { return Ok(places) };
        let Ok(written) = String::from_utf8(member.path.clone()) else {
            return Err(Error::entry(&member.path, "a name in an image archive must be text"));
        };
        let path = join("", &written);
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let place = match member.kind {
            MemberKind::File { size } => {
                if tar.is_sparse() {
                    return Err(Error::entry(&member.path, "a sparse file in an image archive"));
                }
                let offset = positioned.position;
                let end = offset.checked_add(size).map(|end| end.next_multiple_of(512));
                positioned.position =
                    end.ok_or_else(|| Error::entry(&member.path, "the size is out of range"))?;
                Some(Place::Bytes { offset, size })
            }
            MemberKind::Symlink { target } => {
                String::from_utf8(target).ok().map(|target| Place::Link(join(parent, &target)))
            }
            MemberKind::HardLink { target } => {
                String::from_utf8(target).ok().map(|target| Place::Link(join("", &target)))
            }
            _ => None,
        };
        if let Some(place) = place {
            places.insert(path, place);
        }
        if places.len() > ARCHIVE_ENTRIES {
            let what = "the archive's list of files".to_owned();
            return Err(Error::Limit { what, name: "ARCHIVE_ENTRIES", limit: ARCHIVE_ENTRIES as u64 });
        }
    }
}

/// Joins and cleans paths by text. The result is only a key of the list, so `..` leads nowhere but to another key.
fn join(parent: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in parent.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Writes an OCI archive.
///
/// # Errors
///
/// What the store and the writer give.
pub fn write_oci(
    store: &Store,
    exports: &[Export],
    out: &mut dyn Write,
    reporter: &dyn Reporter,
) -> Result<()> {
    write_archive(store, exports, None, out, reporter)
}

/// Writes a Docker archive, which is an OCI archive, too. Indexes cannot be in it.
///
/// # Errors
///
/// [`Error::Unsupported`] for an index, and what the store and the writer give.
pub fn write_docker(
    store: &Store,
    exports: &[Export],
    out: &mut dyn Write,
    reporter: &dyn Reporter,
) -> Result<()> {
    let mut images = Vec::new();
    for export in exports {
        let bytes = store.blob_bytes(&export.descriptor.digest, MANIFEST_BYTES)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, &export.descriptor.media_type)? else {
            return Err(Error::Unsupported { what: "an index in a docker archive".to_owned() });
        };
        images.push(DockerImage {
            config: blob_path(&manifest.config.digest),
            tags: Some(export.names.iter().map(Reference::familiar).collect()),
            layers: Some(manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect()),
        });
    }
    write_archive(store, exports, Some(to_json(&images)), out, reporter)
}

fn write_archive(
    store: &Store,
    exports: &[Export],
    docker: Option<Vec<u8>>,
    out: &mut dyn Write,
    reporter: &dyn Reporter,
) -> Result<()> {
    let action = |error| Error::io("cannot write the archive", error);
    let mut files = TarFiles { out };
    for directory in ["blobs/", "blobs/sha256/"] {
        files.header(directory, b'5', 0).map_err(action)?;
    }
    let entries = exports.iter().flat_map(Export::entries).collect();
    write_layout(store, exports, entries, &mut files, reporter)?;
    if let Some(manifest) = docker {
        files.put(DOCKER_MANIFEST, manifest.len() as u64, &mut manifest.as_slice()).map_err(action)?;
    }
    // Two blocks of zeros end an archive.
    files.out.write_all(&[0; 1024]).and_then(|()| files.out.flush()).map_err(action)
}

struct TarFiles<'w> {
    out: &'w mut dyn Write,
}

impl TarFiles<'_> {
    fn header(&mut self, path: &str, kind: u8, size: u64) -> io::Result<()> {
        let metadata = Metadata::root_owned(if kind == b'5' { 0o755 } else { 0o644 });
        let fields =
            Fields { path: path.as_bytes(), kind, link: b"", size, device: (0, 0), metadata: &metadata };
        self.out.write_all(&header_bytes(&fields, 0))
    }
}

impl Files for TarFiles<'_> {
    fn has(&mut self, _: &str, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn put(&mut self, path: &str, size: u64, data: &mut dyn Read) -> io::Result<()> {
        self.header(path, b'0', size)?;
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        loop {
            let count = data.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            done += count as u64;
            self.out.write_all(&chunk[..count])?;
        }
        if done != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.out.write_all(padding(size))
    }
}
