//! Semaphore sets (semop(2)).
//!
//! An operation on a set is one attempt under the set's lock: all of its parts happen or none. What `SEM_UNDO` asked for
//! is kept in the set by process and given back when the process ends.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cooper_vfs::Errno;

use super::{Object, Permissions};
use crate::wait::{WaitQueue, lock};

/// The highest value of a semaphore (`SEMVMX`).
pub(crate) const MAX_VALUE: i32 = 32767;
/// The most semaphores of a set (`SEMMSL`).
pub(crate) const MAX_SEMAPHORES: usize = 32000;
/// The most parts of one operation (`SEMOPM`).
pub(crate) const MAX_OPERATIONS: usize = 500;

/// `IPC_NOWAIT`.
const NO_WAIT: i16 = 0o4000;
/// `SEM_UNDO`.
const UNDO: i16 = 0x1000;

/// One part of an operation (`struct sembuf`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) number: u16,
    pub(crate) change: i16,
    pub(crate) flags: i16,
}

/// Why an attempt did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The caller has to wait for this semaphore: to become 0, or to grow.
    Blocked(u16, Until),
    /// It never will succeed.
    Errno(Errno),
}

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Zero,
    Grown,
}

/// A set.
#[derive(Debug)]
pub(crate) struct Set {
    state: Mutex<State>,
    /// Woken when values change and when the set is removed.
    pub(crate) changed: WaitQueue,
}

#[derive(Clone, Copy, Debug, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: u32,
}

#[derive(Debug)]
struct State {
    permissions: Permissions,
    semaphores: Vec<Semaphore>,
    /// What to add when a process ends, by process and number.
    undo: BTreeMap<(u32, u16), i32>,
    /// What those who wait wait for, by thread.
    waiting: BTreeMap<u32, (u16, Until)>,
    removed: bool,
    operated: u64,
    changed: u64,
}

impl Object for Set {
    fn permissions(&self) -> Permissions {
        lock(&self.state).permissions
    }
}

/// What `IPC_STAT` tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) permissions: Permissions,
    pub(crate) count: usize,
    /// Seconds since 1970 of the last operation and the last change.
    pub(crate) operated: u64,
    pub(crate) changed: u64,
}

impl Set {
    /// A set of `count` semaphores at 0. `EINVAL` for none or too many.
    pub(crate) fn new(permissions: Permissions, count: usize, now: u64) -> Result<Self, Errno> {
        if count == 0 || count > MAX_SEMAPHORES {
            return Err(Errno::INVAL);
        }
        let state = State {
            permissions,
            semaphores: vec![Semaphore::default(); count],
            undo: BTreeMap::new(),
            waiting: BTreeMap::new(),
            removed: false,
            operated: 0,
            changed: now,
        };
        Ok(Self { state: Mutex::new(state), changed: WaitQueue::new() })
    }

