//! One guest thread in two tiers.
//!
//! A thread starts in the interpreter. The first time that it meets translated code it gets a Wasmtime store over its
//! process's window; from then on the two call each other. The registers live in the interpreter while the host has the thread and in
//! the [`State`](cooper_x86::lift::abi::State) page while translated code has it; MXCSR and x87 stay in the interpreter. The kernel is
//! given a [`CpuState`] when it serves an exit.
//!
//! Translated code asks its host through the imports here: a callee that is not in its cache, a call that came back
//! elsewhere, an instruction it leaves to the interpreter, a system call, the stop byte. Each is served with the frames
//! below it alive. They hold nothing of the guest's, so leaving them is always allowed: an end, an `execve`, too deep a stack or
//! dropped code leave with [`Leave`] as an error through all frames, and the thread goes on at the bottom with its registers.
//!
//! What must hold: whenever Rust code runs, interpreter or page has the registers and it is known which; host code runs with
//! the host's MXCSR; the supervisor's pointer is used only while [`TieredExecutor::run`] is on the stack.
#![allow(
    unsafe_code,
    reason = "the store needs values without lifetimes, and the supervisor is borrowed for one run"
)]

use std::cell::Cell;
use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::Arc;

use cooper_kernel::memory::AddressSpace;
use cooper_kernel::{Executor, Flow, HOST_STACK, Supervisor};
use cooper_x86::code::{CodeId, CodeMap, CodeSource};
use cooper_x86::float;
use cooper_x86::interpreter::{Bounds, Exit, Interpreter};
use cooper_x86::lift::abi;
use cooper_x86::memory::{Access, Fault};
use cooper_x86::state::{CpuState, register};
use wasmtime::unix::StoreExt;
use wasmtime::{
    AsContextMut, Caller, Extern, Global, GlobalType, Instance, Linker, Mutability, Store, StoreContextMut,
    Trap, TypedFunc, Val, ValType, WasmBacktrace,
};

use crate::engine::{self, ENTER};
use crate::library::{Import, Translated};
use crate::state::StateMemory;
use crate::tiers::Tiers;
use crate::verify::{Difference, Verifier};

/// Stack that the host's frames may use before everything is left: more than what functions check at their entry, because
/// a nested run costs stack of its own.
const MAX_STACK: usize = abi::MAX_DEPTH as usize + (2 << 20);
const _: () = assert!(MAX_STACK + (6 << 20) < HOST_STACK);
/// Entries that failed before a thread stays in the interpreter.
const MAX_FAILURES: u32 = 4096;
/// Transitions at an entry before it is known whether it is worth entering.
const TRIAL: u32 = 256;
/// Clock ticks that translated code has to run for each transition: fewer are interpreted sooner than the tiers are changed.
const WORTH: u64 = 150;
/// Entries whose worth is being found out; a power of two.
const TRIALS: usize = 256;
/// Table slot that stays empty: what a cache entry without an address points to.
const FIRST_SLOT: u32 = 1;

/// Why all frames are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Leave {
    /// The thread has ended.
    #[error("the guest thread has ended")]
    End,
    /// It has another memory now.
    #[error("the guest thread has another memory")]
    Memory,
    /// The stack is too deep, or code that may be in a frame is no longer valid.
    #[error("the guest thread starts over from its registers")]
    Unwind,
}

/// What a store is for, besides its thread.
pub(crate) struct ContextData {
    tiers: Arc<Tiers>,
    state: Arc<StateMemory>,
    /// What modules import.
    externs: Option<Arc<Externs>>,
    instances: Vec<Placed>,
    next_slot: u32,
    thread: Option<Thread>,
}

struct Externs {
    memory: Extern,
    state: Extern,
    table: Extern,
    functions: [Extern; FUNCTIONS.len()],
    enter: TypedFunc<(u32, u64), ()>,
}

/// A module instantiated for one bias.
struct Placed {
    module: Arc<Translated>,
    bias: u32,
    first_slot: u32,
}

/// A range of code whose translation this thread has used in its present memory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Used {
    start: u64,
    end: u64,
    id: CodeId,
    bias: u32,
}

