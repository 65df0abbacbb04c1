//! The two functions as imports.
#![allow(unsafe_code, reason = "imports are foreign functions")]

use core::ffi::CStr;

use crate::Action;

mod import {
    #[link(wasm_import_module = "cooper")]
    unsafe extern "C" {
        pub(super) fn syscall(number: i64, a: i64, b: i64, c: i64, d: i64, e: i64, f: i64) -> i64;
        pub(super) fn spawn(path: i64, argv: i64, envp: i64, actions: i64, count: i64) -> i64;
    }
}

pub(crate) unsafe fn syscall(number: i64, [a, b, c, d, e, f]: [i64; 6]) -> i64 {
    // SAFETY: the caller vouches for the pointers.
    unsafe { import::syscall(number, a, b, c, d, e, f) }
}

pub(crate) unsafe fn spawn(path: &CStr, argv: &[u64], envp: &[u64], actions: &[Action]) -> i64 {
    // SAFETY: all arrays live until the call returns and end as the host expects.
    unsafe {
        import::spawn(
            path.as_ptr() as usize as i64,
            argv.as_ptr() as usize as i64,
            envp.as_ptr() as usize as i64,
            actions.as_ptr() as usize as i64,
            actions.len() as i64,
        )
    }
}
