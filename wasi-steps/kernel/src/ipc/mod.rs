//! System V semaphores and message queues (sysvipc(7)).
//!
//! [`Objects`] finds a set or a queue by its key or its number; the object itself is shared with whoever waits on it,
//! so that a removal reaches the waiters: they see the object marked and end with `EIDRM`. Shared memory is a matter
//! of address spaces and lives in [`memory::segment`](crate::memory::segment).
//!
//! What must hold: the table's lock is taken before an object's; nobody waits or touches guest memory with either.

pub(crate) mod message;
pub(crate) mod semaphore;

use std::collections::BTreeMap;
use std::sync::Arc;

use cooper_vfs::{Capabilities, Credentials, Errno};

/// `IPC_PRIVATE`: an object without a key.
const PRIVATE: i32 = 0;
/// `IPC_CREAT`.
const CREATE: u32 = 0o1000;
/// `IPC_EXCL`.
const EXCLUSIVE: u32 = 0o2000;
/// The most sets, and the most queues, of a step (`SEMMNI` and `MSGMNI` are larger; each costs a step real memory).
pub(crate) const MAX_OBJECTS: usize = 4096;

/// Rights as bits of a mode.
pub(crate) mod rights {
    /// Look.
    pub(crate) const READ: u32 = 4;
    /// Change.
    pub(crate) const WRITE: u32 = 2;
}

/// `struct ipc_perm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) key: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    creator: (u32, u32),
    pub(crate) mode: u32,
}

impl Permissions {
    fn new(key: i32, credentials: &Credentials, flags: u32) -> Self {
        let own = (credentials.uid, credentials.gid);
        Self { key, uid: own.0, gid: own.1, creator: own, mode: flags & 0o777 }
    }

    /// `EACCES` without all the rights.
    pub(crate) fn check(&self, credentials: &Credentials, rights: u32) -> Result<(), Errno> {
        let shift = if credentials.uid == self.uid || credentials.uid == self.creator.0 {
            6
        } else if credentials.is_member(self.gid) || credentials.is_member(self.creator.1) {
            3
        } else {
            0
        };
        let all = self.mode >> shift & rights == rights || credentials.holds(Capabilities::IPC_OWNER);
        if all { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// `EPERM` for those who may not change or remove the object.
    pub(crate) fn check_owner(&self, credentials: &Credentials) -> Result<(), Errno> {
        let owns = credentials.uid == self.uid || credentials.uid == self.creator.0;
        if owns || credentials.holds(Capabilities::SYS_ADMIN) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Takes what `IPC_SET` may change from the words of a `struct ipc_perm`.
    pub(crate) fn set(&mut self, words: &[u32; 6]) {
        (self.uid, self.gid, self.mode) = (words[1], words[2], words[5] & 0o777);
    }

    /// The words of a `struct ipc_perm`.
    pub(crate) fn words(&self) -> [u32; 12] {
        let (uid, gid) = self.creator;
        [self.key as u32, self.uid, self.gid, uid, gid, self.mode, 0, 0, 0, 0, 0, 0]
    }

    /// Key, number, mode and a column of its own, as lines of `/proc/sysvipc` begin and end.
    pub(crate) fn line(&self, id: i32, middle: &str) -> String {
        let (key, mode) = (self.key, self.mode);
        let (uid, gid, (creator_uid, creator_gid)) = (self.uid, self.gid, self.creator);
        format!("{key:>10} {id:>10}  {mode:>4o} {middle} {uid:>5} {gid:>5} {creator_uid:>5} {creator_gid:>5}")
    }
}

/// All sets or all queues of a step.
#[derive(Debug)]
pub(crate) struct Objects<T> {
    by_id: BTreeMap<i32, Arc<T>>,
    last: i32,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), last: 0 }
    }
}

/// What a table needs to know of its objects.
pub(crate) trait Object {
    /// Owner, key and mode.
    fn permissions(&self) -> Permissions;
}

impl<T: Object> Objects<T> {
    /// Finds the object of a key or makes one.
    ///
    /// `ENOENT` without `IPC_CREAT`; `EEXIST` with `IPC_EXCL`; `EACCES`; `ENOSPC` when there are too many; what
    /// `accept` says of an object that is there, and `make` of a new one.
    pub(crate) fn get(
        &mut self,
        credentials: &Credentials,
        (key, flags): (i32, u32),
        accept: impl FnOnce(&T) -> Result<(), Errno>,
        make: impl FnOnce(Permissions) -> Result<T, Errno>,
    ) -> Result<i32, Errno> {
        let known = self.by_id.iter().find(|(_, object)| key != PRIVATE && object.permissions().key == key);
        if let Some((id, object)) = known {
            if flags & (CREATE | EXCLUSIVE) == CREATE | EXCLUSIVE {
                return Err(Errno::EXIST);
            }
            accept(object)?;
            object.permissions().check(credentials, (flags >> 6 | flags >> 3 | flags) & 6)?;
            return Ok(*id);
        }
        if key != PRIVATE && flags & CREATE == 0 {
            return Err(Errno::NOENT);
        }
        if self.by_id.len() >= MAX_OBJECTS {
            return Err(Errno::NOSPC);
        }
        let object = make(Permissions::new(key, credentials, flags))?;
        self.last = self.last.checked_add(1).ok_or(Errno::NOSPC)?;
        self.by_id.insert(self.last, Arc::new(object));
        Ok(self.last)
    }

    /// The object with this number. `EINVAL` when there is none.
    pub(crate) fn find(&self, id: i32) -> Result<Arc<T>, Errno> {
        self.by_id.get(&id).cloned().ok_or(Errno::INVAL)
    }

    /// Takes an object out; its owner has been checked.
    pub(crate) fn remove(&mut self, id: i32) {
        self.by_id.remove(&id);
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, &Arc<T>)> {
        self.by_id.iter().map(|(id, object)| (*id, object))
    }
}
