//! One run of a module: its store, its way to the kernel, its end.
//!
//! A [`Guest`] is what a store is for. It holds the thread's registers, in which a system call is put as machine code would put it, and
//! the supervisor that serves it. A call that ends the thread or gives it another memory leaves all frames of the module with [`Leave`].
//!
//! What must hold: the supervisor's pointer is used only while [`run`] is on the stack; the store is gone before `run` returns, so that
//! the address space can end.
#![allow(
    unsafe_code,
    reason = "the store needs values without lifetimes, and the supervisor is borrowed for one run"
)]

use std::ptr::NonNull;
use std::sync::Arc;

use cooper_kernel::memory::AddressSpace;
use cooper_kernel::memory::annex::{SCRATCH, SCRATCH_SIZE};
use cooper_kernel::{Flow, Supervisor};
use cooper_vfs::Errno as Linux;
use cooper_x86::interpreter::Exit;
use cooper_x86::state::{CpuState, register};
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline, WasmBacktrace};

use super::errno::Errno;
use super::loader::Module;
use super::preview1::{Clock, Preopens};
use super::toolbox::{self, SPAWNED};
use super::{engine, loader};

/// Where a system call is made, as far as the kernel knows.
const CALL: u64 = 0x1000;
/// The longest path with its terminating zero, as Linux's.
const PATH_MAX: usize = 4096;
/// Elements of all tables of a module together.
const MAX_TABLE: usize = 1 << 22;

/// Numbers of system calls.
pub(super) mod call {
    pub(crate) const CLONE: u64 = 56;
    pub(crate) const EXECVE: u64 = 59;
    pub(crate) const WAIT4: u64 = 61;
    pub(crate) const EXIT_GROUP: u64 = 231;
}

/// Signals that a trap becomes.
mod signal {
    pub(super) const ILL: u32 = 4;
    pub(super) const ABRT: u32 = 6;
    pub(super) const FPE: u32 = 8;
    pub(super) const KILL: u32 = 9;
    pub(super) const SEGV: u32 = 11;
}

/// Why all frames are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Leave {
    /// The thread has ended.
    #[error("the thread has ended")]
    End,
    /// It has another program.
    #[error("the thread has another program")]
    Program,
}

/// Why a host function gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fail {
    /// The module is told.
    Errno(Errno),
    /// The module is left.
    Leave(Leave),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Linux> for Fail {
    fn from(errno: Linux) -> Self {
        Self::Errno(errno.into())
    }
}

impl From<Leave> for Fail {
    fn from(leave: Leave) -> Self {
        Self::Leave(leave)
    }
}

/// A thread that makes system calls.
pub(super) struct Calls<'a> {
    pub(super) cpu: &'a mut CpuState,
    pub(super) supervisor: &'a mut dyn Supervisor,
    pub(super) space: &'a Arc<AddressSpace>,
}

impl Calls<'_> {
    /// Makes a system call; its raw result.
    pub(super) fn raw(&mut self, number: u64, arguments: [u64; 6]) -> Result<i64, Leave> {
        self.raw_at(CALL, number, arguments)
    }

    /// As [`raw`](Self::raw), from the place where a child that the call makes begins.
    pub(super) fn raw_at(&mut self, place: u64, number: u64, arguments: [u64; 6]) -> Result<i64, Leave> {
        let registers =
            [register::RDI, register::RSI, register::RDX, register::R10, register::R8, register::R9];
        loop {
            self.cpu.rip = place;
            self.cpu.gpr[register::RAX] = number;
            for (register, value) in registers.into_iter().zip(arguments) {
                self.cpu.gpr[register] = value;
            }
            self.serve(Exit::Syscall)?;
            // Where the kernel wants the call again, it has moved the program counter back to it.
            if self.cpu.rip == place {
                return Ok(self.cpu.gpr[register::RAX].cast_signed());
            }
        }
    }

    fn serve(&mut self, exit: Exit) -> Result<(), Leave> {
        if self.supervisor.serve(self.cpu, exit, 0) == Flow::End {
            return Err(Leave::End);
        }
        if !Arc::ptr_eq(self.supervisor.space(), self.space) {
            return Err(Leave::Program);
        }
        Ok(())
    }

    /// Ends the process.
    pub(super) fn exit(&mut self, code: u8) -> Leave {
        self.raw(call::EXIT_GROUP, [code.into(), 0, 0, 0, 0, 0]).err().unwrap_or(Leave::End)
    }
}

