//! The toolbox's two functions: every system call, and children.
//!
//! A stack of WebAssembly cannot be forked, so a child does nothing of its module's: it is made by `clone` as `vfork` makes one, on the
//! parent's pages, and carries out the list of [`SPAWN`]'s actions here before its `execve`.
//!
//! What must hold: a module never changes what memory it has except by growing it, because the engine takes the memory below its end
//! for granted; no handler of a signal is ever set, for it could not be run.

use cooper_kernel::memory::annex::{SCRATCH, SCRATCH_SIZE};
use cooper_x86::state::register;
use wasmtime::{Caller, Linker};

use super::process::{Calls, Guest, Leave, call};

/// The import module.
pub(super) const MODULE: &str = "cooper";
/// Any system call.
const SYSCALL: &str = "syscall";
/// A child.
const SPAWN: &str = "spawn";
/// Both.
pub(super) const FUNCTIONS: [&str; 2] = [SYSCALL, SPAWN];
/// Program counter of a child that has yet to begin.
pub(super) const SPAWNED: u64 = 0x2000;
/// Where a child says why it could not begin: the end of the scratch area.
const FAILURE: u64 = SCRATCH + SCRATCH_SIZE - 8;
/// Exit code of a child that could not begin; nobody sees it.
const NOT_BEGUN: u8 = 127;
/// `CLONE_VM | CLONE_VFORK` without a signal at the end: only `execve` makes it a child that is heard of.
const CLONE_FLAGS: u64 = 0x4100;
/// `__WALL`: also children without a signal.
const WAIT_ALL: u64 = 0x4000_0000;
/// The most actions of one child.
const MAX_ACTIONS: u64 = 4096;
/// Words of an action: number and arguments.
const ACTION_WORDS: usize = 7;

const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;

/// Calls that would change the memory or the stack behind the module's back: `mmap`, `mprotect`, `munmap`, `brk`, `rt_sigreturn`,
/// `mremap`, `madvise`, `shmat`, `clone`, `fork`, `vfork`, `shmdt`, `remap_file_pages`, `pkey_mprotect`, `clone3`.
const IMPOSSIBLE: [u64; 15] = [9, 10, 11, 12, 15, 25, 28, 30, 56, 57, 58, 67, 216, 329, 435];
/// `rt_sigaction`.
const SIGACTION: u64 = 13;

/// Adds both functions.
pub(super) fn add(linker: &mut Linker<Guest>) -> Result<(), wasmtime::Error> {
    linker
        .func_wrap(
            MODULE,
            SYSCALL,
            |mut caller: Caller<'_, Guest>,
             number: u64,
             a: u64,
             b: u64,
             c: u64,
             d: u64,
             e: u64,
             f: u64|
             -> Result<i64, wasmtime::Error> {
                Ok(syscall(&mut caller.data_mut().calls(), number, [a, b, c, d, e, f])?)
            },
        )?
        .func_wrap(
            MODULE,
            SPAWN,
            |mut caller: Caller<'_, Guest>,
             path: u64,
             argv: u64,
             envp: u64,
             actions: u64,
             count: u64|
             -> Result<i64, wasmtime::Error> {
                Ok(spawn(&mut caller.data_mut().calls(), [path, argv, envp, actions, count])?)
            },
        )?;
    Ok(())
}

/// Makes any system call that a module can survive.
fn syscall(calls: &mut Calls<'_>, number: u64, arguments: [u64; 6]) -> Result<i64, Leave> {
    if IMPOSSIBLE.contains(&number) {
        return Ok(ENOSYS);
    }
    if number == SIGACTION
        && arguments[1] != 0
        && calls.space.load::<u64>(arguments[1]).is_ok_and(|handler| handler > 1)
    {
        return Ok(EINVAL);
    }
    calls.raw(number, arguments)
}

/// Makes a child; its pid, or why there is none.
fn spawn(calls: &mut Calls<'_>, request: [u64; 5]) -> Result<i64, Leave> {
    for (register, value) in REQUEST.into_iter().zip(request) {
        calls.cpu.gpr[register] = value;
    }
    if calls.space.store(FAILURE, 0_i64).is_err() {
        return Ok(ENOSYS);
    }
    let pid = calls.raw_at(SPAWNED, call::CLONE, [CLONE_FLAGS, 0, 0, 0, 0, 0])?;
    if pid < 0 {
        return Ok(pid);
    }
    match calls.space.load(FAILURE) {
        Ok(0_i64) | Err(_) => Ok(pid),
        Ok(errno) => {
            calls.raw(call::WAIT4, [pid.cast_unsigned(), 0, WAIT_ALL, 0, 0, 0])?;
            Ok(errno)
        }
    }
}

/// Registers that carry what [`spawn`] was asked for to the child: those that no system call uses.
const REQUEST: [usize; 5] = [register::RBX, register::RBP, register::R12, register::R13, register::R14];

/// What a child does until it has a program of its own.
pub(super) fn begin_child(calls: &mut Calls<'_>) -> Leave {
    let [path, argv, envp, actions, count] = REQUEST.map(|register| calls.cpu.gpr[register]);
    match begin(calls, [path, argv, envp], actions, count) {
        Ok(errno) => {
            // Its memory is the parent's, which waits.
            let _ = calls.space.store(FAILURE, errno);
            calls.exit(NOT_BEGUN)
        }
        Err(leave) => leave,
    }
}

/// The errno that a child fails with; when it does not, it leaves.
fn begin(calls: &mut Calls<'_>, program: [u64; 3], actions: u64, count: u64) -> Result<i64, Leave> {
    if count > MAX_ACTIONS {
        return Ok(EINVAL);
    }
    for index in 0..count {
        let address = actions.wrapping_add(index * 8 * ACTION_WORDS as u64);
        let words: [u64; ACTION_WORDS] = match calls.space.load(address) {
            Ok(words) => words,
            Err(errno) => return Ok(-i64::from(errno.raw_os_error())),
        };
        let [number, arguments @ ..] = words;
        let result = syscall(calls, number, arguments)?;
        if (-4095..0).contains(&result) {
            return Ok(result);
        }
    }
    let [path, argv, envp] = program;
    calls.raw(call::EXECVE, [path, argv, envp, 0, 0, 0])
}
