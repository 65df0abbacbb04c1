//! The builtins: a table of names and functions.

mod control;
mod environment;
mod files;
mod input;
mod lookup;
mod output;
mod process;
mod test;
mod variables;

pub(crate) use control::read_file;
pub(crate) use lookup::command_prefix;

use crate::ast::{Bytes, Node, Word};
use crate::execute::Flags;
use crate::shell::{Flow, Shell};

/// What a builtin does: arguments with its name first; its status.
type Run = fn(&mut Shell, &[Bytes], Flags) -> Result<i32, Flow>;

/// Options that were given, with their arguments.
type Letters<'a> = Vec<(u8, &'a [u8])>;

/// A builtin.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub name: &'static [u8],
    /// Whether POSIX calls it special: an error in it ends the shell, assignments before it stay.
    pub special: bool,
    pub run: Run,
}

const fn special(name: &'static str, run: Run) -> Builtin {
    Builtin { name: name.as_bytes(), special: true, run }
}

const fn regular(name: &'static str, run: Run) -> Builtin {
    Builtin { name: name.as_bytes(), special: false, run }
}

/// Sorted by name.
static BUILTINS: [Builtin; 39] = [
    special(".", control::dot),
    special(":", control::nothing),
    regular("[", test::run),
    regular("alias", lookup::alias),
    regular("bg", process::background),
    special("break", control::leave),
    regular("cd", files::change_directory),
    regular("chdir", files::change_directory),
    regular("command", lookup::command),
    special("continue", control::leave),
    regular("echo", output::echo),
    special("eval", control::eval),
    special("exec", control::nothing),
    special("exit", control::exit),
    special("export", variables::export),
    regular("false", control::no),
    regular("fg", process::foreground),
    regular("getopts", input::getopts),
    regular("hash", lookup::hash),
    regular("jobs", process::jobs),
    regular("kill", process::kill),
    special("local", variables::local),
    regular("printf", output::printf),
    regular("pwd", files::print_directory),
    regular("read", input::read),
    special("readonly", variables::export),
    special("return", control::leave_function),
    special("set", environment::set),
    special("shift", environment::shift),
    regular("test", test::run),
    special("times", process::times),
    special("trap", process::trap),
    regular("true", control::nothing),
    regular("type", lookup::describe),
    regular("ulimit", environment::limit),
    regular("umask", files::mask),
    regular("unalias", lookup::unalias),
    special("unset", variables::unset),
    regular("wait", process::wait),
];

/// The builtin of a name.
pub(crate) fn find(name: &[u8]) -> Option<&'static Builtin> {
    BUILTINS.binary_search_by(|builtin| builtin.name.cmp(name)).ok().map(|at| &BUILTINS[at])
}

/// Whether the name is that of a special builtin, which no function can have.
pub(crate) fn is_special(name: &[u8]) -> bool {
    find(name).is_some_and(|builtin| builtin.special)
}

/// Whether a command is a builtin that only writes to its output: it needs no pipe to be collected.
pub(crate) fn writes_only(shell: &Shell, node: &Node) -> bool {
    const NAMES: [&[u8]; 9] =
        [b":", b"[", b"command", b"echo", b"false", b"printf", b"pwd", b"test", b"true"];
    let Node::Simple(simple) = node else { return false };
    let Some(name) = simple.words.first().and_then(Word::literal) else { return false };
    let asks = simple.words.get(1).and_then(Word::literal) == Some(b"-v");
    simple.redirections.is_empty()
        && simple.assignments.is_empty()
        && NAMES.contains(&name)
        && (*name != *b"command" || asks)
        && !shell.env.functions.contains_key(name)
}

impl Shell {
    /// Writes what a builtin has to say; its status.
    pub(crate) fn print(&mut self, text: &[u8]) -> Result<i32, Flow> {
        match self.emit(1, text) {
            Ok(()) => Ok(0),
            Err(error)
                if error == crate::system::EPIPE
                    && self.guarded > 0
                    && !crate::system::is_ignored(crate::system::SIGPIPE) =>
            {
                self.status = 128 + crate::system::SIGPIPE;
                Err(Flow::Exit)
            }
            Err(_) => {
                let name = self.builtin.clone().unwrap_or_else(|| Bytes::from(&b""[..]));
                let message = [&name[..], b": I/O error"].concat();
                self.warn(&message);
                Ok(1)
            }
        }
    }

    /// A number as builtins take it: digits alone.
    pub(crate) fn number(&mut self, text: &[u8]) -> Result<i32, Flow> {
        let digits =
            std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(number) => Ok(number),
            None => {
                let message = [b"Illegal number: ", text].concat();
                Err(self.error(&message))
            }
        }
    }

    /// Options of one letter each, of those that `allowed` has; `:` behind one that takes an argument. Where operands begin.
    pub(crate) fn options<'a>(
        &mut self,
        arguments: &'a [Bytes],
        allowed: &[u8],
    ) -> Result<(Letters<'a>, usize), Flow> {
        let mut found = Vec::new();
        let mut at = 1;
        while let Some(argument) = arguments.get(at) {
            if argument.len() < 2 || argument[0] != b'-' {
                break;
            }
            at += 1;
            if **argument == *b"--" {
                break;
            }
            let mut letters = &argument[1..];
            while let Some((letter, rest)) = letters.split_first() {
                letters = rest;
                let Some(position) = allowed.iter().position(|other| other == letter && *letter != b':')
                else {
                    let message = [b"Illegal option -", &[*letter][..]].concat();
                    return Err(self.error(&message));
                };
                if allowed.get(position + 1) != Some(&b':') {
                    found.push((*letter, &b""[..]));
                    continue;
                }
                let value = if rest.is_empty() {
                    at += 1;
                    match arguments.get(at - 1) {
                        Some(value) => &value[..],
                        None => {
                            let message = [b"No arg for -", &[*letter][..], b" option"].concat();
                            return Err(self.error(&message));
                        }
                    }
                } else {
                    rest
                };
                found.push((*letter, value));
                break;
            }
        }
        Ok((found, at))
    }
}

/// A text in quotes that the shell reads back as it is.
pub(crate) fn quote(text: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    let mut rest = text;
    loop {
        let plain = rest.iter().take_while(|byte| **byte != b'\'').count();
        if plain > 0 || (text.is_empty() && quoted.is_empty()) {
            quoted.push(b'\'');
            quoted.extend_from_slice(&rest[..plain]);
            quoted.push(b'\'');
        }
        rest = &rest[plain..];
        let quotes = rest.iter().take_while(|byte| **byte == b'\'').count();
        if quotes == 0 {
            return quoted;
        }
        quoted.push(b'"');
        quoted.extend_from_slice(&rest[..quotes]);
        quoted.push(b'"');
        rest = &rest[quotes..];
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_sorted() {
        assert!(super::BUILTINS.is_sorted_by(|a, b| a.name < b.name));
    }
}
