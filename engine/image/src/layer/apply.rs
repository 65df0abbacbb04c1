//! Doing to a tree what a layer says.
//!
//! Whiteouts first, since they speak of lower layers only (layer.md), wherever in the archive they are; then the entries
//! in the archive's order. A parent that is missing is made. A parent that is a symbolic link is followed inside the
//! root, as Docker's and containerd's unpacking does in a chroot; the tree has nothing outside its root to reach.
//!
//! The text of a symbolic link is data and is kept whatever it says: Linux resolves `..` at the root to the root, Docker
//! images have such links, and a step of ours may make one, so a layer of our own has to come back as it was. Nothing
//! is followed but inside the tree, so a text like `../../../etc` reaches `/etc` of the image and nothing else.
//!
//! Refused with the entry named: a parent that is no directory, a loop of links on the way, a hard link out of the root,
//! to what is not there or to a directory.

use std::collections::HashSet;
use std::io;

use cooper_vfs::{ContentStore, Metadata, NodeKind, Tree, TreeBuilder};

use super::scan::{Operation, Operations};
use crate::error::{Error, Result};

/// Links that are followed on the way to one path: Linux's `MAXSYMLINKS`.
const MOST_LINKS: usize = 40;

/// Applies a layer to a tree, or to nothing.
///
/// # Errors
///
/// [`Error::Layer`] with the entry at fault, [`Error::Io`] from the store.
pub fn apply(store: &dyn ContentStore, parent: Option<&Tree>, operations: &Operations) -> Result<Tree> {
    let mut builder = match parent {
        Some(tree) => TreeBuilder::from_tree(store, tree),
        None => TreeBuilder::new(store),
    };
    let own: HashSet<&[u8]> = operations
        .list
        .iter()
        .filter(|operation| matches!(operation, Operation::Directory { .. } | Operation::Node { .. }))
        .map(Operation::path)
        .collect();
    let mut applier = Applier { builder: &mut builder, known_parent: None };
    for operation in &operations.list {
        applier.apply_whiteout(operation, &own)?;
    }
    for operation in &operations.list {
        applier.apply_entry(operation)?;
    }
    builder.finish().map_err(|error| failed("finish", error))
}

/// Applies an archive's entries below a directory of a tree that is being built, as `ADD` does. Whiteouts in the
/// operations are passed over; [`super::scan::scan_archive`] gives none.
///
/// # Errors
///
/// As [`apply`].
pub fn apply_below(builder: &mut TreeBuilder<'_>, directory: &[u8], operations: &Operations) -> Result<()> {
    let below = |path: &[u8]| -> Vec<u8> {
        let parts: Vec<&[u8]> = [directory, path].into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(&b'/')
    };
    let mut applier = Applier { builder, known_parent: None };
    for operation in &operations.list {
        let mut operation = operation.clone();
        match &mut operation {
            Operation::HardLink { path, target } => {
                *path = below(path);
                *target = below(target);
            }
            Operation::Directory { path, .. }
            | Operation::Node { path, .. }
            | Operation::Whiteout { path }
            | Operation::Opaque { path } => *path = below(path),
        }
        applier.apply_entry(&operation)?;
    }
    Ok(())
}

struct Applier<'b, 's> {
    builder: &'b mut TreeBuilder<'s>,
    /// The last parent as written that turned out to be a directory reached without links. Archives go directory
    /// by directory, so most entries need no walk.
    known_parent: Option<Vec<u8>>,
}

/// Where a path as written really is.
enum Place {
    At(Vec<u8>),
    /// A parent is not there, or is no directory.
    Nowhere,
}

/// What to do about parents that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Keep,
}

impl Applier<'_, '_> {
    fn apply_whiteout(&mut self, operation: &Operation, own: &HashSet<&[u8]>) -> Result<()> {
        let (Operation::Whiteout { path } | Operation::Opaque { path }) = operation else { return Ok(()) };
        let opaque = matches!(operation, Operation::Opaque { .. });
        if self.hidden_by_own_entry(path, opaque, own)? {
            return Ok(());
        }
        self.known_parent = None;
        match operation {
            Operation::Whiteout { .. } => {
                if let Place::At(place) = self.place(path, path, Missing::Keep)? {
                    self.builder.remove(&place).map_err(|error| failed("remove", error))?;
                }
            }
            _ => {
                // The directory itself may be reached through a link, too.
                let mut inside = path.clone();
                inside.extend_from_slice(if path.is_empty() { b"x" } else { b"/x" });
                if let Place::At(place) = self.place(path, &inside, Missing::Keep)? {
                    let directory = parent_of(&place);
                    self.builder.make_opaque(directory).map_err(|error| failed("clear", error))?;
                }
            }
        }
        Ok(())
    }

