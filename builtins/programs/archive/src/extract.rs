//! Extraction, and the rules for names that come from an archive.

use std::io::{Read, Write};

use toolbox_linux::errno;
use toolbox_linux::file::{self, AT_SYMLINK_NOFOLLOW, Descriptor, Time, open};
use toolbox_linux::process;

use crate::header::{Member, Reader};
use crate::tar::Tar;

/// A name without what could lead out of the directory: all up to the last `..`, and slashes at the start. Also what was taken off.
pub(crate) fn safe_name(name: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    let mut at = 0;
    for part in name.split(|&byte| byte == b'/') {
        at += part.len() + 1;
        if part == b".." {
            start = at.min(name.len());
        }
    }
    while name.get(start) == Some(&b'/') {
        start += 1;
    }
    if start >= name.len() && !name.is_empty() { (b".", name) } else { (&name[start..], &name[..start]) }
}

/// What is done when everything else is: modes and times of directories, links that could lead elsewhere.
#[derive(Default)]
struct Later {
    directories: Vec<(Vec<u8>, Member)>,
    links: Vec<(Vec<u8>, Member)>,
}

pub(crate) fn extract(tar: &Tar<'_>) {
    let mut reader = tar.reader();
    tar.change_directory();
    let mut found = vec![false; tar.parsed.operands.len()];
    let mut later = Later::default();
    let mut warned = false;
    while let Some(member) = tar.next(&mut reader) {
        if !tar.is_wanted(&member.name, &mut found) || tar.is_excluded(&member.name) {
            continue;
        }
        if tar.parsed.has("verbose") {
            let to = if tar.parsed.has("to-stdout") { 2 } else { 1 };
            tar.context.check_write(Descriptor::keep(to).write_all(&tar.line(&member)));
        }
        let mut name = member.name.clone();
        if tar.strip > 0 {
            let parts: Vec<&[u8]> =
                name.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect();
            if parts.len() <= tar.strip {
                continue;
            }
            name = parts[tar.strip..].join(&b'/');
        }
        if !tar.parsed.has("absolute-names") {
            let (safe, prefix) = safe_name(&name);
            if !prefix.is_empty() && !std::mem::replace(&mut warned, true) {
                tar.context.warn(format!(
                    "Removing leading `{}' from member names",
                    String::from_utf8_lossy(prefix)
                ));
            }
            name = safe.to_vec();
        }
        while name.len() > 1 && name.ends_with(b"/") {
            name.pop();
        }
        if tar.parsed.has("to-stdout") {
            if member.kind == b'0' {
                copy(tar, &mut reader, &Descriptor::keep(1), &name);
            }
            continue;
        }
        one(tar, &mut reader, &name, member, &mut later);
    }
    for (path, member) in later.links {
        place(tar, &path, || file::symlink(&member.link, &path));
        attributes(tar, &path, &member);
    }
    // Innermost first, so that no time of a directory changes again.
    for (path, member) in later.directories.into_iter().rev() {
        attributes(tar, &path, &member);
    }
    tar.report_missing(&found);
}

fn copy(tar: &Tar<'_>, reader: &mut Reader<Box<dyn Read + '_>>, output: &Descriptor, name: &[u8]) {
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let mut rest = &buffer[..count];
                while !rest.is_empty() {
                    match file::write(output.raw(), rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(reason) => {
                            tar.fatal(format!("{}: Cannot write: {reason}", String::from_utf8_lossy(name)))
                        }
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                tar.fatal("Unexpected EOF in archive".into())
            }
            Err(error) => tar.fatal(toolbox_command::reason(&error)),
        }
    }
}

