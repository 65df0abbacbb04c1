//! Open files and directories. The offset is the caller's.

use std::fmt;
use std::sync::Arc;

use rustix::io::Errno;

use super::file::FileBody;
use super::inode::{Attributes, Body, NodeRef};
use super::sync::lock;
use super::{AllocateMode, DirectoryItem, Mapping, OpenFlags, Position};
use crate::content::ContentId;
use crate::credentials::{Capabilities, Credentials, Walk};

/// An open regular file. Clones are the same open file.
///
/// Reading without a descriptor for reading, or writing without one for writing, is `EBADF`.
#[derive(Clone)]
pub struct FileHandle {
    inner: Arc<OpenFile>,
}

struct OpenFile {
    position: Position,
    flags: OpenFlags,
    /// Writing keeps setuid and setgid bits.
    keeps_bits: bool,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Body::File(file) = &self.position.inode().body {
            if self.flags.writes() {
                file.stop_writing();
            }
            file.closed();
        }
    }
}

impl FileHandle {
    /// Counts a writer: `ETXTBSY` while the file is executed.
    pub(super) fn open(
        position: &Position,
        flags: OpenFlags,
        credentials: &Credentials,
    ) -> Result<Self, Errno> {
        if let Body::File(file) = &position.inode().body {
            if flags.writes() {
                file.start_writing()?;
            }
            file.opened();
        }
        let keeps_bits = credentials.holds(Capabilities::FSETID);
        Ok(Self { inner: Arc::new(OpenFile { position: position.clone(), flags, keeps_bits }) })
    }

    fn file(&self) -> Result<&FileBody, Errno> {
        match &self.inner.position.inode().body {
            Body::File(file) => Ok(file),
            _ => Err(Errno::INVAL),
        }
    }

    fn readable(&self) -> Result<&FileBody, Errno> {
        if self.inner.flags.reads() { self.file() } else { Err(Errno::BADF) }
    }

    fn writable(&self) -> Result<&FileBody, Errno> {
        if self.inner.flags.writes() { self.file() } else { Err(Errno::BADF) }
    }

    fn with_attributes(&self, change: impl FnOnce(&mut Attributes)) {
        change(&mut lock(&self.inner.position.inode().attributes));
    }

    fn wrote(&self) {
        let now = self.inner.position.shared().now();
        let keeps_bits = self.inner.keeps_bits;
        self.with_attributes(|attributes| {
            attributes.mtime = now;
            attributes.ctime = now;
            attributes.drop_privileges(keeps_bits);
        });
    }

    /// The inode.
    pub fn node(&self) -> NodeRef {
        self.inner.position.node()
    }

    /// Where it was opened.
    pub fn position(&self) -> &Position {
        &self.inner.position
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.file().map_or(0, FileBody::size)
    }

