//! `env`, `nice`, `nohup`: another program in another setting.

use std::ffi::CString;
use std::io::Write;

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, Descriptor, open};
use toolbox_linux::{Errno, errno, process};

pub(crate) const ENV: Tool = Tool {
    name: "env",
    usage: "[OPTION]... [-] [NAME=VALUE]... [COMMAND [ARG]...]",
    options: &[
        ("i/ignore-environment", "start with nothing"),
        ("0/null", "end lines with NUL"),
        ("u/unset=", "without this variable"),
        ("C/chdir=", "work in this directory"),
        ("S/split-string=", "split this into words, as in a first line"),
        ("v/debug", "say what is done"),
    ],
    order: Order::First,
    misuse: 125,
    main: env,
};

pub(crate) const NICE: Tool = Tool {
    name: "nice",
    usage: "[OPTION] [COMMAND [ARG]...]",
    options: &[("n/adjustment=", "add this to the niceness (default 10)")],
    order: Order::First,
    misuse: 125,
    main: nice,
};

pub(crate) const NOHUP: Tool = Tool {
    name: "nohup",
    usage: "COMMAND [ARG]...",
    options: &[],
    order: Order::First,
    misuse: 125,
    main: nohup,
};

/// Exit code of a program that could not be started: 127 if there is none, else 126.
pub(crate) fn failure_code(reason: Errno) -> i32 {
    if reason == errno::ENOENT { 127 } else { 126 }
}

/// Becomes a program that is searched for in `PATH`.
pub(crate) fn become_command(context: &Context, words: &[Vec<u8>], environment: Vec<CString>) -> ! {
    let path = environment
        .iter()
        .rev()
        .find_map(|entry| entry.as_bytes().strip_prefix(b"PATH=").map(<[u8]>::to_vec));
    let reason = match process::find_program(&words[0], path.as_deref()) {
        Ok(program) => process::become_program(&program, words, environment),
        Err(reason) => reason,
    };
    let name = &words[0];
    let shown = if context.name == "env" || context.name == "nice" {
        quote::always(name)
    } else {
        format!("failed to run command {}", quote::always(name))
    };
    context.warn(format!("{shown}: {reason}"));
    if context.name == "env" && reason == errno::ENOENT && name.contains(&b' ') {
        let _ = Descriptor::keep(2).write_all(b"env: use -[v]S to pass options in shebang lines\n");
    }
    std::process::exit(failure_code(reason))
}

fn env(context: &Context, parsed: Parsed) -> i32 {
    let mut parsed = parsed;
    // `-S` puts its words where it stood: they are read again as the rest of the command line.
    while let Some(at) = parsed.options.iter().position(|(key, _)| *key == "split-string") {
        let (_, value) = parsed.options.remove(at);
        let mut words = split(context, &value.unwrap_or_default());
        let later = parsed.options.split_off(at);
        words.append(&mut parsed.operands);
        let again = toolbox_command::options::parse(&ENV, context, words);
        parsed.options.extend(again.options);
        parsed.options.extend(later);
        parsed.operands = again.operands;
    }
    let mut words = parsed.operands.clone();
    let mut ignore = parsed.has("ignore-environment");
    if words.first().is_some_and(|word| word == b"-") {
        ignore = true;
        words.remove(0);
    }
    let mut environment = if ignore { Vec::new() } else { process::environment() };
    let name_of =
        |entry: &CString| entry.as_bytes().split(|&byte| byte == b'=').next().unwrap_or_default().to_vec();
    for (_, value) in parsed.options.iter().filter(|(key, _)| *key == "unset") {
        let name = value.clone().unwrap_or_default();
        if name.is_empty() || name.contains(&b'=') {
            context.die(125, format!("cannot unset {}: {}", quote::always(&name), errno::EINVAL));
        }
        environment.retain(|entry| name_of(entry) != name);
    }
    let assignments = words.iter().take_while(|word| word.contains(&b'=')).count();
    for word in words.drain(..assignments) {
        let Ok(entry) = CString::new(word) else { continue };
        match environment.iter_mut().find(|other| name_of(other) == name_of(&entry)) {
            Some(other) => *other = entry,
            None => environment.push(entry),
        }
    }
    if words.is_empty() {
        if parsed.has("chdir") {
            context.misused("must specify command with --chdir (-C)");
        }
        let end: &[u8] = if parsed.has("null") { b"\0" } else { b"\n" };
        let mut output = context.output();
        for entry in &environment {
            context.check_write(output.write_all(&[entry.as_bytes(), end].concat()));
        }
        return context.finish(output);
    }
    if parsed.has("null") {
        context.misused("cannot specify --null (-0) with command");
    }
    if let Some(directory) = parsed.value("chdir")
        && let Err(reason) = process::chdir(directory)
    {
        context.die(125, format!("cannot change directory to {}: {reason}", quote::always(directory)));
    }
    if parsed.has("debug") {
        let mut text = format!("executing: {}\n", String::from_utf8_lossy(&words[0]));
        for (at, word) in words.iter().enumerate() {
            text += &format!("   arg[{at}]= {}\n", quote::always(word));
        }
        let _ = Descriptor::keep(2).write_all(text.as_bytes());
    }
    become_command(context, &words, environment)
}

