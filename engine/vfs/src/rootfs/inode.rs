//! Inodes: what names stand for.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::directory::DirectoryBody;
use super::file::FileBody;
use super::shared::Shared;
use super::sync::lock;
use super::{AccessMode, Stat, device_number};
use crate::credentials::{Caller, Capabilities, Credentials};
use crate::synthetic::{SyntheticFs, SyntheticId};
use crate::time::Timestamp;
use crate::tree::{FileKind, Metadata, NodeKind};

pub(super) const S_ISUID: u16 = 0o4000;
pub(super) const S_ISGID: u16 = 0o2000;
pub(super) const S_ISVTX: u16 = 0o1000;
pub(super) const S_IXGRP: u16 = 0o010;

/// One file of any kind. Its number is unique in the step's whole world.
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) device: u64,
    pub(super) body: Body,
    pub(super) attributes: Mutex<Attributes>,
    attachments: Mutex<Option<Attachments>>,
    /// Set for inodes that the step made: they count against the bound.
    counted: Option<Arc<Shared>>,
}

type Attachments = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

pub(super) enum Body {
    File(FileBody),
    Directory(DirectoryBody),
    Symlink(Vec<u8>),
    Device { character: bool, major: u32, minor: u32 },
    Fifo,
    Socket,
    Synthetic { fs: Arc<dyn SyntheticFs>, id: SyntheticId, kind: FileKind },
    Object { object: Arc<dyn Any + Send + Sync>, display: Vec<u8>, stat: Box<Stat> },
}

/// What changes about an inode besides its contents.
#[derive(Clone, Debug)]
pub(super) struct Attributes {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Number of names; directories count theirs from what is in them.
    pub(super) links: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) btime: Timestamp,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The modification time that the tree below records, fraction and all.
    pub(super) base_mtime: Option<Timestamp>,
    /// Made by `O_TMPFILE`, so it may get a first name.
    pub(super) linkable: bool,
}

impl Attributes {
    pub(super) const fn new(mode: u16, uid: u32, gid: u32, now: Timestamp) -> Self {
        Self {
            mode,
            uid,
            gid,
            links: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: BTreeMap::new(),
            base_mtime: None,
            linkable: false,
        }
    }

    pub(super) fn of_base(metadata: &Metadata) -> Self {
        let mut attributes = Self::new(metadata.mode, metadata.uid, metadata.gid, metadata.mtime);
        attributes.links = 1;
        attributes.xattrs.clone_from(&metadata.xattrs);
        attributes.base_mtime = Some(metadata.mtime);
        attributes
    }

    /// What a tree records: whole seconds, unless the time is still the one from below.
    pub(super) fn metadata(&self) -> Metadata {
        let mtime = if self.base_mtime == Some(self.mtime) { self.mtime } else { self.mtime.whole_seconds() };
        Metadata { mode: self.mode, uid: self.uid, gid: self.gid, mtime, xattrs: self.xattrs.clone() }
    }

    /// Tells whether the credentials may act as the owner.
    pub(super) const fn owned_by(&self, credentials: &Credentials) -> bool {
        self.uid == credentials.uid || credentials.holds(Capabilities::FOWNER)
    }

    /// What a change of contents does to privileges: setuid, an executable's setgid and file capabilities go.
    pub(super) fn drop_privileges(&mut self, keeps_bits: bool) {
        if !keeps_bits {
            self.mode &= !S_ISUID;
            if self.mode & S_IXGRP != 0 {
                self.mode &= !S_ISGID;
            }
        }
        if !self.xattrs.is_empty() {
            self.xattrs.remove(&b"security.capability"[..]);
        }
    }
}

