//! Pointers into code that a file holds, from its relocations.
//!
//! A file that can be loaded anywhere names every pointer in its data by a relocation of type `R_X86_64_RELATIVE`, whose
//! addend is the address (System V ABI, AMD64 supplement, "Relocation"). Tables of labels are among them.

/// Bytes of an `Elf64_Rela`.
const ENTRY: usize = 24;
/// `R_X86_64_RELATIVE`.
const RELATIVE: u64 = 8;

/// The unit addresses that a table of relocations puts into the file's data, ascending. `distance` is what is taken from
/// a virtual address to get a unit address.
pub fn relative(table: &[u8], distance: u64) -> Vec<u32> {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut found: Vec<u32> = table
        .chunks_exact(ENTRY)
        .filter(|entry| word(&entry[8..16]) == RELATIVE)
        .filter_map(|entry| u32::try_from(word(&entry[16..]).checked_sub(distance)?).ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The members of an ascending list from one address to another.
pub fn between(list: &[u32], from: u32, to: u32) -> &[u32] {
    let start = list.partition_point(|at| *at < from);
    let end = list.partition_point(|at| *at < to).max(start);
    &list[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addends_are_found_in_order() {
        let mut table = Vec::new();
        for (kind, addend) in [(8_u64, 0x5000_u64), (6, 0x4000), (8, 0x4800), (8, 0x10)] {
            table.extend([7_u64.to_le_bytes(), kind.to_le_bytes(), addend.to_le_bytes()].concat());
        }
        let list = relative(&table, 0x1000);
        assert_eq!(list, [0x3800, 0x4000]);
        assert_eq!(between(&list, 0x3801, 0x4001), [0x4000]);
        assert_eq!(between(&list, 0x4001, 0), []);
    }
}
