//! `$((...))`: integers of 64 bits, the operators of C that POSIX asks for, assignment.
//!
//! The text is evaluated as it is read; what a short circuit skips is read with `evaluate` off.

use crate::ast::name_length;
use crate::shell::{Flow, Shell};

/// How deep parentheses and unary operators may be nested.
const MAX_DEPTH: u32 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Number(i64),
    Name(&'a [u8]),
    Operator(&'static str),
    Unknown,
}

/// Longest first.
const OPERATORS: [&str; 35] = [
    "<<=", ">>=", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "*=", "/=", "%=", "+=", "-=", "&=", "^=",
    "|=", "<", ">", "+", "-", "*", "/", "%", "&", "^", "|", "!", "~", "(", ")", "?", ":", "=",
];

const ASSIGNMENTS: [(&str, &str); 11] = [
    ("=", ""),
    ("*=", "*"),
    ("/=", "/"),
    ("%=", "%"),
    ("+=", "+"),
    ("-=", "-"),
    ("<<=", "<<"),
    (">>=", ">>"),
    ("&=", "&"),
    ("^=", "^"),
    ("|=", "|"),
];

/// How strongly a binary operator binds; 0 for what is none.
fn strength(operator: &str) -> u8 {
    match operator {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | ">" | "<=" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => 0,
    }
}

struct Evaluator<'a> {
    shell: &'a mut Shell,
    text: &'a [u8],
    position: usize,
    token: Token<'a>,
    depth: u32,
}

/// The value of an expression.
pub(crate) fn evaluate(shell: &mut Shell, text: &[u8]) -> Result<i64, Flow> {
    let mut evaluator = Evaluator { shell, text, position: 0, token: Token::End, depth: 0 };
    evaluator.advance();
    let value = evaluator.assignment(true)?;
    if evaluator.token != Token::End {
        return evaluator.error("expecting EOF");
    }
    Ok(value)
}

