//! Descriptor numbers: duplicating, closing, flags, locks, pipes, `ioctl`.

use std::sync::Arc;

use cooper_vfs::Errno;

use super::file::install;
use super::{Entry, SysResult, full, partial};
use crate::cx::Cx;
use crate::files::blocking::{Patience, until_done};
use crate::files::description::{SignalOwner, status};
use crate::files::pipe::Pipe;
use crate::files::{Description, Kind, place};
use crate::locks::{FileKey, Mode, Owner, Record, Waits};
use crate::task::limits::resource;
use crate::terminal;
use crate::wait::lock;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(3, "close", close),
    partial(16, "ioctl", ioctl, "file descriptors, sockets and pseudo terminals; there are no block devices"),
    full(22, "pipe", pipe),
    full(32, "dup", dup),
    full(33, "dup2", dup2),
    partial(
        72,
        "fcntl",
        fcntl,
        "F_SETOWN and F_SETSIG are recorded, SIGIO is not sent; leases and F_NOTIFY are EINVAL",
    ),
    full(73, "flock", flock),
    full(292, "dup3", dup3),
    partial(293, "pipe2", pipe2, "packet mode (O_DIRECT) is EINVAL"),
    full(436, "close_range", close_range),
];

/// The lock key of an open file.
pub(super) fn lock_key(file: &Description) -> FileKey {
    match file.position() {
        Some(position) => FileKey::Node(position.node()),
        None => FileKey::Object(file.object().anonymous().map_or(file.id(), |anonymous| anonymous.inode)),
    }
}

/// Does what the close of a descriptor does besides freeing the number: the table's record locks on the file go.
pub(crate) fn release_locks(kernel: &crate::kernel::Kernel, table: u64, file: &Description) {
    let locks = &kernel.registry.locks;
    if !locks.is_empty() && !file.is_path() {
        locks.release(&lock_key(file), Owner::Table(table), 0, u64::MAX);
    }
}

fn close(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let files = cx.files();
    let file = files.remove(arguments[0] as i32)?;
    release_locks(cx.kernel, files.id(), &file);
    Ok(0)
}

const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

fn close_range(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [first, last, flags] = [arguments[0] as u32, arguments[1] as u32, arguments[2] as u32];
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::INVAL.into());
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        drop(cx.task.set_files(cx.files().duplicate()));
    }
    let files = cx.files();
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        files.set_close_on_exec_range(first, last);
        return Ok(0);
    }
    for file in files.remove_range(first, last) {
        release_locks(cx.kernel, files.id(), &file);
    }
    Ok(0)
}

fn dup(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    install(cx, file, false)
}

/// The same number twice is no change, `EBADF` when it is not open.
fn dup2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [old, new, ..] = arguments;
    let file = cx.file(old)?;
    if old as i32 == new as i32 { Ok(new & 0xffff_ffff) } else { replace(cx, file, new as i32, false) }
}

/// The same number twice is `EINVAL`.
fn dup3(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [old, new, flags, ..] = arguments;
    let close_on_exec = u64::from(cooper_vfs::OpenFlags::CLOEXEC.bits());
    if flags & !close_on_exec != 0 || old as i32 == new as i32 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(old)?;
    replace(cx, file, new as i32, flags != 0)
}

fn replace(cx: &Cx<'_>, file: Arc<Description>, new: i32, close_on_exec: bool) -> SysResult {
    let files = cx.files();
    let old = files.replace(new, file, close_on_exec, cx.process().limit(resource::NOFILE))?;
    if let Some(old) = old {
        release_locks(cx.kernel, files.id(), &old);
    }
    Ok(new as u64)
}

fn pipe(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_pipe(cx, arguments[0], 0)
}

fn pipe2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_pipe(cx, arguments[0], arguments[1] as u32)
}

fn make_pipe(cx: &Cx<'_>, address: u64, flags: u32) -> SysResult {
    let close_on_exec = cooper_vfs::OpenFlags::CLOEXEC.bits();
    if flags & !(status::NONBLOCK | close_on_exec) != 0 {
        return Err(Errno::INVAL.into());
    }
    let (reader, writer) = Pipe::pair();
    let nonblock = flags & status::NONBLOCK;
    let ends = [
        Description::new(Box::new(reader), nonblock | status::READ_ONLY, None),
        Description::new(Box::new(writer), nonblock | status::WRITE_ONLY, None),
    ];
    install_pair(cx, ends, flags & close_on_exec != 0, address)
}

