//! Advisory file locks: `flock`, `fcntl` record locks and open-file-description locks.
//!
//! All three live in one table keyed by file. `flock` locks belong to a description and cover the file; record
//! locks cover ranges and belong to a descriptor table (`F_SETLK`) or to a description (`F_OFD_SETLK`). The two
//! families do not see each other, as on Linux. Setting a lock is an attempt; whoever waits does so on
//! [`LockTable::released`], woken by every release.
//!
//! What must hold: the records of one owner on one file never overlap and are sorted; a file without locks has no
//! entry, so the table is as large as the locks held.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use cooper_vfs::NodeRef;

use crate::files::{Errno, Readiness, lock};

/// The most records one file carries (`ENOLCK`), so that a guest cannot grow the table without end.
const MAX_RECORDS: usize = 16 * 1024;

/// Identity of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileKey {
    /// An inode of the file system.
    Node(NodeRef),
    /// An object without a name, by its inode number.
    Object(u64),
}

impl FileKey {
    fn inode(&self) -> u64 {
        match self {
            Self::Node(node) => node.inode(),
            Self::Object(inode) => *inode,
        }
    }
}

/// Who holds a record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A descriptor table: the process, for `F_SETLK`.
    Table(u64),
    /// A description, for `F_OFD_SETLK`.
    Description(u64),
}

/// The kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Held together with other shared locks.
    Shared,
    /// Held alone.
    Exclusive,
}

impl Mode {
    fn conflicts(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// A record lock on the bytes from `start` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// First byte.
    pub(crate) start: u64,
    /// Last byte; `u64::MAX` is "to the end, however long".
    pub(crate) last: u64,
    /// Shared or exclusive.
    pub(crate) mode: Mode,
    /// Who holds it.
    pub(crate) owner: Owner,
    /// The process that took it, for `F_GETLK`.
    pub(crate) pid: u32,
}

impl Record {
    fn overlaps(&self, start: u64, last: u64) -> bool {
        self.start <= last && start <= self.last
    }
}

/// Releases the locks of an owner when that is dropped; empty until the owner takes its first lock.
#[derive(Debug, Default)]
pub(crate) struct Holder(OnceLock<(Arc<LockTable>, Owner)>);

impl Holder {
    /// Remembers to release what `owner` is about to take.
    pub(crate) fn hold(&self, table: &Arc<LockTable>, owner: Owner) {
        self.0.get_or_init(|| (Arc::clone(table), owner));
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some((table, owner)) = self.0.take() {
            table.release_owner(owner);
        }
    }
}

/// All advisory locks of a step.
#[derive(Debug)]
pub(crate) struct LockTable {
    state: Mutex<State>,
    released: Arc<Readiness>,
    /// Locks held: lets the close of a file skip the table when there are none at all.
    held: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<FileKey, FileLocks>,
    /// Which owner each waiting owner waits for, to find deadlocks.
    waiting: HashMap<Owner, Owner>,
}

#[derive(Debug, Default)]
struct FileLocks {
    records: Vec<Record>,
    whole: Vec<(u64, Mode)>,
}

impl LockTable {
    /// Makes a table without locks.
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), released: Readiness::new(), held: AtomicU64::new(0) }
    }

    /// The queue that is woken when a lock is released.
    pub(crate) fn released(&self) -> &Arc<Readiness> {
        &self.released
    }

    /// Attempts to take the `flock` lock of a file for a description, converting what it holds.
    ///
    /// `EAGAIN` when another description is in the way; a lock held before is gone then, as on Linux.
    pub(crate) fn flock(&self, file: &FileKey, description: u64, mode: Mode) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        let locks = state.files.entry(file.clone()).or_default();
        let before = locks.whole.len();
        locks.whole.retain(|(holder, _)| *holder != description);
        let dropped = before != locks.whole.len();
        let free = !locks.whole.iter().any(|(_, held)| held.conflicts(mode));
        if free {
            locks.whole.push((description, mode));
        }
        self.settle(state, file);
        if dropped {
            self.released.wake();
        }
        if free { Ok(()) } else { Err(Errno::AGAIN) }
    }

    /// Releases the `flock` lock of a description.
    pub(crate) fn unflock(&self, file: &FileKey, description: u64) {
        if self.held.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut state = lock(&self.state);
        let Some(locks) = state.files.get_mut(file) else { return };
        locks.whole.retain(|(holder, _)| *holder != description);
        self.settle(state, file);
        self.released.wake();
    }

    /// Returns a record that is in the way of `wanted` (`F_GETLK`).
    pub(crate) fn conflict(&self, file: &FileKey, wanted: &Record) -> Option<Record> {
        let state = lock(&self.state);
        state.files.get(file).and_then(|locks| locks.conflict(wanted)).copied()
    }

    /// Attempts to take a record lock, replacing what the owner holds in that range.
    ///
    /// `EAGAIN` when another owner is in the way; `EDEADLK` when `waits` and that owner waits for this one;
    /// `ENOLCK` at the table's bound.
    pub(crate) fn set(&self, file: &FileKey, wanted: Record, waits: Waits) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        let conflict =
            state.files.get(file).and_then(|locks| locks.conflict(&wanted)).map(|record| record.owner);
        if let Some(holder) = conflict {
            if waits == Waits::Yes && matches!(wanted.owner, Owner::Table(_)) {
                if state.would_deadlock(wanted.owner, holder) {
                    return Err(Errno::DEADLK);
                }
                state.waiting.insert(wanted.owner, holder);
            }
            return Err(Errno::AGAIN);
        }
        state.waiting.remove(&wanted.owner);
        let locks = state.files.entry(file.clone()).or_default();
        if locks.records.len() >= MAX_RECORDS {
            return Err(Errno::NOLCK);
        }
        locks.cut(wanted.owner, wanted.start, wanted.last);
        locks.insert(wanted);
        self.settle(state, file);
        // A conversion from exclusive to shared lets others in.
        self.released.wake();
        Ok(())
    }

    /// Ends the wait of an owner that gave up, so that it is in no deadlock any more.
    pub(crate) fn give_up(&self, owner: Owner) {
        lock(&self.state).waiting.remove(&owner);
    }

    /// Releases the owner's records in a range.
    pub(crate) fn release(&self, file: &FileKey, owner: Owner, start: u64, last: u64) {
        if self.held.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut state = lock(&self.state);
        let Some(locks) = state.files.get_mut(file) else { return };
        locks.cut(owner, start, last);
        self.settle(state, file);
        self.released.wake();
    }

    /// Releases everything an owner holds, when it is gone.
    pub(crate) fn release_owner(&self, owner: Owner) {
        let mut state = lock(&self.state);
        state.waiting.remove(&owner);
        for locks in state.files.values_mut() {
            locks.cut(owner, 0, u64::MAX);
            if let Owner::Description(id) = owner {
                locks.whole.retain(|(holder, _)| *holder != id);
            }
        }
        state.files.retain(|_, locks| !locks.records.is_empty() || !locks.whole.is_empty());
        self.held.store(state.files.len() as u64, Ordering::SeqCst);
        drop(state);
        self.released.wake();
    }

    /// Whether any lock is held at all; closing a file looks here first.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.load(Ordering::SeqCst) == 0
    }

    /// Lists the record locks with their inode numbers, for `/proc/locks`.
    pub(crate) fn list(&self) -> Vec<(u64, Record)> {
        let state = lock(&self.state);
        let mut all: Vec<(u64, Record)> = state
            .files
            .iter()
            .flat_map(|(file, locks)| locks.records.iter().map(|record| (file.inode(), *record)))
            .collect();
        all.sort_by_key(|(inode, record)| (*inode, record.start, record.pid));
        all
    }

    /// Forgets a file without locks and counts the rest.
    fn settle(&self, mut state: std::sync::MutexGuard<'_, State>, file: &FileKey) {
        if state.files.get(file).is_some_and(|locks| locks.records.is_empty() && locks.whole.is_empty()) {
            state.files.remove(file);
        }
        self.held.store(state.files.len() as u64, Ordering::SeqCst);
    }
}

