//! What can go wrong in a build, whose fault it is, and how it is shown.
//!
//! One [`Error`] for the crate: a [`Fault`] that decides the exit code, a message, and what helps the reader: the place
//! in the Dockerfile, the step's last lines, the chain of causes, one next action. Secrets and credentials never come
//! here: the types that hold them print as dots.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use cooper_dockerfile::{Diagnostic, Severity, Span, Style};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bound on the output lines that an error repeats.
pub const TAIL_LINES: usize = 20;
/// Bound on one repeated line, in bytes.
pub const TAIL_LINE_BYTES: usize = 500;

/// Who or what a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A step or an instruction failed, or the Dockerfile cannot be built.
    Build,
    /// The request itself: an option, a path, a name given on the command line.
    Usage,
    /// A registry or credentials.
    Registry,
    /// What is not trusted is not what it says.
    Refused,
    /// A limit was reached.
    Limit,
    /// The user or the platform ended the build.
    Cancelled,
    /// The step ran out of its time.
    TimedOut,
    /// The host: its files, its disk.
    Host,
    /// We are wrong.
    Bug,
}

impl Fault {
    /// The exit code of the command line.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Build | Self::Host => 1,
            Self::Usage => 2,
            Self::Refused => 4,
            Self::Registry => 5,
            Self::Limit => 6,
            Self::Cancelled | Self::TimedOut => 7,
            Self::Bug => 70,
        }
    }
}

/// The Dockerfile as it was read, for showing lines of it.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// What the user calls it.
    pub name: String,
    /// Its text; spans point into it.
    pub text: String,
}

/// A place in the Dockerfile.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Where in it.
    pub span: Span,
}

