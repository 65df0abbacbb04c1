//! The arithmetic flags, computed when somebody looks.
//!
//! Most instructions set flags and few read them. So an instruction stores its operands and what kind it was, and the
//! readers compute. Operands are kept shifted to the top of 64 bits: carry, overflow, zero and sign of every operand
//! size are then those of a 64-bit operation; only parity and the half carry need the shift.

use crate::state::flag;

/// What `a` and `b` of [`Flags`] mean; the low byte of the tag.
pub(crate) mod kind {
    /// `a` holds the flags as in RFLAGS.
    pub(crate) const EXPLICIT: u32 = 0;
    /// `a` is a result; `b` holds CF, OF and AF as in RFLAGS.
    pub(crate) const RESULT: u32 = 1;
    /// `a - b`.
    pub(crate) const SUB: u32 = 2;
    /// `a + b`.
    pub(crate) const ADD: u32 = 3;
    /// `a` is a result of adding one; `b` is the carry flag from before.
    pub(crate) const INC: u32 = 4;
    /// `a` is a result of subtracting one; `b` is the carry flag from before.
    pub(crate) const DEC: u32 = 5;
}

/// The last operation that set flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags {
    /// A [`kind`], and in the second byte by how many bits `a` and `b` are shifted up.
    pub(crate) tag: u32,
    pub(crate) a: u64,
    pub(crate) b: u64,
}

/// Sign, zero and parity of a result that is shifted up by `shift`.
#[inline]
pub(crate) fn sign_zero_parity(result: u64, shift: u32) -> u64 {
    let sign = result >> 63 << 7;
    let zero = u64::from(result == 0) << 6;
    let parity = u64::from((result >> shift) as u8).count_ones() & 1 ^ 1;
    sign | zero | u64::from(parity) << 2
}

impl Flags {
    /// All arithmetic flags clear.
    pub(crate) const CLEAR: Self = Self { tag: kind::EXPLICIT, a: 0, b: 0 };

    /// Sets all six flags from RFLAGS bits.
    #[inline]
    pub(crate) fn set(&mut self, bits: u64) {
        *self = Self { tag: kind::EXPLICIT, a: bits & flag::ARITHMETIC, b: 0 };
    }

    fn shift(&self) -> u32 {
        self.tag >> 8
    }

    /// All six flags as in RFLAGS.
    pub(crate) fn bits(&self) -> u64 {
        let (a, b, shift) = (self.a, self.b, self.shift());
        let overflow = |bit: u64| bit >> 63 << 11;
        let half = |result: u64| ((a ^ b ^ result) >> shift) & flag::AF;
        match self.tag & 0xff {
            kind::EXPLICIT => a,
            kind::RESULT => sign_zero_parity(a, shift) | b,
            kind::SUB => {
                let result = a.wrapping_sub(b);
                let carry = u64::from(a < b);
                sign_zero_parity(result, shift) | carry | overflow((a ^ b) & (a ^ result)) | half(result)
            }
            kind::ADD => {
                let result = a.wrapping_add(b);
                let carry = u64::from(result < a);
                sign_zero_parity(result, shift) | carry | overflow(!(a ^ b) & (a ^ result)) | half(result)
            }
            kind::INC => {
                let half = u64::from(a >> shift & 0xf == 0) << 4;
                sign_zero_parity(a, shift) | b | u64::from(a == 1 << 63) << 11 | half
            }
            _ => {
                let half = u64::from(a >> shift & 0xf == 0xf) << 4;
                let overflow = u64::from(a >> shift == (1 << (63 - shift)) - 1) << 11;
                sign_zero_parity(a, shift) | b | overflow | half
            }
        }
    }

    /// The carry flag, 0 or 1.
    #[inline]
    pub(crate) fn carry(&self) -> u64 {
        match self.tag & 0xff {
            kind::SUB => u64::from(self.a < self.b),
            kind::ADD => u64::from(self.a.wrapping_add(self.b) < self.a),
            kind::EXPLICIT => self.a & flag::CF,
            _ => self.b & flag::CF,
        }
    }

    #[inline]
    fn zero(&self) -> bool {
        match self.tag & 0xff {
            kind::SUB => self.a == self.b,
            kind::ADD => self.a.wrapping_add(self.b) == 0,
            kind::EXPLICIT => self.a & flag::ZF != 0,
            _ => self.a == 0,
        }
    }

    #[inline]
    fn sign(&self) -> bool {
        match self.tag & 0xff {
            kind::SUB => (self.a.wrapping_sub(self.b) as i64) < 0,
            kind::ADD => (self.a.wrapping_add(self.b) as i64) < 0,
            kind::EXPLICIT => self.a & flag::SF != 0,
            _ => (self.a as i64) < 0,
        }
    }

    /// Whether the condition with this number, as in the low bits of the opcode of `jcc`, holds.
    #[inline]
    pub(crate) fn condition(&self, code: u8) -> bool {
        let subtraction = self.tag & 0xff == kind::SUB;
        let holds = match code >> 1 & 7 {
            0 => self.bits() & flag::OF != 0,
            1 => self.carry() != 0,
            2 => self.zero(),
            3 if subtraction => self.a <= self.b,
            3 => self.carry() != 0 || self.zero(),
            4 => self.sign(),
            5 => self.bits() & flag::PF != 0,
            6 if subtraction => (self.a as i64) < self.b as i64,
            7 if subtraction => self.a as i64 <= self.b as i64,
            code => {
                let bits = self.bits();
                let less = (bits & flag::SF != 0) != (bits & flag::OF != 0);
                less || code == 7 && bits & flag::ZF != 0
            }
        };
        holds != (code & 1 != 0)
    }
}
