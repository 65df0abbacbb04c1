//! Sets of figures that need more than a few lines. `cooper-bench` runs them.

pub mod language;
pub mod registry;
