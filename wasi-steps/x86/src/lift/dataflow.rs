//! Which registers have to be written to the state, and which read from it, around everything that leaves the code.
//!
//! A forward pass finds the registers that may be *dirty*: newer in their variable than in the state. A backward pass
//! finds those that are *live*: read before they are written, where writing a dirty register to the state is a read too. An
//! exit writes the dirty registers and reads the live ones afterwards.

use super::graph::Shape;
use super::ir::{End, IrNode, RAX, RDI, RDX, RSI, RSP, Statement, Var};

/// What travels into a function.
pub(crate) const ARGUMENTS: u32 = RSP.bit() | RDI.bit() | RSI.bit();
/// What travels out of one.
pub(crate) const RESULTS: u32 = RSP.bit() | RAX.bit() | RDX.bit();

/// The dirty registers behind the statements; fills what each exit writes.
fn forward(statements: &mut [Statement], mut dirty: u32) -> u32 {
    for statement in statements {
        match statement {
            Statement::Set(var, _) | Statement::Atomic(_, _, _, var) => dirty |= var.bit(),
            Statement::MultiplyWide(_, low, high, ..) => dirty |= low.bit() | high.bit(),
            Statement::If(_, yes, no) => dirty = forward(yes, dirty) | forward(no, dirty),
            Statement::Step(_, moves) | Statement::Syscall(_, moves) => {
                moves.spill = dirty;
                dirty = 0;
            }
            Statement::Safepoint(_, moves) => moves.spill = dirty,
            Statement::Call(_, _, moves) => {
                moves.spill = dirty & !ARGUMENTS;
                dirty = RESULTS;
            }
            Statement::Enter(_)
            | Statement::At(_)
            | Statement::Drop(_)
            | Statement::Store(..)
            | Statement::StoreState(..)
            | Statement::Barrier
            | Statement::Fence
            | Statement::PublishStack => {}
        }
    }
    dirty
}

/// Calls `visit` with all variables that a statement reads by itself.
pub(crate) fn reads(statement: &Statement, visit: &mut dyn FnMut(Var)) {
    use super::ir::Callee;
    match statement {
        Statement::Set(_, value) | Statement::Drop(value) | Statement::StoreState(_, value) => {
            value.reads(visit);
        }
        Statement::Store(_, address, value) => {
            address.reads(visit);
            value.reads(visit);
        }
        Statement::Atomic(_, address, arguments, _) => {
            address.reads(visit);
            arguments.iter().for_each(|argument| argument.reads(visit));
        }
        Statement::MultiplyWide(_, _, _, a, b) => {
            a.reads(visit);
            b.reads(visit);
        }
        Statement::If(condition, ..) => condition.reads(visit),
        Statement::Call(Callee::Indirect(target), ..) => target.reads(visit),
        Statement::PublishStack => visit(RSP),
        Statement::At(_)
        | Statement::Step(..)
        | Statement::Syscall(..)
        | Statement::Safepoint(..)
        | Statement::Barrier
        | Statement::Fence
        | Statement::Call(..)
        | Statement::Enter(_) => {}
    }
}

/// The live registers before the statements; fills what each exit reads.
fn backward(statements: &mut [Statement], mut live: u32) -> u32 {
    for statement in statements.iter_mut().rev() {
        match statement {
            Statement::Set(var, _) | Statement::Atomic(_, _, _, var) => live &= !var.bit(),
            Statement::MultiplyWide(_, low, high, ..) => live &= !(low.bit() | high.bit()),
            Statement::If(_, yes, no) => live = backward(yes, live) | backward(no, live),
            Statement::Step(_, moves) | Statement::Syscall(_, moves) => {
                moves.reload = live;
                live = moves.spill;
            }
            Statement::Safepoint(_, moves) => {
                moves.reload = live;
                live |= moves.spill;
            }
            Statement::Call(_, _, moves) => {
                moves.reload = live;
                live = moves.spill | ARGUMENTS;
            }
            Statement::Enter(moves) => {
                moves.reload = live;
                live = 0;
            }
            _ => {}
        }
        reads(statement, &mut |var| live |= var.bit());
    }
    live
}

/// What is written where a node leaves the function, and what else is read there.
fn at_end(end: &End, dirty: u32) -> (u32, u32) {
    match end {
        End::Return(_) => (dirty & !RESULTS, RESULTS),
        End::Tail(_) | End::Switch(_, _, Some(_)) => (dirty & !ARGUMENTS, ARGUMENTS),
        End::Jump(_) | End::Branch(..) | End::Switch(_, _, None) => (0, 0),
    }
}

/// Runs both passes over all nodes.
pub(crate) fn assign(nodes: &mut [IrNode], successors: &[Vec<usize>], shape: &Shape) {
    let mut dirty_in = vec![0; nodes.len()];
    dirty_in[0] = ARGUMENTS;
    let mut changed = true;
    while changed {
        changed = false;
        for index in &shape.order {
            let dirty = forward(&mut nodes[*index].statements, dirty_in[*index]);
            let spill = at_end(&nodes[*index].end, dirty).0;
            nodes[*index].spill = spill;
            for to in &successors[*index] {
                changed |= dirty & !dirty_in[*to] != 0;
                dirty_in[*to] |= dirty;
            }
        }
    }
    let mut live_in = vec![0; nodes.len()];
    changed = true;
    while changed {
        changed = false;
        for index in shape.order.iter().rev() {
            let mut live = successors[*index].iter().fold(0, |all, to| all | live_in[*to]);
            let node = &mut nodes[*index];
            live |= node.spill | at_end(&node.end, 0).1;
            node.end.reads(&mut |var| live |= var.bit());
            let before = backward(&mut node.statements, live);
            changed |= before != live_in[*index];
            live_in[*index] = before;
        }
    }
}
