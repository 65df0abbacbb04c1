//! Processes and threads: making, ending, waiting, who belongs to whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cooper_vfs::{Capabilities, Errno, Follow, Position};

use super::{Entry, SysError, SysResult, full, partial, stub};
use crate::cputime::CpuTime;
use crate::cx::{AT_FDCWD, Cx};
use crate::exec::{self, ExecRequest, LoadError, MAX_STRING, MAX_STRINGS};
use crate::files::Kind;
use crate::signal::{Detail, SignalInfo, signal};
use crate::task::clone::{CloneFlags, CloneRequest};
use crate::task::limits::{Limit, resource};
use crate::task::table::{Node, Table};
use crate::task::wait4::{self, Heard, WaitOptions, Which};
use crate::task::{ExitStatus, Process, Task, clone, run};
use crate::time;
use crate::wait::lock;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(39, "getpid", getpid),
    partial(56, "clone", sys_clone, "no new namespaces, no tracing"),
    full(57, "fork", fork),
    full(58, "vfork", vfork),
    full(59, "execve", execve),
    full(60, "exit", exit),
    full(61, "wait4", sys_wait4),
    full(109, "setpgid", setpgid),
    full(110, "getppid", getppid),
    full(111, "getpgrp", getpgrp),
    full(112, "setsid", setsid),
    full(121, "getpgid", getpgid),
    full(124, "getsid", getsid),
    full(95, "umask", |cx, [mask, ..]| Ok(cx.fs().set_umask(mask as u32).into())),
    partial(97, "getrlimit", getrlimit, "see prlimit64"),
    partial(
        98,
        "getrusage",
        getrusage,
        "processor time and peak memory; other figures are 0; time counts as user time",
    ),
    full(100, "times", times),
    partial(
        157,
        "prctl",
        prctl,
        "what programs use; tracing, speculation and memory layout options are EINVAL",
    ),
    partial(158, "arch_prctl", arch_prctl, "FS and GS base; shadow stacks and CPUID faulting are refused"),
    partial(160, "setrlimit", setrlimit, "see prlimit64"),
    full(186, "gettid", gettid),
    full(218, "set_tid_address", set_tid_address),
    full(231, "exit_group", exit_group),
    full(247, "waitid", waitid),
    partial(272, "unshare", unshare, "files and fs; namespaces are EPERM"),
    full(273, "set_robust_list", set_robust_list),
    full(274, "get_robust_list", get_robust_list),
    partial(
        302,
        "prlimit64",
        prlimit64,
        "CPU, FSIZE, STACK, DATA, NOFILE, NPROC and CORE act; RSS and the rest are kept only",
    ),
    full(322, "execveat", execveat),
    partial(435, "clone3", clone3, "no new namespaces, no set_tid, no cgroup"),
    stub(
        135,
        "personality",
        personality,
        "only the default, PER_LINUX, and ADDR_NO_RANDOMIZE, which holds anyway",
    ),
];

fn getpid(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Ok(cx.process().pid().into())
}

fn gettid(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Ok(cx.task.tid().into())
}

fn with_own_node<T>(cx: &Cx<'_>, use_node: impl FnOnce(&Node) -> T) -> Result<T, SysError> {
    let table = lock(&cx.kernel.table);
    table.process(cx.process().pid()).map(use_node).ok_or(SysError::Errno(Errno::SRCH))
}

fn getppid(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    with_own_node(cx, |node| node.parent.into())
}

fn getpgrp(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    with_own_node(cx, |node| node.group.into())
}

/// The node of `pid`, or of the caller for 0. `ESRCH` when there is none.
fn node_of<'t>(cx: &Cx<'_>, table: &'t Table, pid: u64) -> Result<&'t Node, Errno> {
    let pid = if pid as i32 == 0 { cx.process().pid() } else { pid as u32 };
    table.process(pid).ok_or(Errno::SRCH)
}

fn getpgid(cx: &mut Cx<'_>, [pid, ..]: [u64; 6]) -> SysResult {
    let table = lock(&cx.kernel.table);
    Ok(node_of(cx, &table, pid)?.group.into())
}

