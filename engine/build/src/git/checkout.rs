//! From a repository's objects to a tree.
//!
//! A directory of a repository becomes a directory of the store, bottom up; one that stands in many places is made once,
//! so that a small repository that names the same directories over and over stays small. Submodules are fetched when
//! they are met, each from its own repository, as `git submodule update --init --recursive` does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Cursor;
use std::sync::Arc;

use cooper_image::store::Batch;
use cooper_vfs::Timestamp;
use cooper_vfs::content::{ContentStore, PackWriter};
use cooper_vfs::path;
use cooper_vfs::tree::{Directory, Entry, Metadata, NodeKind, Tree};

use super::connection::{Connection, Found};
use super::object::{EntryKind, Kind, ObjectId, TreeEntry, read_commit, read_tree};
use super::pack::Pack;
use super::{GitAddress, GitContext, repository};
use crate::context::{DEPTH, ENTRIES};
use crate::copy::store_failed;
use crate::error::{Error, Fault, Result};

/// Bound on submodules inside submodules.
const SUBMODULE_DEPTH: usize = 16;
/// Bound on `.gitmodules`, in bytes.
const MODULES_BYTES: usize = 1 << 20;

/// What turns commits into trees.
pub(super) struct Checkout<'a> {
    context: GitContext<'a>,
    address: &'a GitAddress,
    keep_git_dir: bool,
}

/// A commit at work.
struct Commit<'a, 's> {
    context: GitContext<'a>,
    address: &'a GitAddress,
    objects: &'a Pack,
    batch: &'s Batch<'s>,
    mtime: Timestamp,
    /// Submodules by their path: name and address. None where they are not wanted.
    modules: Option<BTreeMap<Vec<u8>, Module>>,
    depth: usize,
    /// Directories that were made, without submodules in them.
    made: HashMap<ObjectId, Made>,
    contents: HashMap<ObjectId, NodeKind>,
    /// Names so far.
    entries: usize,
}

struct Module {
    url: String,
    is_skipped: bool,
}

#[derive(Clone)]
struct Made {
    kind: NodeKind,
    entries: usize,
    has_submodules: bool,
}

impl<'a> Checkout<'a> {
    pub(super) fn new(context: GitContext<'a>, address: &'a GitAddress, keep_git_dir: bool) -> Self {
        Self { context, address, keep_git_dir }
    }

    /// The tree of the address's directory in a commit.
    pub(super) fn tree(&self, objects: &Pack, found: &Found) -> Result<Tree> {
        let batch = Batch::new(self.context.store);
        let mut directory = commit_directory(self.context, self.address, objects, found.id, &batch, 0)?;
        let (_, mtime) = commit_parts(&objects.expect(&found.id, Kind::Commit)?)?;
        if self.keep_git_dir && self.address.directory.is_empty() {
            let entry = repository::make(self.context.store, &batch, self.address, objects, found)?;
            directory.entries.retain(|entry| entry.name != b".git");
            directory.entries.push(entry);
            directory.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        let (exact, content) = batch.put_directory(&directory).map_err(store_failed)?;
        let root = Metadata { mtime, ..Metadata::root_owned(0o755) };
        let tree = Tree { root, exact, content };
        batch.commit()?;
        Ok(tree)
    }
}

/// The files of a commit, at the address's directory.
fn commit_directory(
    context: GitContext<'_>,
    address: &GitAddress,
    objects: &Pack,
    id: ObjectId,
    batch: &Batch<'_>,
    depth: usize,
) -> Result<Directory> {
    let bytes = objects.expect(&id, Kind::Commit)?;
    let (root, mtime) = commit_parts(&bytes)?;
    let mut commit = Commit {
        context,
        address,
        objects,
        batch,
        mtime,
        modules: None,
        depth,
        made: HashMap::new(),
        contents: HashMap::new(),
        entries: 0,
    };
    if address.submodules {
        commit.modules = Some(commit.read_modules(&root)?);
    }
    let mut at = root;
    let mut reached = Vec::new();
    for name in path::components(address.directory.as_bytes()) {
        reached = path::join(&reached, name);
        at = commit.child(&at, name, EntryKind::Directory)?.ok_or_else(|| {
            let shown = String::from_utf8_lossy(&reached).into_owned();
            Error::build(format!("the commit has no directory `{shown}`"))
        })?;
    }
    let mut pack = context.store.pack().map_err(store_failed)?;
    let (directory, _) = commit.directory(pack.as_mut(), &at, &reached, 0)?;
    pack.finish().map_err(store_failed)?;
    Ok(directory)
}

/// Tree and time of a commit.
pub(super) fn commit_parts(bytes: &[u8]) -> Result<(ObjectId, Timestamp)> {
    let (tree, seconds) = read_commit(bytes).ok_or_else(|| damaged("a commit"))?;
    Ok((tree, Timestamp::from_seconds(seconds.max(0))))
}

fn damaged(what: &str) -> Error {
    Error::build(format!("the repository gives {what} that cannot be read"))
}

impl Pack {
    /// An object of this kind, which has to be there.
    pub(super) fn expect(&self, id: &ObjectId, kind: Kind) -> Result<Arc<Vec<u8>>> {
        let wanted = kind.name();
        match self.find(id)? {
            Some((found, bytes)) if found == kind => Ok(bytes),
            Some((found, _)) => Err(Error::build(format!("`{id}` is a {}, not a {wanted}", found.name()))),
            None => Err(Error::build(format!("the repository does not give the {wanted} `{id}`"))),
        }
    }
}

/// The entries of a directory.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<TreeEntry<'_>>> {
    read_tree(bytes).ok_or_else(|| damaged("a directory"))
}

