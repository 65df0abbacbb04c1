//! `mmap`, `munmap`, `mprotect`, `mremap`, `brk`, `madvise` and their kin over the list of areas.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bitflags::bitflags;
use cooper_vfs::{Errno, Position};
use cooper_x86::memory::{PAGE_SIZE, Protection, Sharing};

use super::area::{Area, Areas, Backing, FilePages, MappedFile, Rights, SharedMemory, page_up};
use super::{
    AddressSpace, COPY_LIMIT, HIGHEST_ADDRESS, LOWEST_ADDRESS, MAX_AREAS, MAX_STEP_AREAS, MapSource, code_id,
    host_error, shared_memory, written_back,
};

bitflags! {
    /// Flags of `mmap`, with Linux's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct MapFlags: u64 {
        const SHARED = 1;
        const PRIVATE = 2;
        const SHARED_VALIDATE = 3;
        const FIXED = 0x10;
        const ANONYMOUS = 0x20;
        const LOW_2G = 0x40;
        const GROWSDOWN = 0x100;
        const DENYWRITE = 0x800;
        const EXECUTABLE = 0x1000;
        const LOCKED = 0x2000;
        const NORESERVE = 0x4000;
        const POPULATE = 0x8000;
        const NONBLOCK = 0x1_0000;
        const STACK = 0x2_0000;
        const HUGETLB = 0x4_0000;
        const SYNC = 0x8_0000;
        const FIXED_NOREPLACE = 0x10_0000;
        const _ = !0;
    }
}

/// A request to map something.
#[derive(Debug)]
pub(crate) struct MapRequest {
    /// Where; a hint unless `FIXED`.
    pub(crate) address: u64,
    /// How many bytes.
    pub(crate) length: u64,
    /// What guest code may do.
    pub(crate) rights: Rights,
    /// What `mprotect` may give later.
    pub(crate) allowed: Rights,
    /// `MAP_` flags.
    pub(crate) flags: MapFlags,
    /// What; nothing for zeros.
    pub(crate) source: Option<MapSource>,
    /// Offset in the source, page aligned.
    pub(crate) offset: u64,
    /// The name that zeros get in `/proc/self/maps`.
    pub(crate) name: &'static str,
    /// The lowest address that it may have.
    pub(crate) lowest: u64,
}

impl MapRequest {
    /// Private zeros at a fixed place.
    pub(crate) fn zeros(address: u64, length: u64, rights: Rights, name: &'static str) -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED;
        let (allowed, lowest) = (Rights::all(), LOWEST_ADDRESS);
        Self { address, length, rights, allowed, flags, source: None, offset: 0, name, lowest }
    }
}

/// What `mremap` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RemapFlags {
    pub(crate) may_move: bool,
    pub(crate) fixed: Option<u64>,
    pub(crate) keep_old: bool,
}

/// What `madvise` was asked for and does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// `MADV_DONTNEED`, `MADV_FREE`: private pages are dropped.
    Drop,
    /// `MADV_REMOVE`: the range of the file becomes a hole.
    Remove,
    /// Advice that changes nothing guests can see.
    Nothing,
}

impl AddressSpace {
    /// Maps something and returns where.
    ///
    /// `EINVAL` for a bad length or alignment; `EPERM` below the lowest address; `EEXIST` for `FIXED_NOREPLACE` over
    /// something; `ENOMEM` when there is no room, no memory or no host map left; and what the file says.
    pub(crate) fn map(&self, request: MapRequest) -> Result<u64, Errno> {
        if request.length == 0 {
            return Err(Errno::INVAL);
        }
        let length = page_up(request.length).ok_or(Errno::NOMEM)?;
        if !request.offset.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        request.offset.checked_add(length).ok_or(Errno::OVERFLOW)?;
        let mut areas = self.write();
        let start = self.place(&areas, &request, length)?;
        let area = Area {
            start,
            end: start + length,
            backed_end: start + length,
            rights: request.rights,
            allowed: request.allowed,
            shared: request.flags.contains(MapFlags::SHARED),
            reserve: !request.flags.intersects(MapFlags::NORESERVE | MapFlags::STACK | MapFlags::GROWSDOWN),
            was_writable: request.rights.contains(Rights::WRITE),
            backing: Backing::Anonymous { name: request.name },
        };
        self.make_room(&mut areas, &area)?;
        let removed = areas.remove(area.start, area.end);
        let mapped = self.map_pages(area, request.source, request.offset);
        let result = match mapped {
            Ok(area) => {
                let executable = area.rights.contains(Rights::EXECUTE);
                areas.insert(area);
                Ok((start, executable))
            }
            Err(errno) => {
                // What was there is gone, as when Linux fails this late.
                let _ = self.memory.unmap(start, length);
                Err(errno)
            }
        };
        self.settle(&mut areas);
        drop(areas);
        removed.iter().for_each(written_back);
        let replaced_code = removed.iter().any(|area| area.rights.contains(Rights::EXECUTE));
        if replaced_code || result.is_ok_and(|(_, executable)| executable) {
            self.code_changed();
        }
        result.map(|(start, _)| start)
    }

