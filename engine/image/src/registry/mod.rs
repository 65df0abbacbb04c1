//! The registry client: images from and to registries.
//!
//! Follows the OCI distribution spec 1.1. Built on `reqwest` with `rustls` (ring) and a resolver of its own and on the
//! documents of [`crate::manifest`], not on `oci-client`: that one does not retry, sends a credential to whatever
//! `realm` or `Location` a registry names, cannot authorize a mount across repositories, takes 202 on a mount for a
//! failure, and reads documents without a bound; meeting this list needs the requests themselves. HTTP/1.1 only, which
//! large registries serve faster. Outside it is blocking; inside, a small runtime does the waiting.
//!
//! A [`Client`] is a value of its options; [`Client::resolve`] makes a [`Remote`] of a reference, which is a
//! [`Source`](crate::image::Source), and [`Client::push`] sends what the store has, or has it mounted. The parts:
//! `transport` (TLS and proxies), `http` (one registry's requests), `token`, [`auth`] and [`cloud`] (credentials), `challenge`
//! (what a registry asks for), `retry`, `remote`, `push`, `referrers`, [`mirrors`] with [`mirror_files`], and `download` for plain files of the web.
//!
//! What must hold: loopback registries without certificates of their own and those named as insecure are spoken to in
//! plain HTTP, all others over TLS only; the rules for credentials are [`auth`]'s; everything that is pulled is verified before it is used; every answer
//! is bounded, and every wait ends.

pub mod auth;
mod challenge;
pub mod cloud;
mod download;
mod http;
pub mod mirror_files;
pub mod mirrors;
mod push;
mod referrers;
mod remote;
mod retry;
mod token;
mod transport;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use tokio::runtime::Runtime;

use crate::error::{Error, Result};
use crate::image::{ImageRecord, in_parallel};
use crate::manifest::Descriptor;
use crate::progress::Reporter;
use crate::reference::{Reference, Registry};
use crate::store::{Store, lock};
use auth::{CredentialHelper, Keychain};
use http::{Host, HostParts};
use mirrors::Mirrors;
use push::Push;
use remote::Place;
use retry::Retry;
use transport::Transport;

pub use download::{Received, WebAnswer, WebRequest};
pub use remote::{RangeReader, Remote};
pub use transport::{HostCertificates, Proxies, TrustRoots};

/// The first wait before a request is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Time without a byte after which an answer counts as lost.
const STALL: Duration = Duration::from_secs(60);

/// How to use registries.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Credentials.
    pub keychain: Keychain,
    /// Who asks the credential helpers that the keychain names.
    pub helpers: Option<Arc<dyn CredentialHelper>>,
    /// The pod's own identity, for registries that the keychain does not know.
    pub cloud: cloud::CloudOptions,
    /// Hosts besides a registry's own that may see its credential: token services, by the registry's host.
    pub auth_hosts: BTreeMap<String, BTreeSet<String>>,
    /// Registries (`host[:port]`) that are spoken to in plain HTTP, besides loopback ones.
    pub insecure: BTreeSet<String>,
    /// Whom to trust.
    pub roots: TrustRoots,
    /// Certificates by registry (`host[:port]`).
    pub certificates: BTreeMap<String, HostCertificates>,
    /// Proxies as URLs: for http, for https; and the hosts without, as in `NO_PROXY`.
    pub proxies: Proxies,
    /// Other places that may have what a registry has.
    pub mirrors: Mirrors,
    /// The first wait before a request is tried again; doubles each time.
    pub first_wait: Duration,
    /// Time without a byte after which an answer counts as lost; also the time to its first byte.
    pub stall: Duration,
}

impl ClientOptions {
    /// No credentials, no insecure registries but loopback, the system's certificates, no proxies, no mirrors.
    pub fn anonymous() -> Self {
        Self {
            keychain: Keychain::empty(),
            helpers: None,
            cloud: cloud::CloudOptions::default(),
            auth_hosts: BTreeMap::new(),
            insecure: BTreeSet::new(),
            roots: TrustRoots::System,
            certificates: BTreeMap::new(),
            proxies: Proxies::default(),
            mirrors: Mirrors::default(),
            first_wait: FIRST_WAIT,
            stall: STALL,
        }
    }
}

/// Registries by repository name: what is known of a credential depends on the namespace.
type Hosts = HashMap<(Registry, Option<String>), Arc<Host>>;

/// A client for any number of registries.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    runtime: Runtime,
    transport: Arc<Transport>,
    hosts: Mutex<Hosts>,
    /// Credentials that were looked up, since a helper is a program to be started.
    credentials: Mutex<HashMap<String, Option<auth::Credential>>>,
}

