//! From the text of an expression to its tree, and from there to the engine's form.

use regex_syntax::hir::{Capture, Class, ClassBytes, ClassBytesRange, Hir, Look, Repetition};
use toolbox_command::pattern::in_class;

use crate::{Flags, Syntax};

/// A set of bytes, one bit each.
pub(crate) type Set = [u64; 4];

/// A part of an expression.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Empty,
    Set(Set),
    Look(Look),
    Group(usize, Box<Node>),
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
    Back(usize),
}

/// Most repetitions of an interval, as in glibc.
const MOST_REPEATS: u32 = 32767;
/// Deepest nesting of groups: the parser calls itself.
const DEEPEST: usize = 250;

fn set(holds: impl Fn(u8) -> bool) -> Set {
    let mut set = [0; 4];
    for byte in 0..=255u8 {
        if holds(byte) {
            set[usize::from(byte) / 64] |= 1 << (byte % 64);
        }
    }
    set
}

pub(crate) fn contains(set: &Set, byte: u8) -> bool {
    set[usize::from(byte) / 64] >> (byte % 64) & 1 != 0
}

/// A byte that stands for itself.
pub(crate) fn literal(byte: u8, caseless: bool) -> Node {
    Node::Set(set(|other| if caseless { other.eq_ignore_ascii_case(&byte) } else { other == byte }))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

struct Parser<'a> {
    rest: &'a [u8],
    syntax: Syntax,
    flags: Flags,
    groups: &'a mut usize,
    /// Groups that are closed, which a back reference may name.
    closed: Vec<usize>,
    base: usize,
    depth: usize,
}

pub(crate) fn parse(
    pattern: &[u8],
    syntax: Syntax,
    flags: Flags,
    groups: &mut usize,
) -> Result<Node, String> {
    let base = *groups;
    let mut parser = Parser { rest: pattern, syntax, flags, groups, closed: Vec::new(), base, depth: 0 };
    let node = parser.either()?;
    if parser.rest.is_empty() { Ok(node) } else { Err("Unmatched ) or \\)".into()) }
}

impl<'a> Parser<'a> {
    /// Takes an operator that the syntax writes with or without a backslash.
    fn take(&mut self, operator: u8) -> bool {
        let rest = match (self.syntax, self.rest) {
            (Syntax::Extended, [byte, rest @ ..]) if *byte == operator => rest,
            (Syntax::Basic, [b'\\', byte, rest @ ..]) if *byte == operator => rest,
            _ => return false,
        };
        self.rest = rest;
        true
    }

    fn sees(&self, operator: u8) -> bool {
        match self.syntax {
            Syntax::Extended => self.rest.first() == Some(&operator),
            Syntax::Basic => self.rest.starts_with(&[b'\\', operator]),
        }
    }

    fn either(&mut self) -> Result<Node, String> {
        let mut branches = vec![self.sequence()?];
        while self.take(b'|') {
            branches.push(self.sequence()?);
        }
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Either(branches) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut parts = Vec::new();
        while !self.rest.is_empty() && !self.sees(b'|') {
            if self.sees(b')') {
                // In an extended expression a lone `)` is itself.
                if self.depth > 0 || self.syntax == Syntax::Basic {
                    break;
                }
                self.take(b')');
                parts.push(literal(b')', false));
                continue;
            }
            let first = parts.is_empty()
                || matches!(parts.last(), Some(Node::Look(Look::Start | Look::StartLF)) if parts.len() == 1);
            let atom = self.atom(first)?;
            parts.push(self.repeated(atom)?);
        }
        Ok(match parts.len() {
            0 => Node::Empty,
            1 => parts.remove(0),
            _ => Node::Sequence(parts),
        })
    }

    fn repeated(&mut self, atom: Node) -> Result<Node, String> {
        let mut atom = atom;
        loop {
            let (least, most) = if let [b'*', rest @ ..] = self.rest {
                self.rest = rest;
                (0, None)
            } else if self.take(b'+') {
                (1, None)
            } else if self.take(b'?') {
                (0, Some(1))
            } else if self.sees(b'{') {
                match self.interval()? {
                    Some(bounds) => bounds,
                    None => return Ok(atom),
                }
            } else {
                return Ok(atom);
            };
            // An assertion that is repeated is an assertion, or none at all.
            atom = match atom {
                Node::Look(_) if least == 0 => Node::Empty,
                Node::Look(look) => Node::Look(look),
                other => Node::Repeat(Box::new(other), least, most),
            };
        }
    }

