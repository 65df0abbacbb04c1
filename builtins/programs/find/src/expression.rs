//! The expression: how it is read, and what each test and action does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, BufWriter, Write};

use toolbox_command::mode::{self, Mode};
use toolbox_command::owner::Owners;
use toolbox_command::{Context, Output, pattern, quote};
use toolbox_linux::file::{self, Descriptor, Kind, Stat, Time};
use toolbox_linux::process::{self, Command};
use toolbox_regex::{Flags, Regex, Syntax};

use crate::put;

/// Which symbolic links are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    None,
    Operands,
    All,
}

/// A file that is looked at.
pub(crate) struct Entry<'a> {
    pub(crate) path: &'a [u8],
    /// Length of the operand that it was reached from.
    pub(crate) root: usize,
    pub(crate) stat: &'a Stat,
    pub(crate) depth: usize,
    pub(crate) pruned: bool,
}

/// A number that must be more than, less than or just this.
#[derive(Clone, Copy)]
pub(crate) struct Number {
    sign: std::cmp::Ordering,
    value: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Clock {
    Access,
    Change,
    Modify,
    Birth,
}

#[derive(Clone, Copy)]
pub(crate) enum Which {
    Name,
    Path,
    Link,
}

pub(crate) enum Expression {
    Constant(bool),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    List(Vec<Expression>),
    Age(Clock, Number, u64),
    Newer(Clock, Time),
    Used(Number),
    Empty,
    Access(u32),
    Uid(Number),
    Gid(Number),
    NoUser,
    NoGroup,
    Inode(Number),
    LinkCount(Number),
    Matches(Which, Vec<u8>, u32),
    Regex(Box<Regex>),
    Permission(u8, u32),
    Same((u64, u64)),
    Size(Number, u64),
    Type(Vec<Kind>, bool),
    Print(usize, u8),
    Format(usize, Vec<u8>),
    List5(usize),
    Delete,
    Prune,
    Quit,
    Execute { words: Vec<Vec<u8>>, inside: bool, asks: bool },
    Batch(usize),
}

/// A command for many files at a time.
struct Batch {
    words: Vec<Vec<u8>>,
    inside: bool,
    files: Vec<Vec<u8>>,
    length: usize,
    directory: Vec<u8>,
}

pub(crate) struct Find<'a> {
    pub(crate) context: &'a Context,
    pub(crate) links: Links,
    pub(crate) least: usize,
    pub(crate) most: usize,
    pub(crate) depth_first: bool,
    pub(crate) one_device: bool,
    pub(crate) stopped: bool,
    now: Time,
    day_start: bool,
    owners: Owners,
    outputs: Vec<Output>,
    batches: Vec<Batch>,
}

/// Bytes of arguments per command.
const MOST_BYTES: usize = 128 << 10;

struct Parser<'a, 'b> {
    find: Find<'a>,
    words: &'b [Vec<u8>],
    at: usize,
    files: HashMap<Vec<u8>, usize>,
    syntax: Syntax,
    acts: bool,
}

/// Reads an expression; a wrong one ends the program.
pub(crate) fn parse<'a>(context: &'a Context, words: &[Vec<u8>], links: Links) -> (Find<'a>, Expression) {
    let find = Find {
        context,
        links,
        least: 0,
        most: usize::MAX,
        depth_first: false,
        one_device: false,
        stopped: false,
        now: process::now(),
        day_start: false,
        owners: Owners::read(),
        outputs: vec![context.output()],
        batches: Vec::new(),
    };
    // Emacs' syntax, find's default, differs from the basic one in its operators `+` and `?`, which need no backslash: it is read as
    // such below.
    let mut parser = Parser { find, words, at: 0, files: HashMap::new(), syntax: Syntax::Basic, acts: false };
    let mut expression = if words.is_empty() { Expression::Constant(true) } else { parser.list() };
    if parser.at < words.len() {
        let word = &words[parser.at];
        if word == b")" {
            context.die(1, "invalid expression; you have too many ')'");
        }
        context.die(1, format!("paths must precede expression: `{}'", String::from_utf8_lossy(word)));
    }
    if !parser.acts {
        expression = Expression::And(vec![expression, Expression::Print(0, b'\n')]);
    }
    (parser.find, expression)
}

impl Parser<'_, '_> {
    fn peek(&self) -> Option<&[u8]> {
        self.words.get(self.at).map(Vec::as_slice)
    }

    fn list(&mut self) -> Expression {
        let mut parts = vec![self.or()];
        while self.peek() == Some(b",") {
            self.at += 1;
            parts.push(self.or());
        }
        if parts.len() == 1 { parts.remove(0) } else { Expression::List(parts) }
    }

    fn or(&mut self) -> Expression {
        let mut parts = vec![self.and()];
        while matches!(self.peek(), Some(b"-o" | b"-or")) {
            self.at += 1;
            parts.push(self.and());
        }
        if parts.len() == 1 { parts.remove(0) } else { Expression::Or(parts) }
    }

