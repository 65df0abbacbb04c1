//! Reading a layer once: verified, decompressed, contents into a pack, entries into a list.
//!
//! One thread reads, checks the compressed digest and decompresses; the calling one computes the diff ID, reads the
//! archive and packs. They are joined by a short queue of buffers, so a layer of any size takes the same memory but
//! for its list of entries. The pack is published after the last check.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use cooper_vfs::{ContentId, Entry, Metadata, NodeKind};

use super::tar::{Archive, Member, MemberKind};
use super::{OPAQUE, Place, WHITEOUT, WHITEOUT_META};
use crate::compression::{Compression, decoder};
use crate::digest::{Algorithm, Digest, Hasher, Verifier};
use crate::error::{Error, Result};
use crate::store::{PackBuilder, Store};

/// Bytes that travel between the two threads at a time.
const BUFFER: usize = 512 << 10;
/// Buffers on their way.
const QUEUE: usize = 4;
/// A name's limit, in bytes: Linux's `NAME_MAX`.
const NAME_BYTES: usize = 255;

/// Bounds of one layer. The defaults fit everything that is built for a reason.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of all paths, link targets and extended attributes together, which are kept in memory.
    pub names: u64,
    /// Bytes of the decompressed layer, and of all files in it with their holes.
    pub bytes: u64,
}

impl Limits {
    /// A million entries, 512 levels, 512 MiB of names, 128 GiB of contents.
    pub const DEFAULT: Self = Self { entries: 1 << 20, depth: 512, names: 512 << 20, bytes: 128 << 30 };
}

/// What is known of a layer before it is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Digest of the bytes as they are, compressed or not.
    pub digest: Option<Digest>,
    /// Their count.
    pub size: Option<u64>,
    /// Digest of the tar.
    pub diff_id: Option<Digest>,
}

/// What a layer does.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// How it was compressed.
    pub compression: Compression,
    /// Length of the tar, in bytes.
    pub size: u64,
    /// The operations, in the archive's order.
    pub list: Vec<Operation>,
    /// Where the contents are in the tar; those of sparse files lie in pieces and are not among them.
    pub places: Vec<Place>,
}

/// One entry of a layer, as what it does. Paths are clean: no leading, doubled or trailing slash, no `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A directory is made, or gets this metadata; the empty path is the root.
    Directory {
        /// Where.
        path: Vec<u8>,
        /// Its metadata.
        metadata: Metadata,
    },
    /// Anything but a directory is put at a path.
    Node {
        /// Where.
        path: Vec<u8>,
        /// What.
        entry: Entry,
    },
    /// A path becomes another name of a node.
    HardLink {
        /// Where.
        path: Vec<u8>,
        /// The other name.
        target: Vec<u8>,
    },
    /// A path of the lower layers is removed.
    Whiteout {
        /// Where.
        path: Vec<u8>,
    },
    /// Everything that the lower layers have in a directory is removed.
    Opaque {
        /// The directory.
        path: Vec<u8>,
    },
}

impl Operation {
    /// Where it happens.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Directory { path, .. }
            | Self::Node { path, .. }
            | Self::HardLink { path, .. }
            | Self::Whiteout { path }
            | Self::Opaque { path } => path,
        }
    }
}

/// Reads a layer, and packs its contents into the store.
///
/// # Errors
///
/// [`Error::Layer`] with the entry at fault, [`Error::DigestMismatch`], [`Error::SizeMismatch`], [`Error::Limit`], or what
/// the store's disk does. The store then has nothing of the layer.
pub fn scan(
    store: &Store,
    layer: impl Read + Send,
    expected: &Expected,
    limits: &Limits,
) -> Result<Operations> {
    let pack = store.pack_builder();
    let (operations, pack) = scan_with(pack, layer, expected, limits, Whiteouts::Apply)?;
    pack.publish()?;
    Ok(operations)
}

/// Reads a layer as [`scan`] does. Its contents can be read when the pack is published, which is for whoever verified
/// the rest.
pub(crate) fn scan_unpublished<'s>(
    store: &'s Store,
    layer: impl Read + Send,
    expected: &Expected,
    limits: &Limits,
) -> Result<(Operations, PackBuilder<'s>)> {
    scan_with(store.pack_builder(), layer, expected, limits, Whiteouts::Apply)
}

