//! `rm`, `rmdir`, `unlink`.

use std::io::{BufRead, BufReader, Write};

use toolbox_command::{Context, Order, Parsed, Tool, is_missing, quote};
use toolbox_linux::file::{self, Descriptor, Kind, Stat};
use toolbox_linux::{Errno, errno, process};

pub(crate) const RM: Tool = Tool {
    name: "rm",
    usage: "[OPTION]... [FILE]...",
    options: &[
        ("f/force", "ignore missing files, never ask"),
        ("i", "ask before every removal"),
        ("I", "ask once before removing more than three files or a tree"),
        ("/interactive?", "ask: never, once or always"),
        ("r/recursive", "remove directories and what is in them"),
        ("R", "as -r"),
        ("d/dir", "remove empty directories"),
        ("v/verbose", "say what is done"),
        ("/one-file-system", "stay on the file system of each operand"),
        ("/preserve-root?", "do not remove / (default)"),
        ("/no-preserve-root", "treat / as any other"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: rm,
};

pub(crate) const RMDIR: Tool = Tool {
    name: "rmdir",
    usage: "[OPTION]... DIRECTORY...",
    options: &[
        ("p/parents", "remove its ancestors too"),
        ("v/verbose", "say what is done"),
        ("/ignore-fail-on-non-empty", "a directory that is not empty is no failure"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: rmdir,
};

pub(crate) const UNLINK: Tool =
    Tool { name: "unlink", usage: "FILE", options: &[], order: Order::Anywhere, misuse: 1, main: unlink };

/// Reads an answer; yes begins with a y.
pub(crate) fn agrees(context: &Context, question: &str) -> bool {
    let _ = Descriptor::keep(2).write_all(format!("{}: {question}", context.name).as_bytes());
    // Unbuffered by a line at most: what follows belongs to the next question.
    let mut answer = Vec::new();
    let _ = BufReader::with_capacity(1, Descriptor::keep(0)).read_until(b'\n', &mut answer);
    matches!(answer.first(), Some(b'y' | b'Y'))
}

/// What a file is called in a question or by `stat`.
pub(crate) fn describe(stat: &Stat) -> &'static str {
    match stat.kind() {
        Kind::Regular if stat.size == 0 => "regular empty file",
        Kind::Regular => "regular file",
        Kind::Directory => "directory",
        Kind::Symlink => "symbolic link",
        Kind::Block => "block special file",
        Kind::Character => "character special file",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Unknown => "weird file",
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Never,
    Sometimes,
    Always,
}

struct Removal<'a> {
    context: &'a Context,
    ask: Ask,
    force: bool,
    recursive: bool,
    directories: bool,
    verbose: bool,
    one_device: bool,
    terminal: bool,
}

fn rm(context: &Context, parsed: Parsed) -> i32 {
    let (mut ask, mut once, mut force) = (Ask::Sometimes, false, false);
    for (option, value) in &parsed.options {
        let how = match (*option, value.as_deref()) {
            ("force", _) => "never",
            ("i", _) | ("interactive", None) => "always",
            ("I", _) => "once",
            ("interactive", Some(b"never" | b"no" | b"none")) => "never",
            ("interactive", Some(b"once")) => "once",
            ("interactive", Some(b"always" | b"yes")) => "always",
            ("interactive", Some(other)) => {
                context.misused(format!("invalid argument {} for '--interactive'", quote::always(other)))
            }
            _ => continue,
        };
        (ask, once) = match how {
            "always" => (Ask::Always, false),
            "once" => (Ask::Sometimes, true),
            _ => (if *option == "force" { Ask::Never } else { Ask::Sometimes }, false),
        };
        force = *option == "force";
    }
    if parsed.operands.is_empty() {
        if force {
            return 0;
        }
        context.missing_operand();
    }
    if let Some(value) = parsed.value("preserve-root") {
        context.die(1, format!("--preserve-root={} is not supported", String::from_utf8_lossy(value)));
    }
    let removal = Removal {
        context,
        ask,
        force,
        recursive: parsed.has("recursive") || parsed.has("R"),
        directories: parsed.has("dir"),
        verbose: parsed.has("verbose"),
        one_device: parsed.has("one-file-system"),
        terminal: process::is_terminal(0),
    };
    if once && (removal.recursive || parsed.operands.len() > 3) {
        let count = parsed.operands.len();
        let plural = if count == 1 { "" } else { "s" };
        let how = if removal.recursive { " recursively" } else { "" };
        if !agrees(context, &format!("remove {count} argument{plural}{how}? ")) {
            return 0;
        }
    }
    let root = file::lstat(b"/").map(|stat| stat.identity()).ok();
    let keeps_root = parsed.last(&["preserve-root", "no-preserve-root"]) != Some("no-preserve-root");
    for operand in &parsed.operands {
        let name = operand.strip_suffix(b"/").unwrap_or(operand);
        let last = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if matches!(last, b"." | b"..") {
            context.fail(format!(
                "refusing to remove '.' or '..' directory: skipping {}",
                quote::always(operand)
            ));
            continue;
        }
        match file::lstat(operand) {
            Ok(stat) if removal.recursive && keeps_root && Some(stat.identity()) == root => {
                context.fail("it is dangerous to operate recursively on '/'");
                context.warn("use --no-preserve-root to override this failsafe");
            }
            Ok(stat) => {
                removal.remove(operand, &stat, stat.device);
            }
            Err(missing) if force && is_missing(missing) => {}
            Err(reason) => removal.fail(operand, reason),
        }
    }
    context.status()
}

impl Removal<'_> {
    fn fail(&self, path: &[u8], reason: Errno) {
        self.context.fail(format!("cannot remove {}: {reason}", quote::always(path)));
    }

    /// Removes a file or a tree; `false` if something of it stays.
    fn remove(&self, path: &[u8], stat: &Stat, device: u64) -> bool {
        if !stat.is_directory() {
            return self.allowed("remove", path, stat) && self.finish(path, file::unlink(path), "removed");
        }
        if !self.recursive && !self.directories {
            self.fail(path, errno::EISDIR);
            return false;
        }
        if self.one_device && stat.device != device {
            self.context.fail(format!("skipping {}, since it's on a different device", quote::always(path)));
            return false;
        }
        if self.recursive {
            match file::read_directory(path) {
                Ok(entries) => {
                    if !entries.is_empty() && !self.allowed("descend into", path, stat) {
                        return false;
                    }
                    let all = entries.into_iter().fold(true, |all, entry| {
                        let child = super::path::join(path, &entry.name);
                        let gone = match file::lstat(&child) {
                            Ok(stat) => self.remove(&child, &stat, device),
                            Err(errno::ENOENT) => true,
                            Err(reason) => {
                                self.fail(&child, reason);
                                false
                            }
                        };
                        all && gone
                    });
                    if !all {
                        return false;
                    }
                }
                // An empty directory that cannot be read can still be removed.
                Err(reason) if file::rmdir(path).is_err() => {
                    self.fail(path, reason);
                    return false;
                }
                Err(_) => return true,
            }
        }
        self.allowed("remove", path, stat) && self.finish(path, file::rmdir(path), "removed directory")
    }

    fn allowed(&self, what: &str, path: &[u8], stat: &Stat) -> bool {
        let protected = self.ask == Ask::Sometimes
            && self.terminal
            && !stat.is_symlink()
            && file::access(path, 2) == Err(errno::EACCES);
        if self.ask != Ask::Always && !protected {
            return true;
        }
        let shown = quote::always(path);
        let guard = if protected { "write-protected " } else { "" };
        let question = match what {
            "remove" => format!("remove {guard}{} {shown}? ", describe(stat)),
            _ => format!("{what} {guard}directory {shown}? "),
        };
        agrees(self.context, &question)
    }

    fn finish(&self, path: &[u8], result: toolbox_linux::Result<()>, verb: &str) -> bool {
        match result {
            Ok(()) if self.verbose => {
                let line = format!("{verb} {}\n", quote::always(path));
                self.context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
                true
            }
            Ok(()) => true,
            Err(missing) if self.force && is_missing(missing) => true,
            Err(reason) => {
                self.fail(path, reason);
                false
            }
        }
    }
}

fn rmdir(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let (verbose, lenient) = (parsed.has("verbose"), parsed.has("ignore-fail-on-non-empty"));
    let mut output = context.output();
    let mut remove = |path: &[u8], parent: bool| -> bool {
        if verbose {
            context.check_write(writeln!(output, "rmdir: removing directory, {}", quote::always(path)));
        }
        match file::rmdir(path) {
            Ok(()) => true,
            Err(errno::ENOTEMPTY | errno::EEXIST) if lenient => false,
            Err(reason) => {
                let what = if parent { "directory " } else { "" };
                context.fail(format!("failed to remove {what}{}: {reason}", quote::always(path)));
                false
            }
        }
    };
    for operand in &parsed.operands {
        let mut path = &operand[..];
        let mut gone = remove(path, false);
        while gone && parsed.has("parents") {
            while let Some(shorter) = path.strip_suffix(b"/") {
                path = shorter;
            }
            let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else { break };
            path = &path[..slash];
            while let Some(shorter) = path.strip_suffix(b"/") {
                path = shorter;
            }
            if path.is_empty() {
                break;
            }
            gone = remove(path, true);
        }
    }
    context.finish(output)
}

fn unlink(context: &Context, parsed: Parsed) -> i32 {
    match &parsed.operands[..] {
        [] => context.missing_operand(),
        [path] => {
            if let Err(reason) = file::unlink(path) {
                context.fail(format!("cannot unlink {}: {reason}", quote::always(path)));
            }
        }
        [_, extra, ..] => context.extra_operand(extra),
    }
    context.status()
}
