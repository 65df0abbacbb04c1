//! A whole file: directives, lines, heredoc bodies, stages.

use crate::ast::{Check, Directives, Dockerfile, Escape, Heredoc, Instruction, InstructionKind, Stage};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::heredoc::MAX_HEREDOCS;
use crate::instruction::{self, Parsed, is_blank_line};
use crate::lint::Rule;
use crate::mount::parse_bool;
use crate::source::{Lines, LogicalLine, is_comment, strip_continuation, trim_newline};
use crate::span::{Span, Word};

/// A longer file is refused, in bytes.
pub const MAX_SOURCE_BYTES: usize = 16 << 20;
/// After this many errors the rest of the file is not read; more warnings than this are not collected.
pub const MAX_DIAGNOSTICS: usize = 200;
/// More stages than this are refused.
pub const MAX_STAGES: usize = 5000;

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Parses a Dockerfile. There is a result for every input; look at [`Dockerfile::has_errors`] before using it.
pub fn parse(source: &[u8]) -> Dockerfile {
    if source.len() > MAX_SOURCE_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_SOURCE_BYTES >> 20);
        let diagnostic = Diagnostic::error(Code::LimitExceeded, message, Span::default());
        return Dockerfile {
            text: String::new(),
            directives: Directives::default(),
            global_args: Vec::new(),
            stages: Vec::new(),
            diagnostics: vec![diagnostic],
        };
    }
    let (text, bad_bytes) = decode(source);
    let mut parser = Parser::default();
    parser.directives(&text);
    parser.lines(&text);
    parser.finish(text, &bad_bytes)
}

/// Parses one instruction on its own, as an image's `OnBuild` list holds them.
///
/// On failure the result is the text parsed as a file, for its diagnostics.
pub fn parse_trigger(expression: &str) -> Result<Instruction, Box<Dockerfile>> {
    const BASE: &str = "FROM scratch\n";
    let mut parsed = parse(format!("{BASE}{expression}").as_bytes());
    if parsed.has_errors() {
        return Err(Box::new(parsed));
    }
    let instructions = match parsed.stages.as_mut_slice() {
        [stage] => std::mem::take(&mut stage.instructions),
        _ => Vec::new(),
    };
    match <[Instruction; 1]>::try_from(instructions) {
        Ok([instruction])
            if !matches!(instruction.kind, InstructionKind::Onbuild(_) | InstructionKind::Maintainer(_)) =>
        {
            Ok(instruction)
        }
        _ => {
            parsed.diagnostics.push(Diagnostic::error(
                Code::InvalidTrigger,
                "a trigger has to be exactly one instruction",
                Span::new(BASE.len(), parsed.text.len()),
            ));
            Err(Box::new(parsed))
        }
    }
}

/// The source as text, and where bytes were replaced.
fn decode(source: &[u8]) -> (String, Vec<Span>) {
    let mut text = String::with_capacity(source.len());
    let mut bad_bytes = Vec::new();
    for chunk in source.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            let start = text.len();
            text.push(char::REPLACEMENT_CHARACTER);
            bad_bytes.push(Span::new(start, text.len()));
        }
    }
    (text, bad_bytes)
}

#[derive(Default)]
struct Parser {
    directives: Directives,
    global_args: Vec<Instruction>,
    stages: Vec<Stage>,
    diagnostics: Vec<Diagnostic>,
    /// A `FROM` was seen, even if it was wrong.
    seen_from: bool,
    /// It was said that something stands before the first `FROM`.
    reported_missing_from: bool,
    has_too_many_stages: bool,
    /// Spans of all instructions, also of wrong ones, in order.
    spans: Vec<Span>,
}

