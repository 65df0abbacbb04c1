//! What a source of `COPY` means: the entries of a tree that a path or wildcard names.
//!
//! An [`Item`] is an entry with the tree it lies in. Where names are to be left out (`--exclude`) or directories to be
//! kept (`--parents`) a smaller tree is made first, and the item is its root; so whoever copies knows one way only, and
//! the id of the smaller tree is the cache key.

use std::collections::{HashMap, HashSet};

use cooper_dockerfile::dockerignore::{Matched, PatternList};
use cooper_dockerfile::glob::{Glob, has_wildcards};
use cooper_vfs::content::ContentStore;
use cooper_vfs::path;
use cooper_vfs::tree::{Entry, NodeKind, Tree, TreeBuilder};

use crate::copy::store_failed;
use crate::error::{Error, Fault, Result};

/// A source found.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// The name it has in a directory.
    pub(crate) name: Vec<u8>,
    /// Where it really is in the tree.
    pub(crate) path: Vec<u8>,
    /// What it is.
    pub(crate) entry: Entry,
    /// The tree it lies in.
    pub(crate) tree: Tree,
}

/// The one file of a tree that holds nothing else.
pub(crate) fn only_file(store: &dyn ContentStore, tree: &Tree) -> Result<Vec<Item>> {
    let directory = tree.directory(store).map_err(store_failed)?;
    let [entry] = directory.entries.as_slice() else {
        return Err(Error::new(Fault::Bug, "a download is not one file"));
    };
    let name = entry.name.clone();
    Ok(vec![Item { path: name.clone(), name, entry: entry.clone(), tree: tree.clone() }])
}

/// Finds what a source names, without what is excluded below its directories.
pub(crate) fn select(
    store: &dyn ContentStore,
    tree: &Tree,
    source: &str,
    excludes: &PatternList,
) -> Result<Vec<Item>> {
    let items = find(store, tree, source)?;
    if excludes.is_empty() {
        return Ok(items);
    }
    items.into_iter().map(|item| smaller(store, item, None, excludes)).collect()
}

/// Finds what a source of `--parents` names: below its pivot (`/./`, else the root) everything that its pattern
/// matches, with the directories on the way.
pub(crate) fn with_parents(
    store: &dyn ContentStore,
    tree: &Tree,
    source: &str,
    excludes: &PatternList,
) -> Result<Vec<Item>> {
    let (pivot, pattern) = source.split_once("/./").unwrap_or(("", source));
    let pattern = String::from_utf8_lossy(&path::clean(pattern.as_bytes())).into_owned();
    let include = PatternList::new([if pattern.is_empty() { "**" } else { pattern.as_str() }])
        .map_err(|error| Error::build(format!("invalid pattern `{source}`: {error}")))?;
    let mut found = Vec::new();
    for item in find(store, tree, pivot)? {
        let below = Tree::from_entry(&item.entry).ok_or_else(|| missing(source))?;
        if !has_wildcards(&pattern)
            && below.lookup(store, pattern.as_bytes()).map_err(store_failed)?.is_none()
        {
            return Err(missing(source));
        }
        found.push(smaller(store, item, Some(&include), excludes)?);
    }
    Ok(found)
}

fn find(store: &dyn ContentStore, tree: &Tree, source: &str) -> Result<Vec<Item>> {
    let mut literal: Vec<&str> = Vec::new();
    let mut patterns = Vec::new();
    for name in source.split('/').filter(|name| !name.is_empty() && *name != ".") {
        if patterns.is_empty() && !has_wildcards(name) {
            literal.push(name);
        } else {
            patterns.push(Glob::new(name).map_err(|error| Error::build(error.to_string()))?);
        }
    }
    let start = literal.join("/").into_bytes();
    if patterns.is_empty() {
        let name = path::split(&start).map(|(_, name)| name.to_vec()).unwrap_or_default();
        return Ok(vec![follow(store, tree, &start, name)?.ok_or_else(|| missing(source))?]);
    }
    let Some((start, entry)) = tree.lookup_following(store, &start).map_err(store_failed)? else {
        return Ok(Vec::new());
    };
    let mut matches = vec![(start, entry)];
    for pattern in &patterns {
        let mut next = Vec::new();
        for (directory_path, entry) in matches {
            let NodeKind::Directory { exact, .. } = &entry.kind else { continue };
            let directory = store.directory(exact).map_err(store_failed)?;
            for child in directory.entries.iter().filter(|child| pattern.matches(&child.name)) {
                next.push((path::join(&directory_path, &child.name), child.clone()));
            }
        }
        matches = next;
    }
    let follow_match = |(found, entry): (Vec<u8>, Entry)| {
        follow(store, tree, &found, entry.name)?.ok_or_else(|| missing(&String::from_utf8_lossy(&found)))
    };
    matches.into_iter().map(follow_match).collect()
}

