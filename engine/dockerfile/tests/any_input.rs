//! Any input gives a result: nothing panics, spans lie in the text, diagnostics can be shown, and sizes stay in bounds.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use cooper_dockerfile::dockerignore::PatternList;
use cooper_dockerfile::expand::Expander;
use cooper_dockerfile::glob::Glob;
use cooper_dockerfile::{Escape, MAX_DIAGNOSTICS, MAX_SOURCE_BYTES, MAX_STAGES, Style, parse, parse_trigger};
use proptest::prelude::*;

/// Pieces that together reach most of the grammar.
const PIECES: &[&str] = &[
    "FROM ",
    "from ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "CMD ",
    "ENTRYPOINT ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "SHELL ",
    "VOLUME ",
    "EXPOSE ",
    "USER ",
    "WORKDIR ",
    "STOPSIGNAL ",
    "MAINTAINER ",
    "\n",
    "\r\n",
    "\\\n",
    "\\",
    "`",
    "#",
    "# escape=`\n",
    "# syntax=dockerfile\n",
    "# check=skip=all\n",
    "<<EOF",
    "<<-'EOF'",
    "EOF\n",
    "\t",
    " ",
    "'",
    "\"",
    "$",
    "${",
    "}",
    "a",
    "=",
    "[\"a\"]",
    "[",
    "]",
    ",",
    "--from=",
    "--mount=",
    "type=cache",
    "id=",
    "--chown=a",
    "--link",
    "--",
    "AS b",
    "CMD",
    "NONE",
    "--interval=1s",
    "/",
    "é",
    "\u{feff}",
    "\0",
    "!",
    "*",
    "**",
    ":-",
    ":?",
    "//",
    "##",
    "%",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.concat())
}

