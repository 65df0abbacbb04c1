#![allow(
    clippy::disallowed_methods,
    reason = "the command line opens the host directories that its flags name"
)]
//! `cooper run`: a command in an image's file system, as a `RUN` step would run it.
//!
//! stdio is passed through, or, where all of it is a terminal, the command has a terminal of its own; the exit code is the command's. Our own failures are 125, a command that cannot be executed
//! 126, one that is not there 127, as in Docker.

use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use cooper_build::context::{self, ContextQuery, Wanted};
use cooper_build::copy::accounts;
use cooper_build::report::Silent;
use cooper_build::request::ContextSource;
use cooper_build::run::{DEFAULT_PATH, step_failed};
use cooper_build::scope::Variables;
use cooper_build::source::{ImageProvider, StoreImages};
use cooper_build::step::{
    Bytes, CancelToken, Limit, NetworkPolicy, OutputStream, Record, Stdin, StepError, StepMount,
    StepMountSource, StepOutput, StepRequest, TreeRecord,
};
use cooper_build::{Error, Fault};
use cooper_image::image::ImageRecord;
use cooper_image::platform::Platform;
use cooper_image::store::Store;
use cooper_vfs::Clock;

use super::{images, values};
use crate::arguments::{NetworkMode, RunArguments};
use crate::environment::{self, open_store};
use crate::failure::Failure;
use crate::runner::{self, TranslationMode};
use crate::signals;
use crate::terminal::{self, RawMode};

/// Exit code of our own failures.
pub(crate) const OWN_FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// The host name that the command sees.
const HOSTNAME: &str = "cooper";

/// Runs the command.
pub(crate) fn run(arguments: &RunArguments) -> Result<ExitCode, Failure> {
    run_in(arguments, None)
}

/// Runs the command, with its code translated as `mode` says.
pub(crate) fn run_in(arguments: &RunArguments, mode: Option<TranslationMode>) -> Result<ExitCode, Failure> {
    match try_run(arguments, mode) {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(Failure::Engine(error)) => {
            let code = match error.fault() {
                Fault::Cancelled | Fault::TimedOut => error.fault().exit_code(),
                _ => OWN_FAILURE,
            };
            Err(Failure::Coded(error, code))
        }
        Err(other) => Err(other),
    }
}

fn try_run(arguments: &RunArguments, mode: Option<TranslationMode>) -> Result<u8, Failure> {
    environment::start_logging(arguments.verbose);
    let store = open_store(&arguments.store)?;
    let cancel = CancelToken::new();
    signals::cancel_on_signals(&cancel);
    let options = crate::registries::options(&arguments.registry)?;
    let provider = StoreImages::new(&store, options, &Silent);
    let platform = Platform::linux_amd64();
    let found = if arguments.pull { None } else { images::find(&store, &arguments.image, &platform)? };
    let image = match found {
        Some(image) => image,
        None => provider.pull(&images::reference(&arguments.image)?, &platform, &cancel)?,
    };
    let tree = provider.tree(&image, &|_, _, _| {}, &cancel)?;
    let request = request(arguments, &store, &image, tree, &cancel)?;
    let trust = arguments.ca_bundle.as_deref();
    let runner = match mode {
        Some(mode) => runner::runner_with(&store, trust, arguments.builtins, mode)?,
        None => runner::runner(&store, trust, arguments.builtins)?,
    };
    let raw = matches!(request.stdin, Stdin::Terminal { .. }).then(RawMode::start).flatten();
    let outcome = runner.run(&request, &mut Passthrough, &cancel);
    // Before anything is said.
    drop(raw);
    let outcome = outcome.map_err(|error| {
        let code = match &error {
            StepError::Execute { missing: true, .. } => NOT_FOUND,
            StepError::Execute { missing: false, .. } => NOT_EXECUTABLE,
            StepError::Cancelled => Fault::Cancelled.exit_code(),
            _ => OWN_FAILURE,
        };
        Failure::Coded(step_failed(error), code)
    })?;
    for note in &outcome.hints {
        crate::complain(&format!("cooper: {note}"));
    }
    if let Some(hit) = outcome.limit {
        let fault = if hit.limit == Limit::Time { Fault::TimedOut } else { Fault::Limit };
        return Err(Failure::Coded(Error::new(fault, hit.to_string()), fault.exit_code()));
    }
    if !outcome.exit.success() && !outcome.unimplemented.is_empty() {
        let calls: Vec<String> =
            outcome.unimplemented.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        crate::complain(&format!(
            "cooper: the command asked for system calls that there are not yet: {}",
            calls.join(", ")
        ));
    }
    Ok(outcome.exit.code())
}

