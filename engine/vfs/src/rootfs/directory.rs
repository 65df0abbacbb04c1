//! Directories in memory: the object below, and the names that were looked at or changed.
//!
//! A name from below gets a directory entry (and an inode) when it is first looked up. Reading a directory needs
//! neither: inode numbers of a whole object are reserved when it is loaded. The cookie of a name from below is its
//! place in the object plus three (`.` is 1, `..` is 2); added names count on from there, and no cookie is ever used
//! again, so reading goes on rightly whatever happens in between.
//!
//! Hard links: all names of a group recorded in an object get their common inode at once when the object is loaded.
//! Nothing below it can be in use at that time, because this load is the only way there.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use rustix::io::Errno;

use super::DirectoryItem;
use super::file::FileBody;
use super::inode::{Attributes, Body, Inode};
use super::shared::{Budget, Shared};
use super::sync::{lock, read, write};
use crate::path;
use crate::tree::{ContentTreeId, Directory, Entry, ExactId, FileKind, NodeKind};

/// First cookie of a name other than `.` and `..`.
const FIRST_COOKIE: u64 = 3;

/// A directory entry: a name, where it is, and the inode it stands for. A directory has only one.
pub(super) struct Dentry {
    pub(super) inode: Arc<Inode>,
    location: RwLock<Location>,
    /// The name is gone.
    removed: AtomicBool,
    /// How many mounts cover it.
    pub(super) mounted: AtomicU32,
    /// Made to carry a mount; not part of the tree.
    pub(super) placeholder: bool,
}

struct Location {
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

impl Dentry {
    pub(super) fn new(parent: Option<Arc<Self>>, name: Arc<[u8]>, inode: Arc<Inode>) -> Arc<Self> {
        Arc::new(Self::unshared(parent, name, inode, false))
    }

    pub(super) fn placeholder(parent: Arc<Self>, name: Arc<[u8]>, inode: Arc<Inode>) -> Arc<Self> {
        Arc::new(Self::unshared(Some(parent), name, inode, true))
    }

    const fn unshared(
        parent: Option<Arc<Self>>,
        name: Arc<[u8]>,
        inode: Arc<Inode>,
        placeholder: bool,
    ) -> Self {
        Self {
            inode,
            location: RwLock::new(Location { parent, name }),
            removed: AtomicBool::new(false),
            mounted: AtomicU32::new(0),
            placeholder,
        }
    }

    pub(super) fn parent(&self) -> Option<Arc<Self>> {
        read(&self.location).parent.clone()
    }

    pub(super) fn name(&self) -> Arc<[u8]> {
        Arc::clone(&read(&self.location).name)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(super) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    fn place(&self, parent: &Arc<Self>, name: &Arc<[u8]>) {
        *write(&self.location) = Location { parent: Some(Arc::clone(parent)), name: Arc::clone(name) };
    }

    /// Tells whether this is `other` or one of its ancestors.
    pub(super) fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut current = Some(Arc::clone(other));
        while let Some(dentry) = current {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            current = dentry.parent();
        }
        false
    }

