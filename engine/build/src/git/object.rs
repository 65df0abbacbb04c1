//! Git's objects: ids, commits, directories, tags (git's documentation, `gitformat-pack` and `git-cat-file`).

use std::fmt;

use crate::error::{Error, Result};

/// The id of an object: SHA-1 over its kind, its size and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectId(pub(super) [u8; 20]);

impl ObjectId {
    /// Reads 40 hexadecimal digits.
    pub(super) fn from_hex(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 20];
        if text.len() != 40 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What an object is; the numbers are those of packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Commit = 1,
    Tree = 2,
    Blob = 3,
    Tag = 4,
}

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Commit, Self::Tree, Self::Blob, Self::Tag].into_iter().find(|kind| *kind as u8 == number)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }
}

/// SHA-1 that notices when somebody has made two inputs collide, as git does.
pub(super) struct Hasher(sha1_checked::Sha1);

impl Hasher {
    pub(super) fn new() -> Self {
        Self(sha1_checked::Sha1::new())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        use sha1_checked::Digest;
        Digest::update(&mut self.0, bytes);
    }

    pub(super) fn finish(self) -> Result<ObjectId> {
        let found = self.0.try_finalize();
        if found.has_collision() {
            return Err(Error::build(
                "the repository has an object that was made to collide with another one",
            ));
        }
        let mut id = [0; 20];
        id.copy_from_slice(found.hash());
        Ok(ObjectId(id))
    }
}

/// The id of an object.
pub(super) fn id_of(kind: Kind, bytes: &[u8]) -> Result<ObjectId> {
    let mut hasher = Hasher::new();
    hasher.update(format!("{} {}\0", kind.name(), bytes.len()).as_bytes());
    hasher.update(bytes);
    hasher.finish()
}

/// The directory of a commit, and when it was committed, in seconds since 1970.
pub(super) fn read_commit(bytes: &[u8]) -> Option<(ObjectId, i64)> {
    let mut tree = None;
    let mut seconds = None;
    for line in bytes.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty()) {
        if let Some(id) = line.strip_prefix(b"tree ") {
            tree = ObjectId::from_hex(id);
        }
        if let Some(committer) = line.strip_prefix(b"committer ") {
            // `NAME <MAIL> SECONDS ZONE`
            let after = committer.iter().rposition(|byte| *byte == b'>').map(|at| &committer[at + 1..])?;
            seconds = std::str::from_utf8(after).ok()?.split_whitespace().next()?.parse().ok();
        }
    }
    Some((tree?, seconds.unwrap_or(0)))
}

/// What an annotated tag is on, where that is a tag, too.
pub(super) fn tag_of_tag(bytes: &[u8]) -> Option<ObjectId> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let object = lines.next()?.strip_prefix(b"object ")?;
    (lines.next()? == b"type tag").then(|| ObjectId::from_hex(object)).flatten()
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Program,
    Link,
    Directory,
    Submodule,
}

impl EntryKind {
    /// The mode that git writes.
    pub(super) fn mode(self) -> u32 {
        match self {
            Self::File => 0o100_644,
            Self::Program => 0o100_755,
            Self::Link => 0o120_000,
            Self::Directory => 0o040_000,
            Self::Submodule => 0o160_000,
        }
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreeEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: EntryKind,
    pub(super) id: ObjectId,
}

/// The entries of a directory; `MODE NAME\0ID`, one behind the other.
pub(super) fn read_tree(bytes: &[u8]) -> Option<Vec<TreeEntry<'_>>> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let blank = rest.iter().position(|byte| *byte == b' ')?;
        let mode = u32::from_str_radix(std::str::from_utf8(&rest[..blank]).ok()?, 8).ok()?;
        rest = &rest[blank + 1..];
        let zero = rest.iter().position(|byte| *byte == 0)?;
        let name = &rest[..zero];
        let (id, after) = rest[zero + 1..].split_first_chunk::<20>()?;
        rest = after;
        let kind = match mode & 0o170_000 {
            0o040_000 => EntryKind::Directory,
            0o120_000 => EntryKind::Link,
            0o160_000 => EntryKind::Submodule,
            0o100_000 if mode & 0o100 != 0 => EntryKind::Program,
            0o100_000 => EntryKind::File,
            _ => return None,
        };
        entries.push(TreeEntry { name, kind, id: ObjectId(*id) });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_gits_ids() {
        assert_eq!(
            id_of(Kind::Blob, b"").ok().map(|id| id.to_string()).as_deref(),
            Some("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
        );
        assert_eq!(
            id_of(Kind::Tree, b"").ok().map(|id| id.to_string()).as_deref(),
            Some("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
        );
    }

    #[test]
    fn commits_and_tags_are_read() {
        let hex = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let commit =
            format!("tree {hex}\nauthor A <a> 5 +0000\ncommitter B > C <b@c> 1700000000 +0100\n\ntree x\n");
        let (tree, seconds) = read_commit(commit.as_bytes()).expect("a commit");
        assert_eq!((tree.to_string().as_str(), seconds), (hex, 1_700_000_000));
        assert!(read_commit(b"author x\n\n").is_none());
        assert!(tag_of_tag(format!("object {hex}\ntype tag\n").as_bytes()).is_some());
        assert!(tag_of_tag(format!("object {hex}\ntype commit\n").as_bytes()).is_none());
    }

    #[test]
    fn directories_are_read_or_refused() {
        let tree =
            [b"100644 a\0".as_slice(), &[1; 20], b"40000 d\0", &[2; 20], b"100755 x y\0", &[3; 20]].concat();
        let entries = read_tree(&tree).expect("a directory");
        let shown: Vec<_> = entries.iter().map(|entry| (entry.name, entry.kind)).collect();
        assert_eq!(
            shown,
            [(&b"a"[..], EntryKind::File), (b"d", EntryKind::Directory), (b"x y", EntryKind::Program)]
        );
        for wrong in [
            &b"100644 a"[..],
            b"100644 a\0short",
            b"9 a\0aaaaaaaaaaaaaaaaaaaa",
            b"10 a\0aaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(read_tree(wrong).is_none());
        }
    }
}
