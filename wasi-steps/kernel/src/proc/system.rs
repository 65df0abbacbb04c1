//! The part of `/proc` that describes the machine, and `/sys`.

use std::fmt::Write;

use cooper_vfs::synthetic::SyntheticEntry;
use cooper_vfs::{Errno, FileKind};

use super::entry;
use crate::kernel::Kernel;
use crate::syscalls::{RELEASE, VERSION};
use crate::wait::lock;

/// Where the contents of a file come from.
#[derive(Clone, Copy)]
pub(super) enum Contents {
    /// Always the same.
    Fixed(&'static str),
    /// Made when it is opened.
    Made(fn(&Kernel) -> String),
    /// A symbolic link.
    Link(&'static str),
    /// An empty directory.
    Directory,
}

/// One line: a path and what is there. Directories on the way exist by being on the way.
pub(super) type Line = (&'static str, Contents);

use Contents::{Directory, Fixed, Link, Made};

/// `/proc` without processes.
pub(super) const PROC: &[Line] = &[
    ("cgroups", Fixed("#subsys_name\thierarchy\tnum_cgroups\tenabled\n")),
    ("cmdline", Fixed("console=none\n")),
    ("cpuinfo", Made(cpuinfo)),
    (
        "devices",
        Fixed("Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n"),
    ),
    ("filesystems", Fixed("nodev\tproc\nnodev\tsysfs\nnodev\ttmpfs\nnodev\tdevpts\nnodev\toverlay\n")),
    ("interrupts", Fixed("")),
    ("loadavg", Made(loadavg)),
    ("locks", Made(locks)),
    ("meminfo", Made(meminfo)),
    ("modules", Fixed("")),
    ("mounts", Link("self/mounts")),
    ("net", Link("self/net")),
    ("partitions", Fixed("major minor  #blocks  name\n\n")),
    ("stat", Made(stat)),
    ("swaps", Fixed("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
    ("sys/fs/file-max", Fixed("9223372036854775807\n")),
    ("sys/fs/file-nr", Fixed("0\t0\t9223372036854775807\n")),
    ("sys/fs/nr_open", Fixed("1048576\n")),
    ("sys/fs/pipe-max-size", Fixed("1048576\n")),
    ("sys/fs/protected_hardlinks", Fixed("1\n")),
    ("sys/fs/protected_symlinks", Fixed("1\n")),
    ("sys/kernel/cap_last_cap", Fixed("40\n")),
    ("sys/kernel/core_pattern", Fixed("core\n")),
    ("sys/kernel/domainname", Fixed("(none)\n")),
    ("sys/kernel/hostname", Made(|kernel| text(&kernel.identity.hostname))),
    ("sys/kernel/msgmax", Fixed("8192\n")),
    ("sys/kernel/ngroups_max", Fixed("65536\n")),
    ("sys/kernel/osrelease", Made(|_| text(RELEASE))),
    ("sys/kernel/ostype", Fixed("Linux\n")),
    ("sys/kernel/overflowgid", Fixed("65534\n")),
    ("sys/kernel/overflowuid", Fixed("65534\n")),
    ("sys/kernel/perf_event_paranoid", Fixed("4\n")),
    ("sys/kernel/pid_max", Fixed("32768\n")),
    ("sys/kernel/random/boot_id", Made(uuid)),
    ("sys/kernel/random/entropy_avail", Fixed("256\n")),
    ("sys/kernel/random/poolsize", Fixed("256\n")),
    ("sys/kernel/random/uuid", Made(uuid)),
    ("sys/kernel/randomize_va_space", Fixed("0\n")),
    ("sys/kernel/sem", Fixed("32000\t1024000000\t500\t32000\n")),
    ("sys/kernel/shmall", Fixed("18446744073692774399\n")),
    ("sys/kernel/shmmax", Fixed("18446744073692774399\n")),
    ("sys/kernel/shmmni", Fixed("4096\n")),
    ("sys/kernel/threads-max", Made(|kernel| format!("{}\n", kernel.limits.tasks))),
    ("sys/kernel/version", Made(|_| text(VERSION))),
    ("sys/kernel/yama/ptrace_scope", Fixed("1\n")),
    ("sys/net/core/somaxconn", Fixed("4096\n")),
    ("sys/net/ipv4/ip_local_port_range", Fixed("32768\t60999\n")),
    ("sys/net/ipv4/tcp_fin_timeout", Fixed("60\n")),
    ("sys/net/ipv6/conf/all/disable_ipv6", Fixed("0\n")),
    ("sys/vm/max_map_count", Fixed("65530\n")),
    ("sys/vm/min_free_kbytes", Fixed("4096\n")),
    ("sys/vm/mmap_min_addr", Fixed("65536\n")),
    ("sys/vm/overcommit_memory", Fixed("0\n")),
    ("sys/vm/overcommit_ratio", Fixed("50\n")),
    ("sys/vm/swappiness", Fixed("60\n")),
    ("sysvipc/msg", Made(queues)),
    ("sysvipc/sem", Made(semaphores)),
    ("sysvipc/shm", Made(segments)),
    (
        "tty/drivers",
        Fixed(
            "/dev/tty             /dev/tty        5       0 system:/dev/tty\n/dev/ptmx            /dev/ptmx       5       2 system\npty_slave            /dev/pts      136 0-1048575 pty:slave\n",
        ),
    ),
    ("uptime", Made(uptime)),
    ("version", Made(version)),
    ("vmstat", Fixed("nr_free_pages 0\n")),
];

/// `/sys`.
pub(super) const SYS: &[Line] = &[
    ("block", Directory),
    ("bus", Directory),
    ("class/net", Directory),
    ("devices/system/cpu/kernel_max", Fixed("63\n")),
    ("devices/system/cpu/offline", Fixed("\n")),
    ("devices/system/cpu/online", Made(cpu_range)),
    ("devices/system/cpu/possible", Made(cpu_range)),
    ("devices/system/cpu/present", Made(cpu_range)),
    ("devices/system/node/online", Fixed("0\n")),
    ("devices/system/node/possible", Fixed("0\n")),
    ("fs/cgroup/cgroup.controllers", Fixed("cpu memory pids\n")),
    ("fs/cgroup/cpu.max", Made(|kernel| format!("{} 100000\n", u64::from(kernel.identity.cpus) * 100_000))),
    ("fs/cgroup/memory.current", Made(|kernel| format!("{}\n", kernel.memory().charged()))),
    ("fs/cgroup/memory.max", Made(|kernel| format!("{}\n", kernel.identity.memory_bytes))),
    ("fs/cgroup/memory.swap.max", Fixed("0\n")),
    ("fs/cgroup/pids.max", Made(|kernel| format!("{}\n", kernel.limits.tasks))),
    ("kernel/mm/transparent_hugepage/enabled", Fixed("always madvise [never]\n")),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", Fixed("2097152\n")),
];

/// One line of text.
fn text(bytes: &[u8]) -> String {
    format!("{}\n", String::from_utf8_lossy(bytes))
}

fn version(_kernel: &Kernel) -> String {
    let (release, version) = (String::from_utf8_lossy(RELEASE), String::from_utf8_lossy(VERSION));
    format!("Linux version {release} (root@localhost) {version}\n")
}

fn cpu_range(kernel: &Kernel) -> String {
    match kernel.identity.cpus {
        0 | 1 => "0\n".into(),
        cpus => format!("0-{}\n", cpus - 1),
    }
}

/// Flags in the spelling of Linux, exactly those `cpuid` shows.
const CPU_FLAGS: &str = "fpu tsc cx8 cmov clflush mmx fxsr sse sse2 syscall nx rdtscp lm nopl cpuid pni ssse3 cx16 \
                         sse4_1 sse4_2 popcnt lahf_lm";

// Writing into a string cannot fail, so the results of `write!` are dropped in this file.

fn cpuinfo(kernel: &Kernel) -> String {
    let mut text = String::new();
    let cpus = kernel.identity.cpus.max(1);
    for cpu in 0..cpus {
        let _ = write!(
            text,
            "processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 44\n\
             model name\t: x86-64-v2 virtual processor\nstepping\t: 2\ncpu MHz\t\t: 1000.000\n\
             cache size\t: 8192 KB\nphysical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {cpu}\ncpu cores\t: {cpus}\n\
             apicid\t\t: {cpu}\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: 7\nwp\t\t: yes\n\
             flags\t\t: {CPU_FLAGS}\nbugs\t\t:\nbogomips\t: 2000.00\nclflush size\t: 64\ncache_alignment\t: 64\n\
             address sizes\t: 36 bits physical, 48 bits virtual\npower management:\n\n"
        );
    }
    text
}

fn meminfo(kernel: &Kernel) -> String {
    let total = kernel.identity.memory_bytes / 1024;
    let used = (kernel.memory().charged() / 1024).min(total);
    let free = total - used;
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("Hugepagesize", 2048),
    ];
    let mut text = String::new();
    for (name, kilobytes) in lines {
        let _ = writeln!(text, "{:<15} {kilobytes:8} kB", format!("{name}:"));
    }
    text
}

fn uptime(kernel: &Kernel) -> String {
    let up = kernel.uptime().as_secs_f64();
    format!("{up:.2} {:.2}\n", up * f64::from(kernel.identity.cpus))
}

fn loadavg(kernel: &Kernel) -> String {
    let table = lock(&kernel.table);
    let last = table.processes.keys().next_back().copied().unwrap_or(0);
    format!("0.00 0.00 0.00 1/{} {last}\n", table.task_count())
}

fn stat(kernel: &Kernel) -> String {
    let idle = kernel.uptime().as_millis() / 10;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let boot = now.saturating_sub(kernel.uptime()).as_secs();
    let cpus = kernel.identity.cpus.max(1);
    let mut text = format!("cpu  0 0 0 {} 0 0 0 0 0 0\n", idle * u128::from(cpus));
    for cpu in 0..cpus {
        let _ = writeln!(text, "cpu{cpu} 0 0 0 {idle} 0 0 0 0 0 0");
    }
    let processes = lock(&kernel.table).processes.len();
    let _ = writeln!(
        text,
        "intr 0\nctxt 0\nbtime {boot}\nprocesses {processes}\nprocs_running 1\nprocs_blocked 0"
    );
    text
}

fn locks(kernel: &Kernel) -> String {
    let mut text = String::new();
    for (index, (inode, record)) in kernel.registry.locks.list().into_iter().enumerate() {
        let mode = if record.mode == crate::locks::Mode::Shared { "READ " } else { "WRITE" };
        let class = if matches!(record.owner, crate::locks::Owner::Table(_)) { "POSIX " } else { "OFDLCK" };
        let last = if record.last == u64::MAX { "EOF".to_owned() } else { record.last.to_string() };
        let (number, pid, start) = (index + 1, record.pid, record.start);
        let _ = writeln!(text, "{number}: {class} ADVISORY  {mode} {pid} 00:01:{inode} {start} {last}");
    }
    text
}

fn semaphores(kernel: &Kernel) -> String {
    let header = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
    let objects = lock(&kernel.semaphores);
    let lines = objects.iter().map(|(id, set)| {
        let facts = set.facts();
        let start = facts.permissions.line(id, &format!("{:>10}", facts.count));
        format!("{start} {:>10} {:>10}\n", facts.operated, facts.changed)
    });
    std::iter::once(header.to_owned()).chain(lines).collect()
}

fn queues(kernel: &Kernel) -> String {
    let header = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
                  stime      rtime      ctime\n";
    let objects = lock(&kernel.queues);
    let lines = objects.iter().map(|(id, queue)| {
        let facts = queue.facts();
        let (bytes, count) = (facts.bytes, facts.count);
        let middle = format!(" {bytes:>10} {count:>10} {:>5} {:>5}", facts.sender, facts.receiver);
        let start = facts.permissions.line(id, &middle);
        format!("{start} {:>10} {:>10} {:>10}\n", facts.sent, facts.received, facts.changed)
    });
    std::iter::once(header.to_owned()).chain(lines).collect()
}

fn segments(kernel: &Kernel) -> String {
    let header = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
                  atime      dtime      ctime                   rss                  swap\n";
    let segments = lock(&kernel.segments);
    let lines = segments.iter().map(|(id, segment)| {
        let (key, mode, size, pid) = (segment.key, segment.mode, segment.size, segment.creator_pid);
        let (uid, gid, (creator_uid, creator_gid)) = (segment.uid, segment.gid, segment.creator);
        let attached = segment.attachments();
        format!(
            "{key:>10} {id:>10}  {mode:>4o} {size:>21} {pid:>5} {pid:>5} {attached:>6} {uid:>5} {gid:>5} \
             {creator_uid:>5} {creator_gid:>5} {:>10} {:>10} {:>10} {size:>21} {:>21}\n",
            0, 0, 0, 0
        )
    });
    std::iter::once(header.to_owned()).chain(lines).collect()
}

/// A random identifier; also that of the boot, which nobody compares within a step.
fn uuid(kernel: &Kernel) -> String {
    let mut bytes = [0; 16];
    // Zeros when the host has no random bytes, which no supported host does.
    let _ = kernel.random_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}\n", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A table of lines as a tree of directories. Nodes are numbered from 1, the root.
pub(super) struct SystemTree {
    nodes: Vec<TreeNode>,
}

struct TreeNode {
    name: &'static str,
    contents: Option<Contents>,
    children: Vec<usize>,
}

impl SystemTree {
    /// The number of the root.
    pub(super) const ROOT: u64 = 1;

    /// Makes the directories that the paths imply.
    pub(super) fn new(lines: &[Line]) -> Self {
        let mut nodes = vec![TreeNode { name: "", contents: None, children: Vec::new() }];
        for (path, contents) in lines {
            let mut at = 0;
            for name in path.split('/') {
                let known = nodes[at].children.iter().copied().find(|child| nodes[*child].name == name);
                at = known.unwrap_or_else(|| {
                    nodes.push(TreeNode { name, contents: None, children: Vec::new() });
                    let new = nodes.len() - 1;
                    nodes[at].children.push(new);
                    new
                });
            }
            if !matches!(contents, Directory) {
                nodes[at].contents = Some(*contents);
            }
        }
        Self { nodes }
    }

    fn node(&self, id: u64) -> Result<&TreeNode, Errno> {
        id.checked_sub(1).and_then(|index| self.nodes.get(index as usize)).ok_or(Errno::NOENT)
    }

    /// The child of this name.
    pub(super) fn lookup(&self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        let node = self.node(directory)?;
        let child = node.children.iter().find(|child| self.nodes[**child].name.as_bytes() == name);
        child.map(|child| *child as u64 + 1).ok_or(Errno::NOENT)
    }

    /// Type and permission bits.
    pub(super) fn mode(&self, id: u64) -> Result<u32, Errno> {
        Ok(match self.node(id)?.contents {
            None | Some(Directory) => 0o040_555,
            Some(Link(_)) => 0o120_777,
            Some(Fixed(_) | Made(_)) => 0o100_444,
        })
    }

    /// The entries of a directory.
    pub(super) fn list(&self, id: u64) -> Result<Vec<SyntheticEntry>, Errno> {
        let entries = self.node(id)?.children.iter().map(|child| {
            let kind = match self.nodes[*child].contents {
                None | Some(Directory) => FileKind::Directory,
                Some(Link(_)) => FileKind::Symlink,
                Some(Fixed(_) | Made(_)) => FileKind::File,
            };
            entry(self.nodes[*child].name.as_bytes(), kind, *child as u64 + 1)
        });
        Ok(entries.collect())
    }

    /// The contents of a file.
    pub(super) fn render(&self, id: u64, kernel: &Kernel) -> Result<Vec<u8>, Errno> {
        match self.node(id)?.contents {
            Some(Fixed(text)) => Ok(text.as_bytes().to_vec()),
            Some(Made(make)) => Ok(make(kernel).into_bytes()),
            Some(Link(_)) => Err(Errno::LOOP),
            None | Some(Directory) => Err(Errno::ISDIR),
        }
    }

    /// The target of a link.
    pub(super) fn link(&self, id: u64) -> Result<&'static [u8], Errno> {
        match self.node(id)?.contents {
            Some(Link(target)) => Ok(target.as_bytes()),
            _ => Err(Errno::INVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_a_tree() {
        let tree = SystemTree::new(PROC);
        let sys = tree.lookup(SystemTree::ROOT, b"sys").expect("implied by its files");
        let kernel = tree.lookup(sys, b"kernel").expect("implied by its files");
        assert_eq!(tree.mode(kernel), Ok(0o040_555));
        let ostype = tree.lookup(kernel, b"ostype").expect("a line");
        assert_eq!(tree.mode(ostype), Ok(0o100_444));
        assert_eq!(tree.lookup(kernel, b"nothing"), Err(Errno::NOENT));
        let mounts = tree.lookup(SystemTree::ROOT, b"mounts").expect("a line");
        assert_eq!(tree.link(mounts), Ok(&b"self/mounts"[..]));
        let names = tree.list(sys).expect("a directory");
        let names: Vec<_> = names.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(names, [&b"fs"[..], b"kernel", b"net", b"vm"]);
    }

    #[test]
    fn no_path_is_both_a_file_and_a_directory() {
        for lines in [PROC, SYS] {
            let tree = SystemTree::new(lines);
            let both = tree.nodes.iter().filter(|node| node.contents.is_some() && !node.children.is_empty());
            assert_eq!(both.count(), 0);
        }
    }
}
