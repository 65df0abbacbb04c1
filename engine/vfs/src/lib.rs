//! Linux file-system semantics without a kernel: trees, root file systems, path walk, mounts, diff.
//!
//! # What this is
//!
//! A *tree* ([`Tree`], [`Directory`]) is a finished file system: immutable, content-addressed, shared. A *root file
//! system* ([`RootFs`]) is one step's writable world: a tree below, the step's changes above, and mounts. Ending the
//! step gives the next tree and the exact list of [`Change`]s. [`TreeBuilder`] makes trees from trees for those who need no
//! walk and no permissions: layers and `COPY`. Bytes, directory objects and spool files come from a [`ContentStore`] that
//! somebody else implements. This crate knows no tar, no OCI, no Wasm, no network, and no process: descriptors, offsets, umask,
//! pipes, locks and `/proc` itself are the kernel's.
//!
//! # The model
//!
//! | value | is | lives |
//! |---|---|---|
//! | inode ([`NodeRef`]) | kind, attributes, contents | while a name, an open file or a place holds it |
//! | directory entry (in a [`Position`]) | a name in a directory, for one inode | as long as the name, or a place that holds it |
//! | file system | a root entry, a device number, a budget | as long as a mount |
//! | mount | what shows where | until the step ends |
//! | open file ([`FileHandle`], [`DirectoryHandle`]) | a place and what may be done | its holder's choice; it has no offset |
//!
//! The directory entries in memory are the source of truth; the tree below answers for names that were never looked at.
//! Both an inode and its number exist once: hard links share it, also those recorded in the tree below. Changes are not logged but
//! computed at the end, by assembling the next tree from what is in memory and comparing the two ([`Tree::diff`]), so that
//! what was undone is no change. Contents of lower files are read only when somebody reads or overwrites a part of them.
//!
//! Access times stand still unless they are set, as with `noatime`. There are no POSIX access control lists
//! (`EOPNOTSUPP`) and no inode flags; `fs.protected_*` is off.
//!
//! # What must hold
//!
//! Locks are taken in this order, and those on one line are never held together. The store may be asked while the namespace,
//! one directory or one file is locked, never while attributes or the mount table are:
//!
//! ```text
//! namespace          while names are made, moved or removed, in the whole world of the step
//!   mount table      shortly
//!     directory      the names of one; then at most those of directories below it, at their first loading
//!       attributes of one inode | place (parent and name) of one directory entry
//!         contents of one file
//!           parking spool | budget counters | host error
//! ```
//!
//! - A path walk takes one directory at a time for reading, and never the namespace lock; so it sees a file that moves at its old
//!   place, its new one, or (for a moment) both, and never at none unless it looks at the two places in turn.
//! - Reading and writing take the one file's lock, nothing wider.
//! - No guest path becomes a host path. Host files come from the store and are used by descriptor alone.
//! - Every error that a guest can see is an [`Errno`]; the host's own failures are `EIO` or `ENOSPC`, with the reason kept
//!   ([`RootFs::take_host_error`]).
//! - No recursion follows the depth of a tree.

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
    RootFs, RootFsLimits, Stat, StatFs, StepChanges, TimeChange, WriteDenial, XattrCondition, device_number,
};
pub use rustix::io::Errno;
pub use synthetic::{Link, SyntheticFile, SyntheticFs, SyntheticId};
pub use time::{Clock, FixedClock, HostClock, Timestamp};
pub use tree::{
    Change, ContentTreeId, Directory, Entry, ExactId, FileKind, Metadata, NodeKind, Tree, TreeBuilder,
    TreeId, TreeWalk, WalkItem,
};
