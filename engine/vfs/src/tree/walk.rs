//! Reading trees in order.

use std::io;

use super::{Entry, Tree};
use crate::content::ContentStore;
use crate::path;

/// One path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkItem {
    /// Clean path from the tree's root.
    pub path: Vec<u8>,
    /// What is there.
    pub entry: Entry,
    /// When this is a further name of a hard-linked file: the path, seen before, of its first name.
    pub link_to: Option<Vec<u8>>,
}

/// Everything below a tree's root, in tree order.
#[derive(Debug)]
pub struct TreeWalk<'s> {
    store: &'s dyn ContentStore,
    /// What is still to come, the next one last.
    stack: Vec<(Vec<u8>, Entry)>,
    start: Option<Tree>,
    leaders: std::collections::HashMap<Vec<u8>, Vec<u8>>,
}

impl<'s> TreeWalk<'s> {
    pub(super) fn new(tree: &Tree, store: &'s dyn ContentStore) -> Self {
        Self {
            store,
            stack: Vec::new(),
            start: Some(tree.clone()),
            leaders: std::collections::HashMap::new(),
        }
    }

    fn enter(&mut self, base: &[u8], directory: &super::ExactId) -> io::Result<()> {
        let directory = self.store.directory(directory)?;
        for group in &directory.hard_links {
            let mut members = group.iter().map(|member| path::join(base, member));
            let Some(leader) = members.next() else { continue };
            self.leaders.extend(members.map(|member| (member, leader.clone())));
        }
        let entries = directory.entries.iter().rev();
        self.stack.extend(entries.map(|entry| (path::join(base, &entry.name), entry.clone())));
        Ok(())
    }

    /// Passes over everything below the directory that [`next`](Iterator::next) gave last.
    pub fn skip_directory(&mut self, path: &[u8]) {
        while self.stack.last().is_some_and(|(next, _)| path::is_within(next, path)) {
            self.stack.pop();
        }
    }

    fn step(&mut self) -> io::Result<Option<WalkItem>> {
        if let Some(tree) = self.start.take() {
            self.enter(b"", &tree.exact)?;
        }
        let Some((path, entry)) = self.stack.pop() else { return Ok(None) };
        if let super::NodeKind::Directory { exact, .. } = &entry.kind {
            self.enter(&path, exact)?;
        }
        let link_to = self.leaders.remove(&path);
        Ok(Some(WalkItem { path, entry, link_to }))
    }
}

impl Iterator for TreeWalk<'_> {
    type Item = io::Result<WalkItem>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step();
        if item.is_err() {
            self.stack.clear();
        }
        item.transpose()
    }
}

pub(super) fn lookup(tree: &Tree, store: &dyn ContentStore, path: &[u8]) -> io::Result<Option<Entry>> {
    let mut entry = tree.root_entry();
    for name in path::components(&path::clean(path)) {
        let super::NodeKind::Directory { exact, .. } = &entry.kind else { return Ok(None) };
        match store.directory(exact)?.get(name) {
            Some(next) => entry = next.clone(),
            None => return Ok(None),
        }
    }
    Ok(Some(entry))
}

pub(super) fn lookup_following(
    tree: &Tree,
    store: &dyn ContentStore,
    path: &[u8],
) -> io::Result<Option<(Vec<u8>, Entry)>> {
    let mut pending: Vec<Vec<u8>> = path::components(path).rev().map(<[u8]>::to_vec).collect();
    let mut reached: Vec<Entry> = vec![tree.root_entry()];
    let mut links = 0;
    while let Some(name) = pending.pop() {
        let super::NodeKind::Directory { exact, .. } = &reached[reached.len() - 1].kind else {
            return Ok(None);
        };
        match name.as_slice() {
            b"." => continue,
            b".." => {
                if reached.len() > 1 {
                    reached.pop();
                }
                continue;
            }
            _ => {}
        }
        let Some(entry) = store.directory(exact)?.get(&name).cloned() else { return Ok(None) };
        let super::NodeKind::Symlink { target } = &entry.kind else {
            reached.push(entry);
            continue;
        };
        links += 1;
        if links > path::LINKS_MAX {
            return Ok(None);
        }
        if path::is_absolute(target) {
            reached.truncate(1);
        }
        pending.extend(path::components(target).rev().map(<[u8]>::to_vec));
    }
    let names: Vec<&[u8]> = reached[1..].iter().map(|entry| entry.name.as_slice()).collect();
    let path = names.join(&b'/');
    Ok(reached.pop().map(|entry| (path, entry)))
}
