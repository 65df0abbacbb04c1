//! What can go wrong with images, and whose fault it is.
//!
//! One enum for the crate. A variant says who is at fault: the user's input, an image or layer that somebody else
//! made, a registry, the store's disk. Messages are lower case, name the thing in backticks and put the value last.
//! No message ever holds a credential: they live in [`crate::registry::auth`], whose types print as dots.

use std::io;

use crate::digest::Digest;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A reference that the grammar of image names does not allow.
    #[error("invalid reference `{input}`: {reason}")]
    Reference {
        /// The text as given.
        input: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A digest that is not `sha256:` or `sha512:` and the right count of lower-case hexadecimal digits.
    #[error("invalid digest `{input}`: {reason}")]
    DigestSyntax {
        /// The text as given, cut to a sensible length.
        input: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A platform that is not `os/architecture[/variant]`.
    #[error("invalid platform `{input}`: expected os/architecture[/variant]")]
    Platform {
        /// The text as given.
        input: String,
    },
    /// A manifest, index, config or archive index that cannot be accepted.
    #[error("invalid {what}: {reason}")]
    Document {
        /// Which document, as "manifest" or "image config".
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer that is refused.
    #[error("layer refused{}: {reason}", entry_text(.entry))]
    Layer {
        /// The entry at fault, as the archive names it; none when it is the layer as a whole.
        entry: Option<String>,
        /// Why.
        reason: String,
    },
    /// A named bound was reached.
    #[error("{what} is too large: more than {limit} ({name})")]
    Limit {
        /// The thing that grew too large.
        what: String,
        /// The name of the bound.
        name: &'static str,
        /// Its value.
        limit: u64,
    },
    /// Bytes that are not the ones that were promised.
    #[error("{what} has the wrong digest: expected {expected}, found {found}")]
    DigestMismatch {
        /// Which bytes.
        what: String,
        /// The digest that was promised.
        expected: Box<Digest>,
        /// The digest of what arrived.
        found: Box<Digest>,
    },
    /// More or fewer bytes than were promised.
    #[error("{what} has the wrong size: expected {expected} bytes, found {found}")]
    SizeMismatch {
        /// Which bytes.
        what: String,
        /// The size that was promised, in bytes.
        expected: u64,
        /// The size of what arrived, in bytes.
        found: String,
    },
    /// Something that was asked for does not exist.
    #[error("{what} not found")]
    NotFound {
        /// What was asked for, with its name in backticks.
        what: String,
    },
    /// No image for the platform in an index.
    #[error("no image for platform {wanted}: the index has {available}")]
    NoPlatform {
        /// The platform asked for.
        wanted: String,
        /// What there is, comma separated.
        available: String,
    },
    /// Something valid that this version does not do.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// A registry that refused or failed.
    #[error("{operation}: {message}")]
    Registry {
        /// What was being done, as "cannot pull `docker.io/library/debian:latest`".
        operation: String,
        /// The HTTP status, when there was an answer.
        status: Option<u16>,
        /// What the registry or the connection said.
        message: String,
    },
    /// Credentials that are missing, refused, of a kind that is not supported, or asked for by the wrong host.
    #[error("cannot authenticate to `{host}`: {reason}")]
    Auth {
        /// The registry.
        host: String,
        /// Why.
        reason: String,
    },
    /// A file operation on the host that failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, as "cannot write blob `sha256:…`".
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The store's index failed.
    #[error("{action}: {source}")]
    Index {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// A store that cannot be used.
    #[error("store `{path}` cannot be used: {reason}")]
    Store {
        /// The store's directory.
        path: String,
        /// Why.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Who or what a failure is about; the command line maps it to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text that the user gave.
    Usage,
    /// An image, layer or archive that is refused or incomplete.
    Image,
    /// A registry or credentials.
    Registry,
    /// A named bound.
    Limit,
    /// The host's files: the store, a layout, an archive.
    Host,
    /// The caller cancelled.
    Cancelled,
}

impl Error {
    /// Says who or what the failure is about.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. } | Self::Platform { .. } | Self::Unsupported { .. } => ErrorKind::Usage,
            Self::DigestSyntax { .. }
            | Self::Document { .. }
            | Self::Layer { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::NotFound { .. }
            | Self::NoPlatform { .. } => ErrorKind::Image,
            Self::Registry { .. } | Self::Auth { .. } => ErrorKind::Registry,
            Self::Limit { .. } => ErrorKind::Limit,
            Self::Io { .. } | Self::Index { .. } | Self::Store { .. } => ErrorKind::Host,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// Wraps a host failure with what was being done.
    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        match source.downcast::<Self>() {
            // A failure of ours that travelled through `std::io::Read` keeps its own text.
            Ok(ours) => ours,
            Err(source) => Self::Io { action: action.into(), source },
        }
    }

    /// Makes the failure fit through an [`io::Read`]; [`Error::io`] takes it out again.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, action } if source.get_ref().is_none() => {
                io::Error::new(source.kind(), Self::Io { action, source })
            }
            other => io::Error::other(other),
        }
    }

    pub(crate) fn wrong_digest(what: impl Into<String>, expected: Digest, found: Digest) -> Self {
        Self::DigestMismatch { what: what.into(), expected: Box::new(expected), found: Box::new(found) }
    }

    pub(crate) fn document(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Document { what, reason: reason.into() }
    }

    pub(crate) fn layer(reason: impl Into<String>) -> Self {
        Self::Layer { entry: None, reason: reason.into() }
    }

    pub(crate) fn entry(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Layer { entry: Some(printable(path)), reason: reason.into() }
    }
}

/// Makes a name from an archive fit for a message: no control characters, at most 200 bytes of it.
pub(crate) fn printable(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let cut = &bytes[..bytes.len().min(LONGEST)];
    let mut text: String = String::from_utf8_lossy(cut).chars().flat_map(char::escape_debug).collect();
    if cut.len() < bytes.len() {
        text.push('…');
    }
    text
}

fn entry_text(entry: &Option<String>) -> String {
    entry.as_ref().map(|name| format!(", entry `{name}`")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_trip_through_io() {
        let error = Error::io("reading", Error::entry(b"a/../b", "a `..` component").into_io());
        assert_eq!(error.to_string(), "layer refused, entry `a/../b`: a `..` component");
    }

    #[test]
    fn names_are_printed_without_control_characters() {
        assert_eq!(printable(b"a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(printable(&[b'x'; 300]).chars().count(), 201);
    }
}