/// Gives the caller two descriptors and stores their numbers; neither stays when something fails.
pub(super) fn install_pair(
    cx: &Cx<'_>,
    [first, second]: [Arc<Description>; 2],
    close_on_exec: bool,
    address: u64,
) -> SysResult {
    let files = cx.files();
    let limit = cx.process().limit(resource::NOFILE);
    let one = files.insert(first, 0, close_on_exec, limit)?;
    let both = files.insert(second, 0, close_on_exec, limit).and_then(|other| {
        cx.memory().store(address, [one, other]).inspect_err(|_| drop(files.remove(other)))
    });
    if let Err(error) = both {
        drop(files.remove(one));
        return Err(error.into());
    }
    Ok(0)
}

mod command {
    pub(super) const DUPFD: u32 = 0;
    pub(super) const GETFD: u32 = 1;
    pub(super) const SETFD: u32 = 2;
    pub(super) const GETFL: u32 = 3;
    pub(super) const SETFL: u32 = 4;
    pub(super) const GETLK: u32 = 5;
    pub(super) const SETLK: u32 = 6;
    pub(super) const SETLKW: u32 = 7;
    pub(super) const SETOWN: u32 = 8;
    pub(super) const GETOWN: u32 = 9;
    pub(super) const SETSIG: u32 = 10;
    pub(super) const GETSIG: u32 = 11;
    pub(super) const SETOWN_EX: u32 = 15;
    pub(super) const GETOWN_EX: u32 = 16;
    pub(super) const OFD_GETLK: u32 = 36;
    pub(super) const OFD_SETLK: u32 = 37;
    pub(super) const OFD_SETLKW: u32 = 38;
    pub(super) const DUPFD_QUERY: u32 = 1027;
    pub(super) const DUPFD_CLOEXEC: u32 = 1030;
    pub(super) const SETPIPE_SZ: u32 = 1031;
    pub(super) const GETPIPE_SZ: u32 = 1032;
    pub(super) const ADD_SEALS: u32 = 1033;
    pub(super) const GET_SEALS: u32 = 1034;
}

/// `EBADF` for a closed number, and for most commands on `O_PATH`; `EINVAL` for unknown commands.
fn fcntl(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, command, argument, ..] = arguments;
    let (files, file, command) = (cx.files(), cx.file(number)?, command as u32);
    let on_path = matches!(
        command,
        command::DUPFD
            | command::DUPFD_CLOEXEC
            | command::GETFD
            | command::SETFD
            | command::GETFL
            | command::DUPFD_QUERY
    );
    if file.is_path() && !on_path {
        return Err(Errno::BADF.into());
    }
    match command {
        command::DUPFD | command::DUPFD_CLOEXEC => {
            let limit = cx.process().limit(resource::NOFILE);
            if argument >= limit {
                return Err(Errno::INVAL.into());
            }
            Ok(files.insert(file, argument, command == command::DUPFD_CLOEXEC, limit)? as u64)
        }
        command::GETFD => Ok(u64::from(files.close_on_exec(number as i32)?)),
        command::SETFD => {
            files.set_close_on_exec(number as i32, argument & 1 != 0)?;
            Ok(0)
        }
        command::GETFL => Ok(u64::from(file.flags())),
        command::SETFL => {
            file.set_flags(status::SETTABLE, argument as u32);
            Ok(0)
        }
        command::GETLK | command::OFD_GETLK => get_lock(cx, &file, argument, command),
        command::SETLK | command::SETLKW | command::OFD_SETLK | command::OFD_SETLKW => {
            set_lock(cx, &file, argument, command)
        }
        command::SETOWN
        | command::GETOWN
        | command::SETSIG
        | command::GETSIG
        | command::SETOWN_EX
        | command::GETOWN_EX => signal_owner(cx, &file, command, argument),
        command::DUPFD_QUERY => {
            let other = cx.file(argument)?;
            Ok(u64::from(Arc::ptr_eq(&file, &other)))
        }
        command::SETPIPE_SZ | command::GETPIPE_SZ => {
            let Kind::Pipe(end) = file.object().kind() else { return Err(Errno::BADF.into()) };
            let size =
                if command == command::GETPIPE_SZ { end.capacity() } else { end.set_capacity(argument)? };
            Ok(size as u64)
        }
        command::ADD_SEALS => add_seals(cx, &file, argument as u32),
        command::GET_SEALS => match file.object().kind() {
            Kind::Regular(regular) => {
                let seals = regular.seals().ok_or(Errno::INVAL)?;
                Ok(u64::from(seals.load(std::sync::atomic::Ordering::SeqCst)))
            }
            _ => Err(Errno::INVAL.into()),
        },
        _ => Err(Errno::INVAL.into()),
    }
}