/// What a store is for.
pub(super) struct Guest {
    cpu: CpuState,
    supervisor: NonNull<dyn Supervisor>,
    pub(super) space: Arc<AddressSpace>,
    pub(super) preopens: Preopens,
    pub(super) clock: Clock,
    tables: usize,
    refused_table: bool,
}

// SAFETY: a store is used by one thread; the supervisor is `Send`.
unsafe impl Send for Guest {}

impl Guest {
    /// The thread.
    pub(super) fn calls(&mut self) -> Calls<'_> {
        // SAFETY: `run` borrows the supervisor for as long as this lives.
        let supervisor = unsafe { self.supervisor.as_mut() };
        Calls { cpu: &mut self.cpu, supervisor, space: &self.space }
    }

    /// Makes a system call. A pointer is a module's address or one in the scratch area.
    pub(super) fn call(&mut self, number: u64, arguments: [u64; 6]) -> Result<u64, Fail> {
        let result = self.calls().raw(number, arguments)?;
        match result {
            -4095..0 => Err(Linux::from_raw_os_error(-(result as i32)).into()),
            _ => Ok(result.cast_unsigned()),
        }
    }

    /// Puts a path of the module into the scratch area, at the place of the first or second path of a call. Its address there.
    ///
    /// `ENAMETOOLONG` beyond `PATH_MAX`; `EILSEQ` for a zero inside; `EPERM` for an absolute path, which no directory holds.
    pub(super) fn path(&mut self, at: usize, path: u32, length: u32) -> Result<u64, Fail> {
        let bytes = self.path_bytes(path, length)?;
        if bytes.starts_with(b"/") {
            return Err(Errno::PERM.into());
        }
        self.put_path(at, bytes)
    }

    /// As [`path`](Self::path) for what a symbolic link is to say: anything.
    pub(super) fn link_text(&mut self, at: usize, path: u32, length: u32) -> Result<u64, Fail> {
        let bytes = self.path_bytes(path, length)?;
        self.put_path(at, bytes)
    }

    fn path_bytes(&self, path: u32, length: u32) -> Result<Vec<u8>, Fail> {
        if length as usize >= PATH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let bytes = self.space.read_vec(path.into(), length as usize)?;
        if bytes.contains(&0) { Err(Errno::ILSEQ.into()) } else { Ok(bytes) }
    }

    fn put_path(&mut self, at: usize, mut bytes: Vec<u8>) -> Result<u64, Fail> {
        bytes.push(0);
        let address = SCRATCH + (at * PATH_MAX) as u64;
        self.space.write_bytes(address, &bytes)?;
        Ok(address)
    }

    /// Room for structures behind the two paths: address and size.
    pub(super) const ROOM: (u64, usize) =
        (SCRATCH + 2 * PATH_MAX as u64, SCRATCH_SIZE as usize - 2 * PATH_MAX);

    /// Puts a structure into [`ROOM`](Self::ROOM); its address.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<u64, Fail> {
        if bytes.len() > Self::ROOM.1 {
            return Err(Errno::INVAL.into());
        }
        self.space.write_bytes(Self::ROOM.0, bytes)?;
        Ok(Self::ROOM.0)
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // The kernel's account decides, when the pages are mapped.
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let all = self.tables + desired.saturating_sub(current);
        if all > MAX_TABLE {
            self.refused_table = true;
            return Ok(false);
        }
        self.tables = all;
        Ok(true)
    }
}

