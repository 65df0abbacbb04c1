//! Removing what nobody needs.
//!
//! Roots are tags, records, what running processes hold, and what they have made. From them: images to their blobs
//! and chain IDs, trees to their directories and contents. What is not reached goes. All of it happens in one
//! transaction that has the write lock, so a process that looks something up either holds it before, or does not
//! find it after; pack files go after the commit, since nothing finds them then.
//!
//! What must hold: a pack that the index does not know is removed only when it is old, since it may be one that
//! another process has renamed and is about to record.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::time::Duration;

use cooper_vfs::tree::codec;
use cooper_vfs::{ExactId, NodeKind, Tree};
use rusqlite::{OptionalExtension, Transaction, params};

use super::lease::{self, Others};
use super::located::{KEPT_FOR_BLOBS, blob_of_pack, forget_points};
use super::records::{decode_tree, now};
use super::{Store, blobs, lock, packs};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::chain_ids;
use crate::manifest::{CONFIG_BYTES, Document, INDEX_DEPTH, MANIFEST_BYTES};

/// What to remove besides garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneOptions {
    /// Remove records of other crates that were not used for so long; none keeps them all.
    pub unused_records: Option<Duration>,
    /// Remove all tags, too.
    pub tags: TagsToo,
}

/// Whether tags are roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagsToo {
    /// Tags and their images stay.
    Keep,
    /// Tags go first.
    Remove,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Tags.
    pub tags: u64,
    /// Records of other crates.
    pub records: u64,
    /// Images.
    pub images: u64,
    /// Blob files.
    pub blobs: u64,
    /// Packs.
    pub packs: u64,
    /// Directory objects.
    pub directories: u64,
    /// Bytes of the files that were removed.
    pub bytes: u64,
}

/// What is reached from the roots.
#[derive(Default)]
struct Reached {
    images: HashSet<String>,
    blobs: HashSet<Digest>,
    chains: HashSet<String>,
    directories: HashSet<ExactId>,
    packs: HashSet<i64>,
}

/// A pack that the index does not know after this long belongs to nobody: it is recorded right after its rename.
const ABANDONED: Duration = Duration::from_secs(3600);
/// One part in so many of the records goes at a time when a store is too large.
const PRUNED_PART: i64 = 4;
const ACTION: &str = "cannot prune the store";

fn failed(source: rusqlite::Error) -> Error {
    Error::Index { action: ACTION, source }
}

impl Store {
    /// Removes unfinished files and holds of processes that died.
    pub(super) fn sweep(&self) -> Result<()> {
        let others = self.look_at_others()?;
        if others.dead.is_empty() {
            return Ok(());
        }
        self.index.change(ACTION, |transaction| forget_dead_leases(transaction, &others, self.lease.name()))
    }

    fn look_at_others(&self) -> Result<Others> {
        lease::sweep(&self.disk, self.lease.name())
            .map_err(|error| Error::io("cannot look at other processes", error))
    }

