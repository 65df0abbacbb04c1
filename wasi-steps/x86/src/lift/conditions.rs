//! Flags and conditions as values.
//!
//! A subtraction (a comparison) keeps its operands, a logical operation its result, a comparison of doubles its
//! operands: conditions are then one comparison each. All other instructions write the flags that are wanted, and only
//! those, to the flags' variables when they run.

use iced_x86::ConditionCode;
use wasm_encoder::Instruction as Wasm;

use super::flags::{self, AF, CF, OF, PF, SF, Source, ZF};
use super::ir::{
    Alu, Expr, Type, Var, alu, and, constant, get, is_zero, narrow, not, op1, op2, or, sign, signed, to_i32,
    xor,
};
use super::lifter::Lifter;

/// What is kept of an instruction that set flags.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// `a - b`, operands of this many bytes.
    Sub(u32, Expr, Expr),
    /// A result with carry and overflow clear.
    Logic(u32, Expr),
    /// A comparison of two doubles, or singles.
    Float(bool, Expr, Expr),
    /// Each wanted flag is in its variable.
    Bits,
}

/// Parity of the low byte of an i32: 1 when even.
fn parity(low: Expr) -> Expr {
    let count = op1(Wasm::I32Popcnt, and(low, Expr::I32(0xff)));
    and(xor(count, Expr::I32(1)), Expr::I32(1))
}

/// Zero, sign and parity flags of a result.
pub(super) fn of_result(size: u32, n: usize, result: Expr) -> Option<Expr> {
    Some(match n {
        ZF => is_zero(size, result),
        SF => sign(size, result),
        PF => parity(to_i32(size, result)),
        _ => return None,
    })
}

/// The adjust flag of a sum or difference.
pub(super) fn adjust(size: u32, a: Expr, b: Expr, result: Expr) -> Expr {
    let all = xor(xor(to_i32(size, a), to_i32(size, b)), to_i32(size, result));
    and(alu(Alu::ShrU, 4, all, Expr::I32(4)), Expr::I32(1))
}

/// One flag of `a - b`.
pub(super) fn of_difference(size: u32, n: usize, a: Expr, b: Expr) -> Expr {
    let result = narrow(size, alu(Alu::Sub, size, a.clone(), b.clone()));
    match n {
        CF => alu(Alu::LtU, size, a, b),
        AF => adjust(size, a, b, result),
        OF => {
            let flipped = alu(Alu::Xor, size, a.clone(), b);
            sign(size, alu(Alu::And, size, flipped, alu(Alu::Xor, size, a, result)))
        }
        ZF => alu(Alu::Eq, size, a, b),
        n => of_result(size, n, result).unwrap_or(Expr::I32(0)),
    }
}

impl Record {
    fn flag(&self, n: usize) -> Expr {
        match self.clone() {
            Self::Sub(size, a, b) => of_difference(size, n, a, b),
            Self::Logic(size, result) => of_result(size, n, result).unwrap_or(Expr::I32(0)),
            Self::Float(is_double, a, b) => match n {
                CF => not(compare(is_double, Alu::GeS, a, b)),
                ZF => or(compare(is_double, Alu::Eq, a.clone(), b.clone()), unordered(is_double, a, b)),
                PF => unordered(is_double, a, b),
                _ => Expr::I32(0),
            },
            Self::Bits => get(Var::flag(n)),
        }
    }

    /// A condition as one comparison, where there is one.
    fn condition(&self, code: ConditionCode) -> Option<Expr> {
        use ConditionCode as C;
        let comparison = match code {
            C::b => Alu::LtU,
            C::ae => Alu::GeU,
            C::e => Alu::Eq,
            C::ne => Alu::Ne,
            C::be => Alu::LeU,
            C::a => Alu::GtU,
            C::l => Alu::LtS,
            C::ge => Alu::GeS,
            C::le => Alu::LeS,
            C::g => Alu::GtS,
            C::s => Alu::LtS,
            C::ns => Alu::GeS,
            _ => return None,
        };
        let is_signed = matches!(code, C::l | C::ge | C::le | C::g);
        Some(match self.clone() {
            Self::Sub(size, a, b) => match code {
                C::s | C::ns => {
                    let result = signed(size, alu(Alu::Sub, size, a, b));
                    alu(comparison, size, result, constant(size, 0))
                }
                _ if is_signed => alu(comparison, size, signed(size, a), signed(size, b)),
                _ => alu(comparison, size, a, b),
            },
            Self::Logic(size, result) => match code {
                C::b => Expr::I32(0),
                C::ae => Expr::I32(1),
                C::be | C::e => is_zero(size, result),
                C::a | C::ne => alu(Alu::Ne, size, result, constant(size, 0)),
                _ => alu(comparison, size, signed(size, result), constant(size, 0)),
            },
            Self::Float(is_double, a, b) => match code {
                C::a => compare(is_double, Alu::GtS, a, b),
                C::be => not(compare(is_double, Alu::GtS, a, b)),
                C::ae => compare(is_double, Alu::GeS, a, b),
                C::b => not(compare(is_double, Alu::GeS, a, b)),
                _ => return None,
            },
            Self::Bits => return None,
        })
    }
}