/// Runs the program of an address space.
pub(super) fn run(module: &Module, cpu: &mut CpuState, supervisor: &mut dyn Supervisor) -> Flow {
    let space = supervisor.space().clone();
    if cpu.rip == SPAWNED {
        return flow(toolbox::begin_child(&mut Calls { cpu, supervisor, space: &space }));
    }
    let stop = module.machine.stop.clone();
    supervisor.stop().attach(Some(stop));
    let result = run_store(module, cpu, supervisor, &space);
    supervisor.stop().attach(None);
    match result {
        Ok(leave) => flow(leave),
        Err((signal, reason)) => {
            let program = space.arguments().into_iter().next().unwrap_or_default();
            let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            supervisor.hint(format!("`{}` {reason}", String::from_utf8_lossy(name)));
            supervisor.fail(signal)
        }
    }
}

fn flow(leave: Leave) -> Flow {
    match leave {
        Leave::End => Flow::End,
        Leave::Program => Flow::Run,
    }
}

/// Runs a module to its end; the signal that ends it otherwise, and why.
fn run_store(
    module: &Module,
    cpu: &mut CpuState,
    supervisor: &mut dyn Supervisor,
    space: &Arc<AddressSpace>,
) -> Result<Leave, (u32, String)> {
    // SAFETY: only the lifetime changes; the store ends before this function returns.
    let pointer = unsafe {
        std::mem::transmute::<NonNull<dyn Supervisor + '_>, NonNull<dyn Supervisor>>(NonNull::from(
            &mut *supervisor,
        ))
    };
    let guest = Guest {
        cpu: cpu.clone(),
        supervisor: pointer,
        space: space.clone(),
        preopens: Preopens::NONE,
        clock: Clock::of(module),
        tables: 0,
        refused_table: false,
    };
    let mut store = Store::new(&module.machine.engine, guest);
    store.limiter(|guest| guest);
    store.epoch_deadline_callback(|mut store| {
        let mut calls = store.data_mut().calls();
        if calls.supervisor.stop().is_raised() {
            calls.serve(Exit::Stopped).map_err(wasmtime::Error::new)?;
        }
        Ok(UpdateDeadline::Continue(1))
    });
    store.set_epoch_deadline(1);
    let result = start(module, &mut store);
    let mut guest = store.into_data();
    let result = match result {
        Ok(()) => Ok(guest.calls().exit(0)),
        Err(error) => match error.downcast_ref::<Leave>() {
            Some(leave) => Ok(*leave),
            None => Err(guest.reason(&error)),
        },
    };
    *cpu = guest.cpu;
    result
}

fn start(module: &Module, store: &mut Store<Guest>) -> Result<(), wasmtime::Error> {
    let mut calls = store.data_mut().calls();
    if calls.supervisor.stop().is_raised() {
        calls.serve(Exit::Stopped)?;
    }
    store.data_mut().open_preopens(module.first_preopen())?;
    let space = store.data().space.clone();
    let instance = engine::with_space(&space, || module.instance.instantiate(&mut *store))?;
    instance.get_typed_func::<(), ()>(&mut *store, loader::START)?.call(store, ())
}

impl Guest {
    /// What ends a process whose module has failed.
    fn reason(&self, error: &wasmtime::Error) -> (u32, String) {
        let Some(trap) = error.downcast_ref::<Trap>() else {
            let table = if self.refused_table {
                format!("; a program has tables of {MAX_TABLE} elements at most")
            } else {
                String::new()
            };
            return (signal::KILL, format!("cannot start: {error:#}{table}"));
        };
        let signal = match trap {
            Trap::MemoryOutOfBounds | Trap::HeapMisaligned | Trap::StackOverflow => signal::SEGV,
            Trap::IntegerDivisionByZero | Trap::IntegerOverflow | Trap::BadConversionToInteger => signal::FPE,
            Trap::UnreachableCodeReached => signal::ABRT,
            _ => signal::ILL,
        };
        let place = error
            .downcast_ref::<WasmBacktrace>()
            .and_then(|trace| trace.frames().iter().find_map(|frame| Some(frame.func_name()?.to_owned())))
            .map(|name| format!(" in `{name}`"))
            .unwrap_or_default();
        (signal, format!("failed{place}: {trap}"))
    }
}