impl Commit<'_, '_> {
    fn child(&self, tree: &ObjectId, name: &[u8], kind: EntryKind) -> Result<Option<ObjectId>> {
        let bytes = self.objects.expect(tree, Kind::Tree)?;
        let found = entries(&bytes)?.into_iter().find(|entry| entry.name == name);
        let is_wanted =
            |found: EntryKind| found == kind || (kind == EntryKind::File && found == EntryKind::Program);
        Ok(found.filter(|entry| is_wanted(entry.kind)).map(|entry| entry.id))
    }

    /// Makes the files of a directory.
    fn directory(
        &mut self,
        pack: &mut dyn PackWriter,
        id: &ObjectId,
        relative: &[u8],
        depth: usize,
    ) -> Result<(Directory, bool)> {
        if self.context.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        if depth > DEPTH {
            return Err(Error::new(Fault::Limit, format!("its directories are nested deeper than {DEPTH}")));
        }
        let bytes = self.objects.expect(id, Kind::Tree)?;
        let (mut made, mut names, mut has_submodules) = (Vec::new(), BTreeSet::new(), false);
        for TreeEntry { name, kind, id } in entries(&bytes)? {
            if !path::is_name(name) || name.eq_ignore_ascii_case(b".git") || !names.insert(name.to_vec()) {
                let shown: String =
                    String::from_utf8_lossy(name).chars().flat_map(char::escape_debug).collect();
                return Err(Error::build(format!(
                    "the repository has a file `{shown}`, which git refuses, too"
                )));
            }
            self.count(1)?;
            let child = path::join(relative, name);
            let (mode, kind) = match kind {
                EntryKind::Directory => {
                    let below = self.subdirectory(pack, &id, &child, depth)?;
                    has_submodules |= below.has_submodules;
                    (0o755, below.kind)
                }
                EntryKind::Submodule => {
                    has_submodules = true;
                    (0o755, self.submodule(&child, id)?)
                }
                EntryKind::Link => {
                    let target = self.objects.expect(&id, Kind::Blob)?.to_vec();
                    if target.is_empty() || target.contains(&0) {
                        return Err(damaged("a link"));
                    }
                    (0o777, NodeKind::Symlink { target })
                }
                EntryKind::File => (0o644, self.file(pack, id)?),
                EntryKind::Program => (0o755, self.file(pack, id)?),
            };
            let metadata = Metadata { mtime: self.mtime, ..Metadata::root_owned(mode) };
            made.push(Entry { name: name.to_vec(), metadata, kind });
        }
        // Git sorts directories as if their names ended in a slash.
        made.sort_unstable_by(|a: &Entry, b| a.name.cmp(&b.name));
        Ok((Directory { entries: made, hard_links: Vec::new() }, has_submodules))
    }

