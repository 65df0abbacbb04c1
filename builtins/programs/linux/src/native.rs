//! The two functions on Linux itself.
#![allow(unsafe_code, reason = "raw system calls")]

use core::ffi::CStr;

use crate::Action;

pub(crate) unsafe fn syscall(number: i64, [a, b, c, d, e, f]: [i64; 6]) -> i64 {
    // SAFETY: the caller vouches for the pointers.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { -i64::from(errno()) } else { result }
}

/// `fork` with a pipe that tells whether the child came to its program: `vfork` cannot be called from Rust.
pub(crate) unsafe fn spawn(path: &CStr, argv: &[u64], envp: &[u64], actions: &[Action]) -> i64 {
    let mut news = [0; 2];
    // SAFETY: two descriptors are written to `news`.
    if unsafe { libc::pipe2(news.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return -i64::from(errno());
    }
    // Out of the way of the numbers that actions use.
    // SAFETY: both descriptors are ours.
    let [reader, writer] = news.map(|fd| unsafe {
        let moved = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 900);
        libc::close(fd);
        moved
    });
    // SAFETY: the child makes only system calls until it is another program or ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above; the pointers are the caller's.
        unsafe {
            let failed = actions
                .iter()
                .map(|action| syscall(action.number, action.arguments))
                .find(|&result| (-4095..0).contains(&result));
            let error = failed.unwrap_or_else(|| {
                libc::execve(path.as_ptr(), argv.as_ptr().cast(), envp.as_ptr().cast());
                -i64::from(errno())
            });
            libc::write(writer, (&raw const error).cast(), 8);
            libc::_exit(127)
        }
    }
    let mut error = 0i64;
    // SAFETY: descriptors and buffer are ours.
    unsafe {
        libc::close(writer);
        if pid > 0 && libc::read(reader, (&raw mut error).cast(), 8) == 8 {
            libc::waitpid(pid, core::ptr::null_mut(), 0);
        }
        libc::close(reader);
    }
    if pid < 0 {
        -i64::from(errno())
    } else if error < 0 {
        error
    } else {
        i64::from(pid)
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
