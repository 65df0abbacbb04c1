//! Places: a mount and a directory entry in it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::directory::Dentry;
use super::inode::{Body, Inode, NodeRef};
use super::mount::Mount;
use super::shared::Shared;
use super::{AccessMode, Stat, StatFs};
use crate::credentials::Walk;
use crate::tree::FileKind;

/// A name in the mounted tree: a mount and a directory entry in it.
///
/// Stays valid when the name is renamed or removed. Cloning is cheap.
#[derive(Clone)]
pub struct Position {
    pub(super) mount: Arc<Mount>,
    pub(super) dentry: Arc<Dentry>,
}

impl Position {
    pub(super) fn inode(&self) -> &Arc<Inode> {
        &self.dentry.inode
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.mount.filesystem.shared
    }

    pub(super) fn in_mount(&self, dentry: Arc<Dentry>) -> Self {
        Self { mount: Arc::clone(&self.mount), dentry }
    }

    /// `EROFS` in a mount without writing.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        if self.mount.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    pub(super) fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
    }

    /// The inode that the name stands for.
    pub fn node(&self) -> NodeRef {
        NodeRef(Arc::clone(&self.dentry.inode))
    }

    /// The kind of file.
    pub fn kind(&self) -> FileKind {
        self.dentry.inode.kind()
    }

    /// Tells whether this is the same name in the same mount.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_entry = match (&self.inode().body, &other.inode().body) {
            (Body::Synthetic { .. }, Body::Synthetic { .. }) => self.node() == other.node(),
            _ => Arc::ptr_eq(&self.dentry, &other.dentry),
        };
        same_entry && self.mount.id == other.mount.id
    }

    /// The attributes. Fails only for synthetic files and when the store does.
    pub fn stat(&self, walk: &Walk<'_>) -> Result<Stat, Errno> {
        let stat = self.inode().stat(self.shared(), &walk.caller)?;
        Ok(Stat { mount_id: self.mount.id.0, ..stat })
    }

    /// Figures of the file system.
    pub fn statfs(&self) -> Result<StatFs, Errno> {
        let filesystem = &self.mount.filesystem;
        let shared = self.shared();
        let (blocks, used) = (filesystem.budget.limit() / 4096, filesystem.budget.used().div_ceil(4096));
        let free = blocks.saturating_sub(used);
        let files = shared.limits.inodes;
        let synthetic = self.inode().is_synthetic();
        let figure = |value: u64| if synthetic { 0 } else { value };
        Ok(StatFs {
            magic: filesystem.magic(),
            block_size: 4096,
            blocks: figure(blocks),
            free: figure(free),
            available: figure(free),
            files: figure(files),
            free_files: figure(files.saturating_sub(shared.inodes.load(Ordering::Relaxed))),
            id: filesystem.device,
            name_length: crate::path::NAME_MAX as u64,
            flags: u64::from(self.mount.read_only),
        })
    }

    /// Asks for permission as the credentials have it. `EROFS` for writing where nothing can be written, `EACCES`
    /// otherwise.
    pub fn access(&self, walk: &Walk<'_>, mode: AccessMode) -> Result<(), Errno> {
        self.inode().permission(walk.credentials, &walk.caller, mode)?;
        let special = matches!(
            self.kind(),
            FileKind::CharacterDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket
        );
        if mode.contains(AccessMode::WRITE) && !special {
            self.check_writable()?;
        }
        Ok(())
    }

    /// The directory that holds the name, across mounts; the root's is itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        let mut current = self.clone();
        while current.is_mount_root() {
            match &current.mount.over {
                Some((mount, dentry)) => {
                    current = Self { mount: Arc::clone(mount), dentry: Arc::clone(dentry) };
                }
                None => return current,
            }
        }
        match current.dentry.parent() {
            Some(parent) => current.in_mount(parent),
            None => current,
        }
    }

    /// The last name of the path, empty at the root.
    pub fn name(&self) -> Vec<u8> {
        let mut current = self.clone();
        while current.is_mount_root()
            && let Some((mount, dentry)) = &current.mount.over
        {
            current = Self { mount: Arc::clone(mount), dentry: Arc::clone(dentry) };
        }
        if current.is_mount_root() { Vec::new() } else { current.dentry.name().to_vec() }
    }

    /// The absolute path as seen from `root`; ends in ` (deleted)` when the name was removed. `None` when it is not
    /// below `root`. What a magic link without a place led to has its display text instead.
    pub fn path(&self, root: &Self) -> Option<Vec<u8>> {
        if let Body::Object { display, .. } = &self.inode().body {
            return Some(display.clone());
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut current = self.clone();
        while !current.is_same(root) {
            let parent = current.parent();
            if parent.is_same(&current) {
                return None;
            }
            names.push(current.name());
            current = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if self.is_removed() {
            path.extend_from_slice(b" (deleted)");
        }
        Some(path)
    }

    /// Tells whether the name was removed.
    pub fn is_removed(&self) -> bool {
        self.dentry.is_removed()
    }

    /// Tells whether the mount is read-only.
    pub fn is_read_only(&self) -> bool {
        self.mount.read_only
    }

    /// The object of a magic link that has no place (see [`Link::Object`](crate::synthetic::Link::Object)).
    pub fn object(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        match &self.inode().body {
            Body::Object { object, .. } => Some(Arc::clone(object)),
            _ => None,
        }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position(mount {}, \"{}\")", self.mount.id.0, self.name().escape_ascii())
    }
}
