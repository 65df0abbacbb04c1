//! Compares trees.
//!
//! Two passes. The first goes through the directories that differ, side by side, and collects names that came,
//! went or changed, and the hard-link groups recorded there. The second looks at those groups: a file whose entry is
//! the same still has to be written again when its names were tied together differently. Of the parts into which a
//! lower group fell, the first that is otherwise unchanged stays; the others are written anew, each with all its
//! names, so that a link never points outside the list of changes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::{Change, Directory, Entry, ExactId, NodeKind, Tree};
use crate::content::ContentStore;
use crate::path;

/// Compares two trees. `replaced` tells whether a directory, present in both, is not the one it was.
pub(crate) fn diff(
    store: &dyn ContentStore,
    lower: &Tree,
    upper: &Tree,
    replaced: &dyn Fn(&[u8]) -> bool,
) -> io::Result<Vec<Change>> {
    let mut diff = Diff {
        store,
        lower,
        upper,
        replaced,
        changes: Vec::new(),
        upserts: HashMap::new(),
        groups: [Vec::new(), Vec::new()],
    };
    diff.compare_root()?;
    diff.settle_groups()?;
    let Diff { mut changes, .. } = diff;
    let rank = |change: &Change| matches!(change, Change::Opaque { .. });
    changes.sort_by(|a, b| path::tree_order(a.path(), b.path()).then_with(|| rank(a).cmp(&rank(b))));
    Ok(changes)
}

type Group = Vec<Vec<u8>>;
const LOWER: usize = 0;
const UPPER: usize = 1;

struct Diff<'a> {
    store: &'a dyn ContentStore,
    lower: &'a Tree,
    upper: &'a Tree,
    replaced: &'a dyn Fn(&[u8]) -> bool,
    changes: Vec<Change>,
    /// Where the upsert of a path is in `changes`.
    upserts: HashMap<Vec<u8>, usize>,
    /// Groups of the lower and of the upper tree, from the directories that differ; whole paths, sorted.
    groups: [Vec<Group>; 2],
}

/// A directory of the upper tree to compare with one of the lower tree, or to take whole.
struct Pair {
    path: Vec<u8>,
    lower: Option<ExactId>,
    upper: ExactId,
}