    fn and(&mut self) -> Expression {
        let mut parts = vec![self.term()];
        loop {
            match self.peek() {
                Some(b"-a" | b"-and") => {
                    self.at += 1;
                    parts.push(self.term());
                }
                None | Some(b"-o" | b"-or" | b"," | b")") => break,
                Some(_) => parts.push(self.term()),
            }
        }
        if parts.len() == 1 { parts.remove(0) } else { Expression::And(parts) }
    }

    fn term(&mut self) -> Expression {
        let Some(word) = self.peek().map(<[u8]>::to_vec) else {
            let last = self
                .at
                .checked_sub(1)
                .map(|at| String::from_utf8_lossy(&self.words[at]).into_owned())
                .unwrap_or_default();
            self.find
                .context
                .die(1, format!("invalid expression; expected to find an expression after '{last}'"));
        };
        self.at += 1;
        match &word[..] {
            b"!" | b"-not" => Expression::Not(Box::new(self.term())),
            b"(" => {
                if self.peek() == Some(b")") {
                    self.find.context.die(1, "invalid expression; empty parentheses are not allowed.");
                }
                let inside = self.list();
                if self.peek() != Some(b")") {
                    self.find.context.die(
                        1,
                        "invalid expression; I was expecting to find a ')' somewhere but did not see one.",
                    );
                }
                self.at += 1;
                inside
            }
            _ => self.primary(&word),
        }
    }

    fn argument(&mut self, name: &[u8]) -> Vec<u8> {
        let Some(word) = self.peek().map(<[u8]>::to_vec) else {
            self.find.context.die(1, format!("missing argument to `{}'", String::from_utf8_lossy(name)));
        };
        self.at += 1;
        word
    }

    fn wrong(&self, name: &[u8], argument: &[u8]) -> ! {
        let (name, argument) = (String::from_utf8_lossy(name), String::from_utf8_lossy(argument));
        self.find.context.die(1, format!("invalid argument `{argument}' to `{name}'"))
    }

    fn number(&mut self, name: &[u8]) -> Number {
        let word = self.argument(name);
        parse_number(&word).unwrap_or_else(|| self.wrong(name, &word))
    }

    fn text(&mut self, name: &[u8]) -> String {
        String::from_utf8_lossy(&self.argument(name)).into_owned()
    }

    fn output(&mut self, name: &[u8]) -> usize {
        let path = self.argument(name);
        if let Some(index) = self.files.get(&path) {
            return *index;
        }
        let opened = match &path[..] {
            b"/dev/stdout" => Ok(Descriptor::keep(1)),
            b"/dev/stderr" => Ok(Descriptor::keep(2)),
            path => file::create(path),
        };
        let opened = opened
            .unwrap_or_else(|reason| self.find.context.die(1, format!("{}: {reason}", quote::always(&path))));
        self.find.outputs.push(BufWriter::new(opened));
        let index = self.find.outputs.len() - 1;
        self.files.insert(path, index);
        index
    }

    fn reference(&mut self, name: &[u8]) -> Stat {
        let path = self.argument(name);
        let follow = self.find.links != Links::None;
        let stat = if follow { file::stat(&path) } else { file::lstat(&path) };
        stat.unwrap_or_else(|reason| self.find.context.die(1, format!("{}: {reason}", quote::always(&path))))
    }

