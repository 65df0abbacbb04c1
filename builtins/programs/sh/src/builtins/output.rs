//! `echo` and `printf`.

use crate::arithmetic;
use crate::ast::Bytes;
use crate::execute::Flags;
use crate::shell::{Flow, Shell};

/// The widest field and the longest precision of `printf`.
const MAX_WIDTH: usize = 1 << 20;

/// `echo`: with the escapes of XSI, as dash has them.
pub(crate) fn echo(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let newline = arguments.get(1).is_none_or(|word| **word != *b"-n");
    let operands = &arguments[1 + usize::from(!newline)..];
    let mut text = Vec::new();
    for (at, operand) in operands.iter().enumerate() {
        if at > 0 {
            text.push(b' ');
        }
        if unescape(operand, &mut text, true) {
            return shell.print(&text);
        }
    }
    if newline {
        text.push(b'\n');
    }
    shell.print(&text)
}

/// Replaces escapes; whether there was a `\c`, which ends the output. `zero`: as `echo` and `%b` have them, with a `0` before an octal number.
fn unescape(from: &[u8], to: &mut Vec<u8>, zero: bool) -> bool {
    let mut rest = from;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        to.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(letter) = rest.first() else {
            to.push(b'\\');
            return false;
        };
        let mut used = 1;
        let byte = match letter {
            b'a' => 7,
            b'b' => 8,
            b'e' => 27,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'\\' => b'\\',
            b'c' if zero => return true,
            b'0'..=b'7' => {
                // With `zero`, the first one does not count.
                let zero = zero && *letter == b'0';
                let digits = &rest[usize::from(zero)..];
                let count = digits.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                used = usize::from(zero) + count;
                digits[..count].iter().fold(0u32, |value, digit| value << 3 | u32::from(digit - b'0')) as u8
            }
            _ => {
                to.push(b'\\');
                *letter
            }
        };
        to.push(byte);
        rest = &rest[used..];
    }
    to.extend_from_slice(rest);
    false
}

/// A conversion of a format.
#[derive(Default)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    alternative: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
}

impl Conversion {
    /// Puts text into its field; `prefix` (sign, `0x`) stays before zeros.
    fn pad(&self, prefix: &[u8], text: &[u8], zeros: bool, out: &mut Vec<u8>) {
        let missing = self.width.saturating_sub(prefix.len() + text.len());
        if !self.left && !zeros {
            out.resize(out.len() + missing, b' ');
        }
        out.extend_from_slice(prefix);
        if !self.left && zeros {
            out.resize(out.len() + missing, b'0');
        }
        out.extend_from_slice(text);
        if self.left {
            out.resize(out.len() + missing, b' ');
        }
    }

    fn sign(&self, negative: bool) -> &'static [u8] {
        match (negative, self.plus, self.space) {
            (true, ..) => b"-",
            (_, true, _) => b"+",
            (_, _, true) => b" ",
            _ => b"",
        }
    }

    fn integer(&self, letter: u8, value: i64, out: &mut Vec<u8>) {
        let unsigned = value as u64;
        let (prefix, mut digits) = match letter {
            b'd' | b'i' => (self.sign(value < 0), value.unsigned_abs().to_string()),
            b'o' => (&b""[..], format!("{unsigned:o}")),
            b'x' => (if self.alternative && value != 0 { &b"0x"[..] } else { b"" }, format!("{unsigned:x}")),
            b'X' => (if self.alternative && value != 0 { &b"0X"[..] } else { b"" }, format!("{unsigned:X}")),
            _ => (&b""[..], unsigned.to_string()),
        };
        if let Some(precision) = self.precision {
            if precision == 0 && value == 0 {
                digits.clear();
            }
            digits = "0".repeat(precision.saturating_sub(digits.len())) + &digits;
        }
        if letter == b'o' && self.alternative && !digits.starts_with('0') {
            digits.insert(0, '0');
        }
        self.pad(prefix, digits.as_bytes(), self.zeros && self.precision.is_none(), out);
    }

    fn float(&self, letter: u8, value: f64, out: &mut Vec<u8>) {
        let sign = self.sign(value.is_sign_negative());
        let magnitude = value.abs();
        let mut text = if !magnitude.is_finite() {
            if magnitude.is_nan() { "nan".to_owned() } else { "inf".to_owned() }
        } else {
            let precision = self.precision.unwrap_or(6);
            match letter.to_ascii_lowercase() {
                b'f' => format!("{magnitude:.precision$}"),
                b'e' => exponential(magnitude, precision),
                _ => {
                    let precision = precision.max(1);
                    let form = exponential(magnitude, precision - 1);
                    let exponent: i32 =
                        form.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
                    let text = if exponent < -4 || exponent >= precision as i32 {
                        form
                    } else {
                        format!("{magnitude:.*}", (precision as i32 - 1 - exponent).max(0) as usize)
                    };
                    if self.alternative { text } else { without_zeros(&text) }
                }
            }
        };
        if letter.is_ascii_uppercase() {
            text = text.to_ascii_uppercase();
        }
        self.pad(sign, text.as_bytes(), self.zeros && magnitude.is_finite(), out);
    }
}

