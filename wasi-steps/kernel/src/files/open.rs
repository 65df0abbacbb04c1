//! From an opened place to an open file description.

use std::sync::Arc;

use cooper_vfs::{NodeRef, OpenFlags, OpenResult, Opened, Position};

use super::blocking::{Patience, until_done};
use super::description::status;
use super::pipe::{Direction, Pipe, PipeEnd};
use super::regular::{DirectoryFile, MadeUpFile, PlaceOnly, RegularFile};
use super::{Description, Errno, FileObject};
use crate::cx::Cx;
use crate::devices;
use crate::syscalls::SysError;
use crate::terminal;

/// Flags that `F_GETFL` does not show.
const ONLY_AT_OPEN: OpenFlags = OpenFlags::CREAT
    .union(OpenFlags::EXCL)
    .union(OpenFlags::NOCTTY)
    .union(OpenFlags::TRUNC)
    .union(OpenFlags::CLOEXEC);

/// The status flags a description keeps of the flags it was opened with.
pub(crate) fn status_flags(flags: OpenFlags) -> u32 {
    if flags.contains(OpenFlags::PATH) {
        return (flags & (OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW)).bits();
    }
    flags.difference(ONLY_AT_OPEN).bits() & 0o37_777_777 | status::LARGEFILE
}

/// Makes the description of what the file system opened.
///
/// Waits for the other side of a FIFO. `ENXIO` for a device that does not exist, for a socket, and for a FIFO
/// without reader that is opened to write with `O_NONBLOCK`.
pub(crate) fn describe(
    cx: &Cx<'_>,
    result: OpenResult,
    flags: OpenFlags,
) -> Result<Arc<Description>, SysError> {
    let OpenResult { opened, position, .. } = result;
    let object: Box<dyn FileObject> = match opened {
        Opened::File(handle) => Box::new(RegularFile::new(handle)),
        Opened::Directory(handle) => Box::new(DirectoryFile::new(handle)),
        Opened::Fifo(node) => Box::new(open_fifo(cx, &node, flags)?),
        Opened::Device { character, major, minor, .. } => {
            let terminal = if character { terminal::open(cx, (major, minor), flags) } else { None };
            terminal.unwrap_or_else(|| devices::open(character, major, minor))?
        }
        Opened::Path => Box::new(PlaceOnly),
        Opened::Synthetic(file) => Box::new(MadeUpFile::new(file)),
        Opened::Object(object) => {
            let description = object.downcast::<Description>().map_err(|_| Errno::NXIO)?;
            return reopen(&description, flags, position).map_err(SysError::from);
        }
    };
    Ok(Description::new(object, status_flags(flags), Some(position)))
}

fn direction(flags: OpenFlags) -> Direction {
    match (flags.reads(), flags.writes()) {
        (true, true) => Direction::Both,
        (false, true) => Direction::Write,
        _ => Direction::Read,
    }
}

/// Opens a FIFO (fifo(7)): an end that only reads waits for a writer, one that only writes for a reader.
fn open_fifo(cx: &Cx<'_>, node: &NodeRef, flags: OpenFlags) -> Result<PipeEnd, SysError> {
    let pipe = node.attachment(Pipe::unopened);
    let direction = direction(flags);
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    if nonblocking && direction == Direction::Write && pipe.readers() == 0 {
        return Err(Errno::NXIO.into());
    }
    let (end, awaited) = pipe.open(direction);
    let Some(before) = awaited.filter(|_| direction != Direction::Both && !nonblocking) else {
        return Ok(end);
    };
    until_done(cx, &end, Some(pipe.opened()), Patience::Forever, || {
        if pipe.peer_opens(direction) != before { Ok(()) } else { Err(Errno::AGAIN) }
    })?;
    Ok(end)
}

/// Opens `/proc/self/fd/N` of something without a place: a pipe gives a new end, everything else `ENXIO`.
fn reopen(
    original: &Arc<Description>,
    flags: OpenFlags,
    position: Position,
) -> Result<Arc<Description>, Errno> {
    if flags.contains(OpenFlags::PATH) {
        return Ok(Description::new(Box::new(PlaceOnly), status_flags(flags), Some(position)));
    }
    let super::Kind::Pipe(end) = original.object().kind() else { return reopen_stream(original, flags) };
    let end = end.pipe().end(direction(flags));
    Ok(Description::new(Box::new(end), status_flags(flags), None))
}

/// The standard streams can be opened again, as `/dev/stdout` is; the new description shares the object.
fn reopen_stream(original: &Arc<Description>, flags: OpenFlags) -> Result<Arc<Description>, Errno> {
    if !original.object().reopens() {
        return Err(Errno::NXIO);
    }
    if flags.reads() {
        original.check_readable().map_err(|_| Errno::ACCESS)?;
    }
    if flags.writes() {
        original.check_writable().map_err(|_| Errno::ACCESS)?;
    }
    Ok(Description::new(Box::new(Shared(Arc::clone(original))), status_flags(flags), None))
}

/// Another description of the same standard stream.
#[derive(Debug)]
struct Shared(Arc<Description>);

impl FileObject for Shared {
    fn read(&self, output: &mut dyn super::Output, offset: u64) -> Result<usize, Errno> {
        self.0.object().read(output, offset)
    }

    fn write(&self, input: &mut dyn super::Input, offset: u64) -> Result<usize, Errno> {
        self.0.object().write(input, offset)
    }

    fn poll(&self) -> super::Ready {
        self.0.object().poll()
    }

    fn watch(&self, watch: &mut super::Watch) {
        self.0.object().watch(watch);
    }

    fn writes_everything(&self) -> bool {
        self.0.object().writes_everything()
    }

    fn reopens(&self) -> bool {
        true
    }

    fn anonymous(&self) -> Option<super::Anonymous> {
        self.0.object().anonymous()
    }
}
