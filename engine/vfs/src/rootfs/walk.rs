//! The path walk.
//!
//! Order of errors, as in Linux: `ENOENT` for the empty path and `ENAMETOOLONG` for one of 4096 bytes or more; then,
//! name by name: `ENOTDIR` when the walk stands on something that is no directory, `EACCES` without search
//! permission, `ENAMETOOLONG` for a name over 255 bytes, `ENOENT`, `ELOOP` at the 41st link. A slash at the end asks for
//! a directory, and follows a link whatever the flags say.

use std::borrow::Cow;
use std::sync::Arc;

use rustix::io::Errno;

use super::directory::Dentry;
use super::inode::{Attributes, Body, Inode};
use super::{AccessMode, Follow, Position, RootFs};
use crate::credentials::Walk;
use crate::path::{LINKS_MAX, NAME_MAX, PATH_MAX};
use crate::synthetic::Link;
use crate::time::Timestamp;
use crate::tree::FileKind;

/// The last name of a path, not looked up yet.
pub(super) enum Last {
    /// An ordinary name, and whether a slash follows it.
    Name { name: Arc<[u8]>, slash: bool },
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// There is no name: the path was all slashes.
    Root,
}

/// A walk on its way.
pub(super) struct Walker<'a> {
    fs: &'a RootFs,
    walk: &'a Walk<'a>,
    pub(super) current: Position,
    rest: Cow<'a, [u8]>,
    offset: usize,
    links: usize,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        fs: &'a RootFs,
        walk: &'a Walk<'a>,
        base: &Position,
        path: &'a [u8],
    ) -> Result<Self, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let current = if path[0] == b'/' { walk.root } else { base }.clone();
        Ok(Self { fs, walk, current, rest: Cow::Borrowed(path), offset: 0, links: 0 })
    }

    /// Walks up to the last name: `current` is the directory it is looked for in, searchable.
    pub(super) fn walk_to_last(&mut self) -> Result<Last, Errno> {
        loop {
            while self.rest.get(self.offset) == Some(&b'/') {
                self.offset += 1;
            }
            if self.offset == self.rest.len() {
                return Ok(Last::Root);
            }
            if !self.current.inode().is_directory() {
                return Err(Errno::NOTDIR);
            }
            let (walk, current) = (self.walk, &self.current);
            current.inode().permission(walk.credentials, &walk.caller, AccessMode::EXECUTE)?;
            let start = self.offset;
            let length = self.rest[start..].iter().position(|&byte| byte == b'/');
            let end = length.map_or(self.rest.len(), |length| start + length);
            let next = self.rest[end..].iter().position(|&byte| byte != b'/').map(|skip| end + skip);
            self.offset = next.unwrap_or(self.rest.len());
            let is_last = next.is_none();
            match &self.rest[start..end] {
                b"." if is_last => return Ok(Last::Dot),
                b".." if is_last => return Ok(Last::DotDot),
                b"." => {}
                b".." => self.go_up(),
                name if is_last => {
                    return Ok(Last::Name { name: name.into(), slash: end < self.rest.len() });
                }
                _ => {
                    let child = self.fs.child(self.walk, &self.current, &self.rest[start..end])?;
                    self.enter(child, true)?;
                }
            }
        }
    }

    /// Goes to the directory above, never above the walk's root.
    pub(super) fn go_up(&mut self) {
        if !self.current.is_same(self.walk.root) {
            self.current = self.fs.covered(self.current.parent());
        }
    }

    /// Goes to a child, over mounts, and follows it if it is a link and `follow` says so. Tells whether the walk
    /// goes on with the link's path (call [`walk_to_last`](Self::walk_to_last) again).
    pub(super) fn enter(&mut self, child: Arc<Dentry>, follow: bool) -> Result<bool, Errno> {
        let child = self.fs.covered(self.current.in_mount(child));
        if !follow || child.kind() != FileKind::Symlink {
            self.current = child;
            return Ok(false);
        }
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let link = self.fs.link_of(self.walk, &child)?;
        match link {
            Link::Position(position) => self.current = position,
            Link::Object { object, display, stat } => {
                let attributes = Attributes::new(0, 0, 0, Timestamp::default());
                let body = Body::Object { object, display, stat };
                let inode = Arc::new(Inode::new(0, child.mount.filesystem.device, body, attributes));
                let (parent, name) = (child.dentry.parent(), child.dentry.name());
                self.current = child.in_mount(Dentry::new(parent, name, inode));
            }
            Link::Path(target) => {
                if target.is_empty() {
                    return Err(Errno::NOENT);
                }
                if target[0] == b'/' {
                    self.current = self.walk.root.clone();
                }
                let mut rest = target;
                // What follows keeps its slash: it asks for a directory.
                if self.offset < self.rest.len() || self.rest.ends_with(b"/") {
                    rest.push(b'/');
                    rest.extend_from_slice(&self.rest[self.offset..]);
                }
                self.rest = Cow::Owned(rest);
                self.offset = 0;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks up what [`walk_to_last`](Self::walk_to_last) gave. `false` when a link put more path before the walk.
    pub(super) fn finish_last(&mut self, last: &Last, follow: Follow) -> Result<bool, Errno> {
        match last {
            Last::Root | Last::Dot => {}
            Last::DotDot => self.go_up(),
            Last::Name { name, slash } => {
                let child = self.fs.child(self.walk, &self.current, name)?;
                if self.enter(child, *slash || follow == Follow::Yes)? {
                    return Ok(false);
                }
                if *slash && !self.current.inode().is_directory() {
                    return Err(Errno::NOTDIR);
                }
            }
        }
        Ok(true)
    }
}

impl RootFs {
    /// Finds the place of a path.
    pub fn resolve(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
        follow: Follow,
    ) -> Result<Position, Errno> {
        let mut walker = Walker::new(self, walk, base, path)?;
        loop {
            let last = walker.walk_to_last()?;
            if walker.finish_last(&last, follow)? {
                return Ok(walker.current);
            }
        }
    }

    /// Finds the directory of a path's last name.
    pub(super) fn resolve_parent(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
    ) -> Result<(Position, Last), Errno> {
        let mut walker = Walker::new(self, walk, base, path)?;
        let last = walker.walk_to_last()?;
        Ok((walker.current, last))
    }

    /// The entry of a name in a directory, mounts on it not looked at. `ENAMETOOLONG`, `ENOENT`.
    pub(super) fn child(
        &self,
        walk: &Walk<'_>,
        directory: &Position,
        name: &[u8],
    ) -> Result<Arc<Dentry>, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        match &directory.inode().body {
            Body::Directory(body) => body.lookup(&directory.dentry, name, directory.shared()),
            Body::Synthetic { fs, id, .. } => {
                let child = fs.lookup(*id, name, &walk.caller)?;
                let stat = fs.stat(child, &walk.caller)?;
                let kind = stat.kind().ok_or(Errno::IO)?;
                let body = Body::Synthetic { fs: Arc::clone(fs), id: child, kind };
                let attributes = Attributes::new(0, 0, 0, Timestamp::default());
                let inode = Inode::new(stat.inode, directory.inode().device, body, attributes);
                Ok(Dentry::new(Some(Arc::clone(&directory.dentry)), name.into(), Arc::new(inode)))
            }
            _ => Err(Errno::NOTDIR),
        }
    }

    /// The place that shows where others are mounted over it.
    pub(super) fn covered(&self, position: Position) -> Position {
        let mut position = position;
        loop {
            let synthetic = position.inode().is_synthetic();
            let mounted = if synthetic {
                position.mount.covered.load(std::sync::atomic::Ordering::Acquire)
            } else {
                position.dentry.mounted.load(std::sync::atomic::Ordering::Acquire) > 0
            };
            if !mounted {
                return position;
            }
            match self.mounted_on(&position) {
                Some(mount) => {
                    let dentry = Arc::clone(&mount.root);
                    position = Position { mount, dentry };
                }
                None => return position,
            }
        }
    }

    /// Where a symbolic link leads. `EINVAL` for what is none.
    pub(super) fn link_of(&self, walk: &Walk<'_>, link: &Position) -> Result<Link, Errno> {
        match &link.inode().body {
            Body::Symlink(target) => Ok(Link::Path(target.clone())),
            Body::Synthetic { fs, id, kind: FileKind::Symlink } => fs.read_link(*id, &walk.caller),
            _ => Err(Errno::INVAL),
        }
    }

    /// What a symbolic link says; an empty path reads the link that `base` is.
    ///
    /// `ENOENT` for an empty path when `base` is no link, `EINVAL` for what is no link, else as [`resolve`](Self::resolve).
    pub fn read_link(&self, walk: &Walk<'_>, base: &Position, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let link = if path.is_empty() {
            if base.kind() != FileKind::Symlink {
                return Err(Errno::NOENT);
            }
            base.clone()
        } else {
            self.resolve(walk, base, path, Follow::No)?
        };
        match self.link_of(walk, &link)? {
            Link::Path(target) => Ok(target),
            Link::Object { display, .. } => Ok(display),
            Link::Position(position) => {
                // Outside the caller's root there is no path to show.
                position.path(walk.root).ok_or(Errno::NOENT)
            }
        }
    }
}
