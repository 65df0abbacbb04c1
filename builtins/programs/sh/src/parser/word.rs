//! Tokens and the parts of words.

use std::rc::Rc;

use super::{Ends, Expect, Operator, Parser, PendingHere, Result, Token, WORD};
use crate::ast::{Bytes, Node, Operation, Parameter, Part, RedirectionKind, Word};
use crate::parser::Input;

/// Where a text is, which decides what its bytes mean and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A word outside quotes: ends before a blank or an operator.
    Word,
    /// The word of `${...}` outside double quotes: ends at `}`.
    Braces,
    /// The word of `${...}` inside double quotes.
    QuotedBraces,
    /// Ends at `"`.
    DoubleQuotes,
    /// Ends with the text.
    Here,
    /// Ends at `))`.
    Arithmetic,
}

impl Place {
    fn is_quoted(self) -> bool {
        !matches!(self, Self::Word | Self::Braces)
    }

    /// Whether `\` makes the byte after it an ordinary one, where not everything can be escaped.
    fn escapes(self, byte: u8) -> bool {
        match byte {
            b'$' | b'`' | b'\\' => true,
            b'"' => matches!(self, Self::DoubleQuotes | Self::QuotedBraces),
            b'}' => self == Self::QuotedBraces,
            _ => false,
        }
    }
}

/// Collects parts; neighbouring texts of one kind become one part.
#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
    text: Vec<u8>,
    quoted: bool,
}

impl Parts {
    fn push(&mut self, byte: u8, quoted: bool) {
        if quoted != self.quoted {
            self.flush();
            self.quoted = quoted;
        }
        self.text.push(byte);
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            let text = Bytes::from(std::mem::take(&mut self.text));
            self.parts.push(if self.quoted {
                Part::Quoted(text)
            } else {
                let special = text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'~'));
                Part::Plain(text, special)
            });
        }
    }

    fn part(&mut self, part: Part) {
        self.flush();
        self.parts.push(part);
    }

    fn finish(mut self) -> Vec<Part> {
        self.flush();
        self.parts
    }
}

