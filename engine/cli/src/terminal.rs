//! The terminal that cooper itself runs at: its size, and raw mode for a command that has a terminal of its own.
//!
//! In raw mode every key goes to the command, whose own terminal makes echo, lines and signals of them. What must hold: the
//! settings come back however the command ends, also when a second signal ends cooper at once.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The settings to come back to.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Lines and characters in a line, where all three standard streams are terminals.
pub(crate) fn size() -> Option<(u16, u16)> {
    let all =
        std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let size = tcgetwinsize(rustix::stdio::stdin()).ok().filter(|_| all)?;
    Some((size.ws_row, size.ws_col))
}

/// Raw mode; dropping it restores the terminal.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches to it; `None` where the terminal does not take it.
    pub(crate) fn start() -> Option<Self> {
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        *lock() = Some(before);
        let mode = Self(());
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw).ok()?;
        Some(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Brings the settings back, if they were changed.
pub(crate) fn restore() {
    if let Some(before) = lock().take() {
        // A terminal that is gone has nothing to restore.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &before);
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}
