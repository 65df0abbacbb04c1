//! Headers of tar: ustar's block with GNU's and POSIX's ways of what does not fit.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

/// Size of a block.
pub(crate) const BLOCK: usize = 512;
/// Largest extension record that is read: names and attributes, not contents.
const MOST_EXTENSION: u64 = 1 << 20;

/// A member of an archive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
    /// `0` file, `1` hard link, `2` symbolic link, `3` character, `4` block, `5` directory, `6` fifo.
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) user: Vec<u8>,
    pub(crate) group: Vec<u8>,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    /// Extended attributes of a PAX header.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How what does not fit is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Gnu,
    Ustar,
    Pax,
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

fn number(field: &[u8]) -> io::Result<i64> {
    if field[0] & 0x80 != 0 {
        // GNU's binary numbers: two's complement, big endian, without the first bit.
        let negative = field[0] & 0x40 != 0;
        let start: i128 = if negative { -1 } else { 0 };
        let first = i128::from(field[0] & 0x3f) | if negative { !0x3f } else { 0 };
        let value = field[1..].iter().fold(if negative { first } else { start | first }, |value, byte| {
            value.wrapping_shl(8) | i128::from(*byte)
        });
        return i64::try_from(value).map_err(|_| invalid("number out of range"));
    }
    let text: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ')
        .take_while(|byte| matches!(byte, b'0'..=b'7'))
        .collect();
    if text.is_empty() {
        return Ok(0);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    i64::from_str_radix(&text, 8).map_err(|_| invalid("number out of range"))
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|&byte| byte != 0).collect()
}

fn checksum(block: &[u8; BLOCK]) -> i64 {
    block
        .iter()
        .enumerate()
        .map(|(at, &byte)| i64::from(if (148..156).contains(&at) { b' ' } else { byte }))
        .sum()
}

