//! The line discipline: what happens to bytes between the two ends of a terminal (termios(3), Linux's `N_TTY`).
//!
//! A [`Discipline`] is a value without locks and without processes. What comes from the keyboard side is edited,
//! echoed and cut into lines; what programs write gets its line ends. Characters that stand for signals are returned to
//! the caller, who knows whom to send them to.
//!
//! What must hold: every queue has a bound, and whatever does not fit is refused or dropped as Linux does.

use std::collections::VecDeque;

/// The most bytes that wait to be read by programs (`N_TTY_BUF_SIZE`).
pub(super) const INPUT_LIMIT: usize = 4096;
/// The most bytes of output that wait for the other side.
const OUTPUT_LIMIT: usize = 64 << 10;
/// Columns between tab stops.
const TAB: usize = 8;

/// Numbers of control characters in [`Settings::characters`].
mod character {
    pub(super) const INTERRUPT: usize = 0;
    pub(super) const QUIT: usize = 1;
    pub(super) const ERASE: usize = 2;
    pub(super) const KILL: usize = 3;
    pub(super) const END: usize = 4;
    pub(super) const TIME: usize = 5;
    pub(super) const MINIMUM: usize = 6;
    pub(super) const START: usize = 8;
    pub(super) const STOP: usize = 9;
    pub(super) const SUSPEND: usize = 10;
    pub(super) const LINE: usize = 11;
    pub(super) const REPRINT: usize = 12;
    pub(super) const WORD: usize = 14;
    pub(super) const LITERAL: usize = 15;
    pub(super) const LINE_2: usize = 16;
}

/// Input flags (`c_iflag`).
mod input {
    pub(super) const STRIP: u32 = 0o40;
    pub(super) const NEWLINE_TO_RETURN: u32 = 0o100;
    pub(super) const IGNORE_RETURN: u32 = 0o200;
    pub(super) const RETURN_TO_NEWLINE: u32 = 0o400;
    pub(super) const START_STOP: u32 = 0o2000;
    pub(super) const ANY_STARTS: u32 = 0o4000;
}

/// Output flags (`c_oflag`).
mod output {
    pub(super) const PROCESS: u32 = 1;
    pub(super) const NEWLINE_ADDS_RETURN: u32 = 4;
    pub(super) const RETURN_TO_NEWLINE: u32 = 0o10;
    pub(super) const NO_RETURN_AT_START: u32 = 0o20;
    pub(super) const NEWLINE_RETURNS: u32 = 0o40;
    pub(super) const EXPAND_TABS: u32 = 0o14000;
}

/// Local flags (`c_lflag`).
pub(super) mod local {
    pub(super) const SIGNALS: u32 = 1;
    /// Input comes in lines.
    pub(crate) const CANONICAL: u32 = 2;
    pub(super) const ECHO: u32 = 0o10;
    pub(super) const ECHO_ERASE: u32 = 0o20;
    pub(super) const ECHO_KILL: u32 = 0o40;
    pub(super) const ECHO_NEWLINE: u32 = 0o100;
    pub(super) const NO_FLUSH: u32 = 0o200;
    /// Background writers are stopped.
    pub(crate) const STOP_WRITERS: u32 = 0o400;
    pub(super) const ECHO_CONTROL: u32 = 0o1000;
    pub(super) const ECHO_KILL_ERASES: u32 = 0o4000;
    pub(super) const EXTENSIONS: u32 = 0o100_000;
}

/// What `tcgetattr` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) input: u32,
    pub(super) output: u32,
    pub(super) control: u32,
    pub(super) local: u32,
    pub(super) line: u8,
    pub(super) characters: [u8; 19],
}

impl Settings {
    /// Size of the kernel's `struct termios`.
    pub(super) const SIZE: usize = 36;

    /// What a new terminal has.
    pub(super) const INITIAL: Self = Self {
        input: input::RETURN_TO_NEWLINE | input::START_STOP,
        output: output::PROCESS | output::NEWLINE_ADDS_RETURN,
        // 38400 baud, 8 bits, receiver on.
        control: 0o277,
        local: local::SIGNALS
            | local::CANONICAL
            | local::ECHO
            | local::ECHO_ERASE
            | local::ECHO_KILL
            | local::ECHO_CONTROL
            | local::ECHO_KILL_ERASES
            | local::EXTENSIONS,
        line: 0,
        characters: [3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0x0f, 0x17, 0x16, 0, 0, 0],
    };

