//! x86-64 machine code: guest memory, machine state, a pre-decoded interpreter, and a translator to WebAssembly.
//!
//! The crate knows nothing of Linux or of files. A caller gives it a [`memory::GuestMemory`] with a program mapped
//! into it, a [`state::CpuState`] and a [`code::CodeMap`] that names the executable ranges; [`interpreter::Interpreter`]
//! runs until something happens that is not plain user-mode computation and says what in an
//! [`interpreter::Exit`]. System calls, signals and mappings are the caller's.
//!
//! [`lift::translate`] makes WebAssembly of functions; who compiles and runs it is not this crate's business.
//!
//! What must hold: no byte sequence in guest memory panics or breaks out of the interpreter, guest addresses are
//! 64-bit numbers that never alias, and at every exit the state is the one the hardware would show.

pub mod code;
pub mod float;
pub mod interpreter;
pub mod lift;
pub mod memory;
pub mod state;

mod alu;
mod decode;
mod flags;
mod general;
mod handlers;
mod host;
mod host_mmx;
mod host_x87;
mod machine;
mod mmx;
mod operations;
mod processor;
mod select;
mod strings;
mod vector;
mod x87;
