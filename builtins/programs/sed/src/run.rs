//! The cycle: a line is read, the script runs, what is left is printed.

use std::io::{BufRead, BufReader, BufWriter, Write};

use toolbox_command::Context;
use toolbox_linux::file::{self, Descriptor, open};
use toolbox_regex::Regex;

use crate::script::{Action, Address, Case, Command, Part, Program, Substitution, Until};

pub(crate) struct Settings {
    pub(crate) quiet: bool,
    pub(crate) separate: bool,
    pub(crate) in_place: Option<Vec<u8>>,
    pub(crate) unbuffered: bool,
    pub(crate) end: u8,
    pub(crate) width: usize,
    pub(crate) follow: bool,
}

/// What a range of addresses is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Range {
    Idle,
    /// On until this line, or until its end matches.
    To(u64),
    Open,
    /// `0,/re/` before its first line.
    Fresh,
}

type Output = BufWriter<Descriptor>;

struct Sed<'a> {
    context: &'a Context,
    program: &'a Program,
    settings: Settings,
    files: std::collections::VecDeque<Vec<u8>>,
    input: Option<BufReader<Descriptor>>,
    name: Vec<u8>,
    /// The next line, read ahead to know the last one; with it whether it had an end.
    ahead: Option<(Vec<u8>, bool)>,
    line: u64,
    space: Vec<u8>,
    /// Whether the line in the pattern space had an end.
    ended: bool,
    hold: Vec<u8>,
    ranges: Vec<Range>,
    replaced: bool,
    appended: Vec<Appended<'a>>,
    output: Output,
    /// The file that is edited in place: its new text and its name.
    edited: Option<(Vec<u8>, Vec<u8>)>,
    outputs: Vec<Output>,
    inputs: Vec<Option<BufReader<Descriptor>>>,
    last: Option<&'a Regex>,
    quit: Option<i32>,
    /// Whether what was printed last lacks its newline.
    open_line: bool,
}

