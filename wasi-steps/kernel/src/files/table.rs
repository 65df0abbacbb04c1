//! Descriptor tables: small numbers for open file descriptions.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Description, Errno, next_inode};
use crate::locks::Holder;

/// The most descriptors a table holds whatever `RLIMIT_NOFILE` says (`/proc/sys/fs/nr_open`).
pub(crate) const MAX_DESCRIPTORS: u64 = 1 << 20;

/// The descriptors of a process, shared by its threads and by whatever `CLONE_FILES` made.
///
/// What must hold: a description that leaves the table is dropped by the caller, after the table's lock, because
/// the last drop closes the object and wakes others.
#[derive(Debug)]
pub(crate) struct DescriptorTable {
    slots: RwLock<Slots>,
    id: u64,
    /// Releases the record locks of the process with the table.
    lock_holder: Holder,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Option<Slot>>,
    /// No number below this one is free.
    first_free: usize,
}

#[derive(Clone, Debug)]
struct Slot {
    description: Arc<Description>,
    close_on_exec: bool,
}

impl Slots {
    fn get(&self, number: i32) -> Option<&Slot> {
        self.entries.get(usize::try_from(number).ok()?)?.as_ref()
    }

    fn get_mut(&mut self, number: i32) -> Option<&mut Slot> {
        self.entries.get_mut(usize::try_from(number).ok()?)?.as_mut()
    }

    fn lowest_free(&self, minimum: usize) -> usize {
        let start = minimum.max(self.first_free);
        let tail = self.entries.get(start..).unwrap_or_default();
        start + tail.iter().position(Option::is_none).unwrap_or(tail.len())
    }

    fn put(&mut self, number: usize, slot: Slot) -> Option<Slot> {
        if number >= self.entries.len() {
            self.entries.resize(number + 1, None);
        }
        if number == self.first_free {
            self.first_free += 1;
        }
        self.entries[number].replace(slot)
    }

    fn take(&mut self, number: usize) -> Option<Slot> {
        let slot = self.entries.get_mut(number)?.take()?;
        self.first_free = self.first_free.min(number);
        Some(slot)
    }
}

