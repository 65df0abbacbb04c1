//! Finished trees: immutable, shared, named by what is in them.
//!
//! A [`Tree`] is a root directory's metadata and the ids of its [`Directory`] object. Directory objects name
//! their child directories by id, so two trees share what is equal, and comparing them skips it. Each directory
//! has two ids: [`ExactId`] covers everything, [`ContentTreeId`] leaves modification times out.
//!
//! Hard links: a file with several names is a *group*. It is recorded in the lowest directory that contains all of
//! its names, as paths relative to that directory, so a subtree stays whole when it is attached elsewhere. Every
//! name of a group carries an equal [`Entry`] (but for the name). Of a group that reaches out of a subtree, the names inside
//! are files of their own where the subtree is attached by itself.
//!
//! What must hold: entries are sorted by name and their names are valid; groups have two members or more, their
//! members are sorted and are existing files that are not directories; no name is in two groups. [`codec`] refuses
//! anything else.

pub(crate) mod assemble;
pub mod builder;
pub mod codec;
pub(crate) mod diff;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

pub use builder::TreeBuilder;
pub use codec::DecodeError;
pub use walk::{TreeWalk, WalkItem};

use crate::content::{ContentId, ContentStore, write_hex};
use crate::time::Timestamp;

/// The Merkle id of a directory: everything in it, recursively.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExactId(pub [u8; 32]);

/// The Merkle id of a directory without modification times.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentTreeId(pub [u8; 32]);

/// The id of a whole tree: its exact root directory and the root's metadata.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub [u8; 32]);

macro_rules! hex_id {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}
hex_id!(ExactId, ContentTreeId, TreeId);

/// What a tree records of every node besides its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Permission, setuid, setgid and sticky bits: `0o7777` at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Metadata {
    /// Root's, with this mode, at the epoch, without extended attributes.
    pub const fn root_owned(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: Timestamp::from_seconds(0), xattrs: BTreeMap::new() }
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File {
        /// The id of its bytes.
        content: ContentId,
        /// How many bytes.
        size: u64,
    },
    /// A directory.
    Directory {
        /// Id of everything in it.
        exact: ExactId,
        /// Id without times.
        content: ContentTreeId,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as written.
        target: Vec<u8>,
    },
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

impl NodeKind {
    /// The kind without what belongs to it.
    pub const fn file_kind(&self) -> FileKind {
        match self {
            Self::File { .. } => FileKind::File,
            Self::Directory { .. } => FileKind::Directory,
            Self::Symlink { .. } => FileKind::Symlink,
            Self::CharacterDevice { .. } => FileKind::CharacterDevice,
            Self::BlockDevice { .. } => FileKind::BlockDevice,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
        }
    }

    /// Tells whether this is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

/// The seven kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharacterDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl FileKind {
    const ALL: [(Self, u32); 7] = [
        (Self::File, 0o100_000),
        (Self::Directory, 0o040_000),
        (Self::Symlink, 0o120_000),
        (Self::CharacterDevice, 0o020_000),
        (Self::BlockDevice, 0o060_000),
        (Self::Fifo, 0o010_000),
        (Self::Socket, 0o140_000),
    ];

    /// The type bits of `st_mode` (`S_IFREG` and so on).
    pub const fn mode_bits(self) -> u32 {
        let mut index = 0;
        while index < Self::ALL.len() {
            if Self::ALL[index].0 as u8 == self as u8 {
                return Self::ALL[index].1;
            }
            index += 1;
        }
        0
    }

    /// The kind that the type bits of an `st_mode` say.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Self::ALL.iter().find(|(_, bits)| *bits == mode & 0o170_000).map(|(kind, _)| *kind)
    }

    /// The `d_type` of a directory entry (`DT_REG` and so on).
    pub const fn directory_entry_type(self) -> u8 {
        // DT_* are the type bits of the mode moved down, always below 16.
        (self.mode_bits() >> 12) as u8
    }
}

/// One name in a directory and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; empty only for a tree's root.
    pub name: Vec<u8>,
    /// Mode, owner, time, extended attributes.
    pub metadata: Metadata,
    /// What it is.
    pub kind: NodeKind,
}

impl Entry {
    /// Tells whether both stand for equal nodes, whatever their names.
    pub fn same_node(&self, other: &Self) -> bool {
        self.metadata == other.metadata && self.kind == other.kind
    }
}

