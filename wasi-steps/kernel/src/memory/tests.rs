//! Tests of address spaces without any process.

use std::sync::Arc;

use cooper_vfs::Errno;
use cooper_x86::code::CodeMap;
use cooper_x86::memory::{Access, PAGE_SIZE};

use super::calls::{Advice, MapFlags, MapRequest, RemapFlags};
use super::{AddressSpace, FaultCause, HIGHEST_ADDRESS, MemoryAccount, Rights};

const RW: Rights = Rights::READ.union(Rights::WRITE);
const BASE: u64 = 0x10_0000;

fn space() -> (Arc<MemoryAccount>, AddressSpace) {
    let account = MemoryAccount::new(64 << 20);
    let space = AddressSpace::new(&account).expect("the host has room for a window");
    (account, space)
}

fn zeros(address: u64, pages: u64, rights: Rights) -> MapRequest {
    MapRequest::zeros(address, pages * PAGE_SIZE, rights, "")
}

fn shared(address: u64, pages: u64) -> MapRequest {
    let flags = MapFlags::SHARED | MapFlags::ANONYMOUS | MapFlags::FIXED;
    MapRequest { flags, ..zeros(address, pages, RW) }
}

#[test]
fn mapped_memory_is_zero_and_writable_until_it_is_unmapped() {
    let (_, space) = space();
    assert_eq!(space.map(zeros(BASE, 2, RW)), Ok(BASE));
    assert_eq!(space.load::<u64>(BASE + 8), Ok(0));
    assert_eq!(space.store(BASE + 4092, 7u64), Ok(()));
    assert_eq!(space.load::<u64>(BASE + 4092), Ok(7));
    assert_eq!(space.unmap(BASE, PAGE_SIZE), Ok(()));
    assert_eq!(space.load::<u8>(BASE), Err(Errno::FAULT));
    assert_eq!(space.load::<u8>(BASE + PAGE_SIZE), Ok(0));
}

#[test]
fn places_outside_the_window_are_refused() {
    let (_, space) = space();
    assert_eq!(space.map(zeros(0, 1, RW)), Err(Errno::PERM));
    assert_eq!(space.map(zeros(HIGHEST_ADDRESS, 1, RW)), Err(Errno::NOMEM));
    assert_eq!(space.map(zeros(1 << 40, 1, RW)), Err(Errno::NOMEM));
    assert_eq!(space.map(zeros(BASE + 1, 1, RW)), Err(Errno::INVAL));
    assert_eq!(space.map(MapRequest { length: 0, ..zeros(BASE, 1, RW) }), Err(Errno::INVAL));
    assert_eq!(space.map(MapRequest { length: u64::MAX, ..zeros(BASE, 1, RW) }), Err(Errno::NOMEM));
    assert_eq!(space.load::<u64>(u64::MAX - 3), Err(Errno::FAULT));
}

#[test]
fn fixed_noreplace_keeps_what_is_there() {
    let (_, space) = space();
    assert!(space.map(zeros(BASE, 1, RW)).is_ok());
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED_NOREPLACE;
    assert_eq!(space.map(MapRequest { flags, ..zeros(BASE, 1, RW) }), Err(Errno::EXIST));
}

#[test]
fn free_places_are_given_from_the_top_and_hints_are_taken() {
    let (_, space) = space();
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    let first = space.map(MapRequest { flags, ..zeros(0, 1, RW) }).expect("there is room");
    let second = space.map(MapRequest { flags, ..zeros(0, 2, RW) }).expect("there is room");
    assert_eq!((first, second), (HIGHEST_ADDRESS - PAGE_SIZE, HIGHEST_ADDRESS - 3 * PAGE_SIZE));
    assert_eq!(space.map(MapRequest { flags, ..zeros(BASE + 5, 1, RW) }), Ok(BASE + PAGE_SIZE));
    let low = MapRequest { flags: flags | MapFlags::LOW_2G, ..zeros(0, 1, RW) };
    assert_eq!(space.map(low), Ok((1 << 31) - PAGE_SIZE));
}

#[test]
fn protection_is_enforced_and_named() {
    let (_, space) = space();
    assert!(space.map(zeros(BASE, 3, RW)).is_ok());
    assert_eq!(space.protect(BASE + PAGE_SIZE, PAGE_SIZE, Rights::READ), Ok(()));
    assert_eq!(space.store(BASE + PAGE_SIZE, 1u8), Err(Errno::FAULT));
    assert_eq!(space.store(BASE + 2 * PAGE_SIZE, 1u8), Ok(()));
    assert_eq!(space.fault_cause(BASE + PAGE_SIZE, Access::Write), FaultCause::NoRight);
    assert_eq!(space.fault_cause(BASE + 3 * PAGE_SIZE, Access::Read), FaultCause::NoArea);
    assert_eq!(space.protect(BASE, 4 * PAGE_SIZE, RW), Err(Errno::NOMEM));
    assert_eq!(space.store(BASE + PAGE_SIZE, 1u8), Ok(()));
}

#[test]
fn memory_is_charged_while_it_is_writable() {
    let (account, space) = space();
    assert!(space.map(zeros(BASE, 4, Rights::empty())).is_ok());
    assert_eq!(account.charged(), 0);
    assert!(space.protect(BASE, PAGE_SIZE, RW).is_ok());
    assert_eq!(account.charged(), PAGE_SIZE);
    assert_eq!(space.map(zeros(BASE, (65 << 20) / PAGE_SIZE, RW)), Err(Errno::NOMEM));
    assert_eq!(account.reached(), (true, false));
    assert_eq!(account.charged(), PAGE_SIZE);
    let copy = space.duplicate().expect("there is room");
    assert_eq!(account.charged(), 2 * PAGE_SIZE);
    drop((copy, space));
    assert_eq!((account.charged(), account.peak()), (0, 2 * PAGE_SIZE));
}

