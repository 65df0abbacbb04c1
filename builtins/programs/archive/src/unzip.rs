//! `unzip`: lists, tests and extracts archives of stored and deflated members.

use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use toolbox_command::{Context, Order, Parsed, Tool, pattern};
use toolbox_linux::errno;
use toolbox_linux::file::{self, Descriptor, Time, open};

use crate::extract::{parse_date, safe_name};

pub(crate) const UNZIP: Tool = Tool {
    name: "unzip",
    usage: "[OPTION]... ARCHIVE [MEMBER]...",
    options: &[
        ("l", "list"),
        ("t", "test"),
        ("p", "extract to standard output"),
        ("d=", "extract into this directory"),
        ("o", "replace files"),
        ("n", "replace nothing"),
        ("j", "without directories"),
        ("q", "say less"),
        ("x=", "leave out what matches"),
    ],
    order: Order::Anywhere,
    misuse: 10,
    main: unzip,
};

/// Most members of an archive: their directory is held in memory.
const MOST_MEMBERS: u64 = 1 << 20;

#[derive(Debug)]
struct Member {
    name: Vec<u8>,
    method: u16,
    flags: u16,
    sum: u32,
    packed: u64,
    size: u64,
    offset: u64,
    mode: u32,
    seconds: i64,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

fn directory(input: &mut (impl Read + Seek)) -> io::Result<Vec<Member>> {
    let length = input.seek(SeekFrom::End(0))?;
    // The record of the end is the last one, but for a comment of at most 65535 bytes.
    let start = length.saturating_sub(65_557);
    input.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    input.take(65_557).read_to_end(&mut tail)?;
    let missing = || invalid("End-of-central-directory signature not found");
    let at = tail.windows(4).rposition(|window| window == b"PK\x05\x06").ok_or_else(missing)?;
    let end = tail.get(at..at + 22).ok_or_else(missing)?;
    let (mut count, mut offset) = (number(&end[10..12]), number(&end[16..20]));
    if (count == 0xffff || offset == 0xffff_ffff) && at >= 20 && tail[at - 20..].starts_with(b"PK\x06\x07") {
        input.seek(SeekFrom::Start(number(&tail[at - 12..at - 4])))?;
        let mut record = [0u8; 56];
        input.read_exact(&mut record)?;
        (count, offset) = (number(&record[32..40]), number(&record[48..56]));
    }
    if count > MOST_MEMBERS {
        return Err(invalid("too many members"));
    }
    input.seek(SeekFrom::Start(offset))?;
    let mut input = BufReader::new(input);
    (0..count).map(|_| member(&mut input)).collect()
}

fn member(input: &mut impl Read) -> io::Result<Member> {
    let mut fixed = [0u8; 46];
    input.read_exact(&mut fixed)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        return Err(invalid("bad central directory"));
    }
    let length = |at: usize| number(&fixed[at..at + 2]) as usize;
    let mut name = vec![0u8; length(28)];
    let mut extra = vec![0u8; length(30)];
    input.read_exact(&mut name)?;
    input.read_exact(&mut extra)?;
    io::copy(&mut input.take(length(32) as u64), &mut io::sink())?;
    let (time, date) = (number(&fixed[12..14]), number(&fixed[14..16]));
    let text = format!(
        "{}-{}-{} {}:{}:{}",
        1980 + (date >> 9),
        (date >> 5 & 15).max(1),
        (date & 31).max(1),
        time >> 11,
        time >> 5 & 63,
        (time & 31) * 2
    );
    let unix = fixed[5] == 3;
    let attributes = number(&fixed[38..42]);
    let mut member = Member {
        method: length(10) as u16,
        flags: length(8) as u16,
        sum: number(&fixed[16..20]) as u32,
        packed: number(&fixed[20..24]),
        size: number(&fixed[24..28]),
        offset: number(&fixed[42..46]),
        mode: if unix { (attributes >> 16) as u32 } else { 0 },
        seconds: parse_date(&text).unwrap_or(0),
        name,
    };
    let mut rest = &extra[..];
    while rest.len() >= 4 {
        let (id, length) = (number(&rest[..2]), number(&rest[2..4]) as usize);
        let Some(field) = rest.get(4..4 + length) else { break };
        if id == 1 {
            let mut wide = field.chunks_exact(8).map(number);
            for value in [&mut member.size, &mut member.packed, &mut member.offset] {
                if *value == 0xffff_ffff {
                    *value = wide.next().unwrap_or(*value);
                }
            }
        } else if id == 0x5455 && field.first().is_some_and(|flags| flags & 1 != 0) && field.len() >= 5 {
            member.seconds = i64::from(number(&field[1..5]) as u32 as i32);
        }
        rest = &rest[4 + length..];
    }
    Ok(member)
}

/// Copies a member's data to an output and compares their sum.
fn copy(input: &mut Descriptor, member: &Member, output: &mut dyn Write) -> io::Result<()> {
    if member.flags & 1 != 0 {
        return Err(invalid("encrypted members are not supported"));
    }
    let mut local = [0u8; 30];
    input.seek(SeekFrom::Start(member.offset))?;
    input.read_exact(&mut local)?;
    if !local.starts_with(b"PK\x03\x04") {
        return Err(invalid("bad local header"));
    }
    input.seek(SeekFrom::Current((number(&local[26..28]) + number(&local[28..30])) as i64))?;
    let packed = BufReader::new(input.take(member.packed));
    let mut data: Box<dyn Read> = match member.method {
        0 => Box::new(packed),
        8 => Box::new(flate2::bufread::DeflateDecoder::new(packed)),
        other => return Err(invalid(&format!("compression method {other} is not supported"))),
    };
    let (mut sum, mut size, mut buffer) = (crc32fast::Hasher::new(), 0u64, vec![0u8; 1 << 16]);
    loop {
        let count = data.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        size += count as u64;
        if size > member.size {
            return Err(invalid("member is larger than it says"));
        }
        sum.update(&buffer[..count]);
        output.write_all(&buffer[..count])?;
    }
    if size != member.size || sum.finalize() != member.sum {
        return Err(invalid("bad CRC"));
    }
    Ok(())
}

