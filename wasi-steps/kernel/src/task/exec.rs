//! The point of no return of `execve`: from an old program to a loaded one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Task, exit};
use crate::cx::Cx;
use crate::exec::LoadedProgram;
use crate::signal::{AlternateStack, signal};
use crate::syscalls::{SysError, SysResult, release_locks};
use crate::wait::lock;

/// Ends all other threads and makes the caller the only one, with the id of the process.
///
/// Fails when the process is ending already, or another thread does the same: then this thread ends as well.
fn become_only_thread(task: &Arc<Task>) -> Result<(), SysError> {
    let process = task.process();
    {
        let mut state = lock(&process.state);
        if state.exiting.is_some() || state.executing {
            return Err(SysError::Restart);
        }
        if state.threads.len() > 1 {
            state.executing = true;
            state.threads.iter().filter(|other| !Arc::ptr_eq(other, task)).for_each(|other| other.kill());
        }
    }
    let alone = || (lock(&process.state).threads.len() == 1).then_some(());
    let waited = task.wait_killable(&[&process.state_changed], alone);
    lock(&process.state).executing = false;
    waited?;
    if task.tid() != process.pid() {
        let mut table = lock(&task.kernel().table);
        table.tasks.remove(&task.tid());
        task.set_tid(process.pid());
        table.tasks.insert(process.pid(), task.clone());
    }
    Ok(())
}

/// Switches the caller over to `program`.
pub(crate) fn commit(cx: &mut Cx<'_>, program: LoadedProgram) -> SysResult {
    let task = cx.task;
    become_only_thread(task)?;
    exit::release_memory(task, cx.space);
    let process = task.process();
    let old = task.set_space(program.space.clone());
    program.space.join(task);
    *cx.space = program.space;
    drop(old);
    if let Some(node) = lock(&task.kernel().table).processes.get_mut(&process.pid()) {
        // As Linux: whatever `clone` was told, a program's end is told by `SIGCHLD`, and a parent that
        // goes on now can wait for it.
        node.exit_signal = signal::CHLD;
    }
    exit::release_vfork(task);
    let files = task.files();
    let files = if Arc::strong_count(&files) > 2 {
        let own = files.duplicate();
        task.set_files(own.clone());
        own
    } else {
        files
    };
    for file in files.take_close_on_exec() {
        release_locks(task.kernel(), files.id(), &file);
    }
    let actions = lock(&process.actions()).copy();
    lock(&actions).reset_handlers();
    process.set_actions(actions);
    *lock(&task.alternate_stack) = AlternateStack::NONE;
    if program.secure {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    process.dumpable.store(u32::from(!program.secure), Ordering::Relaxed);
    task.set_credentials(program.credentials);
    task.set_name(&program.name);
    lock(&process.program).executable = Some(program.executable);
    process.has_executed.store(true, Ordering::Relaxed);
    crate::time::forget_timers(process);
    *cx.cpu = program.cpu;
    Err(SysError::NoReturn)
}
