//! From the bytes of a function to a graph of blocks.
//!
//! Instructions are decoded from the entry along every branch that stays within the function's bounds; leaders of
//! blocks are branch targets. A branch out of the bounds is a tail exit, a node of its own. Where a branch leads into
//! the middle of an instruction, the bytes are decoded a second time from there: such overlaps exist (a jump over a
//! `lock` prefix).
//!
//! What must hold: every successor is a node, and nodes that nothing reaches are not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::tables::JumpTable;
use super::{CodeImage, FunctionBounds, MAX_INSTRUCTIONS, Refusal, tables};

/// What a node does.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Goes to its first successor if the function is entered at this unit address, else to the second.
    Entry { at: u32 },
    /// Instructions; the last may be a branch.
    Code { start: u32, instructions: Vec<Instruction> },
    /// Leaves the function for a unit address outside of it.
    Outside(u32),
    /// Says which successor a dispatch node is to take: its number among them, the node.
    Choose { dispatch: u32, index: u32 },
    /// Goes where a `Choose` said; the number names its variable.
    Dispatch(u32),
}

/// A node of the graph.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    /// For a conditional branch: taken, not taken. For a jump table: its targets, the default last.
    pub(crate) successors: Vec<usize>,
    /// The table that the last instruction jumps through.
    pub(crate) table: Option<JumpTable>,
}

/// A function's nodes; the first is the entry.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// Unit addresses where the function can be entered; the first is its start.
    pub(crate) entries: Vec<u32>,
    /// The last node of the chain of entries.
    last_entry: usize,
}

impl Graph {
    /// Makes a node an entry.
    pub(crate) fn add_entry(&mut self, at: u32, target: usize) {
        let last = self.nodes.len();
        let mut entry = node(Body::Entry { at });
        entry.successors.push(target);
        self.nodes.push(entry);
        self.nodes[self.last_entry].successors.push(last);
        self.last_entry = last;
        self.entries.push(at);
    }
}

/// How an instruction goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// To the next instruction.
    Next,
    Jump(u32),
    Branch(u32),
    /// Not within the function as far as known.
    Leave,
}

fn flow(instruction: &Instruction) -> Flow {
    let near = || instruction.near_branch64() as u32;
    let is_near = matches!(instruction.op0_kind(), OpKind::NearBranch64);
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch if is_near => Flow::Jump(near()),
        FlowControl::ConditionalBranch
            if is_near && !matches!(instruction.mnemonic(), Mnemonic::Loope | Mnemonic::Loopne) =>
        {
            Flow::Branch(near())
        }
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::Return
        | FlowControl::Exception => Flow::Leave,
        _ if instruction.is_invalid() || instruction.mnemonic() == Mnemonic::Hlt => Flow::Leave,
        _ => Flow::Next,
    }
}

/// Everything decoded of a function.
pub(super) struct Decoded {
    pub(super) instructions: BTreeMap<u32, Instruction>,
    leaders: BTreeSet<u32>,
    tables: HashMap<u32, JumpTable>,
}

/// Decodes one instruction; `None` outside of executable bytes or where they end within it.
fn decode(image: &dyn CodeImage, at: u32, end: u32) -> Option<Instruction> {
    let code = image.code(at);
    let code = &code[..code.len().min((end - at) as usize).min(15)];
    if code.is_empty() {
        return None;
    }
    let mut decoder = Decoder::with_ip(64, code, at.into(), DecoderOptions::NONE);
    Some(decoder.decode())
}

