//! The `memory` family of system calls.

use super::Entry;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[];
