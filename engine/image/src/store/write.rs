#![allow(
    clippy::disallowed_methods,
    reason = "the store's files; every write of the store goes through here"
)]
//! The one place through which the store writes.
//!
//! A `Disk` is the store's directory and how careful to be with it. Files are made under a temporary name, filled,
//! made durable as the policy says, and renamed; the index is written in transactions that ask here first. So a test
//! can put a [`Gate`] in front of every write: a full disk, or a crash after any number of them.
//!
//! What must hold: no other module of the store creates, writes, renames or removes a host file, and nothing has
//! its final name before it is complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// What has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process: nothing is forced to the disk. Right for a pod's scratch volume.
    Process,
    /// The loss of power: files are synced before they get their names.
    Power,
}

/// One write of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// A directory or file is made.
    Create,
    /// Bytes are written.
    Data,
    /// A file is forced to the disk.
    Sync,
    /// A file gets its final name.
    Rename,
    /// A file is removed.
    Remove,
    /// A transaction of the index starts.
    Transaction,
    /// A transaction of the index is committed.
    Commit,
}

/// Decides whether a write may happen; tests make disks that fill up and processes that die.
pub trait Gate: Send + Sync + std::fmt::Debug {
    /// Called before every write.
    ///
    /// # Errors
    ///
    /// The error that the write shall fail with.
    fn permit(&self, write: Write) -> io::Result<()>;
}

/// The store's directory.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    root: PathBuf,
    durability: Durability,
    gate: Option<Arc<dyn Gate>>,
}

impl Disk {
    pub(crate) fn new(root: &Path, durability: Durability, gate: Option<Arc<dyn Gate>>) -> Self {
        Self { root: root.to_owned(), durability, gate }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub(crate) fn permit(&self, write: Write) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate.permit(write))
    }

    pub(crate) fn create_directory(&self, relative: &str) -> Result<()> {
        let path = self.path(relative);
        if path.is_dir() {
            return Ok(());
        }
        let made = self.permit(Write::Create).and_then(|()| fs::create_dir_all(&path));
        made.map_err(|error| self.failed("create", relative, error))
    }

    /// Makes a new file, open for reading and writing.
    pub(crate) fn create(&self, relative: &str) -> io::Result<File> {
        self.permit(Write::Create)?;
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path(relative))
    }

    /// Gives a damaged file another name, next to its own; files of SQLite's journal go.
    pub(crate) fn set_aside(&self, relative: &str) -> io::Result<()> {
        for journal in ["-wal", "-shm", "-journal"] {
            self.remove(&format!("{relative}{journal}"))?;
        }
        self.permit(Write::Rename)?;
        fs::rename(self.path(relative), self.path(&format!("{relative}.damaged")))
    }

    pub(crate) fn open(&self, relative: &str) -> io::Result<File> {
        File::open(self.path(relative))
    }

    pub(crate) fn exists(&self, relative: &str) -> bool {
        self.path(relative).exists()
    }

    pub(crate) fn size(&self, relative: &str) -> io::Result<u64> {
        fs::metadata(self.path(relative)).map(|metadata| metadata.len())
    }

    pub(crate) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.permit(Write::Data)?;
        file.write_all_at(bytes, offset)
    }

    pub(crate) fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        self.permit(Write::Data)?;
        file.set_len(length)
    }

    /// Gives a complete file its name, replacing what had it.
    pub(crate) fn publish(&self, file: &File, from: &str, to: &str) -> io::Result<()> {
        if self.durability == Durability::Power {
            self.permit(Write::Sync)?;
            file.sync_all()?;
        }
        self.permit(Write::Rename)?;
        fs::rename(self.path(from), self.path(to))?;
        if self.durability == Durability::Power
            && let Some(parent) = self.path(to).parent()
        {
            self.permit(Write::Sync)?;
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes a file; one that is not there is removed already.
    pub(crate) fn remove(&self, relative: &str) -> io::Result<()> {
        self.permit(Write::Remove)?;
        match fs::remove_file(self.path(relative)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Removes a file of the store by its whole path.
    pub(crate) fn remove_path(&self, path: &Path) -> io::Result<()> {
        self.permit(Write::Remove)?;
        fs::remove_file(path)
    }

    /// Removes a directory with the files in it. Directories in it are left, and then it is, too.
    pub(crate) fn remove_directory(&self, relative: &str) -> io::Result<()> {
        for (name, _) in self.list(relative)? {
            self.remove(&format!("{relative}/{name}"))?;
        }
        self.permit(Write::Remove)?;
        match fs::remove_dir(self.path(relative)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Names and metadata of the files in a directory, sorted; none when there is no such directory.
    pub(crate) fn list(&self, relative: &str) -> io::Result<Vec<(String, fs::Metadata)>> {
        let entries = match fs::read_dir(self.path(relative)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Somebody else may have removed it in between, and names of ours are all text.
            if let (Ok(metadata), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) {
                found.push((name, metadata));
            }
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    pub(crate) fn failed(&self, verb: &str, relative: &str, error: io::Error) -> Error {
        Error::io(format!("cannot {verb} `{}`", self.path(relative).display()), error)
    }
}
