//! Contents that lie elsewhere than in packs: in the blobs of layers, and in files of the host.
//!
//! A layer's blob can stand for a pack. Its row in the index is named by the blob's digest, and the offsets of its
//! contents are those in the layer's tar. So a layer whose files nobody reads is neither unpacked nor, when it is in a
//! registry, fetched. The first reader of a content has the blob read from the nearest seek point on, and everything
//! between that point and the next becomes a pack of its own: files that lie together are mostly read together.
//!
//! A build context is such a place for as long as its build runs ([`Elsewhere`]): its files go straight into a layer,
//! and that layer's blob then stands for them.
//!
//! What must hold: a content that comes out of a blob or of the host is checked against its id before anybody can read
//! it, so no record of where it lies needs to be trusted; the lock of unpacking is taken before all others.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cooper_vfs::{
    Content, ContentId, ContentStore, ContentTreeId, Directory, ExactId, PackWriter, SpoolFile,
};
use rusqlite::{OptionalExtension, Transaction, params};
use rustix::fs::{Mode, OFlags};

use super::packs::{sql, unsql};
use super::{Store, lock};
use crate::compression::seek::{SPAN, SeekPoints};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::Place;

/// Record kind of seek points, by the blob's digest.
pub(super) const SEEK: &str = "seek points";
/// Ranges of one blob that are read before all of it is fetched: many files of a layer come faster in one piece.
const MOST_RANGES: u32 = 24;

/// What the names of sockets end with at which contents are asked for.
const SOCKET: &str = ".socket";
/// How long a question may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket's address through its directory's descriptor: the path itself may be longer than an address.
fn address(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let address = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, address))
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let (_directory, address) = address(path)?;
    UnixListener::bind(address)
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_directory, address) = address(path)?;
    UnixStream::connect(address)
}

/// A place besides the store that has contents.
pub trait Elsewhere: Send + Sync + fmt::Debug {
    /// Opens a content; none when it is not there. Its bytes are not checked.
    ///
    /// # Errors
    ///
    /// What the host says.
    fn open(&self, id: &ContentId) -> io::Result<Option<Content>>;

    /// What a person calls the file that has a content, where there is such a file.
    fn name(&self, id: &ContentId) -> Option<String> {
        let _ = id;
        None
    }
}

/// Reads blobs that are not in the store.
pub trait RemoteBlobs: Send + Sync + fmt::Debug {
    /// Reads a range of a blob from one of the repositories that are known to have it; none when they send no ranges.
    /// Ranges are short, but for the one of a large file.
    ///
    /// # Errors
    ///
    /// Those of the registries.
    fn range(
        &self,
        origins: &[String],
        blob: &Digest,
        range: std::ops::Range<u64>,
    ) -> Result<Option<Vec<u8>>>;

    /// Fetches a blob into the store.
    ///
    /// # Errors
    ///
    /// Those of the registries, and the disk's.
    fn fetch(&self, store: &Store, blob: &Digest, size: u64) -> Result<()>;
}

/// What an open store knows of such places.
#[derive(Debug, Default)]
pub(super) struct Located {
    elsewhere: Mutex<Vec<Arc<dyn Elsewhere>>>,
    remote: Mutex<Option<Arc<dyn RemoteBlobs>>>,
    /// Contents of blobs, by pack, in the order of their tars.
    contents: Mutex<HashMap<i64, Arc<Vec<Place>>>>,
    /// Ranges that were read of each blob.
    ranges: Mutex<HashMap<i64, u32>>,
    unpacking: Mutex<()>,
}

impl Located {
    pub(super) fn forget(&self) {
        lock(&self.contents).clear();
    }
}

impl Store {
    /// Makes contents readable that are elsewhere, for as long as the store is open. The last one is asked first.
    pub fn add_elsewhere(&self, place: Arc<dyn Elsewhere>) {
        lock(&self.located.elsewhere).push(place);
    }

    /// Says who reads blobs that are not here.
    pub fn set_remote_blobs(&self, remote: Arc<dyn RemoteBlobs>) {
        *lock(&self.located.remote) = Some(remote);
    }

