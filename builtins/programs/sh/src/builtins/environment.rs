//! `set`, `shift`, `ulimit`.

use std::rc::Rc;

use super::variables;
use crate::ast::Bytes;
use crate::execute::Flags;
use crate::shell::{Flow, OPTIONS, Opt, Shell};
use crate::system;

/// `set`
pub(crate) fn set(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    if arguments.len() == 1 {
        let text = variables::listing(shell, b"", |_| true);
        return shell.print(&text);
    }
    let rest = shell.set_options(&arguments[1..])?;
    if let Some(operands) = rest {
        shell.env.positional = Rc::new(operands.to_vec());
        shell.env.getopts_offset = 0;
    }
    Ok(0)
}

impl Shell {
    /// Options as `set` and the command line take them. The operands, when there are any or `--` says so.
    pub(crate) fn set_options<'a>(&mut self, arguments: &'a [Bytes]) -> Result<Option<&'a [Bytes]>, Flow> {
        let mut at = 0;
        while let Some(argument) = arguments.get(at) {
            let on = match argument.first() {
                Some(b'-') => true,
                Some(b'+') => false,
                _ => break,
            };
            at += 1;
            match &argument[1..] {
                b"-" if on => return Ok(Some(&arguments[at..])),
                b"" if on => {
                    self.env.options.set(Opt::Xtrace, false);
                    self.env.options.set(Opt::Verbose, false);
                    return Ok((at < arguments.len()).then(|| &arguments[at..]));
                }
                letters => {
                    for letter in letters {
                        if *letter == b'o' {
                            let name = arguments.get(at);
                            at += usize::from(name.is_some());
                            self.set_named_option(name, on)?;
                            continue;
                        }
                        match OPTIONS.iter().find(|(_, other, _)| other == letter && *other != 0) {
                            Some((_, _, option)) => self.env.options.set(*option, on),
                            None => {
                                let message = [b"Illegal option ", &[argument[0], *letter][..]].concat();
                                return Err(self.error(&message));
                            }
                        }
                    }
                }
            }
        }
        Ok((at < arguments.len()).then(|| &arguments[at..]))
    }

    fn set_named_option(&mut self, name: Option<&Bytes>, on: bool) -> Result<(), Flow> {
        let Some(name) = name else {
            let mut text = if on { "Current option settings\n".to_owned() } else { String::new() };
            for (name, _, option) in OPTIONS {
                let set = self.env.options.has(option);
                text += &if on {
                    format!("{name:<16}{}\n", if set { "on" } else { "off" })
                } else {
                    format!("set {}o {name}\n", if set { '-' } else { '+' })
                };
            }
            return self.print(text.as_bytes()).map(drop);
        };
        match OPTIONS.iter().find(|(other, _, _)| other.as_bytes() == &name[..]) {
            Some((_, _, option)) => self.env.options.set(*option, on),
            None => {
                let message =
                    [if on { &b"Illegal option -o "[..] } else { b"Illegal option +o " }, name].concat();
                return Err(self.error(&message));
            }
        }
        Ok(())
    }
}

/// `shift`
pub(crate) fn shift(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let count = match arguments.get(1) {
        Some(text) => shell.number(text)? as usize,
        None => 1,
    };
    if count > shell.env.positional.len() {
        return Err(shell.error(b"can't shift that many"));
    }
    Rc::make_mut(&mut shell.env.positional).drain(..count);
    shell.env.getopts_offset = 0;
    Ok(0)
}

/// Letter, what it is called, number of the resource, size of its unit.
const LIMITS: [(u8, &str, i64, u64); 12] = [
    (b't', "time(seconds)", 0, 1),
    (b'f', "file(blocks)", 1, 512),
    (b'd', "data(kbytes)", 2, 1024),
    (b's', "stack(kbytes)", 3, 1024),
    (b'c', "coredump(blocks)", 4, 512),
    (b'm', "memory(kbytes)", 5, 1024),
    (b'l', "locked memory(kbytes)", 8, 1024),
    (b'p', "process", 6, 1),
    (b'n', "nofiles", 7, 1),
    (b'v', "vmemory(kbytes)", 9, 1024),
    (b'w', "locks", 10, 1),
    (b'r', "rtprio", 14, 1),
];

/// `ulimit`
pub(crate) fn limit(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"HSatfdscmlpnvwr")?;
    let has = |letter| options.iter().any(|(other, _)| *other == letter);
    let (hard, soft) = match (has(b'H'), has(b'S')) {
        (false, false) => (true, true),
        chosen => chosen,
    };
    let shown = |limits: [u64; 2], unit: u64| match limits[usize::from(!soft)] {
        u64::MAX => "unlimited".to_owned(),
        value => (value / unit).to_string(),
    };
    if has(b'a') {
        let mut text = String::new();
        for (_, name, resource, unit) in LIMITS {
            text +=
                &format!("{name:<20} {}\n", shown(system::limit(resource).unwrap_or([u64::MAX; 2]), unit));
        }
        return shell.print(text.as_bytes());
    }
    let letter = options
        .iter()
        .map(|(letter, _)| *letter)
        .rfind(|letter| !matches!(letter, b'H' | b'S'))
        .unwrap_or(b'f');
    let Some((_, _, resource, unit)) = LIMITS.into_iter().find(|(other, ..)| *other == letter) else {
        return Ok(2);
    };
    let mut limits = system::limit(resource).unwrap_or([u64::MAX; 2]);
    match arguments.get(rest) {
        None => {
            let text = shown(limits, unit) + "\n";
            shell.print(text.as_bytes())
        }
        Some(_) if arguments.len() > rest + 1 => Err(shell.error(b"too many arguments")),
        Some(text) => {
            let value = if **text == *b"unlimited" {
                u64::MAX
            } else {
                let number = std::str::from_utf8(text)
                    .ok()
                    .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                match number
                    .and_then(|number| number.parse::<u64>().ok())
                    .and_then(|number| number.checked_mul(unit))
                {
                    Some(value) => value,
                    None => return Err(shell.error(b"bad number")),
                }
            };
            if hard {
                limits[1] = value;
            }
            if soft {
                limits[0] = value;
            }
            match system::set_limit(resource, limits) {
                Ok(()) => Ok(0),
                Err(error) => {
                    let message = format!("error setting limit: {}", crate::redirect::message(error));
                    Err(shell.error(message.as_bytes()))
                }
            }
        }
    }
}
