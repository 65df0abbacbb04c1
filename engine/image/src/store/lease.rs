//! Leases: how processes that share a store know of each other.
//!
//! A process that has the store open holds a lease: a directory `work/<name>` for its unfinished files and a lock
//! file `work/<name>.lock` that it keeps locked. The kernel gives the lock up when the process dies, however it
//! dies, so a lease whose lock can be taken belongs to nobody, and its unfinished files and holds can go. This works
//! across pid namespaces, where process ids would not.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::write::Disk;
use crate::error::Result;

const WORK: &str = "work";
const LOCK: &str = ".lock";

/// This process's lease.
#[derive(Debug)]
pub(crate) struct Lease {
    disk: Disk,
    name: String,
    /// Keeps the lock until it is dropped.
    _lock: File,
    next_file: AtomicU64,
}

impl Lease {
    pub(crate) fn take(disk: &Disk) -> Result<Self> {
        disk.create_directory(WORK)?;
        loop {
            let name = random_name().map_err(|error| disk.failed("name a lease in", WORK, error))?;
            let lock_path = format!("{WORK}/{name}{LOCK}");
            let lock = disk.create(&lock_path).map_err(|error| disk.failed("create", &lock_path, error))?;
            let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
            // Between the two calls another process may have taken the file for a dead one's and removed it.
            let ours = locked.is_ok() && lock.metadata().is_ok_and(|metadata| metadata.nlink() > 0);
            if ours {
                disk.create_directory(&format!("{WORK}/{name}"))?;
                return Ok(Self { disk: disk.clone(), name, _lock: lock, next_file: AtomicU64::new(0) });
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A path, relative to the store, for a new unfinished file.
    pub(crate) fn new_path(&self) -> String {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        format!("{WORK}/{}/{number}", self.name)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next process that looks: the lock is gone then.
        let _ = self.disk.remove_directory(&format!("{WORK}/{}", self.name));
        let _ = self.disk.remove(&format!("{WORK}/{}{LOCK}", self.name));
    }
}

/// The leases of all other processes.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Leases of processes that run.
    pub(crate) alive: Vec<String>,
    /// Leases of processes that died; their unfinished files are removed.
    pub(crate) dead: Vec<String>,
}

/// Looks at all leases but our own, and removes what dead processes left.
pub(crate) fn sweep(disk: &Disk, own: &str) -> io::Result<Others> {
    let mut others = Others::default();
    for (file, _) in disk.list(WORK)? {
        let Some(name) = file.strip_suffix(LOCK) else { continue };
        if name == own {
            continue;
        }
        let path = format!("{WORK}/{file}");
        let lock = match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            others.alive.push(name.to_owned());
            continue;
        }
        // The files go first: without the lock file nobody would look for them.
        disk.remove_directory(&format!("{WORK}/{name}"))?;
        disk.remove(&path)?;
        others.dead.push(name.to_owned());
    }
    Ok(others)
}

/// Sixteen random bytes in hexadecimal.
pub(crate) fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