/// As C writes `%e`: two digits of exponent at least.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Without zeros at the end of the fraction.
fn without_zeros(text: &str) -> String {
    let (digits, exponent) = match text.find('e') {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{digits}{exponent}")
}

struct Printf<'a> {
    shell: &'a mut Shell,
    operands: &'a [Bytes],
    status: i32,
}

impl Printf<'_> {
    fn operand(&mut self) -> Option<Bytes> {
        let (first, rest) = self.operands.split_first()?;
        self.operands = rest;
        Some(first.clone())
    }

    fn complain(&mut self, text: &[u8], what: &str) {
        let message = [text, b": ", what.as_bytes()].concat();
        self.shell.warn(&message);
        self.status = 1;
    }

    fn number(&mut self, signed: bool) -> i64 {
        let Some(text) = self.operand() else { return 0 };
        if let Some(b'\'' | b'"') = text.first() {
            return text.get(1).copied().map_or(0, i64::from);
        }
        if text.is_empty() {
            return 0;
        }
        let trimmed = text.trim_ascii_start();
        // The longest number at the start counts, with a complaint about the rest.
        let whole = arithmetic::number(&text).filter(|_| !text.last().is_some_and(u8::is_ascii_whitespace));
        if let Some(value) = whole.filter(|value| *value != i64::MAX) {
            return value;
        }
        let string = String::from_utf8_lossy(trimmed).into_owned();
        let negative = string.starts_with('-');
        let digits = string.trim_start_matches(['-', '+']);
        let (radix, digits) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
            Some(rest) => (16, rest),
            None if digits.starts_with('0') => (8, digits),
            None => (10, digits),
        };
        let length = digits.bytes().take_while(|byte| char::from(*byte).is_digit(radix)).count();
        if length == 0 {
            self.complain(&text, "expected numeric value");
            return 0;
        }
        let value = i128::from_str_radix(&digits[..length], radix).unwrap_or(i128::MAX);
        let value = if negative { value.saturating_neg() } else { value };
        let (low, high) =
            if signed { (i64::MIN.into(), i64::MAX.into()) } else { (i64::MIN.into(), u64::MAX.into()) };
        if length < digits.len() {
            self.complain(&text, "not completely converted");
        } else if value < low || value > high {
            self.complain(&text, "Numerical result out of range");
        }
        value.clamp(low, high) as i64
    }

    fn float(&mut self) -> f64 {
        let Some(text) = self.operand() else { return 0.0 };
        if let Some(b'\'' | b'"') = text.first() {
            return text.get(1).copied().map_or(0.0, f64::from);
        }
        let string = String::from_utf8_lossy(text.trim_ascii_start()).into_owned();
        if let Some(value) = arithmetic::number(string.as_bytes()).filter(|_| string.contains(['x', 'X'])) {
            return value as f64;
        }
        for end in (1..=string.len()).rev().filter(|end| string.is_char_boundary(*end)) {
            if let Ok(value) = string[..end].parse() {
                if end < string.len() {
                    self.complain(&text, "not completely converted");
                }
                return value;
            }
        }
        self.complain(&text, "expected numeric value");
        0.0
    }

    fn size(&mut self) -> i64 {
        self.number(true).clamp(-(MAX_WIDTH as i64), MAX_WIDTH as i64)
    }

    /// Goes through the format once. `None`: it is over. Whether operands were asked for.
    fn once(&mut self, format: &[u8], out: &mut Vec<u8>) -> Result<Option<bool>, Flow> {
        let mut rest = format;
        let mut asked = false;
        while let Some((byte, after)) = rest.split_first() {
            if *byte == b'\\' {
                // One escape at a time, so that a `%` stays one.
                let length = match after.first() {
                    Some(b'0'..=b'7') => {
                        after.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count()
                    }
                    Some(_) => 1,
                    None => 0,
                };
                unescape(&rest[..=length], out, false);
                rest = &rest[length + 1..];
                continue;
            }
            rest = after;
            if *byte != b'%' {
                out.push(*byte);
                continue;
            }
            if rest.first() == Some(&b'%') {
                out.push(b'%');
                rest = &rest[1..];
                continue;
            }
            asked = true;
            let mut conversion = Conversion::default();
            while let Some((flag, after)) = rest.split_first() {
                match flag {
                    b'-' => conversion.left = true,
                    b'+' => conversion.plus = true,
                    b' ' => conversion.space = true,
                    b'#' => conversion.alternative = true,
                    b'0' => conversion.zeros = true,
                    _ => break,
                }
                rest = after;
            }
            let width = self.digits(&mut rest);
            conversion.left |= width < 0;
            conversion.width = width.unsigned_abs() as usize;
            if rest.first() == Some(&b'.') {
                rest = &rest[1..];
                conversion.precision = usize::try_from(self.digits(&mut rest)).ok();
            }
            let Some((letter, after)) = rest.split_first() else {
                return Err(self.shell.error(b"missing format character"));
            };
            rest = after;
            match letter {
                b'd' | b'i' => {
                    let value = self.number(true);
                    conversion.integer(*letter, value, out);
                }
                b'o' | b'u' | b'x' | b'X' => {
                    let value = self.number(false);
                    conversion.integer(*letter, value, out);
                }
                b'e' | b'f' | b'g' | b'E' | b'F' | b'G' => {
                    let value = self.float();
                    conversion.float(*letter, value, out);
                }
                b'c' => {
                    let text = self.operand().unwrap_or_else(|| Bytes::from(&b""[..]));
                    // As in C, no character is the one that ends strings.
                    conversion.pad(b"", text.get(..1).unwrap_or(b"\0"), false, out);
                }
                b's' => {
                    let text = self.operand().unwrap_or_else(|| Bytes::from(&b""[..]));
                    let length = conversion.precision.unwrap_or(usize::MAX).min(text.len());
                    conversion.pad(b"", &text[..length], false, out);
                }
                b'b' => {
                    let text = self.operand().unwrap_or_else(|| Bytes::from(&b""[..]));
                    let mut plain = Vec::new();
                    let over = unescape(&text, &mut plain, true);
                    plain.truncate(conversion.precision.unwrap_or(usize::MAX));
                    conversion.pad(b"", &plain, false, out);
                    if over {
                        return Ok(None);
                    }
                }
                _ => {
                    let message = [b"%", &[*letter][..], b": invalid directive"].concat();
                    return Err(self.shell.error(&message));
                }
            }
        }
        Ok(Some(asked))
    }

    fn digits(&mut self, rest: &mut &[u8]) -> i64 {
        if rest.first() == Some(&b'*') {
            *rest = &rest[1..];
            return self.size();
        }
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, after) = rest.split_at(length);
        *rest = after;
        digits.iter().fold(0, |value, digit| (value * 10 + i64::from(digit - b'0')).min(MAX_WIDTH as i64))
    }
}

/// `printf`
pub(crate) fn printf(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (_, rest) = shell.options(arguments, b"")?;
    let Some(format) = arguments.get(rest) else {
        return Err(shell.error(b"usage: printf format [arg ...]"));
    };
    let mut out = Vec::new();
    let mut printf = Printf { shell, operands: &arguments[rest + 1..], status: 0 };
    let mut result = Ok(());
    loop {
        match printf.once(format, &mut out) {
            Ok(Some(true)) if !printf.operands.is_empty() => {}
            Err(flow) => {
                result = Err(flow);
                break;
            }
            _ => break,
        }
    }
    let status = printf.status;
    let printed = shell.print(&out)?;
    result?;
    Ok(status.max(printed))
}