/// Linux's permission check. `EACCES` when a wanted bit is neither granted nor covered by a capability.
pub(super) fn permitted(
    mode: u16,
    uid: u32,
    gid: u32,
    is_directory: bool,
    credentials: &Credentials,
    want: AccessMode,
) -> Result<(), Errno> {
    let granted = if uid == credentials.uid {
        mode >> 6
    } else if credentials.is_member(gid) {
        mode >> 3
    } else {
        mode
    };
    let want_bits = want.bits() as u16 & 7;
    if want_bits & !granted == 0 {
        return Ok(());
    }
    let overrides = credentials.holds(Capabilities::DAC_OVERRIDE);
    let reads = credentials.holds(Capabilities::DAC_READ_SEARCH);
    let covered = if is_directory {
        overrides || (reads && !want.contains(AccessMode::WRITE))
    } else {
        (reads && want == AccessMode::READ)
            || (overrides && (!want.contains(AccessMode::EXECUTE) || mode & 0o111 != 0))
    };
    if covered { Ok(()) } else { Err(Errno::ACCESS) }
}

impl Inode {
    pub(super) const fn new(number: u64, device: u64, body: Body, attributes: Attributes) -> Self {
        let attributes = Mutex::new(attributes);
        Self { number, device, body, attributes, attachments: Mutex::new(None), counted: None }
    }

