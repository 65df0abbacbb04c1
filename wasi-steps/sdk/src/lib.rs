//! The guest's side of a plugin: what an author of a WebAssembly build step links against.
//!
//! A plugin is an ordinary WASI program in an ordinary image, run by an ordinary `RUN`; this crate will carry the typed
//! bindings of the interfaces in `wasi-steps/wit` that go beyond WASI. There are none yet, because the sandbox runs no WASI
//! program yet. What must hold: it depends on no other crate of the workspace, so that plugins stay small, and
//! whatever it offers works for a program that was built without it.
