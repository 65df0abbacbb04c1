//! The `.git` of `--keep-git-dir`: a repository with one commit and no history.
//!
//! It is what a shallow clone with a detached head leaves: the objects of the commit, the reference by which it was
//! asked for, an index, so that `git status` and `git describe` work. The pack is written here, in the order of the
//! ids and without deltas, because servers pack the same objects in different ways; so the same commit gives the same
//! bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};

use cooper_image::store::{Batch, Store};
use cooper_vfs::Timestamp;
use cooper_vfs::content::ContentStore;
use cooper_vfs::path;
use cooper_vfs::tree::{Entry, Metadata, NodeKind, TreeBuilder};

use super::GitAddress;
use super::checkout::{commit_parts, entries};
use super::connection::Found;
use super::object::{EntryKind, Hasher, Kind, ObjectId, tag_of_tag};
use super::pack::Pack;
use crate::context::ENTRIES;
use crate::copy::store_failed;
use crate::error::{Error, Fault, Result};

/// Makes the entry of `.git`.
pub(super) fn make(
    store: &Store,
    batch: &Batch<'_>,
    address: &GitAddress,
    objects: &Pack,
    found: &Found,
) -> Result<Entry> {
    let commit = objects.expect(&found.id, Kind::Commit)?;
    let (root, mtime) = commit_parts(&commit)?;
    let mut listing = Listing { objects, ids: BTreeSet::from([found.id]), files: Vec::new() };
    listing.tag(found.tag)?;
    listing.tree(&root, b"")?;
    let scratch = tempfile::tempfile_in(store.path());
    let scratch = scratch.map_err(|error| Error::host("cannot keep what is fetched", error))?;
    let (pack, index, name) = listing.pack(scratch)?;
    let text = |text: String| Contents::new(text.into_bytes());
    let mut files = vec![
        ("HEAD".to_owned(), text(format!("{}\n", found.id))),
        ("config".to_owned(), text(config(address))),
        ("description".to_owned(), text("Unnamed repository.\n".to_owned())),
        ("index".to_owned(), Contents::new(listing.index()?)),
        ("shallow".to_owned(), text(format!("{}\n", found.id))),
        (format!("objects/pack/pack-{name}.pack"), Contents::File(pack)),
        (format!("objects/pack/pack-{name}.idx"), Contents::new(index)),
    ];
    if let Some(reference) = found.name.as_deref().filter(|name| is_safe_reference(name)) {
        files.push((reference.to_owned(), text(format!("{}\n", found.tag.unwrap_or(found.id)))));
    }
    write(batch, files, mtime)
}

/// What a file of `.git` holds.
enum Contents {
    Bytes(io::Cursor<Vec<u8>>),
    File(File),
}

impl Contents {
    fn new(bytes: Vec<u8>) -> Self {
        Self::Bytes(io::Cursor::new(bytes))
    }

    fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::File(file) => file,
        }
    }
}

fn write(batch: &Batch<'_>, files: Vec<(String, Contents)>, mtime: Timestamp) -> Result<Entry> {
    let mut builder = TreeBuilder::new(batch);
    let mut pack = batch.pack().map_err(store_failed)?;
    let metadata = |mode| Metadata { mtime, ..Metadata::root_owned(mode) };
    for directory in
        ["branches", "info", "objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"]
    {
        builder.put_directory(directory.as_bytes(), metadata(0o755)).map_err(store_failed)?;
    }
    for (name, mut contents) in files {
        let mut parents = Vec::new();
        for component in
            path::split(name.as_bytes()).map(|(parent, _)| path::components(parent)).into_iter().flatten()
        {
            parents = path::join(&parents, component);
            if builder.get(&parents).map_err(store_failed)?.is_none() {
                builder.put_directory(&parents, metadata(0o755)).map_err(store_failed)?;
            }
        }
        // Packs are read-only, as git writes them.
        let mode = if name.starts_with("objects/pack/") { 0o444 } else { 0o644 };
        let (content, size) = pack.add(contents.reader()).map_err(store_failed)?;
        let own = name.rsplit('/').next().unwrap_or_default().as_bytes().to_vec();
        let entry = Entry { name: own, metadata: metadata(mode), kind: NodeKind::File { content, size } };
        builder.put(name.as_bytes(), entry).map_err(store_failed)?;
    }
    pack.finish().map_err(store_failed)?;
    let tree = builder.finish().map_err(store_failed)?;
    let kind = NodeKind::Directory { exact: tree.exact, content: tree.content };
    Ok(Entry { name: b".git".to_vec(), metadata: metadata(0o755), kind })
}

fn config(address: &GitAddress) -> String {
    let quoted: String =
        address.public_remote().chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
    format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\
         [remote \"origin\"]\n\turl = {quoted}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    )
}

/// A server may name a reference what it likes; here it is a path.
fn is_safe_reference(name: &str) -> bool {
    (name.starts_with("refs/heads/") || name.starts_with("refs/tags/"))
        && name
            .split('/')
            .all(|part| path::is_name(part.as_bytes()) && !part.starts_with('.') && !part.ends_with(".lock"))
}

/// The objects of a commit and the files they make.
struct Listing<'a> {
    objects: &'a Pack,
    ids: BTreeSet<ObjectId>,
    /// Path, mode and id.
    files: Vec<(Vec<u8>, u32, ObjectId)>,
}