/// The thread that has the store. `TieredExecutor::run` borrows the supervisor for as long as this lives, so the pointer may
/// be used wherever a store has a thread.
struct Thread {
    interpreter: Interpreter,
    /// What the kernel is given.
    cpu: CpuState,
    supervisor: NonNull<dyn Supervisor>,
    space: Arc<AddressSpace>,
    generation: u64,
    used: Vec<Used>,
    /// Code that was used and has changed since: not entered again.
    dead: HashSet<(CodeId, u32)>,
    /// Address near the bottom of the host's stack.
    stack: usize,
    failures: u32,
    counts: Counts,
    worth: Worth,
    /// The host's MXCSR while the guest's is loaded.
    host_float: u32,
    /// Compares the tiers, where that is asked for.
    verifier: Option<Verifier>,
}

/// What entering translated code at an address has been good for.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    pc: u32,
    transitions: u32,
    ticks: u64,
}

/// How long translated code runs between transitions.
#[derive(Debug)]
struct Worth {
    /// Transitions out of translated code.
    exits: u64,
    /// Clock ticks in it.
    ticks: u64,
    /// When it was last given control.
    since: u64,
    trials: Box<[Trial; TRIALS]>,
}

impl Worth {
    fn new() -> Self {
        Self { exits: 0, ticks: 0, since: 0, trials: Box::new([Trial::default(); TRIALS]) }
    }

    fn begin(&mut self) {
        self.since = ticks();
    }

    fn end(&mut self) {
        self.ticks += ticks().saturating_sub(self.since);
    }

    /// Notes a call at an entry that came back; whether the entry has turned out not to be worth it.
    fn note(&mut self, pc: u32, (exits, ticks): (u64, u64)) -> bool {
        let trial = &mut self.trials[(pc ^ pc >> 8) as usize % TRIALS];
        if trial.pc != pc {
            *trial = Trial { pc, ..Trial::default() };
        }
        trial.transitions = trial.transitions.saturating_add(1 + (self.exits - exits).min(1 << 20) as u32);
        trial.ticks += self.ticks - ticks;
        if trial.transitions < TRIAL {
            return false;
        }
        let is_short = trial.ticks < WORTH * u64::from(trial.transitions);
        *trial = Trial::default();
        is_short
    }
}

/// The processor's clock.
fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// How often the tiers changed, for the trace.
#[derive(Debug, Default)]
struct Counts {
    enter: u64,
    dispatch: u64,
    resolve: u64,
    step: u64,
    system_call: u64,
    stop: u64,
    /// Entries that were given up.
    passed: u64,
}

// SAFETY: a store is used by one thread at a time; the supervisor is `Send`.
unsafe impl Send for Thread {}

impl Thread {
    /// To be called right before translated code gets control.
    fn enter_guest(&mut self) {
        GUEST.set(Arc::as_ptr(&self.space));
        self.worth.begin();
    }

    /// To be called as soon as the host has control again.
    fn leave_guest(&mut self) {
        self.worth.end();
        GUEST.set(std::ptr::null());
    }

    /// Starts the next segment of code that both tiers run.
    fn verify_begin(&mut self) {
        if let Some(verifier) = &mut self.verifier {
            // SAFETY: see `Thread`.
            let stop = unsafe { self.supervisor.as_ref() }.stop().byte();
            verifier.begin(&self.space, &self.cpu, stop);
        }
    }

    /// Notes the registers, which the interpreter has, at a change of tiers.
    fn verify_note(&mut self) {
        if let Some(verifier) = &mut self.verifier {
            verifier.note(&self.interpreter);
        }
    }

    /// Bytes of the host's stack in use.
    fn depth(&self) -> usize {
        self.stack.saturating_sub(here())
    }
}

/// An address on the stack.
#[inline(never)]
fn here() -> usize {
    let place = 0_u8;
    std::ptr::from_ref(std::hint::black_box(&place)).addr()
}

/// Where a nested run ends.
#[derive(Clone, Copy, Debug)]
struct Goal {
    /// When the stack pointer is above this.
    stack: u64,
    /// When pc and stack pointer are these.
    at: Option<(u64, u64)>,
}

impl Goal {
    const NONE: Self = Self { stack: u64::MAX, at: None };

