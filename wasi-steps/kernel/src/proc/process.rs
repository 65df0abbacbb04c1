//! The directories of processes: `/proc/PID`, `/proc/PID/task/TID` and what is in them.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cooper_vfs::synthetic::SyntheticEntry;
use cooper_vfs::{Errno, FileKind, Link, MountInfo, OpenFlags, Stat, SyntheticFile, SyntheticId};

use super::{Snapshot, entry, number, plain_stat};
use crate::files::table::DescriptorTable;
use crate::files::{Description, place};
use crate::kernel::Kernel;
use crate::memory::{AddressSpace, AreaInfo, Rights};
use crate::sockets::netlink::interfaces;
use crate::task::exit::ticks;
use crate::task::{Process, Task};
use crate::wait::lock;

/// The most bytes of arguments, environment or auxiliary vector that are shown.
const MAX_SHOWN: u64 = 4 << 20;

/// A node of a process: which process and thread, which kind of node, and the descriptor or line it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pid: u32,
    /// The thread; 0 for the process itself.
    tid: u32,
    place: Place,
    /// Line of the table, or descriptor.
    extra: u32,
}

/// Where in a process's directory a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The directory itself.
    Directory,
    /// A line of [`ENTRIES`].
    Entry,
    /// An entry of `fd`.
    Descriptor,
    /// An entry of `fdinfo`.
    DescriptorInfo,
    /// An entry of `net`.
    Net,
    /// An entry of `ns`.
    Namespace,
}

const PLACES: [Place; 6] =
    [Place::Directory, Place::Entry, Place::Descriptor, Place::DescriptorInfo, Place::Net, Place::Namespace];

impl Node {
    /// The directory of a process.
    pub(super) fn directory(pid: u32) -> Self {
        Self { pid, tid: 0, place: Place::Directory, extra: 0 }
    }

    /// Packs the node: 16 bits each for process and thread, 3 for the place, 24 for the rest.
    pub(super) fn encode(self) -> u64 {
        let place = PLACES.iter().position(|place| *place == self.place).unwrap_or(0) as u64;
        u64::from(self.pid) << 43
            | u64::from(self.tid) << 27
            | place << 24
            | u64::from(self.extra & 0xff_ffff)
    }

    /// The reverse of [`encode`](Self::encode).
    pub(super) fn decode(id: u64) -> Self {
        Self {
            pid: (id >> 43) as u32 & 0xffff,
            tid: (id >> 27) as u32 & 0xffff,
            place: PLACES.get((id >> 24) as usize & 7).copied().unwrap_or(Place::Directory),
            extra: id as u32 & 0xff_ffff,
        }
    }

    fn at(self, place: Place, extra: u32) -> Self {
        Self { place, extra, ..self }
    }

    fn line(self) -> Result<&'static Entry, Errno> {
        ENTRIES.get(self.extra as usize).ok_or(Errno::NOENT)
    }
}

/// Makes the contents of a file.
type Make = fn(&Subject) -> Vec<u8>;

/// What an entry is.
#[derive(Clone, Copy)]
enum What {
    /// A directory that this module lists itself.
    Directory,
    /// A link to a place.
    Link,
    /// A file whose contents are made.
    File(Make),
    /// The same, and it can be written.
    Writable(Make, Setting),
}

struct Entry {
    name: &'static str,
    mode: u32,
    what: What,
}

const fn file(name: &'static str, mode: u32, make: Make) -> Entry {
    Entry { name, mode: 0o100_000 | mode, what: What::File(make) }
}

const fn directory(name: &'static str, mode: u32) -> Entry {
    Entry { name, mode: 0o040_000 | mode, what: What::Directory }
}

const fn link(name: &'static str) -> Entry {
    Entry { name, mode: 0o120_777, what: What::Link }
}

