//! Where a thing stands in the source.

use std::ops::Range;

/// A half-open range of byte offsets into [`Dockerfile::text`](crate::Dockerfile::text).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset after the last byte.
    pub end: usize,
}

impl Span {
    /// Makes a span; `end` is never before `start`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// True when the two spans share a byte.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The span as a range for slicing.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A piece of an instruction, before variables are replaced and quotes removed, and where it stands.
///
/// `text` is what the parser read: line continuations are gone. It is not always the slice under `span`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The raw text, to be given to [`expand`](crate::expand).
    pub text: String,
    /// Where it stands; covers the continuation lines between its parts.
    pub span: Span,
}

impl Word {
    /// Makes a word.
    pub fn new(text: impl Into<String>, span: Span) -> Self {
        Self { text: text.into(), span }
    }

    /// The raw text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}
