//! Files, directories and descriptors, by the kernel's own calls.
//!
//! Paths are bytes, as in Linux. Every function is one system call of the same name unless it says otherwise, and fails with
//! that call's errno. [`Descriptor`] reads and writes past WASI's own files, so that a program behaves alike in both worlds.

use std::ffi::CString;
use std::io;

use crate::{Errno, Result, call, errno, number};

/// Resolves a relative path from the working directory.
pub const AT_FDCWD: i32 = -100;
/// The path's last name is taken as it is, a symbolic link or not.
pub const AT_SYMLINK_NOFOLLOW: i32 = 0x100;
/// `unlinkat` removes a directory.
pub const AT_REMOVEDIR: i32 = 0x200;
/// `linkat` follows a symbolic link at the end of the old path.
pub const AT_SYMLINK_FOLLOW: i32 = 0x400;
/// The empty path names the descriptor itself.
pub const AT_EMPTY_PATH: i32 = 0x1000;
/// `faccessat2` asks for the effective ids.
pub const AT_EACCESS: i32 = 0x200;

#[allow(missing_docs, reason = "the flags of open(2)")]
pub mod open {
    pub const RDONLY: i32 = 0;
    pub const WRONLY: i32 = 1;
    pub const RDWR: i32 = 2;
    pub const CREAT: i32 = 0o100;
    pub const EXCL: i32 = 0o200;
    pub const NOCTTY: i32 = 0o400;
    pub const TRUNC: i32 = 0o1000;
    pub const APPEND: i32 = 0o2000;
    pub const NONBLOCK: i32 = 0o4000;
    pub const DSYNC: i32 = 0o10000;
    pub const DIRECT: i32 = 0o40000;
    pub const DIRECTORY: i32 = 0o200000;
    pub const NOFOLLOW: i32 = 0o400000;
    pub const NOATIME: i32 = 0o1000000;
    pub const CLOEXEC: i32 = 0o2000000;
    pub const SYNC: i32 = 0o4010000;
}

/// Bits of [`Stat::mode`] that tell a file's type.
pub const S_IFMT: u32 = 0o170000;

/// Type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Fifo,
    Character,
    Directory,
    Block,
    Regular,
    Symlink,
    Socket,
    Unknown,
}

impl Kind {
    /// The type in a mode.
    #[must_use]
    pub fn of(mode: u32) -> Self {
        match mode >> 12 & 0o17 {
            0o1 => Self::Fifo,
            0o2 => Self::Character,
            0o4 => Self::Directory,
            0o6 => Self::Block,
            0o10 => Self::Regular,
            0o12 => Self::Symlink,
            0o14 => Self::Socket,
            _ => Self::Unknown,
        }
    }
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999, or one of the two values below.
    pub nanoseconds: i64,
}

impl Time {
    /// `utimensat` takes the current time.
    pub const NOW: Self = Self { seconds: 0, nanoseconds: 0x3fff_ffff };
    /// `utimensat` leaves the time as it is.
    pub const OMIT: Self = Self { seconds: 0, nanoseconds: 0x3fff_fffe };
}

/// `struct stat` of x86-64.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Stat {
    /// Device that holds the file.
    pub device: u64,
    /// Number of the file on that device.
    pub inode: u64,
    /// Hard links.
    pub links: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    padding: u32,
    /// The device that a device node stands for.
    pub special: u64,
    /// Size in bytes.
    pub size: i64,
    /// Preferred size of a transfer, in bytes.
    pub block_size: i64,
    /// Space in use, in units of 512 bytes.
    pub blocks: i64,
    /// Last access.
    pub accessed: Time,
    /// Last change of the contents.
    pub modified: Time,
    /// Last change of the inode.
    pub changed: Time,
    unused: [i64; 3],
}

impl Stat {
    /// The file's type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::of(self.mode)
    }
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind() == Kind::Directory
    }
    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.kind() == Kind::Symlink
    }
    /// Device and inode: what makes two names one file.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// Major and minor number of a device.
#[must_use]
pub fn device_numbers(device: u64) -> (u64, u64) {
    (device >> 32 & 0xffff_f000 | device >> 8 & 0xfff, device >> 12 & 0xffff_ff00 | device & 0xff)
}

/// The device of a major and a minor number.
#[must_use]
pub fn make_device(major: u64, minor: u64) -> u64 {
    (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
}

/// `struct statfs` of x86-64.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StatFs {
    /// Magic number of the file system's type.
    pub kind: i64,
    /// Size of a block in bytes.
    pub block_size: i64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for everyone.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Identity of the file system.
    pub id: [i32; 2],
    /// Longest name.
    pub name_max: i64,
    /// Unit of the counts above, in bytes.
    pub fragment_size: i64,
    /// Mount flags.
    pub flags: i64,
    spare: [i64; 4],
}

