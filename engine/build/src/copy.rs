//! `COPY` and `ADD`: files from one tree into another, without unpacking either.
//!
//! An operation selects items from its source tree by path or wildcard and puts them into the base tree with a
//! [`TreeBuilder`]. A directory that is not there yet and keeps its owners and modes is attached as one pointer, however
//! many files are in it. The rules about what lands where, with which owner and mode, are those observed with BuildKit:
//!
//! - A source that is a symbolic link is followed; links below it are copied as links.
//! - Of a directory its contents are copied. The destination keeps its mode and owner when it exists, else it is made
//!   with 0755 (or the octal `--chmod`) and root (or `--chown`); its time becomes the source's.
//! - A directory below that takes the source's mode and owner even where it exists.
//! - Symbolic links in the destination are followed inside the image, dangling ones too.
//! - Without `--chown` files of the context belong to root, and files of a stage or image keep their owners, whatever
//!   `USER` says.
//! - A wildcard that matches nothing copies nothing; a plain path that is missing is an error.
//! - `--exclude` is about what is below copied directories, relative to each; a source named itself stays.
//!
//! What must hold: the key covers the selected items by content, owner and mode, and not by time; contents are never
//! read. Directories made on the way get the time of the newest thing copied, so that equal inputs give equal layers.

use std::collections::{HashMap, HashSet};

use cooper_vfs::Timestamp;
use cooper_vfs::content::{ContentId, ContentStore};
use cooper_vfs::path;
use cooper_vfs::tree::{Entry, Metadata, NodeKind, Tree, TreeBuilder};

use cooper_dockerfile::dockerignore::PatternList;

use crate::archive;
use crate::error::{Error, Result};
use crate::key::KeyBuilder;
use crate::mode::ModeChange;
use crate::select::{self, Item};
use crate::users::{Accounts, DATABASE_BYTES, Owner};

/// Symbolic links followed for one path, as Linux has it.
const LINKS: usize = 40;

/// A `COPY` or `ADD`, its words expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOperation {
    /// What is copied, in order.
    pub sources: Vec<Source>,
    /// Absolute path; ends with a slash where a directory is meant.
    pub destination: String,
    /// `--chown`
    pub owner: Option<String>,
    /// `--chmod`
    pub mode: Option<ModeChange>,
    /// `--parents`: sources keep the directories they lie in.
    pub parents: bool,
    /// `--exclude`: patterns relative to each copied directory.
    pub excludes: Vec<String>,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or wildcard in another file system.
    Path {
        /// Which of the vertex's inputs.
        input: usize,
        /// As written.
        path: String,
        /// Whether a tar archive is unpacked.
        unpack: bool,
    },
    /// The file that a download has brought.
    Remote {
        /// Which of the vertex's inputs.
        input: usize,
        /// Whether a tar archive is unpacked.
        unpack: bool,
    },
    /// A heredoc.
    Inline {
        /// Its name, which is the file's when the destination is a directory.
        name: String,
        /// The file's bytes.
        contents: Vec<u8>,
    },
}

/// What a copy made.
#[derive(Debug)]
pub struct Copied {
    /// The file system after it.
    pub tree: Tree,
    /// The newest time among what was copied.
    pub time: Timestamp,
}