    fn count(&mut self, more: usize) -> Result<()> {
        self.entries = self.entries.saturating_add(more);
        if self.entries > ENTRIES {
            return Err(Error::new(
                Fault::Limit,
                format!("it has more than {ENTRIES} files and directories"),
            ));
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        pack: &mut dyn PackWriter,
        id: &ObjectId,
        relative: &[u8],
        depth: usize,
    ) -> Result<Made> {
        if let Some(made) = self.made.get(id).cloned() {
            self.count(made.entries)?;
            return Ok(made);
        }
        let before = self.entries;
        let (directory, has_submodules) = self.directory(pack, id, relative, depth + 1)?;
        let (exact, content) = self.batch.put_directory(&directory).map_err(store_failed)?;
        let kind = NodeKind::Directory { exact, content };
        let made = Made { kind, entries: self.entries - before, has_submodules };
        // What is in a submodule depends on where it stands.
        if !has_submodules {
            self.made.insert(*id, made.clone());
        }
        Ok(made)
    }

    fn file(&mut self, pack: &mut dyn PackWriter, id: ObjectId) -> Result<NodeKind> {
        if let Some(kind) = self.contents.get(&id) {
            return Ok(kind.clone());
        }
        let bytes = self.objects.expect(&id, Kind::Blob)?;
        let (content, size) = pack.add(&mut Cursor::new(bytes.as_slice())).map_err(store_failed)?;
        let kind = NodeKind::File { content, size };
        self.contents.insert(id, kind.clone());
        Ok(kind)
    }

    /// The files of a submodule, from its own repository.
    fn submodule(&mut self, relative: &[u8], id: ObjectId) -> Result<NodeKind> {
        let directory = match &self.modules {
            None => Directory::default(),
            Some(modules) => {
                let shown = String::from_utf8_lossy(relative).into_owned();
                let module = modules.get(relative).ok_or_else(|| {
                    Error::build(format!("the submodule `{shown}` is not in `.gitmodules`"))
                        .hint("`?submodules=false` in the address leaves submodules out")
                })?;
                if module.is_skipped {
                    Directory::default()
                } else {
                    self.fetch_submodule(module, &shown, id)?
                }
            }
        };
        let (exact, content) = self.batch.put_directory(&directory).map_err(store_failed)?;
        Ok(NodeKind::Directory { exact, content })
    }

    fn fetch_submodule(&self, module: &Module, shown: &str, id: ObjectId) -> Result<Directory> {
        let fetch = || -> Result<Directory> {
            if self.depth >= SUBMODULE_DEPTH {
                let message = format!("submodules are nested deeper than {SUBMODULE_DEPTH}");
                return Err(Error::new(Fault::Limit, message));
            }
            let address = submodule_address(self.address, &module.url)?;
            let found = Found { id, tag: None, name: None };
            let objects = Connection::open(&address, Some(self.address), self.context)?.fetch(&found)?;
            commit_directory(self.context, &address, &objects, id, self.batch, self.depth + 1)
        };
        fetch().map_err(|error| {
            let fault = error.fault();
            error.within(fault, format!("cannot fetch the submodule `{shown}`"))
        })
    }

    fn read_modules(&self, root: &ObjectId) -> Result<BTreeMap<Vec<u8>, Module>> {
        let Some(id) = self.child(root, b".gitmodules", EntryKind::File)? else { return Ok(BTreeMap::new()) };
        let bytes = self.objects.expect(&id, Kind::Blob)?;
        if bytes.len() > MODULES_BYTES {
            return Err(Error::new(
                Fault::Limit,
                format!("`.gitmodules` has more than {MODULES_BYTES} bytes"),
            ));
        }
        parse_modules(&bytes).ok_or_else(|| Error::build("the repository's `.gitmodules` cannot be read"))
    }
}

/// The submodules of a `.gitmodules`, which is a file of git's configuration.
fn parse_modules(bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Module>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut sections: Vec<BTreeMap<String, String>> = Vec::new();
    let mut in_submodule = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            in_submodule = section.split(['"', ']']).next()?.trim().eq_ignore_ascii_case("submodule");
            section.contains(']').then_some(())?;
            sections.extend(in_submodule.then(BTreeMap::new));
        } else if in_submodule {
            let (key, value) = line.split_once('=').unwrap_or((line, "true"));
            sections.last_mut()?.insert(key.trim().to_ascii_lowercase(), configured(value.trim())?);
        }
    }
    let mut modules = BTreeMap::new();
    for section in sections {
        if let (Some(at), Some(url)) = (section.get("path"), section.get("url")) {
            let is_skipped = section.get("update").is_some_and(|update| update == "none");
            modules.insert(path::clean(at.as_bytes()), Module { url: url.clone(), is_skipped });
        }
    }
    Some(modules)
}

