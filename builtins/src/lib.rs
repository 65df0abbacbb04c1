//! The toolbox: a shell and core utilities as WebAssembly programs, for images that have none.
//!
//! An image from scratch or a distroless one has no shell, and a step that needs one has nothing to run. The toolbox
//! will be served to such a step from a mount that is in no layer. This crate embeds the compiled programs; their
//! sources lie beside it and are built reproducibly.
//!
//! Nothing is embedded yet: programs of the `\0asm` format cannot be run before the sandbox runs WASI, so a step whose
//! image has no shell fails with the error that Linux would give. What must hold then: the toolbox adds nothing to an
//! image that has a shell, and each program is one small module, compiled on first use.
