//! Clocks and timers.
//!
//! The monotonic clock starts with the step. Timers that send signals - `alarm`, `setitimer`, `timer_create` - wait
//! in one ordered list, served by one host thread that exists while the list is not empty.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use cooper_vfs::Errno;

use crate::signal::pending::code;
use crate::signal::{Detail, SignalInfo, send, signal};
use crate::task::{Process, Task};
use crate::wait::lock;

/// The most POSIX timers of one process.
const MAX_TIMERS: usize = 1024;

/// What expiry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notify {
    /// `ITIMER_REAL`.
    Alarm,
    /// `SIGEV_SIGNAL`: this signal with this value.
    Signal { number: u32, value: u64 },
    /// `SIGEV_THREAD_ID`.
    Thread { tid: u32, number: u32, value: u64 },
    /// `SIGEV_NONE`.
    Nothing,
}

/// One timer of a process.
#[derive(Debug)]
struct Timer {
    notify: Notify,
    /// Whether absolute times are wall-clock times.
    real: bool,
    next: Option<Instant>,
    interval: Duration,
    overrun: i32,
}

/// The timers of one process; number -1 is `ITIMER_REAL`.
#[derive(Debug, Default)]
pub(crate) struct ProcessTimers {
    timers: BTreeMap<i32, Timer>,
}

/// Time left and interval, as `getitimer` and `timer_gettime` give them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimerValue {
    pub(crate) left: Duration,
    pub(crate) interval: Duration,
}

/// The number of `ITIMER_REAL`.
pub(crate) const ALARM: i32 = -1;

type Key = (Instant, u32, i32);

/// The list of everything that expires, and the thread that serves it.
#[derive(Debug, Default)]
pub(crate) struct TimerQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    due: BTreeMap<Key, Weak<Process>>,
    serving: bool,
}

impl TimerQueue {
    fn add(self: &Arc<Self>, at: Instant, process: &Arc<Process>, number: i32) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        state.due.insert((at, process.pid(), number), Arc::downgrade(process));
        if !state.serving {
            let queue = self.clone();
            let builder = std::thread::Builder::new().name("timers".to_owned()).stack_size(256 << 10);
            builder.spawn(move || queue.serve()).map_err(|_| Errno::AGAIN)?;
            state.serving = true;
        }
        self.changed.notify_all();
        Ok(())
    }

    fn remove(&self, at: Instant, pid: u32, number: i32) {
        lock(&self.state).due.remove(&(at, pid, number));
        self.changed.notify_all();
    }

    fn serve(self: Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            let Some((at, pid, number)) = state.due.keys().next().copied() else {
                state.serving = false;
                return;
            };
            let now = Instant::now();
            if at > now {
                state = self.changed.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let process = state.due.remove(&(at, pid, number)).and_then(|process| process.upgrade());
            drop(state);
            if let Some(process) = process {
                self.expire(&process, number, at);
            }
            state = lock(&self.state);
        }
    }

    fn expire(self: &Arc<Self>, process: &Arc<Process>, number: i32, at: Instant) {
        let (notify, next, overrun) = {
            let mut timers = lock(&process.timers);
            let Some(timer) = timers.timers.get_mut(&number).filter(|timer| timer.next == Some(at)) else {
                return;
            };
            let missed = missed_periods(timer, at);
            timer.overrun = missed;
            timer.next = (!timer.interval.is_zero()).then(|| at + timer.interval * (missed as u32 + 1));
            (timer.notify.clone(), timer.next, missed)
        };
        notify_process(process, number, notify, overrun);
        if let Some(next) = next {
            // Without a thread there is nothing to repeat; the first expiry had one.
            let _ = self.add(next, process, number);
        }
    }
}

fn missed_periods(timer: &Timer, at: Instant) -> i32 {
    if timer.interval.is_zero() {
        return 0;
    }
    let late = at.elapsed().as_nanos() / timer.interval.as_nanos().max(1);
    i32::try_from(late).unwrap_or(i32::MAX - 1)
}

fn notify_process(process: &Arc<Process>, id: i32, notify: Notify, overrun: i32) {
    let timer = |number, value| SignalInfo {
        number,
        errno: 0,
        code: code::TIMER,
        detail: Detail::Timer { id, overrun, value },
    };
    match notify {
        Notify::Nothing => {}
        Notify::Alarm => {
            send::to_process(process, SignalInfo::kernel(signal::ALRM));
        }
        Notify::Signal { number, value } => {
            send::to_process(process, timer(number, value));
        }
        Notify::Thread { tid, number, value } => {
            let task: Option<Arc<Task>> = process.threads().into_iter().find(|task| task.tid() == tid);
            if let Some(task) = task {
                send::to_task(&task, timer(number, value));
            }
        }
    }
}

