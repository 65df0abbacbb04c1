//! The x87 unit, and the instructions that save and restore it together with SSE.
//!
//! Arithmetic is the host unit's ([`host_x87`]); control words, environments and what happens to unmasked exceptions
//! are here. An unmasked exception is raised at the next waiting instruction, as the hardware does, but the
//! instruction that caused it has stored its masked result.

use iced_x86::{Mnemonic, OpKind};

use crate::general::Step;
use crate::host;
use crate::host_x87::{self, IMAGE, Operand, Unit};
use crate::interpreter::Exit;
use crate::state::{CpuState, MXCSR_MASK, X87, flag};

/// Bytes of an FXSAVE image that the processor writes; the rest stays as it was.
const SAVED_BYTES: usize = 416;
/// Exception masks of the control word, exception flags of the status word.
const EXCEPTIONS: u16 = 0x3f;
/// Status: an unmasked exception is pending, and the copy of that bit.
const SUMMARY: u16 = 1 << 7 | 1 << 15;
/// Control: a bit that reads as one.
const CONTROL_RESERVED: u16 = 0x40;
/// Length of an environment: what FNSAVE writes without the registers.
const ENVIRONMENT: usize = 28;

/// The tag of a register in two bits: valid, zero, special, empty.
fn full_tag(value: u128, used: bool) -> u16 {
    if !used {
        return 3;
    }
    let (exponent, significand) = ((value >> 64) as u16 & 0x7fff, value as u64);
    match (exponent, significand) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        (_, significand) if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

impl X87 {
    /// The state in the format of FNSAVE.
    fn to_image(self) -> [u8; IMAGE] {
        let mut image = [0; IMAGE];
        let tags = (0..8).fold(0, |tags, index| {
            tags | full_tag(self.registers[index], self.tag >> index & 1 != 0) << (2 * index)
        });
        for (at, word) in [(0, self.control), (4, self.status), (8, tags)] {
            image[at..at + 2].copy_from_slice(&word.to_le_bytes());
            image[at + 2..at + 4].copy_from_slice(&[0xff, 0xff]);
        }
        for index in 0..8 {
            let value = self.registers[(self.top() + index) & 7].to_le_bytes();
            image[ENVIRONMENT + 10 * index..][..10].copy_from_slice(&value[..10]);
        }
        image
    }

    /// Takes control, status and tags from the first bytes of an FNSAVE image.
    fn set_environment(&mut self, image: &[u8]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        self.control = word(0) | CONTROL_RESERVED;
        self.status = word(4);
        let tags = word(8);
        self.tag = (0..8).fold(0, |all, index| all | u8::from(tags >> (2 * index) & 3 != 3) << index);
    }

    /// Takes everything from an FNSAVE image.
    fn set_image(&mut self, image: &[u8; IMAGE]) {
        self.set_environment(image);
        for index in 0..8 {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&image[ENVIRONMENT + 10 * index..][..10]);
            self.registers[(self.top() + index) & 7] = u128::from_le_bytes(bytes);
        }
    }

    /// Moves the top of the stack.
    pub(crate) fn set_top(&mut self, top: u16) {
        self.status = self.status & !(7 << 11) | top << 11;
    }

    /// Makes the summary bits agree with the flags and masks.
    fn update_summary(&mut self) {
        let pending = self.status & !self.control & EXCEPTIONS != 0;
        self.status = self.status & !SUMMARY | if pending { SUMMARY } else { 0 };
    }
}