/// `EPERM` for a file that is not open for writing or that is sealed against seals; `EINVAL` for unknown seals or a
/// file that has none; `EBUSY` for a seal against writing while somebody can write through a mapping.
fn add_seals(cx: &Cx<'_>, file: &Description, new: u32) -> SysResult {
    use crate::files::regular::seal;
    let Kind::Regular(regular) = file.object().kind() else { return Err(Errno::INVAL.into()) };
    let seals = regular.seals().ok_or(Errno::INVAL)?;
    file.check_writable().map_err(|_| Errno::PERM)?;
    if new & !seal::ALL != 0 {
        return Err(Errno::INVAL.into());
    }
    let order = std::sync::atomic::Ordering::SeqCst;
    if seals.load(order) & seal::SEAL == 0 && new & seal::WRITE != 0 {
        let node = regular.handle().node();
        let processes: Vec<_> =
            lock(&cx.kernel.table).processes.values().map(|node| node.process.clone()).collect();
        let mut spaces = processes.iter().filter_map(|process| process.any_thread()?.space());
        if spaces.any(|space| space.shares_writable(&node)) {
            return Err(Errno::BUSY.into());
        }
    }
    seals
        .fetch_update(order, order, |old| (old & seal::SEAL == 0).then_some(old | new))
        .map(|_| 0)
        .map_err(|_| Errno::PERM.into())
}

/// Who gets `SIGIO`.
fn signal_owner(cx: &Cx<'_>, file: &Description, command: u32, argument: u64) -> SysResult {
    const OWNER_PID: i32 = 1;
    const OWNER_GROUP: i32 = 2;
    let mut owner = file.signal_owner();
    match command {
        command::SETOWN => {
            let id = argument as i32;
            let (class, id) =
                if id < 0 { (OWNER_GROUP, id.checked_neg().ok_or(Errno::INVAL)?) } else { (OWNER_PID, id) };
            *owner = SignalOwner { class, id, ..*owner };
        }
        command::GETOWN => {
            let id = if owner.class == OWNER_GROUP { -owner.id } else { owner.id };
            return Ok(id as i64 as u64);
        }
        command::SETSIG if argument > 64 => return Err(Errno::INVAL.into()),
        command::SETSIG => owner.signal = argument as i32,
        command::GETSIG => return Ok(owner.signal as u64),
        command::SETOWN_EX => {
            let [class, id] = cx.memory().load::<[i32; 2]>(argument)?;
            if !(0..=2).contains(&class) {
                return Err(Errno::INVAL.into());
            }
            *owner = SignalOwner { class, id, ..*owner };
        }
        _ => cx.memory().store(argument, [owner.class, owner.id])?,
    }
    Ok(0)
}

/// Size of `struct flock`: type and whence as 16 bits, padding, start, length, pid, padding.
const FLOCK_SIZE: usize = 32;
const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// A lock as a program asks for it.
struct Wanted {
    /// `None` releases.
    mode: Option<Mode>,
    start: u64,
    last: u64,
    pid: i32,
}

