//! Packs: where file contents live.
//!
//! A pack is an immutable file, one per ingested layer or finished step. A content of 4096 bytes or more starts on
//! a page and has zeros behind it up to the page's end, so that it can be mapped; smaller ones lie one behind the other.
//! A list of the contents and a checksum of that list end the file, so the index can be made again from the packs.
//! A spool that a step filled becomes a pack of its own by a rename: its bytes are never copied.
//!
//! What must hold: a pack has its name before the index knows its contents, and is never written again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use cooper_vfs::{ContentId, PackWriter, SpoolFile, SpoolOwner};
use rusqlite::{OptionalExtension, params};

use super::lease::random_name;
use super::located::blob_of_pack;
use super::write::Disk;
use super::{Store, lock};
use crate::error::{Error, Result};

/// Directory of the packs.
pub(crate) const DIRECTORY: &str = "packs";
/// Contents at least this long start on a page: the page itself.
pub const PAGE: u64 = 4096;
/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;
/// Bytes that are read from a content at a time; BLAKE3 is fastest with much at once.
const CHUNK: usize = 256 << 10;
/// Bound on the entries of a pack's list when it is read back.
const MOST_ENTRIES: u64 = 16 << 20;
const ENTRY: usize = 48;
const TRAILER: usize = 48;
const MAGIC: &[u8; 8] = b"cooperp1";

/// Where a content lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) pack: i64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    id: ContentId,
    offset: u64,
    length: u64,
}

/// A pack being made, and the spools that became packs with it.
#[derive(Debug)]
pub struct PackBuilder<'s> {
    store: &'s Store,
    file: Option<(File, String)>,
    /// Bytes that are not yet written; they belong at `written`.
    buffer: Vec<u8>,
    written: u64,
    contents: Vec<Listed>,
    known: HashMap<ContentId, u64>,
    adopted: Vec<Adopted>,
    chunk: Vec<u8>,
    /// Only ids are wanted.
    discards: bool,
}

#[derive(Debug)]
struct Adopted {
    owner: Box<StoreSpool>,
    file: Arc<File>,
    content: Listed,
}

impl<'s> PackBuilder<'s> {
    pub(crate) fn new(store: &'s Store) -> Self {
        Self {
            store,
            file: None,
            buffer: Vec::new(),
            written: 0,
            contents: Vec::new(),
            known: HashMap::new(),
            adopted: Vec::new(),
            chunk: Vec::new(),
            discards: false,
        }
    }