/// A directory object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The entries, sorted by name.
    pub entries: Vec<Entry>,
    /// Groups of hard links whose lowest common directory is this one: sorted relative paths, the groups sorted by
    /// their first member.
    pub hard_links: Vec<Vec<Vec<u8>>>,
}

impl Directory {
    /// The entry of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.position(name).ok().map(|index| &self.entries[index])
    }

    /// Where the name is, or where it would be.
    pub fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.name.as_slice().cmp(name))
    }

    /// Both ids, computed.
    pub fn ids(&self) -> (ExactId, ContentTreeId) {
        codec::ids(self)
    }
}

/// A finished root file system (or a part of one): its root's metadata and the ids of the root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Metadata of the root directory itself.
    pub root: Metadata,
    /// Exact id of the root directory.
    pub exact: ExactId,
    /// Id of the root directory without times.
    pub content: ContentTreeId,
}

impl Tree {
    /// The tree with nothing in it: root's directory with mode 0755 at the epoch.
    pub fn empty(store: &dyn ContentStore) -> io::Result<Self> {
        let (exact, content) = store.put_directory(&Directory::default())?;
        Ok(Self { root: Metadata::root_owned(0o755), exact, content })
    }

    /// The id of the whole tree.
    pub fn id(&self) -> TreeId {
        codec::tree_id(self)
    }

    /// The tree as bytes, for records.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_tree(self)
    }

    /// A tree from [`encode`](Self::encode)'s bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode_tree(bytes)
    }

    /// The root directory as an entry without a name.
    pub fn root_entry(&self) -> Entry {
        Entry {
            name: Vec::new(),
            metadata: self.root.clone(),
            kind: NodeKind::Directory { exact: self.exact, content: self.content },
        }
    }

    /// The tree that starts at a directory entry; `None` when the entry is no directory.
    pub fn from_entry(entry: &Entry) -> Option<Self> {
        match entry.kind {
            NodeKind::Directory { exact, content } => {
                Some(Self { root: entry.metadata.clone(), exact, content })
            }
            _ => None,
        }
    }

    /// The root directory object.
    pub fn directory(&self, store: &dyn ContentStore) -> io::Result<Arc<Directory>> {
        store.directory(&self.exact)
    }

    /// Looks a path up without following symbolic links; `.` and empty names are passed over, `..` goes up by text.
    ///
    /// `None` when it does not exist or leads through something that is no directory. The root comes with an empty
    /// name.
    pub fn lookup(&self, store: &dyn ContentStore, path: &[u8]) -> io::Result<Option<Entry>> {
        walk::lookup(self, store, path)
    }

    /// Looks a path up with every symbolic link followed inside the tree, as `chroot` would.
    ///
    /// Returns the clean path that was reached and its entry. `None` when it does not exist, leads through something
    /// that is no directory, or needs more than 40 links.
    pub fn lookup_following(
        &self,
        store: &dyn ContentStore,
        path: &[u8],
    ) -> io::Result<Option<(Vec<u8>, Entry)>> {
        walk::lookup_following(self, store, path)
    }

    /// Everything below the root, in [tree order](crate::path::tree_order), without the root itself.
    pub fn walk<'s>(&self, store: &'s dyn ContentStore) -> TreeWalk<'s> {
        TreeWalk::new(self, store)
    }

    /// What has to change in `lower` to make it `upper`; equal subtrees are not looked at.
    pub fn diff(store: &dyn ContentStore, lower: &Self, upper: &Self) -> io::Result<Vec<Change>> {
        diff::diff(store, lower, upper, &|_| false)
    }
}

/// One step from a lower tree to an upper one. Paths are clean; the empty path is the root.
///
/// Lists of changes are in [tree order](crate::path::tree_order); of one path, `Upsert` comes before `Opaque`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The path is made or replaced. A directory over a directory keeps what is in it, anything else replaces all.
    Upsert {
        /// Where.
        path: Vec<u8>,
        /// What is there now.
        entry: Entry,
        /// The path, among these changes and before this one, that this one is another name of.
        link_to: Option<Vec<u8>>,
        /// Whether a file's bytes (a link's target, a device's number) are those that the lower tree has at this path.
        same_content: bool,
    },
    /// The path is removed, with everything below it: a whiteout.
    Remove {
        /// Where.
        path: Vec<u8>,
    },
    /// The directory was replaced by another: nothing that the lower tree has below it shows.
    Opaque {
        /// Where.
        path: Vec<u8>,
    },
}

impl Change {
    /// Where the change is.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Upsert { path, .. } | Self::Remove { path } | Self::Opaque { path } => path,
        }
    }
}
