//! Builtins about processes: signals, traps, jobs.

use super::quote;
use crate::ast::Bytes;
use crate::execute::Flags;
use crate::jobs::exit_status;
use crate::shell::{Flow, Shell, Trap};
use crate::signals;
use crate::system;

/// `trap`
pub(crate) fn trap(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (_, rest) = shell.options(arguments, b"")?;
    let operands = &arguments[rest..];
    let Some(first) = operands.first() else {
        let mut text = Vec::new();
        for (signal, trap) in shell.env.traps.iter() {
            let action = match trap {
                Trap::Ignore => &b""[..],
                Trap::Run(command) => command,
            };
            text.extend(
                [b"trap -- ", &quote(action)[..], b" ", signals::name(*signal).as_bytes(), b"\n"].concat(),
            );
        }
        return shell.print(&text);
    };
    let resets = operands.len() == 1 || first.first().is_some_and(u8::is_ascii_digit);
    let (action, names) =
        if resets { (None, operands) } else { (Some(first).filter(|word| ***word != *b"-"), &operands[1..]) };
    for name in names {
        let Some(signal) = signals::parse(name) else {
            let message = [b"trap: ", &name[..], b": bad trap\n"].concat();
            let _ = shell.emit(2, &message);
            return Ok(1);
        };
        let trap = action.map(|text| if text.is_empty() { Trap::Ignore } else { Trap::Run(text.clone()) });
        shell.set_trap(signal, trap);
    }
    Ok(0)
}

/// `kill`
pub(crate) fn kill(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    const USAGE: &[u8] =
        b"Usage: kill [-s sigspec | -signum | -sigspec] [pid | job]... or\nkill -l [exitstatus]";
    let Some(first) = arguments.get(1) else { return Err(shell.error(USAGE)) };
    let mut signal = 15;
    let mut at = 1;
    if **first == *b"-l" {
        return list(shell, arguments.get(2));
    }
    if **first == *b"-s" {
        let Some(parsed) = arguments.get(2).and_then(|name| signals::parse(name)) else {
            let name = arguments.get(2).map_or(&b""[..], |name| &name[..]);
            let message = [b"invalid signal number or name: ", name].concat();
            return Err(shell.error(&message));
        };
        signal = parsed;
        at = 3;
    } else if first.len() > 1 && first[0] == b'-' && **first != *b"--" {
        let Some(parsed) = signals::parse(&first[1..]) else {
            let message = [b"Illegal option -", &first[1..2]].concat();
            return Err(shell.error(&message));
        };
        signal = parsed;
        at = 2;
    }
    if arguments.get(at).is_some_and(|word| **word == *b"--") {
        at += 1;
    }
    if at >= arguments.len() {
        return Err(shell.error(USAGE));
    }
    let mut status = 0;
    for name in &arguments[at..] {
        let pid = if name.starts_with(b"%") {
            match shell.env.jobs.find(name) {
                Some(index) => shell.env.jobs.0[index].pid,
                None => {
                    let message = [b"No such job: ", &name[..]].concat();
                    return Err(shell.error(&message));
                }
            }
        } else {
            match std::str::from_utf8(name).ok().and_then(|text| text.parse().ok()) {
                Some(pid) => pid,
                None => {
                    let message = [b"Illegal number: ", &name[..]].concat();
                    return Err(shell.error(&message));
                }
            }
        };
        if let Err(error) = system::kill(pid, signal) {
            shell.warn(crate::redirect::message(error).as_bytes());
            status = 1;
        }
    }
    Ok(status)
}

fn list(shell: &mut Shell, of: Option<&Bytes>) -> Result<i32, Flow> {
    match of {
        Some(text) => {
            let number = shell.number(text)?;
            let signal = if number > 128 { number - 128 } else { number };
            if !(1..=signals::LAST).contains(&signal) {
                let message = [b"invalid signal number or exit status: ", &text[..]].concat();
                return Err(shell.error(&message));
            }
            shell.print((signals::name(signal) + "\n").as_bytes())
        }
        None => {
            let names: String = (1..=signals::LAST).map(|signal| signals::name(signal) + "\n").collect();
            shell.print(("0\n".to_owned() + &names).as_bytes())
        }
    }
}

/// `wait`
pub(crate) fn wait(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    if arguments.len() == 1 {
        for index in 0..shell.env.jobs.0.len() {
            if shell.wait_background(index, false)?.is_none() {
                return Ok(shell.status);
            }
        }
        return Ok(0);
    }
    let mut status = 0;
    for name in &arguments[1..] {
        let index = if name.starts_with(b"%") {
            match shell.env.jobs.find(name) {
                Some(index) => Some(index),
                None => {
                    let message = [b"No such job: ", &name[..]].concat();
                    return Err(shell.error(&message));
                }
            }
        } else {
            let pid = shell.number(name)?;
            shell.env.jobs.0.iter().position(|job| job.pid == pid)
        };
        status = match index {
            None => 127,
            Some(index) => match shell.wait_background(index, true)? {
                Some(status) => status,
                None => return Ok(shell.status),
            },
        };
    }
    Ok(status)
}

/// `jobs`
pub(crate) fn jobs(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, _) = shell.options(arguments, b"lp")?;
    let has = |letter| options.iter().any(|(other, _)| *other == letter);
    shell.reap();
    let mut text = Vec::new();
    let count = shell.env.jobs.0.len();
    for (at, job) in shell.env.jobs.0.iter().enumerate() {
        if has(b'p') {
            text.extend(format!("{}\n", job.pid).into_bytes());
            continue;
        }
        let mark = if at + 1 == count {
            '+'
        } else if at + 2 == count {
            '-'
        } else {
            ' '
        };
        let state = match job.status {
            None => "Running".to_owned(),
            Some(status) if status & 0x7f != 0 => signals::describe(status & 0x7f).to_owned(),
            Some(0) => "Done".to_owned(),
            Some(status) => format!("Done({})", exit_status(status)),
        };
        let pid = if has(b'l') { format!("{} ", job.pid) } else { String::new() };
        text.extend(format!("[{}] {mark} {pid}{state:<27}", job.number).into_bytes());
        text.push(b'\n');
    }
    shell.env.jobs.0.retain(|job| job.status.is_none());
    shell.print(&text)
}

/// `fg`: waits, since without job control there is nothing else to do.
pub(crate) fn foreground(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    uncontrolled(shell, arguments)
}

/// `bg`
pub(crate) fn background(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    uncontrolled(shell, arguments)
}

fn uncontrolled(shell: &mut Shell, arguments: &[Bytes]) -> Result<i32, Flow> {
    let name = arguments.get(1).map_or(&b"%%"[..], |name| &name[..]);
    match shell.env.jobs.find(name) {
        Some(_) => Err(shell.error(&[b"job ", name, b" not created under job control"].concat())),
        None if arguments.len() > 1 => Err(shell.error(&[b"No such job: ", name].concat())),
        None => Err(shell.error(b"No current job")),
    }
}

/// `times`
pub(crate) fn times(shell: &mut Shell, _: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let [user, system, child_user, child_system] = system::times();
    let time = |ticks: i64| format!("{}m{}.{:02}0000s", ticks / 6000, ticks / 100 % 60, ticks % 100);
    let text = format!("{} {}\n{} {}\n", time(user), time(system), time(child_user), time(child_system));
    shell.print(text.as_bytes())
}
