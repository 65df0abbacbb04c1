//! `tar`: creates, lists and extracts archives, appends to plain ones.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use toolbox_command::mode::Mode;
use toolbox_command::owner::Owners;
use toolbox_command::{Context, Order, Parsed, Spec, Tool, mode, pattern, quote};
use toolbox_linux::file::{self, Descriptor, Kind, Stat, open};
use toolbox_linux::process;

use crate::codec::{self, Encoder, Format};
use crate::extract;
use crate::header::{self, BLOCK, Dialect, Member, Reader};

const OPTIONS: Spec = &[
    ("c/create", "create an archive"),
    ("x/extract", "extract"),
    ("/get", "as -x"),
    ("t/list", "list"),
    ("r/append", "append to an archive that is not compressed"),
    ("f/file=", "the archive; - for standard input or output"),
    ("C/directory=", "work in this directory"),
    ("z/gzip", "compressed by gzip"),
    ("j/bzip2", "compressed by bzip2"),
    ("J/xz", "compressed by xz"),
    ("/zstd", "compressed by zstd"),
    ("a/auto-compress", "compressed as the name says"),
    ("v/verbose", "say what is done"),
    ("p/preserve-permissions", "keep modes, not less the umask"),
    ("/same-permissions", "as -p"),
    ("/no-same-permissions", "modes less the umask"),
    ("/same-owner", "keep owners (default for root)"),
    ("/no-same-owner", "files are the caller's"),
    ("/numeric-owner", "numbers of owners, not names"),
    ("O/to-stdout", "extract to standard output"),
    ("k/keep-old-files", "replace nothing, and fail"),
    ("/skip-old-files", "replace nothing"),
    ("/overwrite", "write into files that are there"),
    ("m/touch", "no times from the archive"),
    ("h/dereference", "follow links"),
    ("P/absolute-names", "keep slashes at the start of names"),
    ("T/files-from=", "names from this file"),
    ("X/exclude-from=", "leave out what matches a pattern of this file"),
    ("/exclude=", "leave out what matches"),
    ("/no-recursion", "directories without their contents"),
    ("/null", "names in -T end with NUL"),
    ("/one-file-system", "stay on one file system"),
    ("/strip-components=", "take so many names off the start"),
    ("/owner=", "owner of all members"),
    ("/group=", "group of all members"),
    ("/mode=", "mode of all members"),
    ("/mtime=", "time of all members: @SECONDS or YYYY-MM-DD[ HH:MM[:SS]] in UTC"),
    ("/sort=", "order of entries: none or name"),
    ("/format=", "gnu (default), ustar, pax, posix"),
    ("H=", "as --format"),
    ("/xattrs", "keep extended attributes (pax)"),
    ("/wildcards", "names to extract or list are patterns"),
    ("/no-wildcards", "names are names (default)"),
    ("/remove-files", "remove files that were added"),
];

pub(crate) const TAR: Tool = Tool {
    name: "tar",
    usage: "-c|-x|-t|-r [OPTION]... [FILE]...",
    options: OPTIONS,
    order: Order::Raw,
    misuse: 2,
    main: tar,
};

/// Letters without a dash as the first word: options whose arguments are the words that follow.
fn modern(words: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let old = words.first().is_some_and(|word| !word.starts_with(b"-") && !word.is_empty());
    if !old {
        return words;
    }
    let mut rest = words.into_iter();
    let letters = rest.next().unwrap_or_default();
    let mut out = Vec::new();
    for letter in letters {
        let argument = OPTIONS.iter().any(|(entry, _)| entry.as_bytes()[0] == letter && entry.ends_with('='));
        out.push(vec![b'-', letter]);
        if argument {
            out.extend(rest.next());
        }
    }
    out.extend(rest);
    out
}

pub(crate) struct Tar<'a> {
    pub(crate) context: &'a Context,
    pub(crate) parsed: &'a Parsed,
    pub(crate) owners: Owners,
    pub(crate) strip: usize,
    excluded: Vec<Vec<u8>>,
    dialect: Dialect,
    warned: std::cell::Cell<bool>,
}

