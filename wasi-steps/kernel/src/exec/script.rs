//! `#!` lines.

/// The part of a script that is looked at for its interpreter (`BINPRM_BUF_SIZE`).
pub(crate) const LINE_MAX: usize = 256;

/// What a script's first line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScriptLine {
    /// Path of the interpreter.
    pub(crate) interpreter: Vec<u8>,
    /// Everything after it, as one argument.
    pub(crate) argument: Option<Vec<u8>>,
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !is_blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// Reads the line at the start of a file of which `bytes` are the first [`LINE_MAX`].
///
/// `None` when there is no interpreter in it (`ENOEXEC`), as when its path is cut off.
pub(crate) fn parse(bytes: &[u8]) -> Option<ScriptLine> {
    let rest = bytes.strip_prefix(b"#!")?;
    let (line, cut) = match rest.iter().position(|byte| matches!(byte, b'\n' | 0)) {
        Some(end) => (&rest[..end], false),
        None => (rest, bytes.len() >= LINE_MAX),
    };
    let line = trim(line);
    let end = line.iter().position(is_blank);
    if line.is_empty() || (cut && end.is_none()) {
        return None;
    }
    let (interpreter, argument) = line.split_at(end.unwrap_or(line.len()));
    let argument = trim(argument);
    Some(ScriptLine {
        interpreter: interpreter.to_vec(),
        argument: (!argument.is_empty()).then(|| argument.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[u8], expected: Option<(&str, Option<&str>)>) {
        let expected = expected.map(|(interpreter, argument)| ScriptLine {
            interpreter: interpreter.as_bytes().to_vec(),
            argument: argument.map(|argument| argument.as_bytes().to_vec()),
        });
        assert_eq!(parse(line), expected);
    }

    #[test]
    fn interpreter_and_one_argument() {
        check(b"#!/bin/sh\n", Some(("/bin/sh", None)));
        check(b"#! /usr/bin/env  -S perl -w \nx", Some(("/usr/bin/env", Some("-S perl -w"))));
        check(b"#!/bin/sh", Some(("/bin/sh", None)));
        check(b"#!\n/bin/sh", None);
        check(b"#!   ", None);
        check(b"#/bin/sh", None);
    }

    #[test]
    fn line_that_is_cut_off_in_the_path_is_no_script() {
        let mut line = b"#!/".to_vec();
        line.resize(LINE_MAX, b'a');
        check(&line, None);
        line[100] = b' ';
        assert!(parse(&line).is_some());
    }
}
