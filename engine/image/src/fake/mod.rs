//! A registry in this process, for tests.
//!
//! [`FakeRegistry`] listens on a loopback port and does what the distribution spec asks of a registry, in memory:
//! pull, push, mounts, ranges, tags, with no authorization, Basic, or Bearer with its own token service. [`Fault`]s make
//! it misbehave on purpose, and [`FakeRegistry::seen`] tells what it was asked, so a test can prove where a credential
//! went. It checks what is pushed as a strict registry does: digests, and that a manifest's blobs are there.
//! [`Quirk`]s let it behave as one of the registries of the world does.

mod quirk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::manifest::Document;

pub use quirk::Quirk;

/// Bound on a request's head, in bytes.
const HEAD_BYTES: u64 = 64 << 10;
/// Bound on a request's body, in bytes.
const BODY_BYTES: usize = 1 << 30;
/// The token that the token service gives to those who know the password.
const TOKEN: &str = "fake-token";

/// Who may use the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Whoever sends this name and password.
    Basic(String, String),
    /// Whoever has a token of the registry's own service, which wants this name and password.
    Bearer(String, String),
    /// Whoever has a token of the registry's own service, which gives one to everybody, as Docker Hub's for pulls.
    Anonymous,
    /// Whoever has a token of the registry's own service, which wants this identity token (OAuth2).
    Identity(String),
}

/// What the registry does wrong, for requests that match.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The method that it happens to; `PUT-BODY` is a `PUT` with contents, `PATCH-WHOLE` one without `Content-Range`.
    pub method: &'static str,
    /// A part of the path that it happens to.
    pub path: String,
    /// How many times it happens.
    pub times: u32,
    /// What happens.
    pub action: Action,
}

/// What a fault does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Answers with this status and these headers.
    Status(u16, Vec<(String, String)>),
    /// Answers as it should, but ends the connection after so many bytes of the body.
    Cut(usize),
    /// Answers as it should, but with other bytes.
    Garble,
    /// Ends the connection without an answer.
    Hang,
    /// Sends a body that never ends, until the client goes away.
    Endless,
    /// Sends the head of an answer and then nothing, until the client goes away.
    Stall,
}

/// A request that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

#[derive(Debug, Default)]
struct Repository {
    manifests: HashMap<String, (String, Vec<u8>)>,
    tags: BTreeSet<String>,
    blobs: BTreeSet<Digest>,
}

#[derive(Debug, Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    blobs: HashMap<Digest, Arc<Vec<u8>>>,
    uploads: HashMap<u64, Vec<u8>>,
    next_upload: u64,
    faults: Vec<Fault>,
    warning: Option<String>,
    seen: Vec<Seen>,
    quirks: BTreeSet<Quirk>,
    /// What a quirk does once, and has done.
    stumbled: BTreeSet<String>,
}

/// A running registry. It ends with the process.
#[derive(Debug, Clone)]
pub struct FakeRegistry {
    address: SocketAddr,
    access: Access,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    /// The query as it came; a name may stand in it twice.
    raw_query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"fake: {code}"}}]}}"#);
        Self::new(status).with("Content-Type", "application/json").body(body)
    }
}