    fn primary(&mut self, name: &[u8]) -> Expression {
        const DAY: u64 = 86400;
        let yes = Expression::Constant(true);
        match name {
            b"-true"
            | b"-noleaf"
            | b"-ignore_readdir_race"
            | b"-noignore_readdir_race"
            | b"-warn"
            | b"-nowarn" => yes,
            b"-false" => Expression::Constant(false),
            b"-depth" | b"-d" => {
                self.find.depth_first = true;
                yes
            }
            b"-mount" | b"-xdev" => {
                self.find.one_device = true;
                yes
            }
            b"-daystart" => {
                self.find.day_start = true;
                yes
            }
            b"-follow" => {
                self.find.links = Links::All;
                yes
            }
            b"-maxdepth" | b"-mindepth" => {
                let word = self.argument(name);
                let Some(depth) = String::from_utf8_lossy(&word).parse().ok() else {
                    self.find.context.die(
                        1,
                        format!(
                            "Expected a positive decimal integer argument to {}, but got {}",
                            String::from_utf8_lossy(name),
                            quote::always(&word)
                        ),
                    );
                };
                if name == b"-maxdepth" {
                    self.find.most = depth
                } else {
                    self.find.least = depth
                }
                yes
            }
            b"-regextype" => {
                let word = self.argument(name);
                self.syntax = match &word[..] {
                    b"posix-extended" | b"egrep" | b"posix-egrep" | b"awk" | b"posix-awk" | b"gnu-awk" => {
                        Syntax::Extended
                    }
                    b"emacs"
                    | b"findutils-default"
                    | b"posix-basic"
                    | b"posix-minimal-basic"
                    | b"grep"
                    | b"ed"
                    | b"sed" => Syntax::Basic,
                    other => self
                        .find
                        .context
                        .die(1, format!("Unknown regular expression type {}", quote::always(other))),
                };
                yes
            }
            b"-amin" => Expression::Age(Clock::Access, self.number(name), 60),
            b"-cmin" => Expression::Age(Clock::Change, self.number(name), 60),
            b"-mmin" => Expression::Age(Clock::Modify, self.number(name), 60),
            b"-atime" => Expression::Age(Clock::Access, self.number(name), DAY),
            b"-ctime" => Expression::Age(Clock::Change, self.number(name), DAY),
            b"-mtime" => Expression::Age(Clock::Modify, self.number(name), DAY),
            b"-anewer" => Expression::Newer(Clock::Access, self.reference(name).modified),
            b"-cnewer" => Expression::Newer(Clock::Change, self.reference(name).modified),
            b"-newer" => Expression::Newer(Clock::Modify, self.reference(name).modified),
            [
                b'-',
                b'n',
                b'e',
                b'w',
                b'e',
                b'r',
                own @ (b'a' | b'B' | b'c' | b'm'),
                other @ (b'a' | b'B' | b'c' | b'm' | b't'),
            ] => {
                let own = clock(*own);
                if *other == b't' {
                    let word = self.argument(name);
                    let time = parse_time(&word).unwrap_or_else(|| {
                        self.find.context.die(
                            1,
                            format!(
                                "I cannot figure out how to interpret {} as a date or time",
                                quote::always(&word)
                            ),
                        )
                    });
                    return Expression::Newer(own, time);
                }
                let path = self.peek().unwrap_or_default().to_vec();
                let stat = self.reference(name);
                Expression::Newer(own, read_clock(clock(*other), &path, &stat).unwrap_or_default())
            }
            b"-used" => Expression::Used(self.number(name)),
            b"-empty" => Expression::Empty,
            b"-executable" => Expression::Access(1),
            b"-readable" => Expression::Access(4),
            b"-writable" => Expression::Access(2),
            b"-uid" => Expression::Uid(self.number(name)),
            b"-gid" => Expression::Gid(self.number(name)),
            b"-user" | b"-group" => {
                let text = self.text(name);
                let user = name == b"-user";
                let id = if user { self.find.owners.uid(&text) } else { self.find.owners.gid(&text) };
                let Some(id) = id else {
                    let what = if user { "user" } else { "group" };
                    self.find.context.die(
                        1,
                        format!("{} is not the name of a known {what}", quote::always(text.as_bytes())),
                    );
                };
                let number = Number { sign: std::cmp::Ordering::Equal, value: id.into() };
                if user { Expression::Uid(number) } else { Expression::Gid(number) }
            }
            b"-nouser" => Expression::NoUser,
            b"-nogroup" => Expression::NoGroup,
            b"-inum" => Expression::Inode(self.number(name)),
            b"-links" => Expression::LinkCount(self.number(name)),
            b"-name" => Expression::Matches(Which::Name, self.argument(name), 0),
            b"-iname" => Expression::Matches(Which::Name, self.argument(name), pattern::CASEFOLD),
            b"-path" | b"-wholename" => Expression::Matches(Which::Path, self.argument(name), 0),
            b"-ipath" | b"-iwholename" => {
                Expression::Matches(Which::Path, self.argument(name), pattern::CASEFOLD)
            }
            b"-lname" => Expression::Matches(Which::Link, self.argument(name), 0),
            b"-ilname" => Expression::Matches(Which::Link, self.argument(name), pattern::CASEFOLD),
            b"-regex" | b"-iregex" => {
                let text = self.argument(name);
                let flags = Flags { caseless: name == b"-iregex", ..Flags::default() };
                let text = if self.syntax == Syntax::Basic { from_emacs(&text) } else { text };
                let regex = Regex::new(&text, self.syntax, flags);
                Expression::Regex(Box::new(regex.unwrap_or_else(|message| self.find.context.die(1, message))))
            }
            b"-perm" => {
                let word = self.argument(name);
                let (kind, text) = match word.first() {
                    Some(kind @ (b'-' | b'/')) => (*kind, &word[1..]),
                    _ => (b'=', &word[..]),
                };
                let Some(mode) = Mode::parse(text) else {
                    self.find.context.die(1, format!("invalid mode {}", quote::always(&word)));
                };
                Expression::Permission(kind, mode.apply(0, false, 0))
            }
            b"-samefile" => Expression::Same(self.reference(name).identity()),
            b"-size" => {
                let word = self.argument(name);
                let (text, unit) = match word.last() {
                    Some(b'b') => (&word[..word.len() - 1], 512),
                    Some(b'c') => (&word[..word.len() - 1], 1),
                    Some(b'w') => (&word[..word.len() - 1], 2),
                    Some(b'k') => (&word[..word.len() - 1], 1 << 10),
                    Some(b'M') => (&word[..word.len() - 1], 1 << 20),
                    Some(b'G') => (&word[..word.len() - 1], 1 << 30),
                    _ => (&word[..], 512),
                };
                Expression::Size(parse_number(text).unwrap_or_else(|| self.wrong(name, &word)), unit)
            }
            b"-type" | b"-xtype" => {
                let word = self.argument(name);
                let kinds: Option<Vec<Kind>> = word.split(|&byte| byte == b',').map(kind).collect();
                let Some(kinds) = kinds else {
                    self.find.context.die(
                        1,
                        format!(
                            "Unknown argument to {}: {}",
                            String::from_utf8_lossy(name),
                            String::from_utf8_lossy(&word)
                        ),
                    );
                };
                Expression::Type(kinds, name == b"-xtype")
            }
            _ => self.action(name),
        }
    }

