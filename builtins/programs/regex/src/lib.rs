//! Regular expressions of POSIX, basic and extended, with GNU's additions, over bytes.
//!
//! An expression is parsed into a tree of its own ([`parse`]). Without back references it becomes an automaton, which finds the
//! leftmost match, then the longest one from there, then the groups inside it. With back references a matcher that
//! backtracks ([`backtrack`]) takes the first match that it finds, greedy operators first.

mod backtrack;
mod parse;

use std::sync::Mutex;

use regex_automata::hybrid::dfa::{self, DFA};
use regex_automata::meta;
use regex_automata::nfa::thompson;
use regex_automata::util::captures::Captures;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{self, Hir};

use parse::Node;

/// Which operators are written with a backslash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `\( \) \{ \} \| \+ \?`.
    Basic,
    /// `( ) { } | + ?`.
    Extended,
}

/// How an expression is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Letters match in both cases.
    pub caseless: bool,
    /// `^` and `$` also match around newlines.
    pub lines: bool,
    /// `\n`, `\t` and others stand for their characters, as in sed and awk.
    pub escapes: bool,
    /// A backslash in brackets escapes, as in awk.
    pub bracket_escapes: bool,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Regex {
    groups: usize,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Automaton(Box<Automaton>),
    Backtrack(Node),
}

#[derive(Debug)]
struct Automaton {
    first: meta::Regex,
    /// Finds the longest end, where that may differ from the first.
    longest: Option<(DFA, Mutex<dfa::Cache>)>,
    /// The same expression that must reach the end of the text.
    whole: Option<meta::Regex>,
}

/// Where a match or a group begins and ends.
pub type Span = (usize, usize);

impl Regex {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// What glibc says of a wrong one.
    pub fn new(pattern: &[u8], syntax: Syntax, flags: Flags) -> Result<Self, String> {
        Self::any(&[pattern], syntax, flags)
    }

    /// Compiles several expressions of which any may match; groups are counted through.
    ///
    /// # Errors
    ///
    /// What glibc says of a wrong one.
    pub fn any(patterns: &[&[u8]], syntax: Syntax, flags: Flags) -> Result<Self, String> {
        let mut groups = 0;
        let mut nodes = Vec::new();
        for pattern in patterns {
            nodes.push(parse::parse(pattern, syntax, flags, &mut groups)?);
        }
        let node = if nodes.len() == 1 { nodes.remove(0) } else { Node::Either(nodes) };
        Self::compile(node, groups)
    }

    /// Compiles a text that is matched as it is, perhaps as a whole word or a whole line.
    ///
    /// # Errors
    ///
    /// Too large a text.
    pub fn literals(texts: &[&[u8]], caseless: bool) -> Result<Self, String> {
        let literal =
            |text: &&[u8]| Node::Sequence(text.iter().map(|&byte| parse::literal(byte, caseless)).collect());
        Self::compile(Node::Either(texts.iter().map(literal).collect()), 0)
    }

    fn compile(node: Node, groups: usize) -> Result<Self, String> {
        if node.has_back_reference() {
            return Ok(Self { groups, engine: Engine::Backtrack(node) });
        }
        let large = |_| "Regular expression too big".to_owned();
        let config = || meta::Config::new().utf8_empty(false).nfa_size_limit(Some(1 << 24));
        let build = |hir: &Hir| {
            meta::Builder::new()
                .configure(config())
                .build_from_hir(hir)
                .map_err(|_| "Regular expression too big".to_owned())
        };
        let hir = node.to_hir();
        let first = build(&hir)?;
        let (mut longest, mut whole) = (None, None);
        if node.is_ambiguous() {
            let nfa = thompson::Compiler::new()
                .configure(
                    thompson::Config::new()
                        .utf8(false)
                        .which_captures(thompson::WhichCaptures::None)
                        .nfa_size_limit(Some(1 << 24)),
                )
                .build_from_hir(&hir)
                .map_err(large)?;
            let dfa = dfa::Builder::new()
                .configure(
                    DFA::config()
                        .match_kind(MatchKind::All)
                        .skip_cache_capacity_check(true)
                        .unicode_word_boundary(false),
                )
                .build_from_nfa(nfa)
                .map_err(|_| "Regular expression too big".to_owned())?;
            let cache = Mutex::new(dfa.create_cache());
            longest = Some((dfa, cache));
            if groups > 0 {
                whole = Some(build(&Hir::concat(vec![hir, Hir::look(hir::Look::End)]))?);
            }
        }
        Ok(Self { groups, engine: Engine::Automaton(Box::new(Automaton { first, longest, whole })) })
    }

    /// Number of groups.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Whether the text has a match.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        match &self.engine {
            Engine::Automaton(automaton) => automaton.first.is_match(text),
            Engine::Backtrack(_) => self.find_at(text, 0).is_some(),
        }
    }

    /// The leftmost and longest match that begins at `start` or after it; what lies before counts for `^` and `\b`.
    #[must_use]
    pub fn find_at(&self, text: &[u8], start: usize) -> Option<Span> {
        match &self.engine {
            Engine::Automaton(automaton) => automaton.find(text, start),
            Engine::Backtrack(_) => {
                let mut spans = Vec::new();
                if self.captures_at(text, start, &mut spans) { spans[0] } else { None }
            }
        }
    }

    /// Fills in the match and its groups; `false` if there is none.
    pub fn captures_at(&self, text: &[u8], start: usize, spans: &mut Vec<Option<Span>>) -> bool {
        spans.clear();
        match &self.engine {
            Engine::Automaton(automaton) => automaton.captures(text, start, spans, self.groups),
            Engine::Backtrack(node) => backtrack::find(node, text, start, self.groups, spans),
        }
    }
}

