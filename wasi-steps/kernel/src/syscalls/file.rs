//! Opening, reading, writing and sizing files.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use cooper_vfs::{AllocateMode, Caller, Credentials, Errno, NodeRef, OpenFlags, Opened, Walk};

use super::{Entry, SysError, SysResult, full, partial, stub};
use crate::cx::{AT_FDCWD, Cx};
use crate::files::blocking::{Patience, until_done};
use crate::files::description::status;
use crate::files::guest::{Buffer, GuestInput, GuestOutput};
use crate::files::open::describe;
use crate::files::regular::{MAX_OFFSET, RegularFile, seal};
use crate::files::restrict::{self, Restrictions};
use crate::files::transfer::{HostInput, HostOutput, Input, MAX_TRANSFER, with_bounce};
use crate::files::{Description, Kind, Output, inotify, place};
use crate::signal::{SignalInfo, send, signal};
use crate::task::Process;
use crate::task::limits::resource;
use crate::terminal;
use crate::wait::lock;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(0, "read", read),
    full(1, "write", write),
    full(2, "open", open),
    full(8, "lseek", lseek),
    full(17, "pread64", pread),
    full(18, "pwrite64", pwrite),
    full(19, "readv", readv),
    full(20, "writev", writev),
    full(40, "sendfile", sendfile),
    full(74, "fsync", fsync),
    full(75, "fdatasync", fsync),
    full(76, "truncate", truncate),
    full(77, "ftruncate", ftruncate),
    full(85, "creat", creat),
    stub(162, "sync", sync, "what a step writes is kept by the build, not by the moment it is synced"),
    stub(187, "readahead", readahead, "a hint"),
    stub(221, "fadvise64", fadvise, "a hint"),
    full(257, "openat", openat),
    partial(275, "splice", splice, "bytes are copied, not moved"),
    full(276, "tee", tee),
    stub(277, "sync_file_range", sync_file_range, "a hint about when to write back"),
    partial(278, "vmsplice", vmsplice, "bytes are copied, not moved"),
    partial(285, "fallocate", fallocate, "no collapsing and inserting of ranges, as on tmpfs"),
    full(295, "preadv", preadv),
    full(296, "pwritev", pwritev),
    full(306, "syncfs", fsync),
    partial(319, "memfd_create", memfd_create, "no huge pages"),
    full(326, "copy_file_range", copy_file_range),
    partial(327, "preadv2", preadv2, "RWF_NOWAIT is EOPNOTSUPP for files that can wait"),
    partial(328, "pwritev2", pwritev2, "RWF_ATOMIC is EOPNOTSUPP"),
    full(437, "openat2", openat2),
];

/// Sends the calling thread a signal that its own call caused.
pub(super) fn raise(cx: &Cx<'_>, number: u32) {
    send::to_task(cx.task, SignalInfo::kernel(number));
}

/// Gives the caller a descriptor for a description.
pub(super) fn install(cx: &Cx<'_>, description: Arc<Description>, close_on_exec: bool) -> SysResult {
    let limit = cx.process().limit(resource::NOFILE);
    Ok(cx.files().insert(description, 0, close_on_exec, limit)? as u64)
}

fn open(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [path, flags, mode, ..] = arguments;
    open_at(cx, AT_FDCWD as u64, path, flags as u32, mode as u32)
}

fn creat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [path, mode, ..] = arguments;
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    open_at(cx, AT_FDCWD as u64, path, flags.bits(), mode as u32)
}

fn openat(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [directory, path, flags, mode, ..] = arguments;
    open_at(cx, directory, path, flags as u32, mode as u32)
}

