//! ELF headers, read strictly.
//!
//! Only what a loader needs: the machine, the entry, the segments, the interpreter. Input is whatever the file
//! holds; anything that is truncated, out of order, overlapping or out of range is refused, so that mapping what was
//! accepted cannot go wrong for reasons inside the file.

use cooper_x86::memory::PAGE_SIZE;

use crate::memory::{HIGHEST_ADDRESS, Rights};

/// Size of the file header.
pub(crate) const HEADER_SIZE: usize = 64;
/// Size of a program header.
pub(crate) const PROGRAM_HEADER_SIZE: usize = 56;
/// The most program headers; real programs have about a dozen.
const MAX_PROGRAM_HEADERS: usize = 128;
/// Longest interpreter path, with its terminating zero.
const MAX_INTERPRETER: u64 = 4096;
/// The highest segment alignment that is honoured.
const MAX_ALIGNMENT: u64 = 1 << 26;

/// `EM_X86_64`.
const MACHINE_X86_64: u16 = 62;

/// Why a file is not a program that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// No ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// For another machine.
    #[error("program for {0}")]
    Machine(&'static str),
    /// Not an executable or shared object.
    #[error("ELF file of another type")]
    Type,
    /// A header or segment lies outside the file.
    #[error("truncated ELF file")]
    Truncated,
    /// A segment that Linux finds out about too late: it ends the program with `SIGSEGV`.
    #[error("ELF segment that cannot be mapped")]
    Unmappable,
    /// A field has a value that makes no sense.
    #[error("absurd ELF header: {0}")]
    Absurd(&'static str),
}

/// Whether addresses are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElfKind {
    /// `ET_EXEC`.
    Fixed,
    /// `ET_DYN`.
    Relocatable,
}

/// A `PT_LOAD` segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
    pub(crate) rights: Rights,
}

/// The file header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: ElfKind,
    pub(crate) entry: u64,
    pub(crate) program_headers: u64,
    pub(crate) program_header_count: usize,
}

/// What is to be mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    pub(crate) header: Header,
    /// Ascending and not overlapping, at least one.
    pub(crate) segments: Vec<Segment>,
    /// Offset and length of the interpreter's path.
    pub(crate) interpreter: Option<(u64, usize)>,
    /// The largest alignment of a segment.
    pub(crate) alignment: u64,
    /// Address of the program headers in memory, if a segment holds them.
    pub(crate) program_headers_address: Option<u64>,
}

/// Reads the headers of the program file `bytes` as `execve` does, without loading anything.
pub fn check_elf(bytes: &[u8]) -> Result<(), ElfError> {
    let header = Header::parse(&bytes[..bytes.len().min(HEADER_SIZE)])?;
    let table = usize::try_from(header.program_headers)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(header.table_size())?))
        .ok_or(ElfError::Truncated)?;
    Elf::parse(header, table, bytes.len() as u64).map(drop)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |part| u16::from_le_bytes([part[0], part[1]]))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn wide(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// Names a machine that a program may have been built for.
fn machine_name(machine: u16, class: u8) -> &'static str {
    match (machine, class) {
        (3, _) => "i386 (32-bit x86)",
        (MACHINE_X86_64, _) => "x32 (32-bit x86-64)",
        (40, _) => "arm (32-bit)",
        (183, _) => "aarch64 (arm64)",
        (243, _) => "riscv64",
        (21, _) => "ppc64le",
        (22, _) => "s390x",
        (8, _) => "mips",
        (258, _) => "loongarch64",
        _ => "an unknown machine",
    }
}

impl Header {
    /// Reads the header at the start of a file of which `bytes` are the first.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        if bytes.len() < HEADER_SIZE {
            return Err(ElfError::Truncated);
        }
        let (class, order, machine) = (bytes[4], bytes[5], half(bytes, 18));
        // Linux does not look at the byte order: the machine's number says it.
        if machine != MACHINE_X86_64 || class != 2 {
            let machine = if order == 2 { machine.swap_bytes() } else { machine };
            return Err(ElfError::Machine(machine_name(machine, class)));
        }
        let kind = match half(bytes, 16) {
            2 => ElfKind::Fixed,
            3 => ElfKind::Relocatable,
            _ => return Err(ElfError::Type),
        };
        if half(bytes, 54) as usize != PROGRAM_HEADER_SIZE {
            return Err(ElfError::Absurd("size of program headers"));
        }
        let program_header_count = usize::from(half(bytes, 56));
        if program_header_count == 0 || program_header_count > MAX_PROGRAM_HEADERS {
            return Err(ElfError::Absurd("number of program headers"));
        }
        Ok(Self { kind, entry: wide(bytes, 24), program_headers: wide(bytes, 32), program_header_count })
    }

    /// Size of the table of program headers.
    pub(crate) fn table_size(&self) -> usize {
        self.program_header_count * PROGRAM_HEADER_SIZE
    }
}

