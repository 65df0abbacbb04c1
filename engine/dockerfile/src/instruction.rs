//! One logical line to one typed instruction.

use std::time::Duration;

use crate::ast::{
    Add, ArgDeclaration, CommandLine, Copy, CopySource, Escape, From, Healthcheck, Heredoc, Instruction,
    InstructionKind, KeyValue, Onbuild, Run, RunNetwork, RunSecurity,
};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::flags::{FlagKind, FlagTable, Flags, split_flags};
use crate::heredoc;
use crate::json::{Json, parse_array};
use crate::mount::MountFlag;
use crate::source::{Text, is_blank};
use crate::span::{Span, Word};
use crate::suggest;
use crate::words::{RawWord, split_quoted};

/// Which rules an instruction's line follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

const NONE: FlagTable = &[];
const RUN: FlagTable = &[
    ("mount", FlagKind::Values),
    ("network", FlagKind::Value),
    ("security", FlagKind::Value),
    ("device", FlagKind::Values),
];
const COPY: FlagTable = &[
    ("from", FlagKind::Value),
    ("chown", FlagKind::Value),
    ("chmod", FlagKind::Value),
    ("link", FlagKind::Bool),
    ("parents", FlagKind::Bool),
    ("exclude", FlagKind::Values),
];
const ADD: FlagTable = &[
    ("chown", FlagKind::Value),
    ("chmod", FlagKind::Value),
    ("link", FlagKind::Bool),
    ("checksum", FlagKind::Value),
    ("keep-git-dir", FlagKind::Bool),
    ("unpack", FlagKind::Bool),
    ("exclude", FlagKind::Values),
];
const HEALTHCHECK: FlagTable = &[
    ("interval", FlagKind::Value),
    ("timeout", FlagKind::Value),
    ("start-period", FlagKind::Value),
    ("start-interval", FlagKind::Value),
    ("retries", FlagKind::Value),
];
const FROM: FlagTable = &[("platform", FlagKind::Value)];

/// Every instruction with its flags.
const KEYWORDS: &[(&str, Keyword, FlagTable)] = &[
    ("ADD", Keyword::Add, ADD),
    ("ARG", Keyword::Arg, NONE),
    ("CMD", Keyword::Cmd, NONE),
    ("COPY", Keyword::Copy, COPY),
    ("ENTRYPOINT", Keyword::Entrypoint, NONE),
    ("ENV", Keyword::Env, NONE),
    ("EXPOSE", Keyword::Expose, NONE),
    ("FROM", Keyword::From, FROM),
    ("HEALTHCHECK", Keyword::Healthcheck, HEALTHCHECK),
    ("LABEL", Keyword::Label, NONE),
    ("MAINTAINER", Keyword::Maintainer, NONE),
    ("ONBUILD", Keyword::Onbuild, NONE),
    ("RUN", Keyword::Run, RUN),
    ("SHELL", Keyword::Shell, NONE),
    ("STOPSIGNAL", Keyword::Stopsignal, NONE),
    ("USER", Keyword::User, NONE),
    ("VOLUME", Keyword::Volume, NONE),
    ("WORKDIR", Keyword::Workdir, NONE),
];

/// The least time between two health checks that the image format can hold.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

type Result<T> = std::result::Result<T, Box<Diagnostic>>;

/// What a line is.
#[derive(Debug)]
pub(crate) enum Parsed {
    From(From),
    Instruction(Instruction),
}

fn known(keyword: &str) -> Option<&'static (&'static str, Keyword, FlagTable)> {
    KEYWORDS.iter().find(|(name, _, _)| name.eq_ignore_ascii_case(keyword))
}

