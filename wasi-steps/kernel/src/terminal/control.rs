//! What `ioctl` does to terminals (ioctl_tty(2)), and job control.

use cooper_vfs::{Capabilities, OpenFlags};

use super::discipline::{Settings, local};
use super::{Side, Terminal, TerminalEnd, slave_position};
use crate::cx::Cx;
use crate::files::description::status;
use crate::files::{Description, Errno, lock};
use crate::signal::{SIG_IGN, signal};
use crate::syscalls::{SysError, SysResult};
use crate::task::limits::resource;

/// Requests, with Linux's numbers on x86-64.
mod request {
    pub(super) const TCGETS: u32 = 0x5401;
    pub(super) const TCSETS: u32 = 0x5402;
    pub(super) const TCSETSW: u32 = 0x5403;
    pub(super) const TCSETSF: u32 = 0x5404;
    pub(super) const TCSBRK: u32 = 0x5409;
    pub(super) const TCXONC: u32 = 0x540a;
    pub(super) const TCFLSH: u32 = 0x540b;
    pub(super) const TIOCEXCL: u32 = 0x540c;
    pub(super) const TIOCNXCL: u32 = 0x540d;
    pub(super) const TIOCSCTTY: u32 = 0x540e;
    pub(super) const TIOCGPGRP: u32 = 0x540f;
    pub(super) const TIOCSPGRP: u32 = 0x5410;
    pub(super) const TIOCOUTQ: u32 = 0x5411;
    pub(super) const TIOCSTI: u32 = 0x5412;
    pub(super) const TIOCGWINSZ: u32 = 0x5413;
    pub(super) const TIOCSWINSZ: u32 = 0x5414;
    pub(super) const TIOCCONS: u32 = 0x541d;
    pub(super) const TIOCPKT: u32 = 0x5420;
    pub(super) const TIOCNOTTY: u32 = 0x5422;
    pub(super) const TIOCSETD: u32 = 0x5423;
    pub(super) const TIOCGETD: u32 = 0x5424;
    pub(super) const TCSBRKP: u32 = 0x5425;
    pub(super) const TIOCSBRK: u32 = 0x5427;
    pub(super) const TIOCCBRK: u32 = 0x5428;
    pub(super) const TIOCGSID: u32 = 0x5429;
    pub(super) const TCGETS2: u32 = 0x802c_542a;
    pub(super) const TCSETS2: u32 = 0x402c_542b;
    pub(super) const TCSETSW2: u32 = 0x402c_542c;
    pub(super) const TCSETSF2: u32 = 0x402c_542d;
    pub(super) const TIOCGPTN: u32 = 0x8004_5430;
    pub(super) const TIOCSPTLCK: u32 = 0x4004_5431;
    pub(super) const TIOCGDEV: u32 = 0x8004_5432;
    pub(super) const TIOCSIG: u32 = 0x4004_5436;
    pub(super) const TIOCGPKT: u32 = 0x8004_5438;
    pub(super) const TIOCGPTLCK: u32 = 0x8004_5439;
    pub(super) const TIOCGEXCL: u32 = 0x8004_5440;
    pub(super) const TIOCGPTPEER: u32 = 0x5441;
}

/// Bits of the packet mode's status byte.
mod packet {
    pub(super) const FLUSH_READ: u8 = 1;
    pub(super) const FLUSH_WRITE: u8 = 2;
    pub(super) const STOP: u8 = 4;
    pub(super) const START: u8 = 8;
}

/// The caller's session.
pub(super) fn session_of(cx: &Cx<'_>) -> Option<u32> {
    lock(&cx.kernel.table).process(cx.process().pid()).map(|node| node.session)
}

fn group_of(cx: &Cx<'_>) -> u32 {
    lock(&cx.kernel.table).process(cx.process().pid()).map_or(0, |node| node.group)
}

/// Makes the terminal that a session leader without one opens its controlling terminal.
pub(super) fn adopt(cx: &Cx<'_>, end: &TerminalEnd) {
    let pid = cx.process().pid();
    let leads = session_of(cx) == Some(pid) && cx.kernel.registry.terminals.of_session(pid).is_none();
    let group = group_of(cx);
    let mut state = lock(&end.terminal.state);
    if leads && state.session == 0 {
        (state.session, state.foreground) = (pid, group);
    }
}

