//! `xargs`.

use std::io::{Read, Write};

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, Descriptor, open};
use toolbox_linux::process::{self, Command, Status};
use toolbox_linux::{Errno, errno};

use crate::run::failure_code;

pub(crate) const XARGS: Tool = Tool {
    name: "xargs",
    usage: "[OPTION]... COMMAND [INITIAL-ARGS]...",
    options: &[
        ("0/null", "items end with NUL; nothing is special"),
        ("a/arg-file=", "read items from this file"),
        ("d/delimiter=", "items end with this byte; nothing else is special"),
        ("E=", "stop at this line"),
        ("e/eof?", "as -E"),
        ("I=", "replace this in the initial arguments, an item per line"),
        ("i/replace?", "as -I, {} if there is no argument"),
        ("L=", "so many lines per command"),
        ("l/max-lines?", "as -L, 1 if there is no argument"),
        ("n/max-args=", "so many items per command"),
        ("o/open-tty", "the terminal is the input of the command"),
        ("P/max-procs=", "so many commands at a time, 0 for any"),
        ("p/interactive", "ask before each command"),
        ("r/no-run-if-empty", "run nothing if there are no items"),
        ("s/max-chars=", "so many bytes per command"),
        ("t/verbose", "show each command"),
        ("x/exit", "end if a command would be too long"),
    ],
    order: Order::First,
    misuse: 1,
    main: xargs,
};

/// Bytes of a command line, as GNU's xargs has it.
const DEFAULT_BYTES: usize = 131_072;
/// Beyond this a kernel refuses.
const MOST_BYTES: usize = 2_000_000;

struct Xargs<'a> {
    context: &'a Context,
    parsed: &'a Parsed,
    command: Vec<Vec<u8>>,
    environment: Vec<std::ffi::CString>,
    null: Option<Descriptor>,
    running: Vec<i32>,
    most: usize,
}

/// An item and whether a line ends after it.
type Item = (Vec<u8>, bool);

fn number(context: &Context, parsed: &Parsed, key: &str, least: usize) -> Option<usize> {
    let text = parsed.text(key)?;
    let Ok(number) = text.parse::<usize>() else {
        context.misused(format!("invalid number {} for option --{key}", quote::always(text.as_bytes())));
    };
    if number < least {
        context.misused(format!("value {text} for option should be >= {least}"));
    }
    Some(number)
}

fn xargs(context: &Context, parsed: Parsed) -> i32 {
    let delimiter = match parsed.last(&["null", "delimiter"]) {
        Some("null") => Some(0),
        Some(_) => Some(delimiter(context, parsed.value("delimiter").unwrap_or_default())),
        None => None,
    };
    let mut input = match parsed.value("arg-file") {
        Some(b"-") | None => Descriptor::keep(0),
        Some(path) => file::open_read(path).unwrap_or_else(|reason| {
            context.die(1, format!("Cannot open input file {}: {reason}", quote::always(path)))
        }),
    };
    let mut text = Vec::new();
    if let Err(error) = input.read_to_end(&mut text) {
        context.die(1, format!("read error: {}", toolbox_command::reason(&error)));
    }
    let replace = match parsed.last(&["I", "replace", "L", "max-lines", "max-args"]) {
        Some("I") => parsed.value("I").map(<[u8]>::to_vec),
        Some("replace") => Some(parsed.value("replace").unwrap_or(b"{}").to_vec()),
        _ => None,
    };
    let stop = parsed
        .value("E")
        .or_else(|| parsed.value("eof"))
        .filter(|word| !word.is_empty() && delimiter.is_none());
    let items = match (delimiter, &replace) {
        (Some(byte), _) => delimited(&text, byte),
        (None, Some(_)) => lines(context, &text),
        (None, None) => words(context, &text),
    };
    let items: Vec<Item> = items.into_iter().take_while(|(item, _)| Some(&item[..]) != stop).collect();
    let per_line = match parsed.last(&["L", "max-lines"]) {
        _ if replace.is_some() => None,
        Some("L") => number(context, &parsed, "L", 1),
        Some(_) => Some(number(context, &parsed, "max-lines", 1).unwrap_or(1)),
        None => None,
    };
    let per_command = number(context, &parsed, "max-args", 1).filter(|_| replace.is_none());
    let bytes = number(context, &parsed, "max-chars", 1).unwrap_or(DEFAULT_BYTES).min(MOST_BYTES);
    let command = if parsed.operands.is_empty() { vec![b"echo".to_vec()] } else { parsed.operands.clone() };
    let mut xargs = Xargs {
        context,
        parsed: &parsed,
        command,
        environment: process::environment(),
        null: None,
        running: Vec::new(),
        most: match number(context, &parsed, "max-procs", 0) {
            Some(0) => usize::MAX,
            Some(count) => count,
            None => 1,
        },
    };
    match replace {
        Some(pattern) => {
            for (item, _) in items {
                let words: Vec<Vec<u8>> =
                    xargs.command.iter().map(|word| substitute(word, &pattern, &item)).collect();
                let length: usize = words.iter().map(|word| word.len() + 1).sum();
                if length > bytes {
                    context.die(1, "argument list too long");
                }
                xargs.start(words);
            }
        }
        None => xargs.batches(items, per_line, per_command, bytes),
    }
    while !xargs.running.is_empty() {
        xargs.reap();
    }
    context.status()
}

