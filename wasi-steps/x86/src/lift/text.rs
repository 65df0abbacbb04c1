//! Comparisons of strings in SSE registers: `pcmpistri` on bytes.
//!
//! Follows the Intel manual's section on string instructions: the operands end at their first zero byte; "equal any" finds the
//! bytes of the second operand that are somewhere in the first, "equal each" compares byte by byte, where bytes behind both ends
//! count as equal. Ranges, substrings and words are the interpreter's.

use iced_x86::{Instruction, Mnemonic};
use wasm_encoder::Instruction as Wasm;

use super::flags::{CF, OF, SF, ZF};
use super::ir::{
    Alu, Expr, RCX, Statement, Type, alu, and, constant, extend, get, op1, op2, or, select, xor,
};
use super::lifter::Lifter;
use super::vector::{xmm, zero};

/// What every place of a register is.
const ALL: i32 = 0xffff;

/// Places of the bytes that are zero, a bit each.
fn zeros(value: Expr) -> Expr {
    op1(Wasm::I8x16Bitmask, op2(Wasm::I8x16Eq, value, zero()))
}

impl Lifter<'_> {
    pub(super) fn text(&mut self, i: &Instruction) -> Option<()> {
        let control = i.immediate8();
        let is_each = match control & 0b1101 {
            0b0000 => false,
            0b1000 => true,
            _ => return None,
        };
        if i.mnemonic() != Mnemonic::Pcmpistri {
            return None;
        }
        let (first, second) = (get(xmm(i.op0_register())?), self.vector_source(i, 1)?);
        let second = self.keep(Type::V128, second);
        // How many bytes there are before the end, and a bit for each of them.
        let mut measured = |value: &Expr| {
            let ends = or(zeros(value.clone()), Expr::I32(ALL + 1));
            let length = self.keep(Type::I32, op1(Wasm::I32Ctz, ends));
            let bits = alu(Alu::Sub, 4, alu(Alu::Shl, 4, Expr::I32(1), length.clone()), Expr::I32(1));
            (length, self.keep(Type::I32, bits))
        };
        let (first_length, first_valid) = measured(&first);
        let (second_length, second_valid) = measured(&second);
        let equal = if is_each {
            let equal = op1(Wasm::I8x16Bitmask, op2(Wasm::I8x16Eq, first, second));
            let both = and(equal, and(first_valid.clone(), second_valid.clone()));
            or(both, xor(or(first_valid, second_valid.clone()), Expr::I32(ALL)))
        } else {
            let found = self.any_of(first, &first_length, second);
            and(op1(Wasm::I8x16Bitmask, found), second_valid.clone())
        };
        let result = match control >> 4 & 3 {
            1 => xor(equal, Expr::I32(ALL)),
            3 => xor(equal, second_valid),
            _ => equal,
        };
        let result = self.keep(Type::I32, result);
        let index = if control & 0x40 == 0 {
            op1(Wasm::I32Ctz, result.clone())
        } else {
            alu(Alu::Sub, 4, Expr::I32(31), op1(Wasm::I32Clz, result.clone()))
        };
        self.set(RCX, extend(select(result.clone(), index, Expr::I32(16))));
        let is_short = |length: &Expr| alu(Alu::LtU, 4, length.clone(), Expr::I32(16));
        self.set_bits(|n| match n {
            CF => Some(alu(Alu::Ne, 4, result.clone(), constant(4, 0))),
            ZF => Some(is_short(&second_length)),
            SF => Some(is_short(&first_length)),
            OF => Some(and(result.clone(), Expr::I32(1))),
            _ => None,
        });
        Some(())
    }

    /// The bytes of `text` that are among the first `count` of `set`.
    fn any_of(&mut self, set: Expr, count: &Expr, text: Expr) -> Expr {
        let (found, place) = (self.temporary(Type::V128), self.temporary(Type::I32));
        self.set(found, zero());
        self.set(place, Expr::I32(0));
        let body = self.nested(|l| {
            let byte = op2(Wasm::I8x16Swizzle, set, op1(Wasm::I8x16Splat, get(place)));
            l.set(found, op2(Wasm::V128Or, get(found), op2(Wasm::I8x16Eq, text, byte)));
            l.set(place, alu(Alu::Add, 4, get(place), Expr::I32(1)));
        });
        self.out.push(Statement::While(alu(Alu::LtU, 4, get(place), count.clone()), body));
        get(found)
    }
}
