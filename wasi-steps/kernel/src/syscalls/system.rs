//! The machine: its name, memory, processors, random bytes; scheduling.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cooper_vfs::{Capabilities, Errno};

use super::process::task_of;
use super::{Entry, SysResult, full, partial, stub};
use crate::cx::Cx;
use crate::task::{Process, Task};
use crate::wait::lock;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    stub(24, "sched_yield", sched_yield, "yields the host thread"),
    full(63, "uname", uname),
    partial(99, "sysinfo", sysinfo, "memory as the step's limit says, no swap, no load"),
    stub(140, "getpriority", getpriority, "the value that setpriority set"),
    stub(141, "setpriority", setpriority, "checked and kept; threads run as the host likes"),
    stub(142, "sched_setparam", sched_setparam, "see sched_setscheduler"),
    stub(143, "sched_getparam", sched_getparam, "see sched_setscheduler"),
    stub(144, "sched_setscheduler", sched_setscheduler, "only the normal policies; real-time ones are EPERM"),
    stub(145, "sched_getscheduler", sched_getscheduler, "always SCHED_OTHER"),
    full(146, "sched_get_priority_max", priority_max),
    full(147, "sched_get_priority_min", priority_min),
    stub(148, "sched_rr_get_interval", sched_rr_get_interval, "4 ms"),
    stub(
        203,
        "sched_setaffinity",
        sched_setaffinity,
        "checked, without effect: threads run where the host likes",
    ),
    full(204, "sched_getaffinity", sched_getaffinity),
    stub(251, "ioprio_set", ioprio_set, "accepted, without effect"),
    stub(252, "ioprio_get", ioprio_get, "always the default"),
    full(309, "getcpu", getcpu),
    stub(314, "sched_setattr", sched_setattr, "only the normal policies"),
    stub(315, "sched_getattr", sched_getattr, "always SCHED_OTHER"),
    full(318, "getrandom", getrandom),
];

fn sched_yield(_: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    std::thread::yield_now();
    Ok(0)
}

/// The kernel release that guests see: new enough for every C library, and the same everywhere.
pub(crate) const RELEASE: &[u8] = b"6.1.0-cooper";
/// The kernel version that guests see.
pub(crate) const VERSION: &[u8] = b"#1 SMP PREEMPT_DYNAMIC";

fn uname(cx: &mut Cx<'_>, [address, ..]: [u64; 6]) -> SysResult {
    /// Size of a field.
    const FIELD: usize = 65;
    let fields: [&[u8]; 6] = [b"Linux", &cx.kernel.identity.hostname, RELEASE, VERSION, b"x86_64", b"(none)"];
    let mut bytes = [0; FIELD * 6];
    for (field, text) in bytes.chunks_exact_mut(FIELD).zip(fields) {
        let length = text.len().min(FIELD - 1);
        field[..length].copy_from_slice(&text[..length]);
    }
    cx.memory().write_bytes(address, &bytes)?;
    Ok(0)
}

fn sysinfo(cx: &mut Cx<'_>, [address, ..]: [u64; 6]) -> SysResult {
    let total = cx.kernel.identity.memory_bytes;
    let free = total.saturating_sub(cx.kernel.memory().charged());
    let tasks = lock(&cx.kernel.table).task_count() as u64;
    let mut words = [0u64; 14];
    words[0] = cx.kernel.uptime().as_secs();
    words[4] = total;
    words[5] = free;
    words[10] = tasks & 0xffff;
    // Unit of the sizes: one byte.
    words[13] = 1;
    cx.memory().store(address, words)?;
    Ok(0)
}

fn target(cx: &Cx<'_>, pid: u64) -> Result<Arc<Task>, Errno> {
    match pid as i32 {
        0 => Ok(cx.task.clone()),
        pid if pid < 0 => Err(Errno::INVAL),
        _ => task_of(cx, pid),
    }
}

