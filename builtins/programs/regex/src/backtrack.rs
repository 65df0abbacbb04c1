//! A matcher for expressions with back references.

use regex_syntax::hir::Look;

use crate::Span;
use crate::parse::{Node, contains};

/// Steps after which a search gives up: the time of such expressions grows without bound.
const MOST_STEPS: u64 = 50_000_000;

struct Matcher<'a> {
    text: &'a [u8],
    spans: Vec<Option<Span>>,
    steps: u64,
}

/// What must match after a node: the rest of the work as a list.
enum Rest<'a> {
    Done,
    Sequence(&'a [Node], &'a Rest<'a>),
    Close(usize, usize, &'a Rest<'a>),
    Again(&'a Node, u32, Option<u32>, usize, &'a Rest<'a>),
}

pub(crate) fn find(
    node: &Node,
    text: &[u8],
    start: usize,
    groups: usize,
    spans: &mut Vec<Option<Span>>,
) -> bool {
    let mut matcher = Matcher { text, spans: vec![None; groups + 1], steps: 0 };
    for at in start..=text.len() {
        matcher.spans.fill(None);
        if let Some(end) = matcher.node(node, at, &Rest::Done) {
            matcher.spans[0] = Some((at, end));
            spans.extend_from_slice(&matcher.spans);
            return true;
        }
    }
    false
}

fn word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

impl Matcher<'_> {
    fn rest(&mut self, at: usize, rest: &Rest<'_>) -> Option<usize> {
        match rest {
            Rest::Done => Some(at),
            Rest::Sequence(nodes, rest) => self.sequence(nodes, at, rest),
            Rest::Close(group, from, rest) => {
                let before = self.spans[*group].replace((*from, at));
                let end = self.rest(at, rest);
                if end.is_none() {
                    self.spans[*group] = before;
                }
                end
            }
            // A round that matched nothing would go on for ever.
            Rest::Again(_, least, _, from, rest) if *from == at && *least == 0 => self.rest(at, rest),
            Rest::Again(node, least, most, _, rest) => self.repeat(node, *least, *most, at, rest),
        }
    }

    fn repeat(
        &mut self,
        node: &Node,
        least: u32,
        most: Option<u32>,
        at: usize,
        rest: &Rest<'_>,
    ) -> Option<usize> {
        // A run of single bytes needs no stack.
        if let Node::Set(set) = node {
            let most = most.map_or(usize::MAX, |most| most as usize);
            let run = self.text[at..].iter().take(most).take_while(|&&byte| contains(set, byte)).count();
            return (least as usize..=run).rev().find_map(|count| self.rest(at + count, rest));
        }
        if most != Some(0) {
            let again = Rest::Again(node, least.saturating_sub(1), most.map(|most| most - 1), at, rest);
            if let Some(end) = self.node(node, at, &again) {
                return Some(end);
            }
        }
        if least == 0 { self.rest(at, rest) } else { None }
    }

    fn node(&mut self, node: &Node, at: usize, rest: &Rest<'_>) -> Option<usize> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return None;
        }
        match node {
            Node::Empty => self.rest(at, rest),
            Node::Set(set) if self.text.get(at).is_some_and(|&byte| contains(set, byte)) => {
                self.rest(at + 1, rest)
            }
            Node::Set(_) => None,
            Node::Look(look) if self.look(*look, at) => self.rest(at, rest),
            Node::Look(_) => None,
            Node::Group(group, inside) => self.node(inside, at, &Rest::Close(*group, at, rest)),
            Node::Sequence(nodes) => self.sequence(nodes, at, rest),
            Node::Either(nodes) => nodes.iter().find_map(|node| self.node(node, at, rest)),
            Node::Repeat(inside, least, most) => self.repeat(inside, *least, *most, at, rest),
            Node::Back(group) => {
                let (from, to) = self.spans[*group]?;
                let length = to - from;
                if self.text.get(at..at + length) == Some(&self.text[from..to]) {
                    self.rest(at + length, rest)
                } else {
                    None
                }
            }
        }
    }

    fn sequence(&mut self, nodes: &[Node], at: usize, rest: &Rest<'_>) -> Option<usize> {
        match nodes {
            [] => self.rest(at, rest),
            [node] => self.node(node, at, rest),
            [node, after @ ..] => self.node(node, at, &Rest::Sequence(after, rest)),
        }
    }

    fn look(&self, look: Look, at: usize) -> bool {
        let before = at.checked_sub(1).and_then(|before| self.text.get(before));
        let after = self.text.get(at);
        match look {
            Look::Start => at == 0,
            Look::End => at == self.text.len(),
            Look::StartLF => before.is_none_or(|&byte| byte == b'\n'),
            Look::EndLF => after.is_none_or(|&byte| byte == b'\n'),
            Look::WordAscii => word(before) != word(after),
            Look::WordAsciiNegate => word(before) == word(after),
            Look::WordStartAscii => !word(before) && word(after),
            _ => word(before) && !word(after),
        }
    }
}
