#![allow(
    clippy::disallowed_methods,
    reason = "a build context is host files; architecture section 8, invariant 1"
)]
//! Build contexts: host files as a tree in the store.
//!
//! A context is scanned for the paths that the build uses, and no others; what `.dockerignore` excludes is not looked
//! at. The scan has two parts. The *listing* opens directories through handles, never following a link, and takes the
//! status of every name. The *tree* is made from it: contents whose size, times and inode are those of the last scan
//! keep their ids without being read, all others are read once, into a pack. When the whole listing is the last one,
//! nothing is made at all, so a warm scan costs one `fstatat` a file.
//!
//! Contents that no step will read are not packed: they are hashed where they lie, and whoever writes a layer reads them
//! there again ([`HostFiles`]), checking that they are still the same.
//!
//! Directories are held by handles of `rustix`, not of `cap-std`: a scan looks at single names below an open directory
//! (`fstatat`, `openat` with `O_NOFOLLOW`, and `O_NONBLOCK` for a name that has become a fifo), which is as closed as
//! `cap-std` and one system call each, where `cap-std` resolves every path in user space.
//!
//! Extended attributes of context files do not count, and `.dockerignore` in a context that is an archive is not
//! applied: so it is with BuildKit (observed with 28.5: neither `user.*` nor `security.capability` of a context file
//! reaches a layer).
//!
//! What must hold: no name of the context is resolved by the host outside of the context's directory; owners become
//! root, as in Docker; times are cut to whole seconds; files that may still change without a change of their times
//! (younger than [`RACY_SECONDS`]) are read again next time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cooper_dockerfile::dockerignore::{Matched, PatternList};
use cooper_dockerfile::glob::{Glob, has_wildcards};
use cooper_image::store::located::Elsewhere;
use cooper_image::store::{Batch, Keep, Store};
use cooper_vfs::Timestamp;
use cooper_vfs::content::{Backing, Content, ContentId, ContentStore, PackWriter};
use cooper_vfs::path;
use cooper_vfs::tree::{Directory, Entry, Metadata, NodeKind, Tree, TreeBuilder};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::archive;
use crate::error::{Error, Fault, Result};
use crate::key::KeyBuilder;
use crate::request::ContextSource;
use crate::step::CancelToken;

/// Bound on the names of one context.
pub const ENTRIES: usize = 8 << 20;
/// Bound on directories inside directories; it bounds the stack.
pub const DEPTH: usize = 512;
/// Bound on `.dockerignore`, in bytes.
pub const IGNORE_BYTES: u64 = 4 << 20;
/// A file changed less than this long ago may change again without its times saying so, on file systems with coarse
/// times.
pub const RACY_SECONDS: i64 = 2;
/// Links that may lead from one wanted path to the next.
const LINKS: usize = 40;
/// Record kind of the memory of scans.
const MEMO: &str = "context";
/// Version of the memory's layout.
const MEMO_VERSION: u8 = 2;
/// Bytes of a file that are read at a time; BLAKE3 is fastest with much at once.
const CHUNK: usize = 256 << 10;

/// A part of a context that a build uses.
#[derive(Clone, Debug)]
pub struct ContextQuery {
    /// Where the files are.
    pub source: ContextSource,
    /// What to leave out.
    pub ignore: Arc<PatternList>,
    /// Which paths are used.
    pub wanted: Wanted,
}

/// Paths of a context that a build uses, as written in the instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Paths and wildcards, cleaned.
    patterns: BTreeSet<String>,
    /// Paths whose characters stand for themselves.
    literals: BTreeSet<Vec<u8>>,
}

impl Wanted {
    /// Adds a source of `COPY` or `ADD`.
    pub fn add_pattern(&mut self, source: &str) {
        let clean = path::clean(source.as_bytes());
        self.patterns.insert(String::from_utf8_lossy(&clean).into_owned());
    }

    /// Adds a path that has no wildcards.
    pub fn add_path(&mut self, path: &str) {
        self.literals.insert(path::clean(path.as_bytes()));
    }