fn check(source: &[u8]) {
    let file = parse(source);
    for diagnostic in &file.diagnostics {
        for label in &diagnostic.labels {
            assert!(
                label.span.start <= label.span.end && label.span.end <= file.text.len(),
                "{diagnostic:?}"
            );
            assert!(file.text.is_char_boundary(label.span.start), "{diagnostic:?}");
            assert!(file.text.is_char_boundary(label.span.end), "{diagnostic:?}");
        }
        assert!(!diagnostic.render(&file.text, "Dockerfile", Style::Plain).is_empty());
    }
    for stage in &file.stages {
        for instruction in &stage.instructions {
            assert!(file.text.get(instruction.span.range()).is_some(), "{instruction:?}");
            let keyword = file.text.get(instruction.keyword.span.range()).unwrap();
            assert!(
                keyword.replace(['\\', '`', '\n', '\r', '\t', ' '], "").len() >= instruction.name().len()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes(source in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&source);
    }

    #[test]
    fn pieces(source in text()) {
        check(source.as_bytes());
    }

    #[test]
    fn pieces_after_from(source in text()) {
        check(format!("FROM a\n{source}").as_bytes());
    }

    #[test]
    fn expansion(source in text(), value in text()) {
        for escape in [Escape::Backslash, Escape::Backtick] {
            let lookup = |name: &str| (name != "a").then(|| value.clone());
            let expander = Expander::new(escape);
            for expander in [expander, expander.keep_quotes().keep_escapes(), expander.keep_unset()] {
                // The words together are the text without what separates them.
                if let Ok(expansion) = expander.expand(&source, &lookup) {
                    let joined: String = expansion.words.concat().split_whitespace().collect();
                    let text: String = expansion.text.split_whitespace().collect();
                    prop_assert_eq!(joined, text);
                }
            }
        }
    }

    #[test]
    fn patterns(pattern in "[a-c/*?!\\[\\]^\\\\-]{0,12}", path in "[a-c/]{0,12}") {
        if let Ok(glob) = Glob::new(&pattern) {
            // What matches a path may match below each of its prefixes.
            if glob.matches(path.as_bytes()) {
                for (index, _) in path.match_indices('/').filter(|(index, _)| index + 1 < path.len()) {
                    prop_assert!(glob.may_match_below(&path.as_bytes()[..=index]));
                }
            }
        }
        if let Ok(list) = PatternList::parse_file(pattern.as_bytes()) {
            list.matches(path.as_bytes());
        }
    }

    #[test]
    fn exceptions_are_found_by_the_walk(lines in prop::collection::vec("!?[ab*?/]{1,5}", 1..5), path in "[ab](/[ab]){1,3}") {
        let Ok(list) = PatternList::parse_file(lines.join("\n").as_bytes()) else { return Ok(()) };
        let Some((directory, _)) = path.rsplit_once('/') else { return Ok(()) };
        if list.matches(directory.as_bytes()) && !list.matches(path.as_bytes()) {
            prop_assert!(list.may_except_below(directory.as_bytes()));
        }
    }
}

#[test]
fn seeds() {
    for seed in [
        "",
        "\n",
        "\\",
        "\\\n",
        "#",
        "# escape=",
        "FROM",
        "FROM a\\",
        "FROM a AS",
        "RUN <<",
        "FROM a\nRUN <<EOF",
        "FROM a\nRUN <<-\nEOF",
        "FROM a\nCOPY <<E <<E /d\nE\nE",
        "FROM a\nCOPY <<E \"x <<E\" /d\nE\n",
        "FROM a\nONBUILD",
        "FROM a\nONBUILD RUN <<E\nE",
        "FROM a\nENV =",
        "FROM a\nENV a",
        "FROM a\nARG \"",
        "FROM a\nRUN --mount=",
        "FROM a\nRUN --mount=\\\"a",
        "FROM a\nRUN --mount=\"\\\"a\\\",\"",
        "FROM a\nRUN --",
        "FROM a\nRUN --\"x",
        "FROM a\nHEALTHCHECK --interval=1e400s CMD x",
        "FROM ${",
        "FROM a\nSHELL [",
        "FROM a\nLABEL é=\u{2003}x",
        "\u{feff}FROM a",
        "FROM a\nRUN é \\\n\u{a0}\\\n x",
    ] {
        check(seed.as_bytes());
    }
    check(b"FROM a\nRUN \xff\n# \xff\n");
}

#[test]
fn bytes_that_are_not_utf8_are_allowed_in_comments_only() {
    assert!(!parse(b"FROM a\n# caf\xe9\n").has_errors());
    assert!(parse(b"FROM a\nENV a=caf\xe9\n").has_errors());
}

#[test]
fn large_inputs_stay_within_the_limits() {
    let is_refused = |source: String| {
        let file = parse(source.as_bytes());
        assert!(file.diagnostics.len() <= 3 * MAX_DIAGNOSTICS, "{}", file.diagnostics.len());
        file.has_errors()
    };
    assert!(is_refused(" ".repeat(MAX_SOURCE_BYTES + 1)));
    assert!(is_refused("FROM a\n".repeat(MAX_STAGES + 1)));
    assert!(!is_refused("FROM a AS b\n".repeat(MAX_STAGES)));
    assert!(is_refused("X\n".repeat(1 << 20)));
    assert!(!is_refused(format!("FROM a\n{}", "MAINTAINER a\n".repeat(1 << 16))));
    assert!(!is_refused(format!("FROM a\nRUN a \\\n{}b\n", "\n".repeat(1 << 20))));
    assert!(!is_refused(format!("FROM a\n{}", "RUN a \\\n\n b\n".repeat(1 << 16))));
    assert!(is_refused(format!("FROM a\nRUN {}\n", "<<A ".repeat(1 << 16))));
    assert!(is_refused(format!("FROM a\nRUN {}\n", "--mount=x ".repeat(1 << 16))));
    assert!(!is_refused(format!("FROM a\nRUN {}\n", "[".repeat(1 << 20))));
    assert!(!is_refused(format!("ARG a=x\n{}FROM $a\n", "ARG a=$a$a$a$a\n".repeat(1 << 10))));
    assert!(is_refused(format!("FROM a\n{}", "COPY --from=4 a b\n".repeat(1 << 16))));
    assert!(!is_refused(format!("FROM a AS b\nFROM c\n{}", "COPY --from=b a b\n".repeat(1 << 16))));
}

#[test]
fn triggers_are_exactly_one_instruction() {
    assert_eq!(parse_trigger("RUN echo a").map(|i| i.name()).unwrap_or_default(), "RUN");
    assert_eq!(parse_trigger("COPY <<E /a\nb\nE").map(|i| i.name()).unwrap_or_default(), "COPY");
    for wrong in ["", "FROM a", "ONBUILD RUN a", "MAINTAINER a", "RUN a\nRUN b", "NOTHING", "FROM a\nRUN b"] {
        let file = parse_trigger(wrong).unwrap_err();
        assert!(file.has_errors(), "{wrong}");
    }
}
