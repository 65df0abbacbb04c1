//! `stat`: what the kernel knows of a file or its file system.

use std::io::Write;

use jiff::tz::TimeZone;
use toolbox_command::owner::Owners;
use toolbox_command::{Context, Order, Parsed, Tool, mode, quote};
use toolbox_linux::file::{self, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Kind, Stat, StatFs, Time};

use crate::remove::describe;
use crate::time;

pub(crate) const STAT: Tool = Tool {
    name: "stat",
    usage: "[OPTION]... FILE...",
    options: &[
        ("L/dereference", "follow links"),
        ("f/file-system", "show the file system"),
        ("c/format=", "use this format; newline after each file"),
        ("/printf=", "as --format with escapes and without a newline"),
        ("t/terse", "one line of numbers"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: stat,
};

const LONG: &str = "  File: %N\n  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\n\
Device: %Hd,%Ld\tInode: %-10i  Links: %h\nAccess: (%04a/%10.10A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\n\
Access: %x\nModify: %y\nChange: %z\n Birth: %w\n";
const LONG_DEVICE: &str = "  File: %N\n  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\n\
Device: %Hd,%Ld\tInode: %-10i  Links: %-5h Device type: %Hr,%Lr\nAccess: (%04a/%10.10A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\n\
Access: %x\nModify: %y\nChange: %z\n Birth: %w\n";
const TERSE: &str = "%n %s %b %f %u %g %D %i %h %t %T %X %Y %Z %W %o\n";
const SYSTEM: &str = "  File: \"%n\"\n    ID: %-8i Namelen: %-7l Type: %T\n\
Block size: %-10s Fundamental block size: %S\nBlocks: Total: %-10b Free: %-10f Available: %a\n\
Inodes: Total: %-10c Free: %d\n";
const SYSTEM_TERSE: &str = "%n %i %l %t %s %S %b %f %a %c %d\n";

fn stat(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let (owners, zone) = (Owners::read(), time::zone());
    let system = parsed.has("file-system");
    let mut output = context.output();
    for operand in &parsed.operands {
        let follow = parsed.has("dereference");
        let facts = if system {
            file::statfs(operand).map(Facts::System)
        } else if operand == b"-" {
            file::fstat(0).map(|stat| Facts::File(Box::new(stat)))
        } else {
            let flags = if follow { 0 } else { AT_SYMLINK_NOFOLLOW };
            file::fstatat(AT_FDCWD, operand, flags).map(|stat| Facts::File(Box::new(stat)))
        };
        let facts = match facts {
            Ok(facts) => facts,
            Err(reason) => {
                let what = if system { "cannot read file system information for" } else { "cannot statx" };
                context.fail(format!("{what} {}: {reason}", quote::always(operand)));
                continue;
            }
        };
        let format = match (parsed.last(&["format", "printf"]), &facts) {
            (Some("format"), _) => [parsed.value("format").unwrap_or_default(), b"\n"].concat(),
            (Some(_), _) => escapes(parsed.value("printf").unwrap_or_default()),
            (None, Facts::System(_)) => (if parsed.has("terse") { SYSTEM_TERSE } else { SYSTEM }).into(),
            (None, Facts::File(_)) if parsed.has("terse") => TERSE.into(),
            (None, Facts::File(stat)) => match stat.kind() {
                Kind::Block | Kind::Character => LONG_DEVICE.into(),
                _ => LONG.into(),
            },
        };
        let subject = Subject {
            name: operand,
            facts,
            owners: &owners,
            zone: &zone,
            follow,
            long: parsed.last(&["format", "printf"]).is_none(),
        };
        context.check_write(output.write_all(&subject.show(&format)));
    }
    context.finish(output)
}

enum Facts {
    File(Box<Stat>),
    System(StatFs),
}

struct Subject<'a> {
    name: &'a [u8],
    facts: Facts,
    owners: &'a Owners,
    zone: &'a TimeZone,
    follow: bool,
    long: bool,
}

/// `--printf`: backslash escapes, those in `%` directives excepted.
fn escapes(text: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let [letter, after @ ..] = rest else {
            out.push(b'\\');
            break;
        };
        rest = after;
        out.push(match letter {
            b'a' => 7,
            b'b' => 8,
            b'e' => 27,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'x' if rest.first().is_some_and(u8::is_ascii_hexdigit) => {
                let count = rest.iter().take(2).take_while(|byte| byte.is_ascii_hexdigit()).count();
                let text = String::from_utf8_lossy(&rest[..count]).into_owned();
                rest = &rest[count..];
                u8::from_str_radix(&text, 16).unwrap_or(0)
            }
            b'0'..=b'7' => {
                let count = rest.iter().take(2).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                let value = rest[..count]
                    .iter()
                    .fold(u32::from(letter - b'0'), |value, digit| value * 8 + u32::from(digit - b'0'));
                rest = &rest[count..];
                value as u8
            }
            other => *other,
        });
    }
    out
}