/// Everything in the directory of a process or thread; `task` is only in the former.
const ENTRIES: &[Entry] = &[
    directory("task", 0o555),
    directory("fd", 0o500),
    directory("fdinfo", 0o555),
    directory("net", 0o555),
    directory("ns", 0o511),
    link("exe"),
    link("cwd"),
    link("root"),
    file("auxv", 0o400, |subject| subject.range(|layout| layout.auxiliary)),
    file("cgroup", 0o444, |_| b"0::/\n".to_vec()),
    file("cmdline", 0o444, |subject| subject.range(|layout| layout.arguments)),
    Entry { name: "comm", mode: 0o100_644, what: What::Writable(comm, Setting::Name) },
    file("environ", 0o400, |subject| subject.range(|layout| layout.environment)),
    file("gid_map", 0o444, |_| b"         0          0 4294967295\n".to_vec()),
    file("io", 0o400, |_| IO.as_bytes().to_vec()),
    file("limits", 0o444, limits),
    file("loginuid", 0o444, |_| b"4294967295".to_vec()),
    file("maps", 0o444, maps),
    file("mountinfo", 0o444, mountinfo),
    file("mounts", 0o444, mounts),
    file("oom_score", 0o444, |_| b"0\n".to_vec()),
    Entry {
        name: "oom_score_adj",
        mode: 0o100_644,
        what: What::Writable(|_| b"0\n".to_vec(), Setting::OutOfMemory),
    },
    file("personality", 0o400, |_| b"00000000\n".to_vec()),
    file("sessionid", 0o444, |_| b"4294967295".to_vec()),
    file("setgroups", 0o444, |_| b"allow\n".to_vec()),
    file("smaps", 0o444, smaps),
    file("stat", 0o444, stat_line),
    file("statm", 0o444, statm),
    file("status", 0o444, status),
    file("uid_map", 0o444, |_| b"         0          0 4294967295\n".to_vec()),
    file("wchan", 0o444, |_| b"0".to_vec()),
];

const IO: &str =
    "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n";

/// The files of `net`.
const NET: &[(&str, Make)] = &[
    ("dev", net_dev),
    ("if_inet6", |_| Vec::new()),
    ("route", net_route),
    ("tcp", |_| {
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
            .to_vec()
    }),
    ("tcp6", |_| {
        b"  sl  local_address                         remote_address                        st\n".to_vec()
    }),
    ("udp", |_| {
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
            .to_vec()
    }),
    ("unix", |_| b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec()),
];

/// The links of `ns`: name and number, the same for every process.
const NAMESPACES: &[(&str, u32)] = &[
    ("cgroup", 4_026_531_835),
    ("ipc", 4_026_531_839),
    ("mnt", 4_026_531_841),
    ("net", 4_026_531_840),
    ("pid", 4_026_531_836),
    ("user", 4_026_531_837),
    ("uts", 4_026_531_838),
];

/// What a write changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Setting {
    /// The name of the thread.
    Name,
    /// The preference of the out-of-memory killer, of which there is none.
    OutOfMemory,
}

/// A file that is written.
#[derive(Debug)]
pub(super) struct Writable {
    setting: Setting,
    task: Arc<Task>,
}

impl Writable {
    /// Takes what was written. `EINVAL` for what cannot be.
    pub(super) fn write(&self, data: &[u8]) -> Result<(), Errno> {
        let text = data.strip_suffix(b"\n").unwrap_or(data);
        match self.setting {
            Setting::Name => self.task.set_name(text),
            Setting::OutOfMemory => {
                let value: i32 = std::str::from_utf8(text)
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .ok_or(Errno::INVAL)?;
                if !(-1000..=1000).contains(&value) {
                    return Err(Errno::INVAL);
                }
            }
        }
        Ok(())
    }
}

/// The process and thread a file tells about.
struct Subject {
    kernel: Arc<Kernel>,
    process: Arc<Process>,
    /// Gone when the process is a zombie.
    task: Option<Arc<Task>>,
}

impl Subject {
    fn find(kernel: &Arc<Kernel>, node: Node) -> Result<Self, Errno> {
        let process = process(kernel, node.pid)?;
        let task = if node.tid == 0 { process.any_thread() } else { Some(thread(&process, node.tid)?) };
        Ok(Self { kernel: Arc::clone(kernel), process, task })
    }

    fn space(&self) -> Option<Arc<AddressSpace>> {
        self.task.as_ref().and_then(|task| task.space())
    }

    /// Bytes of the process's memory that its start-up code laid out.
    fn range(&self, which: impl Fn(&crate::memory::Layout) -> (u64, u64)) -> Vec<u8> {
        let Some(space) = self.space() else { return Vec::new() };
        let (start, end) = which(&lock(&space.layout));
        let length = end.saturating_sub(start).min(MAX_SHOWN);
        space.read_vec(start, length as usize).unwrap_or_default()
    }

    fn areas(&self) -> Vec<AreaInfo> {
        self.space().map(|space| space.list()).unwrap_or_default()
    }
}

