//! Turns what was changed in memory into directory objects, children before parents.
//!
//! Whoever changes trees keeps, of each directory it loaded, the object below and the names that differ or were
//! looked at ([`Listing`]). [`assemble`] works up from the leaves without recursion, so depth costs heap and not
//! stack. A directory that comes out as it was is not stored again. Hard-link groups are found on the way: the first
//! directory at which all names of a node have come together is the lowest one that contains them all.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::codec::GROUP_PATH_MAX;
use super::{ContentTreeId, Directory, Entry, ExactId, Metadata, NodeKind};
use crate::content::ContentStore;
use crate::path;

/// Both ids of a directory object.
pub(crate) type Ids = (ExactId, ContentTreeId);

/// One name that a listing says something about.
pub(crate) enum Part<D> {
    /// The name is gone.
    Removed,
    /// Something that is no directory. `link` is the node's key when it has more than one name.
    Leaf { metadata: Metadata, kind: NodeKind, link: Option<u64> },
    /// A directory nothing of which is in memory.
    Kept { metadata: Metadata, ids: Ids },
    /// A directory to assemble first.
    Open { metadata: Metadata, directory: D },
    /// As `Open`, but left out when nothing is in it.
    Optional { metadata: Metadata, directory: D },
}

/// A directory as it is in memory.
pub(crate) struct Listing<D> {
    /// The object below, whose names show unless `parts` says otherwise.
    pub(crate) base: Option<(Ids, Arc<Directory>)>,
    /// What differs or was looked at, sorted by name.
    pub(crate) parts: Vec<(Vec<u8>, Part<D>)>,
}

/// What is being assembled.
pub(crate) trait Forest {
    /// Names one directory in memory.
    type Directory;

    /// The directory's present state.
    fn list(&self, directory: &Self::Directory) -> io::Result<Listing<Self::Directory>>;

    /// How many names the node with this key has.
    fn names(&self, key: u64) -> usize;
}

/// Names, relative to some directory, of nodes that have others elsewhere.
type OpenLinks = Vec<(u64, Vec<u8>)>;

/// A directory whose children are being assembled.
struct Frame<D> {
    name: Vec<u8>,
    metadata: Option<Metadata>,
    optional: bool,
    base: Option<(Ids, Arc<Directory>)>,
    todo: std::vec::IntoIter<(Vec<u8>, Part<D>)>,
    done: Vec<(Vec<u8>, Option<Entry>)>,
    links: OpenLinks,
}

/// Stores every directory that changed, and returns the ids of `root`.
pub(crate) fn assemble<F: Forest>(
    store: &dyn ContentStore,
    forest: &F,
    root: &F::Directory,
) -> io::Result<Ids> {
    let mut stack = vec![frame(forest, Vec::new(), None, false, root)?];
    loop {
        // The stack is never empty here: its last frame leaves only by `return` or into the one below it.
        let Some(top) = stack.last_mut() else { return Err(io::ErrorKind::InvalidData.into()) };
        match top.todo.next() {
            Some((name, Part::Removed)) => top.done.push((name, None)),
            Some((name, Part::Leaf { metadata, kind, link })) => {
                top.links.extend(link.map(|key| (key, name.clone())));
                let entry = Entry { name: name.clone(), metadata, kind };
                top.done.push((name, Some(entry)));
            }
            Some((name, Part::Kept { metadata, ids })) => {
                let kind = NodeKind::Directory { exact: ids.0, content: ids.1 };
                top.done.push((name.clone(), Some(Entry { name, metadata, kind })));
            }
            Some((name, Part::Open { metadata, directory })) => {
                stack.push(frame(forest, name, Some(metadata), false, &directory)?);
            }
            Some((name, Part::Optional { metadata, directory })) => {
                stack.push(frame(forest, name, Some(metadata), true, &directory)?);
            }
            None => {
                let Some(frame) = stack.pop() else { continue };
                let (name, metadata, optional) = (frame.name.clone(), frame.metadata.clone(), frame.optional);
                let is_root = stack.is_empty();
                let (ids, links, empty) = close(store, forest, frame, is_root)?;
                let (Some(parent), Some(metadata)) = (stack.last_mut(), metadata) else { return Ok(ids) };
                if optional && empty {
                    parent.done.push((name, None));
                    continue;
                }
                parent.links.extend(links.into_iter().map(|(key, path)| (key, path::join(&name, &path))));
                let kind = NodeKind::Directory { exact: ids.0, content: ids.1 };
                parent.done.push((name.clone(), Some(Entry { name, metadata, kind })));
            }
        }
    }
}

fn frame<F: Forest>(
    forest: &F,
    name: Vec<u8>,
    metadata: Option<Metadata>,
    optional: bool,
    directory: &F::Directory,
) -> io::Result<Frame<F::Directory>> {
    let Listing { base, parts } = forest.list(directory)?;
    Ok(Frame { name, metadata, optional, base, todo: parts.into_iter(), done: Vec::new(), links: Vec::new() })
}

/// Makes the directory object of a frame whose children are done.
fn close<F: Forest>(
    store: &dyn ContentStore,
    forest: &F,
    frame: Frame<F::Directory>,
    is_root: bool,
) -> io::Result<(Ids, OpenLinks, bool)> {
    let (hard_links, open) = close_groups(frame.links, |key| forest.names(key), is_root);
    if let Some((ids, base)) = &frame.base {
        let same = |(name, entry): &(Vec<u8>, Option<Entry>)| base.get(name) == entry.as_ref();
        if base.hard_links == hard_links && frame.done.iter().all(same) {
            return Ok((*ids, open, base.entries.is_empty()));
        }
    }
    if hard_links.iter().flatten().any(|path| path.len() > GROUP_PATH_MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a hard link lies too deep below the others"));
    }
    let below = frame.base.as_ref().map_or(&[][..], |(_, base)| &base.entries);
    let entries = merge(below, frame.done);
    let directory = Directory { entries, hard_links };
    let ids = store.put_directory(&directory)?;
    Ok((ids, open, directory.entries.is_empty()))
}

/// The entries below with those above in their places; both are sorted.
fn merge(below: &[Entry], above: Vec<(Vec<u8>, Option<Entry>)>) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(below.len() + above.len());
    let mut below = below.iter().peekable();
    for (name, entry) in above {
        while let Some(lower) = below.next_if(|lower| lower.name < name) {
            merged.push(lower.clone());
        }
        below.next_if(|lower| lower.name == name);
        merged.extend(entry);
    }
    merged.extend(below.cloned());
    merged
}

/// Splits off the groups whose names are all there. At the root whatever is left has no other names.
fn close_groups(
    open: OpenLinks,
    names: impl Fn(u64) -> usize,
    is_root: bool,
) -> (Vec<Vec<Vec<u8>>>, OpenLinks) {
    let mut by_node: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    for (key, path) in open {
        by_node.entry(key).or_default().push(path);
    }
    let (mut groups, mut rest) = (Vec::new(), Vec::new());
    for (key, mut paths) in by_node {
        if is_root || paths.len() >= names(key) {
            if paths.len() > 1 {
                paths.sort_by(|a, b| path::tree_order(a, b));
                groups.push(paths);
            }
        } else {
            rest.extend(paths.into_iter().map(|path| (key, path)));
        }
    }
    groups.sort_by(|a, b| path::tree_order(&a[0], &b[0]));
    (groups, rest)
}
