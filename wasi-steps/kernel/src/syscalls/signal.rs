//! Signals, as programs send, block and handle them.

use std::sync::Arc;
use std::time::Instant;

use cooper_vfs::{Capabilities, Errno};
use cooper_x86::state::register;

use super::process::task_of;
use super::time::read_timespec;
use super::{Entry, SysError, SysResult, full};
use crate::cx::Cx;
use crate::signal::deliver::{self, AUTO_DISARM, DISABLED, ON_STACK};
use crate::signal::pending::{INFO_SIZE, code};
use crate::signal::send::{self, Sent};
use crate::signal::{Action, AlternateStack, SignalInfo, SignalSet, signal};
use crate::task::table::Table;
use crate::task::{Process, Task};
use crate::wait::{WaitEnd, lock};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(13, "rt_sigaction", rt_sigaction),
    full(14, "rt_sigprocmask", rt_sigprocmask),
    full(15, "rt_sigreturn", rt_sigreturn),
    full(34, "pause", pause),
    full(62, "kill", kill),
    full(127, "rt_sigpending", rt_sigpending),
    full(128, "rt_sigtimedwait", rt_sigtimedwait),
    full(129, "rt_sigqueueinfo", rt_sigqueueinfo),
    full(130, "rt_sigsuspend", rt_sigsuspend),
    full(131, "sigaltstack", sigaltstack),
    full(200, "tkill", tkill),
    full(234, "tgkill", tgkill),
    full(297, "rt_tgsigqueueinfo", rt_tgsigqueueinfo),
    full(219, "restart_syscall", restart_syscall),
];

/// Size of the kernel's `sigset_t`.
const SET_SIZE: u64 = 8;

fn check_set_size(size: u64) -> Result<(), Errno> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::INVAL) }
}

fn number(value: u64) -> Result<u32, Errno> {
    u32::try_from(value as i32).ok().filter(|number| (1..=64).contains(number)).ok_or(Errno::INVAL)
}

fn rt_sigaction(cx: &mut Cx<'_>, [signal, new, old, size, ..]: [u64; 6]) -> SysResult {
    check_set_size(size)?;
    let number = number(signal)?;
    if new != 0 && SignalSet::UNBLOCKABLE.contains(number) {
        return Err(Errno::INVAL.into());
    }
    let wanted: Option<[u64; 4]> = if new == 0 { None } else { Some(cx.memory().load(new)?) };
    let actions = cx.process().actions();
    let before = {
        let mut actions = lock(&actions);
        let before = actions.get(number);
        if let Some([handler, flags, restorer, mask]) = wanted {
            actions.set(number, Action { handler, flags, restorer, mask: SignalSet(mask).as_mask() });
        }
        (before, wanted.is_some() && actions.ignores(number))
    };
    if before.1 {
        // What would be ignored is not kept pending.
        let process = cx.process();
        let mut state = lock(&process.state);
        state.pending.discard(SignalSet::of(number));
        state.threads.iter().for_each(|task| lock(&task.pending).discard(SignalSet::of(number)));
    }
    if old != 0 {
        let before = before.0;
        cx.memory().store(old, [before.handler, before.flags, before.restorer, before.mask.0])?;
    }
    Ok(0)
}

fn rt_sigprocmask(cx: &mut Cx<'_>, [how, new, old, size, ..]: [u64; 6]) -> SysResult {
    check_set_size(size)?;
    let before = cx.task.mask();
    if new != 0 {
        let set = SignalSet(cx.memory().load(new)?);
        let mask = match how {
            0 => before.union(set),
            1 => before.without(set),
            2 => set,
            _ => return Err(Errno::INVAL.into()),
        };
        if mask.as_mask() != before {
            cx.task.set_mask(mask);
        }
    }
    cx.memory().store_optional(old, before.0)?;
    Ok(0)
}

fn rt_sigreturn(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    deliver::leave_handler(cx.task, cx.cpu, cx.space);
    Err(SysError::NoReturn)
}

fn pause(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    match cx.wait(&[], None, || None::<u64>) {
        Ok(value) => Ok(value),
        Err(_) => Err(SysError::RestartNoHandler),
    }
}

fn rt_sigsuspend(cx: &mut Cx<'_>, [mask, size, ..]: [u64; 6]) -> SysResult {
    check_set_size(size)?;
    let mask = SignalSet(cx.memory().load(mask)?);
    cx.task.set_temporary_mask(mask);
    pause(cx, [0; 6])
}

