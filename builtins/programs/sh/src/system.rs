//! The system calls the shell makes.
//!
//! Numbers and layouts are those of x86-64 Linux, in both worlds; see `toolbox_linux`.
#![allow(unsafe_code, reason = "system calls take pointers")]

use std::ffi::{CStr, CString};

pub(crate) use toolbox_linux::Errno;
use toolbox_linux::{Action, Result};

pub(crate) const O_RDONLY: i64 = 0;
pub(crate) const O_WRONLY: i64 = 1;
pub(crate) const O_RDWR: i64 = 2;
pub(crate) const O_CREAT: i64 = 0o100;
pub(crate) const O_EXCL: i64 = 0o200;
pub(crate) const O_TRUNC: i64 = 0o1000;
pub(crate) const O_APPEND: i64 = 0o2000;
pub(crate) const O_DIRECTORY: i64 = 0o200_000;
pub(crate) const O_CLOEXEC: i64 = 0o2_000_000;
pub(crate) const O_PATH: i64 = 0o10_000_000;

pub(crate) const ENOENT: Errno = Errno(2);
pub(crate) const EINTR: Errno = Errno(4);
pub(crate) const ENOEXEC: Errno = Errno(8);
pub(crate) const EACCES: Errno = Errno(13);
pub(crate) const ENOTDIR: Errno = Errno(20);
pub(crate) const EPIPE: Errno = Errno(32);

pub(crate) const SIGINT: i32 = 2;
pub(crate) const SIGQUIT: i32 = 3;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGPIPE: i32 = 13;
pub(crate) const SIGCHLD: i32 = 17;

pub(crate) const POLLIN: i16 = 1;
pub(crate) const POLLOUT: i16 = 4;

pub(crate) const WNOHANG: i64 = 1;

/// What `fcntl` calls close-on-exec, and the shell's own descriptors have.
const F_DUPFD_CLOEXEC: i64 = 1030;
/// Scripts can name descriptors 0 to 9; the shell's own are above.
const FIRST_PRIVATE: i64 = 10;

fn call<const N: usize>(number: i64, arguments: [i64; N]) -> Result<i64> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    // SAFETY: every caller in this module passes pointers to live memory of the size that the call uses.
    unsafe { toolbox_linux::syscall(number, all) }
}

fn at<T: ?Sized>(pointer: *const T) -> i64 {
    pointer.cast::<u8>() as usize as i64
}

/// A path with an end that C sees; a NUL inside is in no path.
fn path(text: &[u8]) -> Result<CString> {
    CString::new(text).map_err(|_| ENOENT)
}

pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    call(0, [fd.into(), at(buffer.as_mut_ptr()), buffer.len() as i64]).map(|n| n as usize)
}

pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    call(1, [fd.into(), at(bytes.as_ptr()), bytes.len() as i64]).map(|n| n as usize)
}

/// Opens with close-on-exec, out of the way of the numbers that scripts use.
pub(crate) fn open(name: &[u8], flags: i64, mode: i64) -> Result<i32> {
    let name = path(name)?;
    let fd = call(2, [at(name.as_ptr()), flags | O_CLOEXEC, mode])? as i32;
    private(fd)
}

/// Moves a descriptor above those that scripts can name.
fn private(fd: i32) -> Result<i32> {
    if i64::from(fd) >= FIRST_PRIVATE {
        return Ok(fd);
    }
    let moved = save(fd);
    close(fd);
    moved
}

/// A private, close-on-exec copy of a descriptor.
pub(crate) fn save(fd: i32) -> Result<i32> {
    call(72, [fd.into(), F_DUPFD_CLOEXEC, FIRST_PRIVATE]).map(|fd| fd as i32)
}

/// Whether the descriptor is open.
pub(crate) fn is_open(fd: i32) -> bool {
    call(72, [fd.into(), 1, 0]).is_ok()
}

pub(crate) fn close(fd: i32) {
    // A close that fails has closed all the same.
    let _ = call(3, [fd.into()]);
}

pub(crate) fn duplicate(from: i32, to: i32) -> Result<()> {
    call(33, [from.into(), to.into()]).map(drop)
}

