//! Cache mounts: directories that outlive steps, shared by all builds over one store.
//!
//! A cache is a tree in a record of the store. A step gets the tree as it is when the step starts, and what the step
//! made of it is put back when it ends, also when it failed. `sharing` says what happens when two steps use a cache at
//! once, in one process or in several:
//!
//! - `shared`: both run; each one's changes are applied to what the cache holds by then, the later one winning where
//!   they touch the same path;
//! - `locked`: the second waits until the first is done;
//! - `private`: the second gets another cache of the same name, which is kept as well.
//!
//! Turns are taken with lock files in the store's directory, which the kernel gives up when a process dies. Locks are
//! taken in the order of their names, so two steps with the same caches cannot wait for each other; a wait ends when
//! the build is cancelled.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use cooper_dockerfile::Sharing;
use cooper_image::image::LayerRecord;
use cooper_image::layer::LayerOptions;
use cooper_image::store::{Keep, Store};
use cooper_vfs::tree::{Change, NodeKind, Tree, TreeBuilder};
use rustix::fs::{FlockOperation, flock};

use crate::cache::{ImportedCaches, MountRecord};
use crate::copy::store_failed;
use crate::error::{Error, Result};
use crate::key::KeyBuilder;
use crate::run::{CacheMounts, RunMount, RunMountKind};
use crate::source::ImageProvider;
use crate::step::CancelToken;

/// Record kind of cache mounts.
const CACHE_MOUNT: &str = "cache mount";
/// Directory of the lock files, in the store.
const DIRECTORY: &str = "cache-mounts";
/// Private caches of one name that can be in use at once.
const PRIVATE: usize = 64;
/// Pause between two tries to take a lock.
const PAUSE: Duration = Duration::from_millis(20);

/// The caches of one step, taken for as long as this lives.
#[derive(Debug)]
pub struct TakenCaches<'a> {
    store: &'a Store,
    caches: BTreeMap<String, Taken>,
}

#[derive(Debug)]
struct Taken {
    /// Name of the record.
    record: String,
    /// The lock's file, kept locked unless the cache is shared.
    lock: LockFile,
    /// What the step started from.
    before: Mutex<Option<Tree>>,
}

#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    held: Option<File>,
}

impl<'a> TakenCaches<'a> {
    /// Takes the caches that a step's mounts name.
    pub fn take(store: &'a Store, mounts: &[RunMount], cancel: &CancelToken) -> Result<Self> {
        let mut wanted: BTreeMap<&str, Sharing> = BTreeMap::new();
        for mount in mounts {
            if let RunMountKind::Cache { id, sharing, .. } = &mount.kind {
                wanted.entry(id).or_insert(*sharing);
            }
        }
        let directory = store.path().join(DIRECTORY);
        if !wanted.is_empty() {
            make_directory(&directory)?;
        }
        let mut caches = BTreeMap::new();
        for (id, sharing) in wanted {
            caches.insert(id.to_owned(), take(&directory, id, sharing, cancel)?);
        }
        Ok(Self { store, caches })
    }

    fn record(&self, name: &str) -> Result<Option<Tree>> {
        contents(self.store, name)
    }

    /// Fills caches that are new here from those of other builds.
    pub fn fill(
        &self,
        imported: &ImportedCaches,
        images: &dyn ImageProvider,
        cancel: &CancelToken,
    ) -> Result<()> {
        for (id, taken) in &self.caches {
            if self.record(&taken.record)?.is_some() {
                continue;
            }
            let Some(MountRecord { tree, layers, .. }) = imported.mount(self.store, id)? else { continue };
            let mut made = Tree::empty(self.store).map_err(store_failed)?;
            for layer in &layers {
                made = images.upper(&made, layer, cancel)?;
            }
            if made != tree {
                let message = format!("the cache mount `{id}` is not what its cache says");
                return Err(Error::new(crate::Fault::Refused, message)
                    .hint("build without this --cache-from, and write the cache again"));
            }
            self.put(&taken.record, &made)?;
        }
        Ok(())
    }