    /// Removes what no tag, no record and no running process needs.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] or [`Error::Io`]; what was removed until then stays removed, and nothing that is needed is.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        let others = self.look_at_others()?;
        let mut pruned = Pruned::default();
        let packs = self.index.change_with(ACTION, |transaction| {
            forget_dead_leases(transaction, &others, self.lease.name()).map_err(failed)?;
            remove_by_choice(transaction, options, &mut pruned).map_err(failed)?;
            let reached = self.reach(transaction)?;
            let packs = remove_rows(transaction, &reached, &mut pruned).map_err(failed)?;
            // Inside the transaction: whoever wants one of these blobs waits to hold it, and looks after that.
            self.remove_blobs(&reached, &mut pruned)?;
            Ok(packs)
        })?;
        lock(&self.directories).clear();
        self.forget_packs();
        let remove = |name: &str| self.disk.remove(&format!("{}/{name}", packs::DIRECTORY));
        for (name, bytes) in &packs {
            remove(name).map_err(|error| Error::io(ACTION, error))?;
            pruned.packs += 1;
            pruned.bytes += bytes;
        }
        self.remove_unknown_packs().map_err(|error| Error::io(ACTION, error))?;
        Ok(pruned)
    }

    /// Removes what no tag, no record and no running process needs, and then records that were used longest ago with
    /// what only they need, until the store takes at most so many bytes. Tags stay, so it may end above that.
    ///
    /// # Errors
    ///
    /// As [`Store::prune`].
    pub fn prune_to(&self, limit: u64) -> Result<Pruned> {
        let options = PruneOptions { unused_records: None, tags: TagsToo::Keep };
        let mut pruned = self.prune(&options)?;
        while self.usage()?.total() > limit {
            let removed = self.index.change(ACTION, |transaction| {
                let count: i64 =
                    transaction.query_row("SELECT count(*) FROM record", [], |row| row.get(0))?;
                if count == 0 {
                    return Ok(0);
                }
                let last: i64 = transaction.query_row(
                    "SELECT used FROM record ORDER BY used LIMIT 1 OFFSET ?",
                    [(count / PRUNED_PART).min(count - 1)],
                    |row| row.get(0),
                )?;
                let query = format!("DELETE FROM record WHERE used <= ? AND NOT {KEPT_FOR_BLOBS}");
                let removed = transaction.execute(&query, [last])?;
                forget_keeps(transaction)?;
                Ok(removed as u64)
            })?;
            if removed == 0 {
                break;
            }
            let more = self.prune(&options)?;
            pruned.records += removed;
            pruned.images += more.images;
            pruned.blobs += more.blobs;
            pruned.packs += more.packs;
            pruned.directories += more.directories;
            pruned.bytes += more.bytes;
        }
        Ok(pruned)
    }

    /// Removes pack files that a process which died had renamed but not recorded.
    fn remove_unknown_packs(&self) -> io::Result<()> {
        for (name, metadata) in self.disk.list(packs::DIRECTORY)? {
            if metadata.modified()?.elapsed().unwrap_or_default() < ABANDONED {
                continue;
            }
            let known = self
                .index
                .read(ACTION, |connection| {
                    connection
                        .prepare_cached("SELECT 1 FROM pack WHERE name = ?")?
                        .query_row([&name], |_| Ok(()))
                        .optional()
                })
                .map_err(Error::into_io)?;
            if known.is_none() {
                self.disk.remove(&format!("{}/{name}", packs::DIRECTORY))?;
            }
        }
        Ok(())
    }

    fn reach(&self, transaction: &Transaction<'_>) -> Result<Reached> {
        let mut reached = Reached::default();
        let mut trees: Vec<Tree> = Vec::new();
        let mut images: Vec<(String, usize)> = texts(
            transaction,
            "SELECT digest FROM tag UNION SELECT digest FROM image WHERE lease IN (SELECT name FROM live_lease)
             UNION SELECT CAST(id AS TEXT) FROM hold WHERE object = 'image'",
        )?
        .into_iter()
        .map(|digest| (digest, INDEX_DEPTH))
        .collect();
        while let Some((name, depth)) = images.pop() {
            if reached.images.insert(name.clone()) {
                self.reach_image(&name, depth, &mut images, &mut reached);
            }
        }
        let kept_blobs = "SELECT CAST(id AS TEXT) FROM hold WHERE object = 'blob'
             UNION SELECT CAST(id AS TEXT) FROM record_keeps WHERE object = 'blob'";
        for name in texts(transaction, kept_blobs)? {
            reached.blobs.insert(name.parse()?);
        }
        let chains: Vec<(String, Vec<u8>)> = pairs(transaction, "SELECT id, tree FROM chain")?;
        let live = texts(transaction, "SELECT id FROM chain WHERE lease IN (SELECT name FROM live_lease)")?;
        reached.chains.extend(live);
        for (name, tree) in chains {
            if reached.chains.contains(&name) {
                trees.push(decode_tree(&tree)?);
            }
        }
        let kept_trees = "SELECT id, id FROM hold WHERE object = 'tree' UNION SELECT id, id FROM record_keeps WHERE object = 'tree'";
        for (tree, _) in pairs::<Vec<u8>, Vec<u8>>(transaction, kept_trees)? {
            trees.push(decode_tree(&tree)?);
        }
        let mut directories: Vec<ExactId> = trees.iter().map(|tree| tree.exact).collect();
        let live = "SELECT id, lease FROM directory WHERE lease IN (SELECT name FROM live_lease)
             UNION SELECT id, lease FROM hold WHERE object = 'directory'";
        directories
            .extend(pairs::<[u8; 32], String>(transaction, live)?.into_iter().map(|(id, _)| ExactId(id)));
        reach_directories(transaction, directories, &mut reached).map_err(failed)?;
        let live = "SELECT id, lease FROM pack WHERE lease IN (SELECT name FROM live_lease)";
        reached.packs.extend(pairs::<i64, String>(transaction, live)?.into_iter().map(|(id, _)| id));
        let standing =
            pairs::<i64, String>(transaction, "SELECT id, name FROM pack WHERE instr(name, ':') > 0")?;
        for (pack, name) in standing {
            if let Some(blob) = blob_of_pack(&name).filter(|_| reached.packs.contains(&pack)) {
                reached.blobs.insert(blob);
            }
        }
        Ok(reached)
    }

    /// Follows a manifest or index. One that cannot be read reaches nothing more.
    fn reach_image(
        &self,
        name: &str,
        depth: usize,
        images: &mut Vec<(String, usize)>,
        reached: &mut Reached,
    ) {
        let Ok(digest) = name.parse::<Digest>() else { return };
        reached.blobs.insert(digest);
        let document = self.blob_bytes(&digest, MANIFEST_BYTES).and_then(|bytes| Document::parse(&bytes, ""));
        match document {
            Ok(Document::Manifest(manifest)) => {
                reached.blobs.insert(manifest.config.digest);
                reached.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
                let config = self
                    .blob_bytes(&manifest.config.digest, CONFIG_BYTES)
                    .and_then(|bytes| ImageConfig::parse(&bytes));
                if let Ok(config) = config {
                    reached.chains.extend(chain_ids(&config.rootfs.diff_ids).iter().map(Digest::to_string));
                }
            }
            Ok(Document::Index(index)) if depth > 0 => {
                images.extend(index.manifests.iter().map(|entry| (entry.digest.to_string(), depth - 1)));
            }
            Ok(Document::Index(_)) | Err(_) => {}
        }
    }

    fn remove_blobs(&self, reached: &Reached, pruned: &mut Pruned) -> Result<()> {
        for algorithm in ["sha256", "sha512"] {
            let directory = format!("{}/{algorithm}", blobs::DIRECTORY);
            let files = self.disk.list(&directory).map_err(|error| Error::io(ACTION, error))?;
            for (hex, metadata) in files {
                let keep =
                    format!("{algorithm}:{hex}").parse().is_ok_and(|digest| reached.blobs.contains(&digest));
                if !keep {
                    let path = format!("{directory}/{hex}");
                    self.disk.remove(&path).map_err(|error| Error::io(ACTION, error))?;
                    pruned.blobs += 1;
                    pruned.bytes += metadata.len();
                }
            }
        }
        Ok(())
    }
}