    fn reached(self, interpreter: &Interpreter) -> bool {
        let place = place_of(interpreter);
        place.1 > self.stack || self.at == Some(place)
    }

    /// Whether nothing but the thread's end is beyond it.
    fn is_bottom(self) -> bool {
        self.stack == u64::MAX && self.at.is_none()
    }
}

/// Program counter and stack pointer.
fn place_of(interpreter: &Interpreter) -> (u64, u64) {
    (interpreter.rip(), interpreter.rsp())
}

type Context<'a> = StoreContextMut<'a, ContextData>;

fn thread<'a>(store: &'a mut Context<'_>) -> &'a mut Thread {
    store.data_mut().thread.as_mut().expect("a store that runs has a thread")
}

/// Runs until `goal` is reached, in whichever tier. The interpreter has the registers before and after.
fn run_nested(store: &mut Context<'_>, goal: Goal) -> Result<(), wasmtime::Error> {
    loop {
        let own = thread(store);
        if own.depth() > MAX_STACK && !goal.is_bottom() {
            return Err(Leave::Unwind.into());
        }
        let entries = own.failures < MAX_FAILURES;
        let Thread { interpreter, space, supervisor, .. } = own;
        // SAFETY: see `Thread`.
        let stop = unsafe { supervisor.as_ref() }.stop().byte();
        let bounds = Bounds { stack: goal.stack, entries };
        match interpreter.resume(space.guest_memory(), &**space, stop, bounds) {
            Exit::Returned => return Ok(()),
            Exit::Enter(_) => enter(store)?,
            exit => serve(store, exit)?,
        }
        if goal.reached(&thread(store).interpreter) {
            return Ok(());
        }
    }
}

/// Lets the kernel serve an exit.
fn serve(store: &mut Context<'_>, exit: Exit) -> Result<(), wasmtime::Error> {
    let own = thread(store);
    let instructions = own.interpreter.instructions();
    own.interpreter.store(&mut own.cpu);
    if own.verifier.is_some() {
        verify_end(store, exit);
    }
    let own = thread(store);
    // SAFETY: see `Thread`.
    let flow = unsafe { own.supervisor.as_mut() }.serve(&mut own.cpu, exit, instructions);
    own.interpreter.load(&own.cpu);
    if flow == Flow::End {
        return Err(Leave::End.into());
    }
    // SAFETY: see `Thread`.
    if !Arc::ptr_eq(unsafe { own.supervisor.as_ref() }.space(), &own.space) {
        return Err(Leave::Memory.into());
    }
    own.verify_begin();
    let generation = own.space.generation();
    if generation != own.generation {
        own.generation = generation;
        return follow(store);
    }
    Ok(())
}

/// Ends a segment of code that both tiers run, and tells where they differ.
fn verify_end(store: &mut Context<'_>, exit: Exit) {
    let own = thread(store);
    let Thread { verifier, space, cpu, .. } = own;
    let Some(found) = verifier.as_mut().and_then(|verifier| verifier.end(space, exit, cpu)) else { return };
    let Difference { after, at, what } = found;
    let function = place(space, after).map(|used| {
        let unit = (after as u32).wrapping_sub(used.bias);
        (unit, used)
    });
    let tiers = &store.data().tiers;
    let name = function.map_or_else(
        || "code that is in no file".to_owned(),
        |(unit, used)| {
            let start = tiers.library().function_at(used.id, unit).unwrap_or(unit);
            format!("the function at offset {start:#x} of the file mapped at {:#x}", used.start)
        },
    );
    tiers.differ(format!("translated code is wrong in {name}, between {after:#x} and {at:#x}: {what}"));
}

/// Forgets what is no longer true of the executable mappings. Leaves when a frame may be of code that has changed.
fn follow(store: &mut Context<'_>) -> Result<(), wasmtime::Error> {
    store.data().state.clear_cache();
    let own = thread(store);
    let (space, used) = (own.space.clone(), std::mem::take(&mut own.used));
    let (kept, gone): (Vec<Used>, Vec<Used>) =
        used.into_iter().partition(|used| place(&space, used.start) == Some(*used));
    own.used = kept;
    own.dead.extend(gone.iter().map(|used| (used.id, used.bias)));
    if gone.is_empty() { Ok(()) } else { Err(Leave::Unwind.into()) }
}