    /// How many semaphores there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.state).semaphores.len()
    }

    /// What `IPC_STAT` tells.
    pub(crate) fn facts(&self) -> Facts {
        let state = lock(&self.state);
        Facts {
            permissions: state.permissions,
            count: state.semaphores.len(),
            operated: state.operated,
            changed: state.changed,
        }
    }

    /// `IPC_SET`.
    pub(crate) fn set_permissions(&self, words: &[u32; 6], now: u64) {
        let mut state = lock(&self.state);
        state.permissions.set(words);
        state.changed = now;
    }

    /// Marks the set as removed and ends all waits.
    pub(crate) fn remove(&self) {
        lock(&self.state).removed = true;
        self.changed.wake_all();
    }

    /// Does all of `operations` or nothing.
    ///
    /// `EIDRM` for a removed set; `EFBIG` for a number that is not there; `ERANGE` for a value that is too high;
    /// `EAGAIN` instead of waiting with `IPC_NOWAIT`.
    pub(crate) fn attempt(
        &self,
        operations: &[Operation],
        (pid, tid): (u32, u32),
        now: u64,
    ) -> Result<(), Failed> {
        let mut state = lock(&self.state);
        let result = state.attempt(operations, pid, now);
        match result {
            Err(Failed::Blocked(number, until)) => {
                state.waiting.insert(tid, (number, until));
            }
            _ => {
                state.waiting.remove(&tid);
            }
        }
        drop(state);
        if result.is_ok() && operations.iter().any(|operation| operation.change != 0) {
            self.changed.wake_all();
        }
        result
    }

    /// Forgets that a thread waits.
    pub(crate) fn give_up(&self, tid: u32) {
        lock(&self.state).waiting.remove(&tid);
    }

    /// Gives back what a process has asked to be given back at its end.
    pub(crate) fn process_ended(&self, pid: u32) {
        let mut state = lock(&self.state);
        let own: Vec<_> = state.undo.range((pid, 0)..=(pid, u16::MAX)).map(|(key, by)| (*key, *by)).collect();
        for ((pid, number), by) in &own {
            state.undo.remove(&(*pid, *number));
            if let Some(semaphore) = state.semaphores.get_mut(usize::from(*number)) {
                semaphore.value = (semaphore.value + by).clamp(0, MAX_VALUE);
                semaphore.pid = *pid;
            }
        }
        drop(state);
        if !own.is_empty() {
            self.changed.wake_all();
        }
    }

    /// Value and last process of a semaphore. `EINVAL` for a number that is not there.
    pub(crate) fn value(&self, number: u64) -> Result<(i32, u32), Errno> {
        let state = lock(&self.state);
        let index = usize::try_from(number).map_err(|_| Errno::INVAL)?;
        state.semaphores.get(index).map(|semaphore| (semaphore.value, semaphore.pid)).ok_or(Errno::INVAL)
    }

    /// How many wait for a semaphore.
    pub(crate) fn waiters(&self, number: u64, until: Until) -> Result<usize, Errno> {
        self.value(number)?;
        let state = lock(&self.state);
        Ok(state.waiting.values().filter(|waiter| (u64::from(waiter.0), waiter.1) == (number, until)).count())
    }

    /// All values.
    pub(crate) fn values(&self) -> Vec<u16> {
        lock(&self.state).semaphores.iter().map(|semaphore| semaphore.value as u16).collect()
    }

    /// Sets values from number `first` on; undone is nothing of them any more. `ERANGE`; `EINVAL` for a number that is
    /// not there; `EIDRM`.
    pub(crate) fn set_values(&self, first: u64, values: &[i32], pid: u32, now: u64) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        if state.removed {
            return Err(Errno::IDRM);
        }
        if values.iter().any(|value| !(0..=MAX_VALUE).contains(value)) {
            return Err(Errno::RANGE);
        }
        let first = usize::try_from(first).map_err(|_| Errno::INVAL)?;
        let end = first.checked_add(values.len()).ok_or(Errno::INVAL)?;
        let semaphores = state.semaphores.get_mut(first..end).ok_or(Errno::INVAL)?;
        for (semaphore, value) in semaphores.iter_mut().zip(values) {
            *semaphore = Semaphore { value: *value, pid };
        }
        state.undo.retain(|(_, number), _| !(first..end).contains(&usize::from(*number)));
        state.changed = now;
        drop(state);
        self.changed.wake_all();
        Ok(())
    }
}