    /// Lets go of everything below, so that entries and their parents do not keep each other alive.
    pub(super) fn dismantle(self: &Arc<Self>) {
        let mut pending = vec![Arc::clone(self)];
        while let Some(dentry) = pending.pop() {
            if let Body::Directory(directory) = &dentry.inode.body {
                let names = std::mem::take(&mut write(&directory.state).names);
                pending.extend(names.into_values().filter_map(|slot| slot.dentry));
            }
        }
    }
}

impl Drop for Dentry {
    /// Drops a chain of parents that only this entry holds in a loop: a path can be deeper than the stack.
    fn drop(&mut self) {
        let location = self.location.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut parent = location.parent.take();
        while let Some(mut last) = parent.and_then(Arc::into_inner) {
            let location = last.location.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            parent = location.parent.take();
        }
    }
}

pub(super) struct DirectoryBody {
    state: RwLock<State>,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct State {
    lower: Lower,
    names: HashMap<Arc<[u8]>, Slot>,
    /// Names that are not in the object below, or came back, by cookie.
    added: BTreeMap<u64, Arc<[u8]>>,
    next_cookie: u64,
    /// Names that are there.
    count: usize,
    /// Directories among them.
    subdirectories: u64,
    /// The directory itself was removed: nothing can be made in it.
    dead: bool,
}

#[derive(Default)]
enum Lower {
    #[default]
    Nothing,
    Unloaded((ExactId, ContentTreeId)),
    Loaded {
        ids: (ExactId, ContentTreeId),
        object: Arc<Directory>,
        first_inode: u64,
    },
}

/// What is known of one name: that it is there, or that the one from below is gone.
struct Slot {
    cookie: u64,
    dentry: Option<Arc<Dentry>>,
}

/// A name and what it stands for; `None` for one that is gone.
type Known = (Arc<[u8]>, Option<Arc<Dentry>>);

/// What a directory holds, for assembling trees.
pub(super) struct Contents {
    pub(super) base: Option<((ExactId, ContentTreeId), Arc<Directory>)>,
    pub(super) names: Vec<Known>,
}

impl DirectoryBody {
    pub(super) fn empty(budget: Arc<Budget>) -> Self {
        let state = State { next_cookie: FIRST_COOKIE, ..State::default() };
        Self { state: RwLock::new(state), budget }
    }

    pub(super) fn unloaded(budget: Arc<Budget>, ids: (ExactId, ContentTreeId)) -> Self {
        let state = State { lower: Lower::Unloaded(ids), ..State::default() };
        Self { state: RwLock::new(state), budget }
    }

    pub(super) const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The ids of the object below.
    pub(super) fn base_ids(&self) -> Option<(ExactId, ContentTreeId)> {
        match &read(&self.state).lower {
            Lower::Nothing => None,
            Lower::Unloaded(ids) | Lower::Loaded { ids, .. } => Some(*ids),
        }
    }

    /// The ids of a directory nothing of which is in memory.
    pub(super) fn untouched(&self) -> Option<(ExactId, ContentTreeId)> {
        match &read(&self.state).lower {
            Lower::Unloaded(ids) => Some(*ids),
            _ => None,
        }
    }

    /// Everything known, names sorted.
    pub(super) fn contents(&self) -> Contents {
        let state = read(&self.state);
        let base = match &state.lower {
            Lower::Loaded { ids, object, .. } => Some((*ids, Arc::clone(object))),
            _ => None,
        };
        let mut names: Vec<Known> =
            state.names.iter().map(|(name, slot)| (Arc::clone(name), slot.dentry.clone())).collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Contents { base, names }
    }

    pub(super) fn is_dead(&self) -> bool {
        read(&self.state).dead
    }

    /// The entry of a name. `ENOENT`, or `EIO` when the store fails.
    pub(super) fn lookup(
        &self,
        own: &Arc<Dentry>,
        name: &[u8],
        shared: &Arc<Shared>,
    ) -> Result<Arc<Dentry>, Errno> {
        {
            let state = read(&self.state);
            if let Some(slot) = state.names.get(name) {
                return slot.dentry.clone().ok_or(Errno::NOENT);
            }
            match &state.lower {
                Lower::Nothing => return Err(Errno::NOENT),
                Lower::Loaded { object, .. } if object.position(name).is_err() => return Err(Errno::NOENT),
                _ => {}
            }
        }
        let mut state = write(&self.state);
        self.load(&mut state, own, shared)?;
        self.materialise(&mut state, own, name, shared).ok_or(Errno::NOENT)
    }

