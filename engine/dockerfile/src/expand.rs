//! Variables, quotes and escapes in a raw word.
//!
//! The rules are those of BuildKit's shell lexer, which resembles a POSIX shell and is none: only `$`, both quotes and
//! the escape character are special. [`Expander::expand`] gives the word as one string, and as the words it falls into
//! when white space outside of quotes separates them *after* the replacement. The caller passes the environment of
//! the place; a name without a value is reported, not an error.
//!
//! What BuildKit expands: all words of `ADD`, `COPY` (not `--from`), `ENV`, `LABEL`, `ARG`, `EXPOSE` (into several words),
//! `FROM` (with global arguments only), `STOPSIGNAL`, `USER`, `VOLUME` and `WORKDIR`, the values of `RUN --mount` (not
//! `from`), and the bodies of heredocs that `ADD` and `COPY` write when the delimiter is not quoted. It does not expand
//! the commands of `RUN`, `CMD`, `ENTRYPOINT`, `HEALTHCHECK` and `SHELL`.
//!
//! Nesting, output size and the work of pattern matching are bounded by the constants below.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::ast::Escape;
use crate::diagnostic::{Code, Diagnostic};
use crate::span::Word;

/// `${a:-${b:-…}}` deeper than this is refused; it bounds the stack.
pub const MAX_DEPTH: usize = 100;
/// An expansion longer than this is refused, in bytes: values that contain each other grow without end.
pub const MAX_EXPANDED_BYTES: usize = 16 << 20;
/// Steps of pattern matching in one word, in characters compared with pattern elements.
const MAX_MATCH_STEPS: usize = 20_000_000;

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExpandError {
    /// A quote or brace is open at the end.
    #[error("unexpected end while looking for the matching `{0}`")]
    Unterminated(char),
    /// `${}`, `${:x}` and the like.
    #[error("bad substitution: `{0}`")]
    BadSubstitution(String),
    /// `${x!…}`: no such operator.
    #[error("unsupported modifier `{modifier}` in the substitution of `{name}`")]
    UnsupportedModifier {
        /// The variable.
        name: String,
        /// What follows its name.
        modifier: String,
    },
    /// `${x:?message}` and `x` has no value.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The text after `?`, or a standard one.
        message: String,
    },
    /// A backslash in a pattern before a character that needs none.
    #[error("invalid escape `\\{0}` in a pattern")]
    InvalidPattern(char),
    /// Deeper than [`MAX_DEPTH`].
    #[error("substitutions are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Longer than [`MAX_EXPANDED_BYTES`].
    #[error("the expanded text is too long")]
    TooLong,
    /// A pattern replacement that would take too long.
    #[error("the pattern takes too long to match")]
    TooComplex,
}

/// Looks up the value of a variable; none means unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A word after expansion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The whole, white space kept.
    pub text: String,
    /// The parts between white space that was not quoted.
    pub words: Vec<String>,
    /// Names that had a value.
    pub matched: BTreeSet<String>,
    /// Names that had none.
    pub unmatched: BTreeSet<String>,
}

/// How to expand.
///
/// ```
/// use cooper_dockerfile::{Escape, expand::Expander};
///
/// let environment = |name: &str| (name == "who").then(|| "world".to_owned());
/// let expansion = Expander::new(Escape::Backslash).expand("hello ${who} ${when:-'right now'}", &environment);
/// assert_eq!(expansion.unwrap().text, "hello world right now");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Expander {
    escape: Escape,
    keep_quotes: bool,
    keep_escapes: bool,
    quotes_are_text: bool,
    keep_unset: bool,
    max_bytes: usize,
    max_steps: usize,
}

impl Expander {
    /// Replaces variables, removes quotes and escapes.
    pub fn new(escape: Escape) -> Self {
        Self {
            escape,
            keep_quotes: false,
            keep_escapes: false,
            quotes_are_text: false,
            keep_unset: false,
            max_bytes: MAX_EXPANDED_BYTES,
            max_steps: MAX_MATCH_STEPS,
        }
    }

