//! The `--name=value` flags between a keyword and its arguments.

use crate::diagnostic::{Code, Diagnostic};
use crate::source::Text;
use crate::span::{Span, Word};
use crate::suggest;

/// More flags on one instruction than this is refused.
pub(crate) const MAX_FLAGS: usize = 1000;

/// A flag as written, quotes and escapes removed.
#[derive(Debug, Clone)]
pub(crate) struct RawFlag {
    pub(crate) name: String,
    pub(crate) value: Option<Word>,
    pub(crate) span: Span,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// `true`, `false` or nothing, once.
    Bool,
    /// A value, once.
    Value,
    /// A value, repeatable.
    Values,
}

/// The flags an instruction knows.
pub(crate) type FlagTable = &'static [(&'static str, FlagKind)];

/// Takes the flags off the start of the arguments. Quotes group, `\` protects the next character; both go away.
pub(crate) fn split_flags(arguments: Text<'_>) -> (Vec<RawFlag>, Text<'_>) {
    let source = arguments.as_str();
    let mut flags = Vec::new();
    let mut position = 0;
    loop {
        position += source[position..].len() - source[position..].trim_start().len();
        if !source[position..].starts_with("--") || flags.len() > MAX_FLAGS {
            return (flags, arguments.from(position));
        }
        let (text, length) = unquote(&source[position..]);
        if text == "--" {
            return (flags, arguments.from(position + length));
        }
        flags.push(raw_flag(text, arguments.slice(position, position + length)));
        position += length;
    }
}

/// Reads one word; gives it without quotes and escapes, and the number of bytes it took.
fn unquote(source: &str) -> (String, usize) {
    let mut text = String::new();
    let mut quote = None;
    let mut characters = source.char_indices();
    while let Some((offset, character)) = characters.next() {
        match (quote, character) {
            (None, character) if character.is_whitespace() => return (text, offset),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), character) if open == character => quote = None,
            (_, '\\') => text.extend(characters.next().map(|(_, escaped)| escaped)),
            (_, character) => text.push(character),
        }
    }
    (text, source.len())
}

fn raw_flag(text: String, place: Text<'_>) -> RawFlag {
    let span = place.span();
    let exact = text == place.as_str();
    match text.split_once('=') {
        None => RawFlag { name: text[2..].to_owned(), value: None, span },
        Some((name, value)) => {
            let value_place = if exact { place.from(name.len() + 1) } else { place };
            RawFlag {
                name: name.get(2..).unwrap_or_default().to_owned(),
                value: Some(value_place.word_as(value)),
                span,
            }
        }
    }
}

/// Flags after they were checked against a table.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    flags: Vec<RawFlag>,
}

impl Flags {
    /// Checks names, repetition and values; what is wrong goes to `diagnostics`.
    pub(crate) fn check(
        raw: Vec<RawFlag>,
        table: FlagTable,
        instruction: &str,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut checked: Vec<RawFlag> = Vec::new();
        for flag in raw {
            match Self::check_one(&flag, table, instruction, &checked) {
                Ok(()) => checked.push(flag),
                Err(diagnostic) => diagnostics.push(*diagnostic),
            }
        }
        Self { flags: checked }
    }

    fn check_one(
        flag: &RawFlag,
        table: FlagTable,
        instruction: &str,
        before: &[RawFlag],
    ) -> Result<(), Box<Diagnostic>> {
        let name = &flag.name;
        let error = |code, message: String| Err(Box::new(Diagnostic::error(code, message, flag.span)));
        let Some((_, kind)) = table.iter().find(|(known, _)| known == name) else {
            let diagnostic = Diagnostic::error(
                Code::UnknownFlag,
                format!("unknown flag `--{name}` for {instruction}"),
                flag.span,
            );
            let suggestion = suggest::closest(name, table.iter().map(|(known, _)| *known));
            return Err(Box::new(match (suggestion, table.is_empty()) {
                (Some(suggestion), _) => diagnostic.hint(format!("did you mean `--{suggestion}`?")),
                (None, true) => diagnostic.hint(format!("{instruction} takes no flags")),
                (None, false) => {
                    let known: Vec<String> = table.iter().map(|(known, _)| format!("`--{known}`")).collect();
                    diagnostic.hint(format!("{instruction} takes {}", known.join(", ")))
                }
            }));
        };
        if *kind != FlagKind::Values
            && let Some(first) = before.iter().find(|other| other.name == *name)
        {
            let diagnostic =
                Diagnostic::error(Code::DuplicateFlag, format!("flag `--{name}` is given twice"), flag.span);
            return Err(Box::new(diagnostic.also(first.span, "first given here")));
        }
        match (kind, &flag.value) {
            (FlagKind::Bool, None) => Ok(()),
            (FlagKind::Bool, Some(value)) if is_bool(&value.text) => Ok(()),
            (FlagKind::Bool, Some(value)) if !value.text.is_empty() => error(
                Code::InvalidValue,
                format!("flag `--{name}` takes `true` or `false`: `{}`", value.text),
            ),
            (FlagKind::Value | FlagKind::Values, Some(_)) => Ok(()),
            _ => error(Code::MissingFlagValue, format!("flag `--{name}` needs a value")),
        }
    }

    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        let flag = self.flags.iter().find(|flag| flag.name == name)?;
        Some(flag.value.as_ref().is_none_or(|value| value.text.eq_ignore_ascii_case("true")))
    }

    pub(crate) fn value(&self, name: &str) -> Option<Word> {
        self.values(name).next()
    }

    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = Word> {
        self.flags.iter().filter(move |flag| flag.name == name).filter_map(|flag| flag.value.clone())
    }
}

fn is_bool(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
}
