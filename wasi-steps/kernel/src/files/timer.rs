//! `timerfd`: expirations of a timer, counted behind a descriptor.
//!
//! Nothing runs when a timer expires: whoever reads or polls computes from the clock how often it has expired, and
//! whoever waits does so until the next expiration ([`Watch::until`]). An absolute time of the wall clock is turned
//! into a moment of the monotonic clock when the timer is set; the clock of a step is never set, so both agree.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Anonymous, Errno, FileObject, Kind, Output, Readiness, Ready, Watch, lock};

/// A timer that is read (timerfd_create(2)).
#[derive(Debug)]
pub(crate) struct TimerFile {
    state: Mutex<State>,
    clock: i32,
    changed: Arc<Readiness>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The first expiration nobody has read yet.
    next: Option<Instant>,
    interval: Duration,
}

/// What `timerfd_gettime` tells: time to the next expiration, or zero when disarmed, and the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Time until the next expiration; zero when disarmed.
    pub(crate) value: Duration,
    /// Time between expirations; zero for a timer that expires once.
    pub(crate) interval: Duration,
}

impl State {
    /// Returns how often the timer has expired unread at `now`.
    fn expirations(&self, now: Instant) -> u64 {
        let Some(next) = self.next.filter(|next| *next <= now) else { return 0 };
        if self.interval.is_zero() {
            return 1;
        }
        u64::try_from((now - next).as_nanos() / self.interval.as_nanos())
            .map_or(u64::MAX, |passed| passed + 1)
    }

    /// Forgets the expirations up to `now`.
    fn consume(&mut self, now: Instant) {
        let passed = self.expirations(now);
        if passed == 0 {
            return;
        }
        self.next = if self.interval.is_zero() {
            None
        } else {
            let nanoseconds = self.interval.as_nanos().saturating_mul(u128::from(passed));
            self.next.and_then(|next| next.checked_add(Duration::from_nanos_u128(nanoseconds)))
        };
    }

    fn setting(&self, now: Instant) -> Setting {
        let mut copy = *self;
        copy.consume(now);
        let value = copy.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        Setting { value, interval: self.interval }
    }
}

impl TimerFile {
    /// Makes a disarmed timer of the clock with this Linux number.
    pub(crate) fn new(clock: i32) -> Self {
        Self { state: Mutex::new(State::default()), clock, changed: Readiness::new() }
    }

    /// The clock the timer was made for.
    pub(crate) fn clock(&self) -> i32 {
        self.clock
    }

    /// Arms the timer for `next`, or disarms it, and returns what was set before.
    pub(crate) fn set(&self, next: Option<Instant>, interval: Duration, now: Instant) -> Setting {
        let mut state = lock(&self.state);
        let old = state.setting(now);
        *state = State { next, interval };
        drop(state);
        self.changed.wake();
        old
    }

    /// Returns the current setting.
    pub(crate) fn get(&self, now: Instant) -> Setting {
        lock(&self.state).setting(now)
    }

    fn read_at(&self, output: &mut dyn Output, now: Instant) -> Result<usize, Errno> {
        if output.remaining() < 8 {
            return Err(Errno::INVAL);
        }
        let mut state = lock(&self.state);
        let count = state.expirations(now);
        if count == 0 {
            return Err(Errno::AGAIN);
        }
        state.consume(now);
        drop(state);
        if output.put(&count.to_ne_bytes())? < 8 {
            return Err(Errno::FAULT);
        }
        Ok(8)
    }
}

impl FileObject for TimerFile {
    /// `EINVAL` for a buffer below 8 bytes, `EAGAIN` before the next expiration.
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        self.read_at(output, Instant::now())
    }

    fn poll(&self) -> Ready {
        let expired = lock(&self.state).expirations(Instant::now()) > 0;
        if expired { Ready::READABLE } else { Ready::empty() }
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(&self.changed);
        if let Some(next) = lock(&self.state).next {
            watch.until(next);
        }
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::inode("[timerfd]"))
    }

    fn information(&self) -> String {
        let setting = self.get(Instant::now());
        format!(
            "clockid: {}\nticks: {}\nsettime flags: 00\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.clock,
            lock(&self.state).expirations(Instant::now()),
            setting.value.as_secs(),
            setting.value.subsec_nanos(),
            setting.interval.as_secs(),
            setting.interval.subsec_nanos()
        )
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Timer(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::transfer::HostOutput;
    use super::*;

    fn read(file: &TimerFile, now: Instant) -> Result<u64, Errno> {
        let mut buffer = [0; 8];
        file.read_at(&mut HostOutput::new(&mut buffer), now)?;
        Ok(u64::from_ne_bytes(buffer))
    }

    #[test]
    fn a_timer_expires_once() {
        let file = TimerFile::new(1);
        let start = Instant::now();
        let second = Duration::from_secs(1);
        file.set(Some(start + second), Duration::ZERO, start);
        assert_eq!(read(&file, start), Err(Errno::AGAIN));
        assert_eq!(read(&file, start + second * 5), Ok(1));
        assert_eq!(read(&file, start + second * 9), Err(Errno::AGAIN));
        assert_eq!(file.get(start + second * 9), Setting { value: Duration::ZERO, interval: Duration::ZERO });
    }

    #[test]
    fn intervals_add_up_until_they_are_read() {
        let file = TimerFile::new(1);
        let start = Instant::now();
        let second = Duration::from_secs(1);
        file.set(Some(start + second), second * 2, start);
        assert_eq!(read(&file, start + second * 6), Ok(3));
        let setting = Setting { value: second, interval: second * 2 };
        assert_eq!(file.get(start + second * 6), setting);
        assert_eq!(file.set(None, Duration::ZERO, start + second * 6), setting);
        assert_eq!(read(&file, start + second * 60), Err(Errno::AGAIN));
    }
}
