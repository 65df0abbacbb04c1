//! Progress of transfers, told to whoever shows it.

use crate::digest::Digest;

/// What is done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transfer {
    /// It comes from a registry, a layout or an archive.
    Pull,
    /// It goes to a registry, a layout or an archive.
    Push,
    /// Its files are packed.
    Ingest,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All bytes were moved.
    Done,
    /// They were there already.
    Present,
    /// The registry took them from another of its repositories.
    Mounted,
}

/// Is told how transfers go, from several threads at once.
pub trait Reporter: Send + Sync {
    /// A transfer of so many bytes starts.
    fn start(&self, transfer: Transfer, blob: &Digest, bytes: u64);
    /// So many bytes are done.
    fn advance(&self, transfer: Transfer, blob: &Digest, done: u64);
    /// A transfer ended well.
    fn finish(&self, transfer: Transfer, blob: &Digest, outcome: Outcome);
    /// Whether to stop; asked often. The transfers then fail with [`crate::Error::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Reporter for Silent {
    fn start(&self, _: Transfer, _: &Digest, _: u64) {}
    fn advance(&self, _: Transfer, _: &Digest, _: u64) {}
    fn finish(&self, _: Transfer, _: &Digest, _: Outcome) {}
}
