//! Packs: how a repository sends objects (git's documentation, `gitformat-pack`).
//!
//! A pack is kept as it comes, in a file without a name; one pass over it notes where each object begins, checks what
//! it inflates to, and gives it its id. Objects that are differences to others are put together when they are asked for.
//!
//! What must hold: any input gives a result; an object is bounded in size and a chain of differences in length; memory
//! is that of one object, its base, and a few numbers for each object.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};

use super::object::{Hasher, Kind, ObjectId, id_of};
use crate::error::{Error, Fault, Result};

/// Bound on one object, in bytes; it is in memory while it is read.
const OBJECT_BYTES: u64 = 1 << 30;
/// Bound on a pack, in bytes.
const PACK_BYTES: u64 = 32 << 30;
/// Bound on the objects of a pack.
const OBJECTS: u32 = 32 << 20;
/// Bound on differences to differences; git makes 50 at most, or what it is told to, up to 4095.
const CHAIN: usize = 4096;
/// Bytes of the last objects that were put together, which the next ones are often differences to.
const KEPT_BYTES: usize = 64 << 20;

/// The objects of one pack.
pub(super) struct Pack {
    file: Mutex<File>,
    entries: Vec<Entry>,
    by_id: HashMap<ObjectId, usize>,
    by_offset: HashMap<u64, usize>,
    kept: Mutex<Kept>,
}

/// Where an object is.
#[derive(Clone, Copy)]
struct Entry {
    /// Of its deflated bytes.
    data: u64,
    /// Of what these inflate to.
    size: u64,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Whole(Kind),
    /// A difference to the object that begins there.
    Offset(u64),
    /// A difference to the object with this id.
    Base(ObjectId),
}

#[derive(Default)]
struct Kept {
    objects: HashMap<usize, (Kind, std::sync::Arc<Vec<u8>>)>,
    bytes: usize,
}

fn damaged(what: &str) -> Error {
    Error::build(format!("the repository sends a pack that cannot be used: {what}"))
}

fn read_failed(error: io::Error) -> Error {
    Error::host("cannot read what was fetched", error)
}

impl Pack {
    /// No objects.
    pub(super) fn empty(file: File) -> Self {
        Self {
            file: Mutex::new(file),
            entries: Vec::new(),
            by_id: HashMap::new(),
            by_offset: HashMap::new(),
            kept: Mutex::default(),
        }
    }

    /// Reads a pack into `scratch`.
    pub(super) fn receive(reader: &mut dyn Read, mut scratch: File) -> Result<Self> {
        let copied = io::copy(&mut reader.take(PACK_BYTES + 1), &mut scratch);
        let length =
            copied.map_err(|error| Error::build("the repository stops in the middle").caused_by(error))?;
        if length > PACK_BYTES {
            return Err(Error::new(Fault::Limit, format!("the pack has more than {PACK_BYTES} bytes")));
        }
        scratch.flush().and_then(|()| scratch.rewind()).map_err(read_failed)?;
        let mut pack = Self::empty(scratch.try_clone().map_err(read_failed)?);
        pack.scan(scratch, length)?;
        pack.name()?;
        Ok(pack)
    }

