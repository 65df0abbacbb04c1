//! Writing a layer: changes to tar, diff ID, compressor and digest, in one pass.
//!
//! The archive is ustar with PAX records where a field does not fit (long or non-ASCII names, large numbers, extended
//! attributes), as Go's and GNU tar's readers understand it. The order is that of the changes, which is by path; times
//! are whole seconds; user and group names are left out; padding and pads are zeros. So the same changes give the same
//! bytes. Contents stream from the store's packs and are checked against their ids on the way.
//!
//! Sockets are left out, as by every engine: tar has no type for them.

use std::io::{self, BufReader, Read, Write};

use cooper_vfs::{Change, ContentId, ContentStore, Entry, Metadata, NodeKind};

use super::{OPAQUE, WHITEOUT};
use crate::compression::seek::SeekPoints;
use crate::compression::{Compression, Encoder, decoder};
use crate::digest::{Algorithm, BackgroundHasher, Digest, Hasher};
use crate::error::{Error, Result};

const BLOCK: usize = 512;
/// Bytes that are read from a content at a time.
const CHUNK: usize = 256 << 10;
/// The greatest number that seven octal digits hold: owners, groups and device numbers.
const LARGEST_ID: u64 = 0o7_777_777;
/// The greatest number that eleven octal digits hold: sizes and times.
const LARGEST_SIZE: u64 = 0o77_777_777_777;
/// Bytes of the header's name and link fields.
const NAME_FIELD: usize = 100;
/// Name of the entries that hold PAX records; readers do not look at it.
const PAX_NAME: &[u8] = b"PaxHeaders.0/entry";

/// How a layer is written.
#[derive(Debug, Clone, Copy)]
pub struct LayerOptions {
    /// The compressor.
    pub compression: Compression,
    /// The compressor's level; the usual one without.
    pub level: Option<u32>,
    /// The latest time that an entry may have, in seconds since the epoch; later ones are set back to it.
    pub clamp: Option<i64>,
}

/// Where a content lies in a layer's tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The content.
    pub id: ContentId,
    /// Offset in the tar, in bytes.
    pub offset: u64,
    /// Length, in bytes.
    pub length: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Count of the compressed bytes.
    pub size: u64,
    /// Where the contents are in the tar, in its order.
    pub places: Vec<Place>,
    /// Where reading the compressed bytes can start.
    pub points: SeekPoints,
}

/// Writes changes as a layer.
///
/// # Errors
///
/// [`Error::Layer`] for a name that starts with `.wh.`, which no layer can hold, [`Error::Io`] from the store and the
/// writer.
pub fn write(
    store: &dyn ContentStore,
    changes: &[Change],
    options: &LayerOptions,
    out: impl Write,
) -> Result<Written> {
    let failed = |error| Error::io("cannot write a layer", error);
    let compressed = Hashed { inner: out, hasher: Hasher::new(Algorithm::Sha256), count: 0 };
    let encoder = Encoder::with_level(options.compression, options.level, compressed).map_err(failed)?;
    let tar = Tar { inner: encoder, hasher: BackgroundHasher::new() };
    let mut writer = TarWriter {
        out: tar,
        store,
        clamp: options.clamp,
        chunk: Vec::new(),
        block: Vec::new(),
        written: 0,
        places: Vec::new(),
    };
    for change in changes {
        writer.change(change)?;
    }
    writer.finish_archive().map_err(failed)?;
    let (tar, places) = (writer.out, writer.places);
    let diff_id = tar.hasher.finish().map_err(failed)?;
    let (mut compressed, points) = tar.inner.finish().map_err(failed)?;
    compressed.flush().map_err(failed)?;
    Ok(Written { diff_id, digest: compressed.hasher.finish(), size: compressed.count, places, points })
}

/// Writes a layer anew in another compression: the same tar, byte for byte.
///
/// # Errors
///
/// [`Error::Io`] from the reader and the writer.
pub(crate) fn recompress(
    layer: impl Read + Send,
    options: &LayerOptions,
    out: impl Write,
) -> Result<Written> {
    let failed = |error| Error::io("cannot compress a layer anew", error);
    let (_, mut tar) = decoder(BufReader::with_capacity(CHUNK, layer)).map_err(failed)?;
    let compressed = Hashed { inner: out, hasher: Hasher::new(Algorithm::Sha256), count: 0 };
    let encoder = Encoder::with_level(options.compression, options.level, compressed).map_err(failed)?;
    let mut out = Tar { inner: encoder, hasher: BackgroundHasher::new() };
    let mut chunk = vec![0; CHUNK];
    loop {
        match tar.read(&mut chunk).map_err(failed)? {
            0 => break,
            count => out.write_all(&chunk[..count]).map_err(failed)?,
        }
    }
    let diff_id = out.hasher.finish().map_err(failed)?;
    let (mut compressed, points) = out.inner.finish().map_err(failed)?;
    compressed.flush().map_err(failed)?;
    let (digest, size) = (compressed.hasher.finish(), compressed.count);
    Ok(Written { diff_id, digest, size, places: Vec::new(), points })
}