fn getsid(cx: &mut Cx<'_>, [pid, ..]: [u64; 6]) -> SysResult {
    let table = lock(&cx.kernel.table);
    Ok(node_of(cx, &table, pid)?.session.into())
}

fn setpgid(cx: &mut Cx<'_>, [pid, group, ..]: [u64; 6]) -> SysResult {
    let own = cx.process().pid();
    let target = if pid as i32 == 0 { own } else { pid as u32 };
    let group = if group as i32 == 0 { target } else { group as u32 };
    if (group as i32) < 0 {
        return Err(Errno::INVAL.into());
    }
    let mut table = lock(&cx.kernel.table);
    let own_session = table.process(own).ok_or(Errno::SRCH)?.session;
    let node = table.process(target).ok_or(Errno::SRCH)?;
    if target != own {
        if node.parent != own {
            return Err(Errno::SRCH.into());
        }
        if node.session != own_session {
            return Err(Errno::PERM.into());
        }
        if node.process.has_executed.load(Ordering::Relaxed) {
            return Err(Errno::ACCESS.into());
        }
    }
    if node.session == target {
        return Err(Errno::PERM.into());
    }
    if group != target && !table.group(group).any(|member| member.session == own_session) {
        return Err(Errno::PERM.into());
    }
    if let Some(node) = table.processes.get_mut(&target) {
        node.group = group;
    }
    Ok(0)
}

fn setsid(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    let own = cx.process().pid();
    let mut table = lock(&cx.kernel.table);
    if table.group(own).next().is_some() {
        return Err(Errno::PERM.into());
    }
    let node = table.processes.get_mut(&own).ok_or(Errno::SRCH)?;
    (node.group, node.session) = (own, own);
    Ok(own.into())
}

fn fork(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    clone::clone(cx, simple(CloneFlags::empty()))
}

fn vfork(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    clone::clone(cx, simple(CloneFlags::VM | CloneFlags::VFORK))
}

fn simple(flags: CloneFlags) -> CloneRequest {
    CloneRequest { flags, stack: 0, exit_signal: signal::CHLD, parent_tid: 0, child_tid: 0, tls: 0, pidfd: 0 }
}

fn sys_clone(cx: &mut Cx<'_>, [flags, stack, parent_tid, child_tid, tls, _]: [u64; 6]) -> SysResult {
    let request = CloneRequest {
        flags: CloneFlags::from_bits_retain(flags & 0xffff_ff00),
        stack,
        exit_signal: (flags & 0xff) as u32,
        parent_tid,
        child_tid,
        tls,
        pidfd: parent_tid,
    };
    let both = CloneFlags::PIDFD | CloneFlags::PARENT_SETTID;
    if request.flags.contains(both) {
        return Err(Errno::INVAL.into());
    }
    clone::clone(cx, request)
}

fn clone3(cx: &mut Cx<'_>, [address, size, ..]: [u64; 6]) -> SysResult {
    /// Sizes of `struct clone_args`: the first version and ours.
    const SIZES: (u64, u64) = (64, 88);
    if size > 4096 {
        return Err(Errno::TOOBIG.into());
    }
    if size < SIZES.0 {
        return Err(Errno::INVAL.into());
    }
    let bytes = cx.memory().read_vec(address, size as usize)?;
    let word = |index: usize| {
        let mut own = [0; 8];
        let at = index * 8;
        let end = bytes.len().min(at + 8);
        if at < end {
            own[..end - at].copy_from_slice(&bytes[at..end]);
        }
        u64::from_le_bytes(own)
    };
    if bytes.iter().skip(SIZES.1 as usize).any(|byte| *byte != 0) {
        return Err(Errno::TOOBIG.into());
    }
    let (stack, stack_size, set_tid) = (word(5), word(6), word(8));
    if (stack == 0) != (stack_size == 0) || set_tid != 0 || word(4) > 64 || word(0) & 0xff != 0 {
        return Err(Errno::INVAL.into());
    }
    let flags = CloneFlags::from_bits_retain(word(0));
    if flags.contains(CloneFlags::DETACHED) {
        return Err(Errno::INVAL.into());
    }
    let request = CloneRequest {
        flags,
        stack: stack.wrapping_add(stack_size),
        exit_signal: word(4) as u32,
        parent_tid: word(3),
        child_tid: word(2),
        tls: word(7),
        pidfd: word(1),
    };
    clone::clone(cx, request)
}

