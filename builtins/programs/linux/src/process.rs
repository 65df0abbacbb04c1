//! Processes, identities, signals and descriptors between processes.

use std::ffi::{CStr, CString, OsStr};
use std::time::Duration;

use crate::file::{Descriptor, c_path};
use crate::{Action, Errno, Result, call, errno, file, number, spawn};

/// `fcntl`: a copy of a descriptor at this number or above.
pub const F_DUPFD: i32 = 0;
/// `fcntl`: the descriptor's flags, of which 1 is close-on-exec.
pub const F_GETFD: i32 = 1;
/// `fcntl`: sets them.
pub const F_SETFD: i32 = 2;
/// `fcntl`: flags of the open file.
pub const F_GETFL: i32 = 3;
/// `fcntl`: sets them.
pub const F_SETFL: i32 = 4;
/// `fcntl`: as `F_DUPFD`, closed on exec.
pub const F_DUPFD_CLOEXEC: i32 = 1030;

/// `wait4` returns at once.
pub const WNOHANG: i32 = 1;

/// Names of the signals from 1 to 31.
pub const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "POLL", "PWR", "SYS",
];

fn address<T: ?Sized>(value: *const T) -> i64 {
    value.cast::<u8>() as usize as i64
}

fn id(number: i64) -> u32 {
    call(number, []).map_or(u32::MAX, |id| id as u32)
}

/// Real user.
#[must_use]
pub fn getuid() -> u32 {
    id(number::GETUID)
}
/// Effective user.
#[must_use]
pub fn geteuid() -> u32 {
    id(number::GETEUID)
}
/// Real group.
#[must_use]
pub fn getgid() -> u32 {
    id(number::GETGID)
}
/// Effective group.
#[must_use]
pub fn getegid() -> u32 {
    id(number::GETEGID)
}
/// Supplementary groups.
pub fn getgroups() -> Result<Vec<u32>> {
    let mut groups = vec![0u32; call(number::GETGROUPS, [0, 0])? as usize];
    let count = call(number::GETGROUPS, [groups.len() as i64, address(groups.as_mut_ptr())])?;
    groups.truncate(count as usize);
    Ok(groups)
}
/// Own process.
#[must_use]
pub fn getpid() -> i32 {
    id(number::GETPID) as i32
}
/// Parent process.
#[must_use]
pub fn getppid() -> i32 {
    id(number::GETPPID) as i32
}
/// Own process group.
#[must_use]
pub fn getpgrp() -> i32 {
    call(number::GETPGID, [0]).map_or(0, |group| group as i32)
}
/// Moves a process (0: this one) to a group (0: its own).
pub fn setpgid(process: i32, group: i32) -> Result<()> {
    call(number::SETPGID, [process.into(), group.into()]).map(drop)
}
/// Sets the mask of permission bits and tells the old one.
#[must_use]
pub fn umask(mask: u32) -> u32 {
    call(number::UMASK, [mask.into()]).map_or(0, |old| old as u32)
}
/// The mask of permission bits.
#[must_use]
pub fn current_umask() -> u32 {
    let mask = umask(0o77);
    let _ = umask(mask);
    mask
}

/// What `uname` tells.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of uname(2)")]
pub struct Uname {
    pub sysname: Vec<u8>,
    pub nodename: Vec<u8>,
    pub release: Vec<u8>,
    pub version: Vec<u8>,
    pub machine: Vec<u8>,
}

/// Name of the system.
pub fn uname() -> Result<Uname> {
    let mut buffer = [0u8; 65 * 6];
    call(number::UNAME, [address(buffer.as_mut_ptr())])?;
    let field = |at: usize| buffer[at * 65..][..65].iter().copied().take_while(|&byte| byte != 0).collect();
    Ok(Uname {
        sysname: field(0),
        nodename: field(1),
        release: field(2),
        version: field(3),
        machine: field(4),
    })
}

/// Sets the host's name.
pub fn sethostname(name: &[u8]) -> Result<()> {
    call(number::SETHOSTNAME, [address(name.as_ptr()), name.len() as i64]).map(drop)
}

/// Number of processors that this process may use.
pub fn processors() -> Result<u32> {
    let mut mask = [0u64; 128];
    let length = call(number::SCHED_GETAFFINITY, [0, 1024, address(mask.as_mut_ptr())])?;
    Ok(mask[..length as usize / 8].iter().map(|word| word.count_ones()).sum())
}