impl Automaton {
    fn find(&self, text: &[u8], start: usize) -> Option<Span> {
        let found = self.first.search(&Input::new(text).span(start..text.len()))?;
        let end = match &self.longest {
            Some((dfa, cache)) => {
                let input = Input::new(text).span(found.start()..text.len()).anchored(Anchored::Yes);
                let mut cache = cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match dfa.try_search_fwd(&mut cache, &input) {
                    Ok(Some(half)) => half.offset(),
                    // The cache gave up: the first match stands.
                    _ => found.end(),
                }
            }
            None => found.end(),
        };
        Some((found.start(), end))
    }

    fn captures(&self, text: &[u8], start: usize, spans: &mut Vec<Option<Span>>, groups: usize) -> bool {
        if groups == 0 {
            spans.push(self.find(text, start));
            return spans[0].is_some();
        }
        let fill = |captures: &Captures, spans: &mut Vec<Option<Span>>| {
            spans.extend(
                (0..=groups).map(|group| captures.get_group(group).map(|span| (span.start, span.end))),
            );
        };
        let mut captures = self.first.create_captures();
        self.first.search_captures(&Input::new(text).span(start..text.len()), &mut captures);
        let Some(first) = captures.get_match() else { return false };
        if let (Some(whole), Some((from, to))) = (&self.whole, self.find(text, first.start()))
            && to != first.end()
        {
            let mut longer = whole.create_captures();
            let input = Input::new(&text[..to]).span(from..to).anchored(Anchored::Yes);
            whole.search_captures(&input, &mut longer);
            if longer.is_match() {
                fill(&longer, spans);
                return true;
            }
        }
        fill(&captures, spans);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(syntax: Syntax, pattern: &str, text: &str, expected: Option<&[&str]>) {
        let regex = Regex::new(pattern.as_bytes(), syntax, Flags::default()).expect("an expression");
        let mut spans = Vec::new();
        let found = regex.captures_at(text.as_bytes(), 0, &mut spans);
        let groups: Vec<&str> =
            spans.iter().map(|span| span.map_or("-", |(from, to)| &text[from..to])).collect();
        assert_eq!(found.then_some(&groups[..]), expected, "{pattern} on {text}");
    }

    #[test]
    fn basic_expressions() {
        use Syntax::Basic;
        check(Basic, "a*b", "xaab", Some(&["aab"]));
        check(Basic, "*a", "x*a", Some(&["*a"]));
        check(Basic, r"\(ab\)*c", "ababc", Some(&["ababc", "ab"]));
        check(Basic, r"a\{2,3\}", "aaaa", Some(&["aaa"]));
        check(Basic, r"\(.\)\1", "abccd", Some(&["cc", "c"]));
        check(Basic, "a^b$c", "a^b$c", Some(&["a^b$c"]));
        check(Basic, "^a.c$", "abc", Some(&["abc"]));
        check(Basic, r"x\|ab*", "abb", Some(&["abb"]));
        check(Basic, r"[]a]\+", "x]a", Some(&["]a"]));
        check(Basic, r"\<b", "ab b", Some(&["b"]));
        check(Basic, "a+b{2}", "a+b{2}", Some(&["a+b{2}"]));
    }

    #[test]
    fn extended_expressions_match_the_longest() {
        use Syntax::Extended;
        check(Extended, "a|ab|abc", "xabcd", Some(&["abc"]));
        check(Extended, "(a|ab)(c|bcd)", "abcd", Some(&["abcd", "a", "bcd"]));
        check(Extended, "a?(ab)?", "ab", Some(&["ab", "ab"]));
        check(Extended, "(^|x)y", "xy", Some(&["xy", "x"]));
        check(Extended, "a{2}", "caaa", Some(&["aa"]));
        check(Extended, "[[:digit:]]+", "ab12", Some(&["12"]));
        check(Extended, "[^a-c]+", "abxyc", Some(&["xy"]));
        check(Extended, "()b", "b", Some(&["b", ""]));
        check(Extended, r"(a)(b)?\1", "xaa", Some(&["aa", "a", "-"]));
        check(Extended, "x", "a", None);
        check(Extended, r"\.", "a.", Some(&["."]));
        check(Extended, "a{,2}b", "aab", Some(&["aab"]));
    }

    #[test]
    fn wrong_expressions_are_refused_in_words_of_glibc() {
        for (pattern, message) in [
            ("a(", "Unmatched ( or \\("),
            ("[a", "Unmatched [, [^, [:, [., or [="),
            ("a\\", "Trailing backslash"),
            ("[b-a]", "Invalid range end"),
            ("a{2,1}", "Invalid content of \\{\\}"),
            (r"(a)\2", "Invalid back reference"),
            ("[[:foo:]]", "Invalid character class name"),
        ] {
            let error =
                Regex::new(pattern.as_bytes(), Syntax::Extended, Flags::default()).expect_err(pattern);
            assert_eq!(error, message, "{pattern}");
        }
    }
}
