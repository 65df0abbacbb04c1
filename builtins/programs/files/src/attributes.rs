//! `chmod`, `chown`, `chgrp`.

use std::io::Write;

use toolbox_command::mode::{self, Mode};
use toolbox_command::owner::Owners;
use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, AT_SYMLINK_NOFOLLOW, Descriptor, Stat};

pub(crate) const CHMOD: Tool = Tool {
    name: "chmod",
    usage: "[OPTION]... MODE[,MODE]... FILE...",
    options: &[
        ("c/changes", "report changes"),
        ("f/silent", "no messages about most errors"),
        ("/quiet", "as -f"),
        ("v/verbose", "report every file"),
        ("/no-preserve-root", "treat / as any other (default)"),
        ("/preserve-root", "do not go through /"),
        ("/reference=", "take the mode of this file"),
        ("R/recursive", "go through directories"),
    ],
    order: Order::Raw,
    misuse: 1,
    main: chmod,
};

const OWNER_OPTIONS: toolbox_command::Spec = &[
    ("c/changes", "report changes"),
    ("f/silent", "no messages about most errors"),
    ("/quiet", "as -f"),
    ("v/verbose", "report every file"),
    ("/dereference", "change what a symbolic link points at (default)"),
    ("h/no-dereference", "change symbolic links themselves"),
    ("/from=", "only files of this owner and group"),
    ("/no-preserve-root", "treat / as any other (default)"),
    ("/preserve-root", "do not go through /"),
    ("/reference=", "take owner and group of this file"),
    ("R/recursive", "go through directories"),
    ("H", "with -R: follow an operand that is a link to a directory"),
    ("L", "with -R: follow every link to a directory"),
    ("P", "with -R: follow no link (default)"),
];

pub(crate) const CHOWN: Tool = Tool {
    name: "chown",
    usage: "[OPTION]... [OWNER][:[GROUP]] FILE...",
    options: OWNER_OPTIONS,
    order: Order::Anywhere,
    misuse: 1,
    main: chown,
};

pub(crate) const CHGRP: Tool = Tool {
    name: "chgrp",
    usage: "[OPTION]... GROUP FILE...",
    options: OWNER_OPTIONS,
    order: Order::Anywhere,
    misuse: 1,
    main: chown,
};

