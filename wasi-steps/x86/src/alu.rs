//! Integer arithmetic on operands of 1, 2, 4 or 8 bytes, with its flags, in the plainest form.
//!
//! Operands are zero-extended; results are too. Flags are RFLAGS bits and follow the Intel manual, volume 2; where it
//! leaves a flag undefined they are what processors do, or zero.

use crate::flags::{Flags, kind};
use crate::state::flag;

/// The eight operations that share the encoding of `add`, in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// The shifts and rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

/// All ones in the low `size` bytes.
#[inline(always)]
pub(crate) fn mask(size: usize) -> u64 {
    u64::MAX >> (64 - 8 * size)
}

/// How far an operand of `size` bytes is shifted to the top.
#[inline(always)]
pub(crate) fn lift(size: usize) -> u32 {
    64 - 8 * size as u32
}

/// The low `size` bytes with their sign.
#[inline(always)]
pub(crate) fn signed(value: u64, size: usize) -> i64 {
    (value << lift(size)) as i64 >> lift(size)
}

/// Flags of a result with the given CF, OF and AF.
#[inline]
pub(crate) fn result_flags(result: u64, size: usize, others: u64) -> Flags {
    let shift = lift(size);
    Flags { tag: kind::RESULT | shift << 8, a: result << shift, b: others }
}

/// Result of a binary operation; `carry` is the carry flag from before.
#[inline]
pub(crate) fn binary(operation: Binary, a: u64, b: u64, carry: u64, size: usize) -> u64 {
    let result = match operation {
        Binary::Add => a.wrapping_add(b),
        Binary::Or => a | b,
        Binary::Adc => a.wrapping_add(b).wrapping_add(carry),
        Binary::Sbb => a.wrapping_sub(b).wrapping_sub(carry),
        Binary::And => a & b,
        Binary::Sub | Binary::Cmp => a.wrapping_sub(b),
        Binary::Xor => a ^ b,
    };
    result & mask(size)
}

/// Flags of a binary operation.
#[inline]
pub(crate) fn binary_flags(operation: Binary, a: u64, b: u64, carry: u64, size: usize) -> Flags {
    let shift = lift(size);
    let operands = |kind: u32| Flags { tag: kind | shift << 8, a: a << shift, b: b << shift };
    let result = binary(operation, a, b, carry, size);
    match operation {
        Binary::Add => operands(kind::ADD),
        Binary::Sub | Binary::Cmp => operands(kind::SUB),
        Binary::Or | Binary::And | Binary::Xor => result_flags(result, size, 0),
        Binary::Adc => {
            let carries = a & b | (a | b) & !result;
            result_flags(result, size, carry_flags(carries, size))
        }
        Binary::Sbb => {
            let borrows = !a & b | (!a | b) & result;
            result_flags(result, size, carry_flags(borrows, size))
        }
    }
}

/// CF, OF and AF from the carries out of every bit.
fn carry_flags(carries: u64, size: usize) -> u64 {
    let top = 8 * size as u32 - 1;
    let carry = carries >> top & 1;
    carry | (carry ^ carries >> (top - 1) & 1) << 11 | (carries >> 3 & 1) << 4
}

/// Result of a shift or rotate and what it does to the flags: `None` when it leaves them alone.
pub(crate) fn shift(operation: Shift, value: u64, count: u8, size: usize, old: u64) -> (u64, Option<Flags>) {
    let bits = 8 * size as u32;
    let count = u32::from(count) & if size == 8 { 63 } else { 31 };
    if count == 0 {
        return (value, None);
    }
    let top = |value: u64| value >> (bits - 1) & 1;
    let carry = old & flag::CF;
    match operation {
        Shift::Rol | Shift::Ror | Shift::Rcl | Shift::Rcr => {
            let (result, carry) = match operation {
                Shift::Rol => {
                    let result = rotate(value, count % bits, bits);
                    (result, result & 1)
                }
                Shift::Ror => {
                    let result = rotate(value, bits - count % bits, bits);
                    (result, top(result))
                }
                Shift::Rcl => rotate_through(value, carry, count % (bits + 1), bits),
                _ => rotate_through(value, carry, (bits + 1 - count % (bits + 1)) % (bits + 1), bits),
            };
            let result = result & mask(size);
            // OF is defined for a count of one; processors compute it from the result alone.
            let overflow = match operation {
                Shift::Rol | Shift::Rcl => top(result) ^ carry,
                _ => top(result) ^ top(result << 1),
            };
            let mut flags = Flags::CLEAR;
            flags.set(old & !(flag::CF | flag::OF) | carry | overflow << 11);
            (result, Some(flags))
        }
        Shift::Shl => {
            let wide = u128::from(value) << count;
            let result = wide as u64 & mask(size);
            let carry = (wide >> bits) as u64 & 1;
            let overflow = top(result) ^ carry;
            (result, Some(result_flags(result, size, carry | overflow << 11)))
        }
        Shift::Shr => {
            let result = value >> count;
            let carry = value >> (count - 1) & 1;
            let overflow = top(result) ^ top(result << 1);
            (result, Some(result_flags(result, size, carry | overflow << 11)))
        }
        Shift::Sar => {
            let wide = signed(value, size);
            let result = (wide >> count) as u64 & mask(size);
            let carry = (wide >> (count - 1)) as u64 & 1;
            (result, Some(result_flags(result, size, carry)))
        }
    }
}

