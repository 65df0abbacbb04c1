//! The strict pod: a process as Kubernetes' restricted security profile would run it, made here so that every clone
//! has it.
//!
//! The command is PID 1 of fresh pid, mount, ipc and uts namespaces. It has uid and gid 65534, no groups, empty
//! capability sets, `no_new_privs`; the root file system is read-only; `/proc` is fresh with its dangerous files masked, `/dev` holds six nodes, `/sys` is
//! read-only; one directory is writable, which is also HOME and TMPDIR. A seccomp filter refuses what the container
//! runtimes' default profile refuses to a process without capabilities, and in addition `ptrace`, `process_vm_*`,
//! `io_uring` and `mknod` of devices, as stricter clusters do.
//! The network stays the host's, so that a registry on loopback is reachable; the case's own rules decide what is used.
//!
//! The work is done by the program `cooper-pod` of this crate (`enter`), single-threaded, because it forks; [`Pod`] is
//! how cases use it. It needs root with the power to mount.
#![allow(unsafe_code, reason = "namespaces, mounts, capabilities and seccomp have no safe interface in std")]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, ptr};

use anyhow::{Context, Result, bail};

use crate::process::{self, Output};

/// The user and group of the pod's processes: Kubernetes' and Debian's `nobody`.
pub const UID: u32 = 65534;

/// A pod's directories on the host: a parent that everyone may enter, and in it the one writable place.
#[derive(Debug)]
pub struct Pod {
    directory: tempfile::TempDir,
}

impl Pod {
    /// Makes the writable directory; nothing runs yet.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("cooper-pod-").tempdir_in("/tmp")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let pod = Self { directory };
        fs::create_dir(pod.home())?;
        std::os::unix::fs::chown(pod.home(), Some(UID), Some(UID)).context("only root can make a pod")?;
        Ok(pod)
    }

    /// The writable directory: HOME and TMPDIR inside, the same path outside.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// A directory that the pod can read but not write: for binaries, contexts and bases.
    pub fn shared(&self) -> &Path {
        self.directory.path()
    }

    /// The command that runs `words` inside, to be completed by the caller.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Command> {
        self.command_with(&[], words)
    }

    /// The same with more variables in the environment.
    pub fn command_with<S: AsRef<OsStr>>(
        &self,
        environment: &[(&str, &str)],
        words: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.arg("--home").arg(self.home());
        for (key, value) in environment {
            command.arg("--env").arg(format!("{key}={value}"));
        }
        command.arg("--").args(words);
        Ok(command)
    }

    /// Runs `words` inside to their end.
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        process::run(&mut self.command(words)?)
    }
}

/// Where `cooper-pod` lies: beside the running test.
fn program() -> Result<PathBuf> {
    let mut at = std::env::current_exe()?;
    while at.pop() {
        let program = at.join("cooper-pod");
        if program.is_file() {
            return Ok(program);
        }
    }
    bail!("cooper-pod is not built: cargo build -p cooper-tests")
}

/// What `cooper-pod` is told.
#[derive(Debug)]
pub struct Plan {
    /// The one writable directory.
    pub home: PathBuf,
    /// Further writable directories, as mounted volumes would be.
    pub volumes: Vec<PathBuf>,
    /// The environment beside PATH, HOME and TMPDIR.
    pub environment: Vec<(OsString, OsString)>,
    /// The command.
    pub words: Vec<OsString>,
}

/// Becomes the parent of a pod: makes it, runs the command in it, and gives its exit code.
pub fn enter(plan: &Plan) -> Result<i32> {
    let root = tempfile::Builder::new().prefix("cooper-pod-root-").tempdir_in("/tmp")?;
    namespaces(libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)
        .context("cannot make namespaces")?;
    // SAFETY: the program is single-threaded, so the child may go on with everything.
    let pid = check(unsafe { libc::fork() }).context("cannot fork")?;
    if pid == 0 {
        let error = inside(plan, root.path()).unwrap_err();
        eprint_and_exit(&error);
    }
    forward_signals(pid);
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
    }
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}

/// The child: never returns unless something failed.
fn inside(plan: &Plan, root: &Path) -> Result<std::convert::Infallible> {
    // SAFETY: prctl with integer arguments.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    let back = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    file_system(plan, root)?;
    if std::env::set_current_dir(&back).is_err() {
        std::env::set_current_dir("/")?;
    }
    drop_privileges()?;
    seccomp()?;
    execute(plan)
}

fn execute(plan: &Plan) -> Result<std::convert::Infallible> {
    use std::os::unix::process::CommandExt;
    let (first, rest) = plan.words.split_first().context("no command")?;
    let mut command = Command::new(first);
    command.args(rest).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", &plan.home).env("TMPDIR", &plan.home);
    command.envs(plan.environment.iter().map(|(key, value)| (key, value)));
    Err(command.exec()).with_context(|| format!("cannot start `{}`", first.to_string_lossy()))
}

