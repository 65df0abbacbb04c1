#![allow(
    clippy::disallowed_methods,
    reason = "credentials and certificates are files that the user and the environment name"
)]
//! How registries are spoken to: credentials, certificates, proxies and mirrors, from flags and the environment.
//!
//! Credentials come from these sources, and the first that knows a name decides: `--auth-file`, else
//! `REGISTRY_AUTH_FILE`, `DOCKER_AUTH_CONFIG` (the JSON itself), `$DOCKER_CONFIG/config.json` or
//! `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`, and what GitLab gives to a job (`CI_REGISTRY*`,
//! `CI_JOB_TOKEN`, `CI_DEPENDENCY_PROXY_*`). Certificates of one registry come from flags and from the directories
//! that Docker and containers have for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cooper_build::{Error, Fault};
use cooper_image::registry::auth::{Credential, CredentialHelper, Keychain, Secret};
use cooper_image::registry::mirrors::Mirrors;
use cooper_image::registry::{ClientOptions, HostCertificates, Proxies};

use crate::arguments::RegistryArguments;
use crate::environment::{path_variable, variable};
use crate::failure::Failure;

/// Bound on a file with credentials or certificates, in bytes.
const FILE_BYTES: u64 = 1 << 20;
/// Bound on what a credential helper says, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;
/// Time that a credential helper has.
const HELPER_TIME: Duration = Duration::from_secs(60);
/// How often a helper is looked at.
const TICK: Duration = Duration::from_millis(10);
/// Directories with certificates by registry, Docker's and containers'.
const CERTIFICATE_DIRECTORIES: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// What the flags and the environment say.
pub(crate) fn options(arguments: &RegistryArguments) -> Result<ClientOptions, Failure> {
    let either = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase()));
    let mut mirrors = Mirrors::default();
    for map in arguments.registry_map.iter().chain(&variable("COOPER_REGISTRY_MAP")) {
        mirrors.add_map(map)?;
    }
    Ok(ClientOptions {
        keychain: keychain(arguments.auth_file.as_deref())?,
        helpers: Some(Arc::new(Programs)),
        auth_hosts: auth_hosts(&arguments.allow_auth_host)?,
        insecure: arguments.insecure_registry.iter().cloned().collect(),
        certificates: certificates(arguments)?,
        proxies: Proxies {
            http: either("HTTP_PROXY"),
            https: either("HTTPS_PROXY"),
            none: either("NO_PROXY"),
        },
        mirrors,
        ..ClientOptions::anonymous()
    })
}

// ---- credentials

fn keychain(named: Option<&Path>) -> Result<Keychain, Failure> {
    if let Some(path) = named {
        // A file that somebody names has to be there.
        let bytes = cooper_build::context::read_small(path, FILE_BYTES)?;
        let bytes = bytes.ok_or_else(|| Failure::usage(format!("there is no file `{}`", path.display())))?;
        return parse(&path.display().to_string(), &bytes);
    }
    let mut keychain = Keychain::empty();
    if let Some(path) = path_variable("REGISTRY_AUTH_FILE") {
        keychain = keychain.or(read(&path)?);
    }
    if let Some(text) = variable("DOCKER_AUTH_CONFIG") {
        keychain = keychain.or(parse("DOCKER_AUTH_CONFIG", text.as_bytes())?);
    }
    if let Some(path) = docker_config() {
        keychain = keychain.or(read(&path)?);
    }
    if let Some(path) = path_variable("XDG_RUNTIME_DIR") {
        keychain = keychain.or(read(&path.join("containers/auth.json"))?);
    }
    Ok(keychain.or(gitlab_job()))
}

/// Docker's own file.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let directory =
        path_variable("DOCKER_CONFIG").or_else(|| path_variable("HOME").map(|home| home.join(".docker")));
    directory.map(|directory| directory.join("config.json"))
}

/// A home that cannot be read is as good as none; a file that is there and cannot be understood is not.
fn read(path: &Path) -> Result<Keychain, Failure> {
    match cooper_build::context::read_small(path, FILE_BYTES) {
        Ok(Some(bytes)) => parse(&path.display().to_string(), &bytes),
        Ok(None) | Err(_) => Ok(Keychain::empty()),
    }
}

fn parse(shown: &str, bytes: &[u8]) -> Result<Keychain, Failure> {
    Keychain::parse(bytes).map_err(|error| {
        let message = format!("cannot use `{shown}`");
        Failure::Engine(Error::new(Fault::Registry, message).caused_by(error))
    })
}

/// What GitLab gives to a job.
fn gitlab_job() -> Keychain {
    let mut keychain = Keychain::empty();
    let mut add = |registry: Option<String>, user: Option<String>, password: Option<String>| {
        if let (Some(registry), Some(user), Some(password)) = (registry, user, password) {
            keychain.insert(&registry, Credential::password(user, password));
        }
    };
    let job_token = || variable("CI_JOB_TOKEN");
    add(variable("CI_REGISTRY"), Some("gitlab-ci-token".to_owned()), job_token());
    add(variable("CI_REGISTRY"), variable("CI_REGISTRY_USER"), variable("CI_REGISTRY_PASSWORD"));
    add(
        variable("CI_DEPENDENCY_PROXY_SERVER"),
        variable("CI_DEPENDENCY_PROXY_USER"),
        variable("CI_DEPENDENCY_PROXY_PASSWORD"),
    );
    keychain
}

