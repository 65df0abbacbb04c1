//! SSE to SSE4.2 on the general path.
//!
//! Instructions on two vector registers are executed by the host, operand values in and out ([`host`]); here are
//! moves, shuffles with an immediate, and what touches general registers or flags.

use iced_x86::{Mnemonic, OpKind, Register};

use crate::alu;
use crate::general::Step;
use crate::host;
use crate::interpreter::Exit;
use crate::memory::Scalar;
use crate::state::{MXCSR_MASK, flag, register::*};

/// All exception masks of MXCSR, above the flags they belong to.
pub(crate) const MASK_SHIFT: u32 = 7;

impl Step<'_> {
    /// The number of a vector register operand.
    fn xmm_index(&self, n: u32) -> Result<usize, Exit> {
        let register = self.i.op_register(n);
        if self.i.op_kind(n) == OpKind::Register && register.is_xmm() {
            Ok(register.number() & 15)
        } else {
            Err(Exit::Illegal)
        }
    }

    fn is_memory(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Memory
    }

    /// The address of a 16-byte operand that must be aligned.
    fn aligned_address(&self) -> Result<u64, Exit> {
        let address = self.address();
        if address.is_multiple_of(16) { Ok(address) } else { Err(Exit::GeneralProtection) }
    }

    fn load_wide<T: Scalar>(&self) -> Result<T, Exit> {
        Ok(self.memory.load(self.address())?)
    }

    /// A vector register, or memory zero-extended; 16 bytes of memory must be aligned.
    pub(crate) fn vector(&self, n: u32) -> Result<u128, Exit> {
        if !self.is_memory(n) {
            return Ok(self.m.xmm[self.xmm_index(n)?]);
        }
        Ok(match self.i.memory_size().size() {
            16 => self.memory.load(self.aligned_address()?)?,
            size @ (1 | 2 | 4 | 8) => self.load(self.address(), size)?.into(),
            _ => return Err(Exit::Illegal),
        })
    }

    /// As `vector` without the demand for alignment.
    pub(crate) fn vector_unaligned(&self, n: u32) -> Result<u128, Exit> {
        if self.is_memory(n) { self.load_wide() } else { self.vector(n) }
    }

    pub(crate) fn set_vector(&mut self, n: u32, value: u128) -> Result<(), Exit> {
        let index = self.xmm_index(n)?;
        self.m.xmm[index] = value;
        Ok(())
    }

    /// Raises the floating-point exception of an instruction when the program does not mask it.
    fn check_float(&mut self, before: u32) -> Result<(), Exit> {
        let unmasked = !(self.m.mxcsr >> MASK_SHIFT) & host::FLAGS;
        if unmasked == 0 {
            return Ok(());
        }
        let raised = host::current_float(0);
        self.m.mxcsr |= raised;
        if raised & unmasked & !before != 0 { Err(Exit::FloatingPoint) } else { Ok(()) }
    }

    /// Executes a floating-point function, with its exceptions.
    pub(crate) fn float<T>(&mut self, work: impl FnOnce() -> T) -> Result<T, Exit> {
        if self.m.mxcsr >> MASK_SHIFT & host::FLAGS == host::FLAGS {
            return Ok(work());
        }
        self.m.mxcsr = host::current_float(self.m.mxcsr);
        host::set_float(self.m.mxcsr);
        let value = work();
        self.check_float(0)?;
        Ok(value)
    }

    /// Moves of whole vectors.
    fn move_vector(&mut self, aligned: bool) -> Result<(), Exit> {
        if self.is_memory(0) {
            let value = self.m.xmm[self.xmm_index(1)?];
            let address = if aligned { self.aligned_address()? } else { self.address() };
            return Ok(self.memory.store(address, value)?);
        }
        let value = if aligned { self.vector(1)? } else { self.vector_unaligned(1)? };
        self.set_vector(0, value)
    }

    /// `movss`, `movsd`: memory clears the upper part, a register keeps it.
    fn move_scalar(&mut self, size: usize) -> Result<(), Exit> {
        if self.is_memory(0) {
            let value = self.vector(1)?;
            return Ok(self.store(self.address(), size, value as u64)?);
        }
        let value = self.vector(1)?;
        let kept = if self.is_memory(1) { 0 } else { self.vector(0)? & !low_mask(size) };
        self.set_vector(0, kept | value & low_mask(size))
    }

    /// Moves of one half; `shift` says which.
    fn move_half(&mut self, shift: u32) -> Result<(), Exit> {
        if self.is_memory(0) {
            let value = (self.vector(1)? >> shift) as u64;
            return Ok(self.store(self.address(), 8, value)?);
        }
        let value = self.vector(1)? & low_mask(8);
        let kept = self.vector(0)? & !(low_mask(8) << shift);
        self.set_vector(0, kept | value << shift)
    }

    /// `movd`, `movq` between vector registers, general registers and memory.
    fn move_low(&mut self) -> Result<(), Exit> {
        let size = if self.i.mnemonic() == Mnemonic::Movd { 4 } else { 8 };
        if self.i.op_kind(0) == OpKind::Register && self.i.op0_register().is_xmm() {
            let value = match self.i.op1_register() {
                register if register.is_xmm() => self.vector(1)? & low_mask(8),
                _ => self.read(1)?.into(),
            };
            return self.set_vector(0, value);
        }
        let value = self.vector(1)? as u64 & alu::mask(size);
        if self.is_memory(0) {
            return Ok(self.store(self.address(), size, value)?);
        }
        self.write(0, value)
    }

    pub(crate) fn immediate(&self) -> u8 {
        self.i.immediate(self.i.op_count() - 1) as u8
    }

    /// Extracts a lane of `size` bytes.
    fn extract(&mut self, size: usize) -> Result<(), Exit> {
        let lane = u32::from(self.immediate()) % (16 / size as u32);
        let value = (self.vector(1)? >> (lane * 8 * size as u32)) as u64 & alu::mask(size);
        if self.is_memory(0) {
            return Ok(self.store(self.address(), size, value)?);
        }
        self.write(0, value)
    }

    /// Inserts a lane of `size` bytes.
    fn insert(&mut self, size: usize) -> Result<(), Exit> {
        let shift = u32::from(self.immediate()) % (16 / size as u32) * 8 * size as u32;
        let value = if self.is_memory(1) { self.load(self.address(), size)? } else { self.read(1)? };
        let kept = self.vector(0)? & !(low_mask(size) << shift);
        self.set_vector(0, kept | u128::from(value & alu::mask(size)) << shift)
    }

    fn byte_shift(&mut self, left: bool) -> Result<(), Exit> {
        let count = u32::from(self.immediate());
        let value = self.vector(0)?;
        let shifted = match (count, left) {
            (16.., _) => 0,
            (_, true) => value << (8 * count),
            (_, false) => value >> (8 * count),
        };
        self.set_vector(0, shifted)
    }

    /// `blendvps` and its kin: takes lanes whose top bit is set in XMM0.
    fn blend_variable(&mut self, size: usize) -> Result<(), Exit> {
        let (a, b, mask) = (self.vector(0)?, self.vector(1)?, self.m.xmm[0]);
        self.set_vector(0, blend(a, b, size, |lane| mask >> ((lane + 1) * 8 * size - 1) & 1 != 0))
    }

    fn blend_immediate(&mut self, size: usize) -> Result<(), Exit> {
        let (a, b, mask) = (self.vector(0)?, self.vector(1)?, self.immediate());
        self.set_vector(0, blend(a, b, size, |lane| mask >> lane & 1 != 0))
    }

    fn shuffle(&mut self) -> Result<(), Exit> {
        let (a, b, order) = (self.vector(0)?, self.vector(1)?, self.immediate());
        let word = |value: u128, lane: u32| u128::from((value >> (16 * lane)) as u16);
        let dword = |value: u128, lane: u32| u128::from((value >> (32 * lane)) as u32);
        let choice = |lane: u32| u32::from(order >> (2 * lane)) & 3;
        let value = match self.i.mnemonic() {
            Mnemonic::Pshufd => (0..4).fold(0, |all, lane| all | dword(b, choice(lane)) << (32 * lane)),
            Mnemonic::Pshuflw => {
                (0..4).fold(b & !low_mask(8), |all, lane| all | word(b, choice(lane)) << (16 * lane))
            }
            Mnemonic::Pshufhw => {
                let high = b >> 64;
                (0..4).fold(b & low_mask(8), |all, lane| all | word(high, choice(lane)) << (64 + 16 * lane))
            }
            Mnemonic::Shufps => (0..4).fold(0, |all, lane| {
                let from = if lane < 2 { a } else { b };
                all | dword(from, choice(lane)) << (32 * lane)
            }),
            _ => {
                let half = |value: u128, high: bool| (if high { value >> 64 } else { value }) & low_mask(8);
                half(a, order & 1 != 0) | half(b, order & 2 != 0) << 64
            }
        };
        self.set_vector(0, value)
    }

    /// `palignr`: bytes of both operands, one behind the other, from a position on.
    fn align_right(&mut self) -> Result<(), Exit> {
        let (a, b, count) = (self.vector(0)?, self.vector(1)?, u32::from(self.immediate()));
        let value = match count {
            0 => b,
            1..16 => b >> (8 * count) | a << (128 - 8 * count),
            16..32 => a >> (8 * (count - 16)),
            _ => 0,
        };
        self.set_vector(0, value)
    }

    fn insert_float(&mut self) -> Result<(), Exit> {
        let control = self.immediate();
        let source = self.vector(1)?;
        let chosen = if self.is_memory(1) { 0 } else { u32::from(control >> 6) };
        let lane = u128::from((source >> (32 * chosen)) as u32);
        let at = 32 * u32::from(control >> 4 & 3);
        let merged = self.vector(0)? & !(low_mask(4) << at) | lane << at;
        self.set_vector(0, blend(merged, 0, 4, |lane| control >> lane & 1 != 0))
    }

    /// `mpsadbw`: eight sums of differences of a group of four bytes with a sliding window.
    fn multiple_differences(&mut self) -> Result<(), Exit> {
        let (a, b, control) =
            (self.vector(0)?.to_le_bytes(), self.vector(1)?.to_le_bytes(), self.immediate());
        let (window, group) = (usize::from(control >> 2 & 1) * 4, usize::from(control & 3) * 4);
        let sum = |lane: usize| {
            (0..4).map(|byte| u128::from(a[window + lane + byte].abs_diff(b[group + byte]))).sum::<u128>()
        };
        let value = (0..8).fold(0, |all, lane| all | sum(lane) << (16 * lane));
        self.set_vector(0, value)
    }

    /// `dpps`, `dppd`: chosen products, added in pairs, broadcast to chosen lanes.
    fn dot_product(&mut self, size: usize) -> Result<(), Exit> {
        let (a, b, control) = (self.vector(0)?, self.vector(1)?, self.immediate());
        let double = size == 8;
        let value = self.float(|| {
            let choose = |value: u128| blend(0, value, size, |lane| control >> (4 + lane) & 1 != 0);
            let (a, b) = (choose(a), choose(b));
            let chosen = choose(if double { host::mulpd(a, b) } else { host::mulps(a, b) });
            let sum = if double {
                host::addsd(chosen, chosen >> 64)
            } else {
                let pairs = host::addps(chosen, chosen >> 32);
                host::addss(pairs, pairs >> 64)
            } & low_mask(size);
            (0..16 / size).fold(0, |all, lane| {
                if control >> lane & 1 != 0 { all | sum << (lane * 8 * size) } else { all }
            })
        })?;
        self.set_vector(0, value)
    }

    /// Writes chosen bytes to `[rdi]`.
    fn mask_move(&mut self) -> Result<(), Exit> {
        let (value, mask) = (self.vector(1)?.to_le_bytes(), self.vector(2)?.to_le_bytes());
        let address = self.m.r[RDI].wrapping_add(match self.i.memory_segment() {
            Register::FS => self.m.r[usize::from(crate::machine::FS)],
            Register::GS => self.m.r[usize::from(crate::machine::GS)],
            _ => 0,
        });
        for (at, (byte, chosen)) in value.iter().zip(mask).enumerate() {
            if chosen & 0x80 != 0 {
                self.memory.store(address.wrapping_add(at as u64), *byte)?;
            }
        }
        Ok(())
    }

    fn load_control(&mut self) -> Result<(), Exit> {
        let value = self.read(0)? as u32;
        if value & !MXCSR_MASK != 0 {
            return Err(Exit::GeneralProtection);
        }
        self.m.mxcsr = value;
        host::set_float(value);
        Ok(())
    }
}

