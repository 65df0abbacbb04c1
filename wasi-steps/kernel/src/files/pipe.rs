//! Pipes and FIFOs.
//!
//! A [`Pipe`] is a bounded byte queue with a count of readers and of writers; a [`PipeEnd`] is what a descriptor
//! holds. A FIFO is the same pipe, found by its inode: the file system keeps the name, [`Pipe`] the bytes, and the
//! bytes go when the last end is closed.
//!
//! What must hold (pipe(7)): a write of at most [`PIPE_BUF`] bytes is atomic; a read of an empty pipe is the end of
//! the file when there is no writer; a write without reader is `EPIPE` (and `SIGPIPE`, which the syscall layer
//! sends). Capacity is counted in bytes, rounded to a power of two of pages as `F_SETPIPE_SZ` does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::transfer::with_bounce;
use super::{Anonymous, Errno, FileObject, Input, Kind, Output, Readiness, Ready, Watch, lock, next_inode};

/// Writes up to this size are never mixed with those of others.
pub(crate) const PIPE_BUF: usize = 4096;

/// The capacity of a new pipe: 16 pages.
pub(crate) const DEFAULT_CAPACITY: usize = 64 * 1024;

/// The largest capacity `F_SETPIPE_SZ` gives without privilege (`/proc/sys/fs/pipe-max-size`).
pub(crate) const MAX_CAPACITY: usize = 1024 * 1024;

/// A byte queue between writers and readers.
#[derive(Debug)]
pub(crate) struct Pipe {
    state: Mutex<State>,
    readable: Arc<Readiness>,
    writable: Arc<Readiness>,
    inode: u64,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// How often a reader or writer was opened: the other side's `open` of a FIFO waits for a change, not for a
    /// count, so that a peer that opens and closes at once is not missed.
    reader_opens: u64,
    writer_opens: u64,
}

/// Which halves of a pipe an end can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The end that reads.
    Read,
    /// The end that writes.
    Write,
    /// A FIFO opened with `O_RDWR`.
    Both,
}

impl Direction {
    fn reads(self) -> bool {
        self != Self::Write
    }

    fn writes(self) -> bool {
        self != Self::Read
    }
}

/// One open end; dropping it is the hang-up.
#[derive(Debug)]
pub(crate) struct PipeEnd {
    pipe: Arc<Pipe>,
    direction: Direction,
}

impl Pipe {
    /// Makes a pipe without ends.
    pub(crate) fn unopened() -> Self {
        Self {
            state: Mutex::new(State {
                bytes: VecDeque::new(),
                capacity: DEFAULT_CAPACITY,
                readers: 0,
                writers: 0,
                reader_opens: 0,
                writer_opens: 0,
            }),
            readable: Readiness::new(),
            writable: Readiness::new(),
            inode: next_inode(),
        }
    }

    /// Makes a pipe and its two ends.
    pub(crate) fn pair() -> (PipeEnd, PipeEnd) {
        let pipe = Arc::new(Self::unopened());
        (pipe.end(Direction::Read), pipe.end(Direction::Write))
    }

    /// Opens one more end.
    pub(crate) fn end(self: &Arc<Self>, direction: Direction) -> PipeEnd {
        self.open(direction).0
    }

    /// Opens one more end; with it what to wait for, unless the other side was there in that moment: a change of the
    /// number of times it was opened. A peer that was there may be gone again before anybody looks.
    pub(crate) fn open(self: &Arc<Self>, direction: Direction) -> (PipeEnd, Option<u64>) {
        let mut state = lock(&self.state);
        if direction.reads() {
            state.readers += 1;
            state.reader_opens += 1;
        }
        if direction.writes() {
            state.writers += 1;
            state.writer_opens += 1;
        }
        let alone = if direction.reads() { state.writers == 0 } else { state.readers == 0 };
        let opens = if direction.reads() { state.writer_opens } else { state.reader_opens };
        drop(state);
        self.readable.wake();
        self.writable.wake();
        (PipeEnd { pipe: Arc::clone(self), direction }, alone.then_some(opens))
    }

    /// Returns the number of readers, or 0.
    pub(crate) fn readers(&self) -> usize {
        lock(&self.state).readers
    }

    /// Returns how often the other side was opened, as seen by an end that opens in `direction`.
    pub(crate) fn peer_opens(&self, direction: Direction) -> u64 {
        let state = lock(&self.state);
        if direction.reads() { state.writer_opens } else { state.reader_opens }
    }

    /// The queue that is woken when an end is opened.
    pub(crate) fn opened(&self) -> &Arc<Readiness> {
        &self.readable
    }
}

impl PipeEnd {
    /// The pipe this end belongs to.
    pub(crate) fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Returns the capacity in bytes (`F_GETPIPE_SZ`).
    pub(crate) fn capacity(&self) -> usize {
        lock(&self.pipe.state).capacity
    }

