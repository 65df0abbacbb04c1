//! Clocks, sleeping, timers, futexes.

use std::time::{Duration, Instant};

use cooper_vfs::Errno;

use super::{Entry, SysError, SysResult, full, partial};
use crate::cx::Cx;
use crate::futex::{self, WaitFor};
use crate::memory::FutexKey;
use crate::time::{self, ALARM, First, Notify, TimerClock, TimerValue};
use crate::wait::WaitEnd;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(35, "nanosleep", nanosleep),
    full(36, "getitimer", getitimer),
    full(37, "alarm", alarm),
    full(38, "setitimer", setitimer),
    full(96, "gettimeofday", gettimeofday),
    full(201, "time", sys_time),
    partial(202, "futex", sys_futex, "locks with priority inheritance work without raising priorities"),
    partial(222, "timer_create", timer_create, "no processor-time clocks of other processes"),
    full(223, "timer_settime", timer_settime),
    full(224, "timer_gettime", timer_gettime),
    full(225, "timer_getoverrun", timer_getoverrun),
    full(226, "timer_delete", timer_delete),
    full(228, "clock_gettime", clock_gettime),
    full(229, "clock_getres", clock_getres),
    full(230, "clock_nanosleep", clock_nanosleep),
    full(449, "futex_waitv", futex_waitv),
];

/// Longest relative timeout that is counted; anything longer is for ever.
pub(super) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn duration(seconds: i64, nanoseconds: i64) -> Result<Duration, Errno> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::INVAL)?;
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|n| *n < 1_000_000_000).ok_or(Errno::INVAL)?;
    Ok(Duration::new(seconds, nanoseconds))
}

/// Reads a `struct timespec`. `EINVAL` when it is negative or not normal.
pub(super) fn read_timespec(cx: &Cx<'_>, address: u64) -> Result<Duration, Errno> {
    let [seconds, nanoseconds]: [i64; 2] = cx.memory().load(address)?;
    duration(seconds, nanoseconds)
}

fn timespec(time: Duration) -> [u64; 2] {
    [time.as_secs(), time.subsec_nanos().into()]
}

fn timeval(time: Duration) -> [u64; 2] {
    // Rounded up: what is left is never shown as nothing.
    let micros = time.subsec_nanos().div_ceil(1000);
    if micros == 1_000_000 { [time.as_secs() + 1, 0] } else { [time.as_secs(), micros.into()] }
}

/// Wall-clock time since 1970.
fn real_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Duration::new(now.tv_sec.max(0) as u64, now.tv_nsec as u32)
}

/// The clocks that guests can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Real,
    Monotonic,
    ProcessTime,
    ThreadTime,
}

fn clock(id: u64) -> Result<Clock, Errno> {
    match id as i32 {
        0 | 5 | 8 | 11 => Ok(Clock::Real),
        1 | 4 | 6 | 7 | 9 => Ok(Clock::Monotonic),
        2 => Ok(Clock::ProcessTime),
        3 => Ok(Clock::ThreadTime),
        // Processor-time clocks of other processes and threads: the low bits say which kind.
        id if id < 0 && id & 4 == 0 => Ok(Clock::ProcessTime),
        id if id < 0 && id & 3 != 3 => Ok(Clock::ThreadTime),
        _ => Err(Errno::INVAL),
    }
}

fn now(cx: &Cx<'_>, clock: Clock) -> Duration {
    match clock {
        Clock::Real => real_time(),
        Clock::Monotonic => cx.kernel.uptime(),
        Clock::ProcessTime => {
            cx.task.clock.note();
            cx.process().cpu_time().total()
        }
        Clock::ThreadTime => {
            cx.task.clock.note();
            cx.task.clock.read().total()
        }
    }
}

/// The moment at which a clock shows `time`; `None` when that is beyond all counting.
fn moment(cx: &Cx<'_>, clock: Clock, time: Duration) -> Option<Instant> {
    let left = time.saturating_sub(now(cx, clock));
    Instant::now().checked_add(left.min(FOR_EVER))
}