/// Flags that `openat2` knows.
const KNOWN_OPEN_FLAGS: u64 = 0o37_777_703 | 0o100 | 0o200 | 0o400 | 0o1000;
/// `E2BIG` for a longer structure with something set beyond; `EINVAL` for unknown flags, a mode without
/// `O_CREAT`, and flags that contradict each other; then what the restrictions say.
fn openat2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [directory, path, how, size, ..] = arguments;
    if size < 24 {
        return Err(Errno::INVAL.into());
    }
    if size > 4096 {
        return Err(Errno::TOOBIG.into());
    }
    let bytes = cx.memory().read_vec(how, size as usize)?;
    if bytes[24..].iter().any(|byte| *byte != 0) {
        return Err(Errno::TOOBIG.into());
    }
    let [flags, mode, resolve] = cx.memory().load::<[u64; 3]>(how)?;
    let makes = flags
        & u64::from((OpenFlags::CREAT | OpenFlags::TMPFILE.difference(OpenFlags::DIRECTORY)).bits())
        != 0;
    if flags & !KNOWN_OPEN_FLAGS != 0 || mode & !0o7777 != 0 || (mode != 0 && !makes) {
        return Err(Errno::INVAL.into());
    }
    let restrictions = Restrictions::from_bits(resolve).ok_or(Errno::INVAL)?;
    if restrictions.contains(Restrictions::BENEATH | Restrictions::IN_ROOT) {
        return Err(Errno::INVAL.into());
    }
    if restrictions.difference(Restrictions::CACHED).is_empty() {
        return open_at(cx, directory, path, flags as u32, mode as u32);
    }
    open_restricted(cx, (directory, path), flags as u32, mode as u32, restrictions)
}

fn open_restricted(
    cx: &Cx<'_>,
    (directory, path): (u64, u64),
    flags: u32,
    mode: u32,
    restrictions: Restrictions,
) -> SysResult {
    let path = cx.path(path)?;
    let confined = restrictions.intersects(Restrictions::BENEATH | Restrictions::IN_ROOT);
    // A confined walk starts at its directory whatever the path begins with.
    let base = place::base(cx, directory, if confined { b"" } else { &path })?;
    let flags = OpenFlags::from_bits_retain(flags);
    let found = restrict::walk(cx, &base, &path, flags, restrictions)?;
    let mode = (mode & 0o7777 & !cx.fs().umask()) as u16;
    // What was looked up is no link; one that somebody puts there meanwhile is not followed.
    let last = flags | OpenFlags::NOFOLLOW;
    let opened = cx.kernel.root_fs.open(&cx.walk(), &found.directory, &found.name, last, mode)?;
    let created = opened.created;
    let description = describe(cx, opened, flags)?;
    if inotify::is_used()
        && let (Some(position), false) = (description.position(), description.is_path())
    {
        if created {
            inotify::tell_created(position);
        } else if flags.contains(OpenFlags::TRUNC) {
            inotify::tell(position, inotify::event::MODIFY);
        }
        inotify::tell(position, inotify::event::OPEN);
    }
    install(cx, description, flags.contains(OpenFlags::CLOEXEC))
}

fn open_at(cx: &Cx<'_>, directory: u64, path: u64, flags: u32, mode: u32) -> SysResult {
    let path = cx.path(path)?;
    let base = place::base(cx, directory, &path)?;
    let mut flags = OpenFlags::from_bits_retain(flags);
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    }
    let mode = (mode & 0o7777 & !cx.fs().umask()) as u16;
    let opened = cx.kernel.root_fs.open(&cx.walk(), &base, &path, flags, mode)?;
    if let (true, false, Opened::File(handle)) =
        (flags.contains(OpenFlags::TRUNC), opened.created, &opened.opened)
    {
        file_shrunk(cx, &handle.node(), 0);
    }
    let created = opened.created;
    let description = describe(cx, opened, flags)?;
    if inotify::is_used()
        && let (Some(position), false) = (description.position(), description.is_path())
    {
        if created {
            inotify::tell_created(position);
        } else if flags.contains(OpenFlags::TRUNC) {
            inotify::tell(position, inotify::event::MODIFY);
        }
        inotify::tell(position, inotify::event::OPEN);
    }
    install(cx, description, flags.contains(OpenFlags::CLOEXEC))
}

