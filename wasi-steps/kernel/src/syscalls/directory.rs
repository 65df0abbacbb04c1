//! Names: directories, links, renaming, the working and root directories.

use cooper_vfs::{Capabilities, DirectoryItem, Errno, FileKind, Follow, Position, RenameFlags};

use super::{Entry, SysResult, full, partial, refused};
use crate::cx::{AT_FDCWD, Cx};
use crate::files::Kind;
use crate::files::description::status;
use crate::files::inotify::{self, Name};
use crate::files::place::{self, at};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(78, "getdents", getdents),
    full(79, "getcwd", getcwd),
    full(80, "chdir", chdir),
    full(81, "fchdir", fchdir),
    full(82, "rename", rename),
    full(83, "mkdir", mkdir),
    full(84, "rmdir", rmdir),
    full(86, "link", link),
    full(87, "unlink", unlink),
    full(88, "symlink", symlink),
    full(89, "readlink", readlink),
    full(133, "mknod", mknod),
    full(161, "chroot", chroot),
    full(217, "getdents64", getdents64),
    full(258, "mkdirat", mkdirat),
    full(259, "mknodat", mknodat),
    full(263, "unlinkat", unlinkat),
    full(264, "renameat", renameat),
    full(265, "linkat", linkat),
    full(266, "symlinkat", symlinkat),
    full(267, "readlinkat", readlinkat),
    refused(300, "fanotify_init", refuse_eperm, "needs CAP_SYS_ADMIN, as in any container"),
    refused(301, "fanotify_mark", refuse_eperm, "see fanotify_init"),
    refused(304, "open_by_handle_at", refuse_eperm, "needs CAP_DAC_READ_SEARCH, as in any container"),
    partial(316, "renameat2", renameat2, "RENAME_WHITEOUT is EINVAL"),
];

const HERE: u64 = AT_FDCWD as u64;

fn refuse_eperm(_cx: &mut Cx<'_>, _arguments: [u64; 6]) -> SysResult {
    Err(Errno::PERM.into())
}

/// A path as a call gives it, with where it starts.
fn from(cx: &Cx<'_>, directory: u64, address: u64) -> Result<(Position, Vec<u8>), Errno> {
    let path = cx.path(address)?;
    Ok((place::base(cx, directory, &path)?, path))
}

/// The name that a call is about to change, where somebody may watch it.
fn watched(cx: &Cx<'_>, base: &Position, path: &[u8]) -> Option<Name> {
    if !inotify::is_used() {
        return None;
    }
    let position = cx.kernel.root_fs.resolve(&cx.walk(), base, path, Follow::No).ok()?;
    Some(Name::of(&cx.walk(), position))
}

/// Tells that a name was made, where somebody may watch.
fn tell_created(cx: &Cx<'_>, base: &Position, path: &[u8]) {
    if inotify::is_used()
        && let Ok(position) = cx.kernel.root_fs.resolve(&cx.walk(), base, path, Follow::No)
    {
        inotify::tell_created(&position);
    }
}

/// Names fetched from the file system at a time.
const BATCH: usize = 128;

/// The layout of a directory entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `struct linux_dirent`: the type is the last byte.
    Old,
    /// `struct linux_dirent64`.
    New,
}

impl Layout {
    fn encode(self, item: &DirectoryItem, into: &mut Vec<u8>) {
        let start = into.len();
        let header = if self == Self::New { 19 } else { 18 };
        // The old layout has one more byte behind the name: the type.
        let tail = if self == Self::New { 1 } else { 2 };
        let length = (header + item.name.len() + tail).next_multiple_of(8);
        into.extend(item.inode.to_le_bytes());
        into.extend(item.next_cookie.to_le_bytes());
        into.extend((length as u16).to_le_bytes());
        if self == Self::New {
            into.push(type_number(item.kind));
        }
        into.extend(&item.name);
        into.resize(start + length, 0);
        if self == Self::Old {
            into[start + length - 1] = type_number(item.kind);
        }
    }
}