/// A number as C writes it: decimal, `0x`, `0`; with blanks around it. `None` for anything else.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    let (negative, digits) = match text.first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (value, used) = unsigned(digits)?;
    let value = if negative { value.saturating_neg() } else { value };
    (used == digits.len()).then_some(value.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

/// The number at the start of `text`, and its length.
fn unsigned(text: &[u8]) -> Option<(i128, usize)> {
    let (base, skip) = match text {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => (16, 2),
        [b'0', ..] => (8, 0),
        _ => (10, 0),
    };
    let digits = text[skip..].iter().take_while(|byte| char::from(**byte).is_digit(base)).count();
    if digits == 0 {
        return None;
    }
    let value = text[skip..skip + digits].iter().fold(0i128, |value, byte| {
        let digit = char::from(*byte).to_digit(base).unwrap_or(0);
        value.checked_mul(base.into()).and_then(|value| value.checked_add(digit.into())).unwrap_or(i128::MAX)
    });
    Some((value, skip + digits))
}

impl<'a> Evaluator<'a> {
    fn error<T>(&mut self, what: &str) -> Result<T, Flow> {
        let message = [b"arithmetic expression: ", what.as_bytes(), b": \"", self.text, b"\""].concat();
        Err(self.shell.error(&message))
    }

    fn advance(&mut self) {
        let rest = self.text.get(self.position..).unwrap_or_default();
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n')).count();
        let rest = &rest[blanks..];
        let (token, length) = match rest.first() {
            None => (Token::End, 0),
            Some(b'0'..=b'9') => unsigned(rest).map_or((Token::Unknown, 1), |(value, length)| {
                (Token::Number(value.min(i64::MAX.into()) as i64), length)
            }),
            Some(_) => match name_length(rest) {
                0 => match OPERATORS.iter().find(|operator| rest.starts_with(operator.as_bytes())) {
                    Some(operator) => (Token::Operator(operator), operator.len()),
                    None => (Token::Unknown, 1),
                },
                length => (Token::Name(&rest[..length]), length),
            },
        };
        self.position += blanks + length;
        self.token = token;
    }

    fn take(&mut self, operator: &str) -> bool {
        let found = self.token
            == Token::Operator(OPERATORS.iter().find(|other| **other == operator).copied().unwrap_or(""));
        if found {
            self.advance();
        }
        found
    }

    fn assignment(&mut self, evaluate: bool) -> Result<i64, Flow> {
        if let Token::Name(name) = self.token {
            let before = self.position;
            self.advance();
            if let Token::Operator(operator) = self.token
                && let Some((_, binary)) = ASSIGNMENTS.iter().find(|(name, _)| *name == operator)
            {
                self.advance();
                self.enter()?;
                let right = self.assignment(evaluate)?;
                self.depth -= 1;
                if !evaluate {
                    return Ok(right);
                }
                let value = if binary.is_empty() {
                    right
                } else {
                    let left = self.variable(name)?;
                    self.apply(binary, left, right, true)?
                };
                self.shell.set_variable(name, value.to_string().as_bytes().into())?;
                return Ok(value);
            }
            self.position = before;
            self.token = Token::Name(name);
        }
        self.conditional(evaluate)
    }

    fn conditional(&mut self, evaluate: bool) -> Result<i64, Flow> {
        let condition = self.binary(1, evaluate)?;
        if !self.take("?") {
            return Ok(condition);
        }
        self.enter()?;
        let yes = self.assignment(evaluate && condition != 0)?;
        if !self.take(":") {
            return self.error("expecting ':'");
        }
        let no = self.conditional(evaluate && condition == 0)?;
        self.depth -= 1;
        Ok(if condition != 0 { yes } else { no })
    }

    fn enter(&mut self) -> Result<(), Flow> {
        if self.depth >= MAX_DEPTH {
            return self.error("nested too deeply");
        }
        self.depth += 1;
        Ok(())
    }

    fn binary(&mut self, least: u8, evaluate: bool) -> Result<i64, Flow> {
        let mut left = self.unary(evaluate)?;
        while let Token::Operator(operator) = self.token {
            let strength = strength(operator);
            if strength < least || strength == 0 {
                break;
            }
            self.advance();
            let needed = match operator {
                "&&" => left != 0,
                "||" => left == 0,
                _ => true,
            };
            let right = self.binary(strength + 1, evaluate && needed)?;
            left = self.apply(operator, left, right, evaluate)?;
        }
        Ok(left)
    }

    fn apply(&mut self, operator: &str, left: i64, right: i64, evaluate: bool) -> Result<i64, Flow> {
        Ok(match operator {
            "||" => i64::from(left != 0 || right != 0),
            "&&" => i64::from(left != 0 && right != 0),
            "|" => left | right,
            "^" => left ^ right,
            "&" => left & right,
            "==" => i64::from(left == right),
            "!=" => i64::from(left != right),
            "<" => i64::from(left < right),
            ">" => i64::from(left > right),
            "<=" => i64::from(left <= right),
            ">=" => i64::from(left >= right),
            // The machine takes the count modulo 64.
            "<<" => left.wrapping_shl(right as u32),
            ">>" => left.wrapping_shr(right as u32),
            "+" => left.wrapping_add(right),
            "-" => left.wrapping_sub(right),
            "*" => left.wrapping_mul(right),
            _ if !evaluate => left,
            _ if right == 0 => return self.error("division by zero"),
            "/" => left.wrapping_div(right),
            _ => left.wrapping_rem(right),
        })
    }

    fn unary(&mut self, evaluate: bool) -> Result<i64, Flow> {
        self.enter()?;
        let value = match self.token {
            Token::Number(value) => {
                self.advance();
                value
            }
            Token::Name(name) => {
                self.advance();
                if evaluate { self.variable(name)? } else { 0 }
            }
            Token::Operator("(") => {
                self.advance();
                let value = self.assignment(evaluate)?;
                if !self.take(")") {
                    return self.error("expecting ')'");
                }
                value
            }
            Token::Operator(operator @ ("+" | "-" | "!" | "~")) => {
                self.advance();
                let value = self.unary(evaluate)?;
                match operator {
                    "+" => value,
                    "-" => value.wrapping_neg(),
                    "!" => i64::from(value == 0),
                    _ => !value,
                }
            }
            _ => return self.error("expecting primary"),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn variable(&mut self, name: &[u8]) -> Result<i64, Flow> {
        // Unset is 0, also with `set -u`: as dash.
        let Some(value) = self.shell.variable(name) else { return Ok(0) };
        if value.trim_ascii().is_empty() {
            return Ok(0);
        }
        match number(&value) {
            Some(value) => Ok(value),
            None => {
                let message = [b"Illegal number: ", &value[..]].concat();
                Err(self.shell.error(&message))
            }
        }
    }
}
