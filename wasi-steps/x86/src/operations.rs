//! The operations that blocks are made of.
//!
//! An [`Operation`] is a handler and the operands it was specialised for. Handlers of a block call each other: each
//! one ends with a call of its successor's handler in tail position, which the compiler turns into a jump. Where it
//! does not, the depth is bounded by the length of a block.
//!
//! What must hold: the last operation of a block never asks for its successor.
#![allow(unsafe_code, reason = "an operation finds its successor behind itself without a bounds check")]

use crate::machine::Machine;
use crate::memory::GuestMemory;

/// How a block, or a part of it, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Next {
    /// On to the target, which is always the same: link 0 remembers its block.
    Link0,
    /// As `Link0` for the other successor.
    Link1,
    /// On to the target, which may be another one each time.
    Jump,
    /// The general path has an instruction to run.
    General,
    /// The run ends; exit and target are set.
    Exit,
}

/// Executes an operation and those behind it.
pub(crate) type Handler = fn(&mut Machine, &Operation, &GuestMemory) -> Next;

/// One pre-decoded operation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Operation {
    pub(crate) handler: Handler,
    /// First operand, usually the destination register.
    pub(crate) a: u8,
    /// Second operand register.
    pub(crate) b: u8,
    /// Base register of the memory operand.
    pub(crate) base: u8,
    /// Index register of the memory operand.
    pub(crate) index: u8,
    /// Shift of the index.
    pub(crate) scale: u8,
    /// Whatever else the handler needs.
    pub(crate) c: u8,
    /// Offset of the instruction in the block.
    pub(crate) offset: u16,
    /// Displacement of the memory operand.
    pub(crate) displacement: i32,
    /// Immediate operand, or the branch target relative to the block.
    pub(crate) immediate: i32,
}

impl Operation {
    /// Runs the operation behind this one.
    #[inline(always)]
    pub(crate) fn next(&self, machine: &mut Machine, memory: &GuestMemory) -> Next {
        let next = self.following();
        (next.handler)(machine, next, memory)
    }

    /// The operation behind this one; not for the last of a block.
    #[inline(always)]
    pub(crate) fn following(&self) -> &Self {
        // SAFETY: operations live in the slice of their block, and the last one never asks for its successor.
        unsafe { &*std::ptr::from_ref(self).add(1) }
    }

    /// The address of the memory operand.
    #[inline(always)]
    pub(crate) fn address(&self, machine: &Machine) -> u64 {
        machine.r[usize::from(self.base)]
            .wrapping_add(machine.r[usize::from(self.index)] << (self.scale & 3))
            .wrapping_add(self.displacement as u64)
    }
}
