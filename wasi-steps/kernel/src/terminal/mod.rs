//! Pseudo terminals (pty(7)): `/dev/ptmx`, `/dev/pts`, `/dev/tty`.
//!
//! A [`Terminal`] is one pair: a [`Discipline`] between the side that a terminal emulator holds (the master) and the
//! side that programs take for a terminal (the slave). A [`TerminalEnd`] is one open of either side. The registry
//! finds terminals by number for `/dev/pts` and by session for `/dev/tty`; the terminal itself says whose controlling
//! terminal it is. All are made by guests through `/dev/ptmx`, but for the [`Console`] of a step that runs at a terminal.
//!
//! What must hold: signals are sent with no terminal locked, as sending takes the process table first; closing the
//! master hangs the slaves up; closing the last slave is the end of the master's input, until another is opened.

pub(crate) mod console;
mod control;
mod devices;
mod discipline;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use cooper_vfs::{Caller, OpenFlags, Position};

use crate::cx::Cx;
use crate::files::transfer::with_bounce;
use crate::files::{Errno, FileObject, Input, Kind, Output, Readiness, Ready, Watch, lock};
use crate::kernel::Kernel;
use crate::signal::{SignalInfo, send, signal};
use discipline::{Discipline, INPUT_LIMIT, Key};

pub use console::Console;
pub(crate) use control::{Access, check_background, ioctl};

/// The most terminals of a step (`/proc/sys/kernel/pty/max` is 4096; a step needs few).
const MAX_TERMINALS: usize = 1024;
/// Major number of the slaves.
const SLAVES: u32 = 136;
/// The packet mode's byte before data (`TIOCPKT_DATA`).
const PACKET_DATA: u8 = 0;

/// All terminals of a step.
#[derive(Debug, Default)]
pub(crate) struct Terminals {
    by_number: Mutex<BTreeMap<u32, Weak<Terminal>>>,
    /// The step's own.
    console: Mutex<Option<Weak<Terminal>>>,
}

impl Terminals {
    /// Makes a pair and opens its master. `ENOSPC` when there are too many.
    fn create(&self, kernel: &Arc<Kernel>, owner: u32) -> Result<TerminalEnd, Errno> {
        let mut numbers = lock(&self.by_number);
        numbers.retain(|_, terminal| terminal.strong_count() > 0);
        if numbers.len() >= MAX_TERMINALS {
            return Err(Errno::NOSPC);
        }
        let number = (0..).find(|number| !numbers.contains_key(number)).ok_or(Errno::NOSPC)?;
        let terminal = Arc::new(Terminal {
            number,
            owner,
            kernel: Arc::downgrade(kernel),
            state: Mutex::new(State::new()),
            master: Readiness::new(),
            slave: Readiness::new(),
        });
        numbers.insert(number, Arc::downgrade(&terminal));
        Ok(TerminalEnd { terminal, side: Side::Master })
    }

    /// The terminal with this number, also when its master is closed.
    fn find(&self, number: u32) -> Option<Arc<Terminal>> {
        lock(&self.by_number).get(&number)?.upgrade()
    }

    /// The terminals whose master is open.
    fn all(&self) -> Vec<Arc<Terminal>> {
        let all: Vec<_> = lock(&self.by_number).values().filter_map(Weak::upgrade).collect();
        all.into_iter().filter(|terminal| lock(&terminal.state).master_open).collect()
    }

    /// The controlling terminal of a session.
    fn of_session(&self, session: u32) -> Option<Arc<Terminal>> {
        self.all().into_iter().find(|terminal| lock(&terminal.state).session == session)
    }

    /// Device number and foreground group of a session's terminal, for `/proc/PID/stat`.
    pub(crate) fn shown(&self, session: u32) -> Option<(u32, u32)> {
        let terminal = self.of_session(session)?;
        let foreground = lock(&terminal.state).foreground;
        let number = terminal.number;
        Some((SLAVES << 8 | number & 0xff | (number & !0xff) << 12, foreground))
    }

