//! Address spaces.
//!
//! An [`AddressSpace`] is the memory of a guest process: a window of host addresses ([`GuestMemory`]) and the list of
//! areas ([`area::Areas`]) that says what is where. The list is the truth; every change of it is mirrored into the
//! window with the list locked. File pages are mapped where the virtual file system has them, so programs and
//! libraries are not read, and a fork shares them.
//!
//! What must hold: a page is accessible in the window only if an area says so; pages behind the end of a file are not
//! mapped at all (a pack holds other files there); whoever changes an executable area raises the generation and then
//! stops the threads that run in this memory.

mod access;
pub mod annex;
pub(crate) mod area;
mod calls;
mod compare;
mod fork;
pub(crate) mod segment;
pub(crate) mod watch;

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use cooper_vfs::{Errno, FileHandle, NodeRef, Position, WriteDenial};
use cooper_x86::code::{CodeId, CodeMap, CodeRange, CodeSource};
use cooper_x86::memory::{Access, GUEST_SIZE, GuestMemory, PAGE_SIZE, Sharing};

use crate::task::Task;
use crate::wait::lock;
use area::{Area, Areas, Backing, FilePages, page_down, page_up};

pub use access::Plain;
pub use area::{Rights, SharedMemory};
pub(crate) use calls::{Advice, MapFlags, MapRequest, RemapFlags};

/// The lowest address a guest can map (`vm.mmap_min_addr`).
pub(crate) const LOWEST_ADDRESS: u64 = 64 << 10;
/// Guest memory ends here: one guard page below 4 GiB, so that no access wraps.
pub(crate) const HIGHEST_ADDRESS: u64 = GUEST_SIZE - PAGE_SIZE;
/// The most areas of one address space; then `ENOMEM`, as with Linux's `max_map_count`.
const MAX_AREAS: usize = 8192;
/// The most areas of all address spaces of a step: the host allows 65,530 maps to a process.
const MAX_STEP_AREAS: usize = 48_000;
/// Files up to this size that cannot be mapped in place are read instead of moved to a spool.
const COPY_LIMIT: u64 = 64 << 10;

/// What all address spaces of a step use together.
#[derive(Debug)]
pub struct MemoryAccount {
    limit: u64,
    charged: AtomicU64,
    peak: AtomicU64,
    areas: AtomicUsize,
    limit_reached: AtomicBool,
    areas_reached: AtomicBool,
    next_object: AtomicU64,
}

impl MemoryAccount {
    /// An account of `limit` bytes.
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            charged: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            areas: AtomicUsize::new(0),
            limit_reached: AtomicBool::new(false),
            areas_reached: AtomicBool::new(false),
            next_object: AtomicU64::new(1),
        })
    }

    /// Bytes in use.
    pub(crate) fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Whether the limit of bytes, and that of maps, was reached.
    pub(crate) fn reached(&self) -> (bool, bool) {
        (self.limit_reached.load(Ordering::Relaxed), self.areas_reached.load(Ordering::Relaxed))
    }

    fn charge(&self, bytes: u64) -> Result<(), Errno> {
        let before = self.charged.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            self.charged.fetch_sub(bytes, Ordering::Relaxed);
            self.limit_reached.store(true, Ordering::Relaxed);
            return Err(Errno::NOMEM);
        }
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Remembers that more was used than charged.
    fn exceed(&self) {
        self.limit_reached.store(true, Ordering::Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.charged.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A number for a new shared object.
    pub fn object_id(&self) -> u64 {
        self.next_object.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a descriptor gives to `mmap`.
#[derive(Debug)]
pub(crate) enum MapSource {
    /// A regular file and the name it was opened by.
    File(FileHandle, Option<Position>),
    /// A segment or another host file without a name.
    Memory(Arc<SharedMemory>),
    /// `/dev/zero`.
    Zero,
}

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultCause {
    /// It would work now: try again.
    Retry,
    /// No area there (`SEGV_MAPERR`).
    NoArea,
    /// The area does not allow it (`SEGV_ACCERR`).
    NoRight,
    /// Beyond the end of the file (`SIGBUS`, `BUS_ADRERR`).
    BeyondFile,
}

/// What names a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum FutexKey {
    /// A word of private memory: address space and address.
    Private(u64, u64),
    /// A word of a shared object: object and offset.
    Object(u64, u64),
    /// A word of a file: inode and offset.
    File(u64, u64),
}

/// One line of `/proc/self/maps`.
#[derive(Clone, Debug)]
pub(crate) struct AreaInfo {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) rights: Rights,
    pub(crate) shared: bool,
    pub(crate) offset: u64,
    /// The file, if it is one with a name.
    pub(crate) position: Option<Position>,
    /// `[heap]`, `[stack]`, the name of a memory object, or nothing.
    pub(crate) name: Vec<u8>,
}

/// Addresses that `/proc` shows and `prctl(PR_SET_MM)` would change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) arguments: (u64, u64),
    pub(crate) environment: (u64, u64),
    pub(crate) auxiliary: (u64, u64),
    pub(crate) stack_start: u64,
}