fn process(kernel: &Kernel, pid: u32) -> Result<Arc<Process>, Errno> {
    let table = lock(&kernel.table);
    if let Some(node) = table.process(pid) {
        return Ok(Arc::clone(&node.process));
    }
    // The directory of a thread can be entered by its number too, but is not listed.
    let process = table.tasks.get(&pid).map(|task| Arc::clone(task.process())).ok_or(Errno::NOENT)?;
    // A thread that is still on its way out of a process that was waited for tells nothing any more.
    table.process(process.pid()).map(|_| process).ok_or(Errno::NOENT)
}

fn thread(process: &Process, tid: u32) -> Result<Arc<Task>, Errno> {
    process.threads().into_iter().find(|task| task.tid() == tid).ok_or(Errno::NOENT)
}

/// Finds the directory of a process.
pub(super) fn root(kernel: &Kernel, pid: u32) -> Result<Node, Errno> {
    process(kernel, pid).map(|_| Node::directory(pid))
}

/// Finds a name in a directory.
pub(super) fn lookup(kernel: &Kernel, node: Node, name: &[u8]) -> Result<Node, Errno> {
    let index = |names: &mut dyn Iterator<Item = &str>| {
        names.zip(0..).find(|(one, _)| one.as_bytes() == name).map(|(_, index)| index).ok_or(Errno::NOENT)
    };
    if node.place == Place::Directory {
        process(kernel, node.pid)?;
        let line = index(&mut ENTRIES.iter().map(|entry| entry.name))?;
        if node.tid != 0 && ENTRIES[line as usize].name == "task" {
            return Err(Errno::NOENT);
        }
        return Ok(node.at(Place::Entry, line));
    }
    if node.place != Place::Entry {
        return Err(Errno::NOTDIR);
    }
    match node.line()?.name {
        "task" => {
            let tid = number(name).ok_or(Errno::NOENT)?;
            thread(&*process(kernel, node.pid)?, tid)?;
            Ok(Node { tid, ..Node::directory(node.pid) })
        }
        directory @ ("fd" | "fdinfo") => {
            let descriptor = number(name).filter(|number| *number < 1 << 24).ok_or(Errno::NOENT)?;
            let found = node.at(Place::Descriptor, descriptor);
            description(kernel, found)?;
            Ok(if directory == "fd" { found } else { node.at(Place::DescriptorInfo, descriptor) })
        }
        "net" => Ok(node.at(Place::Net, index(&mut NET.iter().map(|entry| entry.0))?)),
        "ns" => Ok(node.at(Place::Namespace, index(&mut NAMESPACES.iter().map(|entry| entry.0))?)),
        _ => Err(Errno::NOTDIR),
    }
}

fn table(kernel: &Kernel, node: Node) -> Result<(Arc<Task>, Arc<DescriptorTable>), Errno> {
    let process = process(kernel, node.pid)?;
    let task = if node.tid == 0 { process.any_thread() } else { Some(thread(&process, node.tid)?) };
    let task = task.ok_or(Errno::NOENT)?;
    let files = task.files();
    Ok((task, files))
}

fn description(kernel: &Kernel, node: Node) -> Result<Arc<Description>, Errno> {
    table(kernel, node)?.1.get(node.extra as i32).map_err(|_| Errno::NOENT)
}

/// Attributes of a node: owned by the process's user, unless it may not be dumped.
pub(super) fn stat(kernel: &Kernel, node: Node, id: SyntheticId) -> Result<Stat, Errno> {
    let mode = match node.place {
        Place::Directory => 0o040_555,
        Place::Entry => node.line()?.mode,
        Place::Descriptor => {
            let file = description(kernel, node)?;
            let reads = if file.check_readable().is_ok() { 0o500 } else { 0 };
            let writes = if file.check_writable().is_ok() { 0o300 } else { 0 };
            0o120_000 | reads | writes
        }
        Place::DescriptorInfo | Place::Net => 0o100_444,
        Place::Namespace => 0o120_777,
    };
    let process = process(kernel, node.pid)?;
    let mut stat = plain_stat(id, mode, kernel);
    if let Some(task) = process.any_thread()
        && process.dumpable.load(Ordering::Relaxed) == 1
    {
        let credentials = task.credentials();
        (stat.uid, stat.gid) = (credentials.user.effective, credentials.group.effective);
    }
    Ok(stat)
}