fn missing(source: &str) -> Error {
    let source = source.trim_start_matches('/');
    Error::build(format!("`/{source}` is not in the source of the copy"))
        .hint("look at the path, and at .dockerignore if it is a file of the context")
}

fn follow(store: &dyn ContentStore, tree: &Tree, found: &[u8], name: Vec<u8>) -> Result<Option<Item>> {
    let reached = tree.lookup_following(store, found).map_err(store_failed)?;
    Ok(reached.map(|(path, entry)| Item { name, path, entry, tree: tree.clone() }))
}

/// A directory without what is not included or is excluded; what is no directory stays as it is.
fn smaller(
    store: &dyn ContentStore,
    item: Item,
    include: Option<&PatternList>,
    exclude: &PatternList,
) -> Result<Item> {
    let Some(whole) = Tree::from_entry(&item.entry) else { return Ok(item) };
    let tree = filtered(store, &whole, include, exclude)?;
    let entry = Entry { name: item.entry.name, ..tree.root_entry() };
    Ok(Item { name: item.name, path: Vec::new(), entry, tree })
}

/// A directory on the way to the current path.
struct Above {
    path: Vec<u8>,
    entry: Entry,
    included: Matched,
    excluded: Matched,
}

fn filtered(
    store: &dyn ContentStore,
    whole: &Tree,
    include: Option<&PatternList>,
    exclude: &PatternList,
) -> Result<Tree> {
    let mut builder = TreeBuilder::new(store);
    let mut made: HashSet<Vec<u8>> = HashSet::new();
    // The name that a hard-linked file has got, by its first name in the whole tree.
    let mut links: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut above: Vec<Above> = Vec::new();
    let mut walk = whole.walk(store);
    while let Some(item) = walk.next() {
        let item = item.map_err(store_failed)?;
        while above.last().is_some_and(|top| !path::is_within(&item.path, &top.path)) {
            above.pop();
        }
        let (nothing, parent) = (Matched::default(), above.last());
        let included =
            include.map(|include| include.at(parent.map_or(&nothing, |parent| &parent.included), &item.path));
        let excluded = exclude.at(parent.map_or(&nothing, |parent| &parent.excluded), &item.path);
        let is_wanted = included.as_ref().is_none_or(|found| found.is_matched) && !excluded.is_matched;
        let is_directory = item.entry.kind.is_directory();
        if is_wanted {
            for directory in &above {
                if made.insert(directory.path.clone()) {
                    let metadata = directory.entry.metadata.clone();
                    builder.put_directory(&directory.path, metadata).map_err(store_failed)?;
                }
            }
            let first = item.link_to.clone().unwrap_or_else(|| item.path.clone());
            match links.get(&first) {
                _ if is_directory => {
                    made.insert(item.path.clone());
                    builder.put_directory(&item.path, item.entry.metadata.clone())
                }
                Some(leader) => builder.hard_link(&item.path, leader),
                None => {
                    links.insert(first, item.path.clone());
                    builder.put(&item.path, item.entry.clone())
                }
            }
            .map_err(store_failed)?;
        }
        if !is_directory {
            continue;
        }
        let may_include = is_wanted || include.is_none_or(|include| include.may_match_below(&item.path));
        let may_stay = !excluded.is_matched || exclude.may_except_below(&item.path);
        if may_include && may_stay {
            let included = included.unwrap_or_default();
            above.push(Above { path: item.path, entry: item.entry, included, excluded });
        } else {
            walk.skip_directory(&item.path);
        }
    }
    let mut tree = builder.finish().map_err(store_failed)?;
    tree.root = whole.root.clone();
    Ok(tree)
}
