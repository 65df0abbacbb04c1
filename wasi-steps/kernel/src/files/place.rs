//! Directory descriptors and paths: what the `at` calls start from and end at.

use std::sync::Arc;

use cooper_vfs::{Follow, Position, Stat, Timestamp};

use super::{Description, Errno};
use crate::cx::{AT_FDCWD, Cx};

/// Flags of the `at` calls.
pub(crate) mod at {
    /// The final symbolic link is what is meant.
    pub(crate) const SYMLINK_NOFOLLOW: u32 = 0x100;
    /// `unlinkat` removes a directory.
    pub(crate) const REMOVEDIR: u32 = 0x200;
    /// `faccessat2` checks the effective ids.
    pub(crate) const EACCESS: u32 = 0x200;
    /// The final symbolic link is followed (`linkat`).
    pub(crate) const SYMLINK_FOLLOW: u32 = 0x400;
    /// Automounts are not triggered; there are none.
    pub(crate) const NO_AUTOMOUNT: u32 = 0x800;
    /// An empty path means the descriptor.
    pub(crate) const EMPTY_PATH: u32 = 0x1000;
    /// `statx` synchronisation, without meaning here.
    pub(crate) const STATX_SYNC: u32 = 0x6000;
}

/// What an `at` call means.
#[derive(Debug)]
pub(crate) enum Target {
    /// A place of the file system.
    Position(Position),
    /// An open file without a place.
    Description(Arc<Description>),
}

/// Returns where a path starts.
///
/// `EBADF` when it is relative and the descriptor is not open; `ENOTDIR` when that is no directory.
pub(crate) fn base(cx: &Cx<'_>, directory: u64, path: &[u8]) -> Result<Position, Errno> {
    if path.first() == Some(&b'/') {
        return Ok(cx.walk().root.clone());
    }
    if directory as i32 == AT_FDCWD {
        return Ok(cx.cwd());
    }
    cx.file(directory)?.position().cloned().ok_or(Errno::NOTDIR)
}

/// Whether the final symbolic link is followed under `AT_SYMLINK_NOFOLLOW`.
pub(crate) fn follow(flags: u32) -> Follow {
    if flags & at::SYMLINK_NOFOLLOW != 0 { Follow::No } else { Follow::Yes }
}

/// Resolves the path of an `at` call, or takes the descriptor for an empty path with `AT_EMPTY_PATH`.
///
/// `EINVAL` for flags outside `allowed`; `ENOENT` for an empty path; then as the file system resolves it.
pub(crate) fn target(
    cx: &Cx<'_>,
    directory: u64,
    address: u64,
    flags: u32,
    allowed: u32,
) -> Result<Target, Errno> {
    if flags & !allowed != 0 {
        return Err(Errno::INVAL);
    }
    // A null pointer with AT_EMPTY_PATH is an empty path since Linux 6.11.
    let empty_allowed = flags & at::EMPTY_PATH != 0;
    let path = if address == 0 && empty_allowed { Vec::new() } else { cx.path(address)? };
    if path.is_empty() && empty_allowed {
        if directory as i32 == AT_FDCWD {
            return Ok(Target::Position(cx.cwd()));
        }
        let file = cx.file(directory)?;
        return Ok(match file.position() {
            Some(position) => Target::Position(position.clone()),
            None => Target::Description(file),
        });
    }
    let base = base(cx, directory, &path)?;
    cx.kernel.root_fs.resolve(&cx.walk(), &base, &path, follow(flags)).map(Target::Position)
}

/// The same for calls that only make sense for places. `EINVAL` for an object without one.
pub(crate) fn position(
    cx: &Cx<'_>,
    directory: u64,
    address: u64,
    flags: u32,
    allowed: u32,
) -> Result<Position, Errno> {
    match target(cx, directory, address, flags, allowed)? {
        Target::Position(position) => Ok(position),
        Target::Description(_) => Err(Errno::INVAL),
    }
}

/// Returns the attributes of a target.
pub(crate) fn stat_target(cx: &Cx<'_>, target: &Target) -> Result<Stat, Errno> {
    match target {
        Target::Position(position) => match position.object() {
            Some(object) => match object.downcast::<Description>() {
                Ok(description) => Ok(stat_object(&description)),
                Err(_) => position.stat(&cx.walk()),
            },
            None => position.stat(&cx.walk()),
        },
        Target::Description(description) => Ok(stat_object(description)),
    }
}

/// Returns the attributes of an open file.
pub(crate) fn stat_description(cx: &Cx<'_>, description: &Description) -> Result<Stat, Errno> {
    match description.position() {
        Some(position) => position.stat(&cx.walk()),
        None => Ok(stat_object(description)),
    }
}

/// Returns the attributes of an object without a place.
pub(crate) fn stat_object(description: &Description) -> Stat {
    let Some(anonymous) = description.object().anonymous() else { return Stat::default() };
    let zero = Timestamp { seconds: 0, nanoseconds: 0 };
    Stat {
        device: OBJECT_DEVICE,
        inode: anonymous.inode,
        mode: anonymous.mode,
        links: 1,
        size: anonymous.size,
        block_size: 4096,
        atime: zero,
        mtime: zero,
        ctime: zero,
        btime: zero,
        ..Stat::default()
    }
}

/// The device number of objects without a place.
const OBJECT_DEVICE: u64 = 14;
