//! One function from its bytes to translated nodes.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};
use std::collections::{BTreeSet, HashMap};

use super::cfg::{self, Body, Graph};
use super::flags::{self, Fact};
use super::graph::{Shape, make_reducible};
use super::ir::{
    Alu, Callee, End, Expr, IrNode, Moves, PCD, Statement, Type, Var, alu, get, guest_address, wrap,
};
use super::lifter::Lifter;
use super::{CodeImage, FunctionBounds, Refusal, dataflow, loads};

/// A function, ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) types: Vec<Type>,
    pub(crate) nodes: Vec<IrNode>,
    pub(crate) shape: Shape,
    pub(crate) entries: Vec<u32>,
}

/// Most loop headers of one function that become entries.
const MAX_LOOP_ENTRIES: usize = 16;

/// Translates one function, entered at its start, at `extra` where flags allow, and at its outermost loops.
pub(crate) fn lift(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
    extra: &[u32],
) -> Result<Function, Refusal> {
    let mine: Vec<u32> = extra.iter().copied().filter(|at| *at > bounds.start && *at < bounds.end).collect();
    let mut extra = mine.as_slice();
    let mut ends = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        match lift_with(image, bounds, extra, &ends) {
            Ok(Attempt::Done(function)) => return Ok(*function),
            Ok(Attempt::Ends(more)) => ends.extend(more),
            Err(Refusal::FlagsAtEntry) if !extra.is_empty() => extra = &[],
            Err(refusal) => return Err(refusal),
        }
    }
    Err(Refusal::FlagsAcrossCall)
}

/// How often the translation of a function begins anew with what was learned.
const MAX_ROUNDS: usize = 6;

/// What comes of a translation.
enum Attempt {
    Done(Box<Function>),
    /// Flags are looked at behind these calls.
    Ends(BTreeSet<u32>),
}

/// The nodes of a function whose instructions the interpreter may have to run, with those instructions and the loops around.
pub(super) fn left(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
) -> Result<Vec<(Instruction, usize)>, Refusal> {
    let mut graph = cfg::graph(image, bounds, &[], &BTreeSet::new())?;
    make_reducible(&mut graph);
    let shape = Shape::of(&graph);
    let mut found = Vec::new();
    for node in &shape.order {
        let Body::Code { instructions, .. } = &graph.nodes[*node].body else { continue };
        let facts = facts_of(&graph, *node);
        for (instruction, _) in instructions.iter().zip(facts).filter(|(_, fact)| fact.may_step) {
            found.push((*instruction, shape.depth(*node)));
        }
    }
    Ok(found)
}

