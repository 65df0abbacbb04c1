//! `grep`, `egrep`, `fgrep`: lines that match.

use std::io::{BufRead, BufReader, Read, Write};

use toolbox_command::pattern;
use toolbox_command::{Context, Order, Output, Parsed, Spec, Tool, quote};
use toolbox_linux::file::{self, Descriptor};
use toolbox_linux::{Errno, errno};
use toolbox_regex::{Flags, Regex, Syntax};

const OPTIONS: Spec = &[
    ("E/extended-regexp", "extended expressions"),
    ("F/fixed-strings", "texts, not expressions"),
    ("G/basic-regexp", "basic expressions (default)"),
    ("e/regexp=", "a pattern; several may be given"),
    ("f/file=", "patterns from this file, one per line"),
    ("i/ignore-case", "letters match in both cases"),
    ("y", "as -i"),
    ("/no-ignore-case", "case counts (default)"),
    ("w/word-regexp", "only whole words"),
    ("x/line-regexp", "only whole lines"),
    ("z/null-data", "lines end with NUL"),
    ("s/no-messages", "no messages about files"),
    ("v/invert-match", "lines that do not match"),
    ("m/max-count=", "stop after so many lines of a file"),
    ("b/byte-offset", "the offset of each line, or match with -o"),
    ("n/line-number", "the number of each line"),
    ("/line-buffered", "write line by line"),
    ("H/with-filename", "the name of each file"),
    ("h/no-filename", "no names of files"),
    ("/label=", "name of the standard input"),
    ("o/only-matching", "only what matches"),
    ("q/quiet", "no output, only the exit code"),
    ("/silent", "as -q"),
    ("/binary-files=", "binary, text or without-match"),
    ("a/text", "treat every file as text"),
    ("I", "as --binary-files=without-match"),
    ("d/directories=", "read, skip or recurse"),
    ("D/devices=", "read or skip"),
    ("r/recursive", "directories, links only among the operands"),
    ("R/dereference-recursive", "directories, all links"),
    ("/include=", "only files with a name that matches"),
    ("/exclude=", "no files with a name that matches"),
    ("/exclude-from=", "as --exclude with the patterns of this file"),
    ("/exclude-dir=", "no directories with a name that matches"),
    ("L/files-without-match", "names of files without a match"),
    ("l/files-with-matches", "names of files with a match"),
    ("c/count", "the number of lines per file"),
    ("T/initial-tab", "a tab before the line"),
    ("Z/null", "NUL after names of files"),
    ("B/before-context=", "so many lines before"),
    ("A/after-context=", "so many lines after"),
    ("C/context=", "so many lines around"),
    ("/color?", "colours: never or auto"),
    ("/colour?", "as --color"),
    ("/group-separator=", "this between groups of context"),
    ("/no-group-separator", "nothing between groups of context"),
    ("0", "digits: as -C"),
    ("1", ""),
    ("2", ""),
    ("3", ""),
    ("4", ""),
    ("5", ""),
    ("6", ""),
    ("7", ""),
    ("8", ""),
    ("9", ""),
];

const fn tool(name: &'static str) -> Tool {
    Tool {
        name,
        usage: "[OPTION]... PATTERNS [FILE]...",
        options: OPTIONS,
        order: Order::Anywhere,
        misuse: 2,
        main: grep,
    }
}

/// Runs the tool that the program's name picks.
fn main() -> std::process::ExitCode {
    toolbox_command::run(&[tool("grep"), tool("egrep"), tool("fgrep")])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Binary {
    Notice,
    Text,
    Skip,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Lines,
    Matches,
    Count,
    With,
    Without,
    Nothing,
}

struct Grep<'a> {
    context: &'a Context,
    parsed: &'a Parsed,
    regex: Option<Regex>,
    /// No pattern at all matches nothing.
    word: bool,
    line: bool,
    invert: bool,
    show: Show,
    binary: Binary,
    most: Option<u64>,
    before: usize,
    after: usize,
    names: bool,
    end: u8,
    separator: Option<Vec<u8>>,
    output: Output,
    matched: bool,
    failed: bool,
    quiet_errors: bool,
    /// Whether a group of lines was printed before.
    printed: bool,
}

fn number(context: &Context, parsed: &Parsed, key: &str, what: &str) -> Option<usize> {
    let text = parsed.text(key)?;
    Some(text.parse().unwrap_or_else(|_| context.die(2, format!("{text}: invalid {what}"))))
}

