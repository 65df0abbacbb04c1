//! The canonical bytes of directories and trees.
//!
//! One directory has exactly one encoding, so its hash is its id. Integers are little-endian and of fixed width,
//! byte strings are a `u32` length and the bytes:
//!
//! ```text
//! directory  = "CDIR" version:u8 entries:u32 entry* groups:u32 group*
//! entry      = kind:u8 name mode:u16 uid:u32 gid:u32 seconds:i64 nanoseconds:u32 xattrs:u32 (name value)* payload
//! payload    = file: content[32] size:u64 | directory: exact[32] content[32] | symlink: target
//!            | device: major:u32 minor:u32 | fifo, socket: nothing
//! group      = members:u32 path*
//! tree       = "CTREE" version:u8 mode uid gid seconds nanoseconds xattrs exact[32] content[32]
//! ```
//!
//! [`ExactId`] is the BLAKE3 hash of these bytes under a context of its own. [`ContentTreeId`] is the hash of the same
//! form without times, and with the content ids alone of child directories. Decoding refuses everything that
//! encoding does not write, names the bound or rule that was broken, and never takes more memory than a small
//! multiple of the input.

use std::collections::{BTreeMap, HashSet};

use super::{ContentTreeId, Directory, Entry, ExactId, Metadata, NodeKind, Tree, TreeId};
use crate::content::ContentId;
use crate::path;
use crate::time::Timestamp;

/// Most entries of one directory.
pub const ENTRIES_MAX: usize = 16 << 20;
/// Longest target of a symbolic link (Linux: one page, with the closing NUL).
pub const TARGET_MAX: usize = 4095;
/// Longest name of an extended attribute (Linux `XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute (Linux `XATTR_SIZE_MAX`).
pub const XATTR_SIZE_MAX: usize = 65_536;
/// Most extended attributes of one node: what fits in Linux's 64 KiB list of names.
pub const XATTRS_MAX: usize = 65_536 / 3;
/// Longest relative path in a hard-link group.
pub const GROUP_PATH_MAX: usize = 1 << 20;

const DIRECTORY_MAGIC: &[u8] = b"CDIR\x01";
const TREE_MAGIC: &[u8] = b"CTREE\x01";
const EXACT_CONTEXT: &str = "cooper 2025 tree directory exact id";
const CONTENT_CONTEXT: &str = "cooper 2025 tree directory content id";
const TREE_CONTEXT: &str = "cooper 2025 tree id";

/// Why bytes are no directory or tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes start with something else.
    #[error("the bytes are not a {0} object of a known version")]
    Magic(&'static str),
    /// The bytes end early.
    #[error("the object ends in the middle of a field")]
    Truncated,
    /// Bytes follow the end.
    #[error("bytes follow the end of the object")]
    Trailing,
    /// A count or length is over its bound.
    #[error("a count or length is over its bound: {0}")]
    Bound(&'static str),
    /// A value is not allowed.
    #[error("a field has a value that is not allowed: {0}")]
    Value(&'static str),
    /// Names, attributes or groups are not sorted or occur twice.
    #[error("not in canonical order: {0}")]
    Order(&'static str),
}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Exact,
    Content,
}

/// Tells whether a node can be recorded: its mode, time, attributes and target are within their bounds.
pub fn check_node(metadata: &Metadata, kind: Option<&NodeKind>) -> Result<(), DecodeError> {
    if metadata.mode & !0o7777 != 0 {
        return Err(DecodeError::Value("mode"));
    }
    if metadata.mtime.nanoseconds > 999_999_999 {
        return Err(DecodeError::Value("nanoseconds"));
    }
    if metadata.xattrs.len() > XATTRS_MAX {
        return Err(DecodeError::Bound("extended attributes"));
    }
    for (name, value) in &metadata.xattrs {
        if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
            return Err(DecodeError::Value("name of an extended attribute"));
        }
        if value.len() > XATTR_SIZE_MAX {
            return Err(DecodeError::Bound("value of an extended attribute"));
        }
    }
    match kind {
        Some(NodeKind::Symlink { target }) if target.len() > TARGET_MAX => {
            Err(DecodeError::Bound("target of a symbolic link"))
        }
        _ => Ok(()),
    }
}

/// Gives the directory's canonical bytes.
pub fn encode(directory: &Directory) -> Vec<u8> {
    encode_form(directory, Form::Exact)
}

/// Computes both ids of a directory.
pub fn ids(directory: &Directory) -> (ExactId, ContentTreeId) {
    (exact_id(&encode(directory)), content_id(directory))
}

/// The exact id of a directory that is already encoded.
pub fn exact_id(encoded: &[u8]) -> ExactId {
    ExactId(blake3::derive_key(EXACT_CONTEXT, encoded))
}

/// The id of a directory without times.
pub fn content_id(directory: &Directory) -> ContentTreeId {
    ContentTreeId(blake3::derive_key(CONTENT_CONTEXT, &encode_form(directory, Form::Content)))
}

fn encode_form(directory: &Directory, form: Form) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + directory.entries.len() * 96);
    out.extend_from_slice(DIRECTORY_MAGIC);
    put_count(&mut out, directory.entries.len());
    for entry in &directory.entries {
        put_entry(&mut out, entry, form);
    }
    put_count(&mut out, directory.hard_links.len());
    for group in &directory.hard_links {
        put_count(&mut out, group.len());
        group.iter().for_each(|member| put_bytes(&mut out, member));
    }
    out
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry, form: Form) {
    out.push(kind_number(&entry.kind));
    put_bytes(out, &entry.name);
    put_metadata(out, &entry.metadata, form);
    match &entry.kind {
        NodeKind::File { content, size } => {
            out.extend_from_slice(&content.0);
            out.extend_from_slice(&size.to_le_bytes());
        }
        NodeKind::Directory { exact, content } => {
            if form == Form::Exact {
                out.extend_from_slice(&exact.0);
            }
            out.extend_from_slice(&content.0);
        }
        NodeKind::Symlink { target } => put_bytes(out, target),
        NodeKind::CharacterDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            out.extend_from_slice(&major.to_le_bytes());
            out.extend_from_slice(&minor.to_le_bytes());
        }
        NodeKind::Fifo | NodeKind::Socket => {}
    }
}

