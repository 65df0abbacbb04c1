//! The one place where anything blocks.
//!
//! A blocking call is an *attempt* and the queues that are woken when the attempt may succeed. [`Sleeper`] is the
//! thread that waits, [`WaitQueue`] the thing in an object that it waits on. [`Sleeper::wait`] registers first,
//! attempts then, and parks only after that, so a wake-up between the attempt and the parking is never lost.
//!
//! What must hold: whoever changes a state that an attempt looks at wakes the queue *after* the change; no lock that
//! an attempt takes is held while waking with other locks of a lower rank (queues rank last, see the crate's docs);
//! a waiter is in a queue only while its `wait` runs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Locks a mutex; a panic of another holder does not matter, as no lock is held over code that can leave its data torn.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a wait ended without its attempt succeeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    /// A signal that has to be acted upon is pending.
    Interrupted,
    /// The deadline passed.
    TimedOut,
    /// The thread has to end.
    Killed,
}

/// What the thread that waits asks between two attempts.
pub(crate) trait Interrupts {
    /// Whether the wait has to end for a signal or for the death of the thread.
    fn interruption(&self) -> Option<WaitEnd>;
}

/// A thread that can be parked and woken.
#[derive(Debug, Default)]
pub(crate) struct Sleeper {
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Sleeper {
    /// A sleeper that nobody has woken yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Ends the current or the next parking.
    pub(crate) fn wake(&self) {
        *lock(&self.woken) = true;
        self.condition.notify_one();
    }

    fn reset(&self) {
        *lock(&self.woken) = false;
    }

    fn park(&self, deadline: Option<Instant>) {
        let mut woken = lock(&self.woken);
        while !*woken {
            let Some(deadline) = deadline else {
                woken = self.condition.wait(woken).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            woken = self.condition.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Repeats `attempt` whenever one of `queues` is woken, until it gives a value, `interrupts` has a reason to
    /// stop, or the deadline passes. An attempt that succeeds wins over a signal and over the deadline.
    pub(crate) fn wait<T>(
        self: &Arc<Self>,
        interrupts: &dyn Interrupts,
        queues: &[&WaitQueue],
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        let _registration = Registration::enter(self, queues);
        loop {
            self.reset();
            if let Some(value) = attempt() {
                return Ok(value);
            }
            if let Some(end) = interrupts.interruption() {
                return Err(end);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(WaitEnd::TimedOut);
            }
            self.park(deadline);
        }
    }
}

/// Membership of a sleeper in queues; leaving happens on drop.
struct Registration<'a> {
    sleeper: &'a Arc<Sleeper>,
    queues: &'a [&'a WaitQueue],
}

impl<'a> Registration<'a> {
    fn enter(sleeper: &'a Arc<Sleeper>, queues: &'a [&'a WaitQueue]) -> Self {
        queues.iter().for_each(|queue| queue.enter(sleeper));
        Self { sleeper, queues }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.queues.iter().for_each(|queue| queue.leave(self.sleeper));
    }
}

/// The waiters of one condition of one object.
#[derive(Debug, Default)]
pub(crate) struct WaitQueue {
    waiters: Mutex<Vec<Arc<Sleeper>>>,
}

impl WaitQueue {
    /// A queue without waiters.
    pub(crate) const fn new() -> Self {
        Self { waiters: Mutex::new(Vec::new()) }
    }

    /// Makes every waiter attempt again.
    pub(crate) fn wake_all(&self) {
        for sleeper in lock(&self.waiters).iter() {
            sleeper.wake();
        }
    }

    fn enter(&self, sleeper: &Arc<Sleeper>) {
        lock(&self.waiters).push(sleeper.clone());
    }

    fn leave(&self, sleeper: &Arc<Sleeper>) {
        let mut waiters = lock(&self.waiters);
        // A queue that is named twice holds the sleeper twice, and is left twice.
        if let Some(index) = waiters.iter().position(|entry| Arc::ptr_eq(entry, sleeper)) {
            waiters.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    struct Never;
    impl Interrupts for Never {
        fn interruption(&self) -> Option<WaitEnd> {
            None
        }
    }

    struct Flag(AtomicBool);
    impl Interrupts for Flag {
        fn interruption(&self) -> Option<WaitEnd> {
            self.0.load(Ordering::SeqCst).then_some(WaitEnd::Interrupted)
        }
    }

    #[test]
    fn attempt_that_succeeds_at_once_needs_no_queue() {
        assert_eq!(Sleeper::new().wait(&Never, &[], None, || Some(7)), Ok(7));
    }

    #[test]
    fn deadline_in_the_past_times_out_after_one_attempt_failed() {
        let end = Sleeper::new().wait(&Never, &[&WaitQueue::new()], Some(Instant::now()), || None::<()>);
        assert_eq!(end, Err(WaitEnd::TimedOut));
    }

    #[test]
    fn wake_up_after_the_change_is_never_lost() {
        let queue = WaitQueue::new();
        let value = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let sleeper = Sleeper::new();
                for expected in 1..=200 {
                    let seen = sleeper.wait(&Never, &[&queue], None, || {
                        Some(value.load(Ordering::SeqCst)).filter(|v| *v >= expected)
                    });
                    assert!(seen.is_ok_and(|seen| seen >= expected));
                }
            });
            while !waiter.is_finished() {
                value.fetch_add(1, Ordering::SeqCst);
                queue.wake_all();
            }
        });
    }

    #[test]
    fn interruption_ends_a_parked_wait() {
        let (queue, flag, sleeper) = (WaitQueue::new(), Flag(AtomicBool::new(false)), Sleeper::new());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| sleeper.wait(&flag, &[&queue], None, || None::<()>));
            flag.0.store(true, Ordering::SeqCst);
            sleeper.wake();
            assert_eq!(waiter.join().expect("the waiter does not panic"), Err(WaitEnd::Interrupted));
        });
        assert!(lock(&queue.waiters).is_empty());
    }
}
