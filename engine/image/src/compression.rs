//! Compressors of layers: plain, gzip and zstd.
//!
//! Reading goes by the first bytes, as every container engine does, whatever the media type says; gzip may have
//! many members and zstd many frames, one after the other, and nothing behind the last. Writing has one fixed level
//! per compressor: backend, level and block size are part of the promise that equal inputs give equal bytes, and
//! changing one is a release note.
//!
//! Compressing is the slowest part of an export, so it is done in [`blocks`] of a fixed size by several threads; the
//! bytes do not depend on their count. Every block can be read without those before it, so a layer of ours comes with
//! its [`seek`] points; those of others have to be looked for.

mod blocks;
pub mod seek;

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::thread;

use crate::manifest::media_type;
use blocks::Blocks;
use seek::SeekPoints;

/// The gzip level: the last one before the time grows faster than the size falls.
pub const GZIP_LEVEL: u32 = 5;
/// Bytes of a gzip layer that one thread compresses at a time.
pub const GZIP_BLOCK: usize = 512 << 10;
/// Bytes of a zstd layer that one thread compresses at a time, a frame of its own: twice the window of the usual level.
pub const ZSTD_BLOCK: usize = 4 << 20;
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
    None { writer: W, count: u64 },
    Blocks(Blocks<W>),
}

impl<W: Write> fmt::Debug for Kind<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None { .. } => "None",
            Self::Blocks(_) => "Blocks",
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
        Self::with_threads(compression, level, writer, thread_count())
    }

    /// Compresses with this many threads, on which the bytes do not depend.
    ///
    /// # Errors
    ///
    /// As [`Encoder::with_level`].
    pub fn with_threads(
        compression: Compression,
        level: Option<u32>,
        writer: W,
        threads: usize,
    ) -> io::Result<Self> {
        if level.is_some_and(|level| !compression.has_level(level)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the compressor has no such level"));
        }
        Ok(Self(match compression {
            Compression::None => Kind::None { writer, count: 0 },
            Compression::Gzip => Kind::Blocks(Blocks::gzip(writer, threads, level.unwrap_or(GZIP_LEVEL))?),
            Compression::Zstd => {
                let level = level.map_or(ZSTD_LEVEL, u32::cast_signed);
                Kind::Blocks(Blocks::zstd(writer, threads, level)?)
            }
        }))
    }

    /// Ends the stream and gives the writer back, with the places where reading can start.
    ///
    /// # Errors
    ///
    /// What the writer gives.
    pub fn finish(self) -> io::Result<(W, SeekPoints)> {
        match self.0 {
            Kind::None { writer, count } => Ok((writer, SeekPoints::plain(count))),
            Kind::Blocks(blocks) => blocks.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::None { writer, count } => {
                let written = writer.write(bytes)?;
                *count += written as u64;
                Ok(written)
            }
            Kind::Blocks(blocks) => blocks.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn thread_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
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
        encoder.finish().unwrap().0
    }

    fn decompress(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut out = Vec::new();
        let (compression, mut reader) = decoder(bytes)?;
        reader.read_to_end(&mut out)?;
        Ok((compression, out))
    }

    #[test]
    fn all_sizes_come_back_and_the_kind_is_recognised() {
        for length in
            [0, 1, 1000, GZIP_BLOCK - 1, GZIP_BLOCK, GZIP_BLOCK + 1, 5 * GZIP_BLOCK + 17, ZSTD_BLOCK + 3]
        {
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
        let bytes = sample(2 * ZSTD_BLOCK + 5);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let with = |threads| {
                let mut encoder = Encoder::with_threads(compression, None, Vec::new(), threads).unwrap();
                encoder.write_all(&bytes).unwrap();
                encoder.finish().unwrap()
            };
            assert!(with(1) == with(4), "{compression:?}");
        }
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