/// The number of `d_type`.
fn type_number(kind: FileKind) -> u8 {
    match kind {
        FileKind::Fifo => 1,
        FileKind::CharacterDevice => 2,
        FileKind::Directory => 4,
        FileKind::BlockDevice => 6,
        FileKind::File => 8,
        FileKind::Symlink => 10,
        FileKind::Socket => 12,
    }
}

fn getdents(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    list(cx, arguments, Layout::Old)
}

fn getdents64(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    list(cx, arguments, Layout::New)
}

/// `EBADF`; `ENOTDIR`; `EINVAL` for a buffer too small for one entry; `EFAULT`.
fn list(cx: &Cx<'_>, [number, address, size, ..]: [u64; 6], layout: Layout) -> SysResult {
    let file = cx.file(number)?;
    file.check_readable()?;
    let Kind::Directory(directory) = file.object().kind() else { return Err(Errno::NOTDIR.into()) };
    let room = size as u32 as usize;
    let mut offset = file.offset();
    let mut bytes = Vec::with_capacity(room.min(32 * 1024));
    let mut cookie = *offset;
    'fill: loop {
        let items = directory.handle().read(&cx.walk(), cookie, BATCH)?;
        let last = items.len() < BATCH;
        for item in items {
            let before = bytes.len();
            layout.encode(&item, &mut bytes);
            if bytes.len() > room {
                bytes.truncate(before);
                if before == 0 {
                    return Err(Errno::INVAL.into());
                }
                break 'fill;
            }
            cookie = item.next_cookie;
        }
        if last {
            break;
        }
    }
    cx.memory().write_bytes(address, &bytes)?;
    *offset = cookie;
    Ok(bytes.len() as u64)
}

/// `ENOENT` for a removed directory; `ERANGE` for a buffer too small; the length with its zero.
fn getcwd(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [address, size, ..] = arguments;
    let cwd = cx.cwd();
    if cwd.is_removed() {
        return Err(Errno::NOENT.into());
    }
    let mut path = cwd.path(cx.walk().root).unwrap_or_else(|| b"(unreachable)/".to_vec());
    path.push(0);
    if path.len() as u64 > size {
        return Err(Errno::RANGE.into());
    }
    cx.memory().write_bytes(address, &path)?;
    Ok(path.len() as u64)
}

/// Fails unless the place is a directory that may be searched.
fn check_directory(cx: &Cx<'_>, position: &Position) -> Result<(), Errno> {
    if position.kind() != FileKind::Directory {
        return Err(Errno::NOTDIR);
    }
    position.access(&cx.walk(), cooper_vfs::AccessMode::EXECUTE)
}

fn chdir(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = place::position(cx, HERE, arguments[0], 0, 0)?;
    check_directory(cx, &position)?;
    cx.fs().set_cwd(position);
    Ok(0)
}

fn fchdir(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    let position = file.position().cloned().ok_or(Errno::NOTDIR)?;
    check_directory(cx, &position)?;
    cx.fs().set_cwd(position);
    Ok(0)
}

/// As `chdir`; then `EPERM` without `CAP_SYS_CHROOT`.
fn chroot(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = place::position(cx, HERE, arguments[0], 0, 0)?;
    check_directory(cx, &position)?;
    if !cx.credentials().holds(Capabilities::SYS_CHROOT) {
        return Err(Errno::PERM.into());
    }
    cx.fs().set_root(position);
    Ok(0)
}

fn mkdir(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_directory(cx, HERE, arguments[0], arguments[1])
}

fn mkdirat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_directory(cx, arguments[0], arguments[1], arguments[2])
}

