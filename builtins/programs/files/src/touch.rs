//! `touch` and `truncate`.

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::errno;
use toolbox_linux::file::{self, AT_SYMLINK_NOFOLLOW, Kind, Time, open};

use crate::time;

pub(crate) const TOUCH: Tool = Tool {
    name: "touch",
    usage: "[OPTION]... FILE...",
    options: &[
        ("a", "change only the time of access"),
        ("c/no-create", "make no file"),
        ("d/date=", "this time instead of now"),
        ("f", "no effect, for old callers"),
        ("h/no-dereference", "change a symbolic link itself"),
        ("m", "change only the time of modification"),
        ("r/reference=", "the times of this file"),
        ("t=", "the time [[CC]YY]MMDDhhmm[.ss]"),
        ("/time=", "access, atime, use: as -a; modify, mtime: as -m"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: touch,
};

pub(crate) const TRUNCATE: Tool = Tool {
    name: "truncate",
    usage: "OPTION... FILE...",
    options: &[
        ("c/no-create", "make no file"),
        ("o/io-blocks", "sizes are blocks of the file"),
        ("r/reference=", "the size of this file"),
        ("s/size=", "this size; + - < > / % before it change the one there is"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: truncate,
};

/// Reads `[[CC]YY]MMDDhhmm[.ss]`.
fn stamp(text: &str) -> Option<Time> {
    let (digits, seconds) = match text.split_once('.') {
        Some((digits, seconds)) if seconds.len() == 2 => (digits, seconds.parse().ok()?),
        Some(_) => return None,
        None => (text, 0i8),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let zone = time::zone();
    let now = time::zoned(toolbox_linux::process::now(), &zone)?;
    let (year, rest) = match digits.len() {
        8 => (now.year(), digits),
        10 => {
            let year: i16 = digits[..2].parse().ok()?;
            (if year < 69 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        12 => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i8>().ok();
    let date =
        jiff::civil::DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, seconds.min(59), 0).ok()?;
    let zoned = date.to_zoned(zone).ok()?;
    Some(Time { seconds: zoned.timestamp().as_second() + i64::from(seconds == 60), nanoseconds: 0 })
}

fn touch(context: &Context, parsed: Parsed) -> i32 {
    let (mut access, mut modify) = (parsed.has("a"), parsed.has("m"));
    for (_, value) in parsed.options.iter().filter(|(option, _)| *option == "time") {
        match value.as_deref().unwrap_or_default() {
            b"access" | b"atime" | b"use" => access = true,
            b"modify" | b"mtime" => modify = true,
            other => context.misused(format!("invalid argument {} for '--time'", quote::always(other))),
        }
    }
    let nofollow = parsed.has("no-dereference");
    let flags = if nofollow { AT_SYMLINK_NOFOLLOW } else { 0 };
    let date = |text: &str| {
        time::parse(text, &time::zone()).unwrap_or_else(|| {
            context.die(1, format!("invalid date format {}", quote::always(text.as_bytes())))
        })
    };
    let (mut accessed, mut modified) =
        match (parsed.value("reference"), parsed.text("t"), parsed.text("date")) {
            (Some(_), Some(_), _) | (None, Some(_), Some(_)) => {
                context.misused("cannot specify times from more than one source")
            }
            (Some(path), None, text) => {
                if text.is_some() {
                    context.die(1, "--date relative to --reference is not supported");
                }
                match file::fstatat(file::AT_FDCWD, path, flags) {
                    Ok(stat) => (stat.accessed, stat.modified),
                    Err(reason) => context
                        .die(1, format!("failed to get attributes of {}: {reason}", quote::always(path))),
                }
            }
            (None, Some(text), None) => {
                let wrong =
                    || context.die(1, format!("invalid date format {}", quote::always(text.as_bytes())));
                let time = stamp(&text).unwrap_or_else(wrong);
                (time, time)
            }
            (None, None, Some(text)) => {
                let time = date(&text);
                (time, time)
            }
            (None, None, None) => (Time::NOW, Time::NOW),
        };
    if access != modify {
        if access {
            modified = Time::OMIT;
        } else {
            accessed = Time::OMIT;
        }
    }
    if parsed.operands.is_empty() {
        context.misused("missing file operand");
    }
    for operand in &parsed.operands {
        let shown = quote::always(operand);
        if operand == b"-" {
            if let Err(reason) = file::futimens(1, accessed, modified) {
                context.fail(format!("setting times of {shown}: {reason}"));
            }
            continue;
        }
        let mut set = file::utimensat(operand, accessed, modified, flags);
        if set == Err(errno::ENOENT) {
            if parsed.has("no-create") || nofollow {
                if nofollow && !parsed.has("no-create") {
                    context.fail(format!("setting times of {shown}: {}", errno::ENOENT));
                }
                continue;
            }
            match file::open(operand, open::WRONLY | open::CREAT | open::NONBLOCK | open::NOCTTY, 0o666) {
                Ok(made) => set = file::futimens(made.raw(), accessed, modified),
                Err(reason) => {
                    context.fail(format!("cannot touch {shown}: {reason}"));
                    continue;
                }
            }
        }
        if let Err(reason) = set {
            if parsed.has("no-create") && reason == errno::ENOENT {
                continue;
            }
            let exists = file::lstat(operand).is_ok();
            let verb = if exists { "setting times of" } else { "cannot touch" };
            context.fail(format!("{verb} {shown}: {reason}"));
        }
    }
    context.status()
}

/// A size with GNU's suffixes, in bytes: K is 1024, KB is 1000, KiB is 1024.
pub(crate) fn size(text: &str) -> Option<u64> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(end);
    let number: u64 = if digits.is_empty() && !unit.is_empty() { 1 } else { digits.parse().ok()? };
    let power = |letter: &str| "KMGTPE".find(&letter.to_ascii_uppercase()).map(|at| at as u32 + 1);
    let factor = match unit {
        "" => 1,
        "b" => 512,
        "c" => 1,
        "w" => 2,
        _ => {
            let (letter, rest) = unit.split_at_checked(1)?;
            let base: u64 = match rest {
                "" | "iB" => 1024,
                "B" => 1000,
                _ => return None,
            };
            base.checked_pow(power(letter)?)?
        }
    };
    number.checked_mul(factor)
}

fn truncate(context: &Context, parsed: Parsed) -> i32 {
    let (text, reference) = (parsed.text("size"), parsed.value("reference"));
    if text.is_none() && reference.is_none() {
        context.misused("you must specify either '--size' or '--reference'");
    }
    let text = text.unwrap_or_default();
    let (operation, digits) = match text.chars().next() {
        Some(sign @ ('+' | '-' | '<' | '>' | '/' | '%')) => (Some(sign), &text[1..]),
        _ => (None, &text[..]),
    };
    if reference.is_some() && !text.is_empty() && operation.is_none() {
        context.misused("you must specify a relative '--size' with '--reference'");
    }
    if parsed.has("io-blocks") && text.is_empty() {
        context.misused("'--io-blocks' was specified but '--size' was not");
    }
    let wrong = || context.die(1, format!("Invalid number: {}", quote::always(digits.as_bytes())));
    let amount = if text.is_empty() { 0 } else { size(digits.trim_start()).unwrap_or_else(wrong) };
    if amount == 0 && matches!(operation, Some('/' | '%')) {
        context.die(1, "division by zero");
    }
    if parsed.operands.is_empty() {
        context.misused("missing file operand");
    }
    let base = reference.map(|path| match file::stat(path) {
        Ok(stat) => stat.size as u64,
        Err(reason) => context.die(1, format!("cannot stat {}: {reason}", quote::always(path))),
    });
    for operand in &parsed.operands {
        let shown = quote::always(operand);
        let create = if parsed.has("no-create") { 0 } else { open::CREAT };
        let opened = match file::open(operand, open::WRONLY | create | open::NONBLOCK, 0o666) {
            Ok(opened) => opened,
            Err(errno::ENOENT) if parsed.has("no-create") => continue,
            Err(reason) => {
                context.fail(format!("cannot open {shown} for writing: {reason}"));
                continue;
            }
        };
        let stat = match opened.stat() {
            Ok(stat) if matches!(stat.kind(), Kind::Regular | Kind::Unknown) => stat,
            Ok(stat) => stat,
            Err(reason) => {
                context.fail(format!("cannot fstat {shown}: {reason}"));
                continue;
            }
        };
        let amount =
            if parsed.has("io-blocks") { amount.saturating_mul(stat.block_size as u64) } else { amount };
        let old = base.unwrap_or(stat.size as u64);
        let new = match operation {
            None if text.is_empty() => Some(old),
            None => Some(amount),
            Some('+') => old.checked_add(amount),
            Some('-') => Some(old.saturating_sub(amount)),
            Some('<') => Some(old.min(amount)),
            Some('>') => Some(old.max(amount)),
            Some('/') => Some(old / amount * amount),
            Some(_) => old.div_ceil(amount).checked_mul(amount),
        };
        let set = match new.and_then(|new| i64::try_from(new).ok()) {
            Some(new) => file::ftruncate(opened.raw(), new)
                .map_err(|reason| format!("failed to truncate {shown} at {new} bytes: {reason}")),
            None => Err(format!("overflow extending size of file {shown}")),
        };
        if let Err(message) = set {
            context.fail(message);
        }
    }
    context.status()
}
