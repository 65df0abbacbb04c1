//! Descriptors: what they are, flags, numbers, preopens.

use super::super::errno::Errno;
use super::super::process::{Fail, Guest};
use super::{Done, call};

/// Open flags of Linux.
pub(super) mod open {
    pub(crate) const WRITE_ONLY: u64 = 1;
    pub(crate) const READ_WRITE: u64 = 2;
    pub(crate) const CREATE: u64 = 0o100;
    pub(crate) const EXCLUSIVE: u64 = 0o200;
    pub(crate) const TRUNCATE: u64 = 0o1000;
    pub(crate) const APPEND: u64 = 0o2000;
    pub(crate) const NONBLOCK: u64 = 0o4000;
    pub(crate) const DSYNC: u64 = 0o1_0000;
    pub(crate) const DIRECTORY: u64 = 0o20_0000;
    pub(crate) const NOFOLLOW: u64 = 0o40_0000;
    pub(crate) const CLOEXEC: u64 = 0o200_0000;
    pub(crate) const SYNC: u64 = 0o401_0000;
    pub(crate) const PATH: u64 = 0o1000_0000;
}

/// `fdflags`, and Linux's.
pub(super) const FLAGS: [(u32, u64); 5] =
    [(1, open::APPEND), (2, open::DSYNC), (4, open::NONBLOCK), (8, open::SYNC), (16, open::SYNC)];
/// Of those, what `fcntl` changes.
const CHANGEABLE: u32 = 1 | 4;

/// `AT_FDCWD`.
const WORKING_DIRECTORY: u64 = -100_i64 as u64;

/// Commands of `fcntl`.
mod fcntl {
    pub(super) const GET_FLAGS: u64 = 3;
    pub(super) const SET_FLAGS: u64 = 4;
    pub(super) const DUPLICATE_CLOEXEC: u64 = 1030;
}

/// `rights`.
pub(super) mod rights {
    pub(crate) const READ: u64 = 1 << 1;
    pub(super) const SEEK: u64 = 1 << 2 | 1 << 5;
    pub(crate) const WRITE: u64 = 1 << 6;
    /// Changes to a file's bytes beside `fd_write`.
    pub(crate) const CHANGE: u64 = 1 << 8 | 1 << 22;
    /// Everything that a directory has: paths, `fd_readdir` and its own attributes.
    pub(super) const DIRECTORY: u64 = ((1 << 27) - 1) & !(READ | WRITE | SEEK | CHANGE | 1 << 7);
    /// What every descriptor has.
    pub(super) const ANY: u64 = 1 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 21 | 1 << 23 | 1 << 27;
    pub(super) const SOCKET: u64 = 1 << 28 | 1 << 29;
    pub(super) const ALL: u64 = (1 << 30) - 1;
}

/// `filetype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileType(pub(super) u8);

impl FileType {
    pub(super) const UNKNOWN: Self = Self(0);
    pub(super) const CHARACTER_DEVICE: Self = Self(2);
    pub(super) const DIRECTORY: Self = Self(3);
    pub(super) const DATAGRAM: Self = Self(5);
    pub(super) const STREAM: Self = Self(6);

    /// By the type bits of a mode.
    pub(super) fn of_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o060_000 => Self(1),
            0o020_000 => Self::CHARACTER_DEVICE,
            0o040_000 => Self::DIRECTORY,
            0o100_000 => Self(4),
            0o140_000 => Self::STREAM,
            0o120_000 => Self(7),
            _ => Self::UNKNOWN,
        }
    }
}

/// The directories that a program is given, by number; none once it has closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Preopens([(&'static [u8], Option<u32>); 2]);

impl Preopens {
    /// Before they are opened.
    pub(in super::super) const NONE: Self = Self([(b".", None), (b"/", None)]);

    fn name(&self, fd: u32) -> Option<&'static [u8]> {
        self.0.iter().find(|(_, own)| *own == Some(fd)).map(|(name, _)| *name)
    }

    fn last(&self) -> Option<u32> {
        self.0.iter().filter_map(|(_, own)| *own).max()
    }

    fn forget(&mut self, fd: u32) {
        for (_, own) in &mut self.0 {
            own.take_if(|own| *own == fd);
        }
    }
}