fn rt_sigpending(cx: &mut Cx<'_>, [set, size, ..]: [u64; 6]) -> SysResult {
    check_set_size(size)?;
    cx.memory().store(set, cx.task.pending_set().intersection(cx.task.mask()).0)?;
    Ok(0)
}

fn take_pending(task: &Task, wanted: SignalSet) -> Option<SignalInfo> {
    let own = lock(&task.pending).take(wanted);
    own.or_else(|| lock(&task.process().state).pending.take(wanted))
}

fn rt_sigtimedwait(cx: &mut Cx<'_>, [set, info, timeout, size, ..]: [u64; 6]) -> SysResult {
    check_set_size(size)?;
    let wanted = SignalSet(cx.memory().load(set)?).as_mask();
    let deadline = match timeout {
        0 => None,
        address => Some(Instant::now().checked_add(read_timespec(cx, address)?)).flatten(),
    };
    let task = cx.task;
    // Senders wake every thread, also for signals that it blocks. Signals that are waited for end the wait by being
    // taken, not by interrupting it.
    let taken = cx.wait(&[], deadline, || take_pending(task, wanted));
    let taken = match taken {
        Ok(taken) => taken,
        Err(WaitEnd::TimedOut) => return Err(Errno::AGAIN.into()),
        Err(_) => return Err(Errno::INTR.into()),
    };
    if info != 0 {
        cx.memory().write_bytes(info, &taken.to_bytes())?;
    }
    Ok(taken.number.into())
}

fn sigaltstack(cx: &mut Cx<'_>, [new, old, ..]: [u64; 6]) -> SysResult {
    /// `MINSIGSTKSZ`.
    const MINIMUM: u64 = 2048;
    let pointer = cx.cpu.gpr[register::RSP];
    let current = *lock(&cx.task.alternate_stack);
    if new != 0 {
        let [base, flags, size]: [u64; 3] = cx.memory().load(new)?;
        let flags = flags as u32;
        if current.holds(pointer) && current.flags & AUTO_DISARM == 0 {
            return Err(Errno::PERM.into());
        }
        if flags & !(ON_STACK | DISABLED | AUTO_DISARM) != 0
            || flags & (ON_STACK | DISABLED) == ON_STACK | DISABLED
        {
            return Err(Errno::INVAL.into());
        }
        let stack = if flags & DISABLED != 0 {
            AlternateStack::NONE
        } else if size < MINIMUM {
            return Err(Errno::NOMEM.into());
        } else {
            AlternateStack { base, size, flags: flags & AUTO_DISARM }
        };
        *lock(&cx.task.alternate_stack) = stack;
    }
    if old != 0 {
        let flags = u64::from(deliver::stack_flags(current, pointer));
        cx.memory().store(old, [current.base, flags, current.size])?;
    }
    Ok(0)
}

/// Whether the caller may send a signal to a process; `SIGCONT` may go anywhere in the session.
pub(super) fn may_signal(cx: &Cx<'_>, table: &Table, target: &Process, number: u32) -> bool {
    let own = cx.credentials();
    if own.holds(Capabilities::KILL) || target.pid() == cx.process().pid() {
        return true;
    }
    let Some(other) = target.any_thread().map(|task| task.credentials()) else { return true };
    let matches = |id: u32| id == other.user.real || id == other.user.saved;
    let session = |pid: u32| table.process(pid).map(|node| node.session);
    matches(own.user.effective)
        || matches(own.user.real)
        || (number == signal::CONT && session(target.pid()) == session(cx.process().pid()))
}

