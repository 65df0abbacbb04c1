//! WebAssembly programs as processes: how they start, end, and make others.

use cooper_kernel::{ExitStatus, LimitKind};

use super::script::Trap;
use super::{Argument, Script, World};
use Argument::{At, I, L, LongAt};

/// What `/bin/script` does as an ordinary program.
fn status_of(script: &Script) -> (ExitStatus, Vec<String>) {
    let mut world = World::new();
    world.program("bin/script", &script.module());
    let outcome = world.run(&["/bin/script"]);
    (outcome.status, outcome.report.hints)
}

#[test]
fn a_program_that_returns_ends_well() {
    assert_eq!(status_of(&Script::new()), (ExitStatus::Code(0), Vec::new()));
}

#[test]
fn exit_codes_are_kept() {
    for code in [0, 1, 3, 126, 255] {
        let script = Script::new().call("proc_exit", &[I(code)], 0);
        assert_eq!(status_of(&script).0, ExitStatus::Code(code as u8));
    }
}

#[test]
fn traps_are_the_signals_of_a_native_program() {
    let check = |trap: Trap, signal: u8, reason: &str| {
        let (status, hints) = status_of(&Script::new().trap(trap));
        assert_eq!(status, ExitStatus::Core(signal), "{trap:?}: {hints:?}");
        assert!(hints.iter().any(|hint| hint.contains(reason)), "{trap:?}: {hints:?}");
    };
    check(Trap::Unreachable, 6, "`script` failed: wasm trap: wasm `unreachable` instruction executed");
    check(Trap::OutOfBounds, 11, "out of bounds memory access");
    check(Trap::DivideByZero, 8, "integer divide by zero");
    check(Trap::Recursion, 11, "call stack exhausted");
}

#[test]
fn memory_grows_within_the_step_and_is_refused_beyond() {
    World::new().check(&Script::new().trap(Trap::Grow(100)).number(0x60_0000, 8, 0));
    let mut world = World::new();
    world.memory = 4 << 20;
    let outcome = {
        world.program("bin/script", &Script::new().trap(Trap::Grow(100)).module());
        world.run(&["/bin/script"])
    };
    // `memory.grow` says no, which the script takes as wrong.
    assert_eq!(outcome.status, ExitStatus::Code(99));
    assert_eq!(outcome.report.limits, [LimitKind::Memory]);
}

#[test]
fn the_toolbox_alone_has_its_imports() {
    let script = Script::new().system(&[L(39)], 1);
    World::new().check_tool(&script);
    let mut world = World::new();
    world.program("bin/script", &script.module());
    world.tool("bin/run", &spawning("/bin/script", &[]).spawn_fails(&request(0), 13).module());
    let outcome = world.run(&["/bin/run"]);
    assert_eq!(outcome.status, ExitStatus::Code(0), "{:?}", outcome.report);
    assert_eq!(
        outcome.report.hints,
        ["cannot execute `/bin/script`: it imports `cooper.syscall`, which only the toolbox may"]
    );
}

/// Where [`spawning`] puts things.
const PATH: u32 = 0x1000;
const ARGV: u32 = 0x1100;
const ENVP: u32 = 0x1180;
const ACTIONS: u32 = 0x1200;

/// A script with everything that a child needs: its path as the only argument, `A=b`, and actions.
fn spawning(path: &str, actions: &[[u64; 7]]) -> Script {
    Script::new()
        .data(PATH, &[path.as_bytes(), b"\0"].concat())
        .data(0x1080, b"A=b\0")
        .words(ARGV, &[PATH.into(), 0])
        .words(ENVP, &[0x1080, 0])
        .words(ACTIONS, actions.as_flattened())
}

/// The arguments of `spawn` for it.
fn request(actions: u64) -> [Argument; 5] {
    [L(PATH.into()), L(ARGV.into()), L(ENVP.into()), L(ACTIONS.into()), L(actions)]
}

#[test]
fn a_child_is_made_and_waited_for() {
    let mut world = World::new();
    // The child finds its argument and its environment, and ends with 7.
    let child = Script::new()
        .call("args_sizes_get", &[I(0), I(4)], 0)
        .number(0, 4, 1)
        .call("environ_get", &[I(16), I(64)], 0)
        .bytes(64, b"A=b\0")
        .call("proc_exit", &[I(7)], 0);
    world.program("bin/child", &child.module());
    let parent = spawning("/bin/child", &[])
        .spawn(&request(0), 0x10)
        .system_works(&[L(61), LongAt(0x10), L(0x20), L(0), L(0)])
        .number(0x20, 4, 7 << 8)
        .system(&[L(61), L(u64::MAX), L(0), L(0), L(0)], -10);
    world.check_tool(&parent);
}

