//! From words to fields: POSIX 2.6.
//!
//! Parts are expanded from left to right into a [`Fields`], which splits what came from an unquoted expansion as it comes
//! and remembers what was quoted, for the patterns at the end.

use crate::arithmetic;
use crate::ast::{Bytes, Operation, Parameter, Part, Word};
use crate::pattern;
use crate::shell::{Flow, Opt, Shell};

type Result<T> = std::result::Result<T, Flow>;

/// A field that is being put together.
#[derive(Default)]
struct Field {
    text: Vec<u8>,
    /// Ranges of `text` that were quoted.
    quoted: Vec<(usize, usize)>,
    /// Whether a byte that was not quoted may be part of a pattern.
    special: bool,
    /// Whether it is a field even when empty.
    exists: bool,
}

impl Field {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && !self.exists
    }

    /// The text as a pattern in which quoted bytes mean themselves.
    fn pattern(&self) -> Vec<u8> {
        let mut pattern = Vec::with_capacity(self.text.len() + 8);
        let mut ranges = self.quoted.iter().peekable();
        for (at, byte) in self.text.iter().enumerate() {
            while ranges.next_if(|(_, end)| *end <= at).is_some() {}
            let quoted = ranges.peek().is_some_and(|(start, _)| *start <= at);
            if quoted && matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'!' | b'-' | b'^') {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        pattern
    }
}

/// Fields so far.
struct Fields {
    done: Vec<Field>,
    current: Field,
    /// The bytes of `IFS`; `None` where nothing is split.
    separators: Option<Bytes>,
}

impl Fields {
    fn new(separators: Option<Bytes>) -> Self {
        Self { done: Vec::new(), current: Field::default(), separators }
    }

    fn quoted(&mut self, text: &[u8]) {
        let start = self.current.text.len();
        self.current.text.extend_from_slice(text);
        self.current.quoted.push((start, self.current.text.len()));
        self.current.exists = true;
    }

    fn plain(&mut self, text: &[u8]) {
        self.current.special |= text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
        self.current.text.extend_from_slice(text);
    }

    fn end(&mut self) {
        self.done.push(std::mem::take(&mut self.current));
    }

    /// Text from an unquoted expansion.
    fn split(&mut self, text: &[u8]) {
        let separators = match &self.separators {
            Some(separators) if !separators.is_empty() => separators.clone(),
            _ => return self.plain(text),
        };
        let is_separator = |byte: &u8| separators.contains(byte);
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n');
        let mut rest = text;
        while let Some(end) = rest.iter().position(is_separator) {
            self.plain(&rest[..end]);
            let mut blank = is_blank(&rest[end]);
            rest = &rest[end + 1..];
            if blank && self.current.is_empty() {
                continue;
            }
            self.end();
            // Blanks around one other separator belong to it.
            while let Some(byte) = rest.first().filter(|byte| is_separator(byte)) {
                if !is_blank(byte) {
                    if !blank {
                        break;
                    }
                    blank = false;
                }
                rest = &rest[1..];
            }
        }
        self.plain(rest);
    }
}

/// How a word is expanded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tilde {
    /// At the start of the word.
    Start,
    /// At the start and after each `:`: the value of an assignment.
    Value,
    /// After the first `=` and then as in a value: an argument of `export`.
    Argument,
    /// Nowhere.
    Never,
}

/// What a parameter is.
enum Value {
    Unset,
    One(Bytes),
    /// `$@` and `$*`
    List(u8),
}

impl Shell {
    /// Expands words to the fields of a command.
    pub(crate) fn expand_words(&mut self, words: &[Word], fields: &mut Vec<Bytes>) -> Result<()> {
        words.iter().try_for_each(|word| self.expand_word(word, Tilde::Start, fields))
    }

