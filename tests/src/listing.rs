//! File systems as sorted lists of entries, to be compared: from the layers of an image or from a directory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::oci::{self, Image};

/// What an entry is, with what belongs to its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file: size and SHA-256 of its contents.
    File(u64, String),
    /// A symbolic link and its target.
    Symlink(String),
    /// A fifo.
    Fifo,
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
}

/// One name in a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Extended attributes, sorted.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first name, in sorted order, of the same file, where it has several.
    pub same_as: Option<String>,
}

/// A whole file system: path without a leading slash -> entry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Listing(pub BTreeMap<String, Entry>);

/// Whether times of the last change count in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// They have to be equal.
    Compared,
    /// They may differ: the files were written by steps that ran at different times.
    Left,
}

/// A file system under construction: several names may share a file.
#[derive(Default)]
struct Builder {
    names: BTreeMap<String, usize>,
    files: Vec<Entry>,
}

impl Builder {
    fn add(&mut self, path: String, entry: Entry) {
        self.names.insert(path, self.files.len());
        self.files.push(entry);
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.names.retain(|name, _| name != path && !name.starts_with(&below));
    }

    fn remove_below(&mut self, directory: &str) {
        let below = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        self.names.retain(|name, _| name == directory || !name.starts_with(&below));
    }

    fn finish(self) -> Listing {
        let mut first: BTreeMap<usize, String> = BTreeMap::new();
        let mut listing = BTreeMap::new();
        for (name, file) in self.names {
            let mut entry = self.files[file].clone();
            if entry.kind != Kind::Directory {
                entry.same_as = first.get(&file).cloned();
                first.entry(file).or_insert_with(|| name.clone());
            }
            listing.insert(name, entry);
        }
        Listing(listing)
    }
}

impl Listing {
    /// The file system of an image: its layers, one upon the other, by the rules of the OCI specification.
    pub fn of_image(image: &Image) -> Result<Self> {
        let mut builder = Builder::default();
        for layer in image.layers()? {
            apply(&mut builder, &layer)?;
        }
        Ok(builder.finish())
    }

    /// What one layer archive holds, whiteouts shown as the names they have.
    pub fn of_layer(tar: &[u8]) -> Result<Vec<String>> {
        let mut archive = tar::Archive::new(tar);
        archive.entries()?.map(|entry| Ok(name(&entry?.path_bytes()))).collect()
    }

    /// The file system below a directory of the host. Contents below `/proc`, `/sys` and `/dev` are left out.
    pub fn of_directory(root: &Path) -> Result<Self> {
        let mut builder = Builder::default();
        let mut inodes = BTreeMap::new();
        walk(root, "", &mut builder, &mut inodes)?;
        Ok(builder.finish())
    }

    /// The differences to another file system, one line each; empty if they are the same.
    pub fn differences(&self, other: &Self, times: Times) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, mine) in &self.0 {
            match other.0.get(path) {
                None => lines.push(format!("- {path} {mine}")),
                Some(theirs) if !mine.same(theirs, times) => {
                    lines.push(format!("~ {path} {mine}\n  {path} {theirs}"));
                }
                Some(_) => {}
            }
        }
        let added = other.0.iter().filter(|(path, _)| !self.0.contains_key(*path));
        lines.extend(added.map(|(path, theirs)| format!("+ {path} {theirs}")));
        lines
    }

    /// Fails with the differences if there are any.
    pub fn expect_same(&self, other: &Self, times: Times, what: &str) -> Result<()> {
        let lines = self.differences(other, times);
        if lines.is_empty() {
            return Ok(());
        }
        const SHOWN: usize = 40;
        let more = lines.len().saturating_sub(SHOWN);
        bail!(
            "{what}: {} differences\n{}\n[{more} more]",
            lines.len(),
            lines[..lines.len() - more].join("\n")
        )
    }

    /// One line per entry without times, as the recorded listings have it.
    pub fn recorded(&self) -> String {
        let line =
            |(path, entry): (&String, &Entry)| format!("{path} {}\n", Entry { mtime: 0, ..entry.clone() });
        self.0.iter().map(line).collect()
    }

    /// Without the entries at and below some paths.
    #[must_use]
    pub fn without(mut self, paths: &[&str]) -> Self {
        self.0.retain(|name, _| {
            !paths.iter().any(|path| name == path || name.starts_with(&format!("{path}/")))
        });
        self
    }
}

