//! `ls`.

use std::cmp::Ordering;
use std::io::Write;

use jiff::tz::TimeZone;
use toolbox_command::owner::Owners;
use toolbox_command::{Context, Order, Output, Parsed, Tool, mode, quote};
use toolbox_linux::file::{self, Kind, Stat, Time};
use toolbox_linux::{Errno, process};

use crate::path::join;
use crate::time;

pub(crate) const LS: Tool = Tool {
    name: "ls",
    usage: "[OPTION]... [FILE]...",
    options: &[
        ("a/all", "also names that begin with a dot"),
        ("A/almost-all", "as -a without . and .."),
        ("b/escape", "C-style escapes for what is not graphic"),
        ("B/ignore-backups", "no names that end in ~"),
        ("c", "the time of the inode's change; with -lt sort by it"),
        ("C", "columns, down"),
        ("/color?", "colours: never or auto"),
        ("d/directory", "directories themselves, not their contents"),
        ("f", "everything in the order of the directory"),
        ("F/classify?", "append one of */=>@|"),
        ("/file-type", "as -F without *"),
        ("/format=", "long, commas, across, vertical, single-column"),
        ("/full-time", "as -l --time-style=full-iso"),
        ("g", "as -l without the owner"),
        ("/group-directories-first", "directories before files"),
        ("G/no-group", "no group with -l"),
        ("h/human-readable", "sizes as 1K 234M 2G"),
        ("/si", "as -h by powers of 1000"),
        ("H/dereference-command-line", "follow links among the operands"),
        ("/hide=", "no names that match, unless -a or -A"),
        ("/indicator-style=", "none, slash, file-type, classify"),
        ("i/inode", "the number of each file"),
        ("I/ignore=", "no names that match"),
        ("k/kibibytes", "1024-byte blocks with -s (default)"),
        ("l", "the long format"),
        ("L/dereference", "follow all links"),
        ("m", "names with commas between"),
        ("n/numeric-uid-gid", "as -l with numbers for owners"),
        ("N/literal", "names as they are (default)"),
        ("o", "as -l without the group"),
        ("p", "append / to directories"),
        ("q/hide-control-chars", "? for what is not graphic"),
        ("Q/quote-name", "names in double quotes"),
        ("r/reverse", "the other way round"),
        ("R/recursive", "directories in directories"),
        ("s/size", "blocks of each file"),
        ("S", "by size"),
        ("/sort=", "none, size, time, version, extension, name, width"),
        ("/time=", "atime, access, use; ctime, status; birth, creation; mtime, modification"),
        ("/time-style=", "full-iso, long-iso, iso, locale or +FORMAT"),
        ("t", "by time, newest first"),
        ("u", "the time of access; with -lt sort by it"),
        ("U", "in the order of the directory"),
        ("v", "by version"),
        ("w/width=", "width of the output"),
        ("x", "columns, across"),
        ("X", "by extension"),
        ("1", "a name per line"),
        ("/zero", "end lines with NUL"),
    ],
    order: Order::Anywhere,
    misuse: 2,
    main: ls,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Long,
    Single,
    Down,
    Across,
    Commas,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Literal,
    Escape,
    Hide,
    C,
    Shell,
}

struct List<'a> {
    context: &'a Context,
    parsed: &'a Parsed,
    owners: Owners,
    zone: TimeZone,
    now: Time,
    format: Format,
    names: Names,
    sort: &'static str,
    reverse: bool,
    time: &'static str,
    style: String,
    indicator: &'static str,
    all: bool,
    almost: bool,
    width: usize,
    units: Option<u64>,
    end: char,
    output: Output,
    first: bool,
}

/// A file to be shown.
struct Item {
    name: Vec<u8>,
    path: Vec<u8>,
    stat: Option<Stat>,
    kind: Kind,
    inode: u64,
}

