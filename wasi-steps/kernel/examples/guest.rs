//! Runs a program in a kernel over a copy of a host directory: `guest ROOT PROGRAM [ARGUMENT…]`.
#![allow(clippy::print_stderr, clippy::exit, clippy::disallowed_methods, reason = "a tool for developers")]

#[path = "../tests/support/mod.rs"]
mod support;

fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, command @ ..] = &arguments[..] else { panic!("usage: guest ROOT PROGRAM [ARGUMENT…]") };
    let mut world = support::World::new();
    world.inherit = true;
    world.limits.tasks = 1000;
    world.copy_tree(std::path::Path::new(root), "");
    let outcome = world.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
    eprintln!("{:?} {:?}", outcome.status, outcome.report);
    std::process::exit(match outcome.status {
        cooper_kernel::ExitStatus::Code(code) => i32::from(code),
        cooper_kernel::ExitStatus::Signal(number) | cooper_kernel::ExitStatus::Core(number) => {
            128 + i32::from(number)
        }
    });
}