fn clock_gettime(cx: &mut Cx<'_>, [id, address, ..]: [u64; 6]) -> SysResult {
    let time = now(cx, clock(id)?);
    cx.memory().store(address, timespec(time))?;
    Ok(0)
}

fn clock_getres(cx: &mut Cx<'_>, [id, address, ..]: [u64; 6]) -> SysResult {
    clock(id)?;
    let coarse = matches!(id, 5 | 6);
    cx.memory().store_optional(address, [0u64, if coarse { 4_000_000 } else { 1 }])?;
    Ok(0)
}

fn gettimeofday(cx: &mut Cx<'_>, [time, zone, ..]: [u64; 6]) -> SysResult {
    let now = real_time();
    cx.memory().store_optional(time, [now.as_secs(), u64::from(now.subsec_micros())])?;
    cx.memory().store_optional(zone, [0u32; 2])?;
    Ok(0)
}

fn sys_time(cx: &mut Cx<'_>, [address, ..]: [u64; 6]) -> SysResult {
    let now = real_time().as_secs();
    cx.memory().store_optional(address, now)?;
    Ok(now)
}

/// Sleeps until `deadline`; what is left of `timeout` goes to `remaining` when a signal ends it.
fn sleep(cx: &Cx<'_>, deadline: Option<Instant>, remaining: u64) -> SysResult {
    match cx.wait(&[], deadline, || None::<()>) {
        Ok(()) | Err(WaitEnd::TimedOut) => Ok(0),
        Err(WaitEnd::Interrupted | WaitEnd::Killed) => {
            if let (Some(deadline), true) = (deadline, remaining != 0) {
                let left = deadline.saturating_duration_since(Instant::now());
                cx.memory().store(remaining, timespec(left))?;
            }
            Err(SysError::RestartNoHandler)
        }
    }
}

fn nanosleep(cx: &mut Cx<'_>, [request, remaining, ..]: [u64; 6]) -> SysResult {
    let timeout = read_timespec(cx, request)?.min(FOR_EVER);
    sleep(cx, cx.deadline(timeout), remaining)
}

fn clock_nanosleep(cx: &mut Cx<'_>, [id, flags, request, remaining, ..]: [u64; 6]) -> SysResult {
    const ABSOLUTE: u64 = 1;
    let clock = clock(id)?;
    if clock == Clock::ThreadTime {
        return Err(Errno::INVAL.into());
    }
    let time = read_timespec(cx, request)?;
    if clock == Clock::ProcessTime {
        let due = if flags & ABSOLUTE != 0 { time } else { now(cx, clock).saturating_add(time) };
        return sleep_while_used(cx, due);
    }
    if flags & ABSOLUTE != 0 {
        return sleep(cx, moment(cx, clock, time), 0);
    }
    sleep(cx, cx.deadline(time.min(FOR_EVER)), remaining)
}

/// Sleeps until the threads of the process have used `due` of processor time. It goes on from the start after a signal
/// without a handler, as the others do; a relative time is not shortened then.
fn sleep_while_used(cx: &Cx<'_>, due: Duration) -> SysResult {
    loop {
        let used = now(cx, Clock::ProcessTime);
        if used >= due {
            return Ok(0);
        }
        let threads = cx.process().threads();
        threads.iter().for_each(|task| task.stop.raise());
        let pause = time::until_used(threads.len(), (due - used).min(FOR_EVER));
        match cx.wait(&[], Instant::now().checked_add(pause), || None::<()>) {
            Ok(()) | Err(WaitEnd::TimedOut) => {}
            Err(WaitEnd::Interrupted | WaitEnd::Killed) => return Err(Errno::INTR.into()),
        }
    }
}

/// The interval timers by their numbers in `setitimer`.
fn interval_timer(which: u64) -> Result<i32, Errno> {
    const TIMERS: [i32; 3] = [ALARM, time::VIRTUAL, time::PROFILE];
    usize::try_from(which).ok().and_then(|which| TIMERS.get(which).copied()).ok_or(Errno::INVAL)
}

fn value_of(value: TimerValue) -> [[u64; 2]; 2] {
    [timeval(value.interval), timeval(value.left)]
}