    fn compile(&self) -> Result<Vec<Vec<Component>>> {
        let mut compiled = Vec::new();
        for pattern in &self.patterns {
            let component = |name: &str| {
                Ok(if has_wildcards(name) {
                    Component::Glob(Glob::new(name).map_err(|error| Error::build(error.to_string()))?)
                } else {
                    Component::Name(name.as_bytes().to_vec())
                })
            };
            compiled.push(
                pattern.split('/').filter(|name| !name.is_empty()).map(component).collect::<Result<_>>()?,
            );
        }
        compiled.extend(self.literals.iter().map(|literal| names(literal)));
        Ok(compiled)
    }
}

fn names(path: &[u8]) -> Vec<Component> {
    path::components(path).map(|name| Component::Name(name.to_vec())).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Component {
    Name(Vec<u8>),
    Glob(Glob),
}

impl Component {
    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Glob(glob) => glob.matches(name),
        }
    }
}

/// Reads a file of a directory context: the Dockerfile, `.dockerignore`. None when it does not exist.
pub fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = |error| Error::host(format!("cannot read `{}`", path.display()), error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        let message = format!("`{}` is larger than {limit} bytes", path.display());
        return Err(Error::new(Fault::Limit, message));
    }
    Ok(Some(bytes))
}

/// Who will read the files of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Steps, among others: all contents are packed.
    Steps,
    /// Only whoever writes layers, most likely: contents stay where they are.
    Layers,
}

/// Makes the tree of a context. `now` decides which files are too young to be remembered.
pub fn load(
    store: &Store,
    query: &ContextQuery,
    readers: Readers,
    now: Timestamp,
    cancel: &CancelToken,
) -> Result<Tree> {
    match &query.source {
        ContextSource::Empty => Tree::empty(store).map_err(crate::copy::store_failed),
        ContextSource::Tree { tree, .. } => Ok(tree.clone()),
        ContextSource::TarFile(path) => load_archive(store, path),
        ContextSource::Directory(path) => load_directory(store, path, query, readers, now, cancel),
    }
}

fn load_archive(store: &Store, path: &Path) -> Result<Tree> {
    let failed = |error| Error::host(format!("cannot read the context `{}`", path.display()), error);
    let (head, reader) = archive::peek(File::open(path).map_err(failed)?).map_err(failed)?;
    let Some(format) = archive::detect_head(&head) else {
        return Err(Error::new(
            Fault::Usage,
            format!("the context `{}` is not a tar archive", path.display()),
        ));
    };
    let mut builder = TreeBuilder::new(store);
    let root = crate::users::Owner { uid: 0, gid: 0 };
    let owners = archive::Owners { fixed: Some(root), made: Timestamp::default() };
    archive::unpack(store, &mut builder, b"", reader, format, owners)?;
    builder.finish().map_err(crate::copy::store_failed)
}

// ---- listing

/// One name of the listing.
#[derive(Clone, Debug)]
struct Listed {
    name: Vec<u8>,
    status: Status,
    kind: ListedKind,
}

