//! Attempts that wait: the step from an object's `EAGAIN` to a call that blocks.

use std::sync::Arc;
use std::time::Instant;

use super::{Errno, FileObject, QueueRef, Readiness, Watch};
use crate::cx::Cx;
use crate::syscalls::SysError;
use crate::wait::{WaitEnd, WaitQueue};

/// Whether and how long a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all: `EAGAIN` is the answer.
    None,
    /// Until it is done or interrupted.
    Forever,
    /// Until then; `EAGAIN` at the deadline.
    Until(Instant),
}

impl Patience {
    /// What a descriptor's `O_NONBLOCK` asks for.
    pub(crate) fn of(nonblocking: bool) -> Self {
        if nonblocking { Self::None } else { Self::Forever }
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Until(deadline) => Some(deadline),
            Self::None | Self::Forever => None,
        }
    }
}

/// The earlier of two deadlines.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Makes an attempt on an object and, if need be, waits for it and for `extra` until it succeeds.
pub(crate) fn until_done<T>(
    cx: &Cx<'_>,
    object: &dyn FileObject,
    extra: Option<&Arc<Readiness>>,
    patience: Patience,
    mut attempt: impl FnMut() -> Result<T, Errno>,
) -> Result<T, SysError> {
    match attempt() {
        Err(Errno::AGAIN) if patience != Patience::None => {}
        result => return result.map_err(SysError::from),
    }
    loop {
        let mut watch = Watch::default();
        object.watch(&mut watch);
        if let Some(extra) = extra {
            watch.add(extra);
        }
        let queues: Vec<&WaitQueue> = watch.queues.iter().map(QueueRef::queue).collect();
        let until = earlier(patience.deadline(), watch.deadline);
        let result = cx.wait(&queues, until, || match attempt() {
            Err(Errno::AGAIN) => None,
            result => Some(result),
        });
        match result {
            Ok(result) => return result.map_err(SysError::from),
            Err(WaitEnd::TimedOut)
                if patience.deadline().is_none_or(|deadline| Instant::now() < deadline) => {}
            Err(end) => return Err(end.into()),
        }
    }
}
