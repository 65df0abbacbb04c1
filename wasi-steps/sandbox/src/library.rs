//! Translated modules of a step, by the file content that they were made from.
//!
//! An [`Artifact`] is what a compilation gives and what the code cache keeps: native code as the engine serialised it, then
//! what its host has to know (entries, fault sites), then a footer. The [`Library`] has those that are loaded and answers
//! which function begins at a unit address.
//!
//! What must hold: an artifact whose parts do not fit together is refused whole; native code comes only from a
//! helper process of this step or from a [`CodeCache`](crate::cache::CodeCache).
#![allow(unsafe_code, reason = "native code is loaded; the callers say why it can be trusted")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use cooper_x86::code::CodeId;
use cooper_x86::lift::{FaultSite, Translation, abi};
use wasmtime::{Engine, Module};

use crate::thread::FUNCTIONS;

/// The end of every artifact, and the version of its form.
const MAGIC: [u8; 8] = *b"cooperA1";
/// Bytes behind native code and tables: two lengths and [`MAGIC`].
const FOOTER: usize = 24;
/// The largest artifact that is loaded, in bytes.
const MAX_ARTIFACT: u64 = 1 << 30;

/// Why an artifact cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// Its parts do not fit together.
    #[error("translated code is damaged: {0}")]
    Damaged(&'static str),
    /// It could not be read.
    #[error("translated code cannot be read")]
    Read(#[from] std::io::Error),
    /// The engine refuses it: other settings, another version, or no executable memory.
    #[error("translated code cannot be loaded: {0:#}")]
    Load(wasmtime::Error),
}

/// What a module imports, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Import {
    Memory,
    State,
    Table,
    Bias,
    FirstSlot,
    /// Index in [`FUNCTIONS`].
    Function(usize),
}

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Translated {
    pub(crate) module: Module,
    pub(crate) imports: Vec<Import>,
    /// How many table slots it fills.
    pub(crate) functions: u32,
    /// Where its native code is.
    pub(crate) range: Range<usize>,
    faults: Faults,
}

/// The fault sites of a module, read when the first fault happens.
#[derive(Debug)]
struct Faults {
    source: Source,
    at: Range<u64>,
    sites: OnceLock<Vec<FaultSite>>,
}

#[derive(Debug)]
enum Source {
    Bytes(Arc<[u8]>),
    File(File),
}

impl Source {
    fn length(&self) -> Result<u64, ArtifactError> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.metadata()?.len(),
        })
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, ArtifactError> {
        let length = range.end.checked_sub(range.start).filter(|length| *length <= MAX_ARTIFACT);
        let length = length.ok_or(ArtifactError::Damaged("a part has no sensible size"))? as usize;
        match self {
            Self::Bytes(bytes) => bytes
                .get(range.start as usize..range.end as usize)
                .map(<[u8]>::to_vec)
                .ok_or(ArtifactError::Damaged("a part lies outside")),
            Self::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes)
            }
        }
    }
}

/// The tables of an artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    /// Functions in the order of their slots.
    pub(crate) starts: Vec<u32>,
    /// Unit addresses that can be entered, with the function's index.
    pub(crate) entries: Vec<(u32, u32)>,
    /// Functions that were asked for and cannot be translated.
    pub(crate) refused: Vec<u32>,
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// Puts an artifact together: native code, tables, fault sites, footer.
pub(crate) fn encode(mut code: Vec<u8>, id: CodeId, translation: &Translation) -> Vec<u8> {
    let code_length = code.len() as u64;
    code.extend(id.0);
    let mut put = |value: usize| code.extend((value as u32).to_le_bytes());
    let entries: Vec<(u32, usize)> = translation
        .functions
        .iter()
        .enumerate()
        .flat_map(|(index, function)| function.entries.iter().map(move |entry| (*entry, index)))
        .collect();
    put(translation.functions.len());
    put(entries.len());
    put(translation.refused.len());
    translation.functions.iter().for_each(|function| put(function.start as usize));
    for (unit, index) in entries {
        put(unit as usize);
        put(index);
    }
    translation.refused.iter().for_each(|(start, _)| put(*start as usize));
    let tables_end = code.len() as u64;
    for site in &translation.faults {
        code.extend(site.wasm_offset.to_le_bytes());
        code.extend(site.unit_address.to_le_bytes());
    }
    code.extend(code_length.to_le_bytes());
    code.extend(tables_end.to_le_bytes());
    code.extend(MAGIC);
    code
}

