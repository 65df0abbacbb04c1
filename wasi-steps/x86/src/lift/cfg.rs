//! From the bytes of a function to a graph of blocks.
//!
//! Instructions are decoded from the entry along every branch that stays within the function's bounds; leaders of
//! blocks are branch targets. A branch out of the bounds is a tail exit, a node of its own; but where it leads into the middle of
//! another function, such as an out-of-line part or the common end of hand-written functions, the code there is taken for this
//! function's as well, because nobody else could enter it. Where a branch leads into
//! the middle of an instruction, the bytes are decoded a second time from there: such overlaps exist (a jump over a
//! `lock` prefix).
//!
//! Indirect jumps whose table is not recovered, the computed gotos of interpreters first among them, lead to the function's
//! *hub*: a node that goes where the address in its variable says, as far as that is one of the targets that are known
//! (pointers into the function that the file holds, targets learned, code that nothing else reaches), and outside otherwise.
//!
//! What must hold: every successor is a node, and nodes that nothing reaches are not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::hub::{self, Scatter};
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
    /// Where an entry leads before the code: every entry reads the registers that it needs, and no others.
    Arrive,
    /// Enters the hub with the address that the function was entered at.
    EnterHub,
    /// Goes to the landing for the guest address in the hub's variable; the last successor is the way outside.
    Hub(Scatter),
    /// Goes to its first successor if the hub's address is this one, else to the second.
    Landing { at: u32 },
    /// Leaves the function for the hub's address.
    Elsewhere,
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
    /// The hub and the unit addresses that it knows.
    pub(crate) hub: Option<(usize, Vec<u32>)>,
    /// Where the stubs that the function calls or jumps to find their target: stub, pointer.
    pub(crate) stubs: HashMap<u32, u32>,
}

impl Graph {
    /// Makes a node an entry.
    pub(crate) fn add_entry(&mut self, at: u32, target: usize) {
        let mut arrive = node(Body::Arrive);
        arrive.successors.push(target);
        self.nodes.push(arrive);
        let last = self.nodes.len();
        let mut entry = node(Body::Entry { at });
        entry.successors.push(last - 1);
        entry.successors.extend(self.nodes[self.last_entry].successors.get(1));
        self.nodes.push(entry);
        self.nodes[self.last_entry].successors.truncate(1);
        self.nodes[self.last_entry].successors.push(last);
        self.last_entry = last;
        self.entries.push(at);
    }

    /// Makes all targets of the hub entries, for what is none of the others.
    pub(crate) fn enter_hub(&mut self) {
        let Some((hub, targets)) = &self.hub else { return };
        let mut enter = node(Body::EnterHub);
        enter.successors.push(*hub);
        let known: BTreeSet<u32> = self.entries.iter().copied().collect();
        self.entries.extend(targets.iter().copied().filter(|at| !known.contains(at)));
        let last = self.nodes.len();
        self.nodes.push(enter);
        self.nodes[self.last_entry].successors.push(last);
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
    /// Where indirect jumps without a table may lead, and the jumps.
    targets: BTreeSet<u32>,
    scattered: BTreeSet<u32>,
}

impl Decoded {
    /// The start of the block that holds an instruction.
    fn leader_of(&self, at: u32) -> u32 {
        self.leaders.range(..=at).next_back().copied().unwrap_or(at)
    }

    /// Leaves to the hub the jumps whose index is not known in their own block.
    fn scatter_far_tables(&mut self) {
        let far: Vec<u32> = self
            .tables
            .iter()
            .filter(|(at, table)| table.load_at < self.leader_of(**at))
            .map(|(at, _)| *at)
            .collect();
        for at in far {
            if let Some(table) = self.tables.remove(&at) {
                self.targets.extend(table.targets);
                self.scattered.insert(at);
            }
        }
    }
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

/// Whether control can go on behind an instruction by itself.
fn falls_through(instruction: &Instruction) -> bool {
    matches!(flow(instruction), Flow::Next | Flow::Branch(_))
}

/// Most functions that a function shares code of.
const MAX_SHARED: usize = 8;
/// Most instructions that a function has when it begins to share code of another one.
const MAX_SHARING: usize = 2_000;

struct Explorer<'a> {
    image: &'a dyn CodeImage,
    /// The function's, then those of functions that it shares code of.
    bounds: Vec<FunctionBounds>,
    ends: &'a BTreeSet<u32>,
    all: Decoded,
    work: Vec<u32>,
    /// Indirect jumps that were not looked at yet.
    indirect: Vec<u32>,
}

impl Explorer<'_> {
    /// The bounds around an address.
    fn bounds_of(&self, at: u32) -> Option<FunctionBounds> {
        self.bounds.iter().copied().find(|bounds| (bounds.start..bounds.end).contains(&at))
    }