fn getitimer(cx: &mut Cx<'_>, [which, address, ..]: [u64; 6]) -> SysResult {
    cx.task.clock.note();
    let value = time::get(cx.process(), interval_timer(which)?)?;
    cx.memory().store(address, value_of(value))?;
    Ok(0)
}

/// Arms a timer for a time from now on.
fn arm(cx: &Cx<'_>, number: i32, first: Duration, interval: Duration) -> Result<TimerValue, Errno> {
    let first = from_now(cx, time::clock_of(cx.process(), number)?, first);
    time::set(&cx.kernel.timers, cx.process(), number, first, interval.min(FOR_EVER))
}

/// When a timer expires that is set to a time from now on; zero disarms it.
fn from_now(cx: &Cx<'_>, clock: TimerClock, left: Duration) -> First {
    if left.is_zero() {
        return First::Never;
    }
    cx.task.clock.note();
    match clock.used(cx.process()) {
        Some(used) => First::Used(used.saturating_add(left)),
        None => Instant::now().checked_add(left.min(FOR_EVER)).map_or(First::Never, First::At),
    }
}

fn setitimer(cx: &mut Cx<'_>, [which, new, old, ..]: [u64; 6]) -> SysResult {
    let words: [i64; 4] = if new == 0 { [0; 4] } else { cx.memory().load(new)? };
    let micros = |seconds: i64, micros: i64| {
        if !(0..1_000_000).contains(&micros) { Err(Errno::INVAL) } else { duration(seconds, micros * 1000) }
    };
    let (interval, first) = (micros(words[0], words[1])?, micros(words[2], words[3])?);
    let before = arm(cx, interval_timer(which)?, first, interval)?;
    if old != 0 {
        cx.memory().store(old, value_of(before))?;
    }
    Ok(0)
}

fn alarm(cx: &mut Cx<'_>, [seconds, ..]: [u64; 6]) -> SysResult {
    let before = arm(cx, ALARM, Duration::from_secs(u64::from(seconds as u32)), Duration::ZERO)?;
    let left = before.left;
    Ok(if left.is_zero() { 0 } else { (left + Duration::from_millis(500)).as_secs().max(1) })
}

/// The clock of a timer. `EOPNOTSUPP` for the processor time of another process.
fn timer_clock(cx: &Cx<'_>, id: u64) -> Result<TimerClock, Errno> {
    let own = |clock: Clock| match clock {
        Clock::Real => TimerClock::Real,
        Clock::Monotonic => TimerClock::Monotonic,
        Clock::ProcessTime => TimerClock::Process,
        Clock::ThreadTime => TimerClock::Thread(cx.task.tid()),
    };
    let clock = clock(id)?;
    // The number of the process or thread, inverted, is above the three low bits.
    let whose = !(id as i32 >> 3) as u32;
    match clock {
        _ if id as i32 >= 0 || whose == 0 => Ok(own(clock)),
        Clock::ProcessTime if whose == cx.process().pid() && id & 3 == 1 => Ok(TimerClock::User),
        Clock::ProcessTime if whose == cx.process().pid() => Ok(TimerClock::Process),
        Clock::ThreadTime if cx.process().threads().iter().any(|task| task.tid() == whose) => {
            Ok(TimerClock::Thread(whose))
        }
        _ => Err(Errno::OPNOTSUPP),
    }
}

fn timer_create(cx: &mut Cx<'_>, [id, event, address, ..]: [u64; 6]) -> SysResult {
    let clock = timer_clock(cx, id)?;
    let event: Option<[u8; 64]> = if event == 0 { None } else { Some(cx.memory().load(event)?) };
    let word = |bytes: &[u8; 64], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let wanted = match &event {
        None => None,
        Some(bytes) => {
            let value = u64::from(word(bytes, 0)) | u64::from(word(bytes, 4)) << 32;
            let (number, how, tid) = (word(bytes, 8), word(bytes, 12), word(bytes, 16));
            let known = (1..=64).contains(&number);
            Some(match how {
                0 if known => Notify::Signal { number, value },
                1 => Notify::Nothing,
                4 if known => {
                    let own = cx.process().threads().iter().any(|task| task.tid() == tid);
                    if !own {
                        return Err(Errno::INVAL.into());
                    }
                    Notify::Thread { tid, number, value }
                }
                _ => return Err(Errno::INVAL.into()),
            })
        }
    };
    let by_default =
        |number: i32| Notify::Signal { number: crate::signal::signal::ALRM, value: number as u64 };
    let number = time::create(cx.process(), clock, |number| wanted.unwrap_or_else(|| by_default(number)))?;
    if let Err(errno) = cx.memory().store(address, number) {
        time::delete(&cx.kernel.timers, cx.process(), number)?;
        return Err(errno.into());
    }
    Ok(0)
}

