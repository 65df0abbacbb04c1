//! Operations with a `lock` prefix, and exchanges with memory, which lock without one.
//!
//! Aligned operands use WebAssembly's atomic operators, which are x86's own. Others, allowed on x86 and refused by
//! WebAssembly, go to the interpreter, which executes the real instruction.

use iced_x86::{Instruction, Mnemonic, OpKind};
use wasm_encoder::{Instruction as Wasm, MemArg};

use super::conditions::{of_difference, of_result};
use super::ir::{Alu, Expr, GUEST, RAX, Statement, Type, alu, and, constant, get, narrow};
use super::lifter::Lifter;
use super::operands::Place;

/// What is done to memory.
#[derive(Clone, Copy)]
enum Modify {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Exchange,
    Compare,
}

/// The operator for operands of `size` bytes.
fn operator(modify: Modify, size: u32, offset: u64) -> Wasm<'static> {
    let place = MemArg { offset, align: size.trailing_zeros(), memory_index: GUEST };
    macro_rules! sized {
        ($one:ident, $two:ident, $four:ident, $eight:ident) => {
            match size {
                1 => Wasm::$one(place),
                2 => Wasm::$two(place),
                4 => Wasm::$four(place),
                _ => Wasm::$eight(place),
            }
        };
    }
    match modify {
        Modify::Add => sized!(I32AtomicRmw8AddU, I32AtomicRmw16AddU, I32AtomicRmwAdd, I64AtomicRmwAdd),
        Modify::Sub => sized!(I32AtomicRmw8SubU, I32AtomicRmw16SubU, I32AtomicRmwSub, I64AtomicRmwSub),
        Modify::And => sized!(I32AtomicRmw8AndU, I32AtomicRmw16AndU, I32AtomicRmwAnd, I64AtomicRmwAnd),
        Modify::Or => sized!(I32AtomicRmw8OrU, I32AtomicRmw16OrU, I32AtomicRmwOr, I64AtomicRmwOr),
        Modify::Xor => sized!(I32AtomicRmw8XorU, I32AtomicRmw16XorU, I32AtomicRmwXor, I64AtomicRmwXor),
        Modify::Exchange => {
            sized!(I32AtomicRmw8XchgU, I32AtomicRmw16XchgU, I32AtomicRmwXchg, I64AtomicRmwXchg)
        }
        Modify::Compare => {
            sized!(I32AtomicRmw8CmpxchgU, I32AtomicRmw16CmpxchgU, I32AtomicRmwCmpxchg, I64AtomicRmwCmpxchg)
        }
    }
}

impl Lifter<'_> {
    pub(super) fn atomic(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        let modify = match i.mnemonic() {
            M::Add | M::Inc | M::Xadd => Modify::Add,
            M::Sub | M::Dec => Modify::Sub,
            M::And => Modify::And,
            M::Or => Modify::Or,
            M::Xor => Modify::Xor,
            M::Xchg => Modify::Exchange,
            M::Cmpxchg => Modify::Compare,
            _ => return None,
        };
        if i.op0_kind() != OpKind::Memory {
            return None;
        }
        let Place::Memory(address, offset, size) = self.place(i, 0)? else { return None };
        let value = match i.mnemonic() {
            M::Inc | M::Dec => constant(size, 1),
            _ => self.read(i, 1)?,
        };
        let value = self.keep_integer(size, value);
        let other = match i.mnemonic() {
            M::Xadd | M::Xchg => Some(self.place(i, 1)?),
            _ => None,
        };
        let expected = self.read_place(&Place::Register(RAX, size));
        let mut arguments = vec![value.clone()];
        if let Modify::Compare = modify {
            let expected = self.keep_integer(size, expected.clone());
            arguments.insert(0, expected);
        }
        let full = alu(Alu::Add, 4, address.clone(), Expr::I32(offset as i32));
        let misaligned = and(full, Expr::I32(size as i32 - 1));
        let mnemonic = i.mnemonic();
        let act = |l: &mut Self| {
            let old = l.temporary(if size == 8 { Type::I64 } else { Type::I32 });
            l.out.push(Statement::Atomic(operator(modify, size, offset), address, arguments.clone(), old));
            l.finish_atomic(mnemonic, size, get(old), arguments, other);
        };
        if size == 1 {
            act(self);
        } else {
            self.step_if(misaligned, act);
        }
        Some(())
    }

    /// Flags and registers, when memory held `old`.
    fn finish_atomic(
        &mut self,
        mnemonic: Mnemonic,
        size: u32,
        old: Expr,
        arguments: Vec<Expr>,
        other: Option<Place>,
    ) {
        use Mnemonic as M;
        let value = arguments[0].clone();
        let combine = |operator| narrow(size, alu(operator, size, old.clone(), value.clone()));
        match mnemonic {
            M::Add | M::Xadd => {
                let sum = self.keep_integer(size, combine(Alu::Add));
                self.set_addition(size, &old, &value, &sum);
            }
            M::Inc | M::Dec => {
                let operator = if mnemonic == M::Inc { Alu::Add } else { Alu::Sub };
                let result = self.keep_integer(size, combine(operator));
                self.set_increment(size, mnemonic == M::Inc, &result);
            }
            M::Sub => self.set_bits(|n| Some(of_difference(size, n, old.clone(), value.clone()))),
            M::And | M::Or | M::Xor => {
                let operator = match mnemonic {
                    M::And => Alu::And,
                    M::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                let result = self.keep_integer(size, combine(operator));
                self.set_bits(|n| of_result(size, n, result.clone()));
            }
            M::Cmpxchg => {
                self.set_bits(|n| Some(of_difference(size, n, value.clone(), old.clone())));
                let differs = alu(Alu::Ne, size, value, old.clone());
                let write = self.nested(|l| l.write_place(&Place::Register(RAX, size), old));
                self.out.push(Statement::If(differs, write, Vec::new()));
                return;
            }
            _ => {}
        }
        if let Some(place) = other {
            self.write_place(&place, old);
        }
    }
}
