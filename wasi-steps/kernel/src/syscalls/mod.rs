//! The system call table: one entry per call, as data.
//!
//! Each family has a file that exports its entries; the table joins them, ordered by number. `cooper syscalls` prints
//! it, so the level and the note of an entry are documentation that has to stay true.
//!
//! What must hold: handlers are thin. They copy arguments in, call what does the work, and copy results out; a call
//! that is not in the table is `ENOSYS` and is counted.

mod credentials;
mod descriptor;
mod directory;
mod file;
mod inotify;
mod ipc;
mod memory;
mod metadata;
mod poll;
mod process;
mod signal;
mod socket;
mod system;
mod sysv;
mod time;
mod unimplemented;
mod xattr;

pub(crate) use descriptor::release_locks;
pub(crate) use system::{RELEASE, VERSION};

use std::sync::LazyLock;

use cooper_vfs::Errno;

use crate::cx::Cx;

/// How a handler ends.
pub(crate) type SysResult = Result<u64, SysError>;

/// Does one system call.
pub(crate) type Handler = fn(&mut Cx<'_>, [u64; 6]) -> SysResult;

/// Why a handler gives no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SysError {
    /// The call fails.
    Errno(Errno),
    /// Interrupted: run again unless a handler without `SA_RESTART` ran, then `EINTR` (Linux's `ERESTARTSYS`).
    Restart,
    /// Interrupted: run again unless any handler ran, then `EINTR` (Linux's `ERESTARTNOHAND`, and
    /// `ERESTART_RESTARTBLOCK` together with [`Cx::deadline`]).
    RestartNoHandler,
    /// The registers are set already: `execve`, `rt_sigreturn`, `exit`.
    NoReturn,
}

impl From<Errno> for SysError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// How much of a call works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything guests can see.
    Full,
    /// What the note says is missing; the rest is refused by an error.
    Partial,
    /// Accepted without effect, where Linux's effect is a hint or cannot be seen.
    Stub,
    /// Always an error, the one an unprivileged container gives or `ENOSYS`.
    Refused,
}

impl Level {
    /// The word that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::Stub => "stub",
            Self::Refused => "refused",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Number in `rax`.
    pub number: u32,
    /// Name as in the manual.
    pub name: &'static str,
    pub(crate) handler: Handler,
    /// How much of it works.
    pub level: Level,
    /// What is missing or special; empty when there is nothing to say.
    pub note: &'static str,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {} {}", self.number, self.name, self.level.name())
    }
}

/// Makes an entry with everything supported.
pub(crate) const fn full(number: u32, name: &'static str, handler: Handler) -> Entry {
    Entry { number, name, handler, level: Level::Full, note: "" }
}

/// Makes an entry of which a part is missing.
pub(crate) const fn partial(number: u32, name: &'static str, handler: Handler, note: &'static str) -> Entry {
    Entry { number, name, handler, level: Level::Partial, note }
}

/// Makes an entry that is accepted without effect.
pub(crate) const fn stub(number: u32, name: &'static str, handler: Handler, note: &'static str) -> Entry {
    Entry { number, name, handler, level: Level::Stub, note }
}

/// Makes an entry that always fails.
pub(crate) const fn refused(number: u32, name: &'static str, handler: Handler, note: &'static str) -> Entry {
    Entry { number, name, handler, level: Level::Refused, note }
}

const FAMILIES: &[&[Entry]] = &[
    credentials::ENTRIES,
    descriptor::ENTRIES,
    directory::ENTRIES,
    file::ENTRIES,
    inotify::ENTRIES,
    ipc::ENTRIES,
    memory::ENTRIES,
    metadata::ENTRIES,
    poll::ENTRIES,
    process::ENTRIES,
    signal::ENTRIES,
    socket::ENTRIES,
    system::ENTRIES,
    sysv::ENTRIES,
    time::ENTRIES,
    unimplemented::ENTRIES,
    xattr::ENTRIES,
];

/// Numbers from here on are in no table.
pub(crate) const NUMBERS: usize = 480;

static BY_NUMBER: LazyLock<Vec<Option<&'static Entry>>> = LazyLock::new(|| {
    let mut table = vec![None; NUMBERS];
    for entry in FAMILIES.iter().copied().flatten() {
        if let Some(slot) = table.get_mut(entry.number as usize) {
            *slot = Some(entry);
        }
    }
    table
});

/// The entry of a call, if it is in the table.
pub(crate) fn entry(number: u64) -> Option<&'static Entry> {
    usize::try_from(number).ok().and_then(|number| BY_NUMBER.get(number).copied().flatten())
}

/// The whole table, ordered by number.
pub fn table() -> impl Iterator<Item = &'static Entry> {
    BY_NUMBER.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_claimed_twice() {
        let mut numbers: Vec<u32> = FAMILIES.iter().copied().flatten().map(|entry| entry.number).collect();
        numbers.sort_unstable();
        let twice: Vec<u32> =
            numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert_eq!(twice, Vec::<u32>::new());
        assert!(numbers.iter().all(|number| (*number as usize) < NUMBERS));
    }

    #[test]
    fn partial_stub_and_refused_entries_say_why() {
        let silent: Vec<&str> = table()
            .filter(|entry| entry.level != Level::Full && entry.note.is_empty())
            .map(|entry| entry.name)
            .collect();
        assert_eq!(silent, Vec::<&str>::new());
    }
}