    /// 2 and one for each directory in it.
    pub(super) fn links(&self, own: &Arc<Inode>, shared: &Shared) -> Result<u64, Errno> {
        let state = read(&self.state);
        if state.dead {
            return Ok(0);
        }
        match &state.lower {
            // Counting needs no entry, so it does not load: `stat` has no directory entry at hand.
            Lower::Unloaded(ids) => {
                let object = shared.store.directory(&ids.0).map_err(|error| shared.host(error))?;
                debug_assert!(own.is_directory());
                Ok(2 + subdirectories(&object))
            }
            _ => Ok(2 + state.subdirectories),
        }
    }

    pub(super) fn is_empty(&self, own: &Arc<Dentry>, shared: &Arc<Shared>) -> Result<bool, Errno> {
        let mut state = write(&self.state);
        self.load(&mut state, own, shared)?;
        Ok(state.count == 0)
    }

    /// Nothing more can be made in it.
    pub(super) fn kill(&self) {
        write(&self.state).dead = true;
    }

    /// Adds a name that is not there. The caller holds the namespace lock and has looked the name up.
    pub(super) fn insert(&self, own: &Arc<Dentry>, name: &Arc<[u8]>, dentry: &Arc<Dentry>) {
        dentry.place(own, name);
        let mut state = write(&self.state);
        let cookie = state.next_cookie;
        state.next_cookie += 1;
        state.added.insert(cookie, Arc::clone(name));
        state.names.insert(Arc::clone(name), Slot { cookie, dentry: Some(Arc::clone(dentry)) });
        state.count += 1;
        state.subdirectories += u64::from(dentry.inode.is_directory());
    }

    /// Takes a name out. The caller holds the namespace lock and has looked the name up.
    pub(super) fn remove(&self, name: &[u8]) {
        let mut state = write(&self.state);
        let State { lower, names, added, .. } = &mut *state;
        let Some(slot) = names.get_mut(name) else { return };
        let Some(dentry) = slot.dentry.take() else { return };
        added.remove(&slot.cookie);
        let below = matches!(lower, Lower::Loaded { object, .. } if object.position(name).is_ok());
        if !below {
            names.remove(name);
        }
        state.count -= 1;
        state.subdirectories -= u64::from(dentry.inode.is_directory());
    }

    /// Makes a name that is there stand for another entry, in the same place of the reading order.
    pub(super) fn replace(&self, own: &Arc<Dentry>, name: &Arc<[u8]>, dentry: &Arc<Dentry>) {
        dentry.place(own, name);
        let mut state = write(&self.state);
        let Some(slot) = state.names.get_mut(&**name) else { return };
        let old = slot.dentry.replace(Arc::clone(dentry));
        let was_directory = old.is_some_and(|old| old.inode.is_directory());
        state.subdirectories += u64::from(dentry.inode.is_directory());
        state.subdirectories -= u64::from(was_directory);
    }

    /// Up to `maximum` names after `cookie`. `ENOENT` when the directory was removed.
    pub(super) fn list(
        &self,
        own: &Arc<Dentry>,
        parent_inode: u64,
        cookie: u64,
        maximum: usize,
        shared: &Arc<Shared>,
    ) -> Result<Vec<DirectoryItem>, Errno> {
        {
            let mut state = write(&self.state);
            self.load(&mut state, own, shared)?;
        }
        let state = read(&self.state);
        let mut items = Vec::new();
        if state.dead {
            return Err(Errno::NOENT);
        }
        let dots = [(1, own.inode.number, &b"."[..]), (2, parent_inode, b"..")];
        for (next_cookie, inode, name) in dots {
            if next_cookie > cookie && items.len() < maximum {
                let name = name.to_vec();
                items.push(DirectoryItem { inode, next_cookie, kind: FileKind::Directory, name });
            }
        }
        if let Lower::Loaded { object, first_inode, .. } = &state.lower {
            let start = (cookie + 1).saturating_sub(FIRST_COOKIE) as usize;
            for (index, entry) in object.entries.iter().enumerate().skip(start) {
                if items.len() >= maximum {
                    return Ok(items);
                }
                let next_cookie = index as u64 + FIRST_COOKIE;
                let (inode, kind) = match state.names.get(entry.name.as_slice()) {
                    None => (first_inode + index as u64, entry.kind.file_kind()),
                    Some(Slot { cookie, dentry: Some(dentry) }) if *cookie == next_cookie => {
                        (dentry.inode.number, dentry.inode.kind())
                    }
                    Some(_) => continue,
                };
                items.push(DirectoryItem { inode, next_cookie, kind, name: entry.name.clone() });
            }
        }
        for (next_cookie, name) in state.added.range(cookie + 1..) {
            if items.len() >= maximum {
                break;
            }
            let Some(dentry) = state.names.get(name).and_then(|slot| slot.dentry.as_ref()) else { continue };
            let (inode, kind) = (dentry.inode.number, dentry.inode.kind());
            items.push(DirectoryItem { inode, next_cookie: *next_cookie, kind, name: name.to_vec() });
        }
        Ok(items)
    }