    /// Takes a session that ends off its terminal; the group to hang up.
    pub(crate) fn leave(&self, session: u32) -> Option<u32> {
        let terminal = self.of_session(session)?;
        let mut state = lock(&terminal.state);
        state.session = 0;
        Some(std::mem::take(&mut state.foreground)).filter(|group| *group != 0)
    }
}

/// One pair.
#[derive(Debug)]
pub(crate) struct Terminal {
    number: u32,
    /// User who opened the master.
    owner: u32,
    /// Where its signals go.
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    /// Woken when the master may have something to do.
    master: Arc<Readiness>,
    /// Woken when a slave may have something to do.
    slave: Arc<Readiness>,
}

#[derive(Debug)]
struct State {
    discipline: Discipline,
    /// Rows, columns, and two figures in pixels.
    size: [u16; 4],
    /// `TIOCSPTLCK`: the slave cannot be opened yet.
    locked: bool,
    exclusive: bool,
    master_open: bool,
    slaves: usize,
    slave_opened: bool,
    /// The session whose controlling terminal it is; 0 for none.
    session: u32,
    /// The process group in the foreground; 0 for none.
    foreground: u32,
    /// `TIOCPKT`.
    packets: bool,
    packet_status: u8,
    /// When a read with a timer gives up.
    read_deadline: Option<Instant>,
}

impl State {
    fn new() -> Self {
        Self {
            discipline: Discipline::new(),
            size: [0; 4],
            locked: true,
            exclusive: false,
            master_open: true,
            slaves: 0,
            slave_opened: false,
            session: 0,
            foreground: 0,
            packets: false,
            packet_status: 0,
            read_deadline: None,
        }
    }

    /// Whether a raw read with nothing to read answers anyway: at once, or because its timer has run out.
    fn gives_up(&mut self) -> bool {
        let (minimum, time) = self.discipline.settings.minimum_and_time();
        let canonical = self.discipline.settings.local & discipline::local::CANONICAL != 0;
        if canonical || minimum > 0 {
            return false;
        }
        let now = Instant::now();
        let deadline =
            *self.read_deadline.get_or_insert_with(|| now + Duration::from_millis(100 * u64::from(time)));
        deadline <= now
    }
}

impl Terminal {
    /// Sends a signal to every process of a group.
    fn signal_group(&self, group: u32, number: u32) {
        let Some(kernel) = self.kernel.upgrade().filter(|_| group != 0) else { return };
        let mut table = lock(&kernel.table);
        let members: Vec<_> = table.group(group).map(|node| node.process.clone()).collect();
        for process in members {
            send::to_process_locked(&mut table, &process, SignalInfo::kernel(number));
        }
    }

    fn wake(&self) {
        self.master.wake();
        self.slave.wake();
    }
}

/// Which side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Master,
    Slave,
}

/// One open of a side.
#[derive(Debug)]
pub(crate) struct TerminalEnd {
    terminal: Arc<Terminal>,
    side: Side,
}

impl TerminalEnd {
    /// Opens a slave. `EIO` without master or while it is locked; `EBUSY` after `TIOCEXCL`.
    fn slave(terminal: Arc<Terminal>, privileged: bool) -> Result<Self, Errno> {
        let mut state = lock(&terminal.state);
        if !state.master_open || state.locked {
            return Err(Errno::IO);
        }
        if state.exclusive && !privileged {
            return Err(Errno::BUSY);
        }
        state.slaves += 1;
        state.slave_opened = true;
        drop(state);
        terminal.wake();
        Ok(Self { terminal, side: Side::Slave })
    }

