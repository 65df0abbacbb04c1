//! Waiting for several files at once, and the files that are made to be waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cooper_vfs::Errno;

use super::file::install;
use super::{Entry, SysError, SysResult, full, partial};
use crate::cx::Cx;
use crate::files::blocking::earlier;
use crate::files::description::status;
use crate::files::epoll::Epoll;
use crate::files::event::EventFile;
use crate::files::process::ProcessFile;
use crate::files::signal::SignalFile;
use crate::files::timer::{Setting, TimerFile};
use crate::files::{Description, FileObject, Kind, QueueRef, Ready, Watch};
use crate::signal::send::{self, Sent};
use crate::signal::{SignalInfo, SignalSet};
use crate::task::limits::resource;
use crate::wait::{WaitEnd, WaitQueue, lock};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(7, "poll", poll),
    full(23, "select", select),
    full(213, "epoll_create", epoll_create),
    full(232, "epoll_wait", epoll_wait),
    full(233, "epoll_ctl", epoll_ctl),
    full(270, "pselect6", pselect6),
    full(271, "ppoll", ppoll),
    full(281, "epoll_pwait", epoll_pwait),
    full(282, "signalfd", signalfd),
    full(283, "timerfd_create", timerfd_create),
    full(284, "eventfd", eventfd),
    partial(
        286,
        "timerfd_settime",
        timerfd_settime,
        "the clock is never set, so TFD_TIMER_CANCEL_ON_SET never cancels",
    ),
    full(287, "timerfd_gettime", timerfd_gettime),
    full(289, "signalfd4", signalfd4),
    full(290, "eventfd2", eventfd2),
    full(291, "epoll_create1", epoll_create1),
    partial(424, "pidfd_send_signal", pidfd_send_signal, "the receiver is the whole process"),
    full(434, "pidfd_open", pidfd_open),
    full(438, "pidfd_getfd", pidfd_getfd),
    full(441, "epoll_pwait2", epoll_pwait2),
];

/// `O_CLOEXEC`, which all flags of this kind share.
const CLOEXEC: u32 = 0o2_000_000;
const NONBLOCK: u32 = status::NONBLOCK;

/// What a description is ready for, as the calling thread sees it.
fn ready_of(cx: &Cx<'_>, file: &Description) -> Ready {
    match file.object().kind() {
        Kind::Signals(signals) => signals.ready_for(cx.task),
        _ => file.object().poll(),
    }
}

/// How long a call waits, from when it was first made.
fn deadline(cx: &Cx<'_>, timeout: Option<Duration>) -> Option<Option<Instant>> {
    match timeout {
        // No wait at all.
        Some(Duration::ZERO) => None,
        Some(timeout) => Some(cx.deadline(timeout)),
        None => Some(None),
    }
}

/// Asks until `look` finds something or the time is over; `gather` names the queues anew for every wait.
///
/// Returns `None` at the deadline.
fn wait_for<T>(
    cx: &Cx<'_>,
    timeout: Option<Duration>,
    gather: impl Fn(&mut Watch),
    mut look: impl FnMut() -> Option<T>,
) -> Result<Option<T>, SysError> {
    if let Some(found) = look() {
        return Ok(Some(found));
    }
    let Some(deadline) = deadline(cx, timeout) else { return Ok(None) };
    loop {
        let mut watch = Watch::default();
        gather(&mut watch);
        let edges =
            |watch: &Watch| watch.queues.iter().fold(0u64, |sum, queue| sum.wrapping_add(queue.edges()));
        let before = edges(&watch);
        let queues: Vec<&WaitQueue> = watch.queues.iter().map(QueueRef::queue).collect();
        let result = cx.wait(&queues, earlier(deadline, watch.deadline), || match look() {
            Some(found) => Some(Some(found)),
            // Something changed without being ready: perhaps what is to be watched, so gather again.
            None if edges(&watch) != before => Some(None),
            None => None,
        });
        match result {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(WaitEnd::TimedOut) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Ok(None);
            }
            Err(WaitEnd::TimedOut) => {}
            Err(WaitEnd::Interrupted | WaitEnd::Killed) => return Err(SysError::RestartNoHandler),
        }
    }
}

/// Reads a `timespec`; `None` for a null pointer. `EINVAL` when it is negative or not normal.
fn timespec(cx: &Cx<'_>, address: u64) -> Result<Option<Duration>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let [seconds, nanoseconds] = cx.memory().load::<[i64; 2]>(address)?;
    duration(seconds, nanoseconds).map(Some)
}

