//! Plain files of the web, by the same client that speaks to registries: its proxies, its certificates, its bounds on
//! waiting. No credential of a registry is ever sent along, and the authorization that the caller gives goes to the
//! first host only.

use std::io::{self, Read};
use std::sync::Arc;

use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, LOCATION,
};
use reqwest::{Response, StatusCode, Url};

use super::Client;
use super::http::describe;
use crate::error::{Error, Result};

/// Redirects that are followed, as Go's client does.
const MOST_REDIRECTS: usize = 10;

/// A file that is being received: a reader of its bytes.
pub struct Received {
    response: Response,
    chunk: Vec<u8>,
    used: usize,
    client: Arc<Client>,
    /// `ETag`, empty without one.
    pub etag: String,
    /// `Last-Modified`, empty without one.
    pub last_modified: String,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Received").field("etag", &self.etag).finish_non_exhaustive()
    }
}

/// A request to a server of the web.
#[derive(Debug, Default)]
pub struct WebRequest<'a> {
    /// Where.
    pub url: &'a str,
    /// Value of `Authorization`, for the URL's host only.
    pub authorization: Option<&'a str>,
    /// Names and values of further headers.
    pub headers: &'a [(String, String)],
    /// What is posted; without it the request is a GET.
    pub body: Option<Vec<u8>>,
}

/// A server's answer, after redirects.
#[derive(Debug)]
pub struct WebAnswer {
    /// Where it came from in the end.
    pub url: String,
    /// The status, which is no redirect.
    pub status: u16,
    /// `Content-Type`, empty without one.
    pub content_type: String,
    /// The body.
    pub body: Received,
}

impl Client {
    /// Asks for a file. `known` are the validators (`ETag`, `Last-Modified`) of what the caller has; none is the answer
    /// when nothing has changed since.
    ///
    /// # Errors
    ///
    /// [`Error::Registry`] with the server's status, or what went wrong with the connection; a redirect from https to
    /// http is refused.
    pub fn download(
        self: &Arc<Self>,
        url: &str,
        authorization: Option<&str>,
        known: Option<(&str, &str)>,
    ) -> Result<Option<Received>> {
        let (etag, last_modified) = known.unwrap_or_default();
        let headers: Vec<(String, String)> = [(IF_NONE_MATCH, etag), (IF_MODIFIED_SINCE, last_modified)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_string(), value.to_owned()))
            .collect();
        let answer = self.exchange(WebRequest { url, authorization, headers: &headers, body: None })?;
        match StatusCode::from_u16(answer.status).unwrap_or_default() {
            StatusCode::NOT_MODIFIED => Ok(None),
            status if status.is_success() => Ok(Some(answer.body)),
            status => Err(failed(Some(status.as_u16()), format!("the server answers {status}"))),
        }
    }

    /// Sends a request and follows redirects, those of a GET only.
    ///
    /// # Errors
    ///
    /// [`Error::Registry`] with what went wrong with the connection; a redirect from https to http is refused. A status
    /// that says no is an answer.
    pub fn exchange(self: &Arc<Self>, request: WebRequest<'_>) -> Result<WebAnswer> {
        let WebRequest { url, authorization, headers, body } = request;
        let mut url: Url = url.parse().map_err(|_| failed(None, "the URL is not valid".to_owned()))?;
        let first = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let client = self.transport.client("", url.scheme() == "https")?;
            let mut request = match &body {
                Some(body) => client.post(url.clone()).body(body.clone()),
                None => client.get(url.clone()),
            };
            let same_host = url.host_str() == first.host_str()
                && url.port_or_known_default() == first.port_or_known_default();
            if let Some(value) = authorization.filter(|_| same_host) {
                let mut value = HeaderValue::from_str(value)
                    .map_err(|_| failed(None, "the authorization is no header".to_owned()))?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let sent = self.runtime.block_on(async { request.send().await });
            let response = sent.map_err(|error| failed(None, describe(&error)))?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED && body.is_none() {
                url = redirected(&url, &response)?;
                continue;
            }
            let text = |name: HeaderName| {
                let value = response.headers().get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let (etag, last_modified, content_type) = (text(ETAG), text(LAST_MODIFIED), text(CONTENT_TYPE));
            let (chunk, client) = (Vec::new(), Arc::clone(self));
            let body = Received { response, chunk, used: 0, client, etag, last_modified };
            return Ok(WebAnswer { url: url.into(), status: status.as_u16(), content_type, body });
        }
        Err(failed(None, format!("more than {MOST_REDIRECTS} redirects")))
    }
}

fn redirected(from: &Url, response: &Response) -> Result<Url> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok());
    let to = to.ok_or_else(|| failed(None, "a redirect to nowhere".to_owned()))?;
    match (from.scheme(), to.scheme()) {
        ("http", "http" | "https") | ("https", "https") => Ok(to),
        (_, scheme) => Err(failed(None, format!("a redirect from {} to {scheme} is refused", from.scheme()))),
    }
}

fn failed(status: Option<u16>, message: String) -> Error {
    Error::Registry { operation: "cannot download".to_owned(), status, message }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() {
            let next = self.client.runtime.block_on(self.response.chunk());
            match next.map_err(|error| io::Error::other(describe(&error)))? {
                None => return Ok(0),
                Some(bytes) => {
                    self.chunk.clear();
                    self.chunk.extend_from_slice(&bytes);
                    self.used = 0;
                }
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.used);
        buffer[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}
