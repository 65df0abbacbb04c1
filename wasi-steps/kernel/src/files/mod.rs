//! Open files: what a descriptor number stands for.
//!
//! Three layers, as on Linux. A [`DescriptorTable`](table::DescriptorTable) maps numbers to open file descriptions
//! and is shared by the threads of a process. A [`Description`] is one `open`: the status flags and the offset,
//! shared by `dup` and `fork`. A [`FileObject`] is the thing itself: a regular file of the virtual file system, one
//! end of a pipe, a socket, a counter.
//!
//! Objects never block. `read` and `write` are *attempts* that answer `EAGAIN` when there is nothing to do, and
//! [`FileObject::watch`] names the queues that are woken when that changes; waiting happens in the syscall layer,
//! in one place. What must hold: an object wakes its [`Readiness`] after every change that can turn an `EAGAIN`
//! into an answer, and never while it holds one of its own locks longer than the change itself. Locks, in order:
//!
//! - the descriptor table
//! - the offset of a description
//! - an object's own state
//! - the wait queue inside a `Readiness`

pub(crate) mod blocking;
pub(crate) mod description;
pub(crate) mod epoll;
pub(crate) mod event;
pub(crate) mod guest;
pub(crate) mod inotify;
pub(crate) mod open;
pub(crate) mod pipe;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod regular;
pub(crate) mod restrict;
pub(crate) mod signal;
pub(crate) mod table;
pub(crate) mod timer;
pub(crate) mod transfer;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bitflags::bitflags;

pub(crate) use cooper_vfs::Errno;
pub(crate) use description::Description;
pub(crate) use transfer::{Input, Output};

use crate::wait::WaitQueue;
pub(crate) use crate::wait::lock;

bitflags! {
    /// What an object is ready for: the numbers of `poll` and `epoll`, which agree.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Ready: u32 {
        /// There is something to read, or the end of it.
        const IN = 0x001;
        /// Exceptional data, as a socket's urgent byte.
        const PRI = 0x002;
        /// A write would not block.
        const OUT = 0x004;
        /// An error, or the read end of a pipe is gone.
        const ERR = 0x008;
        /// The peer hung up.
        const HUP = 0x010;
        /// `poll` only: the number is not open.
        const NVAL = 0x020;
        /// Normal data, the same as `IN`.
        const RDNORM = 0x040;
        /// Priority data.
        const RDBAND = 0x080;
        /// The same as `OUT`.
        const WRNORM = 0x100;
        /// Priority data may be written.
        const WRBAND = 0x200;
        /// The peer shut down its writing half.
        const RDHUP = 0x2000;
    }
}

impl Ready {
    /// What a file that never blocks is ready for.
    pub(crate) const ALWAYS: Self = Self::IN.union(Self::OUT).union(Self::RDNORM).union(Self::WRNORM);

    /// Readable, in both spellings.
    pub(crate) const READABLE: Self = Self::IN.union(Self::RDNORM);

    /// Writable, in both spellings.
    pub(crate) const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
}

/// A wait queue that also counts its wakes, which is how edge-triggered `epoll` sees an edge.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    queue: WaitQueue,
    edges: AtomicU64,
}

impl Readiness {
    /// Makes a readiness nobody waits for yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Announces that something changed: every waiter attempts again.
    pub(crate) fn wake(&self) {
        self.edges.fetch_add(1, Ordering::SeqCst);
        self.queue.wake_all();
    }

    /// Returns how often `wake` was called.
    pub(crate) fn edges(&self) -> u64 {
        self.edges.load(Ordering::SeqCst)
    }

    /// Returns the queue to wait on.
    pub(crate) fn queue(&self) -> &WaitQueue {
        &self.queue
    }
}

/// Something with a queue to wait on.
#[derive(Clone, Debug)]
pub(crate) enum QueueRef {
    /// An object's own.
    Readiness(Arc<Readiness>),
    /// The changes of a process.
    Process(Arc<crate::task::Process>),
}

impl QueueRef {
    /// The queue.
    pub(crate) fn queue(&self) -> &WaitQueue {
        match self {
            Self::Readiness(readiness) => readiness.queue(),
            Self::Process(process) => &process.state_changed,
        }
    }

    /// How often it was woken; always the same for a process, which ends once.
    pub(crate) fn edges(&self) -> u64 {
        match self {
            Self::Readiness(readiness) => readiness.edges(),
            Self::Process(_) => 0,
        }
    }
}

/// The queues somebody who waits for an object waits on, and when to look again without a wake.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Every queue whose wake may change the answer.
    pub(crate) queues: Vec<QueueRef>,
    /// The moment at which a timer inside the object expires.
    pub(crate) deadline: Option<Instant>,
}

impl Watch {
    /// Adds a queue.
    pub(crate) fn add(&mut self, readiness: &Arc<Readiness>) {
        self.queues.push(QueueRef::Readiness(Arc::clone(readiness)));
    }

    /// Looks again at `instant` at the latest.
    pub(crate) fn until(&mut self, instant: Instant) {
        self.deadline = Some(self.deadline.map_or(instant, |earlier| earlier.min(instant)));
    }
}

