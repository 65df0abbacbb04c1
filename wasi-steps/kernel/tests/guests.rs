//! Guest programs in C: run on the host first and then in a kernel, with the same output.
#![allow(clippy::disallowed_methods, reason = "tests compile and run programs on the host")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cooper_kernel::{ExitStatus, LimitKind};
use support::World;

/// Runs a program as a child, because the first process has a role that programs on the host do not play.
const LAUNCHER: &str = r#"
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **arguments)
{
    int status;
    pid_t child = fork();
    if (!child) {
        execv(arguments[1], arguments + 1);
        _exit(127);
    }
    while (waitpid(child, &status, 0) != child)
        ;
    if (WIFSIGNALED(status)) {
        printf("signal %d\n", WTERMSIG(status));
        return 128 + WTERMSIG(status);
    }
    return WEXITSTATUS(status);
}
"#;

/// Where this test run keeps compiled programs.
static BUILD: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

fn compile(name: &str, source: &Path, flags: &[&str]) -> PathBuf {
    let program = BUILD.path().join(name);
    let output = Command::new("cc")
        .args(["-O1", "-w", "-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .args(flags)
        .output()
        .expect("a C compiler is installed, as the README asks");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    program
}

fn compile_text(name: &str, text: &str, flags: &[&str]) -> PathBuf {
    let source = BUILD.path().join(format!("{name}.c"));
    std::fs::write(&source, text).expect("the temporary directory is writable");
    compile(name, &source, flags)
}

/// Adds a program and the shared objects it needs, wherever the host has them.
fn add_program(world: &mut World, host: &Path, path: &str) {
    world.copy(host, path);
    let output = Command::new("ldd").arg(host).output().expect("ldd is part of the C library");
    for word in
        String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let inside = word.trim_start_matches('/');
        for (end, _) in inside.match_indices('/') {
            world.make_directory(&inside[..end], 0o755);
        }
        world.copy(&Path::new(word).canonicalize().expect("ldd names files"), inside);
    }
}

fn world_with(name: &str, program: &Path) -> World {
    let launcher = compile_text(&format!("launcher-{name}"), LAUNCHER, &["-static"]);
    let mut world = World::new();
    world.copy(&launcher, "bin/launcher");
    add_program(&mut world, program, &format!("bin/{name}"));
    // pthread_cancel loads it at run time.
    for candidate in ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/libgcc_s.so.1", "/usr/lib/libgcc_s.so.1"]
    {
        if let Ok(path) = Path::new(candidate).canonicalize() {
            let inside = candidate.trim_start_matches('/');
            for (end, _) in inside.match_indices('/') {
                world.make_directory(&inside[..end], 0o755);
            }
            world.copy(&path, inside);
        }
    }
    world
}

/// Where a guest program of the workspace is.
fn guest_source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/guests/{name}.c"))
}

/// Compares one of the workspace's guest programs with the host.
fn check(name: &str) {
    let program = compile(name, &guest_source(name), &["-lm"]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let native = Command::new(&program)
        .current_dir(directory.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/root")
        .output()
        .expect("the program was just compiled");
    let mut world = world_with(name, &program);
    world.directory = b"/tmp".to_vec();
    let outcome = world.run(&["/bin/launcher", &format!("/bin/{name}")]);
    assert_eq!(outcome.stdout, String::from_utf8_lossy(&native.stdout), "{:?}", outcome.report);
    assert_eq!(outcome.stderr, String::from_utf8_lossy(&native.stderr));
    let code =
        native.status.code().and_then(|code| u8::try_from(code).ok()).expect("the program ends by itself");
    assert_eq!(outcome.status, ExitStatus::Code(code));
}

macro_rules! programs {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            check(stringify!($name));
        }
    )*};
}

programs!(
    alarm,
    badpointers,
    brk,
    clone,
    creds,
    devices,
    dirs,
    elf,
    environment,
    epoll,
    exec,
    faults,
    files,
    futex,
    getdents,
    groups,
    inet,
    jumps,
    links,
    locks,
    mmap,
    modes,
    pipes,
    poll,
    processes,
    ptys,
    rename,
    shrink,
    sigaltstack,
    sigchld,
    signals,
    sigpipe,
    sparse,
    stat,
    storms,
    system,
    sysv,
    threads,
    timers,
    times,
    tmpfile,
    umask,
    unix_sockets,
    waitv,
    wakeups,
    xattrs,
);

fn run_text(name: &str, text: &str, change: impl FnOnce(&mut World)) -> support::Outcome {
    let mut world = World::new();
    world.copy(&compile_text(name, text, &["-static"]), "bin/program");
    change(&mut world);
    world.run(&["/bin/program", "argument"])
}

#[test]
fn static_program_sees_its_arguments_and_ends_with_its_code() {
    let text = r#"#include <stdio.h>
        int main(int count, char **v) { printf("%d %s\n", count, v[1]); return 7; }"#;
    let outcome = run_text("arguments", text, |_| {});
    assert_eq!((outcome.status, outcome.stdout.as_str()), (ExitStatus::Code(7), "2 argument\n"));
    assert!(outcome.report.instructions > 1000, "{:?}", outcome.report);
}

#[test]
fn first_process_is_not_killed_by_signals_it_does_not_handle() {
    let text = r#"#include <signal.h>
        #include <unistd.h>
        int main(void) { kill(getpid(), SIGKILL); raise(SIGTERM); return getpid() == 1 ? 5 : 6; }"#;
    assert_eq!(run_text("first", text, |_| {}).status, ExitStatus::Code(5));
}