/// What a background process is about to do to its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read from it: `SIGTTIN`.
    Read,
    /// Write to it: `SIGTTOU` if the terminal says so.
    Write,
    /// Change it: `SIGTTOU`.
    Change,
}

/// Stops a background process that uses its terminal (tcsetpgrp(3)): the call is made again when it goes on.
///
/// `EIO` where a stop would be for ever, or for a reader that does not want the signal.
pub(crate) fn check_background(cx: &Cx<'_>, end: &TerminalEnd, access: Access) -> Result<(), SysError> {
    if end.side == Side::Master {
        return Ok(());
    }
    let (session, foreground, flags) = {
        let state = lock(&end.terminal.state);
        (state.session, state.foreground, state.discipline.settings.local)
    };
    let group = group_of(cx);
    if session == 0 || foreground == group || foreground == 0 || session_of(cx) != Some(session) {
        return Ok(());
    }
    if access == Access::Write && flags & local::STOP_WRITERS == 0 {
        return Ok(());
    }
    let number = if access == Access::Read { signal::TTIN } else { signal::TTOU };
    let ignored = lock(&cx.process().actions()).get(number).handler == SIG_IGN;
    if ignored || cx.task.mask().contains(number) {
        return if access == Access::Read { Err(Errno::IO.into()) } else { Ok(()) };
    }
    if lock(&cx.kernel.table).is_orphaned(group) {
        return Err(Errno::IO.into());
    }
    end.terminal.signal_group(group, number);
    Err(SysError::Restart)
}

/// `ENOTTY` for what is no request of terminals; the others say what is wrong with the caller.
pub(crate) fn ioctl(
    cx: &Cx<'_>,
    file: &Description,
    end: &TerminalEnd,
    number: u32,
    argument: u64,
) -> SysResult {
    let terminal = &*end.terminal;
    let memory = cx.memory();
    match number {
        request::TCGETS => memory.store(argument, lock(&terminal.state).discipline.settings.to_bytes())?,
        request::TCGETS2 => {
            // The two speeds follow: 38400 baud each way.
            memory.store(argument, lock(&terminal.state).discipline.settings.to_bytes())?;
            memory.store(argument.wrapping_add(Settings::SIZE as u64), [38400u32; 2])?;
        }
        request::TCSETS | request::TCSETSW | request::TCSETSF => {
            set(cx, end, number == request::TCSETSF, argument)?;
        }
        request::TCSETS2 | request::TCSETSW2 | request::TCSETSF2 => {
            set(cx, end, number == request::TCSETSF2, argument)?;
        }
        request::TCSBRK | request::TCSBRKP | request::TIOCSBRK | request::TIOCCBRK => {
            check_background(cx, end, Access::Change)?;
        }
        request::TCXONC => flow(cx, end, argument)?,
        request::TCFLSH => flush(cx, end, argument)?,
        request::TIOCEXCL => lock(&terminal.state).exclusive = true,
        request::TIOCNXCL => lock(&terminal.state).exclusive = false,
        request::TIOCGEXCL => memory.store(argument, i32::from(lock(&terminal.state).exclusive))?,
        request::TIOCSCTTY => become_controlling(cx, terminal, argument)?,
        request::TIOCNOTTY => give_up(cx, terminal)?,
        request::TIOCGPGRP => {
            let foreground = controlling(cx, end)?.1;
            memory.store(argument, foreground)?;
        }
        request::TIOCSPGRP => set_foreground(cx, end, argument)?,
        request::TIOCGSID => {
            let session = controlling(cx, end)?.0;
            memory.store(argument, session)?;
        }
        request::TIOCOUTQ => {
            let queued = lock(&terminal.state).discipline.queued_output();
            memory.store(argument, i32::try_from(queued).unwrap_or(i32::MAX))?;
        }
        // As Linux without `dev.tty.legacy_tiocsti`.
        request::TIOCSTI => return Err(Errno::IO.into()),
        request::TIOCCONS => return Err(Errno::PERM.into()),
        request::TIOCGWINSZ => memory.store(argument, lock(&terminal.state).size)?,
        request::TIOCSWINSZ => {
            let size: [u16; 4] = memory.load(argument)?;
            terminal.resize(size);
        }
        request::TIOCGETD => memory.store(argument, 0i32)?,
        request::TIOCSETD if memory.load::<i32>(argument)? == 0 => {}
        request::TIOCSETD => return Err(Errno::INVAL.into()),
        request::TIOCGDEV => {
            let minor = terminal.number;
            memory.store(argument, super::SLAVES << 8 | minor & 0xff | (minor & !0xff) << 12)?;
        }
        _ if end.side == Side::Master => return master(cx, file, terminal, number, argument),
        _ => return Err(Errno::NOTTY.into()),
    }
    Ok(0)
}

