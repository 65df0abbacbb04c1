//! The registry client: images from and to registries.
//!
//! Follows the OCI distribution spec 1.1. Built on `reqwest` with `rustls` (ring) and a resolver of its own, not on
//! `oci-client`: retries, where credentials may go, mounts across repositories and streaming from the store need the
//! requests themselves. HTTP/1.1 only, which large registries serve faster. Outside it is blocking; inside, a small
//! runtime does the waiting.
//!
//! A [`Registry`](Client) client is a value of its options; [`Client::resolve`] makes a [`Remote`] of a reference, which
//! is a [`Source`], and [`Client::push`] sends what the store has. Everything that is pulled is verified by whoever
//! stores it (digest and size of every document and blob); here the documents are, too.
//!
//! What must hold: loopback registries and those named as insecure are spoken to in plain HTTP, all others over TLS
//! only; the rules for credentials are [`auth`]'s; every answer is bounded, and every wait ends.

pub mod auth;
mod download;
mod http;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Proxy, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Source, in_parallel};
use crate::manifest::{Descriptor, Document, MANIFEST_BYTES, media_type};
use crate::progress::{Outcome, Reporter, Transfer};
use crate::reference::{Reference, Registry};
use crate::store::{Store, lock};
use auth::Keychain;
pub use download::Received;
use http::{Host, describe, explain, limited};

/// Time to reach a registry.
const CONNECT: Duration = Duration::from_secs(20);
/// Time without a byte after which an answer counts as lost.
const STALL: Duration = Duration::from_secs(60);
/// The first wait before a request is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Times that a blob's download goes on where it broke off.
const RESUMES: u32 = 5;
/// Bytes of an upload that are read at a time.
const UPLOAD_CHUNK: usize = 256 << 10;
/// How often an upload's progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Whom to trust for TLS.
#[derive(Debug, Clone)]
pub enum TrustRoots {
    /// The system's bundle, wherever it is (`SSL_CERT_FILE` is honoured by the loader).
    System,
    /// These certificates, as DER.
    Certificates(Vec<Vec<u8>>),
}

/// How to use registries.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Credentials.
    pub keychain: Keychain,
    /// Registries (`host[:port]`) that are spoken to in plain HTTP, besides loopback ones.
    pub insecure: BTreeSet<String>,
    /// Whom to trust.
    pub roots: TrustRoots,
    /// Proxies as URLs: for http, for https; and the hosts without, as in `NO_PROXY`.
    pub proxies: Proxies,
    /// The first wait before a request is tried again; doubles each time.
    pub first_wait: Duration,
}

/// Proxies, as the environment variables of the same names have them.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `NO_PROXY`.
    pub none: Option<String>,
}

impl ClientOptions {
    /// No credentials, no insecure registries but loopback, the system's certificates, no proxies.
    pub fn anonymous() -> Self {
        Self {
            keychain: Keychain::empty(),
            insecure: BTreeSet::new(),
            roots: TrustRoots::System,
            proxies: Proxies::default(),
            first_wait: FIRST_WAIT,
        }
    }
}

/// Registries by name and by the name of the credential.
type Hosts = HashMap<(Registry, Option<String>), Arc<Host>>;

/// A client for any number of registries.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    runtime: Runtime,
    /// One without TLS, which starts at once, and one with, made when it is needed.
    plain: OnceLock<reqwest::Client>,
    secure: OnceLock<reqwest::Client>,
    hosts: Mutex<Hosts>,
}

