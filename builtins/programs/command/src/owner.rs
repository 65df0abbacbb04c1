//! Users and groups by `/etc/passwd` and `/etc/group`.

use std::collections::HashMap;
use std::io::Read;

use toolbox_linux::file;

/// The two tables, read once.
#[derive(Debug, Default)]
pub struct Owners {
    users: Vec<User>,
    groups: Vec<Group>,
    user_names: HashMap<u32, String>,
    group_names: HashMap<u32, String>,
}

/// A line of `/etc/passwd`.
#[derive(Clone, Debug)]
pub struct User {
    /// Name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Login group.
    pub gid: u32,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: u32,
    /// Members.
    pub members: Vec<String>,
}

fn lines(path: &[u8]) -> Vec<Vec<String>> {
    let mut text = Vec::new();
    if let Ok(mut file) = file::open_read(path)
        && file.read_to_end(&mut text).is_err()
    {
        text.clear();
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

impl Owners {
    /// Reads the tables; a file that is not there is empty.
    #[must_use]
    pub fn read() -> Self {
        let user = |fields: Vec<String>| {
            let [name, _, uid, gid, ..] = &fields[..] else { return None };
            Some(User { name: name.clone(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        };
        let group = |fields: Vec<String>| {
            let [name, _, gid, rest @ ..] = &fields[..] else { return None };
            let members = rest.first().map(String::as_str).unwrap_or_default().split(',');
            let members = members.filter(|name| !name.is_empty()).map(str::to_owned).collect();
            Some(Group { name: name.clone(), gid: gid.parse().ok()?, members })
        };
        let users: Vec<User> = lines(b"/etc/passwd").into_iter().filter_map(user).collect();
        let groups: Vec<Group> = lines(b"/etc/group").into_iter().filter_map(group).collect();
        // The first line of a number gives the name.
        let user_names = users.iter().rev().map(|user| (user.uid, user.name.clone())).collect();
        let group_names = groups.iter().rev().map(|group| (group.gid, group.name.clone())).collect();
        Self { users, groups, user_names, group_names }
    }

    /// Name of a user.
    #[must_use]
    pub fn user_name(&self, uid: u32) -> Option<&str> {
        self.user_names.get(&uid).map(String::as_str)
    }
    /// Name of a group.
    #[must_use]
    pub fn group_name(&self, gid: u32) -> Option<&str> {
        self.group_names.get(&gid).map(String::as_str)
    }
    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }
    /// A group by name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }
    /// Groups that name a user as a member, in the file's order.
    #[must_use]
    pub fn groups_of(&self, name: &str) -> Vec<u32> {
        let of = self.groups.iter().filter(|group| group.members.iter().any(|member| member == name));
        of.map(|group| group.gid).collect()
    }
    /// Number of a user that is written as a name or a number.
    #[must_use]
    pub fn uid(&self, text: &str) -> Option<u32> {
        self.user(text).map(|user| user.uid).or_else(|| text.strip_prefix('+').unwrap_or(text).parse().ok())
    }
    /// Number of a group that is written as a name or a number.
    #[must_use]
    pub fn gid(&self, text: &str) -> Option<u32> {
        self.group(text)
            .map(|group| group.gid)
            .or_else(|| text.strip_prefix('+').unwrap_or(text).parse().ok())
    }

    /// Reads `user`, `user:group`, `user:` (its login group) or `:group`.
    ///
    /// # Errors
    ///
    /// The words that `chown` uses for what is wrong.
    pub fn parse(&self, text: &str) -> Result<(Option<u32>, Option<u32>), &'static str> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let uid = match user {
            "" => None,
            name => Some(self.uid(name).ok_or("invalid user")?),
        };
        let gid = match (group, uid) {
            (None, _) | (Some(""), None) => None,
            (Some(""), Some(_)) => Some(self.user(user).ok_or("invalid spec")?.gid),
            (Some(name), _) => Some(self.gid(name).ok_or("invalid group")?),
        };
        Ok((uid, gid))
    }
}
