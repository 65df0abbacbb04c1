//! Compares trees.

use std::io;

use super::{Change, Tree};
use crate::content::ContentStore;

pub(super) fn diff(_store: &dyn ContentStore, _lower: &Tree, _upper: &Tree, _replaced: &dyn Fn(&[u8]) -> bool) -> io::Result<Vec<Change>> {
    Err(io::ErrorKind::Unsupported.into())
}
