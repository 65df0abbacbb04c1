//! A step's world, made from its request: the root file system with its mounts, the kernel, and the command.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use cooper_build::step::{Bytes, NetworkPolicy, StepMount, StepMountSource, StepRequest, TreeRecord};
use cooper_kernel::{Identity, Kernel, KernelConfig, KernelLimits, StepIo};
use cooper_vfs::tree::Tree;
use cooper_vfs::{
    AccessMode, Caller, ContentStore, Credentials, Errno, FileKind, Follow, HostClock, MountId, MountOptions,
    MountSource, Position, RootFs, RootFsLimits, Walk,
};

use crate::host;
use crate::tiers::{Executors, Tiers};
use crate::wasi::loader::Programs;
use crate::wire::Failure;

/// What guests are told that the machine has, unless the pod has less or the step asked for more: the JVM sizes its
/// heap by it, and heap and code must fit into 4 GiB of addresses.
const ORDINARY_MEMORY: u64 = 2 << 30;
/// Processes and threads of a step: each is a host thread, and pods often allow some thousands.
const ORDINARY_TASKS: u32 = 2048;
/// Docker's default for `RLIMIT_NOFILE` in builds.
const ORDINARY_OPEN_FILES: u64 = 1 << 20;
/// Output of a step: much more than a person reads or a log keeps.
const ORDINARY_OUTPUT: u64 = 64 << 20;

/// A step's root file system and what has to be asked of it afterwards.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) root_fs: RootFs,
    /// Mounts whose contents are kept, with their ids.
    pub(crate) caches: Vec<(String, MountId)>,
}

/// Bounds of the step with their defaults filled in.
pub(crate) fn kernel_limits(request: &StepRequest) -> KernelLimits {
    let limits = &request.limits;
    KernelLimits {
        memory_bytes: limits.memory_bytes.unwrap_or_else(host::memory_bytes),
        tasks: limits.processes.unwrap_or(ORDINARY_TASKS) as usize,
        open_files: limits.open_files.unwrap_or(ORDINARY_OPEN_FILES),
        output_bytes: limits.output_bytes.unwrap_or(ORDINARY_OUTPUT),
        resources: limits.ulimits.iter().map(|(name, (soft, hard))| (name.clone(), *soft, *hard)).collect(),
    }
}

/// Makes the root file system without its mounts.
pub(crate) fn root_fs(request: &StepRequest, store: Arc<dyn ContentStore>) -> Result<RootFs, Failure> {
    let ordinary = RootFsLimits::ORDINARY;
    let limits =
        RootFsLimits { spool_bytes: request.limits.spool_bytes.unwrap_or(ordinary.spool_bytes), ..ordinary };
    RootFs::new(decode(&request.base)?, store, Arc::new(HostClock), limits)
        .map_err(|error| store_failure(&error))
}

/// Makes the kernel over `root_fs`.
pub(crate) fn kernel(
    request: &StepRequest,
    root_fs: RootFs,
    stdio: StepIo,
    tiers: &Arc<Tiers>,
    wasm: Programs,
) -> Arc<Kernel> {
    let limits = kernel_limits(request);
    let shown = request.limits.memory_bytes.unwrap_or_else(|| limits.memory_bytes.min(ORDINARY_MEMORY));
    Kernel::new(KernelConfig {
        root_fs,
        identity: Identity {
            hostname: request.hostname.0.clone(),
            cpus: request.limits.cpus.unwrap_or_else(host::cpus).max(1),
            memory_bytes: shown,
        },
        limits,
        executors: Arc::new(Executors(tiers.clone())),
        stdio,
        network: network(&request.network),
        wasm: Some(Arc::new(wasm)),
    })
}

fn network(policy: &NetworkPolicy) -> cooper_kernel::NetworkPolicy {
    match policy {
        NetworkPolicy::None => cooper_kernel::NetworkPolicy::None,
        NetworkPolicy::Default { .. } => {
            cooper_kernel::NetworkPolicy::Default { name_servers: host::resolver().1 }
        }
    }
}

/// Mounts what every step has and what the request asks for.
pub(crate) fn mount(request: &StepRequest, kernel: &Arc<Kernel>, root_fs: &RootFs) -> Result<World, Failure> {
    let failed = |target: &[u8], errno: Errno| {
        Failure::Died(format!("cannot mount on `{}`: {errno}", String::from_utf8_lossy(target)))
    };
    kernel.mount_system().map_err(|errno| failed(b"/proc", errno))?;
    root_fs
        .mount(b"/dev", MountSource::Devices, MountOptions::WRITABLE)
        .map_err(|errno| failed(b"/dev", errno))?;
    kernel.mount_terminals().map_err(|errno| failed(b"/dev/pts", errno))?;
    let shared_memory = MountSource::Tmpfs { size: None, mode: 0o1777, uid: 0, gid: 0 };
    root_fs
        .mount(b"/dev/shm", shared_memory, MountOptions::WRITABLE)
        .map_err(|errno| failed(b"/dev/shm", errno))?;
    for (target, contents) in network_files(request) {
        let source = MountSource::File { contents, mode: 0o644, uid: 0, gid: 0 };
        root_fs.mount(target, source, MountOptions::WRITABLE).map_err(|errno| failed(target, errno))?;
    }
    let mut caches = Vec::new();
    for mount in &request.mounts {
        let target = mount.target.as_slice();
        if let StepMountSource::Socket { host, mode, uid, gid } = &mount.source {
            let host = std::path::Path::new(std::ffi::OsStr::from_bytes(host.as_slice()));
            kernel
                .mount_host_socket(target, host, (*mode, *uid, *gid))
                .map_err(|errno| failed(target, errno))?;
            continue;
        }
        let options = if mount.read_only { MountOptions::READ_ONLY } else { MountOptions::WRITABLE };
        let id = root_fs.mount(target, source(mount)?, options).map_err(|errno| failed(target, errno))?;
        if let StepMountSource::Cache { id: name, .. } = &mount.source {
            caches.push((name.clone(), id));
        }
    }
    Ok(World { root_fs: root_fs.clone(), caches })
}