    /// Notes where each object begins.
    fn scan(&mut self, file: File, length: u64) -> Result<()> {
        let mut reader =
            Hashing { inner: BufReader::with_capacity(128 << 10, file), hasher: Hasher::new(), position: 0 };
        let mut header = [0; 12];
        reader.read_exact(&mut header).map_err(|_| damaged("it is too short"))?;
        let number =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if &header[..4] != b"PACK" || !matches!(number(4), 2 | 3) {
            return Err(damaged("it has another format"));
        }
        let count = number(8);
        if count > OBJECTS {
            return Err(Error::new(Fault::Limit, format!("the repository has more than {OBJECTS} objects")));
        }
        let mut inflater = Inflater::new();
        for _ in 0..count {
            let start = reader.position;
            let (number, size) = entry_header(&mut reader)?;
            if size > OBJECT_BYTES {
                let message = format!("the repository has an object of more than {OBJECT_BYTES} bytes");
                return Err(Error::new(Fault::Limit, message));
            }
            let form = match number {
                6 => {
                    let back = offset_back(&mut reader)?;
                    Form::Offset(
                        start.checked_sub(back).ok_or_else(|| damaged("an object before its beginning"))?,
                    )
                }
                7 => {
                    let mut id = [0; 20];
                    reader.read_exact(&mut id).map_err(|_| damaged("it is too short"))?;
                    Form::Base(ObjectId(id))
                }
                number => Form::Whole(
                    Kind::from_number(number).ok_or_else(|| damaged("an unknown kind of object"))?,
                ),
            };
            let data = reader.position;
            inflater.skip(&mut reader, size)?;
            self.by_offset.insert(start, self.entries.len());
            self.entries.push(Entry { data, size, form });
        }
        let expected = std::mem::replace(&mut reader.hasher, Hasher::new()).finish()?;
        let mut trailer = [0; 20];
        reader.read_exact(&mut trailer).map_err(|_| damaged("it is too short"))?;
        if trailer != expected.0 || reader.position != length {
            return Err(damaged("its checksum is another one"));
        }
        Ok(())
    }

    /// Gives every object its id.
    fn name(&mut self) -> Result<()> {
        // A difference may be to an object that comes later in the pack, and then has no name yet.
        let mut left: Vec<usize> = (0..self.entries.len()).collect();
        while !left.is_empty() {
            let mut waiting = Vec::new();
            for &index in &left {
                match self.object(index)? {
                    Some((kind, bytes)) => drop(self.by_id.insert(id_of(kind, &bytes)?, index)),
                    None => waiting.push(index),
                }
            }
            if waiting.len() == left.len() {
                return Err(damaged("a difference to an object that it does not have"));
            }
            left = waiting;
        }
        Ok(())
    }

    /// Every id, in order.
    pub(super) fn find(&self, id: &ObjectId) -> Result<Option<(Kind, std::sync::Arc<Vec<u8>>)>> {
        match self.by_id.get(id) {
            None => Ok(None),
            Some(index) => self.object(*index),
        }
    }

    /// Puts an object together; none when one that it builds on has no name yet.
    fn object(&self, index: usize) -> Result<Option<(Kind, std::sync::Arc<Vec<u8>>)>> {
        let mut chain = Vec::new();
        let mut at = index;
        let (kind, mut bytes) = loop {
            if let Some(found) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).objects.get(&at) {
                break found.clone();
            }
            let entry = self.entries[at];
            let next = match entry.form {
                Form::Whole(kind) => break (kind, std::sync::Arc::new(self.inflate(&entry)?)),
                Form::Offset(offset) => {
                    Some(*self.by_offset.get(&offset).ok_or_else(|| damaged("a difference to no object"))?)
                }
                Form::Base(id) => self.by_id.get(&id).copied(),
            };
            let Some(next) = next else { return Ok(None) };
            chain.push(at);
            if chain.len() > CHAIN {
                return Err(Error::new(
                    Fault::Limit,
                    format!("the pack has more than {CHAIN} differences in a row"),
                ));
            }
            at = next;
        };
        for index in chain.into_iter().rev() {
            let difference = self.inflate(&self.entries[index])?;
            bytes = std::sync::Arc::new(apply(&bytes, &difference)?);
        }
        self.keep(index, kind, &bytes);
        Ok(Some((kind, bytes)))
    }

    fn keep(&self, index: usize, kind: Kind, bytes: &std::sync::Arc<Vec<u8>>) {
        if bytes.len() > KEPT_BYTES / 8 {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + bytes.len() > KEPT_BYTES {
            *kept = Kept::default();
        }
        if kept.objects.insert(index, (kind, std::sync::Arc::clone(bytes))).is_none() {
            kept.bytes += bytes.len();
        }
    }

    fn inflate(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(entry.data)).map_err(read_failed)?;
        let mut bytes = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0));
        let inflated =
            flate2::read::ZlibDecoder::new(&mut *file).take(entry.size + 1).read_to_end(&mut bytes);
        inflated.map_err(|_| damaged("an object that does not inflate"))?;
        if bytes.len() as u64 == entry.size { Ok(bytes) } else { Err(damaged("an object of another size")) }
    }
}

