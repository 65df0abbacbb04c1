//! Linux for the toolbox's programs: what WASI lacks, through two functions of the host.
//!
//! WASI knows no owners, modes, processes, signals or pipes. Cooper's kernel knows them all behind one door, its table of
//! system calls, so the toolbox gets that door instead of a hundred functions of its own: the import module `cooper` has
//!
//! - `syscall(number, a, b, c, d, e, f) -> i64` (all `i64`): the x86-64 system call of that number in the calling process. Pointers are
//!   offsets in the module's memory, structures have their x86-64 layout with 64-bit pointers, the result is negative for an errno;
//! - `spawn(path, argv, envp, actions, count) -> i64` (all `i64`): a child process, since a WebAssembly stack cannot be forked. It
//!   is what `vfork`, then each [`Action`] in turn, then `execve` would be: `path` ends with a NUL, `argv` and `envp` are
//!   arrays of 64-bit pointers that end with a zero, `actions` are `count` structures of seven 64-bit words. The
//!   result is the child's pid, or the negative errno of the first action, or of the `execve`, that failed; then there is no child.
//!
//! Only the toolbox has these imports: any other module that asks for them is refused. Descriptors are the kernel's numbers in both
//! worlds. Signal handlers cannot run inside a module; a program blocks a signal and takes it from
//! `rt_sigtimedwait` or a signalfd.
//!
//! On top of the two lie typed wrappers of what several programs need: [`file`] and [`process`].
//!
//! Built for Linux itself, both functions are the real thing, with the same numbers and layouts.

pub mod errno;
pub mod file;
#[cfg_attr(target_family = "wasm", path = "wasm.rs")]
#[cfg_attr(not(target_family = "wasm"), path = "native.rs")]
mod host;
pub mod number;
pub mod process;

/// A system call that a child makes between its birth and its `execve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Action {
    /// Number in the x86-64 table.
    pub number: i64,
    /// Its arguments; pointers are into the caller's memory.
    pub arguments: [i64; 6],
}

/// An errno of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl core::fmt::Display for Errno {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match errno::message(*self) {
            Some(message) => formatter.write_str(message),
            None => write!(formatter, "Unknown error {}", self.0),
        }
    }
}

impl core::error::Error for Errno {}

/// Result of a raw call: what it returned, or its errno.
pub type Result<T> = core::result::Result<T, Errno>;

fn answer(raw: i64) -> Result<i64> {
    if (-4095..0).contains(&raw) { Err(Errno(-raw as i32)) } else { Ok(raw) }
}

/// Makes a system call.
///
/// # Safety
///
/// The kernel reads and writes this program's memory as the call says.
#[allow(unsafe_code, reason = "the caller vouches for the pointers")]
pub unsafe fn syscall(number: i64, arguments: [i64; 6]) -> Result<i64> {
    // SAFETY: passed on to the caller.
    answer(unsafe { host::syscall(number, arguments) })
}

/// A call whose pointers this crate vouches for; the rest of the arguments is 0.
fn call<const N: usize>(number: i64, first: [i64; N]) -> Result<i64> {
    let mut arguments = [0; 6];
    arguments[..N].copy_from_slice(&first);
    #[allow(unsafe_code, reason = "each typed function passes pointers to its own live values")]
    // SAFETY: the typed functions of this crate pass the shapes that their call expects.
    unsafe {
        syscall(number, arguments)
    }
}

/// Starts `path` as a child process; the answer is its pid.
///
/// # Safety
///
/// Pointers in `actions` are valid for their calls.
#[allow(unsafe_code, reason = "the caller vouches for the pointers")]
pub unsafe fn spawn(
    path: &core::ffi::CStr,
    arguments: &[&core::ffi::CStr],
    environment: &[&core::ffi::CStr],
    actions: &[Action],
) -> Result<i32> {
    let pointers = |strings: &[&core::ffi::CStr]| -> Vec<u64> {
        strings.iter().map(|string| string.as_ptr() as usize as u64).chain([0]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: the arrays live until the call returns; `actions` is passed on to the caller.
    answer(unsafe { host::spawn(path, &argv, &envp, actions) }).map(|pid| pid as i32)
}