fn tar(context: &Context, parsed: Parsed) -> i32 {
    let tool = Tool { order: Order::Anywhere, ..TAR };
    let parsed = toolbox_command::options::parse(&tool, context, modern(parsed.operands));
    let actions: Vec<&str> =
        ["create", "extract", "get", "list", "append"].into_iter().filter(|key| parsed.has(key)).collect();
    let action = match actions[..] {
        [] => context.misused("You must specify one of the '-ctxr' options"),
        [action] => action,
        _ => context.misused("You may not specify more than one '-ctxr' option"),
    };
    let mut excluded = Vec::new();
    for (option, value) in &parsed.options {
        let value = value.clone().unwrap_or_default();
        match *option {
            "exclude" => excluded.push(value),
            "exclude-from" => excluded.extend(lines(context, &value, b'\n')),
            _ => {}
        }
    }
    let dialect = match parsed.value("format").or_else(|| parsed.value("H")) {
        None if parsed.has("xattrs") => Dialect::Pax,
        None | Some(b"gnu" | b"oldgnu") => Dialect::Gnu,
        Some(b"ustar") => Dialect::Ustar,
        Some(b"pax" | b"posix") => Dialect::Pax,
        Some(other) => context.misused(format!("{}: Invalid archive format", String::from_utf8_lossy(other))),
    };
    let strip = parsed.text("strip-components").map_or(0, |text| {
        text.parse().unwrap_or_else(|_| context.misused(format!("{text}: Invalid number of elements")))
    });
    let tar = Tar {
        context,
        parsed: &parsed,
        owners: Owners::read(),
        strip,
        excluded,
        dialect,
        warned: false.into(),
    };
    match action {
        "create" => tar.create(),
        "append" => tar.append(),
        "list" => tar.list(),
        _ => extract::extract(&tar),
    }
    if context.status() != 0 {
        context.warn("Exiting with failure status due to previous errors");
    }
    context.status()
}

fn lines(context: &Context, name: &[u8], end: u8) -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    let opened = if name == b"-" { Ok(Descriptor::keep(0)) } else { file::open_read(name) };
    let read = opened.map_err(io::Error::from).and_then(|mut file| file.read_to_end(&mut text));
    if let Err(error) = read {
        context.die(
            2,
            format!("{}: Cannot open: {}", String::from_utf8_lossy(name), toolbox_command::reason(&error)),
        );
    }
    text.split(|&byte| byte == end).filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

impl<'a> Tar<'a> {
    /// Reports a failure that lets the rest go on.
    pub(crate) fn fail(&self, message: String) {
        self.context.warn(message);
        self.context.set_status(2);
    }

    pub(crate) fn fatal(&self, message: String) -> ! {
        self.context.warn(message);
        self.context.die(2, "Error is not recoverable: exiting now")
    }

    fn archive(&self) -> Vec<u8> {
        self.parsed.value("file").unwrap_or(b"-").to_vec()
    }

    fn format(&self) -> Option<Format> {
        match self.parsed.last(&["gzip", "bzip2", "xz", "zstd", "auto-compress"]) {
            Some("gzip") => Some(Format::Gzip),
            Some("bzip2") => Some(Format::Bzip2),
            Some("xz") => Some(Format::Xz),
            Some("zstd") => Some(Format::Zstd),
            Some(_) => Format::by_name(&self.archive()),
            None => None,
        }
    }

    pub(crate) fn change_directory(&self) {
        for (_, directory) in self.parsed.options.iter().filter(|(key, _)| *key == "directory") {
            let directory = directory.as_deref().unwrap_or_default();
            if let Err(reason) = process::chdir(directory) {
                self.fatal(format!("{}: Cannot open: {reason}", String::from_utf8_lossy(directory)));
            }
        }
    }