impl Client {
    /// Makes a client. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the machine gives no threads.
    pub fn new(options: ClientOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Error::io("cannot start the registry client", error))?;
        let (plain, secure, hosts) = (OnceLock::new(), OnceLock::new(), Mutex::default());
        Ok(Self { options, runtime, plain, secure, hosts })
    }

    fn uses_http(&self, registry: &Registry) -> bool {
        registry.is_loopback() || self.options.insecure.contains(registry.name())
    }

    fn http_client(&self, tls: bool) -> Result<reqwest::Client> {
        let slot = if tls { &self.secure } else { &self.plain };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        let failed = |reason: String| Error::Registry {
            operation: "cannot start the registry client".to_owned(),
            status: None,
            message: reason,
        };
        let roots = if tls { self.roots()? } else { rustls::RootCertStore::empty() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .hickory_dns(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            .user_agent(concat!("cooper/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        let Proxies { http, https, none } = &self.options.proxies;
        let none = none.as_deref().and_then(reqwest::NoProxy::from_string);
        let wrong = |_| failed("a proxy's URL is not valid".to_owned());
        if let Some(url) = http {
            builder = builder.proxy(Proxy::http(url).map_err(wrong)?.no_proxy(none.clone()));
        }
        if let Some(url) = https {
            builder = builder.proxy(Proxy::https(url).map_err(wrong)?.no_proxy(none));
        }
        let client = builder.build().map_err(|error| failed(describe(&error)))?;
        Ok(slot.get_or_init(|| client).clone())
    }

    fn roots(&self) -> Result<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        match &self.options.roots {
            TrustRoots::System => {
                let loaded = rustls_native_certs::load_native_certs();
                for error in &loaded.errors {
                    tracing::warn!(%error, "a certificate of the system cannot be read");
                }
                roots.add_parsable_certificates(loaded.certs);
            }
            TrustRoots::Certificates(certificates) => {
                let certificates = certificates.iter().map(|der| der.clone().into());
                roots.add_parsable_certificates(certificates);
            }
        }
        if roots.is_empty() {
            let message = "no trusted certificates were found (SSL_CERT_FILE names a bundle)".to_owned();
            let operation = "cannot use TLS".to_owned();
            return Err(Error::Registry { operation, status: None, message });
        }
        Ok(roots)
    }

    fn host(&self, reference: &Reference) -> Result<Arc<Host>> {
        let registry = reference.registry();
        let credential = self.options.keychain.find(reference)?.cloned();
        let key = (registry.clone(), credential.as_ref().map(|credential| credential.username.clone()));
        if let Some(host) = lock(&self.hosts).get(&key) {
            return Ok(Arc::clone(host));
        }
        let tls = !self.uses_http(registry);
        let scheme = if tls { "https" } else { "http" };
        let base: Url = format!("{scheme}://{}/", registry.api_host()).parse().map_err(|_| {
            Error::Reference { input: reference.to_string(), reason: "the registry is no valid host" }
        })?;
        let client = self.http_client(tls)?;
        let host = Host::new(client, base, registry.to_string(), credential, self.options.first_wait);
        Ok(Arc::clone(lock(&self.hosts).entry(key).or_insert(Arc::new(host))))
    }

    /// Asks what a reference names.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the registry does not know it, [`Error::Registry`], [`Error::Auth`], and
    /// [`Error::DigestMismatch`] when the answer is not what the reference's digest says.
    pub fn resolve(&self, reference: &Reference) -> Result<Remote<'_>> {
        let host = self.host(reference)?;
        let remote = Remote {
            client: self,
            host,
            repository: reference.repository().to_owned(),
            shown: reference.to_string(),
            root: Descriptor::of("", b""),
            documents: Mutex::default(),
        };
        let (root, bytes) =
            self.runtime.block_on(remote.fetch_document(&reference.identifier(), reference.digest()))?;
        lock(&remote.documents).insert(root.digest, bytes);
        Ok(Remote { root, ..remote })
    }

    /// Pushes a complete image or index of the store to a reference, blobs first, the reference's tag last.
    ///
    /// `origins` are repositories of which the same registry may take blobs without an upload: where a base came from.
    ///
    /// # Errors
    ///
    /// [`Error::Registry`], [`Error::Auth`], or what the store gives.
    pub fn push(
        &self,
        store: &Store,
        root: &Descriptor,
        reference: &Reference,
        origins: &[Reference],
        reporter: &dyn Reporter,
    ) -> Result<()> {
        let host = self.host(reference)?;
        let origins: Vec<&str> = origins
            .iter()
            .filter(|origin| origin.registry() == reference.registry())
            .map(Reference::repository)
            .filter(|origin| *origin != reference.repository())
            .collect();
        let push = Push { client: self, host, repository: reference.repository(), origins, store, reporter };
        let shown = reference.to_string();
        let all = store.blobs_of(root)?;
        let is_document = |blob: &&Descriptor| {
            media_type::is_index(&blob.media_type)
                || media_type::is_manifest(&blob.media_type)
                || blob.digest == root.digest
        };
        let blobs: Vec<&Descriptor> = all.iter().filter(|blob| !is_document(blob)).collect();
        in_parallel(&blobs, |blob| push.blob(blob).map_err(|error| about(error, "cannot push", &shown)))?;
        for document in all.iter().filter(is_document) {
            let name = match reference.tag() {
                Some(tag) if document.digest == root.digest => tag.to_owned(),
                _ => document.digest.to_string(),
            };
            push.document(document, &name).map_err(|error| about(error, "cannot push", &shown))?;
        }
        Ok(())
    }
}

/// Says what was being done, where the inner layer only knows the registry.
fn about(error: Error, verb: &str, shown: &str) -> Error {
    match error {
        Error::Registry { status, message, .. } => {
            Error::Registry { operation: format!("{verb} `{shown}`"), status, message }
        }
        other => other,
    }
}

/// An image or index in a registry.
#[derive(Debug)]
pub struct Remote<'c> {
    client: &'c Client,
    host: Arc<Host>,
    repository: String,
    shown: String,
    root: Descriptor,
    /// Documents that were fetched already: a manifest is asked for once, since registries count that.
    documents: Mutex<HashMap<Digest, Vec<u8>>>,
}