    /// Sets the capacity, rounded up (`F_SETPIPE_SZ`), and returns it.
    ///
    /// `EPERM` above [`MAX_CAPACITY`]; `EINVAL` for 0; `EBUSY` when more than that is in the pipe.
    pub(crate) fn set_capacity(&self, size: u64) -> Result<usize, Errno> {
        let size = usize::try_from(size).map_err(|_| Errno::INVAL)?;
        if size == 0 || size > 1 << 31 {
            return Err(Errno::INVAL);
        }
        if size > MAX_CAPACITY {
            return Err(Errno::PERM);
        }
        let capacity = size.next_power_of_two().max(4096);
        let mut state = lock(&self.pipe.state);
        if state.bytes.len() > capacity {
            return Err(Errno::BUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.pipe.writable.wake();
        Ok(capacity)
    }

    /// Copies up to `limit` bytes from the front into another pipe without consuming them (`tee`).
    pub(crate) fn copy_into(&self, target: &Self, limit: usize) -> Result<usize, Errno> {
        if Arc::ptr_eq(&self.pipe, &target.pipe) {
            return Err(Errno::INVAL);
        }
        let front: Vec<u8> = {
            let state = lock(&self.pipe.state);
            if state.bytes.is_empty() {
                return if state.writers == 0 { Ok(0) } else { Err(Errno::AGAIN) };
            }
            state.bytes.iter().copied().take(limit).collect()
        };
        target.write(&mut super::transfer::HostInput::new(&front), 0)
    }
}

impl FileObject for PipeEnd {
    /// `EBADF` for the writing end, `EAGAIN` while the pipe is empty and has a writer.
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        if !self.direction.reads() {
            return Err(Errno::BADF);
        }
        if output.remaining() == 0 {
            return Ok(0);
        }
        let mut state = lock(&self.pipe.state);
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::AGAIN) };
        }
        let mut total = 0;
        let mut result = Ok(());
        while output.remaining() > 0 && !state.bytes.is_empty() {
            let front = state.bytes.as_slices().0;
            let asked = front.len().min(output.remaining());
            match output.put(&front[..asked]) {
                Ok(count) => {
                    state.bytes.drain(..count);
                    total += count;
                    if count < asked {
                        break;
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        drop(state);
        if total > 0 {
            self.pipe.writable.wake();
            return Ok(total);
        }
        result.map(|()| 0)
    }

    /// `EBADF` for the reading end, `EPIPE` without reader, `EAGAIN` while there is no room: for a write of at most
    /// [`PIPE_BUF`] bytes until all of it fits, for a longer one while the pipe is full.
    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        if !self.direction.writes() {
            return Err(Errno::BADF);
        }
        let length = input.remaining();
        if length == 0 {
            return Ok(0);
        }
        let mut state = lock(&self.pipe.state);
        if state.readers == 0 {
            return Err(Errno::PIPE);
        }
        let room = state.capacity.saturating_sub(state.bytes.len());
        if room == 0 || (length <= PIPE_BUF && length > room) {
            return Err(Errno::AGAIN);
        }
        let mut left = room.min(length);
        let mut total = 0;
        let result = with_bounce(|bounce| {
            while left > 0 {
                let want = left.min(bounce.len());
                let count = input.take(&mut bounce[..want])?;
                state.bytes.extend(&bounce[..count]);
                total += count;
                left -= count;
                if count < want {
                    break;
                }
            }
            Ok(())
        });
        drop(state);
        if total > 0 {
            self.pipe.readable.wake();
            return Ok(total);
        }
        result.map(|()| 0)
    }

    fn poll(&self) -> Ready {
        let state = lock(&self.pipe.state);
        let mut ready = Ready::empty();
        if self.direction.reads() {
            if !state.bytes.is_empty() {
                ready |= Ready::READABLE;
            }
            if state.writers == 0 && state.writer_opens > 0 {
                ready |= Ready::HUP;
            }
        }
        if self.direction.writes() {
            if state.capacity - state.bytes.len().min(state.capacity) >= PIPE_BUF {
                ready |= Ready::WRITABLE;
            }
            if state.readers == 0 {
                ready |= Ready::ERR;
            }
        }
        ready
    }

    fn watch(&self, watch: &mut Watch) {
        if self.direction.reads() {
            watch.add(&self.pipe.readable);
        }
        if self.direction.writes() {
            watch.add(&self.pipe.writable);
        }
    }

    fn writes_everything(&self) -> bool {
        true
    }

    fn readable_bytes(&self) -> Option<u64> {
        Some(lock(&self.pipe.state).bytes.len() as u64)
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::numbered("pipe", 0o010_600, self.pipe.inode))
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Pipe(self)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = lock(&self.pipe.state);
        state.readers -= usize::from(self.direction.reads());
        state.writers -= usize::from(self.direction.writes());
        if state.readers == 0 && state.writers == 0 {
            state.bytes = VecDeque::new();
        }
        drop(state);
        self.pipe.readable.wake();
        self.pipe.writable.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::transfer::testing::FaultingOutput;
    use super::super::transfer::{HostInput, HostOutput};
    use super::*;

    fn write(end: &PipeEnd, bytes: &[u8]) -> Result<usize, Errno> {
        end.write(&mut HostInput::new(bytes), 0)
    }

    fn read(end: &PipeEnd, length: usize) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; length];
        let count = end.read(&mut HostOutput::new(&mut buffer), 0)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    #[test]
    fn bytes_come_out_in_order_and_the_end_follows_the_last_writer() {
        let (reader, writer) = Pipe::pair();
        assert_eq!(read(&reader, 4), Err(Errno::AGAIN));
        assert_eq!(write(&writer, b"hello"), Ok(5));
        assert_eq!(read(&reader, 2), Ok(b"he".to_vec()));
        drop(writer);
        assert_eq!(reader.poll(), Ready::READABLE | Ready::HUP);
        assert_eq!(read(&reader, 9), Ok(b"llo".to_vec()));
        assert_eq!(read(&reader, 9), Ok(Vec::new()));
        assert_eq!(reader.poll(), Ready::HUP);
    }

    #[test]
    fn a_write_without_reader_is_epipe() {
        let (reader, writer) = Pipe::pair();
        drop(reader);
        assert_eq!(write(&writer, b"x"), Err(Errno::PIPE));
        assert_eq!(writer.poll(), Ready::WRITABLE | Ready::ERR);
    }

    #[test]
    fn small_writes_are_atomic_and_long_ones_fill_what_is_left() {
        let (reader, writer) = Pipe::pair();
        assert_eq!(write(&writer, &vec![1; DEFAULT_CAPACITY - 100]), Ok(DEFAULT_CAPACITY - 100));
        assert_eq!(writer.poll(), Ready::empty());
        assert_eq!(write(&writer, &[2; 101]), Err(Errno::AGAIN));
        assert_eq!(write(&writer, &[2; PIPE_BUF + 1]), Ok(100));
        assert_eq!(write(&writer, &[2; 1]), Err(Errno::AGAIN));
        assert_eq!(reader.readable_bytes(), Some(DEFAULT_CAPACITY as u64));
        assert_eq!(read(&reader, DEFAULT_CAPACITY).map(|bytes| bytes.len()), Ok(DEFAULT_CAPACITY));
        assert_eq!(writer.poll(), Ready::WRITABLE);
    }

    #[test]
    fn a_faulting_reader_takes_only_what_it_stored() {
        let (reader, writer) = Pipe::pair();
        assert_eq!(write(&writer, b"abcdef"), Ok(6));
        let mut output = FaultingOutput { bytes: Vec::new(), room: 2, length: 6 };
        assert_eq!(reader.read(&mut output, 0), Ok(2));
        let mut output = FaultingOutput { bytes: Vec::new(), room: 0, length: 6 };
        assert_eq!(reader.read(&mut output, 0), Err(Errno::FAULT));
        assert_eq!(read(&reader, 9), Ok(b"cdef".to_vec()));
    }

    #[test]
    fn capacity_is_rounded_and_bounded() {
        let (reader, writer) = Pipe::pair();
        assert_eq!(reader.set_capacity(5000), Ok(8192));
        assert_eq!(write(&writer, &[0; 8192]), Ok(8192));
        assert_eq!(reader.set_capacity(4096), Err(Errno::BUSY));
        assert_eq!(reader.set_capacity(0), Err(Errno::INVAL));
        assert_eq!(reader.set_capacity(MAX_CAPACITY as u64 + 1), Err(Errno::PERM));
        assert_eq!(writer.capacity(), 8192);
    }

    #[test]
    fn every_change_is_an_edge() {
        let (reader, writer) = Pipe::pair();
        let before = reader.pipe.readable.edges();
        assert_eq!(write(&writer, b"x"), Ok(1));
        assert_eq!(reader.pipe.readable.edges(), before + 1);
        let before = writer.pipe.writable.edges();
        assert_eq!(read(&reader, 1), Ok(b"x".to_vec()));
        assert_eq!(writer.pipe.writable.edges(), before + 1);
    }

    #[test]
    fn tee_copies_without_consuming() {
        let (reader, writer) = Pipe::pair();
        let (second_reader, second_writer) = Pipe::pair();
        assert_eq!(write(&writer, b"abc"), Ok(3));
        assert_eq!(reader.copy_into(&second_writer, 2), Ok(2));
        assert_eq!(read(&second_reader, 9), Ok(b"ab".to_vec()));
        assert_eq!(read(&reader, 9), Ok(b"abc".to_vec()));
    }
}
