//! Attributes of files: `stat` and its kin, permissions, owners, times, figures of file systems.

use cooper_vfs::{AccessMode, Caller, Errno, Position, Stat, StatFs, TimeChange, Timestamp, Walk};

use super::{Entry, SysResult, full, partial};
use crate::cx::{AT_FDCWD, Cx};
use crate::files::inotify;
use crate::files::place::{self, Target, at};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(4, "stat", stat),
    full(5, "fstat", fstat),
    full(6, "lstat", lstat),
    full(21, "access", access),
    full(90, "chmod", chmod),
    full(91, "fchmod", fchmod),
    full(92, "chown", chown),
    full(93, "fchown", fchown),
    full(94, "lchown", lchown),
    full(132, "utime", utime),
    full(137, "statfs", statfs),
    full(138, "fstatfs", fstatfs),
    full(235, "utimes", utimes),
    full(260, "fchownat", fchownat),
    full(261, "futimesat", futimesat),
    full(262, "newfstatat", newfstatat),
    full(268, "fchmodat", fchmodat),
    full(269, "faccessat", faccessat),
    full(280, "utimensat", utimensat),
    partial(332, "statx", statx, "no attributes such as immutable or verity"),
    full(439, "faccessat2", faccessat2),
    full(452, "fchmodat2", fchmodat2),
];

/// The number that means the working directory, as an argument.
const HERE: u64 = AT_FDCWD as u64;

/// Lays out `struct stat`.
pub(super) fn encode_stat(stat: &Stat) -> [u8; 144] {
    let mut bytes = [0; 144];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &stat.device.to_le_bytes());
    put(8, &stat.inode.to_le_bytes());
    put(16, &stat.links.to_le_bytes());
    put(24, &stat.mode.to_le_bytes());
    put(28, &stat.uid.to_le_bytes());
    put(32, &stat.gid.to_le_bytes());
    put(40, &stat.rdev.to_le_bytes());
    put(48, &stat.size.to_le_bytes());
    put(56, &u64::from(stat.block_size).to_le_bytes());
    put(64, &stat.blocks.to_le_bytes());
    for (at, time) in [(72, stat.atime), (88, stat.mtime), (104, stat.ctime)] {
        put(at, &time.seconds.to_le_bytes());
        put(at + 8, &u64::from(time.nanoseconds).to_le_bytes());
    }
    bytes
}

/// `STATX_BASIC_STATS` and `STATX_BTIME`.
const STATX_GIVEN: u32 = 0xfff;
/// `STATX_MNT_ID`.
const STATX_MOUNT_ID: u32 = 0x1000;
/// `STATX__RESERVED`.
const STATX_RESERVED: u32 = 0x8000_0000;
/// `STATX_ATTR_MOUNT_ROOT` is the only attribute that is known.
const STATX_SIZE: usize = 256;

/// Lays out `struct statx`.
fn encode_statx(stat: &Stat) -> [u8; STATX_SIZE] {
    let mut bytes = [0; STATX_SIZE];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let device = |number: u64| {
        let (major, minor) = (
            ((number >> 32) & 0xffff_f000 | (number >> 8) & 0xfff) as u32,
            ((number >> 12) & 0xffff_ff00 | number & 0xff) as u32,
        );
        [major.to_le_bytes(), minor.to_le_bytes()].concat()
    };
    put(0, &(STATX_GIVEN | STATX_MOUNT_ID).to_le_bytes());
    put(4, &stat.block_size.to_le_bytes());
    put(16, &(stat.links as u32).to_le_bytes());
    put(20, &stat.uid.to_le_bytes());
    put(24, &stat.gid.to_le_bytes());
    put(28, &(stat.mode as u16).to_le_bytes());
    put(32, &stat.inode.to_le_bytes());
    put(40, &stat.size.to_le_bytes());
    put(48, &stat.blocks.to_le_bytes());
    for (at, time) in [(64, stat.atime), (80, stat.btime), (96, stat.ctime), (112, stat.mtime)] {
        put(at, &time.seconds.to_le_bytes());
        put(at + 8, &time.nanoseconds.to_le_bytes());
    }
    put(128, &device(stat.rdev));
    put(136, &device(stat.device));
    put(144, &stat.mount_id.to_le_bytes());
    bytes
}

fn stat_path(cx: &Cx<'_>, directory: u64, path: u64, flags: u32) -> Result<Stat, Errno> {
    let allowed = at::SYMLINK_NOFOLLOW | at::NO_AUTOMOUNT | at::EMPTY_PATH | at::STATX_SYNC;
    let target = place::target(cx, directory, path, flags, allowed)?;
    place::stat_target(cx, &target)
}

