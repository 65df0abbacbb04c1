//! Wildcards: Go's `path.Match`, which `COPY` and `ADD` follow, and the elements that ignore patterns share with it.
//!
//! `*` is any run of characters but `/`, `?` is one character but `/`, `[a-z]` and `[^a-z]` are classes, `\` makes the
//! next character plain. A pattern is compiled once; matching walks the path once and keeps the set of pattern places
//! reached so far, so the time is at most path length times pattern length, whatever the pattern.

use thiserror::Error;

/// A pattern longer than this is refused, in bytes; it bounds the time of matching.
pub const MAX_PATTERN_BYTES: usize = 4096;

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// A class without its end, an empty class or range, or a `\` at the end.
    #[error("syntax error in pattern `{0}`")]
    Syntax(String),
    /// Longer than [`MAX_PATTERN_BYTES`].
    #[error("a pattern is longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// `!` and nothing else.
    #[error("`!` is not a pattern")]
    EmptyException,
}

/// True when a path of `COPY` or `ADD` holds an unprotected wildcard and so has to be matched against names.
pub fn has_wildcards(pattern: &str) -> bool {
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// A compiled pattern of Go's `path.Match`.
///
/// ```
/// use cooper_dockerfile::glob::Glob;
///
/// let glob = Glob::new("src/*.[ch]").unwrap();
/// assert!(glob.matches(b"src/main.c"));
/// assert!(!glob.matches(b"src/lib/main.c"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    elements: Vec<Element>,
}

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        compile(pattern, Stars::WithinName).map(|elements| Self { elements })
    }

    /// True when the whole path matches. Bytes that are not UTF-8 count as one character each.
    pub fn matches(&self, path: &[u8]) -> bool {
        Places::after(&self.elements, path).at_end()
    }

    /// True when a path that goes on after `prefix` (which ends in `/`, or is empty) can match. For walks.
    pub fn may_match_below(&self, prefix: &[u8]) -> bool {
        Places::after(&self.elements, prefix).can_go_on()
    }
}

/// What `**` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stars {
    /// The same as `*`.
    WithinName,
    /// Any number of whole names.
    AcrossNames,
}

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Element {
    /// This character.
    Character(char),
    /// One character but `/`.
    InName,
    /// Any run without `/`.
    RunInName,
    /// One character of a class.
    Class { negated: bool, ranges: Vec<(char, char)> },
    /// Nothing, or anything up to and with a `/`.
    Names,
    /// Anything.
    Rest,
}

/// Compiles a pattern; what is not well formed for `path.Match` is an error in both meanings of `**`.
pub(crate) fn compile(pattern: &str, stars: Stars) -> Result<Vec<Element>, PatternError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::TooLong);
    }
    let wrong = || PatternError::Syntax(pattern.to_owned());
    let mut elements = Vec::new();
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        elements.push(match character {
            '*' if stars == Stars::AcrossNames && characters.next_if_eq(&'*').is_some() => {
                characters.next_if_eq(&'/');
                if characters.peek().is_some() { Element::Names } else { Element::Rest }
            }
            '*' => Element::RunInName,
            '?' => Element::InName,
            '\\' => Element::Character(characters.next().ok_or_else(wrong)?),
            '[' => class(&mut characters).ok_or_else(wrong)?,
            other => Element::Character(other),
        });
    }
    elements.dedup_by(|right, left| *left == Element::RunInName && *right == Element::RunInName);
    Ok(elements)
}

/// Reads a class; its `[` is taken.
fn class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Element> {
    let negated = characters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || characters.next_if_eq(&']').is_none() {
        let first = class_character(characters)?;
        let last = match characters.next_if_eq(&'-') {
            Some(_) => class_character(characters)?,
            None => first,
        };
        ranges.push((first, last));
    }
    Some(Element::Class { negated, ranges })
}

fn class_character(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match characters.next()? {
        '-' | ']' => None,
        '\\' => characters.next(),
        other => Some(other),
    }
}