/// A value without its quotes, its escapes and the comment behind it.
fn configured(text: &str) -> Option<String> {
    let (mut value, mut quoted, mut kept) = (String::new(), false, 0);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => value.push(match characters.next()? {
                'n' => '\n',
                't' => '\t',
                character @ ('"' | '\\') => character,
                _ => return None,
            }),
            character => value.push(character),
        }
        // Blanks count in quotes only, or between what else there is.
        if quoted || !value.ends_with([' ', '\t']) {
            kept = value.len();
        }
    }
    value.truncate(kept);
    (!quoted).then_some(value)
}

/// The address of a submodule, which may be written relative to that of the repository.
fn submodule_address(parent: &GitAddress, url: &str) -> Result<GitAddress> {
    let remote = if url.starts_with("./") || url.starts_with("../") {
        let (scheme, rest) = parent.remote.split_once("://").unwrap_or_default();
        let (authority, at) = rest.split_once('/').unwrap_or((rest, ""));
        let mut names: Vec<&str> = at.trim_end_matches('/').split('/').collect();
        for name in url.trim_end_matches('/').split('/') {
            match name {
                "." | "" => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        format!("{scheme}://{authority}/{}", names.join("/"))
    } else {
        url.to_owned()
    };
    let has_scheme = ["http://", "https://", "git://"].iter().any(|scheme| remote.starts_with(scheme));
    if !has_scheme || remote.contains(['#', '?']) {
        let shown = crate::remote::shown(&remote);
        return Err(Error::unsupported(format!("a submodule at `{shown}`")).hint(
            "submodules come by http, https or git; `?submodules=false` in the address leaves them out",
        ));
    }
    Ok(GitAddress {
        remote,
        reference: None,
        directory: String::new(),
        checksum: None,
        keep_git_dir: None,
        submodules: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_submodules_are_relative_or_whole() {
        let parent = GitAddress::parse("https://u:p@h:1/a/b.git").expect("an address");
        let check = |url: &str, expected: &str| {
            let address = submodule_address(&parent, url).expect(url);
            assert_eq!(address.remote, expected, "{url}");
        };
        check("../c.git", "https://u:p@h:1/a/c.git");
        check("./c", "https://u:p@h:1/a/b.git/c");
        check("../../../x.git", "https://u:p@h:1/x.git");
        check("git://o/c", "git://o/c");
        for url in ["/etc", "file:///etc", "git@h:x.git", "ssh://h/x", "ext::sh -c x", "--upload-pack=x"] {
            assert!(submodule_address(&parent, url).is_err(), "{url}");
        }
    }

    #[test]
    fn modules_are_read() {
        let text = b"[submodule \"a b\"]\n\tpath = lib/a\n\turl = ../a.git\n[submodule \"c\"]\n\tpath = c/\n\turl = \"https://h/c\" ; x\n\tupdate = none\n[core]\n\tx = 1\n";
        let modules = parse_modules(text).expect("modules");
        let shown: Vec<_> = modules
            .iter()
            .map(|(at, module)| (at.as_slice(), module.url.as_str(), module.is_skipped))
            .collect();
        assert_eq!(shown, [(&b"c"[..], "https://h/c", true), (b"lib/a", "../a.git", false)]);
        assert!(parse_modules(b"[submodule").is_none());
    }
}