/// Splits a string into words: quotes, backslashes, `${NAME}` and comments as GNU's env reads them.
fn split(context: &Context, text: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut rest) = (Vec::new(), None::<Vec<u8>>, text);
    let mut quoted = None;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (*byte, quoted) {
            (b'\'' | b'"', None) => {
                quoted = Some(*byte);
                word.get_or_insert_default();
            }
            (byte, Some(open)) if byte == open => quoted = None,
            (b'\\', Some(b'\'')) if matches!(rest, [b'\'' | b'\\', ..]) => {
                word.get_or_insert_default().push(rest[0]);
                rest = &rest[1..];
            }
            (b'\\', open) if open != Some(b'\'') => {
                let [letter, after @ ..] = rest else {
                    context.die(125, "invalid backslash at end of string in -S");
                };
                rest = after;
                let byte = match letter {
                    b'c' if open.is_none() => break,
                    b'_' if open.is_none() => {
                        words.extend(word.take());
                        continue;
                    }
                    b'_' => b' ',
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 11,
                    b'#' | b'$' | b'"' | b'\'' | b'\\' => *letter,
                    other => context.die(125, format!("invalid sequence '\\{}' in -S", char::from(*other))),
                };
                word.get_or_insert_default().push(byte);
            }
            (b'$', open) if open != Some(b'\'') => {
                let name = rest.strip_prefix(b"{").and_then(|inner| {
                    let end = inner.iter().position(|&byte| byte == b'}')?;
                    Some((inner[..end].to_vec(), &inner[end + 1..]))
                });
                let Some((name, after)) = name else {
                    context.die(
                        125,
                        format!(
                            "only ${{VARNAME}} expansion is supported, error at: ${}",
                            String::from_utf8_lossy(rest)
                        ),
                    );
                };
                rest = after;
                let value = std::env::var_os(process::os_str(&name)).map(|value| value.into_encoded_bytes());
                word.get_or_insert_default().extend(value.unwrap_or_default());
            }
            (b'#', None) if word.is_none() => break,
            (b' ' | b'\t' | b'\n' | 11 | 12 | b'\r', None) => words.extend(word.take()),
            (byte, _) => word.get_or_insert_default().push(byte),
        }
    }
    if quoted.is_some() {
        context.die(125, "no terminating quote in -S string");
    }
    words.extend(word);
    words
}

fn nice(context: &Context, parsed: Parsed) -> i32 {
    let adjustment: Option<i32> = parsed.text("adjustment").map(|text| {
        text.parse().unwrap_or_else(|_| {
            context.die(125, format!("invalid adjustment {}", quote::always(text.as_bytes())))
        })
    });
    if parsed.operands.is_empty() {
        if adjustment.is_some() {
            context.misused("a command must be given with an adjustment");
        }
        let now = process::niceness()
            .unwrap_or_else(|reason| context.die(125, format!("cannot get niceness: {reason}")));
        context.check_write(Descriptor::keep(1).write_all(format!("{now}\n").as_bytes()));
        return 0;
    }
    if let Err(reason) = process::nice(adjustment.unwrap_or(10)) {
        context.warn(format!("cannot set niceness: {reason}"));
        if !matches!(reason, errno::EACCES | errno::EPERM) {
            return 125;
        }
    }
    become_command(context, &parsed.operands, process::environment())
}

fn nohup(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let [input, output, errors] = [0, 1, 2].map(process::is_terminal);
    let redirect = |path: &[u8], flags: i32, mode: u32, to: i32| -> toolbox_linux::Result<()> {
        process::dup3(file::open(path, flags, mode)?.raw(), to, 0)
    };
    if input && let Err(reason) = redirect(b"/dev/null", open::WRONLY, 0, 0) {
        context.die(125, format!("failed to render standard input unusable: {reason}"));
    }
    if output {
        context.warn("appending output to 'nohup.out'");
        if let Err(reason) = redirect(b"nohup.out", open::WRONLY | open::CREAT | open::APPEND, 0o600, 1) {
            context.die(125, format!("failed to open 'nohup.out': {reason}"));
        }
    }
    if errors {
        let _ = process::dup3(1, 2, 0);
    }
    if let Err(reason) = process::ignore(1, true) {
        context.die(125, format!("cannot ignore SIGHUP: {reason}"));
    }
    become_command(context, &parsed.operands, process::environment())
}
