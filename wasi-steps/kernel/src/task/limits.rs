//! Resource limits (`getrlimit`, `prlimit64`).

use cooper_vfs::Errno;

/// How many resources there are.
pub(crate) const COUNT: usize = 16;

/// No limit.
pub(crate) const INFINITY: u64 = u64::MAX;

/// Linux's numbers of the resources that the kernel looks at.
pub(crate) mod resource {
    pub(crate) const CPU: usize = 0;
    pub(crate) const FSIZE: usize = 1;
    pub(crate) const DATA: usize = 2;
    pub(crate) const STACK: usize = 3;
    pub(crate) const CORE: usize = 4;
    pub(crate) const RSS: usize = 5;
    pub(crate) const NPROC: usize = 6;
    pub(crate) const NOFILE: usize = 7;
    pub(crate) const MEMLOCK: usize = 8;
    pub(crate) const AS: usize = 9;
    pub(crate) const LOCKS: usize = 10;
    pub(crate) const SIGPENDING: usize = 11;
    pub(crate) const MSGQUEUE: usize = 12;
    pub(crate) const NICE: usize = 13;
    pub(crate) const RTPRIO: usize = 14;
}

/// The limits that may be given to a step by their `ulimit` names: those that the kernel keeps to, and those that Linux
/// does not look at either.
const NAMES: &[(&str, usize)] = &[
    ("cpu", resource::CPU),
    ("fsize", resource::FSIZE),
    ("data", resource::DATA),
    ("stack", resource::STACK),
    ("core", resource::CORE),
    ("rss", resource::RSS),
    ("nproc", resource::NPROC),
    ("nofile", resource::NOFILE),
    ("memlock", resource::MEMLOCK),
    ("locks", resource::LOCKS),
    ("sigpending", resource::SIGPENDING),
    ("msgqueue", resource::MSGQUEUE),
];

/// Soft and hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The limits of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    table: [Limit; COUNT],
}

impl Limits {
    /// What a container's first process has, with the step's own numbers.
    pub(crate) fn new(processes: u64, open_files: u64) -> Self {
        let both = |value| Limit { soft: value, hard: value };
        let mut table = [both(INFINITY); COUNT];
        table[resource::STACK].soft = 8 << 20;
        table[resource::CORE] = both(0);
        table[resource::NPROC] = both(processes);
        table[resource::NOFILE] = both(open_files);
        table[resource::MEMLOCK] = both(64 << 10);
        table[resource::AS] = both(1 << 32);
        table[resource::SIGPENDING] = both(super::super::signal::pending::QUEUE_LIMIT as u64);
        table[resource::MSGQUEUE] = both(819_200);
        table[resource::NICE] = both(0);
        table[resource::RTPRIO] = both(0);
        Self { table }
    }

    /// With limits by name in place of the usual ones. `EINVAL` for a name that there is not.
    pub(crate) fn with(mut self, given: &[(String, u64, u64)]) -> Result<Self, Errno> {
        for (name, soft, hard) in given {
            let (_, number) = NAMES.iter().find(|(known, _)| known == name).ok_or(Errno::INVAL)?;
            self.table[*number] = Limit { soft: *soft, hard: *hard };
        }
        Ok(self)
    }

    /// The limit of a resource. `EINVAL` for one that does not exist.
    pub(crate) fn get(&self, resource: u64) -> Result<Limit, Errno> {
        usize::try_from(resource).ok().and_then(|index| self.table.get(index)).copied().ok_or(Errno::INVAL)
    }

    /// The soft limit of a known resource.
    pub(crate) fn soft(&self, resource: usize) -> u64 {
        self.table[resource].soft
    }

    /// Changes a limit.
    ///
    /// `EINVAL` for an unknown resource or a soft limit above the hard one; `EPERM` for raising the hard limit, which
    /// needs a capability that no guest has.
    pub(crate) fn set(&mut self, resource: u64, new: Limit) -> Result<(), Errno> {
        let old = self.get(resource)?;
        if new.soft > new.hard {
            return Err(Errno::INVAL);
        }
        if new.hard > old.hard {
            return Err(Errno::PERM);
        }
        self.table[resource as usize] = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_limit_only_falls() {
        let mut limits = Limits::new(10, 100);
        let nofile = resource::NOFILE as u64;
        assert_eq!(limits.set(nofile, Limit { soft: 50, hard: 80 }), Ok(()));
        assert_eq!(limits.set(nofile, Limit { soft: 50, hard: 90 }), Err(Errno::PERM));
        assert_eq!(limits.set(nofile, Limit { soft: 60, hard: 50 }), Err(Errno::INVAL));
        assert_eq!(limits.set(16, Limit { soft: 0, hard: 0 }), Err(Errno::INVAL));
        assert_eq!(limits.soft(resource::NOFILE), 50);
    }
}