/// Reads into a buffer, waiting if the descriptor may.
pub(super) fn read_into(cx: &Cx<'_>, file: &Description, buffer: &Buffer, patience: Patience) -> SysResult {
    let object = file.object();
    let space = cx.memory();
    let count = match object.kind() {
        Kind::Terminal(end) => {
            terminal::check_background(cx, end, terminal::Access::Read)?;
            until_done(cx, object, None, patience, || file.read(&mut GuestOutput::new(space, buffer, 0)))?
        }
        Kind::Signals(signals) => until_done(cx, object, None, patience, || {
            signals.read_for(cx.task, &mut GuestOutput::new(space, buffer, 0))
        })?,
        _ => until_done(cx, object, None, patience, || file.read(&mut GuestOutput::new(space, buffer, 0)))?,
    };
    Ok(count as u64)
}

/// Writes a buffer, waiting if the descriptor may; a stream goes on until everything is written.
pub(super) fn write_from(cx: &Cx<'_>, file: &Description, buffer: &Buffer, patience: Patience) -> SysResult {
    let limit = file_size_limit(cx);
    let length = buffer.length();
    let mut total = 0;
    if let Kind::Terminal(end) = file.object().kind() {
        terminal::check_background(cx, end, terminal::Access::Write)?;
    }
    loop {
        let result = until_done(cx, file.object(), None, patience, || {
            file.write(&mut GuestInput::new(cx.memory(), buffer, total), limit)
        });
        match result {
            Ok(count) => {
                total += count;
                if total >= length || count == 0 || !file.object().writes_everything() {
                    return Ok(total as u64);
                }
            }
            Err(error) => {
                signal_for(cx, error);
                return if total > 0 { Ok(total as u64) } else { Err(error) };
            }
        }
    }
}

/// A write without a reader is `SIGPIPE`, one beyond `RLIMIT_FSIZE` `SIGXFSZ`.
pub(super) fn signal_for(cx: &Cx<'_>, error: SysError) {
    match error {
        SysError::Errno(Errno::PIPE) => raise(cx, signal::PIPE),
        SysError::Errno(Errno::FBIG) if file_size_limit(cx) < MAX_OFFSET => raise(cx, signal::XFSZ),
        _ => {}
    }
}

/// The size files may grow to.
fn file_size_limit(cx: &Cx<'_>) -> u64 {
    cx.process().limit(resource::FSIZE).min(MAX_OFFSET)
}

fn read(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, ..] = arguments;
    let file = cx.file(number)?;
    file.check_readable()?;
    if length > i64::MAX as u64 {
        return Err(Errno::INVAL.into());
    }
    read_into(cx, &file, &Buffer::one(address, length), Patience::of(file.nonblocking()))
}

fn write(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, ..] = arguments;
    let file = cx.file(number)?;
    file.check_writable()?;
    if length > i64::MAX as u64 {
        return Err(Errno::INVAL.into());
    }
    write_from(cx, &file, &Buffer::one(address, length), Patience::of(file.nonblocking()))
}

fn readv(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, vector, count, ..] = arguments;
    let file = cx.file(number)?;
    file.check_readable()?;
    let buffer = Buffer::many(cx.memory(), vector, count)?;
    read_into(cx, &file, &buffer, Patience::of(file.nonblocking()))
}

fn writev(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, vector, count, ..] = arguments;
    let file = cx.file(number)?;
    file.check_writable()?;
    let buffer = Buffer::many(cx.memory(), vector, count)?;
    write_from(cx, &file, &buffer, Patience::of(file.nonblocking()))
}

/// Checks an explicit offset. `EINVAL` for a negative one.
fn explicit(offset: u64) -> Result<u64, Errno> {
    if offset > MAX_OFFSET { Err(Errno::INVAL) } else { Ok(offset) }
}

fn read_at(cx: &Cx<'_>, file: &Description, buffer: &Buffer, offset: u64) -> SysResult {
    Ok(file.read_at(&mut GuestOutput::new(cx.memory(), buffer, 0), offset)? as u64)
}

