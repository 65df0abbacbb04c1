//! `test` and `[`: the expressions of POSIX with GNU's additions.

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, Kind, Stat};
use toolbox_linux::process;

pub(crate) const TEST: Tool =
    Tool { name: "test", usage: "[EXPRESSION]", options: &[], order: Order::Raw, misuse: 2, main: test };

pub(crate) const BRACKET: Tool =
    Tool { name: "[", usage: "[EXPRESSION] ]", options: &[], order: Order::Raw, misuse: 2, main: test };

fn test(context: &Context, parsed: Parsed) -> i32 {
    let mut words = parsed.operands;
    if context.name == "[" && words.pop().as_deref() != Some(b"]") {
        context.die(2, "missing ']'");
    }
    let mut expression = Expression { context, words: &words, at: 0 };
    let value = expression.whole(0, words.len());
    i32::from(!value)
}

struct Expression<'a> {
    context: &'a Context,
    words: &'a [Vec<u8>],
    at: usize,
}

fn is_unary(word: &[u8]) -> bool {
    matches!(word, [b'-', letter] if b"bcdefgGhkLnNOprsStuwxz".contains(letter))
}

fn is_binary(word: &[u8]) -> bool {
    matches!(word, b"=" | b"==" | b"!=" | b"<" | b">")
        || matches!(word, b"-eq" | b"-ne" | b"-lt" | b"-le" | b"-gt" | b"-ge" | b"-nt" | b"-ot" | b"-ef")
}

impl Expression<'_> {
    fn word(&self, at: usize) -> &[u8] {
        self.words.get(at).map_or(b"", |word| word)
    }

    /// POSIX decides by the number of words up to four; more are read by precedence.
    fn whole(&mut self, start: usize, end: usize) -> bool {
        let count = end - start;
        match count {
            0 => false,
            1 => !self.word(start).is_empty(),
            2 if self.word(start) == b"!" => self.word(start + 1).is_empty(),
            2 if is_unary(self.word(start)) => self.unary(start),
            2 => {
                self.context.die(2, format!("missing argument after {}", quote::always(self.word(start + 1))))
            }
            3 if is_binary(self.word(start + 1)) => self.binary(start),
            3 if self.word(start + 1) == b"-a" => {
                !self.word(start).is_empty() && !self.word(start + 2).is_empty()
            }
            3 if self.word(start + 1) == b"-o" => {
                !self.word(start).is_empty() || !self.word(start + 2).is_empty()
            }
            3 if self.word(start) == b"!" => !self.whole(start + 1, end),
            3 if self.word(start) == b"(" && self.word(end - 1) == b")" => !self.word(start + 1).is_empty(),
            3 => {
                let word = quote::always(self.word(start + 1));
                self.context.die(2, format!("{word}: binary operator expected"))
            }
            4 if self.word(start) == b"!" => !self.whole(start + 1, end),
            4 if self.word(start) == b"(" && self.word(end - 1) == b")" => self.whole(start + 1, end - 1),
            _ => {
                self.at = start;
                let value = self.or(end);
                if self.at != end {
                    self.context.die(2, format!("extra argument {}", quote::always(self.word(self.at))));
                }
                value
            }
        }
    }

    fn or(&mut self, end: usize) -> bool {
        let mut value = self.and(end);
        while self.at < end && self.word(self.at) == b"-o" {
            self.at += 1;
            let right = self.and(end);
            value |= right;
        }
        value
    }

    fn and(&mut self, end: usize) -> bool {
        let mut value = self.term(end);
        while self.at < end && self.word(self.at) == b"-a" {
            self.at += 1;
            let right = self.term(end);
            value &= right;
        }
        value
    }

    fn term(&mut self, end: usize) -> bool {
        if self.at >= end {
            let last = quote::always(self.word(end.saturating_sub(1)));
            self.context.die(2, format!("missing argument after {last}"));
        }
        let left = end - self.at;
        match self.word(self.at) {
            b"!" if left > 1 => {
                self.at += 1;
                !self.term(end)
            }
            b"(" if left > 1 => {
                self.at += 1;
                let value = self.or(end);
                if self.at >= end || self.word(self.at) != b")" {
                    self.context.die(2, "')' expected");
                }
                self.at += 1;
                value
            }
            _ if left >= 3 && is_binary(self.word(self.at + 1)) => {
                let value = self.binary(self.at);
                self.at += 3;
                value
            }
            word if left >= 2 && is_unary(word) => {
                let value = self.unary(self.at);
                self.at += 2;
                value
            }
            word => {
                let value = !word.is_empty();
                self.at += 1;
                value
            }
        }
    }

    fn integer(&self, word: &[u8]) -> i128 {
        let text = String::from_utf8_lossy(word);
        let text = text.trim();
        text.strip_prefix('+')
            .unwrap_or(text)
            .parse()
            .unwrap_or_else(|_| self.context.die(2, format!("invalid integer {}", quote::always(word))))
    }

    fn binary(&self, at: usize) -> bool {
        let (left, operator, right) = (self.word(at), self.word(at + 1), self.word(at + 2));
        let modified = |path: &[u8]| file::stat(path).map(|stat| stat.modified).ok();
        match operator {
            b"=" | b"==" => left == right,
            b"!=" => left != right,
            b"<" => left < right,
            b">" => left > right,
            b"-nt" => modified(left) > modified(right),
            b"-ot" => modified(left) < modified(right),
            b"-ef" => match (file::stat(left), file::stat(right)) {
                (Ok(left), Ok(right)) => left.identity() == right.identity(),
                _ => false,
            },
            _ => {
                let (left, right) = (self.integer(left), self.integer(right));
                match operator {
                    b"-eq" => left == right,
                    b"-ne" => left != right,
                    b"-lt" => left < right,
                    b"-le" => left <= right,
                    b"-gt" => left > right,
                    _ => left >= right,
                }
            }
        }
    }

    fn unary(&self, at: usize) -> bool {
        let (operator, word) = (self.word(at)[1], self.word(at + 1));
        let kind = |kind: Kind| file::stat(word).is_ok_and(|stat| stat.kind() == kind);
        let facts = |holds: fn(&Stat) -> bool| file::stat(word).is_ok_and(|stat| holds(&stat));
        match operator {
            b'n' => !word.is_empty(),
            b'z' => word.is_empty(),
            b'b' => kind(Kind::Block),
            b'c' => kind(Kind::Character),
            b'd' => kind(Kind::Directory),
            b'f' => kind(Kind::Regular),
            b'p' => kind(Kind::Fifo),
            b'S' => kind(Kind::Socket),
            b'e' => file::stat(word).is_ok(),
            b'h' | b'L' => file::lstat(word).is_ok_and(|stat| stat.is_symlink()),
            b's' => facts(|stat| stat.size > 0),
            b'u' => facts(|stat| stat.mode & 0o4000 != 0),
            b'g' => facts(|stat| stat.mode & 0o2000 != 0),
            b'k' => facts(|stat| stat.mode & 0o1000 != 0),
            b'N' => facts(|stat| stat.modified > stat.accessed),
            b'O' => facts(|stat| stat.uid == process::geteuid()),
            b'G' => facts(|stat| stat.gid == process::getegid()),
            b'r' => file::access(word, 4).is_ok(),
            b'w' => file::access(word, 2).is_ok(),
            b'x' => file::access(word, 1).is_ok(),
            _ => {
                let descriptor = self.integer(word);
                i32::try_from(descriptor).is_ok_and(process::is_terminal)
            }
        }
    }
}
