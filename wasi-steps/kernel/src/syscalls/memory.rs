//! Memory maps.

use cooper_vfs::Errno;
use cooper_x86::memory::PAGE_SIZE;

use super::{Entry, SysResult, full, partial, refused, stub};
use crate::cx::Cx;
use crate::devices::MemoryDevice;
use crate::files::{Description, Kind};
use crate::memory::area::page_up;
use crate::memory::{Advice, MapFlags, MapRequest, MapSource, RemapFlags, Rights};
use crate::task::limits::resource;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    partial(9, "mmap", mmap, "addresses below 4 GiB; MAP_GROWSDOWN maps a fixed size; huge pages refused"),
    full(10, "mprotect", mprotect),
    full(11, "munmap", munmap),
    full(12, "brk", brk),
    partial(25, "mremap", mremap, "private pages are copied when a mapping moves"),
    partial(26, "msync", msync, "shared maps are coherent already; tells the file system of the writes"),
    partial(27, "mincore", mincore, "mapped pages count as resident"),
    partial(
        28,
        "madvise",
        madvise,
        "DONTNEED and FREE drop pages at once; REMOVE is refused; other advice does nothing",
    ),
    stub(149, "mlock", lock_range, "nothing is ever paged out by the kernel itself"),
    stub(150, "munlock", lock_range, "see mlock"),
    stub(151, "mlockall", lock_all, "see mlock"),
    stub(152, "munlockall", nothing, "see mlock"),
    stub(325, "mlock2", lock_range, "see mlock"),
    refused(216, "remap_file_pages", super::unimplemented::invalid, "EINVAL: obsolete"),
    partial(
        324,
        "membarrier",
        membarrier,
        "the global and private commands; every kernel entry is a barrier",
    ),
    refused(
        329,
        "pkey_mprotect",
        super::unimplemented::invalid,
        "EINVAL, as on processors without protection keys",
    ),
    refused(
        330,
        "pkey_alloc",
        super::unimplemented::no_space,
        "ENOSPC, as on processors without protection keys",
    ),
    refused(
        331,
        "pkey_free",
        super::unimplemented::invalid,
        "EINVAL, as on processors without protection keys",
    ),
];

fn rights(bits: u64) -> Result<Rights, Errno> {
    const GROWS: u64 = 0x0300_0000;
    if bits & GROWS != 0 {
        return Err(Errno::INVAL);
    }
    // PROT_SEM is accepted and means nothing, as on Linux.
    Rights::from_bits((bits & !8) as u32).ok_or(Errno::INVAL)
}

fn mmap(cx: &mut Cx<'_>, [address, length, protection, flags, fd, offset]: [u64; 6]) -> SysResult {
    let flags = MapFlags::from_bits_retain(flags);
    let rights = Rights::from_bits_truncate(protection as u32);
    let kind = flags.bits() & 3;
    if kind == 0 {
        return Err(Errno::INVAL.into());
    }
    if kind == MapFlags::SHARED_VALIDATE.bits() && flags.contains(MapFlags::SYNC) {
        return Err(Errno::OPNOTSUPP.into());
    }
    if flags.contains(MapFlags::HUGETLB) {
        return Err(Errno::NOMEM.into());
    }
    if length == 0 || !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL.into());
    }
    let shared = flags.contains(MapFlags::SHARED);
    let mut flags = flags;
    if kind == MapFlags::SHARED_VALIDATE.bits() {
        flags.remove(MapFlags::PRIVATE);
    }
    let (source, allowed) = if flags.contains(MapFlags::ANONYMOUS) {
        (None, Rights::all())
    } else {
        let file = cx.file(fd)?;
        let (readable, writable) = (file.check_readable().is_ok(), file.check_writable().is_ok());
        if !readable {
            return Err(if file.is_path() { Errno::BADF } else { Errno::ACCESS }.into());
        }
        if shared && rights.contains(Rights::WRITE) && !writable {
            return Err(Errno::ACCESS.into());
        }
        let mut allowed = Rights::all();
        allowed.set(Rights::WRITE, !shared || writable);
        if let (true, Kind::Regular(regular)) = (shared, file.object().kind())
            && regular.is_sealed_against_writing()
        {
            if rights.contains(Rights::WRITE) {
                return Err(Errno::PERM.into());
            }
            allowed.remove(Rights::WRITE);
        }
        (Some(source_of(&file)?), allowed)
    };
    let offset = if source.is_none() { 0 } else { offset };
    let zeros = MapRequest::zeros(address, length, rights, "");
    let request = MapRequest { allowed, flags, source, offset, ..zeros };
    Ok(cx.memory().map(request)?)
}

