//! String instructions: moves, fills, comparisons and searches, alone and repeated.
//!
//! A repeated one is a loop in place, sixteen bytes at a time where that gives the same bytes as one element at a time. What
//! goes downward, and what takes so long that it has to be stoppable, is the interpreter's.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use wasm_encoder::Instruction as Wasm;

use super::abi;
use super::conditions::of_difference;
use super::ir::{
    Alu, Expr, GUEST, RAX, RCX, RDI, RSI, STATE, Statement, Type, Var, alu, and, get, memory, narrow, op1,
    or, wrap,
};
use super::lifter::Lifter;
use super::operands::{Place, load, store};
use crate::state::flag;

/// More repetitions than this are left to the interpreter, which looks whether it has to stop.
const LONGEST: i64 = 1 << 20;
/// Bytes of a wide step.
const WIDE: u32 = 16;

/// What an instruction does with each element.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Move,
    Fill,
    Load,
    Compare,
    Search,
}

fn kind(mnemonic: Mnemonic) -> Option<(Kind, u32)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Movsb => (Kind::Move, 1),
        M::Movsw => (Kind::Move, 2),
        M::Movsd => (Kind::Move, 4),
        M::Movsq => (Kind::Move, 8),
        M::Stosb => (Kind::Fill, 1),
        M::Stosw => (Kind::Fill, 2),
        M::Stosd => (Kind::Fill, 4),
        M::Stosq => (Kind::Fill, 8),
        M::Lodsb => (Kind::Load, 1),
        M::Lodsw => (Kind::Load, 2),
        M::Lodsd => (Kind::Load, 4),
        M::Lodsq => (Kind::Load, 8),
        M::Cmpsb => (Kind::Compare, 1),
        M::Cmpsw => (Kind::Compare, 2),
        M::Cmpsd => (Kind::Compare, 4),
        M::Cmpsq => (Kind::Compare, 8),
        M::Scasb => (Kind::Search, 1),
        M::Scasw => (Kind::Search, 2),
        M::Scasd => (Kind::Search, 4),
        M::Scasq => (Kind::Search, 8),
        _ => return None,
    })
}

/// Moves a pointer or a counter.
fn advance(var: Var, by: i64) -> Statement {
    Statement::Set(var, alu(Alu::Add, 8, get(var), Expr::I64(by)))
}

fn at(pointer: Var) -> Expr {
    wrap(get(pointer))
}

fn wide_place() -> wasm_encoder::MemArg {
    memory(GUEST, 0)
}

/// Whether at least so many repetitions are left.
fn left(count: u32) -> Expr {
    alu(Alu::GeU, 8, get(RCX), Expr::I64(count.into()))
}

