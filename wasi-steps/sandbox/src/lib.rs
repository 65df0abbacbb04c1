//! Runs steps: the plug for the solver's socket.
//!
//! A step is one host process. [`ProcessRunner`] implements [`StepRunner`](cooper_build::step::StepRunner) by executing
//! this same program again with `step` as its command, an empty environment and no open descriptor but the standard
//! three; [`step_main`] is what that process does: it reads one request, makes the step's root file system and kernel,
//! runs the command with an executor per guest thread, and writes one answer. The two talk in the frames of
//! [`wire`]: the request and then the step's standard input one way, output and answer the other way.
//!
//! Guest code runs in two [`tiers`]: the interpreter of `cooper-x86`, and WebAssembly that its translator makes of what is
//! hot, compiled by helper processes ([`compile`]) and run in Wasmtime ([`thread`]). What was compiled is kept in a
//! [`cache`] for later steps. A step may be told to run in both at once and to stop where they [differ](verify).
//!
//! What must hold: the step's process holds no credential and no secret but those of its request, which never touches
//! a disk; whatever happens to it - a crash, a kill, a limit - is that step's error and nothing else's; it ends when its
//! parent does; guest code is interpreted, or runs as WebAssembly that can reach the guest's window and the thread's state and
//! nothing else.

pub mod cache;
mod compile;
mod compiler;
mod elf;
mod engine;
mod helper;
mod host;
mod library;
mod machine;
mod output;
mod runner;
mod state;
mod step;
mod thread;
mod tiers;
mod toolbox;
mod trust;
mod verify;
mod wasi;
mod wire;

pub use compile::compile_main;
pub use compiler::Policy;
pub use engine::code_key;
pub use helper::Helper;
pub use runner::ProcessRunner;
pub use step::{Checking, StepServices, Translation, step_main};
pub use toolbox::Builtins;
pub use trust::{Trust, TrustError};
pub use wasi::compile_wasm_main;
pub use wasi::loader::WasmServices;
