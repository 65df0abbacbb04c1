//! From a Dockerfile to images: the graph, its solver, the cache, the sources and the exporters.

pub mod step;