impl State {
    fn attempt(&mut self, operations: &[Operation], pid: u32, now: u64) -> Result<(), Failed> {
        if self.removed {
            return Err(Failed::Errno(Errno::IDRM));
        }
        if operations.iter().any(|operation| usize::from(operation.number) >= self.semaphores.len()) {
            return Err(Failed::Errno(Errno::FBIG));
        }
        // A semaphore may be named several times, so values are tried one after the other.
        let mut values: BTreeMap<u16, i32> = BTreeMap::new();
        for operation in operations {
            let now = self.semaphores[usize::from(operation.number)].value;
            let value = values.entry(operation.number).or_insert(now);
            let blocked = |until| {
                if operation.flags & NO_WAIT != 0 {
                    Failed::Errno(Errno::AGAIN)
                } else {
                    Failed::Blocked(operation.number, until)
                }
            };
            if operation.change == 0 {
                if *value != 0 {
                    return Err(blocked(Until::Zero));
                }
                continue;
            }
            let new = *value + i32::from(operation.change);
            if new < 0 {
                return Err(blocked(Until::Grown));
            }
            if new > MAX_VALUE {
                return Err(Failed::Errno(Errno::RANGE));
            }
            *value = new;
        }
        for operation in operations {
            if operation.flags & UNDO != 0 && operation.change != 0 {
                let kept = self.undo.entry((pid, operation.number)).or_default();
                *kept = (*kept - i32::from(operation.change)).clamp(-MAX_VALUE, MAX_VALUE);
            }
            if let (Some(value), Some(semaphore)) =
                (values.get(&operation.number), self.semaphores.get_mut(usize::from(operation.number)))
            {
                *semaphore = Semaphore { value: *value, pid };
            }
        }
        self.operated = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_vfs::Credentials;

    fn set(count: usize) -> Set {
        Set::new(Permissions::new(1, &Credentials::root(), 0o600), count, 0).expect("a small set")
    }

    fn operation(number: u16, change: i16, flags: i16) -> Operation {
        Operation { number, change, flags }
    }

    #[test]
    fn all_parts_happen_or_none() {
        let set = set(2);
        let both = [operation(0, 1, 0), operation(1, -1, 0)];
        assert_eq!(set.attempt(&both, (1, 1), 0), Err(Failed::Blocked(1, Until::Grown)));
        assert_eq!((set.values(), set.waiters(1, Until::Grown)), (vec![0, 0], Ok(1)));
        assert_eq!(set.attempt(&[operation(1, 2, 0)], (2, 2), 0), Ok(()));
        assert_eq!(set.attempt(&both, (1, 1), 0), Ok(()));
        assert_eq!((set.values(), set.waiters(1, Until::Grown)), (vec![1, 1], Ok(0)));
        assert_eq!(set.value(1), Ok((1, 1)));
    }

    #[test]
    fn errors_come_before_waiting() {
        let set = set(1);
        let one = |operation| set.attempt(&[operation], (1, 1), 0);
        assert_eq!(one(operation(1, 1, 0)), Err(Failed::Errno(Errno::FBIG)));
        assert_eq!(one(operation(0, -1, NO_WAIT)), Err(Failed::Errno(Errno::AGAIN)));
        assert_eq!(one(operation(0, 32767, 0)), Ok(()));
        assert_eq!(one(operation(0, 1, 0)), Err(Failed::Errno(Errno::RANGE)));
        set.remove();
        assert_eq!(one(operation(0, -1, 0)), Err(Failed::Errno(Errno::IDRM)));
    }

    #[test]
    fn a_process_that_ends_gives_back() {
        let set = set(1);
        assert_eq!(set.attempt(&[operation(0, 3, 0)], (1, 1), 0), Ok(()));
        assert_eq!(set.attempt(&[operation(0, -2, UNDO)], (7, 7), 0), Ok(()));
        assert_eq!(set.values(), [1]);
        set.process_ended(7);
        assert_eq!(set.values(), [3]);
        set.process_ended(7);
        assert_eq!(set.values(), [3]);
    }

    #[test]
    fn set_values_are_not_undone() {
        let set = set(2);
        assert_eq!(set.attempt(&[operation(0, 2, UNDO)], (7, 7), 0), Ok(()));
        assert_eq!(set.set_values(0, &[5, 6], 1, 0), Ok(()));
        set.process_ended(7);
        assert_eq!(set.values(), [5, 6]);
        assert_eq!(set.set_values(1, &[1, 2], 1, 0), Err(Errno::INVAL));
        assert_eq!(set.set_values(0, &[32768], 1, 0), Err(Errno::RANGE));
    }
}
