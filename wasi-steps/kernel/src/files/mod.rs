//! Open files: what a descriptor number stands for.

pub(crate) mod description;
pub(crate) mod table;

/// Lets a descriptor table go when a task ends.
pub(crate) fn leave(_kernel: &crate::Kernel, files: std::sync::Arc<table::DescriptorTable>) {
    drop(files.take_all());
}

/// Opens a descriptor for a process (`CLONE_PIDFD`).
pub(crate) fn open_pidfd(
    _cx: &crate::cx::Cx<'_>,
    _process: &std::sync::Arc<crate::task::Process>,
) -> Result<i32, cooper_vfs::Errno> {
    Err(cooper_vfs::Errno::NOSYS)
}

/// Opens the step's standard streams as descriptors 0, 1 and 2.
pub(crate) fn open_stdio(
    _kernel: &std::sync::Arc<crate::Kernel>,
    _files: &table::DescriptorTable,
) -> Result<(), cooper_vfs::Errno> {
    Ok(())
}
