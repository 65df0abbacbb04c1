//! Files that say where else images are: containerd's `hosts.toml` and containers' `registries.conf`.
//!
//! Both are given as text by whoever may read files, and become the rules of [`Mirrors`]; what belongs to one host
//! besides (authorities, certificates, plain HTTP) comes back as [`HostSettings`]. Follows containerd's documentation of
//! hosts, and containers-registries.conf(5), version 2.
//!
//! What must hold: a key that would change what is asked, and that is not done here, is an error that names it. Short
//! names are Docker Hub's, as everywhere in Dockerfiles, so `unqualified-search-registries` and short-name aliases mean
//! nothing here, and are the only keys that are passed over.

use toml::{Table, Value};

use super::mirrors::{Mirror, Mirrors};
use crate::error::{Error, Result};

/// Bound on a file, in bytes.
const FILE_BYTES: usize = 1 << 20;
/// The name of containerd's directory for all hosts without one of their own.
pub const DEFAULT_HOST: &str = "_default";

/// What a file says of one host besides being a mirror. Paths are as written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSettings {
    /// `host[:port]`.
    pub host: String,
    /// Files with authorities.
    pub authorities: Vec<String>,
    /// Certificate and key; one file for both has no second name.
    pub identity: Option<(String, Option<String>)>,
    /// Whether it is spoken to in plain HTTP.
    pub insecure: bool,
}

fn wrong(file: &'static str, reason: impl Into<String>) -> Error {
    Error::document(file, reason)
}

fn table(file: &'static str, text: &str) -> Result<Table> {
    if text.len() > FILE_BYTES {
        return Err(wrong(file, format!("it has more than {FILE_BYTES} bytes")));
    }
    // The first line of the parser's message; the others quote the file.
    let short = |error: toml::de::Error| error.message().lines().next().unwrap_or_default().to_owned();
    text.parse().map_err(|error| wrong(file, short(error)))
}

/// Refuses keys that are not among these.
fn only(file: &'static str, at: &str, table: &Table, known: &[&str]) -> Result<()> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(wrong(file, format!("`{key}` of `{at}` is not supported"))),
        None => Ok(()),
    }
}

fn text<'t>(file: &'static str, table: &'t Table, key: &str) -> Result<Option<&'t str>> {
    let value =
        table.get(key).map(|value| value.as_str().ok_or_else(|| wrong(file, format!("`{key}` is no text"))));
    value.transpose()
}

fn flag(file: &'static str, table: &Table, key: &str) -> Result<bool> {
    let value =
        table.get(key).map(|value| value.as_bool().ok_or_else(|| wrong(file, format!("`{key}` is no flag"))));
    Ok(value.transpose()?.unwrap_or(false))
}

/// A text, or a list of texts.
fn texts(file: &'static str, value: Option<&Value>, key: &str) -> Result<Vec<String>> {
    let no_text = || wrong(file, format!("`{key}` is no text and no list of texts"));
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(all)) => {
            all.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(no_text)).collect()
        }
        Some(_) => Err(no_text()),
    }
}

// ---- containerd

const HOSTS: &str = "hosts.toml";

impl Mirrors {
    /// Reads the `hosts.toml` of a registry (`host[:port]`, or [`DEFAULT_HOST`]).
    ///
    /// The hosts are asked in their order, for what their `capabilities` allow: one without `resolve` says of no tag
    /// what it means. Then `server` is asked, or the registry itself. Pushes go to the registry itself.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] for what is no such file, and for keys that are not supported.
    pub fn add_hosts_toml(&mut self, registry: &str, contents: &str) -> Result<Vec<HostSettings>> {
        let table = table(HOSTS, contents)?;
        let prefix = if registry == DEFAULT_HOST { "" } else { registry };
        let prefix = super::mirrors::normal(prefix);
        let (mut settings, mut own) = (Vec::new(), Table::new());
        for (key, value) in &table {
            match key.as_str() {
                "host" | "server" => {}
                _ => drop(own.insert(key.clone(), value.clone())),
            }
        }
        if let Some(hosts) = table.get("host") {
            let hosts = hosts.as_table().ok_or_else(|| wrong(HOSTS, "`host` is no table"))?;
            for (url, host) in hosts {
                let host = host.as_table().ok_or_else(|| wrong(HOSTS, format!("`{url}` is no table")))?;
                settings.push(self.add_host(&prefix, url, host)?);
            }
        }
        // What stands at the top speaks of the server.
        let server = text(HOSTS, &table, "server")?;
        let server_url = server.map_or_else(|| format!("https://{registry}"), str::to_owned);
        let (location, insecure) = host_location(&server_url, &own)?;
        only(HOSTS, &server_url, &own, HOST_KEYS)?;
        if let Some(server) = server
            && !prefix.is_empty()
            && super::mirrors::normal(&location) != prefix
            && !is_hub(server, &prefix)
        {
            self.add(Mirror {
                prefix: prefix.clone(),
                location: location.clone(),
                resolves: can(&own, "resolve")?,
                insecure,
                says_namespace: false,
            })?;
            self.without_fallback.push(prefix);
        }
        if !own.is_empty() || insecure {
            settings.push(host_settings(&location, &own, insecure)?);
        }
        Ok(settings)
    }