/// What `mmap` of a descriptor maps. `ENODEV` for what cannot be mapped.
fn source_of(file: &Description) -> Result<MapSource, Errno> {
    match file.object().kind() {
        Kind::Regular(regular) => Ok(MapSource::File(regular.handle().clone(), file.position().cloned())),
        Kind::Device(MemoryDevice::Zero) => Ok(MapSource::Zero),
        _ => Err(Errno::NODEV),
    }
}

fn mprotect(cx: &mut Cx<'_>, [address, length, protection, ..]: [u64; 6]) -> SysResult {
    cx.memory().protect(address, length, rights(protection)?)?;
    Ok(0)
}

fn munmap(cx: &mut Cx<'_>, [address, length, ..]: [u64; 6]) -> SysResult {
    cx.memory().unmap(address, length)?;
    Ok(0)
}

fn brk(cx: &mut Cx<'_>, [address, ..]: [u64; 6]) -> SysResult {
    Ok(cx.memory().set_break(address, cx.process().limit(resource::DATA)))
}

fn mremap(cx: &mut Cx<'_>, [old, old_length, new_length, flags, new, _]: [u64; 6]) -> SysResult {
    const MAY_MOVE: u64 = 1;
    const FIXED: u64 = 2;
    const DONT_UNMAP: u64 = 4;
    if flags & !(MAY_MOVE | FIXED | DONT_UNMAP) != 0
        || (flags & (FIXED | DONT_UNMAP) != 0 && flags & MAY_MOVE == 0)
    {
        return Err(Errno::INVAL.into());
    }
    let keep_old = flags & DONT_UNMAP != 0;
    if keep_old && old_length != new_length {
        return Err(Errno::INVAL.into());
    }
    let flags =
        RemapFlags { may_move: flags & MAY_MOVE != 0, fixed: (flags & FIXED != 0).then_some(new), keep_old };
    Ok(cx.memory().remap(old, old_length, new_length, flags)?)
}

fn msync(cx: &mut Cx<'_>, [address, length, flags, ..]: [u64; 6]) -> SysResult {
    const ASYNC: u64 = 1;
    const SYNC: u64 = 4;
    if flags & !7 != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::INVAL.into());
    }
    cx.memory().sync(address, length)?;
    Ok(0)
}

fn mincore(cx: &mut Cx<'_>, [address, length, vector, ..]: [u64; 6]) -> SysResult {
    /// Bytes of the answer written at a time.
    const PART: u64 = 4096;
    if !cx.memory().covers(address, length)? {
        return Err(Errno::NOMEM.into());
    }
    let pages = page_up(length).ok_or(Errno::NOMEM)? / PAGE_SIZE;
    let ones = [1; PART as usize];
    let mut done = 0;
    while done < pages {
        let part = PART.min(pages - done);
        cx.memory().write_bytes(vector.wrapping_add(done), &ones[..part as usize])?;
        done += part;
    }
    Ok(0)
}

fn madvise(cx: &mut Cx<'_>, [address, length, advice, ..]: [u64; 6]) -> SysResult {
    let advice = match advice {
        4 | 8 => Advice::Drop,
        9 => Advice::Remove,
        0..=3 | 10..=17 | 20..=25 => Advice::Nothing,
        _ => return Err(Errno::INVAL.into()),
    };
    cx.memory().advise(address, length, advice)?;
    Ok(0)
}

fn lock_range(cx: &mut Cx<'_>, [address, length, ..]: [u64; 6]) -> SysResult {
    let start = address & !(PAGE_SIZE - 1);
    let length = length.checked_add(address - start).ok_or(Errno::INVAL)?;
    if cx.memory().covers(start, length)? { Ok(0) } else { Err(Errno::NOMEM.into()) }
}

fn lock_all(_: &mut Cx<'_>, [flags, ..]: [u64; 6]) -> SysResult {
    if flags == 0 || flags & !7 != 0 { Err(Errno::INVAL.into()) } else { Ok(0) }
}

fn nothing(_: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Ok(0)
}

fn membarrier(_: &mut Cx<'_>, [command, flags, ..]: [u64; 6]) -> SysResult {
    /// GLOBAL, GLOBAL_EXPEDITED, PRIVATE_EXPEDITED, its registrations, SYNC_CORE with its own.
    const SUPPORTED: u64 = 1 | 2 | 4 | 8 | 16 | 32 | 64;
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    match command {
        0 => Ok(SUPPORTED),
        _ if command & SUPPORTED == command && command.is_power_of_two() => {
            // x86 orders stores before later loads only with a fence; other threads are ordered by the host's.
            barrier();
            Ok(0)
        }
        _ => Err(Errno::INVAL.into()),
    }
}

/// A barrier on every processor that runs a thread of this host process.
fn barrier() {
    use rustix::thread::{MembarrierCommand, membarrier};
    // The host wants the intent to use it first; without its call a fence of this thread is all there is.
    let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited);
    if registered.and_then(|()| membarrier(MembarrierCommand::PrivateExpedited)).is_err() {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
}
