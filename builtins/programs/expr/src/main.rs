//! `expr`: integers, texts and expressions of POSIX.

use std::cmp::Ordering;
use std::io::Write;

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::Descriptor;
use toolbox_regex::{Flags, Regex, Syntax};

const EXPR: Tool = Tool {
    name: "expr",
    usage: "EXPRESSION\n\
  A | B  A & B  A < B  A <= B  A = B  A == B  A != B  A >= B  A > B  A + B  A - B  A * B  A / B  A % B\n\
  A : RE  match A RE  substr A POS LENGTH  index A CHARS  length A  + WORD  ( EXPRESSION )",
    options: &[],
    order: Order::Raw,
    misuse: 2,
    main: expr,
};

/// Runs the tool.
fn main() -> std::process::ExitCode {
    toolbox_command::run(&[EXPR])
}

struct Reader<'a> {
    context: &'a Context,
    words: &'a [Vec<u8>],
    at: usize,
}

/// Operators by level, the loosest first.
const LEVELS: [&[&[u8]]; 5] =
    [&[b"|"], &[b"&"], &[b"<", b"<=", b"=", b"==", b"!=", b">=", b">"], &[b"+", b"-"], &[b"*", b"/", b"%"]];

fn expr(context: &Context, parsed: Parsed) -> i32 {
    let mut words = parsed.operands;
    if words.len() == 1 && matches!(&words[0][..], b"--help" | b"--version") {
        toolbox_command::options::parse(&Tool { order: Order::Anywhere, ..EXPR }, context, words.clone());
    }
    if words.first().is_some_and(|word| word == b"--") {
        words.remove(0);
    }
    if words.is_empty() {
        context.missing_operand();
    }
    let mut reader = Reader { context, words: &words, at: 0 };
    let value = reader.level(0, true);
    if let Some(extra) = words.get(reader.at) {
        context.die(2, format!("syntax error: unexpected argument {}", quote::always(extra)));
    }
    context.check_write(Descriptor::keep(1).write_all(&[&value[..], b"\n"].concat()));
    i32::from(is_null(&value))
}

fn integer(value: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(value).ok()?;
    (!text.starts_with('+')).then(|| text.parse().ok()).flatten()
}

/// Empty, or a zero of any length.
fn is_null(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    value.is_empty() || !digits.is_empty() && digits.iter().all(|&byte| byte == b'0')
}