    /// Fetches the object below, and ties the hard links recorded in it.
    fn load(&self, state: &mut State, own: &Arc<Dentry>, shared: &Arc<Shared>) -> Result<(), Errno> {
        let Lower::Unloaded(ids) = state.lower else { return Ok(()) };
        let loaded = self.load_object(state, own, ids, shared);
        if loaded.is_err() {
            // Nothing was handed out yet, so it is as if nothing had been tried.
            *state = State { lower: Lower::Unloaded(ids), ..State::default() };
        }
        loaded.map_err(|error| shared.host(error))
    }

    fn load_object(
        &self,
        state: &mut State,
        own: &Arc<Dentry>,
        ids: (ExactId, ContentTreeId),
        shared: &Arc<Shared>,
    ) -> io::Result<()> {
        let groups = state.fetch(ids, shared)?;
        // Directories whose groups are still to be tied; the first one is this, whose state is held already.
        let mut pending = vec![(Arc::clone(own), groups)];
        while let Some((base, object)) = pending.pop() {
            for group in &object.hard_links {
                let mut common: Option<Arc<Inode>> = None;
                for member in group {
                    let (parent, name) = path::split(member).ok_or(io::ErrorKind::InvalidData)?;
                    let mut directory = Arc::clone(&base);
                    for name in path::components(parent) {
                        let child = with_state(&directory, own, state, |body, state| {
                            body.materialise(state, &directory, name, shared)
                        })?;
                        let child = child.ok_or(io::ErrorKind::InvalidData)?;
                        let Body::Directory(body) = &child.inode.body else {
                            return Err(io::ErrorKind::InvalidData.into());
                        };
                        let mut below = write(&body.state);
                        if let Lower::Unloaded(ids) = below.lower {
                            let object = below.fetch(ids, shared)?;
                            pending.push((Arc::clone(&child), object));
                        }
                        drop(below);
                        directory = child;
                    }
                    let names = group.len() as u64;
                    with_state(&directory, own, state, |body, state| {
                        body.tie(state, &directory, name, &mut common, names, shared)
                    })??;
                }
            }
        }
        Ok(())
    }

    /// Gives one name of a group the group's inode, which the first name makes.
    fn tie(
        &self,
        state: &mut State,
        own: &Arc<Dentry>,
        name: &[u8],
        common: &mut Option<Arc<Inode>>,
        names: u64,
        shared: &Arc<Shared>,
    ) -> io::Result<()> {
        match common {
            None => {
                let dentry = self.materialise(state, own, name, shared).ok_or(io::ErrorKind::InvalidData)?;
                if dentry.inode.is_directory() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                lock(&dentry.inode.attributes).links = names;
                *common = Some(Arc::clone(&dentry.inode));
            }
            Some(inode) => {
                let Lower::Loaded { object, .. } = &state.lower else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let index = object.position(name).map_err(|_| io::ErrorKind::InvalidData)?;
                let name: Arc<[u8]> = name.into();
                let dentry = Dentry::new(Some(Arc::clone(own)), Arc::clone(&name), Arc::clone(inode));
                state.names.insert(name, Slot { cookie: index as u64 + FIRST_COOKIE, dentry: Some(dentry) });
            }
        }
        Ok(())
    }