impl Remote<'_> {
    /// The manifest or index that the reference names now.
    pub fn root(&self) -> &Descriptor {
        &self.root
    }

    fn scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    async fn fetch_document(&self, name: &str, expected: Option<&Digest>) -> Result<(Descriptor, Vec<u8>)> {
        let url = self.host.url(&format!("{}/manifests/{name}", self.repository))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header(&media_type::ACCEPTED.join(", "))?);
        let pulling = |error| about(error, "cannot pull", &self.shown);
        let response = self.host.get_following(&url, &self.scope(), &headers).await.map_err(pulling)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Error::NotFound { what: format!("image `{}`", self.shown) });
        }
        let response = self.successful(response).await?;
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let bytes =
            limited(response, MANIFEST_BYTES as usize).await.map_err(|reason| self.failed(None, reason))?;
        let digest = match expected {
            Some(expected) => {
                let mut hasher = crate::digest::Hasher::new(expected.algorithm());
                hasher.update(&bytes);
                let found = hasher.finish();
                if found != *expected {
                    return Err(Error::wrong_digest(
                        format!("manifest of `{}`", self.shown),
                        *expected,
                        found,
                    ));
                }
                found
            }
            None => Digest::of(&bytes),
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
        let url = self.host.url(&format!("{}/blobs/{digest}", self.repository))?;
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert(RANGE, header(&format!("bytes={from}-"))?);
        }
        let pulling = |error| about(error, "cannot pull", &self.shown);
        let response = self.host.get_following(&url, &self.scope(), &headers).await.map_err(pulling)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Error::NotFound { what: format!("blob `{digest}` of `{}`", self.shown) });
        }
        self.successful(response).await
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

/// One push on its way.
struct Push<'p> {
    client: &'p Client,
    host: Arc<Host>,
    repository: &'p str,
    origins: Vec<&'p str>,
    store: &'p Store,
    reporter: &'p dyn Reporter,
}

/// Where a blob's upload stands after the first request.
enum Started {
    Mounted,
    At(Url),
}

