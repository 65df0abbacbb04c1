//! `/proc` and `/sys`: the step's own processes and its virtual machine, never the host's.
//!
//! Both are [`SyntheticFs`]: a node is a number, its contents are made when it is opened and stay as they were until
//! it is closed. What exists is data: [`system`] has a table of paths of the machine, [`process`] one of the entries
//! of a process's directory. A node number holds which table, which line, and for processes the process, the thread
//! and the descriptor.
//!
//! What must hold: nothing here asks the host; a reference to the kernel is weak, as the kernel owns the file system
//! these are mounted in; no lock of the kernel is held while another process's memory is read.

mod process;
mod system;

use std::fmt;
use std::sync::{Arc, Weak};

use cooper_vfs::synthetic::SyntheticEntry;
use cooper_vfs::{
    Caller, Errno, FileKind, Link, MountOptions, MountSource, OpenFlags, Stat, SyntheticFile, SyntheticFs,
    SyntheticId, Timestamp,
};

use crate::kernel::Kernel;
use crate::wait::lock;
use system::SystemTree;

/// Type number of `/proc`.
const PROC_MAGIC: u64 = 0x9fa0;
/// Type number of `/sys`.
const SYS_MAGIC: u64 = 0x6265_6572;

impl Kernel {
    /// Mounts `/proc` and `/sys`. To be called once, before the first process starts.
    pub fn mount_system(self: &Arc<Self>) -> Result<(), Errno> {
        let weak = Arc::downgrade(self);
        let proc = ProcFs { kernel: weak.clone(), tree: SystemTree::new(system::PROC) };
        let sys = SysFs { kernel: weak, tree: SystemTree::new(system::SYS) };
        self.root_fs.mount(b"/proc", MountSource::Synthetic(Arc::new(proc)), MountOptions::WRITABLE)?;
        self.root_fs.mount(b"/sys", MountSource::Synthetic(Arc::new(sys)), MountOptions::READ_ONLY)?;
        Ok(())
    }
}

/// A file whose contents were made at `open`.
#[derive(Debug)]
struct Snapshot {
    bytes: Vec<u8>,
    /// Takes what is written.
    target: Option<process::Writable>,
}

impl SyntheticFile for Snapshot {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.target.as_ref().ok_or(Errno::IO)?.write(data)?;
        Ok(data.len())
    }
}

/// Attributes of a node that belongs to root and is as old as the machine.
fn plain_stat(node: SyntheticId, mode: u32, kernel: &Kernel) -> Stat {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let start = now.saturating_sub(kernel.uptime());
    let time = Timestamp { seconds: start.as_secs() as i64, nanoseconds: 0 };
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    Stat {
        inode: node.0,
        mode,
        links,
        block_size: 1024,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        ..Stat::default()
    }
}

/// `/sys`.
struct SysFs {
    kernel: Weak<Kernel>,
    tree: SystemTree,
}

impl fmt::Debug for SysFs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SysFs")
    }
}

impl SysFs {
    fn kernel(&self) -> Result<Arc<Kernel>, Errno> {
        self.kernel.upgrade().ok_or(Errno::NODEV)
    }
}

impl SyntheticFs for SysFs {
    fn root(&self) -> SyntheticId {
        SyntheticId(SystemTree::ROOT)
    }

    fn lookup(&self, directory: SyntheticId, name: &[u8], _caller: &Caller) -> Result<SyntheticId, Errno> {
        self.tree.lookup(directory.0, name).map(SyntheticId)
    }

    fn stat(&self, node: SyntheticId, _caller: &Caller) -> Result<Stat, Errno> {
        Ok(plain_stat(node, self.tree.mode(node.0)?, &*self.kernel()?))
    }

    fn list(&self, directory: SyntheticId, _caller: &Caller) -> Result<Vec<SyntheticEntry>, Errno> {
        self.tree.list(directory.0)
    }

    fn read_link(&self, _link: SyntheticId, _caller: &Caller) -> Result<Link, Errno> {
        Err(Errno::INVAL)
    }

    fn open(
        &self,
        file: SyntheticId,
        flags: OpenFlags,
        _caller: &Caller,
    ) -> Result<Arc<dyn SyntheticFile>, Errno> {
        if flags.writes() {
            return Err(Errno::ACCESS);
        }
        let bytes = self.tree.render(file.0, &*self.kernel()?)?;
        Ok(Arc::new(Snapshot { bytes, target: None }))
    }

    fn magic(&self) -> u64 {
        SYS_MAGIC
    }

    fn type_name(&self) -> &str {
        "sysfs"
    }
}

/// `/proc`.
struct ProcFs {
    kernel: Weak<Kernel>,
    tree: SystemTree,
}

impl fmt::Debug for ProcFs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ProcFs")
    }
}

/// What a node number of `/proc` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    /// A line of the machine's table.
    System(u64),
    /// `/proc/self`.
    SelfLink,
    /// `/proc/thread-self`.
    ThreadLink,
    /// Something of a process.
    Process(process::Node),
}

/// Bit that tells processes from the machine.
const OF_PROCESS: u64 = 1 << 63;
const SELF_LINK: u64 = 1 << 62;
const THREAD_LINK: u64 = SELF_LINK | 1;

