//! The receive queue of a socket inside the step.
//!
//! All in-kernel sockets work by mailboxes: sending puts into the peer's, receiving takes from one's own. A stream
//! joins messages at the reader; packet sockets keep them apart. Descriptors and credentials travel with the
//! message they were sent with, and a stream read never crosses from one set of descriptors into another
//! (unix(7)).
//!
//! What must hold: descriptions are dropped outside the mailbox's lock, as dropping one may close another socket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::address::Address;
use crate::files::transfer::with_bounce;
use crate::files::{Description, Errno, Input, Output, Readiness, lock};

/// Bytes a mailbox holds before senders wait: Linux's default of `net.core.rmem_default`.
pub(crate) const DEFAULT_CAPACITY: usize = 212_992;

/// Largest message of a packet socket.
const MAX_PACKET: usize = DEFAULT_CAPACITY - 32;

/// Messages a mailbox holds before senders wait, so that empty ones do not add up.
const MAX_MESSAGES: usize = 8192;

/// Writes below this size are joined with the one before, when nothing else travels with either.
const JOIN_BYTES: usize = 4096;

/// Who is at the other end of a local socket (`SO_PEERCRED`, `SCM_CREDENTIALS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Process id.
    pub(crate) pid: u32,
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
}

/// How messages are delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A byte stream.
    Stream,
    /// One receive, one message.
    Packets,
}

/// What is sent besides bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ancillary {
    /// Descriptions (`SCM_RIGHTS`).
    pub(crate) rights: Vec<Arc<Description>>,
    /// The sender (`SCM_CREDENTIALS`).
    pub(crate) credentials: Peer,
}

#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    /// Bytes a stream reader has taken already.
    taken: usize,
    from: Option<Address>,
    ancillary: Ancillary,
}

/// What a receive gives.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Bytes stored.
    pub(crate) count: usize,
    /// The length of the packet, which is more than `count` when it was cut.
    pub(crate) length: usize,
    /// The sender's address, for packets.
    pub(crate) from: Option<Address>,
    /// What travelled along.
    pub(crate) ancillary: Ancillary,
    /// Whether this is the end of the stream rather than an empty packet.
    pub(crate) end: bool,
}

/// Whether a receive takes what it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// The bytes are consumed.
    Consume,
    /// The bytes stay (`MSG_PEEK`).
    Peek,
}

/// The receive queue of one socket.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    framing: Framing,
    changed: Arc<Readiness>,
}

#[derive(Debug)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    capacity: usize,
    /// Nobody will write any more: the sender shut down or is gone.
    ended: bool,
    /// The sender is gone altogether (`POLLHUP`).
    hung_up: bool,
    /// The receiver shut down or is gone: senders get `EPIPE`.
    refused: bool,
    /// The sender went away with bytes unread: one receive gives `ECONNRESET`.
    reset: bool,
}

