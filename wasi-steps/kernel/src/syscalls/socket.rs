//! Sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cooper_vfs::{AccessMode, Errno, FileKind};

use super::descriptor::install_pair;
use super::file::{install, raise};
use super::{Entry, SysError, SysResult, full, partial};
use crate::cx::{AT_FDCWD, Cx};
use crate::files::blocking::{Patience, until_done};
use crate::files::description::status;
use crate::files::guest::{Buffer, GuestInput, GuestOutput};
use crate::files::{Description, FileObject, Kind, Readiness, place};
use crate::signal::signal;
use crate::sockets::address::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, Address, MAX_ADDRESS, UnixName};
use crate::sockets::inet::InetSocket;
use crate::sockets::mailbox::{Ancillary, Peer, Received, Take};
use crate::sockets::netlink::NetlinkSocket;
use crate::sockets::options::{SOL_SOCKET, so};
use crate::sockets::unix::{UnixCore, UnixSocket};
use crate::sockets::{Destination, Shutdown, Socket, SocketType};
use crate::task::limits::resource;

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    partial(41, "socket", socket, "AF_UNIX, AF_INET and AF_INET6 streams and datagrams, NETLINK_ROUTE"),
    full(42, "connect", connect),
    full(43, "accept", accept),
    full(44, "sendto", sendto),
    full(45, "recvfrom", recvfrom),
    partial(46, "sendmsg", sendmsg, "ancillary data: SCM_RIGHTS and SCM_CREDENTIALS; no MSG_OOB"),
    partial(
        47,
        "recvmsg",
        recvmsg,
        "ancillary data: SCM_RIGHTS and SCM_CREDENTIALS; MSG_ERRQUEUE is always empty",
    ),
    full(48, "shutdown", shutdown),
    partial(49, "bind", bind, "network addresses of the step's own loopback; nothing listens on the host"),
    full(50, "listen", listen),
    full(51, "getsockname", getsockname),
    full(52, "getpeername", getpeername),
    partial(53, "socketpair", socketpair, "AF_UNIX"),
    partial(
        54,
        "setsockopt",
        setsockopt,
        "the options in the table of sockets/options.rs; others are ENOPROTOOPT",
    ),
    partial(55, "getsockopt", getsockopt, "as setsockopt"),
    full(288, "accept4", accept4),
    partial(299, "recvmmsg", recvmmsg, "as recvmsg"),
    partial(307, "sendmmsg", sendmmsg, "as sendmsg"),
];

const CLOEXEC: u32 = 0o2_000_000;
const NONBLOCK: u32 = status::NONBLOCK;

/// Who calls, as the other end will see it.
fn caller(cx: &Cx<'_>) -> Peer {
    let credentials = cx.credentials();
    Peer { pid: cx.process().pid(), uid: credentials.user.effective, gid: credentials.group.effective }
}

/// The socket behind a description. `EBADF` for `O_PATH`, `ENOTSOCK` for anything else.
fn socket_of(file: &Description) -> Result<&dyn Socket, Errno> {
    if file.is_path() {
        return Err(Errno::BADF);
    }
    match file.object().kind() {
        Kind::Socket(socket) => Ok(socket),
        _ => Err(Errno::NOTSOCK),
    }
}

fn describe(object: Box<dyn FileObject>, flags: u32) -> Arc<Description> {
    Description::new(object, status::READ_WRITE | flags & NONBLOCK, None)
}

/// Splits the type argument of `socket`. `EINVAL` for unknown flags and types.
fn split_type(argument: u64) -> Result<(SocketType, u32), Errno> {
    let argument = argument as u32;
    let flags = argument & !0xf;
    if flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    Ok((SocketType::decode(argument & 0xf)?, flags))
}

/// `EAFNOSUPPORT` for families nobody implements; then as each family says.
fn socket(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [family, kind, protocol, ..] = arguments;
    let (kind, flags) = split_type(kind)?;
    let network = &cx.kernel.registry.inet;
    let creator = caller(cx);
    let object: Box<dyn FileObject> = match u16::try_from(family).map_err(|_| Errno::AFNOSUPPORT)? {
        AF_UNIX if protocol > 1 => return Err(Errno::PROTONOSUPPORT.into()),
        AF_UNIX => Box::new(UnixSocket::new(kind, creator)),
        family @ (AF_INET | AF_INET6) => {
            Box::new(InetSocket::new(network, family, kind, protocol as u32, creator)?)
        }
        AF_NETLINK => Box::new(NetlinkSocket::new(network, kind, protocol as u32, creator)?),
        _ => return Err(Errno::AFNOSUPPORT.into()),
    };
    install(cx, describe(object, flags), flags & CLOEXEC != 0)
}