/// A path for the kernel. A NUL inside cannot be passed: such a file does not exist.
pub(crate) fn c_path(path: &[u8]) -> Result<CString> {
    CString::new(path).map_err(|_| errno::ENOENT)
}

fn address<T: ?Sized>(value: *const T) -> i64 {
    value.cast::<u8>() as usize as i64
}

/// Facts of a path, flags `AT_SYMLINK_NOFOLLOW` and `AT_EMPTY_PATH`.
pub fn fstatat(at: i32, path: &[u8], flags: i32) -> Result<Stat> {
    let (path, mut stat) = (c_path(path)?, Stat::default());
    call(number::NEWFSTATAT, [at.into(), address(path.as_ptr()), address(&raw mut stat), flags.into()])?;
    Ok(stat)
}

/// Facts of a path, symbolic links followed.
pub fn stat(path: &[u8]) -> Result<Stat> {
    fstatat(AT_FDCWD, path, 0)
}

/// Facts of a path, the last name not followed.
pub fn lstat(path: &[u8]) -> Result<Stat> {
    fstatat(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW)
}

/// Facts of an open file.
pub fn fstat(descriptor: i32) -> Result<Stat> {
    let mut stat = Stat::default();
    call(number::FSTAT, [descriptor.into(), address(&raw mut stat)])?;
    Ok(stat)
}

/// Time of a file's birth by `statx`, if the file system knows it.
pub fn birth(path: &[u8], flags: i32) -> Result<Option<Time>> {
    const STATX_BTIME: u32 = 0x800;
    let (path, mut buffer) = (c_path(path)?, [0u64; 32]);
    call(
        number::STATX,
        [
            AT_FDCWD.into(),
            address(path.as_ptr()),
            flags.into(),
            STATX_BTIME.into(),
            address(buffer.as_mut_ptr()),
        ],
    )?;
    // `stx_mask` is the first word; `stx_btime` lies at byte 80.
    let known = buffer[0] as u32 & STATX_BTIME != 0;
    Ok(known.then(|| Time { seconds: buffer[10] as i64, nanoseconds: i64::from(buffer[11] as u32) }))
}

/// Facts of the file system that holds a path.
pub fn statfs(path: &[u8]) -> Result<StatFs> {
    let (path, mut facts) = (c_path(path)?, StatFs::default());
    call(number::STATFS, [address(path.as_ptr()), address(&raw mut facts)])?;
    Ok(facts)
}

/// Opens a file; the descriptor closes on exec and on drop.
pub fn open(path: &[u8], flags: i32, mode: u32) -> Result<Descriptor> {
    open_at(AT_FDCWD, path, flags, mode)
}

/// Opens a file from a directory.
pub fn open_at(at: i32, path: &[u8], flags: i32, mode: u32) -> Result<Descriptor> {
    let path = c_path(path)?;
    let flags = flags | open::CLOEXEC;
    call(number::OPENAT, [at.into(), address(path.as_ptr()), flags.into(), mode.into()])
        .map(|fd| Descriptor(fd as i32))
}

/// Opens a file to be read.
pub fn open_read(path: &[u8]) -> Result<Descriptor> {
    open(path, open::RDONLY, 0)
}

/// Creates or empties a file to be written, with mode 0666 less the umask.
pub fn create(path: &[u8]) -> Result<Descriptor> {
    open(path, open::WRONLY | open::CREAT | open::TRUNC, 0o666)
}

/// Changes permission bits, symbolic links followed.
pub fn chmod(path: &[u8], mode: u32) -> Result<()> {
    let path = c_path(path)?;
    call(number::FCHMODAT, [AT_FDCWD.into(), address(path.as_ptr()), mode.into()]).map(drop)
}

/// Changes permission bits of an open file.
pub fn fchmod(descriptor: i32, mode: u32) -> Result<()> {
    call(number::FCHMOD, [descriptor.into(), mode.into()]).map(drop)
}

/// Changes owner and group; `None` leaves one. Flag `AT_SYMLINK_NOFOLLOW`.
pub fn chown(path: &[u8], uid: Option<u32>, gid: Option<u32>, flags: i32) -> Result<()> {
    let (path, id) = (c_path(path)?, |id: Option<u32>| id.unwrap_or(u32::MAX).into());
    call(number::FCHOWNAT, [AT_FDCWD.into(), address(path.as_ptr()), id(uid), id(gid), flags.into()])
        .map(drop)
}

/// Sets the times of access and modification. Flag `AT_SYMLINK_NOFOLLOW`.
pub fn utimensat(path: &[u8], accessed: Time, modified: Time, flags: i32) -> Result<()> {
    let (path, times) = (c_path(path)?, [accessed, modified]);
    call(number::UTIMENSAT, [AT_FDCWD.into(), address(path.as_ptr()), address(times.as_ptr()), flags.into()])
        .map(drop)
}