/// Reads a layer as [`scan`] does, and keeps nothing of its contents.
///
/// # Errors
///
/// As [`scan`].
pub fn inspect(
    store: &Store,
    layer: impl Read + Send,
    expected: &Expected,
    limits: &Limits,
) -> Result<Operations> {
    let nowhere = PackBuilder::discarding(store);
    scan_with(nowhere, layer, expected, limits, Whiteouts::Apply).map(|(operations, _)| operations)
}

/// Reads an archive that is no layer, as `ADD` does: names that start with `.wh.` are ordinary.
///
/// # Errors
///
/// As [`scan`].
pub fn scan_archive(store: &Store, archive: impl Read + Send, limits: &Limits) -> Result<Operations> {
    let pack = store.pack_builder();
    let (operations, pack) = scan_with(pack, archive, &Expected::default(), limits, Whiteouts::Ordinary)?;
    pack.publish()?;
    Ok(operations)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whiteouts {
    Apply,
    Ordinary,
}

fn scan_with<'s>(
    pack: PackBuilder<'s>,
    layer: impl Read + Send,
    expected: &Expected,
    limits: &Limits,
    whiteouts: Whiteouts,
) -> Result<(Operations, PackBuilder<'s>)> {
    // A diff ID is in the algorithm of whoever promised it.
    let algorithm = expected.diff_id.map_or(Algorithm::Sha256, |diff_id| diff_id.algorithm());
    let (sender, receiver) = sync_channel(QUEUE);
    let (spare_sender, spare_receiver) = sync_channel(QUEUE + 2);
    thread::scope(|scope| {
        let reading = thread::Builder::new()
            .name("ingest".to_owned())
            .spawn_scoped(scope, move || read_ahead(layer, expected, &sender, &spare_receiver))
            .map_err(|error| Error::io("cannot start a thread to read the layer", error))?;
        let scanned = scan_tar(
            pack,
            TarStream::new(receiver, spare_sender, limits.bytes, algorithm),
            limits,
            whiteouts,
        );
        // The queue is closed now, so the thread ends soon. A panic of it would be a bug of ours.
        let read = reading.join().unwrap_or_else(|_| Err(Error::layer("the reading thread ended early")));
        let Scanned { list, places, pack, diff_id, size } = scanned?;
        let compression = read?;
        if let Some(expected) = expected.diff_id
            && expected != diff_id
        {
            return Err(Error::wrong_digest("the layer's tar (diff ID)", expected, diff_id));
        }
        Ok((Operations { diff_id, compression, size, list, places }, pack))
    })
}

/// The reading thread: raw bytes to verified, decompressed buffers.
fn read_ahead(
    layer: impl Read + Send,
    expected: &Expected,
    sender: &SyncSender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) -> Result<Compression> {
    let mut raw = BufReader::with_capacity(BUFFER, Checked { inner: layer, verifier: None, seen: 0 });
    raw.get_mut().verifier =
        expected.digest.map(|digest| Verifier::new(format!("layer `{digest}`"), digest, expected.size));
    let result = decompress(&mut raw, sender, spare);
    let (compression, complete) = match result {
        Ok(done) => done,
        Err(error) => {
            let error = Error::io("cannot decompress the layer", error);
            let text = io::Error::other(error.to_string());
            // The receiver may be gone, because it found an error first.
            let _ = sender.send(Err(text));
            return Err(error);
        }
    };
    if complete && let Some(verifier) = raw.into_inner().verifier {
        verifier.finish()?;
    }
    Ok(compression)
}

/// Sends all decompressed bytes; says whether somebody took them all.
fn decompress(
    raw: &mut (impl BufRead + Send),
    sender: &SyncSender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) -> io::Result<(Compression, bool)> {
    let (compression, mut decoded) = decoder(&mut *raw)?;
    loop {
        let mut buffer = spare.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while filled < buffer.len() {
            match decoded.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let last = filled < buffer.len();
        buffer.truncate(filled);
        if filled > 0 && sender.send(Ok(buffer)).is_err() {
            return Ok((compression, false));
        }
        if last {
            break;
        }
    }
    drop(decoded);
    if !raw.fill_buf()?.is_empty() {
        return Err(Error::layer("bytes behind the end of the compressed data").into_io());
    }
    Ok((compression, true))
}

/// Checks bytes as they are read.
struct Checked<R> {
    inner: R,
    verifier: Option<Verifier>,
    seen: u64,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.seen += count as u64;
        if let Some(verifier) = &mut self.verifier {
            verifier.update(&buffer[..count]).map_err(Error::into_io)?;
        }
        Ok(count)
    }
}