fn unshare(cx: &mut Cx<'_>, [flags, ..]: [u64; 6]) -> SysResult {
    let flags = CloneFlags::from_bits_retain(flags);
    let known = CloneFlags::FS | CloneFlags::FILES | CloneFlags::SYSVSEM | CloneFlags::NAMESPACES;
    let alone = CloneFlags::THREAD | CloneFlags::SIGHAND | CloneFlags::VM;
    if flags.intersects(alone) && cx.process().threads().len() > 1 {
        return Err(Errno::INVAL.into());
    }
    if !(known | alone).contains(flags) {
        return Err(Errno::INVAL.into());
    }
    if flags.intersects(CloneFlags::NAMESPACES) {
        return Err(Errno::PERM.into());
    }
    if flags.contains(CloneFlags::FILES) {
        let own = cx.files().duplicate();
        drop(cx.task.set_files(own));
    }
    if flags.contains(CloneFlags::FS) {
        cx.task.set_fs(cx.fs().duplicate());
    }
    Ok(0)
}

/// Reads a null-terminated array of strings. `E2BIG` when there is more than any program can get.
fn read_strings(cx: &Cx<'_>, address: u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    let mut total = 0;
    if address == 0 {
        // Linux takes a null array as an empty one.
        return Ok(strings);
    }
    loop {
        let pointer: u64 = cx.memory().load(address.wrapping_add(8 * strings.len() as u64))?;
        if pointer == 0 {
            break;
        }
        let string = cx.memory().read_c_string(pointer, MAX_STRING).map_err(|errno| match errno {
            Errno::NAMETOOLONG => Errno::TOOBIG,
            errno => errno,
        })?;
        total += string.len() as u64 + 9;
        if total > MAX_STRINGS {
            return Err(Errno::TOOBIG);
        }
        strings.push(string);
    }
    Ok(strings)
}

fn execve(cx: &mut Cx<'_>, [path, arguments, environment, ..]: [u64; 6]) -> SysResult {
    let path = cx.path(path)?;
    let position = cx.kernel.root_fs.resolve(&cx.walk(), &cx.cwd(), &path, Follow::Yes)?;
    execute(cx, position, path, arguments, environment)
}

fn execveat(cx: &mut Cx<'_>, [fd, path, arguments, environment, flags, _]: [u64; 6]) -> SysResult {
    const EMPTY_PATH: u64 = 0x1000;
    const NOFOLLOW: u64 = 0x100;
    if flags & !(EMPTY_PATH | NOFOLLOW) != 0 {
        return Err(Errno::INVAL.into());
    }
    let path = cx.path(path)?;
    let fd = fd as i32;
    if path.is_empty() {
        if flags & EMPTY_PATH == 0 {
            return Err(Errno::NOENT.into());
        }
        let position = cx.file(fd as u64)?.position().cloned().ok_or(Errno::ACCESS)?;
        return execute(cx, position, format!("/dev/fd/{fd}").into_bytes(), arguments, environment);
    }
    let absolute = path.starts_with(b"/");
    let base = if absolute || fd == AT_FDCWD {
        cx.cwd()
    } else {
        cx.file(fd as u64)?.position().cloned().ok_or(Errno::NOTDIR)?
    };
    let follow = if flags & NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
    let position = cx.kernel.root_fs.resolve(&cx.walk(), &base, &path, follow)?;
    if position.kind() == cooper_vfs::FileKind::Symlink {
        return Err(Errno::LOOP.into());
    }
    let mut name = path;
    if !absolute && fd != AT_FDCWD {
        name = [format!("/dev/fd/{fd}/").into_bytes(), name].concat();
    }
    execute(cx, position, name, arguments, environment)
}