/// Computes a digest of what is written through it.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Computes the diff ID of what is written through it, beside the compressor.
struct Tar<W> {
    inner: W,
    hasher: BackgroundHasher,
}

impl<W: Write> Write for Tar<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count])?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct TarWriter<'s, W: Write> {
    out: W,
    store: &'s dyn ContentStore,
    clamp: Option<i64>,
    chunk: Vec<u8>,
    /// Small things are collected here, so that the digests get more than a block at a time.
    block: Vec<u8>,
    /// Bytes that went out.
    written: u64,
    places: Vec<Place>,
}

/// The fields of one header.
pub(crate) struct Fields<'f> {
    pub(crate) path: &'f [u8],
    pub(crate) kind: u8,
    pub(crate) link: &'f [u8],
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) metadata: &'f Metadata,
}

impl<W: Write> TarWriter<'_, W> {
    fn change(&mut self, change: &Change) -> Result<()> {
        let failed = |error| Error::io("cannot write a layer", error);
        match change {
            Change::Upsert { path, entry, link_to, .. } => self.upsert(path, entry, link_to.as_deref()),
            Change::Remove { path } => {
                let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
                    Some(slash) => path.split_at(slash + 1),
                    None => path.split_at(0),
                };
                self.marker(&[parent, WHITEOUT, name].concat()).map_err(failed)
            }
            Change::Opaque { path } if path.is_empty() => self.marker(OPAQUE).map_err(failed),
            Change::Opaque { path } => self.marker(&[path, &b"/"[..], OPAQUE].concat()).map_err(failed),
        }
    }

    /// Writes an empty file that says something about a lower layer.
    fn marker(&mut self, path: &[u8]) -> io::Result<()> {
        let metadata = Metadata::root_owned(0);
        self.header(&Fields { path, kind: b'0', link: b"", size: 0, device: (0, 0), metadata: &metadata })
    }

    fn upsert(&mut self, path: &[u8], entry: &Entry, link_to: Option<&[u8]>) -> Result<()> {
        if path.split(|byte| *byte == b'/').any(|name| name.starts_with(WHITEOUT)) {
            return Err(Error::entry(path, "a name that starts with `.wh.` cannot be in a layer"));
        }
        let mut fields =
            Fields { path, kind: b'0', link: b"", size: 0, device: (0, 0), metadata: &entry.metadata };
        let mut contents = None;
        let directory_path;
        match (link_to, &entry.kind) {
            (_, NodeKind::Socket) => return Ok(()),
            (Some(target), _) => {
                fields.kind = b'1';
                fields.link = target;
            }
            (None, NodeKind::File { content, size }) => {
                fields.size = *size;
                contents = Some((*content, *size));
            }
            (None, NodeKind::Symlink { target }) => {
                fields.kind = b'2';
                fields.link = target;
            }
            (None, NodeKind::CharacterDevice { major, minor }) => {
                fields.kind = b'3';
                fields.device = (*major, *minor);
            }
            (None, NodeKind::BlockDevice { major, minor }) => {
                fields.kind = b'4';
                fields.device = (*major, *minor);
            }
            (None, NodeKind::Directory { .. }) => {
                fields.kind = b'5';
                directory_path = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
                fields.path = &directory_path;
            }
            (None, NodeKind::Fifo) => fields.kind = b'6',
        }
        let action = || format!("cannot write `{}` to a layer", crate::error::printable(path));
        self.header(&fields).map_err(|error| Error::io(action(), error))?;
        if let Some((content, size)) = contents {
            self.contents(&content, size).map_err(|error| Error::io(action(), error))?;
        }
        Ok(())
    }

    fn contents(&mut self, id: &ContentId, size: u64) -> io::Result<()> {
        let content = self.store.open(id)?;
        if content.length != size {
            return Err(damaged("a content's length is not the entry's"));
        }
        self.flush_block()?;
        self.places.push(Place { id: *id, offset: self.written, length: size });
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK, 0);
        let mut reader = content.reader();
        let mut hasher = blake3::Hasher::new();
        loop {
            let count = reader.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            hasher.update(&chunk[..count]);
            self.out.write_all(&chunk[..count])?;
            self.written += count as u64;
        }
        self.chunk = chunk;
        if hasher.finalize().as_bytes() != &id.0 {
            return Err(damaged(
                "a content does not have its id: it changed while it was read, or the store is damaged",
            ));
        }
        self.block.extend_from_slice(padding(size));
        Ok(())
    }

    fn header(&mut self, fields: &Fields<'_>) -> io::Result<()> {
        let seconds = fields.metadata.mtime.seconds;
        let seconds = self.clamp.map_or(seconds, |latest| seconds.min(latest));
        self.block.extend_from_slice(&header_bytes(fields, seconds));
        if self.block.len() >= CHUNK { self.flush_block() } else { Ok(()) }
    }

    fn flush_block(&mut self) -> io::Result<()> {
        self.out.write_all(&self.block)?;
        self.written += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Two blocks of zeros end an archive.
    fn finish_archive(&mut self) -> io::Result<()> {
        self.block.extend_from_slice(&[0; 2 * BLOCK]);
        self.flush_block()
    }
}

