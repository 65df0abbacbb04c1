//! Credentials from the identity of the pod itself: Amazon ECR, Google's registries, Azure's.
//!
//! What docker's helper programs do, built in. A registry is known by its host's name ([`Cloud::of`]), and only then
//! and only when no other credential is known somebody is asked, with what [`CloudOptions`] holds: values of the
//! environment, and where the services are, which tests replace. The ways:
//!
//! - ECR: AWS keys (given, by a web identity from STS, by the container's credentials endpoint, by the instance's
//!   metadata), with which `GetAuthorizationToken` is signed (Signature Version 4);
//! - Google: the metadata server's access token of the default service account;
//! - Azure: a token of Entra by workload identity or the instance's metadata, exchanged at the registry itself.
//!
//! What must hold: as for all credentials ([`super::auth`]), what comes out goes to its registry only; answers are bounded
//! and waits short, since most pods have no such identity; nothing of a secret is in a message.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::auth::{Credential, Secret};
use super::http::{ANSWER_BYTES, limited};
use super::transport::Transport;
use crate::error::{Error, Result};

/// Time that a service has for an answer. A metadata server is near, or there is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// The user's name that goes with a token of Google.
const GOOGLE_USER: &str = "oauth2accesstoken";
/// The user's name that goes with a refresh token of Azure.
const AZURE_USER: &str = "00000000-0000-0000-0000-000000000000";
/// What a token of Entra is for, when a registry shall take it.
const AZURE_RESOURCE: &str = "https://management.azure.com/";

/// Whose registry it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon's, in this region.
    Amazon(String),
    /// Google's.
    Google,
    /// Azure's.
    Azure,
}

impl Cloud {
    /// The cloud that a registry's host (without port) belongs to.
    pub fn of(host: &str) -> Option<Self> {
        let labels: Vec<&str> = host.split('.').collect();
        match labels.as_slice() {
            [account, "dkr", "ecr" | "ecr-fips", region, "amazonaws", "com"]
            | [account, "dkr", "ecr", region, "amazonaws", "com", "cn"]
                if account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                Some(Self::Amazon((*region).to_owned()))
            }
            ["gcr", "io"] | [_, "gcr", "io"] => Some(Self::Google),
            [name, "pkg", "dev"] if name.ends_with("-docker") => Some(Self::Google),
            [_, "azurecr", "io" | "cn" | "us" | "de"] => Some(Self::Azure),
            _ => None,
        }
    }
}

/// Keys of AWS.
#[derive(Debug, Clone)]
pub struct AmazonKeys {
    /// `AWS_ACCESS_KEY_ID`
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret: Secret,
    /// `AWS_SESSION_TOKEN`
    pub session: Option<Secret>,
}

