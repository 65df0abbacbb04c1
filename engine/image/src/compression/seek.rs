//! Seek points: places of a compressed blob at which decompression can start.
//!
//! A gzip layer of somebody else is one long stream; a point in it is the end of a deflate block, with the bits that are
//! left of the byte it ends in and the 32 KiB of output before it, which what follows may refer to. Blocks of our own
//! refer to nothing before them, and zstd frames never do, so their points are two numbers. A reader takes the last
//! point before what it wants, and the bytes of the blob from there to the first point behind it.
//!
//! The format of deflate and gzip is that of RFC 1951 and RFC 1952.

use std::io::{self, BufRead, BufReader, Read};

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_IGNORE_ADLER32, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY,
};
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress};

use super::{Compression, ZSTD_WINDOW_LOG};
use crate::wire::{Reader, Writer};

/// Bytes of the tar between two points that are looked for: what has to be decompressed for the sake of one file.
pub const SPAN: u64 = 4 << 20;
/// Output that deflate may refer to, in bytes.
pub const WINDOW: usize = 32 << 10;
/// Bytes of the ring that output goes through; a power of two, and twice the window.
const RING: usize = 64 << 10;
/// Compressed bytes that are read at a time.
const BUFFER: usize = 64 << 10;
/// Bound on the fields of a gzip header, in bytes.
const HEADER_BYTES: usize = 64 << 10;

/// A place to start at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Offset in the decompressed stream, in bytes.
    pub tar: u64,
    /// Offset in the blob, in bytes.
    pub blob: u64,
    /// How many bits of the byte before that offset belong to what follows: 0 to 7.
    pub bits: u8,
    /// Those bits.
    pub value: u8,
    /// The output before the point, as far as it may be referred to; empty where nothing is.
    pub window: Vec<u8>,
}

impl Point {
    /// A point that needs nothing of what is before it.
    pub fn aligned(tar: u64, blob: u64) -> Self {
        Self { tar, blob, bits: 0, value: 0, window: Vec::new() }
    }
}

/// The points of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekPoints {
    /// How the blob is compressed.
    pub compression: Compression,
    /// Length of the decompressed stream, in bytes.
    pub size: u64,
    /// Length of the blob, in bytes.
    pub blob_size: u64,
    /// The points, sorted by offset.
    pub list: Vec<Point>,
}

impl SeekPoints {
    /// Those of a blob that is not compressed, of which every byte is one.
    pub fn plain(size: u64) -> Self {
        Self { compression: Compression::None, size, blob_size: size, list: Vec::new() }
    }

    /// None yet.
    pub(super) fn none(compression: Compression) -> Self {
        Self { compression, size: 0, blob_size: 0, list: Vec::new() }
    }

    /// Reads a whole blob and finds its points.
    ///
    /// # Errors
    ///
    /// What `blob` gives, and damaged data.
    pub fn find(blob: impl Read) -> io::Result<Self> {
        let mut raw = Counted { inner: BufReader::with_capacity(BUFFER, blob), count: 0 };
        let compression = Compression::detect(raw.fill_buf()?);
        let mut found = Self::none(compression);
        match compression {
            Compression::None => found.size = io::copy(&mut raw, &mut io::sink())?,
            Compression::Gzip => return find_in_gzip(raw, found),
            Compression::Zstd => find_in_zstd(&mut raw, &mut found)?,
        }
        found.blob_size = raw.count;
        Ok(found)
    }

    /// Where to start for the byte of the stream at `tar`.
    pub fn before(&self, tar: u64) -> Point {
        if self.compression == Compression::None {
            return Point::aligned(tar, tar);
        }
        match self.list.partition_point(|point| point.tar <= tar).checked_sub(1) {
            Some(index) => self.list[index].clone(),
            // As before the first point: the beginning of the blob, with its headers.
            None => Point::aligned(0, 0),
        }
    }

