//! Pushing what the store has, blobs first, the reference's tag last.
//!
//! A blob that is there is not sent, one that another repository of the registry has is mounted, and the rest is
//! uploaded in one of three [`Way`]s. A push starts with the best one; a registry that does not take it is given the
//! next one, and remembered as such. An upload that breaks off is started anew, since registries lose sessions, and one
//! in chunks goes on from where the registry says that it is.
//!
//! What must hold: a document is put after everything that it speaks of; the bytes of a blob are those of the store's
//! file, and memory does not grow with them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::http::{Host, explain};
use super::retry::is_busy;
use super::{Client, about, header, referrers, remote::CONTENT_DIGEST};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::in_parallel;
use crate::manifest::{Descriptor, MANIFEST_BYTES, media_type};
use crate::progress::{Outcome, Reporter, Transfer};
use crate::reference::Reference;
use crate::store::{Store, lock};

/// Bytes of an upload that are read at a time.
const READ: u64 = 256 << 10;
/// How often an upload's progress is looked at.
const TICK: std::time::Duration = std::time::Duration::from_millis(100);
/// Bytes of a chunk, when the registry does not want more: one registry takes no more than this at once.
const CHUNK: u64 = 4 << 20;
/// The largest chunk that a registry may want, in bytes.
const LARGEST_CHUNK: u64 = 1 << 30;
/// Times that an upload in chunks may ask where it is.
const RESUMES: u32 = 5;
/// Repositories that are asked for a mount of one blob.
const MOUNTS: usize = 3;
/// The header with the smallest chunk that a registry takes (distribution spec 1.1).
const CHUNK_MIN: &str = "oci-chunk-min-length";

/// How the bytes of a blob are sent (distribution spec 1.1, pushing blobs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// `PUT` of everything.
    Whole,
    /// `PATCH` of everything, as Docker does, then an empty `PUT`.
    Streamed,
    /// `PATCH` with `Content-Range`, several times.
    Chunked,
}

impl Way {
    /// The way to try when a registry answers this; `repeated` says that it answered the same to another session.
    fn after(self, status: u16, repeated: bool) -> Option<Self> {
        let wrong_way = matches!(status, 405 | 413 | 415 | 416 | 501) || (status == 404 && repeated);
        match self {
            Self::Whole if wrong_way && status == 413 => Some(Self::Chunked),
            Self::Whole if wrong_way => Some(Self::Streamed),
            Self::Streamed if wrong_way => Some(Self::Chunked),
            _ => None,
        }
    }
}

/// One push on its way.
pub(super) struct Push<'p> {
    pub(super) client: &'p Client,
    pub(super) host: Arc<Host>,
    pub(super) reference: &'p Reference,
    pub(super) store: &'p Store,
    pub(super) reporter: &'p dyn Reporter,
}

/// Where a blob's upload stands after the first request.
enum Started {
    Mounted,
    At(Session),
}

struct Session {
    url: Url,
    /// The smallest chunk that the registry takes, in bytes.
    least: u64,
}