/// A pipe of private descriptors: reader, writer.
pub(crate) fn pipe() -> Result<(i32, i32)> {
    let mut ends = [0i32; 2];
    call(293, [at(ends.as_mut_ptr()), O_CLOEXEC])?;
    let reader = private(ends[0]);
    let writer = private(ends[1]);
    Ok((reader?, writer?))
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

pub(crate) fn poll(descriptors: &mut [PollFd], milliseconds: i32) -> Result<usize> {
    call(7, [at(descriptors.as_mut_ptr()), descriptors.len() as i64, milliseconds.into()]).map(|n| n as usize)
}

/// What the shell looks at of `struct stat`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub device: u64,
    pub inode: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: i64,
    pub modified: (i64, i64),
}

impl Status {
    pub(crate) fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }
    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == 0o040_000
    }
    pub(crate) fn is_regular(&self) -> bool {
        self.kind() == 0o100_000
    }
    pub(crate) fn is_fifo(&self) -> bool {
        self.kind() == 0o010_000
    }
}

fn status(call_stat: impl FnOnce(*mut u64) -> Result<i64>) -> Result<Status> {
    let mut words = [0u64; 18];
    call_stat(words.as_mut_ptr())?;
    Ok(Status {
        device: words[0],
        inode: words[1],
        mode: words[3] as u32,
        uid: (words[3] >> 32) as u32,
        gid: words[4] as u32,
        size: words[6] as i64,
        modified: (words[11] as i64, words[12] as i64),
    })
}

pub(crate) fn stat(name: &[u8]) -> Result<Status> {
    let name = path(name)?;
    status(|buffer| call(4, [at(name.as_ptr()), at(buffer)]))
}

pub(crate) fn lstat(name: &[u8]) -> Result<Status> {
    let name = path(name)?;
    status(|buffer| call(6, [at(name.as_ptr()), at(buffer)]))
}

/// Whether the file can be read (4), written (2), executed (1), with the effective ids.
pub(crate) fn access(name: &[u8], mode: i64) -> bool {
    let Ok(name) = path(name) else { return false };
    const AT_FDCWD: i64 = -100;
    const AT_EACCESS: i64 = 0x200;
    match call(439, [AT_FDCWD, at(name.as_ptr()), mode, AT_EACCESS]) {
        // A kernel without `faccessat2`.
        Err(Errno(38)) => call(21, [at(name.as_ptr()), mode]).is_ok(),
        result => result.is_ok(),
    }
}

/// The entries of a directory, without `.` and `..`, in the kernel's order.
pub(crate) fn entries(name: &[u8]) -> Result<Vec<Vec<u8>>> {
    let fd = open(if name.is_empty() { b"." } else { name }, O_RDONLY | O_DIRECTORY, 0)?;
    let mut names = Vec::new();
    let mut buffer = vec![0u64; 4096];
    let result = loop {
        let length = match call(217, [fd.into(), at(buffer.as_mut_ptr()), (buffer.len() * 8) as i64]) {
            Ok(0) => break Ok(names),
            Ok(length) => length as usize,
            Err(error) => break Err(error),
        };
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).take(length).collect();
        let mut rest = bytes.as_slice();
        // d_ino 8, d_off 8, d_reclen 2, d_type 1, d_name
        while let Some(size) = rest.get(16..18).map(|size| usize::from(size[0]) | usize::from(size[1]) << 8) {
            let Some(entry) = rest.get(19..size) else { break };
            let entry = entry.split(|byte| *byte == 0).next().unwrap_or_default();
            if entry != b"." && entry != b".." {
                names.push(entry.to_vec());
            }
            rest = &rest[size..];
        }
    };
    close(fd);
    result
}

pub(crate) fn is_terminal(fd: i32) -> bool {
    let mut termios = [0u64; 16];
    call(16, [fd.into(), 0x5401, at(termios.as_mut_ptr())]).is_ok()
}

pub(crate) fn chdir(name: &[u8]) -> Result<()> {
    let name = path(name)?;
    call(80, [at(name.as_ptr())]).map(drop)
}

