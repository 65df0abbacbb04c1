//! Runs translated code: a store, the imports, and the interpreter behind `step` and `dispatch`.
#![allow(unsafe_code, reason = "the state's memory is shared with translated code; MXCSR is set")]
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "every test uses a part"
)]

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU8;

use cooper_x86::code::{CodeMap, CodeRange, CodeSource, SharedCode};
use cooper_x86::interpreter::{Exit, Interpreter};
use cooper_x86::lift::abi::{self, State};
use cooper_x86::lift::{CodeImage, FunctionBounds, Translation, Unit, translate};
use cooper_x86::memory::{GuestMemory, PAGE_SIZE, Protection};
use cooper_x86::state::{CpuState, flag, register::*};
use wasmtime::{
    Caller, Config, Engine, Extern, Func, Global, Instance, LinearMemory, Memory, MemoryCreator, MemoryType,
    Module, Mutability, Store, Trap, Val, ValType,
};

pub const CODE: u64 = 0x5000_0000;
pub const CODE_SIZE: u64 = 64 * PAGE_SIZE;
pub const DATA: u64 = 0x6000_0000;
pub const DATA_SIZE: u64 = 64 * PAGE_SIZE;
/// Where programs return to.
pub const HOME: u64 = CODE + CODE_SIZE - 16;

/// The guest's only executable range.
pub struct Map;

impl CodeMap for Map {
    fn code_at(&self, pc: u64) -> Option<CodeRange> {
        (CODE..CODE + CODE_SIZE).contains(&pc).then_some(CodeRange {
            start: CODE,
            end: CODE + CODE_SIZE,
            source: CodeSource::Generated,
        })
    }

    fn generation(&self) -> u64 {
        1
    }
}

/// Code by unit address; the bias is [`CODE`].
pub struct Image(pub Vec<u8>);

/// An image whose file holds pointers into it.
pub struct Pointed(pub Image, pub Vec<u32>);

impl CodeImage for Pointed {
    fn code(&self, at: u32) -> &[u8] {
        self.0.code(at)
    }

    fn read_only(&self, at: u32, buffer: &mut [u8]) -> bool {
        self.0.read_only(at, buffer)
    }

    fn pointers(&self, from: u32, to: u32) -> Vec<u32> {
        cooper_x86::lift::pointers::between(&self.1, from, to).to_vec()
    }
}

impl CodeImage for Image {
    fn code(&self, at: u32) -> &[u8] {
        self.0.get(at as usize..).unwrap_or(&[])
    }

    fn read_only(&self, at: u32, buffer: &mut [u8]) -> bool {
        match self.0.get(at as usize..).and_then(|bytes| bytes.get(..buffer.len())) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

/// How a run of translated code ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It came to this guest address outside of all functions.
    At(u64),
    /// The interpreter came back with this.
    Exit(Exit),
    /// A load or store faulted at this unit address.
    Fault(u32),
}

struct Window(*mut u8);
// SAFETY: the window is used by one thread at a time.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

struct Borrowed(*mut u8, usize);
// SAFETY: as for the window.
unsafe impl Send for Borrowed {}
// SAFETY: as for the window.
unsafe impl Sync for Borrowed {}

// SAFETY: the window has 4 GiB and 64 KiB of guard behind it, as configured.
unsafe impl LinearMemory for Borrowed {
    fn byte_size(&self) -> usize {
        self.1
    }

    fn byte_capacity(&self) -> usize {
        self.1
    }

    fn grow_to(&mut self, _: usize) -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("the window does not grow"))
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0
    }
}

// SAFETY: see `Borrowed`; the state's page lies in a reservation of its own, of the same size.
unsafe impl MemoryCreator for Window {
    fn new_memory(
        &self,
        ty: MemoryType,
        _: usize,
        _: Option<usize>,
        _: Option<usize>,
        _: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if ty.minimum() == 65_536 {
            return Ok(Box::new(Borrowed(self.0, 1 << 32)));
        }
        let page = Box::leak(Box::new(GuestMemory::reserve().expect("address space")));
        page.map_anonymous(0, abi::STATE_SIZE as u64, Protection::ReadWrite).expect("the state");
        Ok(Box::new(Borrowed(page.base(), abi::STATE_SIZE)))
    }
}

pub struct Host {
    pub memory: &'static GuestMemory,
    pub interpreter: Interpreter,
    pub cpu: CpuState,
    pub end: Option<End>,
    pub state: *mut State,
    pub steps: u64,
    pub dispatched: u64,
    pub entries: Vec<(u32, u32)>,
    pub stops: u64,
    /// Calls that came back elsewhere.
    pub resolved: u64,
    /// Functions that did not begin for want of depth.
    pub unwound: u64,
    /// Depth that the first function is entered with.
    pub depth: u32,
}
// SAFETY: a host belongs to one thread.
unsafe impl Send for Host {}

