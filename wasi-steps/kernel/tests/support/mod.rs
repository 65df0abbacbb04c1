//! Runs programs in a kernel whose root file system is made from host files.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::disallowed_methods, reason = "tests read programs from the host")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use cooper_kernel::{
    Credentials, Executor, ExecutorFactory, ExitStatus, Flow, Identity, InitCommand, Kernel, KernelConfig,
    KernelLimits, NetworkPolicy, Report, StepIo, Supervisor,
};
use cooper_vfs::{
    Backing, Content, ContentId, ContentStore, ContentTreeId, Directory, Entry, ExactId, HostClock,
    MemoryStore, Metadata, MountOptions, MountSource, NodeKind, PackWriter, RootFs, RootFsLimits, SpoolFile,
    Timestamp, TreeBuilder,
};
use cooper_x86::code::SharedCode;
use cooper_x86::interpreter::Interpreter;
use cooper_x86::state::CpuState;

/// A store whose larger contents lie in a host file on page boundaries, as packs do.
#[derive(Debug)]
pub(crate) struct PackedStore {
    memory: MemoryStore,
    pack: Arc<File>,
    index: Mutex<HashMap<ContentId, (u64, u64)>>,
}

impl PackedStore {
    fn new() -> Self {
        let pack = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd works");
        Self { memory: MemoryStore::new(), pack: Arc::new(pack.into()), index: Mutex::default() }
    }

    fn put(&self, bytes: &[u8]) -> ContentId {
        if bytes.len() < 4096 {
            return self.memory.put(bytes);
        }
        let id = ContentId::of(bytes);
        let mut index = self.index.lock().expect("no panic holds it");
        if index.contains_key(&id) {
            return id;
        }
        let length = self.pack.metadata().expect("memfd has metadata").len();
        self.pack.write_all_at(bytes, length).expect("memory is there");
        let end = (length + bytes.len() as u64).next_multiple_of(4096);
        self.pack.set_len(end).expect("memory is there");
        index.insert(id, (length, bytes.len() as u64));
        id
    }
}

impl ContentStore for PackedStore {
    fn directory(&self, id: &ExactId) -> io::Result<Arc<Directory>> {
        self.memory.directory(id)
    }

    fn put_directory(&self, directory: &Directory) -> io::Result<(ExactId, ContentTreeId)> {
        self.memory.put_directory(directory)
    }

    fn open(&self, id: &ContentId) -> io::Result<Content> {
        let place = self.index.lock().expect("no panic holds it").get(id).copied();
        match place {
            Some((offset, length)) => {
                Ok(Content { backing: Backing::File { file: self.pack.clone(), offset }, length })
            }
            None => self.memory.open(id),
        }
    }

    fn spool(&self) -> io::Result<SpoolFile> {
        self.memory.spool()
    }

    fn pack(&self) -> io::Result<Box<dyn PackWriter + '_>> {
        self.memory.pack()
    }
}

/// No guest program of the tests runs longer, however busy the machine is.
const LONGEST_RUN: std::time::Duration = std::time::Duration::from_secs(120);

struct InterpreterExecutor(Interpreter);

impl Executor for InterpreterExecutor {
    fn run(&mut self, cpu: &mut CpuState, supervisor: &mut dyn Supervisor) {
        loop {
            let space = supervisor.space().clone();
            let exit = self.0.run(cpu, space.guest_memory(), &*space, supervisor.stop().byte());
            if supervisor.serve(cpu, exit, self.0.instructions()) == Flow::End {
                return;
            }
        }
    }

    fn instructions(&self) -> u64 {
        self.0.instructions()
    }
}

struct Interpreters(Arc<SharedCode>);

impl ExecutorFactory for Interpreters {
    fn executor(&self) -> Box<dyn Executor> {
        Box::new(InterpreterExecutor(Interpreter::new(self.0.clone())))
    }
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) report: Report,
}

/// A root file system being put together.
pub(crate) struct World {
    store: Arc<PackedStore>,
    files: Vec<(Vec<u8>, Entry)>,
    pub(crate) limits: KernelLimits,
    pub(crate) credentials: Credentials,
    pub(crate) environment: Vec<Vec<u8>>,
    pub(crate) directory: Vec<u8>,
    pub(crate) inherit: bool,
}