#[derive(Clone, Debug)]
enum ListedKind {
    Directory(Vec<Listed>),
    File,
    Symlink(Vec<u8>),
    Other(NodeKind),
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    mode: u16,
    device: u64,
    inode: u64,
    size: u64,
    /// More than one name; not part of what is remembered, since the time of change tells.
    linked: bool,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Status {
    fn new(stat: &Stat) -> Self {
        let nanoseconds = |value| u32::try_from(value).unwrap_or(0);
        #[allow(clippy::unnecessary_cast, reason = "the types differ between targets")]
        Self {
            mode: (stat.st_mode & 0o7777) as u16,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            linked: stat.st_nlink > 1,
            mtime: (stat.st_mtime as i64, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime as i64, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    fn is_racy(&self, now: Timestamp) -> bool {
        self.mtime.0.max(self.ctime.0) >= now.seconds - RACY_SECONDS
    }

    fn bytes(&self) -> [u8; 51] {
        let mut bytes = [0; 51];
        bytes[..2].copy_from_slice(&self.mode.to_le_bytes());
        bytes[50] = u8::from(self.linked);
        let numbers = [
            self.device,
            self.inode,
            self.size,
            self.mtime.0.cast_unsigned(),
            self.ctime.0.cast_unsigned(),
            u64::from(self.mtime.1) << 32 | u64::from(self.ctime.1),
        ];
        for (slot, number) in bytes[2..50].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::root_owned(self.mode);
        metadata.mtime = Timestamp::from_seconds(self.mtime.0);
        metadata
    }
}

struct Lister<'a> {
    context: &'a Path,
    ignore: &'a PatternList,
    cancel: &'a CancelToken,
    left: usize,
    /// Wanted paths that links of the listing lead to.
    found: Vec<Vec<Component>>,
}

impl Lister<'_> {
    /// Lists a directory for those of the wanted paths that lead into it; `wanted` holds what is left of each.
    fn list(
        &mut self,
        directory: &OwnedFd,
        relative: &[u8],
        wanted: &[&[Component]],
        ignored: &Matched,
        depth: usize,
    ) -> Result<Vec<Listed>> {
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        if depth > DEPTH {
            return Err(self.limit(format!("directories are nested deeper than {DEPTH}")));
        }
        let whole = wanted.iter().any(|rest| rest.is_empty());
        let mut names = Vec::new();
        let reader = rustix::fs::Dir::read_from(directory).map_err(|error| self.failed(relative, error))?;
        for entry in reader {
            let entry = entry.map_err(|error| self.failed(relative, error))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        let mut listed = Vec::new();
        for name in names {
            let rest: Vec<&[Component]> = if whole {
                vec![&[]]
            } else {
                let matching = wanted.iter().filter(|rest| rest[0].matches(&name));
                matching.map(|rest| &rest[1..]).collect()
            };
            if rest.is_empty() {
                continue;
            }
            let child = path::join(relative, &name);
            let matched = self.ignore.at(ignored, &child);
            if matched.is_matched && !self.ignore.may_except_below(&child) {
                continue;
            }
            if let Some(found) = self.list_name(directory, &child, name, &rest, &matched, whole, depth)? {
                listed.push(found);
            }
        }
        Ok(listed)
    }

    #[allow(clippy::too_many_arguments, reason = "one name of one directory; the parts belong to the walk")]
    fn list_name(
        &mut self,
        directory: &OwnedFd,
        child: &[u8],
        name: Vec<u8>,
        rest: &[&[Component]],
        matched: &Matched,
        whole: bool,
        depth: usize,
    ) -> Result<Option<Listed>> {
        let ignored = matched.is_matched;
        let stat = match rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since the directory was read.
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed(child, error)),
        };
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| self.limit(format!("it has more than {ENTRIES} files and directories")))?;
        let device = |device| (rustix::fs::major(device), rustix::fs::minor(device));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(directory, name.as_slice(), flags, Mode::empty())
                    .map_err(|error| self.failed(child, error))?;
                let below = self.list(&opened, child, rest, matched, depth + 1)?;
                if ignored && below.is_empty() {
                    return Ok(None);
                }
                ListedKind::Directory(below)
            }
            _ if ignored => return Ok(None),
            FileType::RegularFile => ListedKind::File,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name.as_slice(), Vec::new())
                    .map_err(|error| self.failed(child, error))?
                    .into_bytes();
                if !whole {
                    self.follow(child, &target, rest);
                }
                ListedKind::Symlink(target)
            }
            FileType::Fifo => ListedKind::Other(NodeKind::Fifo),
            FileType::CharacterDevice => {
                let (major, minor) = device(stat.st_rdev);
                ListedKind::Other(NodeKind::CharacterDevice { major, minor })
            }
            FileType::BlockDevice => {
                let (major, minor) = device(stat.st_rdev);
                ListedKind::Other(NodeKind::BlockDevice { major, minor })
            }
            // A socket means nothing without its process; BuildKit leaves it out too.
            _ => return Ok(None),
        };
        Ok(Some(Listed { name, status: Status::new(&stat), kind }))
    }

    /// A link on the way to a wanted path makes the path it leads to wanted.
    fn follow(&mut self, link: &[u8], target: &[u8], rest: &[&[Component]]) {
        let base = if path::is_absolute(target) {
            b""
        } else {
            path::split(link).map_or(&b""[..], |(parent, _)| parent)
        };
        let reached = path::clean(&path::join(base, target));
        for rest in rest {
            let mut wanted = names(&reached);
            wanted.extend(rest.iter().cloned());
            self.found.push(wanted);
        }
    }

    fn failed(&self, relative: &[u8], error: rustix::io::Errno) -> Error {
        let shown = self.context.join(String::from_utf8_lossy(relative).as_ref());
        Error::host(format!("cannot read `{}` of the context", shown.display()), error.into())
            .hint("exclude it in .dockerignore if the build does not need it")
    }

    fn limit(&self, reason: String) -> Error {
        Error::new(Fault::Limit, format!("the context `{}` is too large: {reason}", self.context.display()))
            .hint("exclude what the build does not need in .dockerignore")
    }
}

