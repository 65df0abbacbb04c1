//! What the step's host process really uses, against the step's limit.
//!
//! Areas are charged when they are mapped, but for those that Linux would not count either: stacks and what a program only
//! reserves (`MAP_NORESERVE`). They cost when they are touched, which the kernel does not see. So a thread of its own looks at the
//! host's figures of anonymous memory now and then; above the limit, with room for what the kernel and its executors need
//! themselves, all processes are ended and the limit is remembered. What must hold: the thread never keeps a kernel alive.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::kernel::Kernel;

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(200);
/// What the host process may use beside the guests' memory, in bytes: the mark for it is 100 MB, the bound 250 MB.
const OWN: u64 = 256 << 20;
/// The figures of `/proc/self/status` that count, in kilobytes: anonymous memory, and that behind memory files.
const FIGURES: [&str; 2] = ["RssAnon:", "RssShmem:"];

/// Starts to look. Without a thread or without `/proc` nothing is watched, and the charged memory is bounded all the same.
pub(crate) fn start(kernel: &Arc<Kernel>) {
    if used().is_none() {
        return;
    }
    let kernel = Arc::downgrade(kernel);
    let builder = std::thread::Builder::new().name("memory".to_owned()).stack_size(128 << 10);
    drop(builder.spawn(move || watch(&kernel)));
}

fn watch(kernel: &Weak<Kernel>) {
    loop {
        std::thread::park_timeout(PERIOD);
        let Some(kernel) = kernel.upgrade() else { return };
        let bound = kernel.limits.memory_bytes.saturating_add(OWN);
        if used().is_some_and(|used| used > bound) {
            kernel.memory().exceed();
            kernel.kill_all();
            return;
        }
    }
}

/// Bytes that the host process uses, or `None` where the host does not say.
fn used() -> Option<u64> {
    let file = rustix::fs::open("/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0; 4096];
    let count = rustix::io::read(file, &mut buffer).ok()?;
    parse(std::str::from_utf8(&buffer[..count]).ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let figure = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    FIGURES.iter().map(|name| figure(name)).sum::<Option<u64>>().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added() {
        let status =
            "Name:\tstep\nVmRSS:\t  900 kB\nRssAnon:\t     100 kB\nRssFile:\t 8 kB\nRssShmem:\t  20 kB\n";
        assert_eq!(parse(status), Some(120 << 10));
        assert_eq!(parse("RssAnon:\t 100 kB\n"), None);
        assert!(used().is_some());
    }
}
