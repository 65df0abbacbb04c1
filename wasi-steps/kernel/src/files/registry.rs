//! What the files of one step share: locks, names of local sockets, the host's poller, the network, terminals.

use std::sync::Arc;

use crate::devices::stdio::OutputBudget;
use crate::locks::LockTable;
use crate::sockets::host::HostPoller;
use crate::sockets::inet::InetNames;
use crate::sockets::network::NetworkPolicy;
use crate::sockets::unix::UnixNames;
use crate::terminal::Terminals;

/// State of a step that belongs to no single file.
#[derive(Debug)]
pub(crate) struct Registry {
    /// `flock` and `fcntl` locks.
    pub(crate) locks: Arc<LockTable>,
    /// Bound local sockets.
    pub(crate) unix: UnixNames,
    /// Bound network sockets, the policy and the poller of host sockets.
    pub(crate) inet: Arc<InetNames>,
    /// Bytes the step may write to its standard streams.
    pub(crate) output: Arc<OutputBudget>,
    /// Pseudo terminals.
    pub(crate) terminals: Terminals,
}

impl Registry {
    /// Makes the state of a step that has opened nothing.
    pub(crate) fn new(network: NetworkPolicy, output_bytes: u64) -> Self {
        Self {
            locks: Arc::new(LockTable::new()),
            unix: UnixNames::default(),
            inet: Arc::new(InetNames::new(network, HostPoller::default())),
            output: Arc::new(OutputBudget::new(output_bytes)),
            terminals: Terminals::default(),
        }
    }
}
