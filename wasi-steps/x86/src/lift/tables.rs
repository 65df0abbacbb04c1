//! Jump tables of compiled `switch` statements.
//!
//! Two shapes are known: `movsxd r, [base + index*4]; add r, base; jmp r` with offsets from the table itself, and
//! `jmp [table + index*8]` (or the same through a register) with absolute addresses. How many entries a table has is
//! read from the comparison before it, else entries are taken as long as they lead into the function.
//!
//! What is found here is a guess that the translated code checks: it takes a target by its index only after it has
//! compared base and index with what was assumed, and otherwise jumps to the address that the program computed. What
//! must hold is only that the bytes of the table cannot change.

use std::collections::BTreeMap;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{CodeImage, FunctionBounds};

/// Most entries of a table.
const MAX_ENTRIES: usize = 1024;
/// How far back, in instructions, the parts of the pattern are looked for.
const REACH: usize = 24;

/// A table and the instruction that reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JumpTable {
    /// The instruction that loads from the table.
    pub(crate) load_at: u32,
    /// The register that holds the index then.
    pub(crate) index: Register,
    /// The register that holds the table's address then, and the unit address that it is taken for.
    pub(crate) base: Option<(Register, u32)>,
    /// Unit addresses.
    pub(crate) targets: Vec<u32>,
    /// Whether the load was seen in the node of the jump.
    pub(crate) is_in_node: bool,
}

/// The instructions before `at`, nearest first, without a gap between them.
fn before(instructions: &BTreeMap<u32, Instruction>, at: u32) -> impl Iterator<Item = (u32, &Instruction)> {
    let mut next = at;
    instructions.range(..at).rev().take(REACH).map_while(move |(at, instruction)| {
        let follows = instruction.next_ip() as u32 == next;
        next = *at;
        follows.then_some((*at, instruction))
    })
}