/// Makes something at a path: what lies there goes first, directories above are made.
fn place<T>(tar: &Tar<'_>, path: &[u8], make: impl Fn() -> toolbox_linux::Result<T>) -> Option<T> {
    let shown = String::from_utf8_lossy(path);
    let mut result = make();
    if result.as_ref().err() == Some(&errno::ENOENT) {
        above(path);
        result = make();
    }
    if result.as_ref().err() == Some(&errno::EEXIST) {
        if tar.parsed.has("skip-old-files") {
            return None;
        }
        if !tar.parsed.has("keep-old-files") {
            let gone = match file::lstat(path) {
                Ok(stat) if stat.is_directory() => file::rmdir(path),
                _ => file::unlink(path),
            };
            result = gone.and_then(|()| make());
        }
    }
    result.map_err(|reason| tar.fail(format!("{shown}: Cannot open: {reason}"))).ok()
}

fn above(path: &[u8]) {
    for (at, _) in path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0) {
        let _ = file::mkdir(&path[..at], 0o777);
    }
}

fn one(
    tar: &Tar<'_>,
    reader: &mut Reader<Box<dyn Read + '_>>,
    path: &[u8],
    member: Member,
    later: &mut Later,
) {
    let shown = String::from_utf8_lossy(path).into_owned();
    match member.kind {
        b'5' => {
            let made = file::mkdir(path, member.mode & 0o777 | 0o700).or_else(|reason| {
                if reason == errno::ENOENT {
                    above(path);
                    return file::mkdir(path, member.mode & 0o777 | 0o700);
                }
                Err(reason)
            });
            match made {
                Ok(()) => {}
                Err(errno::EEXIST) if file::stat(path).is_ok_and(|stat| stat.is_directory()) => {}
                Err(errno::EEXIST) => {
                    if place(tar, path, || file::mkdir(path, 0o700)).is_none() {
                        return;
                    }
                }
                Err(reason) => return tar.fail(format!("{shown}: Cannot mkdir: {reason}")),
            }
            later.directories.push((path.to_vec(), member));
        }
        b'0' => {
            let flags = if tar.parsed.has("overwrite") {
                open::WRONLY | open::CREAT | open::TRUNC | open::NOFOLLOW
            } else {
                open::WRONLY | open::CREAT | open::EXCL
            };
            let Some(output) = place(tar, path, || file::open(path, flags, 0o600)) else { return };
            copy(tar, reader, &output, path);
            drop(output);
            attributes(tar, path, &member);
        }
        b'1' => {
            let absolute = tar.parsed.has("absolute-names");
            let mut target = if absolute { member.link.clone() } else { safe_name(&member.link).0.to_vec() };
            if tar.strip > 0 {
                let parts: Vec<&[u8]> =
                    target.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect();
                target = parts.get(tar.strip..).unwrap_or_default().join(&b'/');
            }
            let same = file::lstat(path)
                .ok()
                .zip(file::lstat(&target).ok())
                .is_some_and(|(left, right)| left.identity() == right.identity());
            if !same {
                place(tar, path, || file::link(&target, path, 0));
            }
        }
        b'2' => {
            // A link that may lead out is made last, so that no member goes through it.
            let leads_out = member.link.starts_with(b"/")
                || member.link.split(|&byte| byte == b'/').any(|part| part == b"..");
            if leads_out && !tar.parsed.has("absolute-names") {
                later.links.push((path.to_vec(), member));
                return;
            }
            if place(tar, path, || file::symlink(&member.link, path)).is_some() {
                attributes(tar, path, &member);
            }
        }
        b'3' | b'4' | b'6' => {
            let kind = match member.kind {
                b'3' => 0o020_000,
                b'4' => 0o060_000,
                _ => 0o010_000,
            };
            let device = file::make_device(member.major, member.minor);
            if place(tar, path, || file::mknod(path, kind | 0o600, device)).is_some() {
                attributes(tar, path, &member);
            }
        }
        other => tar.fail(format!("{shown}: Unknown file type '{}'", char::from(other))),
    }
}

