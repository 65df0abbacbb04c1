//! User and group ids, capabilities.

use cooper_vfs::{Capabilities, Errno};

use super::{Entry, SysResult, full};
use crate::cx::Cx;
use crate::task::Credentials;
use crate::task::credentials::{KEEP, MAX_GROUPS, all_capabilities};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(102, "getuid", |cx, _| Ok(cx.credentials().user.real.into())),
    full(104, "getgid", |cx, _| Ok(cx.credentials().group.real.into())),
    full(107, "geteuid", |cx, _| Ok(cx.credentials().user.effective.into())),
    full(108, "getegid", |cx, _| Ok(cx.credentials().group.effective.into())),
    full(105, "setuid", setuid),
    full(106, "setgid", setgid),
    full(113, "setreuid", setreuid),
    full(114, "setregid", setregid),
    full(115, "getgroups", getgroups),
    full(116, "setgroups", setgroups),
    full(117, "setresuid", setresuid),
    full(118, "getresuid", getresuid),
    full(119, "setresgid", setresgid),
    full(120, "getresgid", getresgid),
    full(122, "setfsuid", setfsuid),
    full(123, "setfsgid", setfsgid),
    full(125, "capget", capget),
    full(126, "capset", capset),
];

/// Changes a copy of the credentials and, if that is allowed, makes it the caller's.
fn change(cx: &Cx<'_>, change: impl FnOnce(&mut Credentials) -> Result<(), Errno>) -> SysResult {
    let mut credentials = (**cx.credentials()).clone();
    change(&mut credentials)?;
    cx.task.set_credentials(credentials);
    Ok(0)
}

/// An id that is really to be set. `EINVAL` for -1.
fn id(value: u64) -> Result<u32, Errno> {
    Some(value as u32).filter(|id| *id != KEEP).ok_or(Errno::INVAL)
}

fn setuid(cx: &mut Cx<'_>, [uid, ..]: [u64; 6]) -> SysResult {
    let uid = id(uid)?;
    change(cx, |credentials| credentials.set_uid(uid))
}

fn setgid(cx: &mut Cx<'_>, [gid, ..]: [u64; 6]) -> SysResult {
    let gid = id(gid)?;
    change(cx, |credentials| credentials.set_gid(gid))
}

fn setreuid(cx: &mut Cx<'_>, [real, effective, ..]: [u64; 6]) -> SysResult {
    change(cx, |credentials| credentials.set_real_effective_uid(real as u32, effective as u32))
}

fn setregid(cx: &mut Cx<'_>, [real, effective, ..]: [u64; 6]) -> SysResult {
    change(cx, |credentials| credentials.set_real_effective_gid(real as u32, effective as u32))
}

fn setresuid(cx: &mut Cx<'_>, [real, effective, saved, ..]: [u64; 6]) -> SysResult {
    change(cx, |credentials| credentials.set_user_ids(real as u32, effective as u32, saved as u32))
}

fn setresgid(cx: &mut Cx<'_>, [real, effective, saved, ..]: [u64; 6]) -> SysResult {
    change(cx, |credentials| credentials.set_group_ids(real as u32, effective as u32, saved as u32))
}

fn store_ids(cx: &Cx<'_>, addresses: [u64; 3], ids: crate::task::credentials::Ids) -> SysResult {
    for (address, id) in addresses.into_iter().zip([ids.real, ids.effective, ids.saved]) {
        cx.memory().store(address, id)?;
    }
    Ok(0)
}

fn getresuid(cx: &mut Cx<'_>, [real, effective, saved, ..]: [u64; 6]) -> SysResult {
    store_ids(cx, [real, effective, saved], cx.credentials().user)
}

fn getresgid(cx: &mut Cx<'_>, [real, effective, saved, ..]: [u64; 6]) -> SysResult {
    store_ids(cx, [real, effective, saved], cx.credentials().group)
}

