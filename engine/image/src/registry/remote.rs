//! An image in a registry, as a source for the store.
//!
//! A [`Remote`] asks the places where an image may be, in order: mirrors first, the registry itself last. A place
//! that fails is passed over, but a tag is resolved only by those that may. A blob goes on from where its connection
//! broke, and every body has a bound; digests are checked by the store, those of documents here, too.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Response, StatusCode, Url};

use super::http::{Host, describe, explain, limited};
use super::{Client, about, header};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::Source;
use crate::manifest::{Descriptor, Document, MANIFEST_BYTES, media_type};
use crate::store::lock;

/// The header with the digest of a manifest (distribution spec 1.1, pulling manifests).
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";
/// What the projects of registries are called that are proxies of others (Harbor's and GitLab's documentation).
const PROXY_WORDS: [&str; 5] = ["proxy", "cache", "mirror", "dependency", "dockerhub"];
/// Times that a blob's download goes on where it broke off.
const RESUMES: u32 = 5;

/// A repository that may have the image.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) host: Arc<Host>,
    pub(crate) repository: String,
    /// The registry that a mirror answers for, for its `ns` parameter.
    pub(crate) namespace: Option<String>,
    /// Whether it may say what a tag means.
    pub(crate) resolves: bool,
}

impl Place {
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        let mut url = self.host.url(&format!("{}/{path}", self.repository))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    fn scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    /// Whether the repository's name says that it passes on what another registry has.
    fn is_proxy(&self) -> bool {
        let project = self.repository.split('/').next().unwrap_or_default();
        PROXY_WORDS.iter().any(|word| project.contains(word)) && self.repository.contains('/')
    }
}

/// An image or index in a registry.
#[derive(Debug)]
pub struct Remote<'c> {
    pub(super) client: &'c Client,
    /// Mirrors, then the registry itself.
    pub(super) places: Vec<Place>,
    pub(super) name: String,
    pub(super) shown: String,
    pub(super) root: Descriptor,
    /// Documents that were fetched already: a manifest is asked for once, since registries count that.
    pub(super) documents: Mutex<HashMap<Digest, Vec<u8>>>,
}

impl Remote<'_> {
    /// The manifest or index that the reference names now.
    pub fn root(&self) -> &Descriptor {
        &self.root
    }

    /// Does something with the first place that can; the failure of the last one is the answer.
    async fn first<'p, T, F: Future<Output = Result<T>>>(
        &'p self,
        may: impl Fn(&Place) -> bool,
        work: impl Fn(&'p Place) -> F,
    ) -> Result<T> {
        let mut result = Err(Error::NotFound { what: format!("image `{}`", self.shown) });
        for place in self.places.iter().filter(|place| may(place)) {
            if let Err(error) = &result
                && !matches!(error, Error::NotFound { .. })
            {
                tracing::warn!(%error, "a mirror failed; the next place is asked");
            }
            result = work(place).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    pub(super) async fn fetch_document(
        &self,
        name: &str,
        expected: Option<&Digest>,
    ) -> Result<(Descriptor, Vec<u8>)> {
        self.first(
            |place| place.resolves || expected.is_some(),
            |place| self.document_at(place, name, expected),
        )
        .await
    }

    async fn document_at(
        &self,
        place: &Place,
        name: &str,
        expected: Option<&Digest>,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let url = place.url(&format!("manifests/{name}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header(&media_type::ACCEPTED.join(", "))?);
        let pulling = |error| about(error, "cannot pull", &self.shown);
        let ask =
            || async { place.host.get_following(&url, &place.scope(), &headers).await.map_err(pulling) };
        let mut response = ask().await?;
        let is_proxy = place.is_proxy();
        if response.status() == StatusCode::NOT_FOUND && is_proxy {
            // One whose own registry was busy says that there is nothing, and the next time that there is.
            if let Some(wait) = place.host.retry.wait(1, None) {
                tokio::time::sleep(wait).await;
            }
            response = ask().await?;
        }
        if response.status() == StatusCode::NOT_FOUND {
            let hint =
                if is_proxy { " (a proxy says so, too, while its own registry refuses it)" } else { "" };
            return Err(Error::NotFound { what: format!("image `{}`{hint}", self.shown) });
        }
        let response = self.successful(response).await?;
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let promised = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        // What is no digest says nothing; old registries leave it out.
        let promised = promised.and_then(|text| text.parse::<Digest>().ok());
        let bytes =
            limited(response, MANIFEST_BYTES as usize).await.map_err(|reason| self.failed(None, reason))?;
        let digest = match expected {
            Some(expected) => promised_digest(&self.shown, *expected, &bytes)?,
            None => match promised {
                // The registry's own word for what a tag means: a body that was changed on the way is found out.
                Some(promised) => promised_digest(&self.shown, promised, &bytes)?,
                None => Digest::of(&bytes),
            },
        };
        let known = media_type::is_index(&kind) || media_type::is_manifest(&kind);
        let served_as = match (known, Document::parse(&bytes, &kind)?) {
            (true, _) => kind,
            (false, Document::Manifest(_)) => media_type::MANIFEST.to_owned(),
            (false, Document::Index(_)) => media_type::INDEX.to_owned(),
        };
        Ok((Descriptor::new(&served_as, digest, bytes.len() as u64), bytes))
    }

    async fn successful(&self, response: Response) -> Result<Response> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        Err(self.failed(Some(status), explain(response).await))
    }

    fn failed(&self, status: Option<u16>, message: String) -> Error {
        Error::Registry { operation: format!("cannot pull `{}`", self.shown), status, message }
    }

    async fn open_blob(&self, digest: &Digest, from: u64) -> Result<Response> {
        self.first(|_| true, |place| self.blob_at(place, digest, from)).await
    }

    async fn blob_at(&self, place: &Place, digest: &Digest, from: u64) -> Result<Response> {
        self.part_at(place, digest, (from > 0).then(|| format!("bytes={from}-"))).await
    }

    async fn part_at(&self, place: &Place, digest: &Digest, range: Option<String>) -> Result<Response> {
        let url = place.url(&format!("blobs/{digest}"))?;
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            headers.insert(RANGE, header(&range)?);
        }
        let pulling = |error| about(error, "cannot pull", &self.shown);
        let response = place.host.get_following(&url, &place.scope(), &headers).await.map_err(pulling)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Error::NotFound { what: format!("blob `{digest}` of `{}`", self.shown) });
        }
        self.successful(response).await
    }
}