    fn action(&mut self, name: &[u8]) -> Expression {
        if name != b"-prune" {
            self.acts = true;
        }
        match name {
            b"-print" => Expression::Print(0, b'\n'),
            b"-print0" => Expression::Print(0, 0),
            b"-printf" => Expression::Format(0, self.argument(name)),
            b"-fprint" => Expression::Print(self.output(name), b'\n'),
            b"-fprint0" => Expression::Print(self.output(name), 0),
            b"-fprintf" => Expression::Format(self.output(name), self.argument(name)),
            b"-ls" => Expression::List5(0),
            b"-fls" => Expression::List5(self.output(name)),
            b"-delete" => {
                self.find.depth_first = true;
                Expression::Delete
            }
            b"-prune" => Expression::Prune,
            b"-quit" => Expression::Quit,
            b"-exec" | b"-execdir" | b"-ok" | b"-okdir" => {
                let inside = name.ends_with(b"dir");
                let mut words = Vec::new();
                loop {
                    let Some(word) = self.peek().map(<[u8]>::to_vec) else {
                        self.find
                            .context
                            .die(1, format!("missing argument to `{}'", String::from_utf8_lossy(name)));
                    };
                    self.at += 1;
                    let asks = name.starts_with(b"-ok");
                    if word == b";" {
                        if words.is_empty() {
                            self.find
                                .context
                                .die(1, format!("missing argument to `{}'", String::from_utf8_lossy(name)));
                        }
                        return Expression::Execute { words, inside, asks };
                    }
                    if word == b"+" && !asks && words.last().is_some_and(|last: &Vec<u8>| last == b"{}") {
                        words.pop();
                        let length = words.iter().map(|word| word.len() + 1).sum();
                        self.find.batches.push(Batch {
                            words,
                            inside,
                            files: Vec::new(),
                            length,
                            directory: Vec::new(),
                        });
                        return Expression::Batch(self.find.batches.len() - 1);
                    }
                    words.push(word);
                }
            }
            other if other.starts_with(b"-") => {
                self.find.context.die(1, format!("unknown predicate `{}'", String::from_utf8_lossy(other)))
            }
            other => self
                .find
                .context
                .die(1, format!("paths must precede expression: `{}'", String::from_utf8_lossy(other))),
        }
    }
}

/// Emacs' expressions as basic ones: `+` and `?` are operators, `\+` and `\?` are not.
fn from_emacs(text: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut bracket) = (Vec::new(), text, false);
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b']' if bracket => bracket = false,
            b'[' if !bracket => {
                bracket = true;
                out.push(*byte);
                while let [byte @ (b'^' | b']'), after @ ..] = rest {
                    out.push(*byte);
                    rest = after;
                }
                continue;
            }
            b'+' | b'?' if !bracket => out.push(b'\\'),
            b'\\' if !bracket => {
                if let [letter, after @ ..] = rest {
                    rest = after;
                    if !b"+?".contains(letter) {
                        out.push(b'\\');
                    }
                    out.push(*letter);
                }
                continue;
            }
            _ => {}
        }
        out.push(*byte);
    }
    out
}

fn parse_number(word: &[u8]) -> Option<Number> {
    let (sign, digits) = match word.first()? {
        b'+' => (std::cmp::Ordering::Greater, &word[1..]),
        b'-' => (std::cmp::Ordering::Less, &word[1..]),
        _ => (std::cmp::Ordering::Equal, word),
    };
    Some(Number { sign, value: std::str::from_utf8(digits).ok()?.parse().ok()? })
}

/// Reads `YYYY-MM-DD[ HH:MM[:SS]]` in UTC or `@SECONDS`.
fn parse_time(word: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(word).ok()?;
    if let Some(seconds) = text.strip_prefix('@') {
        return Some(Time { seconds: seconds.parse().ok()?, nanoseconds: 0 });
    }
    let mut parts = text.split([' ', 'T']);
    let date: Vec<i64> = parts.next()?.split('-').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let clock: Vec<i64> =
        parts.next().unwrap_or("0:0").split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [year, month, day] = date[..] else { return None };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || parts.next().is_some() {
        return None;
    }
    // Days from civil, with years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, shifted) = (year.div_euclid(400), (month + 9) % 12);
    let of_era = year.rem_euclid(400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * shifted + 2) / 5 + day
        - 1
        - 719_468;
    let seconds = clock.first()? * 3600 + clock.get(1)? * 60 + clock.get(2).copied().unwrap_or(0);
    Some(Time { seconds: days * 86400 + seconds, nanoseconds: 0 })
}