pub fn set_mxcsr(value: u32) {
    // SAFETY: the value has only bits that exist.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value) };
}

pub fn mxcsr() -> u32 {
    let mut value = 0_u32;
    // SAFETY: stores to a local.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value) };
    value
}

impl Host {
    fn state(&mut self) -> &mut State {
        // SAFETY: the store keeps the memory, and translated code does not run now.
        unsafe { &mut *self.state }
    }

    /// The state as the interpreter wants it, with `rip` at `pc`.
    fn cpu_at(&mut self, pc: u64) -> CpuState {
        let mut cpu = self.cpu.clone();
        let state = self.state();
        cpu.gpr = state.gpr;
        cpu.flags = state.flags;
        cpu.xmm = state.xmm;
        cpu.fs_base = state.fs_base;
        cpu.rip = pc;
        cpu.mxcsr = mxcsr();
        cpu
    }

    fn take_cpu(&mut self, cpu: CpuState) {
        let state = self.state();
        state.gpr = cpu.gpr;
        state.flags = cpu.flags;
        state.xmm = cpu.xmm;
        state.rip = cpu.rip;
        set_mxcsr(cpu.mxcsr);
        self.cpu = cpu;
    }

    /// One instruction; an exit other than a step ends the run.
    fn step(&mut self, cpu: &mut CpuState) -> wasmtime::Result<()> {
        cpu.flags |= flag::TF;
        let exit = self.interpreter.run(cpu, self.memory, &Map, &AtomicU8::new(0));
        cpu.flags &= !flag::TF;
        self.steps += 1;
        if exit == Exit::Step {
            return Ok(());
        }
        self.end = Some(End::Exit(exit));
        self.take_cpu(cpu.clone());
        Err(wasmtime::Error::msg("exit"))
    }
}

fn length_at(host: &Host, pc: u64) -> u64 {
    let mut bytes = [0; 15];
    let _ = host.memory.read(pc, &mut bytes);
    iced_x86::Decoder::with_ip(64, &bytes, pc, 0).decode().len() as u64
}

fn on_step(host: &mut Host, pc: i32) -> wasmtime::Result<i32> {
    let pc = u64::from(pc as u32);
    let next = pc + length_at(host, pc);
    let mut cpu = host.cpu_at(pc);
    host.step(&mut cpu)?;
    let rip = cpu.rip;
    host.take_cpu(cpu);
    Ok(i32::from(rip != next))
}

pub struct Runner {
    pub store: Store<Host>,
    pub engine: Engine,
    state_memory: Memory,
    guest: Memory,
    table: wasmtime::Table,
    pub faults: Vec<cooper_x86::lift::FaultSite>,
    function_type: wasmtime::FuncType,
}

pub fn engine(memory: &'static GuestMemory) -> Engine {
    let mut config = Config::new();
    config
        .wasm_threads(true)
        .wasm_function_references(true)
        .wasm_branch_hinting(true)
        .wasm_wide_arithmetic(true)
        .wasm_multi_memory(true)
        .table_lazy_init(false)
        .memory_reservation(1 << 32)
        .memory_guard_size(1 << 16)
        .max_wasm_stack(1 << 20)
        .wasm_backtrace_max_frames(NonZeroUsize::new(1))
        .with_host_memory(std::sync::Arc::new(Window(memory.base())));
    Engine::new(&config).expect("an engine")
}

impl Runner {
    pub fn new() -> Self {
        let memory: &'static GuestMemory =
            Box::leak(Box::new(GuestMemory::reserve().expect("address space")));
        memory.map_anonymous(CODE, CODE_SIZE, Protection::ReadWrite).expect("code");
        memory.map_anonymous(DATA, DATA_SIZE, Protection::ReadWrite).expect("data");
        Self::with_memory(memory)
    }

    fn with_memory(memory: &'static GuestMemory) -> Self {
        let engine = engine(memory);
        let host = Host {
            memory,
            interpreter: Interpreter::new(SharedCode::new()),
            cpu: CpuState::at_entry(CODE, DATA),
            end: None,
            state: std::ptr::null_mut(),
            steps: 0,
            dispatched: 0,
            entries: Vec::new(),
            stops: 0,
            resolved: 0,
            unwound: 0,
            depth: 0,
        };
        let mut store = Store::new(&engine, host);
        let setup = setup_module();
        let module = Module::new(&engine, setup).expect("the setup module");
        let instance = Instance::new(&mut store, &module, &[]).expect("its instance");
        let guest = instance.get_memory(&mut store, "m").expect("memory");
        let state_memory = instance.get_memory(&mut store, "s").expect("state");
        let table = instance.get_table(&mut store, "t").expect("table");
        let state = state_memory.data_ptr(&store).cast();
        store.data_mut().state = state;
        let function_type = wasmtime::FuncType::new(
            &engine,
            [ValType::I64, ValType::I64, ValType::I64, ValType::I64],
            [ValType::I32, ValType::I64, ValType::I64, ValType::I64],
        );
        Self { store, engine, state_memory, guest, table, faults: Vec::new(), function_type }
    }

