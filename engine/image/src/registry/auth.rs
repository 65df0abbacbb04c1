//! Credentials of registries.
//!
//! A [`Keychain`] is a list of sources, each a Docker `config.json` or a containers `auth.json`, given as bytes by
//! whoever may read files. The first source that knows a reference decides, and in it the entry with the longest
//! prefix of the repository's name: a credential for `host/group` is not sent for `host/other`. A credential that a
//! registry refuses is an error; no other one is tried.
//!
//! A secret's `Debug` is dots, and it goes only to the host that it belongs to:
//!
//! - a challenge counts only when the registry itself answered with it, never a host that a redirect led to;
//! - Basic credentials and identity tokens go to the registry, and to the token service (`realm`) that the registry
//!   named when that is on the same host, on one that is known to be the same operator's, or on one that the user
//!   allowed. A service elsewhere is asked anonymously or not at all;
//! - a service is asked over TLS, but for a registry without TLS that names its own host;
//! - a realm that is a loopback, link-local or unspecified address is refused unless the registry has the same host,
//!   so a registry cannot make us talk to the pod's own services.
//!
//! Credential helpers are other programs: whoever may start them gives a [`CredentialHelper`].

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// Bound on a configuration file, in bytes.
const CONFIG_BYTES: usize = 1 << 20;
/// The name that helpers give to identity tokens instead of a user's.
const TOKEN_USER: &str = "<token>";
/// Docker Hub's key in configuration files and helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A password or token. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the places that send or keep it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What is shown to a registry or its token service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Name and password.
    Password {
        /// The user's name.
        username: String,
        /// The password or token.
        password: Secret,
    },
    /// An OAuth2 refresh token, which the token service exchanges (`identitytoken`).
    Identity {
        /// The token.
        token: Secret,
    },
    /// A token that the registry itself takes (`registrytoken`).
    Registry {
        /// The token.
        token: Secret,
    },
}

impl Credential {
    /// A name and a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { username: username.into(), password: Secret::new(password) }
    }

    /// The credential that a helper's answer means.
    pub fn from_helper(username: &str, secret: Secret) -> Self {
        match username {
            TOKEN_USER => Self::Identity { token: secret },
            _ => Self::Password { username: username.to_owned(), password: secret },
        }
    }

    /// Who it is for, in words that may be shown.
    pub fn user(&self) -> &str {
        match self {
            Self::Password { username, .. } => username,
            Self::Identity { .. } => "(identity token)",
            Self::Registry { .. } => "(registry token)",
        }
    }
}

/// Asks programs named `docker-credential-<helper>`.
pub trait CredentialHelper: Send + Sync + fmt::Debug {
    /// The credential that a helper has for a server; none when it has none.
    ///
    /// # Errors
    ///
    /// A sentence, when the helper cannot be asked.
    fn get(&self, helper: &str, server: &str) -> Result<Option<Credential>, String>;
}

/// What a source says about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Credential(Credential),
    Helper(String),
}

/// Credentials of one file.
#[derive(Debug, Clone, Default)]
struct Source {
    entries: BTreeMap<String, Known>,
    /// The helper for everything that has no entry.
    helper: Option<String>,
}

/// Credentials by registry, and by namespaces in registries.
#[derive(Debug, Clone, Default)]
pub struct Keychain {
    sources: Vec<Source>,
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

