//! Git repositories as sources: contexts, named contexts, `ADD`.
//!
//! A [`GitSource`] becomes a tree: one commit is fetched without its history, and its objects become files of the store
//! directly; nothing is checked out on the host. [`address`] reads what names a repository, [`connection`] speaks the
//! protocol, [`pack`] and [`object`] read what it sends, [`checkout`] turns objects into a tree, with submodules, and
//! [`repository`] makes the `.git` of `--keep-git-dir`. Requests by HTTP are those of everything else, with the same
//! proxies and certificates.
//!
//! As in BuildKit files are root's with mode 0644 or 0755, and the reference is a branch before it is a tag. Unlike in
//! BuildKit, where files carry the time of the checkout, they carry the commit's, so that the same commit always gives
//! the same bytes. What was fetched is remembered by its commit, and then nobody is asked for the files again.
//!
//! What must hold: no program of the host is started and no file of it is read because of a repository; names and links
//! in it never meet the host; a repository is bounded in objects' sizes, names and depth; credentials go to the host
//! they were given for and are in no tree, key or message.

mod address;
mod checkout;
mod connection;
mod object;
mod pack;
mod repository;

use std::collections::BTreeMap;

use cooper_image::store::{Keep, Store};
use cooper_vfs::tree::Tree;

pub use address::{GitAddress, is_commit, is_repository, is_short_context};

use crate::error::{Error, Fault, Result};
use crate::key::KeyBuilder;
use crate::source::ImageProvider;
use crate::step::{CancelToken, Secret};
use checkout::Checkout;
use connection::{Connection, Found};
use object::ObjectId;

/// Record kind of what was fetched.
const MEMO: &str = "git";

/// A commit of a repository, as a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    /// The repository.
    pub address: GitAddress,
    /// Whether `.git` is kept.
    pub keep_git_dir: bool,
}

/// What fetching needs.
#[derive(Clone, Copy)]
pub struct GitContext<'a> {
    /// Where trees go, and packs while they are read.
    pub store: &'a Store,
    /// Makes connections.
    pub provider: &'a dyn ImageProvider,
    /// Secrets of the build; `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER` may be among them.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// Told what is done, with bytes so far.
    pub progress: &'a dyn Fn(&str, u64, Option<u64>),
    /// Ends it.
    pub cancel: &'a CancelToken,
}

impl std::fmt::Debug for GitContext<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("GitContext").finish_non_exhaustive()
    }
}

/// Makes the tree of a repository's commit.
///
/// # Errors
///
/// When the repository, the reference or the directory is not there, access is refused, the commit is not the wanted
/// one, or a bound is reached.
pub fn load(source: &GitSource, context: GitContext<'_>) -> Result<Tree> {
    let address = &source.address;
    if address.is_ssh() {
        return Err(Error::unsupported(format!("a git repository by SSH: `{address}`"))
            .hint("use its https address, with `--secret id=GIT_AUTH_TOKEN,…` where it is private"));
    }
    let failed = |error: Error| {
        let fault = match error.fault() {
            kept @ (Fault::Cancelled | Fault::Limit) => kept,
            _ => Fault::Build,
        };
        error.within(fault, format!("cannot fetch `{address}`"))
    };
    fetch(source, context).map_err(failed)
}

fn fetch(source: &GitSource, context: GitContext<'_>) -> Result<Tree> {
    let address = &source.address;
    let commit = address.reference.as_deref().filter(|reference| is_commit(reference));
    if let Some(commit) = commit {
        check_commit(address, &[commit])?;
        if let Some(tree) = recall(context.store, &memo_key(source, commit))? {
            return Ok(tree);
        }
    }
    let mut connection = Connection::open(address, None, context)?;
    let found = match commit.and_then(|commit| ObjectId::from_hex(commit.as_bytes())) {
        Some(id) => Found { id, tag: None, name: None },
        _ => connection.resolve(address.reference.as_deref())?,
    };
    let (id, tag) = (found.id.to_string(), found.tag.map(|tag| tag.to_string()).unwrap_or_default());
    check_commit(address, &[&id, &tag])?;
    let key = memo_key(source, &id);
    if let Some(tree) = recall(context.store, &key)? {
        return Ok(tree);
    }
    let objects = connection.fetch(&found)?;
    let tree = Checkout::new(context, address, source.keep_git_dir).tree(&objects, &found)?;
    context.store.put_record(MEMO, &key, &tree.encode(), &[Keep::Tree(tree.clone())])?;
    Ok(tree)
}

/// The commit must be the one that the address insists on; the id of its tag will do as well.
fn check_commit(address: &GitAddress, found: &[&str]) -> Result<()> {
    let Some(wanted) = &address.checksum else { return Ok(()) };
    if found.iter().any(|found| found.starts_with(wanted.as_str())) {
        return Ok(());
    }
    let message = format!("the commit is not the expected one: {}", found[0]);
    Err(Error::build(message).hint(format!("expected {wanted}")))
}

fn memo_key(source: &GitSource, commit: &str) -> [u8; 32] {
    let GitSource { address, keep_git_dir } = source;
    let mut key = KeyBuilder::new("git");
    key.bytes("remote", address.public_remote().as_bytes())
        .bytes("commit", commit.as_bytes())
        .bytes("directory", address.directory.as_bytes())
        .bytes("submodules", &[u8::from(address.submodules)])
        .bytes("keep", &[u8::from(*keep_git_dir)]);
    // `.git` names the reference.
    if *keep_git_dir {
        key.bytes("reference", address.reference.as_deref().unwrap_or_default().as_bytes());
    }
    key.finish().0
}

/// What cannot be read is as good as none.
fn recall(store: &Store, key: &[u8; 32]) -> Result<Option<Tree>> {
    Ok(store.record(MEMO, key)?.and_then(|bytes| Tree::decode(&bytes).ok()))
}

/// The header that a server is shown: what BuildKit's secrets say, else the user and password of the address.
fn authorization(
    address: &GitAddress,
    parent: Option<&GitAddress>,
    secrets: &BTreeMap<String, Secret>,
) -> Option<Secret> {
    let host = address.host();
    // What is for no host in particular is for the repository that was named, and for submodules beside it.
    let general = parent.is_none_or(|parent| parent.host() == host);
    let find = |name: &str| {
        let own = secrets.get(&format!("{name}.{host}"));
        own.or_else(|| secrets.get(name).filter(|_| general)).map(Secret::expose)
    };
    let basic = |pair: &[u8]| {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        Secret::new(format!("Basic {encoded}").into_bytes())
    };
    if let Some(header) = find("GIT_AUTH_HEADER") {
        return Some(Secret::new(header.trim_ascii().to_vec()));
    }
    if let Some(token) = find("GIT_AUTH_TOKEN") {
        return Some(basic(&[b"x-access-token:", token.trim_ascii()].concat()));
    }
    let rest = address.remote.split_once("://").map_or("", |(_, rest)| rest);
    let (pair, _) = rest.split('/').next()?.rsplit_once('@')?;
    let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
    let decoded = crate::remote::percent_decoded;
    Some(basic(format!("{}:{}", decoded(user), decoded(password)).as_bytes()))
}
