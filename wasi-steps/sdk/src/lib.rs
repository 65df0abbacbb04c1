//! The guest's side of a plugin: what an author of a WebAssembly build step links against.
//!
//! A plugin is an ordinary WASI program in an ordinary image, run by an ordinary `RUN`. All that it needs of this crate today is
//! [`enter_working_directory`]; the typed bindings of the interfaces in `wasi-steps/wit` will be here once there are any.
//!
//! What must hold: it depends on no other crate of the workspace, so that plugins stay small, and
//! whatever it offers works for a program that was built without it, and on Linux.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Has relative paths start in the step's working directory.
///
/// A C library of WASI preview 1 starts at `/` whatever the working directory is, because WASI does not say; the host says it in `PWD`.
/// To be called first in `main`. Built for Linux it does nothing, as the working directory is right already.
///
/// Fails where the directory is no longer there.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// cooper_sdk::enter_working_directory()?;
/// # Ok(())
/// # }
/// ```
#[allow(clippy::disallowed_methods, reason = "a guest's environment, not the host's")]
pub fn enter_working_directory() -> io::Result<()> {
    if !cfg!(target_family = "wasm") {
        return Ok(());
    }
    directory(std::env::var_os("PWD")).map_or(Ok(()), std::env::set_current_dir)
}

/// The directory that a value of `PWD` names; only an absolute one means anything.
fn directory(value: Option<OsString>) -> Option<PathBuf> {
    // Not `is_absolute`, which is about this platform's own paths.
    value.filter(|value| value.as_encoded_bytes().first() == Some(&b'/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absolute_directory_counts() {
        let check = |value: &str, expected: Option<&str>| {
            assert_eq!(directory(Some(value.into())), expected.map(PathBuf::from));
        };
        check("/work", Some("/work"));
        check("work", None);
        check("", None);
        assert_eq!(directory(None), None);
    }
}