    /// The range of the stream that is decompressed anyway to get at a range of it, and the end of the bytes of the blob
    /// that are needed for it.
    pub fn behind(&self, tar: u64) -> (u64, u64) {
        if self.compression == Compression::None {
            return (tar, tar);
        }
        let index = self.list.partition_point(|point| point.tar < tar);
        self.list.get(index).map_or((self.size, self.blob_size), |point| (point.tar, point.blob))
    }

    /// Reads the stream from a point on; `blob` starts at the point's offset in the blob.
    ///
    /// # Errors
    ///
    /// When the decompressor has no memory.
    pub fn reader<'b>(&self, point: &Point, blob: impl Read + 'b) -> io::Result<Box<dyn Read + 'b>> {
        Ok(match self.compression {
            Compression::None => Box::new(blob),
            Compression::Gzip => {
                let raw = Counted { inner: BufReader::with_capacity(BUFFER, blob), count: 0 };
                // A blob without points is read from its header on.
                Box::new(Inflate::resume(raw, point, point.blob == 0))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(blob)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// Version of the points' layout.
const VERSION: u8 = 1;

impl SeekPoints {
    /// The points as bytes, for records.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.byte(VERSION);
        self.encode_to(&mut out);
        out.bytes
    }

    /// Points from [`encode`](Self::encode)'s bytes; none when they make no sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.byte()? == VERSION).then_some(())?;
        let points = Self::decode_from(&mut reader)?;
        reader.is_empty().then_some(points)
    }

    pub(crate) fn encode_to(&self, out: &mut Writer) {
        out.byte(match self.compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Zstd => 2,
        });
        for number in [self.size, self.blob_size, self.list.len() as u64] {
            out.number(number);
        }
        let (mut tar, mut blob) = (0, 0);
        for point in &self.list {
            out.number(point.tar - tar);
            out.number(point.blob - blob);
            (tar, blob) = (point.tar, point.blob);
            out.byte(point.bits);
            out.byte(point.value);
            out.text(&point.window);
        }
    }

    pub(crate) fn decode_from(reader: &mut Reader<'_>) -> Option<Self> {
        let compression = match reader.byte()? {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Zstd,
            _ => return None,
        };
        let (size, blob_size, count) = (reader.number()?, reader.number()?, reader.number()?);
        let mut points = Self { compression, size, blob_size, list: Vec::new() };
        let (mut tar, mut blob) = (0_u64, 0_u64);
        for _ in 0..count {
            tar = tar.checked_add(reader.number()?).filter(|tar| *tar <= size)?;
            blob = blob.checked_add(reader.number()?).filter(|blob| *blob <= blob_size)?;
            let (bits, value) = (reader.byte().filter(|bits| *bits < 8)?, reader.byte()?);
            let window = reader.text().filter(|window| window.len() <= WINDOW)?.to_vec();
            points.list.push(Point { tar, blob, bits, value, window });
        }
        Some(points)
    }
}

fn find_in_gzip(raw: Counted<impl BufRead>, mut found: SeekPoints) -> io::Result<SeekPoints> {
    let mut inflate = Inflate::resume(raw, &Point::aligned(0, 0), true);
    inflate.stops = true;
    loop {
        let due = found.list.last().is_none_or(|last| inflate.produced - last.tar >= SPAN);
        if due && let Some(point) = inflate.point() {
            found.list.push(point);
        }
        if !inflate.advance()? {
            (found.size, found.blob_size) = (inflate.produced, inflate.raw.count);
            return Ok(found);
        }
        inflate.given = inflate.position;
    }
}

fn find_in_zstd(raw: &mut Counted<impl BufRead>, found: &mut SeekPoints) -> io::Result<()> {
    while !raw.fill_buf()?.is_empty() {
        found.list.push(Point::aligned(found.size, raw.count));
        let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut *raw)?.single_frame();
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        found.size += io::copy(&mut decoder, &mut io::sink())?;
    }
    Ok(())
}

