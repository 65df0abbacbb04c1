//! A command's failure: what is shown, and the exit code.

use cooper_build::{Error, Fault};
use cooper_dockerfile::Style;

/// Exit code of our own bugs.
pub(crate) const BUG: u8 = 70;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the engine.
    Engine(Error),
    /// The same with an exit code of the command's own.
    Coded(Error, u8),
}

impl Failure {
    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Engine(Error::new(Fault::Usage, message))
    }

    /// A flag or value that this version does not have.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self::usage(format!("{what} is not supported yet"))
    }

    /// What stderr gets.
    pub(crate) fn text(&self) -> String {
        let (Self::Engine(error) | Self::Coded(error, _)) = self;
        error.render(style())
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Engine(error) => error.fault().exit_code(),
            Self::Coded(_, code) => *code,
        }
    }
}

/// Colours only where somebody sees them.
pub(crate) fn style() -> Style {
    use std::io::IsTerminal;
    let wanted = crate::environment::variable("NO_COLOR").is_none();
    if wanted && std::io::stderr().is_terminal() { Style::Color } else { Style::Plain }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<cooper_image::Error> for Failure {
    fn from(error: cooper_image::Error) -> Self {
        Self::Engine(error.into())
    }
}