/// The code of a file that is mapped at `pc`.
fn place(space: &AddressSpace, pc: u64) -> Option<Used> {
    let range = space.code_at(pc)?;
    let CodeSource::File { id, offset } = range.source else { return None };
    let bias = (range.start as u32).wrapping_sub(offset as u32);
    Some(Used { start: range.start, end: range.end, id, bias })
}

/// The table slot of the translated entry at `pc`, made when it is the first of its module.
fn slot_of(store: &mut Context<'_>, pc: u32) -> Option<u32> {
    if let Some(slot) = store.data().state.cached(pc) {
        return Some(slot);
    }
    let own = thread(store);
    let known = own.used.iter().find(|used| (used.start..used.end).contains(&pc.into())).copied();
    let used = match known {
        Some(used) => used,
        None => place(&own.space, pc.into())?,
    };
    if own.dead.contains(&(used.id, used.bias)) {
        return None;
    }
    let (module, function) = store.data().tiers.library().entry(used.id, pc.wrapping_sub(used.bias))?;
    let first = first_slot(store, &module, used.bias)?;
    if known.is_none() {
        thread(store).used.push(used);
    }
    let slot = first + function;
    store.data().state.remember(pc, slot);
    Some(slot)
}

/// The first slot of a module at a bias.
fn first_slot(store: &mut Context<'_>, module: &Arc<Translated>, bias: u32) -> Option<u32> {
    let data = store.data();
    let placed =
        data.instances.iter().find(|placed| placed.bias == bias && Arc::ptr_eq(&placed.module, module));
    if let Some(placed) = placed {
        return Some(placed.first_slot);
    }
    let (first, externs) = (data.next_slot, data.externs.clone()?);
    let next = first.checked_add(module.functions).filter(|next| *next <= abi::TABLE_SLOTS)?;
    let constant = |store: &mut Context<'_>, value: u32| {
        let kind = GlobalType::new(ValType::I32, Mutability::Const);
        Global::new(store, kind, Val::I32(value.cast_signed())).ok().map(Extern::from)
    };
    let mut imports = Vec::with_capacity(module.imports.len());
    for import in &module.imports {
        imports.push(match import {
            Import::Memory => externs.memory.clone(),
            Import::State => externs.state.clone(),
            Import::Table => externs.table.clone(),
            Import::Bias => constant(store, bias)?,
            Import::FirstSlot => constant(store, first)?,
            Import::Function(index) => externs.functions.get(*index)?.clone(),
        });
    }
    let made = Instance::new(&mut *store, &module.module, &imports);
    if let Err(error) = made {
        store.data().tiers.complain(format!("translated code cannot be used: {error:#}"));
        return None;
    }
    let data = store.data_mut();
    data.next_slot = next;
    data.instances.push(Placed { module: module.clone(), bias, first_slot: first });
    Some(first)
}

/// Enters translated code at `rip`; where that is not possible, interprets one instruction.
fn enter(store: &mut Context<'_>) -> Result<(), wasmtime::Error> {
    let pc = thread(store).interpreter.rip() as u32;
    thread(store).counts.enter += 1;
    let Some(slot) = slot_of(store, pc) else {
        let own = thread(store);
        own.failures += 1;
        return step(own).map_or_else(|exit| serve(store, exit), |_| Ok(()));
    };
    let data = store.data_mut();
    let own = data.thread.as_mut().expect("a store that runs has a thread");
    data.state.store(&own.interpreter);
    let before = (own.worth.exits, own.worth.ticks);
    own.verify_note();
    call(store, slot, pc)?;
    let own = thread(store);
    own.verify_note();
    if own.worth.note(pc, before) {
        own.counts.passed += 1;
        own.interpreter.pass_entry(pc.into());
    }
    Ok(())
}

/// Runs the instruction at `rip` in the interpreter; its length.
fn step(own: &mut Thread) -> Result<u32, Exit> {
    let Thread { interpreter, space, supervisor, .. } = own;
    // SAFETY: see `Thread`.
    let stop = unsafe { supervisor.as_ref() }.stop().byte();
    interpreter.step(space.guest_memory(), &**space, stop)
}

