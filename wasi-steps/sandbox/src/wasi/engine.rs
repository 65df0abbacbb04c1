//! The engine that WebAssembly programs run in.
//!
//! Not the one of translated code: programs here are anybody's, so their loops look at the epoch and nothing of Cranelift's hardening is
//! switched off. Linear memory is the window of the process's address space, which the kernel charges for every page.
#![allow(unsafe_code, reason = "hands memory of ours to the engine")]

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use cooper_kernel::memory::AddressSpace;
use cooper_kernel::{HOST_STACK, StopByte};
use cooper_x86::memory::{GUARD_SIZE, GUEST_SIZE, install_fault_handler};
use wasmtime::{Config, Engine, LinearMemory, MemoryCreator, MemoryType, OptLevel};

/// Stack of a module's functions, in bytes: as much as Linux gives a program.
const STACK: usize = 8 << 20;
const _: () = assert!(STACK * 2 < HOST_STACK);
/// Functions that the report of a trap names.
const MAX_FRAMES: usize = 16;

thread_local! {
    /// Whose window the memory of the next instance is.
    static SPACE: RefCell<Option<Arc<AddressSpace>>> = const { RefCell::new(None) };
}

/// Runs `work`, in which a module is instantiated in this address space.
pub(super) fn with_space<T>(space: &Arc<AddressSpace>, work: impl FnOnce() -> T) -> T {
    SPACE.set(Some(space.clone()));
    let result = work();
    SPACE.set(None);
    result
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(true)
        // One answer on every processor.
        .relaxed_simd_deterministic(true)
        .wasm_tail_call(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_threads(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_wide_arithmetic(false)
        .memory_reservation(GUEST_SIZE)
        .memory_guard_size(GUARD_SIZE as u64)
        .memory_may_move(false)
        .guard_before_linear_memory(false)
        .memory_init_cow(false)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(STACK)
        // Never used, and must not be less.
        .async_stack_size(HOST_STACK)
        .wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES))
        .native_unwind_info(false)
        .parallel_compilation(true)
        .with_host_memory(Arc::new(Memories));
    config
}

/// Makes an engine that only compiles.
pub(super) fn compiler() -> Result<Engine, wasmtime::Error> {
    Engine::new(&config())
}

/// Makes the engine. Fails where the host cannot have one.
pub(super) fn engine() -> Result<Engine, wasmtime::Error> {
    install_fault_handler();
    Engine::new(&config())
}

/// What compiled code depends on besides the module's bytes: engine, settings, host processor.
pub(super) fn key(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    (GUARD_SIZE, STACK).hash(&mut hasher);
    format!("wasm-{:016x}", hasher.finish())
}

/// Raises the epoch when a thread is to look up, so that modules' loops do.
pub(super) struct EpochStop {
    engine: Engine,
    byte: AtomicU8,
}

impl EpochStop {
    pub(super) fn new(engine: Engine) -> Arc<Self> {
        Arc::new(Self { engine, byte: AtomicU8::new(0) })
    }
}

impl StopByte for EpochStop {
    /// Shared by all threads and read by none: whoever is made to look up by the epoch reads its own flag.
    fn byte(&self) -> &AtomicU8 {
        &self.byte
    }

    fn raised(&self) {
        self.engine.increment_epoch();
    }
}

/// Gives the engine the window that [`with_space`] names.
struct Memories;

// SAFETY: a window has the configured reservation and guard, and never moves.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved.is_some_and(|size| size as u64 > GUEST_SIZE) || guard > GUARD_SIZE {
            return Err("a memory larger than a guest's window".to_owned());
        }
        let space = SPACE.take().ok_or("a second memory")?;
        space
            .grow_linear(0, minimum as u64)
            .map_err(|_| format!("its memory of {} MiB is more than there is", minimum >> 20))?;
        let maximum = maximum.unwrap_or(GUEST_SIZE as usize);
        Ok(Box::new(Linear { space, size: minimum, maximum }))
    }
}

struct Linear {
    space: Arc<AddressSpace>,
    size: usize,
    maximum: usize,
}

// SAFETY: the window is 4 GiB of reserved addresses with a guard behind, which the `Arc` keeps; what is below `size` is mapped.
unsafe impl LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        GUEST_SIZE as usize
    }

    fn grow_to(&mut self, new: usize) -> Result<(), wasmtime::Error> {
        if new > self.maximum {
            return Err(wasmtime::Error::msg("beyond the memory's own maximum"));
        }
        self.space.grow_linear(self.size as u64, new as u64).map_err(wasmtime::Error::new)?;
        self.size = new;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.space.guest_memory().base()
    }
}
