//! `AF_INET` and `AF_INET6` sockets.
//!
//! A step has a loopback of its own: ports are entries of a table here, and a connection to `127.0.0.0/8`, `::1` or
//! the step's own address is two sockets that know each other's mailbox, as with local sockets. A socket that talks
//! to any other address gets a host socket, made when the first such address is used and allowed by the
//! [`NetworkPolicy`]. A datagram socket may have both: it receives from whichever has something.
//!
//! What must hold: nothing ever listens on the host, so nothing outside reaches into a step; the addresses guests
//! see are the step's own, never the pod's. Locks: the table of ports, then a socket's state, then mailboxes.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::address::{AF_INET, AF_INET6, Address, is_own, unmapped};
use super::host::{HostPoller, HostSocket};
use super::mailbox::{Ancillary, Mailbox, Peer, Received, Take};
use super::network::{NetworkPolicy, OWN_ADDRESS};
use super::unix::MAX_BACKLOG;
use super::{Accepted, Common, Destination, Shutdown, Socket, SocketType};
use crate::files::{Anonymous, Errno, FileObject, Input, Kind, Output, Ready, Watch, lock};

/// Ports that `bind` with port 0 and `connect` choose from (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: std::ops::Range<u16> = 32_768..61_000;

/// `SO_REUSEADDR`.
const REUSE_ADDRESS: (i32, i32) = (1, 2);
/// `SO_REUSEPORT`.
const REUSE_PORT: (i32, i32) = (1, 15);
/// `IPV6_V6ONLY`.
const V6_ONLY: (i32, i32) = (41, 26);

/// The network of a step.
#[derive(Debug)]
pub(crate) struct InetNames {
    /// What of the outside may be reached.
    pub(crate) policy: NetworkPolicy,
    /// Watches host sockets.
    pub(crate) poller: Arc<HostPoller>,
    ports: Mutex<Ports>,
}

/// What a socket is bound to besides its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    ip: IpAddr,
    /// `IPV6_V6ONLY` when it was bound: the unspecified address then means IPv6 only.
    only_v6: bool,
}

impl Bound {
    /// Whether it takes what is sent to `ip` because it takes everything.
    fn accepts_all(self, ip: IpAddr) -> bool {
        match self.ip {
            // A socket of IPv6 takes IPv4 too, unless it was told not to.
            IpAddr::V6(v6) => v6.is_unspecified() && (ip.is_ipv6() || !self.only_v6),
            IpAddr::V4(v4) => v4.is_unspecified() && ip.is_ipv4(),
        }
    }

    /// Whether there is an address that both take.
    fn overlaps(self, other: Self) -> bool {
        self.ip == other.ip || self.accepts_all(other.ip) || other.accepts_all(self.ip)
    }
}

/// The sockets that share a port.
type Holders = Vec<(Bound, Weak<InetCore>)>;

#[derive(Debug)]
struct Ports {
    bound: HashMap<(SocketType, u16), Holders>,
    next: u16,
}

impl InetNames {
    /// A network without sockets.
    pub(crate) fn new(policy: NetworkPolicy, poller: HostPoller) -> Self {
        Self {
            policy,
            poller: Arc::new(poller),
            ports: Mutex::new(Ports { bound: HashMap::new(), next: EPHEMERAL.start }),
        }
    }
}

impl Ports {
    fn holders(&mut self, kind: SocketType, port: u16) -> &mut Holders {
        let holders = self.bound.entry((kind, port)).or_default();
        holders.retain(|(_, socket)| socket.strong_count() > 0);
        holders
    }

    fn free_port(&mut self, kind: SocketType) -> Result<u16, Errno> {
        for _ in EPHEMERAL {
            self.next = if self.next + 1 >= EPHEMERAL.end { EPHEMERAL.start } else { self.next + 1 };
            let port = self.next;
            if self.holders(kind, port).is_empty() {
                return Ok(port);
            }
        }
        Err(Errno::ADDRINUSE)
    }

