//! The commands.

pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod explain;
pub(crate) mod images;
pub(crate) mod index;
pub(crate) mod registry;
pub(crate) mod run;
pub(crate) mod system;
pub(crate) mod values;
