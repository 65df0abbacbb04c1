//! `epoll`: a set of descriptions that is asked as a whole.
//!
//! The set holds its members weakly, keyed by number and description, and asks each member when it is asked itself.
//! There are no callbacks: an edge is a change of the member's wake counts ([`Readiness::edges`]) since the member
//! was last reported. That costs a look at every member per `epoll_wait`, which is cheap for the hundreds of
//! descriptors a build step has, and it cannot lose an event.
//!
//! What must hold: a set is never (transitively) a member of itself, and nesting ends at [`MAX_NESTING`]; adding,
//! changing or removing a member wakes whoever waits for the set, so that the queues are gathered anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use bitflags::bitflags;

use super::{Anonymous, Description, Errno, FileObject, Kind, Readiness, Ready, Watch, lock};

/// How deep sets may contain sets (`ELOOP`), as on Linux.
const MAX_NESTING: usize = 5;

/// Held while a set is put into another, so that two threads cannot close a circle from both sides.
static NESTING: Mutex<()> = Mutex::new(());

bitflags! {
    /// The event mask of `epoll_ctl`: what [`Ready`] has, and how to report it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Mode: u32 {
        /// Wake only one set; accepted, every set is asked.
        const EXCLUSIVE = 1 << 28;
        /// Keep the machine awake; without meaning here.
        const WAKEUP = 1 << 29;
        /// Report once, then wait for `EPOLL_CTL_MOD`.
        const ONESHOT = 1 << 30;
        /// Report changes, not states.
        const EDGE = 1 << 31;
    }
}

/// An interest set (epoll(7)).
#[derive(Debug)]
pub(crate) struct Epoll {
    members: Mutex<Members>,
    changed: Arc<Readiness>,
}

#[derive(Debug, Default)]
struct Members {
    entries: BTreeMap<(i32, u64), Member>,
    /// The key after which the next report starts, so that a busy member does not starve the others.
    last: Option<(i32, u64)>,
}

#[derive(Debug)]
struct Member {
    description: Weak<Description>,
    events: u32,
    data: u64,
    /// Wake counts at the last report of an edge-triggered member.
    reported: Option<u64>,
    /// A one-shot member that has been reported.
    disarmed: bool,
}

/// One entry of the answer of `epoll_wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// What the member is ready for.
    pub(crate) ready: Ready,
    /// The caller's data.
    pub(crate) data: u64,
}

fn edges_of(description: &Description) -> u64 {
    let mut watch = Watch::default();
    description.object().watch(&mut watch);
    watch.queues.iter().fold(0, |sum, queue| sum.wrapping_add(queue.edges()))
}

impl Member {
    /// Returns what to report now, if anything, and remembers that it was.
    fn take(&mut self, consume: bool) -> Option<Event> {
        if self.disarmed {
            return None;
        }
        let description = self.description.upgrade()?;
        let edge = self.events & Mode::EDGE.bits() != 0;
        // The counts are read before the state: a change in between is reported once more, not lost.
        let edges = if edge { edges_of(&description) } else { 0 };
        if edge && self.reported == Some(edges) {
            return None;
        }
        let wanted = Ready::from_bits_truncate(self.events) | Ready::ERR | Ready::HUP;
        let ready = description.object().poll() & wanted;
        if ready.is_empty() {
            return None;
        }
        if consume {
            self.reported = edge.then_some(edges);
            self.disarmed = self.events & Mode::ONESHOT.bits() != 0;
        }
        Some(Event { ready, data: self.data })
    }
}

impl Epoll {
    /// Makes an empty set.
    pub(crate) fn new() -> Self {
        Self { members: Mutex::default(), changed: Readiness::new() }
    }

