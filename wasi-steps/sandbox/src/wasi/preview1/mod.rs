//! The 46 functions of `wasi_snapshot_preview1`.
//!
//! Each is a system call or a few, so what it does to files, pipes and processes is what Linux does. Descriptors are the kernel's
//! numbers. Pointers are addresses of the module's memory; one that is not in it is `EFAULT`. Rights are what a descriptor was opened
//! for: they cannot be taken away, and `fd_fdstat_set_rights` is `ENOTSUP`, as in other engines since rights were given up.
//!
//! The preopens are `.`, the working directory, and `/`, in this order, and the environment says `PWD`: C libraries take the last
//! directory whose name fits, so an absolute path works as it stands. They are descriptors like any other, closed by `execve`, and what
//! lies between them and 2 answers `fd_prestat_get` with a tag that is no directory's, over which libraries go on.

mod descriptors;
mod files;
mod paths;
mod poll;
mod program;
mod sockets;

use wasmtime::{Caller, Linker};

use super::errno::Errno;
use super::process::{Fail, Guest};

pub(super) use descriptors::Preopens;
pub(super) use program::Clock;

/// The import module.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// Numbers of the system calls that functions here are made of.
mod call {
    pub(super) const READ: u64 = 0;
    pub(super) const WRITE: u64 = 1;
    pub(super) const CLOSE: u64 = 3;
    pub(super) const FSTAT: u64 = 5;
    pub(super) const LSEEK: u64 = 8;
    pub(super) const IOCTL: u64 = 16;
    pub(super) const PREAD: u64 = 17;
    pub(super) const PWRITE: u64 = 18;
    pub(super) const READV: u64 = 19;
    pub(super) const WRITEV: u64 = 20;
    pub(super) const SCHED_YIELD: u64 = 24;
    pub(super) const GETPID: u64 = 39;
    pub(super) const SENDMSG: u64 = 46;
    pub(super) const RECVMSG: u64 = 47;
    pub(super) const SHUTDOWN: u64 = 48;
    pub(super) const GETSOCKOPT: u64 = 55;
    pub(super) const FCNTL: u64 = 72;
    pub(super) const FSYNC: u64 = 74;
    pub(super) const FDATASYNC: u64 = 75;
    pub(super) const FTRUNCATE: u64 = 77;
    pub(super) const GETTID: u64 = 186;
    pub(super) const GETDENTS: u64 = 217;
    pub(super) const FADVISE: u64 = 221;
    pub(super) const CLOCK_GETTIME: u64 = 228;
    pub(super) const CLOCK_GETRES: u64 = 229;
    pub(super) const TGKILL: u64 = 234;
    pub(super) const OPENAT: u64 = 257;
    pub(super) const MKDIRAT: u64 = 258;
    pub(super) const NEWFSTATAT: u64 = 262;
    pub(super) const UNLINKAT: u64 = 263;
    pub(super) const RENAMEAT: u64 = 264;
    pub(super) const LINKAT: u64 = 265;
    pub(super) const SYMLINKAT: u64 = 266;
    pub(super) const READLINKAT: u64 = 267;
    pub(super) const PPOLL: u64 = 271;
    pub(super) const UTIMENSAT: u64 = 280;
    pub(super) const FALLOCATE: u64 = 285;
    pub(super) const ACCEPT4: u64 = 288;
    pub(super) const DUP3: u64 = 292;
    pub(super) const PREADV: u64 = 295;
    pub(super) const PWRITEV: u64 = 296;
    pub(super) const GETRANDOM: u64 = 318;
}

/// What a function answers: its results are in memory.
type Done = Result<(), Fail>;

/// The number that a function returns.
fn answer(done: Done) -> Result<u32, wasmtime::Error> {
    match done {
        Ok(()) => Ok(0),
        Err(Fail::Errno(Errno(number))) => Ok(number.into()),
        Err(Fail::Leave(leave)) => Err(leave.into()),
    }
}