/// The entries of a directory.
pub(super) fn list(kernel: &Kernel, node: Node) -> Result<Vec<SyntheticEntry>, Errno> {
    let make =
        |name: &str, kind: FileKind, found: Node| entry(name.as_bytes(), kind, SyntheticId::from(found).0);
    if node.place == Place::Directory {
        process(kernel, node.pid)?;
        let lines = ENTRIES.iter().enumerate().filter(|(_, line)| node.tid == 0 || line.name != "task");
        return Ok(lines
            .map(|(index, line)| {
                let kind = FileKind::from_mode(line.mode).unwrap_or(FileKind::File);
                make(line.name, kind, node.at(Place::Entry, index as u32))
            })
            .collect());
    }
    if node.place != Place::Entry {
        return Err(Errno::NOTDIR);
    }
    match node.line()?.name {
        "task" => {
            let threads = process(kernel, node.pid)?.threads();
            let node_of = |tid| Node { tid, ..Node::directory(node.pid) };
            let entry =
                |task: &Arc<Task>| make(&task.tid().to_string(), FileKind::Directory, node_of(task.tid()));
            Ok(threads.iter().map(entry).collect())
        }
        directory @ ("fd" | "fdinfo") => {
            let (place, kind) = match directory {
                "fd" => (Place::Descriptor, FileKind::Symlink),
                _ => (Place::DescriptorInfo, FileKind::File),
            };
            let numbers = table(kernel, node)?.1.list();
            let entry = |number: i32| make(&number.to_string(), kind, node.at(place, number as u32));
            Ok(numbers.into_iter().map(|(number, ..)| entry(number)).collect())
        }
        "net" => Ok(NET
            .iter()
            .enumerate()
            .map(|(index, line)| make(line.0, FileKind::File, node.at(Place::Net, index as u32)))
            .collect()),
        "ns" => Ok(NAMESPACES
            .iter()
            .enumerate()
            .map(|(index, line)| make(line.0, FileKind::Symlink, node.at(Place::Namespace, index as u32)))
            .collect()),
        _ => Err(Errno::NOTDIR),
    }
}

/// Where a link leads: straight to the place or the open file.
pub(super) fn read_link(kernel: &Kernel, node: Node) -> Result<Link, Errno> {
    match node.place {
        Place::Descriptor => Ok(link_to(description(kernel, node)?)),
        Place::Namespace => {
            let (name, inode) = NAMESPACES.get(node.extra as usize).ok_or(Errno::NOENT)?;
            Ok(Link::Path(format!("{name}:[{inode}]").into_bytes()))
        }
        Place::Entry => {
            let (task, _) = table(kernel, node)?;
            match node.line()?.name {
                "exe" => {
                    let executable = lock(&task.process().program).executable.clone();
                    executable.map(Link::Position).ok_or(Errno::NOENT)
                }
                "cwd" => Ok(Link::Position(task.fs().cwd())),
                "root" => Ok(Link::Position(task.fs().root())),
                _ => Err(Errno::INVAL),
            }
        }
        Place::Directory | Place::DescriptorInfo | Place::Net => Err(Errno::INVAL),
    }
}

fn link_to(description: Arc<Description>) -> Link {
    if let Some(position) = description.position() {
        return Link::Position(position.clone());
    }
    let stat = Box::new(place::stat_object(&description));
    let display = description.object().anonymous().map_or_else(Vec::new, |anonymous| anonymous.label);
    Link::Object { object: description, display, stat }
}

/// Opens a file: its contents are made now.
pub(super) fn open(
    kernel: &Arc<Kernel>,
    node: Node,
    flags: OpenFlags,
) -> Result<Arc<dyn SyntheticFile>, Errno> {
    let subject = Subject::find(kernel, node)?;
    let (bytes, setting) = match node.place {
        Place::Entry => match node.line()?.what {
            What::File(make) => (make(&subject), None),
            What::Writable(make, setting) => (make(&subject), Some(setting)),
            What::Directory => return Err(Errno::ISDIR),
            What::Link => return Err(Errno::LOOP),
        },
        Place::DescriptorInfo => (descriptor_info(kernel, node)?, None),
        Place::Net => (NET.get(node.extra as usize).ok_or(Errno::NOENT)?.1(&subject), None),
        Place::Directory => return Err(Errno::ISDIR),
        Place::Descriptor | Place::Namespace => return Err(Errno::LOOP),
    };
    if flags.writes() && setting.is_none() {
        return Err(Errno::ACCESS);
    }
    let target = setting.zip(subject.task).map(|(setting, task)| Writable { setting, task });
    Ok(Arc::new(Snapshot { bytes, target }))
}

