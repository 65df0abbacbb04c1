//! Host descriptors: the thread that watches them, and sockets that leave the step.
//!
//! Every host descriptor that can make a guest wait is registered once, edge-triggered, with one `epoll` set; one
//! thread waits for it and wakes the descriptor's [`Readiness`]. The attempts themselves are non-blocking calls on
//! the guest's own thread.
//!
//! What must hold: an attempt that finds nothing comes after the registration, so the edge that follows is seen.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustix::event::{PollFd, PollFlags, epoll};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType as HostType, sockopt};

use super::{Shutdown, SocketType};
use crate::files::transfer::with_bounce;
use crate::files::{Errno, Input, Output, Readiness, Ready, lock};

/// The error number of a host call.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Wakes a [`Readiness`] when its host descriptor changes.
#[derive(Debug, Default)]
pub(crate) struct HostPoller {
    inner: OnceLock<Option<Arc<Inner>>>,
}

#[derive(Debug)]
struct Inner {
    set: OwnedFd,
    /// Written to once, to end the thread.
    stop: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    by_key: HashMap<u64, Weak<Readiness>>,
    next: u64,
}

/// The key of the descriptor that ends the thread.
const STOP: u64 = 0;

/// Events one wait fetches.
const BATCH: usize = 64;

impl HostPoller {
    /// Wakes `readiness` from now on whenever the state of `descriptor` changes, until it is closed.
    ///
    /// `EPERM` for a file that is always ready; `EMFILE` and its kin when the host refuses.
    pub(crate) fn watch(&self, descriptor: impl AsFd, readiness: &Arc<Readiness>) -> Result<(), Errno> {
        let inner = self.inner.get_or_init(|| Inner::start().ok()).as_ref().ok_or(Errno::MFILE)?;
        let mut watched = lock(&inner.watched);
        watched.by_key.retain(|_, readiness| readiness.strong_count() > 0);
        watched.next += 1;
        let key = watched.next;
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::PRI
            | epoll::EventFlags::ET;
        epoll::add(&inner.set, descriptor, epoll::EventData::new_u64(key), flags)?;
        watched.by_key.insert(key, Arc::downgrade(readiness));
        Ok(())
    }
}

impl Inner {
    fn start() -> io::Result<Arc<Self>> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        epoll::add(&set, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let inner = Arc::new(Self { set, stop, watched: Mutex::default() });
        let worker = Arc::clone(&inner);
        std::thread::Builder::new().name("host poller".into()).spawn(move || worker.run())?;
        Ok(inner)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            events.clear();
            match epoll::wait(&self.set, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return,
            }
            for event in &events {
                let key = event.data.u64();
                if key == STOP {
                    return;
                }
                let readiness = lock(&self.watched).by_key.get(&key).and_then(Weak::upgrade);
                if let Some(readiness) = readiness {
                    readiness.wake();
                }
            }
        }
    }
}

impl Drop for HostPoller {
    fn drop(&mut self) {
        let Some(Some(inner)) = self.inner.take() else { return };
        // Failing to write would leave the thread waiting until the process ends, which is all it can do.
        let _ = rustix::io::write(&inner.stop, &1u64.to_ne_bytes());
    }
}

/// A socket of the host, for addresses outside the step.
#[derive(Debug)]
pub(crate) struct HostSocket {
    socket: OwnedFd,
    kind: SocketType,
}

impl HostSocket {
    /// Opens a socket for addresses like `address`. `ESOCKTNOSUPPORT` for other types than streams and datagrams.
    pub(crate) fn open(
        kind: SocketType,
        address: &SocketAddr,
        poller: &HostPoller,
        changed: &Arc<Readiness>,
    ) -> Result<Self, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let host_type = match kind {
            SocketType::Stream => HostType::STREAM,
            SocketType::Datagram => HostType::DGRAM,
            SocketType::Raw | SocketType::Packets => return Err(Errno::SOCKTNOSUPPORT),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(family, host_type, flags, None)?;
        poller.watch(&socket, changed)?;
        Ok(Self { socket, kind })
    }