/// A header with what has to be in front of it.
pub(crate) fn header_bytes(fields: &Fields<'_>, seconds: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    let records = pax_records(fields, seconds);
    if !records.is_empty() {
        let metadata = Metadata::root_owned(0o644);
        let pax = Fields {
            path: PAX_NAME,
            kind: b'x',
            link: b"",
            size: records.len() as u64,
            device: (0, 0),
            metadata: &metadata,
        };
        bytes.extend_from_slice(&header_block(&pax, 0));
        bytes.extend_from_slice(&records);
        bytes.extend_from_slice(padding(records.len() as u64));
    }
    bytes.extend_from_slice(&header_block(fields, seconds));
    bytes
}

/// The zeros that fill the last block of a body of this size.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    &[0; BLOCK][..(size.wrapping_neg() % BLOCK as u64) as usize]
}

fn damaged(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The records for what the header's fields cannot hold, sorted by key.
fn pax_records(fields: &Fields<'_>, seconds: i64) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |key: &[u8], value: Vec<u8>| records.push((key.to_vec(), value));
    let metadata = fields.metadata;
    if u64::from(metadata.gid) > LARGEST_ID {
        add(b"gid", metadata.gid.to_string().into_bytes());
    }
    if !fits_name(fields.link) {
        add(b"linkpath", fields.link.to_vec());
    }
    if !(0..=LARGEST_SIZE.cast_signed()).contains(&seconds) {
        add(b"mtime", seconds.to_string().into_bytes());
    }
    if !fits_name(fields.path) {
        add(b"path", fields.path.to_vec());
    }
    if fields.size > LARGEST_SIZE {
        add(b"size", fields.size.to_string().into_bytes());
    }
    if u64::from(metadata.uid) > LARGEST_ID {
        add(b"uid", metadata.uid.to_string().into_bytes());
    }
    // A hard link has the attributes of the name before it.
    if fields.kind != b'1' {
        for (name, value) in &metadata.xattrs {
            add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
        }
    }
    records.sort();
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3; // a space, an equals sign, a newline
        let mut length = rest + decimal_digits(rest);
        if decimal_digits(length) > decimal_digits(rest) {
            length += 1;
        }
        bytes.extend_from_slice(length.to_string().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(&key);
        bytes.push(b'=');
        bytes.extend_from_slice(&value);
        bytes.push(b'\n');
    }
    bytes
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

fn fits_name(name: &[u8]) -> bool {
    name.len() <= NAME_FIELD && name.is_ascii()
}

/// One header block (POSIX.1-1988, ustar). What does not fit is cut or zero; a PAX record in front says it.
fn header_block(fields: &Fields<'_>, seconds: i64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let metadata = fields.metadata;
    let mut put = |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &fields.path[..fields.path.len().min(NAME_FIELD)]);
    put(100, &octal::<7>(u64::from(metadata.mode)));
    put(108, &octal::<7>(u64::from(metadata.uid)));
    put(116, &octal::<7>(u64::from(metadata.gid)));
    put(124, &octal::<11>(fields.size));
    put(136, &octal::<11>(u64::try_from(seconds).unwrap_or(0)));
    put(156, &[fields.kind]);
    put(157, &fields.link[..fields.link.len().min(NAME_FIELD)]);
    put(257, b"ustar\x0000");
    put(329, &octal::<7>(u64::from(fields.device.0)));
    put(337, &octal::<7>(u64::from(fields.device.1)));
    put(148, b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..154].copy_from_slice(&octal::<6>(sum));
    block[154] = 0;
    block
}

/// Octal digits; zero for a number that does not fit, for which there is a PAX record.
fn octal<const DIGITS: usize>(number: u64) -> [u8; DIGITS] {
    let fits = number < 1 << (3 * DIGITS);
    let mut left = if fits { number } else { 0 };
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left & 7) as u8;
        left >>= 3;
    }
    digits
}