fn store_stat(cx: &Cx<'_>, address: u64, stat: &Stat) -> SysResult {
    cx.memory().write_bytes(address, &encode_stat(stat))?;
    Ok(0)
}

fn stat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let stat = stat_path(cx, HERE, arguments[0], 0)?;
    store_stat(cx, arguments[1], &stat)
}

fn lstat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let stat = stat_path(cx, HERE, arguments[0], at::SYMLINK_NOFOLLOW)?;
    store_stat(cx, arguments[1], &stat)
}

fn fstat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    let stat = place::stat_description(cx, &file)?;
    store_stat(cx, arguments[1], &stat)
}

fn newfstatat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [directory, path, address, flags, ..] = arguments;
    let stat = stat_path(cx, directory, path, flags as u32)?;
    store_stat(cx, address, &stat)
}

fn statx(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [directory, path, flags, mask, address, _] = arguments;
    if mask as u32 & STATX_RESERVED != 0 || flags as u32 & at::STATX_SYNC == at::STATX_SYNC {
        return Err(Errno::INVAL.into());
    }
    let stat = stat_path(cx, directory, path, flags as u32)?;
    cx.memory().write_bytes(address, &encode_statx(&stat))?;
    Ok(0)
}

/// Checks access with the real ids, or with the effective ones. `EINVAL` for unknown modes.
fn check_access(cx: &Cx<'_>, directory: u64, path: u64, mode: u64, flags: u32) -> SysResult {
    let mode = u32::try_from(mode).ok().and_then(AccessMode::from_bits).ok_or(Errno::INVAL)?;
    let allowed = at::EACCESS | at::SYMLINK_NOFOLLOW | at::EMPTY_PATH;
    if flags & !allowed != 0 {
        return Err(Errno::INVAL.into());
    }
    let credentials = cx.credentials();
    let same = credentials.user.real == credentials.filesystem.uid
        && credentials.group.real == credentials.filesystem.gid;
    if flags & at::EACCESS != 0 || same {
        return access_as(cx, directory, path, mode, flags, &credentials.filesystem);
    }
    let mut real = credentials.filesystem.clone();
    (real.uid, real.gid) = (credentials.user.real, credentials.group.real);
    // As Linux: without a privileged real id, capabilities do not count.
    real.capabilities = if real.uid == 0 { credentials.permitted } else { cooper_vfs::Capabilities::empty() };
    access_as(cx, directory, path, mode, flags, &real)
}

fn access_as(
    cx: &Cx<'_>,
    directory: u64,
    path: u64,
    mode: AccessMode,
    flags: u32,
    credentials: &cooper_vfs::Credentials,
) -> SysResult {
    let own = cx.walk();
    let walk = Walk { root: own.root, credentials, caller: Caller { ..own.caller } };
    let path = cx.path(path)?;
    if path.is_empty() && flags & at::EMPTY_PATH != 0 {
        return match place::target(cx, directory, 0, at::EMPTY_PATH, at::EMPTY_PATH)? {
            Target::Position(position) => Ok(position.access(&walk, mode).map(|()| 0)?),
            Target::Description(_) => Ok(0),
        };
    }
    let base = place::base(cx, directory, &path)?;
    let position = cx.kernel.root_fs.resolve(&walk, &base, &path, place::follow(flags))?;
    position.access(&walk, mode)?;
    Ok(0)
}

fn access(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    check_access(cx, HERE, arguments[0], arguments[1], 0)
}

fn faccessat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    check_access(cx, arguments[0], arguments[1], arguments[2], 0)
}

fn faccessat2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    check_access(cx, arguments[0], arguments[1], arguments[2], arguments[3] as u32)
}

fn set_mode(cx: &Cx<'_>, position: &Position, mode: u64) -> SysResult {
    position.set_mode(&cx.walk(), (mode & 0o7777) as u16)?;
    inotify::tell(position, inotify::event::ATTRIB);
    Ok(0)
}

/// The place behind an open descriptor. `EBADF` for a closed number and for `O_PATH`; `EINVAL` without a place.
fn open_place(cx: &Cx<'_>, number: u64) -> Result<Position, Errno> {
    let file = cx.file(number)?;
    if file.is_path() {
        return Err(Errno::BADF);
    }
    file.position().cloned().ok_or(Errno::INVAL)
}

fn chmod(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = place::position(cx, HERE, arguments[0], 0, 0)?;
    set_mode(cx, &position, arguments[1])
}

