//! How a guest thread that runs code is told to look up.
//!
//! A [`StopFlag`] is a byte that the interpreter reads between blocks, and, while translated code runs, a second one in
//! the memory of that code. Whoever wants the thread makes its wish known first and raises the flag then; the thread lowers the flag
//! first and reads the wishes then. So a wish is never lost, and a flag raised too often costs one more look.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use crate::wait::lock;

/// A place that holds a stop byte and outlives its use.
pub trait StopByte: Send + Sync {
    /// The byte.
    fn byte(&self) -> &AtomicU8;

    /// Called after the byte was set.
    fn raised(&self) {}
}

/// Not zero when a thread has something to look at before it runs more guest code.
#[derive(Default)]
pub struct StopFlag {
    byte: AtomicU8,
    second: Mutex<Option<Arc<dyn StopByte>>>,
}

impl StopFlag {
    /// Raises the flag.
    pub fn raise(&self) {
        self.byte.store(1, Ordering::SeqCst);
        if let Some(second) = &*lock(&self.second) {
            second.byte().store(1, Ordering::SeqCst);
            second.raised();
        }
    }

    /// Lowers the flag; for the thread itself.
    pub fn lower(&self) {
        self.byte.store(0, Ordering::SeqCst);
        if let Some(second) = &*lock(&self.second) {
            second.byte().store(0, Ordering::SeqCst);
        }
    }

    /// Whether the flag is raised.
    pub fn is_raised(&self) -> bool {
        self.byte.load(Ordering::SeqCst) != 0
    }

    /// The first byte, for the interpreter.
    pub fn byte(&self) -> &AtomicU8 {
        &self.byte
    }

    /// Attaches a second byte that follows the flag, or none.
    pub fn attach(&self, second: Option<Arc<dyn StopByte>>) {
        let mut attached = lock(&self.second);
        if let Some(second) = &second {
            second.byte().store(self.byte.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        *attached = second;
    }
}

impl fmt::Debug for StopFlag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StopFlag({})", self.is_raised())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Byte(AtomicU8);

    impl StopByte for Byte {
        fn byte(&self) -> &AtomicU8 {
            &self.0
        }
    }

    #[test]
    fn an_attached_byte_follows_the_flag() {
        let (flag, byte) = (StopFlag::default(), Arc::new(Byte(AtomicU8::new(0))));
        flag.raise();
        flag.attach(Some(byte.clone()));
        assert_eq!(byte.0.load(Ordering::SeqCst), 1);
        flag.lower();
        assert_eq!(byte.0.load(Ordering::SeqCst), 0);
        flag.raise();
        flag.attach(None);
        flag.lower();
        assert_eq!((byte.0.load(Ordering::SeqCst), flag.is_raised()), (1, false));
    }
}
