//! What the threads of a step share: decoded code, translated code, the engine, stores at rest.
//!
//! [`Tiers`] starts as the pool of decoded code for interpreters. When a file is met for the first time, the code cache is asked
//! for it; while it runs, samples of its interpreter say what is hot, and the [`Compiler`](crate::compiler::Compiler) has that
//! translated. Either way the file's entries are marked, and threads that reach one change tiers.
//!
//! What must hold: a store at rest has no thread, and its window stays reserved as long as the store.

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cooper_kernel::memory::AddressSpace;
use cooper_kernel::{Executor, ExecutorFactory};
use cooper_x86::code::{CodeId, SharedCode};
use wasmtime::{Engine, Linker, Module, Store};

use crate::cache::{CodeCache, CodeName};
use crate::engine;
use crate::library::{self, ArtifactError, Library, Tables, Translated};
use crate::thread::{self, ContextData, TieredExecutor};

/// Stores at rest for one window: threads of one process.
const MAX_STORES_OF_WINDOW: usize = 4;
/// Windows that have stores at rest.
const MAX_WINDOWS: usize = 32;

/// The engine and what is made once with it.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) base: Module,
    pub(crate) linker: Linker<ContextData>,
    pub(crate) key: String,
}

/// What all threads of a step share.
pub(crate) struct Tiers {
    code: Arc<SharedCode>,
    library: Library,
    cache: Option<Arc<dyn CodeCache>>,
    machine: OnceLock<Option<Machine>>,
    stores: Mutex<HashMap<usize, Vec<Store<ContextData>>>>,
    complaints: Mutex<BTreeSet<String>>,
    /// Told when the tiers differ; without it they are not compared.
    checker: OnceLock<Mutex<Sender<()>>>,
    /// The first difference between the tiers.
    difference: OnceLock<String>,
}

impl std::fmt::Debug for Tiers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tiers").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Tiers {
    /// Interpreters only.
    pub(crate) fn interpreted() -> Arc<Self> {
        let tiers = Self::with_cache(None);
        // The first value of a fresh cell.
        let _ = tiers.machine.set(None);
        Arc::new(tiers)
    }

    /// Both tiers; translated code comes from `cache` and from what is added.
    pub(crate) fn translated(cache: Option<Arc<dyn CodeCache>>) -> Arc<Self> {
        let tiers = Arc::new(Self::with_cache(cache));
        let own = Arc::downgrade(&tiers);
        tiers.code.on_new_file(Box::new(move |id| {
            if let Some(tiers) = own.upgrade() {
                tiers.load_cached(id);
            }
        }));
        tiers
    }

    fn with_cache(cache: Option<Arc<dyn CodeCache>>) -> Self {
        Self {
            code: SharedCode::new(),
            library: Library::default(),
            cache,
            machine: OnceLock::new(),
            stores: Mutex::default(),
            complaints: Mutex::default(),
            checker: OnceLock::new(),
            difference: OnceLock::new(),
        }
    }

    /// Decoded code.
    pub(crate) fn code(&self) -> &Arc<SharedCode> {
        &self.code
    }

    /// Translated code.
    pub(crate) fn library(&self) -> &Library {
        &self.library
    }

    /// The code cache.
    pub(crate) fn cache(&self) -> Option<&Arc<dyn CodeCache>> {
        self.cache.as_ref()
    }

    /// The engine; `None` where the host does not let code be made executable, or none is wanted.
    pub(crate) fn machine(&self) -> Option<&Machine> {
        self.machine
            .get_or_init(|| {
                let made = engine::engine().and_then(|engine| {
                    let base = engine::base_module(&engine)?;
                    let linker = thread::linker(&engine)?;
                    let key = engine::key(&engine);
                    Ok(Machine { engine, base, linker, key })
                });
                match made {
                    Ok(machine) => Some(machine),
                    Err(error) => {
                        self.complain(format!("this host runs steps without translated code: {error:#}"));
                        None
                    }
                }
            })
            .as_ref()
    }

    /// Remembers a line that the step's report shows once.
    pub(crate) fn complain(&self, line: String) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < 16 {
            complaints.insert(line);
        }
    }

    /// What there is to say about how the step was run.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Has the tiers compared from now on, and `checker` told when they differ.
    pub(crate) fn verify(&self, checker: Sender<()>) {
        // The first one stays.
        let _ = self.checker.set(Mutex::new(checker));
    }

    /// Whether the tiers are compared.
    pub(crate) fn is_verified(&self) -> bool {
        self.checker.get().is_some()
    }

    /// Notes a difference.
    pub(crate) fn differ(&self, difference: String) {
        if let Some(checker) = self.checker.get()
            && self.difference.set(difference).is_ok()
        {
            // Nobody listens at the end of the step.
            let _ = checker.lock().unwrap_or_else(PoisonError::into_inner).send(());
        }
    }

    /// What the tiers have differed in first.
    pub(crate) fn difference(&self) -> Option<&str> {
        self.difference.get().map(String::as_str)
    }

    /// The name of a file's artifacts in the cache.
    pub(crate) fn code_name(&self, id: CodeId) -> Option<CodeName> {
        Some(CodeName { id, key: self.machine()?.key.clone() })
    }

    fn load_cached(&self, id: CodeId) {
        let (Some(cache), Some(name), Some(machine)) = (&self.cache, self.code_name(id), self.machine())
        else {
            return;
        };
        for file in cache.open(&name) {
            match library::load_file(&machine.engine, id, file) {
                Ok((module, tables)) => self.install(id, module, &tables),
                // Made by another version, or damaged: as good as none.
                Err(error) => tracing::debug!(%error, "cached code is ignored"),
            }
        }
    }

    /// Loads an artifact that a helper has made, and uses it from now on.
    pub(crate) fn add(&self, id: CodeId, artifact: Arc<[u8]>) -> Result<Tables, ArtifactError> {
        let refused = || ArtifactError::Damaged("this host has no executable memory");
        let machine = self.machine().ok_or_else(refused)?;
        let (module, tables) = library::load_bytes(&machine.engine, id, artifact)?;
        self.install(id, module, &tables);
        Ok(tables)
    }

    fn install(&self, id: CodeId, module: Translated, tables: &Tables) {
        self.library.add(id, module, tables);
        let entries: Vec<(u32, u32)> = tables.entries.iter().map(|(unit, _)| (*unit, 0)).collect();
        self.code.set_entries(id, &entries);
    }

    /// A store at rest for the window of `space`.
    pub(crate) fn take_store(&self, space: &AddressSpace) -> Option<Store<ContextData>> {
        let base = space.guest_memory().base().addr();
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.get_mut(&base)?.pop()
    }

    /// Keeps a store for the next thread in the same window.
    pub(crate) fn keep_store(&self, space: &AddressSpace, store: Store<ContextData>) {
        let base = space.guest_memory().base().addr();
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if stores.len() < MAX_WINDOWS || stores.contains_key(&base) {
            let own = stores.entry(base).or_default();
            if own.len() < MAX_STORES_OF_WINDOW {
                own.push(store);
            }
        }
    }
}

/// Gives each thread an executor.
#[derive(Debug)]
pub(crate) struct Executors(pub(crate) Arc<Tiers>);

impl ExecutorFactory for Executors {
    fn executor(&self) -> Box<dyn Executor> {
        Box::new(TieredExecutor::new(self.0.clone()))
    }
}