fn timer_number(id: u64) -> Result<i32, Errno> {
    // ITIMER_REAL has a negative number, which is no guest's business.
    Some(id as i32).filter(|number| *number >= 0).ok_or(Errno::INVAL)
}

fn timer_settime(cx: &mut Cx<'_>, [id, flags, new, old, ..]: [u64; 6]) -> SysResult {
    const ABSOLUTE: u64 = 1;
    let number = timer_number(id)?;
    let words: [i64; 4] = cx.memory().load(new)?;
    let (interval, first) = (duration(words[0], words[1])?, duration(words[2], words[3])?);
    let at = match time::clock_of(cx.process(), number)? {
        clock if first.is_zero() || flags & ABSOLUTE == 0 => from_now(cx, clock, first),
        TimerClock::Real => moment(cx, Clock::Real, first).map_or(First::Never, First::At),
        TimerClock::Monotonic => moment(cx, Clock::Monotonic, first).map_or(First::Never, First::At),
        TimerClock::User | TimerClock::Process | TimerClock::Thread(_) => First::Used(first),
    };
    let before = time::set(&cx.kernel.timers, cx.process(), number, at, interval.min(FOR_EVER))?;
    if old != 0 {
        cx.memory().store(old, [timespec(before.interval), timespec(before.left)])?;
    }
    Ok(0)
}

fn timer_gettime(cx: &mut Cx<'_>, [id, address, ..]: [u64; 6]) -> SysResult {
    let value = time::get(cx.process(), timer_number(id)?)?;
    cx.memory().store(address, [timespec(value.interval), timespec(value.left)])?;
    Ok(0)
}

fn timer_getoverrun(cx: &mut Cx<'_>, [id, ..]: [u64; 6]) -> SysResult {
    Ok(time::overrun(cx.process(), timer_number(id)?)? as u64)
}

fn timer_delete(cx: &mut Cx<'_>, [id, ..]: [u64; 6]) -> SysResult {
    time::delete(&cx.kernel.timers, cx.process(), timer_number(id)?)?;
    Ok(0)
}

/// `EINVAL` for no futex or too many, unknown flags and other sizes than 32 bits.
fn futex_waitv(cx: &mut Cx<'_>, [waiters, count, flags, timeout, clock_id, _]: [u64; 6]) -> SysResult {
    /// `FUTEX_WAITV_MAX`.
    const MOST: usize = 128;
    /// `FUTEX2_SIZE_U32`.
    const WORDS: u64 = 2;
    /// `FUTEX2_PRIVATE`.
    const PRIVATE: u64 = 128;
    let count = usize::try_from(count as u32).ok().filter(|count| (1..=MOST).contains(count));
    let count = count.filter(|_| flags as u32 == 0 && waiters != 0).ok_or(Errno::INVAL)?;
    let deadline = match (timeout, clock_id as u32) {
        (0, _) => None,
        (_, 0 | 1) => wait_deadline(cx, timeout, true, clock_id as u32 == 0)?,
        _ => return Err(Errno::INVAL.into()),
    };
    let mut wanted = Vec::with_capacity(count);
    for index in 0..count as u64 {
        let [expected, address, flags]: [u64; 3] = cx.memory().load(waiters.wrapping_add(24 * index))?;
        if flags & !PRIVATE != WORDS {
            return Err(Errno::INVAL.into());
        }
        let (private, expected) = (flags & PRIVATE != 0, expected as u32);
        wanted.push(WaitFor { address, private, expected, bits: futex::ANY, deadline });
    }
    match cx.kernel.futexes.wait_any(cx.task, cx.memory(), &wanted, deadline)? {
        Ok(index) => Ok(index as u64),
        Err(WaitEnd::TimedOut) => Err(Errno::TIMEDOUT.into()),
        Err(_) => Err(SysError::Restart),
    }
}

