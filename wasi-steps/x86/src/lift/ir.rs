//! The intermediate representation: statements over typed variables.
//!
//! A node of the control-flow graph becomes a list of [`Statement`]s and an [`End`]. Values are trees of [`Expr`],
//! whose operators are those of WebAssembly. The first 32 variables are the guest's registers; the next six hold
//! arithmetic flags where no single instruction is known to have set them; the rest are temporaries.
//!
//! What must hold: trees have no side effects but faults, an expression is evaluated once, where it stands, and every
//! variable is written before it is read on every path ([`super::validate`] looks).

use wasm_encoder::{Instruction as Wasm, MemArg};

/// Type of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Type {
    I32,
    I64,
    F32,
    F64,
    V128,
}

/// A variable: a Wasm local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Var(pub(crate) u32);

/// Registers that have a place in the state: 16 general ones, 16 of SSE.
pub(crate) const REGISTERS: u32 = 32;
/// First of the six variables of flags.
const FLAGS: u32 = REGISTERS;
/// The first parameter: depth and entry address.
pub(crate) const PCD: Var = Var(FLAGS + 6);
/// First variable that is free for use.
pub(crate) const TEMPORARIES: u32 = FLAGS + 7;

impl Var {
    pub(crate) const fn gpr(number: usize) -> Self {
        Self(number as u32)
    }

    pub(crate) const fn xmm(number: usize) -> Self {
        Self(16 + number as u32)
    }

    /// The variable of an arithmetic flag, by its place in [`super::flags::ALL`].
    pub(crate) const fn flag(index: usize) -> Self {
        Self(FLAGS + index as u32)
    }

    /// The bit in a set of registers; none for other variables.
    pub(crate) const fn bit(self) -> u32 {
        if self.0 < REGISTERS { 1 << self.0 } else { 0 }
    }
}

pub(crate) const RAX: Var = Var::gpr(0);
pub(crate) const RCX: Var = Var::gpr(1);
pub(crate) const RDX: Var = Var::gpr(2);
pub(crate) const RSP: Var = Var::gpr(4);
pub(crate) const RBP: Var = Var::gpr(5);
pub(crate) const RSI: Var = Var::gpr(6);
pub(crate) const RDI: Var = Var::gpr(7);

