//! Open file descriptions.

use cooper_vfs::Position;

/// One open file description.
#[derive(Debug)]
pub(crate) struct Description {
    position: Option<Position>,
}

impl Description {
    /// The name it was opened by, if it has one.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }
}
