//! Random calls on a root file system and on a plain model: the same names, bytes, modes and modification times in
//! the finished tree, step after step, and changes that lead from one tree to the next.
//!
//! The model is a table of nodes and is meant to be obviously right. It needs no host, so times are checked here; errnos,
//! owners and permissions are compared with Linux in `linux.rs`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cooper_vfs::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Mkdir(String),
    Write(String, u8, usize),
    Symlink(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, bool),
    Chmod(String, u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Directory(BTreeMap<String, usize>),
    Symlink(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    kind: Kind,
    mode: u16,
    mtime: i64,
}

/// Node 0 is the root. Nodes are never taken out of the table.
struct Model {
    nodes: Vec<Node>,
}

/// Where a path leads: the directory, the name, and the node if there is one.
struct Place {
    directory: usize,
    name: String,
    node: Option<usize>,
}

impl Model {
    fn names(&self, node: usize) -> Option<&BTreeMap<String, usize>> {
        match &self.nodes[node].kind {
            Kind::Directory(names) => Some(names),
            _ => None,
        }
    }

    fn names_mut(&mut self, node: usize, now: i64) -> &mut BTreeMap<String, usize> {
        self.nodes[node].mtime = now;
        match &mut self.nodes[node].kind {
            Kind::Directory(names) => names,
            _ => panic!("a directory was expected"),
        }
    }

    fn find(&self, path: &str, follow: bool) -> Option<Place> {
        self.find_from(0, path, follow, &mut 0)
    }

    fn find_from(&self, base: usize, path: &str, follow: bool, links: &mut u32) -> Option<Place> {
        let (mut directory, mut names) = (base, path.split('/').peekable());
        while let Some(name) = names.next() {
            let node = self.names(directory)?.get(name).copied();
            let is_last = names.peek().is_none();
            let mut place = Place { directory, name: name.to_owned(), node };
            if let Some(Kind::Symlink(target)) = node.map(|node| &self.nodes[node].kind)
                && (follow || !is_last)
            {
                *links += 1;
                if *links > 40 {
                    return None;
                }
                place = self.find_from(directory, target, true, links)?;
            }
            if is_last {
                return Some(place);
            }
            directory = place.node?;
        }
        None
    }

    fn add(&mut self, place: &Place, kind: Kind, mode: u16, now: i64) {
        self.nodes.push(Node { kind, mode, mtime: now });
        let node = self.nodes.len() - 1;
        self.names_mut(place.directory, now).insert(place.name.clone(), node);
    }

    fn is_within(&self, node: usize, ancestor: usize) -> bool {
        node == ancestor
            || self
                .names(ancestor)
                .is_some_and(|names| names.values().any(|child| self.is_within(node, *child)))
    }

    /// Makes a call; `None` when it fails.
    fn call(&mut self, call: &Call, now: i64) -> Option<()> {
        match call {
            Call::Mkdir(path) => {
                let place = self.find(path, false).filter(|place| place.node.is_none())?;
                self.add(&place, Kind::Directory(BTreeMap::new()), 0o755, now);
            }
            Call::Write(path, byte, length) => {
                let place = self.find(path, true)?;
                let bytes = vec![*byte; *length];
                match place.node {
                    None => self.add(&place, Kind::File(bytes), 0o644, now),
                    Some(node) => match &mut self.nodes[node] {
                        Node { kind: Kind::File(old), mtime, .. } => (*old, *mtime) = (bytes, now),
                        _ => return None,
                    },
                }
            }
            Call::Symlink(target, path) => {
                let place = self.find(path, false).filter(|place| place.node.is_none())?;
                self.add(&place, Kind::Symlink(target.clone()), 0o777, now);
            }
            Call::Link(old, new) => {
                let node = self.find(old, false)?.node.filter(|node| self.names(*node).is_none())?;
                let place = self.find(new, false).filter(|place| place.node.is_none())?;
                self.names_mut(place.directory, now).insert(place.name, node);
            }
            Call::Unlink(path) => {
                let place = self.find(path, false)?;
                place.node.filter(|node| self.names(*node).is_none())?;
                self.names_mut(place.directory, now).remove(&place.name);
            }
            Call::Rmdir(path) => {
                let place = self.find(path, false)?;
                self.names(place.node?).filter(|names| names.is_empty())?;
                self.names_mut(place.directory, now).remove(&place.name);
            }
            Call::Rename(old, new, exchange) => {
                let (old, new) = (self.find(old, false)?, self.find(new, false)?);
                let node = old.node?;
                if self.is_within(new.directory, node) {
                    return None;
                }
                match new.node {
                    None if *exchange => return None,
                    Some(other) if self.is_within(old.directory, other) => return None,
                    Some(other) if other == node => return Some(()),
                    Some(other) if !exchange => match (self.names(node), self.names(other)) {
                        (None, None) => {}
                        (Some(_), Some(names)) if names.is_empty() => {}
                        _ => return None,
                    },
                    _ => {}
                }
                self.names_mut(old.directory, now).remove(&old.name);
                self.names_mut(new.directory, now).insert(new.name, node);
                if *exchange {
                    self.names_mut(old.directory, now).insert(old.name, new.node?);
                }
            }
            Call::Chmod(path, mode) => {
                let node = self.find(path, true)?.node?;
                self.nodes[node].mode = *mode;
            }
        }
        Some(())
    }

    /// Every path with its node and the first path of the same node.
    fn walk(&self) -> BTreeMap<Vec<u8>, (Node, Vec<u8>)> {
        let mut seen: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut walked = BTreeMap::new();
        let mut pending = vec![(Vec::new(), 0)];
        while let Some((path, node)) = pending.pop() {
            let names = self.names(node).into_iter().flatten().rev();
            pending.extend(names.map(|(name, node)| (path::join(&path, name.as_bytes()), *node)));
            let first = seen.entry(node).or_insert_with(|| path.clone()).clone();
            let mut plain = self.nodes[node].clone();
            if let Kind::Directory(names) = &mut plain.kind {
                names.clear();
            }
            walked.insert(path, (plain, first));
        }
        walked
    }
}

fn walk_tree(store: &dyn ContentStore, tree: &Tree) -> BTreeMap<Vec<u8>, (Node, Vec<u8>)> {
    let root = WalkItem { path: Vec::new(), entry: tree.root_entry(), link_to: None };
    let items = std::iter::once(Ok(root)).chain(tree.walk(store));
    let node = |item: std::io::Result<WalkItem>| {
        let WalkItem { path, entry, link_to } = item.unwrap();
        let kind = match &entry.kind {
            NodeKind::File { content, .. } => Kind::File(store.open(content).unwrap().read_all().unwrap()),
            NodeKind::Symlink { target } => Kind::Symlink(String::from_utf8(target.clone()).unwrap()),
            _ => Kind::Directory(BTreeMap::new()),
        };
        assert_eq!(entry.metadata.mtime.nanoseconds, 0);
        let node = Node { kind, mode: entry.metadata.mode, mtime: entry.metadata.mtime.seconds };
        let first = link_to.unwrap_or_else(|| path.clone());
        (path, (node, first))
    };
    items.map(node).collect()
}

/// A clock that the test moves.
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: self.0.load(Ordering::Relaxed), nanoseconds: 500 }
    }
}

