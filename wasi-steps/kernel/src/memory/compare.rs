//! Copies of address spaces that are run beside them, for those who check one way to run code against another.

use std::ops::Range;
use std::sync::{Arc, Weak};

use super::{AddressSpace, lock};

/// Bytes that are compared at once.
const CHUNK: u64 = 4096;

impl AddressSpace {
    /// A copy in which code does what it does here. `None` where that is not so, because others write to this memory too:
    /// threads, or processes through shared areas; and where the host has no room for one.
    pub fn snapshot(&self) -> Option<Arc<Self>> {
        let is_here = |space: Option<Arc<Self>>| space.is_some_and(|space| std::ptr::eq(&*space, self));
        let users =
            lock(&self.members).iter().filter_map(Weak::upgrade).filter(|task| is_here(task.space())).count();
        if users > 1 || self.read().iter().any(|area| area.shared && area.was_writable) {
            return None;
        }
        self.duplicate().ok().map(Arc::new)
    }

    /// The lowest address at which this memory and a copy of it hold different bytes, with the bytes here and there.
    pub fn first_difference(&self, copy: &Self) -> Option<(u64, u8, u8)> {
        let ranges: Vec<Range<u64>> = {
            let areas = self.read();
            let private = areas.iter().filter(|area| !area.shared && area.backed_end > area.start);
            private.map(|area| area.start..area.backed_end).collect()
        };
        ranges.into_iter().find_map(|range| self.difference_in(copy, range))
    }

    fn difference_in(&self, copy: &Self, range: Range<u64>) -> Option<(u64, u8, u8)> {
        let length = range.end - range.start;
        let written = |space: &Self| {
            let pages = space.memory.dirty_private_pages(range.start, length);
            pages.unwrap_or_else(|| std::iter::once(range.clone()).collect())
        };
        let mut parts: Vec<Range<u64>> = written(self).into_iter().chain(written(copy)).collect();
        parts.sort_by_key(|part| part.start);
        let (mut ours, mut theirs) = ([0; CHUNK as usize], [0; CHUNK as usize]);
        for at in parts.into_iter().flat_map(|part| part.step_by(CHUNK as usize)) {
            // Pages that cannot be read here cannot be written either.
            if self.memory.read(at, &mut ours).is_err() || copy.memory.read(at, &mut theirs).is_err() {
                continue;
            }
            if let Some(index) = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs) {
                return Some((at + index as u64, ours[index], theirs[index]));
            }
        }
        None
    }
}
