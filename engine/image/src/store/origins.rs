//! Where blobs came from: repositories that have them.
//!
//! A note is a hint and nothing more: a push may mount the blob from there, and one that is not in the store may be
//! fetched from there, which verifies it. Notes are records, so they go with those that were not used for long.

use rusqlite::{OptionalExtension, params};

use super::Store;
use super::records::now;
use crate::digest::Digest;
use crate::error::Result;

/// Record kind of the notes.
const ORIGIN: &str = "origin";
/// Repositories that are noted for one blob; the latest are kept.
const ORIGINS: usize = 8;

impl Store {
    /// Notes that a repository (`registry/repository`) has these blobs.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Index`].
    pub fn note_origin<'d>(
        &self,
        blobs: impl IntoIterator<Item = &'d Digest>,
        repository: &str,
    ) -> Result<()> {
        let blobs: Vec<String> = blobs.into_iter().map(Digest::to_string).collect();
        self.index.change("cannot note where blobs are", |transaction| {
            for blob in &blobs {
                let known: Option<Vec<u8>> = transaction
                    .prepare_cached("SELECT value FROM record WHERE kind = ? AND key = ?")?
                    .query_row(params![ORIGIN, blob.as_bytes()], |row| row.get(0))
                    .optional()?;
                let known = String::from_utf8(known.unwrap_or_default()).unwrap_or_default();
                let others = known.lines().filter(|other| *other != repository).take(ORIGINS - 1);
                let value = [repository].into_iter().chain(others).collect::<Vec<_>>().join("\n");
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO record (kind, key, value, used) VALUES (?, ?, ?, ?)",
                    )?
                    .execute(params![ORIGIN, blob.as_bytes(), value.as_bytes(), now()])?;
            }
            Ok(())
        })
    }

    /// The repositories (`registry/repository`) that are known to have had a blob, the latest first.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Index`].
    pub fn origins(&self, blob: &Digest) -> Result<Vec<String>> {
        let key = blob.to_string().into_bytes();
        let value: Option<Vec<u8>> = self.index.read("cannot look up where a blob is", |connection| {
            connection
                .prepare_cached("SELECT value FROM record WHERE kind = ? AND key = ?")?
                .query_row(params![ORIGIN, key], |row| row.get(0))
                .optional()
        })?;
        let text = String::from_utf8(value.unwrap_or_default()).unwrap_or_default();
        Ok(text.lines().map(str::to_owned).collect())
    }
}
