//! SIGINT, SIGTERM and SIGHUP end what runs, cleanly; a second one ends it at once.
//!
//! As process 1 of a container there is no default action for them, so the handlers are what makes `kill` work.

use std::sync::atomic::{AtomicBool, Ordering};

use cooper_build::step::CancelToken;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Cancels `token` at the first signal.
pub(crate) fn cancel_on_signals(token: &CancelToken) {
    static SEEN: AtomicBool = AtomicBool::new(false);
    let token = token.clone();
    // Without handlers the default action still ends the process, if not as cleanly.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    let wait = move || {
        for _ in signals.forever() {
            if SEEN.swap(true, Ordering::SeqCst) {
                exit_now();
            }
            token.cancel();
        }
    };
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(wait));
}

#[allow(clippy::exit, reason = "the second signal asks for exactly this; the store is whole at any moment")]
fn exit_now() -> ! {
    crate::terminal::restore();
    std::process::exit(7)
}