/// Calls a slot. The page has the registers before; the interpreter has them after, also after a trap that was served.
fn call(store: &mut Context<'_>, slot: u32, pc: u32) -> Result<(), wasmtime::Error> {
    let own = thread(store);
    let depth = own.depth() as u64;
    let outer = own.host_float;
    own.host_float = float::enter(own.interpreter.mxcsr());
    own.enter_guest();
    let externs = store.data().externs.clone().expect("a store that runs has its imports");
    let result = externs.enter.call(&mut *store, (slot, depth << 32 | u64::from(pc)));
    let data = store.data_mut();
    let own = data.thread.as_mut().expect("a store that runs has a thread");
    own.leave_guest();
    own.interpreter.set_mxcsr(float::leave(own.host_float, own.interpreter.mxcsr()));
    own.host_float = outer;
    match result {
        Ok(()) => {
            data.state.load(&mut own.interpreter);
            Ok(())
        }
        Err(error) => trapped(store, error),
    }
}

/// How often in a row one address is mended.
const MAX_MENDS: u32 = 8;

thread_local! {
    /// Address of the last access of this thread that trapped, and whether it was a store.
    static LAST_TRAP: Cell<(usize, bool)> = const { Cell::new((0, false)) };
    /// The memory of the translated code that this thread is in; null while it is in host code.
    static GUEST: Cell<*const AddressSpace> = const { Cell::new(std::ptr::null()) };
    /// The address that was mended last, and how often.
    static MENDED: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

/// Notes the address of a fault for [`trapped`]. Whether the access can be tried again; otherwise the engine makes a trap of it,
/// which loses the registers that translated code has, so what is not the guest's business must not come to that.
fn note_fault(info: *const libc::siginfo_t, context: *const libc::c_void) -> bool {
    /// Bit of the page-fault error code.
    const WRITE: i64 = 2;
    // SAFETY: the host kernel passes valid pointers to a handler.
    let (place, write) = unsafe {
        let registers = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        ((*info).si_addr().addr(), registers[libc::REG_ERR as usize] & WRITE != 0)
    };
    LAST_TRAP.set((place, write));
    // SAFETY: set only while the thread that owns the memory is in translated code. The fault is one of that code, so no lock and no
    // allocator of this thread is in the middle of anything, and the memory may be asked as from any other place.
    let Some(space) = (unsafe { GUEST.get().as_ref() }) else { return false };
    let (last, count) = MENDED.get();
    let count = if last == place { count + 1 } else { 0 };
    MENDED.set((place, count));
    let address = (place as u64).wrapping_sub(space.guest_memory().base().addr() as u64);
    let access = if write { Access::Write } else { Access::Read };
    count < MAX_MENDS && space.mend(address, access)
}

/// Turns the trap that ended a call into a fault of the guest and lets the kernel serve it.
fn trapped(store: &mut Context<'_>, error: wasmtime::Error) -> Result<(), wasmtime::Error> {
    let Some(trap) = error.downcast_ref::<Trap>().copied() else { return Err(error) };
    let site = error.downcast_ref::<WasmBacktrace>().and_then(|trace| {
        let frame = trace.frames().first()?;
        let offset = u32::try_from(frame.module_offset()?).ok()?;
        let range = Translated::range_of(frame.module());
        let candidates = store.data().instances.iter().filter(|placed| placed.module.range == range);
        let space = &store.data().thread.as_ref()?.space;
        candidates.into_iter().find_map(|placed| {
            let unit = placed.module.fault_site(offset)?;
            let pc = placed.bias.wrapping_add(unit);
            place(space, pc.into()).filter(|used| used.bias == placed.bias).map(|_| pc)
        })
    });
    let data = store.data_mut();
    let own = data.thread.as_mut().expect("a store that runs has a thread");
    data.state.load(&mut own.interpreter);
    let Some(pc) = site else {
        // Our bug: there is no guest instruction to blame.
        data.tiers.complain(format!("translated code trapped at no instruction: {error:#}"));
        return serve(store, Exit::Illegal);
    };
    own.interpreter.set_rip(pc.into());
    let exit = match trap {
        Trap::MemoryOutOfBounds => {
            let (address, write) = LAST_TRAP.get();
            let address = (address as u64).wrapping_sub(own.space.guest_memory().base().addr() as u64);
            let access = if write { Access::Write } else { Access::Read };
            Exit::Fault(Fault { address, access })
        }
        Trap::StackOverflow => Exit::Fault(Fault { address: own.interpreter.rsp(), access: Access::Write }),
        Trap::IntegerDivisionByZero | Trap::IntegerOverflow => Exit::DivideError,
        _ => Exit::Illegal,
    };
    serve(store, exit)
}

/// After an exit that should go on at `expected`: whether it does. What lies between, such as a signal's handler, runs nested.
fn settle(store: &mut Context<'_>, expected: (u64, u64), leaving: bool) -> Result<bool, wasmtime::Error> {
    let place = place_of(&thread(store).interpreter);
    if place == expected {
        return Ok(true);
    }
    if leaving {
        return Ok(false);
    }
    // A handler on the alternate stack may lie above; then only its return ends the run.
    let above = if place.1 > expected.1 { u64::MAX } else { expected.1 };
    run_nested(store, Goal { stack: above, at: Some(expected) })?;
    Ok(place_of(&thread(store).interpreter) == expected)
}

/// Does a host function's work with the registers in `CpuState` and the host's MXCSR.
fn hosted<T>(
    mut caller: Caller<'_, ContextData>,
    pc: u32,
    work: impl FnOnce(&mut Context<'_>) -> Result<T, wasmtime::Error>,
) -> Result<T, wasmtime::Error> {
    let mut store = caller.as_context_mut();
    let data = store.data_mut();
    let own = data.thread.as_mut().expect("a store that runs has a thread");
    own.leave_guest();
    own.worth.exits += 1;
    own.interpreter.set_mxcsr(float::leave(own.host_float, own.interpreter.mxcsr()));
    data.state.set_rip(pc);
    data.state.load(&mut own.interpreter);
    own.verify_note();
    let result = work(&mut store)?;
    let data = store.data_mut();
    let own = data.thread.as_mut().expect("a store that runs has a thread");
    data.state.store(&own.interpreter);
    own.host_float = float::enter(own.interpreter.mxcsr());
    own.enter_guest();
    Ok(result)
}

/// What `dispatch` and every translated function return.
type Returned = (u32, u64, u64, u64);

fn dispatch(
    caller: Caller<'_, ContextData>,
    pcd: u64,
    rsp: u64,
    rdi: u64,
    rsi: u64,
) -> Result<Returned, wasmtime::Error> {
    let pc = pcd as u32;
    let state = caller.data().state.clone();
    state.set_registers([(register::RSP, rsp), (register::RDI, rdi), (register::RSI, rsi)]);
    // The interpreter finds out whether there is translated code, cheaper than the tables here would.
    hosted(caller, pc, |store| {
        thread(store).counts.dispatch += 1;
        run_nested(store, Goal { stack: rsp, at: None })
    })?;
    Ok(state.returned())
}

fn resolve(
    caller: Caller<'_, ContextData>,
    (pc, rsp, rax, rdx): Returned,
    expected: u32,
    slot: u64,
) -> Result<u32, wasmtime::Error> {
    let registers = [(register::RSP, rsp), (register::RAX, rax), (register::RDX, rdx)];
    caller.data().state.set_registers(registers);
    hosted(caller, pc, |store| {
        thread(store).counts.resolve += 1;
        if rsp <= slot {
            run_nested(store, Goal { stack: slot, at: None })?;
        }
        let wanted = (u64::from(expected), slot.wrapping_add(8));
        Ok(u32::from(place_of(&thread(store).interpreter) != wanted))
    })
}

fn single_step(caller: Caller<'_, ContextData>, pc: u32) -> Result<u32, wasmtime::Error> {
    hosted(caller, pc, |store| {
        thread(store).counts.step += 1;
        loop {
            match step(thread(store)) {
                Ok(length) => {
                    let next = u64::from(pc) + u64::from(length);
                    return Ok(u32::from(thread(store).interpreter.rip() != next));
                }
                Err(exit) => {
                    serve(store, exit)?;
                    // A string instruction goes on; after a fault or a signal it is the registers that say where.
                    if exit != Exit::Stopped || thread(store).interpreter.rip() != u64::from(pc) {
                        return Ok(1);
                    }
                }
            }
        }
    })
}

fn system_call(caller: Caller<'_, ContextData>, next: u32) -> Result<u32, wasmtime::Error> {
    /// Number of `rt_sigreturn`.
    const SIGRETURN: u64 = 15;
    hosted(caller, next, |store| {
        thread(store).counts.system_call += 1;
        let interpreter = &mut thread(store).interpreter;
        interpreter.begin_system_call();
        let expected = place_of(interpreter);
        let leaving = interpreter.register(register::RAX) == SIGRETURN;
        serve(store, Exit::Syscall)?;
        Ok(u32::from(!settle(store, expected, leaving)?))
    })
}

fn stop(caller: Caller<'_, ContextData>, pc: u32) -> Result<u32, wasmtime::Error> {
    let unwind = caller.data().state.take_unwind();
    hosted(caller, pc, |store| {
        if unwind || thread(store).depth() > MAX_STACK {
            return Err(Leave::Unwind.into());
        }
        thread(store).counts.stop += 1;
        let expected = place_of(&thread(store).interpreter);
        serve(store, Exit::Stopped)?;
        Ok(u32::from(!settle(store, expected, false)?))
    })
}

/// Names of the imported functions, in the order of [`Import::Function`].
pub(crate) const FUNCTIONS: [&str; 5] = [abi::DISPATCH, abi::RESOLVE, abi::STEP, abi::SYSCALL, abi::STOP];

/// The functions that modules import.
pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<ContextData>, wasmtime::Error> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap(abi::MODULE, abi::DISPATCH, dispatch)?
        .func_wrap(
            abi::MODULE,
            abi::RESOLVE,
            |caller: Caller<'_, ContextData>,
             pc: u32,
             rsp: u64,
             rax: u64,
             rdx: u64,
             expected: u32,
             slot: u64| { resolve(caller, (pc, rsp, rax, rdx), expected, slot) },
        )?
        .func_wrap(abi::MODULE, abi::STEP, single_step)?
        .func_wrap(abi::MODULE, abi::SYSCALL, system_call)?
        .func_wrap(abi::MODULE, abi::STOP, stop)?;
    Ok(linker)
}

/// Makes a store over the window of `space`.
fn new_store(tiers: &Arc<Tiers>, space: &AddressSpace) -> Result<Store<ContextData>, wasmtime::Error> {
    let none = || wasmtime::Error::msg("no translated code");
    let machine = tiers.machine().ok_or_else(none)?;
    let window = space.guest_memory().window().ok_or_else(none)?.clone();
    let state = Arc::new(StateMemory::new()?);
    let data = ContextData {
        tiers: tiers.clone(),
        state: state.clone(),
        externs: None,
        instances: Vec::new(),
        next_slot: FIRST_SLOT,
        thread: None,
    };
    let mut store = Store::new(&machine.engine, data);
    let base = engine::with_memories(window, state, || Instance::new(&mut store, &machine.base, &[]))?;
    // SAFETY: the handler does what a handler of this thread's own faults may, see there.
    unsafe { store.set_signal_handler(|_, info, context| note_fault(info, context)) };
    let mut export = |name| base.get_export(&mut store, name).ok_or_else(none);
    let (memory, page, table) = (export(abi::MEMORY)?, export(abi::STATE)?, export(abi::TABLE)?);
    let enter = base.get_typed_func(&mut store, ENTER)?;
    let mut functions = Vec::new();
    for name in FUNCTIONS {
        functions.push(machine.linker.get(&mut store, abi::MODULE, name)?);
    }
    let functions = functions.try_into().map_err(|_| none())?;
    store.data_mut().externs = Some(Arc::new(Externs { memory, state: page, table, functions, enter }));
    Ok(store)
}

/// The executor of a guest thread.
pub(crate) struct TieredExecutor {
    tiers: Arc<Tiers>,
    /// Not there while a store has it, and before the first machine code.
    interpreter: Option<Interpreter>,
    /// Set when no store could be made.
    interpreted: bool,
}

impl TieredExecutor {
    pub(crate) fn new(tiers: Arc<Tiers>) -> Self {
        Self { tiers, interpreter: None, interpreted: false }
    }

    /// Runs with a store until the thread ends or has another memory.
    fn run_tiered(&mut self, cpu: &mut CpuState, supervisor: &mut dyn Supervisor) -> Option<Leave> {
        let space = supervisor.space().clone();
        let made = self.tiers.take_store(&space).map_or_else(|| new_store(&self.tiers, &space), Ok);
        let mut store = match made {
            Ok(store) => store,
            Err(error) => {
                self.tiers.complain(format!("translated code is not used: {error:#}"));
                return None;
            }
        };
        let mut interpreter = self.interpreter.take()?;
        interpreter.load(cpu);
        let state = store.data().state.clone();
        state.clear_cache();
        supervisor.stop().attach(Some(state));
        let generation = space.generation();
        // SAFETY: only the lifetime changes; the thread is taken out of the store before this function returns.
        let pointer = unsafe {
            std::mem::transmute::<NonNull<dyn Supervisor + '_>, NonNull<dyn Supervisor>>(NonNull::from(
                &mut *supervisor,
            ))
        };
        store.data_mut().thread = Some(Thread {
            interpreter,
            cpu: cpu.clone(),
            supervisor: pointer,
            space: space.clone(),
            generation,
            used: Vec::new(),
            dead: HashSet::new(),
            stack: here(),
            failures: 0,
            counts: Counts::default(),
            worth: Worth::new(),
            host_float: 0,
            verifier: self.tiers.is_verified().then(|| Verifier::new(self.tiers.code().clone())),
        });
        thread(&mut store.as_context_mut()).verify_begin();
        let leave = loop {
            let result = run_nested(&mut store.as_context_mut(), Goal::NONE);
            match result.err().map(|error| error.downcast::<Leave>()) {
                Some(Ok(leave @ (Leave::End | Leave::Memory))) => break leave,
                Some(Ok(Leave::Unwind)) | None => {}
                Some(Err(error)) => {
                    // Our bug, and the guest cannot go on from where it is not known.
                    self.tiers.complain(format!("translated code failed: {error:#}"));
                    serve_failure(&mut store);
                }
            }
        };
        supervisor.stop().attach(None);
        if let Some(thread) = store.data_mut().thread.take() {
            tracing::debug!(counts = ?thread.counts, "a thread has left its store");
            thread.interpreter.store(cpu);
            self.interpreter = Some(thread.interpreter);
        }
        self.tiers.keep_store(&space, store);
        Some(leave)
    }
}

