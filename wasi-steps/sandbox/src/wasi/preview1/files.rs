//! Open files: bytes, sizes, times, entries.

use super::super::errno::Errno;
use super::super::process::{Fail, Guest};
use super::descriptors::{FileType, open};
use super::{Done, call};

/// The most buffers of one call (`IOV_MAX`).
const MAX_BUFFERS: u32 = 1024;
/// Bytes of `struct stat`.
const STAT_SIZE: usize = 144;
const NANOSECONDS: u64 = 1_000_000_000;

/// Where a call on a file begins.
#[derive(Clone, Copy)]
enum At {
    Position,
    Offset(u64),
}

/// A direction, and its system calls: with one buffer, with many, each without and with an offset.
struct Transfer {
    one: u64,
    one_at: u64,
    many: u64,
    many_at: u64,
}

const READ: Transfer =
    Transfer { one: call::READ, one_at: call::PREAD, many: call::READV, many_at: call::PREADV };
const WRITE: Transfer =
    Transfer { one: call::WRITE, one_at: call::PWRITE, many: call::WRITEV, many_at: call::PWRITEV };

impl Guest {
    /// Reads an array of buffers: addresses and lengths.
    pub(super) fn buffers(&self, buffers: u32, count: u32) -> Result<Vec<[u32; 2]>, Fail> {
        if count > MAX_BUFFERS {
            return Err(Errno::INVAL.into());
        }
        let bytes = self.space.read_vec(buffers.into(), count as usize * 8)?;
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(bytes.chunks_exact(8).map(|pair| [word(pair), word(&pair[4..])]).collect())
    }

    /// The same as an array of `struct iovec`, as bytes.
    pub(super) fn vectors(buffers: &[[u32; 2]]) -> Vec<u8> {
        buffers.iter().flatten().flat_map(|word| u64::from(*word).to_le_bytes()).collect()
    }

    fn transfer(&mut self, how: &Transfer, fd: u32, buffers: (u32, u32), at: At, result: u32) -> Done {
        let buffers = self.buffers(buffers.0, buffers.1)?;
        let (offset, one, many) = match at {
            At::Position => (0, how.one, how.many),
            At::Offset(offset) if offset > i64::MAX as u64 => return Err(Errno::INVAL.into()),
            At::Offset(offset) => (offset, how.one_at, how.many_at),
        };
        let count = if let [[address, length]] = buffers[..] {
            self.call(one, [fd.into(), address.into(), length.into(), offset, 0, 0])?
        } else {
            let vectors = self.put(&Self::vectors(&buffers))?;
            self.call(many, [fd.into(), vectors, buffers.len() as u64, offset, 0, 0])?
        };
        Ok(self.space.store(result.into(), count as u32)?)
    }

