//! Clocks and timers.
//!
//! The monotonic clock starts with the step. Timers that send signals - `alarm`, `setitimer`, `timer_create`, the limit
//! of processor time - wait in one ordered list, served by one host thread that exists while the list is not empty.
//!
//! A timer on processor time is in the list with the moment at which it can expire at the earliest. Then it is looked at
//! twice: at the first look the threads are told to note their times, at the second, a moment later, it is compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use cooper_vfs::Errno;

use crate::cputime::CpuTime;
use crate::signal::pending::code;
use crate::signal::{Detail, SignalInfo, send, signal};
use crate::task::limits::{INFINITY, Limit};
use crate::task::{ExitStatus, Process, Task};
use crate::wait::lock;

/// The most POSIX timers of one process.
const MAX_TIMERS: usize = 1024;

/// What expiry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notify {
    /// An interval timer: this signal, from the kernel.
    Interval(u32),
    /// `RLIMIT_CPU`: `SIGXCPU`, and from this time on `SIGKILL`.
    CpuLimit { hard: Option<Duration> },
    /// `SIGEV_SIGNAL`: this signal with this value.
    Signal { number: u32, value: u64 },
    /// `SIGEV_THREAD_ID`.
    Thread { tid: u32, number: u32, value: u64 },
    /// `SIGEV_NONE`.
    Nothing,
}

/// What a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerClock {
    /// The wall clock.
    Real,
    /// The step's time.
    Monotonic,
    /// Processor time of the process in guest code.
    User,
    /// Processor time of the process.
    Process,
    /// Processor time of one of its threads.
    Thread(u32),
}

impl TimerClock {
    /// What a clock of processor time shows, as the threads last noted it; `None` for other clocks and threads that are gone.
    pub(crate) fn used(self, process: &Process) -> Option<Duration> {
        match self {
            Self::Real | Self::Monotonic => None,
            Self::User => Some(process.cpu_time().user),
            Self::Process => Some(process.cpu_time().total()),
            Self::Thread(tid) => {
                let task = process.threads().into_iter().find(|task| task.tid() == tid)?;
                Some(CpuTime::total(task.clock.read()))
            }
        }
    }
}

/// The shortest time between two looks at a timer on processor time.
const LOOK: Duration = Duration::from_millis(4);
/// How long threads have to note their times.
const NOTE: Duration = Duration::from_millis(1);

/// How long it takes at least until `left` of processor time is used by so many threads.
pub(crate) fn until_used(threads: usize, left: Duration) -> Duration {
    let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
    (left / threads).max(LOOK)
}

/// One timer of a process.
#[derive(Debug)]
struct Timer {
    notify: Notify,
    clock: TimerClock,
    /// When it expires, or is looked at.
    next: Option<Instant>,
    /// When it expires, for clocks of processor time.
    due: Option<Duration>,
    /// Whether the threads were told to note their times for the next look.
    asked: bool,
    interval: Duration,
    overrun: i32,
}

/// The timers of one process; those with negative numbers have no name in `timer_create`.
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
/// The number of `ITIMER_VIRTUAL`.
pub(crate) const VIRTUAL: i32 = -2;
/// The number of `ITIMER_PROF`.
pub(crate) const PROFILE: i32 = -3;
/// The number of the timer for `RLIMIT_CPU`.
const CPU_LIMIT: i32 = -4;

/// The interval timers: number, clock, signal.
const INTERVAL_TIMERS: [(i32, TimerClock, u32); 3] = [
    (ALARM, TimerClock::Real, signal::ALRM),
    (VIRTUAL, TimerClock::User, signal::VTALRM),
    (PROFILE, TimerClock::Process, signal::PROF),
];

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
            if timer.due.is_some() {
                let clock = timer.clock;
                drop(timers);
                return self.look(process, number, clock, at);
            }
            let missed = missed_periods(timer.interval, at.elapsed());
            timer.overrun = missed;
            timer.next = (!timer.interval.is_zero()).then(|| at + timer.interval * (missed as u32 + 1));
            (timer.notify.clone(), timer.next, missed)
        };
        notify_process(process, number, notify, overrun, Duration::ZERO);
        if let Some(next) = next {
            // Without a thread there is nothing to repeat; the first expiry had one.
            let _ = self.add(next, process, number);
        }
    }

    /// Looks at a timer on processor time.
    fn look(self: &Arc<Self>, process: &Arc<Process>, number: i32, clock: TimerClock, at: Instant) {
        let used = clock.used(process);
        let threads = process.threads();
        let pause = |left| until_used(threads.len(), left);
        let mut expired = None;
        let next = {
            let mut timers = lock(&process.timers);
            let Some(timer) = timers.timers.get_mut(&number).filter(|timer| timer.next == Some(at)) else {
                return;
            };
            let (Some(due), Some(used)) = (timer.due, used) else {
                // The thread whose time it counts is gone.
                (timer.next, timer.due) = (None, None);
                return;
            };
            let now = Instant::now();
            timer.next = match used.checked_sub(due) {
                None if timer.asked => now.checked_add(pause(due - used)),
                None => now.checked_add(NOTE),
                Some(late) => {
                    let missed = missed_periods(timer.interval, late);
                    timer.overrun = missed;
                    expired = Some((timer.notify.clone(), missed));
                    timer.due =
                        (!timer.interval.is_zero()).then(|| due + timer.interval * (missed as u32 + 1));
                    timer.due.and_then(|_| now.checked_add(LOOK))
                }
            };
            timer.asked = !timer.asked && expired.is_none();
            timer.next
        };
        match expired {
            Some((notify, missed)) => {
                notify_process(process, number, notify, missed, used.unwrap_or_default());
            }
            None => threads.iter().for_each(|task| task.stop.raise()),
        }
        if let Some(next) = next {
            // As above: there is a thread.
            let _ = self.add(next, process, number);
        }
    }
}