impl Node {
    fn decode(id: SyntheticId) -> Self {
        match id.0 {
            SELF_LINK => Self::SelfLink,
            THREAD_LINK => Self::ThreadLink,
            id if id & OF_PROCESS != 0 => Self::Process(process::Node::decode(id & !OF_PROCESS)),
            id => Self::System(id),
        }
    }
}

impl From<process::Node> for SyntheticId {
    fn from(node: process::Node) -> Self {
        Self(OF_PROCESS | node.encode())
    }
}

impl ProcFs {
    fn kernel(&self) -> Result<Arc<Kernel>, Errno> {
        self.kernel.upgrade().ok_or(Errno::NODEV)
    }
}

/// A number in its plain spelling.
pub(crate) fn number(name: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(name).ok()?;
    let value: u32 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

impl SyntheticFs for ProcFs {
    fn root(&self) -> SyntheticId {
        SyntheticId(SystemTree::ROOT)
    }

    fn lookup(&self, directory: SyntheticId, name: &[u8], _caller: &Caller) -> Result<SyntheticId, Errno> {
        match Node::decode(directory) {
            Node::Process(node) => process::lookup(&*self.kernel()?, node, name).map(SyntheticId::from),
            Node::System(SystemTree::ROOT) => match (name, number(name)) {
                (b"self", _) => Ok(SyntheticId(SELF_LINK)),
                (b"thread-self", _) => Ok(SyntheticId(THREAD_LINK)),
                (_, Some(pid)) => process::root(&*self.kernel()?, pid).map(SyntheticId::from),
                _ => self.tree.lookup(SystemTree::ROOT, name).map(SyntheticId),
            },
            Node::System(line) => self.tree.lookup(line, name).map(SyntheticId),
            Node::SelfLink | Node::ThreadLink => Err(Errno::NOTDIR),
        }
    }

    fn stat(&self, node: SyntheticId, _caller: &Caller) -> Result<Stat, Errno> {
        let kernel = self.kernel()?;
        match Node::decode(node) {
            Node::Process(inner) => process::stat(&kernel, inner, node),
            Node::System(line) => Ok(plain_stat(node, self.tree.mode(line)?, &kernel)),
            Node::SelfLink | Node::ThreadLink => Ok(plain_stat(node, 0o120_777, &kernel)),
        }
    }

    fn list(&self, directory: SyntheticId, _caller: &Caller) -> Result<Vec<SyntheticEntry>, Errno> {
        let kernel = self.kernel()?;
        match Node::decode(directory) {
            Node::Process(node) => process::list(&kernel, node),
            Node::System(line) => {
                let mut entries = self.tree.list(line)?;
                if line == SystemTree::ROOT {
                    entries.push(entry(b"self", FileKind::Symlink, SELF_LINK));
                    entries.push(entry(b"thread-self", FileKind::Symlink, THREAD_LINK));
                    for pid in lock(&kernel.table).processes.keys() {
                        let id = SyntheticId::from(process::Node::directory(*pid));
                        entries.push(entry(pid.to_string().as_bytes(), FileKind::Directory, id.0));
                    }
                }
                Ok(entries)
            }
            Node::SelfLink | Node::ThreadLink => Err(Errno::NOTDIR),
        }
    }

    fn read_link(&self, link: SyntheticId, caller: &Caller) -> Result<Link, Errno> {
        match Node::decode(link) {
            Node::SelfLink => Ok(Link::Path(caller.process.to_string().into_bytes())),
            Node::ThreadLink => {
                Ok(Link::Path(format!("{}/task/{}", caller.process, caller.thread).into_bytes()))
            }
            Node::Process(node) => process::read_link(&*self.kernel()?, node),
            Node::System(line) => self.tree.link(line).map(|target| Link::Path(target.to_vec())),
        }
    }

    fn open(
        &self,
        file: SyntheticId,
        flags: OpenFlags,
        _caller: &Caller,
    ) -> Result<Arc<dyn SyntheticFile>, Errno> {
        let kernel = self.kernel()?;
        match Node::decode(file) {
            Node::Process(node) => process::open(&kernel, node, flags),
            Node::System(line) if !flags.writes() => {
                Ok(Arc::new(Snapshot { bytes: self.tree.render(line, &kernel)?, target: None }))
            }
            // The machine is not the guest's to configure.
            Node::System(_) => Err(Errno::ROFS),
            Node::SelfLink | Node::ThreadLink => Err(Errno::LOOP),
        }
    }

    fn magic(&self) -> u64 {
        PROC_MAGIC
    }

    fn type_name(&self) -> &str {
        "proc"
    }
}

fn entry(name: &[u8], kind: FileKind, inode: u64) -> SyntheticEntry {
    SyntheticEntry { name: name.to_vec(), kind, inode }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_numbers_are_taken_apart_again() {
        let node = process::Node::directory(321);
        assert_eq!(Node::decode(node.into()), Node::Process(node));
        assert_eq!(Node::decode(SyntheticId(SELF_LINK)), Node::SelfLink);
        assert_eq!(Node::decode(SyntheticId(THREAD_LINK)), Node::ThreadLink);
        assert_eq!(Node::decode(SyntheticId(7)), Node::System(7));
    }

    #[test]
    fn only_plain_numbers_are_process_ids() {
        assert_eq!(number(b"12"), Some(12));
        for name in [&b"012"[..], b"+1", b"", b"1a", b"99999999999"] {
            assert_eq!(number(name), None);
        }
    }
}