    /// The entry of a name, made from the object below when it is not in memory yet.
    fn materialise(
        &self,
        state: &mut State,
        own: &Arc<Dentry>,
        name: &[u8],
        shared: &Arc<Shared>,
    ) -> Option<Arc<Dentry>> {
        if let Some(slot) = state.names.get(name) {
            return slot.dentry.clone();
        }
        let Lower::Loaded { object, first_inode, .. } = &state.lower else { return None };
        let index = object.position(name).ok()?;
        let number = first_inode + index as u64;
        let inode = self.inode_of(&object.entries[index], number, own.inode.device, shared);
        let name: Arc<[u8]> = name.into();
        let dentry = Dentry::new(Some(Arc::clone(own)), Arc::clone(&name), Arc::new(inode));
        let cookie = index as u64 + FIRST_COOKIE;
        state.names.insert(name, Slot { cookie, dentry: Some(Arc::clone(&dentry)) });
        Some(dentry)
    }

    /// The inode that an entry below stands for.
    fn inode_of(&self, entry: &Entry, number: u64, device: u64, shared: &Arc<Shared>) -> Inode {
        inode_of(entry, number, device, shared, &self.budget)
    }
}

/// The inode that an entry of a finished tree stands for.
pub(super) fn inode_of(
    entry: &Entry,
    number: u64,
    device: u64,
    shared: &Arc<Shared>,
    budget: &Arc<Budget>,
) -> Inode {
    let budget = Arc::clone(budget);
    let body = match &entry.kind {
        NodeKind::File { content, size } => {
            Body::File(FileBody::clean(Arc::clone(shared), budget, *content, *size))
        }
        NodeKind::Directory { exact, content } => {
            Body::Directory(DirectoryBody::unloaded(budget, (*exact, *content)))
        }
        NodeKind::Symlink { target } => Body::Symlink(target.clone()),
        NodeKind::CharacterDevice { major, minor } => {
            Body::Device { character: true, major: *major, minor: *minor }
        }
        NodeKind::BlockDevice { major, minor } => {
            Body::Device { character: false, major: *major, minor: *minor }
        }
        NodeKind::Fifo => Body::Fifo,
        NodeKind::Socket => Body::Socket,
    };
    Inode::new(number, device, body, Attributes::of_base(&entry.metadata))
}

impl State {
    fn fetch(&mut self, ids: (ExactId, ContentTreeId), shared: &Shared) -> io::Result<Arc<Directory>> {
        let object = shared.store.directory(&ids.0)?;
        let count = object.entries.len();
        let first_inode = shared.inode_numbers(count as u64);
        self.count = count;
        self.subdirectories = subdirectories(&object);
        self.next_cookie = count as u64 + FIRST_COOKIE;
        self.lower = Lower::Loaded { ids, object: Arc::clone(&object), first_inode };
        Ok(object)
    }
}

fn subdirectories(object: &Directory) -> u64 {
    object.entries.iter().filter(|entry| entry.kind.is_directory()).count() as u64
}

/// Runs `act` on a directory's state: the one that is held already, or another that is locked for it.
fn with_state<T>(
    directory: &Arc<Dentry>,
    held: &Arc<Dentry>,
    held_state: &mut State,
    act: impl FnOnce(&DirectoryBody, &mut State) -> T,
) -> io::Result<T> {
    let Body::Directory(body) = &directory.inode.body else { return Err(io::ErrorKind::InvalidData.into()) };
    if Arc::ptr_eq(directory, held) {
        Ok(act(body, held_state))
    } else {
        Ok(act(body, &mut write(&body.state)))
    }
}