fn write_at(cx: &Cx<'_>, file: &Description, buffer: &Buffer, offset: u64) -> SysResult {
    let limit = file_size_limit(cx);
    let written = file.write_at(&mut GuestInput::new(cx.memory(), buffer, 0), offset, limit);
    match written {
        Ok(count) => Ok(count as u64),
        Err(error) => {
            signal_for(cx, error.into());
            Err(error.into())
        }
    }
}

fn pread(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, offset, ..] = arguments;
    let offset = explicit(offset)?;
    let file = cx.file(number)?;
    read_at(cx, &file, &Buffer::one(address, length), offset)
}

fn pwrite(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, offset, ..] = arguments;
    let offset = explicit(offset)?;
    let file = cx.file(number)?;
    write_at(cx, &file, &Buffer::one(address, length), offset)
}

fn preadv(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, vector, count, offset, ..] = arguments;
    let offset = explicit(offset)?;
    let file = cx.file(number)?;
    let buffer = Buffer::many(cx.memory(), vector, count)?;
    read_at(cx, &file, &buffer, offset)
}

fn pwritev(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, vector, count, offset, ..] = arguments;
    let offset = explicit(offset)?;
    let file = cx.file(number)?;
    let buffer = Buffer::many(cx.memory(), vector, count)?;
    write_at(cx, &file, &buffer, offset)
}

/// `RWF_HIPRI`, `RWF_DSYNC` and `RWF_SYNC`: nothing to do differently.
const RWF_HARMLESS: u64 = 1 | 2 | 4;
/// `RWF_NOWAIT`.
const RWF_NOWAIT: u64 = 8;
/// `RWF_APPEND`.
const RWF_APPEND: u64 = 16;
/// The offset that means the description's own.
const CURRENT: u64 = u64::MAX;

/// What the flags of `preadv2` and `pwritev2` ask for. `EOPNOTSUPP` for flags without support.
fn vectored_patience(file: &Description, flags: u64) -> Result<Patience, Errno> {
    if flags & !(RWF_HARMLESS | RWF_NOWAIT | RWF_APPEND) != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(Patience::of(flags & RWF_NOWAIT != 0 || file.nonblocking()))
}

fn preadv2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, vector, count, offset, _, flags] = arguments;
    let file = cx.file(number)?;
    let patience = vectored_patience(&file, flags)?;
    if flags & RWF_APPEND != 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    let buffer = Buffer::many(cx.memory(), vector, count)?;
    if offset == CURRENT {
        file.check_readable()?;
        return read_into(cx, &file, &buffer, patience);
    }
    read_at(cx, &file, &buffer, explicit(offset)?)
}

fn pwritev2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, vector, count, offset, _, flags] = arguments;
    let file = cx.file(number)?;
    let patience = vectored_patience(&file, flags)?;
    let buffer = Buffer::many(cx.memory(), vector, count)?;
    if flags & RWF_APPEND != 0 && file.object().seekable() {
        file.check_writable()?;
        let input = &mut GuestInput::new(cx.memory(), &buffer, 0);
        return Ok(file.object().append(input, file_size_limit(cx))?.1 as u64);
    }
    if offset == CURRENT {
        file.check_writable()?;
        return write_from(cx, &file, &buffer, patience);
    }
    write_at(cx, &file, &buffer, explicit(offset)?)
}

/// `EBADF`; `ESPIPE` for pipes and sockets; `EINVAL` for an unknown whence or a negative result; `ENXIO` when there
/// is no data or hole beyond the offset.
fn lseek(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, offset, whence, ..] = arguments;
    let file = cx.file(number)?;
    if file.is_path() {
        return Err(Errno::BADF.into());
    }
    if !file.object().seekable() {
        return Err(Errno::SPIPE.into());
    }
    let offset = offset as i64;
    if let Kind::Device(_) = file.object().kind() {
        return if whence <= 2 { Ok(0) } else { Err(Errno::INVAL.into()) };
    }
    let mut current = file.offset();
    let from =
        |start: u64| start.checked_add_signed(offset).filter(|to| *to <= MAX_OFFSET).ok_or(Errno::INVAL);
    let to = match (whence, file.object().kind()) {
        (0, _) => from(0)?,
        (1, _) => from(*current)?,
        (2, Kind::Regular(regular)) => from(regular.handle().size())?,
        (2, Kind::Directory(_)) => from(MAX_OFFSET)?,
        (2, _) => from(place::stat_description(cx, &file)?.size)?,
        (3 | 4, Kind::Regular(regular)) => {
            let start = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            if start >= regular.handle().size() {
                return Err(Errno::NXIO.into());
            }
            if whence == 3 {
                regular.handle().seek_data(start)?
            } else {
                regular.handle().seek_hole(start)?
            }
        }
        _ => return Err(Errno::INVAL.into()),
    };
    *current = to;
    Ok(to)
}

