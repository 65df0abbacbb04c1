//! The engine that translated code runs in.
//!
//! One [`Engine`] per host process, with the settings that translated code is made for: 32-bit addresses over a window of
//! 4 GiB without bounds checks, no epochs, no fuel. Its memories are ours: the guest's window and the thread's
//! [`State`](cooper_x86::lift::abi::State), which a small module of our own defines, because memories that a host makes do not go
//! through a [`MemoryCreator`]. The same module holds the table of functions and the way in, [`ENTER`].
//!
//! What must hold: the guest's fault handler is installed before the engine's, which hands on what is not its own; compiled code is
//! loaded only into an engine with the same [`key`].
#![allow(unsafe_code, reason = "hands memory of ours to the engine and sets a compiler flag by name")]

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;

use cooper_kernel::HOST_STACK;
use cooper_x86::lift::abi;
use cooper_x86::memory::{GUARD_SIZE, GUEST_SIZE, Window, install_fault_handler};
use wasmtime::{Config, Engine, LinearMemory, MemoryCreator, MemoryType, Module, OptLevel};

use crate::state::StateMemory;

/// Export of the base module: calls a slot of the table with the registers of the state, and puts back what it returns.
pub(crate) const ENTER: &str = "enter";

/// Stack that handlers of the kernel have when translated code is at its deepest.
const HANDLER_STACK: usize = 4 << 20;

/// Pages of a Wasm memory in the guest's window.
const GUEST_PAGES: u64 = GUEST_SIZE / (64 << 10);

thread_local! {
    /// What the memories of the next base module are made of.
    static PARTS: RefCell<Option<(Arc<Window>, Arc<StateMemory>)>> = const { RefCell::new(None) };
}

/// Runs `work`, in which the base module is instantiated over these memories.
pub(crate) fn with_memories<T>(window: Arc<Window>, state: Arc<StateMemory>, work: impl FnOnce() -> T) -> T {
    PARTS.set(Some((window, state)));
    let result = work();
    PARTS.set(None);
    result
}

/// The engine's settings.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_multi_memory(true)
        // Only for atomic instructions: memories are not shared ones.
        .wasm_threads(true)
        .wasm_wide_arithmetic(true)
        .wasm_simd(true)
        .wasm_function_references(true)
        .wasm_branch_hinting(true)
        .wasm_tail_call(true)
        .memory_reservation(GUEST_SIZE)
        .memory_guard_size(GUARD_SIZE as u64)
        .memory_may_move(false)
        .guard_before_linear_memory(false)
        .memory_init_cow(false)
        // Reading the table has no branch for entries that are not made yet.
        .table_lazy_init(false)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(HOST_STACK - HANDLER_STACK)
        // Never used, and must not be less.
        .async_stack_size(HOST_STACK)
        // The pc of a trap is all that is wanted; walking a deep stack costs milliseconds.
        .wasm_backtrace_max_frames(NonZeroUsize::new(1))
        .native_unwind_info(false)
        .parallel_compilation(true)
        .with_host_memory(Arc::new(Memories));
    // SAFETY: the guest's memory holds nothing that the guest may not read speculatively: a step's process has no secrets but
    // those of the step.
    unsafe {
        config.cranelift_flag_set("enable_heap_access_spectre_mitigation", "false");
        config.cranelift_flag_set("enable_table_access_spectre_mitigation", "false");
    }
    config
}

/// Makes an engine that only compiles.
pub(crate) fn compiler() -> Result<Engine, wasmtime::Error> {
    Engine::new(&config())
}

/// Makes the engine. Fails where the host cannot have one.
pub(crate) fn engine() -> Result<Engine, wasmtime::Error> {
    install_fault_handler();
    Engine::new(&config())
}

/// What compiled code depends on besides the bytes it was made from: translator, engine, settings, host processor.
pub(crate) fn key(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    (abi::MAX_DEPTH, abi::STATE_SIZE, GUARD_SIZE).hash(&mut hasher);
    format!("{}-{:016x}", abi::VERSION, hasher.finish())
}

/// The [`key`] of this program on this host; why there is none, where it cannot run translated code.
pub fn code_key() -> Result<String, String> {
    compiler().map(|engine| key(&engine)).map_err(|error| format!("{error:#}"))
}

/// The module that defines memories, table and the way in.
pub(crate) fn base_module(engine: &Engine) -> Result<Module, wasmtime::Error> {
    Module::new(engine, base_bytes())
}

