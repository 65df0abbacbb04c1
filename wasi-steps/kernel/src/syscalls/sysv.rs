//! System V semaphores and message queues.

use std::sync::Arc;
use std::time::Instant;

use cooper_vfs::Errno;

use super::time::{FOR_EVER, read_timespec};
use super::{Entry, SysError, SysResult, full, partial};
use crate::cx::Cx;
use crate::ipc::message::{MAX_MESSAGE, MAX_QUEUE, Message, Queue, TooLong, Wanted};
use crate::ipc::semaphore::{Failed, MAX_OPERATIONS, MAX_SEMAPHORES, MAX_VALUE, Operation, Set, Until};
use crate::ipc::{MAX_OBJECTS, Permissions, rights};
use crate::wait::{WaitEnd, lock};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(64, "semget", semget),
    full(65, "semop", semop),
    full(66, "semctl", semctl),
    full(68, "msgget", msgget),
    full(69, "msgsnd", msgsnd),
    partial(70, "msgrcv", msgrcv, "MSG_COPY is ENOSYS, as in kernels without checkpoints"),
    full(71, "msgctl", msgctl),
    full(220, "semtimedop", semtimedop),
];

/// Commands that sets and queues share.
mod command {
    pub(super) const REMOVE: u64 = 0;
    pub(super) const SET: u64 = 1;
    pub(super) const STAT: u64 = 2;
    pub(super) const INFO: u64 = 3;
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

fn semget(cx: &mut Cx<'_>, [key, count, flags, ..]: [u64; 6]) -> SysResult {
    let count = usize::try_from(count as i32).ok().filter(|count| *count <= MAX_SEMAPHORES);
    let count = count.ok_or(Errno::INVAL)?;
    let credentials = &cx.credentials().filesystem;
    let accept = |set: &Set| if count > set.count() { Err(Errno::INVAL) } else { Ok(()) };
    let make = |permissions| Set::new(permissions, count, now());
    let id = lock(&cx.kernel.semaphores).get(credentials, (key as i32, flags as u32), accept, make)?;
    Ok(id as u64)
}

fn set_of(cx: &Cx<'_>, id: u64) -> Result<Arc<Set>, Errno> {
    lock(&cx.kernel.semaphores).find(id as i32)
}

fn semop(cx: &mut Cx<'_>, [id, operations, count, ..]: [u64; 6]) -> SysResult {
    operate(cx, id, operations, count, None)
}

fn semtimedop(cx: &mut Cx<'_>, [id, operations, count, timeout, ..]: [u64; 6]) -> SysResult {
    let deadline = match timeout {
        0 => None,
        address => cx.deadline(read_timespec(cx, address)?.min(FOR_EVER)),
    };
    operate(cx, id, operations, count, deadline)
}

/// `E2BIG` for too many parts; `EACCES`; what [`Set::attempt`] says; `EAGAIN` at the deadline.
fn operate(cx: &Cx<'_>, id: u64, address: u64, count: u64, deadline: Option<Instant>) -> SysResult {
    /// Size of `struct sembuf`.
    const SIZE: usize = 6;
    let count = usize::try_from(count).map_err(|_| Errno::TOOBIG)?;
    if count == 0 || (id as i32) < 0 {
        return Err(Errno::INVAL.into());
    }
    if count > MAX_OPERATIONS {
        return Err(Errno::TOOBIG.into());
    }
    let bytes = cx.memory().read_vec(address, count * SIZE)?;
    let operations: Vec<Operation> = bytes
        .chunks_exact(SIZE)
        .map(|part| Operation {
            number: u16::from_le_bytes([part[0], part[1]]),
            change: i16::from_le_bytes([part[2], part[3]]),
            flags: i16::from_le_bytes([part[4], part[5]]),
        })
        .collect();
    let set = set_of(cx, id)?;
    let facts = set.facts();
    if operations.iter().any(|operation| usize::from(operation.number) >= facts.count) {
        return Err(Errno::FBIG.into());
    }
    let changes = operations.iter().any(|operation| operation.change != 0);
    let wanted = if changes { rights::WRITE } else { rights::READ };
    facts.permissions.check(&cx.credentials().filesystem, wanted)?;
    let who = (cx.process().pid(), cx.task.tid());
    let waited = cx.wait(&[&set.changed], deadline, || match set.attempt(&operations, who, now()) {
        Ok(()) => Some(Ok(())),
        Err(Failed::Errno(errno)) => Some(Err(errno)),
        Err(Failed::Blocked(..)) => None,
    });
    set.give_up(who.1);
    finish(waited)?;
    Ok(0)
}

/// These calls are never made again after a handler, whatever it says.
fn finish<T>(waited: Result<Result<T, Errno>, WaitEnd>) -> Result<T, SysError> {
    match waited {
        Ok(result) => result.map_err(SysError::from),
        Err(WaitEnd::TimedOut) => Err(Errno::AGAIN.into()),
        Err(WaitEnd::Interrupted | WaitEnd::Killed) => Err(SysError::RestartNoHandler),
    }
}

fn semctl(cx: &mut Cx<'_>, [id, number, command, argument, ..]: [u64; 6]) -> SysResult {
    const GETPID: u64 = 11;
    const GETVAL: u64 = 12;
    const GETALL: u64 = 13;
    const GETNCNT: u64 = 14;
    const GETZCNT: u64 = 15;
    const SETVAL: u64 = 16;
    const SETALL: u64 = 17;
    const SEM_STAT: u64 = 18;
    const SEM_INFO: u64 = 19;
    const SEM_STAT_ANY: u64 = 20;
    /// A flag of old C libraries.
    const IPC_64: u64 = 0x100;
    let (command, number) = (command as u32 as u64 & !IPC_64, u64::from(number as u32));
    if matches!(command, command::INFO | SEM_INFO) {
        return semaphore_limits(cx, command == SEM_INFO, argument);
    }
    let set = set_of(cx, id)?;
    let facts = set.facts();
    let credentials = &cx.credentials().filesystem;
    let check = |rights| facts.permissions.check(credentials, rights);
    let pid = cx.process().pid();
    match command {
        command::REMOVE => {
            facts.permissions.check_owner(credentials)?;
            lock(&cx.kernel.semaphores).remove(id as i32);
            set.remove();
        }
        command::SET => {
            facts.permissions.check_owner(credentials)?;
            set.set_permissions(&cx.memory().load(argument)?, now());
        }
        command::STAT | SEM_STAT | SEM_STAT_ANY => {
            if command != SEM_STAT_ANY {
                check(rights::READ)?;
            }
            store_words(
                cx,
                argument,
                &facts.permissions,
                &[facts.operated, 0, facts.changed, 0, facts.count as u64, 0, 0],
            )?;
            return Ok(if command == command::STAT { 0 } else { id });
        }
        GETALL => {
            check(rights::READ)?;
            let bytes: Vec<u8> = set.values().into_iter().flat_map(u16::to_le_bytes).collect();
            cx.memory().write_bytes(argument, &bytes)?;
        }
        SETALL => {
            check(rights::WRITE)?;
            let bytes = cx.memory().read_vec(argument, facts.count * 2)?;
            let values: Vec<i32> =
                bytes.chunks_exact(2).map(|pair| i32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect();
            set.set_values(0, &values, pid, now())?;
        }
        SETVAL => {
            // As Linux: the value before the number, the number before the rights.
            if !(0..=MAX_VALUE).contains(&(argument as i32)) {
                return Err(Errno::RANGE.into());
            }
            set.value(number)?;
            check(rights::WRITE)?;
            set.set_values(number, &[argument as i32], pid, now())?;
        }
        GETVAL | GETPID | GETNCNT | GETZCNT => {
            check(rights::READ)?;
            let (value, last) = set.value(number)?;
            return Ok(match command {
                GETVAL => value as u64,
                GETPID => last.into(),
                GETNCNT => set.waiters(number, Until::Grown)? as u64,
                _ => set.waiters(number, Until::Zero)? as u64,
            });
        }
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

/// Stores a `struct ipc_perm` and the words behind it.
fn store_words(cx: &Cx<'_>, address: u64, permissions: &Permissions, rest: &[u64]) -> Result<(), Errno> {
    let mut bytes: Vec<u8> = permissions.words().into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend(rest.iter().flat_map(|word| word.to_le_bytes()));
    cx.memory().write_bytes(address, &bytes)
}

/// `struct seminfo`; returns the highest number in use.
fn semaphore_limits(cx: &Cx<'_>, usage: bool, address: u64) -> SysResult {
    let objects = lock(&cx.kernel.semaphores);
    let sets: Vec<_> = objects.iter().map(|(id, set)| (id, set.count())).collect();
    drop(objects);
    let (most, total) = (MAX_OBJECTS as u32, (MAX_OBJECTS * MAX_SEMAPHORES) as u32);
    let (used, in_use) = if usage {
        (sets.len() as u32, sets.iter().map(|(_, count)| *count as u32).sum())
    } else {
        (20, MAX_VALUE as u32)
    };
    let (set, parts) = (MAX_SEMAPHORES as u32, MAX_OPERATIONS as u32);
    let words = [total, most, total, total, set, parts, parts, used, MAX_VALUE as u32, in_use];
    cx.memory().store(address, words)?;
    Ok(sets.last().map_or(0, |(id, _)| *id as u64))
}

fn msgget(cx: &mut Cx<'_>, [key, flags, ..]: [u64; 6]) -> SysResult {
    let credentials = &cx.credentials().filesystem;
    let make = |permissions| Ok(Queue::new(permissions, now()));
    let id = lock(&cx.kernel.queues).get(credentials, (key as i32, flags as u32), |_| Ok(()), make)?;
    Ok(id as u64)
}

fn queue_of(cx: &Cx<'_>, id: u64) -> Result<Arc<Queue>, Errno> {
    lock(&cx.kernel.queues).find(id as i32)
}

const NO_WAIT: u64 = 0o4000;

/// `EINVAL` for a type below 1 or a message that is too long; `EACCES`; `EAGAIN` instead of waiting; `EIDRM`.
fn msgsnd(cx: &mut Cx<'_>, [id, address, length, flags, ..]: [u64; 6]) -> SysResult {
    let class: i64 = cx.memory().load(address)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_MESSAGE);
    let length = length.filter(|_| class >= 1 && id as i32 >= 0).ok_or(Errno::INVAL)?;
    let bytes = cx.memory().read_vec(address.wrapping_add(8), length)?;
    let queue = queue_of(cx, id)?;
    queue.facts().permissions.check(&cx.credentials().filesystem, rights::WRITE)?;
    let message = Message { class, bytes };
    let pid = cx.process().pid();
    finish(cx.wait(&[&queue.changed], None, || match queue.send(&message, pid, now()) {
        Err(Errno::AGAIN) if flags & NO_WAIT == 0 => None,
        result => Some(result),
    }))?;
    Ok(0)
}

/// `EINVAL` for a negative length; `EACCES`; `ENOMSG` instead of waiting; `E2BIG`; `EIDRM`.
fn msgrcv(cx: &mut Cx<'_>, [id, address, length, class, flags, _]: [u64; 6]) -> SysResult {
    const NO_ERROR: u64 = 0o10000;
    const EXCEPT: u64 = 0o20000;
    const COPY: u64 = 0o40000;
    if flags & COPY != 0 {
        return Err(Errno::NOSYS.into());
    }
    if (length as i64) < 0 || (id as i32) < 0 {
        return Err(Errno::INVAL.into());
    }
    let class = class as i64;
    let wanted = match class {
        0 => Wanted::Any,
        i64::MIN => Wanted::UpTo(i64::MAX),
        class if class < 0 => Wanted::UpTo(-class),
        class if flags & EXCEPT != 0 => Wanted::Except(class),
        class => Wanted::Type(class),
    };
    let queue = queue_of(cx, id)?;
    queue.facts().permissions.check(&cx.credentials().filesystem, rights::READ)?;
    let too_long = if flags & NO_ERROR != 0 { TooLong::Cut } else { TooLong::Refuse };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let pid = cx.process().pid();
    let received = finish(cx.wait(&[&queue.changed], None, || {
        match queue.receive(wanted, length, too_long, (pid, now())) {
            Err(Errno::AGAIN) if flags & NO_WAIT == 0 => None,
            Err(Errno::AGAIN) => Some(Err(Errno::NOMSG)),
            result => Some(result),
        }
    }))?;
    cx.memory().store(address, received.class)?;
    cx.memory().write_bytes(address.wrapping_add(8), &received.bytes)?;
    Ok(received.bytes.len() as u64)
}

fn msgctl(cx: &mut Cx<'_>, [id, command, address, ..]: [u64; 6]) -> SysResult {
    const MSG_STAT: u64 = 11;
    const MSG_INFO: u64 = 12;
    const MSG_STAT_ANY: u64 = 13;
    /// Offset of `msg_qbytes` in `struct msqid_ds`.
    const LIMIT: u64 = 88;
    let command = u64::from(command as u32);
    if matches!(command, command::INFO | MSG_INFO) {
        return queue_limits(cx, command == MSG_INFO, address);
    }
    let queue = queue_of(cx, id)?;
    let facts = queue.facts();
    let credentials = &cx.credentials().filesystem;
    match command {
        command::REMOVE => {
            facts.permissions.check_owner(credentials)?;
            lock(&cx.kernel.queues).remove(id as i32);
            queue.remove();
        }
        command::SET => {
            let words: [u32; 6] = cx.memory().load(address)?;
            let limit: u64 = cx.memory().load(address.wrapping_add(LIMIT))?;
            facts.permissions.check_owner(credentials)?;
            queue.set(&words, limit, now())?;
        }
        command::STAT | MSG_STAT | MSG_STAT_ANY => {
            if command != MSG_STAT_ANY {
                facts.permissions.check(credentials, rights::READ)?;
            }
            store_words(
                cx,
                address,
                &facts.permissions,
                &[
                    facts.sent,
                    facts.received,
                    facts.changed,
                    facts.bytes as u64,
                    facts.count as u64,
                    facts.limit as u64,
                    u64::from(facts.sender) | u64::from(facts.receiver) << 32,
                    0,
                    0,
                ],
            )?;
            return Ok(if command == command::STAT { 0 } else { id });
        }
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

/// `struct msginfo`; returns the highest number in use.
fn queue_limits(cx: &Cx<'_>, usage: bool, address: u64) -> SysResult {
    let objects = lock(&cx.kernel.queues);
    let queues: Vec<_> = objects.iter().map(|(id, queue)| (id, queue.facts())).collect();
    drop(objects);
    let (pool, map, headers) = if usage {
        let bytes: usize = queues.iter().map(|(_, facts)| facts.bytes).sum();
        let count: usize = queues.iter().map(|(_, facts)| facts.count).sum();
        (queues.len() as u32, count as u32, bytes as u32)
    } else {
        ((MAX_OBJECTS * MAX_QUEUE / 1024) as u32, MAX_QUEUE as u32, MAX_QUEUE as u32)
    };
    let segments = 0xffffu32;
    let words = [pool, map, MAX_MESSAGE as u32, MAX_QUEUE as u32, MAX_OBJECTS as u32, 16, headers, segments];
    cx.memory().store(address, words)?;
    Ok(queues.last().map_or(0, |(id, _)| *id as u64))
}