    /// Reads `{m,n}`; `None` if the brace of an extended expression begins no interval.
    fn interval(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let before = self.rest;
        self.take(b'{');
        let mut number = || {
            let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let text = std::str::from_utf8(&self.rest[..count]).unwrap_or_default().to_owned();
            self.rest = &self.rest[count..];
            text
        };
        let low = number();
        let mut high = None;
        if let [b',', rest @ ..] = self.rest {
            self.rest = rest;
            let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            high = Some(std::str::from_utf8(&self.rest[..count]).unwrap_or_default().to_owned());
            self.rest = &self.rest[count..];
        }
        let valid = (!low.is_empty() || high.is_some()) && self.take(b'}');
        if !valid {
            if self.syntax == Syntax::Extended {
                self.rest = before;
                return Ok(None);
            }
            let message = if self.rest.is_empty() { "Unmatched \\{" } else { "Invalid content of \\{\\}" };
            return Err(message.into());
        }
        let bound = |text: &str| text.parse::<u32>().ok().filter(|&bound| bound <= MOST_REPEATS);
        let wrong = || "Regular expression too big".to_owned();
        let least = if low.is_empty() { 0 } else { bound(&low).ok_or_else(wrong)? };
        let most = match high.as_deref() {
            None => Some(least),
            Some("") => None,
            Some(text) => Some(bound(text).ok_or_else(wrong)?),
        };
        if most.is_some_and(|most| most < least) {
            return Err("Invalid content of \\{\\}".into());
        }
        Ok(Some((least, most)))
    }

    fn start(&self) -> Node {
        Node::Look(if self.flags.lines { Look::StartLF } else { Look::Start })
    }

    fn end(&self) -> Node {
        Node::Look(if self.flags.lines { Look::EndLF } else { Look::End })
    }

    fn atom(&mut self, first: bool) -> Result<Node, String> {
        if self.take(b'(') {
            if self.depth >= DEEPEST {
                return Err("Regular expression too big".into());
            }
            *self.groups += 1;
            let group = *self.groups;
            self.depth += 1;
            let inside = self.either()?;
            self.depth -= 1;
            if !self.take(b')') {
                return Err("Unmatched ( or \\(".into());
            }
            self.closed.push(group);
            return Ok(Node::Group(group, Box::new(inside)));
        }
        let [byte, rest @ ..] = self.rest else { return Ok(Node::Empty) };
        let basic = self.syntax == Syntax::Basic;
        self.rest = rest;
        Ok(match byte {
            b'.' => Node::Set([u64::MAX; 4]),
            b'[' => Node::Set(self.bracket()?),
            b'^' if !basic || first => self.start(),
            b'$' if !basic || rest.is_empty() || self.sees(b')') || self.sees(b'|') => self.end(),
            // Operators with nothing to repeat.
            b'*' if basic && first => literal(b'*', false),
            b'*' | b'+' | b'?' if !basic && first => Node::Empty,
            b'\\' => return self.escape(),
            byte => literal(*byte, self.flags.caseless),
        })
    }

    fn escape(&mut self) -> Result<Node, String> {
        let [letter, rest @ ..] = self.rest else { return Err("Trailing backslash".into()) };
        self.rest = rest;
        let node = match letter {
            b'1'..=b'9' => {
                let group = self.base + usize::from(letter - b'0');
                if !self.closed.contains(&group) {
                    return Err("Invalid back reference".into());
                }
                Node::Back(group)
            }
            b'w' => Node::Set(set(is_word)),
            b'W' => Node::Set(set(|byte| !is_word(byte))),
            b's' => Node::Set(set(|byte| matches!(byte, b' ' | 9..=13))),
            b'S' => Node::Set(set(|byte| !matches!(byte, b' ' | 9..=13))),
            b'b' => Node::Look(Look::WordAscii),
            b'B' => Node::Look(Look::WordAsciiNegate),
            b'<' => Node::Look(Look::WordStartAscii),
            b'>' => Node::Look(Look::WordEndAscii),
            b'`' => Node::Look(Look::Start),
            b'\'' => Node::Look(Look::End),
            _ => {
                let byte = match self.flags.escapes.then(|| control(*letter)).flatten() {
                    Some(byte) => byte,
                    None => *letter,
                };
                literal(byte, self.flags.caseless)
            }
        };
        Ok(node)
    }