/// Token services that may see a registry's credential: those that are named, and the GitLab that the job runs for.
fn auth_hosts(named: &[String]) -> Result<BTreeMap<String, BTreeSet<String>>, Failure> {
    let mut hosts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if let (Some(registry), Some(server)) = (variable("CI_REGISTRY"), variable("CI_SERVER_HOST")) {
        hosts.entry(registry).or_default().insert(server);
    }
    for text in named {
        match text.split_once('=') {
            Some((registry, host)) if !registry.is_empty() && !host.is_empty() => {
                hosts.entry(registry.to_owned()).or_default().insert(host.to_owned());
            }
            _ => {
                let message = format!("invalid --allow-auth-host `{text}`: expected REGISTRY=HOST");
                return Err(Failure::usage(message));
            }
        }
    }
    Ok(hosts)
}

/// Starts `docker-credential-<name> get`.
#[derive(Debug)]
struct Programs;

impl CredentialHelper for Programs {
    fn get(&self, helper: &str, server: &str) -> Result<Option<Credential>, String> {
        let program = format!("docker-credential-{helper}");
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start `{program}`: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input says so by its exit code.
            drop(stdin.write_all(server.as_bytes()));
        }
        let stdout = child.stdout.take().ok_or("it has no output")?;
        let reading = std::thread::spawn(move || {
            let mut text = Vec::new();
            stdout.take(ANSWER_BYTES).read_to_end(&mut text).map(|_| text)
        });
        let end = Instant::now() + HELPER_TIME;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < end => std::thread::sleep(TICK),
                Ok(None) => {
                    // It has had its time; what it leaves is of no use.
                    drop(child.kill());
                    drop(child.wait());
                    return Err(format!("`{program}` does not end"));
                }
                Err(error) => return Err(format!("cannot wait for `{program}`: {error}")),
            }
        };
        let text = reading.join().map_err(|_| "its output was lost")?.map_err(|error| error.to_string())?;
        if !status.success() {
            let says_none = String::from_utf8_lossy(&text).contains("credentials not found");
            return if says_none { Ok(None) } else { Err(format!("`{program}` failed: {status}")) };
        }
        // The parser's own message could quote a secret.
        let answer: serde_json::Value =
            serde_json::from_slice(&text).map_err(|_| format!("`{program}` does not answer in JSON"))?;
        let field =
            |name: &str| answer.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
        match (field("Username"), field("Secret")) {
            (Some(user), Some(secret)) => Ok(Some(Credential::from_helper(user, Secret::new(secret)))),
            _ => Ok(None),
        }
    }
}

// ---- certificates

fn certificates(arguments: &RegistryArguments) -> Result<BTreeMap<String, HostCertificates>, Failure> {
    let mut all: BTreeMap<String, HostCertificates> = BTreeMap::new();
    for directory in CERTIFICATE_DIRECTORIES.map(Path::new) {
        // Directories that do not exist, or that we may not read, have nothing for us.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if let Ok(host) = entry.file_name().into_string() {
                read_certificates(&entry.path(), all.entry(host).or_default())?;
            }
        }
    }
    for text in &arguments.registry_ca {
        let (host, path) = pair("--registry-ca", text, "HOST=FILE")?;
        all.entry(host.to_owned()).or_default().authorities.push(file(Path::new(path))?);
    }
    for text in &arguments.registry_cert {
        let (host, paths) = pair("--registry-cert", text, "HOST=CERT:KEY")?;
        let (chain, key) = paths.split_once(':').ok_or_else(|| {
            Failure::usage(format!("invalid --registry-cert `{text}`: expected HOST=CERT:KEY"))
        })?;
        all.entry(host.to_owned()).or_default().identity =
            Some((file(Path::new(chain))?, file(Path::new(key))?));
    }
    all.retain(|_, found| !found.authorities.is_empty() || found.identity.is_some());
    Ok(all)
}

/// `*.crt` are authorities, `*.cert` and `*.key` of one name our own certificate.
fn read_certificates(directory: &Path, into: &mut HostCertificates) -> Result<(), Failure> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => into.authorities.push(file(&path)?),
            Some("cert") => into.identity = Some((file(&path)?, file(&path.with_extension("key"))?)),
            _ => {}
        }
    }
    Ok(())
}

fn pair<'t>(flag: &str, text: &'t str, expected: &str) -> Result<(&'t str, &'t str), Failure> {
    let found = text.split_once('=').filter(|(host, rest)| !host.is_empty() && !rest.is_empty());
    found.ok_or_else(|| Failure::usage(format!("invalid {flag} `{text}`: expected {expected}")))
}

fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    let found = cooper_build::context::read_small(path, FILE_BYTES)?;
    found.ok_or_else(|| Failure::usage(format!("there is no file `{}`", path.display())))
}