fn source(mount: &StepMount) -> Result<MountSource, Failure> {
    Ok(match &mount.source {
        StepMountSource::Tree { tree, path } | StepMountSource::Cache { tree, path, .. } => {
            let subpath = path.as_slice();
            let start = subpath.iter().take_while(|byte| **byte == b'/').count();
            MountSource::Tree { tree: decode(tree)?, subpath: subpath[start..].to_vec() }
        }
        StepMountSource::Tmpfs { size, mode } => {
            MountSource::Tmpfs { size: *size, mode: *mode, uid: 0, gid: 0 }
        }
        StepMountSource::File { contents, mode, uid, gid } => {
            MountSource::File { contents: contents.expose().to_vec(), mode: *mode, uid: *uid, gid: *gid }
        }
        StepMountSource::Socket { .. } => {
            return Err(Failure::Died("a socket is not mounted as a file system".to_owned()));
        }
    })
}

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, which are mounts and in no layer.
fn network_files(request: &StepRequest) -> [(&'static [u8], Vec<u8>); 3] {
    let hostname = &request.hostname.0;
    let mut hosts = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t".to_vec();
    hosts.extend_from_slice(hostname);
    hosts.push(b'\n');
    for (name, address) in &request.extra_hosts {
        hosts.extend_from_slice(format!("{address}\t{name}\n").as_bytes());
    }
    let resolver = match request.network {
        NetworkPolicy::None => Vec::new(),
        NetworkPolicy::Default { .. } => host::resolver().0,
    };
    [
        (b"/etc/hosts", hosts),
        (b"/etc/hostname", [hostname.as_slice(), b"\n"].concat()),
        (b"/etc/resolv.conf", resolver),
    ]
}

/// Makes the working directory with the step's user as the owner, where it is missing.
pub(crate) fn make_working_directory(root_fs: &RootFs, request: &StepRequest) -> Result<(), Errno> {
    let (root, credentials) = (root_fs.root(), Credentials::root());
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
    let mut at = Vec::new();
    for name in
        request.working_directory.as_slice().split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    {
        at.push(b'/');
        at.extend_from_slice(name);
        match root_fs.resolve(&walk, &root, &at, Follow::Yes) {
            Ok(_) => {}
            Err(Errno::NOENT) => {
                root_fs.make_directory(&walk, &root, &at, 0o755)?;
                let made = root_fs.resolve(&walk, &root, &at, Follow::Yes)?;
                made.set_owner(&walk, Some(request.user.uid), Some(request.user.gid))?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The path of the program: as it is with a slash in it, else the first that `PATH` leads to.
///
/// `ENOENT` when there is none; `EACCES` when there are only files that may not be executed.
pub(crate) fn find_program(root_fs: &RootFs, request: &StepRequest) -> Result<Vec<u8>, Errno> {
    let name =
        request.arguments.first().map(Bytes::as_slice).filter(|name| !name.is_empty()).ok_or(Errno::NOENT)?;
    if name.contains(&b'/') {
        return Ok(name.to_vec());
    }
    let root = root_fs.root();
    let credentials = user_credentials(request);
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
    let path = request.environment.iter().find(|(variable, _)| variable.as_slice() == b"PATH");
    let mut worst = Errno::NOENT;
    for directory in path.map(|(_, value)| value.as_slice()).unwrap_or_default().split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { request.working_directory.as_slice() } else { directory };
        let candidate = [directory, b"/", name].concat();
        match executable(root_fs, &walk, &root, &candidate, request.working_directory.as_slice()) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => worst = Errno::ACCESS,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn executable(
    root_fs: &RootFs,
    walk: &Walk<'_>,
    root: &Position,
    path: &[u8],
    working_directory: &[u8],
) -> Result<(), Errno> {
    let base = root_fs.resolve(walk, root, working_directory, Follow::Yes)?;
    let position = root_fs.resolve(walk, &base, path, Follow::Yes)?;
    if position.kind() != FileKind::File {
        return Err(Errno::ACCESS);
    }
    position.access(walk, AccessMode::EXECUTE)
}

fn user_credentials(request: &StepRequest) -> Credentials {
    if request.user.uid == 0 {
        return Credentials::root();
    }
    Credentials {
        uid: request.user.uid,
        gid: request.user.gid,
        groups: request.user.groups.clone(),
        capabilities: cooper_vfs::Capabilities::empty(),
    }
}

fn decode(record: &TreeRecord) -> Result<Tree, Failure> {
    Tree::decode(record.0.as_slice()).map_err(|error| Failure::Store(error.to_string()))
}

pub(crate) fn store_failure(error: &io::Error) -> Failure {
    Failure::Store(error.to_string())
}
