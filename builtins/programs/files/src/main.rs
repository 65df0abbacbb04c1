//! Tools for files and directories: what they are called, whose they are, where they lie.

mod attributes;
mod copy;
mod dd;
mod disk;
mod list;
mod make;
mod path;
mod remove;
mod stat;
mod test;
mod time;
mod touch;

/// Runs the tool that the program's name picks.
fn main() -> std::process::ExitCode {
    toolbox_command::run(&[
        attributes::CHGRP,
        attributes::CHMOD,
        attributes::CHOWN,
        copy::CP,
        copy::INSTALL,
        copy::MV,
        dd::DD,
        disk::DF,
        disk::DU,
        disk::SYNC,
        list::LS,
        make::LINK,
        make::LN,
        make::MKDIR,
        make::MKFIFO,
        make::MKNOD,
        make::MKTEMP,
        path::PWD,
        path::READLINK,
        path::REALPATH,
        remove::RM,
        remove::RMDIR,
        remove::UNLINK,
        stat::STAT,
        test::BRACKET,
        test::TEST,
        touch::TOUCH,
        touch::TRUNCATE,
    ])
}