impl Entry {
    fn same(&self, other: &Self, times: Times) -> bool {
        let timed = |entry: &Self| Self { mtime: 0, ..entry.clone() };
        if times == Times::Left { timed(self) == timed(other) } else { self == other }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:o} {}:{} {:?} @{}", self.mode, self.uid, self.gid, self.kind, self.mtime)?;
        for (name, value) in &self.xattrs {
            write!(f, " {name}={}", value.escape_ascii())?;
        }
        self.same_as.iter().try_for_each(|name| write!(f, " same as {name}"))
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(path, entry)| writeln!(f, "{path} {entry}"))
    }
}

/// A path of an archive in the form of a listing.
fn name(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let text = text.trim_start_matches("./").trim_matches('/');
    if text == "." { String::new() } else { text.to_owned() }
}

/// Applies one layer: removals concern the layers below only, so they come first.
fn apply(builder: &mut Builder, tar: &[u8]) -> Result<()> {
    const WHITEOUT: &str = ".wh.";
    const OPAQUE: &str = ".wh..wh..opq";
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let path = name(&entry?.path_bytes());
        let (parent, base) = path.rsplit_once('/').unwrap_or(("", &path));
        if base == OPAQUE {
            builder.remove_below(parent);
        } else if let Some(gone) = base.strip_prefix(WHITEOUT) {
            builder.remove(&if parent.is_empty() { gone.to_owned() } else { format!("{parent}/{gone}") });
        }
    }
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = name(&entry.path_bytes());
        if path.rsplit('/').next().is_some_and(|base| base.starts_with(WHITEOUT)) || path.is_empty() {
            continue;
        }
        add(builder, path, &mut entry)?;
    }
    Ok(())
}

fn add(builder: &mut Builder, path: String, entry: &mut tar::Entry<'_, &[u8]>) -> Result<()> {
    use tar::EntryType;
    let kind = entry.header().entry_type();
    let target = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
    if kind == EntryType::Link {
        let target = name(target.context("a hard link without a target")?.as_bytes());
        let file =
            *builder.names.get(&target).with_context(|| format!("hard link {path} to nothing: {target}"))?;
        builder.names.insert(path, file);
        return Ok(());
    }
    let xattrs = xattrs_of(entry)?;
    let header = entry.header().clone();
    let devices =
        || Ok::<_, anyhow::Error>((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)));
    let kind = match kind {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(target.context("a symbolic link without a target")?),
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => devices().map(|(major, minor)| Kind::Character(major, minor))?,
        EntryType::Block => devices().map(|(major, minor)| Kind::Block(major, minor))?,
        _ => {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            Kind::File(contents.len() as u64, oci::digest(&contents))
        }
    };
    // A directory over a directory keeps what is in it; anything else takes the place with all below.
    let directory_below =
        builder.names.get(&path).is_some_and(|&file| builder.files[file].kind == Kind::Directory);
    if !(directory_below && kind == Kind::Directory) {
        builder.remove(&path);
    }
    let entry = Entry {
        kind,
        mode: header.mode()? & 0o7777,
        uid: header.uid()?,
        gid: header.gid()?,
        mtime: i64::try_from(header.mtime()?)?,
        xattrs,
        same_as: None,
    };
    builder.add(path, entry);
    Ok(())
}

fn xattrs_of(entry: &mut tar::Entry<'_, &[u8]>) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut xattrs = BTreeMap::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(name) = extension.key()?.strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        }
    }
    Ok(xattrs)
}