    fn read_master(&self, output: &mut dyn Output) -> Result<usize, Errno> {
        let mut state = lock(&self.terminal.state);
        if state.packets && state.packet_status != 0 {
            let count = output.put(&[state.packet_status])?;
            state.packet_status = 0;
            return Ok(count);
        }
        if state.discipline.pending_output() == 0 {
            let ended = state.slave_opened && state.slaves == 0;
            return Err(if ended { Errno::IO } else { Errno::AGAIN });
        }
        let prefix = usize::from(state.packets);
        if state.packets {
            output.put(&[PACKET_DATA])?;
        }
        let bytes = state.discipline.output_front(output.remaining());
        let count = if bytes.is_empty() { 0 } else { output.put(&bytes)? };
        state.discipline.consume_output(count);
        drop(state);
        self.terminal.slave.wake();
        Ok(prefix + count)
    }

    fn read_slave(&self, output: &mut dyn Output) -> Result<usize, Errno> {
        let mut state = lock(&self.terminal.state);
        let length = output.remaining();
        if state.discipline.can_read(length) {
            let bytes = state.discipline.front(length);
            let count = if bytes.is_empty() { 0 } else { output.put(&bytes)? };
            state.discipline.consume(count);
            state.read_deadline = None;
            drop(state);
            self.terminal.master.wake();
            return Ok(count);
        }
        if !state.master_open || state.gives_up() {
            state.read_deadline = None;
            return Ok(0);
        }
        Err(Errno::AGAIN)
    }

    /// What is typed: goes through the discipline, and perhaps becomes signals.
    fn write_master(&self, input: &mut dyn Input) -> Result<usize, Errno> {
        let mut keys = Vec::new();
        let mut state = lock(&self.terminal.state);
        let foreground = state.foreground;
        let result = with_bounce(|bounce| {
            let mut total = 0;
            while input.remaining() > 0 && state.discipline.has_input_room() {
                let want = INPUT_LIMIT.min(input.remaining()).min(bounce.len());
                // One at a time once it gets narrow, so that nothing is taken that has no room.
                let want = if want > 64 { want.min(64) } else { 1 };
                let count = match input.take(&mut bounce[..want]) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(_) if total > 0 => break,
                    Err(errno) => return Err(errno),
                };
                keys.extend(bounce[..count].iter().filter_map(|byte| state.discipline.receive(*byte)));
                total += count;
            }
            if total == 0 { Err(Errno::AGAIN) } else { Ok(total) }
        });
        drop(state);
        for key in keys {
            let number = match key {
                Key::Interrupt => signal::INT,
                Key::Quit => signal::QUIT,
                Key::Suspend => signal::TSTP,
            };
            self.terminal.signal_group(foreground, number);
        }
        self.terminal.wake();
        result
    }

    fn write_slave(&self, input: &mut dyn Input) -> Result<usize, Errno> {
        let mut state = lock(&self.terminal.state);
        if !state.master_open {
            return Err(Errno::IO);
        }
        let mut total = 0;
        let mut byte = [0];
        while input.remaining() > 0 && state.discipline.has_output_room() {
            match input.take(&mut byte) {
                Ok(1) => state.discipline.write(byte[0]),
                Err(errno) if total == 0 => return Err(errno),
                _ => break,
            };
            total += 1;
        }
        drop(state);
        self.terminal.master.wake();
        if total == 0 { Err(Errno::AGAIN) } else { Ok(total) }
    }
}

