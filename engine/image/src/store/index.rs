//! The index: an SQLite database for the store's small records.
//!
//! Packs and the contents in them, directory objects, chain ID -> tree, images, tags, records of other crates, and
//! what running processes hold. Blobs are files with their digest as the name and need no record. Packs end with
//! their own list of contents, so that part can be made again; trees come again from layers.
//!
//! What must hold: every change is one transaction started by [`Index::change`], which takes SQLite's write lock at
//! once, so that no two processes decide on what they read before the other's change. Readers never wait for
//! writers where the file system lets SQLite share memory (WAL); where not, it falls back to a rollback journal.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::write::{Disk, Durability, Write};
use crate::error::{Error, Result};

/// The file's name in the store.
pub(crate) const FILE: &str = "index.sqlite";
/// Version of [`SCHEMA`]; kept in SQLite's `user_version`.
const VERSION: i64 = 1;
/// How long to wait for other processes' transactions, which are short.
const BUSY: Duration = Duration::from_secs(60);
/// Prepared statements that are kept.
const STATEMENTS: usize = 64;

const SCHEMA: &str = "
CREATE TABLE pack (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, lease TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE content (id BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (id, pack)) WITHOUT ROWID;
CREATE INDEX content_pack ON content (pack);
CREATE TABLE directory (id BLOB PRIMARY KEY, object BLOB NOT NULL, lease TEXT NOT NULL);
CREATE TABLE chain (id TEXT PRIMARY KEY, tree BLOB NOT NULL, lease TEXT NOT NULL);
CREATE TABLE image (digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, lease TEXT NOT NULL);
CREATE TABLE tag (name TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, changed INTEGER NOT NULL,
    PRIMARY KEY (name, platform)) WITHOUT ROWID;
CREATE TABLE record (kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (kind, key));
CREATE TABLE record_keeps (kind TEXT NOT NULL, key BLOB NOT NULL, object TEXT NOT NULL, id BLOB NOT NULL,
    PRIMARY KEY (kind, key, object, id)) WITHOUT ROWID;
CREATE TABLE hold (lease TEXT NOT NULL, object TEXT NOT NULL, id BLOB NOT NULL,
    PRIMARY KEY (lease, object, id)) WITHOUT ROWID;
";

/// Whether the index was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// It was.
    Before,
    /// It is new, so the packs that are there have to be recorded again.
    Now,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Index {
    disk: Disk,
    connection: Mutex<Connection>,
}

impl Index {
    /// Opens the index, or makes one. A damaged one is put aside first. Says whether it is new.
    pub(crate) fn open(disk: &Disk) -> Result<(Self, Made)> {
        match Self::open_file(disk) {
            Err(Error::Index { source: rusqlite::Error::SqliteFailure(cause, _), .. })
                if matches!(cause.code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) =>
            {
                tracing::warn!(store = %disk.root().display(), "the index is damaged; a new one is made");
                disk.set_aside(FILE).map_err(|error| disk.failed("put aside", FILE, error))?;
                Self::open_file(disk)
            }
            result => result,
        }
    }

    fn open_file(disk: &Disk) -> Result<(Self, Made)> {
        let failed = |source| Error::Index { action: "cannot open the store's index", source };
        disk.permit(Write::Create).map_err(|error| disk.failed("open", FILE, error))?;
        let connection = Connection::open(disk.path(FILE)).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let synchronous = match disk.durability() {
            Durability::Process => "OFF",
            Durability::Power => "FULL",
        };
        connection.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
        let index = Self { disk: disk.clone(), connection: Mutex::new(connection) };
        let made = index.prepare()?;
        Ok((index, made))
    }

    fn prepare(&self) -> Result<Made> {
        let version =
            |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get(0));
        let current: i64 = self.read("cannot read the store's index", version)?;
        match current {
            VERSION => Ok(Made::Before),
            0 => self.create().map(|()| Made::Now),
            other => Err(Error::Store {
                path: self.disk.root().display().to_string(),
                reason: format!("its index has version {other}, this program knows version {VERSION}"),
            }),
        }
    }

    fn create(&self) -> Result<()> {
        let action = "cannot create the store's index";
        // Not a write of data, and where shared memory is not to be had SQLite answers with the mode it keeps.
        let mode = self.read(action, |connection| {
            connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0))
        });
        match mode {
            Ok(mode) => tracing::debug!(mode, "the index's journal"),
            // Another process is making the same index at this moment.
            Err(Error::Index { source: rusqlite::Error::SqliteFailure(cause, _), .. })
                if cause.code == ErrorCode::DatabaseBusy => {}
            Err(error) => return Err(error),
        }
        self.change(action, |transaction| {
            // Another process may have been faster.
            let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if version == 0 {
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            Ok(())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked in a transaction rolled it back; the connection is as good as before.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, without a transaction.
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        query(&self.lock()).map_err(|source| Error::Index { action, source })
    }

    /// Changes records in one transaction that has the write lock from its beginning.
    pub(crate) fn change<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.change_with(action, |transaction| {
            body(transaction).map_err(|source| Error::Index { action, source })
        })
    }

    /// As [`Index::change`], for a body with other ways to fail.
    pub(crate) fn change_with<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let failed = |source| Error::Index { action, source };
        let gate = |write| self.disk.permit(write).map_err(|error| Error::io(action, error));
        gate(Write::Transaction)?;
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let value = body(&transaction)?;
        gate(Write::Commit)?;
        transaction.commit().map_err(failed)?;
        Ok(value)
    }
}
