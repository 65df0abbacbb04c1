//! A script and how it is read.

use std::collections::HashMap;

use toolbox_regex::{Flags, Regex, Syntax};

/// A line that an address names.
#[derive(Debug)]
pub(crate) enum Address {
    Line(u64),
    /// Every `step` lines from `first` on.
    Step(u64, u64),
    Last,
    /// `None`: the last expression that was used.
    Match(Option<Regex>),
}

#[derive(Debug)]
pub(crate) enum Until {
    Address(Address),
    Lines(u64),
    Multiple(u64),
}

/// Case of letters in a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Upper,
    LowerNext,
    UpperNext,
    End,
}

#[derive(Debug)]
pub(crate) enum Part {
    Text(Vec<u8>),
    Group(usize),
    Case(Case),
}

#[derive(Debug)]
pub(crate) struct Substitution {
    pub(crate) regex: Option<Regex>,
    pub(crate) parts: Vec<Part>,
    pub(crate) all: bool,
    pub(crate) number: u64,
    pub(crate) prints: u32,
    pub(crate) file: Option<usize>,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// Jumps behind its end, if it is not entered.
    Block(usize),
    Nothing,
    LineNumber,
    Append(Vec<u8>),
    Insert(Vec<u8>),
    Change(Vec<u8>),
    Branch(usize),
    BranchIf(usize),
    BranchUnless(usize),
    Delete,
    DeleteFirst,
    FileName,
    GetHold,
    AppendHold,
    Hold,
    HoldAppend,
    Exchange,
    List(Option<usize>),
    Next,
    NextAppend,
    Print,
    PrintFirst,
    Quit(i32),
    QuitSilently(i32),
    Read(Vec<u8>),
    ReadLine(usize),
    Substitute(Box<Substitution>),
    Write(usize),
    WriteFirst(usize),
    Translate(Box<[u8; 256]>),
    Zap,
}

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) from: Option<Address>,
    pub(crate) to: Option<Until>,
    pub(crate) inverted: bool,
    pub(crate) action: Action,
}

#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) commands: Vec<Command>,
    /// Files that are written.
    pub(crate) outputs: Vec<Vec<u8>>,
    /// Files that `R` reads.
    pub(crate) inputs: Vec<Vec<u8>>,
}

type Failure = (usize, String);

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    syntax: Syntax,
    program: Program,
}

/// Reads a script; a failure has the place in it.
pub(crate) fn parse(text: &[u8], syntax: Syntax, sandbox: bool) -> Result<Program, Failure> {
    let mut reader = Reader { text, at: 0, syntax, program: Program::default() };
    let mut blocks = Vec::new();
    let mut labels: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut jumps: Vec<(usize, Vec<u8>)> = Vec::new();
    loop {
        reader.skip(b" \t\n;\r");
        if reader.at >= text.len() {
            break;
        }
        reader.command(sandbox, &mut blocks, &mut labels, &mut jumps)?;
    }
    if let Some((_, at)) = blocks.pop() {
        let _ = at;
        return Err((0, "unmatched `{'".into()));
    }
    let end = reader.program.commands.len();
    for (command, label) in jumps {
        let target = if label.is_empty() { Some(end) } else { labels.get(&label).copied() };
        let Some(target) = target else {
            return Err((0, format!("can't find label for jump to `{}'", String::from_utf8_lossy(&label))));
        };
        match &mut reader.program.commands[command].action {
            Action::Branch(to) | Action::BranchIf(to) | Action::BranchUnless(to) => *to = target,
            _ => {}
        }
    }
    Ok(reader.program)
}