impl Parser {
    /// Reads the directives. They end at the first line that is none.
    fn directives(&mut self, text: &str) {
        let mut offset = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let has_shebang = text[offset..].starts_with("#!");
        if has_shebang {
            offset += text[offset..].find('\n').map_or(text.len() - offset, |position| position + 1);
        }
        let mut seen: Vec<(&'static str, Span)> = Vec::new();
        for (line_offset, line) in Lines::new(text, offset) {
            let Some((name, value)) = directive(line_offset, line) else { break };
            let span = Span::new(value.span.start.min(line_offset), value.span.end);
            if let Some((_, first)) = seen.iter().find(|(known, _)| *known == name) {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::InvalidDirective,
                        format!("the directive `{name}` is given twice"),
                        span,
                    )
                    .also(*first, "first given here"),
                );
                return;
            }
            seen.push((name, span));
            match name {
                "syntax" => self.syntax_directive(value),
                "check" => self.check_directive(&value),
                // After `#!` the file is a script to the parser of escapes.
                _ if has_shebang => {}
                _ => self.escape_directive(&value),
            }
        }
    }

    /// The Dockerfile frontend from any registry and of any version is this parser; another one cannot be run.
    fn syntax_directive(&mut self, value: Word) {
        let reference = value.text.split_whitespace().next().unwrap_or_default();
        let name = reference.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let repository = name.split(':').next().unwrap_or_default();
        if !matches!(repository, "dockerfile" | "dockerfile-upstream") {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::UnsupportedSyntax,
                    format!("the frontend `{reference}` is not supported"),
                    value.span,
                )
                .hint("remove the directive, or use `docker/dockerfile:1`"),
            );
        }
        self.directives.syntax = Some(value);
    }

    fn escape_directive(&mut self, value: &Word) {
        match value.text.as_str() {
            "\\" => self.directives.escape = Escape::Backslash,
            "`" => self.directives.escape = Escape::Backtick,
            other => self.diagnostics.push(
                Diagnostic::error(
                    Code::InvalidDirective,
                    format!("invalid escape character: `{other}`"),
                    value.span,
                )
                .hint("it is a backslash or a backtick"),
            ),
        }
    }

    fn check_directive(&mut self, value: &Word) {
        let mut check = Check::default();
        for option in value.text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let (key, list) = option.split_once('=').unwrap_or((option, ""));
            let names = || list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
            let list_is_all = list.trim() == "all";
            match key.trim() {
                "skip" if list_is_all => check.skip_all = true,
                "skip" => check.skip = names(),
                "experimental" if list_is_all => check.experimental_all = true,
                "experimental" => check.experimental = names(),
                "error" if parse_bool(list.trim()).is_some() => {
                    check.error = parse_bool(list.trim()) == Some(true);
                }
                _ => self.diagnostics.push(
                    Diagnostic::error(
                        Code::InvalidDirective,
                        format!("invalid option of the directive `check`: `{option}`"),
                        value.span,
                    )
                    .hint("the options are `skip=RULES`, `error=BOOL` and `experimental=RULES`"),
                ),
            }
        }
        self.directives.check = check;
    }

    fn lines(&mut self, text: &str) {
        let escape = self.directives.escape.char();
        let start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let mut lines = Lines::new(text, start);
        while let Some((offset, raw)) = lines.next() {
            if self.has_too_many_errors() {
                return;
            }
            let body = trim_newline(raw).trim_start();
            if is_comment(body) || body.is_empty() {
                continue;
            }
            let mut line = LogicalLine::new();
            let mut position = offset + (trim_newline(raw).len() - body.len());
            let mut current = body;
            let mut end = position + body.len();
            let mut empty_line = None;
            while let Some(piece) = strip_continuation(current, escape) {
                line.push(piece, position);
                let Some((next_offset, next)) = next_continued(&mut lines, &mut empty_line) else {
                    current = "";
                    break;
                };
                (position, current) = (next_offset, next);
                end = position + current.len();
            }
            line.push(current, position);
            if let Some(span) = empty_line.filter(|_| self.diagnostics.len() < MAX_DIAGNOSTICS) {
                self.diagnostics.push(
                    Diagnostic::warning(
                        Code::Lint(Rule::NoEmptyContinuation),
                        "an empty line continues an instruction",
                        span,
                    )
                    .hint("remove the line, or make it a comment"),
                );
            }
            if is_blank_line(line.text().as_str()) {
                continue;
            }
            self.instruction(&line, end, &mut lines);
        }
    }

    fn has_too_many_errors(&self) -> bool {
        let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
        self.diagnostics.len() >= MAX_DIAGNOSTICS
            && self.diagnostics.iter().filter(is_error).count() >= MAX_DIAGNOSTICS
    }

    fn instruction(&mut self, line: &LogicalLine, line_end: usize, lines: &mut Lines<'_>) {
        let text = line.text().trim();
        let openings = instruction::heredoc_openings(text);
        if openings.len() > MAX_HEREDOCS {
            let message = format!("more than {MAX_HEREDOCS} heredocs on a line");
            self.diagnostics.push(Diagnostic::error(Code::LimitExceeded, message, text.span()));
            return;
        }
        let mut span = text.span();
        let mut heredocs = Vec::new();
        for opening in openings {
            let Some((content, content_span, end)) = read_body(lines, &opening.name, opening.strip_tabs)
            else {
                self.spans.push(Span::new(span.start, lines.offset()));
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::UnterminatedHeredoc,
                        format!("the heredoc `{}` has no end", opening.name),
                        text.span(),
                    )
                    .hint(format!("end it with a line that holds only `{}`", opening.name)),
                );
                return;
            };
            span.end = end;
            heredocs.push(Heredoc {
                name: opening.name,
                content,
                expand: opening.expand,
                strip_tabs: opening.strip_tabs,
                file_descriptor: opening.file_descriptor,
                span: content_span,
            });
        }
        span.end = span.end.max(text.span().end.min(line_end));
        self.spans.push(span);
        let is_from = text.split_blank().0.as_str().eq_ignore_ascii_case("from");
        let parsed = instruction::parse(text, heredocs, span, self.directives.escape, &mut self.diagnostics);
        self.seen_from |= is_from;
        match parsed {
            Some(Parsed::From(_)) if self.stages.len() == MAX_STAGES => {
                self.report_too_many_stages(text.span());
            }
            Some(Parsed::From(from)) => self.stages.push(Stage { from, instructions: Vec::new(), span }),
            Some(Parsed::Instruction(instruction)) => self.place(instruction),
            None => {}
        }
    }

    fn report_too_many_stages(&mut self, span: Span) {
        if !std::mem::replace(&mut self.has_too_many_stages, true) {
            let message = format!("more than {MAX_STAGES} stages");
            self.diagnostics.push(Diagnostic::error(Code::LimitExceeded, message, span));
        }
    }

    fn place(&mut self, instruction: Instruction) {
        if let Some(stage) = self.stages.last_mut() {
            stage.span = stage.span.to(instruction.span);
            stage.instructions.push(instruction);
        } else if self.seen_from {
            // The stage itself is wrong, which was said.
        } else if matches!(instruction.kind, InstructionKind::Arg(_)) {
            self.global_args.push(instruction);
        } else if !self.reported_missing_from {
            self.reported_missing_from = true;
            self.diagnostics.push(
                Diagnostic::error(
                    Code::MissingFrom,
                    format!("{} stands before the first FROM", instruction.name()),
                    instruction.keyword.span,
                )
                .hint("begin with `FROM IMAGE`; only `ARG` can stand before it"),
            );
        }
    }

    fn finish(mut self, text: String, bad_bytes: &[Span]) -> Dockerfile {
        let is_in_instruction = |bad: &&Span| {
            let next = self.spans.partition_point(|span| span.start <= bad.start);
            next.checked_sub(1).is_some_and(|index| self.spans[index].overlaps(**bad))
        };
        if let Some(bad) = bad_bytes.iter().find(is_in_instruction) {
            self.diagnostics.push(Diagnostic::error(
                Code::InvalidEncoding,
                "these bytes are not UTF-8",
                *bad,
            ));
        }
        let has_errors = self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        if !self.seen_from && !has_errors {
            let message =
                if self.spans.is_empty() { "the file has no instructions" } else { "the file has no FROM" };
            self.diagnostics.push(
                Diagnostic::error(Code::EmptyFile, message, self.spans.last().copied().unwrap_or_default())
                    .hint("begin with `FROM IMAGE`"),
            );
        }
        let mut dockerfile = Dockerfile {
            text,
            directives: self.directives,
            global_args: self.global_args,
            stages: self.stages,
            diagnostics: self.diagnostics,
        };
        crate::lint::check(&mut dockerfile);
        dockerfile.diagnostics.sort_by_key(|diagnostic| diagnostic.span());
        dockerfile
    }
}