/// Whether the caller of [`LockTable::set`] is going to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// It waits (`F_SETLKW`).
    Yes,
    /// It does not (`F_SETLK`).
    No,
}

impl State {
    fn would_deadlock(&self, owner: Owner, holder: Owner) -> bool {
        let mut next = Some(&holder);
        let mut steps = 0;
        while let Some(current) = next {
            if *current == owner {
                return true;
            }
            steps += 1;
            if steps > self.waiting.len() {
                return false;
            }
            next = self.waiting.get(current);
        }
        false
    }
}

impl FileLocks {
    fn conflict(&self, wanted: &Record) -> Option<&Record> {
        self.records.iter().find(|held| {
            held.owner != wanted.owner
                && held.overlaps(wanted.start, wanted.last)
                && held.mode.conflicts(wanted.mode)
        })
    }

    /// Takes a range away from an owner, splitting records that stick out.
    fn cut(&mut self, owner: Owner, start: u64, last: u64) {
        let mut kept = Vec::with_capacity(self.records.len() + 1);
        for record in self.records.drain(..) {
            if record.owner != owner || !record.overlaps(start, last) {
                kept.push(record);
                continue;
            }
            if record.start < start {
                kept.push(Record { last: start - 1, ..record });
            }
            if record.last > last {
                kept.push(Record { start: last + 1, ..record });
            }
        }
        self.records = kept;
    }