fn fchmod(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = open_place(cx, arguments[0])?;
    set_mode(cx, &position, arguments[1])
}

fn fchmodat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = place::position(cx, arguments[0], arguments[1], 0, 0)?;
    set_mode(cx, &position, arguments[2])
}

/// `EOPNOTSUPP` for the mode of a symbolic link, as the file system says.
fn fchmodat2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let allowed = at::SYMLINK_NOFOLLOW | at::EMPTY_PATH;
    let position = place::position(cx, arguments[0], arguments[1], arguments[3] as u32, allowed)?;
    set_mode(cx, &position, arguments[2])
}

fn set_owner(cx: &Cx<'_>, position: &Position, uid: u64, gid: u64) -> SysResult {
    let id = |value: u64| Some(value as u32).filter(|id| *id != u32::MAX);
    position.set_owner(&cx.walk(), id(uid), id(gid))?;
    inotify::tell(position, inotify::event::ATTRIB);
    Ok(0)
}

fn chown(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = place::position(cx, HERE, arguments[0], 0, 0)?;
    set_owner(cx, &position, arguments[1], arguments[2])
}

fn lchown(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = place::position(cx, HERE, arguments[0], at::SYMLINK_NOFOLLOW, at::SYMLINK_NOFOLLOW)?;
    set_owner(cx, &position, arguments[1], arguments[2])
}

fn fchown(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = open_place(cx, arguments[0])?;
    set_owner(cx, &position, arguments[1], arguments[2])
}

fn fchownat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let allowed = at::SYMLINK_NOFOLLOW | at::EMPTY_PATH;
    let position = place::position(cx, arguments[0], arguments[1], arguments[4] as u32, allowed)?;
    set_owner(cx, &position, arguments[2], arguments[3])
}

/// `UTIME_NOW`.
const UTIME_NOW: i64 = 0x3fff_ffff;
/// `UTIME_OMIT`.
const UTIME_OMIT: i64 = 0x3fff_fffe;

/// One `timespec` of `utimensat`. `EINVAL` for nanoseconds out of range.
fn time_change([seconds, nanoseconds]: [i64; 2]) -> Result<TimeChange, Errno> {
    match nanoseconds {
        UTIME_NOW => Ok(TimeChange::Now),
        UTIME_OMIT => Ok(TimeChange::Omit),
        0..1_000_000_000 => Ok(TimeChange::Set(Timestamp { seconds, nanoseconds: nanoseconds as u32 })),
        _ => Err(Errno::INVAL),
    }
}

fn set_times(cx: &Cx<'_>, position: &Position, [access, modify]: [TimeChange; 2]) -> SysResult {
    position.set_times(&cx.walk(), access, modify)?;
    inotify::tell(position, inotify::event::ATTRIB);
    Ok(0)
}

fn utimensat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [directory, path, times, flags, ..] = arguments;
    let changes = if times == 0 {
        [TimeChange::Now; 2]
    } else {
        let [access, modify] = cx.memory().load::<[[i64; 2]; 2]>(times)?;
        [time_change(access)?, time_change(modify)?]
    };
    if changes == [TimeChange::Omit; 2] {
        return Ok(0);
    }
    // Without a path, the descriptor itself is meant.
    let position = if path == 0 && directory as i32 != AT_FDCWD {
        if flags != 0 {
            return Err(Errno::INVAL.into());
        }
        let file = cx.file(directory)?;
        if file.is_path() {
            return Err(Errno::BADF.into());
        }
        match file.position() {
            Some(position) => position.clone(),
            // A pipe or socket takes times that nobody sees.
            None => return Ok(0),
        }
    } else {
        place::position(cx, directory, path, flags as u32, at::SYMLINK_NOFOLLOW | at::EMPTY_PATH)?
    };
    set_times(cx, &position, changes)
}

/// Times in microseconds, or now without them. `EINVAL` for microseconds out of range.
fn micro_times(cx: &Cx<'_>, times: u64) -> Result<[TimeChange; 2], Errno> {
    if times == 0 {
        return Ok([TimeChange::Now; 2]);
    }
    let pairs = cx.memory().load::<[[i64; 2]; 2]>(times)?;
    if pairs.iter().any(|[_, micros]| !(0..1_000_000).contains(micros)) {
        return Err(Errno::INVAL);
    }
    Ok(pairs
        .map(|[seconds, micros]| TimeChange::Set(Timestamp { seconds, nanoseconds: micros as u32 * 1000 })))
}