fn patterns(context: &Context, parsed: &mut Parsed) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    let lines = |text: &[u8]| text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut given = false;
    for (option, value) in &parsed.options {
        let value = value.as_deref().unwrap_or_default();
        match *option {
            "regexp" => list.extend(lines(value)),
            "file" => {
                let mut text = Vec::new();
                let read = if value == b"-" { Ok(Descriptor::keep(0)) } else { file::open_read(value) };
                let read =
                    read.map_err(std::io::Error::from).and_then(|mut file| file.read_to_end(&mut text));
                if let Err(error) = read {
                    context
                        .die(2, format!("{}: {}", quote::if_needed(value), toolbox_command::reason(&error)));
                }
                if !text.is_empty() {
                    list.extend(lines(text.strip_suffix(b"\n").unwrap_or(&text)));
                }
            }
            _ => continue,
        }
        given = true;
    }
    if !given {
        if parsed.operands.is_empty() {
            let _ = Descriptor::keep(2).write_all(
                format!(
                    "Usage: {0} [OPTION]... PATTERNS [FILE]...\nTry '{0} --help' for more information.\n",
                    context.name
                )
                .as_bytes(),
            );
            std::process::exit(2);
        }
        list = lines(&parsed.operands.remove(0));
    }
    list
}

fn grep(context: &Context, parsed: Parsed) -> i32 {
    let mut parsed = parsed;
    let list = patterns(context, &mut parsed);
    let kind = parsed.last(&["extended-regexp", "fixed-strings", "basic-regexp"]);
    let kind = kind.or(match context.name {
        "egrep" => Some("extended-regexp"),
        "fgrep" => Some("fixed-strings"),
        _ => None,
    });
    let caseless = matches!(parsed.last(&["ignore-case", "y", "no-ignore-case"]), Some("ignore-case" | "y"));
    let texts: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
    let flags = Flags { caseless, ..Flags::default() };
    let regex = match kind {
        _ if texts.is_empty() => None,
        Some("fixed-strings") => Some(Regex::literals(&texts, caseless)),
        Some("extended-regexp") => Some(Regex::any(&texts, Syntax::Extended, flags)),
        _ => Some(Regex::any(&texts, Syntax::Basic, flags)),
    };
    let regex = regex.map(|regex| regex.unwrap_or_else(|message| context.die(2, message)));
    if let Some(value) = parsed.value("color").or_else(|| parsed.value("colour"))
        && !matches!(value, b"never" | b"no" | b"none" | b"auto" | b"tty" | b"if-tty")
    {
        context.die(2, format!("colours are not supported: --color={}", String::from_utf8_lossy(value)));
    }
    let last_show = parsed.last(&["files-with-matches", "files-without-match"]);
    let show = if parsed.has("quiet") || parsed.has("silent") {
        Show::Nothing
    } else if last_show == Some("files-with-matches") {
        Show::With
    } else if last_show.is_some() {
        Show::Without
    } else if parsed.has("count") {
        Show::Count
    } else if parsed.has("only-matching") {
        Show::Matches
    } else {
        Show::Lines
    };
    let binary = match parsed.last(&["binary-files", "text", "I"]) {
        Some("text") => Binary::Text,
        Some("I") => Binary::Skip,
        Some(_) => match parsed.value("binary-files").unwrap_or_default() {
            b"binary" => Binary::Notice,
            b"text" => Binary::Text,
            b"without-match" => Binary::Skip,
            _ => context.die(2, "invalid argument for --binary-files: unknown binary-files type"),
        },
        None => Binary::Notice,
    };
    let digits: String = parsed
        .options
        .iter()
        .map(|(key, _)| *key)
        .filter(|key| key.len() == 1 && key.as_bytes()[0].is_ascii_digit())
        .collect();
    let around = number(context, &parsed, "context", "context length argument")
        .or_else(|| digits.parse().ok())
        .unwrap_or(0);
    let most = parsed.text("max-count").map(|text| {
        let count: i64 = text.parse().unwrap_or_else(|_| context.die(2, "invalid max count"));
        u64::try_from(count).unwrap_or(u64::MAX)
    });
    let directories =
        match (parsed.has("recursive") || parsed.has("dereference-recursive"), parsed.value("directories")) {
            (true, _) | (_, Some(b"recurse")) => "recurse",
            (_, Some(b"skip")) => "skip",
            (_, Some(b"read") | None) => "read",
            (_, Some(other)) => {
                context.misused(format!("invalid argument {} for '--directories'", quote::always(other)))
            }
        };
    if let Some(value) = parsed.value("devices")
        && !matches!(value, b"read" | b"skip")
    {
        context.die(2, "unknown devices method");
    }
    let mut files = parsed.operands.clone();
    if files.is_empty() {
        files.push(if directories == "recurse" { b".".to_vec() } else { b"-".to_vec() });
    }
    let names = match parsed.last(&["with-filename", "no-filename"]) {
        Some(option) => option == "with-filename",
        None if directories == "recurse" => {
            files.len() > 1 || file::stat(&files[0]).is_ok_and(|stat| stat.is_directory())
        }
        None => files.len() > 1,
    };
    let bare = parsed.operands.is_empty() && directories == "recurse";
    let lines = matches!(show, Show::Lines);
    let mut grep = Grep {
        context,
        parsed: &parsed,
        regex,
        word: parsed.has("word-regexp"),
        line: parsed.has("line-regexp"),
        invert: parsed.has("invert-match"),
        show,
        binary,
        most,
        before: if lines {
            number(context, &parsed, "before-context", "context length argument").unwrap_or(around)
        } else {
            0
        },
        after: if lines {
            number(context, &parsed, "after-context", "context length argument").unwrap_or(around)
        } else {
            0
        },
        names,
        end: if parsed.has("null-data") { 0 } else { b'\n' },
        separator: match parsed.last(&["group-separator", "no-group-separator"]) {
            Some("group-separator") => parsed.value("group-separator").map(<[u8]>::to_vec),
            Some(_) => None,
            None => Some(b"--".to_vec()),
        },
        output: context.output(),
        matched: false,
        failed: false,
        quiet_errors: parsed.has("no-messages"),
        printed: false,
    };
    let excluded = grep.exclusions();
    for name in files {
        grep.operand(&name, directories, &excluded, bare);
    }
    let Grep { output, matched, failed, .. } = grep;
    let written = context.finish(output);
    match (written, failed && !(matched && show == Show::Nothing), matched) {
        (0, false, true) => 0,
        (0, false, false) => 1,
        _ => 2,
    }
}