    pub(super) fn open_elsewhere(&self, id: &ContentId) -> io::Result<Option<Content>> {
        let places = lock(&self.located.elsewhere).clone();
        for place in places.iter().rev() {
            if let Some(content) = place.open(id)? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// Packs a content that is elsewhere; says whether it was.
    pub(super) fn pack_elsewhere(&self, id: &ContentId) -> Result<bool> {
        let failed = |error| {
            let name = lock(&self.located.elsewhere).iter().rev().find_map(|place| place.name(id));
            let what = name.map_or_else(|| "a file of the context".to_owned(), |name| format!("`{name}`"));
            Error::io(format!("cannot read {what}, which must not change while the build is running"), error)
        };
        let Some(content) = self.open_elsewhere(id).map_err(failed)? else { return Ok(false) };
        let mut pack = self.pack_builder();
        let (found, _) = pack.add_from(&mut content.reader()).map_err(failed)?;
        if found != *id {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "it changed while the build was running",
            )));
        }
        pack.publish()?;
        Ok(true)
    }

    /// Lets a layer's blob stand for a pack with the contents at these places of its tar.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn locate_in_blob(&self, blob: &Digest, places: &[Place], points: &SeekPoints) -> Result<()> {
        let name = blob.to_string();
        let mut sorted: Vec<&Place> = places.iter().collect();
        // In the order of the table, which is many times faster.
        sorted.sort_by_key(|place| place.id);
        sorted.dedup_by_key(|place| place.id);
        self.index.change("cannot record where contents are", |transaction| {
            let known: Option<i64> = transaction
                .prepare_cached("SELECT id FROM pack WHERE name = ?")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            let pack = match known {
                Some(pack) => {
                    // Ours from now on, too: nobody prunes it while we live.
                    transaction
                        .prepare_cached("UPDATE pack SET lease = ? WHERE id = ?")?
                        .execute(params![self.lease.name(), pack])?;
                    pack
                }
                None => transaction
                    .prepare_cached("INSERT INTO pack (name, lease, bytes) VALUES (?, ?, ?)")?
                    .insert(params![name, self.lease.name(), sql(points.blob_size)])?,
            };
            let mut insert = transaction.prepare_cached(
                "INSERT OR IGNORE INTO content (id, pack, offset, length) VALUES (?, ?, ?, ?)",
            )?;
            for place in sorted {
                insert.execute(params![place.id.0, pack, sql(place.offset), sql(place.length)])?;
            }
            Ok(())
        })?;
        self.located.forget();
        self.put_record(SEEK, name.as_bytes(), &points.encode(), &[])
    }

    /// Unpacks a content, and what lies around it, from a blob that stands for a pack.
    pub(super) fn unpack_from_blob(&self, pack: i64, blob: &Digest, wanted: &ContentId) -> Result<()> {
        let _one_at_a_time = lock(&self.located.unpacking);
        if self.find_packed(wanted)?.is_some() {
            return Ok(());
        }
        let contents = self.contents_of_blob(pack)?;
        let place = contents.iter().find(|place| place.id == *wanted).copied();
        let place = place.ok_or_else(|| Error::NotFound { what: format!("content {wanted}") })?;
        let failed = |error| Error::io(format!("cannot read files of layer `{blob}`"), error);
        let points = self.seek_points(blob)?;
        let mut fetched = self.has_blob(blob, None)?;
        if !fetched && let Some(points) = &points {
            let start = points.before(place.offset);
            let (end, blob_end) = points.behind(place.offset + place.length);
            let Some(remote) = lock(&self.located.remote).clone() else {
                return self.ask_holder(wanted).map_err(failed);
            };
            let ranges = {
                let mut ranges = lock(&self.located.ranges);
                let count = ranges.entry(pack).or_default();
                *count += 1;
                *count
            };
            if ranges <= MOST_RANGES
                && let Some(bytes) = remote.range(&self.origins(blob)?, blob, start.blob..blob_end)?
            {
                let reader = points.reader(&start, &bytes[..]).map_err(failed)?;
                return self.unpack_span(blob, reader, &contents, &place, start.tar..end);
            }
            remote.fetch(self, blob, points.blob_size)?;
            fetched = true;
        }
        if !fetched {
            return Err(Error::NotFound { what: format!("blob `{blob}`") });
        }
        let points = match points {
            Some(points) => points,
            None => {
                let points = SeekPoints::find(self.open_blob(blob)?).map_err(failed)?;
                self.put_record(SEEK, blob.to_string().as_bytes(), &points.encode(), &[])?;
                points
            }
        };
        let start = points.before(place.offset);
        let (end, _) = points.behind(place.offset + place.length);
        let mut file = self.open_blob(blob)?;
        file.seek(SeekFrom::Start(start.blob)).map_err(failed)?;
        let reader = points.reader(&start, file).map_err(failed)?;
        self.unpack_span(blob, reader, &contents, &place, start.tar..end)
    }

    fn unpack_span(
        &self,
        blob: &Digest,
        mut reader: impl Read,
        contents: &[Place],
        wanted: &Place,
        span: std::ops::Range<u64>,
    ) -> Result<()> {
        let failed = |error| Error::io(format!("cannot read files of layer `{blob}`"), error);
        let mut pack = self.pack_builder();
        let mut at = span.start;
        let first = contents.partition_point(|place| place.offset < span.start);
        for place in &contents[first..] {
            let end = place.offset.saturating_add(place.length);
            let is_wanted = place.id == wanted.id;
            if place.offset >= span.end && !is_wanted {
                break;
            }
            // Large neighbours are not what somebody means who reads a small file.
            if place.offset < at || (!is_wanted && (end > span.end || place.length > SPAN)) {
                continue;
            }
            io::copy(&mut (&mut reader).take(place.offset - at), &mut io::sink()).map_err(failed)?;
            let (id, length) = pack.add_from(&mut (&mut reader).take(place.length)).map_err(failed)?;
            if id != place.id || length != place.length {
                let reason = format!("the index of layer `{blob}` is not what the layer holds");
                return Err(Error::layer(reason));
            }
            at = end;
        }
        pack.publish()
    }

    /// Does something with processes that have joined this one's lease, which may read contents of blobs that are not
    /// here: they have no credentials, so they ask for them.
    ///
    /// # Errors
    ///
    /// When the host gives no socket or thread.
    pub fn serving_contents<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        if !self.has_remote_contents()? {
            return Ok(work());
        }
        let failed = |error| Error::io("cannot serve contents to a step", error);
        let path = self.disk.path(&format!("{}{SOCKET}", self.lease.new_path()));
        let listener = bind(&path).map_err(failed)?;
        let done = AtomicBool::new(false);
        let served = thread::scope(|scope| {
            let serve = || {
                for stream in listener.incoming() {
                    if done.load(Ordering::Acquire) {
                        return;
                    }
                    // Whoever asks and goes away is served nothing.
                    if let Ok(stream) = stream
                        && let Err(error) = self.serve_content(stream)
                    {
                        tracing::warn!(%error, "a content could not be served");
                    }
                }
            };
            thread::Builder::new().name("contents".to_owned()).spawn_scoped(scope, serve).map_err(failed)?;
            let value = work();
            done.store(true, Ordering::Release);
            // Wakes the thread; when that fails there is no socket any more, and it has ended.
            drop(connect(&path));
            Ok(value)
        });
        // What cannot be removed now goes with the lease.
        drop(self.disk.remove_path(&path));
        served
    }

    fn serve_content(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut id = [0; 32];
        stream.read_exact(&mut id)?;
        let found = self.find_content(&ContentId(id));
        stream.write_all(&[u8::from(matches!(found, Ok(Some(_))))])?;
        found.map(drop).map_err(Error::into_io)
    }

    fn has_remote_contents(&self) -> Result<bool> {
        let names: Vec<String> = self.index.read("cannot look packs up", |connection| {
            let mut query = connection.prepare_cached("SELECT name FROM pack WHERE instr(name, ':') > 0")?;
            query.query_map([], |row| row.get(0))?.collect()
        })?;
        Ok(names
            .iter()
            .filter_map(|name| blob_of_pack(name))
            .any(|blob| !self.disk.exists(&super::blobs::path(&blob))))
    }

    /// Asks the process whose lease this one has joined for a content.
    fn ask_holder(&self, id: &ContentId) -> io::Result<()> {
        for (name, _) in self.disk.list(&self.lease.directory())? {
            if !name.ends_with(SOCKET) {
                continue;
            }
            let path = self.disk.path(&format!("{}/{name}", self.lease.directory()));
            let Ok(mut stream) = connect(&path) else { continue };
            stream.write_all(&id.0)?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            if answer == [1] {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the build does not give the content"))
    }

    fn contents_of_blob(&self, pack: i64) -> Result<Arc<Vec<Place>>> {
        if let Some(known) = lock(&self.located.contents).get(&pack) {
            return Ok(Arc::clone(known));
        }
        let mut places: Vec<Place> = self.index.read("cannot look contents up", |connection| {
            let mut query =
                connection.prepare_cached("SELECT id, offset, length FROM content WHERE pack = ?")?;
            let rows = query.query_map([pack], |row| {
                let (offset, length) = (unsql(row.get(1)?), unsql(row.get(2)?));
                Ok(Place { id: ContentId(row.get(0)?), offset, length })
            })?;
            rows.collect()
        })?;
        places.sort_by_key(|place| (place.offset, place.length));
        let places = Arc::new(places);
        lock(&self.located.contents).insert(pack, Arc::clone(&places));
        Ok(places)
    }

    fn seek_points(&self, blob: &Digest) -> Result<Option<SeekPoints>> {
        let bytes = self.record(SEEK, blob.to_string().as_bytes())?;
        Ok(bytes.and_then(|bytes| SeekPoints::decode(&bytes)))
    }
}

/// The digest of the blob that stands for a pack of this name.
pub(super) fn blob_of_pack(name: &str) -> Option<Digest> {
    // Packs of our own have names without a colon.
    name.contains(':').then(|| name.parse().ok()).flatten()
}

/// What is known of where a blob is and how it is read, kept as long as the blob stands for a pack.
pub(super) const KEPT_FOR_BLOBS: &str = "(kind IN ('seek points', 'origin') AND EXISTS
     (SELECT 1 FROM pack WHERE pack.name = CAST(record.key AS TEXT)))";