impl Push<'_> {
    /// Pushes everything.
    pub(super) fn run(&self, root: &Descriptor) -> Result<()> {
        let shown = self.reference.to_string();
        let pushing = |error| about(error, "cannot push", &shown);
        let all = self.store.blobs_of(root)?;
        let is_document = |blob: &&Descriptor| {
            media_type::is_index(&blob.media_type)
                || media_type::is_manifest(&blob.media_type)
                || blob.digest == root.digest
        };
        let blobs: Vec<&Descriptor> = all.iter().filter(|blob| !is_document(blob)).collect();
        in_parallel(&blobs, |blob| self.blob(blob).map_err(pushing))?;
        let documents: Vec<&Descriptor> = all.iter().filter(is_document).collect();
        for document in &documents {
            self.subject_first(document).map_err(pushing)?;
        }
        for document in documents {
            let name = match self.reference.tag() {
                Some(tag) if document.digest == root.digest => tag.to_owned(),
                _ => document.digest.to_string(),
            };
            self.document(document, &name).map_err(pushing)?;
            referrers::attach(self, document).map_err(pushing)?;
        }
        self.store.note_origin(blobs.iter().map(|blob| &blob.digest), &self.reference.name())
    }

    /// Pushes the subject of a manifest before it, when the registry lacks it and the store has it.
    fn subject_first(&self, document: &Descriptor) -> Result<()> {
        let Some((subject, _)) = referrers::subject_of(self.store, document)? else { return Ok(()) };
        let name = subject.digest.to_string();
        let url = self.host.url(&format!("{}/manifests/{name}", self.repository()))?;
        if self.names_already(&subject, &url) || !self.store.has_blob(&subject.digest, Some(subject.size))? {
            // A subject that nobody has may come later (distribution spec 1.1, pushing manifests with subject).
            return Ok(());
        }
        let all = self.store.blobs_of(&subject)?;
        let documents = |blob: &&Descriptor| {
            media_type::is_index(&blob.media_type) || media_type::is_manifest(&blob.media_type)
        };
        let blobs: Vec<&Descriptor> = all.iter().filter(|blob| !documents(blob)).collect();
        in_parallel(&blobs, |blob| self.blob(blob))?;
        all.iter()
            .filter(documents)
            .try_for_each(|document| self.document(document, &document.digest.to_string()))
    }

    pub(super) fn repository(&self) -> &str {
        self.reference.repository()
    }

    pub(super) fn scope(&self) -> String {
        format!("repository:{}:pull,push", self.repository())
    }

    pub(super) fn failed(&self, status: Option<u16>, message: String) -> Error {
        Error::Registry { operation: format!("cannot push to `{}`", self.repository()), status, message }
    }

    pub(super) async fn unexpected(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        self.failed(Some(status), explain(response).await)
    }

    fn blob(&self, blob: &Descriptor) -> Result<()> {
        if self.reporter.cancelled() {
            return Err(Error::Cancelled);
        }
        self.reporter.start(Transfer::Push, &blob.digest, blob.size);
        let outcome = self.send_blob(blob)?;
        self.reporter.finish(Transfer::Push, &blob.digest, outcome);
        Ok(())
    }

    fn send_blob(&self, blob: &Descriptor) -> Result<Outcome> {
        let runtime = &self.client.runtime;
        if runtime.block_on(self.has(blob))? {
            return Ok(Outcome::Present);
        }
        let here = self.store.has_blob(&blob.digest, Some(blob.size))?;
        let mut session = match self.mount(blob, if here { 1 } else { MOUNTS })? {
            Some(Started::Mounted) => return Ok(Outcome::Mounted),
            Some(Started::At(session)) => Some(session),
            None => None,
        };
        if !here {
            self.client.fetch_missing(self.store, blob, self.reporter)?;
        }
        let mut attempt = 1;
        let mut last_status = None;
        loop {
            let way = *lock(&self.host.way);
            let result = match session.take() {
                Some(session) => Ok(session),
                None => runtime.block_on(self.start(None)).and_then(|started| match started {
                    Started::At(session) => Ok(session),
                    Started::Mounted => Err(self.failed(None, "a mount that nobody asked for".to_owned())),
                }),
            };
            let error = match result.and_then(|session| self.upload(way, session, blob)) {
                Ok(()) => return Ok(Outcome::Done),
                Err(error) => error,
            };
            let Error::Registry { status, .. } = &error else { return Err(error) };
            if let Some(status) = *status
                && let Some(next) = way.after(status, last_status == Some(status))
            {
                tracing::info!(
                    registry = self.host.name(),
                    ?next,
                    status,
                    "another way of uploading is tried"
                );
                let mut known = lock(&self.host.way);
                *known = next.max(*known);
                continue;
            }
            let again = status.is_none_or(|status| status >= 500 || matches!(status, 404 | 408 | 416 | 429));
            last_status = *status;
            match self.host.retry.wait(attempt, None) {
                Some(wait) if again => runtime.block_on(async { tokio::time::sleep(wait).await }),
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool> {
        let url = self.host.url(&format!("{}/blobs/{}", self.repository(), blob.digest))?;
        let response = self.host.send(Method::HEAD, &url, &self.scope(), true, |request| request).await?;
        // Some registries answer with a redirect to where it is, which says the same.
        match response.status() {
            status if status.is_success() || status.is_redirection() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let status = response.status();
                let host = self.host.name().to_owned();
                Err(Error::Auth { host, reason: format!("it answers {status} for `{}`", self.repository()) })
            }
            _ => Ok(false),
        }
    }

    /// Asks the registry to take a blob from another of its repositories. A registry that does not starts an upload
    /// instead (202), and a mount that fails for whatever reason, a token among them, is an upload, too.
    fn mount(&self, blob: &Descriptor, most: usize) -> Result<Option<Started>> {
        let mut session = None;
        for origin in self.store.origins(&blob.digest)? {
            let Ok(origin) = origin.parse::<Reference>() else { continue };
            let same = origin.registry() == self.reference.registry();
            if !same || origin.repository() == self.repository() {
                continue;
            }
            if session.as_ref().is_some_and(|(_, asked)| *asked >= most) {
                break;
            }
            let started = self.client.runtime.block_on(self.start(Some((origin.repository(), &blob.digest))));
            match started {
                Ok(Started::Mounted) => return Ok(Some(Started::Mounted)),
                Ok(started) => {
                    let asked = session.map_or(1, |(_, asked)| asked + 1);
                    session = Some((started, asked));
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => tracing::debug!(%error, "a mount failed"),
            }
        }
        Ok(session.map(|(started, _)| started))
    }

    async fn start(&self, mount: Option<(&str, &Digest)>) -> Result<Started> {
        let mut url = self.host.url(&format!("{}/blobs/uploads/", self.repository()))?;
        let mut scope = self.scope();
        if let Some((origin, digest)) = mount {
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", origin);
            scope = format!("{scope} repository:{origin}:pull");
        }
        let build = |request: RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let response = self.host.send(Method::POST, &url, &scope, true, build).await?;
        match response.status() {
            StatusCode::CREATED if mount.is_some() => Ok(Started::Mounted),
            StatusCode::ACCEPTED => {
                let least =
                    response.headers().get(CHUNK_MIN).and_then(|value| value.to_str().ok()?.parse().ok());
                let url = self.host.upload_url(&url, &response)?;
                Ok(Started::At(Session { url, least: least.unwrap_or(0) }))
            }
            _ => Err(self.unexpected(response).await),
        }
    }

    fn upload(&self, way: Way, session: Session, blob: &Descriptor) -> Result<()> {
        let url = match way {
            Way::Whole => return self.put(&session.url, blob, Some(0..blob.size)),
            Way::Streamed => {
                let response = self.patch(&session.url, blob, 0..blob.size, false)?;
                if !response.status().is_success() {
                    return Err(self.client.runtime.block_on(self.unexpected(response)));
                }
                self.host.upload_url(&session.url, &response)?
            }
            Way::Chunked => self.chunks(session, blob)?,
        };
        self.put(&url, blob, None)
    }

    /// Ends an upload, with all the bytes or none.
    fn put(&self, url: &Url, blob: &Descriptor, bytes: Option<std::ops::Range<u64>>) -> Result<()> {
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let response = self.send_bytes(Method::PUT, &url, blob, bytes.unwrap_or(0..0), |request| request)?;
        if response.status().is_success() {
            self.reporter.advance(Transfer::Push, &blob.digest, blob.size);
            return Ok(());
        }
        Err(self.client.runtime.block_on(self.unexpected(response)))
    }

    fn patch(
        &self,
        url: &Url,
        blob: &Descriptor,
        bytes: std::ops::Range<u64>,
        says_range: bool,
    ) -> Result<Response> {
        let range = format!("{}-{}", bytes.start, bytes.end.saturating_sub(1));
        self.send_bytes(Method::PATCH, url, blob, bytes, |request| {
            if says_range { request.header(CONTENT_RANGE, range.clone()) } else { request }
        })
    }

    /// Sends a blob in chunks; gives the URL that ends the upload.
    fn chunks(&self, session: Session, blob: &Descriptor) -> Result<Url> {
        if session.least > LARGEST_CHUNK {
            return Err(self.failed(None, format!("it wants chunks of {} bytes", session.least)));
        }
        let size = CHUNK.max(session.least);
        let (mut url, mut at, mut resumes) = (session.url, 0, 0);
        while at < blob.size {
            let end = at.saturating_add(size).min(blob.size);
            let response = match self.patch(&url, blob, at..end, true) {
                Ok(response) if response.status().is_success() => response,
                Ok(response)
                    if response.status() != StatusCode::RANGE_NOT_SATISFIABLE
                        && !is_busy(response.status()) =>
                {
                    return Err(self.client.runtime.block_on(self.unexpected(response)));
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                result => {
                    resumes += 1;
                    let wait = self.host.retry.wait(resumes, None).filter(|_| resumes <= RESUMES);
                    let Some(wait) = wait else {
                        return Err(match result {
                            Ok(response) => self.client.runtime.block_on(self.unexpected(response)),
                            Err(error) => error,
                        });
                    };
                    let runtime = &self.client.runtime;
                    runtime.block_on(async { tokio::time::sleep(wait).await });
                    let scope = self.scope();
                    let asked = self.host.send(Method::GET, &url, &scope, true, |request| request);
                    let answer = runtime.block_on(asked)?;
                    if !answer.status().is_success() {
                        return Err(runtime.block_on(self.unexpected(answer)));
                    }
                    answer
                }
            };
            at = match (received(&response), response.status()) {
                (Some(next), _) if next <= end => next,
                (None, StatusCode::ACCEPTED) => end,
                _ => return Err(self.failed(None, "it counts bytes that were not sent".to_owned())),
            };
            if response.headers().contains_key(reqwest::header::LOCATION) {
                url = self.host.upload_url(&url, &response)?;
            }
        }
        Ok(url)
    }

    /// Sends a part of a blob straight from the store's file.
    fn send_bytes(
        &self,
        method: Method,
        url: &Url,
        blob: &Descriptor,
        bytes: std::ops::Range<u64>,
        more: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let file = Arc::new(self.store.open_blob(&blob.digest)?);
        let sent = Arc::new(AtomicU64::new(0));
        let scope = self.scope();
        let build = |request: RequestBuilder| {
            sent.store(bytes.start, Ordering::Relaxed);
            let body = match bytes.is_empty() {
                true => reqwest::Body::from(Vec::new()),
                false => file_body(Arc::clone(&file), bytes.clone(), Arc::clone(&sent)),
            };
            more(request)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, bytes.end - bytes.start)
                .body(body)
        };
        let request = self.host.send(method, url, &scope, false, build);
        self.client.runtime.block_on(async {
            let mut request = std::pin::pin!(request);
            loop {
                tokio::select! {
                    response = &mut request => return response,
                    () = tokio::time::sleep(TICK) => {
                        if self.reporter.cancelled() {
                            return Err(Error::Cancelled);
                        }
                        self.reporter.advance(Transfer::Push, &blob.digest, sent.load(Ordering::Relaxed));
                    }
                }
            }
        })
    }

    fn document(&self, document: &Descriptor, name: &str) -> Result<()> {
        let bytes = self.store.blob_bytes(&document.digest, MANIFEST_BYTES)?;
        let url = self.host.url(&format!("{}/manifests/{name}", self.repository()))?;
        let kind = header(&document.media_type)?;
        let build = |request: RequestBuilder| request.header(CONTENT_TYPE, kind.clone()).body(bytes.clone());
        let runtime = &self.client.runtime;
        let response = runtime.block_on(self.host.send(Method::PUT, &url, &self.scope(), true, build))?;
        if response.status().is_success() {
            return self.stored(document, &response);
        }
        // A tag that may not change, and need not: it is the same already.
        if !name.contains(':') && response.status().is_client_error() && self.names_already(document, &url) {
            return Ok(());
        }
        Err(runtime.block_on(self.unexpected(response)))
    }

    /// Checks what a registry says that it has stored, when it says so.
    fn stored(&self, document: &Descriptor, response: &Response) -> Result<()> {
        let said = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        let Some(said) = said.and_then(|text| text.parse::<Digest>().ok()) else { return Ok(()) };
        if said.algorithm() == document.digest.algorithm() && said != document.digest {
            let message = format!("it has stored `{said}` for `{}`", document.digest);
            return Err(self.failed(None, message));
        }
        Ok(())
    }

    /// Whether a tag names this document now.
    fn names_already(&self, document: &Descriptor, url: &Url) -> bool {
        let Ok(accepted) = header(&media_type::ACCEPTED.join(", ")) else { return false };
        let build = |request: RequestBuilder| request.header(ACCEPT, accepted.clone());
        let scope = self.scope();
        let asked = self.host.send(Method::HEAD, url, &scope, true, build);
        let Ok(response) = self.client.runtime.block_on(asked) else { return false };
        let digest = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        response.status().is_success() && digest == Some(document.digest.to_string().as_str())
    }
}

/// Starts an upload and gives it up.
pub(super) fn check(runtime: &tokio::runtime::Runtime, host: &Host, reference: &Reference) -> Result<()> {
    let repository = reference.repository();
    let scope = format!("repository:{repository}:pull,push");
    runtime.block_on(async {
        let url = host.url(&format!("{repository}/blobs/uploads/"))?;
        let build = |request: RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let response = host.send(Method::POST, &url, &scope, true, build).await?;
        if response.status() != StatusCode::ACCEPTED {
            let status = Some(response.status().as_u16());
            let operation = format!("cannot push `{reference}`");
            return Err(Error::Registry { operation, status, message: explain(response).await });
        }
        let session = host.upload_url(&url, &response)?;
        // A registry that does not know how to give one up forgets it by itself.
        drop(host.send(Method::DELETE, &session, &scope, false, |request| request).await);
        Ok(())
    })
}

/// How many bytes of an upload a registry has: `Range: 0-<last>`.
fn received(response: &Response) -> Option<u64> {
    let text = response.headers().get(RANGE)?.to_str().ok()?;
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let (start, last) = text.split_once('-')?;
    let last: u64 = last.parse().ok().filter(|_| start == "0")?;
    // Nothing and one byte look the same; distribution says `0-0` for nothing.
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

/// A body that reads a file as it is sent, counting.
fn file_body(file: Arc<File>, bytes: std::ops::Range<u64>, sent: Arc<AtomicU64>) -> reqwest::Body {
    let chunks = futures_util::stream::unfold(Some(bytes), move |bytes| {
        let (sent, file) = (Arc::clone(&sent), Arc::clone(&file));
        async move {
            let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
            let (at, wanted) = (bytes.start, READ.min(bytes.end - bytes.start));
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; usize::try_from(wanted).unwrap_or(0)];
                file.read_exact_at(&mut chunk, at).map(|()| chunk)
            });
            match read.await.unwrap_or_else(|_| Err(io::Error::other("the reading task ended early"))) {
                Ok(chunk) => {
                    sent.fetch_add(wanted, Ordering::Relaxed);
                    Some((Ok(chunk), Some(at + wanted..bytes.end)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    });
    reqwest::Body::wrap_stream(chunks)
}
