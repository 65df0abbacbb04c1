//! The operations that blocks are made of.
//!
//! An [`Operation`] is a handler and the operands it was specialised for. Handlers of a block call each other: each
//! one ends with a call of its successor's handler in tail position, which the compiler turns into a jump. Where it
//! does not, the depth is bounded by the length of a block.
//!
//! What must hold: the last operation of a block never asks for its successor.
#![allow(unsafe_code, reason = "an operation finds its successor behind itself without a bounds check")]

use iced_x86::{FlowControl, Instruction};

use crate::machine::{BLOCK, Machine};
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
        // SAFETY: operations live in the slice of their block, and the last one never asks for its successor.
        let next = unsafe { &*std::ptr::from_ref(self).add(1) };
        (next.handler)(machine, next, memory)
    }
}

fn blank(handler: Handler, offset: u64) -> Operation {
    Operation {
        handler,
        a: 0,
        b: 0,
        base: 0,
        index: 0,
        scale: 0,
        c: 0,
        offset: offset as u16,
        displacement: 0,
        immediate: 0,
    }
}

/// Chooses operations for a run of instructions; those without a handler of their own go to the second list.
pub(crate) fn select(instructions: &[Instruction]) -> (Box<[Operation]>, Box<[Instruction]>) {
    let mut operations = Vec::with_capacity(instructions.len() + 1);
    let mut general = Vec::new();
    for instruction in instructions {
        let mut operation = blank(general_path, instruction.ip());
        operation.immediate = general.len() as i32;
        operation.displacement = operations.len() as i32 + 1;
        general.push(*instruction);
        operations.push(operation);
    }
    if let Some(last) = instructions.last()
        && last.flow_control() == FlowControl::Next
    {
        let mut operation = blank(fall_through, last.ip());
        operation.immediate = last.next_ip() as i32;
        operations.push(operation);
    }
    (operations.into(), general.into())
}

/// Hands an instruction to the general path.
fn general_path(machine: &mut Machine, operation: &Operation, _: &GuestMemory) -> Next {
    machine.general = operation.immediate as u32;
    machine.resume = operation.displacement as u32;
    Next::General
}

/// Ends a block that reached its limit.
fn fall_through(machine: &mut Machine, operation: &Operation, _: &GuestMemory) -> Next {
    machine.target = machine.r[usize::from(BLOCK)].wrapping_add(operation.immediate as u64);
    Next::Link0
}