    /// Quotes still group, but stay in the result.
    #[must_use]
    pub fn keep_quotes(self) -> Self {
        Self { keep_quotes: true, ..self }
    }

    /// Escape characters still protect, but stay in the result.
    #[must_use]
    pub fn keep_escapes(self) -> Self {
        Self { keep_escapes: true, ..self }
    }

    /// Quotes are ordinary characters, as in the body of a heredoc.
    #[must_use]
    pub fn quotes_are_text(self) -> Self {
        Self { quotes_are_text: true, ..self }
    }

    /// A variable without a value stays as it is written.
    #[must_use]
    pub fn keep_unset(self) -> Self {
        Self { keep_unset: true, ..self }
    }

    /// Gives up earlier: after so many bytes of result, or steps of pattern matching.
    #[must_use]
    pub(crate) fn limits(self, max_bytes: usize, max_steps: usize) -> Self {
        Self { max_bytes, max_steps, ..self }
    }

    /// Expands one raw word.
    pub fn expand(self, word: &str, lookup: Lookup<'_>) -> Result<Expansion, ExpandError> {
        let mut run = Run {
            expander: self,
            escape: self.escape.char(),
            input: word,
            position: 0,
            lookup,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
            steps: 0,
            depth: 0,
        };
        let (text, words) = run.until(None, self.keep_escapes)?;
        Ok(Expansion { text, words, matched: run.matched, unmatched: run.unmatched })
    }

    /// Expands a word of an instruction; an error says where it stands.
    pub fn expand_word(self, word: &Word, lookup: Lookup<'_>) -> Result<Expansion, Box<Diagnostic>> {
        self.expand(&word.text, lookup).map_err(|error| {
            let message = format!("cannot expand `{}`: {error}", word.text);
            Box::new(Diagnostic::error(Code::Expansion, message, word.span))
        })
    }

    /// Expands the body of a heredoc that `COPY` or `ADD` writes: variables and escapes, but no quotes. The escape
    /// character is always `\`, whatever the directive says.
    pub fn heredoc(body: &str, lookup: Lookup<'_>) -> Result<Expansion, ExpandError> {
        Self::new(Escape::Backslash).quotes_are_text().expand(body, lookup)
    }
}

/// Collects words: white space from outside of quotes ends one.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    fn push_text(&mut self, character: char) {
        if character.is_whitespace() {
            self.finish();
        } else {
            self.word.push(character);
        }
    }

    fn finish(&mut self) {
        if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }
}

struct Run<'a> {
    expander: Expander,
    escape: char,
    input: &'a str,
    position: usize,
    lookup: Lookup<'a>,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
    steps: usize,
    depth: usize,
}