fn missed_periods(interval: Duration, late: Duration) -> i32 {
    if interval.is_zero() {
        return 0;
    }
    i32::try_from(late.as_nanos() / interval.as_nanos().max(1)).unwrap_or(i32::MAX - 1)
}

fn notify_process(process: &Arc<Process>, id: i32, notify: Notify, overrun: i32, used: Duration) {
    let timer = |number, value| SignalInfo {
        number,
        errno: 0,
        code: code::TIMER,
        detail: Detail::Timer { id, overrun, value },
    };
    match notify {
        Notify::Nothing => {}
        Notify::Interval(number) => {
            send::to_process(process, SignalInfo::kernel(number));
        }
        Notify::CpuLimit { hard } => {
            if hard.is_some_and(|hard| used >= hard) {
                process.begin_exit(ExitStatus::Signal(signal::KILL as u8));
            } else {
                send::to_process(process, SignalInfo::kernel(signal::XCPU));
            }
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
    fn new(notify: Notify, clock: TimerClock) -> Self {
        Self { notify, clock, next: None, due: None, asked: false, interval: Duration::ZERO, overrun: 0 }
    }

    fn value(&self, now: Instant, used: Option<Duration>) -> TimerValue {
        let left = match (self.due, used) {
            (Some(due), Some(used)) => Some(due.saturating_sub(used)),
            _ => self.next.map(|next| next.saturating_duration_since(now)),
        };
        // An armed timer never shows zero, which would mean that it is not armed.
        let left = left.map_or(Duration::ZERO, |left| left.max(Duration::from_nanos(1)));
        TimerValue { left, interval: self.interval }
    }
}

/// Makes a timer and returns its number. `EAGAIN` when there are too many.
pub(crate) fn create(
    process: &Process,
    clock: TimerClock,
    notify: impl FnOnce(i32) -> Notify,
) -> Result<i32, Errno> {
    let mut timers = lock(&process.timers);
    if timers.timers.len() >= MAX_TIMERS {
        return Err(Errno::AGAIN);
    }
    let number =
        (0..=MAX_TIMERS as i32).find(|number| !timers.timers.contains_key(number)).ok_or(Errno::AGAIN)?;
    timers.timers.insert(number, Timer::new(notify(number), clock));
    Ok(number)
}

/// When a timer expires first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Never: it is disarmed.
    Never,
    /// At a moment, for clocks that run by themselves.
    At(Instant),
    /// When its clock of processor time shows this.
    Used(Duration),
}

/// Arms a timer, or disarms it. Returns what it was before. `EINVAL` for an unknown one.
pub(crate) fn set(
    queue: &Arc<TimerQueue>,
    process: &Arc<Process>,
    number: i32,
    first: First,
    interval: Duration,
) -> Result<TimerValue, Errno> {
    let now = Instant::now();
    let clock = clock_of(process, number)?;
    let used = clock.used(process);
    let (first, due) = match first {
        First::Never => (None, None),
        First::At(at) => (Some(at), None),
        First::Used(due) => {
            let left = due.saturating_sub(used.unwrap_or_default());
            (now.checked_add(until_used(process.threads().len(), left)), Some(due))
        }
    };
    let mut timers = lock(&process.timers);
    if let Some((_, clock, signal)) = INTERVAL_TIMERS.iter().find(|(known, ..)| *known == number) {
        timers.timers.entry(number).or_insert_with(|| Timer::new(Notify::Interval(*signal), *clock));
    }
    let timer = timers.timers.get_mut(&number).ok_or(Errno::INVAL)?;
    let before = timer.value(now, used);
    let old = std::mem::replace(&mut timer.next, first);
    (timer.due, timer.asked) = (due, false);
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

/// What is left of a timer. `EINVAL` for an unknown one; the interval timers are always known.
pub(crate) fn get(process: &Process, number: i32) -> Result<TimerValue, Errno> {
    let used = clock_of(process, number)?.used(process);
    let timers = lock(&process.timers);
    Ok(timers.timers.get(&number).map(|timer| timer.value(Instant::now(), used)).unwrap_or_default())
}

/// What a timer counts. `EINVAL` for an unknown one; the interval timers are always known.
pub(crate) fn clock_of(process: &Process, number: i32) -> Result<TimerClock, Errno> {
    if let Some(timer) = lock(&process.timers).timers.get(&number) {
        return Ok(timer.clock);
    }
    let known = INTERVAL_TIMERS.iter().find(|(known, ..)| *known == number);
    known.map(|(_, clock, _)| *clock).ok_or(Errno::INVAL)
}

/// Lets the limit of processor time of a process count (`RLIMIT_CPU`, in seconds).
pub(crate) fn limit_cpu(queue: &Arc<TimerQueue>, process: &Arc<Process>, limit: Limit) -> Result<(), Errno> {
    let hard = (limit.hard != INFINITY).then(|| Duration::from_secs(limit.hard));
    let first = match (limit.soft, hard) {
        (INFINITY, None) => First::Never,
        (INFINITY, Some(hard)) => First::Used(hard),
        (soft, _) => First::Used(Duration::from_secs(soft)),
    };
    {
        let mut timers = lock(&process.timers);
        if first == First::Never && !timers.timers.contains_key(&CPU_LIMIT) {
            return Ok(());
        }
        let limit = Timer::new(Notify::Nothing, TimerClock::Process);
        timers.timers.entry(CPU_LIMIT).or_insert(limit).notify = Notify::CpuLimit { hard };
    }
    set(queue, process, CPU_LIMIT, first, Duration::from_secs(1)).map(drop)
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
    lock(&process.timers).timers.retain(|number, _| *number < 0);
}