impl Parser<'_> {
    pub(super) fn read_token(&mut self) -> Result<Token> {
        loop {
            match self.input.peek_joined() {
                Some(b' ' | b'\t') => self.input.bump(),
                Some(b'#') => {
                    while !matches!(self.input.peek(), None | Some(b'\n')) {
                        self.input.bump();
                    }
                }
                _ => break,
            }
        }
        let Some(byte) = self.input.peek() else {
            self.read_pending()?;
            return Ok(Token::End);
        };
        let either = |parser: &mut Self, second: u8, double: Token, single: Token| {
            parser.input.bump();
            if parser.input.peek_joined() == Some(second) {
                parser.input.bump();
                return Ok(double);
            }
            Ok(single)
        };
        match byte {
            b'\n' => {
                self.input.bump();
                self.read_pending()?;
                Ok(Token::Newline)
            }
            b'&' => either(self, b'&', Token::And, Token::Background),
            b'|' => either(self, b'|', Token::Or, Token::Pipe),
            b';' => either(self, b';', Token::EndCase, Token::Semicolon),
            b'(' | b')' => {
                self.input.bump();
                Ok(if byte == b'(' { Token::Open } else { Token::Close })
            }
            b'<' | b'>' => Ok(Token::Redirection { fd: None, operator: self.operator(byte) }),
            b'0'..=b'9' if matches!(self.input.peek_second(), Some(b'<' | b'>')) => {
                self.input.bump();
                let operator = self.input.peek().unwrap_or_default();
                Ok(Token::Redirection { fd: Some(byte - b'0'), operator: self.operator(operator) })
            }
            _ => {
                let parts = self.parts(Place::Word)?;
                let quoted = !matches!(parts.as_slice(), [Part::Plain(..)]);
                Ok(Token::Word { word: Word(parts), quoted })
            }
        }
    }

    fn operator(&mut self, first: u8) -> Operator {
        self.input.bump();
        let second = self.input.peek_joined();
        let fd = u8::from(first == b'>');
        let (kind, long) = match (first, second) {
            (b'<', Some(b'<')) => {
                self.input.bump();
                let strip = self.input.peek_joined() == Some(b'-');
                if strip {
                    self.input.bump();
                }
                return Operator::Here { strip };
            }
            (_, Some(b'&')) => (RedirectionKind::Duplicate, true),
            (b'<', Some(b'>')) => (RedirectionKind::ReadWrite, true),
            (b'<', _) => (RedirectionKind::Read, false),
            (_, Some(b'>')) => (RedirectionKind::Append, true),
            (_, Some(b'|')) => (RedirectionKind::Clobber, true),
            _ => (RedirectionKind::Write, false),
        };
        if long {
            self.input.bump();
        }
        Operator::File { kind, fd }
    }

    fn parts(&mut self, place: Place) -> Result<Vec<Part>> {
        self.nested(|parser| parser.parts_inside(place))
    }

    fn parts_inside(&mut self, place: Place) -> Result<Vec<Part>> {
        let mut parts = Parts::default();
        let quoted = place.is_quoted();
        let mut parentheses = 0u32;
        loop {
            let Some(byte) = self.input.peek() else {
                return match place {
                    Place::Word | Place::Here => Ok(parts.finish()),
                    Place::DoubleQuotes => self.error("Unterminated quoted string"),
                    Place::Braces | Place::QuotedBraces => self.error("Missing '}'"),
                    Place::Arithmetic => self.error("Missing '))'"),
                };
            };
            match (byte, place) {
                (b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>', Place::Word) => {
                    return Ok(parts.finish());
                }
                (b'}', Place::Braces | Place::QuotedBraces) | (b'"', Place::DoubleQuotes) => {
                    self.input.bump();
                    return Ok(parts.finish());
                }
                (b'(', Place::Arithmetic) => {
                    parentheses += 1;
                    self.input.bump();
                    parts.push(byte, true);
                }
                (b')', Place::Arithmetic) => {
                    self.input.bump();
                    if parentheses == 0 && self.input.peek_joined() == Some(b')') {
                        self.input.bump();
                        return Ok(parts.finish());
                    }
                    parentheses = parentheses.saturating_sub(1);
                    parts.push(byte, true);
                }
                (b'\\', _) => {
                    self.input.bump();
                    match self.input.peek() {
                        Some(b'\n') => self.input.bump(),
                        Some(next) if !quoted || place.escapes(next) => {
                            self.input.bump();
                            parts.push(next, true);
                        }
                        _ => parts.push(b'\\', true),
                    }
                }
                (b'\'', Place::Word | Place::Braces) => {
                    self.input.bump();
                    let text = self.single_quoted()?;
                    parts.part(Part::Quoted(text.into()));
                }
                (b'"', Place::Word | Place::Braces) => {
                    self.input.bump();
                    let inner = self.parts(Place::DoubleQuotes)?;
                    parts.flush();
                    if inner.is_empty() {
                        parts.part(Part::Quoted(Bytes::from(&b""[..])));
                    }
                    parts.parts.extend(inner);
                }
                // Quotes inside quotes: what they hold is quoted as what is around them.
                (b'"', Place::QuotedBraces) => self.input.bump(),
                (b'$', _) => {
                    self.input.bump();
                    match self.dollar(place)? {
                        Some(part) => parts.part(part),
                        None => parts.push(b'$', quoted),
                    }
                }
                (b'`', _) => {
                    self.input.bump();
                    let body = self.backquotes(place)?;
                    parts.part(Part::Command { quoted, body });
                }
                _ => {
                    self.input.bump();
                    parts.push(byte, quoted);
                }
            }
        }
    }

    fn single_quoted(&mut self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            match self.input.next() {
                None => return self.error("Unterminated quoted string"),
                Some(b'\'') => return Ok(text),
                Some(byte) => text.push(byte),
            }
        }
    }

    /// What a `$` begins; `None` when it is only a `$`.
    fn dollar(&mut self, place: Place) -> Result<Option<Part>> {
        let quoted = place.is_quoted();
        let Some(byte) = self.input.peek_joined() else { return Ok(None) };
        let plain = |name| Ok(Some(Part::Parameter { quoted, name, operation: Operation::None }));
        match byte {
            b'(' => {
                self.input.bump();
                if self.input.peek_joined() == Some(b'(') {
                    self.input.bump();
                    let word = Word(self.parts(Place::Arithmetic)?);
                    return Ok(Some(Part::Arithmetic { quoted, word }));
                }
                let body = self.command_substitution()?;
                Ok(Some(Part::Command { quoted, body }))
            }
            b'{' => {
                self.input.bump();
                self.braces(place).map(Some)
            }
            b'0' => {
                self.input.bump();
                plain(Parameter::Special(b'0'))
            }
            b'1'..=b'9' => {
                self.input.bump();
                plain(Parameter::Positional(usize::from(byte - b'0')))
            }
            b'@' | b'*' | b'#' | b'?' | b'-' | b'$' | b'!' => {
                self.input.bump();
                plain(Parameter::Special(byte))
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let name = self.name();
                plain(Parameter::Variable(name))
            }
            _ => Ok(None),
        }
    }

    fn name(&mut self) -> Bytes {
        let mut name = Vec::new();
        while let Some(byte @ (b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')) = self.input.peek_joined() {
            self.input.bump();
            name.push(byte);
        }
        name.into()
    }

    /// The name of a parameter between braces, of any kind.
    fn parameter(&mut self) -> Option<Parameter> {
        match self.input.peek_joined()? {
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => Some(Parameter::Variable(self.name())),
            b'0'..=b'9' => {
                let digits = self.name();
                let number = std::str::from_utf8(&digits).ok()?.parse().ok()?;
                Some(if number == 0 { Parameter::Special(b'0') } else { Parameter::Positional(number) })
            }
            byte @ (b'@' | b'*' | b'#' | b'?' | b'-' | b'$' | b'!') => {
                self.input.bump();
                Some(Parameter::Special(byte))
            }
            _ => None,
        }
    }

    fn braces(&mut self, place: Place) -> Result<Part> {
        let quoted = place.is_quoted();
        let part = |name, operation| Ok(Part::Parameter { quoted, name, operation });
        let bad = |parser: &mut Self| {
            parser.parts(if quoted { Place::QuotedBraces } else { Place::Braces })?;
            part(Parameter::Special(b'#'), Operation::Bad)
        };
        if self.input.peek_joined() == Some(b'#') {
            self.input.bump();
            let next = self.input.peek_joined();
            let second = self.input.peek_second();
            // `${#}`, `${#-word}`, `${##word}` are about `$#`; `${#-}` and `${##}` are lengths.
            let length = match next {
                Some(b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9') => true,
                Some(b'}') | None => false,
                Some(_) => second == Some(b'}'),
            };
            if length {
                let Some(name) = self.parameter() else { return bad(self) };
                if self.input.peek_joined() != Some(b'}') {
                    return bad(self);
                }
                self.input.bump();
                return part(name, Operation::Length);
            }
            return self.operation(place, Parameter::Special(b'#'));
        }
        match self.parameter() {
            Some(name) => self.operation(place, name),
            None => bad(self),
        }
    }

    fn operation(&mut self, place: Place, name: Parameter) -> Result<Part> {
        let quoted = place.is_quoted();
        let mut byte = self.input.peek_joined();
        if byte == Some(b'}') {
            self.input.bump();
            return Ok(Part::Parameter { quoted, name, operation: Operation::None });
        }
        let colon = byte == Some(b':');
        if colon {
            self.input.bump();
            byte = self.input.peek_joined();
        }
        // The word of `#` and `%` is a pattern, in which quotes count also inside double quotes.
        let trims = !colon && matches!(byte, Some(b'#' | b'%'));
        let inner = if quoted && !trims { Place::QuotedBraces } else { Place::Braces };
        let operator = match byte {
            Some(operator @ (b'-' | b'=' | b'?' | b'+')) => operator,
            Some(operator) if trims => operator,
            _ => 0,
        };
        let mut longest = false;
        if operator != 0 {
            self.input.bump();
            if trims && self.input.peek_joined() == Some(operator) {
                self.input.bump();
                longest = true;
            }
        }
        let word = Word(self.parts(inner)?);
        let operation = match operator {
            b'-' => Operation::Default { colon, word },
            b'=' => Operation::Assign { colon, word },
            b'?' => Operation::Error { colon, word },
            b'+' => Operation::Alternative { colon, word },
            b'#' => Operation::TrimStart { longest, word },
            b'%' => Operation::TrimEnd { longest, word },
            _ => Operation::Bad,
        };
        Ok(Part::Parameter { quoted, name, operation })
    }

    /// `$(...)`, after its parenthesis.
    fn command_substitution(&mut self) -> Result<Option<Rc<Node>>> {
        let pushed_back = self.pushed_back.take();
        let pending = std::mem::take(&mut self.pending);
        let texts = std::mem::take(&mut self.texts);
        let mut node = self.list(Ends::Keyword { empty: true })?;
        match self.next(Expect { keywords: true, ..WORD })? {
            Token::Close => {}
            token => return self.expected(&token, &Token::Close),
        }
        self.fill_here_documents(&mut node);
        self.pushed_back = pushed_back;
        self.pending = pending;
        self.texts = texts;
        Ok(some_command(node))
    }

    /// A command between backquotes, after the first.
    fn backquotes(&mut self, place: Place) -> Result<Option<Rc<Node>>> {
        let mut text = Vec::new();
        let line = self.input.line();
        loop {
            match self.input.next() {
                None => return self.error("EOF in backquote substitution"),
                Some(b'`') => break,
                Some(b'\\') => match self.input.next() {
                    None => return self.error("EOF in backquote substitution"),
                    Some(b'\n') => {}
                    Some(byte) => {
                        let escaped =
                            matches!(byte, b'\\' | b'`' | b'$') || (byte == b'"' && place.is_quoted());
                        if !escaped {
                            text.push(b'\\');
                        }
                        text.push(byte);
                    }
                },
                Some(byte) => text.push(byte),
            }
        }
        let mut input = self.input.inner(&text).at_line(line);
        let mut inner = Parser {
            input: &mut input,
            pushed_back: None,
            depth: self.depth + 1,
            pending: Vec::new(),
            texts: Vec::new(),
        };
        let mut node = inner.nested(|inner| inner.list(Ends::Keyword { empty: true }))?;
        match inner.next(Expect { keywords: true, ..WORD })? {
            Token::End => {}
            token => return inner.unexpected(&token),
        }
        inner.fill_here_documents(&mut node);
        Ok(some_command(node))
    }

    /// Reads the text of a here-document, up to its delimiter or the end of the input.
    pub(super) fn here_document(&mut self, here: &PendingHere) -> Result<Word> {
        let line = self.input.line();
        let mut text = Vec::new();
        let mut joined = false;
        while self.input.peek().is_some() {
            let mut current = Vec::new();
            if here.strip {
                while self.input.peek() == Some(b'\t') {
                    self.input.bump();
                }
            }
            let mut complete = false;
            while let Some(byte) = self.input.next() {
                if byte == b'\n' {
                    complete = true;
                    break;
                }
                current.push(byte);
            }
            if !joined && current == here.delimiter {
                break;
            }
            let backslashes = current.iter().rev().take_while(|byte| **byte == b'\\').count();
            joined = !here.quoted && backslashes % 2 == 1;
            text.extend_from_slice(&current);
            if complete {
                text.push(b'\n');
            }
        }
        if here.quoted {
            return Ok(Word(if text.is_empty() { Vec::new() } else { vec![Part::Quoted(text.into())] }));
        }
        let mut input: Input = self.input.inner(&text).at_line(line);
        let mut inner = Parser {
            input: &mut input,
            pushed_back: None,
            depth: self.depth + 1,
            pending: Vec::new(),
            texts: Vec::new(),
        };
        inner.here_text()
    }

    pub(super) fn here_text(&mut self) -> Result<Word> {
        Ok(Word(self.parts(Place::Here)?))
    }
}

fn some_command(node: Node) -> Option<Rc<Node>> {
    match node {
        Node::List(commands) if commands.is_empty() => None,
        node => Some(Rc::new(node)),
    }
}

/// The text of a word without its quotes and without expanding it: the delimiter of a here-document.
pub(super) fn source_text(word: &Word) -> Vec<u8> {
    let mut text = Vec::new();
    for part in &word.0 {
        match part {
            Part::Plain(bytes, _) | Part::Quoted(bytes) => text.extend_from_slice(bytes),
            Part::Parameter { name, .. } => {
                text.push(b'$');
                match name {
                    Parameter::Variable(name) => text.extend_from_slice(name),
                    Parameter::Positional(number) => text.extend_from_slice(number.to_string().as_bytes()),
                    Parameter::Special(byte) => text.push(*byte),
                }
            }
            Part::Command { .. } | Part::Arithmetic { .. } => {}
        }
    }
    text
}