// Writing into a string cannot fail, so the results of `write!` are dropped below.

fn descriptor_info(kernel: &Kernel, node: Node) -> Result<Vec<u8>, Errno> {
    let (_, files) = table(kernel, node)?;
    let file = description(kernel, node)?;
    let offset = if file.object().seekable() { *file.offset() } else { 0 };
    let close = files.close_on_exec(node.extra as i32).unwrap_or(false);
    let flags = file.flags() | if close { 0o2_000_000 } else { 0 };
    let mut text = format!("pos:\t{offset}\nflags:\t0{flags:o}\nmnt_id:\t1\n");
    text.push_str(&file.object().information());
    Ok(text.into_bytes())
}

fn comm(subject: &Subject) -> Vec<u8> {
    let mut name = subject.task.as_ref().map(|task| task.name()).unwrap_or_default();
    name.push(b'\n');
    name
}

/// The name as `status` and `stat` show it.
fn shown_name(subject: &Subject) -> String {
    let name = subject.task.as_ref().map(|task| task.name()).unwrap_or_default();
    String::from_utf8_lossy(&name).into_owned()
}

const LIMIT_NAMES: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits(subject: &Subject) -> Vec<u8> {
    let limits = lock(&subject.process.limits).clone();
    let shown = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (index, (name, unit)) in LIMIT_NAMES.iter().enumerate() {
        if let Ok(limit) = limits.get(index as u64) {
            let _ =
                writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", shown(limit.soft), shown(limit.hard));
        }
    }
    text.into_bytes()
}

/// One line of `maps`.
fn map_line(subject: &Subject, area: &AreaInfo) -> Vec<u8> {
    let right = |right: Rights, letter| if area.rights.contains(right) { letter } else { '-' };
    let (mut inode, mut device) = (0, 0);
    let mut name = area.name.clone();
    if let Some(position) = &area.position {
        inode = position.node().inode();
        device = 1;
        name = position.path(&subject.kernel.root_fs.root()).unwrap_or_default();
    }
    let mut line = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} 00:{device:02x} {inode} ",
        area.start,
        area.end,
        right(Rights::READ, 'r'),
        right(Rights::WRITE, 'w'),
        right(Rights::EXECUTE, 'x'),
        if area.shared { 's' } else { 'p' },
        area.offset,
    )
    .into_bytes();
    if !name.is_empty() {
        line.resize(line.len().max(73), b' ');
        line.extend(name);
    }
    line.push(b'\n');
    line
}

fn maps(subject: &Subject) -> Vec<u8> {
    subject.areas().iter().flat_map(|area| map_line(subject, area)).collect()
}

fn smaps(subject: &Subject) -> Vec<u8> {
    let mut text = Vec::new();
    for area in subject.areas() {
        let size = (area.end - area.start) / 1024;
        text.extend(map_line(subject, &area));
        let private = if area.shared { 0 } else { size };
        let lines = [
            ("Size", size),
            ("KernelPageSize", 4),
            ("MMUPageSize", 4),
            ("Rss", size),
            ("Pss", size),
            ("Shared_Clean", 0),
            ("Shared_Dirty", size - private),
            ("Private_Clean", 0),
            ("Private_Dirty", private),
            ("Swap", 0),
        ];
        for (name, value) in lines {
            text.extend(format!("{:<15} {value:8} kB\n", format!("{name}:")).into_bytes());
        }
    }
    text
}

/// Bytes that are mapped: all, data, text, stack.
struct Sizes {
    all: u64,
    data: u64,
    text: u64,
    stack: u64,
}

fn sizes(subject: &Subject) -> Sizes {
    let mut sizes = Sizes { all: 0, data: 0, text: 0, stack: 0 };
    for area in subject.areas() {
        let length = area.end - area.start;
        sizes.all += length;
        if area.name == b"[stack]" {
            sizes.stack += length;
        } else if area.rights.contains(Rights::EXECUTE) {
            sizes.text += length;
        } else if area.rights.contains(Rights::WRITE) && !area.shared {
            sizes.data += length;
        }
    }
    sizes
}

