//! Mirrors: other places that may have what a registry has.
//!
//! A [`Mirrors`] is a list of rules, made of `--registry-map`, containerd's `hosts.toml` and containers'
//! `registries.conf` ([`super::mirror_files`]). A rule speaks of a registry, or of a namespace in one, and names another registry and perhaps a
//! path in it. The longest match is used; its mirrors are asked in their order, the registry itself last.
//!
//! A mirror serves what a digest names, which everybody can check. What a tag means it says only when the rule allows
//! that, since nobody can check it.

use crate::error::{Error, Result};
use crate::reference::Reference;

/// Bound on the rules of one configuration.
const MOST_RULES: usize = 1024;

/// Another place for the images of a registry or namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry, or a namespace in one: `docker.io`, `docker.io/library`; empty for all without a rule of their
    /// own.
    pub prefix: String,
    /// Where to ask instead: `host[:port][/path]`.
    pub location: String,
    /// Whether it may say what a tag means.
    pub resolves: bool,
    /// Whether it is spoken to in plain HTTP.
    pub insecure: bool,
    /// Whether it wants to be told which registry it answers for (`?ns=`), as containerd's mirrors do.
    pub says_namespace: bool,
}

/// The rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    /// In the order in which they are asked.
    pub rules: Vec<Mirror>,
    /// Registries and namespaces that are not asked themselves, only their mirrors.
    pub without_fallback: Vec<String>,
    /// Registries and namespaces that may not be used.
    pub blocked: Vec<String>,
}

impl Mirrors {
    /// Reads `--registry-map`: `docker.io=mirror.local/hub;quay.io=mirror.local`.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`] for a part that is not `NAME=LOCATION`.
    pub fn add_map(&mut self, text: &str) -> Result<()> {
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (prefix, location) = part.split_once('=').ok_or_else(|| Error::Reference {
                input: crate::error::printable(part.as_bytes()),
                reason: "expected REGISTRY=LOCATION",
            })?;
            let (insecure, location) = without_scheme(location.trim());
            self.add(Mirror {
                prefix: normal(prefix.trim()),
                location: location.to_owned(),
                resolves: true,
                insecure,
                says_namespace: false,
            })?;
        }
        Ok(())
    }

    /// Adds a rule behind the others.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`] when the location is no registry with a path, [`Error::Limit`] for too many rules.
    pub fn add(&mut self, mirror: Mirror) -> Result<()> {
        if self.rules.len() >= MOST_RULES {
            let what = "the list of mirrors".to_owned();
            return Err(Error::Limit { what, name: "MOST_RULES", limit: MOST_RULES as u64 });
        }
        // A location that makes no reference would fail at every pull instead.
        format!("{}/x", mirror.location).parse::<Reference>()?;
        self.rules.push(mirror);
        Ok(())
    }

    /// The places to ask before the registry itself, and whether it is asked at all.
    pub(crate) fn places(&self, reference: &Reference) -> Result<(Vec<(Reference, &Mirror)>, bool)> {
        let name = reference.name();
        if let Some(blocked) = self.blocked.iter().find(|blocked| covers(blocked, &name)) {
            return Err(Error::Registry {
                operation: format!("cannot use `{reference}`"),
                status: None,
                message: format!("`{blocked}` is blocked by the configuration"),
            });
        }
        let longest =
            self.rules.iter().filter(|rule| covers(&rule.prefix, &name)).map(|rule| rule.prefix.len());
        let longest = longest.max();
        let mut places = Vec::new();
        for rule in &self.rules {
            if Some(rule.prefix.len()) == longest && covers(&rule.prefix, &name) {
                let rest = match rule.prefix.as_str() {
                    "" => name.split_once('/').map_or("", |(_, repository)| repository),
                    prefix => name[prefix.len()..].trim_start_matches('/'),
                };
                let text = format!("{}/{rest}:x", rule.location.trim_end_matches('/'));
                places.push((text.parse()?, rule));
            }
        }
        let fallback = places.is_empty() || !self.without_fallback.iter().any(|prefix| covers(prefix, &name));
        Ok((places, fallback))
    }
}

/// Whether a registry or namespace contains a repository.
fn covers(prefix: &str, name: &str) -> bool {
    // The rule for all registries without one of their own.
    if prefix.is_empty() {
        return true;
    }
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Docker Hub has several names.
pub(super) fn normal(prefix: &str) -> String {
    match prefix {
        "index.docker.io" | "registry-1.docker.io" => crate::reference::DEFAULT_REGISTRY.to_owned(),
        other => other.trim_end_matches('/').to_owned(),
    }
}

/// Takes the scheme off; says whether it is plain HTTP.
fn without_scheme(location: &str) -> (bool, &str) {
    match location.strip_prefix("http://") {
        Some(rest) => (true, rest.trim_end_matches('/')),
        None => (false, location.strip_prefix("https://").unwrap_or(location).trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_rule_names_the_places() {
        let mut mirrors = Mirrors::default();
        mirrors
            .add_map("docker.io=mirror.local/hub;docker.io/library=http://lib.local:5000; quay.io=mirror.local/quay")
            .unwrap();
        mirrors.without_fallback.push("quay.io".to_owned());
        mirrors.blocked.push("evil.example".to_owned());
        let check = |reference: &str, expected: &[&str], fallback: bool| {
            let (places, falls_back) = mirrors.places(&reference.parse().unwrap()).unwrap();
            let places: Vec<String> = places.iter().map(|(place, _)| place.name()).collect();
            assert_eq!(
                (places.as_slice(), falls_back),
                (&expected.iter().map(|&e| e.to_owned()).collect::<Vec<_>>()[..], fallback),
                "{reference}"
            );
        };
        check("debian", &["lib.local:5000/debian"], true);
        check("docker.io/a/b", &["mirror.local/hub/a/b"], true);
        check("quay.io/a/b", &["mirror.local/quay/a/b"], false);
        check("quay.io.example/a", &[], true);
        assert!(mirrors.places(&"evil.example/a".parse().unwrap()).is_err());
        assert!(mirrors.add_map("nonsense").is_err());
        assert!(mirrors.add_map("a=not valid").is_err());
    }
}