    /// Finds the socket that an address of the step reaches: one bound to it, else one bound to all addresses.
    fn find(&mut self, kind: SocketType, to: &SocketAddr) -> Option<Arc<InetCore>> {
        let ip = reached(unmapped(to.ip()));
        let holders = self.holders(kind, to.port());
        let exact = holders.iter().filter(|(bound, _)| bound.ip == ip);
        let open = holders.iter().filter(|(bound, _)| bound.accepts_all(ip));
        exact.chain(open).filter_map(|(_, socket)| socket.upgrade()).find(|socket| socket.takes_from(kind))
    }
}

/// Where a connection to the unspecified address goes: to the loopback.
fn reached(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// Whether an address is the step's: loopback, unspecified, or the one it shows to the outside.
fn is_step(ip: IpAddr) -> bool {
    is_own(ip) || unmapped(ip) == IpAddr::V4(OWN_ADDRESS)
}

/// A network socket without the descriptor that owns it.
#[derive(Debug)]
pub(crate) struct InetCore {
    common: Common,
    network: Arc<InetNames>,
    mailbox: Arc<Mailbox>,
    state: Mutex<State>,
    host: OnceLock<HostSocket>,
}

#[derive(Debug)]
struct State {
    local: Option<SocketAddr>,
    role: Role,
    shut: Shutdown,
    error: Option<Errno>,
}

#[derive(Debug)]
enum Role {
    Idle,
    Listening {
        waiting: VecDeque<Arc<InetCore>>,
        limit: usize,
    },
    /// Connected within the step.
    Inside {
        peer: Arc<Mailbox>,
        address: SocketAddr,
    },
    /// Connected, or connecting, to the outside.
    Outside {
        address: SocketAddr,
        established: bool,
    },
}

/// A network socket as a descriptor holds it; dropping it is the close.
#[derive(Debug)]
pub(crate) struct InetSocket {
    core: Arc<InetCore>,
}

impl InetSocket {
    /// Makes a socket.
    ///
    /// `ESOCKTNOSUPPORT` for types other than streams and datagrams; `EPERM` for raw ones; `EPROTONOSUPPORT` for a
    /// protocol that does not fit the type.
    pub(crate) fn new(
        network: &Arc<InetNames>,
        family: u16,
        kind: SocketType,
        protocol: u32,
        creator: Peer,
    ) -> Result<Self, Errno> {
        const TCP: u32 = 6;
        const UDP: u32 = 17;
        let protocol = match (kind, protocol) {
            (SocketType::Stream, 0 | TCP) => TCP,
            (SocketType::Datagram, 0 | UDP) => UDP,
            // Sockets for echo requests are for groups that `ping_group_range` names, and it names none.
            (SocketType::Datagram, 1 | 58) => return Err(Errno::ACCESS),
            (SocketType::Raw, _) => return Err(Errno::PERM),
            (SocketType::Packets, _) => return Err(Errno::SOCKTNOSUPPORT),
            _ => return Err(Errno::PROTONOSUPPORT),
        };
        let common = Common::new(family, kind, protocol, creator);
        Ok(Self { core: InetCore::new(common, Arc::clone(network), None) })
    }
}

impl InetCore {
    fn new(common: Common, network: Arc<InetNames>, local: Option<SocketAddr>) -> Arc<Self> {
        let mailbox = Mailbox::new(common.kind.framing());
        let state = State { local, role: Role::Idle, shut: Shutdown::empty(), error: None };
        Arc::new(Self { common, network, mailbox, state: Mutex::new(state), host: OnceLock::new() })
    }

    fn is_stream(&self) -> bool {
        self.common.kind == SocketType::Stream
    }

    /// Whether this socket is what `find` looks for: a listener, or a datagram socket.
    fn takes_from(&self, kind: SocketType) -> bool {
        kind == SocketType::Datagram || matches!(lock(&self.state).role, Role::Listening { .. })
    }

    fn any(&self) -> IpAddr {
        if self.common.family == AF_INET6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        }
    }

    /// Shows an address in the socket's own family.
    fn shown(&self, address: SocketAddr) -> SocketAddr {
        match (self.common.family, address.ip()) {
            (AF_INET6, IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            (AF_INET, ip) => SocketAddr::new(unmapped(ip), address.port()),
            _ => address,
        }
    }

    /// Checks the family of an address. `EAFNOSUPPORT` when it does not fit.
    fn fitting(&self, address: &Address) -> Result<SocketAddr, Errno> {
        match (self.common.family, address) {
            (AF_INET, Address::Inet(address @ SocketAddr::V4(_))) => Ok(*address),
            (AF_INET6, Address::Inet(address @ SocketAddr::V6(_))) => Ok(*address),
            (AF_INET6, Address::Inet(_)) => Err(Errno::INVAL),
            _ => Err(Errno::AFNOSUPPORT),
        }
    }

    /// Gives the socket a port of the table.
    fn claim(self: &Arc<Self>, wanted: SocketAddr) -> Result<SocketAddr, Errno> {
        let mut ports = lock(&self.network.ports);
        let mut state = lock(&self.state);
        if state.local.is_some() {
            return Err(Errno::INVAL);
        }
        let kind = self.common.kind;
        let only_v6 = self.common.options.is_set(V6_ONLY.0, V6_ONLY.1);
        let own = Bound { ip: unmapped(wanted.ip()), only_v6 };
        let port = if wanted.port() == 0 { ports.free_port(kind)? } else { wanted.port() };
        let reuses = |core: &Self| {
            let options = &core.common.options;
            let port = options.is_set(REUSE_PORT.0, REUSE_PORT.1);
            port || options.is_set(REUSE_ADDRESS.0, REUSE_ADDRESS.1)
        };
        let own_reuse = reuses(self);
        let holders = ports.holders(kind, port);
        for (other, socket) in holders.iter() {
            let Some(socket) = socket.upgrade().filter(|_| other.overlaps(own)) else { continue };
            // Two sockets share a port when both allow it and neither stream listens on it.
            let shares = own_reuse && reuses(&socket) && (!self.is_stream() || !socket.takes_from(kind));
            if !shares {
                return Err(Errno::ADDRINUSE);
            }
        }
        holders.push((own, Arc::downgrade(self)));
        let local = SocketAddr::new(wanted.ip(), port);
        state.local = Some(local);
        Ok(local)
    }

    /// The socket's own address, given now if it has none.
    fn claimed(self: &Arc<Self>) -> Result<SocketAddr, Errno> {
        let local = lock(&self.state).local;
        local.map_or_else(|| self.claim(SocketAddr::new(self.any(), 0)), Ok)
    }

    /// The address the socket has towards a peer.
    fn local_towards(&self, local: SocketAddr, peer: IpAddr) -> SocketAddr {
        if !local.ip().is_unspecified() {
            return local;
        }
        let ip = match unmapped(peer) {
            ip if is_own(ip) => reached(ip),
            ip if is_step(ip) => ip,
            IpAddr::V4(_) => OWN_ADDRESS.into(),
            IpAddr::V6(_) => OWN_V6.into(),
        };
        self.shown(SocketAddr::new(ip, local.port()))
    }

    /// The host socket, opened for this address when it is the first. Fails unless the policy allows the address.
    fn outside(&self, address: &SocketAddr) -> Result<&HostSocket, Errno> {
        self.network.policy.check(address)?;
        if let Some(host) = self.host.get() {
            return Ok(host);
        }
        let target = SocketAddr::new(unmapped(address.ip()), address.port());
        let host = HostSocket::open(self.common.kind, &target, &self.network.poller, self.mailbox.changed())?;
        for ((level, name), value) in self.common.options.all() {
            if let Some(bytes) = value.first_chunk() {
                host.apply_option(level, name, i32::from_ne_bytes(*bytes));
            }
        }
        Ok(self.host.get_or_init(|| host))
    }

    fn is_inside(&self, address: &SocketAddr) -> bool {
        is_step(address.ip()) && !self.network.policy.is_name_server(address)
    }

    /// Puts a connection into the queue of a listener. `ECONNREFUSED`; `EAGAIN` when the queue is full.
    fn enqueue(
        &self,
        client: &Self,
        client_address: SocketAddr,
        to: SocketAddr,
    ) -> Result<Arc<Mailbox>, Errno> {
        let mut state = lock(&self.state);
        let Role::Listening { waiting, limit } = &mut state.role else { return Err(Errno::CONNREFUSED) };
        if waiting.len() > *limit {
            return Err(Errno::AGAIN);
        }
        let server = Self::new(
            self.common.inherit(self.common.creator),
            Arc::clone(&self.network),
            Some(self.shown(to)),
        );
        lock(&server.state).role =
            Role::Inside { peer: Arc::clone(&client.mailbox), address: self.shown(client_address) };
        let mailbox = Arc::clone(&server.mailbox);
        waiting.push_back(server);
        drop(state);
        self.mailbox.changed().wake();
        Ok(mailbox)
    }

    fn connect_inside(self: &Arc<Self>, address: SocketAddr) -> Result<(), Errno> {
        let to = SocketAddr::new(reached(unmapped(address.ip())), address.port());
        let local = self.local_towards(self.claimed()?, to.ip());
        let found = lock(&self.network.ports).find(self.common.kind, &to);
        let peer = if self.is_stream() {
            let listener = found.ok_or(Errno::CONNREFUSED)?;
            listener.enqueue(self, local, to)?
        } else {
            // Nobody there yet is no error for datagrams; each is delivered by its address.
            found.map_or_else(|| Mailbox::new(self.common.kind.framing()), |core| Arc::clone(&core.mailbox))
        };
        let mut state = lock(&self.state);
        state.local = Some(local);
        state.role = Role::Inside { peer, address: self.shown(to) };
        Ok(())
    }

    fn connect_outside(self: &Arc<Self>, address: SocketAddr) -> Result<(), Errno> {
        let host = self.outside(&address)?;
        let local = self.claimed()?;
        let target = SocketAddr::new(unmapped(address.ip()), address.port());
        let started = host.connect(&target);
        if let Err(error) = started
            && error != Errno::INPROGRESS
        {
            return Err(error);
        }
        let mut state = lock(&self.state);
        state.local = Some(self.local_towards(local, address.ip()));
        state.role = Role::Outside { address, established: started.is_ok() };
        drop(state);
        self.mailbox.changed().wake();
        started
    }

    /// Delivers a datagram within the step. One that nobody waits for is lost, as on a network.
    fn send_inside(
        self: &Arc<Self>,
        input: &mut dyn Input,
        to: SocketAddr,
        ancillary: Ancillary,
    ) -> Result<usize, Errno> {
        let local = self.local_towards(self.claimed()?, to.ip());
        let found = lock(&self.network.ports).find(SocketType::Datagram, &to);
        let Some(target) = found else {
            let connected = matches!(lock(&self.state).role, Role::Inside { .. });
            if connected {
                lock(&self.state).error = Some(Errno::CONNREFUSED);
                self.mailbox.changed().wake();
            }
            return Ok(input.remaining());
        };
        let from = Address::Inet(target.shown(local));
        let length = input.remaining();
        match target.mailbox.put(input, Some(from), ancillary) {
            // A receiver that is gone or full loses datagrams.
            Err(Errno::PIPE | Errno::AGAIN) => Ok(length),
            result => result,
        }
    }

    fn close(&self) {
        let lost = self.mailbox.close();
        let role = std::mem::replace(&mut lock(&self.state).role, Role::Idle);
        match role {
            Role::Inside { peer, .. } if self.is_stream() => peer.hang_up(lost),
            Role::Listening { waiting, .. } => waiting.iter().for_each(|socket| socket.close()),
            _ => {}
        }
    }

    fn take_pending(&self) -> Result<(), Errno> {
        lock(&self.state).error.take().map_or(Ok(()), Err)
    }
}

/// The IPv6 address guests see as their own on the outside.
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0x5054, 0xff, 0xfe12, 0x3456);