fn list(context: &Path, root: &OwnedFd, query: &ContextQuery, cancel: &CancelToken) -> Result<Vec<Listed>> {
    let mut wanted = query.wanted.compile()?;
    for _ in 0..=LINKS {
        let mut lister = Lister { context, ignore: &query.ignore, cancel, left: ENTRIES, found: Vec::new() };
        let all: Vec<&[Component]> = wanted.iter().map(Vec::as_slice).collect();
        let listed = lister.list(root, b"", &all, &Matched::default(), 0)?;
        let new: Vec<_> = lister.found.into_iter().filter(|found| !wanted.contains(found)).collect();
        if new.is_empty() {
            return Ok(listed);
        }
        for found in new {
            if !wanted.contains(&found) {
                wanted.push(found);
            }
        }
    }
    Err(Error::build(format!("links of the context lead on more than {LINKS} times")))
}

// ---- the tree

fn load_directory(
    store: &Store,
    context: &Path,
    query: &ContextQuery,
    readers: Readers,
    now: Timestamp,
    cancel: &CancelToken,
) -> Result<Tree> {
    let open = || -> io::Result<(PathBuf, OwnedFd)> {
        let canonical = context.canonicalize()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&canonical, flags, Mode::empty())?;
        Ok((canonical, root))
    };
    let (canonical, root) = open().map_err(|error| {
        Error::new(Fault::Usage, format!("cannot open the context `{}`", context.display())).caused_by(error)
    })?;
    let listed = list(context, &root, query, cancel)?;
    let fingerprint = fingerprint(&listed);
    let key = memo_key(&canonical, query)?;
    let memo = Memo::load(store, &key)?;
    if let Some(memo) = memo.as_ref().filter(|memo| memo.packed || readers == Readers::Layers)
        && memo.fingerprint == Some(fingerprint)
    {
        if !memo.packed {
            let files =
                memo.files.iter().map(|(path, file)| (file.content, (path.clone(), file.status.size)));
            store.add_elsewhere(Arc::new(HostFiles {
                context: context.to_owned(),
                root,
                files: files.collect(),
            }));
        }
        return Ok(memo.tree.clone());
    }
    let batch = Batch::new(store);
    // What was not packed the last time is read again when it has to be packed.
    let old = memo.filter(|memo| memo.packed || readers == Readers::Layers);
    let packed = readers == Readers::Steps || old.as_ref().is_some_and(|memo| memo.packed);
    let old = old.map(|memo| memo.files).unwrap_or_default();
    let made = make(&batch, context, &root, &listed, readers, old, now, cancel)?;
    batch.commit()?;
    let packed = packed && made.in_place.is_empty();
    if !packed {
        let remembered = made.files.iter();
        let mut files: HashMap<ContentId, (Vec<u8>, u64)> =
            remembered.map(|(path, file)| (file.content, (path.clone(), file.status.size))).collect();
        files.extend(made.in_place);
        store.add_elsewhere(Arc::new(HostFiles { context: context.to_owned(), root, files }));
    }
    let fingerprint = (!made.racy).then_some(fingerprint);
    let memo = Memo { fingerprint, packed, tree: made.tree, files: made.files };
    memo.save(store, &key)?;
    Ok(memo.tree)
}