/// Passes bytes on, counts and hashes them.
struct Hashing {
    inner: BufReader<File>,
    hasher: Hasher,
    position: u64,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl BufRead for Hashing {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        let bytes = &self.inner.buffer()[..count];
        self.hasher.update(bytes);
        self.position += count as u64;
        self.inner.consume(count);
    }
}

/// Goes over deflated bytes of which only the end is known by inflating them.
struct Inflater {
    state: Decompress,
    output: Vec<u8>,
}

impl Inflater {
    fn new() -> Self {
        Self { state: Decompress::new(true), output: vec![0; 64 << 10] }
    }

    fn skip(&mut self, reader: &mut Hashing, size: u64) -> Result<()> {
        self.state.reset(true);
        loop {
            let input = reader.fill_buf().map_err(read_failed)?;
            let at_end = input.is_empty();
            let before = self.state.total_in();
            let status = self.state.decompress(input, &mut self.output, FlushDecompress::None);
            let status = status.map_err(|_| damaged("an object that does not inflate"))?;
            let used = (self.state.total_in() - before) as usize;
            reader.consume(used);
            if self.state.total_out() > size {
                return Err(damaged("an object of another size"));
            }
            match status {
                Status::StreamEnd if self.state.total_out() == size => return Ok(()),
                Status::StreamEnd => return Err(damaged("an object of another size")),
                _ if at_end => return Err(damaged("it is too short")),
                _ => {}
            }
        }
    }
}

fn byte(reader: &mut Hashing) -> Result<u8> {
    let mut byte = [0];
    reader.read_exact(&mut byte).map_err(|_| damaged("it is too short"))?;
    Ok(byte[0])
}

/// Kind and size: three bits and four, then seven by seven.
fn entry_header(reader: &mut Hashing) -> Result<(u8, u64)> {
    let first = byte(reader)?;
    let (mut size, mut shift, mut last) = (u64::from(first & 15), 4, first);
    while last & 0x80 != 0 {
        last = byte(reader)?;
        if shift > 56 {
            return Err(damaged("an object of no size"));
        }
        size |= u64::from(last & 0x7f) << shift;
        shift += 7;
    }
    Ok((first >> 4 & 7, size))
}

/// How far back the base of a difference begins.
fn offset_back(reader: &mut Hashing) -> Result<u64> {
    let mut last = byte(reader)?;
    let mut offset = u64::from(last & 0x7f);
    while last & 0x80 != 0 {
        last = byte(reader)?;
        offset = offset
            .checked_add(1)
            .and_then(|offset| offset.checked_mul(128))
            .map(|offset| offset | u64::from(last & 0x7f))
            .ok_or_else(|| damaged("an object before its beginning"))?;
    }
    Ok(offset)
}

