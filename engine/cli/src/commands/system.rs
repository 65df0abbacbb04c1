//! `cooper syscalls` and `cooper version`.

use std::process::ExitCode;

use crate::commands::values::table;
use crate::failure::Failure;

/// Shows the version.
pub(crate) fn version() -> Result<ExitCode, Failure> {
    crate::say(&format!("cooper {}", env!("CARGO_PKG_VERSION")));
    Ok(ExitCode::SUCCESS)
}

/// Shows the table of system calls.
pub(crate) fn syscalls() -> Result<ExitCode, Failure> {
    let mut rows = vec![["NUMBER", "NAME", "LEVEL", "NOTE"].map(str::to_owned)];
    rows.extend(cooper_kernel::syscalls::table().map(|entry| {
        [
            entry.number.to_string(),
            entry.name.to_owned(),
            entry.level.name().to_owned(),
            entry.note.to_owned(),
        ]
    }));
    crate::say(&table(&rows));
    Ok(ExitCode::SUCCESS)
}