const fn kind_number(kind: &NodeKind) -> u8 {
    match kind {
        NodeKind::File { .. } => 0,
        NodeKind::Directory { .. } => 1,
        NodeKind::Symlink { .. } => 2,
        NodeKind::CharacterDevice { .. } => 3,
        NodeKind::BlockDevice { .. } => 4,
        NodeKind::Fifo => 5,
        NodeKind::Socket => 6,
    }
}

fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata, form: Form) {
    out.extend_from_slice(&metadata.mode.to_le_bytes());
    out.extend_from_slice(&metadata.uid.to_le_bytes());
    out.extend_from_slice(&metadata.gid.to_le_bytes());
    if form == Form::Exact {
        out.extend_from_slice(&metadata.mtime.seconds.to_le_bytes());
        out.extend_from_slice(&metadata.mtime.nanoseconds.to_le_bytes());
    }
    put_count(out, metadata.xattrs.len());
    for (name, value) in &metadata.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

/// Counts and lengths are bounded far below `u32::MAX` where they come in, so the cut cannot lose anything; should it
/// ever, the object does not decode.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Reads a directory from its canonical bytes.
pub fn decode(bytes: &[u8]) -> Result<Directory, DecodeError> {
    let mut input = Input { bytes };
    input.magic(DIRECTORY_MAGIC, "directory")?;
    let count = input.count(ENTRIES_MAX, "entries")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count.min(bytes.len() / 32));
    for _ in 0..count {
        let entry = input.entry()?;
        if entries.last().is_some_and(|last| last.name >= entry.name) {
            return Err(DecodeError::Order("entries"));
        }
        entries.push(entry);
    }
    let count = input.count(ENTRIES_MAX, "hard-link groups")?;
    let mut hard_links: Vec<Vec<Vec<u8>>> = Vec::new();
    for _ in 0..count {
        let group = input.group()?;
        if hard_links.last().is_some_and(|last| path::tree_order(&last[0], &group[0]).is_ge()) {
            return Err(DecodeError::Order("hard-link groups"));
        }
        hard_links.push(group);
    }
    input.end()?;
    let directory = Directory { entries, hard_links };
    check_groups(&directory)?;
    Ok(directory)
}

/// Groups are disjoint, start at entries of this directory, and have it as their lowest common directory.
fn check_groups(directory: &Directory) -> Result<(), DecodeError> {
    let mut seen = HashSet::new();
    for group in &directory.hard_links {
        let first = |member: &[u8]| path::components(member).next().map(<[u8]>::to_vec);
        if group.windows(2).all(|pair| first(&pair[0]) == first(&pair[1])) {
            return Err(DecodeError::Value("a hard-link group belongs to a lower directory"));
        }
        for member in group {
            if !seen.insert(member) {
                return Err(DecodeError::Value("a name is in two hard-link groups"));
            }
            let mut names = path::components(member);
            let entry = names.next().and_then(|name| directory.get(name));
            let wants_directory = names.next().is_some();
            if entry.is_none_or(|entry| entry.kind.is_directory() != wants_directory) {
                return Err(DecodeError::Value("a hard link leads nowhere"));
            }
        }
    }
    Ok(())
}

