//! Where code comes from, and decoded code that all guest processes share.
//!
//! A caller answers, through [`CodeMap`], which executable mapping holds an address. Code of an unchanging file is
//! named by the file's content and decoded once for all processes, wherever they map it; everything else is
//! "generated" and compared with memory before it runs.

use std::sync::Arc;

/// The identity of a file's content: two ranges with equal ids and offsets hold equal bytes for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodeId(pub [u8; 32]);

/// What the bytes of an executable range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSource {
    /// Bytes of a file that were not and cannot be written through this mapping.
    File {
        /// Content of the file.
        id: CodeId,
        /// File offset of the first byte of the range.
        offset: u64,
    },
    /// Bytes that may change: compared with memory on each entry.
    Generated,
}

/// One executable mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRange {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where its bytes come from.
    pub source: CodeSource,
}

/// The executable mappings of a guest process.
///
/// Whoever changes an executable mapping while other threads of the process run raises the generation first and
/// then sets their stop bytes: the generation is looked at when [`run`](crate::interpreter::Interpreter::run) starts.
pub trait CodeMap: Sync {
    /// The executable mapping that holds `pc`, or `None` when fetching there faults.
    fn code_at(&self, pc: u64) -> Option<CodeRange>;

    /// A number that differs whenever any executable mapping has changed.
    fn generation(&self) -> u64;
}

/// Decoded code, shared by the threads of all guest processes.
#[derive(Debug, Default)]
pub struct SharedCode {}

impl SharedCode {
    /// An empty store of decoded code.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }
}
