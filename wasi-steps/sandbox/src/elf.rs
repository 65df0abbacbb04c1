//! Executables as the translator sees them.
//!
//! An [`Executable`] is the bytes of an ELF file with its segments: code by *unit address* (file offset in the first executable
//! segment, and what lies at the same distance), data that nobody can write, and the functions that `.eh_frame` names.
//! Follows the ELF-64 object file format; x86-64 and little endian only.
//!
//! What must hold: any bytes give an answer without a panic; the caller bounds their number.

use std::cell::OnceCell;

use cooper_x86::lift::{CodeImage, FunctionBounds, bounds, pointers};

/// Most program headers that are looked at; linkers write about a dozen.
const MAX_SEGMENTS: usize = 128;
/// Most section headers that are looked at.
const MAX_SECTIONS: usize = 65_536;

/// `PT_LOAD`.
const LOAD: u32 = 1;
/// `PT_DYNAMIC`.
const DYNAMIC: u32 = 2;
/// `ET_EXEC`.
const FIXED: u64 = 2;
/// `DT_RELA` and `DT_RELASZ`.
const RELOCATIONS: u64 = 7;
const RELOCATIONS_SIZE: u64 = 8;
/// `PT_GNU_EH_FRAME`.
const EH_FRAME_HEADER: u32 = 0x6474_e550;
/// `PF_X`.
const EXECUTE: u32 = 1;
/// `PF_W`.
const WRITE: u32 = 2;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    flags: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// An ELF file.
#[derive(Debug)]
pub(crate) struct Executable<'a> {
    bytes: &'a [u8],
    segments: Vec<Segment>,
    code: Segment,
    /// Virtual address and file offset of the call frame information.
    frames: Option<(u64, &'a [u8])>,
    dynamic: Option<Segment>,
    /// Whether the file is linked for a fixed address.
    is_fixed: bool,
    functions: OnceCell<Vec<FunctionBounds>>,
    pointers: OnceCell<Vec<u32>>,
}

