//! Writes expressions and statements as WebAssembly.
//!
//! The function's outermost block is where cold exits go when the host says to leave: behind it the values to return
//! are read from the state.

use std::collections::HashMap;

use wasm_encoder::{BlockType, BranchHint, Function, Instruction as Wasm, ValType};

use super::abi;
use super::dataflow::{ARGUMENTS, RESULTS};
use super::ir::{
    Callee, Expr, Moves, PCD, RAX, RDI, RDX, REGISTERS, RSI, RSP, STATE, Statement, Type, Var, guest_address,
    memory,
};

/// Indices of types in the module.
pub(crate) mod types {
    pub(crate) const FUNCTION: u32 = 0;
    pub(crate) const EXIT: u32 = 1;
    pub(crate) const RESOLVE: u32 = 2;
    /// A block without parameters that gives what a function gives.
    pub(crate) const RESULTS: u32 = 3;
}

/// Indices of functions in the module.
pub(crate) mod functions {
    pub(crate) const DISPATCH: u32 = 0;
    pub(crate) const RESOLVE: u32 = 1;
    pub(crate) const STEP: u32 = 2;
    pub(crate) const SYSCALL: u32 = 3;
    pub(crate) const STOP: u32 = 4;
    pub(crate) const FIRST: u32 = 5;
}

/// What functions of a module know of each other.
#[derive(Debug)]
pub(crate) struct Neighbours<'a> {
    /// Index, among the module's own functions, of the one that starts at a unit address.
    pub(crate) starts: &'a HashMap<u32, u32>,
}

/// A branch target on the stack of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// The block whose end leaves the function.
    Leave,
    /// The loop of a header node.
    Loop(usize),
    /// The block in front of a node.
    Before(usize),
    /// A loop within a node.
    Repeat,
    Other,
}

/// Writes one function.
#[derive(Debug)]
pub(crate) struct Emitter<'a> {
    pub(crate) function: Function,
    locals: Vec<u32>,
    labels: Vec<Label>,
    neighbours: &'a Neighbours<'a>,
    /// Places that can trap: offset in the function, unit address.
    pub(crate) faults: Vec<(u32, u32)>,
    /// Branches that go one way nearly always.
    pub(crate) hints: Vec<BranchHint>,
    at: u32,
    depth: u32,
    result: [u32; 2],
    weight: u64,
}

fn value_type(kind: Type) -> ValType {
    match kind {
        Type::I32 => ValType::I32,
        Type::I64 => ValType::I64,
        Type::F32 => ValType::F32,
        Type::F64 => ValType::F64,
        Type::V128 => ValType::V128,
    }
}

/// Bytes of the host's stack that a function without locals is taken to need.
const FRAME: u64 = 256;

