//! The registers of a thread while translated code has them.
//!
//! A [`StateMemory`] is one Wasm page in a reservation of its own, which the engine sees as a memory and the host as a
//! [`State`](abi::State). Translated code and the host take turns: the thread's own host functions read and write it while
//! the code waits in a call. Only the stop byte is touched by others, atomically.
//!
//! What must hold: nobody but the thread that runs the store touches anything but the stop byte; no reference into
//! the page outlives a call of a method.
#![allow(
    unsafe_code,
    reason = "the page is shared with compiled code, so it is accessed through raw pointers"
)]

use std::io;
use std::ptr;
use std::sync::atomic::AtomicU8;

use cooper_kernel::StopByte;
use cooper_x86::interpreter::Interpreter;
use cooper_x86::lift::abi::{self, CacheEntry, State};
use cooper_x86::memory::{GUARD_SIZE, GUEST_SIZE};
use cooper_x86::state::{SharedRegisters, register};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

/// Bytes of the reservation: the engine leaves out bounds checks as for the guest's memory.
const RESERVATION: usize = GUEST_SIZE as usize + GUARD_SIZE;

/// A cache entry that no address matches: nothing can be mapped there.
const EMPTY: CacheEntry = CacheEntry { pc: u32::MAX, slot: 0 };

/// A page for a thread's registers and what is behind it.
#[derive(Debug)]
pub(crate) struct StateMemory {
    base: *mut u8,
}

// SAFETY: a page of memory; see the module's rules for who touches what.
unsafe impl Send for StateMemory {}
// SAFETY: as above.
unsafe impl Sync for StateMemory {}

impl StateMemory {
    /// A page of zeros with an empty cache. Fails when the host has no room.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the host kernel's choice.
        let base =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), RESERVATION, ProtFlags::empty(), flags) }?;
        let memory = Self { base: base.cast() };
        let rights = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the start of our own mapping.
        unsafe { rustix::mm::mprotect(base, abi::STATE_SIZE, rights) }?;
        memory.clear_cache();
        Ok(memory)
    }

    /// Where the page is.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    fn state(&self) -> *mut State {
        self.base.cast()
    }

    /// The registers in the page.
    fn shared(&self) -> SharedRegisters<'_> {
        let state = self.state();
        // SAFETY: the page holds a `State`; the thread that runs the store is here and not in translated code, and uses the
        // answer before it does anything else. The parts do not overlap, and the stop byte is none of them.
        unsafe {
            SharedRegisters {
                gpr: &mut (*state).gpr,
                rip: &mut (*state).rip,
                flags: &mut (*state).flags,
                fs_base: &mut (*state).fs_base,
                gs_base: &mut (*state).gs_base,
                xmm: &mut (*state).xmm,
            }
        }
    }

    /// Puts the interpreter's registers in.
    pub(crate) fn store(&self, interpreter: &Interpreter) {
        interpreter.store_shared(&mut self.shared());
        // SAFETY: as in `shared`.
        unsafe { (*self.state()).unwind = 0 };
    }

    /// Gives the interpreter the registers; MXCSR and x87 are not among them.
    pub(crate) fn load(&self, interpreter: &mut Interpreter) {
        interpreter.load_shared(&self.shared());
    }

    /// Sets where to go on.
    pub(crate) fn set_rip(&self, pc: u32) {
        // SAFETY: as in `shared`.
        unsafe { (*self.state()).rip = pc.into() };
    }

    /// Takes the mark of code that ran out of depth.
    pub(crate) fn take_unwind(&self) -> bool {
        // SAFETY: as in `shared`.
        unsafe { std::mem::take(&mut (*self.state()).unwind) != 0 }
    }

    /// Sets general registers: what a call passes as values.
    pub(crate) fn set_registers<const N: usize>(&self, values: [(usize, u64); N]) {
        for (number, value) in values {
            // SAFETY: as in `shared`; the index is checked.
            unsafe { (*self.state()).gpr[number] = value };
        }
    }

    /// What a function returns: pc, rsp, rax, rdx.
    pub(crate) fn returned(&self) -> (u32, u64, u64, u64) {
        // SAFETY: as in `shared`.
        unsafe {
            let gpr = (*self.state()).gpr;
            ((*self.state()).rip as u32, gpr[register::RSP], gpr[register::RAX], gpr[register::RDX])
        }
    }

    /// The slot of a call target, if it is known.
    pub(crate) fn cached(&self, pc: u32) -> Option<u32> {
        // SAFETY: as in `shared`; the index is within the cache.
        let entry = unsafe { (*self.state()).cache[abi::cache_index(pc)] };
        (entry.pc == pc).then_some(entry.slot)
    }

    /// Remembers the slot of a call target.
    pub(crate) fn remember(&self, pc: u32, slot: u32) {
        // SAFETY: as in `cached`.
        unsafe { (*self.state()).cache[abi::cache_index(pc)] = CacheEntry { pc, slot } };
    }

    /// Forgets all call targets.
    pub(crate) fn clear_cache(&self) {
        // SAFETY: as in `shared`.
        unsafe { (*self.state()).cache.fill(EMPTY) };
    }
}

impl StopByte for StateMemory {
    fn byte(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in the page, which lives as long as `self`, and is only accessed atomically.
        unsafe { AtomicU8::from_ptr(self.base.add(abi::STOP_OFFSET as usize)) }
    }
}

impl Drop for StateMemory {
    fn drop(&mut self) {
        // SAFETY: our own reservation; nobody holds the memory any more. A failure leaves addresses unused.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), RESERVATION) };
    }
}
