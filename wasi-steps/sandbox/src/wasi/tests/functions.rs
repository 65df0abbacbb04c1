//! What each function of preview 1 does, and what it refuses.

use cooper_kernel::ExitStatus;
use cooper_vfs::{Caller, Credentials, Follow, OpenFlags, Opened, Walk};

use super::{Argument, Outcome, Script, World};
use Argument::{At, I, L};

/// Errors of preview 1.
mod errno {
    pub(super) const BADF: u32 = 8;
    pub(super) const EXIST: u32 = 20;
    pub(super) const FAULT: u32 = 21;
    pub(super) const ILSEQ: u32 = 25;
    pub(super) const INVAL: u32 = 28;
    pub(super) const ISDIR: u32 = 31;
    pub(super) const LOOP: u32 = 32;
    pub(super) const NAMETOOLONG: u32 = 37;
    pub(super) const NOENT: u32 = 44;
    pub(super) const NOTDIR: u32 = 54;
    pub(super) const NOTSOCK: u32 = 57;
    pub(super) const NOTSUP: u32 = 58;
    pub(super) const PERM: u32 = 63;
    pub(super) const ROFS: u32 = 69;
    pub(super) const SPIPE: u32 = 70;
}

/// The preopens: the working directory, which is `/work`, and the root.
const HERE: Argument = I(3);
const ROOT: Argument = I(4);
/// Rights to read, and to read and write.
const READ: Argument = L(2);
const READ_WRITE: Argument = L(2 | 64);
const NONE: Argument = L(0);
/// Where the number of an opened file goes.
const FD: u32 = 0x10;
/// Where results go.
const OUT: u32 = 0x400;
/// An iovec, and its bytes.
const VECTOR: u32 = 0x20;
const BUFFER: u32 = 0x800;
/// Names: a path lies at its own place.
const NAME: u32 = 0x100;
const OTHER: u32 = 0x180;

/// A script with two paths and a buffer of 16 bytes.
fn with(name: &str, other: &str) -> Script {
    Script::new().data(NAME, name.as_bytes()).data(OTHER, other.as_bytes()).buffer(VECTOR, BUFFER, 16)
}

fn path(name: &str) -> [Argument; 2] {
    [I(NAME), I(name.len() as u32)]
}

fn other(name: &str) -> [Argument; 2] {
    [I(OTHER), I(name.len() as u32)]
}

/// Opens a name: `oflags`, rights and `fdflags`.
fn open(
    script: Script,
    at: Argument,
    name: &str,
    how: u32,
    rights: Argument,
    flags: u32,
    expected: u32,
) -> Script {
    let [address, length] = path(name);
    let arguments = [at, I(0), address, length, I(how), rights, NONE, I(flags), I(FD)];
    script.call("path_open", &arguments, expected)
}

/// Creates and opens `name` with some bytes in it.
fn created(name: &str, bytes: &[u8]) -> Script {
    let script = with(name, "").data(BUFFER, bytes).buffer(VECTOR, BUFFER, bytes.len() as u32);
    open(script, HERE, name, 1, READ_WRITE, 0, 0)
        .call("fd_write", &[At(FD), I(VECTOR), I(1), I(OUT)], 0)
        .number(OUT, 4, bytes.len() as u64)
}

fn run(script: &Script) -> Outcome {
    World::new().check(script)
}