/// Sends a signal; 0 only asks whether it could be sent.
pub fn kill(process: i32, signal: i32) -> Result<()> {
    call(number::KILL, [process.into(), signal.into()]).map(drop)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It ended with this code.
    Exited(i32),
    /// A signal ended it; `true` if it left a core.
    Signaled(i32, bool),
    /// A signal stopped it.
    Stopped(i32),
    /// It goes on after a stop.
    Continued,
}

impl Status {
    /// Reads the word of `wait4`.
    #[must_use]
    pub fn from_raw(word: i32) -> Self {
        match word & 0x7f {
            _ if word == 0xffff => Self::Continued,
            0 => Self::Exited(word >> 8 & 0xff),
            0x7f => Self::Stopped(word >> 8 & 0xff),
            signal => Self::Signaled(signal, word & 0x80 != 0),
        }
    }
    /// The code that a shell reports: 128 and more for a signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal, _) | Self::Stopped(signal) => 128 + signal,
            Self::Continued => 0,
        }
    }
}

/// Waits for a child (-1: any); `None` if there is nothing yet under `WNOHANG`.
pub fn wait4(process: i32, options: i32) -> Result<Option<(i32, Status)>> {
    let mut word = 0i32;
    let arguments = [process.into(), address(&raw mut word), options.into(), 0];
    loop {
        match call(number::WAIT4, arguments) {
            Ok(0) => return Ok(None),
            Ok(process) => return Ok(Some((process as i32, Status::from_raw(word)))),
            Err(errno::EINTR) => {}
            Err(other) => return Err(other),
        }
    }
}

/// Waits until a child has ended.
pub fn wait(process: i32) -> Result<Status> {
    loop {
        if let Some((_, status)) = wait4(process, 0)? {
            return Ok(status);
        }
    }
}

/// A pipe: the end to read, the end to write. Flags are those of `open`, say `CLOEXEC`.
pub fn pipe2(flags: i32) -> Result<[Descriptor; 2]> {
    let mut pair = [0i32; 2];
    call(number::PIPE2, [address(pair.as_mut_ptr()), flags.into()])?;
    Ok(pair.map(Descriptor::from_raw))
}

/// Makes `to` a copy of `from`; the flag is `CLOEXEC` or 0.
pub fn dup3(from: i32, to: i32, flags: i32) -> Result<()> {
    call(number::DUP3, [from.into(), to.into(), flags.into()]).map(drop)
}

/// A descriptor's or its file's flags, or a copy of it.
pub fn fcntl(descriptor: i32, command: i32, argument: i64) -> Result<i64> {
    call(number::FCNTL, [descriptor.into(), command.into(), argument])
}

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Poll {
    /// The descriptor.
    pub descriptor: i32,
    /// What is waited for: 1 to read, 4 to write.
    pub events: i16,
    /// What there is: also 8 error, 16 hung up, 32 no such descriptor.
    pub answer: i16,
}

/// Waits until a descriptor is ready or the time is over; the answer is how many are.
pub fn poll(polls: &mut [Poll], timeout: Option<Duration>) -> Result<usize> {
    let milliseconds = timeout.map_or(-1, |time| time.as_millis().min(i32::MAX as u128) as i64);
    call(number::POLL, [address(polls.as_mut_ptr()), polls.len() as i64, milliseconds])
        .map(|count| count as usize)
}

/// Whether a descriptor is a terminal.
#[must_use]
pub fn is_terminal(descriptor: i32) -> bool {
    const TCGETS: i64 = 0x5401;
    let mut settings = [0u8; 64];
    call(number::IOCTL, [descriptor.into(), TCGETS, address(settings.as_mut_ptr())]).is_ok()
}

/// The working directory, as the kernel knows it.
pub fn getcwd() -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; 4096];
    let length = call(number::GETCWD, [address(buffer.as_mut_ptr()), buffer.len() as i64])?;
    // The length counts the final NUL.
    buffer.truncate((length as usize).saturating_sub(1));
    Ok(buffer)
}

/// Changes the working directory, also the one that WASI's library keeps for itself.
pub fn chdir(path: &[u8]) -> Result<()> {
    let c_path = c_path(path)?;
    call(number::CHDIR, [address(c_path.as_ptr())])?;
    enter();
    Ok(())
}

/// Makes the working directory known to WASI's library, which starts at `/`. A program that opens files by std calls it first.
/// Natively there is nothing to do.
pub fn enter() {
    if cfg!(target_family = "wasm")
        && let Ok(here) = getcwd()
    {
        // A directory that was removed meanwhile keeps the old one, as any relative path fails then.
        let _ = std::env::set_current_dir(os_str(&here));
    }
}