    fn put(&self, name: &str, tree: &Tree) -> Result<()> {
        let keeps = [Keep::Tree(tree.clone())];
        Ok(self.store.put_record(CACHE_MOUNT, name.as_bytes(), &tree.encode(), &keeps)?)
    }
}

/// What a cache holds; none when it is new.
fn contents(store: &Store, name: &str) -> Result<Option<Tree>> {
    let bytes = store.record(CACHE_MOUNT, name.as_bytes())?;
    // What cannot be read starts anew: it is a cache.
    Ok(bytes.and_then(|bytes| Tree::decode(&bytes).ok()))
}

/// Bytes that one layer of a cache mount has, about.
const LAYER_BYTES: u64 = 8 << 20;
/// Layers of one cache mount.
const MOST_LAYERS: u64 = 64;

/// A cache mount as layers for a cache elsewhere; none when nothing is known of it.
///
/// Directories and all that has no contents are in the first layer. Which of the others a file is in follows from its
/// contents, and how many there are from the size of all in powers of two, so a change of some files leaves most
/// layers as they were.
pub fn as_layers(store: &Store, id: &str, options: &LayerOptions) -> Result<Option<MountRecord>> {
    let Some(tree) = contents(store, id)? else { return Ok(None) };
    let empty = Tree::empty(store).map_err(store_failed)?;
    let changes = Tree::diff(store, &empty, &tree).map_err(store_failed)?;
    let size_of = |change: &Change| match change {
        Change::Upsert { entry, link_to: None, .. } => match &entry.kind {
            NodeKind::File { size, .. } => *size,
            _ => 0,
        },
        _ => 0,
    };
    let bytes: u64 = changes.iter().map(size_of).sum();
    let count = (bytes / LAYER_BYTES).clamp(1, MOST_LAYERS).next_power_of_two();
    let mut groups: BTreeMap<u64, Vec<Change>> = BTreeMap::from([(0, Vec::new())]);
    for change in changes {
        // A further name of a file comes after all files.
        let group = match &change {
            Change::Upsert { link_to: Some(_), .. } => count + 1,
            Change::Upsert { entry, .. } => match &entry.kind {
                NodeKind::File { content, .. } => 1 + u64::from(content.0[0]) % count,
                _ => 0,
            },
            _ => 0,
        };
        groups.entry(group).or_default().push(change);
    }
    let mut layers = Vec::new();
    for group in groups.values() {
        let made = store.write_layer(group, None, options)?;
        layers.push(LayerRecord { descriptor: made.descriptor, diff_id: made.diff_id });
    }
    Ok(Some(MountRecord { id: id.to_owned(), tree, layers }))
}

impl CacheMounts for TakenCaches<'_> {
    fn load(&self, id: &str) -> Result<Option<Tree>> {
        let Some(taken) = self.caches.get(id) else { return Ok(None) };
        let tree = self.record(&taken.record)?;
        *taken.before.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = tree.clone();
        Ok(tree)
    }

    fn save(&self, id: &str, tree: &Tree) -> Result<()> {
        let Some(taken) = self.caches.get(id) else { return Ok(()) };
        if taken.lock.held.is_some() {
            return self.put(&taken.record, tree);
        }
        let _turn = lock(&taken.lock.path, &CancelToken::new())?;
        let before = taken.before.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        match (before, self.record(&taken.record)?) {
            (Some(before), Some(now)) if before != now => {
                self.put(&taken.record, &replay(self.store, &before, tree, &now)?)
            }
            (None, Some(now)) => {
                let empty =
                    Tree { root: tree.root.clone(), ..Tree::empty(self.store).map_err(store_failed)? };
                self.put(&taken.record, &replay(self.store, &empty, tree, &now)?)
            }
            _ => self.put(&taken.record, tree),
        }
    }
}

