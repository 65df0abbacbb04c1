//! `eventfd`: a 64-bit counter behind a descriptor.

use std::sync::{Arc, Mutex};

use super::{Anonymous, Errno, FileObject, Input, Output, Readiness, Ready, Watch, lock, next_inode};

/// The largest value the counter holds; one more is what makes a writer wait.
const MAX_COUNT: u64 = u64::MAX - 1;

/// A counter that reads take and writes add to (eventfd(2)).
#[derive(Debug)]
pub(crate) struct EventFile {
    count: Mutex<u64>,
    semaphore: bool,
    changed: Arc<Readiness>,
    id: u64,
}

impl EventFile {
    /// Makes a counter; as a semaphore (`EFD_SEMAPHORE`) a read takes 1, otherwise everything.
    pub(crate) fn new(count: u32, semaphore: bool) -> Self {
        Self { count: Mutex::new(u64::from(count)), semaphore, changed: Readiness::new(), id: next_inode() }
    }
}

impl FileObject for EventFile {
    /// `EINVAL` for a buffer below 8 bytes, `EAGAIN` while the counter is 0.
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        if output.remaining() < 8 {
            return Err(Errno::INVAL);
        }
        let mut count = lock(&self.count);
        if *count == 0 {
            return Err(Errno::AGAIN);
        }
        let taken = if self.semaphore { 1 } else { *count };
        *count -= taken;
        drop(count);
        self.changed.wake();
        if output.put(&taken.to_ne_bytes())? < 8 {
            return Err(Errno::FAULT);
        }
        Ok(8)
    }

    /// `EINVAL` for fewer than 8 bytes and for the value `u64::MAX`, `EAGAIN` while the sum does not fit.
    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        if input.remaining() < 8 {
            return Err(Errno::INVAL);
        }
        // The value is looked at before the attempt is known to succeed, so it must not be consumed on `EAGAIN`:
        // the caller keeps one input per attempt.
        let mut bytes = [0; 8];
        if input.take(&mut bytes)? < 8 {
            return Err(Errno::FAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::INVAL);
        }
        let mut count = lock(&self.count);
        if MAX_COUNT - *count < value {
            return Err(Errno::AGAIN);
        }
        *count += value;
        drop(count);
        self.changed.wake();
        Ok(8)
    }

    fn poll(&self) -> Ready {
        let count = *lock(&self.count);
        let mut ready = Ready::empty();
        if count > 0 {
            ready |= Ready::READABLE;
        }
        if count < MAX_COUNT {
            ready |= Ready::WRITABLE;
        }
        ready
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(&self.changed);
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::inode("[eventfd]"))
    }

    fn information(&self) -> String {
        format!(
            "eventfd-count: {:16x}\neventfd-id: {}\neventfd-semaphore: {}\n",
            *lock(&self.count),
            self.id,
            u8::from(self.semaphore)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::transfer::{HostInput, HostOutput};
    use super::*;

    fn read(file: &EventFile) -> Result<u64, Errno> {
        let mut buffer = [0; 8];
        file.read(&mut HostOutput::new(&mut buffer), 0)?;
        Ok(u64::from_ne_bytes(buffer))
    }

    fn write(file: &EventFile, value: u64) -> Result<usize, Errno> {
        file.write(&mut HostInput::new(&value.to_ne_bytes()), 0)
    }

    #[test]
    fn a_counter_is_taken_whole() {
        let file = EventFile::new(0, false);
        assert_eq!(read(&file), Err(Errno::AGAIN));
        assert_eq!((write(&file, 3), write(&file, 4)), (Ok(8), Ok(8)));
        assert_eq!(file.poll(), Ready::READABLE | Ready::WRITABLE);
        assert_eq!(read(&file), Ok(7));
        assert_eq!(file.poll(), Ready::WRITABLE);
    }

    #[test]
    fn a_semaphore_is_taken_one_by_one() {
        let file = EventFile::new(2, true);
        assert_eq!((read(&file), read(&file), read(&file)), (Ok(1), Ok(1), Err(Errno::AGAIN)));
    }

    #[test]
    fn the_counter_does_not_overflow() {
        let file = EventFile::new(1, false);
        assert_eq!(write(&file, u64::MAX), Err(Errno::INVAL));
        assert_eq!(write(&file, u64::MAX - 1), Err(Errno::AGAIN));
        assert_eq!(write(&file, u64::MAX - 2), Ok(8));
        assert_eq!(file.poll(), Ready::READABLE);
        assert_eq!(file.read(&mut HostOutput::new(&mut [0; 7]), 0), Err(Errno::INVAL));
    }
}
