//! Network sockets.
use super::host::HostPoller;
use super::network::NetworkPolicy;

/// stub
#[derive(Debug)]
pub(crate) struct InetNames {
    pub(crate) policy: NetworkPolicy,
    pub(crate) poller: HostPoller,
}

impl InetNames {
    /// stub
    pub(crate) fn new(policy: NetworkPolicy, poller: HostPoller) -> Self {
        Self { policy, poller }
    }
}