/// What is in a file afterwards; nothing where there is none.
fn contents(outcome: &Outcome, path: &str) -> Option<Vec<u8>> {
    let (root, credentials) = (outcome.root_fs.root(), Credentials::root());
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
    let position = outcome.root_fs.resolve(&walk, &root, path.as_bytes(), Follow::No).ok()?;
    let opened = outcome.root_fs.open_position(&walk, &position, OpenFlags::empty()).ok()?;
    let Opened::File(file) = opened.opened else { return None };
    let mut bytes = vec![0; file.size() as usize];
    let count = file.read_at(0, &mut bytes).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

#[test]
fn arguments_and_environment_are_handed_over_as_bytes() {
    let script = Script::new()
        .call("args_sizes_get", &[I(OUT), I(OUT + 4)], 0)
        .number(OUT, 4, 1)
        .number(OUT + 4, 4, 12)
        .call("args_get", &[I(OUT), I(BUFFER)], 0)
        .number(OUT, 4, BUFFER.into())
        .bytes(BUFFER, b"/bin/script\0")
        .call("environ_sizes_get", &[I(OUT), I(OUT + 4)], 0)
        .number(OUT, 4, 2)
        .number(OUT + 4, 4, 5 + 10)
        .call("environ_get", &[I(OUT), I(BUFFER)], 0)
        .number(OUT + 4, 4, (BUFFER + 5).into())
        .bytes(BUFFER, b"X=\xff\xfe\0PWD=/work\0")
        .call("args_get", &[I(0xffff_0000), I(BUFFER)], errno::FAULT);
    let mut world = World::new();
    world.environment = vec![b"X=\xff\xfe".to_vec()];
    world.check(&script);
}

#[test]
fn the_clock_of_a_program_is_the_same_in_every_run() {
    let start = 946_684_800_u64 * 1_000_000_000;
    let script = Script::new()
        .call("clock_time_get", &[I(0), L(0), I(OUT)], 0)
        .number(OUT, 8, start + 1000)
        .call("clock_time_get", &[I(1), L(0), I(OUT)], 0)
        .number(OUT, 8, 2000)
        .call("clock_res_get", &[I(0), I(OUT)], 0)
        .number(OUT, 8, 1000)
        .call("clock_time_get", &[I(9), L(0), I(OUT)], errno::INVAL)
        .call("clock_res_get", &[I(9), I(OUT)], errno::INVAL);
    run(&script);
    let mut world = World::new();
    world.environment = vec![b"SOURCE_DATE_EPOCH=7".to_vec()];
    world.check(&Script::new().call("clock_time_get", &[I(0), L(0), I(OUT)], 0).number(
        OUT,
        8,
        7_000_001_000,
    ));
}

#[test]
fn randomness_is_the_same_in_every_run_and_real_for_the_toolbox() {
    let bytes = |is_tool: bool| {
        let script = Script::new()
            .buffer(VECTOR, BUFFER, 32)
            .call("random_get", &[I(BUFFER), I(32)], 0)
            .call("fd_write", &[I(1), I(VECTOR), I(1), I(OUT)], 0);
        let mut world = World::new();
        let outcome = if is_tool { world.check_tool(&script) } else { world.check(&script) };
        assert_eq!(outcome.stdout.len(), 32);
        outcome.stdout
    };
    assert_eq!(bytes(false), bytes(false));
    assert_ne!(bytes(true), bytes(true));
    assert_ne!(bytes(false), vec![0; 32]);
    run(&Script::new().call("random_get", &[I(0xffff_0000), I(8)], errno::FAULT));
}

#[test]
fn signals_have_their_own_numbers() {
    run(&Script::new()
        .call("proc_raise", &[I(0)], 0)
        .call("proc_raise", &[I(31)], errno::INVAL)
        // `chld` is ignored.
        .call("proc_raise", &[I(16)], 0)
        .call("sched_yield", &[], 0));
    let mut world = World::new();
    world.program("bin/raise", &Script::new().call("proc_raise", &[I(15)], 0).module());
    // A child, because the first process of a step ignores what it has no handler for.
    let parent = Script::new()
        .data(0x1000, b"/bin/raise\0")
        .words(0x1100, &[0x1000, 0])
        .spawn(&[L(0x1000), L(0x1100), L(0), L(0), L(0)], 0x10)
        .system_works(&[L(61), Argument::LongAt(0x10), L(0x20), L(0), L(0)])
        .number(0x20, 4, 15);
    world.check_tool(&parent);
}

#[test]
fn files_are_written_read_and_sought() {
    let script = created("file", b"0123456789")
        .call("fd_tell", &[At(FD), I(OUT)], 0)
        .number(OUT, 8, 10)
        .call("fd_seek", &[At(FD), L(u64::MAX - 3), I(1), I(OUT)], 0)
        .number(OUT, 8, 6)
        .call("fd_seek", &[At(FD), L(u64::MAX), I(0), I(OUT)], errno::INVAL)
        .call("fd_seek", &[At(FD), L(0), I(3), I(OUT)], errno::INVAL)
        .call("fd_read", &[At(FD), I(VECTOR), I(1), I(OUT)], 0)
        .number(OUT, 4, 4)
        .bytes(BUFFER, b"6789")
        .call("fd_pread", &[At(FD), I(VECTOR), I(1), L(3), I(OUT)], 0)
        .number(OUT, 4, 7)
        .bytes(BUFFER, b"3456789")
        .call("fd_pwrite", &[At(FD), I(VECTOR), I(1), L(1), I(OUT)], 0)
        .call("fd_pread", &[At(FD), I(VECTOR), I(1), L(1 << 63), I(OUT)], errno::INVAL)
        .call("fd_read", &[At(FD), I(VECTOR), I(1025), I(OUT)], errno::INVAL)
        .call("fd_read", &[At(FD), I(0xffff_0000), I(1), I(OUT)], errno::FAULT)
        .call("fd_read", &[I(77), I(VECTOR), I(1), I(OUT)], errno::BADF)
        .call("fd_close", &[At(FD)], 0)
        .call("fd_close", &[At(FD)], errno::BADF);
    // `fd_pwrite` put the buffer, `3456789` and what it had before, over everything from the second byte on.
    assert_eq!(contents(&run(&script), "/work/file"), Some(b"03456789789".to_vec()));
}

#[test]
fn many_buffers_are_one_transfer() {
    let script = with("file", "")
        .data(BUFFER, b"abcdef")
        .buffer(VECTOR, BUFFER + 3, 3)
        .buffer(VECTOR + 8, BUFFER, 3)
        .buffer(VECTOR + 16, BUFFER, 0);
    let script = open(script, HERE, "file", 1, READ_WRITE, 0, 0)
        .call("fd_write", &[At(FD), I(VECTOR), I(3), I(OUT)], 0)
        .number(OUT, 4, 6)
        .call("fd_pread", &[At(FD), I(VECTOR), I(2), L(0), I(OUT)], 0)
        .bytes(BUFFER, b"abcdef")
        .call("fd_pwrite", &[At(FD), I(VECTOR), I(0), L(0), I(OUT)], 0)
        .number(OUT, 4, 0);
    assert_eq!(contents(&run(&script), "/work/file"), Some(b"defabc".to_vec()));
}

#[test]
fn descriptors_say_what_they_are() {
    let script = created("file", b"x")
        .call("fd_fdstat_get", &[At(FD), I(OUT)], 0)
        .number(OUT, 1, 4)
        .number(OUT + 2, 2, 0)
        .call("fd_fdstat_set_flags", &[At(FD), I(1 | 4)], 0)
        .call("fd_fdstat_get", &[At(FD), I(OUT)], 0)
        .number(OUT + 2, 2, 1 | 4)
        .call("fd_fdstat_set_flags", &[At(FD), I(2)], errno::NOTSUP)
        .call("fd_fdstat_set_flags", &[At(FD), I(32)], errno::INVAL)
        .call("fd_fdstat_set_rights", &[At(FD), L(0), L(0)], errno::NOTSUP)
        .call("fd_fdstat_set_rights", &[I(77), L(0), L(0)], errno::BADF)
        .call("fd_fdstat_get", &[HERE, I(OUT)], 0)
        .number(OUT, 1, 3)
        .call("fd_fdstat_get", &[I(0), I(OUT)], 0)
        .number(OUT, 1, 2)
        .call("fd_fdstat_get", &[I(77), I(OUT)], errno::BADF);
    run(&script);
}

#[test]
fn directories_are_given_under_their_names() {
    run(&Script::new()
        .call("fd_prestat_get", &[HERE, I(OUT)], 0)
        .number(OUT, 1, 0)
        .number(OUT + 4, 4, 1)
        .call("fd_prestat_dir_name", &[HERE, I(OUT), I(1)], 0)
        .bytes(OUT, b".")
        .call("fd_prestat_dir_name", &[ROOT, I(OUT), I(8)], 0)
        .bytes(OUT, b"/")
        .call("fd_prestat_dir_name", &[ROOT, I(OUT), I(0)], errno::NAMETOOLONG)
        .call("fd_prestat_dir_name", &[I(5), I(OUT), I(8)], errno::BADF)
        // What a program has closed is no directory of it any more.
        .call("fd_close", &[ROOT], 0)
        .call("fd_prestat_get", &[ROOT, I(OUT)], errno::BADF));
}

#[test]
fn numbers_move() {
    let script = created("file", b"x")
        .call("fd_renumber", &[At(FD), I(88)], errno::BADF)
        .call("fd_renumber", &[I(88), At(FD)], errno::BADF)
        .call("fd_renumber", &[At(FD), At(FD)], 0)
        .call("fd_renumber", &[At(FD), I(1)], 0)
        .call("fd_write", &[I(1), I(VECTOR), I(1), I(OUT)], 0)
        .call("fd_write", &[At(FD), I(VECTOR), I(1), I(OUT)], errno::BADF);
    let outcome = run(&script);
    assert_eq!((contents(&outcome, "/work/file"), outcome.stdout), (Some(b"xx".to_vec()), Vec::new()));
}

#[test]
fn sizes_and_times_of_files() {
    let script = created("file", b"0123456789")
        .call("fd_filestat_set_size", &[At(FD), L(4)], 0)
        .call("fd_allocate", &[At(FD), L(0), L(8)], 0)
        .call("fd_filestat_get", &[At(FD), I(OUT)], 0)
        .number(OUT + 16, 1, 4)
        .number(OUT + 24, 8, 1)
        .number(OUT + 32, 8, 8)
        .call("fd_filestat_set_times", &[At(FD), L(5_000_000_001), L(6), I(1 | 4)], 0)
        .call("fd_filestat_get", &[At(FD), I(OUT)], 0)
        .number(OUT + 40, 8, 5_000_000_001)
        .number(OUT + 48, 8, 6)
        .call("fd_filestat_set_times", &[At(FD), L(0), L(0), I(1 | 2)], errno::INVAL)
        .call("fd_filestat_set_times", &[At(FD), L(0), L(0), I(16)], errno::INVAL)
        .call("fd_filestat_set_times", &[At(FD), L(0), L(0), I(8)], 0)
        .call("fd_filestat_get", &[At(FD), I(OUT)], 0)
        .number(OUT + 40, 8, 5_000_000_001)
        .call("fd_advise", &[At(FD), L(0), L(0), I(5)], 0)
        .call("fd_advise", &[At(FD), L(0), L(0), I(6)], errno::INVAL)
        .call("fd_datasync", &[At(FD)], 0)
        .call("fd_sync", &[At(FD)], 0)
        .call("fd_sync", &[I(77)], errno::BADF)
        .call("fd_datasync", &[I(77)], errno::BADF)
        .call("fd_filestat_set_size", &[I(77), L(1)], errno::BADF)
        .call("fd_allocate", &[I(77), L(0), L(8)], errno::BADF)
        .call("fd_advise", &[I(77), L(0), L(0), I(0)], errno::BADF)
        .call("fd_filestat_get", &[I(77), I(OUT)], errno::BADF);
    assert_eq!(contents(&run(&script), "/work/file"), Some(b"0123\0\0\0\0".to_vec()));
}

#[test]
fn entries_are_listed_and_listing_goes_on_where_it_stopped() {
    let script = created("name", b"x")
        .call("fd_readdir", &[HERE, I(BUFFER), I(4096), L(0), I(OUT)], 0)
        // `.`, `..`, `name`: 24 bytes and the name each.
        .number(OUT, 4, 24 * 3 + 1 + 2 + 4)
        .number(BUFFER + 16, 4, 1)
        .number(BUFFER + 20, 1, 3)
        .bytes(BUFFER + 24, b".")
        .bytes(BUFFER + 49, b"")
        .bytes(BUFFER + 24 * 3 + 3, b"name")
        .number(BUFFER + 24 * 2 + 3 + 20, 1, 4)
        // From the second on, in a buffer that is too small: it is filled.
        .call("fd_readdir", &[HERE, I(BUFFER), I(30), Argument::L(1), I(OUT)], 0)
        .number(OUT, 4, 30)
        .bytes(BUFFER + 24, b"..")
        .call("fd_readdir", &[At(FD), I(BUFFER), I(64), L(0), I(OUT)], errno::NOTDIR)
        .call("fd_readdir", &[I(77), I(BUFFER), I(64), L(0), I(OUT)], errno::BADF);
    run(&script);
}

#[test]
fn paths_are_made_found_and_removed() {
    let (name, name_other) = (path("dir"), other("link"));
    let script = with("dir", "link")
        .call("path_create_directory", &[HERE, name[0], name[1]], 0)
        .call("path_create_directory", &[HERE, name[0], name[1]], errno::EXIST)
        .call("path_symlink", &[name[0], name[1], HERE, name_other[0], name_other[1]], 0)
        .call("path_filestat_get", &[HERE, I(0), name_other[0], name_other[1], I(OUT)], 0)
        .number(OUT + 16, 1, 7)
        .call("path_filestat_get", &[HERE, I(1), name_other[0], name_other[1], I(OUT)], 0)
        .number(OUT + 16, 1, 3)
        .call("path_filestat_get", &[HERE, I(2), name_other[0], name_other[1], I(OUT)], errno::INVAL)
        .call("path_readlink", &[HERE, name_other[0], name_other[1], I(BUFFER), I(2), I(OUT)], 0)
        .number(OUT, 4, 2)
        .bytes(BUFFER, b"di")
        .call("path_readlink", &[HERE, name_other[0], name_other[1], I(BUFFER), I(0), I(OUT)], 0)
        .call("path_readlink", &[HERE, name[0], name[1], I(BUFFER), I(9), I(OUT)], errno::INVAL)
        .call("path_unlink_file", &[HERE, name[0], name[1]], errno::ISDIR)
        .call("path_remove_directory", &[HERE, name_other[0], name_other[1]], errno::NOTDIR)
        .call("path_remove_directory", &[HERE, name[0], name[1]], 0)
        .call("path_unlink_file", &[HERE, name_other[0], name_other[1]], 0)
        .call("path_unlink_file", &[HERE, name_other[0], name_other[1]], errno::NOENT);
    run(&script);
}

#[test]
fn files_are_linked_renamed_and_dated() {
    let (name, name_other) = (path("file"), other("second"));
    let script = created("file", b"x")
        .data(OTHER, b"second")
        .call("path_link", &[HERE, I(0), name[0], name[1], HERE, name_other[0], name_other[1]], 0)
        .call("path_link", &[HERE, I(0), name[0], name[1], HERE, name_other[0], name_other[1]], errno::EXIST)
        .call("fd_filestat_get", &[At(FD), I(OUT)], 0)
        .number(OUT + 24, 8, 2)
        .call("path_rename", &[HERE, name[0], name[1], ROOT, name_other[0], name_other[1]], 0)
        .call("path_rename", &[HERE, name[0], name[1], ROOT, name_other[0], name_other[1]], errno::NOENT)
        .call(
            "path_filestat_set_times",
            &[ROOT, I(0), name_other[0], name_other[1], L(1), L(2_000_000_000), I(5)],
            0,
        )
        .call("path_filestat_get", &[ROOT, I(0), name_other[0], name_other[1], I(OUT)], 0)
        .number(OUT + 48, 8, 2_000_000_000)
        .call("path_filestat_set_times", &[ROOT, I(0), name[0], name[1], L(1), L(2), I(5)], errno::NOENT);
    let outcome = run(&script);
    assert_eq!(contents(&outcome, "/second"), Some(b"x".to_vec()));
    assert_eq!(contents(&outcome, "/work/second"), Some(b"x".to_vec()));
    assert_eq!(contents(&outcome, "/work/file"), None);
}

#[test]
fn opening_follows_flags_and_rights() {
    let check = |name: &str, how: u32, rights: Argument, flags: u32, expected: u32| {
        let script = with(name, "").data(BUFFER, b"new").buffer(VECTOR, BUFFER, 3);
        let mut world = World::new();
        world.file("work/old", b"previous", 0o644);
        world.check(&open(script, HERE, name, how, rights, flags, expected))
    };
    check("missing", 0, READ, 0, errno::NOENT);
    check("old", 2, READ, 0, errno::NOTDIR);
    check("old", 1 | 4, READ_WRITE, 0, errno::EXIST);
    check("old", 16, READ, 0, errno::INVAL);
    check("old", 0, READ, 32, errno::INVAL);
    check("old/", 0, READ, 0, errno::NOTDIR);
    check("", 0, READ, 0, errno::NOENT);
    check("a\0b", 0, READ, 0, errno::ILSEQ);
    check("/work/old", 0, READ, 0, errno::PERM);
    check("../tmp", 0, READ, 0, 0);
    check(".", 0, READ_WRITE, 0, errno::ISDIR);
    check(".", 2, READ_WRITE, 0, 0);
    let outcome = check("old", 8, READ_WRITE, 0, 0);
    assert_eq!(contents(&outcome, "/work/old"), Some(Vec::new()));
    let outcome = check("old", 0, READ_WRITE, 1, 0);
    assert_eq!(contents(&outcome, "/work/old"), Some(b"previous".to_vec()));
}

#[test]
fn what_is_not_opened_for_writing_is_not_written() {
    let mut world = World::new();
    world.file("work/file", b"kept", 0o644);
    let script = with("file", "");
    let script = open(script, HERE, "file", 0, READ, 0, 0)
        .call("fd_write", &[At(FD), I(VECTOR), I(1), I(OUT)], errno::BADF)
        .call("fd_pwrite", &[At(FD), I(VECTOR), I(1), L(0), I(OUT)], errno::BADF)
        .call("fd_filestat_set_size", &[At(FD), L(0)], errno::INVAL)
        .call("fd_allocate", &[At(FD), L(0), L(99)], errno::BADF);
    assert_eq!(contents(&world.check(&script), "/work/file"), Some(b"kept".to_vec()));
}

#[test]
fn symbolic_links_are_followed_when_asked() {
    let name = path("link");
    let script = with("link", "loop")
        .call(
            "path_symlink",
            &[other("loop")[0], other("loop")[1], HERE, other("loop")[0], other("loop")[1]],
            0,
        )
        .call("path_symlink", &[other("loop")[0], other("loop")[1], HERE, name[0], name[1]], 0);
    let script = open(script, HERE, "link", 0, READ, 0, errno::LOOP).call(
        "path_filestat_get",
        &[HERE, I(1), name[0], name[1], I(OUT)],
        errno::LOOP,
    );
    run(&script);
}

/// A subscription: a tag, and what follows it.
fn subscription(userdata: u64, tag: u8, first: u32, timeout: u64, flags: u16) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[8] = tag;
    bytes[16..20].copy_from_slice(&first.to_le_bytes());
    bytes[24..32].copy_from_slice(&timeout.to_le_bytes());
    bytes[40..42].copy_from_slice(&flags.to_le_bytes());
    bytes
}