/// Counts what was taken of a reader.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.count += amount as u64;
        self.inner.consume(amount);
    }
}

/// Decompresses gzip from a point on.
struct Inflate<R> {
    raw: Counted<R>,
    state: Box<DecompressorOxide>,
    /// Output, the newest before `position`.
    ring: Vec<u8>,
    position: usize,
    /// Up to where the output was given away.
    given: usize,
    /// Bytes of output since the beginning of the stream.
    produced: u64,
    /// Bytes of the window that are real.
    known: usize,
    /// Whether to stop between blocks.
    stops: bool,
    /// Between two blocks, or at the beginning of a member.
    at_boundary: bool,
    /// A header comes next.
    at_header: bool,
    done: bool,
}

fn damaged(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<R: BufRead> Inflate<R> {
    fn resume(raw: Counted<R>, point: &Point, at_header: bool) -> Self {
        let mut ring = vec![0; RING];
        let window = &point.window[point.window.len().saturating_sub(WINDOW)..];
        ring[WINDOW - window.len()..WINDOW].copy_from_slice(window);
        let state =
            BlockBoundaryState { num_bits: point.bits & 7, bit_buf: point.value, ..Default::default() };
        Self {
            raw,
            state: Box::new(DecompressorOxide::from_block_boundary_state(&state)),
            ring,
            position: WINDOW,
            given: WINDOW,
            produced: point.tar,
            known: window.len(),
            stops: false,
            at_boundary: !at_header,
            at_header,
            done: false,
        }
    }

    /// The point here, when this is one.
    fn point(&self) -> Option<Point> {
        if !self.at_boundary {
            return None;
        }
        let BlockBoundaryState { num_bits, bit_buf, .. } = self.state.block_boundary_state()?;
        let window = (0..self.known).rev().map(|back| self.ring[(self.position + RING - 1 - back) % RING]);
        let (tar, blob) = (self.produced, self.raw.count);
        Some(Point { tar, blob, bits: num_bits, value: bit_buf, window: window.collect() })
    }

    /// Decompresses a piece; false at the end of the stream. All output before has to be given away.
    fn advance(&mut self) -> io::Result<bool> {
        if self.done {
            return Ok(false);
        }
        if self.at_header {
            if self.raw.fill_buf()?.is_empty() {
                self.done = true;
                return Ok(false);
            }
            read_header(&mut self.raw)?;
            let state = BlockBoundaryState::default();
            *self.state = DecompressorOxide::from_block_boundary_state(&state);
            (self.at_header, self.at_boundary, self.known) = (false, true, 0);
            return Ok(true);
        }
        if self.position == RING {
            (self.position, self.given) = (0, 0);
        }
        let input = self.raw.fill_buf()?;
        let more = if input.is_empty() { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
        let stop = if self.stops { TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY } else { 0 };
        let flags = more | stop | TINFL_FLAG_IGNORE_ADLER32;
        let (status, taken, made) = decompress(&mut self.state, input, &mut self.ring, self.position, flags);
        self.raw.consume(taken);
        self.position += made;
        self.produced += made as u64;
        self.known = (self.known + made).min(WINDOW);
        self.at_boundary = status == TINFLStatus::BlockBoundary;
        match status {
            TINFLStatus::BlockBoundary | TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput => Ok(true),
            TINFLStatus::Done => {
                // Checksum and length: what is read is checked against its content id.
                self.raw.read_exact(&mut [0; 8])?;
                self.at_header = true;
                Ok(true)
            }
            _ => Err(damaged("the gzip data is damaged or cut off")),
        }
    }
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.position {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.position - self.given);
        buffer[..count].copy_from_slice(&self.ring[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// Passes over a gzip header (RFC 1952, 2.3).
fn read_header(raw: &mut impl BufRead) -> io::Result<()> {
    let mut fixed = [0; 10];
    raw.read_exact(&mut fixed)?;
    if fixed[..3] != [0x1f, 0x8b, 8] {
        return Err(damaged("bytes behind the end of the gzip data"));
    }
    let flags = fixed[3];
    if flags & 4 != 0 {
        let mut length = [0; 2];
        raw.read_exact(&mut length)?;
        let mut extra = vec![0; usize::from(u16::from_le_bytes(length))];
        raw.read_exact(&mut extra)?;
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let mut text = Vec::new();
            let mut limited = Read::take(&mut *raw, HEADER_BYTES as u64);
            limited.read_until(0, &mut text)?;
            if text.last() != Some(&0) {
                return Err(damaged("a gzip header without an end"));
            }
        }
    }
    if flags & 2 != 0 {
        raw.read_exact(&mut [0; 2])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::{Encoder, GZIP_BLOCK};
    use super::*;

    fn sample(length: usize) -> Vec<u8> {
        let mut random = crate::random::Random::new(5);
        let words: Vec<Vec<u8>> = (0..500).map(|_| random.bytes(9)).collect();
        let mut bytes = Vec::new();
        while bytes.len() < length {
            bytes.extend_from_slice(&words[random.below(500) as usize]);
        }
        bytes.truncate(length);
        bytes
    }

    fn check(points: &SeekPoints, blob: &[u8], stream: &[u8]) {
        assert_eq!((points.size, points.blob_size), (stream.len() as u64, blob.len() as u64));
        assert_eq!(SeekPoints::decode(&points.encode()).as_ref(), Some(points));
        for at in [0, 1, stream.len() / 3, stream.len() / 2, stream.len() - 7] {
            let point = points.before(at as u64);
            let wanted = (stream.len() - at).min(100_000);
            let (_, end) = points.behind((at + wanted) as u64);
            let part = &blob[point.blob as usize..end as usize];
            let mut reader = points.reader(&point, part).unwrap();
            io::copy(&mut (&mut reader).take(at as u64 - point.tar), &mut io::sink()).unwrap();
            let mut read = vec![0; wanted];
            reader.read_exact(&mut read).unwrap();
            assert!(read == stream[at..at + wanted], "{:?} at {at}", points.compression);
        }
    }

    #[test]
    fn every_place_of_our_own_layers_can_be_read() {
        let stream = sample(9 << 20);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
            encoder.write_all(&stream).unwrap();
            let (blob, points) = encoder.finish().unwrap();
            check(&points, &blob, &stream);
            check(&SeekPoints::find(&blob[..]).unwrap(), &blob, &stream);
        }
    }

    #[test]
    fn a_long_stream_of_somebody_else_has_points_with_windows() {
        let stream = sample(18 << 20);
        let mut gzip = flate2::GzBuilder::new()
            .filename("name")
            .extra(&b"x"[..])
            .write(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(&stream).unwrap();
        let mut blob = gzip.finish().unwrap();
        // A second member.
        let mut encoder = Encoder::new(Compression::Gzip, Vec::new()).unwrap();
        encoder.write_all(&stream[..GZIP_BLOCK + 3]).unwrap();
        blob.extend(encoder.finish().unwrap().0);
        let stream = [&stream[..], &stream[..GZIP_BLOCK + 3]].concat();
        let points = SeekPoints::find(&blob[..]).unwrap();
        assert!(points.list.len() > 3, "{}", points.list.len());
        assert!(points.list[1].window.len() == WINDOW);
        check(&points, &blob, &stream);
    }

    #[test]
    fn damaged_streams_are_errors() {
        let stream = sample(200_000);
        let mut encoder = Encoder::new(Compression::Gzip, Vec::new()).unwrap();
        encoder.write_all(&stream).unwrap();
        let blob = encoder.finish().unwrap().0;
        assert!(SeekPoints::find(&blob[..blob.len() / 2]).is_err());
        assert!(SeekPoints::find(&[&blob[..], b"more"].concat()[..]).is_err());
    }
}
