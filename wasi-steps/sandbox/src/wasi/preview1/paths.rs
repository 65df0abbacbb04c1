//! Paths, relative to a directory descriptor.

use super::super::errno::Errno;
use super::super::process::Guest;
use super::descriptors::{linux_flags, open, rights};
use super::{Done, call};

/// `lookupflags`: a symbolic link at the end is followed.
const FOLLOW: u32 = 1;
/// `AT_SYMLINK_NOFOLLOW`.
const NO_FOLLOW: u64 = 0x100;
/// `AT_SYMLINK_FOLLOW`.
const LINK_FOLLOW: u64 = 0x400;
/// `AT_REMOVEDIR`.
const REMOVE_DIRECTORY: u64 = 0x200;
/// Modes of what is made; the file creation mask takes its bits away.
const FILE_MODE: u64 = 0o666;
const DIRECTORY_MODE: u64 = 0o777;

fn no_follow(lookup: u32) -> Result<u64, Errno> {
    match lookup {
        FOLLOW => Ok(0),
        0 => Ok(NO_FOLLOW),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn path_create_directory(guest: &mut Guest, fd: u32, path: u32, length: u32) -> Done {
    let path = guest.path(0, path, length)?;
    guest.call(call::MKDIRAT, [fd.into(), path, DIRECTORY_MODE, 0, 0, 0])?;
    Ok(())
}

pub(super) fn path_filestat_get(
    guest: &mut Guest,
    fd: u32,
    lookup: u32,
    path: u32,
    length: u32,
    result: u32,
) -> Done {
    let path = guest.path(0, path, length)?;
    guest.call(call::NEWFSTATAT, [fd.into(), path, Guest::ROOM.0, no_follow(lookup)?, 0, 0])?;
    guest.store_filestat(None, result)
}

#[expect(clippy::too_many_arguments, reason = "the function of the specification")]
pub(super) fn path_filestat_set_times(
    guest: &mut Guest,
    fd: u32,
    lookup: u32,
    path: u32,
    length: u32,
    accessed: u64,
    modified: u64,
    flags: u32,
) -> Done {
    let path = guest.path(0, path, length)?;
    let times = guest.put_times(accessed, modified, flags)?;
    guest.call(call::UTIMENSAT, [fd.into(), path, times, no_follow(lookup)?, 0, 0])?;
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the function of the specification")]
pub(super) fn path_link(
    guest: &mut Guest,
    old_fd: u32,
    lookup: u32,
    old: u32,
    old_length: u32,
    new_fd: u32,
    new: u32,
    new_length: u32,
) -> Done {
    let flags = if no_follow(lookup)? == 0 { LINK_FOLLOW } else { 0 };
    let old = guest.path(0, old, old_length)?;
    let new = guest.path(1, new, new_length)?;
    guest.call(call::LINKAT, [old_fd.into(), old, new_fd.into(), new, flags, 0])?;
    Ok(())
}

/// `oflags`, and Linux's.
const OPEN: [(u32, u64); 4] =
    [(1, open::CREATE), (2, open::DIRECTORY), (4, open::EXCLUSIVE), (8, open::TRUNCATE)];

#[expect(clippy::too_many_arguments, reason = "the function of the specification")]
pub(super) fn path_open(
    guest: &mut Guest,
    fd: u32,
    lookup: u32,
    path: u32,
    length: u32,
    how: u32,
    base: u64,
    _inheriting: u64,
    flags: u32,
    result: u32,
) -> Done {
    if how >= 16 || flags >= 32 {
        return Err(Errno::INVAL.into());
    }
    let path = guest.path(0, path, length)?;
    let writes = base & (rights::WRITE | rights::CHANGE) != 0;
    let access = match (base & rights::READ != 0, writes) {
        // A directory is opened for whatever its user asks, and is never written to.
        _ if how & 2 != 0 => 0,
        (true, true) => open::READ_WRITE,
        (false, true) => open::WRITE_ONLY,
        (_, false) => 0,
    };
    let mut linux = access | open::CLOEXEC | linux_flags(flags);
    linux |= OPEN.iter().filter(|(flag, _)| how & flag != 0).fold(0, |all, (_, linux)| all | linux);
    if no_follow(lookup)? != 0 {
        linux |= open::NOFOLLOW;
    }
    let opened = guest.call(call::OPENAT, [fd.into(), path, linux, FILE_MODE, 0, 0])?;
    if let Err(errno) = guest.space.store(result.into(), opened as u32) {
        guest.call(call::CLOSE, [opened, 0, 0, 0, 0, 0])?;
        return Err(errno.into());
    }
    Ok(())
}

pub(super) fn path_readlink(
    guest: &mut Guest,
    fd: u32,
    path: u32,
    length: u32,
    buffer: u32,
    size: u32,
    result: u32,
) -> Done {
    let path = guest.path(0, path, length)?;
    if size == 0 {
        return Ok(guest.space.store(result.into(), 0_u32)?);
    }
    let count = guest.call(call::READLINKAT, [fd.into(), path, buffer.into(), size.into(), 0, 0])?;
    Ok(guest.space.store(result.into(), count as u32)?)
}

pub(super) fn path_remove_directory(guest: &mut Guest, fd: u32, path: u32, length: u32) -> Done {
    let path = guest.path(0, path, length)?;
    guest.call(call::UNLINKAT, [fd.into(), path, REMOVE_DIRECTORY, 0, 0, 0])?;
    Ok(())
}

pub(super) fn path_unlink_file(guest: &mut Guest, fd: u32, path: u32, length: u32) -> Done {
    let path = guest.path(0, path, length)?;
    guest.call(call::UNLINKAT, [fd.into(), path, 0, 0, 0, 0])?;
    Ok(())
}

pub(super) fn path_rename(
    guest: &mut Guest,
    fd: u32,
    old: u32,
    old_length: u32,
    new_fd: u32,
    new: u32,
    new_length: u32,
) -> Done {
    let old = guest.path(0, old, old_length)?;
    let new = guest.path(1, new, new_length)?;
    guest.call(call::RENAMEAT, [fd.into(), old, new_fd.into(), new, 0, 0])?;
    Ok(())
}

pub(super) fn path_symlink(
    guest: &mut Guest,
    old: u32,
    old_length: u32,
    fd: u32,
    new: u32,
    new_length: u32,
) -> Done {
    let old = guest.link_text(0, old, old_length)?;
    let new = guest.path(1, new, new_length)?;
    guest.call(call::SYMLINKAT, [old, fd.into(), new, 0, 0, 0])?;
    Ok(())
}
