//! Transfers to and from a guest's memory.

use super::transfer::{Input, MAX_TRANSFER, Output};
use super::{Errno, description::transfer_length};
use crate::memory::AddressSpace;

/// The most segments of a `readv` or `writev` (`UIO_MAXIOV`).
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// One piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First address.
    pub(crate) address: u64,
    /// Length in bytes.
    pub(crate) length: usize,
}

/// The buffer of a transfer, in one or several pieces.
#[derive(Debug)]
pub(crate) enum Buffer {
    /// One piece.
    One([Segment; 1]),
    /// The pieces of an `iovec` array.
    Many(Vec<Segment>),
}

impl Buffer {
    /// The buffer of a plain `read` or `write`; cut to what one call moves.
    pub(crate) fn one(address: u64, length: u64) -> Self {
        Self::One([Segment { address, length: transfer_length(length) }])
    }

    /// Copies an array of `struct iovec` in; the total is cut to what one call moves.
    ///
    /// `EINVAL` for more than [`MAX_SEGMENTS`] or a length that is negative; `EFAULT` when it cannot be read.
    pub(crate) fn many(space: &AddressSpace, address: u64, count: u64) -> Result<Self, Errno> {
        let count = usize::try_from(count).ok().filter(|count| *count <= MAX_SEGMENTS).ok_or(Errno::INVAL)?;
        let bytes = space.read_vec(address, count * 16)?;
        let mut left = MAX_TRANSFER;
        let mut segments = Vec::with_capacity(count);
        for entry in bytes.chunks_exact(16) {
            let word = |at: usize| {
                let mut own = [0; 8];
                own.copy_from_slice(&entry[at..at + 8]);
                u64::from_le_bytes(own)
            };
            if i64::try_from(word(8)).is_err() {
                return Err(Errno::INVAL);
            }
            let length = transfer_length(word(8)).min(left);
            left -= length;
            segments.push(Segment { address: word(0), length });
        }
        Ok(Self::Many(segments))
    }

    /// The pieces.
    pub(crate) fn segments(&self) -> &[Segment] {
        match self {
            Self::One(segments) => segments,
            Self::Many(segments) => segments,
        }
    }

    /// The length of all pieces.
    pub(crate) fn length(&self) -> usize {
        self.segments().iter().map(|segment| segment.length).sum()
    }
}

/// A position in the pieces of a buffer.
#[derive(Debug)]
struct Cursor<'a> {
    space: &'a AddressSpace,
    segments: &'a [Segment],
    within: usize,
    remaining: usize,
}

impl<'a> Cursor<'a> {
    fn new(space: &'a AddressSpace, buffer: &'a Buffer, skip: usize) -> Self {
        let segments = buffer.segments();
        let mut cursor = Self { space, segments, within: 0, remaining: buffer.length() };
        cursor.advance(skip.min(cursor.remaining));
        cursor
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        while let [first, rest @ ..] = self.segments {
            let left = first.length - self.within;
            if count < left {
                self.within += count;
                return;
            }
            count -= left;
            self.within = 0;
            self.segments = rest;
        }
    }

    /// Moves up to `length` bytes piece by piece through `step(address, done, length)`.
    fn walk(
        &mut self,
        length: usize,
        mut step: impl FnMut(&AddressSpace, u64, usize, usize) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while done < length {
            let Some(segment) = self.segments.first() else { break };
            let want = (segment.length - self.within).min(length - done);
            if want == 0 {
                self.advance(0);
                continue;
            }
            match step(self.space, segment.address.wrapping_add(self.within as u64), done, want) {
                Ok(count) => {
                    self.advance(count);
                    done += count;
                    if count < want {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// An [`Output`] over guest memory.
#[derive(Debug)]
pub(crate) struct GuestOutput<'a>(Cursor<'a>);

impl<'a> GuestOutput<'a> {
    /// Starts `skip` bytes into the buffer.
    pub(crate) fn new(space: &'a AddressSpace, buffer: &'a Buffer, skip: usize) -> Self {
        Self(Cursor::new(space, buffer, skip))
    }
}

impl Output for GuestOutput<'_> {
    fn remaining(&self) -> usize {
        self.0.remaining
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let length = bytes.len().min(self.0.remaining);
        self.0.walk(length, |space, address, done, want| space.write_some(address, &bytes[done..done + want]))
    }
}

/// An [`Input`] over guest memory.
#[derive(Debug)]
pub(crate) struct GuestInput<'a>(Cursor<'a>);

impl<'a> GuestInput<'a> {
    /// Starts `skip` bytes into the buffer.
    pub(crate) fn new(space: &'a AddressSpace, buffer: &'a Buffer, skip: usize) -> Self {
        Self(Cursor::new(space, buffer, skip))
    }
}

impl Input for GuestInput<'_> {
    fn remaining(&self) -> usize {
        self.0.remaining
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let length = bytes.len().min(self.0.remaining);
        self.0.walk(length, |space, address, done, want| {
            space.read_some(address, &mut bytes[done..done + want])
        })
    }
}