    /// Expands one word to any number of fields.
    pub(crate) fn expand_word(&mut self, word: &Word, tilde: Tilde, fields: &mut Vec<Bytes>) -> Result<()> {
        if let [Part::Plain(text, false) | Part::Quoted(text)] = word.0.as_slice() {
            fields.push(text.clone());
            return Ok(());
        }
        let separators = self.variable(b"IFS").unwrap_or_else(|| Bytes::from(&b" \t\n"[..]));
        let mut collected = Fields::new(Some(separators));
        self.expand_parts(&word.0, tilde, false, &mut collected)?;
        let no_patterns = self.env.options.has(Opt::Noglob);
        let Fields { done, current, .. } = collected;
        for field in done.into_iter().map(|field| (field, true)).chain([(current, false)]) {
            let (field, ended) = field;
            if !ended && field.is_empty() {
                continue;
            }
            let found =
                if field.special && !no_patterns { pattern::glob(&field.pattern()) } else { Vec::new() };
            if found.is_empty() {
                fields.push(field.text.into());
            } else {
                fields.extend(found.into_iter().map(Bytes::from));
            }
        }
        Ok(())
    }

    fn expand_joined(&mut self, word: &Word, tilde: Tilde) -> Result<Field> {
        let mut collected = Fields::new(None);
        self.expand_parts(&word.0, tilde, false, &mut collected)?;
        Ok(collected.current)
    }

    /// Expands a word to one text: the value of an assignment, a file name, a here-document.
    pub(crate) fn expand_text(&mut self, word: &Word, tilde: Tilde) -> Result<Bytes> {
        match word.0.as_slice() {
            [Part::Plain(text, false) | Part::Quoted(text)] => Ok(text.clone()),
            _ => Ok(self.expand_joined(word, tilde)?.text.into()),
        }
    }

    /// Expands a word to a pattern.
    pub(crate) fn expand_pattern(&mut self, word: &Word) -> Result<Bytes> {
        match word.0.as_slice() {
            [Part::Plain(text, false)] => Ok(text.clone()),
            _ => Ok(self.expand_joined(word, Tilde::Start)?.pattern().into()),
        }
    }

    /// `inside`: the parts are the word of a `${...}`, whose own text is split too.
    fn expand_parts(
        &mut self,
        parts: &[Part],
        tilde: Tilde,
        inside: bool,
        fields: &mut Fields,
    ) -> Result<()> {
        for (at, part) in parts.iter().enumerate() {
            match part {
                Part::Plain(text, special) => {
                    let mut text = &text[..];
                    if *special && tilde != Tilde::Never {
                        text = self.expand_tildes(text, tilde, at == 0, at + 1 == parts.len(), fields);
                    }
                    if inside { fields.split(text) } else { fields.plain(text) }
                }
                Part::Quoted(text) => fields.quoted(text),
                Part::Parameter { quoted, name, operation } => {
                    self.expand_parameter(*quoted, name, operation, fields)?
                }
                Part::Command { quoted, body } => {
                    let output = match body {
                        Some(body) => self.substitute(body)?,
                        None => {
                            self.substitution_status = 0;
                            Vec::new()
                        }
                    };
                    if *quoted { fields.quoted(&output) } else { fields.split(&output) }
                }
                Part::Arithmetic { quoted, word } => {
                    let text = self.expand_text(word, Tilde::Never)?;
                    let value = arithmetic::evaluate(self, &text)?.to_string();
                    if *quoted { fields.quoted(value.as_bytes()) } else { fields.split(value.as_bytes()) }
                }
            }
        }
        Ok(())
    }

