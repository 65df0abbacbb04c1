//! Processor time: how much a thread or a process has used.
//!
//! A thread notes the processor time of its host thread when it looks up from guest code; between two looks the figure
//! stands still, and whoever needs a fresh one raises the stop flags and looks again a moment later. The time in the
//! kernel is the time that handlers took without what they waited, and never more than all processor time of the
//! thread; the rest is user time.

use std::ops::{Add, AddAssign};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Processor time in guest code and in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// In guest code.
    pub(crate) user: Duration,
    /// In system calls.
    pub(crate) system: Duration,
}

impl CpuTime {
    /// Both together.
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl AddAssign for CpuTime {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for CpuTime {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        times.fold(Self::default(), Self::add)
    }
}

/// Processor time of the calling host thread, in nanoseconds.
fn host_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The processor time of one thread, as it last noted it; all in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct ThreadClock {
    /// What the host thread had used before it was this one's.
    before: AtomicU64,
    total: AtomicU64,
    handlers: AtomicU64,
    waited: AtomicU64,
}

impl ThreadClock {
    /// Makes the calling host thread the clock's.
    pub(crate) fn begin(&self) {
        self.before.store(host_time(), Ordering::Relaxed);
    }

    /// Notes the processor time of the calling host thread, which must be the clock's.
    pub(crate) fn note(&self) {
        let own = host_time().saturating_sub(self.before.load(Ordering::Relaxed));
        self.total.store(own, Ordering::Relaxed);
    }

    /// Counts a system call that began at `start` and ends now.
    pub(crate) fn count_handler(&self, start: Instant) {
        let waited = self.waited.swap(0, Ordering::Relaxed);
        let spent = (start.elapsed().as_nanos() as u64).saturating_sub(waited);
        self.handlers.fetch_add(spent, Ordering::Relaxed);
    }

    /// Takes a wait that began at `start` and ends now out of the running system call.
    pub(crate) fn count_wait(&self, start: Instant) {
        self.waited.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// What was noted last.
    pub(crate) fn read(&self) -> CpuTime {
        let total = self.total.load(Ordering::Relaxed);
        let system = self.handlers.load(Ordering::Relaxed).min(total);
        CpuTime { user: Duration::from_nanos(total - system), system: Duration::from_nanos(system) }
    }
}
