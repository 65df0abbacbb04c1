//! Errors of WASI preview 1, by Linux's.

use cooper_vfs::Errno as Linux;

/// An `errno` of `wasi_snapshot_preview1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errno(pub(super) u16);

impl Errno {
    pub(super) const BADF: Self = Self(8);
    pub(super) const ILSEQ: Self = Self(25);
    pub(super) const INVAL: Self = Self(28);
    pub(super) const IO: Self = Self(29);
    pub(super) const NAMETOOLONG: Self = Self(37);
    pub(super) const NOTSUP: Self = Self(58);
    pub(super) const PERM: Self = Self(63);
}

/// Linux's number, preview 1's number.
const TABLE: &[(u16, u16)] = &[
    (1, 63),
    (2, 44),
    (3, 71),
    (4, 27),
    (5, 29),
    (6, 60),
    (7, 1),
    (8, 45),
    (9, 8),
    (10, 12),
    (11, 6),
    (12, 48),
    (13, 2),
    (14, 21),
    (16, 10),
    (17, 20),
    (18, 75),
    (19, 43),
    (20, 54),
    (21, 31),
    (22, 28),
    (23, 41),
    (24, 33),
    (25, 59),
    (26, 74),
    (27, 22),
    (28, 51),
    (29, 70),
    (30, 69),
    (31, 34),
    (32, 64),
    (33, 18),
    (34, 68),
    (35, 16),
    (36, 37),
    (37, 46),
    (38, 52),
    (39, 55),
    (40, 32),
    (42, 49),
    (43, 24),
    (67, 47),
    (71, 65),
    (72, 36),
    (74, 9),
    (75, 61),
    (84, 25),
    (88, 57),
    (89, 17),
    (90, 35),
    (91, 67),
    (92, 50),
    (93, 66),
    (95, 58),
    (97, 5),
    (98, 3),
    (99, 4),
    (100, 38),
    (101, 40),
    (102, 39),
    (103, 13),
    (104, 15),
    (105, 42),
    (106, 30),
    (107, 53),
    (110, 73),
    (111, 14),
    (113, 23),
    (114, 7),
    (115, 26),
    (116, 72),
    (122, 19),
    (125, 11),
    (130, 62),
    (131, 56),
];

impl From<Linux> for Errno {
    fn from(errno: Linux) -> Self {
        let number = u16::try_from(errno.raw_os_error()).unwrap_or_default();
        let at = TABLE.binary_search_by_key(&number, |(linux, _)| *linux);
        at.map_or(Self::IO, |at| Self(TABLE[at].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_stands_once_on_both_sides() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let mut own: Vec<u16> = TABLE.iter().map(|(_, own)| *own).collect();
        own.sort_unstable();
        // 0 is success; 33 to 76 has no gap but `notcapable`, which Linux lacks.
        assert_eq!(own, (1..=75).collect::<Vec<u16>>());
    }

    #[test]
    fn errors_keep_their_meaning() {
        let check = |linux: Linux, expected: u16| assert_eq!(Errno::from(linux), Errno(expected));
        check(Linux::NOENT, 44);
        check(Linux::ROFS, 69);
        check(Linux::NOTSUP, 58);
        check(Linux::KEYEXPIRED, 29);
    }
}