impl CopyOperation {
    /// Adds everything to `key` that decides the result, but the base. `inputs` gives the vertex's inputs by number.
    pub fn add_to_key(
        &self,
        key: &mut KeyBuilder,
        store: &dyn ContentStore,
        inputs: &dyn Fn(usize) -> Result<Tree>,
    ) -> Result<()> {
        self.add_flags_to_key(key);
        for source in &self.sources {
            match source {
                Source::Inline { name, contents } => {
                    key.bytes("inline", name.as_bytes());
                    key.content("contents", &ContentId::of(contents));
                }
                Source::Path { unpack, .. } | Source::Remote { unpack, .. } => {
                    let items = self.items(store, inputs, source)?;
                    key.number("unpack", u64::from(*unpack));
                    key.list("items", items.len());
                    for item in &items {
                        add_item(key, item);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds what is written to `key`. With the identities of the inputs, instead of what is selected in them, that is
    /// a key that needs no look at them.
    pub fn add_definition_to_key(&self, key: &mut KeyBuilder) {
        self.add_flags_to_key(key);
        for source in &self.sources {
            match source {
                Source::Inline { name, contents } => {
                    key.bytes("inline", name.as_bytes());
                    key.content("contents", &ContentId::of(contents));
                }
                Source::Path { input, path, unpack } => {
                    key.number("input", *input as u64).bytes("path", path.as_bytes());
                    key.number("unpack", u64::from(*unpack));
                }
                Source::Remote { input, unpack } => {
                    key.number("download", *input as u64).number("unpack", u64::from(*unpack));
                }
            }
        }
        key.number("parents", u64::from(self.parents)).strings("excludes", &self.excludes);
    }

    fn add_flags_to_key(&self, key: &mut KeyBuilder) {
        key.bytes("destination", self.destination.as_bytes());
        key.option("owner", self.owner.as_deref().map(str::as_bytes));
        match &self.mode {
            Some(mode) => mode.add_to_key(key),
            None => {
                key.option("mode", None);
            }
        }
        key.list("sources", self.sources.len());
    }

    /// What a source means: excluded names are gone, kept parents are there.
    fn items(
        &self,
        store: &dyn ContentStore,
        inputs: &dyn Fn(usize) -> Result<Tree>,
        source: &Source,
    ) -> Result<Vec<Item>> {
        match source {
            Source::Inline { .. } => Ok(Vec::new()),
            Source::Remote { input, .. } => select::only_file(store, &inputs(*input)?),
            Source::Path { input, path, .. } => {
                let tree = inputs(*input)?;
                let excludes = PatternList::new(self.excludes.iter().map(String::as_str))
                    .map_err(|error| Error::build(format!("invalid --exclude: {error}")))?;
                if self.parents {
                    select::with_parents(store, &tree, path, &excludes)
                } else {
                    select::select(store, &tree, path, &excludes)
                }
            }
        }
    }

    /// Copies. `earliest` is the time of the base, which is used where nothing newer is copied.
    pub fn execute(
        &self,
        store: &dyn ContentStore,
        base: &Tree,
        inputs: &dyn Fn(usize) -> Result<Tree>,
        earliest: Timestamp,
    ) -> Result<Copied> {
        let owner = self.owner.as_deref().map(|text| resolve_owner(store, base, text)).transpose()?;
        let mut work = Work {
            store,
            builder: TreeBuilder::from_tree(store, base),
            owner,
            mode: self.mode.as_ref(),
            time: earliest,
            links: HashMap::new(),
        };
        let found = self
            .sources
            .iter()
            .map(|source| self.items(store, inputs, source))
            .collect::<Result<Vec<_>>>()?;
        for item in found.iter().flatten() {
            work.time = work.time.max(newest(store, &item.entry)?);
        }
        for (source, items) in self.sources.iter().zip(&found) {
            match source {
                Source::Inline { name, contents } => work.write_inline(&self.destination, name, contents)?,
                Source::Path { unpack, .. } | Source::Remote { unpack, .. } => {
                    for item in items {
                        work.copy_item(&self.destination, item, *unpack)?;
                    }
                }
            }
        }
        let time = work.time;
        Ok(Copied { tree: work.builder.finish().map_err(store_failed)?, time })
    }
}

/// Puts a file system over another, as the layer between nothing and it would: `COPY --link`.
///
/// Directories take the upper one's owner and mode and keep what is in them; everything else replaces what is there,
/// symbolic links too.
pub fn merge(store: &dyn ContentStore, base: &Tree, upper: &Tree) -> Result<Tree> {
    let mut builder = TreeBuilder::from_tree(store, base);
    for item in upper.walk(store) {
        let item = item.map_err(store_failed)?;
        let there = builder.get(&item.path).map_err(store_failed)?;
        let is_directory = item.entry.kind.is_directory();
        if there.is_some_and(|there| !(is_directory && there.kind.is_directory())) {
            builder.remove(&item.path).map_err(store_failed)?;
        }
        match item.link_to {
            _ if is_directory => builder.put_directory(&item.path, item.entry.metadata),
            Some(leader) => builder.hard_link(&item.path, &leader),
            None => builder.put(&item.path, item.entry),
        }
        .map_err(store_failed)?;
    }
    builder.finish().map_err(store_failed)
}

/// Makes a directory with its missing parents, for `WORKDIR`. `earliest` becomes their time.
pub fn make_directory(
    store: &dyn ContentStore,
    base: &Tree,
    path: &str,
    owner: Owner,
    earliest: Timestamp,
) -> Result<Tree> {
    let mut work = Work {
        store,
        builder: TreeBuilder::from_tree(store, base),
        owner: Some(owner),
        mode: None,
        time: earliest,
        links: HashMap::new(),
    };
    work.make_directories(path.as_bytes())?;
    work.builder.finish().map_err(store_failed)
}

/// The users and groups of an image.
pub fn accounts(store: &dyn ContentStore, tree: &Tree) -> Result<Accounts> {
    let read = |path: &str| -> Result<Vec<u8>> {
        let found = tree.lookup_following(store, path.as_bytes()).map_err(store_failed)?;
        let Some((_, Entry { kind: NodeKind::File { content, size }, .. })) = found else {
            return Ok(Vec::new());
        };
        if size > DATABASE_BYTES {
            return Err(Error::build(format!("the image's `/{path}` is larger than {DATABASE_BYTES} bytes")));
        }
        let content = store.open(&content).map_err(store_failed)?;
        content.read_all().map_err(store_failed)
    };
    Ok(Accounts { passwd: read("etc/passwd")?, group: read("etc/group")? })
}

/// A failure of the store under a tree operation.
pub fn store_failed(error: std::io::Error) -> Error {
    Error::host("the store failed", error)
}

fn resolve_owner(store: &dyn ContentStore, base: &Tree, text: &str) -> Result<Owner> {
    let accounts = accounts(store, base)?;
    accounts.owner(text).map_err(|error| {
        Error::build(format!("cannot use `--chown={text}`: {error}"))
            .hint("create the user in an earlier RUN, or give numbers")
    })
}

fn add_item(key: &mut KeyBuilder, item: &Item) {
    key.bytes("name", &item.name);
    if let NodeKind::Directory { content, .. } = &item.entry.kind {
        // The mode and owner of a copied directory itself are not copied.
        key.content_tree("directory", content);
        return;
    }
    let metadata = &item.entry.metadata;
    key.number("permissions", u64::from(metadata.mode));
    key.number("uid", u64::from(metadata.uid)).number("gid", u64::from(metadata.gid));
    key.list("xattrs", metadata.xattrs.len());
    for (name, value) in &metadata.xattrs {
        key.bytes("xattr", name).bytes("value", value);
    }
    match &item.entry.kind {
        NodeKind::File { content, size } => key.content("file", content).number("size", *size),
        NodeKind::Symlink { target } => key.bytes("link", target),
        NodeKind::CharacterDevice { major, minor } => {
            key.bytes("device", b"c").number("major", u64::from(*major)).number("minor", u64::from(*minor))
        }
        NodeKind::BlockDevice { major, minor } => {
            key.bytes("device", b"b").number("major", u64::from(*major)).number("minor", u64::from(*minor))
        }
        NodeKind::Fifo => key.bytes("special", b"fifo"),
        NodeKind::Socket => key.bytes("special", b"socket"),
        NodeKind::Directory { .. } => key,
    };
}

/// The newest time of an entry and everything below it.
fn newest(store: &dyn ContentStore, entry: &Entry) -> Result<Timestamp> {
    let mut newest = entry.metadata.mtime;
    if let Some(tree) = Tree::from_entry(entry) {
        for item in tree.walk(store) {
            newest = newest.max(item.map_err(store_failed)?.entry.metadata.mtime);
        }
    }
    Ok(newest)
}

/// The hard links below a source directory, by paths relative to it.
struct SourceLinks {
    /// Further names with the first one.
    leaders: HashMap<Vec<u8>, Vec<u8>>,
    /// Directories with a link into or out of them.
    crossed: HashSet<Vec<u8>>,
}

/// A copy at work.
struct Work<'a> {
    store: &'a dyn ContentStore,
    builder: TreeBuilder<'a>,
    owner: Option<Owner>,
    mode: Option<&'a ModeChange>,
    time: Timestamp,
    /// First copied name of each hard-linked file of the source, by its leader there.
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl Work<'_> {
    fn write_inline(&mut self, destination: &str, name: &str, contents: &[u8]) -> Result<()> {
        let mut pack = self.store.pack().map_err(store_failed)?;
        let content = pack.add_bytes(contents).map_err(store_failed)?;
        pack.finish().map_err(store_failed)?;
        let mut metadata = Metadata::root_owned(0o644);
        metadata.mtime = self.time;
        let kind = NodeKind::File { content, size: contents.len() as u64 };
        let entry = Entry { name: name.as_bytes().to_vec(), metadata, kind };
        self.copy_file(destination, name.as_bytes(), entry, None)
    }

    fn copy_item(&mut self, destination: &str, item: &Item, unpack: bool) -> Result<()> {
        match &item.entry.kind {
            NodeKind::Directory { .. } => self.copy_directory(destination, item),
            NodeKind::File { content, .. } if unpack => {
                let content = self.store.open(content).map_err(store_failed)?;
                match archive::detect(&content).map_err(store_failed)? {
                    Some(format) => self.unpack(destination, item, &content, format),
                    None => self.copy_file(destination, &item.name, item.entry.clone(), None),
                }
            }
            _ => self.copy_file(destination, &item.name, item.entry.clone(), None),
        }
    }

    fn unpack(
        &mut self,
        destination: &str,
        item: &Item,
        content: &cooper_vfs::content::Content,
        format: archive::Format,
    ) -> Result<()> {
        // `--chmod` is not about archives.
        let mode = self.mode.take();
        let top = self.make_directories(destination.as_bytes());
        self.mode = mode;
        let top = top?;
        let name = String::from_utf8_lossy(&item.name).into_owned();
        let newest = archive::unpack(
            self.store,
            &mut self.builder,
            &top,
            content.reader(),
            format,
            archive::Owners { fixed: self.owner, made: self.time },
        )
        .map_err(|error| Error::build(format!("cannot unpack `{name}`")).caused_by(error))?;
        self.time = self.time.max(newest);
        Ok(())
    }

    fn copy_file(&mut self, destination: &str, name: &[u8], entry: Entry, link: Option<&[u8]>) -> Result<()> {
        let mut target = self.resolve(destination.as_bytes())?;
        let is_directory = matches!(self.get(&target)?, Some(Entry { kind: NodeKind::Directory { .. }, .. }));
        if is_directory || destination.ends_with('/') {
            self.make_directories(destination.as_bytes())?;
            // A link of that name inside the directory is replaced, as is a file.
            target = path::join(&target, name);
        } else if let Some((parent, _)) = path::split(&target) {
            let parent = parent.to_vec();
            self.make_directories(&parent)?;
        }
        self.put(&target, entry, link)
    }

    fn copy_directory(&mut self, destination: &str, item: &Item) -> Result<()> {
        let top = self.make_directories(destination.as_bytes())?;
        let NodeKind::Directory { exact, .. } = &item.entry.kind else { return Ok(()) };
        let leaders = self.source_links(&item.tree, &item.path)?;
        let links = SourceLinks { crossed: crossed(&leaders), leaders };
        // Leaders are names below this source, not below another one.
        self.links.clear();
        self.merge(&top, exact, b"", &links)?;
        let Some(made) = self.get(&top)? else { return Ok(()) };
        let metadata = Metadata { mtime: item.entry.metadata.mtime, ..made.metadata };
        self.builder.set_metadata(&top, metadata).map_err(store_failed)
    }

    /// The further names of hard-linked files below a source directory, with their leaders, all relative to it.
    ///
    /// A group is recorded in the lowest directory that holds all its names; of the groups recorded above the source
    /// the names inside of it count.
    fn source_links(&self, root: &Tree, source: &[u8]) -> Result<HashMap<Vec<u8>, Vec<u8>>> {
        let mut leaders = HashMap::new();
        let mut above = root.clone();
        let mut left = source;
        loop {
            let directory = above.directory(self.store).map_err(store_failed)?;
            if left.is_empty() {
                break;
            }
            for group in &directory.hard_links {
                let inside = |name: &Vec<u8>| {
                    let below = path::is_within(name, left).then(|| name.get(left.len() + 1..))?;
                    below.map(<[u8]>::to_vec)
                };
                let mut names = group.iter().filter_map(inside);
                let Some(leader) = names.next() else { continue };
                leaders.extend(names.map(|name| (name, leader.clone())));
            }
            let (name, rest) = match left.iter().position(|byte| *byte == b'/') {
                Some(slash) => (&left[..slash], &left[slash + 1..]),
                None => (left, &b""[..]),
            };
            let Some(next) = directory.get(name).and_then(Tree::from_entry) else { return Ok(leaders) };
            (above, left) = (next, rest);
        }
        for item in above.walk(self.store) {
            let item = item.map_err(store_failed)?;
            if let Some(leader) = item.link_to {
                leaders.insert(item.path, leader);
            }
        }
        Ok(leaders)
    }

    /// Puts the contents of a source directory into an existing directory. `relative` is the source directory's path
    /// from the top of the copy.
    fn merge(
        &mut self,
        target: &[u8],
        source: &cooper_vfs::tree::ExactId,
        relative: &[u8],
        links: &SourceLinks,
    ) -> Result<()> {
        let directory = self.store.directory(source).map_err(store_failed)?;
        for child in &directory.entries {
            let target = path::join(target, &child.name);
            let relative = path::join(relative, &child.name);
            let NodeKind::Directory { exact, .. } = &child.kind else {
                let link = links.leaders.get(&relative).and_then(|leader| self.links.get(leader)).cloned();
                self.put(&target, child.clone(), link.as_deref())?;
                self.links.insert(relative, target);
                continue;
            };
            match self.get(&target)? {
                None if self.owner.is_none() && self.mode.is_none() && !links.crossed.contains(&relative) => {
                    self.builder.put(&target, child.clone()).map_err(store_failed)?;
                    continue;
                }
                None | Some(Entry { kind: NodeKind::Directory { .. }, .. }) => {}
                Some(_) => return Err(not_a_directory(&target)),
            }
            let metadata = self.metadata(&child.metadata, true);
            self.builder.put_directory(&target, metadata).map_err(store_failed)?;
            self.merge(&target, exact, &relative, links)?;
        }
        Ok(())
    }

    fn put(&mut self, target: &[u8], mut entry: Entry, link: Option<&[u8]>) -> Result<()> {
        if let Some(Entry { kind: NodeKind::Directory { .. }, .. }) = self.get(target)? {
            let shown = String::from_utf8_lossy(target).into_owned();
            return Err(Error::build(format!("cannot replace the directory `/{shown}` by a file")));
        }
        if let Some(link) = link {
            return self.builder.hard_link(target, link).map_err(store_failed);
        }
        if !matches!(entry.kind, NodeKind::Symlink { .. }) {
            entry.metadata = self.metadata(&entry.metadata, false);
        } else if let Some(owner) = self.owner {
            (entry.metadata.uid, entry.metadata.gid) = (owner.uid, owner.gid);
        }
        self.builder.put(target, entry).map_err(store_failed)
    }

    fn metadata(&self, source: &Metadata, is_directory: bool) -> Metadata {
        let mut metadata = source.clone();
        if let Some(owner) = self.owner {
            (metadata.uid, metadata.gid) = (owner.uid, owner.gid);
        }
        if let Some(mode) = self.mode {
            metadata.mode = mode.apply(metadata.mode, is_directory);
        }
        metadata
    }

    /// Makes the directory at a path with its missing parents, links followed; returns where it really is.
    fn make_directories(&mut self, directory: &[u8]) -> Result<Vec<u8>> {
        let real = self.resolve(directory)?;
        let names: Vec<Vec<u8>> = path::components(&real).map(<[u8]>::to_vec).collect();
        let mut reached = Vec::new();
        for name in names {
            reached = path::join(&reached, &name);
            match self.get(&reached)? {
                Some(Entry { kind: NodeKind::Directory { .. }, .. }) => {}
                Some(_) => return Err(not_a_directory(&reached)),
                None => {
                    let mode = self.mode.map_or(0o755, ModeChange::made_directory);
                    let mut metadata = Metadata::root_owned(mode);
                    metadata.mtime = self.time;
                    if let Some(owner) = self.owner {
                        (metadata.uid, metadata.gid) = (owner.uid, owner.gid);
                    }
                    self.builder.put_directory(&reached, metadata).map_err(store_failed)?;
                }
            }
        }
        Ok(reached)
    }

    fn get(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        self.builder.get(path).map_err(store_failed)
    }

    fn resolve(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        resolve(&mut self.builder, path)
    }
}

/// A path without symbolic links; its last names need not exist.
pub fn resolve(builder: &mut TreeBuilder<'_>, path: &[u8]) -> Result<Vec<u8>> {
    let mut left: Vec<Vec<u8>> = path::components(path).rev().map(<[u8]>::to_vec).collect();
    let mut reached: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop() {
        match name.as_slice() {
            b"." => continue,
            b".." => {
                reached = path::split(&reached).map(|(parent, _)| parent.to_vec()).unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let next = path::join(&reached, &name);
        let entry = builder.get(&next).map_err(store_failed)?;
        let Some(Entry { kind: NodeKind::Symlink { target }, .. }) = entry else {
            reached = next;
            continue;
        };
        links += 1;
        if links > LINKS {
            let shown = String::from_utf8_lossy(path).into_owned();
            return Err(Error::build(format!("`{shown}` leads through more than {LINKS} symbolic links")));
        }
        if path::is_absolute(&target) {
            reached.clear();
        }
        left.extend(path::components(&target).rev().map(<[u8]>::to_vec));
    }
    Ok(reached)
}

/// The directories that a hard link leads into or out of, which so cannot be attached as they are.
fn crossed(leaders: &HashMap<Vec<u8>, Vec<u8>>) -> HashSet<Vec<u8>> {
    let mut crossed = HashSet::new();
    for (name, leader) in leaders {
        for (one, other) in [(name, leader), (leader, name)] {
            let mut left = one.as_slice();
            while let Some((parent, _)) = path::split(left) {
                if path::is_within(other, parent) {
                    break;
                }
                crossed.insert(parent.to_vec());
                left = parent;
            }
        }
    }
    crossed
}

fn not_a_directory(path: &[u8]) -> Error {
    let shown = String::from_utf8_lossy(path).into_owned();
    Error::build(format!("cannot copy into `/{shown}`: it is not a directory"))
}
