//! Where code comes from, and decoded code that all guest processes share.
//!
//! A caller answers, through [`CodeMap`], which executable mapping holds an address. Code of an unchanging file is
//! named by the file's content and decoded once for all processes, wherever they map it; everything else is
//! "generated" and compared with memory before it runs.
//!
//! What must hold: blocks are only ever added to a [`FileCode`] and live as long as it, and links lead only to blocks
//! of the same file. So a thread that keeps the `Arc` of a file may keep plain pointers to its blocks.
#![allow(unsafe_code, reason = "blocks refer to each other by pointer, see above")]

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crate::decode::Block;

/// Decoded operations that are kept before all are dropped and decoded anew: 24 bytes each, and less than as much
/// again around them.
const MAX_SHARED_OPERATIONS: usize = 8 << 20;

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
#[derive(Default)]
pub struct SharedCode {
    files: RwLock<HashMap<CodeId, Arc<FileCode>>>,
    operations: AtomicUsize,
    epoch: AtomicU64,
    /// Instructions between two samples; 0 takes none.
    period: AtomicU32,
    on_new_file: OnceLock<NewFile>,
}

/// Told about each file whose code is run for the first time.
type NewFile = Box<dyn Fn(CodeId) + Send + Sync>;

impl fmt::Debug for SharedCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedCode").field("operations", &self.operations).finish_non_exhaustive()
    }
}

/// How often code at unit addresses (file offsets) was met when a sample was taken.
pub type Heat = HashMap<u32, u32>;

impl SharedCode {
    /// An empty store of decoded code.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Takes a sample of where threads are every so many instructions; 0 takes none.
    pub fn set_sampling(&self, period: u32) {
        self.period.store(period, Ordering::Relaxed);
    }

    pub(crate) fn sampling(&self) -> u32 {
        self.period.load(Ordering::Relaxed)
    }

