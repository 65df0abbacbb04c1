//! Physical lines to logical lines.
//!
//! A logical line is an instruction's text with continuations joined. [`LogicalLine`] remembers where each piece came
//! from, and [`Text`] is a slice of one that still knows it, so every later step can say where its words stand.

use crate::span::{Span, Word};

/// One instruction's text and where its pieces stand in the source.
#[derive(Debug, Default)]
pub(crate) struct LogicalLine {
    text: String,
    /// (offset in `text`, offset in the source), ascending in both.
    pieces: Vec<(usize, usize)>,
}

impl LogicalLine {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A line that stands in one piece.
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self { text: text.to_owned(), pieces: vec![(0, 0)] }
    }

    pub(crate) fn push(&mut self, piece: &str, source_offset: usize) {
        self.pieces.push((self.text.len(), source_offset));
        self.text.push_str(piece);
    }

    pub(crate) fn text(&self) -> Text<'_> {
        Text { line: self, start: 0, end: self.text.len() }
    }

    /// The place in the source of the byte at `offset`.
    fn source_offset(&self, offset: usize) -> usize {
        let next = self.pieces.partition_point(|(start, _)| *start <= offset);
        match next.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some((start, source)) => source + (offset - start),
            None => 0,
        }
    }

    fn span(&self, start: usize, end: usize) -> Span {
        if start >= end {
            // An empty place at the end of a piece belongs to that piece, not to the next one.
            let place = if start > 0 { self.source_offset(start - 1) + 1 } else { self.source_offset(start) };
            return Span::new(place, place);
        }
        Span::new(self.source_offset(start), self.source_offset(end - 1) + 1)
    }
}

/// A part of a logical line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    line: &'a LogicalLine,
    start: usize,
    end: usize,
}

impl<'a> Text<'a> {
    pub(crate) fn as_str(self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    pub(crate) fn span(self) -> Span {
        self.line.span(self.start, self.end)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The part from `start` to `end`, both relative to this part.
    pub(crate) fn slice(self, start: usize, end: usize) -> Self {
        Self { line: self.line, start: self.start + start, end: self.start + end }
    }

    pub(crate) fn from(self, start: usize) -> Self {
        Self { start: self.start + start, ..self }
    }

    pub(crate) fn trim(self) -> Self {
        let text = self.as_str();
        let trimmed = text.trim_start();
        let start = text.len() - trimmed.len();
        self.slice(start, start + trimmed.trim_end().len())
    }

    pub(crate) fn word(self) -> Word {
        Word::new(self.as_str(), self.span())
    }

    /// A word whose text was changed by unquoting, at the place of this part.
    pub(crate) fn word_as(self, text: impl Into<String>) -> Word {
        Word::new(text, self.span())
    }

    /// Splits at the first run of blanks (tab, vertical tab, form feed, carriage return, space).
    pub(crate) fn split_blank(self) -> (Self, Option<Self>) {
        let text = self.as_str();
        match text.find(is_blank) {
            None => (self, None),
            Some(end) => {
                let rest = text[end..].trim_start_matches(is_blank).len();
                (self.slice(0, end), Some(self.from(text.len() - rest)))
            }
        }
    }

    /// All parts between runs of blanks.
    pub(crate) fn split_blanks(self) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut rest = Some(self);
        while let Some(text) = rest {
            let (part, next) = text.split_blank();
            parts.push(part);
            rest = next;
        }
        parts
    }
}

/// The characters that separate words in the argument lists that know no quotes.
pub(crate) fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// The physical lines of a file with their offsets; each keeps its line feed.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    source: &'a str,
    offset: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(source: &'a str, offset: usize) -> Self {
        Self { source, offset }
    }

    /// Where the next line begins.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.source[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |position| position + 1);
        let offset = self.offset;
        self.offset += length;
        Some((offset, &rest[..length]))
    }
}

pub(crate) fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

pub(crate) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Takes a continuation mark off the end of a line: the escape character, not preceded by another one, and blanks.
pub(crate) fn strip_continuation(line: &str, escape: char) -> Option<&str> {
    let body = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!body.ends_with(escape)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_escape_is_not_a_continuation() {
        assert_eq!(strip_continuation("RUN a \\", '\\'), Some("RUN a "));
        assert_eq!(strip_continuation("RUN a \\ \t", '\\'), Some("RUN a "));
        assert_eq!(strip_continuation("RUN a \\\\", '\\'), None);
        assert_eq!(strip_continuation("\\", '\\'), Some(""));
        assert_eq!(strip_continuation("RUN a \\", '`'), None);
    }

    #[test]
    fn spans_lead_back_through_joined_pieces() {
        let mut line = LogicalLine::new();
        line.push("RUN a ", 10);
        line.push("b", 20);
        assert_eq!(line.text().slice(4, 7).span(), Span::new(14, 21));
        assert_eq!(line.text().slice(4, 5).span(), Span::new(14, 15));
        assert_eq!(line.text().slice(6, 7).span(), Span::new(20, 21));
    }
}