    /// Reads from `offset` until the buffer or the file ends; returns how much. `EBADF`, `EIO`.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.readable()?.read_at(offset, buffer)
    }

    /// Writes everything at `offset`; returns how much. `EBADF`, `EFBIG`, `ENOSPC`, `EIO`.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.writable()?.write_at(offset, data)?;
        if !data.is_empty() {
            self.wrote();
        }
        Ok(data.len())
    }

    /// Writes everything at the end; returns the offset after it, and how much. As [`write_at`](Self::write_at).
    pub fn append(&self, data: &[u8]) -> Result<(u64, usize), Errno> {
        let end = self.writable()?.append(data)?;
        if !data.is_empty() {
            self.wrote();
        }
        Ok((end, data.len()))
    }

    /// Sets the size. `EINVAL` without writing, `EFBIG`, `ENOSPC`, `EIO`.
    pub fn truncate(&self, length: u64) -> Result<(), Errno> {
        self.writable().map_err(|_| Errno::INVAL)?.truncate(length)?;
        self.wrote();
        Ok(())
    }

    /// `fallocate`: `EINVAL` for an empty range; `EOPNOTSUPP` for modes that are not offered, `PUNCH_HOLE` without `KEEP_SIZE`, or with
    /// `ZERO_RANGE`; `EBADF`; `EFBIG`; `ENOSPC`.
    pub fn allocate(&self, mode: AllocateMode, offset: u64, length: u64) -> Result<(), Errno> {
        const OFFERED: AllocateMode =
            AllocateMode::KEEP_SIZE.union(AllocateMode::PUNCH_HOLE).union(AllocateMode::ZERO_RANGE);
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let punch = mode.contains(AllocateMode::PUNCH_HOLE);
        let bad_punch =
            punch && (!mode.contains(AllocateMode::KEEP_SIZE) || mode.contains(AllocateMode::ZERO_RANGE));
        if !OFFERED.contains(mode) || bad_punch {
            return Err(Errno::OPNOTSUPP);
        }
        self.writable()?.allocate(mode, offset, length)?;
        self.wrote();
        Ok(())
    }

    /// The next data at or after `offset`; `ENXIO` when there is none.
    pub fn seek_data(&self, offset: u64) -> Result<u64, Errno> {
        self.file()?.seek_data(offset)
    }

    /// The next hole at or after `offset`, the end being one; `ENXIO` beyond it.
    pub fn seek_hole(&self, offset: u64) -> Result<u64, Errno> {
        self.file()?.seek_hole(offset)
    }

    /// Nothing to do: a step's data is safe when the step is finished, not before.
    pub const fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Where clean contents can be mapped in place, for a private map. `None`: read them instead (small), or use
    /// [`map_shared`](Self::map_shared) (written).
    pub fn mapping(&self) -> Result<Option<Mapping>, Errno> {
        self.file()?.mapping()
    }

    /// Moves the file to a spool of its own for good and tells where, for `MAP_SHARED` and for private maps of
    /// written files. Its size changes under the map when the file is truncated.
    pub fn map_shared(&self) -> Result<Mapping, Errno> {
        self.file()?.map_shared()
    }

    /// Tells that bytes were written through a shared map (`msync`, `munmap`).
    pub fn mark_written(&self) {
        if let Ok(file) = self.file() {
            file.mark_written();
            self.wrote();
        }
    }

    /// Rises with every write.
    pub fn generation(&self) -> u64 {
        self.file().map_or(0, FileBody::generation)
    }

    /// The id of the bytes, while they are still those that the store has.
    pub fn content_id(&self) -> Option<ContentId> {
        self.file().ok().and_then(FileBody::content_id)
    }

    /// Copies from another open file without passing the guest; returns how much. `EBADF`; `EINVAL` for overlapping
    /// ranges of one file; then as [`write_at`](Self::write_at) when nothing was copied.
    pub fn copy_from(
        &self,
        source: &Self,
        source_offset: u64,
        offset: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let (from, to) = (source.readable()?, self.writable()?);
        if source.node() == self.node() {
            let (low, high) = (source_offset.min(offset), source_offset.max(offset));
            if high - low < length {
                return Err(Errno::INVAL);
            }
        }
        let copied = to.copy_from(from, source_offset, offset, length)?;
        if copied > 0 {
            self.wrote();
        }
        Ok(copied)
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHandle({:?})", self.inner.position)
    }
}

/// An open directory.
#[derive(Clone, Debug)]
pub struct DirectoryHandle {
    position: Position,
}

impl DirectoryHandle {
    pub(super) fn open(position: &Position) -> Self {
        Self { position: position.clone() }
    }

    /// Where it was opened.
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// Up to `maximum` names after `cookie` (0: from the start), `.` and `..` first.
    ///
    /// Names that are there throughout come exactly once, whatever else is made or removed in between. `ENOENT` in a
    /// removed directory.
    pub fn read(&self, walk: &Walk<'_>, cookie: u64, maximum: usize) -> Result<Vec<DirectoryItem>, Errno> {
        let position = &self.position;
        let parent = position.parent();
        let parent_inode = parent.inode().number;
        match &position.inode().body {
            Body::Directory(directory) => {
                directory.list(&position.dentry, parent_inode, cookie, maximum, position.shared())
            }
            Body::Synthetic { fs, id, .. } => {
                let dots = [(&b"."[..], position.inode().number), (b"..", parent_inode)];
                let dots = dots.map(|(name, inode)| (name.to_vec(), crate::tree::FileKind::Directory, inode));
                let listed = fs.list(*id, &walk.caller)?;
                let entries = listed.into_iter().map(|entry| (entry.name, entry.kind, entry.inode));
                let numbered = dots.into_iter().chain(entries).zip(1..);
                Ok(numbered
                    .filter(|(_, next_cookie)| *next_cookie > cookie)
                    .take(maximum)
                    .map(|((name, kind, inode), next_cookie)| DirectoryItem {
                        inode,
                        next_cookie,
                        kind,
                        name,
                    })
                    .collect())
            }
            _ => Err(Errno::NOTDIR),
        }
    }
}