    fn bracket(&mut self) -> Result<Set, String> {
        let unmatched = || "Unmatched [, [^, [:, [., or [=".to_owned();
        let negated = self.rest.first() == Some(&b'^');
        if negated {
            self.rest = &self.rest[1..];
        }
        let mut members: Set = [0; 4];
        let mut first = true;
        loop {
            let low = match self.rest {
                [] => return Err(unmatched()),
                [b']', rest @ ..] if !first => {
                    self.rest = rest;
                    break;
                }
                [b'[', b':', rest @ ..] => {
                    let end = rest.windows(2).position(|pair| pair == b":]").ok_or_else(unmatched)?;
                    let class = &rest[..end];
                    in_class(class, 0, false).ok_or("Invalid character class name")?;
                    let caseless = self.flags.caseless;
                    let class = set(|byte| in_class(class, byte, caseless) == Some(true));
                    for (member, word) in members.iter_mut().zip(class) {
                        *member |= word;
                    }
                    self.rest = &rest[end + 2..];
                    first = false;
                    continue;
                }
                _ => self.member().ok_or_else(unmatched)??,
            };
            first = false;
            let high = match self.rest {
                [b'-', next, ..] if *next != b']' => {
                    self.rest = &self.rest[1..];
                    self.member().ok_or_else(unmatched)??
                }
                _ => low,
            };
            if high < low {
                return Err("Invalid range end".into());
            }
            let caseless = self.flags.caseless;
            let range = set(|byte| {
                (low..=high).contains(&byte)
                    || caseless
                        && ((low..=high).contains(&byte.to_ascii_lowercase())
                            || (low..=high).contains(&byte.to_ascii_uppercase()))
            });
            for (member, word) in members.iter_mut().zip(range) {
                *member |= word;
            }
        }
        Ok(if negated { members.map(|word| !word) } else { members })
    }

    /// A byte in brackets, `[.x.]` and `[=x=]` included; `None` at the end.
    fn member(&mut self) -> Option<Result<u8, String>> {
        let (byte, rest) = match self.rest {
            [] => return None,
            [b'[', mark @ (b'.' | b'='), byte, end, b']', rest @ ..] if mark == end => (*byte, rest),
            [b'[', b'.' | b'=', ..] => return Some(Err("Invalid collation character".into())),
            [b'\\', letter, rest @ ..] if self.flags.bracket_escapes => {
                (control(*letter).unwrap_or(*letter), rest)
            }
            [b'\\', letter, rest @ ..]
                if self.flags.escapes && matches!(letter, b'n' | b't' | b'f' | b'v' | b'r' | b'a') =>
            {
                (control(*letter)?, rest)
            }
            [byte, rest @ ..] => (*byte, rest),
        };
        self.rest = rest;
        Some(Ok(byte))
    }
}

fn control(letter: u8) -> Option<u8> {
    Some(match letter {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'f' => 12,
        b'v' => 11,
        b'a' => 7,
        _ => return None,
    })
}

impl Node {
    pub(crate) fn has_back_reference(&self) -> bool {
        match self {
            Self::Back(_) => true,
            Self::Group(_, node) | Self::Repeat(node, ..) => node.has_back_reference(),
            Self::Sequence(nodes) | Self::Either(nodes) => nodes.iter().any(Self::has_back_reference),
            _ => false,
        }
    }

    /// Whether the first match that greedy operators find may be shorter than the longest.
    pub(crate) fn is_ambiguous(&self) -> bool {
        match self {
            Self::Either(_) => true,
            Self::Group(_, node) => node.is_ambiguous(),
            Self::Repeat(node, ..) => !matches!(**node, Self::Set(_)),
            Self::Sequence(nodes) => {
                let repeats =
                    nodes.iter().filter(|node| !matches!(node, Self::Set(_) | Self::Look(_))).count();
                nodes.iter().any(Self::is_ambiguous) || repeats > 1
            }
            _ => false,
        }
    }

    pub(crate) fn to_hir(&self) -> Hir {
        match self {
            Self::Empty => Hir::empty(),
            Self::Set(set) => {
                let bytes = (0..=255u8).filter(|&byte| contains(set, byte));
                Hir::class(Class::Bytes(ClassBytes::new(bytes.map(|byte| ClassBytesRange::new(byte, byte)))))
            }
            Self::Look(look) => Hir::look(*look),
            Self::Group(index, node) => {
                Hir::capture(Capture { index: *index as u32, name: None, sub: Box::new(node.to_hir()) })
            }
            Self::Sequence(nodes) => Hir::concat(nodes.iter().map(Self::to_hir).collect()),
            Self::Either(nodes) => Hir::alternation(nodes.iter().map(Self::to_hir).collect()),
            Self::Repeat(node, min, max) => Hir::repetition(Repetition {
                min: *min,
                max: *max,
                greedy: true,
                sub: Box::new(node.to_hir()),
            }),
            Self::Back(_) => Hir::fail(),
        }
    }
}