/// The heredocs that a line opens: only `RUN`, `COPY` and `ADD`, also after `ONBUILD`, in shell form.
pub(crate) fn heredoc_openings(line: Text<'_>) -> Vec<heredoc::Opening> {
    let (keyword, arguments) = line.trim().split_blank();
    let (keyword, arguments) = match (known(keyword.as_str()), arguments) {
        (Some((_, Keyword::Onbuild, _)), Some(nested)) => split_flags(nested).1.trim().split_blank(),
        _ => (keyword, arguments),
    };
    let (Some((_, Keyword::Run | Keyword::Copy | Keyword::Add, _)), Some(arguments)) =
        (known(keyword.as_str()), arguments)
    else {
        return Vec::new();
    };
    if !line.as_str().contains("<<")
        || matches!(parse_array(split_flags(arguments).1.trim()), Json::Strings(_))
    {
        return Vec::new();
    }
    heredoc::openings(line.as_str())
}

/// Parses a line. What is wrong goes to `diagnostics`; an instruction with an error is none.
pub(crate) fn parse(
    line: Text<'_>,
    heredocs: Vec<Heredoc>,
    span: Span,
    escape: Escape,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Parsed> {
    let before = diagnostics.len();
    let parsed = Line::split(line, heredocs, escape, diagnostics)
        .and_then(|line| line.parse(span, diagnostics))
        .map_err(|diagnostic| diagnostics.push(*diagnostic));
    match parsed {
        Ok(parsed) if !has_error(&diagnostics[before..]) => Some(parsed),
        _ => None,
    }
}

fn has_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

fn error<T>(code: Code, message: impl Into<String>, span: Span) -> Result<T> {
    Err(Box::new(Diagnostic::error(code, message, span)))
}

/// A line split into keyword, flags and arguments.
struct Line<'a> {
    line: Text<'a>,
    keyword: Word,
    kind: Keyword,
    name: &'static str,
    flags: Flags,
    arguments: Text<'a>,
    heredocs: Vec<Heredoc>,
    escape: Escape,
}