impl Drop for InetSocket {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl FileObject for InetSocket {
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        self.receive(output, Take::Consume).map(|received| received.count)
    }

    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        self.send(input, &Destination::Peer, Ancillary::default())
    }

    fn poll(&self) -> Ready {
        let core = &self.core;
        let state = lock(&core.state);
        let mut ready = if state.error.is_some() { Ready::ERR } else { Ready::empty() };
        match &state.role {
            Role::Listening { waiting, .. } => {
                return if waiting.is_empty() { ready } else { ready | Ready::READABLE };
            }
            Role::Idle if core.is_stream() => return ready | Ready::WRITABLE | Ready::HUP,
            Role::Outside { .. } if core.is_stream() => {
                drop(state);
                return ready | core.host.get().map_or(Ready::ERR, HostSocket::poll);
            }
            Role::Inside { peer, .. } if core.is_stream() => {
                if peer.is_writable() {
                    ready |= Ready::WRITABLE;
                }
            }
            _ => ready |= Ready::WRITABLE,
        }
        if core.mailbox.is_readable() {
            ready |= Ready::READABLE;
        }
        if core.is_stream() && core.mailbox.has_ended() {
            ready |= Ready::RDHUP | Ready::READABLE;
            if core.mailbox.has_hung_up() && state.shut.contains(Shutdown::WRITE) {
                ready |= Ready::HUP;
            }
        }
        drop(state);
        ready | core.host.get().map_or(Ready::empty(), |host| host.poll() - Ready::HUP)
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(self.core.mailbox.changed());
        if let Role::Inside { peer, .. } = &lock(&self.core.state).role {
            watch.add(peer.changed());
        }
    }

    fn writes_everything(&self) -> bool {
        self.core.is_stream()
    }

    fn readable_bytes(&self) -> Option<u64> {
        let inside = self.core.mailbox.readable_bytes();
        Some(if inside > 0 { inside } else { self.core.host.get().map_or(0, HostSocket::readable_bytes) })
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(self.core.common.anonymous())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Socket(self)
    }
}

