//! One step's writable world: a finished tree below, the step's changes above, mounts.
//!
//! The state is inodes and directory entries in memory, made as they are looked at ([`RootFs`] says how they relate).
//! A [`Position`] is a place, a [`NodeRef`] an inode. Nothing here blocks but on host files.

mod devices;
mod directory;
mod extents;
mod file;
mod finish;
mod handles;
mod inode;
mod metadata;
mod mount;
mod names;
mod open;
mod position;
mod shared;
mod sync;
#[cfg(test)]
mod tests;
mod types;
mod walk;
mod xattrs;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use rustix::io::Errno;

pub use handles::{DirectoryHandle, FileHandle};
pub use inode::{NodeRef, WriteDenial};
pub use mount::{MountId, MountInfo, MountOptions, MountSource};
pub use open::{OpenResult, Opened};
pub use position::Position;
pub use types::*;

use crate::content::ContentStore;
use crate::credentials::{Caller, Credentials, Walk};
use crate::path::{self, LINKS_MAX};
use crate::synthetic::SyntheticFs;
use crate::time::Clock;
use crate::tree::{Entry, FileKind, Metadata, NodeKind, Tree};
use directory::{Dentry, DirectoryBody, inode_of};
use inode::{Attributes, Body, Inode};
use mount::{Filesystem, FilesystemKind, Mount, MountTable};
use names::Fresh;
use shared::{Budget, Shared};
use sync::{lock, read, write};

/// First device number; every file system gets the next one.
const FIRST_DEVICE: u64 = 0x20;

/// One step's writable root file system. Clones are the same file system; all calls may come from several threads.
///
/// Paths are resolved from a base [`Position`], on behalf of a [`Walk`]. Errors are what Linux would answer. When the
/// host fails (the store, a full disk) the guest sees `EIO` or `ENOSPC`, and [`take_host_error`](Self::take_host_error) has the reason.
#[derive(Clone)]
pub struct RootFs {
    inner: Arc<World>,
}

struct World {
    shared: Arc<Shared>,
    budget: Arc<Budget>,
    mounts: RwLock<MountTable>,
    root: Position,
    next_mount: AtomicU64,
    next_device: AtomicU64,
}

impl fmt::Debug for RootFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootFs")
            .field("mounts", &read(&self.inner.mounts).in_order.len())
            .finish_non_exhaustive()
    }
}