    /// Adds a member (`EPOLL_CTL_ADD`).
    ///
    /// `EPERM` for an object that is always ready; `EINVAL` for the set itself; `ELOOP` when sets would contain each other
    /// or nest too deep; `EEXIST` for a member.
    pub(crate) fn add(
        &self,
        number: i32,
        target: &Arc<Description>,
        events: u32,
        data: u64,
    ) -> Result<(), Errno> {
        if !target.object().pollable() {
            return Err(Errno::PERM);
        }
        let mut nesting = None;
        if let Kind::Epoll(inner) = target.object().kind() {
            if std::ptr::eq(inner, self) {
                return Err(Errno::INVAL);
            }
            nesting = Some(lock(&NESTING));
            if events & Mode::EXCLUSIVE.bits() != 0 {
                return Err(Errno::INVAL);
            }
            inner.check_nesting(self, 1)?;
        }
        let mut members = lock(&self.members);
        members.entries.retain(|_, member| member.description.strong_count() > 0);
        let key = (number, target.id());
        if members.entries.contains_key(&key) {
            return Err(Errno::EXIST);
        }
        let description = Arc::downgrade(target);
        members.entries.insert(key, Member { description, events, data, reported: None, disarmed: false });
        drop(members);
        drop(nesting);
        self.changed.wake();
        Ok(())
    }

    /// Changes a member (`EPOLL_CTL_MOD`). `ENOENT` when it is none; `EINVAL` with `EPOLLEXCLUSIVE`.
    pub(crate) fn modify(
        &self,
        number: i32,
        target: &Description,
        events: u32,
        data: u64,
    ) -> Result<(), Errno> {
        let mut members = lock(&self.members);
        let member = members.entries.get_mut(&(number, target.id())).ok_or(Errno::NOENT)?;
        if (events | member.events) & Mode::EXCLUSIVE.bits() != 0 {
            return Err(Errno::INVAL);
        }
        (member.events, member.data, member.reported, member.disarmed) = (events, data, None, false);
        drop(members);
        self.changed.wake();
        Ok(())
    }

    /// Removes a member (`EPOLL_CTL_DEL`). `ENOENT` when it is none.
    pub(crate) fn remove(&self, number: i32, target: &Description) -> Result<(), Errno> {
        lock(&self.members).entries.remove(&(number, target.id())).map(|_| ()).ok_or(Errno::NOENT)
    }

    /// Takes up to `limit` events.
    pub(crate) fn take(&self, limit: usize) -> Vec<Event> {
        let mut members = lock(&self.members);
        let start = members.last;
        let keys: Vec<(i32, u64)> = match start {
            Some(last) => {
                let after =
                    members.entries.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded));
                after.chain(members.entries.range(..=last)).map(|(key, _)| *key).collect()
            }
            None => members.entries.keys().copied().collect(),
        };
        let mut events = Vec::new();
        for key in keys {
            if events.len() == limit {
                break;
            }
            if let Some(event) = members.entries.get_mut(&key).and_then(|member| member.take(true)) {
                events.push(event);
                members.last = Some(key);
            }
        }
        events
    }

    fn check_nesting(&self, outer: &Self, depth: usize) -> Result<(), Errno> {
        if depth >= MAX_NESTING {
            return Err(Errno::LOOP);
        }
        let inner: Vec<Arc<Description>> =
            lock(&self.members).entries.values().filter_map(|member| member.description.upgrade()).collect();
        for description in inner {
            if let Kind::Epoll(set) = description.object().kind() {
                if std::ptr::eq(set, outer) {
                    return Err(Errno::LOOP);
                }
                set.check_nesting(outer, depth + 1)?;
            }
        }
        Ok(())
    }
}

