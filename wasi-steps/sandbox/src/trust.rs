//! Certificates that steps trust besides those of their image: a corporate gateway's, say.
//!
//! The bundle is a file below `/run/cooper`, where no image keeps anything, and variables lead the programs that have
//! one for it there; apt and wget get a small configuration file each. Nothing is mounted over the image's own bundle,
//! because `update-ca-certificates` and its kin rename a new one over it, which a mount refuses.
//!
//! What must hold: mounts and variables are added to a request only when it is sent to its process, so they are in no
//! layer, no cache key and no history; a variable that the image or the user has set is left alone.

use cooper_build::step::{Bytes, NetworkPolicy, Secret, StepMount, StepMountSource, StepRequest};
use thiserror::Error;

/// The largest bundle: a public one has some 200 KiB.
const MAX_BUNDLE: usize = 4 << 20;
/// How a certificate starts.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Where steps see the bundle.
const BUNDLE: &str = "/run/cooper/ca-certificates.crt";

/// Configuration files: the variable that names one, where it is, and what it says.
const FILES: [(&str, &str, &str); 2] = [
    ("APT_CONFIG", "/run/cooper/apt.conf", "Acquire::https::CaInfo \"/run/cooper/ca-certificates.crt\";\n"),
    ("WGETRC", "/run/cooper/wgetrc", "ca_certificate = /run/cooper/ca-certificates.crt\n"),
];

/// Variables that name a bundle: OpenSSL and Go, LibreSSL's fetch (apk), curl, git, Python's requests and pip, Node and
/// npm, Yarn, Cargo, Ruby's bundler, Composer, Perl's LWP, Deno, the AWS tools, Nix.
const VARIABLES: [&str; 17] = [
    "SSL_CERT_FILE",
    "SSL_CA_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH",
    "CARGO_HTTP_CAINFO",
    "BUNDLE_SSL_CA_CERT",
    "COMPOSER_CAFILE",
    "PERL_LWP_SSL_CA_FILE",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
    "HEX_CACERTS_PATH",
];

/// Why a file is no bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TrustError {
    /// There is no certificate in it.
    #[error("there is no PEM certificate in it")]
    Empty,
    /// It is larger than any bundle.
    #[error("it is larger than 4 MiB")]
    TooLarge,
}

/// A bundle of certificates in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    bundle: Vec<u8>,
}

impl Trust {
    /// Takes the contents of a bundle.
    pub fn new(bundle: Vec<u8>) -> Result<Self, TrustError> {
        if bundle.len() > MAX_BUNDLE {
            return Err(TrustError::TooLarge);
        }
        if !bundle.windows(BEGIN.len()).any(|window| window == BEGIN) {
            return Err(TrustError::Empty);
        }
        Ok(Self { bundle })
    }

    /// Adds the mounts and variables to a step that has a network.
    pub(crate) fn apply(&self, request: &mut StepRequest) {
        if request.network == NetworkPolicy::None {
            return;
        }
        let files = FILES.iter().map(|(_, path, text)| (*path, text.as_bytes().to_vec()));
        for (path, contents) in std::iter::once((BUNDLE, self.bundle.clone())).chain(files) {
            let source =
                StepMountSource::File { contents: Secret::new(contents), mode: 0o644, uid: 0, gid: 0 };
            request.mounts.push(StepMount { target: path.into(), source, read_only: true });
        }
        let files = FILES.iter().map(|(variable, path, _)| (*variable, *path));
        for (name, value) in VARIABLES.iter().map(|name| (*name, BUNDLE)).chain(files) {
            let name = Bytes::from(name);
            if !request.environment.iter().any(|(own, _)| *own == name) {
                request.environment.push((name, value.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_a_certificate() {
        assert_eq!(Trust::new(b"nothing".to_vec()), Err(TrustError::Empty));
        assert_eq!(Trust::new(vec![0; MAX_BUNDLE + 1]), Err(TrustError::TooLarge));
        assert!(Trust::new(b"# x\n-----BEGIN CERTIFICATE-----\nAA==\n".to_vec()).is_ok());
    }
}