    /// Expands the tildes of a plain text into `fields`; what is left of the text is the answer.
    fn expand_tildes<'a>(
        &self,
        text: &'a [u8],
        tilde: Tilde,
        first: bool,
        last: bool,
        fields: &mut Fields,
    ) -> &'a [u8] {
        let mut rest = text;
        let mut start = first && tilde != Tilde::Argument;
        let mut colons = tilde == Tilde::Value;
        let mut equals = tilde == Tilde::Argument && first;
        loop {
            if start && rest.first() == Some(&b'~') {
                let ends = |byte: &u8| *byte == b'/' || (colons && *byte == b':');
                let end = rest.iter().position(ends);
                // The name ends with the word, or with a slash; a quote makes it no name.
                if end.is_some() || last {
                    let end = end.unwrap_or(rest.len());
                    if let Some(home) = self.home(&rest[1..end]) {
                        fields.quoted(&home);
                        rest = &rest[end..];
                    }
                }
            }
            let next = rest.iter().position(|byte| (colons && *byte == b':') || (equals && *byte == b'='));
            let Some(next) = next else { return rest };
            if equals {
                equals = false;
                colons = true;
            }
            fields.plain(&rest[..=next]);
            rest = &rest[next + 1..];
            start = true;
        }
    }

    /// The home directory of a user; of this one when the name is empty.
    fn home(&self, user: &[u8]) -> Option<Bytes> {
        if user.is_empty() {
            return self.variable(b"HOME");
        }
        let passwd = crate::builtins::read_file(b"/etc/passwd").ok()?;
        let line = passwd
            .split(|byte| *byte == b'\n')
            .find(|line| line.split(|byte| *byte == b':').next() == Some(user))?;
        line.split(|byte| *byte == b':').nth(5).map(Bytes::from)
    }

    fn parameter_value(&self, name: &Parameter) -> Value {
        match name {
            Parameter::Variable(name) => self.variable(name).map_or(Value::Unset, Value::One),
            Parameter::Positional(number) => {
                self.env.positional.get(number - 1).map_or(Value::Unset, |value| Value::One(value.clone()))
            }
            Parameter::Special(byte @ (b'@' | b'*')) => Value::List(*byte),
            Parameter::Special(byte) => self.special(*byte).map_or(Value::Unset, Value::One),
        }
    }

    fn special(&self, name: u8) -> Option<Bytes> {
        let number = match name {
            b'0' => return Some(self.zero.clone()),
            b'-' => return Some(self.env.options.letters().into()),
            b'#' => self.env.positional.len() as i64,
            b'?' => self.status.into(),
            b'$' => self.root_process.into(),
            _ => return self.env.last_background.map(|pid| pid.to_string().into_bytes().into()),
        };
        Some(number.to_string().into_bytes().into())
    }

    fn expand_parameter(
        &mut self,
        quoted: bool,
        name: &Parameter,
        operation: &Operation,
        fields: &mut Fields,
    ) -> Result<()> {
        let value = self.parameter_value(name);
        let missing = |colon: bool, shell: &Self| match &value {
            Value::Unset => true,
            Value::One(value) => colon && value.is_empty(),
            Value::List(_) => {
                let list = &shell.env.positional;
                // Without `:`, dash takes them for set, whether there are any or not.
                colon && list.iter().all(|value| value.is_empty()) && list.len() <= 1
            }
        };
        match operation {
            Operation::Bad => return Err(self.error(b"Bad substitution")),
            Operation::Default { colon, word } => {
                if missing(*colon, self) {
                    return self.expand_operand(quoted, word, fields);
                }
            }
            Operation::Alternative { colon, word } => {
                if !missing(*colon, self) {
                    return self.expand_operand(quoted, word, fields);
                }
                if quoted && !matches!(value, Value::List(b'@')) {
                    fields.quoted(b"");
                }
                return Ok(());
            }
            Operation::Assign { colon, word } => {
                if missing(*colon, self) {
                    let Parameter::Variable(name) = name else {
                        let message = [parameter_text(name), b": bad variable name".to_vec()].concat();
                        return Err(self.error(&message));
                    };
                    let text = self.expand_text(word, Tilde::Value)?;
                    self.set_variable(name, text.clone())?;
                    self.add_value(quoted, Value::One(text), fields);
                    return Ok(());
                }
            }
            Operation::Error { colon, word } => {
                if missing(*colon, self) {
                    let mut message = parameter_text(name);
                    message.extend_from_slice(b": ");
                    if word.0.is_empty() {
                        message.extend_from_slice(b"parameter not set");
                        if *colon {
                            message.extend_from_slice(b" or null");
                        }
                    } else {
                        message.extend_from_slice(&self.expand_text(word, Tilde::Start)?);
                    }
                    return Err(self.error(&message));
                }
            }
            Operation::None | Operation::Length | Operation::TrimStart { .. } | Operation::TrimEnd { .. } => {
                if matches!(value, Value::Unset) && self.env.options.has(Opt::Nounset) {
                    let message = [parameter_text(name), b": parameter not set".to_vec()].concat();
                    return Err(self.error(&message));
                }
            }
        }
        let value = match operation {
            Operation::Length => {
                let length = match &value {
                    Value::Unset => 0,
                    Value::One(value) => value.len(),
                    Value::List(_) => self.joined().len(),
                };
                Value::One(length.to_string().into_bytes().into())
            }
            Operation::TrimStart { longest, word } => self.trimmed(value, word, |pattern, text| {
                let mut ends: Box<dyn Iterator<Item = usize>> =
                    if *longest { Box::new((0..=text.len()).rev()) } else { Box::new(0..=text.len()) };
                ends.find(|end| pattern::matches(pattern, &text[..*end])).map(|end| text[end..].into())
            })?,
            Operation::TrimEnd { longest, word } => self.trimmed(value, word, |pattern, text| {
                let mut starts: Box<dyn Iterator<Item = usize>> =
                    if *longest { Box::new(0..=text.len()) } else { Box::new((0..=text.len()).rev()) };
                starts
                    .find(|start| pattern::matches(pattern, &text[*start..]))
                    .map(|start| text[..start].into())
            })?,
            _ => value,
        };
        // Only `"$@"` itself can be no field at all.
        if quoted && !matches!(operation, Operation::None) {
            fields.quoted(b"");
        }
        self.add_value(quoted, value, fields);
        Ok(())
    }

    /// The word of a `${...}` in its place. Between quotes it is a field even when empty, unless it is a `$@`.
    fn expand_operand(&mut self, quoted: bool, word: &Word, fields: &mut Fields) -> Result<()> {
        let list = |part: &Part| matches!(part, Part::Parameter { name: Parameter::Special(b'@'), .. });
        if quoted && !word.0.iter().any(list) {
            fields.quoted(b"");
        }
        self.expand_parts(&word.0, Tilde::Start, !quoted, fields)
    }

    fn trimmed(
        &mut self,
        value: Value,
        word: &Word,
        trim: impl Fn(&[u8], &[u8]) -> Option<Bytes>,
    ) -> Result<Value> {
        let pattern = self.expand_pattern(word)?;
        let text = match value {
            Value::Unset => return Ok(Value::Unset),
            Value::One(text) => text,
            Value::List(_) => self.joined().into(),
        };
        Ok(Value::One(trim(&pattern, &text).unwrap_or(text)))
    }

    /// The positional parameters as one text: `"$*"`.
    fn joined(&self) -> Vec<u8> {
        let joint: Vec<u8> = match self.variable(b"IFS") {
            Some(separators) => separators.first().copied().into_iter().collect(),
            None => vec![b' '],
        };
        self.env.positional.iter().map(|value| &value[..]).collect::<Vec<_>>().join(&joint[..])
    }

    fn add_value(&mut self, quoted: bool, value: Value, fields: &mut Fields) {
        match value {
            Value::Unset => {
                if quoted {
                    fields.quoted(b"");
                }
            }
            Value::One(value) => {
                if quoted {
                    fields.quoted(&value);
                } else {
                    fields.split(&value);
                }
            }
            Value::List(kind) if fields.separators.is_none() || (quoted && kind == b'*') => {
                let text = self.joined();
                if quoted { fields.quoted(&text) } else { fields.split(&text) }
            }
            Value::List(_) => {
                let values = self.env.positional.clone();
                for (at, value) in values.iter().enumerate() {
                    if at > 0 && (quoted || !fields.current.is_empty()) {
                        fields.end();
                    }
                    if quoted { fields.quoted(value) } else { fields.split(value) }
                }
            }
        }
    }

    /// Removes what ends an output that becomes text.
    pub(crate) fn trim_output(mut output: Vec<u8>) -> Vec<u8> {
        let length = output.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
        output.truncate(length);
        output.retain(|byte| *byte != 0);
        output
    }
}

fn parameter_text(name: &Parameter) -> Vec<u8> {
    match name {
        Parameter::Variable(name) => name.to_vec(),
        Parameter::Positional(number) => number.to_string().into_bytes(),
        Parameter::Special(byte) => vec![*byte],
    }
}