/// The next line of a continued instruction: comments are passed over, and so are empty lines, of which the first is
/// remembered.
fn next_continued<'a>(lines: &mut Lines<'a>, empty_line: &mut Option<Span>) -> Option<(usize, &'a str)> {
    for (offset, raw) in lines.by_ref() {
        let body = trim_newline(raw);
        if is_comment(body) {
            continue;
        }
        if !is_blank_line(body) {
            return Some((offset, body));
        }
        empty_line.get_or_insert(Span::new(offset, offset + body.len()));
    }
    None
}

/// Reads a heredoc's lines up to its end line: content, its span, and the end of the end line.
fn read_body(lines: &mut Lines<'_>, name: &str, strip_tabs: bool) -> Option<(String, Span, usize)> {
    let start = lines.offset();
    let mut content = String::new();
    for (offset, raw) in lines.by_ref() {
        let line = trim_newline(raw);
        let candidate = if strip_tabs { line.trim_start_matches('\t') } else { line };
        if candidate == name {
            return Some((content, Span::new(start, offset), offset + line.len()));
        }
        content.push_str(raw);
    }
    None
}

/// Reads `# name = value`; the name has to be one of the three.
fn directive(offset: usize, line: &str) -> Option<(&'static str, Word)> {
    let body = trim_newline(line).trim_start().strip_prefix('#')?.trim_start();
    let (name, value) = body.split_once('=')?;
    let name = ["syntax", "escape", "check"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name.trim_end()))?;
    let value = value.trim();
    if value.is_empty() {
        return None;
    }
    let start = offset + line.rfind(value)?;
    Some((name, Word::new(value, Span::new(start, start + value.len()))))
}