#[test]
fn actions_happen_between_birth_and_execve_and_their_failure_is_told() {
    let mut world = World::new();
    // What the child writes to its standard output goes to the pipe, and its directory is `/tmp`.
    let child = Script::new()
        .buffer(0, 16, 5)
        .data(16, b"hello")
        .call("fd_write", &[I(1), I(0), I(1), I(8)], 0)
        .call("environ_sizes_get", &[I(32), I(36)], 0)
        // `A=b` and `PWD=/tmp`.
        .number(36, 4, 4 + 9);
    world.program("bin/child", &child.module());
    let actions = [[33, 11, 1, 0, 0, 0, 0], [80, 0x1300, 0, 0, 0, 0, 0]];
    let parent = spawning("/bin/child", &actions)
        .data(0x1300, b"/tmp\0")
        // pipe2, moved to 10 and 11
        .system(&[L(293), L(0x10), L(0o200_0000)], 0)
        .system(&[L(33), LongAt(0x10), L(10)], 10)
        .system(&[L(33), LongAt(0x14), L(11)], 11)
        .spawn(&request(2), 0x20)
        .system_works(&[L(61), LongAt(0x20), L(0x24), L(0), L(0)])
        .number(0x24, 4, 0)
        .system(&[L(0), L(10), L(0x40), L(64)], 5)
        .bytes(0x40, b"hello")
        // The parent's own are as before.
        .system(&[L(79), L(0x80), L(64)], 6)
        .bytes(0x80, b"/work\0");
    world.check_tool(&parent);
    let failing = spawning("/bin/child", &[[33, 999, 1, 0, 0, 0, 0]])
        .spawn_fails(&request(1), 9)
        .system(&[L(61), L(u64::MAX), L(0), L(0), L(0)], -10);
    world.check_tool(&failing);
    let missing = spawning("/bin/nothing", &[])
        .spawn_fails(&request(0), 2)
        .system(&[L(61), L(u64::MAX), L(0), L(0), L(0)], -10);
    world.check_tool(&missing);
}

#[test]
fn a_module_cannot_change_what_runs_it() {
    let check = |number: u64, arguments: [u64; 3], errno: i64| {
        let arguments = [L(number), L(arguments[0]), L(arguments[1]), L(arguments[2])];
        World::new().check_tool(&Script::new().words(0x100, &[0x5000]).system(&arguments, errno));
    };
    check(57, [0; 3], -38);
    check(56, [0x11, 0, 0], -38);
    check(11, [0, 4096, 0], -38);
    check(10, [0, 4096, 0], -38);
    // A handler is refused, ignoring is not.
    check(13, [10, 0x100, 0], -22);
    check(13, [10, 0x200, 0], -22);
}

#[test]
fn every_loop_can_be_stopped() {
    let mut world = World::new();
    world.program("bin/spin", &Script::new().trap(Trap::Spin).module());
    let parent = spawning("/bin/spin", &[])
        .spawn(&request(0), 0x10)
        .system(&[L(62), LongAt(0x10), L(15)], 0)
        .system_works(&[L(61), LongAt(0x10), L(0x20), L(0), L(0)])
        .number(0x20, 4, 15);
    world.check_tool(&parent);
}

#[test]
fn a_program_replaces_another() {
    let mut world = World::new();
    world.program("bin/child", &Script::new().call("proc_exit", &[I(5)], 0).module());
    let parent =
        spawning("/bin/child", &[]).system(&[L(59), L(PATH.into()), L(ARGV.into()), L(ENVP.into())], 0);
    world.tool("bin/script", &parent.module());
    assert_eq!(world.run(&["/bin/script"]).status, ExitStatus::Code(5));
}

#[test]
fn what_a_program_opens_does_not_collide_with_its_directories() {
    let script = Script::new()
        .data(0x100, b"file")
        .call("fd_prestat_get", &[I(3), I(0)], 0)
        .number(0, 1, 0)
        .call("fd_prestat_get", &[I(4), I(0)], 0)
        .call("fd_prestat_get", &[I(5), I(0)], 8)
        .call("path_open", &[I(3), I(0), I(0x100), I(4), I(1), L(64), L(0), I(0), I(0x10)], 0)
        .number(0x10, 4, 5)
        .call("fd_close", &[At(0x10)], 0);
    World::new().check(&script);
}