impl Mailbox {
    /// Makes an empty mailbox.
    pub(crate) fn new(framing: Framing) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                messages: VecDeque::new(),
                bytes: 0,
                capacity: DEFAULT_CAPACITY,
                ended: false,
                hung_up: false,
                refused: false,
                reset: false,
            }),
            framing,
            changed: Readiness::new(),
        })
    }

    /// Woken when a message arrives, when room becomes free and when either side ends.
    pub(crate) fn changed(&self) -> &Arc<Readiness> {
        &self.changed
    }

    /// Attempts to put a message.
    ///
    /// `EPIPE` when the receiver is gone; `EMSGSIZE` for a packet that can never fit; `EAGAIN` when there is no
    /// room: for a packet all of it, for a stream any at all.
    pub(crate) fn put(
        &self,
        input: &mut dyn Input,
        from: Option<Address>,
        ancillary: Ancillary,
    ) -> Result<usize, Errno> {
        let length = input.remaining();
        if self.framing == Framing::Packets && length > MAX_PACKET {
            return Err(Errno::MSGSIZE);
        }
        let mut state = lock(&self.state);
        if state.refused {
            return Err(Errno::PIPE);
        }
        let room = state.capacity.saturating_sub(state.bytes);
        let full = match self.framing {
            Framing::Stream if length == 0 => return Ok(0),
            Framing::Stream => room == 0,
            Framing::Packets => length > room && !state.messages.is_empty(),
        };
        if full || state.messages.len() >= MAX_MESSAGES {
            return Err(Errno::AGAIN);
        }
        let want = if self.framing == Framing::Stream { length.min(room) } else { length };
        let bytes = gather(input, want)?;
        let count = bytes.len();
        state.push(self.framing, Message { bytes, taken: 0, from, ancillary });
        drop(state);
        self.changed.wake();
        Ok(count)
    }

    /// Attempts to take a message, or bytes of the stream.
    ///
    /// `EAGAIN` while there is none and more may come; `ECONNRESET` once, when the sender left bytes unread.
    pub(crate) fn take(&self, output: &mut dyn Output, how: Take) -> Result<Received, Errno> {
        let mut finished = Vec::new();
        let mut state = lock(&self.state);
        if state.messages.is_empty() {
            if std::mem::take(&mut state.reset) {
                return Err(Errno::CONNRESET);
            }
            return if state.ended || state.refused {
                Ok(Received { end: true, ..Received::default() })
            } else {
                Err(Errno::AGAIN)
            };
        }
        let received = match self.framing {
            Framing::Stream => state.take_stream(output, how, &mut finished),
            Framing::Packets => state.take_packet(output, how, &mut finished),
        };
        drop(state);
        // Descriptions that nobody received are closed here, outside the lock.
        drop(finished);
        if how == Take::Consume {
            self.changed.wake();
        }
        received
    }

    /// Ends the stream from the sender's side.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.wake();
    }

    /// Ends the stream because the sender is gone; `lost` when it left bytes of ours unread.
    pub(crate) fn hang_up(&self, lost: bool) {
        let mut state = lock(&self.state);
        (state.ended, state.hung_up) = (true, true);
        state.reset |= lost;
        drop(state);
        self.changed.wake();
    }

    /// Refuses further messages from the receiver's side.
    pub(crate) fn refuse(&self) {
        lock(&self.state).refused = true;
        self.changed.wake();
    }

    /// Refuses further messages and throws away those that are here; returns whether there were any.
    pub(crate) fn close(&self) -> bool {
        let mut state = lock(&self.state);
        state.refused = true;
        state.bytes = 0;
        let messages = std::mem::take(&mut state.messages);
        drop(state);
        self.changed.wake();
        !messages.is_empty()
    }

    /// Whether a receive would give something: a message or the end.
    pub(crate) fn is_readable(&self) -> bool {
        let state = lock(&self.state);
        !state.messages.is_empty() || state.ended || state.refused || state.reset
    }

    /// Whether a send would be taken, or fail.
    pub(crate) fn is_writable(&self) -> bool {
        let state = lock(&self.state);
        state.refused || (state.bytes < state.capacity && state.messages.len() < MAX_MESSAGES)
    }

    /// Whether the sender has shut down.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.state).ended
    }

    /// Whether the sender is gone.
    pub(crate) fn has_hung_up(&self) -> bool {
        lock(&self.state).hung_up
    }

    /// Bytes in the queue, for packets those of the first (`FIONREAD`).
    pub(crate) fn readable_bytes(&self) -> u64 {
        let state = lock(&self.state);
        match self.framing {
            Framing::Stream => state.bytes as u64,
            Framing::Packets => state.messages.front().map_or(0, |message| message.bytes.len() as u64),
        }
    }

    /// Sets the capacity, within Linux's bounds.
    pub(crate) fn set_capacity(&self, bytes: usize) {
        lock(&self.state).capacity = bytes.clamp(2304, 2 * DEFAULT_CAPACITY);
        self.changed.wake();
    }
}