impl Listing<'_> {
    /// A tag and what it leads over.
    fn tag(&mut self, tag: Option<ObjectId>) -> Result<()> {
        let mut next = tag;
        while let Some(id) = next.take() {
            if !self.ids.insert(id) {
                break;
            }
            let bytes = self.objects.expect(&id, Kind::Tag)?;
            next = tag_of_tag(&bytes);
        }
        Ok(())
    }

    fn tree(&mut self, id: &ObjectId, relative: &[u8]) -> Result<()> {
        self.ids.insert(*id);
        let bytes = self.objects.expect(id, Kind::Tree)?;
        for entry in entries(&bytes)? {
            let (child, id) = (path::join(relative, entry.name), entry.id);
            if entry.kind == EntryKind::Directory {
                self.tree(&id, &child)?;
                continue;
            }
            if self.files.len() >= ENTRIES {
                return Err(Error::new(Fault::Limit, format!("it has more than {ENTRIES} files")));
            }
            if entry.kind != EntryKind::Submodule {
                self.ids.insert(id);
            }
            self.files.push((child, entry.kind.mode(), id));
        }
        Ok(())
    }

    /// A pack of all objects, its index, and their name.
    fn pack(&mut self, scratch: File) -> Result<(File, Vec<u8>, String)> {
        let count = u32::try_from(self.ids.len());
        let count = count.map_err(|_| Error::new(Fault::Limit, "it has too many objects"))?;
        let mut pack = Hashed { file: BufWriter::new(scratch), hasher: Hasher::new(), length: 0 };
        pack.write(&[b"PACK".as_slice(), &2u32.to_be_bytes(), &count.to_be_bytes()].concat())?;
        let mut placed = Vec::new();
        for id in &self.ids {
            let (kind, bytes) = self
                .objects
                .find(id)?
                .ok_or_else(|| Error::build(format!("the repository does not give the object `{id}`")))?;
            let mut entry = entry_header(kind, bytes.len());
            let mut encoder = flate2::write::ZlibEncoder::new(&mut entry, flate2::Compression::default());
            encoder.write_all(&bytes).and_then(|()| encoder.finish().map(drop)).map_err(store_failed)?;
            placed.push((*id, pack.length, crc32(&entry)));
            pack.write(&entry)?;
        }
        let (pack, checksum) = pack.finish()?;
        let mut index = vec![0xff, b't', b'O', b'c', 0, 0, 0, 2];
        for first in 0..=255u8 {
            let below = placed.iter().filter(|(id, ..)| id.0[0] <= first).count();
            index.extend((below as u32).to_be_bytes());
        }
        placed.iter().for_each(|(id, ..)| index.extend(&id.0));
        placed.iter().for_each(|(_, _, crc)| index.extend(crc.to_be_bytes()));
        let mut far = Vec::new();
        for (_, offset, _) in &placed {
            match u32::try_from(*offset) {
                Ok(near) if near < 1 << 31 => index.extend(near.to_be_bytes()),
                _ => {
                    index.extend(((far.len() / 8) as u32 | 1 << 31).to_be_bytes());
                    far.extend(offset.to_be_bytes());
                }
            }
        }
        index.extend(far);
        index.extend(&checksum.0);
        let own = sha1(&index)?;
        index.extend(&own.0);
        Ok((pack, index, checksum.to_string()))
    }

    /// Version 2 of git's index, with no status of files: git looks at them once.
    fn index(&mut self) -> Result<Vec<u8>> {
        self.files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut index =
            [b"DIRC".as_slice(), &2u32.to_be_bytes(), &(self.files.len() as u32).to_be_bytes()].concat();
        for (path, mode, id) in &self.files {
            let start = index.len();
            index.extend([0; 24]);
            index.extend(mode.to_be_bytes());
            index.extend([0; 12]);
            index.extend(&id.0);
            index.extend((path.len().min(0xfff) as u16).to_be_bytes());
            index.extend(path);
            // One to eight zeros to the next multiple of eight.
            let length = index.len() - start;
            index.resize(start + (length / 8 + 1) * 8, 0);
        }
        let own = sha1(&index)?;
        index.extend(&own.0);
        Ok(index)
    }
}

/// A file that ends in the hash of what is before it.
struct Hashed {
    file: BufWriter<File>,
    hasher: Hasher,
    length: u64,
}

impl Hashed {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes).map_err(store_failed)
    }

    fn finish(mut self) -> Result<(File, ObjectId)> {
        let own = self.hasher.finish()?;
        self.file.write_all(&own.0).map_err(store_failed)?;
        let mut file = self.file.into_inner().map_err(|error| store_failed(error.into_error()))?;
        file.rewind().map_err(store_failed)?;
        Ok((file, own))
    }
}

/// Kind and size of an object in a pack: three bits and four, then seven by seven.
fn entry_header(kind: Kind, mut size: usize) -> Vec<u8> {
    let number: u8 = match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    };
    let mut byte = number << 4 | (size & 15) as u8;
    size >>= 4;
    let mut header = Vec::new();
    while size > 0 {
        header.push(byte | 0x80);
        byte = (size & 0x7f) as u8;
        size >>= 7;
    }
    header.push(byte);
    header
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn sha1(bytes: &[u8]) -> Result<ObjectId> {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}