/// Files of a context whose contents are where they always were.
#[derive(Debug)]
struct HostFiles {
    context: PathBuf,
    root: OwnedFd,
    /// Paths and sizes.
    files: HashMap<ContentId, (Vec<u8>, u64)>,
}

impl Elsewhere for HostFiles {
    fn open(&self, id: &ContentId) -> io::Result<Option<Content>> {
        let Some((path, length)) = self.files.get(id) else { return Ok(None) };
        let Some((parent, name)) = path::split(path) else { return Ok(None) };
        let mut directory = None;
        for component in path::components(parent) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = directory.as_ref().unwrap_or(&self.root);
            directory = Some(rustix::fs::openat(from, component, flags, Mode::empty())?);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory.as_ref().unwrap_or(&self.root), name, flags, Mode::empty())?;
        let file = Arc::new(File::from(file));
        Ok(Some(Content { backing: Backing::File { file, offset: 0 }, length: *length }))
    }

    fn name(&self, id: &ContentId) -> Option<String> {
        let (path, _) = self.files.get(id)?;
        Some(self.context.join(OsStr::from_bytes(path)).display().to_string())
    }
}

/// What the second part of a scan gives.
struct Made {
    tree: Tree,
    files: HashMap<Vec<u8>, Remembered>,
    /// Contents that were hashed and not packed, with paths and sizes.
    in_place: HashMap<ContentId, (Vec<u8>, u64)>,
    racy: bool,
}

#[allow(clippy::too_many_arguments, reason = "one scan; the parts belong together and to nothing else")]
fn make(
    batch: &Batch<'_>,
    context: &Path,
    root: &OwnedFd,
    listed: &[Listed],
    readers: Readers,
    old: HashMap<Vec<u8>, Remembered>,
    now: Timestamp,
    cancel: &CancelToken,
) -> Result<Made> {
    let mut maker = Maker {
        batch,
        context,
        now,
        cancel,
        old,
        new: HashMap::new(),
        readers,
        in_place: HashMap::new(),
        chunk: Vec::new(),
        pack: batch.pack().map_err(crate::copy::store_failed)?,
        racy: false,
        linked: BTreeMap::new(),
    };
    let directory = maker.directory(root, b"", listed)?;
    let Maker { new, pack, racy, linked, in_place, .. } = maker;
    pack.finish().map_err(crate::copy::store_failed)?;
    let (exact, content) = batch.put_directory(&directory).map_err(crate::copy::store_failed)?;
    let tree = Tree { root: Metadata::root_owned(0o755), exact, content };
    let tree = join_links(batch, tree, linked.into_values())?;
    Ok(Made { tree, files: new, in_place, racy })
}

/// Makes the names of one file one file.
fn join_links(store: &Batch<'_>, tree: Tree, groups: impl Iterator<Item = Vec<Vec<u8>>>) -> Result<Tree> {
    let mut groups = groups.filter(|names| names.len() > 1).peekable();
    if groups.peek().is_none() {
        return Ok(tree);
    }
    let mut builder = TreeBuilder::from_tree(store, &tree);
    for names in groups {
        for further in &names[1..] {
            builder.remove(further).map_err(crate::copy::store_failed)?;
            builder.hard_link(further, &names[0]).map_err(crate::copy::store_failed)?;
        }
    }
    builder.finish().map_err(crate::copy::store_failed)
}