#[test]
fn heap_grows_and_shrinks() {
    let (_, space) = space();
    space.set_heap_start(BASE);
    assert_eq!(space.set_break(0, u64::MAX), BASE);
    assert_eq!(space.set_break(BASE + 100, u64::MAX), BASE + 100);
    assert_eq!(space.store(BASE + 99, 1u8), Ok(()));
    assert_eq!(space.set_break(BASE + 3 * PAGE_SIZE, PAGE_SIZE), BASE + 100);
    assert_eq!(space.set_break(BASE, u64::MAX), BASE);
    assert_eq!(space.load::<u8>(BASE), Err(Errno::FAULT));
}

#[test]
fn remap_moves_bytes_when_it_cannot_grow() {
    let (_, space) = space();
    assert!(space.map(zeros(BASE, 1, RW)).is_ok());
    assert!(space.map(zeros(BASE + PAGE_SIZE, 1, Rights::READ)).is_ok());
    assert!(space.store(BASE + 8, 42u64).is_ok());
    let stay = RemapFlags { may_move: false, fixed: None, keep_old: false };
    let go = RemapFlags { may_move: true, ..stay };
    assert_eq!(space.remap(BASE, PAGE_SIZE, 2 * PAGE_SIZE, stay), Err(Errno::NOMEM));
    let moved = space.remap(BASE, PAGE_SIZE, 2 * PAGE_SIZE, go).expect("it may move");
    assert_eq!((space.load::<u64>(moved + 8), space.load::<u8>(BASE)), (Ok(42), Err(Errno::FAULT)));
    assert_eq!(space.remap(moved, 2 * PAGE_SIZE, PAGE_SIZE, stay), Ok(moved));
    assert_eq!(space.remap(moved, PAGE_SIZE, 2 * PAGE_SIZE, stay), Ok(moved));
    assert_eq!(space.remap(BASE, PAGE_SIZE, PAGE_SIZE, stay), Err(Errno::FAULT));
}

#[test]
fn copy_has_its_own_private_pages_and_the_same_shared_ones() {
    let (_, space) = space();
    assert!(space.map(zeros(BASE, 2, RW)).is_ok());
    assert!(space.map(shared(BASE + 2 * PAGE_SIZE, 1)).is_ok());
    assert!(space.store(BASE, 1u32).is_ok());
    assert!(space.store(BASE + PAGE_SIZE, 5u32).is_ok());
    // Written pages are copied also where the area allows nothing at the moment.
    assert!(space.protect(BASE + PAGE_SIZE, PAGE_SIZE, Rights::empty()).is_ok());
    let copy = space.duplicate().expect("there is room");
    assert!(space.store(BASE, 2u32).is_ok());
    assert!(space.store(BASE + 2 * PAGE_SIZE, 3u32).is_ok());
    assert_eq!((copy.load::<u32>(BASE), copy.load::<u32>(BASE + 2 * PAGE_SIZE)), (Ok(1), Ok(3)));
    assert_eq!(copy.load::<u32>(BASE + PAGE_SIZE), Err(Errno::FAULT));
    assert!(copy.protect(BASE + PAGE_SIZE, PAGE_SIZE, Rights::READ).is_ok());
    assert_eq!(copy.load::<u32>(BASE + PAGE_SIZE), Ok(5));
}

#[test]
fn dropped_pages_are_zero_again() {
    let (_, space) = space();
    assert!(space.map(zeros(BASE, 1, RW)).is_ok());
    assert!(space.store(BASE, 9u8).is_ok());
    assert_eq!(space.advise(BASE, PAGE_SIZE, Advice::Drop), Ok(()));
    assert_eq!(space.load::<u8>(BASE), Ok(0));
    assert_eq!(space.advise(BASE, 2 * PAGE_SIZE, Advice::Nothing), Err(Errno::NOMEM));
    assert_eq!(space.advise(BASE + 1, PAGE_SIZE, Advice::Drop), Err(Errno::INVAL));
}

#[test]
fn only_changes_of_executable_areas_change_the_generation() {
    let (_, space) = space();
    let before = space.generation();
    assert!(space.map(zeros(BASE, 2, RW)).is_ok());
    assert_eq!(space.generation(), before);
    assert!(space.protect(BASE, PAGE_SIZE, Rights::READ | Rights::EXECUTE).is_ok());
    assert!(space.generation() > before);
    assert!(space.code_at(BASE).is_some_and(|range| (range.start, range.end) == (BASE, BASE + PAGE_SIZE)));
    assert!(space.code_at(BASE + PAGE_SIZE).is_none());
    let before = space.generation();
    assert!(space.unmap(BASE + PAGE_SIZE, PAGE_SIZE).is_ok());
    assert_eq!(space.generation(), before);
    assert!(space.unmap(BASE, PAGE_SIZE).is_ok());
    assert!(space.generation() > before);
}

#[test]
fn shared_futexes_are_named_by_object_and_private_ones_by_address() {
    let (_, space) = space();
    assert!(space.map(shared(BASE, 1)).is_ok());
    assert!(space.map(zeros(BASE + PAGE_SIZE, 1, RW)).is_ok());
    let copy = space.duplicate().expect("there is room");
    assert_eq!(space.futex_key(BASE + 4, false), copy.futex_key(BASE + 4, false));
    assert_ne!(space.futex_key(BASE + 4, true), copy.futex_key(BASE + 4, true));
    let private = BASE + PAGE_SIZE;
    assert_ne!(space.futex_key(private, false), copy.futex_key(private, false));
    assert_eq!(space.futex_key(private, false), space.futex_key(private, true));
    assert_eq!(space.futex_key(1 << 30, false), Err(Errno::FAULT));
}
