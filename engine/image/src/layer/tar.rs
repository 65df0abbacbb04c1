//! Reading tar archives that somebody else made.
//!
//! The `tar` crate's header types read the fields; the framing is here, because a layer is hostile input and every
//! place where two tar readers could disagree must be an error: a PAX size that is not the header's, two values for
//! one key, a body behind an entry that has none, bytes behind the end. Understood are ustar, old tar, GNU (long names,
//! sparse files, base-256 numbers) and PAX (with `SCHILY.xattr` and the three forms of GNU sparse maps).
//!
//! [`Archive::next`] gives one [`Member`] at a time, and [`Archive`] itself is then the reader of that member's
//! contents, holes filled in. All memory is bounded by the constants here.

use std::collections::BTreeMap;
use std::io::{self, Read};

use cooper_vfs::Timestamp;
use tar::{EntryType, Header};

use crate::error::{Error, Result};

/// Bound on the records of one PAX header, in bytes; Go's reader has the same.
pub const PAX_BYTES: u64 = 1 << 20;
/// Bound on a path or link target, in bytes: Linux's `PATH_MAX`.
pub const PATH_BYTES: usize = 4096;
/// Bound on the value of one extended attribute, in bytes: Linux's `XATTR_SIZE_MAX`.
pub const XATTR_BYTES: usize = 64 << 10;
/// Bound on the data segments of one sparse file.
pub const SPARSE_SEGMENTS: usize = 64 << 10;

const BLOCK: u64 = 512;
/// The greatest size that the header's octal field holds: 8 GiB - 1.
const LARGEST_OCTAL_SIZE: u64 = 0o77_777_777_777;
/// Linux's encoding of device numbers has 12 bits for the major and 20 for the minor number.
const LARGEST_MAJOR: u32 = 0xfff;
const LARGEST_MINOR: u32 = 0xf_ffff;