/// The processes that a class and an id name. `ESRCH` when there is none.
fn prioritized(cx: &Cx<'_>, which: u64, who: u64) -> Result<Vec<Arc<Process>>, Errno> {
    let table = lock(&cx.kernel.table);
    let own = cx.process().pid();
    let who = who as u32;
    let found: Vec<Arc<Process>> = match which {
        0 if who == 0 => vec![cx.process().clone()],
        0 => table.tasks.get(&who).map(|task| task.process().clone()).into_iter().collect(),
        1 => {
            let group = if who == 0 { table.process(own).map_or(0, |node| node.group) } else { who };
            table.group(group).map(|node| node.process.clone()).collect()
        }
        2 => {
            let uid = if who == 0 { cx.credentials().user.real } else { who };
            table.processes.values().filter(|node| node.uid == uid).map(|node| node.process.clone()).collect()
        }
        _ => return Err(Errno::INVAL),
    };
    if found.is_empty() { Err(Errno::SRCH) } else { Ok(found) }
}

fn getpriority(cx: &mut Cx<'_>, [which, who, ..]: [u64; 6]) -> SysResult {
    let processes = prioritized(cx, which, who)?;
    let nice = processes.iter().map(|process| process.nice.load(Ordering::Relaxed)).min().unwrap_or(0);
    // The call gives 20 - nice, so that it is never negative.
    Ok((20 - nice) as u64)
}

fn setpriority(cx: &mut Cx<'_>, [which, who, nice, ..]: [u64; 6]) -> SysResult {
    let nice = (nice as i32).clamp(-20, 19);
    for process in prioritized(cx, which, who)? {
        let old = process.nice.load(Ordering::Relaxed);
        if nice < old && !cx.credentials().holds(Capabilities::SYS_NICE) {
            return Err(Errno::ACCESS.into());
        }
        process.nice.store(nice, Ordering::Relaxed);
    }
    Ok(0)
}

/// Whether a policy is one of the normal ones: OTHER, BATCH, IDLE.
fn check_policy(policy: u64, priority: i32) -> Result<(), Errno> {
    const RESET_ON_FORK: u64 = 0x4000_0000;
    match policy & !RESET_ON_FORK {
        0 | 3 | 5 if priority == 0 => Ok(()),
        1 | 2 if (1..=99).contains(&priority) => Err(Errno::PERM),
        6 => Err(Errno::PERM),
        _ => Err(Errno::INVAL),
    }
}

fn sched_setscheduler(cx: &mut Cx<'_>, [pid, policy, parameter, ..]: [u64; 6]) -> SysResult {
    let priority: i32 = cx.memory().load(parameter)?;
    target(cx, pid)?;
    check_policy(policy, priority)?;
    Ok(0)
}

fn sched_setparam(cx: &mut Cx<'_>, [pid, parameter, ..]: [u64; 6]) -> SysResult {
    let priority: i32 = cx.memory().load(parameter)?;
    target(cx, pid)?;
    check_policy(0, priority)?;
    Ok(0)
}

fn sched_getparam(cx: &mut Cx<'_>, [pid, parameter, ..]: [u64; 6]) -> SysResult {
    target(cx, pid)?;
    cx.memory().store(parameter, 0u32)?;
    Ok(0)
}

fn sched_getscheduler(cx: &mut Cx<'_>, [pid, ..]: [u64; 6]) -> SysResult {
    target(cx, pid)?;
    Ok(0)
}

fn priority_max(_: &mut Cx<'_>, [policy, ..]: [u64; 6]) -> SysResult {
    match policy {
        0 | 3 | 5 | 6 => Ok(0),
        1 | 2 => Ok(99),
        _ => Err(Errno::INVAL.into()),
    }
}

fn priority_min(_: &mut Cx<'_>, [policy, ..]: [u64; 6]) -> SysResult {
    match policy {
        0 | 3 | 5 | 6 => Ok(0),
        1 | 2 => Ok(1),
        _ => Err(Errno::INVAL.into()),
    }
}