fn choose(
    context: &Context,
    option: &str,
    value: &[u8],
    table: &[(&'static str, &'static str)],
) -> &'static str {
    let text = String::from_utf8_lossy(value);
    let found: Vec<_> = table.iter().filter(|(word, _)| word.starts_with(&*text)).collect();
    match (table.iter().find(|(word, _)| *word == text), &found[..]) {
        (Some((_, meaning)), _) => meaning,
        (None, [first, rest @ ..]) if rest.iter().all(|(_, meaning)| *meaning == first.1) => first.1,
        (None, []) => context.misused(format!("invalid argument {} for '--{option}'", quote::always(value))),
        _ => context.misused(format!("ambiguous argument {} for '--{option}'", quote::always(value))),
    }
}

fn ls(context: &Context, parsed: Parsed) -> i32 {
    let terminal = process::is_terminal(1);
    let (mut format, mut names) = (
        if terminal { Format::Down } else { Format::Single },
        if terminal { Names::Shell } else { Names::Literal },
    );
    let (mut sort, mut time, mut style, mut indicator) = ("", "mtime", String::from("locale"), "none");
    let (mut all, mut almost, mut units) = (false, false, None);
    for (option, value) in &parsed.options {
        let value = value.as_deref().unwrap_or_default();
        match *option {
            "all" => (all, almost) = (true, false),
            "almost-all" => (all, almost) = (false, true),
            "f" => {
                (all, almost, sort) = (true, false, "none");
                if format == Format::Long {
                    format = Format::Single;
                }
            }
            "l" | "g" | "o" | "numeric-uid-gid" => format = Format::Long,
            "full-time" => (format, style) = (Format::Long, String::from("full-iso")),
            "1" if format != Format::Long => format = Format::Single,
            "C" => format = Format::Down,
            "x" => format = Format::Across,
            "m" => format = Format::Commas,
            "format" => {
                let words = [
                    ("long", "l"),
                    ("verbose", "l"),
                    ("commas", "m"),
                    ("across", "x"),
                    ("horizontal", "x"),
                    ("vertical", "C"),
                    ("single-column", "1"),
                ];
                format = match choose(context, option, value, &words) {
                    "l" => Format::Long,
                    "m" => Format::Commas,
                    "x" => Format::Across,
                    "C" => Format::Down,
                    _ => Format::Single,
                };
            }
            "escape" => names = Names::Escape,
            "literal" => names = Names::Literal,
            "hide-control-chars" => names = Names::Hide,
            "quote-name" => names = Names::C,
            "t" => sort = "time",
            "S" => sort = "size",
            "U" => sort = "none",
            "v" => sort = "version",
            "X" => sort = "extension",
            "sort" => {
                let words = [
                    ("none", "none"),
                    ("size", "size"),
                    ("time", "time"),
                    ("version", "version"),
                    ("extension", "extension"),
                    ("name", "name"),
                    ("width", "width"),
                ];
                sort = choose(context, option, value, &words);
            }
            "c" => time = "ctime",
            "u" => time = "atime",
            "time" => {
                let words = [
                    ("atime", "atime"),
                    ("access", "atime"),
                    ("use", "atime"),
                    ("ctime", "ctime"),
                    ("status", "ctime"),
                    ("birth", "birth"),
                    ("creation", "birth"),
                    ("mtime", "mtime"),
                    ("modification", "mtime"),
                ];
                time = choose(context, option, value, &words);
            }
            "time-style" => {
                let text = String::from_utf8_lossy(value);
                let text = text.strip_prefix("posix-").map_or(&*text, |_| "locale");
                if !matches!(text, "full-iso" | "long-iso" | "iso" | "locale") && !text.starts_with('+') {
                    context.misused(format!("invalid argument {} for 'time style'", quote::always(value)));
                }
                style = text.to_owned();
            }
            "classify" => {
                let words = [
                    ("always", "classify"),
                    ("yes", "classify"),
                    ("force", "classify"),
                    ("auto", "auto"),
                    ("tty", "auto"),
                    ("if-tty", "auto"),
                    ("never", "none"),
                    ("no", "none"),
                    ("none", "none"),
                ];
                indicator =
                    match choose(context, option, if value.is_empty() { b"always" } else { value }, &words) {
                        "auto" if !terminal => "none",
                        "none" => "none",
                        _ => "classify",
                    };
            }
            "file-type" => indicator = "file-type",
            "p" => indicator = "slash",
            "indicator-style" => {
                let words = [
                    ("none", "none"),
                    ("slash", "slash"),
                    ("file-type", "file-type"),
                    ("classify", "classify"),
                ];
                indicator = choose(context, option, value, &words);
            }
            "human-readable" => units = Some(1024),
            "si" => units = Some(1000),
            "color"
                if value.is_empty()
                    || b"always".starts_with(value) && value.len() > 1 && value != b"auto" =>
            {
                context.die(2, "colours are not supported: --color=always");
            }
            "zero" if format != Format::Long => (format, names) = (Format::Single, Names::Literal),
            _ => {}
        }
    }
    if sort.is_empty() {
        sort = if time != "mtime" && format != Format::Long { "time" } else { "name" };
    }
    let width = match parsed.value("width").map(|text| String::from_utf8_lossy(text).into_owned()) {
        Some(text) => text.parse().unwrap_or_else(|_| {
            context.die(2, format!("invalid line width: {}", quote::always(text.as_bytes())))
        }),
        None => std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(80),
    };
    let mut list = List {
        context,
        parsed: &parsed,
        owners: if format == Format::Long { Owners::read() } else { Owners::default() },
        zone: time::zone(),
        now: process::now(),
        format,
        names,
        sort,
        reverse: parsed.has("reverse"),
        time,
        style,
        indicator,
        all,
        almost,
        width,
        units,
        end: if parsed.has("zero") { '\0' } else { '\n' },
        output: context.output(),
        first: true,
    };
    list.operands();
    let List { output, .. } = list;
    context.finish(output)
}