    /// Takes them from a `struct termios`.
    pub(super) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut characters = [0; 19];
        characters.copy_from_slice(&bytes[17..36]);
        Self {
            input: word(0),
            output: word(4),
            control: word(8),
            local: word(12),
            line: bytes[16],
            characters,
        }
    }

    /// Puts them into a `struct termios`.
    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (index, word) in [self.input, self.output, self.control, self.local].into_iter().enumerate() {
            bytes[4 * index..4 * index + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[16] = self.line;
        bytes[17..].copy_from_slice(&self.characters);
        bytes
    }

    fn is(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    /// Whether a byte is this control character; 0 switches one off.
    fn means(&self, byte: u8, index: usize) -> bool {
        byte != 0 && self.characters[index] == byte
    }

    /// Bytes that a raw read waits for, and for how many tenths of a second.
    pub(super) fn minimum_and_time(&self) -> (usize, u8) {
        (self.characters[character::MINIMUM].into(), self.characters[character::TIME])
    }
}

/// A signal that a character stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// `SIGINT`.
    Interrupt,
    /// `SIGQUIT`.
    Quit,
    /// `SIGTSTP`.
    Suspend,
}

/// The state of a terminal's two directions.
#[derive(Debug)]
pub(super) struct Discipline {
    pub(super) settings: Settings,
    /// What programs can read.
    available: VecDeque<u8>,
    /// Lengths of the lines at the front of `available`; canonical mode only. 0 is an end of file.
    lines: VecDeque<usize>,
    /// The line that is being edited.
    editing: Vec<u8>,
    /// Where the other side reads.
    output: VecDeque<u8>,
    column: usize,
    /// `^S` was typed, or `TCOOFF`.
    pub(super) stopped: bool,
    /// The next character is taken as it is.
    literal: bool,
}

