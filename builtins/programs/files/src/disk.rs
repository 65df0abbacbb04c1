//! `du`, `df`, `sync`: space in use and its devices.

use std::collections::HashSet;
use std::io::{Read, Write};

use toolbox_command::{Context, Order, Output, Parsed, Tool, pattern, quote};
use toolbox_linux::file::{self, Stat, open};

use crate::list::human;
use crate::path::{Presence, canonical, join};

pub(crate) const DU: Tool = Tool {
    name: "du",
    usage: "[OPTION]... [FILE]...",
    options: &[
        ("0/null", "end lines with NUL"),
        ("a/all", "files too, not only directories"),
        ("/apparent-size", "sizes instead of space in use"),
        ("B/block-size=", "units of this size"),
        ("b/bytes", "as --apparent-size --block-size=1"),
        ("c/total", "a total at the end"),
        ("D/dereference-args", "follow operands that are links"),
        ("d/max-depth=", "only this deep"),
        ("H", "as -D"),
        ("h/human-readable", "sizes as 1K 234M 2G"),
        ("/inodes", "count inodes instead of space"),
        ("k", "as --block-size=1K (default)"),
        ("L/dereference", "follow all links"),
        ("l/count-links", "count a file once per hard link"),
        ("m", "as --block-size=1M"),
        ("P/no-dereference", "follow no link (default)"),
        ("S/separate-dirs", "no directory counts those below it"),
        ("/si", "as -h by powers of 1000"),
        ("s/summarize", "only a sum per operand"),
        ("t/threshold=", "only sizes from this on, or up to it if negative"),
        ("X/exclude-from=", "leave out what matches a pattern of this file"),
        ("/exclude=", "leave out what matches"),
        ("x/one-file-system", "stay on one file system"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: du,
};

pub(crate) const DF: Tool = Tool {
    name: "df",
    usage: "[OPTION]... [FILE]...",
    options: &[
        ("a/all", "also file systems without blocks"),
        ("B/block-size=", "units of this size"),
        ("h/human-readable", "sizes as 1K 234M 2G"),
        ("H/si", "as -h by powers of 1000"),
        ("i/inodes", "inodes instead of blocks"),
        ("k", "as --block-size=1K (default)"),
        ("m", "as --block-size=1M"),
        ("P/portability", "the format of POSIX"),
        ("T/print-type", "the type of each file system"),
        ("t/type=", "only this type"),
        ("x/exclude-type=", "not this type"),
        ("/total", "a total at the end"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: df,
};

pub(crate) const SYNC: Tool = Tool {
    name: "sync",
    usage: "[OPTION] [FILE]...",
    options: &[("d/data", "only the data of the files"), ("f/file-system", "the file systems of the files")],
    order: Order::Anywhere,
    misuse: 1,
    main: sync,
};

/// Unit of a number of bytes.
#[derive(Clone, Copy)]
enum Unit {
    Blocks(u64),
    Human(u64),
}

impl Unit {
    fn show(self, bytes: u64) -> String {
        match self {
            Self::Blocks(size) => bytes.div_ceil(size).to_string(),
            Self::Human(base) => human(bytes, base),
        }
    }
}

fn block_size(context: &Context, text: &str) -> Unit {
    let size = crate::touch::size(text).filter(|&size| size > 0);
    Unit::Blocks(size.unwrap_or_else(|| {
        context.die(1, format!("invalid --block-size argument {}", quote::always(text.as_bytes())))
    }))
}

fn unit(context: &Context, parsed: &Parsed) -> Unit {
    match parsed.last(&["block-size", "bytes", "k", "m", "human-readable", "si"]) {
        Some("block-size") => block_size(context, &parsed.text("block-size").unwrap_or_default()),
        Some("bytes") => Unit::Blocks(1),
        Some("m") => Unit::Blocks(1 << 20),
        Some("human-readable") => Unit::Human(1024),
        Some("si") => Unit::Human(1000),
        _ if std::env::var_os("POSIXLY_CORRECT").is_some() => Unit::Blocks(512),
        _ => Unit::Blocks(1024),
    }
}

struct Usage<'a> {
    context: &'a Context,
    parsed: &'a Parsed,
    unit: Unit,
    depth: usize,
    apparent: bool,
    threshold: Option<i64>,
    excluded: Vec<Vec<u8>>,
    seen: HashSet<(u64, u64)>,
    output: Output,
}

fn du(context: &Context, parsed: Parsed) -> i32 {
    let number = |key: &str| {
        parsed.text(key).map(|text| {
            text.parse().unwrap_or_else(|_| {
                context.die(1, format!("invalid maximum depth {}", quote::always(text.as_bytes())))
            })
        })
    };
    let depth: Option<usize> = number("max-depth");
    let summary = parsed.has("summarize");
    if summary && parsed.has("all") {
        context.misused("cannot both summarize and show all entries");
    }
    if let Some(depth) = depth.filter(|&depth| summary && depth > 0) {
        context.misused(format!("warning: summarizing conflicts with --max-depth={depth}"));
    }
    let threshold = parsed.text("threshold").map(|text| {
        let (sign, digits) = text.strip_prefix('-').map_or((1, &text[..]), |digits| (-1, digits));
        let size = crate::touch::size(digits).and_then(|size| i64::try_from(size).ok());
        let wrong =
            || context.die(1, format!("invalid --threshold argument {}", quote::always(text.as_bytes())));
        sign * size.unwrap_or_else(wrong)
    });
    let mut excluded: Vec<Vec<u8>> = Vec::new();
    for (option, value) in &parsed.options {
        let value = value.clone().unwrap_or_default();
        match *option {
            "exclude" => excluded.push(value),
            "exclude-from" => {
                let mut text = Vec::new();
                let opened = context.open_input(&value).map(|mut file| file.read_to_end(&mut text));
                if !matches!(opened, Some(Ok(_))) {
                    return 1;
                }
                excluded.extend(
                    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec),
                );
            }
            _ => {}
        }
    }
    let mut usage = Usage {
        context,
        parsed: &parsed,
        unit: if parsed.has("inodes") { Unit::Blocks(1) } else { unit(context, &parsed) },
        depth: if summary { 0 } else { depth.unwrap_or(usize::MAX) },
        apparent: parsed.has("apparent-size") || parsed.has("bytes"),
        threshold,
        excluded,
        seen: HashSet::new(),
        output: context.output(),
    };
    let mut operands = parsed.operands.clone();
    if operands.is_empty() {
        operands.push(b".".to_vec());
    }
    let follow = ["dereference", "dereference-args", "H"].iter().any(|key| parsed.has(key));
    let mut total = 0;
    for operand in operands {
        match if follow { file::stat(&operand) } else { file::lstat(&operand) } {
            Ok(stat) => total += usage.measure(&operand, &stat, stat.device, 0),
            Err(reason) => context.fail(format!("cannot access {}: {reason}", quote::always(&operand))),
        }
    }
    if parsed.has("total") {
        usage.line(total, b"total");
    }
    let Usage { output, .. } = usage;
    context.finish(output)
}

impl Usage<'_> {
    fn line(&mut self, size: u64, name: &[u8]) {
        let end: &[u8] = if self.parsed.has("null") { b"\0" } else { b"\n" };
        let shown = match self.unit {
            Unit::Human(_) if self.parsed.has("inodes") => size.to_string(),
            unit => unit.show(size),
        };
        let result = self.output.write_all(&[shown.as_bytes(), b"\t", name, end].concat());
        self.context.check_write(result);
    }

    fn own(&self, stat: &Stat) -> u64 {
        if self.parsed.has("inodes") {
            1
        } else if self.apparent {
            // A directory's own size means nothing, says GNU since 9.2; 9.1 and before count it.
            stat.size as u64
        } else {
            stat.blocks as u64 * 512
        }
    }

    /// Prints what is wanted of a tree; the answer is its sum.
    fn measure(&mut self, path: &[u8], stat: &Stat, device: u64, level: usize) -> u64 {
        let name = crate::path::base_name(path);
        if self
            .excluded
            .iter()
            .any(|excluded| pattern::matches(excluded, name, 0) || pattern::matches(excluded, path, 0))
        {
            return 0;
        }
        let counts_once = stat.links > 1 && !self.parsed.has("count-links") || stat.is_directory();
        if counts_once && !self.seen.insert(stat.identity()) {
            return 0;
        }
        let own = self.own(stat);
        let mut below = 0;
        if stat.is_directory() {
            match file::read_directory(path) {
                Ok(entries) => {
                    for entry in entries {
                        let child = join(path, &entry.name);
                        let found = if self.parsed.has("dereference") {
                            file::stat(&child).or_else(|_| file::lstat(&child))
                        } else {
                            file::lstat(&child)
                        };
                        match found {
                            Ok(found) if self.parsed.has("one-file-system") && found.device != device => {}
                            Ok(found) => {
                                let size = self.measure(&child, &found, device, level + 1);
                                if !(self.parsed.has("separate-dirs") && found.is_directory()) {
                                    below += size;
                                }
                            }
                            Err(reason) => {
                                self.context
                                    .fail(format!("cannot access {}: {reason}", quote::always(&child)));
                            }
                        }
                    }
                }
                Err(reason) => {
                    self.context.fail(format!("cannot read directory {}: {reason}", quote::always(path)));
                }
            }
        }
        let size = own + below;
        let shown = level == 0 || level <= self.depth && (stat.is_directory() || self.parsed.has("all"));
        let passes = self
            .threshold
            .is_none_or(|limit| if limit < 0 { size <= limit.unsigned_abs() } else { size >= limit as u64 });
        if shown && passes {
            self.line(size, path);
        }
        size
    }
}

/// A line of `/proc/self/mountinfo`.
struct Mount {
    source: Vec<u8>,
    kind: String,
    path: Vec<u8>,
}

fn mounts() -> Vec<Mount> {
    let mut text = Vec::new();
    let Ok(Ok(_)) = file::open_read(b"/proc/self/mountinfo").map(|mut file| file.read_to_end(&mut text))
    else {
        return Vec::new();
    };
    // The fields after the separator are type, source and options; blanks in paths are octal escapes.
    let unescape = |field: &[u8]| -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), field);
        while let [first, after @ ..] = rest {
            match (first, after) {
                (b'\\', [a, b, c, more @ ..]) => {
                    out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                    rest = more;
                }
                _ => {
                    out.push(*first);
                    rest = after;
                }
            }
        }
        out
    };
    let read = |line: &[u8]| -> Option<Mount> {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        Some(Mount {
            source: unescape(fields.get(separator + 2)?),
            kind: String::from_utf8_lossy(fields.get(separator + 1)?).into_owned(),
            path: unescape(fields.get(4)?),
        })
    };
    text.split(|&byte| byte == b'\n').filter_map(read).collect()
}