fn explore(image: &dyn CodeImage, bounds: FunctionBounds, extra: &[u32]) -> Result<Decoded, Refusal> {
    let inside = |at: u32| at >= bounds.start && at < bounds.end;
    let mut all = Decoded { instructions: BTreeMap::new(), leaders: BTreeSet::new(), tables: HashMap::new() };
    let mut work = vec![bounds.start];
    work.extend(extra.iter().copied().filter(|at| inside(*at)));
    let mut indirect = Vec::new();
    loop {
        while let Some(leader) = work.pop() {
            if !inside(leader) || !all.leaders.insert(leader) {
                continue;
            }
            let mut at = leader;
            while inside(at) && !all.instructions.contains_key(&at) {
                let Some(instruction) = decode(image, at, bounds.end) else { break };
                if all.instructions.len() >= MAX_INSTRUCTIONS {
                    return Err(Refusal::TooLarge);
                }
                all.instructions.insert(at, instruction);
                let next = instruction.next_ip() as u32;
                match flow(&instruction) {
                    Flow::Next => at = next,
                    Flow::Jump(target) => {
                        work.push(target);
                        break;
                    }
                    Flow::Branch(target) => {
                        work.extend([target, next]);
                        break;
                    }
                    Flow::Leave => {
                        if instruction.flow_control() == FlowControl::IndirectBranch {
                            indirect.push(at);
                        }
                        break;
                    }
                }
            }
        }
        // Tables are looked for when all that is reachable without them is known.
        let Some(at) = indirect.pop() else { return Ok(all) };
        if let Some(table) = tables::recover(image, bounds, &all.instructions, at) {
            work.extend(table.targets.iter().copied());
            all.tables.insert(at, table);
        }
    }
}

/// Decodes a function and makes its graph. `extra` are entries besides the start.
pub(crate) fn graph(image: &dyn CodeImage, bounds: FunctionBounds, extra: &[u32]) -> Result<Graph, Refusal> {
    let mut decoded = explore(image, bounds, extra)?;
    match decoded.instructions.get(&bounds.start) {
        Some(first) if !first.is_invalid() => {}
        _ => return Err(Refusal::NoCode),
    }
    let mut builder = Builder { nodes: vec![node(Body::Entry { at: bounds.start })], at: BTreeMap::new() };
    let leaders: Vec<u32> =
        decoded.leaders.iter().copied().filter(|at| decoded.instructions.contains_key(at)).collect();
    for leader in &leaders {
        builder.at.insert(*leader, builder.nodes.len());
        builder.nodes.push(node(Body::Code { start: *leader, instructions: Vec::new() }));
    }
    for leader in &leaders {
        builder.fill(*leader, &mut decoded);
    }
    builder.nodes[0].successors = vec![builder.at[&bounds.start]];
    let mut graph = Graph { nodes: builder.nodes, entries: vec![bounds.start], last_entry: 0 };
    for at in extra {
        if let Some(target) = builder.at.get(at)
            && decoded.leaders.contains(at)
            && !graph.entries.contains(at)
        {
            graph.add_entry(*at, *target);
        }
    }
    Ok(graph)
}

pub(super) fn node(body: Body) -> Node {
    Node { body, successors: Vec::new(), table: None }
}

struct Builder {
    nodes: Vec<Node>,
    at: BTreeMap<u32, usize>,
}

impl Builder {
    /// The node at an address, made as an exit when the address is outside.
    fn target(&mut self, at: u32) -> usize {
        if let Some(index) = self.at.get(&at) {
            return *index;
        }
        self.at.insert(at, self.nodes.len());
        self.nodes.push(node(Body::Outside(at)));
        self.nodes.len() - 1
    }

    fn fill(&mut self, leader: u32, decoded: &mut Decoded) {
        let mut list = Vec::new();
        let mut at = leader;
        let (successors, table) = loop {
            let Some(instruction) = decoded.instructions.get(&at) else {
                break (vec![self.target(at)], None);
            };
            list.push(*instruction);
            let next = instruction.next_ip() as u32;
            match flow(instruction) {
                Flow::Next if decoded.leaders.contains(&next) => break (vec![self.target(next)], None),
                Flow::Next => at = next,
                Flow::Jump(target) => break (vec![self.target(target)], None),
                Flow::Branch(target) => break (vec![self.target(target), self.target(next)], None),
                Flow::Leave => match decoded.tables.remove(&at) {
                    Some(table) => {
                        let targets = table.targets.iter().map(|at| self.target(*at)).collect();
                        break (targets, Some(table));
                    }
                    None => break (Vec::new(), None),
                },
            }
        };
        let index = self.at[&leader];
        self.nodes[index] =
            Node { body: Body::Code { start: leader, instructions: list }, successors, table };
    }
}