/// Where the parts of an artifact are: native code up to the first number, tables up to the second, fault sites up to the third.
fn parts(source: &Source) -> Result<[u64; 3], ArtifactError> {
    let length = source.length()?;
    let end = length.checked_sub(FOOTER as u64).ok_or(ArtifactError::Damaged("it is too short"))?;
    let footer = source.read(end..length)?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&footer[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (code, tables) = (number(0), number(8));
    if footer[16..] != MAGIC || code > tables || tables > end || length > MAX_ARTIFACT {
        return Err(ArtifactError::Damaged("its footer is not one"));
    }
    Ok([code, tables, end])
}

fn tables(bytes: &[u8], id: CodeId) -> Result<Tables, ArtifactError> {
    let damaged = ArtifactError::Damaged("its tables are not whole");
    let Some((own, rest)) = bytes.split_at_checked(32) else { return Err(damaged) };
    if own != id.0 {
        return Err(ArtifactError::Damaged("it was made from another file"));
    }
    let mut words = words(rest);
    let counts = (words.next(), words.next(), words.next());
    let (Some(functions), Some(entries), Some(refused)) = counts else { return Err(damaged) };
    let wanted = 3 + u64::from(functions) + 2 * u64::from(entries) + u64::from(refused);
    if wanted * 4 != rest.len() as u64 || functions >= abi::TABLE_SLOTS {
        return Err(damaged);
    }
    let starts = words.by_ref().take(functions as usize).collect();
    let mut made = Tables { starts, ..Tables::default() };
    for _ in 0..entries {
        let (Some(unit), Some(function)) = (words.next(), words.next()) else { return Err(damaged) };
        if function >= functions {
            return Err(ArtifactError::Damaged("an entry is of no function"));
        }
        made.entries.push((unit, function));
    }
    made.refused = words.collect();
    Ok(made)
}

/// Loads an artifact that a helper process of this step has made.
pub(crate) fn load_bytes(
    engine: &Engine,
    id: CodeId,
    bytes: Arc<[u8]>,
) -> Result<(Translated, Tables), ArtifactError> {
    let source = Source::Bytes(bytes.clone());
    let [code, ..] = parts(&source)?;
    let code = bytes.get(..code as usize).ok_or(ArtifactError::Damaged("its code is not whole"))?;
    // SAFETY: made by our own helper, which is this program, from the engine's compiler.
    let module = unsafe { Module::deserialize(engine, code) }.map_err(ArtifactError::Load)?;
    finish(module, source, id)
}

/// Loads an artifact of the code cache: maps it, or reads it where it cannot be mapped executable.
pub(crate) fn load_file(
    engine: &Engine,
    id: CodeId,
    file: File,
) -> Result<(Translated, Tables), ArtifactError> {
    let source = Source::File(file.try_clone()?);
    let [code, ..] = parts(&source)?;
    // SAFETY: the cache gives only files of our own uid in a directory that nobody else can write.
    let module = match unsafe { Module::deserialize_open_file(engine, file) } {
        Ok(module) => module,
        Err(_) => {
            let bytes = source.read(0..code)?;
            // SAFETY: as above.
            unsafe { Module::deserialize(engine, bytes) }.map_err(ArtifactError::Load)?
        }
    };
    finish(module, source, id)
}

fn finish(module: Module, source: Source, id: CodeId) -> Result<(Translated, Tables), ArtifactError> {
    let [code, tables_end, end] = parts(&source)?;
    let tables = tables(&source.read(code..tables_end)?, id)?;
    let imports: Option<Vec<Import>> = module.imports().map(|import| import_of(import.name())).collect();
    let imports = imports.ok_or(ArtifactError::Damaged("it imports what nobody has"))?;
    let faults = Faults { source, at: tables_end..end, sites: OnceLock::new() };
    let functions = tables.starts.len() as u32;
    let range = Translated::range_of(&module);
    Ok((Translated { module, imports, functions, range, faults }, tables))
}

fn import_of(name: &str) -> Option<Import> {
    Some(match name {
        abi::MEMORY => Import::Memory,
        abi::STATE => Import::State,
        abi::TABLE => Import::Table,
        abi::BIAS => Import::Bias,
        abi::FIRST_SLOT => Import::FirstSlot,
        _ => Import::Function(FUNCTIONS.iter().position(|function| *function == name)?),
    })
}

impl Translated {
    /// Where a module's native code is.
    pub(crate) fn range_of(module: &Module) -> Range<usize> {
        let range = module.image_range();
        range.start.addr()..range.end.addr()
    }

    /// The unit address of the instruction that traps at an offset of the module's bytes.
    pub(crate) fn fault_site(&self, offset: u32) -> Option<u32> {
        let sites = self.faults.sites.get_or_init(|| {
            let bytes = self.faults.source.read(self.faults.at.clone()).unwrap_or_default();
            let mut words = words(&bytes);
            std::iter::from_fn(|| Some(FaultSite { wasm_offset: words.next()?, unit_address: words.next()? }))
                .collect()
        });
        let at = sites.binary_search_by_key(&offset, |site| site.wasm_offset).ok()?;
        Some(sites[at].unit_address)
    }
}

/// The translated functions of one file content.
#[derive(Debug, Default)]
struct FileCode {
    entries: HashMap<u32, (Arc<Translated>, u32)>,
    /// Starts of functions that are translated or cannot be.
    known: HashSet<u32>,
    /// Starts of functions that are translated.
    translated: BTreeSet<u32>,
    /// How many modules were added since the last that replaced all.
    modules: u32,
    /// Bytes of native code in them.
    size: u64,
}

/// The translated code of a step.
#[derive(Debug, Default)]
pub(crate) struct Library {
    files: RwLock<HashMap<CodeId, FileCode>>,
}

impl Library {
    /// The module and function that can be entered at a unit address.
    pub(crate) fn entry(&self, id: CodeId, unit: u32) -> Option<(Arc<Translated>, u32)> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&id)?.entries.get(&unit).cloned()
    }

    /// Functions that need no translation: they have one, or cannot have one.
    pub(crate) fn known(&self, id: CodeId) -> Vec<u32> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&id).map(|file| file.known.iter().copied().collect()).unwrap_or_default()
    }

    /// A file whose functions lie in at least so many modules, with no more than so many bytes of native code; and all of
    /// its functions.
    pub(crate) fn scattered(&self, least: u32, size: u64) -> Option<(CodeId, Vec<u32>)> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let is_scattered = |file: &FileCode| file.modules >= least && file.size <= size;
        let (id, file) = files.iter().filter(|(_, file)| is_scattered(file)).min_by_key(|(id, _)| **id)?;
        Some((*id, file.translated.iter().copied().collect()))
    }

    /// Has the modules of a file count as one of so many bytes from now on.
    pub(crate) fn set_whole(&self, id: CodeId, size: u64) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let file = files.entry(id).or_default();
        (file.modules, file.size) = (1, size);
    }

    /// The start of the translated function that a unit address lies in or behind.
    pub(crate) fn function_at(&self, id: CodeId, unit: u32) -> Option<u32> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&id)?.translated.range(..=unit).next_back().copied()
    }

    /// Adds a module; what it can be entered at leads to it from now on.
    pub(crate) fn add(&self, id: CodeId, module: Translated, tables: &Tables) {
        let module = Arc::new(module);
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let file = files.entry(id).or_default();
        file.modules += 1;
        file.size += module.range.len() as u64;
        file.known.extend(tables.starts.iter().chain(&tables.refused));
        file.translated.extend(&tables.starts);
        for (unit, function) in &tables.entries {
            file.entries.insert(*unit, (module.clone(), *function));
        }
    }
}