impl Discipline {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::INITIAL,
            available: VecDeque::new(),
            lines: VecDeque::new(),
            editing: Vec::new(),
            output: VecDeque::new(),
            column: 0,
            stopped: false,
            literal: false,
        }
    }

    fn canonical(&self) -> bool {
        self.settings.is(local::CANONICAL)
    }

    /// Changes the settings; what waits stays readable in the new mode.
    pub(super) fn set(&mut self, settings: Settings) {
        let before = self.canonical();
        self.settings = settings;
        if before && !self.canonical() {
            self.lines.clear();
            self.available.extend(self.editing.drain(..));
        } else if !before && self.canonical() && !self.available.is_empty() {
            self.lines.push_back(self.available.len());
        }
        if settings.input & input::START_STOP == 0 {
            self.stopped = false;
        }
    }

    /// Whether a program's read gives something now (or the end of the file).
    pub(super) fn is_readable(&self) -> bool {
        if self.canonical() {
            return !self.lines.is_empty();
        }
        let (minimum, time) = self.settings.minimum_and_time();
        // With a timer, the first byte is enough: what comes later is the next read's.
        let wanted = if time > 0 { 1 } else { minimum.max(1) };
        self.available.len() >= wanted
    }

    /// Whether a read of `length` bytes gives something now.
    pub(super) fn can_read(&self, length: usize) -> bool {
        self.is_readable() || (!self.canonical() && length > 0 && self.available.len() >= length)
    }

    /// Bytes that a read would give (`FIONREAD`).
    pub(super) fn readable_bytes(&self) -> usize {
        if self.canonical() { self.lines.iter().sum() } else { self.available.len() }
    }

    /// The bytes that the next read may take.
    pub(super) fn front(&self, length: usize) -> Vec<u8> {
        let bound = if self.canonical() { self.lines.front().copied().unwrap_or(0) } else { usize::MAX };
        self.available.iter().copied().take(length.min(bound)).collect()
    }

    /// Takes `count` bytes of what [`front`](Self::front) gave.
    pub(super) fn consume(&mut self, count: usize) {
        self.available.drain(..count.min(self.available.len()));
        if !self.canonical() {
            return;
        }
        if let Some(line) = self.lines.front_mut() {
            *line = line.saturating_sub(count);
            if *line == 0 {
                self.lines.pop_front();
            }
        }
    }

    /// Whether the other side may put something in: a line that is being edited is never in the way, as the
    /// characters beyond the bound are dropped.
    pub(super) fn has_input_room(&self) -> bool {
        self.available.len() < INPUT_LIMIT
    }

    /// Drops what was typed and not read.
    pub(super) fn flush_input(&mut self) {
        self.available.clear();
        self.lines.clear();
        self.editing.clear();
    }

    /// Drops what was written and not taken by the other side.
    pub(super) fn flush_output(&mut self) {
        self.output.clear();
    }

    /// Bytes that wait for the other side.
    pub(super) fn pending_output(&self) -> usize {
        if self.stopped { 0 } else { self.output.len() }
    }

    /// Bytes that wait for the other side, whether it may have them or not (`TIOCOUTQ`).
    pub(super) fn queued_output(&self) -> usize {
        self.output.len()
    }

    /// The first bytes for the other side.
    pub(super) fn output_front(&self, length: usize) -> Vec<u8> {
        self.output.iter().copied().take(length).collect()
    }

    /// Takes what the other side has read.
    pub(super) fn consume_output(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
    }

    /// Whether programs may write.
    pub(super) fn has_output_room(&self) -> bool {
        !self.stopped && self.output.len() < OUTPUT_LIMIT
    }

    /// One byte that a program writes. `false` when there is no room for it.
    pub(super) fn write(&mut self, byte: u8) -> bool {
        if !self.has_output_room() {
            return false;
        }
        self.put(byte);
        true
    }

    fn push(&mut self, byte: u8) {
        // A program's bytes have room; echoes beyond twice the bound are lost.
        if self.output.len() < 2 * OUTPUT_LIMIT {
            self.output.push_back(byte);
        }
    }

    /// Output processing.
    fn put(&mut self, byte: u8) {
        let flags = self.settings.output;
        let has = |flag: u32| flags & flag != 0;
        if !has(output::PROCESS) {
            return self.push(byte);
        }
        match byte {
            b'\n' if has(output::NEWLINE_ADDS_RETURN) => {
                self.push(b'\r');
                self.push(b'\n');
                self.column = 0;
            }
            b'\n' => {
                self.push(byte);
                if has(output::NEWLINE_RETURNS) {
                    self.column = 0;
                }
            }
            b'\r' if has(output::NO_RETURN_AT_START) && self.column == 0 => {}
            b'\r' if has(output::RETURN_TO_NEWLINE) => {
                self.push(b'\n');
                if has(output::NEWLINE_RETURNS) {
                    self.column = 0;
                }
            }
            b'\r' => {
                self.push(byte);
                self.column = 0;
            }
            b'\t' => {
                let width = TAB - self.column % TAB;
                if flags & output::EXPAND_TABS == output::EXPAND_TABS {
                    (0..width).for_each(|_| self.push(b' '));
                } else {
                    self.push(byte);
                }
                self.column += width;
            }
            8 => {
                self.push(byte);
                self.column = self.column.saturating_sub(1);
            }
            _ => {
                self.push(byte);
                // Bytes inside a UTF-8 character take no column.
                self.column += usize::from(byte >= 32 && byte & 0xc0 != 0x80);
            }
        }
    }

    fn echo(&mut self, byte: u8) {
        let control = byte < 32 || byte == 127;
        if control && self.settings.is(local::ECHO_CONTROL) && !matches!(byte, b'\t' | b'\n') {
            self.put(b'^');
            self.put(byte ^ 0x40);
        } else {
            self.put(byte);
        }
    }

    /// One byte from the keyboard side; the signal it stands for.
    pub(super) fn receive(&mut self, byte: u8) -> Option<Key> {
        let settings = self.settings;
        let mut byte = if settings.input & input::STRIP != 0 { byte & 0x7f } else { byte };
        if std::mem::take(&mut self.literal) {
            self.take(byte);
            return None;
        }
        if settings.input & input::START_STOP != 0 {
            if settings.means(byte, character::START) {
                self.stopped = false;
                return None;
            }
            if settings.means(byte, character::STOP) {
                self.stopped = true;
                return None;
            }
            if settings.input & input::ANY_STARTS != 0 {
                self.stopped = false;
            }
        }
        if let Some(key) = self.key(byte) {
            return Some(key);
        }
        byte = match byte {
            b'\r' if settings.input & input::IGNORE_RETURN != 0 => return None,
            b'\r' if settings.input & input::RETURN_TO_NEWLINE != 0 => b'\n',
            b'\n' if settings.input & input::NEWLINE_TO_RETURN != 0 => b'\r',
            other => other,
        };
        if self.canonical() && self.edit(byte) {
            return None;
        }
        self.take(byte);
        None
    }

    fn key(&mut self, byte: u8) -> Option<Key> {
        if !self.settings.is(local::SIGNALS) {
            return None;
        }
        let keys = [
            (character::INTERRUPT, Key::Interrupt),
            (character::QUIT, Key::Quit),
            (character::SUSPEND, Key::Suspend),
        ];
        let (_, key) = keys.into_iter().find(|(index, _)| self.settings.means(byte, *index))?;
        if !self.settings.is(local::NO_FLUSH) {
            self.flush_input();
            self.flush_output();
        }
        self.stopped = false;
        if self.settings.is(local::ECHO) {
            self.echo(byte);
        }
        Some(key)
    }

    /// Editing in canonical mode; `false` for bytes that are just typed.
    fn edit(&mut self, byte: u8) -> bool {
        let settings = self.settings;
        let extended = settings.is(local::EXTENSIONS);
        if settings.means(byte, character::ERASE) {
            self.erase_character();
        } else if extended && settings.means(byte, character::WORD) {
            let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 128;
            while self.editing.last().is_some_and(|last| !is_word(last)) {
                self.erase_character();
            }
            while self.editing.last().is_some_and(is_word) {
                self.erase_character();
            }
        } else if settings.means(byte, character::KILL) {
            self.kill_line(byte);
        } else if extended && settings.means(byte, character::LITERAL) {
            self.literal = true;
            if settings.is(local::ECHO) && settings.is(local::ECHO_CONTROL) {
                self.push(b'^');
                self.push(8);
            }
        } else if extended && settings.is(local::ECHO) && settings.means(byte, character::REPRINT) {
            self.echo(byte);
            self.put(b'\n');
            self.editing.clone().into_iter().for_each(|byte| self.echo(byte));
        } else if settings.means(byte, character::END) {
            self.finish_line(None);
        } else if byte == b'\n' {
            if settings.is(local::ECHO) || settings.is(local::ECHO_NEWLINE) {
                self.put(b'\n');
            }
            self.finish_line(Some(byte));
        } else if settings.means(byte, character::LINE) || extended && settings.means(byte, character::LINE_2)
        {
            if settings.is(local::ECHO) {
                self.echo(byte);
            }
            self.finish_line(Some(byte));
        } else {
            return false;
        }
        true
    }

    fn finish_line(&mut self, end: Option<u8>) {
        self.lines.push_back(self.editing.len() + usize::from(end.is_some()));
        self.available.extend(self.editing.drain(..).chain(end));
    }

    /// Takes the last character, all bytes of it, out of the line.
    fn erase_character(&mut self) {
        let Some(mut byte) = self.editing.pop() else { return };
        while byte & 0xc0 == 0x80 {
            let Some(before) = self.editing.pop() else { break };
            byte = before;
        }
        let settings = self.settings;
        if !settings.is(local::ECHO) {
            return;
        }
        if !settings.is(local::ECHO_ERASE) {
            return self.echo(settings.characters[character::ERASE]);
        }
        let wide = (byte < 32 || byte == 127) && settings.is(local::ECHO_CONTROL) && byte != b'\t';
        for _ in 0..if wide { 2 } else { 1 } {
            b"\x08 \x08".iter().for_each(|byte| self.put(*byte));
        }
    }

    fn kill_line(&mut self, byte: u8) {
        let settings = self.settings;
        if settings.is(local::ECHO_KILL_ERASES)
            && settings.is(local::ECHO_KILL)
            && settings.is(local::ECHO_ERASE)
        {
            while !self.editing.is_empty() {
                self.erase_character();
            }
            return;
        }
        self.editing.clear();
        if settings.is(local::ECHO) {
            self.echo(byte);
            if settings.is(local::ECHO_KILL) {
                self.put(b'\n');
            }
        }
    }

    /// A byte that goes to the reader as it is.
    fn take(&mut self, byte: u8) {
        if self.canonical() {
            // The last place is for the end of the line.
            if self.available.len() + self.editing.len() + 1 >= INPUT_LIMIT {
                return self.push(7);
            }
            self.editing.push(byte);
        } else {
            if self.available.len() >= INPUT_LIMIT {
                return;
            }
            self.available.push_back(byte);
        }
        if self.settings.is(local::ECHO) {
            self.echo(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(discipline: &mut Discipline, text: &[u8]) -> Vec<Key> {
        text.iter().filter_map(|byte| discipline.receive(*byte)).collect()
    }

    fn read(discipline: &mut Discipline, length: usize) -> Vec<u8> {
        let front = discipline.front(length);
        discipline.consume(front.len());
        front
    }

    fn echoed(discipline: &mut Discipline) -> Vec<u8> {
        let bytes = discipline.output_front(usize::MAX);
        discipline.consume_output(bytes.len());
        bytes
    }

    #[test]
    fn lines_are_edited_and_echoed() {
        let mut discipline = Discipline::new();
        typed(&mut discipline, b"ab\x7fc");
        assert!(!discipline.is_readable());
        typed(&mut discipline, b"\rnext");
        assert_eq!(read(&mut discipline, 100), b"ac\n");
        assert!(!discipline.is_readable());
        assert_eq!(echoed(&mut discipline), b"ab\x08 \x08c\r\nnext");
        typed(&mut discipline, b"\x15x\x17\x01\n");
        assert_eq!(read(&mut discipline, 1), b"\x01");
        assert_eq!(read(&mut discipline, 100), b"\n");
    }

    #[test]
    fn end_of_file_is_an_empty_line() {
        let mut discipline = Discipline::new();
        typed(&mut discipline, b"ab\x04\x04");
        assert_eq!(read(&mut discipline, 100), b"ab");
        assert!(discipline.is_readable());
        assert_eq!(read(&mut discipline, 100), b"");
        assert!(!discipline.is_readable());
    }

    #[test]
    fn characters_stand_for_signals_and_drop_what_was_typed() {
        let mut discipline = Discipline::new();
        assert_eq!(typed(&mut discipline, b"abc\x03"), [Key::Interrupt]);
        assert_eq!(echoed(&mut discipline), b"^C");
        typed(&mut discipline, b"d\n");
        assert_eq!(read(&mut discipline, 100), b"d\n");
        let settings = Settings { local: 0, ..Settings::INITIAL };
        discipline.set(settings);
        assert_eq!(typed(&mut discipline, b"\x03\x1c"), []);
        assert_eq!(read(&mut discipline, 100), b"\x03\x1c");
    }

    #[test]
    fn raw_mode_waits_for_the_minimum() {
        let mut discipline = Discipline::new();
        let mut settings = Settings { local: 0, input: 0, output: 0, ..Settings::INITIAL };
        settings.characters[character::MINIMUM] = 3;
        discipline.set(settings);
        typed(&mut discipline, b"a\r");
        assert!(!discipline.is_readable() && discipline.can_read(2));
        typed(&mut discipline, b"b");
        assert_eq!(read(&mut discipline, 100), b"a\rb");
        assert!(discipline.write(b'\n'));
        assert_eq!(echoed(&mut discipline), b"\n");
    }

    #[test]
    fn output_gets_returns_and_stops_on_request() {
        let mut discipline = Discipline::new();
        b"a\n".iter().for_each(|byte| assert!(discipline.write(*byte)));
        assert_eq!(echoed(&mut discipline), b"a\r\n");
        typed(&mut discipline, b"\x13");
        assert!(!discipline.write(b'x'));
        typed(&mut discipline, b"\x11");
        assert!(discipline.write(b'x'));
    }

    #[test]
    fn queues_have_bounds() {
        let mut discipline = Discipline::new();
        (0..10 * INPUT_LIMIT).for_each(|_| assert_eq!(discipline.receive(b'a'), None));
        typed(&mut discipline, b"\n");
        assert_eq!(read(&mut discipline, usize::MAX).len(), INPUT_LIMIT);
        let written = (0..10 * OUTPUT_LIMIT).filter(|_| discipline.write(b'x')).count();
        assert!(written <= OUTPUT_LIMIT);
    }

    #[test]
    fn settings_survive_their_bytes() {
        assert_eq!(Settings::from_bytes(&Settings::INITIAL.to_bytes()), Settings::INITIAL);
    }
}