fn unzip(context: &Context, parsed: Parsed) -> i32 {
    let Some((archive, wanted)) = parsed.operands.split_first() else { context.missing_operand() };
    let candidates = [archive.clone(), [archive, &b".zip"[..]].concat()];
    let Some(mut input) = candidates.iter().find_map(|path| file::open_read(path).ok()) else {
        context.die(9, format!("cannot find or open {}", String::from_utf8_lossy(archive)));
    };
    let members = match directory(&mut input) {
        Ok(members) => members,
        Err(error) => context
            .die(9, format!("{}: {}", String::from_utf8_lossy(archive), toolbox_command::reason(&error))),
    };
    let excluded: Vec<&[u8]> = parsed
        .options
        .iter()
        .filter(|(key, _)| *key == "x")
        .filter_map(|(_, value)| value.as_deref())
        .collect();
    let chosen: Vec<&Member> = members
        .iter()
        .filter(|member| {
            wanted.is_empty() || wanted.iter().any(|glob| pattern::matches(glob, &member.name, 0))
        })
        .filter(|member| !excluded.iter().any(|glob| pattern::matches(glob, &member.name, 0)))
        .collect();
    let quiet = parsed.has("q") || parsed.has("p");
    let say = |line: String| {
        if !quiet {
            context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
        }
    };
    say(format!("Archive:  {}\n", String::from_utf8_lossy(archive)));
    if parsed.has("l") {
        list(context, &chosen);
        return context.status();
    }
    let root = parsed.value("d").map(<[u8]>::to_vec);
    let mut links = Vec::new();
    for member in &chosen {
        let shown = String::from_utf8_lossy(&member.name).into_owned();
        if parsed.has("t") || parsed.has("p") {
            let copied = if parsed.has("p") {
                copy(&mut input, member, &mut Descriptor::keep(1))
            } else {
                copy(&mut input, member, &mut io::sink())
            };
            match copied {
                Ok(()) if parsed.has("t") => say(format!("    testing: {shown:<22}   OK\n")),
                Ok(()) => {}
                Err(error) => context.fail(format!("{shown}: {}", toolbox_command::reason(&error))),
            }
            continue;
        }
        let mut name = safe_name(&member.name).0.to_vec();
        if parsed.has("j") {
            name = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
            if name.is_empty() {
                continue;
            }
        }
        let path = root.as_ref().map_or_else(|| name.clone(), |root| [root, &b"/"[..], &name].concat());
        if let Err(error) = extract(&parsed, &mut input, member, &path, &mut links, &say) {
            context.fail(format!("{shown}: {}", toolbox_command::reason(&error)));
        }
    }
    for (path, target) in links {
        if let Err(reason) = file::symlink(&target, &path) {
            context.fail(format!("{}: {reason}", String::from_utf8_lossy(&path)));
        }
    }
    if chosen.is_empty() && !wanted.is_empty() {
        context.warn("no member matches");
        return 11;
    }
    context.status()
}

fn extract(
    parsed: &Parsed,
    input: &mut Descriptor,
    member: &Member,
    path: &[u8],
    links: &mut Vec<(Vec<u8>, Vec<u8>)>,
    say: &dyn Fn(String),
) -> io::Result<()> {
    let shown = String::from_utf8_lossy(path).into_owned();
    for (at, _) in path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0) {
        match file::mkdir(&path[..at], 0o777) {
            Ok(()) | Err(errno::EEXIST) => {}
            Err(reason) => return Err(reason.into()),
        }
    }
    if member.name.ends_with(b"/") {
        say(format!("   creating: {shown}\n"));
        return Ok(());
    }
    if file::lstat(path).is_ok() {
        if parsed.has("n") {
            return Ok(());
        }
        if !parsed.has("o") {
            return Err(invalid("is there already; -o replaces it, -n keeps it"));
        }
        file::unlink(path)?;
    }
    if member.mode & 0o170_000 == 0o120_000 {
        // Links are made last, so that no member goes through one.
        let mut target = Vec::new();
        copy(input, member, &mut target)?;
        links.push((path.to_vec(), target));
        return Ok(());
    }
    let mut output = BufWriter::new(file::open(path, open::WRONLY | open::CREAT | open::EXCL, 0o666)?);
    say(format!("{} {shown}\n", if member.method == 0 { " extracting:" } else { "  inflating:" }));
    copy(input, member, &mut output)?;
    output.flush()?;
    drop(output);
    if member.mode & 0o777 != 0 {
        file::chmod(path, member.mode & 0o777)?;
    }
    file::utimensat(path, Time::NOW, Time { seconds: member.seconds, nanoseconds: 0 }, 0)?;
    Ok(())
}

fn list(context: &Context, members: &[&Member]) {
    let mut text = String::from("  Length      Date    Time    Name\n---------  ---------- -----   ----\n");
    for member in members {
        text += &format!(
            "{:>9}  {}   {}\n",
            member.size,
            crate::extract::date(member.seconds),
            String::from_utf8_lossy(&member.name)
        );
    }
    let total: u64 = members.iter().map(|member| member.size).sum();
    let plural = if members.len() == 1 { "" } else { "s" };
    text += &format!(
        "---------                     -------\n{total:>9}                     {} file{plural}\n",
        members.len()
    );
    context.check_write(Descriptor::keep(1).write_all(text.as_bytes()));
}
