//! Runs WebAssembly programs in a kernel of their own.
//!
//! A [`Script`] is a program as a list of calls with the answer that each has to give. It becomes a module, which ends with code 0 when
//! all were right and otherwise says on its standard error which step was wrong, and what it got.

mod functions;
mod processes;
mod script;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};

use cooper_kernel::{
    Credentials, ExitStatus, Identity, InitCommand, Kernel, KernelConfig, KernelLimits, NetworkPolicy,
    Report, StepIo,
};
use cooper_vfs::tree::Tree;
use cooper_vfs::{
    ContentId, Directory, Entry, HostClock, MemoryStore, Metadata, MountOptions, MountSource, NodeKind,
    RootFs, RootFsLimits, Timestamp, TreeBuilder,
};

use super::compile;
use super::loader::{Programs, WasmServices};
use crate::cache::{CodeCache, CodeName};
use crate::tiers::{Executors, Tiers};

pub(super) use script::{Argument, Script};

/// Compiles what it is asked for.
#[derive(Debug, Default)]
struct TestCache(Mutex<HashMap<[u8; 32], Vec<u8>>>);

impl CodeCache for TestCache {
    fn open(&self, name: &CodeName) -> Vec<File> {
        let modules = self.0.lock().expect("no panic holds it");
        let Some(module) = modules.get(&name.id.0) else { return Vec::new() };
        let Ok(code) = compile::precompile(module) else { return Vec::new() };
        let mut file = memory_file();
        file.write_all(&code).expect("memory is there");
        file.seek(SeekFrom::Start(0)).expect("a memory file");
        vec![file]
    }

    fn put(&self, _: &CodeName, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn replace(&self, _: &CodeName, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn heat(&self, _: &CodeName) -> Vec<(u32, u32)> {
        Vec::new()
    }

    fn keep_heat(&self, _: &CodeName, _: &[(u32, u32)]) -> io::Result<()> {
        Ok(())
    }
}

fn memory_file() -> File {
    rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd works").into()
}

/// What a program did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) report: Report,
    pub(super) root_fs: RootFs,
    /// What is mounted on `/mnt` afterwards.
    pub(super) mounted: Tree,
}

/// A root file system being put together, with what runs in it.
pub(super) struct World {
    store: Arc<MemoryStore>,
    files: Vec<(Vec<u8>, Entry)>,
    mounted: Tree,
    is_mount_read_only: bool,
    cache: Arc<TestCache>,
    toolbox: Vec<[u8; 32]>,
    pub(super) memory: u64,
    pub(super) environment: Vec<Vec<u8>>,
    pub(super) directory: Vec<u8>,
    pub(super) stdin: Option<Vec<u8>>,
}

impl World {
    pub(super) fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let mounted = TreeBuilder::new(&*store).finish().expect("an empty tree");
        let mut world = Self {
            store,
            files: Vec::new(),
            mounted,
            is_mount_read_only: false,
            cache: Arc::default(),
            toolbox: Vec::new(),
            memory: 1 << 30,
            environment: Vec::new(),
            directory: b"/work".to_vec(),
            stdin: None,
        };
        for name in ["bin", "dev", "proc", "sys", "tmp", "work", "mnt"] {
            world.add(name, metadata(0o755), directory());
        }
        world
    }

    fn add(&mut self, path: &str, metadata: Metadata, kind: NodeKind) {
        self.files.push((path.into(), entry(path, metadata, kind)));
    }

    pub(super) fn file(&mut self, path: &str, bytes: &[u8], mode: u16) {
        let kind = NodeKind::File { content: self.store.put(bytes), size: bytes.len() as u64 };
        self.add(path, metadata(mode), kind);
    }

    /// Adds a program that anybody might have written.
    pub(super) fn program(&mut self, path: &str, module: &[u8]) {
        self.cache.0.lock().expect("no panic holds it").insert(ContentId::of(module).0, module.to_vec());
        self.file(path, module, 0o755);
    }

    /// Adds a program of the toolbox.
    pub(super) fn tool(&mut self, path: &str, module: &[u8]) {
        self.toolbox.push(ContentId::of(module).0);
        self.program(path, module);
    }

    /// Puts a tree on `/mnt` that cannot be written: a file `file`, a directory `dir` with `in`, a link `link` to the file.
    pub(super) fn mount_read_only(&mut self) {
        let mut builder = TreeBuilder::new(&*self.store);
        let file = NodeKind::File { content: self.store.put(b"kept"), size: 4 };
        builder.put_directory(b"dir", metadata(0o777)).expect("a tree in memory");
        for path in ["file", "dir/in"] {
            builder
                .put(path.as_bytes(), entry(path, metadata(0o666), file.clone()))
                .expect("a tree in memory");
        }
        let link = NodeKind::Symlink { target: b"file".to_vec() };
        builder.put(b"link", entry("link", metadata(0o777), link)).expect("a tree in memory");
        self.mounted = builder.finish().expect("a tree in memory");
        self.is_mount_read_only = true;
    }

