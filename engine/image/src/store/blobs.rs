//! Blobs: manifests, configs and layers as they were pulled or made, in files named by their digest.
//!
//! What must hold: a blob has its name only after its digest and size were checked, and a process that relies on a
//! blob holds it first, so that no other process prunes it in between.

use std::fs::File;
use std::io::{self, Read, Write};

use super::Store;
use crate::digest::{Algorithm, Digest, Hasher, Verifier, VerifyingReader};
use crate::error::{Error, Result};

/// Directory of the blobs.
pub(crate) const DIRECTORY: &str = "blobs";
/// Bytes that are collected before they are written.
const BUFFER: usize = 256 << 10;

pub(crate) fn path(digest: &Digest) -> String {
    format!("{DIRECTORY}/{}/{}", digest.algorithm().name(), digest.hex())
}

/// A blob on its way into the store.
#[derive(Debug)]
pub struct BlobWriter<'s> {
    store: &'s Store,
    file: File,
    path: String,
    buffer: Vec<u8>,
    written: u64,
    check: Check,
    published: bool,
}

#[derive(Debug)]
enum Check {
    Promised(Box<Verifier>, Digest),
    Unknown(Box<Hasher>),
    /// Whoever writes it computes the digest.
    Elsewhere,
}

impl BlobWriter<'_> {
    fn flush_buffer(&mut self) -> io::Result<()> {
        self.store.disk.write_at(&self.file, &self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Checks the blob and gives it its name.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`] or [`Error::DigestMismatch`] when it is not the promised one, [`Error::Io`].
    pub fn finish(mut self) -> Result<(Digest, u64)> {
        let digest = match std::mem::replace(&mut self.check, Check::Elsewhere) {
            Check::Promised(verifier, digest) => verifier.finish().map(|_| digest)?,
            Check::Unknown(hasher) => hasher.finish(),
            Check::Elsewhere => return Err(Error::layer("a blob without a digest")),
        };
        self.finish_as(digest)
    }

    /// Gives the blob the name that whoever wrote it has computed.
    pub(crate) fn finish_as(mut self, digest: Digest) -> Result<(Digest, u64)> {
        let failed = |error| Error::io("cannot write a blob", error);
        self.flush_buffer().map_err(failed)?;
        self.store.hold_blob(&digest)?;
        self.store.disk.publish(&self.file, &self.path, &path(&digest)).map_err(failed)?;
        self.published = true;
        Ok((digest, self.written))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.check {
            Check::Promised(verifier, _) => verifier.update(bytes).map_err(Error::into_io)?,
            Check::Unknown(hasher) => hasher.update(bytes),
            Check::Elsewhere => {}
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush_buffer()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now goes with the lease.
            let _ = self.store.disk.remove(&self.path);
        }
    }
}

impl Store {
    /// Starts a blob that somebody promised: its digest, and its size in bytes when that is known.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the store's disk does not take a new file.
    pub fn blob_writer(&self, digest: &Digest, size: Option<u64>) -> Result<BlobWriter<'_>> {
        let verifier = Verifier::new(format!("blob `{digest}`"), *digest, size);
        self.start_blob(Check::Promised(Box::new(verifier), *digest))
    }

    /// Starts a blob whose digest will be known when it is complete.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the store's disk does not take a new file.
    pub fn new_blob(&self) -> Result<BlobWriter<'_>> {
        self.start_blob(Check::Unknown(Box::new(Hasher::new(Algorithm::Sha256))))
    }

    /// Starts a blob of our own making, whose digest is computed on the way to it.
    pub(crate) fn new_hashed_blob(&self) -> Result<BlobWriter<'_>> {
        self.start_blob(Check::Elsewhere)
    }

    fn start_blob(&self, check: Check) -> Result<BlobWriter<'_>> {
        let path = self.lease.new_path();
        let file = self.disk.create(&path).map_err(|error| self.disk.failed("create", &path, error))?;
        Ok(BlobWriter { store: self, file, path, buffer: Vec::new(), written: 0, check, published: false })
    }

    /// Keeps bytes in memory as a blob.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the store's disk does not take them.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.has_blob(&digest, Some(bytes.len() as u64))? {
            return Ok(digest);
        }
        let mut writer = self.blob_writer(&digest, Some(bytes.len() as u64))?;
        writer.write_all(bytes).map_err(|error| Error::io("cannot write a blob", error))?;
        writer.finish().map(|(digest, _)| digest)
    }

    /// Whether a blob is here, and of this size. It is held from now on.
    ///
    /// # Errors
    ///
    /// When the hold cannot be recorded.
    pub fn has_blob(&self, digest: &Digest, size: Option<u64>) -> Result<bool> {
        if !self.disk.exists(&path(digest)) {
            return Ok(false);
        }
        // First the hold, then the look: a prune in between has removed it or will not.
        self.hold_blob(digest)?;
        Ok(self.disk.size(&path(digest)).is_ok_and(|found| size.is_none_or(|size| size == found)))
    }

    /// Opens a blob as it lies in the store; nothing is checked again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or [`Error::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        self.disk.open(&path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound { what: format!("blob `{digest}`") },
            _ => self.disk.failed("open", &path(digest), error),
        })
    }

    /// Opens a blob with a reader that checks digest and size again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or [`Error::Io`].
    pub fn read_blob(&self, digest: &Digest, size: Option<u64>) -> Result<VerifyingReader<File>> {
        let file = self.open_blob(digest)?;
        Ok(VerifyingReader::new(file, Verifier::new(format!("blob `{digest}`"), *digest, size)))
    }

    /// Reads a blob of at most `limit` bytes into memory, checking it again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::DigestMismatch`], [`Error::Limit`] or [`Error::Io`].
    pub fn blob_bytes(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let size = self.disk.size(&path(digest)).unwrap_or(0);
        if size > limit {
            return Err(Error::Limit { what: format!("blob `{digest}`"), name: "a document's size", limit });
        }
        let mut reader = self.read_blob(digest, Some(size))?;
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("cannot read blob `{digest}`"), error))?;
        Ok(bytes)
    }

    pub(crate) fn hold_blob(&self, digest: &Digest) -> Result<()> {
        self.hold("blob", digest.to_string().as_bytes())
    }
}
