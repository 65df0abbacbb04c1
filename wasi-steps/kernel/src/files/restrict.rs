//! Paths with restrictions (`openat2`'s resolve flags).
//!
//! The file system's own walk knows no restrictions, so a path that has some is walked here, one name at a time and
//! without ever letting the file system follow a link. The places above the current one are kept, so `..` goes back to
//! where the walk came from.

use bitflags::bitflags;
use cooper_vfs::{FileKind, Follow, OpenFlags, Position};

use super::Errno;
use crate::cx::Cx;

bitflags! {
    /// What a walk may not do; the numbers of `RESOLVE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Restrictions: u64 {
        /// Cross a mount point: `EXDEV`.
        const NO_XDEV = 1;
        /// Follow a link of `/proc` to what it stands for: `ELOOP`.
        const NO_MAGICLINKS = 2;
        /// Follow any link: `ELOOP`.
        const NO_SYMLINKS = 4;
        /// Leave the directory it starts from: `EXDEV`.
        const BENEATH = 8;
        /// See anything above that directory, which is the root meanwhile.
        const IN_ROOT = 0x10;
        /// Wait for a look-up: everything is in memory or nearly so, and `EAGAIN` would make callers try again.
        const CACHED = 0x20;
    }
}

/// The most links that one path may lead through.
const MAX_LINKS: usize = 40;
/// Type number of `/proc`.
const PROC_MAGIC: u64 = 0x9fa0;

/// Where a walk ended: in a directory, before a last name that may be missing.
#[derive(Debug)]
pub(crate) struct Found {
    /// The directory.
    pub(crate) directory: Position,
    /// A name in it that is no link, or `.`.
    pub(crate) name: Vec<u8>,
}

struct Walker<'a, 'b> {
    cx: &'a Cx<'b>,
    restrictions: Restrictions,
    /// Where absolute paths start.
    root: Position,
    /// From where the walk started, or the root, to the current directory.
    stack: Vec<Position>,
    links: usize,
}

/// Walks `path` from `base` under `restrictions`, following a link at the end unless `flags` say not to.
///
/// `EXDEV`, `ELOOP` as the restrictions say; then as any look-up.
pub(crate) fn walk(
    cx: &Cx<'_>,
    base: &Position,
    path: &[u8],
    flags: OpenFlags,
    restrictions: Restrictions,
) -> Result<Found, Errno> {
    let confined = restrictions.intersects(Restrictions::BENEATH | Restrictions::IN_ROOT);
    let root = if confined { base.clone() } else { cx.walk().root.clone() };
    let mut walker = Walker { cx, restrictions, root, stack: vec![base.clone()], links: 0 };
    // Names still to be walked, the next one last.
    let mut rest = Vec::new();
    walker.push_path(path, &mut rest)?;
    while let Some(name) = rest.pop() {
        let last = rest.is_empty();
        match name.as_slice() {
            b"." => {}
            b".." => walker.up()?,
            _ => {
                let current = walker.current();
                let next = match cx.kernel.root_fs.resolve(&cx.walk(), current, &name, Follow::No) {
                    Ok(next) => next,
                    Err(Errno::NOENT) if last => return Ok(Found { directory: current.clone(), name }),
                    Err(errno) => return Err(errno),
                };
                walker.check_mount(current, &next)?;
                if next.kind() == FileKind::Symlink {
                    if last && flags.contains(OpenFlags::NOFOLLOW) {
                        return Ok(Found { directory: current.clone(), name });
                    }
                    let target = walker.follow(&next)?;
                    walker.push_path(&target, &mut rest)?;
                } else if last {
                    return Ok(Found { directory: current.clone(), name });
                } else {
                    walker.stack.push(next);
                }
            }
        }
    }
    Ok(Found { directory: walker.current().clone(), name: b".".to_vec() })
}

impl Walker<'_, '_> {
    fn current(&self) -> &Position {
        self.stack.last().unwrap_or(&self.root)
    }

    /// Puts the names of a path on top of those still to be walked; an absolute path starts anew.
    fn push_path(&mut self, path: &[u8], rest: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.starts_with(b"/") {
            if self.restrictions.contains(Restrictions::BENEATH) {
                return Err(Errno::XDEV);
            }
            if let Some(current) = self.stack.last() {
                self.check_mount(current, &self.root)?;
            }
            self.stack = vec![self.root.clone()];
        }
        // A slash at the end asks for a directory, and is followed through.
        if path.ends_with(b"/") {
            rest.push(b".".to_vec());
        }
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
        rest.extend(names.into_iter().rev());
        Ok(())
    }

    fn up(&mut self) -> Result<(), Errno> {
        if self.stack.len() > 1 {
            let left = self.stack.pop();
            return left.map_or(Ok(()), |left| self.check_mount(&left, self.current()));
        }
        if self.restrictions.contains(Restrictions::BENEATH) {
            return Err(Errno::XDEV);
        }
        if self.restrictions.contains(Restrictions::IN_ROOT) {
            return Ok(());
        }
        let current = self.current().clone();
        let above = self.cx.kernel.root_fs.resolve(&self.cx.walk(), &current, b"..", Follow::No)?;
        self.check_mount(&current, &above)?;
        self.stack = vec![above];
        Ok(())
    }

    fn check_mount(&self, from: &Position, to: &Position) -> Result<(), Errno> {
        if !self.restrictions.contains(Restrictions::NO_XDEV) {
            return Ok(());
        }
        let walk = self.cx.walk();
        let same = from.stat(&walk)?.mount_id == to.stat(&walk)?.mount_id;
        if same { Ok(()) } else { Err(Errno::XDEV) }
    }

    /// The target of a link. `ELOOP` when it may not be followed, or for too many; `EXDEV` for one that leads out.
    fn follow(&mut self, link: &Position) -> Result<Vec<u8>, Errno> {
        // The links at the top of `/proc` are ordinary ones.
        let magic = link.statfs()?.magic == PROC_MAGIC
            && self.current().statfs()?.magic == PROC_MAGIC
            && !self.is_proc_root();
        self.links += 1;
        if self.restrictions.contains(Restrictions::NO_SYMLINKS)
            || self.links > MAX_LINKS
            || (magic && self.restrictions.contains(Restrictions::NO_MAGICLINKS))
        {
            return Err(Errno::LOOP);
        }
        if magic && self.restrictions.intersects(Restrictions::BENEATH | Restrictions::IN_ROOT) {
            return Err(Errno::XDEV);
        }
        self.cx.kernel.root_fs.read_link(&self.cx.walk(), link, b"")
    }

    fn is_proc_root(&self) -> bool {
        let walk = self.cx.walk();
        self.current().stat(&walk).is_ok_and(|stat| stat.inode == 1)
    }
}