impl FakeRegistry {
    /// Starts a registry on a free loopback port.
    ///
    /// # Errors
    ///
    /// When the machine gives no port or thread.
    pub fn start(access: Access) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let registry = Self { address: listener.local_addr()?, access, state: Arc::default() };
        let server = registry.clone();
        thread::Builder::new().name("fake registry".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A connection that cannot be served is closed, as by a busy server.
                let _ = thread::Builder::new().spawn(move || {
                    // The client sees the end of a connection that failed.
                    let _ = server.serve(&stream);
                });
            }
        })?;
        Ok(registry)
    }

    /// `host:port`, for references.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Behaves like this from now on.
    pub fn behave(&self, quirks: &[Quirk]) {
        self.state().quirks.extend(quirks);
    }

    /// Adds a fault.
    pub fn fail(&self, method: &'static str, path: &str, times: u32, action: Action) {
        self.state().faults.push(Fault { method, path: path.to_owned(), times, action });
    }

    /// Lets every answer carry a warning.
    pub fn warn(&self, text: &str) {
        self.state().warning = Some(text.to_owned());
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many requests with this method had a path with this part.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.state().seen.iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
    }

    /// The tags of a repository, sorted.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        self.state()
            .repositories
            .get(repository)
            .map(|found| found.tags.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The bytes of a manifest by tag or digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.repositories.get(repository)?.manifests.get(name).map(|(_, bytes)| bytes.clone())
    }

    /// Puts a manifest or index under a tag, unchecked.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state();
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        let value = (media_type.to_owned(), bytes.to_vec());
        repository.manifests.insert(Digest::of(bytes).to_string(), value.clone());
        repository.manifests.insert(tag.to_owned(), value);
        repository.tags.insert(tag.to_owned());
    }

    /// The bytes of a blob, in whichever repository.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let digest: Digest = digest.parse().ok()?;
        self.state().blobs.get(&digest).map(|bytes| bytes.to_vec())
    }

    /// Puts a blob, and returns its digest.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state();
        state.blobs.insert(digest, Arc::new(bytes.to_vec()));
        state.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest);
        digest
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader, stream)? {
            let authorization = request.headers.get("authorization").cloned();
            let fault = {
                let mut state = self.state();
                let path = match request.query.is_empty() {
                    true => request.path.clone(),
                    false => format!("{}?{:?}", request.path, request.query),
                };
                state.seen.push(Seen { method: request.method.clone(), path, authorization });
                take_fault(&mut state.faults, &request)
            };
            let mut reply = match &fault {
                Some(Action::Hang) => return Ok(()),
                Some(Action::Endless) => return endless(stream),
                Some(Action::Stall) => return stall(stream, &mut reader),
                Some(Action::Status(status, headers)) => {
                    Reply { headers: headers.clone(), ..Reply::error(*status, "FAULT") }
                }
                _ => self.answer_as(&request),
            };
            if let Some(Action::Garble) = fault {
                reply.body.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            }
            if let Some(warning) = self.state().warning.clone() {
                reply = reply.with("Warning", format!("299 - \"{warning}\""));
            }
            let cut = match fault {
                Some(Action::Cut(bytes)) => Some(bytes),
                _ => None,
            };
            write_reply(stream, &request, &reply, cut)?;
            if cut.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Reply {
        if request.path == "/token" {
            return self.token(request);
        }
        if let Some(refusal) = self.check_access(request) {
            return refusal;
        }
        let Some(path) = request.path.strip_prefix("/v2/") else { return Reply::error(404, "NOT_FOUND") };
        if path.is_empty() {
            return Reply::new(200);
        }
        for (kind, handler) in Self::HANDLERS {
            if let Some(at) = path.rfind(kind) {
                return handler(self, request, &path[..at], &path[at + kind.len()..]);
            }
        }
        Reply::error(404, "NAME_UNKNOWN")
    }

    const HANDLERS: [(&'static str, Handler); 5] = [
        ("/referrers/", Self::referrers),
        ("/blobs/uploads/", Self::uploads),
        ("/blobs/", Self::blobs),
        ("/manifests/", Self::manifests),
        ("/tags/", Self::tag_list),
    ];

    fn token(&self, request: &Request) -> Reply {
        match &self.access {
            Access::Bearer(name, password) if authorized_basic(request, name, password) => token_reply(),
            Access::Anonymous if !request.headers.contains_key("authorization") => token_reply(),
            Access::Identity(token) if asks_with_identity(request, token) => token_reply(),
            _ => Reply::error(401, "UNAUTHORIZED"),
        }
    }

    fn check_access(&self, request: &Request) -> Option<Reply> {
        let (allowed, challenge) = match &self.access {
            Access::Open => return None,
            Access::Basic(name, password) => {
                (authorized_basic(request, name, password), "Basic realm=\"fake\"".to_owned())
            }
            Access::Bearer(..) | Access::Anonymous | Access::Identity(_) => {
                let allowed = request.headers.get("authorization") == Some(&format!("Bearer {TOKEN}"));
                (allowed, format!("Bearer realm=\"http://{}/token\",service=\"fake\"", self.address))
            }
        };
        (!allowed).then(|| Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
    }

    fn blobs(&self, request: &Request, repository: &str, name: &str) -> Reply {
        let state = self.state();
        let digest = name.parse::<Digest>().ok();
        let known = |digest: &Digest| {
            state.repositories.get(repository).is_some_and(|found| found.blobs.contains(digest))
        };
        let Some(bytes) = digest.filter(known).and_then(|digest| state.blobs.get(&digest)) else {
            return Reply::error(404, "BLOB_UNKNOWN");
        };
        let start = request.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
                .filter(|at| *at < bytes.len())
        });
        match start {
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::new(206).with("Content-Range", range).body(&bytes[start..])
            }
            None => Reply::new(200).with("Docker-Content-Digest", name).body(bytes.to_vec()),
        }
    }

    fn manifests(&self, request: &Request, repository: &str, name: &str) -> Reply {
        if request.method == "PUT" {
            return self.take_manifest(request, repository, name);
        }
        let state = self.state();
        match state.repositories.get(repository).and_then(|found| found.manifests.get(name)) {
            Some((kind, bytes)) => Reply::new(200)
                .with("Content-Type", kind)
                .with("Docker-Content-Digest", Digest::of(bytes))
                .body(bytes.clone()),
            None => Reply::error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn take_manifest(&self, request: &Request, repository: &str, name: &str) -> Reply {
        let kind = request.headers.get("content-type").cloned().unwrap_or_default();
        let Ok(document) = Document::parse(&request.body, &kind) else {
            return Reply::error(400, "MANIFEST_INVALID");
        };
        let promised = name.contains(':').then(|| name.parse::<Digest>());
        let digest = match promised {
            Some(Ok(promised)) if digest_in(promised.algorithm(), &request.body) == promised => promised,
            Some(_) => return Reply::error(400, "DIGEST_INVALID"),
            None => Digest::of(&request.body),
        };
        let mut state = self.state();
        let found = state.repositories.entry(repository.to_owned()).or_default();
        let complete = match &document {
            Document::Manifest(manifest) => manifest
                .layers
                .iter()
                .chain([&manifest.config])
                .all(|blob| found.blobs.contains(&blob.digest)),
            Document::Index(index) => {
                index.manifests.iter().all(|entry| found.manifests.contains_key(&entry.digest.to_string()))
            }
        };
        if !complete {
            return Reply::error(404, "MANIFEST_BLOB_UNKNOWN");
        }
        found.manifests.insert(digest.to_string(), (kind.clone(), request.body.clone()));
        if !name.contains(':') {
            found.manifests.insert(name.to_owned(), (kind, request.body.clone()));
            found.tags.insert(name.to_owned());
        }
        let subject = match &document {
            Document::Manifest(manifest) => manifest.subject.as_ref(),
            Document::Index(index) => index.subject.as_ref(),
        };
        let reply = Reply::new(201).with("Docker-Content-Digest", digest).with("Location", &request.path);
        match subject.filter(|_| !state.quirks.contains(&Quirk::NoReferrers)) {
            Some(subject) => reply.with("OCI-Subject", subject.digest),
            None => reply,
        }
    }

    fn uploads(&self, request: &Request, repository: &str, session: &str) -> Reply {
        let mut state = self.state();
        let state = &mut *state;
        if request.method == "POST" {
            let mounts = !state.quirks.contains(&Quirk::NoMounts);
            if let (Some(digest), Some(from), true) =
                (request.query.get("mount"), request.query.get("from"), mounts)
            {
                let digest = digest.parse::<Digest>().ok();
                let there = |digest: &Digest| {
                    state.repositories.get(from).is_some_and(|found| found.blobs.contains(digest))
                };
                if let Some(digest) = digest.filter(there) {
                    state.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest);
                    return Reply::new(201).with("Location", format!("/v2/{repository}/blobs/{digest}"));
                }
            }
            state.next_upload += 1;
            let session = state.next_upload;
            state.uploads.insert(session, Vec::new());
            return Reply::new(202)
                .with("Location", format!("/v2/{repository}/blobs/uploads/{session}?state=x"));
        }
        let Some(number) = session.parse::<u64>().ok().filter(|number| state.uploads.contains_key(number))
        else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        let upload = state.uploads.entry(number).or_default();
        let start =
            request.headers.get("content-range").and_then(|range| range.split('-').next()?.parse().ok());
        let range = |upload: &Vec<u8>| format!("0-{}", upload.len().saturating_sub(1));
        if start.is_some_and(|start: usize| start != upload.len()) {
            return Reply::new(416).with("Location", &request.path).with("Range", range(upload));
        }
        upload.extend_from_slice(&request.body);
        match request.method.as_str() {
            "PATCH" => return Reply::new(202).with("Location", &request.path).with("Range", range(upload)),
            "GET" => return Reply::new(204).with("Location", &request.path).with("Range", range(upload)),
            _ => {}
        }
        let bytes = state.uploads.remove(&number).unwrap_or_default();
        let promised = request.query.get("digest").and_then(|text| text.parse::<Digest>().ok());
        let Some(digest) = promised.filter(|digest| digest_in(digest.algorithm(), &bytes) == *digest) else {
            return Reply::error(400, "DIGEST_INVALID");
        };
        state.blobs.insert(digest, Arc::new(bytes));
        state.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest);
        Reply::new(201).with("Location", format!("/v2/{repository}/blobs/{digest}"))
    }

    fn tag_list(&self, _: &Request, repository: &str, _: &str) -> Reply {
        let tags: Vec<String> = self.tags(repository).iter().map(|tag| format!("\"{tag}\"")).collect();
        let body = format!(r#"{{"name":"{repository}","tags":[{}]}}"#, tags.join(","));
        Reply::new(200).with("Content-Type", "application/json").body(body)
    }
}

