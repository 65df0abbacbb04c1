//! Users and groups of an image: its `/etc/passwd` and `/etc/group`, read as text.
//!
//! Nothing here asks the host; the texts come from the tree the step or the copy works on. The rules are Docker's:
//! a user is a name or a number; a group likewise; a user without a group has the group of its passwd entry, and the
//! supplementary groups that list its name; a number without an entry is used as it is.
//!
//! What must hold: any bytes are accepted; lines that are no entries are skipped, as libc does.

use crate::step::StepUser;

/// Bound on the size of `/etc/passwd` and `/etc/group`, in bytes. Larger files are refused, not cut.
pub const DATABASE_BYTES: u64 = 16 << 20;

/// The texts of an image's user and group databases; empty where it has none.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// `/etc/passwd`
    pub passwd: Vec<u8>,
    /// `/etc/group`
    pub group: Vec<u8>,
}

/// A user resolved: the ids and the home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Ids.
    pub user: StepUser,
    /// Home directory of the passwd entry; `/` without one.
    pub home: Vec<u8>,
}

/// Owner of copied files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A user or group that the image does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// A name that `/etc/passwd` does not list.
    #[error("the image has no user `{0}` in /etc/passwd")]
    NoUser(String),
    /// A name that `/etc/group` does not list.
    #[error("the image has no group `{0}` in /etc/group")]
    NoGroup(String),
    /// A number that is no 32-bit id.
    #[error("`{0}` is not a user or group id: ids go from 0 to 4294967294")]
    Range(String),
}

#[derive(Debug)]
struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

#[derive(Debug)]
struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl Accounts {
    /// Resolves what `USER` says: `user`, `user:group`, each a name or a number; empty is root.
    pub fn account(&self, text: &str) -> Result<Account, AccountError> {
        let (user, group) = split(text);
        let entry = self.find_user(user)?;
        let uid = match &entry {
            Some(entry) => entry.uid,
            None if user.is_empty() => 0,
            None => self.uid_without_entry(user)?,
        };
        // With a group named, Docker gives that one group and no others.
        let (gid, groups) = match group {
            Some(group) => {
                let gid = self.gid(group)?;
                (gid, vec![gid])
            }
            None => {
                let gid = entry.as_ref().map_or(0, |entry| entry.gid);
                let mut groups = self.memberships(entry.as_ref().map(|entry| entry.name));
                groups.push(gid);
                groups.sort_unstable();
                groups.dedup();
                (gid, groups)
            }
        };
        let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or(b"/");
        Ok(Account { user: StepUser { uid, gid, groups }, home: home.to_vec() })
    }

    /// Resolves what `--chown` says: `user`, `user:group` or `:group`. A user given alone by number has the group of
    /// the same number; given by name, the group of its entry.
    pub fn owner(&self, text: &str) -> Result<Owner, AccountError> {
        let (user, group) = split(text);
        let (uid, own_gid) = match id(user)? {
            Some(uid) => (uid, uid),
            None if user.is_empty() => (0, 0),
            None => match self.find_user(user)? {
                Some(entry) => (entry.uid, entry.gid),
                None => (self.uid_without_entry(user)?, 0),
            },
        };
        let gid = group.map_or(Ok(own_gid), |group| self.gid(group))?;
        Ok(Owner { uid, gid })
    }

    fn find_user(&self, user: &str) -> Result<Option<PasswdEntry<'_>>, AccountError> {
        let user = if user.is_empty() { "0" } else { user };
        let number = id(user)?;
        let wanted = |entry: &PasswdEntry<'_>| entry.name == user.as_bytes() || number == Some(entry.uid);
        Ok(lines(&self.passwd).filter_map(passwd_entry).find(wanted))
    }

    /// Root is root also where nothing says so, as in an image from scratch.
    fn uid_without_entry(&self, user: &str) -> Result<u32, AccountError> {
        if user == "root" {
            return Ok(0);
        }
        id(user)?.ok_or_else(|| AccountError::NoUser(user.to_owned()))
    }

    fn gid(&self, group: &str) -> Result<u32, AccountError> {
        if group.is_empty() {
            return Ok(0);
        }
        let named = lines(&self.group).filter_map(group_entry).find(|entry| entry.name == group.as_bytes());
        match named {
            Some(entry) => Ok(entry.gid),
            None if group == "root" => Ok(0),
            None => id(group)?.ok_or_else(|| AccountError::NoGroup(group.to_owned())),
        }
    }

    fn memberships(&self, user: Option<&[u8]>) -> Vec<u32> {
        let Some(user) = user else { return Vec::new() };
        let member =
            |entry: &GroupEntry<'_>| entry.members.split(|byte| *byte == b',').any(|name| name == user);
        lines(&self.group).filter_map(group_entry).filter(member).map(|entry| entry.gid).collect()
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    }
}

