//! Which registers have to be written to the state, and which read from it, around everything that leaves the code.
//!
//! A forward pass finds the registers that may be *dirty*: newer in their variable than in the state. A backward pass
//! finds those that are *live*: read before they are written, where writing a dirty register to the state is a read too. An
//! exit writes the dirty registers and reads the live ones afterwards. A register that a loop writes to the state at its calls
//! but does not change is written once, in front of the loop.

use super::graph::Shape;
use super::ir::{End, IrNode, Moves, RAX, RDI, RDX, RSI, RSP, Statement, Var};

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
            Statement::While(_, body) => dirty |= forward(body, dirty),
            Statement::Step(_, moves) | Statement::Syscall(_, moves) => {
                moves.spill = dirty;
                dirty = 0;
            }
            Statement::Safepoint(_, moves) => moves.spill = dirty,
            Statement::Call(_, _, moves) => {
                moves.spill = dirty & !ARGUMENTS;
                dirty = RESULTS;
            }
            Statement::Save(wanted, moves) => {
                moves.spill = *wanted & dirty;
                dirty &= !*wanted;
            }
            Statement::Enter(..)
            | Statement::Arrive(_)
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
        Statement::If(condition, ..)
        | Statement::While(condition, _)
        | Statement::Safepoint(condition, _) => {
            condition.reads(visit);
        }
        Statement::Call(Callee::Indirect(target), ..) => target.reads(visit),
        Statement::PublishStack => visit(RSP),
        Statement::At(_)
        | Statement::Step(..)
        | Statement::Syscall(..)
        | Statement::Barrier
        | Statement::Fence
        | Statement::Call(..)
        | Statement::Save(..)
        | Statement::Arrive(_)
        | Statement::Enter(..) => {}
    }
}

/// The live registers before the statements; fills what each exit reads.
fn backward(statements: &mut [Statement], mut live: u32) -> u32 {
    for statement in statements.iter_mut().rev() {
        match statement {
            Statement::Set(var, _) | Statement::Atomic(_, _, _, var) => live &= !var.bit(),
            Statement::MultiplyWide(_, low, high, ..) => live &= !(low.bit() | high.bit()),
            Statement::If(_, yes, no) => live = backward(yes, live) | backward(no, live),
            Statement::While(condition, body) => loop {
                let mut before = live;
                condition.reads(&mut |var| before |= var.bit());
                before |= backward(body, before);
                if before == live {
                    break;
                }
                live = before;
            },
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
            Statement::Save(_, moves) => live |= moves.spill,
            Statement::Arrive(moves) => {
                moves.reload = live & !ARGUMENTS;
                live &= ARGUMENTS;
            }
            Statement::Enter(_, moves) => {
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

/// The dirty registers at the start of each node; fills what is written at exits.
fn find_dirty(nodes: &mut [IrNode], successors: &[Vec<usize>], shape: &Shape) -> Vec<u32> {
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
    dirty_in
}

/// Registers that statements change, and those that they write to the state at calls and steps.
fn changes(statements: &[Statement]) -> (u32, u32) {
    let (mut set, mut spilled) = (0, 0);
    for statement in statements {
        match statement {
            Statement::Set(var, _) | Statement::Atomic(_, _, _, var) => set |= var.bit(),
            Statement::MultiplyWide(_, low, high, ..) => set |= low.bit() | high.bit(),
            Statement::Call(_, _, moves) => {
                set |= RESULTS;
                spilled |= moves.spill;
            }
            Statement::Step(_, moves) | Statement::Syscall(_, moves) => spilled |= moves.spill,
            // What happens on a condition within an instruction is rare.
            Statement::If(_, yes, no) => set |= changes(yes).0 | changes(no).0,
            Statement::While(_, body) => set |= changes(body).0,
            _ => {}
        }
    }
    (set, spilled)
}

/// Most loops of a function that are looked at: the work grows with loops times nodes.
const MAX_LOOPS: usize = 64;

/// Puts [`Statement::Save`] in front of loops for what they write to the state but do not change.
fn save_before_loops(nodes: &mut [IrNode], successors: &[Vec<usize>], shape: &Shape, dirty_in: &[u32]) {
    let all: Vec<(u32, u32)> = nodes.iter().map(|node| changes(&node.statements)).collect();
    let headers: Vec<usize> =
        shape.order.iter().copied().filter(|node| shape.is_header[*node]).take(MAX_LOOPS).collect();
    for header in headers {
        let members = shape.members(header);
        let (mut set, mut spilled) = (0, 0);
        for (node, _) in members.iter().enumerate().filter(|(_, is_member)| **is_member) {
            set |= all[node].0;
            spilled |= all[node].1;
        }
        let wanted = dirty_in[header] & spilled & !set;
        let outside: Vec<usize> =
            shape.predecessors[header].iter().copied().filter(|from| !members[*from]).collect();
        if wanted != 0 && outside.iter().all(|from| successors[*from].len() == 1) {
            for from in outside {
                nodes[from].statements.push(Statement::Save(wanted, Moves::default()));
            }
        }
    }
}

/// Runs both passes over all nodes.
pub(crate) fn assign(nodes: &mut [IrNode], successors: &[Vec<usize>], shape: &Shape) {
    let dirty_in = find_dirty(nodes, successors, shape);
    save_before_loops(nodes, successors, shape, &dirty_in);
    find_dirty(nodes, successors, shape);
    for node in nodes.iter_mut() {
        node.statements.retain(|statement| !matches!(statement, Statement::Save(_, Moves { spill: 0, .. })));
    }
    let mut live_in = vec![0; nodes.len()];
    let mut changed = true;
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