fn eprint_and_exit(error: &anyhow::Error) -> ! {
    use std::io::Write;
    drop(writeln!(io::stderr(), "cooper-pod: {error:#}"));
    // SAFETY: ends the forked child without running the parent's destructors.
    unsafe { libc::_exit(125) }
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn namespaces(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

fn forward_signals(to: libc::pid_t) {
    use std::sync::atomic::{AtomicI32, Ordering};
    static CHILD: AtomicI32 = AtomicI32::new(0);
    extern "C" fn pass_on(signal: libc::c_int) {
        // SAFETY: kill is async-signal-safe; the child is ours and not reaped while a handler runs.
        unsafe { libc::kill(CHILD.load(Ordering::Relaxed), signal) };
    }
    CHILD.store(to, Ordering::Relaxed);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler only calls kill.
        unsafe { libc::signal(signal, pass_on as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> Result<()> {
    let text = |text: &[u8]| CString::new(text).context("a path with a zero byte");
    let (source, at, kind, data) = (
        text(source.as_bytes())?,
        text(target.as_os_str().as_bytes())?,
        text(kind.as_bytes())?,
        text(data.as_bytes())?,
    );
    // SAFETY: four C strings that outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })
        .with_context(|| format!("cannot mount on {}", target.display()))?;
    Ok(())
}

const LOCKED: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(&source.to_string_lossy(), target, "", libc::MS_BIND, "")
}

fn read_only(target: &Path, more: libc::c_ulong) -> Result<()> {
    mount("none", target, "", libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | more, "")
}

/// Files of /proc that tell about the host, and directories through which it could be changed.
const MASKED_FILES: [&str; 5] = ["kcore", "keys", "timer_list", "sched_debug", "latency_stats"];
const MASKED_DIRECTORIES: [&str; 2] = ["acpi", "scsi"];
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// The six usual nodes: name, major, minor.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn file_system(plan: &Plan, root: &Path) -> Result<()> {
    namespaces(libc::CLONE_NEWNS)?;
    mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    bind(Path::new("/"), root)?;
    temporary_files(root)?;
    proc(&root.join("proc"))?;
    dev(&root.join("dev"))?;
    if root.join("sys").is_dir() {
        mount("sysfs", &root.join("sys"), "sysfs", libc::MS_RDONLY | LOCKED, "")?;
        let groups = Path::new("/sys/fs/cgroup");
        if groups.join("cgroup.procs").exists() {
            let at = root.join("sys/fs/cgroup");
            bind(groups, &at)?;
            read_only(&at, LOCKED)?;
        }
    }
    for writable in std::iter::once(&plan.home).chain(&plan.volumes) {
        let below = writable.strip_prefix("/").context("a writable directory must be an absolute path")?;
        bind(writable, &root.join(below))?;
    }
    read_only(root, 0)?;
    pivot(root)
}

/// Where /tmp is a mount of its own, the pod sees it too, read-only: inputs and the writable directory lie there.
fn temporary_files(root: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let tmp = Path::new("/tmp");
    if fs::metadata(tmp)?.dev() != fs::metadata("/")?.dev() {
        bind(tmp, &root.join("tmp"))?;
        read_only(&root.join("tmp"), 0)?;
    }
    Ok(())
}

fn proc(at: &Path) -> Result<()> {
    mount("proc", at, "proc", LOCKED, "")?;
    for name in MASKED_FILES.iter().filter(|name| at.join(name).exists()) {
        bind(Path::new("/dev/null"), &at.join(name))?;
    }
    for name in MASKED_DIRECTORIES.iter().filter(|name| at.join(name).is_dir()) {
        mount("tmpfs", &at.join(name), "tmpfs", libc::MS_RDONLY, "")?;
    }
    for name in READ_ONLY.iter().filter(|name| at.join(name).exists()) {
        bind(&at.join(name), &at.join(name))?;
        read_only(&at.join(name), LOCKED)?;
    }
    Ok(())
}

fn dev(at: &Path) -> Result<()> {
    mount("tmpfs", at, "tmpfs", libc::MS_NOSUID, "mode=755,size=64k")?;
    for (name, major, minor) in NODES {
        let path = CString::new(at.join(name).as_os_str().as_bytes())?;
        // SAFETY: a C string that outlives both calls.
        unsafe {
            check(libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(major, minor)))?;
            check(libc::chmod(path.as_ptr(), 0o666))?;
        }
    }
    fs::create_dir(at.join("shm"))?;
    mount("shm", &at.join("shm"), "tmpfs", LOCKED, "mode=1777,size=65536k")?;
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        std::os::unix::fs::symlink(format!("/proc/self/fd{target}"), at.join(name))?;
    }
    read_only(at, libc::MS_NOSUID)
}

fn pivot(root: &Path) -> Result<()> {
    std::env::set_current_dir(root)?;
    // SAFETY: constant C strings.
    unsafe {
        if libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) != 0 {
            return Err(io::Error::last_os_error()).context("cannot change the root");
        }
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)).context("cannot leave the old root")?;
    }
    std::env::set_current_dir("/")?;
    Ok(())
}