    fn place(&self, areas: &Areas, request: &MapRequest, length: u64) -> Result<u64, Errno> {
        if request.flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE) {
            let start = request.address;
            if !start.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::INVAL);
            }
            let end = start.checked_add(length).filter(|end| *end <= HIGHEST_ADDRESS).ok_or(Errno::NOMEM)?;
            if start < request.lowest {
                return Err(Errno::PERM);
            }
            let keep = request.flags.contains(MapFlags::FIXED_NOREPLACE);
            return if keep && !areas.is_free(start, end) { Err(Errno::EXIST) } else { Ok(start) };
        }
        let top = if request.flags.contains(MapFlags::LOW_2G) { 1 << 31 } else { areas.mmap_top };
        if let Some(start) = page_up(request.address).filter(|start| *start >= LOWEST_ADDRESS)
            && let Some(end) = start.checked_add(length)
            && end
                <= HIGHEST_ADDRESS.min(if request.flags.contains(MapFlags::LOW_2G) { top } else { u64::MAX })
            && areas.is_free(start, end)
        {
            return Ok(start);
        }
        // Address 0 to 64 KiB stays free, and the heap keeps room to grow for as long as there is room elsewhere.
        areas.find_free(length, LOWEST_ADDRESS, top.min(areas.mmap_top)).ok_or(Errno::NOMEM)
    }

    /// Checks the bounds on areas and charges what `new` will cost beyond what it replaces.
    fn make_room(&self, areas: &mut Areas, new: &Area) -> Result<(), Errno> {
        if areas.count() + 2 > MAX_AREAS || self.account.areas.load(Ordering::Relaxed) + 2 > MAX_STEP_AREAS {
            self.account.areas_reached.store(true, Ordering::Relaxed);
            return Err(Errno::NOMEM);
        }
        let charge = new.charge();
        self.account.charge(charge)?;
        areas.charged += charge;
        Ok(())
    }

    /// Makes the account agree with the list after a change.
    fn settle(&self, areas: &mut Areas) {
        let charge = areas.charge();
        if charge > areas.charged {
            // Parts of a removal never cost more; what is new was charged before.
            self.account.charged.fetch_add(charge - areas.charged, Ordering::Relaxed);
        } else {
            self.account.release(areas.charged - charge);
        }
        areas.charged = charge;
        let count = areas.count();
        let before = std::mem::replace(&mut areas.counted, count);
        self.account.areas.fetch_add(count, Ordering::Relaxed);
        self.account.areas.fetch_sub(before, Ordering::Relaxed);
    }

    /// Puts the pages of a new area into the window.
    fn map_pages(&self, area: Area, source: Option<MapSource>, offset: u64) -> Result<Area, Errno> {
        match source {
            None | Some(MapSource::Zero) if area.shared => {
                let object = Arc::new(shared_memory(&self.account, b"/dev/zero (deleted)", area.length())?);
                self.map_memory(area, object, 0)
            }
            None | Some(MapSource::Zero) => {
                self.map_zeros(&area)?;
                Ok(area)
            }
            Some(MapSource::Memory(object)) => self.map_memory(area, object, offset),
            Some(MapSource::File(handle, position)) => {
                let file = MappedFile { handle, position, code: None, place: None };
                if area.shared && area.allowed.contains(Rights::WRITE) {
                    self.map_spool(area, file, offset)
                } else {
                    self.map_private_file(area, file, offset)
                }
            }
        }
    }

    fn map_zeros(&self, area: &Area) -> Result<(), Errno> {
        self.memory.map_anonymous(area.start, area.length(), area.rights.host()).map_err(host_error)
    }

    fn map_memory(&self, mut area: Area, object: Arc<SharedMemory>, offset: u64) -> Result<Area, Errno> {
        // Memory objects grow after they are mapped, so all of it is mapped; the host answers beyond the end.
        let sharing = if area.shared { Sharing::Shared } else { Sharing::Private };
        self.memory
            .map_file(area.start, area.length(), area.rights.host(), object.file.as_fd(), offset, sharing)
            .map_err(host_error)?;
        area.backing = Backing::Memory { object, offset };
        Ok(area)
    }

    fn map_private_file(&self, area: Area, mut file: MappedFile, offset: u64) -> Result<Area, Errno> {
        let generation = file.handle.generation();
        let code = code_id(&file.handle);
        let place = file.handle.mapping()?;
        let unchanged = file.handle.generation() == generation;
        file.code = code.filter(|_| unchanged);
        match place {
            Some(place) => {
                let available = page_up(place.length.saturating_sub(offset)).unwrap_or(0);
                file.place = Some((place.file, place.offset));
                self.map_host_file(area, available, file, offset, FilePages::Pack)
            }
            None if file.handle.size() <= COPY_LIMIT => self.copy_file(area, file, offset),
            None => self.map_spool(area, file, offset),
        }
    }

    fn map_spool(&self, area: Area, mut file: MappedFile, offset: u64) -> Result<Area, Errno> {
        file.code = None;
        let place = file.handle.map_shared()?;
        let available = page_up(place.length.saturating_sub(offset)).unwrap_or(0);
        file.place = Some((place.file, place.offset));
        self.map_host_file(area, available, file, offset, FilePages::Spool)
    }

    fn map_host_file(
        &self,
        mut area: Area,
        available: u64,
        file: MappedFile,
        offset: u64,
        pages: FilePages,
    ) -> Result<Area, Errno> {
        let (host, first) = file.place.clone().ok_or(Errno::NODEV)?;
        let backed = available.min(area.length());
        area.backed_end = area.start + backed;
        if backed < area.length() {
            self.memory.unmap(area.backed_end, area.length() - backed).map_err(host_error)?;
        }
        if backed > 0 {
            let sharing = if area.shared { Sharing::Shared } else { Sharing::Private };
            self.memory
                .map_file(area.start, backed, area.rights.host(), host.as_fd(), first + offset, sharing)
                .map_err(host_error)?;
        }
        area.backing = Backing::File { file: Arc::new(file), offset, pages };
        Ok(area)
    }

    fn copy_file(&self, mut area: Area, file: MappedFile, offset: u64) -> Result<Area, Errno> {
        let available = page_up(file.handle.size().saturating_sub(offset)).unwrap_or(0).min(area.length());
        area.backed_end = area.start + available;
        if available < area.length() {
            self.memory.unmap(area.backed_end, area.length() - available).map_err(host_error)?;
        }
        area.backing = Backing::File { file: Arc::new(file), offset, pages: FilePages::Copied };
        self.fill_copied(&area, area.start, area.backed_end)?;
        Ok(area)
    }

    /// Reads a part of a copied file area into fresh pages.
    fn fill_copied(&self, area: &Area, start: u64, end: u64) -> Result<(), Errno> {
        let Backing::File { file, .. } = &area.backing else { return Ok(()) };
        let (end, length) = (end.min(area.backed_end), end.min(area.backed_end).saturating_sub(start));
        if length == 0 {
            return Ok(());
        }
        let writable = Protection::ReadWrite;
        self.memory.map_anonymous(start, length, writable).map_err(host_error)?;
        let mut buffer = vec![0; 64 << 10];
        let (mut at, mut offset) = (start, area.offset_at(start));
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let got = file.handle.read_at(offset, &mut buffer[..want])?;
            if got == 0 {
                break;
            }
            self.write_bytes(at, &buffer[..got])?;
            at += got as u64;
            offset += got as u64;
        }
        self.memory.protect(start, length, area.rights.host()).map_err(host_error)
    }

    /// Removes whatever is mapped in a range. `EINVAL` for a bad range.
    pub(crate) fn unmap(&self, address: u64, length: u64) -> Result<(), Errno> {
        let end = range_end(address, length)?;
        if length == 0 || end > HIGHEST_ADDRESS {
            return Err(Errno::INVAL);
        }
        let mut areas = self.write();
        if areas.count() + 1 > MAX_AREAS {
            return Err(Errno::NOMEM);
        }
        let removed = areas.remove(address, end);
        if let (Some(first), Some(last)) = (removed.first(), removed.last()) {
            self.memory.unmap(first.start, last.end - first.start).map_err(host_error)?;
        }
        self.settle(&mut areas);
        drop(areas);
        removed.iter().for_each(written_back);
        if removed.iter().any(|area| area.rights.contains(Rights::EXECUTE)) {
            self.code_changed();
        }
        Ok(())
    }

    /// Removes the mapping of a whole memory object that starts at `address` (`shmdt`). `EINVAL` when none does.
    pub(crate) fn detach(&self, address: u64) -> Result<(), Errno> {
        let (object, end) = {
            let areas = self.read();
            let area = areas.at(address).filter(|area| area.start == address).ok_or(Errno::INVAL)?;
            let Backing::Memory { object, offset: 0 } = &area.backing else { return Err(Errno::INVAL) };
            let object = object.clone();
            // Parts with other rights belong to it as long as they continue it.
            let mut end = area.end;
            for next in areas.overlapping(area.end, HIGHEST_ADDRESS) {
                match &next.backing {
                    Backing::Memory { object: other, offset }
                        if next.start == end && Arc::ptr_eq(other, &object) && *offset == end - address =>
                    {
                        end = next.end;
                    }
                    _ => break,
                }
            }
            (object, end)
        };
        drop(object);
        self.unmap(address, end - address)
    }

    /// Changes what guest code may do in a range.
    ///
    /// `EINVAL` for a bad range; `ENOMEM` when a part is not mapped (what lies before is changed) or memory is
    /// short; `EACCES` for write access to a shared mapping of a file that is open for reading.
    pub(crate) fn protect(&self, address: u64, length: u64, rights: Rights) -> Result<(), Errno> {
        let end = range_end(address, length)?;
        if length == 0 {
            return Ok(());
        }
        let mut areas = self.write();
        let mut code = false;
        let result = self.protect_areas(&mut areas, address, end, rights, &mut code);
        self.settle(&mut areas);
        drop(areas);
        if code {
            self.code_changed();
        }
        result
    }

    fn protect_areas(
        &self,
        areas: &mut Areas,
        address: u64,
        end: u64,
        rights: Rights,
        code: &mut bool,
    ) -> Result<(), Errno> {
        if areas.count() + 2 > MAX_AREAS {
            self.account.areas_reached.store(true, Ordering::Relaxed);
            return Err(Errno::NOMEM);
        }
        let mut at = address;
        while at < end {
            let Some(area) = areas.at(at) else { return Err(Errno::NOMEM) };
            let part_end = area.end.min(end);
            if area.rights == rights {
                at = part_end;
                continue;
            }
            if !area.allowed.contains(rights) {
                return Err(Errno::ACCESS);
            }
            *code |= (area.rights | rights).contains(Rights::EXECUTE);
            for part in areas.remove(at, part_end) {
                let mut changed = part.clone();
                changed.rights = rights;
                changed.was_writable |= rights.contains(Rights::WRITE);
                let more = changed.charge().saturating_sub(part.charge());
                let done = self.account.charge(more).and_then(|()| {
                    areas.charged += more;
                    self.protect_pages(&changed)
                });
                if let Err(errno) = done {
                    areas.insert(part);
                    return Err(errno);
                }
                areas.insert(changed);
            }
            at = part_end;
        }
        Ok(())
    }

    fn protect_pages(&self, area: &Area) -> Result<(), Errno> {
        match area.backed_end - area.start {
            0 => Ok(()),
            length => self.memory.protect(area.start, length, area.rights.host()).map_err(host_error),
        }
    }

    /// Sets the end of the heap and returns it; where that is not possible, returns the old end.
    pub(crate) fn set_break(&self, wanted: u64, data_limit: u64) -> u64 {
        let areas = self.read();
        let (start, old) = (areas.heap_start, areas.heap_end);
        drop(areas);
        if wanted < start || wanted > HIGHEST_ADDRESS || wanted - start > data_limit {
            return old;
        }
        let (Some(old_page), Some(new_page)) = (page_up(old), page_up(wanted)) else { return old };
        let done = if new_page > old_page {
            let rights = Rights::READ | Rights::WRITE;
            let mut request = MapRequest::zeros(old_page, new_page - old_page, rights, "[heap]");
            request.flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED_NOREPLACE;
            self.map(request).map(|_| ())
        } else if new_page < old_page {
            self.unmap(new_page, old_page - new_page)
        } else {
            Ok(())
        };
        if done.is_err() {
            return old;
        }
        self.write().heap_end = wanted;
        wanted
    }

    /// Puts the heap behind the program.
    pub(crate) fn set_heap_start(&self, address: u64) {
        let mut areas = self.write();
        areas.heap_start = address;
        areas.heap_end = address;
    }

    /// Maps of unspecified place go below this address from now on.
    pub(crate) fn set_mmap_top(&self, address: u64) {
        self.write().mmap_top = address;
    }

    /// Changes the size of a mapping, or moves it. Returns where it is.
    ///
    /// `EINVAL` for bad arguments or a shared mapping that would be duplicated; `EFAULT` when the old range is not
    /// one mapping; `ENOMEM` when it cannot grow where it is and may not move, or memory is short.
    pub(crate) fn remap(
        &self,
        old: u64,
        old_length: u64,
        new_length: u64,
        flags: RemapFlags,
    ) -> Result<u64, Errno> {
        let old_length = page_up(old_length).ok_or(Errno::INVAL)?;
        let new_length = page_up(new_length).filter(|length| *length != 0).ok_or(Errno::INVAL)?;
        if !old.is_multiple_of(PAGE_SIZE) || old_length == 0 {
            return Err(Errno::INVAL);
        }
        let old_end = old.checked_add(old_length).ok_or(Errno::INVAL)?;
        let area = self.read().at(old).filter(|area| old_end <= area.end).cloned().ok_or(Errno::FAULT)?;
        if flags.fixed.is_none() && !flags.keep_old {
            if new_length == old_length {
                return Ok(old);
            }
            if new_length < old_length {
                self.unmap(old + new_length, old_length - new_length)?;
                return Ok(old);
            }
            if old_end == area.end && self.grow_in_place(&area, old_end, old + new_length).is_ok() {
                return Ok(old);
            }
            if !flags.may_move {
                return Err(Errno::NOMEM);
            }
        }
        self.move_area(&area, old, old_length, new_length, flags)
    }

    fn grow_in_place(&self, area: &Area, old_end: u64, new_end: u64) -> Result<(), Errno> {
        if new_end > HIGHEST_ADDRESS || !self.read().is_free(old_end, new_end) {
            return Err(Errno::NOMEM);
        }
        self.map(self.same_kind(area, old_end, old_end, new_end - old_end, MapFlags::FIXED_NOREPLACE)?)
            .map(|_| ())
    }

    /// A request for more of what `area` is: the bytes that would be at `from`, mapped at `address`.
    fn same_kind(
        &self,
        area: &Area,
        from: u64,
        address: u64,
        length: u64,
        placement: MapFlags,
    ) -> Result<MapRequest, Errno> {
        let mut flags = placement | if area.shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        if !area.reserve {
            flags |= MapFlags::NORESERVE;
        }
        let (source, name) = match &area.backing {
            Backing::Anonymous { name } => (None, *name),
            Backing::File { file, .. } => {
                let position: Option<Position> = file.position.clone();
                (Some(MapSource::File(file.handle.clone(), position)), "")
            }
            Backing::Memory { object, .. } => {
                let needed = area.offset_at(area.start) + (from - area.start) + length;
                let size = rustix::fs::fstat(&object.file)?.st_size as u64;
                if object.name == b"/dev/zero (deleted)" && size < needed {
                    rustix::fs::ftruncate(&object.file, needed)?;
                }
                (Some(MapSource::Memory(object.clone())), "")
            }
        };
        let offset = match &area.backing {
            Backing::Anonymous { .. } => 0,
            _ => area.offset_at(area.start) + (from - area.start),
        };
        let (rights, allowed) = (area.rights, area.allowed);
        Ok(MapRequest {
            address,
            length,
            rights,
            allowed,
            flags,
            source,
            offset,
            name,
            lowest: LOWEST_ADDRESS,
        })
    }

    fn move_area(
        &self,
        area: &Area,
        old: u64,
        old_length: u64,
        new_length: u64,
        flags: RemapFlags,
    ) -> Result<u64, Errno> {
        let placement = match flags.fixed {
            Some(target) => {
                let end = target.checked_add(new_length).ok_or(Errno::INVAL)?;
                let overlaps = target < old + old_length && old < end;
                if !target.is_multiple_of(PAGE_SIZE) || end > HIGHEST_ADDRESS || overlaps {
                    return Err(Errno::INVAL);
                }
                MapFlags::FIXED
            }
            None => MapFlags::empty(),
        };
        let request = self.same_kind(area, old, flags.fixed.unwrap_or(0), new_length, placement)?;
        let new = self.map(request)?;
        if !area.shared {
            self.copy_private(area, old, new, old_length.min(new_length))?;
        }
        if flags.keep_old {
            self.memory.discard(old, old_length).map_err(host_error)?;
        } else {
            self.unmap(old, old_length)?;
        }
        Ok(new)
    }

    /// Moves the private pages of `area` from one place in this memory to another that maps the same.
    fn copy_private(&self, area: &Area, old: u64, new: u64, length: u64) -> Result<(), Errno> {
        if !area.was_writable {
            return Ok(());
        }
        let backed = area.backed_end.saturating_sub(old).min(length);
        if backed == 0 {
            return Ok(());
        }
        let dirty = self
            .memory
            .dirty_private_pages(old, backed)
            .unwrap_or_else(|| std::iter::once(old..old + backed).collect());
        let both = Protection::ReadWrite;
        if area.rights.is_empty() {
            self.memory.protect(old, backed, both).map_err(host_error)?;
        }
        if !area.rights.contains(Rights::WRITE) {
            self.memory.protect(new, backed, both).map_err(host_error)?;
        }
        for range in dirty {
            let size = (range.end - range.start) as usize;
            self.memory
                .copy_within(new + (range.start - old), range.start, size)
                .map_err(|_| Errno::FAULT)?;
        }
        if !area.rights.contains(Rights::WRITE) {
            self.memory.protect(new, backed, area.rights.host()).map_err(host_error)?;
        }
        Ok(())
    }

    /// Does what `madvise` promises. `EINVAL` for a bad range; `ENOMEM` when a part is not mapped.
    pub(crate) fn advise(&self, address: u64, length: u64, advice: Advice) -> Result<(), Errno> {
        let end = range_end(address, length)?;
        if length == 0 {
            return Ok(());
        }
        let areas = self.write();
        let parts: Vec<Area> = areas.overlapping(address, end).cloned().collect();
        for area in &parts {
            let (start, stop) = (area.start.max(address), area.backed_end.min(end));
            if start >= stop {
                continue;
            }
            match advice {
                Advice::Nothing => {}
                Advice::Drop if area.shared => {}
                Advice::Drop => self.drop_pages(area, start, stop)?,
                Advice::Remove => return Err(Errno::OPNOTSUPP),
            }
        }
        let covered = areas.is_covered(address, end);
        drop(areas);
        if parts.iter().any(|area| area.rights.contains(Rights::EXECUTE)) && advice == Advice::Drop {
            self.code_changed();
        }
        if covered { Ok(()) } else { Err(Errno::NOMEM) }
    }

    fn drop_pages(&self, area: &Area, start: u64, end: u64) -> Result<(), Errno> {
        match &area.backing {
            Backing::File { pages: FilePages::Copied, .. } => self.fill_copied(area, start, end),
            _ => self.memory.discard(start, end - start).map_err(host_error),
        }
    }

    /// Whether a range is mapped without holes; `EINVAL` for a bad range.
    pub(crate) fn covers(&self, address: u64, length: u64) -> Result<bool, Errno> {
        let end = range_end(address, length)?;
        Ok(self.read().is_covered(address, end))
    }

    /// Tells the file system of writes through shared maps in a range (`msync`).
    pub(crate) fn sync(&self, address: u64, length: u64) -> Result<(), Errno> {
        let end = range_end(address, length)?;
        let areas = self.read();
        areas.overlapping(address, end).for_each(written_back);
        if areas.is_covered(address, end) { Ok(()) } else { Err(Errno::NOMEM) }
    }
}

/// The page-aligned end of a range. `EINVAL` unless it starts on a page and ends below 2^64.
fn range_end(address: u64, length: u64) -> Result<u64, Errno> {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL);
    }
    let length = page_up(length).ok_or(Errno::INVAL)?;
    address.checked_add(length).ok_or(Errno::INVAL)
}
