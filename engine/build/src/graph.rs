//! The graph: what has to be done, and what needs what.
//!
//! Lowering makes a [`Graph`]; the solver works it off. A vertex is an operation on the file systems that its inputs
//! give; its result is one file system. Inputs always have smaller ids than the vertex that uses them, so a graph has
//! no cycles by construction. It never changes once it is made.

use std::collections::BTreeSet;
use std::sync::Arc;

use cooper_dockerfile::Span;

use crate::context::ContextQuery;
use crate::copy::CopyOperation;
use crate::git::GitSource;
use crate::remote::RemoteFile;
use crate::run::RunOperation;
use crate::source::ImageSource;

/// Bound on the vertices of one build.
pub const VERTICES: usize = 100_000;

/// Number of a vertex in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub usize);

/// What is to be done, immutable.
#[derive(Debug)]
pub struct Graph {
    vertices: Vec<Vertex>,
}

/// One piece of work.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// What is done.
    pub operation: Operation,
    /// The file systems it needs, in the operation's order; for all but sources the first is the one it changes.
    pub inputs: Vec<VertexId>,
    /// What the progress display calls it.
    pub name: String,
    /// The instruction it comes from.
    pub span: Option<Span>,
    /// Whether a cached result may be used.
    pub use_cache: bool,
}

/// The operations: sources, file operations and steps.
#[derive(Clone, Debug)]
pub enum Operation {
    /// The empty file system.
    Scratch,
    /// The file system of an image.
    Image(Arc<ImageSource>),
    /// The part of a context that the build uses.
    Context(Arc<ContextQuery>),
    /// A file fetched from the web.
    Remote(Arc<RemoteFile>),
    /// A commit of a git repository.
    Git(Arc<GitSource>),
    /// `COPY` and `ADD`.
    Copy(CopyOperation),
    /// The second input over the first: `COPY --link`.
    Merge,
    /// `WORKDIR`
    MakeDirectory(MakeDirectory),
    /// `RUN`
    Run(Box<RunOperation>),
}

/// Makes a directory and its missing parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeDirectory {
    /// Absolute and clean.
    pub path: String,
    /// The user that owns what is made, as `USER` says.
    pub user: String,
}

impl Graph {
    /// Starts an empty graph.
    pub fn new() -> Self {
        Self { vertices: Vec::new() }
    }

    /// Adds a vertex.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        assert!(
            vertex.inputs.iter().all(|input| input.0 < self.vertices.len()),
            "inputs are added before the vertex that uses them"
        );
        self.vertices.push(vertex);
        VertexId(self.vertices.len() - 1)
    }

    /// Replaces the query of a context, which grows while the graph is made.
    pub fn set_context(&mut self, id: VertexId, query: ContextQuery) {
        self.vertices[id.0].operation = Operation::Context(Arc::new(query));
    }

    /// A vertex.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// The vertices that `targets` need, themselves included, inputs first.
    pub fn needed(&self, targets: &[VertexId]) -> Vec<VertexId> {
        let mut needed = vec![false; self.vertices.len()];
        for target in targets {
            needed[target.0] = true;
        }
        for index in (0..needed.len()).rev() {
            if needed[index] {
                for input in &self.vertices[index].inputs {
                    needed[input.0] = true;
                }
            }
        }
        (0..needed.len()).filter(|index| needed[*index]).map(VertexId).collect()
    }
}

impl Graph {
    /// Which of the `needed` vertices, inputs first, have files that a step may read: those that a step has among its
    /// inputs, and theirs.
    pub fn read_by_steps(&self, needed: &[VertexId]) -> BTreeSet<VertexId> {
        let mut read = BTreeSet::new();
        for id in needed.iter().rev() {
            let vertex = self.vertex(*id);
            if matches!(vertex.operation, Operation::Run(_)) || read.contains(id) {
                read.extend(&vertex.inputs);
            }
        }
        read
    }
}

impl Default for Graph {
    fn default() -> Self {
        Self::new()
    }
}