/// What an archive's entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file with this many bytes, holes included.
    File {
        /// Size in bytes.
        size: u64,
    },
    /// Another name of an entry that came before.
    HardLink {
        /// That entry's path, as written.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: Vec<u8>,
    },
    /// A directory.
    Directory,
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The path as written, neither checked nor cleaned.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits, setuid, setgid and sticky: `07777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change, with a fraction when PAX has one.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A reader of one archive.
#[derive(Debug)]
pub struct Archive<R> {
    inner: R,
    /// Bytes of the current member that are still in the archive, without padding.
    stored_left: u64,
    /// Padding behind them.
    padding: u64,
    /// The current member's contents: holes and data in turn. The last is next.
    segments: Vec<Segment>,
    finished: bool,
}

#[derive(Debug, Clone, Copy)]
enum Segment {
    Hole(u64),
    Data(u64),
}

impl<R: Read> Archive<R> {
    /// Reads an archive from its beginning.
    pub fn new(inner: R) -> Self {
        Self { inner, stored_left: 0, padding: 0, segments: Vec::new(), finished: false }
    }

    /// Goes on to the next entry, passing over what is left of the current one.
    ///
    /// None is the end: the end marker was there, and nothing but zeros behind it.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] for everything that is not a well-formed archive, [`Error::Limit`] for what is too large.
    #[allow(
        clippy::should_implement_trait,
        reason = "the members borrow nothing, but reading one needs the archive"
    )]
    pub fn next(&mut self) -> Result<Option<Member>> {
        if self.finished {
            return Ok(None);
        }
        self.skip_rest()?;
        let mut extension = Extension::default();
        loop {
            let Some(header) = self.read_header()? else {
                if extension.is_empty() {
                    self.finished = true;
                    return self.check_end().map(|()| None);
                }
                return Err(Error::layer("an extension header with no entry behind it"));
            };
            let size = header_size(&header)?;
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name =
                        self.read_extension(size, PATH_BYTES as u64 + 1, "a long name", "PATH_BYTES")?;
                    set_once(&mut extension.path, until_zero(name), "two long names for one entry")?;
                }
                EntryType::GNULongLink => {
                    let name =
                        self.read_extension(size, PATH_BYTES as u64 + 1, "a long link", "PATH_BYTES")?;
                    set_once(&mut extension.link, until_zero(name), "two long links for one entry")?;
                }
                EntryType::XHeader => {
                    let records = self.read_extension(size, PAX_BYTES, "a PAX header", "PAX_BYTES")?;
                    set_once(&mut extension.pax, Pax::parse(&records)?, "two PAX headers for one entry")?;
                }
                EntryType::XGlobalHeader => {
                    let records = self.read_extension(size, PAX_BYTES, "a PAX header", "PAX_BYTES")?;
                    check_global(&Pax::parse(&records)?)?;
                }
                _ => return self.member(&header, size, extension).map(Some),
            }
        }
    }

    /// What the archive is read from.
    pub(crate) fn inner(&self) -> &R {
        &self.inner
    }

    /// Whether the current member has holes, so that its bytes do not lie in the archive as they are.
    pub(crate) fn is_sparse(&self) -> bool {
        !matches!(self.segments.as_slice(), [Segment::Data(_)])
    }

    fn member(&mut self, header: &Header, header_size: u64, extension: Extension) -> Result<Member> {
        let Extension { path, link, pax } = extension;
        let pax = pax.unwrap_or_default();
        let mut path = pax.path.clone().or(path).unwrap_or_else(|| header.path_bytes().into_owned());
        let wrong = |path: &[u8], reason: &str| Err(Error::entry(path, reason));
        check_length(&path)?;
        if path.contains(&0) {
            return wrong(&path, "the name holds a zero byte");
        }
        let stored = match pax.size {
            Some(size) if size <= LARGEST_OCTAL_SIZE && size != header_size => {
                return wrong(&path, &format!("PAX says {size} bytes, the header {header_size}"));
            }
            Some(size) => size,
            None => header_size,
        };
        self.stored_left = stored;
        self.padding = stored.wrapping_neg() % BLOCK;
        self.segments = vec![Segment::Data(stored)];
        let link = || {
            let target = pax.link.clone().or(link).or_else(|| header.link_name_bytes().map(Into::into));
            let target = target.unwrap_or_default();
            check_length(&target)?;
            if target.is_empty() || target.contains(&0) {
                return Err(Error::entry(&path, "a link without a valid target"));
            }
            Ok(target)
        };
        let field = |at: std::ops::Range<usize>, value: io::Result<u64>, what: &str| match value {
            _ if is_blank(&header.as_bytes()[at]) => Ok(0),
            value => value.map_err(|_| Error::entry(&path, format!("the {what} is not a number"))),
        };
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => MemberKind::File { size: stored },
            EntryType::GNUSparse => MemberKind::File { size: stored },
            EntryType::Link => MemberKind::HardLink { target: link()? },
            EntryType::Symlink => MemberKind::Symlink { target: link()? },
            EntryType::Directory => MemberKind::Directory,
            EntryType::Fifo => MemberKind::Fifo,
            kind @ (EntryType::Char | EntryType::Block) => {
                let number = |field: &[u8], value: io::Result<Option<u32>>, most: u32| match value {
                    _ if is_blank(field) => Ok(0),
                    Ok(Some(number)) if number <= most => Ok(number),
                    _ => Err(Error::entry(&path, "the device number is out of range")),
                };
                let fields = &header.as_bytes()[329..345];
                let major = number(&fields[..8], header.device_major(), LARGEST_MAJOR)?;
                let minor = number(&fields[8..], header.device_minor(), LARGEST_MINOR)?;
                if kind == EntryType::Char {
                    MemberKind::CharacterDevice { major, minor }
                } else {
                    MemberKind::BlockDevice { major, minor }
                }
            }
            other => {
                let kind = crate::error::printable(&[other.as_byte()]);
                return wrong(&path, &format!("the entry type `{kind}` is not known"));
            }
        };
        if !matches!(kind, MemberKind::File { .. }) && stored != 0 {
            return wrong(&path, "an entry of this type must not have contents");
        }
        let id = |from_pax: Option<u64>, at: std::ops::Range<usize>, value: io::Result<u64>, what: &str| {
            let id = from_pax.map_or_else(|| field(at, value, what), Ok)?;
            u32::try_from(id).map_err(|_| Error::entry(&path, format!("the {what} is out of range: {id}")))
        };
        let uid = id(pax.uid, 108..116, header.uid(), "owner")?;
        let gid = id(pax.gid, 116..124, header.gid(), "group")?;
        let mode = field(100..108, header.mode().map(u64::from), "mode")?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => header_mtime(header).ok_or_else(|| Error::entry(&path, "the time is not a number"))?,
        };
        let sparse_name = pax.sparse_name.clone();
        let kind = if header.entry_type() == EntryType::GNUSparse {
            MemberKind::File { size: self.read_gnu_sparse(&path, header)? }
        } else if matches!(kind, MemberKind::File { .. }) && pax.is_sparse() {
            MemberKind::File { size: self.read_pax_sparse(&path, &pax)? }
        } else {
            kind
        };
        if let Some(name) = sparse_name {
            check_length(&name)?;
            path = name;
        }
        // The mode field has room for the type bits; they are not part of the mode.
        let mode = (mode & 0o7777) as u16;
        Ok(Member { path, kind, mode, uid, gid, mtime, xattrs: pax.xattrs })
    }

    /// Reads one header; none at the first block of zeros.
    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.read_exactly(header.as_mut_bytes(), "the end-of-archive marker is missing")?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |field: &dyn Fn(u8) -> i64| -> i64 {
            let body = bytes[..148].iter().chain(&bytes[156..]).map(|byte| field(*byte)).sum::<i64>();
            body + 8 * i64::from(b' ')
        };
        let expected = header.cksum().map_err(|_| Error::layer("a header's checksum is not a number"))?;
        // Old tars summed signed bytes; Go's reader takes both, too.
        let unsigned = sum(&|byte| i64::from(byte));
        let signed = sum(&|byte| i64::from(byte.cast_signed()));
        if i64::from(expected) != unsigned && i64::from(expected) != signed {
            return Err(Error::layer(
                "a header's checksum is wrong: this is no tar archive, or a damaged one",
            ));
        }
        Ok(Some(header))
    }

    fn read_extension(&mut self, size: u64, limit: u64, what: &str, name: &'static str) -> Result<Vec<u8>> {
        if size > limit {
            return Err(Error::Limit { what: what.to_owned(), name, limit });
        }
        let padded = size.next_multiple_of(BLOCK);
        let mut bytes =
            vec![0; usize::try_from(padded).map_err(|_| Error::layer("the size is out of range"))?];
        self.read_exactly(&mut bytes, "an extension header is truncated")?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// Checks that only zeros follow the end marker's first block, which may be padded to any length.
    fn check_end(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let count = self.read_inner(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            if buffer[..count].iter().any(|byte| *byte != 0) {
                return Err(Error::layer("bytes behind the end of the archive"));
            }
        }
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut left = self.stored_left + self.padding;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            self.read_exactly(&mut buffer[..wanted], "the archive is truncated")?;
            left -= wanted as u64;
        }
        self.stored_left = 0;
        self.padding = 0;
        self.segments.clear();
        Ok(())
    }

    fn read_exactly(&mut self, buffer: &mut [u8], truncated: &str) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_inner(&mut buffer[done..])? {
                0 => return Err(Error::layer(format!("truncated: {truncated}"))),
                count => done += count,
            }
        }
        Ok(())
    }

    fn read_inner(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("cannot read the layer", error)),
            }
        }
    }

    /// Reads the map of an old GNU sparse entry: four segments in the header, 21 in each further block.
    fn read_gnu_sparse(&mut self, path: &[u8], header: &Header) -> Result<u64> {
        let gnu = header.as_gnu().ok_or_else(|| Error::entry(path, "a sparse entry needs a GNU header"))?;
        let number =
            |value: io::Result<u64>| value.map_err(|_| Error::entry(path, "the sparse map is damaged"));
        let real_size = number(gnu.real_size())?;
        let mut map = Vec::new();
        for segment in gnu.sparse.iter().filter(|segment| !segment.is_empty()) {
            map.push((number(segment.offset())?, number(segment.length())?));
        }
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.read_exactly(block.as_mut_bytes(), "a sparse map")?;
            for segment in block.sparse.iter().filter(|segment| !segment.is_empty()) {
                map.push((number(segment.offset())?, number(segment.length())?));
            }
            check_segments(map.len())?;
            more = block.is_extended();
        }
        self.set_sparse(path, &map, real_size)
    }

    fn read_pax_sparse(&mut self, path: &[u8], pax: &Pax) -> Result<u64> {
        let real_size =
            pax.sparse_size.ok_or_else(|| Error::entry(path, "a sparse file without its real size"))?;
        if pax.sparse_version_1 {
            let map = self.read_sparse_map_1(path)?;
            return self.set_sparse(path, &map, real_size);
        }
        self.set_sparse(path, &pax.sparse_map, real_size)
    }

    /// Version 1.0 keeps the map in front of the data: decimal numbers with a newline each, padded to a block.
    fn read_sparse_map_1(&mut self, path: &[u8]) -> Result<Vec<(u64, u64)>> {
        let damaged = || Error::entry(path, "the sparse map is damaged");
        let (mut numbers, mut current): (Vec<u64>, Option<u64>) = (Vec::new(), None);
        let mut block = [0; BLOCK as usize];
        loop {
            self.stored_left = self.stored_left.checked_sub(BLOCK).ok_or_else(damaged)?;
            self.read_exactly(&mut block, "a sparse map")?;
            for byte in block {
                let complete = numbers.first().is_some_and(|count| numbers.len() as u64 == 1 + 2 * count);
                match byte {
                    b'0'..=b'9' if !complete => {
                        let digit = u64::from(byte - b'0');
                        let next = current.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit));
                        current = Some(next.ok_or_else(damaged)?);
                    }
                    b'\n' if !complete => {
                        numbers.push(current.take().ok_or_else(damaged)?);
                        check_segments(usize::try_from(numbers[0]).unwrap_or(usize::MAX))?;
                    }
                    0 if complete => {}
                    _ => return Err(damaged()),
                }
            }
            if numbers.first().is_some_and(|count| numbers.len() as u64 == 1 + 2 * count) {
                return Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
            }
        }
    }

    /// Turns a map of data segments into the member's segments, checking that it is in order and complete.
    fn set_sparse(&mut self, path: &[u8], map: &[(u64, u64)], real_size: u64) -> Result<u64> {
        let wrong = || Error::entry(path, "the sparse map contradicts itself or the sizes");
        let mut segments = Vec::with_capacity(map.len() * 2 + 1);
        let (mut end, mut data) = (0_u64, 0_u64);
        for &(offset, length) in map {
            let hole = offset.checked_sub(end).ok_or_else(wrong)?;
            segments.push(Segment::Hole(hole));
            segments.push(Segment::Data(length));
            end = offset.checked_add(length).ok_or_else(wrong)?;
            data = data.checked_add(length).ok_or_else(wrong)?;
        }
        segments.push(Segment::Hole(real_size.checked_sub(end).ok_or_else(wrong)?));
        if data != self.stored_left {
            return Err(wrong());
        }
        segments.reverse();
        self.segments = segments;
        Ok(real_size)
    }
}

impl<R: Read> Read for Archive<R> {
    /// Reads the current member's contents.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.segments.last_mut() {
                None => return Ok(0),
                Some(Segment::Hole(0) | Segment::Data(0)) => {
                    self.segments.pop();
                }
                Some(Segment::Hole(left)) => {
                    let count = (*left).min(buffer.len() as u64) as usize;
                    buffer[..count].fill(0);
                    *left -= count as u64;
                    return Ok(count);
                }
                Some(Segment::Data(left)) => {
                    let wanted = (*left).min(buffer.len() as u64) as usize;
                    let count = self.inner.read(&mut buffer[..wanted])?;
                    if count == 0 {
                        return Err(Error::layer("truncated: the archive ends inside a file").into_io());
                    }
                    *left -= count as u64;
                    self.stored_left -= count as u64;
                    return Ok(count);
                }
            }
        }
    }
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Extension {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.pax.is_none()
    }
}

/// The PAX records that mean something to us.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timestamp>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Vec<(u64, u64)>,
    sparse_version_1: bool,
    /// Every key that was there, also those without meaning for us.
    keys: Vec<Vec<u8>>,
}

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Parses records of the form `length key=value\n`.
    ///
    /// Keys without meaning here (access times, user names, other tools' own) are passed over, as Docker does; a key
    /// given twice is an error, because readers differ on which of the two counts.
    fn parse(mut records: &[u8]) -> Result<Self> {
        let damaged = || Error::layer("a PAX header is damaged");
        let mut pax = Self::default();
        let mut sparse_offset = None;
        while !records.is_empty() {
            let space = records.iter().take(20).position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length =
                decimal(&records[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(damaged)?;
            let record = records.get(space + 1..length).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            records = &records[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"GNU.sparse.offset" => sparse_offset = Some(decimal(value).ok_or_else(damaged)?),
                b"GNU.sparse.numbytes" => {
                    let offset = sparse_offset.take().ok_or_else(damaged)?;
                    pax.sparse_map.push((offset, decimal(value).ok_or_else(damaged)?));
                    check_segments(pax.sparse_map.len())?;
                }
                _ => {
                    if pax.keys.iter().any(|other| other == key) {
                        let key = crate::error::printable(key);
                        return Err(Error::layer(format!("a PAX header has two values for `{key}`")));
                    }
                    pax.keys.push(key.to_vec());
                    // An empty value takes the key back: the header's own field counts.
                    if !value.is_empty() || key.starts_with(XATTR_PREFIX) {
                        pax.set(key, value)?;
                    }
                }
            }
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let wrong = || {
            let (key, value) = (crate::error::printable(key), crate::error::printable(value));
            Error::layer(format!("a PAX header's `{key}` is not valid: `{value}`"))
        };
        let number = || decimal(value).ok_or_else(wrong).map(Some);
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(wrong)?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                let size = decimal(value).ok_or_else(wrong)?;
                if self.sparse_size.is_some_and(|other| other != size) {
                    return Err(Error::layer("a PAX header has two sizes for one sparse file"));
                }
                self.sparse_size = Some(size);
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(decimal).collect();
                let numbers = numbers.filter(|numbers| numbers.len().is_multiple_of(2)).ok_or_else(wrong)?;
                check_segments(numbers.len() / 2)?;
                self.sparse_map = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            }
            b"GNU.sparse.major" => match value {
                b"1" => self.sparse_version_1 = true,
                b"0" => {}
                _ => return Err(wrong()),
            },
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.set_xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(Error::layer("the name of an extended attribute is not valid"));
        }
        if value.len() > XATTR_BYTES {
            let what = format!("the extended attribute `{}`", crate::error::printable(name));
            return Err(Error::Limit { what, name: "XATTR_BYTES", limit: XATTR_BYTES as u64 });
        }
        self.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn is_sparse(&self) -> bool {
        self.sparse_size.is_some() || self.sparse_version_1 || !self.sparse_map.is_empty()
    }
}

/// A global PAX header may hold a comment (git's commit id); anything that would change entries is refused, because
/// readers differ on whether they honour it.
fn check_global(pax: &Pax) -> Result<()> {
    match pax.keys.iter().find(|key| *key != b"comment") {
        Some(key) => {
            let key = crate::error::printable(key);
            Err(Error::layer(format!("a global PAX header with `{key}` is not supported")))
        }
        None if pax.sparse_map.is_empty() => Ok(()),
        None => Err(Error::layer("a global PAX header with a sparse map")),
    }
}

fn check_length(path: &[u8]) -> Result<()> {
    if path.len() <= PATH_BYTES {
        return Ok(());
    }
    let what = format!("the path `{}`", crate::error::printable(path));
    Err(Error::Limit { what, name: "PATH_BYTES", limit: PATH_BYTES as u64 })
}

fn check_segments(count: usize) -> Result<()> {
    if count <= SPARSE_SEGMENTS {
        return Ok(());
    }
    let what = "a sparse map".to_owned();
    Err(Error::Limit { what, name: "SPARSE_SEGMENTS", limit: SPARSE_SEGMENTS as u64 })
}

fn set_once<T>(slot: &mut Option<T>, value: T, twice: &str) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(Error::layer(twice));
    }
    Ok(())
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Whether a number's field is empty, as old writers leave that of a zero.
fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, 0 | b' '))
}

fn header_size(header: &Header) -> Result<u64> {
    if is_blank(&header.as_bytes()[124..136]) {
        return Ok(0);
    }
    let path = header.path_bytes();
    let size = header.entry_size().map_err(|_| Error::entry(&path, "the size is not a number"))?;
    // Leaves room for the padding, and for adding sizes up.
    if size > i64::MAX as u64 { Err(Error::entry(&path, "the size is out of range")) } else { Ok(size) }
}

/// The header's time; base-256 times may lie before 1970.
fn header_mtime(header: &Header) -> Option<Timestamp> {
    if is_blank(&header.as_bytes()[136..148]) {
        return Some(Timestamp { seconds: 0, nanoseconds: 0 });
    }
    let seconds = header.mtime().ok()?;
    Some(Timestamp { seconds: seconds.cast_signed(), nanoseconds: 0 })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|number| *number <= i64::MAX as u64)
}

/// Parses `[-]seconds[.fraction]`.
fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            nanoseconds = nanoseconds * 10 + u32::from(digit - b'0');
        }
    }
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        // Minus one and a half is two seconds before, and half a second later.
        (true, nanoseconds) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}
