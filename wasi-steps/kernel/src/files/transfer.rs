//! Where the bytes of a read go and where those of a write come from.
//!
//! An object does not know whether it talks to a guest's memory, to another object (`sendfile`, `splice`) or to a
//! test: it puts bytes into an [`Output`] and takes bytes from an [`Input`]. Both are cursors over a fixed length,
//! so one object call can serve a whole `readv`.
//!
//! What must hold: a cursor moves by exactly what it reports, also when the guest's memory faults in the middle;
//! `EFAULT` is reported only when nothing at all was moved. So an object that removes from its queue what `put`
//! has accepted never loses a byte.

use std::cell::Cell;

use super::Errno;

/// Bytes moved at a time between a file and guest memory, when the object cannot use the guest's pages directly.
pub(crate) const BOUNCE_BYTES: usize = 64 * 1024;

/// The most one read or write call moves, as Linux's `MAX_RW_COUNT`.
pub(crate) const MAX_TRANSFER: usize = 0x7fff_f000;

/// The destination of a read.
pub(crate) trait Output {
    /// Returns how many bytes still fit.
    fn remaining(&self) -> usize;

    /// Copies the first of `bytes` and returns how many it took: fewer when the destination is full or faults.
    ///
    /// `EFAULT` when `bytes` is not empty, there is room, and not one byte could be stored.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno>;
}

/// The source of a write.
pub(crate) trait Input {
    /// Returns how many bytes are still to come.
    fn remaining(&self) -> usize;

    /// Fills the first of `bytes` and returns how many it filled: fewer at the end of the source or at a fault.
    ///
    /// `EFAULT` when bytes remain, `bytes` is not empty, and not one byte could be loaded.
    fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno>;
}

/// An [`Output`] over host memory.
#[derive(Debug)]
pub(crate) struct HostOutput<'a> {
    buffer: &'a mut [u8],
    filled: usize,
}

impl<'a> HostOutput<'a> {
    /// Starts at the beginning of `buffer`.
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, filled: 0 }
    }
}

impl Output for HostOutput<'_> {
    fn remaining(&self) -> usize {
        self.buffer.len() - self.filled
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let count = bytes.len().min(self.remaining());
        self.buffer[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        Ok(count)
    }
}

/// An [`Input`] over host memory.
#[derive(Debug)]
pub(crate) struct HostInput<'a> {
    rest: &'a [u8],
}

impl<'a> HostInput<'a> {
    /// Starts at the beginning of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl Input for HostInput<'_> {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let count = bytes.len().min(self.rest.len());
        let (now, later) = self.rest.split_at(count);
        bytes[..count].copy_from_slice(now);
        self.rest = later;
        Ok(count)
    }
}

thread_local! {
    static BOUNCE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Calls `body` with a scratch buffer of [`BOUNCE_BYTES`], kept per thread so that a small read clears no memory.
pub(crate) fn with_bounce<T>(body: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BOUNCE
        .try_with(Cell::take)
        .ok()
        .flatten()
        .unwrap_or_else(|| vec![0; BOUNCE_BYTES].into_boxed_slice());
    let result = body(&mut buffer);
    let _ = BOUNCE.try_with(|slot| slot.set(Some(buffer)));
    result
}

/// Moves bytes from `read_at` into `output` through the scratch buffer until a short read, the end or a fault.
pub(crate) fn copy_out(
    output: &mut dyn Output,
    mut read_at: impl FnMut(u64, &mut [u8]) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    with_bounce(|bounce| {
        let mut total = 0usize;
        loop {
            let want = output.remaining().min(bounce.len());
            if want == 0 {
                return Ok(total);
            }
            let step = read_at(total as u64, &mut bounce[..want])
                .and_then(|count| output.put(&bounce[..count]).map(|put| (count, put)));
            match step {
                Ok((count, put)) => {
                    total += put;
                    if count < want || put < count {
                        return Ok(total);
                    }
                }
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    })
}

/// Moves bytes from `input` into `write_at` through the scratch buffer until a short write, the end or a fault.
pub(crate) fn copy_in(
    input: &mut dyn Input,
    mut write_at: impl FnMut(u64, &[u8]) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    with_bounce(|bounce| {
        let mut total = 0usize;
        while input.remaining() > 0 {
            let step = input
                .take(bounce)
                .and_then(|count| write_at(total as u64, &bounce[..count]).map(|wrote| (count, wrote)));
            match step {
                Ok((count, wrote)) => {
                    total += wrote;
                    if wrote < count || count == 0 {
                        break;
                    }
                }
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Cursors that fault after a given number of bytes, as a guest's buffer at the end of a mapping does.

    use super::{Errno, Input, Output};

    /// An output that accepts `room` bytes of an asked length and then faults.
    #[derive(Debug)]
    pub(crate) struct FaultingOutput {
        pub(crate) bytes: Vec<u8>,
        pub(crate) room: usize,
        pub(crate) length: usize,
    }

    impl Output for FaultingOutput {
        fn remaining(&self) -> usize {
            self.length - self.bytes.len()
        }

        fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
            let count = bytes.len().min(self.remaining()).min(self.room - self.bytes.len());
            if count == 0 && !bytes.is_empty() && self.remaining() > 0 {
                return Err(Errno::FAULT);
            }
            self.bytes.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
    }

    /// An input that gives `good` bytes of `length` and then faults.
    #[derive(Debug)]
    pub(crate) struct FaultingInput {
        pub(crate) good: usize,
        pub(crate) length: usize,
    }

    impl Input for FaultingInput {
        fn remaining(&self) -> usize {
            self.length
        }

        fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
            let count = bytes.len().min(self.good);
            if count == 0 && self.length > 0 && !bytes.is_empty() {
                return Err(Errno::FAULT);
            }
            bytes[..count].fill(b'x');
            self.good -= count;
            self.length -= count;
            Ok(count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{FaultingInput, FaultingOutput};
    use super::*;

    #[test]
    fn a_fault_after_some_bytes_is_a_short_count() {
        let mut output = FaultingOutput { bytes: Vec::new(), room: 5, length: 10 };
        let count = copy_out(&mut output, |_, buffer| {
            buffer.fill(b'a');
            Ok(buffer.len())
        });
        assert_eq!(count, Ok(5));
        let mut input = FaultingInput { good: 3, length: 9 };
        let mut stored = Vec::new();
        let count = copy_in(&mut input, |_, bytes| {
            stored.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!((count, stored.as_slice()), (Ok(3), &b"xxx"[..]));
    }

    #[test]
    fn a_fault_at_once_is_efault() {
        let mut output = FaultingOutput { bytes: Vec::new(), room: 0, length: 10 };
        assert_eq!(copy_out(&mut output, |_, _| Ok(4)), Err(Errno::FAULT));
        let mut input = FaultingInput { good: 0, length: 9 };
        assert_eq!(copy_in(&mut input, |_, bytes| Ok(bytes.len())), Err(Errno::FAULT));
    }

    #[test]
    fn a_long_copy_passes_the_bounce_buffer_several_times() {
        let source: Vec<u8> = (0..BOUNCE_BYTES * 2 + 7).map(|index| index as u8).collect();
        let mut target = vec![0; source.len()];
        let count = copy_out(&mut HostOutput::new(&mut target), |offset, buffer| {
            let rest = &source[offset as usize..];
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        });
        assert_eq!(count, Ok(source.len()));
        assert!(target == source);
    }
}
