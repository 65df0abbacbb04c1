//! Makes trees from trees without a root file system: how layers and `COPY` do it.

use std::io;

use super::{Entry, Metadata, Tree};
use crate::content::ContentStore;

/// Changes a tree name by name and gives the next one. Paths are clean; parents must exist and be directories.
#[derive(Debug)]
pub struct TreeBuilder<'s> {
    #[allow(dead_code, reason = "bodies follow")]
    store: &'s dyn ContentStore,
}

#[allow(unused_variables, missing_docs, reason = "bodies follow")]
impl<'s> TreeBuilder<'s> {
    /// Starts from an empty tree (mode 0755, root's, epoch).
    pub fn new(store: &'s dyn ContentStore) -> Self { Self { store } }
    pub fn from_tree(store: &'s dyn ContentStore, tree: &Tree) -> Self { Self { store } }
    /// Puts a node at a path (the entry's own name is ignored). A directory entry's ids say what is in it, so this attaches subtrees; over an existing directory see `put_directory`.
    pub fn put(&mut self, path: &[u8], entry: Entry) -> io::Result<()> { Err(io::ErrorKind::Unsupported.into()) }
    /// Makes a directory with this metadata, or gives an existing one the metadata and keeps what is in it.
    pub fn put_directory(&mut self, path: &[u8], metadata: Metadata) -> io::Result<()> { Err(io::ErrorKind::Unsupported.into()) }
    pub fn set_metadata(&mut self, path: &[u8], metadata: Metadata) -> io::Result<()> { Err(io::ErrorKind::Unsupported.into()) }
    /// Makes `path` another name of the node at `target`; an error for directories.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> { Err(io::ErrorKind::Unsupported.into()) }
    /// Removes a path with everything below it; tells whether it was there.
    pub fn remove(&mut self, path: &[u8]) -> io::Result<bool> { Err(io::ErrorKind::Unsupported.into()) }
    /// Removes everything in a directory.
    pub fn make_opaque(&mut self, path: &[u8]) -> io::Result<()> { Err(io::ErrorKind::Unsupported.into()) }
    /// The entry at a path (ids of directories are those before any change below them).
    pub fn get(&mut self, path: &[u8]) -> io::Result<Option<Entry>> { Err(io::ErrorKind::Unsupported.into()) }
    /// Names in a directory, sorted.
    pub fn names(&mut self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> { Err(io::ErrorKind::Unsupported.into()) }
    pub fn finish(self) -> io::Result<Tree> { Err(io::ErrorKind::Unsupported.into()) }
}
