//! Makes trees from trees without a root file system: how layers and `COPY` do it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::assemble::{Forest, Ids, Listing, Part, assemble};
use super::codec::check_node;
use super::{Directory, Entry, Metadata, NodeKind, Tree};
use crate::content::ContentStore;
use crate::path;

/// Changes a tree name by name and gives the next one.
///
/// Paths are clean (see [`crate::path`]); no symbolic link is followed. Only directories that are touched are
/// loaded, and those that hold other names of files whose hard-link group belongs to a touched directory.
#[derive(Debug)]
pub struct TreeBuilder<'s> {
    store: &'s dyn ContentStore,
    nodes: Vec<Node>,
}

/// Index of a node in the builder; the root is 0. Two names of one node are hard links.
type Index = usize;
const ROOT: Index = 0;

#[derive(Debug)]
struct Node {
    metadata: Metadata,
    body: Body,
    names: usize,
}

#[derive(Debug)]
enum Body {
    Leaf(NodeKind),
    Unloaded(Ids),
    Loaded(Loaded),
}

#[derive(Debug, Default)]
struct Loaded {
    base: Option<(Ids, Arc<Directory>)>,
    /// Names that were looked at, `None` for removed ones.
    names: BTreeMap<Vec<u8>, Option<Index>>,
}

/// Why a change cannot be made.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("`{0}` is not a clean path below the root")]
    Path(String),
    #[error("`{0}` does not exist")]
    Missing(String),
    #[error("`{0}` is not a directory")]
    NotDirectory(String),
    #[error("`{0}` is a directory")]
    IsDirectory(String),
}

