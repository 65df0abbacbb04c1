//! Contents of regular files: clean, in memory, parked, or in a spool.
//!
//! A file starts *clean* (the store has its bytes) or as empty *memory*. A write brings a small file into memory and
//! a larger one into a spool of its own; nothing is copied that a truncation is about to cut off. Memory files go
//! to the shared parking spool when the step's memory is used up. Data that is written in order is hashed on the
//! way, so that only what was written otherwise is read again at the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use rustix::io::Errno;

use super::extents::{Extents, PAGE};
use super::shared::{Budget, Shared};
use super::sync::{read, write};
use super::{AllocateMode, Mapping};
use crate::content::{Backing, Content, ContentId, PackWriter, SpoolFile, SpoolOwner};

/// Files up to this size stay in memory while they are written.
pub(super) const SMALL_FILE: u64 = 64 << 10;
/// Largest size of a file: what a signed 64-bit offset reaches.
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;
/// Spool files that stay open on the host when no guest has them open.
const IDLE_SPOOLS_MAX: u64 = 128;
/// Unit of copies between files.
const COPY_UNIT: usize = 256 << 10;

pub(super) struct FileBody {
    data: RwLock<Data>,
    generation: AtomicU64,
    /// Above zero: how many hold it open for writing. Below: how many forbid that.
    writers: AtomicI64,
    /// How many handles there are, of any kind.
    handles: AtomicUsize,
    shared: Arc<Shared>,
    budget: Arc<Budget>,
}

enum Data {
    Clean { id: ContentId, size: u64, content: Option<Content> },
    Memory(Vec<u8>),
    Parked { offset: u64, length: usize },
    Spool(Spool),
}

struct Spool {
    /// `None` while nobody has the guest file open and there are too many others.
    file: Option<OpenSpool>,
    owner: Option<Box<dyn SpoolOwner>>,
    length: u64,
    extents: Extents,
    /// Hash of the first bytes, as long as they were written in order.
    hasher: Option<(Box<blake3::Hasher>, u64)>,
    /// Mapped shared: the guest may change it at any time without a call.
    mapped: bool,
}

/// A spool file that is open on the host, and counted.
struct OpenSpool {
    file: Arc<File>,
    shared: Arc<Shared>,
}

impl OpenSpool {
    fn new(file: Arc<File>, shared: &Arc<Shared>) -> Self {
        shared.open_spools.fetch_add(1, Ordering::Relaxed);
        Self { file, shared: Arc::clone(shared) }
    }
}