/// The table behind the indirect jump at `at`.
pub(super) fn recover(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
    instructions: &BTreeMap<u32, Instruction>,
    at: u32,
) -> Option<JumpTable> {
    let jump = instructions.get(&at)?;
    match jump.op0_kind() {
        OpKind::Memory => absolute(image, bounds, instructions, at, jump),
        OpKind::Register => {
            let target = jump.op0_register();
            let (setter_at, setter) =
                before(instructions, at).find(|(_, i)| i.op0_register() == target && writes_first(i))?;
            match setter.mnemonic() {
                Mnemonic::Mov if setter.op1_kind() == OpKind::Memory => {
                    absolute(image, bounds, instructions, setter_at, setter)
                }
                Mnemonic::Add if setter.op1_kind() == OpKind::Register => {
                    relative(image, bounds, instructions, setter_at, [target, setter.op1_register()])
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether the target of the indirect jump at `at` is computed like an element of a table of labels, other than the target of a
/// tail call.
pub(super) fn is_computed(instructions: &BTreeMap<u32, Instruction>, at: u32) -> bool {
    let indexed = |i: &Instruction| i.memory_index() != Register::None;
    let Some(jump) = instructions.get(&at) else { return false };
    match jump.op0_kind() {
        OpKind::Memory => indexed(jump),
        OpKind::Register => before(instructions, at)
            .find(|(_, i)| i.op0_register() == jump.op0_register() && writes_first(i))
            .is_some_and(|(_, i)| match i.mnemonic() {
                Mnemonic::Add => i.op1_kind() == OpKind::Register,
                Mnemonic::Mov | Mnemonic::Lea => indexed(i),
                _ => false,
            }),
        _ => false,
    }
}

fn writes_first(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push)
}

/// Offsets from the table, four bytes each.
fn relative(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
    instructions: &BTreeMap<u32, Instruction>,
    add_at: u32,
    [sum, other]: [Register; 2],
) -> Option<JumpTable> {
    let (load_at, load) = before(instructions, add_at).find(|(_, i)| {
        i.mnemonic() == Mnemonic::Movsxd
            && i.op1_kind() == OpKind::Memory
            && [sum, other].contains(&i.op0_register())
    })?;
    let base = if load.op0_register() == sum { other } else { sum };
    if load.memory_base() != base || load.memory_index_scale() != 4 || load.memory_displacement64() != 0 {
        return None;
    }
    let is_lea = |i: &Instruction| {
        i.mnemonic() == Mnemonic::Lea && i.op0_register() == base && i.is_ip_rel_memory_operand()
    };
    // Compilers like to hoist the address of the table out of a loop.
    let lea = instructions.range(..load_at).rev().map(|(_, i)| i).find(|i| is_lea(i))?;
    let table = lea.memory_displacement64() as u32;
    let mut targets = Vec::new();
    let limit = count(instructions, load_at);
    while targets.len() < limit.unwrap_or(MAX_ENTRIES) {
        let mut entry = [0; 4];
        if !image.read_only(table.wrapping_add(4 * targets.len() as u32), &mut entry) {
            break;
        }
        let target = table.wrapping_add_signed(i32::from_le_bytes(entry));
        if !accept(image, bounds, target, limit.is_some()) {
            break;
        }
        targets.push(target);
    }
    let index = load.memory_index();
    (!targets.is_empty()).then_some(JumpTable {
        load_at,
        index,
        base: Some((base, table)),
        targets,
        is_in_node: false,
    })
}

/// Absolute addresses, eight bytes each.
fn absolute(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
    instructions: &BTreeMap<u32, Instruction>,
    load_at: u32,
    load: &Instruction,
) -> Option<JumpTable> {
    let bias = image.fixed_bias()?;
    if load.memory_base() != Register::None
        || load.memory_index() == Register::None
        || load.memory_index_scale() != 8
        || load.segment_prefix() != Register::None
    {
        return None;
    }
    let table = (load.memory_displacement64() as u32).wrapping_sub(bias);
    let mut targets = Vec::new();
    let limit = count(instructions, load_at);
    while targets.len() < limit.unwrap_or(MAX_ENTRIES) {
        let mut entry = [0; 8];
        if !image.read_only(table.wrapping_add(8 * targets.len() as u32), &mut entry) {
            break;
        }
        let target = (u64::from_le_bytes(entry) as u32).wrapping_sub(bias);
        if !accept(image, bounds, target, limit.is_some()) {
            break;
        }
        targets.push(target);
    }
    let index = load.memory_index();
    (!targets.is_empty()).then_some(JumpTable { load_at, index, base: None, targets, is_in_node: false })
}

fn accept(image: &dyn CodeImage, bounds: FunctionBounds, target: u32, is_counted: bool) -> bool {
    (target >= bounds.start && target < bounds.end) || is_counted && !image.code(target).is_empty()
}

/// The number of entries, from the comparison that guards the table.
fn count(instructions: &BTreeMap<u32, Instruction>, load_at: u32) -> Option<usize> {
    let mut branch = None;
    for (_, instruction) in instructions.range(..load_at).rev().take(REACH) {
        match instruction.mnemonic() {
            Mnemonic::Ja | Mnemonic::Jbe => branch = Some(1),
            Mnemonic::Jae | Mnemonic::Jb => branch = Some(0),
            Mnemonic::Cmp if branch.is_some() => {
                let immediate = matches!(
                    instruction.op1_kind(),
                    OpKind::Immediate8
                        | OpKind::Immediate16
                        | OpKind::Immediate32
                        | OpKind::Immediate8to16
                        | OpKind::Immediate8to32
                        | OpKind::Immediate8to64
                        | OpKind::Immediate32to64
                );
                let count = instruction.immediate(1).checked_add(branch?)?;
                return (immediate && count <= MAX_ENTRIES as u64).then_some(count as usize);
            }
            _ => {}
        }
    }
    None
}