fn kind(letter: &[u8]) -> Option<Kind> {
    Some(match letter {
        b"b" => Kind::Block,
        b"c" => Kind::Character,
        b"d" => Kind::Directory,
        b"p" => Kind::Fifo,
        b"f" => Kind::Regular,
        b"l" => Kind::Symlink,
        b"s" => Kind::Socket,
        _ => return None,
    })
}

fn letter(kind: Kind) -> char {
    match kind {
        Kind::Block => 'b',
        Kind::Character => 'c',
        Kind::Directory => 'd',
        Kind::Fifo => 'p',
        Kind::Regular => 'f',
        Kind::Symlink => 'l',
        Kind::Socket => 's',
        Kind::Unknown => 'U',
    }
}

fn clock(letter: u8) -> Clock {
    match letter {
        b'a' => Clock::Access,
        b'c' => Clock::Change,
        b'B' => Clock::Birth,
        _ => Clock::Modify,
    }
}

fn read_clock(clock: Clock, path: &[u8], stat: &Stat) -> Option<Time> {
    match clock {
        Clock::Access => Some(stat.accessed),
        Clock::Change => Some(stat.changed),
        Clock::Modify => Some(stat.modified),
        Clock::Birth => file::birth(path, file::AT_SYMLINK_NOFOLLOW).ok().flatten(),
    }
}

impl Number {
    fn holds(self, value: u64) -> bool {
        value.cmp(&self.value) == self.sign
    }
}

impl Entry<'_> {
    fn base(&self) -> &[u8] {
        let mut path = self.path;
        while path.len() > 1 && path.ends_with(b"/") {
            path = &path[..path.len() - 1];
        }
        if path == b"/" { path } else { path.rsplit(|&byte| byte == b'/').next().unwrap_or(path) }
    }

    /// The directory that it lies in, as written.
    fn directory(&self) -> Vec<u8> {
        let end = self.path.iter().rposition(|&byte| byte != b'/').map_or(1, |at| at + 1);
        let path = &self.path[..end.min(self.path.len())];
        match path.iter().rposition(|&byte| byte == b'/') {
            None => b".".to_vec(),
            Some(0) if path.len() == 1 => b"/".to_vec(),
            Some(0) => Vec::new(),
            Some(at) => path[..at].to_vec(),
        }
    }
}

