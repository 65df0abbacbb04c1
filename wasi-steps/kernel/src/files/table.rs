//! Descriptor tables.

use std::sync::Arc;

use cooper_vfs::Errno;

use super::description::Description;

/// The descriptors of a process.
#[derive(Debug)]
pub(crate) struct DescriptorTable {}

impl DescriptorTable {
    /// Makes an empty table.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {})
    }

    /// Returns the description of a number. `EBADF` when it is not open.
    pub(crate) fn get(&self, _number: i32) -> Result<Arc<Description>, Errno> {
        Err(Errno::BADF)
    }

    /// Copies the table, as `fork` does; the descriptions are shared.
    pub(crate) fn duplicate(&self) -> Arc<Self> {
        Self::new()
    }

    /// Frees what `exec` closes and returns it.
    pub(crate) fn take_close_on_exec(&self) -> Vec<Arc<Description>> {
        Vec::new()
    }

    /// Frees everything, as the end of a process does, and returns it.
    pub(crate) fn take_all(&self) -> Vec<Arc<Description>> {
        Vec::new()
    }
}