fn utimes(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let changes = micro_times(cx, arguments[1])?;
    let position = place::position(cx, HERE, arguments[0], 0, 0)?;
    set_times(cx, &position, changes)
}

fn futimesat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let changes = micro_times(cx, arguments[2])?;
    let position = if arguments[1] == 0 {
        open_place(cx, arguments[0])?
    } else {
        place::position(cx, arguments[0], arguments[1], 0, 0)?
    };
    set_times(cx, &position, changes)
}

fn utime(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let changes = if arguments[1] == 0 {
        [TimeChange::Now; 2]
    } else {
        let seconds = cx.memory().load::<[i64; 2]>(arguments[1])?;
        seconds.map(|seconds| TimeChange::Set(Timestamp { seconds, nanoseconds: 0 }))
    };
    let position = place::position(cx, HERE, arguments[0], 0, 0)?;
    set_times(cx, &position, changes)
}

/// `ST_VALID`.
const ST_VALID: u64 = 0x20;
/// `PIPEFS_MAGIC`, for objects without a place.
const PIPEFS: u64 = 0x5049_5045;

/// Lays out `struct statfs`.
fn encode_statfs(figures: &StatFs) -> [u64; 15] {
    let id = figures.id;
    [
        figures.magic,
        figures.block_size,
        figures.blocks,
        figures.free,
        figures.available,
        figures.files,
        figures.free_files,
        id,
        figures.name_length,
        figures.block_size,
        figures.flags | ST_VALID,
        0,
        0,
        0,
        0,
    ]
}

fn statfs(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let position = place::position(cx, HERE, arguments[0], 0, 0)?;
    cx.memory().store(arguments[1], encode_statfs(&position.statfs()?))?;
    Ok(0)
}

fn fstatfs(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    let figures = match file.position() {
        Some(position) => position.statfs()?,
        None => StatFs {
            magic: PIPEFS,
            block_size: 4096,
            blocks: 0,
            free: 0,
            available: 0,
            files: 0,
            free_files: 0,
            id: 0,
            name_length: 255,
            flags: 0,
        },
    };
    cx.memory().store(arguments[1], encode_statfs(&figures))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Stat {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        Stat {
            device: (7 << 8) | 3,
            inode: 11,
            mode: 0o100_644,
            links: 2,
            uid: 1000,
            gid: 100,
            rdev: (1 << 8) | 5,
            size: 1 << 33,
            block_size: 4096,
            blocks: 24,
            atime: time(1, 2),
            mtime: time(3, 4),
            ctime: time(-5, 6),
            btime: time(7, 8),
            mount_id: 9,
        }
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn half(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    #[test]
    fn stat_has_the_layout_of_x86_64() {
        let bytes = encode_stat(&sample());
        assert_eq!([word(&bytes, 0), word(&bytes, 8), word(&bytes, 16)], [0x703, 11, 2]);
        assert_eq!([half(&bytes, 24), half(&bytes, 28), half(&bytes, 32)], [0o100_644, 1000, 100]);
        assert_eq!(
            [word(&bytes, 40), word(&bytes, 48), word(&bytes, 56), word(&bytes, 64)],
            [0x105, 1 << 33, 4096, 24]
        );
        assert_eq!([72, 80, 88, 96, 104, 112].map(|at| word(&bytes, at) as i64), [1, 2, 3, 4, -5, 6]);
    }

    #[test]
    fn statx_has_its_layout() {
        let bytes = encode_statx(&sample());
        assert_eq!([0, 4, 16, 20, 24].map(|at| half(&bytes, at)), [0x1fff, 4096, 2, 1000, 100]);
        assert_eq!(u16::from_le_bytes([bytes[28], bytes[29]]), 0o100_644);
        assert_eq!([32, 40, 48].map(|at| word(&bytes, at)), [11, 1 << 33, 24]);
        assert_eq!([64, 80, 96, 112].map(|at| word(&bytes, at) as i64), [1, 7, -5, 3]);
        assert_eq!([128, 132, 136, 140].map(|at| half(&bytes, at)), [1, 5, 7, 3]);
        assert_eq!(word(&bytes, 144), 9);
    }

    #[test]
    fn times_are_checked() {
        assert_eq!(time_change([5, UTIME_NOW]), Ok(TimeChange::Now));
        assert_eq!(time_change([5, UTIME_OMIT]), Ok(TimeChange::Omit));
        assert_eq!(time_change([5, 1_000_000_000]), Err(Errno::INVAL));
        assert_eq!(time_change([5, 6]), Ok(TimeChange::Set(Timestamp { seconds: 5, nanoseconds: 6 })));
    }
}