fn request(
    arguments: &RunArguments,
    store: &Store,
    image: &ImageRecord,
    tree: cooper_vfs::tree::Tree,
    cancel: &CancelToken,
) -> Result<StepRequest, Failure> {
    let config = &image.config.config;
    let user = arguments.user.as_deref().unwrap_or(&config.user);
    let account = accounts(store, &tree)?
        .account(user)
        .map_err(|error| Error::new(Fault::Usage, format!("cannot run as `{user}`: {error}")))?;
    let mut variables = Variables::default();
    variables.set_all(&config.env);
    for text in &arguments.env {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => variables.set(name, value),
            None if !text.is_empty() => {
                if let Some(value) = environment::variable(text) {
                    variables.set(text, &value);
                }
            }
            _ => return Err(Failure::usage(format!("invalid --env `{text}`: expected NAME[=VALUE]"))),
        }
    }
    let mut environment: Vec<(Bytes, Bytes)> =
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    if variables.get("PATH").is_none() {
        environment.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    if variables.get("HOME").is_none() {
        environment.push(("HOME".into(), account.home.into()));
    }
    let terminal = terminal::size();
    if arguments.tty && terminal.is_none() {
        return Err(Failure::usage("--tty wants a terminal for stdin, stdout and stderr"));
    }
    if terminal.is_some() && variables.get("TERM").is_none() {
        let kind = environment::variable("TERM").unwrap_or_else(|| "xterm".to_owned());
        environment.push(("TERM".into(), kind.into()));
    }
    let directory = arguments.workdir.as_deref().unwrap_or(&config.working_directory);
    let directory = if directory.is_empty() { "/" } else { directory };
    if !directory.starts_with('/') {
        return Err(Failure::usage(format!("invalid --workdir `{directory}`: it must be absolute")));
    }
    let network = match arguments.network {
        NetworkMode::Default => NetworkPolicy::Default { allow: Vec::new() },
        NetworkMode::None => NetworkPolicy::None,
        NetworkMode::Host => NetworkPolicy::Default {
            allow: vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()],
        },
    };
    Ok(StepRequest {
        base: TreeRecord(Bytes(tree.encode())),
        arguments: command(arguments, config.entrypoint.as_deref(), config.cmd.as_deref())?,
        environment,
        working_directory: directory.into(),
        user: account.user,
        mounts: arguments.volume.iter().map(|text| volume(store, text, cancel)).collect::<Result<_, _>>()?,
        network,
        hostname: HOSTNAME.into(),
        extra_hosts: values::hosts(&arguments.add_host)?,
        limits: values::limits(
            arguments.memory.as_deref(),
            &arguments.ulimit,
            arguments.timeout.as_deref(),
            "--timeout",
        )?,
        stdin: terminal.map_or(Stdin::Inherit, |(rows, columns)| Stdin::Terminal { rows, columns }),
        record: Record::Discard,
    })
}

fn command(
    arguments: &RunArguments,
    entrypoint: Option<&[String]>,
    cmd: Option<&[String]>,
) -> Result<Vec<Bytes>, Failure> {
    let given = arguments.command.iter().map(|word| Bytes(word.clone().into_vec()));
    let text = |words: Option<&[String]>| -> Vec<Bytes> {
        words.unwrap_or_default().iter().map(|word| word.as_str().into()).collect()
    };
    let mut words = match &arguments.entrypoint {
        Some(program) => vec![program.as_str().into()],
        None => text(entrypoint),
    };
    if !arguments.command.is_empty() {
        words.extend(given);
    } else if arguments.entrypoint.is_none() {
        words.extend(text(cmd));
    }
    if words.is_empty() {
        return Err(Failure::usage(format!("`{}` says no command; give one", arguments.image)));
    }
    Ok(words)
}

/// A host directory as it is now; the command sees it read-only.
fn volume(store: &Store, text: &str, cancel: &CancelToken) -> Result<StepMount, Failure> {
    let wrong = |reason: &str| Failure::usage(format!("invalid --volume `{text}`: {reason}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, target) = match parts.as_slice() {
        [host, target, "ro"] => (host, target),
        [_, _] | [_, _, "rw"] => return Err(wrong("only read-only volumes (`:ro`) are supported yet")),
        _ => return Err(wrong("expected HOST:TARGET:ro")),
    };
    if !target.starts_with('/') {
        return Err(wrong("the target must be absolute"));
    }
    let mut wanted = Wanted::default();
    wanted.add_path("/");
    let source = ContextSource::Directory(PathBuf::from(host));
    let query = ContextQuery { source, ignore: Arc::default(), wanted };
    let tree = context::load(store, &query, context::Readers::Steps, cooper_vfs::HostClock.now(), cancel)?;
    let source = StepMountSource::Tree { tree: TreeRecord(Bytes(tree.encode())), path: "/".into() };
    Ok(StepMount { target: (*target).into(), source, read_only: true })
}

/// The command's output is ours.
struct Passthrough;

impl StepOutput for Passthrough {
    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        // A reader that has gone away is the command's matter no more.
        match stream {
            OutputStream::Stdout => {
                let mut out = std::io::stdout().lock();
                drop(out.write_all(bytes).and_then(|()| out.flush()));
            }
            OutputStream::Stderr => drop(std::io::stderr().lock().write_all(bytes)),
        }
    }
}