impl Guest {
    /// Opens the preopens at the first free numbers from `first` up. One that cannot be opened is not there.
    pub(in super::super) fn open_preopens(&mut self, first: u32) -> Result<(), super::super::process::Leave> {
        for index in 0..self.preopens.0.len() {
            let name = self.preopens.0[index].0;
            match self.open_preopen(name, first) {
                Ok(fd) => self.preopens.0[index].1 = Some(fd as u32),
                Err(Fail::Errno(_)) => {}
                Err(Fail::Leave(leave)) => return Err(leave),
            }
        }
        Ok(())
    }

    fn open_preopen(&mut self, name: &[u8], first: u32) -> Result<u64, Fail> {
        let path = self.put(&[name, b"\0"].concat())?;
        let flags = open::DIRECTORY | open::CLOEXEC;
        let opened = self.call(call::OPENAT, [WORKING_DIRECTORY, path, flags, 0, 0, 0]);
        let fd = match opened {
            // A directory that may be walked through but not listed.
            Err(Fail::Errno(_)) => {
                self.call(call::OPENAT, [WORKING_DIRECTORY, path, flags | open::PATH, 0, 0, 0])?
            }
            opened => opened?,
        };
        if fd >= first.into() {
            return Ok(fd);
        }
        let high = self.call(call::FCNTL, [fd, fcntl::DUPLICATE_CLOEXEC, first.into(), 0, 0, 0]);
        if matches!(high, Err(Fail::Errno(_))) && fd > 2 {
            return Ok(fd);
        }
        self.call(call::CLOSE, [fd, 0, 0, 0, 0, 0])?;
        high
    }

    /// Type bits and permissions of a descriptor's file.
    fn mode(&mut self, fd: u32) -> Result<u32, Fail> {
        self.call(call::FSTAT, [fd.into(), Self::ROOM.0, 0, 0, 0, 0])?;
        Ok(self.space.load(Self::ROOM.0 + 24)?)
    }

    /// What kind of file a descriptor has.
    pub(super) fn file_type(&mut self, fd: u32) -> Result<FileType, Fail> {
        const SOL_SOCKET: u64 = 1;
        const SO_TYPE: u64 = 3;
        const SOCK_DGRAM: u32 = 2;
        let kind = FileType::of_mode(self.mode(fd)?);
        if kind != FileType::STREAM {
            return Ok(kind);
        }
        let place = self.put(&[0, 0, 0, 0, 4, 0, 0, 0])?;
        self.call(call::GETSOCKOPT, [fd.into(), SOL_SOCKET, SO_TYPE, place, place + 4, 0])?;
        let socket: u32 = self.space.load(place)?;
        Ok(if socket == SOCK_DGRAM { FileType::DATAGRAM } else { FileType::STREAM })
    }

    fn is_terminal(&mut self, fd: u32) -> Result<bool, Fail> {
        const TCGETS: u64 = 0x5401;
        match self.call(call::IOCTL, [fd.into(), TCGETS, Self::ROOM.0, 0, 0, 0]) {
            Ok(_) => Ok(true),
            Err(Fail::Errno(_)) => Ok(false),
            Err(leave) => Err(leave),
        }
    }
}

pub(super) fn fd_close(guest: &mut Guest, fd: u32) -> Done {
    guest.call(call::CLOSE, [fd.into(), 0, 0, 0, 0, 0])?;
    guest.preopens.forget(fd);
    Ok(())
}

