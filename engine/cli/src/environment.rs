#![allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment and the home directory"
)]
//! What the environment says: where the store is, how much is logged. What it says of registries is in `registries`.
//!
//! Everything works under any uid, without a passwd entry, with HOME unset or read-only.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use cooper_build::{Error, Fault};
use cooper_image::store::{Store, StoreOptions};
use cooper_sandbox::Trust;

use crate::arguments::StoreArguments;
use crate::failure::Failure;

/// A variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(crate) fn path_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The certificates that steps trust: of the file that was named, else of `SSL_CERT_FILE`. Either must be readable.
pub(crate) fn ca_bundle(named: Option<&Path>) -> Result<Option<Trust>, Failure> {
    let (path, source) = match (named, path_variable("SSL_CERT_FILE")) {
        (Some(path), _) => (path.to_owned(), "--ca-bundle"),
        (None, Some(path)) => (path, "SSL_CERT_FILE"),
        (None, None) => return Ok(None),
    };
    let unusable = |why: String| Failure::usage(format!("cannot use {source} `{}`: {why}", path.display()));
    let bytes = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    Trust::new(bytes).map(Some).map_err(|error| unusable(error.to_string()))
}

/// Opens the store where it belongs: `--store`, `COOPER_STORE`, the cache directory of the user, or a directory of our
/// own under `TMPDIR`. A place that was named must work; of the others the first that does is taken.
pub(crate) fn open_store(arguments: &StoreArguments) -> Result<Store, Failure> {
    let named = arguments.store.clone().or_else(|| path_variable("COOPER_STORE"));
    if let Some(path) = named {
        return open_at(&path);
    }
    for place in usual_places() {
        if is_usable(&place) {
            return open_at(&place);
        }
    }
    open_at(&temporary_place()?)
}

fn usual_places() -> Vec<PathBuf> {
    let cache = path_variable("XDG_CACHE_HOME").map(|cache| cache.join("cooper"));
    let home = path_variable("HOME").map(|home| home.join(".cache/cooper"));
    // A relative one is to be ignored, says the XDG specification; and so is one that depends on where we are.
    [cache, home].into_iter().flatten().filter(|path| path.is_absolute()).collect()
}

fn is_usable(path: &Path) -> bool {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.is_ok()
        && rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// A directory that is ours and nobody else's: others can make names in a shared temporary directory, too.
fn temporary_place() -> Result<PathBuf, Failure> {
    let uid = rustix::process::geteuid().as_raw();
    let place =
        path_variable("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp")).join(format!("cooper-{uid}"));
    let failed = |reason: String| {
        let message = format!("no place for the store: {reason}");
        Failure::Engine(Error::new(Fault::Host, message).hint("name a writable directory with `--store`"))
    };
    match std::fs::DirBuilder::new().mode(0o700).create(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed(format!("cannot make `{}`: {error}", place.display())));
        }
        _ => {}
    }
    let found =
        place.symlink_metadata().map_err(|error| failed(format!("`{}`: {error}", place.display())))?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o022 != 0 {
        return Err(failed(format!("`{}` is not a directory of our own", place.display())));
    }
    Ok(place)
}

fn open_at(path: &Path) -> Result<Store, Failure> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        let message = format!("cannot make the store `{}`", path.display());
        Failure::Engine(
            Error::new(Fault::Host, message)
                .caused_by(error)
                .hint("name a writable directory with `--store`"),
        )
    })?;
    // Steps name it to their own process, whose working directory is another.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    Ok(Store::open(&path, &StoreOptions::plain())?)
}

/// Starts logging to stderr: `COOPER_LOG` as a filter, or `-v` (info), `-vv` (debug), `-vvv` (trace).
pub(crate) fn start_logging(verbosity: u8) {
    let level = match verbosity {
        0 => None,
        1 => Some("info"),
        2 => Some("debug"),
        _ => Some("trace"),
    };
    let Some(filter) = variable("COOPER_LOG").or_else(|| level.map(|level| format!("warn,cooper={level}")))
    else {
        return;
    };
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let started = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    // Somebody who asked for logs twice gets them once.
    drop(started);
}

/// How many vertices run at once when nobody says.
pub(crate) fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get).clamp(2, 16)
}