/// Where AWS keys come from, in this order; and where the services are when that does not follow from the region.
#[derive(Debug, Clone, Default)]
pub struct AmazonOptions {
    /// Given.
    pub keys: Option<AmazonKeys>,
    /// `AWS_ROLE_ARN` and the contents of `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub web_identity: Option<(String, Secret)>,
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`, or the relative one on its host, and the authorization for it.
    pub container: Option<(String, Option<Secret>)>,
    /// The instance's metadata; none when they are disabled.
    pub metadata: Option<String>,
    /// STS.
    pub sts: Option<String>,
    /// ECR's API.
    pub ecr: Option<String>,
}

/// Where tokens of Entra come from.
#[derive(Debug, Clone, Default)]
pub struct AzureOptions {
    /// `AZURE_AUTHORITY_HOST`
    pub authority: Option<String>,
    /// `AZURE_TENANT_ID`
    pub tenant: Option<String>,
    /// `AZURE_CLIENT_ID`
    pub client: Option<String>,
    /// The contents of `AZURE_FEDERATED_TOKEN_FILE`.
    pub federated: Option<Secret>,
    /// The instance's metadata.
    pub metadata: Option<String>,
}

/// What is known of the pod's own identity.
#[derive(Debug, Clone, Default)]
pub struct CloudOptions {
    /// For ECR.
    pub amazon: AmazonOptions,
    /// The metadata server of Google; none when it is not to be asked.
    pub google: Option<String>,
    /// For Azure.
    pub azure: AzureOptions,
    /// Registries under names of their own, by `host[:port]`.
    pub hosts: BTreeMap<String, Cloud>,
}

/// Asks for the credential of a registry; none when the pod has no such identity.
pub(super) struct Identity<'i> {
    pub(super) transport: &'i Transport,
    pub(super) options: &'i CloudOptions,
    /// The registry, `host[:port]`.
    pub(super) registry: &'i str,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
}

/// A request for something small.
#[derive(Default)]
struct Ask<'a> {
    headers: Vec<(&'a str, String)>,
    form: Option<String>,
    put: bool,
    /// The content type of the body.
    kind: Option<&'a str>,
}

impl Identity<'_> {
    fn failed(&self, what: &str, reason: impl Into<String>) -> Error {
        Error::Auth { host: self.registry.to_owned(), reason: format!("{what}: {}", reason.into()) }
    }

    /// The credential that the pod's identity gives for a registry.
    pub(super) async fn credential(&self) -> Result<Option<Credential>> {
        let host = self.registry.split(':').next().unwrap_or_default();
        let Some(cloud) = self.options.hosts.get(self.registry).cloned().or_else(|| Cloud::of(host)) else {
            return Ok(None);
        };
        match cloud {
            Cloud::Amazon(region) => self.amazon(&region).await,
            Cloud::Google => self.google().await,
            Cloud::Azure => self.azure().await,
        }
    }

    /// Asks; none when nobody is there.
    async fn ask(&self, what: &str, url: &str, ask: Ask<'_>) -> Result<Option<(u16, Vec<u8>)>> {
        let url: Url = url.parse().map_err(|_| self.failed(what, "its address is no URL"))?;
        let client = self.transport.client("", url.scheme() == "https")?;
        let method = match (&ask.form, ask.put) {
            (Some(_), _) => Method::POST,
            (None, true) => Method::PUT,
            (None, false) => Method::GET,
        };
        let mut request = client.request(method, url).timeout(PATIENCE);
        for (name, value) in ask.headers {
            request = request.header(name, super::header(&value)?);
        }
        if let Some(form) = ask.form {
            let kind = ask.kind.unwrap_or("application/x-www-form-urlencoded");
            request = request.header(CONTENT_TYPE, kind).body(form);
        }
        let Ok(response) = request.send().await else { return Ok(None) };
        let status = response.status().as_u16();
        let body = limited(response, ANSWER_BYTES).await.map_err(|reason| self.failed(what, reason))?;
        Ok(Some((status, body)))
    }

    /// Asks for JSON; none when nobody is there or there is nothing.
    async fn ask_json(&self, what: &str, url: &str, ask: Ask<'_>) -> Result<Option<Value>> {
        match self.ask(what, url, ask).await? {
            None | Some((404, _)) => Ok(None),
            Some((200, body)) => {
                let value = serde_json::from_slice(&body);
                value.map(Some).map_err(|_| self.failed(what, "the answer is no JSON"))
            }
            Some((status, _)) => Err(self.failed(what, format!("it answers {status}"))),
        }
    }

    // ---- Google

    async fn google(&self) -> Result<Option<Credential>> {
        let Some(server) = &self.options.google else { return Ok(None) };
        let url = format!("{server}/computeMetadata/v1/instance/service-accounts/default/token");
        let headers = vec![("Metadata-Flavor", "Google".to_owned())];
        let what = "the metadata server of Google";
        let answer = self.ask_json(what, &url, Ask { headers, ..Ask::default() }).await?;
        Ok(answer.and_then(|answer| {
            let token = answer["access_token"].as_str().filter(|token| !token.is_empty())?;
            Some(Credential::password(GOOGLE_USER, token))
        }))
    }

    // ---- Azure

    async fn azure(&self) -> Result<Option<Credential>> {
        let Some(token) = self.entra().await? else { return Ok(None) };
        let url = format!("{}://{}/oauth2/exchange", self.scheme, self.registry);
        let mut pairs = vec![("grant_type", "access_token"), ("service", self.registry)];
        if let Some(tenant) = &self.options.azure.tenant {
            pairs.push(("tenant", tenant));
        }
        pairs.push(("access_token", token.reveal()));
        let form = Some(super::token::form_of(&pairs));
        let what = "the exchange of a token at the registry";
        let answer = self.ask_json(what, &url, Ask { form, ..Ask::default() }).await?;
        let answer = answer.ok_or_else(|| self.failed(what, "there is none"))?;
        let token = answer["refresh_token"].as_str().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| self.failed(what, "it gives no token"))?;
        Ok(Some(Credential::password(AZURE_USER, token)))
    }

    /// A token of Entra.
    async fn entra(&self) -> Result<Option<Secret>> {
        let AzureOptions { authority, tenant, client, federated, metadata } = &self.options.azure;
        let answer = if let (Some(tenant), Some(client), Some(federated)) = (tenant, client, federated) {
            let authority = authority.as_deref().unwrap_or("https://login.microsoftonline.com");
            let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
            let scope = format!("{AZURE_RESOURCE}.default");
            let form = super::token::form_of(&[
                ("grant_type", "client_credentials"),
                ("client_id", client),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", federated.reveal()),
                ("scope", &scope),
            ]);
            self.ask_json("the workload identity of Azure", &url, Ask { form: Some(form), ..Ask::default() })
                .await?
        } else if let Some(metadata) = metadata {
            let mut query = format!("api-version=2018-02-01&resource={AZURE_RESOURCE}");
            if let Some(client) = client {
                // Writing to a string does not fail.
                let _ = write!(query, "&client_id={client}");
            }
            let url = format!("{metadata}/metadata/identity/oauth2/token?{query}");
            let headers = vec![("Metadata", "true".to_owned())];
            self.ask_json("the instance's metadata", &url, Ask { headers, ..Ask::default() }).await?
        } else {
            None
        };
        Ok(answer.and_then(|answer| answer["access_token"].as_str().map(Secret::new)))
    }

    // ---- Amazon

    async fn amazon(&self, region: &str) -> Result<Option<Credential>> {
        let Some(keys) = self.amazon_keys(region).await? else { return Ok(None) };
        let china = if self.registry.ends_with(".cn") { ".cn" } else { "" };
        let own = format!("https://api.ecr.{region}.amazonaws.com{china}");
        let url = self.options.amazon.ecr.clone().unwrap_or(own);
        let what = "ECR's GetAuthorizationToken";
        let host: Url = url.parse().map_err(|_| self.failed(what, "its address is no URL"))?;
        let mut authority = host.host_str().unwrap_or_default().to_owned();
        if let Some(port) = host.port() {
            let _ = write!(authority, ":{port}");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let kind = "application/x-amz-json-1.1";
        let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
        let headers =
            vec![("content-type", kind.to_owned()), ("host", authority), ("x-amz-target", target.to_owned())];
        let mut headers = sign(&keys, region, "ecr", headers, b"{}", now);
        headers.retain(|(name, _)| !matches!(*name, "host" | "content-type"));
        let form = Some("{}".to_owned());
        let ask = Ask { headers, form, kind: Some(kind), put: false };
        let answer = self.ask_json(what, &format!("{}/", url.trim_end_matches('/')), ask).await?;
        let answer = answer.ok_or_else(|| self.failed(what, "nobody answers"))?;
        let token = answer["authorizationData"][0]["authorizationToken"].as_str().unwrap_or_default();
        let pair = STANDARD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (user, password) = pair.ok_or_else(|| self.failed(what, "it gives no token"))?;
        Ok(Some(Credential::password(user, password)))
    }

    async fn amazon_keys(&self, region: &str) -> Result<Option<AmazonKeys>> {
        let options = &self.options.amazon;
        if let Some(keys) = &options.keys {
            return Ok(Some(keys.clone()));
        }
        if let Some((role, token)) = &options.web_identity {
            let own = format!("https://sts.{region}.amazonaws.com");
            let url = options.sts.clone().unwrap_or(own);
            let form = super::token::form_of(&[
                ("Action", "AssumeRoleWithWebIdentity"),
                ("Version", "2011-06-15"),
                ("RoleArn", role),
                ("RoleSessionName", "cooper"),
                ("WebIdentityToken", token.reveal()),
            ]);
            let headers = vec![("Accept", "application/json".to_owned())];
            let what = "STS's AssumeRoleWithWebIdentity";
            let ask = Ask { headers, form: Some(form), ..Ask::default() };
            let answer = self.ask_json(what, &format!("{}/", url.trim_end_matches('/')), ask).await?;
            let answer = answer.ok_or_else(|| self.failed(what, "nobody answers"))?;
            let found = &answer["AssumeRoleWithWebIdentityResponse"]["AssumeRoleWithWebIdentityResult"]["Credentials"];
            return keys_of(found, "SessionToken")
                .map(Some)
                .ok_or_else(|| self.failed(what, "it gives no keys"));
        }
        if let Some((url, authorization)) = &options.container {
            let shown =
                authorization.iter().map(|secret| ("Authorization", secret.reveal().to_owned())).collect();
            let what = "the container's credentials endpoint";
            let answer = self.ask_json(what, url, Ask { headers: shown, ..Ask::default() }).await?;
            return Ok(answer.and_then(|answer| keys_of(&answer, "Token")));
        }
        let Some(metadata) = &options.metadata else { return Ok(None) };
        self.instance_keys(metadata).await
    }

    /// Keys from the instance's metadata, version 2: with a token of its own.
    async fn instance_keys(&self, metadata: &str) -> Result<Option<AmazonKeys>> {
        let what = "the instance's metadata";
        let text = |answer: Option<(u16, Vec<u8>)>| match answer {
            Some((200, body)) => String::from_utf8(body).ok().map(|text| text.trim().to_owned()),
            _ => None,
        };
        let headers = vec![("X-aws-ec2-metadata-token-ttl-seconds", "60".to_owned())];
        let ask = Ask { headers, put: true, ..Ask::default() };
        let Some(token) = text(self.ask(what, &format!("{metadata}/latest/api/token"), ask).await?) else {
            return Ok(None);
        };
        let with_token =
            || Ask { headers: vec![("X-aws-ec2-metadata-token", token.clone())], ..Ask::default() };
        let roles = format!("{metadata}/latest/meta-data/iam/security-credentials/");
        let Some(names) = text(self.ask(what, &roles, with_token()).await?) else { return Ok(None) };
        let Some(role) = names.lines().next().filter(|name| !name.is_empty()) else { return Ok(None) };
        let answer = self.ask_json(what, &format!("{roles}{role}"), with_token()).await?;
        Ok(answer.and_then(|answer| keys_of(&answer, "Token")))
    }
}

fn keys_of(value: &Value, session: &str) -> Option<AmazonKeys> {
    Some(AmazonKeys {
        id: value["AccessKeyId"].as_str()?.to_owned(),
        secret: Secret::new(value["SecretAccessKey"].as_str()?),
        session: value[session].as_str().map(Secret::new),
    })
}

// ---- Signature Version 4

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0_u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn signing_key(secret: &str, day: &str, region: &str, service: &str) -> [u8; 32] {
    let first = hmac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    [region, service, "aws4_request"].iter().fold(first, |key, part| hmac(&key, part.as_bytes()))
}

/// `YYYYMMDDTHHMMSSZ`
fn timestamp(seconds: u64) -> String {
    // The civil calendar from days, years starting in March.
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Adds date, session and signature to the headers of a `POST` to `/`, which are in small letters and in order.
fn sign<'h>(
    keys: &AmazonKeys,
    region: &str,
    service: &str,
    mut headers: Vec<(&'h str, String)>,
    body: &[u8],
    now: u64,
) -> Vec<(&'h str, String)> {
    let date = timestamp(now);
    let day = &date[..8];
    headers.push(("x-amz-date", date.clone()));
    headers.extend(keys.session.iter().map(|token| ("x-amz-security-token", token.reveal().to_owned())));
    headers.sort();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(&Sha256::digest(body)));
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let key = signing_key(keys.secret.reveal(), day, region, service);
    let signature = hex(&hmac(&key, text.as_bytes()));
    let id = &keys.id;
    let value =
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
    headers.push(("authorization", value));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_known_by_their_names() {
        let check = |host: &str, cloud: Option<Cloud>| assert_eq!(Cloud::of(host), cloud, "{host}");
        check("123456789012.dkr.ecr.eu-west-1.amazonaws.com", Some(Cloud::Amazon("eu-west-1".to_owned())));
        check(
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
            Some(Cloud::Amazon("cn-north-1".to_owned())),
        );
        check("12345.dkr.ecr.eu-west-1.amazonaws.com", None);
        check("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", None);
        check("gcr.io", Some(Cloud::Google));
        check("eu.gcr.io", Some(Cloud::Google));
        check("europe-west1-docker.pkg.dev", Some(Cloud::Google));
        check("evil.pkg.dev", None);
        check("gcr.io.evil.example", None);
        check("team.azurecr.io", Some(Cloud::Azure));
        check("azurecr.io", None);
        check("docker.io", None);
    }

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of AWS's documentation for the derivation of a signing key.
        let key = signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam");
        assert_eq!(hex(&key), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
        // RFC 4231, test case 2, and a key longer than a block (test case 6).
        let mac = hex(&hmac(b"Jefe", b"what do ya want for nothing?"));
        assert_eq!(mac, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let mac = hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"));
        assert_eq!(mac, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(timestamp(0), "19700101T000000Z");
        assert_eq!(timestamp(1_440_938_160), "20150830T123600Z");
        assert_eq!(timestamp(1_582_977_599), "20200229T115959Z");
    }
}
