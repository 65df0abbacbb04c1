//! `AF_UNIX` sockets (unix(7)).
//!
//! Names come in two kinds: a path is a file-system node of type socket and the table here maps its inode to the
//! bound socket; an abstract name lives in the table only. Both are held weakly: a name is free again, or refuses
//! connections, when its socket is gone. A node may also stand for a socket of the host (`SSH_AUTH_SOCK`): who connects
//! to it has a connection of the host's, and nothing else of it.
//!
//! What must hold: a stream connection is two sockets that hold each other's mailbox; the connecting side is
//! connected at once, the other waits in the listener. Locks: the table, then a listener's state, then a socket's
//! own state, then mailboxes; two sockets' states are never held together.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use super::address::{AF_UNIX, Address, UnixName};
use super::host::{HostPoller, HostSocket};
use super::mailbox::{Ancillary, Mailbox, Peer, Received, Take};
use super::{Accepted, Common, Destination, Shutdown, Socket, SocketType};
use crate::files::{Anonymous, Errno, FileObject, Input, Kind, Output, Readiness, Ready, Watch, lock};
use cooper_vfs::NodeRef;

/// The longest queue of connections nobody has accepted (`net.core.somaxconn`).
pub(crate) const MAX_BACKLOG: usize = 4096;

/// All bound local sockets of a step.
#[derive(Debug, Default)]
pub(crate) struct UnixNames {
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    paths: HashMap<NodeRef, Weak<UnixCore>>,
    abstracts: HashMap<Vec<u8>, Weak<UnixCore>>,
    /// Sockets of the host, which live as long as the step.
    outward: Vec<Arc<UnixCore>>,
    next: u32,
}

impl UnixNames {
    /// Finds the socket bound at a file-system node. `ECONNREFUSED` when there is none any more.
    pub(crate) fn at(&self, file: &NodeRef) -> Result<Arc<UnixCore>, Errno> {
        lock(&self.names).paths.get(file).and_then(Weak::upgrade).ok_or(Errno::CONNREFUSED)
    }

    /// Lets a node stand for a socket of the host.
    pub(crate) fn lead_outward(&self, file: NodeRef, name: Vec<u8>, path: PathBuf, poller: Arc<HostPoller>) {
        let creator = Peer { pid: 0, uid: 0, gid: 0 };
        let core = UnixCore::new(Common::new(AF_UNIX, SocketType::Stream, 0, creator), UnixName::Path(name));
        lock(&core.state).role = Role::Outward { path, poller };
        let mut table = lock(&self.names);
        table.paths.insert(file, Arc::downgrade(&core));
        table.outward.push(core);
    }

    /// Finds the socket with an abstract name. `ECONNREFUSED` when there is none.
    pub(crate) fn named(&self, name: &[u8]) -> Result<Arc<UnixCore>, Errno> {
        lock(&self.names).abstracts.get(name).and_then(Weak::upgrade).ok_or(Errno::CONNREFUSED)
    }
}

/// A local socket without the descriptor that owns it.
#[derive(Debug)]
pub(crate) struct UnixCore {
    common: Common,
    mailbox: Arc<Mailbox>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    name: UnixName,
    role: Role,
    shut: Shutdown,
    /// The queue of a listener that was full when this socket tried to connect.
    full: Option<Arc<Readiness>>,
}

#[derive(Debug)]
enum Role {
    Idle,
    Listening {
        waiting: VecDeque<Arc<UnixCore>>,
        limit: usize,
    },
    Connected(Connection),
    /// Stands for a socket of the host.
    Outward {
        path: PathBuf,
        poller: Arc<HostPoller>,
    },
    /// Connected to a socket of the host.
    Outside {
        host: Arc<HostSocket>,
        name: UnixName,
    },
}

#[derive(Clone, Debug)]
struct Connection {
    peer: Arc<Mailbox>,
    name: UnixName,
    credentials: Peer,
}

/// A local socket as a descriptor holds it; dropping it is the close.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    core: Arc<UnixCore>,
}