impl Drop for OpenSpool {
    fn drop(&mut self) {
        self.shared.open_spools.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Data {
    const fn size(&self) -> u64 {
        match self {
            Self::Clean { size, .. } => *size,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Parked { length, .. } => *length as u64,
            Self::Spool(spool) => spool.length,
        }
    }

    /// Tells whether the bytes can be read without opening anything.
    const fn is_open(&self) -> bool {
        match self {
            Self::Clean { content, size, .. } => content.is_some() || *size == 0,
            Self::Memory(_) | Self::Parked { .. } => true,
            Self::Spool(spool) => spool.file.is_some(),
        }
    }

    /// What it counts for in the budget.
    const fn charged(&self) -> u64 {
        match self {
            Self::Clean { .. } => 0,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Parked { length, .. } => *length as u64,
            Self::Spool(spool) => spool.extents.total(),
        }
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        let data = self.data.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.budget.refund(data.charged());
        if let Data::Memory(bytes) = data {
            self.shared.memory.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

impl FileBody {
    pub(super) fn clean(shared: Arc<Shared>, budget: Arc<Budget>, id: ContentId, size: u64) -> Self {
        Self::with(shared, budget, Data::Clean { id, size, content: None })
    }

    pub(super) fn empty(shared: Arc<Shared>, budget: Arc<Budget>) -> Self {
        Self::with(shared, budget, Data::Memory(Vec::new()))
    }

    const fn with(shared: Arc<Shared>, budget: Arc<Budget>, data: Data) -> Self {
        let (generation, writers, handles) = (AtomicU64::new(0), AtomicI64::new(0), AtomicUsize::new(0));
        Self { data: RwLock::new(data), generation, writers, handles, shared, budget }
    }

    pub(super) fn size(&self) -> u64 {
        read(&self.data).size()
    }

    /// Space taken, in units of 512 bytes.
    pub(super) fn blocks(&self) -> u64 {
        match &*read(&self.data) {
            Data::Spool(spool) => spool.extents.total() / 512,
            data => data.size().next_multiple_of(PAGE) / 512,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn content_id(&self) -> Option<ContentId> {
        match &*read(&self.data) {
            Data::Clean { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// Counts one more writer; `ETXTBSY` while the file is executed.
    pub(super) fn start_writing(&self) -> Result<(), Errno> {
        let more = |writers: i64| (writers >= 0).then_some(writers + 1);
        let counted = self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        counted.map(|_| ()).map_err(|_| Errno::TXTBSY)
    }

    /// One writer less; the last one may leave the file parked.
    pub(super) fn stop_writing(&self) {
        let last = self.writers.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.shared.memory.load(Ordering::Relaxed) > self.shared.limits.memory_bytes {
            self.park();
        }
    }

    /// One handle more.
    pub(super) fn opened(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    /// One handle less; after the last one the host's file need not stay open.
    pub(super) fn closed(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let crowded = self.shared.open_spools.load(Ordering::Relaxed) > IDLE_SPOOLS_MAX;
        match &mut *write(&self.data) {
            Data::Clean { content, .. } => *content = None,
            Data::Spool(spool) if crowded && !spool.mapped => spool.close(),
            _ => {}
        }
    }

    /// Forbids writing; `ETXTBSY` while somebody does.
    pub(super) fn deny_writing(&self) -> Result<(), Errno> {
        let less = |writers: i64| (writers <= 0).then_some(writers - 1);
        let counted = self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        counted.map(|_| ()).map_err(|_| Errno::TXTBSY)
    }

    pub(super) fn allow_writing(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    fn park(&self) {
        let mut data = write(&self.data);
        let Data::Memory(bytes) = &*data else { return };
        let length = bytes.len();
        // Without room on the host the bytes simply stay where they are.
        if let Ok(offset) = self.shared.park(bytes) {
            self.shared.memory.fetch_sub(length as u64, Ordering::Relaxed);
            *data = Data::Parked { offset, length };
        }
    }

    /// Opens what the bytes are read from: the store's content of a clean file, or the spool.
    fn open_source(&self, data: &mut Data) -> Result<(), Errno> {
        let opened = match data {
            Data::Clean { id, content: content @ None, size } if *size > 0 => {
                self.shared.store.open(id).map(|opened| *content = Some(opened))
            }
            Data::Spool(spool) => spool.reopen(&self.shared),
            _ => Ok(()),
        };
        opened.map_err(|error| self.shared.host(error))
    }

    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        {
            let data = read(&self.data);
            if data.is_open() {
                return self.read_data(&data, offset, buffer).map_err(|error| self.shared.host(error));
            }
        }
        let mut data = write(&self.data);
        self.open_source(&mut data)?;
        self.read_data(&data, offset, buffer).map_err(|error| self.shared.host(error))
    }

    fn read_data(&self, data: &Data, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = data.size().saturating_sub(offset);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..wanted];
        match data {
            Data::Clean { content: Some(content), .. } => return content.read_at(offset, buffer),
            Data::Clean { content: None, .. } => return Err(io::ErrorKind::NotFound.into()),
            // `wanted > 0` means that `offset` lies inside, so it fits.
            Data::Memory(bytes) => buffer.copy_from_slice(&bytes[offset as usize..][..wanted]),
            Data::Parked { offset: start, .. } => self.shared.read_parked(start + offset, buffer)?,
            Data::Spool(spool) => spool.open()?.read_exact_at(buffer, offset)?,
        }
        Ok(wanted)
    }

    /// Writes everything, or nothing. `EFBIG` beyond the largest size, `ENOSPC` over the budget.
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut data = write(&self.data);
        self.write_locked(&mut data, offset, bytes)
    }

    /// Writes at the end; returns the offset after it.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<u64, Errno> {
        let mut data = write(&self.data);
        let offset = data.size();
        self.write_locked(&mut data, offset, bytes)?;
        Ok(offset + bytes.len() as u64)
    }

    fn write_locked(&self, data: &mut Data, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= SIZE_MAX).ok_or(Errno::FBIG)?;
        let keep = data.size();
        self.make_writable(data, keep, end)?;
        match data {
            Data::Memory(memory) => {
                self.resize_memory(memory, memory.len().max(end as usize))?;
                memory[offset as usize..end as usize].copy_from_slice(bytes);
            }
            Data::Spool(spool) => {
                let more = spool.extents.missing(offset, end);
                self.budget.charge(more)?;
                if let Err(error) = spool.write(offset, bytes) {
                    self.budget.refund(more);
                    return Err(self.shared.host(error));
                }
            }
            Data::Clean { .. } | Data::Parked { .. } => return Err(Errno::IO),
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn resize_memory(&self, memory: &mut Vec<u8>, length: usize) -> Result<(), Errno> {
        let (old, new) = (memory.len() as u64, length as u64);
        if new > old {
            self.budget.charge(new - old)?;
            self.shared.memory.fetch_add(new - old, Ordering::Relaxed);
        } else {
            self.budget.refund(old - new);
            self.shared.memory.fetch_sub(old - new, Ordering::Relaxed);
        }
        memory.resize(length, 0);
        Ok(())
    }

    /// Brings the file into memory or a spool with its first `keep` bytes, so that it can become `size` long.
    fn make_writable(&self, data: &mut Data, keep: u64, size: u64) -> Result<(), Errno> {
        let keep = keep.min(data.size());
        let small = keep.max(size) <= SMALL_FILE;
        match data {
            Data::Spool(_) => return self.open_source(data),
            Data::Memory(_) if small => return Ok(()),
            _ if keep > 0 => self.open_source(data)?,
            _ => {}
        }
        let fresh = if small {
            self.copy_to_memory(data, keep)?
        } else {
            Data::Spool(self.copy_to_spool(data, keep)?)
        };
        self.replace(data, fresh);
        Ok(())
    }

    /// Puts other data in place; the fresh data is charged already.
    fn replace(&self, data: &mut Data, fresh: Data) {
        self.budget.refund(data.charged());
        if let Data::Memory(bytes) = data {
            self.shared.memory.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        *data = fresh;
    }

    fn copy_to_memory(&self, data: &Data, keep: u64) -> Result<Data, Errno> {
        self.budget.charge(keep)?;
        let mut bytes = vec![0; keep as usize];
        if let Err(error) = self.read_data(data, 0, &mut bytes) {
            self.budget.refund(keep);
            return Err(self.shared.host(error));
        }
        self.shared.memory.fetch_add(keep, Ordering::Relaxed);
        Ok(Data::Memory(bytes))
    }

    fn copy_to_spool(&self, data: &Data, keep: u64) -> Result<Spool, Errno> {
        let mut extents = Extents::default();
        extents.insert(0, keep);
        self.budget.charge(extents.total())?;
        let fill = || -> io::Result<Spool> {
            let SpoolFile { file, owner } = self.shared.store.spool()?;
            let mut spool = Spool {
                file: Some(OpenSpool::new(file, &self.shared)),
                owner,
                length: 0,
                extents: Extents::default(),
                hasher: Some((Box::default(), 0)),
                mapped: false,
            };
            match data {
                Data::Clean {
                    content: Some(Content { backing: Backing::File { file, offset }, .. }),
                    ..
                } if keep > 0 => {
                    copy_range(file, *offset, spool.open()?, 0, keep)?;
                    spool.hasher = None;
                    spool.length = keep;
                    spool.extents = extents.clone();
                }
                data => {
                    let mut unit = vec![0; COPY_UNIT.min(keep as usize)];
                    while spool.length < keep {
                        let wanted = unit.len().min((keep - spool.length) as usize);
                        let read = self.read_data(data, spool.length, &mut unit[..wanted])?;
                        if read == 0 {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        spool.write(spool.length, &unit[..read])?;
                    }
                }
            }
            Ok(spool)
        };
        fill().map_err(|error| {
            self.budget.refund(extents.total());
            self.shared.host(error)
        })
    }

    /// Sets the size; what is new reads as zeros.
    pub(super) fn truncate(&self, length: u64) -> Result<(), Errno> {
        if length > SIZE_MAX {
            return Err(Errno::FBIG);
        }
        let mut data = write(&self.data);
        if length == data.size() {
            return Ok(());
        }
        if length == 0 && !matches!(&*data, Data::Spool(spool) if spool.mapped) {
            self.replace(&mut data, Data::Memory(Vec::new()));
        } else {
            self.make_writable(&mut data, length, length)?;
            match &mut *data {
                Data::Memory(memory) => self.resize_memory(memory, length as usize)?,
                Data::Spool(spool) => {
                    let before = spool.extents.total();
                    spool.truncate(length).map_err(|error| self.shared.host(error))?;
                    self.budget.refund(before - spool.extents.total());
                }
                Data::Clean { .. } | Data::Parked { .. } => return Err(Errno::IO),
            }
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// `fallocate` once its arguments are checked.
    pub(super) fn allocate(&self, mode: AllocateMode, offset: u64, length: u64) -> Result<(), Errno> {
        let end = offset.checked_add(length).filter(|end| *end <= SIZE_MAX).ok_or(Errno::FBIG)?;
        let zero = mode.intersects(AllocateMode::PUNCH_HOLE | AllocateMode::ZERO_RANGE);
        let keep_size = mode.contains(AllocateMode::KEEP_SIZE);
        let mut data = write(&self.data);
        let size = data.size();
        if !zero && !keep_size && end > size {
            self.make_writable(&mut data, size, end)?;
        } else if zero {
            self.make_writable(&mut data, size, if keep_size { size } else { size.max(end) })?;
        }
        let cut = end.min(size);
        match &mut *data {
            Data::Memory(memory) => {
                if !keep_size && end > size {
                    self.resize_memory(memory, end as usize)?;
                }
                if zero && offset < cut {
                    memory[offset as usize..cut as usize].fill(0);
                }
            }
            Data::Spool(spool) => {
                let before = spool.extents.total();
                if zero && offset < cut {
                    spool.zero(offset, cut).map_err(|error| self.shared.host(error))?;
                    self.budget.refund(before - spool.extents.total());
                }
                if !zero {
                    let end = if keep_size { cut } else { end };
                    self.budget.charge(spool.extents.missing(offset, end.max(offset)))?;
                    spool.extents.insert(offset, end.max(offset));
                }
                if !keep_size && end > size {
                    spool.truncate(end).map_err(|error| self.shared.host(error))?;
                }
            }
            Data::Clean { .. } | Data::Parked { .. } => {}
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// `ENXIO` at or after the end.
    pub(super) fn seek_data(&self, offset: u64) -> Result<u64, Errno> {
        let data = read(&self.data);
        if offset >= data.size() {
            return Err(Errno::NXIO);
        }
        match &*data {
            Data::Spool(spool) if !spool.mapped => {
                spool.extents.data_from(offset).filter(|found| *found < spool.length).ok_or(Errno::NXIO)
            }
            _ => Ok(offset),
        }
    }

    /// `ENXIO` at or after the end, which is a hole itself.
    pub(super) fn seek_hole(&self, offset: u64) -> Result<u64, Errno> {
        let data = read(&self.data);
        if offset >= data.size() {
            return Err(Errno::NXIO);
        }
        match &*data {
            Data::Spool(spool) if !spool.mapped => Ok(spool.extents.hole_from(offset).min(spool.length)),
            data => Ok(data.size()),
        }
    }

    /// Clean contents that lie page-aligned in a host file.
    pub(super) fn mapping(&self) -> Result<Option<Mapping>, Errno> {
        let mut data = write(&self.data);
        if !matches!(&*data, Data::Clean { .. }) {
            return Ok(None);
        }
        self.open_source(&mut data)?;
        match &*data {
            Data::Clean {
                content: Some(Content { backing: Backing::File { file, offset }, length }),
                ..
            } if offset % PAGE == 0 => {
                let (file, offset, length) = (Arc::clone(file), *offset, *length);
                Ok(Some(Mapping { file, offset, length, generation: self.generation() }))
            }
            _ => Ok(None),
        }
    }

    /// Moves the file to a spool for good.
    pub(super) fn map_shared(&self) -> Result<Mapping, Errno> {
        let mut data = write(&self.data);
        let size = data.size();
        self.make_writable(&mut data, size, SMALL_FILE + 1)?;
        let Data::Spool(spool) = &mut *data else { return Err(Errno::IO) };
        if !spool.mapped {
            self.budget.charge(spool.extents.missing(0, spool.length))?;
            spool.extents.insert(0, spool.length);
            spool.mapped = true;
            spool.hasher = None;
        }
        let file = spool.file.as_ref().map(|open| Arc::clone(&open.file)).ok_or(Errno::IO)?;
        let length = spool.length;
        Ok(Mapping { file, offset: 0, length, generation: self.generation() })
    }

    pub(super) fn mark_written(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Copies from another file without passing the guest; returns how much. Overlapping ranges of one file are
    /// the caller's to refuse.
    pub(super) fn copy_from(
        &self,
        source: &Self,
        mut from: u64,
        mut to: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let mut copied = 0;
        let left = source.size().saturating_sub(from).min(length);
        let mut unit = vec![0; COPY_UNIT.min(usize::try_from(left).unwrap_or(COPY_UNIT))];
        while copied < length && !unit.is_empty() {
            let wanted = unit.len().min(usize::try_from(length - copied).unwrap_or(usize::MAX));
            let read = source.read_at(from, &mut unit[..wanted])?;
            if read == 0 {
                break;
            }
            match self.write_at(to, &unit[..read]) {
                Ok(()) => {}
                Err(_) if copied > 0 => break,
                Err(errno) => return Err(errno),
            }
            let read = read as u64;
            (copied, from, to) = (copied + read, from + read, to + read);
        }
        Ok(copied)
    }

    /// Id and size of the bytes, when they are in the store or empty.
    pub(super) fn stored(&self) -> Option<(ContentId, u64)> {
        match &*read(&self.data) {
            Data::Clean { id, size, .. } => Some((*id, *size)),
            Data::Memory(bytes) if bytes.is_empty() => Some((ContentId::EMPTY, 0)),
            _ => None,
        }
    }

    /// Puts the bytes into a pack; [`settle`](Self::settle) follows when the pack is finished.
    pub(super) fn pack(&self, pack: &mut dyn PackWriter) -> io::Result<Option<Packed>> {
        let mut data = write(&self.data);
        let packed = match &mut *data {
            Data::Clean { .. } => return Ok(None),
            Data::Memory(bytes) => Packed { id: pack.add_bytes(bytes)?, size: bytes.len() as u64 },
            Data::Parked { offset, length } => {
                let mut bytes = vec![0; *length];
                self.shared.read_parked(*offset, &mut bytes)?;
                Packed { id: pack.add_bytes(&bytes)?, size: bytes.len() as u64 }
            }
            Data::Spool(spool) => {
                spool.reopen(&self.shared)?;
                let (id, size) = (spool.content_id()?, spool.length);
                let open = spool.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
                let file = SpoolFile { file: Arc::clone(&open.file), owner: spool.owner.take() };
                // Cut or padded so that what is adopted is exactly the file.
                file.file.set_len(size)?;
                pack.adopt(file, id, size)?;
                spool.file = None;
                Packed { id, size }
            }
        };
        Ok(Some(packed))
    }

    /// The bytes are in the store now.
    pub(super) fn settle(&self, packed: Packed) {
        let mut data = write(&self.data);
        let fresh = Data::Clean { id: packed.id, size: packed.size, content: None };
        self.replace(&mut data, fresh);
    }
}

/// A content that is in a pack.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    pub(super) id: ContentId,
    pub(super) size: u64,
}

impl Spool {
    fn open(&self) -> io::Result<&File> {
        self.file.as_ref().map(|open| &*open.file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn reopen(&mut self, shared: &Arc<Shared>) -> io::Result<()> {
        if self.file.is_none() {
            let file = self.owner.as_ref().ok_or(io::ErrorKind::NotFound)?.reopen()?;
            self.file = Some(OpenSpool::new(Arc::new(file), shared));
        }
        Ok(())
    }

    /// Closes the host's file, if it can be opened again.
    fn close(&mut self) {
        if self.owner.as_ref().is_some_and(|owner| owner.can_reopen()) {
            self.file = None;
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.open()?.write_all_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        self.extents.insert(offset, end);
        self.length = self.length.max(end);
        match &mut self.hasher {
            Some((hasher, hashed)) if *hashed == offset => {
                hasher.update(bytes);
                *hashed = end;
            }
            Some((_, hashed)) if offset < *hashed => self.hasher = None,
            _ => {}
        }
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.open()?.set_len(length)?;
        self.extents.remove(length, u64::MAX);
        self.length = length;
        if self.hasher.as_ref().is_some_and(|(_, hashed)| *hashed > length) {
            self.hasher = None;
        }
        Ok(())
    }

    /// Makes a range read as zeros and gives its whole pages back.
    fn zero(&mut self, start: u64, end: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(self.open()?, punch, start, end - start).is_err() {
            let zeros = vec![0; COPY_UNIT];
            let mut offset = start;
            while offset < end {
                let unit = ((end - offset) as usize).min(zeros.len());
                self.open()?.write_all_at(&zeros[..unit], offset)?;
                offset += unit as u64;
            }
        }
        self.extents.remove(start, end);
        if self.hasher.as_ref().is_some_and(|(_, hashed)| *hashed > start) {
            self.hasher = None;
        }
        Ok(())
    }

    fn content_id(&mut self) -> io::Result<ContentId> {
        let (mut hasher, mut offset) = match self.hasher.take() {
            Some((hasher, hashed)) if !self.mapped => (hasher, hashed),
            _ => (Box::default(), 0),
        };
        let mut unit = vec![0; COPY_UNIT];
        while offset < self.length {
            let wanted = unit.len().min(usize::try_from(self.length - offset).unwrap_or(usize::MAX));
            self.open()?.read_exact_at(&mut unit[..wanted], offset)?;
            hasher.update(&unit[..wanted]);
            offset += wanted as u64;
        }
        Ok(ContentId(*hasher.finalize().as_bytes()))
    }
}

/// Copies between host files, in the host's kernel where it can.
fn copy_range(
    from: &std::fs::File,
    mut from_offset: u64,
    to: &std::fs::File,
    mut to_offset: u64,
    mut length: u64,
) -> io::Result<()> {
    let mut unit = Vec::new();
    while length > 0 {
        let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
        let (mut source, mut target) = (from_offset, to_offset);
        let copied = if unit.is_empty() {
            rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), wanted).unwrap_or(0)
        } else {
            0
        };
        let copied = if copied > 0 {
            copied
        } else {
            unit.resize(COPY_UNIT, 0);
            let wanted = wanted.min(COPY_UNIT);
            from.read_exact_at(&mut unit[..wanted], from_offset)?;
            to.write_all_at(&unit[..wanted], to_offset)?;
            wanted
        } as u64;
        (from_offset, to_offset, length) = (from_offset + copied, to_offset + copied, length - copied);
    }
    Ok(())
}
