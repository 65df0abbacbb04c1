//! File contents and where they are kept.
//!
//! Contents are immutable and named by the BLAKE3 hash of their bytes. The store that holds them is somebody
//! else's: [`ContentStore`] is all this crate knows of it. Data being written goes to a [`SpoolFile`]; what a
//! finished step leaves goes into a pack, all at once ([`PackWriter`]).

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::tree::{ContentTreeId, Directory, ExactId};

/// The BLAKE3 hash of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The id of no bytes at all.
    pub const EMPTY: Self = Self([
        0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9, 0x49, 0x9b,
        0xcb, 0x25, 0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f, 0x32, 0x62,
    ]);

    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

/// Writes bytes as lower-case hex.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Where the vfs reads directories and contents, and where it leaves new ones.
///
/// All methods may be called from several threads at once.
pub trait ContentStore: Send + Sync + fmt::Debug {
    /// A directory object. `NotFound` when the store does not have it, `InvalidData` when it is damaged.
    fn directory(&self, id: &ExactId) -> io::Result<Arc<Directory>>;

    /// Keeps a directory object and returns its ids. Keeping one twice is no error.
    fn put_directory(&self, directory: &Directory) -> io::Result<(ExactId, ContentTreeId)>;

    /// A file's contents. Cheap: no byte is read.
    fn open(&self, id: &ContentId) -> io::Result<Content>;

    /// A fresh, empty host file for data being written.
    fn spool(&self) -> io::Result<SpoolFile>;

    /// Starts the pack that takes finished contents. Nothing of it can be opened before [`PackWriter::finish`].
    fn pack(&self) -> io::Result<Box<dyn PackWriter + '_>>;
}

/// Takes finished contents; they become readable all at once.
pub trait PackWriter {
    /// Adds everything that `data` gives; returns its id and length.
    fn add(&mut self, data: &mut dyn Read) -> io::Result<(ContentId, u64)>;

    /// Adds these bytes.
    fn add_bytes(&mut self, data: &[u8]) -> io::Result<ContentId>;

    /// Takes over a spool file whose first `length` bytes have the id `id`; what follows them is cut off.
    fn adopt(&mut self, spool: SpoolFile, id: ContentId, length: u64) -> io::Result<()>;

    /// Makes everything added readable through the store.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Where the bytes of a content are.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A range of a host file that nobody writes any more.
    File {
        /// The file.
        file: Arc<File>,
        /// Where the content starts: a multiple of the page size when the content has 4096 bytes or more, and then
        /// zeros follow it up to the page's end.
        offset: u64,
    },
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
}

/// A file's contents, open for reading.
#[derive(Clone, Debug)]
pub struct Content {
    /// Where the bytes are.
    pub backing: Backing,
    /// How many bytes there are.
    pub length: u64,
}

impl Content {
    /// Reads from `offset` until the buffer or the content ends; returns how much was read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(offset);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..wanted];
        match &self.backing {
            Backing::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(wanted);
                let bytes = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof);
                if wanted > 0 {
                    buffer.copy_from_slice(bytes?);
                }
            }
            Backing::File { file, offset: start } => file.read_exact_at(buffer, start + offset)?,
        }
        Ok(wanted)
    }

    /// Reads everything. Meant for what is known to be small.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; length];
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// A reader over the whole content.
    pub fn reader(&self) -> ContentReader {
        ContentReader { content: self.clone(), offset: 0 }
    }
}

/// Reads a [`Content`] from its start to its end.
#[derive(Clone, Debug)]
pub struct ContentReader {
    content: Content,
    offset: u64,
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read_at(self.offset, buffer)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A host file of the store that takes data while it is being written.
///
/// Dropping it gives the space back.
#[derive(Debug)]
pub struct SpoolFile {
    /// The file, open for reading and writing, empty when it is handed out.
    pub file: Arc<File>,
    /// What the store needs to find the file again in [`PackWriter::adopt`], and to remove it when it is dropped.
    pub owner: Option<Box<dyn SpoolOwner>>,
}

/// The store's side of a [`SpoolFile`]; its `Drop` removes the file.
pub trait SpoolOwner: Any + Send + Sync + fmt::Debug {
    /// Tells whether [`reopen`](Self::reopen) works; otherwise the file stays open as long as it lives.
    ///
    /// A step may write more large files than a process may have open, so idle ones are closed meanwhile.
    fn can_reopen(&self) -> bool {
        false
    }

    /// Opens the file again, for reading and writing.
    fn reopen(&self) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
