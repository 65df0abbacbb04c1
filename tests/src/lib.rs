//! The harness that proves cooper from outside: it starts the built binary, never its crates.
//!
//! A *suite* is a file in `tests/tests` with a list of cases; [`suite`] runs them, prints lines in the form of the
//! standard test harness and counts what was skipped, with the reason. A case states what it *needs* of the machine
//! ([`machine::Need`]: root, a compiler, a base image, another builder). A need that is not met skips the case, except with `CI=true`, where it
//! is a failure: there nothing may be skipped. `known-failures.txt` lists cases that are expected to fail; a listed
//! case that passes fails the run.
//!
//! What must hold: a case leaves nothing behind outside its temporary directory and `target/`; it ends only processes
//! that it started; loads go to loopback; it asserts results, never timings. The modules:
//!
//! - [`cooper`]: the binary under test with a store of its own, inside the strict pod or outside it;
//! - [`pod`]: the locked-down pod, as Kubernetes' restricted profile makes it;
//! - [`bases`]: base images from Debian's packages; [`registry`]: a registry on loopback;
//! - [`oci`]: layouts, read and written without anybody's help; [`listing`]: file systems compared entry by entry;
//! - [`runtime`]: images unpacked and started by other programs;
//! - [`conformance`]: one-point Dockerfiles with the results that BuildKit recorded; [`peers`]: BuildKit and buildah;
//! - [`git`]: repositories behind a server on loopback;
//! - [`guests`]: the C programs in `tests/guests`, compiled in their variants;
//! - [`transcript`]: commands with the answers they have to give;
//! - [`real`]: the Dockerfiles of `tests/real`, built and compared with what buildah makes;
//! - [`fuzz`]: stored seeds and their mutations;
//! - [`measure`]: what a command costs, for the benchmark; [`bench`]: its larger sets;
//! - [`process`]: commands with a deadline.
#![allow(clippy::print_stdout, reason = "the suites print their results")]

pub mod bases;
pub mod bench;
pub mod conformance;
pub mod cooper;
pub mod fuzz;
pub mod git;
pub mod guests;
pub mod listing;
pub mod machine;
pub mod measure;
pub mod oci;
pub mod peers;
pub mod pod;
pub mod process;
pub mod real;
pub mod registry;
pub mod runtime;
pub mod suite;
pub mod transcript;