fn metadata(mode: u16, uid: u32, gid: u32) -> Metadata {
    Metadata { mode, uid, gid, mtime: Timestamp { seconds: 0, nanoseconds: 0 }, xattrs: Default::default() }
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            store: Arc::new(PackedStore::new()),
            files: Vec::new(),
            limits: KernelLimits {
                memory_bytes: 2 << 30,
                tasks: 200,
                open_files: 1024,
                resources: Vec::new(),
                output_bytes: 64 << 20,
            },
            credentials: Credentials::new(0, 0, vec![]),
            environment: vec![b"PATH=/usr/bin:/bin".to_vec(), b"HOME=/root".to_vec()],
            directory: b"/".to_vec(),
            inherit: false,
        };
        for name in ["bin", "dev", "proc", "sys", "etc", "lib", "lib64", "usr", "root", "usr/lib"] {
            world.make_directory(name, 0o755);
        }
        world.make_directory("tmp", 0o1777);
        world
    }

    pub(crate) fn make_directory(&mut self, path: &str, mode: u16) {
        let kind = NodeKind::Directory { exact: empty().0, content: empty().1 };
        self.add(path.as_bytes(), metadata(mode, 0, 0), kind);
    }

    pub(crate) fn make_file(&mut self, path: &str, bytes: &[u8], mode: u16) {
        let kind = NodeKind::File { content: self.store.put(bytes), size: bytes.len() as u64 };
        self.add(path.as_bytes(), metadata(mode, 0, 0), kind);
    }

    pub(crate) fn make_link(&mut self, path: &str, target: &str) {
        self.add(path.as_bytes(), metadata(0o777, 0, 0), NodeKind::Symlink { target: target.into() });
    }

    fn add(&mut self, path: &[u8], metadata: Metadata, kind: NodeKind) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        self.files.push((path.to_vec(), Entry { name, metadata, kind }));
    }

    /// Copies a host file.
    pub(crate) fn copy(&mut self, host: &Path, path: &str) {
        let bytes = std::fs::read(host).unwrap_or_else(|error| panic!("{}: {error}", host.display()));
        let mode = std::fs::metadata(host).expect("it was read").permissions().mode();
        self.make_file(path, &bytes, (mode & 0o7777) as u16);
    }

    /// Copies a whole host directory as the root.
    pub(crate) fn copy_tree(&mut self, host: &Path, prefix: &str) {
        let mut names: Vec<_> = std::fs::read_dir(host).expect("directory").flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let Ok(host_metadata) = entry.path().symlink_metadata() else { continue };
            let own =
                metadata((host_metadata.mode() & 0o7777) as u16, host_metadata.uid(), host_metadata.gid());
            if host_metadata.is_symlink() {
                let target = std::fs::read_link(entry.path()).expect("it is a link");
                self.make_link(&path, &target.to_string_lossy());
            } else if host_metadata.is_dir() {
                let kind = NodeKind::Directory { exact: empty().0, content: empty().1 };
                self.add(path.as_bytes(), own, kind);
                self.copy_tree(&entry.path(), &path);
            } else if host_metadata.is_file()
                && let Ok(bytes) = std::fs::read(entry.path())
            {
                let kind = NodeKind::File { content: self.store.put(&bytes), size: bytes.len() as u64 };
                self.add(path.as_bytes(), own, kind);
            }
        }
    }

    fn root_fs(&self) -> RootFs {
        let mut builder = TreeBuilder::new(&*self.store);
        for (path, entry) in &self.files {
            let done = match &entry.kind {
                NodeKind::Directory { .. } => builder.put_directory(path, entry.metadata.clone()),
                _ => builder.put(path, entry.clone()),
            };
            done.unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(path)));
        }
        let tree = builder.finish().expect("a tree in memory");
        let root =
            RootFs::new(tree, self.store.clone(), Arc::new(HostClock), RootFsLimits::ORDINARY).expect("root");
        root.mount(b"/dev", MountSource::Devices, MountOptions::WRITABLE).expect("devices");
        root
    }

    /// Makes the kernel, with its standard output and error going to two files.
    pub(crate) fn kernel(&self) -> (Arc<Kernel>, File, File) {
        let output = || -> File {
            rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd works").into()
        };
        let (stdout, stderr) = (output(), output());
        let stdio = if self.inherit {
            let own = |descriptor| File::open(format!("/proc/self/fd/{descriptor}")).ok();
            let write = |number: u32| {
                std::fs::OpenOptions::new().append(true).open(format!("/proc/self/fd/{number}"))
            };
            StepIo { stdin: own(0), stdout: write(1).expect("stdout"), stderr: write(2).expect("stderr") }
        } else {
            let copy = |file: &File| file.try_clone().expect("a descriptor");
            StepIo { stdin: None, stdout: copy(&stdout), stderr: copy(&stderr) }
        };
        let kernel = Kernel::new(KernelConfig {
            root_fs: self.root_fs(),
            limits: self.limits.clone(),
            identity: Identity { hostname: b"cooper".to_vec(), cpus: 2, memory_bytes: 2 << 30 },
            executors: Arc::new(Interpreters(SharedCode::new())),
            stdio,
            network: NetworkPolicy::None,
            wasm: None,
        });
        kernel.mount_system().expect("proc and sys");
        kernel.mount_terminals().expect("there is a directory for terminals");
        (kernel, stdout, stderr)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> InitCommand {
        InitCommand {
            path: arguments[0].into(),
            arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            environment: self.environment.clone(),
            working_directory: self.directory.clone(),
            credentials: self.credentials.clone(),
            umask: 0o022,
        }
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        let (kernel, mut stdout, mut stderr) = self.kernel();
        kernel.mount_system().expect("proc and sys");
        kernel.start_init(self.command(arguments)).unwrap_or_else(|errno| panic!("{arguments:?}: {errno}"));
        // A program that hangs fails its test instead of the whole run.
        let (done, finished) = std::sync::mpsc::channel::<()>();
        let watched = kernel.clone();
        let watch = std::thread::spawn(move || {
            if finished.recv_timeout(LONGEST_RUN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                watched.kill_all();
            }
        });
        let status = kernel.wait_init();
        drop(done);
        watch.join().expect("the watch only waits");
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0)).expect("a memory file");
            file.read_to_end(&mut bytes).expect("a memory file");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Outcome { status, stdout: read(&mut stdout), stderr: read(&mut stderr), report: kernel.report() }
    }
}

fn empty() -> (ExactId, ContentTreeId) {
    Directory { entries: Vec::new(), hard_links: Vec::new() }.ids()
}
