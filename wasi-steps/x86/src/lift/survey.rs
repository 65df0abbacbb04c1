//! What of a function is left to the interpreter.

use iced_x86::Mnemonic;

use super::{FunctionBounds, Refusal, Unit, function};

/// An instruction that the interpreter runs, always or when its operands ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where it is.
    pub unit_address: u32,
    /// What it is.
    pub mnemonic: Mnemonic,
    /// How many loops it is in.
    pub loops: usize,
}

/// The instructions of a function that are left to the interpreter.
///
/// # Errors
/// Why the function is not translated.
pub fn survey(unit: &Unit<'_>, bounds: FunctionBounds) -> Result<Vec<Left>, Refusal> {
    function::lift(unit.image, bounds, unit.extra_entries)?;
    let left = function::left(unit.image, bounds)?;
    Ok(left
        .into_iter()
        .map(|(instruction, loops)| Left {
            unit_address: instruction.ip() as u32,
            mnemonic: instruction.mnemonic(),
            loops,
        })
        .collect())
}
