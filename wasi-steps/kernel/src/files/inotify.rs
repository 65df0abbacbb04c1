//! `inotify`: changes of files and directories behind a descriptor (inotify(7)).
//!
//! An inode that is watched carries the list of its watchers as an attachment; a change made by a system call is told to
//! the watchers of the inode and, with the name, to those of the directory in whose name it was made. As long as no watch
//! exists at all, a change costs one load. Writes through mapped memory are not reported, as on Linux.
//!
//! What must hold: a watcher's own lock is taken with no other of this module held; the list of an inode holds watchers
//! weakly, so that the end of a descriptor ends its watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use cooper_vfs::{FileKind, NodeRef, Position, Walk};

use super::{Anonymous, Errno, FileObject, Kind, Output, Readiness, Ready, Watch, lock};

/// Numbers of events and of flags of a watch.
pub(crate) mod event {
    pub(crate) const ACCESS: u32 = 0x1;
    pub(crate) const MODIFY: u32 = 0x2;
    pub(crate) const ATTRIB: u32 = 0x4;
    pub(crate) const CLOSE_WRITE: u32 = 0x8;
    pub(crate) const CLOSE_NOWRITE: u32 = 0x10;
    pub(crate) const OPEN: u32 = 0x20;
    pub(crate) const MOVED_FROM: u32 = 0x40;
    pub(crate) const MOVED_TO: u32 = 0x80;
    pub(crate) const CREATE: u32 = 0x100;
    pub(crate) const DELETE: u32 = 0x200;
    pub(crate) const DELETE_SELF: u32 = 0x400;
    pub(crate) const MOVE_SELF: u32 = 0x800;
    /// All events that can be asked for.
    pub(crate) const ALL: u32 = 0xfff;
    /// Events were lost.
    pub(super) const OVERFLOW: u32 = 0x4000;
    /// The watch has ended.
    pub(super) const IGNORED: u32 = 0x8000;
    pub(crate) const ONLY_DIRECTORY: u32 = 0x0100_0000;
    pub(crate) const DONT_FOLLOW: u32 = 0x0200_0000;
    pub(crate) const EXCLUDE_UNLINKED: u32 = 0x0400_0000;
    pub(crate) const MASK_CREATE: u32 = 0x1000_0000;
    pub(crate) const MASK_ADD: u32 = 0x2000_0000;
    /// The event concerns a directory.
    pub(crate) const IS_DIRECTORY: u32 = 0x4000_0000;
    pub(crate) const ONE_SHOT: u32 = 0x8000_0000;
}

/// The most events that wait to be read (`/proc/sys/fs/inotify/max_queued_events`).
const MAX_EVENTS: usize = 16384;
/// The most watches of one descriptor (`/proc/sys/fs/inotify/max_user_watches`).
const MAX_WATCHES: usize = 65536;
/// Size of `struct inotify_event` without its name.
const HEADER: usize = 16;

/// How many watches there are; a filter only, so it may count those of other steps in this host process.
static WATCHES: AtomicUsize = AtomicUsize::new(0);
/// Ties the two events of a rename together.
static NEXT_COOKIE: AtomicU32 = AtomicU32::new(1);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    watch: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// The name with its zero, padded to a multiple of the header.
    fn name_room(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.name_room());
        bytes.extend(self.watch.to_le_bytes());
        bytes.extend(self.mask.to_le_bytes());
        bytes.extend(self.cookie.to_le_bytes());
        bytes.extend((self.name_room() as u32).to_le_bytes());
        bytes.extend(&self.name);
        bytes.resize(HEADER + self.name_room(), 0);
        bytes
    }
}

/// One watched inode.
struct Watched {
    node: NodeRef,
    mask: u32,
}

#[derive(Default)]
struct State {
    watches: BTreeMap<i32, Watched>,
    last: i32,
    events: VecDeque<Event>,
}

/// One inotify instance.
#[derive(Default)]
struct Instance {
    state: Mutex<State>,
    changed: Arc<Readiness>,
}

/// The instances that watch an inode.
#[derive(Default)]
struct Watchers(Mutex<Vec<(i32, Weak<Instance>)>>);

fn watchers(node: &NodeRef) -> Arc<Watchers> {
    node.attachment(Watchers::default)
}

impl Instance {
    fn push(&self, event: Event) {
        let mut state = lock(&self.state);
        let Some(watched) = state.watches.get(&event.watch) else { return };
        let (mask, once) = (watched.mask & event.mask & event::ALL, watched.mask & event::ONE_SHOT != 0);
        if mask == 0 {
            return;
        }
        let watch = event.watch;
        state.queue(event);
        if once {
            state.end_watch(watch);
        }
        drop(state);
        self.changed.wake();
    }

    fn end_watch(&self, watch: i32) -> bool {
        let ended = lock(&self.state).end_watch(watch);
        if ended {
            self.changed.wake();
        }
        ended
    }
}

