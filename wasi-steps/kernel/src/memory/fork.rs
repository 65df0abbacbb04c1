//! Copies of address spaces for `fork`.
//!
//! The copy maps the same files and objects again and copies what is this memory's alone: private pages that were
//! written. The host's page map says which those are; without it, every private page that could have been written.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use cooper_vfs::Errno;
use cooper_x86::memory::{Protection, Sharing};

use super::area::{Area, Areas, Backing, FilePages};
use super::{AddressSpace, MAX_STEP_AREAS, host_error, lock};

impl AddressSpace {
    /// A copy that shares what is shared. `ENOMEM` when memory, maps or windows run out.
    ///
    /// The caller is the only thread that is certain to stand still; what others write meanwhile is in the copy or
    /// not, as with Linux.
    pub(crate) fn duplicate(&self) -> Result<Self, Errno> {
        let areas = self.write();
        if self.account.areas.load(Ordering::Relaxed) + areas.count() > MAX_STEP_AREAS {
            self.account.areas_reached.store(true, Ordering::Relaxed);
            return Err(Errno::NOMEM);
        }
        let copy = Self::new(&self.account)?;
        self.account.charge(areas.charged)?;
        let mut list = Areas {
            heap_start: areas.heap_start,
            heap_end: areas.heap_end,
            mmap_top: areas.mmap_top,
            charged: areas.charged,
            ..Areas::default()
        };
        let mut result = Ok(());
        for area in areas.iter() {
            result = self.copy_area(&copy, area);
            if result.is_err() {
                break;
            }
            list.insert(area.clone());
        }
        list.counted = list.count();
        self.account.areas.fetch_add(list.counted, Ordering::Relaxed);
        *copy.write() = list;
        *lock(&copy.layout) = *lock(&self.layout);
        *lock(&copy.executable) = lock(&self.executable).clone();
        copy.generation.store(self.generation.load(Ordering::SeqCst), Ordering::SeqCst);
        result.map(|()| copy)
    }

    fn copy_area(&self, copy: &Self, area: &Area) -> Result<(), Errno> {
        let length = area.backed_end - area.start;
        if length == 0 {
            return Ok(());
        }
        let dirty = if area.shared || !(area.was_writable || is_copied(area)) {
            Vec::new()
        } else {
            let range = self.memory.dirty_private_pages(area.start, length);
            range.unwrap_or_else(|| std::iter::once(area.start..area.backed_end).collect())
        };
        let rights = area.rights.host();
        let first = if dirty.is_empty() { rights } else { Protection::ReadWrite };
        copy.map_like(area, length, first)?;
        if dirty.is_empty() {
            return Ok(());
        }
        if rights == Protection::None {
            self.memory.protect(area.start, length, Protection::Read).map_err(host_error)?;
        }
        for range in &dirty {
            let length = range.end - range.start;
            self.memory.copy_to(&copy.memory, range.start, length).map_err(|_| Errno::FAULT)?;
        }
        if rights == Protection::None {
            self.memory.protect(area.start, length, rights).map_err(host_error)?;
        }
        if rights != first {
            copy.memory.protect(area.start, length, rights).map_err(host_error)?;
        }
        Ok(())
    }

    fn map_like(&self, area: &Area, length: u64, rights: Protection) -> Result<(), Errno> {
        let sharing = if area.shared { Sharing::Shared } else { Sharing::Private };
        let mapped = match &area.backing {
            Backing::Anonymous { .. } | Backing::File { pages: FilePages::Copied, .. } => {
                self.memory.map_anonymous(area.start, length, rights)
            }
            Backing::Memory { object, offset } => {
                self.memory.map_file(area.start, length, rights, object.file.as_fd(), *offset, sharing)
            }
            Backing::File { file, offset, .. } => {
                let (host, first) = file.place.as_ref().ok_or(Errno::NOMEM)?;
                self.memory.map_file(area.start, length, rights, host.as_fd(), first + offset, sharing)
            }
        };
        mapped.map_err(host_error)
    }
}

fn is_copied(area: &Area) -> bool {
    matches!(area.backing, Backing::File { pages: FilePages::Copied, .. })
}