impl RootFs {
    /// A world over a finished tree. Nothing is loaded yet.
    pub fn new(
        tree: Tree,
        store: Arc<dyn ContentStore>,
        clock: Arc<dyn Clock>,
        limits: RootFsLimits,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(store, clock, limits));
        let budget = Arc::new(Budget::new(limits.spool_bytes, None));
        let entry = tree.root_entry();
        let inode = inode_of(&entry, shared.inode_numbers(1), FIRST_DEVICE, &shared, &budget);
        let root = Dentry::new(None, Arc::from([]), Arc::new(inode));
        let filesystem = Arc::new(Filesystem {
            device: FIRST_DEVICE,
            root: Arc::clone(&root),
            kind: FilesystemKind::Tree(tree),
            budget: Arc::clone(&budget),
            shared: Arc::clone(&shared),
        });
        let mount = Arc::new(Mount {
            id: MountId(1),
            filesystem,
            root: Arc::clone(&root),
            over: None,
            read_only: false,
            covered: AtomicBool::new(false),
        });
        let mut mounts = MountTable::default();
        mounts.add(Arc::clone(&mount));
        Ok(Self {
            inner: Arc::new(World {
                shared,
                budget,
                mounts: RwLock::new(mounts),
                root: Position { mount, dentry: root },
                next_mount: AtomicU64::new(2),
                next_device: AtomicU64::new(FIRST_DEVICE + 1),
            }),
        })
    }

    /// The root directory.
    pub fn root(&self) -> Position {
        self.covered(self.inner.root.clone())
    }

    /// The first host failure since the last call: why a guest saw `EIO`.
    pub fn take_host_error(&self) -> Option<io::Error> {
        self.inner.shared.take_host_error()
    }

    /// Bytes of file contents that the step holds now.
    pub fn spool_bytes(&self) -> u64 {
        self.inner.budget.used()
    }

    /// Mounts something at a path, which is resolved with root's permissions and links followed.
    ///
    /// What is missing of the path is made, seen by the guest and never recorded as a change, unless the guest puts
    /// something there. `ENOTDIR` or `EISDIR` when a directory would cover something else or the other way round;
    /// `ENOENT` for a source path that does not exist; `EIO` when the store fails.
    pub fn mount(&self, target: &[u8], source: MountSource, options: MountOptions) -> Result<MountId, Errno> {
        let is_directory = self.source_is_directory(&source)?;
        let target = self.mount_point(target, is_directory)?;
        self.mount_at(&target, source, options)
    }

    /// Mounts something at a place that exists. As [`mount`](Self::mount).
    pub fn mount_at(
        &self,
        target: &Position,
        source: MountSource,
        options: MountOptions,
    ) -> Result<MountId, Errno> {
        let (filesystem, root) = match source {
            MountSource::Bind(position) => (Arc::clone(&position.mount.filesystem), position.dentry),
            source => {
                let filesystem = Arc::new(self.filesystem(source)?);
                let root = Arc::clone(&filesystem.root);
                (filesystem, root)
            }
        };
        match (root.inode.is_directory(), target.inode().is_directory()) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            _ => {}
        }
        let id = MountId(self.inner.next_mount.fetch_add(1, Ordering::Relaxed));
        let target = self.covered(target.clone());
        let _names = self.inner.shared.lock_names();
        if target.is_removed() {
            return Err(Errno::NOENT);
        }
        write(&self.inner.mounts).add(Arc::new(Mount {
            id,
            filesystem,
            root,
            over: Some((target.mount, target.dentry)),
            read_only: options.read_only,
            covered: AtomicBool::new(false),
        }));
        Ok(id)
    }

    /// The mount table, in the order of mounting.
    pub fn mounts(&self) -> Vec<MountInfo> {
        let root = &self.inner.root;
        let mounts = read(&self.inner.mounts).in_order.clone();
        let info = |mount: &Arc<Mount>| {
            let top = Position { mount: Arc::clone(mount), dentry: Arc::clone(&mount.root) };
            MountInfo {
                id: mount.id,
                parent: mount.over.as_ref().map(|(parent, _)| parent.id),
                device: mount.filesystem.device,
                target: top.path(root).unwrap_or_else(|| b"/".to_vec()),
                root: path_in_filesystem(&mount.root),
                type_name: mount.filesystem.type_name().to_owned(),
                read_only: mount.read_only,
            }
        };
        mounts.iter().map(info).collect()
    }

    /// The mount over a place, if any.
    fn mounted_on(&self, position: &Position) -> Option<Arc<Mount>> {
        read(&self.inner.mounts).over(&position.mount, &position.dentry)
    }

    /// Ends the step: what it left is stored, and the next tree and the changes are returned.
    ///
    /// For when no guest runs any more. Modification times that the step set are cut to whole seconds. Files that
    /// are still open stay readable.
    pub fn finish(&self) -> io::Result<StepChanges> {
        finish::finish(&self.inner.root.mount.filesystem)
    }

    /// The same for one mount of a tree's directory or a tmpfs: what a cache mount keeps. `NotFound` for a number that is no
    /// mount, `Unsupported` for other mounts.
    pub fn finish_mount(&self, mount: MountId) -> io::Result<StepChanges> {
        let mounts = read(&self.inner.mounts);
        let found = mounts.in_order.iter().find(|known| known.id == mount).cloned();
        drop(mounts);
        finish::finish(&found.ok_or(io::ErrorKind::NotFound)?.filesystem)
    }

    fn source_is_directory(&self, source: &MountSource) -> Result<bool, Errno> {
        Ok(match source {
            MountSource::Tree { tree, subpath } => self.tree_entry(tree, subpath)?.kind.is_directory(),
            MountSource::Bind(position) => position.inode().is_directory(),
            MountSource::File { .. } => false,
            MountSource::Tmpfs { .. } | MountSource::Synthetic(_) | MountSource::Devices => true,
        })
    }

    fn tree_entry(&self, tree: &Tree, subpath: &[u8]) -> Result<Entry, Errno> {
        let shared = &self.inner.shared;
        let found = tree.lookup_following(&*shared.store, subpath).map_err(|error| shared.host(error))?;
        found.map(|(_, entry)| entry).ok_or(Errno::NOENT)
    }

    /// Makes the file system that a source stands for.
    fn filesystem(&self, source: MountSource) -> Result<Filesystem, Errno> {
        let shared = &self.inner.shared;
        let device = self.inner.next_device.fetch_add(1, Ordering::Relaxed);
        let mut budget = Arc::clone(&self.inner.budget);
        let number = shared.inode_numbers(1);
        let now = shared.now();
        let of_entry = |entry: &Entry, budget: &Arc<Budget>| inode_of(entry, number, device, shared, budget);
        let empty_directory = |mode, uid, gid, budget: &Arc<Budget>| {
            let body = Body::Directory(DirectoryBody::empty(Arc::clone(budget)));
            Inode::new(number, device, body, Attributes::new(mode, uid, gid, now))
        };
        let mut fill_devices = false;
        let (inode, kind) = match source {
            MountSource::Tree { tree, subpath } => {
                let entry = self.tree_entry(&tree, &subpath)?;
                let kind = Tree::from_entry(&entry).map_or(FilesystemKind::File, FilesystemKind::Tree);
                (of_entry(&entry, &budget), kind)
            }
            MountSource::Tmpfs { size, mode, uid, gid } => {
                if let Some(size) = size {
                    budget = Arc::new(Budget::new(size, Some(budget)));
                }
                (empty_directory(mode & 0o7777, uid, gid, &budget), FilesystemKind::Tmpfs)
            }
            MountSource::Devices => {
                fill_devices = true;
                (empty_directory(0o755, 0, 0, &budget), FilesystemKind::Tmpfs)
            }
            MountSource::File { contents, mode, uid, gid } => {
                let metadata = Metadata { uid, gid, mtime: now, ..Metadata::root_owned(mode & 0o7777) };
                let kind = NodeKind::File { content: crate::content::ContentId::EMPTY, size: 0 };
                let inode = of_entry(&Entry { name: Vec::new(), metadata, kind }, &budget);
                if let Body::File(file) = &inode.body {
                    file.write_at(0, &contents)?;
                }
                (inode, FilesystemKind::File)
            }
            MountSource::Synthetic(fs) => (self.synthetic_root(&fs, device)?, FilesystemKind::Synthetic(fs)),
            MountSource::Bind(_) => return Err(Errno::INVAL),
        };
        let root = Dentry::new(None, Arc::from([]), Arc::new(inode));
        let filesystem = Filesystem { device, root, kind, budget, shared: Arc::clone(shared) };
        if fill_devices {
            self.fill_devices(&filesystem)?;
        }
        Ok(filesystem)
    }

    fn synthetic_root(&self, fs: &Arc<dyn SyntheticFs>, device: u64) -> Result<Inode, Errno> {
        let id = fs.root();
        let stat = fs.stat(id, &Caller::default())?;
        let body = Body::Synthetic { fs: Arc::clone(fs), id, kind: FileKind::Directory };
        Ok(Inode::new(stat.inode, device, body, Attributes::new(0, 0, 0, self.inner.shared.now())))
    }

    fn fill_devices(&self, filesystem: &Filesystem) -> Result<(), Errno> {
        let root = &filesystem.root;
        let directory = root.inode.directory()?;
        let place = self.inner.root.in_mount(Arc::clone(root));
        for (name, fresh) in devices::entries() {
            let inode = self.fresh_inode(&Credentials::root(), &place, &fresh)?;
            if let Fresh::Directory { mode } = fresh {
                lock(&inode.attributes).mode = mode;
            } else {
                lock(&inode.attributes).links = 1;
            }
            let name = Arc::from(name);
            directory.insert(root, &name, &Dentry::new(None, Arc::clone(&name), Arc::new(inode)));
        }
        Ok(())
    }

    /// Finds a mount point, and makes what is missing of it.
    fn mount_point(&self, target: &[u8], is_directory: bool) -> Result<Position, Errno> {
        let root = self.root();
        let credentials = Credentials::root();
        let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
        let mut pending: Vec<Vec<u8>> = path::components(target).rev().map(<[u8]>::to_vec).collect();
        let mut current = root.clone();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    if !current.is_same(&root) {
                        current = self.covered(current.parent());
                    }
                    continue;
                }
                _ => {}
            }
            let child = match self.child(&walk, &current, &name) {
                Ok(child) => self.covered(current.in_mount(child)),
                Err(Errno::NOENT) => {
                    self.placeholder(&current, &name, is_directory || !pending.is_empty())?
                }
                Err(errno) => return Err(errno),
            };
            if child.kind() != FileKind::Symlink {
                current = child;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            let target = self.read_link(&walk, &child, b"")?;
            if path::is_absolute(&target) {
                current = root.clone();
            }
            pending.extend(path::components(&target).rev().map(<[u8]>::to_vec));
        }
        Ok(current)
    }

    /// Makes a name to mount on, without a trace in the directory's times.
    fn placeholder(&self, parent: &Position, name: &[u8], is_directory: bool) -> Result<Position, Errno> {
        let directory = parent.inode().directory()?;
        let fresh = if is_directory { Fresh::Directory { mode: 0o755 } } else { Fresh::File { mode: 0o644 } };
        let inode = self.fresh_inode(&Credentials::root(), parent, &fresh)?;
        if !is_directory {
            lock(&inode.attributes).links = 1;
        }
        let _names = self.inner.shared.lock_names();
        // A guest may have made the name since it was found missing.
        if let Ok(made) = directory.lookup(&parent.dentry, name, &self.inner.shared) {
            return Ok(self.covered(parent.in_mount(made)));
        }
        let name: Arc<[u8]> = name.into();
        let dentry = Dentry::placeholder(Arc::clone(&parent.dentry), Arc::clone(&name), Arc::new(inode));
        directory.insert(&parent.dentry, &name, &dentry);
        Ok(parent.in_mount(dentry))
    }
}

/// The path of an entry inside its own file system.
fn path_in_filesystem(dentry: &Arc<Dentry>) -> Vec<u8> {
    let mut names = Vec::new();
    let mut current = Arc::clone(dentry);
    while let Some(parent) = current.parent() {
        names.push(current.name());
        current = parent;
    }
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}
