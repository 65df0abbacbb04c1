//! WebAssembly programs: what the kernel asks of whoever runs them, and how `execve` starts one.
//!
//! A process whose file begins with `\0asm` is a process like any other. Its address space holds the module's linear memory from
//! address 0 up, and its thread asks the [`Supervisor`] for system calls as machine code does. Only who runs it differs: the
//! [`WasmLoader`] of the kernel's configuration says what a file is, and the [`WasmProgram`] that it answers with runs instead of machine
//! code for as long as the address space lives.
//!
//! What must hold: a loader refuses everything that cannot run, because after it has answered there is no way back for `execve`;
//! arguments, environment and a scratch area lie in the [`Annex`](crate::memory::annex::Annex), which the module cannot address.

use std::sync::Arc;

use cooper_vfs::{ContentId, Errno, FileHandle};
use cooper_x86::memory::PAGE_SIZE;
use cooper_x86::state::CpuState;

use super::stack::{self, auxiliary};
use super::{ExecRequest, LoadedProgram, Program, set_ids};
use crate::kernel::{Flow, Kernel, Supervisor};
use crate::memory::annex::{self, Annex};
use crate::memory::{AddressSpace, Layout};
use crate::task::credentials::SetIds;
use crate::wait::lock;

/// How every WebAssembly file begins.
pub(crate) const MAGIC: &[u8] = b"\0asm";

/// Says which files are WebAssembly programs that can run.
pub trait WasmLoader: Send + Sync {
    /// Makes a program of a file. What it answers with is run any number of times.
    fn load(&self, file: &WasmFile<'_>) -> Result<Arc<dyn WasmProgram>, WasmRefusal>;
}

/// A WebAssembly program.
pub trait WasmProgram: Send + Sync {
    /// Runs in the supervisor's address space until the thread ends or has another memory, with `cpu` the registers of a new program,
    /// or those that a `clone` of this program's own thread was given.
    fn run(&self, cpu: &mut CpuState, supervisor: &mut dyn Supervisor) -> Flow;
}

/// A file that is to be executed.
#[derive(Debug)]
pub struct WasmFile<'a> {
    pub(super) handle: &'a FileHandle,
}

impl WasmFile<'_> {
    /// The identity of the bytes, where they cannot change any more.
    pub fn content_id(&self) -> Option<ContentId> {
        self.handle.content_id()
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.handle.size()
    }

    /// Reads bytes at an offset; fewer only at the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.handle.read_at(offset + filled as u64, &mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }
}

/// Why a file is no program that can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmRefusal {
    /// What `execve` answers.
    pub errno: Errno,
    /// Why, in words.
    pub reason: String,
}

/// Makes the memory of a WebAssembly program: all of it but the module's own.
pub(super) fn load(
    kernel: &Kernel,
    request: &ExecRequest<'_>,
    program: Program,
    path: &[u8],
    name: Vec<u8>,
) -> Result<LoadedProgram, Errno> {
    let shown = String::from_utf8_lossy(path);
    let Some(loader) = &kernel.wasm else {
        kernel.hint(format!("cannot execute `{shown}`: WebAssembly programs are not run here"));
        return Err(Errno::NOEXEC);
    };
    let file = WasmFile { handle: &program.handle };
    let wasm = loader.load(&file).map_err(|refusal| {
        kernel.hint(format!("cannot execute `{shown}`: {}", refusal.reason));
        refusal.errno
    })?;
    let set = set_ids(&program.position, request)?;
    let credentials = request.credentials.after_exec(set);
    let secure = credentials.is_secure() || (set != SetIds::default() && credentials.user.real != 0);
    let space = AddressSpace::new(kernel.memory())?;
    space.keep_executable(program.position.node().deny_write()?);
    let values = [
        (auxiliary::PAGESZ, PAGE_SIZE),
        (auxiliary::CLKTCK, 100),
        (auxiliary::UID, u64::from(credentials.user.real)),
        (auxiliary::EUID, u64::from(credentials.user.effective)),
        (auxiliary::GID, u64::from(credentials.group.real)),
        (auxiliary::EGID, u64::from(credentials.group.effective)),
        (auxiliary::SECURE, u64::from(secure)),
    ];
    let mut random = [0; 16];
    kernel.random_bytes(&mut random)?;
    let contents = stack::StackContents {
        arguments: &request.arguments,
        environment: &request.environment,
        file_name: &request.path,
        random,
        auxiliary: &values,
    };
    let built = stack::build(&contents, annex::SCRATCH, annex::BELOW)?;
    *lock(&space.layout) = Layout {
        arguments: built.argument_range,
        environment: built.environment_range,
        auxiliary: built.auxiliary_range,
        stack_start: built.pointer,
    };
    space.set_wasm(wasm, Annex::new(built.bytes));
    Ok(LoadedProgram {
        space: Arc::new(space),
        cpu: CpuState::at_entry(0, 0),
        credentials,
        executable: program.position,
        name,
        secure,
    })
}
