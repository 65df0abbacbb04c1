//! Signals and traps.
//!
//! A module cannot be interrupted, so a signal with a trap is blocked and taken where traps run: between commands, and
//! in `wait` and `read`, which it ends. Children get the mask that the shell had.

use std::rc::Rc;

use crate::ast::Bytes;
use crate::parser::Input;
use crate::shell::{Env, Flow, Shell, Trap};
use crate::system;

/// Names of signals 1 to 31, and what dash says of a process that one has ended.
const SIGNALS: [(&str, &str); 31] = [
    ("HUP", "Hangup"),
    ("INT", "Interrupt"),
    ("QUIT", "Quit"),
    ("ILL", "Illegal instruction"),
    ("TRAP", "Trace/breakpoint trap"),
    ("ABRT", "Aborted"),
    ("BUS", "Bus error"),
    ("FPE", "Floating point exception"),
    ("KILL", "Killed"),
    ("USR1", "User defined signal 1"),
    ("SEGV", "Segmentation fault"),
    ("USR2", "User defined signal 2"),
    ("PIPE", "Broken pipe"),
    ("ALRM", "Alarm clock"),
    ("TERM", "Terminated"),
    ("STKFLT", "Stack fault"),
    ("CHLD", "Child exited"),
    ("CONT", "Continued"),
    ("STOP", "Stopped (signal)"),
    ("TSTP", "Stopped"),
    ("TTIN", "Stopped (tty input)"),
    ("TTOU", "Stopped (tty output)"),
    ("URG", "Urgent I/O condition"),
    ("XCPU", "CPU time limit exceeded"),
    ("XFSZ", "File size limit exceeded"),
    ("VTALRM", "Virtual timer expired"),
    ("PROF", "Profiling timer expired"),
    ("WINCH", "Window changed"),
    ("IO", "I/O possible"),
    ("PWR", "Power failure"),
    ("SYS", "Bad system call"),
];

/// The highest number of a signal.
pub(crate) const LAST: i32 = 64;

/// What a signal is called; `EXIT` for 0.
pub(crate) fn name(signal: i32) -> String {
    match signal {
        0 => "EXIT".into(),
        1..=31 => SIGNALS[signal as usize - 1].0.into(),
        34 => "RTMIN".into(),
        35..=49 => format!("RTMIN+{}", signal - 34),
        50..=63 => format!("RTMAX-{}", 64 - signal),
        64 => "RTMAX".into(),
        _ => signal.to_string(),
    }
}

/// What is said of a process that the signal has ended.
pub(crate) fn describe(signal: i32) -> &'static str {
    SIGNALS.get(signal as usize - 1).map_or("Real-time signal", |(_, text)| text)
}

/// The signal of a name or number.
pub(crate) fn parse(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?;
    if text.starts_with(|byte: char| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|number| (0..=LAST).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    (0..=LAST).find(|signal| name(*signal) == upper).filter(|signal| *signal < 32 || *signal > 33)
}

impl Env {
    /// What a subshell begins with: traps are gone, ignored signals stay ignored; jobs are others' children.
    pub(crate) fn of_subshell(&self) -> Self {
        let mut env = self.clone();
        if !env.traps.is_empty() {
            env.traps = Rc::new(
                env.traps
                    .iter()
                    .filter(|(_, trap)| **trap == Trap::Ignore)
                    .map(|(n, t)| (*n, t.clone()))
                    .collect(),
            );
        }
        env.jobs.0.clear();
        env
    }
}

impl Shell {
    /// Sets or removes the trap of a signal.
    pub(crate) fn set_trap(&mut self, signal: i32, trap: Option<Trap>) {
        // What was ignored when the shell began stays ignored.
        if signal != 0 && !self.env.traps.contains_key(&signal) && system::is_ignored(signal) {
            return;
        }
        self.apply_trap(signal, trap.as_ref());
        let traps = Rc::make_mut(&mut self.env.traps);
        match trap {
            Some(trap) => traps.insert(signal, trap),
            None => traps.remove(&signal),
        };
    }

    /// Makes the kernel's view of a signal that of its trap.
    pub(crate) fn apply_trap(&mut self, signal: i32, trap: Option<&Trap>) {
        if signal == 0 || signal == system::SIGKILL || signal == 19 {
            return;
        }
        let run = matches!(trap, Some(Trap::Run(_)));
        self.trapped = if run { self.trapped.with(signal) } else { self.trapped.without(signal) };
        system::ignore(signal, trap == Some(&Trap::Ignore));
        let mask = system::mask();
        let blocked = run || self.inherited_mask.has(signal);
        system::set_mask(if blocked { mask.with(signal) } else { mask.without(signal) });
    }

    /// Runs the traps of signals that have come.
    pub(crate) fn run_traps(&mut self) -> Result<(), Flow> {
        if (self.trapped.is_empty() && self.taken.is_empty()) || self.in_trap {
            return Ok(());
        }
        self.run_pending_traps()
    }

    fn run_pending_traps(&mut self) -> Result<(), Flow> {
        loop {
            let signal = match self.taken.pop() {
                Some(signal) => signal,
                None if self.trapped.is_empty() => return Ok(()),
                // Signals are the shell's own affair, not of a subshell that it runs itself.
                None => match system::take_signal(self.trapped, Some([0, 0])) {
                    Some(signal) => signal,
                    None => return Ok(()),
                },
            };
            if let Some(Trap::Run(command)) = self.env.traps.get(&signal).cloned() {
                let status = self.status;
                self.in_trap = true;
                let result = self.run_text(&command);
                self.in_trap = false;
                match result {
                    Ok(()) => self.status = status,
                    Err(flow) => return Err(flow),
                }
            }
        }
    }

    /// Runs the trap of the end of the shell, once.
    pub(crate) fn run_exit_trap(&mut self) {
        let Some(Trap::Run(command)) = self.env.traps.get(&0).cloned() else { return };
        Rc::make_mut(&mut self.env.traps).remove(&0);
        let status = self.status;
        self.exiting = true;
        self.env.loop_depth = 0;
        // An `exit` in the trap sets the status; anything else leaves it.
        match self.run_text(&command) {
            Err(Flow::Exit | Flow::Error) => {}
            _ => self.status = status,
        }
        self.exiting = false;
    }

    /// Runs a text as commands: `eval`, traps.
    pub(crate) fn run_text(&mut self, text: &Bytes) -> Result<(), Flow> {
        let mut input = Input::text(text);
        self.run_input(&mut input, crate::execute::Flags::default())
    }
}
