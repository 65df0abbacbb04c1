//! The index of a layer's blob: what the layer does, where its contents are, and where reading can start.
//!
//! Whoever has it knows the file system that the layer makes without a byte of the layer, and reads single files out of
//! a blob that may be in a registry. It is a file of its own in the bytes of [`crate::wire`], and travels as the only
//! file of a plain layer, so that every registry takes it.
//!
//! An index says of each file its `ContentId`, against which the file is checked when it is read first. What it says of
//! names, modes and owners cannot be checked without the blob: it is for whoever trusts the cache that it comes from.
//! Any bytes are an index or none, within the bounds of [`Limits`].

use std::collections::BTreeMap;
use std::io::{self, Read};

use cooper_vfs::{ContentId, Entry, Metadata, NodeKind, Timestamp};

use super::scan::{Expected, Limits, Operation, clean, inspect};
use super::tar::{Archive, MemberKind};
use super::write::{Fields, header_bytes, padding, recompress};
use super::{LayerOptions, Operations, Place};
use crate::compression::seek::SeekPoints;
use crate::compression::{Compression, decoder};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{LayerRecord, NewLayer};
use crate::manifest::Descriptor;
use crate::store::{Keep, Store};
use crate::wire::{Reader, Writer};

/// Version of the layout.
const VERSION: u8 = 1;
/// Name of the file in the layer that carries an index.
const NAME: &[u8] = b"index";
/// Bound on an index, in bytes.
const INDEX_BYTES: u64 = 512 << 20;
/// Record kind of indexes, by the digest of the blob that they are of.
const INDEX: &str = "layer index";

/// What is known of a blob.
#[derive(Debug, Clone)]
pub struct LayerIndex {
    /// The blob's digest.
    pub blob: Digest,
    /// What the layer does, and where its contents are.
    pub operations: Operations,
    /// Where reading can start.
    pub points: SeekPoints,
}

impl LayerIndex {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.byte(VERSION);
        out.text(self.blob.to_string().as_bytes());
        out.text(self.operations.diff_id.to_string().as_bytes());
        self.points.encode_to(&mut out);
        let mut last: &[u8] = b"";
        out.number(self.operations.list.len() as u64);
        for operation in &self.operations.list {
            let path = operation.path();
            let shared = path.iter().zip(last).take_while(|(one, other)| one == other).count();
            out.number(shared as u64);
            out.text(&path[shared..]);
            last = path;
            encode_operation(operation, &mut out);
        }
        out.number(self.operations.places.len() as u64);
        let mut end = 0;
        for place in &self.operations.places {
            out.bytes.extend_from_slice(&place.id.0);
            out.number(place.offset - end);
            out.number(place.length);
            end = place.offset + place.length;
        }
        out.bytes
    }

    /// An index of these bytes; none when they make no sense.
    fn decode(bytes: &[u8], limits: &Limits) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.byte()? == VERSION).then_some(())?;
        let digest = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<Digest>().ok();
        let (blob, diff_id) = (digest(reader.text()?)?, digest(reader.text()?)?);
        let points = SeekPoints::decode_from(&mut reader)?;
        let count = reader.number().filter(|count| *count <= limits.entries)?;
        let (mut list, mut last, mut names) = (Vec::new(), Vec::new(), 0_u64);
        for _ in 0..count {
            let shared = usize::try_from(reader.number()?).ok()?;
            let rest = reader.text()?;
            let path = [last.get(..shared)?, rest].concat();
            names = names.checked_add(path.len() as u64).filter(|names| *names <= limits.names)?;
            // The root is written as `.` in archives, and is empty here.
            if !path.is_empty() && clean(&path, limits).ok()? != path {
                return None;
            }
            list.push(decode_operation(path.clone(), &mut reader, limits)?);
            last = path;
        }
        let count = reader.number().filter(|count| *count <= limits.entries)?;
        let (mut places, mut end) = (Vec::new(), 0_u64);
        for _ in 0..count {
            let id = ContentId(reader.array()?);
            let offset = end.checked_add(reader.number()?)?;
            let length = reader.number()?;
            end = offset.checked_add(length).filter(|end| *end <= points.size)?;
            places.push(Place { id, offset, length });
        }
        reader.is_empty().then_some(())?;
        let (compression, size) = (points.compression, points.size);
        Some(Self { blob, operations: Operations { diff_id, compression, size, list, places }, points })
    }
}

