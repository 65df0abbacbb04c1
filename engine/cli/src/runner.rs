//! Where steps are run: the plug for the solver's socket.

use std::path::Path;
use std::process::ExitCode;

use cooper_build::step::{CancelToken, StepError, StepOutcome, StepOutput, StepRequest, StepRunner};

use crate::failure::Failure;

/// The runner for the store at `path`.
pub(crate) fn runner(path: &Path) -> Result<Box<dyn StepRunner>, Failure> {
    let _ = path;
    Ok(Box::new(NoSandbox))
}

/// The process of one step, in which `cooper step` ends up.
pub(crate) fn step() -> ExitCode {
    crate::complain("error: this binary has no sandbox for steps");
    ExitCode::from(crate::failure::BUG)
}

/// Refuses every step.
#[derive(Debug)]
struct NoSandbox;

impl StepRunner for NoSandbox {
    fn run(
        &self,
        _: &StepRequest,
        _: &mut dyn StepOutput,
        _: &CancelToken,
    ) -> Result<StepOutcome, StepError> {
        Err(StepError::Unsupported("a sandbox to run in: this binary was built without it,".to_owned()))
    }
}
