//! Digests of blobs: the names that OCI gives to bytes.
//!
//! A [`Digest`] is an algorithm and that many bytes, parsed strictly (OCI image spec 1.1, descriptor.md), so that
//! a digest can be used in a file name or a URL without a second thought. A [`Hasher`] makes one from bytes as they
//! pass; [`Verifier`] and [`VerifyingReader`] compare bytes with a digest and a size that somebody promised, the
//! size first, so a blob that never ends is refused at its promised size.
//!
//! What must hold: nobody outside this module looks at a digest's text to learn its algorithm, and everything that
//! comes from a registry, a layout or an archive goes through a verifier before it gets a name.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::{Error, Result};

/// A registered digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what everybody writes.
    Sha256,
    /// SHA-512, which is read and kept.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the digest, in bytes.
    pub fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// The digest of a blob, a diff ID or a chain ID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    /// The digest, zero filled when it is shorter.
    bytes: [u8; 64],
}

impl Digest {
    /// Computes the SHA-256 digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest's own bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.length()]
    }

    /// The digits after the colon.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(self.algorithm.length() * 2);
        for byte in self.bytes() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Self { algorithm, bytes }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason| Error::DigestSyntax { input: crate::error::printable(text.as_bytes()), reason };
        let (name, digits) = text.split_once(':').ok_or_else(|| wrong("expected algorithm:hex"))?;
        let algorithm = *Algorithm::ALL
            .iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| wrong("the algorithm must be sha256 or sha512"))?;
        if digits.len() != algorithm.length() * 2 {
            return Err(wrong("wrong number of digits"));
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(wrong("the digits must be lower-case hexadecimal"));
            };
            *byte = high << 4 | low;
        }
        Ok(Self { algorithm, bytes })
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a digest of bytes as they pass.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Starts with no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(sha2::Sha512::new())),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::from_raw(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => Digest::from_raw(Algorithm::Sha512, &state.finalize()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// Bytes that are given to a hashing thread at a time.
const BLOCK: usize = 256 << 10;
/// Blocks that may wait for a hashing thread.
const WAITING: usize = 8;

/// Computes the SHA-256 digest of bytes on a thread of its own, while the caller does other things with them. The thread
/// starts with the first full block, so that small things cost none.
#[derive(Debug)]
pub struct BackgroundHasher {
    filling: Vec<u8>,
    own: Hasher,
    thread: Option<HashingThread>,
}

#[derive(Debug)]
struct HashingThread {
    blocks: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
    handle: JoinHandle<Hasher>,
}

impl BackgroundHasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self { filling: Vec::new(), own: Hasher::new(Algorithm::Sha256), thread: None }
    }

    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// When the thread is lost.
    pub fn update(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(BLOCK - self.filling.len());
            self.filling.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.filling.len() == BLOCK {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.thread.is_none() {
            self.thread = HashingThread::start(&self.own);
        }
        let Some(thread) = &self.thread else {
            // A pod may allow no more threads.
            self.own.update(&self.filling);
            self.filling.clear();
            return Ok(());
        };
        let mut next = thread.used.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK));
        next.clear();
        let block = std::mem::replace(&mut self.filling, next);
        thread.blocks.send(block).map_err(|_| io::Error::other("the hashing thread ended early"))
    }

    /// The digest of everything added.
    ///
    /// # Errors
    ///
    /// When the thread is lost.
    pub fn finish(self) -> io::Result<Digest> {
        let mut hasher = match self.thread {
            None => self.own,
            Some(HashingThread { blocks, handle, .. }) => {
                drop(blocks);
                handle.join().map_err(|_| io::Error::other("the hashing thread ended early"))?
            }
        };
        hasher.update(&self.filling);
        Ok(hasher.finish())
    }
}

impl Default for BackgroundHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl HashingThread {
    fn start(hasher: &Hasher) -> Option<Self> {
        let (blocks, queue) = sync_channel::<Vec<u8>>(WAITING);
        let (done, used) = sync_channel(WAITING);
        let mut hasher = hasher.clone();
        let work = move || {
            for block in queue {
                hasher.update(&block);
                // The way back may be full; then the block is dropped.
                let _ = done.try_send(block);
            }
            hasher
        };
        let handle = std::thread::Builder::new().name("digest".to_owned()).spawn(work).ok()?;
        Some(Self { blocks, used, handle })
    }
}