impl Elf {
    /// Reads the program headers `table` of a file of `file_size` bytes.
    pub(crate) fn parse(header: Header, table: &[u8], file_size: u64) -> Result<Self, ElfError> {
        if table.len() != header.table_size() {
            return Err(ElfError::Truncated);
        }
        let mut elf = Self {
            header,
            segments: Vec::new(),
            interpreter: None,
            alignment: PAGE_SIZE,
            program_headers_address: None,
        };
        for entry in table.chunks_exact(PROGRAM_HEADER_SIZE) {
            match word(entry, 0) {
                1 => elf.add_segment(entry, file_size)?,
                3 => elf.set_interpreter(entry, file_size)?,
                _ => {}
            }
        }
        if elf.segments.is_empty() {
            return Err(ElfError::Absurd("nothing to load"));
        }
        let table_end = header.program_headers + header.table_size() as u64;
        let holder = elf.segments.iter().find(|segment| {
            segment.offset <= header.program_headers && table_end <= segment.offset + segment.file_size
        });
        elf.program_headers_address =
            holder.map(|segment| segment.address + (header.program_headers - segment.offset));
        Ok(elf)
    }

    fn add_segment(&mut self, entry: &[u8], file_size: u64) -> Result<(), ElfError> {
        let flags = word(entry, 4);
        let mut rights = Rights::empty();
        rights.set(Rights::EXECUTE, flags & 1 != 0);
        rights.set(Rights::WRITE, flags & 2 != 0);
        rights.set(Rights::READ, flags & 4 != 0);
        let segment = Segment {
            offset: wide(entry, 8),
            address: wide(entry, 16),
            file_size: wide(entry, 32),
            memory_size: wide(entry, 40),
            rights,
        };
        let alignment = wide(entry, 48);
        if segment.memory_size == 0 {
            return Ok(());
        }
        if segment.file_size > segment.memory_size {
            return Err(ElfError::Absurd("segment larger in the file than in memory"));
        }
        let file_end = segment.offset.checked_add(segment.file_size).ok_or(ElfError::Truncated)?;
        if file_end > file_size {
            return Err(ElfError::Truncated);
        }
        let end = segment.address.checked_add(segment.memory_size);
        if end.is_none_or(|end| end > HIGHEST_ADDRESS) {
            return Err(ElfError::Absurd("segment outside the address space"));
        }
        if segment.offset % PAGE_SIZE != segment.address % PAGE_SIZE {
            return Err(ElfError::Unmappable);
        }
        if alignment > 1 && (!alignment.is_power_of_two() || alignment > MAX_ALIGNMENT) {
            return Err(ElfError::Absurd("segment alignment"));
        }
        if self.segments.last().is_some_and(|last| segment.address < last.address + last.memory_size) {
            return Err(ElfError::Absurd("segments overlap or are out of order"));
        }
        self.alignment = self.alignment.max(alignment);
        self.segments.push(segment);
        Ok(())
    }

    fn set_interpreter(&mut self, entry: &[u8], file_size: u64) -> Result<(), ElfError> {
        let (offset, length) = (wide(entry, 8), wide(entry, 32));
        if self.interpreter.is_some() {
            return Err(ElfError::Absurd("two interpreters"));
        }
        if !(2..=MAX_INTERPRETER).contains(&length) {
            return Err(ElfError::Absurd("length of the interpreter's path"));
        }
        if offset.checked_add(length).is_none_or(|end| end > file_size) {
            return Err(ElfError::Truncated);
        }
        self.interpreter = Some((offset, length as usize));
        Ok(())
    }