/// The requests that only masters know.
fn master(cx: &Cx<'_>, file: &Description, terminal: &Terminal, number: u32, argument: u64) -> SysResult {
    let memory = cx.memory();
    let mut state = lock(&terminal.state);
    match number {
        request::TIOCGPTN => memory.store(argument, terminal.number)?,
        request::TIOCSPTLCK => state.locked = memory.load::<i32>(argument)? != 0,
        request::TIOCGPTLCK => memory.store(argument, i32::from(state.locked))?,
        request::TIOCPKT => {
            state.packets = memory.load::<i32>(argument)? != 0;
            state.packet_status = 0;
        }
        request::TIOCGPKT => memory.store(argument, i32::from(state.packets))?,
        request::TIOCSIG => {
            let signal = argument as u32;
            if !(1..=64).contains(&signal) {
                return Err(Errno::INVAL.into());
            }
            let foreground = state.foreground;
            drop(state);
            terminal.signal_group(foreground, signal);
        }
        request::TIOCGPTPEER => {
            drop(state);
            return open_peer(cx, file, terminal, argument);
        }
        _ => return Err(Errno::NOTTY.into()),
    }
    Ok(0)
}

fn open_peer(cx: &Cx<'_>, file: &Description, terminal: &Terminal, flags: u64) -> SysResult {
    let flags = OpenFlags::from_bits_retain(flags as u32);
    let found = cx.kernel.registry.terminals.find(terminal.number).ok_or(Errno::IO)?;
    let end = TerminalEnd::slave(found, cx.credentials().holds(Capabilities::SYS_ADMIN))?;
    let kept = flags.bits() & (status::ACCESS | status::NONBLOCK) | status::LARGEFILE;
    let position = slave_position(cx, terminal.number).ok().or_else(|| file.position().cloned());
    let description = Description::new(Box::new(end), kept, position);
    let close_on_exec = flags.contains(OpenFlags::CLOEXEC);
    Ok(cx.files().insert(description, 0, close_on_exec, cx.process().limit(resource::NOFILE))? as u64)
}

fn set(cx: &Cx<'_>, end: &TerminalEnd, flush: bool, argument: u64) -> Result<(), SysError> {
    let settings = Settings::from_bytes(&load_settings(cx, argument)?);
    check_background(cx, end, Access::Change)?;
    let mut state = lock(&end.terminal.state);
    if flush {
        state.discipline.flush_input();
    }
    state.discipline.set(settings);
    state.read_deadline = None;
    drop(state);
    end.terminal.wake();
    Ok(())
}

fn load_settings(cx: &Cx<'_>, argument: u64) -> Result<[u8; Settings::SIZE], Errno> {
    cx.memory().load(argument)
}

/// `tcflow`.
fn flow(cx: &Cx<'_>, end: &TerminalEnd, action: u64) -> Result<(), SysError> {
    check_background(cx, end, Access::Change)?;
    let mut state = lock(&end.terminal.state);
    match action {
        0 => {
            state.discipline.stopped = true;
            state.packet_status = state.packet_status & !packet::START | packet::STOP;
        }
        1 => {
            state.discipline.stopped = false;
            state.packet_status = state.packet_status & !packet::STOP | packet::START;
        }
        // Asking the other side to stop or start would send it a character; nobody is there who obeys.
        2 | 3 => {}
        _ => return Err(Errno::INVAL.into()),
    }
    drop(state);
    end.terminal.wake();
    Ok(())
}

