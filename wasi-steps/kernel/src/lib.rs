//! Linux processes over the virtual file system.
//!
//! A small Linux: process ids, thread groups, credentials, memory maps, descriptors, pipes, sockets, futexes, timers
//! and signals for guest programs whose machine code somebody else runs. That somebody is an [`Executor`]: it takes
//! registers and an [`AddressSpace`](memory::AddressSpace) and asks the [`Supervisor`] when the guest makes a system
//! call or faults. The crate knows nothing of how code is run, and no guest path ever becomes a host path here.
//!
//! A [`Kernel`] is one step. Its guest threads are host threads, one each, all in this host process. The kernel's
//! tables are the truth about processes; the virtual file system is the truth about files; the list of virtual
//! memory areas is the truth about memory, and the host's page tables only mirror it.
//!
//! What must hold: every blocking call goes through [`wait`], so that a signal or the end of the step ends it; no
//! guest can make a host thread panic, run for ever inside the kernel or touch memory outside its reservation; every
//! system call is in the table of [`syscalls`], with the level of its support. Locks are taken in this order, and none is held while waiting or
//! while touching guest memory, unless the list says so:
//!
//!   - the process table (`task::table`)
//!   - a process (its signals, limits, timers)
//!   - a task (its pending signals, pointers to shared parts)
//!   - the areas of an address space (held while the host's maps follow)
//!   - futex buckets (held while the futex word is compared)
//!   - a descriptor table, then a description's offset, then an object's state
//!   - the virtual file system's own
//!   - wait queues, then a sleeper

mod cputime;
mod cx;
mod devices;
mod exec;
mod files;
mod futex;
mod ipc;
mod kernel;
mod locks;
pub mod memory;
mod proc;
mod signal;
mod sockets;
mod stop;
pub mod syscalls;
mod task;
mod terminal;
mod time;
mod wait;

pub use exec::elf::{ElfError, check_elf};
pub use exec::wasm::{WasmFile, WasmLoader, WasmProgram, WasmRefusal};
pub use kernel::{
    Executor, ExecutorFactory, Flow, HOST_STACK, Identity, InitCommand, Kernel, KernelConfig, KernelLimits,
    LimitKind, Report, StepIo, Supervisor,
};
pub use sockets::network::NetworkPolicy;
pub use stop::{StopByte, StopFlag};
pub use task::{Credentials, ExitStatus};
pub use terminal::Console;