impl Socket for InetSocket {
    fn common(&self) -> &Common {
        &self.core.common
    }

    /// `EAFNOSUPPORT`; `EADDRNOTAVAIL` for an address the step does not have; `EINVAL` when bound; `EADDRINUSE`.
    fn bind(&self, address: &Address) -> Result<(), Errno> {
        let address = self.core.fitting(address)?;
        if !is_step(address.ip()) {
            return Err(Errno::ADDRNOTAVAIL);
        }
        self.core.claim(address).map(|_| ())
    }

    /// `EOPNOTSUPP` for datagrams; `EINVAL` with a connection.
    fn listen(&self, backlog: i32) -> Result<(), Errno> {
        if !self.core.is_stream() {
            return Err(Errno::OPNOTSUPP);
        }
        self.core.claimed()?;
        let new_limit = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        let mut state = lock(&self.core.state);
        match &mut state.role {
            Role::Listening { limit, .. } => *limit = new_limit,
            role @ Role::Idle => *role = Role::Listening { waiting: VecDeque::new(), limit: new_limit },
            Role::Inside { .. } | Role::Outside { .. } => return Err(Errno::INVAL),
        }
        Ok(())
    }

    /// `EOPNOTSUPP` for datagrams; `EINVAL` when it does not listen.
    fn accept(&self, _acceptor: Peer) -> Result<Accepted, Errno> {
        if !self.core.is_stream() {
            return Err(Errno::OPNOTSUPP);
        }
        let mut state = lock(&self.core.state);
        let Role::Listening { waiting, .. } = &mut state.role else { return Err(Errno::INVAL) };
        let core = waiting.pop_front().ok_or(Errno::AGAIN)?;
        drop(state);
        self.core.mailbox.changed().wake();
        let socket = Self { core };
        let peer = socket.peer_name()?;
        Ok(Accepted { socket: Box::new(socket), peer })
    }

