//! Credentials of registries, and how a registry asks for them.
//!
//! A [`Keychain`] is Docker's `config.json`, given as bytes by whoever may read files. A secret's `Debug` is dots,
//! and it goes only to the host that it belongs to:
//!
//! - a challenge counts only when the registry itself answered with it, never a host that a redirect led to;
//! - Basic credentials go to the registry, and to the token service (`realm`) that the registry named. Over TLS that
//!   service may be another host (Docker Hub's is), but it must be https; a registry without TLS may only name a
//!   service on its own host, since anybody on the way could have written the name;
//! - a realm that is a loopback, link-local or unspecified address is refused unless the registry has the same host,
//!   so a registry cannot make us talk to the pod's own services.
//!
//! Identity tokens and credential helpers are refused by name when the registry they are for is used.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::reference::{DEFAULT_REGISTRY, Reference, is_loopback_host};

/// Bound on a configuration file, in bytes.
const CONFIG_BYTES: usize = 1 << 20;

/// A password or token. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that sends it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Name and password for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: Secret,
}

/// What is known for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Credential(Credential),
    /// Something is configured that we do not do; the text names it.
    Refused(&'static str),
}

/// Credentials by registry, and by namespaces in registries.
#[derive(Debug, Clone, Default)]
pub struct Keychain {
    entries: BTreeMap<String, Known>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(rename = "credsStore", default)]
    helper_for_all: Option<String>,
    #[serde(rename = "credHelpers", default)]
    helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Keychain {
    /// No credentials: everything is asked for anonymously.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads Docker's `config.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] when it is no such file; the message holds nothing of its contents.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |reason: &str| Error::document("docker config.json", reason);
        if bytes.len() > CONFIG_BYTES {
            return Err(wrong("it is longer than 1 MiB"));
        }
        // The parser's own message could quote a secret; line and column cannot.
        let file: ConfigFile = serde_json::from_slice(bytes)
            .map_err(|error| wrong(&format!("line {}, column {}", error.line(), error.column())))?;
        let mut entries = BTreeMap::new();
        for (name, entry) in &file.auths {
            let known =
                entry.known().map_err(|reason| wrong(&format!("`auths` entry `{name}`: {reason}")))?;
            let known = known.or(file
                .helper_for_all
                .is_some()
                .then_some(Known::Refused("a credential store (credsStore)")));
            if let Some(known) = known {
                entries.insert(normal_name(name), known);
            }
        }
        for name in file.helpers.keys() {
            entries.insert(normal_name(name), Known::Refused("a credential helper (credHelpers)"));
        }
        Ok(Self { entries })
    }

    /// Adds a credential for a registry (`host[:port]`) or a namespace in one (`host/group`).
    pub fn insert(&mut self, name: &str, credential: Credential) {
        self.entries.insert(normal_name(name), Known::Credential(credential));
    }

    /// The credential for a repository: that of the longest namespace that contains it, else the registry's.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] when what is configured is not supported.
    pub fn find(&self, reference: &Reference) -> Result<Option<&Credential>> {
        let name = reference.name();
        let mut prefix = name.as_str();
        loop {
            match self.entries.get(prefix) {
                Some(Known::Credential(credential)) => return Ok(Some(credential)),
                Some(Known::Refused(what)) => {
                    let reason = format!("{what} is configured for `{prefix}`, which is not supported");
                    return Err(Error::Auth { host: reference.registry().to_string(), reason });
                }
                None => {}
            }
            match prefix.rsplit_once('/') {
                Some((shorter, _)) => prefix = shorter,
                None => return Ok(None),
            }
        }
    }
}

impl AuthEntry {
    fn known(&self) -> Result<Option<Known>, &'static str> {
        let set = |value: &Option<String>| value.as_deref().is_some_and(|text| !text.is_empty());
        if set(&self.identitytoken) {
            return Ok(Some(Known::Refused("an identity token (identitytoken)")));
        }
        if set(&self.registrytoken) {
            return Ok(Some(Known::Refused("a registry token (registrytoken)")));
        }
        if let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| "`auth` is not base64")?;
            let text = String::from_utf8(decoded).map_err(|_| "`auth` is not text")?;
            let (username, password) = text.split_once(':').ok_or("`auth` has no colon")?;
            // Old clients padded with zero bytes.
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some(Known::Credential(Credential { username: username.to_owned(), password })));
        }
        match (&self.username, &self.password) {
            (Some(username), Some(password)) if !username.is_empty() => {
                let password = Secret::new(password.clone());
                Ok(Some(Known::Credential(Credential { username: username.clone(), password })))
            }
            _ => Ok(None),
        }
    }
}