impl Lifter<'_> {
    pub(super) fn strings(&mut self, i: &Instruction) -> Option<()> {
        if !i.is_string_instruction() || i.segment_prefix() != Register::None {
            return None;
        }
        let (kind, size) = kind(i.mnemonic())?;
        let is_wide = (0..i.op_count())
            .all(|n| matches!(i.op_kind(n), OpKind::Register | OpKind::MemorySegRSI | OpKind::MemoryESRDI));
        let repeats = i.has_rep_prefix() || i.has_repne_prefix();
        if !is_wide || repeats && kind == Kind::Load {
            return None;
        }
        let flags = Expr::State(Wasm::I64Load(memory(STATE, abi::FLAGS_OFFSET)));
        let mut unusual = and(wrap(flags), Expr::I32(flag::DF as i32));
        if repeats {
            let count = match kind {
                // Without a repetition the flags stay.
                Kind::Compare | Kind::Search => alu(Alu::Sub, 8, get(RCX), Expr::I64(1)),
                _ => get(RCX),
            };
            unusual = or(unusual, alu(Alu::GtU, 8, count, Expr::I64(LONGEST)));
        }
        let unusual = self.keep(Type::I32, unusual);
        let until_equal = i.has_repne_prefix();
        self.step_if(unusual, |l| match (kind, repeats) {
            (Kind::Compare | Kind::Search, _) => l.compare_strings(kind, size, repeats, until_equal),
            (_, true) => l.repeat(kind, size),
            (_, false) => l.element(kind, size),
        });
        Some(())
    }

    /// One element of a move, fill or load.
    fn element(&mut self, kind: Kind, size: u32) {
        match kind {
            Kind::Load => {
                let value = self.keep_integer(size, load(size, at(RSI), 0));
                self.write_place(&Place::Register(RAX, size), value);
            }
            Kind::Move => self.out.push(store(size, at(RDI), 0, load(size, at(RSI), 0))),
            _ => {
                let value = self.read_place(&Place::Register(RAX, size));
                self.out.push(store(size, at(RDI), 0, value));
            }
        }
        if kind != Kind::Fill {
            self.out.push(advance(RSI, size.into()));
        }
        if kind != Kind::Load {
            self.out.push(advance(RDI, size.into()));
        }
    }

    /// Moves and fills.
    fn repeat(&mut self, kind: Kind, size: u32) {
        let elements = WIDE / size;
        let mut wide = Vec::new();
        let mut condition = left(elements);
        if kind == Kind::Move {
            // A target just above the source repeats what was written.
            let distance = alu(Alu::Sub, 4, at(RDI), at(RSI));
            let is_far = self.keep(Type::I32, alu(Alu::GeU, 4, distance, Expr::I32(WIDE as i32)));
            condition = and(condition, is_far);
            let value = Expr::Load(Wasm::V128Load(wide_place()), Box::new(at(RSI)));
            wide.push(Statement::Store(Wasm::V128Store(wide_place()), at(RDI), value));
            wide.push(advance(RSI, WIDE.into()));
        } else {
            let value = self.read_place(&Place::Register(RAX, size));
            let splat = match size {
                1 => Wasm::I8x16Splat,
                2 => Wasm::I16x8Splat,
                4 => Wasm::I32x4Splat,
                _ => Wasm::I64x2Splat,
            };
            let value = self.keep(Type::V128, op1(splat, value));
            wide.push(Statement::Store(Wasm::V128Store(wide_place()), at(RDI), value));
        }
        wide.push(advance(RDI, WIDE.into()));
        wide.push(advance(RCX, -i64::from(elements)));
        self.out.push(Statement::While(condition, wide));
        let mut single = self.nested(|l| l.element(kind, size));
        single.push(advance(RCX, -1));
        self.out.push(Statement::While(left(1), single));
    }

    /// Comparisons and searches.
    fn compare_strings(&mut self, kind: Kind, size: u32, repeats: bool, until_equal: bool) {
        let integer = if size == 8 { Type::I64 } else { Type::I32 };
        let [a, b] = [self.temporary(integer), self.temporary(integer)];
        let zero = if size == 8 { Expr::I64(0) } else { Expr::I32(0) };
        let mut body = Vec::new();
        if kind == Kind::Compare {
            body.push(Statement::Set(a, load(size, at(RSI), 0)));
        }
        body.push(Statement::Set(b, load(size, at(RDI), 0)));
        if kind == Kind::Compare {
            body.push(advance(RSI, size.into()));
        } else {
            let value = self.read_place(&Place::Register(RAX, size));
            self.set(a, narrow(size, value));
        }
        body.push(advance(RDI, size.into()));
        if repeats {
            let goes_on = self.temporary(Type::I32);
            if kind == Kind::Compare {
                self.set(a, zero.clone());
            }
            self.set(b, zero);
            self.set(goes_on, Expr::I32(1));
            body.push(advance(RCX, -1));
            let relation = if until_equal { Alu::Ne } else { Alu::Eq };
            let goes = and(left(1), alu(relation, size, get(a), get(b)));
            body.push(Statement::Set(goes_on, goes));
            self.out.push(Statement::While(get(goes_on), body));
        } else {
            self.out.extend(body);
        }
        self.set_bits(|n| Some(of_difference(size, n, get(a), get(b))));
    }
}
