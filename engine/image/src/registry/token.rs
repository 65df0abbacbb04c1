//! Authorization of requests: Basic, and tokens of the registry's own service.
//!
//! Follows the distribution project's token authentication, with both of its ways: `GET` with Basic for a name and a
//! password, and OAuth2's `POST` with `grant_type=refresh_token` for an identity token. Tokens are kept by the set of
//! scopes they are for, until shortly before they expire or a registry refuses them.

use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::{Credential, Secret};
use super::challenge::{Challenge, check_realm, parse_challenges};
use super::http::{ANSWER_BYTES, Host, describe, explain, limited};
use super::retry::is_busy;
use crate::error::{Error, Result};
use crate::store::lock;

/// How long a token is good when its service does not say (distribution's token specification).
const USUAL_LIFE: u64 = 60;
/// How long before its end a token is not used any more.
const MARGIN: u64 = 10;
/// Who we are to a token service.
const CLIENT_ID: &str = "cooper";

/// A token and its end.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    secret: Secret,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Host {
    /// The value of the header for a scope; none as long as the registry asked for nothing.
    pub(super) async fn authorization(&self, scope: &str) -> Result<Option<HeaderValue>> {
        let challenge = lock(&self.challenge).clone();
        let value = match (challenge, &self.credential) {
            (None, _) => return Ok(None),
            (Some(_), Some(Credential::Registry { token })) => format!("Bearer {}", token.reveal()),
            (Some(Challenge::Basic), Some(Credential::Password { username, password })) => {
                basic(username, password)
            }
            (Some(Challenge::Basic), _) => return Ok(None),
            (Some(Challenge::Bearer { realm, service }), _) => {
                let token = match self.known_token(scope) {
                    Some(token) => token,
                    None => {
                        let _turn = self.fetching.lock().await;
                        match self.known_token(scope) {
                            Some(token) => token,
                            None => self.fetch_token(&realm, service.as_deref(), scope).await?,
                        }
                    }
                };
                format!("Bearer {}", token.reveal())
            }
        };
        self.sensitive(&value).map(Some)
    }

    fn known_token(&self, scope: &str) -> Option<Secret> {
        let tokens = lock(&self.tokens);
        tokens.get(scope).filter(|token| Instant::now() < token.until).map(|token| token.secret.clone())
    }

    fn sensitive(&self, value: &str) -> Result<HeaderValue> {
        let value = HeaderValue::try_from(value).map_err(|_| self.denied("the credential is not valid"));
        value.map(|mut value| {
            value.set_sensitive(true);
            value
        })
    }

    /// Keeps what a registry asks for; `shown` is the authorization that was not enough.
    pub(super) async fn accept_challenge(
        &self,
        response: Response,
        scope: &str,
        shown: Option<&HeaderValue>,
    ) -> Result<()> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = parse_challenges(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some(challenge) = challenge else {
            return Err(self.refused(response).await);
        };
        if challenge == Challenge::Basic {
            match &self.credential {
                None => return Err(self.denied("it wants a name and a password, and none is known")),
                Some(Credential::Identity { .. }) => {
                    return Err(self.denied("it wants a name and a password, and an identity token is known"));
                }
                Some(_) => {}
            }
        }
        // A token that was refused is of no use any more; one that another request got in between is.
        let refused = |token: &Token| {
            let value = format!("Bearer {}", token.secret.reveal());
            shown.is_some_and(|shown| shown.as_bytes() == value.as_bytes())
        };
        let mut tokens = lock(&self.tokens);
        if tokens.get(scope).is_some_and(refused) {
            tokens.remove(scope);
        }
        drop(tokens);
        *lock(&self.challenge) = Some(challenge);
        Ok(())
    }

    async fn fetch_token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<Secret> {
        let mut url = check_realm(self.base(), realm, self.credential.is_some(), &self.allowed)?;
        let mut pairs: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
        let mut authorization = None;
        let mut form = None;
        match &self.credential {
            Some(Credential::Identity { token }) => {
                pairs.push(("grant_type", "refresh_token"));
                pairs.push(("client_id", CLIENT_ID));
                pairs.push(("refresh_token", token.reveal()));
                pairs.push(("scope", scope));
                form = Some(form_of(&pairs));
            }
            other => {
                pairs.extend(scope.split(' ').filter(|part| !part.is_empty()).map(|part| ("scope", part)));
                url.query_pairs_mut().extend_pairs(pairs);
                if let Some(Credential::Password { username, password }) = other {
                    authorization = Some(self.sensitive(&basic(username, password))?);
                }
            }
        }
        let response = self.ask_for_token(&url, authorization, form).await?;
        let body = limited(response, ANSWER_BYTES).await.map_err(|reason| self.denied(reason))?;
        let none = || self.denied("its token service gives no token");
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| none())?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let secret = Secret::new(token.ok_or_else(none)?);
        let life = answer.expires_in.unwrap_or(USUAL_LIFE).max(USUAL_LIFE).saturating_sub(MARGIN);
        // A day is as good as for ever here, and cannot be too far for the clock.
        let until = Instant::now() + Duration::from_secs(life.min(86_400));
        lock(&self.tokens).insert(scope.to_owned(), Token { secret: secret.clone(), until });
        Ok(secret)
    }

    async fn ask_for_token(
        &self,
        url: &Url,
        authorization: Option<HeaderValue>,
        form: Option<String>,
    ) -> Result<Response> {
        let client = self.client_for(url)?;
        let mut attempt = 1;
        loop {
            let method = if form.is_some() { Method::POST } else { Method::GET };
            let mut request = client.request(method, url.clone());
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value);
            }
            if let Some(form) = &form {
                request =
                    request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
            }
            let wait = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                // GitLab's service answers 404 now and then, and the next time it does not.
                Ok(response)
                    if is_busy(response.status())
                        || (response.status() == StatusCode::NOT_FOUND && attempt == 1) =>
                {
                    let wait = self.retry.wait(attempt, Some(response.headers()));
                    wait.ok_or_else(|| self.token_refused(response.status()))?
                }
                Ok(response) => return Err(self.token_refused(response.status())),
                Err(error) => self.retry.wait(attempt, None).ok_or_else(|| {
                    self.denied(format!("its token service does not answer: {}", describe(&error)))
                })?,
            };
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    fn token_refused(&self, status: StatusCode) -> Error {
        self.denied(format!("its token service answers {status}"))
    }

    pub(super) fn denied(&self, reason: impl Into<String>) -> Error {
        Error::Auth { host: self.name.clone(), reason: reason.into() }
    }

    pub(super) async fn refused(&self, response: Response) -> Error {
        let message = explain(response).await;
        let hint = match &self.credential {
            None => " (no credential is known for it)".to_owned(),
            // Shells and compose files eat the dollar of Harbor's robot accounts.
            Some(Credential::Password { username, .. })
                if username.contains("robot") && !username.contains('$') =>
            {
                format!(
                    " (the user `{}` looks like a robot account without its `$`)",
                    crate::error::printable(username.as_bytes())
                )
            }
            Some(_) => String::new(),
        };
        self.denied(format!("{message}{hint}"))
    }
}

fn basic(username: &str, password: &Secret) -> String {
    use base64::Engine as _;
    let pair = format!("{username}:{}", password.reveal());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// Pairs as the body of a form; the URL only lends its encoder.
pub(super) fn form_of(pairs: &[(&str, &str)]) -> String {
    match Url::parse("http://form/") {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(pairs);
            url.query().unwrap_or_default().to_owned()
        }
        Err(_) => String::new(),
    }
}