impl Find<'_> {
    pub(crate) fn flush(&mut self) {
        for output in &mut self.outputs {
            let result = output.flush();
            self.context.check_write(result);
        }
    }

    /// Runs what is left of the batches; the answer is the exit code.
    pub(crate) fn finish(mut self) -> i32 {
        for batch in 0..self.batches.len() {
            self.run_batch(batch);
        }
        self.flush();
        self.context.status()
    }

    pub(crate) fn evaluate(&mut self, expression: &Expression, entry: &mut Entry<'_>) -> bool {
        let stat = entry.stat;
        match expression {
            Expression::Constant(value) => *value,
            Expression::Not(inside) => !self.evaluate(inside, entry),
            Expression::And(parts) => parts.iter().all(|part| self.evaluate(part, entry)),
            Expression::Or(parts) => parts.iter().any(|part| self.evaluate(part, entry)),
            Expression::List(parts) => parts.iter().fold(false, |_, part| self.evaluate(part, entry)),
            Expression::Age(clock, number, unit) => self.age(*clock, *number, *unit, entry),
            Expression::Newer(clock, time) => {
                read_clock(*clock, entry.path, stat).is_some_and(|own| own > *time)
            }
            Expression::Used(number) => {
                let seconds = stat.accessed.seconds - stat.changed.seconds;
                u64::try_from(seconds).is_ok_and(|seconds| number.holds(seconds / 86400))
            }
            Expression::Empty => match stat.kind() {
                Kind::Regular => stat.size == 0,
                Kind::Directory => file::read_directory(entry.path).is_ok_and(|entries| entries.is_empty()),
                _ => false,
            },
            Expression::Access(mode) => file::access(entry.path, *mode).is_ok(),
            Expression::Uid(number) => number.holds(stat.uid.into()),
            Expression::Gid(number) => number.holds(stat.gid.into()),
            Expression::NoUser => self.owners.user_name(stat.uid).is_none(),
            Expression::NoGroup => self.owners.group_name(stat.gid).is_none(),
            Expression::Inode(number) => number.holds(stat.inode),
            Expression::LinkCount(number) => number.holds(stat.links),
            Expression::Matches(which, glob, flags) => match which {
                Which::Name => pattern::matches(glob, entry.base(), *flags),
                Which::Path => pattern::matches(glob, entry.path, *flags),
                Which::Link => {
                    stat.is_symlink()
                        && file::readlink(entry.path)
                            .is_ok_and(|target| pattern::matches(glob, &target, *flags))
                }
            },
            Expression::Regex(regex) => regex.find_at(entry.path, 0) == Some((0, entry.path.len())),
            Expression::Permission(kind, bits) => {
                let mode = stat.mode & 0o7777;
                match kind {
                    b'-' => mode & bits == *bits,
                    b'/' => *bits == 0 || mode & bits != 0,
                    _ => mode == *bits,
                }
            }
            Expression::Same(identity) => stat.identity() == *identity,
            Expression::Size(number, unit) => number.holds((stat.size as u64).div_ceil(*unit)),
            Expression::Type(kinds, other_way) => {
                let kind = match (other_way, stat.is_symlink()) {
                    // The type of what a link points at or, if links are followed, of the link.
                    (true, true) if self.links != Links::All => {
                        file::stat(entry.path).map_or(Kind::Symlink, |stat| stat.kind())
                    }
                    (true, false) if self.links == Links::All => {
                        file::lstat(entry.path).map_or(stat.kind(), |stat| stat.kind())
                    }
                    _ => stat.kind(),
                };
                kinds.contains(&kind)
            }
            Expression::Print(output, end) => {
                put(self.context, &mut self.outputs[*output], &[entry.path, &[*end]].concat());
                true
            }
            Expression::Format(output, format) => {
                let text = self.format(format, entry);
                put(self.context, &mut self.outputs[*output], &text);
                true
            }
            Expression::List5(output) => {
                let text = self.list(entry);
                put(self.context, &mut self.outputs[*output], &text);
                true
            }
            Expression::Delete => self.delete(entry),
            Expression::Prune => {
                entry.pruned = true;
                true
            }
            Expression::Quit => {
                self.stopped = true;
                true
            }
            Expression::Execute { words, inside, asks } => self.execute(words, *inside, *asks, entry),
            Expression::Batch(batch) => {
                self.add(*batch, entry);
                true
            }
        }
    }

    fn age(&self, clock: Clock, number: Number, unit: u64, entry: &Entry<'_>) -> bool {
        let Some(time) = read_clock(clock, entry.path, entry.stat) else { return false };
        let mut now = self.now;
        if self.day_start {
            now = Time { seconds: now.seconds - now.seconds.rem_euclid(86400) + 86400, nanoseconds: 0 };
        }
        let nanoseconds = i128::from(now.seconds - time.seconds) * 1_000_000_000
            + i128::from(now.nanoseconds - time.nanoseconds);
        let unit = i128::from(unit) * 1_000_000_000;
        let value = i128::from(number.value);
        // Days are whole ones, minutes are rounded up.
        let age = if unit >= 86_400_000_000_000 {
            nanoseconds.div_euclid(unit)
        } else {
            -(-nanoseconds).div_euclid(unit)
        };
        age.cmp(&value) == number.sign
    }

    fn delete(&mut self, entry: &Entry<'_>) -> bool {
        if entry.path == b"." {
            return true;
        }
        let removed =
            if entry.stat.is_directory() { file::rmdir(entry.path) } else { file::unlink(entry.path) };
        if let Err(reason) = removed {
            self.flush();
            self.context.fail(format!("cannot delete {}: {reason}", quote::always(entry.path)));
        }
        removed.is_ok()
    }

    fn execute(&mut self, words: &[Vec<u8>], inside: bool, asks: bool, entry: &Entry<'_>) -> bool {
        self.flush();
        let name = if inside { [b"./", entry.base()].concat() } else { entry.path.to_vec() };
        let words: Vec<Vec<u8>> = words.iter().map(|word| fill(word, &name)).collect();
        if asks {
            let question = format!(
                "< {} ... {} > ? ",
                String::from_utf8_lossy(&words[0]),
                String::from_utf8_lossy(entry.path)
            );
            let _ = Descriptor::keep(2).write_all(question.as_bytes());
            let mut answer = Vec::new();
            let _ = BufReader::with_capacity(1, Descriptor::keep(0)).read_until(b'\n', &mut answer);
            if !matches!(answer.first(), Some(b'y' | b'Y')) {
                return false;
            }
        }
        let directory = inside.then(|| entry.directory());
        self.run(&words, directory.as_deref(), asks)
    }

    fn run(&mut self, words: &[Vec<u8>], directory: Option<&[u8]>, no_input: bool) -> bool {
        let path = std::env::var_os("PATH").map(|path| path.into_encoded_bytes());
        let started = process::find_program(&words[0], path.as_deref()).and_then(|program| {
            let mut command = Command::new(&program, words, process::environment());
            if let Some(directory) = directory {
                command = command.chdir(if directory.is_empty() { b"/" } else { directory });
            }
            let null = if no_input { Some(file::open_read(b"/dev/null")?) } else { None };
            if let Some(null) = &null {
                command = command.dup2(null.raw(), 0);
            }
            command.run()
        });
        match started {
            Ok(status) => status == process::Status::Exited(0),
            Err(reason) => {
                self.context.warn(format!("{}: {reason}", quote::always(&words[0])));
                false
            }
        }
    }

    fn add(&mut self, index: usize, entry: &Entry<'_>) {
        let batch = &self.batches[index];
        let (name, directory) = if batch.inside {
            ([b"./", entry.base()].concat(), entry.directory())
        } else {
            (entry.path.to_vec(), Vec::new())
        };
        if batch.length + name.len() + 1 > MOST_BYTES || batch.directory != directory {
            self.run_batch(index);
        }
        let batch = &mut self.batches[index];
        batch.length += name.len() + 1;
        batch.files.push(name);
        batch.directory = directory;
    }

    fn run_batch(&mut self, index: usize) {
        let batch = &mut self.batches[index];
        if batch.files.is_empty() {
            return;
        }
        let words: Vec<Vec<u8>> =
            batch.words.iter().cloned().chain(std::mem::take(&mut batch.files)).collect();
        batch.length = batch.words.iter().map(|word| word.len() + 1).sum();
        let directory = batch.inside.then(|| batch.directory.clone());
        self.flush();
        if !self.run(&words, directory.as_deref(), false) {
            self.context.set_status(1);
        }
    }

    fn list(&self, entry: &Entry<'_>) -> Vec<u8> {
        let stat = entry.stat;
        let user = self.owners.user_name(stat.uid).map_or_else(|| stat.uid.to_string(), str::to_owned);
        let group = self.owners.group_name(stat.gid).map_or_else(|| stat.gid.to_string(), str::to_owned);
        let recent = stat.modified <= self.now && stat.modified.seconds > self.now.seconds - 31_556_952 / 2;
        let date = date(stat.modified, if recent { "b e H:M" } else { "b e  Y" });
        let size = match stat.kind() {
            Kind::Block | Kind::Character => {
                let (major, minor) = file::device_numbers(stat.special);
                format!("{major:>3}, {minor:>3}")
            }
            _ => format!("{:>8}", stat.size),
        };
        let mut line = format!(
            "{:>9} {:>6} {} {:>3} {user:<8} {group:<8} {size} {date} ",
            stat.inode,
            (stat.blocks as u64).div_ceil(2),
            mode::show(stat.mode),
            stat.links
        )
        .into_bytes();
        line.extend_from_slice(entry.path);
        if stat.is_symlink()
            && let Ok(target) = file::readlink(entry.path)
        {
            line.extend(b" -> ");
            line.extend(target);
        }
        line.push(b'\n');
        line
    }

    fn format(&self, format: &[u8], entry: &Entry<'_>) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), format);
        while let [byte, after @ ..] = rest {
            rest = after;
            match (byte, rest) {
                (b'\\', [letter, after @ ..]) => {
                    rest = after;
                    match letter {
                        b'a' => out.push(7),
                        b'b' => out.push(8),
                        b'c' => return out,
                        b'f' => out.push(12),
                        b'n' => out.push(b'\n'),
                        b'r' => out.push(b'\r'),
                        b't' => out.push(b'\t'),
                        b'v' => out.push(11),
                        b'\\' => out.push(b'\\'),
                        b'0'..=b'7' => {
                            let count =
                                rest.iter().take(2).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                            let value =
                                rest[..count].iter().fold(u32::from(letter - b'0'), |value, digit| {
                                    value * 8 + u32::from(digit - b'0')
                                });
                            rest = &rest[count..];
                            out.push(value as u8);
                        }
                        other => out.extend([b'\\', *other]),
                    }
                }
                (b'%', [b'%', after @ ..]) => {
                    rest = after;
                    out.push(b'%');
                }
                (b'%', _) => {
                    let flags = rest.iter().take_while(|byte| b"-0+ #".contains(byte)).count();
                    let width = rest[flags..]
                        .iter()
                        .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
                        .count();
                    let layout = String::from_utf8_lossy(&rest[..flags + width]).into_owned();
                    rest = &rest[flags + width..];
                    let [letter, after @ ..] = rest else { return out };
                    rest = after;
                    let value = match (letter, rest) {
                        (b'A' | b'C' | b'T' | b'B', [field, after @ ..]) => {
                            rest = after;
                            let which = match letter {
                                b'A' => Clock::Access,
                                b'C' => Clock::Change,
                                b'B' => Clock::Birth,
                                _ => Clock::Modify,
                            };
                            let time = read_clock(which, entry.path, entry.stat);
                            time_field(time.unwrap_or_default(), *field)
                        }
                        _ => match self.directive(*letter, entry) {
                            Some(value) => value,
                            None => {
                                out.extend([b'%', *letter]);
                                continue;
                            }
                        },
                    };
                    out.extend(lay_out(value, &layout, letter));
                }
                (byte, _) => out.push(*byte),
            }
        }
        out
    }

    fn directive(&self, letter: u8, entry: &Entry<'_>) -> Option<Vec<u8>> {
        let stat = entry.stat;
        let text = |text: String| Some(text.into_bytes());
        match letter {
            b'p' => Some(entry.path.to_vec()),
            b'f' => Some(entry.base().to_vec()),
            b'h' => Some(entry.directory()),
            b'H' => Some(entry.path[..entry.root].to_vec()),
            b'P' => {
                let below = &entry.path[entry.root..];
                Some(below.strip_prefix(b"/").unwrap_or(below).to_vec())
            }
            b'd' => text(entry.depth.to_string()),
            b'm' => text(format!("{:o}", stat.mode & 0o7777)),
            b'M' => text(mode::show(stat.mode)),
            b'n' => text(stat.links.to_string()),
            b'i' => text(stat.inode.to_string()),
            b'D' => text(stat.device.to_string()),
            b's' => text(stat.size.to_string()),
            b'b' => text(stat.blocks.to_string()),
            b'k' => text((stat.blocks as u64).div_ceil(2).to_string()),
            b'u' => text(self.owners.user_name(stat.uid).map_or_else(|| stat.uid.to_string(), str::to_owned)),
            b'g' => {
                text(self.owners.group_name(stat.gid).map_or_else(|| stat.gid.to_string(), str::to_owned))
            }
            b'U' => text(stat.uid.to_string()),
            b'G' => text(stat.gid.to_string()),
            b'l' => Some(if stat.is_symlink() {
                file::readlink(entry.path).unwrap_or_default()
            } else {
                Vec::new()
            }),
            b'y' => text(letter_of(stat.kind())),
            b'Y' => text(match file::stat(entry.path) {
                Ok(stat) => letter_of(stat.kind()),
                Err(toolbox_linux::errno::ELOOP) => "L".into(),
                Err(_) => "N".into(),
            }),
            b'a' => Some(time_field(stat.accessed, b'c')),
            b'c' => Some(time_field(stat.changed, b'c')),
            b't' => Some(time_field(stat.modified, b'c')),
            _ => None,
        }
    }
}