#[test]
fn waiting_for_clocks_and_descriptors() {
    let poll = |count: u32| [I(0x1000), I(0x2000), I(count), I(OUT)];
    let hour = 3_600_000_000_000;
    // An hour of a clock that is the same in every run takes no time.
    let script = Script::new()
        .data(0x1000, &subscription(7, 0, 1, hour, 0))
        .call("poll_oneoff", &poll(1), 0)
        .number(OUT, 4, 1)
        .number(0x2000, 8, 7)
        .number(0x2008, 2, 0)
        .number(0x200a, 1, 0)
        .call("clock_time_get", &[I(1), L(0), I(OUT)], 0)
        .number(OUT, 8, hour + 1000)
        .call("poll_oneoff", &poll(0), errno::INVAL);
    run(&script);
    let mut world = World::new();
    world.stdin = Some(b"abc".to_vec());
    let all = [
        subscription(1, 1, 0, 0, 0),
        subscription(2, 2, 1, 0, 0),
        subscription(3, 1, 77, 0, 0),
        subscription(4, 0, 0, hour, 0),
    ];
    world.check(
        &Script::new()
            .data(0x1000, &all.concat())
            .call("poll_oneoff", &poll(4), 0)
            .number(OUT, 4, 3)
            .number(0x2000, 8, 1)
            .number(0x200a, 1, 1)
            .number(0x2020, 8, 2)
            .number(0x202a, 1, 2)
            .number(0x2040, 8, 3)
            .number(0x2048, 2, errno::BADF.into()),
    );
    run(&Script::new().data(0x1000, &subscription(1, 3, 0, 0, 0)).call(
        "poll_oneoff",
        &poll(1),
        errno::INVAL,
    ));
    run(&Script::new().data(0x1000, &subscription(1, 0, 2, 0, 0)).call("poll_oneoff", &poll(1), 0).number(
        0x2008,
        2,
        errno::NOTSUP.into(),
    ));
}

