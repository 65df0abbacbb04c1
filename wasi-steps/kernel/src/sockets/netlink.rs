//! `AF_NETLINK`, as far as resolvers and run-time libraries ask: the list of interfaces and addresses.
//!
//! A request (`RTM_GETLINK`, `RTM_GETADDR`, `RTM_GETROUTE`, each a dump) is answered at once into the socket's
//! mailbox; everything else gets an error message, `EOPNOTSUPP`. The interfaces are the step's own: `lo`, and `eth0`
//! where the step has a network (rtnetlink(7)).

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::address::{AF_INET, AF_NETLINK, Address};
use super::inet::InetNames;
use super::mailbox::{Ancillary, Framing, Mailbox, Peer, Received, Take, gather};
use super::network::OWN_ADDRESS;
use super::{Accepted, Common, Destination, Shutdown, Socket, SocketType};
use crate::files::transfer::HostInput;
use crate::files::{Anonymous, Errno, FileObject, Input, Kind, Output, Ready, Watch, lock};

const NETLINK_ROUTE: u32 = 0;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 2;
/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The longest request that is looked at.
const MAX_REQUEST: usize = 4096;

/// One interface of the step.
#[derive(Debug)]
pub(crate) struct Interface {
    /// Its number.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: &'static str,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// Bits of its network.
    pub(crate) prefix: u8,
    /// `IFF_*`.
    pub(crate) flags: u32,
    hardware: u16,
}

impl Interface {
    /// Largest packet.
    pub(crate) fn mtu(&self) -> u32 {
        if self.index == LOOPBACK.index { 65_536 } else { 1500 }
    }
}

const LOOPBACK: Interface = Interface {
    index: 1,
    name: "lo",
    address: Ipv4Addr::LOCALHOST,
    prefix: 8,
    flags: 0x1_0049,
    hardware: 772,
};
const ETHERNET: Interface =
    Interface { index: 2, name: "eth0", address: OWN_ADDRESS, prefix: 24, flags: 0x1_1043, hardware: 1 };

/// The interfaces a step sees.
pub(crate) fn interfaces(network: &InetNames) -> impl Iterator<Item = &'static Interface> {
    std::iter::once(&LOOPBACK).chain(network.policy.is_outside().then_some(&ETHERNET))
}

/// A route socket.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    common: Common,
    network: Arc<InetNames>,
    mailbox: Arc<Mailbox>,
    port: std::sync::Mutex<u32>,
}

impl NetlinkSocket {
    /// Makes a socket. `EPROTONOSUPPORT` for other protocols than `NETLINK_ROUTE`; `ESOCKTNOSUPPORT` for streams.
    pub(crate) fn new(
        network: &Arc<InetNames>,
        kind: SocketType,
        protocol: u32,
        creator: Peer,
    ) -> Result<Self, Errno> {
        if !matches!(kind, SocketType::Raw | SocketType::Datagram) {
            return Err(Errno::SOCKTNOSUPPORT);
        }
        if protocol != NETLINK_ROUTE {
            return Err(Errno::PROTONOSUPPORT);
        }
        Ok(Self {
            common: Common::new(AF_NETLINK, kind, protocol, creator),
            network: Arc::clone(network),
            mailbox: Mailbox::new(Framing::Packets),
            port: std::sync::Mutex::new(0),
        })
    }

    /// The port: the process's id, as the kernel gives the first socket of a process.
    fn port(&self) -> u32 {
        *lock(&self.port)
    }

    fn answer(&self, request: &[u8]) -> Result<(), Errno> {
        let Some((header, _)) = request.split_at_checked(HEADER) else { return Err(Errno::INVAL) };
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let mut reply = Reply { bytes: Vec::new(), sequence, port: self.port() };
        match kind {
            RTM_GETLINK => interfaces(&self.network).for_each(|interface| reply.link(interface)),
            RTM_GETADDR => interfaces(&self.network).for_each(|interface| reply.address(interface)),
            RTM_GETROUTE => {}
            _ => {
                reply.error(Errno::OPNOTSUPP, header);
                return self.deliver(&reply.bytes);
            }
        }
        if !reply.bytes.is_empty() {
            self.deliver(&std::mem::take(&mut reply.bytes))?;
        }
        reply.message(NLMSG_DONE, NLM_F_MULTI, &0i32.to_ne_bytes());
        self.deliver(&reply.bytes)
    }

    fn deliver(&self, bytes: &[u8]) -> Result<(), Errno> {
        let from = Some(Address::Netlink(0, 0));
        self.mailbox.put(&mut HostInput::new(bytes), from, Ancillary::default()).map(|_| ())
    }
}

/// Messages being laid out.
struct Reply {
    bytes: Vec<u8>,
    sequence: u32,
    port: u32,
}