fn drop_privileges() -> Result<()> {
    /// Header and sets of capset(2), version 3.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: integer arguments, a null list of no groups, and capset with structures of the size it expects.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check(libc::setgroups(0, ptr::null()))?;
        check(libc::setresgid(UID, UID, UID))?;
        check(libc::setresuid(UID, UID, UID))?;
        let header = Header { version: VERSION_3, pid: 0 };
        let none = [0u32; 6];
        check(libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) as libc::c_int)?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        libc::umask(0o022);
    }
    Ok(())
}

/// Calls that answer EPERM, as the runtimes' default profile has it for a process without capabilities.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_afs_syscall,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_delete_module,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_sysfs,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_uselib,
    libc::SYS_userfaultfd,
    libc::SYS_ustat,
    libc::SYS_vhangup,
    libc::SYS_vserver,
];

/// What stricter clusters refuse beside that, and what a builder would reach for.
const DENIED_STRICT: &[libc::c_long] = &[
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
];

/// The last call that the profile knows; later ones are ENOSYS. It also refuses the x32 calls, which are far above.
const LAST_CALL: u32 = 462;
/// CLONE_NEW* without CLONE_NEWTIME, which clone(2) does not take.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
/// Values of personality(2) that every runtime allows.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// A seccomp program under construction: classic BPF over `struct seccomp_data`.
struct Filter(Vec<libc::sock_filter>);

impl Filter {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    const fn argument(n: u32) -> u32 {
        16 + 8 * n
    }
    const fn errno(errno: libc::c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }
    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        self.0.push(libc::sock_filter { code: code as u16, jt, jf, k });
    }
    fn load(&mut self, offset: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    }
    fn and(&mut self, mask: u32) {
        self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0, 0);
    }
    fn answer(&mut self, answer: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, answer, 0, 0);
    }
    /// Runs the next `skip` instructions only if the accumulator equals `value`.
    fn when_equal(&mut self, value: u32, skip: u8) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, skip);
    }
    /// The answer `answer` for one call, whatever its arguments.
    fn call(&mut self, number: libc::c_long, answer: u32) {
        self.when_equal(number as u32, 1);
        self.answer(answer);
    }
    /// A call whose argument decides: the rest is given as a block that ends with an answer.
    fn call_with(&mut self, number: libc::c_long, block: impl FnOnce(&mut Self)) {
        let mut rest = Self(Vec::new());
        block(&mut rest);
        rest.answer(Self::ALLOW);
        self.when_equal(number as u32, rest.0.len() as u8);
        self.0.append(&mut rest.0);
    }
}

/// The whole filter.
fn filter() -> Vec<libc::sock_filter> {
    let mut f = Filter(Vec::new());
    let (refused, unknown) = (Filter::errno(libc::EPERM), Filter::errno(libc::ENOSYS));
    f.load(Filter::ARCHITECTURE);
    f.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    f.answer(unknown);
    f.load(Filter::NUMBER);
    f.push(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, LAST_CALL, 0, 1);
    f.answer(unknown);
    DENIED.iter().chain(DENIED_STRICT).for_each(|&number| f.call(number, refused));
    // The library falls back to clone, whose flags can be seen.
    f.call(libc::SYS_clone3, unknown);
    f.call_with(libc::SYS_clone, |f| {
        f.load(Filter::argument(0));
        f.push(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, NAMESPACE_FLAGS, 0, 1);
        f.answer(refused);
    });
    f.call_with(libc::SYS_socket, |f| {
        f.load(Filter::argument(0));
        for family in [libc::AF_ALG, libc::AF_VSOCK] {
            f.when_equal(family as u32, 1);
            f.answer(refused);
        }
    });
    f.call_with(libc::SYS_personality, |f| {
        f.load(Filter::argument(0));
        for value in PERSONALITIES {
            f.when_equal(value, 1);
            f.answer(Filter::ALLOW);
        }
        f.answer(refused);
    });
    for (number, argument) in [(libc::SYS_mknod, 1), (libc::SYS_mknodat, 2)] {
        f.call_with(number, |f| {
            f.load(Filter::argument(argument));
            f.and(libc::S_IFMT);
            for kind in [libc::S_IFCHR, libc::S_IFBLK] {
                f.when_equal(kind, 1);
                f.answer(refused);
            }
        });
    }
    f.answer(Filter::ALLOW);
    f.0
}

fn seccomp() -> Result<()> {
    let mut instructions = filter();
    let program =
        libc::sock_fprog { len: u16::try_from(instructions.len())?, filter: instructions.as_mut_ptr() };
    // SAFETY: the program and its instructions outlive the call, which copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
        .context("cannot load the seccomp filter")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_fits_and_every_jump_lands_inside() {
        let filter = filter();
        assert!(filter.len() < 4096);
        for (at, instruction) in filter.iter().enumerate() {
            assert!(at + 1 + usize::from(instruction.jt.max(instruction.jf)) < filter.len() + 1);
        }
    }

    #[test]
    fn no_call_is_denied_twice() {
        let mut all: Vec<_> = DENIED.iter().chain(DENIED_STRICT).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), DENIED.len() + DENIED_STRICT.len());
    }
}
