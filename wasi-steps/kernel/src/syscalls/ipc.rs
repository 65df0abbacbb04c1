//! System V shared memory.

use cooper_vfs::Errno;
use cooper_x86::memory::PAGE_SIZE;

use super::{Entry, SysResult, full, partial};
use crate::cx::Cx;
use crate::memory::{MapFlags, MapRequest, MapSource, Rights};
use crate::wait::lock;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(29, "shmget", shmget),
    full(30, "shmat", shmat),
    partial(
        31,
        "shmctl",
        shmctl,
        "IPC_STAT, IPC_SET, IPC_RMID; times are 0; a removed segment cannot be attached again",
    ),
    full(67, "shmdt", shmdt),
];

fn shmget(cx: &mut Cx<'_>, [key, size, flags, ..]: [u64; 6]) -> SysResult {
    let credentials = &cx.credentials().filesystem;
    let pid = cx.process().pid();
    let mut segments = lock(&cx.kernel.segments);
    let id = segments.get(cx.kernel.memory(), credentials, pid, key as i32, size, flags as u32)?;
    Ok(id as u64)
}

fn shmat(cx: &mut Cx<'_>, [id, address, flags, ..]: [u64; 6]) -> SysResult {
    const READ_ONLY: u64 = 0o10000;
    const ROUND: u64 = 0o20000;
    const REMAP: u64 = 0o40000;
    const EXECUTE: u64 = 0o100_000;
    let segment = lock(&cx.kernel.segments).find(id as i32)?.clone();
    let mut rights = Rights::READ;
    rights.set(Rights::WRITE, flags & READ_ONLY == 0);
    rights.set(Rights::EXECUTE, flags & EXECUTE != 0);
    let wanted = if flags & READ_ONLY == 0 { 6 } else { 4 };
    segment.check(&cx.credentials().filesystem, wanted)?;
    let address = if flags & ROUND != 0 { address & !(PAGE_SIZE - 1) } else { address };
    if !address.is_multiple_of(PAGE_SIZE) || (flags & REMAP != 0 && address == 0) {
        return Err(Errno::INVAL.into());
    }
    let placement = match (address, flags & REMAP) {
        (0, _) => MapFlags::empty(),
        (_, 0) => MapFlags::FIXED_NOREPLACE,
        _ => MapFlags::FIXED,
    };
    let request = MapRequest {
        address,
        length: segment.size,
        rights,
        allowed: if flags & READ_ONLY == 0 { Rights::all() } else { Rights::READ | Rights::EXECUTE },
        flags: MapFlags::SHARED | placement,
        source: Some(MapSource::Memory(segment.object)),
        ..MapRequest::zeros(0, 0, rights, "")
    };
    cx.memory().map(request).map_err(|errno| if errno == Errno::EXIST { Errno::INVAL } else { errno }.into())
}

fn shmdt(cx: &mut Cx<'_>, [address, ..]: [u64; 6]) -> SysResult {
    cx.memory().detach(address)?;
    Ok(0)
}

fn shmctl(cx: &mut Cx<'_>, [id, command, address, ..]: [u64; 6]) -> SysResult {
    let id = id as i32;
    let credentials = &cx.credentials().filesystem;
    match command {
        // IPC_RMID
        0 => {
            let mut segments = lock(&cx.kernel.segments);
            segments.own(id, credentials)?;
            segments.remove(id);
            Ok(0)
        }
        // IPC_SET: owner and mode of struct shmid_ds.
        1 => {
            let words: [u32; 6] = cx.memory().load(address)?;
            let mut segments = lock(&cx.kernel.segments);
            let segment = segments.own(id, credentials)?;
            (segment.uid, segment.gid, segment.mode) = (words[1], words[2], words[5] & 0o777);
            Ok(0)
        }
        // IPC_STAT
        2 => {
            let segment = lock(&cx.kernel.segments).find(id)?.clone();
            segment.check(credentials, 4)?;
            let mut words = [0u32; 28];
            words[0] = segment.key as u32;
            (words[1], words[2]) = (segment.uid, segment.gid);
            (words[3], words[4]) = segment.creator;
            words[5] = segment.mode;
            (words[12], words[13]) = (segment.size as u32, (segment.size >> 32) as u32);
            (words[20], words[21]) = (segment.creator_pid, segment.creator_pid);
            // This look itself holds the object once more.
            words[22] = segment.attachments().saturating_sub(1) as u32;
            cx.memory().store(address, words)?;
            Ok(0)
        }
        _ => Err(Errno::INVAL.into()),
    }
}
