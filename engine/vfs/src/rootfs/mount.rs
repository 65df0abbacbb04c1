//! Mounts: what is seen where.

use std::sync::Arc;

use super::Position;
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
