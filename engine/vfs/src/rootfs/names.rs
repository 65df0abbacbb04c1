//! Making, moving and removing names.
//!
//! Every function here finds the directories first, then takes the namespace lock, looks the names up (again) and
//! changes them. The order of errors is Linux's and stands at each function.

use std::sync::Arc;

use rustix::io::Errno;

use super::directory::{Dentry, DirectoryBody};
use super::file::FileBody;
use super::inode::{Attributes, Body, Inode, S_ISGID, S_ISVTX, S_IXGRP};
use super::sync::lock;
use super::walk::Last;
use super::{AccessMode, Follow, Position, RenameFlags, RootFs, split_device};
use crate::credentials::{Capabilities, Credentials, Walk};
use crate::path::is_name;
use crate::tree::FileKind;
use crate::tree::codec::TARGET_MAX;

/// Mode of what can be made in a directory.
const WRITE_SEARCH: AccessMode = AccessMode::WRITE.union(AccessMode::EXECUTE);

/// What is to be made under a new name.
pub(super) enum Fresh<'a> {
    File { mode: u16 },
    Directory { mode: u16 },
    Symlink { target: &'a [u8] },
    Device { mode: u16, character: bool, major: u32, minor: u32 },
    Fifo { mode: u16 },
    Socket { mode: u16 },
}

impl Fresh<'_> {
    const fn mode(&self) -> u16 {
        match self {
            Self::File { mode } | Self::Device { mode, .. } | Self::Fifo { mode } | Self::Socket { mode } => {
                *mode & 0o7777
            }
            Self::Directory { mode } => *mode & 0o1777,
            Self::Symlink { .. } => 0o777,
        }
    }
}

impl RootFs {
    /// Makes a directory; the umask is the caller's to apply.
    ///
    /// After the walk's errors: `EEXIST`, `EROFS`, `ENOENT` in a removed directory, `EACCES`, `ENOSPC` at the bound on
    /// inodes.
    pub fn make_directory(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
        mode: u16,
    ) -> Result<Position, Errno> {
        self.make(walk, base, path, &Fresh::Directory { mode })
    }

    /// Makes a file, device node, fifo or socket: `mode` with type bits (none: a regular file), `device` as in `st_rdev`.
    ///
    /// `EPERM` for a directory, `EINVAL` for an unknown type; then as [`make_directory`](Self::make_directory), `ENOENT`
    /// for a slash at the end, `EPERM` for a device without `CAP_MKNOD`.
    pub fn make_node(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
        mode: u32,
        device: u64,
    ) -> Result<Position, Errno> {
        let (major, minor) = split_device(device);
        let permissions = (mode & 0o7777) as u16;
        let kind = if mode & 0o170_000 == 0 { Some(FileKind::File) } else { FileKind::from_mode(mode) };
        let fresh = match kind {
            Some(FileKind::File) => Fresh::File { mode: permissions },
            Some(FileKind::Fifo) => Fresh::Fifo { mode: permissions },
            Some(FileKind::Socket) => Fresh::Socket { mode: permissions },
            Some(FileKind::CharacterDevice) => {
                Fresh::Device { mode: permissions, character: true, major, minor }
            }
            Some(FileKind::BlockDevice) => {
                Fresh::Device { mode: permissions, character: false, major, minor }
            }
            Some(FileKind::Directory) => return Err(Errno::PERM),
            Some(FileKind::Symlink) | None => return Err(Errno::INVAL),
        };
        self.make(walk, base, path, &fresh)
    }

    /// Makes a symbolic link to `target`, which is not looked at.
    ///
    /// `ENOENT` for an empty target, `ENAMETOOLONG` for one over 4095 bytes; then as [`make_node`](Self::make_node).
    pub fn symlink(
        &self,
        walk: &Walk<'_>,
        target: &[u8],
        base: &Position,
        path: &[u8],
    ) -> Result<Position, Errno> {
        match target.len() {
            0 => Err(Errno::NOENT),
            length if length > TARGET_MAX => Err(Errno::NAMETOOLONG),
            _ => self.make(walk, base, path, &Fresh::Symlink { target }),
        }
    }

