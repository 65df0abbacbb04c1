//! Trees of chain IDs, images, tags, and the records that other crates keep in the store.
//!
//! What must hold: an image's record is written after its blobs, a tag after its image's record; and looking
//! something up and holding what it speaks of is one transaction.

use std::time::{SystemTime, UNIX_EPOCH};

use cooper_vfs::Tree;
use rusqlite::{OptionalExtension, Transaction, params};

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// An object that a record keeps alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// A tree with everything in it.
    Tree(Tree),
    /// A blob.
    Blob(Digest),
}

impl Keep {
    fn row(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::Tree(tree) => ("tree", tree.encode()),
            Self::Blob(digest) => ("blob", digest.to_string().into_bytes()),
        }
    }
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRecord {
    /// The full reference, with its tag.
    pub name: String,
    /// The platform, as [`crate::platform::Platform`] prints it; empty when the tag names an index.
    pub platform: String,
    /// The manifest or index.
    pub digest: Digest,
    /// When the tag was set, in seconds since the epoch.
    pub changed: i64,
}

impl Store {
    /// The tree of a chain ID, when the layers were ingested before. It is held from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Index`], or [`Error::Document`] when the record is damaged.
    pub fn chain_tree(&self, chain: &Digest) -> Result<Option<Tree>> {
        let name = chain.to_string();
        let bytes = self.index.change("cannot look a chain ID up", |transaction| {
            let tree: Option<Vec<u8>> = transaction
                .prepare_cached("SELECT tree FROM chain WHERE id = ?")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            if let Some(tree) = &tree {
                hold_row(transaction, self.lease.name(), "tree", tree)?;
            }
            Ok(tree)
        })?;
        bytes.map(|bytes| decode_tree(&bytes)).transpose()
    }