impl Step<'_> {
    fn image_address(&self) -> Result<u64, Exit> {
        let address = self.address();
        if address.is_multiple_of(16) { Ok(address) } else { Err(Exit::GeneralProtection) }
    }

    fn save_image(&mut self) -> Result<(), Exit> {
        let address = self.image_address()?;
        self.m.mxcsr = host::current_float(self.m.mxcsr);
        let mut state = CpuState::at_entry(0, 0);
        self.m.store(&mut state);
        Ok(self.memory.write(address, &state.fxsave()[..SAVED_BYTES]).map_err(|fault| fault.fault)?)
    }

    fn restore_image(&mut self) -> Result<(), Exit> {
        let address = self.image_address()?;
        let mut image = [0; 512];
        self.memory.read(address, &mut image).map_err(|fault| fault.fault)?;
        if u32::from_le_bytes([image[24], image[25], image[26], image[27]]) & !MXCSR_MASK != 0 {
            return Err(Exit::GeneralProtection);
        }
        let mut state = CpuState::at_entry(0, 0);
        state.fxrstor(&image);
        (self.m.xmm, self.m.mxcsr, self.m.x87) = (state.xmm, state.mxcsr, state.x87);
        host::set_float(self.m.mxcsr);
        Ok(())
    }

    /// Writes the first `length` bytes of the FNSAVE image.
    fn save_environment(&mut self, length: usize) -> Result<(), Exit> {
        let image = self.m.x87.to_image();
        Ok(self.memory.write(self.address(), &image[..length]).map_err(|fault| fault.fault)?)
    }

    fn load_environment(&mut self, length: usize) -> Result<(), Exit> {
        let mut image = [0; IMAGE];
        self.memory.read(self.address(), &mut image[..length]).map_err(|fault| fault.fault)?;
        if length == IMAGE {
            self.m.x87.set_image(&image);
        } else {
            self.m.x87.set_environment(&image);
        }
        self.m.x87.update_summary();
        Ok(())
    }

    /// Waiting instructions raise an exception that is pending.
    pub(crate) fn wait(&self) -> Result<(), Exit> {
        if self.m.x87.status & SUMMARY & 0xff != 0 { Err(Exit::FloatingPoint) } else { Ok(()) }
    }

    /// Executes an instruction of the host's unit.
    fn compute(&mut self, operand: Operand) -> Result<(), Exit> {
        self.wait()?;
        let before = self.m.x87;
        let masked = X87 { control: before.control | EXCEPTIONS, ..before };
        let flags = self.m.flags.bits();
        let mut unit = Unit { image: masked.to_image(), operand: [0; 16], flags };
        if let Operand::Load(size) = operand {
            self.memory.read(self.address(), &mut unit.operand[..size]).map_err(|fault| fault.fault)?;
        }
        host_x87::execute(&mut unit, self.i.code(), self.stack_index());
        if let Operand::Store(size) = operand {
            self.memory.write(self.address(), &unit.operand[..size]).map_err(|fault| fault.fault)?;
        }
        self.m.x87.set_image(&unit.image);
        self.m.x87.control = before.control;
        self.m.x87.update_summary();
        if unit.flags != flags {
            self.m.flags.set(unit.flags & flag::ARITHMETIC);
        }
        Ok(())
    }

    /// The number of the stack register that is named besides the top.
    fn stack_index(&self) -> usize {
        (0..self.i.op_count())
            .filter(|n| self.i.op_kind(*n) == OpKind::Register)
            .map(|n| self.i.op_register(n))
            .filter(|register| register.is_st())
            .map(|register| register.number())
            .max()
            .unwrap_or(0)
    }
}

/// Executes an x87 instruction; false when it is none.
pub(crate) fn execute(step: &mut Step<'_>) -> Result<bool, Exit> {
    use Mnemonic as M;
    if let Some(operand) = host_x87::operand(step.i.code()) {
        step.compute(operand)?;
        return Ok(true);
    }
    match step.i.mnemonic() {
        M::Fxsave | M::Fxsave64 => step.save_image()?,
        M::Fxrstor | M::Fxrstor64 => step.restore_image()?,
        M::Wait => step.wait()?,
        M::Fnstenv | M::Fstenv => {
            step.save_environment(ENVIRONMENT)?;
            step.m.x87.control |= EXCEPTIONS;
            step.m.x87.update_summary();
        }
        M::Fnsave | M::Fsave => {
            step.save_environment(IMAGE)?;
            step.m.x87 = X87 { registers: step.m.x87.registers, ..X87::INITIAL };
        }
        M::Fldenv => step.load_environment(ENVIRONMENT)?,
        M::Frstor => step.load_environment(IMAGE)?,
        M::Fldcw => {
            step.wait()?;
            step.m.x87.control = step.read(0)? as u16 & 0x1f3f | CONTROL_RESERVED;
            step.m.x87.update_summary();
        }
        M::Fnstcw | M::Fstcw => {
            let control = step.m.x87.control;
            step.write(0, control.into())?;
        }
        M::Fnstsw | M::Fstsw => {
            let status = step.m.x87.status;
            step.write(0, status.into())?;
        }
        M::Fnclex | M::Fclex => step.m.x87.status &= !(SUMMARY | EXCEPTIONS | 0x40),
        M::Fninit | M::Finit => {
            step.m.x87 = X87 { registers: step.m.x87.registers, ..X87::INITIAL };
        }
        M::Fneni | M::Feni | M::Fndisi | M::Fdisi | M::Fnsetpm | M::Fsetpm => {}
        M::Emms => {
            step.m.x87.tag = 0;
            step.m.x87.set_top(0);
        }
        _ => return Ok(false),
    }
    Ok(true)
}