/// `EINVAL` for a negative length; `EFBIG` beyond the limit; then as the file system says.
fn truncate(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [path, length, ..] = arguments;
    let length = new_length(cx, length)?;
    let position = place::position(cx, AT_FDCWD as u64, path, 0, 0)?;
    position.truncate(&cx.walk(), length)?;
    inotify::tell(&position, inotify::event::MODIFY);
    file_shrunk(cx, &position.node(), length);
    Ok(0)
}

/// Tells every process that may have the file mapped.
fn file_shrunk(cx: &Cx<'_>, node: &NodeRef, size: u64) {
    let processes: Vec<Arc<Process>> =
        lock(&cx.kernel.table).processes.values().map(|node| node.process.clone()).collect();
    for space in processes.iter().filter_map(|process| process.any_thread()?.space()) {
        space.file_shrunk(node, size);
    }
}

fn new_length(cx: &Cx<'_>, length: u64) -> Result<u64, SysError> {
    if length > MAX_OFFSET {
        return Err(Errno::INVAL.into());
    }
    if length > file_size_limit(cx) {
        raise(cx, signal::XFSZ);
        return Err(Errno::FBIG.into());
    }
    Ok(length)
}

/// The regular file behind a descriptor that is open for writing; `EINVAL` for anything else.
fn writable_regular(file: &Description) -> Result<&RegularFile, Errno> {
    if file.is_path() {
        return Err(Errno::BADF);
    }
    let Kind::Regular(regular) = file.object().kind() else { return Err(Errno::INVAL) };
    file.check_writable().map_err(|_| Errno::INVAL)?;
    Ok(regular)
}

fn ftruncate(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, length, ..] = arguments;
    let file = cx.file(number)?;
    let length = new_length(cx, length)?;
    let regular = writable_regular(&file)?;
    let before = regular.handle().size();
    regular.truncate(length)?;
    inotify::tell(regular.handle().position(), inotify::event::MODIFY);
    if length < before {
        file_shrunk(cx, &regular.handle().node(), length);
    }
    Ok(0)
}

/// `EBADF` unless open for writing; `ESPIPE` for pipes; `ENODEV` for other objects; `EINVAL` for an empty range;
/// `EFBIG` beyond the largest file.
fn fallocate(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, mode, offset, length, ..] = arguments;
    let file = cx.file(number)?;
    let (start, count) = (offset as i64, length as i64);
    if start < 0 || count <= 0 {
        return Err(Errno::INVAL.into());
    }
    file.check_writable()?;
    let regular = match file.object().kind() {
        Kind::Regular(regular) => regular,
        Kind::Pipe(_) => return Err(Errno::SPIPE.into()),
        _ => return Err(Errno::NODEV.into()),
    };
    let end = start.checked_add(count).ok_or(Errno::FBIG)? as u64;
    let mode = AllocateMode::from_bits_retain(mode as u32);
    if !mode.contains(AllocateMode::KEEP_SIZE) {
        new_length(cx, end)?;
    }
    regular.check_write(if mode.contains(AllocateMode::KEEP_SIZE) { 0 } else { end })?;
    regular.handle().allocate(mode, offset, length)?;
    Ok(0)
}