impl DescriptorTable {
    /// Makes an empty table.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { slots: RwLock::default(), id: next_inode(), lock_holder: Holder::default() })
    }

    /// A number for the table itself: the owner of `fcntl` record locks, which belong to a table as on Linux.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What releases the record locks of this table.
    pub(crate) fn lock_holder(&self) -> &Holder {
        &self.lock_holder
    }

    /// Returns the description of a number. `EBADF` when it is not open.
    pub(crate) fn get(&self, number: i32) -> Result<Arc<Description>, Errno> {
        let slots = self.read();
        slots.get(number).map(|slot| Arc::clone(&slot.description)).ok_or(Errno::BADF)
    }

    /// Gives a description the lowest free number of at least `minimum`.
    ///
    /// `EMFILE` when that is not below `limit` (`RLIMIT_NOFILE`).
    pub(crate) fn insert(
        &self,
        description: Arc<Description>,
        minimum: u64,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<i32, Errno> {
        let limit = limit.min(MAX_DESCRIPTORS);
        if minimum >= limit {
            return Err(Errno::MFILE);
        }
        let mut slots = self.write();
        let number = slots.lowest_free(minimum as usize);
        if number as u64 >= limit {
            return Err(Errno::MFILE);
        }
        slots.put(number, Slot { description, close_on_exec });
        Ok(number as i32)
    }

    /// Gives a description this very number and returns what was there before (`dup2`).
    ///
    /// `EBADF` when the number is not below `limit`.
    pub(crate) fn replace(
        &self,
        number: i32,
        description: Arc<Description>,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<Option<Arc<Description>>, Errno> {
        let index = usize::try_from(number).map_err(|_| Errno::BADF)?;
        if index as u64 >= limit.min(MAX_DESCRIPTORS) {
            return Err(Errno::BADF);
        }
        let old = self.write().put(index, Slot { description, close_on_exec });
        Ok(old.map(|slot| slot.description))
    }

    /// Frees a number and returns its description. `EBADF` when it is not open.
    pub(crate) fn remove(&self, number: i32) -> Result<Arc<Description>, Errno> {
        let index = usize::try_from(number).map_err(|_| Errno::BADF)?;
        self.write().take(index).map(|slot| slot.description).ok_or(Errno::BADF)
    }

    /// Frees all numbers from `first` to `last` and returns their descriptions (`close_range`).
    pub(crate) fn remove_range(&self, first: u32, last: u32) -> Vec<Arc<Description>> {
        let mut slots = self.write();
        let end = slots.entries.len().min((last as usize).saturating_add(1));
        (first as usize..end).filter_map(|number| slots.take(number)).map(|slot| slot.description).collect()
    }

    /// Marks all numbers from `first` to `last` (`CLOSE_RANGE_CLOEXEC`).
    pub(crate) fn set_close_on_exec_range(&self, first: u32, last: u32) {
        let mut slots = self.write();
        let end = slots.entries.len().min((last as usize).saturating_add(1));
        let first = (first as usize).min(end);
        slots.entries[first..end].iter_mut().flatten().for_each(|slot| slot.close_on_exec = true);
    }

    /// Whether the number is closed by `exec` (`F_GETFD`). `EBADF` when it is not open.
    pub(crate) fn close_on_exec(&self, number: i32) -> Result<bool, Errno> {
        self.read().get(number).map(|slot| slot.close_on_exec).ok_or(Errno::BADF)
    }

    /// Sets whether the number is closed by `exec` (`F_SETFD`). `EBADF` when it is not open.
    pub(crate) fn set_close_on_exec(&self, number: i32, value: bool) -> Result<(), Errno> {
        self.write().get_mut(number).ok_or(Errno::BADF)?.close_on_exec = value;
        Ok(())
    }

    /// Frees what `exec` closes and returns it.
    pub(crate) fn take_close_on_exec(&self) -> Vec<Arc<Description>> {
        let mut slots = self.write();
        let marked = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.close_on_exec);
        let numbers: Vec<usize> =
            (0..slots.entries.len()).filter(|number| marked(&slots.entries[*number])).collect();
        numbers.into_iter().filter_map(|number| slots.take(number)).map(|slot| slot.description).collect()
    }

    /// Copies the table, as `fork` does; the descriptions are shared.
    pub(crate) fn duplicate(&self) -> Arc<Self> {
        let slots = self.read();
        let copy = Slots { entries: slots.entries.clone(), first_free: slots.first_free };
        Arc::new(Self { slots: RwLock::new(copy), id: next_inode(), lock_holder: Holder::default() })
    }

    /// Lists the open numbers with their descriptions and close-on-exec flags, in order.
    pub(crate) fn list(&self) -> Vec<(i32, Arc<Description>, bool)> {
        let slots = self.read();
        let entries = slots.entries.iter().enumerate();
        entries
            .filter_map(|(number, slot)| slot.as_ref().map(|slot| (number as i32, slot)))
            .map(|(number, slot)| (number, Arc::clone(&slot.description), slot.close_on_exec))
            .collect()
    }

    /// Returns how many numbers the table has room for now (`FDSize` of `/proc/self/status`).
    pub(crate) fn capacity(&self) -> usize {
        match self.read().entries.len() {
            0..=64 => 64,
            // Beyond the first, Linux grows tables in powers of two of 128.
            length => length.div_ceil(128).next_power_of_two() * 128,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::EventFile;
    use super::*;

    fn file() -> Arc<Description> {
        Description::new(Box::new(EventFile::new(0, false)), 2, None)
    }

    #[test]
    fn the_lowest_free_number_is_given() {
        let table = DescriptorTable::new();
        let insert = |minimum| table.insert(file(), minimum, false, 8);
        assert_eq!((insert(0), insert(0), insert(5), insert(0)), (Ok(0), Ok(1), Ok(5), Ok(2)));
        assert!(table.remove(1).is_ok());
        assert_eq!((insert(0), insert(5), insert(7)), (Ok(1), Ok(6), Ok(7)));
        assert_eq!((insert(7), insert(8), insert(0)), (Err(Errno::MFILE), Err(Errno::MFILE), Ok(3)));
        assert_eq!(table.list().iter().map(|entry| entry.0).collect::<Vec<_>>(), [0, 1, 2, 3, 5, 6, 7]);
    }

    #[test]
    fn numbers_that_are_not_open_are_ebadf() {
        let table = DescriptorTable::new();
        for number in [-1, 0, i32::MAX] {
            assert_eq!(table.get(number).err(), Some(Errno::BADF));
            assert_eq!(table.remove(number).err(), Some(Errno::BADF));
            assert_eq!(table.close_on_exec(number), Err(Errno::BADF));
        }
        assert_eq!(table.replace(-1, file(), false, 8).err(), Some(Errno::BADF));
        assert_eq!(table.replace(8, file(), false, 8).err(), Some(Errno::BADF));
    }

    #[test]
    fn replace_gives_back_what_was_there() {
        let table = DescriptorTable::new();
        let first = file();
        assert!(table.replace(3, first.clone(), false, 8).is_ok_and(|old| old.is_none()));
        let old = table.replace(3, file(), true, 8).ok().flatten();
        assert!(old.is_some_and(|old| Arc::ptr_eq(&old, &first)));
        assert_eq!(table.close_on_exec(3), Ok(true));
        assert_eq!(table.insert(file(), 0, false, 8), Ok(0));
    }

    #[test]
    fn exec_closes_what_is_marked_and_fork_copies_the_rest() {
        let table = DescriptorTable::new();
        for marked in [false, true, false, true] {
            assert!(table.insert(file(), 0, marked, 8).is_ok());
        }
        let copy = table.duplicate();
        assert_eq!(table.take_close_on_exec().len(), 2);
        assert_eq!(table.list().iter().map(|entry| entry.0).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(copy.list().len(), 4);
        assert_ne!(copy.id(), table.id());
        assert_eq!(table.insert(file(), 0, false, 8), Ok(1));
    }

    #[test]
    fn a_range_is_closed_or_marked() {
        let table = DescriptorTable::new();
        for _ in 0..6 {
            assert!(table.insert(file(), 0, false, 8).is_ok());
        }
        table.set_close_on_exec_range(4, u32::MAX);
        table.set_close_on_exec_range(900, u32::MAX);
        assert_eq!(
            table.list().iter().map(|entry| entry.2).collect::<Vec<_>>(),
            [false, false, false, false, true, true]
        );
        assert_eq!(table.remove_range(1, 2).len(), 2);
        assert_eq!(table.remove_range(3, u32::MAX).len(), 3);
        assert_eq!(table.list().len(), 1);
    }
}