/// Owner, mode and times of what was extracted.
fn attributes(tar: &Tar<'_>, path: &[u8], member: &Member) {
    let shown = String::from_utf8_lossy(path).into_owned();
    let root = process::geteuid() == 0;
    let owned = match tar.parsed.last(&["same-owner", "no-same-owner"]) {
        Some(option) => option == "same-owner",
        None => root,
    };
    if owned {
        let numeric = tar.parsed.has("numeric-owner");
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let uid = tar
            .owners
            .user(&text(&member.user))
            .filter(|_| !numeric)
            .map_or(member.uid as u32, |user| user.uid);
        let gid = tar
            .owners
            .group(&text(&member.group))
            .filter(|_| !numeric)
            .map_or(member.gid as u32, |group| group.gid);
        if let Err(reason) = file::chown(path, Some(uid), Some(gid), AT_SYMLINK_NOFOLLOW) {
            tar.fail(format!("{shown}: Cannot change ownership to uid {uid}, gid {gid}: {reason}"));
        }
    }
    if tar.parsed.has("xattrs") {
        for (name, value) in &member.attributes {
            if let Err(reason) = file::lsetxattr(path, name, value) {
                tar.context.warn(format!("{shown}: Cannot set extended attribute: {reason}"));
            }
        }
    }
    if member.kind != b'2' {
        let exact =
            match tar.parsed.last(&["preserve-permissions", "same-permissions", "no-same-permissions"]) {
                Some(option) => option != "no-same-permissions",
                None => root,
            };
        let mode = if exact { member.mode } else { member.mode & 0o777 & !tar.context.umask() };
        if let Err(reason) = file::chmod(path, mode) {
            tar.fail(format!("{shown}: Cannot change mode to {mode:o}: {reason}"));
        }
    }
    if !tar.parsed.has("touch") {
        let modified = Time { seconds: member.seconds, nanoseconds: member.nanoseconds };
        if let Err(reason) = file::utimensat(path, Time::NOW, modified, AT_SYMLINK_NOFOLLOW) {
            tar.fail(format!("{shown}: Cannot utime: {reason}"));
        }
    }
}

/// A time as `2024-01-31 12:34`, in UTC.
pub(crate) fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86400) + 719_468, seconds.rem_euclid(86400));
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let day = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{:02} {:02}:{:02}",
        day - (153 * shifted + 2) / 5 + 1,
        rest / 3600,
        rest / 60 % 60
    )
}

/// Reads `@SECONDS` or `YYYY-MM-DD[ HH:MM[:SS]]` in UTC.
pub(crate) fn parse_date(text: &str) -> Option<i64> {
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse().ok();
    }
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix(" UTC")).unwrap_or(text);
    let mut parts = text.split([' ', 'T']);
    let numbers = |text: &str, between: char| {
        text.split(between).map(|part| part.parse::<i64>().ok()).collect::<Option<Vec<i64>>>()
    };
    let date = numbers(parts.next()?, '-')?;
    let clock = numbers(parts.next().unwrap_or("0:0"), ':')?;
    let [year, month, day] = date[..] else { return None };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || parts.next().is_some() {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let days =
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * ((month + 9) % 12) + 2) / 5 + day
            - 1
            - 719_468;
    Some(days * 86400 + clock.first()? * 3600 + clock.get(1)? * 60 + clock.get(2).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out() {
        for (name, safe) in [
            ("a/b", "a/b"),
            ("/a", "a"),
            ("../a", "a"),
            ("a/../../b", "b"),
            ("..", "."),
            ("/", "."),
            ("a..b", "a..b"),
        ] {
            assert_eq!(safe_name(name.as_bytes()).0, safe.as_bytes(), "{name}");
        }
    }

    #[test]
    fn dates_come_back() {
        assert_eq!(parse_date("2024-02-29 12:34"), Some(1_709_210_040));
        assert_eq!(date(1_709_210_040), "2024-02-29 12:34");
        assert_eq!(parse_date("yesterday"), None);
    }
}