/// `EBADF`; `EINVAL` for objects that cannot be synced.
fn fsync(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    if file.is_path() {
        return Err(Errno::BADF.into());
    }
    match file.object().kind() {
        Kind::Regular(regular) => regular.handle().sync()?,
        Kind::Directory(_) => {}
        // `syncfs` takes any descriptor.
        _ if cx.number == 306 => {}
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

fn sync(_cx: &mut Cx<'_>, _arguments: [u64; 6]) -> SysResult {
    Ok(0)
}

fn sync_file_range(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, offset, length, flags, ..] = arguments;
    let file = cx.file(number)?;
    if flags & !7 != 0 || offset.checked_add(length).is_none_or(|end| end > MAX_OFFSET) {
        return Err(Errno::INVAL.into());
    }
    match file.object().kind() {
        Kind::Regular(_) | Kind::Directory(_) => Ok(0),
        _ => Err(Errno::SPIPE.into()),
    }
}

fn readahead(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    file.check_readable()?;
    if let Kind::Regular(_) = file.object().kind() { Ok(0) } else { Err(Errno::INVAL.into()) }
}

fn fadvise(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, _, length, advice, ..] = arguments;
    let file = cx.file(number)?;
    if let Kind::Pipe(_) = file.object().kind() {
        return Err(Errno::SPIPE.into());
    }
    if advice > 5 || length > MAX_OFFSET { Err(Errno::INVAL.into()) } else { Ok(0) }
}

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;

/// `EINVAL` for unknown flags, huge pages, and a name above 249 bytes.
fn memfd_create(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [name, flags, ..] = arguments;
    let flags = flags as u32;
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC) != 0 {
        return Err(Errno::INVAL.into());
    }
    // The name is only shown in /proc; its length is what can be wrong with it.
    cx.memory()
        .read_c_string(name, 250)
        .map_err(|error| if error == Errno::NAMETOOLONG { Errno::INVAL } else { error })?;
    let root = cx.kernel.root_fs.root();
    let credentials = Credentials::root();
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
    let open = OpenFlags::TMPFILE | OpenFlags::RDWR;
    let mode = if flags & MFD_NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    let result = cx.kernel.root_fs.open(&walk, &root, b"/", open, mode)?;
    let Opened::File(handle) = result.opened else { return Err(Errno::NOMEM.into()) };
    let sealed = if flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) != 0 { 0 } else { seal::SEAL };
    let file = RegularFile::sealed(handle, Arc::new(AtomicU32::new(sealed)));
    let description =
        Description::new(Box::new(file), status::READ_WRITE | status::LARGEFILE, Some(result.position));
    install(cx, description, flags & MFD_CLOEXEC != 0)
}

/// One end of an in-kernel copy: a description and perhaps an offset in guest memory.
struct End {
    file: Arc<Description>,
    /// Address of the offset, or 0 for the description's own.
    address: u64,
    offset: Option<u64>,
}

impl End {
    fn new(cx: &Cx<'_>, number: u64, address: u64) -> Result<Self, SysError> {
        let file = cx.file(number)?;
        let offset = if address == 0 { None } else { Some(explicit(cx.memory().load(address)?)?) };
        if offset.is_some() && !file.object().seekable() {
            return Err(Errno::SPIPE.into());
        }
        Ok(Self { file, address, offset })
    }

    fn read(&mut self, output: &mut dyn Output) -> Result<usize, Errno> {
        let Some(offset) = self.offset else { return self.file.read(output) };
        let count = self.file.read_at(output, offset)?;
        self.offset = Some(offset + count as u64);
        Ok(count)
    }

    fn write(&mut self, input: &mut dyn Input, limit: u64) -> Result<usize, Errno> {
        let Some(offset) = self.offset else { return self.file.write(input, limit) };
        let count = self.file.write_at(input, offset, limit)?;
        self.offset = Some(offset + count as u64);
        Ok(count)
    }

    /// Steps back what was read but could not be written.
    fn unread(&mut self, count: usize) {
        match &mut self.offset {
            Some(offset) => *offset -= count as u64,
            None if self.file.object().seekable() => *self.file.offset() -= count as u64,
            None => {}
        }
    }

