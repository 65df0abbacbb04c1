//! Where steps are run: the plug for the solver's socket.
//!
//! A step's process is this same program with `step STORE LEASE TRANSLATION CHECKING` as its arguments: it opens the store that
//! the build uses and joins the build's lease, so that what the step leaves is held until the build has looked at it.
//! TRANSLATION is the name of a [`TranslationMode`], CHECKING is `plain` or, with `COOPER_VERIFY=1`, `verify`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use cooper_build::step::StepRunner;
use cooper_image::store::{Store, StoreOptions};
use cooper_sandbox::{
    Builtins, Checking, Helper, Policy, ProcessRunner, StepServices, Translation, WasmServices,
};

use crate::arguments::BuiltinsMode;
use crate::code_cache::DirectoryCache;
use crate::environment;
use crate::failure::Failure;

/// This program, whatever has become of the file it was started from.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// How the code of steps is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TranslationMode {
    /// What is hot, in the background.
    Ordinary,
    /// Everything that runs; the step waits for it.
    Eager,
    /// Everything that runs for some time; the step waits for it.
    Warm,
    /// Only what the cache has.
    Cached,
    /// Nothing: everything is interpreted.
    Off,
}

impl TranslationMode {
    const ALL: [(&'static str, Self); 5] = [
        ("on", Self::Ordinary),
        ("eager", Self::Eager),
        ("warm", Self::Warm),
        ("cached", Self::Cached),
        ("off", Self::Off),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("on", |(name, _)| name)
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(own, _)| *own == name).map(|(_, mode)| *mode)
    }
}

/// The mode that `COOPER_TRANSLATE` asks for; without it steps are interpreted.
fn mode_of_environment() -> Result<TranslationMode, Failure> {
    let Some(name) = environment::variable("COOPER_TRANSLATE") else { return Ok(TranslationMode::Off) };
    TranslationMode::from_name(&name).ok_or_else(|| {
        let message = format!("`COOPER_TRANSLATE` is `on`, `eager`, `warm`, `cached` or `off`: `{name}`");
        Failure::Engine(cooper_build::Error::new(cooper_build::Fault::Usage, message))
    })
}

/// Whether `COOPER_VERIFY` asks for both tiers in lock-step.
fn checking_of_environment() -> Result<Checking, Failure> {
    match environment::variable("COOPER_VERIFY").as_deref() {
        None | Some("" | "0") => Ok(Checking::None),
        Some("1") => Ok(Checking::LockStep),
        Some(other) => Err(Failure::usage(format!("`COOPER_VERIFY` is `0` or `1`: `{other}`"))),
    }
}

/// The name of a step's process for checking.
const VERIFY: &str = "verify";

/// The runner for steps over `store`, which trust the certificates in the file `ca_bundle`; without one, those of
/// `SSL_CERT_FILE` where that is set.
pub(crate) fn runner(
    store: &Store,
    ca_bundle: Option<&Path>,
    builtins: BuiltinsMode,
) -> Result<Box<dyn StepRunner>, Failure> {
    runner_with(store, ca_bundle, builtins, mode_of_environment()?)
}

/// As [`runner`] for steps whose code is translated as `mode` says.
pub(crate) fn runner_with(
    store: &Store,
    ca_bundle: Option<&Path>,
    builtins: BuiltinsMode,
    mode: TranslationMode,
) -> Result<Box<dyn StepRunner>, Failure> {
    let trust = environment::ca_bundle(ca_bundle)?;
    let builtins = match builtins {
        BuiltinsMode::Auto => Builtins::Auto,
        BuiltinsMode::Never => Builtins::Never,
        BuiltinsMode::Always => Builtins::Always,
    };
    let checking = match checking_of_environment()? {
        Checking::None => "plain",
        Checking::LockStep => VERIFY,
    };
    let (store, lease) = (store.path().into(), store.lease_name().into());
    let arguments =
        vec!["step".into(), store, lease, mode.name().into(), builtins.name().into(), checking.into()];
    Ok(Box::new(ProcessRunner::new(OWN_EXECUTABLE.into(), arguments).with_trust(trust)))
}

/// The process of one step, in which `cooper step` ends up.
pub(crate) fn step() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2);
    let mut next = || arguments.next();
    let (Some(path), Some(lease), Some(mode), Some(builtins)) = (next(), next(), next(), next()) else {
        crate::complain("error: `cooper step` is what a build runs itself with; it is not for people");
        return ExitCode::from(2);
    };
    let checking =
        if arguments.next().is_some_and(|word| word == VERIFY) { Checking::LockStep } else { Checking::None };
    cooper_sandbox::step_main(|| {
        let lease = lease.to_str().ok_or("the name of the lease is no text")?;
        let mode = mode.to_str().and_then(TranslationMode::from_name).ok_or("no such translation")?;
        let builtins = builtins.to_str().and_then(Builtins::from_name).ok_or("no such use of the toolbox")?;
        let store = Store::open_joining(Path::new(&path), &StoreOptions::plain(), lease);
        let store = store.map_err(|error| error.to_string())?;
        let path = Path::new(&path);
        Ok(StepServices {
            translation: translation(mode, checking, path),
            wasm: wasm(path),
            builtins,
            store: Arc::new(store),
        })
    })
}

fn wasm(store: &Path) -> WasmServices {
    let helper = Helper { program: OWN_EXECUTABLE.into(), arguments: vec!["compile-wasm".into()] };
    WasmServices {
        helper: Some(helper),
        cache: DirectoryCache::open(store).ok().map(|cache| Arc::new(cache) as _),
    }
}

fn translation(mode: TranslationMode, checking: Checking, store: &Path) -> Option<Translation> {
    let helper = Helper { program: OWN_EXECUTABLE.into(), arguments: vec!["compile".into()] };
    let (policy, helper) = match mode {
        TranslationMode::Off => return None,
        TranslationMode::Ordinary => (Policy::ORDINARY, Some(helper)),
        TranslationMode::Warm => (Policy::WARM, Some(helper)),
        TranslationMode::Eager => (Policy::EAGER, Some(helper)),
        TranslationMode::Cached => (Policy::ORDINARY, None),
    };
    // Without a cache that can be trusted, each step translates for itself.
    let cache = DirectoryCache::open(store).ok().map(|cache| Arc::new(cache) as _);
    Some(Translation { checking, policy, helper, cache })
}
