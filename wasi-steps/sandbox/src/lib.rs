//! Runs steps: the plug for the solver's socket.
//!
//! A step is one host process. [`ProcessRunner`] implements [`StepRunner`](cooper_build::step::StepRunner) by executing
//! this same program again with `step` as its command, an empty environment and no open descriptor but the standard
//! three; [`step_main`] is what that process does: it reads one request, makes the step's root file system and kernel,
//! runs the command with an [`executor`] per guest thread, and writes one answer. The two talk in the frames of
//! [`wire`]: the request and then the step's standard input one way, output and answer the other way.
//!
//! What must hold: the step's process holds no credential and no secret but those of its request, which never touches
//! a disk; whatever happens to it - a crash, a kill, a limit - is that step's error and nothing else's; it ends when its
//! parent does; guest code is only ever interpreted. Wasmtime, which will run translated code and WASI programs in
//! the same process, comes in with the translator.

pub mod executor;
mod host;
mod machine;
mod output;
mod runner;
mod step;
mod trust;
mod wire;

pub use runner::ProcessRunner;
pub use step::step_main;
pub use trust::{Trust, TrustError};