pub(crate) fn fchdir(fd: i32) -> Result<()> {
    call(81, [fd.into()]).map(drop)
}

pub(crate) fn working_directory() -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; 4096];
    let length = call(79, [at(buffer.as_mut_ptr()), buffer.len() as i64])? as usize;
    buffer.truncate(length.saturating_sub(1));
    Ok(buffer)
}

pub(crate) fn umask(mask: u32) -> u32 {
    call(95, [mask.into()]).unwrap_or(0) as u32
}

pub(crate) fn process_id() -> i32 {
    call(39, []).unwrap_or(1) as i32
}

pub(crate) fn parent_id() -> i32 {
    call(110, []).unwrap_or(0) as i32
}

pub(crate) fn effective_user_id() -> u32 {
    call(107, []).unwrap_or(0) as u32
}

pub(crate) fn effective_group_id() -> u32 {
    call(108, []).unwrap_or(0) as u32
}

pub(crate) fn kill(pid: i32, signal: i32) -> Result<()> {
    call(62, [pid.into(), signal.into()]).map(drop)
}

/// Waits for a child, `-1` for any: pid and wait status; `None` with `WNOHANG` when none has changed.
pub(crate) fn wait(pid: i32, options: i64) -> Result<Option<(i32, i32)>> {
    let mut status = 0i32;
    loop {
        match call(61, [pid.into(), at(&raw mut status), options, 0]) {
            Err(EINTR) => {}
            Err(error) => return Err(error),
            Ok(0) => return Ok(None),
            Ok(pid) => return Ok(Some((pid as i32, status))),
        }
    }
}

/// User and system time of the shell and of its children, in ticks of 10 ms.
pub(crate) fn times() -> [i64; 4] {
    let mut times = [0i64; 4];
    let _ = call(100, [at(times.as_mut_ptr())]);
    times
}

/// Soft and hard limit.
pub(crate) fn limit(resource: i64) -> Result<[u64; 2]> {
    let mut limits = [0u64; 2];
    call(97, [resource, at(limits.as_mut_ptr())]).map(|_| limits)
}

pub(crate) fn set_limit(resource: i64, limits: [u64; 2]) -> Result<()> {
    call(160, [resource, at(limits.as_ptr())]).map(drop)
}

/// A set of signals, as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SignalSet(pub u64);

impl SignalSet {
    pub(crate) fn with(self, signal: i32) -> Self {
        Self(self.0 | 1 << (signal - 1))
    }
    pub(crate) fn without(self, signal: i32) -> Self {
        Self(self.0 & !(1 << (signal - 1)))
    }
    pub(crate) fn has(self, signal: i32) -> bool {
        self.0 & 1 << (signal - 1) != 0
    }
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Sets the mask of blocked signals; the answer is the one before.
pub(crate) fn set_mask(mask: SignalSet) -> SignalSet {
    let mut old = 0u64;
    let _ = call(14, [2, at(&raw const mask.0), at(&raw mut old), 8]);
    SignalSet(old)
}

/// The mask of blocked signals.
pub(crate) fn mask() -> SignalSet {
    let mut old = 0u64;
    let _ = call(14, [0, 0, at(&raw mut old), 8]);
    SignalSet(old)
}

/// What a signal does when it is not blocked: a shell has no handlers, so there are two answers.
pub(crate) fn ignore(signal: i32, ignored: bool) {
    let action = [u64::from(ignored), 0, 0, 0];
    let _ = call(13, [signal.into(), at(action.as_ptr()), 0, 8]);
}

/// Whether the signal is ignored.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let mut action = [0u64; 4];
    call(13, [signal.into(), 0, at(action.as_mut_ptr()), 8]).is_ok() && action[0] == 1
}

/// Takes a pending signal of `set`: at once or, without a `timeout`, when there is one. `None` after an interruption too.
pub(crate) fn take_signal(set: SignalSet, timeout: Option<[i64; 2]>) -> Option<i32> {
    let pointer = timeout.as_ref().map_or(0, |timeout| at(timeout.as_ptr()));
    call(128, [at(&raw const set.0), 0, pointer, 8]).ok().map(|signal| signal as i32)
}

