//! `test` and `[`.

use crate::arithmetic;
use crate::ast::Bytes;
use crate::execute::Flags;
use crate::shell::{Flow, Shell};
use crate::system::{self, Status};

/// How deep parentheses and `!` may be nested.
const MAX_DEPTH: u32 = 200;

struct Test<'a> {
    shell: &'a mut Shell,
    words: &'a [Bytes],
    at: usize,
    depth: u32,
}

const UNARY: &[u8] = b"abcdefghknoprstuwxzGLNOS";
const BINARY: [&[u8]; 14] =
    [b"=", b"==", b"!=", b"<", b">", b"-eq", b"-ne", b"-gt", b"-ge", b"-lt", b"-le", b"-nt", b"-ot", b"-ef"];

/// `test`, `[`
pub(crate) fn run(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let mut words = &arguments[1..];
    if *arguments[0] == *b"[" {
        match words.split_last() {
            Some((last, rest)) if **last == *b"]" => words = rest,
            _ => return Err(shell.error(b"missing ]")),
        }
    }
    let mut test = Test { shell, words, at: 0, depth: 0 };
    // With few words their number decides what they mean, before any operator does.
    let value = match words {
        [] => false,
        [word] => !word.is_empty(),
        [not, word] if **not == *b"!" => word.is_empty(),
        [left, operator, right] if is_binary(operator) => test.binary(left, operator, right)?,
        [not, left, operator, right] if **not == *b"!" && is_binary(operator) => {
            !test.binary(left, operator, right)?
        }
        [open, word, close] if **open == *b"(" && **close == *b")" => !word.is_empty(),
        [not, rest @ ..] if **not == *b"!" && rest.len() == 3 => {
            test.words = rest;
            !test.whole()?
        }
        _ => test.whole()?,
    };
    Ok(i32::from(!value))
}

fn is_binary(word: &[u8]) -> bool {
    BINARY.contains(&word)
}

fn is_unary(word: &[u8]) -> bool {
    word.len() == 2 && word[0] == b'-' && UNARY.contains(&word[1]) && !matches!(word[1], b'a' | b'o' | b'N')
}

