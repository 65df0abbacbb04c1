//! `.dockerignore` files and `--exclude` patterns.
//!
//! A list of patterns over slash-separated paths, relative to the root of the context. The last pattern that matches a
//! path or one of its parents decides; a pattern that begins with `!` brings paths back. A pattern is matched as by
//! Go's `path.Match`, and `**` stands for any number of whole names. These are the rules of moby's pattern matcher,
//! odd corners included: `**foo` matches every path that ends in `foo`, and `a/**` what is below `a` but not `a`.

use crate::glob::{self, Element, PatternError, Places, Stars};

/// More patterns than this in one list are refused.
pub const MAX_PATTERNS: usize = 100_000;

/// Why an ignore file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A line that is not a pattern.
    #[error("line {line}: {error}")]
    Line {
        /// 1-based.
        line: usize,
        /// What is wrong with it.
        error: PatternError,
    },
    /// More than [`MAX_PATTERNS`].
    #[error("more than {MAX_PATTERNS} patterns")]
    TooMany,
}

/// A list of patterns, in order.
///
/// ```
/// use cooper_dockerfile::dockerignore::PatternList;
///
/// let ignore = PatternList::parse_file(b"target\n**/*.log\n!keep.log\n").unwrap();
/// assert!(ignore.matches(b"target/debug/x"));
/// assert!(ignore.matches(b"a/b.log"));
/// assert!(!ignore.matches(b"keep.log"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct PatternList {
    patterns: Vec<Pattern>,
}

/// The answer for a path, to be passed on to the answers for what is below it.
#[derive(Debug, Clone, Default)]
pub struct Matched {
    /// True when the path is matched, that is, ignored or excluded.
    pub is_matched: bool,
    /// For each pattern: whether it matches the path or one of its parents. Empty above the root.
    by_pattern: Vec<bool>,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// Begins with `!`.
    exception: bool,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    /// The path is this.
    Exact(String),
    /// The path begins with this.
    Prefix(String),
    /// The path ends with this, or is this without its leading slash.
    Suffix(String),
    /// Everything else.
    Elements(Vec<Element>),
}

impl PatternList {
    /// Reads an ignore file: one pattern a line; lines that begin with `#` and empty ones do not count.
    pub fn parse_file(source: &[u8]) -> Result<Self, IgnoreError> {
        let text = String::from_utf8_lossy(source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source));
        let mut patterns = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            if patterns.len() == MAX_PATTERNS {
                return Err(IgnoreError::TooMany);
            }
            let pattern = Self::file_line(line.trim());
            patterns.extend(
                Pattern::new(&pattern).map_err(|error| IgnoreError::Line { line: index + 1, error })?,
            );
        }
        Ok(Self { patterns })
    }

    /// In a file, a leading slash means the root of the context, as everything does.
    fn file_line(line: &str) -> String {
        let (mark, body) = match line.strip_prefix('!') {
            Some(body) => ("!", body.trim()),
            None => ("", line),
        };
        if body.is_empty() {
            return mark.to_owned();
        }
        let body = clean(body);
        let body = if body.len() > 1 { body.strip_prefix('/').unwrap_or(&body) } else { &body };
        format!("{mark}{body}")
    }

    /// Makes a list of `--exclude` values or the like.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let patterns: Result<Vec<_>, _> =
            patterns.into_iter().filter_map(|pattern| Pattern::new(pattern).transpose()).collect();
        Ok(Self { patterns: patterns? })
    }

    /// True when there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// True when some pattern begins with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// True when the path is matched. For many paths of one directory use [`at`](Self::at).
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut matched = Matched::default();
        for (index, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if index > 0 {
                matched = self.at(&matched, &path[..index]);
            }
        }
        self.at(&matched, path).is_matched
    }

    /// The answer for `path`, given the answer for its parent directory ([`Matched::default`] for the root).
    pub fn at(&self, parent: &Matched, path: &[u8]) -> Matched {
        let mut is_matched = false;
        let mut by_pattern = Vec::with_capacity(self.patterns.len());
        for (index, pattern) in self.patterns.iter().enumerate() {
            let by_parent = parent.by_pattern.get(index).copied().unwrap_or(false);
            // Only a pattern that would change the answer is asked.
            let matches = by_parent || (pattern.exception == is_matched && pattern.matcher.matches(path));
            if matches {
                is_matched = !pattern.exception;
            }
            by_pattern.push(matches);
        }
        Matched { is_matched, by_pattern }
    }

    /// True when something below a matched directory can be brought back by a `!` pattern, so that a walk has to go in.
    pub fn may_except_below(&self, directory: &[u8]) -> bool {
        let prefix = [directory, b"/"].concat();
        self.patterns.iter().any(|pattern| pattern.exception && pattern.matcher.may_match_below(&prefix))
    }

    /// True when something below a directory can be matched, for lists that include.
    pub fn may_match_below(&self, directory: &[u8]) -> bool {
        let prefix = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
        self.patterns.iter().any(|pattern| !pattern.exception && pattern.matcher.may_match_below(&prefix))
    }
}

