//! `id`, `groups`, `whoami`, `logname`.

use std::io::Write;

use toolbox_command::owner::Owners;
use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::Descriptor;
use toolbox_linux::process;

pub(crate) const ID: Tool = Tool {
    name: "id",
    usage: "[OPTION]... [USER]...",
    options: &[
        ("a", "no effect, for old callers"),
        ("g/group", "only the effective group"),
        ("G/groups", "all groups"),
        ("n/name", "names instead of numbers, with -ugG"),
        ("r/real", "the real id instead of the effective one, with -ugG"),
        ("u/user", "only the effective user"),
        ("z/zero", "NUL between entries"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: id,
};

pub(crate) const GROUPS: Tool = Tool {
    name: "groups",
    usage: "[USER]...",
    options: &[],
    order: Order::Anywhere,
    misuse: 1,
    main: groups,
};

pub(crate) const WHOAMI: Tool =
    Tool { name: "whoami", usage: "", options: &[], order: Order::Anywhere, misuse: 1, main: whoami };

pub(crate) const LOGNAME: Tool =
    Tool { name: "logname", usage: "", options: &[], order: Order::Anywhere, misuse: 1, main: logname };

/// The ids of a process or a user.
struct Identity {
    uid: u32,
    euid: u32,
    gid: u32,
    egid: u32,
    groups: Vec<u32>,
}

fn own() -> Identity {
    let (gid, egid) = (process::getgid(), process::getegid());
    let mut groups = process::getgroups().unwrap_or_default();
    // The effective group comes first.
    groups.retain(|&group| group != egid);
    groups.insert(0, egid);
    Identity { uid: process::getuid(), euid: process::geteuid(), gid, egid, groups }
}

fn of_user(owners: &Owners, name: &str) -> Option<Identity> {
    let by_number = || {
        let uid: u32 = name.strip_prefix('+').unwrap_or(name).parse().ok()?;
        owners.user(owners.user_name(uid)?)
    };
    let user = owners.user(name).or_else(by_number)?;
    let mut groups = owners.groups_of(&user.name);
    groups.retain(|&group| group != user.gid);
    groups.insert(0, user.gid);
    Some(Identity { uid: user.uid, euid: user.uid, gid: user.gid, egid: user.gid, groups })
}

fn id(context: &Context, parsed: Parsed) -> i32 {
    let chosen =
        [("user", 'u'), ("group", 'g'), ("groups", 'G')].iter().filter(|(key, _)| parsed.has(key)).count();
    if chosen > 1 {
        context.die(1, "cannot print \"only\" of more than one choice");
    }
    if chosen == 0 && (parsed.has("name") || parsed.has("real")) {
        context.die(1, "cannot print only names or real IDs in default format");
    }
    if chosen == 0 && parsed.has("zero") {
        context.die(1, "option --zero not permitted in default format");
    }
    let owners = Owners::read();
    let mut output = context.output();
    let mut show = |identity: &Identity| {
        let line =
            if chosen == 0 { full(&owners, identity) } else { part(context, &parsed, &owners, identity) };
        context.check_write(output.write_all(line.as_bytes()));
    };
    if parsed.operands.is_empty() {
        show(&own());
    }
    for operand in &parsed.operands {
        match of_user(&owners, &String::from_utf8_lossy(operand)) {
            Some(identity) => show(&identity),
            None => context.fail(format!("{}: no such user", quote::always(operand))),
        }
    }
    context.finish(output)
}

fn part(context: &Context, parsed: &Parsed, owners: &Owners, identity: &Identity) -> String {
    let (names, real, zero) = (parsed.has("name"), parsed.has("real"), parsed.has("zero"));
    let end = if zero { "\0" } else { "\n" };
    let named = |number: u32, name: Option<&str>, what: &str| match name {
        Some(name) if names => name.to_owned(),
        None if names => {
            context.fail(format!("cannot find name for {what} ID {number}"));
            number.to_string()
        }
        _ => number.to_string(),
    };
    if parsed.has("user") {
        let uid = if real { identity.uid } else { identity.euid };
        return named(uid, owners.user_name(uid), "user") + end;
    }
    if parsed.has("group") {
        let gid = if real { identity.gid } else { identity.egid };
        return named(gid, owners.group_name(gid), "group") + end;
    }
    let mut groups = identity.groups.clone();
    if identity.gid != identity.egid {
        groups.retain(|&group| group != identity.gid);
        groups.insert(0, identity.gid);
    }
    let list: Vec<String> = groups.iter().map(|&gid| named(gid, owners.group_name(gid), "group")).collect();
    let (between, last) =
        if zero { ("\0", if parsed.operands.len() > 1 { "\0\0" } else { "\0" }) } else { (" ", "\n") };
    list.join(between) + last
}

fn full(owners: &Owners, identity: &Identity) -> String {
    let with = |number: u32, name: Option<&str>| match name {
        Some(name) => format!("{number}({name})"),
        None => number.to_string(),
    };
    let user = |uid: u32| with(uid, owners.user_name(uid));
    let group = |gid: u32| with(gid, owners.group_name(gid));
    let mut text = format!("uid={} gid={}", user(identity.uid), group(identity.gid));
    if identity.euid != identity.uid {
        text += &format!(" euid={}", user(identity.euid));
    }
    if identity.egid != identity.gid {
        text += &format!(" egid={}", group(identity.egid));
    }
    let groups: Vec<String> = identity.groups.iter().map(|&gid| group(gid)).collect();
    format!("{text} groups={}\n", groups.join(","))
}

fn groups(context: &Context, parsed: Parsed) -> i32 {
    let owners = Owners::read();
    let mut output = context.output();
    let mut show = |prefix: &str, identity: &Identity| {
        let name = |&gid: &u32| {
            owners.group_name(gid).map_or_else(
                || {
                    context.fail(format!("cannot find name for group ID {gid}"));
                    gid.to_string()
                },
                str::to_owned,
            )
        };
        let list: Vec<String> = identity.groups.iter().map(name).collect();
        context.check_write(writeln!(output, "{prefix}{}", list.join(" ")));
    };
    if parsed.operands.is_empty() {
        show("", &own());
    }
    for operand in &parsed.operands {
        let name = String::from_utf8_lossy(operand);
        match of_user(&owners, &name) {
            Some(identity) => show(&format!("{name} : "), &identity),
            None => context.fail(format!("{}: no such user", quote::always(operand))),
        }
    }
    context.finish(output)
}

fn whoami(context: &Context, parsed: Parsed) -> i32 {
    if let Some(extra) = parsed.operands.first() {
        context.extra_operand(extra);
    }
    let uid = process::geteuid();
    match Owners::read().user_name(uid) {
        Some(name) => {
            context.check_write(Descriptor::keep(1).write_all(format!("{name}\n").as_bytes()));
        }
        None => context.fail(format!("cannot find name for user ID {uid}")),
    }
    context.status()
}

fn logname(context: &Context, parsed: Parsed) -> i32 {
    if let Some(extra) = parsed.operands.first() {
        context.extra_operand(extra);
    }
    // A step has no terminal that anyone logged in to.
    context.die(1, "no login name")
}