fn sys_futex(cx: &mut Cx<'_>, [address, operation, value, timeout, second, third]: [u64; 6]) -> SysResult {
    const PRIVATE: u64 = 128;
    const REALTIME: u64 = 256;
    let private = operation & PRIVATE != 0;
    let value = value as u32;
    let futexes = &cx.kernel.futexes;
    let key = |address: u64| -> Result<FutexKey, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::INVAL);
        }
        cx.memory().futex_key(address, private)
    };
    // The counts of the calls with two futexes come where others have a timeout.
    let (count, other) = (value, timeout as u32);
    match operation & 0x7f {
        command @ (0 | 9) => {
            let absolute = command == 9;
            let bits = if absolute { third as u32 } else { futex::ANY };
            if bits == 0 {
                return Err(Errno::INVAL.into());
            }
            let deadline = wait_deadline(cx, timeout, absolute, operation & REALTIME != 0)?;
            let wanted = WaitFor { address, private, expected: value, bits, deadline };
            match futexes.wait(cx.task, cx.memory(), wanted)? {
                Ok(()) => Ok(0),
                Err(WaitEnd::TimedOut) => Err(Errno::TIMEDOUT.into()),
                // With a timeout it starts again with what is left, unless a handler ran.
                Err(_) if timeout != 0 => Err(SysError::RestartNoHandler),
                Err(_) => Err(SysError::Restart),
            }
        }
        1 => Ok(futexes.wake(key(address)?, count, futex::ANY).into()),
        10 if third as u32 == 0 => Err(Errno::INVAL.into()),
        10 => Ok(futexes.wake(key(address)?, count, third as u32).into()),
        3 => {
            let (woken, _) = futexes.requeue(key(address)?, key(second)?, count, other, None)?;
            Ok(woken.into())
        }
        4 => {
            let expected = Some((cx.memory(), address, third as u32));
            let (woken, moved) = futexes.requeue(key(address)?, key(second)?, count, other, expected)?;
            Ok((woken + moved).into())
        }
        5 => {
            let keys = (key(address)?, key(second)?);
            Ok(futexes.wake_op(cx.memory(), keys, second, (count, other), third as u32)?.into())
        }
        6 | 13 => lock_pi(cx, address, private, timeout),
        7 => unlock_pi(cx, address, private),
        8 => try_lock_pi(cx, address).map(|()| 0),
        11 => {
            let deadline = wait_deadline(cx, timeout, true, operation & REALTIME != 0)?;
            let wanted = WaitFor { address, private, expected: value, bits: futex::ANY, deadline };
            wait_requeue_pi(cx, wanted, second)
        }
        12 => requeue_pi(cx, (address, key(address)?), (second, key(second)?), (count, other), third as u32),
        _ => Err(Errno::NOSYS.into()),
    }
}

fn wait_deadline(cx: &Cx<'_>, timeout: u64, absolute: bool, real: bool) -> Result<Option<Instant>, Errno> {
    if timeout == 0 {
        return Ok(None);
    }
    let time = read_timespec(cx, timeout)?;
    if !absolute {
        return Ok(cx.deadline(time.min(FOR_EVER)));
    }
    Ok(moment(cx, if real { Clock::Real } else { Clock::Monotonic }, time))
}

/// Takes a priority-inheriting lock if it is free. `EAGAIN` when it is not, `EDEADLK` when it is the caller's.
fn try_lock_pi(cx: &Cx<'_>, address: u64) -> Result<(), SysError> {
    let tid = cx.task.tid();
    let free = |word: u32| word & futex::TID_MASK == 0;
    let take = |word: u32| if free(word) { word & !futex::TID_MASK | tid } else { word };
    let old = cx.memory().memory.fetch_update(address, take).map_err(|_| Errno::FAULT)?;
    if old & futex::TID_MASK == tid {
        return Err(Errno::DEADLK.into());
    }
    if free(old) { Ok(()) } else { Err(Errno::AGAIN.into()) }
}