    /// Reads Docker's `config.json` or containers' `auth.json`.
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
            if let Some(credential) = known {
                entries.insert(normal_name(name), Known::Credential(credential));
            }
        }
        for (name, helper) in file.helpers {
            entries.insert(normal_name(&name), Known::Helper(helper));
        }
        let helper = file.helper_for_all.filter(|helper| !helper.is_empty());
        Ok(Self { sources: vec![Source { entries, helper }] })
    }

    /// Adds a credential for a registry (`host[:port]`) or a namespace in one (`host/group`), to the last source.
    pub fn insert(&mut self, name: &str, credential: Credential) {
        if self.sources.is_empty() {
            self.sources.push(Source::default());
        }
        if let Some(last) = self.sources.last_mut() {
            last.entries.insert(normal_name(name), Known::Credential(credential));
        }
    }

    /// Adds the sources of another one behind those of this one.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.sources.extend(other.sources);
        self
    }

    /// The credential for a repository.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] when a helper that is configured for it cannot be asked.
    pub fn find(
        &self,
        reference: &Reference,
        helpers: Option<&dyn CredentialHelper>,
    ) -> Result<Option<Credential>> {
        for source in &self.sources {
            if let Some(found) = source.find(reference, helpers)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl Source {
    fn find(
        &self,
        reference: &Reference,
        helpers: Option<&dyn CredentialHelper>,
    ) -> Result<Option<Credential>> {
        let name = reference.name();
        let mut prefix = name.as_str();
        loop {
            match self.entries.get(prefix) {
                Some(Known::Credential(credential)) => return Ok(Some(credential.clone())),
                Some(Known::Helper(helper)) => return ask(helpers, helper, prefix, reference),
                None => {}
            }
            match prefix.rsplit_once('/') {
                Some((shorter, _)) => prefix = shorter,
                None => break,
            }
        }
        let Some(helper) = &self.helper else { return Ok(None) };
        // A desktop's configuration often names a store that a pod does not have; then there is just nothing in it.
        Ok(ask(helpers, helper, reference.registry().name(), reference).unwrap_or_else(|error| {
            tracing::warn!(%error, "the credential store cannot be asked");
            None
        }))
    }
}

fn ask(
    helpers: Option<&dyn CredentialHelper>,
    helper: &str,
    name: &str,
    reference: &Reference,
) -> Result<Option<Credential>> {
    let failed = |reason: String| Error::Auth { host: reference.registry().to_string(), reason };
    let plain = helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !plain || helper.is_empty() {
        return Err(failed("the name of its credential helper is not valid".to_owned()));
    }
    let Some(helpers) = helpers else {
        return Err(failed(format!("the credential helper `{helper}` is configured, and none can be asked")));
    };
    let server = if name == DEFAULT_REGISTRY { HUB_KEY } else { name };
    helpers.get(helper, server).map_err(|reason| failed(format!("credential helper `{helper}`: {reason}")))
}

impl AuthEntry {
    fn known(&self) -> Result<Option<Credential>, &'static str> {
        let set = |value: &Option<String>| value.clone().filter(|text| !text.is_empty()).map(Secret::new);
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Some(Credential::Identity { token }));
        }
        if let Some(token) = set(&self.registrytoken) {
            return Ok(Some(Credential::Registry { token }));
        }
        if let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| "`auth` is not base64")?;
            let text = String::from_utf8(decoded).map_err(|_| "`auth` is not text")?;
            let (username, password) = text.split_once(':').ok_or("`auth` has no colon")?;
            // Old clients padded with zero bytes.
            return Ok(Some(Credential::password(username, password.trim_end_matches('\0'))));
        }
        match (&self.username, &self.password) {
            (Some(username), Some(password)) if !username.is_empty() => {
                Ok(Some(Credential::password(username, password)))
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

// ---- writing

/// Adds a credential to the text of a `config.json`, or to a new one; everything else in it stays.
///
/// # Errors
///
/// [`Error::Document`] when the text is no such file.
pub fn write_login(config: Option<&[u8]>, name: &str, credential: &Credential) -> Result<Vec<u8>> {
    let entry = match credential {
        Credential::Password { username, password } => {
            serde_json::json!({ "auth": STANDARD.encode(format!("{username}:{}", password.reveal())) })
        }
        Credential::Identity { token } => serde_json::json!({ "identitytoken": token.reveal() }),
        Credential::Registry { token } => serde_json::json!({ "registrytoken": token.reveal() }),
    };
    edit(config, |auths| {
        forget(auths, name);
        auths.insert(key_for(name), entry);
    })
}

/// Takes a credential out of the text of a `config.json`; says whether there was one.
///
/// # Errors
///
/// [`Error::Document`] when the text is no such file.
pub fn write_logout(config: &[u8], name: &str) -> Result<(Vec<u8>, bool)> {
    let mut found = false;
    let text = edit(Some(config), |auths| found = forget(auths, name))?;
    Ok((text, found))
}

type Auths = serde_json::Map<String, serde_json::Value>;

fn edit(config: Option<&[u8]>, change: impl FnOnce(&mut Auths)) -> Result<Vec<u8>> {
    let wrong = |reason: String| Error::document("docker config.json", reason);
    let empty = || serde_json::Value::Object(Auths::new());
    let mut file = match config.filter(|text| !text.trim_ascii().is_empty()) {
        Some(text) => serde_json::from_slice(text)
            .map_err(|error| wrong(format!("line {}, column {}", error.line(), error.column())))?,
        None => empty(),
    };
    let object = file.as_object_mut().ok_or_else(|| wrong("it is no object".to_owned()))?;
    let auths = object.entry("auths").or_insert_with(empty);
    change(auths.as_object_mut().ok_or_else(|| wrong("`auths` is no object".to_owned()))?);
    let mut text = serde_json::to_vec_pretty(&file).map_err(|_| wrong("it cannot be written".to_owned()))?;
    text.push(b'\n');
    Ok(text)
}

/// Removes every key that means the same registry or namespace.
fn forget(auths: &mut Auths, name: &str) -> bool {
    let wanted = normal_name(name);
    let before = auths.len();
    auths.retain(|key, _| normal_name(key) != wanted);
    auths.len() < before
}

fn key_for(name: &str) -> String {
    let name = normal_name(name);
    if name == DEFAULT_REGISTRY { HUB_KEY.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Helper;

    impl CredentialHelper for Helper {
        fn get(&self, helper: &str, server: &str) -> Result<Option<Credential>, String> {
            match (helper, server) {
                ("ecr-login", _) => Ok(Some(Credential::password("AWS", format!("for {server}")))),
                ("token", _) => Ok(Some(Credential::from_helper("<token>", Secret::new("t")))),
                ("desktop", HUB_KEY) => Ok(Some(Credential::password("hub", "pw"))),
                ("desktop", "known.example") => Ok(None),
                _ => Err("there is no such program".to_owned()),
            }
        }
    }

    fn show(credential: &Credential) -> String {
        match credential {
            Credential::Password { username, password } => format!("{username}:{}", password.reveal()),
            Credential::Identity { token } => format!("identity {}", token.reveal()),
            Credential::Registry { token } => format!("registry {}", token.reveal()),
        }
    }

    fn find(keychain: &Keychain, reference: &str) -> Option<String> {
        let reference: Reference = reference.parse().unwrap();
        keychain.find(&reference, Some(&Helper)).unwrap().as_ref().map(show)
    }

    #[test]
    fn credentials_are_found_by_the_longest_name() {
        let config = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
            "r.example":{"username":"host","password":"a:b"},
            "r.example/group":{"username":"group","password":"x"},
            "identity.example":{"auth":"eDp5","identitytoken":"it"},
            "registry.example":{"registrytoken":"rt"},
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
        check("identity.example/a", Some("identity it"));
        check("registry.example/a", Some("registry rt"));
    }

    #[test]
    fn the_first_source_that_knows_a_name_decides() {
        let first =
            Keychain::parse(br#"{"auths":{"r.example":{"username":"first","password":"1"}}}"#).unwrap();
        let mut second = Keychain::empty();
        second.insert("r.example/group", Credential::password("second", "2"));
        second.insert("other.example", Credential::password("second", "2"));
        let keychain = first.or(second);
        assert_eq!(find(&keychain, "r.example/group/a").as_deref(), Some("first:1"));
        assert_eq!(find(&keychain, "other.example/a").as_deref(), Some("second:2"));
    }

    #[test]
    fn helpers_are_asked_where_they_are_configured() {
        let config = br#"{"auths":{"inline.example":{"username":"i","password":"p"}},
            "credsStore":"desktop",
            "credHelpers":{"c.example":"ecr-login","t.example":"token","gone.example":"gone","evil.example":"../x"}}"#;
        let keychain = Keychain::parse(config).unwrap();
        assert_eq!(find(&keychain, "c.example/x").as_deref(), Some("AWS:for c.example"));
        assert_eq!(find(&keychain, "t.example/x").as_deref(), Some("identity t"));
        assert_eq!(find(&keychain, "inline.example/x").as_deref(), Some("i:p"));
        assert_eq!(find(&keychain, "debian").as_deref(), Some("hub:pw"));
        assert_eq!(find(&keychain, "known.example/x"), None);
        // The store for all that cannot be asked is no reason not to pull anonymously.
        assert_eq!(find(&keychain, "d.example/x"), None);
        let error = |reference: &str, helpers: Option<&dyn CredentialHelper>| {
            keychain.find(&reference.parse().unwrap(), helpers).unwrap_err().to_string()
        };
        assert!(error("gone.example/x", Some(&Helper)).contains("`gone`: there is no such program"));
        assert!(error("evil.example/x", Some(&Helper)).contains("is not valid"));
        assert!(error("c.example/x", None).contains("`ecr-login` is configured"));
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
    fn login_and_logout_change_one_entry_and_nothing_else() {
        let before =
            br#"{"credHelpers":{"x":"y"},"auths":{"https://r.example/v2/":{"auth":"b2xkOm9sZA=="}}}"#;
        let text = write_login(Some(before), "r.example", &Credential::password("me", "s3cret")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["auths"], serde_json::json!({"r.example": {"auth": "bWU6czNjcmV0"}}));
        assert_eq!(value["credHelpers"], serde_json::json!({"x": "y"}));
        let hub = write_login(None, "docker.io", &Credential::password("a", "b")).unwrap();
        assert_eq!(find(&Keychain::parse(&hub).unwrap(), "debian").as_deref(), Some("a:b"));
        let (text, found) = write_logout(&text, "https://r.example").unwrap();
        assert!(found && find(&Keychain::parse(&text).unwrap(), "r.example/a").is_none());
        assert!(!write_logout(&text, "r.example").unwrap().1);
        assert!(write_login(Some(b"[]"), "r", &Credential::password("a", "b")).is_err());
    }
}