#[test]
fn sockets_take_and_give_bytes() {
    // A pair of connected sockets, which only the toolbox can make.
    let script = with("", "")
        .data(BUFFER, b"0123456789abcdef")
        .buffer(VECTOR + 8, BUFFER + 0x100, 4)
        .system(&[L(53), L(1), L(1), L(0), L(0x40)], 0)
        .call("fd_fdstat_get", &[At(0x40), I(OUT)], 0)
        .number(OUT, 1, 6)
        .call("sock_send", &[At(0x40), I(VECTOR), I(1), I(0), I(OUT)], 0)
        .number(OUT, 4, 16)
        .call("sock_send", &[At(0x40), I(VECTOR), I(1), I(1), I(OUT)], errno::INVAL)
        .call("sock_recv", &[At(0x44), I(VECTOR + 8), I(1), I(1), I(OUT), I(OUT + 8)], 0)
        .number(OUT, 4, 4)
        .call("sock_recv", &[At(0x44), I(VECTOR + 8), I(1), I(0), I(OUT), I(OUT + 8)], 0)
        .bytes(BUFFER + 0x100, b"0123")
        .number(OUT + 8, 2, 0)
        .call("sock_recv", &[At(0x44), I(VECTOR + 8), I(1), I(4), I(OUT), I(OUT + 8)], errno::INVAL)
        .call("sock_accept", &[At(0x44), I(0), I(OUT)], errno::INVAL)
        .call("sock_accept", &[At(0x44), I(1), I(OUT)], errno::INVAL)
        .call("sock_shutdown", &[At(0x40), I(2)], 0)
        .call("sock_shutdown", &[At(0x40), I(0)], errno::INVAL)
        .call("sock_shutdown", &[I(1), I(1)], errno::NOTSOCK)
        .call("sock_send", &[I(1), I(VECTOR), I(1), I(0), I(OUT)], errno::NOTSOCK);
    World::new().check_tool(&script);
}

