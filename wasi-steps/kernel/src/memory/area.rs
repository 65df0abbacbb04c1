//! Virtual memory areas: the list that is the truth about an address space.
//!
//! Areas never overlap and are not empty; addresses are page aligned. The list knows nothing of the host: whoever
//! changes it makes the host's maps follow.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use bitflags::bitflags;
use cooper_vfs::{FileHandle, Position};
use cooper_x86::code::CodeId;
use cooper_x86::memory::{PAGE_SIZE, Protection};

bitflags! {
    /// What guest code may do with an area; the numbers of `PROT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u32 {
        /// Load.
        const READ = 1;
        /// Store.
        const WRITE = 2;
        /// Execute.
        const EXECUTE = 4;
    }
}

impl Rights {
    /// What the host's map has to allow: x86 cannot write or execute without reading.
    pub(crate) fn host(self) -> Protection {
        if self.contains(Self::WRITE) {
            Protection::ReadWrite
        } else if self.is_empty() {
            Protection::None
        } else {
            Protection::Read
        }
    }
}

/// Rounds down to a page.
pub(crate) const fn page_down(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

/// Rounds up to a page; `None` on overflow.
pub(crate) const fn page_up(address: u64) -> Option<u64> {
    match address.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(page_down(sum)),
        None => None,
    }
}

/// A file of the virtual file system that is mapped.
#[derive(Debug)]
pub(crate) struct MappedFile {
    /// The open file.
    pub(crate) handle: FileHandle,
    /// Its name, for `/proc/self/maps`.
    pub(crate) position: Option<Position>,
    /// Identity of the mapped bytes, where they cannot change under the mapping.
    pub(crate) code: Option<CodeId>,
    /// The host file and where in it this file starts, for pages mapped in place.
    pub(crate) place: Option<(Arc<File>, u64)>,
}

/// Memory behind an unnamed host file: shared anonymous mappings, `memfd_create`, System V segments.
#[derive(Debug)]
pub struct SharedMemory {
    /// The host file.
    pub file: File,
    /// A number that no other object has: the key of shared futexes.
    pub id: u64,
    /// Name for `/proc/self/maps`.
    pub name: Vec<u8>,
}

/// Where the pages of an area come from.
#[derive(Clone, Debug)]
pub(crate) enum Backing {
    /// Zeros; the name is what `/proc/self/maps` shows.
    Anonymous {
        /// `[heap]`, `[stack]` or nothing.
        name: &'static str,
    },
    /// A file.
    File {
        /// Which.
        file: Arc<MappedFile>,
        /// File offset of the area's first byte.
        offset: u64,
        /// How the pages got there.
        pages: FilePages,
    },
    /// A host file without a name in the virtual file system.
    Memory {
        /// Which.
        object: Arc<SharedMemory>,
        /// Offset of the area's first byte.
        offset: u64,
    },
}

/// How the pages of a file area got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilePages {
    /// Immutable contents, mapped in place.
    Pack,
    /// The file's spool, mapped in place.
    Spool,
    /// Read into anonymous memory.
    Copied,
}

/// A range of addresses with one kind of memory.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Up to here there are pages; from here on an access is `SIGBUS` (beyond the end of the file).
    pub(crate) backed_end: u64,
    pub(crate) rights: Rights,
    /// What `mprotect` may give: a shared mapping of a file opened for reading is never writable.
    pub(crate) allowed: Rights,
    pub(crate) shared: bool,
    /// Whether its bytes count against the step's memory while it is writable.
    pub(crate) reserve: bool,
    /// Whether it was ever writable.
    pub(crate) was_writable: bool,
    pub(crate) backing: Backing,
}

impl Area {
    /// Length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.end - self.start
    }

    /// Bytes that count against the step's memory.
    pub(crate) fn charge(&self) -> u64 {
        let private = self.rights.contains(Rights::WRITE) && !self.shared;
        let anonymous = self.shared && matches!(self.backing, Backing::Memory { .. });
        if self.reserve && (private || anonymous) { self.length() } else { 0 }
    }

    /// File offset of `address`, for areas that have one.
    pub(crate) fn offset_at(&self, address: u64) -> u64 {
        match &self.backing {
            Backing::Anonymous { .. } => 0,
            Backing::File { offset, .. } | Backing::Memory { offset, .. } => offset + (address - self.start),
        }
    }

    /// The part from `start` to `end`, which lie inside.
    fn part(&self, start: u64, end: u64) -> Self {
        let mut part = self.clone();
        let skipped = start - self.start;
        match &mut part.backing {
            Backing::Anonymous { .. } => {}
            Backing::File { offset, .. } | Backing::Memory { offset, .. } => *offset += skipped,
        }
        part.start = start;
        part.end = end;
        part.backed_end = self.backed_end.clamp(start, end);
        part
    }

    fn continues(&self, next: &Self) -> bool {
        let same = self.end == next.start
            && self.backed_end == self.end
            && self.rights == next.rights
            && self.allowed == next.allowed
            && self.shared == next.shared
            && self.reserve == next.reserve
            && self.was_writable == next.was_writable;
        same && match (&self.backing, &next.backing) {
            (Backing::Anonymous { name }, Backing::Anonymous { name: other }) => name == other,
            (
                Backing::File { file, pages, .. },
                Backing::File { file: other, pages: other_pages, offset },
            ) => Arc::ptr_eq(file, other) && pages == other_pages && self.offset_at(self.end) == *offset,
            (Backing::Memory { object, .. }, Backing::Memory { object: other, offset }) => {
                Arc::ptr_eq(object, other) && self.offset_at(self.end) == *offset
            }
            _ => false,
        }
    }
}