fn duration(seconds: i64, nanoseconds: i64) -> Result<Duration, Errno> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::INVAL)?;
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|n| *n < 1_000_000_000).ok_or(Errno::INVAL)?;
    Ok(Duration::new(seconds, nanoseconds))
}

/// A timeout in milliseconds; negative means none.
fn milliseconds(value: u64) -> Option<Duration> {
    u64::try_from(value as i32).ok().map(Duration::from_millis)
}

/// Blocks another set of signals until the call is over. `EINVAL` for a wrong size.
fn set_mask(cx: &Cx<'_>, address: u64, size: u64) -> Result<(), Errno> {
    if address == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::INVAL);
    }
    cx.task.set_temporary_mask(SignalSet(cx.memory().load(address)?));
    Ok(())
}

/// Goes back to the mask before, unless a handler has to run first, which sees to it.
fn restore_mask<T>(cx: &Cx<'_>, result: &Result<T, SysError>) {
    if !matches!(result, Err(SysError::Restart | SysError::RestartNoHandler)) {
        cx.task.restore_mask();
    }
}

// ---- poll

fn poll(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [address, count, timeout, ..] = arguments;
    poll_descriptors(cx, address, count, milliseconds(timeout))
}

fn ppoll(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [address, count, timeout, mask, size, _] = arguments;
    let limit = timespec(cx, timeout)?;
    set_mask(cx, mask, size)?;
    let started = Instant::now();
    let result = poll_descriptors(cx, address, count, limit);
    restore_mask(cx, &result);
    store_rest(cx, timeout, limit, started);
    result
}

/// Tells how much of a timeout is left. Linux does not fail when it cannot.
fn store_rest(cx: &Cx<'_>, address: u64, limit: Option<Duration>, started: Instant) {
    if let Some(limit) = limit {
        let rest = limit.saturating_sub(started.elapsed());
        let _ = cx.memory().store(address, [rest.as_secs(), u64::from(rest.subsec_nanos())]);
    }
}

/// `EINVAL` for more entries than descriptors may be open; `EFAULT`.
fn poll_descriptors(cx: &Cx<'_>, address: u64, count: u64, timeout: Option<Duration>) -> SysResult {
    if count > cx.process().limit(resource::NOFILE) {
        return Err(Errno::INVAL.into());
    }
    let mut table = cx.memory().read_vec(address, count as usize * 8)?;
    let files = cx.files();
    let entries: Vec<Option<(Option<Arc<Description>>, Ready)>> = table
        .chunks_exact(8)
        .map(|entry| {
            let number = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let events = Ready::from_bits_truncate(u32::from(u16::from_le_bytes([entry[4], entry[5]])));
            // A negative number is skipped.
            (number >= 0).then(|| (files.get(number).ok(), events | Ready::ERR | Ready::HUP))
        })
        .collect();
    let mut found = vec![Ready::empty(); entries.len()];
    let look = || {
        for (ready, entry) in found.iter_mut().zip(&entries) {
            *ready = match entry {
                None => Ready::empty(),
                Some((None, _)) => Ready::NVAL,
                Some((Some(file), _)) if file.is_path() => Ready::NVAL,
                Some((Some(file), wanted)) => ready_of(cx, file) & *wanted,
            };
        }
        let number = found.iter().filter(|ready| !ready.is_empty()).count();
        (number > 0).then_some(number)
    };
    let gather = |watch: &mut Watch| {
        for (file, _) in entries.iter().flatten() {
            if let Some(file) = file {
                file.object().watch(watch);
            }
        }
    };
    let number = wait_for(cx, timeout, gather, look)?.unwrap_or(0);
    for (entry, ready) in table.chunks_exact_mut(8).zip(&found) {
        entry[6..8].copy_from_slice(&(ready.bits() as u16).to_le_bytes());
    }
    cx.memory().write_bytes(address, &table)?;
    Ok(number as u64)
}

// ---- select

fn select(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [count, read, write, except, timeout, _] = arguments;
    let limit = if timeout == 0 {
        None
    } else {
        let [seconds, micros] = cx.memory().load::<[i64; 2]>(timeout)?;
        // Microseconds above a million count as seconds here.
        let extra = micros.div_euclid(1_000_000);
        Some(duration(seconds.checked_add(extra).ok_or(Errno::INVAL)?, micros.rem_euclid(1_000_000) * 1000)?)
    };
    let started = Instant::now();
    let result = select_descriptors(cx, count, [read, write, except], limit);
    if let Some(limit) = limit {
        let rest = limit.saturating_sub(started.elapsed());
        let _ = cx.memory().store(timeout, [rest.as_secs(), u64::from(rest.subsec_micros())]);
    }
    result
}