impl<'a> Line<'a> {
    fn split(
        line: Text<'a>,
        heredocs: Vec<Heredoc>,
        escape: Escape,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Self> {
        let line = line.trim();
        let (keyword, rest) = line.split_blank();
        let Some((name, kind, table)) = known(keyword.as_str()) else {
            let names = KEYWORDS.iter().map(|(name, _, _)| *name);
            return Err(Box::new(
                Diagnostic::error(
                    Code::UnknownInstruction,
                    format!("unknown instruction `{}`", keyword.as_str()),
                    keyword.span(),
                )
                .did_you_mean(suggest::closest(keyword.as_str(), names)),
            ));
        };
        let end = line.from(line.as_str().len());
        let (raw, arguments) = rest.map_or((Vec::new(), end), split_flags);
        if raw.len() > crate::flags::MAX_FLAGS {
            return error(Code::LimitExceeded, "too many flags", keyword.span());
        }
        let flags = Flags::check(raw, table, name, diagnostics);
        Ok(Self {
            line,
            keyword: keyword.word(),
            kind: *kind,
            name,
            flags,
            arguments: arguments.trim(),
            heredocs,
            escape,
        })
    }

    fn parse(self, span: Span, diagnostics: &mut Vec<Diagnostic>) -> Result<Parsed> {
        if self.kind == Keyword::From {
            return self.from(span).map(Parsed::From);
        }
        let keyword = self.keyword.clone();
        let source_code = self.line.as_str().to_owned();
        let kind = self.kind(span, diagnostics)?;
        Ok(Parsed::Instruction(Instruction { kind, keyword, source_code, span }))
    }

    fn kind(self, span: Span, diagnostics: &mut Vec<Diagnostic>) -> Result<InstructionKind> {
        Ok(match self.kind {
            Keyword::Add => InstructionKind::Add(self.add()?),
            Keyword::Arg => InstructionKind::Arg(self.arg()?),
            Keyword::Cmd => InstructionKind::Cmd(self.command_line(self.arguments)?),
            Keyword::Copy => InstructionKind::Copy(self.copy()?),
            Keyword::Entrypoint => InstructionKind::Entrypoint(self.command_line(self.arguments)?),
            Keyword::Env => InstructionKind::Env(self.key_values()?),
            Keyword::Expose => InstructionKind::Expose(self.list()?),
            Keyword::Healthcheck => InstructionKind::Healthcheck(self.healthcheck()?),
            Keyword::Label => InstructionKind::Label(self.key_values()?),
            Keyword::Maintainer => InstructionKind::Maintainer(self.one()?),
            Keyword::Onbuild => InstructionKind::Onbuild(self.onbuild(span, diagnostics)?),
            Keyword::Run => InstructionKind::Run(self.run(diagnostics)?),
            Keyword::Shell => InstructionKind::Shell(self.shell()?),
            Keyword::Stopsignal => InstructionKind::Stopsignal(self.one()?),
            Keyword::User => InstructionKind::User(self.one()?),
            Keyword::Volume => InstructionKind::Volume(self.volume()?),
            Keyword::Workdir => InstructionKind::Workdir(self.one()?),
            Keyword::From => {
                return error(Code::InvalidSyntax, "`FROM` cannot stand here", self.keyword.span);
            }
        })
    }

    /// The place to point at when arguments are missing.
    fn whole(&self) -> Span {
        self.line.span()
    }

    fn missing<T>(&self, message: impl Into<String>) -> Result<T> {
        error(Code::MissingArgument, format!("{} {}", self.name, message.into()), self.whole())
    }

    fn mixed_array<T>(&self) -> Result<T> {
        error(Code::InvalidSyntax, "a JSON array of arguments can hold only strings", self.arguments.span())
    }

    fn from(&self, span: Span) -> Result<From> {
        let arguments = if self.arguments.is_empty() { Vec::new() } else { self.arguments.split_blanks() };
        let alias = match arguments.as_slice() {
            [_] => None,
            [_, keyword, alias] if keyword.as_str().eq_ignore_ascii_case("as") => {
                if !is_stage_name(alias.as_str()) {
                    return Err(Box::new(
                        Diagnostic::error(
                            Code::InvalidStageName,
                            format!("invalid name for a stage: `{}`", alias.as_str()),
                            alias.span(),
                        )
                        .hint(
                            "a stage name begins with a letter and holds letters, digits, `-`, `_` and `.`",
                        ),
                    ));
                }
                Some(alias.word())
            }
            [] => return self.missing("needs an image"),
            _ => {
                return Err(Box::new(
                    Diagnostic::error(
                        Code::ExtraArgument,
                        "FROM takes one or three arguments",
                        self.arguments.span(),
                    )
                    .hint("write `FROM IMAGE` or `FROM IMAGE AS NAME`"),
                ));
            }
        };
        Ok(From {
            image: arguments[0].word(),
            platform: self.flags.value("platform"),
            as_keyword: arguments.get(1).map(|keyword| keyword.word()),
            alias,
            keyword: self.keyword.clone(),
            source_code: self.line.as_str().to_owned(),
            span,
        })
    }

    /// The rest of the line as one argument.
    fn one(&self) -> Result<Word> {
        if self.arguments.is_empty() {
            return self.missing("needs an argument");
        }
        Ok(self.arguments.word())
    }

    /// Arguments between blanks, without quoting.
    fn list(&self) -> Result<Vec<Word>> {
        if self.arguments.is_empty() {
            return self.missing("needs at least one argument");
        }
        Ok(self.arguments.split_blanks().into_iter().map(Text::word).collect())
    }

    /// A JSON array, or arguments between blanks; true for the array.
    fn list_or_array(&self) -> Result<(Vec<Word>, bool)> {
        match parse_array(self.arguments) {
            Json::Strings(words) => Ok((words, true)),
            Json::Mixed => self.mixed_array(),
            Json::No if self.arguments.is_empty() => Ok((Vec::new(), false)),
            Json::No => Ok((self.list()?, false)),
        }
    }

    fn command_line(&self, text: Text<'_>) -> Result<CommandLine> {
        match parse_array(text) {
            Json::Strings(words) => Ok(CommandLine::Exec(words)),
            Json::Mixed => self.mixed_array(),
            Json::No => Ok(CommandLine::Shell(text.word())),
        }
    }

    fn arg(&self) -> Result<Vec<ArgDeclaration>> {
        let words = split_quoted(self.arguments, self.escape);
        if words.is_empty() {
            return self.missing("needs at least one argument");
        }
        let declaration = |word: &RawWord<'_>| match word.split_assignment() {
            None => Ok(ArgDeclaration { name: word.word(), default: None }),
            Some((name, _)) if name.text.is_empty() => self.blank_name(word.span()),
            Some((name, value)) => Ok(ArgDeclaration { name, default: Some(value) }),
        };
        words.iter().map(declaration).collect()
    }

