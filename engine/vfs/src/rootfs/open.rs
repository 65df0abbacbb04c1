//! Opening.

use std::any::Any;
use std::sync::Arc;

use rustix::io::Errno;

use super::directory::Dentry;
use super::handles::{DirectoryHandle, FileHandle};
use super::inode::{Body, NodeRef};
use super::names::Fresh;
use super::sync::lock;
use super::types::split_device;
use super::walk::{Last, Walker};
use super::{AccessMode, Follow, OpenFlags, Position, RootFs};
use crate::credentials::Walk;
use crate::synthetic::SyntheticFile;
use crate::tree::FileKind;

/// What an `open` gave.
#[derive(Debug)]
pub enum Opened {
    /// A regular file.
    File(FileHandle),
    /// A directory.
    Directory(DirectoryHandle),
    /// A named pipe; the pipe itself is the caller's, kept in [`NodeRef::attachment`].
    Fifo(NodeRef),
    /// A device node.
    Device {
        /// The node.
        node: NodeRef,
        /// Character or block device.
        character: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// `O_PATH`: the place is all there is.
    Path,
    /// A file of a synthetic file system.
    Synthetic(Arc<dyn SyntheticFile>),
    /// What a magic link led to that has no place.
    Object(Arc<dyn Any + Send + Sync>),
}

/// An opened thing and where it was opened.
#[derive(Debug)]
pub struct OpenResult {
    /// What it is.
    pub opened: Opened,
    /// Where.
    pub position: Position,
    /// Whether this call made it.
    pub created: bool,
}

impl RootFs {
    /// Opens a path, makes the file with `CREAT`; the umask is the caller's to apply to `mode`.
    ///
    /// `EINVAL` for `TMPFILE` without writing and for `CREAT` with `DIRECTORY`; the walk's errors; with `CREAT` `EISDIR` for a slash at the
    /// end, and when the name is missing `EROFS`, `ENOENT` in a removed directory, `EACCES`, `ENOSPC`; when it exists
    /// `EEXIST` with `EXCL`, then as [`open_position`](Self::open_position).
    pub fn open(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
        flags: OpenFlags,
        mode: u16,
    ) -> Result<OpenResult, Errno> {
        let flags = if flags.contains(OpenFlags::PATH) {
            flags & (OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC)
        } else {
            flags
        };
        let tmpfile = flags.contains(OpenFlags::TMPFILE);
        if (tmpfile && !flags.writes())
            || (flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) && !tmpfile)
        {
            return Err(Errno::INVAL);
        }
        if tmpfile {
            return self.open_unnamed(walk, base, path, flags, mode);
        }
        if flags.contains(OpenFlags::CREAT) {
            return self.open_or_create(walk, base, path, flags, mode);
        }
        let follow = if flags.contains(OpenFlags::NOFOLLOW) { Follow::No } else { Follow::Yes };
        let position = self.resolve(walk, base, path, follow)?;
        self.open_position(walk, &position, flags)
    }

    fn open_or_create(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
        flags: OpenFlags,
        mode: u16,
    ) -> Result<OpenResult, Errno> {
        let follow = !flags.intersects(OpenFlags::NOFOLLOW | OpenFlags::EXCL);
        let mut walker = Walker::new(self, walk, base, path)?;
        loop {
            let last = walker.walk_to_last()?;
            let Last::Name { name, slash } = &last else {
                walker.finish_last(&last, Follow::Yes)?;
                break;
            };
            if *slash {
                return Err(Errno::ISDIR);
            }
            let child = match self.child(walk, &walker.current, name) {
                Err(Errno::NOENT) => match self.create(walk, &walker.current, name, mode)? {
                    Ok(position) => return self.opened(walk, position, flags, true),
                    // Another thread was faster.
                    Err(child) => child,
                },
                child => child?,
            };
            if !walker.enter(child, follow)? {
                break;
            }
        }
        if flags.contains(OpenFlags::EXCL) {
            return Err(Errno::EXIST);
        }
        if walker.current.inode().is_directory() {
            return Err(Errno::ISDIR);
        }
        self.open_position(walk, &walker.current, flags)
    }