/// Takes scheme and API version off a key; Docker Hub has several names.
fn normal_name(name: &str) -> String {
    let name = name.strip_prefix("https://").or(name.strip_prefix("http://")).unwrap_or(name);
    let name = name.trim_end_matches('/');
    let name = name.strip_suffix("/v1").or(name.strip_suffix("/v2")).unwrap_or(name);
    match name {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DEFAULT_REGISTRY.to_owned(),
        other => other.to_owned(),
    }
}

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token from a service.
    Bearer {
        /// The service's URL.
        realm: String,
        /// The registry's name there.
        service: Option<String>,
    },
}

/// Parses `WWW-Authenticate` (RFC 9110, 11.6.1), as far as registries use it: one challenge a header, or several with
/// commas. Bearer is preferred.
pub(crate) fn parse_challenges<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        let mut rest = header.trim();
        while !rest.is_empty() {
            let (scheme, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let (parameters, left) = parse_parameters(after);
            if scheme.eq_ignore_ascii_case("bearer") {
                let value = |name: &str| parameters.get(name).cloned();
                if let Some(realm) = value("realm") {
                    return Some(Challenge::Bearer { realm, service: value("service") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            rest = left.trim_start_matches([',', ' ']);
        }
    }
    basic
}

/// Parses `name=value` pairs with commas between them, until something else comes.
fn parse_parameters(mut text: &str) -> (BTreeMap<String, String>, &str) {
    let mut parameters = BTreeMap::new();
    loop {
        let start = text.trim_start_matches([',', ' ']);
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = start.find(|c| !is_token(c)).unwrap_or(start.len());
        let (name, after) = start.split_at(end);
        let Some(value) = after.strip_prefix('=').filter(|_| !name.is_empty()) else {
            return (parameters, start);
        };
        let (value, rest) = match value.strip_prefix('"') {
            Some(quoted) => {
                let mut text = String::new();
                let mut characters = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, c)) = characters.next() {
                    match c {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
                        _ => text.push(c),
                    }
                }
                (text, &quoted[end..])
            }
            None => {
                let end = value.find([',', ' ']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        parameters.insert(name.to_ascii_lowercase(), value);
        text = rest;
    }
}

/// Checks where a registry wants a token to be fetched; see the module's rules.
pub(crate) fn check_realm(registry: &Url, realm: &str) -> Result<Url> {
    let host = registry.host_str().unwrap_or_default().to_owned();
    let refuse = |reason: &str| {
        let realm = crate::error::printable(realm.as_bytes());
        Error::Auth {
            host: host.clone(),
            reason: format!("its token service `{realm}` is refused: {reason}"),
        }
    };
    let url: Url = realm.parse().map_err(|_| refuse("not a URL"))?;
    let realm_host = url.host_str().unwrap_or_default();
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("it holds credentials"));
    }
    if realm_host == host {
        let downgrade = registry.scheme() == "https" && url.scheme() != "https";
        let known = matches!(url.scheme(), "http" | "https");
        return if downgrade || !known { Err(refuse("it is not https")) } else { Ok(url) };
    }
    if url.scheme() != "https" {
        return Err(refuse("it is not https"));
    }
    if registry.scheme() != "https" {
        return Err(refuse("a registry without TLS may only name its own host"));
    }
    if is_internal_host(realm_host) {
        return Err(refuse("it is an address of this machine or link"));
    }
    Ok(url)
}

/// Whether a URL's host is an address that only this machine or link can mean.
pub(crate) fn is_internal_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    if is_loopback_host(address) || address.ends_with(".localhost") {
        return true;
    }
    match address.parse() {
        Ok(std::net::IpAddr::V4(address)) => address.is_link_local() || address.is_unspecified(),
        Ok(std::net::IpAddr::V6(address)) => {
            address.is_unicast_link_local()
                || address.is_unspecified()
                || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback() || v4.is_link_local())
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(keychain: &Keychain, reference: &str) -> Option<String> {
        let reference: Reference = reference.parse().unwrap();
        keychain.find(&reference).unwrap().map(|c| format!("{}:{}", c.username, c.password.reveal()))
    }

    #[test]
    fn credentials_are_found_by_the_longest_name() {
        let config = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
            "r.example":{"username":"host","password":"a:b"},
            "r.example/group":{"username":"group","password":"x"},
            "http://plain.example:5000":{"auth":"cDpxAAA="}, "empty.example":{}}}"#;
        let keychain = Keychain::parse(config).unwrap();
        let check = |reference: &str, expected: Option<&str>| {
            assert_eq!(find(&keychain, reference).as_deref(), expected, "{reference}");
        };
        check("debian", Some("hub:pw"));
        check("r.example/other/app", Some("host:a:b"));
        check("r.example/group/app", Some("group:x"));
        check("r.example/group2/app", Some("host:a:b"));
        check("plain.example:5000/a", Some("p:q"));
        check("plain.example/a", None);
        check("empty.example/a", None);
        check("xr.example/a", None);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name_where_it_matters() {
        let config = br#"{"auths":{"a.example":{"identitytoken":"s3cret"},"b.example":{}},
            "credsStore":"desktop","credHelpers":{"c.example":"ecr-login"}}"#;
        let keychain = Keychain::parse(config).unwrap();
        let check = |reference: &str, expected: &str| {
            let error = keychain.find(&reference.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        };
        check("a.example/x", "identitytoken");
        check("b.example/x", "credsStore");
        check("c.example/x", "credHelpers");
        assert_eq!(find(&keychain, "d.example/x"), None);
    }

    #[test]
    fn secrets_never_print() {
        let keychain = Keychain::parse(br#"{"auths":{"a":{"username":"u","password":"s3cret"}}}"#).unwrap();
        assert!(!format!("{keychain:?}").contains("s3cret"));
        for bad in [r#"{"auths":{"a":{"auth":"s3cret!"}}}"#, r#"{"auths":"s3cret"}"#] {
            let error = Keychain::parse(bad.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
    }

    #[test]
    fn challenges_are_parsed_as_registries_write_them() {
        let check = |header: &str, expected: Option<Challenge>| {
            assert_eq!(parse_challenges([header].into_iter()), expected, "{header}");
        };
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        check(
            r#"Bearer realm="https://a/t",service="s",scope="x:y:pull,push""#,
            bearer("https://a/t", Some("s")),
        );
        check(r#"bearer realm=https://a/t"#, bearer("https://a/t", None));
        check(r#"Basic realm="x", Bearer realm="https://a""#, bearer("https://a", None));
        check(r#"Basic realm="a \"b\"""#, Some(Challenge::Basic));
        check("Basic", Some(Challenge::Basic));
        check("Negotiate", None);
        check("", None);
        check(r#"Bearer service="no realm""#, None);
        check("Bearer realm=\"unterminated", bearer("unterminated", None));
    }

    #[test]
    fn credentials_go_only_where_they_belong() {
        let check = |registry: &str, realm: &str, allowed: bool| {
            let result = check_realm(&registry.parse().unwrap(), realm);
            assert_eq!(result.is_ok(), allowed, "{registry} {realm}: {result:?}");
        };
        check("https://registry-1.docker.io", "https://auth.docker.io/token", true);
        check("https://r.example", "https://r.example/token", true);
        check("https://r.example", "http://r.example/token", false);
        check("https://r.example", "http://evil.example/token", false);
        check("https://r.example", "https://169.254.169.254/token", false);
        check("https://r.example", "https://127.0.0.1/token", false);
        check("https://r.example", "https://[::ffff:127.0.0.1]/token", false);
        check("https://r.example", "https://user:pw@auth.example/token", false);
        check("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", true);
        check("http://127.0.0.1:5000", "https://evil.example/token", false);
        check("http://r.example", "http://evil.example/token", false);
        check("https://r.example", "file:///etc/passwd", false);
        check("https://r.example", "/token", false);
    }
}
