//! What a step's process and its parent say to each other.
//!
//! To the process: a length (4 bytes, little endian) and the request as JSON; what follows on the same descriptor is the
//! step's standard input, or, for a step at a terminal, frames of what is [`Typed`]. From the process: frames of a tag (1 byte), a length (4 bytes, little endian) and that many bytes. The last
//! frame is the answer; a stream that ends without one means that the process died.

use std::io::{self, Read, Write};

use cooper_build::step::{StepError, StepOutcome, StepRequest};
use serde::{Deserialize, Serialize};

/// The largest request: room for many secrets and a long environment, and a bound for a broken peer.
const MAX_REQUEST: u32 = 64 << 20;
/// The largest frame: an answer with many hints stays far below.
const MAX_FRAME: u32 = 16 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Bytes of standard output.
    Stdout = 1,
    /// Bytes of standard error.
    Stderr = 2,
    /// An [`Answer`].
    Answer = 3,
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Answer].into_iter().find(|tag| *tag as u8 == byte)
    }
}

/// How the step's process ends its talk.
pub(crate) type Answer = Result<StepOutcome, Failure>;

/// The part of [`StepError`] that a step's process can answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// [`StepError::Execute`]
    Execute {
        /// Element 0 of the arguments.
        program: String,
        /// Why not.
        reason: String,
        /// There is no such file.
        missing: bool,
        /// A next action.
        hint: Option<String>,
    },
    /// [`StepError::Unsupported`]
    Unsupported(String),
    /// [`StepError::Store`]
    Store(String),
    /// The process could not do its work, for a reason that is not the step's.
    Died(String),
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Execute { program, reason, missing, hint } => {
                Self::Execute { program, reason, missing, hint }
            }
            Failure::Unsupported(what) => Self::Unsupported(what),
            Failure::Store(why) => Self::Store(why),
            Failure::Died(why) => Self::Died(why),
        }
    }
}

/// Writes a request.
pub(crate) fn write_request(out: &mut impl Write, request: &StepRequest) -> io::Result<()> {
    let bytes = serde_json::to_vec(request)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_REQUEST);
    let length = length.ok_or_else(|| io::Error::other("the request of the step is too large"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&bytes)?;
    out.flush()
}

/// Reads a request and not a byte more.
pub(crate) fn read_request(input: &mut impl Read) -> io::Result<StepRequest> {
    let bytes = read_sized(input, MAX_REQUEST)?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}

/// What happens at the terminal of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Keys were pressed.
    Keys(Vec<u8>),
    /// It has another size.
    Size {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
}

const KEYS: u8 = 1;
const SIZE: u8 = 2;

/// Writes what happened at the terminal.
pub(crate) fn write_typed(out: &mut impl Write, typed: &Typed) -> io::Result<()> {
    let (tag, bytes) = match typed {
        Typed::Keys(keys) => (KEYS, keys.clone()),
        Typed::Size { rows, columns } => (SIZE, [rows.to_le_bytes(), columns.to_le_bytes()].concat()),
    };
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&[&[tag], &length.to_le_bytes()[..], &bytes].concat())?;
    out.flush()
}

/// Reads what happened at the terminal; `None` at the end of the stream.
pub(crate) fn read_typed(input: &mut impl Read) -> io::Result<Option<Typed>> {
    let mut tag = [0];
    if input.read(&mut tag)? == 0 {
        return Ok(None);
    }
    let bytes = read_sized(input, MAX_FRAME)?;
    match (tag[0], bytes.as_slice()) {
        (KEYS, _) => Ok(Some(Typed::Keys(bytes))),
        (SIZE, &[a, b, c, d]) => {
            Ok(Some(Typed::Size { rows: u16::from_le_bytes([a, b]), columns: u16::from_le_bytes([c, d]) }))
        }
        _ => Err(io::Error::other("a frame of an unknown kind")),
    }
}

/// Writes a frame.
pub(crate) fn write_frame(out: &mut impl Write, tag: Tag, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut header = [tag as u8, 0, 0, 0, 0];
    header[1..].copy_from_slice(&length.to_le_bytes());
    out.write_all(&header)?;
    out.write_all(bytes)?;
    out.flush()
}

/// Reads a frame; `None` at the end of the stream.
pub(crate) fn read_frame(input: &mut impl Read) -> io::Result<Option<(Tag, Vec<u8>)>> {
    let mut tag = [0];
    if input.read(&mut tag)? == 0 {
        return Ok(None);
    }
    let tag = Tag::from_byte(tag[0]).ok_or_else(|| io::Error::other("a frame of an unknown kind"))?;
    Ok(Some((tag, read_sized(input, MAX_FRAME)?)))
}

fn read_sized(input: &mut impl Read, max: u32) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > max {
        return Err(io::Error::other(format!("a message of {length} bytes, more than {max}")));
    }
    let mut bytes = vec![0; length as usize];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order() {
        let mut stream = Vec::new();
        write_frame(&mut stream, Tag::Stdout, b"one").expect("memory");
        write_frame(&mut stream, Tag::Answer, b"").expect("memory");
        let mut input = stream.as_slice();
        assert_eq!(read_frame(&mut input).expect("a frame"), Some((Tag::Stdout, b"one".to_vec())));
        assert_eq!(read_frame(&mut input).expect("a frame"), Some((Tag::Answer, Vec::new())));
        assert_eq!(read_frame(&mut input).expect("the end"), None);
    }

    #[test]
    fn what_is_typed_comes_back() {
        let all = [Typed::Keys(b"ls\r".to_vec()), Typed::Size { rows: 24, columns: 300 }];
        let mut stream = Vec::new();
        all.iter().for_each(|typed| write_typed(&mut stream, typed).expect("memory"));
        let mut input = stream.as_slice();
        for typed in all {
            assert_eq!(read_typed(&mut input).expect("a frame"), Some(typed));
        }
        assert_eq!(read_typed(&mut input).expect("the end"), None);
        assert!(read_typed(&mut &[SIZE, 1, 0, 0, 0, 9][..]).is_err());
    }

    #[test]
    fn broken_frames_are_errors() {
        for bytes in [&[9, 0, 0, 0, 0][..], &[1, 255, 255, 255, 255], &[1, 4, 0, 0, 0, 1], &[1, 0]] {
            assert!(read_frame(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
