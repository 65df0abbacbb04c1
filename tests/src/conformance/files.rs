//! Contexts and archives from lines: `PATH [MODE] ["contents"] [-> TARGET | = OTHER] [key=value…]`.
//!
//! A path that ends in `/` is a directory. Keys are `owner=UID:GID`, `xattr=NAME:VALUE`, `mtime=SECONDS`, `size=BYTES`
//! (a file with a hole), `fifo=yes`, `char=MAJOR:MINOR`. Words in quotes know `\n \r \t \0 \\ \" \xNN`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use tar::EntryType;

/// The time of every file of a context, seconds since 1970.
pub const TIME: i64 = 1_000_000_000;

/// An archive of a context.
#[derive(Clone, Debug)]
pub struct Archive {
    name: String,
    compression: String,
    /// Its lines.
    pub entries: Vec<String>,
}

/// A line's meaning.
#[derive(Debug, Default)]
struct Entry {
    path: Vec<u8>,
    directory: bool,
    mode: Option<u32>,
    contents: Vec<u8>,
    symlink: Option<Vec<u8>>,
    hard_link: Option<Vec<u8>>,
    owner: Option<(u32, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
    mtime: Option<i64>,
    size: Option<u64>,
    fifo: bool,
    device: Option<(u32, u32)>,
}

impl Archive {
    pub(super) fn new(head: &str) -> Result<Self> {
        let (name, compression) = head.split_once(' ').context("archive NAME COMPRESSION")?;
        Ok(Self { name: name.to_owned(), compression: compression.to_owned(), entries: Vec::new() })
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for line in self.entries.iter().filter(|line| !line.is_empty()) {
            append(&mut builder, &Entry::parse(line)?)?;
        }
        let tar = builder.into_inner()?;
        Ok(match self.compression.as_str() {
            "none" => tar,
            "gz" => {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(&tar)?;
                gz.finish()?
            }
            "zst" => zstd::encode_all(tar.as_slice(), 1)?,
            other => bail!("unknown compression {other}"),
        })
    }
}

/// Makes a context.
pub(super) fn write(at: &Path, lines: &[String], archives: &[Archive]) -> Result<()> {
    fs::create_dir_all(at)?;
    let mut entries = Vec::new();
    for line in lines.iter().filter(|line| !line.is_empty()) {
        entries.push(Entry::parse(line)?);
    }
    for entry in &entries {
        entry
            .create(at)
            .with_context(|| format!("cannot make {:?}", entry.path.escape_ascii().to_string()))?;
    }
    for archive in archives {
        fs::write(at.join(&archive.name), archive.bytes()?)?;
    }
    stamp(at)?;
    for entry in &entries {
        entry.finish(at)?;
    }
    set_time(at, TIME)
}

/// Gives everything below a directory the time of contexts.
fn stamp(at: &Path) -> Result<()> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            stamp(&entry.path())?;
        }
        set_time(&entry.path(), TIME)?;
    }
    Ok(())
}

fn set_time(at: &Path, seconds: i64) -> Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

impl Entry {
    fn parse(line: &str) -> Result<Self> {
        let mut words = words(line)?.into_iter();
        let mut entry = Self { path: words.next().context("a path")?, ..Self::default() };
        entry.directory = entry.path.ends_with(b"/");
        let quoted = line.split('"').nth(1).is_some();
        while let Some(word) = words.next() {
            let text = String::from_utf8_lossy(&word).into_owned();
            match text.as_str() {
                "->" => entry.symlink = Some(words.next().context("a target")?),
                "=" => entry.hard_link = Some(words.next().context("a name")?),
                mode if mode.len() == 4 && mode.bytes().all(|b| matches!(b, b'0'..=b'7')) => {
                    entry.mode = Some(u32::from_str_radix(mode, 8)?);
                }
                pair if !quoted || is_key(pair) => entry.set(pair)?,
                _ => entry.contents = word,
            }
        }
        Ok(entry)
    }

    fn set(&mut self, pair: &str) -> Result<()> {
        let (key, value) = pair.split_once('=').with_context(|| format!("not key=value: {pair}"))?;
        let two = || -> Result<(u32, u32)> {
            let (a, b) = value.split_once(':').context("two numbers")?;
            Ok((a.parse()?, b.parse()?))
        };
        match key {
            "owner" => self.owner = Some(two()?),
            "char" => self.device = Some(two()?),
            "mtime" => self.mtime = Some(value.parse()?),
            "size" => self.size = Some(value.parse()?),
            "fifo" => self.fifo = true,
            "xattr" => {
                let (name, value) = value.split_once(':').context("xattr=NAME:VALUE")?;
                self.xattrs.push((name.to_owned(), value.as_bytes().to_vec()));
            }
            other => bail!("unknown key {other}"),
        }
        Ok(())
    }

    fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.path.strip_suffix(b"/").unwrap_or(&self.path))
    }

    fn create(&self, at: &Path) -> Result<()> {
        let path = at.join(self.name());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if self.directory {
            return Ok(fs::create_dir_all(&path)?);
        }
        if let Some(target) = &self.symlink {
            return Ok(symlink(OsStr::from_bytes(target), &path)?);
        }
        if let Some(other) = &self.hard_link {
            return Ok(fs::hard_link(at.join(OsStr::from_bytes(other)), &path)?);
        }
        if self.fifo {
            return Ok(rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?);
        }
        let mut file = File::create(&path)?;
        file.write_all(&self.contents)?;
        if let Some(size) = self.size {
            file.set_len(size)?;
        }
        Ok(())
    }

    /// Owner, mode, attributes and time, once nothing is written below any more.
    fn finish(&self, at: &Path) -> Result<()> {
        let path = at.join(self.name());
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
        }
        if self.symlink.is_none() && self.hard_link.is_none() {
            let mode = self.mode.unwrap_or(if self.directory { 0o755 } else { 0o644 });
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        for (name, value) in &self.xattrs {
            rustix::fs::lsetxattr(&path, name.as_str(), value, XattrFlags::empty())?;
        }
        set_time(&path, self.mtime.unwrap_or(TIME))
    }
}

fn is_key(word: &str) -> bool {
    ["owner=", "char=", "mtime=", "size=", "fifo=", "xattr="].iter().any(|key| word.starts_with(key))
}

fn append(builder: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> Result<()> {
    let kind = match entry {
        Entry { directory: true, .. } => EntryType::Directory,
        Entry { symlink: Some(_), .. } => EntryType::Symlink,
        Entry { hard_link: Some(_), .. } => EntryType::Link,
        Entry { fifo: true, .. } => EntryType::Fifo,
        Entry { device: Some(_), .. } => EntryType::Char,
        _ => EntryType::Regular,
    };
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(entry.mode.unwrap_or(if entry.directory { 0o755 } else { 0o644 }));
    let (uid, gid) = entry.owner.unwrap_or((0, 0));
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header.set_mtime(u64::try_from(entry.mtime.unwrap_or(TIME))?);
    header.set_size(entry.contents.len() as u64);
    if let Some((major, minor)) = entry.device {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    if !entry.xattrs.is_empty() {
        let pairs: Vec<(String, &[u8])> =
            entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), &value[..])).collect();
        builder.append_pax_extensions(pairs.iter().map(|(name, value)| (name.as_str(), *value)))?;
    }
    // The name goes into the header as it is: archives may hold names that no well-meaning program writes.
    let name = entry.path.as_slice();
    let field = header.as_old_mut();
    field
        .name
        .get_mut(..name.len())
        .context("a name of an archive has at most 100 bytes")?
        .copy_from_slice(name);
    if let Some(target) = entry.symlink.as_ref().or(entry.hard_link.as_ref()) {
        field
            .linkname
            .get_mut(..target.len())
            .context("a target has at most 100 bytes")?
            .copy_from_slice(target);
    }
    header.set_cksum();
    Ok(builder.append(&header, entry.contents.as_slice())?)
}

/// Splits a line into words; quoted ones may hold anything.
pub(super) fn words(line: &str) -> Result<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        let mut inside = false;
        let mut bytes = rest.bytes().enumerate();
        let mut end = rest.len();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => inside = !inside,
                b'\\' if inside => {
                    let (_, escaped) = bytes.next().context("an escape at the end")?;
                    word.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'0' => 0,
                        b'x' => {
                            let at = bytes.next().context("two digits")?.0;
                            bytes.next();
                            u8::from_str_radix(rest.get(at..at + 2).context("two digits")?, 16)?
                        }
                        other => other,
                    });
                }
                b' ' if !inside => {
                    end = at;
                    break;
                }
                byte => word.push(byte),
            }
        }
        words.push(word);
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_spaces_and_bytes() -> Result<()> {
        assert_eq!(words(r#"a "b c" "\x41\n" x="y z""#)?, [&b"a"[..], b"b c", b"A\n", b"x=y z"]);
        Ok(())
    }

    #[test]
    fn a_context_has_what_its_lines_say() -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let at = tempfile::tempdir()?;
        let lines = ["d/ 0700", "d/f 0600 \"x\"", "l -> d/f", "h = d/f", "big size=8192"].map(str::to_owned);
        write(at.path(), &lines, &[])?;
        assert_eq!(fs::read(at.path().join("l"))?, b"x");
        let meta = |name: &str| fs::symlink_metadata(at.path().join(name));
        assert_eq!((meta("d")?.mode() & 0o7777, meta("h")?.mode() & 0o7777), (0o700, 0o600));
        assert_eq!((meta("h")?.nlink(), meta("big")?.len(), meta("l")?.mtime()), (2, 8192, TIME));
        Ok(())
    }
}
