//! Branches, calls, returns and system calls.
//!
//! A call pushes its return address as the processor does and then calls the Wasm function; a return pops the address
//! and gives it back. An indirect jump without a known table goes to the function's hub; where there is none, it leaves the
//! function, as a jump to outside does. Stubs of the linker are looked through: the pointer is read where they are called.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::ir::{
    Alu, Callee, End, Expr, Moves, RCX, RSP, Statement, Type, alu, and, extend, get, guest_address, is_zero,
    select, wrap,
};
use super::lifter::Lifter;
use super::operands::{gpr, load};

impl Lifter<'_> {
    /// Translates a branch, or has the interpreter run what nothing else knows.
    pub(super) fn control(&mut self, i: &Instruction) -> Option<End> {
        match self.branch(i) {
            Some(end) => end,
            None => {
                self.step();
                self.after_step(i)
            }
        }
    }

    /// Where to go on when the interpreter has run a branch and it led to the next instruction.
    fn after_step(&self, i: &Instruction) -> Option<End> {
        match (self.successors.last(), i.flow_control()) {
            (
                _,
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::Interrupt,
            ) if !i.is_invalid() && i.mnemonic() != Mnemonic::Hlt => None,
            (Some(next), FlowControl::ConditionalBranch) => Some(End::Jump(*next)),
            (None, FlowControl::ConditionalBranch) => None,
            _ => Some(End::Tail(Callee::Direct(i.next_ip() as u32))),
        }
    }

    fn branch(&mut self, i: &Instruction) -> Option<Option<End>> {
        match i.flow_control() {
            FlowControl::Call if i.op0_kind() == OpKind::NearBranch64 => {
                let callee = self.callee(i.near_branch64() as u32);
                let callee = match callee {
                    Callee::Indirect(target) => Callee::Indirect(self.keep(Type::I32, target)),
                    callee => callee,
                };
                self.call(i, callee);
                Some(None)
            }
            FlowControl::Call if i.mnemonic() == Mnemonic::Syscall => {
                self.out.push(Statement::Syscall(i.next_ip() as u32, Moves::default()));
                Some(None)
            }
            FlowControl::IndirectCall => {
                let target = self.branch_target(i)?;
                let target = self.keep(Type::I32, target);
                self.call(i, Callee::Indirect(target));
                Some(None)
            }
            FlowControl::Return if i.mnemonic() == Mnemonic::Ret && i.stack_pointer_increment() >= 8 => {
                let target = self.temporary(Type::I32);
                self.set(target, wrap(load(8, wrap(get(RSP)), 0)));
                let increment = i64::from(i.stack_pointer_increment());
                self.set(RSP, alu(Alu::Add, 8, get(RSP), Expr::I64(increment)));
                Some(Some(End::Return(target)))
            }
            FlowControl::UnconditionalBranch if i.op0_kind() == OpKind::NearBranch64 => {
                Some(self.successors.first().map(|to| End::Jump(*to)))
            }
            FlowControl::ConditionalBranch => self.conditional_branch(i),
            FlowControl::IndirectBranch => {
                let target = self.branch_target(i)?;
                let target = self.keep(Type::I32, target);
                Some(Some(match self.table.take() {
                    Some((table, index)) if table.is_in_node => {
                        End::Switch(get(index), self.successors.clone(), Some(Callee::Indirect(target)))
                    }
                    _ => match (self.hub, self.successors.as_slice()) {
                        (Some(hub), &[to]) => {
                            self.set(hub, target);
                            End::Jump(to)
                        }
                        _ => End::Tail(Callee::Indirect(target)),
                    },
                }))
            }
            _ => None,
        }
    }

    fn conditional_branch(&mut self, i: &Instruction) -> Option<Option<End>> {
        let &[taken, next] = self.successors.as_slice() else { return None };
        let condition = match i.mnemonic() {
            _ if i.is_jcc_short_or_near() => self.condition(i.condition_code()),
            Mnemonic::Jrcxz => is_zero(8, get(RCX)),
            Mnemonic::Jecxz => is_zero(4, wrap(get(RCX))),
            Mnemonic::Loop if format_is_wide(i) => {
                self.set(RCX, alu(Alu::Sub, 8, get(RCX), Expr::I64(1)));
                alu(Alu::Ne, 8, get(RCX), Expr::I64(0))
            }
            _ => return None,
        };
        Some(Some(End::Branch(condition, taken, next)))
    }

    /// The code at a unit address; behind a stub, what its pointer holds now.
    pub(super) fn callee(&self, at: u32) -> Callee {
        match self.stubs.and_then(|stubs| stubs.get(&at)) {
            Some(pointer) => Callee::Indirect(wrap(load(8, guest_address(*pointer), 0))),
            None => Callee::Direct(at),
        }
    }

    fn call(&mut self, i: &Instruction, callee: Callee) {
        let back = i.next_ip() as u32;
        self.push_value(extend(guest_address(back)));
        self.out.push(Statement::Call(callee, back, Moves::default()));
    }

    /// At the load of a jump table: keeps the index, or -1 where the table is not the expected one.
    pub(super) fn note_index(&mut self) {
        let Some((table, index)) = self.table.clone() else { return };
        let Some(register) = gpr(table.index).filter(|_| table.load_at == self.at) else { return };
        let wide = table.index.size() == 8;
        let value = if wide { get(register) } else { extend(wrap(get(register))) };
        let mut trusted = alu(Alu::LtU, 8, value.clone(), Expr::I64(table.targets.len() as i64));
        if let Some((base, address)) = table.base
            && let Some(base) = gpr(base)
        {
            trusted = and(trusted, alu(Alu::Eq, 8, get(base), extend(guest_address(address))));
        }
        self.set(index, select(trusted, wrap(value), Expr::I32(-1)));
        if let Some((table, _)) = &mut self.table {
            table.is_in_node = true;
        }
    }
}

/// Whether `loop` counts in rcx rather than ecx.
fn format_is_wide(i: &Instruction) -> bool {
    matches!(i.code(), iced_x86::Code::Loop_rel8_64_RCX)
}