/// Rotates `bits` bits left.
fn rotate(value: u64, count: u32, bits: u32) -> u64 {
    let count = count % bits;
    if count == 0 { value } else { value << count | value >> (bits - count) }
}

/// Rotates `bits` bits and the carry above them left; the value and the new carry.
fn rotate_through(value: u64, carry: u64, count: u32, bits: u32) -> (u64, u64) {
    let wide = u128::from(carry) << bits | u128::from(value);
    let turned = wide << count | wide >> (bits + 1 - count);
    (turned as u64, (turned >> bits) as u64 & 1)
}

/// `shld` (left) or `shrd` of `value`, filled from `fill`; `None` when the count is zero.
pub(crate) fn double_shift(
    left: bool,
    value: u64,
    fill: u64,
    count: u8,
    size: usize,
) -> Option<(u64, Flags)> {
    let bits = 8 * size as u32;
    let count = u32::from(count) & if size == 8 { 63 } else { 31 };
    if count == 0 {
        return None;
    }
    // 16-bit operands with larger counts are undefined: the operand repeats, as processors do.
    let count = if count > bits { count - bits } else { count };
    let (result, carry) = if left {
        let wide = u128::from(value) << bits | u128::from(fill);
        ((wide << count >> bits) as u64 & mask(size), (wide >> (2 * bits - count)) as u64 & 1)
    } else {
        let wide = u128::from(fill) << bits | u128::from(value);
        ((wide >> count) as u64 & mask(size), (wide >> (count - 1)) as u64 & 1)
    };
    let overflow = (value ^ result) >> (bits - 1) & 1;
    Some((result, result_flags(result, size, carry | overflow << 11)))
}

/// Flags of `mul` and `imul`: CF and OF say that the upper half counts, the rest comes from the lower half.
pub(crate) fn multiply_flags(low: u64, overflow: bool, size: usize) -> Flags {
    result_flags(low, size, if overflow { flag::CF | flag::OF } else { 0 })
}

/// Flags with zero set as given and all else clear: `popcnt`.
pub(crate) fn zero_flags(zero: bool) -> Flags {
    Flags { tag: kind::EXPLICIT, a: u64::from(zero) << 6, b: 0 }
}

/// Unsigned division of a double-width value; `None` is a division error.
pub(crate) fn divide(dividend: u128, divisor: u64, size: usize) -> Option<(u64, u64)> {
    if divisor == 0 {
        return None;
    }
    let quotient = dividend / u128::from(divisor);
    let remainder = dividend % u128::from(divisor);
    (quotient <= u128::from(mask(size))).then_some((quotient as u64, remainder as u64))
}

/// Signed division of a double-width value; `None` is a division error.
pub(crate) fn divide_signed(dividend: i128, divisor: i64, size: usize) -> Option<(u64, u64)> {
    let quotient = dividend.checked_div(i128::from(divisor))?;
    let remainder = dividend % i128::from(divisor);
    let fits = quotient == i128::from(signed(quotient as u64, size));
    fits.then_some((quotient as u64 & mask(size), remainder as u64 & mask(size)))
}

/// One step of CRC-32C over `size` bytes, as `crc32` computes it.
pub(crate) fn crc32(seed: u32, data: u64, size: usize) -> u32 {
    /// The Castagnoli polynomial, bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    data.to_le_bytes()[..size].iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}