fn digest_in(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn endless(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Fake\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{")?;
    loop {
        stream.write_all(&[b' '; 16 << 10])?;
    }
}

fn stall(mut stream: &TcpStream, reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Fake\r\nContent-Length: 100\r\n\r\n{")?;
    // Ends when the client has had enough.
    reader.read_to_end(&mut Vec::new()).map(drop)
}

/// Answers a request for a part of a repository: the repository, and what follows in the path.
type Handler = fn(&FakeRegistry, &Request, &str, &str) -> Reply;

fn token_reply() -> Reply {
    Reply::new(200).body(format!(r#"{{"token":"{TOKEN}"}}"#))
}

fn take_fault(faults: &mut [Fault], request: &Request) -> Option<Action> {
    let matching = faults.iter_mut().find(|fault| {
        let method = match fault.method {
            "PUT-BODY" => request.method == "PUT" && !request.body.is_empty(),
            "PATCH-WHOLE" => request.method == "PATCH" && !request.headers.contains_key("content-range"),
            method => request.method == method,
        };
        fault.times > 0 && method && request.path.contains(&fault.path)
    })?;
    matching.times -= 1;
    Some(matching.action.clone())
}

fn asks_with_identity(request: &Request, token: &str) -> bool {
    let body = String::from_utf8_lossy(&request.body);
    let has = |pair: String| body.split('&').any(|found| found == pair);
    request.method == "POST"
        && has("grant_type=refresh_token".to_owned())
        && has(format!("refresh_token={token}"))
}

fn authorized_basic(request: &Request, name: &str, password: &str) -> bool {
    let expected = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
    request.headers.get("authorization") == Some(&expected)
}

fn read_request(reader: &mut BufReader<&TcpStream>, stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    let mut head = reader.by_ref().take(HEAD_BYTES);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decode =
        |text: &str| text.replace("%3A", ":").replace("%2F", "/").replace("%3a", ":").replace("%2f", "/");
    let raw_query = query.to_owned();
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect();
    let headers: BTreeMap<String, String> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    if headers.get("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        read_chunks(reader, &mut body)?;
    } else {
        let length: usize = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        reader.by_ref().take(length.min(BODY_BYTES) as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Ok(None);
        }
    }
    Ok(Some(Request { method, path: path.to_owned(), query, raw_query, headers, body }))
}

fn read_chunks(reader: &mut BufReader<&TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.by_ref().take(HEAD_BYTES).read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        if length == 0 || body.len() + length > BODY_BYTES {
            reader.by_ref().take(HEAD_BYTES).read_line(&mut line)?;
            return Ok(());
        }
        reader.by_ref().take(length as u64).read_to_end(body)?;
        reader.by_ref().take(HEAD_BYTES).read_line(&mut line)?;
    }
}

fn write_reply(
    mut stream: &TcpStream,
    request: &Request,
    reply: &Reply,
    cut: Option<usize>,
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Fake\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
    let mut bytes = head.into_bytes();
    if request.method != "HEAD" {
        let end = cut.map_or(reply.body.len(), |cut| cut.min(reply.body.len()));
        bytes.extend_from_slice(&reply.body[..end]);
    }
    stream.write_all(&bytes)?;
    stream.flush()
}
