//! Bounds of functions from `.eh_frame`, which stripped executables keep too.
//!
//! Follows the Linux Standard Base, *Exception Frames*: common entries say how the entries of functions are encoded.
//! Entries with encodings other than relative ones are left out, as is everything behind an entry that does not fit.

use super::FunctionBounds;

/// How the addresses of a common entry's functions are encoded; `None` for what is not understood.
type Encoding = Option<u8>;

/// `DW_EH_PE_pcrel` and the mask of the application bits.
const RELATIVE: u8 = 0x10;
const APPLICATION: u8 = 0x70;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.bytes.get(self.at..)?.get(..N)?;
        self.at += N;
        bytes.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn leb(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A number in one of the formats of `DW_EH_PE`, without what it is relative to.
    fn number(&mut self, encoding: u8) -> Option<i64> {
        Some(match encoding & 0x0f {
            0x02 => u16::from_le_bytes(self.array()?).into(),
            0x03 => u32::from_le_bytes(self.array()?).into(),
            0x0a => i16::from_le_bytes(self.array()?).into(),
            0x0b => i32::from_le_bytes(self.array()?).into(),
            0x00 | 0x04 | 0x0c => i64::from_le_bytes(self.array()?),
            _ => return None,
        })
    }
}

/// The functions that an `.eh_frame` section at a unit address names, ascending and without overlaps of their starts.
pub fn functions(eh_frame: &[u8], section_unit_address: u32) -> Vec<FunctionBounds> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = entry(eh_frame, at, section_unit_address, &mut found) {
        at = next;
    }
    found.sort_unstable();
    found.dedup_by_key(|function| function.start);
    found
}

/// Reads the entry at an offset; the offset of the next.
fn entry(section: &[u8], at: usize, address: u32, found: &mut Vec<FunctionBounds>) -> Option<usize> {
    let mut reader = Reader { bytes: section, at };
    let mut length = u64::from(u32::from_le_bytes(reader.array()?));
    if length == 0xffff_ffff {
        length = u64::from_le_bytes(reader.array()?);
    }
    if length == 0 {
        return None;
    }
    let start = reader.at;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    reader.bytes = section.get(..end)?;
    let id = u32::from_le_bytes(reader.array()?);
    if id != 0
        && let Some(common) = start.checked_sub(id as usize)
        && let Some(encoding) = common_encoding(section, common)
        && let Some(function) = function(&mut reader, encoding, address)
    {
        found.push(function);
    }
    Some(end)
}

fn function(reader: &mut Reader<'_>, encoding: u8, section: u32) -> Option<FunctionBounds> {
    if encoding & APPLICATION != RELATIVE {
        return None;
    }
    let here = section.wrapping_add(reader.at as u32);
    let start = here.wrapping_add(reader.number(encoding)? as u32);
    let size = u32::try_from(reader.number(encoding)?).ok()?;
    let end = start.checked_add(size)?;
    (size > 0).then_some(FunctionBounds { start, end })
}

/// The encoding of function addresses that the common entry at an offset declares.
fn common_encoding(section: &[u8], at: usize) -> Encoding {
    let mut reader = Reader { bytes: section, at };
    if u32::from_le_bytes(reader.array()?) == 0xffff_ffff {
        reader.array::<8>()?;
    }
    if reader.array()? != [0; 4] {
        return None;
    }
    let version = reader.byte()?;
    let mut augmentation = Vec::new();
    loop {
        match reader.byte()? {
            0 => break,
            byte => augmentation.push(byte),
        }
    }
    reader.leb()?;
    reader.leb()?;
    if version == 1 {
        reader.byte()?;
    } else {
        reader.leb()?;
    }
    if augmentation.first() != Some(&b'z') {
        return augmentation.is_empty().then_some(0);
    }
    reader.leb()?;
    for letter in &augmentation[1..] {
        match letter {
            b'R' => return reader.byte(),
            b'L' => {
                reader.byte()?;
            }
            b'P' => {
                let encoding = reader.byte()?;
                reader.number(encoding)?;
            }
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A common entry with relative four-byte addresses, then one function at distance 0x100 with 0x20 bytes.
    fn section() -> Vec<u8> {
        let mut bytes =
            vec![20, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 12, 7, 8, 0x90, 1, 0, 0];
        bytes.extend([16, 0, 0, 0, 28, 0, 0, 0, 0, 1, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn functions_are_found_relative_to_their_entries() {
        let start = 0x1000 + 32 + 0x100;
        assert_eq!(functions(&section(), 0x1000), [FunctionBounds { start, end: start + 0x20 }]);
    }

    #[test]
    fn cut_sections_give_what_is_whole() {
        let whole = section();
        for length in 0..whole.len() - 4 {
            assert_eq!(functions(&whole[..length], 0), [], "{length}");
        }
    }
}
