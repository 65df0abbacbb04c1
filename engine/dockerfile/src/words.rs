//! Splitting an instruction's arguments into raw words. Quotes and escapes stay; [`expand`](crate::expand) removes
//! them together with the variables.

use crate::ast::Escape;
use crate::source::Text;
use crate::span::{Span, Word};

/// Splits at white space outside of quotes, keeping quotes and escapes. For `ENV`, `LABEL` and `ARG`.
///
/// An escape character that ends the text is dropped. In single quotes nothing is special but the closing quote.
pub(crate) fn split_quoted(text: Text<'_>, escape: Escape) -> Vec<RawWord<'_>> {
    let source = text.as_str();
    let escape = escape.char();
    let mut words = Vec::new();
    let mut word = String::new();
    let mut word_start = None;
    let mut quote = None;
    let mut characters = source.char_indices();
    while let Some((offset, character)) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            if let Some(start) = word_start.take() {
                finish(&mut words, &mut word, text.slice(start, offset));
            }
            continue;
        }
        word_start.get_or_insert(offset);
        match quote {
            Some(open) if open == character => quote = None,
            None if matches!(character, '"' | '\'') => quote = Some(character),
            _ => {}
        }
        if character == escape && quote != Some('\'') {
            let Some((_, escaped)) = characters.next() else { break };
            word.push(character);
            word.push(escaped);
        } else {
            word.push(character);
        }
    }
    if let Some(start) = word_start {
        finish(&mut words, &mut word, text.from(start));
    }
    words
}

fn finish<'a>(words: &mut Vec<RawWord<'a>>, word: &mut String, place: Text<'a>) {
    if !word.is_empty() {
        words.push(RawWord { text: std::mem::take(word), place });
    }
}

/// A word that still knows its line, so that its parts can be placed.
#[derive(Debug)]
pub(crate) struct RawWord<'a> {
    /// The slice under `place`, perhaps without the escape character at its end.
    pub(crate) text: String,
    place: Text<'a>,
}

impl RawWord<'_> {
    pub(crate) fn span(&self) -> Span {
        self.place.span()
    }

    pub(crate) fn word(&self) -> Word {
        self.place.word_as(self.text.as_str())
    }

    /// Splits at the first `=`.
    pub(crate) fn split_assignment(&self) -> Option<(Word, Word)> {
        let (name, value) = self.text.split_once('=')?;
        Some((self.place.slice(0, name.len()).word(), self.place.from(name.len() + 1).word_as(value)))
    }
}

/// Splits a word at its first `=`.
pub(crate) fn split_assignment(word: &Word) -> Option<(Word, Word)> {
    let (name, value) = word.text.split_once('=')?;
    // The offsets are exact unless a continuation or a dropped escape lies in the word.
    let exact = word.span.end - word.span.start == word.text.len();
    let middle = word.span.start + name.len();
    let (name_span, value_span) = if exact {
        (Span::new(word.span.start, middle), Span::new(middle + 1, word.span.end))
    } else {
        (word.span, word.span)
    };
    Some((Word::new(name, name_span), Word::new(value, value_span)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::LogicalLine;

    fn check(input: &str, expected: &[&str]) {
        let line = LogicalLine::of(input);
        let words = split_quoted(line.text(), Escape::Backslash);
        assert_eq!(words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), expected, "{input}");
    }

    #[test]
    fn white_space_splits_only_outside_of_quotes() {
        check("a=1 b=2", &["a=1", "b=2"]);
        check("a='x y' b=\"p q\"", &["a='x y'", "b=\"p q\""]);
        check("a=x\\ y", &["a=x\\ y"]);
        check("a=\"x\\\" y\" b", &["a=\"x\\\" y\"", "b"]);
        check("a='x\\' b", &["a='x\\'", "b"]);
        check("a=1\\", &["a=1"]);
        check("a=\"open b", &["a=\"open b"]);
        check("\\", &[]);
        check("  ", &[]);
        check("\"\"", &["\"\""]);
    }
}
