//! Talking to one registry: requests with credentials, retries and redirects.
//!
//! A [`Host`] is one registry as one user of it sees it. [`Host::send`] is the only way out: it adds the
//! authorization for a scope, answers a challenge once, waits and tries again when the registry is busy, and never
//! follows a redirect by itself; [`Host::get_following`] does, without authorization once the host differs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION, WARNING};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::auth::Credential;
use super::challenge::{Challenge, is_internal_host};
use super::push::Way;
use super::retry::{Retry, is_busy};
use super::token::Token;
use super::transport::Transport;
use crate::error::{Error, Result};
use crate::store::lock;

/// Redirects that are followed for one blob.
const MOST_REDIRECTS: usize = 5;
/// Bound on the body of an error or a token, in bytes.
pub(crate) const ANSWER_BYTES: usize = 64 << 10;
/// Requests to one registry that wait for an answer at the same time.
const MOST_REQUESTS: usize = 8;
/// Warnings of one registry that are kept for the user.
const MOST_WARNINGS: usize = 16;

/// A registry, and the credential to use with it.
#[derive(Debug)]
pub(crate) struct Host {
    client: Client,
    transport: Arc<Transport>,
    base: Url,
    /// The registry's name in messages.
    pub(super) name: String,
    pub(super) credential: Option<Credential>,
    /// Other hosts that the user lets have the credential: token services.
    pub(super) allowed: BTreeSet<String>,
    pub(super) retry: Retry,
    requests: Semaphore,
    /// What the registry asked for, once it did.
    pub(super) challenge: Mutex<Option<Challenge>>,
    /// Tokens by scope.
    pub(super) tokens: Mutex<BTreeMap<String, Token>>,
    /// Held while a token is fetched, so that requests at the same time ask for one together.
    pub(super) fetching: tokio::sync::Mutex<()>,
    /// The way of uploading that the registry was found to take.
    pub(super) way: Mutex<Way>,
    warnings: Mutex<BTreeSet<String>>,
}

/// What a [`Host`] is made of.
#[derive(Debug)]
pub(crate) struct HostParts {
    pub(crate) client: Client,
    pub(crate) transport: Arc<Transport>,
    pub(crate) base: Url,
    pub(crate) name: String,
    pub(crate) credential: Option<Credential>,
    pub(crate) allowed: BTreeSet<String>,
    pub(crate) retry: Retry,
}

/// Who may see the authorization.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Registry,
    Stranger,
}

impl Host {
    pub(crate) fn new(parts: HostParts) -> Self {
        let HostParts { client, transport, base, name, credential, allowed, retry } = parts;
        Self {
            client,
            transport,
            base,
            name,
            credential,
            allowed,
            retry,
            requests: Semaphore::new(MOST_REQUESTS),
            challenge: Mutex::default(),
            tokens: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            way: Mutex::new(Way::Whole),
            warnings: Mutex::default(),
        }
    }

    /// The URL of a path below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        self.base.join(&format!("/v2/{path}")).map_err(|_| self.failed("an invalid path"))
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How the registry is spoken to, without secrets.
    pub(crate) fn describe(&self) -> String {
        let who = self.credential.as_ref().map_or("anonymously", |_| "as");
        let user = self.credential.as_ref().map(|known| format!(" `{}`", known.user())).unwrap_or_default();
        format!("{} {who}{user}", self.base.as_str().trim_end_matches('/'))
    }

