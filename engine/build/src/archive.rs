//! Tar archives as files: what `ADD` unpacks, and contexts that come as an archive.
//!
//! The reader is the one that reads layers; the rules differ, because an archive is no layer: whiteouts are ordinary
//! names, an entry may lie below a symbolic link that the archive or the image brought along (it is followed inside
//! the tree), and parents that are missing are made.
//!
//! What must hold: whatever the archive says, nothing is touched but the tree below the directory it is unpacked in;
//! the number of entries and the bytes written are bounded.

use std::io::{self, BufRead, BufReader, Read};

use cooper_image::compression;
use cooper_image::layer::tar::{Archive, Member, MemberKind};
use cooper_vfs::Timestamp;
use cooper_vfs::content::{Content, ContentId, ContentStore};
use cooper_vfs::path;
use cooper_vfs::tree::{Entry, Metadata, NodeKind, TreeBuilder};

use crate::copy::resolve;
use crate::error::{Error, Result};
use crate::users::Owner;

/// Bound on the entries of one archive.
pub const ENTRIES: u64 = 4 << 20;
/// Bound on the bytes of all files of one archive.
pub const UNPACKED_BYTES: u64 = 1 << 40;
/// How much of a file is looked at to see what it is: more than one block of zstd or xz.
const HEAD_BYTES: u64 = 256 << 10;
/// The same for bzip2, whose blocks hold up to 900 kB.
const BZIP2_HEAD_BYTES: u64 = 2 << 20;
const BZIP2_MAGIC: &[u8] = b"BZh";

/// What an archive is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One that the layer reader knows too: none, gzip, zstd.
    Known,
    /// bzip2.
    Bzip2,
    /// xz, which dpkg and release archives use.
    Xz,
}

/// Who owns what is unpacked, and what time is given to directories that the archive does not list.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    /// Everything has this owner; without it the archive's entries say.
    pub fixed: Option<Owner>,
    /// Time of made directories.
    pub made: Timestamp,
}

/// Says whether a file's bytes are a tar archive, perhaps compressed.
pub fn detect(content: &Content) -> io::Result<Option<Format>> {
    let (head, _) = peek(content.reader())?;
    Ok(detect_head(&head))
}

/// As [`detect`], for the first bytes of a stream.
pub fn detect_head(head: &[u8]) -> Option<Format> {
    let format = if head.starts_with(BZIP2_MAGIC) {
        Format::Bzip2
    } else if head.starts_with(b"\xfd7zXZ\0") {
        Format::Xz
    } else {
        Format::Known
    };
    let mut header = [0; 512];
    decoder(BufReader::new(head), format).ok()?.read_exact(&mut header).ok()?;
    is_tar_header(&header).then_some(format)
}

/// The plain bytes of an archive.
fn decoder<'a>(archive: impl BufRead + Send + 'a, format: Format) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match format {
        Format::Known => compression::decoder(archive)?.1,
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(archive)),
        Format::Xz => Box::new(lzma_rust2::XzReader::new(archive, true)),
    })
}

/// Checks the header's own sum, as every tar reader does; a block of zeros has none. A header of extended attributes may
/// have no name.
fn is_tar_header(header: &[u8; 512]) -> bool {
    let field = header[148..156].iter().copied().filter(|byte| !matches!(byte, b' ' | 0));
    let digits: Vec<u8> = field.collect();
    let written = std::str::from_utf8(&digits).ok().and_then(|digits| u32::from_str_radix(digits, 8).ok());
    let sum = |value: u32, (index, byte): (usize, &u8)| {
        value + if (148..156).contains(&index) { u32::from(b' ') } else { u32::from(*byte) }
    };
    written == Some(header.iter().enumerate().fold(0, sum))
}

/// Unpacks into the existing directory `top` of a tree; returns the newest time among the entries.
pub fn unpack(
    store: &dyn ContentStore,
    builder: &mut TreeBuilder<'_>,
    top: &[u8],
    archive: impl Read + Send,
    format: Format,
    owners: Owners,
) -> Result<Timestamp> {
    let plain = decoder(BufReader::new(archive), format)
        .map_err(|error| Error::host("cannot read the archive", error))?;
    let mut archive = Archive::new(plain);
    let mut pack = store.pack().map_err(crate::copy::store_failed)?;
    let mut unpacking =
        Unpacking { builder, top, owners, newest: Timestamp::default(), left: UNPACKED_BYTES };
    let mut entries = 0;
    while let Some(member) = archive.next()? {
        entries += 1;
        if entries > ENTRIES {
            return Err(Error::new(
                crate::error::Fault::Limit,
                format!("the archive has more than {ENTRIES} entries"),
            ));
        }
        let content = match &member.kind {
            MemberKind::File { size } => {
                unpacking.left = unpacking.left.checked_sub(*size).ok_or_else(|| {
                    Error::new(
                        crate::error::Fault::Limit,
                        format!("the archive has more than {UNPACKED_BYTES} bytes"),
                    )
                })?;
                Some(pack.add(&mut archive).map_err(|error| {
                    Error::from(cooper_image::Error::io("cannot read the archive", error))
                })?)
            }
            _ => None,
        };
        unpacking.member(member, content)?;
    }
    pack.finish().map_err(crate::copy::store_failed)?;
    Ok(unpacking.newest)
}

struct Unpacking<'a, 's> {
    builder: &'a mut TreeBuilder<'s>,
    top: &'a [u8],
    owners: Owners,
    newest: Timestamp,
    left: u64,
}

