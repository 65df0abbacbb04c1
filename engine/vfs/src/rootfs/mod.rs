//! One step's writable world.

mod mount;
mod types;

use std::any::Any;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

pub use mount::{MountId, MountInfo, MountOptions, MountSource};
pub use types::*;

use crate::content::{ContentId, ContentStore};
use crate::credentials::Walk;
use crate::synthetic::SyntheticFile;
use crate::time::Clock;
use crate::tree::{FileKind, Tree};

/// One step's writable root file system. Clones are the same file system.
#[derive(Clone, Debug)]
pub struct RootFs {}

/// A name in the mounted tree: a mount and a directory entry in it.
///
/// Stays valid when the name is renamed or removed.
#[derive(Clone, Debug)]
pub struct Position {}

/// An inode, compared by identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeRef {}

/// What an `open` gave.
#[derive(Debug)]
pub enum Opened {
    /// A regular file.
    File(FileHandle),
    /// A directory.
    Directory(DirectoryHandle),
    /// A named pipe; the pipe itself is the caller's, kept in [`NodeRef::attachment`].
    Fifo(NodeRef),
    /// A device node.
    Device {
        /// The node.
        node: NodeRef,
        /// Character or block device.
        character: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// `O_PATH`: the place is all there is.
    Path,
    /// A file of a synthetic file system.
    Synthetic(Arc<dyn SyntheticFile>),
    /// What a magic link led to that has no place.
    Object(Arc<dyn Any + Send + Sync>),
}

/// An opened thing and where it was opened.
#[derive(Debug)]
pub struct OpenResult {
    /// What it is.
    pub opened: Opened,
    /// Where.
    pub position: Position,
    /// Whether this call made it.
    pub created: bool,
}

/// An open regular file; the offset is the caller's.
#[derive(Clone, Debug)]
pub struct FileHandle {}

/// An open directory; the offset (a cookie) is the caller's.
#[derive(Clone, Debug)]
pub struct DirectoryHandle {}

/// While it lives, the file cannot be opened for writing (`ETXTBSY`): it is being executed.
#[derive(Debug)]
pub struct WriteDenial {}

#[allow(unused_variables, missing_docs, reason = "bodies follow")]
impl RootFs {
    pub fn new(tree: Tree, store: Arc<dyn ContentStore>, clock: Arc<dyn Clock>, limits: RootFsLimits) -> io::Result<Self> { Err(io::ErrorKind::Unsupported.into()) }
    pub fn root(&self) -> Position { Position {} }
    pub fn mount(&self, target: &[u8], source: MountSource, options: MountOptions) -> Result<MountId, Errno> { Err(Errno::NOSYS) }
    pub fn mount_at(&self, target: &Position, source: MountSource, options: MountOptions) -> Result<MountId, Errno> { Err(Errno::NOSYS) }
    pub fn mounts(&self) -> Vec<MountInfo> { Vec::new() }
    pub fn finish(&self) -> io::Result<StepChanges> { Err(io::ErrorKind::Unsupported.into()) }
    /// The same for one mount of a tree or a tmpfs: what a cache mount keeps.
    pub fn finish_mount(&self, mount: MountId) -> io::Result<StepChanges> { Err(io::ErrorKind::Unsupported.into()) }
    pub fn take_host_error(&self) -> Option<io::Error> { None }
    /// Bytes of contents held now (for reports).
    pub fn spool_bytes(&self) -> u64 { 0 }