fn setfsuid(cx: &mut Cx<'_>, [uid, ..]: [u64; 6]) -> SysResult {
    let mut credentials = (**cx.credentials()).clone();
    let old = credentials.filesystem.uid;
    if uid as u32 != KEEP {
        credentials.set_filesystem_uid(uid as u32);
        cx.task.set_credentials(credentials);
    }
    Ok(old.into())
}

fn setfsgid(cx: &mut Cx<'_>, [gid, ..]: [u64; 6]) -> SysResult {
    let mut credentials = (**cx.credentials()).clone();
    let old = credentials.filesystem.gid;
    if gid as u32 != KEEP {
        credentials.set_filesystem_gid(gid as u32);
        cx.task.set_credentials(credentials);
    }
    Ok(old.into())
}

fn getgroups(cx: &mut Cx<'_>, [size, address, ..]: [u64; 6]) -> SysResult {
    let groups = &cx.credentials().filesystem.groups;
    let size = usize::try_from(size as i32).map_err(|_| Errno::INVAL)?;
    if size != 0 {
        if size < groups.len() {
            return Err(Errno::INVAL.into());
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        cx.memory().write_bytes(address, &bytes)?;
    }
    Ok(groups.len() as u64)
}

fn setgroups(cx: &mut Cx<'_>, [size, address, ..]: [u64; 6]) -> SysResult {
    if !cx.credentials().holds(Capabilities::SETGID) {
        return Err(Errno::PERM.into());
    }
    let size = usize::try_from(size as i32).ok().filter(|size| *size <= MAX_GROUPS).ok_or(Errno::INVAL)?;
    let bytes = cx.memory().read_vec(address, size * 4)?;
    let mut groups: Vec<u32> =
        bytes.chunks_exact(4).map(|part| u32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect();
    groups.sort_unstable();
    change(cx, |credentials| credentials.set_groups(groups))
}

/// The versions of the capability calls: words for each set.
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

/// Reads the header: words for each set, and the task. `EINVAL` for an unknown version, after storing ours.
fn header(cx: &Cx<'_>, address: u64) -> Result<(usize, i32), Errno> {
    let [version, pid]: [u32; 2] = cx.memory().load(address)?;
    match VERSIONS.iter().find(|(known, _)| *known == version) {
        Some((_, words)) => Ok((*words, pid as i32)),
        None => {
            cx.memory().store(address, VERSIONS[2].0)?;
            Err(Errno::INVAL)
        }
    }
}

fn capget(cx: &mut Cx<'_>, [head, data, ..]: [u64; 6]) -> SysResult {
    let (words, pid) = match header(cx, head) {
        // Asking for the version only is no error.
        Err(Errno::INVAL) if data == 0 => return Ok(0),
        other => other?,
    };
    let credentials = match pid {
        pid if pid < 0 => return Err(Errno::INVAL.into()),
        0 => cx.credentials().clone(),
        pid => super::process::task_of(cx, pid as u64)?.credentials(),
    };
    if data == 0 {
        return Ok(0);
    }
    let sets = [credentials.effective(), credentials.permitted, credentials.inheritable];
    for word in 0..words {
        let part = sets.map(|set| (set.bits() >> (32 * word)) as u32);
        cx.memory().store(data.wrapping_add(12 * word as u64), part)?;
    }
    Ok(0)
}

fn capset(cx: &mut Cx<'_>, [head, data, ..]: [u64; 6]) -> SysResult {
    let (words, pid) = header(cx, head)?;
    if pid != 0 && pid as u32 != cx.task.tid() {
        return Err(Errno::PERM.into());
    }
    let mut sets = [0u64; 3];
    for word in 0..words {
        let part: [u32; 3] = cx.memory().load(data.wrapping_add(12 * word as u64))?;
        for (set, value) in sets.iter_mut().zip(part) {
            *set |= u64::from(value) << (32 * word);
        }
    }
    let [effective, permitted, inheritable] =
        sets.map(|bits| Capabilities::from_bits_retain(bits).intersection(all_capabilities()));
    change(cx, |credentials| credentials.set_capabilities(effective, permitted, inheritable))
}