    /// `EISCONN`, `EALREADY`, `ECONNREFUSED`, `ENETUNREACH`, `EACCES` by the policy; `EINPROGRESS` to the outside.
    fn connect(&self, to: &Destination, _caller: Peer) -> Result<(), Errno> {
        let core = &self.core;
        let Destination::Address(address) = to else { return Err(Errno::AFNOSUPPORT) };
        if *address == Address::Unspecified {
            lock(&core.state).role = Role::Idle;
            return Ok(());
        }
        let address = core.fitting(address)?;
        if core.is_stream() {
            match &lock(&core.state).role {
                Role::Idle => {}
                Role::Listening { .. } | Role::Inside { .. } => return Err(Errno::ISCONN),
                Role::Outside { established: true, .. } => return Err(Errno::ISCONN),
                Role::Outside { established: false, .. } => {
                    return match core.host.get().map(HostSocket::finish_connect) {
                        Some(Err(Errno::AGAIN)) => Err(Errno::ALREADY),
                        Some(Ok(())) => Err(Errno::ISCONN),
                        Some(Err(error)) => Err(error),
                        None => Err(Errno::ALREADY),
                    };
                }
            }
        }
        if core.is_inside(&address) { core.connect_inside(address) } else { core.connect_outside(address) }
    }

    fn finish_connect(&self) -> Result<(), Errno> {
        let Some(host) = self.core.host.get() else { return Ok(()) };
        let result = host.finish_connect();
        let mut state = lock(&self.core.state);
        match (&result, &mut state.role) {
            (Ok(()), Role::Outside { established, .. }) => *established = true,
            (Err(error), role) if *error != Errno::AGAIN => *role = Role::Idle,
            _ => {}
        }
        result
    }