/// The memory of the guest and that of the thread's state, as indices in the module.
pub(crate) const GUEST: u32 = 0;
pub(crate) const STATE: u32 = 1;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    I32(i32),
    I64(i64),
    V128(u128),
    Get(Var),
    /// What is added to unit addresses, an i32.
    Bias,
    /// A load from the guest's memory, which can fault.
    Load(Wasm<'static>, Box<Self>),
    /// A load from the state; its address is in the operator.
    State(Wasm<'static>),
    /// An operator of WebAssembly without effects.
    Op(Wasm<'static>, Vec<Self>),
}

impl Expr {
    pub(crate) fn is_constant(&self) -> bool {
        matches!(self, Self::I32(_) | Self::I64(_) | Self::V128(_))
    }

    /// Calls `visit` with every variable that is read.
    pub(crate) fn reads(&self, visit: &mut dyn FnMut(Var)) {
        match self {
            Self::Get(var) => visit(*var),
            Self::Load(_, address) => address.reads(visit),
            Self::Op(_, arguments) => arguments.iter().for_each(|argument| argument.reads(visit)),
            Self::I32(_) | Self::I64(_) | Self::V128(_) | Self::Bias | Self::State(_) => {}
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    /// The statements from here on belong to the instruction at this unit address.
    At(u32),
    Set(Var, Expr),
    /// Evaluated for its faults or as a barrier.
    Drop(Expr),
    /// A store to the guest's memory: operator, address, value.
    Store(Wasm<'static>, Expr, Expr),
    /// A store to the state.
    StoreState(Wasm<'static>, Expr),
    /// An atomic operation on the guest's memory: operator, address, arguments, where the old value goes.
    Atomic(Wasm<'static>, Expr, Vec<Expr>, Var),
    /// A product of two i64 in two halves: signed or not, low, high.
    MultiplyWide(Wasm<'static>, Var, Var, Expr, Expr),
    If(Expr, Vec<Self>, Vec<Self>),
    /// The interpreter runs the instruction at this unit address.
    Step(u32, Moves),
    /// A system call; the unit address behind it.
    Syscall(u32, Moves),
    /// A look at the stop byte, at a loop header's guest address.
    Safepoint(Expr, Moves),
    /// While the condition holds. There are no exits within.
    While(Expr, Vec<Self>),
    /// A load of the stop byte that keeps the compiler from merging loads around it.
    Barrier,
    Fence,
    /// A call, whose return address has been pushed: the target, the unit address to come back to.
    Call(Callee, u32, Moves),
    /// The function begins: a look at the stop byte and, unless it is a leaf, the depth.
    Enter(bool, Moves),
    /// One of the function's entries leads here: registers are read from the state that are needed from here on.
    Arrive(Moves),
    /// Registers of this set that are dirty are written to the state: what a loop does not change need not be written in it.
    Save(u32, Moves),
    /// The stack pointer goes to the state, for handlers of faults.
    PublishStack,
}

/// Registers that are written to the state before something and read from it afterwards; found by [`super::dataflow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) spill: u32,
    pub(crate) reload: u32,
}

/// Where a call or a jump out of the function goes.
#[derive(Clone, Debug)]
pub(crate) enum Callee {
    /// A unit address.
    Direct(u32),
    /// A guest address, i32.
    Indirect(Expr),
}

/// How a node ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Jump(usize),
    /// The nodes for not zero and for zero.
    Branch(Expr, usize, usize),
    /// An index into the nodes; for everything else the code outside, or the last node.
    Switch(Expr, Vec<usize>, Option<Callee>),
    /// Back to the caller at the guest address (i32) in the variable; the stack pointer is already moved.
    Return(Var),
    /// To code outside, whose result is this function's.
    Tail(Callee),
}

impl End {
    pub(crate) fn reads(&self, visit: &mut dyn FnMut(Var)) {
        match self {
            Self::Switch(index, _, Some(Callee::Indirect(target))) => {
                index.reads(visit);
                target.reads(visit);
            }
            Self::Branch(value, ..) | Self::Switch(value, ..) | Self::Tail(Callee::Indirect(value)) => {
                value.reads(visit);
            }
            Self::Return(var) => visit(*var),
            Self::Jump(_) | Self::Tail(Callee::Direct(_)) => {}
        }
    }
}

/// A node of the graph, translated.
#[derive(Clone, Debug)]
pub(crate) struct IrNode {
    pub(crate) statements: Vec<Statement>,
    pub(crate) end: End,
    /// Registers written to the state where the function is left.
    pub(crate) spill: u32,
}

pub(crate) fn memory(memory_index: u32, offset: u64) -> MemArg {
    MemArg { offset, align: 0, memory_index }
}

pub(crate) fn get(var: Var) -> Expr {
    Expr::Get(var)
}

pub(crate) fn op1(op: Wasm<'static>, a: Expr) -> Expr {
    Expr::Op(op, vec![a])
}

pub(crate) fn op2(op: Wasm<'static>, a: Expr, b: Expr) -> Expr {
    Expr::Op(op, vec![a, b])
}

/// `condition != 0 ? a : b`.
pub(crate) fn select(condition: Expr, a: Expr, b: Expr) -> Expr {
    Expr::Op(Wasm::Select, vec![a, b, condition])
}

/// The low half of an i64.
pub(crate) fn wrap(value: Expr) -> Expr {
    match value {
        Expr::I64(value) => Expr::I32(value as i32),
        Expr::Op(Wasm::I64ExtendI32U | Wasm::I64ExtendI32S, mut arguments) if arguments.len() == 1 => {
            arguments.remove(0)
        }
        value => op1(Wasm::I32WrapI64, value),
    }
}

/// An i32 as an i64, zeros above.
pub(crate) fn extend(value: Expr) -> Expr {
    match value {
        Expr::I32(value) => Expr::I64(i64::from(value as u32)),
        value => op1(Wasm::I64ExtendI32U, value),
    }
}

/// A guest address of a unit address, i32.
pub(crate) fn guest_address(unit: u32) -> Expr {
    alu(Alu::Add, 4, Expr::Bias, Expr::I32(unit as i32))
}

/// Operators that exist for both integer types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    Sub,
    Mul,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    Rotl,
    Rotr,
    Eq,
    Ne,
    LtU,
    LtS,
    LeU,
    LeS,
    GtU,
    GtS,
    GeU,
    GeS,
    DivU,
    DivS,
    RemU,
    RemS,
}

impl Alu {
    fn operator(self, is_wide: bool) -> Wasm<'static> {
        let (narrow, wide) = match self {
            Self::Add => (Wasm::I32Add, Wasm::I64Add),
            Self::Sub => (Wasm::I32Sub, Wasm::I64Sub),
            Self::Mul => (Wasm::I32Mul, Wasm::I64Mul),
            Self::And => (Wasm::I32And, Wasm::I64And),
            Self::Or => (Wasm::I32Or, Wasm::I64Or),
            Self::Xor => (Wasm::I32Xor, Wasm::I64Xor),
            Self::Shl => (Wasm::I32Shl, Wasm::I64Shl),
            Self::ShrU => (Wasm::I32ShrU, Wasm::I64ShrU),
            Self::ShrS => (Wasm::I32ShrS, Wasm::I64ShrS),
            Self::Rotl => (Wasm::I32Rotl, Wasm::I64Rotl),
            Self::Rotr => (Wasm::I32Rotr, Wasm::I64Rotr),
            Self::Eq => (Wasm::I32Eq, Wasm::I64Eq),
            Self::Ne => (Wasm::I32Ne, Wasm::I64Ne),
            Self::LtU => (Wasm::I32LtU, Wasm::I64LtU),
            Self::LtS => (Wasm::I32LtS, Wasm::I64LtS),
            Self::LeU => (Wasm::I32LeU, Wasm::I64LeU),
            Self::LeS => (Wasm::I32LeS, Wasm::I64LeS),
            Self::GtU => (Wasm::I32GtU, Wasm::I64GtU),
            Self::GtS => (Wasm::I32GtS, Wasm::I64GtS),
            Self::GeU => (Wasm::I32GeU, Wasm::I64GeU),
            Self::GeS => (Wasm::I32GeS, Wasm::I64GeS),
            Self::DivU => (Wasm::I32DivU, Wasm::I64DivU),
            Self::DivS => (Wasm::I32DivS, Wasm::I64DivS),
            Self::RemU => (Wasm::I32RemU, Wasm::I64RemU),
            Self::RemS => (Wasm::I32RemS, Wasm::I64RemS),
        };
        if is_wide { wide } else { narrow }
    }
}

/// `a op b` on operands of `size` bytes, those below four held in an i32. Sums with constants are folded.
pub(crate) fn alu(op: Alu, size: u32, a: Expr, b: Expr) -> Expr {
    match (op, &a, &b) {
        (Alu::Add | Alu::Sub | Alu::Or | Alu::Xor | Alu::Shl | Alu::ShrU | Alu::ShrS, _, Expr::I32(0))
        | (Alu::Add | Alu::Sub | Alu::Or | Alu::Xor | Alu::Shl | Alu::ShrU | Alu::ShrS, _, Expr::I64(0)) => a,
        (Alu::Add, Expr::I32(x), Expr::I32(y)) => Expr::I32(x.wrapping_add(*y)),
        (Alu::Add, Expr::I64(x), Expr::I64(y)) => Expr::I64(x.wrapping_add(*y)),
        _ => op2(op.operator(size == 8), a, b),
    }
}

/// A constant of the type that holds operands of `size` bytes.
pub(crate) fn constant(size: u32, value: i64) -> Expr {
    if size == 8 { Expr::I64(value) } else { Expr::I32(value as i32) }
}

/// The low `size` bytes of a value.
pub(crate) fn narrow(size: u32, value: Expr) -> Expr {
    match (size, value) {
        (1, Expr::I32(value)) => Expr::I32(value & 0xff),
        (2, Expr::I32(value)) => Expr::I32(value & 0xffff),
        (1, value) => op2(Wasm::I32And, value, Expr::I32(0xff)),
        (2, value) => op2(Wasm::I32And, value, Expr::I32(0xffff)),
        (_, value) => value,
    }
}

/// The value with its sign in the bits above `size` bytes.
pub(crate) fn signed(size: u32, value: Expr) -> Expr {
    match (size, value) {
        (1, Expr::I32(value)) => Expr::I32((value as i8).into()),
        (2, Expr::I32(value)) => Expr::I32((value as i16).into()),
        (1, value) => op1(Wasm::I32Extend8S, value),
        (2, value) => op1(Wasm::I32Extend16S, value),
        (_, value) => value,
    }
}

/// Whether the value is zero, as an i32.
pub(crate) fn is_zero(size: u32, value: Expr) -> Expr {
    op1(if size == 8 { Wasm::I64Eqz } else { Wasm::I32Eqz }, value)
}

/// `1 - condition` for an i32 that is 0 or 1.
pub(crate) fn not(condition: Expr) -> Expr {
    op1(Wasm::I32Eqz, condition)
}

/// The value's low half, when it is an i64.
pub(crate) fn to_i32(size: u32, value: Expr) -> Expr {
    if size == 8 { wrap(value) } else { value }
}

/// The highest bit of an operand of `size` bytes, as an i32.
pub(crate) fn sign(size: u32, value: Expr) -> Expr {
    let bit = alu(Alu::ShrU, size, value, constant(size, i64::from(8 * size) - 1));
    to_i32(size, if size < 4 { op2(Wasm::I32And, bit, Expr::I32(1)) } else { bit })
}

pub(crate) fn and(a: Expr, b: Expr) -> Expr {
    op2(Wasm::I32And, a, b)
}

pub(crate) fn or(a: Expr, b: Expr) -> Expr {
    op2(Wasm::I32Or, a, b)
}

pub(crate) fn xor(a: Expr, b: Expr) -> Expr {
    op2(Wasm::I32Xor, a, b)
}
