//! Signals: numbers, sets, what is pending, what to do.
//!
//! A signal is *sent* to a thread group or to one thread ([`send`]), becomes *pending* there, and is *delivered* when
//! the thread is about to run guest code again ([`deliver`]). A thread's stop byte is set whenever it has something
//! to look at, so code that runs comes back; a thread that waits is woken, and its wait ends.
//!
//! What must hold: the sender makes the signal pending first, sets the stop byte then and wakes last; the receiver
//! clears the stop byte first and looks at what is pending then.

pub(crate) mod deliver;
pub(crate) mod number;
pub(crate) mod pending;
pub(crate) mod send;

use std::sync::{Arc, Mutex};

pub(crate) use number::{SignalSet, signal};
pub(crate) use pending::{Detail, PendingSignals, SignalInfo};

/// Linux's `SIG_DFL`.
pub(crate) const SIG_DFL: u64 = 0;
/// Linux's `SIG_IGN`.
pub(crate) const SIG_IGN: u64 = 1;

/// Bits of `sa_flags`.
pub(crate) mod action_flag {
    pub(crate) const NOCLDSTOP: u64 = 1;
    pub(crate) const NOCLDWAIT: u64 = 2;
    pub(crate) const ONSTACK: u64 = 0x0800_0000;
    pub(crate) const RESTART: u64 = 0x1000_0000;
    pub(crate) const NODEFER: u64 = 0x4000_0000;
    pub(crate) const RESETHAND: u64 = 0x8000_0000;
}

/// What to do on a signal: the kernel's `struct sigaction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Action {
    /// Address of the handler, [`SIG_DFL`] or [`SIG_IGN`].
    pub(crate) handler: u64,
    /// `SA_` flags.
    pub(crate) flags: u64,
    /// Where a handler returns to.
    pub(crate) restorer: u64,
    /// Blocked while the handler runs.
    pub(crate) mask: SignalSet,
}

/// What the default action of a signal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultAction {
    Terminate,
    Core,
    Ignore,
    Stop,
    Continue,
}

/// The default action of a signal.
pub(crate) fn default_action(number: u32) -> DefaultAction {
    match number {
        signal::CHLD | signal::URG | signal::WINCH => DefaultAction::Ignore,
        signal::CONT => DefaultAction::Continue,
        signal::STOP | signal::TSTP | signal::TTIN | signal::TTOU => DefaultAction::Stop,
        signal::QUIT
        | signal::ILL
        | signal::TRAP
        | signal::ABRT
        | signal::BUS
        | signal::FPE
        | signal::SEGV
        | signal::XCPU
        | signal::XFSZ
        | signal::SYS => DefaultAction::Core,
        _ => DefaultAction::Terminate,
    }
}

/// The actions of all signals, shared by the threads of a group and by whatever `CLONE_SIGHAND` made.
#[derive(Clone, Debug)]
pub(crate) struct Actions {
    table: [Action; number::COUNT],
}

impl Actions {
    /// All default.
    pub(crate) fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { table: [Action::default(); number::COUNT] }))
    }

    /// The action of a signal from 1 to 64.
    pub(crate) fn get(&self, number: u32) -> Action {
        self.table[number as usize - 1]
    }

    /// Replaces the action of a signal from 1 to 64.
    pub(crate) fn set(&mut self, number: u32, action: Action) {
        self.table[number as usize - 1] = action;
    }

    /// Whether a signal that is not blocked would do nothing.
    pub(crate) fn ignores(&self, number: u32) -> bool {
        match self.get(number).handler {
            SIG_IGN => true,
            SIG_DFL => default_action(number) == DefaultAction::Ignore,
            _ => false,
        }
    }

    /// What `execve` does: handlers become default, ignored signals stay ignored.
    pub(crate) fn reset_handlers(&mut self) {
        for action in &mut self.table {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = Action { handler, ..Action::default() };
        }
    }

    /// What `CLONE_CLEAR_SIGHAND` does: everything that is not ignored becomes default.
    pub(crate) fn copy(&self) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(self.clone()))
    }
}

/// Where handlers run that ask for it (`sigaltstack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AlternateStack {
    /// Lowest address.
    pub(crate) base: u64,
    /// Size in bytes; 0 when there is none.
    pub(crate) size: u64,
    /// `SS_AUTODISARM` or nothing.
    pub(crate) flags: u32,
}

impl AlternateStack {
    /// No alternate stack.
    pub(crate) const NONE: Self = Self { base: 0, size: 0, flags: 0 };

    /// Whether `stack_pointer` is on it.
    pub(crate) fn holds(&self, stack_pointer: u64) -> bool {
        stack_pointer > self.base && stack_pointer - self.base <= self.size
    }
}