fn half(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl<'a> Executable<'a> {
    /// Reads the headers. `None` for what is no x86-64 ELF file with code.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..6)? != b"\x7fELF\x02\x01" || half(bytes, 18)? != 62 {
            return None;
        }
        let (start, size, count) = (long(bytes, 32)?, half(bytes, 54)? as usize, half(bytes, 56)? as usize);
        let mut segments = Vec::new();
        let (mut header, mut dynamic) = (None, None);
        for index in 0..count.min(MAX_SEGMENTS) {
            let at = usize::try_from(start).ok()?.checked_add(index * size)?;
            let segment = Segment {
                flags: word(bytes, at + 4)?,
                offset: long(bytes, at + 8)?,
                address: long(bytes, at + 16)?,
                size: long(bytes, at + 32)?,
            };
            match word(bytes, at)? {
                LOAD => segments.push(segment),
                EH_FRAME_HEADER => header = Some(segment),
                DYNAMIC => dynamic = Some(segment),
                _ => {}
            }
        }
        let code = *segments.iter().find(|segment| segment.flags & EXECUTE != 0)?;
        let mut executable = Self {
            bytes,
            segments,
            code,
            frames: None,
            dynamic,
            is_fixed: half(bytes, 16) == Some(FIXED),
            functions: OnceCell::new(),
            pointers: OnceCell::new(),
        };
        executable.frames = executable.frames_by_header(header).or_else(|| executable.frames_by_section());
        Some(executable)
    }

    /// The bytes from a virtual address to the end of its segment.
    fn at_address(&self, address: u64) -> Option<&'a [u8]> {
        let segment = self
            .segments
            .iter()
            .find(|segment| address >= segment.address && address - segment.address < segment.size)?;
        self.in_segment(segment, address)
    }

    fn in_segment(&self, segment: &Segment, address: u64) -> Option<&'a [u8]> {
        let inside = address.checked_sub(segment.address).filter(|inside| *inside < segment.size)?;
        let start = usize::try_from(segment.offset.checked_add(inside)?).ok()?;
        let end = usize::try_from(segment.offset.checked_add(segment.size)?).ok()?;
        self.bytes.get(start..end.min(self.bytes.len()))
    }

    /// `.eh_frame` through the pointer in `.eh_frame_hdr`.
    fn frames_by_header(&self, header: Option<Segment>) -> Option<(u64, &'a [u8])> {
        /// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`, what every linker writes.
        const RELATIVE: u8 = 0x1b;
        let header = header?;
        let bytes = self.at_address(header.address)?;
        if bytes.first() != Some(&1) || bytes.get(1) != Some(&RELATIVE) {
            return None;
        }
        let distance = i64::from(word(bytes, 4)?.cast_signed());
        let address = header.address.checked_add(4)?.checked_add_signed(distance)?;
        Some((address, self.at_address(address)?))
    }

    /// `.eh_frame` by its section: static programs have no header.
    fn frames_by_section(&self) -> Option<(u64, &'a [u8])> {
        let bytes = self.bytes;
        let (start, size) = (usize::try_from(long(bytes, 40)?).ok()?, half(bytes, 58)? as usize);
        let (count, names) = (half(bytes, 60)? as usize, half(bytes, 62)? as usize);
        let place = |index: usize| start.checked_add(index.checked_mul(size)?);
        let names = usize::try_from(long(bytes, place(names)?.checked_add(24)?)?).ok()?;
        for index in 0..count.min(MAX_SECTIONS) {
            let at = place(index)?;
            let name = names.checked_add(word(bytes, at)? as usize)?;
            if bytes.get(name..name.checked_add(10)?) == Some(b".eh_frame\0") {
                let (address, offset) =
                    (long(bytes, at.checked_add(16)?)?, long(bytes, at.checked_add(24)?)?);
                let (offset, size) =
                    (usize::try_from(offset).ok()?, long(bytes, at.checked_add(32)?)? as usize);
                return Some((address, bytes.get(offset..offset.checked_add(size)?)?));
            }
        }
        None
    }

    /// What is taken from a virtual address to get a unit address.
    fn distance(&self) -> u64 {
        self.code.address.wrapping_sub(self.code.offset)
    }

    /// The functions that the call frame information names, ascending, without overlaps.
    pub(crate) fn functions(&self) -> &[FunctionBounds] {
        self.functions.get_or_init(|| self.find_functions())
    }

    fn find_functions(&self) -> Vec<FunctionBounds> {
        let Some((address, bytes)) = self.frames else { return Vec::new() };
        let section = address.wrapping_sub(self.distance()) as u32;
        let mut functions = bounds::functions(bytes, section);
        let end = self.end();
        functions.retain(|function| function.start < function.end && function.end <= end);
        functions.sort_unstable();
        functions.dedup_by(|later, earlier| later.start < earlier.end);
        functions
    }

    /// The table of relocations with addends.
    fn relocations(&self) -> Option<&'a [u8]> {
        let dynamic = self.dynamic?;
        let entries = self.in_segment(&dynamic, dynamic.address)?;
        let value = |tag| {
            let entry = entries.chunks_exact(16).find(|entry| long(entry, 0) == Some(tag))?;
            long(entry, 8)
        };
        let table = self.at_address(value(RELOCATIONS)?)?;
        table.get(..usize::try_from(value(RELOCATIONS_SIZE)?).ok()?)
    }

    /// Unit addresses of code that the data point to: what relocations name, and words that look like it, which is how files
    /// that are linked for a fixed address name code, and those with compressed relocations.
    fn find_pointers(&self) -> Vec<u32> {
        let mut found = pointers::relative(self.relocations().unwrap_or_default(), self.distance());
        found.retain(|at| self.is_code(u64::from(*at).wrapping_add(self.distance())));
        for segment in self.segments.iter().filter(|segment| segment.flags & EXECUTE == 0) {
            let bytes = self.in_segment(segment, segment.address).unwrap_or_default();
            let skipped = (segment.address.wrapping_neg() % 8) as usize;
            let words = bytes.get(skipped..).unwrap_or_default().chunks_exact(8);
            let words = words.filter_map(|word| long(word, 0)).filter(|word| self.is_code(*word));
            found.extend(words.map(|word| word.wrapping_sub(self.distance()) as u32));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn is_code(&self, address: u64) -> bool {
        address.checked_sub(self.code.address).is_some_and(|inside| inside < self.code.size)
    }

    /// Behind the last unit address of the code.
    pub(crate) fn end(&self) -> u32 {
        self.code.offset.saturating_add(self.code.size).min(self.bytes.len() as u64) as u32
    }
}

impl CodeImage for Executable<'_> {
    fn code(&self, at: u32) -> &[u8] {
        let address = u64::from(at).wrapping_add(self.distance());
        self.in_segment(&self.code, address).unwrap_or_default()
    }

    fn read_only(&self, at: u32, buffer: &mut [u8]) -> bool {
        // A unit address is the low half of an address: code before the first segment is not.
        let address = u64::from(at).wrapping_add(self.distance());
        let holds = |segment: &&Segment| {
            segment.flags & WRITE == 0
                && address >= segment.address
                && address - segment.address < segment.size
        };
        let bytes = self.segments.iter().find(holds).and_then(|segment| self.in_segment(segment, address));
        match bytes.and_then(|bytes| bytes.get(..buffer.len())) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    fn pointers(&self, from: u32, to: u32) -> Vec<u32> {
        pointers::between(self.pointers.get_or_init(|| self.find_pointers()), from, to).to_vec()
    }

    fn function_at(&self, at: u32) -> Option<FunctionBounds> {
        let functions = self.functions();
        let after = functions.partition_point(|bounds| bounds.start <= at);
        functions.get(after.checked_sub(1)?).copied().filter(|bounds| at < bounds.end)
    }

    fn fixed_bias(&self) -> Option<u32> {
        self.is_fixed.then_some(self.distance() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one segment of code at 0x1000, loaded at 0x401000.
    fn file() -> Vec<u8> {
        let mut bytes = vec![0; 0x1010];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(64, u64::from(LOAD) | 5 << 32);
        put(72, 0x1000);
        put(80, 0x40_1000);
        put(96, 16);
        bytes[0x1000..].fill(0x90);
        bytes
    }

    #[test]
    fn code_is_found_by_unit_address() {
        let bytes = file();
        let executable = Executable::parse(&bytes).expect("an executable");
        assert_eq!(executable.code(0x1004).len(), 12);
        assert!(executable.code(0x1010).is_empty() && executable.code(0xfff).is_empty());
        let mut two = [0; 2];
        assert!(executable.read_only(0x100e, &mut two) && two == [0x90; 2]);
        assert!(!executable.read_only(0x100f, &mut two));
        assert!(executable.functions().is_empty());
    }

    #[test]
    fn any_bytes_give_an_answer() {
        let whole = file();
        let mut random = 1_u64;
        for length in (0..200).chain([0x1000, 0x100f]) {
            let _ = Executable::parse(&whole[..length]);
        }
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes[(random >> 33) as usize % 130] = (random >> 56) as u8;
            }
            if let Some(executable) = Executable::parse(&bytes) {
                let _ = (executable.functions(), executable.code(0x1000).len(), executable.end());
                let _ = (executable.pointers(0, u32::MAX), executable.function_at(0x1000));
            }
        }
    }
}