#[cfg(test)]
mod tests {
    use cooper_x86::lift::{Lifted, Refusal};

    use super::*;

    const ID: CodeId = CodeId([7; 32]);

    fn artifact() -> Vec<u8> {
        let translation = Translation {
            wasm: Vec::new(),
            functions: vec![
                Lifted { start: 16, entries: vec![16, 20] },
                Lifted { start: 64, entries: vec![64] },
            ],
            refused: vec![(99, Refusal::NoCode)],
            faults: vec![FaultSite { wasm_offset: 5, unit_address: 17 }],
        };
        encode(b"code".to_vec(), ID, &translation)
    }

    #[test]
    fn tables_come_back() {
        let source = Source::Bytes(artifact().into());
        let [code, end, faults] = parts(&source).expect("whole");
        assert_eq!((code, faults - end), (4, 8));
        let tables = tables(&source.read(code..end).expect("inside"), ID).expect("whole");
        assert_eq!(tables.starts, [16, 64]);
        assert_eq!(tables.entries, [(16, 0), (20, 0), (64, 1)]);
        assert_eq!(tables.refused, [99]);
    }

    #[test]
    fn a_cut_or_foreign_artifact_is_refused() {
        let whole = artifact();
        let check = |bytes: &[u8], id: CodeId| {
            let source = Source::Bytes(bytes.into());
            let [code, end, _] = parts(&source)?;
            tables(&source.read(code..end)?, id)
        };
        assert!(check(&whole, ID).is_ok());
        assert!(check(&whole, CodeId([8; 32])).is_err());
        for length in 0..whole.len() {
            assert!(check(&whole[..length], ID).is_err(), "{length}");
        }
    }
}