/// `tcflush`.
fn flush(cx: &Cx<'_>, end: &TerminalEnd, queue: u64) -> Result<(), SysError> {
    check_background(cx, end, Access::Change)?;
    if queue > 2 {
        return Err(Errno::INVAL.into());
    }
    let mut state = lock(&end.terminal.state);
    // What one side calls input is the output of the other.
    let (input, output) = (queue != 1, queue != 0);
    let (typed, written) = if end.side == Side::Slave { (input, output) } else { (output, input) };
    if typed {
        state.discipline.flush_input();
        state.packet_status |= packet::FLUSH_READ;
    }
    if written {
        state.discipline.flush_output();
        state.packet_status |= packet::FLUSH_WRITE;
    }
    drop(state);
    end.terminal.wake();
    Ok(())
}

/// Session and foreground group. `ENOTTY` unless it is the caller's controlling terminal; a master may always ask.
fn controlling(cx: &Cx<'_>, end: &TerminalEnd) -> Result<(u32, u32), Errno> {
    let own = session_of(cx);
    let state = lock(&end.terminal.state);
    let allowed = end.side == Side::Master || own == Some(state.session);
    if !allowed || (end.side == Side::Master && state.session == 0) {
        return if end.side == Side::Master { Ok((0, 0)) } else { Err(Errno::NOTTY) };
    }
    Ok((state.session, state.foreground))
}

/// `EPERM` for a caller that leads no session or has a terminal, and for a terminal that another session has, unless
/// a privileged caller steals it.
fn become_controlling(cx: &Cx<'_>, terminal: &Terminal, steal: u64) -> Result<(), SysError> {
    let (pid, session, group) = (cx.process().pid(), session_of(cx), group_of(cx));
    {
        let state = lock(&terminal.state);
        if session == Some(pid) && state.session == pid {
            return Ok(());
        }
    }
    if session != Some(pid) || cx.kernel.registry.terminals.of_session(pid).is_some() {
        return Err(Errno::PERM.into());
    }
    let mut state = lock(&terminal.state);
    if state.session != 0 && !(steal == 1 && cx.credentials().holds(Capabilities::SYS_ADMIN)) {
        return Err(Errno::PERM.into());
    }
    (state.session, state.foreground) = (pid, group);
    Ok(())
}

/// `TIOCNOTTY`: the leader takes its whole session off the terminal. Others keep it here, as the terminal belongs to the
/// session; `ENOTTY` when it is not theirs.
fn give_up(cx: &Cx<'_>, terminal: &Terminal) -> Result<(), SysError> {
    let session = session_of(cx);
    let mut state = lock(&terminal.state);
    if session != Some(state.session) {
        return Err(Errno::NOTTY.into());
    }
    if state.session != cx.process().pid() {
        return Ok(());
    }
    let foreground = std::mem::take(&mut state.foreground);
    state.session = 0;
    drop(state);
    terminal.signal_group(foreground, signal::HUP);
    terminal.signal_group(foreground, signal::CONT);
    Ok(())
}

/// `ENOTTY` unless it is the caller's controlling terminal; `EINVAL`, `ESRCH`, `EPERM` for a group that is none, is not
/// there, or belongs to another session.
fn set_foreground(cx: &Cx<'_>, end: &TerminalEnd, argument: u64) -> Result<(), SysError> {
    check_background(cx, end, Access::Change)?;
    let own = session_of(cx);
    if own != Some(lock(&end.terminal.state).session) {
        return Err(Errno::NOTTY.into());
    }
    let group = u32::try_from(cx.memory().load::<i32>(argument)?).map_err(|_| Errno::INVAL)?;
    let session = lock(&cx.kernel.table).group(group).next().map(|node| node.session);
    match session {
        None => return Err(Errno::SRCH.into()),
        Some(session) if Some(session) != own => return Err(Errno::PERM.into()),
        Some(_) => {}
    }
    lock(&end.terminal.state).foreground = group;
    Ok(())
}