impl FileObject for TerminalEnd {
    /// `EAGAIN` while there is nothing; `EIO` for a master whose slaves are all closed.
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        if output.remaining() == 0 {
            return Ok(0);
        }
        match self.side {
            Side::Master => self.read_master(output),
            Side::Slave => self.read_slave(output),
        }
    }

    /// `EAGAIN` while there is no room or output is stopped; `EIO` for a slave whose master is closed.
    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        if input.remaining() == 0 {
            return Ok(0);
        }
        match self.side {
            Side::Master => self.write_master(input),
            Side::Slave => self.write_slave(input),
        }
    }

    fn poll(&self) -> Ready {
        let state = lock(&self.terminal.state);
        let mut ready = Ready::empty();
        match self.side {
            Side::Master => {
                ready.set(Ready::READABLE, state.discipline.pending_output() > 0);
                if state.packets && state.packet_status != 0 {
                    ready |= Ready::READABLE | Ready::PRI;
                }
                ready.set(Ready::WRITABLE, state.discipline.has_input_room());
                if state.slave_opened && state.slaves == 0 {
                    ready |= Ready::HUP;
                }
            }
            Side::Slave if !state.master_open => {
                ready = Ready::READABLE | Ready::WRITABLE | Ready::ERR | Ready::HUP;
            }
            Side::Slave => {
                ready.set(Ready::READABLE, state.discipline.is_readable());
                ready.set(Ready::WRITABLE, state.discipline.has_output_room());
            }
        }
        ready
    }

    fn watch(&self, watch: &mut Watch) {
        match self.side {
            Side::Master => watch.add(&self.terminal.master),
            Side::Slave => {
                watch.add(&self.terminal.slave);
                if let Some(deadline) = lock(&self.terminal.state).read_deadline {
                    watch.until(deadline);
                }
            }
        }
    }

    fn writes_everything(&self) -> bool {
        true
    }

    fn readable_bytes(&self) -> Option<u64> {
        let state = lock(&self.terminal.state);
        Some(match self.side {
            Side::Master => state.discipline.pending_output(),
            Side::Slave => state.discipline.readable_bytes(),
        } as u64)
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Terminal(self)
    }
}

impl Drop for TerminalEnd {
    fn drop(&mut self) {
        let mut state = lock(&self.terminal.state);
        let mut hung_up = Vec::new();
        match self.side {
            Side::Master => {
                state.master_open = false;
                hung_up = vec![state.session, state.foreground];
                hung_up.dedup();
                (state.session, state.foreground) = (0, 0);
            }
            Side::Slave => state.slaves -= 1,
        }
        drop(state);
        for group in hung_up {
            self.terminal.signal_group(group, signal::HUP);
            self.terminal.signal_group(group, signal::CONT);
        }
        self.terminal.wake();
    }
}

/// Opens a terminal device, if the numbers are those of one.
///
/// `ENXIO` for `/dev/tty` without a controlling terminal; `EIO` for a slave that is locked or hung up.
pub(crate) fn open(
    cx: &Cx<'_>,
    (major, minor): (u32, u32),
    flags: OpenFlags,
) -> Option<Result<Box<dyn FileObject>, Errno>> {
    let terminals = &cx.kernel.registry.terminals;
    let privileged = cx.credentials().holds(cooper_vfs::Capabilities::SYS_ADMIN);
    let opened = match (major, minor) {
        (5, 2) => terminals.create(cx.kernel, cx.credentials().filesystem.uid),
        (5, 0) => {
            let found = control::session_of(cx).and_then(|session| terminals.of_session(session));
            found.ok_or(Errno::NXIO).and_then(|terminal| TerminalEnd::slave(terminal, privileged))
        }
        (SLAVES, number) => {
            let found = terminals.find(number).ok_or(Errno::NXIO);
            found.and_then(|terminal| TerminalEnd::slave(terminal, privileged)).inspect(|end| {
                if !flags.contains(OpenFlags::NOCTTY) {
                    control::adopt(cx, end);
                }
            })
        }
        _ => return None,
    };
    Some(opened.map(|end| Box::new(end) as Box<dyn FileObject>))
}

/// The slave of a master, opened by the file system's rules for its place (`TIOCGPTPEER`).
fn slave_position(cx: &Cx<'_>, number: u32) -> Result<Position, Errno> {
    let path = format!("/dev/pts/{number}");
    let walk = cx.walk();
    let root = cx.kernel.root_fs.root();
    let walk = cooper_vfs::Walk { root: &root, caller: Caller::default(), ..walk };
    cx.kernel.root_fs.resolve(&walk, &root, path.as_bytes(), cooper_vfs::Follow::Yes)
}
