//! What a command costs: wall time, CPU time with that of its children, peak memory.
#![allow(
    unsafe_code,
    reason = "wait4 is the only way to learn what one child used, and std does not have it"
)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The cost of one run.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From start to end.
    pub wall: Duration,
    /// User and system time of the command and of the children it waited for.
    pub cpu: Duration,
    /// The largest resident set of the command or one of its children, in bytes.
    pub peak: u64,
}

/// Runs a command to its end, its output dropped; it has to succeed.
pub fn measure(command: &mut Command) -> Result<Cost> {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: a zeroed `rusage` is a valid one; both pointers are ours; `child` is never waited for elsewhere.
    let (answer, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &raw mut status, 0, &raw mut usage), usage)
    };
    let wall = start.elapsed();
    ensure!(answer == pid, "cannot wait for {shown}: {}", std::io::Error::last_os_error());
    ensure!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{shown} failed with status {status:#x}"
    );
    let time =
        |t: libc::timeval| Duration::new(t.tv_sec.unsigned_abs(), t.tv_usec.unsigned_abs() as u32 * 1000);
    Ok(Cost {
        wall,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak: usage.ru_maxrss.unsigned_abs() * 1024,
    })
}

/// The run with the median wall time out of `runs`.
pub fn median(runs: usize, mut one: impl FnMut() -> Result<Cost>) -> Result<Cost> {
    let mut costs = (0..runs.max(1)).map(|_| one()).collect::<Result<Vec<_>>>()?;
    costs.sort_by_key(|cost| cost.wall);
    Ok(costs[costs.len() / 2])
}
