//! Sockets.
//!
//! `AF_UNIX` sockets and the step's own loopback live entirely in this process: a socket has a
//! [`Mailbox`](mailbox::Mailbox), a connection is two sockets that know each other's. What leaves the loopback is a
//! host socket, opened when a program first sends to or connects to an address outside, under one
//! [`NetworkPolicy`](network::NetworkPolicy). `AF_NETLINK` answers the few questions resolvers ask.
//!
//! What must hold: sockets follow the rules of all [`FileObject`]s (attempts only, a wake after every change), and
//! no host address is ever shown to a guest as its own.

pub(crate) mod address;
pub(crate) mod host;
pub(crate) mod inet;
pub(crate) mod interface;
pub(crate) mod mailbox;
pub(crate) mod netlink;
pub(crate) mod network;
pub(crate) mod options;
pub(crate) mod unix;

use std::fmt::Debug;
use std::sync::Arc;

use bitflags::bitflags;

use crate::files::{Anonymous, Errno, FileObject, Input, Output, next_inode};
use address::Address;
use mailbox::{Ancillary, Framing, Peer, Received, Take};
use options::Options;

/// Type of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SocketType {
    /// `SOCK_STREAM`.
    Stream,
    /// `SOCK_DGRAM`.
    Datagram,
    /// `SOCK_RAW`: only for netlink.
    Raw,
    /// `SOCK_SEQPACKET`.
    Packets,
}

impl SocketType {
    /// Reads the number without its flags. `EINVAL` for numbers without meaning.
    pub(crate) fn decode(number: u32) -> Result<Self, Errno> {
        match number {
            1 => Ok(Self::Stream),
            2 => Ok(Self::Datagram),
            3 => Ok(Self::Raw),
            5 => Ok(Self::Packets),
            4 | 6 | 10 => Err(Errno::SOCKTNOSUPPORT),
            _ => Err(Errno::INVAL),
        }
    }

    /// The number of `SO_TYPE`.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Stream => 1,
            Self::Datagram => 2,
            Self::Raw => 3,
            Self::Packets => 5,
        }
    }

    /// How its mailbox delimits messages.
    pub(crate) fn framing(self) -> Framing {
        if self == Self::Stream { Framing::Stream } else { Framing::Packets }
    }

    /// Whether it has connections rather than only a default destination.
    pub(crate) fn connects(self) -> bool {
        matches!(self, Self::Stream | Self::Packets)
    }
}

bitflags! {
    /// Which halves of a connection are shut down.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Shutdown: u8 {
        /// No more receives.
        const READ = 1;
        /// No more sends.
        const WRITE = 2;
    }
}

/// What every socket has.
#[derive(Debug)]
pub(crate) struct Common {
    /// `AF_*`.
    pub(crate) family: u16,
    /// `SOCK_*`.
    pub(crate) kind: SocketType,
    /// The protocol number `SO_PROTOCOL` shows.
    pub(crate) protocol: u32,
    /// What `setsockopt` has set.
    pub(crate) options: Options,
    /// Inode number.
    pub(crate) inode: u64,
    /// Who made it.
    pub(crate) creator: Peer,
}

impl Common {
    /// Describes a new socket.
    pub(crate) fn new(family: u16, kind: SocketType, protocol: u32, creator: Peer) -> Self {
        Self { family, kind, protocol, options: Options::new(), inode: next_inode(), creator }
    }

    /// The same for a socket that `accept` makes: options are inherited.
    pub(crate) fn inherit(&self, creator: Peer) -> Self {
        Self {
            family: self.family,
            kind: self.kind,
            protocol: self.protocol,
            options: self.options.clone(),
            inode: next_inode(),
            creator,
        }
    }

    /// What `fstat` tells.
    pub(crate) fn anonymous(&self) -> Anonymous {
        Anonymous::numbered("socket", 0o140_777, self.inode)
    }
}

/// Where a send goes.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// To the peer of the connection.
    Peer,
    /// To an address of the network.
    Address(Address),
    /// To a local socket, already found by its name.
    Unix(Arc<unix::UnixCore>),
}

/// A connection that was waiting in a listening socket.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The new socket.
    pub(crate) socket: Box<dyn FileObject>,
    /// The address of its peer.
    pub(crate) peer: Address,
}

/// What system calls ask of a socket, besides reading, writing and polling. All of it is attempts.
pub(crate) trait Socket: FileObject {
    /// Family, type and options.
    fn common(&self) -> &Common;

    /// Gives the socket an address of the network. Local names are bound by `UnixCore::bind`.
    fn bind(&self, address: &Address) -> Result<(), Errno>;

    /// Starts to accept connections.
    fn listen(&self, backlog: i32) -> Result<(), Errno>;

    /// Takes a waiting connection; `EAGAIN` when there is none.
    fn accept(&self, acceptor: Peer) -> Result<Accepted, Errno>;

    /// Connects, or sets the default destination. `EINPROGRESS` when the answer comes later.
    fn connect(&self, to: &Destination, caller: Peer) -> Result<(), Errno>;

    /// Tells how a connect that was in progress ended; `EAGAIN` while it has not.
    fn finish_connect(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Sends; for streams perhaps only a part.
    fn send(&self, input: &mut dyn Input, to: &Destination, ancillary: Ancillary) -> Result<usize, Errno>;

    /// Receives bytes or a packet.
    fn receive(&self, output: &mut dyn Output, how: Take) -> Result<Received, Errno>;

    /// Shuts halves down. `ENOTCONN` without a connection.
    fn shutdown(&self, halves: Shutdown) -> Result<(), Errno>;

    /// Its own address.
    fn name(&self) -> Address;

    /// The address of the peer; `ENOTCONN` without one.
    fn peer_name(&self) -> Result<Address, Errno>;

    /// Who the peer was when the connection was made (`SO_PEERCRED`).
    fn peer_credentials(&self) -> Option<Peer> {
        None
    }

    /// Takes the pending error (`SO_ERROR`).
    fn take_error(&self) -> Option<Errno> {
        None
    }

    /// Whether it listens (`SO_ACCEPTCONN`).
    fn is_listening(&self) -> bool;

    /// Passes an option that was stored on to where it has an effect.
    fn apply_option(&self, level: i32, name: i32, value: &[u8]) {
        let _ = (level, name, value);
    }

    /// The local socket, for what only `AF_UNIX` has.
    fn as_unix(&self) -> Option<&Arc<unix::UnixCore>> {
        None
    }
}