fn fingerprint(listed: &[Listed]) -> [u8; 32] {
    fn add(hasher: &mut blake3::Hasher, listed: &[Listed]) {
        hasher.update(&(listed.len() as u64).to_le_bytes());
        for entry in listed {
            hasher.update(&(entry.name.len() as u64).to_le_bytes());
            hasher.update(&entry.name);
            hasher.update(&entry.status.bytes());
            match &entry.kind {
                ListedKind::Directory(below) => {
                    hasher.update(b"d");
                    add(hasher, below);
                }
                ListedKind::File => drop(hasher.update(b"f")),
                ListedKind::Symlink(target) => {
                    hasher.update(b"l");
                    hasher.update(&(target.len() as u64).to_le_bytes());
                    hasher.update(target);
                }
                ListedKind::Other(kind) => drop(hasher.update(format!("o{kind:?}").as_bytes())),
            }
        }
    }
    let mut hasher = blake3::Hasher::new();
    add(&mut hasher, listed);
    *hasher.finalize().as_bytes()
}

fn memo_key(context: &Path, query: &ContextQuery) -> Result<[u8; 32]> {
    use std::os::unix::ffi::OsStrExt;
    let mut key = KeyBuilder::new("context memo");
    key.bytes("path", context.as_os_str().as_bytes());
    let patterns: Vec<&String> = query.wanted.patterns.iter().collect();
    key.list("patterns", patterns.len());
    for pattern in patterns {
        key.bytes("pattern", pattern.as_bytes());
    }
    key.list("literals", query.wanted.literals.len());
    for literal in &query.wanted.literals {
        key.bytes("literal", literal);
    }
    Ok(key.finish().0)
}

struct Maker<'a> {
    /// Directories are written at the end, in one transaction.
    batch: &'a Batch<'a>,
    context: &'a Path,
    now: Timestamp,
    cancel: &'a CancelToken,
    old: HashMap<Vec<u8>, Remembered>,
    new: HashMap<Vec<u8>, Remembered>,
    readers: Readers,
    in_place: HashMap<ContentId, (Vec<u8>, u64)>,
    chunk: Vec<u8>,
    pack: Box<dyn PackWriter + 'a>,
    racy: bool,
    /// Names of files that have several, by device and inode.
    linked: BTreeMap<(u64, u64), Vec<Vec<u8>>>,
}

/// What is remembered of a file.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    status: Status,
    content: ContentId,
}