impl List<'_> {
    fn has(&self, key: &str) -> bool {
        self.parsed.has(key)
    }

    fn put(&mut self, text: &[u8]) {
        let result = self.output.write_all(text);
        self.context.check_write(result);
    }

    fn fail(&mut self, status: i32, message: String) {
        let _ = self.output.flush();
        self.context.warn(message);
        self.context.set_status(self.context.status().max(status));
    }

    fn operands(&mut self) {
        let mut operands = self.parsed.operands.clone();
        if operands.is_empty() {
            operands.push(b".".to_vec());
        }
        let several = operands.len() > 1;
        let follow = self.has("dereference") || self.has("dereference-command-line");
        let follow_directories =
            !self.has("directory") && self.format != Format::Long && self.indicator != "classify";
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for path in operands {
            let link = file::lstat(&path);
            let stat = match link {
                Ok(stat) if stat.is_symlink() && follow => file::stat(&path),
                Ok(stat) if stat.is_symlink() && follow_directories => {
                    Ok(file::stat(&path).ok().filter(Stat::is_directory).unwrap_or(stat))
                }
                other => other,
            };
            match stat {
                Ok(stat) => {
                    let item = Item {
                        name: path.clone(),
                        path,
                        kind: stat.kind(),
                        inode: stat.inode,
                        stat: Some(stat),
                    };
                    if stat.is_directory() && !self.has("directory") {
                        directories.push(item);
                    } else {
                        files.push(item);
                    }
                }
                Err(reason) => self.fail(2, format!("cannot access {}: {reason}", quote::always(&path))),
            }
        }
        self.order(&mut files);
        self.order(&mut directories);
        if !files.is_empty() {
            self.show(&files);
            self.first = false;
        }
        let titled = several || self.has("recursive");
        for directory in directories {
            self.directory(&directory.path, titled, &mut Vec::new());
        }
    }

    fn directory(&mut self, path: &[u8], titled: bool, above: &mut Vec<(u64, u64)>) {
        let entries = match file::read_directory(path) {
            Ok(entries) => entries,
            Err(reason) => {
                let status = if above.is_empty() { 2 } else { 1 };
                self.fail(status, format!("cannot open directory {}: {reason}", quote::always(path)));
                return;
            }
        };
        if titled {
            let gap = if self.first { "" } else { "\n" };
            let title = [gap.as_bytes(), &self.name(path), b":\n"].concat();
            self.put(&title);
        }
        self.first = false;
        let needs_stat = self.format == Format::Long
            || self.has("size")
            || self.has("dereference")
            || matches!(self.sort, "time" | "size")
            || self.indicator == "classify";
        let mut items = Vec::new();
        let dots = [b".", &b".."[..]].map(|name| file::Entry {
            name: name.to_vec(),
            kind: Kind::Directory,
            inode: 0,
        });
        let all = self.all;
        let dots = dots.into_iter().filter(|_| all);
        for entry in dots.chain(entries) {
            if !self.wanted(&entry.name) {
                continue;
            }
            let full = join(path, &entry.name);
            let mut item =
                Item { name: entry.name, path: full, stat: None, kind: entry.kind, inode: entry.inode };
            if needs_stat || item.kind == Kind::Unknown || (self.has("inode") && item.inode == 0) {
                let stat = match file::lstat(&item.path) {
                    Ok(stat) if stat.is_symlink() && self.has("dereference") => file::stat(&item.path),
                    other => other,
                };
                match stat {
                    Ok(stat) => (item.kind, item.inode, item.stat) = (stat.kind(), stat.inode, Some(stat)),
                    Err(reason) => self.unreadable(&item.path, reason),
                }
            }
            items.push(item);
        }
        self.order(&mut items);
        if self.format == Format::Long || self.has("size") {
            let blocks: i64 = items.iter().filter_map(|item| item.stat).map(|stat| stat.blocks).sum();
            let total = format!("total {}{}", self.blocks(blocks), self.end);
            self.put(total.as_bytes());
        }
        self.show(&items);
        if self.has("recursive") {
            let Ok(own) = file::stat(path) else { return };
            if above.contains(&own.identity()) {
                self.fail(2, format!("{}: not listing already-listed directory", quote::if_needed(path)));
                return;
            }
            above.push(own.identity());
            for item in items {
                if item.kind == Kind::Directory && item.name != b"." && item.name != b".." {
                    self.directory(&item.path, true, above);
                }
            }
            above.pop();
        }
    }

    fn unreadable(&mut self, path: &[u8], reason: Errno) {
        self.fail(1, format!("cannot access {}: {reason}", quote::always(path)));
    }

    fn wanted(&self, name: &[u8]) -> bool {
        let any = self.all || self.almost;
        let matches = |key: &str| {
            let patterns = self.parsed.options.iter().filter(|(option, _)| *option == key);
            patterns.filter_map(|(_, value)| value.as_deref()).any(|pattern| {
                toolbox_command::pattern::matches(pattern, name, toolbox_command::pattern::PERIOD)
            })
        };
        if !any && (name.starts_with(b".") || matches("hide")) || matches("ignore") {
            return false;
        }
        !self.has("ignore-backups") || !name.ends_with(b"~")
    }

    fn stamp(&self, item: &Item) -> Time {
        let Some(stat) = &item.stat else { return Time::default() };
        match self.time {
            "atime" => stat.accessed,
            "ctime" => stat.changed,
            "birth" => file::birth(&item.path, file::AT_SYMLINK_NOFOLLOW).ok().flatten().unwrap_or_default(),
            _ => stat.modified,
        }
    }

    fn order(&self, items: &mut [Item]) {
        let name = |left: &Item, right: &Item| left.name.cmp(&right.name);
        let extension = |item: &Item| -> Vec<u8> {
            item.name
                .iter()
                .rposition(|&byte| byte == b'.')
                .map_or_else(Vec::new, |at| item.name[at..].to_vec())
        };
        let compare = |left: &Item, right: &Item| -> Ordering {
            let size = |item: &Item| item.stat.map_or(0, |stat| stat.size);
            match self.sort {
                "time" => self.stamp(right).cmp(&self.stamp(left)),
                "size" => size(right).cmp(&size(left)),
                "extension" => extension(left).cmp(&extension(right)),
                "version" => toolbox_command::version::compare(&left.name, &right.name),
                "width" => left.name.len().cmp(&right.name.len()),
                _ => Ordering::Equal,
            }
            .then_with(|| name(left, right))
        };
        if self.sort == "none" {
            if self.reverse {
                items.reverse();
            }
        } else {
            items.sort_by(
                |left, right| if self.reverse { compare(right, left) } else { compare(left, right) },
            );
        }
        if self.has("group-directories-first") && self.sort != "none" {
            let is_directory = |item: &Item| {
                item.kind == Kind::Directory
                    || item.kind == Kind::Symlink
                        && file::stat(&item.path).is_ok_and(|stat| stat.is_directory())
            };
            items.sort_by_key(|item| !is_directory(item));
        }
    }

    /// A name as it is shown.
    fn name(&self, name: &[u8]) -> Vec<u8> {
        let graphic = |byte: u8| matches!(byte, b' '..=b'~');
        let c = |spaces: bool| -> Vec<u8> {
            let mut out = Vec::new();
            for &byte in name {
                match byte {
                    b'\\' => out.extend(b"\\\\"),
                    b'"' if !spaces => out.extend(b"\\\""),
                    b' ' if spaces => out.extend(b"\\ "),
                    b'\n' => out.extend(b"\\n"),
                    b'\t' => out.extend(b"\\t"),
                    b'\r' => out.extend(b"\\r"),
                    7 => out.extend(b"\\a"),
                    8 => out.extend(b"\\b"),
                    11 => out.extend(b"\\v"),
                    12 => out.extend(b"\\f"),
                    _ if graphic(byte) => out.push(byte),
                    _ => out.extend(format!("\\{byte:03o}").bytes()),
                }
            }
            out
        };
        match self.names {
            Names::Literal => name.to_vec(),
            Names::Hide => name.iter().map(|&byte| if graphic(byte) { byte } else { b'?' }).collect(),
            Names::Escape => c(true),
            Names::C => [b"\"", &c(false)[..], b"\""].concat(),
            Names::Shell => quote::for_shell(name).into_bytes(),
        }
    }

    fn mark(&self, kind: Kind, mode: u32) -> &'static str {
        match (self.indicator, kind) {
            ("none", _) => "",
            (_, Kind::Directory) => "/",
            ("slash", _) => "",
            (_, Kind::Symlink) => "@",
            (_, Kind::Fifo) => "|",
            (_, Kind::Socket) => "=",
            ("classify", Kind::Regular) if mode & 0o111 != 0 => "*",
            _ => "",
        }
    }

    fn blocks(&self, blocks: i64) -> String {
        match self.units {
            Some(base) => human(blocks as u64 * 512, base),
            None => (blocks as u64).div_ceil(2).to_string(),
        }
    }

    fn show(&mut self, items: &[Item]) {
        if self.format == Format::Long {
            self.long(items);
            return;
        }
        let inode_width = items.iter().map(|item| item.inode.to_string().len()).max().unwrap_or(0);
        let block_texts: Vec<String> = items
            .iter()
            .map(|item| item.stat.map_or_else(|| "?".into(), |stat| self.blocks(stat.blocks)))
            .collect();
        let block_width = block_texts.iter().map(String::len).max().unwrap_or(0);
        let padded = self.format != Format::Commas;
        let mut cells = Vec::new();
        for (item, blocks) in items.iter().zip(&block_texts) {
            let mut cell = Vec::new();
            if self.has("inode") {
                let width = if padded { inode_width } else { 0 };
                cell.extend(format!("{:>width$} ", item.inode).bytes());
            }
            if self.has("size") {
                let width = if padded { block_width } else { 0 };
                cell.extend(format!("{blocks:>width$} ").bytes());
            }
            cell.extend(self.name(&item.name));
            cell.extend(self.mark(item.kind, item.stat.map_or(0, |stat| stat.mode)).bytes());
            cells.push(cell);
        }
        match self.format {
            Format::Commas => self.commas(&cells),
            Format::Down | Format::Across => self.columns(&cells),
            _ => {
                for mut cell in cells {
                    cell.push(self.end as u8);
                    self.put(&cell);
                }
            }
        }
    }

    fn commas(&mut self, cells: &[Vec<u8>]) {
        let (mut line, mut at) = (Vec::new(), 0);
        for (index, cell) in cells.iter().enumerate() {
            let length = cell.len();
            if index > 0 {
                // A comma and a space are part of the width of what goes before.
                if at + length + 2 < self.width || self.width == 0 {
                    line.extend(b", ");
                    at += 2;
                } else {
                    line.extend(b",\n");
                    at = 0;
                }
            }
            line.extend(cell);
            at += length;
        }
        if !cells.is_empty() {
            line.push(b'\n');
        }
        self.put(&line);
    }

    fn columns(&mut self, cells: &[Vec<u8>]) {
        if cells.is_empty() {
            return;
        }
        let across = self.format == Format::Across;
        let most = if self.width == 0 { cells.len() } else { (self.width / 3).clamp(1, cells.len()) };
        let layout = |columns: usize| -> (usize, Vec<usize>) {
            let rows = cells.len().div_ceil(columns);
            let mut widths = vec![0usize; columns];
            for (index, cell) in cells.iter().enumerate() {
                let column = if across { index % columns } else { index / rows };
                let gap = if column + 1 == columns { 0 } else { 2 };
                widths[column] = widths[column].max(cell.len() + gap);
            }
            (rows, widths)
        };
        // As in GNU: no column is narrower than three, and the line stays below the width.
        let fits = |columns: &usize| {
            self.width == 0
                || layout(*columns).1.iter().map(|width| *width.max(&3)).sum::<usize>() < self.width
        };
        let columns = (1..=most).rev().find(fits).unwrap_or(1);
        let (rows, widths) = layout(columns);
        let mut text = Vec::new();
        for row in 0..rows {
            // Gaps are tabs where they can be, as in GNU: 8 columns each.
            let (mut at, mut position) = (0usize, 0usize);
            for (column, width) in widths.iter().enumerate() {
                let index = if across { row * columns + column } else { column * rows + row };
                if index >= cells.len() {
                    break;
                }
                if column > 0 {
                    indent(&mut text, at, position);
                    at = position;
                }
                text.extend(&cells[index]);
                at += cells[index].len();
                position += width;
            }
            text.push(b'\n');
        }
        self.put(&text);
    }

    fn long(&mut self, items: &[Item]) {
        let owners = std::mem::take(&mut self.owners);
        let numeric = self.has("numeric-uid-gid");
        let user = |uid: u32| {
            owners.user_name(uid).filter(|_| !numeric).map_or_else(|| uid.to_string(), str::to_owned)
        };
        let group = |gid: u32| {
            owners.group_name(gid).filter(|_| !numeric).map_or_else(|| gid.to_string(), str::to_owned)
        };
        let mut rows: Vec<Vec<(String, bool)>> = Vec::new();
        for item in items {
            let mut row = Vec::new();
            if self.has("inode") {
                row.push((item.inode.to_string(), true));
            }
            let Some(stat) = &item.stat else {
                let blank = [
                    ("??????????", false),
                    ("?", true),
                    ("?", false),
                    ("?", false),
                    ("?", true),
                    ("?", true),
                ];
                row.extend(blank.map(|(text, right)| (text.to_owned(), right)));
                rows.push(row);
                continue;
            };
            if self.has("size") {
                row.push((self.blocks(stat.blocks), true));
            }
            row.push((mode::show(stat.mode), false));
            row.push((stat.links.to_string(), true));
            if !self.has("g") {
                row.push((user(stat.uid), false));
            }
            if !self.has("o") && !self.has("no-group") {
                row.push((group(stat.gid), false));
            }
            let size = match stat.kind() {
                Kind::Block | Kind::Character => {
                    let (major, minor) = file::device_numbers(stat.special);
                    format!("{major}, {minor}")
                }
                _ => match self.units {
                    Some(base) => human(stat.size as u64, base),
                    None => stat.size.to_string(),
                },
            };
            row.push((size, true));
            row.push((self.date(self.stamp(item)), true));
            rows.push(row);
        }
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        // Device numbers are two columns in one.
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.len()).max().unwrap_or(0)
            })
            .collect();
        let minors = |text: &str| text.split_once(", ").map(|(major, minor)| (major.len(), minor.len()));
        let size_column = columns.saturating_sub(2);
        let devices: Vec<(usize, usize)> =
            rows.iter().filter_map(|row| row.get(size_column)).filter_map(|(text, _)| minors(text)).collect();
        let major_width = devices.iter().map(|device| device.0).max().unwrap_or(0);
        let minor_width = devices.iter().map(|device| device.1).max().unwrap_or(0);
        for (row, item) in rows.iter().zip(items) {
            let mut line = Vec::new();
            for (column, ((text, right), width)) in row.iter().zip(&widths).enumerate() {
                let width = if column == size_column && !devices.is_empty() {
                    (*width).max(major_width + 2 + minor_width)
                } else {
                    *width
                };
                let text = match (column == size_column, text.split_once(", ")) {
                    (true, Some((major, minor))) => format!("{major:>major_width$}, {minor:>minor_width$}"),
                    _ => text.clone(),
                };
                let cell = if *right { format!("{text:>width$} ") } else { format!("{text:<width$} ") };
                line.extend(cell.bytes());
            }
            line.extend(self.name(&item.name));
            if item.kind == Kind::Symlink {
                if let Ok(target) = file::readlink(&item.path) {
                    line.extend(b" -> ");
                    line.extend(self.name(&target));
                    if self.indicator != "none"
                        && let Ok(stat) = file::stat(&item.path)
                    {
                        line.extend(self.mark(stat.kind(), stat.mode).bytes());
                    }
                }
            } else {
                line.extend(self.mark(item.kind, item.stat.map_or(0, |stat| stat.mode)).bytes());
            }
            line.push(self.end as u8);
            self.put(&line);
        }
        self.owners = owners;
    }

    fn date(&self, time: Time) -> String {
        // Half a mean Gregorian year back, and nothing of the future, is recent.
        let recent = time <= self.now && time.seconds > self.now.seconds - 31_556_952 / 2;
        let format = match &self.style[..] {
            "full-iso" => "%Y-%m-%d %H:%M:%S.%N %z",
            "long-iso" => "%Y-%m-%d %H:%M",
            "iso" if recent => "%m-%d %H:%M",
            "iso" => "%Y-%m-%d ",
            "locale" if recent => "%b %e %H:%M",
            "locale" => "%b %e  %Y",
            own => match (own[1..].split_once('\n'), recent) {
                (Some((old, _)), false) => old,
                (Some((_, new)), true) => new,
                (None, _) => &own[1..],
            },
        };
        time::format(time, &self.zone, format)
    }
}

fn indent(text: &mut Vec<u8>, from: usize, to: usize) {
    let mut at = from;
    while at < to {
        if to / 8 > (at + 1) / 8 {
            text.push(b'\t');
            at += 8 - at % 8;
        } else {
            text.push(b' ');
            at += 1;
        }
    }
}

/// A number of bytes as `1.5K`, rounded up.
pub(crate) fn human(bytes: u64, base: u64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let (mut unit, mut scale) = (0, 1u128);
    while u128::from(bytes) >= scale * u128::from(base) && unit + 1 < UNITS.len() {
        scale *= u128::from(base);
        unit += 1;
    }
    let bytes = u128::from(bytes);
    if unit == 0 {
        return bytes.to_string();
    }
    let tenths = (bytes * 10).div_ceil(scale);
    let letter = if base == 1000 && unit == 1 { "k" } else { UNITS[unit] };
    if tenths < 100 {
        return format!("{}.{}{letter}", tenths / 10, tenths % 10);
    }
    let whole = bytes.div_ceil(scale);
    if whole >= u128::from(base) && unit + 1 < UNITS.len() {
        return format!("1.0{}", UNITS[unit + 1]);
    }
    format!("{whole}{letter}")
}
