//! What a registry asks for (`WWW-Authenticate`), and where it may send us for a token.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;

use crate::error::{Error, Result};
use crate::reference::is_loopback_host;

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

/// Token services on hosts other than their registry's own, which belong to the same operator.
const KNOWN_SERVICES: &[(&str, &str)] = &[
    ("registry-1.docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("docker.elastic.co", "docker-auth.elastic.co"),
    ("nvcr.io", "authn.nvidia.com"),
];

/// Checks where a registry wants a token to be fetched; see the rules of [`super::auth`].
pub(crate) fn check_realm(
    registry: &Url,
    realm: &str,
    has_credential: bool,
    allowed: &BTreeSet<String>,
) -> Result<Url> {
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
    let named = allowed.contains(realm_host);
    if url.scheme() != "https" {
        return Err(refuse("it is not https"));
    }
    if registry.scheme() != "https" && !named {
        return Err(refuse("a registry without TLS may only name its own host"));
    }
    if is_internal_host(realm_host) && !named {
        return Err(refuse("it is an address of this machine or link"));
    }
    let same_operator = KNOWN_SERVICES.contains(&(host.as_str(), realm_host));
    if has_credential && !named && !same_operator {
        return Err(refuse(&format!(
            "a credential for `{host}` goes to no other host (allow it with --allow-auth-host {host}={realm_host})"
        )));
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
            let result = check_realm(
                &registry.parse().unwrap(),
                realm,
                true,
                &BTreeSet::from(["gitlab.example".to_owned()]),
            );
            assert_eq!(result.is_ok(), allowed, "{registry} {realm}: {result:?}");
        };
        check("https://registry-1.docker.io", "https://auth.docker.io/token", true);
        check("https://r.example", "https://r.example/token", true);
        check("https://r.example", "https://gitlab.example/jwt/auth", true);
        check("https://r.example", "https://evil.example/token", false);
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
        let anonymous = check_realm(
            &"https://r.example".parse().unwrap(),
            "https://auth.example/token",
            false,
            &BTreeSet::new(),
        );
        assert!(anonymous.is_ok(), "without a credential there is nothing to lose");
    }
}
