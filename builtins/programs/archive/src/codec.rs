//! The four formats of compression behind one pair of functions.

use std::io::{self, BufRead, BufReader, Read, Write};

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Format {
    /// The ending of its files.
    pub(crate) fn suffix(self) -> &'static [u8] {
        match self {
            Self::Gzip => b".gz",
            Self::Bzip2 => b".bz2",
            Self::Xz => b".xz",
            Self::Zstd => b".zst",
        }
    }

    /// The format that data begin with.
    pub(crate) fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The format that a name's ending tells.
    pub(crate) fn by_name(name: &[u8]) -> Option<Self> {
        const ENDINGS: &[(&[u8], Format)] = &[
            (b".gz", Format::Gzip),
            (b".tgz", Format::Gzip),
            (b".taz", Format::Gzip),
            (b".bz2", Format::Bzip2),
            (b".tbz", Format::Bzip2),
            (b".tbz2", Format::Bzip2),
            (b".xz", Format::Xz),
            (b".txz", Format::Xz),
            (b".zst", Format::Zstd),
            (b".tzst", Format::Zstd),
        ];
        ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format)
    }
}

/// A compressor over an output; [`Encoder::finish`] writes what is left.
pub(crate) enum Encoder<W: Write> {
    Plain(W),
    Gzip(flate2::write::GzEncoder<W>),
    Bzip2(bzip2::write::BzEncoder<W>),
    Xz(Box<lzma_rust2::XzWriter<W>>),
    /// The compressor takes all at once.
    Zstd(Vec<u8>, W),
}

impl<W: Write> Encoder<W> {
    /// A compressor of a level; gzip's header takes a name and a time.
    pub(crate) fn new(
        format: Option<Format>,
        level: u32,
        header: Option<(Vec<u8>, u32)>,
        output: W,
    ) -> io::Result<Self> {
        Ok(match format {
            None => Self::Plain(output),
            Some(Format::Gzip) => {
                let mut builder = flate2::GzBuilder::new().operating_system(3);
                if let Some((name, time)) = header {
                    builder = builder.filename(name).mtime(time);
                }
                Self::Gzip(builder.write(output, flate2::Compression::new(level)))
            }
            Some(Format::Bzip2) => {
                Self::Bzip2(bzip2::write::BzEncoder::new(output, bzip2::Compression::new(level)))
            }
            Some(Format::Xz) => {
                let options = lzma_rust2::XzOptions::with_preset(level);
                Self::Xz(Box::new(lzma_rust2::XzWriter::new(output, options)?))
            }
            Some(Format::Zstd) => Self::Zstd(Vec::new(), output),
        })
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Bzip2(encoder) => encoder.finish(),
            Self::Xz(encoder) => encoder.finish(),
            Self::Zstd(data, mut output) => {
                ruzstd::encoding::compress(
                    &data[..],
                    &mut output,
                    ruzstd::encoding::CompressionLevel::Fastest,
                );
                Ok(output)
            }
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(data),
            Self::Gzip(encoder) => encoder.write(data),
            Self::Bzip2(encoder) => encoder.write(data),
            Self::Xz(encoder) => encoder.write(data),
            Self::Zstd(all, _) => all.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A decompressor over an input; `None` passes data on.
pub(crate) fn decoder<'a>(
    format: Option<Format>,
    input: impl BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match format {
        None => Box::new(input),
        Some(Format::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Some(Format::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Some(Format::Xz) => Box::new(lzma_rust2::XzReader::new(input, true)),
        Some(Format::Zstd) => Box::new(Frames { input: Some(input), decoder: None }),
    })
}

/// Frames of zstd one after another.
struct Frames<R: BufRead> {
    input: Option<R>,
    decoder: Option<Box<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>>,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                match decoder.read(buffer)? {
                    0 => self.input = self.decoder.take().map(|decoder| decoder.into_inner()),
                    count => return Ok(count),
                }
            }
            let Some(mut input) = self.input.take() else { return Ok(0) };
            if input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let decoder = ruzstd::decoding::StreamingDecoder::new(input)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            self.decoder = Some(Box::new(decoder));
        }
    }
}

/// Looks at the first bytes of an input.
pub(crate) fn detect<R: Read>(input: R) -> io::Result<(Option<Format>, BufReader<R>)> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let format = Format::of(input.fill_buf()?);
    Ok((format, input))
}
