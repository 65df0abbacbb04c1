//! Extended attributes.
//!
//! | name | on | get | set and remove |
//! |---|---|---|---|
//! | `user.*` | files and directories, else `EPERM` (`ENODATA` to get) | read permission | write permission; ownership in sticky directories |
//! | `trusted.*` | all | `CAP_SYS_ADMIN`, else `ENODATA` | `CAP_SYS_ADMIN`, else `EPERM` |
//! | `security.capability` | all | everybody | `CAP_SETFCAP`, else `EPERM` |
//! | other `security.*` | all | everybody | `CAP_SYS_ADMIN`, else `EPERM` |
//! | `system.*`, others | | `EOPNOTSUPP` | `EOPNOTSUPP` |
//!
//! There are no POSIX access control lists: that is what `EOPNOTSUPP` for `system.posix_acl_access` says. Such attributes in
//! a tree below are kept.

use rustix::io::Errno;

use super::inode::{Attributes, S_ISVTX};
use super::sync::lock;
use super::{AccessMode, Position, XattrCondition};
use crate::credentials::{Capabilities, Walk};
use crate::tree::FileKind;
use crate::tree::codec::{XATTR_NAME_MAX, XATTR_SIZE_MAX};

/// Bytes of names and values that one inode may carry.
const XATTR_TOTAL_MAX: usize = 1 << 20;
/// Bytes of names with their NULs: the longest list that `listxattr` gives.
const XATTR_LIST_MAX: usize = 65_536;

impl Position {
    /// The value of an attribute. `ERANGE` for a bad name, `EOPNOTSUPP`, `EACCES`, `ENODATA`. (`ERANGE` for a short buffer is the caller's.)
    pub fn get_xattr(&self, walk: &Walk<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
        check_name(name)?;
        self.check_namespace(walk, name, false)?;
        let attributes = lock(&self.inode().attributes);
        attributes.xattrs.get(name).cloned().ok_or(Errno::NODATA)
    }

    /// Sets an attribute. `ERANGE` for a bad name, `E2BIG` for a value over 64 KiB, `EROFS`, `EPERM`, `EACCES`, `EOPNOTSUPP`, `EEXIST`, `ENODATA`, `ENOSPC`
    /// when the inode carries too much.
    pub fn set_xattr(
        &self,
        walk: &Walk<'_>,
        name: &[u8],
        value: &[u8],
        condition: XattrCondition,
    ) -> Result<(), Errno> {
        check_name(name)?;
        if value.len() > XATTR_SIZE_MAX {
            return Err(Errno::TOOBIG);
        }
        drop(self.attributes_to_change()?);
        self.check_namespace(walk, name, true)?;
        let mut attributes = self.attributes_to_change()?;
        match (condition, attributes.xattrs.contains_key(name)) {
            (XattrCondition::Create, true) => return Err(Errno::EXIST),
            (XattrCondition::Replace, false) => return Err(Errno::NODATA),
            _ => {}
        }
        let others = attributes.xattrs.iter().filter(|(other, _)| *other != name);
        let (names, total) = others
            .fold((name.len() + 1, name.len() + value.len()), |(names, total), (name, value)| {
                (names + name.len() + 1, total + name.len() + value.len())
            });
        if names > XATTR_LIST_MAX || total > XATTR_TOTAL_MAX {
            return Err(Errno::NOSPC);
        }
        attributes.xattrs.insert(name.to_vec(), value.to_vec());
        attributes.ctime = self.shared().now();
        Ok(())
    }

    /// Removes an attribute. As [`set_xattr`](Self::set_xattr); `ENODATA` when it is missing.
    pub fn remove_xattr(&self, walk: &Walk<'_>, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        drop(self.attributes_to_change()?);
        self.check_namespace(walk, name, true)?;
        let mut attributes = self.attributes_to_change()?;
        attributes.xattrs.remove(name).ok_or(Errno::NODATA)?;
        attributes.ctime = self.shared().now();
        Ok(())
    }

    /// The names of all attributes that the caller may see, sorted.
    pub fn list_xattr(&self, walk: &Walk<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        let trusted = walk.credentials.holds(Capabilities::SYS_ADMIN);
        let attributes = lock(&self.inode().attributes);
        let names = attributes.xattrs.keys();
        Ok(names.filter(|name| trusted || !name.starts_with(b"trusted.")).cloned().collect())
    }

    fn check_namespace(&self, walk: &Walk<'_>, name: &[u8], write: bool) -> Result<(), Errno> {
        let credentials = walk.credentials;
        let unless = |held: bool| match (held, write) {
            (true, _) => Ok(()),
            (false, true) => Err(Errno::PERM),
            (false, false) => Err(Errno::NODATA),
        };
        if let Some(name) = name.strip_prefix(b"security.") {
            let needed = if name == b"capability" { Capabilities::SETFCAP } else { Capabilities::SYS_ADMIN };
            if write && !credentials.holds(needed) {
                return Err(Errno::PERM);
            }
            return if name.is_empty() { Err(Errno::INVAL) } else { Ok(()) };
        }
        if let Some(name) = name.strip_prefix(b"trusted.") {
            unless(credentials.holds(Capabilities::SYS_ADMIN))?;
            return if name.is_empty() { Err(Errno::INVAL) } else { Ok(()) };
        }
        let user = name.strip_prefix(b"user.");
        if user.is_some() {
            unless(matches!(self.kind(), FileKind::File | FileKind::Directory))?;
            let sticky =
                |attributes: &Attributes| attributes.mode & S_ISVTX != 0 && !attributes.owned_by(credentials);
            if write && self.inode().is_directory() && sticky(&lock(&self.inode().attributes)) {
                return Err(Errno::PERM);
            }
        }
        let want = if write { AccessMode::WRITE } else { AccessMode::READ };
        if user.is_some() || !name.starts_with(b"system.") {
            self.inode().permission(credentials, &walk.caller, want)?;
        }
        match user {
            None => Err(Errno::OPNOTSUPP),
            Some(b"") => Err(Errno::INVAL),
            Some(_) => Ok(()),
        }
    }
}

fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX { Err(Errno::RANGE) } else { Ok(()) }
}