    /// `EPIPE` after `shutdown` and for a stream without connection; `EDESTADDRREQ`; what the policy says.
    fn send(&self, input: &mut dyn Input, to: &Destination, ancillary: Ancillary) -> Result<usize, Errno> {
        let core = &self.core;
        if !ancillary.rights.is_empty() {
            return Err(Errno::INVAL);
        }
        core.take_pending()?;
        let state = lock(&core.state);
        if state.shut.contains(Shutdown::WRITE) {
            return Err(Errno::PIPE);
        }
        if core.is_stream() {
            return match &state.role {
                Role::Inside { peer, .. } => {
                    let peer = Arc::clone(peer);
                    drop(state);
                    peer.put(input, None, Ancillary::default())
                }
                Role::Outside { .. } => {
                    drop(state);
                    core.host.get().ok_or(Errno::NOTCONN)?.send(input, None)
                }
                Role::Idle | Role::Listening { .. } => Err(Errno::PIPE),
            };
        }
        let (address, connected) = match (to, &state.role) {
            (Destination::Address(address), _) => (core.fitting(address)?, false),
            (_, Role::Inside { address, .. } | Role::Outside { address, .. }) => (*address, true),
            _ => return Err(Errno::DESTADDRREQ),
        };
        drop(state);
        if core.is_inside(&address) {
            let to = SocketAddr::new(reached(unmapped(address.ip())), address.port());
            return core.send_inside(input, to, Ancillary::default());
        }
        let host = core.outside(&address)?;
        core.claimed()?;
        let target = SocketAddr::new(unmapped(address.ip()), address.port());
        host.send(input, if connected { None } else { Some(&target) })
    }

    /// `ENOTCONN` for a stream without connection; then as the mailbox or the host says.
    fn receive(&self, output: &mut dyn Output, how: Take) -> Result<Received, Errno> {
        let core = &self.core;
        core.take_pending()?;
        let state = lock(&core.state);
        let shut = state.shut.contains(Shutdown::READ);
        let outside = matches!(state.role, Role::Outside { .. });
        if core.is_stream() && matches!(state.role, Role::Idle | Role::Listening { .. }) {
            return Err(Errno::NOTCONN);
        }
        drop(state);
        if shut {
            return Ok(Received { end: true, ..Received::default() });
        }
        if !(core.is_stream() && outside) {
            let inside = core.mailbox.take(output, how);
            let Err(Errno::AGAIN) = inside else { return inside };
        }
        let host = core.host.get().ok_or(Errno::AGAIN)?;
        let (count, length, from) = host.receive(output, how == Take::Peek)?;
        Ok(Received {
            count,
            length,
            from: from.map(|from| Address::Inet(core.shown(from))),
            ancillary: Ancillary::default(),
            end: core.is_stream() && length == 0,
        })
    }