/// Calls `visit` for a path and, recursively, all that is below it; directories come before their contents.
fn walk(
    context: &Context,
    path: &[u8],
    stat: Stat,
    silent: bool,
    links: Links,
    visit: &mut dyn FnMut(&[u8], &Stat),
) {
    visit(path, &stat);
    if !stat.is_directory() {
        return;
    }
    match file::read_directory(path) {
        Ok(mut entries) => {
            entries.sort_by(|left, right| left.name.cmp(&right.name));
            for entry in entries {
                let child = super::path::join(path, &entry.name);
                let found = match file::lstat(&child) {
                    Ok(stat) if stat.is_symlink() && links == Links::All => match file::stat(&child) {
                        Ok(target) if target.is_directory() => Ok(target),
                        _ => Ok(stat),
                    },
                    other => other,
                };
                match found {
                    Ok(stat) => walk(context, &child, stat, silent, links, visit),
                    Err(reason) => {
                        context.set_status(1);
                        if !silent {
                            context.warn(format!("cannot access {}: {reason}", quote::always(&child)));
                        }
                    }
                }
            }
        }
        Err(reason) => {
            context.set_status(1);
            if !silent {
                context.warn(format!("cannot read directory {}: {reason}", quote::always(path)));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    None,
    Operands,
    All,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Report {
    Silent,
    Normal,
    Changes,
    All,
}

fn report(parsed: &Parsed) -> Report {
    match parsed.last(&["changes", "verbose", "silent", "quiet"]) {
        Some("changes") => Report::Changes,
        Some("verbose") => Report::All,
        Some(_) => Report::Silent,
        None => Report::Normal,
    }
}

fn is_root(path: &[u8]) -> bool {
    matches!((file::lstat(path), file::lstat(b"/")), (Ok(left), Ok(right)) if left.identity() == right.identity())
}

fn refuse_root(context: &Context, parsed: &Parsed, operand: &[u8]) -> bool {
    let keeps = parsed.last(&["preserve-root", "no-preserve-root"]) == Some("preserve-root");
    let refused = keeps && parsed.has("recursive") && is_root(operand);
    if refused {
        context.fail("it is dangerous to operate recursively on '/'");
        context.warn("use --no-preserve-root to override this failsafe");
    }
    refused
}

/// A word such as `-w` or `-rwx,g=u` is a mode, not options: the first one is taken out before options are read.
fn take_mode(words: &[Vec<u8>]) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
    let is_mode = |word: &Vec<u8>| {
        word.len() > 1
            && word[0] == b'-'
            && b"rwxXstugo0123456789,+=-".contains(&word[1])
            && word[1] != b'-'
            && Mode::parse(word).is_some()
    };
    let end = words.iter().position(|word| word == b"--").unwrap_or(words.len());
    match words[..end].iter().position(is_mode) {
        Some(at) => {
            let rest =
                words.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, word)| word.clone());
            (Some(words[at].clone()), rest.collect())
        }
        None => (None, words.to_vec()),
    }
}

fn chmod(context: &Context, parsed: Parsed) -> i32 {
    let (taken, words) = take_mode(&parsed.operands);
    let tool = Tool { order: Order::Anywhere, ..CHMOD };
    let mut parsed = toolbox_command::options::parse(&tool, context, words);
    let text = match parsed.value("reference") {
        Some(path) => {
            let stat = file::stat(path).unwrap_or_else(|reason| {
                context.die(1, format!("failed to get attributes of {}: {reason}", quote::always(path)))
            });
            format!("{:05o}", stat.mode & 0o7777).into_bytes()
        }
        None if taken.is_some() => taken.clone().unwrap_or_default(),
        None if parsed.operands.is_empty() => context.missing_operand(),
        None => parsed.operands.remove(0),
    };
    if parsed.operands.is_empty() {
        context.misused(format!("missing operand after {}", quote::always(&text)));
    }
    let Some(change) = Mode::parse(&text) else {
        context.misused(format!("invalid mode: {}", quote::always(&text)));
    };
    let (how, umask) = (report(&parsed), context.umask());
    for operand in parsed.operands.clone() {
        if refuse_root(context, &parsed, &operand) {
            continue;
        }
        let silent = how == Report::Silent;
        let stat = match file::stat(&operand) {
            Ok(stat) => stat,
            Err(reason) => {
                context.set_status(1);
                let shown = quote::always(&operand);
                if !silent && file::lstat(&operand).is_ok_and(|stat| stat.is_symlink()) {
                    context.warn(format!("cannot operate on dangling symlink {shown}"));
                } else if !silent {
                    context.warn(format!("cannot access {shown}: {reason}"));
                }
                continue;
            }
        };
        let mut visit = |path: &[u8], stat: &Stat| {
            // Symbolic links below an operand have no mode of their own.
            if stat.is_symlink() {
                return;
            }
            let old = stat.mode & 0o7777;
            let new = change.apply(old, stat.is_directory(), umask);
            match file::chmod(path, new) {
                Ok(()) => {
                    // `chmod -w` that the umask kept from its whole effect is a failure, says GNU.
                    let whole = change.apply(old, stat.is_directory(), 0);
                    if taken.is_some() && new & !whole != 0 {
                        context.fail(format!(
                            "{}: new permissions are {}, not {}",
                            quote::if_needed(path),
                            &mode::show(new)[1..],
                            &mode::show(whole)[1..]
                        ));
                    }
                    report_mode(context, how, path, old, new);
                }
                Err(reason) => {
                    context.set_status(1);
                    if !silent {
                        context.warn(format!("changing permissions of {}: {reason}", quote::always(path)));
                    }
                }
            }
        };
        if parsed.has("recursive") {
            walk(context, &operand, stat, silent, Links::None, &mut visit);
        } else {
            visit(&operand, &stat);
        }
    }
    context.status()
}

fn report_mode(context: &Context, how: Report, path: &[u8], old: u32, new: u32) {
    let (old_text, new_text) = (mode::show(old), mode::show(new));
    let shown = quote::always(path);
    let line = match (how, old == new) {
        (Report::All, true) => format!("mode of {shown} retained as {new:04o} ({})\n", &new_text[1..]),
        (Report::All | Report::Changes, false) => format!(
            "mode of {shown} changed from {old:04o} ({}) to {new:04o} ({})\n",
            &old_text[1..],
            &new_text[1..]
        ),
        _ => return,
    };
    context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
}

fn chown(context: &Context, mut parsed: Parsed) -> i32 {
    let owners = Owners::read();
    let only_group = context.name == "chgrp";
    let parse = |text: &[u8]| -> (Option<u32>, Option<u32>) {
        let text = String::from_utf8_lossy(text);
        let answer = if only_group {
            if text.is_empty() {
                Ok((None, None))
            } else {
                owners.gid(&text).map(|gid| (None, Some(gid))).ok_or("invalid group")
            }
        } else {
            owners.parse(&text)
        };
        answer.unwrap_or_else(|what| context.die(1, format!("{what}: {}", quote::always(text.as_bytes()))))
    };
    let (uid, gid) = match parsed.value("reference") {
        Some(path) => {
            let stat = file::stat(path).unwrap_or_else(|reason| {
                context.die(1, format!("failed to get attributes of {}: {reason}", quote::always(path)))
            });
            (Some(stat.uid).filter(|_| !only_group), Some(stat.gid))
        }
        None => {
            if parsed.operands.is_empty() {
                context.missing_operand();
            }
            let text = parsed.operands.remove(0);
            if parsed.operands.is_empty() {
                context.misused(format!("missing operand after {}", quote::always(&text)));
            }
            parse(&text)
        }
    };
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let from = parsed.value("from").map(|text| {
        let text = String::from_utf8_lossy(text).into_owned();
        owners
            .parse(&text)
            .unwrap_or_else(|what| context.die(1, format!("{what}: {}", quote::always(text.as_bytes()))))
    });
    let how = report(&parsed);
    let recursive = parsed.has("recursive");
    let links = match parsed.last(&["H", "L", "P"]) {
        Some("H") => Links::Operands,
        Some("L") => Links::All,
        _ => Links::None,
    };
    let nofollow = parsed.last(&["dereference", "no-dereference"]);
    if recursive && nofollow == Some("dereference") && links == Links::None {
        context.die(1, "-R --dereference requires either -H or -L");
    }
    let nofollow =
        nofollow == Some("no-dereference") || (recursive && nofollow.is_none() && links == Links::None);
    for operand in parsed.operands.clone() {
        if refuse_root(context, &parsed, &operand) {
            continue;
        }
        let silent = how == Report::Silent;
        let follow_operand = if recursive { links != Links::None } else { !nofollow };
        let stat = match if follow_operand { file::stat(&operand) } else { file::lstat(&operand) } {
            Ok(stat) => stat,
            Err(reason) => {
                context.set_status(1);
                if !silent {
                    let verb =
                        if follow_operand && !recursive { "cannot dereference" } else { "cannot access" };
                    let verb = if file::lstat(&operand).is_ok() { verb } else { "cannot access" };
                    context.warn(format!("{verb} {}: {reason}", quote::always(&operand)));
                }
                continue;
            }
        };
        let mut visit = |path: &[u8], stat: &Stat| {
            let target =
                if stat.is_symlink() && !nofollow { file::stat(path).unwrap_or(*stat) } else { *stat };
            if let Some((uid, gid)) = from
                && (uid.is_some_and(|uid| uid != target.uid) || gid.is_some_and(|gid| gid != target.gid))
            {
                return;
            }
            let flags = if nofollow { AT_SYMLINK_NOFOLLOW } else { 0 };
            match file::chown(path, uid, gid, flags) {
                Ok(()) => report_owner(context, how, &owners, path, &target, (uid, gid)),
                Err(reason) => {
                    context.set_status(1);
                    if !silent {
                        let what = if uid.is_none() && gid.is_some() { "group" } else { "ownership" };
                        context.warn(format!("changing {what} of {}: {reason}", quote::always(path)));
                    }
                }
            }
        };
        if recursive {
            walk(context, &operand, stat, silent, links, &mut visit);
        } else {
            visit(&operand, &stat);
        }
    }
    context.status()
}

fn report_owner(
    context: &Context,
    how: Report,
    owners: &Owners,
    path: &[u8],
    old: &Stat,
    (uid, gid): (Option<u32>, Option<u32>),
) {
    let user = |uid: u32| owners.user_name(uid).map_or_else(|| uid.to_string(), str::to_owned);
    let group = |gid: u32| owners.group_name(gid).map_or_else(|| gid.to_string(), str::to_owned);
    let pair = |user: String, group: String| match (uid, gid) {
        (Some(_), Some(_)) => format!("{user}:{group}"),
        (None, Some(_)) => group,
        _ => user,
    };
    let show = |with_user: u32, with_group: u32| pair(user(with_user), group(with_group));
    let (new_uid, new_gid) = (uid.unwrap_or(old.uid), gid.unwrap_or(old.gid));
    let changed = (new_uid, new_gid) != (old.uid, old.gid);
    let what = if uid.is_none() && gid.is_some() { "group" } else { "ownership" };
    let (shown, new) = (quote::always(path), show(new_uid, new_gid));
    let line = match (how, changed) {
        (Report::All, false) => format!("{what} of {shown} retained as {new}\n"),
        (Report::All | Report::Changes, true) => {
            format!("changed {what} of {shown} from {} to {new}\n", show(old.uid, old.gid))
        }
        _ => return,
    };
    context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
}
