//! `cp`, `mv`, `install`: one way of copying a tree, with what of a file is kept.

use std::collections::HashMap;
use std::io::Write;

use toolbox_command::mode::Mode;
use toolbox_command::owner::Owners;
use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, AT_SYMLINK_NOFOLLOW, Descriptor, Kind, Stat, open};
use toolbox_linux::{Result, errno};

use crate::path::{base_name, directory_name, join};
use crate::remove::agrees;

pub(crate) const CP: Tool = Tool {
    name: "cp",
    usage: "[OPTION]... SOURCE... DEST",
    options: &[
        ("a/archive", "as -dR --preserve=all"),
        ("/attributes-only", "copy no data, only attributes"),
        ("b", "keep a backup of what is replaced"),
        ("/backup?", "keep a backup: none, simple, numbered or existing"),
        ("/copy-contents", "copy the contents of special files"),
        ("d", "as --no-dereference --preserve=links"),
        ("f/force", "remove a destination that cannot be opened"),
        ("i/interactive", "ask before a file is replaced"),
        ("H", "follow links among the operands"),
        ("l/link", "link instead of copying"),
        ("L/dereference", "follow all links"),
        ("n/no-clobber", "replace nothing"),
        ("P/no-dereference", "follow no link"),
        ("p", "as --preserve=mode,ownership,timestamps"),
        ("/preserve?", "keep: mode, ownership, timestamps, links, xattr, context, all"),
        ("/no-preserve=", "do not keep these"),
        ("/parents", "keep the directories of the source's name"),
        ("R/recursive", "copy directories"),
        ("r", "as -R"),
        ("/remove-destination", "remove each destination first"),
        ("/reflink?", "share data: auto or never"),
        ("/sparse=", "holes: auto or never"),
        ("/strip-trailing-slashes", "take slashes off the ends of sources"),
        ("s/symbolic-link", "make symbolic links instead of copying"),
        ("S/suffix=", "suffix of backups"),
        ("t/target-directory=", "copy into this directory"),
        ("T/no-target-directory", "the destination is a file"),
        ("u/update", "only what is newer than its destination"),
        ("v/verbose", "say what is done"),
        ("x/one-file-system", "stay on this file system"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: cp,
};

pub(crate) const MV: Tool = Tool {
    name: "mv",
    usage: "[OPTION]... SOURCE... DEST",
    options: &[
        ("b", "keep a backup of what is replaced"),
        ("/backup?", "keep a backup: none, simple, numbered or existing"),
        ("f/force", "do not ask"),
        ("i/interactive", "ask before a file is replaced"),
        ("n/no-clobber", "replace nothing"),
        ("/strip-trailing-slashes", "take slashes off the ends of sources"),
        ("S/suffix=", "suffix of backups"),
        ("t/target-directory=", "move into this directory"),
        ("T/no-target-directory", "the destination is a file"),
        ("u/update", "only what is newer than its destination"),
        ("v/verbose", "say what is done"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: mv,
};

pub(crate) const INSTALL: Tool = Tool {
    name: "install",
    usage: "[OPTION]... SOURCE... DEST, or -d DIRECTORY...",
    options: &[
        ("b", "keep a backup of what is replaced"),
        ("/backup?", "keep a backup: none, simple, numbered or existing"),
        ("c", "no effect, for old callers"),
        ("C/compare", "leave a destination that is the same"),
        ("d/directory", "make directories"),
        ("D", "make the directories above the destination"),
        ("g/group=", "group of the result"),
        ("m/mode=", "mode of the result instead of rwxr-xr-x"),
        ("o/owner=", "owner of the result"),
        ("p/preserve-timestamps", "keep times"),
        ("S/suffix=", "suffix of backups"),
        ("t/target-directory=", "install into this directory"),
        ("T/no-target-directory", "the destination is a file"),
        ("v/verbose", "say what is done"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: install,
};

/// Whether links are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    All,
    Operands,
    None,
}

/// What there is instead of a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Copy,
    Link,
    Symlink,
    Attributes,
}

/// What of a file is kept.
#[derive(Clone, Copy, Default)]
struct Keep {
    mode: bool,
    owner: bool,
    times: bool,
    links: bool,
    attributes: bool,
    /// `--no-preserve=mode`: as if newly made.
    fresh_mode: bool,
    /// A failure to keep extended attributes counts.
    strict: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backup {
    None,
    Simple,
    Numbered,
    Existing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replace {
    Yes,
    Ask,
    No,
}

struct Copier<'a> {
    context: &'a Context,
    follow: Follow,
    how: How,
    keep: Keep,
    backup: Backup,
    suffix: Vec<u8>,
    replace: Replace,
    force: bool,
    remove_first: bool,
    recursive: bool,
    contents: bool,
    update: bool,
    verbose: bool,
    one_device: bool,
    /// Where the first name of a file with several links went.
    seen: HashMap<(u64, u64), Vec<u8>>,
    /// Destinations made in this run, which a second source must not replace.
    made: HashMap<(u64, u64), ()>,
}

fn backup(context: &Context, parsed: &Parsed) -> (Backup, Vec<u8>) {
    let environment = |name: &str| std::env::var_os(name).map(|value| value.into_encoded_bytes());
    let suffix = parsed.value("suffix").map(<[u8]>::to_vec);
    let wanted = parsed.has("b") || parsed.has("backup") || suffix.is_some();
    let control = parsed.value("backup").map(<[u8]>::to_vec).or_else(|| environment("VERSION_CONTROL"));
    let kind = match control.as_deref() {
        _ if !wanted => Backup::None,
        Some(b"none" | b"off") => Backup::None,
        Some(b"simple" | b"never") => Backup::Simple,
        Some(b"numbered" | b"t") => Backup::Numbered,
        Some(b"existing" | b"nil") | None => Backup::Existing,
        Some(other) => {
            context.misused(format!("invalid argument {} for 'backup type'", quote::always(other)))
        }
    };
    (kind, suffix.or_else(|| environment("SIMPLE_BACKUP_SUFFIX")).unwrap_or_else(|| b"~".to_vec()))
}

/// Sources, the destination, and whether it is a directory that the sources go into.
fn operands(context: &Context, parsed: &Parsed) -> (Vec<Vec<u8>>, Vec<u8>, bool) {
    let mut sources = parsed.operands.clone();
    if parsed.has("strip-trailing-slashes") {
        for source in &mut sources {
            while source.len() > 1 && source.ends_with(b"/") {
                source.pop();
            }
        }
    }
    let into = parsed.value("target-directory").map(<[u8]>::to_vec);
    let flat = parsed.has("no-target-directory");
    if sources.is_empty() {
        context.misused("missing file operand");
    }
    if let Some(directory) = into {
        if flat {
            context.die(1, "cannot combine --target-directory (-t) and --no-target-directory (-T)");
        }
        match file::stat(&directory) {
            Ok(stat) if stat.is_directory() => {}
            Ok(_) => {
                context.die(1, format!("target directory {}: Not a directory", quote::always(&directory)))
            }
            Err(reason) => {
                let verb = if context.name == "install" { "failed to access" } else { "target directory" };
                context.die(1, format!("{verb} {}: {reason}", quote::always(&directory)));
            }
        }
        return (sources, directory, true);
    }
    if sources.len() == 1 {
        context.misused(format!("missing destination file operand after {}", quote::always(&sources[0])));
    }
    let destination = sources.pop().unwrap_or_default();
    if flat {
        if sources.len() > 1 {
            context.extra_operand(&destination);
        }
        return (sources, destination, false);
    }
    let is_directory = file::stat(&destination).is_ok_and(|stat| stat.is_directory());
    if sources.len() > 1 && !is_directory {
        let reason = match file::stat(&destination) {
            Ok(_) => errno::ENOTDIR,
            Err(reason) => reason,
        };
        context.die(1, format!("target {}: {reason}", quote::always(&destination)));
    }
    (sources, destination, is_directory)
}

fn preserve(context: &Context, list: &[u8], keep: &mut Keep, on: bool) {
    for word in list.split(|&byte| byte == b',') {
        match word {
            b"mode" => (keep.mode, keep.fresh_mode) = (on, !on),
            b"ownership" => keep.owner = on,
            b"timestamps" => keep.times = on,
            b"links" => keep.links = on,
            b"xattr" => (keep.attributes, keep.strict) = (on, on),
            b"all" => {
                *keep = if on {
                    Keep { mode: true, owner: true, times: true, links: true, attributes: true, ..*keep }
                } else {
                    Keep { fresh_mode: true, ..Keep::default() }
                };
            }
            // Without a security module there is no context to lose.
            b"context" if !on => {}
            b"context" => context.die(1, "cannot preserve security context: there is none"),
            other => {
                let option = if on { "--preserve" } else { "--no-preserve" };
                context.misused(format!("invalid argument {} for '{option}'", quote::always(other)));
            }
        }
    }
}

fn cp(context: &Context, parsed: Parsed) -> i32 {
    let mut keep = Keep::default();
    let (mut follow, mut replace) = (None, Replace::Yes);
    for (option, value) in &parsed.options {
        let list = value.as_deref();
        match *option {
            "archive" => {
                preserve(context, b"all", &mut keep, true);
                follow = Some(Follow::None);
            }
            "d" => {
                keep.links = true;
                follow = Some(Follow::None);
            }
            "p" => preserve(context, b"mode,ownership,timestamps", &mut keep, true),
            "preserve" => preserve(context, list.unwrap_or(b"mode,ownership,timestamps"), &mut keep, true),
            "no-preserve" => preserve(context, list.unwrap_or_default(), &mut keep, false),
            "dereference" => follow = Some(Follow::All),
            "no-dereference" => follow = Some(Follow::None),
            "H" => follow = Some(Follow::Operands),
            "interactive" => replace = Replace::Ask,
            "no-clobber" => replace = Replace::No,
            "reflink" if !matches!(list, Some(b"auto" | b"never")) => {
                context.die(1, "data cannot be shared here: --reflink=always is not supported");
            }
            "sparse" if !matches!(list, Some(b"auto" | b"never")) => {
                context.die(1, "--sparse=always is not supported");
            }
            _ => {}
        }
    }
    let recursive = parsed.has("recursive") || parsed.has("r") || parsed.has("archive");
    let how = match parsed.last(&["link", "symbolic-link", "attributes-only"]) {
        Some("link") => How::Link,
        Some("symbolic-link") => How::Symlink,
        Some(_) => How::Attributes,
        None => How::Copy,
    };
    let (backup, suffix) = backup(context, &parsed);
    let mut copier = Copier {
        context,
        follow: follow.unwrap_or(if recursive || how == How::Link { Follow::None } else { Follow::All }),
        how,
        keep,
        backup,
        suffix,
        replace,
        force: parsed.has("force"),
        remove_first: parsed.has("remove-destination"),
        recursive,
        contents: parsed.has("copy-contents"),
        update: parsed.has("update"),
        verbose: parsed.has("verbose"),
        one_device: parsed.has("one-file-system"),
        seen: HashMap::new(),
        made: HashMap::new(),
    };
    let (sources, destination, into) = operands(context, &parsed);
    if parsed.has("parents") && !into {
        context.misused("with --parents, the destination must be a directory");
    }
    for source in sources {
        let target = match (into, parsed.has("parents")) {
            (false, _) => destination.clone(),
            (true, false) => into_directory(&destination, &source),
            (true, true) => match copier.parents(&source, &destination) {
                Some(target) => target,
                None => continue,
            },
        };
        copier.operand(&source, &target);
    }
    context.status()
}

fn into_directory(directory: &[u8], source: &[u8]) -> Vec<u8> {
    match base_name(source) {
        // `cp -r dir/.. dest` and `cp -r . dest` copy into the directory itself.
        b"." | b".." | b"/" => join(directory, b"."),
        name => join(directory, name),
    }
}

impl Copier<'_> {
    fn say(&self, line: &str) {
        if self.verbose {
            self.context.check_write(Descriptor::keep(1).write_all(format!("{line}\n").as_bytes()));
        }
    }

    /// `--parents`: makes the source's directories below the destination.
    fn parents(&mut self, source: &[u8], destination: &[u8]) -> Option<Vec<u8>> {
        let mut made = destination.to_vec();
        let mut read = if source.starts_with(b"/") { b"/".to_vec() } else { Vec::new() };
        let parents = directory_name(source);
        for name in parents.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            read = if read.is_empty() { name.to_vec() } else { join(&read, name) };
            made = join(&made, name);
            let stat = file::stat(&read).ok()?;
            if file::stat(&made).is_err() {
                if let Err(reason) = file::mkdir(&made, stat.mode & 0o7777) {
                    self.context.fail(format!("cannot make directory {}: {reason}", quote::always(&made)));
                    return None;
                }
                self.say(&format!(
                    "{} -> {}",
                    String::from_utf8_lossy(&read),
                    String::from_utf8_lossy(&made)
                ));
                if self.keep.mode || self.keep.owner || self.keep.times {
                    self.attributes(&made, &read, &stat);
                }
            }
        }
        Some(join(&made, base_name(source)))
    }

    fn operand(&mut self, source: &[u8], target: &[u8]) {
        let followed = self.follow != Follow::None;
        let stat = match if followed { file::stat(source) } else { file::lstat(source) } {
            Ok(stat) => stat,
            Err(reason) => {
                self.context.fail(format!("cannot stat {}: {reason}", quote::always(source)));
                return;
            }
        };
        if stat.is_directory() && !self.recursive {
            self.context.fail(format!("-r not specified; omitting directory {}", quote::always(source)));
            return;
        }
        self.copy(source, target, &stat, stat.device, true);
    }

    /// Copies a file or a tree.
    fn copy(&mut self, source: &[u8], target: &[u8], stat: &Stat, device: u64, operand: bool) {
        if stat.is_directory() {
            self.directory(source, target, stat, device);
            return;
        }
        let shown = || (quote::always(source), quote::always(target));
        let links = stat.is_symlink();
        let nofollow = links || self.how != How::Copy || self.remove_first || self.backup != Backup::None;
        let there =
            if nofollow { file::lstat(target) } else { file::stat(target).or_else(|_| file::lstat(target)) };
        if operand && target.ends_with(b"/") && there.is_err() {
            self.context.fail(format!("cannot create regular file {}: Not a directory", shown().1));
            return;
        }
        if let Ok(existing) = there {
            if existing.is_directory() {
                let (from, to) = shown();
                self.context.fail(format!("cannot overwrite directory {to} with non-directory {from}"));
                return;
            }
            let same = existing.identity() == stat.identity()
                && (file::lstat(target).is_ok_and(|at| !at.is_symlink()) || !nofollow);
            if same && self.how == How::Link {
                return;
            }
            let saved = self.force && self.backup != Backup::None || self.remove_first;
            if same && (source == target || !saved && !links) {
                self.context.fail(format!("{} and {} are the same file", shown().0, shown().1));
                return;
            }
            if self.made.contains_key(&existing.identity()) && self.backup != Backup::Numbered {
                let (from, to) = shown();
                self.context.fail(format!("will not overwrite just-created {to} with {from}"));
                return;
            }
            if self.update && existing.modified >= stat.modified {
                return;
            }
            match self.replace {
                Replace::No => return,
                Replace::Ask if !agrees(self.context, &format!("overwrite {}? ", shown().1)) => return,
                _ => {}
            }
            if !self.make_way(
                target,
                links
                    || self.remove_first
                    || self.how == How::Link
                    || (self.how == How::Symlink && self.force),
            ) {
                return;
            }
        }
        if self.keep.links && stat.links > 1 && self.how == How::Copy {
            if let Some(first) = self.seen.get(&stat.identity()) {
                let _ = file::unlink(target);
                if let Err(reason) = file::link(first, target, 0) {
                    let first = quote::always(first);
                    self.context.fail(format!("cannot create hard link {} to {first}: {reason}", shown().1));
                }
                return;
            }
            self.seen.insert(stat.identity(), target.to_vec());
        }
        self.say(&format!("{} -> {}", shown().0, shown().1));
        let made = match self.how {
            How::Link => file::link(
                source,
                target,
                if self.follow == Follow::None { 0 } else { file::AT_SYMLINK_FOLLOW },
            )
            .map_err(|reason| format!("cannot create hard link {} to {}: {reason}", shown().1, shown().0)),
            How::Symlink => {
                let relative = !source.starts_with(b"/") && directory_name(target) != b".";
                if relative {
                    self.context.fail(format!(
                        "{}: can make relative symbolic links only in current directory",
                        quote::if_needed(target)
                    ));
                    return;
                }
                file::symlink(source, target).map_err(|reason| {
                    format!("cannot create symbolic link {} to {}: {reason}", shown().1, shown().0)
                })
            }
            _ => self.contents(source, target, stat),
        };
        if let Err(message) = made {
            self.context.fail(message);
            return;
        }
        if operand && let Ok(stat) = file::lstat(target) {
            self.made.insert(stat.identity(), ());
        }
        if matches!(self.how, How::Copy | How::Attributes) {
            self.attributes(target, source, stat);
        }
    }

    /// Backs up or removes what is in the way; `false` after a failure.
    fn make_way(&self, target: &[u8], remove: bool) -> bool {
        let done = if self.backup != Backup::None {
            file::rename(target, &self.backup_name(target))
                .map_err(|reason| format!("cannot backup {}: {reason}", quote::always(target)))
        } else if remove {
            file::unlink(target)
                .map_err(|reason| format!("cannot remove {}: {reason}", quote::always(target)))
        } else {
            Ok(())
        };
        done.map_err(|message| self.context.fail(message)).is_ok()
    }

    fn backup_name(&self, target: &[u8]) -> Vec<u8> {
        backup_name(target, self.backup, &self.suffix)
    }

    fn contents(&self, source: &[u8], target: &[u8], stat: &Stat) -> std::result::Result<(), String> {
        let failed = |what: &str, path: &[u8]| {
            let (what, path) = (what.to_owned(), quote::always(path));
            move |reason: toolbox_linux::Errno| format!("{what} {path}: {reason}")
        };
        match stat.kind() {
            Kind::Symlink => {
                let link = file::readlink(source).map_err(failed("cannot read symbolic link", source))?;
                file::symlink(&link, target).map_err(failed("cannot create symbolic link", target))
            }
            Kind::Regular => self.data(source, target, stat),
            _ if self.contents || !self.recursive => self.data(source, target, stat),
            Kind::Fifo => {
                file::mknod(target, stat.mode & 0o170_777, 0).map_err(failed("cannot create fifo", target))
            }
            _ => file::mknod(target, stat.mode & 0o170_777, stat.special)
                .map_err(failed("cannot create special file", target)),
        }
    }

    fn data(&self, source: &[u8], target: &[u8], stat: &Stat) -> std::result::Result<(), String> {
        let mut from = file::open_read(source)
            .map_err(|reason| format!("cannot open {} for reading: {reason}", quote::always(source)))?;
        if file::stat(target).is_err() && file::lstat(target).is_ok() {
            return Err(format!("not writing through dangling symlink {}", quote::always(target)));
        }
        let mode = if self.keep.fresh_mode { 0o666 } else { stat.mode & 0o777 };
        // Others must not read data before its owner is set.
        let mode = if self.keep.owner { mode & 0o700 } else { mode };
        let truncate = if self.how == How::Attributes { 0 } else { open::TRUNC };
        let flags = open::WRONLY | open::CREAT | truncate;
        let mut to = file::open(target, flags, mode)
            .or_else(|reason| {
                if !self.force || reason == errno::ENOENT {
                    return Err(reason);
                }
                file::unlink(target)?;
                file::open(target, flags, mode)
            })
            .map_err(|reason| format!("cannot create regular file {}: {reason}", quote::always(target)))?;
        if self.how == How::Attributes {
            return Ok(());
        }
        std::io::copy(&mut from, &mut to).map(drop).map_err(|error| {
            format!(
                "error copying {} to {}: {}",
                quote::always(source),
                quote::always(target),
                toolbox_command::reason(&error)
            )
        })
    }

    /// Gives the copy what is kept of its source.
    fn attributes(&self, target: &[u8], source: &[u8], stat: &Stat) {
        let mut result: Result<()> = Ok(());
        if self.keep.owner {
            // Only root may give files away; others keep their own without a message, as GNU does.
            match file::chown(target, Some(stat.uid), Some(stat.gid), AT_SYMLINK_NOFOLLOW) {
                Err(errno::EPERM | errno::EINVAL) => {
                    let _ = file::chown(target, None, Some(stat.gid), AT_SYMLINK_NOFOLLOW);
                }
                other => result = result.and(other),
            }
        }
        if self.keep.attributes {
            for name in file::llistxattr(source).unwrap_or_default() {
                let copied =
                    file::lgetxattr(source, &name).and_then(|value| file::lsetxattr(target, &name, &value));
                if self.keep.strict {
                    result = result.and(copied);
                }
            }
        }
        if self.keep.mode && !stat.is_symlink() {
            result = result.and(file::chmod(target, stat.mode & 0o7777));
        }
        if self.keep.times {
            result = result.and(file::utimensat(target, stat.accessed, stat.modified, AT_SYMLINK_NOFOLLOW));
        }
        if let Err(reason) = result {
            self.context.fail(format!("preserving attributes for {}: {reason}", quote::always(target)));
        }
    }

    fn directory(&mut self, source: &[u8], target: &[u8], stat: &Stat, device: u64) {
        let existing = file::stat(target);
        if let Ok(existing) = &existing {
            if !existing.is_directory() {
                self.context.fail(format!(
                    "cannot overwrite non-directory {} with directory {}",
                    quote::always(target),
                    quote::always(source)
                ));
                return;
            }
            if existing.identity() == stat.identity() {
                self.context.fail(format!(
                    "cannot copy a directory, {}, into itself, {}",
                    quote::always(source),
                    quote::always(target)
                ));
                return;
            }
        }
        let new = existing.is_err();
        if new {
            if self.inside(stat, target) {
                self.context.fail(format!(
                    "cannot copy a directory, {}, into itself, {}",
                    quote::always(source),
                    quote::always(target)
                ));
                return;
            }
            let mode = if self.keep.fresh_mode { 0o777 } else { stat.mode & 0o777 };
            // Writable until it is full.
            if let Err(reason) = file::mkdir(target, mode | 0o700) {
                self.context.fail(format!("cannot create directory {}: {reason}", quote::always(target)));
                return;
            }
            self.say(&format!("{} -> {}", quote::always(source), quote::always(target)));
        }
        match file::read_directory(source) {
            Ok(entries) => {
                for entry in entries {
                    let (from, to) = (join(source, &entry.name), join(target, &entry.name));
                    let found = match self.follow {
                        Follow::All => file::stat(&from),
                        _ => file::lstat(&from),
                    };
                    match found {
                        Ok(found) if self.one_device && found.device != device => {}
                        Ok(found) => self.copy(&from, &to, &found, device, false),
                        Err(reason) => {
                            self.context.fail(format!("cannot stat {}: {reason}", quote::always(&from)))
                        }
                    }
                }
            }
            Err(reason) => self.context.fail(format!("cannot access {}: {reason}", quote::always(source))),
        }
        if new && !self.keep.mode && !self.keep.fresh_mode {
            let _ = file::chmod(target, stat.mode & 0o777 & !self.context.umask());
        }
        if new || self.keep.mode {
            self.attributes(target, source, stat);
        }
    }

    /// Whether a new path lies inside a directory.
    fn inside(&self, directory: &Stat, path: &[u8]) -> bool {
        let mut above = crate::path::canonical(path, crate::path::Presence::Any, true).unwrap_or_default();
        while above.len() > 1 {
            above = directory_name(&above).to_vec();
            if file::stat(&above).is_ok_and(|stat| stat.identity() == directory.identity()) {
                return true;
            }
        }
        false
    }
}

fn backup_name(target: &[u8], kind: Backup, suffix: &[u8]) -> Vec<u8> {
    let name = base_name(target);
    let number = |entry: &file::Entry| -> Option<u64> {
        let rest = entry.name.strip_prefix(name)?.strip_prefix(b".~")?.strip_suffix(b"~")?;
        std::str::from_utf8(rest).ok()?.parse().ok()
    };
    let last =
        || file::read_directory(directory_name(target)).unwrap_or_default().iter().filter_map(number).max();
    match kind {
        Backup::Numbered => [target, format!(".~{}~", last().unwrap_or(0) + 1).as_bytes()].concat(),
        Backup::Existing => match last() {
            Some(last) => [target, format!(".~{}~", last + 1).as_bytes()].concat(),
            None => [target, suffix].concat(),
        },
        _ => [target, suffix].concat(),
    }
}

fn mv(context: &Context, parsed: Parsed) -> i32 {
    let replace = match parsed.last(&["force", "interactive", "no-clobber"]) {
        Some("interactive") => Replace::Ask,
        Some("no-clobber") => Replace::No,
        _ => Replace::Yes,
    };
    let (backup, suffix) = backup(context, &parsed);
    let mut copier = Copier {
        context,
        follow: Follow::None,
        how: How::Copy,
        keep: Keep { mode: true, owner: true, times: true, links: true, attributes: true, ..Keep::default() },
        backup: Backup::None,
        suffix: suffix.clone(),
        replace: Replace::Yes,
        force: true,
        remove_first: true,
        recursive: true,
        contents: false,
        update: false,
        verbose: false,
        one_device: false,
        seen: HashMap::new(),
        made: HashMap::new(),
    };
    let (sources, destination, into) = operands(context, &parsed);
    for source in sources {
        let target = if into { join(&destination, base_name(&source)) } else { destination.clone() };
        let (from, to) = (quote::always(&source), quote::always(&target));
        let stat = match file::lstat(&source) {
            Ok(stat) => stat,
            Err(reason) => {
                context.fail(format!("cannot stat {from}: {reason}"));
                continue;
            }
        };
        let mut backed = None;
        if let Ok(existing) = file::lstat(&target) {
            if existing.identity() == stat.identity()
                && (source == target || existing.links == 1 || stat.is_directory())
            {
                context.fail(format!("{from} and {to} are the same file"));
                continue;
            }
            if existing.is_directory() && !stat.is_directory() {
                context.fail(format!("cannot overwrite directory {to} with non-directory"));
                continue;
            }
            if !existing.is_directory() && stat.is_directory() && backup == Backup::None {
                context.fail(format!("cannot overwrite non-directory {to} with directory {from}"));
                continue;
            }
            if parsed.has("update") && existing.modified >= stat.modified {
                continue;
            }
            let guarded = replace == Replace::Yes
                && !parsed.has("force")
                && toolbox_linux::process::is_terminal(0)
                && !existing.is_symlink()
                && file::access(&target, 2).is_err();
            match replace {
                Replace::No => continue,
                Replace::Ask if !agrees(context, &format!("overwrite {to}? ")) => continue,
                _ if guarded && !agrees(context, &format!("replace {to}, overriding its mode? ")) => continue,
                _ => {}
            }
            if backup != Backup::None {
                let name = backup_name(&target, backup, &suffix);
                if let Err(reason) = file::rename(&target, &name) {
                    context.fail(format!("cannot backup {to}: {reason}"));
                    continue;
                }
                backed = Some(name);
            }
        }
        if stat.is_directory() && copier.inside(&stat, &target) {
            context.fail(format!("cannot move {from} to a subdirectory of itself, {to}"));
            continue;
        }
        match file::rename(&source, &target) {
            Ok(()) => {}
            Err(errno::EXDEV) => {
                let before = context.status();
                context.set_status(0);
                if stat.is_directory() {
                    let _ = file::rmdir(&target);
                }
                copier.copy(&source, &target, &stat, stat.device, true);
                if context.status() == 0 {
                    remove_tree(context, &source, &stat);
                    context.set_status(before.max(context.status()));
                }
            }
            Err(reason) => {
                context.fail(format!("cannot move {from} to {to}: {reason}"));
                continue;
            }
        }
        if parsed.has("verbose") {
            let backup = backed.map_or(String::new(), |name| format!(" (backup: {})", quote::always(&name)));
            let line = format!("renamed {from} -> {to}{backup}\n");
            context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
        }
    }
    context.status()
}

fn remove_tree(context: &Context, path: &[u8], stat: &Stat) {
    let removed = if stat.is_directory() {
        for entry in file::read_directory(path).unwrap_or_default() {
            let child = join(path, &entry.name);
            if let Ok(stat) = file::lstat(&child) {
                remove_tree(context, &child, &stat);
            }
        }
        file::rmdir(path)
    } else {
        file::unlink(path)
    };
    if let Err(reason) = removed {
        context.fail(format!("cannot remove {}: {reason}", quote::always(path)));
    }
}

fn install(context: &Context, parsed: Parsed) -> i32 {
    let owners = Owners::read();
    let id = |key: &str, find: &dyn Fn(&str) -> Option<u32>, what: &str| {
        parsed.text(key).map(|name| {
            find(&name).unwrap_or_else(|| {
                context.die(1, format!("invalid {what} {}", quote::always(name.as_bytes())))
            })
        })
    };
    let uid = id("owner", &|name| owners.uid(name), "user");
    let gid = id("group", &|name| owners.gid(name), "group");
    let mode = parsed.value("mode").unwrap_or(b"755");
    let Some(mode) = Mode::parse(mode) else {
        context.die(1, format!("invalid mode {}", quote::always(mode)));
    };
    let verbose = |line: String| {
        if parsed.has("verbose") {
            context.check_write(Descriptor::keep(1).write_all(format!("{line}\n").as_bytes()));
        }
    };
    let finish = |path: &[u8], directory: bool| {
        let owned = if uid.is_some() || gid.is_some() { file::chown(path, uid, gid, 0) } else { Ok(()) };
        if let Err(reason) = owned {
            context.fail(format!("cannot change ownership of {}: {reason}", quote::always(path)));
        }
        if let Err(reason) = file::chmod(path, mode.apply(0, directory, 0)) {
            context.fail(format!("cannot change permissions of {}: {reason}", quote::always(path)));
        }
    };
    let make_above = |path: &[u8]| -> bool {
        let mut at = if path.starts_with(b"/") { b"/".to_vec() } else { Vec::new() };
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            at = if at.is_empty() { name.to_vec() } else { join(&at, name) };
            match file::mkdir(&at, 0o755) {
                Ok(()) => {
                    let _ = file::chmod(&at, 0o755);
                    verbose(format!("install: creating directory {}", quote::always(&at)));
                }
                Err(_) if file::stat(&at).is_ok_and(|stat| stat.is_directory()) => {}
                Err(reason) => {
                    context.fail(format!("cannot create directory {}: {reason}", quote::always(&at)));
                    return false;
                }
            }
        }
        true
    };
    if parsed.has("directory") {
        if parsed.operands.is_empty() {
            context.misused("missing file operand");
        }
        for operand in &parsed.operands {
            if make_above(operand) {
                finish(operand, true);
            }
        }
        return context.status();
    }
    if let (true, Some(directory)) = (parsed.has("D"), parsed.value("target-directory")) {
        make_above(directory);
    }
    let (backup, suffix) = backup(context, &parsed);
    if parsed.has("D") && !parsed.has("target-directory") && parsed.operands.len() == 2 {
        let destination = &parsed.operands[1];
        if !file::stat(destination).is_ok_and(|stat| stat.is_directory())
            && directory_name(destination) != b"."
            && !make_above(directory_name(destination))
        {
            return context.status();
        }
    }
    let (sources, destination, into) = operands(context, &parsed);
    for source in sources {
        let target = if into { join(&destination, base_name(&source)) } else { destination.clone() };
        let stat = match file::stat(&source) {
            Ok(stat) if stat.is_directory() => {
                context.fail(format!("omitting directory {}", quote::always(&source)));
                continue;
            }
            Ok(stat) => stat,
            Err(reason) => {
                context.fail(format!("cannot stat {}: {reason}", quote::always(&source)));
                continue;
            }
        };
        let existing = file::lstat(&target).ok();
        if let Some(existing) = existing
            && existing.identity() == stat.identity()
        {
            context.fail(format!(
                "{} and {} are the same file",
                quote::always(&source),
                quote::always(&target)
            ));
            continue;
        }
        if parsed.has("compare")
            && existing.is_some_and(|old| is_same(&source, &target, &stat, &old, &mode, uid, gid))
        {
            continue;
        }
        if let Some(existing) = existing {
            if existing.is_directory() {
                context.fail(format!(
                    "cannot overwrite directory {} with non-directory {}",
                    quote::always(&target),
                    quote::always(&source)
                ));
                continue;
            }
            let gone = if backup == Backup::None {
                file::unlink(&target)
            } else {
                file::rename(&target, &backup_name(&target, backup, &suffix))
            };
            if let Err(reason) = gone {
                context.fail(format!("cannot remove {}: {reason}", quote::always(&target)));
                continue;
            }
            if backup == Backup::None {
                verbose(format!("removed {}", quote::always(&target)));
            }
        }
        let copied = file::open_read(&source).and_then(|from| {
            // Nobody else opens it before its mode is right.
            let to = file::open(&target, open::WRONLY | open::CREAT | open::EXCL, 0o600)?;
            Ok((from, to))
        });
        match copied {
            Ok((mut from, mut to)) => {
                verbose(format!("{} -> {}", quote::always(&source), quote::always(&target)));
                if let Err(error) = std::io::copy(&mut from, &mut to) {
                    context.fail(format!(
                        "error copying {}: {}",
                        quote::always(&source),
                        toolbox_command::reason(&error)
                    ));
                }
            }
            Err(reason) => {
                context.fail(format!("cannot create regular file {}: {reason}", quote::always(&target)));
                continue;
            }
        }
        if parsed.has("preserve-timestamps")
            && let Err(reason) = file::utimensat(&target, stat.accessed, stat.modified, 0)
        {
            context.fail(format!("cannot set timestamps for {}: {reason}", quote::always(&target)));
        }
        finish(&target, false);
    }
    context.status()
}

fn is_same(
    source: &[u8],
    target: &[u8],
    stat: &Stat,
    old: &Stat,
    mode: &Mode,
    uid: Option<u32>,
    gid: Option<u32>,
) -> bool {
    let (me, group) = (toolbox_linux::process::geteuid(), toolbox_linux::process::getegid());
    let read = |path: &[u8]| {
        let mut data = Vec::new();
        file::open_read(path)
            .ok()
            .and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut data).ok())
            .map(|_| data)
    };
    old.kind() == Kind::Regular
        && old.size == stat.size
        && old.mode & 0o7777 == mode.apply(0, false, 0)
        && old.uid == uid.unwrap_or(me)
        && old.gid == gid.unwrap_or(group)
        && read(source) == read(target)
}