/// Sends to all processes that a `kill` target names.
fn kill(cx: &mut Cx<'_>, [pid, signal, ..]: [u64; 6]) -> SysResult {
    let number = if signal as i32 == 0 { 0 } else { number(signal)? };
    let own = cx.process().pid();
    let info = SignalInfo::user(number.max(1), code::USER, own, cx.credentials().user.real);
    let mut table = lock(&cx.kernel.table);
    let targets: Vec<Arc<Process>> = match pid as i32 {
        0 => {
            let group = table.process(own).map_or(0, |node| node.group);
            table.group(group).map(|node| node.process.clone()).collect()
        }
        -1 => {
            let everybody = table.processes.values().map(|node| node.process.clone());
            everybody.filter(|process| process.pid() != 1 && process.pid() != own).collect()
        }
        i32::MIN => return Err(Errno::SRCH.into()),
        pid if pid < 0 => table.group(pid.unsigned_abs()).map(|node| node.process.clone()).collect(),
        pid => {
            let pid = pid as u32;
            let of_task = || table.tasks.get(&pid).map(|task| task.process().clone());
            table.process(pid).map(|node| node.process.clone()).or_else(of_task).into_iter().collect()
        }
    };
    if targets.is_empty() {
        return Err(Errno::SRCH.into());
    }
    let allowed: Vec<Arc<Process>> =
        targets.into_iter().filter(|target| may_signal(cx, &table, target, number)).collect();
    if allowed.is_empty() {
        return Err(Errno::PERM.into());
    }
    if number != 0 {
        for target in allowed {
            let zombie = table.process(target.pid()).is_none_or(|node| node.zombie.is_some());
            if !zombie {
                send::to_process_locked(&mut table, &target, info.clone());
            }
        }
    }
    Ok(0)
}

fn send_to_task(cx: &Cx<'_>, task: &Arc<Task>, number: u32, info: SignalInfo) -> SysResult {
    let mut table = lock(&cx.kernel.table);
    if !may_signal(cx, &table, task.process(), number) {
        return Err(Errno::PERM.into());
    }
    if number != 0 && send::to_task_locked(&mut table, task, info) == Sent::QueueFull {
        return Err(Errno::AGAIN.into());
    }
    Ok(0)
}

fn tkill_with(cx: &Cx<'_>, group: Option<u64>, tid: u64, signal: u64) -> SysResult {
    if tid as i32 <= 0 || group.is_some_and(|group| group as i32 <= 0) {
        return Err(Errno::INVAL.into());
    }
    let number = if signal as i32 == 0 { 0 } else { number(signal)? };
    let task = task_of(cx, tid)?;
    if group.is_some_and(|group| task.process().pid() != group as u32) {
        return Err(Errno::SRCH.into());
    }
    let info = SignalInfo::user(number.max(1), code::TKILL, cx.process().pid(), cx.credentials().user.real);
    send_to_task(cx, &task, number, info)
}

fn tkill(cx: &mut Cx<'_>, [tid, signal, ..]: [u64; 6]) -> SysResult {
    tkill_with(cx, None, tid, signal)
}

fn tgkill(cx: &mut Cx<'_>, [group, tid, signal, ..]: [u64; 6]) -> SysResult {
    tkill_with(cx, Some(group), tid, signal)
}

/// Reads a `siginfo_t`; only the kernel may claim to be the kernel or `kill` towards others.
fn read_info(cx: &Cx<'_>, address: u64, number: u32, target: &Process) -> Result<SignalInfo, Errno> {
    let bytes: [u8; INFO_SIZE] = cx.memory().load(address)?;
    let info = SignalInfo::from_bytes(number.max(1), &bytes);
    if (info.code >= 0 || info.code == code::TKILL) && target.pid() != cx.process().pid() {
        return Err(Errno::PERM);
    }
    Ok(info)
}

fn rt_sigqueueinfo(cx: &mut Cx<'_>, [pid, signal, address, ..]: [u64; 6]) -> SysResult {
    let number = if signal as i32 == 0 { 0 } else { number(signal)? };
    let process = super::process::process_of(cx, pid)?;
    let info = read_info(cx, address, number, &process)?;
    let mut table = lock(&cx.kernel.table);
    if !may_signal(cx, &table, &process, number) {
        return Err(Errno::PERM.into());
    }
    if number != 0 && send::to_process_locked(&mut table, &process, info) == Sent::QueueFull {
        return Err(Errno::AGAIN.into());
    }
    Ok(0)
}

fn rt_tgsigqueueinfo(cx: &mut Cx<'_>, [group, tid, signal, address, ..]: [u64; 6]) -> SysResult {
    let number = if signal as i32 == 0 { 0 } else { number(signal)? };
    if tid as i32 <= 0 || group as i32 <= 0 {
        return Err(Errno::INVAL.into());
    }
    let task = task_of(cx, tid)?;
    if task.process().pid() != group as u32 {
        return Err(Errno::SRCH.into());
    }
    let info = read_info(cx, address, number, task.process())?;
    send_to_task(cx, &task, number, info)
}

/// A program never has to make this call: restarted calls run again under their own number.
fn restart_syscall(_: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Err(Errno::INTR.into())
}