fn pselect6(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [count, read, write, except, timeout, masks] = arguments;
    let limit = timespec(cx, timeout)?;
    if masks != 0 {
        let [mask, size] = cx.memory().load::<[u64; 2]>(masks)?;
        set_mask(cx, mask, size)?;
    }
    let started = Instant::now();
    let result = select_descriptors(cx, count, [read, write, except], limit);
    restore_mask(cx, &result);
    store_rest(cx, timeout, limit, started);
    result
}

/// What makes a descriptor ready for each of the three sets.
const SELECT_SETS: [Ready; 3] = [
    Ready::IN.union(Ready::RDNORM).union(Ready::RDBAND).union(Ready::HUP).union(Ready::ERR),
    Ready::OUT.union(Ready::WRNORM).union(Ready::WRBAND).union(Ready::ERR),
    Ready::PRI,
];

/// `EINVAL` for a negative count; `EBADF` for a closed number in a set.
fn select_descriptors(cx: &Cx<'_>, count: u64, addresses: [u64; 3], timeout: Option<Duration>) -> SysResult {
    let files = cx.files();
    // Numbers beyond the table's room are not looked at, as on Linux.
    let count = u64::try_from(count as i32).map_err(|_| Errno::INVAL)?.min(files.capacity() as u64);
    let bytes = count.div_ceil(64) as usize * 8;
    let mut sets: [Vec<u8>; 3] = Default::default();
    for (set, address) in sets.iter_mut().zip(addresses) {
        *set = if address == 0 { vec![0; bytes] } else { cx.memory().read_vec(address, bytes)? };
    }
    let has = |set: &[u8], number: u64| set[number as usize / 8] & (1 << (number % 8)) != 0;
    let mut entries = Vec::new();
    for number in 0..count {
        let wanted = std::array::from_fn::<bool, 3, _>(|index| has(&sets[index], number));
        if wanted.contains(&true) {
            entries.push((number, files.get(number as i32)?, wanted));
        }
    }
    let look = || {
        let mut result = [vec![0u8; bytes], vec![0u8; bytes], vec![0u8; bytes]];
        let mut total = 0;
        for (number, file, wanted) in &entries {
            let ready = ready_of(cx, file);
            for index in 0..3 {
                if wanted[index] && ready.intersects(SELECT_SETS[index]) {
                    result[index][*number as usize / 8] |= 1 << (number % 8);
                    total += 1;
                }
            }
        }
        (total > 0).then_some((result, total))
    };
    let gather = |watch: &mut Watch| entries.iter().for_each(|(_, file, _)| file.object().watch(watch));
    let empty = || ([vec![0; bytes], vec![0; bytes], vec![0; bytes]], 0);
    let (result, total) = wait_for(cx, timeout, gather, look)?.unwrap_or_else(empty);
    for (set, address) in result.iter().zip(addresses) {
        if address != 0 {
            cx.memory().write_bytes(address, set)?;
        }
    }
    Ok(total)
}

// ---- epoll

fn epoll_create(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    if arguments[0] as i32 <= 0 {
        return Err(Errno::INVAL.into());
    }
    install_object(cx, Box::new(Epoll::new()), 0, 0)
}

fn epoll_create1(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    install_object(cx, Box::new(Epoll::new()), arguments[0] as u32, CLOEXEC)
}

/// Gives the caller a descriptor for a new object. `EINVAL` for flags outside `allowed`.
fn install_object(cx: &Cx<'_>, object: Box<dyn FileObject>, flags: u32, allowed: u32) -> SysResult {
    if flags & !allowed != 0 {
        return Err(Errno::INVAL.into());
    }
    let file = Description::new(object, status::READ_WRITE | flags & NONBLOCK, None);
    install(cx, file, flags & CLOEXEC != 0)
}

/// The set behind a descriptor. `EINVAL` for anything else.
fn set_of(file: &Description) -> Result<&Epoll, Errno> {
    match file.object().kind() {
        Kind::Epoll(set) => Ok(set),
        _ => Err(Errno::INVAL),
    }
}

/// Size of `struct epoll_event`, which is packed.
const EVENT_SIZE: usize = 12;