    fn add_host(&mut self, prefix: &str, url: &str, host: &Table) -> Result<HostSettings> {
        only(HOSTS, url, host, HOST_KEYS)?;
        let (location, insecure) = host_location(url, host)?;
        if can(host, "pull")? {
            self.add(Mirror {
                prefix: prefix.to_owned(),
                location: location.clone(),
                resolves: can(host, "resolve")?,
                insecure,
                says_namespace: true,
            })?;
        }
        host_settings(&location, host, insecure)
    }
}

const HOST_KEYS: &[&str] = &["capabilities", "ca", "client", "override_path", "skip_verify"];

/// Docker Hub's own server has a name of its own.
fn is_hub(server: &str, prefix: &str) -> bool {
    prefix == crate::reference::DEFAULT_REGISTRY
        && server.trim_end_matches('/').ends_with("registry-1.docker.io")
}

fn can(host: &Table, what: &str) -> Result<bool> {
    let capabilities = texts(HOSTS, host.get("capabilities"), "capabilities")?;
    Ok(capabilities.is_empty() || capabilities.iter().any(|one| one == what))
}

/// Where a host's URL leads: `host[:port][/path]`, and whether in plain HTTP. A path is below `/v2`, as
/// `override_path` has it.
fn host_location(url: &str, host: &Table) -> Result<(String, bool)> {
    if flag(HOSTS, host, "skip_verify")? {
        return Err(wrong(
            HOSTS,
            format!("`skip_verify` of `{url}` is refused: name its authority with `ca`"),
        ));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let insecure = match scheme {
        "http" => true,
        "https" => false,
        other => return Err(wrong(HOSTS, format!("`{url}`: `{other}` is not http or https"))),
    };
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/');
    if path.is_empty() || path == "v2" {
        return Ok((name.to_owned(), insecure));
    }
    match path.strip_prefix("v2/") {
        Some(below) if flag(HOSTS, host, "override_path")? => Ok((format!("{name}/{below}"), insecure)),
        _ => Err(wrong(
            HOSTS,
            format!(
                "the path of `{url}` is not supported: it has to begin with /v2, with `override_path = true`"
            ),
        )),
    }
}

fn host_settings(location: &str, host: &Table, insecure: bool) -> Result<HostSettings> {
    let name = location.split('/').next().unwrap_or(location).to_owned();
    let authorities = texts(HOSTS, host.get("ca"), "ca")?;
    let no_pair = || wrong(HOSTS, "`client` is neither a file nor one pair of certificate and key");
    let identity = match host.get("client") {
        None => None,
        Some(Value::String(file)) => Some((file.clone(), None)),
        Some(Value::Array(pairs)) => match pairs.as_slice() {
            [Value::String(file)] => Some((file.clone(), None)),
            [Value::Array(pair)] => match pair.as_slice() {
                [Value::String(certificate), Value::String(key)] if key.is_empty() => {
                    Some((certificate.clone(), None))
                }
                [Value::String(certificate), Value::String(key)] => {
                    Some((certificate.clone(), Some(key.clone())))
                }
                _ => return Err(no_pair()),
            },
            _ => return Err(no_pair()),
        },
        Some(_) => return Err(no_pair()),
    };
    Ok(HostSettings { host: name, authorities, identity, insecure })
}

// ---- containers

const REGISTRIES: &str = "registries.conf";
/// Keys that mean nothing where short names are Docker Hub's.
const PASSED_OVER: &[&str] = &["unqualified-search-registries", "short-name-mode", "aliases"];

impl Mirrors {
    /// Reads a `registries.conf` of version 2.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] for what is no such file, and for keys that are not supported.
    pub fn add_registries_conf(&mut self, contents: &str) -> Result<Vec<HostSettings>> {
        let table = table(REGISTRIES, contents)?;
        let known = [PASSED_OVER, &["registry"]].concat();
        only(REGISTRIES, "the file", &table, &known)?;
        let mut settings = Vec::new();
        let registries = match table.get("registry") {
            None => return Ok(settings),
            Some(Value::Array(registries)) => registries,
            Some(_) => return Err(wrong(REGISTRIES, "`registry` is no list of tables")),
        };
        for registry in registries {
            let registry =
                registry.as_table().ok_or_else(|| wrong(REGISTRIES, "a `registry` is no table"))?;
            self.add_registry(registry, &mut settings)?;
        }
        Ok(settings)
    }

    fn add_registry(&mut self, registry: &Table, settings: &mut Vec<HostSettings>) -> Result<()> {
        let location = text(REGISTRIES, registry, "location")?;
        let prefix = text(REGISTRIES, registry, "prefix")?.or(location);
        let prefix =
            prefix.ok_or_else(|| wrong(REGISTRIES, "a `registry` has neither prefix nor location"))?;
        let known = ["prefix", "location", "insecure", "blocked", "mirror", "mirror-by-digest-only"];
        only(REGISTRIES, prefix, registry, &known)?;
        if prefix.starts_with('*') {
            return Err(wrong(REGISTRIES, format!("the prefix `{prefix}` with a wildcard is not supported")));
        }
        let prefix = super::mirrors::normal(prefix);
        if flag(REGISTRIES, registry, "blocked")? {
            self.blocked.push(prefix.clone());
        }
        let by_digest = flag(REGISTRIES, registry, "mirror-by-digest-only")?;
        let mirrors = match registry.get("mirror") {
            None => &Vec::new(),
            Some(Value::Array(mirrors)) => mirrors,
            Some(_) => return Err(wrong(REGISTRIES, format!("`mirror` of `{prefix}` is no list of tables"))),
        };
        for mirror in mirrors {
            let mirror = mirror.as_table().ok_or_else(|| wrong(REGISTRIES, "a `mirror` is no table"))?;
            only(REGISTRIES, "mirror", mirror, &["location", "insecure", "pull-from-mirror"])?;
            let location = text(REGISTRIES, mirror, "location")?
                .ok_or_else(|| wrong(REGISTRIES, format!("a mirror of `{prefix}` has no location")))?;
            let resolves = match text(REGISTRIES, mirror, "pull-from-mirror")? {
                None | Some("all") => !by_digest,
                Some("digest-only") => false,
                Some(other) => {
                    let reason = format!("`pull-from-mirror = \"{other}\"` is not supported");
                    return Err(wrong(REGISTRIES, reason));
                }
            };
            let insecure = flag(REGISTRIES, mirror, "insecure")?;
            let location = location.to_owned();
            self.add(Mirror { prefix: prefix.clone(), location, resolves, insecure, says_namespace: false })?;
        }
        let insecure = flag(REGISTRIES, registry, "insecure")?;
        if let Some(location) = location.filter(|location| super::mirrors::normal(location) != prefix) {
            let location = location.to_owned();
            self.without_fallback.push(prefix.clone());
            self.add(Mirror { prefix, location, resolves: true, insecure, says_namespace: false })?;
        } else if insecure {
            let host = prefix.split('/').next().unwrap_or(&prefix).to_owned();
            settings.push(HostSettings { host, insecure, ..HostSettings::default() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    fn places(mirrors: &Mirrors, reference: &str) -> (Vec<String>, bool) {
        let reference: Reference = reference.parse().unwrap();
        let (places, fallback) = mirrors.places(&reference).unwrap();
        let shown = |(place, rule): &(Reference, &Mirror)| {
            let resolves = if rule.resolves { "" } else { " by digest" };
            let plain = if rule.insecure { "http " } else { "" };
            format!("{plain}{}{resolves}", place.name())
        };
        (places.iter().map(shown).collect(), fallback)
    }

    #[test]
    fn hosts_of_containerd_become_rules() {
        let mut mirrors = Mirrors::default();
        let settings = mirrors
            .add_hosts_toml(
                "docker.io",
                r#"server = "https://registry-1.docker.io"
                [host."https://second.example/v2/hub"]
                  capabilities = ["pull", "resolve"]
                  override_path = true
                  ca = ["a.crt", "/b.crt"]
                  client = [["c.crt", "c.key"]]
                [host."http://first.example:5000"]
                  capabilities = ["pull"]"#,
            )
            .unwrap();
        let expected =
            ["second.example/hub/library/debian", "http first.example:5000/library/debian by digest"];
        assert_eq!(places(&mirrors, "debian:12"), (expected.map(str::to_owned).to_vec(), true));
        assert_eq!(settings[0].host, "second.example");
        assert_eq!(settings[0].authorities, ["a.crt", "/b.crt"]);
        assert_eq!(settings[0].identity, Some(("c.crt".to_owned(), Some("c.key".to_owned()))));
        assert_eq!(places(&mirrors, "quay.io/a/b"), (vec![], true));
        mirrors
            .add_hosts_toml(DEFAULT_HOST, "[host.\"https://all.example\"]\ncapabilities=[\"pull\"]")
            .unwrap();
        assert_eq!(places(&mirrors, "quay.io/a/b").0, ["all.example/a/b by digest"]);
        assert_eq!(places(&mirrors, "debian").0.len(), 2, "a directory of its own comes first");
        let settings = mirrors.add_hosts_toml("r.example", "server = \"http://r.internal:5000\"").unwrap();
        assert_eq!(places(&mirrors, "r.example/x"), (vec!["http r.internal:5000/x".to_owned()], false));
        assert!(settings[0].insecure);
        for (bad, reason) in [
            ("[host.\"https://a\"]\nskip_verify = true", "is refused"),
            ("[host.\"https://a\"]\ndial_timeout = \"1s\"", "`dial_timeout` of `https://a` is not supported"),
            ("[host.\"https://a/proxy\"]", "has to begin with /v2"),
            ("[host.\"ftp://a\"]", "not http or https"),
            ("server = 1", "`server` is no text"),
            ("[", "hosts.toml"),
        ] {
            let error = Mirrors::default().add_hosts_toml("x.example", bad).unwrap_err().to_string();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }

    #[test]
    fn registries_of_containers_become_rules() {
        let mut mirrors = Mirrors::default();
        let settings = mirrors
            .add_registries_conf(
                r#"unqualified-search-registries = ["docker.io"]
                [[registry]]
                prefix = "docker.io"
                [[registry.mirror]]
                location = "mirror.example/hub"
                pull-from-mirror = "digest-only"
                [[registry.mirror]]
                location = "plain.example:5000"
                insecure = true
                [[registry]]
                prefix = "quay.io/team"
                location = "internal.example/quay"
                [[registry]]
                location = "evil.example"
                blocked = true
                [[registry]]
                location = "lab.example:5000"
                insecure = true"#,
            )
            .unwrap();
        let expected =
            ["mirror.example/hub/library/debian by digest", "http plain.example:5000/library/debian"];
        assert_eq!(places(&mirrors, "debian"), (expected.map(str::to_owned).to_vec(), true));
        assert_eq!(places(&mirrors, "quay.io/team/a"), (vec!["internal.example/quay/a".to_owned()], false));
        assert!(mirrors.places(&"evil.example/a".parse().unwrap()).is_err());
        assert_eq!((settings.len(), settings[0].host.as_str()), (1, "lab.example:5000"));
        for (bad, reason) in [
            ("[[registry]]\nprefix = \"*.example\"", "with a wildcard is not supported"),
            (
                "[[registry]]\nlocation = \"a.b\"\n[[registry.mirror]]\nlocation=\"c.d\"\npull-from-mirror=\"tag-only\"",
                "tag-only",
            ),
            ("[[registry]]\nblocked = true", "neither prefix nor location"),
            ("credential-helpers = []", "`credential-helpers`"),
            ("[registries.search]\nregistries=[]", "`registries` of `the file`"),
        ] {
            let error = Mirrors::default().add_registries_conf(bad).unwrap_err().to_string();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }
}
