//! Message queues (msgop(2)).

use std::collections::VecDeque;
use std::sync::Mutex;

use cooper_vfs::Errno;

use super::{Object, Permissions};
use crate::wait::{WaitQueue, lock};

/// The longest message (`MSGMAX`).
pub(crate) const MAX_MESSAGE: usize = 8192;
/// Bytes of all messages of a queue (`MSGMNB`).
pub(crate) const MAX_QUEUE: usize = 16384;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) class: i64,
    pub(crate) bytes: Vec<u8>,
}

/// Which message a receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The first.
    Any,
    /// The first of this type.
    Type(i64),
    /// The first of another type (`MSG_EXCEPT`).
    Except(i64),
    /// The first of the lowest type up to this one.
    UpTo(i64),
}

/// What to do with a message that is longer than the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooLong {
    /// Leave it: `E2BIG`.
    Refuse,
    /// Cut it (`MSG_NOERROR`).
    Cut,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Woken when a message comes or goes and when the queue is removed.
    pub(crate) changed: WaitQueue,
}

#[derive(Debug)]
struct State {
    messages: VecDeque<Message>,
    removed: bool,
    facts: Facts,
}

/// What `IPC_STAT` tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) permissions: Permissions,
    /// Seconds since 1970 of the last send, the last receive and the last change.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) changed: u64,
    pub(crate) bytes: usize,
    pub(crate) count: usize,
    pub(crate) limit: usize,
    pub(crate) sender: u32,
    pub(crate) receiver: u32,
}

impl Object for Queue {
    fn permissions(&self) -> Permissions {
        lock(&self.state).facts.permissions
    }
}

impl Queue {
    /// An empty queue.
    pub(crate) fn new(permissions: Permissions, now: u64) -> Self {
        let facts = Facts {
            permissions,
            sent: 0,
            received: 0,
            changed: now,
            bytes: 0,
            count: 0,
            limit: MAX_QUEUE,
            sender: 0,
            receiver: 0,
        };
        let state = State { messages: VecDeque::new(), removed: false, facts };
        Self { state: Mutex::new(state), changed: WaitQueue::new() }
    }

    /// What `IPC_STAT` tells.
    pub(crate) fn facts(&self) -> Facts {
        lock(&self.state).facts
    }

    /// `IPC_SET`: owner, mode and bound. `EPERM` for a bound above the ordinary one.
    pub(crate) fn set(&self, words: &[u32; 6], limit: u64, now: u64) -> Result<(), Errno> {
        let limit = usize::try_from(limit).ok().filter(|limit| *limit <= MAX_QUEUE).ok_or(Errno::PERM)?;
        let mut state = lock(&self.state);
        state.facts.permissions.set(words);
        state.facts.limit = limit;
        state.facts.changed = now;
        drop(state);
        self.changed.wake_all();
        Ok(())
    }

    /// Marks the queue as removed and ends all waits.
    pub(crate) fn remove(&self) {
        lock(&self.state).removed = true;
        self.changed.wake_all();
    }

    /// Appends a message. `EAGAIN` while the queue is full; `EIDRM`.
    pub(crate) fn send(&self, message: &Message, pid: u32, now: u64) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        if state.removed {
            return Err(Errno::IDRM);
        }
        let facts = state.facts;
        if facts.bytes + message.bytes.len() > facts.limit || facts.count + 1 > facts.limit {
            return Err(Errno::AGAIN);
        }
        state.messages.push_back(message.clone());
        state.facts.bytes += message.bytes.len();
        state.facts.count += 1;
        (state.facts.sent, state.facts.sender) = (now, pid);
        drop(state);
        self.changed.wake_all();
        Ok(())
    }

    /// Takes a message, cut to `length`. `EAGAIN` while there is none; `E2BIG`; `EIDRM`.
    pub(crate) fn receive(
        &self,
        wanted: Wanted,
        length: usize,
        too_long: TooLong,
        (pid, now): (u32, u64),
    ) -> Result<Message, Errno> {
        let mut state = lock(&self.state);
        if state.removed {
            return Err(Errno::IDRM);
        }
        let index = find(&state.messages, wanted).ok_or(Errno::AGAIN)?;
        if too_long == TooLong::Refuse && state.messages[index].bytes.len() > length {
            return Err(Errno::TOOBIG);
        }
        let mut message = state.messages.remove(index).ok_or(Errno::AGAIN)?;
        state.facts.bytes -= message.bytes.len();
        state.facts.count -= 1;
        (state.facts.received, state.facts.receiver) = (now, pid);
        drop(state);
        self.changed.wake_all();
        message.bytes.truncate(length);
        Ok(message)
    }
}

fn find(messages: &VecDeque<Message>, wanted: Wanted) -> Option<usize> {
    let mut classes = messages.iter().map(|message| message.class);
    match wanted {
        Wanted::Any => (!messages.is_empty()).then_some(0),
        Wanted::Type(class) => classes.position(|own| own == class),
        Wanted::Except(class) => classes.position(|own| own != class),
        Wanted::UpTo(class) => {
            let lowest = classes.filter(|own| *own <= class).min()?;
            messages.iter().position(|message| message.class == lowest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_vfs::Credentials;

    fn queue(classes: &[i64]) -> Queue {
        let queue = Queue::new(Permissions::new(1, &Credentials::root(), 0o600), 0);
        for class in classes {
            let message = Message { class: *class, bytes: vec![*class as u8; 3] };
            assert_eq!(queue.send(&message, 1, 0), Ok(()));
        }
        queue
    }

    fn receive(queue: &Queue, wanted: Wanted) -> Result<i64, Errno> {
        queue.receive(wanted, 10, TooLong::Refuse, (1, 0)).map(|message| message.class)
    }

    #[test]
    fn messages_are_chosen_by_type() {
        let queue = queue(&[5, 3, 4, 3, 9]);
        assert_eq!(receive(&queue, Wanted::Type(4)), Ok(4));
        assert_eq!(receive(&queue, Wanted::UpTo(5)), Ok(3));
        assert_eq!(receive(&queue, Wanted::Except(5)), Ok(3));
        assert_eq!(receive(&queue, Wanted::Any), Ok(5));
        assert_eq!(receive(&queue, Wanted::UpTo(8)), Err(Errno::AGAIN));
        assert_eq!((queue.facts().count, queue.facts().bytes), (1, 3));
    }

    #[test]
    fn long_messages_are_refused_or_cut() {
        let queue = queue(&[1]);
        assert_eq!(queue.receive(Wanted::Any, 2, TooLong::Refuse, (1, 0)), Err(Errno::TOOBIG));
        let cut = queue.receive(Wanted::Any, 2, TooLong::Cut, (1, 0)).map(|message| message.bytes);
        assert_eq!(cut, Ok(vec![1, 1]));
    }

    #[test]
    fn a_full_queue_and_a_removed_one_take_nothing() {
        let queue = queue(&[]);
        let long = Message { class: 1, bytes: vec![0; MAX_MESSAGE] };
        assert_eq!((queue.send(&long, 1, 0), queue.send(&long, 1, 0)), (Ok(()), Ok(())));
        assert_eq!(queue.send(&Message { class: 1, bytes: vec![0] }, 1, 0), Err(Errno::AGAIN));
        queue.remove();
        assert_eq!(receive(&queue, Wanted::Any), Err(Errno::IDRM));
    }
}