/// The low `size` bytes.
fn low_mask(size: usize) -> u128 {
    u128::MAX >> (128 - 8 * size)
}

/// Lanes of `size` bytes from `b` where chosen, from `a` elsewhere.
fn blend(a: u128, b: u128, size: usize, choose: impl Fn(usize) -> bool) -> u128 {
    (0..16 / size).fold(0, |all, lane| {
        let mask = low_mask(size) << (lane * 8 * size);
        all | (if choose(lane) { b } else { a }) & mask
    })
}

/// One bit from the top of each lane of `size` bytes.
fn sign_bits(value: u128, size: usize) -> u64 {
    (0..16 / size).fold(0, |all, lane| all | ((value >> ((lane + 1) * 8 * size - 1)) as u64 & 1) << lane)
}

/// Executes an SSE instruction; false when it is none.
pub(crate) fn execute(step: &mut Step<'_>) -> Result<bool, Exit> {
    use Mnemonic as M;
    if !host::supported() {
        return Err(Exit::Illegal);
    }
    let mnemonic = step.i.mnemonic();
    let uses_mmx = (0..step.i.op_count()).any(|n| step.i.op_register(n).is_mm());
    if uses_mmx {
        return Ok(false);
    }
    if let Some((function, is_float)) = host::vector_function(mnemonic) {
        if step.i.op_kind(1) == OpKind::Immediate8 {
            let (a, count) = (step.vector(0)?, u128::from(step.immediate()));
            step.set_vector(0, function(a, count))?;
            return Ok(true);
        }
        let (a, b) = (step.vector(0)?, step.vector(1)?);
        let value = if is_float { step.float(|| function(a, b))? } else { function(a, b) };
        step.set_vector(0, value)?;
        return Ok(true);
    }
    match mnemonic {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            step.move_vector(true)?;
        }
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => step.move_vector(false)?,
        M::Movss => step.move_scalar(4)?,
        M::Movsd => step.move_scalar(8)?,
        M::Movlps | M::Movlpd => step.move_half(0)?,
        M::Movhps | M::Movhpd | M::Movlhps => step.move_half(64)?,
        M::Movhlps => {
            let value = step.vector(0)? & !low_mask(8) | step.vector(1)? >> 64;
            step.set_vector(0, value)?;
        }
        M::Movd | M::Movq => step.move_low()?,
        M::Movnti => {
            let value = step.read(1)?;
            step.write(0, value)?;
        }
        M::Maskmovdqu => step.mask_move()?,
        M::Pmovmskb => {
            let bits = sign_bits(step.vector(1)?, 1);
            step.write(0, bits)?;
        }
        M::Movmskps => {
            let bits = sign_bits(step.vector(1)?, 4);
            step.write(0, bits)?;
        }
        M::Movmskpd => {
            let bits = sign_bits(step.vector(1)?, 8);
            step.write(0, bits)?;
        }
        M::Pshufd | M::Pshuflw | M::Pshufhw | M::Shufps | M::Shufpd => step.shuffle()?,
        M::Palignr => step.align_right()?,
        M::Pslldq => step.byte_shift(true)?,
        M::Psrldq => step.byte_shift(false)?,
        M::Pinsrb => step.insert(1)?,
        M::Pinsrw => step.insert(2)?,
        M::Pinsrd => step.insert(4)?,
        M::Pinsrq => step.insert(8)?,
        M::Pextrb => step.extract(1)?,
        M::Pextrw => step.extract(2)?,
        M::Pextrd | M::Extractps => step.extract(4)?,
        M::Pextrq => step.extract(8)?,
        M::Insertps => step.insert_float()?,
        M::Pblendvb => step.blend_variable(1)?,
        M::Blendvps => step.blend_variable(4)?,
        M::Blendvpd => step.blend_variable(8)?,
        M::Pblendw => step.blend_immediate(2)?,
        M::Blendps => step.blend_immediate(4)?,
        M::Blendpd => step.blend_immediate(8)?,
        M::Mpsadbw => step.multiple_differences()?,
        M::Dpps => step.dot_product(4)?,
        M::Dppd => step.dot_product(8)?,
        M::Ptest => {
            let (a, b) = (step.vector(0)?, step.vector(1)?);
            step.m.flags.set(u64::from(a & b == 0) << 6 | u64::from(!a & b == 0));
        }
        M::Comiss | M::Comisd | M::Ucomiss | M::Ucomisd => {
            let (a, b) = (step.vector(0)?, step.vector(1)?);
            let bits = step.float(|| host::compare(mnemonic, a, b))?;
            step.m.flags.set(bits & flag::ARITHMETIC);
        }
        M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd => {
            let (a, b, predicate) = (step.vector(0)?, step.vector(1)?, step.immediate());
            let value = step.float(|| host::compare_lanes(mnemonic, a, b, predicate))?;
            step.set_vector(0, value)?;
        }
        M::Roundps | M::Roundpd | M::Roundss | M::Roundsd => {
            let (a, b, mode) = (step.vector(0)?, step.vector(1)?, step.immediate());
            let value = step.float(|| host::round(mnemonic, a, b, mode))?;
            step.set_vector(0, value)?;
        }
        M::Cvtsi2ss | M::Cvtsi2sd => {
            let (a, value, wide) = (step.vector(0)?, step.read(1)?, step.size(1) == 8);
            let result = step.float(|| host::from_integer(a, value, wide, mnemonic == M::Cvtsi2sd))?;
            step.set_vector(0, result)?;
        }
        M::Cvtss2si | M::Cvtsd2si | M::Cvttss2si | M::Cvttsd2si => {
            let (b, wide) = (step.vector(1)?, step.size(0) == 8);
            let value = step.float(|| host::to_general(mnemonic, b, wide))?;
            step.write(0, value)?;
        }
        M::Ldmxcsr => step.load_control()?,
        M::Stmxcsr => {
            step.m.mxcsr = host::current_float(step.m.mxcsr);
            let value = step.m.mxcsr;
            step.write(0, value.into())?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