/// Sets the times of an open file.
pub fn futimens(descriptor: i32, accessed: Time, modified: Time) -> Result<()> {
    let times = [accessed, modified];
    call(number::UTIMENSAT, [descriptor.into(), 0, address(times.as_ptr()), 0]).map(drop)
}

/// Makes a file of any type but directory and symbolic link.
pub fn mknod(path: &[u8], mode: u32, device: u64) -> Result<()> {
    let path = c_path(path)?;
    call(number::MKNODAT, [AT_FDCWD.into(), address(path.as_ptr()), mode.into(), device as i64]).map(drop)
}

/// Makes a directory.
pub fn mkdir(path: &[u8], mode: u32) -> Result<()> {
    let path = c_path(path)?;
    call(number::MKDIRAT, [AT_FDCWD.into(), address(path.as_ptr()), mode.into()]).map(drop)
}

/// Removes a name; with flag `AT_REMOVEDIR` an empty directory.
pub fn unlinkat(path: &[u8], flags: i32) -> Result<()> {
    let path = c_path(path)?;
    call(number::UNLINKAT, [AT_FDCWD.into(), address(path.as_ptr()), flags.into()]).map(drop)
}

/// Removes a name that is not a directory's.
pub fn unlink(path: &[u8]) -> Result<()> {
    unlinkat(path, 0)
}

/// Removes an empty directory.
pub fn rmdir(path: &[u8]) -> Result<()> {
    unlinkat(path, AT_REMOVEDIR)
}

/// Gives a file a second name; flag `AT_SYMLINK_FOLLOW`.
pub fn link(old: &[u8], new: &[u8], flags: i32) -> Result<()> {
    let (old, new) = (c_path(old)?, c_path(new)?);
    let here = AT_FDCWD.into();
    call(number::LINKAT, [here, address(old.as_ptr()), here, address(new.as_ptr()), flags.into()]).map(drop)
}

/// Makes a symbolic link.
pub fn symlink(target: &[u8], path: &[u8]) -> Result<()> {
    let (target, path) = (c_path(target)?, c_path(path)?);
    call(number::SYMLINKAT, [address(target.as_ptr()), AT_FDCWD.into(), address(path.as_ptr())]).map(drop)
}

/// Renames; the new name is replaced.
pub fn rename(old: &[u8], new: &[u8]) -> Result<()> {
    rename_flags(old, new, 0)
}

/// Renames; flag 1 refuses an existing new name, flag 2 exchanges both.
pub fn rename_flags(old: &[u8], new: &[u8], flags: u32) -> Result<()> {
    let (old, new) = (c_path(old)?, c_path(new)?);
    let here = AT_FDCWD.into();
    call(number::RENAMEAT2, [here, address(old.as_ptr()), here, address(new.as_ptr()), flags.into()])
        .map(drop)
}

/// Target of a symbolic link.
pub fn readlink(path: &[u8]) -> Result<Vec<u8>> {
    let path = c_path(path)?;
    let mut target = vec![0u8; 4096];
    let length = call(
        number::READLINKAT,
        [AT_FDCWD.into(), address(path.as_ptr()), address(target.as_mut_ptr()), target.len() as i64],
    )?;
    target.truncate(length as usize);
    Ok(target)
}

/// Whether the effective user may read (4), write (2), run (1) or only see (0) a path.
pub fn access(path: &[u8], mode: u32) -> Result<()> {
    let path = c_path(path)?;
    let arguments = [AT_FDCWD.into(), address(path.as_ptr()), mode.into(), AT_EACCESS.into()];
    match call(number::FACCESSAT2, arguments) {
        Err(errno::ENOSYS) => call(number::FACCESSAT, arguments).map(drop),
        other => other.map(drop),
    }
}

/// Cuts or extends a file.
pub fn ftruncate(descriptor: i32, size: i64) -> Result<()> {
    call(number::FTRUNCATE, [descriptor.into(), size]).map(drop)
}

/// Writes everything that is still in memory.
pub fn sync() {
    let _ = call(number::SYNC, []);
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its type, [`Kind::Unknown`] where the file system does not say.
    pub kind: Kind,
    /// Its inode.
    pub inode: u64,
}

/// Entries of a directory without `.` and `..`, in the file system's order.
pub fn read_directory(path: &[u8]) -> Result<Vec<Entry>> {
    let directory = open(path, open::RDONLY | open::DIRECTORY | open::NONBLOCK, 0)?;
    let (mut entries, mut buffer) = (Vec::new(), vec![0u64; 4096]);
    loop {
        let arguments = [directory.0.into(), address(buffer.as_mut_ptr()), buffer.len() as i64 * 8];
        let length = call(number::GETDENTS64, arguments)? as usize;
        if length == 0 {
            return Ok(entries);
        }
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect();
        let mut rest = &bytes[..];
        // `struct linux_dirent64`: inode, offset, length of the record, type, name to a NUL.
        while rest.len() > 19 {
            let (record, after) = rest.split_at(usize::from(u16::from_le_bytes([rest[16], rest[17]])));
            let name: Vec<u8> = record[19..].iter().copied().take_while(|&byte| byte != 0).collect();
            if name != b"." && name != b".." {
                let inode = u64::from_le_bytes(record[..8].try_into().expect("eight bytes"));
                entries.push(Entry { name, kind: Kind::of(u32::from(record[18]) << 12), inode });
            }
            rest = after;
        }
    }
}

