//! What names mean: `command`, `type`, `hash`, `alias`.

use std::rc::Rc;

use super::quote;
use crate::ast::Bytes;
use crate::execute::Flags;
use crate::parser;
use crate::shell::{Flow, Shell};

/// What `command` is in front of.
#[derive(Debug)]
pub(crate) struct Prefix {
    /// How many words it takes away.
    pub length: usize,
    /// `-p`
    pub default_path: bool,
}

/// How to take `command` away from the front of a command; `None` when it has to run itself: `command -v`.
pub(crate) fn command_prefix(words: &[Bytes]) -> Option<Prefix> {
    let mut prefix = Prefix { length: 1, default_path: false };
    while let Some(word) = words.get(prefix.length) {
        match &word[..] {
            b"-p" => prefix.default_path = true,
            b"--" => {
                prefix.length += 1;
                break;
            }
            [b'-', _, ..] => return None,
            _ => break,
        }
        prefix.length += 1;
    }
    (prefix.length < words.len()).then_some(prefix)
}

/// `command -v`, `command -V`, and `command` with nothing behind it.
pub(crate) fn command(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"pvV")?;
    let has = |letter| options.iter().any(|(other, _)| *other == letter);
    let default_path = has(b'p');
    match arguments.get(rest) {
        Some(name) if has(b'V') => tell(shell, name, true, default_path),
        Some(name) if has(b'v') => tell(shell, name, false, default_path),
        _ => Ok(0),
    }
}

/// `type`
pub(crate) fn describe(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let mut status = 0;
    for name in &arguments[1..] {
        status |= tell(shell, name, true, false)?;
    }
    Ok(status)
}

fn tell(shell: &mut Shell, name: &Bytes, long: bool, default_path: bool) -> Result<i32, Flow> {
    let say = |text: &[u8]| {
        if long { [name, &b" is "[..], text, b"\n"].concat() } else { [&name[..], b"\n"].concat() }
    };
    let text = if parser::is_keyword(name) {
        say(b"a shell keyword")
    } else if let Some(alias) = shell.env.aliases.get(name) {
        if long {
            [name, &b" is an alias for "[..], alias, b"\n"].concat()
        } else {
            [&b"alias "[..], name, b"=", &quote(alias), b"\n"].concat()
        }
    } else if super::is_special(name) {
        say(b"a special shell builtin")
    } else if shell.env.functions.contains_key(name) {
        say(b"a shell function")
    } else if super::find(name).is_some() {
        say(b"a shell builtin")
    } else if name.contains(&b'/') && crate::system::access(name, 1) {
        say(name)
    } else if let Some(file) = shell.env.hashed.get(name).filter(|_| long && !default_path) {
        say(&[b"a tracked alias for ", &file[..]].concat())
    } else if let Some(file) =
        (!name.contains(&b'/')).then(|| shell.locate(name, default_path).ok()).flatten()
    {
        if long { say(&file) } else { [&file[..], b"\n"].concat() }
    } else {
        if long {
            let text = [&name[..], b": not found\n"].concat();
            shell.print(&text)?;
        }
        return Ok(127);
    };
    shell.print(&text)
}

/// `hash`
pub(crate) fn hash(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"r")?;
    if !options.is_empty() {
        shell.env.hashed = Rc::default();
        return Ok(0);
    }
    if rest >= arguments.len() {
        let mut files: Vec<Bytes> = shell.env.hashed.values().cloned().collect();
        files.sort_unstable();
        let text: Vec<u8> = files.iter().flat_map(|file| [&file[..], b"\n"].concat()).collect();
        return shell.print(&text);
    }
    let mut status = 0;
    for name in &arguments[rest..] {
        let known = super::find(name).is_some() || shell.env.functions.contains_key(name);
        if !known && shell.locate(name, false).is_err() {
            let message = [&name[..], b": not found"].concat();
            shell.warn(&message);
            status = 1;
        }
    }
    Ok(status)
}

/// `alias`
pub(crate) fn alias(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let mut status = 0;
    let line = |name: &[u8], text: &[u8]| [name, b"=", &quote(text), b"\n"].concat();
    if arguments.len() == 1 {
        let mut aliases: Vec<Vec<u8>> =
            shell.env.aliases.iter().map(|(name, text)| line(name, text)).collect();
        aliases.sort_unstable();
        return shell.print(&aliases.concat());
    }
    for operand in &arguments[1..] {
        // A name may begin with `=`.
        match operand.iter().skip(1).position(|byte| *byte == b'=').map(|at| at + 1) {
            Some(at) => {
                Rc::make_mut(&mut shell.env.aliases).insert(operand[..at].into(), operand[at + 1..].into());
            }
            None => match shell.env.aliases.get(operand).cloned() {
                Some(text) => {
                    shell.print(&line(operand, &text))?;
                }
                None => {
                    let message = [b"alias: ", &operand[..], b" not found\n"].concat();
                    let _ = shell.emit(2, &message);
                    status = 1;
                }
            },
        }
    }
    Ok(status)
}

/// `unalias`
pub(crate) fn unalias(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"a")?;
    if !options.is_empty() {
        shell.env.aliases = Rc::default();
        return Ok(0);
    }
    let mut status = 0;
    for name in &arguments[rest..] {
        if Rc::make_mut(&mut shell.env.aliases).remove(name).is_none() {
            let message = [b"unalias: ", &name[..], b" not found\n"].concat();
            let _ = shell.emit(2, &message);
            status = 1;
        }
    }
    Ok(status)
}
