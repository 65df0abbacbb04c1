//! Linux file-system semantics without a kernel: trees, root file systems, path walk, mounts, diff.

pub mod content;
pub mod credentials;
pub mod memory;
pub mod path;
pub mod rootfs;
pub mod synthetic;
pub mod time;
pub mod tree;

pub use content::{Backing, Content, ContentId, ContentStore, PackWriter, SpoolFile, SpoolOwner};
pub use credentials::{Caller, Capabilities, Credentials, Walk};
pub use memory::MemoryStore;
pub use path::GuestPath;
pub use rootfs::{
    AccessMode, AllocateMode, DirectoryHandle, DirectoryItem, FileHandle, Follow, Mapping, MountId,
    MountInfo, MountOptions, MountSource, NodeRef, OpenFlags, OpenResult, Opened, Position, RenameFlags,
    RootFs, RootFsLimits, Stat, StatFs, StepChanges, TimeChange, WriteDenial, XattrCondition,
};
pub use rustix::io::Errno;
pub use synthetic::{Link, SyntheticFile, SyntheticFs, SyntheticId};
pub use time::{Clock, FixedClock, HostClock, Timestamp};
pub use tree::{
    Change, ContentTreeId, Directory, Entry, ExactId, FileKind, Metadata, NodeKind, Tree, TreeBuilder,
    TreeId, TreeWalk, WalkItem,
};