    fn store_offset(&self, cx: &Cx<'_>) -> Result<(), Errno> {
        self.offset.map_or(Ok(()), |offset| cx.memory().store(self.address, offset))
    }
}

/// Copies between two descriptions through the kernel; stops at the end of the source, or when either would wait
/// after something was copied.
fn transfer(
    cx: &Cx<'_>,
    from: &mut End,
    to: &mut End,
    length: usize,
    patience: Patience,
) -> Result<usize, SysError> {
    let limit = file_size_limit(cx);
    let mut total = 0;
    while total < length {
        let step = with_bounce(|bounce| -> Result<usize, SysError> {
            let room =
                if let Kind::Pipe(end) = to.file.object().kind() { end.capacity() } else { bounce.len() };
            let want = (length - total).min(bounce.len()).min(room);
            let wait = if total > 0 { Patience::None } else { patience };
            // A stream cannot take bytes back, so there has to be room before they are read.
            if !from.file.object().seekable() {
                wait_for_room(cx, &to.file, wait)?;
            }
            let source = Arc::clone(&from.file);
            let count = until_done(cx, source.object(), None, wait, || {
                from.read(&mut HostOutput::new(&mut bounce[..want]))
            })?;
            let mut written = 0;
            while written < count {
                let target = Arc::clone(&to.file);
                // What was taken out of a stream has to arrive, so that part waits whatever the flags say.
                let wait = if from.file.object().seekable() { wait } else { Patience::Forever };
                let result = until_done(cx, target.object(), None, wait, || {
                    to.write(&mut HostInput::new(&bounce[written..count]), limit)
                });
                match result {
                    Ok(more) => written += more,
                    Err(error) => {
                        from.unread(count - written);
                        signal_for(cx, error);
                        return if written > 0 { Ok(written) } else { Err(error) };
                    }
                }
                if from.file.object().seekable() && written < count {
                    from.unread(count - written);
                    return Ok(written);
                }
            }
            Ok(count)
        });
        match step {
            Ok(0) => break,
            Ok(count) => total += count,
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        }
        // One piece of a stream is an answer; a file goes on to its end.
        if !from.file.object().seekable() {
            break;
        }
    }
    Ok(total)
}

fn wait_for_room(cx: &Cx<'_>, file: &Description, patience: Patience) -> Result<(), SysError> {
    use crate::files::Ready;
    until_done(cx, file.object(), None, patience, || {
        if file.object().poll().intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
            Ok(())
        } else {
            Err(Errno::AGAIN)
        }
    })
}

/// `EBADF` for wrong access modes; `EINVAL` for a source that cannot be mapped or a target that appends.
fn sendfile(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [target, source, offset, count, ..] = arguments;
    let mut from = End::new(cx, source, offset)?;
    let mut to = End::new(cx, target, 0)?;
    from.file.check_readable()?;
    to.file.check_writable()?;
    if to.file.flags() & status::APPEND != 0 || matches!(from.file.object().kind(), Kind::Directory(_)) {
        return Err(Errno::INVAL.into());
    }
    let patience = Patience::of(to.file.nonblocking());
    let length = usize::try_from(count).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER);
    let total = transfer(cx, &mut from, &mut to, length, patience)?;
    from.store_offset(cx)?;
    Ok(total as u64)
}

