//! Which files are programs, and their compiled code.
//!
//! A [`Programs`] is a step's: it answers the kernel's question about a file from what it has compiled already, else from the code cache,
//! else by a compilation. What it refuses it refuses with a reason that the step's report shows.
//!
//! What must hold: a module is known by its content alone; the toolbox's imports are linked only for modules whose content the
//! toolbox has.
#![allow(unsafe_code, reason = "native code is loaded; the comments say why it can be trusted")]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cooper_kernel::{Flow, Supervisor, WasmFile, WasmLoader, WasmProgram, WasmRefusal};
use cooper_vfs::{ContentId, Errno};
use cooper_x86::code::CodeId;
use cooper_x86::state::CpuState;
use wasmtime::{Engine, ExternType, InstancePre, Linker};

use super::engine::{self, EpochStop};
use super::process::{self, Guest};
use super::{compile, preview1, toolbox};
use crate::cache::{CodeCache, CodeName};
use crate::helper::Helper;

/// What a command exports.
pub(super) const START: &str = "_start";
/// What every command exports its memory as.
const MEMORY: &str = "memory";
/// Bytes 4 to 8 of a module; a component has another number in their upper half.
const MODULE_VERSION: [u8; 4] = [1, 0, 0, 0];
/// Numbers of preopens of the toolbox start here, beyond those that scripts redirect.
const TOOLBOX_PREOPENS: u32 = 64;
/// Numbers of other preopens: the first that is free, as everywhere.
const ORDINARY_PREOPENS: u32 = 3;

/// Where code comes from that is not compiled yet.
#[derive(Clone, Debug, Default)]
pub struct WasmServices {
    /// Compiles a module; without one only cached code runs.
    pub helper: Option<Helper>,
    /// Keeps compiled code.
    pub cache: Option<Arc<dyn CodeCache>>,
}

/// The engine and what is made once with it.
pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) stop: Arc<EpochStop>,
    /// WASI.
    plain: Linker<Guest>,
    /// WASI and the toolbox's functions.
    trusted: Linker<Guest>,
    key: String,
}

impl Machine {
    fn new() -> Result<Self, wasmtime::Error> {
        let engine = engine::engine()?;
        let mut plain = Linker::new(&engine);
        preview1::add(&mut plain)?;
        let mut trusted = plain.clone();
        toolbox::add(&mut trusted)?;
        let stop = EpochStop::new(engine.clone());
        let key = engine::key(&engine);
        Ok(Self { engine, stop, plain, trusted, key })
    }
}

/// A program that can run.
pub(super) struct Module {
    pub(super) machine: Arc<Machine>,
    pub(super) instance: InstancePre<Guest>,
    pub(super) id: [u8; 32],
    pub(super) is_trusted: bool,
}

impl Module {
    pub(super) fn first_preopen(&self) -> u32 {
        if self.is_trusted { TOOLBOX_PREOPENS } else { ORDINARY_PREOPENS }
    }
}

impl WasmProgram for Module {
    fn run(&self, cpu: &mut CpuState, supervisor: &mut dyn Supervisor) -> Flow {
        process::run(self, cpu, supervisor)
    }
}

type Answer = Result<Arc<Module>, WasmRefusal>;

/// The WebAssembly programs of a step.
pub(crate) struct Programs {
    services: WasmServices,
    /// Contents of the toolbox's programs.
    toolbox: BTreeSet<[u8; 32]>,
    machine: OnceLock<Result<Arc<Machine>, String>>,
    known: Mutex<HashMap<ContentId, Arc<OnceLock<Answer>>>>,
}

impl Programs {
    /// Programs from these services; those with a content of `toolbox` are the toolbox's.
    pub(crate) fn new(services: WasmServices, toolbox: BTreeSet<[u8; 32]>) -> Self {
        Self { services, toolbox, machine: OnceLock::new(), known: Mutex::default() }
    }

    fn machine(&self) -> Result<&Arc<Machine>, WasmRefusal> {
        let made = self.machine.get_or_init(|| {
            Machine::new()
                .map(Arc::new)
                .map_err(|error| format!("this host does not run WebAssembly: {error:#}"))
        });
        made.as_ref().map_err(|reason| refuse(reason.clone()))
    }

    fn make(&self, file: &WasmFile<'_>, id: ContentId, bytes: Option<Vec<u8>>) -> Answer {
        let machine = self.machine()?;
        let module = match self.cached(machine, id) {
            Some(module) => module,
            None => {
                let bytes = bytes.map_or_else(|| read(file), Ok)?;
                self.compile(machine, id, &bytes)?
            }
        };
        let is_trusted = self.toolbox.contains(&id.0);
        let linker = if is_trusted { &machine.trusted } else { &machine.plain };
        check(&module, is_trusted)?;
        let instance = linker.instantiate_pre(&module).map_err(|error| refuse(format!("{error:#}")))?;
        Ok(Arc::new(Module { machine: machine.clone(), instance, id: id.0, is_trusted }))
    }