#[test]
fn first_process_dies_of_its_own_fault() {
    let text = "int main(void) { *(volatile int *)16 = 1; return 0; }";
    assert_eq!(run_text("fault", text, |_| {}).status, ExitStatus::Core(11));
}

#[test]
fn every_call_answers_whatever_it_is_given() {
    let mut world = World::new();
    world.copy(&compile("everycall", &guest_source("everycall"), &["-static"]), "bin/program");
    world.copy(&compile_text("launcher-everycall", LAUNCHER, &["-static"]), "bin/launcher");
    let outcome = world.run(&["/bin/launcher", "/bin/program"]);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (ExitStatus::Code(0), ""), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("every call answered\n"), "{}", outcome.stdout);
    let panicked = outcome.report.hints.iter().any(|hint| hint.contains("internal error"));
    assert!(!panicked, "{:?}", outcome.report);
}

#[test]
fn fork_bomb_reaches_the_limit_and_ends() {
    let text = r#"#include <errno.h>
        #include <unistd.h>
        int main(void)
        {
            for (;;)
                if (fork() < 0)
                    return errno == EAGAIN ? 3 : 4;
        }"#;
    let outcome = run_text("bomb", text, |world| world.limits.tasks = 40);
    assert_eq!((outcome.status, outcome.report.limits), (ExitStatus::Code(3), vec![LimitKind::Tasks]));
}

#[test]
fn memory_limit_is_enomem_and_named() {
    let text = r#"#include <stdlib.h>
        #include <string.h>
        int main(void)
        {
            for (int i = 0; i < 1000; i++) {
                char *p = malloc(1 << 20);
                if (!p)
                    return i > 10 && i < 64 ? 9 : 1;
                memset(p, 1, 1 << 20);
            }
            return 2;
        }"#;
    let outcome = run_text("eater", text, |world| world.limits.memory_bytes = 64 << 20);
    assert_eq!((outcome.status, outcome.report.limits), (ExitStatus::Code(9), vec![LimitKind::Memory]));
}

#[test]
fn kill_all_ends_threads_that_compute_and_threads_that_wait() {
    let text = r#"#include <pthread.h>
        #include <unistd.h>
        static void *spin(void *p) { for (volatile long i = 0;; i++) ; }
        static void *wait_for_ever(void *p) { int ends[2]; char c; pipe(ends); read(ends[0], &c, 1); }
        int main(void)
        {
            pthread_t t;
            pthread_create(&t, 0, spin, 0);
            pthread_create(&t, 0, wait_for_ever, 0);
            if (fork() == 0)
                for (;;)
                    pause();
            write(1, "ready", 5);
            for (;;)
                sleep(1000);
        }"#;
    let mut world = World::new();
    world.copy(&compile_text("endless", text, &["-static"]), "bin/program");
    let (kernel, stdout, _) = world.kernel();
    kernel.start_init(world.command(&["/bin/program"])).expect("it is a program");
    while stdout.metadata().expect("a memory file").len() < 5 {
        std::thread::yield_now();
    }
    kernel.kill_all();
    assert_eq!(kernel.wait_init(), ExitStatus::Signal(9));
}

#[test]
fn children_of_the_first_process_end_with_it() {
    let text = r#"#include <unistd.h>
        int main(void)
        {
            if (fork() == 0)
                for (;;)
                    pause();
            return 4;
        }"#;
    assert_eq!(run_text("orphans", text, |_| {}).status, ExitStatus::Code(4));
}

#[test]
fn programs_for_other_machines_are_named_in_a_hint() {
    let text = r#"#include <errno.h>
        #include <unistd.h>
        int main(void) { execl("/bin/other", "other", (char *)0); return errno == ENOEXEC ? 8 : 1; }"#;
    let outcome = run_text("hint", text, |world| {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(64, 0);
        (header[16], header[18]) = (2, 183);
        world.make_file("bin/other", &header, 0o755);
    });
    assert_eq!(outcome.status, ExitStatus::Code(8));
    assert_eq!(outcome.report.hints, ["cannot execute `/bin/other`: program for aarch64 (arm64)"]);
}

#[test]
fn shared_segments_are_one_memory() {
    let text = r#"#include <stdio.h>
        #include <sys/shm.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void)
        {
            int id = shmget(77, 8192, IPC_CREAT | 0600);
            int *p = shmat(id, 0, 0);
            if (fork() == 0) {
                int *q = shmat(shmget(77, 0, 0), 0, 0);
                q[1024] = 5;
                _exit(p == q);
            }
            wait(0);
            struct shmid_ds state;
            shmctl(id, IPC_STAT, &state);
            printf("%d %ld %ld\n", p[1024], (long)state.shm_segsz, (long)state.shm_nattch);
            printf("%d ", shmctl(id, IPC_RMID, 0));
            printf("%d ", shmget(77, 0, 0));
            p[0] = 1;
            printf("%d ", shmdt(p));
            printf("%d\n", shmdt(p));
            return 0;
        }"#;
    assert_eq!(run_text("segments", text, |_| {}).stdout, "5 8192 1\n0 -1 0 -1\n");
}

#[test]
fn unknown_calls_are_counted() {
    let text = r#"#include <unistd.h>
        int main(void) { syscall(9999); syscall(9999); return 0; }"#;
    let report = run_text("unknown", text, |_| {}).report;
    assert_eq!(report.unimplemented.into_iter().collect::<Vec<_>>(), [("#9999".to_owned(), 2)]);
}