    fn inside(&self, at: u32) -> bool {
        self.bounds_of(at).is_some()
    }

    /// Goes on at the target of a branch, be it in the middle of another function.
    fn branch(&mut self, target: u32) {
        if !self.inside(target)
            && self.bounds.len() <= MAX_SHARED
            && self.all.instructions.len() < MAX_SHARING
            && let Some(other) = self.image.function_at(target).filter(|other| other.start != target)
        {
            self.bounds.push(other);
        }
        self.work.push(target);
    }

    /// Decodes all that the work leads to.
    fn follow(&mut self) -> Result<(), Refusal> {
        while let Some(leader) = self.work.pop() {
            let Some(bounds) = self.bounds_of(leader).filter(|_| self.all.leaders.insert(leader)) else {
                continue;
            };
            let mut at = leader;
            while at < bounds.end && !self.all.instructions.contains_key(&at) {
                let Some(instruction) = decode(self.image, at, bounds.end) else { break };
                if self.all.instructions.len() >= MAX_INSTRUCTIONS {
                    return Err(Refusal::TooLarge);
                }
                self.all.instructions.insert(at, instruction);
                let next = instruction.next_ip() as u32;
                match flow(&instruction) {
                    Flow::Next if self.ends.contains(&at) => {}
                    Flow::Next => {
                        at = next;
                        continue;
                    }
                    Flow::Jump(target) => self.branch(target),
                    Flow::Branch(target) => {
                        self.branch(target);
                        self.work.push(next);
                    }
                    Flow::Leave => {
                        if instruction.flow_control() == FlowControl::IndirectBranch {
                            self.indirect.push(at);
                        }
                    }
                }
                break;
            }
        }
        Ok(())
    }

    /// Where the bytes begin that nothing was decoded from, padding aside.
    fn gaps(&self) -> Vec<u32> {
        let own = self.bounds[0];
        let mut found = Vec::new();
        let mut at = own.start;
        let mut ends = true;
        while at < own.end {
            if let Some(instruction) = self.all.instructions.get(&at) {
                ends = !falls_through(instruction);
                at = instruction.next_ip() as u32;
                continue;
            }
            let next = self.all.instructions.range(at..own.end).next().map_or(own.end, |(next, _)| *next);
            if ends && let Some(start) = hub::behind_padding(self.image, at, next) {
                found.push(start);
            }
            (at, ends) = (next, false);
        }
        found
    }
}

/// How often gaps are looked for: each round may uncover more.
const MAX_GAP_ROUNDS: usize = 16;

fn explore(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
    extra: &[u32],
    ends: &BTreeSet<u32>,
) -> Result<Decoded, Refusal> {
    let all = Decoded {
        instructions: BTreeMap::new(),
        leaders: BTreeSet::new(),
        tables: HashMap::new(),
        targets: BTreeSet::new(),
        scattered: BTreeSet::new(),
    };
    let mut explorer =
        Explorer { image, bounds: vec![bounds], ends, all, work: vec![bounds.start], indirect: Vec::new() };
    explorer.work.extend_from_slice(extra);
    let (mut is_computed, mut has_pointers, mut rounds) = (false, false, 0);
    loop {
        explorer.follow()?;
        // Tables are looked for when all that is reachable without them is known.
        if let Some(at) = explorer.indirect.pop() {
            let around = explorer.bounds_of(at).unwrap_or(bounds);
            match tables::recover(image, around, &explorer.all.instructions, at) {
                Some(table) => {
                    explorer.work.extend(table.targets.iter().copied());
                    explorer.all.tables.insert(at, table);
                }
                None => {
                    if explorer.all.scattered.is_empty() {
                        let known = image.pointers(bounds.start, bounds.end);
                        has_pointers = known.iter().any(|at| *at != bounds.start);
                        explorer.all.targets.extend(known.into_iter().filter(|at| *at > bounds.start));
                        explorer.all.targets.extend(extra.iter().copied());
                        explorer.work.extend(explorer.all.targets.iter().copied());
                    }
                    is_computed |= tables::is_computed(&explorer.all.instructions, at);
                    explorer.all.scattered.insert(at);
                }
            }
            continue;
        }
        // What nothing leads to is where a computed goto leads, unless the file says where that is.
        rounds += 1;
        if !is_computed || has_pointers || rounds > MAX_GAP_ROUNDS {
            break;
        }
        let mut gaps = explorer.gaps();
        gaps.retain(|at| !explorer.all.leaders.contains(at));
        if gaps.is_empty() {
            break;
        }
        explorer.all.targets.extend(gaps.iter().copied());
        explorer.work.extend(gaps);
    }
    let mut all = explorer.all;
    all.scatter_far_tables();
    all.targets.retain(|at| all.leaders.contains(at) && all.instructions.contains_key(at));
    Ok(all)
}

