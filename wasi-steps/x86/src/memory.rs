//! Guest memory: a 4 GiB window of host address space and the only accesses to it.
//!
//! A [`GuestMemory`] reserves the window without access rights; the kernel's memory map puts anonymous pages and files
//! into it. Guest addresses are 64-bit numbers from 0: one outside the window is a [`Fault`] and never an alias of an
//! address inside. Every access is an assembly instruction that has an entry in a table of the executable; when it
//! faults, the signal handler finds the entry and resumes at a fix-up that reports the fault. No access is checked
//! beforehand, so another thread may unmap or truncate at any time.
//!
//! What must hold: [`install_fault_handler`] has run before a bad access can happen (`reserve` runs it); guest pages
//! never have host execute rights; Rust references into guest memory never exist, because other threads and processes write
//! it at will.
#![allow(unsafe_code, reason = "guest memory is raw host memory, accessed by assembly with a fault table")]

use std::arch::asm;
use std::arch::x86_64::__m128i;
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};

/// Size of a guest's address window in bytes.
pub const GUEST_SIZE: u64 = 1 << 32;
/// Size of a guest page in bytes, equal to the host's.
pub const PAGE_SIZE: u64 = 4096;

/// Inaccessible bytes behind the window: an access that begins inside and ends outside faults. Translated code folds
/// displacements below 64 KiB into its accesses, which may be wide besides.
pub const GUARD_SIZE: usize = 1 << 17;
/// Windows without a guest that are kept for the next one.
const MAX_IDLE: usize = 32;
/// How many windows a host process can have at once: one for each guest process.
const MAX_RESERVATIONS: usize = 8192;

/// What an access wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Execute,
}

/// A guest access that the page's mapping does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest {access:?} access faults: {address:#x}")]
pub struct Fault {
    /// Guest address of the first byte that could not be accessed.
    pub address: u64,
    /// What was wanted.
    pub access: Access,
}

/// A copy that met a fault after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} after {done} bytes")]
pub struct CopyFault {
    /// How many bytes were copied before the fault.
    pub done: usize,
    /// Where it stopped.
    pub fault: Fault,
}

impl From<CopyFault> for Fault {
    fn from(copy: CopyFault) -> Self {
        copy.fault
    }
}

/// Why a guest string could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CStringError {
    /// Memory ended before the string.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// No zero byte within the allowed length.
    #[error("guest string is longer than {0} bytes")]
    TooLong(usize),
}

/// What the host lets accesses do. Guest execute rights are the kernel's record: an execute-only guest page is `Read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No access.
    None,
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
}

impl Protection {
    fn bits(self) -> libc::c_int {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// Whether stores to a mapped file reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Copy on write.
    Private,
    /// Stores reach the file and other mappings of it.
    Shared,
}

mod sealed {
    /// The accesses of one operand size, each `Err(())` when it faulted.
    pub trait Sealed: Sized {
        /// Loads from a host address inside a window.
        ///
        /// # Safety
        /// The address and the bytes behind it lie in a reservation and its guard.
        unsafe fn load_at(pointer: *const u8) -> Result<Self, ()>;
        /// Stores to a host address inside a window.
        ///
        /// # Safety
        /// As for `load_at`.
        unsafe fn store_at(pointer: *mut u8, value: Self) -> Result<(), ()>;
    }

