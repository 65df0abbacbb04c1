//! The store: everything that one node keeps of images, for any number of processes at a time.
//!
//! A directory with blobs as they were pulled (`blobs/`), packs with file contents (`packs/`; a blob may stand for one,
//! [`located`]), unfinished files of
//! running processes (`work/`), and an SQLite index for everything small: directory objects, chain ID -> tree,
//! images, tags, and records that other crates keep here. It is [`cooper_vfs::ContentStore`] for the file systems.
//!
//! The order of writing is what makes it safe: blobs and packs have their names before a record speaks of them, an
//! image's record comes after its last blob, and a tag after its image, each in a transaction. So a process may die
//! anywhere and no name points at anything incomplete. What nothing speaks of is garbage for [`Store::prune`].
//!
//! What must hold:
//! - every write goes through [`mod@write`];
//! - what a process relies on it holds (a record in the index under its lease) before it looks whether it is there;
//! - lock order: the index, then one of the memory caches; never two caches at once.

mod blobs;
mod collect;
mod index;
mod lease;
pub mod located;
mod origins;
mod packs;
mod records;
pub mod write;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cooper_vfs::tree::codec;
use cooper_vfs::{
    Backing, Content, ContentId, ContentStore, ContentTreeId, Directory, ExactId, PackWriter, SpoolFile,
};
use rusqlite::{OptionalExtension, params};

pub use blobs::BlobWriter;
pub use collect::{PruneOptions, Pruned, TagsToo};
pub use packs::{PAGE, PackBuilder};
pub use records::{Keep, TagRecord, Usage};
pub use write::Durability;

use crate::error::{Error, Result};
use index::{Index, Made};
use lease::Lease;
use write::{Disk, Gate};

/// Directory objects that are remembered.
const MOST_DIRECTORIES: usize = 64 << 10;

/// How a store is used.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What has to survive.
    pub durability: Durability,
    /// Stands in front of every write; tests put faults here.
    pub gate: Option<Arc<dyn Gate>>,
}

impl StoreOptions {
    /// A store whose contents survive the death of processes, and no faults.
    pub fn plain() -> Self {
        Self { durability: Durability::Process, gate: None }
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    disk: Disk,
    index: Index,
    lease: Lease,
    packs: packs::OpenPacks,
    located: located::Located,
    directories: Mutex<HashMap<ExactId, Arc<Directory>>>,
    /// What this process is known to hold, so that each is recorded once.
    held: Mutex<HashSet<(&'static str, Vec<u8>)>>,
}

impl Store {
    /// Opens a store, making it when there is none. Unfinished files of dead processes are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Index`] when the directory cannot be used, [`Error::Store`] when another version
    /// made it.
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Self> {
        Self::open_with(path, options, Lease::take)
    }

    /// Opens a store for a process that works for another one, whose [`Store::lease_name`] is given. What it leaves in
    /// the store is held by that other process.
    ///
    /// # Errors
    ///
    /// As [`Store::open`]; [`Error::Store`] when the other process has ended.
    pub fn open_joining(path: &Path, options: &StoreOptions, lease: &str) -> Result<Self> {
        Self::open_with(path, options, |disk| Lease::join(disk, lease))
    }

    fn open_with(
        path: &Path,
        options: &StoreOptions,
        take_lease: impl FnOnce(&Disk) -> Result<Lease>,
    ) -> Result<Self> {
        let disk = Disk::new(path, options.durability, options.gate.clone());
        for directory in ["blobs/sha256", "blobs/sha512", packs::DIRECTORY] {
            disk.create_directory(directory)?;
        }
        let (index, made) = Index::open(&disk)?;
        let lease = take_lease(&disk)?;
        let store = Self {
            disk,
            index,
            lease,
            packs: packs::OpenPacks::default(),
            located: located::Located::default(),
            directories: Mutex::default(),
            held: Mutex::default(),
        };
        store.sweep()?;
        if made == Made::Now {
            store.record_packs_again()?;
        }
        Ok(store)
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        self.disk.root()
    }

    /// The name of this process's lease, for [`Store::open_joining`].
    pub fn lease_name(&self) -> &str {
        self.lease.name()
    }

    /// Records that this process relies on an object.
    pub(crate) fn hold(&self, object: &'static str, id: &[u8]) -> Result<()> {
        let key = (object, id.to_vec());
        if lock(&self.held).contains(&key) {
            return Ok(());
        }
        self.index.change("cannot hold an object", |transaction| {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO hold (lease, object, id) VALUES (?, ?, ?)")?
                .execute(params![self.lease.name(), object, id])
        })?;
        lock(&self.held).insert(key);
        Ok(())
    }

    fn remember_directory(&self, id: ExactId, directory: &Arc<Directory>) {
        let mut directories = lock(&self.directories);
        if directories.len() >= MOST_DIRECTORIES {
            directories.clear();
        }
        directories.insert(id, Arc::clone(directory));
    }

    fn find_directory(&self, id: &ExactId) -> Result<Option<Vec<u8>>> {
        self.index.read("cannot look a directory up", |connection| {
            connection
                .prepare_cached("SELECT object FROM directory WHERE id = ?")?
                .query_row([id.0], |row| row.get(0))
                .optional()
        })
    }

    /// Keeps many directory objects in one transaction.
    pub(crate) fn put_directories(&self, objects: &[(ExactId, Vec<u8>)]) -> Result<()> {
        let mut sorted: Vec<&(ExactId, Vec<u8>)> = objects.iter().collect();
        sorted.sort_by_key(|object| object.0);
        let lease = self.lease.name();
        self.index.change("cannot record directories", |transaction| {
            let mut insert = transaction
                .prepare_cached("INSERT OR IGNORE INTO directory (id, object, lease) VALUES (?, ?, ?)")?;
            let mut hold = transaction.prepare_cached(
                "INSERT OR IGNORE INTO hold (lease, object, id) VALUES (?, 'directory', ?)",
            )?;
            for (id, object) in sorted {
                if insert.execute(params![id.0, object, lease])? == 0 {
                    // Somebody else's, who may let go of it before we speak of it.
                    hold.execute(params![lease, id.0])?;
                }
            }
            Ok(())
        })
    }
}

impl ContentStore for Store {
    fn directory(&self, id: &ExactId) -> io::Result<Arc<Directory>> {
        if let Some(directory) = lock(&self.directories).get(id) {
            return Ok(Arc::clone(directory));
        }
        let object = self.find_directory(id).map_err(Error::into_io)?;
        let object = object
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no directory object {id}")))?;
        let directory = Arc::new(
            codec::decode(&object).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
        );
        self.remember_directory(*id, &directory);
        Ok(directory)
    }

    fn put_directory(&self, directory: &Directory) -> io::Result<(ExactId, ContentTreeId)> {
        let ids = directory.ids();
        if !lock(&self.directories).contains_key(&ids.0) {
            self.put_directories(&[(ids.0, codec::encode(directory))]).map_err(Error::into_io)?;
            self.remember_directory(ids.0, &Arc::new(directory.clone()));
        }
        Ok(ids)
    }

    fn open(&self, id: &ContentId) -> io::Result<Content> {
        if *id == ContentId::EMPTY {
            return Ok(Content { backing: Backing::Bytes(Arc::from([])), length: 0 });
        }
        match self.find_content(id).map_err(Error::into_io)? {
            Some((file, place)) => {
                Ok(Content { backing: Backing::File { file, offset: place.offset }, length: place.length })
            }
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("no content {id}"))),
        }
    }