/// Compares bytes, as they pass, with a promised digest and size.
#[derive(Debug)]
pub struct Verifier {
    what: String,
    expected: Digest,
    size: Option<u64>,
    seen: u64,
    hasher: Hasher,
}

impl Verifier {
    /// Expects `expected`, and `size` bytes when that is known. `what` names the bytes in errors.
    pub fn new(what: impl Into<String>, expected: Digest, size: Option<u64>) -> Self {
        Self { what: what.into(), expected, size, seen: 0, hasher: Hasher::new(expected.algorithm()) }
    }

    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`] as soon as there are more bytes than promised.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen += bytes.len() as u64;
        if let Some(size) = self.size
            && self.seen > size
        {
            return Err(self.wrong_size(size, "more".to_owned()));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Ends, and gives the count of bytes.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`], then [`Error::DigestMismatch`].
    pub fn finish(self) -> Result<u64> {
        if let Some(size) = self.size
            && self.seen != size
        {
            return Err(self.wrong_size(size, self.seen.to_string()));
        }
        let found = self.hasher.finish();
        if found != self.expected {
            return Err(Error::wrong_digest(self.what, self.expected, found));
        }
        Ok(self.seen)
    }

    fn wrong_size(&self, expected: u64, found: String) -> Error {
        Error::SizeMismatch { what: self.what.clone(), expected, found }
    }
}

/// A reader whose end is an error unless all bytes were the promised ones.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
    verifier: Option<Verifier>,
}

impl<R: Read> VerifyingReader<R> {
    /// Reads `inner` through `verifier`.
    pub fn new(inner: R, verifier: Verifier) -> Self {
        Self { inner, verifier: Some(verifier) }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            if let Some(verifier) = self.verifier.take() {
                verifier.finish().map_err(Error::into_io)?;
            }
        } else if let Some(verifier) = &mut self.verifier {
            verifier.update(&buffer[..count]).map_err(Error::into_io)?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_same_whoever_computes_it() {
        for length in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut hasher = BackgroundHasher::new();
            bytes.chunks(1000).for_each(|chunk| hasher.update(chunk).unwrap());
            assert_eq!(hasher.finish().unwrap(), Digest::of(&bytes), "{length}");
        }
    }

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests_are_the_published_ones() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"abc");
        let digest = hasher.finish();
        assert!(digest.to_string().starts_with("sha512:ddaf35a193617abacc417349ae204131"));
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn only_the_strict_form_parses() {
        let check = |text: &str, reason: &str| {
            let error = text.parse::<Digest>().expect_err(text).to_string();
            assert!(error.ends_with(reason), "{error}");
        };
        check("ba78", "expected algorithm:hex");
        check("md5:00", "must be sha256 or sha512");
        check("sha256:00", "wrong number of digits");
        check(&ABC.to_uppercase().replace("SHA", "sha"), "lower-case hexadecimal");
        check(&ABC.replace("ba78", "../7"), "lower-case hexadecimal");
    }

    #[test]
    fn a_reader_ends_in_an_error_unless_all_was_right() {
        let check = |size: Option<u64>, bytes: &[u8], expected: Result<u64, &str>| {
            let verifier = Verifier::new("blob", ABC.parse().unwrap(), size);
            let mut out = Vec::new();
            let read = VerifyingReader::new(bytes, verifier).read_to_end(&mut out);
            match expected {
                Ok(count) => assert_eq!(read.unwrap() as u64, count),
                Err(text) => assert!(read.unwrap_err().to_string().contains(text)),
            }
        };
        check(Some(3), b"abc", Ok(3));
        check(None, b"abc", Ok(3));
        check(Some(3), b"abcd", Err("wrong size: expected 3 bytes, found more"));
        check(Some(3), b"ab", Err("wrong size: expected 3 bytes, found 2"));
        check(Some(3), b"abd", Err("wrong digest"));
    }
}