    fn make(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
        fresh: &Fresh<'_>,
    ) -> Result<Position, Errno> {
        let (parent, last) = self.resolve_parent(walk, base, path)?;
        let Last::Name { name, slash } = last else { return Err(Errno::EXIST) };
        let _names = parent.shared().lock_names();
        self.check_new(walk, &parent, &name, slash && !matches!(fresh, Fresh::Directory { .. }))?;
        self.check_may_create(walk, &parent)?;
        if matches!(fresh, Fresh::Device { .. }) && !walk.credentials.holds(Capabilities::MKNOD) {
            return Err(Errno::PERM);
        }
        self.make_locked(walk, &parent, &name, fresh)
    }

    /// The name is free: `EEXIST`, `ENOENT` for a slash after what will be no directory, `EROFS`.
    fn check_new(
        &self,
        walk: &Walk<'_>,
        parent: &Position,
        name: &[u8],
        bad_slash: bool,
    ) -> Result<(), Errno> {
        match self.child(walk, parent, name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if bad_slash {
            return Err(Errno::NOENT);
        }
        parent.check_writable()
    }

    /// `ENOENT` in a removed directory and in synthetic file systems, where Linux's procfs answers so; `EACCES` without
    /// permission.
    pub(super) fn check_may_create(&self, walk: &Walk<'_>, parent: &Position) -> Result<(), Errno> {
        if parent.inode().is_synthetic() {
            return Err(Errno::NOENT);
        }
        if parent.inode().directory()?.is_dead() {
            return Err(Errno::NOENT);
        }
        parent.inode().permission(walk.credentials, &walk.caller, WRITE_SEARCH)
    }

    /// Makes the inode and its name. The namespace lock is held and everything is checked.
    pub(super) fn make_locked(
        &self,
        walk: &Walk<'_>,
        parent: &Position,
        name: &Arc<[u8]>,
        fresh: &Fresh<'_>,
    ) -> Result<Position, Errno> {
        debug_assert!(is_name(name));
        let inode = self.fresh_inode(walk.credentials, parent, fresh)?;
        if !inode.is_directory() {
            lock(&inode.attributes).links = 1;
        }
        let dentry = Dentry::new(None, Arc::clone(name), Arc::new(inode));
        let directory = parent.inode().directory()?;
        directory.insert(&parent.dentry, name, &dentry);
        touch_directory(parent);
        Ok(parent.in_mount(dentry))
    }

    /// An inode of the caller's, without a name yet.
    pub(super) fn fresh_inode(
        &self,
        credentials: &Credentials,
        parent: &Position,
        fresh: &Fresh<'_>,
    ) -> Result<Inode, Errno> {
        let shared = parent.shared();
        let budget = Arc::clone(parent.inode().directory()?.budget());
        let (parent_mode, parent_gid) = {
            let attributes = lock(&parent.inode().attributes);
            (attributes.mode, attributes.gid)
        };
        let mut mode = fresh.mode();
        let mut gid = credentials.gid;
        if parent_mode & S_ISGID != 0 {
            gid = parent_gid;
            let group_executable = mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
            if matches!(fresh, Fresh::Directory { .. }) {
                mode |= S_ISGID;
            } else if group_executable
                && !credentials.is_member(gid)
                && !credentials.holds(Capabilities::FSETID)
            {
                mode &= !S_ISGID;
            }
        }
        let body = match fresh {
            Fresh::File { .. } => Body::File(FileBody::empty(Arc::clone(shared), budget)),
            Fresh::Directory { .. } => Body::Directory(DirectoryBody::empty(budget)),
            Fresh::Symlink { target } => Body::Symlink(target.to_vec()),
            Fresh::Device { character, major, minor, .. } => {
                Body::Device { character: *character, major: *major, minor: *minor }
            }
            Fresh::Fifo { .. } => Body::Fifo,
            Fresh::Socket { .. } => Body::Socket,
        };
        let attributes = Attributes::new(mode, credentials.uid, gid, shared.now());
        Inode::new(shared.inode_numbers(1), parent.inode().device, body, attributes).counted(shared)
    }

    /// Gives the file at `old_path` another name.
    ///
    /// After the walks' errors: `EEXIST`, `ENOENT` for a slash at the end of the new name, `EROFS`, `EXDEV`, `EACCES`,
    /// `EPERM` for a directory, `ENOENT` for a file without names that `O_TMPFILE` did not make.
    pub fn link(
        &self,
        walk: &Walk<'_>,
        old_base: &Position,
        old_path: &[u8],
        follow: Follow,
        new_base: &Position,
        new_path: &[u8],
    ) -> Result<(), Errno> {
        let source = self.resolve(walk, old_base, old_path, follow)?;
        self.link_position(walk, &source, new_base, new_path)
    }

    /// Gives a file that is already found another name (`AT_EMPTY_PATH`, `O_TMPFILE`); as [`link`](Self::link).
    pub fn link_position(
        &self,
        walk: &Walk<'_>,
        source: &Position,
        new_base: &Position,
        new_path: &[u8],
    ) -> Result<(), Errno> {
        let (parent, last) = self.resolve_parent(walk, new_base, new_path)?;
        let Last::Name { name, slash } = last else { return Err(Errno::EXIST) };
        let _names = parent.shared().lock_names();
        self.check_new(walk, &parent, &name, slash)?;
        if source.mount.id != parent.mount.id {
            return Err(Errno::XDEV);
        }
        self.check_may_create(walk, &parent)?;
        let inode = source.inode();
        if inode.is_directory() || inode.is_synthetic() {
            return Err(Errno::PERM);
        }
        {
            let mut attributes = lock(&inode.attributes);
            if attributes.links == 0 && !attributes.linkable {
                return Err(Errno::NOENT);
            }
            attributes.links += 1;
            attributes.linkable = false;
            attributes.ctime = parent.shared().now();
        }
        let dentry = Dentry::new(None, Arc::clone(&name), Arc::clone(inode));
        parent.inode().directory()?.insert(&parent.dentry, &name, &dentry);
        touch_directory(&parent);
        Ok(())
    }

    /// Removes a name that is no directory's.
    ///
    /// After the walk's errors: `EISDIR` for `.`, `..` and the root; `EROFS`; `ENOENT`; with a slash at the end `EISDIR` or
    /// `ENOTDIR`; `EACCES`; `EPERM` by the sticky bit; `EISDIR`; `EBUSY` for a mount point.
    pub fn unlink(&self, walk: &Walk<'_>, base: &Position, path: &[u8]) -> Result<(), Errno> {
        let (parent, last) = self.resolve_parent(walk, base, path)?;
        let Last::Name { name, slash } = last else { return Err(Errno::ISDIR) };
        parent.check_writable()?;
        let _names = parent.shared().lock_names();
        let victim = self.child(walk, &parent, &name)?;
        if slash {
            return Err(if victim.inode.is_directory() { Errno::ISDIR } else { Errno::NOTDIR });
        }
        self.check_may_delete(walk, &parent, &victim, false)?;
        check_not_mounted(&victim)?;
        parent.inode().directory()?.remove(&name);
        self.lose_name(&parent, &victim);
        touch_directory(&parent);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// After the walk's errors: `EINVAL` for `.`, `ENOTEMPTY` for `..`, `EBUSY` for the root; `EROFS`; `ENOENT`; `EACCES`; `EPERM` by
    /// the sticky bit; `ENOTDIR`; `EBUSY` for a mount point; `ENOTEMPTY`.
    pub fn remove_directory(&self, walk: &Walk<'_>, base: &Position, path: &[u8]) -> Result<(), Errno> {
        let (parent, last) = self.resolve_parent(walk, base, path)?;
        let name = match last {
            Last::Name { name, .. } => name,
            Last::Dot => return Err(Errno::INVAL),
            Last::DotDot => return Err(Errno::NOTEMPTY),
            Last::Root => return Err(Errno::BUSY),
        };
        parent.check_writable()?;
        let _names = parent.shared().lock_names();
        let victim = self.child(walk, &parent, &name)?;
        self.check_may_delete(walk, &parent, &victim, true)?;
        check_not_mounted(&victim)?;
        if !victim.inode.directory()?.is_empty(&victim, parent.shared())? {
            return Err(Errno::NOTEMPTY);
        }
        parent.inode().directory()?.remove(&name);
        self.lose_name(&parent, &victim);
        touch_directory(&parent);
        Ok(())
    }

    /// Moves a name, over another if there is one, or swaps two.
    ///
    /// `EINVAL` for flags that do not go together; after the walks' errors: `EXDEV`; `EBUSY` for `.`, `..` and the root (`EEXIST` for the
    /// new one with `NOREPLACE`); `EROFS`; `ENOENT`; `EEXIST`; `ENOTDIR` for a slash after what is no directory; `EINVAL` into the own
    /// subtree; `ENOTEMPTY` over an ancestor; nothing to do for two names of one file; `EACCES` and `EPERM` by both directories
    /// and, for a directory that gets another parent, by itself; `ENOTDIR` and `EISDIR` for unlike kinds; `EBUSY` for mount
    /// points; `ENOTEMPTY`.
    pub fn rename(
        &self,
        walk: &Walk<'_>,
        old_base: &Position,
        old_path: &[u8],
        new_base: &Position,
        new_path: &[u8],
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let no_replace = flags.contains(RenameFlags::NOREPLACE);
        if exchange && no_replace
            || !RenameFlags::all().contains(flags)
            || flags.contains(RenameFlags::WHITEOUT)
        {
            return Err(Errno::INVAL);
        }
        let (old_parent, old_last) = self.resolve_parent(walk, old_base, old_path)?;
        let (new_parent, new_last) = self.resolve_parent(walk, new_base, new_path)?;
        if old_parent.mount.id != new_parent.mount.id {
            return Err(Errno::XDEV);
        }
        let Last::Name { name: old_name, slash: old_slash } = old_last else { return Err(Errno::BUSY) };
        let Last::Name { name: new_name, slash: new_slash } = new_last else {
            return Err(if no_replace { Errno::EXIST } else { Errno::BUSY });
        };
        old_parent.check_writable()?;
        let _names = old_parent.shared().lock_names();
        let old = self.child(walk, &old_parent, &old_name)?;
        let new = match self.child(walk, &new_parent, &new_name) {
            Ok(_) if no_replace => return Err(Errno::EXIST),
            Ok(new) => Some(new),
            Err(Errno::NOENT) if !exchange => None,
            Err(errno) => return Err(errno),
        };
        let old_is_directory = old.inode.is_directory();
        let new_is_directory = new.as_ref().is_some_and(|new| new.inode.is_directory());
        if exchange && new_slash && !new_is_directory {
            return Err(Errno::NOTDIR);
        }
        if !old_is_directory && (old_slash || (new_slash && !exchange)) {
            return Err(Errno::NOTDIR);
        }
        if old_is_directory && old.is_ancestor_of(&new_parent.dentry) {
            return Err(Errno::INVAL);
        }
        if let Some(new) = &new
            && new_is_directory
            && new.is_ancestor_of(&old_parent.dentry)
        {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if new.as_ref().is_some_and(|new| Arc::ptr_eq(&new.inode, &old.inode)) {
            return Ok(());
        }
        self.check_may_delete(walk, &old_parent, &old, old_is_directory)?;
        match &new {
            None => self.check_may_create(walk, &new_parent)?,
            Some(new) => {
                let as_directory = if exchange { new_is_directory } else { old_is_directory };
                self.check_may_delete(walk, &new_parent, new, as_directory)?;
            }
        }
        let other_parent = !Arc::ptr_eq(&old_parent.dentry, &new_parent.dentry);
        if other_parent {
            let moved = [Some(&old), new.as_ref().filter(|_| exchange)];
            for moved in moved.into_iter().flatten().filter(|moved| moved.inode.is_directory()) {
                moved.inode.permission(walk.credentials, &walk.caller, AccessMode::WRITE)?;
            }
        }
        check_not_mounted(&old)?;
        new.as_ref().map_or(Ok(()), check_not_mounted)?;
        let (from, to) = (old_parent.inode().directory()?, new_parent.inode().directory()?);
        if let Some(new) = &new
            && !exchange
            && new_is_directory
            && !new.inode.directory()?.is_empty(new, old_parent.shared())?
        {
            return Err(Errno::NOTEMPTY);
        }
        // The new name comes first: a walk on another thread finds the file at both places for a moment, never at none.
        match &new {
            Some(new) if exchange => {
                to.replace(&new_parent.dentry, &new_name, &old);
                from.replace(&old_parent.dentry, &old_name, new);
                lock(&new.inode.attributes).ctime = old_parent.shared().now();
            }
            Some(new) => {
                to.replace(&new_parent.dentry, &new_name, &old);
                from.remove(&old_name);
                self.lose_name(&new_parent, new);
            }
            None => {
                to.insert(&new_parent.dentry, &new_name, &old);
                from.remove(&old_name);
            }
        }
        lock(&old.inode.attributes).ctime = old_parent.shared().now();
        touch_directory(&old_parent);
        if other_parent {
            touch_directory(&new_parent);
        }
        Ok(())
    }

    /// Linux's `may_delete`: `EACCES` by the directory, `EPERM` by its sticky bit, then `ENOTDIR` or `EISDIR`.
    fn check_may_delete(
        &self,
        walk: &Walk<'_>,
        parent: &Position,
        victim: &Arc<Dentry>,
        is_directory: bool,
    ) -> Result<(), Errno> {
        let credentials = walk.credentials;
        parent.inode().permission(credentials, &walk.caller, WRITE_SEARCH)?;
        if parent.inode().is_synthetic() {
            return Err(Errno::PERM);
        }
        let (mode, owner) = {
            let attributes = lock(&parent.inode().attributes);
            (attributes.mode, attributes.uid)
        };
        if mode & S_ISVTX != 0
            && owner != credentials.uid
            && !credentials.holds(Capabilities::FOWNER)
            && lock(&victim.inode.attributes).uid != credentials.uid
        {
            return Err(Errno::PERM);
        }
        match (is_directory, victim.inode.is_directory()) {
            (true, false) => Err(Errno::NOTDIR),
            (false, true) => Err(Errno::ISDIR),
            _ => Ok(()),
        }
    }

    /// What losing a name does to an inode.
    fn lose_name(&self, parent: &Position, victim: &Arc<Dentry>) {
        victim.mark_removed();
        if let Body::Directory(directory) = &victim.inode.body {
            directory.kill();
        }
        let mut attributes = lock(&victim.inode.attributes);
        attributes.links = attributes.links.saturating_sub(1);
        attributes.ctime = parent.shared().now();
    }
}

/// `EBUSY` when something is mounted there.
fn check_not_mounted(dentry: &Arc<Dentry>) -> Result<(), Errno> {
    if dentry.mounted.load(std::sync::atomic::Ordering::Acquire) > 0 { Err(Errno::BUSY) } else { Ok(()) }
}

/// A directory's names changed.
pub(super) fn touch_directory(directory: &Position) {
    let now = directory.shared().now();
    let mut attributes = lock(&directory.inode().attributes);
    attributes.mtime = now;
    attributes.ctime = now;
}