fn walk(
    at: &Path,
    name: &str,
    builder: &mut Builder,
    inodes: &mut BTreeMap<(u64, u64), usize>,
) -> Result<()> {
    let mut below: Vec<_> = fs::read_dir(at)?.collect::<std::io::Result<_>>()?;
    below.sort_by_key(fs::DirEntry::file_name);
    for entry in below {
        let file = String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned();
        let path = if name.is_empty() { file } else { format!("{name}/{file}") };
        let meta = entry.path().symlink_metadata()?;
        let shared = meta.nlink() > 1 && !meta.is_dir();
        if let Some(&known) = inodes.get(&(meta.dev(), meta.ino())).filter(|_| shared) {
            builder.names.insert(path, known);
            continue;
        }
        inodes.insert((meta.dev(), meta.ino()), builder.files.len());
        builder.add(path.clone(), entry_of(&entry.path(), &meta)?);
        if meta.is_dir() && !["proc", "sys", "dev"].contains(&path.as_str()) {
            walk(&entry.path(), &path, builder, inodes)?;
        }
    }
    Ok(())
}

fn entry_of(path: &Path, meta: &fs::Metadata) -> Result<Entry> {
    let kind = meta.file_type();
    let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.to_string_lossy().into_owned())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_char_device() {
        Kind::Character(device().0, device().1)
    } else if kind.is_block_device() {
        Kind::Block(device().0, device().1)
    } else {
        let mut hash = Sha256::new();
        let size = std::io::copy(&mut fs::File::open(path)?, &mut HashWriter(&mut hash))?;
        Kind::File(size, format!("sha256:{}", hex(hash.finalize().as_slice())))
    };
    Ok(Entry {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid().into(),
        gid: meta.gid().into(),
        mtime: meta.mtime(),
        xattrs: host_xattrs(path)?,
        same_as: None,
    })
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn host_xattrs(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0u8; 1 << 16];
    let size = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(size) => size,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error).with_context(|| format!("xattrs of {}", path.display())),
    };
    let mut xattrs = BTreeMap::new();
    for name in names[..size].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0u8; 1 << 16];
        let size = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..])?;
        value.truncate(size);
        xattrs.insert(name, value);
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bases::Archive;

    fn layer(build: impl Fn(&mut Archive) -> Result<()>) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir()?;
        let at = directory.path().join("layer.tar");
        let mut archive = Archive::create(&at)?;
        build(&mut archive)?;
        archive.finish()?;
        Ok(fs::read(at)?)
    }

    fn names(layers: &[Vec<u8>]) -> Result<Vec<String>> {
        let mut builder = Builder::default();
        layers.iter().try_for_each(|layer| apply(&mut builder, layer))?;
        Ok(builder.finish().0.into_keys().collect())
    }

    #[test]
    fn whiteouts_concern_the_layers_below_only() -> Result<()> {
        let lower = layer(|a| {
            a.directory("d", 0o755)?;
            a.file("d/old", 0o644, b"1")?;
            a.file("gone", 0o644, b"1")
        })?;
        let upper = layer(|a| {
            a.file("d/new", 0o644, b"2")?;
            a.file("d/.wh..wh..opq", 0o644, b"")?;
            a.file(".wh.gone", 0o644, b"")
        })?;
        assert_eq!(names(&[lower, upper])?, ["d", "d/new"]);
        Ok(())
    }

    #[test]
    fn names_of_one_file_are_told_apart_from_copies() -> Result<()> {
        let linked = layer(|a| {
            a.file("a", 0o644, b"1")?;
            a.link("b", "a", tar::EntryType::Link)
        })?;
        let copied = layer(|a| {
            a.file("a", 0o644, b"1")?;
            a.file("b", 0o644, b"1")
        })?;
        let listing = |tar: &Vec<u8>| -> Result<Listing> {
            let mut builder = Builder::default();
            apply(&mut builder, tar)?;
            Ok(builder.finish())
        };
        assert_eq!(listing(&linked)?.differences(&listing(&copied)?, Times::Left).len(), 1);
        Ok(())
    }
}
