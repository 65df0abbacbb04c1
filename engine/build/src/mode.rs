//! `--chmod`: octal and symbolic modes, as chmod(1) of POSIX reads them.
//!
//! There is no umask in a build, so a clause without a "who" means everybody.

use crate::key::KeyBuilder;

/// What `--chmod` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// The twelve bits.
    Octal(u16),
    /// Changes applied in order.
    Symbolic(Vec<Clause>),
}

/// One change: whose bits, how, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clause {
    who: u16,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permissions {
    /// Bits of r, w, x as the lowest three, `X`, and s and t.
    Bits { rwx: u16, conditional_execute: bool, set_id: bool, sticky: bool },
    /// The bits that user (6), group (3) or others (0) have: the shift.
    CopyOf(u16),
}

const USER: u16 = 0o4700;
const GROUP: u16 = 0o2070;
const OTHER: u16 = 0o1007;

impl ModeChange {
    /// Reads `0755`, `u=rwX,go=r`; none when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u16::from_str_radix(text, 8).ok()?;
            return (mode <= 0o7777).then_some(Self::Octal(mode));
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut clauses)?;
        }
        Some(Self::Symbolic(clauses))
    }

    /// The mode of a file or directory that had `mode`.
    pub fn apply(&self, mode: u16, is_directory: bool) -> u16 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_directory))
            }
        }
    }

    /// Adds the change to a cache key.
    pub fn add_to_key(&self, key: &mut KeyBuilder) {
        match self {
            Self::Octal(mode) => {
                key.number("mode", u64::from(*mode));
            }
            Self::Symbolic(clauses) => {
                key.list("mode", clauses.len());
                for Clause { who, operator, permissions } in clauses {
                    key.number("who", u64::from(*who)).number("operator", *operator as u64);
                    match *permissions {
                        Permissions::CopyOf(shift) => {
                            key.number("copy of", u64::from(shift));
                        }
                        Permissions::Bits { rwx, conditional_execute, set_id, sticky } => {
                            let flags = [conditional_execute, set_id, sticky].map(u64::from);
                            key.number("rwx", u64::from(rwx));
                            for flag in flags {
                                key.number("flag", flag);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The mode of a directory that the copy makes on the way, as observed with BuildKit: the octal mode, or 0755.
    pub fn made_directory(&self) -> u16 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(_) => 0o755,
        }
    }
}

fn parse_clause(clause: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let end = clause.find(['+', '-', '='])?;
    let mut who = 0;
    for character in clause[..end].chars() {
        who |= match character {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHER,
            'a' => 0o7777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o7777;
    }
    let mut rest = &clause[end..];
    while let Some(first) = rest.chars().next() {
        let operator = match first {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Set,
            _ => return None,
        };
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        clauses.push(Clause { who, operator, permissions: parse_permissions(&rest[..end])? });
        rest = &rest[end..];
    }
    Some(())
}

fn parse_permissions(text: &str) -> Option<Permissions> {
    match text {
        "u" => return Some(Permissions::CopyOf(6)),
        "g" => return Some(Permissions::CopyOf(3)),
        "o" => return Some(Permissions::CopyOf(0)),
        _ => {}
    }
    let (mut rwx, mut conditional_execute, mut set_id, mut sticky) = (0, false, false, false);
    for character in text.chars() {
        match character {
            'r' => rwx |= 4,
            'w' => rwx |= 2,
            'x' => rwx |= 1,
            'X' => conditional_execute = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(Permissions::Bits { rwx, conditional_execute, set_id, sticky })
}

impl Clause {
    fn apply(self, mode: u16, is_directory: bool) -> u16 {
        let (rwx, special) = match self.permissions {
            Permissions::CopyOf(shift) => (mode >> shift & 7, 0),
            Permissions::Bits { mut rwx, conditional_execute, set_id, sticky } => {
                if conditional_execute && (is_directory || mode & 0o111 != 0) {
                    rwx |= 1;
                }
                let set_id = if set_id { 0o6000 } else { 0 };
                (rwx, set_id | if sticky { 0o1000 } else { 0 })
            }
        };
        let bits = (rwx << 6 | rwx << 3 | rwx | special) & self.who;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => mode & !self.who | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_does() {
        let check = |text: &str, before: u16, is_directory: bool, after: u16| {
            let change = ModeChange::parse(text).expect(text);
            assert_eq!(change.apply(before, is_directory), after, "{text} on {before:o}");
        };
        check("755", 0o600, false, 0o755);
        check("04711", 0, false, 0o4711);
        check("u=rwX,go=r", 0o600, false, 0o644);
        check("u=rwX,go=r", 0o755, true, 0o744);
        check("a+x", 0o644, false, 0o755);
        check("+x", 0o600, false, 0o711);
        check("go-rwx", 0o755, false, 0o700);
        check("u+s,g+s,+t", 0o755, false, 0o7755);
        check("g=u,o=", 0o754, false, 0o770);
        check("u=rw-w+x", 0o000, false, 0o500);
    }

    #[test]
    fn nonsense_is_no_mode() {
        for text in ["", "8", "99999", "u", "z+x", "u+q", "u=rwx,", "7777777777"] {
            assert_eq!(ModeChange::parse(text), None, "{text}");
        }
        assert_eq!(ModeChange::parse("u+s").map(|change| change.made_directory()), Some(0o755));
    }
}