    pub fn state(&mut self) -> &mut State {
        self.store.data_mut().state()
    }

    /// Writes code to the guest and translates functions of it; the instance's functions go to `slot`.
    pub fn load(&mut self, image: &Image, functions: &[FunctionBounds], slot: u32) -> Translation {
        self.store.data().memory.write(CODE, &image.0).expect("code fits");
        let translation = translate(&Unit { image, functions, extra_entries: &[] });
        self.install(&translation, slot);
        translation
    }

    pub fn install(&mut self, translation: &Translation, slot: u32) {
        validate(&translation.wasm);
        let module = Module::new(&self.engine, &translation.wasm).expect("a module");
        let store = &mut self.store;
        let global = |store: &mut Store<Host>, value: i32| {
            Global::new(store, wasmtime::GlobalType::new(ValType::I32, Mutability::Const), Val::I32(value))
                .expect("a global")
        };
        let bias = global(store, CODE as i32);
        let first = global(store, slot as i32);
        let dispatch = Func::new(&mut *store, self.function_type.clone(), on_dispatch);
        let resolve = Func::wrap(&mut *store, on_resolve);
        let step =
            Func::wrap(&mut *store, |mut caller: Caller<'_, Host>, pc: i32| on_step(caller.data_mut(), pc));
        let syscall =
            Func::wrap(&mut *store, |mut caller: Caller<'_, Host>, pc: i32| -> wasmtime::Result<i32> {
                let host = caller.data_mut();
                host.end = Some(End::Exit(Exit::Syscall));
                host.state().rip = u64::from(pc as u32);
                Err(wasmtime::Error::msg("exit"))
            });
        let stop = Func::wrap(&mut *store, |mut caller: Caller<'_, Host>, pc: i32| {
            let host = caller.data_mut();
            host.stops += 1;
            host.state().stop = 0;
            host.state().rip = u64::from(pc as u32);
            let unwinds = std::mem::take(&mut host.state().unwind) != 0;
            host.unwound += u64::from(unwinds);
            i32::from(unwinds)
        });
        let imports: Vec<Extern> = vec![
            self.guest.into(),
            self.state_memory.into(),
            self.table.into(),
            bias.into(),
            first.into(),
            dispatch.into(),
            resolve.into(),
            step.into(),
            syscall.into(),
            stop.into(),
        ];
        Instance::new(&mut *store, &module, &imports).expect("an instance");
        self.faults.clone_from(&translation.faults);
        for (index, function) in translation.functions.iter().enumerate() {
            for entry in &function.entries {
                let pc = CODE as u32 + entry;
                self.store.data_mut().entries.push((pc, slot + index as u32));
            }
        }
    }

    /// Fills the cache of call targets with all entries.
    pub fn fill_cache(&mut self) {
        let entries = self.store.data().entries.clone();
        for (pc, slot) in entries {
            self.state().cache[abi::cache_index(pc)] = abi::CacheEntry { pc, slot };
        }
    }

    /// Runs the function at `slot`, entered at `pc`, from a state to its end.
    pub fn run(&mut self, slot: u32, pc: u64, cpu: &CpuState) -> (End, CpuState) {
        let host = self.store.data_mut();
        host.end = None;
        host.cpu = cpu.clone();
        let outer = mxcsr();
        host.take_cpu(cpu.clone());
        let function = self.table.get(&mut self.store, slot.into()).expect("a slot");
        let function = function.unwrap_func().expect("a function").to_owned();
        type Results = (i32, i64, i64, i64);
        let function = function.typed::<(i64, i64, i64, i64), Results>(&self.store).expect("its type");
        let pcd = pc | u64::from(self.store.data().depth) << 32;
        let arguments = (pcd as i64, cpu.gpr[RSP] as i64, cpu.gpr[RDI] as i64, cpu.gpr[RSI] as i64);
        set_mxcsr(cpu.mxcsr);
        let result = function.call(&mut self.store, arguments);
        let control = mxcsr();
        set_mxcsr(outer);
        let end = match result {
            Ok((pc, rsp, rax, rdx)) => {
                let state = self.state();
                (state.gpr[RSP], state.gpr[RAX], state.gpr[RDX]) = (rsp as u64, rax as u64, rdx as u64);
                End::At(u64::from(pc as u32))
            }
            Err(error) => match self.store.data().end {
                Some(end) => end,
                None => self.trap(&error),
            },
        };
        let host = self.store.data_mut();
        let rip = match end {
            End::At(pc) => pc,
            _ => host.state().rip,
        };
        let mut after = host.cpu_at(rip);
        after.mxcsr = control;
        (end, after)
    }

    fn trap(&self, error: &wasmtime::Error) -> End {
        let trap = error.downcast_ref::<Trap>();
        assert!(
            matches!(trap, Some(Trap::MemoryOutOfBounds | Trap::HeapMisaligned)),
            "an unexpected trap: {error:?}"
        );
        let trace = error.downcast_ref::<wasmtime::WasmBacktrace>().expect("a backtrace");
        let offset = trace.frames()[0].module_offset().expect("an offset") as u32;
        let site = self.faults.iter().find(|site| site.wasm_offset == offset).expect("a fault site");
        End::Fault(site.unit_address)
    }
}