fn base_bytes() -> Vec<u8> {
    use wasm_encoder::{
        CodeSection, ExportKind, ExportSection, Function, FunctionSection, HeapType, MemArg, MemorySection,
        RefType, TableSection, TableType, TypeSection, ValType,
    };
    let mut types = TypeSection::new();
    types.ty().function([ValType::I64; 4], [ValType::I32, ValType::I64, ValType::I64, ValType::I64]);
    types.ty().function([ValType::I32, ValType::I64], []);
    let mut functions = FunctionSection::new();
    functions.function(1);
    let mut tables = TableSection::new();
    tables.table(TableType {
        element_type: RefType { nullable: true, heap_type: HeapType::Concrete(0) },
        table64: false,
        minimum: abi::TABLE_SLOTS.into(),
        maximum: Some(abi::TABLE_SLOTS.into()),
        shared: false,
    });
    let mut memories = MemorySection::new();
    let memory = |pages| wasm_encoder::MemoryType {
        minimum: pages,
        maximum: Some(pages),
        memory64: false,
        shared: false,
        page_size_log2: None,
    };
    memories.memory(memory(GUEST_PAGES));
    memories.memory(memory(1));
    let mut exports = ExportSection::new();
    exports.export(abi::MEMORY, ExportKind::Memory, 0);
    exports.export(abi::STATE, ExportKind::Memory, 1);
    exports.export(abi::TABLE, ExportKind::Table, 0);
    exports.export(ENTER, ExportKind::Func, 0);
    let place = |offset| MemArg { offset, align: 3, memory_index: 1 };
    let register = |number| place(abi::gpr_offset(number));
    let mut enter = Function::new([(3, ValType::I64), (1, ValType::I32)]);
    enter
        .instructions()
        .local_get(1)
        .i32_const(0)
        .i64_load(register(cooper_x86::state::register::RSP))
        .i32_const(0)
        .i64_load(register(cooper_x86::state::register::RDI))
        .i32_const(0)
        .i64_load(register(cooper_x86::state::register::RSI))
        .local_get(0)
        .call_indirect(0, 0)
        .local_set(2)
        .local_set(3)
        .local_set(4)
        .local_set(5)
        .i32_const(0)
        .local_get(2)
        .i64_store(register(cooper_x86::state::register::RDX))
        .i32_const(0)
        .local_get(3)
        .i64_store(register(cooper_x86::state::register::RAX))
        .i32_const(0)
        .local_get(4)
        .i64_store(register(cooper_x86::state::register::RSP))
        .i32_const(0)
        .local_get(5)
        .i64_extend_i32_u()
        .i64_store(place(abi::RIP_OFFSET))
        .end();
    let mut code = CodeSection::new();
    code.function(&enter);
    let mut module = wasm_encoder::Module::new();
    module.section(&types).section(&functions).section(&tables).section(&memories).section(&exports);
    module.section(&code);
    module.finish()
}

/// Gives the engine the memories that [`with_memories`] names.
struct Memories;

// SAFETY: both kinds of memory have a reservation and a guard of the configured sizes and never move or grow.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved.is_some_and(|size| size as u64 > GUEST_SIZE) || guard > GUARD_SIZE {
            return Err("a memory larger than a guest's window".to_owned());
        }
        PARTS.with_borrow(|parts| {
            let (window, state) = parts.as_ref().ok_or("no memory was named")?;
            Ok(match minimum as u64 {
                GUEST_SIZE => Box::new(WindowMemory(window.clone())) as Box<dyn LinearMemory>,
                _ if minimum == abi::STATE_SIZE => Box::new(StateWindow(state.clone())),
                _ => return Err(format!("a memory of {minimum} bytes")),
            })
        })
    }
}

struct WindowMemory(Arc<Window>);

// SAFETY: the window is 4 GiB of reserved addresses with a guard behind, which the `Arc` keeps.
unsafe impl LinearMemory for WindowMemory {
    fn byte_size(&self) -> usize {
        GUEST_SIZE as usize
    }

    fn byte_capacity(&self) -> usize {
        GUEST_SIZE as usize
    }

    fn grow_to(&mut self, _: usize) -> Result<(), wasmtime::Error> {
        Err(wasmtime::Error::msg("a guest's window does not grow"))
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base()
    }
}

struct StateWindow(Arc<StateMemory>);

// SAFETY: as for `WindowMemory`; the first page is accessible, the rest of the reservation is not.
unsafe impl LinearMemory for StateWindow {
    fn byte_size(&self) -> usize {
        abi::STATE_SIZE
    }

    fn byte_capacity(&self) -> usize {
        abi::STATE_SIZE
    }

    fn grow_to(&mut self, _: usize) -> Result<(), wasmtime::Error> {
        Err(wasmtime::Error::msg("a thread's state does not grow"))
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base()
    }
}