    /// Turns the `struct stat` in the room into a `filestat`.
    pub(super) fn store_filestat(&mut self, kind: Option<FileType>, result: u32) -> Done {
        let stat = self.space.read_vec(Self::ROOM.0, STAT_SIZE)?;
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&stat[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let time = |at: usize| word(at).saturating_mul(NANOSECONDS).saturating_add(word(at + 8));
        let kind = kind.unwrap_or_else(|| FileType::of_mode(word(24) as u32));
        let words = [word(0), word(8), kind.0.into(), word(16), word(48), time(72), time(88), time(104)];
        Ok(self.space.store(result.into(), words)?)
    }

    /// Puts the two times of `utimensat` into the room.
    pub(super) fn put_times(&mut self, accessed: u64, modified: u64, flags: u32) -> Result<u64, Fail> {
        /// `UTIME_NOW`, `UTIME_OMIT`.
        const NOW: u64 = (1 << 30) - 1;
        const OMIT: u64 = (1 << 30) - 2;
        let time = |given: u64, value: u32, now: u32| match (flags & value != 0, flags & now != 0) {
            (true, true) => Err(Errno::INVAL),
            (true, false) => Ok([given / NANOSECONDS, given % NANOSECONDS]),
            (false, true) => Ok([0, NOW]),
            (false, false) => Ok([0, OMIT]),
        };
        if flags >= 16 {
            return Err(Errno::INVAL.into());
        }
        let times = [time(accessed, 1, 2)?, time(modified, 4, 8)?];
        let bytes: Vec<u8> = times.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(&bytes)
    }
}

pub(super) fn fd_read(guest: &mut Guest, fd: u32, buffers: u32, count: u32, result: u32) -> Done {
    guest.transfer(&READ, fd, (buffers, count), At::Position, result)
}

pub(super) fn fd_write(guest: &mut Guest, fd: u32, buffers: u32, count: u32, result: u32) -> Done {
    guest.transfer(&WRITE, fd, (buffers, count), At::Position, result)
}

pub(super) fn fd_pread(
    guest: &mut Guest,
    fd: u32,
    buffers: u32,
    count: u32,
    offset: u64,
    result: u32,
) -> Done {
    guest.transfer(&READ, fd, (buffers, count), At::Offset(offset), result)
}

pub(super) fn fd_pwrite(
    guest: &mut Guest,
    fd: u32,
    buffers: u32,
    count: u32,
    offset: u64,
    result: u32,
) -> Done {
    guest.transfer(&WRITE, fd, (buffers, count), At::Offset(offset), result)
}

pub(super) fn fd_advise(guest: &mut Guest, fd: u32, offset: u64, length: u64, advice: u32) -> Done {
    /// Linux's number of each `advice`.
    const ADVICE: [u64; 6] = [0, 2, 1, 3, 4, 5];
    let advice = *ADVICE.get(advice as usize).ok_or(Errno::INVAL)?;
    if (offset | length) > i64::MAX as u64 {
        return Err(Errno::INVAL.into());
    }
    guest.call(call::FADVISE, [fd.into(), offset, length, advice, 0, 0])?;
    Ok(())
}

pub(super) fn fd_allocate(guest: &mut Guest, fd: u32, offset: u64, length: u64) -> Done {
    guest.call(call::FALLOCATE, [fd.into(), 0, offset, length, 0, 0])?;
    Ok(())
}

pub(super) fn fd_datasync(guest: &mut Guest, fd: u32) -> Done {
    guest.call(call::FDATASYNC, [fd.into(), 0, 0, 0, 0, 0])?;
    Ok(())
}

pub(super) fn fd_sync(guest: &mut Guest, fd: u32) -> Done {
    guest.call(call::FSYNC, [fd.into(), 0, 0, 0, 0, 0])?;
    Ok(())
}

pub(super) fn fd_filestat_get(guest: &mut Guest, fd: u32, result: u32) -> Done {
    let kind = guest.file_type(fd)?;
    guest.call(call::FSTAT, [fd.into(), Guest::ROOM.0, 0, 0, 0, 0])?;
    guest.store_filestat(Some(kind), result)
}

pub(super) fn fd_filestat_set_size(guest: &mut Guest, fd: u32, size: u64) -> Done {
    guest.call(call::FTRUNCATE, [fd.into(), size, 0, 0, 0, 0])?;
    Ok(())
}

pub(super) fn fd_filestat_set_times(
    guest: &mut Guest,
    fd: u32,
    accessed: u64,
    modified: u64,
    flags: u32,
) -> Done {
    let times = guest.put_times(accessed, modified, flags)?;
    guest.call(call::UTIMENSAT, [fd.into(), 0, times, 0, 0, 0])?;
    Ok(())
}

pub(super) fn fd_seek(guest: &mut Guest, fd: u32, offset: u64, whence: u32, result: u32) -> Done {
    if whence > 2 {
        return Err(Errno::INVAL.into());
    }
    let place = guest.call(call::LSEEK, [fd.into(), offset, whence.into(), 0, 0, 0])?;
    Ok(guest.space.store(result.into(), place)?)
}

pub(super) fn fd_tell(guest: &mut Guest, fd: u32, result: u32) -> Done {
    fd_seek(guest, fd, 0, 1, result)
}

/// Bytes of a `dirent` before the name.
const ENTRY_SIZE: usize = 24;
/// Bytes of Linux's before the name.
const LINUX_ENTRY_SIZE: usize = 19;
/// Bytes of entries that are read at once.
const ENTRIES: u64 = 32 << 10;

pub(super) fn fd_readdir(
    guest: &mut Guest,
    fd: u32,
    buffer: u32,
    length: u32,
    cookie: u64,
    result: u32,
) -> Done {
    let own = guest.listable(fd)?;
    let listed = list(guest, own.unwrap_or(fd), buffer, length, cookie);
    if let Some(own) = own {
        guest.call(call::CLOSE, [own.into(), 0, 0, 0, 0, 0])?;
    }
    Ok(guest.space.store(result.into(), listed?)?)
}

impl Guest {
    /// A descriptor of the same directory that can be listed, where this one, a preopen, was opened for paths only.
    fn listable(&mut self, fd: u32) -> Result<Option<u32>, Fail> {
        const GET_FLAGS: u64 = 3;
        let flags = self.call(call::FCNTL, [fd.into(), GET_FLAGS, 0, 0, 0, 0])?;
        if flags & open::PATH == 0 {
            return Ok(None);
        }
        let path = self.put(b".\0")?;
        let flags = open::DIRECTORY | open::CLOEXEC;
        self.call(call::OPENAT, [fd.into(), path, flags, 0, 0, 0]).map(|own| Some(own as u32))
    }
}

/// Fills a buffer with the entries after `cookie`; how many bytes. A buffer that is full says that there are more.
fn list(guest: &mut Guest, fd: u32, buffer: u32, length: u32, cookie: u64) -> Result<u32, Fail> {
    guest.call(call::LSEEK, [fd.into(), cookie, 0, 0, 0, 0])?;
    let mut filled = 0;
    loop {
        let count = guest.call(call::GETDENTS, [fd.into(), Guest::ROOM.0, ENTRIES, 0, 0, 0])?;
        if count == 0 {
            return Ok(filled);
        }
        let entries = guest.space.read_vec(Guest::ROOM.0, count as usize)?;
        let mut rest = entries.as_slice();
        while let Some((entry, others)) = split_entry(rest) {
            rest = others;
            let bytes = entry_of(entry);
            let part = bytes.len().min((length - filled) as usize);
            let at = u64::from(buffer) + u64::from(filled);
            guest.space.write_bytes(at, &bytes[..part])?;
            filled += part as u32;
            if filled == length {
                return Ok(filled);
            }
        }
    }
}

/// The first of Linux's entries, and the others.
fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let size = usize::from(u16::from_le_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    if size < LINUX_ENTRY_SIZE { None } else { bytes.split_at_checked(size) }
}

/// WASI's entry for one of Linux's.
fn entry_of(linux: &[u8]) -> Vec<u8> {
    let name = &linux[LINUX_ENTRY_SIZE..];
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut entry = Vec::with_capacity(ENTRY_SIZE + name.len());
    entry.extend_from_slice(&linux[8..16]);
    entry.extend_from_slice(&linux[..8]);
    entry.extend_from_slice(&(name.len() as u32).to_le_bytes());
    // `d_type` is the type bits of a mode.
    entry.push(FileType::of_mode(u32::from(linux[18]) << 12).0);
    entry.extend_from_slice(&[0; 3]);
    entry.extend_from_slice(name);
    entry
}