/// Reads members.
pub(crate) struct Reader<R: Read> {
    input: R,
    /// Bytes of the current member that were not read, and its padding.
    left: u64,
    padding: u64,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, global: BTreeMap::new() }
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MOST_EXTENSION {
            return Err(invalid("extension header too large"));
        }
        let mut data = vec![0u8; size as usize];
        self.input.read_exact(&mut data)?;
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        io::copy(&mut (&mut self.input).take(padding), &mut io::sink())?;
        Ok(data)
    }

    /// The next member; its data are then read from this reader.
    pub(crate) fn next(&mut self) -> io::Result<Option<Member>> {
        self.skip()?;
        let (mut long_name, mut long_link) = (None, None);
        let mut records = self.global.clone();
        let mut first = true;
        loop {
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            if number(&block[148..156])? != checksum(&block) {
                return Err(invalid(if first {
                    "This does not look like a tar archive"
                } else {
                    "Skipping to next header"
                }));
            }
            first = false;
            let size = u64::try_from(number(&block[124..136])?).map_err(|_| invalid("negative size"))?;
            match block[156] {
                b'L' => long_name = Some(text(&self.extension(size)?)),
                b'K' => long_link = Some(text(&self.extension(size)?)),
                b'x' => records.extend(pax(&self.extension(size)?)?),
                b'g' => {
                    let global = pax(&self.extension(size)?)?;
                    self.global.extend(global);
                    records.extend(self.global.clone());
                }
                _ => return self.member(&block, size, long_name, long_link, &records).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        block: &[u8; BLOCK],
        size: u64,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        records: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> io::Result<Member> {
        let ustar = &block[257..262] == b"ustar";
        let mut name = text(&block[..100]);
        if ustar && &block[257..265] != b"ustar  \0" && block[345] != 0 {
            name = [&text(&block[345..500])[..], b"/", &name].concat();
        }
        let record = |key: &str| records.get(key.as_bytes());
        let decimal =
            |key: &str| record(key).and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok());
        let mut member = Member {
            name: record("path").cloned().or(long_name).unwrap_or(name),
            mode: (number(&block[100..108])? & 0o7777) as u32,
            uid: decimal("uid").unwrap_or(number(&block[108..116])?.max(0) as u64),
            gid: decimal("gid").unwrap_or(number(&block[116..124])?.max(0) as u64),
            size: decimal("size").unwrap_or(size),
            seconds: number(&block[136..148])?,
            kind: block[156],
            link: record("linkpath").cloned().or(long_link).unwrap_or_else(|| text(&block[157..257])),
            user: record("uname")
                .cloned()
                .unwrap_or_else(|| if ustar { text(&block[265..297]) } else { Vec::new() }),
            group: record("gname")
                .cloned()
                .unwrap_or_else(|| if ustar { text(&block[297..329]) } else { Vec::new() }),
            ..Member::default()
        };
        if let Some(time) = record("mtime").and_then(|value| std::str::from_utf8(value).ok()) {
            let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
            member.seconds = seconds.parse().map_err(|_| invalid("malformed time"))?;
            member.nanoseconds = format!("{fraction:0<9.9}").parse().unwrap_or(0);
            if time.starts_with('-') && member.nanoseconds > 0 {
                (member.seconds, member.nanoseconds) =
                    (member.seconds - 1, 1_000_000_000 - member.nanoseconds);
            }
        }
        if ustar && matches!(member.kind, b'3' | b'4') {
            (member.major, member.minor) =
                (number(&block[329..337])? as u64, number(&block[337..345])? as u64);
        }
        if matches!(member.kind, 0 | b'7') {
            member.kind = b'0';
        }
        if member.kind == b'0' && member.name.ends_with(b"/") {
            member.kind = b'5';
        }
        for (key, value) in records {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                member.attributes.push((name.to_vec(), value.clone()));
            }
        }
        if records.keys().any(|key| key.starts_with(b"GNU.sparse.")) || member.kind == b'S' {
            return Err(invalid("sparse members are not supported"));
        }
        if matches!(member.kind, b'1'..=b'6') {
            member.size = if member.kind == b'1' { member.size } else { 0 };
        }
        if member.kind == b'1' {
            // A hard link may carry data in POSIX archives only.
            member.size = 0;
        }
        self.left = if matches!(member.kind, b'1'..=b'6') { 0 } else { member.size };
        self.padding = self.left.next_multiple_of(BLOCK as u64) - self.left;
        Ok(member)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.left.min(buffer.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Records `LENGTH KEY=VALUE\n`.
fn pax(data: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let (mut records, mut rest) = (BTreeMap::new(), data);
    while !rest.is_empty() && rest[0] != 0 {
        let malformed = || invalid("Malformed extended header");
        let space = rest.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(malformed)?;
        let record = rest
            .get(space + 1..length)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or_else(malformed)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        rest = &rest[length..];
    }
    Ok(records)
}

fn put_number(field: &mut [u8], value: i64) -> bool {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    if value >= 0 && text.len() <= digits {
        field[..digits].copy_from_slice(text.as_bytes());
        field[digits] = 0;
        return true;
    }
    let bytes = i128::from(value).to_be_bytes();
    let length = field.len();
    field.copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] |= 0x80;
    false
}

fn block(member: &Member, name: &[u8], link: &[u8], size: u64, kind: u8, gnu: bool) -> ([u8; BLOCK], bool) {
    let mut block = [0u8; BLOCK];
    let mut fits = true;
    let mut put = |at: usize, length: usize, value: &[u8]| {
        let length = length.min(value.len());
        block[at..at + length].copy_from_slice(&value[..length]);
    };
    put(0, 100, name);
    put(157, 100, link);
    put(265, 31, &member.user);
    put(297, 31, &member.group);
    put(257, 8, if gnu { b"ustar  \0" } else { b"ustar\x0000" });
    for (at, length, value) in [
        (100, 8, i64::from(member.mode)),
        (108, 8, member.uid as i64),
        (116, 8, member.gid as i64),
        (124, 12, size as i64),
        (136, 12, member.seconds),
    ] {
        fits &= put_number(&mut block[at..at + length], value);
    }
    if matches!(kind, b'3' | b'4') || !gnu {
        fits &= put_number(&mut block[329..337], member.major as i64);
        fits &= put_number(&mut block[337..345], member.minor as i64);
    }
    block[156] = kind;
    finish(&mut block);
    (block, fits)
}

fn finish(block: &mut [u8; BLOCK]) {
    let sum = format!("{:06o}\0 ", checksum(block));
    block[148..156].copy_from_slice(sum.as_bytes());
}

/// Writes zeros up to the next block.
pub(crate) fn pad(output: &mut impl Write, size: u64) -> io::Result<()> {
    let padding = size.next_multiple_of(BLOCK as u64) - size;
    output.write_all(&[0u8; BLOCK][..padding as usize])
}

/// Writes a member's header, and before it what does not fit in it.
pub(crate) fn write(output: &mut impl Write, member: &Member, dialect: Dialect) -> io::Result<()> {
    let long = |output: &mut dyn Write, kind: u8, data: &[u8]| -> io::Result<()> {
        let holder = Member { mode: 0o644, ..Member::default() };
        let data = [data, b"\0"].concat();
        let (block, _) = block(&holder, b"././@LongLink", b"", data.len() as u64, kind, true);
        output.write_all(&block)?;
        output.write_all(&data)?;
        output.write_all(&vec![0u8; data.len().next_multiple_of(BLOCK) - data.len()])
    };
    let split = |name: &[u8]| -> Option<(Vec<u8>, Vec<u8>)> {
        // ustar: up to 155 bytes before a slash, up to 100 after it.
        (0..name.len())
            .find(|&at| {
                name[at] == b'/' && at > 0 && at <= 155 && name.len() - at - 1 <= 100 && at + 1 < name.len()
            })
            .map(|at| (name[..at].to_vec(), name[at + 1..].to_vec()))
    };
    let (name_fits, link_fits) = (member.name.len() <= 100, member.link.len() <= 100);
    let mut records = Vec::new();
    let mut record = |key: &str, value: &[u8]| {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        // The length counts its own digits.
        let mut length = body.len() + 1;
        while length != body.len() + length.to_string().len() {
            length = body.len() + length.to_string().len();
        }
        records.extend(length.to_string().bytes());
        records.extend(body);
    };
    let mut prefix = None;
    match dialect {
        Dialect::Gnu => {
            if !link_fits {
                long(output, b'K', &member.link)?;
            }
            if !name_fits {
                long(output, b'L', &member.name)?;
            }
        }
        Dialect::Ustar => {
            if !name_fits {
                prefix = Some(
                    split(&member.name)
                        .ok_or_else(|| invalid("file name is too long (cannot be split); not dumped"))?,
                );
            }
            if !link_fits {
                return Err(invalid("link name is too long; not dumped"));
            }
        }
        Dialect::Pax => {
            if !name_fits {
                prefix = split(&member.name);
                if prefix.is_none() {
                    record("path", &member.name);
                }
            }
            if !link_fits {
                record("linkpath", &member.link);
            }
        }
    }
    let (header, fits) = match &prefix {
        Some((_, rest)) => block(member, rest, &member.link, member.size, member.kind, false),
        None => block(member, &member.name, &member.link, member.size, member.kind, dialect == Dialect::Gnu),
    };
    let mut header = header;
    if let Some((prefix, _)) = &prefix {
        header[345..345 + prefix.len()].copy_from_slice(prefix);
        finish(&mut header);
    }
    match dialect {
        Dialect::Ustar if !fits => return Err(invalid("value out of range; not dumped")),
        Dialect::Pax => {
            if !fits {
                record("size", member.size.to_string().as_bytes());
                record("uid", member.uid.to_string().as_bytes());
                record("gid", member.gid.to_string().as_bytes());
                record("mtime", member.seconds.to_string().as_bytes());
            }
            for (name, value) in &member.attributes {
                record(&format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), value);
            }
            if !records.is_empty() {
                let holder = Member { mode: 0o644, seconds: member.seconds.max(0), ..Member::default() };
                let base =
                    member.name.rsplit(|&byte| byte == b'/').find(|name| !name.is_empty()).unwrap_or(b"x");
                let name = [b"./PaxHeaders/", &base[..base.len().min(80)]].concat();
                let (extension, _) = block(&holder, &name, b"", records.len() as u64, b'x', false);
                output.write_all(&extension)?;
                output.write_all(&records)?;
                pad(output, records.len() as u64)?;
            }
        }
        _ => {}
    }
    output.write_all(&header)
}

impl<R: Read> Reader<R> {
    /// The input again.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }
}