fn make_directory(cx: &Cx<'_>, directory: u64, path: u64, mode: u64) -> SysResult {
    let (base, path) = from(cx, directory, path)?;
    let mode = (mode as u32 & 0o1777 & !cx.fs().umask()) as u16;
    cx.kernel.root_fs.make_directory(&cx.walk(), &base, &path, mode)?;
    tell_created(cx, &base, &path);
    Ok(0)
}

fn mknod(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_node(cx, HERE, arguments[0], arguments[1], arguments[2])
}

fn mknodat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_node(cx, arguments[0], arguments[1], arguments[2], arguments[3])
}

fn make_node(cx: &Cx<'_>, directory: u64, path: u64, mode: u64, device: u64) -> SysResult {
    let (base, path) = from(cx, directory, path)?;
    let mode = mode as u32 & 0o177_777;
    let mode = mode & 0o170_000 | mode & 0o7777 & !cx.fs().umask();
    cx.kernel.root_fs.make_node(&cx.walk(), &base, &path, mode, u64::from(device as u32))?;
    tell_created(cx, &base, &path);
    Ok(0)
}

fn rmdir(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    remove(cx, HERE, arguments[0], Removed::Directory)
}

fn unlink(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    remove(cx, HERE, arguments[0], Removed::Name)
}

/// What a call removes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removed {
    Directory,
    Name,
}

fn remove(cx: &Cx<'_>, directory: u64, path: u64, what: Removed) -> SysResult {
    let (base, path) = from(cx, directory, path)?;
    let name = watched(cx, &base, &path);
    match what {
        Removed::Directory => cx.kernel.root_fs.remove_directory(&cx.walk(), &base, &path)?,
        Removed::Name => cx.kernel.root_fs.unlink(&cx.walk(), &base, &path)?,
    }
    name.inspect(Name::tell_removed);
    Ok(0)
}

fn unlinkat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [directory, path, flags, ..] = arguments;
    if flags as u32 & !at::REMOVEDIR != 0 {
        return Err(Errno::INVAL.into());
    }
    let is_directory = flags as u32 & at::REMOVEDIR != 0;
    remove(cx, directory, path, if is_directory { Removed::Directory } else { Removed::Name })
}

fn rename(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    rename_at(cx, [HERE, arguments[0]], [HERE, arguments[1]], 0)
}

fn renameat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [old, old_path, new, new_path, ..] = arguments;
    rename_at(cx, [old, old_path], [new, new_path], 0)
}

fn renameat2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [old, old_path, new, new_path, flags, _] = arguments;
    rename_at(cx, [old, old_path], [new, new_path], flags as u32)
}

/// `EINVAL` for unknown flags and for `RENAME_NOREPLACE` together with `RENAME_EXCHANGE`.
fn rename_at(cx: &Cx<'_>, old: [u64; 2], new: [u64; 2], flags: u32) -> SysResult {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    if flags.contains(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE) {
        return Err(Errno::INVAL.into());
    }
    let (old_base, old_path) = from(cx, old[0], old[1])?;
    let (new_base, new_path) = from(cx, new[0], new[1])?;
    let moved = watched(cx, &old_base, &old_path);
    let replaced = watched(cx, &new_base, &new_path).filter(|_| !flags.contains(RenameFlags::EXCHANGE));
    cx.kernel.root_fs.rename(&cx.walk(), &old_base, &old_path, &new_base, &new_path, flags)?;
    if let Some(moved) = moved
        && let Ok(to) = cx.kernel.root_fs.resolve(&cx.walk(), &new_base, &new_path, Follow::No)
    {
        moved.tell_moved(&to, replaced.as_ref());
    }
    Ok(0)
}

fn link(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    link_at(cx, [HERE, arguments[0]], [HERE, arguments[1]], 0)
}

fn linkat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [old, old_path, new, new_path, flags, _] = arguments;
    link_at(cx, [old, old_path], [new, new_path], flags as u32)
}

