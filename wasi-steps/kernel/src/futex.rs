//! Futexes: waiting for a word of guest memory to change.
//!
//! A waiter is a [`Waiter`] in the list of its key's bucket. To wait is to lock the bucket, compare the word and
//! enter the list, so that a wake after the word has changed always finds the waiter. A requeue moves waiters to
//! another key without waking them.
//!
//! What must hold: buckets are locked in the order of their index; the word is read with its bucket locked; the
//! waiter's own flag says whether it was woken, so a signal that comes at the same time loses nothing.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use cooper_vfs::Errno;

use crate::memory::{AddressSpace, FutexKey};
use crate::task::Task;
use crate::wait::{WaitEnd, WaitQueue, lock};

/// Number of locks; a power of two.
const BUCKETS: usize = 64;

/// Matches every waiter.
pub(crate) const ANY: u32 = u32::MAX;

/// In the word of a robust or priority-inheriting futex: somebody waits.
pub(crate) const WAITERS: u32 = 0x8000_0000;
/// The owner died.
pub(crate) const OWNER_DIED: u32 = 0x4000_0000;
/// The owner's thread id.
pub(crate) const TID_MASK: u32 = 0x3fff_ffff;

#[derive(Debug)]
struct Waiter {
    key: Mutex<FutexKey>,
    bits: u32,
    woken: AtomicBool,
    queue: WaitQueue,
}

type Bucket = VecDeque<Arc<Waiter>>;

/// All futexes of a step.
#[derive(Debug)]
pub(crate) struct Futexes {
    buckets: Vec<Mutex<Bucket>>,
}

impl Default for Futexes {
    fn default() -> Self {
        Self { buckets: std::iter::repeat_with(Mutex::default).take(BUCKETS).collect() }
    }
}

/// What a wait was for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitFor {
    pub(crate) address: u64,
    pub(crate) private: bool,
    pub(crate) expected: u32,
    pub(crate) bits: u32,
    pub(crate) deadline: Option<Instant>,
}

impl Futexes {
    fn index(key: FutexKey) -> usize {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish() as usize % BUCKETS
    }

    /// Waits until woken. `EAGAIN` when the word is not what was expected; `EFAULT` for a bad address.
    pub(crate) fn wait(
        &self,
        task: &Task,
        space: &AddressSpace,
        wanted: WaitFor,
    ) -> Result<Result<(), WaitEnd>, Errno> {
        let waiter = self.enter(space, wanted)?;
        let woken = || waiter.woken.load(Ordering::SeqCst).then_some(());
        let end = task.wait(&[&waiter.queue], wanted.deadline, woken);
        if end.is_err() && self.leave(&waiter) {
            return Ok(Ok(()));
        }
        Ok(end)
    }

    /// Compares the word and enters the list of its key, in one step.
    fn enter(&self, space: &AddressSpace, wanted: WaitFor) -> Result<Arc<Waiter>, Errno> {
        if !wanted.address.is_multiple_of(4) {
            return Err(Errno::INVAL);
        }
        let key = space.futex_key(wanted.address, wanted.private)?;
        let mut bucket = lock(&self.buckets[Self::index(key)]);
        if space.memory.load::<u32>(wanted.address).map_err(|_| Errno::FAULT)? != wanted.expected {
            return Err(Errno::AGAIN);
        }
        let waiter = Arc::new(Waiter {
            key: Mutex::new(key),
            bits: wanted.bits,
            woken: AtomicBool::new(false),
            queue: WaitQueue::new(),
        });
        bucket.push_back(waiter.clone());
        Ok(waiter)
    }

    /// Waits for any of several words (`futex_waitv`); gives the index of one that was woken.
    pub(crate) fn wait_any(
        &self,
        task: &Task,
        space: &AddressSpace,
        wanted: &[WaitFor],
        deadline: Option<Instant>,
    ) -> Result<Result<usize, WaitEnd>, Errno> {
        let mut waiters = Vec::with_capacity(wanted.len());
        let mut failed = None;
        for one in wanted {
            match self.enter(space, *one) {
                Ok(waiter) => waiters.push(waiter),
                Err(errno) => {
                    failed = Some(errno);
                    break;
                }
            }
        }
        let queues: Vec<&WaitQueue> = waiters.iter().map(|waiter| &waiter.queue).collect();
        let first = || waiters.iter().position(|waiter| waiter.woken.load(Ordering::SeqCst));
        let end = if failed.is_some() { Ok(0) } else { task.wait(&queues, deadline, first) };
        // Whoever was woken meanwhile counts, whatever else happened.
        let left: Vec<bool> = waiters.iter().map(|waiter| self.leave(waiter)).collect();
        match (left.iter().position(|woken| *woken), failed) {
            (Some(index), _) => Ok(Ok(index)),
            (None, Some(errno)) => Err(errno),
            (None, None) => Ok(end),
        }
    }