/// The places in a pattern that a path has reached.
pub(crate) struct Places<'a> {
    elements: &'a [Element],
    /// `reached[i]`: the elements before `i` have matched the whole path so far.
    reached: Vec<bool>,
    /// `inside[i]`: element `i` is [`Element::Names`] and has taken a part of a name.
    inside: Vec<bool>,
}

impl<'a> Places<'a> {
    pub(crate) fn after(elements: &'a [Element], path: &[u8]) -> Self {
        let mut places =
            Self { elements, reached: vec![false; elements.len() + 1], inside: vec![false; elements.len()] };
        places.reached[0] = true;
        places.skip_optional();
        for chunk in path.utf8_chunks() {
            chunk.valid().chars().for_each(|character| places.step(character));
            chunk.invalid().iter().for_each(|_| places.step(char::REPLACEMENT_CHARACTER));
        }
        places
    }

    pub(crate) fn at_end(&self) -> bool {
        self.reached[self.elements.len()]
    }

    /// True when more characters can follow and still match.
    pub(crate) fn can_go_on(&self) -> bool {
        self.reached[..self.elements.len()].contains(&true) || self.inside.contains(&true)
    }

    fn step(&mut self, character: char) {
        let mut reached = vec![false; self.reached.len()];
        let mut inside = vec![false; self.inside.len()];
        for (index, element) in self.elements.iter().enumerate() {
            if !self.reached[index] && !self.inside[index] {
                continue;
            }
            match element {
                Element::Character(expected) => reached[index + 1] |= *expected == character,
                Element::InName => reached[index + 1] |= character != '/',
                Element::RunInName => reached[index] |= character != '/',
                Element::Class { negated, ranges } => {
                    let found = ranges.iter().any(|(first, last)| (*first..=*last).contains(&character));
                    reached[index + 1] |= found != *negated;
                }
                Element::Names => {
                    inside[index] = true;
                    reached[index + 1] |= character == '/';
                }
                Element::Rest => reached[index] = true,
            }
        }
        self.reached = reached;
        self.inside = inside;
        self.skip_optional();
    }

    fn skip_optional(&mut self) {
        for (index, element) in self.elements.iter().enumerate() {
            if self.reached[index] && matches!(element, Element::RunInName | Element::Names | Element::Rest) {
                self.reached[index + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_match() {
        for (pattern, path, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "aéb", true),
            ("a[^a]b", "a☺b", true),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("**", "a/b", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let glob = Glob::new(pattern).expect("the pattern is well formed");
            assert_eq!(glob.matches(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn bad_patterns() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "a[]", "[\\"]
        {
            assert_eq!(Glob::new(pattern), Err(PatternError::Syntax(pattern.to_owned())));
        }
        assert_eq!(Glob::new(&"a".repeat(MAX_PATTERN_BYTES + 1)), Err(PatternError::TooLong));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_one_character_each() {
        let glob = Glob::new("a??b").expect("the pattern is well formed");
        assert!(glob.matches(b"a\xff\xfeb"));
        assert!(!glob.matches(b"a\xffb"));
    }

    #[test]
    fn wildcards_are_seen_unless_escaped() {
        assert!(has_wildcards("a*") && has_wildcards("[a]") && has_wildcards("?"));
        assert!(!has_wildcards("a\\*b") && !has_wildcards("a/b"));
    }

    #[test]
    fn a_walk_can_leave_out_directories() {
        let glob = Glob::new("src/*/x").expect("the pattern is well formed");
        assert!(glob.may_match_below(b""));
        assert!(glob.may_match_below(b"src/"));
        assert!(glob.may_match_below(b"src/a/"));
        assert!(!glob.may_match_below(b"src/a/b/"));
        assert!(!glob.may_match_below(b"lib/"));
    }

    #[test]
    fn many_stars_stay_cheap() {
        let glob = Glob::new(&"a*".repeat(100)).expect("the pattern is well formed");
        assert!(!glob.matches("a".repeat(99).as_bytes()));
        assert!(!glob.matches(format!("{}b/", "a".repeat(2000)).as_bytes()));
    }
}