fn lock_pi(cx: &Cx<'_>, address: u64, private: bool, timeout: u64) -> SysResult {
    let deadline = wait_deadline(cx, timeout, true, true)?;
    lock_pi_until(cx, address, private, deadline)
}

/// `FUTEX_WAIT_REQUEUE_PI`: waits on one word, to be moved to a lock, and returns with the lock.
///
/// `EINVAL` for one word twice; `EAGAIN` when the word is not what was expected; `ETIMEDOUT`.
fn wait_requeue_pi(cx: &Cx<'_>, wanted: WaitFor, second: u64) -> SysResult {
    if wanted.address == second || !second.is_multiple_of(4) {
        return Err(Errno::INVAL.into());
    }
    match cx.kernel.futexes.wait(cx.task, cx.memory(), wanted)? {
        Ok(()) => lock_pi_until(cx, second, wanted.private, wanted.deadline),
        Err(WaitEnd::TimedOut) => Err(Errno::TIMEDOUT.into()),
        Err(_) => Err(SysError::Restart),
    }
}

/// `FUTEX_CMP_REQUEUE_PI`: gives a free lock to one waiter of a word and moves the others to the lock.
///
/// `EINVAL` for one word twice and unless one is to be woken; `EAGAIN` when the word is not what was expected.
fn requeue_pi(
    cx: &Cx<'_>,
    from: (u64, FutexKey),
    to: (u64, FutexKey),
    counts: (u32, u32),
    expected: u32,
) -> SysResult {
    if counts.0 != 1 || from.0 == to.0 {
        return Err(Errno::INVAL.into());
    }
    let memory = &cx.memory().memory;
    // Marked before anybody is moved, so that the owner's unlocking comes to the kernel.
    let marked = memory.fetch_update(to.0, |word: u32| word | futex::WAITERS).map_err(|_| Errno::FAULT)?;
    let wake = u32::from(marked & futex::TID_MASK == 0);
    let expected = Some((cx.memory(), from.0, expected));
    let (woken, moved) = cx.kernel.futexes.requeue(from.1, to.1, wake, counts.1, expected)?;
    Ok((woken + moved).into())
}

fn lock_pi_until(cx: &Cx<'_>, address: u64, private: bool, deadline: Option<Instant>) -> SysResult {
    loop {
        match try_lock_pi(cx, address) {
            Err(SysError::Errno(Errno::AGAIN)) => {}
            other => return other.map(|()| 0),
        }
        let mark = |word: u32| if word & futex::TID_MASK == 0 { word } else { word | futex::WAITERS };
        let old = cx.memory().memory.fetch_update(address, mark).map_err(|_| Errno::FAULT)?;
        let wanted = WaitFor { address, private, expected: old | futex::WAITERS, bits: futex::ANY, deadline };
        match cx.kernel.futexes.wait(cx.task, cx.memory(), wanted) {
            Ok(Ok(())) | Err(Errno::AGAIN) => {}
            Ok(Err(WaitEnd::TimedOut)) => return Err(Errno::TIMEDOUT.into()),
            Ok(Err(_)) => return Err(SysError::Restart),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn unlock_pi(cx: &Cx<'_>, address: u64, private: bool) -> SysResult {
    let tid = cx.task.tid();
    let own = |word: u32| word & futex::TID_MASK == tid;
    let release = |word: u32| if own(word) { 0 } else { word };
    let old = cx.memory().memory.fetch_update(address, release).map_err(|_| Errno::FAULT)?;
    if !own(old) {
        return Err(Errno::PERM.into());
    }
    // All waiters race for it again, as nobody inherits it.
    cx.kernel.futexes.wake(cx.memory().futex_key(address, private)?, u32::MAX, futex::ANY);
    Ok(0)
}
