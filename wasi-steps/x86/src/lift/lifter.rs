//! The state of translating one function's nodes: variables, statements, and who set the flags.
//!
//! Topics add to this: [`super::operands`] reads and writes operands, [`super::conditions`] turns flags into values, and
//! the tables of instructions call both. An instruction that no table knows becomes a step of the interpreter.
//!
//! Every instruction is translated twice: first for nothing but to learn whether the interpreter may have to run it,
//! which the analysis of flags has to know, then for good.

use std::collections::HashMap;

use iced_x86::Instruction;
use wasm_encoder::Instruction as Wasm;

use super::abi;
use super::conditions::Record;
use super::flags::{self, Fact, Flags, Set, Source, Wanted};
use super::ir::{
    Alu, End, Expr, Moves, STATE, Statement, TEMPORARIES, Type, Var, alu, and, get, memory, op1, op2, wrap,
};
use super::tables::JumpTable;

/// Translates instructions into statements.
#[derive(Debug)]
pub(crate) struct Lifter<'a> {
    /// Types of all variables.
    pub(crate) types: Vec<Type>,
    free: HashMap<Type, Vec<Var>>,
    /// Temporaries to give back behind the instruction, and behind the node.
    of_instruction: Vec<Var>,
    of_node: Vec<Var>,
    pub(crate) out: Vec<Statement>,
    /// `None` in the first, tentative pass.
    pub(super) flags: Option<&'a Flags>,
    pub(super) records: HashMap<u32, Record>,
    pub(super) current: [Source; 6],
    /// Number of the instruction at hand.
    pub(super) number: u32,
    /// Its unit address.
    pub(super) at: u32,
    /// Where its node goes on.
    pub(super) successors: Vec<usize>,
    /// Addresses of instructions before which loads are kept apart, ascending.
    pub(super) barriers: Vec<u32>,
    /// The jump table of its node, and the variable for the index.
    pub(super) table: Option<(JumpTable, Var)>,
    /// The variable for the address that the hub goes to.
    pub(super) hub: Option<Var>,
    /// Stubs and the pointers that they jump through.
    pub(super) stubs: Option<&'a HashMap<u32, u32>>,
}

/// The types of the variables with a fixed meaning.
fn fixed_types() -> Vec<Type> {
    (0..TEMPORARIES)
        .map(|n| match n {
            0..16 => Type::I64,
            16..32 => Type::V128,
            n if n == super::ir::PCD.0 => Type::I64,
            _ => Type::I32,
        })
        .collect()
}

impl<'a> Lifter<'a> {
    pub(crate) fn new(flags: Option<&'a Flags>) -> Self {
        Self {
            types: fixed_types(),
            free: HashMap::new(),
            of_instruction: Vec::new(),
            of_node: Vec::new(),
            out: Vec::new(),
            flags,
            records: HashMap::new(),
            current: [Source::Nobody; 6],
            number: 0,
            at: 0,
            successors: Vec::new(),
            barriers: Vec::new(),
            table: None,
            hub: None,
            stubs: None,
        }
    }

    /// A variable that nobody else has.
    pub(crate) fn variable(&mut self, kind: Type) -> Var {
        if let Some(var) = self.free.entry(kind).or_default().pop() {
            return var;
        }
        self.types.push(kind);
        Var(self.types.len() as u32 - 1)
    }

    /// A variable until the end of the instruction.
    pub(crate) fn temporary(&mut self, kind: Type) -> Var {
        let var = self.variable(kind);
        self.of_instruction.push(var);
        var
    }

    /// A variable for an operand that flags are computed from.
    pub(super) fn kept_variable(&mut self, kind: Type, is_global: bool) -> Var {
        let var = self.variable(kind);
        if !is_global {
            self.of_node.push(var);
        }
        var
    }

    pub(crate) fn set(&mut self, var: Var, value: Expr) {
        self.out.push(Statement::Set(var, value));
    }

    /// The value in a temporary, unless it is a constant.
    pub(crate) fn keep(&mut self, kind: Type, value: Expr) -> Expr {
        if value.is_constant() {
            return value;
        }
        let var = self.temporary(kind);
        self.set(var, value);
        get(var)
    }

    /// [`Lifter::keep`] for an integer operand of `size` bytes.
    pub(crate) fn keep_integer(&mut self, size: u32, value: Expr) -> Expr {
        self.keep(if size == 8 { Type::I64 } else { Type::I32 }, value)
    }