impl Unpacking<'_, '_> {
    fn member(&mut self, member: Member, content: Option<(ContentId, u64)>) -> Result<()> {
        let Some((parent, name)) = self.place(&member.path)? else {
            // The entry of the archive's own root says nothing about the directory it is unpacked in.
            return Ok(());
        };
        let target = path::join(&parent, &name);
        self.newest = self.newest.max(member.mtime);
        let metadata = self.metadata(&member);
        let kind = match member.kind {
            MemberKind::Directory => {
                if !self.is_directory(&target)? {
                    self.remove(&target)?;
                }
                return self.builder.put_directory(&target, metadata).map_err(crate::copy::store_failed);
            }
            MemberKind::HardLink { target: link } => return self.hard_link(&target, &link),
            MemberKind::File { .. } => {
                let (content, size) = content.unwrap_or((ContentId::EMPTY, 0));
                NodeKind::File { content, size }
            }
            MemberKind::Symlink { target } => NodeKind::Symlink { target },
            MemberKind::CharacterDevice { major, minor } => NodeKind::CharacterDevice { major, minor },
            MemberKind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
            MemberKind::Fifo => NodeKind::Fifo,
        };
        self.remove(&target)?;
        self.builder.put(&target, Entry { name, metadata, kind }).map_err(crate::copy::store_failed)
    }

    fn hard_link(&mut self, target: &[u8], link: &[u8]) -> Result<()> {
        let Some((parent, name)) = self.place(link)? else { return Err(refused(link, "a link to the root")) };
        let leader = path::join(&parent, &name);
        if self.builder.get(&leader).map_err(crate::copy::store_failed)?.is_none() {
            return Err(refused(link, "a hard link to what is not there"));
        }
        if self.is_directory(&leader)? {
            return Err(refused(link, "a hard link to a directory"));
        }
        self.remove(target)?;
        self.builder.hard_link(target, &leader).map_err(crate::copy::store_failed)
    }

    /// Where an entry goes: its parent, made if it is missing, and its name. None for the archive's root.
    fn place(&mut self, entry: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut names: Vec<&[u8]> = Vec::new();
        for name in path::components(entry) {
            match name {
                b"." => {}
                b".." => {
                    names.pop().ok_or_else(|| refused(entry, "it leads out of the directory"))?;
                }
                name if path::is_name(name) => names.push(name),
                _ => return Err(refused(entry, "a name that no file can have")),
            }
        }
        let Some(name) = names.pop() else { return Ok(None) };
        let mut parent = self.top.to_vec();
        for next in names {
            parent = resolve(self.builder, &path::join(&parent, next))?;
            if !self.top.is_empty() && !path::is_within(&parent, self.top) {
                return Err(refused(entry, "a link leads it out of the directory"));
            }
            if self.is_directory(&parent)? {
                continue;
            }
            if self.builder.get(&parent).map_err(crate::copy::store_failed)?.is_some() {
                return Err(refused(entry, "its parent is not a directory"));
            }
            let mut metadata = Metadata::root_owned(0o755);
            metadata.mtime = self.owners.made;
            self.own(&mut metadata);
            self.make(&parent, metadata)?;
        }
        Ok(Some((parent, name.to_vec())))
    }

    /// Makes a directory; a dangling link may have led to where even the parents are missing.
    fn make(&mut self, directory: &[u8], metadata: Metadata) -> Result<()> {
        let names: Vec<Vec<u8>> = path::components(directory).map(<[u8]>::to_vec).collect();
        let mut reached = Vec::new();
        for name in names {
            reached = path::join(&reached, &name);
            if !self.is_directory(&reached)? {
                self.builder.put_directory(&reached, metadata.clone()).map_err(crate::copy::store_failed)?;
            }
        }
        Ok(())
    }

    fn metadata(&self, member: &Member) -> Metadata {
        // Links have no mode of their own: Linux shows this one, whatever the archive says.
        let mode =
            if matches!(member.kind, MemberKind::Symlink { .. }) { 0o777 } else { member.mode & 0o7777 };
        let mut metadata = Metadata {
            mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime.whole_seconds(),
            xattrs: member.xattrs.clone(),
        };
        self.own(&mut metadata);
        metadata
    }

    fn own(&self, metadata: &mut Metadata) {
        if let Some(owner) = self.owners.fixed {
            (metadata.uid, metadata.gid) = (owner.uid, owner.gid);
        }
    }

    fn is_directory(&mut self, path: &[u8]) -> Result<bool> {
        let entry = self.builder.get(path).map_err(crate::copy::store_failed)?;
        Ok(matches!(entry, Some(Entry { kind: NodeKind::Directory { .. }, .. })))
    }

    fn remove(&mut self, path: &[u8]) -> Result<()> {
        self.builder.remove(path).map_err(crate::copy::store_failed)?;
        Ok(())
    }
}

fn refused(entry: &[u8], reason: &str) -> Error {
    let entry: String =
        String::from_utf8_lossy(entry).chars().take(200).flat_map(char::escape_debug).collect();
    Error::build(format!("archive refused, entry `{entry}`: {reason}"))
}

/// Reads as much of a stream as shows what it is, and gives the stream back whole.
pub fn peek<R: Read>(mut stream: R) -> io::Result<(Vec<u8>, impl Read + use<R>)> {
    let mut head = Vec::new();
    stream.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
    if head.starts_with(BZIP2_MAGIC) {
        stream.by_ref().take(BZIP2_HEAD_BYTES - HEAD_BYTES).read_to_end(&mut head)?;
    }
    Ok((head.clone(), io::Cursor::new(head).chain(stream)))
}
