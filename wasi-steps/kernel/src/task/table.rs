//! The process table: who exists, and who belongs to whom.
//!
//! A [`Node`] is there from `fork` until the process was waited for. Parents, children, process groups and sessions
//! are ids, looked up under the table's one lock; what a process does by itself needs no lock of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cooper_vfs::Errno;

use super::{ExitStatus, Process, Task};

/// Process ids start again below this number, as with Linux's default `pid_max`.
const MAX_PID: u32 = 32768;
/// Where they start again.
const FIRST_REUSED_PID: u32 = 300;

/// A change of state that the parent has not been told of by `wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Stopped by this signal.
    Stopped(u32),
    /// Went on after `SIGCONT`.
    Continued,
}

/// A process in the table.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) process: Arc<Process>,
    pub(crate) parent: u32,
    pub(crate) children: BTreeSet<u32>,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// Set when the last thread has left.
    pub(crate) zombie: Option<ExitStatus>,
    /// Sent to the parent at the end; 0 for none.
    pub(crate) exit_signal: u32,
    pub(crate) report: Option<Report>,
    /// User that `SIGCHLD` names.
    pub(crate) uid: u32,
}

/// All processes and tasks of a step.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) processes: BTreeMap<u32, Node>,
    pub(crate) tasks: BTreeMap<u32, Arc<Task>>,
    last: u32,
    /// Set when the first process has ended: no new process comes to be.
    pub(crate) ending: bool,
}

impl Table {
    /// Gives an id that no process, task, group or session has. `EAGAIN` when there is none.
    pub(crate) fn allocate(&mut self) -> Result<u32, Errno> {
        for _ in 0..MAX_PID {
            self.last = if self.last + 1 >= MAX_PID { FIRST_REUSED_PID } else { self.last + 1 };
            if !self.is_used(self.last) {
                return Ok(self.last);
            }
        }
        Err(Errno::AGAIN)
    }

    fn is_used(&self, id: u32) -> bool {
        self.processes.contains_key(&id)
            || self.tasks.contains_key(&id)
            || self.processes.values().any(|node| node.group == id || node.session == id)
    }

    /// The process with this id, zombies included.
    pub(crate) fn process(&self, pid: u32) -> Option<&Node> {
        self.processes.get(&pid)
    }

    /// The members of a process group.
    pub(crate) fn group(&self, group: u32) -> impl Iterator<Item = &Node> {
        self.processes.values().filter(move |node| node.group == group)
    }

    /// Adds a process and makes it a child of its parent.
    pub(crate) fn insert(&mut self, node: Node) {
        let pid = node.process.pid();
        if let Some(parent) = self.processes.get_mut(&node.parent) {
            parent.children.insert(pid);
        }
        self.processes.insert(pid, node);
    }

    /// Removes a zombie that was waited for.
    pub(crate) fn remove(&mut self, pid: u32) -> Option<Node> {
        let node = self.processes.remove(&pid)?;
        if let Some(parent) = self.processes.get_mut(&node.parent) {
            parent.children.remove(&pid);
        }
        Some(node)
    }

    /// Whether no member of the group has a parent in another group of the same session, so that nobody can continue
    /// it after a stop.
    pub(crate) fn is_orphaned(&self, group: u32) -> bool {
        !self.group(group).filter(|node| node.zombie.is_none()).any(|node| {
            self.process(node.parent).is_some_and(|parent| {
                parent.group != group && parent.session == node.session && node.parent != node.process.pid()
            })
        })
    }

    /// How many tasks there are.
    pub(crate) fn task_count(&self) -> usize {
        self.tasks.len()
    }
}