fn letter_of(kind: Kind) -> String {
    letter(kind).to_string()
}

fn lay_out(value: Vec<u8>, layout: &str, letter: &u8) -> Vec<u8> {
    let left = layout.starts_with('-');
    let digits = layout.trim_start_matches(['-', '0', '+', ' ', '#']);
    let (width, precision) = digits.split_once('.').unwrap_or((digits, ""));
    let mut value = value;
    if let Ok(most) = precision.parse() {
        value.truncate(most);
    }
    if layout.contains('#') && *letter == b'm' {
        value.insert(0, b'0');
    }
    let missing = width.parse::<usize>().unwrap_or(0).saturating_sub(value.len());
    let zero = layout.trim_start_matches(['-', '+', ' ', '#']).starts_with('0');
    let fill = vec![if zero && !left { b'0' } else { b' ' }; missing];
    if left { [value, fill].concat() } else { [fill, value].concat() }
}

/// Replaces `{}` in a word.
fn fill(word: &[u8], name: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), word);
    while let Some(at) = rest.windows(2).position(|pair| pair == b"{}") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(name);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    out
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Year, month, day, hour, minute, second in UTC.
fn civil(time: Time) -> (i64, i64, i64, i64, i64, i64) {
    let (days, seconds) = (time.seconds.div_euclid(86400) + 719_468, time.seconds.rem_euclid(86400));
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let day = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day - (153 * shifted + 2) / 5 + 1, seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A date with letters of `strftime` without their percent signs.
fn date(time: Time, layout: &str) -> String {
    let (year, month, day, hour, minute, second) = civil(time);
    layout
        .chars()
        .map(|letter| match letter {
            'b' => MONTHS[month as usize - 1].to_owned(),
            'e' => format!("{day:>2}"),
            'd' => format!("{day:02}"),
            'm' => format!("{month:02}"),
            'y' => format!("{:02}", year.rem_euclid(100)),
            'Y' => year.to_string(),
            'H' => format!("{hour:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'a' => DAYS[time.seconds.div_euclid(86400).rem_euclid(7) as usize].to_owned(),
            'f' => format!("{:09}0", time.nanoseconds),
            other => other.to_string(),
        })
        .collect()
}

/// A field of a time, as `%Tk` names it; in UTC.
fn time_field(time: Time, field: u8) -> Vec<u8> {
    let text = match field {
        b'@' => format!("{}.{:09}0", time.seconds, time.nanoseconds),
        b'c' => date(time, "a b e H:M:S.f Y"),
        b'D' => date(time, "m/d/y"),
        b'F' => date(time, "Y-m-d"),
        b'T' => date(time, "H:M:S.f"),
        b'+' => date(time, "Y-m-d+H:M:S.f"),
        b'X' => date(time, "H:M:S.f"),
        b'x' => date(time, "m/d/y"),
        b'R' => date(time, "H:M"),
        b'S' => date(time, "S.f"),
        b'Z' => "UTC".to_owned(),
        b'h' => date(time, "b"),
        b'k' => format!("{:>2}", civil(time).3),
        field @ (b'a' | b'b' | b'd' | b'e' | b'm' | b'y' | b'Y' | b'H' | b'M') => {
            date(time, &char::from(field).to_string())
        }
        other => format!("%T{}", char::from(other)),
    };
    text.into_bytes()
}