impl Reader<'_> {
    fn fail<T>(&self, message: &str) -> Result<T, Failure> {
        Err((self.at, message.to_owned()))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, bytes: &[u8]) {
        while self.peek().is_some_and(|byte| bytes.contains(&byte)) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Option<u64> {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&self.text[self.at..self.at + count]).ok()?.parse().ok()?;
        self.at += count;
        Some(number)
    }

    /// Text up to a delimiter that no backslash hides; in brackets it hides itself.
    fn delimited(&mut self, delimiter: u8, regex: bool) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut bracket = false;
        loop {
            let byte = self.next()?;
            if bracket {
                out.push(byte);
                if byte == b'[' && matches!(self.peek(), Some(b':' | b'.' | b'=')) {
                    // A class runs to its own end.
                    let mark = self.next()?;
                    out.push(mark);
                    loop {
                        let inner = self.next()?;
                        out.push(inner);
                        if inner == mark && self.peek() == Some(b']') {
                            out.push(self.next()?);
                            break;
                        }
                    }
                    continue;
                }
                bracket = byte != b']';
                continue;
            }
            match byte {
                byte if byte == delimiter => return Some(out),
                b'\\' => match self.next()? {
                    // An escaped delimiter is the byte itself, special or not.
                    escaped if escaped == delimiter => {
                        if !regex || escaped == b'&' {
                            out.push(b'\\');
                        }
                        if regex && b"^$*.[]+?(){}|".contains(&escaped) && escaped != b'|' {
                            out.push(b'\\');
                        }
                        out.push(escaped);
                        if !regex && escaped != b'&' && escaped != b'\\' {
                            let last = out.pop()?;
                            out.pop();
                            out.push(last);
                        }
                    }
                    b'n' if regex && delimiter != b'n' => out.extend(b"\\n"),
                    escaped => out.extend([b'\\', escaped]),
                },
                b'\n' if regex => return None,
                b'[' if regex => {
                    out.push(byte);
                    if self.peek() == Some(b'^') {
                        out.push(self.next()?);
                    }
                    if self.peek() == Some(b']') {
                        out.push(self.next()?);
                    }
                    bracket = true;
                }
                byte => out.push(byte),
            }
        }
    }

    fn regex(&self, pattern: &[u8], caseless: bool, lines: bool) -> Result<Option<Regex>, Failure> {
        if pattern.is_empty() {
            return Ok(None);
        }
        let flags = Flags { caseless, lines, escapes: true, bracket_escapes: false };
        Regex::new(&escapes(pattern), self.syntax, flags).map(Some).map_err(|message| (self.at, message))
    }

    fn address(&mut self) -> Result<Option<Address>, Failure> {
        let address = match self.peek() {
            Some(b'0'..=b'9') => {
                let Some(first) = self.number() else { return self.fail("invalid usage of line address 0") };
                self.skip(b" \t");
                if self.peek() == Some(b'~') {
                    self.at += 1;
                    self.skip(b" \t");
                    Address::Step(first, self.number().unwrap_or(0))
                } else {
                    Address::Line(first)
                }
            }
            Some(b'$') => {
                self.at += 1;
                Address::Last
            }
            Some(byte @ (b'/' | b'\\')) => {
                self.at += 1;
                let delimiter = if byte == b'/' { Some(byte) } else { self.next() };
                let pattern = delimiter.and_then(|delimiter| self.delimited(delimiter, true));
                let Some(pattern) = pattern else { return self.fail("unterminated address regex") };
                let (mut caseless, mut lines) = (false, false);
                loop {
                    match self.peek() {
                        Some(b'I') => caseless = true,
                        Some(b'M') => lines = true,
                        _ => break,
                    }
                    self.at += 1;
                }
                Address::Match(self.regex(&pattern, caseless, lines)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(address))
    }

    fn command(
        &mut self,
        sandbox: bool,
        blocks: &mut Vec<(usize, usize)>,
        labels: &mut HashMap<Vec<u8>, usize>,
        jumps: &mut Vec<(usize, Vec<u8>)>,
    ) -> Result<(), Failure> {
        let from = self.address()?;
        let mut to = None;
        self.skip(b" \t");
        if from.is_some() && self.peek() == Some(b',') {
            self.at += 1;
            self.skip(b" \t");
            to = Some(match self.peek() {
                Some(sign @ (b'+' | b'~')) => {
                    self.at += 1;
                    let Some(number) = self.number() else { return self.fail("expected number") };
                    if sign == b'+' { Until::Lines(number) } else { Until::Multiple(number) }
                }
                _ => match self.address()? {
                    Some(address) => Until::Address(address),
                    None => return self.fail("unexpected `,'"),
                },
            });
        }
        if matches!(from, Some(Address::Line(0))) && !matches!(to, Some(Until::Address(Address::Match(_)))) {
            return self.fail("invalid usage of line address 0");
        }
        self.skip(b" \t");
        let mut inverted = false;
        while self.peek() == Some(b'!') {
            self.at += 1;
            inverted = true;
            self.skip(b" \t");
        }
        let Some(letter) = self.next() else { return self.fail("missing command") };
        let index = self.program.commands.len();
        let addresses = usize::from(from.is_some()) + usize::from(to.is_some());
        let action = match letter {
            b'#' => {
                if addresses > 0 {
                    return self.fail("comments don't accept any addresses");
                }
                while self.peek().is_some_and(|byte| byte != b'\n') {
                    self.at += 1;
                }
                return Ok(());
            }
            b':' => {
                if addresses > 0 {
                    return self.fail(": doesn't want any addresses");
                }
                self.skip(b" \t");
                let label = self.word(b"\n;");
                if label.is_empty() {
                    return self.fail("\":\" lacks a label");
                }
                labels.insert(label, index);
                return Ok(());
            }
            b'{' => {
                blocks.push((index, self.at));
                Action::Block(0)
            }
            b'}' => {
                if addresses > 0 {
                    return self.fail("} doesn't want any addresses");
                }
                let Some((open, _)) = blocks.pop() else { return self.fail("unexpected `}'") };
                self.program.commands[open].action = Action::Block(index);
                self.ended()?;
                return Ok(());
            }
            b'=' => Action::LineNumber,
            b'a' => Action::Append(self.text_argument()?),
            b'i' => Action::Insert(self.text_argument()?),
            b'c' => Action::Change(self.text_argument()?),
            b'b' | b't' | b'T' => {
                self.skip(b" \t");
                let label = self.word(b"\n;}");
                jumps.push((index, label));
                match letter {
                    b'b' => Action::Branch(0),
                    b't' => Action::BranchIf(0),
                    _ => Action::BranchUnless(0),
                }
            }
            b'd' => Action::Delete,
            b'D' => Action::DeleteFirst,
            b'F' => Action::FileName,
            b'g' => Action::GetHold,
            b'G' => Action::AppendHold,
            b'h' => Action::Hold,
            b'H' => Action::HoldAppend,
            b'x' => Action::Exchange,
            b'l' => {
                self.skip(b" \t");
                Action::List(self.number().map(|width| width as usize))
            }
            b'n' => Action::Next,
            b'N' => Action::NextAppend,
            b'p' => Action::Print,
            b'P' => Action::PrintFirst,
            b'q' | b'Q' => {
                if to.is_some() {
                    return self.fail("command only uses one address");
                }
                self.skip(b" \t");
                let code = self.number().unwrap_or(0) as i32;
                if letter == b'q' { Action::Quit(code) } else { Action::QuitSilently(code) }
            }
            b'r' | b'R' | b'w' | b'W' => {
                if sandbox {
                    return self.fail("e/r/w commands disabled in sandbox mode");
                }
                self.skip(b" \t");
                let name = self.word(b"\n");
                if name.is_empty() {
                    return self.fail("missing filename in r/R/w/W commands");
                }
                match letter {
                    b'r' => Action::Read(name),
                    b'R' => Action::ReadLine(place(&mut self.program.inputs, name)),
                    b'w' => Action::Write(place(&mut self.program.outputs, name)),
                    _ => Action::WriteFirst(place(&mut self.program.outputs, name)),
                }
            }
            b's' => self.substitution(sandbox)?,
            b'y' => self.translation()?,
            b'z' => Action::Zap,
            b'v' => {
                self.word(b"\n;");
                Action::Nothing
            }
            b'e' => return self.fail("the command e is not supported"),
            other => return self.fail(&format!("unknown command: `{}'", char::from(other))),
        };
        if !matches!(action, Action::Block(_) | Action::Append(_) | Action::Insert(_) | Action::Change(_)) {
            self.ended()?;
        }
        self.program.commands.push(Command { from, to, inverted, action });
        Ok(())
    }

    /// A command ends at a newline, a semicolon, a brace or a comment.
    fn ended(&mut self) -> Result<(), Failure> {
        self.skip(b" \t\r");
        match self.peek() {
            None | Some(b'}' | b'#') => Ok(()),
            Some(b'\n' | b';') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => {
                self.at += 1;
                self.fail("extra characters after command")
            }
        }
    }

    fn word(&mut self, ends: &[u8]) -> Vec<u8> {
        let start = self.at;
        while self.peek().is_some_and(|byte| !ends.contains(&byte)) {
            self.at += 1;
        }
        let word = &self.text[start..self.at];
        let length = if ends == b"\n" { word.len() } else { word.trim_ascii_end().len() };
        word[..length].to_vec()
    }

    /// The text of `a`, `i`, `c`: on the same line or, behind a backslash, on the next.
    fn text_argument(&mut self) -> Result<Vec<u8>, Failure> {
        self.skip(b" \t");
        if self.peek().is_none() {
            return self.fail("expected \\ after `a', `c' or `i'");
        }
        if self.peek() == Some(b'\\') {
            self.at += 1;
            let blank = self.at;
            self.skip(b" \t");
            if self.peek() == Some(b'\n') {
                self.at += 1;
            } else if blank != self.at || self.peek().is_some() {
                // `a\text`: GNU's one-line form, whose leading blanks count.
                self.at = if self.peek() == Some(b'\n') { self.at } else { blank };
            } else {
                return Ok(Vec::new());
            }
        }
        let mut out = Vec::new();
        while let Some(byte) = self.next() {
            match byte {
                b'\\' => match self.next() {
                    Some(b't') => out.push(b'\t'),
                    Some(escaped) => out.push(escaped),
                    None => {}
                },
                b'\n' => break,
                byte => out.push(byte),
            }
        }
        out.push(b'\n');
        Ok(out)
    }

    fn substitution(&mut self, sandbox: bool) -> Result<Action, Failure> {
        let delimiter = match self.next() {
            Some(b'\n' | b'\\') | None => return self.fail("unterminated `s' command"),
            Some(delimiter) => delimiter,
        };
        let Some(pattern) = self.delimited(delimiter, true) else {
            return self.fail("unterminated `s' command");
        };
        let Some(replacement) = self.delimited(delimiter, false) else {
            return self.fail("unterminated `s' command");
        };
        let mut substitution = Substitution {
            regex: None,
            parts: replacement_parts(&replacement),
            all: false,
            number: 1,
            prints: 0,
            file: None,
        };
        let (mut caseless, mut lines, mut numbered) = (false, false, false);
        loop {
            match self.peek() {
                Some(b'g') if substitution.all => return self.fail("multiple `g' options to `s' command"),
                Some(b'g') => substitution.all = true,
                Some(b'p') => substitution.prints += 1,
                Some(b'i' | b'I') => caseless = true,
                Some(b'm' | b'M') => lines = true,
                Some(b'0'..=b'9') => {
                    if numbered {
                        return self.fail("multiple number options to `s' command");
                    }
                    numbered = true;
                    match self.number() {
                        Some(0) | None => return self.fail("number option to `s' command may not be zero"),
                        Some(number) => substitution.number = number,
                    }
                    continue;
                }
                Some(b'w') => {
                    if sandbox {
                        return self.fail("e/r/w commands disabled in sandbox mode");
                    }
                    self.at += 1;
                    self.skip(b" \t");
                    let name = self.word(b"\n");
                    substitution.file = Some(place(&mut self.program.outputs, name));
                    break;
                }
                Some(b'e') => return self.fail("the option e of the `s' command is not supported"),
                Some(b'}' | b'#' | b';' | b'\n' | b' ' | b'\t' | b'\r') | None => break,
                Some(_) => {
                    self.at += 1;
                    return self.fail("unknown option to `s'");
                }
            }
            self.at += 1;
        }
        substitution.regex = self.regex(&pattern, caseless, lines)?;
        let groups = substitution.regex.as_ref().map_or(9, Regex::groups);
        for part in &substitution.parts {
            if let Part::Group(group) = part
                && *group > groups
            {
                return self.fail(&format!("invalid reference \\{group} on `s' command's RHS"));
            }
        }
        Ok(Action::Substitute(Box::new(substitution)))
    }

    fn translation(&mut self) -> Result<Action, Failure> {
        let Some(delimiter) = self.next() else { return self.fail("unterminated `y' command") };
        let mut halves = Vec::new();
        for _ in 0..2 {
            let mut half = Vec::new();
            loop {
                match self.next() {
                    None => return self.fail("unterminated `y' command"),
                    Some(byte) if byte == delimiter => break,
                    Some(b'\\') => match self.next() {
                        Some(b'n') => half.push(b'\n'),
                        Some(b't') => half.push(b'\t'),
                        Some(b'\\') => half.push(b'\\'),
                        Some(byte) if byte == delimiter => half.push(byte),
                        Some(other) => half.extend([b'\\', other]),
                        None => return self.fail("unterminated `y' command"),
                    },
                    Some(byte) => half.push(byte),
                }
            }
            halves.push(half);
        }
        if halves[0].len() != halves[1].len() {
            return self.fail("strings for `y' command are different lengths");
        }
        let mut table = [0u8; 256];
        for (at, entry) in table.iter_mut().enumerate() {
            *entry = at as u8;
        }
        for (from, to) in halves[0].iter().zip(&halves[1]) {
            table[usize::from(*from)] = *to;
        }
        Ok(Action::Translate(Box::new(table)))
    }
}

fn place(list: &mut Vec<Vec<u8>>, name: Vec<u8>) -> usize {
    list.iter().position(|known| *known == name).unwrap_or_else(|| {
        list.push(name);
        list.len() - 1
    })
}

/// Replaces `\xHH`, `\oNNN`, `\dNNN` and `\cX` by their byte, hidden if it is special.
fn escapes(pattern: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), pattern);
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        match number_escape(rest) {
            Some((byte, after)) => {
                rest = after;
                if b"^$*.[]\\".contains(&byte) {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            None => {
                out.push(b'\\');
                if let [letter, after @ ..] = rest {
                    out.push(*letter);
                    rest = after;
                }
            }
        }
    }
    out
}