/// Decodes a function and makes its graph. `extra` are entries besides the start; calls at `ends` are where the function
/// is left.
pub(crate) fn graph(
    image: &dyn CodeImage,
    bounds: FunctionBounds,
    extra: &[u32],
    ends: &BTreeSet<u32>,
) -> Result<Graph, Refusal> {
    let mut decoded = explore(image, bounds, extra, ends)?;
    match decoded.instructions.get(&bounds.start) {
        Some(first) if !first.is_invalid() => {}
        _ => return Err(Refusal::NoCode),
    }
    let stubs = hub::stubs(image, decoded.instructions.values());
    let mut builder =
        Builder { nodes: vec![node(Body::Entry { at: bounds.start })], at: BTreeMap::new(), hub: None };
    let leaders: Vec<u32> =
        decoded.leaders.iter().copied().filter(|at| decoded.instructions.contains_key(at)).collect();
    for leader in &leaders {
        builder.at.insert(*leader, builder.nodes.len());
        builder.nodes.push(node(Body::Code { start: *leader, instructions: Vec::new() }));
    }
    let targets: Vec<u32> = decoded.targets.iter().copied().take(hub::MAX_TARGETS).collect();
    if !decoded.scattered.is_empty() && !targets.is_empty() {
        builder.add_hub(&targets);
    }
    for leader in &leaders {
        builder.fill(*leader, &mut decoded, ends);
    }
    let arrive = builder.push(Body::Arrive, vec![builder.at[&bounds.start]]);
    builder.nodes[0].successors = vec![arrive];
    let hub = builder.hub.map(|hub| (hub, targets));
    let mut graph = Graph { nodes: builder.nodes, entries: vec![bounds.start], last_entry: 0, hub, stubs };
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
    hub: Option<usize>,
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

    fn push(&mut self, body: Body, successors: Vec<usize>) -> usize {
        self.nodes.push(Node { body, successors, table: None });
        self.nodes.len() - 1
    }

    /// The hub, the landings that it chooses from, and the way outside.
    fn add_hub(&mut self, targets: &[u32]) {
        let outside = self.push(Body::Elsewhere, Vec::new());
        let (scatter, slots) = hub::scatter(targets);
        let mut successors: Vec<usize> = Vec::with_capacity(slots.len() + 1);
        for slot in slots {
            let mut next = outside;
            for at in slot {
                let target = self.target(at);
                next = self.push(Body::Landing { at }, vec![target, next]);
            }
            successors.push(next);
        }
        successors.push(outside);
        self.hub = Some(self.push(Body::Hub(scatter), successors));
    }

    fn fill(&mut self, leader: u32, decoded: &mut Decoded, ends: &BTreeSet<u32>) {
        let mut list = Vec::new();
        let mut at = leader;
        let (successors, table) = loop {
            let Some(instruction) = decoded.instructions.get(&at) else {
                break (vec![self.target(at)], None);
            };
            list.push(*instruction);
            let next = instruction.next_ip() as u32;
            match flow(instruction) {
                Flow::Next if ends.contains(&at) => break (Vec::new(), None),
                Flow::Next if decoded.leaders.contains(&next) => break (vec![self.target(next)], None),
                Flow::Next => at = next,
                Flow::Jump(target) => break (vec![self.target(target)], None),
                Flow::Branch(target) => break (vec![self.target(target), self.target(next)], None),
                Flow::Leave => match decoded.tables.remove(&at) {
                    Some(table) => {
                        let targets = table.targets.iter().map(|at| self.target(*at)).collect();
                        break (targets, Some(table));
                    }
                    None if decoded.scattered.contains(&at) => {
                        break (self.hub.into_iter().collect(), None);
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