/// Flags, width and precision of a directive.
#[derive(Default)]
struct Layout {
    left: bool,
    zero: bool,
    alternate: bool,
    plus: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

enum Value {
    Text(Vec<u8>),
    Decimal(i128),
    Octal(u64),
    Hex(u64),
    Time(Option<Time>),
    Unknown,
}

impl Subject<'_> {
    fn show(&self, format: &[u8]) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), format);
        while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
            out.extend_from_slice(&rest[..at]);
            let start = &rest[at..];
            rest = &start[1..];
            if let [b'%', after @ ..] = rest {
                out.push(b'%');
                rest = after;
                continue;
            }
            let mut layout = Layout::default();
            while let [flag @ (b'-' | b'0' | b'#' | b'+' | b' ' | b'\''), after @ ..] = rest {
                match flag {
                    b'-' => layout.left = true,
                    b'0' => layout.zero = true,
                    b'#' => layout.alternate = true,
                    b'+' => layout.plus = true,
                    b' ' => layout.space = true,
                    _ => {}
                }
                rest = after;
            }
            let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            layout.width = String::from_utf8_lossy(&rest[..count]).parse().unwrap_or(0);
            rest = &rest[count..];
            if let [b'.', after @ ..] = rest {
                rest = after;
                let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                layout.precision = Some(String::from_utf8_lossy(&rest[..count]).parse().unwrap_or(0));
                rest = &rest[count..];
            }
            let part = match rest {
                [part @ (b'H' | b'L'), b'd' | b'r', ..] => {
                    let part = *part;
                    rest = &rest[1..];
                    Some(part)
                }
                _ => None,
            };
            let [letter, after @ ..] = rest else {
                out.extend_from_slice(start);
                return out;
            };
            rest = after;
            match self.value(*letter, part) {
                Value::Unknown => out.push(b'?'),
                value => out.extend(self.lay_out(value, &layout, letter.is_ascii_uppercase())),
            }
        }
        out.extend_from_slice(rest);
        out
    }

    fn value(&self, letter: u8, part: Option<u8>) -> Value {
        match &self.facts {
            Facts::File(stat) => self.of_file(stat, letter, part),
            Facts::System(facts) => self.of_system(facts, letter),
        }
    }

    fn of_file(&self, stat: &Stat, letter: u8, part: Option<u8>) -> Value {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let number = |value: u64| Value::Decimal(value.into());
        let device = |device: u64| {
            let (major, minor) = file::device_numbers(device);
            if part == Some(b'H') { major } else { minor }
        };
        match letter {
            b'a' => Value::Octal((stat.mode & 0o7777).into()),
            b'A' => text(&mode::show(stat.mode)),
            b'b' => Value::Decimal(stat.blocks.into()),
            b'B' => number(512),
            b'C' => text("?"),
            b'd' if part.is_some() => number(device(stat.device)),
            b'd' => number(stat.device),
            b'D' => Value::Hex(stat.device),
            b'f' => Value::Hex(stat.mode.into()),
            b'F' => text(describe(stat)),
            b'g' => number(stat.gid.into()),
            b'G' => text(self.owners.group_name(stat.gid).unwrap_or("UNKNOWN")),
            b'h' => number(stat.links),
            b'i' => number(stat.inode),
            b'm' => Value::Text(mount_point(self.name, self.follow)),
            b'n' => Value::Text(self.name.to_vec()),
            b'N' => {
                let link = if stat.is_symlink() { file::readlink(self.name).ok() } else { None };
                let target = link.map_or_else(String::new, |target| format!(" -> {}", self.quoted(&target)));
                text(&(self.quoted(self.name) + &target))
            }
            b'o' => Value::Decimal(stat.block_size.into()),
            b's' => Value::Decimal(stat.size.into()),
            b'r' if part.is_some() => number(device(stat.special)),
            b'r' => number(stat.special),
            b'R' => Value::Hex(stat.special),
            b't' => Value::Hex(file::device_numbers(stat.special).0),
            b'T' => Value::Hex(file::device_numbers(stat.special).1),
            b'u' => number(stat.uid.into()),
            b'U' => text(self.owners.user_name(stat.uid).unwrap_or("UNKNOWN")),
            b'w' | b'W' => {
                let flags = if self.follow { 0 } else { AT_SYMLINK_NOFOLLOW };
                Value::Time(file::birth(self.name, flags).ok().flatten())
            }
            b'x' | b'X' => Value::Time(Some(stat.accessed)),
            b'y' | b'Y' => Value::Time(Some(stat.modified)),
            b'z' | b'Z' => Value::Time(Some(stat.changed)),
            _ => Value::Unknown,
        }
    }

    /// The long form has names as they are, unless a shell needs quotes.
    fn quoted(&self, name: &[u8]) -> String {
        if self.long { quote::if_needed(name) } else { quote::always(name) }
    }

    fn of_system(&self, facts: &StatFs, letter: u8) -> Value {
        let number = |value: u64| Value::Decimal(value.into());
        match letter {
            b'a' => number(facts.available),
            b'b' => number(facts.blocks),
            b'c' => number(facts.files),
            b'd' => number(facts.files_free),
            b'f' => number(facts.free),
            b'i' => {
                let [low, high] = facts.id.map(|word| u64::from(word as u32));
                Value::Hex(high << 32 | low)
            }
            b'l' => Value::Decimal(facts.name_max.into()),
            b'n' => Value::Text(self.name.to_vec()),
            b's' => Value::Decimal(facts.block_size.into()),
            b'S' => Value::Decimal(
                if facts.fragment_size == 0 { facts.block_size } else { facts.fragment_size }.into(),
            ),
            b't' => Value::Hex(facts.kind as u32 as u64),
            b'T' => Value::Text(crate::disk::file_system_name(facts.kind).into_bytes()),
            _ => Value::Unknown,
        }
    }

    fn lay_out(&self, value: Value, layout: &Layout, seconds: bool) -> Vec<u8> {
        let signed = |value: i128| {
            let sign = match value {
                0.. if layout.plus => "+",
                0.. if layout.space => " ",
                _ => "",
            };
            format!("{sign}{value}").into_bytes()
        };
        let (text, numeric) = match value {
            Value::Text(mut text) => {
                text.truncate(layout.precision.unwrap_or(usize::MAX));
                (text, false)
            }
            Value::Decimal(value) => (signed(value), true),
            Value::Octal(value) if layout.alternate && value != 0 => {
                (format!("0{value:o}").into_bytes(), true)
            }
            Value::Octal(value) => (format!("{value:o}").into_bytes(), true),
            Value::Hex(value) if layout.alternate => (format!("0x{value:x}").into_bytes(), true),
            Value::Hex(value) => (format!("{value:x}").into_bytes(), true),
            Value::Time(time) if seconds => {
                let time = time.unwrap_or_default();
                let mut text = time.seconds.to_string();
                if let Some(digits) = layout.precision {
                    let digits = if digits == 0 { 9 } else { digits };
                    text += &format!(".{}", &format!("{:09}", time.nanoseconds)[..digits.min(9)]);
                }
                (text.into_bytes(), true)
            }
            Value::Time(Some(time)) => {
                (time::format(time, self.zone, "%Y-%m-%d %H:%M:%S.%N %z").into_bytes(), false)
            }
            Value::Time(None) => (b"-".to_vec(), false),
            Value::Unknown => (b"?".to_vec(), false),
        };
        let missing = layout.width.saturating_sub(text.len());
        if layout.left {
            [text, vec![b' '; missing]].concat()
        } else if layout.zero && numeric {
            [vec![b'0'; missing], text].concat()
        } else {
            [vec![b' '; missing], text].concat()
        }
    }
}

/// Where the file system of a path is mounted: the highest directory of the same device.
fn mount_point(path: &[u8], follow: bool) -> Vec<u8> {
    let resolved =
        crate::path::canonical(path, crate::path::Presence::Any, follow).unwrap_or_else(|_| b"/".to_vec());
    let device = |path: &[u8]| file::lstat(path).map(|stat| stat.device).ok();
    let (mut at, own) = (resolved, device(path));
    while at.len() > 1 {
        let above = crate::path::directory_name(&at).to_vec();
        if device(&above) != own {
            return at;
        }
        at = above;
    }
    b"/".to_vec()
}
