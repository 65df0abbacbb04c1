//! `mkdir`, `mkfifo`, `mknod`, `mktemp`, `ln`, `link`.

use std::io::Write;

use toolbox_command::mode::Mode;
use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, AT_SYMLINK_FOLLOW, Descriptor, open};
use toolbox_linux::{errno, process};

use crate::path::{Presence, base_name, canonical, directory_name, join, relative};
use crate::remove::agrees;

pub(crate) const MKDIR: Tool = Tool {
    name: "mkdir",
    usage: "[OPTION]... DIRECTORY...",
    options: &[
        ("m/mode=", "mode as in chmod, not a=rwx less the umask"),
        ("p/parents", "make directories above; one that is there is no failure"),
        ("v/verbose", "say what is done"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: mkdir,
};

pub(crate) const MKFIFO: Tool = Tool {
    name: "mkfifo",
    usage: "[OPTION]... NAME...",
    options: &[("m/mode=", "mode as in chmod, not a=rw less the umask")],
    order: Order::Anywhere,
    misuse: 1,
    main: mkfifo,
};

pub(crate) const MKNOD: Tool = Tool {
    name: "mknod",
    usage: "[OPTION]... NAME TYPE [MAJOR MINOR]",
    options: &[("m/mode=", "mode as in chmod, not a=rw less the umask")],
    order: Order::Anywhere,
    misuse: 1,
    main: mknod,
};

pub(crate) const MKTEMP: Tool = Tool {
    name: "mktemp",
    usage: "[OPTION]... [TEMPLATE]",
    options: &[
        ("d/directory", "make a directory"),
        ("u/dry-run", "only print a name"),
        ("q/quiet", "no messages"),
        ("/suffix=", "append to the template"),
        ("p=", "as --tmpdir with a directory"),
        ("/tmpdir?", "directory of the template: this, TMPDIR or /tmp"),
        ("t", "the template is a name in a directory for temporary files"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: mktemp,
};

pub(crate) const LN: Tool = Tool {
    name: "ln",
    usage: "[OPTION]... TARGET... NAME",
    options: &[
        ("b", "keep a backup of what is replaced"),
        ("f/force", "replace what is there"),
        ("i/interactive", "ask before something is replaced"),
        ("L/logical", "follow targets that are symbolic links"),
        ("n/no-dereference", "a name that is a link to a directory is replaced"),
        ("P/physical", "make hard links to symbolic links themselves (default)"),
        ("r/relative", "make symbolic links relative to where they lie"),
        ("s/symbolic", "make symbolic links"),
        ("S/suffix=", "suffix of backups"),
        ("t/target-directory=", "make links in this directory"),
        ("T/no-target-directory", "the name is a file"),
        ("v/verbose", "say what is done"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: ln,
};

pub(crate) const LINK: Tool =
    Tool { name: "link", usage: "FILE1 FILE2", options: &[], order: Order::Anywhere, misuse: 1, main: link };

fn mode(context: &Context, parsed: &Parsed) -> Option<Mode> {
    parsed.value("mode").map(|text| {
        Mode::parse(text).unwrap_or_else(|| context.die(1, format!("invalid mode {}", quote::always(text))))
    })
}

fn mkdir(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let mode = mode(context, &parsed);
    let umask = context.umask();
    let say = |path: &[u8]| {
        if parsed.has("verbose") {
            let line = format!("mkdir: created directory {}\n", quote::always(path));
            context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
        }
    };
    for operand in &parsed.operands {
        let mut made = true;
        if parsed.has("parents") {
            let mut at: Vec<u8> = if operand.starts_with(b"/") { b"/".to_vec() } else { Vec::new() };
            let names: Vec<&[u8]> =
                operand.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
            for (index, name) in names.iter().enumerate() {
                at = if at.is_empty() { name.to_vec() } else { join(&at, name) };
                let last = index + 1 == names.len();
                made = match file::mkdir(&at, 0o777) {
                    Ok(()) => {
                        // Those above are always passable for their owner.
                        if !last && umask & 0o300 != 0 {
                            let _ = file::chmod(&at, 0o777 & !umask | 0o300);
                        }
                        say(&at);
                        true
                    }
                    Err(_) if file::stat(&at).is_ok_and(|stat| stat.is_directory()) => false,
                    Err(reason) => {
                        let reason = if last || reason != errno::EEXIST { reason } else { errno::ENOTDIR };
                        context.fail(format!("cannot create directory {}: {reason}", quote::always(&at)));
                        made = false;
                        break;
                    }
                };
            }
        } else if let Err(reason) = file::mkdir(operand, 0o777) {
            context.fail(format!("cannot create directory {}: {reason}", quote::always(operand)));
            continue;
        } else {
            say(operand);
        }
        if let Some(mode) = mode.as_ref().filter(|_| made) {
            let bits = mode.apply(0o777, true, umask);
            if let Err(reason) = file::chmod(operand, bits) {
                context.fail(format!("cannot set permissions of {}: {reason}", quote::always(operand)));
            }
        }
    }
    context.status()
}

fn node_mode(context: &Context, parsed: &Parsed) -> u32 {
    let umask = context.umask();
    match mode(context, parsed) {
        Some(mode) => {
            let bits = mode.apply(0o666, false, umask);
            if bits & !0o777 != 0 {
                context.die(1, "mode must specify only file permission bits");
            }
            let _ = process::umask(0);
            bits
        }
        None => 0o666,
    }
}

fn mkfifo(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let bits = node_mode(context, &parsed);
    for operand in &parsed.operands {
        if let Err(reason) = file::mknod(operand, 0o010_000 | bits, 0) {
            context.fail(format!("cannot create fifo {}: {reason}", quote::always(operand)));
        }
    }
    context.status()
}

fn mknod(context: &Context, parsed: Parsed) -> i32 {
    let bits = node_mode(context, &parsed);
    let operands = &parsed.operands;
    let name = match &operands[..] {
        [] => context.missing_operand(),
        [name] => context.misused(format!("missing operand after {}", quote::always(name))),
        [name, ..] => name,
    };
    let (kind, wanted) = match &operands[1][..] {
        b"p" => (0o010_000, 2),
        b"b" => (0o060_000, 4),
        b"c" | b"u" => (0o020_000, 4),
        other => context.misused(format!("invalid device type {}", quote::always(other))),
    };
    if operands.len() > wanted {
        context.extra_operand(&operands[wanted]);
    }
    if operands.len() < wanted {
        context.misused(format!(
            "missing operand after {}\nSpecial files require major and minor device numbers.",
            quote::always(&operands[operands.len() - 1])
        ));
    }
    let number = |text: &[u8], what: &str| -> u64 {
        let text = String::from_utf8_lossy(text);
        let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(&text, 8),
            None => text.parse(),
        };
        let wrong =
            |_| context.die(1, format!("invalid {what} device number {}", quote::always(text.as_bytes())));
        parsed.unwrap_or_else(wrong).into()
    };
    let device = match &operands[2..] {
        [major, minor] => file::make_device(number(major, "major"), number(minor, "minor")),
        _ => 0,
    };
    if let Err(reason) = file::mknod(name, kind | bits, device) {
        context.fail(format!("{}: {reason}", quote::if_needed(name)));
    }
    context.status()
}

fn mktemp(context: &Context, parsed: Parsed) -> i32 {
    let complain = |message: String| -> ! {
        if parsed.has("quiet") {
            std::process::exit(1);
        }
        context.die(1, message)
    };
    let (template, default) = match &parsed.operands[..] {
        [] => (b"tmp.XXXXXXXXXX".to_vec(), true),
        [template] => (template.clone(), false),
        _ => context.misused("too many templates"),
    };
    let (body, suffix) = match parsed.value("suffix") {
        Some(suffix) if template.ends_with(b"X") => (template.clone(), suffix.to_vec()),
        Some(_) => complain(format!("with --suffix, template {} must end in X", quote::always(&template))),
        None => {
            let end = template.iter().rposition(|&byte| byte == b'X').map_or(0, |at| at + 1);
            (template[..end].to_vec(), template[end..].to_vec())
        }
    };
    if suffix.contains(&b'/') {
        complain(format!("invalid suffix {}, contains directory separator", quote::always(&suffix)));
    }
    let count = body.iter().rev().take_while(|&&byte| byte == b'X').count();
    if count < 3 {
        complain(format!("too few X's in template {}", quote::always(&template)));
    }
    let environment =
        std::env::var_os("TMPDIR").map(|path| path.into_encoded_bytes()).filter(|path| !path.is_empty());
    let given = parsed
        .value("p")
        .or_else(|| parsed.value("tmpdir"))
        .filter(|path| !path.is_empty())
        .map(<[u8]>::to_vec);
    let uses_directory = default || parsed.has("p") || parsed.has("tmpdir") || parsed.has("t");
    let directory = if parsed.has("t") {
        if body.contains(&b'/') {
            complain(format!("invalid template, {}, contains directory separator", quote::always(&template)));
        }
        environment.or(given)
    } else {
        given.or(environment)
    };
    let directory = uses_directory.then(|| directory.unwrap_or_else(|| b"/tmp".to_vec()));
    if directory.is_some() && !parsed.has("t") && body.starts_with(b"/") {
        complain(format!(
            "invalid template, {}; with --tmpdir, it may not be absolute",
            quote::always(&template)
        ));
    }
    let prefix = &body[..body.len() - count];
    let kind = if parsed.has("directory") { "directory" } else { "file" };
    // As many tries as make a collision a sign of something else.
    for _ in 0..10_000 {
        let mut random = vec![0u8; count];
        if let Err(reason) = process::random(&mut random) {
            complain(reason.to_string());
        }
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let name: Vec<u8> = random.iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]).collect();
        let name = [prefix, &name, &suffix].concat();
        let path = directory.as_ref().map_or_else(|| name.clone(), |directory| join(directory, &name));
        let made = if parsed.has("dry-run") {
            match file::lstat(&path) {
                Ok(_) => Err(errno::EEXIST),
                Err(_) => Ok(()),
            }
        } else if parsed.has("directory") {
            file::mkdir(&path, 0o700)
        } else {
            file::open(&path, open::RDWR | open::CREAT | open::EXCL, 0o600).map(drop)
        };
        match made {
            Ok(()) => {
                let line = [&path[..], b"\n"].concat();
                context.check_write(Descriptor::keep(1).write_all(&line));
                return 0;
            }
            Err(errno::EEXIST) => {}
            Err(reason) => {
                let shown = directory
                    .as_ref()
                    .map_or_else(|| template.clone(), |directory| join(directory, &template));
                complain(format!("failed to create {kind} via template {}: {reason}", quote::always(&shown)));
            }
        }
    }
    complain(format!("failed to create {kind} via template {}: {}", quote::always(&template), errno::EEXIST))
}

fn link(context: &Context, parsed: Parsed) -> i32 {
    match &parsed.operands[..] {
        [] => context.missing_operand(),
        [one] => context.misused(format!("missing operand after {}", quote::always(one))),
        [old, new] => {
            if let Err(reason) = file::link(old, new, 0) {
                context.fail(format!(
                    "cannot create link {} to {}: {reason}",
                    quote::always(new),
                    quote::always(old)
                ));
            }
        }
        [_, _, extra, ..] => context.extra_operand(extra),
    }
    context.status()
}

fn ln(context: &Context, parsed: Parsed) -> i32 {
    let mut targets = parsed.operands.clone();
    if targets.is_empty() {
        context.misused("missing file operand");
    }
    let symbolic = parsed.has("symbolic");
    if parsed.has("relative") && !symbolic {
        context.die(1, "cannot do --relative without --symbolic");
    }
    let flat = parsed.has("no-target-directory");
    let leads_in = |path: &[u8]| {
        let link = file::lstat(path).is_ok_and(|stat| stat.is_symlink());
        !(link && parsed.has("no-dereference")) && file::stat(path).is_ok_and(|stat| stat.is_directory())
    };
    let (into, name) = match parsed.value("target-directory") {
        Some(directory) => {
            if !file::stat(directory).is_ok_and(|stat| stat.is_directory()) {
                let reason = file::stat(directory).map_or_else(|reason| reason, |_| errno::ENOTDIR);
                context.die(1, format!("target {}: {reason}", quote::always(directory)));
            }
            (true, directory.to_vec())
        }
        None if targets.len() == 1 && flat => {
            context.misused(format!("missing destination file operand after {}", quote::always(&targets[0])))
        }
        None if targets.len() == 1 => (true, b".".to_vec()),
        None => {
            let name = targets.pop().unwrap_or_default();
            if flat && targets.len() > 1 {
                context.extra_operand(&name);
            }
            let into = !flat && leads_in(&name);
            if targets.len() > 1 && !into {
                let reason = file::stat(&name).map_or_else(|reason| reason, |_| errno::ENOTDIR);
                context.die(1, format!("target {}: {reason}", quote::always(&name)));
            }
            (into, name)
        }
    };
    let bare = parsed.operands.len() == 1 && !parsed.has("target-directory");
    for target in targets {
        let path = match (into, bare) {
            (true, true) => base_name(&target).to_vec(),
            (true, false) => join(&name, base_name(&target)),
            (false, _) => name.clone(),
        };
        make_link(context, &parsed, symbolic, &target, &path);
    }
    context.status()
}

fn make_link(context: &Context, parsed: &Parsed, symbolic: bool, target: &[u8], path: &[u8]) {
    let (to, at) = (quote::always(target), quote::always(path));
    let flags = if parsed.last(&["logical", "physical"]) == Some("logical") { AT_SYMLINK_FOLLOW } else { 0 };
    if !symbolic {
        let found = if flags == 0 { file::lstat(target) } else { file::stat(target) };
        match found {
            Ok(stat) if stat.is_directory() => {
                context.fail(format!("{}: hard link not allowed for directory", quote::if_needed(target)));
                return;
            }
            Ok(_) => {}
            Err(reason) => {
                context.fail(format!("failed to access {to}: {reason}"));
                return;
            }
        }
    }
    let text = if parsed.has("relative") {
        let directory = canonical(directory_name(path), Presence::Any, true);
        let resolved = canonical(target, Presence::Any, true);
        match (directory, resolved) {
            (Ok(directory), Ok(resolved)) => relative(&resolved, &directory),
            _ => target.to_vec(),
        }
    } else {
        target.to_vec()
    };
    let backs_up = parsed.has("b") || parsed.has("suffix");
    let mut backup = String::new();
    if let Ok(existing) = file::lstat(path) {
        if existing.is_directory() {
            context.fail(format!("{at}: cannot overwrite directory"));
            return;
        }
        let same = !symbolic && file::lstat(target).is_ok_and(|stat| stat.identity() == existing.identity());
        let replaces = match parsed.last(&["force", "interactive"]) {
            Some("interactive") => {
                if !agrees(context, &format!("replace {at}? ")) {
                    return;
                }
                true
            }
            other => other.is_some(),
        };
        if same && (replaces || backs_up) && path == target {
            context.fail(format!("{to} and {at} are the same file"));
            return;
        }
        let gone = if backs_up {
            let name = [path, parsed.value("suffix").unwrap_or(b"~")].concat();
            backup = format!("{} ~ ", quote::always(&name));
            file::rename(path, &name)
        } else if replaces {
            file::unlink(path)
        } else {
            Ok(())
        };
        if let Err(reason) = gone {
            context.fail(format!("cannot remove {at}: {reason}"));
            return;
        }
    }
    let made = if symbolic { file::symlink(&text, path) } else { file::link(target, path, flags) };
    match made {
        Ok(()) if parsed.has("verbose") => {
            let arrow = if symbolic { "->" } else { "=>" };
            let line = format!("{backup}{at} {arrow} {}\n", quote::always(&text));
            context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
        }
        Ok(()) => {}
        Err(reason) if symbolic => context.fail(format!("failed to create symbolic link {at}: {reason}")),
        Err(errno::EEXIST) => context.fail(format!("failed to create hard link {at}: {}", errno::EEXIST)),
        Err(reason) => context.fail(format!("failed to create hard link {at} => {to}: {reason}")),
    }
}