/// Patterns of names: what is kept out, and in.
struct Exclusions {
    files: Vec<(Vec<u8>, bool)>,
    directories: Vec<Vec<u8>>,
}

impl Grep<'_> {
    fn error(&mut self, name: &[u8], reason: Errno) {
        self.failed = true;
        if !self.quiet_errors {
            let _ = self.output.flush();
            self.context.warn(format!("{}: {reason}", String::from_utf8_lossy(name)));
        }
    }

    fn exclusions(&self) -> Exclusions {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for (option, value) in &self.parsed.options {
            let value = value.clone().unwrap_or_default();
            match *option {
                "include" => files.push((value, true)),
                "exclude" => files.push((value, false)),
                "exclude-dir" => {
                    let end = value.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
                    directories.push(value[..end].to_vec());
                }
                "exclude-from" => {
                    let mut text = Vec::new();
                    let read = file::open_read(&value)
                        .map_err(std::io::Error::from)
                        .and_then(|mut file| file.read_to_end(&mut text));
                    if let Err(error) = read {
                        self.context.die(
                            2,
                            format!(
                                "{}: {}",
                                String::from_utf8_lossy(&value),
                                toolbox_command::reason(&error)
                            ),
                        );
                    }
                    files.extend(
                        text.split(|&byte| byte == b'\n')
                            .filter(|line| !line.is_empty())
                            .map(|line| (line.to_vec(), false)),
                    );
                }
                _ => {}
            }
        }
        Exclusions { files, directories }
    }

    fn operand(&mut self, name: &[u8], directories: &str, excluded: &Exclusions, bare: bool) {
        if name == b"-" {
            let label = self.parsed.value("label").unwrap_or(b"(standard input)").to_vec();
            self.search(Descriptor::keep(0), &label);
            return;
        }
        match file::stat(name) {
            Ok(stat) if stat.is_directory() => match directories {
                "recurse" => self.directory(name, excluded, bare),
                "skip" => {}
                _ => {
                    if !self.quiet_errors {
                        let _ = self.output.flush();
                        self.context.warn(format!("{}: Is a directory", String::from_utf8_lossy(name)));
                    }
                    self.failed = true;
                }
            },
            Ok(stat) => {
                let device = !matches!(stat.kind(), file::Kind::Regular | file::Kind::Symlink);
                if !(device && self.parsed.value("devices") == Some(b"skip")) && wanted(excluded, name, true)
                {
                    self.file(name);
                }
            }
            Err(reason) => self.error(name, reason),
        }
    }

    fn directory(&mut self, path: &[u8], excluded: &Exclusions, bare: bool) {
        let base = path.rsplit(|&byte| byte == b'/').find(|name| !name.is_empty()).unwrap_or(path);
        if excluded
            .directories
            .iter()
            .any(|glob| pattern::matches(glob, base, 0) || pattern::matches(glob, path, 0))
            && !bare
        {
            return;
        }
        let entries = match file::read_directory(path) {
            Ok(entries) => entries,
            Err(reason) => return self.error(path, reason),
        };
        for entry in entries {
            let child = if bare {
                entry.name.clone()
            } else {
                let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
                [path, slash, &entry.name].concat()
            };
            let follow = self.parsed.has("dereference-recursive");
            match if follow { file::stat(&child) } else { file::lstat(&child) } {
                Ok(stat) if stat.is_directory() => self.directory(&child, excluded, false),
                Ok(stat) if stat.kind() == file::Kind::Regular && wanted(excluded, &entry.name, false) => {
                    self.file(&child)
                }
                Ok(_) => {}
                Err(reason) => self.error(&child, reason),
            }
        }
    }

    fn file(&mut self, name: &[u8]) {
        match file::open_read(name) {
            Ok(opened) => self.search(opened, name),
            Err(reason) => self.error(name, reason),
        }
    }

    /// The next match of a line at or behind `start`.
    fn find(&self, line: &[u8], start: usize) -> Option<(usize, usize)> {
        let regex = self.regex.as_ref()?;
        let word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        if self.line {
            return (start == 0 && self.whole(regex, line)).then_some((0, line.len()));
        }
        let mut at = start;
        loop {
            let (from, to) = regex.find_at(line, at)?;
            if !self.word {
                return Some((from, to));
            }
            // Shorter matches at the same place are tried before later ones.
            let mut end = Some(to);
            while let Some(to) = end {
                let before = from.checked_sub(1).and_then(|before| line.get(before));
                if !word(before) && !word(line.get(to)) {
                    return Some((from, to));
                }
                end = if to > from {
                    regex.find_at(&line[..to - 1], from).filter(|span| span.0 == from).map(|span| span.1)
                } else {
                    None
                };
            }
            at = from + 1;
            if at > line.len() {
                return None;
            }
        }
    }

    fn whole(&self, regex: &Regex, line: &[u8]) -> bool {
        // The longest match from the start is the line, if any is.
        regex.find_at(line, 0) == Some((0, line.len()))
    }

    fn search(&mut self, opened: Descriptor, name: &[u8]) {
        let mut reader = BufReader::with_capacity(1 << 16, opened);
        let mut binary = match reader.fill_buf() {
            Ok(start) => self.binary != Binary::Text && self.end == b'\n' && start.contains(&0),
            Err(error) => return self.error(name, file::errno_of(&error).unwrap_or(errno::EIO)),
        };
        if binary && self.binary == Binary::Skip {
            if self.show == Show::Without {
                self.name_line(name);
            } else if self.show == Show::Count {
                self.count(name, 0);
            }
            return;
        }
        let (mut count, mut line_number, mut offset, mut trailing) = (0u64, 0u64, 0u64, 0usize);
        let mut earlier: std::collections::VecDeque<(u64, u64, Vec<u8>)> = std::collections::VecDeque::new();
        let mut last_printed: Option<u64> = None;
        let mut line = Vec::new();
        loop {
            if self.most.is_some_and(|most| count >= most) && trailing == 0 {
                break;
            }
            line.clear();
            match reader.read_until(self.end, &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return self.error(name, file::errno_of(&error).unwrap_or(errno::EIO)),
            }
            let length = line.len() as u64;
            if line.last() == Some(&self.end) {
                line.pop();
            }
            if !binary && self.binary != Binary::Text && self.end == b'\n' && line.contains(&0) {
                binary = true;
            }
            line_number += 1;
            let stopped = self.most.is_some_and(|most| count >= most);
            let found = !stopped && self.find(&line, 0).is_some() != self.invert;
            if found {
                count += 1;
                self.matched |= self.show != Show::Without;
                match self.show {
                    Show::Nothing | Show::With | Show::Without => break,
                    Show::Count => {}
                    _ if binary && self.binary == Binary::Notice => {
                        // On standard error, as in grep 3.8.
                        let _ = self.output.flush();
                        self.context.warn(format!("{}: binary file matches", String::from_utf8_lossy(name)));
                        return;
                    }
                    Show::Matches => self.matches(&line, name, line_number, offset),
                    Show::Lines => {
                        let first = earlier.front().map_or(line_number, |front| front.0);
                        self.gap(last_printed, first);
                        for (number, offset, text) in std::mem::take(&mut earlier) {
                            self.line(name, number, offset, &text, b'-');
                        }
                        self.line(name, line_number, offset, &line, b':');
                        last_printed = Some(line_number);
                        trailing = self.after;
                    }
                }
            } else if trailing > 0 && self.show == Show::Lines {
                self.line(name, line_number, offset, &line, b'-');
                last_printed = Some(line_number);
                trailing -= 1;
            } else if self.before > 0 {
                earlier.push_back((line_number, offset, line.clone()));
                if earlier.len() > self.before {
                    earlier.pop_front();
                }
            }
            offset += length;
        }
        match self.show {
            Show::Count => self.count(name, count),
            Show::With if count > 0 => self.name_line(name),
            Show::Without if count == 0 => {
                self.matched = true;
                self.name_line(name);
            }
            Show::Nothing if count > 0 => std::process::exit(0),
            _ => {}
        }
    }

    fn put(&mut self, text: &[u8]) {
        let result = self.output.write_all(text);
        self.context.check_write(result);
    }

    fn name_line(&mut self, name: &[u8]) {
        let end: &[u8] = if self.parsed.has("null") { b"\0" } else { b"\n" };
        self.put(&[name, end].concat());
    }

    fn count(&mut self, name: &[u8], count: u64) {
        if self.names {
            let end: &[u8] = if self.parsed.has("null") { b"\0" } else { b":" };
            self.put(&[name, end].concat());
        }
        self.put(format!("{count}\n").as_bytes());
    }

    fn gap(&mut self, last: Option<u64>, first: u64) {
        if self.before + self.after > 0 {
            let apart = last.is_none_or(|last| first > last + 1);
            if self.printed
                && apart
                && let Some(separator) = self.separator.clone()
            {
                self.put(&[&separator[..], b"\n"].concat());
            }
        }
        self.printed = true;
    }

    fn prefix(&mut self, name: &[u8], number: u64, offset: u64, mark: u8) {
        let mut text = Vec::new();
        if self.names {
            text.extend_from_slice(name);
            text.push(if self.parsed.has("null") { 0 } else { mark });
        }
        let width = if self.parsed.has("initial-tab") { 4 } else { 0 };
        if self.parsed.has("line-number") {
            text.extend(format!("{number:>width$}").bytes());
            text.push(mark);
        }
        if self.parsed.has("byte-offset") {
            text.extend(format!("{offset:>width$}").bytes());
            text.push(mark);
        }
        if self.parsed.has("initial-tab") && !text.is_empty() {
            text.push(b'\t');
        }
        self.put(&text);
    }

    fn line(&mut self, name: &[u8], number: u64, offset: u64, line: &[u8], mark: u8) {
        self.prefix(name, number, offset, mark);
        let end = self.end;
        self.put(line);
        self.put(&[end]);
        if self.parsed.has("line-buffered") {
            let result = self.output.flush();
            self.context.check_write(result);
        }
    }

    fn matches(&mut self, line: &[u8], name: &[u8], number: u64, offset: u64) {
        if self.invert {
            return;
        }
        let mut at = 0;
        while let Some((from, to)) = self.find(line, at) {
            if to > from {
                self.line(name, number, offset + from as u64, &line[from..to], b':');
            }
            at = if to > from { to } else { to + 1 };
            if at > line.len() {
                break;
            }
        }
    }
}

fn wanted(excluded: &Exclusions, name: &[u8], operand: bool) -> bool {
    let base = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
    let mut includes = excluded.files.iter().filter(|(_, include)| *include).peekable();
    let matches = |glob: &[u8]| pattern::matches(glob, base, 0) || operand && pattern::matches(glob, name, 0);
    let included = includes.peek().is_none() || includes.any(|(glob, _)| matches(glob));
    included && !excluded.files.iter().any(|(glob, include)| !include && matches(glob))
}
