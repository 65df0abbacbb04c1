//! SSE instructions that combine neighbouring lanes, and the odd multiplications of SSSE3.

use iced_x86::{Instruction, Mnemonic};
use wasm_encoder::Instruction as Wasm;

use super::ir::{Expr, Type, get, op1, op2};
use super::lifter::Lifter;
use super::shuffle::of_lanes;
use super::vector::{xmm, zero};

/// How lanes of a size are combined, first with second.
fn pairs(mnemonic: Mnemonic) -> Option<(u8, Wasm<'static>)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Phaddw => (2, Wasm::I16x8Add),
        M::Phaddd => (4, Wasm::I32x4Add),
        M::Phaddsw => (2, Wasm::I16x8AddSatS),
        M::Phsubw => (2, Wasm::I16x8Sub),
        M::Phsubd => (4, Wasm::I32x4Sub),
        M::Phsubsw => (2, Wasm::I16x8SubSatS),
        M::Haddps => (4, Wasm::F32x4Add),
        M::Haddpd => (8, Wasm::F64x2Add),
        M::Hsubps => (4, Wasm::F32x4Sub),
        M::Hsubpd => (8, Wasm::F64x2Sub),
        _ => return None,
    })
}

/// Negation, comparison of zero with the source, of a size.
fn signs(mnemonic: Mnemonic) -> Option<(Wasm<'static>, Wasm<'static>, Wasm<'static>)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Psignb => (Wasm::I8x16Neg, Wasm::I8x16GtS, Wasm::I8x16Eq),
        M::Psignw => (Wasm::I16x8Neg, Wasm::I16x8GtS, Wasm::I16x8Eq),
        M::Psignd => (Wasm::I32x4Neg, Wasm::I32x4GtS, Wasm::I32x4Eq),
        _ => return None,
    })
}

/// Every second lane of two registers, from the first or the second on.
fn every_second(size: u8, first: u8, a: Expr, b: Expr) -> Expr {
    op2(Wasm::I8x16Shuffle(of_lanes(size, |lane| 2 * lane + first)), a, b)
}

impl Lifter<'_> {
    pub(super) fn horizontal(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        let old = get(xmm(i.op0_register())?);
        let is_known = matches!(i.mnemonic(), M::Psadbw | M::Pmaddubsw | M::Pmulhrsw)
            || pairs(i.mnemonic()).is_some()
            || signs(i.mnemonic()).is_some();
        if !is_known {
            return None;
        }
        let source = self.vector_source(i, 1)?;
        let source = self.keep(Type::V128, source);
        if let Some((size, operator)) = pairs(i.mnemonic()) {
            let first = every_second(size, 0, old.clone(), source.clone());
            let second = every_second(size, 1, old, source);
            return self.set_xmm(i, op2(operator, first, second));
        }
        if let Some((negate, greater, equal)) = signs(i.mnemonic()) {
            let is_negative = op2(greater, zero(), source.clone());
            let negated = op1(negate, old.clone());
            let chosen = Expr::Op(Wasm::V128Bitselect, vec![negated, old, is_negative]);
            return self.set_xmm(i, op2(Wasm::V128AndNot, chosen, op2(equal, source, zero())));
        }
        let value = match i.mnemonic() {
            M::Psadbw => {
                let above = op2(Wasm::I8x16SubSatU, old.clone(), source.clone());
                let below = op2(Wasm::I8x16SubSatU, source, old);
                let differences = op2(Wasm::V128Or, above, below);
                let sums = op1(Wasm::I16x8ExtAddPairwiseI8x16U, differences);
                let sums = self.keep(Type::V128, op1(Wasm::I32x4ExtAddPairwiseI16x8U, sums));
                let low = op2(Wasm::V128And, sums.clone(), Self::splat(0xffff_ffff, 8));
                op2(Wasm::I64x2Add, low, op2(Wasm::I64x2ShrU, sums, Expr::I32(32)))
            }
            M::Pmaddubsw => {
                let product = |unsigned: Wasm<'static>, signed: Wasm<'static>| {
                    op2(Wasm::I16x8Mul, op1(unsigned, old.clone()), op1(signed, source.clone()))
                };
                let low = product(Wasm::I16x8ExtendLowI8x16U, Wasm::I16x8ExtendLowI8x16S);
                let high = product(Wasm::I16x8ExtendHighI8x16U, Wasm::I16x8ExtendHighI8x16S);
                let low = self.keep(Type::V128, low);
                let high = self.keep(Type::V128, high);
                let first = every_second(2, 0, low.clone(), high.clone());
                op2(Wasm::I16x8AddSatS, first, every_second(2, 1, low, high))
            }
            _ => {
                // The one product that does not fit is kept by x86 and saturated by WebAssembly.
                let lowest = || Self::splat(0x8000, 2);
                let is_lowest = |value: Expr| op2(Wasm::I16x8Eq, value, lowest());
                let both = op2(Wasm::V128And, is_lowest(old.clone()), is_lowest(source.clone()));
                op2(Wasm::V128Xor, op2(Wasm::I16x8Q15MulrSatS, old, source), both)
            }
        };
        self.set_xmm(i, value)
    }
}