/// Makes the table of live leases for this transaction, and drops what dead ones held.
fn forget_dead_leases(transaction: &Transaction<'_>, others: &Others, own: &str) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS live_lease (name TEXT PRIMARY KEY); DELETE FROM live_lease;",
    )?;
    let mut insert = transaction.prepare_cached("INSERT INTO live_lease (name) VALUES (?)")?;
    for name in others.alive.iter().map(String::as_str).chain([own]) {
        insert.execute([name])?;
    }
    transaction.execute("DELETE FROM hold WHERE lease NOT IN (SELECT name FROM live_lease)", [])?;
    Ok(())
}

fn remove_by_choice(
    transaction: &Transaction<'_>,
    options: &PruneOptions,
    pruned: &mut Pruned,
) -> rusqlite::Result<()> {
    if options.tags == TagsToo::Remove {
        pruned.tags = transaction.execute("DELETE FROM tag", [])? as u64;
    }
    if let Some(age) = options.unused_records {
        let before = now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let query = format!("DELETE FROM record WHERE used <= ? AND NOT {KEPT_FOR_BLOBS}");
        pruned.records = transaction.execute(&query, [before])? as u64;
        forget_keeps(transaction)?;
    }
    Ok(())
}

/// Lets go of what records that are gone kept.
fn forget_keeps(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute(
        "DELETE FROM record_keeps WHERE NOT EXISTS
         (SELECT 1 FROM record WHERE record.kind = record_keeps.kind AND record.key = record_keeps.key)",
        [],
    )?;
    Ok(())
}