fn sched_rr_get_interval(cx: &mut Cx<'_>, [pid, address, ..]: [u64; 6]) -> SysResult {
    target(cx, pid)?;
    cx.memory().store(address, [0u64, 4_000_000])?;
    Ok(0)
}

/// The processors of the machine as bits.
fn processors(cx: &Cx<'_>) -> u64 {
    let count = cx.kernel.identity.cpus.clamp(1, 64);
    u64::MAX >> (64 - count)
}

fn sched_getaffinity(cx: &mut Cx<'_>, [pid, size, address, ..]: [u64; 6]) -> SysResult {
    target(cx, pid)?;
    if size < 8 || size % 8 != 0 {
        return Err(Errno::INVAL.into());
    }
    cx.memory().store(address, processors(cx))?;
    Ok(8)
}

fn sched_setaffinity(cx: &mut Cx<'_>, [pid, size, address, ..]: [u64; 6]) -> SysResult {
    target(cx, pid)?;
    let mut bytes = [0; 8];
    let count = size.min(8) as usize;
    cx.memory().read_bytes(address, &mut bytes[..count])?;
    if u64::from_le_bytes(bytes) & processors(cx) == 0 { Err(Errno::INVAL.into()) } else { Ok(0) }
}

fn ioprio_set(_: &mut Cx<'_>, [which, _, priority, ..]: [u64; 6]) -> SysResult {
    let class = priority >> 13;
    match (which, class) {
        (1..=3, 1) => Err(Errno::PERM.into()),
        (1..=3, 0 | 2 | 3) => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}

fn ioprio_get(_: &mut Cx<'_>, [which, ..]: [u64; 6]) -> SysResult {
    if (1..=3).contains(&which) { Ok(0) } else { Err(Errno::INVAL.into()) }
}

fn getcpu(cx: &mut Cx<'_>, [cpu, node, ..]: [u64; 6]) -> SysResult {
    cx.memory().store_optional(cpu, 0u32)?;
    cx.memory().store_optional(node, 0u32)?;
    Ok(0)
}

/// Size of the first version of `struct sched_attr`.
const ATTRIBUTES: u64 = 48;

fn sched_setattr(cx: &mut Cx<'_>, [pid, address, flags, ..]: [u64; 6]) -> SysResult {
    let words: [u32; 12] = cx.memory().load(address)?;
    if flags != 0 || u64::from(words[0]) < ATTRIBUTES {
        return Err(Errno::INVAL.into());
    }
    target(cx, pid)?;
    check_policy(words[1].into(), words[5] as i32)?;
    Ok(0)
}

fn sched_getattr(cx: &mut Cx<'_>, [pid, address, size, flags, ..]: [u64; 6]) -> SysResult {
    if flags != 0 || size < ATTRIBUTES {
        return Err(Errno::INVAL.into());
    }
    target(cx, pid)?;
    let mut words = [0u32; 12];
    words[0] = ATTRIBUTES as u32;
    cx.memory().store(address, words)?;
    Ok(0)
}

fn getrandom(cx: &mut Cx<'_>, [address, length, flags, ..]: [u64; 6]) -> SysResult {
    /// Bytes made at a time.
    const PART: usize = 4096;
    const INSECURE_AND_RANDOM: u64 = 2 | 4;
    if flags & !7 != 0 || flags & INSECURE_AND_RANDOM == INSECURE_AND_RANDOM {
        return Err(Errno::INVAL.into());
    }
    let length = length.min(i32::MAX as u64);
    let mut buffer = [0; PART];
    let mut done = 0;
    while done < length {
        let part = &mut buffer[..PART.min((length - done) as usize)];
        cx.kernel.random_bytes(part)?;
        match cx.memory().write_some(address.wrapping_add(done), part) {
            Ok(count) if count == part.len() => done += count as u64,
            Ok(count) => return Ok(done + count as u64),
            Err(errno) if done == 0 => return Err(errno.into()),
            Err(_) => break,
        }
    }
    Ok(done)
}
