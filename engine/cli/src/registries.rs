#![allow(
    clippy::disallowed_methods,
    reason = "credentials and certificates are files that the user and the environment name"
)]
//! How registries are spoken to: credentials, certificates, proxies and mirrors, from flags and the environment.
//!
//! Credentials come from these sources, and the first that knows a name decides: `--auth-file`, else
//! `REGISTRY_AUTH_FILE`, `DOCKER_AUTH_CONFIG` (the JSON itself), `$DOCKER_CONFIG/config.json` or
//! `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`, and what GitLab gives to a job (`CI_REGISTRY*`,
//! `CI_JOB_TOKEN`, `CI_DEPENDENCY_PROXY_*`); for registries of Amazon, Google and Azure that none of them knows, the pod's
//! own identity. Certificates of one registry come from flags and from the directories
//! that Docker and containers have for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cooper_build::{Error, Fault};
use cooper_image::registry::auth::{Credential, CredentialHelper, Keychain, Secret};
use cooper_image::registry::cloud::{AmazonKeys, AmazonOptions, AzureOptions, CloudOptions};
use cooper_image::registry::mirror_files::HostSettings;
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
    let mut insecure: BTreeSet<String> = arguments.insecure_registry.iter().cloned().collect();
    let mut certificates = certificates(arguments)?;
    mirror_files(arguments, &mut mirrors, &mut insecure, &mut certificates)?;
    Ok(ClientOptions {
        keychain: keychain(arguments.auth_file.as_deref())?,
        helpers: Some(Arc::new(Programs)),
        cloud: cloud()?,
        auth_hosts: auth_hosts(&arguments.allow_auth_host)?,
        insecure,
        certificates,
        proxies: Proxies {
            http: either("HTTP_PROXY"),
            https: either("HTTPS_PROXY"),
            none: either("NO_PROXY"),
        },
        mirrors,
        ..ClientOptions::anonymous()
    })
}

// ---- mirrors

/// Reads the files with mirrors that flags or the environment name.
fn mirror_files(
    arguments: &RegistryArguments,
    mirrors: &mut Mirrors,
    insecure: &mut BTreeSet<String>,
    certificates: &mut BTreeMap<String, HostCertificates>,
) -> Result<(), Failure> {
    let mut found: Vec<(PathBuf, HostSettings)> = Vec::new();
    let about = |path: &Path, error: cooper_image::Error| {
        let message = format!("cannot use `{}`", path.display());
        Failure::Engine(Error::new(Fault::Usage, message).caused_by(error))
    };
    let text = |path: &Path| {
        let bytes = file(path)?;
        String::from_utf8(bytes).map_err(|_| Failure::usage(format!("`{}` is not text", path.display())))
    };
    if let Some(directory) = arguments.hosts_dir.clone().or_else(|| path_variable("COOPER_HOSTS_DIR")) {
        let failed = |error| Error::host(format!("cannot read `{}`", directory.display()), error);
        let mut hosts = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.path().join("hosts.toml").is_file()
            {
                hosts.push((name, entry.path()));
            }
        }
        hosts.sort();
        for (name, directory) in hosts {
            let path = directory.join("hosts.toml");
            let settings =
                mirrors.add_hosts_toml(&name, &text(&path)?).map_err(|error| about(&path, error))?;
            found.extend(settings.into_iter().map(|settings| (directory.clone(), settings)));
        }
    }
    let named = arguments.registries_conf.clone();
    if let Some(path) = named.or_else(|| path_variable("CONTAINERS_REGISTRIES_CONF")) {
        let settings = mirrors.add_registries_conf(&text(&path)?).map_err(|error| about(&path, error))?;
        found.extend(settings.into_iter().map(|settings| (PathBuf::new(), settings)));
    }
    for (directory, HostSettings { host, authorities, identity, insecure: is_insecure }) in found {
        if is_insecure {
            insecure.insert(host.clone());
        }
        if authorities.is_empty() && identity.is_none() {
            continue;
        }
        let own = certificates.entry(host).or_default();
        for name in authorities {
            own.authorities.push(file(&directory.join(name))?);
        }
        if let Some((certificate, key)) = identity {
            let chain = file(&directory.join(certificate))?;
            let key = key.map_or_else(|| Ok(chain.clone()), |key| file(&directory.join(key)))?;
            own.identity = Some((chain, key));
        }
    }
    Ok(())
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

// ---- the pod's own identity

/// The metadata service that Amazon's and Azure's instances have.
const INSTANCE_METADATA: &str = "http://169.254.169.254";
/// The host of a container's credentials endpoint, where a variable has only its path.
const CONTAINER_CREDENTIALS: &str = "http://169.254.170.2";

/// What the environment says of the pod's own identity. `COOPER_CLOUD_IDENTITY=off` lets nobody be asked for it.
fn cloud() -> Result<CloudOptions, Failure> {
    if variable("COOPER_CLOUD_IDENTITY").is_some_and(|value| value == "off") {
        return Ok(CloudOptions::default());
    }
    let secret = |path: PathBuf| -> Result<Secret, Failure> {
        let text = String::from_utf8(file(&path)?);
        let text = text.map_err(|_| Failure::usage(format!("`{}` is not text", path.display())))?;
        Ok(Secret::new(text.trim()))
    };
    let secret_of = |name: &str| path_variable(name).map(secret).transpose();
    let keys = match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(key)) => {
            let session = variable("AWS_SESSION_TOKEN").map(Secret::new);
            Some(AmazonKeys { id, secret: Secret::new(key), session })
        }
        _ => None,
    };
    let container = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").or_else(|| {
        variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            .map(|path| format!("{CONTAINER_CREDENTIALS}{path}"))
    });
    let authorization = match secret_of("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")? {
        None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new),
        found => found,
    };
    let disabled =
        variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let amazon = AmazonOptions {
        keys,
        web_identity: variable("AWS_ROLE_ARN").zip(secret_of("AWS_WEB_IDENTITY_TOKEN_FILE")?),
        container: container.map(|url| (url, authorization)),
        metadata: (!disabled).then(|| {
            variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE_METADATA.to_owned())
        }),
        sts: variable("AWS_ENDPOINT_URL_STS"),
        ecr: variable("AWS_ENDPOINT_URL_ECR"),
    };
    let google = variable("GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".to_owned());
    let azure = AzureOptions {
        authority: variable("AZURE_AUTHORITY_HOST"),
        tenant: variable("AZURE_TENANT_ID"),
        client: variable("AZURE_CLIENT_ID"),
        federated: secret_of("AZURE_FEDERATED_TOKEN_FILE")?,
        metadata: Some(INSTANCE_METADATA.to_owned()),
    };
    Ok(CloudOptions { amazon, google: Some(format!("http://{google}")), azure, hosts: BTreeMap::new() })
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