impl Push<'_> {
    fn scope(&self) -> String {
        format!("repository:{}:pull,push", self.repository)
    }

    fn failed(&self, status: Option<u16>, message: String) -> Error {
        Error::Registry { operation: format!("cannot push to `{}`", self.repository), status, message }
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
        let mut attempt = 1;
        loop {
            let start = match self.origins.first().filter(|_| attempt == 1) {
                // A mount that fails for whatever reason is an upload.
                Some(origin) => match runtime.block_on(self.start(Some((origin, &blob.digest)))) {
                    Ok(started) => started,
                    Err(Error::Cancelled) => return Err(Error::Cancelled),
                    Err(_) => runtime.block_on(self.start(None))?,
                },
                None => runtime.block_on(self.start(None))?,
            };
            let url = match start {
                Started::Mounted => return Ok(Outcome::Mounted),
                Started::At(url) => url,
            };
            match self.upload(&url, blob) {
                Ok(()) => return Ok(Outcome::Done),
                // An upload cannot be repeated, but a new one can be started: registries lose sessions.
                Err(Error::Registry { status, .. })
                    if attempt < http::ATTEMPTS
                        && status.is_none_or(|status| {
                            status >= 500 || matches!(status, 404 | 408 | 416 | 429)
                        }) =>
                {
                    let wait = self.client.options.first_wait.saturating_mul(1 << attempt.min(10));
                    runtime.block_on(async { tokio::time::sleep(wait).await });
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool> {
        let url = self.host.url(&format!("{}/blobs/{}", self.repository, blob.digest))?;
        let response = self.host.send(Method::HEAD, &url, &self.scope(), true, |request| request).await?;
        // Some registries answer with a redirect to where it is, which says the same.
        match response.status() {
            status if status.is_success() || status.is_redirection() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let status = response.status();
                let host = self.host_name();
                Err(Error::Auth { host, reason: format!("it answers {status} for `{}`", self.repository) })
            }
            _ => Ok(false),
        }
    }

    fn host_name(&self) -> String {
        self.host.url("").ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
    }

    async fn start(&self, mount: Option<(&str, &Digest)>) -> Result<Started> {
        let mut url = self.host.url(&format!("{}/blobs/uploads/", self.repository))?;
        let mut scope = self.scope();
        if let Some((origin, digest)) = mount {
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", origin);
            scope = format!("{scope} repository:{origin}:pull");
        }
        let build = |request: reqwest::RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let response = self.host.send(Method::POST, &url, &scope, true, build).await?;
        match response.status() {
            StatusCode::CREATED if mount.is_some() => Ok(Started::Mounted),
            StatusCode::ACCEPTED => Ok(Started::At(self.host.upload_url(&url, &response)?)),
            status => Err(self.failed(Some(status.as_u16()), explain(response).await)),
        }
    }

    /// Sends a blob in one request, straight from the store's file.
    fn upload(&self, url: &Url, blob: &Descriptor) -> Result<()> {
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let sent = Arc::new(AtomicU64::new(0));
        let file = Mutex::new(Some(self.store.open_blob(&blob.digest)?));
        let scope = self.scope();
        let reopen = || match lock(&file).take() {
            Some(file) => Some(file),
            // After a challenge the request is made again.
            None => self.store.open_blob(&blob.digest).ok(),
        };
        let build = |request: reqwest::RequestBuilder| {
            sent.store(0, Ordering::Relaxed);
            let body = match reopen() {
                Some(file) => file_body(file, Arc::clone(&sent)),
                None => reqwest::Body::from(Vec::new()),
            };
            request
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .body(body)
        };
        let request = self.host.send(Method::PUT, &url, &scope, false, build);
        let response = self.client.runtime.block_on(async {
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
        })?;
        if response.status() == StatusCode::CREATED || response.status().is_success() {
            self.reporter.advance(Transfer::Push, &blob.digest, blob.size);
            return Ok(());
        }
        let status = response.status().as_u16();
        Err(self.failed(Some(status), self.client.runtime.block_on(explain(response))))
    }

    fn document(&self, document: &Descriptor, name: &str) -> Result<()> {
        let bytes = self.store.blob_bytes(&document.digest, MANIFEST_BYTES)?;
        let url = self.host.url(&format!("{}/manifests/{name}", self.repository))?;
        let kind = header(&document.media_type)?;
        let build =
            |request: reqwest::RequestBuilder| request.header(CONTENT_TYPE, kind.clone()).body(bytes.clone());
        let runtime = &self.client.runtime;
        let response = runtime.block_on(self.host.send(Method::PUT, &url, &self.scope(), true, build))?;
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status().as_u16();
        Err(self.failed(Some(status), runtime.block_on(explain(response))))
    }
}

/// A body that reads a file as it is sent, counting.
fn file_body(file: File, sent: Arc<AtomicU64>) -> reqwest::Body {
    let chunks = futures_util::stream::unfold(Some(file), move |file| {
        let sent = Arc::clone(&sent);
        async move {
            let file = file?;
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; UPLOAD_CHUNK];
                let count = (&file).read(&mut chunk)?;
                chunk.truncate(count);
                Ok((chunk, file))
            });
            match read.await.unwrap_or_else(|_| Err(io::Error::other("the reading task ended early"))) {
                Ok((chunk, _)) if chunk.is_empty() => None,
                Ok((chunk, file)) => {
                    sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    Some((Ok(chunk), Some(file)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    });
    reqwest::Body::wrap_stream(chunks)
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| Error::Registry {
        operation: "cannot make a request".to_owned(),
        status: None,
        message: "a header is not valid".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_named_registries_are_spoken_to_without_tls() {
        let insecure = BTreeSet::from(["plain.example:5000".to_owned()]);
        let client = Client::new(ClientOptions { insecure, ..ClientOptions::anonymous() }).unwrap();
        let check = |reference: &str, plain: bool| {
            let reference: Reference = reference.parse().unwrap();
            assert_eq!(client.uses_http(reference.registry()), plain, "{reference}");
        };
        check("localhost:5000/a", true);
        check("127.0.0.1/a", true);
        check("plain.example:5000/a", true);
        check("plain.example/a", false);
        check("debian", false);
        check("127.0.0.1.example/a", false);
    }

    #[test]
    fn tls_needs_somebody_to_trust() {
        let roots = TrustRoots::Certificates(vec![b"no certificate".to_vec()]);
        let client = Client::new(ClientOptions { roots, ..ClientOptions::anonymous() }).unwrap();
        let error = client.resolve(&"registry.example/a".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot use TLS: no trusted certificates were found (SSL_CERT_FILE names a bundle)"
        );
    }
}