    fn create(
        &self,
        walk: &Walk<'_>,
        parent: &Position,
        name: &Arc<[u8]>,
        mode: u16,
    ) -> Result<Result<Position, Arc<Dentry>>, Errno> {
        let _names = parent.shared().lock_names();
        match self.child(walk, parent, name) {
            Ok(child) => return Ok(Err(child)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        parent.check_writable()?;
        self.check_may_create(walk, parent)?;
        self.make_locked(walk, parent, name, &Fresh::File { mode }).map(Ok)
    }

    /// `O_TMPFILE`: after the walk's errors `ENOTDIR`, `EROFS`, `EACCES`.
    fn open_unnamed(
        &self,
        walk: &Walk<'_>,
        base: &Position,
        path: &[u8],
        flags: OpenFlags,
        mode: u16,
    ) -> Result<OpenResult, Errno> {
        let parent = self.resolve(walk, base, path, Follow::Yes)?;
        if !parent.inode().is_directory() {
            return Err(Errno::NOTDIR);
        }
        parent.check_writable()?;
        if parent.inode().is_synthetic() {
            return Err(Errno::OPNOTSUPP);
        }
        self.check_may_create(walk, &parent)?;
        let inode = self.fresh_inode(walk.credentials, &parent, &Fresh::File { mode })?;
        lock(&inode.attributes).linkable = !flags.contains(OpenFlags::EXCL);
        let name = format!("#{}", inode.number).into_bytes();
        let dentry = Dentry::new(Some(Arc::clone(&parent.dentry)), name.into(), Arc::new(inode));
        dentry.mark_removed();
        self.opened(walk, parent.in_mount(dentry), flags, true)
    }

    /// Opens a place that is already found (`/proc/self/fd/3`, execution).
    ///
    /// In this order: `ENOTDIR` with `DIRECTORY`; `EROFS` when a file is to be cut; `ELOOP` for a symbolic link; `EISDIR` to write a
    /// directory; `EACCES`; `EPERM` for `NOATIME` on somebody else's file; `EROFS`; `ETXTBSY`; `ENXIO` for a socket.
    pub fn open_position(
        &self,
        walk: &Walk<'_>,
        position: &Position,
        flags: OpenFlags,
    ) -> Result<OpenResult, Errno> {
        let inode = position.inode();
        if let Body::Object { object, .. } = &inode.body
            && !flags.contains(OpenFlags::PATH)
        {
            if flags.contains(OpenFlags::DIRECTORY) {
                return Err(Errno::NOTDIR);
            }
            let opened = Opened::Object(Arc::clone(object));
            return Ok(OpenResult { opened, position: position.clone(), created: false });
        }
        if flags.contains(OpenFlags::DIRECTORY) && !inode.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if flags.contains(OpenFlags::PATH) {
            return Ok(OpenResult { opened: Opened::Path, position: position.clone(), created: false });
        }
        let is_file = inode.kind() == FileKind::File;
        let cut = flags.contains(OpenFlags::TRUNC) && is_file;
        if cut {
            position.check_writable()?;
        }
        // Both access bits together ask for both permissions and give neither.
        let mut want = match flags.bits() & 3 {
            0 => AccessMode::READ,
            1 => AccessMode::WRITE,
            _ => AccessMode::READ | AccessMode::WRITE,
        };
        if flags.contains(OpenFlags::TRUNC) {
            want |= AccessMode::WRITE;
        }
        match inode.kind() {
            FileKind::Symlink => return Err(Errno::LOOP),
            FileKind::Directory if want.contains(AccessMode::WRITE) => return Err(Errno::ISDIR),
            _ => {}
        }
        inode.permission(walk.credentials, &walk.caller, want)?;
        if flags.contains(OpenFlags::NOATIME)
            && !inode.is_synthetic()
            && !lock(&inode.attributes).owned_by(walk.credentials)
        {
            return Err(Errno::PERM);
        }
        if flags.writes() && is_file && !inode.is_synthetic() {
            position.check_writable()?;
        }
        let result = self.opened(walk, position.clone(), flags, false)?;
        if cut && let Body::File(file) = &inode.body {
            // A writer is counted for as long as it takes, so that nothing that is executed is cut.
            file.start_writing()?;
            let cut = position.truncate_file(walk.credentials, 0, true);
            file.stop_writing();
            cut?;
        }
        Ok(result)
    }

    fn opened(
        &self,
        walk: &Walk<'_>,
        position: Position,
        flags: OpenFlags,
        created: bool,
    ) -> Result<OpenResult, Errno> {
        let node = position.node();
        let opened = match &position.inode().body {
            Body::File(_) => Opened::File(FileHandle::open(&position, flags, walk.credentials)?),
            Body::Directory(_) => Opened::Directory(DirectoryHandle::open(&position)),
            Body::Fifo => Opened::Fifo(node),
            Body::Device { character, major, minor } => {
                Opened::Device { node, character: *character, major: *major, minor: *minor }
            }
            Body::Socket => return Err(Errno::NXIO),
            Body::Symlink(_) => return Err(Errno::LOOP),
            Body::Synthetic { kind: FileKind::Directory, .. } => {
                Opened::Directory(DirectoryHandle::open(&position))
            }
            Body::Synthetic { kind: FileKind::Symlink, .. } => return Err(Errno::LOOP),
            Body::Synthetic { fs, id, kind: FileKind::CharacterDevice } => {
                let (major, minor) = split_device(fs.stat(*id, &walk.caller)?.rdev);
                Opened::Device { node, character: true, major, minor }
            }
            Body::Synthetic { fs, id, .. } => Opened::Synthetic(fs.open(*id, flags, &walk.caller)?),
            Body::Object { object, .. } => Opened::Object(Arc::clone(object)),
        };
        Ok(OpenResult { opened, position, created })
    }
}