#[test]
fn a_pipe_has_no_position() {
    run(&Script::new().call("fd_seek", &[I(77), L(0), I(0), I(OUT)], errno::BADF));
    let script = Script::new()
        .system(&[L(22), L(0x40)], 0)
        .call("fd_seek", &[At(0x40), L(0), I(0), I(OUT)], errno::SPIPE)
        .call("fd_tell", &[At(0x44), I(OUT)], errno::SPIPE);
    World::new().check_tool(&script);
}

#[test]
fn a_read_only_tree_stays_as_it_is_under_every_call_that_changes() {
    let mut world = World::new();
    world.mount_read_only();
    let before = world.mounted().encode();
    let change = |script: Script| {
        let mut script = script.data(0x300, b"mnt").data(NAME, b"file").data(OTHER, b"other");
        // The directory itself is a descriptor like any other.
        let mnt = [ROOT, I(0), I(0x300), I(3), I(2), READ_WRITE, L(u64::MAX), I(0), I(FD)];
        script = script.call("path_open", &mnt, 0);
        script
    };
    let (file, new) = ([I(NAME), I(4)], [I(OTHER), I(5)]);
    let at = At(FD);
    let opening = |name: [Argument; 2], how: u32, rights: Argument| {
        [at, I(1), name[0], name[1], I(how), rights, L(u64::MAX), I(0), I(0x14)]
    };
    let mut script = change(Script::new())
        // Truncation on open, with and without the right to write; creation; through a link and with a trailing slash.
        .call("path_open", &opening(file, 8, READ_WRITE), errno::ROFS)
        .call("path_open", &opening(file, 8, READ), errno::ROFS)
        .call("path_open", &opening(file, 8, NONE), errno::ROFS)
        .call("path_open", &opening(file, 0, READ_WRITE), errno::ROFS)
        .call("path_open", &opening(file, 0, L(64)), errno::ROFS)
        .call("path_open", &opening(file, 0, L(1 << 22)), errno::ROFS)
        .call("path_open", &opening(new, 1, READ), errno::ROFS)
        .call("path_open", &opening(new, 1 | 4, READ_WRITE), errno::ROFS)
        .call("path_create_directory", &[at, new[0], new[1]], errno::ROFS)
        .call("path_symlink", &[file[0], file[1], at, new[0], new[1]], errno::ROFS)
        .call("path_unlink_file", &[at, file[0], file[1]], errno::ROFS)
        .call("path_rename", &[at, file[0], file[1], at, new[0], new[1]], errno::ROFS)
        .call("path_link", &[at, I(0), file[0], file[1], at, new[0], new[1]], errno::ROFS)
        .call("path_filestat_set_times", &[at, I(0), file[0], file[1], L(1), L(1), I(5)], errno::ROFS)
        .call("fd_filestat_set_times", &[at, L(1), L(1), I(5)], errno::ROFS)
        // Names out of the tree, and into it.
        .call("path_rename", &[at, file[0], file[1], HERE, new[0], new[1]], 75)
        .call("path_link", &[at, I(0), file[0], file[1], HERE, new[0], new[1]], 75);
    script = script
        .data(0x320, b"dir")
        .data(0x330, b"link")
        .data(0x340, b"other/")
        .data(0x350, b"link/")
        .data(0x360, b"dir/in")
        .call("path_remove_directory", &[at, I(0x320), I(3)], errno::ROFS)
        .call("path_rename", &[at, I(0x320), I(3), at, I(0x340), I(6)], errno::ROFS)
        .call("path_open", &opening([I(0x330), I(4)], 8, READ_WRITE), errno::ROFS)
        .call("path_open", &opening([I(0x350), I(5)], 8, READ_WRITE), errno::NOTDIR)
        .call("path_open", &opening([I(0x340), I(6)], 1, READ_WRITE), errno::ISDIR)
        .call("path_create_directory", &[at, I(0x340), I(6)], errno::ROFS)
        .call("path_unlink_file", &[at, I(0x330), I(4)], errno::ROFS)
        .call("path_unlink_file", &[at, I(0x360), I(6)], errno::ROFS)
        // What was opened for reading is not written to either.
        .call("path_open", &opening(file, 0, READ), 0)
        .buffer(VECTOR, BUFFER, 4)
        .call("fd_write", &[At(0x14), I(VECTOR), I(1), I(OUT)], errno::BADF)
        .call("fd_pwrite", &[At(0x14), I(VECTOR), I(1), L(0), I(OUT)], errno::BADF)
        .call("fd_filestat_set_size", &[At(0x14), L(0)], errno::INVAL)
        .call("fd_allocate", &[At(0x14), L(0), L(100)], errno::BADF)
        .call("fd_filestat_set_times", &[At(0x14), L(1), L(1), I(5)], errno::ROFS)
        .call("fd_pread", &[At(0x14), I(VECTOR), I(1), L(0), I(OUT)], 0)
        .bytes(BUFFER, b"kept");
    let outcome = world.check(&script);
    assert_eq!(outcome.mounted.encode(), before);
}

#[test]
fn permissions_hold() {
    // The step's user is root, who may everything but execute what nobody may.
    let mut world = World::new();
    world.file("bin/not-executable", &Script::new().module(), 0o644);
    let parent = Script::new()
        .data(0x1000, b"/bin/not-executable\0")
        .words(0x1100, &[0x1000, 0])
        .spawn_fails(&[L(0x1000), L(0x1100), L(0), L(0), L(0)], 13);
    let outcome = world.check_tool(&parent);
    assert_eq!(outcome.status, ExitStatus::Code(0));
}