    /// The locked accesses of one operand size.
    pub trait SealedAtomic: Sealed {
        /// `xchg`.
        ///
        /// # Safety
        /// As for `load_at`.
        unsafe fn exchange_at(pointer: *mut u8, value: Self) -> Result<Self, ()>;
        /// `lock xadd`.
        ///
        /// # Safety
        /// As for `load_at`.
        unsafe fn fetch_add_at(pointer: *mut u8, value: Self) -> Result<Self, ()>;
        /// `lock cmpxchg`: the old value, which equals `expected` exactly when the store happened.
        ///
        /// # Safety
        /// As for `load_at`.
        unsafe fn compare_exchange_at(pointer: *mut u8, expected: Self, new: Self) -> Result<Self, ()>;
    }
}

/// A value that one instruction loads or stores: `u8`, `u16`, `u32`, `u64`, `u128`, `__m128i`.
pub trait Scalar: Copy + sealed::Sealed {}

/// An integer that locked instructions work on: `u8`, `u16`, `u32`, `u64`.
pub trait AtomicScalar: Scalar + PartialEq + sealed::SealedAtomic {
    /// Bitwise and.
    fn and(self, other: Self) -> Self;
    /// Bitwise or.
    fn or(self, other: Self) -> Self;
    /// Bitwise exclusive or.
    fn xor(self, other: Self) -> Self;
}

// The table entry for the instruction at label 2, which on a fault goes on at label 3, which sets `{f}` and returns to
// label 4. Both offsets are relative to their own place, so a position-independent executable needs no relocations.
// "R" keeps the section although no symbol refers to it.
macro_rules! guarded {
    ($instruction:expr) => {
        concat!(
            "2: ",
            $instruction,
            "\n4:\n",
            ".pushsection cooper_guest_faults,\"aR\",@progbits\n.balign 4\n.long 2b - .\n.long 3f - .\n.popsection\n",
            ".pushsection .text.unlikely.cooper_guest_faults,\"ax\",@progbits\n",
            "3: mov {f:e}, 1\njmp 4b\n.popsection"
        )
    };
}

macro_rules! scalar {
    ($type:ty, $part:literal, $size:literal, $load:literal) => {
        impl sealed::Sealed for $type {
            #[inline(always)]
            unsafe fn load_at(pointer: *const u8) -> Result<Self, ()> {
                let value: u64;
                let mut failed: u32 = 0;
                // SAFETY: reads guest memory through no Rust reference; a fault only sets `failed`.
                unsafe {
                    asm!(
                        guarded!(concat!($load, ", ", $size, " ptr [{p}]")),
                        p = in(reg) pointer,
                        v = out(reg) value,
                        f = inout(reg) failed,
                        options(readonly, nostack, preserves_flags)
                    );
                }
                if failed == 0 { Ok(value as $type) } else { Err(()) }
            }

            #[inline(always)]
            unsafe fn store_at(pointer: *mut u8, value: Self) -> Result<(), ()> {
                let mut failed: u32 = 0;
                // SAFETY: writes guest memory, to which no Rust reference exists; a fault only sets `failed`.
                unsafe {
                    asm!(
                        guarded!(concat!("mov ", $size, " ptr [{p}], {v:", $part, "}")),
                        p = in(reg) pointer,
                        v = in(reg) u64::from(value),
                        f = inout(reg) failed,
                        options(nostack, preserves_flags)
                    );
                }
                if failed == 0 { Ok(()) } else { Err(()) }
            }
        }

        impl sealed::SealedAtomic for $type {
            #[inline(always)]
            unsafe fn exchange_at(pointer: *mut u8, value: Self) -> Result<Self, ()> {
                let mut value = u64::from(value);
                let mut failed: u32 = 0;
                // SAFETY: as for `store_at`.
                unsafe {
                    asm!(
                        guarded!(concat!("xchg ", $size, " ptr [{p}], {v:", $part, "}")),
                        p = in(reg) pointer,
                        v = inout(reg) value,
                        f = inout(reg) failed,
                        options(nostack, preserves_flags)
                    );
                }
                if failed == 0 { Ok(value as $type) } else { Err(()) }
            }

            #[inline(always)]
            unsafe fn fetch_add_at(pointer: *mut u8, value: Self) -> Result<Self, ()> {
                let mut value = u64::from(value);
                let mut failed: u32 = 0;
                // SAFETY: as for `store_at`.
                unsafe {
                    asm!(
                        guarded!(concat!("lock xadd ", $size, " ptr [{p}], {v:", $part, "}")),
                        p = in(reg) pointer,
                        v = inout(reg) value,
                        f = inout(reg) failed,
                        options(nostack)
                    );
                }
                if failed == 0 { Ok(value as $type) } else { Err(()) }
            }

            #[inline(always)]
            unsafe fn compare_exchange_at(pointer: *mut u8, expected: Self, new: Self) -> Result<Self, ()> {
                let mut old = u64::from(expected);
                let mut failed: u32 = 0;
                // SAFETY: as for `store_at`.
                unsafe {
                    asm!(
                        guarded!(concat!("lock cmpxchg ", $size, " ptr [{p}], {v:", $part, "}")),
                        p = in(reg) pointer,
                        v = in(reg) u64::from(new),
                        f = inout(reg) failed,
                        inout("rax") old,
                        options(nostack)
                    );
                }
                if failed == 0 { Ok(old as $type) } else { Err(()) }
            }
        }

        impl Scalar for $type {}

        impl AtomicScalar for $type {
            fn and(self, other: Self) -> Self {
                self & other
            }
            fn or(self, other: Self) -> Self {
                self | other
            }
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
        }
    };
}

scalar!(u8, "l", "byte", "movzx {v:e}");
scalar!(u16, "x", "word", "movzx {v:e}");
scalar!(u32, "e", "dword", "mov {v:e}");
scalar!(u64, "r", "qword", "mov {v:r}");

impl sealed::Sealed for __m128i {
    #[inline(always)]
    unsafe fn load_at(pointer: *const u8) -> Result<Self, ()> {
        let value: Self;
        let mut failed: u32 = 0;
        // SAFETY: reads guest memory through no Rust reference; a fault only sets `failed`.
        unsafe {
            asm!(
                guarded!("movups {v}, xmmword ptr [{p}]"),
                p = in(reg) pointer,
                v = out(xmm_reg) value,
                f = inout(reg) failed,
                options(readonly, nostack, preserves_flags)
            );
        }
        if failed == 0 { Ok(value) } else { Err(()) }
    }

    #[inline(always)]
    unsafe fn store_at(pointer: *mut u8, value: Self) -> Result<(), ()> {
        let mut failed: u32 = 0;
        // SAFETY: writes guest memory, to which no Rust reference exists; a fault only sets `failed`.
        unsafe {
            asm!(
                guarded!("movups xmmword ptr [{p}], {v}"),
                p = in(reg) pointer,
                v = in(xmm_reg) value,
                f = inout(reg) failed,
                options(nostack, preserves_flags)
            );
        }
        if failed == 0 { Ok(()) } else { Err(()) }
    }
}

impl Scalar for __m128i {}

impl sealed::Sealed for u128 {
    #[inline(always)]
    unsafe fn load_at(pointer: *const u8) -> Result<Self, ()> {
        // SAFETY: the caller's promise; both types are 16 plain bytes.
        unsafe { Ok(std::mem::transmute::<__m128i, Self>(__m128i::load_at(pointer)?)) }
    }

