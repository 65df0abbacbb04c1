//! Builtins about variables.

use std::rc::Rc;

use super::quote;
use crate::ast::{Bytes, is_name};
use crate::execute::Flags;
use crate::shell::{Flow, Shell, Variable};

/// `export`, `readonly`
pub(crate) fn export(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let exports = *arguments[0] == *b"export";
    let (options, rest) = shell.options(arguments, b"p")?;
    let operands = &arguments[rest..];
    if !options.is_empty() || operands.is_empty() {
        let chosen = |variable: &Variable| if exports { variable.exported } else { variable.readonly };
        let text = listing(shell, &[&arguments[0], &b" "[..]].concat(), chosen);
        return shell.print(&text);
    }
    for operand in operands {
        let (name, value) = split(operand);
        if !is_name(name) {
            let message = [name, b": bad variable name"].concat();
            return Err(shell.error(&message));
        }
        shell.declare(name, value, |variable| {
            if exports { variable.exported = true } else { variable.readonly = true }
        })?;
    }
    Ok(0)
}

fn split(operand: &[u8]) -> (&[u8], Option<Bytes>) {
    match operand.iter().position(|byte| *byte == b'=') {
        Some(at) => (&operand[..at], Some(operand[at + 1..].into())),
        None => (operand, None),
    }
}

/// Variables as commands that set them, sorted.
pub(crate) fn listing(shell: &Shell, prefix: &[u8], chosen: impl Fn(&Variable) -> bool) -> Vec<u8> {
    let mut names: Vec<(&Bytes, &Variable)> =
        shell.env.variables.iter().filter(|(_, variable)| chosen(variable)).collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    let mut text = Vec::new();
    for (name, variable) in names {
        text.extend_from_slice(prefix);
        text.extend_from_slice(name);
        if let Some(value) = &variable.value {
            text.push(b'=');
            text.extend(quote(value));
        } else if prefix.is_empty() {
            text.truncate(text.len() - name.len());
            continue;
        }
        text.push(b'\n');
    }
    text
}

/// `local`
pub(crate) fn local(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    if shell.env.function_depth == 0 {
        return Err(shell.error(b"not in a function"));
    }
    for operand in &arguments[1..] {
        if **operand == *b"-" {
            let options = shell.env.options;
            if let Some(locals) = shell.env.locals.last_mut() {
                locals.options.get_or_insert(options);
            }
            continue;
        }
        let (name, value) = split(operand);
        if !is_name(name) {
            let message = [name, b": bad variable name"].concat();
            return Err(shell.error(&message));
        }
        shell.cover(name);
        if let Some(value) = value {
            shell.set_variable(name, value)?;
        }
    }
    Ok(0)
}

/// `unset`
pub(crate) fn unset(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"fv")?;
    let functions = options.last().is_some_and(|(letter, _)| *letter == b'f');
    for name in &arguments[rest..] {
        if functions {
            if shell.env.functions.contains_key(name) {
                Rc::make_mut(&mut shell.env.functions).remove(name);
            }
            continue;
        }
        if !is_name(name) {
            let message = [&name[..], b": bad variable name"].concat();
            return Err(shell.error(&message));
        }
        shell.unset(name)?;
    }
    Ok(0)
}