fn lift_with(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
    extra: &[u32],
    ends: &BTreeSet<u32>,
) -> Result<Attempt, Refusal> {
    let mut graph = cfg::graph(image, bounds, extra, ends)?;
    let mut facts: Vec<Vec<Fact>> = (0..graph.nodes.len()).map(|node| facts_of(&graph, node)).collect();
    if let Some((hub, _)) = graph.hub {
        let live = flags::live_in(image, &graph, &Shape::of(&graph), &facts);
        if live[hub] == 0 {
            graph.enter_hub();
        }
    }
    let outermost = make_reducible(&mut graph);
    facts.resize(graph.nodes.len(), Vec::new());
    let shape = Shape::of(&graph);
    let live = flags::live_in(image, &graph, &shape, &facts);
    for header in outermost.into_iter().take(MAX_LOOP_ENTRIES) {
        if let Body::Code { start, .. } = graph.nodes[header].body
            && live[header] == 0
            && shape.number[header] != usize::MAX
            && !graph.entries.contains(&start)
        {
            graph.add_entry(start, header);
        }
    }
    facts.resize(graph.nodes.len(), Vec::new());
    let shape = Shape::of(&graph);
    let looks = safepoints(&graph, &shape, &facts);
    let flags = flags::analyse(image, &graph, &shape, facts, &looks)?;
    let across = flags.across_calls(&graph);
    if !across.is_empty() {
        return Ok(Attempt::Ends(across));
    }
    let mut lifter = Lifter::new(Some(&flags));
    lifter.stubs = Some(&graph.stubs);
    if graph.hub.is_some() {
        lifter.hub = Some(lifter.variable(Type::I32));
    }
    lifter.barriers = loads::barriers(&graph, &shape, &looks);
    lifter.barriers.sort_unstable();
    let mut choices = HashMap::new();
    let mut nodes = vec![IrNode { statements: Vec::new(), end: End::Jump(0), spill: 0 }; graph.nodes.len()];
    let start = graph.nodes[graph.nodes[0].successors[0]].successors[0];
    for index in &shape.order {
        lifter.begin(flags.sources[*index], flags.first[*index]);
        let place = match (&graph.nodes[*index].body, lifter.hub) {
            (Body::Code { start, .. }, _) => Some(guest_address(*start)),
            (Body::Hub(_), Some(hub)) => Some(get(hub)),
            _ => None,
        };
        if let Some(place) = place.filter(|_| looks[*index]) {
            lifter.spill_flags(flags.live_in[*index]);
            lifter.out.push(Statement::Safepoint(place, Moves::default()));
        }
        let end =
            lift_node(&mut lifter, &graph, *index, *index == start, &mut choices, flags.live_in[*index]);
        nodes[*index] = IrNode { statements: lifter.finish(), end, spill: 0 };
    }
    if is_leaf(&nodes, &shape)
        && let Some(Statement::Enter(leaf, _)) = nodes[0].statements.first_mut()
    {
        *leaf = true;
    }
    let successors: Vec<Vec<usize>> = graph.nodes.iter().map(|node| node.successors.clone()).collect();
    dataflow::assign(&mut nodes, &successors, &shape);
    Ok(Attempt::Done(Box::new(Function { types: lifter.types, nodes, shape, entries: graph.entries })))
}

/// What the analysis of flags has to know of a node's instructions.
fn facts_of(graph: &Graph, node: usize) -> Vec<Fact> {
    let Body::Code { instructions, .. } = &graph.nodes[node].body else { return Vec::new() };
    let mut lifter = Lifter::new(None);
    lifter.successors.clone_from(&graph.nodes[node].successors);
    lifter.stubs = Some(&graph.stubs);
    instructions
        .iter()
        .map(|instruction| {
            lifter.instruction(instruction);
            let statements = lifter.finish();
            Fact {
                effect: flags::effect(instruction),
                may_step: steps(&statements),
                is_call: statements.iter().any(|statement| matches!(statement, Statement::Call(..))),
            }
        })
        .collect()
}

fn steps(statements: &[Statement]) -> bool {
    statements.iter().any(|statement| match statement {
        Statement::Step(..) | Statement::Syscall(..) => true,
        Statement::While(_, body) => steps(body),
        Statement::If(_, yes, no) => steps(yes) || steps(no),
        _ => false,
    })
}

/// Whether a function only returns, and calls nothing: its frame is the last one.
fn is_leaf(nodes: &[IrNode], shape: &Shape) -> bool {
    shape.order.iter().map(|node| &nodes[*node]).all(|node| {
        let returns = !matches!(node.end, End::Tail(_) | End::Switch(_, _, Some(_)));
        returns && !node.statements.iter().any(|statement| matches!(statement, Statement::Call(..)))
    })
}

/// The nodes that begin with a look at the stop byte: headers of loops that can turn without a call.
fn safepoints(graph: &Graph, shape: &Shape, facts: &[Vec<Fact>]) -> Vec<bool> {
    let mut looks = vec![false; graph.nodes.len()];
    let calls = |node: usize| facts[node].iter().any(|fact| fact.is_call);
    for header in shape.order.iter().copied().filter(|node| shape.is_header[*node]) {
        let turns = shape.predecessors[header].iter().filter(|from| shape.is_back_edge(**from, header));
        let quiet = turns.copied().any(|mut node| {
            loop {
                if calls(node) {
                    return false;
                }
                if node == header || node == shape.dominator[node] {
                    return true;
                }
                node = shape.dominator[node];
            }
        });
        match graph.nodes[header].body {
            Body::Dispatch(_) => graph.nodes[header].successors.iter().for_each(|to| looks[*to] |= quiet),
            _ => looks[header] |= quiet,
        }
    }
    looks
}