/// A comparison of floating-point numbers.
fn compare(is_double: bool, comparison: Alu, a: Expr, b: Expr) -> Expr {
    let (single, double) = match comparison {
        Alu::GtS => (Wasm::F32Gt, Wasm::F64Gt),
        Alu::GeS => (Wasm::F32Ge, Wasm::F64Ge),
        Alu::Ne => (Wasm::F32Ne, Wasm::F64Ne),
        _ => (Wasm::F32Eq, Wasm::F64Eq),
    };
    op2(if is_double { double } else { single }, a, b)
}

fn unordered(is_double: bool, a: Expr, b: Expr) -> Expr {
    or(compare(is_double, Alu::Ne, a.clone(), a), compare(is_double, Alu::Ne, b.clone(), b))
}

/// The flags that a condition looks at.
fn looked_at(code: ConditionCode) -> &'static [usize] {
    use ConditionCode as C;
    match code {
        C::None => &[],
        C::o | C::no => &[OF],
        C::b | C::ae => &[CF],
        C::e | C::ne => &[ZF],
        C::be | C::a => &[CF, ZF],
        C::s | C::ns => &[SF],
        C::p | C::np => &[PF],
        C::l | C::ge => &[SF, OF],
        C::le | C::g => &[ZF, SF, OF],
    }
}

impl Lifter<'_> {
    /// A flag as an i32, 0 or 1.
    pub(crate) fn flag(&self, n: usize) -> Expr {
        match self.current[n] {
            Source::Nobody => Expr::I32(0),
            Source::One(number) => self.records.get(&number).map_or(Expr::I32(0), |record| record.flag(n)),
            Source::Several(_) => get(Var::flag(n)),
        }
    }

    /// A condition as an i32, 0 or 1.
    pub(crate) fn condition(&self, code: ConditionCode) -> Expr {
        use ConditionCode as C;
        let flags = looked_at(code);
        if let Some(first) = flags.first()
            && let Source::One(number) = self.current[*first]
            && flags.iter().all(|n| self.current[*n] == self.current[*first])
            && let Some(record) = self.records.get(&number)
            && let Some(condition) = record.condition(code)
        {
            return condition;
        }
        let flag = |n| self.flag(n);
        match code {
            C::None => Expr::I32(1),
            C::o => flag(OF),
            C::no => not(flag(OF)),
            C::b => flag(CF),
            C::ae => not(flag(CF)),
            C::e => flag(ZF),
            C::ne => not(flag(ZF)),
            C::be => or(flag(CF), flag(ZF)),
            C::a => not(or(flag(CF), flag(ZF))),
            C::s => flag(SF),
            C::ns => not(flag(SF)),
            C::p => flag(PF),
            C::np => not(flag(PF)),
            C::l => xor(flag(SF), flag(OF)),
            C::ge => not(xor(flag(SF), flag(OF))),
            C::le => or(flag(ZF), xor(flag(SF), flag(OF))),
            C::g => not(or(flag(ZF), xor(flag(SF), flag(OF)))),
        }
    }

    /// Keeps an operand beyond its instruction.
    fn keep_for_flags(&mut self, kind: Type, value: Expr, is_global: bool) -> Expr {
        if value.is_constant() {
            return value;
        }
        let var = self.kept_variable(kind, is_global);
        self.set(var, value);
        get(var)
    }

    fn record(&mut self, record: Record) {
        for n in flags::members(self.wanted().shared) {
            let value = record.flag(n);
            self.set(Var::flag(n), value);
        }
        self.records.insert(self.number, record);
    }

    /// The flags are those of `a - b`.
    pub(crate) fn set_difference(&mut self, size: u32, a: Expr, b: Expr) {
        let wanted = self.wanted();
        if wanted.any() != 0 {
            let kind = if size == 8 { Type::I64 } else { Type::I32 };
            let a = self.keep_for_flags(kind, a, wanted.is_global);
            let b = self.keep_for_flags(kind, b, wanted.is_global);
            self.record(Record::Sub(size, a, b));
        }
    }

    /// The flags are those of a logical operation with this result.
    pub(crate) fn set_logic(&mut self, size: u32, result: Expr) {
        let wanted = self.wanted();
        if wanted.any() != 0 {
            let kind = if size == 8 { Type::I64 } else { Type::I32 };
            let result = self.keep_for_flags(kind, result, wanted.is_global);
            self.record(Record::Logic(size, result));
        }
    }

    /// The flags are those of a comparison of two numbers.
    pub(crate) fn set_float(&mut self, is_double: bool, a: Expr, b: Expr) {
        let wanted = self.wanted();
        if wanted.any() != 0 {
            let kind = if is_double { Type::F64 } else { Type::F32 };
            let a = self.keep_for_flags(kind, a, wanted.is_global);
            let b = self.keep_for_flags(kind, b, wanted.is_global);
            self.record(Record::Float(is_double, a, b));
        }
    }

    /// Each wanted flag gets the value that `value` gives for it; undefined ones need none.
    pub(crate) fn set_bits(&mut self, mut value: impl FnMut(usize) -> Option<Expr>) {
        let mut values = Vec::new();
        for n in flags::members(self.wanted().any()) {
            values.push((n, value(n).unwrap_or(Expr::I32(0))));
        }
        // Values may look at flags as they were, so none is written before all are known.
        let single = values.len() == 1;
        let values: Vec<_> = values
            .into_iter()
            .map(|(n, value)| (n, if single { value } else { self.keep(Type::I32, value) }))
            .collect();
        for (n, value) in values {
            self.set(Var::flag(n), value);
        }
        self.records.insert(self.number, Record::Bits);
    }
}