impl From<BuildError> for io::Error {
    fn from(error: BuildError) -> Self {
        let kind = match error {
            BuildError::Path(_) => io::ErrorKind::InvalidInput,
            BuildError::Missing(_) => io::ErrorKind::NotFound,
            BuildError::NotDirectory(_) => io::ErrorKind::NotADirectory,
            BuildError::IsDirectory(_) => io::ErrorKind::IsADirectory,
        };
        Self::new(kind, error)
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl<'s> TreeBuilder<'s> {
    /// Starts from nothing: a root directory with mode 0755, root's, at the epoch.
    pub fn new(store: &'s dyn ContentStore) -> Self {
        let body = Body::Loaded(Loaded::default());
        Self { store, nodes: vec![Node { metadata: Metadata::root_owned(0o755), body, names: 1 }] }
    }

    /// Starts from a finished tree.
    pub fn from_tree(store: &'s dyn ContentStore, tree: &Tree) -> Self {
        let body = Body::Unloaded((tree.exact, tree.content));
        Self { store, nodes: vec![Node { metadata: tree.root.clone(), body, names: 1 }] }
    }

    /// Puts a node at a path, in place of anything that is there; the entry's own name is not looked at.
    ///
    /// A directory's ids say what is in it, so this attaches whole subtrees. `NotFound` and `NotADirectory` speak of
    /// the parent; the root itself can only be replaced by a directory. `InvalidData` for what no tree can record.
    pub fn put(&mut self, path: &[u8], entry: Entry) -> io::Result<()> {
        check_node(&entry.metadata, Some(&entry.kind))?;
        let body = match entry.kind {
            NodeKind::Directory { exact, content } => Body::Unloaded((exact, content)),
            kind => Body::Leaf(kind),
        };
        let Some((parent, name)) = path::split(path) else {
            if matches!(body, Body::Leaf(_)) {
                return Err(BuildError::NotDirectory(text(path)).into());
            }
            self.nodes.truncate(1);
            self.nodes[ROOT] = Node { metadata: entry.metadata, body, names: 1 };
            return Ok(());
        };
        let parent = self.directory_at(parent)?;
        let index = self.add(Node { metadata: entry.metadata, body, names: 0 });
        self.set_name(parent, name, Some(index), path)
    }

    /// Makes a directory with this metadata; one that exists keeps what is in it.
    pub fn put_directory(&mut self, path: &[u8], metadata: Metadata) -> io::Result<()> {
        check_node(&metadata, None)?;
        if let Some(index) = self.find(path)?
            && self.is_directory(index)
        {
            self.nodes[index].metadata = metadata;
            return Ok(());
        }
        let (parent, name) = path::split(path).ok_or_else(|| BuildError::Path(text(path)))?;
        let parent = self.directory_at(parent)?;
        let index = self.add(Node { metadata, body: Body::Loaded(Loaded::default()), names: 0 });
        self.set_name(parent, name, Some(index), path)
    }

    /// Gives the node at a path other metadata; all its names see it.
    pub fn set_metadata(&mut self, path: &[u8], metadata: Metadata) -> io::Result<()> {
        check_node(&metadata, None)?;
        let index = self.existing(path)?;
        self.nodes[index].metadata = metadata;
        Ok(())
    }

    /// Makes `path` another name of the node at `target`, in place of anything that is there.
    ///
    /// `NotFound` when the target is missing, `IsADirectory` when it is a directory.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let index = self.existing(target)?;
        if self.is_directory(index) {
            return Err(BuildError::IsDirectory(text(target)).into());
        }
        let (parent, name) = path::split(path).ok_or_else(|| BuildError::Path(text(path)))?;
        let parent = self.directory_at(parent)?;
        self.set_name(parent, name, Some(index), path)
    }

    /// Removes a path with everything below it; tells whether there was something. Missing parents are no error.
    pub fn remove(&mut self, path: &[u8]) -> io::Result<bool> {
        let Some((parent, name)) = path::split(path) else {
            return Err(BuildError::Path(text(path)).into());
        };
        let Some(parent) = self.find(parent)? else { return Ok(false) };
        if !self.is_directory(parent) || self.child(parent, name)?.is_none() {
            return Ok(false);
        }
        self.set_name(parent, name, None, path)?;
        Ok(true)
    }

    /// Removes everything in a directory.
    pub fn make_opaque(&mut self, path: &[u8]) -> io::Result<()> {
        let directory = self.directory_at(path)?;
        self.load(directory)?;
        self.forget_names(directory);
        self.nodes[directory].body = Body::Loaded(Loaded::default());
        Ok(())
    }

    /// The entry at a path; `None` when there is none or a parent is no directory.
    ///
    /// The ids of a directory below which something changed are those from before, or of the empty directory.
    pub fn get(&mut self, path: &[u8]) -> io::Result<Option<Entry>> {
        let Some(index) = self.find(path)? else { return Ok(None) };
        let node = &self.nodes[index];
        let kind = match &node.body {
            Body::Leaf(kind) => kind.clone(),
            Body::Unloaded((exact, content)) => NodeKind::Directory { exact: *exact, content: *content },
            Body::Loaded(loaded) => {
                let (exact, content) = match &loaded.base {
                    Some((ids, _)) => *ids,
                    None => Directory::default().ids(),
                };
                NodeKind::Directory { exact, content }
            }
        };
        let name = path::split(path).map_or(&b""[..], |(_, name)| name).to_vec();
        Ok(Some(Entry { name, metadata: node.metadata.clone(), kind }))
    }

    /// The names in a directory, sorted.
    pub fn names(&mut self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let directory = self.directory_at(path)?;
        self.load(directory)?;
        let Body::Loaded(loaded) = &self.nodes[directory].body else { return Ok(Vec::new()) };
        let mut names: std::collections::BTreeSet<Vec<u8>> = loaded
            .base
            .iter()
            .flat_map(|(_, base)| base.entries.iter().map(|entry| entry.name.clone()))
            .collect();
        for (name, index) in &loaded.names {
            if index.is_some() {
                names.insert(name.clone())
            } else {
                names.remove(name)
            };
        }
        Ok(names.into_iter().collect())
    }

    /// Stores the directories that changed and gives the tree.
    pub fn finish(self) -> io::Result<Tree> {
        let metadata = self.nodes[ROOT].metadata.clone();
        let (exact, content) = match &self.nodes[ROOT].body {
            Body::Unloaded(ids) => *ids,
            _ => assemble(self.store, &self, &ROOT)?,
        };
        Ok(Tree { root: metadata, exact, content })
    }

    fn add(&mut self, node: Node) -> Index {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn is_directory(&self, index: Index) -> bool {
        !matches!(self.nodes[index].body, Body::Leaf(_))
    }

    fn existing(&mut self, path: &[u8]) -> io::Result<Index> {
        self.find(path)?.ok_or_else(|| BuildError::Missing(text(path)).into())
    }

    fn directory_at(&mut self, path: &[u8]) -> io::Result<Index> {
        let index = self.existing(path)?;
        if self.is_directory(index) { Ok(index) } else { Err(BuildError::NotDirectory(text(path)).into()) }
    }

    fn find(&mut self, path: &[u8]) -> io::Result<Option<Index>> {
        let mut index = ROOT;
        if path.is_empty() {
            return Ok(Some(index));
        }
        for name in path.split(|&byte| byte == b'/') {
            if !path::is_name(name) {
                return Err(BuildError::Path(text(path)).into());
            }
            if !self.is_directory(index) {
                return Ok(None);
            }
            match self.child(index, name)? {
                Some(child) => index = child,
                None => return Ok(None),
            }
        }
        Ok(Some(index))
    }

    /// The node of a name in a directory.
    fn child(&mut self, directory: Index, name: &[u8]) -> io::Result<Option<Index>> {
        self.load(directory)?;
        let Body::Loaded(loaded) = &self.nodes[directory].body else { return Ok(None) };
        if let Some(known) = loaded.names.get(name) {
            return Ok(*known);
        }
        let entry = loaded.base.as_ref().and_then(|(_, base)| base.get(name)).cloned();
        let Some(entry) = entry else { return Ok(None) };
        let body = match entry.kind {
            NodeKind::Directory { exact, content } => Body::Unloaded((exact, content)),
            kind => Body::Leaf(kind),
        };
        let index = self.add(Node { metadata: entry.metadata, body, names: 1 });
        self.note(directory, name, Some(index));
        Ok(Some(index))
    }

    fn note(&mut self, directory: Index, name: &[u8], index: Option<Index>) {
        if let Body::Loaded(loaded) = &mut self.nodes[directory].body {
            loaded.names.insert(name.to_vec(), index);
        }
    }

    /// Makes a name stand for a node, or for none, and lets go of the one it stood for.
    fn set_name(
        &mut self,
        directory: Index,
        name: &[u8],
        index: Option<Index>,
        path: &[u8],
    ) -> io::Result<()> {
        if !path::is_name(name) {
            return Err(BuildError::Path(text(path)).into());
        }
        let old = self.child(directory, name)?;
        if let Some(index) = index {
            self.nodes[index].names += 1;
        }
        self.note(directory, name, index);
        if let Some(old) = old {
            self.nodes[old].names -= 1;
            self.forget_names(old);
        }
        Ok(())
    }

    /// Takes a removed directory's names off their nodes' counts.
    ///
    /// Names that were never looked at need not be: a group that reaches out of the directory has been loaded with
    /// the ancestor that records it.
    fn forget_names(&mut self, directory: Index) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            let Body::Loaded(loaded) = &self.nodes[directory].body else { continue };
            let children: Vec<Index> = loaded.names.values().filter_map(|index| *index).collect();
            for child in children {
                self.nodes[child].names -= 1;
                pending.push(child);
            }
        }
    }