    pub(crate) fn is_excluded(&self, name: &[u8]) -> bool {
        self.excluded.iter().any(|glob| {
            let glob = glob.strip_suffix(b"/").unwrap_or(glob);
            // A pattern matches at the start or behind any slash, and all that is below.
            let starts = std::iter::once(0)
                .chain(name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1));
            starts.into_iter().any(|start| pattern::matches(glob, &name[start..], pattern::LEADING_DIRECTORY))
        })
    }

    /// Opens the archive to be read, whatever it is compressed with.
    pub(crate) fn reader(&self) -> Reader<Box<dyn Read + 'a>> {
        let name = self.archive();
        let opened = if name == b"-" { Ok(Descriptor::keep(0)) } else { file::open_read(&name) };
        let opened = opened.unwrap_or_else(|reason| {
            self.fatal(format!("{}: Cannot open: {reason}", String::from_utf8_lossy(&name)))
        });
        let decoded = codec::detect(opened).and_then(|(found, input)| codec::decoder(found, input));
        match decoded {
            Ok(decoded) => Reader::new(decoded),
            Err(error) => self.fatal(format!(
                "{}: Cannot read: {}",
                String::from_utf8_lossy(&name),
                toolbox_command::reason(&error)
            )),
        }
    }

    /// The next member, or the end; an archive that is broken ends the program.
    pub(crate) fn next(&self, reader: &mut Reader<Box<dyn Read + 'a>>) -> Option<Member> {
        match reader.next() {
            Ok(member) => member,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.fatal("Unexpected EOF in archive".into())
            }
            Err(error) => self.fatal(toolbox_command::reason(&error)),
        }
    }

    /// Whether a member is asked for by the operands; `found` notes which of them were.
    pub(crate) fn is_wanted(&self, name: &[u8], found: &mut [bool]) -> bool {
        if self.parsed.operands.is_empty() {
            return true;
        }
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let globs = self.parsed.last(&["wildcards", "no-wildcards"]) == Some("wildcards");
        let mut wanted = false;
        for (operand, found) in self.parsed.operands.iter().zip(found) {
            let operand = operand.strip_suffix(b"/").unwrap_or(operand);
            let hit = if globs {
                pattern::matches(operand, name, pattern::LEADING_DIRECTORY)
            } else {
                name.strip_prefix(operand).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            };
            *found |= hit;
            wanted |= hit;
        }
        wanted
    }

    pub(crate) fn report_missing(&self, found: &[bool]) {
        for (operand, found) in self.parsed.operands.iter().zip(found) {
            if !found {
                self.fail(format!("{}: Not found in archive", String::from_utf8_lossy(operand)));
            }
        }
    }

    fn list(&self) {
        self.change_directory();
        let mut reader = self.reader();
        let mut output = self.context.output();
        let mut found = vec![false; self.parsed.operands.len()];
        while let Some(member) = self.next(&mut reader) {
            if self.is_wanted(&member.name, &mut found) && !self.is_excluded(&member.name) {
                let line = self.line(&member);
                self.context.check_write(output.write_all(&line));
            }
        }
        self.context.check_write(output.flush());
        self.report_missing(&found);
    }

    /// A member as `-t` and `-v` show it.
    pub(crate) fn line(&self, member: &Member) -> Vec<u8> {
        let count = self.parsed.options.iter().filter(|(key, _)| *key == "verbose").count();
        let long = count > 1 || count == 1 && self.parsed.has("list");
        let mut line = Vec::new();
        if long {
            let kind = match member.kind {
                b'1' => 'h',
                b'2' => 'l',
                b'3' => 'c',
                b'4' => 'b',
                b'5' => 'd',
                b'6' => 'p',
                _ => '-',
            };
            let numeric = self.parsed.has("numeric-owner");
            let owner = |name: &[u8], id: u64| {
                if name.is_empty() || numeric {
                    id.to_string()
                } else {
                    String::from_utf8_lossy(name).into_owned()
                }
            };
            let owner = format!("{}/{}", owner(&member.user, member.uid), owner(&member.group, member.gid));
            let size = if matches!(member.kind, b'3' | b'4') {
                format!("{},{}", member.major, member.minor)
            } else {
                member.size.to_string()
            };
            let width = 19usize.saturating_sub(owner.len() + 1);
            let time = extract::date(member.seconds);
            line.extend(
                format!("{kind}{} {owner} {size:>width$} {time} ", &mode::show(member.mode)[1..]).bytes(),
            );
        }
        line.extend(escape(&member.name));
        if long && member.kind == b'1' {
            line.extend(b" link to ");
            line.extend(escape(&member.link));
        } else if long && member.kind == b'2' {
            line.extend(b" -> ");
            line.extend(escape(&member.link));
        }
        line.push(b'\n');
        line
    }

    fn create(&self) {
        let name = self.archive();
        if self.parsed.operands.is_empty() && !self.parsed.has("files-from") {
            self.context.misused("Cowardly refusing to create an empty archive");
        }
        if name == b"-" && process::is_terminal(1) {
            self.fatal("Refusing to write archive contents to terminal (missing -f option?)".into());
        }
        let opened = if name == b"-" { Ok(Descriptor::keep(1)) } else { file::create(&name) };
        let opened = opened.unwrap_or_else(|reason| {
            self.fatal(format!("{}: Cannot open: {reason}", String::from_utf8_lossy(&name)))
        });
        let own = opened.stat().ok().map(|stat| stat.identity());
        let encoder = Encoder::new(self.format(), 6, None, BufWriter::with_capacity(1 << 16, opened));
        let output = encoder.unwrap_or_else(|error| self.fatal(error.to_string()));
        self.fill(output, own, 0);
    }

    fn append(&self) {
        let name = self.archive();
        let mut opened = file::open(&name, open::RDWR, 0).unwrap_or_else(|reason| {
            self.fatal(format!("{}: Cannot open: {reason}", String::from_utf8_lossy(&name)))
        });
        // The end is where the first block of zeros lies.
        let mut reader = Reader::new(Counted { input: &mut opened, count: 0 });
        let end = loop {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) => break reader.into_inner().count - BLOCK as u64,
                Err(error) => self.fatal(toolbox_command::reason(&error)),
            }
        };
        if let Err(error) = opened.seek(SeekFrom::Start(end)) {
            self.fatal(toolbox_command::reason(&error));
        }
        let own = opened.stat().ok().map(|stat| stat.identity());
        let output = Encoder::new(None, 6, None, BufWriter::new(opened))
            .unwrap_or_else(|error| self.fatal(error.to_string()));
        self.fill(output, own, end);
    }

    fn fill(&self, output: Encoder<BufWriter<Descriptor>>, own: Option<(u64, u64)>, written: u64) {
        self.change_directory();
        let mut writer = Writer {
            tar: self,
            output,
            written,
            seen: HashMap::new(),
            own,
            to_stderr: self.archive() == b"-",
        };
        let mut names = Vec::new();
        for (_, list) in self.parsed.options.iter().filter(|(key, _)| *key == "files-from") {
            let end = if self.parsed.has("null") { 0 } else { b'\n' };
            names.extend(lines(self.context, list.as_deref().unwrap_or_default(), end));
        }
        names.extend(self.parsed.operands.iter().cloned());
        for name in names {
            writer.add(&name, None);
        }
        let Writer { mut output, written, .. } = writer;
        // Two blocks of zeros, then zeros up to a record of twenty blocks.
        let record = 20 * BLOCK as u64;
        let end = (written + 2 * BLOCK as u64).next_multiple_of(record) - written;
        let finished = output
            .write_all(&vec![0u8; end as usize])
            .and_then(|()| output.finish())
            .and_then(|mut output| output.flush());
        if let Err(error) = finished {
            self.fatal(format!("Cannot write: {}", toolbox_command::reason(&error)));
        }
    }
}