/// A descriptor that is readable while a signal of `set` is pending.
pub(crate) fn signal_descriptor(set: SignalSet) -> Result<i32> {
    private(call(289, [-1, at(&raw const set.0), 8, O_CLOEXEC])? as i32)
}

/// Becomes another program; returns only when that fails.
pub(crate) fn execute(name: &[u8], arguments: &[CString], environment: &[CString]) -> Errno {
    let Ok(name) = path(name) else { return ENOENT };
    let pointers = |strings: &[CString]| -> Vec<u64> {
        strings.iter().map(|string| string.as_ptr() as usize as u64).chain([0]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    match call(59, [at(name.as_ptr()), at(argv.as_ptr()), at(envp.as_ptr())]) {
        Err(error) => error,
        Ok(_) => ENOEXEC,
    }
}

/// What a child does before it becomes its program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// `dup2`; the copy stays open across the exec.
    Duplicate(i32, i32),
    /// A descriptor stays open across the exec, under its own number.
    Keep(i32),
    Close(i32),
    Mask(SignalSet),
    Ignore(i32),
}

/// Starts a program as a child: its pid.
pub(crate) fn spawn(
    name: &[u8],
    arguments: &[CString],
    environment: &[CString],
    steps: &[Step],
) -> Result<i32> {
    let name = path(name)?;
    let ignored = [1u64, 0, 0, 0];
    let masks: Vec<u64> =
        steps.iter().map(|step| if let Step::Mask(set) = step { set.0 } else { 0 }).collect();
    let actions: Vec<Action> = steps
        .iter()
        .zip(&masks)
        .map(|(step, mask)| {
            let (number, arguments) = match *step {
                Step::Duplicate(from, to) => (33, [from.into(), to.into(), 0, 0, 0, 0]),
                Step::Keep(fd) => (72, [fd.into(), 2, 0, 0, 0, 0]),
                Step::Close(fd) => (3, [fd.into(), 0, 0, 0, 0, 0]),
                Step::Mask(_) => (14, [2, at(mask), 0, 8, 0, 0]),
                Step::Ignore(signal) => (13, [signal.into(), at(ignored.as_ptr()), 0, 8, 0, 0]),
            };
            Action { number, arguments }
        })
        .collect();
    let arguments: Vec<&CStr> = arguments.iter().map(CString::as_c_str).collect();
    let environment: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
    // SAFETY: masks and signal actions live until the call returns.
    unsafe { toolbox_linux::spawn(&name, &arguments, &environment, &actions) }
}

/// A file that is in memory alone.
pub(crate) fn memory_file() -> Result<i32> {
    let fd = call(319, [at(c"here-document".as_ptr()), 1])? as i32;
    private(fd)
}

/// Goes back to the start of a file.
pub(crate) fn rewind(fd: i32) -> Result<()> {
    call(8, [fd.into(), 0, 0]).map(drop)
}

/// Undoes what Rust's start has done natively, where it makes every program ignore `SIGPIPE`; nothing happens before a
/// module's `main`.
pub(crate) fn restore_pipe_signal() {
    if cfg!(not(target_family = "wasm")) {
        ignore(SIGPIPE, false);
    }
}

/// Where the stack is now.
#[inline(never)]
pub(crate) fn stack_position() -> usize {
    let marker = 0u8;
    std::hint::black_box(&raw const marker) as usize
}

/// How much of the stack has been taken since it was at `start`: it grows downwards, in both worlds.
pub(crate) fn stack_used(start: usize) -> usize {
    start.saturating_sub(stack_position())
}

/// How much of the stack commands that run inside one another may take: the rest is for what each of them does.
pub(crate) fn stack_limit() -> usize {
    // RLIMIT_STACK; a module's stack is what `build.rs` has asked the linker for.
    let size = if cfg!(target_family = "wasm") {
        8 << 20
    } else {
        limit(3).map_or(8 << 20, |limits| limits[0].min(64 << 20))
    };
    size as usize / 4 * 3
}