fn delimiter(context: &Context, text: &[u8]) -> u8 {
    let byte = match text {
        [byte] => Some(*byte),
        [b'\\', letter] => match letter {
            b'n' => Some(b'\n'),
            b't' => Some(b'\t'),
            b'r' => Some(b'\r'),
            b'0' => Some(0),
            b'a' => Some(7),
            b'b' => Some(8),
            b'f' => Some(12),
            b'v' => Some(11),
            b'\\' => Some(b'\\'),
            _ => None,
        },
        [b'\\', b'x', digits @ ..] => u8::from_str_radix(&String::from_utf8_lossy(digits), 16).ok(),
        [b'\\', digits @ ..] => u8::from_str_radix(&String::from_utf8_lossy(digits), 8).ok(),
        _ => None,
    };
    byte.unwrap_or_else(|| {
        context.misused(format!("Invalid input delimiter specification {}", quote::always(text)))
    })
}

fn delimited(text: &[u8], delimiter: u8) -> Vec<Item> {
    let text = text.strip_suffix(&[delimiter]).unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|&byte| byte == delimiter).map(|item| (item.to_vec(), true)).collect()
}

fn unmatched(context: &Context, open: u8) -> ! {
    let kind = if open == b'"' { "double" } else { "single" };
    context.die(
        1,
        format!(
            "unmatched {kind} quote; by default quotes are special to xargs unless you use the -0 option"
        ),
    )
}

/// Items between blanks, with quotes and backslashes.
fn words(context: &Context, text: &[u8]) -> Vec<Item> {
    let (mut items, mut item): (Vec<Item>, Option<Vec<u8>>) = (Vec::new(), None);
    let mut quoted = None;
    let mut bytes = text.iter().copied();
    let mut last = 0u8;
    while let Some(byte) = bytes.next() {
        match (byte, quoted) {
            (b'\n', Some(open)) => unmatched(context, open),
            (byte, Some(open)) if byte == open => quoted = None,
            (byte, Some(_)) => item.get_or_insert_default().push(byte),
            (b'\'' | b'"', None) => {
                quoted = Some(byte);
                item.get_or_insert_default();
            }
            (b'\\', None) => item.get_or_insert_default().extend(bytes.next()),
            (b' ' | b'\t' | b'\n', None) => {
                items.extend(item.take().map(|item| (item, false)));
                // A line that ends with a blank goes on.
                if byte == b'\n'
                    && !matches!(last, b' ' | b'\t')
                    && let Some(before) = items.last_mut()
                {
                    before.1 = true;
                }
            }
            (byte, None) => item.get_or_insert_default().push(byte),
        }
        last = byte;
    }
    if let Some(open) = quoted {
        unmatched(context, open);
    }
    items.extend(item.map(|item| (item, true)));
    items
}

/// Items are lines without blanks at their start; quotes and backslashes are special.
fn lines(context: &Context, text: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        let start = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let (mut item, mut quoted) = (Vec::new(), None);
        let mut bytes = line[start..].iter().copied();
        while let Some(byte) = bytes.next() {
            match (byte, quoted) {
                (byte, Some(open)) if byte == open => quoted = None,
                (byte, Some(_)) => item.push(byte),
                (b'\'' | b'"', None) => quoted = Some(byte),
                (b'\\', None) => item.extend(bytes.next()),
                (byte, None) => item.push(byte),
            }
        }
        if let Some(open) = quoted {
            unmatched(context, open);
        }
        if !line[start..].is_empty() {
            items.push((item, true));
        }
    }
    items
}

fn substitute(word: &[u8], pattern: &[u8], item: &[u8]) -> Vec<u8> {
    if pattern.is_empty() {
        return word.to_vec();
    }
    let (mut out, mut rest) = (Vec::new(), word);
    while let Some(at) = rest.windows(pattern.len()).position(|window| window == pattern) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(item);
        rest = &rest[at + pattern.len()..];
    }
    out.extend_from_slice(rest);
    out
}

