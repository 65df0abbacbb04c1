//! Socket addresses as programs pass them: `struct sockaddr` in its Linux layouts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::files::Errno;

/// `AF_UNSPEC`.
pub(crate) const AF_UNSPEC: u16 = 0;
/// `AF_UNIX`.
pub(crate) const AF_UNIX: u16 = 1;
/// `AF_INET`.
pub(crate) const AF_INET: u16 = 2;
/// `AF_INET6`.
pub(crate) const AF_INET6: u16 = 10;
/// `AF_NETLINK`.
pub(crate) const AF_NETLINK: u16 = 16;

/// Size of `struct sockaddr_storage`: no address is longer.
pub(crate) const MAX_ADDRESS: usize = 128;

/// Size of `sun_path`.
const UNIX_PATH: usize = 108;

/// A socket address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `AF_UNSPEC`: dissolves the association of a datagram socket.
    Unspecified,
    /// `AF_UNIX`.
    Unix(UnixName),
    /// `AF_INET` and `AF_INET6`.
    Inet(SocketAddr),
    /// `AF_NETLINK`: port and group mask.
    Netlink(u32, u32),
}

/// The name of an `AF_UNIX` socket (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum UnixName {
    /// Not bound.
    Unnamed,
    /// A path of the file system.
    Path(Vec<u8>),
    /// A name outside the file system, without its leading NUL.
    Abstract(Vec<u8>),
}

impl Address {
    /// Reads a `struct sockaddr`.
    ///
    /// `EINVAL` when it is too short for its family or too long; `EAFNOSUPPORT` for families nobody implements.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let [low, high, rest @ ..] = bytes else { return Err(Errno::INVAL) };
        let family = u16::from_ne_bytes([*low, *high]);
        match family {
            AF_UNSPEC => Ok(Self::Unspecified),
            AF_UNIX => UnixName::decode(rest).map(Self::Unix),
            AF_INET => {
                let [p0, p1, a, b, c, d, ..] = rest else { return Err(Errno::INVAL) };
                if bytes.len() < 16 {
                    return Err(Errno::INVAL);
                }
                let ip = Ipv4Addr::new(*a, *b, *c, *d);
                Ok(Self::Inet(SocketAddrV4::new(ip, u16::from_be_bytes([*p0, *p1])).into()))
            }
            AF_INET6 => {
                // Without the scope id it is still valid (RFC 2133 layout, 24 bytes).
                if bytes.len() < 24 {
                    return Err(Errno::INVAL);
                }
                let port = u16::from_be_bytes([rest[0], rest[1]]);
                let flow = u32::from_be_bytes([rest[2], rest[3], rest[4], rest[5]]);
                let ip = <[u8; 16]>::try_from(&rest[6..22]).map_err(|_| Errno::INVAL)?;
                let scope = rest.get(22..26).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                Ok(Self::Inet(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into()))
            }
            AF_NETLINK => {
                let Some(fields) = rest.get(2..10) else { return Err(Errno::INVAL) };
                let word = |at: usize| {
                    u32::from_ne_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]])
                };
                Ok(Self::Netlink(word(0), word(4)))
            }
            _ => Err(Errno::AFNOSUPPORT),
        }
    }

    /// Writes the `struct sockaddr`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Unspecified => AF_UNSPEC.to_ne_bytes().to_vec(),
            Self::Unix(name) => name.encode(),
            Self::Inet(SocketAddr::V4(address)) => {
                let mut bytes = AF_INET.to_ne_bytes().to_vec();
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.resize(16, 0);
                bytes
            }
            Self::Inet(SocketAddr::V6(address)) => {
                let mut bytes = AF_INET6.to_ne_bytes().to_vec();
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.flowinfo().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.extend(address.scope_id().to_ne_bytes());
                bytes
            }
            Self::Netlink(port, groups) => {
                let mut bytes = AF_NETLINK.to_ne_bytes().to_vec();
                bytes.extend([0, 0]);
                bytes.extend(port.to_ne_bytes());
                bytes.extend(groups.to_ne_bytes());
                bytes
            }
        }
    }
}

impl UnixName {
    fn decode(path: &[u8]) -> Result<Self, Errno> {
        match path {
            _ if path.len() > UNIX_PATH => Err(Errno::INVAL),
            [] => Ok(Self::Unnamed),
            [0, name @ ..] => Ok(Self::Abstract(name.to_vec())),
            _ => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                Ok(Self::Path(path[..end].to_vec()))
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = AF_UNIX.to_ne_bytes().to_vec();
        match self {
            Self::Unnamed => {}
            Self::Path(path) => {
                bytes.extend(path);
                bytes.push(0);
            }
            Self::Abstract(name) => {
                bytes.push(0);
                bytes.extend(name);
            }
        }
        bytes
    }
}

/// Returns the IPv4 address an IPv6 one stands for, or the address itself.
pub(crate) fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Whether the address belongs to the step's own loopback: `127.0.0.0/8`, `::1` and the unspecified addresses,
/// which Linux connects to itself.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    let ip = unmapped(ip);
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        let inet = |text: &str| Address::Inet(text.parse().expect("a literal address"));
        for address in [
            Address::Unspecified,
            Address::Unix(UnixName::Unnamed),
            Address::Unix(UnixName::Path(b"/run/x".to_vec())),
            Address::Unix(UnixName::Abstract(b"a\0b".to_vec())),
            inet("192.0.2.1:80"),
            inet("[2001:db8::1]:443"),
            Address::Netlink(7, 1),
        ] {
            assert_eq!(Address::decode(&address.encode()), Ok(address));
        }
    }

    #[test]
    fn layouts_are_those_of_linux() {
        let inet = Address::Inet("192.0.2.1:80".parse().expect("a literal address"));
        assert_eq!(inet.encode(), [2, 0, 0, 80, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Address::Unix(UnixName::Path(b"/a".to_vec())).encode(), [1, 0, b'/', b'a', 0]);
        assert_eq!(Address::Inet("[::1]:80".parse().expect("a literal address")).encode().len(), 28);
    }

    #[test]
    fn short_and_foreign_addresses_are_refused() {
        assert_eq!(Address::decode(&[]), Err(Errno::INVAL));
        assert_eq!(Address::decode(&[2, 0, 0, 80, 1, 2, 3, 4]), Err(Errno::INVAL));
        assert_eq!(Address::decode(&[10, 0, 0, 0, 0]), Err(Errno::INVAL));
        assert_eq!(Address::decode(&[1; 112]), Err(Errno::AFNOSUPPORT));
        let mut long = vec![1, 0];
        long.resize(2 + UNIX_PATH + 1, b'a');
        assert_eq!(Address::decode(&long), Err(Errno::INVAL));
    }

    #[test]
    fn own_addresses_include_mapped_and_unspecified_ones() {
        let own = |text: &str| is_own(text.parse().expect("a literal address"));
        assert!(own("127.3.2.1") && own("::1") && own("::ffff:127.0.0.1") && own("0.0.0.0") && own("::"));
        assert!(!own("10.0.0.1") && !own("fe80::1") && !own("::ffff:10.0.0.1"));
    }
}
