//! Open file descriptions: one `open`, shared by every descriptor that `dup`, `fork` and `SCM_RIGHTS` made of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cooper_vfs::Position;

use super::transfer::{MAX_TRANSFER, copy_in};
use super::{Errno, FileObject, Input, Output, inotify, lock, next_inode};
use crate::locks::Holder;

/// Status flags of a description, with Linux's numbers on x86-64.
pub(crate) mod status {
    /// Mask of the access mode.
    pub(crate) const ACCESS: u32 = 3;
    /// Read only.
    pub(crate) const READ_ONLY: u32 = 0;
    /// Write only.
    pub(crate) const WRITE_ONLY: u32 = 1;
    /// Read and write.
    pub(crate) const READ_WRITE: u32 = 2;
    /// Writes go to the end.
    pub(crate) const APPEND: u32 = 0o2000;
    /// Attempts do not wait.
    pub(crate) const NONBLOCK: u32 = 0o4000;
    /// `SIGIO` on readiness.
    pub(crate) const ASYNC: u32 = 0o20000;
    /// No page cache.
    pub(crate) const DIRECT: u32 = 0o40000;
    /// 64-bit offsets; always set on x86-64.
    pub(crate) const LARGEFILE: u32 = 0o100_000;
    /// Access times stay.
    pub(crate) const NOATIME: u32 = 0o1_000_000;
    /// Only a name, no access.
    pub(crate) const PATH: u32 = 0o10_000_000;
    /// What `F_SETFL` may change.
    pub(crate) const SETTABLE: u32 = APPEND | NONBLOCK | ASYNC | DIRECT | NOATIME;
}

/// One open file description.
#[derive(Debug)]
pub(crate) struct Description {
    object: Box<dyn FileObject>,
    flags: AtomicU32,
    offset: Mutex<u64>,
    position: Option<Position>,
    id: u64,
    signal_owner: Mutex<SignalOwner>,
    /// Releases `flock` and OFD locks with the last descriptor.
    lock_holder: Holder,
}

/// Who gets `SIGIO` (`F_SETOWN`) and which signal (`F_SETSIG`); recorded and given back, never sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SignalOwner {
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub(crate) class: i32,
    /// The id within the class; 0 for none.
    pub(crate) id: i32,
    /// The signal; 0 for `SIGIO`.
    pub(crate) signal: i32,
}

impl Description {
    /// Makes a description of an object with these status flags, opened at `position` if it has a name.
    pub(crate) fn new(object: Box<dyn FileObject>, flags: u32, position: Option<Position>) -> Arc<Self> {
        Arc::new(Self {
            object,
            flags: AtomicU32::new(flags),
            offset: Mutex::new(0),
            position,
            id: next_inode(),
            signal_owner: Mutex::new(SignalOwner::default()),
            lock_holder: Holder::default(),
        })
    }

    /// The object.
    pub(crate) fn object(&self) -> &dyn FileObject {
        &*self.object
    }

