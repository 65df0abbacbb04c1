//! Watching files for changes.

use cooper_vfs::{AccessMode, Errno, FileKind, Follow};

use super::file::install;
use super::{Entry, SysResult, full, partial};
use crate::cx::Cx;
use crate::files::description::status;
use crate::files::inotify::{InotifyFile, event};
use crate::files::{Description, Kind, place};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(253, "inotify_init", inotify_init),
    partial(254, "inotify_add_watch", inotify_add_watch, "IN_UNMOUNT never comes, as nothing is unmounted"),
    full(255, "inotify_rm_watch", inotify_rm_watch),
    full(294, "inotify_init1", inotify_init1),
];

fn inotify_init(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    make(cx, 0)
}

fn inotify_init1(cx: &mut Cx<'_>, [flags, ..]: [u64; 6]) -> SysResult {
    make(cx, flags as u32)
}

/// `EINVAL` for unknown flags.
fn make(cx: &Cx<'_>, flags: u32) -> SysResult {
    const CLOEXEC: u32 = 0o2_000_000;
    if flags & !(CLOEXEC | status::NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let description =
        Description::new(Box::new(InotifyFile::new()), status::READ_ONLY | flags & status::NONBLOCK, None);
    install(cx, description, flags & CLOEXEC != 0)
}

/// `EBADF`; `EINVAL` for another kind of file and for a mask without events or with `IN_MASK_ADD` and
/// `IN_MASK_CREATE` together; the path's errors; `ENOTDIR` with `IN_ONLYDIR`; `EACCES` for what may not be read.
fn inotify_add_watch(cx: &mut Cx<'_>, [number, path, mask, ..]: [u64; 6]) -> SysResult {
    const HERE: u64 = crate::cx::AT_FDCWD as u64;
    const KNOWN: u32 = event::ALL
        | event::ONLY_DIRECTORY
        | event::DONT_FOLLOW
        | event::EXCLUDE_UNLINKED
        | event::MASK_CREATE
        | event::MASK_ADD
        | event::ONE_SHOT;
    let mask = mask as u32;
    let both = event::MASK_ADD | event::MASK_CREATE;
    if mask & KNOWN == 0 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(number)?;
    if mask & both == both {
        return Err(Errno::INVAL.into());
    }
    let Kind::Inotify(inotify) = file.object().kind() else { return Err(Errno::INVAL.into()) };
    let path = cx.path(path)?;
    let follow = if mask & event::DONT_FOLLOW != 0 { Follow::No } else { Follow::Yes };
    let base = place::base(cx, HERE, &path)?;
    let position = cx.kernel.root_fs.resolve(&cx.walk(), &base, &path, follow)?;
    if mask & event::ONLY_DIRECTORY != 0 && position.kind() != FileKind::Directory {
        return Err(Errno::NOTDIR.into());
    }
    position.access(&cx.walk(), AccessMode::READ)?;
    Ok(inotify.add(&position.node(), mask & KNOWN)? as u64)
}

/// `EBADF`; `EINVAL` for another kind of file and for an unknown watch.
fn inotify_rm_watch(cx: &mut Cx<'_>, [number, watch, ..]: [u64; 6]) -> SysResult {
    let file = cx.file(number)?;
    let Kind::Inotify(inotify) = file.object().kind() else { return Err(Errno::INVAL.into()) };
    inotify.remove(watch as i32)?;
    Ok(0)
}