pub(super) fn fd_fdstat_get(guest: &mut Guest, fd: u32, result: u32) -> Done {
    let flags = guest.call(call::FCNTL, [fd.into(), fcntl::GET_FLAGS, 0, 0, 0, 0])?;
    let kind = guest.file_type(fd)?;
    let mut base = match flags & 3 {
        _ if kind == FileType::DIRECTORY => rights::DIRECTORY,
        _ if flags & open::PATH != 0 => 0,
        0 => rights::READ,
        open::WRITE_ONLY => rights::WRITE | rights::CHANGE,
        _ => rights::READ | rights::WRITE | rights::CHANGE,
    };
    base |= rights::ANY;
    match kind {
        FileType::DIRECTORY | FileType::UNKNOWN => {}
        FileType::STREAM | FileType::DATAGRAM => base |= rights::SOCKET,
        // That a character device cannot be sought is how libraries tell a terminal.
        FileType::CHARACTER_DEVICE if guest.is_terminal(fd)? => {}
        _ => base |= rights::SEEK,
    }
    let own = FLAGS.iter().filter(|(_, linux)| flags & linux == *linux);
    let own = own.fold(0, |all, (flag, _)| all | *flag as u16);
    let inheriting = if kind == FileType::DIRECTORY { rights::ALL } else { 0 };
    let mut bytes = [0; 24];
    bytes[0] = kind.0;
    bytes[2..4].copy_from_slice(&own.to_le_bytes());
    bytes[8..16].copy_from_slice(&base.to_le_bytes());
    bytes[16..].copy_from_slice(&inheriting.to_le_bytes());
    Ok(guest.space.write_bytes(result.into(), &bytes)?)
}

pub(super) fn fd_fdstat_set_flags(guest: &mut Guest, fd: u32, flags: u32) -> Done {
    if flags >= 32 {
        return Err(Errno::INVAL.into());
    }
    if flags & !CHANGEABLE != 0 {
        return Err(Errno::NOTSUP.into());
    }
    let kept = guest.call(call::FCNTL, [fd.into(), fcntl::GET_FLAGS, 0, 0, 0, 0])?;
    let kept = kept & !(open::APPEND | open::NONBLOCK);
    let wanted = linux_flags(flags);
    guest.call(call::FCNTL, [fd.into(), fcntl::SET_FLAGS, kept | wanted, 0, 0, 0])?;
    Ok(())
}

/// Linux's open flags for `fdflags`.
pub(super) fn linux_flags(flags: u32) -> u64 {
    FLAGS.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, linux)| all | linux)
}

pub(super) fn fd_fdstat_set_rights(guest: &mut Guest, fd: u32, _: u64, _: u64) -> Done {
    guest.mode(fd)?;
    Err(Errno::NOTSUP.into())
}

/// The tag of a descriptor that is no directory to start at.
const NO_DIRECTORY: u8 = 255;

pub(super) fn fd_prestat_get(guest: &mut Guest, fd: u32, result: u32) -> Done {
    let mut bytes = [0; 8];
    match guest.preopens.name(fd) {
        Some(name) => bytes[4..].copy_from_slice(&(name.len() as u32).to_le_bytes()),
        None if guest.preopens.last().is_some_and(|last| fd < last) => bytes[0] = NO_DIRECTORY,
        None => return Err(Errno::BADF.into()),
    }
    Ok(guest.space.write_bytes(result.into(), &bytes)?)
}

pub(super) fn fd_prestat_dir_name(guest: &mut Guest, fd: u32, path: u32, length: u32) -> Done {
    let name = guest.preopens.name(fd).ok_or(Errno::BADF)?;
    if name.len() > length as usize {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(guest.space.write_bytes(path.into(), name)?)
}

pub(super) fn fd_renumber(guest: &mut Guest, from: u32, to: u32) -> Done {
    guest.mode(from)?;
    // Only onto a number that is open.
    guest.call(call::FCNTL, [to.into(), fcntl::GET_FLAGS, 0, 0, 0, 0])?;
    if from == to {
        return Ok(());
    }
    let flags = if to > 2 { open::CLOEXEC } else { 0 };
    guest.call(call::DUP3, [from.into(), to.into(), flags, 0, 0, 0])?;
    guest.call(call::CLOSE, [from.into(), 0, 0, 0, 0, 0])?;
    guest.preopens.forget(from);
    guest.preopens.forget(to);
    Ok(())
}
