//! A content store in memory, for tests and for what is too small to need files.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::content::{Backing, Content, ContentId, ContentStore, PackWriter, SpoolFile};
use crate::tree::{ContentTreeId, Directory, ExactId};

/// Directories and contents in maps; spool files are host memory files. Counts what is read, for tests.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    directories: HashMap<ExactId, Arc<Directory>>,
    contents: HashMap<ContentId, Arc<[u8]>>,
    opened: u64,
    loaded: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a content at once and returns its id.
    pub fn put(&self, bytes: &[u8]) -> ContentId {
        let id = ContentId::of(bytes);
        self.state().contents.insert(id, bytes.into());
        id
    }

    /// How many contents were opened so far.
    pub fn contents_opened(&self) -> u64 {
        self.state().opened
    }

    /// How many directories were loaded so far.
    pub fn directories_loaded(&self) -> u64 {
        self.state().loaded
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContentStore for MemoryStore {
    fn directory(&self, id: &ExactId) -> io::Result<Arc<Directory>> {
        let mut state = self.state();
        state.loaded += 1;
        state.directories.get(id).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put_directory(&self, directory: &Directory) -> io::Result<(ExactId, ContentTreeId)> {
        let ids = directory.ids();
        self.state().directories.entry(ids.0).or_insert_with(|| Arc::new(directory.clone()));
        Ok(ids)
    }

    fn open(&self, id: &ContentId) -> io::Result<Content> {
        let mut state = self.state();
        state.opened += 1;
        if *id == ContentId::EMPTY {
            return Ok(Content { backing: Backing::Bytes(Arc::from([])), length: 0 });
        }
        let bytes = state.contents.get(id).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Content { length: bytes.len() as u64, backing: Backing::Bytes(bytes) })
    }

    fn spool(&self) -> io::Result<SpoolFile> {
        let file = rustix::fs::memfd_create("spool", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(SpoolFile { file: Arc::new(file.into()), owner: None })
    }

    fn pack(&self) -> io::Result<Box<dyn PackWriter + '_>> {
        Ok(Box::new(MemoryPack { store: self, added: HashMap::new() }))
    }
}

/// Contents on their way into a [`MemoryStore`].
struct MemoryPack<'s> {
    store: &'s MemoryStore,
    added: HashMap<ContentId, Arc<[u8]>>,
}

impl PackWriter for MemoryPack<'_> {
    fn add(&mut self, data: &mut dyn Read) -> io::Result<(ContentId, u64)> {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes)?;
        Ok((self.add_bytes(&bytes)?, bytes.len() as u64))
    }

    fn add_bytes(&mut self, data: &[u8]) -> io::Result<ContentId> {
        let id = ContentId::of(data);
        self.added.insert(id, data.into());
        Ok(id)
    }

    fn adopt(&mut self, spool: SpoolFile, id: ContentId, length: u64) -> io::Result<()> {
        let bytes = Content { backing: Backing::File { file: spool.file, offset: 0 }, length }.read_all()?;
        if ContentId::of(&bytes) != id {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.added.insert(id, bytes.into());
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.store.state().contents.extend(self.added);
        Ok(())
    }
}
