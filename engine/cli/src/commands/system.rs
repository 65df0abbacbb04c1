//! `cooper syscalls` and `cooper version`.

use std::process::ExitCode;

use crate::failure::Failure;

/// Shows the version.
pub(crate) fn version() -> Result<ExitCode, Failure> {
    crate::say(&format!("cooper {}", env!("CARGO_PKG_VERSION")));
    Ok(ExitCode::SUCCESS)
}

/// Shows the table of system calls.
pub(crate) fn syscalls() -> Result<ExitCode, Failure> {
    Err(Failure::unsupported("the table of system calls"))
}