impl Reply {
    fn message(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(self.port.to_ne_bytes());
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn error(&mut self, error: Errno, request: &[u8]) {
        let mut body = (-error.raw_os_error()).to_ne_bytes().to_vec();
        body.extend(request);
        self.message(NLMSG_ERROR, 0, &body);
    }

    fn link(&mut self, interface: &Interface) {
        const NAME: u16 = 3;
        const MTU: u16 = 4;
        let mut body = vec![0, 0];
        body.extend(interface.hardware.to_ne_bytes());
        body.extend(interface.index.to_ne_bytes());
        body.extend(interface.flags.to_ne_bytes());
        body.extend([0; 4]);
        let mut name = interface.name.as_bytes().to_vec();
        name.push(0);
        attribute(&mut body, NAME, &name);
        attribute(&mut body, MTU, &interface.mtu().to_ne_bytes());
        self.message(RTM_NEWLINK, NLM_F_MULTI, &body);
    }

    fn address(&mut self, interface: &Interface) {
        const ADDRESS: u16 = 1;
        const LOCAL: u16 = 2;
        const LABEL: u16 = 3;
        const PERMANENT: u8 = 0x80;
        let scope = if interface.index == LOOPBACK.index { 254 } else { 0 };
        let mut body = vec![AF_INET as u8, interface.prefix, PERMANENT, scope];
        body.extend(interface.index.to_ne_bytes());
        attribute(&mut body, ADDRESS, &interface.address.octets());
        attribute(&mut body, LOCAL, &interface.address.octets());
        let mut name = interface.name.as_bytes().to_vec();
        name.push(0);
        attribute(&mut body, LABEL, &name);
        self.message(RTM_NEWADDR, NLM_F_MULTI, &body);
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, data: &[u8]) {
    body.extend(((4 + data.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(data);
    body.resize(body.len().next_multiple_of(4), 0);
}

impl FileObject for NetlinkSocket {
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        self.receive(output, Take::Consume).map(|received| received.count)
    }

    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        self.send(input, &Destination::Peer, Ancillary::default())
    }

    fn poll(&self) -> Ready {
        if self.mailbox.is_readable() { Ready::READABLE | Ready::WRITABLE } else { Ready::WRITABLE }
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(self.mailbox.changed());
    }

    fn readable_bytes(&self) -> Option<u64> {
        Some(self.mailbox.readable_bytes())
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(self.common.anonymous())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Socket(self)
    }
}

impl Socket for NetlinkSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    /// Joining groups is accepted: the interfaces never change, so there is never anything to tell.
    fn bind(&self, address: &Address) -> Result<(), Errno> {
        let Address::Netlink(port, _) = address else { return Err(Errno::INVAL) };
        *lock(&self.port) = if *port == 0 { self.common.creator.pid } else { *port };
        Ok(())
    }

    fn listen(&self, _backlog: i32) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn accept(&self, _acceptor: Peer) -> Result<Accepted, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn connect(&self, _to: &Destination, _caller: Peer) -> Result<(), Errno> {
        Ok(())
    }

    fn send(&self, input: &mut dyn Input, _to: &Destination, _ancillary: Ancillary) -> Result<usize, Errno> {
        let length = input.remaining();
        if length > MAX_REQUEST {
            return Err(Errno::MSGSIZE);
        }
        let request = gather(input, length)?;
        self.answer(&request)?;
        Ok(length)
    }

    fn receive(&self, output: &mut dyn Output, how: Take) -> Result<Received, Errno> {
        self.mailbox.take(output, how)
    }

    fn shutdown(&self, _halves: Shutdown) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn name(&self) -> Address {
        Address::Netlink(self.port(), 0)
    }

    fn peer_name(&self) -> Result<Address, Errno> {
        Ok(Address::Netlink(0, 0))
    }

    fn is_listening(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::HostPoller;
    use super::super::network::NetworkPolicy;
    use super::*;
    use crate::files::transfer::HostOutput;

    fn ask(policy: NetworkPolicy, kind: u16) -> Vec<Vec<u8>> {
        let network = Arc::new(InetNames::new(policy, HostPoller::default()));
        let socket =
            NetlinkSocket::new(&network, SocketType::Raw, 0, Peer::default()).expect("route sockets exist");
        let mut request = 20u32.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend([1, 3, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(socket.write(&mut HostInput::new(&request), 0), Ok(20));
        let mut packets = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(count) = socket.read(&mut HostOutput::new(&mut buffer), 0) {
            packets.push(buffer[..count].to_vec());
        }
        packets
    }

    fn kind(packet: &[u8]) -> u16 {
        u16::from_ne_bytes([packet[4], packet[5]])
    }

    #[test]
    fn addresses_are_dumped_and_the_dump_ends() {
        let packets = ask(NetworkPolicy::None, RTM_GETADDR);
        assert_eq!(packets.iter().map(|packet| kind(packet)).collect::<Vec<_>>(), [RTM_NEWADDR, NLMSG_DONE]);
        assert_eq!(packets[0][..4], (packets[0].len() as u32).to_ne_bytes());
        assert_eq!((packets[0][8], packets[0][16], packets[0][17]), (7, AF_INET as u8, 8));
        assert_eq!(packets[0][24..32], [8, 0, 1, 0, 127, 0, 0, 1]);
        let both = ask(NetworkPolicy::Default { name_servers: Vec::new() }, RTM_GETADDR);
        assert_eq!(both[0].len(), packets[0].len() * 2 + 4);
    }

    #[test]
    fn other_requests_are_errors() {
        let packets = ask(NetworkPolicy::None, 16);
        assert_eq!(packets.len(), 1);
        assert_eq!(kind(&packets[0]), NLMSG_ERROR);
        assert_eq!(packets[0][16..20], (-Errno::OPNOTSUPP.raw_os_error()).to_ne_bytes());
    }
}
