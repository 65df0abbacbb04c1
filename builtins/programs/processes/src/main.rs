//! Tools for processes and identities.

mod identity;
mod run;
mod signal;
mod system;
mod xargs;

/// Runs the tool that the program's name picks.
fn main() -> std::process::ExitCode {
    toolbox_command::run(&[
        identity::GROUPS,
        identity::ID,
        identity::LOGNAME,
        identity::WHOAMI,
        run::ENV,
        run::NICE,
        run::NOHUP,
        signal::KILL,
        signal::TIMEOUT,
        system::FALSE,
        system::HOSTNAME,
        system::NPROC,
        system::SLEEP,
        system::TRUE,
        system::UNAME,
        system::YES,
        xargs::XARGS,
    ])
}