    /// What the registry wanted the user to know, since the last call.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.warnings)).into_iter().collect()
    }

    pub(super) fn failed(&self, message: impl Into<String>) -> Error {
        let operation = format!("cannot use registry `{}`", self.name);
        Error::Registry { operation, status: None, message: message.into() }
    }

    /// The client for a URL that may be a stranger's.
    pub(super) fn client_for(&self, url: &Url) -> Result<Client> {
        if same_origin(url, &self.base) {
            return Ok(self.client.clone());
        }
        self.transport.client("", url.scheme() == "https")
    }

    /// Sends a request that `build` makes, with the authorization for `scope`.
    ///
    /// Requests of which `repeat` is set are tried again after connection failures, 429 and 5xx.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        scope: &str,
        repeat: bool,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let trust = if same_origin(url, &self.base) { Trust::Registry } else { Trust::Stranger };
        let client = self.client_for(url)?;
        let _turn = self.requests.acquire().await.map_err(|_| self.failed("the client was shut down"))?;
        let mut challenged = false;
        let mut attempt = 1;
        loop {
            let mut request = build(client.request(method.clone(), url.clone()));
            let mut shown = None;
            if trust == Trust::Registry {
                shown = self.authorization(scope).await?;
            }
            if let Some(value) = &shown {
                request = request.header(AUTHORIZATION, value);
            }
            tracing::debug!(registry = self.name, %method, path = url.path(), attempt, "request");
            let result = request.send().await;
            let wait = |headers: Option<&HeaderMap>| {
                if repeat { self.retry.wait(attempt, headers) } else { None }
            };
            let wait = match result {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && trust == Trust::Registry => {
                    if challenged {
                        return Err(self.refused(response).await);
                    }
                    challenged = true;
                    self.accept_challenge(response, scope, shown.as_ref()).await?;
                    continue;
                }
                Ok(response) if is_busy(response.status()) => match wait(Some(response.headers())) {
                    Some(wait) => wait,
                    None => return Ok(response),
                },
                Ok(response) => {
                    if trust == Trust::Registry {
                        self.keep_warnings(response.headers());
                    }
                    return Ok(response);
                }
                Err(error) => match wait(None) {
                    Some(wait) => {
                        tracing::debug!(registry = self.name, error = describe(&error), "trying again");
                        wait
                    }
                    None => return Err(self.failed(describe(&error))),
                },
            };
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// `Warning: 299 - "text"` (distribution spec, warnings).
    fn keep_warnings(&self, headers: &HeaderMap) {
        for value in headers.get_all(WARNING).iter().filter_map(|value| value.to_str().ok()) {
            let Some(text) = value.strip_prefix("299 - \"").and_then(|rest| rest.strip_suffix('"')) else {
                continue;
            };
            let mut warnings = lock(&self.warnings);
            if warnings.len() < MOST_WARNINGS {
                let text = crate::error::printable(text.replace("\\\"", "\"").as_bytes());
                warnings.insert(format!("registry `{}` says: {text}", self.name));
            }
        }
    }

    /// Gets a URL of the registry, following redirects. The host that a redirect leads to sees no authorization.
    pub(crate) async fn get_following(
        &self,
        url: &Url,
        scope: &str,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let response =
                self.send(Method::GET, &url, scope, true, |request| request.headers(headers.clone())).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = self.redirected(&url, &response)?;
        }
        Err(self.failed("too many redirects"))
    }

    /// Checks where a `Location` leads: not from https to http, and not to this machine from elsewhere.
    fn redirected(&self, from: &Url, response: &Response) -> Result<Url> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| self.failed("an answer without the Location it needs"))?;
        let mut url = from.join(location).map_err(|_| self.failed("an answer with an invalid Location"))?;
        if url.host_str() == self.base.host_str() && self.base.scheme() == "https" && url.scheme() == "http" {
            // A registry behind a TLS gateway often does not know that it is.
            let kept_port = url.port();
            if url.set_scheme("https").is_err() || url.set_port(kept_port.filter(|port| *port != 80)).is_err()
            {
                return Err(self.failed("an answer with an invalid Location"));
            }
        }
        let downgrade = from.scheme() == "https" && url.scheme() != "https";
        let known = matches!(url.scheme(), "http" | "https");
        let (host, here) = (url.host_str().unwrap_or_default(), self.base.host_str().unwrap_or_default());
        if downgrade || !known || (host != here && is_internal_host(host) && !is_internal_host(here)) {
            let shown = format!("{}://{host}", url.scheme());
            return Err(self.failed(format!("a redirect to `{shown}`, which is refused")));
        }
        Ok(url)
    }

    /// The URL of an upload that a POST started or a PATCH moved.
    pub(crate) fn upload_url(&self, from: &Url, response: &Response) -> Result<Url> {
        self.redirected(from, response)
    }
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// What went wrong with a connection: the innermost cause says it best. URLs are left out, for what they may hold.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let what = if error.is_timeout() {
        "timed out: "
    } else if error.is_connect() {
        "cannot connect: "
    } else {
        ""
    };
    let is_outermost = std::error::Error::source(error).is_none();
    if is_outermost { format!("{what}the request failed") } else { format!("{what}{cause}") }
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn limited(mut response: Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(format!("the answer has more than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The registry's own words about a failure (distribution spec, error codes), or the status.
pub(crate) async fn explain(response: Response) -> String {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    let body = limited(response, ANSWER_BYTES).await.unwrap_or_default();
    let errors = serde_json::from_slice::<Answer>(&body).map(|answer| answer.errors).unwrap_or_default();
    match errors.first() {
        Some(Item { code, message }) => {
            let shown = |text: &str| crate::error::printable(text.as_bytes());
            let code = code.to_lowercase().replace('_', " ");
            if message.is_empty() || message.eq_ignore_ascii_case(&code) {
                format!("{} ({status})", shown(&code))
            } else {
                format!("{}: {} ({status})", shown(&code), shown(message))
            }
        }
        None => format!("the registry answers {status}"),
    }
}
