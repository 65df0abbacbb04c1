//! `poll_oneoff`: descriptors and clocks together.

use super::super::errno::Errno;
use super::super::process::{Fail, Guest};
use super::program::{Clock, MONOTONIC_CLOCK};
use super::{Done, call};

/// Bytes of a `subscription` and of an `event`.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;
/// The most subscriptions of one call.
const MAX_SUBSCRIPTIONS: u32 = 4096;
const NANOSECONDS: u64 = 1_000_000_000;

/// Bits of `struct pollfd`.
const POLLIN: u16 = 1;
const POLLOUT: u16 = 4;
const POLLHUP: u16 = 16;
const POLLNVAL: u16 = 32;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A moment, in nanoseconds from now.
    Clock { left: u64 },
    /// Bytes to read, or room to write.
    Descriptor { fd: u32, events: u16 },
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    userdata: [u8; 8],
    tag: u8,
    what: Result<What, Errno>,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut own = [0; 8];
    own.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(own)
}

impl Guest {
    fn subscription(&mut self, bytes: &[u8]) -> Result<Subscription, Fail> {
        let mut userdata = [0; 8];
        userdata.copy_from_slice(&bytes[..8]);
        let tag = bytes[8];
        let (id, timeout, is_absolute) = (word(bytes, 16) as u32, word(bytes, 24), bytes[40] & 1 != 0);
        let what = match tag {
            0 if id > MONOTONIC_CLOCK => Err(Errno::NOTSUP),
            0 if is_absolute => Ok(What::Clock { left: timeout.saturating_sub(self.time(id)?) }),
            0 => Ok(What::Clock { left: timeout }),
            1 => Ok(What::Descriptor { fd: id, events: POLLIN }),
            2 => Ok(What::Descriptor { fd: id, events: POLLOUT }),
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(Subscription { userdata, tag, what })
    }

    /// Waits until a descriptor is ready or `left` nanoseconds have passed; what each descriptor has.
    fn wait(&mut self, wanted: &[(u32, u16)], left: Option<u64>) -> Result<Vec<u16>, Fail> {
        let mut bytes = Vec::with_capacity(16 + wanted.len() * 8);
        let nanoseconds = left.unwrap_or(0);
        bytes.extend_from_slice(&(nanoseconds / NANOSECONDS).to_le_bytes());
        bytes.extend_from_slice(&(nanoseconds % NANOSECONDS).to_le_bytes());
        for (fd, events) in wanted {
            bytes.extend_from_slice(&fd.to_le_bytes());
            bytes.extend_from_slice(&u32::from(*events).to_le_bytes());
        }
        let place = self.put(&bytes)?;
        let timeout = if left.is_some() { place } else { 0 };
        self.call(call::PPOLL, [place + 16, wanted.len() as u64, timeout, 0, 0, 0])?;
        let answers = self.space.read_vec(place + 16, wanted.len() * 8)?;
        Ok(answers.chunks_exact(8).map(|entry| u16::from_le_bytes([entry[6], entry[7]])).collect())
    }

    /// Lets time pass. Where the clock is the same in every run, it does so at once.
    fn pass(&mut self, wanted: &[(u32, u16)], left: Option<u64>) -> Result<(Vec<u16>, u64), Fail> {
        let (Clock::Repeated { .. }, Some(nanoseconds)) = (self.clock, left) else {
            let before = self.time(MONOTONIC_CLOCK)?;
            let ready = self.wait(wanted, left)?;
            return Ok((ready, self.time(MONOTONIC_CLOCK)?.saturating_sub(before)));
        };
        let ready = if wanted.is_empty() { Vec::new() } else { self.wait(wanted, left)? };
        if ready.iter().any(|events| *events != 0) {
            return Ok((ready, 0));
        }
        if let Clock::Repeated { passed, .. } = &mut self.clock {
            *passed = passed.saturating_add(nanoseconds);
        }
        Ok((ready, nanoseconds))
    }

    /// How many bytes can be read at once.
    fn readable(&mut self, fd: u32) -> Result<u64, Fail> {
        const FIONREAD: u64 = 0x541b;
        match self.call(call::IOCTL, [fd.into(), FIONREAD, Self::ROOM.0, 0, 0, 0]) {
            Ok(_) => Ok(self.space.load::<u32>(Self::ROOM.0)?.into()),
            Err(Fail::Errno(_)) => Ok(0),
            Err(leave) => Err(leave),
        }
    }
}

pub(super) fn poll_oneoff(
    guest: &mut Guest,
    subscriptions: u32,
    events: u32,
    count: u32,
    result: u32,
) -> Done {
    if count == 0 || count > MAX_SUBSCRIPTIONS {
        return Err(Errno::INVAL.into());
    }
    let bytes = guest.space.read_vec(subscriptions.into(), count as usize * SUBSCRIPTION)?;
    let mut all = Vec::with_capacity(count as usize);
    for bytes in bytes.chunks_exact(SUBSCRIPTION) {
        all.push(guest.subscription(bytes)?);
    }
    let wanted: Vec<(u32, u16)> = all
        .iter()
        .filter_map(|subscription| match subscription.what {
            Ok(What::Descriptor { fd, events }) => Some((fd, events)),
            _ => None,
        })
        .collect();
    let moments = all.iter().filter_map(|subscription| match subscription.what {
        Ok(What::Clock { left }) => Some(left),
        // What can never come is told at once.
        Err(_) => Some(0),
        Ok(What::Descriptor { .. }) => None,
    });
    let (ready, passed) = guest.pass(&wanted, moments.min())?;
    let mut ready = ready.into_iter();
    let mut out = Vec::new();
    for subscription in all {
        let (error, bytes, has_hung_up) = match subscription.what {
            Err(error) => (error.0, 0, false),
            Ok(What::Clock { left }) if left <= passed => (0, 0, false),
            Ok(What::Clock { .. }) => continue,
            Ok(What::Descriptor { fd, events }) => match ready.next().unwrap_or(0) {
                0 => continue,
                seen if seen & POLLNVAL != 0 => (Errno::BADF.0, 0, false),
                seen if events == POLLIN => (0, guest.readable(fd)?, seen & POLLHUP != 0),
                seen => (0, 0, seen & POLLHUP != 0),
            },
        };
        let mut event = [0; EVENT];
        event[..8].copy_from_slice(&subscription.userdata);
        event[8..10].copy_from_slice(&error.to_le_bytes());
        event[10] = subscription.tag;
        event[16..24].copy_from_slice(&u64::to_le_bytes(bytes));
        event[24] = u8::from(has_hung_up);
        out.extend_from_slice(&event);
    }
    guest.space.write_bytes(events.into(), &out)?;
    Ok(guest.space.store(result.into(), (out.len() / EVENT) as u32)?)
}