    /// Records the tree of a chain ID. The tree's directories and contents are in the store.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn put_chain(&self, chain: &Digest, tree: &Tree) -> Result<()> {
        let (name, bytes) = (chain.to_string(), tree.encode());
        self.index.change("cannot record a chain ID", |transaction| {
            hold_row(transaction, self.lease.name(), "tree", &bytes)?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO chain (id, tree, lease) VALUES (?, ?, ?)")?
                .execute(params![name, bytes, self.lease.name()])
        })?;
        Ok(())
    }

    /// Keeps a tree from being pruned while this process runs.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn hold_tree(&self, tree: &Tree) -> Result<()> {
        self.hold("tree", &tree.encode())
    }

    /// Records a manifest or index as complete: all blobs that it speaks of are here.
    pub(crate) fn put_image(&self, digest: &Digest, media_type: &str) -> Result<()> {
        let name = digest.to_string();
        self.index.change("cannot record an image", |transaction| {
            hold_row(transaction, self.lease.name(), "image", name.as_bytes())?;
            transaction
                .prepare_cached("INSERT OR IGNORE INTO image (digest, media_type, lease) VALUES (?, ?, ?)")?
                .execute(params![name, media_type, self.lease.name()])
        })?;
        Ok(())
    }

    /// The media type of a complete manifest or index. It is held from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn image_media_type(&self, digest: &Digest) -> Result<Option<String>> {
        let name = digest.to_string();
        self.index.change("cannot look an image up", |transaction| {
            let found: Option<String> = transaction
                .prepare_cached("SELECT media_type FROM image WHERE digest = ?")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            if found.is_some() {
                hold_row(transaction, self.lease.name(), "image", name.as_bytes())?;
            }
            Ok(found)
        })
    }

    /// Points a tag at a complete image; an empty platform is for an index.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the store has no such complete image.
    pub fn set_tag(&self, name: &str, platform: &str, digest: &Digest) -> Result<()> {
        let text = digest.to_string();
        self.index.change_with("cannot set a tag", |transaction| {
            let failed = |source| Error::Index { action: "cannot set a tag", source };
            let complete: Option<i64> = transaction
                .prepare_cached("SELECT 1 FROM image WHERE digest = ?")
                .and_then(|mut query| query.query_row([&text], |row| row.get(0)).optional())
                .map_err(failed)?;
            if complete.is_none() {
                return Err(Error::NotFound { what: format!("image `{digest}`") });
            }
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO tag (name, platform, digest, changed) VALUES (?, ?, ?, ?)",
                )
                .and_then(|mut insert| insert.execute(params![name, platform, text, now()]))
                .map_err(failed)?;
            Ok(())
        })
    }

    /// Removes a tag, for all platforms; says whether there was one.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn remove_tag(&self, name: &str) -> Result<bool> {
        let removed = self.index.change("cannot remove a tag", |transaction| {
            transaction.prepare_cached("DELETE FROM tag WHERE name = ?")?.execute([name])
        })?;
        Ok(removed > 0)
    }

    /// All tags, sorted by name and platform.
    ///
    /// # Errors
    ///
    /// [`Error::Index`], or [`Error::DigestSyntax`] when the index is damaged.
    pub fn tags(&self) -> Result<Vec<TagRecord>> {
        self.query_tags("SELECT name, platform, digest, changed FROM tag ORDER BY name, platform", None)
    }

    /// A tag's rows, one per platform, an index first.
    ///
    /// # Errors
    ///
    /// [`Error::Index`], or [`Error::DigestSyntax`] when the index is damaged.
    pub fn tag(&self, name: &str) -> Result<Vec<TagRecord>> {
        let query = "SELECT name, platform, digest, changed FROM tag WHERE name = ? ORDER BY platform";
        self.query_tags(query, Some(name))
    }

    fn query_tags(&self, query: &str, name: Option<&str>) -> Result<Vec<TagRecord>> {
        let rows: Vec<(String, String, String, i64)> =
            self.index.read("cannot read the tags", |connection| {
                let mut statement = connection.prepare_cached(query)?;
                let rows = statement.query_map(rusqlite::params_from_iter(name), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?;
                rows.collect()
            })?;
        rows.into_iter()
            .map(|(name, platform, digest, changed)| {
                Ok(TagRecord { name, platform, digest: digest.parse()?, changed })
            })
            .collect()
    }

    /// Keeps a record for another crate: `kind` names the crate's purpose, `key` and `value` are its own.
    ///
    /// What `keeps` lists is not pruned while the record exists.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn put_record(&self, kind: &str, key: &[u8], value: &[u8], keeps: &[Keep]) -> Result<()> {
        self.index.change("cannot write a record", |transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO record (kind, key, value, used) VALUES (?, ?, ?, ?)")?
                .execute(params![kind, key, value, now()])?;
            transaction
                .prepare_cached("DELETE FROM record_keeps WHERE kind = ? AND key = ?")?
                .execute(params![kind, key])?;
            for keep in keeps {
                let (object, id) = keep.row();
                transaction
                    .prepare_cached(
                        "INSERT OR IGNORE INTO record_keeps (kind, key, object, id) VALUES (?, ?, ?, ?)",
                    )?
                    .execute(params![kind, key, object, id])?;
            }
            Ok(())
        })
    }

    /// Finds a record. What it keeps is held from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn record(&self, kind: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.index.change("cannot read a record", |transaction| {
            let value: Option<Vec<u8>> = transaction
                .prepare_cached("SELECT value FROM record WHERE kind = ? AND key = ?")?
                .query_row(params![kind, key], |row| row.get(0))
                .optional()?;
            if value.is_some() {
                transaction
                    .prepare_cached("UPDATE record SET used = ? WHERE kind = ? AND key = ?")?
                    .execute(params![now(), kind, key])?;
                transaction
                    .prepare_cached(
                        "INSERT OR IGNORE INTO hold (lease, object, id)
                         SELECT ?, object, id FROM record_keeps WHERE kind = ? AND key = ?",
                    )?
                    .execute(params![self.lease.name(), kind, key])?;
            }
            Ok(value)
        })
    }

    /// Removes a record; says whether there was one.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub fn remove_record(&self, kind: &str, key: &[u8]) -> Result<bool> {
        let removed = self.index.change("cannot remove a record", |transaction| {
            transaction
                .prepare_cached("DELETE FROM record_keeps WHERE kind = ? AND key = ?")?
                .execute(params![kind, key])?;
            transaction
                .prepare_cached("DELETE FROM record WHERE kind = ? AND key = ?")?
                .execute(params![kind, key])
        })?;
        Ok(removed > 0)
    }
}

/// Bytes that a store takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Packs.
    pub packs: u64,
    /// The index with its journal.
    pub index: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.blobs + self.packs + self.index
    }
}

impl Store {
    /// Adds up the sizes of the store's files.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a directory cannot be listed.
    pub fn usage(&self) -> Result<Usage> {
        let sum = |directory: &str, keep: &dyn Fn(&str) -> bool| -> Result<u64> {
            let files =
                self.disk.list(directory).map_err(|error| self.disk.failed("list", directory, error))?;
            Ok(files.iter().filter(|(name, _)| keep(name)).map(|(_, metadata)| metadata.len()).sum())
        };
        let all = |_: &str| true;
        Ok(Usage {
            blobs: sum("blobs/sha256", &all)? + sum("blobs/sha512", &all)?,
            packs: sum(super::packs::DIRECTORY, &all)?,
            index: sum("", &|name| name.starts_with(super::index::FILE))?,
        })
    }
}

pub(super) fn decode_tree(bytes: &[u8]) -> Result<Tree> {
    Tree::decode(bytes).map_err(|error| Error::document("tree record", error.to_string()))
}

fn hold_row(transaction: &Transaction<'_>, lease: &str, object: &str, id: &[u8]) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR IGNORE INTO hold (lease, object, id) VALUES (?, ?, ?)")?
        .execute(params![lease, object, id])?;
    Ok(())
}

/// The time for "last used" and "changed", which never reaches an image.
pub(super) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