    pub fn resolve(&self, walk: &Walk, base: &Position, path: &[u8], follow: Follow) -> Result<Position, Errno> { Err(Errno::NOSYS) }
    pub fn open(&self, walk: &Walk, base: &Position, path: &[u8], flags: OpenFlags, mode: u16) -> Result<OpenResult, Errno> { Err(Errno::NOSYS) }
    /// Opens a place that is already known (`/proc/self/fd/3`, exec): as `open` without a path.
    pub fn open_position(&self, walk: &Walk, position: &Position, flags: OpenFlags) -> Result<OpenResult, Errno> { Err(Errno::NOSYS) }
    pub fn make_directory(&self, walk: &Walk, base: &Position, path: &[u8], mode: u16) -> Result<Position, Errno> { Err(Errno::NOSYS) }
    /// `mode` with type bits (none: regular file); `device` as `st_rdev`.
    pub fn make_node(&self, walk: &Walk, base: &Position, path: &[u8], mode: u32, device: u64) -> Result<Position, Errno> { Err(Errno::NOSYS) }
    pub fn symlink(&self, walk: &Walk, target: &[u8], base: &Position, path: &[u8]) -> Result<Position, Errno> { Err(Errno::NOSYS) }
    pub fn link(&self, walk: &Walk, old_base: &Position, old_path: &[u8], follow: Follow, new_base: &Position, new_path: &[u8]) -> Result<(), Errno> { Err(Errno::NOSYS) }
    /// Links an open file or place (`AT_EMPTY_PATH`, `O_TMPFILE` files).
    pub fn link_position(&self, walk: &Walk, source: &Position, new_base: &Position, new_path: &[u8]) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn unlink(&self, walk: &Walk, base: &Position, path: &[u8]) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn remove_directory(&self, walk: &Walk, base: &Position, path: &[u8]) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn rename(&self, walk: &Walk, old_base: &Position, old_path: &[u8], new_base: &Position, new_path: &[u8], flags: RenameFlags) -> Result<(), Errno> { Err(Errno::NOSYS) }
    /// `EINVAL` for what is no link; an empty path reads the link that `base` is.
    pub fn read_link(&self, walk: &Walk, base: &Position, path: &[u8]) -> Result<Vec<u8>, Errno> { Err(Errno::NOSYS) }
}

#[allow(unused_variables, missing_docs, reason = "bodies follow")]
impl Position {
    pub fn node(&self) -> NodeRef { NodeRef {} }
    pub fn kind(&self) -> FileKind { FileKind::File }
    pub fn stat(&self, walk: &Walk) -> Result<Stat, Errno> { Err(Errno::NOSYS) }
    pub fn statfs(&self) -> Result<StatFs, Errno> { Err(Errno::NOSYS) }
    /// Path from `root`; ends in ` (deleted)` for a removed name. `None` when it is not below `root`.
    pub fn path(&self, root: &Self) -> Option<Vec<u8>> { None }
    pub fn parent(&self) -> Self { Self {} }
    pub fn is_removed(&self) -> bool { false }
    pub fn access(&self, walk: &Walk, mode: AccessMode) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn set_mode(&self, walk: &Walk, mode: u16) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn set_owner(&self, walk: &Walk, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn set_times(&self, walk: &Walk, atime: TimeChange, mtime: TimeChange) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn truncate(&self, walk: &Walk, length: u64) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn get_xattr(&self, walk: &Walk, name: &[u8]) -> Result<Vec<u8>, Errno> { Err(Errno::NOSYS) }
    pub fn set_xattr(&self, walk: &Walk, name: &[u8], value: &[u8], condition: XattrCondition) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn remove_xattr(&self, walk: &Walk, name: &[u8]) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn list_xattr(&self, walk: &Walk) -> Result<Vec<Vec<u8>>, Errno> { Err(Errno::NOSYS) }
    /// The object of a magic link that has no place (see [`Link::Object`](crate::synthetic::Link::Object)).
    pub fn object(&self) -> Option<Arc<dyn Any + Send + Sync>> { None }
}

#[allow(unused_variables, missing_docs, reason = "bodies follow")]
impl NodeRef {
    pub fn inode(&self) -> u64 { 0 }
    /// Something of the caller's that lives as long as the inode: pipe, listening socket, locks. One per type.
    pub fn attachment<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> { Arc::new(make()) }
    /// `ETXTBSY` when the file is open for writing.
    pub fn deny_write(&self) -> Result<WriteDenial, Errno> { Err(Errno::NOSYS) }
}

#[allow(unused_variables, missing_docs, reason = "bodies follow")]
impl FileHandle {
    pub fn node(&self) -> NodeRef { NodeRef {} }
    pub fn size(&self) -> u64 { 0 }
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> { Err(Errno::NOSYS) }
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> { Err(Errno::NOSYS) }
    /// Writes at the end; returns the offset after what was written, and how much.
    pub fn append(&self, data: &[u8]) -> Result<(u64, usize), Errno> { Err(Errno::NOSYS) }
    pub fn truncate(&self, length: u64) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn allocate(&self, mode: AllocateMode, offset: u64, length: u64) -> Result<(), Errno> { Err(Errno::NOSYS) }
    pub fn seek_data(&self, offset: u64) -> Result<u64, Errno> { Err(Errno::NOSYS) }
    pub fn seek_hole(&self, offset: u64) -> Result<u64, Errno> { Err(Errno::NOSYS) }
    pub fn sync(&self) -> Result<(), Errno> { Ok(()) }
    /// Where clean contents can be mapped in place for a private map; `None`: read them instead (small, or being written: see `map_shared`).
    pub fn mapping(&self) -> Result<Option<Mapping>, Errno> { Err(Errno::NOSYS) }
    /// Puts the file into a spool of its own for good, for `MAP_SHARED`; also for private maps of written files.
    pub fn map_shared(&self) -> Result<Mapping, Errno> { Err(Errno::NOSYS) }
    /// Tells that bytes were written through a shared map (`msync`, `munmap`).
    pub fn mark_written(&self) -> Result<(), Errno> { Err(Errno::NOSYS) }
    /// Rises with every write.
    pub fn generation(&self) -> u64 { 0 }
    /// The id of the bytes, while they are still the ingested ones.
    pub fn content_id(&self) -> Option<ContentId> { None }
    pub fn copy_from(&self, source: &Self, source_offset: u64, offset: u64, length: u64) -> Result<u64, Errno> { Err(Errno::NOSYS) }
}

#[allow(unused_variables, missing_docs, reason = "bodies follow")]
impl DirectoryHandle {
    /// Up to `maximum` names after `cookie` (0: from the start).
    pub fn read(&self, walk: &Walk, cookie: u64, maximum: usize) -> Result<Vec<DirectoryItem>, Errno> { Err(Errno::NOSYS) }
}