fn make(fs: &RootFs, call: &Call) -> Result<(), Errno> {
    let (root, credentials) = (fs.root(), Credentials::root());
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
    match call {
        Call::Mkdir(path) => fs.make_directory(&walk, &root, path.as_bytes(), 0o755).map(drop),
        Call::Write(path, byte, length) => {
            let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
            let opened = fs.open(&walk, &root, path.as_bytes(), flags, 0o644)?.opened;
            let Opened::File(file) = opened else { return Err(Errno::INVAL) };
            file.write_at(0, &vec![*byte; *length]).map(drop)
        }
        Call::Symlink(target, path) => fs.symlink(&walk, target.as_bytes(), &root, path.as_bytes()).map(drop),
        Call::Link(old, new) => fs.link(&walk, &root, old.as_bytes(), Follow::No, &root, new.as_bytes()),
        Call::Unlink(path) => fs.unlink(&walk, &root, path.as_bytes()),
        Call::Rmdir(path) => fs.remove_directory(&walk, &root, path.as_bytes()),
        Call::Rename(old, new, exchange) => {
            let flags = if *exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            fs.rename(&walk, &root, old.as_bytes(), &root, new.as_bytes(), flags)
        }
        Call::Chmod(path, mode) => {
            fs.resolve(&walk, &root, path.as_bytes(), Follow::Yes)?.set_mode(&walk, *mode)
        }
    }
}