    /// First and last address that the segments use, before any bias.
    pub(crate) fn span(&self) -> (u64, u64) {
        let first = self.segments.first().map_or(0, |segment| segment.address);
        let end = self.segments.last().map_or(0, |segment| segment.address + segment.memory_size);
        (first, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header and program headers: type, flags, offset, address, file size, memory size.
    fn file(kind: u16, entry: u64, segments: &[[u64; 6]]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(62u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(entry.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend([64, 0, 56, 0, segments.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
        for [class, flags, offset, address, file_size, memory_size] in segments {
            bytes.extend((*class as u32).to_le_bytes());
            bytes.extend((*flags as u32).to_le_bytes());
            for value in [offset, address, address, file_size, memory_size, &4096] {
                bytes.extend(value.to_le_bytes());
            }
        }
        bytes
    }

    fn parse(bytes: &[u8], file_size: u64) -> Result<Elf, ElfError> {
        let header = Header::parse(bytes)?;
        let table = bytes.get(64..64 + header.table_size()).ok_or(ElfError::Truncated)?;
        Elf::parse(header, table, file_size)
    }

    const TEXT: [u64; 6] = [1, 5, 0, 0x40_0000, 0x1000, 0x1000];

    #[test]
    fn plain_program_is_accepted() {
        let elf = parse(&file(2, 0x40_0100, &[TEXT, [1, 6, 0x1000, 0x40_2000, 0x10, 0x3000]]), 0x2000);
        let elf = elf.expect("the file is well formed");
        assert_eq!((elf.segments.len(), elf.span()), (2, (0x40_0000, 0x40_5000)));
        assert_eq!(elf.program_headers_address, Some(0x40_0040));
    }

    #[test]
    fn other_machines_are_named() {
        let mut bytes = file(2, 0x40_0100, &[TEXT]);
        bytes[18] = 183;
        assert_eq!(parse(&bytes, 0x2000), Err(ElfError::Machine("aarch64 (arm64)")));
        bytes[18] = 3;
        bytes[4] = 1;
        assert_eq!(parse(&bytes, 0x2000), Err(ElfError::Machine("i386 (32-bit x86)")));
    }

    #[test]
    fn absurd_headers_are_refused() {
        let check = |segments: &[[u64; 6]], expected| {
            assert_eq!(parse(&file(2, 0x40_0100, segments), 0x2000), Err(expected));
        };
        check(&[[1, 5, 0, 0x40_0000, 0x3000, 0x3000]], ElfError::Truncated);
        check(
            &[[1, 5, 0, 0x40_0000, 0x1000, 0x10]],
            ElfError::Absurd("segment larger in the file than in memory"),
        );
        check(
            &[[1, 5, 0, 0x40_0000, 0x10, 0xffff_ffff_ffff]],
            ElfError::Absurd("segment outside the address space"),
        );
        check(
            &[[1, 5, 0, u64::MAX - 4095, 0x10, 0x2000]],
            ElfError::Absurd("segment outside the address space"),
        );
        check(&[[1, 5, u64::MAX - 4095, 0x40_0000, 0x1000, 0x1000]], ElfError::Truncated);
        check(&[[1, 5, 1, 0x40_0000, 0x10, 0x10]], ElfError::Unmappable);
        check(&[TEXT, [1, 6, 0, 0x40_0800, 0x10, 0x10]], ElfError::Unmappable);
        check(
            &[TEXT, [1, 6, 0, 0x40_0000, 0x10, 0x10]],
            ElfError::Absurd("segments overlap or are out of order"),
        );
        check(&[[4, 5, 0, 0x40_0000, 0x10, 0x10]], ElfError::Absurd("nothing to load"));
        check(&[TEXT, [3, 4, 0x1ff0, 0, 0x20, 0]], ElfError::Truncated);
        check(&[TEXT, [3, 4, 0, 0, 1, 0]], ElfError::Absurd("length of the interpreter's path"));
    }

    #[test]
    fn truncated_headers_are_refused_at_every_length() {
        let bytes = file(2, 0x40_0100, &[TEXT]);
        for length in 4..bytes.len() {
            assert!(parse(&bytes[..length], 0x2000).is_err(), "{length}");
        }
    }

    #[test]
    fn no_change_of_a_byte_panics() {
        let bytes = file(3, 0x100, &[[1, 5, 0, 0, 0x1000, 0x1000], [3, 4, 0, 0, 20, 20]]);
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = parse(&changed, 0x2000);
            }
        }
    }
}