    /// What is on `/mnt` before anything runs.
    pub(super) fn mounted(&self) -> &Tree {
        &self.mounted
    }

    /// Runs a command to its end.
    pub(super) fn run(&self, arguments: &[&str]) -> Outcome {
        let mut builder = TreeBuilder::new(&*self.store);
        for (path, entry) in &self.files {
            let done = match &entry.kind {
                NodeKind::Directory { .. } => builder.put_directory(path, entry.metadata.clone()),
                _ => builder.put(path, entry.clone()),
            };
            done.expect("a tree in memory");
        }
        let tree = builder.finish().expect("a tree in memory");
        let root_fs = RootFs::new(tree, self.store.clone(), Arc::new(HostClock), RootFsLimits::ORDINARY);
        let root_fs = root_fs.expect("a root file system");
        root_fs.mount(b"/dev", MountSource::Devices, MountOptions::WRITABLE).expect("devices");
        let source = MountSource::Tree { tree: self.mounted.clone(), subpath: Vec::new() };
        let options = if self.is_mount_read_only { MountOptions::READ_ONLY } else { MountOptions::WRITABLE };
        let mount = root_fs.mount(b"/mnt", source, options).expect("a mount");
        let stdin = self.stdin.as_ref().map(|bytes| {
            let mut file = memory_file();
            file.write_all(bytes).expect("memory is there");
            file.seek(SeekFrom::Start(0)).expect("a memory file");
            file
        });
        let (mut stdout, mut stderr) = (memory_file(), memory_file());
        let copy = |file: &File| file.try_clone().expect("a descriptor");
        let services = WasmServices { helper: None, cache: Some(self.cache.clone()) };
        let toolbox = self.toolbox.iter().copied().collect();
        let kernel = Kernel::new(KernelConfig {
            root_fs: root_fs.clone(),
            limits: KernelLimits {
                memory_bytes: self.memory,
                tasks: 200,
                open_files: 1024,
                output_bytes: 1 << 20,
                resources: Vec::new(),
            },
            identity: Identity { hostname: b"cooper".to_vec(), cpus: 2, memory_bytes: 2 << 30 },
            executors: Arc::new(Executors(Tiers::interpreted())),
            stdio: StepIo { stdin, stdout: copy(&stdout), stderr: copy(&stderr) },
            network: NetworkPolicy::None,
            wasm: Some(Arc::new(Programs::new(services, toolbox))),
        });
        kernel.mount_system().expect("proc and sys");
        let command = InitCommand {
            path: arguments[0].into(),
            arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            environment: self.environment.clone(),
            working_directory: self.directory.clone(),
            credentials: Credentials::new(0, 0, Vec::new()),
            umask: 0o022,
        };
        let status = match kernel.start_init(command) {
            Ok(()) => kernel.wait_init(),
            Err(errno) => panic!("{arguments:?}: {errno}: {:?}", kernel.report().hints),
        };
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0)).expect("a memory file");
            file.read_to_end(&mut bytes).expect("a memory file");
            bytes
        };
        let mounted = root_fs.finish_mount(mount).expect("a tree").tree;
        let (stdout, stderr, report) = (read(&mut stdout), read(&mut stderr), kernel.report());
        Outcome { status, stdout, stderr, report, root_fs, mounted }
    }

    /// Runs a script as an ordinary program; all of its steps have to be right.
    pub(super) fn check(&mut self, script: &Script) -> Outcome {
        self.program("bin/script", &script.module());
        let outcome = self.run(&["/bin/script"]);
        script.explain(&outcome);
        outcome
    }

    /// As [`check`](Self::check) for a program of the toolbox.
    pub(super) fn check_tool(&mut self, script: &Script) -> Outcome {
        self.tool("bin/script", &script.module());
        let outcome = self.run(&["/bin/script"]);
        script.explain(&outcome);
        outcome
    }
}

fn metadata(mode: u16) -> Metadata {
    Metadata {
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 7, nanoseconds: 0 },
        xattrs: Default::default(),
    }
}

fn entry(path: &str, metadata: Metadata, kind: NodeKind) -> Entry {
    let name = path.rsplit('/').next().unwrap_or_default().into();
    Entry { name, metadata, kind }
}

fn directory() -> NodeKind {
    let (exact, content) = Directory { entries: Vec::new(), hard_links: Vec::new() }.ids();
    NodeKind::Directory { exact, content }
}