/// `EBADF` for wrong access modes or a target that appends; `EISDIR`, `EINVAL` unless both are regular files;
/// `EINVAL` for overlapping ranges of one file.
fn copy_file_range(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [source, source_offset, target, target_offset, length, flags] = arguments;
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    let mut from = End::new(cx, source, source_offset)?;
    let mut to = End::new(cx, target, target_offset)?;
    from.file.check_readable()?;
    to.file.check_writable()?;
    if to.file.flags() & status::APPEND != 0 {
        return Err(Errno::BADF.into());
    }
    let kinds = (from.file.object().kind(), to.file.object().kind());
    if matches!(kinds.0, Kind::Directory(_)) || matches!(kinds.1, Kind::Directory(_)) {
        return Err(Errno::ISDIR.into());
    }
    let (Kind::Regular(input), Kind::Regular(output)) = kinds else { return Err(Errno::INVAL.into()) };
    let start = from.offset.unwrap_or_else(|| *from.file.offset());
    let to_start = to.offset.unwrap_or_else(|| *to.file.offset());
    let length = length.min(MAX_TRANSFER as u64).min(input.handle().size().saturating_sub(start));
    let same = input.handle().node() == output.handle().node();
    if same
        && start < to_start.saturating_add(length)
        && to_start < start.saturating_add(length)
        && length > 0
    {
        return Err(Errno::INVAL.into());
    }
    let end = to_start.checked_add(length).ok_or(Errno::OVERFLOW)?;
    new_length(cx, end)?;
    output.check_write(end)?;
    let count =
        if length == 0 { 0 } else { output.handle().copy_from(input.handle(), start, to_start, length)? };
    for (end, start) in [(&mut from, start), (&mut to, to_start)] {
        match &mut end.offset {
            Some(offset) => *offset = start + count,
            None => *end.file.offset() = start + count,
        }
        end.store_offset(cx)?;
    }
    Ok(count)
}

/// `SPLICE_F_NONBLOCK`.
const SPLICE_NONBLOCK: u64 = 2;
/// All flags of the splice family.
const SPLICE_FLAGS: u64 = 15;

/// `EINVAL` for unknown flags, when neither side is a pipe, or when both are ends of one; `ESPIPE` for an offset
/// with a pipe.
fn splice(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [source, source_offset, target, target_offset, length, flags] = arguments;
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::INVAL.into());
    }
    if length == 0 {
        return Ok(0);
    }
    let mut from = End::new(cx, source, source_offset)?;
    let mut to = End::new(cx, target, target_offset)?;
    from.file.check_readable()?;
    to.file.check_writable()?;
    match (from.file.object().kind(), to.file.object().kind()) {
        (Kind::Pipe(one), Kind::Pipe(other)) if Arc::ptr_eq(one.pipe(), other.pipe()) => {
            return Err(Errno::INVAL.into());
        }
        (Kind::Pipe(_), _) | (_, Kind::Pipe(_)) => {}
        _ => return Err(Errno::INVAL.into()),
    }
    if to.file.flags() & status::APPEND != 0 {
        return Err(Errno::INVAL.into());
    }
    let patience =
        Patience::of(flags & SPLICE_NONBLOCK != 0 || from.file.nonblocking() || to.file.nonblocking());
    let length = usize::try_from(length).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER);
    let total = transfer(cx, &mut from, &mut to, length, patience)?;
    from.store_offset(cx)?;
    to.store_offset(cx)?;
    Ok(total as u64)
}

fn tee(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [source, target, length, flags, ..] = arguments;
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::INVAL.into());
    }
    let (from, to) = (cx.file(source)?, cx.file(target)?);
    from.check_readable()?;
    to.check_writable()?;
    let (Kind::Pipe(input), Kind::Pipe(output)) = (from.object().kind(), to.object().kind()) else {
        return Err(Errno::INVAL.into());
    };
    let length = usize::try_from(length).unwrap_or(MAX_TRANSFER).min(output.capacity());
    if length == 0 {
        return Ok(0);
    }
    let patience = Patience::of(flags & SPLICE_NONBLOCK != 0);
    wait_for_room(cx, &to, patience)?;
    Ok(until_done(cx, from.object(), None, patience, || input.copy_into(output, length))? as u64)
}

fn vmsplice(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, vector, count, flags, ..] = arguments;
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(number)?;
    let Kind::Pipe(_) = file.object().kind() else { return Err(Errno::BADF.into()) };
    let buffer = Buffer::many(cx.memory(), vector, count)?;
    let patience = Patience::of(flags & SPLICE_NONBLOCK != 0);
    if file.check_writable().is_ok() {
        return write_from(cx, &file, &buffer, patience);
    }
    read_into(cx, &file, &buffer, patience)
}
