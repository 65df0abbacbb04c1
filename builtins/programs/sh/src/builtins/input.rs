//! `read` and `getopts`.

use crate::ast::{Bytes, is_name};
use crate::execute::Flags;
use crate::shell::{Flow, Shell};
use crate::system::{self, EINTR, POLLIN};

/// `read`
pub(crate) fn read(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"p:r")?;
    let raw = options.iter().any(|(letter, _)| *letter == b'r');
    if let Some((_, prompt)) = options.iter().find(|(letter, _)| *letter == b'p')
        && system::is_terminal(0)
    {
        let _ = shell.emit(2, prompt);
    }
    let names = &arguments[rest..];
    if names.is_empty() {
        return Err(shell.error(b"arg count"));
    }
    let mut line = Vec::new();
    // Whether each byte of the line was escaped, and so separates nothing.
    let mut escaped = Vec::new();
    let mut escape = false;
    let mut status = 1;
    loop {
        let mut byte = [0];
        if !shell.ready(0, POLLIN) {
            break;
        }
        match system::read(0, &mut byte) {
            Ok(1) => {}
            Err(EINTR) => continue,
            _ => break,
        }
        match byte[0] {
            0 => {}
            b'\n' if escape => escape = false,
            b'\\' if !raw && !escape => escape = true,
            b'\n' => {
                status = 0;
                break;
            }
            other => {
                line.push(other);
                escaped.push(escape);
                escape = false;
            }
        }
    }
    let separators = shell.variable(b"IFS").unwrap_or_else(|| Bytes::from(&b" \t\n"[..]));
    let values = split(&line, &escaped, &separators, names.len());
    for (at, name) in names.iter().enumerate() {
        if !is_name(name) {
            let message = [&name[..], b": bad variable name"].concat();
            return Err(shell.error(&message));
        }
        let value = values.get(at).map_or(&b""[..], |(start, end)| &line[*start..*end]);
        shell.set_variable(name, value.into())?;
    }
    Ok(status)
}

/// Ranges of a line for so many variables; the last takes what is left.
fn split(line: &[u8], escaped: &[bool], separators: &[u8], count: usize) -> Vec<(usize, usize)> {
    let separates = |at: usize| !escaped[at] && separators.contains(&line[at]);
    let blank = |at: usize| separates(at) && matches!(line[at], b' ' | b'\t' | b'\n');
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < line.len() && blank(at) {
        at += 1;
    }
    while at < line.len() {
        let start = at;
        while at < line.len() && !separates(at) {
            at += 1;
        }
        let end = at;
        let mut hard = false;
        while at < line.len() && separates(at) {
            if !blank(at) {
                if hard {
                    break;
                }
                hard = true;
            }
            at += 1;
        }
        // The rest belongs to the last variable when there is more than this field.
        if ranges.len() + 1 == count && at < line.len() {
            let mut end = line.len();
            while end > start && blank(end - 1) {
                end -= 1;
            }
            ranges.push((start, end));
            return ranges;
        }
        ranges.push((start, end));
    }
    ranges
}

/// `getopts`
pub(crate) fn getopts(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let [_, letters, name, operands @ ..] = arguments else {
        return Err(shell.error(b"Usage: getopts optstring var [arg...]"));
    };
    let operands: Vec<Bytes> =
        if operands.is_empty() { shell.env.positional.to_vec() } else { operands.to_vec() };
    let index = shell
        .variable(b"OPTIND")
        .and_then(|text| std::str::from_utf8(&text).ok()?.parse::<usize>().ok())
        .unwrap_or(1);
    let mut index = index.max(1);
    // `OPTIND` is already behind the word whose letters are being taken.
    let mut offset = shell.env.getopts_offset;
    let mut word =
        operands.get(index.wrapping_sub(2)).filter(|word| offset > 0 && offset < word.len()).cloned();
    let silent = letters.first() == Some(&b':');
    let mut argument = Some(Vec::new());
    let mut found = b'?';
    let mut status = 1;
    let mut message = None;
    if word.is_none() {
        offset = 0;
        if let Some(next) = operands.get(index - 1).filter(|next| next.len() > 1 && next[0] == b'-') {
            index += 1;
            if **next != *b"--" {
                offset = 1;
                word = Some(next.clone());
            }
        }
    }
    if let Some(word) = word {
        status = 0;
        let letter = word[offset];
        offset += 1;
        let over = offset >= word.len();
        match letters.iter().position(|other| *other == letter && letter != b':') {
            None if silent => argument = Some(vec![letter]),
            None => {
                argument = None;
                message = Some([b"Illegal option -", &[letter][..]].concat());
            }
            Some(position) if letters.get(position + 1) == Some(&b':') => {
                found = letter;
                if !over {
                    argument = Some(word[offset..].to_vec());
                } else if let Some(value) = operands.get(index - 1) {
                    argument = Some(value.to_vec());
                    index += 1;
                } else if silent {
                    argument = Some(vec![letter]);
                    found = b':';
                } else {
                    argument = None;
                    found = b'?';
                    message = Some([b"No arg for -", &[letter][..], b" option"].concat());
                }
                offset = 0;
            }
            Some(_) => found = letter,
        }
        if offset >= word.len() {
            offset = 0;
        }
    }
    if let Some(message) = message {
        let text = [&message[..], b"\n"].concat();
        let _ = shell.emit(2, &text);
    }
    match argument {
        Some(argument) => shell.set_variable(b"OPTARG", argument.into())?,
        None => shell.unset(b"OPTARG")?,
    }
    shell.set_variable(b"OPTIND", index.to_string().into_bytes().into())?;
    shell.env.getopts_offset = offset;
    if !is_name(name) {
        let message = [&name[..], b": bad variable name"].concat();
        return Err(shell.error(&message));
    }
    shell.set_variable(name, vec![found].into())?;
    Ok(status)
}
