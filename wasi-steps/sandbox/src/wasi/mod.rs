//! WebAssembly programs as processes of the kernel.
//!
//! A process whose program is a WebAssembly module is a process like any other: its memory is an
//! [`AddressSpace`](cooper_kernel::memory::AddressSpace) with the module's linear memory from address 0 up, and everything it asks for
//! goes through the one door that machine code uses, the table of Linux system calls. So pids, descriptors, pipes, waits, credentials,
//! permissions and limits are those of the kernel, and programs of both kinds mix in one pipeline. What a host function needs beside the
//! module's memory - paths with a terminating zero, structures with 64-bit pointers - lies in the scratch area of the process's annex.
//!
//! [`loader`] says which files are programs and keeps them compiled; [`process`] runs one; [`preview1`] has the functions of WASI
//! preview 1; [`toolbox`] the two of the toolbox, which any other module is refused. Compilation is a process of its own
//! ([`compile`]).
//!
//! What must hold: the engine here and the one of translated code never meet; compiled code is loaded only from a helper of ours or
//! from the code cache; a directory descriptor is where a path starts and no fence, for what a process may reach the kernel decides at
//! every path; every loop of a module looks at the epoch, which the thread's stop flag raises.

pub(crate) mod compile;
mod engine;
mod errno;
pub(crate) mod loader;
mod preview1;
mod process;
#[cfg(test)]
mod tests;
mod toolbox;

pub use compile::compile_wasm_main;
