//! Shifts, rotations, bit tests and scans, multiplication and division.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use wasm_encoder::Instruction as Wasm;

use super::conditions::of_result;
use super::flags::{CF, OF, ZF};
use super::ir::{
    Alu, Expr, RAX, RCX, RDX, Statement, Type, alu, and, constant, extend, get, is_zero, narrow, op1, op2,
    or, select, sign, signed, to_i32, wrap, xor,
};
use super::lifter::Lifter;
use super::operands::Place;

/// How far a shift goes.
#[derive(Clone, Debug)]
enum Count {
    /// Never zero.
    Fixed(i64),
    /// `cl`, masked; an i32.
    Variable(Expr),
}

impl Count {
    /// The count as an operand of a shift of `size` bytes.
    fn operand(&self, size: u32) -> Expr {
        match self {
            Self::Fixed(count) => constant(size, *count),
            Self::Variable(count) if size == 8 => extend(count.clone()),
            Self::Variable(count) => count.clone(),
        }
    }

    /// `count - 1` and `bits - count` as operands.
    fn less_one(&self, size: u32) -> Expr {
        alu(Alu::Add, size, self.operand(size), constant(size, -1))
    }

    fn rest(&self, size: u32) -> Expr {
        match self {
            Self::Fixed(count) => constant(size, i64::from(8 * size) - count),
            Self::Variable(_) => alu(Alu::Sub, size, constant(size, (8 * size).into()), self.operand(size)),
        }
    }
}