fn execute(
    cx: &mut Cx<'_>,
    position: Position,
    path: Vec<u8>,
    arguments: u64,
    environment: u64,
) -> SysResult {
    exec::check_executable(&cx.walk(), &position)?;
    let mut arguments = read_strings(cx, arguments)?;
    if arguments.is_empty() {
        // As Linux since 5.18: a program always has a name.
        arguments.push(Vec::new());
    }
    let environment = read_strings(cx, environment)?;
    let request = ExecRequest {
        position,
        path,
        arguments,
        environment,
        walk: cx.walk(),
        cwd: cx.cwd(),
        credentials: cx.credentials(),
        no_new_privileges: cx.task.no_new_privileges.load(Ordering::Relaxed),
        stack_limit: cx.process().limit(resource::STACK),
    };
    let program = match exec::load(cx.kernel, request) {
        Ok(program) => program,
        Err(LoadError::Errno(errno)) => return Err(errno.into()),
        Err(LoadError::Fatal) => {
            cx.process().begin_exit(ExitStatus::Core(signal::SEGV as u8));
            return Err(SysError::NoReturn);
        }
    };
    crate::task::exec::commit(cx, program)
}

fn exit(cx: &mut Cx<'_>, [code, ..]: [u64; 6]) -> SysResult {
    run::exit_thread(cx.task, code as u8);
    Err(SysError::NoReturn)
}

fn exit_group(cx: &mut Cx<'_>, [code, ..]: [u64; 6]) -> SysResult {
    run::exit_group(cx.task, code as u8);
    Err(SysError::NoReturn)
}

fn sys_wait4(cx: &mut Cx<'_>, [pid, status, options, usage, ..]: [u64; 6]) -> SysResult {
    let options = WaitOptions::from_bits(options as u32).ok_or(Errno::INVAL)?;
    if options.intersects(WaitOptions::EXITED | WaitOptions::NOWAIT) {
        return Err(Errno::INVAL.into());
    }
    let which = match pid as i32 {
        -1 => Which::Any,
        0 => Which::Group(with_own_node(cx, |node| node.group)?),
        i32::MIN => return Err(Errno::SRCH.into()),
        pid if pid < 0 => Which::Group(pid.unsigned_abs()),
        pid => Which::Process(pid as u32),
    };
    let Some(heard) = wait4::wait(cx, which, options | WaitOptions::EXITED)? else { return Ok(0) };
    cx.memory().store_optional(status, heard.wait_status())?;
    if usage != 0 {
        cx.memory().store(usage, usage_of(&heard))?;
    }
    Ok(heard.pid.into())
}

fn usage_of(heard: &Heard) -> [u64; 18] {
    usage(heard.cpu + heard.times.children, 0)
}

/// `struct rusage`.
fn usage(time: CpuTime, peak_kilobytes: u64) -> [u64; 18] {
    let mut words = [0; 18];
    (words[0], words[1]) = (time.user.as_secs(), u64::from(time.user.subsec_micros()));
    (words[2], words[3]) = (time.system.as_secs(), u64::from(time.system.subsec_micros()));
    words[4] = peak_kilobytes;
    words
}

fn waitid(cx: &mut Cx<'_>, [class, id, info, options, usage, _]: [u64; 6]) -> SysResult {
    const NONBLOCK: u32 = 0o4000;
    let mut options = WaitOptions::from_bits(options as u32).ok_or(Errno::INVAL)?;
    let events = WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED;
    if !options.intersects(events) {
        return Err(Errno::INVAL.into());
    }
    let mut nonblocking = false;
    let which = match class {
        0 => Which::Any,
        1 if id as i32 > 0 => Which::Process(id as u32),
        2 if id as i32 == 0 => Which::Group(with_own_node(cx, |node| node.group)?),
        2 if id as i32 > 0 => Which::Group(id as u32),
        3 => {
            let file = cx.file(id)?;
            let Kind::Process(process) = file.object().kind() else { return Err(Errno::BADF.into()) };
            nonblocking = file.flags() & NONBLOCK != 0;
            Which::Process(process.process().pid())
        }
        _ => return Err(Errno::INVAL.into()),
    };
    let asked = options.contains(WaitOptions::NOHANG);
    options.set(WaitOptions::NOHANG, asked || nonblocking);
    let heard = wait4::wait(cx, which, options)?;
    if heard.is_none() && nonblocking && !asked {
        return Err(Errno::AGAIN.into());
    }
    if let (Some(heard), true) = (&heard, usage != 0) {
        cx.memory().store(usage, usage_of(heard))?;
    }
    if info != 0 {
        let bytes = heard.map_or([0; 128], |heard| {
            let (code, status) = heard.code_and_status();
            let detail =
                Detail::Child { pid: heard.pid, uid: heard.uid, status, user_ticks: 0, system_ticks: 0 };
            SignalInfo { number: signal::CHLD, errno: 0, code, detail }.to_bytes()
        });
        cx.memory().write_bytes(info, &bytes)?;
    }
    Ok(0)
}

