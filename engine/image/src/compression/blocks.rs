//! Compressing in blocks, by several threads.
//!
//! A stream is cut into blocks of a fixed size. Each is compressed on its own: gzip's are joined into one member, as
//! `pigz` does, since each ends on a byte boundary (a sync flush) and the checksums are combined; zstd's are frames. So
//! the bytes depend on nothing but the contents and the level, and every block is a place to start reading at.
//!
//! A block that a look at its middle shows to be compressed already (packages, images, archives) is stored by gzip:
//! trying costs the most where it gains nothing. Zstd finds that out by itself, quickly.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::{Compress, Crc, FlushCompress, Status};
use zstd::zstd_safe::{CCtx, CParameter};

use super::seek::{Point, SeekPoints};
use super::{Compression, GZIP_BLOCK, GZIP_SAMPLE, ZSTD_BLOCK};

/// A block on its way to a thread, with the place where its result is awaited.
type Job = (Vec<u8>, SyncSender<io::Result<Block>>);

struct Block {
    compressed: Vec<u8>,
    /// Bytes before compression.
    length: u64,
    /// Only gzip's.
    crc: Crc,
}

/// Which compressor, at which of its levels.
#[derive(Clone, Copy)]
enum Codec {
    Gzip(u32),
    Zstd(i32),
}

impl Codec {
    fn block_size(self) -> usize {
        match self {
            Self::Gzip(_) => GZIP_BLOCK,
            Self::Zstd(_) => ZSTD_BLOCK,
        }
    }
}

/// The writer of a compressed stream.
pub(super) struct Blocks<W> {
    writer: W,
    codec: Codec,
    filling: Vec<u8>,
    jobs: Option<SyncSender<Job>>,
    waiting: VecDeque<Receiver<io::Result<Block>>>,
    most_waiting: usize,
    crc: Crc,
    points: SeekPoints,
    /// Compressed bytes so far.
    written: u64,
}

/// Deflate, no flags, no time, and "unknown" as the operating system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty block with the "last" bit, which ends a deflate stream.
const DEFLATE_END: [u8; 2] = [3, 0];

impl<W: Write> Blocks<W> {
    pub(super) fn gzip(mut writer: W, threads: usize, level: u32) -> io::Result<Self> {
        writer.write_all(&GZIP_HEADER)?;
        Self::start(writer, threads, Codec::Gzip(level), GZIP_HEADER.len() as u64)
    }

    pub(super) fn zstd(writer: W, threads: usize, level: i32) -> io::Result<Self> {
        Self::start(writer, threads, Codec::Zstd(level), 0)
    }

    fn start(writer: W, threads: usize, codec: Codec, written: u64) -> io::Result<Self> {
        let threads = threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(std::sync::Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            let spawned = thread::Builder::new()
                .name("compress".to_owned())
                .spawn(move || compress_blocks(&queue, codec));
            match spawned {
                // A pod may allow few threads; one is enough.
                Err(_) if number > 0 => break,
                spawned => drop(spawned?),
            }
        }
        let compression = match codec {
            Codec::Gzip(_) => Compression::Gzip,
            Codec::Zstd(_) => Compression::Zstd,
        };
        Ok(Self {
            writer,
            codec,
            filling: Vec::with_capacity(codec.block_size()),
            jobs: Some(jobs),
            waiting: VecDeque::new(),
            most_waiting: threads * 2,
            crc: Crc::new(),
            points: SeekPoints::none(compression),
            written,
        })
    }

    fn send_block(&mut self) -> io::Result<()> {
        while self.waiting.len() >= self.most_waiting {
            self.receive_block()?;
        }
        let block = std::mem::replace(&mut self.filling, Vec::with_capacity(self.codec.block_size()));
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
            self.points.list.push(Point::aligned(self.points.size, self.written));
            self.points.size += block.length;
            self.write_through(&block.compressed)?;
        }
        Ok(())
    }

    fn write_through(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.writer.write_all(bytes)
    }

    pub(super) fn finish(mut self) -> io::Result<(W, SeekPoints)> {
        // An empty zstd stream is a frame, too.
        let nothing = self.points.list.is_empty() && self.waiting.is_empty();
        if !self.filling.is_empty() || (nothing && matches!(self.codec, Codec::Zstd(_))) {
            self.send_block()?;
        }
        while !self.waiting.is_empty() {
            self.receive_block()?;
        }
        self.jobs = None;
        if matches!(self.codec, Codec::Gzip(_)) {
            self.write_through(&DEFLATE_END)?;
            let (sum, amount) = (self.crc.sum(), self.crc.amount());
            self.write_through(&sum.to_le_bytes())?;
            self.write_through(&amount.to_le_bytes())?;
        }
        self.points.blob_size = self.written;
        Ok((self.writer, self.points))
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.codec.block_size();
        let count = bytes.len().min(size - self.filling.len());
        self.filling.extend_from_slice(&bytes[..count]);
        if self.filling.len() == size {
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

/// Compresses one block after the other.
type Compressor = Box<dyn FnMut(&[u8]) -> io::Result<Block>>;

/// What a compressing thread does until no more jobs can come.
fn compress_blocks(queue: &std::sync::Mutex<Receiver<Job>>, codec: Codec) {
    let mut compressor: Compressor = match codec {
        Codec::Gzip(level) => {
            let mut gzip = Gzip::new(level);
            Box::new(move |block| gzip.compress(block))
        }
        Codec::Zstd(level) => {
            let mut context = CCtx::create();
            Box::new(move |block| zstd_frame(&mut context, level, block))
        }
    };
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok((block, result)) = job else { return };
        // Nobody waits any more when the encoder was dropped half way.
        let _ = result.send(compressor(&block));
    }
}

fn zstd_frame(context: &mut CCtx<'static>, level: i32, block: &[u8]) -> io::Result<Block> {
    let failed = |code| io::Error::other(zstd::zstd_safe::get_error_name(code));
    for parameter in [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(true)] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    let mut compressed = Vec::with_capacity(zstd::zstd_safe::compress_bound(block.len()));
    context.compress2(&mut compressed, block).map_err(failed)?;
    Ok(Block { compressed, length: block.len() as u64, crc: Crc::new() })
}

struct Gzip {
    best: Compress,
    quick: Compress,
    stored: Compress,
    sample: Vec<u8>,
}

impl Gzip {
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
        Ok(Block { compressed, length: block.len() as u64, crc })
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