impl Lifter<'_> {
    pub(super) fn bits(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        match i.mnemonic() {
            M::Shl | M::Sal | M::Shr | M::Sar => self.shift(i),
            M::Rol | M::Ror => self.rotate(i),
            M::Shld | M::Shrd => self.double_shift(i),
            M::Bt | M::Bts | M::Btr | M::Btc => self.bit_test(i),
            M::Bsf | M::Bsr | M::Tzcnt | M::Lzcnt => self.bit_scan(i),
            M::Popcnt => {
                let size = self.size(i, 0);
                let value = self.read(i, 1)?;
                let value = self.keep_integer(size, value);
                let operator = if size == 8 { Wasm::I64Popcnt } else { Wasm::I32Popcnt };
                self.set_bits(|n| (n == ZF).then(|| is_zero(size, value.clone())));
                self.write(i, 0, op1(operator, value))
            }
            M::Bswap => self.byte_swap(i),
            M::Imul if i.op_count() > 1 => self.multiply_signed(i),
            M::Imul | M::Mul => self.multiply(i),
            M::Div | M::Idiv => self.divide(i),
            M::Xadd => {
                let (size, place, other) = (self.size(i, 0), self.place(i, 0)?, self.place(i, 1)?);
                let a = self.read_place(&place);
                let a = self.keep_integer(size, a);
                let b = self.read_place(&other);
                let b = self.keep_integer(size, b);
                let sum = self.keep_integer(size, narrow(size, alu(Alu::Add, size, a.clone(), b.clone())));
                self.set_addition(size, &a, &b, &sum);
                self.write_place(&other, a);
                self.write_place(&place, sum);
                Some(())
            }
            M::Cmpxchg => {
                let (size, place, other) = (self.size(i, 0), self.place(i, 0)?, self.place(i, 1)?);
                if place.is_memory() {
                    return self.atomic(i);
                }
                let old = self.read_place(&place);
                let old = self.keep_integer(size, old);
                let accumulator = Place::Register(RAX, size);
                let expected = self.read_place(&accumulator);
                let expected = self.keep_integer(size, expected);
                let new = self.read_place(&other);
                let new = self.keep_integer(size, new);
                let is_equal = alu(Alu::Eq, size, expected.clone(), old.clone());
                let is_equal = self.keep(Type::I32, is_equal);
                self.set_difference(size, expected, old.clone());
                let swap = self.nested(|l| l.write_place(&place, new));
                let keep = self.nested(|l| l.write_place(&accumulator, old));
                self.out.push(Statement::If(is_equal, swap, keep));
                Some(())
            }
            _ => None,
        }
    }

    /// The count of a shift or rotation; `None` inside when it is zero.
    fn count(&mut self, i: &Instruction, n: u32, size: u32) -> Option<Option<Count>> {
        let mask = if size == 8 { 63 } else { 31 };
        match i.op_kind(n) {
            OpKind::Register if i.op_register(n) == Register::CL => {
                let count = and(wrap(get(RCX)), Expr::I32(mask));
                let count = self.keep(Type::I32, count);
                Some(Some(Count::Variable(count)))
            }
            OpKind::Immediate8 => {
                let count = i64::from(i.immediate8()) & i64::from(mask);
                Some((count != 0).then_some(Count::Fixed(count)))
            }
            _ => None,
        }
    }

    /// Sets flags that stay as they were when a variable count is zero.
    fn set_counted(&mut self, count: &Count, value: impl Fn(usize) -> Option<Expr>) {
        match count {
            Count::Fixed(_) => self.set_bits(value),
            Count::Variable(count) => {
                let old: Vec<Expr> = (0..6).map(|n| self.flag(n)).collect();
                self.set_bits(|n| {
                    let new = value(n).unwrap_or(Expr::I32(0));
                    Some(select(count.clone(), new, old[n].clone()))
                });
            }
        }
    }

    fn shift(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        let value = self.read_place(&place);
        let Some(count) = self.count(i, 1, size)? else {
            self.write_place(&place, value);
            return Some(());
        };
        let is_arithmetic = i.mnemonic() == Mnemonic::Sar;
        let value = if is_arithmetic { signed(size, value) } else { value };
        let value = self.keep_integer(size, value);
        let operator = match i.mnemonic() {
            Mnemonic::Shr => Alu::ShrU,
            Mnemonic::Sar => Alu::ShrS,
            _ => Alu::Shl,
        };
        let result = narrow(size, alu(operator, size, value.clone(), count.operand(size)));
        let result = self.keep_integer(size, result);
        let low_bit = |value| and(to_i32(size, value), Expr::I32(1));
        let carry = || match operator {
            Alu::Shl if size < 4 => {
                let all = alu(Alu::Shl, 4, value.clone(), count.operand(4));
                low_bit(alu(Alu::ShrU, 4, all, Expr::I32(8 * size as i32)))
            }
            Alu::Shl => low_bit(alu(Alu::ShrU, size, value.clone(), count.rest(size))),
            _ => low_bit(alu(operator, size, value.clone(), count.less_one(size))),
        };
        self.set_counted(&count, |n| {
            Some(match (n, operator) {
                (CF, _) => carry(),
                (OF, Alu::Shl) => xor(sign(size, result.clone()), carry()),
                (OF, Alu::ShrU) => sign(size, value.clone()),
                (n, _) => return of_result(size, n, result.clone()),
            })
        });
        self.write_place(&place, result);
        Some(())
    }

    fn rotate(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        let value = self.read_place(&place);
        let Some(count) = self.count(i, 1, size)? else {
            self.write_place(&place, value);
            return Some(());
        };
        let is_left = i.mnemonic() == Mnemonic::Rol;
        // Small operands are repeated to fill 32 bits.
        let repeated = match size {
            1 => alu(Alu::Mul, 4, value, Expr::I32(0x0101_0101)),
            2 => alu(Alu::Mul, 4, value, Expr::I32(0x0001_0001)),
            _ => value,
        };
        let operator = if is_left { Alu::Rotl } else { Alu::Rotr };
        let result = narrow(size, alu(operator, size, repeated, count.operand(size)));
        let result = self.keep_integer(size, result);
        let low = || and(to_i32(size, result.clone()), Expr::I32(1));
        let high = || sign(size, result.clone());
        let second = || {
            let bit = alu(Alu::ShrU, size, result.clone(), constant(size, i64::from(8 * size) - 2));
            and(to_i32(size, bit), Expr::I32(1))
        };
        self.set_counted(&count, |n| match (n, is_left) {
            (CF, true) => Some(low()),
            (CF, false) => Some(high()),
            (OF, true) => Some(xor(high(), low())),
            (OF, false) => Some(xor(high(), second())),
            _ => None,
        });
        self.write_place(&place, result);
        Some(())
    }

    fn double_shift(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        if size < 4 {
            return None;
        }
        let value = self.read_place(&place);
        let Some(count) = self.count(i, 2, size)? else {
            self.write_place(&place, value);
            return Some(());
        };
        let value = self.keep_integer(size, value);
        let other = self.read(i, 1)?;
        let is_left = i.mnemonic() == Mnemonic::Shld;
        let (towards, back) = if is_left { (Alu::Shl, Alu::ShrU) } else { (Alu::ShrU, Alu::Shl) };
        let shifted = alu(towards, size, value.clone(), count.operand(size));
        let filled = alu(back, size, other, count.rest(size));
        let mut result = alu(Alu::Or, size, shifted, filled);
        if let Count::Variable(count) = &count {
            result = select(count.clone(), result, value.clone());
        }
        let result = self.keep_integer(size, result);
        self.set_counted(&count, |n| {
            Some(match n {
                CF if is_left => {
                    and(to_i32(size, alu(Alu::ShrU, size, value.clone(), count.rest(size))), Expr::I32(1))
                }
                CF => {
                    and(to_i32(size, alu(Alu::ShrU, size, value.clone(), count.less_one(size))), Expr::I32(1))
                }
                OF => sign(size, alu(Alu::Xor, size, value.clone(), result.clone())),
                n => return of_result(size, n, result.clone()),
            })
        });
        self.write_place(&place, result);
        Some(())
    }

    fn bit_test(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        if place.is_memory() && i.op1_kind() == OpKind::Register {
            // The offset reaches beyond the operand.
            return None;
        }
        let value = self.read_place(&place);
        let value = self.keep_integer(size, value);
        let mask = i64::from(8 * size) - 1;
        let index = match i.op1_kind() {
            OpKind::Immediate8 => constant(size, i64::from(i.immediate8()) & mask),
            _ => {
                let index = self.read(i, 1)?;
                alu(Alu::And, size, index, constant(size, mask))
            }
        };
        let index = self.keep_integer(size, index);
        let carry = and(to_i32(size, alu(Alu::ShrU, size, value.clone(), index.clone())), Expr::I32(1));
        self.set_bits(|n| (n == CF).then(|| carry.clone()));
        let bit = alu(Alu::Shl, size, constant(size, 1), index);
        let result = match i.mnemonic() {
            Mnemonic::Bts => alu(Alu::Or, size, value, bit),
            Mnemonic::Btc => alu(Alu::Xor, size, value, bit),
            Mnemonic::Btr => alu(Alu::And, size, value, alu(Alu::Xor, size, bit, constant(size, -1))),
            _ => return Some(()),
        };
        self.write_place(&place, result);
        Some(())
    }

    /// `bsf` and `bsr`; a processor without BMI runs `tzcnt` and `lzcnt` as these.
    fn bit_scan(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        let value = self.read(i, 1)?;
        let value = self.keep_integer(size, value);
        self.set_bits(|n| (n == ZF).then(|| is_zero(size, value.clone())));
        let is_forward = matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Tzcnt);
        let operator = match (is_forward, size) {
            (true, 8) => Wasm::I64Ctz,
            (true, _) => Wasm::I32Ctz,
            (false, 8) => Wasm::I64Clz,
            (false, _) => Wasm::I32Clz,
        };
        let bit = op1(operator, value.clone());
        let top = if size == 8 { 63 } else { 31 };
        let bit = if is_forward { bit } else { alu(Alu::Sub, size, constant(size, top), bit) };
        let Place::Register(var, _) = place else { return None };
        // Without a bit set the destination keeps all of its 64 bits.
        let changed = match size {
            8 => bit,
            4 => extend(bit),
            _ => {
                let rest = op2(Wasm::I64And, get(var), Expr::I64(!0xffff));
                op2(Wasm::I64Or, rest, extend(narrow(2, bit)))
            }
        };
        let is_set = alu(Alu::Ne, size, value, constant(size, 0));
        self.set(var, select(is_set, changed, get(var)));
        Some(())
    }

    fn byte_swap(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        let swap = |value: Expr| {
            let odd = and(alu(Alu::Rotl, 4, value.clone(), Expr::I32(8)), Expr::I32(0x00ff_00ff));
            let even = and(alu(Alu::Rotr, 4, value, Expr::I32(8)), Expr::I32(0xff00_ff00_u32 as i32));
            or(odd, even)
        };
        let value = self.read_place(&place);
        let value = self.keep_integer(size, value);
        let result = match size {
            4 => swap(value),
            8 => {
                let high = alu(Alu::ShrU, 8, value.clone(), Expr::I64(32));
                let low = self.keep(Type::I32, wrap(value));
                let high = self.keep(Type::I32, wrap(high));
                let low = alu(Alu::Shl, 8, extend(swap(low)), Expr::I64(32));
                op2(Wasm::I64Or, low, extend(swap(high)))
            }
            _ => return None,
        };
        self.write_place(&place, result);
        Some(())
    }

    /// Products of which only the low half is kept.
    fn multiply_signed(&mut self, i: &Instruction) -> Option<()> {
        let (size, place) = (self.size(i, 0), self.place(i, 0)?);
        let factors = if i.op_count() == 3 { (1, 2) } else { (0, 1) };
        let a = self.read(i, factors.0)?;
        let a = self.keep_integer(size, signed(size, a));
        let b = self.read(i, factors.1)?;
        let b = self.keep_integer(size, signed(size, b));
        if self.wanted().any() == 0 {
            self.write_place(&place, narrow(size, alu(Alu::Mul, size, a, b)));
            return Some(());
        }
        let (low, overflow) = self.product(size, true, a, b);
        self.set_overflow(overflow);
        self.write_place(&place, narrow(size, low));
        Some(())
    }

    /// Low half of a product, and whether the high half says anything.
    fn product(&mut self, size: u32, is_signed: bool, a: Expr, b: Expr) -> (Expr, Expr) {
        if size == 8 {
            let (low, high) = self.wide_product(is_signed, a, b);
            let nothing =
                if is_signed { alu(Alu::ShrS, 8, low.clone(), Expr::I64(63)) } else { Expr::I64(0) };
            return (low, alu(Alu::Ne, 8, high, nothing));
        }
        let widen = |value| op1(if is_signed { Wasm::I64ExtendI32S } else { Wasm::I64ExtendI32U }, value);
        let product = alu(Alu::Mul, 8, widen(a), widen(b));
        let product = self.keep(Type::I64, product);
        let low = wrap(product.clone());
        let narrowed = match (is_signed, size) {
            (true, _) => op1(Wasm::I64ExtendI32S, signed(size, low.clone())),
            (false, _) => extend(narrow(size, low.clone())),
        };
        (low, alu(Alu::Ne, 8, product, narrowed))
    }

    fn wide_product(&mut self, is_signed: bool, a: Expr, b: Expr) -> (Expr, Expr) {
        let (low, high) = (self.temporary(Type::I64), self.temporary(Type::I64));
        let operator = if is_signed { Wasm::I64MulWideS } else { Wasm::I64MulWideU };
        self.out.push(Statement::MultiplyWide(operator, low, high, a, b));
        (get(low), get(high))
    }

    fn set_overflow(&mut self, overflow: Expr) {
        let overflow = if self.wanted().any() == 0 { Expr::I32(0) } else { self.keep(Type::I32, overflow) };
        self.set_bits(|n| matches!(n, CF | OF).then(|| overflow.clone()));
    }

    /// The accumulator times the operand.
    fn multiply(&mut self, i: &Instruction) -> Option<()> {
        let size = self.size(i, 0);
        let is_signed = i.mnemonic() == Mnemonic::Imul;
        let b = self.read(i, 0)?;
        let a = self.read_place(&Place::Register(RAX, size));
        let (a, b) = if is_signed { (signed(size, a), signed(size, b)) } else { (a, b) };
        if size == 8 {
            let (low, high) = self.wide_product(is_signed, a, b);
            self.set(RAX, low.clone());
            self.set(RDX, high.clone());
            let nothing = if is_signed { alu(Alu::ShrS, 8, low, Expr::I64(63)) } else { Expr::I64(0) };
            self.set_overflow(alu(Alu::Ne, 8, high, nothing));
            return Some(());
        }
        let widen = |value| op1(if is_signed { Wasm::I64ExtendI32S } else { Wasm::I64ExtendI32U }, value);
        let product = alu(Alu::Mul, 8, widen(a), widen(b));
        let product = self.keep(Type::I64, product);
        let low = wrap(product.clone());
        let part = if is_signed {
            op1(Wasm::I64ExtendI32S, signed(size, low.clone()))
        } else {
            extend(narrow(size, low.clone()))
        };
        self.set_overflow(alu(Alu::Ne, 8, product.clone(), part));
        if size == 1 {
            self.write_place(&Place::Register(RAX, 2), low);
        } else {
            let high = wrap(alu(Alu::ShrU, 8, product, Expr::I64((8 * size).into())));
            self.write_place(&Place::Register(RAX, size), low);
            self.write_place(&Place::Register(RDX, size), high);
        }
        Some(())
    }

    /// Division; whatever could raise an exception is the interpreter's.
    fn divide(&mut self, i: &Instruction) -> Option<()> {
        let size = self.size(i, 0);
        let is_signed = i.mnemonic() == Mnemonic::Idiv;
        let divisor = self.read(i, 0)?;
        let divisor = match (size, is_signed) {
            (8, _) => divisor,
            (_, true) => op1(Wasm::I64ExtendI32S, signed(size, divisor)),
            (_, false) => extend(divisor),
        };
        let divisor = self.keep(Type::I64, divisor);
        let dividend = self.dividend(size, is_signed);
        let dividend = self.keep(Type::I64, dividend);
        let mut refused = is_zero(8, divisor.clone());
        if size == 8 {
            let high = if is_signed { alu(Alu::ShrS, 8, get(RAX), Expr::I64(63)) } else { Expr::I64(0) };
            refused = or(refused, alu(Alu::Ne, 8, get(RDX), high));
        }
        if is_signed {
            refused = or(refused, alu(Alu::Eq, 8, divisor.clone(), Expr::I64(-1)));
        }
        let (quotient, remainder) = if is_signed { (Alu::DivS, Alu::RemS) } else { (Alu::DivU, Alu::RemU) };
        self.step_if(refused, |l| {
            let quotient = alu(quotient, 8, dividend.clone(), divisor.clone());
            let quotient = l.keep(Type::I64, quotient);
            let remainder = alu(remainder, 8, dividend, divisor);
            if size == 8 {
                l.divided(size, quotient, remainder);
                return;
            }
            let low = wrap(quotient.clone());
            let fits = if is_signed {
                op1(Wasm::I64ExtendI32S, signed(size, low))
            } else {
                extend(narrow(size, low))
            };
            let overflow = alu(Alu::Ne, 8, fits, quotient.clone());
            l.step_if(overflow, |l| l.divided(size, quotient, remainder));
        });
        Some(())
    }

    fn dividend(&self, size: u32, is_signed: bool) -> Expr {
        let widen = |value| op1(if is_signed { Wasm::I64ExtendI32S } else { Wasm::I64ExtendI32U }, value);
        let low = || narrow(2, wrap(get(RAX)));
        match size {
            1 => widen(if is_signed { signed(2, low()) } else { low() }),
            2 => widen(or(alu(Alu::Shl, 4, wrap(get(RDX)), Expr::I32(16)), low())),
            4 => op2(Wasm::I64Or, alu(Alu::Shl, 8, get(RDX), Expr::I64(32)), extend(wrap(get(RAX)))),
            _ => get(RAX),
        }
    }

    fn divided(&mut self, size: u32, quotient: Expr, remainder: Expr) {
        let part = |value: Expr| if size == 8 { value } else { wrap(value) };
        let remainder = self.keep(Type::I64, remainder);
        if size == 1 {
            self.write_place(&Place::Register(RAX, 1), part(quotient));
            self.write_place(&Place::High(RAX), part(remainder));
        } else {
            self.write_place(&Place::Register(RAX, size), part(quotient));
            self.write_place(&Place::Register(RDX, size), part(remainder));
        }
        self.set_bits(|_| None);
    }
}
