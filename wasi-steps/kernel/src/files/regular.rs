//! Files of the virtual file system: regular files, directories, made-up files, and places without access.

use std::sync::Arc;

use cooper_vfs::{DirectoryHandle, FileHandle, SyntheticFile};

use super::description::append_with;
use super::transfer::{copy_in, copy_out};
use super::{Errno, FileObject, Input, Kind, Output, Ready};

/// The largest offset of a file.
pub(crate) const MAX_OFFSET: u64 = i64::MAX as u64;

/// An open regular file.
#[derive(Debug)]
pub(crate) struct RegularFile {
    handle: FileHandle,
    seals: Option<Seals>,
}

/// Seals of a `memfd` (`F_ADD_SEALS`).
pub(crate) type Seals = Arc<std::sync::atomic::AtomicU32>;

/// Numbers of seals.
pub(crate) mod seal {
    /// No more seals.
    pub(crate) const SEAL: u32 = 1;
    /// The file does not shrink.
    pub(crate) const SHRINK: u32 = 2;
    /// The file does not grow.
    pub(crate) const GROW: u32 = 4;
    /// The file is not written.
    pub(crate) const WRITE: u32 = 8;
    /// The file is not written through new maps or calls.
    pub(crate) const FUTURE_WRITE: u32 = 16;
    /// All that exist here.
    pub(crate) const ALL: u32 = 31;
}

impl RegularFile {
    /// An ordinary file.
    pub(crate) fn new(handle: FileHandle) -> Self {
        Self { handle, seals: None }
    }

    /// A `memfd` with these seals.
    pub(crate) fn sealed(handle: FileHandle, seals: Seals) -> Self {
        Self { handle, seals: Some(seals) }
    }

    /// The file itself.
    pub(crate) fn handle(&self) -> &FileHandle {
        &self.handle
    }

    /// The seals of a `memfd`; `None` for files that cannot be sealed.
    pub(crate) fn seals(&self) -> Option<&Seals> {
        self.seals.as_ref()
    }

    fn has_seal(&self, mask: u32) -> bool {
        let seals = self.seals.as_ref();
        seals.is_some_and(|seals| seals.load(std::sync::atomic::Ordering::SeqCst) & mask != 0)
    }

    /// Whether new maps and calls must not write.
    pub(crate) fn is_sealed_against_writing(&self) -> bool {
        self.has_seal(seal::WRITE | seal::FUTURE_WRITE)
    }

    /// Up to where a write from `offset` to `end` gets with its seals: as Linux, whole pages of a file that does not grow.
    ///
    /// `EPERM` when nothing may be written.
    fn writable_end(&self, offset: u64, end: u64) -> Result<u64, Errno> {
        if self.is_sealed_against_writing() || !self.has_seal(seal::GROW) || end <= self.handle.size() {
            return self.check_write(end).map(|()| end);
        }
        let last = self.handle.size() & !(cooper_x86::memory::PAGE_SIZE - 1);
        if offset < last { Ok(last) } else { Err(Errno::PERM) }
    }

    /// Fails with `EPERM` when a seal forbids writing up to `end`.
    pub(crate) fn check_write(&self, end: u64) -> Result<(), Errno> {
        if self.seals.is_none() {
            return Ok(());
        }
        let grows = end > self.handle.size() && self.has_seal(seal::GROW);
        if grows || self.has_seal(seal::WRITE | seal::FUTURE_WRITE) { Err(Errno::PERM) } else { Ok(()) }
    }

    /// Sets the length. `EPERM` when a seal forbids it; then what the file says.
    pub(crate) fn truncate(&self, length: u64) -> Result<(), Errno> {
        if self.seals.is_some() {
            let size = self.handle.size();
            let shrinks = length < size && self.has_seal(seal::SHRINK);
            if shrinks || length > size && self.has_seal(seal::GROW) {
                return Err(Errno::PERM);
            }
        }
        self.handle.truncate(length)
    }
}

impl FileObject for RegularFile {
    fn read(&self, output: &mut dyn Output, offset: u64) -> Result<usize, Errno> {
        if offset.checked_add(output.remaining() as u64).is_none_or(|end| end > MAX_OFFSET) {
            return Err(Errno::INVAL);
        }
        copy_out(output, |done, buffer| self.handle.read_at(offset + done, buffer))
    }

    /// `EFBIG` beyond the largest offset; `EPERM` for a sealed file; then what the file says.
    fn write(&self, input: &mut dyn Input, offset: u64) -> Result<usize, Errno> {
        let end = offset.checked_add(input.remaining() as u64).filter(|end| *end <= MAX_OFFSET);
        let end = end.ok_or(if offset > MAX_OFFSET { Errno::INVAL } else { Errno::FBIG })?;
        let end = self.writable_end(offset, end)?;
        let mut input =
            super::description::Prefix::new(input, usize::try_from(end - offset).unwrap_or(usize::MAX));
        copy_in(&mut input, |done, bytes| self.handle.write_at(offset + done, bytes))
    }

    fn append(&self, input: &mut dyn Input, limit: u64) -> Result<(u64, usize), Errno> {
        let length = input.remaining() as u64;
        let size = self.handle.size();
        if length == 0 {
            return Ok((size, 0));
        }
        if size >= limit {
            return Err(Errno::FBIG);
        }
        self.check_write(u64::MAX)?;
        let mut bounded = super::description::Prefix::new(input, length.min(limit - size) as usize);
        append_with(&mut bounded, |bytes| self.handle.append(bytes))
    }

    fn limited(&self) -> bool {
        true
    }

    fn pollable(&self) -> bool {
        false
    }

    fn seekable(&self) -> bool {
        true
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Regular(self)
    }
}

/// An open directory; the description's offset is the cookie of the next entry.
#[derive(Debug)]
pub(crate) struct DirectoryFile {
    handle: DirectoryHandle,
}

impl DirectoryFile {
    /// Opens it for reading names.
    pub(crate) fn new(handle: DirectoryHandle) -> Self {
        Self { handle }
    }

    /// The directory itself.
    pub(crate) fn handle(&self) -> &DirectoryHandle {
        &self.handle
    }
}

impl FileObject for DirectoryFile {
    fn read(&self, _output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::ISDIR)
    }

    fn write(&self, _input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::BADF)
    }

    fn pollable(&self) -> bool {
        false
    }

    fn seekable(&self) -> bool {
        true
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Directory(self)
    }
}

/// An open file of a synthetic file system (`/proc`, `/sys`).
#[derive(Debug)]
pub(crate) struct MadeUpFile {
    file: Arc<dyn SyntheticFile>,
}

impl MadeUpFile {
    /// Wraps what the file system gave.
    pub(crate) fn new(file: Arc<dyn SyntheticFile>) -> Self {
        Self { file }
    }
}

impl FileObject for MadeUpFile {
    fn read(&self, output: &mut dyn Output, offset: u64) -> Result<usize, Errno> {
        copy_out(output, |done, buffer| self.file.read_at(offset + done, buffer))
    }

    fn write(&self, input: &mut dyn Input, offset: u64) -> Result<usize, Errno> {
        copy_in(input, |done, bytes| self.file.write_at(offset + done, bytes))
    }

    fn pollable(&self) -> bool {
        false
    }

    fn seekable(&self) -> bool {
        true
    }
}

/// A place opened with `O_PATH`: every access is `EBADF`, which the description's flags see to.
#[derive(Debug)]
pub(crate) struct PlaceOnly;

impl FileObject for PlaceOnly {
    fn poll(&self) -> Ready {
        Ready::NVAL
    }

    fn pollable(&self) -> bool {
        false
    }
}
