//! System V shared memory segments.
//!
//! A segment is a memory object with a number and perhaps a key. Removing it takes the number and the key away;
//! the memory stays for those who have it attached.

use std::collections::BTreeMap;
use std::sync::Arc;

use cooper_vfs::{Credentials, Errno};

use super::{MemoryAccount, SharedMemory, shared_memory};

/// `IPC_PRIVATE`: a segment without a key.
const PRIVATE: i32 = 0;
/// `IPC_CREAT`.
const CREATE: u32 = 0o1000;
/// `IPC_EXCL`.
const EXCLUSIVE: u32 = 0o2000;
/// The most segments of a step (`SHMMNI`).
const MAX_SEGMENTS: usize = 4096;
/// The largest segment: what an address space could hold.
const MAX_SIZE: u64 = 1 << 32;

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) key: i32,
    pub(crate) object: Arc<SharedMemory>,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) creator: (u32, u32),
    pub(crate) creator_pid: u32,
}

impl Segment {
    /// Whether these credentials have the rights (4 read, 2 write). `EACCES` otherwise.
    pub(crate) fn check(&self, credentials: &Credentials, rights: u32) -> Result<(), Errno> {
        let shift = if credentials.uid == self.uid || credentials.uid == self.creator.0 {
            6
        } else if credentials.is_member(self.gid) || credentials.is_member(self.creator.1) {
            3
        } else {
            0
        };
        let owner = credentials.holds(cooper_vfs::Capabilities::IPC_OWNER);
        if owner || self.mode >> shift & rights == rights { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// How many mappings there are; a mapping that was split counts once for each part.
    pub(crate) fn attachments(&self) -> u64 {
        Arc::strong_count(&self.object).saturating_sub(1) as u64
    }
}

/// All segments of a step.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    by_id: BTreeMap<i32, Segment>,
    last: i32,
}

impl Segments {
    /// Finds the segment of a key or makes one (`shmget`).
    ///
    /// `ENOENT` without `IPC_CREAT`; `EEXIST` with `IPC_EXCL`; `EINVAL` for a bad size; `EACCES`; `ENOSPC` when there
    /// are too many; `ENOMEM`.
    pub(crate) fn get(
        &mut self,
        account: &MemoryAccount,
        credentials: &Credentials,
        pid: u32,
        key: i32,
        size: u64,
        flags: u32,
    ) -> Result<i32, Errno> {
        let known = self.by_id.iter().find(|(_, segment)| key != PRIVATE && segment.key == key);
        if let Some((id, segment)) = known {
            if flags & (CREATE | EXCLUSIVE) == CREATE | EXCLUSIVE {
                return Err(Errno::EXIST);
            }
            if size > segment.size {
                return Err(Errno::INVAL);
            }
            segment.check(credentials, (flags >> 6 | flags >> 3 | flags) & 6)?;
            return Ok(*id);
        }
        if key != PRIVATE && flags & CREATE == 0 {
            return Err(Errno::NOENT);
        }
        if size == 0 || size > MAX_SIZE {
            return Err(Errno::INVAL);
        }
        if self.by_id.len() >= MAX_SEGMENTS {
            return Err(Errno::NOSPC);
        }
        let length = size.next_multiple_of(cooper_x86::memory::PAGE_SIZE);
        let name = format!("/SYSV{key:08x} (deleted)");
        let object = Arc::new(shared_memory(account, name.as_bytes(), length)?);
        self.last += 1;
        let owner = (credentials.uid, credentials.gid);
        let segment = Segment {
            key,
            object,
            size,
            mode: flags & 0o777,
            uid: owner.0,
            gid: owner.1,
            creator: owner,
            creator_pid: pid,
        };
        self.by_id.insert(self.last, segment);
        Ok(self.last)
    }

    /// The segment with this number. `EINVAL` when there is none.
    pub(crate) fn find(&self, id: i32) -> Result<&Segment, Errno> {
        self.by_id.get(&id).ok_or(Errno::INVAL)
    }

    /// Changes or removes a segment that the caller owns. `EPERM` when it does not.
    pub(crate) fn own(&mut self, id: i32, credentials: &Credentials) -> Result<&mut Segment, Errno> {
        let segment = self.by_id.get_mut(&id).ok_or(Errno::INVAL)?;
        let own = credentials.uid == segment.uid || credentials.uid == segment.creator.0;
        if own || credentials.holds(cooper_vfs::Capabilities::SYS_ADMIN) {
            Ok(segment)
        } else {
            Err(Errno::PERM)
        }
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, &Segment)> {
        self.by_id.iter().map(|(id, segment)| (*id, segment))
    }

    /// Takes number and key away (`IPC_RMID`).
    pub(crate) fn remove(&mut self, id: i32) {
        self.by_id.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_one_segment_until_it_is_removed() {
        let account = MemoryAccount::new(1 << 20);
        let root = Credentials::root();
        let mut segments = Segments::default();
        let mut get = |key, size, flags| segments.get(&account, &root, 1, key, size, flags);
        assert_eq!(get(7, 100, 0o600), Err(Errno::NOENT));
        assert_eq!(get(7, 100, CREATE | 0o600), Ok(1));
        assert_eq!(get(7, 100, CREATE | EXCLUSIVE | 0o600), Err(Errno::EXIST));
        assert_eq!((get(7, 50, 0o600), get(7, 101, 0o600)), (Ok(1), Err(Errno::INVAL)));
        assert_eq!((get(PRIVATE, 1, 0o600), get(PRIVATE, 1, 0o600)), (Ok(2), Ok(3)));
        assert_eq!(get(8, 0, CREATE), Err(Errno::INVAL));
        segments.remove(1);
        assert!(segments.find(1).is_err());
    }

    #[test]
    fn others_need_rights() {
        let account = MemoryAccount::new(1 << 20);
        let mut segments = Segments::default();
        let (owner, other) = (Credentials::user(10, 10), Credentials::user(11, 11));
        assert_eq!(segments.get(&account, &owner, 1, 7, 100, CREATE | 0o604), Ok(1));
        assert_eq!(segments.get(&account, &other, 1, 7, 100, 0o444), Ok(1));
        assert_eq!(segments.get(&account, &other, 1, 7, 100, 0o666), Err(Errno::ACCESS));
        assert_eq!(segments.own(1, &other).err(), Some(Errno::PERM));
        assert!(segments.own(1, &owner).is_ok());
    }
}