fn encode_operation(operation: &Operation, out: &mut Writer) {
    match operation {
        Operation::Directory { metadata, .. } => {
            out.byte(0);
            encode_metadata(metadata, out);
        }
        Operation::Node { entry: Entry { metadata, kind, .. }, .. } => {
            let (tag, device) = match kind {
                NodeKind::File { .. } => (1, None),
                NodeKind::Symlink { .. } => (2, None),
                NodeKind::CharacterDevice { major, minor } => (3, Some((major, minor))),
                NodeKind::BlockDevice { major, minor } => (4, Some((major, minor))),
                NodeKind::Fifo => (5, None),
                // Neither is in a layer's list of nodes.
                NodeKind::Socket | NodeKind::Directory { .. } => (6, None),
            };
            out.byte(tag);
            encode_metadata(metadata, out);
            match kind {
                NodeKind::File { content, size } => {
                    out.bytes.extend_from_slice(&content.0);
                    out.number(*size);
                }
                NodeKind::Symlink { target } => out.text(target),
                _ => {}
            }
            if let Some((major, minor)) = device {
                out.number(u64::from(*major));
                out.number(u64::from(*minor));
            }
        }
        Operation::HardLink { target, .. } => {
            out.byte(7);
            out.text(target);
        }
        Operation::Whiteout { .. } => out.byte(8),
        Operation::Opaque { .. } => out.byte(9),
    }
}

fn decode_operation(path: Vec<u8>, reader: &mut Reader<'_>, limits: &Limits) -> Option<Operation> {
    let small = |number: u64| u32::try_from(number).ok();
    let tag = reader.byte()?;
    if path.is_empty() && !matches!(tag, 0 | 9) {
        return None;
    }
    let kind = match tag {
        0 => return Some(Operation::Directory { path, metadata: decode_metadata(reader)? }),
        1..=5 => {
            let metadata = decode_metadata(reader)?;
            let kind = match tag {
                1 => NodeKind::File { content: ContentId(reader.array()?), size: reader.number()? },
                2 => NodeKind::Symlink { target: reader.text()?.to_vec() },
                3 => NodeKind::CharacterDevice {
                    major: small(reader.number()?)?,
                    minor: small(reader.number()?)?,
                },
                4 => {
                    NodeKind::BlockDevice { major: small(reader.number()?)?, minor: small(reader.number()?)? }
                }
                _ => NodeKind::Fifo,
            };
            (metadata, kind)
        }
        7 => {
            let target = reader.text()?.to_vec();
            let valid = clean(&target, limits).ok()? == target && target != path;
            return valid.then_some(Operation::HardLink { path, target });
        }
        8 => return Some(Operation::Whiteout { path }),
        9 => return Some(Operation::Opaque { path }),
        _ => return None,
    };
    let (metadata, kind) = kind;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    Some(Operation::Node { path, entry: Entry { name, metadata, kind } })
}

fn encode_metadata(metadata: &Metadata, out: &mut Writer) {
    let Metadata { mode, uid, gid, mtime, xattrs } = metadata;
    for number in [u64::from(*mode), u64::from(*uid), u64::from(*gid)] {
        out.number(number);
    }
    out.signed(mtime.seconds);
    out.number(u64::from(mtime.nanoseconds));
    out.number(xattrs.len() as u64);
    for (name, value) in xattrs {
        out.text(name);
        out.text(value);
    }
}