impl Diff<'_> {
    fn compare_root(&mut self) -> io::Result<()> {
        let (lower, upper) = (self.lower.root_entry(), self.upper.root_entry());
        let mut pending = Vec::new();
        self.compare_entries(Vec::new(), Some(&lower), &upper, &mut pending)?;
        while let Some(pair) = pending.pop() {
            self.compare_directories(pair, &mut pending)?;
        }
        Ok(())
    }

    fn compare_directories(&mut self, pair: Pair, pending: &mut Vec<Pair>) -> io::Result<()> {
        let upper = self.store.directory(&pair.upper)?;
        let lower = match pair.lower {
            Some(id) => self.store.directory(&id)?,
            None => Arc::default(),
        };
        self.note_groups(LOWER, &pair.path, &lower);
        self.note_groups(UPPER, &pair.path, &upper);
        let mut old = lower.entries.iter().peekable();
        for entry in &upper.entries {
            while let Some(gone) = old.next_if(|old| old.name < entry.name) {
                self.changes.push(Change::Remove { path: path::join(&pair.path, &gone.name) });
            }
            let before = old.next_if(|old| old.name == entry.name);
            self.compare_entries(path::join(&pair.path, &entry.name), before, entry, pending)?;
        }
        for gone in old {
            self.changes.push(Change::Remove { path: path::join(&pair.path, &gone.name) });
        }
        Ok(())
    }

    fn compare_entries(
        &mut self,
        path: Vec<u8>,
        lower: Option<&Entry>,
        upper: &Entry,
        pending: &mut Vec<Pair>,
    ) -> io::Result<()> {
        if lower.is_some_and(|lower| lower.same_node(upper)) {
            return Ok(());
        }
        let NodeKind::Directory { exact, .. } = upper.kind else {
            let same_content = lower.is_some_and(|lower| lower.kind == upper.kind);
            self.upsert(path, upper.clone(), same_content);
            return Ok(());
        };
        let mut below = match lower.map(|lower| (&lower.kind, &lower.metadata)) {
            Some((NodeKind::Directory { exact, .. }, metadata)) => {
                if *metadata != upper.metadata {
                    self.upsert(path.clone(), upper.clone(), true);
                }
                Some(*exact)
            }
            _ => {
                self.upsert(path.clone(), upper.clone(), false);
                None
            }
        };
        if below == Some(exact) {
            return Ok(());
        }
        if let Some(id) = below
            && (self.replaced)(&path)
            && self.nothing_in_common(&id, &exact)?
        {
            self.changes.push(Change::Opaque { path: path.clone() });
            below = None;
        }
        pending.push(Pair { path, lower: below, upper: exact });
        Ok(())
    }

    /// Tells whether a non-empty lower directory has no name whose node is also in the upper one.
    fn nothing_in_common(&self, lower: &ExactId, upper: &ExactId) -> io::Result<bool> {
        let mut pending = vec![(*lower, *upper)];
        let mut is_root = true;
        while let Some((lower, upper)) = pending.pop() {
            let (lower, upper) = (self.store.directory(&lower)?, self.store.directory(&upper)?);
            if is_root && lower.entries.is_empty() {
                return Ok(false);
            }
            is_root = false;
            for (old, new) in lower.entries.iter().filter_map(|old| Some((old, upper.get(&old.name)?))) {
                match (&old.kind, &new.kind) {
                    (NodeKind::Directory { exact: old, .. }, NodeKind::Directory { exact: new, .. })
                        if old != new =>
                    {
                        pending.push((*old, *new));
                    }
                    _ if old.same_node(new) => return Ok(false),
                    _ => {}
                }
            }
        }
        Ok(true)
    }

    fn note_groups(&mut self, side: usize, base: &[u8], directory: &Directory) {
        let whole = |group: &Group| group.iter().map(|member| path::join(base, member)).collect();
        self.groups[side].extend(directory.hard_links.iter().map(whole));
    }

    fn upsert(&mut self, path: Vec<u8>, entry: Entry, same_content: bool) {
        self.upserts.insert(path.clone(), self.changes.len());
        self.changes.push(Change::Upsert { path, entry, link_to: None, same_content });
    }

    fn settle_groups(&mut self) -> io::Result<()> {
        let [lower_groups, upper_groups] = std::mem::take(&mut self.groups);
        let group_of: HashMap<&[u8], usize> = upper_groups
            .iter()
            .enumerate()
            .flat_map(|(index, group)| group.iter().map(move |member| (member.as_slice(), index)))
            .collect();
        let mut kept: HashSet<usize> = HashSet::new();
        for lower_group in &lower_groups {
            let mut stays = false;
            for member in lower_group {
                if self.upserts.contains_key(member) {
                    continue;
                }
                if let Some(&index) = group_of.get(member.as_slice()) {
                    let whole = |member: &Vec<u8>| {
                        !self.upserts.contains_key(member)
                            && lower_group.binary_search_by(|other| path::tree_order(other, member)).is_ok()
                    };
                    if !kept.contains(&index) && !stays && upper_groups[index].iter().all(whole) {
                        kept.insert(index);
                        stays = true;
                    }
                } else if let Some(entry) = self.unchanged_at(member)? {
                    // A name that is alone now: it stays if nothing else of its group did.
                    if stays {
                        self.upsert(member.clone(), entry, true);
                    }
                    stays = true;
                }
            }
        }
        for (index, group) in upper_groups.iter().enumerate() {
            if !kept.contains(&index) {
                self.write_group(group)?;
            }
        }
        Ok(())
    }

    /// The entry at the path, when it is a file that both trees have.
    fn unchanged_at(&self, path: &[u8]) -> io::Result<Option<Entry>> {
        let Some(upper) = self.upper.lookup(self.store, path)? else { return Ok(None) };
        let lower = self.lower.lookup(self.store, path)?;
        Ok(lower.filter(|lower| !upper.kind.is_directory() && lower.same_node(&upper)))
    }

    /// Writes all names of a group, the first with the node, the others as links to it.
    fn write_group(&mut self, group: &Group) -> io::Result<()> {
        for member in group {
            if !self.upserts.contains_key(member) {
                let entry = self.upper.lookup(self.store, member)?.ok_or(io::ErrorKind::InvalidData)?;
                let lower = self.lower.lookup(self.store, member)?;
                let same_content = lower.is_some_and(|lower| lower.kind == entry.kind);
                self.upsert(member.clone(), entry, same_content);
            }
            let index = self.upserts[member];
            if let Change::Upsert { link_to, .. } = &mut self.changes[index]
                && *member != group[0]
            {
                *link_to = Some(group[0].clone());
            }
        }
        Ok(())
    }
}
