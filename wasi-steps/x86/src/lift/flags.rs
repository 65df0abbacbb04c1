//! Which arithmetic flags matter, and which instruction set them.
//!
//! A sixth of all instructions write flags and few of these writes are ever looked at. A backward pass finds the flags
//! that are live behind every instruction; a forward pass finds, for every flag and place, the one instruction that set
//! it, or that several did. A reader with one setter computes its condition from the setter's operands, which are
//! kept for it; where several setters meet, each of them writes the flag to the flag's own variable.
//!
//! Flags are dead at calls and returns. A function that looks at flags which its caller left is refused; where code behind a call
//! looks at flags, the call is most likely one that does not return, and the function ends there. A
//! branch out of the function keeps the flags that the code there looks at first.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use super::cfg::{Body, Graph};
use super::graph::Shape;
use super::{CodeImage, Refusal};
use crate::state::flag;

/// The arithmetic flags, in the order of their variables.
pub(crate) const ALL: [u64; 6] = [flag::CF, flag::PF, flag::AF, flag::ZF, flag::SF, flag::OF];
pub(crate) const CF: usize = 0;
pub(crate) const PF: usize = 1;
pub(crate) const AF: usize = 2;
pub(crate) const ZF: usize = 3;
pub(crate) const SF: usize = 4;
pub(crate) const OF: usize = 5;
/// All of them as a [`Set`].
pub(crate) const EVERY: Set = 0x3f;

/// A set of flags: bit n for the n-th of [`ALL`].
pub(crate) type Set = u8;

/// The members of a set.
pub(crate) fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..6).filter(move |n| set >> n & 1 != 0)
}

/// The set as bits of RFLAGS.
pub(crate) fn bits(set: Set) -> u64 {
    members(set).fold(0, |all, n| all | ALL[n])
}

fn set(iced: u32) -> Set {
    [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ]
    .iter()
    .filter(|(bit, _)| iced & bit != 0)
    .fold(0, |all, (_, n)| all | 1 << n)
}

/// What an instruction does with flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Looked at; also those that it may leave as they were after all.
    pub(crate) reads: Set,
    /// Written, be it with something undefined.
    pub(crate) writes: Set,
}

pub(crate) fn effect(instruction: &Instruction) -> Effect {
    let mut effect =
        Effect { reads: set(instruction.rflags_read()), writes: set(instruction.rflags_modified()) };
    match instruction.flow_control() {
        FlowControl::Call | FlowControl::IndirectCall if !is_system_call(instruction) => {
            return Effect { reads: 0, writes: EVERY };
        }
        _ => {}
    }
    if is_system_call(instruction) {
        return Effect::default();
    }
    let last = instruction.op_count().wrapping_sub(1);
    let by_register = instruction.op_count() > 1 && instruction.op_kind(last) == OpKind::Register;
    match instruction.mnemonic() {
        Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Sal
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shld
        | Mnemonic::Shrd => {
            if by_register && instruction.op_register(last) == Register::CL {
                effect.reads |= effect.writes;
            } else if count_is_zero(instruction, last) {
                effect = Effect::default();
            } else if matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr) {
                // A full turn leaves the operand as it was, but not the flags.
                effect.writes |= 1 << CF | 1 << OF;
            }
        }
        _ if instruction.is_string_instruction() => effect.reads |= effect.writes,
        _ => {}
    }
    effect
}

fn count_is_zero(instruction: &Instruction, last: u32) -> bool {
    let is_wide = instruction.op0_register().size() == 8
        || instruction.op0_kind() == OpKind::Memory && instruction.memory_size().size() == 8;
    instruction.immediate(last) & if is_wide { 63 } else { 31 } == 0
}

pub(crate) fn is_system_call(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Syscall
}

/// Flags that the code at a unit address looks at before it sets them, as far as a short look shows.
fn looked_at(image: &dyn CodeImage, at: u32) -> Set {
    let code = image.code(at);
    let mut decoder = Decoder::with_ip(64, &code[..code.len().min(64)], at.into(), DecoderOptions::NONE);
    let (mut read, mut written) = (0, 0);
    while decoder.can_decode() && written != EVERY {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        let effect = effect(&instruction);
        read |= effect.reads & !written;
        written |= effect.writes;
        if !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch) {
            break;
        }
    }
    read
}

