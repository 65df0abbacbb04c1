//! Tools of uutils, several to a module.
//!
//! A module holds a family that is likely to be used together, so that the first use of a tool compiles little else. The
//! name by which a module is called, `argv[0]`, picks the tool.

use std::ffi::OsString;
use std::io::Write;

/// The way into a tool of uutils: arguments with the name first, exit code.
pub type Tool = fn(std::vec::IntoIter<OsString>) -> i32;

/// Names one tool of uutils for [`run`].
#[macro_export]
macro_rules! tools {
    ($($name:literal => $tool:ident),* $(,)?) => {
        /// Runs the tool that the program's name picks.
        fn main() -> std::process::ExitCode {
            $crate::run(&[$(($name, |arguments| $tool::uumain(arguments))),*])
        }
    };
}

/// Runs the tool that the program's name picks; 127 if it is none of them.
#[must_use]
pub fn run(tools: &[(&str, Tool)]) -> std::process::ExitCode {
    toolbox_linux::process::enter();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default();
    let Some((name, tool)) = tools.iter().find(|(tool, _)| *tool == name) else {
        let _ = writeln!(std::io::stderr(), "{called}: not a tool of this module");
        return 127.into();
    };
    uucore::panic::mute_sigpipe_panic();
    if let Err(error) = uucore::locale::setup_localization(name) {
        let _ = writeln!(std::io::stderr(), "{name}: {error}");
        return 99.into();
    }
    let code = tool(arguments.into_iter());
    if let Err(error) = std::io::stdout().flush() {
        let _ = writeln!(std::io::stderr(), "{name}: write error: {error}");
        return 1.into();
    }
    u8::try_from(code & 0xff).unwrap_or(1).into()
}