enum Appended<'a> {
    Text(&'a [u8]),
    File(&'a [u8]),
    Line(Vec<u8>),
}

pub(crate) fn run(context: &Context, program: &Program, settings: Settings, files: Vec<Vec<u8>>) -> i32 {
    let create = |name: &Vec<u8>| match &name[..] {
        b"/dev/stdout" => BufWriter::new(Descriptor::keep(1)),
        b"/dev/stderr" => BufWriter::new(Descriptor::keep(2)),
        name => match file::create(name) {
            Ok(created) => BufWriter::new(created),
            Err(reason) => {
                context.die(4, format!("couldn't open file {}: {reason}", String::from_utf8_lossy(name)))
            }
        },
    };
    let ranges = program.commands.iter().map(|command| match (&command.from, &command.to) {
        (Some(Address::Line(0)), Some(_)) => Range::Fresh,
        _ => Range::Idle,
    });
    let mut sed = Sed {
        context,
        program,
        settings,
        files: files.into(),
        input: None,
        name: b"-".to_vec(),
        ahead: None,
        line: 0,
        space: Vec::new(),
        ended: true,
        hold: Vec::new(),
        ranges: ranges.collect(),
        replaced: false,
        appended: Vec::new(),
        output: context.output(),
        edited: None,
        outputs: program.outputs.iter().map(create).collect(),
        inputs: program.inputs.iter().map(|name| file::open_read(name).ok().map(BufReader::new)).collect(),
        last: None,
        quit: None,
        open_line: false,
    };
    while sed.quit.is_none() && sed.read() {
        while sed.cycle() {}
    }
    sed.finish_file();
    for output in &mut sed.outputs {
        context.check_write(output.flush());
    }
    let Sed { output, quit, .. } = sed;
    let status = context.finish(output);
    quit.filter(|&code| code != 0).unwrap_or(status)
}

impl<'a> Sed<'a> {
    /// Reads ahead; `false` at the end of everything, or of a file if each counts for itself.
    fn fill(&mut self) -> bool {
        while self.ahead.is_none() {
            if let Some(input) = &mut self.input {
                let mut line = Vec::new();
                match input.read_until(self.settings.end, &mut line) {
                    Ok(0) => self.input = None,
                    Ok(_) => {
                        let ended = line.last() == Some(&self.settings.end);
                        if ended {
                            line.pop();
                        }
                        self.ahead = Some((line, ended));
                        return true;
                    }
                    Err(error) => {
                        let name = String::from_utf8_lossy(&self.name).into_owned();
                        let reason = toolbox_command::reason(&error);
                        let message = if reason == "Is a directory" && self.settings.in_place.is_some() {
                            format!("couldn't edit {name}: not a regular file")
                        } else {
                            format!("read error on {name}: {reason}")
                        };
                        self.context.warn(message);
                        self.context.set_status(2);
                        self.input = None;
                    }
                }
                if self.input.is_none() && self.settings.separate {
                    return false;
                }
                continue;
            }
            if !self.open_next() {
                return false;
            }
        }
        true
    }

    fn open_next(&mut self) -> bool {
        self.finish_file();
        while let Some(name) = self.files.pop_front() {
            let in_place = self.settings.in_place.is_some();
            let opened =
                if name == b"-" && !in_place { Ok(Descriptor::keep(0)) } else { file::open_read(&name) };
            match opened {
                Ok(opened) => {
                    let regular = opened.stat().is_ok_and(|stat| stat.kind() == file::Kind::Regular);
                    if in_place && !regular {
                        self.context.warn(format!(
                            "couldn't edit {}: not a regular file",
                            String::from_utf8_lossy(&name)
                        ));
                        self.context.set_status(4);
                        continue;
                    }
                    if in_place {
                        self.edited = Some((Vec::new(), name.clone()));
                    }
                    if self.settings.separate {
                        self.line = 0;
                    }
                    self.input = Some(BufReader::with_capacity(1 << 16, opened));
                    self.name = name;
                    return true;
                }
                Err(reason) => {
                    self.context.warn(format!("can't read {}: {reason}", String::from_utf8_lossy(&name)));
                    self.context.set_status(2);
                }
            }
        }
        false
    }

    /// Puts the new text of a file that is edited in its place.
    fn finish_file(&mut self) {
        let Some((text, name)) = self.edited.take() else { return };
        self.open_line = false;
        let target = if self.settings.follow {
            file::readlink(&name).map_or_else(
                |_| name.clone(),
                |link| {
                    if link.starts_with(b"/") { link } else { [directory(&name), b"/", &link].concat() }
                },
            )
        } else {
            name.clone()
        };
        let result = (|| -> Result<(), toolbox_linux::Errno> {
            let stat = file::stat(&target)?;
            let temporary =
                [directory(&target), format!("/sed{}", toolbox_linux::process::getpid()).as_bytes()].concat();
            let made = file::open(&temporary, open::WRONLY | open::CREAT | open::EXCL, 0o600)?;
            let mut writer = BufWriter::new(made);
            let written = writer.write_all(&text).and_then(|()| writer.flush());
            if let Err(error) = written {
                let _ = file::unlink(&temporary);
                return Err(file::errno_of(&error).unwrap_or(toolbox_linux::errno::EIO));
            }
            let _ = file::chown(&temporary, Some(stat.uid), Some(stat.gid), 0);
            file::chmod(&temporary, stat.mode & 0o7777)?;
            if let Some(suffix) = self.settings.in_place.as_ref().filter(|suffix| !suffix.is_empty()) {
                let backup = if suffix.contains(&b'*') {
                    let base = target.rsplit(|&byte| byte == b'/').next().unwrap_or(&target);
                    let filled = suffix.split(|&byte| byte == b'*').collect::<Vec<_>>().join(base);
                    if filled.contains(&b'/') { filled } else { [directory(&target), b"/", &filled].concat() }
                } else {
                    [&target[..], suffix].concat()
                };
                file::rename(&target, &backup)?;
            }
            file::rename(&temporary, &target)
        })();
        if let Err(reason) = result {
            self.context.warn(format!("couldn't edit {}: {reason}", String::from_utf8_lossy(&name)));
            self.context.set_status(4);
        }
    }

    /// Takes the next line into the pattern space.
    fn read(&mut self) -> bool {
        while !self.fill() {
            // With files that count for themselves the next one goes on.
            if self.files.is_empty() {
                return false;
            }
            if !self.open_next() {
                return false;
            }
        }
        let Some((line, ended)) = self.ahead.take() else { return false };
        self.space = line;
        self.ended = ended;
        self.line += 1;
        true
    }

    fn is_last(&mut self) -> bool {
        if self.ahead.is_some() {
            return false;
        }
        if self.settings.separate {
            return !self.fill();
        }
        // Files that are not there or empty do not hide the last line.
        !self.fill()
    }

    fn matches(&mut self, regex: Option<&'a Regex>) -> bool {
        match regex.or(self.last) {
            Some(regex) => {
                self.last = Some(regex);
                regex.is_match(&self.space)
            }
            None => self.context.die(1, "no previous regular expression"),
        }
    }

    fn at(&mut self, address: &'a Address) -> bool {
        match address {
            Address::Line(line) => self.line == *line,
            Address::Step(first, 0) => self.line == *first,
            Address::Step(first, step) => self.line >= *first && (self.line - first).is_multiple_of(*step),
            Address::Last => self.is_last(),
            Address::Match(regex) => self.matches(regex.as_ref()),
        }
    }

    fn selected(&mut self, index: usize, command: &'a Command) -> bool {
        let Some(from) = &command.from else { return true };
        let Some(to) = &command.to else { return self.at(from) };
        match self.ranges[index] {
            Range::Idle => {
                if !self.at(from) {
                    return false;
                }
                self.ranges[index] = match to {
                    Until::Lines(count) => Range::To(self.line + count),
                    Until::Multiple(0) => Range::Idle,
                    Until::Multiple(factor) => Range::To(self.line.div_ceil(*factor) * factor),
                    Until::Address(Address::Line(line)) => Range::To(*line),
                    Until::Address(_) => Range::Open,
                };
                if matches!(self.ranges[index], Range::To(end) if end <= self.line) {
                    self.ranges[index] = Range::Idle;
                }
                if matches!(to, Until::Address(Address::Last)) && self.is_last() {
                    self.ranges[index] = Range::Idle;
                }
                true
            }
            Range::To(end) => {
                if self.line >= end {
                    self.ranges[index] = Range::Idle;
                }
                // A range whose end has gone by ends before this line.
                self.line <= end || matches!(from, Address::Line(_)) && self.at(from)
            }
            Range::Open | Range::Fresh => {
                if let Until::Address(address) = to
                    && self.at(address)
                {
                    self.ranges[index] = Range::Idle;
                }
                true
            }
        }
    }

    fn put(&mut self, text: &[u8], ended: bool) {
        let end = self.settings.end;
        let open = std::mem::replace(&mut self.open_line, !ended);
        let before: &[u8] = if open { &[end] } else { b"" };
        let after: &[u8] = if ended { &[end] } else { b"" };
        match &mut self.edited {
            Some((file, _)) => file.extend([before, text, after].concat()),
            None => {
                let mut result = self.output.write_all(before);
                result = result
                    .and_then(|()| self.output.write_all(text))
                    .and_then(|()| self.output.write_all(after));
                if self.settings.unbuffered {
                    result = result.and_then(|()| self.output.flush());
                }
                if let Err(error) = result {
                    self.context
                        .die(4, format!("couldn't write to stdout: {}", toolbox_command::reason(&error)));
                }
            }
        }
    }

    /// Text with its own newlines.
    fn put_raw(&mut self, text: &[u8]) {
        match text.strip_suffix(b"\n") {
            Some(line) => {
                let end = std::mem::replace(&mut self.settings.end, b'\n');
                self.put(line, true);
                self.settings.end = end;
            }
            None if text.is_empty() => {}
            None => self.put(text, false),
        }
    }

    fn print(&mut self) {
        let space = std::mem::take(&mut self.space);
        let ended = self.ended;
        self.put(&space, ended);
        self.space = space;
    }

    /// What a cycle leaves: the pattern space, unless it is quiet, and what was appended.
    fn end_cycle(&mut self) {
        if !self.settings.quiet {
            self.print();
        }
        self.flush_appended();
    }

    fn flush_appended(&mut self) {
        for appended in std::mem::take(&mut self.appended) {
            match appended {
                Appended::Text(text) => self.put_raw(text),
                Appended::Line(line) => self.put(&line, true),
                Appended::File(name) => {
                    let mut text = Vec::new();
                    let opened =
                        if name == b"/dev/stdin" { Ok(Descriptor::keep(0)) } else { file::open_read(name) };
                    if let Ok(mut opened) = opened
                        && std::io::Read::read_to_end(&mut opened, &mut text).is_ok()
                    {
                        self.put_raw(&text);
                    }
                }
            }
        }
    }

    fn write(&mut self, output: usize, text: &[u8]) {
        if self.program.outputs[output] == b"/dev/stdout" {
            self.put(text, true);
            return;
        }
        let writer = &mut self.outputs[output];
        let result = writer.write_all(&[text, b"\n"].concat()).and_then(|()| writer.flush());
        self.context.check_write(result);
    }

    /// Runs the script once; `true` if it runs again on what is left in the pattern space.
    fn cycle(&mut self) -> bool {
        let program = self.program;
        let mut index = 0;
        self.replaced = false;
        while let Some(command) = program.commands.get(index) {
            index += 1;
            if self.selected(index - 1, command) == command.inverted {
                if let Action::Block(end) = command.action {
                    index = end;
                }
                continue;
            }
            match &command.action {
                Action::Block(_) | Action::Nothing => {}
                Action::LineNumber => {
                    let line = format!("{}\n", self.line);
                    self.put_raw(line.as_bytes());
                }
                Action::Append(text) => self.appended.push(Appended::Text(text)),
                Action::Insert(text) => self.put_raw(text),
                Action::Change(text) => {
                    let range = command.to.is_some() && !command.inverted;
                    if !range || self.ranges[index - 1] == Range::Idle {
                        self.put_raw(text);
                    }
                    self.flush_appended();
                    return false;
                }
                Action::Branch(to) => index = *to,
                Action::BranchIf(to) => {
                    if std::mem::take(&mut self.replaced) {
                        index = *to;
                    }
                }
                Action::BranchUnless(to) => {
                    if !std::mem::take(&mut self.replaced) {
                        index = *to;
                    }
                }
                Action::Delete => {
                    self.flush_appended();
                    return false;
                }
                Action::DeleteFirst => {
                    let newline = self.space.iter().position(|&byte| byte == b'\n');
                    self.flush_appended();
                    let Some(newline) = newline else { return false };
                    self.space.drain(..=newline);
                    return true;
                }
                Action::FileName => {
                    let name = [&self.name[..], b"\n"].concat();
                    self.put_raw(&name);
                }
                Action::GetHold => self.space.clone_from(&self.hold),
                Action::AppendHold => {
                    self.space.push(b'\n');
                    self.space.extend_from_slice(&self.hold);
                }
                Action::Hold => self.hold.clone_from(&self.space),
                Action::HoldAppend => {
                    self.hold.push(b'\n');
                    self.hold.extend_from_slice(&self.space);
                }
                Action::Exchange => std::mem::swap(&mut self.space, &mut self.hold),
                Action::List(width) => {
                    let text = list(&self.space, width.unwrap_or(self.settings.width));
                    self.put_raw(&text);
                }
                Action::Next => {
                    if self.is_last() && self.files.is_empty() {
                        // GNU prints the pattern space when there is no next line.
                        self.quit = Some(self.quit.unwrap_or(0));
                        self.end_cycle();
                        return false;
                    }
                    self.end_cycle();
                    if !self.read() {
                        return false;
                    }
                }
                Action::NextAppend => {
                    self.flush_appended();
                    if self.is_last() && (self.files.is_empty() || self.settings.separate) {
                        if self.files.is_empty() {
                            self.quit = Some(self.quit.unwrap_or(0));
                        }
                        self.end_cycle();
                        return false;
                    }
                    let before = std::mem::take(&mut self.space);
                    if !self.read() {
                        self.space = before;
                        self.end_cycle();
                        return false;
                    }
                    let end = self.settings.end;
                    self.space = [&before[..], &[end], &self.space].concat();
                }
                Action::Print => self.print(),
                Action::PrintFirst => {
                    let end = self.space.iter().position(|&byte| byte == b'\n').unwrap_or(self.space.len());
                    let line = self.space[..end].to_vec();
                    self.put(&line, true);
                }
                Action::Quit(code) => {
                    self.quit = Some(*code);
                    self.end_cycle();
                    self.copy_rest();
                    return false;
                }
                Action::QuitSilently(code) => {
                    self.quit = Some(*code);
                    self.copy_rest();
                    return false;
                }
                Action::Read(name) => self.appended.push(Appended::File(name)),
                Action::ReadLine(input) => {
                    let mut line = Vec::new();
                    if let Some(reader) = &mut self.inputs[*input]
                        && reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0)
                    {
                        if line.ends_with(b"\n") {
                            line.pop();
                        }
                        self.appended.push(Appended::Line(line));
                    }
                }
                Action::Substitute(substitution) => self.substitute(substitution),
                Action::Write(output) => {
                    let space = self.space.clone();
                    self.write(*output, &space);
                }
                Action::WriteFirst(output) => {
                    let end = self.space.iter().position(|&byte| byte == b'\n').unwrap_or(self.space.len());
                    let line = self.space[..end].to_vec();
                    self.write(*output, &line);
                }
                Action::Translate(table) => {
                    for byte in &mut self.space {
                        *byte = table[usize::from(*byte)];
                    }
                }
                Action::Zap => self.space.clear(),
            }
        }
        self.end_cycle();
        false
    }

    /// A file that is edited in place keeps what the script did not come to.
    fn copy_rest(&mut self) {
        if self.edited.is_none() {
            return;
        }
        while self.ahead.is_some() || self.input.is_some() && self.fill() {
            if let Some((line, ended)) = self.ahead.take() {
                self.put(&line, ended);
            }
        }
    }

    fn substitute(&mut self, substitution: &'a Substitution) {
        let Some(regex) = substitution.regex.as_ref().or(self.last) else {
            self.context.die(1, "no previous regular expression");
        };
        self.last = Some(regex);
        let text = std::mem::take(&mut self.space);
        let (mut out, mut at, mut copied, mut count, mut done) = (Vec::new(), 0, 0, 0, false);
        let mut spans = Vec::new();
        let mut last_end = None;
        while at <= text.len() && regex.captures_at(&text, at, &mut spans) {
            let Some((from, to)) = spans[0] else { break };
            // An empty match right behind the last one is none.
            if from == to && last_end == Some(from) {
                if from < text.len() {
                    out.push(text[from]);
                }
                at = from + 1;
                copied = at;
                continue;
            }
            count += 1;
            out.extend_from_slice(&text[copied..from]);
            if count >= substitution.number && (substitution.all || count == substitution.number) {
                replace(&mut out, &substitution.parts, &text, &spans);
                done = true;
            } else {
                out.extend_from_slice(&text[from..to]);
            }
            copied = to;
            at = to;
            last_end = (to > from).then_some(to);
            if from == to {
                if to < text.len() {
                    out.push(text[to]);
                }
                at = to + 1;
                copied = at;
            }
            if done && !substitution.all {
                break;
            }
        }
        if !done {
            self.space = text;
            return;
        }
        out.extend_from_slice(text.get(copied..).unwrap_or_default());
        self.space = out;
        self.replaced = true;
        for _ in 0..substitution.prints {
            self.print();
        }
        if let Some(output) = substitution.file {
            let space = self.space.clone();
            self.write(output, &space);
        }
    }
}

