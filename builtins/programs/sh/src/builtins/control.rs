//! Builtins that decide what runs next.

use crate::ast::Bytes;
use crate::execute::Flags;
use crate::parser::Input;
use crate::shell::{Flow, Shell};
use crate::system::{self, O_RDONLY};

/// How deep files may be read inside one another with `.`.
const MAX_DOT_DEPTH: u32 = 100;

/// `:`, `true`
pub(crate) fn nothing(_: &mut Shell, _: &[Bytes], _: Flags) -> Result<i32, Flow> {
    Ok(0)
}

/// `false`
pub(crate) fn no(_: &mut Shell, _: &[Bytes], _: Flags) -> Result<i32, Flow> {
    Ok(1)
}

/// `break`, `continue`: outside a loop, nothing.
pub(crate) fn leave(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let levels = match arguments.get(1) {
        Some(text) => match shell.number(text)? {
            0 => return Err(shell.error(&[b"Illegal number: ", &text[..]].concat())),
            levels => levels as u32,
        },
        None => 1,
    };
    let levels = levels.min(shell.env.loop_depth);
    shell.status = 0;
    match (levels, arguments[0][0]) {
        (0, _) => Ok(0),
        (_, b'b') => Err(Flow::Break(levels)),
        _ => Err(Flow::Continue(levels)),
    }
}

/// `return`
pub(crate) fn leave_function(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    if let Some(text) = arguments.get(1) {
        shell.status = shell.number(text)?;
    }
    Err(Flow::Return)
}

/// `exit`
pub(crate) fn exit(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    if let Some(text) = arguments.get(1) {
        shell.status = shell.number(text)?;
    }
    Err(Flow::Exit)
}

/// `eval`
pub(crate) fn eval(shell: &mut Shell, arguments: &[Bytes], flags: Flags) -> Result<i32, Flow> {
    let text = arguments[1..].join(&b' ');
    let mut input = Input::text(&text);
    shell.run_input(&mut input, Flags { tested: flags.tested, exit: false })?;
    Ok(shell.status)
}

/// `.`
pub(crate) fn dot(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let rest = if arguments.get(1).is_some_and(|word| **word == *b"--") { 2 } else { 1 };
    let Some(name) = arguments.get(rest) else { return Ok(0) };
    let Some(file) = find(shell, name) else {
        let message = [&name[..], b": not found"].concat();
        return Err(shell.error(&message));
    };
    if shell.env.dot_depth >= MAX_DOT_DEPTH {
        return Err(shell.error(b"nested too deeply"));
    }
    let text = match read_file(&file) {
        Ok(text) => text,
        Err(error) => {
            let message =
                [b"cannot open ", &file[..], b": ", crate::redirect::describe(error, false).as_bytes()]
                    .concat();
            return Err(shell.error(&message));
        }
    };
    let builtin = shell.builtin.replace(name.clone());
    shell.env.dot_depth += 1;
    shell.status = 0;
    let result = shell.run_input(&mut Input::file(text), Flags::default());
    shell.builtin = builtin;
    shell.env.dot_depth -= 1;
    match result {
        Err(Flow::Return) | Ok(()) => Ok(shell.status),
        Err(flow) => Err(flow),
    }
}

fn find(shell: &Shell, name: &[u8]) -> Option<Vec<u8>> {
    if name.contains(&b'/') {
        return Some(name.to_vec());
    }
    let path = shell.variable(b"PATH")?;
    path.split(|byte| *byte == b':')
        .map(|directory| if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() })
        .find(|file| system::stat(file).is_ok_and(|status| status.is_regular()) && system::access(file, 4))
}

/// A whole file.
pub(crate) fn read_file(name: &[u8]) -> Result<Vec<u8>, toolbox_linux::Errno> {
    let fd = system::open(name, O_RDONLY, 0)?;
    let mut text = Vec::new();
    let mut buffer = vec![0; 65536];
    let result = loop {
        match system::read(fd, &mut buffer) {
            Ok(0) => break Ok(text),
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(error) => break Err(error),
        }
    };
    system::close(fd);
    result
}
