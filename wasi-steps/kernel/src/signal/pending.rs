//! Signals that were sent and not yet delivered.

use std::collections::VecDeque;

use super::number::{FIRST_REALTIME, SignalSet, signal};

/// `si_code` values.
pub(crate) mod code {
    pub(crate) const USER: i32 = 0;
    pub(crate) const KERNEL: i32 = 0x80;
    pub(crate) const TIMER: i32 = -2;
    pub(crate) const TKILL: i32 = -6;
    pub(crate) const EXITED: i32 = 1;
    pub(crate) const KILLED: i32 = 2;
    pub(crate) const STOPPED: i32 = 5;
    pub(crate) const CONTINUED: i32 = 6;
    pub(crate) const MAP_ERROR: i32 = 1;
    pub(crate) const ACCESS_ERROR: i32 = 2;
    pub(crate) const BUS_ADDRESS: i32 = 2;
    pub(crate) const INTEGER_DIVIDE: i32 = 1;
    pub(crate) const FLOAT_INVALID: i32 = 7;
    pub(crate) const ILLEGAL_OPERAND: i32 = 2;
    pub(crate) const TRACE: i32 = 2;
}

/// Size of `siginfo_t`.
pub(crate) const INFO_SIZE: usize = 128;

/// The part of `siginfo_t` that depends on the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Nothing but the code.
    None,
    /// `kill`, `tkill`: who sent it.
    Sender { pid: u32, uid: u32 },
    /// A child changed state.
    Child { pid: u32, uid: u32, status: i32, user_ticks: i64, system_ticks: i64 },
    /// An access to `address` failed.
    Fault { address: u64, trap: u32, error: u64 },
    /// A POSIX timer expired.
    Timer { id: i32, overrun: i32, value: u64 },
    /// `rt_sigqueueinfo`: the bytes from offset 12 on as the sender gave them.
    Raw(Box<[u8; INFO_SIZE - 12]>),
}

/// One sent signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignalInfo {
    /// Number from 1 to 64.
    pub(crate) number: u32,
    /// `si_errno`.
    pub(crate) errno: i32,
    /// `si_code`.
    pub(crate) code: i32,
    /// The rest.
    pub(crate) detail: Detail,
}

impl SignalInfo {
    /// A signal that the kernel sends without more to say.
    pub(crate) fn kernel(number: u32) -> Self {
        Self { number, errno: 0, code: code::KERNEL, detail: Detail::None }
    }

    /// A signal that a process sends.
    pub(crate) fn user(number: u32, code: i32, pid: u32, uid: u32) -> Self {
        Self { number, errno: 0, code, detail: Detail::Sender { pid, uid } }
    }

    /// The bytes of `siginfo_t`.
    pub(crate) fn to_bytes(&self) -> [u8; INFO_SIZE] {
        let mut bytes = [0; INFO_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.number.to_le_bytes());
        put(4, &self.errno.to_le_bytes());
        put(8, &self.code.to_le_bytes());
        match &self.detail {
            Detail::None => {}
            Detail::Sender { pid, uid } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
            }
            Detail::Child { pid, uid, status, user_ticks, system_ticks } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
                put(24, &status.to_le_bytes());
                put(32, &user_ticks.to_le_bytes());
                put(40, &system_ticks.to_le_bytes());
            }
            Detail::Fault { address, .. } => put(16, &address.to_le_bytes()),
            Detail::Timer { id, overrun, value } => {
                put(16, &id.to_le_bytes());
                put(20, &overrun.to_le_bytes());
                put(24, &value.to_le_bytes());
            }
            Detail::Raw(rest) => put(12, &rest[..]),
        }
        bytes
    }

    /// Takes the bytes that a program gave to `rt_sigqueueinfo`.
    pub(crate) fn from_bytes(number: u32, bytes: &[u8; INFO_SIZE]) -> Self {
        let word = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut rest = Box::new([0; INFO_SIZE - 12]);
        rest.copy_from_slice(&bytes[12..]);
        Self { number, errno: word(4), code: word(8), detail: Detail::Raw(rest) }
    }
}

/// How many signals can be queued for one thread or group; a real-time signal beyond it is `EAGAIN`.
pub(crate) const QUEUE_LIMIT: usize = 4096;

/// Signals waiting for delivery, in the order in which they were sent.
#[derive(Debug, Default)]
pub(crate) struct PendingSignals {
    set: SignalSet,
    queue: VecDeque<SignalInfo>,
}

impl PendingSignals {
    /// The signals that are pending.
    pub(crate) fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal; a standard one that is pending already stays as it is. `false` when the queue is full.
    pub(crate) fn push(&mut self, info: SignalInfo) -> bool {
        if info.number < FIRST_REALTIME && self.set.contains(info.number) {
            return true;
        }
        if self.queue.len() >= QUEUE_LIMIT && info.number != signal::KILL {
            return false;
        }
        self.set = self.set.with(info.number);
        self.queue.push_back(info);
        true
    }

    /// Takes the first signal of `wanted`.
    pub(crate) fn take(&mut self, wanted: SignalSet) -> Option<SignalInfo> {
        let number = self.set.intersection(wanted).first()?;
        let index = self.queue.iter().position(|info| info.number == number)?;
        let info = self.queue.remove(index)?;
        if !self.queue.iter().any(|other| other.number == number) {
            self.set = self.set.without(SignalSet::of(number));
        }
        Some(info)
    }

    /// Forgets all signals of `set`.
    pub(crate) fn discard(&mut self, set: SignalSet) {
        self.queue.retain(|info| !set.contains(info.number));
        self.set = self.set.without(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(pending: &mut PendingSignals) -> Vec<u32> {
        std::iter::from_fn(|| pending.take(SignalSet(u64::MAX))).map(|info| info.number).collect()
    }

    #[test]
    fn standard_signals_merge_and_realtime_signals_queue() {
        let mut pending = PendingSignals::default();
        for number in [34, signal::HUP, 34, signal::HUP, signal::CHLD] {
            assert!(pending.push(SignalInfo::kernel(number)));
        }
        assert_eq!(numbers(&mut pending), [signal::HUP, signal::CHLD, 34, 34]);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn only_wanted_signals_are_taken_and_discarded_ones_are_gone() {
        let mut pending = PendingSignals::default();
        for number in [1, 2, 3] {
            pending.push(SignalInfo::kernel(number));
        }
        assert_eq!(pending.take(SignalSet::of(2)).map(|info| info.number), Some(2));
        pending.discard(SignalSet::of(1));
        assert_eq!(numbers(&mut pending), [3]);
    }

    #[test]
    fn full_queue_refuses_but_not_kill() {
        let mut pending = PendingSignals::default();
        for _ in 0..QUEUE_LIMIT {
            assert!(pending.push(SignalInfo::kernel(40)));
        }
        assert!(!pending.push(SignalInfo::kernel(40)));
        assert!(pending.push(SignalInfo::kernel(signal::KILL)));
    }

    #[test]
    fn child_information_is_laid_out_as_linux_does() {
        let detail = Detail::Child { pid: 7, uid: 8, status: 9, user_ticks: 1, system_ticks: 2 };
        let bytes = SignalInfo { number: signal::CHLD, errno: 0, code: code::EXITED, detail }.to_bytes();
        assert_eq!(
            (bytes[0], bytes[8], bytes[16], bytes[20], bytes[24], bytes[32], bytes[40]),
            (17, 1, 7, 8, 9, 1, 2)
        );
    }
}
