//! Moves, arithmetic and logic on integers, and the stack.

use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind};
use wasm_encoder::Instruction as Wasm;

use super::abi;
use super::conditions::{adjust, of_result};
use super::flags::{AF, CF, OF};
use super::ir::{
    Alu, Expr, RAX, RBP, RDX, RSP, STATE, Statement, Type, alu, and, constant, extend, get, memory, narrow,
    not, op1, op2, select, sign, signed, to_i32, wrap,
};
use super::lifter::Lifter;
use super::operands::{Place, load, store};
use crate::state::flag;

/// Arithmetic with two operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sum {
    Add,
    AddCarry,
    Sub,
    SubBorrow,
}

impl Lifter<'_> {
    /// Translates an integer instruction; `None` for those that this topic does not know.
    pub(super) fn integer(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        if i.has_lock_prefix() || i.mnemonic() == M::Xchg && i.op0_kind() == OpKind::Memory {
            return self.atomic(i);
        }
        match i.mnemonic() {
            M::Mov => {
                let value = self.read(i, 1)?;
                self.write(i, 0, value)
            }
            M::Movnti => {
                let value = self.read(i, 1)?;
                self.write(i, 0, value)
            }
            M::Movzx => {
                let value = self.read(i, 1)?;
                let value = if self.size(i, 0) == 8 { extend(value) } else { value };
                self.write(i, 0, value)
            }
            M::Movsx | M::Movsxd => {
                let value = self.read(i, 1)?;
                let value = signed(self.size(i, 1), value);
                let value = if self.size(i, 0) == 8 && self.size(i, 1) < 8 {
                    op1(Wasm::I64ExtendI32S, value)
                } else {
                    value
                };
                self.write(i, 0, value)
            }
            M::Lea => {
                let value = self.effective_address(i)?;
                let value = if self.size(i, 0) == 8 { value } else { wrap(value) };
                self.write(i, 0, value)
            }
            M::Add => self.sum(i, Sum::Add),
            M::Adc => self.sum(i, Sum::AddCarry),
            M::Sub => self.sum(i, Sum::Sub),
            M::Sbb => self.sum(i, Sum::SubBorrow),
            M::Cmp => {
                let size = self.size(i, 0);
                let a = self.read(i, 0)?;
                let b = self.read(i, 1)?;
                if self.wanted().any() == 0 {
                    self.touch(a);
                    self.touch(b);
                    return Some(());
                }
                self.set_difference(size, a, b);
                Some(())
            }
            M::And | M::Or | M::Xor | M::Test => self.logic(i),
            M::Inc | M::Dec => self.increment(i),
            M::Neg => {
                let (size, place) = (self.size(i, 0), self.place(i, 0)?);
                let value = self.read_place(&place);
                let value = self.keep_integer(size, value);
                self.set_difference(size, constant(size, 0), value.clone());
                self.write_place(&place, narrow(size, alu(Alu::Sub, size, constant(size, 0), value)));
                Some(())
            }
            M::Not => {
                let (size, place) = (self.size(i, 0), self.place(i, 0)?);
                let value = alu(Alu::Xor, size, self.read_place(&place), constant(size, -1));
                self.write_place(&place, narrow(size, value));
                Some(())
            }
            M::Push => self.push(i),
            M::Pop => self.pop(i),
            M::Leave if i.code() == Code::Leaveq => {
                let address = self.keep(Type::I32, wrap(get(RBP)));
                let value = self.keep(Type::I64, load(8, address, 0));
                self.set(RSP, alu(Alu::Add, 8, get(RBP), Expr::I64(8)));
                self.set(RBP, value);
                Some(())
            }
            M::Xchg => {
                let (size, a, b) = (self.size(i, 0), self.place(i, 0)?, self.place(i, 1)?);
                let first = self.read_place(&a);
                let first = self.keep_integer(size, first);
                let second = self.read_place(&b);
                let second = self.keep_integer(size, second);
                self.write_place(&a, second);
                self.write_place(&b, first);
                Some(())
            }
            M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo => self.widen(i.mnemonic()),
            M::Nop
            | M::Endbr64
            | M::Endbr32
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchw => Some(()),
            M::Pause | M::Lfence | M::Sfence => {
                self.out.push(Statement::Barrier);
                Some(())
            }
            M::Mfence => {
                self.out.push(Statement::Fence);
                Some(())
            }
            M::Stc | M::Clc | M::Cmc => {
                let carry = match i.mnemonic() {
                    M::Stc => Expr::I32(1),
                    M::Clc => Expr::I32(0),
                    _ => not(self.flag(CF)),
                };
                self.set_bits(|n| (n == CF).then(|| carry.clone()));
                Some(())
            }
            M::Cld | M::Std => {
                let place = || memory(STATE, abi::FLAGS_OFFSET);
                let old = Expr::State(Wasm::I64Load(place()));
                let value = if i.mnemonic() == M::Std {
                    op2(Wasm::I64Or, old, Expr::I64(flag::DF as i64))
                } else {
                    op2(Wasm::I64And, old, Expr::I64(!(flag::DF as i64)))
                };
                self.out.push(Statement::StoreState(Wasm::I64Store(place()), value));
                Some(())
            }
            _ => self.conditional(i).or_else(|| self.bits(i)),
        }
    }

    pub(super) fn write(&mut self, i: &Instruction, n: u32, value: Expr) -> Option<()> {
        let place = self.place(i, n)?;
        self.write_place(&place, value);
        Some(())
    }

    /// Evaluates a value that nobody wants, where that can fault.
    pub(super) fn touch(&mut self, value: Expr) {
        if let Expr::Load(..) = value {
            self.out.push(Statement::Drop(value));
        }
    }

    fn sum(&mut self, i: &Instruction, kind: Sum) -> Option<()> {
        let size = self.size(i, 0);
        let is_same = i.op0_kind() == OpKind::Register
            && i.op1_kind() == OpKind::Register
            && i.op0_register() == i.op1_register();
        let place = self.place(i, 0)?;
        if is_same && kind == Sum::Sub {
            self.set_difference(size, constant(size, 0), constant(size, 0));
            self.write_place(&place, constant(size, 0));
            return Some(());
        }
        let a = self.read_place(&place);
        let a = self.keep_integer(size, a);
        let b = self.read(i, 1)?;
        let b = self.keep_integer(size, b);
        let is_subtraction = matches!(kind, Sum::Sub | Sum::SubBorrow);
        let operator = if is_subtraction { Alu::Sub } else { Alu::Add };
        let mut result = alu(operator, size, a.clone(), b.clone());
        if matches!(kind, Sum::AddCarry | Sum::SubBorrow) {
            let carry = self.flag(CF);
            let carry = if size == 8 { extend(carry) } else { carry };
            result = alu(operator, size, result, carry);
        }
        let result = self.keep_integer(size, narrow(size, result));
        match kind {
            Sum::Sub => self.set_difference(size, a, b),
            _ => self.set_sum(size, kind, &a, &b, &result),
        }
        self.write_place(&place, result);
        Some(())
    }

    fn set_sum(&mut self, size: u32, kind: Sum, a: &Expr, b: &Expr, result: &Expr) {
        let (a, b, r) = (|| a.clone(), || b.clone(), || result.clone());
        let invert = |value| alu(Alu::Xor, size, value, constant(size, -1));
        self.set_bits(|n| {
            Some(match n {
                CF => match kind {
                    Sum::Add | Sum::Sub => alu(Alu::LtU, size, r(), a()),
                    // The carry out of the highest bit.
                    Sum::AddCarry => {
                        let either = alu(Alu::And, size, alu(Alu::Or, size, a(), b()), invert(r()));
                        sign(size, alu(Alu::Or, size, alu(Alu::And, size, a(), b()), either))
                    }
                    Sum::SubBorrow => {
                        let either = alu(Alu::And, size, alu(Alu::Or, size, invert(a()), b()), r());
                        sign(size, alu(Alu::Or, size, alu(Alu::And, size, invert(a()), b()), either))
                    }
                },
                AF => adjust(size, a(), b(), r()),
                OF => {
                    let differ = alu(Alu::Xor, size, a(), b());
                    let differ = if kind == Sum::SubBorrow { differ } else { invert(differ) };
                    sign(size, alu(Alu::And, size, differ, alu(Alu::Xor, size, a(), r())))
                }
                n => return of_result(size, n, r()),
            })
        });
    }

    /// Flags of `a + b`, for other topics.
    pub(super) fn set_addition(&mut self, size: u32, a: &Expr, b: &Expr, result: &Expr) {
        self.set_sum(size, Sum::Add, a, b, result);
    }

    fn logic(&mut self, i: &Instruction) -> Option<()> {
        let size = self.size(i, 0);
        let is_same = i.op0_kind() == OpKind::Register
            && i.op1_kind() == OpKind::Register
            && i.op0_register() == i.op1_register();
        let place = self.place(i, 0)?;
        let value = match i.mnemonic() {
            Mnemonic::Xor if is_same => constant(size, 0),
            Mnemonic::Xor => alu(Alu::Xor, size, self.read_place(&place), self.read(i, 1)?),
            Mnemonic::And | Mnemonic::Test if is_same => self.read_place(&place),
            Mnemonic::Or if is_same => self.read_place(&place),
            Mnemonic::Or => alu(Alu::Or, size, self.read_place(&place), self.read(i, 1)?),
            _ => alu(Alu::And, size, self.read_place(&place), self.read(i, 1)?),
        };
        if i.mnemonic() == Mnemonic::Test {
            if self.wanted().any() == 0 {
                if place.is_memory() {
                    self.out.push(Statement::Drop(value));
                }
                return Some(());
            }
            self.set_logic(size, value);
            return Some(());
        }
        let value = self.keep_integer(size, value);
        self.set_logic(size, value.clone());
        self.write_place(&place, value);
        Some(())
    }

    fn increment(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        let is_increment = i.mnemonic() == Mnemonic::Inc;
        let value = self.read_place(&place);
        let step = constant(size, if is_increment { 1 } else { -1 });
        let result = self.keep_integer(size, narrow(size, alu(Alu::Add, size, value, step)));
        self.set_increment(size, is_increment, &result);
        self.write_place(&place, result);
        Some(())
    }

    /// Flags of `inc` and `dec` by their result.
    pub(super) fn set_increment(&mut self, size: u32, is_increment: bool, result: &Expr) {
        let lowest = 1_i64 << (8 * size - 1);
        let edge = if is_increment { lowest } else { lowest.wrapping_sub(1) };
        self.set_bits(|n| {
            Some(match n {
                AF => {
                    let low = and(to_i32(size, result.clone()), Expr::I32(15));
                    alu(Alu::Eq, 4, low, Expr::I32(if is_increment { 0 } else { 15 }))
                }
                OF => alu(Alu::Eq, size, result.clone(), constant(size, edge)),
                n => return of_result(size, n, result.clone()),
            })
        });
    }

    /// Stores an i64 below the stack pointer.
    pub(super) fn push_value(&mut self, value: Expr) {
        let below = alu(Alu::Sub, 8, get(RSP), Expr::I64(8));
        let below = self.keep(Type::I64, below);
        self.out.push(store(8, wrap(below.clone()), 0, value));
        self.set(RSP, below);
    }

    fn push(&mut self, i: &Instruction) -> Option<()> {
        let is_wide = i.stack_pointer_increment() == -8;
        let value = match i.op0_kind() {
            OpKind::Register if i.op0_register().is_segment_register() => return None,
            OpKind::Register | OpKind::Memory => self.read(i, 0)?,
            _ => Expr::I64(i.immediate(0) as i64),
        };
        let value = self.keep(Type::I64, value);
        is_wide.then(|| self.push_value(value))
    }

    fn pop(&mut self, i: &Instruction) -> Option<()> {
        if i.stack_pointer_increment() != 8 || i.op0_kind() != OpKind::Register || !i.op0_register().is_gpr()
        {
            return None;
        }
        let value = self.keep(Type::I64, load(8, wrap(get(RSP)), 0));
        self.set(RSP, alu(Alu::Add, 8, get(RSP), Expr::I64(8)));
        self.write(i, 0, value)
    }

    fn widen(&mut self, mnemonic: Mnemonic) -> Option<()> {
        let low = |size| narrow(size, wrap(get(RAX)));
        match mnemonic {
            Mnemonic::Cbw => self.write_place(&Place::Register(RAX, 2), signed(1, low(1))),
            Mnemonic::Cwde => self.write_place(&Place::Register(RAX, 4), signed(2, low(2))),
            Mnemonic::Cdqe => self.set(RAX, op1(Wasm::I64Extend32S, get(RAX))),
            Mnemonic::Cwd => {
                let value = alu(Alu::ShrS, 4, signed(2, low(2)), Expr::I32(15));
                self.write_place(&Place::Register(RDX, 2), value);
            }
            Mnemonic::Cdq => {
                let value = alu(Alu::ShrS, 4, wrap(get(RAX)), Expr::I32(31));
                self.write_place(&Place::Register(RDX, 4), value);
            }
            _ => self.set(RDX, alu(Alu::ShrS, 8, get(RAX), Expr::I64(63))),
        }
        Some(())
    }

    /// `setcc` and `cmovcc`.
    fn conditional(&mut self, i: &Instruction) -> Option<()> {
        let code = i.condition_code();
        if code == ConditionCode::None || i.op_count() == 0 || i.is_jcc_short_or_near() {
            return None;
        }
        if i.op_count() == 1 {
            let value = self.condition(code);
            return self.write(i, 0, value);
        }
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        if !matches!(i.op0_kind(), OpKind::Register) || i.op0_register().is_st() {
            return None;
        }
        // Memory is read whether the condition holds or not.
        let value = self.read(i, 1)?;
        let value = self.keep_integer(size, value);
        let condition = self.condition(code);
        let old = self.read_place(&place);
        self.write_place(&place, select(condition, value, old));
        Some(())
    }

    /// The target of an indirect branch, i32.
    pub(super) fn branch_target(&mut self, i: &Instruction) -> Option<Expr> {
        let register_is_wide = i.op0_kind() == OpKind::Register && i.op0_register().size() == 8;
        let memory_is_wide = i.op0_kind() == OpKind::Memory && i.memory_size().size() == 8;
        if !register_is_wide && !memory_is_wide || i.is_jmp_far_indirect() || i.is_call_far_indirect() {
            return None;
        }
        let target = self.read(i, 0)?;
        Some(wrap(target))
    }
}