fn df(context: &Context, parsed: Parsed) -> i32 {
    let unit = unit(context, &parsed);
    let inodes = parsed.has("inodes");
    let mounts = mounts();
    if mounts.is_empty() {
        context.die(1, "cannot read table of mounted file systems");
    }
    let mut chosen: Vec<&Mount> = Vec::new();
    if parsed.operands.is_empty() {
        let mut devices = HashSet::new();
        for mount in &mounts {
            // Of several mounts of one device the first stands for all; the last of one path hides those below.
            let hidden = mounts
                .iter()
                .rev()
                .find(|other| other.path == mount.path)
                .is_some_and(|last| !std::ptr::eq(last, mount));
            let device = file::stat(&mount.path).map(|stat| stat.device).ok();
            if parsed.has("all") || !hidden && device.is_some_and(|device| devices.insert(device)) {
                chosen.push(mount);
            }
        }
    }
    for operand in &parsed.operands {
        let resolved = canonical(operand, Presence::All, true);
        match resolved {
            Ok(path) => {
                let below = |mount: &&Mount| {
                    mount.path == b"/"
                        || path
                            .strip_prefix(&mount.path[..])
                            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
                };
                chosen.extend(mounts.iter().filter(below).max_by_key(|mount| mount.path.len()));
            }
            Err(reason) => context.fail(format!("{}: {reason}", quote::if_needed(operand))),
        }
    }
    let listed = |key: &str, kind: &str| {
        parsed
            .options
            .iter()
            .any(|(option, value)| *option == key && value.as_deref() == Some(kind.as_bytes()))
    };
    let posix = parsed.has("portability");
    let title = match unit {
        _ if inodes => "Inodes".to_owned(),
        Unit::Human(_) => "Size".to_owned(),
        Unit::Blocks(size) if posix => format!("{size}-blocks"),
        Unit::Blocks(size) => match size {
            1024 => "1K-blocks".to_owned(),
            1 => "1B-blocks".to_owned(),
            size if size % (1 << 30) == 0 => format!("{}G-blocks", size >> 30),
            size if size % (1 << 20) == 0 => format!("{}M-blocks", size >> 20),
            size if size % 1024 == 0 => format!("{}K-blocks", size >> 10),
            size => format!("{size}B-blocks"),
        },
    };
    let words = match (inodes, unit, posix) {
        (true, ..) => ["IUsed", "IFree", "IUse%"],
        (false, Unit::Human(_), false) => ["Used", "Avail", "Use%"],
        (false, _, true) => ["Used", "Available", "Capacity"],
        (false, _, false) => ["Used", "Available", "Use%"],
    };
    let mut header = vec!["Filesystem".to_owned()];
    if parsed.has("print-type") {
        header.push("Type".to_owned());
    }
    header.extend([title, words[0].into(), words[1].into(), words[2].into(), "Mounted on".into()]);
    let mut rows = vec![header];
    let mut total = [0u64; 3];
    for mount in chosen {
        if parsed.has("type") && !listed("type", &mount.kind) || listed("exclude-type", &mount.kind) {
            continue;
        }
        let facts = match file::statfs(&mount.path) {
            Ok(facts) => facts,
            Err(reason) => {
                context.fail(format!("{}: {reason}", quote::if_needed(&mount.path)));
                continue;
            }
        };
        if facts.blocks == 0
            && parsed.operands.is_empty()
            && !parsed.has("all")
            && !listed("type", &mount.kind)
        {
            continue;
        }
        let size = if facts.fragment_size == 0 { facts.block_size } else { facts.fragment_size } as u64;
        let counts = if inodes {
            [facts.files, facts.files.saturating_sub(facts.files_free), facts.files_free]
        } else {
            [facts.blocks * size, facts.blocks.saturating_sub(facts.free) * size, facts.available * size]
        };
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
        rows.push(row(&parsed, unit, inodes, &mount.source, &mount.kind, counts, &mount.path));
    }
    if rows.len() == 1 && context.status() == 0 {
        context.die(1, "no file systems processed");
    }
    if rows.len() == 1 {
        return context.status();
    }
    if parsed.has("total") {
        rows.push(row(&parsed, unit, inodes, b"total", "-", total, b"-"));
    }
    let typed = usize::from(parsed.has("print-type"));
    let columns = rows[0].len();
    // Names and types are never narrower than GNU has them.
    let least = |column: usize| match column {
        0 => 14,
        1 if typed == 1 => 4,
        at if at == columns - 2 => 4,
        _ => 5,
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(least(column)))
        .collect();
    let mut output = context.output();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (text, &width))| match column {
                _ if column + 1 == columns => text.clone(),
                _ if column <= typed => format!("{text:<width$}"),
                _ => format!("{text:>width$}"),
            })
            .collect();
        context.check_write(writeln!(output, "{}", cells.join(" ")));
    }
    context.finish(output)
}