impl State {
    fn push(&mut self, framing: Framing, message: Message) {
        self.bytes += message.bytes.len();
        if let Some(last) = self.messages.back_mut()
            && framing == Framing::Stream
            && message.ancillary.rights.is_empty()
            && last.ancillary.rights.is_empty()
            && last.ancillary.credentials == message.ancillary.credentials
            && message.bytes.len() < JOIN_BYTES
            && last.bytes.len() < 8 * JOIN_BYTES
        {
            last.bytes.extend(message.bytes);
            return;
        }
        self.messages.push_back(message);
    }

    fn take_stream(
        &mut self,
        output: &mut dyn Output,
        how: Take,
        finished: &mut Vec<Message>,
    ) -> Result<Received, Errno> {
        let mut received = Received::default();
        let mut index = 0;
        while let Some(message) = self.messages.get_mut(index) {
            if received.count > 0 && !message.ancillary.rights.is_empty() {
                break;
            }
            let rest = &message.bytes[message.taken..];
            let want = rest.len().min(output.remaining());
            let count = match output.put(&rest[..want]) {
                Ok(count) => count,
                Err(_) if received.count > 0 => break,
                Err(error) => return Err(error),
            };
            received.count += count;
            received.ancillary.credentials = message.ancillary.credentials;
            let carried = !message.ancillary.rights.is_empty();
            let done = count == rest.len();
            if how == Take::Peek {
                received.ancillary.rights.clone_from(&message.ancillary.rights);
                index += 1;
            } else {
                received.ancillary.rights.append(&mut message.ancillary.rights);
                message.taken += count;
                self.bytes -= count;
                if done {
                    finished.extend(self.messages.pop_front());
                }
            }
            if !done || carried || output.remaining() == 0 {
                break;
            }
        }
        received.length = received.count;
        Ok(received)
    }

    fn take_packet(
        &mut self,
        output: &mut dyn Output,
        how: Take,
        finished: &mut Vec<Message>,
    ) -> Result<Received, Errno> {
        let Some(message) = self.messages.front_mut() else { return Err(Errno::AGAIN) };
        let want = message.bytes.len().min(output.remaining());
        let stored = if want == 0 { Ok(0) } else { output.put(&message.bytes[..want]) };
        let received = Received {
            count: want,
            length: message.bytes.len(),
            from: message.from.clone(),
            ancillary: message.ancillary.clone(),
            end: false,
        };
        if how == Take::Consume {
            self.bytes -= message.bytes.len();
            finished.extend(self.messages.pop_front());
        }
        // A packet is stored whole or not at all.
        if stored? < want { Err(Errno::FAULT) } else { Ok(received) }
    }
}