fn call() -> impl Strategy<Value = Call> {
    let path = || {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
            .prop_map(|names| names.join("/"))
    };
    prop_oneof![
        4 => path().prop_map(Call::Mkdir),
        4 => (path(), any::<u8>(), prop_oneof![Just(0_usize), Just(3), Just(70_000)])
            .prop_map(|(path, byte, length)| Call::Write(path, byte, length)),
        2 => (path(), path()).prop_map(|(target, path)| Call::Symlink(target, path)),
        3 => (path(), path()).prop_map(|(old, new)| Call::Link(old, new)),
        2 => path().prop_map(Call::Unlink),
        2 => path().prop_map(Call::Rmdir),
        5 => (path(), path(), prop::bool::weighted(0.3)).prop_map(|(old, new, exchange)| Call::Rename(old, new, exchange)),
        1 => (path(), 0o600..0o604_u16).prop_map(|(path, mode)| Call::Chmod(path, mode)),
    ]
}

fn replay(store: &dyn ContentStore, lower: &Tree, changes: &[Change]) -> Tree {
    let mut builder = TreeBuilder::from_tree(store, lower);
    for change in changes {
        match change {
            Change::Remove { path } => assert!(builder.remove(path).unwrap()),
            Change::Opaque { path } => builder.make_opaque(path).unwrap(),
            Change::Upsert { path, link_to: Some(target), .. } => builder.hard_link(path, target).unwrap(),
            Change::Upsert { path, entry, .. } if path.is_empty() => {
                builder.set_metadata(path, entry.metadata.clone()).unwrap();
            }
            Change::Upsert { path, entry, .. } if entry.kind.is_directory() => {
                builder.put_directory(path, entry.metadata.clone()).unwrap();
            }
            Change::Upsert { path, entry, .. } => builder.put(path, entry.clone()).unwrap(),
        }
    }
    builder.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_calls_do_what_the_model_does(steps in prop::collection::vec(prop::collection::vec(call(), 1..30), 1..4)) {
        let store = Arc::new(MemoryStore::new());
        let mut tree = Tree::empty(&*store).unwrap();
        let clock = Arc::new(Ticks(AtomicI64::new(0)));
        let root = Node { kind: Kind::Directory(BTreeMap::new()), mode: 0o755, mtime: 0 };
        let mut model = Model { nodes: vec![root] };
        for step in &steps {
            let fs = RootFs::new(tree.clone(), Arc::clone(&store) as _, Arc::clone(&clock) as _, RootFsLimits::ORDINARY).unwrap();
            for call in step {
                let now = clock.0.fetch_add(1, Ordering::Relaxed) + 1;
                let (expected, found) = (model.call(call, now), make(&fs, call));
                prop_assert_eq!(found.is_ok(), expected.is_some(), "{:?}: {:?}", call, found);
            }
            let done = fs.finish().unwrap();
            prop_assert_eq!(walk_tree(&*store, &done.tree), model.walk());
            prop_assert_eq!(replay(&*store, &tree, &done.changes).id(), done.tree.id());
            tree = done.tree;
        }
    }
}