/// Lets the system's other programs know how willing this one is to wait: adds to its niceness and tells the new one.
pub fn nice(increment: i32) -> Result<i32> {
    let current = niceness()?;
    call(number::SETPRIORITY, [0, 0, (current + increment).clamp(-20, 19).into()])?;
    niceness()
}

/// The process's niceness, -20 to 19.
pub fn niceness() -> Result<i32> {
    // The raw call answers 20 less the niceness, so that it is never negative.
    call(number::GETPRIORITY, [0, 0]).map(|answer| 20 - answer as i32)
}

/// Sleeps.
pub fn sleep(time: Duration) {
    let mut time = file::Time { seconds: time.as_secs() as i64, nanoseconds: time.subsec_nanos().into() };
    let at = address(&raw mut time);
    while call(number::NANOSLEEP, [at, at]) == Err(errno::EINTR) {}
}

/// The current time.
#[must_use]
pub fn now() -> file::Time {
    let mut time = file::Time::default();
    let _ = call(number::CLOCK_GETTIME, [0, address(&raw mut time)]);
    time
}

/// Random bytes.
pub fn random(buffer: &mut [u8]) -> Result<()> {
    call(number::GETRANDOM, [address(buffer.as_mut_ptr()), buffer.len() as i64, 0]).map(drop)
}

/// What `rt_sigprocmask` does with a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Adds to the blocked signals.
    Block = 0,
    /// Takes from them.
    Unblock = 1,
    /// Replaces them.
    Set = 2,
}

/// Blocks or unblocks signals (bit n-1 for signal n); the answer is the old set.
pub fn mask(how: Mask, set: u64) -> Result<u64> {
    let mut old = 0u64;
    call(number::RT_SIGPROCMASK, [how as i64, address(&raw const set), address(&raw mut old), 8])?;
    Ok(old)
}

/// Takes one of the blocked signals in `set` when it comes; `None` when the time is over.
pub fn take_signal(set: u64, timeout: Option<Duration>) -> Result<Option<i32>> {
    let time = timeout
        .map(|time| file::Time { seconds: time.as_secs() as i64, nanoseconds: time.subsec_nanos().into() });
    let at = time.as_ref().map_or(0, |time| address(&raw const *time));
    match call(number::RT_SIGTIMEDWAIT, [address(&raw const set), 0, at, 8]) {
        Ok(signal) => Ok(Some(signal as i32)),
        Err(errno::EAGAIN) => Ok(None),
        Err(other) => Err(other),
    }
}

/// `struct sigaction` of the raw call, for the two dispositions that need no handler.
fn disposition(handler: u64) -> [u64; 4] {
    [handler, 0, 0, 0]
}

/// Ignores a signal, or gives it back its default.
pub fn ignore(signal: i32, ignored: bool) -> Result<()> {
    let action = disposition(u64::from(ignored));
    call(number::RT_SIGACTION, [signal.into(), address(action.as_ptr()), 0, 8]).map(drop)
}

/// Whether a signal is ignored.
pub fn is_ignored(signal: i32) -> Result<bool> {
    let mut action = disposition(0);
    call(number::RT_SIGACTION, [signal.into(), 0, address(action.as_mut_ptr()), 8])?;
    Ok(action[0] == 1)
}

/// A string of the environment or the command line from bytes.
#[must_use]
pub fn os_str(bytes: &[u8]) -> &OsStr {
    #[cfg(not(target_family = "wasm"))]
    use std::os::unix::ffi::OsStrExt;
    #[cfg(target_family = "wasm")]
    use std::os::wasi::ffi::OsStrExt;
    OsStr::from_bytes(bytes)
}

/// The environment as `NAME=value`.
#[must_use]
pub fn environment() -> Vec<CString> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            CString::new([name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()).ok()
        })
        .collect()
}

/// Finds a program as `execvp` does: a name with a slash is a path, another is searched for in `PATH`.
///
/// `EACCES` if there was a file that may not be run, `ENOENT` if there was none.
pub fn find_program(name: &[u8], path: Option<&[u8]>) -> Result<Vec<u8>> {
    if name.contains(&b'/') {
        return Ok(name.to_vec());
    }
    let mut failure = errno::ENOENT;
    for directory in path.unwrap_or(b"/bin:/usr/bin").split(|&byte| byte == b':') {
        let candidate = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
        match file::stat(&candidate) {
            Ok(stat) if stat.kind() == file::Kind::Regular => match file::access(&candidate, 1) {
                Ok(()) => return Ok(candidate),
                Err(refused) => failure = refused,
            },
            _ => {}
        }
    }
    Err(failure)
}