/// Walks directory objects. One that is missing or damaged reaches nothing more; its tree is broken anyway.
fn reach_directories(
    transaction: &Transaction<'_>,
    mut ahead: Vec<ExactId>,
    reached: &mut Reached,
) -> rusqlite::Result<()> {
    let mut object = transaction.prepare_cached("SELECT object FROM directory WHERE id = ?")?;
    // A pack comes before a blob that stands for one.
    let mut pack = transaction.prepare_cached(
        "SELECT pack FROM content JOIN pack ON pack.id = content.pack WHERE content.id = ?
         ORDER BY instr(pack.name, ':') > 0, pack LIMIT 1",
    )?;
    while let Some(id) = ahead.pop() {
        if !reached.directories.insert(id) {
            continue;
        }
        let bytes: Option<Vec<u8>> = object.query_row([id.0], |row| row.get(0)).optional()?;
        let Some(directory) = bytes.and_then(|bytes| codec::decode(&bytes).ok()) else { continue };
        for entry in &directory.entries {
            match &entry.kind {
                NodeKind::Directory { exact, .. } => ahead.push(*exact),
                NodeKind::File { content, .. } => {
                    let found: Option<i64> = pack.query_row([content.0], |row| row.get(0)).optional()?;
                    reached.packs.extend(found);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes all rows that were not reached; returns the names and sizes of the packs among them.
fn remove_rows(
    transaction: &Transaction<'_>,
    reached: &Reached,
    pruned: &mut Pruned,
) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut query = transaction.prepare("SELECT digest FROM image")?;
    let images: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for name in images.iter().filter(|name| !reached.images.contains(*name)) {
        transaction.prepare_cached("DELETE FROM image WHERE digest = ?")?.execute([name])?;
        pruned.images += 1;
    }
    let mut query = transaction.prepare("SELECT id FROM chain")?;
    let chains: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for name in chains.iter().filter(|name| !reached.chains.contains(*name)) {
        transaction.prepare_cached("DELETE FROM chain WHERE id = ?")?.execute([name])?;
    }
    let mut query = transaction.prepare("SELECT id FROM directory")?;
    let directories: BTreeSet<[u8; 32]> =
        query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for id in directories.iter().filter(|id| !reached.directories.contains(&ExactId(**id))) {
        transaction.prepare_cached("DELETE FROM directory WHERE id = ?")?.execute([id])?;
        pruned.directories += 1;
    }
    let mut query = transaction.prepare("SELECT id, name, bytes FROM pack")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, packs::unsql(row.get(2)?))))?;
    let all: Vec<(i64, String, u64)> = rows.collect::<rusqlite::Result<_>>()?;
    let mut removed = Vec::new();
    for (id, name, bytes) in all {
        if !reached.packs.contains(&id) {
            transaction.prepare_cached("DELETE FROM content WHERE pack = ?")?.execute([id])?;
            transaction.prepare_cached("DELETE FROM pack WHERE id = ?")?.execute(params![id])?;
            match blob_of_pack(&name) {
                Some(_) => forget_points(transaction, &name)?,
                None => removed.push((name, bytes)),
            }
        }
    }
    Ok(removed)
}

fn texts(transaction: &Transaction<'_>, query: &str) -> Result<Vec<String>> {
    let read = || {
        let mut statement = transaction.prepare_cached(query)?;
        statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
    };
    read().map_err(failed)
}

fn pairs<A, B>(transaction: &Transaction<'_>, query: &str) -> Result<Vec<(A, B)>>
where
    A: rusqlite::types::FromSql,
    B: rusqlite::types::FromSql,
{
    let read = || {
        let mut statement = transaction.prepare_cached(query)?;
        statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(A, B)>>>()
    };
    read().map_err(failed)
}
