//! The shape of the graph: order, dominators, loops, and the cure for loops with several entries.
//!
//! Structured control flow needs every loop to have one entry. Compiled code nearly always has that; where it does
//! not, [`make_reducible`] gives the loop a dispatch node as its only entry, and every branch to one of the old entries
//! says first, in a variable, which one it means.

use super::cfg::{Body, Graph, node};

/// Order and dominators of the nodes that are reachable.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Reverse postorder.
    pub(crate) order: Vec<usize>,
    /// Place in the order; `usize::MAX` for what is not reachable.
    pub(crate) number: Vec<usize>,
    /// Immediate dominators; the entry is its own.
    pub(crate) dominator: Vec<usize>,
    pub(crate) predecessors: Vec<Vec<usize>>,
    /// Whether a back edge leads to the node.
    pub(crate) is_header: Vec<bool>,
}

impl Shape {
    pub(crate) fn of(graph: &Graph) -> Self {
        let count = graph.nodes.len();
        let order = reverse_postorder(graph);
        let mut number = vec![usize::MAX; count];
        for (place, node) in order.iter().enumerate() {
            number[*node] = place;
        }
        let mut predecessors = vec![Vec::new(); count];
        for from in &order {
            for to in &graph.nodes[*from].successors {
                predecessors[*to].push(*from);
            }
        }
        let dominator = dominators(&order, &number, &predecessors);
        let mut shape = Self { order, number, dominator, predecessors, is_header: vec![false; count] };
        for from in &shape.order {
            for to in &graph.nodes[*from].successors {
                if shape.number[*to] <= shape.number[*from] {
                    shape.is_header[*to] = true;
                }
            }
        }
        shape
    }

    /// How many loops a node is in.
    pub(crate) fn depth(&self, node: usize) -> usize {
        let mut depth = 0;
        let mut at = node;
        loop {
            depth += usize::from(self.is_header[at] && self.members(at)[node]);
            let up = self.dominator[at];
            if up == at || up == usize::MAX {
                return depth;
            }
            at = up;
        }
    }

    /// The nodes of a header's loop: what leads to its back edges without passing it.
    pub(crate) fn members(&self, header: usize) -> Vec<bool> {
        let mut members = vec![false; self.number.len()];
        members[header] = true;
        let mut work: Vec<usize> = self.predecessors[header]
            .iter()
            .copied()
            .filter(|from| self.is_back_edge(*from, header))
            .collect();
        while let Some(at) = work.pop() {
            if !std::mem::replace(&mut members[at], true) {
                work.extend(&self.predecessors[at]);
            }
        }
        members
    }

    /// Whether the edge goes backward in the order.
    pub(crate) fn is_back_edge(&self, from: usize, to: usize) -> bool {
        self.number[to] <= self.number[from]
    }
}

fn reverse_postorder(graph: &Graph) -> Vec<usize> {
    let mut seen = vec![false; graph.nodes.len()];
    let mut order = Vec::new();
    let mut stack = vec![(0, 0)];
    seen[0] = true;
    while let Some((node, next)) = stack.last_mut() {
        match graph.nodes[*node].successors.get(*next) {
            Some(successor) => {
                *next += 1;
                if !seen[*successor] {
                    seen[*successor] = true;
                    stack.push((*successor, 0));
                }
            }
            None => {
                order.push(*node);
                stack.pop();
            }
        }
    }
    order.reverse();
    order
}

/// Immediate dominators by the iteration of Cooper, Harvey and Kennedy.
fn dominators(order: &[usize], number: &[usize], predecessors: &[Vec<usize>]) -> Vec<usize> {
    let mut dominator = vec![usize::MAX; number.len()];
    dominator[order[0]] = order[0];
    let mut changed = true;
    while changed {
        changed = false;
        for node in &order[1..] {
            let mut best = usize::MAX;
            for predecessor in &predecessors[*node] {
                if dominator[*predecessor] == usize::MAX {
                    continue;
                }
                let (mut a, mut b) = (*predecessor, best);
                while b != usize::MAX && a != b {
                    if number[a] > number[b] {
                        a = dominator[a];
                    } else {
                        b = dominator[b];
                    }
                }
                best = a;
            }
            if best != dominator[*node] {
                dominator[*node] = best;
                changed = true;
            }
        }
    }
    dominator
}