    fn blank_name<T>(&self, span: Span) -> Result<T> {
        error(Code::InvalidSyntax, format!("a name in {} cannot be empty", self.name), span)
    }

    /// `NAME=VALUE …`, or the old `NAME VALUE`. Which one it is, the first word decides.
    fn key_values(&self) -> Result<Vec<KeyValue>> {
        let words = split_quoted(self.arguments, self.escape);
        let Some(first) = words.first() else {
            return self.missing("needs at least one argument");
        };
        if !first.text.contains('=') {
            let (key, value) = self.arguments.split_blank();
            let Some(value) = value else {
                return self.missing("needs a name and a value");
            };
            return Ok(vec![KeyValue { key: key.word(), value: value.word(), legacy: true }]);
        }
        let pair = |word: &RawWord<'_>| match word.split_assignment() {
            None => Err(Box::new(
                Diagnostic::error(
                    Code::InvalidSyntax,
                    format!("`{}` is not of the form `NAME=VALUE`", word.text),
                    word.span(),
                )
                .hint("put quotes around a value with spaces"),
            )),
            Some((key, _)) if key.text.is_empty() => self.blank_name(word.span()),
            Some((key, value)) => Ok(KeyValue { key, value, legacy: false }),
        };
        words.iter().map(pair).collect()
    }

    fn volume(&self) -> Result<Vec<Word>> {
        let (words, _) = self.list_or_array()?;
        if words.is_empty() {
            return self.missing("needs at least one argument");
        }
        let path = |word: Word| {
            let trimmed = word.text.trim();
            if trimmed.is_empty() {
                return error(Code::InvalidValue, "a volume cannot be an empty path", word.span);
            }
            Ok(Word::new(trimmed, word.span))
        };
        words.into_iter().map(path).collect()
    }

    fn shell(&self) -> Result<Vec<Word>> {
        match parse_array(self.arguments) {
            Json::Strings(words) if words.is_empty() => self.missing("needs at least one argument"),
            Json::Strings(words) => Ok(words),
            Json::Mixed => self.mixed_array(),
            Json::No if self.arguments.is_empty() => self.missing("needs at least one argument"),
            Json::No => Err(Box::new(
                Diagnostic::error(
                    Code::InvalidSyntax,
                    "SHELL takes its arguments as a JSON array",
                    self.arguments.span(),
                )
                .hint("write `SHELL [\"/bin/sh\", \"-c\"]`"),
            )),
        }
    }

    fn sources_and_destination(&self) -> Result<(Vec<CopySource>, Word)> {
        let (mut words, is_array) = self.list_or_array()?;
        let destination = match words.pop() {
            Some(destination) if !words.is_empty() => destination,
            _ => {
                let given = if self.arguments.is_empty() { "none" } else { "one" };
                return self.missing(format!("needs a source and a destination, and got {given}"));
            }
        };
        if is_array {
            return Ok((words.into_iter().map(CopySource::Path).collect(), destination));
        }
        if heredoc::opening(&destination.text).is_some() {
            return error(
                Code::MisplacedHeredoc,
                format!("{} cannot take a heredoc as its destination", self.name),
                destination.span,
            );
        }
        let mut sources = Vec::new();
        let mut used = 0;
        for word in words {
            let Some(opening) = heredoc::opening(&word.text) else {
                sources.push(CopySource::Path(word));
                continue;
            };
            // As many as the line opens, so that a short line cannot copy a long body without end.
            let heredoc = self.heredocs.iter().rfind(|heredoc| heredoc.name == opening.name);
            let Some(heredoc) = heredoc.filter(|_| used < self.heredocs.len()) else {
                return error(
                    Code::InvalidSyntax,
                    "this heredoc cannot be read: check the quotes",
                    word.span,
                );
            };
            sources.push(CopySource::Heredoc(heredoc.clone()));
            used += 1;
        }
        if used != self.heredocs.len() {
            return error(
                Code::MisplacedHeredoc,
                "a heredoc on this line is not a source of its own",
                self.arguments.span(),
            );
        }
        Ok((sources, destination))
    }

    fn copy(&self) -> Result<Copy> {
        let (sources, destination) = self.sources_and_destination()?;
        let from = self.flags.value("from");
        if let Some(from) = from.as_ref().filter(|from| from.text.contains('$')) {
            return Err(Box::new(
                Diagnostic::error(Code::VariableNotSupported, "`--from` does not take variables", from.span)
                    .hint("give the image a name with `FROM … AS name` and use the name"),
            ));
        }
        Ok(Copy {
            sources,
            destination,
            from,
            chown: self.flags.value("chown"),
            chmod: self.flags.value("chmod"),
            link: self.flags.bool("link").unwrap_or(false),
            parents: self.flags.bool("parents").unwrap_or(false),
            excludes: self.flags.values("exclude").collect(),
        })
    }

    fn add(&self) -> Result<Add> {
        let (sources, destination) = self.sources_and_destination()?;
        Ok(Add {
            sources,
            destination,
            chown: self.flags.value("chown"),
            chmod: self.flags.value("chmod"),
            link: self.flags.bool("link").unwrap_or(false),
            checksum: self.flags.value("checksum"),
            keep_git_dir: self.flags.bool("keep-git-dir"),
            unpack: self.flags.bool("unpack"),
            excludes: self.flags.values("exclude").collect(),
        })
    }

    fn run(self, diagnostics: &mut Vec<Diagnostic>) -> Result<Run> {
        let command = self.command_line(self.arguments)?;
        let is_empty = match &command {
            CommandLine::Shell(line) => line.text.is_empty(),
            CommandLine::Exec(arguments) => arguments.is_empty(),
        };
        if is_empty {
            return self.missing("needs a command");
        }
        let mut mounts = Vec::new();
        for value in self.flags.values("mount") {
            match MountFlag::parse(value) {
                Ok(mount) => mounts.push(mount),
                Err(diagnostic) => diagnostics.push(*diagnostic),
            }
        }
        let network = self.choice(
            "network",
            &[("default", RunNetwork::Default), ("none", RunNetwork::None), ("host", RunNetwork::Host)],
        )?;
        let security = self
            .choice("security", &[("sandbox", RunSecurity::Sandbox), ("insecure", RunSecurity::Insecure)])?;
        let devices = self.flags.values("device").collect();
        Ok(Run { command, heredocs: self.heredocs, mounts, network, security, devices })
    }

    fn choice<T: std::marker::Copy>(&self, flag: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.flags.value(flag) else { return Ok(None) };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value.text) {
            return Ok(Some(*choice));
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        Err(Box::new(
            Diagnostic::error(
                Code::InvalidValue,
                format!("invalid value for `--{flag}`: `{}`", value.text),
                value.span,
            )
            .hint(format!("it is one of {}", names.join(", "))),
        ))
    }

    fn onbuild(mut self, span: Span, diagnostics: &mut Vec<Diagnostic>) -> Result<Onbuild> {
        if self.arguments.is_empty() {
            return self.missing("needs an instruction");
        }
        let (keyword, _) = self.arguments.split_blank();
        let name = keyword.as_str().to_ascii_uppercase();
        if matches!(name.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            return error(
                Code::InvalidTrigger,
                format!("`{name}` cannot be the trigger of an ONBUILD"),
                keyword.span(),
            );
        }
        let mut expression = self.arguments.as_str().to_owned();
        for heredoc in &self.heredocs {
            expression.push('\n');
            expression.push_str(&heredoc.content);
            expression.push_str(&heredoc.name);
        }
        let heredocs = std::mem::take(&mut self.heredocs);
        let trigger_span = self.arguments.span().to(Span::new(span.end, span.end));
        let nested = Line::split(self.arguments, heredocs, self.escape, diagnostics)?;
        match nested.parse(trigger_span, diagnostics)? {
            Parsed::Instruction(trigger) => Ok(Onbuild { trigger: Box::new(trigger), expression }),
            Parsed::From(_) => error(Code::InvalidTrigger, "`FROM` cannot be a trigger", keyword.span()),
        }
    }

    fn healthcheck(&self) -> Result<Healthcheck> {
        if self.arguments.is_empty() {
            return self.missing("needs `CMD` or `NONE`");
        }
        let source = self.arguments.as_str();
        let end = source.find(char::is_whitespace).unwrap_or(source.len());
        let kind = self.arguments.slice(0, end);
        let rest = self.arguments.from(end).trim();
        if kind.as_str().eq_ignore_ascii_case("none") {
            if !rest.is_empty() {
                return error(Code::ExtraArgument, "HEALTHCHECK NONE takes no arguments", rest.span());
            }
            return Ok(Healthcheck::None);
        }
        if !kind.as_str().eq_ignore_ascii_case("cmd") {
            return Err(Box::new(
                Diagnostic::error(
                    Code::InvalidValue,
                    format!("unknown type `{}` in HEALTHCHECK", kind.as_str()),
                    kind.span(),
                )
                .hint("write `HEALTHCHECK CMD …` or `HEALTHCHECK NONE`"),
            ));
        }
        let command = self.command_line(rest)?;
        if rest.is_empty() || matches!(&command, CommandLine::Exec(arguments) if arguments.is_empty()) {
            return self.missing("CMD needs a command");
        }
        Ok(Healthcheck::Check {
            command,
            interval: self.interval("interval")?,
            timeout: self.interval("timeout")?,
            start_period: self.interval("start-period")?,
            start_interval: self.interval("start-interval")?,
            retries: self.retries()?,
        })
    }

    fn interval(&self, flag: &str) -> Result<Option<Duration>> {
        let Some(value) = self.flags.value(flag).filter(|value| !value.text.is_empty()) else {
            return Ok(None);
        };
        match parse_duration(&value.text) {
            Some(duration) if duration.is_zero() || duration >= MIN_INTERVAL => Ok(Some(duration)),
            Some(_) => error(
                Code::InvalidValue,
                format!("`--{flag}` cannot be less than 1ms: `{}`", value.text),
                value.span,
            ),
            None => Err(Box::new(
                Diagnostic::error(
                    Code::InvalidValue,
                    format!("invalid duration for `--{flag}`: `{}`", value.text),
                    value.span,
                )
                .hint("write a number and a unit, such as `30s` or `1m30s`"),
            )),
        }
    }

    fn retries(&self) -> Result<Option<u32>> {
        let Some(value) = self.flags.value("retries").filter(|value| !value.text.is_empty()) else {
            return Ok(None);
        };
        match value.text.parse::<i32>().ok().and_then(|retries| u32::try_from(retries).ok()) {
            Some(retries) => Ok(Some(retries)),
            None => error(
                Code::InvalidValue,
                format!("`--retries` takes a number that is not negative: `{}`", value.text),
                value.span,
            ),
        }
    }
}

/// Compared without regard to case: a letter, then letters, digits, `-`, `_` and `.`.
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
}

/// Nanoseconds of each unit of a duration; longer names first where one begins with another.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// A duration as Go writes it: `1h15m30.5s`. A negative one is none.
fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == &rest[..unit_length])?;
        nanoseconds += number * factor;
        rest = &rest[unit_length..];
    }
    // What a signed 64-bit count of nanoseconds holds.
    (!text.is_empty() && nanoseconds < 9.2e18).then(|| Duration::from_nanos(nanoseconds.round() as u64))
}

/// True for a line that holds nothing but blanks.
pub(crate) fn is_blank_line(line: &str) -> bool {
    line.chars().all(|character| is_blank(character) || character.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h15m30.5s"), Some(Duration::from_millis(4_530_500)));
        assert_eq!(parse_duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for wrong in ["", "1", "s", "-1s", "1x", "1.2.3s", "999999999999h", "."] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