impl Run<'_> {
    fn peek(&self) -> Option<char> {
        self.input[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += character.len_utf8();
        Some(character)
    }

    /// Reads to `stop` (which is taken) or, without one, to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
    ) -> Result<(String, Vec<String>), ExpandError> {
        let mut text = String::new();
        let mut words = Words::default();
        loop {
            if text.len() > self.expander.max_bytes {
                return Err(ExpandError::TooLong);
            }
            let Some(character) = self.peek() else { break };
            if Some(character) == stop {
                self.next();
                words.finish();
                return Ok((text, words.done));
            }
            match character {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|character| words.push_text(character));
                    text.push_str(&value);
                }
                '\'' | '"' if !self.expander.quotes_are_text => {
                    let value = match character {
                        '\'' => self.single_quoted()?,
                        _ => self.double_quoted(keep_escapes)?,
                    };
                    words.word.push_str(&value);
                    text.push_str(&value);
                }
                _ if character == self.escape => {
                    self.next();
                    if keep_escapes {
                        words.word.push(character);
                        text.push(character);
                    }
                    // An escape character that ends the word is nothing.
                    let Some(escaped) = self.next() else { break };
                    words.word.push(escaped);
                    text.push(escaped);
                }
                _ => {
                    self.next();
                    words.push_text(character);
                    text.push(character);
                }
            }
        }
        match stop {
            Some(stop) => Err(ExpandError::Unterminated(stop)),
            None if text.len() > self.expander.max_bytes => Err(ExpandError::TooLong),
            None => {
                words.finish();
                Ok((text, words.done))
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        self.next();
        let rest = &self.input[self.position..];
        let length = rest.find('\'').ok_or(ExpandError::Unterminated('\''))?;
        self.position += length + 1;
        let inner = &rest[..length];
        Ok(if self.expander.keep_quotes { format!("'{inner}'") } else { inner.to_owned() })
    }

    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, ExpandError> {
        self.next();
        let mut text = String::new();
        if self.expander.keep_quotes {
            text.push('"');
        }
        loop {
            if text.len() > self.expander.max_bytes {
                return Err(ExpandError::TooLong);
            }
            match self.peek().ok_or(ExpandError::Unterminated('"'))? {
                '"' => {
                    self.next();
                    if self.expander.keep_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                '$' => text.push_str(&self.dollar()?),
                character => {
                    self.next();
                    let mut taken = character;
                    if character == self.escape {
                        if keep_escapes {
                            text.push(character);
                        }
                        match self.peek() {
                            None => continue,
                            // Only these can be escaped here; before others the escape character is itself.
                            Some(escaped) if matches!(escaped, '"' | '$') || escaped == self.escape => {
                                self.next();
                                taken = escaped;
                            }
                            // It was written above.
                            Some(_) if keep_escapes => continue,
                            Some(_) => {}
                        }
                    }
                    text.push(taken);
                }
            }
        }
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_some() { &mut self.matched } else { &mut self.unmatched }.insert(name.to_owned());
        value
    }

    /// `$name` or `${name…}`; the position is on the `$`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.position;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            let value = self.value(&name);
            return Ok(match value {
                None if self.expander.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        if self.depth == MAX_DEPTH {
            return Err(ExpandError::TooDeep);
        }
        self.depth += 1;
        let result = self.braced(start);
        self.depth -= 1;
        result
    }

    /// `{name…}`; the position is on the `{`.
    fn braced(&mut self, start: usize) -> Result<String, ExpandError> {
        self.next();
        match self.peek() {
            None => return Err(ExpandError::Unterminated('}')),
            Some('{' | '}' | ':') => {
                self.next();
                return Err(ExpandError::BadSubstitution(self.input[start..self.position].to_owned()));
            }
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            None => Err(ExpandError::Unterminated('}')),
            Some('}') => match self.value(&name) {
                None if self.expander.keep_unset => Ok(format!("${{{name}}}")),
                value => Ok(value.unwrap_or_default()),
            },
            Some(':') => match self.next() {
                Some(operator) => self.conditional(&name, operator, true),
                None => Err(ExpandError::Unterminated('}')),
            },
            Some(operator @ ('+' | '-' | '?' | '#' | '%')) => self.conditional(&name, operator, false),
            Some('/') => self.replacement(&name),
            Some(other) => Err(ExpandError::UnsupportedModifier { name, modifier: other.to_string() }),
        }
    }

    /// `-`, `+`, `?`, `#`, `%`, with `empty_is_unset` when a colon stood before.
    fn conditional(
        &mut self,
        name: &str,
        operator: char,
        empty_is_unset: bool,
    ) -> Result<String, ExpandError> {
        let is_pattern = matches!(operator, '#' | '%');
        let (word, _) = self.until(Some('}'), is_pattern)?;
        let colon = if empty_is_unset { ":" } else { "" };
        let value = self.value(name);
        if value.is_none() && self.expander.keep_unset {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let present = value.as_ref().is_some_and(|value| !empty_is_unset || !value.is_empty());
        match operator {
            '-' => Ok(if present { value.unwrap_or_default() } else { word }),
            '+' => Ok(if present { word } else { String::new() }),
            '?' if present => Ok(value.unwrap_or_default()),
            '?' => {
                let standard =
                    if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let message = if word.is_empty() { standard.to_owned() } else { word };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
            '#' | '%' => {
                let longest = word.starts_with(operator);
                let pattern = if longest { &word[1..] } else { &word };
                self.trim(pattern, &value.unwrap_or_default(), operator == '%', longest)
            }
            _ => Err(ExpandError::UnsupportedModifier {
                name: name.to_owned(),
                modifier: format!("{colon}{operator}"),
            }),
        }
    }

    /// Removes the shortest or longest match of `pattern` from the start or the end of `value`.
    fn trim(
        &mut self,
        pattern: &str,
        value: &str,
        at_end: bool,
        longest: bool,
    ) -> Result<String, ExpandError> {
        let mut pattern = Pattern::parse(pattern)?;
        let mut characters: Vec<char> = value.chars().collect();
        if at_end {
            pattern.elements.reverse();
            characters.reverse();
        }
        let end = self.longest_or_shortest(&pattern, &characters, longest)?.unwrap_or(0);
        characters.drain(..end);
        if at_end {
            characters.reverse();
        }
        Ok(characters.into_iter().collect())
    }

    fn longest_or_shortest(
        &mut self,
        pattern: &Pattern,
        text: &[char],
        longest: bool,
    ) -> Result<Option<usize>, ExpandError> {
        let (end, steps) = pattern.match_at_start(text, longest, self.expander.max_steps - self.steps)?;
        self.steps += steps;
        Ok(end)
    }

    /// `/pattern/replacement}` or `//pattern/replacement}`; the first slash is taken.
    fn replacement(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let (raw_pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let Some(value) = self.value(name) else {
            return Ok(if self.expander.keep_unset {
                let slashes = if all { "//" } else { "/" };
                format!("${{{name}{slashes}{raw_pattern}/{replacement}}}")
            } else {
                String::new()
            });
        };
        let pattern = Pattern::parse(&raw_pattern)?;
        let characters: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut position = 0;
        let mut previous_end = None;
        while position <= characters.len() {
            let found = self.longest_or_shortest(&pattern, &characters[position..], true)?;
            // An empty match right after another match does not count.
            let found = found.filter(|length| *length > 0 || previous_end != Some(position));
            let length = found.unwrap_or(0);
            if found.is_some() {
                result.push_str(&replacement);
                if result.len() > self.expander.max_bytes {
                    return Err(ExpandError::TooLong);
                }
                previous_end = Some(position + length);
            }
            if length == 0 {
                result.extend(characters.get(position));
                position += 1;
            }
            position += length;
            if found.is_some() && !all {
                result.extend(characters.get(position..).unwrap_or_default());
                break;
            }
        }
        Ok(result)
    }

    /// A name, a number, or one special parameter.
    fn name(&mut self) -> String {
        let rest = &self.input[self.position..];
        let first = rest.chars().next();
        let length = match first {
            Some(first) if first.is_numeric() => rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => {
                rest.find(|c: char| !(c.is_alphabetic() || c.is_numeric() || c == '_')).unwrap_or(rest.len())
            }
        };
        self.position += length;
        rest[..length].to_owned()
    }
}

/// A pattern of `#`, `%` and `/`: `*`, `?` and characters; `\` before `*`, `?` and `\` makes them plain.
struct Pattern {
    elements: Vec<Element>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Character(char),
    AnyCharacter,
    AnyString,
}

impl Pattern {
    fn parse(pattern: &str) -> Result<Self, ExpandError> {
        let mut elements = Vec::new();
        let mut characters = pattern.chars().peekable();
        while let Some(character) = characters.next() {
            elements.push(match character {
                '*' => Element::AnyString,
                '?' => Element::AnyCharacter,
                '\\' => match characters.next() {
                    // `}` and `/` are escaped for the sake of `${}`.
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Element::Character(escaped),
                    other => return Err(ExpandError::InvalidPattern(other.unwrap_or(' '))),
                },
                other => Element::Character(other),
            });
        }
        // Several stars in a row are one.
        elements.dedup_by(|right, left| *left == Element::AnyString && *right == Element::AnyString);
        Ok(Self { elements })
    }

    /// The end of the longest or shortest match that begins with the text, and the steps it took. Wildcards do not
    /// match a line feed.
    fn match_at_start(
        &self,
        text: &[char],
        longest: bool,
        budget: usize,
    ) -> Result<(Option<usize>, usize), ExpandError> {
        // `active[i]`: the elements before `i` have matched all text so far.
        let mut active = vec![false; self.elements.len() + 1];
        active[0] = true;
        self.skip_stars(&mut active);
        let mut steps = active.len();
        let mut end = active[self.elements.len()].then_some(0);
        for (offset, character) in text.iter().enumerate() {
            if (end.is_some() && !longest) || !active.contains(&true) {
                break;
            }
            steps += active.len();
            if steps > budget {
                return Err(ExpandError::TooComplex);
            }
            let mut next = vec![false; active.len()];
            for (index, element) in self.elements.iter().enumerate().filter(|(index, _)| active[*index]) {
                match element {
                    Element::Character(expected) if expected == character => next[index + 1] = true,
                    Element::AnyCharacter if *character != '\n' => next[index + 1] = true,
                    Element::AnyString if *character != '\n' => next[index] = true,
                    _ => {}
                }
            }
            self.skip_stars(&mut next);
            active = next;
            if active[self.elements.len()] {
                end = Some(offset + 1);
            }
        }
        Ok((end, steps))
    }

    fn skip_stars(&self, active: &mut [bool]) {
        for (index, element) in self.elements.iter().enumerate() {
            if active[index] && *element == Element::AnyString {
                active[index + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "a" => "A",
            "empty" => "",
            "spaces" => "x  y",
            "path" => "/usr/local/bin",
            "file" => "archive.tar.gz",
            "stars" => "a*b?c",
            "1" => "one",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn check(input: &str, expected: &str) {
        let expansion = Expander::new(Escape::Backslash).expand(input, &environment);
        assert_eq!(expansion.map(|expansion| expansion.text), Ok(expected.to_owned()), "{input}");
    }

    fn check_words(input: &str, expected: &[&str]) {
        let expansion = Expander::new(Escape::Backslash).expand(input, &environment);
        assert_eq!(expansion.map(|e| e.words).unwrap_or_default(), expected, "{input}");
    }

    fn check_error(input: &str, expected: &str) {
        let result = Expander::new(Escape::Backslash).expand(input, &environment);
        assert_eq!(result.map_err(|error| error.to_string()), Err(expected.to_owned()), "{input}");
    }

    #[test]
    fn plain_names() {
        check("$a", "A");
        check("${a}b", "Ab");
        check("$ab", "");
        check("$a.b", "A.b");
        check("x$", "x$");
        check("$.", "$.");
        check("$1x", "onex");
        check("$$", "");
        check("${a}${a}", "AA");
    }

    #[test]
    fn quotes_and_escapes() {
        check("'$a'", "$a");
        check("\"$a\"", "A");
        check("\\$a", "$a");
        check("\"\\$a\"", "$a");
        check("\"\\a\"", "\\a");
        check("\\a", "a");
        check("a\\", "a");
        check("\"a'b\"", "a'b");
        check("'a\"b'", "a\"b");
        check("'a\\'", "a\\");
    }

    #[test]
    fn defaults_and_alternatives() {
        check("${none:-d}", "d");
        check("${none-d}", "d");
        check("${empty:-d}", "d");
        check("${empty-d}", "");
        check("${a:-d}", "A");
        check("${a:+x}", "x");
        check("${empty:+x}", "");
        check("${empty+x}", "x");
        check("${none+x}", "");
        check("${none:-${a}}", "A");
        check("${none:-${nope:-deep}}", "deep");
        check("${none:-'$a }'}", "$a }");
        check("${a:?wrong}", "A");
        check("${empty?wrong}", "");
    }

    #[test]
    fn patterns() {
        check("${path#*/}", "usr/local/bin");
        check("${path##*/}", "bin");
        check("${path%/*}", "/usr/local");
        check("${path%%/*}", "");
        check("${file%.*}", "archive.tar");
        check("${file%%.*}", "archive");
        check("${file#archive?}", "tar.gz");
        check("${file#nothing}", "archive.tar.gz");
        check("${stars#a\\*}", "b?c");
        check("${path/local/share}", "/usr/share/bin");
        check("${path//\\//-}", "-usr-local-bin");
        check("${file/.*/}", "archive");
        check("${none/a/b}", "");
        check("${file//a/}", "rchive.tr.gz");
        check("${a//*/x}", "x");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        check_error("${none:?must be set}", "none: must be set");
        check_error("${none?}", "none: is not allowed to be unset");
        check_error("${empty:?}", "empty: is not allowed to be empty");
        check_error("${", "unexpected end while looking for the matching `}`");
        check_error("${a", "unexpected end while looking for the matching `}`");
        check_error("${a:-b", "unexpected end while looking for the matching `}`");
        check_error("${}", "bad substitution: `${}`");
        check_error("${:x}", "bad substitution: `${:`");
        check_error("${a!x}", "unsupported modifier `!` in the substitution of `a`");
        check_error("${a:!x}", "unsupported modifier `:!` in the substitution of `a`");
        check_error("'x", "unexpected end while looking for the matching `'`");
        check_error("\"x", "unexpected end while looking for the matching `\"`");
        check_error("${a#\\x}", "invalid escape `\\x` in a pattern");
    }

    #[test]
    fn white_space_from_a_value_separates_words_unless_quoted() {
        check_words("$spaces z", &["x", "y", "z"]);
        check_words("\"$spaces\" z", &["x  y", "z"]);
        check_words("a\\ b c", &["a b", "c"]);
        check_words("  ", &[]);
        check_words("''", &[]);
    }

    #[test]
    fn unset_names_are_reported() {
        let expansion = Expander::new(Escape::Backslash).expand("$a $b ${c:-x}", &environment);
        let unmatched = expansion.map(|expansion| expansion.unmatched).unwrap_or_default();
        assert_eq!(unmatched.into_iter().collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn the_escape_character_can_be_a_backtick() {
        let expander = Expander::new(Escape::Backtick);
        let text = |input| expander.expand(input, &environment).map(|expansion| expansion.text);
        assert_eq!(text("`$a"), Ok("$a".to_owned()));
        assert_eq!(text("c:\\$a"), Ok("c:\\A".to_owned()));
    }

    #[test]
    fn an_error_says_where_the_word_stands() {
        let file = crate::parse(b"FROM a\nUSER ${who:?name a user}\n");
        let crate::InstructionKind::User(word) = &file.stages[0].instructions[0].kind else {
            panic!("a USER")
        };
        let error =
            Expander::new(Escape::Backslash).expand_word(word, &environment).expect_err("who is unset");
        assert_eq!(error.message, "cannot expand `${who:?name a user}`: who: name a user");
        assert_eq!(&file.text[error.span().range()], "${who:?name a user}");
    }

    #[test]
    fn heredoc_bodies_keep_quotes() {
        let text = Expander::heredoc("'$a' \"$a\" \\$a\n", &environment);
        assert_eq!(text.map(|expansion| expansion.text), Ok("'A' \"A\" $a\n".to_owned()));
    }

    #[test]
    fn nesting_and_work_are_bounded() {
        let deep = "${x:-".repeat(MAX_DEPTH + 1);
        check_error(&deep, "substitutions are nested deeper than 100");
        let long = |_: &str| Some("a".repeat(40_000));
        let result = Expander::new(Escape::Backslash).expand("${x//*b/c}", &long);
        assert_eq!(result, Err(ExpandError::TooComplex));
    }
}
