//! Paths: `pwd`, `readlink`, `realpath`, and how names join.

use std::io::Write;

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::{Errno, Result, errno, file, process};

pub(crate) const PWD: Tool = Tool {
    name: "pwd",
    usage: "[OPTION]...",
    options: &[
        ("L/logical", "take PWD from the environment, if it is right"),
        ("P/physical", "resolve all symbolic links (default)"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: pwd,
};

pub(crate) const READLINK: Tool = Tool {
    name: "readlink",
    usage: "[OPTION]... FILE...",
    options: &[
        ("f/canonicalize", "the whole path; the last name may be missing"),
        ("e/canonicalize-existing", "the whole path; everything must be there"),
        ("m/canonicalize-missing", "the whole path; anything may be missing"),
        ("n/no-newline", "no newline after a single answer"),
        ("q/quiet", "no messages (default)"),
        ("s/silent", "as -q"),
        ("v/verbose", "report errors"),
        ("z/zero", "end answers with NUL"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: readlink,
};

pub(crate) const REALPATH: Tool = Tool {
    name: "realpath",
    usage: "[OPTION]... FILE...",
    options: &[
        ("e/canonicalize-existing", "everything must be there"),
        ("m/canonicalize-missing", "anything may be missing"),
        ("L/logical", "take .. before symbolic links"),
        ("P/physical", "resolve symbolic links as they come (default)"),
        ("q/quiet", "no messages"),
        ("/relative-to=", "show the path from this directory"),
        ("/relative-base=", "show paths below this directory from it"),
        ("s/strip", "do not resolve symbolic links"),
        ("/no-symlinks", "as -s"),
        ("z/zero", "end answers with NUL"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: realpath,
};

/// A name inside a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// The last name of a path, without slashes at its end.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    let mut path = path;
    while path.len() > 1 && path.ends_with(b"/") {
        path = &path[..path.len() - 1];
    }
    if path == b"/" { path } else { path.rsplit(|&byte| byte == b'/').next().unwrap_or(path) }
}

/// The directory that a path lies in, as written.
pub(crate) fn directory_name(path: &[u8]) -> &[u8] {
    let mut path = path;
    while path.len() > 1 && path.ends_with(b"/") {
        path = &path[..path.len() - 1];
    }
    match path.iter().rposition(|&byte| byte == b'/') {
        None => b".",
        Some(at) => {
            let mut end = at;
            while end > 1 && path[end - 1] == b'/' {
                end -= 1;
            }
            &path[..end.max(1)]
        }
    }
}

/// How much of a path must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    All,
    AllButLast,
    Any,
}

/// Resolves a path to one without `.`, `..`, double slashes and, if they are followed, symbolic links.
pub(crate) fn canonical(path: &[u8], presence: Presence, follow: bool) -> Result<Vec<u8>> {
    const MOST_LINKS: usize = 40;
    if path.is_empty() {
        return Err(errno::ENOENT);
    }
    let mut done: Vec<u8> = if path[0] == b'/' { Vec::new() } else { process::getcwd()? };
    if done == b"/" {
        done.clear();
    }
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
            .map(<[u8]>::to_vec)
            .rev()
            .collect()
    };
    let mut todo = names(path);
    let mut links = 0;
    let mut missing = false;
    while let Some(name) = todo.pop() {
        if name == b".." {
            done.truncate(done.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
            continue;
        }
        let next = [&done[..], b"/", &name].concat();
        if missing {
            done = next;
            continue;
        }
        match file::lstat(&next) {
            Ok(stat) if stat.is_symlink() && follow => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(errno::ELOOP);
                }
                let target = file::readlink(&next)?;
                if target.starts_with(b"/") {
                    done.clear();
                }
                todo.extend(names(&target));
            }
            Ok(stat) => {
                let more = !todo.is_empty() || (path.ends_with(b"/") && presence != Presence::Any);
                if more && presence != Presence::Any && !stat.is_directory() && !stat.is_symlink() {
                    return Err(errno::ENOTDIR);
                }
                done = next;
            }
            Err(errno::ENOENT) if presence == Presence::AllButLast && todo.is_empty() => done = next,
            Err(_) if presence == Presence::Any => {
                missing = true;
                done = next;
            }
            Err(reason) => return Err(reason),
        }
    }
    Ok(if done.is_empty() { b"/".to_vec() } else { done })
}

fn pwd(context: &Context, parsed: Parsed) -> i32 {
    if !parsed.operands.is_empty() {
        context.warn("ignoring non-option arguments");
    }
    let physical = process::getcwd().unwrap_or_else(|reason| context.die(1, reason));
    let logical = std::env::var_os("PWD").map(|path| path.into_encoded_bytes()).filter(|path| {
        let tidy =
            path.starts_with(b"/") && !path.split(|&b| b == b'/').any(|name| matches!(name, b"." | b".."));
        let same = |here: &[u8]| Some(file::stat(here).ok()?.identity() == file::stat(path).ok()?.identity());
        tidy && same(b".") == Some(true)
    });
    let is_logical = parsed.last(&["logical", "physical"]) == Some("logical");
    let mut answer = logical.filter(|_| is_logical).unwrap_or(physical);
    answer.push(b'\n');
    let mut output = context.output();
    context.check_write(output.write_all(&answer));
    context.finish(output)
}

fn readlink(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let mode = parsed.last(&["canonicalize", "canonicalize-existing", "canonicalize-missing"]);
    let verbose = parsed.last(&["quiet", "silent", "verbose"]) == Some("verbose");
    let mut bare = parsed.has("no-newline");
    if bare && parsed.operands.len() > 1 {
        context.warn("ignoring --no-newline with multiple arguments");
        bare = false;
    }
    let end: &[u8] = if bare {
        b""
    } else if parsed.has("zero") {
        b"\0"
    } else {
        b"\n"
    };
    let mut output = context.output();
    for operand in &parsed.operands {
        let answer = match mode {
            None => file::readlink(operand),
            Some("canonicalize") => canonical(operand, Presence::AllButLast, true),
            Some("canonicalize-missing") => canonical(operand, Presence::Any, true),
            Some(_) => canonical(operand, Presence::All, true),
        };
        match answer {
            Ok(answer) => context.check_write(output.write_all(&[&answer[..], end].concat())),
            Err(reason) => {
                context.set_status(1);
                if verbose {
                    context.warn(format!("{}: {reason}", quote::if_needed(operand)));
                }
            }
        }
    }
    context.finish(output)
}

fn realpath(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let presence = match parsed.last(&["canonicalize-existing", "canonicalize-missing"]) {
        Some("canonicalize-existing") => Presence::All,
        Some(_) => Presence::Any,
        None => Presence::AllButLast,
    };
    let links = parsed.last(&["logical", "physical", "strip", "no-symlinks"]);
    let resolve = |path: &[u8]| -> Result<Vec<u8>> {
        match links {
            Some("strip" | "no-symlinks") => {
                let plain = canonical(path, Presence::Any, false)?;
                if presence == Presence::All {
                    file::stat(&plain)?;
                }
                Ok(plain)
            }
            // `..` is taken away as written, then links are followed.
            Some("logical") => canonical(&canonical(path, Presence::Any, false)?, presence, true),
            _ => canonical(path, presence, true),
        }
    };
    let directory = |key: &str| {
        parsed.value(key).map(|path| {
            let refuse =
                |reason: Errno| -> ! { context.die(1, format!("{}: {reason}", quote::if_needed(path))) };
            let resolved = resolve(path).unwrap_or_else(|reason| refuse(reason));
            match file::stat(&resolved) {
                Ok(stat) if !stat.is_directory() && presence == Presence::All => refuse(errno::ENOTDIR),
                _ => resolved,
            }
        })
    };
    let (base, to) = (directory("relative-base"), directory("relative-to"));
    let from = to.or_else(|| base.clone());
    let from = from.filter(|from| base.as_deref().is_none_or(|base| is_below(from, base)));
    let end: &[u8] = if parsed.has("zero") { b"\0" } else { b"\n" };
    let mut output = context.output();
    for operand in &parsed.operands {
        match resolve(operand) {
            Ok(path) => {
                let wanted = base.as_deref().is_none_or(|base| is_below(&path, base));
                let shown = match &from {
                    Some(from) if wanted => relative(&path, from),
                    _ => path,
                };
                context.check_write(output.write_all(&[&shown[..], end].concat()));
            }
            Err(reason) if parsed.has("quiet") => {
                let _ = reason;
                context.set_status(1);
            }
            Err(reason) => context.fail(format!("{}: {reason}", quote::if_needed(operand))),
        }
    }
    context.finish(output)
}

fn is_below(path: &[u8], base: &[u8]) -> bool {
    base == b"/" || path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A canonical path as seen from another.
pub(crate) fn relative(path: &[u8], from: &[u8]) -> Vec<u8> {
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (path, from) = (names(path), names(from));
    let common = path.iter().zip(&from).take_while(|(left, right)| left == right).count();
    let ups = from[common..].iter().map(|_| b"..".to_vec());
    let parts: Vec<Vec<u8>> = ups.chain(path[common..].iter().cloned()).collect();
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}