impl Pattern {
    /// Reads a pattern; nothing is none.
    fn new(pattern: &str) -> Result<Option<Self>, PatternError> {
        let pattern = pattern.trim();
        if pattern.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(pattern);
        let (exception, body) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::EmptyException),
            Some(body) => (true, body),
            None => (false, cleaned.as_str()),
        };
        // This also refuses what is not well formed.
        let elements = glob::compile(body, Stars::AcrossNames)?;
        Ok(Some(Self { exception, matcher: Matcher::new(body, elements) }))
    }
}

impl Matcher {
    fn new(pattern: &str, elements: Vec<Element>) -> Self {
        let is_plain = |part: &str| !part.contains(['*', '?', '\\', '[', ']']);
        if is_plain(pattern) {
            return Self::Exact(pattern.to_owned());
        }
        match (pattern.strip_prefix("**"), pattern.strip_suffix("**")) {
            (Some(suffix), _) if is_plain(suffix) => Self::Suffix(suffix.to_owned()),
            (_, Some(prefix)) if is_plain(prefix) => Self::Prefix(prefix.to_owned()),
            _ => Self::Elements(elements),
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => {
                path.ends_with(suffix.as_bytes())
                    || suffix.strip_prefix('/').is_some_and(|name| path == name.as_bytes())
            }
            Self::Elements(elements) => Places::after(elements, path).at_end(),
        }
    }

    /// True when a path that goes on after `prefix` can match.
    fn may_match_below(&self, prefix: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes().starts_with(prefix),
            Self::Prefix(own) => own.as_bytes().starts_with(prefix) || prefix.starts_with(own.as_bytes()),
            Self::Suffix(_) => true,
            Self::Elements(elements) => Places::after(elements, prefix).can_go_on(),
        }
    }
}

/// The shortest equal path by its text alone: no doubled slashes, no `.`, and `..` taken back where it can be.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => {
                names.pop();
            }
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    match (rooted, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => names.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &str, path: &str, expected: bool) {
        let list = PatternList::parse_file(patterns.as_bytes()).expect("the patterns are well formed");
        assert_eq!(list.matches(path.as_bytes()), expected, "{patterns:?} {path}");
    }

    #[test]
    fn patterns_of_moby() {
        for (patterns, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "dir/file", true),
            ("**/file", "file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file", "dir/afile", false),
            ("**/file*", "dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**", "a", false),
            ("a/**", "a/b", true),
            ("**foo", "barfoo", true),
            ("foo", "foo/bar", true),
            ("foo", "bar/foo", false),
            ("/foo", "foo", true),
            ("foo/", "foo/x", true),
            ("./foo//bar/../baz", "foo/baz", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a.c", "abc", false),
            ("[a-c]x", "bx", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            (".*", ".git/config", true),
            ("*.log", "dir/a.log", false),
            ("", "a", false),
            (".", "a", false),
            ("..", "a", false),
        ] {
            check(patterns, path, expected);
        }
    }

    #[test]
    fn the_last_match_wins() {
        check("*\n!a", "a", false);
        check("*\n!a", "b", true);
        check("!a\n*", "a", true);
        check("dir\n!dir/a", "dir/a", false);
        check("dir\n!dir/a", "dir/b", true);
        check("dir\n!dir/a", "dir", true);
        check("docs\n!docs/*.md\ndocs/x.md", "docs/x.md", true);
        check("docs\n!docs/*.md\ndocs/x.md", "docs/y.md", false);
        check("*\n! a", "a/b/c", false);
    }

    #[test]
    fn comments_blanks_and_line_ends() {
        check("# a\n\n  b  \r\n", "a", false);
        check("# a\n\n  b  \r\n", "b", true);
        check(" # a", "# a", true);
        check("\u{feff}a", "a", true);
    }

    #[test]
    fn bad_lines_are_named() {
        let error =
            |source: &str| PatternList::parse_file(source.as_bytes()).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(error("a\n!"), Err("line 2: `!` is not a pattern".to_owned()));
        assert_eq!(error("[x"), Err("line 1: syntax error in pattern `[x`".to_owned()));
    }

    #[test]
    fn a_walk_goes_only_where_an_exception_can_be() {
        let list = PatternList::parse_file(b"a\nb\n!a/x/*.txt\n!c/**/z").expect("well formed");
        assert!(list.may_except_below(b"a"));
        assert!(list.may_except_below(b"a/x"));
        assert!(!list.may_except_below(b"a/y"));
        assert!(!list.may_except_below(b"b"));
        assert!(list.may_except_below(b"c/d/e"));
        let list = PatternList::parse_file(b"*\n!**/z").expect("well formed");
        assert!(list.may_except_below(b"any/where"));
    }

    #[test]
    fn step_by_step_is_the_same_as_at_once() {
        let list = PatternList::new(["a/*", "!a/b", "a/b/c"]).expect("well formed");
        let top = list.at(&Matched::default(), b"a");
        let child = list.at(&top, b"a/b");
        let grandchild = list.at(&child, b"a/b/c");
        assert!(!top.is_matched && !child.is_matched && grandchild.is_matched);
        assert!(list.matches(b"a/b/c") && !list.matches(b"a/b/d"));
    }
}