/// A name in a list: control characters and backslashes escaped.
pub(crate) fn escape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in name {
        match byte {
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\t' => out.extend(b"\\t"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend(format!("\\{byte:03o}").bytes()),
        }
    }
    out
}

struct Counted<'a> {
    input: &'a mut Descriptor,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

struct Writer<'a> {
    tar: &'a Tar<'a>,
    output: Encoder<BufWriter<Descriptor>>,
    written: u64,
    /// Names of files with several links.
    seen: HashMap<(u64, u64), Vec<u8>>,
    own: Option<(u64, u64)>,
    to_stderr: bool,
}

impl Writer<'_> {
    fn add(&mut self, path: &[u8], device: Option<u64>) {
        let tar = self.tar;
        let shown = || String::from_utf8_lossy(path).into_owned();
        if tar.is_excluded(path) {
            return;
        }
        let stat = match if tar.parsed.has("dereference") { file::stat(path) } else { file::lstat(path) } {
            Ok(stat) => stat,
            Err(reason) => return tar.fail(format!("{}: Cannot stat: {reason}", shown())),
        };
        if self.own == Some(stat.identity()) {
            tar.context.warn(format!("{}: archive cannot contain itself; not dumped", shown()));
            return;
        }
        if stat.kind() == Kind::Socket {
            tar.context.warn(format!("{}: socket ignored", shown()));
            return;
        }
        let member = self.member(path, &stat);
        let data = if member.kind == b'0' {
            match file::open_read(path) {
                Ok(opened) => Some(opened),
                Err(reason) => return tar.fail(format!("{}: Cannot open: {reason}", shown())),
            }
        } else {
            None
        };
        if member.kind != b'5' || !member.name.is_empty() {
            self.put(&member, data, &shown());
        }
        if stat.is_directory() && !tar.parsed.has("no-recursion") {
            if device.is_some_and(|device| device != stat.device) && tar.parsed.has("one-file-system") {
                tar.context.warn(format!("{}: file is on a different filesystem; not dumped", shown()));
                return;
            }
            let mut entries = match file::read_directory(path) {
                Ok(entries) => entries,
                Err(reason) => return tar.fail(format!("{}: Cannot open: {reason}", shown())),
            };
            if tar.parsed.value("sort") == Some(b"name") {
                entries.sort_by(|left, right| left.name.cmp(&right.name));
            }
            for entry in entries {
                let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
                self.add(&[path, slash, &entry.name].concat(), Some(stat.device));
            }
        }
        if tar.parsed.has("remove-files") {
            let removed = if stat.is_directory() { file::rmdir(path) } else { file::unlink(path) };
            if let Err(reason) = removed {
                tar.fail(format!("{}: Cannot unlink: {reason}", shown()));
            }
        }
    }

    fn member(&mut self, path: &[u8], stat: &Stat) -> Member {
        let tar = self.tar;
        let parsed = tar.parsed;
        let mut name = path.to_vec();
        if !parsed.has("absolute-names") {
            let (stripped, prefix) = extract::safe_name(path);
            if !prefix.is_empty() && !tar.warned.replace(true) {
                tar.context.warn(format!(
                    "Removing leading `{}' from member names",
                    String::from_utf8_lossy(prefix)
                ));
            }
            name = stripped.to_vec();
        }
        let kind = match stat.kind() {
            Kind::Directory => b'5',
            Kind::Symlink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Fifo => b'6',
            _ => b'0',
        };
        if kind == b'5' {
            while name.ends_with(b"/") {
                name.pop();
            }
            name.push(b'/');
        }
        let owners = &tar.owners;
        let pair = |key: &str, by_name: &dyn Fn(&str) -> Option<u32>| {
            parsed.text(key).map(|text| match text.split_once(':') {
                Some((name, number)) => (name.to_owned(), number.parse().ok()),
                None => match by_name(&text) {
                    Some(id) => {
                        (if text.parse::<u32>().is_ok() { String::new() } else { text.clone() }, Some(id))
                    }
                    None => (text.clone(), Some(0)),
                },
            })
        };
        let numeric = parsed.has("numeric-owner");
        let (user, uid) = pair("owner", &|name| owners.uid(name))
            .unwrap_or_else(|| (owners.user_name(stat.uid).unwrap_or_default().to_owned(), Some(stat.uid)));
        let (group, gid) = pair("group", &|name| owners.gid(name))
            .unwrap_or_else(|| (owners.group_name(stat.gid).unwrap_or_default().to_owned(), Some(stat.gid)));
        let mut mode = stat.mode & 0o7777;
        if let Some(text) = parsed.value("mode") {
            let Some(change) = Mode::parse(text) else {
                tar.context.misused(format!("Invalid mode given on option: {}", quote::always(text)));
            };
            mode = change.apply(mode, kind == b'5', tar.context.umask());
        }
        let seconds = match parsed.text("mtime") {
            Some(text) => extract::parse_date(&text).unwrap_or_else(|| {
                tar.context.misused(format!("Invalid mtime: {}", quote::always(text.as_bytes())))
            }),
            None => stat.modified.seconds,
        };
        let (major, minor) = file::device_numbers(stat.special);
        let mut member = Member {
            name,
            mode,
            uid: uid.unwrap_or(stat.uid).into(),
            gid: gid.unwrap_or(stat.gid).into(),
            size: if kind == b'0' { stat.size as u64 } else { 0 },
            seconds,
            kind,
            link: if kind == b'2' { file::readlink(path).unwrap_or_default() } else { Vec::new() },
            user: if numeric { Vec::new() } else { user.into_bytes() },
            group: if numeric { Vec::new() } else { group.into_bytes() },
            ..Member::default()
        };
        if matches!(kind, b'3' | b'4') {
            (member.major, member.minor) = (major, minor);
        }
        if parsed.has("xattrs") {
            for name in file::llistxattr(path).unwrap_or_default() {
                if let Ok(value) = file::lgetxattr(path, &name) {
                    member.attributes.push((name, value));
                }
            }
            member.attributes.sort();
        }
        if stat.links > 1 && kind != b'5' {
            match self.seen.get(&stat.identity()) {
                Some(first) => (member.kind, member.link, member.size) = (b'1', first.clone(), 0),
                None => {
                    self.seen.insert(stat.identity(), member.name.clone());
                }
            }
        }
        member
    }

    fn put(&mut self, member: &Member, data: Option<Descriptor>, shown: &str) {
        let tar = self.tar;
        let mut blocks = Vec::new();
        if let Err(error) = header::write(&mut blocks, member, tar.dialect) {
            return tar.fail(format!("{shown}: {error}"));
        }
        if tar.parsed.has("verbose") {
            let line = tar.line(member);
            let to = if self.to_stderr { 2 } else { 1 };
            tar.context.check_write(Descriptor::keep(to).write_all(&line));
        }
        let write = |output: &mut Encoder<BufWriter<Descriptor>>| -> io::Result<u64> {
            output.write_all(&blocks)?;
            let Some(data) = &data else { return Ok(0) };
            let mut left = member.size;
            let mut buffer = vec![0u8; 1 << 16];
            while left > 0 {
                let part = left.min(buffer.len() as u64) as usize;
                let count = file::read(data.raw(), &mut buffer[..part])?;
                if count == 0 {
                    // The file shrank: what is missing becomes zeros.
                    tar.fail(format!("{shown}: File shrank by {left} bytes; padding with zeros"));
                    io::copy(&mut io::repeat(0).take(left), output)?;
                    break;
                }
                output.write_all(&buffer[..count])?;
                left -= count as u64;
            }
            header::pad(output, member.size)?;
            Ok(member.size.next_multiple_of(BLOCK as u64))
        };
        match write(&mut self.output) {
            Ok(size) => self.written += blocks.len() as u64 + size,
            Err(error) => tar.fatal(format!("Cannot write: {}", toolbox_command::reason(&error))),
        }
    }
}