    /// Adds a record, joined with neighbours of the same owner and mode.
    fn insert(&mut self, mut wanted: Record) {
        self.records.retain(|record| {
            let joins = record.owner == wanted.owner
                && record.mode == wanted.mode
                && record.start <= wanted.last.saturating_add(1)
                && wanted.start <= record.last.saturating_add(1);
            if joins {
                wanted.start = wanted.start.min(record.start);
                wanted.last = wanted.last.max(record.last);
            }
            !joins
        });
        let place = self.records.partition_point(|record| record.start < wanted.start);
        self.records.insert(place, wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &FileKey = &FileKey::Object(2);

    fn record(owner: u64, start: u64, last: u64, mode: Mode) -> Record {
        Record { start, last, mode, owner: Owner::Table(owner), pid: owner as u32 }
    }

    fn held(table: &LockTable) -> Vec<(u32, u64, u64)> {
        table.list().iter().map(|(_, record)| (record.pid, record.start, record.last)).collect()
    }

    #[test]
    fn records_conflict_split_and_join() {
        let table = LockTable::new();
        let set = |owner, start, last, mode| table.set(FILE, record(owner, start, last, mode), Waits::No);
        assert_eq!(set(1, 0, 99, Mode::Exclusive), Ok(()));
        assert_eq!(set(2, 50, 60, Mode::Shared), Err(Errno::AGAIN));
        table.release(FILE, Owner::Table(1), 40, 59);
        assert_eq!(held(&table), [(1, 0, 39), (1, 60, 99)]);
        assert_eq!(set(2, 40, 59, Mode::Shared), Ok(()));
        assert_eq!(set(1, 40, 59, Mode::Shared), Ok(()));
        assert_eq!(set(1, 40, 59, Mode::Exclusive), Err(Errno::AGAIN));
        table.release(FILE, Owner::Table(2), 0, u64::MAX);
        assert_eq!(set(1, 40, 59, Mode::Exclusive), Ok(()));
        assert_eq!(held(&table), [(1, 0, 99)]);
        table.release(FILE, Owner::Table(1), 0, u64::MAX);
        assert!(table.is_empty());
    }

    #[test]
    fn the_record_in_the_way_is_named() {
        let table = LockTable::new();
        assert_eq!(table.set(FILE, record(1, 10, u64::MAX, Mode::Shared), Waits::No), Ok(()));
        assert_eq!(table.conflict(FILE, &record(2, 0, 9, Mode::Exclusive)), None);
        assert_eq!(table.conflict(FILE, &record(2, 0, 10, Mode::Shared)), None);
        let found = table.conflict(FILE, &record(2, 0, 10, Mode::Exclusive));
        assert_eq!(found, Some(record(1, 10, u64::MAX, Mode::Shared)));
        assert_eq!(table.conflict(FILE, &record(1, 0, 10, Mode::Exclusive)), None);
    }

    #[test]
    fn two_owners_that_wait_for_each_other_are_a_deadlock() {
        let table = LockTable::new();
        let set = |owner, byte, waits| table.set(FILE, record(owner, byte, byte, Mode::Exclusive), waits);
        assert_eq!((set(1, 1, Waits::No), set(2, 2, Waits::No)), (Ok(()), Ok(())));
        assert_eq!(set(1, 2, Waits::Yes), Err(Errno::AGAIN));
        assert_eq!(set(2, 1, Waits::Yes), Err(Errno::DEADLK));
        table.give_up(Owner::Table(1));
        assert_eq!(set(2, 1, Waits::Yes), Err(Errno::AGAIN));
    }

    #[test]
    fn an_owner_that_is_gone_holds_nothing() {
        let table = LockTable::new();
        assert_eq!(table.set(FILE, record(1, 0, 9, Mode::Exclusive), Waits::No), Ok(()));
        assert_eq!(table.flock(FILE, 5, Mode::Exclusive), Ok(()));
        table.release_owner(Owner::Table(1));
        assert_eq!(table.conflict(FILE, &record(2, 0, 9, Mode::Exclusive)), None);
        table.release_owner(Owner::Description(5));
        assert!(table.is_empty());
    }

    #[test]
    fn whole_file_locks_are_converted_and_released() {
        let table = LockTable::new();
        assert_eq!(table.flock(FILE, 1, Mode::Shared), Ok(()));
        assert_eq!(table.flock(FILE, 2, Mode::Shared), Ok(()));
        assert_eq!(table.flock(FILE, 1, Mode::Exclusive), Err(Errno::AGAIN));
        assert_eq!(table.flock(FILE, 2, Mode::Exclusive), Ok(()));
        assert_eq!(table.flock(FILE, 1, Mode::Shared), Err(Errno::AGAIN));
        let edges = table.released().edges();
        table.unflock(FILE, 2);
        assert_eq!(table.released().edges(), edges + 1);
        assert!(table.is_empty());
    }
}
