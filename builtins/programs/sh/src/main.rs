//! `sh`: a POSIX shell for images that have none, with dash as the measure of what POSIX leaves open.
//!
//! ```text
//! text -> parser -> tree -> execute -> builtins | processes
//!                             |  ^
//!                   expand, redirect, arithmetic, pattern
//! ```
//!
//! It is one program for two worlds: a WebAssembly module in Cooper's kernel, and an ordinary Linux program, which is how it is tested. All it
//! asks of either are system calls and a spawn (`toolbox_linux`); there is no `fork`, and [`subshell`] says how it does
//! without.

mod arithmetic;
mod ast;
mod builtins;
mod execute;
mod expand;
mod jobs;
mod parser;
mod pattern;
mod process;
mod redirect;
mod shell;
mod signals;
mod subshell;
mod system;

use ast::Bytes;
use execute::Flags;
use parser::Input;
use shell::{Flow, Opt, Shell};

/// Arguments and environment as bytes.
fn bytes(text: std::ffi::OsString) -> Bytes {
    text.into_encoded_bytes().into()
}

fn main() {
    let status = run(std::env::args_os().map(bytes).collect());
    std::process::exit(status & 0xff);
}

/// Where commands come from.
enum Source {
    Text(Bytes),
    File(Bytes),
    Stdin,
}

fn run(arguments: Vec<Bytes>) -> i32 {
    let zero = arguments.first().cloned().unwrap_or_else(|| Bytes::from(&b"sh"[..]));
    system::restore_pipe_signal();
    if let [_, copy, fd] = arguments.as_slice()
        && **copy == *subshell::COPY_ARGUMENT
        && let Some(fd) = std::str::from_utf8(fd).ok().and_then(|fd| fd.parse().ok())
    {
        return subshell::run_copy(fd);
    }
    let mut shell = Shell::new(zero);
    shell.import(std::env::vars_os().map(|(name, value)| (bytes(name), bytes(value))));
    let Some(source) = shell.command_line(arguments.get(1..).unwrap_or_default()) else { return 2 };
    let (mut input, exit) = match source {
        Source::Text(text) => (Input::text(&text), true),
        Source::File(name) => match builtins::read_file(&name) {
            Ok(text) => {
                shell.zero = name;
                (Input::file(text), false)
            }
            Err(error) => {
                let message =
                    [b"cannot open ", &name[..], b": ", redirect::describe(error, false).as_bytes()].concat();
                shell.line = 0;
                shell.fail(&message, 2);
                return if error == system::ENOENT { 2 } else { shell.status };
            }
        },
        Source::Stdin => (Input::descriptor(0), false),
    };
    shell.main_loop(&mut input, exit);
    shell.run_exit_trap();
    shell.status
}

impl Shell {
    /// Takes options and operands; `None` when they are wrong.
    fn command_line(&mut self, arguments: &[Bytes]) -> Option<Source> {
        self.line = 0;
        let mut command = false;
        let mut rest = Vec::new();
        let mut options = true;
        for argument in arguments {
            if options && argument.len() > 1 && matches!(argument[0], b'-' | b'+') && **argument != *b"--" {
                // `-c` is the command line's alone.
                let letters: Vec<u8> =
                    argument.iter().copied().filter(|letter| *letter != b'c' && *letter != b'l').collect();
                command |= argument[0] == b'-' && argument.contains(&b'c');
                if letters.len() > 1 {
                    rest.push(Bytes::from(letters));
                }
                // The name of an option follows its letter.
                options = true;
                continue;
            }
            let named = options && rest.last().is_some_and(|word: &Bytes| word.ends_with(b"o"));
            if !named {
                options = false;
            }
            rest.push(argument.clone());
        }
        let operands = match self.set_options(&rest) {
            Ok(operands) => operands.unwrap_or_default().to_vec(),
            Err(_) => return None,
        };
        let mut operands = operands.into_iter();
        let source = if command {
            let Some(text) = operands.next() else {
                self.error(b"-c requires an argument");
                return None;
            };
            if let Some(zero) = operands.next() {
                self.zero = zero;
            }
            Source::Text(text)
        } else if self.env.options.has(Opt::Stdin) {
            Source::Stdin
        } else {
            match operands.next() {
                Some(file) => Source::File(file),
                None => {
                    self.env.options.set(Opt::Stdin, true);
                    Source::Stdin
                }
            }
        };
        self.env.positional = std::rc::Rc::new(operands.collect());
        let terminal = matches!(source, Source::Stdin) && system::is_terminal(0) && system::is_terminal(2);
        if terminal {
            self.env.options.set(Opt::Interactive, true);
        }
        self.interactive = self.env.options.has(Opt::Interactive);
        self.line = 1;
        Some(source)
    }

    fn main_loop(&mut self, input: &mut Input, exit: bool) {
        loop {
            let flow = self.run_input(input, Flags { tested: false, exit });
            // An error ends a command line at a terminal, not the shell.
            if flow != Err(Flow::Error) || !self.interactive {
                return;
            }
            self.builtin = None;
            self.depth = 0;
            self.env.loop_depth = 0;
            self.env.function_depth = 0;
            input.skip_line();
        }
    }
}
