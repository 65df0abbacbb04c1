//! How threads and processes end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::process::ExitStatus;
use super::table::{Report, Table};
use super::{Process, Task};
use crate::files::table::DescriptorTable;
use crate::futex;
use crate::kernel::Kernel;
use crate::memory::AddressSpace;
use crate::signal::pending::code;
use crate::signal::{Detail, SIG_IGN, SignalInfo, action_flag, send, signal};
use crate::wait::lock;

/// The most entries of a robust list that are looked at (`ROBUST_LIST_LIMIT`).
const ROBUST_LIMIT: usize = 2048;

/// What a thread does with its memory when it leaves it: robust futexes, the word of `set_tid_address`.
pub(crate) fn release_memory(task: &Task, space: &AddressSpace) {
    let head = task.robust_list.swap(0, Ordering::Relaxed);
    if head != 0 {
        // A list that cannot be read is the program's own trouble.
        let _ = release_robust_list(task, space, head);
    }
    let word = task.clear_child_tid.swap(0, Ordering::Relaxed);
    if word != 0 && space.store(word, 0u32).is_ok() {
        for private in [true, false] {
            if let Ok(key) = space.futex_key(word, private) {
                task.kernel().futexes.wake(key, 1, futex::ANY);
            }
        }
    }
}

fn release_robust_list(task: &Task, space: &AddressSpace, head: u64) -> Result<(), cooper_vfs::Errno> {
    let [first, offset, pending]: [u64; 3] = space.load(head)?;
    let mut entry = first;
    for _ in 0..ROBUST_LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = space.load::<u64>(entry & !1)?;
        if entry != pending {
            release_robust_futex(task, space, (entry & !1).wrapping_add(offset))?;
        }
        entry = next;
    }
    if pending != 0 {
        release_robust_futex(task, space, (pending & !1).wrapping_add(offset))?;
    }
    Ok(())
}

fn release_robust_futex(task: &Task, space: &AddressSpace, address: u64) -> Result<(), cooper_vfs::Errno> {
    let own = |word: u32| word & futex::TID_MASK == task.tid();
    let died = |word: u32| if own(word) { word & futex::WAITERS | futex::OWNER_DIED } else { word };
    let old = space.memory.fetch_update(address, died).map_err(|_| cooper_vfs::Errno::FAULT)?;
    if own(old) && old & futex::WAITERS != 0 {
        for private in [true, false] {
            task.kernel().futexes.wake(space.futex_key(address, private)?, 1, futex::ANY);
        }
    }
    Ok(())
}

/// Lets the parent of a `vfork` go on.
pub(crate) fn release_vfork(task: &Task) {
    if let Some(done) = lock(&task.vfork_done).take() {
        done.release();
    }
}

/// Takes a thread out of its process and out of the table; the last one ends the process.
///
/// `code` is what the thread exited with by itself; it counts when the group does not end for another reason.
pub(crate) fn leave(task: &Arc<Task>, space: Arc<AddressSpace>, own: ExitStatus) {
    let kernel = task.kernel().clone();
    let process = task.process().clone();
    release_memory(task, &space);
    // The last owner closes everything and so lets go of locks and peers.
    drop(task.set_files(DescriptorTable::new()));
    drop(space);
    task.drop_space();
    release_vfork(task);
    let (last, status) = {
        let mut state = lock(&process.state);
        state.threads.retain(|other| !Arc::ptr_eq(other, task));
        lock(&process.times).ended_threads += task.clock.read();
        (state.threads.is_empty(), state.exiting.unwrap_or(own))
    };
    if last {
        end_process(&kernel, &process, status);
    }
    {
        // A thread that executes a program may have taken over the number already.
        let mut table = lock(&kernel.table);
        let tid = task.tid();
        if table.tasks.get(&tid).is_some_and(|entry| Arc::ptr_eq(entry, task)) {
            table.tasks.remove(&tid);
        }
    }
    process.state_changed.wake_all();
    kernel.task_left.notify_all();
}

/// Makes a process without threads a zombie, gives its children away and tells its parent.
fn end_process(kernel: &Arc<Kernel>, process: &Arc<Process>, status: ExitStatus) {
    crate::time::end_timers(&kernel.timers, process);
    let pid = process.pid();
    let sets: Vec<_> = lock(&kernel.semaphores).iter().map(|(_, set)| set.clone()).collect();
    sets.iter().for_each(|set| set.process_ended(pid));
    let mut table = lock(&kernel.table);
    if pid == 1 {
        table.ending = true;
        let others = table.processes.values().filter(|node| node.process.pid() != 1);
        others.for_each(|node| node.process.begin_exit(ExitStatus::Signal(signal::KILL as u8)));
    }
    // Who leads a session takes its terminal away from everybody in it.
    let leads = table.process(pid).is_some_and(|node| node.session == pid);
    if let Some(group) = leads.then(|| kernel.registry.terminals.leave(pid)).flatten() {
        let members: Vec<Arc<Process>> = table.group(group).map(|node| node.process.clone()).collect();
        for member in members.iter().filter(|member| member.pid() != pid) {
            send::to_process_locked(&mut table, member, SignalInfo::kernel(signal::HUP));
            send::to_process_locked(&mut table, member, SignalInfo::kernel(signal::CONT));
        }
    }
    orphan_children(&mut table, pid);
    if let Some(node) = table.processes.get_mut(&pid) {
        node.zombie = Some(status);
        node.report = None;
    }
    notify_parent(&mut table, pid);
}

