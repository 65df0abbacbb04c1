//! The first stack of a program: strings, vectors, auxiliary values.

use cooper_vfs::Errno;

/// Keys of the auxiliary vector.
pub(crate) mod auxiliary {
    pub(crate) const PHDR: u64 = 3;
    pub(crate) const PHENT: u64 = 4;
    pub(crate) const PHNUM: u64 = 5;
    pub(crate) const PAGESZ: u64 = 6;
    pub(crate) const BASE: u64 = 7;
    pub(crate) const FLAGS: u64 = 8;
    pub(crate) const ENTRY: u64 = 9;
    pub(crate) const UID: u64 = 11;
    pub(crate) const EUID: u64 = 12;
    pub(crate) const GID: u64 = 13;
    pub(crate) const EGID: u64 = 14;
    pub(crate) const PLATFORM: u64 = 15;
    pub(crate) const HWCAP: u64 = 16;
    pub(crate) const CLKTCK: u64 = 17;
    pub(crate) const SECURE: u64 = 23;
    pub(crate) const RANDOM: u64 = 25;
    pub(crate) const HWCAP2: u64 = 26;
    pub(crate) const EXECFN: u64 = 31;
    pub(crate) const MINSIGSTKSZ: u64 = 51;
}

/// What the stack is made from.
#[derive(Debug)]
pub(crate) struct StackContents<'a> {
    pub(crate) arguments: &'a [Vec<u8>],
    pub(crate) environment: &'a [Vec<u8>],
    /// The path that was executed.
    pub(crate) file_name: &'a [u8],
    pub(crate) random: [u8; 16],
    /// Keys and values, without those that point into the stack.
    pub(crate) auxiliary: &'a [(u64, u64)],
}

/// A finished stack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BuiltStack {
    /// The stack pointer: address of the first byte.
    pub(crate) pointer: u64,
    /// Everything from there to the top.
    pub(crate) bytes: Vec<u8>,
    pub(crate) argument_range: (u64, u64),
    pub(crate) environment_range: (u64, u64),
    pub(crate) auxiliary_range: (u64, u64),
}

/// Lays the stack out below `top`. `E2BIG` when it needs more than `limit` bytes.
pub(crate) fn build(contents: &StackContents<'_>, top: u64, limit: u64) -> Result<BuiltStack, Errno> {
    let size_of = |strings: &[Vec<u8>]| strings.iter().map(|string| string.len() as u64 + 1).sum::<u64>();
    let platform = b"x86_64\0";
    let name_at = top - 8 - (contents.file_name.len() as u64 + 1);
    let environment_at = name_at.checked_sub(size_of(contents.environment)).ok_or(Errno::TOOBIG)?;
    let arguments_at = environment_at.checked_sub(size_of(contents.arguments)).ok_or(Errno::TOOBIG)?;
    let platform_at = arguments_at.saturating_sub(platform.len() as u64);
    let random_at = platform_at.saturating_sub(16) & !15;
    let pointers = contents.arguments.len() + contents.environment.len() + 3;
    let words = pointers as u64 + 2 * (contents.auxiliary.len() as u64 + 4);
    let pointer = random_at.checked_sub(words * 8).ok_or(Errno::TOOBIG)? & !15;
    if top - pointer > limit {
        return Err(Errno::TOOBIG);
    }
    let mut writer = Writer { pointer, bytes: vec![0; (top - pointer) as usize], at: pointer };
    writer.word(contents.arguments.len() as u64);
    writer.vector(contents.arguments, arguments_at);
    writer.vector(contents.environment, environment_at);
    let auxiliary_at = writer.at;
    let own = [
        (auxiliary::RANDOM, random_at),
        (auxiliary::EXECFN, name_at),
        (auxiliary::PLATFORM, platform_at),
        (0, 0),
    ];
    for (key, value) in contents.auxiliary.iter().chain(&own) {
        writer.word(*key);
        writer.word(*value);
    }
    let auxiliary_end = writer.at;
    writer.put(random_at, &contents.random);
    writer.put(platform_at, platform);
    writer.strings(contents.arguments, arguments_at);
    writer.strings(contents.environment, environment_at);
    writer.put(name_at, contents.file_name);
    Ok(BuiltStack {
        pointer,
        bytes: writer.bytes,
        argument_range: (arguments_at, environment_at),
        environment_range: (environment_at, name_at),
        auxiliary_range: (auxiliary_at, auxiliary_end),
    })
}

struct Writer {
    pointer: u64,
    bytes: Vec<u8>,
    at: u64,
}

impl Writer {
    fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - self.pointer) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, value: u64) {
        self.put(self.at, &value.to_le_bytes());
        self.at += 8;
    }

    fn vector(&mut self, strings: &[Vec<u8>], mut address: u64) {
        for string in strings {
            self.word(address);
            address += string.len() as u64 + 1;
        }
        self.word(0);
    }

    fn strings(&mut self, strings: &[Vec<u8>], mut address: u64) {
        for string in strings {
            self.put(address, string);
            address += string.len() as u64 + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents<'a>(arguments: &'a [Vec<u8>], environment: &'a [Vec<u8>]) -> StackContents<'a> {
        StackContents {
            arguments,
            environment,
            file_name: b"/bin/x",
            random: [7; 16],
            auxiliary: &[(6, 4096)],
        }
    }

    #[test]
    fn vectors_point_at_their_strings() {
        let (arguments, environment) = ([b"a".to_vec(), b"bc".to_vec()], [b"K=v".to_vec()]);
        let top = 0x10000;
        let stack = build(&contents(&arguments, &environment), top, 4096).expect("it fits");
        assert_eq!(stack.pointer % 16, 0);
        let word = |index: usize| {
            u64::from_le_bytes(stack.bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
        };
        let text = |address: u64| {
            let at = (address - stack.pointer) as usize;
            stack.bytes[at..].split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
        };
        assert_eq!(word(0), 2);
        assert_eq!((text(word(1)), text(word(2)), word(3)), (Some(b"a".to_vec()), Some(b"bc".to_vec()), 0));
        assert_eq!((text(word(4)), word(5)), (Some(b"K=v".to_vec()), 0));
        assert_eq!((word(6), word(7), word(8)), (6, 4096, auxiliary::RANDOM));
        assert_eq!(text(word(11)), Some(b"/bin/x".to_vec()));
        assert_eq!(stack.argument_range.1 - stack.argument_range.0, 5);
    }

    #[test]
    fn too_much_is_e2big() {
        let arguments = [vec![b'x'; 5000]];
        assert_eq!(build(&contents(&arguments, &[]), 0x10000, 4096), Err(Errno::TOOBIG));
        let arguments = [vec![b'x'; 0x20000]];
        assert_eq!(build(&contents(&arguments, &[]), 0x10000, u64::MAX), Err(Errno::TOOBIG));
    }
}