/// Forgets the seek points of a blob that no longer stands for a pack.
pub(super) fn forget_points(transaction: &Transaction<'_>, blob: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM record WHERE kind = ? AND key = ?")?
        .execute(params![SEEK, blob.as_bytes()])?;
    Ok(())
}

/// A view of the store for somebody who checks every content that is read: files of the context are not packed first.
#[derive(Debug)]
pub(crate) struct Unchecked<'s> {
    store: &'s Store,
    /// Contents that were not in packs.
    used: Mutex<HashSet<ContentId>>,
}

impl<'s> Unchecked<'s> {
    pub(crate) fn new(store: &'s Store) -> Self {
        Self { store, used: Mutex::default() }
    }

    /// The contents that were opened elsewhere.
    pub(crate) fn into_used(self) -> HashSet<ContentId> {
        self.used.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl ContentStore for Unchecked<'_> {
    fn directory(&self, id: &ExactId) -> io::Result<Arc<Directory>> {
        self.store.directory(id)
    }

    fn put_directory(&self, directory: &Directory) -> io::Result<(ExactId, ContentTreeId)> {
        self.store.put_directory(directory)
    }

    fn open(&self, id: &ContentId) -> io::Result<Content> {
        if *id != ContentId::EMPTY
            && self.store.find_packed(id).map_err(Error::into_io)?.is_none()
            && let Some(content) = self.store.open_elsewhere(id)?
        {
            lock(&self.used).insert(*id);
            return Ok(content);
        }
        self.store.open(id)
    }

    fn spool(&self) -> io::Result<SpoolFile> {
        self.store.spool()
    }

    fn pack(&self) -> io::Result<Box<dyn PackWriter + '_>> {
        self.store.pack()
    }
}