impl Maker<'_> {
    fn directory(&mut self, handle: &OwnedFd, relative: &[u8], listed: &[Listed]) -> Result<Directory> {
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let mut entries = Vec::with_capacity(listed.len());
        for entry in listed {
            let child = path::join(relative, &entry.name);
            let mut metadata = entry.status.metadata();
            let kind = match &entry.kind {
                ListedKind::Directory(below) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let opened = rustix::fs::openat(handle, entry.name.as_slice(), flags, Mode::empty())
                        .map_err(|error| self.failed(&child, error.into()))?;
                    let directory = self.directory(&opened, &child, below)?;
                    let (exact, content) =
                        self.batch.put_directory(&directory).map_err(crate::copy::store_failed)?;
                    NodeKind::Directory { exact, content }
                }
                ListedKind::File => self.file(handle, &child, entry)?,
                ListedKind::Symlink(target) => {
                    metadata.mode = 0o777;
                    NodeKind::Symlink { target: target.clone() }
                }
                ListedKind::Other(kind) => kind.clone(),
            };
            self.racy |= entry.status.is_racy(self.now);
            entries.push(Entry { name: entry.name.clone(), metadata, kind });
        }
        Ok(Directory { entries, hard_links: Vec::new() })
    }

    fn file(&mut self, directory: &OwnedFd, relative: &[u8], entry: &Listed) -> Result<NodeKind> {
        let status = entry.status;
        if status.linked {
            self.linked.entry((status.device, status.inode)).or_default().push(relative.to_vec());
        }
        if let Some(old) = self.old.get(relative)
            && old.status == status
        {
            let (content, remembered) = (old.content, *old);
            self.new.insert(relative.to_vec(), remembered);
            return Ok(NodeKind::File { content, size: status.size });
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, entry.name.as_slice(), flags, Mode::empty())
            .map_err(|error| self.failed(relative, error.into()))?;
        let mut file = File::from(opened);
        let read = match self.readers {
            Readers::Steps => self.pack.add(&mut file),
            Readers::Layers => self.hash(&mut file),
        };
        let (content, size) = read.map_err(|error| self.failed(relative, error))?;
        if self.readers == Readers::Layers {
            self.in_place.insert(content, (relative.to_vec(), size));
        }
        let after = rustix::fs::fstat(file.as_fd()).map_err(|error| self.failed(relative, error.into()))?;
        if Status::new(&after) == status && size == status.size && !status.is_racy(self.now) {
            self.new.insert(relative.to_vec(), Remembered { status, content });
        } else {
            self.racy = true;
        }
        Ok(NodeKind::File { content, size })
    }

    fn hash(&mut self, file: &mut File) -> io::Result<(ContentId, u64)> {
        self.chunk.resize(CHUNK, 0);
        let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
        loop {
            match file.read(&mut self.chunk) {
                Ok(0) => return Ok((ContentId(*hasher.finalize().as_bytes()), length)),
                Ok(count) => {
                    hasher.update(&self.chunk[..count]);
                    length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn failed(&self, relative: &[u8], error: io::Error) -> Error {
        let shown = self.context.join(String::from_utf8_lossy(relative).as_ref());
        Error::host(format!("cannot read `{}` of the context", shown.display()), error)
            .hint("exclude it in .dockerignore if the build does not need it")
    }
}

// ---- what is remembered

struct Memo {
    /// Of the listing; none when a file of it was too young.
    fingerprint: Option<[u8; 32]>,
    /// Whether all contents were packed.
    packed: bool,
    tree: Tree,
    files: HashMap<Vec<u8>, Remembered>,
}

impl Memo {
    fn load(store: &Store, key: &[u8; 32]) -> Result<Option<Self>> {
        Ok(store.record(MEMO, key)?.and_then(|bytes| Self::decode(&bytes)))
    }

    fn save(&self, store: &Store, key: &[u8; 32]) -> Result<()> {
        Ok(store.put_record(MEMO, key, &self.encode(), &[Keep::Tree(self.tree.clone())])?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MEMO_VERSION];
        let tree = self.tree.encode();
        bytes.push(u8::from(self.fingerprint.is_some()));
        bytes.push(u8::from(self.packed));
        bytes.extend(self.fingerprint.unwrap_or_default());
        bytes.extend((tree.len() as u32).to_le_bytes());
        bytes.extend(tree);
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_unstable_by_key(|(path, _)| path.as_slice());
        for (path, file) in files {
            bytes.extend((path.len() as u32).to_le_bytes());
            bytes.extend(path);
            bytes.extend(file.status.bytes());
            bytes.extend(file.content.0);
        }
        bytes
    }

    /// What was written by another version or is damaged is as good as none.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take::<1>(&mut rest)?[0] != MEMO_VERSION {
            return None;
        }
        let has_fingerprint = take::<1>(&mut rest)?[0] == 1;
        let packed = take::<1>(&mut rest)?[0] == 1;
        let fingerprint = take::<32>(&mut rest)?;
        let tree = Tree::decode(take_slice(&mut rest)?).ok()?;
        let mut files = HashMap::new();
        while !rest.is_empty() {
            let path = take_slice(&mut rest)?.to_vec();
            let status = decode_status(&take::<51>(&mut rest)?);
            files.insert(path, Remembered { status, content: ContentId(take::<32>(&mut rest)?) });
        }
        Some(Self { fingerprint: has_fingerprint.then_some(fingerprint), packed, tree, files })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_slice<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take::<4>(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn decode_status(bytes: &[u8; 51]) -> Status {
    let number = |index: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[2 + index * 8..10 + index * 8]);
        u64::from_le_bytes(number)
    };
    let fractions = number(5);
    Status {
        mode: u16::from_le_bytes([bytes[0], bytes[1]]),
        device: number(0),
        inode: number(1),
        size: number(2),
        linked: bytes[50] == 1,
        mtime: (number(3).cast_signed(), (fractions >> 32) as u32),
        ctime: (number(4).cast_signed(), fractions as u32),
    }
}
