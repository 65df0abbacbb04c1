//! Memory of a WebAssembly process that its module cannot address.
//!
//! System calls take structures with 64-bit pointers; WASI's host functions have none in the module's memory, and may put none there.
//! So they have the [`Annex`]: bytes that belong to the process at addresses beyond the window, where only system calls reach them.
//! It begins with what a machine-code program finds on its stack, which `/proc` shows, and ends with [`SCRATCH`].
//!
//! And the linear memory itself: pages from address 0 up, which only ever become more.

use std::sync::{Arc, Mutex};

use cooper_vfs::Errno;
use cooper_x86::memory::{GUEST_SIZE, PAGE_SIZE};

use super::{AddressSpace, Layout, MapFlags, MapRequest, Rights};
use crate::exec::wasm::WasmProgram;
use crate::wait::lock;

/// Address of the scratch area, far beyond every address of a module.
pub const SCRATCH: u64 = 1 << 40;
/// Bytes of the scratch area.
pub const SCRATCH_SIZE: u64 = 64 << 10;
/// The most bytes of arguments and environment below it.
pub(crate) const BELOW: u64 = 16 << 20;

/// Bytes on both sides of [`SCRATCH`]; what was never written is not there.
#[derive(Debug)]
pub(crate) struct Annex {
    start: u64,
    size: usize,
    bytes: Mutex<Vec<u8>>,
}

impl Annex {
    /// An annex with `below` right before the scratch area.
    pub(crate) fn new(below: Vec<u8>) -> Self {
        let start = SCRATCH - below.len() as u64;
        Self { start, size: below.len() + SCRATCH_SIZE as usize, bytes: Mutex::new(below) }
    }

    /// Copies in from `address`; how many bytes there were.
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let bytes = lock(&self.bytes);
        let from = address.checked_sub(self.start).and_then(|at| bytes.get(usize::try_from(at).ok()?..));
        let from = from.unwrap_or_default();
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        count
    }

    /// Copies out to `address`; how many bytes there was room for.
    fn write(&self, address: u64, data: &[u8]) -> usize {
        let mut bytes = lock(&self.bytes);
        let at = address.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let Some(at) = at.filter(|at| *at < self.size) else { return 0 };
        let count = data.len().min(self.size - at);
        if bytes.len() < at + count {
            bytes.resize(at + count, 0);
        }
        bytes[at..at + count].copy_from_slice(&data[..count]);
        count
    }
}

/// What makes an address space one of a WebAssembly program.
pub(super) struct Wasm {
    program: Arc<dyn WasmProgram>,
    annex: Annex,
}

impl std::fmt::Debug for Wasm {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wasm").field("annex", &self.annex).finish_non_exhaustive()
    }
}

impl AddressSpace {
    /// Makes this the memory of a WebAssembly program.
    pub(crate) fn set_wasm(&self, program: Arc<dyn WasmProgram>, annex: Annex) {
        // A fresh address space has none.
        let _ = self.wasm.set(Wasm { program, annex });
    }

    /// The program that runs here instead of machine code.
    pub fn wasm(&self) -> Option<&Arc<dyn WasmProgram>> {
        self.wasm.get().map(|wasm| &wasm.program)
    }

    /// The arguments that the program of this memory was started with.
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        self.strings(|layout| layout.arguments)
    }

    /// The environment that the program of this memory was started with.
    pub fn environment(&self) -> Vec<Vec<u8>> {
        self.strings(|layout| layout.environment)
    }

    fn strings(&self, range: impl Fn(&Layout) -> (u64, u64)) -> Vec<Vec<u8>> {
        let (start, end) = range(&lock(&self.layout));
        let bytes = self.read_vec(start, end.saturating_sub(start) as usize).unwrap_or_default();
        let Some(bytes) = bytes.strip_suffix(b"\0") else { return Vec::new() };
        bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    /// Has linear memory that ends at `old` end at `new`, both in bytes and whole pages, with zeros in between.
    ///
    /// `ENOMEM` when the step's memory is used up, or the window.
    pub fn grow_linear(&self, old: u64, new: u64) -> Result<(), Errno> {
        if new <= old {
            return Ok(());
        }
        let mut request = MapRequest::zeros(old, new - old, Rights::READ | Rights::WRITE, "[linear]");
        request.flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED;
        request.lowest = 0;
        self.map(request).map(|_| ())
    }

    /// Copies in from beyond the window; nothing for machine code.
    #[cold]
    pub(super) fn read_annex(&self, address: u64, buffer: &mut [u8]) -> usize {
        self.wasm.get().map_or(0, |wasm| wasm.annex.read(address, buffer))
    }

    /// Copies out to beyond the window; nothing for machine code.
    #[cold]
    pub(super) fn write_annex(&self, address: u64, bytes: &[u8]) -> usize {
        self.wasm.get().map_or(0, |wasm| wasm.annex.write(address, bytes))
    }

    /// The bytes that system calls find at `address` beyond the window, up to a zero or `limit`.
    #[cold]
    pub(super) fn annex_string(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut string = vec![0; limit];
        let count = self.read_annex(address, &mut string);
        match string[..count].iter().position(|byte| *byte == 0) {
            Some(end) => {
                string.truncate(end);
                Ok(string)
            }
            None if count == limit => Err(Errno::NAMETOOLONG),
            None => Err(Errno::FAULT),
        }
    }
}

/// Whether an address lies beyond every window.
pub(super) fn is_beyond(address: u64) -> bool {
    address >= GUEST_SIZE + PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_and_the_scratch_area_are_one_range() {
        let annex = Annex::new(b"abc".to_vec());
        assert_eq!(annex.write(SCRATCH - 1, b"CDE"), 3);
        let mut seen = [0; 6];
        assert_eq!(annex.read(SCRATCH - 3, &mut seen), 5);
        assert_eq!(&seen, b"abCDE\0");
    }

    #[test]
    fn nothing_lies_around_it() {
        let annex = Annex::new(b"abc".to_vec());
        let end = SCRATCH + SCRATCH_SIZE;
        assert_eq!(annex.read(SCRATCH - 4, &mut [0; 2]), 0);
        assert_eq!(annex.write(end - 1, b"xy"), 1);
        assert_eq!((annex.write(end, b"x"), annex.write(u64::MAX, b"x"), annex.read(0, &mut [0])), (0, 0, 0));
    }
}
