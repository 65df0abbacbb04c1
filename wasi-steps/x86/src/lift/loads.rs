//! Loads that must not be merged.
//!
//! A processor does loads in order, and programs with threads count on it: a reader of a sequence lock loads the counter, the
//! data, and the counter again. The engine would take the second counter from the first load when nothing between them
//! writes memory. A compiler would not have loaded twice without a reason, so wherever a memory operand is loaded that may
//! have been loaded before with no store, call or atomic operation in between, a barrier goes in front: an atomic load
//! of the stop byte, which the engine does not look through. Operands are compared as they are written; those relative
//! to the stack pointer are the thread's own.

use std::collections::HashMap;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::cfg::{Body, Graph};
use super::graph::Shape;

/// A memory operand as it is written.
type Operand = (Register, Register, u32, u64);

/// The operand that an instruction loads.
fn loaded(i: &Instruction) -> Option<Operand> {
    let operand = (0..i.op_count()).position(|n| i.op_kind(n) == OpKind::Memory)?;
    let is_load = operand > 0 || matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
    let base = i.memory_base();
    let is_own = base == Register::RSP || i.mnemonic() == Mnemonic::Lea;
    (is_load && !is_own).then(|| (base, i.memory_index(), i.memory_index_scale(), i.memory_displacement64()))
}

/// Whether the engine keeps loads on both sides of an instruction apart.
fn separates(i: &Instruction) -> bool {
    let stores = i.op0_kind() == OpKind::Memory
        && !matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push | Mnemonic::Nop);
    let pushes = i.is_stack_instruction() && i.stack_pointer_increment() < 0;
    stores
        || pushes
        || i.is_string_instruction()
        || !matches!(
            i.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        )
}

/// Addresses of instructions that need a barrier before them.
pub(crate) fn barriers(graph: &Graph, shape: &Shape, looks: &[bool]) -> Vec<u32> {
    let code = |node: usize| match &graph.nodes[node].body {
        Body::Code { instructions, .. } => instructions.as_slice(),
        _ => &[],
    };
    let mut counts: HashMap<Operand, u32> = HashMap::new();
    for node in &shape.order {
        code(*node).iter().filter_map(loaded).for_each(|operand| *counts.entry(operand).or_default() += 1);
    }
    // Only operands that several instructions load matter; beyond 64 they share bits, which is safe.
    let mut bits = HashMap::new();
    for (operand, _) in counts.into_iter().filter(|(_, count)| *count > 1) {
        let next = bits.len() as u32 % 64;
        bits.insert(operand, 1_u64 << next);
    }
    let mut found = Vec::new();
    let mut before = vec![0_u64; graph.nodes.len()];
    let mut changed = !bits.is_empty();
    while changed {
        changed = false;
        found.clear();
        for node in &shape.order {
            let mut seen = if looks[*node] { 0 } else { before[*node] };
            for instruction in code(*node) {
                if let Some(bit) = loaded(instruction).and_then(|operand| bits.get(&operand)) {
                    if seen & bit != 0 {
                        found.push(instruction.ip() as u32);
                        seen = 0;
                    }
                    seen |= bit;
                }
                if separates(instruction) {
                    seen = 0;
                }
            }
            for to in &graph.nodes[*node].successors {
                changed |= seen & !before[*to] != 0;
                before[*to] |= seen;
            }
        }
    }
    found
}
