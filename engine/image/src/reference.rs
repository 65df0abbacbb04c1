//! References: how people name images.
//!
//! `[registry/]repository[:tag][@digest]`, in the grammar of the distribution project, with Docker's short forms:
//! `debian` means `docker.io/library/debian:latest`. A [`Reference`] is always the full form; [`Reference::familiar`]
//! gives the short one back. A [`Registry`] knows whether it is this machine's loopback, the only place where plain
//! HTTP is used unasked.
//!
//! What must hold: every part is checked when it is parsed, so that the parts can be put into URLs and records.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The registry that a name without one belongs to.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag that a name without tag and digest has.
pub const DEFAULT_TAG: &str = "latest";

/// The distribution project's limit on registry and repository together, in bytes.
const LONGEST_NAME: usize = 255;
/// The distribution project's limit on a tag, in bytes.
const LONGEST_TAG: usize = 128;

/// A registry: a host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(String);

impl Registry {
    /// The host and port as written in references.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The host and port that answer the registry API; differs for Docker Hub only.
    pub fn api_host(&self) -> &str {
        if self.0 == DEFAULT_REGISTRY { "registry-1.docker.io" } else { &self.0 }
    }

    /// The host alone, without port and without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        host_of(&self.0)
    }

    /// Whether the registry is this machine: `localhost`, `127.0.0.0/8` or `::1`.
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(self.host())
    }
}

/// Whether a host name or address is this machine's loopback.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Takes the port and the brackets off `host:port`.
pub(crate) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

impl FromStr for Registry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        check_registry(text).map_err(|reason| Error::Reference { input: text.to_owned(), reason })?;
        let name = if text == "index.docker.io" { DEFAULT_REGISTRY } else { text };
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A full image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: Registry,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The repository's path in the registry, as `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the registry API is asked for: the digest where there is one, else the tag.
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository with only this digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The short form that people type: Docker Hub and `library/` left out.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(short).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason| Error::Reference { input: crate::error::printable(text.as_bytes()), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let tag_at = rest.rfind(':').filter(|at| !rest[*at..].contains('/'));
        let (name, tag) = match tag_at {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(wrong("the name is empty"));
        }
        if name.len() > LONGEST_NAME {
            return Err(wrong("the name is longer than 255 bytes"));
        }
        if let Some(tag) = tag {
            check_tag(tag).map_err(wrong)?;
        }
        let (registry, path) = split_registry(name);
        check_registry(registry).map_err(wrong)?;
        let registry: Registry = registry.parse()?;
        check_repository(path).map_err(wrong)?;
        let official = registry.name() == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if official { format!("library/{path}") } else { path.to_owned() };
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry, repository, tag, digest })
    }
}

/// The first component is a registry when it looks like a host: a dot, a port, upper case, or `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first.starts_with('[')
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_registry(text: &str) -> Result<(), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("the IPv6 address has no closing bracket")?;
            if !matches!(address.parse(), Ok(IpAddr::V6(_))) {
                return Err("the registry's IPv6 address is invalid");
            }
            (None, after.strip_prefix(':').or(if after.is_empty() { None } else { Some("") }))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err("the registry's port is invalid");
    }
    let valid_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_some_and(|host| !host.split('.').all(valid_label)) {
        return Err("the registry's host name is invalid");
    }
    Ok(())
}

/// Path components are `[a-z0-9]+`, joined within by one of `.`, `_`, `__` or any number of `-`.
fn check_repository(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if path.split('/').all(valid_component) {
        Ok(())
    } else {
        Err("a repository component must be lower-case letters and digits, joined by `.`, `_`, `__` or `-`")
    }
}

fn valid_component(component: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators_valid = component.split(is_word).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
    });
    separators_valid && component.starts_with(is_word) && component.ends_with(is_word)
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    match bytes.first() {
        None => Err("the tag is empty"),
        Some(_) if bytes.len() > LONGEST_TAG => Err("the tag is longer than 128 bytes"),
        Some(first) if !is_word(*first) => Err("the tag must start with a letter, a digit or `_`"),
        Some(_) if bytes.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-')) => Ok(()),
        Some(_) => Err("the tag may hold letters, digits, `_`, `.` and `-` only"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn short_names_mean_docker_hub() {
        let check = |input: &str, full: &str, familiar: &str| {
            let reference: Reference = input.parse().expect(input);
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(full.parse::<Reference>().expect(full), reference);
        };
        check("debian", "docker.io/library/debian:latest", "debian:latest");
        check("debian:12", "docker.io/library/debian:12", "debian:12");
        check("index.docker.io/debian:12", "docker.io/library/debian:12", "debian:12");
        check("me/app", "docker.io/me/app:latest", "me/app:latest");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1");
        check("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest");
        check("gcr.io/a/b__c.d-e--f:X_1", "gcr.io/a/b__c.d-e--f:X_1", "gcr.io/a/b__c.d-e--f:X_1");
        let by_digest = format!("docker.io/library/debian@{DIGEST}");
        check(&format!("debian@{DIGEST}"), &by_digest, &format!("debian@{DIGEST}"));
        let both = format!("docker.io/library/debian:12@{DIGEST}");
        check(&format!("debian:12@{DIGEST}"), &both, &format!("debian:12@{DIGEST}"));
    }

    #[test]
    fn wrong_names_are_refused_with_the_reason() {
        let check = |input: &str, reason: &str| {
            let error = input.parse::<Reference>().expect_err(input).to_string();
            assert!(error.contains(reason), "{input}: {error}");
        };
        check("", "the name is empty");
        check(":tag", "the name is empty");
        check("Debian", "must be lower case");
        check("a//b", "a repository component");
        check("a/../b", "a repository component");
        check("a._b", "a repository component");
        check("-a", "a repository component");
        check("a:", "the tag is empty");
        check("a:.b", "the tag must start");
        check("a:b/c", "the registry's port");
        check("a:b c", "the tag may hold");
        check(&format!("a:{}", "x".repeat(129)), "longer than 128");
        check(&"a".repeat(256), "longer than 255");
        check("a@sha256:1", "wrong number of digits");
        check("host:99999/a", "port is invalid");
        check("ho_st.com/a", "host name is invalid");
        check("[zz]/a", "IPv6");
    }

    #[test]
    fn loopback_is_recognised_by_address_not_by_prefix() {
        let check = |input: &str, loopback: bool| {
            let reference: Reference = input.parse().expect(input);
            assert_eq!(reference.registry().is_loopback(), loopback, "{input}");
        };
        check("localhost:5000/a", true);
        check("127.0.0.1:5000/a", true);
        check("127.9.9.9/a", true);
        check("[::1]/a", true);
        check("127.0.0.1.evil.com/a", false);
        check("localhost.evil.com/a", false);
        check("10.0.0.1:5000/a", false);
        check("debian", false);
    }
}
