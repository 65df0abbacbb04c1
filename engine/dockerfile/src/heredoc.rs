//! Finding heredocs on a `RUN`, `COPY` or `ADD` line.
//!
//! A heredoc is a word of the form `[digits]<<[-]delimiter`. BuildKit reads the line with its shell lexer to find the
//! words, always with `\` as the escape character; so do we.

use crate::ast::Escape;
use crate::expand::Expander;

/// More heredocs on one line than this is refused.
pub(crate) const MAX_HEREDOCS: usize = 100;

/// The opening of a heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) name: String,
    pub(crate) expand: bool,
    pub(crate) strip_tabs: bool,
    pub(crate) file_descriptor: u32,
}

fn nothing(_: &str) -> Option<String> {
    None
}

/// The heredocs that a line opens. A line whose quotes do not close opens none.
pub(crate) fn openings(line: &str) -> Vec<Opening> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let lexer = Expander::new(Escape::Backslash).keep_quotes().keep_escapes().keep_unset();
    let words = lexer.expand(line, &nothing).map(|expansion| expansion.words).unwrap_or_default();
    words.iter().filter_map(|word| opening(word)).take(MAX_HEREDOCS + 1).collect()
}

/// Reads one word as the opening of a heredoc.
pub(crate) fn opening(word: &str) -> Option<Opening> {
    let digits = word.find(|character: char| !character.is_ascii_digit())?;
    let rest = word[digits..].strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lexer = Expander::new(Escape::Backslash).keep_unset();
    let unquoted = lexer.expand(rest, &nothing).ok()?.words;
    let raw = lexer.keep_quotes().keep_escapes().expand(rest, &nothing).ok()?.words;
    let ([name], [raw]) = (unquoted.as_slice(), raw.as_slice()) else { return None };
    Some(Opening {
        name: name.clone(),
        expand: name == raw,
        strip_tabs,
        file_descriptor: word[..digits].parse().unwrap_or(0),
    })
}

/// True when a shell-form line is one heredoc and nothing else.
pub(crate) fn is_single_heredoc(line: &str) -> bool {
    opening(line).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[(&str, bool, bool)]) {
        let found: Vec<_> = openings(line);
        let found: Vec<_> = found.iter().map(|o| (o.name.as_str(), o.expand, o.strip_tabs)).collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn openings_are_words_of_the_line() {
        check("RUN <<EOF", &[("EOF", true, false)]);
        check("RUN <<-EOF cat", &[("EOF", true, true)]);
        check("RUN cat <<'A' <<\"B\" 3<<C", &[("A", false, false), ("B", false, false), ("C", true, false)]);
        check("RUN <<E\"O\"F", &[("EOF", false, false)]);
        check("RUN <<\\EOF", &[("EOF", false, false)]);
        check("RUN echo '<<EOF'", &[]);
        check("RUN echo \"<<EOF", &[]);
        check("RUN cat <<< here", &[]);
        check("RUN cat <<<here", &[]);
        check("RUN cat << EOF", &[]);
        check("RUN echo $((1<<2))", &[]);
        check("COPY <<a <<b /x", &[("a", true, false), ("b", true, false)]);
    }
}