impl Reader<'_> {
    fn word(&self) -> Option<&[u8]> {
        self.words.get(self.at).map(Vec::as_slice)
    }

    fn need(&mut self) -> Vec<u8> {
        let Some(word) = self.word().map(<[u8]>::to_vec) else {
            let last = &self.words[self.at - 1];
            self.context.die(2, format!("syntax error: missing argument after {}", quote::always(last)));
        };
        self.at += 1;
        word
    }

    /// Reads and computes operators of a level and tighter ones; what does not count is read only.
    fn level(&mut self, level: usize, counts: bool) -> Vec<u8> {
        let Some(operators) = LEVELS.get(level) else { return self.matching(counts) };
        let mut left = self.level(level + 1, counts);
        while let Some(operator) = self.word().filter(|word| operators.contains(word)).map(<[u8]>::to_vec) {
            self.at += 1;
            let needed = match level {
                0 => is_null(&left),
                1 => !is_null(&left),
                _ => true,
            };
            let right = self.level(level + 1, counts && needed);
            if !counts {
                continue;
            }
            left = match &operator[..] {
                b"|" if !is_null(&left) => left,
                b"|" if is_null(&right) => b"0".to_vec(),
                b"|" => right,
                b"&" if is_null(&left) || is_null(&right) => b"0".to_vec(),
                b"&" => left,
                _ if level == 2 => Self::compare(&operator, &left, &right),
                _ => self.compute(&operator, &left, &right),
            };
        }
        left
    }

    fn compare(operator: &[u8], left: &[u8], right: &[u8]) -> Vec<u8> {
        let order = match (integer(left), integer(right)) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left.cmp(right),
        };
        let holds = match operator {
            b"<" => order == Ordering::Less,
            b"<=" => order != Ordering::Greater,
            b"=" | b"==" => order == Ordering::Equal,
            b"!=" => order != Ordering::Equal,
            b">=" => order != Ordering::Less,
            _ => order == Ordering::Greater,
        };
        if holds { b"1".to_vec() } else { b"0".to_vec() }
    }

    fn compute(&self, operator: &[u8], left: &[u8], right: &[u8]) -> Vec<u8> {
        let (Some(left), Some(right)) = (integer(left), integer(right)) else {
            self.context.die(2, "non-integer argument");
        };
        let value = match operator {
            b"+" => left.checked_add(right),
            b"-" => left.checked_sub(right),
            b"*" => left.checked_mul(right),
            _ if right == 0 => self.context.die(2, "division by zero"),
            b"/" => left.checked_div(right),
            _ => left.checked_rem(right),
        };
        // 128 bits are more than any caller counts with.
        value.unwrap_or_else(|| self.context.die(3, "result out of range")).to_string().into_bytes()
    }

    fn matching(&mut self, counts: bool) -> Vec<u8> {
        let mut left = self.primary(counts);
        while self.word() == Some(b":") {
            self.at += 1;
            let pattern = self.primary(counts);
            left = if counts { self.matched(&left, &pattern) } else { Vec::new() };
        }
        left
    }

    fn matched(&self, text: &[u8], pattern: &[u8]) -> Vec<u8> {
        let regex = Regex::new(pattern, Syntax::Basic, Flags::default());
        let regex = regex.unwrap_or_else(|message| self.context.die(2, message));
        let mut spans = Vec::new();
        let found = regex.captures_at(text, 0, &mut spans) && spans[0].is_some_and(|(from, _)| from == 0);
        let nothing = || if regex.groups() > 0 { Vec::new() } else { b"0".to_vec() };
        if !found {
            return nothing();
        }
        match (regex.groups(), spans.get(1).copied().flatten(), spans[0]) {
            (0, _, Some((_, to))) => to.to_string().into_bytes(),
            (_, Some((from, to)), _) => text[from..to].to_vec(),
            _ => Vec::new(),
        }
    }

    fn primary(&mut self, counts: bool) -> Vec<u8> {
        let word = self.need();
        match &word[..] {
            b"(" => {
                let value = self.level(0, counts);
                if self.word() != Some(b")") {
                    let last = &self.words[self.at - 1];
                    match self.word() {
                        Some(other) => self.context.die(
                            2,
                            format!("syntax error: expecting ')' instead of {}", quote::always(other)),
                        ),
                        None => self
                            .context
                            .die(2, format!("syntax error: expecting ')' after {}", quote::always(last))),
                    }
                }
                self.at += 1;
                value
            }
            b")" => self.context.die(2, "syntax error: unexpected ')'"),
            b"+" => self.need(),
            b"length" => {
                let value = self.primary(counts);
                value.len().to_string().into_bytes()
            }
            b"match" => {
                let (text, pattern) = (self.primary(counts), self.primary(counts));
                if counts { self.matched(&text, &pattern) } else { Vec::new() }
            }
            b"index" => {
                let (text, letters) = (self.primary(counts), self.primary(counts));
                let at = text.iter().position(|byte| letters.contains(byte)).map_or(0, |at| at + 1);
                at.to_string().into_bytes()
            }
            b"substr" => {
                let text = self.primary(counts);
                let (from, length) = (self.primary(counts), self.primary(counts));
                let (from, length) = (integer(&from).unwrap_or(0), integer(&length).unwrap_or(0));
                if from <= 0 || length <= 0 {
                    return Vec::new();
                }
                let from = usize::try_from(from - 1).unwrap_or(usize::MAX).min(text.len());
                let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(text.len());
                text[from..to].to_vec()
            }
            _ => word,
        }
    }
}