/// `EOPNOTSUPP` for other families than `AF_UNIX`.
fn socketpair(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [family, kind, protocol, address, ..] = arguments;
    let (kind, flags) = split_type(kind)?;
    match family as u16 {
        AF_UNIX if protocol > 1 => return Err(Errno::PROTONOSUPPORT.into()),
        AF_UNIX => {}
        AF_INET | AF_INET6 => return Err(Errno::OPNOTSUPP.into()),
        _ => return Err(Errno::AFNOSUPPORT.into()),
    }
    let (one, other) = UnixSocket::pair(kind, caller(cx));
    let ends = [describe(Box::new(one), flags), describe(Box::new(other), flags)];
    install_pair(cx, ends, flags & CLOEXEC != 0, address)
}

/// Copies an address in. `EINVAL` for a length out of range.
fn read_address(cx: &Cx<'_>, address: u64, length: u64) -> Result<Address, Errno> {
    let length =
        usize::try_from(length as i32).ok().filter(|length| *length <= MAX_ADDRESS).ok_or(Errno::INVAL)?;
    Address::decode(&cx.memory().read_vec(address, length)?)
}

/// Copies an address out: as much as fits, and its true length. `EINVAL` for a negative length.
fn write_address(cx: &Cx<'_>, value: &Address, address: u64, length_address: u64) -> Result<(), Errno> {
    let room = usize::try_from(cx.memory().load::<i32>(length_address)?).map_err(|_| Errno::INVAL)?;
    let bytes = value.encode();
    cx.memory().write_bytes(address, &bytes[..bytes.len().min(room)])?;
    cx.memory().store(length_address, bytes.len() as u32)
}

/// Finds what an address leads to. A path has to be a socket that may be written.
fn destination(cx: &Cx<'_>, address: Address) -> Result<Destination, Errno> {
    let names = &cx.kernel.registry.unix;
    match address {
        Address::Unix(UnixName::Path(path)) => {
            let base = place::base(cx, AT_FDCWD as u64, &path)?;
            let follow = cooper_vfs::Follow::Yes;
            let position = cx.kernel.root_fs.resolve(&cx.walk(), &base, &path, follow)?;
            position.access(&cx.walk(), AccessMode::WRITE)?;
            if position.kind() != FileKind::Socket {
                return Err(Errno::CONNREFUSED);
            }
            Ok(Destination::Unix(names.at(&position.node())?))
        }
        Address::Unix(UnixName::Abstract(name)) => Ok(Destination::Unix(names.named(&name)?)),
        Address::Unix(UnixName::Unnamed) => Err(Errno::INVAL),
        other => Ok(Destination::Address(other)),
    }
}