/// Who set a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody within the function.
    Nobody,
    /// The instruction with this number.
    One(u32),
    /// Several, whose paths meet at this node; the flag is in its variable.
    Several(u32),
}

/// What becomes of the flags that an instruction sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Flags that somebody takes from this instruction alone.
    pub(crate) alone: Set,
    /// Flags that have to be in their variables.
    pub(crate) shared: Set,
    /// Whether another node looks.
    pub(crate) is_global: bool,
}

impl Wanted {
    pub(crate) fn any(self) -> Set {
        self.alone | self.shared
    }
}

/// What is known of one instruction beforehand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fact {
    pub(crate) effect: Effect,
    /// Whether the interpreter may have to run it.
    pub(crate) may_step: bool,
    pub(crate) is_call: bool,
}

/// The result of both passes.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    /// Number of the first instruction of each node.
    pub(crate) first: Vec<u32>,
    /// By instruction.
    pub(crate) wanted: Vec<Wanted>,
    /// Flags live behind each instruction.
    pub(crate) live: Vec<Set>,
    /// Flags live at the start of each node.
    pub(crate) live_in: Vec<Set>,
    /// Who set the flags at the start of each node.
    pub(crate) sources: Vec<[Source; 6]>,
    pub(crate) facts: Vec<Fact>,
    /// Calls behind which flags are looked at, so that what is there cannot be part of this function.
    across: Vec<u32>,
}

/// Flags that are live at the start of each node.
pub(crate) fn live_in(image: &dyn CodeImage, graph: &Graph, shape: &Shape, facts: &[Vec<Fact>]) -> Vec<Set> {
    let mut live = vec![0; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        if let Body::Outside(at) = node.body {
            live[index] = looked_at(image, at);
        }
    }
    let mut changed = true;
    while changed {
        changed = false;
        for node in shape.order.iter().rev() {
            let out = graph.nodes[*node].successors.iter().fold(0, |all, to| all | live[*to]);
            let before = facts[*node].iter().rev().fold(out, backward) | live[*node];
            changed |= before != live[*node];
            live[*node] = before;
        }
    }
    live
}

fn backward(after: Set, fact: &Fact) -> Set {
    after & !fact.effect.writes | fact.effect.reads
}

/// Runs both passes. `looks` says at which nodes' starts the live flags have to be known exactly.
pub(crate) fn analyse(
    image: &dyn CodeImage,
    graph: &Graph,
    shape: &Shape,
    facts: Vec<Vec<Fact>>,
    looks: &[bool],
) -> Result<Flags, Refusal> {
    let live_in = live_in(image, graph, shape, &facts);
    if live_in[0] != 0 {
        return Err(Refusal::FlagsAtEntry);
    }
    let mut first = Vec::with_capacity(facts.len());
    let mut live = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        first.push(live.len() as u32);
        let mut after = node.successors.iter().fold(0, |all, to| all | live_in[*to]);
        let from = live.len();
        for fact in facts[index].iter().rev() {
            live.push(after);
            after = backward(after, fact);
        }
        live[from..].reverse();
    }
    let sources = reach(shape, &facts, &first);
    let facts: Vec<Fact> = facts.into_iter().flatten().collect();
    let wanted = vec![Wanted::default(); facts.len()];
    let mut flags = Flags { first, wanted, live, live_in, sources, facts, across: Vec::new() };
    for node in &shape.order {
        flags.use_in(graph, shape, *node, looks[*node])?;
    }
    Ok(flags)
}