fn directory(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(b".", |at| if at == 0 { b"/" } else { &path[..at] })
}

fn replace(out: &mut Vec<u8>, parts: &[Part], text: &[u8], spans: &[Option<(usize, usize)>]) {
    let (mut all, mut next): (Option<Case>, Option<Case>) = (None, None);
    for part in parts {
        let piece = match part {
            Part::Text(piece) => &piece[..],
            Part::Group(group) => {
                spans.get(*group).copied().flatten().map_or(&b""[..], |(from, to)| &text[from..to])
            }
            Part::Case(case @ (Case::Lower | Case::Upper)) => {
                all = Some(*case);
                continue;
            }
            Part::Case(Case::End) => {
                (all, next) = (None, None);
                continue;
            }
            Part::Case(case) => {
                next = Some(*case);
                continue;
            }
        };
        for &byte in piece {
            let case = next.take().or(all);
            out.push(match case {
                Some(Case::Lower | Case::LowerNext) => byte.to_ascii_lowercase(),
                Some(Case::Upper | Case::UpperNext) => byte.to_ascii_uppercase(),
                _ => byte,
            });
        }
    }
}

/// A text as `l` shows it, folded to a width; 0 and 1 mean no folding.
fn list(text: &[u8], width: usize) -> Vec<u8> {
    let (mut out, mut column) = (Vec::new(), 0);
    for &byte in text {
        let piece = match byte {
            b'\\' => "\\\\".to_owned(),
            7 => "\\a".to_owned(),
            8 => "\\b".to_owned(),
            12 => "\\f".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\r' => "\\r".to_owned(),
            b'\t' => "\\t".to_owned(),
            11 => "\\v".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\{byte:03o}"),
        };
        if width > 1 && column + piece.len() > width - 1 {
            out.extend(b"\\\n");
            column = 0;
        }
        column += piece.len();
        out.extend(piece.bytes());
    }
    out.extend(b"$\n");
    out
}