/// Applies a difference: pieces of the base, and bytes of its own.
fn apply(base: &[u8], difference: &[u8]) -> Result<Vec<u8>> {
    let wrong = || damaged("a difference that does not fit");
    let mut rest = difference;
    let mut size = || -> Option<u64> {
        let (mut size, mut shift) = (0u64, 0);
        loop {
            let (first, tail) = rest.split_first()?;
            rest = tail;
            size |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return Some(size);
            }
            if shift > 56 {
                return None;
            }
        }
    };
    let (from, to) = (size().ok_or_else(wrong)?, size().ok_or_else(wrong)?);
    if from != base.len() as u64 {
        return Err(wrong());
    }
    if to > OBJECT_BYTES {
        let message = format!("the repository has an object of more than {OBJECT_BYTES} bytes");
        return Err(Error::new(Fault::Limit, message));
    }
    let to = usize::try_from(to).unwrap_or(usize::MAX);
    let mut result = Vec::new();
    while let Some((&code, tail)) = rest.split_first() {
        rest = tail;
        let piece = if code & 0x80 != 0 {
            let mut number = |bits: std::ops::Range<u8>| -> Option<usize> {
                let mut number = 0;
                for (place, bit) in bits.enumerate() {
                    if code & 1 << bit != 0 {
                        let (first, tail) = rest.split_first()?;
                        rest = tail;
                        number |= usize::from(*first) << (8 * place);
                    }
                }
                Some(number)
            };
            let (offset, length) = (number(0..4).ok_or_else(wrong)?, number(4..7).ok_or_else(wrong)?);
            let length = if length == 0 { 0x10000 } else { length };
            base.get(offset..offset.saturating_add(length)).ok_or_else(wrong)?
        } else {
            let (piece, tail) =
                rest.split_at_checked(usize::from(code)).filter(|_| code > 0).ok_or_else(wrong)?;
            rest = tail;
            piece
        };
        if result.len() + piece.len() > to {
            return Err(wrong());
        }
        result.extend_from_slice(piece);
    }
    if result.len() == to { Ok(result) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes everything")
    }

    /// A pack of a blob, a difference to it by offset, and one by id.
    fn sample() -> Vec<u8> {
        let mut pack = b"PACK\0\0\0\x02\0\0\0\x03".to_vec();
        let first = pack.len();
        pack.push(3 << 4 | 5);
        pack.extend(deflated(b"hello"));
        let second = pack.len();
        // The base's five bytes, then two more.
        let difference = [5, 7, 0b1001_0000, 5, 2, b'!', b'\n'];
        pack.push(6 << 4 | difference.len() as u8);
        pack.push((second - first) as u8);
        pack.extend(deflated(&difference));
        pack.push(7 << 4 | difference.len() as u8);
        pack.extend(id_of(Kind::Blob, b"hello").expect("an id").0);
        pack.extend(deflated(&[5, 6, 0b1001_0000, 5, 1, b'?', 0][..6]));
        // The size of the last one is six.
        let at = pack.len() - deflated(&[5, 6, 0b1001_0000, 5, 1, b'?']).len() - 21;
        pack[at] = 7 << 4 | 6;
        let mut hasher = Hasher::new();
        hasher.update(&pack);
        let own = hasher.finish().expect("an id");
        pack.extend(own.0);
        pack
    }

    fn receive(bytes: &[u8]) -> Result<Pack> {
        Pack::receive(&mut &*bytes, tempfile::tempfile().expect("a scratch file"))
    }

    #[test]
    fn objects_and_differences_are_read() {
        let pack = receive(&sample()).expect("a pack");
        for text in [&b"hello"[..], b"hello!\n", b"hello?"] {
            let id = id_of(Kind::Blob, text).expect("an id");
            let found = pack.find(&id).expect("it is read").map(|(kind, bytes)| (kind, bytes.to_vec()));
            assert_eq!(found, Some((Kind::Blob, text.to_vec())));
        }
        assert!(pack.find(&ObjectId([0; 20])).expect("it is read").is_none());
    }

    #[test]
    fn any_damage_is_an_error() {
        let sample = sample();
        for at in 0..sample.len() {
            let mut damaged = sample.clone();
            damaged[at] ^= 0x55;
            assert!(receive(&damaged).is_err(), "byte {at}");
            assert!(receive(&sample[..at]).is_err(), "cut at {at}");
        }
        assert!(receive(&[&sample[..], b"x"].concat()).is_err());
    }

    #[test]
    fn differences_that_do_not_fit_are_refused() {
        for difference in [
            &b""[..],
            b"\x05",
            b"\x04\x01\x01a",
            b"\x05\x01\0",
            b"\x05\x02\x01a",
            b"\x05\x01\x91\x09\x01",
            b"\x05\x01\x02a",
        ] {
            assert!(apply(b"hello", difference).is_err(), "{difference:?}");
        }
    }
}