/// A failed build.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    fault: Fault,
    message: String,
    place: Option<Place>,
    findings: Option<(Arc<SourceFile>, Vec<Diagnostic>)>,
    output: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure with a message: lower case, no full stop, the thing named in backticks.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            fault,
            message: message.into(),
            place: None,
            findings: None,
            output: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// An instruction that cannot be done as written.
    pub fn build(message: impl Into<String>) -> Self {
        Self::new(Fault::Build, message)
    }

    /// Something the Dockerfile asks for that this version does not have.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::build(format!("{what} is not supported yet"))
    }

    /// A host operation that failed.
    pub fn host(action: impl Into<String>, source: std::io::Error) -> Self {
        Self::new(Fault::Host, action).caused_by(source)
    }

    /// The cancelled build.
    pub fn cancelled() -> Self {
        Self::new(Fault::Cancelled, "cancelled")
    }

    /// A Dockerfile with errors in it.
    pub fn findings(file: Arc<SourceFile>, diagnostics: Vec<Diagnostic>) -> Self {
        let errors = diagnostics.iter().filter(|finding| finding.severity == Severity::Error).count();
        let plural = if errors == 1 { "error" } else { "errors" };
        let mut error = Self::build(format!("`{}` has {errors} {plural}", file.name));
        error.0.findings = Some((file, diagnostics));
        error
    }

    /// Adds the place, unless there is one already: the innermost is the most exact.
    #[must_use]
    pub fn at(mut self, file: &Arc<SourceFile>, span: Span) -> Self {
        self.0.place.get_or_insert_with(|| Place { file: Arc::clone(file), span });
        self
    }

    /// Adds the next action, unless there is one already.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Sets the next action, in place of one that there is.
    #[must_use]
    pub fn hint_first(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the last lines of a step's output.
    #[must_use]
    pub fn output(mut self, lines: Vec<String>) -> Self {
        self.0.output = lines;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same failure as part of something larger: the cause of a new error, which keeps its next action.
    #[must_use]
    pub fn within(mut self, fault: Fault, message: impl Into<String>) -> Self {
        let hint = self.0.hint.take();
        let mut outer = Self::new(fault, message).caused_by(self);
        outer.0.hint = hint;
        outer
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// Where in the Dockerfile.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The whole error for a person: message, Dockerfile lines with a caret, the step's last lines, causes, hint. Ends
    /// without a line feed.
    pub fn render(&self, style: Style) -> String {
        if let Some((file, diagnostics)) = &self.0.findings {
            let shown = diagnostics.iter().filter(|finding| finding.severity == Severity::Error);
            let parts: Vec<String> =
                shown.map(|finding| finding.render(&file.text, &file.name, style)).collect();
            return parts.join("\n\n");
        }
        let mut text = self.render_title(style);
        if !self.0.output.is_empty() {
            text.push_str("\n\nlast lines of the step's output:");
            for line in &self.0.output {
                text.push_str("\n    ");
                text.push_str(line);
            }
        }
        let mut cause = self.0.source.as_deref().map(|source| source as &dyn std::error::Error);
        let mut said = self.0.message.clone();
        while let Some(current) = cause {
            let message = current.to_string();
            // An error that passes its cause through says the same twice; once is enough.
            if !said.contains(&message) {
                text.push_str("\ncaused by: ");
                text.push_str(&message);
                said = message;
            }
            cause = current.source();
        }
        if let Some(hint) = &self.0.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
    }

    fn render_title(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Color => Renderer::styled(),
        };
        let title = Level::ERROR.primary_title(self.0.message.as_str());
        match &self.0.place {
            Some(Place { file, span }) => {
                let range = within(&file.text, *span);
                let snippet = Snippet::source(file.text.as_str())
                    .path(file.name.as_str())
                    .line_start(1)
                    .fold(true)
                    .annotation(AnnotationKind::Primary.span(range));
                renderer.render(&[title.element(snippet)])
            }
            None => format!("error: {}", self.0.message),
        }
    }
}

/// The first line of the span, as a range of whole characters of `source`: a caret below many lines points nowhere.
fn within(source: &str, span: Span) -> std::ops::Range<usize> {
    let floor = |mut offset: usize| {
        offset = offset.min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    let line = source[start..end].find('\n').map_or(end, |length| start + length);
    start..line
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl Error {
    /// Whose fault a failure of the image crate is.
    pub fn from_image(error: &cooper_image::Error) -> Fault {
        use cooper_image::ErrorKind;
        match error.kind() {
            ErrorKind::Usage => Fault::Usage,
            ErrorKind::Image => Fault::Build,
            ErrorKind::Registry => Fault::Registry,
            ErrorKind::Limit => Fault::Limit,
            ErrorKind::Host => Fault::Host,
            ErrorKind::Cancelled => Fault::Cancelled,
        }
    }
}

impl From<cooper_image::Error> for Error {
    fn from(error: cooper_image::Error) -> Self {
        Self::new(Self::from_image(&error), error.to_string()).caused_by(error)
    }
}

/// The last lines of a step's output, bounded in number and length.
#[derive(Debug, Default)]
pub struct OutputTail {
    lines: std::collections::VecDeque<String>,
    partial: Vec<u8>,
}

impl OutputTail {
    /// Takes more output.
    pub fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = TAIL_LINE_BYTES.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line();
            }
        }
    }

    /// The lines, the oldest first, without control characters.
    pub fn finish(mut self) -> Vec<String> {
        if !self.partial.is_empty() {
            self.end_line();
        }
        self.lines.into()
    }

    fn end_line(&mut self) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        let line = String::from_utf8_lossy(&self.partial);
        self.lines.push_back(line.trim_end().replace(|c: char| c.is_control() && c != '\t', "\u{fffd}"));
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_place_output_causes_and_hint() {
        let text = "FROM scratch\nRUN make \\\n  all\n".to_owned();
        let file = Arc::new(SourceFile { name: "Dockerfile".to_owned(), text });
        let error = Error::build("the step failed: exit code: 2")
            .at(&file, Span::new(13, 29))
            .at(&file, Span::new(0, 4))
            .output(vec!["cc: not found".to_owned()])
            .caused_by(std::io::Error::other("deep"))
            .hint("install it")
            .hint("second hints lose");
        let expected = "\
error: the step failed: exit code: 2
 --> Dockerfile:2:1
  |
2 | RUN make \\
  | ^^^^^^^^^^

last lines of the step's output:
    cc: not found
caused by: deep
hint: install it";
        assert_eq!(error.render(Style::Plain), expected);
    }

    #[test]
    fn a_cause_that_repeats_the_message_is_said_once() {
        let error = Error::build("cannot pull: denied").caused_by(std::io::Error::other("denied"));
        assert_eq!(error.render(Style::Plain), "error: cannot pull: denied");
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut tail = OutputTail::default();
        for number in 0..100 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        tail.push(&[b'x'; 10_000]);
        tail.push(b"\x1b[31m no end");
        let lines = tail.finish();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines[0], "line 81");
        assert_eq!(lines[TAIL_LINES - 1].len(), TAIL_LINE_BYTES);
    }
}