fn number_escape(rest: &[u8]) -> Option<(u8, &[u8])> {
    let (letter, digits) = rest.split_first()?;
    let (base, most): (u32, usize) = match letter {
        b'x' => (16, 2),
        b'o' => (8, 3),
        b'd' => (10, 3),
        b'c' => return digits.split_first().map(|(byte, after)| (byte.to_ascii_uppercase() ^ 0x40, after)),
        _ => return None,
    };
    let count = digits.iter().take(most).take_while(|byte| char::from(**byte).is_digit(base)).count();
    let text = std::str::from_utf8(&digits[..count]).ok()?;
    Some((u32::from_str_radix(text, base).ok()? as u8, &digits[count..]))
}

fn replacement_parts(text: &[u8]) -> Vec<Part> {
    let (mut parts, mut plain, mut rest) = (Vec::new(), Vec::new(), text);
    while let [byte, after @ ..] = rest {
        rest = after;
        let part = match byte {
            b'&' => Part::Group(0),
            b'\\' => {
                let [letter, after @ ..] = rest else { break };
                if let Some((byte, after)) = number_escape(rest) {
                    plain.push(byte);
                    rest = after;
                    continue;
                }
                rest = after;
                match letter {
                    b'0'..=b'9' => Part::Group(usize::from(letter - b'0')),
                    b'L' => Part::Case(Case::Lower),
                    b'U' => Part::Case(Case::Upper),
                    b'l' => Part::Case(Case::LowerNext),
                    b'u' => Part::Case(Case::UpperNext),
                    b'E' => Part::Case(Case::End),
                    other => {
                        plain.push(match other {
                            b'n' => b'\n',
                            b't' => b'\t',
                            b'r' => b'\r',
                            b'f' => 12,
                            b'v' => 11,
                            b'a' => 7,
                            other => *other,
                        });
                        continue;
                    }
                }
            }
            byte => {
                plain.push(*byte);
                continue;
            }
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(part);
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    parts
}