fn epoll_ctl(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    const ADD: u64 = 1;
    const DELETE: u64 = 2;
    const MODIFY: u64 = 3;
    let [number, operation, target, event, ..] = arguments;
    let (mut events, mut data) = (0, 0);
    if operation != DELETE {
        let bytes: [u8; EVENT_SIZE] = cx.memory().load(event)?;
        events = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut own = [0; 8];
        own.copy_from_slice(&bytes[4..]);
        data = u64::from_le_bytes(own);
    }
    let (file, member) = (cx.file(number)?, cx.file(target)?);
    if member.is_path() {
        return Err(Errno::BADF.into());
    }
    if !member.object().pollable() {
        return Err(Errno::PERM.into());
    }
    if Arc::ptr_eq(&file, &member) {
        return Err(Errno::INVAL.into());
    }
    let set = set_of(&file)?;
    match operation {
        ADD => set.add(target as i32, &member, events, data)?,
        DELETE => set.remove(target as i32, &member)?,
        MODIFY => set.modify(target as i32, &member, events, data)?,
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

/// The most events one call asks for (`EP_MAX_EVENTS`).
const MAX_EVENTS: u64 = i32::MAX as u64 / EVENT_SIZE as u64;
/// The most events one call gives here; callers ask again for more.
const EVENTS_AT_ONCE: u64 = 4096;

fn wait_events(cx: &Cx<'_>, number: u64, address: u64, count: u64, timeout: Option<Duration>) -> SysResult {
    let count = u64::try_from(count as i32).ok().filter(|count| (1..=MAX_EVENTS).contains(count));
    let limit = count.ok_or(Errno::INVAL)?.min(EVENTS_AT_ONCE) as usize;
    let file = cx.file(number)?;
    let set = set_of(&file)?;
    let look = || Some(set.take(limit)).filter(|events| !events.is_empty());
    let events = wait_for(cx, timeout, |watch| set.watch(watch), look)?.unwrap_or_default();
    let mut bytes = Vec::with_capacity(events.len() * EVENT_SIZE);
    for event in &events {
        bytes.extend(event.ready.bits().to_le_bytes());
        bytes.extend(event.data.to_le_bytes());
    }
    cx.memory().write_bytes(address, &bytes)?;
    Ok(events.len() as u64)
}

fn epoll_wait(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, count, timeout, ..] = arguments;
    let result = wait_events(cx, number, address, count, milliseconds(timeout));
    // Not restarted after a handler, whatever it asks for (signal(7)).
    result
}

fn epoll_pwait(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, count, timeout, mask, size] = arguments;
    set_mask(cx, mask, size)?;
    let result = wait_events(cx, number, address, count, milliseconds(timeout));
    restore_mask(cx, &result);
    result
}

fn epoll_pwait2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, count, timeout, mask, size] = arguments;
    let limit = timespec(cx, timeout)?;
    set_mask(cx, mask, size)?;
    let result = wait_events(cx, number, address, count, limit);
    restore_mask(cx, &result);
    result
}

// ---- counters, timers, signals, processes

fn eventfd(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    install_object(cx, Box::new(EventFile::new(arguments[0] as u32, false)), 0, 0)
}

/// `EFD_SEMAPHORE`.
const SEMAPHORE: u32 = 1;

fn eventfd2(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let flags = arguments[1] as u32;
    let file = EventFile::new(arguments[0] as u32, flags & SEMAPHORE != 0);
    install_object(cx, Box::new(file), flags, CLOEXEC | NONBLOCK | SEMAPHORE)
}

const CLOCK_REALTIME: u64 = 0;
const CLOCK_MONOTONIC: u64 = 1;
const CLOCK_BOOTTIME: u64 = 7;

/// `EINVAL` for other clocks and unknown flags; `EPERM` for the alarm clocks.
fn timerfd_create(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let clock = match arguments[0] {
        clock @ (CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME) => clock,
        8 | 9 => return Err(Errno::PERM.into()),
        _ => return Err(Errno::INVAL.into()),
    };
    install_object(cx, Box::new(TimerFile::new(clock as i32)), arguments[1] as u32, CLOEXEC | NONBLOCK)
}

/// `TFD_TIMER_ABSTIME`.
const ABSOLUTE: u64 = 1;
/// `TFD_TIMER_CANCEL_ON_SET`.
const CANCEL_ON_SET: u64 = 2;

fn timer_of(file: &Description) -> Result<&TimerFile, Errno> {
    match file.object().kind() {
        Kind::Timer(timer) => Ok(timer),
        _ => Err(Errno::INVAL),
    }
}

/// Lays out `struct itimerspec`.
fn encode_setting(setting: &Setting) -> [u64; 4] {
    let part = |duration: Duration| [duration.as_secs(), u64::from(duration.subsec_nanos())];
    let ([a, b], [c, d]) = (part(setting.interval), part(setting.value));
    [a, b, c, d]
}