fn set_tid_address(cx: &mut Cx<'_>, [address, ..]: [u64; 6]) -> SysResult {
    cx.task.clear_child_tid.store(address, Ordering::Relaxed);
    Ok(cx.task.tid().into())
}

/// Size of `struct robust_list_head`.
const ROBUST_HEAD: u64 = 24;

fn set_robust_list(cx: &mut Cx<'_>, [head, size, ..]: [u64; 6]) -> SysResult {
    if size != ROBUST_HEAD {
        return Err(Errno::INVAL.into());
    }
    cx.task.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

fn get_robust_list(cx: &mut Cx<'_>, [pid, head, size, ..]: [u64; 6]) -> SysResult {
    let task = if pid as i32 == 0 { cx.task.clone() } else { task_of(cx, pid)? };
    if !Arc::ptr_eq(task.process(), cx.process()) && !may_inspect(cx, task.process()) {
        return Err(Errno::PERM.into());
    }
    cx.memory().store(size, ROBUST_HEAD)?;
    cx.memory().store(head, task.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}

/// The task with this id. `ESRCH` when there is none.
pub(super) fn task_of(cx: &Cx<'_>, tid: u64) -> Result<Arc<Task>, Errno> {
    let tid = u32::try_from(tid as i32).map_err(|_| Errno::SRCH)?;
    lock(&cx.kernel.table).tasks.get(&tid).cloned().ok_or(Errno::SRCH)
}

/// The process of this id, or the caller's for 0. `ESRCH` when there is none.
pub(super) fn process_of(cx: &Cx<'_>, pid: u64) -> Result<Arc<Process>, Errno> {
    if pid as i32 == 0 {
        return Ok(cx.process().clone());
    }
    let table = lock(&cx.kernel.table);
    let of_task = || table.tasks.get(&(pid as u32)).map(|task| task.process().clone());
    table.process(pid as u32).map(|node| node.process.clone()).or_else(of_task).ok_or(Errno::SRCH)
}

/// Whether the caller may look into or change another process, as `ptrace` would decide.
pub(super) fn may_inspect(cx: &Cx<'_>, process: &Process) -> bool {
    let own = cx.credentials();
    let Some(other) = process.any_thread().map(|task| task.credentials()) else { return true };
    let same = |id: u32, ids: crate::task::credentials::Ids| {
        ids.real == id && ids.effective == id && ids.saved == id
    };
    own.holds(Capabilities::SYS_PTRACE)
        || own.holds(Capabilities::SYS_RESOURCE)
        || (same(own.user.real, other.user) && same(own.group.real, other.group))
}

fn getrlimit(cx: &mut Cx<'_>, [resource, address, ..]: [u64; 6]) -> SysResult {
    let limit = lock(&cx.process().limits).get(resource)?;
    cx.memory().store(address, [limit.soft, limit.hard])?;
    Ok(0)
}

fn setrlimit(cx: &mut Cx<'_>, [resource, address, ..]: [u64; 6]) -> SysResult {
    let [soft, hard]: [u64; 2] = cx.memory().load(address)?;
    change_limit(cx, cx.process(), resource, Limit { soft, hard })?;
    Ok(0)
}

/// Sets a limit; that of processor time is watched by a timer.
fn change_limit(cx: &Cx<'_>, process: &Arc<Process>, number: u64, limit: Limit) -> Result<(), Errno> {
    lock(&process.limits).set(number, limit)?;
    if number == resource::CPU as u64 {
        cx.task.clock.note();
        time::limit_cpu(&cx.kernel.timers, process, limit)?;
    }
    Ok(())
}

fn prlimit64(cx: &mut Cx<'_>, [pid, resource, new, old, ..]: [u64; 6]) -> SysResult {
    let process = process_of(cx, pid)?;
    if !Arc::ptr_eq(&process, cx.process()) && !may_inspect(cx, &process) {
        return Err(Errno::PERM.into());
    }
    let new: Option<[u64; 2]> = if new == 0 { None } else { Some(cx.memory().load(new)?) };
    let before = lock(&process.limits).get(resource)?;
    if let Some([soft, hard]) = new {
        change_limit(cx, &process, resource, Limit { soft, hard })?;
    }
    if old != 0 {
        cx.memory().store(old, [before.soft, before.hard])?;
    }
    Ok(0)
}

fn getrusage(cx: &mut Cx<'_>, [who, address, ..]: [u64; 6]) -> SysResult {
    cx.task.clock.note();
    let peak = cx.memory().charged() / 1024;
    let words = match who as i32 {
        0 => usage(cx.process().cpu_time(), peak),
        -1 => usage(lock(&cx.process().times).children, 0),
        1 => usage(cx.task.clock.read(), peak),
        _ => return Err(Errno::INVAL.into()),
    };
    cx.memory().store(address, words)?;
    Ok(0)
}

fn times(cx: &mut Cx<'_>, [address, ..]: [u64; 6]) -> SysResult {
    cx.task.clock.note();
    if address != 0 {
        cx.memory().store(address, wait4::ticks_of(cx.process()))?;
    }
    Ok((cx.kernel.uptime().as_millis() / 10) as u64)
}

fn personality(_: &mut Cx<'_>, [persona, ..]: [u64; 6]) -> SysResult {
    const QUERY: u64 = 0xffff_ffff;
    const NO_RANDOMIZE: u64 = 0x0004_0000;
    match persona & 0xffff_ffff {
        0 | QUERY | NO_RANDOMIZE => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}

fn arch_prctl(cx: &mut Cx<'_>, [code, address, ..]: [u64; 6]) -> SysResult {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    const USER_END: u64 = 0x7fff_ffff_f000;
    match code {
        SET_GS | SET_FS if address >= USER_END => Err(Errno::PERM.into()),
        SET_GS => {
            cx.cpu.gs_base = address;
            Ok(0)
        }
        SET_FS => {
            cx.cpu.fs_base = address;
            Ok(0)
        }
        GET_FS => {
            cx.memory().store(address, cx.cpu.fs_base)?;
            Ok(0)
        }
        GET_GS => {
            cx.memory().store(address, cx.cpu.gs_base)?;
            Ok(0)
        }
        _ => Err(Errno::INVAL.into()),
    }
}

fn prctl(cx: &mut Cx<'_>, [option, first, second, third, fourth, _]: [u64; 6]) -> SysResult {
    use crate::task::credentials::{SECURE_KEEP_CAPABILITIES, SECURE_NO_AMBIENT_RAISE};
    let task = cx.task;
    let invalid = || Err(Errno::INVAL.into());
    match option {
        // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
        1 if first <= 64 => {
            task.parent_death_signal.store(first as u32, Ordering::Relaxed);
            Ok(0)
        }
        2 => {
            cx.memory().store(first, task.parent_death_signal.load(Ordering::Relaxed))?;
            Ok(0)
        }
        // PR_GET_DUMPABLE, PR_SET_DUMPABLE
        3 => Ok(cx.process().dumpable.load(Ordering::Relaxed).into()),
        4 if first <= 1 => {
            cx.process().dumpable.store(first as u32, Ordering::Relaxed);
            Ok(0)
        }
        // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS
        7 => Ok(u64::from(cx.credentials().secure_bits & SECURE_KEEP_CAPABILITIES != 0)),
        8 if first <= 1 => {
            let mut credentials = (**cx.credentials()).clone();
            credentials.secure_bits &= !SECURE_KEEP_CAPABILITIES;
            if first == 1 {
                credentials.secure_bits |= SECURE_KEEP_CAPABILITIES;
            }
            task.set_credentials(credentials);
            Ok(0)
        }
        // PR_GET_TIMING, PR_SET_TIMING
        13 => Ok(0),
        14 if first == 0 => Ok(0),
        // PR_SET_NAME, PR_GET_NAME
        15 => {
            let mut name = [0; 16];
            let count = cx.memory().read_some(first, &mut name)?;
            let end = name[..count].iter().position(|byte| *byte == 0).unwrap_or(15.min(count));
            task.set_name(&name[..end]);
            Ok(0)
        }
        16 => {
            let mut name = task.name();
            name.resize(16, 0);
            cx.memory().write_bytes(first, &name)?;
            Ok(0)
        }
        // PR_GET_SECCOMP: none
        21 => Ok(0),
        // PR_CAPBSET_READ, PR_CAPBSET_DROP
        23 if first <= u64::from(crate::task::credentials::LAST_CAPABILITY) => {
            Ok(u64::from(cx.credentials().bounding.bits() >> first & 1 != 0))
        }
        24 if first <= u64::from(crate::task::credentials::LAST_CAPABILITY) => {
            let mut credentials = (**cx.credentials()).clone();
            if !credentials.holds(Capabilities::SETPCAP) {
                return Err(Errno::PERM.into());
            }
            credentials.bounding.remove(Capabilities::from_bits_retain(1 << first));
            task.set_credentials(credentials);
            Ok(0)
        }
        // PR_GET_TSC
        25 => {
            cx.memory().store(first, 1u32)?;
            Ok(0)
        }
        // PR_GET_SECUREBITS, PR_SET_SECUREBITS
        27 => Ok(cx.credentials().secure_bits.into()),
        28 => {
            let mut credentials = (**cx.credentials()).clone();
            if !credentials.holds(Capabilities::SETPCAP) || first & !0xff != 0 {
                return Err(Errno::PERM.into());
            }
            credentials.secure_bits = first as u32;
            task.set_credentials(credentials);
            Ok(0)
        }
        // PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
        29 => {
            task.timer_slack.store(if first == 0 { 50_000 } else { first }, Ordering::Relaxed);
            Ok(0)
        }
        30 => Ok(task.timer_slack.load(Ordering::Relaxed)),
        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
        36 => {
            cx.process().subreaper.store(first != 0, Ordering::Relaxed);
            Ok(0)
        }
        37 => {
            cx.memory().store(first, u32::from(cx.process().subreaper.load(Ordering::Relaxed)))?;
            Ok(0)
        }
        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
        38 if (first, second, third, fourth) == (1, 0, 0, 0) => {
            task.no_new_privileges.store(true, Ordering::Relaxed);
            Ok(0)
        }
        39 if (first, second, third, fourth) == (0, 0, 0, 0) => {
            Ok(task.no_new_privileges.load(Ordering::Relaxed).into())
        }
        // PR_SET_THP_DISABLE, PR_GET_THP_DISABLE: there are no huge pages either way.
        41 => Ok(0),
        42 => Ok(0),
        // PR_CAP_AMBIENT
        47 => {
            let mut credentials = (**cx.credentials()).clone();
            let which = Capabilities::from_bits_retain(1u64.checked_shl(second as u32).unwrap_or(0));
            if first != 4 && second > u64::from(crate::task::credentials::LAST_CAPABILITY) {
                return invalid();
            }
            match first {
                1 => return Ok(u64::from(credentials.ambient.contains(which))),
                2 => {
                    let usable =
                        credentials.permitted.contains(which) && credentials.inheritable.contains(which);
                    if !usable || credentials.secure_bits & SECURE_NO_AMBIENT_RAISE != 0 {
                        return Err(Errno::PERM.into());
                    }
                    credentials.ambient.insert(which);
                }
                3 => credentials.ambient.remove(which),
                4 => credentials.ambient = Capabilities::empty(),
                _ => return invalid(),
            }
            task.set_credentials(credentials);
            Ok(0)
        }
        // PR_SET_VMA: names of anonymous memory, which only debuggers see.
        0x5356_4d41 => Ok(0),
        // PR_SET_PTRACER (Yama): nobody can trace anyway.
        0x5961_6d61 => Ok(0),
        _ => invalid(),
    }
}