    /// Takes a waiter out; `true` when it has been woken meanwhile.
    fn leave(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            let key = *lock(&waiter.key);
            let mut bucket = lock(&self.buckets[Self::index(key)]);
            if *lock(&waiter.key) != key {
                // A requeue moved it between the two looks.
                continue;
            }
            bucket.retain(|other| !Arc::ptr_eq(other, waiter));
            return waiter.woken.load(Ordering::SeqCst);
        }
    }

    /// Wakes up to `count` waiters of `key` whose bits overlap `bits`; returns how many.
    pub(crate) fn wake(&self, key: FutexKey, count: u32, bits: u32) -> u32 {
        wake_locked(&mut lock(&self.buckets[Self::index(key)]), key, count, bits)
    }

    fn lock_two(
        &self,
        first: FutexKey,
        second: FutexKey,
    ) -> (MutexGuard<'_, Bucket>, Option<MutexGuard<'_, Bucket>>) {
        let (one, two) = (Self::index(first), Self::index(second));
        if one == two {
            return (lock(&self.buckets[one]), None);
        }
        if one < two {
            let guard = lock(&self.buckets[one]);
            return (guard, Some(lock(&self.buckets[two])));
        }
        let other = lock(&self.buckets[two]);
        (lock(&self.buckets[one]), Some(other))
    }

    /// Wakes `wake` waiters of `from` and moves up to `requeue` more to `to`. Returns how many were woken and moved.
    ///
    /// With `expected`, `EAGAIN` unless the word at its address has its value.
    pub(crate) fn requeue(
        &self,
        from: FutexKey,
        to: FutexKey,
        wake: u32,
        requeue: u32,
        expected: Option<(&AddressSpace, u64, u32)>,
    ) -> Result<(u32, u32), Errno> {
        let (mut source, mut target) = self.lock_two(from, to);
        if let Some((space, address, value)) = expected
            && space.memory.load::<u32>(address).map_err(|_| Errno::FAULT)? != value
        {
            return Err(Errno::AGAIN);
        }
        let woken = wake_locked(&mut source, from, wake, ANY);
        let mut moved = 0;
        let mut index = 0;
        while index < source.len() && moved < requeue {
            if *lock(&source[index].key) != from || from == to {
                index += 1;
                continue;
            }
            *lock(&source[index].key) = to;
            moved += 1;
            match &mut target {
                Some(target) => target.extend(source.remove(index)),
                None => index += 1,
            }
        }
        Ok((woken, moved))
    }

    /// `FUTEX_WAKE_OP`: changes the second word, wakes waiters of the first and, if the old value compares, of the second.
    pub(crate) fn wake_op(
        &self,
        space: &AddressSpace,
        keys: (FutexKey, FutexKey),
        second_address: u64,
        counts: (u32, u32),
        operation: u32,
    ) -> Result<u32, Errno> {
        let (mut first, mut second) = self.lock_two(keys.0, keys.1);
        let old = change_word(space, second_address, operation)?;
        let mut woken = wake_locked(&mut first, keys.0, counts.0, ANY);
        if compares(old, operation)? {
            let bucket = second.as_mut().unwrap_or(&mut first);
            woken += wake_locked(bucket, keys.1, counts.1, ANY);
        }
        Ok(woken)
    }
}

fn wake_locked(bucket: &mut Bucket, key: FutexKey, count: u32, bits: u32) -> u32 {
    let mut woken = 0;
    let mut index = 0;
    while index < bucket.len() && woken < count {
        if *lock(&bucket[index].key) != key || bucket[index].bits & bits == 0 {
            index += 1;
            continue;
        }
        if let Some(waiter) = bucket.remove(index) {
            waiter.woken.store(true, Ordering::SeqCst);
            waiter.queue.wake_all();
            woken += 1;
        }
    }
    woken
}

fn operand(operation: u32) -> u32 {
    // Sign extended from 12 bits, as Linux does.
    let value = ((operation << 8) as i32 >> 20) as u32;
    if operation >> 31 != 0 { 1 << (value & 31) } else { value }
}

fn change_word(space: &AddressSpace, address: u64, operation: u32) -> Result<u32, Errno> {
    let value = operand(operation);
    let change: fn(u32, u32) -> u32 = match operation >> 28 & 7 {
        0 => |_, value| value,
        1 => u32::wrapping_add,
        2 => |old, value| old | value,
        3 => |old, value| old & !value,
        4 => |old, value| old ^ value,
        _ => return Err(Errno::NOSYS),
    };
    space.memory.fetch_update(address, |old| change(old, value)).map_err(|_| Errno::FAULT)
}

fn compares(old: u32, operation: u32) -> Result<bool, Errno> {
    let (old, value) = (old as i32, (operation << 20) as i32 >> 20);
    Ok(match operation >> 24 & 15 {
        0 => old == value,
        1 => old != value,
        2 => old < value,
        3 => old <= value,
        4 => old > value,
        5 => old >= value,
        _ => return Err(Errno::NOSYS),
    })
}