impl<'a> Emitter<'a> {
    pub(crate) fn new(kinds: &[Type], neighbours: &'a Neighbours<'a>) -> Self {
        let parameters = [PCD, RSP, RDI, RSI];
        let mut locals = vec![0; kinds.len()];
        for (index, parameter) in parameters.iter().enumerate() {
            locals[parameter.0 as usize] = index as u32;
        }
        let mut declared = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            if !parameters.contains(&Var(index as u32)) {
                locals[index] = 4 + declared.len() as u32;
                declared.push(value_type(*kind));
            }
        }
        let depth = 4 + declared.len() as u32;
        declared.extend([ValType::I64, ValType::I32, ValType::I32, ValType::I64]);
        Self {
            weight: FRAME + 16 * (kinds.len() as u64 - u64::from(REGISTERS)),
            function: Function::new_with_locals_types(declared),
            locals,
            labels: Vec::new(),
            neighbours,
            faults: Vec::new(),
            hints: Vec::new(),
            at: 0,
            depth,
            result: [depth + 1, depth + 2],
        }
    }

    pub(crate) fn op(&mut self, instruction: &Wasm<'_>) {
        self.function.instruction(instruction);
    }

    pub(crate) fn open(&mut self, label: Label) {
        let kind = BlockType::Empty;
        let instruction = match label {
            Label::Loop(_) | Label::Repeat => Wasm::Loop(kind),
            Label::Other => Wasm::If(kind),
            Label::Leave | Label::Before(_) => Wasm::Block(kind),
        };
        self.op(&instruction);
        self.labels.push(label);
    }

    pub(crate) fn close(&mut self) {
        self.labels.pop();
        self.op(&Wasm::End);
    }

    /// How many labels lie between here and one.
    pub(crate) fn depth_of(&self, label: Label) -> u32 {
        self.labels.iter().rev().position(|other| *other == label).map_or(0, |depth| depth as u32)
    }

    fn local(&self, var: Var) -> u32 {
        self.locals[var.0 as usize]
    }

    fn get(&mut self, var: Var) {
        let local = self.local(var);
        self.op(&Wasm::LocalGet(local));
    }

    fn set(&mut self, var: Var) {
        let local = self.local(var);
        self.op(&Wasm::LocalSet(local));
    }

    /// Says of the branch that comes next whether it is taken, nearly always: the code that is hardly ever run is put out of the way.
    fn hint(&mut self, is_taken: bool) {
        let branch_func_offset = self.function.byte_len() as u32;
        self.hints.push(BranchHint { branch_func_offset, branch_hint_value: is_taken.into() });
    }

    /// Opens what is run when a condition holds that hardly ever does.
    fn open_unlikely(&mut self) {
        self.hint(false);
        self.open(Label::Other);
    }

    fn note_fault(&mut self) {
        self.faults.push((self.function.byte_len() as u32, self.at));
    }

    pub(crate) fn expression(&mut self, expression: &Expr) {
        match expression {
            Expr::I32(value) => self.op(&Wasm::I32Const(*value)),
            Expr::I64(value) => self.op(&Wasm::I64Const(*value)),
            Expr::V128(value) => self.op(&Wasm::V128Const(*value as i128)),
            Expr::Get(var) => self.get(*var),
            Expr::Bias => self.op(&Wasm::GlobalGet(0)),
            Expr::Load(operator, address) => {
                self.expression(address);
                self.note_fault();
                self.op(operator);
            }
            Expr::State(operator) => {
                self.op(&Wasm::I32Const(0));
                self.op(operator);
            }
            Expr::Op(operator, arguments) => {
                arguments.iter().for_each(|argument| self.expression(argument));
                self.op(operator);
            }
        }
    }

    fn guest_address(&mut self, unit: u32) {
        self.expression(&guest_address(unit));
    }

    /// Writes registers to the state.
    pub(crate) fn spill(&mut self, registers: u32) {
        for var in (0..REGISTERS).map(Var).filter(|var| registers & var.bit() != 0) {
            self.op(&Wasm::I32Const(0));
            self.get(var);
            let operator = match var.0 {
                n @ 0..16 => Wasm::I64Store(memory(STATE, abi::gpr_offset(n as usize))),
                n => Wasm::V128Store(memory(STATE, abi::XMM_OFFSET + 16 * u64::from(n - 16))),
            };
            self.op(&operator);
        }
    }

    /// Reads registers from the state.
    fn reload(&mut self, registers: u32) {
        for var in (0..REGISTERS).map(Var).filter(|var| registers & var.bit() != 0) {
            self.op(&Wasm::I32Const(0));
            let operator = match var.0 {
                n @ 0..16 => Wasm::I64Load(memory(STATE, abi::gpr_offset(n as usize))),
                n => Wasm::V128Load(memory(STATE, abi::XMM_OFFSET + 16 * u64::from(n - 16))),
            };
            self.op(&operator);
            self.set(var);
        }
    }

    fn leave_if_set(&mut self) {
        let depth = self.depth_of(Label::Leave);
        self.hint(false);
        self.op(&Wasm::BrIf(depth));
    }

    /// Behind the block that [`Label::Leave`] names: returns what the state holds.
    pub(crate) fn leave(&mut self) {
        self.op(&Wasm::I32Const(0));
        self.op(&Wasm::I32Load(memory(STATE, abi::RIP_OFFSET)));
        for register in [RSP, RAX, RDX] {
            self.op(&Wasm::I32Const(0));
            self.op(&Wasm::I64Load(memory(STATE, abi::gpr_offset(register.0 as usize))));
        }
    }

    fn load_stop_byte(&mut self) {
        self.op(&Wasm::I32Const(0));
        self.op(&Wasm::I32AtomicLoad8U(memory(STATE, abi::STOP_OFFSET)));
    }

    pub(crate) fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::At(at) => self.at = *at,
            Statement::Set(var, value) => {
                self.expression(value);
                self.set(*var);
            }
            Statement::Drop(value) => {
                self.expression(value);
                self.op(&Wasm::Drop);
            }
            Statement::Store(operator, address, value) => {
                self.expression(address);
                self.expression(value);
                self.note_fault();
                self.op(operator);
            }
            Statement::StoreState(operator, value) => {
                self.op(&Wasm::I32Const(0));
                self.expression(value);
                self.op(operator);
            }
            Statement::Atomic(operator, address, arguments, old) => {
                self.expression(address);
                arguments.iter().for_each(|argument| self.expression(argument));
                self.note_fault();
                self.op(operator);
                self.set(*old);
            }
            Statement::MultiplyWide(operator, low, high, a, b) => {
                self.expression(a);
                self.expression(b);
                self.op(operator);
                self.set(*high);
                self.set(*low);
            }
            Statement::If(condition, yes, no) => {
                self.expression(condition);
                self.open(Label::Other);
                yes.iter().for_each(|statement| self.statement(statement));
                if !no.is_empty() {
                    self.op(&Wasm::Else);
                    no.iter().for_each(|statement| self.statement(statement));
                }
                self.close();
            }
            Statement::While(condition, body) => {
                self.open(Label::Repeat);
                self.expression(condition);
                self.open(Label::Other);
                body.iter().for_each(|statement| self.statement(statement));
                self.op(&Wasm::Br(1));
                self.close();
                self.close();
            }
            Statement::Step(at, moves) => self.exit(*moves, functions::STEP, &guest_address(*at)),
            Statement::Syscall(at, moves) => self.exit(*moves, functions::SYSCALL, &guest_address(*at)),
            Statement::Safepoint(at, moves) => {
                self.load_stop_byte();
                self.open_unlikely();
                self.exit(*moves, functions::STOP, at);
                self.close();
            }
            Statement::Enter(is_leaf, moves) => self.enter(*is_leaf, *moves),
            Statement::Arrive(moves) => self.reload(moves.reload),
            Statement::Save(_, moves) => self.spill(moves.spill),
            Statement::Barrier => {
                self.load_stop_byte();
                self.op(&Wasm::Drop);
            }
            Statement::Fence => self.op(&Wasm::AtomicFence),
            Statement::PublishStack => self.spill(RSP.bit()),
            Statement::Call(callee, back, moves) => self.call(callee, *back, *moves),
        }
    }

    /// Calls an import with everything in the state.
    fn exit(&mut self, moves: Moves, import: u32, at: &Expr) {
        self.spill(moves.spill);
        self.expression(at);
        self.op(&Wasm::Call(import));
        self.leave_if_set();
        self.reload(moves.reload);
    }

    fn enter(&mut self, is_leaf: bool, moves: Moves) {
        if !is_leaf {
            // Depth of callees.
            self.get(PCD);
            self.op(&Wasm::I64Const(!0xffff_ffff));
            self.op(&Wasm::I64And);
            self.op(&Wasm::I64Const((self.weight << 32) as i64));
            self.op(&Wasm::I64Add);
            self.op(&Wasm::LocalSet(self.depth));
        }
        self.load_stop_byte();
        if !is_leaf {
            self.too_deep();
            self.op(&Wasm::I32Or);
        }
        self.open_unlikely();
        self.spill(ARGUMENTS);
        if !is_leaf {
            self.op(&Wasm::I32Const(0));
            self.too_deep();
            self.op(&Wasm::I32Store8(memory(STATE, abi::UNWIND_OFFSET)));
        }
        self.get(PCD);
        self.op(&Wasm::I32WrapI64);
        self.op(&Wasm::Call(functions::STOP));
        self.leave_if_set();
        self.reload(ARGUMENTS);
        self.close();
        self.reload(moves.reload & !ARGUMENTS);
    }

    fn too_deep(&mut self) {
        self.get(PCD);
        self.op(&Wasm::I64Const(i64::from(abi::MAX_DEPTH) << 32));
        self.op(&Wasm::I64GeU);
    }

    /// Depth and address for a callee. A callee that takes this function's place gets its depth.
    fn pcd(&mut self, target: &Expr, is_tail: bool) {
        if is_tail {
            self.get(PCD);
            self.op(&Wasm::I64Const(!0xffff_ffff));
            self.op(&Wasm::I64And);
        } else {
            self.op(&Wasm::LocalGet(self.depth));
        }
        self.expression(target);
        self.op(&Wasm::I64ExtendI32U);
        self.op(&Wasm::I64Or);
        self.get(RSP);
        self.get(RDI);
        self.get(RSI);
    }

    /// Transfers to a callee; its results are on the stack, or this function's.
    fn transfer(&mut self, callee: &Callee, is_tail: bool) {
        let target = match callee {
            Callee::Direct(unit) => {
                let target = guest_address(*unit);
                if let Some(index) = self.neighbours.starts.get(unit) {
                    self.pcd(&target, is_tail);
                    let index = functions::FIRST + index;
                    self.op(&if is_tail { Wasm::ReturnCall(index) } else { Wasm::Call(index) });
                    return;
                }
                target
            }
            Callee::Indirect(target) => target.clone(),
        };
        let [slot, pc] = self.result;
        self.expression(&target);
        self.op(&Wasm::LocalTee(pc));
        self.op(&Wasm::I32Const(11));
        self.op(&Wasm::I32ShrU);
        self.op(&Wasm::LocalGet(pc));
        self.op(&Wasm::I32Xor);
        self.op(&Wasm::I32Const(abi::CACHE_ENTRIES as i32 - 1));
        self.op(&Wasm::I32And);
        self.op(&Wasm::I32Const(3));
        self.op(&Wasm::I32Shl);
        self.op(&Wasm::LocalTee(slot));
        self.op(&Wasm::I32Load(memory(STATE, abi::TARGETS_OFFSET)));
        self.op(&Wasm::LocalGet(pc));
        self.op(&Wasm::I32Eq);
        self.hint(true);
        self.op(&Wasm::If(if is_tail { BlockType::Empty } else { BlockType::FunctionType(types::RESULTS) }));
        let local = |index| Wasm::LocalGet(index);
        for is_hit in [true, false] {
            self.pcd_of_local(pc, is_tail);
            let type_index = types::FUNCTION;
            if is_hit {
                self.op(&local(slot));
                self.op(&Wasm::I32Load(memory(STATE, abi::TARGETS_OFFSET + 4)));
                self.op(&if is_tail {
                    Wasm::ReturnCallIndirect { type_index, table_index: 0 }
                } else {
                    Wasm::CallIndirect { type_index, table_index: 0 }
                });
                self.op(&Wasm::Else);
            } else {
                let dispatch = functions::DISPATCH;
                self.op(&if is_tail { Wasm::ReturnCall(dispatch) } else { Wasm::Call(dispatch) });
            }
        }
        self.op(&Wasm::End);
        if is_tail {
            self.op(&Wasm::Unreachable);
        }
    }

    fn pcd_of_local(&mut self, pc: u32, is_tail: bool) {
        if is_tail {
            self.get(PCD);
            self.op(&Wasm::I64Const(!0xffff_ffff));
            self.op(&Wasm::I64And);
        } else {
            self.op(&Wasm::LocalGet(self.depth));
        }
        self.op(&Wasm::LocalGet(pc));
        self.op(&Wasm::I64ExtendI32U);
        self.op(&Wasm::I64Or);
        self.get(RSP);
        self.get(RDI);
        self.get(RSI);
    }

    /// A call and the comparison of where it came back.
    fn call(&mut self, callee: &Callee, back: u32, moves: Moves) {
        self.spill(moves.spill);
        self.transfer(callee, false);
        let [_, pc] = self.result;
        self.set(RDX);
        self.set(RAX);
        // The old stack pointer is the slot; it is needed no more once the addresses agree.
        let slot = self.depth + 3;
        self.get(RSP);
        self.op(&Wasm::LocalSet(slot));
        self.set(RSP);
        self.op(&Wasm::LocalTee(pc));
        self.guest_address(back);
        self.op(&Wasm::I32Ne);
        self.open_unlikely();
        self.op(&Wasm::LocalGet(pc));
        for register in [RSP, RAX, RDX] {
            self.get(register);
        }
        self.guest_address(back);
        self.op(&Wasm::LocalGet(slot));
        self.op(&Wasm::Call(functions::RESOLVE));
        self.leave_if_set();
        self.reload(RESULTS);
        self.close();
        self.reload(moves.reload & !RESULTS);
    }

    /// Back to the caller.
    pub(crate) fn return_to(&mut self, target: Var, spill: u32) {
        self.spill(spill);
        self.get(target);
        for register in [RSP, RAX, RDX] {
            self.get(register);
        }
        self.op(&Wasm::Return);
    }

    /// To code outside, for good.
    pub(crate) fn tail(&mut self, callee: &Callee, spill: u32) {
        self.spill(spill);
        self.transfer(callee, true);
    }
}