    fn cached(&self, machine: &Machine, id: ContentId) -> Option<wasmtime::Module> {
        let cache = self.services.cache.as_ref()?;
        let file = cache.open(&name(machine, id)).into_iter().next()?;
        // SAFETY: the cache gives only files of our own uid in a directory that nobody else can write.
        let loaded = unsafe { wasmtime::Module::deserialize_open_file(&machine.engine, file) };
        loaded.inspect_err(|error| tracing::debug!(%error, "cached code is ignored")).ok()
    }

    fn compile(
        &self,
        machine: &Machine,
        id: ContentId,
        bytes: &[u8],
    ) -> Result<wasmtime::Module, WasmRefusal> {
        check_format(bytes)?;
        let helper = self.services.helper.as_ref();
        let helper =
            helper.ok_or_else(|| refuse("it is not in the code cache, and nothing is compiled here"))?;
        let code = compile::ask(helper, bytes).map_err(refuse)?;
        if let Some(cache) = &self.services.cache
            && let Err(error) = cache.replace(&name(machine, id), &code)
        {
            tracing::debug!(%error, "compiled code is not kept");
        }
        // SAFETY: made by our own helper, which is this program, from the engine's compiler.
        let loaded = unsafe { wasmtime::Module::deserialize(&machine.engine, code) };
        loaded.map_err(|error| refuse(format!("{error:#}")))
    }
}

impl WasmLoader for Programs {
    fn load(&self, file: &WasmFile<'_>) -> Result<Arc<dyn WasmProgram>, WasmRefusal> {
        let (id, bytes) = match file.content_id() {
            Some(id) => (id, None),
            // A file that this step has written.
            None => {
                let bytes = read(file)?;
                (ContentId::of(&bytes), Some(bytes))
            }
        };
        let slot = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(id).or_default().clone()
        };
        let answer = slot.get_or_init(|| self.make(file, id, bytes));
        answer.clone().map(|module| module as Arc<dyn WasmProgram>)
    }
}

fn name(machine: &Machine, id: ContentId) -> CodeName {
    CodeName { id: CodeId(id.0), key: machine.key.clone() }
}

fn refuse(reason: impl Into<String>) -> WasmRefusal {
    // Not `ENOEXEC`, for which shells take a file as a script.
    WasmRefusal { errno: Errno::ACCESS, reason: reason.into() }
}

fn read(file: &WasmFile<'_>) -> Result<Vec<u8>, WasmRefusal> {
    if file.size() > compile::MAX_MODULE {
        return Err(refuse(format!("a module has {} MiB at most", compile::MAX_MODULE >> 20)));
    }
    let mut bytes = vec![0; file.size() as usize];
    let count = file
        .read_at(0, &mut bytes)
        .map_err(|errno| WasmRefusal { errno, reason: format!("it cannot be read: {errno}") })?;
    bytes.truncate(count);
    Ok(bytes)
}

fn check_format(bytes: &[u8]) -> Result<(), WasmRefusal> {
    match bytes.get(4..8) {
        Some(version) if version == MODULE_VERSION => Ok(()),
        Some([_, _, 1, 0]) => Err(refuse("it is a component, and only modules of WASI preview 1 are run")),
        _ => Err(refuse("it is not of a version of WebAssembly that is known")),
    }
}

/// Checks what makes a module a command whose imports all exist.
fn check(module: &wasmtime::Module, is_trusted: bool) -> Result<(), WasmRefusal> {
    for import in module.imports() {
        let (from, what) = (import.module(), import.name());
        let reason = match from {
            preview1::MODULE if preview1::FUNCTIONS.contains(&what) => continue,
            toolbox::MODULE if is_trusted && toolbox::FUNCTIONS.contains(&what) => continue,
            toolbox::MODULE => "which only the toolbox may",
            _ if matches!(import.ty(), ExternType::Memory(_)) => "but a program defines its own memory",
            _ => "which WASI preview 1 does not have",
        };
        return Err(refuse(format!("it imports `{from}.{what}`, {reason}")));
    }
    if !matches!(module.get_export(START), Some(ExternType::Func(kind)) if kind.params().len() == 0 && kind.results().len() == 0)
    {
        return Err(refuse(format!("it is no command: it exports no function `{START}`")));
    }
    if !matches!(module.get_export(MEMORY), Some(ExternType::Memory(_))) {
        return Err(refuse(format!("it exports no `{MEMORY}`")));
    }
    Ok(())
}
