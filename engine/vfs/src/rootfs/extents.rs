//! Which parts of a sparse file hold data, in whole pages.

use std::collections::BTreeMap;

/// Unit of what is kept or given back.
pub(super) const PAGE: u64 = 4096;

/// Disjoint ranges, start to end, none touching another.
#[derive(Clone, Debug, Default)]
pub(super) struct Extents {
    ranges: BTreeMap<u64, u64>,
    total: u64,
}

impl Extents {
    /// Bytes in all ranges.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// How many bytes `insert` of the same range would add.
    pub(super) fn missing(&self, start: u64, end: u64) -> u64 {
        let (start, end) = round_out(start, end);
        let covered: u64 =
            self.touching(start, end).map(|(from, to)| to.min(end).saturating_sub(from.max(start))).sum();
        (end - start).saturating_sub(covered)
    }

    /// Adds all pages that the range touches.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = round_out(start, end);
        if start >= end {
            return;
        }
        let joined: Vec<(u64, u64)> = self.touching(start, end).collect();
        for (from, to) in joined {
            self.ranges.remove(&from);
            self.total -= to - from;
            start = start.min(from);
            end = end.max(to);
        }
        self.ranges.insert(start, end);
        self.total += end - start;
    }

    /// Takes out all pages that lie wholly in the range.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if start >= end {
            return;
        }
        let touched: Vec<(u64, u64)> = self.touching(start, end).collect();
        for (from, to) in touched {
            self.ranges.remove(&from);
            self.total -= to - from;
            for (from, to) in [(from, to.min(start)), (from.max(end), to)] {
                if from < to {
                    self.ranges.insert(from, to);
                    self.total += to - from;
                }
            }
        }
    }

    /// The first byte of data at or after `offset`.
    pub(super) fn data_from(&self, offset: u64) -> Option<u64> {
        let inside = self.ranges.range(..=offset).next_back().filter(|(_, to)| **to > offset);
        match inside {
            Some(_) => Some(offset),
            None => self.ranges.range(offset..).next().map(|(from, _)| *from),
        }
    }

    /// The first byte at or after `offset` that is not data.
    pub(super) fn hole_from(&self, offset: u64) -> u64 {
        self.ranges.range(..=offset).next_back().map_or(offset, |(_, to)| offset.max(*to))
    }

    /// Ranges that overlap or touch `start..end`.
    fn touching(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.range(..=end).rev().map(|(from, to)| (*from, *to)).take_while(move |(_, to)| *to >= start)
    }
}

fn round_out(start: u64, end: u64) -> (u64, u64) {
    let start = start / PAGE * PAGE;
    (start, end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX).max(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_split() {
        let mut extents = Extents::default();
        extents.insert(0, 10);
        extents.insert(3 * PAGE, 4 * PAGE);
        assert_eq!(extents.total(), 2 * PAGE);
        assert_eq!(extents.missing(0, 4 * PAGE), 2 * PAGE);
        assert_eq!((extents.hole_from(5), extents.data_from(PAGE)), (PAGE, Some(3 * PAGE)));
        extents.insert(PAGE, 3 * PAGE);
        assert_eq!((extents.total(), extents.hole_from(0)), (4 * PAGE, 4 * PAGE));
        extents.remove(PAGE - 1, 3 * PAGE + 1);
        assert_eq!(extents.total(), 2 * PAGE);
        assert_eq!((extents.hole_from(0), extents.data_from(PAGE)), (PAGE, Some(3 * PAGE)));
        assert_eq!(extents.data_from(4 * PAGE), None);
        extents.remove(PAGE + 1, 2 * PAGE - 1);
        assert_eq!(extents.total(), 2 * PAGE);
    }
}