/// Reads `struct flock`. `EINVAL` for unknown types and whences and for a range before the start of the file;
/// `EOVERFLOW` for one beyond the largest offset.
fn wanted_lock(cx: &Cx<'_>, file: &Description, address: u64) -> Result<Wanted, Errno> {
    let bytes: [u8; FLOCK_SIZE] = cx.memory().load(address)?;
    let short = |at: usize| i16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| {
        let mut own = [0; 8];
        own.copy_from_slice(&bytes[at..at + 8]);
        i64::from_le_bytes(own)
    };
    let mode = match short(0) {
        F_RDLCK => Some(Mode::Shared),
        F_WRLCK => Some(Mode::Exclusive),
        F_UNLCK => None,
        _ => return Err(Errno::INVAL),
    };
    let origin = match short(2) {
        0 => 0,
        1 => *file.offset() as i64,
        2 => place::stat_description(cx, file)?.size as i64,
        _ => return Err(Errno::INVAL),
    };
    let start = origin.checked_add(long(8)).ok_or(Errno::OVERFLOW)?;
    let length = long(16);
    let (start, last) = match length {
        0 => (start, None),
        1.. => (start, Some(start.checked_add(length - 1).ok_or(Errno::OVERFLOW)?)),
        // A negative length covers the bytes before the start.
        _ => (start.checked_add(length).ok_or(Errno::INVAL)?, Some(start - 1)),
    };
    let start = u64::try_from(start).map_err(|_| Errno::INVAL)?;
    let last = last.map_or(Ok(u64::MAX), u64::try_from).map_err(|_| Errno::INVAL)?;
    Ok(Wanted { mode, start, last, pid: long(24) as i32 })
}

/// The owner of the lock that a command sets: `EINVAL` for an OFD command with a pid.
fn lock_owner(cx: &Cx<'_>, file: &Description, command: u32, pid: i32) -> Result<Owner, Errno> {
    match command {
        command::OFD_GETLK | command::OFD_SETLK | command::OFD_SETLKW if pid != 0 => Err(Errno::INVAL),
        command::OFD_GETLK | command::OFD_SETLK | command::OFD_SETLKW => Ok(Owner::Description(file.id())),
        _ => Ok(Owner::Table(cx.files().id())),
    }
}

fn get_lock(cx: &Cx<'_>, file: &Description, address: u64, command: u32) -> SysResult {
    let wanted = wanted_lock(cx, file, address)?;
    let mode = wanted.mode.ok_or(Errno::INVAL)?;
    let owner = lock_owner(cx, file, command, wanted.pid)?;
    let record = Record { start: wanted.start, last: wanted.last, mode, owner, pid: 0 };
    let Some(found) = cx.kernel.registry.locks.conflict(&lock_key(file), &record) else {
        cx.memory().store(address, F_UNLCK)?;
        return Ok(0);
    };
    let mut bytes = [0; FLOCK_SIZE];
    let kind = if found.mode == Mode::Shared { F_RDLCK } else { F_WRLCK };
    let length = if found.last == u64::MAX { 0 } else { found.last - found.start + 1 };
    let pid = if matches!(found.owner, Owner::Description(_)) { -1 } else { found.pid as i32 };
    bytes[0..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&found.start.to_le_bytes());
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    bytes[24..28].copy_from_slice(&pid.to_le_bytes());
    cx.memory().write_bytes(address, &bytes)?;
    Ok(0)
}

/// `EBADF` when the access mode does not fit the lock; `EAGAIN` or waiting; `EDEADLK`.
fn set_lock(cx: &Cx<'_>, file: &Description, address: u64, command: u32) -> SysResult {
    let wanted = wanted_lock(cx, file, address)?;
    let owner = lock_owner(cx, file, command, wanted.pid)?;
    let (locks, key) = (&cx.kernel.registry.locks, lock_key(file));
    let Some(mode) = wanted.mode else {
        locks.release(&key, owner, wanted.start, wanted.last);
        return Ok(0);
    };
    match mode {
        Mode::Shared => file.check_readable()?,
        Mode::Exclusive => file.check_writable()?,
    }
    let record = Record { start: wanted.start, last: wanted.last, mode, owner, pid: cx.process().pid() };
    let waits = matches!(command, command::SETLKW | command::OFD_SETLKW);
    let waits_for = if waits { Waits::Yes } else { Waits::No };
    match owner {
        Owner::Table(_) => cx.files().lock_holder().hold(locks, owner),
        Owner::Description(_) => file.lock_holder().hold(locks, owner),
    }
    let result = until_done(cx, file.object(), Some(locks.released()), Patience::of(!waits), || {
        locks.set(&key, record, waits_for)
    });
    if result.is_err() {
        locks.give_up(owner);
    }
    result.map(|()| 0)
}

