//! What all file systems of one step share: store, clock, bounds.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::RootFsLimits;
use super::sync::lock;
use crate::content::{ContentStore, SpoolFile};
use crate::time::{Clock, Timestamp};

pub(super) struct Shared {
    pub(super) store: Arc<dyn ContentStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: RootFsLimits,
    /// Held while names are made, moved or removed, anywhere in the step's world.
    namespace: Mutex<()>,
    next_inode: AtomicU64,
    /// Inodes that the step made and that still exist.
    pub(super) inodes: AtomicU64,
    /// Bytes in memory files.
    pub(super) memory: AtomicU64,
    /// Spool files that are open on the host.
    pub(super) open_spools: AtomicU64,
    host_error: Mutex<Option<io::Error>>,
    parking: Mutex<Parking>,
}

/// Small files that do not fit in memory any more lie one after the other in one spool.
#[derive(Default)]
struct Parking {
    spool: Option<SpoolFile>,
    end: u64,
}

impl Shared {
    pub(super) fn new(store: Arc<dyn ContentStore>, clock: Arc<dyn Clock>, limits: RootFsLimits) -> Self {
        Self {
            store,
            clock,
            limits,
            namespace: Mutex::new(()),
            next_inode: AtomicU64::new(2),
            inodes: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            open_spools: AtomicU64::new(0),
            host_error: Mutex::new(None),
            parking: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, ()> {
        lock(&self.namespace)
    }

    /// Reserves inode numbers that follow each other, and returns the first.
    pub(super) fn inode_numbers(&self, count: u64) -> u64 {
        self.next_inode.fetch_add(count, Ordering::Relaxed)
    }

    /// What the guest is told of a host failure. A full disk is a full disk; anything else is `EIO`, and kept.
    pub(super) fn host(&self, error: io::Error) -> Errno {
        match Errno::from_io_error(&error) {
            Some(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => errno,
            _ => {
                lock(&self.host_error).get_or_insert(error);
                Errno::IO
            }
        }
    }

    pub(super) fn take_host_error(&self) -> Option<io::Error> {
        lock(&self.host_error).take()
    }

    /// Moves bytes to the parking spool and returns where they are.
    pub(super) fn park(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut parking = lock(&self.parking);
        let offset = parking.end;
        if parking.spool.is_none() {
            parking.spool = Some(self.store.spool()?);
        }
        if let Some(spool) = &parking.spool {
            spool.file.write_all_at(bytes, offset)?;
        }
        parking.end = offset + bytes.len() as u64;
        Ok(offset)
    }

    pub(super) fn read_parked(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = lock(&self.parking).spool.as_ref().map(|spool| Arc::clone(&spool.file));
        file.ok_or(io::ErrorKind::NotFound)?.read_exact_at(buffer, offset)
    }
}

/// A bound on bytes: of one file system, within that of the step.
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
    outer: Option<Arc<Self>>,
}

impl Budget {
    pub(super) const fn new(limit: u64, outer: Option<Arc<Self>>) -> Self {
        Self { limit, used: AtomicU64::new(0), outer }
    }

    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes bytes, or `ENOSPC`.
    pub(super) fn charge(&self, bytes: u64) -> Result<(), Errno> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let outer = if before.saturating_add(bytes) > self.limit {
            Err(Errno::NOSPC)
        } else {
            self.outer.as_ref().map_or(Ok(()), |outer| outer.charge(bytes))
        };
        if outer.is_err() {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        outer
    }

    /// Gives bytes back.
    pub(super) fn refund(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(outer) = &self.outer {
            outer.refund(bytes);
        }
    }
}
