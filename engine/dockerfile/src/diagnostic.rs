//! What is wrong with a Dockerfile, and how to show it.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::lint::Rule;
use crate::span::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be built.
    Error,
    /// It can be built, and something is probably not meant.
    Warning,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The kind of a diagnostic, stable for scripts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A lint rule of the Dockerfile reference.
            Lint(Rule),
        }

        impl Code {
            /// The codes of errors.
            pub(crate) const ERRORS: &[Self] = &[$(Self::$name,)*];

            /// The name shown to the user.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Lint(rule) => rule.name(),
                }
            }
        }
    };
}

codes! {
    /// No such instruction.
    UnknownInstruction = "unknown-instruction",
    /// No such flag on this instruction.
    UnknownFlag = "unknown-flag",
    /// A flag that may stand once stands twice.
    DuplicateFlag = "duplicate-flag",
    /// A flag without its value.
    MissingFlagValue = "missing-flag-value",
    /// A value outside the allowed ones.
    InvalidValue = "invalid-value",
    /// `RUN --mount=type=` has no such type.
    UnknownMountType = "unknown-mount-type",
    /// No such mount option, or not for this type.
    UnknownMountOption = "unknown-mount-option",
    /// The options of a mount contradict each other or lack something.
    InvalidMount = "invalid-mount",
    /// Too few arguments.
    MissingArgument = "missing-argument",
    /// Too many arguments.
    ExtraArgument = "extra-argument",
    /// Arguments that cannot be read.
    InvalidSyntax = "invalid-syntax",
    /// An instruction stands before the first `FROM`.
    MissingFrom = "missing-from",
    /// A file without instructions, or without `FROM`.
    EmptyFile = "empty-file",
    /// A heredoc without its end line.
    UnterminatedHeredoc = "unterminated-heredoc",
    /// A heredoc where none can be.
    MisplacedHeredoc = "misplaced-heredoc",
    /// `# syntax=` names a frontend that is not the Dockerfile one.
    UnsupportedSyntax = "unsupported-syntax",
    /// A bad or repeated parser directive.
    InvalidDirective = "invalid-directive",
    /// A stage name with forbidden characters.
    InvalidStageName = "invalid-stage-name",
    /// A stage that needs itself.
    CircularStage = "circular-stage",
    /// A number that no stage has.
    UnknownStage = "unknown-stage",
    /// An instruction that cannot follow `ONBUILD`.
    InvalidTrigger = "invalid-trigger",
    /// A variable where none is replaced.
    VariableNotSupported = "variable-not-supported",
    /// A word that cannot be expanded.
    Expansion = "expansion",
    /// Bytes that are not UTF-8.
    InvalidEncoding = "invalid-encoding",
    /// The file is over one of our limits.
    LimitExceeded = "limit-exceeded",
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind it is.
    pub code: Code,
    /// One line, lower case, without a full stop.
    pub message: String,
    /// Where: the first is the place itself, the others explain it.
    pub labels: Vec<Label>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A place in the source with what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// Text beside the carets; may be empty.
    pub text: String,
}

/// How [`Diagnostic::render`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without escape sequences.
    Plain,
    /// With ANSI colours.
    Color,
}

impl Diagnostic {
    /// Makes an error.
    pub fn error(code: Code, message: impl Into<String>, span: Span) -> Self {
        Self::new(Severity::Error, code, message.into(), span)
    }

    /// Makes a warning.
    pub fn warning(code: Code, message: impl Into<String>, span: Span) -> Self {
        Self::new(Severity::Warning, code, message.into(), span)
    }

    /// Makes the warning of a lint rule.
    pub fn lint(rule: Rule, message: impl Into<String>, span: Span) -> Self {
        Self::warning(Code::Lint(rule), message, span)
    }

    /// The lint rule, when it is one's finding.
    pub fn rule(&self) -> Option<Rule> {
        match self.code {
            Code::Lint(rule) => Some(rule),
            _ => None,
        }
    }

    fn new(severity: Severity, code: Code, message: String, span: Span) -> Self {
        Self { severity, code, message, labels: vec![Label { span, text: String::new() }], hint: None }
    }

    /// Adds the text beside the carets of the place itself.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(first) = self.labels.first_mut() {
            first.text = text.into();
        }
        self
    }

    /// Adds another place.
    #[must_use]
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds "did you mean" when there is a suggestion.
    #[must_use]
    pub fn did_you_mean(self, suggestion: Option<&str>) -> Self {
        match suggestion {
            Some(suggestion) => self.hint(format!("did you mean `{suggestion}`?")),
            None => self,
        }
    }

    /// The place itself.
    pub fn span(&self) -> Span {
        self.labels.first().map(|label| label.span).unwrap_or_default()
    }

    /// Shows the finding with the lines it is about. `source` is [`Dockerfile::text`](crate::Dockerfile::text),
    /// `file_name` what the user calls the file. The result ends without a line feed.
    pub fn render(&self, source: &str, file_name: &str, style: Style) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let window = self.window(source);
        let first_line = source[..window.start].bytes().filter(|byte| *byte == b'\n').count() + 1;
        let shown = &source[window.clone()];
        let mut snippet = Snippet::source(shown).path(file_name).line_start(first_line).fold(true);
        for (index, label) in self.labels.iter().enumerate() {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let span = within(source, label.span);
            let annotation = kind.span(span.start - window.start..span.end - window.start);
            snippet = snippet.annotation(if label.text.is_empty() {
                annotation
            } else {
                annotation.label(label.text.as_str())
            });
        }
        let mut group: Group<'_> =
            level.primary_title(self.message.as_str()).id(self.code.as_str()).element(snippet);
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Color => Renderer::styled(),
        };
        renderer.render(&[group])
    }

    /// The whole lines from the first place to the last: the renderer's work grows with the text it gets.
    fn window(&self, source: &str) -> std::ops::Range<usize> {
        let spans = || self.labels.iter().map(|label| within(source, label.span));
        let start = spans().map(|span| span.start).min().unwrap_or_default();
        let end = spans().map(|span| span.end).max().unwrap_or_default();
        let line_start = source[..start].rfind('\n').map_or(0, |position| position + 1);
        let line_end = source[end..].find('\n').map_or(source.len(), |position| end + position + 1);
        line_start..line_end
    }
}

/// The span as a range that lies in `source` on character boundaries, whatever text it was made for.
fn within(source: &str, span: Span) -> std::ops::Range<usize> {
    let floor = |mut offset: usize| {
        offset = offset.min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_the_file_do_not_reach_the_terminal() {
        let file = crate::parse(b"FROM a\nX\x1b[31m\x07 y\n");
        let shown: String = file
            .diagnostics
            .iter()
            .map(|found| found.render(&file.text, "Dockerfile", Style::Plain))
            .collect();
        assert!(shown.contains("unknown instruction"));
        assert!(!shown.contains(['\x1b', '\x07']), "{shown:?}");
    }

    #[test]
    fn a_place_outside_of_the_text_is_shown_at_its_end() {
        let diagnostic =
            Diagnostic::error(Code::InvalidSyntax, "wrong", Span::new(70, 90)).also(Span::new(1, 2), "é");
        assert!(diagnostic.render("aé\n", "Dockerfile", Style::Plain).contains("wrong"));
        assert!(diagnostic.render("", "Dockerfile", Style::Color).contains('\x1b'));
    }
}