/// `EINVAL` when the socket has an address; `EADDRINUSE`; for a path what making the node says.
fn bind(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, ..] = arguments;
    let file = cx.file(number)?;
    let socket = socket_of(&file)?;
    let address = read_address(cx, address, length)?;
    let Some(core) = socket.as_unix() else {
        socket.bind(&address)?;
        return Ok(0);
    };
    match address {
        Address::Unix(UnixName::Path(path)) => bind_path(cx, core, path)?,
        Address::Unix(UnixName::Abstract(name)) => {
            core.bind_abstract(&cx.kernel.registry.unix, Some(name))?;
        }
        Address::Unix(UnixName::Unnamed) => core.bind_abstract(&cx.kernel.registry.unix, None)?,
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

fn bind_path(cx: &Cx<'_>, core: &Arc<UnixCore>, path: Vec<u8>) -> Result<(), Errno> {
    let base = place::base(cx, AT_FDCWD as u64, &path)?;
    let mode = 0o140_000 | 0o777 & !cx.fs().umask();
    let made = cx.kernel.root_fs.make_node(&cx.walk(), &base, &path, mode, 0);
    let position = made.map_err(|error| if error == Errno::EXIST { Errno::ADDRINUSE } else { error })?;
    // Linux makes the node first, so that a name that exists is told before a socket that is bound.
    let bound = core.bind_path(&cx.kernel.registry.unix, path.clone(), position.node());
    if bound.is_err() {
        cx.kernel.root_fs.unlink(&cx.walk(), &base, &path)?;
    }
    bound
}

fn listen(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    socket_of(&file)?.listen(arguments[1] as i32)?;
    Ok(0)
}

/// How long a call on a socket waits: not with `O_NONBLOCK` or `MSG_DONTWAIT`, and not beyond the socket's timeout.
fn patience(file: &Description, socket: &dyn Socket, flags: u32, timeout: i32) -> Patience {
    if file.nonblocking() || flags & message::DONTWAIT != 0 {
        return Patience::None;
    }
    let deadline =
        socket.common().options.timeout(timeout).and_then(|limit| Instant::now().checked_add(limit));
    deadline.map_or(Patience::Forever, Patience::Until)
}

/// A wait with a socket timeout is not restarted (signal(7)).
fn interrupted(result: SysError, patience: Patience) -> SysError {
    match (result, patience) {
        (SysError::Restart, Patience::Until(_)) => SysError::Errno(Errno::INTR),
        (result, _) => result,
    }
}

fn connect(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, ..] = arguments;
    let file = cx.file(number)?;
    let socket = socket_of(&file)?;
    let to = destination(cx, read_address(cx, address, length)?)?;
    let (caller, patience) = (caller(cx), patience(&file, socket, 0, so::SNDTIMEO));
    let started = until_done(cx, file.object(), None, patience, || socket.connect(&to, caller));
    let waits = matches!(started, Err(SysError::Errno(Errno::INPROGRESS | Errno::ALREADY)))
        && patience != Patience::None;
    if !waits {
        started.map_err(|error| interrupted(error, patience))?;
        return Ok(0);
    }
    match until_done(cx, file.object(), None, patience, || socket.finish_connect()) {
        Ok(()) => Ok(0),
        Err(SysError::Errno(Errno::AGAIN)) => Err(Errno::INPROGRESS.into()),
        // The connection goes on; a call that is made again finds it.
        Err(error) => Err(interrupted(error, patience)),
    }
}

fn accept(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    accept_with(cx, arguments, 0)
}

fn accept4(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    accept_with(cx, arguments, arguments[3] as u32)
}

fn accept_with(cx: &Cx<'_>, [number, address, length, ..]: [u64; 6], flags: u32) -> SysResult {
    if flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(number)?;
    let socket = socket_of(&file)?;
    let (caller, patience) = (caller(cx), patience(&file, socket, 0, so::RCVTIMEO));
    let accepted = until_done(cx, file.object(), None, patience, || socket.accept(caller))
        .map_err(|error| interrupted(error, patience))?;
    if address != 0 {
        write_address(cx, &accepted.peer, address, length)?;
    }
    install(cx, describe(accepted.socket, flags), flags & CLOEXEC != 0)
}

fn getsockname(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    write_address(cx, &socket_of(&file)?.name(), arguments[1], arguments[2])?;
    Ok(0)
}

fn getpeername(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    write_address(cx, &socket_of(&file)?.peer_name()?, arguments[1], arguments[2])?;
    Ok(0)
}

fn shutdown(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    let halves = match arguments[1] {
        0 => Shutdown::READ,
        1 => Shutdown::WRITE,
        2 => Shutdown::all(),
        _ => return Err(Errno::INVAL.into()),
    };
    socket_of(&file)?.shutdown(halves)?;
    Ok(0)
}

// ---- messages

/// Flags of send and receive calls.
mod message {
    pub(super) const OOB: u32 = 1;
    pub(super) const PEEK: u32 = 2;
    pub(super) const CTRUNC: u32 = 8;
    pub(super) const TRUNC: u32 = 0x20;
    pub(super) const DONTWAIT: u32 = 0x40;
    pub(super) const EOR: u32 = 0x80;
    pub(super) const WAITALL: u32 = 0x100;
    pub(super) const ERRQUEUE: u32 = 0x2000;
    pub(super) const NOSIGNAL: u32 = 0x4000;
    pub(super) const WAITFORONE: u32 = 0x1_0000;
    pub(super) const CMSG_CLOEXEC: u32 = 0x4000_0000;
}

/// `struct msghdr`.
struct Header {
    name: u64,
    name_length: u32,
    vector: u64,
    vector_length: u64,
    control: u64,
    control_length: u64,
}