macro_rules! functions {
    ($($family:ident :: $name:ident ($($argument:ident : $kind:ty),*);)*) => {
        /// Their names.
        pub(super) const FUNCTIONS: &[&str] = &["proc_exit", $(stringify!($name)),*];

        /// Adds them all.
        pub(super) fn add(linker: &mut Linker<Guest>) -> Result<(), wasmtime::Error> {
            $(linker.func_wrap(
                MODULE,
                stringify!($name),
                |mut caller: Caller<'_, Guest>, $($argument: $kind),*| -> Result<u32, wasmtime::Error> {
                    answer($family::$name(caller.data_mut(), $($argument),*))
                },
            )?;)*
            // The one that does not come back.
            linker.func_wrap(
                MODULE,
                "proc_exit",
                |mut caller: Caller<'_, Guest>, code: u32| -> Result<(), wasmtime::Error> {
                    Err(caller.data_mut().calls().exit(code as u8).into())
                },
            )?;
            Ok(())
        }
    };
}

functions! {
    program::args_get(argv: u32, buffer: u32);
    program::args_sizes_get(count: u32, size: u32);
    program::environ_get(environ: u32, buffer: u32);
    program::environ_sizes_get(count: u32, size: u32);
    program::clock_res_get(id: u32, result: u32);
    program::clock_time_get(id: u32, precision: u64, result: u32);
    program::proc_raise(signal: u32);
    program::sched_yield();
    program::random_get(buffer: u32, length: u32);
    descriptors::fd_close(fd: u32);
    descriptors::fd_fdstat_get(fd: u32, result: u32);
    descriptors::fd_fdstat_set_flags(fd: u32, flags: u32);
    descriptors::fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64);
    descriptors::fd_prestat_get(fd: u32, result: u32);
    descriptors::fd_prestat_dir_name(fd: u32, path: u32, length: u32);
    descriptors::fd_renumber(from: u32, to: u32);
    files::fd_advise(fd: u32, offset: u64, length: u64, advice: u32);
    files::fd_allocate(fd: u32, offset: u64, length: u64);
    files::fd_datasync(fd: u32);
    files::fd_filestat_get(fd: u32, result: u32);
    files::fd_filestat_set_size(fd: u32, size: u64);
    files::fd_filestat_set_times(fd: u32, accessed: u64, modified: u64, flags: u32);
    files::fd_pread(fd: u32, buffers: u32, count: u32, offset: u64, result: u32);
    files::fd_pwrite(fd: u32, buffers: u32, count: u32, offset: u64, result: u32);
    files::fd_read(fd: u32, buffers: u32, count: u32, result: u32);
    files::fd_readdir(fd: u32, buffer: u32, length: u32, cookie: u64, result: u32);
    files::fd_seek(fd: u32, offset: u64, whence: u32, result: u32);
    files::fd_sync(fd: u32);
    files::fd_tell(fd: u32, result: u32);
    files::fd_write(fd: u32, buffers: u32, count: u32, result: u32);
    paths::path_create_directory(fd: u32, path: u32, length: u32);
    paths::path_filestat_get(fd: u32, lookup: u32, path: u32, length: u32, result: u32);
    paths::path_filestat_set_times(
        fd: u32, lookup: u32, path: u32, length: u32, accessed: u64, modified: u64, flags: u32
    );
    paths::path_link(
        old_fd: u32, lookup: u32, old: u32, old_length: u32, new_fd: u32, new: u32, new_length: u32
    );
    paths::path_open(
        fd: u32, lookup: u32, path: u32, length: u32, open: u32, base: u64, inheriting: u64, flags: u32, result: u32
    );
    paths::path_readlink(fd: u32, path: u32, length: u32, buffer: u32, size: u32, result: u32);
    paths::path_remove_directory(fd: u32, path: u32, length: u32);
    paths::path_rename(fd: u32, old: u32, old_length: u32, new_fd: u32, new: u32, new_length: u32);
    paths::path_symlink(old: u32, old_length: u32, fd: u32, new: u32, new_length: u32);
    paths::path_unlink_file(fd: u32, path: u32, length: u32);
    poll::poll_oneoff(subscriptions: u32, events: u32, count: u32, result: u32);
    sockets::sock_accept(fd: u32, flags: u32, result: u32);
    sockets::sock_recv(fd: u32, buffers: u32, count: u32, flags: u32, result: u32, result_flags: u32);
    sockets::sock_send(fd: u32, buffers: u32, count: u32, flags: u32, result: u32);
    sockets::sock_shutdown(fd: u32, how: u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_all_functions_of_the_snapshot() {
        assert_eq!(FUNCTIONS.len(), 46);
    }
}