fn timerfd_settime(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, flags, new, old, ..] = arguments;
    if flags & !(ABSOLUTE | CANCEL_ON_SET) != 0 {
        return Err(Errno::INVAL.into());
    }
    let [interval_s, interval_n, value_s, value_n] = cx.memory().load::<[i64; 4]>(new)?;
    let (interval, value) = (duration(interval_s, interval_n)?, duration(value_s, value_n)?);
    let file = cx.file(number)?;
    let timer = timer_of(&file)?;
    let now = Instant::now();
    let next = if value.is_zero() {
        None
    } else if flags & ABSOLUTE == 0 {
        now.checked_add(value)
    } else {
        // An absolute time becomes a distance from now; one that has passed expires at once.
        let clock_now = match timer.clock() as u64 {
            CLOCK_REALTIME => {
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO)
            }
            _ => cx.kernel.uptime(),
        };
        now.checked_add(value.saturating_sub(clock_now))
    };
    let before = timer.set(next, interval, now);
    cx.memory().store_optional(old, encode_setting(&before))?;
    Ok(0)
}

fn timerfd_gettime(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    let setting = timer_of(&file)?.get(Instant::now());
    cx.memory().store(arguments[1], encode_setting(&setting))?;
    Ok(0)
}

fn signalfd(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_signalfd(cx, arguments[0] as i32, arguments[1], arguments[2], 0)
}

fn signalfd4(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    make_signalfd(cx, arguments[0] as i32, arguments[1], arguments[2], arguments[3] as u32)
}

/// `EINVAL` for a wrong size, unknown flags, or a descriptor that is no signalfd.
fn make_signalfd(cx: &Cx<'_>, number: i32, mask: u64, size: u64, flags: u32) -> SysResult {
    if size != 8 || flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let mask = SignalSet(cx.memory().load(mask)?);
    if number == -1 {
        return install_object(cx, Box::new(SignalFile::new(mask, cx.task)), flags, CLOEXEC | NONBLOCK);
    }
    let file = cx.files().get(number)?;
    let Kind::Signals(signals) = file.object().kind() else { return Err(Errno::INVAL.into()) };
    signals.set_mask(mask);
    Ok(number as u64)
}

/// `EINVAL` for a pid that is not positive and for unknown flags; `ESRCH`.
fn pidfd_open(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [pid, flags, ..] = arguments;
    if flags as u32 & !NONBLOCK != 0 || pid as i32 <= 0 {
        return Err(Errno::INVAL.into());
    }
    let table = lock(&cx.kernel.table);
    let process = match table.process(pid as u32) {
        Some(node) => Arc::clone(&node.process),
        // The id of a thread that leads no group.
        None if table.tasks.contains_key(&(pid as u32)) => return Err(Errno::INVAL.into()),
        None => return Err(Errno::SRCH.into()),
    };
    drop(table);
    let object = ProcessFile::new(process, Arc::clone(cx.kernel));
    let file = Description::new(Box::new(object), status::READ_WRITE | flags as u32 & NONBLOCK, None);
    install(cx, file, true)
}

/// The process behind a pidfd. `EBADF` for anything else.
fn process_of(file: &Description) -> Result<&ProcessFile, Errno> {
    match file.object().kind() {
        Kind::Process(process) => Ok(process),
        _ => Err(Errno::BADF),
    }
}

/// `EINVAL` for flags and signals that do not exist; `ESRCH` for a process that has ended; `EPERM`.
fn pidfd_send_signal(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, signal, info, flags, ..] = arguments;
    if flags != 0 || signal > 64 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(number)?;
    let target = process_of(&file)?;
    if target.has_ended() {
        return Err(Errno::SRCH.into());
    }
    let info = if info == 0 {
        SignalInfo::user(signal as u32, 0, cx.process().pid(), cx.credentials().user.real)
    } else {
        SignalInfo::from_bytes(signal as u32, &cx.memory().load(info)?)
    };
    let mut table = lock(&cx.kernel.table);
    if !super::signal::may_signal(cx, &table, target.process(), signal as u32) {
        return Err(Errno::PERM.into());
    }
    if signal != 0 && send::to_process_locked(&mut table, target.process(), info) == Sent::QueueFull {
        return Err(Errno::AGAIN.into());
    }
    Ok(0)
}

/// `EPERM` for the descriptors of a process of another user; `ESRCH` for one that has ended.
fn pidfd_getfd(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, target, flags, ..] = arguments;
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(number)?;
    let process = process_of(&file)?.process();
    let thread = process.any_thread().ok_or(Errno::SRCH)?;
    if thread.credentials().user != cx.credentials().user && cx.credentials().user.effective != 0 {
        return Err(Errno::PERM.into());
    }
    let taken = thread.files().get(target as i32)?;
    install(cx, taken, true)
}
