//! Changing attributes.

use std::sync::MutexGuard;

use rustix::io::Errno;

use super::inode::{Attributes, Body, S_ISGID, S_ISUID, S_IXGRP};
use super::sync::lock;
use super::{AccessMode, Position, TimeChange};
use crate::credentials::{Capabilities, Credentials, Walk};
use crate::tree::FileKind;

impl Position {
    /// `EROFS` in a read-only mount, `EPERM` for what is made up.
    pub(super) fn attributes_to_change(&self) -> Result<MutexGuard<'_, Attributes>, Errno> {
        self.check_writable()?;
        if self.inode().is_synthetic() {
            return Err(Errno::PERM);
        }
        Ok(lock(&self.inode().attributes))
    }

    /// Changes the permission bits. `EROFS`; `EOPNOTSUPP` for a symbolic link; `EPERM` for all but the owner.
    ///
    /// Without membership in the file's group (and without `CAP_FSETID`) the setgid bit is not set.
    pub fn set_mode(&self, walk: &Walk<'_>, mode: u16) -> Result<(), Errno> {
        let mut attributes = self.attributes_to_change()?;
        if self.kind() == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let credentials = walk.credentials;
        if !attributes.owned_by(credentials) {
            return Err(Errno::PERM);
        }
        attributes.mode = mode & 0o7777;
        if !credentials.is_member(attributes.gid) && !credentials.holds(Capabilities::FSETID) {
            attributes.mode &= !S_ISGID;
        }
        attributes.ctime = self.shared().now();
        Ok(())
    }

    /// Changes owner and group; `None` leaves one as it is. `EROFS`; `EPERM` unless the caller has `CAP_CHOWN`, or owns the file, keeps
    /// the owner and is a member of the new group.
    ///
    /// Of anything but a directory the setuid bit goes, an executable's setgid bit and file capabilities too, for root
    /// as well.
    pub fn set_owner(&self, walk: &Walk<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let mut attributes = self.attributes_to_change()?;
        let credentials = walk.credentials;
        let own = attributes.uid == credentials.uid;
        let may_chown = credentials.holds(Capabilities::CHOWN);
        let may_give = |uid: u32| may_chown || (own && uid == attributes.uid);
        let may_regroup =
            |gid: u32| may_chown || (own && (credentials.is_member(gid) || gid == attributes.gid));
        if !uid.is_none_or(may_give) || !gid.is_none_or(may_regroup) {
            return Err(Errno::PERM);
        }
        if !self.inode().is_directory() {
            let mut mode = attributes.mode & !S_ISUID;
            let stranger = !credentials.is_member(attributes.gid) && !credentials.holds(Capabilities::FSETID);
            if mode & S_IXGRP != 0 || stranger {
                mode &= !S_ISGID;
            }
            if mode != attributes.mode && !attributes.owned_by(credentials) {
                return Err(Errno::PERM);
            }
            attributes.mode = mode;
            attributes.xattrs.remove(&b"security.capability"[..]);
        }
        attributes.uid = uid.unwrap_or(attributes.uid);
        attributes.gid = gid.unwrap_or(attributes.gid);
        attributes.ctime = self.shared().now();
        Ok(())
    }

    /// Changes access and modification time. Leaving both does nothing at all; else `EROFS`; now for both needs ownership or
    /// write permission (`EACCES`), anything else ownership (`EPERM`).
    pub fn set_times(&self, walk: &Walk<'_>, atime: TimeChange, mtime: TimeChange) -> Result<(), Errno> {
        if (atime, mtime) == (TimeChange::Omit, TimeChange::Omit) {
            return Ok(());
        }
        let owned = self.attributes_to_change()?.owned_by(walk.credentials);
        if !owned {
            if (atime, mtime) != (TimeChange::Now, TimeChange::Now) {
                return Err(Errno::PERM);
            }
            self.inode().permission(walk.credentials, &walk.caller, AccessMode::WRITE)?;
        }
        let now = self.shared().now();
        let mut attributes = self.attributes_to_change()?;
        let changed = |change, old| match change {
            TimeChange::Omit => old,
            TimeChange::Now => now,
            TimeChange::Set(time) => time,
        };
        attributes.atime = changed(atime, attributes.atime);
        attributes.mtime = changed(mtime, attributes.mtime);
        attributes.ctime = now;
        Ok(())
    }

    /// Sets a file's size by its name. `EISDIR`, `EINVAL` for what is no regular file, `EROFS`, `EACCES`, `ETXTBSY`, `EFBIG`, `ENOSPC`.
    pub fn truncate(&self, walk: &Walk<'_>, length: u64) -> Result<(), Errno> {
        match self.kind() {
            FileKind::Directory => return Err(Errno::ISDIR),
            FileKind::File => {}
            _ => return Err(Errno::INVAL),
        }
        self.check_writable()?;
        self.inode().permission(walk.credentials, &walk.caller, AccessMode::WRITE)?;
        let Body::File(file) = &self.inode().body else { return Err(Errno::INVAL) };
        file.start_writing()?;
        let cut = self.truncate_file(walk.credentials, length, false);
        file.stop_writing();
        cut
    }

    /// Cuts a file that may be written. Times change when the size does, or `always`.
    pub(super) fn truncate_file(
        &self,
        credentials: &Credentials,
        length: u64,
        always: bool,
    ) -> Result<(), Errno> {
        let Body::File(file) = &self.inode().body else { return Err(Errno::INVAL) };
        let changes = always || file.size() != length;
        file.truncate(length)?;
        let now = self.shared().now();
        let mut attributes = lock(&self.inode().attributes);
        if changes {
            attributes.mtime = now;
            attributes.ctime = now;
        }
        attributes.drop_privileges(credentials.holds(Capabilities::FSETID));
        Ok(())
    }
}