/// The number that `text` is, if it is written with digits only.
fn id(text: &str) -> Result<Option<u32>, AccountError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        // The largest value means "leave it" to chown(2).
        Ok(u32::MAX) | Err(_) => Err(AccountError::Range(text.to_owned())),
        Ok(id) => Ok(Some(id)),
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn passwd_entry(line: &[u8]) -> Option<PasswdEntry<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let uid = number(fields.next()?)?;
    let gid = number(fields.next()?)?;
    let home = fields.nth(1).unwrap_or(b"");
    Some(PasswdEntry { name, uid, gid, home })
}

fn group_entry(line: &[u8]) -> Option<GroupEntry<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let gid = number(fields.next()?)?;
    Some(GroupEntry { name, gid, members: fields.next().unwrap_or(b"") })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd:
                b"root:x:0:0:root:/root:/bin/sh\n#c:x:9:9::/:\nnonsense\nusr:x:66:67::/home/usr:/bin/sh\n"
                    .to_vec(),
            group: b"root:x:0:\ngrp:x:77:usr\nboth:x:78:root,usr\n\nbad:x:no:usr\n".to_vec(),
        }
    }

    #[test]
    fn users_are_names_or_numbers() {
        let check = |text: &str, uid: u32, gid: u32, groups: &[u32], home: &str| {
            let account = accounts().account(text).expect(text);
            let user = StepUser { uid, gid, groups: groups.to_vec() };
            assert_eq!(account, Account { user, home: home.into() }, "{text}");
        };
        check("", 0, 0, &[0, 78], "/root");
        check("root", 0, 0, &[0, 78], "/root");
        check("usr", 66, 67, &[67, 77, 78], "/home/usr");
        check("66", 66, 67, &[67, 77, 78], "/home/usr");
        check("usr:grp", 66, 77, &[77], "/home/usr");
        check("usr:5", 66, 5, &[5], "/home/usr");
        check("7:8", 7, 8, &[8], "/");
        check("7", 7, 0, &[0], "/");
        let check_error = |text: &str, error: AccountError| assert_eq!(accounts().account(text), Err(error));
        check_error("nobo", AccountError::NoUser("nobo".to_owned()));
        check_error("usr:nogrp", AccountError::NoGroup("nogrp".to_owned()));
        check_error("4294967295", AccountError::Range("4294967295".to_owned()));
    }

    #[test]
    fn owners_of_copies_follow_docker() {
        let check = |text: &str, uid: u32, gid: u32| {
            assert_eq!(accounts().owner(text), Ok(Owner { uid, gid }), "{text}");
        };
        check("9", 9, 9);
        check("usr", 66, 67);
        check("usr:root", 66, 0);
        check(":grp", 0, 77);
        check("3:4", 3, 4);
        check("66", 66, 66);
        assert_eq!(accounts().owner("x"), Err(AccountError::NoUser("x".to_owned())));
        assert_eq!(Accounts::default().owner("root:root"), Ok(Owner { uid: 0, gid: 0 }));
        assert_eq!(Accounts::default().account("root").map(|account| account.user.uid), Ok(0));
        assert_eq!(Accounts::default().owner("1:x"), Err(AccountError::NoGroup("x".to_owned())));
    }
}