impl<'c> Remote<'c> {
    /// Reads a range of a blob; none when the registry sends no ranges. Its bytes are not verified.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Registry`] and [`Error::Auth`].
    pub fn range(&self, digest: &Digest, range: std::ops::Range<u64>) -> Result<Option<RangeReader<'c>>> {
        if range.is_empty() {
            return Ok(None);
        }
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let parts = self.first(|_| true, |place| self.part_at(place, digest, Some(asked.clone())));
        let response = self.client.runtime.block_on(parts)?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let (client, left) = (self.client, range.end - range.start);
        Ok(partial.then(|| RangeReader { client, response, chunk: Vec::new(), used: 0, left }))
    }
}

/// Reads a part of a blob as it arrives.
#[derive(Debug)]
pub struct RangeReader<'c> {
    client: &'c Client,
    response: Response,
    chunk: Vec<u8>,
    used: usize,
    /// Bytes that may still come.
    left: u64,
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() {
            let next = self.client.runtime.block_on(self.response.chunk());
            match next.map_err(|error| io::Error::other(describe(&error)))? {
                None => return Ok(0),
                Some(bytes) => {
                    let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                    self.left -= count as u64;
                    self.chunk.clear();
                    self.chunk.extend_from_slice(&bytes[..count]);
                    self.used = 0;
                    if count == 0 {
                        return Ok(0);
                    }
                }
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.used);
        buffer[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

impl Source for Remote<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Some(bytes) = lock(&self.documents).get(&descriptor.digest) {
            return Ok(bytes.clone());
        }
        let name = descriptor.digest.to_string();
        let (_, bytes) =
            self.client.runtime.block_on(self.fetch_document(&name, Some(&descriptor.digest)))?;
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        let response = self.client.runtime.block_on(self.open_blob(&descriptor.digest, 0))?;
        Ok(Box::new(BlobReader {
            remote: self,
            digest: descriptor.digest,
            size: descriptor.size,
            response: Some(response),
            chunk: Vec::new(),
            used: 0,
            received: 0,
            resumes: 0,
        }))
    }

    fn origin(&self) -> Option<String> {
        Some(self.name.clone())
    }
}

/// Checks a manifest's bytes against a digest, in that one's algorithm.
fn promised_digest(shown: &str, promised: Digest, bytes: &[u8]) -> Result<Digest> {
    let mut hasher = crate::digest::Hasher::new(promised.algorithm());
    hasher.update(bytes);
    match hasher.finish() {
        found if found == promised => Ok(found),
        found => Err(Error::wrong_digest(format!("manifest of `{shown}`"), promised, found)),
    }
}

/// Reads a blob as it arrives, and asks for the rest when the connection breaks.
struct BlobReader<'r> {
    remote: &'r Remote<'r>,
    digest: Digest,
    size: u64,
    response: Option<Response>,
    chunk: Vec<u8>,
    used: usize,
    received: u64,
    resumes: u32,
}

impl BlobReader<'_> {
    /// Gets the next bytes; false at the end.
    fn refill(&mut self) -> Result<bool> {
        loop {
            let Some(response) = &mut self.response else { return Ok(false) };
            let next = self.remote.client.runtime.block_on(response.chunk());
            match next {
                Ok(Some(bytes)) => {
                    self.received += bytes.len() as u64;
                    self.chunk.clear();
                    self.chunk.extend_from_slice(&bytes);
                    self.used = 0;
                    return Ok(true);
                }
                Ok(None) if self.received >= self.size || self.resumes >= RESUMES => {
                    self.response = None;
                    return Ok(false);
                }
                Err(error) if self.resumes >= RESUMES => {
                    return Err(self.remote.failed(None, describe(&error)));
                }
                Ok(None) | Err(_) => self.resume()?,
            }
        }
    }

    /// Goes on where the connection broke; a registry that does not know ranges sends the beginning again.
    fn resume(&mut self) -> Result<()> {
        self.resumes += 1;
        let response =
            self.remote.client.runtime.block_on(self.remote.open_blob(&self.digest, self.received))?;
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { self.received };
        let mut response = response;
        while skip > 0 {
            let chunk = self.remote.client.runtime.block_on(response.chunk());
            let chunk = chunk.map_err(|error| self.remote.failed(None, describe(&error)))?;
            let Some(bytes) = chunk else { break };
            let count = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= count as u64;
            if count < bytes.len() {
                self.received += (bytes.len() - count) as u64;
                self.chunk = bytes[count..].to_vec();
                self.used = 0;
                self.response = Some(response);
                return Ok(());
            }
        }
        self.response = Some(response);
        Ok(())
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() {
            if !self.refill().map_err(Error::into_io)? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.used);
        buffer[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}
