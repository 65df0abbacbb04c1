#![allow(
    clippy::disallowed_methods,
    reason = "the command line reads and writes the file with the user's credentials"
)]
//! Registries: login, logout, copy, doctor.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cooper_build::source::{StoreImages, Transfers};
use cooper_build::step::CancelToken;
use cooper_build::{Error, Fault};
use cooper_image::digest::Digest;
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;
use cooper_image::registry::Client;
use cooper_image::registry::auth::{Credential, Keychain, write_login, write_logout};
use cooper_image::store::Store;

use super::images::reference;
use crate::arguments::{CopyArguments, DoctorArguments, LoginArguments, LogoutArguments};
use crate::display::{bytes, display};
use crate::environment::{open_store, path_variable, start_logging};
use crate::failure::Failure;
use crate::registries;
use crate::signals::cancel_on_signals;

/// Bound on a password, in bytes.
const PASSWORD_BYTES: u64 = 64 << 10;
/// Bound on the file with credentials, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// `cooper login`
pub(crate) fn login(arguments: &LoginArguments) -> Result<ExitCode, Failure> {
    let mut password = String::new();
    std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES)
        .read_to_string(&mut password)
        .map_err(|error| Failure::Engine(Error::host("cannot read the password from stdin", error)))?;
    let password = password.strip_suffix('\n').unwrap_or(&password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(Failure::usage("the password on stdin is empty"));
    }
    let credential = Credential::password(&arguments.username, password);
    if !arguments.no_check {
        let mut options = registries::options(&arguments.options)?;
        options.keychain = Keychain::empty();
        options.keychain.insert(&arguments.registry, credential.clone());
        let probe = reference(&format!("{}/login", arguments.registry.trim_end_matches('/')))?;
        Client::new(options)?.check_access(&probe).map_err(|error| {
            let message = format!("cannot log in to `{}`", arguments.registry);
            Failure::Engine(Error::new(Fault::Registry, message).caused_by(error))
        })?;
    }
    let path = credentials_file(arguments.options.auth_file.as_deref())?;
    let before = cooper_build::context::read_small(&path, FILE_BYTES)?;
    replace(&path, &write_login(before.as_deref(), &arguments.registry, &credential)?)?;
    crate::complain(&format!("the credential for `{}` is in `{}`", arguments.registry, path.display()));
    Ok(ExitCode::SUCCESS)
}

/// `cooper logout`
pub(crate) fn logout(arguments: &LogoutArguments) -> Result<ExitCode, Failure> {
    let path = credentials_file(arguments.auth_file.as_deref())?;
    if let Some(before) = cooper_build::context::read_small(&path, FILE_BYTES)? {
        let (text, found) = write_logout(&before, &arguments.registry)?;
        if found {
            replace(&path, &text)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Failure::usage(format!("`{}` has no credential for `{}`", path.display(), arguments.registry)))
}

/// Where credentials are kept: the file that is read first of those that can be written.
fn credentials_file(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = named.map(Path::to_owned).or_else(|| path_variable("REGISTRY_AUTH_FILE"));
    path.or_else(registries::docker_config).ok_or_else(|| {
        Failure::usage("there is no place for the credential: name one with --auth-file or DOCKER_CONFIG")
    })
}

/// Writes a file that only its owner may read, as a whole.
fn replace(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let failed = |error| Failure::Engine(Error::host(format!("cannot write `{}`", path.display()), error));
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    let beside = cooper_build::export::beside(path)?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    });
    if written.is_err() {
        // What is left of a failure holds a secret; that it cannot be removed is less than the failure itself.
        drop(std::fs::remove_file(&beside));
    }
    written.map_err(failed)
}

/// `cooper copy`
pub(crate) fn copy(arguments: CopyArguments) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let (from, to) = (reference(&arguments.from)?, reference(&arguments.to)?);
    let store = open_store(&arguments.store)?;
    let cancel = CancelToken::new();
    cancel_on_signals(&cancel);
    let display = display(arguments.progress, arguments.quiet);
    let images = StoreImages::new(&store, registries::options(&arguments.registry)?, &*display);
    let shown = format!("copy {from} to {to}");
    let digest = cooper_build::report::phase(&*display, &shown, || {
        let transfers = Transfers::new(&*display, &shown, &cancel);
        let client = images.client()?;
        let copied = client.resolve(&from).and_then(|remote| {
            let root = match &arguments.platform {
                None => store.import_documents(&remote, remote.root())?,
                Some(platform) => {
                    let platform: Platform = platform.parse()?;
                    store.import_lazily(&remote, remote.root(), &platform)?.descriptor
                }
            };
            client.push(&store, &root, &to, &transfers)?;
            if arguments.referrers {
                copy_referrers(&store, &client, &from, &to, &root.digest, &transfers)?;
            }
            Ok(root.digest)
        });
        images.pass_warnings_on(&client);
        copied.map_err(|error| {
            let fault = Error::from_image(&error);
            Error::new(fault, format!("cannot copy `{from}` to `{to}`")).caused_by(error)
        })
    })?;
    crate::say(&digest.to_string());
    Ok(ExitCode::SUCCESS)
}

/// Copies what refers to an image: signatures, attestations.
fn copy_referrers(
    store: &Store,
    client: &Client,
    from: &Reference,
    to: &Reference,
    subject: &Digest,
    transfers: &Transfers<'_>,
) -> cooper_image::Result<()> {
    for entry in client.referrers(from, subject, None)? {
        let remote = client.resolve(&from.with_digest(entry.digest))?;
        let root = store.import_documents(&remote, remote.root())?;
        client.push(store, &root, &to.with_digest(root.digest), transfers)?;
    }
    Ok(())
}

/// `cooper doctor`
pub(crate) fn doctor(arguments: &DoctorArguments) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let reference = reference(&arguments.image)?;
    let client = Client::new(registries::options(&arguments.registry)?)?;
    crate::say(&format!("image       {reference}"));
    crate::say(&format!("speaks      {}", client.describe(&reference)?));
    let failed = |what: &str, hint: &str, error: cooper_image::Error| {
        let error = Error::new(Fault::Registry, format!("{what} fails for `{reference}`")).caused_by(error);
        Failure::Engine(error.hint(hint))
    };
    client.check_access(&reference).map_err(|error| {
        failed(
            "access",
            "look at the host, its certificate (--registry-ca), proxies and `cooper login`",
            error,
        )
    })?;
    crate::say("access      ok");
    let remote = client.resolve(&reference).map_err(|error| {
        failed("resolving", "look at the name and the tag; a private image needs `cooper login`", error)
    })?;
    let root = remote.root();
    crate::say(&format!("names       {} ({}, {})", root.digest, root.media_type, bytes(root.size)));
    match client.referrers(&reference, &root.digest, None) {
        Ok(found) => crate::say(&format!("referrers   {}", found.len())),
        Err(error) => crate::say(&format!("referrers   cannot be listed: {error}")),
    }
    match client.check_push(&reference) {
        Ok(()) => crate::say("push        ok"),
        // Many images are only to be pulled, so this is an answer and no failure.
        Err(error) => crate::say(&format!("push        no: {error}")),
    }
    for warning in client.take_warnings() {
        crate::say(&format!("warning     {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}