/// A child process to be.
#[derive(Clone, Debug, Default)]
pub struct Command {
    path: Vec<u8>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    actions: Vec<Action>,
    // What actions point at: a set of signals or a path each. Boxed, so that it does not move.
    sets: Vec<Box<[u64]>>,
    paths: Vec<CString>,
}

impl Command {
    /// A program at a path, with its arguments from `argv[0]` on and its environment of `NAME=value`. An argument
    /// ends at a NUL.
    #[must_use]
    pub fn new(path: &[u8], arguments: &[Vec<u8>], environment: Vec<CString>) -> Self {
        let c_string = |argument: &Vec<u8>| {
            let bytes = argument.split(|&byte| byte == 0).next().unwrap_or_default();
            CString::new(bytes).unwrap_or_default()
        };
        let arguments = arguments.iter().map(c_string).collect();
        Self { path: path.to_vec(), arguments, environment, ..Self::default() }
    }

    fn action<const N: usize>(mut self, number: i64, first: [i64; N]) -> Self {
        let mut arguments = [0; 6];
        arguments[..N].copy_from_slice(&first);
        self.actions.push(Action { number, arguments });
        self
    }

    /// The child's `to` is a copy of `from`, open on exec also if the two are the same.
    #[must_use]
    pub fn dup2(self, from: i32, to: i32) -> Self {
        if from == to {
            self.action(number::FCNTL, [to.into(), F_SETFD.into(), 0])
        } else {
            self.action(number::DUP3, [from.into(), to.into(), 0])
        }
    }
    /// The child closes a descriptor, which must be open.
    #[must_use]
    pub fn close(self, descriptor: i32) -> Self {
        self.action(number::CLOSE, [descriptor.into()])
    }
    /// The child works in another directory.
    #[must_use]
    pub fn chdir(mut self, path: &[u8]) -> Self {
        let path = CString::new(path).unwrap_or_default();
        let at = address(path.as_ptr());
        self.paths.push(path);
        self.action(number::CHDIR, [at])
    }
    /// The child joins a process group (0: its own).
    #[must_use]
    pub fn setpgid(self, group: i32) -> Self {
        self.action(number::SETPGID, [0, group.into()])
    }
    /// The child ignores a signal, or has its default.
    #[must_use]
    pub fn ignore(mut self, signal: i32, ignored: bool) -> Self {
        let action: Box<[u64]> = Box::new(disposition(u64::from(ignored)));
        let at = address(action.as_ptr());
        self.sets.push(action);
        self.action(number::RT_SIGACTION, [signal.into(), at, 0, 8])
    }
    /// The child starts with these signals blocked and no others.
    #[must_use]
    pub fn mask(mut self, set: u64) -> Self {
        let set: Box<[u64]> = Box::new([set]);
        let at = address(set.as_ptr());
        self.sets.push(set);
        self.action(number::RT_SIGPROCMASK, [Mask::Set as i64, at, 0, 8])
    }

    /// Starts it; the answer is its pid.
    pub fn spawn(&self) -> Result<i32> {
        let path = c_path(&self.path)?;
        let arguments: Vec<&CStr> = self.arguments.iter().map(CString::as_c_str).collect();
        let environment: Vec<&CStr> = self.environment.iter().map(CString::as_c_str).collect();
        #[allow(unsafe_code, reason = "spawn takes pointers")]
        // SAFETY: pointers in the actions point into `sets` and `paths`, which live as long as `self`.
        unsafe {
            spawn(&path, &arguments, &environment, &self.actions)
        }
    }

    /// Starts it and waits for its end.
    pub fn run(&self) -> Result<Status> {
        wait(self.spawn()?)
    }
}

/// Makes this process another program, if the host's kernel lets a program be replaced; it returns only on failure.
///
/// A module cannot be left in the middle, so under WASI the program is a child, and this process ends with its status.
#[must_use]
pub fn become_program(path: &[u8], arguments: &[Vec<u8>], environment: Vec<CString>) -> Errno {
    match Command::new(path, arguments, environment).run() {
        Ok(Status::Signaled(signal, _)) => {
            // Die of the same signal, which tells the parent the truth.
            let _ = ignore(signal, false);
            let _ = mask(Mask::Unblock, 1 << (signal - 1));
            let _ = kill(getpid(), signal);
            std::process::exit(128 + signal)
        }
        Ok(status) => std::process::exit(status.code()),
        Err(failure) => failure,
    }
}
