//! Sending signals.

use std::sync::Arc;

use super::{DefaultAction, SIG_DFL, SignalInfo, SignalSet, default_action, number::FIRST_REALTIME, signal};
use crate::task::process::{ExitStatus, ProcessState};
use crate::task::table::{Report, Table};
use crate::task::{Process, Task, exit};
use crate::wait::lock;

/// What sending did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is pending, or had no effect as nobody wants it.
    Done,
    /// There is no room for another real-time signal (`EAGAIN`).
    QueueFull,
}

/// Whether a signal with this disposition would have no effect: the first process of the step ignores what it has no
/// handler for, as every init.
fn is_ignored(process: &Process, number: u32) -> bool {
    let actions = process.actions();
    let actions = lock(&actions);
    if process.is_init() && actions.get(number).handler == SIG_DFL {
        return true;
    }
    number != signal::KILL && number != signal::STOP && actions.ignores(number)
}

/// What a signal does at the moment it is sent: stop and continue cancel each other. Returns whether the process goes
/// on after a stop.
fn prepare(state: &mut ProcessState, number: u32) -> bool {
    if SignalSet::STOPS.contains(number) {
        forget(state, SignalSet::of(signal::CONT));
        return false;
    }
    if number != signal::CONT {
        return false;
    }
    forget(state, SignalSet::STOPS);
    let continued = state.stopped.take().is_some();
    state.threads.iter().for_each(|task| task.notify());
    continued
}

fn forget(state: &mut ProcessState, set: SignalSet) {
    state.pending.discard(set);
    state.threads.iter().for_each(|task| lock(&task.pending).discard(set));
}

/// Sends a signal to a process. Reports of stops and continues are left to the caller who holds the table.
pub(crate) fn to_process(process: &Arc<Process>, info: SignalInfo) -> Sent {
    send(process, None, info).0
}

/// Sends a signal to one thread.
pub(crate) fn to_task(task: &Arc<Task>, info: SignalInfo) -> Sent {
    send(task.process(), Some(task), info).0
}

/// Sends a signal to a process and tells its parent when that continues it.
pub(crate) fn to_process_locked(table: &mut Table, process: &Arc<Process>, info: SignalInfo) -> Sent {
    let (sent, continued) = send(process, None, info);
    if continued {
        exit::report_to_parent(table, process.pid(), Report::Continued);
    }
    sent
}

/// Sends a signal to one thread and tells the parent when that continues the process.
pub(crate) fn to_task_locked(table: &mut Table, task: &Arc<Task>, info: SignalInfo) -> Sent {
    let (sent, continued) = send(task.process(), Some(task), info);
    if continued {
        exit::report_to_parent(table, task.process().pid(), Report::Continued);
    }
    sent
}

fn send(process: &Arc<Process>, target: Option<&Arc<Task>>, info: SignalInfo) -> (Sent, bool) {
    let number = info.number;
    let ignored = is_ignored(process, number);
    if number == signal::KILL && !ignored {
        process.begin_exit(ExitStatus::Signal(signal::KILL as u8));
        return (Sent::Done, false);
    }
    let mut state = lock(&process.state);
    let continued = prepare(&mut state, number);
    if continued {
        process.state_changed.wake_all();
    }
    let blocked = match target {
        Some(task) => task.mask().contains(number),
        None => state.threads.iter().all(|task| task.mask().contains(number)),
    };
    if ignored && !blocked {
        return (Sent::Done, continued);
    }
    let queued = match target {
        Some(task) => lock(&task.pending).push(info),
        None => state.pending.push(info),
    };
    if !queued {
        let sent = if number >= FIRST_REALTIME { Sent::QueueFull } else { Sent::Done };
        return (sent, continued);
    }
    let stops = default_action(number) == DefaultAction::Stop;
    for task in &state.threads {
        let concerned = target.is_none_or(|target| Arc::ptr_eq(target, task));
        if concerned && (!task.mask().contains(number) || stops) {
            task.notify();
        } else {
            // Somebody may look at what is pending and blocked: signalfd, sigtimedwait.
            task.wake();
        }
    }
    (Sent::Done, continued)
}

/// Sends a signal that the thread cannot escape, as a fault: if it is blocked or ignored it kills.
pub(crate) fn force(task: &Arc<Task>, info: SignalInfo) {
    let number = info.number;
    let process = task.process();
    let blocked = task.mask().contains(number);
    let actions = process.actions();
    let default = {
        let mut actions = lock(&actions);
        let ignored = actions.get(number).handler == super::SIG_IGN;
        if blocked || ignored {
            actions.set(number, super::Action::default());
        }
        actions.get(number).handler == SIG_DFL
    };
    if blocked {
        task.set_mask(task.mask().without(SignalSet::of(number)));
    }
    if default {
        // Also the first process dies of its own faults.
        let status = match default_action(number) {
            DefaultAction::Core => ExitStatus::Core(number as u8),
            _ => ExitStatus::Signal(number as u8),
        };
        process.begin_exit(status);
        return;
    }
    lock(&task.pending).push(info);
    task.notify();
}
