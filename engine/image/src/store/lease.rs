//! Leases: how processes that share a store know of each other.
//!
//! A process that has the store open holds a lease: a directory `work/<name>` for its unfinished files and a lock
//! file `work/<name>.lock` that it keeps locked. The kernel gives the lock up when the process dies, however it
//! dies, so a lease whose lock can be taken belongs to nobody, and its unfinished files and holds can go. This works
//! across pid namespaces, where process ids would not.
//!
//! A process that works for another one (a step) joins that one's lease: what it leaves in the store is held by the
//! other from the first moment, so nothing falls between the end of the one and the next look of the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::write::Disk;
use crate::error::{Error, Result};

const WORK: &str = "work";
const LOCK: &str = ".lock";

/// This process's lease.
#[derive(Debug)]
pub(crate) struct Lease {
    disk: Disk,
    name: String,
    /// Keeps the lock until it is dropped; none when the lease is another process's.
    lock: Option<File>,
    /// What this process's unfinished files begin with.
    prefix: String,
    next_file: AtomicU64,
}

impl Lease {
    pub(crate) fn take(disk: &Disk) -> Result<Self> {
        disk.create_directory(WORK)?;
        loop {
            let name = random_name().map_err(|error| disk.failed("name a lease in", WORK, error))?;
            let lock_path = format!("{WORK}/{name}{LOCK}");
            let lock = disk.create(&lock_path).map_err(|error| disk.failed("create", &lock_path, error))?;
            let locked = match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => true,
                // Another process looks at it at this moment, and takes it for a dead one's.
                Err(Errno::WOULDBLOCK) => false,
                Err(error) => return Err(disk.failed("lock", &lock_path, error.into())),
            };
            // Or did so between the two calls, and removed it.
            let ours = locked && lock.metadata().is_ok_and(|metadata| metadata.nlink() > 0);
            if ours {
                disk.create_directory(&format!("{WORK}/{name}"))?;
                let prefix = String::new();
                let next_file = AtomicU64::new(0);
                return Ok(Self { disk: disk.clone(), name, lock: Some(lock), prefix, next_file });
            }
        }
    }

    /// Joins the lease of a process that is alive.
    pub(crate) fn join(disk: &Disk, name: &str) -> Result<Self> {
        let refuse = |reason: &str| Error::Store {
            path: disk.root().display().to_string(),
            reason: reason.to_owned(),
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refuse("the name of the lease to join is not valid"));
        }
        let lock_path = format!("{WORK}/{name}{LOCK}");
        let lock = disk.open(&lock_path).map_err(|error| disk.failed("open", &lock_path, error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Err(refuse("the process whose lease is to be joined has ended"));
        }
        let prefix = random_name().map_err(|error| disk.failed("name a file in", WORK, error))?;
        let next_file = AtomicU64::new(0);
        Ok(Self {
            disk: disk.clone(),
            name: name.to_owned(),
            lock: None,
            prefix: format!("{prefix}-"),
            next_file,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directory of unfinished files, relative to the store.
    pub(crate) fn directory(&self) -> String {
        format!("{WORK}/{}", self.name)
    }

    /// A path, relative to the store, for a new unfinished file.
    pub(crate) fn new_path(&self) -> String {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        format!("{WORK}/{}/{}{number}", self.name, self.prefix)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
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