/// Offset of `msg_namelen`, `msg_controllen` and `msg_flags`.
const NAME_LENGTH_AT: u64 = 8;
const CONTROL_LENGTH_AT: u64 = 40;
const FLAGS_AT: u64 = 48;
/// Size of `struct msghdr` and of `struct mmsghdr`.
const HEADER_SIZE: u64 = 56;
const MANY_STRIDE: u64 = 64;
/// The most messages of one `sendmmsg` or `recvmmsg` (`UIO_MAXIOV`).
const MAX_MESSAGES: u64 = 1024;
/// The most ancillary data of one message.
const MAX_CONTROL: u64 = 64 * 1024;
/// The most descriptors of one message (`SCM_MAX_FD`).
const MAX_RIGHTS: usize = 253;

const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;

impl Header {
    fn read(cx: &Cx<'_>, address: u64) -> Result<Self, Errno> {
        let words = cx.memory().load::<[u64; 7]>(address)?;
        Ok(Self {
            name: words[0],
            name_length: words[1] as u32,
            vector: words[2],
            vector_length: words[3],
            control: words[4],
            control_length: words[5],
        })
    }
}

fn sendto(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, flags, to, to_length] = arguments;
    let file = cx.file(number)?;
    let to = if to == 0 { Destination::Peer } else { destination(cx, read_address(cx, to, to_length)?)? };
    let ancillary = Ancillary { rights: Vec::new(), credentials: caller(cx) };
    send(cx, &file, &Buffer::one(address, length), &to, ancillary, flags as u32)
}

fn sendmsg(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    send_message(cx, &file, arguments[1], arguments[2] as u32)
}

fn send_message(cx: &Cx<'_>, file: &Description, address: u64, flags: u32) -> SysResult {
    socket_of(file)?;
    let header = Header::read(cx, address)?;
    let to = if header.name == 0 || header.name_length == 0 {
        Destination::Peer
    } else {
        destination(cx, read_address(cx, header.name, u64::from(header.name_length))?)?
    };
    if header.vector_length > MAX_MESSAGES {
        return Err(Errno::MSGSIZE.into());
    }
    let buffer = Buffer::many(cx.memory(), header.vector, header.vector_length)?;
    let ancillary = read_control(cx, &header)?;
    send(cx, file, &buffer, &to, ancillary, flags)
}