impl FileObject for Epoll {
    fn poll(&self) -> Ready {
        let mut members = lock(&self.members);
        let any = members.entries.values_mut().any(|member| member.take(false).is_some());
        if any { Ready::READABLE } else { Ready::empty() }
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(&self.changed);
        for member in lock(&self.members).entries.values() {
            if let Some(description) = member.description.upgrade().filter(|_| !member.disarmed) {
                description.object().watch(watch);
            }
        }
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::inode("[eventpoll]"))
    }

    fn information(&self) -> String {
        let members = lock(&self.members);
        let line = |((number, _), member): (&(i32, u64), &Member)| {
            format!("tfd: {number:8} events: {:8x} data: {:16x}\n", member.events, member.data)
        };
        members.entries.iter().map(line).collect()
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Epoll(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::EventFile;
    use super::super::transfer::{HostInput, HostOutput};
    use super::*;

    const IN: u32 = Ready::IN.bits();
    const EDGE: u32 = Mode::EDGE.bits();

    fn counter() -> Arc<Description> {
        Description::new(Box::new(EventFile::new(0, false)), 2, None)
    }

    fn post(file: &Description) {
        assert_eq!(file.object().write(&mut HostInput::new(&1u64.to_ne_bytes()), 0), Ok(8));
    }

    fn drain(file: &Description) {
        assert_eq!(file.object().read(&mut HostOutput::new(&mut [0; 8]), 0), Ok(8));
    }

    fn data(set: &Epoll) -> Vec<u64> {
        set.take(16).iter().map(|event| event.data).collect()
    }

    #[test]
    fn level_triggered_members_are_reported_while_ready() {
        let (set, file) = (Epoll::new(), counter());
        assert_eq!(set.add(3, &file, IN, 7), Ok(()));
        assert_eq!(set.add(3, &file, IN, 7), Err(Errno::EXIST));
        assert_eq!((data(&set), set.poll()), (vec![], Ready::empty()));
        post(&file);
        assert_eq!((data(&set), data(&set), set.poll()), (vec![7], vec![7], Ready::READABLE));
        drain(&file);
        assert_eq!(data(&set), [0; 0]);
    }

    #[test]
    fn edge_triggered_members_are_reported_once_per_change() {
        let (set, file) = (Epoll::new(), counter());
        assert_eq!(set.add(3, &file, IN | EDGE, 7), Ok(()));
        post(&file);
        assert_eq!((data(&set), data(&set)), (vec![7], vec![]));
        post(&file);
        assert_eq!((data(&set), data(&set)), (vec![7], vec![]));
        assert_eq!(set.modify(3, &file, IN | EDGE, 8), Ok(()));
        assert_eq!((data(&set), data(&set)), (vec![8], vec![]));
    }

    #[test]
    fn one_shot_members_wait_for_a_change_of_interest() {
        let (set, file) = (Epoll::new(), counter());
        assert_eq!(set.add(3, &file, IN | Mode::ONESHOT.bits(), 7), Ok(()));
        post(&file);
        assert_eq!((data(&set), data(&set)), (vec![7], vec![]));
        assert_eq!(set.modify(3, &file, IN, 9), Ok(()));
        assert_eq!(data(&set), [9]);
    }

    #[test]
    fn a_closed_member_leaves_by_itself() {
        let (set, file) = (Epoll::new(), counter());
        assert_eq!(set.add(3, &file, IN, 7), Ok(()));
        post(&file);
        drop(file);
        assert_eq!(data(&set), [0; 0]);
    }

    #[test]
    fn a_full_answer_goes_on_with_the_next_member() {
        let (set, files) = (Epoll::new(), [counter(), counter(), counter()]);
        for (number, file) in files.iter().enumerate() {
            assert_eq!(set.add(number as i32, file, IN, number as u64), Ok(()));
            post(file);
        }
        let one = || set.take(1).iter().map(|event| event.data).next();
        assert_eq!([one(), one(), one(), one()], [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn sets_nest_but_not_in_circles() {
        let sets: Vec<_> = (0..7).map(|_| Description::new(Box::new(Epoll::new()), 2, None)).collect();
        let set = |index: usize| match sets[index].object().kind() {
            Kind::Epoll(set) => set,
            _ => unreachable!("every member of the list is a set"),
        };
        let file = counter();
        assert_eq!(set(0).add(9, &file, IN, 1), Ok(()));
        assert_eq!(set(1).add(8, &sets[0], IN, 2), Ok(()));
        assert_eq!(set(0).add(8, &sets[1], IN, 2), Err(Errno::LOOP));
        assert_eq!(set(0).add(8, &sets[0], IN, 2), Err(Errno::INVAL));
        post(&file);
        assert_eq!(data(set(1)), [2]);
        let mut watch = Watch::default();
        set(1).watch(&mut watch);
        assert_eq!(watch.queues.len(), 3);
        let deep = (2..7).map(|index| set(index).add(8, &sets[index - 1], IN, 2)).find(Result::is_err);
        assert_eq!(deep, Some(Err(Errno::LOOP)));
    }
}