/// A call came back elsewhere: interpreted until the stack pointer passes the slot.
fn on_resolve(
    mut caller: Caller<'_, Host>,
    pc: i32,
    rsp: i64,
    rax: i64,
    rdx: i64,
    expected: i32,
    slot: i64,
) -> wasmtime::Result<i32> {
    let host = caller.data_mut();
    host.resolved += 1;
    let state = host.state();
    (state.gpr[RSP], state.gpr[RAX], state.gpr[RDX]) = (rsp as u64, rax as u64, rdx as u64);
    let mut cpu = host.cpu_at(u64::from(pc as u32));
    while cpu.gpr[RSP] <= slot as u64 {
        host.step(&mut cpu)?;
    }
    let goes_on = cpu.rip == u64::from(expected as u32);
    host.take_cpu(cpu);
    Ok(i32::from(!goes_on))
}

/// A callee that has no translation: interpreted until it returns; the end when it is outside of all code.
fn on_dispatch(mut caller: Caller<'_, Host>, arguments: &[Val], results: &mut [Val]) -> wasmtime::Result<()> {
    let host = caller.data_mut();
    host.dispatched += 1;
    let pc = u64::from(arguments[0].unwrap_i64() as u32);
    for (register, value) in [RSP, RDI, RSI].into_iter().zip(&arguments[1..]) {
        host.state().gpr[register] = value.unwrap_i64() as u64;
    }
    let top = host.state().gpr[RSP];
    let mut cpu = host.cpu_at(pc);
    // `pushfq` or `int3` marks the end of a test.
    if matches!(host.memory.load::<u8>(pc), Ok(0x9c | 0xcc)) {
        host.end = Some(End::At(pc));
        host.state().rip = pc;
        return Err(wasmtime::Error::msg("end"));
    }
    while cpu.gpr[RSP] <= top {
        host.step(&mut cpu)?;
    }
    let values = (cpu.rip, cpu.gpr[RSP], cpu.gpr[RAX], cpu.gpr[RDX]);
    host.take_cpu(cpu);
    results[0] = Val::I32(values.0 as i32);
    results[1] = Val::I64(values.1 as i64);
    results[2] = Val::I64(values.2 as i64);
    results[3] = Val::I64(values.3 as i64);
    Ok(())
}

/// What is wrong with a module, with its text around the place.
pub fn validate(wasm: &[u8]) {
    let features = wasmparser::WasmFeatures::all();
    if let Err(error) = wasmparser::Validator::new_with_features(features).validate_all(wasm) {
        panic!("{error}\n{}", wasmprinter::print_bytes(wasm).unwrap_or_default());
    }
}

fn setup_module() -> Vec<u8> {
    use wasm_encoder::ValType::{I32, I64};
    use wasm_encoder::{
        ExportKind, ExportSection, HeapType, MemorySection, RefType, TableSection, TypeSection,
    };
    let mut types = TypeSection::new();
    types.ty().function([I64; 4], [I32, I64, I64, I64]);
    let mut tables = TableSection::new();
    let slots = u64::from(abi::TABLE_SLOTS);
    tables.table(wasm_encoder::TableType {
        element_type: RefType { nullable: true, heap_type: HeapType::Concrete(0) },
        table64: false,
        minimum: slots,
        maximum: Some(slots),
        shared: false,
    });
    let mut memories = MemorySection::new();
    for pages in [65_536, 1] {
        memories.memory(wasm_encoder::MemoryType {
            minimum: pages,
            maximum: Some(pages),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
    }
    let mut exports = ExportSection::new();
    exports.export("m", ExportKind::Memory, 0);
    exports.export("s", ExportKind::Memory, 1);
    exports.export("t", ExportKind::Table, 0);
    let mut module = wasm_encoder::Module::new();
    module.section(&types).section(&tables).section(&memories).section(&exports);
    module.finish()
}
