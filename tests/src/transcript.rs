//! Transcripts of commands: what is typed, what comes back, and the exit code.
//!
//! ```text
//! # A comment.
//! > file.txt          (the lines that follow, up to an empty one, are written to the file)
//! $ cooper version
//! cooper [..]
//! ? 2
//! ```
//!
//! A line after `$` is run by the shell in an empty directory, with `cooper` on PATH and a store of its own; standard
//! output and standard error come back together. `[..]` stands for any text in a line, a line `...` for any lines. The
//! exit code is 0 unless a line `? N` says otherwise. One store and one directory serve the whole transcript.

use anyhow::{Context, Result, bail};

use crate::cooper::Cooper;

/// One command with what it has to say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Exchange {
    command: String,
    output: Vec<String>,
    code: i32,
}

/// A line of a transcript that does something.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    Write(String, String),
    Run(Exchange),
}

/// Runs a transcript; fails at the first command that answers otherwise.
pub fn run(text: &str, cooper: &Cooper) -> Result<()> {
    let directory = cooper.inputs().join("transcript");
    std::fs::create_dir_all(&directory)?;
    for act in parse(text)? {
        match act {
            Act::Write(name, contents) => {
                cooper.input(&format!("transcript/{name}"), contents)?;
            }
            Act::Run(exchange) => check(&exchange, &directory, cooper)?,
        }
    }
    Ok(())
}

fn check(exchange: &Exchange, directory: &std::path::Path, cooper: &Cooper) -> Result<()> {
    let script = format!(
        "cooper() {{ {} \"$@\"; }}; COOPER_STORE={}; export COOPER_STORE; cd {}; {{ {}\n}} 2>&1",
        cooper.program().display(),
        cooper.store().display(),
        directory.display(),
        exchange.command
    );
    let out = cooper.shell(&script)?;
    let said: Vec<&str> =
        std::str::from_utf8(&out.stdout).context("output that is not text")?.lines().collect();
    if out.code == exchange.code && matches(&exchange.output, &said) {
        return Ok(());
    }
    bail!(
        "$ {}\n--- wanted, with exit code {}\n{}\n--- got, with exit code {}\n{}",
        exchange.command,
        exchange.code,
        exchange.output.join("\n"),
        out.code,
        said.join("\n")
    )
}

fn parse(text: &str) -> Result<Vec<Act>> {
    let mut acts = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("> ") {
            let mut contents = String::new();
            while let Some(line) = lines.next_if(|line| !line.is_empty()) {
                contents.push_str(line);
                contents.push('\n');
            }
            acts.push(Act::Write(name.to_owned(), contents));
        } else if let Some(command) = line.strip_prefix("$ ") {
            acts.push(Act::Run(Exchange { command: command.to_owned(), ..Exchange::default() }));
        } else if line.starts_with('#') || (line.is_empty() && !matches!(acts.last(), Some(Act::Run(_)))) {
        } else {
            let Some(Act::Run(exchange)) = acts.last_mut() else { bail!("output before a command: {line}") };
            match line.strip_prefix("? ") {
                Some(code) => exchange.code = code.trim().parse().context("an exit code")?,
                None => exchange.output.push(line.to_owned()),
            }
        }
    }
    for act in &mut acts {
        if let Act::Run(exchange) = act {
            while exchange.output.last().is_some_and(String::is_empty) {
                exchange.output.pop();
            }
        }
    }
    Ok(acts)
}

fn matches<S: AsRef<str>>(wanted: &[S], said: &[&str]) -> bool {
    match wanted.split_first() {
        None => said.is_empty(),
        Some((first, rest)) if first.as_ref() == "..." => {
            (0..=said.len()).any(|skip| matches(rest, &said[skip..]))
        }
        Some((first, rest)) => said
            .split_first()
            .is_some_and(|(line, more)| line_matches(first.as_ref(), line) && matches(rest, more)),
    }
}

fn line_matches(wanted: &str, said: &str) -> bool {
    let Some((start, rest)) = wanted.split_once("[..]") else { return wanted.trim_end() == said.trim_end() };
    let Some(said) = said.strip_prefix(start) else { return false };
    (0..=said.len()).filter(|&at| said.is_char_boundary(at)).any(|at| line_matches(rest, &said[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_parts_of_lines_and_for_lines() {
        assert!(matches(&["a [..] c", "..."], &["a b c"]));
        assert!(matches(&["...", "end[..]"], &["x", "y", "end of it"]));
        assert!(!matches(&["a"], &["a", "b"]) && !matches(&["a [..] c"], &["a b d"]));
    }

    #[test]
    fn a_transcript_is_read_line_by_line() -> Result<()> {
        let acts = parse("# c\n> f\none\n\n$ do it\nsaid\n\n? 3\n")?;
        let exchange = Exchange { command: "do it".into(), output: vec!["said".into()], code: 3 };
        assert_eq!(acts, [Act::Write("f".into(), "one\n".into()), Act::Run(exchange)]);
        Ok(())
    }
}