    /// What `fill` adds, as a list of its own.
    pub(crate) fn nested(&mut self, fill: impl FnOnce(&mut Self)) -> Vec<Statement> {
        let outer = std::mem::take(&mut self.out);
        fill(self);
        std::mem::replace(&mut self.out, outer)
    }

    /// Begins a node.
    pub(crate) fn begin(&mut self, sources: [Source; 6], first: u32) {
        self.current = sources;
        self.number = first;
    }

    /// Ends a node: its statements.
    pub(crate) fn finish(&mut self) -> Vec<Statement> {
        for var in self.of_node.drain(..) {
            self.free.entry(self.types[var.0 as usize]).or_default().push(var);
        }
        std::mem::take(&mut self.out)
    }

    /// Translates one instruction; a branch gives the end of the node.
    pub(crate) fn instruction(&mut self, instruction: &Instruction) -> Option<End> {
        self.at = instruction.ip() as u32;
        self.out.push(Statement::At(self.at));
        if self.barriers.binary_search(&self.at).is_ok() {
            self.out.push(Statement::Barrier);
        }
        self.note_index();
        let end = match self.dispatch(instruction) {
            Some(()) => None,
            None => self.control(instruction),
        };
        for n in flags::members(self.fact(instruction).effect.writes) {
            self.current[n] = Source::One(self.number);
        }
        self.number += 1;
        for var in self.of_instruction.drain(..) {
            self.free.entry(self.types[var.0 as usize]).or_default().push(var);
        }
        end
    }

    /// The tables of all topics; `None` when nobody knows the instruction.
    fn dispatch(&mut self, instruction: &Instruction) -> Option<()> {
        if instruction.is_invalid() {
            return None;
        }
        let before = self.out.len();
        for topic in [Self::integer, Self::vector, Self::strings] {
            if topic(self, instruction).is_some() {
                return Some(());
            }
            self.out.truncate(before);
        }
        None
    }

    fn fact(&self, instruction: &Instruction) -> Fact {
        match self.flags {
            Some(flags) => flags.facts[self.number as usize],
            None => Fact { effect: flags::effect(instruction), ..Fact::default() },
        }
    }

    /// What is wanted of the flags that the instruction at hand sets.
    pub(super) fn wanted(&self) -> Wanted {
        self.flags.map_or(Wanted::default(), |flags| flags.wanted[self.number as usize])
    }

    /// Writes flags to the state, exactly as they are now.
    pub(super) fn spill_flags(&mut self, set: Set) {
        if set == 0 {
            return;
        }
        let place = || memory(STATE, abi::FLAGS_OFFSET);
        let others = Expr::I64(!(flags::bits(set) as i64));
        let mut value = op2(Wasm::I64And, Expr::State(Wasm::I64Load(place())), others);
        let mut low = Expr::I32(0);
        for n in flags::members(set) {
            let bit = alu(Alu::Shl, 4, self.flag(n), Expr::I32(flags::ALL[n].trailing_zeros() as i32));
            low = op2(Wasm::I32Or, bit, low);
        }
        value = op2(Wasm::I64Or, value, op1(Wasm::I64ExtendI32U, low));
        self.out.push(Statement::StoreState(Wasm::I64Store(place()), value));
    }

    /// Has the interpreter run the instruction at hand.
    pub(crate) fn step(&mut self) {
        if let Some(all) = self.flags {
            let fact = all.facts[self.number as usize];
            let live = all.live[self.number as usize];
            self.spill_flags(fact.effect.reads | live & !fact.effect.writes);
        }
        self.out.push(Statement::Step(self.at, Moves::default()));
        let wanted = self.wanted().any();
        if wanted != 0 {
            let value = wrap(Expr::State(Wasm::I64Load(memory(STATE, abi::FLAGS_OFFSET))));
            let value = self.keep(Type::I32, value);
            for n in flags::members(wanted) {
                let shift = Expr::I32(flags::ALL[n].trailing_zeros() as i32);
                self.set(Var::flag(n), and(alu(Alu::ShrU, 4, value.clone(), shift), Expr::I32(1)));
            }
        }
        self.records.insert(self.number, Record::Bits);
    }

    /// `condition ? the interpreter : what fill does`. Flags must be set by `fill` as bits.
    pub(crate) fn step_if(&mut self, condition: Expr, fill: impl FnOnce(&mut Self)) {
        let step = self.nested(Self::step);
        let other = self.nested(fill);
        self.out.push(Statement::If(condition, step, other));
    }
}
