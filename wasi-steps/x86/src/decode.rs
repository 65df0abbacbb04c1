//! From machine code to blocks of operations.
//!
//! A block is a straight run of instructions that ends with a branch or at a limit. It knows no absolute address:
//! instructions are decoded as if the block were at address 0, and what depends on the address is relative to the
//! pseudo-register [`BLOCK`](crate::machine::BLOCK).

use std::sync::atomic::AtomicU32;

use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic};

use crate::code::Link;
use crate::operations::Operation;
use crate::select;

/// Most instructions of a block.
pub(crate) const MAX_INSTRUCTIONS: usize = 48;
/// Most bytes that a block can need: an instruction has up to 15.
pub(crate) const MAX_BYTES: usize = MAX_INSTRUCTIONS * 15;

/// A straight run of instructions.
#[derive(Debug)]
pub(crate) struct Block {
    /// What to do; the last operation ends the block.
    pub(crate) operations: Box<[Operation]>,
    /// Instructions of the general path.
    pub(crate) general: Box<[Instruction]>,
    /// Length in bytes.
    pub(crate) length: u32,
    /// Number of instructions.
    pub(crate) count: u32,
    /// One more than the number of the translated entry at its first instruction; 0 when there is none.
    pub(crate) entry: AtomicU32,
    /// Successors: when a branch is not taken, when it is.
    pub(crate) links: [Link; 2],
    /// The machine code, where it has to be compared with memory.
    pub(crate) bytes: Option<Box<[u8]>>,
}

/// Decodes the block at the start of `bytes`; `None` when they end within its first instruction.
pub(crate) fn decode(bytes: &[u8]) -> Option<Block> {
    decode_up_to(bytes, MAX_INSTRUCTIONS)
}

/// As [`decode`] for a single instruction.
pub(crate) fn decode_one(bytes: &[u8]) -> Option<Block> {
    decode_up_to(bytes, 1)
}

fn decode_up_to(bytes: &[u8], limit: usize) -> Option<Block> {
    let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let mut instructions = Vec::with_capacity(limit);
    while instructions.len() < limit {
        let start = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() && decoder.last_error() == DecoderError::NoMoreBytes {
            // The rest is in the next block, or not executable.
            let _ = decoder.set_position(start);
            break;
        }
        instructions.push(instruction);
        if ends_block(&instruction) {
            break;
        }
    }
    let last = instructions.last()?;
    let length = last.next_ip() as u32;
    let (operations, general) = select::select(&instructions);
    Some(Block {
        operations,
        general,
        length,
        count: instructions.len() as u32,
        entry: AtomicU32::new(0),
        links: [Link::new(), Link::new()],
        bytes: None,
    })
}

fn ends_block(instruction: &Instruction) -> bool {
    instruction.is_invalid()
        || instruction.flow_control() != FlowControl::Next
        || matches!(instruction.mnemonic(), Mnemonic::Popf | Mnemonic::Popfq | Mnemonic::Hlt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_decode_to_whole_blocks() {
        let mut state = 1_u64;
        let mut bytes = [0; MAX_BYTES];
        for _ in 0..5_000 {
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
            let block = decode(&bytes).expect("there are enough bytes for an instruction");
            assert!(block.length > 0 && block.length as usize <= MAX_BYTES);
            assert!(block.count as usize <= MAX_INSTRUCTIONS && !block.operations.is_empty());
            assert!(block.operations.len() <= MAX_INSTRUCTIONS + 1);
        }
    }

    #[test]
    fn an_unfinished_instruction_is_left_to_the_next_block() {
        assert!(decode(&[]).is_none());
        assert!(decode(&[0xb8, 0, 0]).is_none());
        let block = decode(&[0x90, 0xb8, 0, 0]).expect("the first is whole");
        assert_eq!((block.length, block.count), (1, 1));
    }
}
