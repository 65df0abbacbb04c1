//! Talking to one registry: requests with credentials, tokens, retries and redirects.
//!
//! A [`Host`] is one registry as one user of it sees it. [`Host::send`] is the only way out: it adds the
//! authorization for a scope, answers a challenge once, waits and tries again when the registry is busy, and never
//! follows a redirect by itself; [`Host::get_following`] does, without authorization once the host differs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::{Challenge, Credential, Secret, check_realm, is_internal_host, parse_challenges};
use crate::error::{Error, Result};
use crate::store::lock;

/// Tries of a request that may be repeated.
pub(crate) const ATTEMPTS: u32 = 5;
/// The longest wait that a registry may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Redirects that are followed for one blob.
const MOST_REDIRECTS: usize = 5;
/// Bound on the body of an error or a token, in bytes.
const ANSWER_BYTES: usize = 64 << 10;

/// A registry, and the credential to use with it.
#[derive(Debug)]
pub(crate) struct Host {
    client: Client,
    base: Url,
    /// The registry's name in messages.
    name: String,
    credential: Option<Credential>,
    first_wait: Duration,
    /// What the registry asked for, once it did.
    challenge: Mutex<Option<Challenge>>,
    /// Tokens by scope.
    tokens: Mutex<BTreeMap<String, Secret>>,
}

/// Who may see the authorization.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Registry,
    Stranger,
}

impl Host {
    pub(crate) fn new(
        client: Client,
        base: Url,
        name: String,
        credential: Option<Credential>,
        first_wait: Duration,
    ) -> Self {
        let (challenge, tokens) = (Mutex::default(), Mutex::default());
        Self { client, base, name, credential, first_wait, challenge, tokens }
    }

    /// The URL of a path below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        self.base.join(&format!("/v2/{path}")).map_err(|_| self.failed("an invalid path"))
    }

    fn failed(&self, message: impl Into<String>) -> Error {
        let operation = format!("cannot use registry `{}`", self.name);
        Error::Registry { operation, status: None, message: message.into() }
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
        let mut challenged = false;
        let mut attempt = 1;
        loop {
            let mut request = build(self.client.request(method.clone(), url.clone()));
            if trust == Trust::Registry
                && let Some(value) = self.authorization(scope).await?
            {
                request = request.header(AUTHORIZATION, value);
            }
            let last = !repeat || attempt >= ATTEMPTS;
            match request.send().await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && trust == Trust::Registry => {
                    if challenged {
                        return Err(self.refused(response).await);
                    }
                    challenged = true;
                    self.accept_challenge(response, scope).await?;
                    continue;
                }
                Ok(response) if is_busy(response.status()) && !last => {
                    let wait = retry_after(response.headers()).unwrap_or_else(|| self.wait(attempt));
                    tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
                }
                Ok(response) => return Ok(response),
                Err(error) if last => return Err(self.failed(describe(&error))),
                Err(error) => {
                    tracing::debug!(registry = self.name, error = describe(&error), attempt, "trying again");
                    tokio::time::sleep(self.wait(attempt)).await;
                }
            }
            attempt += 1;
        }
    }

    /// Doubles with every attempt.
    fn wait(&self, attempt: u32) -> Duration {
        self.first_wait.saturating_mul(1 << attempt.min(10))
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

    /// The URL of an upload that a POST started.
    pub(crate) fn upload_url(&self, from: &Url, response: &Response) -> Result<Url> {
        self.redirected(from, response)
    }

    /// The value of the header for a scope; none as long as the registry asked for nothing.
    async fn authorization(&self, scope: &str) -> Result<Option<HeaderValue>> {
        let challenge = lock(&self.challenge).clone();
        let value = match challenge {
            None => return Ok(None),
            Some(Challenge::Basic) => match &self.credential {
                Some(credential) => basic(credential),
                None => return Ok(None),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let known = lock(&self.tokens).get(scope).cloned();
                let token = match known {
                    Some(token) => token,
                    None => self.fetch_token(&realm, service.as_deref(), scope).await?,
                };
                format!("Bearer {}", token.reveal())
            }
        };
        let mut value =
            HeaderValue::try_from(value).map_err(|_| self.denied("the credential is not valid"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    async fn accept_challenge(&self, response: Response, scope: &str) -> Result<()> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = parse_challenges(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some(challenge) = challenge else {
            return Err(self.refused(response).await);
        };
        let plain = self.credential.is_none() && challenge == Challenge::Basic;
        if plain {
            return Err(self.denied("it wants a name and a password, and none is known"));
        }
        // A token that was refused is of no use any more.
        lock(&self.tokens).remove(scope);
        *lock(&self.challenge) = Some(challenge);
        Ok(())
    }

    async fn fetch_token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<Secret> {
        let mut url = check_realm(&self.base, realm)?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for part in scope.split(' ').filter(|part| !part.is_empty()) {
                query.append_pair("scope", part);
            }
        }
        let mut attempt = 1;
        let response = loop {
            let mut request = self.client.get(url.clone());
            if let Some(credential) = &self.credential {
                request = request.basic_auth(&credential.username, Some(credential.password.reveal()));
            }
            match request.send().await {
                Ok(response) if is_busy(response.status()) && attempt < ATTEMPTS => {
                    let wait = retry_after(response.headers()).unwrap_or_else(|| self.wait(attempt));
                    tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
                }
                Ok(response) => break response,
                Err(error) if attempt >= ATTEMPTS => {
                    return Err(
                        self.denied(format!("its token service does not answer: {}", describe(&error)))
                    );
                }
                Err(_) => tokio::time::sleep(self.wait(attempt)).await,
            }
            attempt += 1;
        };
        if !response.status().is_success() {
            let status = response.status();
            return Err(self.denied(format!("its token service answers {status}")));
        }
        let body = limited(response, ANSWER_BYTES).await.map_err(|reason| self.denied(reason))?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| self.denied("its token service gives no token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = Secret::new(token.ok_or_else(|| self.denied("its token service gives no token"))?);
        lock(&self.tokens).insert(scope.to_owned(), token.clone());
        Ok(token)
    }

    fn denied(&self, reason: impl Into<String>) -> Error {
        Error::Auth { host: self.name.clone(), reason: reason.into() }
    }

    async fn refused(&self, response: Response) -> Error {
        let message = explain(response).await;
        let hint = if self.credential.is_some() { "" } else { " (no credential is known for it)" };
        self.denied(format!("{message}{hint}"))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(credential: &Credential) -> String {
    use base64::Engine as _;
    let pair = format!("{}:{}", credential.username, credential.password.reveal());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
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
