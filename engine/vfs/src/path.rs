//! Guest paths: bytes, never host paths.
//!
//! A guest path is any byte string without NUL; names are the parts between slashes. Inside trees and changes
//! paths are *relative and clean*: no leading or doubled slash, no `.` or `..`, the root is the empty path.
//! Nothing here converts to or from `std::path::Path`.

use std::cmp::Ordering;
use std::fmt;

/// Longest name of a directory entry, in bytes (Linux `NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest path a call may be given, in bytes and with the closing NUL (Linux `PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Symbolic links that one path walk follows before `ELOOP` (Linux `MAXSYMLINKS`).
pub const LINKS_MAX: usize = 40;

/// A path as a guest wrote it: bytes, absolute or relative, not resolved.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// Takes the bytes as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Gives the bytes back.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Tells whether the path starts at the root.
    pub fn is_absolute(&self) -> bool {
        is_absolute(&self.0)
    }

    /// The names between the slashes, empty ones left out.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        components(&self.0)
    }

    /// This path with another below it; an absolute `other` replaces it.
    #[must_use]
    pub fn join(&self, other: &[u8]) -> Self {
        if is_absolute(other) { Self(other.to_vec()) } else { Self(join(&self.0, other)) }
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl From<&[u8]> for GuestPath {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Vec<u8>> for GuestPath {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// Tells whether the path starts with a slash.
pub fn is_absolute(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
}

/// The names between the slashes, empty ones left out (`.` and `..` are kept).
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// `base` and `name` with one slash between them; an empty side adds nothing.
pub fn join(base: &[u8], name: &[u8]) -> Vec<u8> {
    if base.is_empty() {
        return name.to_vec();
    }
    if name.is_empty() {
        return base.to_vec();
    }
    let mut path = Vec::with_capacity(base.len() + 1 + name.len());
    path.extend_from_slice(base);
    if !base.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Splits a clean path into its parent and its last name; `None` for the root.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((b"", path)),
    }
}

/// Makes a path clean by text alone: `.` and doubled slashes go, `..` takes the name before it and stops at the
/// root. Symbolic links are not looked at.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in components(path) {
        match name {
            b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// Tells whether the bytes can be the name of a directory entry: 1 to 255 bytes, no slash, no NUL, not `.` or `..`.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

/// Tells whether `path` is `ancestor` or lies below it (both clean).
pub fn is_within(path: &[u8], ancestor: &[u8]) -> bool {
    ancestor.is_empty()
        || (path.starts_with(ancestor) && (path.len() == ancestor.len() || path[ancestor.len()] == b'/'))
}

/// Orders clean paths as a tree is walked: name by name, a directory before everything in it and its whole
/// subtree before the next name.
pub fn tree_order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |&byte: &u8| if byte == b'/' { 0 } else { byte };
    a.iter().map(rank).cmp(b.iter().map(rank))
}
