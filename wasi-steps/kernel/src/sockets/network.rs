//! What of the network outside a step may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::address::unmapped;
use crate::files::Errno;

/// Port of the domain name service.
const DNS: u16 = 53;

/// The address guests see as their own on the outside: that of a virtual machine behind address translation.
pub(crate) const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// The network of a step. Its own loopback exists in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkPolicy {
    /// Nothing outside the loopback: `ENETUNREACH`.
    None,
    /// Everything except the pod's loopback and link-local addresses, where cloud metadata services live: these are
    /// `EACCES`, as a prohibited route gives it.
    Default {
        /// Name servers that may be asked although their address is refused otherwise, as `127.0.0.53` or a
        /// node-local cache: their port 53 only.
        name_servers: Vec<IpAddr>,
    },
}

impl NetworkPolicy {
    /// Whether anything outside can be reached.
    pub(crate) fn is_outside(&self) -> bool {
        matches!(self, Self::Default { .. })
    }

    /// Whether the address is a name server that has to be asked on the host, although it looks like the loopback.
    pub(crate) fn is_name_server(&self, address: &SocketAddr) -> bool {
        let Self::Default { name_servers } = self else { return false };
        address.port() == DNS && name_servers.iter().any(|server| unmapped(*server) == unmapped(address.ip()))
    }

    /// Fails unless the address may be reached.
    pub(crate) fn check(&self, address: &SocketAddr) -> Result<(), Errno> {
        if !self.is_outside() {
            return Err(Errno::NETUNREACH);
        }
        if self.is_name_server(address) || !is_refused(unmapped(address.ip())) {
            return Ok(());
        }
        Err(Errno::ACCESS)
    }
}

/// Whether an address belongs to the pod rather than to the network: loopback, unspecified, link-local.
fn is_refused(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6 == METADATA_V6
                || embedded(v6).is_some_and(|v4| is_refused(IpAddr::V4(v4)))
        }
    }
}

/// The instance metadata service of one large cloud, which is not link-local.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The IPv4 address that an address of a translation prefix leads to: NAT64 (RFC 6052), 6to4, IPv4-compatible.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = ip.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match parts {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &NetworkPolicy, address: &str) -> Result<(), Errno> {
        policy.check(&address.parse().expect("a literal address"))
    }

    #[test]
    fn nothing_is_reachable_without_network() {
        assert_eq!(check(&NetworkPolicy::None, "192.0.2.1:80"), Err(Errno::NETUNREACH));
    }

    #[test]
    fn the_pod_and_its_metadata_service_are_refused() {
        let policy = NetworkPolicy::Default { name_servers: Vec::new() };
        for address in [
            "127.0.0.1:80",
            "169.254.169.254:80",
            "[::1]:80",
            "[fe80::1]:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[::127.0.0.1]:80",
            "[fd00:ec2::254]:80",
            "0.0.0.0:80",
        ] {
            assert_eq!(check(&policy, address), Err(Errno::ACCESS), "{address}");
        }
        for address in ["192.0.2.1:80", "10.0.0.1:443", "[2001:db8::1]:80", "[fd00::1]:80"] {
            assert_eq!(check(&policy, address), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_local_name_server_may_be_asked() {
        let name_servers = vec!["127.0.0.53".parse().expect("a literal address")];
        let policy = NetworkPolicy::Default { name_servers };
        assert_eq!(check(&policy, "127.0.0.53:53"), Ok(()));
        assert_eq!(check(&policy, "127.0.0.53:80"), Err(Errno::ACCESS));
        assert_eq!(check(&policy, "127.0.0.1:53"), Err(Errno::ACCESS));
    }
}
