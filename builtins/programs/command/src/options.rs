//! Command lines as `getopt_long` reads them.

use std::io::Write;

use crate::{Context, Tool, quote};
use toolbox_linux::file::Descriptor;

/// Options of a tool with a line of help each: `a/all`, `a`, `/all`; with `=` at the end the option needs an argument, with
/// `?` it may have one. An option's key is its long name, or the letter if it has none.
pub type Spec = &'static [(&'static str, &'static str)];

/// Where options may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Anywhere before `--`.
    Anywhere,
    /// Before the first operand, as for a tool that runs another command.
    First,
    /// As for `First`, and a word that begins with a dash and a digit is an operand.
    FirstNumbers,
    /// Nothing is an option; the tool reads its words itself, `--help` and `--version` too.
    Raw,
}

/// Whether an option has an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    None,
    Optional,
    Required,
}

/// A command line that was read.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// Options in their order, by key.
    pub options: Vec<(&'static str, Option<Vec<u8>>)>,
    /// Everything else.
    pub operands: Vec<Vec<u8>>,
}

impl Parsed {
    /// Whether an option was given.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.options.iter().any(|(option, _)| *option == key)
    }
    /// Argument of an option's last use.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.options.iter().rev().find(|(option, _)| *option == key).and_then(|(_, value)| value.as_deref())
    }
    /// The one of these options that was given last.
    #[must_use]
    pub fn last(&self, keys: &[&str]) -> Option<&'static str> {
        self.options.iter().rev().map(|(option, _)| *option).find(|option| keys.contains(option))
    }
    /// Argument of an option as text; what is not UTF-8 keeps no meaning for any tool.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.value(key).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// Letter, long name and argument of an entry.
pub(crate) fn names(entry: &'static str) -> (&'static str, &'static str, Argument) {
    let (names, argument) = match entry.as_bytes().last() {
        Some(b'=') if entry.len() > 1 => (&entry[..entry.len() - 1], Argument::Required),
        Some(b'?') if entry.len() > 1 => (&entry[..entry.len() - 1], Argument::Optional),
        _ => (entry, Argument::None),
    };
    let (short, long) = names.split_once('/').unwrap_or((names, ""));
    (short, long, argument)
}

fn key((short, long, argument): (&'static str, &'static str, Argument)) -> (&'static str, Argument) {
    (if long.is_empty() { short } else { long }, argument)
}

/// Reads a command line; a wrong one ends the program. [`crate::run`] has done it, but for [`Order::Raw`].
pub fn parse(tool: &Tool, context: &Context, words: Vec<Vec<u8>>) -> Parsed {
    let mut parsed = Parsed::default();
    if tool.order == Order::Raw {
        parsed.operands = words;
        return parsed;
    }
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let number = word.get(1).is_some_and(u8::is_ascii_digit);
        if word == b"--" {
            parsed.operands.extend(words);
            break;
        } else if let Some(long) = word.strip_prefix(b"--") {
            long_option(tool, context, long, &mut words, &mut parsed);
        } else if word.len() > 1 && word[0] == b'-' && !(number && tool.order == Order::FirstNumbers) {
            short_options(tool, context, &word[1..], &mut words, &mut parsed);
        } else {
            parsed.operands.push(word);
            if tool.order != Order::Anywhere {
                parsed.operands.extend(words);
                break;
            }
        }
    }
    parsed
}

fn long_option(
    tool: &Tool,
    context: &Context,
    word: &[u8],
    words: &mut impl Iterator<Item = Vec<u8>>,
    parsed: &mut Parsed,
) {
    let (name, value) = match word.iter().position(|&byte| byte == b'=') {
        Some(at) => (&word[..at], Some(word[at + 1..].to_vec())),
        None => (word, None),
    };
    let shown = String::from_utf8_lossy(name).into_owned();
    let all = tool.options.iter().map(|(entry, _)| names(entry));
    let builtin = [("", "help", Argument::None), ("", "version", Argument::None)];
    let entries: Vec<_> = all.chain(builtin).filter(|(_, long, _)| !long.is_empty()).collect();
    let exact = entries.iter().find(|(_, long, _)| long.as_bytes() == name);
    let close: Vec<_> = entries.iter().filter(|(_, long, _)| long.as_bytes().starts_with(name)).collect();
    let entry = match (exact, close.as_slice()) {
        (Some(entry), _) => *entry,
        (None, [entry]) => **entry,
        (None, []) => context.misused(format!("unrecognized option '--{}'", String::from_utf8_lossy(name))),
        (None, several) => {
            let list: String = several.iter().map(|(_, long, _)| format!(" '--{long}'")).collect();
            context.misused(format!("option '--{shown}' is ambiguous; possibilities:{list}"))
        }
    };
    let (key, argument) = key(entry);
    match (key, argument, value) {
        ("help", Argument::None, None) => show(&crate::help(tool)),
        ("version", Argument::None, None) => {
            show(&format!("{} (Cooper toolbox) {}\n", tool.name, env!("CARGO_PKG_VERSION")))
        }
        (_, Argument::None, Some(_)) => {
            context.misused(format!("option '--{key}' doesn't allow an argument"));
        }
        (_, Argument::Required, None) => match words.next() {
            Some(value) => parsed.options.push((key, Some(value))),
            None => context.misused(format!("option '--{key}' requires an argument")),
        },
        (_, _, value) => parsed.options.push((key, value)),
    }
}

fn short_options(
    tool: &Tool,
    context: &Context,
    letters: &[u8],
    words: &mut impl Iterator<Item = Vec<u8>>,
    parsed: &mut Parsed,
) {
    for (at, letter) in letters.iter().enumerate() {
        let entry = tool
            .options
            .iter()
            .map(|(entry, _)| names(entry))
            .find(|(short, ..)| short.as_bytes() == [*letter]);
        let Some(entry) = entry else {
            context.misused(format!("invalid option -- {}", quote::always(&[*letter])));
        };
        let (key, argument) = key(entry);
        let rest = &letters[at + 1..];
        match argument {
            Argument::None => parsed.options.push((key, None)),
            Argument::Optional => {
                parsed.options.push((key, (!rest.is_empty()).then(|| rest.to_vec())));
                return;
            }
            Argument::Required if !rest.is_empty() => {
                parsed.options.push((key, Some(rest.to_vec())));
                return;
            }
            Argument::Required => {
                let Some(value) = words.next() else {
                    context.misused(format!("option requires an argument -- '{}'", char::from(*letter)));
                };
                parsed.options.push((key, Some(value)));
                return;
            }
        }
    }
}

fn show(text: &str) -> ! {
    let written = Descriptor::keep(1).write_all(text.as_bytes());
    std::process::exit(i32::from(written.is_err()))
}