fn row(
    parsed: &Parsed,
    unit: Unit,
    inodes: bool,
    source: &[u8],
    kind: &str,
    [all, used, free]: [u64; 3],
    path: &[u8],
) -> Vec<String> {
    let show = |count: u64| match unit {
        Unit::Blocks(_) if inodes => count.to_string(),
        unit => unit.show(count),
    };
    let share =
        if used + free == 0 { "-".to_owned() } else { format!("{}%", (used * 100).div_ceil(used + free)) };
    let mut row = vec![String::from_utf8_lossy(source).into_owned()];
    if parsed.has("print-type") {
        row.push(kind.to_owned());
    }
    row.extend([show(all), show(used), show(free), share, String::from_utf8_lossy(path).into_owned()]);
    row
}

/// Name of a file system's type by its magic number.
pub(crate) fn file_system_name(magic: i64) -> String {
    let name = match magic as u32 {
        0xef53 => "ext2/ext3",
        0x0102_1994 => "tmpfs",
        0x9fa0 => "proc",
        0x6265_6572 => "sysfs",
        0x794c_7630 => "overlayfs",
        0x9123_683e => "btrfs",
        0x5846_5342 => "xfs",
        0x6573_5546 => "fuseblk",
        0x6969 => "nfs",
        0x1cd1 => "devpts",
        0x0027_e0eb => "cgroupfs",
        0x6367_7270 => "cgroup2fs",
        other => return format!("UNKNOWN (0x{other:x})"),
    };
    name.to_owned()
}

fn sync(context: &Context, parsed: Parsed) -> i32 {
    if parsed.has("data") && parsed.operands.is_empty() {
        context.misused("--data needs at least one argument");
    }
    if parsed.has("data") && parsed.has("file-system") {
        context.misused("cannot specify both --data and --file-system");
    }
    if parsed.operands.is_empty() || parsed.has("file-system") {
        for operand in &parsed.operands {
            if let Err(reason) = file::stat(operand) {
                context.fail(format!("error opening {}: {reason}", quote::always(operand)));
            }
        }
        file::sync();
        return context.status();
    }
    for operand in &parsed.operands {
        let opened = file::open(operand, open::RDONLY | open::NONBLOCK, 0);
        match opened.map(|opened| opened.fsync()) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => context.fail(format!("error syncing {}: {reason}", quote::always(operand))),
            Err(reason) => context.fail(format!("error opening {}: {reason}", quote::always(operand))),
        }
    }
    context.status()
}