/// The memory of a guest process.
#[derive(Debug)]
pub struct AddressSpace {
    pub(crate) memory: GuestMemory,
    areas: RwLock<Areas>,
    generation: AtomicU64,
    members: Mutex<Vec<Weak<Task>>>,
    account: Arc<MemoryAccount>,
    id: u64,
    pub(crate) layout: Mutex<Layout>,
    /// Keeps the program's file from being written.
    executable: Mutex<Option<Arc<WriteDenial>>>,
    /// What runs here instead of machine code.
    wasm: OnceLock<annex::Wasm>,
}

impl AddressSpace {
    /// An empty address space. `ENOMEM` when the host has no window left.
    pub(crate) fn new(account: &Arc<MemoryAccount>) -> Result<Self, Errno> {
        let memory = GuestMemory::reserve().map_err(host_error)?;
        let areas = Areas { mmap_top: HIGHEST_ADDRESS, ..Areas::default() };
        Ok(Self {
            memory,
            areas: RwLock::new(areas),
            generation: AtomicU64::new(1),
            members: Mutex::default(),
            account: account.clone(),
            id: account.object_id(),
            layout: Mutex::default(),
            executable: Mutex::default(),
            wasm: OnceLock::new(),
        })
    }

    /// Keeps the program's file from being written while this memory lives.
    pub(crate) fn keep_executable(&self, denial: WriteDenial) {
        *lock(&self.executable) = Some(Arc::new(denial));
    }