/// Gives a tree's bytes.
pub fn encode_tree(tree: &Tree) -> Vec<u8> {
    let mut out = TREE_MAGIC.to_vec();
    put_metadata(&mut out, &tree.root, Form::Exact);
    out.extend_from_slice(&tree.exact.0);
    out.extend_from_slice(&tree.content.0);
    out
}

/// Reads a tree from its bytes.
pub fn decode_tree(bytes: &[u8]) -> Result<Tree, DecodeError> {
    let mut input = Input { bytes };
    input.magic(TREE_MAGIC, "tree")?;
    let root = input.metadata()?;
    let tree = Tree { root, exact: ExactId(input.id()?), content: ContentTreeId(input.id()?) };
    input.end()?;
    Ok(tree)
}

/// Computes a tree's id.
pub fn tree_id(tree: &Tree) -> TreeId {
    TreeId(blake3::derive_key(TREE_CONTEXT, &encode_tree(tree)))
}

/// What is left to decode.
struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn id(&mut self) -> Result<[u8; 32], DecodeError> {
        self.array()
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn magic(&mut self, magic: &[u8], what: &'static str) -> Result<(), DecodeError> {
        match self.take(magic.len()) {
            Ok(found) if found == magic => Ok(()),
            _ => Err(DecodeError::Magic(what)),
        }
    }

    fn count(&mut self, bound: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count > bound { Err(DecodeError::Bound(what)) } else { Ok(count) }
    }

    fn byte_string(&mut self, bound: usize, what: &'static str) -> Result<Vec<u8>, DecodeError> {
        let length = self.count(bound, what)?;
        Ok(self.take(length)?.to_vec())
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }

    fn metadata(&mut self) -> Result<Metadata, DecodeError> {
        let mode = u16::from_le_bytes(self.array()?);
        if mode & !0o7777 != 0 {
            return Err(DecodeError::Value("mode"));
        }
        let (uid, gid) = (self.u32()?, self.u32()?);
        let mtime = Timestamp { seconds: i64::from_le_bytes(self.array()?), nanoseconds: self.u32()? };
        if mtime.nanoseconds > 999_999_999 {
            return Err(DecodeError::Value("nanoseconds"));
        }
        let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for _ in 0..self.count(XATTRS_MAX, "extended attributes")? {
            let name = self.byte_string(XATTR_NAME_MAX, "name of an extended attribute")?;
            let value = self.byte_string(XATTR_SIZE_MAX, "value of an extended attribute")?;
            if name.is_empty() || name.contains(&0) {
                return Err(DecodeError::Value("name of an extended attribute"));
            }
            if xattrs.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(DecodeError::Order("extended attributes"));
            }
            xattrs.insert(name, value);
        }
        Ok(Metadata { mode, uid, gid, mtime, xattrs })
    }

    fn entry(&mut self) -> Result<Entry, DecodeError> {
        let [number] = self.array()?;
        let name = self.byte_string(path::NAME_MAX, "name")?;
        if !path::is_name(&name) {
            return Err(DecodeError::Value("name"));
        }
        let metadata = self.metadata()?;
        let kind = match number {
            0 => NodeKind::File { content: ContentId(self.id()?), size: u64::from_le_bytes(self.array()?) },
            1 => NodeKind::Directory { exact: ExactId(self.id()?), content: ContentTreeId(self.id()?) },
            2 => NodeKind::Symlink { target: self.byte_string(TARGET_MAX, "target of a symbolic link")? },
            3 => NodeKind::CharacterDevice { major: self.u32()?, minor: self.u32()? },
            4 => NodeKind::BlockDevice { major: self.u32()?, minor: self.u32()? },
            5 => NodeKind::Fifo,
            6 => NodeKind::Socket,
            _ => return Err(DecodeError::Value("kind")),
        };
        Ok(Entry { name, metadata, kind })
    }

    fn group(&mut self) -> Result<Vec<Vec<u8>>, DecodeError> {
        let count = self.count(ENTRIES_MAX, "members of a hard-link group")?;
        if count < 2 {
            return Err(DecodeError::Value("a hard-link group with fewer than two members"));
        }
        let mut group: Vec<Vec<u8>> = Vec::new();
        for _ in 0..count {
            let member = self.byte_string(GROUP_PATH_MAX, "path of a hard link")?;
            if !member.split(|&byte| byte == b'/').all(path::is_name) {
                return Err(DecodeError::Value("path of a hard link"));
            }
            if group.last().is_some_and(|last| path::tree_order(last, &member).is_ge()) {
                return Err(DecodeError::Order("members of a hard-link group"));
            }
            group.push(member);
        }
        Ok(group)
    }
}