impl Timer {
    fn value(&self, now: Instant) -> TimerValue {
        let left = self.next.map_or(Duration::ZERO, |next| {
            // An armed timer never shows zero, which would mean that it is not armed.
            next.saturating_duration_since(now).max(Duration::from_nanos(1))
        });
        TimerValue { left, interval: self.interval }
    }
}

/// Makes a timer and returns its number. `EAGAIN` when there are too many.
pub(crate) fn create(
    process: &Process,
    real: bool,
    notify: impl FnOnce(i32) -> Notify,
) -> Result<i32, Errno> {
    let mut timers = lock(&process.timers);
    if timers.timers.len() >= MAX_TIMERS {
        return Err(Errno::AGAIN);
    }
    let number =
        (0..=MAX_TIMERS as i32).find(|number| !timers.timers.contains_key(number)).ok_or(Errno::AGAIN)?;
    let timer = Timer { notify: notify(number), real, next: None, interval: Duration::ZERO, overrun: 0 };
    timers.timers.insert(number, timer);
    Ok(number)
}

/// Arms a timer, or disarms it without `first`. Returns what it was before. `EINVAL` for an unknown one.
pub(crate) fn set(
    queue: &Arc<TimerQueue>,
    process: &Arc<Process>,
    number: i32,
    first: Option<Instant>,
    interval: Duration,
) -> Result<TimerValue, Errno> {
    let now = Instant::now();
    let mut timers = lock(&process.timers);
    if number == ALARM {
        let alarm =
            Timer { notify: Notify::Alarm, real: true, next: None, interval: Duration::ZERO, overrun: 0 };
        timers.timers.entry(ALARM).or_insert(alarm);
    }
    let timer = timers.timers.get_mut(&number).ok_or(Errno::INVAL)?;
    let before = timer.value(now);
    let old = std::mem::replace(&mut timer.next, first);
    timer.interval = interval;
    timer.overrun = 0;
    drop(timers);
    if let Some(old) = old {
        queue.remove(old, process.pid(), number);
    }
    if let Some(first) = first {
        queue.add(first, process, number)?;
    }
    Ok(before)
}

/// What is left of a timer. `EINVAL` for an unknown one; `ITIMER_REAL` is always known.
pub(crate) fn get(process: &Process, number: i32) -> Result<TimerValue, Errno> {
    match lock(&process.timers).timers.get(&number) {
        Some(timer) => Ok(timer.value(Instant::now())),
        None if number == ALARM => Ok(TimerValue::default()),
        None => Err(Errno::INVAL),
    }
}

/// Whether a timer counts by the wall clock. `EINVAL` for an unknown one.
pub(crate) fn is_real(process: &Process, number: i32) -> Result<bool, Errno> {
    lock(&process.timers).timers.get(&number).map(|timer| timer.real).ok_or(Errno::INVAL)
}

/// Missed expiries of a timer at its last one. `EINVAL` for an unknown one.
pub(crate) fn overrun(process: &Process, number: i32) -> Result<i32, Errno> {
    lock(&process.timers).timers.get(&number).map(|timer| timer.overrun).ok_or(Errno::INVAL)
}

/// Removes a timer. `EINVAL` for an unknown one.
pub(crate) fn delete(queue: &TimerQueue, process: &Process, number: i32) -> Result<(), Errno> {
    let timer = lock(&process.timers).timers.remove(&number).ok_or(Errno::INVAL)?;
    if let Some(next) = timer.next {
        queue.remove(next, process.pid(), number);
    }
    Ok(())
}

/// Removes all timers at the end of a process.
pub(crate) fn end_timers(queue: &TimerQueue, process: &Process) {
    let timers = std::mem::take(&mut lock(&process.timers).timers);
    for (number, timer) in timers {
        if let Some(next) = timer.next {
            queue.remove(next, process.pid(), number);
        }
    }
}

/// Removes the POSIX timers, as `execve` does; what is due of them finds nothing.
pub(crate) fn forget_timers(process: &Process) {
    lock(&process.timers).timers.retain(|number, _| *number == ALARM);
}
