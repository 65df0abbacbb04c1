//! Dockerfile text to typed instructions with spans and diagnostics.
//!
//! [`parse`] takes bytes and always gives a [`Dockerfile`]: directives, global arguments, stages with typed
//! [`Instruction`]s, and [`Diagnostic`]s that [`Diagnostic::render`] shows with the lines they are about. Words are
//! raw: variables depend on the place and the base image, so whoever lowers the file calls [`expand`] per word. The
//! grammar is that of the Dockerfile frontend 1.26 of BuildKit; where the reference is silent, BuildKit's parser is the
//! yardstick.
//!
//! Before a name is looked up with [`Dockerfile::base_stage_index`], the image word of a `FROM` has to be expanded with
//! the global arguments; `--from` is never expanded. Context files are chosen with [`dockerignore`], wildcards of `COPY`
//! and `ADD` with [`glob`].
//!
//! What must hold: no I/O, no clock, no environment; no input panics or takes memory or time out of proportion to its
//! size (the bounds are named constants); nothing is accepted and dropped: an unknown flag, option or instruction is an
//! error with a place.
//!
//! ```
//! let file = cooper_dockerfile::parse(b"FROM alpine AS base\nRUN --network=none echo hello\n");
//! assert!(!file.has_errors());
//! assert_eq!(file.stage_index("base", file.stages.len()), Some(0));
//!
//! let file = cooper_dockerfile::parse(b"FROM alpine\nRUM echo hello\n");
//! let error = file.errors().next().unwrap();
//! assert!(error.render(&file.text, "Dockerfile", cooper_dockerfile::Style::Plain).contains("did you mean `RUN`?"));
//! ```

mod ast;
mod diagnostic;
pub mod dockerignore;
pub mod expand;
mod explain;
mod flags;
pub mod glob;
mod heredoc;
mod instruction;
mod json;
mod lint;
mod mount;
mod parser;
mod source;
mod span;
mod suggest;
mod words;

pub use ast::{
    Add, ArgDeclaration, Check, CommandLine, Copy, CopySource, Directives, Dockerfile, Escape, From,
    Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue, Onbuild, Run, RunCommand, RunNetwork,
    RunSecurity, Stage,
};
pub use diagnostic::{Code, Diagnostic, Label, Severity, Style};
pub use lint::{Rule, undefined_variable};
pub use mount::{Mount, MountFlag, MountOption, Ownership, Sharing};
pub use parser::{MAX_DIAGNOSTICS, MAX_SOURCE_BYTES, MAX_STAGES, parse, parse_trigger};
pub use span::{Span, Word};