/// `EBADF`; `EINVAL` for unknown operations; `EWOULDBLOCK` with `LOCK_NB`.
fn flock(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    const SHARED: u64 = 1;
    const EXCLUSIVE: u64 = 2;
    const NONBLOCK: u64 = 4;
    const UNLOCK: u64 = 8;
    /// Mandatory locks: Linux has removed them and ignores the request.
    const MANDATORY: u64 = 32;
    let [number, operation, ..] = arguments;
    if operation & MANDATORY != 0 {
        return Ok(0);
    }
    let mode = match operation & !NONBLOCK {
        SHARED => Some(Mode::Shared),
        EXCLUSIVE => Some(Mode::Exclusive),
        UNLOCK => None,
        _ => return Err(Errno::INVAL.into()),
    };
    let file = cx.file(number)?;
    if file.is_path() {
        return Err(Errno::BADF.into());
    }
    let (locks, key) = (&cx.kernel.registry.locks, lock_key(&file));
    let Some(mode) = mode else {
        locks.unflock(&key, file.id());
        return Ok(0);
    };
    let patience = Patience::of(operation & NONBLOCK != 0);
    file.lock_holder().hold(locks, Owner::Description(file.id()));
    until_done(cx, file.object(), Some(locks.released()), patience, || locks.flock(&key, file.id(), mode))?;
    Ok(0)
}

mod request {
    pub(super) const FIGETBSZ: u32 = 2;
    pub(super) const FIONREAD: u32 = 0x541b;
    pub(super) const FIONBIO: u32 = 0x5421;
    pub(super) const TIOCOUTQ: u32 = 0x5411;
    pub(super) const FIONCLEX: u32 = 0x5450;
    pub(super) const FIOCLEX: u32 = 0x5451;
    pub(super) const FIOASYNC: u32 = 0x5452;
    pub(super) const FIOQSIZE: u32 = 0x5460;
    pub(super) const FICLONE: u32 = 0x4004_9409;
    pub(super) const FICLONERANGE: u32 = 0x4020_940d;
    pub(super) const FIDEDUPERANGE: u32 = 0xc018_9436;
    pub(super) const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
    pub(super) const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
}

/// `EBADF`; `ENOTTY` for requests the object does not know, all terminal ones among them.
fn ioctl(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, request, argument, ..] = arguments;
    let (files, file) = (cx.files(), cx.file(number)?);
    if file.is_path() {
        return Err(Errno::BADF.into());
    }
    match request as u32 {
        request::FIOCLEX => files.set_close_on_exec(number as i32, true)?,
        request::FIONCLEX => files.set_close_on_exec(number as i32, false)?,
        request::FIONBIO => {
            let on = cx.memory().load::<i32>(argument)? != 0;
            file.set_flags(status::NONBLOCK, if on { status::NONBLOCK } else { 0 });
        }
        request::FIOASYNC => {
            let on = cx.memory().load::<i32>(argument)? != 0;
            file.set_flags(status::ASYNC, if on { status::ASYNC } else { 0 });
        }
        request::FIONREAD => {
            let count = match file.object().kind() {
                Kind::Regular(regular) => regular.handle().size().saturating_sub(*file.offset()),
                _ => file.object().readable_bytes().ok_or(Errno::NOTTY)?,
            };
            cx.memory().store(argument, i32::try_from(count).unwrap_or(i32::MAX))?;
        }
        request::TIOCOUTQ if matches!(file.object().kind(), Kind::Socket(_)) => {
            cx.memory().store(argument, 0i32)?;
        }
        request::FIOQSIZE if matches!(file.object().kind(), Kind::Regular(_) | Kind::Directory(_)) => {
            cx.memory().store(argument, place::stat_description(cx, &file)?.size)?;
        }
        request::FIGETBSZ if file.position().is_some() => cx.memory().store(argument, 4096i32)?,
        request::FICLONE | request::FICLONERANGE | request::FIDEDUPERANGE
            if matches!(file.object().kind(), Kind::Regular(_)) =>
        {
            return Err(Errno::OPNOTSUPP.into());
        }
        request::FS_IOC_GETFLAGS | request::FS_IOC_SETFLAGS => return Err(Errno::NOTTY.into()),
        other => {
            if let Kind::Terminal(end) = file.object().kind() {
                return terminal::ioctl(cx, &file, end, other, argument);
            }
            if let Kind::Socket(socket) = file.object().kind() {
                return crate::sockets::interface::ioctl(cx, socket, other, argument);
            }
            return Err(Errno::NOTTY.into());
        }
    }
    Ok(0)
}
