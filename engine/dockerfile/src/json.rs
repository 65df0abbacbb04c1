//! The exec form: a JSON array of strings.
//!
//! Whether a text is in exec form decides whether a shell runs, so the rule is exact: a text that is a valid JSON array
//! of strings is; a valid JSON array with something else in it is an error; anything else is in shell form.

use crate::source::Text;
use crate::span::Word;

/// Arrays and objects inside each other deeper than this are taken as not JSON.
const MAX_DEPTH: usize = 128;

/// What a text is.
#[derive(Debug)]
pub(crate) enum Json {
    /// An array of strings.
    Strings(Vec<Word>),
    /// An array with other things in it.
    Mixed,
    /// Not a JSON array.
    No,
}

/// Reads a text as an array of strings.
pub(crate) fn parse_array(text: Text<'_>) -> Json {
    let mut reader = Reader { text, bytes: text.as_str().as_bytes(), position: 0 };
    let leading = text.as_str().len() - text.as_str().trim_start().len();
    reader.position = leading;
    let mut mixed = false;
    match reader.top_array(&mut mixed) {
        Some(_) if mixed => Json::Mixed,
        Some(strings) => Json::Strings(strings),
        None => Json::No,
    }
}

struct Reader<'a> {
    text: Text<'a>,
    bytes: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.position += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    fn top_array(&mut self, mixed: &mut bool) -> Option<Vec<Word>> {
        let mut strings = Vec::new();
        self.take(b'[')?;
        self.blanks();
        if self.take(b']').is_none() {
            loop {
                self.blanks();
                let start = self.position;
                if self.peek() == Some(b'"') {
                    let string = self.string()?;
                    strings.push(self.text.slice(start, self.position).word_as(string));
                } else {
                    *mixed = true;
                    self.value(1)?;
                }
                self.blanks();
                if self.take(b',').is_none() {
                    self.take(b']')?;
                    break;
                }
            }
        }
        self.blanks();
        (self.position == self.bytes.len()).then_some(strings)
    }

    /// Checks a value without keeping it.
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.blanks();
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'[' => self.sequence(b'[', b']', |reader| reader.value(depth + 1)),
            b'{' => self.sequence(b'{', b'}', |reader| {
                reader.blanks();
                reader.string()?;
                reader.blanks();
                reader.take(b':')?;
                reader.value(depth + 1)
            }),
            b'-' | b'0'..=b'9' => self.number(),
            _ => ["true", "false", "null"].into_iter().find_map(|name| {
                self.bytes[self.position..].starts_with(name.as_bytes()).then(|| self.position += name.len())
            }),
        }
    }

    fn sequence(&mut self, open: u8, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(open)?;
        self.blanks();
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            self.blanks();
            if self.take(b',').is_none() {
                return self.take(close);
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.position;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.position += 1;
        }
        (self.position > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut string = String::new();
        loop {
            let rest = self.text.as_str().get(self.position..)?;
            let character = rest.chars().next()?;
            self.position += character.len_utf8();
            match character {
                '"' => return Some(string),
                '\\' => string.push(self.escape()?),
                '\0'..='\x1f' => return None,
                other => string.push(other),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.position += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex()?;
                let position = self.position;
                if let 0xd800..=0xdbff = unit
                    && self.bytes[position..].starts_with(b"\\u")
                {
                    self.position += 2;
                    let low = self.hex()?;
                    if let 0xdc00..=0xdfff = low {
                        return char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
                    }
                    self.position = position;
                }
                // Half of a surrogate pair.
                char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.position..self.position + 4)?;
        self.position += 4;
        digits.iter().try_fold(0, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::LogicalLine;

    fn check(input: &str, expected: Option<&[&str]>) {
        let line = LogicalLine::of(input);
        match parse_array(line.text()) {
            Json::Strings(words) => {
                assert_eq!(
                    Some(words.iter().map(Word::as_str).collect::<Vec<_>>().as_slice()),
                    expected,
                    "{input}"
                );
            }
            Json::Mixed => assert!(expected.is_none(), "{input}: mixed"),
            Json::No => assert!(expected.is_none(), "{input}: not an array"),
        }
    }

    #[test]
    fn arrays_of_strings() {
        check("[]", Some(&[]));
        check(r#"["a", "b c"]"#, Some(&["a", "b c"]));
        check(r#"[ "\n\u0041\ud83d\ude00\ud800" ] "#, Some(&["\nA😀\u{fffd}"]));
    }

    #[test]
    fn everything_else() {
        for input in [
            "",
            "a",
            "['a']",
            r#"["a",]"#,
            r#"["a" "b"]"#,
            r#"["a"] b"#,
            r#"["\x"]"#,
            r#"["a"#,
            "[1]",
            "[01]",
        ] {
            check(input, None);
        }
    }

    #[test]
    fn other_values_make_it_mixed_and_depth_is_bounded() {
        for (input, mixed) in [
            (r#"["a", 1]"#, true),
            (r#"[null, -1.5e+3, {"a": [true]}, false]"#, true),
            ("[01]", false),
            (&"[".repeat(100_000), false),
        ] {
            let line = LogicalLine::of(input);
            assert_eq!(matches!(parse_array(line.text()), Json::Mixed), mixed);
        }
    }
}