/// Gives the guest the signal of an undefined instruction for a failure of ours.
fn serve_failure(store: &mut Store<ContextData>) {
    // What it leads to is seen by the next turn of the caller's loop.
    drop(serve(&mut store.as_context_mut(), Exit::Illegal));
}

impl Executor for TieredExecutor {
    fn run(&mut self, cpu: &mut CpuState, supervisor: &mut dyn Supervisor) {
        loop {
            if let Some(program) = supervisor.space().wasm().cloned() {
                match program.run(cpu, supervisor) {
                    Flow::Run => continue,
                    Flow::End => return,
                }
            }
            let entries = !self.interpreted && self.tiers.machine().is_some() && !supervisor.is_brief();
            let interpreter =
                self.interpreter.get_or_insert_with(|| Interpreter::new(self.tiers.code().clone()));
            let space = supervisor.space().clone();
            let bounds = Bounds { entries, ..Bounds::NONE };
            let stop = supervisor.stop().byte();
            let exit = interpreter.run_within(cpu, space.guest_memory(), &*space, stop, bounds);
            let instructions = interpreter.instructions();
            drop(space);
            if let Exit::Enter(_) = exit {
                match self.run_tiered(cpu, supervisor) {
                    Some(Leave::End) => return,
                    Some(_) => {}
                    None => self.interpreted = true,
                }
            } else if supervisor.serve(cpu, exit, instructions) == Flow::End {
                return;
            }
        }
    }

    fn instructions(&self) -> u64 {
        self.interpreter.as_ref().map_or(0, Interpreter::instructions)
    }
}