    /// The window, for those who run guest code.
    pub fn guest_memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Makes `task` one of the threads that are stopped when code changes.
    pub(crate) fn join(&self, task: &Arc<Task>) {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(task));
    }

    /// Bytes charged to the step for this memory (`VmData` and so on).
    pub(crate) fn charged(&self) -> u64 {
        self.read().charged
    }

    /// Lists the areas for `/proc`.
    pub(crate) fn list(&self) -> Vec<AreaInfo> {
        self.read().iter().map(describe).collect()
    }

    /// The key of the futex at `address`. `EFAULT` when nothing is mapped there.
    pub(crate) fn futex_key(&self, address: u64, private: bool) -> Result<FutexKey, Errno> {
        let own = FutexKey::Private(self.id, address);
        if private {
            return Ok(own);
        }
        let areas = self.read();
        let area = areas.at(address).ok_or(Errno::FAULT)?;
        Ok(match &area.backing {
            Backing::File { file, .. } if area.shared => {
                FutexKey::File(file.handle.node().inode(), area.offset_at(address))
            }
            Backing::Memory { object, .. } if area.shared => {
                FutexKey::Object(object.id, area.offset_at(address))
            }
            _ => own,
        })
    }

    /// Mends what made an access fail, where nothing of it is the guest's business, such as a file that has grown since its pages
    /// were mapped; whether it did. Takes locks of this memory and allocates.
    pub fn mend(&self, address: u64, access: Access) -> bool {
        matches!(self.fault_cause(address, access), FaultCause::Retry)
    }

    /// Finds out why an access failed; pages of a file that has grown meanwhile are mapped now.
    pub(crate) fn fault_cause(&self, address: u64, access: Access) -> FaultCause {
        let mut areas = self.write();
        let Some(area) = areas.at_mut(address) else { return FaultCause::NoArea };
        let needed = match access {
            Access::Read => Rights::READ | Rights::WRITE | Rights::EXECUTE,
            Access::Write => Rights::WRITE,
            Access::Execute => Rights::EXECUTE,
        };
        if !area.rights.intersects(needed) {
            return FaultCause::NoRight;
        }
        if address >= area.backed_end {
            return match self.extend_backing(area) {
                Ok(()) if address < area.backed_end => FaultCause::Retry,
                _ => FaultCause::BeyondFile,
            };
        }
        if matches!(area.backing, Backing::File { .. } | Backing::Memory { .. }) {
            // The host took the page away on a SIGBUS of its own: the host file is shorter than the mapping.
            return FaultCause::BeyondFile;
        }
        let page = page_down(address);
        match self.memory.protect(page, PAGE_SIZE, area.rights.host()) {
            Ok(()) => FaultCause::Retry,
            Err(_) => FaultCause::NoRight,
        }
    }

    /// Maps pages that a file has now and had not when it was mapped.
    fn extend_backing(&self, area: &mut Area) -> Result<(), Errno> {
        let Backing::File { file, offset, pages: FilePages::Spool } = &area.backing else { return Ok(()) };
        let Some((host, first)) = &file.place else { return Ok(()) };
        let available = page_up(file.handle.size().saturating_sub(*offset)).unwrap_or(0);
        let backed_end = area.end.min(area.start.saturating_add(available));
        if backed_end <= area.backed_end {
            return Ok(());
        }
        let from = area.backed_end;
        let sharing = if area.shared { Sharing::Shared } else { Sharing::Private };
        let host_offset = first + offset + (from - area.start);
        self.memory
            .map_file(from, backed_end - from, area.rights.host(), host.as_fd(), host_offset, sharing)
            .map_err(host_error)?;
        area.backed_end = backed_end;
        Ok(())
    }

    /// Whether a shared mapping of a file is or may become writable.
    pub(crate) fn shares_writable(&self, node: &NodeRef) -> bool {
        self.read().iter().any(|area| {
            let Backing::File { file, .. } = &area.backing else { return false };
            area.shared && area.allowed.contains(Rights::WRITE) && file.handle.node() == *node
        })
    }

    /// Takes away what lies behind the new end of a file: an access there is `SIGBUS` until the file grows again.
    pub(crate) fn file_shrunk(&self, node: &NodeRef, size: u64) {
        let mut areas = self.write();
        let mut code = false;
        for area in areas.map.values_mut() {
            let Backing::File { file, offset, .. } = &area.backing else { continue };
            if file.handle.node() != *node {
                continue;
            }
            let available = page_up(size.saturating_sub(*offset)).unwrap_or(0);
            let end = area.end.min(area.start.saturating_add(available));
            // A host that cannot take pages away leaves them there, and the guest sees old bytes instead of a signal.
            if end < area.backed_end && self.memory.unmap(end, area.backed_end - end).is_ok() {
                area.backed_end = end;
                code |= area.rights.contains(Rights::EXECUTE);
            }
        }
        drop(areas);
        if code {
            self.code_changed();
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Areas> {
        self.areas.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Areas> {
        self.areas.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who runs in this memory that executable areas have changed.
    fn code_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let members = lock(&self.members);
        if members.len() > 1 {
            members.iter().filter_map(Weak::upgrade).for_each(|task| task.stop.raise());
        }
    }
}

impl CodeMap for AddressSpace {
    fn code_at(&self, pc: u64) -> Option<CodeRange> {
        let areas = self.read();
        let area =
            areas.at(pc).filter(|area| pc < area.backed_end && area.rights.contains(Rights::EXECUTE))?;
        let source = match &area.backing {
            Backing::File { file, offset, pages: FilePages::Pack | FilePages::Copied }
                if !area.was_writable =>
            {
                file.code.map_or(CodeSource::Generated, |id| CodeSource::File { id, offset: *offset })
            }
            _ => CodeSource::Generated,
        };
        Some(CodeRange { start: area.start, end: area.backed_end, source })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        let areas = self.areas.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.account.release(areas.charged);
        self.account.areas.fetch_sub(areas.counted, Ordering::Relaxed);
        for area in areas.iter() {
            written_back(area);
        }
    }
}

/// Tells the file system that a shared mapping may have changed a file.
fn written_back(area: &Area) {
    if let (true, true, Backing::File { file, .. }) = (area.shared, area.was_writable, &area.backing) {
        file.handle.mark_written();
    }
}

fn describe(area: &Area) -> AreaInfo {
    let (position, name, offset) = match &area.backing {
        Backing::Anonymous { name } => (None, name.as_bytes().to_vec(), 0),
        Backing::File { file, offset, .. } => (file.position.clone(), Vec::new(), *offset),
        Backing::Memory { object, offset } => (None, object.name.clone(), *offset),
    };
    let (start, end, rights, shared) = (area.start, area.end, area.rights, area.shared);
    AreaInfo { start, end, rights, shared, offset, position, name }
}

/// What a failing host call means to the guest: the host's own trouble is always a lack of memory.
fn host_error(_: std::io::Error) -> Errno {
    Errno::NOMEM
}

/// A new unnamed host file of `length` bytes for shared memory.
pub(crate) fn shared_memory(
    account: &MemoryAccount,
    name: &[u8],
    length: u64,
) -> Result<SharedMemory, Errno> {
    let file = File::from(rustix::fs::memfd_create(c"guest", rustix::fs::MemfdFlags::CLOEXEC)?);
    rustix::fs::ftruncate(&file, length)?;
    Ok(SharedMemory { file, id: account.object_id(), name: name.to_vec() })
}

/// The identity of a file's bytes for the code cache.
fn code_id(handle: &FileHandle) -> Option<CodeId> {
    handle.content_id().map(|id| CodeId(id.0))
}

#[cfg(test)]
mod tests;