    #[inline(always)]
    unsafe fn store_at(pointer: *mut u8, value: Self) -> Result<(), ()> {
        // SAFETY: the caller's promise; both types are 16 plain bytes.
        unsafe { __m128i::store_at(pointer, std::mem::transmute::<Self, __m128i>(value)) }
    }
}

impl Scalar for u128 {}

/// Copies with one `rep movsb`; the number of bytes not copied.
///
/// # Safety
/// Each side is guest memory of a live reservation or a valid buffer of `count` bytes.
unsafe fn copy_bytes(to: *mut u8, from: *const u8, count: usize) -> usize {
    let mut left = count;
    let mut _failed: u32 = 0;
    // SAFETY: the caller's promise. A fault leaves the count of bytes still to copy in rcx.
    unsafe {
        asm!(
            guarded!("rep movsb"),
            f = inout(reg) _failed,
            inout("rcx") left,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
    left
}

/// Stores `value` into `count` bytes; the number of bytes not stored.
///
/// # Safety
/// The range is guest memory of a live reservation.
unsafe fn fill_bytes(to: *mut u8, value: u8, count: usize) -> usize {
    let mut left = count;
    let mut _failed: u32 = 0;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            guarded!("rep stosb"),
            f = inout(reg) _failed,
            inout("rcx") left,
            inout("rdi") to => _,
            in("al") value,
            options(nostack, preserves_flags)
        );
    }
    left
}

thread_local! {
    /// Host address of the last access of this thread that the handler repaired.
    static LAST_FAULT: Cell<usize> = const { Cell::new(0) };
}

/// A guest's memory window.
///
/// The reservation is used again by later guests: [`window`](Self::window) is what those keep who have made something
/// for the addresses, such as an engine's store.
#[derive(Debug)]
pub struct GuestMemory {
    base: *mut u8,
    window: Option<Arc<Window>>,
}

/// A reservation of host addresses, whoever the guest in it is.
#[derive(Debug)]
pub struct Window {
    base: *mut u8,
    slot: usize,
}

impl Window {
    /// Host address of guest address 0.
    pub fn base(&self) -> *mut u8 {
        self.base
    }
}

// SAFETY: a window is addresses; see `GuestMemory`.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

/// Empty windows, the last used at the end.
static IDLE: Mutex<Vec<Arc<Window>>> = Mutex::new(Vec::new());

// SAFETY: the window is shared memory by design; all accesses are single instructions that tolerate races.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Reserves an empty window, in which every access faults.
    ///
    /// Fails with the host's error, and with `ENOMEM` when this process already has the highest number of windows.
    pub fn reserve() -> io::Result<Self> {
        if let Some(window) = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(Self { base: window.base, window: Some(window) });
        }
        install_fault_handler();
        // SAFETY: a new mapping at an address of the host kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                GUEST_SIZE as usize + GUARD_SIZE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match register(base as usize) {
            Some(slot) => {
                let base = base.cast();
                Ok(Self { base, window: Some(Arc::new(Window { base, slot })) })
            }
            None => {
                // SAFETY: unmaps what was just mapped.
                unsafe { libc::munmap(base, GUEST_SIZE as usize + GUARD_SIZE) };
                Err(io::Error::from_raw_os_error(libc::ENOMEM))
            }
        }
    }

    /// Host address of guest address 0.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// The reservation.
    pub fn window(&self) -> Option<&Arc<Window>> {
        self.window.as_ref()
    }

    #[inline(always)]
    fn pointer(&self, address: u64) -> *mut u8 {
        self.base.wrapping_add(address as usize)
    }

    /// What the access at `address` that just failed ran into.
    #[cold]
    #[inline(never)]
    fn fault(&self, address: u64, access: Access) -> Fault {
        let exact = (LAST_FAULT.get() as u64).wrapping_sub(self.base as u64);
        let address = if address < GUEST_SIZE && exact >= address && exact - address < PAGE_SIZE {
            exact
        } else {
            address
        };
        Fault { address, access }
    }

    #[inline(always)]
    fn single<T>(
        &self,
        address: u64,
        access: Access,
        work: impl FnOnce(*mut u8) -> Result<T, ()>,
    ) -> Result<T, Fault> {
        if address < GUEST_SIZE
            && let Ok(value) = work(self.pointer(address))
        {
            return Ok(value);
        }
        Err(self.fault(address, access))
    }

    /// As [`load`](Self::load) without saying why not: the caller has [`failed`](Self::failed) for that.
    #[inline(always)]
    pub(crate) fn try_load<T: Scalar>(&self, address: u64) -> Option<T> {
        if address >= GUEST_SIZE {
            return None;
        }
        // SAFETY: the address is in the window; what is behind it is the guard.
        unsafe { T::load_at(self.pointer(address)) }.ok()
    }

    /// As [`store`](Self::store) without saying why not.
    #[inline(always)]
    pub(crate) fn try_store<T: Scalar>(&self, address: u64, value: T) -> Option<()> {
        if address >= GUEST_SIZE {
            return None;
        }
        // SAFETY: as in `try_load`.
        unsafe { T::store_at(self.pointer(address), value) }.ok()
    }

    /// What the access that just failed ran into.
    #[cold]
    pub(crate) fn failed(&self, address: u64, access: Access) -> Fault {
        self.fault(address, access)
    }

    /// Loads a value with one instruction.
    #[inline(always)]
    pub fn load<T: Scalar>(&self, address: u64) -> Result<T, Fault> {
        // SAFETY: `single` passes an address in the window; what is behind it is the guard.
        self.single(address, Access::Read, |pointer| unsafe { T::load_at(pointer) })
    }

    /// Stores a value with one instruction.
    #[inline(always)]
    pub fn store<T: Scalar>(&self, address: u64, value: T) -> Result<(), Fault> {
        // SAFETY: as in `load`.
        self.single(address, Access::Write, |pointer| unsafe { T::store_at(pointer, value) })
    }

    /// Replaces a value atomically and returns the old one.
    #[inline(always)]
    pub fn exchange<T: AtomicScalar>(&self, address: u64, value: T) -> Result<T, Fault> {
        // SAFETY: as in `load`.
        self.single(address, Access::Write, |pointer| unsafe { T::exchange_at(pointer, value) })
    }

    /// Adds atomically, wrapping, and returns the old value.
    #[inline(always)]
    pub fn fetch_add<T: AtomicScalar>(&self, address: u64, value: T) -> Result<T, Fault> {
        // SAFETY: as in `load`.
        self.single(address, Access::Write, |pointer| unsafe { T::fetch_add_at(pointer, value) })
    }

    /// Stores `new` if the value is `expected`; returns the old value, which is `expected` exactly when it was stored.
    #[inline(always)]
    pub fn compare_exchange<T: AtomicScalar>(&self, address: u64, expected: T, new: T) -> Result<T, Fault> {
        // SAFETY: as in `load`.
        self.single(address, Access::Write, |pointer| unsafe {
            T::compare_exchange_at(pointer, expected, new)
        })
    }

    /// Replaces the value by a function of it, atomically, and returns the old value.
    #[inline(always)]
    pub fn fetch_update<T: AtomicScalar>(&self, address: u64, update: impl Fn(T) -> T) -> Result<T, Fault> {
        // A page that can only be read must fault as a write.
        let mut old: T = self.load(address).map_err(|fault| Fault { access: Access::Write, ..fault })?;
        loop {
            let seen = self.compare_exchange(address, old, update(old))?;
            if seen == old {
                return Ok(old);
            }
            old = seen;
        }
    }

    /// Ands atomically and returns the old value.
    pub fn fetch_and<T: AtomicScalar>(&self, address: u64, value: T) -> Result<T, Fault> {
        self.fetch_update(address, |old: T| old.and(value))
    }

    /// Ors atomically and returns the old value.
    pub fn fetch_or<T: AtomicScalar>(&self, address: u64, value: T) -> Result<T, Fault> {
        self.fetch_update(address, |old: T| old.or(value))
    }

    /// Exclusive-ors atomically and returns the old value.
    pub fn fetch_xor<T: AtomicScalar>(&self, address: u64, value: T) -> Result<T, Fault> {
        self.fetch_update(address, |old: T| old.xor(value))
    }

    /// `lock cmpxchg16b`: as [`compare_exchange`](Self::compare_exchange) for 16 bytes, which must be aligned.
    pub fn compare_exchange_u128(&self, address: u64, expected: u128, new: u128) -> Result<u128, Fault> {
        if !address.is_multiple_of(16) {
            return Err(Fault { address, access: Access::Write });
        }
        self.single(address, Access::Write, |pointer| {
            let mut low = expected as u64;
            let mut high = (expected >> 64) as u64;
            let mut failed: u32 = 0;
            // SAFETY: as for `store_at`. rbx cannot be named as an operand, so it is swapped in and, on both ways out
            // of the instruction, back.
            unsafe {
                asm!(
                    "xchg rbx, rsi",
                    guarded!("lock cmpxchg16b xmmword ptr [rdi]"),
                    "xchg rbx, rsi",
                    f = inout(reg) failed,
                    inout("rsi") new as u64 => _,
                    in("rdi") pointer,
                    in("rcx") (new >> 64) as u64,
                    inout("rax") low,
                    inout("rdx") high,
                    options(nostack)
                );
            }
            if failed == 0 { Ok(u128::from(high) << 64 | u128::from(low)) } else { Err(()) }
        })
    }

    /// How much of a range lies in the window.
    fn inside(address: u64, length: usize) -> usize {
        GUEST_SIZE.saturating_sub(address).min(length as u64) as usize
    }

    fn copied(&self, address: u64, wanted: usize, done: usize, access: Access) -> Result<(), CopyFault> {
        if done == wanted {
            return Ok(());
        }
        let address = address.wrapping_add(done as u64);
        Err(CopyFault { done, fault: Fault { address, access } })
    }

    /// Copies guest memory into a buffer.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), CopyFault> {
        let inside = Self::inside(address, out.len());
        // SAFETY: `inside` bytes from `address` lie in the window, and `out` has at least as many.
        let left = unsafe { copy_bytes(out.as_mut_ptr(), self.pointer(address), inside) };
        self.copied(address, out.len(), inside - left, Access::Read)
    }

    /// Copies a buffer into guest memory.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), CopyFault> {
        let inside = Self::inside(address, data.len());
        // SAFETY: as in `read`.
        let left = unsafe { copy_bytes(self.pointer(address), data.as_ptr(), inside) };
        self.copied(address, data.len(), inside - left, Access::Write)
    }

    /// Sets `length` bytes to `value`.
    pub fn fill(&self, address: u64, value: u8, length: usize) -> Result<(), CopyFault> {
        let inside = Self::inside(address, length);
        // SAFETY: as in `read`.
        let left = unsafe { fill_bytes(self.pointer(address), value, inside) };
        self.copied(address, length, inside - left, Access::Write)
    }

    /// Copies inside the guest; the ranges may overlap. After a fault an unknown part has been copied.
    pub fn copy_within(&self, to: u64, from: u64, length: usize) -> Result<(), Fault> {
        const CHUNK: usize = 4096;
        let mut buffer = [0; CHUNK];
        let mut done = 0;
        while done < length {
            let part = CHUNK.min(length - done);
            // Downwards when the source lies below, so that nothing is overwritten before it is read.
            let at = if to <= from { done } else { length - done - part } as u64;
            self.read(from.wrapping_add(at), &mut buffer[..part])?;
            self.write(to.wrapping_add(at), &buffer[..part])?;
            done += part;
        }
        Ok(())
    }

    /// Copies a page-aligned range to the same addresses of another memory, which must let it be written.
    pub fn copy_to(&self, other: &Self, address: u64, length: u64) -> Result<(), CopyFault> {
        let inside = Self::inside(address, length as usize);
        if let Ok(pages) = other.pages(address, length) {
            // Makes the pages in one go instead of one fault each; where the host cannot, the faults do it.
            // SAFETY: the range lies in the other window, to which no Rust reference exists.
            unsafe { libc::madvise(pages, inside, libc::MADV_POPULATE_WRITE) };
        }
        // SAFETY: `inside` bytes from `address` lie in both windows.
        let left = unsafe { copy_bytes(other.pointer(address), self.pointer(address), inside) };
        self.copied(address, length as usize, inside - left, Access::Read)
    }

    /// Copies upwards byte by byte, as `rep movsb` does for overlapping ranges; how many bytes before a fault.
    pub(crate) fn move_forward(&self, to: u64, from: u64, length: usize) -> usize {
        let inside = Self::inside(to, length).min(Self::inside(from, length));
        // SAFETY: both ranges lie in the window.
        inside - unsafe { copy_bytes(self.pointer(to), self.pointer(from), inside) }
    }

    /// Whether guest memory holds exactly `expected`.
    pub fn compare_bytes(&self, address: u64, expected: &[u8]) -> Result<bool, Fault> {
        const CHUNK: usize = 256;
        let mut buffer = [0; CHUNK];
        for (index, part) in expected.chunks(CHUNK).enumerate() {
            let seen = &mut buffer[..part.len()];
            self.read(address.wrapping_add((index * CHUNK) as u64), seen)?;
            if seen != part {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a string that ends with a zero byte, without that byte; `max` is the longest accepted length.
    pub fn read_c_string(&self, address: u64, max: usize) -> Result<Vec<u8>, CStringError> {
        const CHUNK: u64 = 256;
        let mut string = Vec::new();
        let mut at = address;
        loop {
            // A chunk never crosses a page, so a string at the end of memory is readable.
            let length = CHUNK - at % CHUNK;
            let mut buffer = [0; CHUNK as usize];
            let chunk = &mut buffer[..length as usize];
            self.read(at, chunk).map_err(Fault::from)?;
            let end = chunk.iter().position(|&byte| byte == 0);
            string.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
            if string.len() > max {
                return Err(CStringError::TooLong(max));
            }
            if end.is_some() {
                return Ok(string);
            }
            at = at.wrapping_add(length);
        }
    }

    /// The host address of a page-aligned range in the window.
    fn pages(&self, address: u64, length: u64) -> io::Result<*mut libc::c_void> {
        let fits = address.checked_add(length).is_some_and(|end| end <= GUEST_SIZE);
        if length == 0 || !fits || !(address | length).is_multiple_of(PAGE_SIZE) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(self.pointer(address).cast())
    }

    fn map(
        &self,
        address: u64,
        length: u64,
        protection: libc::c_int,
        flags: libc::c_int,
        descriptor: libc::c_int,
        offset: libc::off_t,
    ) -> io::Result<()> {
        let pointer = self.pages(address, length)?;
        let flags = flags | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: the range lies in our reservation, so nothing but guest pages is replaced.
        let mapped = unsafe { libc::mmap(pointer, length as usize, protection, flags, descriptor, offset) };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Maps fresh zero pages over a range.
    ///
    /// This and the following functions fail with `EINVAL` when the range is empty, not page-aligned or not inside the window, and
    /// with the host's error otherwise.
    pub fn map_anonymous(&self, address: u64, length: u64, protection: Protection) -> io::Result<()> {
        self.map(address, length, protection.bits(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// Maps a file over a range.
    pub fn map_file(
        &self,
        address: u64,
        length: u64,
        protection: Protection,
        file: BorrowedFd<'_>,
        offset: u64,
        sharing: Sharing,
    ) -> io::Result<()> {
        let offset =
            libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let flags = match sharing {
            Sharing::Private => libc::MAP_PRIVATE,
            Sharing::Shared => libc::MAP_SHARED,
        };
        self.map(address, length, protection.bits(), flags, file.as_raw_fd(), offset)
    }

    /// Changes what accesses of a range may do.
    pub fn protect(&self, address: u64, length: u64, protection: Protection) -> io::Result<()> {
        let pointer = self.pages(address, length)?;
        // SAFETY: the range lies in our reservation, to which no Rust reference exists.
        check(unsafe { libc::mprotect(pointer, length as usize, protection.bits()) })
    }

    /// Makes a range inaccessible and drops its pages; the reservation stays.
    pub fn unmap(&self, address: u64, length: u64) -> io::Result<()> {
        self.map(address, length, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// Drops the private pages of a range: anonymous ones read as zeros again, file ones as the file (`MADV_DONTNEED`).
    pub fn discard(&self, address: u64, length: u64) -> io::Result<()> {
        let pointer = self.pages(address, length)?;
        // SAFETY: the range lies in our reservation, to which no Rust reference exists.
        check(unsafe { libc::madvise(pointer, length as usize, libc::MADV_DONTNEED) })
    }

    /// The host address of a range in the window, for host calls that move bytes straight into or out of guest pages: for
    /// bad pages the host kernel answers `EFAULT`. `None` when the range leaves the window.
    pub fn host_range(&self, address: u64, length: u64) -> Option<*mut u8> {
        let end = address.checked_add(length)?;
        (end <= GUEST_SIZE).then(|| self.pointer(address))
    }

    /// The parts of a page-aligned range that hold pages of this process alone: written private pages.
    ///
    /// `None` where the host does not show them (`/proc/self/pagemap`) or the range is bad; then all may be dirty.
    pub fn dirty_private_pages(&self, address: u64, length: u64) -> Option<Vec<Range<u64>>> {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const SHARED_OR_FILE: u64 = 1 << 61;
        /// Entries read at once.
        const BATCH: usize = 512;
        let first = self.pages(address, length).ok()? as u64 / PAGE_SIZE;
        let pagemap = PAGEMAP.get_or_init(open_pagemap).as_ref()?;
        let mut dirty: Vec<Range<u64>> = Vec::new();
        let count = length / PAGE_SIZE;
        let mut done = 0;
        while done < count {
            let part = BATCH.min((count - done) as usize);
            let mut entries = [0u64; BATCH];
            // SAFETY: `entries` has room for `part` entries of eight bytes.
            let got = unsafe {
                libc::pread(
                    pagemap.as_raw_fd(),
                    entries.as_mut_ptr().cast(),
                    part * 8,
                    ((first + done) * 8) as libc::off_t,
                )
            };
            if got != (part * 8) as isize {
                return None;
            }
            for (index, entry) in entries[..part].iter().enumerate() {
                if entry & (PRESENT | SWAPPED) == 0 || entry & SHARED_OR_FILE != 0 {
                    continue;
                }
                let start = address + (done + index as u64) * PAGE_SIZE;
                match dirty.last_mut() {
                    Some(last) if last.end == start => last.end += PAGE_SIZE,
                    _ => dirty.push(start..start + PAGE_SIZE),
                }
            }
            done += part as u64;
        }
        Some(dirty)
    }
}

/// This process's page map, which every fork of a guest asks several times.
static PAGEMAP: OnceLock<Option<OwnedFd>> = OnceLock::new();

fn open_pagemap() -> Option<OwnedFd> {
    // SAFETY: a constant C string; the result is checked.
    let descriptor = unsafe { libc::open(c"/proc/self/pagemap".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    // SAFETY: a fresh descriptor that nothing else owns.
    (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        let Some(window) = self.window.take() else { return };
        let emptied =
            self.map(0, GUEST_SIZE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if emptied.is_ok() && idle.len() < MAX_IDLE {
            idle.push(window);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        RESERVATIONS[self.slot].store(0, Ordering::Release);
        // SAFETY: our own reservation; the last user is gone, because whoever accesses it holds the window.
        unsafe { libc::munmap(self.base.cast(), GUEST_SIZE as usize + GUARD_SIZE) };
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bases of all live windows, for the SIGBUS handler; zero marks a free slot.
static RESERVATIONS: [AtomicUsize; MAX_RESERVATIONS] = [const { AtomicUsize::new(0) }; MAX_RESERVATIONS];

/// One more than the highest slot that was ever used, so that the handler looks at few.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

fn register(base: usize) -> Option<usize> {
    let slot = RESERVATIONS
        .iter()
        .position(|slot| slot.compare_exchange(0, base, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
    HIGHEST.fetch_max(slot + 1, Ordering::AcqRel);
    Some(slot)
}

/// One instruction that may fault and where to go on, as host addresses.
#[derive(Clone, Copy)]
struct FixUp {
    instruction: usize,
    target: usize,
}

/// The fault table, sorted by instruction; leaked once, because the handler may run at any time.
static FIX_UPS: AtomicPtr<FixUp> = AtomicPtr::new(ptr::null_mut());
static FIX_UP_COUNT: AtomicUsize = AtomicUsize::new(0);
/// The actions that were installed before ours: SIGSEGV, SIGBUS.
static PREVIOUS: [AtomicPtr<libc::sigaction>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

unsafe extern "C" {
    #[link_name = "__start_cooper_guest_faults"]
    static TABLE_START: i32;
    #[link_name = "__stop_cooper_guest_faults"]
    static TABLE_STOP: i32;
}

/// Reads the table that the linker collected.
fn collect_fix_ups() -> Vec<FixUp> {
    let start = &raw const TABLE_START;
    let count = (&raw const TABLE_STOP as usize - start as usize) / 8;
    let mut fix_ups: Vec<FixUp> = (0..count)
        .map(|index| {
            let place = |word: usize| {
                let at = start.wrapping_add(2 * index + word);
                // SAFETY: the section consists of pairs of offsets, `count` of them.
                (at as usize).wrapping_add_signed(unsafe { *at } as isize)
            };
            FixUp { instruction: place(0), target: place(1) }
        })
        .collect();
    fix_ups.sort_unstable_by_key(|entry| entry.instruction);
    fix_ups
}

/// Installs the SIGSEGV and SIGBUS handler, once; a fault that is not ours goes to the handler that was there before.
///
/// [`GuestMemory::reserve`] does this. Call it earlier where another handler must come later and chain to ours.
pub fn install_fault_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let fix_ups = collect_fix_ups().leak();
        FIX_UP_COUNT.store(fix_ups.len(), Ordering::Release);
        FIX_UPS.store(fix_ups.as_mut_ptr(), Ordering::Release);
        for (index, signal) in [libc::SIGSEGV, libc::SIGBUS].into_iter().enumerate() {
            // SAFETY: zeroed is a valid empty action; the handler only touches its context and atomics.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let previous: &mut libc::sigaction = Box::leak(Box::new(std::mem::zeroed()));
                // The previous action is known before the new one can run.
                libc::sigaction(signal, ptr::null(), previous);
                PREVIOUS[index].store(previous, Ordering::Release);
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
    });
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the host kernel passes valid pointers to a SA_SIGINFO handler.
    let (address, registers) = unsafe {
        let address = (*info).si_addr() as usize;
        (address, &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs)
    };
    let ours = window_of(address);
    if signal == libc::SIGBUS && ours {
        block_page(address);
    }
    let rip = &mut registers[libc::REG_RIP as usize];
    if ours && let Some(target) = fix_up_of(*rip as usize) {
        LAST_FAULT.set(address);
        *rip = target as i64;
        return;
    }
    if signal == libc::SIGBUS && ours {
        // The page has no access now: the instruction runs again and faults as SIGSEGV.
        return;
    }
    chain(signal, info, context);
}

fn window_of(address: usize) -> bool {
    RESERVATIONS[..HIGHEST.load(Ordering::Acquire)].iter().any(|slot| {
        let base = slot.load(Ordering::Acquire);
        base != 0 && address.wrapping_sub(base) < GUEST_SIZE as usize + GUARD_SIZE
    })
}

fn fix_up_of(instruction: usize) -> Option<usize> {
    let table = FIX_UPS.load(Ordering::Acquire);
    if table.is_null() {
        return None;
    }
    // SAFETY: a leaked slice of this length, never written again.
    let table = unsafe { std::slice::from_raw_parts(table, FIX_UP_COUNT.load(Ordering::Acquire)) };
    let found = table.binary_search_by_key(&instruction, |entry| entry.instruction).ok()?;
    Some(table[found].target)
}

/// Takes all access to the page of a SIGBUS away.
fn block_page(address: usize) {
    let page = address & !(PAGE_SIZE as usize - 1);
    // SAFETY: the page lies in a window. `mmap` is a plain system call here; errno is put back for the code that was
    // interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        libc::mmap(
            page as *mut libc::c_void,
            PAGE_SIZE as usize,
            libc::PROT_NONE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        *libc::__errno_location() = errno;
    }
}

/// Does what would have happened without our handler.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS[usize::from(signal == libc::SIGBUS)].load(Ordering::Acquire);
    // SAFETY: `previous` was filled before our handler was installed and is never freed; a handler address in it is
    // callable with the arguments its flags say.
    unsafe {
        let previous = &*previous;
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                // A fault cannot be ignored: with the default action back, the instruction runs again and ends us.
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                type Full = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                std::mem::transmute::<usize, Full>(handler)(signal, info, context);
            }
            handler => {
                type Plain = extern "C" fn(libc::c_int);
                std::mem::transmute::<usize, Plain>(handler)(signal);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::sync::atomic::AtomicBool;

    use super::*;

    const BASE: u64 = 0x10000;

    fn two_pages() -> GuestMemory {
        let memory = GuestMemory::reserve().unwrap();
        memory.map_anonymous(BASE, 2 * PAGE_SIZE, Protection::ReadWrite).unwrap();
        memory
    }

    #[test]
    fn values_come_back_in_every_size() {
        let memory = two_pages();
        memory.store(BASE, 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00_u128).unwrap();
        assert_eq!(memory.load::<u8>(BASE + 1).unwrap(), 0xff);
        assert_eq!(memory.load::<u16>(BASE + 1).unwrap(), 0xeeff);
        assert_eq!(memory.load::<u32>(BASE + 1).unwrap(), 0xccdd_eeff);
        assert_eq!(memory.load::<u64>(BASE + 1).unwrap(), 0x8899_aabb_ccdd_eeff);
        memory.store(BASE + 3, 0_u8).unwrap();
        memory.store(BASE + 4, 1_u16).unwrap();
        memory.store(BASE + 8, 2_u32).unwrap();
        assert_eq!(memory.load::<u128>(BASE).unwrap(), 0x1122_3344_0000_0002_99aa_0001_00ee_ff00);
    }

    #[test]
    fn bad_accesses_are_faults_with_their_address() {
        let memory = two_pages();
        let end = BASE + 2 * PAGE_SIZE;
        let read = |address| memory.load::<u64>(address).unwrap_err();
        let fault = |address, access| Fault { address, access };
        assert_eq!(read(0), fault(0, Access::Read));
        assert_eq!(read(end - 4), fault(end, Access::Read));
        assert_eq!(read(GUEST_SIZE - 1), fault(GUEST_SIZE - 1, Access::Read));
        for wild in [GUEST_SIZE, GUEST_SIZE + BASE, 1 << 63, u64::MAX] {
            assert_eq!(read(wild), fault(wild, Access::Read));
            assert_eq!(memory.store(wild, 1_u32).unwrap_err(), fault(wild, Access::Write));
            assert_eq!(memory.fetch_add(wild, 1_u32).unwrap_err(), fault(wild, Access::Write));
        }
        memory.protect(BASE, PAGE_SIZE, Protection::Read).unwrap();
        assert_eq!(memory.store(BASE, 1_u8).unwrap_err(), fault(BASE, Access::Write));
        assert_eq!(memory.fetch_or(BASE, 1_u8).unwrap_err(), fault(BASE, Access::Write));
        assert_eq!(memory.compare_exchange_u128(BASE, 0, 1).unwrap_err(), fault(BASE, Access::Write));
        assert_eq!(memory.load::<u8>(BASE).unwrap(), 0);
        assert_eq!(memory.load::<u128>(end - 8).unwrap_err().address, end);
    }

    #[test]
    fn copies_stop_at_the_faulting_byte() {
        let memory = two_pages();
        let end = BASE + 2 * PAGE_SIZE;
        let mut buffer = [7; 100];
        let fault = memory.read(end - 30, &mut buffer).unwrap_err();
        assert_eq!(fault, CopyFault { done: 30, fault: Fault { address: end, access: Access::Read } });
        assert_eq!((buffer[29], buffer[30]), (0, 7));
        let fault = memory.write(end - 10, &buffer).unwrap_err();
        assert_eq!(fault, CopyFault { done: 10, fault: Fault { address: end, access: Access::Write } });
        assert_eq!(memory.fill(end - 5, 1, 6).unwrap_err().done, 5);
        assert_eq!(memory.read(u64::MAX - 3, &mut buffer).unwrap_err().done, 0);
        let fault = memory.write(GUEST_SIZE - 5, &buffer).unwrap_err();
        assert_eq!((fault.done, fault.fault.address), (0, GUEST_SIZE - 5));
        memory.map_anonymous(GUEST_SIZE - PAGE_SIZE, PAGE_SIZE, Protection::ReadWrite).unwrap();
        let fault = memory.write(GUEST_SIZE - 5, &buffer).unwrap_err();
        assert_eq!((fault.done, fault.fault.address), (5, GUEST_SIZE));
    }

    #[test]
    fn overlapping_copies_keep_the_source() {
        let memory = two_pages();
        let data: Vec<u8> = (0..6000).map(|index| (index % 251) as u8).collect();
        for (to, from) in [(BASE + 5, BASE + 900), (BASE + 900, BASE + 5)] {
            memory.write(from, &data).unwrap();
            memory.copy_within(to, from, data.len()).unwrap();
            assert!(memory.compare_bytes(to, &data).unwrap());
        }
        assert!(!memory.compare_bytes(BASE, &data).unwrap());
    }

    #[test]
    fn strings_end_at_zero_or_at_the_limit() {
        let memory = two_pages();
        let end = BASE + 2 * PAGE_SIZE;
        memory.write(end - 4, b"abc\0").unwrap();
        assert_eq!(memory.read_c_string(end - 4, 3).unwrap(), b"abc");
        assert_eq!(memory.read_c_string(end - 4, 2), Err(CStringError::TooLong(2)));
        memory.fill(end - 300, b'x', 300).unwrap();
        let fault = Fault { address: end, access: Access::Read };
        assert_eq!(memory.read_c_string(end - 300, 4096), Err(CStringError::Fault(fault)));
    }

    #[test]
    fn atomics_return_the_old_value() {
        let memory = two_pages();
        memory.store(BASE, 5_u32).unwrap();
        assert_eq!(memory.exchange(BASE, 6_u32).unwrap(), 5);
        assert_eq!(memory.fetch_add(BASE, u32::MAX).unwrap(), 6);
        assert_eq!(memory.compare_exchange(BASE, 5_u32, 9).unwrap(), 5);
        assert_eq!(memory.compare_exchange(BASE, 5_u32, 7).unwrap(), 9);
        assert_eq!(memory.fetch_xor(BASE, 1_u8).unwrap(), 9);
        assert_eq!(memory.fetch_and(BASE, 0xf0_u64).unwrap(), 8);
        assert_eq!(memory.load::<u64>(BASE).unwrap(), 0);
        assert_eq!(memory.compare_exchange_u128(BASE, 0, 3 << 64 | 2).unwrap(), 0);
        assert_eq!(memory.compare_exchange_u128(BASE, 0, 1).unwrap(), 3 << 64 | 2);
        assert_eq!(memory.load::<u128>(BASE).unwrap(), 3 << 64 | 2);
    }

    #[test]
    fn additions_of_several_threads_are_not_lost() {
        let memory = two_pages();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        memory.fetch_add(BASE, 1_u64).unwrap();
                        memory.fetch_update(BASE + 8, |old: u64| old + 1).unwrap();
                    }
                });
            }
        });
        assert_eq!(memory.load::<u64>(BASE).unwrap(), 30_000);
        assert_eq!(memory.load::<u64>(BASE + 8).unwrap(), 30_000);
    }

    #[test]
    fn pages_unmapped_during_copies_are_faults() {
        let memory = two_pages();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    memory.unmap(BASE + PAGE_SIZE, PAGE_SIZE).unwrap();
                    memory.map_anonymous(BASE + PAGE_SIZE, PAGE_SIZE, Protection::ReadWrite).unwrap();
                }
                done.store(true, Ordering::Release);
            });
            let mut buffer = [0; 2 * PAGE_SIZE as usize];
            while !done.load(Ordering::Acquire) {
                if let Err(fault) = memory.read(BASE, &mut buffer) {
                    assert!(fault.done >= PAGE_SIZE as usize, "{fault:?}");
                }
                if let Err(fault) = memory.fill(BASE, 1, buffer.len()) {
                    assert_eq!(fault.fault.access, Access::Write);
                }
            }
        });
        assert!(memory.read(BASE, &mut [0; 2 * PAGE_SIZE as usize]).is_ok());
    }

    #[test]
    fn pages_behind_a_truncated_file_are_faults() {
        let file: File = tempfile();
        file.set_len(2 * PAGE_SIZE).unwrap();
        let memory = GuestMemory::reserve().unwrap();
        memory
            .map_file(BASE, 2 * PAGE_SIZE, Protection::ReadWrite, file.as_fd(), 0, Sharing::Shared)
            .unwrap();
        memory.store(BASE + PAGE_SIZE, 1_u32).unwrap();
        file.set_len(PAGE_SIZE).unwrap();
        let fault = memory.load::<u32>(BASE + PAGE_SIZE + 8).unwrap_err();
        assert_eq!(fault, Fault { address: BASE + PAGE_SIZE + 8, access: Access::Read });
        assert_eq!(
            memory.fill(BASE + 100, 3, 2 * PAGE_SIZE as usize).unwrap_err().done,
            PAGE_SIZE as usize - 100
        );
        assert_eq!(memory.load::<u8>(BASE + PAGE_SIZE - 1).unwrap(), 3);
    }

    #[test]
    fn written_private_pages_are_dirty() {
        let file = tempfile();
        file.set_len(4 * PAGE_SIZE).unwrap();
        let memory = GuestMemory::reserve().unwrap();
        memory
            .map_file(BASE, 4 * PAGE_SIZE, Protection::ReadWrite, file.as_fd(), 0, Sharing::Private)
            .unwrap();
        memory.load::<u8>(BASE).unwrap();
        memory.store(BASE + PAGE_SIZE, 1_u8).unwrap();
        memory.store(BASE + 2 * PAGE_SIZE, 1_u8).unwrap();
        if let Some(dirty) = memory.dirty_private_pages(BASE, 4 * PAGE_SIZE) {
            assert_eq!(dirty, vec![(BASE + PAGE_SIZE)..(BASE + 3 * PAGE_SIZE)]);
        }
        assert_eq!(memory.dirty_private_pages(BASE + 1, PAGE_SIZE), None);
    }

    #[test]
    fn bad_ranges_are_refused() {
        let memory = GuestMemory::reserve().unwrap();
        for (address, length) in
            [(1, PAGE_SIZE), (0, 0), (0, 1), (GUEST_SIZE, PAGE_SIZE), (0, GUEST_SIZE + PAGE_SIZE)]
        {
            let error = memory.map_anonymous(address, length, Protection::Read).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
        assert!(memory.host_range(GUEST_SIZE - 8, 8).is_some());
        assert!(memory.host_range(GUEST_SIZE - 8, 9).is_none());
        assert!(memory.host_range(u64::MAX, 2).is_none());
    }

    /// An unnamed file in memory.
    fn tempfile() -> File {
        // SAFETY: a constant C string; the descriptor is checked and owned by the file alone.
        unsafe {
            let descriptor = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
            assert!(descriptor >= 0);
            File::from_raw_fd(descriptor)
        }
    }
}
