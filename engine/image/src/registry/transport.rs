//! Connections: TLS, certificates, proxies, timeouts.
//!
//! One HTTP client for everybody, made when it is needed, and one for each registry that has certificates of its own.
//! A client certificate is so shown to its registry only, never to a host that a redirect leads to.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, Proxy};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ClientOptions;
use super::http::describe;
use crate::error::{Error, Result};
use crate::store::lock;

/// Time to reach a registry.
const CONNECT: Duration = Duration::from_secs(20);
/// Connections to one host that are kept when nothing happens.
const IDLE_CONNECTIONS: usize = 8;

/// Whom to trust for TLS.
#[derive(Debug, Clone)]
pub enum TrustRoots {
    /// The system's bundle, wherever it is (`SSL_CERT_FILE` is honoured by the loader).
    System,
    /// These certificates, as DER.
    Certificates(Vec<Vec<u8>>),
}

/// Proxies, as the environment variables of the same names have them.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `NO_PROXY`.
    pub none: Option<String>,
}

/// Certificates for one registry, as PEM.
#[derive(Clone, Default)]
pub struct HostCertificates {
    /// Authorities that are trusted besides the others.
    pub authorities: Vec<Vec<u8>>,
    /// Our own certificate chain and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for HostCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.as_ref().map(|_| "…");
        f.debug_struct("HostCertificates")
            .field("authorities", &self.authorities.len())
            .field("identity", &identity)
            .finish()
    }
}

/// How connections are made.
#[derive(Debug)]
pub(crate) struct Transport {
    roots: TrustRoots,
    proxies: Proxies,
    certificates: BTreeMap<String, HostCertificates>,
    stall: Duration,
    /// Clients by the registry with certificates of its own; the empty name is everybody else. One without TLS
    /// starts at once, since it reads no certificates.
    clients: Mutex<HashMap<(String, bool), Client>>,
}

fn failed(reason: impl Into<String>) -> Error {
    let operation = "cannot use TLS".to_owned();
    Error::Registry { operation, status: None, message: reason.into() }
}

impl Transport {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        let ClientOptions { roots, proxies, certificates, stall, .. } = options.clone();
        Self { roots, proxies, certificates, stall, clients: Mutex::default() }
    }

    /// The client for a registry; the empty name is for hosts that are none.
    pub(crate) fn client(&self, registry: &str, tls: bool) -> Result<Client> {
        let own = self.certificates.get(registry);
        let key = (own.map(|_| registry.to_owned()).unwrap_or_default(), tls);
        if let Some(client) = lock(&self.clients).get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(own.filter(|_| tls), tls)?;
        Ok(lock(&self.clients).entry(key).or_insert(client).clone())
    }

    fn build(&self, own: Option<&HostCertificates>, tls: bool) -> Result<Client> {
        let mut roots = if tls { self.roots()? } else { rustls::RootCertStore::empty() };
        for pem in own.iter().flat_map(|own| &own.authorities) {
            for certificate in certificates(pem)? {
                roots
                    .add(certificate)
                    .map_err(|error| failed(format!("a certificate is not valid: {error}")))?;
            }
        }
        if tls && roots.is_empty() {
            return Err(failed("no trusted certificates were found (SSL_CERT_FILE names a bundle)"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots);
        let config = match own.and_then(|own| own.identity.as_ref()) {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                // What a parser says of a key could quote it.
                let key =
                    PrivateKeyDer::from_pem_slice(key).map_err(|_| failed("a client key cannot be read"))?;
                let chain = certificates(chain)?;
                let identity = config.with_client_auth_cert(chain, key);
                identity.map_err(|error| failed(format!("a client certificate cannot be used: {error}")))?
            }
        };
        let mut builder = Client::builder()
            .tls_backend_preconfigured(config)
            .hickory_dns(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(self.stall)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .user_agent(concat!("cooper/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        let Proxies { http, https, none } = &self.proxies;
        let none = none.as_deref().and_then(reqwest::NoProxy::from_string);
        let wrong = |_| failed("a proxy's URL is not valid");
        if let Some(url) = http {
            builder = builder.proxy(Proxy::http(url).map_err(wrong)?.no_proxy(none.clone()));
        }
        if let Some(url) = https {
            builder = builder.proxy(Proxy::https(url).map_err(wrong)?.no_proxy(none));
        }
        builder.build().map_err(|error| failed(describe(&error)))
    }

    fn roots(&self) -> Result<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        match &self.roots {
            TrustRoots::System => {
                let loaded = rustls_native_certs::load_native_certs();
                for error in &loaded.errors {
                    tracing::warn!(%error, "a certificate of the system cannot be read");
                }
                roots.add_parsable_certificates(loaded.certs);
            }
            TrustRoots::Certificates(certificates) => {
                let certificates = certificates.iter().map(|der| der.clone().into());
                roots.add_parsable_certificates(certificates);
            }
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(failed("a certificate file holds no certificate in PEM")),
    }
}
