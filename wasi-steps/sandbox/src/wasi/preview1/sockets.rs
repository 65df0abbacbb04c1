//! Sockets that a program was given: preview 1 opens none.

use super::super::errno::Errno;
use super::super::process::{Fail, Guest};
use super::{Done, call};

/// Bytes of `struct msghdr`.
const MESSAGE: usize = 56;

impl Guest {
    /// Puts a `struct msghdr` with these buffers into the room; its address.
    fn message(&mut self, buffers: u32, count: u32) -> Result<u64, Fail> {
        let buffers = self.buffers(buffers, count)?;
        let mut bytes = vec![0; MESSAGE];
        bytes[16..24].copy_from_slice(&(Self::ROOM.0 + MESSAGE as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&(buffers.len() as u64).to_le_bytes());
        bytes.extend(Self::vectors(&buffers));
        self.put(&bytes)
    }
}

pub(super) fn sock_accept(guest: &mut Guest, fd: u32, flags: u32, result: u32) -> Done {
    /// `fdflags` of a connection that does not block.
    const NONBLOCK: u32 = 4;
    const SOCK_NONBLOCK: u64 = 0o4000;
    const SOCK_CLOEXEC: u64 = 0o200_0000;
    if flags & !NONBLOCK != 0 {
        return Err(Errno::INVAL.into());
    }
    let flags = if flags != 0 { SOCK_NONBLOCK } else { 0 } | SOCK_CLOEXEC;
    let accepted = guest.call(call::ACCEPT4, [fd.into(), 0, 0, flags, 0, 0])?;
    if let Err(errno) = guest.space.store(result.into(), accepted as u32) {
        guest.call(call::CLOSE, [accepted, 0, 0, 0, 0, 0])?;
        return Err(errno.into());
    }
    Ok(())
}

pub(super) fn sock_recv(
    guest: &mut Guest,
    fd: u32,
    buffers: u32,
    count: u32,
    flags: u32,
    result: u32,
    result_flags: u32,
) -> Done {
    /// `riflags`, and Linux's: `MSG_PEEK`, `MSG_WAITALL`.
    const FLAGS: [(u32, u64); 2] = [(1, 2), (2, 0x100)];
    const MSG_TRUNC: u32 = 0x20;
    if flags >= 4 {
        return Err(Errno::INVAL.into());
    }
    let linux = FLAGS.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, linux)| all | linux);
    let message = guest.message(buffers, count)?;
    let received = guest.call(call::RECVMSG, [fd.into(), message, linux, 0, 0, 0])?;
    let seen: u32 = guest.space.load(message + 48)?;
    guest.space.store(result.into(), received as u32)?;
    Ok(guest.space.store(result_flags.into(), u16::from(seen & MSG_TRUNC != 0))?)
}

pub(super) fn sock_send(
    guest: &mut Guest,
    fd: u32,
    buffers: u32,
    count: u32,
    flags: u32,
    result: u32,
) -> Done {
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    let message = guest.message(buffers, count)?;
    let sent = guest.call(call::SENDMSG, [fd.into(), message, 0, 0, 0, 0])?;
    Ok(guest.space.store(result.into(), sent as u32)?)
}

pub(super) fn sock_shutdown(guest: &mut Guest, fd: u32, how: u32) -> Done {
    // Linux counts reading, writing, both from 0.
    let how = match how {
        1..=3 => u64::from(how) - 1,
        _ => return Err(Errno::INVAL.into()),
    };
    guest.call(call::SHUTDOWN, [fd.into(), how, 0, 0, 0, 0])?;
    Ok(())
}
