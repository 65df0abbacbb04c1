//! From a Dockerfile to images: the graph, its solver, the cache, the sources and the exporters.
//!
//! A [`BuildRequest`](request::BuildRequest) says everything about a build. [`lower`] turns the Dockerfile into a
//! [`Graph`](graph::Graph) of sources, file operations and steps; [`solve`] works off what the target needs, in
//! parallel, each vertex once; [`image`] puts config, history and layers together, and [`export`] brings the image
//! where it is wanted. Between two operations there are only trees in the store: a layer is made when an exporter asks
//! for it. Steps are run by whoever implements [`StepRunner`](step::StepRunner).
//!
//! What must hold: the same request, inputs and step results give the same bytes; cache keys cover everything that can
//! change a result and nothing else ([`key`]); a guest's path meets a host path only in [`context`] and [`export`];
//! nothing here prints, reads the environment or knows the terminal ([`report`]); everything that is accepted is done,
//! and what is not done is refused by name.

pub mod archive;
pub mod build;
pub mod cache;
pub mod cache_mounts;
pub mod check;
pub mod context;
pub mod copy;
pub mod error;
pub mod export;
pub mod git;
pub mod graph;
pub mod history;
pub mod image;
pub mod key;
pub mod lower;
pub mod miss;
pub mod mode;
pub mod remote;
pub mod report;
pub mod request;
pub mod run;
pub mod scope;
mod select;
pub mod solve;
pub mod source;
pub mod step;
pub mod time;
pub mod users;

pub use error::{Error, Fault, Result};
