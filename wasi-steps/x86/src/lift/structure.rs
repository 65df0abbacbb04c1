//! Writes a reducible graph as structured control flow.
//!
//! Follows Ramsey, *Beyond Relooper* (ICFP 2022): a node's children in the dominator tree are written inside it, those that
//! several forward edges reach each behind a block of their own, and a loop header opens a loop. The recursion of the paper is a
//! stack of tasks here, because compiled code nests deeply.

use wasm_encoder::Instruction as Wasm;

use super::emit::{Emitter, Label};
use super::graph::Shape;
use super::ir::{Callee, End, Expr, IrNode};

/// What is left to write.
#[derive(Debug)]
enum Task {
    Tree(usize),
    Body(usize),
    /// The edge from a node to another.
    Edge(usize, usize),
    Else,
    Close,
}

struct Writer<'a, 'b> {
    nodes: &'a [IrNode],
    shape: &'a Shape,
    /// Children in the dominator tree that several forward edges reach; the last in the order first.
    merges: Vec<Vec<usize>>,
    is_merge: Vec<bool>,
    tasks: Vec<Task>,
    emitter: &'a mut Emitter<'b>,
}

/// Writes the whole function but for what is behind its leave block.
pub(crate) fn write(nodes: &[IrNode], shape: &Shape, emitter: &mut Emitter<'_>) {
    let mut is_merge = vec![false; nodes.len()];
    let mut merges = vec![Vec::new(); nodes.len()];
    for node in shape.order.iter().rev() {
        let forward = shape.predecessors[*node].iter().filter(|from| !shape.is_back_edge(**from, *node));
        if forward.count() > 1 {
            is_merge[*node] = true;
            merges[shape.dominator[*node]].push(*node);
        }
    }
    let mut writer = Writer { nodes, shape, merges, is_merge, tasks: vec![Task::Tree(0)], emitter };
    while let Some(task) = writer.tasks.pop() {
        match task {
            Task::Tree(node) => writer.tree(node),
            Task::Body(node) => writer.body(node),
            Task::Edge(from, to) => writer.edge(from, to),
            Task::Else => writer.emitter.op(&Wasm::Else),
            Task::Close => writer.emitter.close(),
        }
    }
}

impl Writer<'_, '_> {
    fn tree(&mut self, node: usize) {
        if self.shape.is_header[node] {
            self.emitter.open(Label::Loop(node));
            self.tasks.push(Task::Close);
        }
        for merge in std::mem::take(&mut self.merges[node]) {
            self.emitter.open(Label::Before(merge));
            self.tasks.push(Task::Tree(merge));
            self.tasks.push(Task::Close);
        }
        self.tasks.push(Task::Body(node));
    }

    fn body(&mut self, index: usize) {
        let nodes = self.nodes;
        let node = &nodes[index];
        for statement in &node.statements {
            self.emitter.statement(statement);
        }
        match &node.end {
            End::Jump(to) => self.tasks.push(Task::Edge(index, *to)),
            End::Branch(condition, taken, next) => self.branch(index, condition, *taken, *next),
            End::Switch(value, targets, outside) => {
                self.switch(index, value, targets, outside.as_ref(), node.spill);
            }
            End::Return(target) => self.emitter.return_to(*target, node.spill),
            End::Tail(callee) => self.emitter.tail(callee, node.spill),
        }
    }

    /// The label of an edge that is a plain branch.
    fn label(&self, from: usize, to: usize) -> Option<Label> {
        if self.shape.is_back_edge(from, to) {
            Some(Label::Loop(to))
        } else {
            self.is_merge[to].then_some(Label::Before(to))
        }
    }

    fn edge(&mut self, from: usize, to: usize) {
        match self.label(from, to) {
            Some(label) => {
                let depth = self.emitter.depth_of(label);
                self.emitter.op(&Wasm::Br(depth));
            }
            None => self.tree(to),
        }
    }

    fn branch(&mut self, from: usize, condition: &Expr, taken: usize, next: usize) {
        self.emitter.expression(condition);
        if let Some(label) = self.label(from, taken) {
            let depth = self.emitter.depth_of(label);
            self.emitter.op(&Wasm::BrIf(depth));
            self.tasks.push(Task::Edge(from, next));
        } else if let Some(label) = self.label(from, next) {
            let depth = self.emitter.depth_of(label);
            self.emitter.op(&Wasm::I32Eqz);
            self.emitter.op(&Wasm::BrIf(depth));
            self.tasks.push(Task::Edge(from, taken));
        } else {
            self.emitter.open(Label::Other);
            self.tasks.extend([Task::Close, Task::Edge(from, next), Task::Else, Task::Edge(from, taken)]);
        }
    }

    /// Nodes that only this switch reaches are written behind blocks of their own, like merges.
    fn switch(&mut self, from: usize, value: &Expr, targets: &[usize], outside: Option<&Callee>, spill: u32) {
        let mut own: Vec<usize> =
            targets.iter().copied().filter(|to| self.label(from, *to).is_none()).collect();
        own.sort_unstable();
        own.dedup();
        for to in &own {
            self.emitter.open(Label::Before(*to));
        }
        let outer = outside.map(|_| self.emitter.open(Label::Before(usize::MAX)));
        self.emitter.expression(value);
        let mut depths: Vec<u32> = targets
            .iter()
            .map(|to| {
                let label = self.label(from, *to).unwrap_or(Label::Before(*to));
                self.emitter.depth_of(label)
            })
            .collect();
        let default = match outer {
            Some(()) => 0,
            None => depths.pop().unwrap_or(0),
        };
        self.emitter.op(&Wasm::BrTable(depths.into(), default));
        if let Some(callee) = outside {
            self.emitter.close();
            self.emitter.tail(callee, spill);
        }
        for to in own {
            self.tasks.push(Task::Tree(to));
            self.tasks.push(Task::Close);
        }
    }
}