/// Copies `length` bytes out of an input; fewer when it faults in the middle.
pub(crate) fn gather(input: &mut dyn Input, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(length);
    with_bounce(|bounce| {
        while bytes.len() < length {
            let want = (length - bytes.len()).min(bounce.len());
            match input.take(&mut bounce[..want]) {
                Ok(count) => {
                    bytes.extend_from_slice(&bounce[..count]);
                    if count < want {
                        break;
                    }
                }
                Err(_) if !bytes.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::event::EventFile;
    use crate::files::transfer::{HostInput, HostOutput};

    fn put(mailbox: &Mailbox, bytes: &[u8]) -> Result<usize, Errno> {
        mailbox.put(&mut HostInput::new(bytes), None, Ancillary::default())
    }

    fn put_rights(mailbox: &Mailbox, bytes: &[u8]) -> Result<usize, Errno> {
        let file = Description::new(Box::new(EventFile::new(0, false)), 2, None);
        let ancillary = Ancillary { rights: vec![file], credentials: Peer::default() };
        mailbox.put(&mut HostInput::new(bytes), None, ancillary)
    }

    fn take(mailbox: &Mailbox, length: usize) -> Result<(Vec<u8>, usize, usize), Errno> {
        let mut buffer = vec![0; length];
        let received = mailbox.take(&mut HostOutput::new(&mut buffer), Take::Consume)?;
        buffer.truncate(received.count);
        Ok((buffer, received.length, received.ancillary.rights.len()))
    }

    #[test]
    fn a_stream_joins_and_packets_do_not() {
        let stream = Mailbox::new(Framing::Stream);
        assert_eq!((put(&stream, b"ab"), put(&stream, b"cd")), (Ok(2), Ok(2)));
        assert_eq!(take(&stream, 3), Ok((b"abc".to_vec(), 3, 0)));
        assert_eq!(take(&stream, 3), Ok((b"d".to_vec(), 1, 0)));
        assert_eq!(take(&stream, 3), Err(Errno::AGAIN));
        let packets = Mailbox::new(Framing::Packets);
        assert_eq!((put(&packets, b"abcd"), put(&packets, b""), put(&packets, b"e")), (Ok(4), Ok(0), Ok(1)));
        assert_eq!(take(&packets, 3), Ok((b"abc".to_vec(), 4, 0)));
        assert_eq!(take(&packets, 3), Ok((Vec::new(), 0, 0)));
        assert_eq!(take(&packets, 3), Ok((b"e".to_vec(), 1, 0)));
    }

    #[test]
    fn a_stream_read_stops_at_descriptors() {
        let stream = Mailbox::new(Framing::Stream);
        assert_eq!(put(&stream, b"ab"), Ok(2));
        assert_eq!(put_rights(&stream, b"c"), Ok(1));
        assert_eq!(put(&stream, b"d"), Ok(1));
        assert_eq!(take(&stream, 9), Ok((b"ab".to_vec(), 2, 0)));
        assert_eq!(take(&stream, 9), Ok((b"c".to_vec(), 1, 1)));
        assert_eq!(take(&stream, 9), Ok((b"d".to_vec(), 1, 0)));
    }

    #[test]
    fn peeking_takes_nothing() {
        let stream = Mailbox::new(Framing::Stream);
        assert_eq!((put(&stream, b"ab"), put_rights(&stream, b"c")), (Ok(2), Ok(1)));
        let mut buffer = [0; 9];
        let received = stream.take(&mut HostOutput::new(&mut buffer), Take::Peek);
        assert_eq!(received.map(|received| received.count), Ok(2));
        assert_eq!(stream.readable_bytes(), 3);
    }

    #[test]
    fn a_full_stream_takes_a_part_and_a_full_packet_box_nothing() {
        let stream = Mailbox::new(Framing::Stream);
        let big = vec![0; DEFAULT_CAPACITY + 10];
        assert_eq!(put(&stream, &big), Ok(DEFAULT_CAPACITY));
        assert_eq!((put(&stream, b"x"), stream.is_writable()), (Err(Errno::AGAIN), false));
        let packets = Mailbox::new(Framing::Packets);
        assert_eq!(put(&packets, &big), Err(Errno::MSGSIZE));
        assert_eq!(put(&packets, &big[..DEFAULT_CAPACITY - 100]), Ok(DEFAULT_CAPACITY - 100));
        assert_eq!(put(&packets, &big[..200]), Err(Errno::AGAIN));
    }

    #[test]
    fn both_ends_can_end() {
        let stream = Mailbox::new(Framing::Stream);
        assert_eq!(put(&stream, b"ab"), Ok(2));
        stream.hang_up(true);
        assert!(stream.has_hung_up() && stream.has_ended() && stream.is_readable());
        assert_eq!(take(&stream, 9), Ok((b"ab".to_vec(), 2, 0)));
        assert_eq!(take(&stream, 9), Err(Errno::CONNRESET));
        assert_eq!(take(&stream, 9), Ok((Vec::new(), 0, 0)));
        assert!(!stream.close());
        assert_eq!(put(&stream, b"x"), Err(Errno::PIPE));
    }
}
