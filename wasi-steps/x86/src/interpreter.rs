//! Runs guest code until something happens that is the caller's business.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use crate::code::{CodeMap, SharedCode};
use crate::memory::{Fault, GuestMemory};
use crate::state::CpuState;

/// Why [`Interpreter::run`] came back. Unless said otherwise `rip` is at the instruction that caused it, and nothing
/// of that instruction has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A `syscall` instruction; `rip` is behind it, `rcx` and `r11` are set as the hardware does.
    Syscall,
    /// The stop byte was set; `rip` is at the next instruction to run.
    Stopped,
    /// A page fault (SIGSEGV; SIGBUS where the mapping says so).
    Fault(Fault),
    /// An undefined or unsupported instruction (SIGILL).
    Illegal,
    /// A division error (SIGFPE, `FPE_INTDIV`).
    DivideError,
    /// `int3` (SIGTRAP); `rip` is behind it.
    Breakpoint,
    /// A single step with TF set, or `int1` (SIGTRAP); `rip` is behind the instruction.
    Step,
    /// A privileged instruction, a misaligned SSE operand, a non-canonical address (SIGSEGV, `SI_KERNEL`).
    GeneralProtection,
    /// An unmasked SSE or x87 exception (SIGFPE).
    FloatingPoint,
}

/// The interpreter of one guest thread.
#[derive(Debug)]
pub struct Interpreter {
    #[expect(dead_code, reason = "the stub decodes nothing")]
    shared: Arc<SharedCode>,
    instructions: u64,
}

impl Interpreter {
    /// An interpreter that takes decoded code from `shared`.
    pub fn new(shared: Arc<SharedCode>) -> Self {
        Self { shared, instructions: 0 }
    }

    /// How many guest instructions this interpreter has run; a repeated string instruction counts once.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// Runs from `cpu.rip` until an [`Exit`].
    pub fn run(
        &mut self,
        _cpu: &mut CpuState,
        _memory: &GuestMemory,
        _code: &dyn CodeMap,
        _stop: &AtomicU8,
    ) -> Exit {
        Exit::Illegal
    }
}
