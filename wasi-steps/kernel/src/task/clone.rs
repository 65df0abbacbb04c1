//! `clone`, `fork`, `vfork`: new threads and processes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bitflags::bitflags;
use cooper_vfs::{Capabilities, Errno};
use cooper_x86::state::register;

use super::process::ExitStatus;
use super::table::Node;
use super::{Process, Task, TaskParts, VforkDone, run};
use crate::cx::Cx;
use crate::files::description::{Description, status};
use crate::files::process::ProcessFile;
use crate::kernel::LimitKind;
use crate::signal::AlternateStack;
use crate::syscalls::SysError;
use crate::task::limits::resource;
use crate::time;
use crate::wait::lock;

bitflags! {
    /// Flags of `clone`, with Linux's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct CloneFlags: u64 {
        const VM = 0x100;
        const FS = 0x200;
        const FILES = 0x400;
        const SIGHAND = 0x800;
        const PIDFD = 0x1000;
        const PTRACE = 0x2000;
        const VFORK = 0x4000;
        const PARENT = 0x8000;
        const THREAD = 0x1_0000;
        const NEWNS = 0x2_0000;
        const SYSVSEM = 0x4_0000;
        const SETTLS = 0x8_0000;
        const PARENT_SETTID = 0x10_0000;
        const CHILD_CLEARTID = 0x20_0000;
        const DETACHED = 0x40_0000;
        const UNTRACED = 0x80_0000;
        const CHILD_SETTID = 0x100_0000;
        const NEWCGROUP = 0x200_0000;
        const NEWUTS = 0x400_0000;
        const NEWIPC = 0x800_0000;
        const NEWUSER = 0x1000_0000;
        const NEWPID = 0x2000_0000;
        const NEWNET = 0x4000_0000;
        const IO = 0x8000_0000;
        const CLEAR_SIGHAND = 0x1_0000_0000;
        const INTO_CGROUP = 0x2_0000_0000;
        const _ = !0;
    }
}

impl CloneFlags {
    /// New namespaces, which a container without `CAP_SYS_ADMIN` cannot make.
    pub(crate) const NAMESPACES: Self = Self::NEWNS
        .union(Self::NEWCGROUP)
        .union(Self::NEWUTS)
        .union(Self::NEWIPC)
        .union(Self::NEWUSER)
        .union(Self::NEWPID)
        .union(Self::NEWNET);
}

/// What `clone` or `clone3` was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloneRequest {
    pub(crate) flags: CloneFlags,
    /// New stack pointer; 0 keeps the old one.
    pub(crate) stack: u64,
    pub(crate) exit_signal: u32,
    pub(crate) parent_tid: u64,
    pub(crate) child_tid: u64,
    pub(crate) tls: u64,
    /// Where the descriptor of `CLONE_PIDFD` is stored.
    pub(crate) pidfd: u64,
}

/// Makes a new thread or process and returns its id.
///
/// `EINVAL` for flags that contradict each other; `EPERM` for namespaces; `EAGAIN` when there are too many tasks;
/// `ENOMEM`.
pub(crate) fn clone(cx: &mut Cx<'_>, request: CloneRequest) -> Result<u64, SysError> {
    let flags = request.flags;
    check(cx, request)?;
    let space =
        if flags.contains(CloneFlags::VM) { cx.space.clone() } else { Arc::new(cx.space.duplicate()?) };
    let child = register_task(cx, request, &space)?;
    let tid = child.tid();
    let started = prepare_and_start(cx, request, &child, space);
    if let Err(errno) = started {
        undo(cx, &child);
        return Err(errno.into());
    }
    if flags.contains(CloneFlags::VFORK) {
        wait_for_vfork(cx.task, &child);
    }
    Ok(u64::from(tid))
}

