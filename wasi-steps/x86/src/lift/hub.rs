//! Indirect jumps whose targets are known only as a set, and stubs.
//!
//! An address is scattered by a multiplication over a table of slots, and what lies in a slot is compared with it. So a jump
//! costs a multiplication and a comparison whatever the program does to find its target, and nothing is assumed about that.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::CodeImage;
use super::ir::{Alu, Expr, Var, alu, get, guest_address};

/// Most targets of a function's hub.
pub(crate) const MAX_TARGETS: usize = 1024;
/// How many factors are tried for the fewest targets in one slot with another.
const FACTORS: usize = 64;

/// How addresses are scattered over slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scatter {
    /// What is taken from a unit address first.
    base: u32,
    factor: u32,
    /// The slots are 2 to this power.
    bits: u32,
}

impl Scatter {
    fn slot(self, at: u32) -> usize {
        (at.wrapping_sub(self.base).wrapping_mul(self.factor) >> (32 - self.bits)) as usize
    }

    /// The slot of the guest address in a variable, an i32.
    pub(crate) fn expression(self, address: Var) -> Expr {
        let distance = alu(Alu::Sub, 4, get(address), guest_address(self.base));
        let product = alu(Alu::Mul, 4, distance, Expr::I32(self.factor as i32));
        alu(Alu::ShrU, 4, product, Expr::I32(32 - self.bits as i32))
    }
}

/// A way to scatter these targets, and what is in each slot.
pub(crate) fn scatter(targets: &[u32]) -> (Scatter, Vec<Vec<u32>>) {
    let bits = (targets.len() | 1).ilog2() + 2;
    let base = targets.first().copied().unwrap_or(0);
    let mut best = (usize::MAX, Scatter { base, factor: 1, bits });
    let mut factor = 0x9e37_79b1_u32;
    for _ in 0..FACTORS {
        let scatter = Scatter { base, factor, bits };
        let mut taken = vec![false; 1 << bits];
        let collisions =
            targets.iter().filter(|at| std::mem::replace(&mut taken[scatter.slot(**at)], true)).count();
        if collisions < best.0 {
            best = (collisions, scatter);
        }
        factor = factor.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f) | 1;
    }
    let mut slots = vec![Vec::new(); 1 << bits];
    for at in targets {
        slots[best.1.slot(*at)].push(*at);
    }
    (best.1, slots)
}

/// Where code begins behind `nop` and `int3` between two unit addresses; `None` where there is nothing else.
pub(super) fn behind_padding(image: &dyn CodeImage, from: u32, to: u32) -> Option<u32> {
    let code = image.code(from);
    let code = &code[..code.len().min((to - from) as usize)];
    let mut decoder = Decoder::with_ip(64, code, from.into(), DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        if !matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
            return Some(instruction.ip() as u32);
        }
    }
    None
}

/// The pointer that a stub at a unit address jumps through: linkers reach functions of other files so.
fn stub(image: &dyn CodeImage, at: u32) -> Option<u32> {
    /// `endbr64` and a jump with a prefix.
    const LENGTH: usize = 11;
    let code = image.code(at);
    let code = &code[..code.len().min(LENGTH)];
    let mut decoder = Decoder::with_ip(64, code, at.into(), DecoderOptions::NONE);
    let mut instruction = decoder.decode();
    if instruction.mnemonic() == Mnemonic::Endbr64 {
        instruction = decoder.decode();
    }
    let is_stub = instruction.flow_control() == FlowControl::IndirectBranch
        && instruction.op0_kind() == OpKind::Memory
        && instruction.is_ip_rel_memory_operand()
        && instruction.memory_size().size() == 8
        && instruction.memory_segment() == Register::DS;
    is_stub.then(|| instruction.memory_displacement64() as u32)
}

/// The stubs among what these instructions call and jump to.
pub(super) fn stubs<'a>(
    image: &dyn CodeImage,
    instructions: impl Iterator<Item = &'a Instruction>,
) -> HashMap<u32, u32> {
    let mut found = HashMap::new();
    for instruction in instructions {
        if instruction.op0_kind() == OpKind::NearBranch64 {
            let at = instruction.near_branch64() as u32;
            if let Some(pointer) = stub(image, at) {
                found.insert(at, pointer);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_in_its_slot() {
        for count in [1, 2, 3, 200, MAX_TARGETS as u32] {
            let targets: Vec<u32> = (0..count).map(|n| 0x4_0000 + 16 * n * n % 0xffff + n).collect();
            let (scatter, slots) = scatter(&targets);
            assert_eq!(slots.iter().map(Vec::len).sum::<usize>(), targets.len());
            assert!(targets.iter().all(|at| slots[scatter.slot(*at)].contains(at)));
            assert!(slots.iter().all(|slot| slot.len() < 8), "{count}");
        }
    }
}
