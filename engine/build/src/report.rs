//! What a build tells while it runs.
//!
//! The solver and the sources send [`Event`]s to a [`Reporter`]; how they are shown, and what the time is, is the
//! receiver's matter. Events carry no secrets.

use std::fmt;

use crate::graph::VertexId;
use crate::step::OutputStream;

/// Receives events, from several threads at once.
pub trait Reporter: Send + Sync + fmt::Debug {
    /// Takes one event. It must not block for long: the build waits.
    fn event(&self, event: Event<'_>);
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The graph is made; these vertices may run.
    Planned {
        /// Id and name of each.
        vertices: &'a [(VertexId, String)],
    },
    /// A vertex is being worked on.
    Started {
        /// Which.
        vertex: VertexId,
    },
    /// Part of what a vertex has done: bytes or files.
    Progress {
        /// Which.
        vertex: VertexId,
        /// What is counted: a layer's digest, `files`, `bytes`.
        what: &'a str,
        /// So far.
        current: u64,
        /// In all, when it is known.
        total: Option<u64>,
    },
    /// A step wrote something.
    Output {
        /// Which.
        vertex: VertexId,
        /// Where it wrote.
        stream: OutputStream,
        /// What it wrote.
        bytes: &'a [u8],
    },
    /// A remark on a vertex: why it is not in the cache.
    VertexNote {
        /// Which.
        vertex: VertexId,
        /// What is to be said.
        text: &'a str,
    },
    /// A vertex is done.
    Finished {
        /// Which.
        vertex: VertexId,
        /// How.
        how: Finish,
    },
    /// A phase outside of the graph (loading, exporting) began.
    PhaseStarted {
        /// Its name.
        name: &'a str,
    },
    /// A remark on the running phase.
    PhaseNote {
        /// The phase.
        name: &'a str,
        /// What is to be said.
        text: &'a str,
    },
    /// Bytes moved in a phase.
    PhaseProgress {
        /// The phase.
        name: &'a str,
        /// What moves.
        what: &'a str,
        /// So far.
        current: u64,
        /// In all, when it is known.
        total: Option<u64>,
    },
    /// A phase ended.
    PhaseFinished {
        /// Its name.
        name: &'a str,
        /// How.
        how: Finish,
    },
    /// Something the user should know that does not fail the build, rendered.
    Warning {
        /// The text, perhaps with Dockerfile lines.
        text: &'a str,
    },
}

/// How a vertex ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It was in the cache.
    Cached,
    /// It was done.
    Done,
    /// It failed; the build's error says why.
    Failed,
    /// The build ended before it was.
    Cancelled,
}

impl Finish {
    /// How something with this result ended.
    pub fn of<T>(result: &crate::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(error) if error.fault() == crate::Fault::Cancelled => Self::Cancelled,
            Err(_) => Self::Failed,
        }
    }
}

/// Does something as a phase of the build.
pub fn phase<T>(
    reporter: &dyn Reporter,
    name: &str,
    work: impl FnOnce() -> crate::Result<T>,
) -> crate::Result<T> {
    reporter.event(Event::PhaseStarted { name });
    let result = work();
    reporter.event(Event::PhaseFinished { name, how: Finish::of(&result) });
    result
}

/// Says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Reporter for Silent {
    fn event(&self, _event: Event<'_>) {}
}
