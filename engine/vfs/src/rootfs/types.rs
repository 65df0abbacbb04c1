//! The plain values of the calls: flags, attributes, answers. Numbers are Linux's on x86-64.

use std::fs::File;
use std::sync::Arc;

use bitflags::bitflags;

use crate::time::Timestamp;
use crate::tree::{Change, FileKind, Tree};

bitflags! {
    /// Flags of `open`, with Linux's numbers. Use `from_bits_retain`; unknown bits are ignored, as `open` does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpenFlags: u32 {
        /// Write only. Neither this nor `RDWR` is read only; both together open for `ioctl` alone.
        const WRONLY = 0o1;
        /// Read and write.
        const RDWR = 0o2;
        /// Make the file when it is missing.
        const CREAT = 0o100;
        /// Fail when it exists.
        const EXCL = 0o200;
        /// Do not become the controlling terminal.
        const NOCTTY = 0o400;
        /// Cut to no length.
        const TRUNC = 0o1000;
        /// Every write goes to the end.
        const APPEND = 0o2000;
        /// Do not wait.
        const NONBLOCK = 0o4000;
        /// Synchronous data.
        const DSYNC = 0o10_000;
        /// Past the page cache.
        const DIRECT = 0o40_000;
        /// Large files.
        const LARGEFILE = 0o100_000;
        /// Only a directory will do.
        const DIRECTORY = 0o200_000;
        /// Do not follow a symbolic link at the end.
        const NOFOLLOW = 0o400_000;
        /// Leave the access time alone.
        const NOATIME = 0o1_000_000;
        /// Close on exec.
        const CLOEXEC = 0o2_000_000;
        /// Synchronous data and metadata.
        const SYNC = 0o4_010_000;
        /// Only a place, not the file.
        const PATH = 0o10_000_000;
        /// A file without a name in this directory; holds `DIRECTORY`.
        const TMPFILE = 0o20_200_000;
        const _ = !0;
    }

    /// Flags of `renameat2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct RenameFlags: u32 {
        /// Fail when the new name exists.
        const NOREPLACE = 1;
        /// Swap both names.
        const EXCHANGE = 2;
        /// Leave a whiteout; refused with `EINVAL`.
        const WHITEOUT = 4;
    }

    /// What `access` asks for; empty asks whether the file exists.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct AccessMode: u32 {
        /// Execute or search.
        const EXECUTE = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }

    /// Mode of `fallocate`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct AllocateMode: u32 {
        /// The size stays.
        const KEEP_SIZE = 1;
        /// Give the range back; needs `KEEP_SIZE`.
        const PUNCH_HOLE = 2;
        /// Take the range out (`EOPNOTSUPP`).
        const COLLAPSE_RANGE = 8;
        /// The range reads as zeros.
        const ZERO_RANGE = 0x10;
        /// Put a hole in (`EOPNOTSUPP`).
        const INSERT_RANGE = 0x20;
        const _ = !0;
    }
}

impl OpenFlags {
    /// Tells whether the file can be read through the descriptor.
    pub const fn reads(self) -> bool {
        matches!(self.bits() & 3, 0 | 2)
    }

    /// Tells whether the file can be written through the descriptor.
    pub const fn writes(self) -> bool {
        matches!(self.bits() & 3, 1 | 2)
    }
}

/// What a symbolic link at the end of a path does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The walk goes on where it points.
    Yes,
    /// It is what was asked for (a slash after it follows it all the same).
    No,
}

/// What happens to one of a file's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// It stays (`UTIME_OMIT`).
    Omit,
    /// It becomes now (`UTIME_NOW`).
    Now,
    /// It becomes this.
    Set(Timestamp),
}

/// Whether setting an extended attribute may make or replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrCondition {
    /// Either.
    Any,
    /// It must be missing (`XATTR_CREATE`).
    Create,
    /// It must exist (`XATTR_REPLACE`).
    Replace,
}

/// A file's attributes, as `stat` gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Device number of the file system, one per mount source.
    pub device: u64,
    /// Inode number, stable while the step runs.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names; of a directory, 2 and one for each directory in it.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Preferred size of transfers in bytes.
    pub block_size: u32,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access: not kept up by reading.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the attributes.
    pub ctime: Timestamp,
    /// When the inode came to be.
    pub btime: Timestamp,
    /// The mount that the file was reached through.
    pub mount_id: u64,
}

impl Stat {
    /// The kind that the mode says.
    pub fn kind(&self) -> Option<FileKind> {
        FileKind::from_mode(self.mode)
    }
}

/// Linux's device number of a major and a minor number.
pub const fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    ((major & 0xffff_f000) << 32) | ((major & 0xfff) << 8) | ((minor & 0xffff_ff00) << 12) | (minor & 0xff)
}

/// Major and minor number of a device number.
pub const fn split_device(device: u64) -> (u32, u32) {
    let major = ((device >> 32) & 0xffff_f000) | ((device >> 8) & 0xfff);
    let minor = ((device >> 12) & 0xffff_ff00) | (device & 0xff);
    (major as u32, minor as u32)
}

/// A file system's figures, as `statfs` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Type number (`f_type`).
    pub magic: u64,
    /// Size of a block in bytes, also of a fragment.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks not used.
    pub free: u64,
    /// Blocks that ordinary users may take.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes not used.
    pub free_files: u64,
    /// File system id.
    pub id: u64,
    /// Longest name.
    pub name_length: u64,
    /// `ST_RDONLY` (1) and its kin; the bit `ST_VALID` (0x20) is the kernel's to add.
    pub flags: u64,
}

/// One name of a directory being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryItem {
    /// Inode number.
    pub inode: u64,
    /// Give this to go on after this name.
    pub next_cookie: u64,
    /// Kind.
    pub kind: FileKind,
    /// Name, `.` and `..` among them.
    pub name: Vec<u8>,
}

/// Bytes of a file in a host file, ready to be mapped.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The host file.
    pub file: Arc<File>,
    /// Where the guest file's first byte is: a multiple of 4096.
    pub offset: u64,
    /// The guest file's size in bytes.
    pub length: u64,
    /// The file's write generation when this was asked.
    pub generation: u64,
}

/// Bounds of one step's writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootFsLimits {
    /// Bytes of file contents that the step may hold at one time, over all mounts; then `ENOSPC`.
    pub spool_bytes: u64,
    /// Bytes of small files that are kept in memory before they go to the spool.
    pub memory_bytes: u64,
    /// Inodes that the step may make; then `ENOSPC`.
    pub inodes: u64,
}

impl RootFsLimits {
    /// Room for what ordinary builds do: 64 GiB of data, 64 MiB of it in memory, 8 million inodes.
    pub const ORDINARY: Self = Self { spool_bytes: 64 << 30, memory_bytes: 64 << 20, inodes: 8 << 20 };
}

/// What a step left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepChanges {
    /// The next tree.
    pub tree: Tree,
    /// How it differs from the tree below.
    pub changes: Vec<Change>,
}
