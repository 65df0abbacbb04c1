//! Compressors of layers: plain, gzip and zstd.
//!
//! Reading goes by the first bytes, as every container engine does, whatever the media type says; gzip may have
//! many members and zstd many frames, one after the other, and nothing behind the last. Writing has one fixed level
//! per compressor: backend, level and block size are part of the promise that equal inputs give equal bytes, and
//! changing one is a release note.
//!
//! Gzip is the slowest part of an export, so it is compressed in blocks of [`GZIP_BLOCK`] bytes by several threads.
//! The blocks are joined into one member, as `pigz` does: each ends on a byte boundary (a sync flush), the checksums
//! are combined, and the bytes do not depend on the count of threads. A block that a look at its middle shows to be
//! compressed already (packages, images, archives) is stored: trying costs the most where it gains nothing.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::{Compress, Crc, FlushCompress, Status};

use crate::manifest::media_type;

/// The gzip level: the last one before the time grows faster than the size falls.
pub const GZIP_LEVEL: u32 = 5;
/// Bytes that one thread compresses at a time.
pub const GZIP_BLOCK: usize = 512 << 10;
/// Bytes in the middle of a block that tell whether it is worth compressing.
pub const GZIP_SAMPLE: usize = 16 << 10;
/// The levels that gzip has.
pub const GZIP_LEVELS: std::ops::RangeInclusive<u32> = 0..=9;
/// The levels that zstd has.
pub const ZSTD_LEVELS: std::ops::RangeInclusive<u32> = 1..=22;
/// The zstd level, the one that `zstd` itself uses.
pub const ZSTD_LEVEL: i32 = 3;
/// Bound on the memory that a zstd frame may ask for, as a power of two: 128 MiB, what `zstd` itself allows.
pub const ZSTD_WINDOW_LOG: u32 = 27;
/// Threads beyond this many do not help: the layer's own tar and digest become the slower part.
const MOST_THREADS: usize = 8;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd skippable frame may come first; its magic has sixteen values, `50` to `5f`.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip, what everybody reads.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// The OCI media type of such a layer.
    pub fn layer_media_type(self) -> &'static str {
        match self {
            Self::None => media_type::LAYER,
            Self::Gzip => media_type::LAYER_GZIP,
            Self::Zstd => media_type::LAYER_ZSTD,
        }
    }

    /// Whether there is such a level.
    pub fn has_level(self, level: u32) -> bool {
        match self {
            Self::None => false,
            Self::Gzip => GZIP_LEVELS.contains(&level),
            Self::Zstd => ZSTD_LEVELS.contains(&level),
        }
    }

    /// The compressor of a layer with this media type, OCI's or Docker's; none when it is no layer of ours.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let kind = media_type::to_oci(media_type);
        [Self::None, Self::Gzip, Self::Zstd].into_iter().find(|one| one.layer_media_type() == kind)
    }

    /// Recognises a compressor by the first bytes.
    pub fn detect(first: &[u8]) -> Self {
        if first.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if first.starts_with(&ZSTD_MAGIC)
            || (first.len() >= 4 && first[0] & 0xf0 == 0x50 && first[1..4] == ZSTD_SKIPPABLE)
        {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Reads what `reader` holds, decompressed, and says how it was compressed.
///
/// # Errors
///
/// What `reader` gives. Damaged or truncated data and trailing bytes are errors of the returned reader.
pub fn decoder<'a, R: BufRead + Send + 'a>(
    mut reader: R,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let compression = Compression::detect(reader.fill_buf()?);
    let decoded: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok((compression, decoded))
}

/// Compresses what is written to it.
#[derive(Debug)]
pub struct Encoder<W: Write>(Kind<W>);

enum Kind<W: Write> {
    None(W),
    Gzip(ParallelGzip<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> fmt::Debug for Kind<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None(_) => "None",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<W: Write> Encoder<W> {
    /// Compresses into `writer`, at the usual level.
    ///
    /// # Errors
    ///
    /// When the compressor has no memory or `writer` does not take the header.
    pub fn new(compression: Compression, writer: W) -> io::Result<Self> {
        Self::with_level(compression, None, writer)
    }

    /// Compresses into `writer`, at a level of the compressor's own scale.
    ///
    /// # Errors
    ///
    /// When there is no such level, and as [`Encoder::new`].
    pub fn with_level(compression: Compression, level: Option<u32>, writer: W) -> io::Result<Self> {
        if level.is_some_and(|level| !compression.has_level(level)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the compressor has no such level"));
        }
        Ok(Self(match compression {
            Compression::None => Kind::None(writer),
            Compression::Gzip => {
                Kind::Gzip(ParallelGzip::new(writer, thread_count(), level.unwrap_or(GZIP_LEVEL))?)
            }
            Compression::Zstd => {
                let level = level.map_or(ZSTD_LEVEL, u32::cast_signed);
                let mut encoder = zstd::stream::write::Encoder::new(writer, level)?;
                encoder.include_checksum(true)?;
                Kind::Zstd(encoder)
            }
        }))
    }

    /// Ends the stream and gives the writer back.
    ///
    /// # Errors
    ///
    /// What the writer gives.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Kind::None(writer) => Ok(writer),
            Kind::Gzip(encoder) => encoder.finish(),
            Kind::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::None(writer) => writer.write(bytes),
            Kind::Gzip(encoder) => encoder.write(bytes),
            Kind::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn thread_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}

/// A block on its way to a thread, with the place where its result is awaited.
type Job = (Vec<u8>, SyncSender<io::Result<Block>>);

struct Block {
    compressed: Vec<u8>,
    crc: Crc,
}

struct ParallelGzip<W> {
    writer: W,
    filling: Vec<u8>,
    jobs: Option<SyncSender<Job>>,
    waiting: VecDeque<Receiver<io::Result<Block>>>,
    most_waiting: usize,
    crc: Crc,
}

/// Deflate, no flags, no time, and "unknown" as the operating system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty block with the "last" bit, which ends a deflate stream.
const DEFLATE_END: [u8; 2] = [3, 0];

impl<W: Write> ParallelGzip<W> {
    fn new(mut writer: W, threads: usize, level: u32) -> io::Result<Self> {
        writer.write_all(&GZIP_HEADER)?;
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(std::sync::Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            let spawned =
                thread::Builder::new().name("gzip".to_owned()).spawn(move || compress_blocks(&queue, level));
            match spawned {
                // A pod may allow few threads; one is enough.
                Err(_) if number > 0 => break,
                spawned => drop(spawned?),
            }
        }
        let filling = Vec::with_capacity(GZIP_BLOCK);
        let waiting = VecDeque::new();
        Ok(Self { writer, filling, jobs: Some(jobs), waiting, most_waiting: threads * 2, crc: Crc::new() })
    }

    fn send_block(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        while self.waiting.len() >= self.most_waiting {
            self.receive_block()?;
        }
        let block = std::mem::replace(&mut self.filling, Vec::with_capacity(GZIP_BLOCK));
        let (sender, receiver) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(lost_thread)?;
        jobs.send((block, sender)).map_err(|_| lost_thread())?;
        self.waiting.push_back(receiver);
        Ok(())
    }

    fn receive_block(&mut self) -> io::Result<()> {
        if let Some(receiver) = self.waiting.pop_front() {
            let block = receiver.recv().map_err(|_| lost_thread())??;
            self.crc.combine(&block.crc);
            self.writer.write_all(&block.compressed)?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.send_block()?;
        while !self.waiting.is_empty() {
            self.receive_block()?;
        }
        self.jobs = None;
        self.writer.write_all(&DEFLATE_END)?;
        self.writer.write_all(&self.crc.sum().to_le_bytes())?;
        self.writer.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.writer)
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(GZIP_BLOCK - self.filling.len());
        self.filling.extend_from_slice(&bytes[..count]);
        if self.filling.len() == GZIP_BLOCK {
            self.send_block()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lost_thread() -> io::Error {
    io::Error::other("a compressing thread ended early")
}

/// What a compressing thread does until no more jobs can come.
fn compress_blocks(queue: &std::sync::Mutex<Receiver<Job>>, level: u32) {
    let mut compressor = BlockCompressor::new(level);
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok((block, result)) = job else { return };
        // Nobody waits any more when the encoder was dropped half way.
        let _ = result.send(compressor.compress(&block));
    }
}

struct BlockCompressor {
    best: Compress,
    quick: Compress,
    stored: Compress,
    sample: Vec<u8>,
}

impl BlockCompressor {
    fn new(best: u32) -> Self {
        let level = |level| Compress::new(flate2::Compression::new(level), false);
        Self { best: level(best), quick: level(1), stored: level(0), sample: Vec::new() }
    }

    fn compress(&mut self, block: &[u8]) -> io::Result<Block> {
        let deflate = if self.is_worth_it(block)? { &mut self.best } else { &mut self.stored };
        let mut crc = Crc::new();
        crc.update(block);
        let mut compressed = Vec::with_capacity(block.len() / 2 + 1024);
        deflate_all(deflate, block, &mut compressed)?;
        Ok(Block { compressed, crc })
    }

    /// Whether the middle of a block shrinks by more than one part in 64 at the quickest level.
    fn is_worth_it(&mut self, block: &[u8]) -> io::Result<bool> {
        let Some(start) = block.len().checked_sub(2 * GZIP_SAMPLE).map(|rest| (rest + GZIP_SAMPLE) / 2)
        else {
            return Ok(true);
        };
        let sample = &block[start..start + GZIP_SAMPLE];
        self.sample.clear();
        deflate_all(&mut self.quick, sample, &mut self.sample)?;
        Ok(self.sample.len() < GZIP_SAMPLE - GZIP_SAMPLE / 64)
    }
}

/// Compresses bytes up to a sync flush, which is complete when the compressor leaves room in the output.
fn deflate_all(deflate: &mut Compress, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    deflate.reset();
    let mut done = 0;
    loop {
        if out.capacity() - out.len() < 1024 {
            out.reserve(bytes.len() / 2 + 1024);
        }
        let before = deflate.total_in();
        let status =
            deflate.compress_vec(&bytes[done..], out, FlushCompress::Sync).map_err(io::Error::other)?;
        done += usize::try_from(deflate.total_in() - before).map_err(io::Error::other)?;
        let room_left = out.capacity() > out.len();
        if done == bytes.len() && (room_left || status == Status::BufError) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 24
        };
        (0..length).map(|at| if at % 7 == 0 { next() as u8 } else { b'a' }).collect()
    }

    fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decompress(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut out = Vec::new();
        let (compression, mut reader) = decoder(bytes)?;
        reader.read_to_end(&mut out)?;
        Ok((compression, out))
    }

    #[test]
    fn all_sizes_come_back_and_the_kind_is_recognised() {
        for length in [0, 1, 1000, GZIP_BLOCK - 1, GZIP_BLOCK, GZIP_BLOCK + 1, 5 * GZIP_BLOCK + 17] {
            let bytes = sample(length);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let compressed = compress(compression, &bytes);
                let (found, again) = decompress(&compressed).unwrap();
                assert!(again == bytes, "{compression:?} {length}");
                assert_eq!(found, compression);
            }
        }
    }

    #[test]
    fn random_bytes_that_do_not_compress_come_back() {
        let mut state = 7_u64;
        let bytes: Vec<u8> = (0..3 * GZIP_BLOCK)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        let compressed = compress(Compression::Gzip, &bytes);
        assert!(decompress(&compressed).unwrap().1 == bytes);
        assert!(compressed.len() < bytes.len() + 1024, "stored, with little around it");
    }

    #[test]
    fn the_count_of_threads_does_not_change_the_bytes() {
        let bytes = sample(3 * GZIP_BLOCK + 5);
        let with = |threads| {
            let mut encoder = ParallelGzip::new(Vec::new(), threads, GZIP_LEVEL).unwrap();
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert!(with(1) == with(3));
    }

    #[test]
    fn gzip_is_one_member_that_a_single_member_reader_takes() {
        let bytes = sample(2 * GZIP_BLOCK + 5);
        let mut out = Vec::new();
        flate2::bufread::GzDecoder::new(&compress(Compression::Gzip, &bytes)[..])
            .read_to_end(&mut out)
            .unwrap();
        assert!(out == bytes);
    }

    #[test]
    fn several_members_are_one_stream_and_trailing_bytes_are_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut twice = compress(compression, b"one ");
            twice.extend(compress(compression, b"two"));
            assert_eq!(decompress(&twice).unwrap().1, b"one two");
            twice.extend(b"garbage");
            assert!(decompress(&twice).is_err(), "{compression:?}");
            let whole = compress(compression, &sample(5000));
            assert!(decompress(&whole[..whole.len() - 3]).is_err(), "{compression:?}");
        }
    }
}