/// The areas of an address space, by start.
#[derive(Debug, Default)]
pub(crate) struct Areas {
    pub(super) map: BTreeMap<u64, Area>,
    /// First address of the heap.
    pub(crate) heap_start: u64,
    /// The break.
    pub(crate) heap_end: u64,
    /// Free ranges are looked for below this address.
    pub(crate) mmap_top: u64,
    /// Bytes charged to the step for this address space.
    pub(crate) charged: u64,
    /// Areas counted for the step for this address space.
    pub(crate) counted: usize,
}

impl Areas {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.map.len()
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Area> {
        self.map.values()
    }

    /// The area that holds `address`.
    pub(crate) fn at(&self, address: u64) -> Option<&Area> {
        self.map.range(..=address).next_back().map(|(_, area)| area).filter(|area| address < area.end)
    }

    /// The area that holds `address`, to be changed.
    pub(crate) fn at_mut(&mut self, address: u64) -> Option<&mut Area> {
        self.map.range_mut(..=address).next_back().map(|(_, area)| area).filter(|area| address < area.end)
    }

    /// The areas that overlap a range, in order.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Area> {
        let first = self.at(start).map_or(start, |area| area.start);
        self.map.range(first..end.max(first)).map(|(_, area)| area).filter(move |area| area.end > start)
    }

    /// Whether a range has no area.
    pub(crate) fn is_free(&self, start: u64, end: u64) -> bool {
        self.overlapping(start, end).next().is_none()
    }

    /// Whether a range has no hole.
    pub(crate) fn is_covered(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for area in self.overlapping(start, end) {
            if area.start > at {
                return false;
            }
            at = area.end;
        }
        at >= end
    }

    /// Makes area borders at `address`.
    fn split(&mut self, address: u64) {
        let Some(area) = self.at(address).filter(|area| area.start < address).cloned() else { return };
        self.map.insert(area.start, area.part(area.start, address));
        self.map.insert(address, area.part(address, area.end));
    }

    /// Takes a range out and gives the areas that were there, cut to the range.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> Vec<Area> {
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.map.range(start..end).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.map.remove(&key)).collect()
    }

    /// Puts an area into a free range and joins it with equal neighbours.
    pub(crate) fn insert(&mut self, mut area: Area) {
        if let Some(before) = self.at(area.start.wrapping_sub(1)).filter(|before| before.continues(&area)) {
            let mut joined = before.clone();
            joined.end = area.end;
            joined.backed_end = area.backed_end;
            self.map.remove(&joined.start);
            area = joined;
        }
        if let Some(after) = self.map.get(&area.end).filter(|after| area.continues(after)).cloned() {
            self.map.remove(&after.start);
            area.end = after.end;
            area.backed_end = after.backed_end;
        }
        self.map.insert(area.start, area);
    }

    /// The highest free range of `length` bytes between `low` and `high`.
    pub(crate) fn find_free(&self, length: u64, low: u64, high: u64) -> Option<u64> {
        let mut top = high;
        for area in self.map.range(..high).rev().map(|(_, area)| area) {
            if area.end <= low {
                break;
            }
            if area.end < top && top - area.end >= length {
                return Some(top - length);
            }
            top = top.min(area.start);
        }
        (top >= low && top - low >= length).then(|| top - length)
    }

    /// Sum of what the areas count against the step's memory.
    pub(crate) fn charge(&self) -> u64 {
        self.iter().map(Area::charge).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, rights: Rights) -> Area {
        Area {
            start: start * PAGE_SIZE,
            end: end * PAGE_SIZE,
            backed_end: end * PAGE_SIZE,
            rights,
            allowed: Rights::all(),
            shared: false,
            reserve: true,
            was_writable: false,
            backing: Backing::Anonymous { name: "" },
        }
    }

    fn pages(areas: &Areas) -> Vec<(u64, u64)> {
        areas.iter().map(|area| (area.start / PAGE_SIZE, area.end / PAGE_SIZE)).collect()
    }

    #[test]
    fn equal_neighbours_join_and_others_do_not() {
        let mut areas = Areas::default();
        areas.insert(area(1, 2, Rights::READ));
        areas.insert(area(3, 4, Rights::READ));
        areas.insert(area(2, 3, Rights::READ));
        areas.insert(area(4, 5, Rights::WRITE));
        assert_eq!(pages(&areas), [(1, 4), (4, 5)]);
    }

    #[test]
    fn removal_cuts_areas() {
        let mut areas = Areas::default();
        areas.insert(area(1, 9, Rights::READ));
        let removed = areas.remove(3 * PAGE_SIZE, 5 * PAGE_SIZE);
        assert_eq!(removed.len(), 1);
        assert_eq!(pages(&areas), [(1, 3), (5, 9)]);
        assert!(areas.is_free(3 * PAGE_SIZE, 5 * PAGE_SIZE));
        assert!(!areas.is_covered(2 * PAGE_SIZE, 4 * PAGE_SIZE));
        assert!(areas.is_covered(5 * PAGE_SIZE, 9 * PAGE_SIZE));
    }

    #[test]
    fn highest_gap_that_fits_is_found() {
        let mut areas = Areas::default();
        areas.insert(area(4, 5, Rights::READ));
        areas.insert(area(8, 9, Rights::READ));
        let find = |length: u64| {
            areas.find_free(length * PAGE_SIZE, PAGE_SIZE, 10 * PAGE_SIZE).map(|at| at / PAGE_SIZE)
        };
        assert_eq!((find(1), find(2), find(3), find(4)), (Some(9), Some(6), Some(5), None));
    }
}
