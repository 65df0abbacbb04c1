//! File systems that somebody else makes up as they are looked at: `/proc`, `/sys`.
//!
//! The vfs mounts them, walks them, checks permission by what their `stat` says and leaves the rest to the
//! implementation. Nothing in them is ever recorded.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use rustix::io::Errno;

use crate::credentials::Caller;
use crate::rootfs::{OpenFlags, Position, Stat};
use crate::tree::FileKind;

/// A node of a synthetic file system, by whatever number the implementation likes. Equal ids are the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyntheticId(pub u64);

/// A made-up file system. Calls may come from several threads at once, and answers may differ by caller.
pub trait SyntheticFs: Send + Sync + fmt::Debug {
    /// The root directory.
    fn root(&self) -> SyntheticId;

    /// The node of this name in a directory. Never called with `.` or `..`.
    fn lookup(&self, directory: SyntheticId, name: &[u8], caller: &Caller) -> Result<SyntheticId, Errno>;

    /// The node's attributes; `device` and `mount_id` are filled in by the mount, `ESTALE` or `ENOENT` for a node that is gone.
    fn stat(&self, node: SyntheticId, caller: &Caller) -> Result<Stat, Errno>;

    /// The directory's entries without `.` and `..`, in a stable order.
    fn list(&self, directory: SyntheticId, caller: &Caller) -> Result<Vec<SyntheticEntry>, Errno>;

    /// Where a symbolic link leads.
    fn read_link(&self, link: SyntheticId, caller: &Caller) -> Result<Link, Errno>;

    /// Opens a file (never a directory, a link or a character device).
    fn open(
        &self,
        file: SyntheticId,
        flags: OpenFlags,
        caller: &Caller,
    ) -> Result<Arc<dyn SyntheticFile>, Errno>;

    /// The number that `statfs` gives as the type; `/proc` has `0x9fa0`, `/sys` `0x62656572`.
    fn magic(&self) -> u64;

    /// The name that `/proc/mounts` shows as the type.
    fn type_name(&self) -> &str;
}

/// One entry of a synthetic directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Its inode number.
    pub inode: u64,
}

/// Where a synthetic link leads.
#[derive(Clone, Debug)]
pub enum Link {
    /// To a path, as any symbolic link.
    Path(Vec<u8>),
    /// Straight to a place, whatever its path is now (`/proc/self/fd/3`, `/proc/self/exe`, `/proc/self/cwd`).
    Position(Position),
    /// To something that has no place: a pipe, a socket.
    Object {
        /// The thing itself; [`Opened::Object`](crate::rootfs::Opened::Object) hands it back.
        object: Arc<dyn Any + Send + Sync>,
        /// What `readlink` shows, `pipe:[12]` for one.
        display: Vec<u8>,
        /// What `stat` through the link gives.
        stat: Box<Stat>,
    },
}

/// An open file of a synthetic file system.
pub trait SyntheticFile: Send + Sync + fmt::Debug {
    /// Reads at an offset; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes at an offset; `EINVAL` or what the file answers when it cannot be written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, Errno>;
}
