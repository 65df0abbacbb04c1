//! From a step's world to the next tree.
//!
//! First all new contents go into one pack, then directory objects are made, then the trees are compared. Nothing is
//! read back that was written in order, and nothing at all of what was not changed.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::directory::{Dentry, DirectoryBody};
use super::inode::Body;
use super::mount::{Filesystem, FilesystemKind};
use super::sync::lock;
use super::{StepChanges, path_in_filesystem};
use crate::path;
use crate::tree::assemble::{Forest, Listing, Part, assemble};
use crate::tree::diff::diff;
use crate::tree::{NodeKind, Tree};

pub(super) fn finish(filesystem: &Filesystem) -> io::Result<StepChanges> {
    let store = &*filesystem.shared.store;
    let lower = match &filesystem.kind {
        FilesystemKind::Tree(tree) => tree.clone(),
        FilesystemKind::Tmpfs => Tree::empty(store)?,
        FilesystemKind::File | FilesystemKind::Synthetic(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    let _names = filesystem.shared.lock_names();
    let root = &filesystem.root;
    pack_contents(filesystem)?;
    let metadata = lock(&root.inode.attributes).metadata();
    let untouched = root.inode.directory()?.untouched();
    let (exact, content) = match untouched {
        Some(ids) => ids,
        None => assemble(store, &World { names: RefCell::default() }, root)?,
    };
    let tree = Tree { root: metadata, exact, content };
    let replaced = |path: &[u8]| was_replaced(filesystem, &lower, path);
    let changes = diff(store, &lower, &tree, &replaced)?;
    Ok(StepChanges { tree, changes })
}

/// Puts the bytes of all files that have a name and were written into one pack.
fn pack_contents(filesystem: &Filesystem) -> io::Result<()> {
    let written = written_files(&filesystem.root);
    if written.is_empty() {
        return Ok(());
    }
    let mut pack = filesystem.shared.store.pack()?;
    let mut packed = Vec::with_capacity(written.len());
    for dentry in &written {
        let Body::File(file) = &dentry.inode.body else { continue };
        let (size, limit) = (file.size(), filesystem.shared.limits.spool_bytes);
        if size > limit {
            let path = String::from_utf8_lossy(&path_in_filesystem(dentry)).into_owned();
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, TooLarge { path, size, limit }));
        }
        if let Some(done) = file.pack(&mut *pack)? {
            packed.push((file, done));
        }
    }
    pack.finish()?;
    packed.into_iter().for_each(|(file, done)| file.settle(done));
    Ok(())
}

/// A sparse file costs the step little and its layer everything.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` is larger than all that a step may hold ({limit} bytes): {size} bytes")]
struct TooLarge {
    path: String,
    size: u64,
    limit: u64,
}

/// One name of each, in tree order, so that equal steps make equal packs.
fn written_files(root: &Arc<Dentry>) -> Vec<Arc<Dentry>> {
    let mut seen = HashSet::new();
    let mut written = Vec::new();
    let mut pending = vec![Arc::clone(root)];
    while let Some(dentry) = pending.pop() {
        match &dentry.inode.body {
            Body::Directory(directory) => {
                let names = directory.contents().names.into_iter().rev();
                pending.extend(names.filter_map(|(_, child)| child));
            }
            Body::File(file)
                if !dentry.placeholder && file.stored().is_none() && seen.insert(dentry.inode.number) =>
            {
                written.push(dentry);
            }
            _ => {}
        }
    }
    written
}

/// Tells whether the directory at a path is another one than the tree below has there.
fn was_replaced(filesystem: &Filesystem, lower: &Tree, path: &[u8]) -> bool {
    let mut dentry = Arc::clone(&filesystem.root);
    for name in path::components(path) {
        let found = dentry
            .inode
            .directory()
            .and_then(|directory| directory.lookup(&dentry, name, &filesystem.shared));
        match found {
            Ok(child) => dentry = child,
            Err(_) => return false,
        }
    }
    let own = dentry.inode.directory().ok().and_then(DirectoryBody::base_ids);
    match lower.lookup(&*filesystem.shared.store, path) {
        Ok(Some(entry)) => match (entry.kind, own) {
            (NodeKind::Directory { exact, .. }, Some((own, _))) => own != exact,
            _ => true,
        },
        _ => false,
    }
}

/// The entries in memory, as [`assemble`] wants them.
struct World {
    /// How many names the inodes that were listed have.
    names: RefCell<HashMap<u64, usize>>,
}

impl Forest for World {
    type Directory = Arc<Dentry>;

    fn list(&self, directory: &Arc<Dentry>) -> io::Result<Listing<Arc<Dentry>>> {
        let contents = directory.inode.directory()?.contents();
        let mut parts = Vec::with_capacity(contents.names.len());
        for (name, dentry) in contents.names {
            let part = match dentry {
                None => Part::Removed,
                Some(dentry) => self.part(&dentry)?,
            };
            parts.push((name.to_vec(), part));
        }
        Ok(Listing { base: contents.base, parts })
    }

    fn names(&self, key: u64) -> usize {
        self.names.borrow().get(&key).copied().unwrap_or(0)
    }
}

impl World {
    fn part(&self, dentry: &Arc<Dentry>) -> io::Result<Part<Arc<Dentry>>> {
        let inode = &dentry.inode;
        let (metadata, links) = {
            let attributes = lock(&inode.attributes);
            (attributes.metadata(), attributes.links)
        };
        if let Body::Directory(directory) = &inode.body {
            return Ok(match directory.untouched() {
                Some(ids) => Part::Kept { metadata, ids },
                None if dentry.placeholder => Part::Optional { metadata, directory: Arc::clone(dentry) },
                None => Part::Open { metadata, directory: Arc::clone(dentry) },
            });
        }
        if dentry.placeholder {
            return Ok(Part::Removed);
        }
        let kind = inode.leaf_kind().ok_or(io::ErrorKind::InvalidData)?;
        let link = (links > 1).then_some(inode.number);
        if let Some(key) = link {
            self.names.borrow_mut().insert(key, usize::try_from(links).unwrap_or(usize::MAX));
        }
        Ok(Part::Leaf { metadata, kind, link })
    }
}