impl UnixSocket {
    /// Makes a socket without name or peer. `ESOCKTNOSUPPORT` for raw ones.
    pub(crate) fn new(kind: SocketType, creator: Peer) -> Self {
        // Linux turns a raw local socket into a datagram one.
        let kind = if kind == SocketType::Raw { SocketType::Datagram } else { kind };
        Self { core: UnixCore::new(Common::new(AF_UNIX, kind, 0, creator), UnixName::Unnamed) }
    }

    /// Makes two sockets that are connected (`socketpair`).
    pub(crate) fn pair(kind: SocketType, creator: Peer) -> (Self, Self) {
        let (first, second) = (Self::new(kind, creator), Self::new(kind, creator));
        for (one, other) in [(&first, &second), (&second, &first)] {
            one.core.join(&other.core.mailbox, UnixName::Unnamed, creator);
        }
        (first, second)
    }
}

impl UnixCore {
    fn new(common: Common, name: UnixName) -> Arc<Self> {
        let mailbox = Mailbox::new(common.kind.framing());
        let state = State { name, role: Role::Idle, shut: Shutdown::empty(), full: None };
        Arc::new(Self { common, mailbox, state: Mutex::new(state) })
    }

    fn join(&self, peer: &Arc<Mailbox>, name: UnixName, credentials: Peer) {
        let mut state = lock(&self.state);
        state.role = Role::Connected(Connection { peer: Arc::clone(peer), name, credentials });
        state.full = None;
    }

    /// Woken when there is room for a datagram.
    pub(crate) fn changed(&self) -> &Arc<Readiness> {
        self.mailbox.changed()
    }

    /// Gives the socket the name of a file-system node that was just made for it. `EINVAL` when it has one.
    pub(crate) fn bind_path(
        self: &Arc<Self>,
        names: &UnixNames,
        path: Vec<u8>,
        file: NodeRef,
    ) -> Result<(), Errno> {
        let mut table = lock(&names.names);
        let mut state = lock(&self.state);
        if state.name != UnixName::Unnamed {
            return Err(Errno::INVAL);
        }
        table.paths.retain(|_, socket| socket.strong_count() > 0);
        table.paths.insert(file, Arc::downgrade(self));
        state.name = UnixName::Path(path);
        Ok(())
    }

    /// Gives the socket an abstract name, or a free one of five hexadecimal digits for an empty name (autobind).
    ///
    /// `EINVAL` when it has a name; `EADDRINUSE` when another socket has this one.
    pub(crate) fn bind_abstract(
        self: &Arc<Self>,
        names: &UnixNames,
        name: Option<Vec<u8>>,
    ) -> Result<(), Errno> {
        let mut table = lock(&names.names);
        let mut state = lock(&self.state);
        if state.name != UnixName::Unnamed {
            return Err(Errno::INVAL);
        }
        table.abstracts.retain(|_, socket| socket.strong_count() > 0);
        let name = name.unwrap_or_else(|| {
            loop {
                table.next = (table.next + 1) & 0xf_ffff;
                let name = format!("{:05x}", table.next).into_bytes();
                if !table.abstracts.contains_key(&name) {
                    break name;
                }
            }
        });
        if table.abstracts.contains_key(&name) {
            return Err(Errno::ADDRINUSE);
        }
        table.abstracts.insert(name.clone(), Arc::downgrade(self));
        state.name = UnixName::Abstract(name);
        Ok(())
    }

    /// The connection to a socket of the host.
    fn outside(&self) -> Option<Arc<HostSocket>> {
        match &lock(&self.state).role {
            Role::Outside { host, .. } => Some(Arc::clone(host)),
            _ => None,
        }
    }

    /// Connects to the socket of the host that `target` stands for; none when it stands for none.
    fn connect_outside(&self, target: &Self) -> Option<Result<(), Errno>> {
        let state = lock(&target.state);
        let Role::Outward { path, poller } = &state.role else { return None };
        let (path, poller, name) = (path.clone(), Arc::clone(poller), state.name.clone());
        drop(state);
        let opened = HostSocket::open_local(&path, &poller, self.mailbox.changed());
        Some(opened.map(|host| lock(&self.state).role = Role::Outside { host: Arc::new(host), name }))
    }