    /// Connects to a local socket of the host. `ECONNREFUSED` when it is not there.
    pub(crate) fn open_local(
        path: &Path,
        poller: &HostPoller,
        changed: &Arc<Readiness>,
    ) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, HostType::STREAM, flags, None)?;
        let address = net::SocketAddrUnix::new(path).map_err(|_| Errno::CONNREFUSED)?;
        net::connect(&socket, &address).map_err(|error| match error {
            Errno::NOENT | Errno::ACCESS | Errno::NOTDIR => Errno::CONNREFUSED,
            error => error,
        })?;
        poller.watch(&socket, changed)?;
        Ok(Self { socket, kind: SocketType::Stream })
    }

    /// Starts to connect; `EINPROGRESS` for streams, as a rule.
    pub(crate) fn connect(&self, address: &SocketAddr) -> Result<(), Errno> {
        net::connect(&self.socket, address)
    }

    /// How a connect ended; `EAGAIN` while it has not.
    pub(crate) fn finish_connect(&self) -> Result<(), Errno> {
        let ready = self.poll();
        if !ready.intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
            return Err(Errno::AGAIN);
        }
        self.take_error().map_or(Ok(()), Err)
    }

    /// The pending error.
    pub(crate) fn take_error(&self) -> Option<Errno> {
        match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) | Err(_) => None,
            Ok(Err(error)) => Some(error),
        }
    }

    /// What the socket is ready for.
    pub(crate) fn poll(&self) -> Ready {
        let flags = PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP | PollFlags::PRI;
        let mut descriptors = [PollFd::new(&self.socket, flags)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut descriptors, Some(&now)).is_err() {
            return Ready::ERR;
        }
        let found = descriptors[0].revents();
        let mut ready = Ready::from_bits_truncate(u32::from(found.bits()));
        if ready.contains(Ready::IN) {
            ready |= Ready::RDNORM;
        }
        if ready.contains(Ready::OUT) {
            ready |= Ready::WRNORM;
        }
        ready
    }

    /// Sends to the peer, or a datagram to an address.
    pub(crate) fn send(&self, input: &mut dyn Input, to: Option<&SocketAddr>) -> Result<usize, Errno> {
        if self.kind == SocketType::Datagram {
            let length = input.remaining();
            if length > 65_535 {
                return Err(Errno::MSGSIZE);
            }
            let bytes = super::mailbox::gather(input, length)?;
            return match to {
                Some(to) => net::sendto(&self.socket, &bytes, SendFlags::NOSIGNAL, to),
                None => net::send(&self.socket, &bytes, SendFlags::NOSIGNAL),
            };
        }
        with_bounce(|bounce| {
            let mut total = 0;
            while input.remaining() > 0 {
                let sent = match input.take(bounce) {
                    Ok(count) => net::send(&self.socket, &bounce[..count], SendFlags::NOSIGNAL)
                        .map(|sent| (count, sent)),
                    Err(error) => Err(error),
                };
                match sent {
                    Ok((count, sent)) => {
                        total += sent;
                        if sent < count {
                            break;
                        }
                    }
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(total)
        })
    }

    /// Receives; returns the count stored, the length of the datagram and its sender.
    pub(crate) fn receive(
        &self,
        output: &mut dyn Output,
        peek: bool,
    ) -> Result<(usize, usize, Option<SocketAddr>), Errno> {
        with_bounce(|bounce| {
            let mut flags = RecvFlags::empty();
            flags.set(RecvFlags::PEEK, peek);
            let want = match self.kind {
                SocketType::Datagram => bounce.len(),
                _ => output.remaining().min(bounce.len()),
            };
            if want == 0 {
                return Ok((0, 0, None));
            }
            let (count, _, from) = net::recvfrom(&self.socket, &mut bounce[..want], flags)?;
            let from = from.and_then(|address| SocketAddr::try_from(address).ok());
            let stored = if count == 0 { 0 } else { output.put(&bounce[..count])? };
            Ok((stored, count, from))
        })
    }

    /// Shuts halves down.
    pub(crate) fn shutdown(&self, halves: Shutdown) -> Result<(), Errno> {
        let how = match (halves.contains(Shutdown::READ), halves.contains(Shutdown::WRITE)) {
            (true, true) => net::Shutdown::Both,
            (true, false) => net::Shutdown::Read,
            _ => net::Shutdown::Write,
        };
        net::shutdown(&self.socket, how)
    }

    /// Bytes that can be read now.
    pub(crate) fn readable_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.socket).unwrap_or(0)
    }

    /// Turns an option on or off that changes how packets are sent.
    pub(crate) fn apply_option(&self, level: i32, name: i32, value: i32) {
        // Hints to the transport: a host that refuses one changes nothing a guest can see.
        let on = value != 0;
        let _ = match (level, name) {
            (6, 1) => sockopt::set_tcp_nodelay(&self.socket, on),
            (1, 9) => sockopt::set_socket_keepalive(&self.socket, on),
            (1, 6) => sockopt::set_socket_broadcast(&self.socket, on),
            _ => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::transfer::{HostInput, HostOutput};
    use crate::wait::{Interrupts, Sleeper, WaitEnd};

    struct Never;

    impl Interrupts for Never {
        fn interruption(&self) -> Option<WaitEnd> {
            None
        }
    }

    #[test]
    fn a_stream_to_the_host_connects_sends_and_receives() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().expect("the listener is bound");
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the test connects");
            io::copy(&mut stream.try_clone().expect("a socket can be cloned"), &mut stream)
        });
        let (poller, changed) = (HostPoller::default(), Readiness::new());
        let socket = HostSocket::open(SocketType::Stream, &address, &poller, &changed)
            .expect("the host gives sockets");
        let wait = |attempt: &mut dyn FnMut() -> Option<Result<usize, Errno>>| {
            Sleeper::new()
                .wait(&Never, &[changed.queue()], None, attempt)
                .expect("nothing interrupts the test")
        };
        let started = socket.connect(&address);
        assert!(started == Ok(()) || started == Err(Errno::INPROGRESS));
        let unless_again =
            |result: Result<usize, Errno>| if result == Err(Errno::AGAIN) { None } else { Some(result) };
        assert_eq!(wait(&mut || unless_again(socket.finish_connect().map(|()| 0))), Ok(0));
        assert_eq!(wait(&mut || unless_again(socket.send(&mut HostInput::new(b"hello"), None))), Ok(5));
        let mut buffer = [0; 8];
        let mut receive =
            || unless_again(socket.receive(&mut HostOutput::new(&mut buffer), false).map(|r| r.0));
        assert_eq!(wait(&mut receive), Ok(5));
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(socket.shutdown(Shutdown::WRITE), Ok(()));
        assert!(echo.join().is_ok());
    }
}