fn make_directory(directory: &Path) -> Result<()> {
    #[allow(
        clippy::disallowed_methods,
        reason = "the store's own directory; architecture section 8, invariant 1"
    )]
    let made = std::fs::create_dir_all(directory);
    made.map_err(|error| Error::host(format!("cannot make `{}`", directory.display()), error))
}

fn take(directory: &Path, id: &str, sharing: Sharing, cancel: &CancelToken) -> Result<Taken> {
    let place = |record: &str| {
        let mut key = KeyBuilder::new("cache mount");
        key.bytes("id", record.as_bytes());
        directory.join(format!("{}.lock", key.finish()))
    };
    let taken = |record: String, path: PathBuf, held: Option<File>| Taken {
        record,
        lock: LockFile { path, held },
        before: Mutex::new(None),
    };
    match sharing {
        Sharing::Shared => Ok(taken(id.to_owned(), place(id), None)),
        Sharing::Locked => {
            let held = lock(&place(id), cancel)?;
            Ok(taken(id.to_owned(), place(id), Some(held)))
        }
        Sharing::Private => {
            for number in 0..PRIVATE {
                let record = if number == 0 { id.to_owned() } else { format!("{id}#{number}") };
                let path = place(&record);
                if let Some(held) = try_lock(&path)? {
                    return Ok(taken(record, path, Some(held)));
                }
            }
            let message = format!("the private cache `{id}` is used by more than {PRIVATE} steps at once");
            Err(Error::new(crate::error::Fault::Limit, message))
        }
    }
}

fn try_lock(path: &Path) -> Result<Option<File>> {
    let failed = |error| Error::host(format!("cannot lock `{}`", path.display()), error);
    #[allow(
        clippy::disallowed_methods,
        reason = "the store's own directory; architecture section 8, invariant 1"
    )]
    let opened = File::options().create(true).truncate(false).write(true).open(path);
    let file = opened.map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

fn lock(path: &Path, cancel: &CancelToken) -> Result<File> {
    loop {
        if let Some(file) = try_lock(path)? {
            return Ok(file);
        }
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Does to `now` what led from `before` to `after`.
fn replay(store: &Store, before: &Tree, after: &Tree, now: &Tree) -> Result<Tree> {
    let mut builder = TreeBuilder::from_tree(store, now);
    for change in Tree::diff(store, before, after).map_err(store_failed)? {
        let path = change.path().to_vec();
        if path.is_empty() {
            continue;
        }
        // A parent that the other step has removed comes back.
        let mut parent = Vec::new();
        let names: Vec<&[u8]> = cooper_vfs::path::components(&path).collect();
        for name in &names[..names.len().saturating_sub(1)] {
            parent = cooper_vfs::path::join(&parent, name);
            let there = builder.get(&parent).map_err(store_failed)?;
            if !there.as_ref().is_some_and(|there| there.kind.is_directory()) {
                let entry = after.lookup(store, &parent).map_err(store_failed)?;
                let Some(entry) = entry else { continue };
                builder.remove(&parent).map_err(store_failed)?;
                builder.put_directory(&parent, entry.metadata).map_err(store_failed)?;
            }
        }
        match change {
            Change::Remove { path } => {
                builder.remove(&path).map_err(store_failed)?;
            }
            Change::Opaque { path } => builder.make_opaque(&path).map_err(store_failed)?,
            Change::Upsert { path, entry, link_to, .. } => {
                let is_directory = entry.kind.is_directory();
                let there = builder.get(&path).map_err(store_failed)?;
                if there.is_some_and(|there| !(is_directory && there.kind.is_directory())) {
                    builder.remove(&path).map_err(store_failed)?;
                }
                match link_to {
                    _ if is_directory => builder.put_directory(&path, entry.metadata),
                    Some(leader) => builder.hard_link(&path, &leader),
                    None => builder.put(&path, entry),
                }
                .map_err(store_failed)?;
            }
        }
    }
    builder.finish().map_err(store_failed)
}
