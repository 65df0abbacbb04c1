//! The string comparisons of SSE4.2: `pcmpestri`, `pcmpestrm`, `pcmpistri`, `pcmpistrm`.
//!
//! Two vectors of bytes or words are compared element by element in one of four ways; the result is a bit for each
//! element of the second vector (Intel manual, volume 2, "PCMPESTRI" and "Imm8 control byte operation").

use iced_x86::{Code, Mnemonic};

use crate::general::Step;
use crate::host;
use crate::interpreter::Exit;
use crate::state::{flag, register::*};

/// The elements of one operand, and how many of them count.
struct Text {
    elements: [i32; 16],
    length: usize,
}

/// The control byte.
#[derive(Clone, Copy)]
struct Control(u8);

impl Control {
    fn is_wide(self) -> bool {
        self.0 & 1 != 0
    }

    /// Elements in a vector.
    fn count(self) -> usize {
        if self.is_wide() { 8 } else { 16 }
    }

    fn elements(self, value: u128) -> [i32; 16] {
        let mut elements = [0; 16];
        for (index, element) in elements[..self.count()].iter_mut().enumerate() {
            *element = match self.0 & 3 {
                0 => (value >> (8 * index)) as u8 as i32,
                1 => (value >> (16 * index)) as u16 as i32,
                2 => (value >> (8 * index)) as i8 as i32,
                _ => (value >> (16 * index)) as i16 as i32,
            };
        }
        elements
    }

    /// The comparison itself, before the polarity.
    fn aggregate(self, a: &Text, b: &Text) -> u32 {
        let count = self.count();
        let holds = |at: usize| match self.0 >> 2 & 3 {
            0 => at < b.length && a.elements[..a.length].contains(&b.elements[at]),
            1 => {
                let inside = |pair: &[i32]| pair.len() == 2 && (pair[0]..=pair[1]).contains(&b.elements[at]);
                at < b.length && a.elements[..a.length].chunks(2).any(inside)
            }
            2 => match (at < a.length, at < b.length) {
                (true, true) => a.elements[at] == b.elements[at],
                (a, b) => a == b,
            },
            _ => (0..(count - at).min(a.length))
                .all(|index| at + index < b.length && a.elements[index] == b.elements[at + index]),
        };
        (0..count).fold(0, |bits, at| bits | u32::from(holds(at)) << at)
    }

    fn polarize(self, bits: u32, b: &Text) -> u32 {
        let all = (1 << self.count()) - 1;
        match self.0 >> 4 & 3 {
            1 => bits ^ all,
            3 => bits ^ ((1 << b.length) - 1),
            _ => bits,
        }
    }

    /// The result as a vector: bits, or whole elements.
    fn mask(self, bits: u32) -> u128 {
        if self.0 & 0x40 == 0 {
            return bits.into();
        }
        let width = if self.is_wide() { 16 } else { 8 };
        let ones = (1_u128 << width) - 1;
        (0..self.count()).filter(|at| bits >> at & 1 != 0).fold(0, |all, at| all | ones << (width * at))
    }

    fn index(self, bits: u32) -> u32 {
        match (bits, self.0 & 0x40) {
            (0, _) => self.count() as u32,
            (bits, 0) => bits.trailing_zeros(),
            (bits, _) => 31 - bits.leading_zeros(),
        }
    }
}

impl Step<'_> {
    /// The length that a register gives: its absolute value, at most a whole vector.
    fn explicit_length(&self, register: usize, count: usize) -> usize {
        let wide =
            matches!(self.i.code(), Code::Pcmpestri64_xmm_xmmm128_imm8 | Code::Pcmpestrm64_xmm_xmmm128_imm8);
        let value = self.m.r[register];
        let length = if wide { (value as i64).unsigned_abs() } else { (value as i32).unsigned_abs().into() };
        length.min(count as u64) as usize
    }

    fn compare_strings(&mut self, explicit: bool) -> Result<(Control, u32), Exit> {
        let control = Control(self.immediate());
        let count = control.count();
        let text = |value: u128, length: Option<usize>| {
            let elements = control.elements(value);
            let implicit = elements[..count].iter().position(|element| *element == 0).unwrap_or(count);
            Text { elements, length: length.unwrap_or(implicit) }
        };
        let length = |register| explicit.then(|| self.explicit_length(register, count));
        let a = text(self.vector(0)?, length(RAX));
        let b = text(self.vector_unaligned(1)?, length(RDX));
        let bits = control.polarize(control.aggregate(&a, &b), &b);
        let mut flags = 0;
        for (set, bit) in [
            (bits != 0, flag::CF),
            (b.length < count, flag::ZF),
            (a.length < count, flag::SF),
            (bits & 1 != 0, flag::OF),
        ] {
            flags |= if set { bit } else { 0 };
        }
        self.m.flags.set(flags);
        Ok((control, bits))
    }
}

/// Executes a string comparison; false when it is none.
pub(crate) fn execute(step: &mut Step<'_>) -> Result<bool, Exit> {
    use Mnemonic as M;
    let (explicit, index) = match step.i.mnemonic() {
        M::Pcmpestri | M::Pcmpestri64 => (true, true),
        M::Pcmpestrm | M::Pcmpestrm64 => (true, false),
        M::Pcmpistri => (false, true),
        M::Pcmpistrm => (false, false),
        _ => return Ok(false),
    };
    if index && !explicit {
        let (a, b) = (step.vector(0)?, step.vector_unaligned(1)?);
        if let Some((index, flags)) = host::compare_text(a, b, step.immediate()) {
            step.m.flags.set(flags & flag::ARITHMETIC);
            step.m.r[RCX] = index.into();
            return Ok(true);
        }
    }
    let (control, bits) = step.compare_strings(explicit)?;
    if index {
        step.m.r[RCX] = control.index(bits).into();
    } else {
        step.m.xmm[0] = control.mask(bits);
    }
    Ok(true)
}