/// Gives every loop one entry. Returns the headers of the outermost loops.
pub(crate) fn make_reducible(graph: &mut Graph) -> Vec<usize> {
    let mut outermost = Vec::new();
    let mut work = vec![((0..graph.nodes.len()).collect::<Vec<_>>(), true)];
    while let Some((part, is_top)) = work.pop() {
        for component in components(graph, &part) {
            let (header, inner) = single_entry(graph, component);
            if is_top {
                outermost.push(header);
            }
            work.push((inner, false));
        }
    }
    outermost
}

/// Makes the loop's entry one node; that node and the rest of the loop.
fn single_entry(graph: &mut Graph, component: Vec<usize>) -> (usize, Vec<usize>) {
    let mut is_inside = vec![false; graph.nodes.len()];
    for node in &component {
        is_inside[*node] = true;
    }
    let mut is_entry = vec![false; graph.nodes.len()];
    for (from, node) in graph.nodes.iter().enumerate() {
        for to in &node.successors {
            is_entry[*to] |= is_inside[*to] && !is_inside[from];
        }
    }
    let entries: Vec<usize> = component.iter().copied().filter(|node| is_entry[*node]).collect();
    let mut inner = component;
    let header = match entries[..] {
        // Nothing leads into the loop: any of its nodes will do.
        [] => inner[0],
        [header] => header,
        _ => {
            let dispatch = graph.nodes.len();
            graph.nodes.push(node(Body::Dispatch(dispatch as u32)));
            for (from, from_inside) in is_inside.iter().enumerate() {
                for edge in 0..graph.nodes[from].successors.len() {
                    let to = graph.nodes[from].successors[edge];
                    let Some(index) = entries.iter().position(|entry| *entry == to) else { continue };
                    let choose = graph.nodes.len();
                    let mut chosen = node(Body::Choose { dispatch: dispatch as u32, index: index as u32 });
                    chosen.successors.push(dispatch);
                    graph.nodes.push(chosen);
                    graph.nodes[from].successors[edge] = choose;
                    if *from_inside {
                        inner.push(choose);
                    }
                }
            }
            graph.nodes[dispatch].successors = entries;
            dispatch
        }
    };
    inner.retain(|node| *node != header);
    (header, inner)
}

/// The strongly connected components of the nodes of `part` that are loops (Tarjan, without recursion).
fn components(graph: &Graph, part: &[usize]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let count = graph.nodes.len();
    let (mut is_part, mut index, mut low) = (vec![false; count], vec![NEW; count], vec![0; count]);
    let (mut on_stack, mut stack, mut found) = (vec![false; count], Vec::new(), Vec::new());
    for node in part {
        is_part[*node] = true;
    }
    let mut next_index = 0;
    for root in part {
        if index[*root] != NEW {
            continue;
        }
        let mut calls = vec![(*root, 0)];
        while let Some((node, edge)) = calls.last_mut() {
            let node = *node;
            if *edge == 0 {
                index[node] = next_index;
                low[node] = next_index;
                next_index += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            match graph.nodes[node].successors.get(*edge) {
                Some(to) => {
                    *edge += 1;
                    if !is_part[*to] {
                    } else if index[*to] == NEW {
                        calls.push((*to, 0));
                    } else if on_stack[*to] {
                        low[node] = low[node].min(index[*to]);
                    }
                }
                None => {
                    calls.pop();
                    if let Some((caller, _)) = calls.last() {
                        low[*caller] = low[*caller].min(low[node]);
                    }
                    if low[node] == index[node] {
                        let at = stack.iter().rposition(|other| *other == node).unwrap_or(0);
                        let component = stack.split_off(at);
                        for member in &component {
                            on_stack[*member] = false;
                        }
                        if component.len() > 1 || graph.nodes[node].successors.contains(&node) {
                            found.push(component);
                        }
                    }
                }
            }
        }
    }
    found
}