impl Xargs<'_> {
    fn batches(
        &mut self,
        items: Vec<Item>,
        per_line: Option<usize>,
        per_command: Option<usize>,
        bytes: usize,
    ) {
        let fixed: usize = self.command.iter().map(|word| word.len() + 1).sum();
        if items.is_empty() {
            if !self.parsed.has("no-run-if-empty") {
                self.start(self.command.clone());
            }
            return;
        }
        let strict = self.parsed.has("exit") || per_line.is_some();
        let mut batch = self.command.clone();
        let (mut count, mut lines, mut length) = (0, 0, fixed);
        for (item, ends) in items {
            if fixed + item.len() + 1 > bytes {
                self.context.die(1, "argument line too long");
            }
            if length + item.len() + 1 > bytes {
                if strict
                    && (per_line.is_some_and(|most| lines < most)
                        || self.parsed.has("exit") && per_command.is_some_and(|most| count < most))
                {
                    self.context.die(1, "argument list too long");
                }
                self.start(std::mem::replace(&mut batch, self.command.clone()));
                (count, lines, length) = (0, 0, fixed);
            }
            length += item.len() + 1;
            batch.push(item);
            count += 1;
            lines += usize::from(ends);
            if per_command == Some(count) || per_line == Some(lines) {
                self.start(std::mem::replace(&mut batch, self.command.clone()));
                (count, lines, length) = (0, 0, fixed);
            }
        }
        if count > 0 {
            self.start(batch);
        }
    }

    fn start(&mut self, words: Vec<Vec<u8>>) {
        if self.parsed.has("verbose") || self.parsed.has("interactive") {
            let shown: Vec<String> = words.iter().map(|word| quote::for_shell(word)).collect();
            let ask = self.parsed.has("interactive");
            let line = shown.join(" ") + if ask { "?..." } else { "\n" };
            let _ = Descriptor::keep(2).write_all(line.as_bytes());
            if ask && !agrees() {
                return;
            }
        }
        while self.running.len() >= self.most {
            self.reap();
        }
        let path = std::env::var_os("PATH").map(|path| path.into_encoded_bytes());
        let child = process::find_program(&words[0], path.as_deref())
            .and_then(|program| self.spawn(&program, &words));
        match child {
            Ok(child) => self.running.push(child),
            Err(reason) => {
                self.context.warn(format!("{}: {reason}", String::from_utf8_lossy(&words[0])));
                while !self.running.is_empty() {
                    self.reap();
                }
                std::process::exit(failure_code(reason));
            }
        }
    }

    fn spawn(&mut self, program: &[u8], words: &[Vec<u8>]) -> Result<i32, Errno> {
        let mut command = Command::new(program, words, self.environment.clone());
        // The items come from the standard input, which the command must not eat.
        let path: Option<&[u8]> = match (self.parsed.has("open-tty"), self.parsed.has("arg-file")) {
            (true, _) => Some(b"/dev/tty"),
            (false, false) => Some(b"/dev/null"),
            (false, true) => None,
        };
        if let Some(path) = path {
            if self.null.is_none() {
                self.null = Some(file::open(path, open::RDONLY, 0)?);
            }
            command = command.dup2(self.null.as_ref().map_or(0, Descriptor::raw), 0);
        }
        command.spawn()
    }

    fn reap(&mut self) {
        let (child, status) = match process::wait4(-1, 0) {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(errno::ECHILD) => {
                self.running.clear();
                return;
            }
            Err(reason) => self.context.die(1, format!("error waiting for child process: {reason}")),
        };
        self.running.retain(|&running| running != child);
        let name = String::from_utf8_lossy(&self.command[0]).into_owned();
        match status {
            Status::Exited(0) | Status::Continued => {}
            Status::Exited(255) => self.context.die(124, format!("{name}: exited with status 255; aborting")),
            Status::Exited(126) => self.context.set_status(126),
            Status::Exited(127) => self.context.set_status(127),
            Status::Exited(_) => self.context.set_status(123),
            Status::Signaled(signal, _) => {
                self.context.die(125, format!("{name}: terminated by signal {signal}"))
            }
            Status::Stopped(signal) => self.context.die(125, format!("{name}: stopped by signal {signal}")),
        }
    }
}

fn agrees() -> bool {
    let Ok(mut terminal) = file::open_read(b"/dev/tty") else { return false };
    let mut answer = [0u8; 1];
    terminal.read(&mut answer).is_ok_and(|count| count == 1) && matches!(answer[0], b'y' | b'Y')
}
