//! How guest code is run: today by the interpreter of `cooper-x86`, one for each guest thread.
//!
//! The decoded code is shared by all processes and threads of a step, keyed by file content, because package installs
//! are thousands of short lives of the same few programs.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use cooper_kernel::memory::AddressSpace;
use cooper_kernel::{Executor, ExecutorFactory};
use cooper_x86::code::SharedCode;
use cooper_x86::interpreter::{Exit, Interpreter};
use cooper_x86::state::CpuState;

/// Makes interpreters over one pool of decoded code.
#[expect(missing_debug_implementations, reason = "decoded code has nothing to show")]
pub struct Interpreters {
    code: Arc<SharedCode>,
}

impl Interpreters {
    /// Interpreters that have decoded nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { code: SharedCode::new() })
    }
}

impl ExecutorFactory for Interpreters {
    fn executor(&self) -> Box<dyn Executor> {
        Box::new(InterpreterExecutor(Interpreter::new(self.code.clone())))
    }
}

struct InterpreterExecutor(Interpreter);

impl Executor for InterpreterExecutor {
    fn run(&mut self, cpu: &mut CpuState, space: &AddressSpace, stop: &AtomicU8) -> Exit {
        self.0.run(cpu, space.guest_memory(), space, stop)
    }

    fn instructions(&self) -> u64 {
        self.0.instructions()
    }
}
