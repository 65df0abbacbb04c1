//! Virtual credentials of a thread.
//!
//! User and group ids and capability sets as capabilities(7) and credentials(7) describe them, changed by Linux's
//! rules. They are records: no call of the host is made with them. Root of a step has the capabilities that a
//! container's root has, and nothing can add to the bounding set.

use cooper_vfs::{Capabilities, Credentials as FilesystemCredentials, Errno};

/// The most supplementary groups a thread can have.
pub(crate) const MAX_GROUPS: usize = 65536;

/// `cap_last_cap`: the highest capability that exists.
pub(crate) const LAST_CAPABILITY: u32 = 40;

/// "Leave as it is" in the calls that set several ids.
pub(crate) const KEEP: u32 = u32::MAX;

/// `SECBIT_NOROOT`.
const SECURE_NO_ROOT: u32 = 1;
/// `SECBIT_NO_SETUID_FIXUP`.
const SECURE_NO_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`.
pub(crate) const SECURE_KEEP_CAPABILITIES: u32 = 1 << 4;
/// `SECBIT_NO_CAP_AMBIENT_RAISE`.
pub(crate) const SECURE_NO_AMBIENT_RAISE: u32 = 1 << 6;

/// Real, effective and saved id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
}

impl Ids {
    /// All three the same.
    pub(crate) const fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id }
    }

    fn contains(self, id: u32) -> bool {
        id == self.real || id == self.effective || id == self.saved
    }
}

/// Everything permission is decided by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    pub(crate) permitted: Capabilities,
    pub(crate) inheritable: Capabilities,
    pub(crate) bounding: Capabilities,
    pub(crate) ambient: Capabilities,
    pub(crate) secure_bits: u32,
    /// File system ids, supplementary groups and the effective capabilities.
    pub(crate) filesystem: FilesystemCredentials,
}

impl Credentials {
    /// The credentials a step's command starts with: a container's root, or a user without capabilities.
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        let permitted = if uid == 0 { Capabilities::CONTAINER } else { Capabilities::empty() };
        Self {
            user: Ids::all(uid),
            group: Ids::all(gid),
            permitted,
            inheritable: Capabilities::empty(),
            bounding: Capabilities::CONTAINER,
            ambient: Capabilities::empty(),
            secure_bits: 0,
            filesystem: FilesystemCredentials { uid, gid, groups, capabilities: permitted },
        }
    }

    /// Whether a capability is effective.
    pub(crate) fn holds(&self, capability: Capabilities) -> bool {
        self.filesystem.holds(capability)
    }

    /// The effective capabilities.
    pub(crate) fn effective(&self) -> Capabilities {
        self.filesystem.capabilities
    }

    /// Whether `execve` gives more rights to these credentials than the caller had (`AT_SECURE`).
    pub(crate) fn is_secure(&self) -> bool {
        self.user.real != self.user.effective || self.group.real != self.group.effective
    }

    /// `setuid`. `EPERM` without privilege unless `uid` is the real or the saved id.
    pub(crate) fn set_uid(&mut self, uid: u32) -> Result<(), Errno> {
        let old = self.user;
        if self.holds(Capabilities::SETUID) {
            self.user = Ids::all(uid);
        } else if uid == old.real || uid == old.saved {
            self.user.effective = uid;
        } else {
            return Err(Errno::PERM);
        }
        self.users_changed(old);
        Ok(())
    }

    /// `setreuid`.
    pub(crate) fn set_real_effective_uid(&mut self, real: u32, effective: u32) -> Result<(), Errno> {
        let old = self.user;
        let privileged = self.holds(Capabilities::SETUID);
        if !privileged {
            let real_allowed = real == KEEP || real == old.real || real == old.effective;
            if !real_allowed || (effective != KEEP && !old.contains(effective)) {
                return Err(Errno::PERM);
            }
        }
        self.user = real_effective(old, real, effective);
        self.users_changed(old);
        Ok(())
    }

    /// `setresuid`.
    pub(crate) fn set_user_ids(&mut self, real: u32, effective: u32, saved: u32) -> Result<(), Errno> {
        let old = self.user;
        self.user = all_three(old, [real, effective, saved], self.holds(Capabilities::SETUID))?;
        self.users_changed(old);
        Ok(())
    }

    /// `setgid`.
    pub(crate) fn set_gid(&mut self, gid: u32) -> Result<(), Errno> {
        if self.holds(Capabilities::SETGID) {
            self.group = Ids::all(gid);
        } else if gid == self.group.real || gid == self.group.saved {
            self.group.effective = gid;
        } else {
            return Err(Errno::PERM);
        }
        self.filesystem.gid = self.group.effective;
        Ok(())
    }

    /// `setregid`.
    pub(crate) fn set_real_effective_gid(&mut self, real: u32, effective: u32) -> Result<(), Errno> {
        let old = self.group;
        if !self.holds(Capabilities::SETGID) {
            let real_allowed = real == KEEP || real == old.real || real == old.effective;
            if !real_allowed || (effective != KEEP && !old.contains(effective)) {
                return Err(Errno::PERM);
            }
        }
        self.group = real_effective(old, real, effective);
        self.filesystem.gid = self.group.effective;
        Ok(())
    }

    /// `setresgid`.
    pub(crate) fn set_group_ids(&mut self, real: u32, effective: u32, saved: u32) -> Result<(), Errno> {
        self.group = all_three(self.group, [real, effective, saved], self.holds(Capabilities::SETGID))?;
        self.filesystem.gid = self.group.effective;
        Ok(())
    }

    /// `setfsuid`: returns the id before; an id that is not allowed changes nothing.
    pub(crate) fn set_filesystem_uid(&mut self, uid: u32) -> u32 {
        let old = self.filesystem.uid;
        if uid == old || self.user.contains(uid) || self.holds(Capabilities::SETUID) {
            self.filesystem.uid = uid;
            self.filesystem_user_changed(old);
        }
        old
    }

    /// `setfsgid`: returns the id before; an id that is not allowed changes nothing.
    pub(crate) fn set_filesystem_gid(&mut self, gid: u32) -> u32 {
        let old = self.filesystem.gid;
        if gid == old || self.group.contains(gid) || self.holds(Capabilities::SETGID) {
            self.filesystem.gid = gid;
        }
        old
    }

    /// `setgroups`. `EPERM` without `CAP_SETGID`.
    pub(crate) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.holds(Capabilities::SETGID) {
            return Err(Errno::PERM);
        }
        self.filesystem.groups = groups;
        Ok(())
    }

    /// `capset`: the new sets may only shrink, except that inheritable may take from permitted and bounding.
    pub(crate) fn set_capabilities(
        &mut self,
        effective: Capabilities,
        permitted: Capabilities,
        inheritable: Capabilities,
    ) -> Result<(), Errno> {
        let from_permitted = self.inheritable.union(self.permitted);
        let from_bounding = self.inheritable.union(self.bounding);
        let allowed = self.permitted.contains(permitted)
            && permitted.contains(effective)
            && from_bounding.contains(inheritable)
            && (self.holds(Capabilities::SETPCAP) || from_permitted.contains(inheritable));
        if !allowed {
            return Err(Errno::PERM);
        }
        self.permitted = permitted;
        self.inheritable = inheritable;
        self.filesystem.capabilities = effective;
        self.ambient = self.ambient.intersection(permitted.intersection(inheritable));
        Ok(())
    }

    /// The credentials after `execve` of a file with these set-id owners and file capabilities.
    pub(crate) fn after_exec(&self, set: SetIds) -> Self {
        let mut new = self.clone();
        if let Some(uid) = set.uid {
            new.user.effective = uid;
        }
        if let Some(gid) = set.gid {
            new.group.effective = gid;
        }
        new.user.saved = new.user.effective;
        new.group.saved = new.group.effective;
        new.filesystem.uid = new.user.effective;
        new.filesystem.gid = new.group.effective;
        let privileged_file = set.uid.is_some() || set.gid.is_some() || set.file_capabilities.is_some();
        if privileged_file {
            new.ambient = Capabilities::empty();
        }
        let (mut file_permitted, mut file_inheritable, mut file_effective) =
            set.file_capabilities.map_or((Capabilities::empty(), Capabilities::empty(), false), |caps| {
                (caps.permitted, caps.inheritable, caps.effective)
            });
        let root_counts = self.secure_bits & SECURE_NO_ROOT == 0;
        if root_counts && (new.user.effective == 0 || new.user.real == 0) {
            file_permitted = all_capabilities();
            file_inheritable = all_capabilities();
            file_effective |= new.user.effective == 0;
        }
        new.permitted = self
            .inheritable
            .intersection(file_inheritable)
            .union(file_permitted.intersection(self.bounding))
            .union(new.ambient);
        new.filesystem.capabilities = if file_effective { new.permitted } else { new.ambient };
        new.secure_bits &= !SECURE_KEEP_CAPABILITIES;
        new
    }

    /// The rules of capabilities(7) for changes of user ids.
    fn users_changed(&mut self, old: Ids) {
        let old_filesystem = self.filesystem.uid;
        self.filesystem.uid = self.user.effective;
        if self.secure_bits & SECURE_NO_FIXUP != 0 {
            return;
        }
        let had_root = old.contains(0);
        if had_root && !self.user.contains(0) && self.secure_bits & SECURE_KEEP_CAPABILITIES == 0 {
            self.permitted = Capabilities::empty();
            self.filesystem.capabilities = Capabilities::empty();
            self.ambient = Capabilities::empty();
        }
        if old.effective == 0 && self.user.effective != 0 {
            self.filesystem.capabilities = Capabilities::empty();
        } else if old.effective != 0 && self.user.effective == 0 {
            self.filesystem.capabilities = self.permitted;
        } else {
            self.filesystem_user_changed(old_filesystem);
        }
    }

    /// Going from file system user 0 to another drops the capabilities over files, and back restores them.
    fn filesystem_user_changed(&mut self, old: u32) {
        if self.secure_bits & SECURE_NO_FIXUP != 0 {
            return;
        }
        let over_files = Capabilities::CHOWN
            | Capabilities::DAC_OVERRIDE
            | Capabilities::DAC_READ_SEARCH
            | Capabilities::FOWNER
            | Capabilities::FSETID
            | Capabilities::LINUX_IMMUTABLE
            | Capabilities::MKNOD;
        if old == 0 && self.filesystem.uid != 0 {
            self.filesystem.capabilities.remove(over_files);
        } else if old != 0 && self.filesystem.uid == 0 {
            self.filesystem.capabilities.insert(over_files.intersection(self.permitted));
        }
    }
}

/// Every capability that exists.
pub(crate) fn all_capabilities() -> Capabilities {
    Capabilities::from_bits_retain((1 << (LAST_CAPABILITY + 1)) - 1)
}

/// Rights that come from the file that is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetIds {
    /// Owner of a set-user-ID file.
    pub(crate) uid: Option<u32>,
    /// Group of a set-group-ID file.
    pub(crate) gid: Option<u32>,
    /// `security.capability`.
    pub(crate) file_capabilities: Option<FileCapabilities>,
}

/// The capability sets of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileCapabilities {
    pub(crate) permitted: Capabilities,
    pub(crate) inheritable: Capabilities,
    pub(crate) effective: bool,
}

impl FileCapabilities {
    /// Reads the bytes of the attribute `security.capability` (versions 2 and 3). `None` when they are malformed.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let part = bytes.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes([part[0], part[1], part[2], part[3]]))
        };
        let magic = word(0)?;
        let version = magic >> 24;
        let expected = match version {
            2 => 20,
            3 => 24,
            _ => return None,
        };
        if bytes.len() != expected {
            return None;
        }
        let wide =
            |low: u32, high: u32| Capabilities::from_bits_retain(u64::from(high) << 32 | u64::from(low));
        Some(Self {
            permitted: wide(word(1)?, word(3)?),
            inheritable: wide(word(2)?, word(4)?),
            effective: magic & 1 != 0,
        })
    }
}

fn real_effective(old: Ids, real: u32, effective: u32) -> Ids {
    let mut new = old;
    if real != KEEP {
        new.real = real;
    }
    if effective != KEEP {
        new.effective = effective;
    }
    if real != KEEP || (effective != KEEP && effective != old.real) {
        new.saved = new.effective;
    }
    new
}

fn all_three(old: Ids, wanted: [u32; 3], privileged: bool) -> Result<Ids, Errno> {
    if !privileged && wanted.iter().any(|id| *id != KEEP && !old.contains(*id)) {
        return Err(Errno::PERM);
    }
    let pick = |wanted: u32, old: u32| if wanted == KEEP { old } else { wanted };
    Ok(Ids {
        real: pick(wanted[0], old.real),
        effective: pick(wanted[1], old.effective),
        saved: pick(wanted[2], old.saved),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_that_becomes_a_user_loses_everything_and_cannot_come_back() {
        let mut credentials = Credentials::new(0, 0, vec![]);
        assert_eq!(credentials.set_user_ids(100, 100, 100), Ok(()));
        assert_eq!(
            (credentials.permitted, credentials.effective()),
            (Capabilities::empty(), Capabilities::empty())
        );
        assert_eq!(credentials.set_uid(0), Err(Errno::PERM));
        assert_eq!(credentials.filesystem.uid, 100);
    }

    #[test]
    fn root_that_keeps_its_saved_id_comes_back() {
        let mut credentials = Credentials::new(0, 0, vec![]);
        assert_eq!(credentials.set_user_ids(KEEP, 100, KEEP), Ok(()));
        assert!(credentials.effective().is_empty());
        assert_eq!(credentials.permitted, Capabilities::CONTAINER);
        assert_eq!(credentials.set_user_ids(KEEP, 0, KEEP), Ok(()));
        assert_eq!(credentials.effective(), Capabilities::CONTAINER);
    }

    #[test]
    fn keep_capabilities_keeps_permitted_but_not_effective() {
        let mut credentials = Credentials::new(0, 0, vec![]);
        credentials.secure_bits |= SECURE_KEEP_CAPABILITIES;
        assert_eq!(credentials.set_uid(5), Ok(()));
        assert_eq!(
            (credentials.permitted, credentials.effective()),
            (Capabilities::CONTAINER, Capabilities::empty())
        );
    }

    #[test]
    fn filesystem_uid_moves_only_the_capabilities_over_files() {
        let mut credentials = Credentials::new(0, 0, vec![]);
        assert_eq!(credentials.set_filesystem_uid(7), 0);
        assert!(!credentials.holds(Capabilities::DAC_OVERRIDE));
        assert!(credentials.holds(Capabilities::SETUID));
        assert_eq!(credentials.set_filesystem_uid(0), 7);
        assert_eq!(credentials.effective(), Capabilities::CONTAINER);
    }

    #[test]
    fn user_may_swap_only_its_own_ids() {
        let mut credentials = Credentials::new(10, 20, vec![]);
        assert_eq!(credentials.set_real_effective_uid(KEEP, 11), Err(Errno::PERM));
        assert_eq!(credentials.set_group_ids(20, KEEP, 21), Err(Errno::PERM));
        assert_eq!(credentials.set_groups(vec![1]), Err(Errno::PERM));
        assert_eq!(credentials.set_gid(20), Ok(()));
    }

    #[test]
    fn set_user_id_root_file_gives_the_bounding_set() {
        let user = Credentials::new(10, 20, vec![]);
        let new = user.after_exec(SetIds { uid: Some(0), ..SetIds::default() });
        assert_eq!((new.user.real, new.user.effective, new.user.saved), (10, 0, 0));
        assert_eq!(new.effective(), Capabilities::CONTAINER);
        assert!(new.is_secure());
        let plain = user.after_exec(SetIds::default());
        assert!(plain.effective().is_empty() && !plain.is_secure());
    }

    #[test]
    fn file_capabilities_are_read_with_their_version() {
        let mut bytes = vec![1, 0, 0, 2];
        bytes.extend([0u8; 16]);
        bytes[5] = 4;
        let file = FileCapabilities::parse(&bytes);
        assert!(file.is_some_and(|file| file.effective && file.permitted == Capabilities::NET_BIND_SERVICE));
        assert_eq!(FileCapabilities::parse(&bytes[..19]), None);
        assert_eq!(FileCapabilities::parse(&[0; 20]), None);
    }

    #[test]
    fn capset_cannot_add() {
        let mut credentials = Credentials::new(0, 0, vec![]);
        let (none, some) = (Capabilities::empty(), Capabilities::CHOWN);
        assert_eq!(credentials.set_capabilities(some, some, none), Ok(()));
        assert_eq!(credentials.set_capabilities(some, Capabilities::CONTAINER, none), Err(Errno::PERM));
        assert_eq!(credentials.set_capabilities(Capabilities::KILL, some, none), Err(Errno::PERM));
    }
}
