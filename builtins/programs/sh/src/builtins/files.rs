//! `cd`, `pwd`, `umask`.

use crate::ast::Bytes;
use crate::execute::Flags;
use crate::shell::{Flow, Shell};
use crate::system;

/// `cd`
pub(crate) fn change_directory(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"LP")?;
    let physical = options.last().is_some_and(|(letter, _)| *letter == b'P');
    let mut shown = false;
    let target = match arguments.get(rest) {
        Some(text) if **text == *b"-" => {
            shown = true;
            shell.variable(b"OLDPWD").unwrap_or_else(|| Bytes::from(&b"."[..]))
        }
        Some(text) => text.clone(),
        None => shell.variable(b"HOME").unwrap_or_else(|| Bytes::from(&b""[..])),
    };
    if target.is_empty() && arguments.get(rest).is_none() {
        return Ok(0);
    }
    let searched =
        !target.starts_with(b"/") && !matches!(target.split(|byte| *byte == b'/').next(), Some(b"." | b".."));
    if let Some(path) = shell.variable(b"CDPATH").filter(|_| searched) {
        for directory in path.split(|byte| *byte == b':') {
            let candidate =
                if directory.is_empty() { target.to_vec() } else { [directory, b"/", &target].concat() };
            if system::stat(&candidate).is_ok_and(|status| status.is_directory())
                && enter(shell, &candidate, physical)?
            {
                if !directory.is_empty() {
                    shown = true;
                }
                return finish(shell, shown);
            }
        }
    }
    if enter(shell, &target, physical)? {
        return finish(shell, shown);
    }
    let message = [b"can't cd to ", &target[..]].concat();
    Err(shell.error(&message))
}

fn finish(shell: &mut Shell, shown: bool) -> Result<i32, Flow> {
    if !shown {
        return Ok(0);
    }
    let text = [&shell.env.directory[..], b"\n"].concat();
    shell.print(&text)
}

fn enter(shell: &mut Shell, target: &[u8], physical: bool) -> Result<bool, Flow> {
    shell.keep_directory();
    let named = if physical { None } else { logical(&shell.env.directory, target) };
    let path = named.as_deref().unwrap_or(target);
    if system::chdir(path).is_err() {
        return Ok(false);
    }
    let directory = match named {
        Some(named) => named,
        None => system::working_directory().unwrap_or_default(),
    };
    let old = std::mem::replace(&mut shell.env.directory, directory.into());
    shell.set_variable(b"OLDPWD", old)?;
    let new = shell.env.directory.clone();
    shell.set_variable(b"PWD", new)?;
    Ok(true)
}

/// The name of the directory with `.` and `..` taken out, each only where what it goes back over exists.
fn logical(current: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut path: Vec<u8> = if target.starts_with(b"/") {
        Vec::new()
    } else {
        current.strip_suffix(b"/").unwrap_or(current).to_vec()
    };
    if !target.starts_with(b"/") && !current.starts_with(b"/") {
        return None;
    }
    // Two slashes at the start are not one, says POSIX.
    let two = target.starts_with(b"//") && !target.starts_with(b"///");
    if two {
        path.push(b'/');
    }
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if !path.is_empty() && !system::stat(&path).is_ok_and(|status| status.is_directory()) {
                    return None;
                }
                let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                path.truncate(end);
            }
            _ => {
                path.push(b'/');
                path.extend_from_slice(component);
            }
        }
    }
    if path.is_empty() || (two && path.len() == 1) {
        path.push(b'/');
    }
    Some(path)
}

/// `pwd`
pub(crate) fn print_directory(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, _) = shell.options(arguments, b"LP")?;
    let mut text = if options.last().is_some_and(|(letter, _)| *letter == b'P') {
        system::working_directory().unwrap_or_default()
    } else {
        shell.env.directory.to_vec()
    };
    text.push(b'\n');
    shell.print(&text)
}

/// `umask`
pub(crate) fn mask(shell: &mut Shell, arguments: &[Bytes], _: Flags) -> Result<i32, Flow> {
    let (options, rest) = shell.options(arguments, b"S")?;
    let current = system::umask(0);
    system::umask(current);
    let Some(text) = arguments.get(rest) else {
        let text = if options.is_empty() { format!("{current:04o}\n") } else { symbolic(!current) };
        return shell.print(text.as_bytes());
    };
    let mask = if text.first().is_some_and(u8::is_ascii_digit) {
        let octal = std::str::from_utf8(text).ok().and_then(|text| u32::from_str_radix(text, 8).ok());
        match octal.filter(|mask| *mask <= 0o7777) {
            Some(mask) => mask & 0o777,
            None => {
                let message = [b"Illegal number: ", &text[..]].concat();
                return Err(shell.error(&message));
            }
        }
    } else {
        match permissions(text, !current & 0o777) {
            Some(allowed) => !allowed & 0o777,
            None => {
                let message = [b"Illegal mode: ", &text[..]].concat();
                return Err(shell.error(&message));
            }
        }
    };
    shell.keep_mask(current);
    system::umask(mask);
    Ok(0)
}

fn symbolic(allowed: u32) -> String {
    let part = |name: char, shift: u32| {
        let bits = allowed >> shift;
        let letters: String = [(4, 'r'), (2, 'w'), (1, 'x')]
            .iter()
            .filter(|(bit, _)| bits & bit != 0)
            .map(|(_, letter)| *letter)
            .collect();
        format!("{name}={letters}")
    };
    format!("{},{},{}\n", part('u', 6), part('g', 3), part('o', 0))
}

/// Applies `u=rwx,g+w,o-x` to permissions.
fn permissions(text: &[u8], before: u32) -> Option<u32> {
    let mut allowed = before;
    for clause in text.split(|byte| *byte == b',') {
        let who_length = clause.iter().take_while(|byte| matches!(byte, b'u' | b'g' | b'o' | b'a')).count();
        let (who, mut rest) = clause.split_at(who_length);
        let mut mask = who.iter().fold(0, |mask, who| {
            mask | match who {
                b'u' => 0o700,
                b'g' => 0o070,
                b'o' => 0o007,
                _ => 0o777,
            }
        });
        if who.is_empty() {
            mask = 0o777;
        }
        if rest.is_empty() {
            return None;
        }
        while let Some((operator, after)) = rest.split_first() {
            let length = after.iter().take_while(|byte| !matches!(byte, b'+' | b'-' | b'=')).count();
            let mut bits = 0;
            for letter in &after[..length] {
                bits |= match letter {
                    b'r' => 0o444,
                    b'w' => 0o222,
                    b'x' => 0o111,
                    b'X' => {
                        if before & 0o111 != 0 {
                            0o111
                        } else {
                            0
                        }
                    }
                    b's' | b't' => 0,
                    b'u' => (before >> 6 & 7) * 0o111,
                    b'g' => (before >> 3 & 7) * 0o111,
                    b'o' => (before & 7) * 0o111,
                    _ => return None,
                };
            }
            match operator {
                b'+' => allowed |= bits & mask,
                b'-' => allowed &= !(bits & mask),
                b'=' => allowed = allowed & !mask | bits & mask,
                _ => return None,
            }
            rest = &after[length..];
        }
    }
    Some(allowed)
}