/// An extended attribute's value, of a path that is not followed.
pub fn lgetxattr(path: &[u8], name: &[u8]) -> Result<Vec<u8>> {
    let (path, name) = (c_path(path)?, c_path(name)?);
    sized(|buffer, size| {
        call(number::LGETXATTR, [address(path.as_ptr()), address(name.as_ptr()), buffer, size])
    })
}

/// Names of extended attributes, of a path that is not followed.
pub fn llistxattr(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let path = c_path(path)?;
    let names = sized(|buffer, size| call(number::LLISTXATTR, [address(path.as_ptr()), buffer, size]))?;
    Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Sets an extended attribute, of a path that is not followed.
pub fn lsetxattr(path: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
    let (path, name) = (c_path(path)?, c_path(name)?);
    call(
        number::LSETXATTR,
        [address(path.as_ptr()), address(name.as_ptr()), address(value.as_ptr()), value.len() as i64, 0],
    )
    .map(drop)
}

/// Asks for a value's size, then for the value.
fn sized(ask: impl Fn(i64, i64) -> Result<i64>) -> Result<Vec<u8>> {
    let mut value = vec![0u8; ask(0, 0)? as usize];
    let length = ask(address(value.as_mut_ptr()), value.len() as i64)?;
    value.truncate(length as usize);
    Ok(value)
}

/// An open descriptor that is closed on drop, unless it is a standard one.
#[derive(Debug)]
pub struct Descriptor(i32);

/// Numbers up to this one are the standard descriptors, which a drop leaves open.
const STANDARD: i32 = 2;

impl Descriptor {
    /// Takes a number that the program was given.
    #[must_use]
    pub fn from_raw(descriptor: i32) -> Self {
        Self(descriptor)
    }
    /// One of the standard descriptors, 0 to 2. Dropping these leaves them open.
    #[must_use]
    pub fn keep(standard: i32) -> Self {
        Self(standard)
    }
    /// Its number.
    #[must_use]
    pub fn raw(&self) -> i32 {
        self.0
    }
    /// Gives the number away, open.
    #[must_use]
    pub fn into_raw(self) -> i32 {
        let number = self.0;
        std::mem::forget(self);
        number
    }
    /// Facts of the open file.
    pub fn stat(&self) -> Result<Stat> {
        fstat(self.0)
    }
    /// Closes, with the error that a drop would lose.
    pub fn close(self) -> Result<()> {
        call(number::CLOSE, [self.into_raw().into()]).map(drop)
    }
    /// Writes the file's data to its device.
    pub fn fsync(&self) -> Result<()> {
        call(number::FSYNC, [self.0.into()]).map(drop)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.0 > STANDARD {
            let _ = call(number::CLOSE, [self.0.into()]);
        }
    }
}

/// Reads into a buffer; 0 is the end.
pub fn read(descriptor: i32, buffer: &mut [u8]) -> Result<usize> {
    call(number::READ, [descriptor.into(), address(buffer.as_mut_ptr()), buffer.len() as i64])
        .map(|count| count as usize)
}

/// Writes from a buffer, perhaps not all of it.
pub fn write(descriptor: i32, buffer: &[u8]) -> Result<usize> {
    call(number::WRITE, [descriptor.into(), address(buffer.as_ptr()), buffer.len() as i64])
        .map(|count| count as usize)
}

/// Moves a file's position: from the start (0), the position (1) or the end (2).
pub fn lseek(descriptor: i32, offset: i64, whence: i32) -> Result<i64> {
    call(number::LSEEK, [descriptor.into(), offset, whence.into()])
}

impl io::Read for Descriptor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(self.0, buffer)?)
    }
}

impl io::Write for Descriptor {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(write(self.0, buffer)?)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Descriptor {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        let (offset, whence) = match position {
            io::SeekFrom::Start(offset) => (offset as i64, 0),
            io::SeekFrom::Current(offset) => (offset, 1),
            io::SeekFrom::End(offset) => (offset, 2),
        };
        Ok(lseek(self.0, offset, whence)? as u64)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::other(errno)
    }
}

/// The errno inside an error of std, as these descriptors report them.
#[must_use]
pub fn errno_of(error: &io::Error) -> Option<Errno> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Errno>()).copied()
}