    /// Whether this layer itself replaces a link on the way to a whiteout's directory. Then the whiteout speaks of
    /// the new directory, in which lower layers have nothing.
    fn hidden_by_own_entry(&mut self, path: &[u8], opaque: bool, own: &HashSet<&[u8]>) -> Result<bool> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let ancestor = &path[..end];
            if !ancestor.is_empty() && own.contains(ancestor) {
                let entry = self.builder.get(ancestor).map_err(|error| failed("look up", error))?;
                let lower_is_directory = entry.is_some_and(|entry| entry.kind.is_directory());
                if !lower_is_directory && (opaque || end < path.len()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn apply_entry(&mut self, operation: &Operation) -> Result<()> {
        let written = operation.path();
        match operation {
            Operation::Whiteout { .. } | Operation::Opaque { .. } => Ok(()),
            Operation::Directory { path, metadata } if path.is_empty() => {
                self.builder.set_metadata(b"", metadata.clone()).map_err(|error| failed("change", error))
            }
            Operation::Directory { path, metadata } => {
                let place = self.make_place(path)?;
                self.clear_unless_directory(&place)?;
                self.builder.put_directory(&place, metadata.clone()).map_err(|error| failed("add", error))
            }
            Operation::Node { path, entry } => {
                let place = self.make_place(path)?;
                self.clear(&place)?;
                self.builder.put(&place, entry.clone()).map_err(|error| failed("add", error))
            }
            Operation::HardLink { path, target } => {
                let place = self.make_place(path)?;
                let known = self.known_parent.take();
                let source = match self.place(path, target, Missing::Keep)? {
                    Place::At(source) => source,
                    Place::Nowhere => return Err(missing_target(written, target)),
                };
                self.known_parent = known;
                let entry = self.builder.get(&source).map_err(|error| failed("look up", error))?;
                match entry {
                    None => return Err(missing_target(written, target)),
                    Some(entry) if entry.kind.is_directory() => {
                        return Err(Error::entry(written, "a hard link to a directory"));
                    }
                    Some(_) if source == place => return Err(Error::entry(written, "a hard link to itself")),
                    Some(_) => {}
                }
                self.clear(&place)?;
                if self.builder.get(&source).map_err(|error| failed("look up", error))?.is_none() {
                    return Err(Error::entry(written, "a hard link into the directory that it replaces"));
                }
                self.builder.hard_link(&place, &source).map_err(|error| failed("link", error))
            }
        }
    }

    /// Removes whatever is at a path.
    fn clear(&mut self, place: &[u8]) -> Result<()> {
        let there = self.builder.get(place).map_err(|error| failed("look up", error))?;
        if there.is_some_and(|entry| entry.kind.is_directory()) {
            self.known_parent = None;
        }
        self.builder.remove(place).map(drop).map_err(|error| failed("replace", error))
    }

    fn clear_unless_directory(&mut self, place: &[u8]) -> Result<()> {
        let there = self.builder.get(place).map_err(|error| failed("look up", error))?;
        if there.is_some_and(|entry| !entry.kind.is_directory()) {
            self.known_parent = None;
            self.builder.remove(place).map_err(|error| failed("replace", error))?;
        }
        Ok(())
    }

    fn make_place(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        match self.place(path, path, Missing::Make)? {
            Place::At(place) => Ok(place),
            Place::Nowhere => Err(Error::entry(path, "a parent that is no directory")),
        }
    }

    /// Resolves all components but the last; `written` names the entry in errors.
    fn place(&mut self, written: &[u8], path: &[u8], missing: Missing) -> Result<Place> {
        let parent = parent_of(path);
        if parent.is_empty() || self.known_parent.as_deref() == Some(parent) {
            return Ok(Place::At(path.to_vec()));
        }
        let name = &path[parent.len() + 1..];
        let mut links = 0;
        // Components that are still to be walked, the next one last.
        let mut ahead: Vec<Vec<u8>> = parent.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        let mut reached: Vec<u8> = Vec::new();
        while let Some(component) = ahead.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    let up = parent_of(&reached).len();
                    reached.truncate(up);
                    continue;
                }
                _ => {}
            }
            let before = reached.len();
            if before > 0 {
                reached.push(b'/');
            }
            reached.extend_from_slice(&component);
            let entry = self.builder.get(&reached).map_err(|error| failed("look up", error))?;
            match entry.map(|entry| entry.kind) {
                Some(NodeKind::Directory { .. }) => {}
                Some(NodeKind::Symlink { target }) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Error::entry(written, "a loop of symbolic links on the way"));
                    }
                    let keep = if target.starts_with(b"/") { 0 } else { before };
                    reached.truncate(keep);
                    ahead.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
                }
                Some(_) if missing == Missing::Make => {
                    return Err(Error::entry(written, "a parent that is no directory"));
                }
                None if missing == Missing::Make => {
                    let metadata = Metadata::root_owned(0o755);
                    self.builder.put_directory(&reached, metadata).map_err(|error| failed("add", error))?;
                }
                Some(_) | None => return Ok(Place::Nowhere),
            }
        }
        if links == 0 {
            self.known_parent = Some(parent.to_vec());
        }
        if !reached.is_empty() {
            reached.push(b'/');
        }
        reached.extend_from_slice(name);
        Ok(Place::At(reached))
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &path[..slash])
}

fn missing_target(written: &[u8], target: &[u8]) -> Error {
    Error::entry(written, format!("a hard link to `{}`, which is not there", crate::error::printable(target)))
}

fn failed(verb: &str, error: io::Error) -> Error {
    Error::io(format!("cannot {verb} a layer's entry"), error)
}