/// Reads ancillary data.
///
/// `ENOBUFS` when it is too long; `EINVAL` for headers that do not fit and for unknown kinds; `EBADF` for numbers that
/// are not open; `EPERM` for credentials of somebody else.
fn read_control(cx: &Cx<'_>, header: &Header) -> Result<Ancillary, Errno> {
    let own = caller(cx);
    let mut ancillary = Ancillary { rights: Vec::new(), credentials: own };
    if header.control == 0 || header.control_length == 0 {
        return Ok(ancillary);
    }
    if header.control_length > MAX_CONTROL {
        return Err(Errno::NOBUFS);
    }
    let bytes = cx.memory().read_vec(header.control, header.control_length as usize)?;
    let mut rest = bytes.as_slice();
    while rest.len() >= 16 {
        let length = usize::from_le_bytes(*rest.first_chunk().ok_or(Errno::INVAL)?);
        if length < 16 || length > rest.len() {
            return Err(Errno::INVAL);
        }
        let word = |at: usize| i32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let data = &rest[16..length];
        match (word(8), word(12)) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                for number in data.chunks_exact(4) {
                    let number = i32::from_le_bytes([number[0], number[1], number[2], number[3]]);
                    ancillary.rights.push(cx.files().get(number)?);
                }
                if ancillary.rights.len() > MAX_RIGHTS {
                    return Err(Errno::INVAL);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) if data.len() >= 12 => {
                let id = |at: usize| u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
                let claimed = Peer { pid: id(0), uid: id(4), gid: id(8) };
                let credentials = cx.credentials();
                let user = [credentials.user.real, credentials.user.effective, credentials.user.saved];
                let group = [credentials.group.real, credentials.group.effective, credentials.group.saved];
                let honest =
                    claimed.pid == own.pid && user.contains(&claimed.uid) && group.contains(&claimed.gid);
                if !honest && credentials.user.effective != 0 {
                    return Err(Errno::PERM);
                }
                ancillary.credentials = claimed;
            }
            _ => return Err(Errno::INVAL),
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(ancillary)
}

/// `EOPNOTSUPP` for `MSG_OOB`; `EPIPE` with `SIGPIPE` unless `MSG_NOSIGNAL`; then as the socket says.
fn send(
    cx: &Cx<'_>,
    file: &Description,
    buffer: &Buffer,
    to: &Destination,
    ancillary: Ancillary,
    flags: u32,
) -> SysResult {
    let socket = socket_of(file)?;
    if flags & message::OOB != 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    let patience = patience(file, socket, flags, so::SNDTIMEO);
    let room: Option<Arc<Readiness>> = match to {
        Destination::Unix(core) => Some(Arc::clone(core.changed())),
        _ => None,
    };
    let length = buffer.length();
    let (mut total, mut ancillary) = (0, Some(ancillary));
    loop {
        let result = until_done(cx, file.object(), room.as_ref(), patience, || {
            let carried = ancillary.clone().unwrap_or_default();
            socket.send(&mut GuestInput::new(cx.memory(), buffer, total), to, carried)
        });
        match result {
            Ok(count) => {
                total += count;
                // Descriptors travel with the first bytes only; the credentials with all.
                if let Some(ancillary) = &mut ancillary {
                    ancillary.rights.clear();
                }
                if total >= length || count == 0 || !socket.writes_everything() {
                    return Ok(total as u64);
                }
            }
            Err(error) => {
                let broken =
                    error == SysError::Errno(Errno::PIPE) && socket.common().kind != SocketType::Datagram;
                if broken && flags & message::NOSIGNAL == 0 && total == 0 {
                    raise(cx, signal::PIPE);
                }
                return if total > 0 { Ok(total as u64) } else { Err(interrupted(error, patience)) };
            }
        }
    }
}

fn sendmmsg(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, count, flags, ..] = arguments;
    let file = cx.file(number)?;
    let mut sent = 0;
    for index in 0..count.min(MAX_MESSAGES) {
        let entry = address.wrapping_add(index * MANY_STRIDE);
        let result = send_message(cx, &file, entry, flags as u32).and_then(|length| {
            cx.memory().store(entry.wrapping_add(HEADER_SIZE), length as u32)?;
            Ok(())
        });
        match result {
            Ok(()) => sent += 1,
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Receives bytes or a packet into a buffer, waiting if the call may.
fn receive(cx: &Cx<'_>, file: &Description, buffer: &Buffer, flags: u32) -> Result<Received, SysError> {
    let socket = socket_of(file)?;
    if flags & message::OOB != 0 {
        return Err(Errno::INVAL.into());
    }
    if flags & message::ERRQUEUE != 0 {
        return Err(Errno::AGAIN.into());
    }
    let take = if flags & message::PEEK != 0 { Take::Peek } else { Take::Consume };
    let patience = patience(file, socket, flags, so::RCVTIMEO);
    let stream = socket.common().kind == SocketType::Stream;
    // A stream read of nothing does not wait.
    if stream && buffer.length() == 0 {
        return Ok(Received::default());
    }
    let mut received = until_done(cx, file.object(), None, patience, || {
        socket.receive(&mut GuestOutput::new(cx.memory(), buffer, 0), take)
    })
    .map_err(|error| interrupted(error, patience))?;
    let wants_all = flags & message::WAITALL != 0 && stream && take == Take::Consume;
    while wants_all && received.count < buffer.length() && !received.end {
        let more = until_done(cx, file.object(), None, patience, || {
            socket.receive(&mut GuestOutput::new(cx.memory(), buffer, received.count), take)
        });
        match more {
            Ok(more) if !more.end => {
                received.count += more.count;
                received.ancillary.rights.extend(more.ancillary.rights);
            }
            _ => break,
        }
    }
    Ok(received)
}

fn recvfrom(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, length, flags, from, from_length] = arguments;
    let file = cx.file(number)?;
    let received = receive(cx, &file, &Buffer::one(address, length), flags as u32)?;
    if from != 0 {
        match &received.from {
            Some(sender) => write_address(cx, sender, from, from_length)?,
            None => cx.memory().store(from_length, 0u32)?,
        }
    }
    Ok(reported(&received, flags as u32))
}

/// The number a receive returns: with `MSG_TRUNC` the packet's true length.
fn reported(received: &Received, flags: u32) -> u64 {
    let count = if flags & message::TRUNC != 0 { received.length } else { received.count };
    count as u64
}

fn recvmsg(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let file = cx.file(arguments[0])?;
    receive_message(cx, &file, arguments[1], arguments[2] as u32)
}

fn receive_message(cx: &Cx<'_>, file: &Description, address: u64, flags: u32) -> SysResult {
    let header = Header::read(cx, address)?;
    if header.vector_length > MAX_MESSAGES {
        return Err(Errno::MSGSIZE.into());
    }
    let buffer = Buffer::many(cx.memory(), header.vector, header.vector_length)?;
    let received = receive(cx, file, &buffer, flags)?;
    let socket = socket_of(file)?;
    let mut answer_flags = flags & message::CMSG_CLOEXEC;
    if header.name != 0 {
        let bytes = received.from.as_ref().map(Address::encode).unwrap_or_default();
        let room = bytes.len().min(header.name_length as usize);
        cx.memory().write_bytes(header.name, &bytes[..room])?;
        cx.memory().store(address.wrapping_add(NAME_LENGTH_AT), bytes.len() as u32)?;
    }
    if received.length > received.count {
        answer_flags |= message::TRUNC;
    }
    if socket.common().kind == SocketType::Packets && !received.end {
        answer_flags |= message::EOR;
    }
    let count = reported(&received, flags);
    let written = write_control(cx, socket, &header, received, flags, &mut answer_flags)?;
    cx.memory().store(address.wrapping_add(CONTROL_LENGTH_AT), written)?;
    cx.memory().store(address.wrapping_add(FLAGS_AT), answer_flags)?;
    Ok(count)
}

/// Writes ancillary data and gives the caller the descriptors in it; what does not fit is closed (`MSG_CTRUNC`).
fn write_control(
    cx: &Cx<'_>,
    socket: &dyn Socket,
    header: &Header,
    received: Received,
    flags: u32,
    answer_flags: &mut u32,
) -> Result<u64, Errno> {
    let room = if header.control == 0 { 0 } else { header.control_length.min(MAX_CONTROL) as usize };
    let mut control = Control { bytes: Vec::new(), room };
    if socket.as_unix().is_some() && socket.common().options.is_set(SOL_SOCKET, so::PASSCRED) {
        let Peer { pid, uid, gid } = received.ancillary.credentials;
        let data: Vec<u8> = [pid, uid, gid].iter().flat_map(|id| id.to_le_bytes()).collect();
        if !control.push(SCM_CREDENTIALS, &data) {
            *answer_flags |= message::CTRUNC;
        }
    }
    if !received.ancillary.rights.is_empty() {
        let fits = control.space() / 4;
        let mut numbers = Vec::new();
        let limit = cx.process().limit(resource::NOFILE);
        for description in received.ancillary.rights.iter().take(fits) {
            let close_on_exec = flags & message::CMSG_CLOEXEC != 0;
            match cx.files().insert(Arc::clone(description), 0, close_on_exec, limit) {
                Ok(number) => numbers.extend(number.to_le_bytes()),
                Err(_) => break,
            }
        }
        if numbers.len() / 4 < received.ancillary.rights.len() {
            *answer_flags |= message::CTRUNC;
        }
        if !numbers.is_empty() {
            control.push(SCM_RIGHTS, &numbers);
        }
    }
    cx.memory().write_bytes(header.control, &control.bytes)?;
    Ok(control.bytes.len() as u64)
}

/// Ancillary data being written.
struct Control {
    bytes: Vec<u8>,
    room: usize,
}

impl Control {
    /// Bytes of data that one more header leaves room for.
    fn space(&self) -> usize {
        self.room.saturating_sub(self.bytes.len().next_multiple_of(8) + 16)
    }

    /// Adds one piece; returns whether it fitted.
    fn push(&mut self, kind: i32, data: &[u8]) -> bool {
        if data.len() > self.space() || self.room < 16 {
            return false;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.extend((16 + data.len()).to_le_bytes());
        self.bytes.extend(SOL_SOCKET.to_le_bytes());
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(data);
        let padded = self.bytes.len().next_multiple_of(8).min(self.room);
        self.bytes.resize(padded, 0);
        true
    }
}

fn recvmmsg(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, address, count, flags, timeout, _] = arguments;
    let file = cx.file(number)?;
    let deadline = if timeout == 0 {
        None
    } else {
        let [seconds, nanoseconds] = cx.memory().load::<[u64; 2]>(timeout)?;
        if nanoseconds >= 1_000_000_000 {
            return Err(Errno::INVAL.into());
        }
        Instant::now().checked_add(Duration::new(seconds, nanoseconds as u32))
    };
    let (mut received, mut flags) = (0, flags as u32);
    for index in 0..count.min(MAX_MESSAGES) {
        let entry = address.wrapping_add(index * MANY_STRIDE);
        let result = receive_message(cx, &file, entry, flags & !message::WAITFORONE).and_then(|length| {
            cx.memory().store(entry.wrapping_add(HEADER_SIZE), length as u32)?;
            Ok(())
        });
        match result {
            Ok(()) => received += 1,
            Err(_) if received > 0 => break,
            Err(error) => return Err(error),
        }
        if flags & message::WAITFORONE != 0 {
            flags |= message::DONTWAIT;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
    }
    Ok(received)
}

// ---- options

/// The longest option value that is read.
const MAX_OPTION: u64 = 4096;

fn setsockopt(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, level, name, address, length, _] = arguments;
    let file = cx.file(number)?;
    let socket = socket_of(&file)?;
    let (level, name) = (level as i32, name as i32);
    if length as i32 as i64 != length as i64 || length > MAX_OPTION {
        return Err(Errno::INVAL.into());
    }
    let value = cx.memory().read_vec(address, length as usize)?;
    let stored = socket.common().options.set(level, name, &value)?;
    socket.apply_option(level, name, &stored);
    Ok(0)
}

fn getsockopt(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [number, level, name, address, length_address, _] = arguments;
    let file = cx.file(number)?;
    let socket = socket_of(&file)?;
    let room = usize::try_from(cx.memory().load::<i32>(length_address)?).map_err(|_| Errno::INVAL)?;
    let integer = |value: u32| value.to_ne_bytes().to_vec();
    let common = socket.common();
    let value = match (level as i32, name as i32) {
        (SOL_SOCKET, so::TYPE) => integer(common.kind.number()),
        (SOL_SOCKET, so::ERROR) => {
            integer(socket.take_error().map_or(0, |error| error.raw_os_error().unsigned_abs()))
        }
        (SOL_SOCKET, so::ACCEPTCONN) => integer(u32::from(socket.is_listening())),
        (SOL_SOCKET, so::PROTOCOL) => integer(common.protocol),
        (SOL_SOCKET, so::DOMAIN) => integer(u32::from(common.family)),
        (SOL_SOCKET, so::PEERCRED) => {
            // Without a peer: no process, no user.
            let none = Peer { pid: 0, uid: u32::MAX, gid: u32::MAX };
            let Peer { pid, uid, gid } = socket.peer_credentials().unwrap_or(none);
            [pid, uid, gid].iter().flat_map(|id| id.to_ne_bytes()).collect()
        }
        (level, name) => common.options.get(level, name)?,
    };
    let count = value.len().min(room);
    cx.memory().write_bytes(address, &value[..count])?;
    cx.memory().store(length_address, count as u32)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_aligned_and_bounded() {
        let mut control = Control { bytes: Vec::new(), room: 64 };
        assert!(control.push(SCM_CREDENTIALS, &[1; 12]));
        assert_eq!(
            (control.bytes.len(), control.bytes[0], control.bytes[8], control.bytes[12]),
            (32, 28, 1, 2)
        );
        assert_eq!(control.space(), 16);
        assert!(!control.push(SCM_RIGHTS, &[2; 20]));
        assert!(control.push(SCM_RIGHTS, &[2; 4]));
        assert_eq!((control.bytes.len(), control.bytes[32]), (56, 20));
        let mut short = Control { bytes: Vec::new(), room: 20 };
        assert!(short.push(SCM_RIGHTS, &[3; 4]));
        assert_eq!(short.bytes.len(), 20);
    }

    #[test]
    fn types_carry_flags() {
        assert_eq!(split_type(1 | u64::from(CLOEXEC)), Ok((SocketType::Stream, CLOEXEC)));
        assert_eq!(split_type(1 | 0x40).err(), Some(Errno::INVAL));
        assert_eq!(split_type(7).err(), Some(Errno::INVAL));
    }
}