    /// The name it was opened by, if it has one.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// A number that tells this description from all others, also later ones.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The status flags (`F_GETFL`).
    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes the flags in `mask` (`F_SETFL`, `FIONBIO`).
    pub(crate) fn set_flags(&self, mask: u32, value: u32) {
        let _ = self
            .flags
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old & !mask | value & mask));
    }

    /// Whether attempts must not wait.
    pub(crate) fn nonblocking(&self) -> bool {
        self.flags() & status::NONBLOCK != 0
    }

    /// Whether it was opened with `O_PATH`.
    pub(crate) fn is_path(&self) -> bool {
        self.flags() & status::PATH != 0
    }

    /// Fails with `EBADF` unless open for reading.
    pub(crate) fn check_readable(&self) -> Result<(), Errno> {
        let flags = self.flags();
        if flags & status::PATH != 0 || flags & status::ACCESS == status::WRITE_ONLY {
            return Err(Errno::BADF);
        }
        Ok(())
    }

    /// Fails with `EBADF` unless open for writing.
    pub(crate) fn check_writable(&self) -> Result<(), Errno> {
        let flags = self.flags();
        if flags & status::PATH != 0 || flags & status::ACCESS == status::READ_ONLY {
            return Err(Errno::BADF);
        }
        Ok(())
    }

    /// Locks the offset; held while a seekable file is read or written, so that sharers do not overlap.
    pub(crate) fn offset(&self) -> MutexGuard<'_, u64> {
        lock(&self.offset)
    }

    /// What releases the locks of this description.
    pub(crate) fn lock_holder(&self) -> &Holder {
        &self.lock_holder
    }

    /// Recorded receiver of `SIGIO`.
    pub(crate) fn signal_owner(&self) -> MutexGuard<'_, SignalOwner> {
        lock(&self.signal_owner)
    }

    /// Attempts to read at the offset and moves it.
    ///
    /// `EBADF` unless open for reading; then what the object says.
    pub(crate) fn read(&self, output: &mut dyn Output) -> Result<usize, Errno> {
        self.check_readable()?;
        if !self.object.seekable() {
            return self.object.read(output, 0);
        }
        let mut offset = self.offset();
        let count = self.object.read(output, *offset)?;
        *offset += count as u64;
        self.tell(inotify::event::ACCESS, count);
        Ok(count)
    }

    /// Attempts to write at the offset, or at the end with `O_APPEND`, and moves it.
    ///
    /// `EBADF` unless open for writing; then what the object says. `limit` is `RLIMIT_FSIZE`: writing starts below
    /// it and stops at it, `EFBIG` otherwise.
    pub(crate) fn write(&self, input: &mut dyn Input, limit: u64) -> Result<usize, Errno> {
        self.check_writable()?;
        if !self.object.seekable() {
            return self.object.write(input, 0);
        }
        let mut offset = self.offset();
        if self.flags() & status::APPEND != 0 {
            let (end, count) = self.object.append(input, limit)?;
            *offset = end;
            self.tell(inotify::event::MODIFY, count);
            return Ok(count);
        }
        let count = self.write_seekable(input, *offset, limit)?;
        *offset += count as u64;
        Ok(count)
    }

    /// Attempts to read at an explicit offset (`pread64`).
    ///
    /// `EBADF` unless open for reading; `ESPIPE` for an object without offsets.
    pub(crate) fn read_at(&self, output: &mut dyn Output, offset: u64) -> Result<usize, Errno> {
        self.check_readable()?;
        if !self.object.seekable() {
            return Err(Errno::SPIPE);
        }
        let count = self.object.read(output, offset)?;
        self.tell(inotify::event::ACCESS, count);
        Ok(count)
    }

    /// Attempts to write at an explicit offset (`pwrite64`); appends with `O_APPEND`, as Linux does.
    ///
    /// `EBADF` unless open for writing; `ESPIPE` for an object without offsets; `EFBIG` at `limit`.
    pub(crate) fn write_at(&self, input: &mut dyn Input, offset: u64, limit: u64) -> Result<usize, Errno> {
        self.check_writable()?;
        if !self.object.seekable() {
            return Err(Errno::SPIPE);
        }
        if self.flags() & status::APPEND != 0 {
            let (_, count) = self.object.append(input, limit)?;
            self.tell(inotify::event::MODIFY, count);
            return Ok(count);
        }
        self.write_seekable(input, offset, limit)
    }

    /// Tells who watches the file that so many bytes of it were read or written.
    fn tell(&self, event: u32, count: usize) {
        if count > 0
            && inotify::is_used()
            && let Some(position) = &self.position
        {
            inotify::tell(position, event);
        }
    }

    fn write_seekable(&self, input: &mut dyn Input, offset: u64, limit: u64) -> Result<usize, Errno> {
        let count = self.write_within(input, offset, limit)?;
        self.tell(inotify::event::MODIFY, count);
        Ok(count)
    }

    fn write_within(&self, input: &mut dyn Input, offset: u64, limit: u64) -> Result<usize, Errno> {
        let length = input.remaining() as u64;
        if length == 0 {
            return self.object.write(input, offset);
        }
        if self.object.limited() && offset >= limit {
            return Err(Errno::FBIG);
        }
        if !self.object.limited() || length <= limit - offset {
            return self.object.write(input, offset);
        }
        self.object.write(&mut Prefix::new(input, (limit - offset) as usize), offset)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        if inotify::is_used()
            && !self.is_path()
            && let Some(position) = &self.position
        {
            let written = self.check_writable().is_ok();
            let event = if written { inotify::event::CLOSE_WRITE } else { inotify::event::CLOSE_NOWRITE };
            inotify::tell(position, event);
        }
    }
}

/// The first bytes of another input.
pub(crate) struct Prefix<'a> {
    input: &'a mut dyn Input,
    left: usize,
}

impl<'a> Prefix<'a> {
    /// Limits `input` to `length` bytes.
    pub(crate) fn new(input: &'a mut dyn Input, length: usize) -> Self {
        Self { input, left: length }
    }
}

impl Input for Prefix<'_> {
    fn remaining(&self) -> usize {
        self.left.min(self.input.remaining())
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let want = bytes.len().min(self.left);
        let count = self.input.take(&mut bytes[..want])?;
        self.left -= count;
        Ok(count)
    }
}

/// Cuts a transfer to what one call moves.
pub(crate) fn transfer_length(length: u64) -> usize {
    usize::try_from(length).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER)
}

/// Appends an input piece by piece; returns the end of the file after the last piece, and the count.
pub(crate) fn append_with(
    input: &mut dyn Input,
    mut append: impl FnMut(&[u8]) -> Result<(u64, usize), Errno>,
) -> Result<(u64, usize), Errno> {
    let mut end = 0;
    let count = copy_in(input, |_, bytes| {
        let (after, count) = append(bytes)?;
        end = after;
        Ok(count)
    })?;
    Ok((end, count))
}