/// What `fstat` and `/proc/self/fd` tell about an object that has no name in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anonymous {
    /// The text of the link in `/proc/self/fd`, such as `pipe:[12]`.
    pub(crate) label: Vec<u8>,
    /// File type and permission bits.
    pub(crate) mode: u32,
    /// The inode number.
    pub(crate) inode: u64,
    /// The size `fstat` shows.
    pub(crate) size: u64,
}

impl Anonymous {
    /// Describes an object of the anonymous inode file system, as `anon_inode:[eventfd]`.
    pub(crate) fn inode(class: &str) -> Self {
        Self {
            label: format!("anon_inode:{class}").into_bytes(),
            mode: 0o600,
            inode: ANONYMOUS_INODE,
            size: 0,
        }
    }

    /// Describes a numbered object, as `pipe:[12]`.
    pub(crate) fn numbered(class: &str, mode: u32, inode: u64) -> Self {
        Self { label: format!("{class}:[{inode}]").into_bytes(), mode, inode, size: 0 }
    }
}

/// The one inode number all objects of the anonymous inode file system share.
const ANONYMOUS_INODE: u64 = 9;

static NEXT_INODE: AtomicU64 = AtomicU64::new(1000);

/// Returns a fresh inode number for a pipe, a socket or a description.
pub(crate) fn next_inode() -> u64 {
    NEXT_INODE.fetch_add(1, Ordering::Relaxed)
}

/// The thing behind a descriptor.
///
/// The methods are attempts and never block. Offsets are the caller's: an object that is not
/// [`seekable`](FileObject::seekable) ignores them.
pub(crate) trait FileObject: Send + Sync + Debug {
    /// Reads at `offset`; 0 is the end of the file. `EAGAIN` when a reader would wait.
    fn read(&self, output: &mut dyn Output, offset: u64) -> Result<usize, Errno> {
        let _ = (output, offset);
        Err(Errno::INVAL)
    }

    /// Writes at `offset`. `EAGAIN` when a writer would wait.
    fn write(&self, input: &mut dyn Input, offset: u64) -> Result<usize, Errno> {
        let _ = (input, offset);
        Err(Errno::INVAL)
    }

    /// Writes at the end of a seekable file in one step; returns the new end and the count. `EFBIG` at `limit`.
    fn append(&self, input: &mut dyn Input, limit: u64) -> Result<(u64, usize), Errno> {
        let _ = limit;
        self.write(input, 0).map(|count| (0, count))
    }

    /// Whether `RLIMIT_FSIZE` bounds the object: regular files.
    fn limited(&self) -> bool {
        false
    }

    /// Returns what the object is ready for now.
    fn poll(&self) -> Ready {
        Ready::ALWAYS
    }

    /// Names the queues that are woken when [`poll`](FileObject::poll) may have changed.
    fn watch(&self, watch: &mut Watch) {
        let _ = watch;
    }

    /// Whether `epoll` accepts the object: files that are always ready are refused with `EPERM`.
    fn pollable(&self) -> bool {
        true
    }

    /// Whether the description's offset means anything (`ESPIPE` otherwise).
    fn seekable(&self) -> bool {
        false
    }

    /// Whether a blocking write goes on after a short count until everything is written.
    fn writes_everything(&self) -> bool {
        false
    }

    /// Whether `/proc/self/fd/N` of it can be opened although it has no place: the standard streams.
    fn reopens(&self) -> bool {
        false
    }

    /// Returns how many bytes a read would give now (`FIONREAD`), or `None` for `ENOTTY`.
    fn readable_bytes(&self) -> Option<u64> {
        None
    }

    /// Describes an object without a name.
    fn anonymous(&self) -> Option<Anonymous> {
        None
    }

    /// Returns the lines `/proc/self/fdinfo` adds for this object.
    fn information(&self) -> String {
        String::new()
    }

    /// Returns the typed object, for calls that are only for one kind.
    fn kind(&self) -> Kind<'_> {
        Kind::Other
    }
}

/// A typed view of a [`FileObject`], for system calls that only one kind of object serves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    /// One end of a pipe or FIFO, or both.
    Pipe(&'a pipe::PipeEnd),
    /// An `epoll` set.
    Epoll(&'a epoll::Epoll),
    /// A `timerfd`.
    Timer(&'a timer::TimerFile),
    /// An `inotify` instance.
    Inotify(&'a inotify::InotifyFile),
    /// A regular file.
    Regular(&'a regular::RegularFile),
    /// A directory.
    Directory(&'a regular::DirectoryFile),
    /// A socket.
    Socket(&'a dyn crate::sockets::Socket),
    /// A `signalfd`.
    Signals(&'a signal::SignalFile),
    /// A `pidfd`.
    Process(&'a process::ProcessFile),
    /// One side of a pseudo terminal.
    Terminal(&'a crate::terminal::TerminalEnd),
    /// A memory device.
    Device(crate::devices::MemoryDevice),
    /// Anything without calls of its own.
    Other,
}