fn check(cx: &Cx<'_>, request: CloneRequest) -> Result<(), Errno> {
    let flags = request.flags;
    let implies = |one: CloneFlags, other: CloneFlags| !flags.contains(one) || flags.contains(other);
    let sound = implies(CloneFlags::THREAD, CloneFlags::SIGHAND)
        && implies(CloneFlags::SIGHAND, CloneFlags::VM)
        && !(flags.contains(CloneFlags::SIGHAND) && flags.contains(CloneFlags::CLEAR_SIGHAND))
        && !(flags.contains(CloneFlags::THREAD) && flags.contains(CloneFlags::PIDFD))
        && !(flags.contains(CloneFlags::PARENT) && cx.process().is_init())
        && request.exit_signal <= 64;
    if !sound || flags.intersects(CloneFlags::INTO_CGROUP) {
        return Err(Errno::INVAL);
    }
    if flags.intersects(CloneFlags::NAMESPACES) && !cx.credentials().holds(Capabilities::SYS_ADMIN) {
        return Err(Errno::PERM);
    }
    if flags.intersects(CloneFlags::NAMESPACES) {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// Makes the task and, for a process, its node, and puts both into the lists.
fn register_task(
    cx: &Cx<'_>,
    request: CloneRequest,
    space: &Arc<crate::memory::AddressSpace>,
) -> Result<Arc<Task>, SysError> {
    let (kernel, task, flags) = (cx.kernel, cx.task, request.flags);
    let parent = cx.process();
    let files = if flags.contains(CloneFlags::FILES) { task.files() } else { task.files().duplicate() };
    let fs = if flags.contains(CloneFlags::FS) { task.fs() } else { task.fs().duplicate() };
    let mut table = lock(&kernel.table);
    if table.ending {
        return Err(Errno::AGAIN.into());
    }
    // As Linux: who was killed has no more children, or `kill(0, SIGKILL)` would never catch the last of them.
    if lock(&parent.state).exiting.is_some() {
        return Err(SysError::Restart);
    }
    let user_limit = parent.limit(resource::NPROC);
    let count = table.task_count();
    if count >= kernel.limits.tasks {
        kernel.limit_reached(LimitKind::Tasks);
        return Err(Errno::AGAIN.into());
    }
    if count as u64 >= user_limit && task.credentials().user.real != 0 {
        return Err(Errno::AGAIN.into());
    }
    let tid = table.allocate()?;
    let process = if flags.contains(CloneFlags::THREAD) {
        parent.clone()
    } else {
        let actions = if flags.contains(CloneFlags::SIGHAND) {
            parent.actions()
        } else {
            let copy = lock(&parent.actions()).copy();
            if flags.contains(CloneFlags::CLEAR_SIGHAND) {
                lock(&copy).reset_handlers();
            }
            copy
        };
        let limits = lock(&parent.limits).clone();
        let program = lock(&parent.program).clone();
        Process::new(tid, actions, limits, program)
    };
    let child = Task::new(
        kernel.clone(),
        TaskParts {
            tid,
            process: process.clone(),
            space: space.clone(),
            files,
            fs,
            credentials: task.credentials(),
            mask: task.saved_or_current_mask(),
            name: task.name(),
        },
    );
    child.no_new_privileges.store(task.no_new_privileges.load(Ordering::Relaxed), Ordering::Relaxed);
    child.timer_slack.store(task.timer_slack.load(Ordering::Relaxed), Ordering::Relaxed);
    {
        let mut state = lock(&process.state);
        if flags.contains(CloneFlags::THREAD) && (state.exiting.is_some() || state.executing) {
            return Err(SysError::Restart);
        }
        state.threads.push(child.clone());
    }
    if !flags.contains(CloneFlags::THREAD) {
        process.nice.store(parent.nice.load(Ordering::Relaxed), Ordering::Relaxed);
        process.dumpable.store(parent.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
        let own = table.process(parent.pid()).ok_or(Errno::SRCH)?;
        let (group, session, grandparent) = (own.group, own.session, own.parent);
        let parent_pid = if flags.contains(CloneFlags::PARENT) { grandparent } else { parent.pid() };
        table.insert(Node {
            process,
            parent: parent_pid,
            children: std::collections::BTreeSet::new(),
            group,
            session,
            zombie: None,
            exit_signal: request.exit_signal,
            report: None,
            uid: task.credentials().user.real,
        });
    }
    table.tasks.insert(tid, child.clone());
    Ok(child)
}

fn prepare_and_start(
    cx: &mut Cx<'_>,
    request: CloneRequest,
    child: &Arc<Task>,
    space: Arc<crate::memory::AddressSpace>,
) -> Result<(), Errno> {
    let flags = request.flags;
    let tid = child.tid();
    if flags.contains(CloneFlags::PARENT_SETTID) {
        cx.memory().store(request.parent_tid, tid)?;
    }
    if flags.contains(CloneFlags::PIDFD) {
        let object = ProcessFile::new(child.process().clone(), cx.kernel.clone());
        let description = Description::new(Box::new(object), status::READ_WRITE, None);
        let number = cx.files().insert(description, 0, true, cx.process().limit(resource::NOFILE))?;
        cx.memory().store(request.pidfd, number)?;
    }
    if flags.contains(CloneFlags::CHILD_SETTID) {
        // As Linux: a child that cannot store its id runs all the same.
        let _ = space.store(request.child_tid, tid);
    }
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        child.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
    }
    if flags.contains(CloneFlags::VFORK) {
        *lock(&child.vfork_done) = Some(Arc::new(VforkDone::default()));
    }
    let inherits_stack = !flags.contains(CloneFlags::VM) || flags.contains(CloneFlags::VFORK);
    if inherits_stack {
        *lock(&child.alternate_stack) = *lock(&cx.task.alternate_stack);
    } else {
        *lock(&child.alternate_stack) = AlternateStack::NONE;
    }
    if !flags.contains(CloneFlags::THREAD) {
        let limit = lock(&child.process().limits).get(resource::CPU as u64)?;
        time::limit_cpu(&cx.kernel.timers, child.process(), limit)?;
    }
    let mut cpu = cx.cpu.clone();
    cpu.gpr[register::RAX] = 0;
    if request.stack != 0 {
        cpu.gpr[register::RSP] = request.stack;
    }
    if flags.contains(CloneFlags::SETTLS) {
        cpu.fs_base = request.tls;
    }
    run::start(child.clone(), cpu, space)
}

/// Takes a task that never ran out of the lists.
fn undo(cx: &Cx<'_>, child: &Arc<Task>) {
    let mut table = lock(&cx.kernel.table);
    table.tasks.remove(&child.tid());
    lock(&child.process().state).threads.retain(|task| !Arc::ptr_eq(task, child));
    if !Arc::ptr_eq(child.process(), cx.process()) {
        if let Some(node) = table.processes.get_mut(&child.tid()) {
            node.zombie = Some(ExitStatus::Code(0));
        }
        table.remove(child.tid());
    }
}

/// Waits until a `vfork` child has its own memory or has ended.
fn wait_for_vfork(task: &Task, child: &Arc<Task>) {
    let Some(done) = lock(&child.vfork_done).clone() else { return };
    let free = || done.done.load(Ordering::SeqCst).then_some(());
    // If this thread is killed meanwhile, the child keeps the memory alive by itself.
    let _ = task.wait_killable(&[&done.queue], free);
}
