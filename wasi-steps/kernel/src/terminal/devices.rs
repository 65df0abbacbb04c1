//! `/dev/pts`: a file system with one device for each terminal.

use std::sync::{Arc, Weak};

use cooper_vfs::synthetic::SyntheticEntry;
use cooper_vfs::{
    Caller, FileKind, Link, MountOptions, MountSource, OpenFlags, Stat, SyntheticFile, SyntheticFs,
    SyntheticId, Timestamp, device_number,
};

use super::SLAVES;
use crate::files::Errno;
use crate::kernel::Kernel;
use crate::wait::lock;

/// Type number of `devpts`.
const MAGIC: u64 = 0x1cd1;
const ROOT: u64 = 1;
const MULTIPLEXER: u64 = 2;
/// Node number of terminal 0.
const FIRST: u64 = 3;
/// The group `tty`, which `write` and its kin have.
const GROUP: u32 = 5;

impl Kernel {
    /// Mounts `/dev/pts`. To be called once, after `/dev` and before the first process starts.
    pub fn mount_terminals(self: &Arc<Self>) -> Result<(), Errno> {
        let fs = DevPts { kernel: Arc::downgrade(self) };
        self.root_fs.mount(b"/dev/pts", MountSource::Synthetic(Arc::new(fs)), MountOptions::WRITABLE)?;
        Ok(())
    }
}

#[derive(Debug)]
struct DevPts {
    kernel: Weak<Kernel>,
}

impl DevPts {
    fn kernel(&self) -> Result<Arc<Kernel>, Errno> {
        self.kernel.upgrade().ok_or(Errno::NODEV)
    }
}

impl SyntheticFs for DevPts {
    fn root(&self) -> SyntheticId {
        SyntheticId(ROOT)
    }

    fn lookup(&self, _directory: SyntheticId, name: &[u8], _caller: &Caller) -> Result<SyntheticId, Errno> {
        if name == b"ptmx" {
            return Ok(SyntheticId(MULTIPLEXER));
        }
        let number = crate::proc::number(name).ok_or(Errno::NOENT)?;
        let found = self.kernel()?.registry.terminals.find(number).ok_or(Errno::NOENT)?;
        let open = lock(&found.state).master_open;
        if open { Ok(SyntheticId(FIRST + u64::from(number))) } else { Err(Errno::NOENT) }
    }

    fn stat(&self, node: SyntheticId, _caller: &Caller) -> Result<Stat, Errno> {
        let kernel = self.kernel()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let time =
            Timestamp { seconds: now.saturating_sub(kernel.uptime()).as_secs() as i64, nanoseconds: 0 };
        let stat = Stat {
            inode: node.0,
            links: 1,
            block_size: 1024,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            ..Stat::default()
        };
        Ok(match node.0 {
            ROOT => Stat { mode: 0o040_755, links: 2, ..stat },
            MULTIPLEXER => Stat { mode: 0o020_666, rdev: device_number(5, 2), ..stat },
            id => {
                let number = (id - FIRST) as u32;
                let terminal = kernel.registry.terminals.find(number).ok_or(Errno::NOENT)?;
                let rdev = device_number(SLAVES, number);
                Stat { mode: 0o020_620, rdev, uid: terminal.owner, gid: GROUP, ..stat }
            }
        })
    }

    fn list(&self, _directory: SyntheticId, _caller: &Caller) -> Result<Vec<SyntheticEntry>, Errno> {
        let entry = |name: Vec<u8>, inode| SyntheticEntry { name, kind: FileKind::CharacterDevice, inode };
        let terminals = self.kernel()?.registry.terminals.all();
        let slaves = terminals.iter().map(|terminal| {
            entry(terminal.number.to_string().into_bytes(), FIRST + u64::from(terminal.number))
        });
        Ok(std::iter::once(entry(b"ptmx".to_vec(), MULTIPLEXER)).chain(slaves).collect())
    }

    fn read_link(&self, _link: SyntheticId, _caller: &Caller) -> Result<Link, Errno> {
        Err(Errno::INVAL)
    }

    /// Never asked: devices are opened by their numbers.
    fn open(
        &self,
        _file: SyntheticId,
        _flags: OpenFlags,
        _caller: &Caller,
    ) -> Result<Arc<dyn SyntheticFile>, Errno> {
        Err(Errno::NXIO)
    }

    fn magic(&self) -> u64 {
        MAGIC
    }

    fn type_name(&self) -> &str {
        "devpts"
    }
}
