//! Who asks: virtual credentials and the walk that carries them.

use bitflags::bitflags;

use crate::rootfs::Position;

bitflags! {
    /// Capabilities, with bit `n` for Linux's capability number `n`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Capabilities: u64 {
        /// Change owners at will.
        const CHOWN = 1 << 0;
        /// Ignore read, write and search permission.
        const DAC_OVERRIDE = 1 << 1;
        /// Ignore read permission and search permission of directories.
        const DAC_READ_SEARCH = 1 << 2;
        /// Act as the owner of every file.
        const FOWNER = 1 << 3;
        /// Keep setuid and setgid bits on change.
        const FSETID = 1 << 4;
        /// Signal anyone.
        const KILL = 1 << 5;
        /// Change group ids.
        const SETGID = 1 << 6;
        /// Change user ids.
        const SETUID = 1 << 7;
        /// Change capability sets.
        const SETPCAP = 1 << 8;
        /// Set the immutable and append-only flags.
        const LINUX_IMMUTABLE = 1 << 9;
        /// Bind to low ports.
        const NET_BIND_SERVICE = 1 << 10;
        /// Broadcast.
        const NET_BROADCAST = 1 << 11;
        /// Administer the network.
        const NET_ADMIN = 1 << 12;
        /// Raw sockets.
        const NET_RAW = 1 << 13;
        /// Lock memory.
        const IPC_LOCK = 1 << 14;
        /// Own all IPC objects.
        const IPC_OWNER = 1 << 15;
        /// Load kernel modules.
        const SYS_MODULE = 1 << 16;
        /// Raw I/O.
        const SYS_RAWIO = 1 << 17;
        /// Change the root directory.
        const SYS_CHROOT = 1 << 18;
        /// Trace anyone.
        const SYS_PTRACE = 1 << 19;
        /// Process accounting.
        const SYS_PACCT = 1 << 20;
        /// Administration: among others `trusted.` extended attributes.
        const SYS_ADMIN = 1 << 21;
        /// Reboot.
        const SYS_BOOT = 1 << 22;
        /// Raise priorities.
        const SYS_NICE = 1 << 23;
        /// Go over resource limits.
        const SYS_RESOURCE = 1 << 24;
        /// Set the clock.
        const SYS_TIME = 1 << 25;
        /// Configure terminals.
        const SYS_TTY_CONFIG = 1 << 26;
        /// Make device nodes.
        const MKNOD = 1 << 27;
        /// Take leases.
        const LEASE = 1 << 28;
        /// Write the audit log.
        const AUDIT_WRITE = 1 << 29;
        /// Control auditing.
        const AUDIT_CONTROL = 1 << 30;
        /// Set file capabilities.
        const SETFCAP = 1 << 31;
    }
}

impl Capabilities {
    /// What a container's root has by default.
    pub const CONTAINER: Self = Self::CHOWN
        .union(Self::DAC_OVERRIDE)
        .union(Self::FOWNER)
        .union(Self::FSETID)
        .union(Self::KILL)
        .union(Self::SETGID)
        .union(Self::SETUID)
        .union(Self::SETPCAP)
        .union(Self::NET_BIND_SERVICE)
        .union(Self::NET_RAW)
        .union(Self::SYS_CHROOT)
        .union(Self::MKNOD)
        .union(Self::AUDIT_WRITE)
        .union(Self::SETFCAP);
}

/// What file permission is checked by: the file system ids, the supplementary groups and the effective capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Supplementary groups, in any order.
    pub groups: Vec<u32>,
    /// Effective capabilities.
    pub capabilities: Capabilities,
}

impl Credentials {
    /// Root with every capability.
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new(), capabilities: Capabilities::all() }
    }

    /// An ordinary user: no supplementary groups, no capabilities.
    pub const fn user(uid: u32, gid: u32) -> Self {
        Self { uid, gid, groups: Vec::new(), capabilities: Capabilities::empty() }
    }

    /// Tells whether a capability is effective.
    pub const fn holds(&self, capability: Capabilities) -> bool {
        self.capabilities.contains(capability)
    }

    /// Tells whether `gid` is the own group or a supplementary one.
    pub fn is_member(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// The guest thread that asks, for `/proc/self` and its kin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Thread group id.
    pub process: u32,
    /// Thread id.
    pub thread: u32,
}

/// On whose behalf, and from which root, paths are resolved.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// Where absolute paths start and where `..` stops.
    pub root: &'a Position,
    /// Who asks.
    pub credentials: &'a Credentials,
    /// Which thread asks.
    pub caller: Caller,
}
