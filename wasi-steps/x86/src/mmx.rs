//! MMX: 64-bit vectors in the significands of the x87 registers.
//!
//! Every MMX instruction but `emms` makes the x87 stack begin at register 0 and all registers used, and writing one
//! sets its sign and exponent to ones.

use iced_x86::{Mnemonic, OpKind, Register};

use crate::general::Step;
use crate::interpreter::Exit;
use crate::state::register::RDI;
use crate::{host, host_mmx};

impl Step<'_> {
    fn is_mmx(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Register && self.i.op_register(n).is_mm()
    }

    /// An MMX register, the low half of a vector register, a general register, or memory zero-extended.
    fn mmx(&self, n: u32) -> Result<u64, Exit> {
        if self.is_mmx(n) {
            return Ok(self.m.x87.registers[self.i.op_register(n).number() & 7] as u64);
        }
        if self.i.op_kind(n) == OpKind::Register && self.i.op_register(n).is_xmm() {
            return Ok(self.vector(n)? as u64);
        }
        self.read(n)
    }

    fn set_mmx(&mut self, n: u32, value: u64) {
        let register = self.i.op_register(n).number() & 7;
        self.m.x87.registers[register] = 0xffff << 64 | u128::from(value);
    }

    /// Converts two lanes between integers and floating point; `function` works on vectors.
    fn convert_pair(&mut self, function: host::VectorBinary) -> Result<(), Exit> {
        if self.is_mmx(0) {
            let pair = self.vector(1)?;
            let narrow = matches!(self.i.mnemonic(), Mnemonic::Cvtps2pi | Mnemonic::Cvttps2pi);
            let pair = if narrow { pair & u128::from(u64::MAX) } else { pair };
            let value = self.float(|| function(0, pair))?;
            self.set_mmx(0, value as u64);
            return Ok(());
        }
        let pair = u128::from(self.mmx(1)?);
        let value = self.float(|| function(0, pair))?;
        let kept = if self.i.mnemonic() == Mnemonic::Cvtpi2ps {
            self.vector(0)? >> 64 << 64 | value & u128::from(u64::MAX)
        } else {
            value
        };
        self.set_vector(0, kept)
    }

    fn shuffle_words(&mut self) -> Result<(), Exit> {
        let (source, order) = (self.mmx(1)?, self.immediate());
        let value = (0..4).fold(0, |all, lane| {
            let chosen = u32::from(order >> (2 * lane)) & 3;
            all | (source >> (16 * chosen) & 0xffff) << (16 * lane)
        });
        self.set_mmx(0, value);
        Ok(())
    }

    fn mask_move_pair(&mut self) -> Result<(), Exit> {
        let (value, mask) = (self.mmx(1)?.to_le_bytes(), self.mmx(2)?.to_le_bytes());
        let base = match self.i.memory_segment() {
            Register::FS => self.m.r[usize::from(crate::machine::FS)],
            Register::GS => self.m.r[usize::from(crate::machine::GS)],
            _ => 0,
        };
        let address = self.m.r[RDI].wrapping_add(base);
        for (at, (byte, chosen)) in value.iter().zip(mask).enumerate() {
            if chosen & 0x80 != 0 {
                self.memory.store(address.wrapping_add(at as u64), *byte)?;
            }
        }
        Ok(())
    }

    /// Executes the instruction; false when it is none of MMX.
    fn mmx_instruction(&mut self) -> Result<bool, Exit> {
        use Mnemonic as M;
        let mnemonic = self.i.mnemonic();
        match mnemonic {
            M::Movq | M::Movd | M::Movdq2q if self.is_mmx(0) => {
                let value = self.mmx(1)?;
                self.set_mmx(0, value);
            }
            M::Movq2dq => {
                let value = self.mmx(1)?;
                self.set_vector(0, value.into())?;
            }
            M::Movq | M::Movd | M::Movntq => {
                let value = self.mmx(1)?;
                let size = self.size(0);
                if self.i.op0_kind() == OpKind::Memory {
                    self.store(self.address(), size, value)?;
                } else {
                    self.write(0, value)?;
                }
            }
            M::Pmovmskb => {
                let bits = host::byte_signs(self.mmx(1)?.into());
                self.write(0, bits.into())?;
            }
            M::Pshufw => self.shuffle_words()?,
            M::Pinsrw => {
                let shift = u32::from(self.immediate() & 3) * 16;
                let word = self.read(1)? & 0xffff;
                let value = self.mmx(0)? & !(0xffff << shift) | word << shift;
                self.set_mmx(0, value);
            }
            M::Pextrw => {
                let shift = u32::from(self.immediate() & 3) * 16;
                let value = self.mmx(1)? >> shift & 0xffff;
                self.write(0, value)?;
            }
            M::Palignr => {
                let both = u128::from(self.mmx(0)?) << 64 | u128::from(self.mmx(1)?);
                let value = both.checked_shr(8 * u32::from(self.immediate())).unwrap_or(0);
                self.set_mmx(0, value as u64);
            }
            M::Maskmovq => self.mask_move_pair()?,
            M::Cvtpi2ps => self.convert_pair(host::cvtdq2ps)?,
            M::Cvtpi2pd => self.convert_pair(host::cvtdq2pd)?,
            M::Cvtps2pi => self.convert_pair(host::cvtps2dq)?,
            M::Cvttps2pi => self.convert_pair(host::cvttps2dq)?,
            M::Cvtpd2pi => self.convert_pair(host::cvtpd2dq)?,
            M::Cvttpd2pi => self.convert_pair(host::cvttpd2dq)?,
            _ => {
                let (a, b) = (self.mmx(0)?, self.mmx(1)?);
                let Some(value) = host_mmx::binary(mnemonic, a, b) else { return Ok(false) };
                self.set_mmx(0, value);
            }
        }
        Ok(true)
    }
}

/// Executes an MMX instruction; false when it is none.
pub(crate) fn execute(step: &mut Step<'_>) -> Result<bool, Exit> {
    let from_memory = matches!(step.i.mnemonic(), Mnemonic::Cvtpi2ps | Mnemonic::Cvtpi2pd);
    let uses_mmx = (0..step.i.op_count()).any(|n| step.is_mmx(n));
    if !uses_mmx && !from_memory {
        return Ok(false);
    }
    step.wait()?;
    if !step.mmx_instruction()? {
        return Ok(false);
    }
    if uses_mmx {
        step.m.x87.set_top(0);
        step.m.x87.tag = 0xff;
    }
    Ok(true)
}