impl State {
    fn queue(&mut self, event: Event) {
        // The same event twice in a row is one, as on Linux.
        if self.events.back() == Some(&event) {
            return;
        }
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else if self.events.len() == MAX_EVENTS {
            self.events.push_back(Event { watch: -1, mask: event::OVERFLOW, cookie: 0, name: Vec::new() });
        }
    }

    /// Ends a watch and says so; `false` when there is none.
    fn end_watch(&mut self, watch: i32) -> bool {
        let known = self.watches.remove(&watch).is_some();
        if known {
            WATCHES.fetch_sub(1, Ordering::SeqCst);
            self.queue(Event { watch, mask: event::IGNORED, cookie: 0, name: Vec::new() });
        }
        known
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        WATCHES.fetch_sub(lock(&self.state).watches.len(), Ordering::SeqCst);
    }
}

/// The file behind a descriptor of `inotify_init1`.
pub(crate) struct InotifyFile(Arc<Instance>);

impl std::fmt::Debug for InotifyFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "InotifyFile({} watches)", lock(&self.0.state).watches.len())
    }
}

impl InotifyFile {
    /// One without watches.
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Watches an inode, or changes what is watched of it; returns the number of the watch.
    ///
    /// `EEXIST` with `IN_MASK_CREATE` for one that is watched already; `ENOSPC` for too many.
    pub(crate) fn add(&self, node: &NodeRef, mask: u32) -> Result<i32, Errno> {
        let list = watchers(node);
        let mut list = lock(&list.0);
        list.retain(|(_, instance)| instance.strong_count() > 0);
        let mut state = lock(&self.0.state);
        let own = list.iter().find(|(watch, instance)| {
            std::ptr::eq(instance.as_ptr(), Arc::as_ptr(&self.0)) && state.watches.contains_key(watch)
        });
        if let Some((watch, _)) = own
            && let Some(watched) = state.watches.get_mut(watch)
        {
            if mask & event::MASK_CREATE != 0 {
                return Err(Errno::EXIST);
            }
            let kept = if mask & event::MASK_ADD != 0 { watched.mask } else { 0 };
            watched.mask = kept | mask;
            return Ok(*watch);
        }
        if state.watches.len() >= MAX_WATCHES {
            return Err(Errno::NOSPC);
        }
        let watch = state.last.checked_add(1).ok_or(Errno::NOSPC)?;
        state.last = watch;
        state.watches.insert(watch, Watched { node: node.clone(), mask });
        list.push((watch, Arc::downgrade(&self.0)));
        WATCHES.fetch_add(1, Ordering::SeqCst);
        Ok(watch)
    }

    /// Ends a watch. `EINVAL` for an unknown one.
    pub(crate) fn remove(&self, watch: i32) -> Result<(), Errno> {
        if self.0.end_watch(watch) { Ok(()) } else { Err(Errno::INVAL) }
    }
}

impl FileObject for InotifyFile {
    /// `EAGAIN` without events; `EINVAL` for a buffer that the first one does not fit into.
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        let mut state = lock(&self.0.state);
        let mut total = 0;
        while let Some(event) = state.events.front() {
            let bytes = event.encode();
            if bytes.len() > output.remaining() {
                return if total == 0 { Err(Errno::INVAL) } else { Ok(total) };
            }
            total += output.put(&bytes)?;
            state.events.pop_front();
        }
        if total == 0 { Err(Errno::AGAIN) } else { Ok(total) }
    }

    fn poll(&self) -> Ready {
        if lock(&self.0.state).events.is_empty() { Ready::empty() } else { Ready::READABLE }
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(&self.0.changed);
    }

    fn readable_bytes(&self) -> Option<u64> {
        let size = |event: &Event| (HEADER + event.name_room()) as u64;
        Some(lock(&self.0.state).events.iter().map(size).sum())
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(Anonymous::inode("inotify"))
    }

    fn information(&self) -> String {
        let state = lock(&self.0.state);
        let line = |(watch, watched): (&i32, &Watched)| {
            format!(
                "inotify wd:{watch:x} ino:{:x} sdev:0 mask:{:x} ignored_mask:0\n",
                watched.node.inode(),
                watched.mask
            )
        };
        state.watches.iter().map(line).collect()
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Inotify(self)
    }
}

/// Whether anything is watched at all: what callers ask before they prepare to [`tell`].
pub(crate) fn is_used() -> bool {
    WATCHES.load(Ordering::SeqCst) != 0
}

fn tell_node(node: &NodeRef, mask: u32, cookie: u32, name: &[u8]) {
    let list = watchers(node);
    let told: Vec<(i32, Arc<Instance>)> = {
        let mut list = lock(&list.0);
        list.retain(|(_, instance)| instance.strong_count() > 0);
        list.iter().filter_map(|(watch, instance)| Some((*watch, instance.upgrade()?))).collect()
    };
    for (watch, instance) in told {
        instance.push(Event { watch, mask, cookie, name: name.to_vec() });
    }
}