    fn spool(&self) -> io::Result<SpoolFile> {
        self.new_spool()
    }

    fn pack(&self) -> io::Result<Box<dyn PackWriter + '_>> {
        Ok(Box::new(self.pack_builder()))
    }
}

/// A view of the store that collects new directory objects and writes them all in one transaction at the end.
///
/// For an operation that makes many directories: a tree of 10,000 files in 1,000 directories is one transaction instead
/// of 1,000. What was collected and not committed is lost, and nothing speaks of it.
#[derive(Debug)]
pub struct Batch<'s> {
    store: &'s Store,
    new: Mutex<HashMap<ExactId, Arc<Directory>>>,
}

impl<'s> Batch<'s> {
    /// Starts an empty one.
    pub fn new(store: &'s Store) -> Self {
        Self { store, new: Mutex::default() }
    }

    /// Writes what was collected.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn commit(self) -> Result<()> {
        let new = self.new.into_inner().unwrap_or_else(PoisonError::into_inner);
        let objects: Vec<_> = new.iter().map(|(id, directory)| (*id, codec::encode(directory))).collect();
        self.store.put_directories(&objects)?;
        for (id, directory) in &new {
            self.store.remember_directory(*id, directory);
        }
        Ok(())
    }
}

impl ContentStore for Batch<'_> {
    fn directory(&self, id: &ExactId) -> io::Result<Arc<Directory>> {
        if let Some(directory) = lock(&self.new).get(id) {
            return Ok(Arc::clone(directory));
        }
        self.store.directory(id)
    }

    fn put_directory(&self, directory: &Directory) -> io::Result<(ExactId, ContentTreeId)> {
        let ids = directory.ids();
        lock(&self.new).entry(ids.0).or_insert_with(|| Arc::new(directory.clone()));
        Ok(ids)
    }

    fn open(&self, id: &ContentId) -> io::Result<Content> {
        self.store.open(id)
    }

    fn spool(&self) -> io::Result<SpoolFile> {
        self.store.spool()
    }

    fn pack(&self) -> io::Result<Box<dyn PackWriter + '_>> {
        self.store.pack()
    }
}

impl Store {
    /// Starts a pack for finished contents.
    pub fn pack_builder(&self) -> PackBuilder<'_> {
        PackBuilder::new(self)
    }
}

/// A cache behind a lock is whole between any two statements, whatever a thread that panicked did.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