fn statm(subject: &Subject) -> Vec<u8> {
    let sizes = sizes(subject);
    let resident = subject.space().map_or(0, |space| space.charged()) / 4096;
    let (all, text, data) = (sizes.all / 4096, sizes.text / 4096, (sizes.data + sizes.stack) / 4096);
    format!("{all} {resident} 0 {text} 0 {data} 0\n").into_bytes()
}

/// Parent, group and session of a process, and the letter of its state.
fn relations(subject: &Subject) -> (u32, u32, u32, char) {
    let stopped = lock(&subject.process.state).stopped.is_some();
    let table = lock(&subject.kernel.table);
    let Some(node) = table.process(subject.process.pid()) else { return (0, 0, 0, 'X') };
    let state = match (node.zombie.is_some(), stopped) {
        (true, _) => 'Z',
        (false, true) => 'T',
        (false, false) => 'R',
    };
    (node.parent, node.group, node.session, state)
}

fn stat_line(subject: &Subject) -> Vec<u8> {
    let (parent, group, session, state) = relations(subject);
    let sizes = sizes(subject);
    let (cpu, children) = (subject.process.cpu_time(), lock(&subject.process.times).children);
    let [user, system, children_user, children_system] =
        [cpu.user, cpu.system, children.user, children.system].map(ticks);
    let started = subject.process.started.saturating_duration_since(subject.kernel.started);
    let resident = subject.space().map_or(0, |space| space.charged()) / 4096;
    let pid = subject.task.as_ref().map_or(subject.process.pid(), |task| task.tid());
    let threads = subject.process.threads().len();
    let stack = subject.space().map_or(0, |space| lock(&space.layout).stack_start);
    let all = sizes.all;
    let (name, started) = (shown_name(subject), ticks(started));
    let (terminal, foreground) = match subject.kernel.registry.terminals.shown(session) {
        Some((number, group)) => (number, i64::from(group)),
        None => (0, -1),
    };
    format!(
        "{pid} ({name}) {state} {parent} {group} {session} {terminal} {foreground} 4194304 0 0 0 0 {user} {system} {children_user} {children_system} 20 0 {threads} 0 \
         {started} {all} {resident} 18446744073709551615 0 0 {stack} 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
    .into_bytes()
}

fn status(subject: &Subject) -> Vec<u8> {
    let (parent, _, _, state) = relations(subject);
    let word = match state {
        'Z' => "zombie",
        'T' => "stopped",
        'X' => "dead",
        _ => "running",
    };
    let pid = subject.process.pid();
    let tid = subject.task.as_ref().map_or(pid, |task| task.tid());
    let mut text = String::new();
    let name = shown_name(subject);
    let umask = subject.task.as_ref().map_or(0o22, |task| task.fs().umask());
    let _ = write!(
        text,
        "Name:\t{name}\nUmask:\t{umask:04o}\nState:\t{state} ({word})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\n\
         PPid:\t{parent}\nTracerPid:\t0\n"
    );
    if let Some(task) = &subject.task {
        let credentials = task.credentials();
        let (user, group, fs) = (&credentials.user, &credentials.group, &credentials.filesystem);
        let groups: String = fs.groups.iter().map(|group| format!("{group} ")).collect();
        let _ = write!(
            text,
            "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{}\nGroups:\t{groups}\nNStgid:\t{pid}\nNSpid:\t{tid}\n",
            user.real,
            user.effective,
            user.saved,
            fs.uid,
            group.real,
            group.effective,
            group.saved,
            fs.gid,
            task.files().capacity(),
        );
    }
    let sizes = sizes(subject);
    let resident = subject.space().map_or(0, |space| space.charged());
    let rows = [
        ("VmPeak", sizes.all),
        ("VmSize", sizes.all),
        ("VmLck", 0),
        ("VmPin", 0),
        ("VmHWM", resident),
        ("VmRSS", resident),
        ("VmData", sizes.data),
        ("VmStk", sizes.stack),
        ("VmExe", sizes.text),
        ("VmLib", 0),
        ("VmPTE", 0),
        ("VmSwap", 0),
    ];
    for (name, bytes) in rows {
        let _ = writeln!(text, "{name}:\t{:8} kB", bytes / 1024);
    }
    let _ = writeln!(text, "Threads:\t{}", subject.process.threads().len());
    if let Some(task) = &subject.task {
        signals(&mut text, task);
        let credentials = task.credentials();
        let sets = [
            ("CapInh", credentials.inheritable),
            ("CapPrm", credentials.permitted),
            ("CapEff", credentials.effective()),
            ("CapBnd", credentials.bounding),
            ("CapAmb", credentials.ambient),
        ];
        for (name, set) in sets {
            let _ = writeln!(text, "{name}:\t{:016x}", set.bits());
        }
        let no_new = u8::from(task.no_new_privileges.load(Ordering::Relaxed));
        let _ = writeln!(text, "NoNewPrivs:\t{no_new}\nSeccomp:\t0\nSeccomp_filters:\t0");
    }
    let cpus = subject.kernel.identity.cpus.clamp(1, 64);
    let mask = u64::MAX >> (64 - cpus);
    let _ = writeln!(text, "Cpus_allowed:\t{mask:x}\nCpus_allowed_list:\t0-{}", cpus - 1);
    let _ = writeln!(text, "Mems_allowed:\t1\nMems_allowed_list:\t0");
    let _ = writeln!(text, "voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0");
    text.into_bytes()
}

fn signals(text: &mut String, task: &Task) {
    let shared = lock(&task.process().state).pending.set();
    let own = lock(&task.pending).set();
    let actions = task.process().actions();
    let actions = lock(&actions);
    let (mut ignored, mut caught) = (0u64, 0u64);
    for number in 1..=64 {
        match actions.get(number).handler {
            crate::signal::SIG_DFL => {}
            crate::signal::SIG_IGN => ignored |= 1 << (number - 1),
            _ => caught |= 1 << (number - 1),
        }
    }
    let rows = [
        ("SigPnd", own.0),
        ("ShdPnd", shared.0),
        ("SigBlk", task.mask().0),
        ("SigIgn", ignored),
        ("SigCgt", caught),
    ];
    for (name, set) in rows {
        let _ = writeln!(text, "{name}:\t{set:016x}");
    }
}

/// A path as mount tables spell it: blanks, tabs, newlines and backslashes as octal numbers.
fn escaped(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                let _ = write!(text, "\\{byte:03o}");
            }
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

/// An absolute path from the clean one of the mount table.
fn absolute(path: &[u8]) -> String {
    let path = escaped(path);
    if path.starts_with('/') { path } else { format!("/{path}") }
}

fn mount_options(mount: &MountInfo) -> &'static str {
    if mount.read_only { "ro,relatime" } else { "rw,relatime" }
}