    /// Counts the inode against the step's bound until it goes; `ENOSPC` when that is reached.
    pub(super) fn counted(mut self, shared: &Arc<Shared>) -> Result<Self, Errno> {
        if shared.inodes.fetch_add(1, Ordering::Relaxed) >= shared.limits.inodes {
            shared.inodes.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::NOSPC);
        }
        self.counted = Some(Arc::clone(shared));
        Ok(self)
    }

    pub(super) const fn kind(&self) -> FileKind {
        match &self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Device { character: true, .. } => FileKind::CharacterDevice,
            Body::Device { character: false, .. } => FileKind::BlockDevice,
            Body::Fifo => FileKind::Fifo,
            Body::Socket => FileKind::Socket,
            Body::Synthetic { kind, .. } => *kind,
            Body::Object { .. } => FileKind::Fifo,
        }
    }

    pub(super) const fn is_directory(&self) -> bool {
        matches!(self.kind(), FileKind::Directory)
    }

    /// The directory's names; `ENOTDIR` for all else, also for directories of synthetic file systems.
    pub(super) const fn directory(&self) -> Result<&DirectoryBody, Errno> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// What is made up as it is looked at and cannot be changed.
    pub(super) const fn is_synthetic(&self) -> bool {
        matches!(self.body, Body::Synthetic { .. } | Body::Object { .. })
    }

    pub(super) fn permission(
        &self,
        credentials: &Credentials,
        caller: &Caller,
        want: AccessMode,
    ) -> Result<(), Errno> {
        let (mode, uid, gid) = match &self.body {
            Body::Synthetic { fs, id, .. } => {
                let stat = fs.stat(*id, caller)?;
                (stat.mode as u16 & 0o7777, stat.uid, stat.gid)
            }
            Body::Object { stat, .. } => (stat.mode as u16 & 0o7777, stat.uid, stat.gid),
            _ => {
                let attributes = lock(&self.attributes);
                (attributes.mode, attributes.uid, attributes.gid)
            }
        };
        permitted(mode, uid, gid, self.is_directory(), credentials, want)
    }

    pub(super) fn stat(self: &Arc<Self>, shared: &Shared, caller: &Caller) -> Result<Stat, Errno> {
        let (links, size, blocks) = match &self.body {
            Body::Synthetic { fs, id, .. } => {
                return Ok(Stat { device: self.device, ..fs.stat(*id, caller)? });
            }
            Body::Object { stat, .. } => return Ok(**stat),
            Body::File(file) => (None, file.size(), file.blocks()),
            Body::Directory(directory) => (Some(directory.links(self, shared)?), 4096, 8),
            Body::Symlink(target) => (None, target.len() as u64, 0),
            Body::Device { .. } | Body::Fifo | Body::Socket => (None, 0, 0),
        };
        let rdev = match self.body {
            Body::Device { major, minor, .. } => device_number(major, minor),
            _ => 0,
        };
        let attributes = lock(&self.attributes);
        Ok(Stat {
            device: self.device,
            inode: self.number,
            mode: u32::from(attributes.mode) | self.kind().mode_bits(),
            links: links.unwrap_or(attributes.links),
            uid: attributes.uid,
            gid: attributes.gid,
            rdev,
            size,
            block_size: 4096,
            blocks,
            atime: attributes.atime,
            mtime: attributes.mtime,
            ctime: attributes.ctime,
            btime: attributes.btime,
            mount_id: 0,
        })
    }

    /// What a tree records as the kind of what is no directory. `None` for files whose bytes are not stored yet.
    pub(super) fn leaf_kind(&self) -> Option<NodeKind> {
        Some(match &self.body {
            Body::File(file) => {
                let (content, size) = file.stored()?;
                NodeKind::File { content, size }
            }
            Body::Symlink(target) => NodeKind::Symlink { target: target.clone() },
            Body::Device { character: true, major, minor } => {
                NodeKind::CharacterDevice { major: *major, minor: *minor }
            }
            Body::Device { character: false, major, minor } => {
                NodeKind::BlockDevice { major: *major, minor: *minor }
            }
            Body::Fifo => NodeKind::Fifo,
            Body::Socket => NodeKind::Socket,
            Body::Directory(_) | Body::Synthetic { .. } | Body::Object { .. } => return None,
        })
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        if let Some(shared) = &self.counted {
            shared.inodes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An inode, compared by identity; nodes of a synthetic file system by their id.
#[derive(Clone)]
pub struct NodeRef(pub(super) Arc<Inode>);

impl NodeRef {
    /// The inode number.
    pub fn inode(&self) -> u64 {
        self.0.number
    }

    /// The kind of file.
    pub fn kind(&self) -> FileKind {
        self.0.kind()
    }

    /// Something of the caller's that lives as long as the inode: a pipe, a listening socket, locks. There is one
    /// of each type; the first call makes it.
    ///
    /// Nodes of synthetic file systems do not live on: each look-up gets a new attachment.
    pub fn attachment<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut attachments = lock(&self.0.attachments);
        let attachments = attachments.get_or_insert_default();
        let known = attachments.get(&TypeId::of::<T>()).cloned().and_then(|known| known.downcast().ok());
        known.unwrap_or_else(|| {
            let made = Arc::new(make());
            attachments.insert(TypeId::of::<T>(), Arc::clone(&made) as _);
            made
        })
    }

    /// Forbids opening the file for writing while the answer lives, as execution does. `ETXTBSY` when it is open for
    /// writing; anything but a regular file needs no denial and gets an empty one.
    pub fn deny_write(&self) -> Result<WriteDenial, Errno> {
        let Body::File(file) = &self.0.body else { return Ok(WriteDenial { inode: None }) };
        file.deny_writing()?;
        Ok(WriteDenial { inode: Some(Arc::clone(&self.0)) })
    }

    fn identity(&self) -> (usize, u64) {
        match &self.0.body {
            Body::Synthetic { fs, id, .. } => (Arc::as_ptr(fs).cast::<()>() as usize, id.0),
            _ => (Arc::as_ptr(&self.0) as usize, 0),
        }
    }
}

impl PartialEq for NodeRef {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for NodeRef {}

impl Hash for NodeRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Debug for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeRef({} {:?})", self.0.number, self.0.kind())
    }
}

/// While it lives, the file cannot be opened for writing (`ETXTBSY`): it is being executed.
pub struct WriteDenial {
    inode: Option<Arc<Inode>>,
}

impl Drop for WriteDenial {
    fn drop(&mut self) {
        if let Some(Body::File(file)) = self.inode.as_ref().map(|inode| &inode.body) {
            file.allow_writing();
        }
    }
}

impl fmt::Debug for WriteDenial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteDenial")
    }
}