    fn shutdown(&self, halves: Shutdown) -> Result<(), Errno> {
        let core = &self.core;
        let mut state = lock(&core.state);
        match &state.role {
            Role::Inside { peer, .. } => {
                let peer = Arc::clone(peer);
                state.shut |= halves;
                drop(state);
                if halves.contains(Shutdown::WRITE) && core.is_stream() {
                    peer.end();
                }
            }
            Role::Outside { .. } => {
                state.shut |= halves;
                drop(state);
                core.host.get().map_or(Err(Errno::NOTCONN), |host| host.shutdown(halves))?;
            }
            // A listener that is shut down refuses connections and wakes whoever accepts.
            Role::Listening { .. } if halves.contains(Shutdown::READ) => state.role = Role::Idle,
            _ => return Err(Errno::NOTCONN),
        }
        core.mailbox.changed().wake();
        Ok(())
    }

    fn name(&self) -> Address {
        let local = lock(&self.core.state).local;
        Address::Inet(local.unwrap_or_else(|| SocketAddr::new(self.core.any(), 0)))
    }

    fn peer_name(&self) -> Result<Address, Errno> {
        match &lock(&self.core.state).role {
            Role::Inside { address, .. } => Ok(Address::Inet(*address)),
            Role::Outside { address, .. } => Ok(Address::Inet(*address)),
            Role::Idle | Role::Listening { .. } => Err(Errno::NOTCONN),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        let own = lock(&self.core.state).error.take();
        own.or_else(|| self.core.host.get().and_then(HostSocket::take_error))
    }

    fn is_listening(&self) -> bool {
        matches!(lock(&self.core.state).role, Role::Listening { .. })
    }

    fn apply_option(&self, level: i32, name: i32, value: &[u8]) {
        super::options::apply_buffer(&self.core.mailbox, level, name, value);
        if let (Some(host), Some(bytes)) = (self.core.host.get(), value.first_chunk()) {
            host.apply_option(level, name, i32::from_ne_bytes(*bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::transfer::{HostInput, HostOutput};

    fn network() -> Arc<InetNames> {
        Arc::new(InetNames::new(NetworkPolicy::None, HostPoller::default()))
    }

    fn socket(network: &Arc<InetNames>, family: u16, kind: SocketType) -> InetSocket {
        InetSocket::new(network, family, kind, 0, Peer::default()).expect("streams and datagrams exist")
    }

    fn address(text: &str) -> Address {
        Address::Inet(text.parse().expect("a literal address"))
    }

    fn connect(socket: &InetSocket, to: &Address) -> Result<(), Errno> {
        socket.connect(&Destination::Address(to.clone()), Peer::default())
    }

    fn receive(socket: &dyn FileObject) -> Result<Vec<u8>, Errno> {
        let mut buffer = [0; 64];
        let count = socket.read(&mut HostOutput::new(&mut buffer), 0)?;
        Ok(buffer[..count].to_vec())
    }

    #[test]
    fn a_stream_connects_on_the_loopback() {
        let network = network();
        let server = socket(&network, AF_INET, SocketType::Stream);
        assert_eq!(server.bind(&address("0.0.0.0:8080")), Ok(()));
        assert_eq!(server.listen(1), Ok(()));
        let client = socket(&network, AF_INET, SocketType::Stream);
        assert_eq!(connect(&client, &address("127.0.0.1:81")), Err(Errno::CONNREFUSED));
        assert_eq!(connect(&client, &address("127.0.0.1:8080")), Ok(()));
        assert_eq!(client.write(&mut HostInput::new(b"hello"), 0), Ok(5));
        let accepted = server.accept(Peer::default()).expect("a connection waits");
        assert_eq!(accepted.peer, client.name());
        assert_eq!(client.peer_name(), Ok(address("127.0.0.1:8080")));
        assert_eq!(receive(&*accepted.socket), Ok(b"hello".to_vec()));
        drop(accepted);
        assert_eq!(receive(&client), Ok(Vec::new()));
        assert_eq!(client.write(&mut HostInput::new(b"x"), 0), Err(Errno::PIPE));
    }

    #[test]
    fn an_ipv6_listener_takes_both_families() {
        let network = network();
        let server = socket(&network, AF_INET6, SocketType::Stream);
        assert_eq!(server.bind(&address("[::]:80")), Ok(()));
        assert_eq!(server.listen(5), Ok(()));
        let (old, new) =
            (socket(&network, AF_INET, SocketType::Stream), socket(&network, AF_INET6, SocketType::Stream));
        assert_eq!(connect(&old, &address("127.0.0.1:80")), Ok(()));
        assert_eq!(connect(&new, &address("[::1]:80")), Ok(()));
        let peer = server.accept(Peer::default()).map(|accepted| accepted.peer);
        let mapped = matches!(peer, Ok(Address::Inet(SocketAddr::V6(address)))
            if address.ip().to_ipv4_mapped() == Some(Ipv4Addr::LOCALHOST));
        assert!(mapped);
    }

    #[test]
    fn ports_are_used_once_unless_shared() {
        let network = network();
        let (one, two) =
            (socket(&network, AF_INET, SocketType::Stream), socket(&network, AF_INET, SocketType::Stream));
        assert_eq!(one.bind(&address("127.0.0.1:80")), Ok(()));
        assert_eq!(one.bind(&address("127.0.0.1:81")), Err(Errno::INVAL));
        assert_eq!(two.bind(&address("0.0.0.0:80")), Err(Errno::ADDRINUSE));
        assert_eq!(two.bind(&address("192.0.2.1:80")), Err(Errno::ADDRNOTAVAIL));
        assert_eq!(two.bind(&address("127.0.0.2:80")), Ok(()));
        drop(one);
        let three = socket(&network, AF_INET, SocketType::Stream);
        assert_eq!(three.bind(&address("127.0.0.1:80")), Ok(()));
    }

    #[test]
    fn datagrams_find_their_way_and_answer() {
        let network = network();
        let server = socket(&network, AF_INET, SocketType::Datagram);
        assert_eq!(server.bind(&address("127.0.0.1:53")), Ok(()));
        let client = socket(&network, AF_INET, SocketType::Datagram);
        assert_eq!(client.write(&mut HostInput::new(b"x"), 0), Err(Errno::DESTADDRREQ));
        let to = Destination::Address(address("127.0.0.1:53"));
        assert_eq!(client.send(&mut HostInput::new(b"query"), &to, Ancillary::default()), Ok(5));
        let mut buffer = [0; 16];
        let received = server.receive(&mut HostOutput::new(&mut buffer), Take::Consume).expect("one waits");
        let from = received.from.expect("datagrams have senders");
        let Address::Inet(inet) = from else { panic!("the sender is a network address") };
        assert!(inet.ip().is_loopback() && inet.port() >= EPHEMERAL.start);
        let back = Destination::Address(Address::Inet(inet));
        assert_eq!(server.send(&mut HostInput::new(b"answer"), &back, Ancillary::default()), Ok(6));
        assert_eq!(receive(&client), Ok(b"answer".to_vec()));
    }

    #[test]
    fn a_refused_datagram_is_told_once() {
        let network = network();
        let client = socket(&network, AF_INET, SocketType::Datagram);
        assert_eq!(connect(&client, &address("127.0.0.1:9")), Ok(()));
        assert_eq!(client.write(&mut HostInput::new(b"x"), 0), Ok(1));
        assert!(client.poll().contains(Ready::ERR));
        assert_eq!(receive(&client), Err(Errno::CONNREFUSED));
        assert_eq!(receive(&client), Err(Errno::AGAIN));
    }

    #[test]
    fn the_outside_is_unreachable_without_network() {
        let network = network();
        for kind in [SocketType::Stream, SocketType::Datagram] {
            let client = socket(&network, AF_INET, kind);
            assert_eq!(connect(&client, &address("192.0.2.1:80")), Err(Errno::NETUNREACH));
        }
        let raw = InetSocket::new(&network, AF_INET, SocketType::Raw, 1, Peer::default());
        assert_eq!(raw.err(), Some(Errno::PERM));
    }
}