    /// One that computes ids and keeps nothing; it cannot be published.
    pub(crate) fn discarding(store: &'s Store) -> Self {
        let mut pack = Self::new(store);
        pack.discards = true;
        pack
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.discards {
            self.written += bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn pad_to_page(&mut self) -> io::Result<()> {
        let padding = self.position().next_multiple_of(PAGE) - self.position();
        self.put(&[0; PAGE as usize][..padding as usize])
    }

    fn flush(&mut self) -> io::Result<()> {
        let disk = &self.store.disk;
        if self.file.is_none() {
            let path = self.store.lease.new_path();
            self.file = Some((disk.create(&path)?, path));
        }
        if let Some((file, _)) = &self.file {
            disk.write_at(file, &self.buffer, self.written)?;
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Forgets everything behind `position`: a content that turned out to be there already.
    fn rewind(&mut self, position: u64) {
        match position.checked_sub(self.written) {
            Some(keep) => self.buffer.truncate(keep as usize),
            None => {
                self.buffer.clear();
                self.written = position;
            }
        }
    }

    fn list(&mut self, id: ContentId, offset: u64, length: u64) {
        self.known.insert(id, length);
        self.contents.push(Listed { id, offset, length });
    }

    fn add_small(&mut self, bytes: &[u8]) -> io::Result<ContentId> {
        let id = ContentId(*blake3::hash(bytes).as_bytes());
        if !self.known.contains_key(&id) {
            let offset = self.position();
            self.put(bytes)?;
            self.list(id, offset, bytes.len() as u64);
        }
        Ok(id)
    }

    fn add_large(
        &mut self,
        chunk: &mut [u8],
        mut filled: usize,
        data: &mut dyn Read,
    ) -> io::Result<(ContentId, u64)> {
        let before = self.position();
        self.pad_to_page()?;
        let offset = self.position();
        let mut hasher = blake3::Hasher::new();
        let mut length = 0;
        while filled > 0 {
            hasher.update(&chunk[..filled]);
            self.put(&chunk[..filled])?;
            length += filled as u64;
            filled = fill(data, chunk)?;
        }
        let id = ContentId(*hasher.finalize().as_bytes());
        if self.known.contains_key(&id) {
            self.rewind(before);
        } else {
            self.pad_to_page()?;
            self.list(id, offset, length);
        }
        Ok((id, length))
    }

    /// Adds everything that `data` gives; returns its id and length.
    ///
    /// # Errors
    ///
    /// What `data` gives, and what the disk does.
    pub fn add_from(&mut self, data: &mut dyn Read) -> io::Result<(ContentId, u64)> {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK, 0);
        let result = self.add_chunked(&mut chunk, data);
        self.chunk = chunk;
        result
    }

    fn add_chunked(&mut self, chunk: &mut [u8], data: &mut dyn Read) -> io::Result<(ContentId, u64)> {
        let filled = fill(data, chunk)?;
        if (filled as u64) < PAGE {
            let id = self.add_small(&chunk[..filled])?;
            return Ok((id, filled as u64));
        }
        self.add_large(chunk, filled, data)
    }

    /// Makes everything added readable through the store.
    ///
    /// # Errors
    ///
    /// What the disk and the index give; nothing is readable then.
    pub fn publish(mut self) -> Result<()> {
        let mut packs = Vec::new();
        let failed = |error| Error::io("cannot write a pack", error);
        if self.discards {
            return Err(Error::layer("a pack that keeps nothing was published"));
        }
        if !self.contents.is_empty() {
            self.pad_to_page().and_then(|()| self.flush()).map_err(failed)?;
            let contents = std::mem::take(&mut self.contents);
            if let Some((file, path)) = self.file.take() {
                packs.push(
                    publish_file(&self.store.disk, &file, &path, self.written, contents).map_err(failed)?,
                );
            }
        }
        for adopted in std::mem::take(&mut self.adopted) {
            let Adopted { mut owner, file, content } = adopted;
            let end = content.length.next_multiple_of(PAGE);
            let disk = &self.store.disk;
            disk.set_length(&file, content.length).map_err(failed)?;
            let pack = publish_file(disk, &file, &owner.path, end, vec![content]).map_err(failed)?;
            owner.adopted = true;
            packs.push(pack);
        }
        self.store.register_packs(&packs)
    }
}

impl PackWriter for PackBuilder<'_> {
    fn add(&mut self, data: &mut dyn Read) -> io::Result<(ContentId, u64)> {
        self.add_from(data)
    }

    fn add_bytes(&mut self, data: &[u8]) -> io::Result<ContentId> {
        if (data.len() as u64) < PAGE {
            return self.add_small(data);
        }
        self.add_from(&mut &*data).map(|(id, _)| id)
    }

    fn adopt(&mut self, spool: SpoolFile, id: ContentId, length: u64) -> io::Result<()> {
        let SpoolFile { file, owner } = spool;
        let owner = owner.map(|owner| -> Box<dyn std::any::Any> { owner });
        match owner.map(|owner| owner.downcast::<StoreSpool>()) {
            Some(Ok(owner)) if owner.root == self.store.disk.root() => {
                if self.known.insert(id, length).is_none() {
                    self.adopted.push(Adopted { owner, file, content: Listed { id, offset: 0, length } });
                }
                Ok(())
            }
            // A spool of another store: its bytes are copied.
            _ => {
                let mut reader = FileReader { file: &file, offset: 0, end: length };
                match self.add_from(&mut reader)? {
                    (found, count) if found == id && count == length => Ok(()),
                    _ => Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a spool file does not hold what was said",
                    )),
                }
            }
        }
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.publish().map_err(Error::into_io)
    }
}

impl Drop for PackBuilder<'_> {
    fn drop(&mut self) {
        if let Some((_, path)) = self.file.take() {
            // What cannot be removed now goes with the lease.
            let _ = self.store.disk.remove(&path);
        }
    }
}

struct FileReader<'f> {
    file: &'f File,
    offset: u64,
    end: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.end - self.offset).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Reads until the buffer is full or the data ends.
