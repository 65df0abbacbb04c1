//! What our own tools share: the table of a tool's options, its messages, modes, owners and names in quotes.
//!
//! A tool is a [`Tool`]: name, options with their help, and a function. [`run`] picks one by `argv[0]`, reads the
//! command line as GNU's `getopt_long` does (options anywhere, long names cut short, `--`) and refuses what is not in the table.
//!
//! Messages and quotes are those of GNU's tools in the locale C: bytes beyond ASCII are escaped.

pub mod mode;
pub mod options;
pub mod owner;
pub mod pattern;
pub mod quote;
pub mod version;

use std::cell::Cell;
use std::fmt::Display;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

pub use options::{Order, Parsed, Spec};
use toolbox_linux::file::{self, Descriptor};
use toolbox_linux::{Errno, errno, process};

/// One tool of a module.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The name that picks it.
    pub name: &'static str,
    /// Its operands, as `--help` shows them.
    pub usage: &'static str,
    /// Its options.
    pub options: Spec,
    /// Whether options end at the first operand.
    pub order: Order,
    /// Exit code for a command line that is wrong.
    pub misuse: i32,
    /// What it does; the answer is the exit code.
    pub main: fn(&Context, Parsed) -> i32,
}

/// A running tool.
#[derive(Debug)]
pub struct Context {
    /// The tool's name.
    pub name: &'static str,
    /// Exit code for a wrong command line.
    pub misuse: i32,
    status: Cell<i32>,
    current: Cell<Option<i32>>,
}

/// The standard output with a buffer; flushed by [`Context::finish`] or dropped with an error lost.
pub type Output = BufWriter<Descriptor>;

impl Context {
    /// The exit code so far: 0, or what a failure set.
    #[must_use]
    pub fn status(&self) -> i32 {
        self.status.get()
    }
    /// Sets the exit code without a message.
    pub fn set_status(&self, status: i32) {
        self.status.set(status);
    }
    /// Prints `name: message` to standard error.
    pub fn warn(&self, message: impl Display) {
        let _ = Descriptor::keep(2).write_all(format!("{}: {message}\n", self.name).as_bytes());
    }
    /// Prints a message and makes the exit code 1.
    pub fn fail(&self, message: impl Display) {
        self.warn(message);
        self.status.set(1);
    }
    /// Prints a message and ends with `code`.
    pub fn die(&self, code: i32, message: impl Display) -> ! {
        self.warn(message);
        std::process::exit(code)
    }
    /// Refuses the command line: the message, the hint, and the end.
    pub fn misused(&self, message: impl Display) -> ! {
        self.warn(message);
        let hint = format!("Try '{} --help' for more information.\n", self.name);
        let _ = Descriptor::keep(2).write_all(hint.as_bytes());
        std::process::exit(self.misuse)
    }
    /// Refuses a command line without the operand that it needs.
    pub fn missing_operand(&self) -> ! {
        self.misused("missing operand")
    }
    /// Refuses an operand too many.
    pub fn extra_operand(&self, operand: &[u8]) -> ! {
        self.misused(format!("extra operand {}", quote::always(operand)))
    }
    /// Standard output.
    #[must_use]
    pub fn output(&self) -> Output {
        BufWriter::with_capacity(1 << 16, Descriptor::keep(1))
    }
    /// Flushes; a failure is a message and exit code 1. The answer is the exit code.
    pub fn finish(&self, mut output: Output) -> i32 {
        self.check_write(output.flush());
        self.status()
    }
    /// Ends the tool if a write failed, as there is no use in going on.
    pub fn check_write(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.die(1, format!("write error: {}", reason(&error)));
        }
    }
    /// Opens an input, `-` for standard input; a failure is reported and is `None`.
    pub fn open_input(&self, name: &[u8]) -> Option<Descriptor> {
        if name == b"-" {
            return Some(Descriptor::keep(0));
        }
        file::open_read(name).map_err(|errno| self.fail(format!("{}: {errno}", quote::if_needed(name)))).ok()
    }
    /// Umask of the process, asked for once.
    #[must_use]
    pub fn umask(&self) -> u32 {
        let mask = self.current.get().unwrap_or_else(|| process::current_umask() as i32);
        self.current.set(Some(mask));
        mask as u32
    }
}

/// The reason in an error of input or output, as Linux words it.
#[must_use]
pub fn reason(error: &std::io::Error) -> String {
    file::errno_of(error)
        .or_else(|| error.raw_os_error().filter(|_| cfg!(not(target_family = "wasm"))).map(Errno))
        .map_or_else(|| error.to_string(), |errno| errno.to_string())
}

/// Whether the failure is that there is no such file.
#[must_use]
pub fn is_missing(failure: Errno) -> bool {
    matches!(failure, errno::ENOENT | errno::ENOTDIR)
}

/// Runs the tool that `argv[0]` names; 127 if none has the name.
#[must_use]
pub fn run(tools: &[Tool]) -> ExitCode {
    if cfg!(not(target_family = "wasm")) {
        // Rust's start ignores SIGPIPE; these tools die of it, as others do.
        let _ = process::ignore(13, false);
    }
    process::enter();
    let mut arguments = std::env::args_os().map(|argument| argument.into_encoded_bytes());
    let called = arguments.next().unwrap_or_default();
    let name = called.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let code = match tools.iter().find(|tool| tool.name.as_bytes() == name) {
        Some(tool) => {
            let context = Context {
                name: tool.name,
                misuse: tool.misuse,
                status: Cell::new(0),
                current: Cell::new(None),
            };
            let parsed = options::parse(tool, &context, arguments.collect());
            (tool.main)(&context, parsed)
        }
        None => {
            let message = format!("{}: not a tool of this module\n", quote::if_needed(&called));
            let _ = Descriptor::keep(2).write_all(message.as_bytes());
            127
        }
    };
    u8::try_from(code & 0xff).unwrap_or(1).into()
}

/// Shows the help of a tool: its usage and its options.
fn help(tool: &Tool) -> String {
    let mut text = format!("Usage: {} {}\n", tool.name, tool.usage);
    for (entry, words) in tool.options {
        let (short, long, argument) = options::names(entry);
        let value = match (argument, long.is_empty()) {
            (options::Argument::None, _) => "",
            (options::Argument::Required, true) => " ARG",
            (options::Argument::Required, false) => "=ARG",
            (options::Argument::Optional, true) => "[ARG]",
            (options::Argument::Optional, false) => "[=ARG]",
        };
        let long = if long.is_empty() { String::new() } else { format!("--{long}") };
        let short = if short.is_empty() { String::new() } else { format!("-{short}") };
        let comma = if short.is_empty() || long.is_empty() { "" } else { ", " };
        text += &format!("  {:<28} {words}\n", format!("{short}{comma}{long}{value}"));
    }
    text + "      --help                 shows this\n      --version              shows the version\n"
}