    fn load(&mut self, directory: Index) -> io::Result<()> {
        let Body::Unloaded(ids) = self.nodes[directory].body else { return Ok(()) };
        let base = self.store.directory(&ids.0)?;
        let loaded = Loaded { base: Some((ids, Arc::clone(&base))), names: BTreeMap::new() };
        self.nodes[directory].body = Body::Loaded(loaded);
        for group in &base.hard_links {
            let mut leader = None;
            for member in group {
                let (parent, name) = path::split(member).ok_or(io::ErrorKind::InvalidData)?;
                let mut index = directory;
                for name in path::components(parent) {
                    index = self.child(index, name)?.ok_or(io::ErrorKind::InvalidData)?;
                }
                let own = self.child(index, name)?.ok_or(io::ErrorKind::InvalidData)?;
                match leader {
                    None => leader = Some(own),
                    Some(leader) => {
                        self.nodes[leader].names += 1;
                        self.note(index, name, Some(leader));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Forest for TreeBuilder<'_> {
    type Directory = Index;

    fn list(&self, directory: &Index) -> io::Result<Listing<Index>> {
        let Body::Loaded(loaded) = &self.nodes[*directory].body else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let part = |index: &Option<Index>| {
            let Some(index) = *index else { return Part::Removed };
            let node = &self.nodes[index];
            let metadata = node.metadata.clone();
            match &node.body {
                Body::Leaf(kind) => {
                    let link = (node.names > 1).then_some(index as u64);
                    Part::Leaf { metadata, kind: kind.clone(), link }
                }
                Body::Unloaded(ids) => Part::Kept { metadata, ids: *ids },
                Body::Loaded(_) => Part::Open { metadata, directory: index },
            }
        };
        let parts = loaded.names.iter().map(|(name, index)| (name.clone(), part(index))).collect();
        Ok(Listing { base: loaded.base.clone(), parts })
    }

    fn names(&self, key: u64) -> usize {
        usize::try_from(key).ok().and_then(|index| self.nodes.get(index)).map_or(0, |node| node.names)
    }
}