fn decode_metadata(reader: &mut Reader<'_>) -> Option<Metadata> {
    let mode = u16::try_from(reader.number()?).ok().filter(|mode| *mode <= 0o7777)?;
    let id = |number: u64| u32::try_from(number).ok();
    let (uid, gid) = (id(reader.number()?)?, id(reader.number()?)?);
    let seconds = reader.signed()?;
    let nanoseconds = id(reader.number()?).filter(|nanoseconds| *nanoseconds < 1_000_000_000)?;
    let mut xattrs = BTreeMap::new();
    for _ in 0..reader.number()? {
        xattrs.insert(reader.text()?.to_vec(), reader.text()?.to_vec());
    }
    Some(Metadata { mode, uid, gid, mtime: Timestamp { seconds, nanoseconds }, xattrs })
}

/// The bytes of an index out of the layer that carries it.
fn unwrap(layer: impl Read + Send) -> Result<Vec<u8>> {
    let failed = |error| Error::io("cannot read the index of a layer", error);
    let (_, tar) = decoder(io::BufReader::new(layer)).map_err(failed)?;
    let mut archive = Archive::new(tar);
    let wrong = || Error::layer("the layer does not carry an index");
    match archive.next()? {
        Some(member) if member.path == NAME && matches!(member.kind, MemberKind::File { .. }) => {
            let mut bytes = Vec::new();
            (&mut archive).take(INDEX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
            if bytes.len() as u64 > INDEX_BYTES {
                let what = "the index of a layer".to_owned();
                return Err(Error::Limit { what, name: "INDEX_BYTES", limit: INDEX_BYTES });
            }
            Ok(bytes)
        }
        _ => Err(wrong()),
    }
}

impl Store {
    /// The layer that carries the index of another one. It is made when it is not here, and when that one's blob is;
    /// none when neither is.
    ///
    /// # Errors
    ///
    /// When the blob is not what its record says, and the disk's.
    pub fn index_layer(&self, layer: &LayerRecord) -> Result<Option<NewLayer>> {
        let LayerRecord { descriptor, diff_id } = layer;
        if let Some(known) = self.known_index(&descriptor.digest)? {
            return Ok(Some(known));
        }
        if !self.has_blob(&descriptor.digest, Some(descriptor.size))? {
            return Ok(None);
        }
        let failed = |error| Error::io("cannot index a layer", error);
        let expected = Expected {
            digest: Some(descriptor.digest),
            size: Some(descriptor.size),
            diff_id: Some(*diff_id),
        };
        let operations = inspect(self, self.open_blob(&descriptor.digest)?, &expected, &Limits::DEFAULT)?;
        let points = SeekPoints::find(self.open_blob(&descriptor.digest)?).map_err(failed)?;
        let index = LayerIndex { blob: descriptor.digest, operations, points }.encode();
        let metadata = Metadata::root_owned(0o644);
        let size = index.len() as u64;
        let fields = Fields { path: NAME, kind: b'0', link: b"", size, device: (0, 0), metadata: &metadata };
        let tar = [&header_bytes(&fields, 0)[..], &index, padding(size), &[0; 1024]].concat();
        let options = LayerOptions { compression: Compression::Zstd, level: None, clamp: None };
        let mut blob = self.new_hashed_blob()?;
        let written = recompress(&tar[..], &options, &mut blob)?;
        let (digest, size) = blob.finish_as(written.digest)?;
        let descriptor = Descriptor::new(options.compression.layer_media_type(), digest, size);
        let made = NewLayer { descriptor, diff_id: written.diff_id, tree: None };
        self.keep_index(&layer.descriptor.digest, &made.descriptor, &made.diff_id)?;
        Ok(Some(made))
    }

    fn known_index(&self, blob: &Digest) -> Result<Option<NewLayer>> {
        let Some(value) = self.record(INDEX, blob.to_string().as_bytes())? else { return Ok(None) };
        let text = String::from_utf8_lossy(&value).into_owned();
        let mut words = text.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (Ok(digest), Ok(size), Ok(diff_id)) =
            (next().parse::<Digest>(), next().parse::<u64>(), next().parse::<Digest>())
        else {
            return Ok(None);
        };
        if !self.has_blob(&digest, Some(size))? {
            return Ok(None);
        }
        let descriptor = Descriptor::new(Compression::Zstd.layer_media_type(), digest, size);
        Ok(Some(NewLayer { descriptor, diff_id, tree: None }))
    }

    fn keep_index(&self, blob: &Digest, carrier: &Descriptor, diff_id: &Digest) -> Result<()> {
        let value = format!("{} {} {diff_id}", carrier.digest, carrier.size);
        self.put_record(INDEX, blob.to_string().as_bytes(), value.as_bytes(), &[Keep::Blob(carrier.digest)])
    }

    /// Reads the index of a layer out of the layer that carries it, whose blob is here.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] when it is none, or of another layer.
    pub fn read_index(&self, layer: &LayerRecord, carrier: &LayerRecord) -> Result<LayerIndex> {
        let Descriptor { digest, size, .. } = &carrier.descriptor;
        let bytes = unwrap(self.read_blob(digest, Some(*size))?)?;
        let index = LayerIndex::decode(&bytes, &Limits::DEFAULT);
        let index = index.filter(|index| {
            index.blob == layer.descriptor.digest
                && index.operations.diff_id == layer.diff_id
                && index.points.blob_size == layer.descriptor.size
        });
        let wrong = || Error::layer(format!("`{digest}` is not the index of `{}`", layer.descriptor.digest));
        let index = index.ok_or_else(wrong)?;
        self.keep_index(&layer.descriptor.digest, &carrier.descriptor, &carrier.diff_id)?;
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn index() -> LayerIndex {
        let metadata =
            |mode| Metadata { mode, mtime: Timestamp::from_seconds(-5), ..Metadata::root_owned(0) };
        let node = |path: &str, kind| Operation::Node {
            path: path.into(),
            entry: Entry { name: path.rsplit('/').next().unwrap().into(), metadata: metadata(0o4755), kind },
        };
        let id = ContentId::of(b"x");
        let mut xattrs = metadata(0o755);
        xattrs.xattrs.insert(b"user.a".to_vec(), vec![0, 255]);
        let list = vec![
            Operation::Directory { path: Vec::new(), metadata: xattrs },
            Operation::Opaque { path: b"usr".to_vec() },
            node("usr/bin/x", NodeKind::File { content: id, size: 1 }),
            node("usr/bin/y", NodeKind::Symlink { target: b"../x".to_vec() }),
            node("usr/dev", NodeKind::CharacterDevice { major: 1, minor: 300 }),
            node("usr/fifo", NodeKind::Fifo),
            Operation::HardLink { path: b"usr/z".to_vec(), target: b"usr/bin/x".to_vec() },
            Operation::Whiteout { path: b"etc/x\xff".to_vec() },
        ];
        let places = vec![Place { id, offset: 512, length: 1 }];
        let digest = Digest::of(b"tar");
        let points = SeekPoints::plain(4096);
        let operations =
            Operations { diff_id: digest, compression: Compression::None, size: 4096, list, places };
        LayerIndex { blob: digest, operations, points }
    }

    #[test]
    fn an_index_comes_back() {
        let index = index();
        let again = LayerIndex::decode(&index.encode(), &Limits::DEFAULT).unwrap();
        assert_eq!(again.operations.list, index.operations.list);
        assert_eq!(again.operations.places, index.operations.places);
        assert_eq!(again.points, index.points);
        let limits = Limits { entries: 7, ..Limits::DEFAULT };
        assert!(LayerIndex::decode(&index.encode(), &limits).is_none());
    }

    #[test]
    fn any_bytes_are_an_index_or_none() {
        let good = index().encode();
        let mut random = Random::new(11);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            bytes.truncate(random.below(bytes.len() as u64 * 2) as usize);
            // Whatever it is, it is bounded and does not panic.
            if let Some(index) = LayerIndex::decode(&bytes, &Limits::DEFAULT) {
                assert!(index.operations.list.len() <= 64);
            }
        }
    }
}