fn directory_bit(kind: FileKind) -> u32 {
    if kind == FileKind::Directory { event::IS_DIRECTORY } else { 0 }
}

/// Tells the watchers of a place, and of the directory that has its name, what happened to it.
pub(crate) fn tell(position: &Position, mask: u32) {
    if !is_used() {
        return;
    }
    let mask = mask | directory_bit(position.kind());
    let name = position.name();
    if !name.is_empty() && !position.is_removed() {
        tell_node(&position.parent().node(), mask, 0, &name);
    }
    tell_node(&position.node(), mask, 0, b"");
}

/// Tells the watchers of a directory that a name in it was made.
pub(crate) fn tell_created(position: &Position) {
    if is_used() {
        let mask = event::CREATE | directory_bit(position.kind());
        tell_node(&position.parent().node(), mask, 0, &position.name());
    }
}

/// A name that is about to be removed or moved.
#[derive(Debug)]
pub(crate) struct Name {
    parent: Position,
    name: Vec<u8>,
    position: Position,
    is_last: bool,
}

impl Name {
    /// Remembers where a place is now.
    pub(crate) fn of(walk: &Walk<'_>, position: Position) -> Self {
        let is_last =
            position.kind() == FileKind::Directory || position.stat(walk).is_ok_and(|stat| stat.links <= 1);
        Self { parent: position.parent(), name: position.name(), position, is_last }
    }

    /// Tells that the inode has lost this name, and with the last one all its watches.
    fn tell_lost(&self) {
        let node = self.position.node();
        if self.position.kind() != FileKind::Directory {
            tell_node(&node, event::ATTRIB, 0, b"");
        }
        if !self.is_last {
            return;
        }
        tell_node(&node, event::DELETE_SELF, 0, b"");
        let list = watchers(&node);
        let ended = std::mem::take(&mut *lock(&list.0));
        for (watch, instance) in ended {
            if let Some(instance) = instance.upgrade() {
                instance.end_watch(watch);
            }
        }
    }

    /// Tells that it was removed.
    pub(crate) fn tell_removed(&self) {
        let mask = event::DELETE | directory_bit(self.position.kind());
        tell_node(&self.parent.node(), mask, 0, &self.name);
        self.tell_lost();
    }

    /// Tells that it was moved to `to`, where `replaced` was.
    pub(crate) fn tell_moved(&self, to: &Position, replaced: Option<&Self>) {
        let cookie = NEXT_COOKIE.fetch_add(1, Ordering::Relaxed);
        let directory = directory_bit(self.position.kind());
        tell_node(&self.parent.node(), event::MOVED_FROM | directory, cookie, &self.name);
        tell_node(&to.parent().node(), event::MOVED_TO | directory, cookie, &to.name());
        if let Some(replaced) = replaced {
            replaced.tell_lost();
        }
        tell_node(&self.position.node(), event::MOVE_SELF, 0, b"");
    }
}

#[cfg(test)]
mod tests {
    use super::super::transfer::HostOutput;
    use super::*;

    #[test]
    fn an_event_has_the_layout_of_linux() {
        let event = Event { watch: 1, mask: event::CREATE, cookie: 7, name: b"name".to_vec() };
        let bytes = event.encode();
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..21], *b"\x01\0\0\0\0\x01\0\0\x07\0\0\0\x10\0\0\0name\0");
    }

    #[test]
    fn events_are_read_whole_and_repeats_are_one() {
        let file = InotifyFile::new();
        let event = |name: &[u8]| Event { watch: 1, mask: event::MODIFY, cookie: 0, name: name.to_vec() };
        let mut buffer = [0; 40];
        assert_eq!(file.read(&mut HostOutput::new(&mut buffer), 0), Err(Errno::AGAIN));
        for name in [b"a", b"a", b"b"] {
            lock(&file.0.state).queue(event(name));
        }
        assert_eq!((file.poll(), file.readable_bytes()), (Ready::READABLE, Some(64)));
        assert_eq!(file.read(&mut HostOutput::new(&mut buffer[..20]), 0), Err(Errno::INVAL));
        assert_eq!(file.read(&mut HostOutput::new(&mut buffer), 0), Ok(32));
        assert_eq!(file.read(&mut HostOutput::new(&mut buffer), 0), Ok(32));
        assert_eq!(file.poll(), Ready::empty());
    }

    #[test]
    fn a_flood_ends_with_an_overflow() {
        let mut state = State::default();
        for cookie in 0..MAX_EVENTS as u32 + 5 {
            state.queue(Event { watch: 1, mask: event::MODIFY, cookie, name: Vec::new() });
        }
        assert_eq!(state.events.len(), MAX_EVENTS + 1);
        assert_eq!(state.events.back().map(|event| event.mask), Some(event::OVERFLOW));
    }
}
