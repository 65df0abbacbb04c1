//! Mounts: what is seen where.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Position;
use super::directory::Dentry;
use super::inode::Body;
use super::shared::{Budget, Shared};
use crate::synthetic::SyntheticFs;
use crate::tree::Tree;

/// The number of a mount, unique in its root file system; the root mount has 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId(pub u64);

/// What is mounted.
#[derive(Clone, Debug)]
pub enum MountSource {
    /// A path of a finished tree, a directory or a file. Writes go nowhere unless
    /// [`RootFs::finish_mount`](super::RootFs::finish_mount) fetches them. `subpath` is followed as `chroot` would.
    Tree {
        /// The tree.
        tree: Tree,
        /// The path in it; empty for the root.
        subpath: Vec<u8>,
    },
    /// What is already at another place of this root file system.
    Bind(Position),
    /// An empty file system in memory and spool.
    Tmpfs {
        /// Bytes of contents it may hold; `None` leaves the step's own limit.
        size: Option<u64>,
        /// Mode of its root directory.
        mode: u16,
        /// Owner of its root directory.
        uid: u32,
        /// Group of its root directory.
        gid: u32,
    },
    /// One file with these bytes.
    File {
        /// The bytes.
        contents: Vec<u8>,
        /// Mode.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A made-up file system.
    Synthetic(Arc<dyn SyntheticFs>),
    /// The usual `/dev`: `null zero full random urandom tty ptmx console`, the links `fd stdin stdout stderr core` and the
    /// directories `pts shm mqueue`.
    Devices,
}

/// How something is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Every change is `EROFS`.
    pub read_only: bool,
}

impl MountOptions {
    /// Changes are allowed.
    pub const WRITABLE: Self = Self { read_only: false };
    /// Changes are `EROFS`.
    pub const READ_ONLY: Self = Self { read_only: true };
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Its number.
    pub id: MountId,
    /// The mount it is in.
    pub parent: Option<MountId>,
    /// Device number.
    pub device: u64,
    /// Where it is, from the root of the root file system.
    pub target: Vec<u8>,
    /// The path in its own file system that is its root.
    pub root: Vec<u8>,
    /// Type: `overlay`, `tmpfs`, `proc` …
    pub type_name: String,
    /// Whether changes are `EROFS`.
    pub read_only: bool,
}

/// One file system of the step: where its inodes count and what made it.
pub(super) struct Filesystem {
    pub(super) device: u64,
    pub(super) root: Arc<Dentry>,
    pub(super) kind: FilesystemKind,
    pub(super) budget: Arc<Budget>,
    pub(super) shared: Arc<Shared>,
}

pub(super) enum FilesystemKind {
    /// Over a finished tree; can be finished again when its root is a directory.
    Tree(Tree),
    /// Over one file of a finished tree, or over given bytes: nothing to finish.
    File,
    Tmpfs,
    Synthetic(Arc<dyn SyntheticFs>),
}

impl Filesystem {
    pub(super) fn type_name(&self) -> &str {
        match &self.kind {
            FilesystemKind::Tree(_) | FilesystemKind::File => "overlay",
            FilesystemKind::Tmpfs => "tmpfs",
            FilesystemKind::Synthetic(fs) => fs.type_name(),
        }
    }

    pub(super) fn magic(&self) -> u64 {
        match &self.kind {
            FilesystemKind::Tree(_) | FilesystemKind::File => 0x794c_7630,
            FilesystemKind::Tmpfs => 0x0102_1994,
            FilesystemKind::Synthetic(fs) => fs.magic(),
        }
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        self.root.dismantle();
    }
}

/// Something mounted somewhere.
pub(super) struct Mount {
    pub(super) id: MountId,
    pub(super) filesystem: Arc<Filesystem>,
    /// What shows here: the file system's root, or the place that a bind mount shows.
    pub(super) root: Arc<Dentry>,
    /// The mount and the entry that it covers.
    pub(super) over: Option<(Arc<Self>, Arc<Dentry>)>,
    pub(super) read_only: bool,
    /// Something is mounted somewhere in it.
    pub(super) covered: AtomicBool,
}

impl Mount {
    /// What mounts in this mount are found by: entries of synthetic file systems are made anew at each look-up, so
    /// their id stands for them.
    fn key(&self, dentry: &Arc<Dentry>) -> (MountId, usize) {
        let place = match &dentry.inode.body {
            Body::Synthetic { id, .. } => id.0 as usize,
            _ => Arc::as_ptr(dentry) as usize,
        };
        (self.id, place)
    }
}

/// All mounts of a step.
#[derive(Default)]
pub(super) struct MountTable {
    by_place: HashMap<(MountId, usize), Arc<Mount>>,
    pub(super) in_order: Vec<Arc<Mount>>,
}

impl MountTable {
    pub(super) fn add(&mut self, mount: Arc<Mount>) {
        if let Some((parent, dentry)) = &mount.over {
            self.by_place.insert(parent.key(dentry), Arc::clone(&mount));
            dentry.mounted.fetch_add(1, Ordering::AcqRel);
            parent.covered.store(true, Ordering::Release);
        }
        self.in_order.push(mount);
    }

    pub(super) fn over(&self, mount: &Mount, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        self.by_place.get(&mount.key(dentry)).cloned()
    }
}
