//! Open files: what a descriptor number stands for.

pub(crate) mod description;
pub(crate) mod table;