/// Gives the children of `pid` to the nearest subreaper above it, or to the first process.
fn orphan_children(table: &mut Table, pid: u32) {
    let Some(node) = table.processes.get_mut(&pid) else { return };
    let children = std::mem::take(&mut node.children);
    if children.is_empty() {
        return;
    }
    let heir = find_heir(table, pid);
    let groups: BTreeSet<u32> =
        children.iter().filter_map(|child| table.process(*child).map(|node| node.group)).collect();
    for child in &children {
        let Some(node) = table.processes.get_mut(child) else { continue };
        node.parent = heir;
        node.exit_signal = signal::CHLD;
        for task in node.process.threads() {
            let number = task.parent_death_signal.load(Ordering::Relaxed);
            if (1..=64).contains(&number) {
                send::to_task(&task, SignalInfo::user(number, code::USER, pid, 0));
            }
        }
    }
    if let Some(heir) = table.processes.get_mut(&heir) {
        heir.children.extend(&children);
    }
    for child in children {
        if table.process(child).is_some_and(|node| node.zombie.is_some()) {
            notify_parent(table, child);
        }
    }
    for group in groups {
        hang_up_orphans(table, group);
    }
}

fn find_heir(table: &Table, pid: u32) -> u32 {
    let mut at = table.process(pid).map_or(1, |node| node.parent);
    while at > 1 {
        let Some(node) = table.process(at) else { return 1 };
        if node.process.subreaper.load(Ordering::Relaxed) && node.zombie.is_none() {
            return at;
        }
        at = node.parent;
    }
    1
}

/// A stopped job that nobody can continue any more gets `SIGHUP` and `SIGCONT`.
fn hang_up_orphans(table: &mut Table, group: u32) {
    if !table.is_orphaned(group) {
        return;
    }
    let members: Vec<Arc<Process>> = table.group(group).map(|node| node.process.clone()).collect();
    if members.iter().any(|process| lock(&process.state).stopped.is_some()) {
        for process in members {
            send::to_process(&process, SignalInfo::kernel(signal::HUP));
            send::to_process_locked(table, &process, SignalInfo::kernel(signal::CONT));
        }
    }
}

/// Sends the exit signal of a zombie and wakes a waiting parent; a parent that does not want zombies has it removed.
fn notify_parent(table: &mut Table, pid: u32) {
    let Some(node) = table.process(pid) else { return };
    let (number, parent_pid, uid) = (node.exit_signal, node.parent, node.uid);
    let Some(status) = node.zombie else { return };
    let used = node.process.cpu_time();
    let Some(parent) = table.process(parent_pid).map(|node| node.process.clone()) else {
        if pid != 1 {
            table.remove(pid);
        }
        return;
    };
    let action = lock(&parent.actions()).get(signal::CHLD);
    let ignored = action.handler == SIG_IGN;
    let unwanted = number == signal::CHLD && (ignored || action.flags & action_flag::NOCLDWAIT != 0);
    if number != 0 && !(number == signal::CHLD && ignored) {
        let detail = Detail::Child {
            pid,
            uid,
            status: match status {
                ExitStatus::Code(code) => i32::from(code),
                ExitStatus::Signal(number) | ExitStatus::Core(number) => i32::from(number),
            },
            user_ticks: ticks(used.user),
            system_ticks: ticks(used.system),
        };
        let cause = match status {
            ExitStatus::Code(_) => code::EXITED,
            // No core is written, so nothing says that one was.
            ExitStatus::Signal(_) | ExitStatus::Core(_) => code::KILLED,
        };
        send::to_process(&parent, SignalInfo { number, errno: 0, code: cause, detail });
    }
    if unwanted {
        table.remove(pid);
    }
    parent.children_changed.wake_all();
    if let Some(node) = table.process(pid) {
        node.process.state_changed.wake_all();
    }
}

/// Tells the parent that a process has stopped or goes on (`SIGCHLD`, `WUNTRACED`, `WCONTINUED`).
pub(crate) fn report_to_parent(table: &mut Table, pid: u32, report: Report) {
    let Some(node) = table.processes.get_mut(&pid) else { return };
    node.report = Some(report);
    let (parent_pid, uid) = (node.parent, node.uid);
    let Some(parent) = table.process(parent_pid).map(|node| node.process.clone()) else { return };
    let action = lock(&parent.actions()).get(signal::CHLD);
    if action.handler != SIG_IGN && action.flags & action_flag::NOCLDSTOP == 0 {
        let (code, status) = match report {
            Report::Stopped(number) => (code::STOPPED, number as i32),
            Report::Continued => (code::CONTINUED, signal::CONT as i32),
        };
        let detail = Detail::Child { pid, uid, status, user_ticks: 0, system_ticks: 0 };
        send::to_process(&parent, SignalInfo { number: signal::CHLD, errno: 0, code, detail });
    }
    parent.children_changed.wake_all();
}

/// Clock ticks of 10 ms, as `times` and `siginfo_t` count.
pub(crate) fn ticks(time: Duration) -> i64 {
    (time.as_millis() / 10) as i64
}