fn fill(data: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match data.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A pack that has its name and that the index does not know yet.
#[derive(Debug)]
pub(crate) struct Published {
    name: String,
    bytes: u64,
    contents: Vec<Listed>,
}

fn publish_file(
    disk: &Disk,
    file: &File,
    path: &str,
    end: u64,
    contents: Vec<Listed>,
) -> io::Result<Published> {
    let mut footer = Vec::with_capacity(contents.len() * ENTRY + TRAILER);
    for content in &contents {
        footer.extend(content.id.0);
        footer.extend(content.offset.to_le_bytes());
        footer.extend(content.length.to_le_bytes());
    }
    let checksum = blake3::hash(&footer);
    footer.extend((contents.len() as u64).to_le_bytes());
    footer.extend(checksum.as_bytes());
    footer.extend(MAGIC);
    let bytes = end + footer.len() as u64;
    // Cuts off what a forgotten content left, and makes the page before the list one of zeros.
    disk.set_length(file, bytes)?;
    disk.write_at(file, &footer, end)?;
    let name = random_name()?;
    disk.publish(file, path, &format!("{DIRECTORY}/{name}"))?;
    Ok(Published { name, bytes, contents })
}

/// Reads the list at a pack's end.
pub(crate) fn read_list(disk: &Disk, name: &str) -> io::Result<Published> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a pack's list of contents is damaged");
    let file = disk.open(&format!("{DIRECTORY}/{name}"))?;
    let bytes = file.metadata()?.len();
    let mut trailer = [0; TRAILER];
    let end = bytes.checked_sub(TRAILER as u64).ok_or_else(damaged)?;
    file.read_exact_at(&mut trailer, end)?;
    let (count, rest) = trailer.split_at(8);
    let (checksum, magic) = rest.split_at(32);
    let count = u64_of(count);
    let start = count.checked_mul(ENTRY as u64).and_then(|length| end.checked_sub(length));
    let (Some(start), true, true) = (start, magic == MAGIC, count <= MOST_ENTRIES) else {
        return Err(damaged());
    };
    let mut list = vec![0; (end - start) as usize];
    file.read_exact_at(&mut list, start)?;
    if blake3::hash(&list).as_bytes() != checksum {
        return Err(damaged());
    }
    let listed = |entry: &[u8]| {
        let mut id = [0; 32];
        id.copy_from_slice(&entry[..32]);
        Listed { id: ContentId(id), offset: u64_of(&entry[32..40]), length: u64_of(&entry[40..]) }
    };
    Ok(Published { name: name.to_owned(), bytes, contents: list.chunks_exact(ENTRY).map(listed).collect() })
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The store's side of a spool file.
#[derive(Debug)]
pub(crate) struct StoreSpool {
    disk: Disk,
    root: std::path::PathBuf,
    path: String,
    adopted: bool,
}

impl SpoolOwner for StoreSpool {}

impl Drop for StoreSpool {
    fn drop(&mut self) {
        if !self.adopted {
            // What cannot be removed now goes with the lease.
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// Packs that are open, and where contents were found.
#[derive(Debug, Default)]
pub(crate) struct OpenPacks {
    files: Mutex<HashMap<i64, Arc<File>>>,
    places: Mutex<HashMap<ContentId, Place>>,
}

/// Open pack files that are kept; those in use stay open anyway.
const MOST_OPEN: usize = 256;
/// Places that are remembered.
const MOST_PLACES: usize = 256 << 10;

impl Store {
    pub(crate) fn new_spool(&self) -> io::Result<SpoolFile> {
        let path = self.lease.new_path();
        let file = Arc::new(self.disk.create(&path)?);
        let root = self.disk.root().to_owned();
        let owner = StoreSpool { disk: self.disk.clone(), root, path, adopted: false };
        Ok(SpoolFile { file, owner: Some(Box::new(owner)) })
    }

    /// Copies everything that `data` gives into a spool file.
    pub(crate) fn fill_spool(&self, spool: &SpoolFile, data: &mut dyn Read) -> io::Result<u64> {
        let mut chunk = vec![0; CHUNK];
        let mut length = 0;
        loop {
            let count = fill(data, &mut chunk)?;
            if count == 0 {
                return Ok(length);
            }
            self.disk.write_at(&spool.file, &chunk[..count], length)?;
            length += count as u64;
        }
    }

    pub(crate) fn register_packs(&self, packs: &[Published]) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        self.index.change("cannot record a pack", |transaction| {
            let mut pack_row = transaction
                .prepare_cached("INSERT OR REPLACE INTO pack (name, lease, bytes) VALUES (?, ?, ?)")?;
            let mut content_row = transaction.prepare_cached(
                "INSERT OR IGNORE INTO content (id, pack, offset, length) VALUES (?, ?, ?, ?)",
            )?;
            for pack in packs {
                let pack_id = pack_row.insert(params![pack.name, self.lease.name(), sql(pack.bytes)])?;
                let mut contents: Vec<&Listed> = pack.contents.iter().collect();
                // In the order of the table, which is many times faster.
                contents.sort_by_key(|content| content.id);
                for content in contents {
                    content_row.execute(params![
                        content.id.0,
                        pack_id,
                        sql(content.offset),
                        sql(content.length)
                    ])?;
                }
            }
            Ok(())
        })
    }

    /// Records the packs that a lost index knew.
    pub(crate) fn record_packs_again(&self) -> Result<()> {
        let files = self.disk.list(DIRECTORY).map_err(|error| self.disk.failed("list", DIRECTORY, error))?;
        let mut packs = Vec::new();
        for (name, _) in files {
            match read_list(&self.disk, &name) {
                Ok(pack) => packs.push(pack),
                Err(error) => tracing::warn!(pack = name, %error, "a pack cannot be read"),
            }
        }
        self.register_packs(&packs)
    }

    /// Finds a content and opens its pack. One that lies in a layer's blob or in a file of the host is packed now.
    pub(crate) fn find_content(&self, id: &ContentId) -> Result<Option<(Arc<File>, Place)>> {
        if let Some(found) = self.find_packed(id)? {
            return Ok(Some(found));
        }
        for place in self.places_of(id)? {
            if let Some(blob) = self.pack_name(place.pack)?.as_deref().and_then(blob_of_pack) {
                self.unpack_from_blob(place.pack, &blob, id)?;
                return self.find_packed(id);
            }
        }
        if self.pack_elsewhere(id)? { self.find_packed(id) } else { Ok(None) }
    }

    /// Finds a content that is in a pack.
    pub(crate) fn find_packed(&self, id: &ContentId) -> Result<Option<(Arc<File>, Place)>> {
        let remembered = lock(&self.packs.places).get(id).copied();
        if let Some(place) = remembered
            && let Some(file) = self.open_pack(place.pack)?
        {
            return Ok(Some((file, place)));
        }
        for place in self.places_of(id)? {
            if let Some(file) = self.open_pack(place.pack)? {
                let mut remembered = lock(&self.packs.places);
                if remembered.len() >= MOST_PLACES {
                    remembered.clear();
                }
                remembered.insert(*id, place);
                return Ok(Some((file, place)));
            }
        }
        Ok(None)
    }

    fn places_of(&self, id: &ContentId) -> Result<Vec<Place>> {
        self.index.read("cannot look a content up", |connection| {
            let mut query = connection
                .prepare_cached("SELECT pack, offset, length FROM content WHERE id = ? ORDER BY pack")?;
            let rows = query.query_map([id.0], |row| {
                Ok(Place { pack: row.get(0)?, offset: unsql(row.get(1)?), length: unsql(row.get(2)?) })
            })?;
            rows.collect()
        })
    }

    /// Forgets where contents are, after packs were removed.
    pub(crate) fn forget_packs(&self) {
        lock(&self.packs.files).clear();
        lock(&self.packs.places).clear();
        self.located.forget();
    }

    fn pack_name(&self, pack: i64) -> Result<Option<String>> {
        self.index.read("cannot look a pack up", |connection| {
            connection
                .prepare_cached("SELECT name FROM pack WHERE id = ?")?
                .query_row([pack], |row| row.get(0))
                .optional()
        })
    }

    /// Opens a pack; none when it is gone, or when it is a blob that stands for one.
    fn open_pack(&self, pack: i64) -> Result<Option<Arc<File>>> {
        if let Some(file) = lock(&self.packs.files).get(&pack) {
            return Ok(Some(Arc::clone(file)));
        }
        let name = self.pack_name(pack)?.filter(|name| blob_of_pack(name).is_none());
        let Some(name) = name else { return Ok(None) };
        let path = format!("{DIRECTORY}/{name}");
        let file = match self.disk.open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.disk.failed("open", &path, error)),
        };
        let mut files = self.packs.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= MOST_OPEN {
            files.clear();
        }
        files.insert(pack, Arc::clone(&file));
        Ok(Some(file))
    }
}

/// SQLite's integers are signed; sizes and offsets of files fit.
pub(crate) fn sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