    fn connection(&self) -> Option<Connection> {
        match &lock(&self.state).role {
            Role::Connected(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    /// Puts a connection into the queue of a listener.
    ///
    /// `ECONNREFUSED` when it does not listen; `EAGAIN` when its queue is full.
    fn enqueue(&self, client: &Self, caller: Peer) -> Result<(), Errno> {
        let client_name = lock(&client.state).name.clone();
        let mut state = lock(&self.state);
        let server_name = state.name.clone();
        let Role::Listening { waiting, limit } = &mut state.role else { return Err(Errno::CONNREFUSED) };
        if waiting.len() > *limit {
            return Err(Errno::AGAIN);
        }
        let server = Self::new(self.common.inherit(self.common.creator), server_name.clone());
        server.join(&client.mailbox, client_name, caller);
        let mailbox = Arc::clone(&server.mailbox);
        waiting.push_back(server);
        drop(state);
        client.join(&mailbox, server_name, self.common.creator);
        self.mailbox.changed().wake();
        Ok(())
    }

    fn close(&self) {
        let lost = self.mailbox.close();
        let mut state = lock(&self.state);
        let role = std::mem::replace(&mut state.role, Role::Idle);
        drop(state);
        match role {
            Role::Connected(connection) if self.common.kind.connects() => connection.peer.hang_up(lost),
            Role::Listening { waiting, .. } => waiting.iter().for_each(|socket| socket.close()),
            _ => {}
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl FileObject for UnixSocket {
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        self.receive(output, Take::Consume).map(|received| received.count)
    }

    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        let ancillary = Ancillary { rights: Vec::new(), credentials: self.core.common.creator };
        self.send(input, &Destination::Peer, ancillary)
    }

    fn poll(&self) -> Ready {
        let state = lock(&self.core.state);
        let mailbox = &self.core.mailbox;
        let mut ready = Ready::empty();
        match &state.role {
            Role::Listening { waiting, .. } => {
                return if waiting.is_empty() { Ready::empty() } else { Ready::READABLE };
            }
            Role::Connected(connection) => {
                if connection.peer.is_writable() {
                    ready |= Ready::WRITABLE;
                }
            }
            Role::Outside { host, .. } => return host.poll(),
            Role::Outward { .. } => return Ready::empty(),
            Role::Idle if self.core.common.kind.connects() => return Ready::WRITABLE | Ready::HUP,
            Role::Idle => ready |= Ready::WRITABLE,
        }
        if mailbox.is_readable() {
            ready |= Ready::READABLE;
        }
        if mailbox.has_ended() || state.shut.contains(Shutdown::READ) {
            ready |= Ready::RDHUP | Ready::READABLE;
        }
        if mailbox.has_hung_up() || state.shut == Shutdown::all() {
            ready |= Ready::HUP;
        }
        ready
    }

    fn watch(&self, watch: &mut Watch) {
        watch.add(self.core.mailbox.changed());
        let state = lock(&self.core.state);
        if let Role::Connected(connection) = &state.role {
            watch.add(connection.peer.changed());
        }
        if let Some(full) = &state.full {
            watch.add(full);
        }
    }

    fn writes_everything(&self) -> bool {
        self.core.common.kind == SocketType::Stream
    }

    fn readable_bytes(&self) -> Option<u64> {
        let outside = self.core.outside().map(|host| host.readable_bytes());
        Some(outside.unwrap_or_else(|| self.core.mailbox.readable_bytes()))
    }

    fn anonymous(&self) -> Option<Anonymous> {
        Some(self.core.common.anonymous())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Socket(self)
    }
}

impl Socket for UnixSocket {
    fn common(&self) -> &Common {
        &self.core.common
    }

    fn bind(&self, _address: &Address) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// `EOPNOTSUPP` for datagrams; `EINVAL` without a name or with a connection.
    fn listen(&self, backlog: i32) -> Result<(), Errno> {
        if !self.core.common.kind.connects() {
            return Err(Errno::OPNOTSUPP);
        }
        let mut state = lock(&self.core.state);
        let bound = state.name != UnixName::Unnamed;
        let new_limit = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        match &mut state.role {
            Role::Connected(_) | Role::Outside { .. } | Role::Outward { .. } => return Err(Errno::INVAL),
            Role::Idle if !bound => return Err(Errno::INVAL),
            Role::Listening { limit, .. } => *limit = new_limit,
            role @ Role::Idle => *role = Role::Listening { waiting: VecDeque::new(), limit: new_limit },
        }
        drop(state);
        self.core.mailbox.changed().wake();
        Ok(())
    }

    /// `EOPNOTSUPP` for datagrams, `EINVAL` when it does not listen.
    fn accept(&self, _acceptor: Peer) -> Result<Accepted, Errno> {
        if !self.core.common.kind.connects() {
            return Err(Errno::OPNOTSUPP);
        }
        let mut state = lock(&self.core.state);
        let Role::Listening { waiting, .. } = &mut state.role else { return Err(Errno::INVAL) };
        let core = waiting.pop_front().ok_or(Errno::AGAIN)?;
        drop(state);
        self.core.mailbox.changed().wake();
        let peer = core.connection().map_or(UnixName::Unnamed, |connection| connection.name);
        Ok(Accepted { socket: Box::new(Self { core }), peer: Address::Unix(peer) })
    }

    /// `EISCONN` for a connected stream; `EINVAL` for a listening one; `EPROTOTYPE` when the types differ;
    /// `ECONNREFUSED` when nobody listens; `EAGAIN` when the listener's queue is full.
    fn connect(&self, to: &Destination, caller: Peer) -> Result<(), Errno> {
        let target = match to {
            Destination::Unix(target) => target,
            Destination::Address(Address::Unspecified) if !self.core.common.kind.connects() => {
                lock(&self.core.state).role = Role::Idle;
                return Ok(());
            }
            _ => return Err(Errno::INVAL),
        };
        if target.common.kind != self.core.common.kind {
            return Err(Errno::PROTOTYPE);
        }
        if !self.core.common.kind.connects() {
            let name = lock(&target.state).name.clone();
            self.core.join(&target.mailbox, name, target.common.creator);
            return Ok(());
        }
        match lock(&self.core.state).role {
            Role::Idle => {}
            Role::Connected(_) | Role::Outside { .. } => return Err(Errno::ISCONN),
            Role::Listening { .. } | Role::Outward { .. } => return Err(Errno::INVAL),
        }
        if let Some(connected) = self.core.connect_outside(target) {
            return connected;
        }
        let result = target.enqueue(&self.core, caller);
        if result == Err(Errno::AGAIN) {
            lock(&self.core.state).full = Some(Arc::clone(target.mailbox.changed()));
        }
        result
    }

    /// `EPIPE` after `shutdown`; `ENOTCONN` without a peer; `EISCONN` for a stream with a destination;
    /// `ECONNREFUSED` when the receiver of a datagram is gone; then as [`Mailbox::put`].
    fn send(&self, input: &mut dyn Input, to: &Destination, ancillary: Ancillary) -> Result<usize, Errno> {
        if let Some(host) = self.core.outside() {
            return match to {
                // Descriptors are the step's and do not leave it.
                _ if !ancillary.rights.is_empty() => Err(Errno::OPNOTSUPP),
                Destination::Peer => host.send(input, None),
                _ => Err(Errno::ISCONN),
            };
        }
        let state = lock(&self.core.state);
        if state.shut.contains(Shutdown::WRITE) {
            return Err(Errno::PIPE);
        }
        let connects = self.core.common.kind.connects();
        let peer = match (&state.role, to) {
            (Role::Connected(_), Destination::Unix(_) | Destination::Address(_)) if connects => {
                return Err(Errno::ISCONN);
            }
            (_, Destination::Unix(_) | Destination::Address(_)) if connects => return Err(Errno::OPNOTSUPP),
            (_, Destination::Unix(target)) if target.common.kind != self.core.common.kind => {
                return Err(Errno::PROTOTYPE);
            }
            (_, Destination::Unix(target)) => Arc::clone(&target.mailbox),
            (Role::Connected(connection), _) => Arc::clone(&connection.peer),
            _ => return Err(Errno::NOTCONN),
        };
        // A sender without a name has no address.
        let named = self.core.common.kind == SocketType::Datagram && state.name != UnixName::Unnamed;
        let from = named.then(|| Address::Unix(state.name.clone()));
        drop(state);
        let sent = peer.put(input, from, ancillary);
        if sent == Err(Errno::PIPE) && !connects {
            return Err(Errno::CONNREFUSED);
        }
        sent
    }

    /// `ENOTCONN` (`EINVAL` for streams) without a peer; then as [`Mailbox::take`].
    fn receive(&self, output: &mut dyn Output, how: Take) -> Result<Received, Errno> {
        if let Some(host) = self.core.outside() {
            let (count, length, _) = host.receive(output, how == Take::Peek)?;
            let credentials = self.core.common.creator;
            let ancillary = Ancillary { rights: Vec::new(), credentials };
            return Ok(Received { count, length, from: None, ancillary, end: count == 0 });
        }
        if self.core.common.kind.connects() && self.core.connection().is_none() {
            return Err(if self.core.common.kind == SocketType::Stream {
                Errno::INVAL
            } else {
                Errno::NOTCONN
            });
        }
        self.core.mailbox.take(output, how)
    }

    fn shutdown(&self, halves: Shutdown) -> Result<(), Errno> {
        if let Some(host) = self.core.outside() {
            return host.shutdown(halves);
        }
        let mut state = lock(&self.core.state);
        let Role::Connected(connection) = &state.role else { return Err(Errno::NOTCONN) };
        let peer = Arc::clone(&connection.peer);
        state.shut |= halves;
        let all = state.shut == Shutdown::all();
        drop(state);
        if halves.contains(Shutdown::READ) {
            self.core.mailbox.refuse();
        }
        if halves.contains(Shutdown::WRITE) && self.core.common.kind.connects() {
            if all { peer.hang_up(false) } else { peer.end() }
        }
        self.core.mailbox.changed().wake();
        Ok(())
    }

    fn name(&self) -> Address {
        Address::Unix(lock(&self.core.state).name.clone())
    }

    fn peer_name(&self) -> Result<Address, Errno> {
        if let Role::Outside { name, .. } = &lock(&self.core.state).role {
            return Ok(Address::Unix(name.clone()));
        }
        self.core.connection().map(|connection| Address::Unix(connection.name)).ok_or(Errno::NOTCONN)
    }

    fn peer_credentials(&self) -> Option<Peer> {
        self.core.connection().map(|connection| connection.credentials)
    }

    fn is_listening(&self) -> bool {
        matches!(lock(&self.core.state).role, Role::Listening { .. })
    }

    fn apply_option(&self, level: i32, name: i32, value: &[u8]) {
        super::options::apply_buffer(&self.core.mailbox, level, name, value);
    }

    fn as_unix(&self) -> Option<&Arc<UnixCore>> {
        Some(&self.core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::transfer::{HostInput, HostOutput};

    const ME: Peer = Peer { pid: 1, uid: 2, gid: 3 };

    fn send(socket: &UnixSocket, bytes: &[u8]) -> Result<usize, Errno> {
        socket.write(&mut HostInput::new(bytes), 0)
    }

    fn receive(socket: &UnixSocket) -> Result<Vec<u8>, Errno> {
        let mut buffer = [0; 64];
        let count = socket.read(&mut HostOutput::new(&mut buffer), 0)?;
        Ok(buffer[..count].to_vec())
    }

    fn listener(names: &UnixNames, kind: SocketType, backlog: i32) -> UnixSocket {
        let socket = UnixSocket::new(kind, ME);
        assert_eq!(socket.core.bind_abstract(names, Some(b"name".to_vec())), Ok(()));
        assert_eq!(socket.listen(backlog), Ok(()));
        socket
    }

    fn connect(names: &UnixNames, socket: &UnixSocket) -> Result<(), Errno> {
        socket.connect(&Destination::Unix(names.named(b"name")?), ME)
    }

    #[test]
    fn a_pair_talks_and_hangs_up() {
        let (one, other) = UnixSocket::pair(SocketType::Stream, ME);
        assert_eq!((send(&one, b"hello"), receive(&other)), (Ok(5), Ok(b"hello".to_vec())));
        assert_eq!(one.poll(), Ready::WRITABLE);
        assert_eq!(one.peer_credentials(), Some(ME));
        drop(other);
        assert_eq!(one.poll(), Ready::READABLE | Ready::WRITABLE | Ready::HUP | Ready::RDHUP);
        assert_eq!((receive(&one), send(&one, b"x")), (Ok(Vec::new()), Err(Errno::PIPE)));
    }

    #[test]
    fn a_half_closed_connection_still_carries_the_other_way() {
        let (one, other) = UnixSocket::pair(SocketType::Stream, ME);
        assert_eq!(one.shutdown(Shutdown::WRITE), Ok(()));
        assert_eq!((receive(&other), send(&one, b"x")), (Ok(Vec::new()), Err(Errno::PIPE)));
        assert_eq!(other.poll(), Ready::READABLE | Ready::WRITABLE | Ready::RDHUP);
        assert_eq!((send(&other, b"back"), receive(&one)), (Ok(4), Ok(b"back".to_vec())));
    }

    #[test]
    fn connections_wait_in_the_listener() {
        let names = UnixNames::default();
        let server = listener(&names, SocketType::Stream, 0);
        let (first, second) =
            (UnixSocket::new(SocketType::Stream, ME), UnixSocket::new(SocketType::Stream, ME));
        assert_eq!(first.poll(), Ready::WRITABLE | Ready::HUP);
        assert_eq!(server.accept(ME).err(), Some(Errno::AGAIN));
        assert_eq!(connect(&names, &first), Ok(()));
        assert_eq!(connect(&names, &first), Err(Errno::ISCONN));
        assert_eq!(connect(&names, &second), Err(Errno::AGAIN));
        assert_eq!(server.poll(), Ready::READABLE);
        assert_eq!(send(&first, b"early"), Ok(5));
        let accepted = server.accept(ME).expect("one connection waits");
        assert_eq!(accepted.peer, Address::Unix(UnixName::Unnamed));
        assert_eq!(connect(&names, &second), Ok(()));
        let mut buffer = [0; 9];
        assert_eq!(accepted.socket.read(&mut HostOutput::new(&mut buffer), 0), Ok(5));
        drop(server);
        assert_eq!(receive(&second), Ok(Vec::new()));
        assert_eq!(names.named(b"name").err(), Some(Errno::CONNREFUSED));
    }

    #[test]
    fn names_are_used_once() {
        let names = UnixNames::default();
        let server = listener(&names, SocketType::Packets, 5);
        let other = UnixSocket::new(SocketType::Packets, ME);
        assert_eq!(other.core.bind_abstract(&names, Some(b"name".to_vec())), Err(Errno::ADDRINUSE));
        assert_eq!(server.core.bind_abstract(&names, None), Err(Errno::INVAL));
        assert_eq!(other.core.bind_abstract(&names, None), Ok(()));
        assert_eq!(other.name(), Address::Unix(UnixName::Abstract(b"00001".to_vec())));
        drop(server);
        let again = UnixSocket::new(SocketType::Packets, ME);
        assert_eq!(again.core.bind_abstract(&names, Some(b"name".to_vec())), Ok(()));
    }

    #[test]
    fn datagrams_carry_the_sender() {
        let names = UnixNames::default();
        let server = UnixSocket::new(SocketType::Datagram, ME);
        assert_eq!(server.core.bind_abstract(&names, Some(b"name".to_vec())), Ok(()));
        let client = UnixSocket::new(SocketType::Datagram, ME);
        assert_eq!(send(&client, b"x"), Err(Errno::NOTCONN));
        assert_eq!(client.core.bind_abstract(&names, Some(b"client".to_vec())), Ok(()));
        let stream = UnixSocket::new(SocketType::Stream, ME);
        assert_eq!(connect(&names, &stream), Err(Errno::PROTOTYPE));
        assert_eq!(connect(&names, &client), Ok(()));
        assert_eq!(send(&client, b"datagram"), Ok(8));
        let mut buffer = [0; 4];
        let received = server.receive(&mut HostOutput::new(&mut buffer), Take::Consume).expect("one waits");
        assert_eq!((received.count, received.length), (4, 8));
        assert_eq!(received.from, Some(Address::Unix(UnixName::Abstract(b"client".to_vec()))));
        drop(server);
        assert_eq!(send(&client, b"x"), Err(Errno::CONNREFUSED));
    }
}
