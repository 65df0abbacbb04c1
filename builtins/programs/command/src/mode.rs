//! Permission bits: octal and symbolic, as `chmod` takes them and `ls` shows them.

/// Changes of a mode, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode(Vec<Change>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    /// Classes that change, as the bits 04700, 02070 and 01007; 0: all, less the umask.
    who: u32,
    operation: u8,
    bits: Bits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bits {
    /// These, spread over all classes; `true` adds `x` where a directory or an `x` is.
    Fixed(u32, bool),
    /// Those that a class has now, by its shift.
    Of(u32),
    /// An octal number; `true` if it also clears a directory's set-id bits.
    Octal(u32, bool),
}

impl Mode {
    /// Reads a mode; `None` if it is none.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if !text.is_empty() && text.iter().all(|byte| matches!(byte, b'0'..=b'7')) {
            return octal(text).map(|bits| Self(vec![Change { who: 0o7777, operation: b'=', bits }]));
        }
        let mut changes = Vec::new();
        for clause in text.split(|&byte| byte == b',') {
            symbolic(clause, &mut changes)?;
        }
        Some(Self(changes))
    }

    /// The mode that comes of `old`, which has only permission bits.
    #[must_use]
    pub fn apply(&self, old: u32, is_directory: bool, umask: u32) -> u32 {
        self.0.iter().fold(old & 0o7777, |mode, change| change.apply(mode, is_directory, umask))
    }
}

fn octal(text: &[u8]) -> Option<Bits> {
    let bits = u32::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()?;
    // GNU: a directory keeps its set-id bits unless the number is written with five digits or more.
    (bits <= 0o7777).then_some(Bits::Octal(bits, text.len() > 4))
}

fn symbolic(clause: &[u8], changes: &mut Vec<Change>) -> Option<()> {
    let classes = clause.iter().take_while(|byte| b"ugoa".contains(byte)).count();
    let who = clause[..classes].iter().fold(0, |who, class| {
        who | match class {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o1007,
            _ => 0o7777,
        }
    });
    let mut rest = &clause[classes..];
    if rest.is_empty() {
        return None;
    }
    while let [operation @ (b'+' | b'-' | b'='), after @ ..] = rest {
        let length = after.iter().take_while(|byte| !b"+-=".contains(byte)).count();
        let (letters, next) = after.split_at(length);
        let bits = match letters {
            [b'u'] => Bits::Of(6),
            [b'g'] => Bits::Of(3),
            [b'o'] => Bits::Of(0),
            [b'0'..=b'7', ..] => {
                octal(letters)?;
                let value = u32::from_str_radix(std::str::from_utf8(letters).ok()?, 8).ok()?;
                changes.push(Change { who: 0o7777, operation: *operation, bits: Bits::Octal(value, true) });
                rest = next;
                continue;
            }
            _ => {
                let (mut fixed, mut some) = (0, false);
                for letter in letters {
                    match letter {
                        b'r' => fixed |= 0o444,
                        b'w' => fixed |= 0o222,
                        b'x' => fixed |= 0o111,
                        b'X' => some = true,
                        b's' => fixed |= 0o6000,
                        b't' => fixed |= 0o1000,
                        _ => return None,
                    }
                }
                Bits::Fixed(fixed, some)
            }
        };
        changes.push(Change { who, operation: *operation, bits });
        rest = next;
    }
    rest.is_empty().then_some(())
}

impl Change {
    fn apply(self, mode: u32, is_directory: bool, umask: u32) -> u32 {
        let set_ids = if is_directory { 0o6000 } else { 0 };
        let (bits, kept) = match self.bits {
            Bits::Octal(bits, exact) => (bits, if exact { 0 } else { set_ids & !bits }),
            Bits::Of(shift) => ((mode >> shift & 7) * 0o111, 0),
            Bits::Fixed(bits, some) => {
                let execute = if some && (is_directory || mode & 0o111 != 0) { 0o111 } else { 0 };
                // `u=rwx` leaves a directory its set-id bits unless it names them.
                (bits | execute, if bits & 0o6000 == 0 { set_ids } else { 0 })
            }
        };
        let who = if self.who == 0 { 0o7777 } else { self.who };
        let value = bits & who & if self.who == 0 { !umask } else { 0o7777 };
        match self.operation {
            b'+' => mode | value,
            b'-' => mode & !value,
            _ => mode & !(who & !kept) | value,
        }
    }
}

/// A mode with its type, as `ls -l` shows it.
#[must_use]
pub fn show(mode: u32) -> String {
    let kind = match mode >> 12 & 0o17 {
        0o1 => 'p',
        0o2 => 'c',
        0o4 => 'd',
        0o6 => 'b',
        0o10 => '-',
        0o12 => 'l',
        0o14 => 's',
        _ => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, old, directory, umask, new) in [
            ("755", 0, false, 0o22, 0o755),
            ("u+x", 0o644, false, 0o22, 0o744),
            ("+x", 0o644, false, 0o77, 0o744),
            ("go-rwx", 0o777, false, 0, 0o700),
            ("u=g", 0o070, false, 0, 0o770),
            ("a+X", 0o644, false, 0, 0o644),
            ("a+X", 0o644, true, 0, 0o755),
            ("u=rwx,go=", 0o6777, true, 0, 0o6700),
            ("755", 0o6777, true, 0, 0o6755),
            ("00755", 0o6777, true, 0, 0o755),
            ("u+s,+t", 0o755, false, 0, 0o5755),
            ("=", 0o755, false, 0, 0),
            ("u+r-w", 0o200, false, 0, 0o400),
        ] {
            let mode = Mode::parse(text.as_bytes()).expect("a mode");
            assert_eq!(mode.apply(old, directory, umask), new, "{text} of {old:o}");
        }
        for wrong in ["", "9", "u", "u+y", "u+x,", "z+x", "10000"] {
            assert_eq!(Mode::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(show(0o104_755), "-rwsr-xr-x");
        assert_eq!(show(0o041_776), "drwxrwxrwT");
    }
}