/// The other end of the queue, which computes the diff ID.
struct TarStream {
    receiver: Receiver<io::Result<Vec<u8>>>,
    spare: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    position: usize,
    hasher: Hasher,
    size: u64,
    limit: u64,
}

impl TarStream {
    /// Bytes of the tar that were given away.
    fn offset(&self) -> u64 {
        self.size - (self.buffer.len() - self.position) as u64
    }

    fn new(
        receiver: Receiver<io::Result<Vec<u8>>>,
        spare: SyncSender<Vec<u8>>,
        limit: u64,
        algorithm: Algorithm,
    ) -> Self {
        let hasher = Hasher::new(algorithm);
        Self { receiver, spare, buffer: Vec::new(), position: 0, hasher, size: 0, limit }
    }

    /// Gets the next buffer; false at the end.
    fn refill(&mut self) -> io::Result<bool> {
        let Ok(next) = self.receiver.recv() else { return Ok(false) };
        let used = std::mem::replace(&mut self.buffer, next?);
        self.position = 0;
        // The thread makes a new one when the way back is full or closed.
        let _ = self.spare.try_send(used);
        self.size += self.buffer.len() as u64;
        if self.size > self.limit {
            return Err(too_many_bytes(self.limit).into_io());
        }
        self.hasher.update(&self.buffer);
        Ok(true)
    }
}

impl Read for &mut TarStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position == self.buffer.len() && !self.refill()? {
            return Ok(0);
        }
        let available = &self.buffer[self.position..];
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.position += count;
        Ok(count)
    }
}

fn too_many_bytes(limit: u64) -> Error {
    Error::Limit { what: "the decompressed layer".to_owned(), name: "layer::Limits::bytes", limit }
}

/// What an archive holds.
struct Scanned<'s> {
    list: Vec<Operation>,
    places: Vec<Place>,
    pack: PackBuilder<'s>,
    diff_id: Digest,
    size: u64,
}

fn scan_tar<'s>(
    mut pack: PackBuilder<'s>,
    mut stream: TarStream,
    limits: &Limits,
    whiteouts: Whiteouts,
) -> Result<Scanned<'s>> {
    let (mut list, mut places) = (Vec::new(), Vec::new());
    let mut archive = Archive::new(&mut stream);
    let (mut names, mut bytes) = (0_u64, 0_u64);
    while let Some(member) = archive.next()? {
        let Some(operation) = operation(member, whiteouts, limits, |path, size| {
            bytes = bytes.saturating_add(size);
            if bytes > limits.bytes {
                return Err(too_many_bytes(limits.bytes));
            }
            let (offset, sparse) = (archive.inner().offset(), archive.is_sparse());
            let packed = pack.add_from(&mut archive);
            let (content, length) = packed.map_err(|error| Error::io("cannot pack a file", error))?;
            if length == size {
                if !sparse && size > 0 {
                    places.push(Place { id: content, offset, length });
                }
                return Ok(content);
            }
            Err(Error::entry(path, format!("the file has {length} bytes, not {size}")))
        })?
        else {
            continue;
        };
        names = names.saturating_add(memory_of(&operation));
        list.push(operation);
        if list.len() as u64 > limits.entries {
            let what = "the layer's list of entries".to_owned();
            return Err(Error::Limit { what, name: "layer::Limits::entries", limit: limits.entries });
        }
        if names > limits.names {
            let what = "the layer's names".to_owned();
            return Err(Error::Limit { what, name: "layer::Limits::names", limit: limits.names });
        }
    }
    let TarStream { hasher, size, .. } = stream;
    Ok(Scanned { list, places, pack, diff_id: hasher.finish(), size })
}

/// Bytes that an operation keeps in memory besides itself.
fn memory_of(operation: &Operation) -> u64 {
    let xattrs = |metadata: &Metadata| -> usize {
        metadata.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    };
    let more = match operation {
        Operation::Directory { metadata, .. } => xattrs(metadata),
        Operation::Node { entry, .. } => match &entry.kind {
            NodeKind::Symlink { target } => target.len() + xattrs(&entry.metadata),
            _ => xattrs(&entry.metadata),
        },
        Operation::HardLink { target, .. } => target.len(),
        Operation::Whiteout { .. } | Operation::Opaque { .. } => 0,
    };
    (operation.path().len() + more) as u64
}