/// `EINVAL` for unknown flags; `ENOENT` for `AT_EMPTY_PATH` without the privilege Linux asks for.
fn link_at(cx: &Cx<'_>, old: [u64; 2], new: [u64; 2], flags: u32) -> SysResult {
    if flags & !(at::SYMLINK_FOLLOW | at::EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let old_path = cx.path(old[1])?;
    let (new_base, new_path) = from(cx, new[0], new[1])?;
    if old_path.is_empty() && flags & at::EMPTY_PATH != 0 {
        let file = cx.file(old[0])?;
        let position = file.position().ok_or(Errno::XDEV)?;
        cx.kernel.root_fs.link_position(&cx.walk(), position, &new_base, &new_path)?;
        tell_created(cx, &new_base, &new_path);
        return Ok(0);
    }
    let old_base = place::base(cx, old[0], &old_path)?;
    let follow = if flags & at::SYMLINK_FOLLOW != 0 { Follow::Yes } else { Follow::No };
    cx.kernel.root_fs.link(&cx.walk(), &old_base, &old_path, follow, &new_base, &new_path)?;
    tell_created(cx, &new_base, &new_path);
    Ok(0)
}

fn symlink(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    symlink_at(cx, arguments[0], HERE, arguments[1])
}

fn symlinkat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    symlink_at(cx, arguments[0], arguments[1], arguments[2])
}

/// `ENOENT` for an empty target.
fn symlink_at(cx: &Cx<'_>, target: u64, directory: u64, path: u64) -> SysResult {
    let target = cx.path(target)?;
    if target.is_empty() {
        return Err(Errno::NOENT.into());
    }
    let (base, path) = from(cx, directory, path)?;
    cx.kernel.root_fs.symlink(&cx.walk(), &target, &base, &path)?;
    tell_created(cx, &base, &path);
    Ok(0)
}

fn readlink(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [path, address, size, ..] = arguments;
    read_link(cx, HERE, path, address, size)
}

fn readlinkat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [directory, path, address, size, ..] = arguments;
    read_link(cx, directory, path, address, size)
}

/// `EINVAL` for a size that is not positive and for what is no link; an empty path reads the link that was opened
/// with `O_PATH | O_NOFOLLOW`.
fn read_link(cx: &Cx<'_>, directory: u64, path: u64, address: u64, size: u64) -> SysResult {
    let size = usize::try_from(size as i32).ok().filter(|size| *size > 0).ok_or(Errno::INVAL)?;
    let path = cx.path(path)?;
    let base = if path.is_empty() {
        let file = if directory as i32 == AT_FDCWD { Err(Errno::NOENT) } else { cx.file(directory) }?;
        if file.flags() & status::PATH == 0 {
            return Err(Errno::NOENT.into());
        }
        file.position().cloned().ok_or(Errno::NOENT)?
    } else {
        place::base(cx, directory, &path)?
    };
    let target = cx.kernel.root_fs.read_link(&cx.walk(), &base, &path)?;
    let count = target.len().min(size);
    cx.memory().write_bytes(address, &target[..count])?;
    Ok(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &[u8]) -> DirectoryItem {
        DirectoryItem { inode: 5, next_cookie: 7, kind: FileKind::Directory, name: name.to_vec() }
    }

    #[test]
    fn entries_have_the_layouts_of_linux() {
        let mut bytes = Vec::new();
        Layout::New.encode(&item(b"abcd"), &mut bytes);
        assert_eq!(bytes.len(), 24);
        assert_eq!(
            bytes[..24],
            [5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 24, 0, 4, b'a', b'b', b'c', b'd', 0]
        );
        let mut bytes = Vec::new();
        Layout::Old.encode(&item(b"abcde"), &mut bytes);
        assert_eq!((bytes.len(), bytes[16], bytes[18], bytes[23], bytes[31]), (32, 32, b'a', 0, 4));
        Layout::New.encode(&item(b"abcdefgh"), &mut bytes);
        assert_eq!(bytes.len() % 8, 0);
    }
}