impl Test<'_> {
    fn peek(&self) -> Option<&[u8]> {
        self.words.get(self.at).map(|word| &word[..])
    }

    fn whole(&mut self) -> Result<bool, Flow> {
        let value = self.or()?;
        if self.at < self.words.len() {
            // dash names the last word that it understood.
            let message = [&self.words[self.at - 1][..], b": unexpected operator"].concat();
            return Err(self.shell.error(&message));
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<bool, Flow> {
        let mut value = self.and()?;
        while self.peek() == Some(b"-o") {
            self.at += 1;
            value |= self.and()?;
        }
        Ok(value)
    }

    fn and(&mut self) -> Result<bool, Flow> {
        let mut value = self.not()?;
        while self.peek() == Some(b"-a") {
            self.at += 1;
            value &= self.not()?;
        }
        Ok(value)
    }

    fn not(&mut self) -> Result<bool, Flow> {
        if self.depth >= MAX_DEPTH {
            return Err(self.shell.error(b"nested too deeply"));
        }
        self.depth += 1;
        let value = if self.peek() == Some(b"!") && self.at + 1 < self.words.len() {
            self.at += 1;
            !self.not()?
        } else {
            self.primary()?
        };
        self.depth -= 1;
        Ok(value)
    }

    fn primary(&mut self) -> Result<bool, Flow> {
        let Some(word) = self.words.get(self.at).cloned() else {
            return Err(self.shell.error(b"argument expected"));
        };
        let next = self.words.get(self.at + 1).cloned();
        if let (Some(operator), Some(right)) = (&next, self.words.get(self.at + 2).cloned())
            && is_binary(operator)
        {
            self.at += 3;
            return self.binary(&word, operator, &right);
        }
        if *word == *b"(" && next.is_some() {
            self.at += 1;
            let value = self.or()?;
            if self.peek() != Some(b")") {
                return Err(self.shell.error(b"closing paren expected"));
            }
            self.at += 1;
            return Ok(value);
        }
        if is_unary(&word) {
            match next {
                Some(operand) => {
                    self.at += 2;
                    return self.unary(word[1], &operand);
                }
                None if self.at > 0 && self.words.len() > 2 => {
                    let message = [&word[..], b": argument expected"].concat();
                    return Err(self.shell.error(&message));
                }
                None => {}
            }
        }
        if let Some(operator) = next.filter(|next| is_binary(next)) {
            let message = [&operator[..], b": argument expected"].concat();
            return Err(self.shell.error(&message));
        }
        self.at += 1;
        Ok(!word.is_empty())
    }

    fn unary(&mut self, letter: u8, operand: &Bytes) -> Result<bool, Flow> {
        let of = |test: fn(&Status) -> bool| system::stat(operand).is_ok_and(|status| test(&status));
        Ok(match letter {
            b'n' => !operand.is_empty(),
            b'z' => operand.is_empty(),
            b't' => {
                let fd = self.number(operand)?;
                i32::try_from(fd).is_ok_and(system::is_terminal)
            }
            b'e' => of(|_| true),
            b'f' => of(Status::is_regular),
            b'd' => of(Status::is_directory),
            b'p' => of(Status::is_fifo),
            b'b' => of(|status| status.kind() == 0o060_000),
            b'c' => of(|status| status.kind() == 0o020_000),
            b'S' => of(|status| status.kind() == 0o140_000),
            b'h' | b'L' => system::lstat(operand).is_ok_and(|status| status.kind() == 0o120_000),
            b's' => of(|status| status.size > 0),
            b'u' => of(|status| status.mode & 0o4000 != 0),
            b'g' => of(|status| status.mode & 0o2000 != 0),
            b'k' => of(|status| status.mode & 0o1000 != 0),
            b'O' => of(|status| status.uid == system::effective_user_id()),
            b'G' => of(|status| status.gid == system::effective_group_id()),
            b'r' => system::access(operand, 4),
            b'w' => system::access(operand, 2),
            _ => system::access(operand, 1),
        })
    }

    fn number(&mut self, text: &Bytes) -> Result<i64, Flow> {
        // Decimal, whatever it begins with.
        let trimmed = text.trim_ascii();
        let digits = trimmed.strip_prefix(b"-").or(trimmed.strip_prefix(b"+")).unwrap_or(trimmed);
        let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
        let plain = &digits[zeros.min(digits.len().saturating_sub(1))..];
        let decimal = plain.iter().all(u8::is_ascii_digit);
        match arithmetic::number(plain).filter(|_| decimal) {
            Some(value) => Ok(if trimmed.starts_with(b"-") { value.wrapping_neg() } else { value }),
            None => {
                let message = [b"Illegal number: ", &text[..]].concat();
                Err(self.shell.error(&message))
            }
        }
    }

    fn binary(&mut self, left: &Bytes, operator: &[u8], right: &Bytes) -> Result<bool, Flow> {
        let files = || (system::stat(left).ok(), system::stat(right).ok());
        Ok(match operator {
            b"=" | b"==" => left == right,
            b"!=" => left != right,
            b"<" => left < right,
            b">" => left > right,
            b"-nt" => matches!(files(), (Some(left), Some(right)) if left.modified > right.modified),
            b"-ot" => matches!(files(), (Some(left), Some(right)) if left.modified < right.modified),
            b"-ef" => {
                matches!(files(), (Some(left), Some(right)) if (left.device, left.inode) == (right.device, right.inode))
            }
            _ => {
                let (left, right) = (self.number(left)?, self.number(right)?);
                match operator {
                    b"-eq" => left == right,
                    b"-ne" => left != right,
                    b"-gt" => left > right,
                    b"-ge" => left >= right,
                    b"-lt" => left < right,
                    _ => left <= right,
                }
            }
        })
    }
}
