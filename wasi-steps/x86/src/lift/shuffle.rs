//! Instructions that only move the bytes of SSE registers about.
//!
//! Each is a table of sixteen byte numbers, 0 to 15 of the first operand and 16 to 31 of the second, made from the
//! mnemonic and the immediate.

use iced_x86::{Instruction, Mnemonic};
use wasm_encoder::Instruction as Wasm;

use super::ir::{Expr, Type, get, op2};
use super::lifter::Lifter;
use super::vector::{xmm, zero};

type Lanes = [u8; 16];

/// Byte numbers from the numbers of lanes of `size` bytes.
pub(super) fn of_lanes(size: u8, lane: impl Fn(u8) -> u8) -> Lanes {
    std::array::from_fn(|byte| lane(byte as u8 / size) * size + byte as u8 % size)
}

/// Interleaves the low or high halves of two registers.
fn unpack(size: u8, first: u8) -> Lanes {
    of_lanes(size, |lane| first + lane / 2 + if lane % 2 == 1 { 16 / size } else { 0 })
}

/// Two bits of an immediate.
fn field(immediate: u8, place: u8) -> u8 {
    immediate >> (2 * place) & 3
}

/// Shuffles of the destination (0 to 15) and the source (16 to 31).
fn of_two(mnemonic: Mnemonic, immediate: u8) -> Option<Lanes> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Punpcklbw => unpack(1, 0),
        M::Punpcklwd => unpack(2, 0),
        M::Punpckldq | M::Unpcklps => unpack(4, 0),
        M::Punpcklqdq | M::Unpcklpd | M::Movlhps => unpack(8, 0),
        M::Punpckhbw => unpack(1, 8),
        M::Punpckhwd => unpack(2, 4),
        M::Punpckhdq | M::Unpckhps => unpack(4, 2),
        M::Punpckhqdq | M::Unpckhpd => unpack(8, 1),
        M::Movhlps => of_lanes(8, |lane| if lane == 0 { 3 } else { 1 }),
        M::Shufps => of_lanes(4, |lane| field(immediate, lane) + if lane < 2 { 0 } else { 4 }),
        M::Shufpd => of_lanes(8, |lane| (immediate >> lane & 1) + 2 * lane),
        M::Pblendw => of_lanes(2, |lane| lane + 8 * (immediate >> lane & 1)),
        M::Blendps => of_lanes(4, |lane| lane + 4 * (immediate >> lane & 1)),
        M::Blendpd => of_lanes(8, |lane| lane + 2 * (immediate >> lane & 1)),
        _ => return None,
    })
}

/// Shuffles of the source alone.
fn of_one(mnemonic: Mnemonic, immediate: u8) -> Option<Lanes> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pshufd => of_lanes(4, |lane| field(immediate, lane)),
        M::Pshuflw => of_lanes(2, |lane| if lane < 4 { field(immediate, lane) } else { lane }),
        M::Pshufhw => of_lanes(2, |lane| if lane < 4 { lane } else { 4 + field(immediate, lane - 4) }),
        M::Movddup => of_lanes(8, |_| 0),
        M::Movshdup => of_lanes(4, |lane| lane | 1),
        M::Movsldup => of_lanes(4, |lane| lane & !1),
        _ => return None,
    })
}

impl Lifter<'_> {
    pub(super) fn shuffle(&mut self, i: &Instruction) -> Option<()> {
        let target = xmm(i.op0_register())?;
        let immediate = i.immediate8();
        if let Some(lanes) = of_two(i.mnemonic(), immediate) {
            let source = self.vector_source(i, 1)?;
            return self.set_xmm(i, op2(Wasm::I8x16Shuffle(lanes), get(target), source));
        }
        if let Some(lanes) = of_one(i.mnemonic(), immediate) {
            let source = self.vector_source(i, 1)?;
            let source = self.keep(Type::V128, source);
            return self.set_xmm(i, op2(Wasm::I8x16Shuffle(lanes), source.clone(), source));
        }
        match i.mnemonic() {
            Mnemonic::Pshufb => {
                let source = self.vector_source(i, 1)?;
                // Bit 7 gives zero; of the others only four count.
                let chosen = op2(Wasm::V128And, source, Self::splat(0x8f, 1));
                self.set_xmm(i, op2(Wasm::I8x16Swizzle, get(target), chosen))
            }
            Mnemonic::Pslldq | Mnemonic::Psrldq => {
                let count = immediate.min(16);
                let lanes: Lanes = std::array::from_fn(|byte| {
                    let byte = byte as u8;
                    match i.mnemonic() {
                        Mnemonic::Pslldq if byte < count => 16,
                        Mnemonic::Pslldq => byte - count,
                        _ => (byte + count).min(16),
                    }
                });
                self.set_xmm(i, op2(Wasm::I8x16Shuffle(lanes), get(target), zero()))
            }
            Mnemonic::Palignr => {
                let source = self.vector_source(i, 1)?;
                let value: Expr = match immediate {
                    0..=16 => {
                        let lanes: Lanes = std::array::from_fn(|byte| byte as u8 + immediate);
                        op2(Wasm::I8x16Shuffle(lanes), source, get(target))
                    }
                    17..=31 => {
                        let lanes: Lanes = std::array::from_fn(|byte| (byte as u8 + immediate - 16).min(16));
                        op2(Wasm::I8x16Shuffle(lanes), get(target), zero())
                    }
                    _ => zero(),
                };
                self.set_xmm(i, value)
            }
            _ => None,
        }
    }
}
