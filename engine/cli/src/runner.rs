//! Where steps are run: the plug for the solver's socket.
//!
//! A step's process is this same program with `step STORE LEASE` as its arguments: it opens the store that the build
//! uses and joins the build's lease, so that what the step leaves is held until the build has looked at it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use cooper_build::step::StepRunner;
use cooper_image::store::{Store, StoreOptions};
use cooper_sandbox::ProcessRunner;

use crate::environment;
use crate::failure::Failure;

/// This program, whatever has become of the file it was started from.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// The runner for steps over `store`, which trust the certificates in the file `ca_bundle`; without one, those of
/// `SSL_CERT_FILE` where that is set.
pub(crate) fn runner(store: &Store, ca_bundle: Option<&Path>) -> Result<Box<dyn StepRunner>, Failure> {
    let trust = environment::ca_bundle(ca_bundle)?;
    let arguments = vec!["step".into(), store.path().into(), store.lease_name().into()];
    Ok(Box::new(ProcessRunner::new(OWN_EXECUTABLE.into(), arguments).with_trust(trust)))
}

/// The process of one step, in which `cooper step` ends up.
pub(crate) fn step() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2);
    let (Some(path), Some(lease)) = (arguments.next(), arguments.next()) else {
        crate::complain("error: `cooper step` is what a build runs itself with; it is not for people");
        return ExitCode::from(2);
    };
    cooper_sandbox::step_main(|| {
        let lease = lease.to_str().ok_or("the name of the lease is no text")?;
        let store = Store::open_joining(Path::new(&path), &StoreOptions::plain(), lease);
        store.map(|store| Arc::new(store) as _).map_err(|error| error.to_string())
    })
}