/// The setters that reach the start of each node.
fn reach(shape: &Shape, facts: &[Vec<Fact>], first: &[u32]) -> Vec<[Source; 6]> {
    let last: Vec<[Option<u32>; 6]> = facts
        .iter()
        .zip(first)
        .map(|(facts, first)| {
            let mut last = [None; 6];
            for (number, fact) in (*first..).zip(facts) {
                members(fact.effect.writes).for_each(|n| last[n] = Some(number));
            }
            last
        })
        .collect();
    let mut sources = vec![[Source::Nobody; 6]; facts.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for node in &shape.order {
            for n in 0..6 {
                let mut met = sources[*node][n];
                if met == Source::Several(*node as u32) {
                    continue;
                }
                for from in &shape.predecessors[*node] {
                    let out = last[*from][n].map_or(sources[*from][n], Source::One);
                    met = match (met, out) {
                        (met, Source::Nobody) => met,
                        (Source::Nobody, out) => out,
                        (met, out) if met == out => met,
                        _ => Source::Several(*node as u32),
                    };
                }
                changed |= met != sources[*node][n];
                sources[*node][n] = met;
            }
        }
    }
    sources
}

impl Flags {
    /// The unit addresses of the calls behind which flags are looked at.
    pub(crate) fn across_calls(&self, graph: &Graph) -> BTreeSet<u32> {
        let address = |number: &u32| {
            let node = self.first.partition_point(|first| first <= number).checked_sub(1)?;
            let Body::Code { instructions, .. } = &graph.nodes[node].body else { return None };
            Some(instructions.get((number - self.first[node]) as usize)?.ip() as u32)
        };
        self.across.iter().filter_map(address).collect()
    }

    fn use_in(&mut self, graph: &Graph, shape: &Shape, node: usize, looks: bool) -> Result<(), Refusal> {
        let count = self.count(graph, node);
        let mut current = self.sources[node];
        if looks || matches!(graph.nodes[node].body, Body::Outside(_)) {
            self.want(graph, shape, node, &current, self.live_in[node])?;
        }
        for number in self.first[node]..self.first[node] + count {
            let fact = self.facts[number as usize];
            let mut reads = fact.effect.reads;
            if fact.may_step {
                reads |= self.live[number as usize] & !fact.effect.writes;
            }
            self.want(graph, shape, node, &current, reads)?;
            members(fact.effect.writes).for_each(|n| current[n] = Source::One(number));
        }
        Ok(())
    }

    pub(crate) fn count(&self, graph: &Graph, node: usize) -> u32 {
        match &graph.nodes[node].body {
            Body::Code { instructions, .. } => instructions.len() as u32,
            _ => 0,
        }
    }

    fn want(
        &mut self,
        graph: &Graph,
        shape: &Shape,
        node: usize,
        current: &[Source; 6],
        set: Set,
    ) -> Result<(), Refusal> {
        for n in members(set) {
            match current[n] {
                Source::Nobody => return Err(Refusal::FlagsAtEntry),
                Source::One(number) => {
                    if self.facts[number as usize].is_call {
                        self.across.push(number);
                    }
                    let is_global =
                        !(self.first[node]..self.first[node] + self.count(graph, node)).contains(&number);
                    let wanted = &mut self.wanted[number as usize];
                    wanted.alone |= 1 << n;
                    wanted.is_global |= is_global;
                }
                Source::Several(at) => self.want_shared(shape, at as usize, n)?,
            }
        }
        Ok(())
    }

    /// Has every setter that reaches the start of `node` write the flag's variable.
    fn want_shared(&mut self, shape: &Shape, node: usize, n: usize) -> Result<(), Refusal> {
        let mut work = vec![node];
        let mut seen = vec![false; self.sources.len()];
        while let Some(node) = work.pop() {
            if std::mem::replace(&mut seen[node], true) {
                continue;
            }
            for from in &shape.predecessors[node] {
                let end = self.first.get(from + 1).copied().unwrap_or(self.facts.len() as u32);
                let setter = (self.first[*from]..end)
                    .rev()
                    .find(|number| self.facts[*number as usize].effect.writes >> n & 1 != 0);
                match setter.map_or(self.sources[*from][n], Source::One) {
                    Source::One(number) if self.facts[number as usize].is_call => self.across.push(number),
                    Source::One(number) => self.wanted[number as usize].shared |= 1 << n,
                    Source::Several(at) => work.push(at as usize),
                    Source::Nobody => {}
                }
            }
        }
        Ok(())
    }
}
