//! `wait4` and `waitid`: hearing of children.

use std::sync::Arc;

use bitflags::bitflags;
use cooper_vfs::Errno;

use super::process::{ExitStatus, Times};
use super::table::{Report, Table};
use super::{Process, exit};
use crate::cputime::CpuTime;
use crate::cx::Cx;
use crate::signal::pending::code;
use crate::signal::signal;
use crate::syscalls::SysError;
use crate::wait::{WaitEnd, lock};

bitflags! {
    /// Options of `wait4` and `waitid`, with Linux's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct WaitOptions: u32 {
        const NOHANG = 1;
        const STOPPED = 2;
        const EXITED = 4;
        const CONTINUED = 8;
        const NOWAIT = 0x0100_0000;
        const NOTHREAD = 0x2000_0000;
        const ALL = 0x4000_0000;
        const CLONE = 0x8000_0000;
    }
}

/// Which children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Any,
    Process(u32),
    Group(u32),
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) what: What,
    /// Processor time of the child and its own children.
    pub(crate) times: Times,
    pub(crate) cpu: CpuTime,
}

/// What happened to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Ended(ExitStatus),
    Report(Report),
}

impl Heard {
    /// What `wait4` stores.
    pub(crate) fn wait_status(&self) -> i32 {
        match self.what {
            What::Ended(status) => status.wait_status(),
            What::Report(Report::Stopped(number)) => (number as i32) << 8 | 0x7f,
            What::Report(Report::Continued) => 0xffff,
        }
    }

    /// `si_code` and `si_status` of `waitid`.
    pub(crate) fn code_and_status(&self) -> (i32, i32) {
        match self.what {
            What::Ended(ExitStatus::Code(value)) => (code::EXITED, i32::from(value)),
            What::Ended(ExitStatus::Signal(number) | ExitStatus::Core(number)) => {
                (code::KILLED, i32::from(number))
            }
            What::Report(Report::Stopped(number)) => (code::STOPPED, number as i32),
            What::Report(Report::Continued) => (code::CONTINUED, signal::CONT as i32),
        }
    }
}

/// Waits for a child to change state. `Ok(None)` when none has and `NOHANG` was given.
///
/// `ECHILD` when there is no child that could.
pub(crate) fn wait(cx: &Cx<'_>, which: Which, options: WaitOptions) -> Result<Option<Heard>, SysError> {
    let process = cx.process();
    let attempt = || look(cx, process, which, options).transpose();
    if options.contains(WaitOptions::NOHANG) {
        return Ok(attempt().transpose()?);
    }
    match cx.wait(&[&process.children_changed], None, attempt) {
        Ok(result) => Ok(Some(result?)),
        Err(WaitEnd::TimedOut | WaitEnd::Interrupted | WaitEnd::Killed) => Err(SysError::Restart),
    }
}

fn look(
    cx: &Cx<'_>,
    process: &Arc<Process>,
    which: Which,
    options: WaitOptions,
) -> Result<Option<Heard>, Errno> {
    let mut table = lock(&cx.kernel.table);
    let children: Vec<u32> =
        table.process(process.pid()).map(|node| node.children.iter().copied().collect()).unwrap_or_default();
    let mut eligible = false;
    for pid in children {
        let Some(node) = table.process(pid) else { continue };
        let wanted = match which {
            Which::Any => true,
            Which::Process(id) => id == pid,
            Which::Group(group) => node.group == group,
        };
        let is_clone = node.exit_signal != signal::CHLD;
        let kind = options.contains(WaitOptions::ALL) || is_clone == options.contains(WaitOptions::CLONE);
        if !wanted || !kind {
            continue;
        }
        eligible = true;
        if let Some(heard) = hear(&mut table, pid, options) {
            if let (What::Ended(_), false) = (heard.what, options.contains(WaitOptions::NOWAIT)) {
                let mut times = lock(&process.times);
                times.children += heard.cpu + heard.times.children;
            }
            return Ok(Some(heard));
        }
    }
    if eligible { Ok(None) } else { Err(Errno::CHILD) }
}

fn hear(table: &mut Table, pid: u32, options: WaitOptions) -> Option<Heard> {
    let keep = options.contains(WaitOptions::NOWAIT);
    let node = table.processes.get_mut(&pid)?;
    let cpu = node.process.cpu_time();
    let times = *lock(&node.process.times);
    let heard = |what| Heard { pid, uid: node.uid, what, times, cpu };
    if let Some(status) = node.zombie {
        if !options.contains(WaitOptions::EXITED) {
            return None;
        }
        let heard = heard(What::Ended(status));
        if !keep {
            table.remove(pid);
        }
        return Some(heard);
    }
    let report = node.report?;
    let wanted = match report {
        Report::Stopped(_) => options.contains(WaitOptions::STOPPED),
        Report::Continued => options.contains(WaitOptions::CONTINUED),
    };
    if !wanted {
        return None;
    }
    let heard = heard(What::Report(report));
    if !keep {
        node.report = None;
    }
    Some(heard)
}

/// The four numbers of `struct tms`: own and children's user and system time, in ticks.
pub(crate) fn ticks_of(process: &Process) -> [i64; 4] {
    let children = lock(&process.times).children;
    let own = process.cpu_time();
    [own.user, own.system, children.user, children.system].map(exit::ticks)
}