fn lift_node(
    lifter: &mut Lifter<'_>,
    graph: &Graph,
    index: usize,
    is_start: bool,
    choices: &mut HashMap<u32, Var>,
    live: flags::Set,
) -> End {
    let node = &graph.nodes[index];
    match &node.body {
        Body::Entry { at } => {
            if index == 0 {
                lifter.out.push(Statement::Enter(false, Moves::default()));
            }
            match node.successors[..] {
                [here, next] => {
                    let pc = wrap(get(PCD));
                    End::Branch(alu(Alu::Eq, 4, pc, guest_address(*at)), here, next)
                }
                _ => End::Jump(node.successors[0]),
            }
        }
        Body::Outside(at) => {
            lifter.spill_flags(live);
            lifter.out.push(Statement::At(*at));
            End::Tail(lifter.callee(*at))
        }
        Body::Arrive => {
            lifter.out.push(Statement::Arrive(Moves::default()));
            End::Jump(node.successors[0])
        }
        Body::EnterHub => {
            lifter.out.push(Statement::Arrive(Moves::default()));
            if let Some(hub) = lifter.hub {
                lifter.set(hub, wrap(get(PCD)));
            }
            End::Jump(node.successors[0])
        }
        Body::Hub(scatter) => {
            let slot = lifter.hub.map_or(Expr::I32(0), |hub| scatter.expression(hub));
            End::Switch(slot, node.successors.clone(), None)
        }
        Body::Landing { at } => {
            let address = lifter.hub.map_or(Expr::I32(0), get);
            End::Branch(alu(Alu::Eq, 4, address, guest_address(*at)), node.successors[0], node.successors[1])
        }
        Body::Elsewhere => End::Tail(Callee::Indirect(lifter.hub.map_or(Expr::I32(0), get))),
        Body::Choose { dispatch, index } => {
            let var = *choices.entry(*dispatch).or_insert_with(|| lifter.variable(Type::I32));
            lifter.set(var, Expr::I32(*index as i32));
            End::Jump(node.successors[0])
        }
        Body::Dispatch(dispatch) => {
            let var = *choices.entry(*dispatch).or_insert_with(|| lifter.variable(Type::I32));
            End::Switch(get(var), node.successors.clone(), None)
        }
        Body::Code { instructions, .. } => {
            lifter.successors.clone_from(&node.successors);
            lifter.table = node.table.clone().map(|table| (table, lifter.variable(Type::I32)));
            // The state's stack pointer must never be above live data when an access faults.
            let mut is_stale = is_start;
            let mut end = None;
            for (place, instruction) in instructions.iter().enumerate() {
                let is_last = place + 1 == instructions.len();
                let is_call = instruction.flow_control() == FlowControl::Call;
                let lowers = lowers_stack(instruction);
                if is_stale && !is_call && !lowers && (is_last || accesses_memory(instruction)) {
                    lifter.out.push(Statement::PublishStack);
                    is_stale = false;
                }
                end = lifter.instruction(instruction);
                // A callee makes its own, lower one known.
                is_stale = (is_stale || lowers) && !is_call;
            }
            if is_stale && end.is_none() {
                lifter.out.push(Statement::PublishStack);
            }
            end.unwrap_or_else(|| match node.successors.first() {
                Some(next) => End::Jump(*next),
                None => {
                    let behind = instructions.last().map_or(0, |last| last.next_ip() as u32);
                    End::Tail(Callee::Direct(behind))
                }
            })
        }
    }
}

/// Whether an instruction moves the stack pointer down, or anywhere.
fn lowers_stack(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Push => true,
        Mnemonic::Sub | Mnemonic::And | Mnemonic::Lea | Mnemonic::Mov => {
            instruction.op0_register() == Register::RSP
        }
        _ => false,
    }
}

/// Whether an instruction loads or stores through an operand of its own.
fn accesses_memory(instruction: &Instruction) -> bool {
    !matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop)
        && (instruction.is_string_instruction()
            || (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory))
}
