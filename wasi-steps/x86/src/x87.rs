//! The x87 unit, and the instructions that save and restore it together with SSE.

use iced_x86::Mnemonic;

use crate::general::Step;
use crate::host;
use crate::interpreter::Exit;
use crate::state::{CpuState, MXCSR_MASK};

/// Bytes of an FXSAVE image that the processor writes; the rest stays as it was.
const SAVED_BYTES: usize = 416;

impl Step<'_> {
    fn image_address(&self) -> Result<u64, Exit> {
        let address = self.address();
        if address % 16 == 0 { Ok(address) } else { Err(Exit::GeneralProtection) }
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
}

/// Executes an x87 instruction; false when it is none.
pub(crate) fn execute(step: &mut Step<'_>) -> Result<bool, Exit> {
    match step.i.mnemonic() {
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => step.save_image()?,
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => step.restore_image()?,
        _ => return Ok(false),
    }
    Ok(true)
}