    /// Takes the samples that were noted since the last call, by file.
    pub fn take_heat(&self) -> Vec<(CodeId, Heat)> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let heat = files.iter().map(|(id, file)| (*id, file.take_heat()));
        heat.filter(|(_, heat)| !heat.is_empty()).collect()
    }

    /// Marks unit addresses of a file as entries of translated code: a run that reaches one ends with
    /// [`Exit::Enter`](crate::interpreter::Exit::Enter) and the number given here.
    pub fn set_entries(&self, id: CodeId, entries: &[(u32, u32)]) {
        self.file(id).set_entries(entries);
    }

    /// Changes when all code was dropped.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The decoded code of a file.
    pub(crate) fn file(&self, id: CodeId) -> Arc<FileCode> {
        // A panic while a lock is held leaves the maps whole: insertions are single steps.
        if let Some(file) = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Arc::clone(file);
        }
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = false;
        let file = files.entry(id).or_insert_with(|| {
            is_new = true;
            Arc::default()
        });
        let file = Arc::clone(file);
        drop(files);
        if is_new && let Some(tell) = self.on_new_file.get() {
            tell(id);
        }
        file
    }

    /// Sets who is told, before it runs, about each file whose code is run for the first time; the first one set stays.
    pub fn on_new_file(&self, tell: Box<dyn Fn(CodeId) + Send + Sync>) {
        // The first stays, as documented.
        let _ = self.on_new_file.set(tell);
    }

    /// Counts new operations, and drops everything when there are too many; threads notice at their next entry.
    pub(crate) fn charge(&self, operations: usize) {
        let before = self.operations.fetch_add(operations, Ordering::Relaxed);
        if before + operations > MAX_SHARED_OPERATIONS {
            let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
            for file in files.values_mut() {
                *file = Arc::new(file.without_blocks());
            }
            self.operations.store(0, Ordering::Relaxed);
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Hashes one integer: file offsets are spread by a multiplication.
#[derive(Default)]
pub(crate) struct OffsetHasher(u64);

impl Hasher for OffsetHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 divided by the golden ratio.
        let product = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}

/// Blocks by where they start.
pub(crate) type BlockMap = HashMap<u64, Box<Block>, BuildHasherDefault<OffsetHasher>>;

/// Decoded blocks of one file content.
#[derive(Debug, Default)]
pub(crate) struct FileCode {
    blocks: RwLock<BlockMap>,
    /// Instructions that run by themselves, by offset.
    singles: RwLock<BlockMap>,
    /// Entries of translated code by unit address. Locked after `blocks`.
    entries: Mutex<HashMap<u32, u32>>,
    heat: Mutex<Heat>,
}

/// Addresses that are sampled in one file before the rest is not noted.
const MAX_HEAT: usize = 1 << 16;

impl FileCode {
    /// The block at a file offset.
    pub(crate) fn get(&self, offset: u64) -> Option<BlockPointer> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        blocks.get(&offset).map(BlockPointer::to)
    }

    /// Adds a block, unless another thread was faster; the block that is there.
    pub(crate) fn insert(&self, offset: u64, block: Block) -> BlockPointer {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = u32::try_from(offset).ok().and_then(|unit| entries.get(&unit)) {
            block.entry.store(number + 1, Ordering::Relaxed);
        }
        BlockPointer::to(blocks.entry(offset).or_insert_with(|| Box::new(block)))
    }

    /// The instruction at a file offset as a block of its own.
    pub(crate) fn single(&self, offset: u64) -> Option<BlockPointer> {
        let singles = self.singles.read().unwrap_or_else(PoisonError::into_inner);
        singles.get(&offset).map(BlockPointer::to)
    }

    /// As [`insert`](Self::insert) for [`single`](Self::single).
    pub(crate) fn insert_single(&self, offset: u64, block: Block) -> BlockPointer {
        let mut singles = self.singles.write().unwrap_or_else(PoisonError::into_inner);
        BlockPointer::to(singles.entry(offset).or_insert_with(|| Box::new(block)))
    }

    fn set_entries(&self, new: &[(u32, u32)]) {
        let blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for &(unit, number) in new {
            entries.insert(unit, number);
            if let Some(block) = blocks.get(&u64::from(unit)) {
                block.entry.store(number + 1, Ordering::Relaxed);
            }
        }
    }

    /// The same file with nothing decoded.
    fn without_blocks(&self) -> Self {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { entries: Mutex::new(entries), heat: Mutex::new(self.take_heat()), ..Self::default() }
    }

    /// Notes samples at file offsets.
    pub(crate) fn add_heat(&self, offsets: impl Iterator<Item = u64>) {
        let mut heat = self.heat.lock().unwrap_or_else(PoisonError::into_inner);
        for unit in offsets.filter_map(|offset| u32::try_from(offset).ok()) {
            if heat.len() < MAX_HEAT || heat.contains_key(&unit) {
                let count = heat.entry(unit).or_default();
                *count = count.saturating_add(1);
            }
        }
    }

    fn take_heat(&self) -> Heat {
        std::mem::take(&mut *self.heat.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A block that its holder keeps alive by other means: an `Arc` of its file, or the thread's own map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockPointer(NonNull<Block>);

// SAFETY: blocks are immutable but for their atomic links.
unsafe impl Send for BlockPointer {}

impl BlockPointer {
    #[expect(clippy::borrowed_box, reason = "only a boxed block has a lasting address")]
    pub(crate) fn to(block: &Box<Block>) -> Self {
        Self(NonNull::from(&**block))
    }

    /// The block.
    ///
    /// # Safety
    /// The file or map that owns the block is alive for `'a`.
    #[inline(always)]
    pub(crate) unsafe fn get<'a>(self) -> &'a Block {
        // SAFETY: the caller's promise.
        unsafe { self.0.as_ref() }
    }
}

/// A successor of a block in the same file, once known.
#[derive(Debug)]
pub(crate) struct Link(AtomicPtr<Block>);

impl Link {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> Option<BlockPointer> {
        NonNull::new(self.0.load(Ordering::Acquire)).map(BlockPointer)
    }

    /// Remembers a successor; it must belong to the same [`FileCode`].
    pub(crate) fn set(&self, block: BlockPointer) {
        self.0.store(block.0.as_ptr(), Ordering::Release);
    }
}