/// Turns a member into what it does; none for names that mean nothing.
fn operation(
    member: Member,
    whiteouts: Whiteouts,
    limits: &Limits,
    contents: impl FnOnce(&[u8], u64) -> Result<ContentId>,
) -> Result<Option<Operation>> {
    let Member { path: written, kind, mode, uid, gid, mtime, xattrs } = member;
    let path = clean(&written, limits)?;
    if whiteouts == Whiteouts::Apply
        && path.split(|byte| *byte == b'/').any(|name| name.starts_with(WHITEOUT))
    {
        return whiteout(&written, &path);
    }
    let metadata = Metadata { mode, uid, gid, mtime, xattrs };
    if path.is_empty() && kind != MemberKind::Directory {
        return Err(Error::entry(&written, "the root must be a directory"));
    }
    let kind = match kind {
        MemberKind::Directory => return Ok(Some(Operation::Directory { path, metadata })),
        MemberKind::HardLink { target } => {
            let target = clean(&target, limits).map_err(|error| in_target(&written, &target, error))?;
            if target == path {
                return Err(Error::entry(&written, "a hard link to itself"));
            }
            return Ok(Some(Operation::HardLink { path, target }));
        }
        MemberKind::File { size } => {
            let content = contents(&written, size)?;
            NodeKind::File { content, size }
        }
        MemberKind::Symlink { target } => {
            if target.len() >= super::tar::PATH_BYTES {
                return Err(Error::entry(&written, "the link's target is longer than Linux allows"));
            }
            NodeKind::Symlink { target }
        }
        MemberKind::CharacterDevice { major, minor } => NodeKind::CharacterDevice { major, minor },
        MemberKind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
        MemberKind::Fifo => NodeKind::Fifo,
    };
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    Ok(Some(Operation::Node { path, entry: Entry { name, metadata, kind } }))
}

/// Names the entry whose link target is refused, and the target.
fn in_target(written: &[u8], target: &[u8], error: Error) -> Error {
    match error {
        Error::Layer { reason, .. } => {
            Error::entry(written, format!("a hard link to `{}`: {reason}", crate::error::printable(target)))
        }
        other => other,
    }
}

/// Cleans a path as written in an archive: leading and doubled slashes and `.` mean nothing, as for containerd.
///
/// # Errors
///
/// [`Error::Layer`] for an empty path, a `..` component and a name that Linux does not allow, [`Error::Limit`] for a
/// path that is too deep.
pub(crate) fn clean(written: &[u8], limits: &Limits) -> Result<Vec<u8>> {
    if written.is_empty() {
        return Err(Error::entry(written, "the name is empty"));
    }
    let mut path = Vec::with_capacity(written.len());
    let mut depth = 0;
    for name in written.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(Error::entry(written, "a `..` component")),
            _ if name.len() > NAME_BYTES => {
                return Err(Error::entry(written, "a name of more than 255 bytes"));
            }
            _ => {}
        }
        if depth > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        depth += 1;
    }
    if depth > limits.depth {
        let what = format!("the path `{}`", crate::error::printable(written));
        return Err(Error::Limit { what, name: "layer::Limits::depth", limit: limits.depth as u64 });
    }
    Ok(path)
}

fn whiteout(written: &[u8], path: &[u8]) -> Result<Option<Operation>> {
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    };
    if parent.split(|byte| *byte == b'/').any(|name| name.starts_with(WHITEOUT))
        || !name.starts_with(WHITEOUT)
    {
        // AUFS kept directories of its own in layers; nothing in them is part of the image.
        if path.split(|byte| *byte == b'/').any(|name| name.starts_with(WHITEOUT_META)) {
            return Ok(None);
        }
        return Err(Error::entry(written, "an entry below a whiteout"));
    }
    if name == OPAQUE {
        return Ok(Some(Operation::Opaque { path: parent.to_vec() }));
    }
    if name.starts_with(WHITEOUT_META) {
        return Ok(None);
    }
    let removed = &name[WHITEOUT.len()..];
    if matches!(removed, b"" | b"." | b"..") {
        return Err(Error::entry(written, "a whiteout of no name"));
    }
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(removed);
    Ok(Some(Operation::Whiteout { path }))
}