impl Client {
    /// Makes a client. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the machine gives no threads.
    pub fn new(options: ClientOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Error::io("cannot start the registry client", error))?;
        let transport = Transport::new(&options);
        let (transport, hosts, credentials) = (Arc::new(transport), Mutex::default(), Mutex::default());
        Ok(Self { options, runtime, transport, hosts, credentials })
    }

    /// A loopback registry has certificates only when it speaks TLS.
    fn uses_http(&self, registry: &Registry) -> bool {
        let plain = registry.is_loopback() && !self.options.certificates.contains_key(registry.name());
        plain || self.options.insecure.contains(registry.name())
    }

    fn credential(&self, reference: &Reference) -> Result<Option<auth::Credential>> {
        let name = reference.name();
        if let Some(known) = lock(&self.credentials).get(&name) {
            return Ok(known.clone());
        }
        let mut found = self.options.keychain.find(reference, self.options.helpers.as_deref())?;
        if found.is_none() {
            let registry = reference.registry();
            let scheme = if self.uses_http(registry) { "http" } else { "https" };
            let (transport, options, registry) = (&*self.transport, &self.options.cloud, registry.name());
            let identity = cloud::Identity { transport, options, registry, scheme };
            found = self.runtime.block_on(identity.credential())?;
        }
        lock(&self.credentials).insert(name, found.clone());
        Ok(found)
    }

    fn host(&self, reference: &Reference) -> Result<Arc<Host>> {
        self.host_with(reference, false)
    }

    fn host_with(&self, reference: &Reference, insecure: bool) -> Result<Arc<Host>> {
        let registry = reference.registry();
        let credential = self.credential(reference)?;
        let key = (registry.clone(), credential.as_ref().map(|credential| credential.user().to_owned()));
        if let Some(host) = lock(&self.hosts).get(&key) {
            return Ok(Arc::clone(host));
        }
        let tls = !insecure && !self.uses_http(registry);
        let scheme = if tls { "https" } else { "http" };
        let base: Url = format!("{scheme}://{}/", registry.api_host()).parse().map_err(|_| {
            Error::Reference { input: reference.to_string(), reason: "the registry is no valid host" }
        })?;
        let host = Host::new(HostParts {
            client: self.transport.client(registry.name(), tls)?,
            transport: Arc::clone(&self.transport),
            base,
            name: registry.to_string(),
            credential,
            allowed: self.options.auth_hosts.get(registry.name()).cloned().unwrap_or_default(),
            retry: Retry::new(self.options.first_wait),
        });
        Ok(Arc::clone(lock(&self.hosts).entry(key).or_insert(Arc::new(host))))
    }

    /// What registries wanted the user to know since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        let hosts: Vec<Arc<Host>> = lock(&self.hosts).values().cloned().collect();
        let mut warnings: Vec<String> = hosts.iter().flat_map(|host| host.take_warnings()).collect();
        warnings.sort();
        warnings
    }

    /// Asks what a reference names.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the registry does not know it, [`Error::Registry`], [`Error::Auth`], and
    /// [`Error::DigestMismatch`] when the answer is not what the reference's digest says.
    pub fn resolve(&self, reference: &Reference) -> Result<Remote<'_>> {
        let remote = self.repository(reference)?;
        let (root, bytes) =
            self.runtime.block_on(remote.fetch_document(&reference.identifier(), reference.digest()))?;
        lock(&remote.documents).insert(root.digest, bytes);
        Ok(Remote { root, ..remote })
    }

    /// The repository of a reference as a source of blobs; nobody is asked yet.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] and [`Error::Registry`] when the configuration does not allow it.
    pub fn repository(&self, reference: &Reference) -> Result<Remote<'_>> {
        let (mirrors, fallback) = self.options.mirrors.places(reference)?;
        let mut places = Vec::new();
        for (mirror, rule) in mirrors {
            places.push(Place {
                host: self.host_with(&mirror, rule.insecure)?,
                repository: mirror.repository().to_owned(),
                namespace: rule.says_namespace.then(|| reference.registry().to_string()),
                resolves: rule.resolves,
            });
        }
        if fallback {
            let repository = reference.repository().to_owned();
            places.push(Place { host: self.host(reference)?, repository, namespace: None, resolves: true });
        }
        Ok(Remote {
            client: self,
            places,
            name: reference.name(),
            shown: reference.to_string(),
            root: Descriptor::of("", b""),
            documents: Mutex::default(),
        })
    }

    /// Pushes an image or index of the store to a reference, blobs first, the reference's tag last.
    ///
    /// Blobs that the registry has in a repository that they are known to come from are mounted; those that are not in
    /// the store and cannot be mounted are fetched from there.
    ///
    /// # Errors
    ///
    /// [`Error::Registry`], [`Error::Auth`], or what the store gives.
    pub fn push(
        &self,
        store: &Store,
        root: &Descriptor,
        reference: &Reference,
        reporter: &dyn Reporter,
    ) -> Result<()> {
        Push { client: self, host: self.host(reference)?, reference, store, reporter }.run(root)
    }

    /// Fetches the layers of an image that are not in the store from where they are known to be, and records the image
    /// as complete.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when nobody is known to have one, and those of the registries.
    pub fn complete(&self, store: &Store, image: &ImageRecord, reporter: &dyn Reporter) -> Result<()> {
        if store.image_media_type(image.digest())?.is_some() {
            return Ok(());
        }
        let layers: Vec<&Descriptor> = image.layers.iter().map(|layer| &layer.descriptor).collect();
        in_parallel(&layers, |blob| match store.has_blob(&blob.digest, Some(blob.size))? {
            true => Ok(()),
            false => self.fetch_missing(store, blob, reporter),
        })?;
        store.put_image(image.digest(), &image.descriptor.media_type)
    }

    /// How a registry is spoken to, in one line without secrets.
    ///
    /// # Errors
    ///
    /// Those of [`Client::repository`].
    pub fn describe(&self, reference: &Reference) -> Result<String> {
        let remote = self.repository(reference)?;
        let places: Vec<String> = remote.places.iter().map(|place| place.host.describe()).collect();
        Ok(places.join(", then "))
    }

    /// Asks for the base of the API with the credential that there is: works when the registry lets us in.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] when it does not, [`Error::Registry`] when it does not answer as a registry.
    pub fn check_access(&self, reference: &Reference) -> Result<()> {
        let host = self.host(reference)?;
        self.runtime.block_on(async {
            let response = host.get_following(&host.url("")?, "", &HeaderMap::new()).await?;
            match response.status() {
                status if status.is_success() => Ok(()),
                status => Err(Error::Registry {
                    operation: format!("cannot use registry `{}`", host.name()),
                    status: Some(status.as_u16()),
                    message: http::explain(response).await,
                }),
            }
        })
    }

    /// Asks whether uploads to a repository are taken, by starting one and giving it up.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] or [`Error::Registry`] when they are not.
    pub fn check_push(&self, reference: &Reference) -> Result<()> {
        push::check(&self.runtime, &*self.host(reference)?, reference)
    }

    /// The repository that is known to have the layers of an image which are not in the store; none when all are.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when nobody is known to have one, and those of [`Client::repository`].
    pub fn source_of(&self, store: &Store, image: &ImageRecord) -> Result<Option<Remote<'_>>> {
        for layer in &image.layers {
            let Descriptor { digest, size, .. } = &layer.descriptor;
            if store.has_blob(digest, Some(*size))? {
                continue;
            }
            let missing = || Error::NotFound { what: format!("blob `{digest}`") };
            let origin = store.origins(digest)?.into_iter().next().ok_or_else(missing)?;
            return self.repository(&origin.parse()?).map(Some);
        }
        Ok(None)
    }

    /// Fetches a blob from a repository that is known to have it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when nobody is known to have it, and those of the registries.
    pub fn fetch_missing(&self, store: &Store, blob: &Descriptor, reporter: &dyn Reporter) -> Result<()> {
        let mut result = Err(Error::NotFound { what: format!("blob `{}`", blob.digest) });
        for origin in store.origins(&blob.digest)? {
            let fetched = origin
                .parse()
                .and_then(|reference| self.repository(&reference))
                .and_then(|remote| store.fetch_blob(&remote, blob, reporter));
            match fetched {
                Ok(()) => return Ok(()),
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

/// Says what was being done, where the inner layer only knows the registry.
fn about(error: Error, verb: &str, shown: &str) -> Error {
    match error {
        Error::Registry { status, message, .. } => {
            Error::Registry { operation: format!("{verb} `{shown}`"), status, message }
        }
        other => other,
    }
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| Error::Registry {
        operation: "cannot make a request".to_owned(),
        status: None,
        message: "a header is not valid".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_named_registries_are_spoken_to_without_tls() {
        let insecure = BTreeSet::from(["plain.example:5000".to_owned()]);
        let client = Client::new(ClientOptions { insecure, ..ClientOptions::anonymous() }).unwrap();
        let check = |reference: &str, plain: bool| {
            let reference: Reference = reference.parse().unwrap();
            assert_eq!(client.uses_http(reference.registry()), plain, "{reference}");
        };
        check("localhost:5000/a", true);
        check("127.0.0.1/a", true);
        check("plain.example:5000/a", true);
        check("plain.example/a", false);
        check("debian", false);
        check("127.0.0.1.example/a", false);
    }

    #[test]
    fn tls_needs_somebody_to_trust() {
        let roots = TrustRoots::Certificates(vec![b"no certificate".to_vec()]);
        let client = Client::new(ClientOptions { roots, ..ClientOptions::anonymous() }).unwrap();
        let error = client.resolve(&"registry.example/a".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot use TLS: no trusted certificates were found (SSL_CERT_FILE names a bundle)"
        );
    }
}
