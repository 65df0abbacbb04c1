//! `signalfd`: pending signals behind a descriptor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::{Anonymous, Errno, FileObject, Kind, Output, Ready, Watch, lock};
use crate::signal::{Detail, SignalInfo, SignalSet};
use crate::task::Task;

/// Size of `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// Signals that are read instead of delivered (signalfd(2)).
///
/// What is pending depends on who asks. Reads and direct polls ask for the calling thread; an `epoll` set asks for
/// the thread that made the descriptor, as Linux asks for the one that added it.
#[derive(Debug)]
pub(crate) struct SignalFile {
    mask: AtomicU64,
    owner: Weak<Task>,
}

impl SignalFile {
    /// Makes one for these signals; those that cannot be blocked are left out.
    pub(crate) fn new(mask: SignalSet, owner: &Arc<Task>) -> Self {
        Self { mask: AtomicU64::new(mask.as_mask().0), owner: Arc::downgrade(owner) }
    }

    /// Replaces the signals.
    pub(crate) fn set_mask(&self, mask: SignalSet) {
        self.mask.store(mask.as_mask().0, Ordering::SeqCst);
    }

    fn mask(&self) -> SignalSet {
        SignalSet(self.mask.load(Ordering::SeqCst))
    }

    /// Whether a signal waits for this thread.
    pub(crate) fn ready_for(&self, task: &Task) -> Ready {
        if task.pending_set().intersection(self.mask()).is_empty() { Ready::empty() } else { Ready::READABLE }
    }

    /// Takes pending signals of a thread as records.
    ///
    /// `EINVAL` for a buffer below one record; `EAGAIN` when none is pending.
    pub(crate) fn read_for(&self, task: &Task, output: &mut dyn Output) -> Result<usize, Errno> {
        if output.remaining() < RECORD {
            return Err(Errno::INVAL);
        }
        let mut total = 0;
        while output.remaining() >= RECORD {
            let own = lock(&task.pending).take(self.mask());
            let Some(info) = own.or_else(|| lock(&task.process().state).pending.take(self.mask())) else {
                break;
            };
            total += output.put(&record(&info))?;
        }
        if total == 0 { Err(Errno::AGAIN) } else { Ok(total) }
    }
}

/// Lays out one `struct signalfd_siginfo`.
fn record(info: &SignalInfo) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &info.number.to_le_bytes());
    put(4, &info.errno.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    match &info.detail {
        Detail::None => {}
        Detail::Sender { pid, uid } => {
            put(12, &pid.to_le_bytes());
            put(16, &uid.to_le_bytes());
        }
        Detail::Child { pid, uid, status, user_ticks, system_ticks } => {
            put(12, &pid.to_le_bytes());
            put(16, &uid.to_le_bytes());
            put(40, &status.to_le_bytes());
            put(56, &user_ticks.to_le_bytes());
            put(64, &system_ticks.to_le_bytes());
        }
        Detail::Fault { address, trap, .. } => {
            put(36, &trap.to_le_bytes());
            put(72, &address.to_le_bytes());
        }
        Detail::Timer { id, overrun, value } => {
            put(24, &id.to_le_bytes());
            put(32, &overrun.to_le_bytes());
            put(44, &value.to_le_bytes()[..4]);
            put(48, &value.to_le_bytes());
        }
        // As `sigqueue` fills it: pid, uid and value.
        Detail::Raw(rest) => {
            put(12, &rest[4..12]);
            put(44, &rest[12..16]);
            put(48, &rest[12..20]);
        }
    }
    bytes
}

impl FileObject for SignalFile {
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        let task = self.owner.upgrade().ok_or(Errno::AGAIN)?;
        self.read_for(&task, output)
    }

    fn poll(&self) -> Ready {
        self.owner.upgrade().map_or(Ready::empty(), |task| self.ready_for(&task))
    }

    fn watch(&self, _watch: &mut Watch) {
        // Nothing to add: who sends a signal wakes every thread it may concern.
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::inode("[signalfd]"))
    }

    fn information(&self) -> String {
        format!("sigmask:\t{:016x}\n", self.mask().0)
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Signals(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_layout_of_linux() {
        let bytes = record(&SignalInfo::user(10, -6, 0x0102, 0x0304));
        assert_eq!(bytes[..20], [10, 0, 0, 0, 0, 0, 0, 0, 0xfa, 0xff, 0xff, 0xff, 2, 1, 0, 0, 4, 3, 0, 0]);
        let detail = Detail::Child { pid: 5, uid: 6, status: 7, user_ticks: 8, system_ticks: 9 };
        let bytes = record(&SignalInfo { number: 17, errno: 0, code: 1, detail });
        assert_eq!((bytes[12], bytes[16], bytes[40], bytes[56], bytes[64]), (5, 6, 7, 8, 9));
    }
}
