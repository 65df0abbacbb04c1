//! The state that instructions work on while the interpreter runs.
//!
//! It is [`CpuState`] in a form made for speed: registers are indexed with a byte without a check, pseudo-registers
//! hold what effective addresses need besides (zero, the block's address, segment bases), and flags are lazy.

use crate::flags::Flags;
use crate::interpreter::Exit;
use crate::state::{CpuState, FLAGS_WRITABLE, SharedRegisters, X87, flag};

/// Pseudo-register that is always zero: an absent base or index.
pub(crate) const ZERO: u8 = 16;
/// Pseudo-register with the address of the current block: the base of rip-relative operands.
pub(crate) const BLOCK: u8 = 17;
/// Pseudo-register with the FS base.
pub(crate) const FS: u8 = 18;
/// Pseudo-register with the GS base.
pub(crate) const GS: u8 = 19;

/// Working state of one guest thread.
#[derive(Debug)]
pub(crate) struct Machine {
    /// General and pseudo-registers. 256 of them, so that an index of one byte needs no check.
    pub(crate) r: [u64; 256],
    pub(crate) flags: Flags,
    /// RFLAGS besides the arithmetic flags.
    pub(crate) system_flags: u64,
    /// Where to go on, when a block has ended.
    pub(crate) target: u64,
    /// Why the run ends, when a handler says so.
    pub(crate) exit: Exit,
    /// The operation to go on with after an instruction of the general path.
    pub(crate) resume: u32,
    /// Which instruction of the block the general path is to run.
    pub(crate) general: u32,
    pub(crate) xmm: [u128; 16],
    /// MXCSR; its exception flags lag behind the host's while instructions run.
    pub(crate) mxcsr: u32,
    pub(crate) x87: X87,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            r: [0; 256],
            flags: Flags::CLEAR,
            system_flags: 0,
            target: 0,
            exit: Exit::Stopped,
            resume: 0,
            general: 0,
            xmm: [0; 16],
            mxcsr: 0,
            x87: X87::INITIAL,
        }
    }

    /// Takes over a state.
    pub(crate) fn load(&mut self, cpu: &CpuState) {
        self.r[..16].copy_from_slice(&cpu.gpr);
        self.r[usize::from(FS)] = cpu.fs_base;
        self.r[usize::from(GS)] = cpu.gs_base;
        self.set_rflags(cpu.flags);
        self.target = cpu.rip;
        self.xmm = cpu.xmm;
        self.mxcsr = cpu.mxcsr;
        self.x87 = cpu.x87;
    }

    /// Gives the state back.
    pub(crate) fn store(&self, cpu: &mut CpuState) {
        cpu.gpr.copy_from_slice(&self.r[..16]);
        cpu.fs_base = self.r[usize::from(FS)];
        cpu.gs_base = self.r[usize::from(GS)];
        cpu.flags = self.rflags();
        cpu.rip = self.target;
        cpu.xmm = self.xmm;
        cpu.mxcsr = self.mxcsr;
        cpu.x87 = self.x87;
    }

    /// Takes over the registers of translated code.
    pub(crate) fn load_shared(&mut self, shared: &SharedRegisters<'_>) {
        self.r[..16].copy_from_slice(shared.gpr);
        self.r[usize::from(FS)] = *shared.fs_base;
        self.r[usize::from(GS)] = *shared.gs_base;
        self.set_rflags(*shared.flags);
        self.target = *shared.rip;
        self.xmm = *shared.xmm;
    }

    /// Gives translated code its registers.
    pub(crate) fn store_shared(&self, shared: &mut SharedRegisters<'_>) {
        shared.gpr.copy_from_slice(&self.r[..16]);
        *shared.fs_base = self.r[usize::from(FS)];
        *shared.gs_base = self.r[usize::from(GS)];
        *shared.flags = self.rflags();
        *shared.rip = self.target;
        *shared.xmm = self.xmm;
    }

    /// RFLAGS as a program reads it.
    pub(crate) fn rflags(&self) -> u64 {
        self.flags.bits() | self.system_flags | flag::IF | 2
    }

    /// Sets RFLAGS as far as a program may.
    pub(crate) fn set_rflags(&mut self, bits: u64) {
        self.flags.set(bits);
        self.system_flags = bits & FLAGS_WRITABLE & !flag::ARITHMETIC;
    }

    /// Whether string instructions go downwards.
    pub(crate) fn downwards(&self) -> bool {
        self.system_flags & flag::DF != 0
    }
}
