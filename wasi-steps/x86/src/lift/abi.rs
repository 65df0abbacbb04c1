//! What translated code and its host agree on.
//!
//! A module imports the guest's memory, the thread's [`State`], a table of functions and a handful of helpers. Every
//! function has one type, `(pcd, rsp, rdi, rsi) -> (pc, rsp, rax, rdx)`: four integers are what the engine's calling
//! convention keeps in host registers, and the stack pointer has to be one of them because its chain of stores and
//! loads would be the longest. All other registers cross calls through the state, which is a second, private memory:
//! a store can have only one memory over the pages that threads share. `pcd` carries the address to enter at in its
//! low half and the depth in its high half: the guest's stack pointer says nothing about the host's stack, since
//! programs move it, so the depth counts an estimate of the bytes that frames take.
//!
//! What must hold at each boundary:
//!
//! - At entry `rsp`, `rdi`, `rsi`, at return `rsp`, `rax`, `rdx` are values, and their copies in the state are stale;
//!   everything else is in the state. Arithmetic flags are dead at both.
//! - At `step`, `syscall` and `stop` everything is in the state, the arithmetic flags as far as the code behind can
//!   see them. The direction flag is in the state always, MXCSR and x87 are never touched by translated code: the
//!   host's MXCSR is the guest's while it runs.
//! - Wasm frames hold nothing of the guest's that is not in memory as well, but for what the functions above them will
//!   give back: `ret` returns the address that it popped, and whoever called compares it with the one that it pushed.
//!   So a longjmp, a fork or a switch of stacks is an ordinary difference of addresses, left to `resolve`.

/// Version of this interface and of the translation; part of the key of cached code.
pub const VERSION: u32 = 4;

/// The module that all imports belong to.
pub const MODULE: &str = "c";
/// Import: the guest's memory, 65,536 pages.
pub const MEMORY: &str = "m";
/// Import: the memory that holds [`State`], one page.
pub const STATE: &str = "s";
/// Import: the table of functions, `(ref null $f)`, of [`TABLE_SLOTS`] entries.
pub const TABLE: &str = "t";
/// Import: immutable i32 global, what is added to a unit address to get the guest's.
pub const BIAS: &str = "b";
/// Import: immutable i32 global, the table slot of this instance's first function.
pub const FIRST_SLOT: &str = "k";
/// Import, `$f`: runs a callee that the cache does not know until it returns.
pub const DISPATCH: &str = "dispatch";
/// Import, `(pc i32, rsp i64, rax i64, rdx i64, expected i32, slot i64) -> i32`: a call came back to `pc` instead of
/// `expected`. Runs nested until `rsp` passes `slot`, the address where the return address was pushed. 0: go on at
/// `expected` with everything from the state; 1: return upward with the state's values.
pub const RESOLVE: &str = "resolve";
/// Import, `(pc i32) -> i32`: runs the one instruction at `pc`. 0: it went to the next instruction, reload; 1: leave.
pub const STEP: &str = "step";
/// Import, `(next pc i32) -> i32`: a system call; 0 and 1 as for [`STEP`].
pub const SYSCALL: &str = "syscall";
/// Import, `(pc i32) -> i32`: the stop byte was set, or [`State::unwind`] is; 0 and 1 as for [`STEP`].
pub const STOP: &str = "stop";

/// Entries of the table.
pub const TABLE_SLOTS: u32 = 65_536;
/// Depth above which a function does not begin but sets [`State::unwind`] and calls `stop`. The host's stack for
/// translated code has twice as many bytes.
pub const MAX_DEPTH: u32 = 16 << 20;
/// Entries of the cache of call targets; a power of two.
pub const CACHE_ENTRIES: usize = 4096;
/// Bytes of the state's memory.
pub const STATE_SIZE: usize = 64 << 10;

/// Where the cache of call targets keeps a guest address.
pub const fn cache_index(pc: u32) -> usize {
    (pc ^ pc >> 11) as usize % CACHE_ENTRIES
}

/// One entry of the cache of call targets. Address 0 is no code, so zeros are an empty entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheEntry {
    /// Guest address of an entry.
    pub pc: u32,
    /// Its slot in the table; never an empty one.
    pub slot: u32,
}

/// The registers of a thread while it runs translated code, at the start of the second memory.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct State {
    /// General registers in encoding order.
    pub gpr: [u64; 16],
    /// Where to go on after an exit.
    pub rip: u64,
    /// RFLAGS.
    pub flags: u64,
    /// Base of the FS segment.
    pub fs_base: u64,
    /// Base of the GS segment.
    pub gs_base: u64,
    /// Set by others to make the thread come to `stop`; accessed atomically only.
    pub stop: u8,
    /// Set by translated code that ran out of depth, before it calls `stop`.
    pub unwind: u8,
    reserved: [u8; 14],
    /// SSE registers.
    pub xmm: [u128; 16],
    spare: [u8; CACHE_OFFSET - XMM_OFFSET as usize - 256],
    /// Call targets that have translations.
    pub cache: [CacheEntry; CACHE_ENTRIES],
}

const CACHE_OFFSET: usize = 32 << 10;

/// Offset of general register `n` in the state.
pub const fn gpr_offset(n: usize) -> u64 {
    8 * n as u64
}
/// Offset of [`State::rip`].
pub const RIP_OFFSET: u64 = std::mem::offset_of!(State, rip) as u64;
/// Offset of [`State::flags`].
pub const FLAGS_OFFSET: u64 = std::mem::offset_of!(State, flags) as u64;
/// Offset of [`State::fs_base`].
pub const FS_BASE_OFFSET: u64 = std::mem::offset_of!(State, fs_base) as u64;
/// Offset of [`State::gs_base`].
pub const GS_BASE_OFFSET: u64 = std::mem::offset_of!(State, gs_base) as u64;
/// Offset of [`State::stop`].
pub const STOP_OFFSET: u64 = std::mem::offset_of!(State, stop) as u64;
/// Offset of [`State::unwind`].
pub const UNWIND_OFFSET: u64 = std::mem::offset_of!(State, unwind) as u64;
/// Offset of the SSE registers.
pub const XMM_OFFSET: u64 = 176;
/// Offset of the cache of call targets.
pub const TARGETS_OFFSET: u64 = CACHE_OFFSET as u64;

const _: () = {
    assert!(std::mem::size_of::<State>() == STATE_SIZE);
    assert!(std::mem::offset_of!(State, xmm) as u64 == XMM_OFFSET);
    assert!(std::mem::offset_of!(State, cache) == CACHE_OFFSET);
};