fn mounts(subject: &Subject) -> Vec<u8> {
    let line = |mount: &MountInfo| {
        let (kind, target, options) = (&mount.type_name, absolute(&mount.target), mount_options(mount));
        format!("{kind} {target} {kind} {options} 0 0\n")
    };
    subject.kernel.root_fs.mounts().iter().map(line).collect::<String>().into_bytes()
}

fn mountinfo(subject: &Subject) -> Vec<u8> {
    let line = |mount: &MountInfo| {
        let parent = mount.parent.map_or(0, |parent| parent.0);
        let (id, kind, options) = (mount.id.0, &mount.type_name, mount_options(mount));
        let (root, target) = (absolute(&mount.root), absolute(&mount.target));
        let (major, minor) = cooper_vfs::rootfs::split_device(mount.device);
        format!("{id} {parent} {major}:{minor} {root} {target} {options} - {kind} {kind} {options}\n")
    };
    subject.kernel.root_fs.mounts().iter().map(line).collect::<String>().into_bytes()
}

fn net_dev(subject: &Subject) -> Vec<u8> {
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    );
    for interface in interfaces(&subject.kernel.registry.inet) {
        let _ = writeln!(text, "{:>6}: {}", interface.name, "0 ".repeat(16).trim_end());
    }
    text.into_bytes()
}

fn net_route(subject: &Subject) -> Vec<u8> {
    let mut text =
        String::from("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n");
    if subject.kernel.registry.inet.policy.is_outside() {
        text.push_str("eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
        text.push_str("eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_survive_a_round_trip() {
        let base = Node { pid: 32_767, tid: 12, place: Place::Directory, extra: 0 };
        for (place, extra) in PLACES.into_iter().zip([0, 5, 0xff_ffff, 7, 3, 1]) {
            let node = base.at(place, extra);
            assert_eq!(Node::decode(node.encode()), node);
        }
        assert!(base.encode() < 1 << 62);
    }

    #[test]
    fn mount_paths_are_absolute_and_escaped() {
        assert_eq!(absolute(b""), "/");
        assert_eq!(absolute(b"a b\\c"), "/a\\040b\\134c");
    }
}
