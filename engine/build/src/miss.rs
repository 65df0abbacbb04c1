//! Why a step is not in the cache: the first of its inputs that differs from the last time.
//!
//! When a step is executed, what its key was made of is kept under its name: the fields of the key ([`Field`], hashes
//! and harmless names, never values) and the ids of the trees that files came from. The next time that the step of
//! this name is not found, the two lists are compared, and the first difference is the reason: a file, a variable, what
//! the step builds on, a mount. The reasons of the last build are kept, too, for `cooper explain-miss`.
//!
//! All of this is a remark for people: what cannot be read or compared is passed over, and no result depends on it.

use cooper_image::store::Store;
use cooper_vfs::path;
use cooper_vfs::tree::{Change, NodeKind, Tree};
use serde::{Deserialize, Serialize};

use crate::copy::{CopyOperation, Source};
use crate::graph::Operation;
use crate::key::{Field, Key, KeyBuilder};

/// Record kind of what steps were made of.
const INPUTS: &str = "step inputs";
/// Record kind of the reasons of the last build.
const LAST: &str = "last misses";
/// Version of both.
const VERSION: u32 = 1;
/// Bound on the fields that are kept of one step.
const MOST_FIELDS: usize = 4096;

/// What a step was made of.
#[derive(Debug, Serialize, Deserialize)]
struct Inputs {
    version: u32,
    fields: Vec<Field>,
    /// Where files came from: path, and the encoded tree.
    sources: Vec<(String, Vec<u8>)>,
}

/// A step that was executed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// The step's name.
    pub step: String,
    /// The first input that differs.
    pub reason: String,
}

/// A step that is about to be executed.
#[derive(Debug)]
pub struct Missed {
    record: Key,
    inputs: Inputs,
}

impl Missed {
    /// A step of a file and a platform, with its key. `source` gives the tree of an input.
    pub fn new(
        (file, platform, name): (&str, &str, &str),
        key: &KeyBuilder,
        operation: &Operation,
        source: &dyn Fn(usize) -> Option<Tree>,
    ) -> Self {
        let mut record = KeyBuilder::new("step");
        record.bytes("file", file.as_bytes()).bytes("platform", platform.as_bytes());
        record.bytes("name", name.as_bytes());
        let sources = match operation {
            Operation::Copy(CopyOperation { sources, .. }) => sources
                .iter()
                .filter_map(|from| match from {
                    Source::Path { input, path, .. } => Some((path.clone(), source(*input)?.encode())),
                    Source::Inline { .. } | Source::Remote { .. } => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let fields = key.fields().iter().take(MOST_FIELDS).cloned().collect();
        Self { record: record.finish(), inputs: Inputs { version: VERSION, fields, sources } }
    }

    /// The reason, in a few words.
    pub fn reason(&self, store: &Store) -> String {
        let before = store.record(INPUTS, &self.record.0).ok().flatten();
        let before = before.and_then(|bytes| serde_json::from_slice::<Inputs>(&bytes).ok());
        match before.filter(|before| before.version == VERSION) {
            None => "this step was not executed before".to_owned(),
            Some(before) => self.difference(store, &before),
        }
    }

    fn difference(&self, store: &Store, before: &Inputs) -> String {
        let (old, new) = (&before.fields, &self.inputs.fields);
        let at = old.iter().zip(new).position(|(old, new)| old != new);
        let Some(at) = at.or((old.len() != new.len()).then_some(old.len().min(new.len()))) else {
            return "its result is not kept any more".to_owned();
        };
        let Some(field) = new.get(at).or(old.get(at)) else { return "its definition differs".to_owned() };
        if FILES.contains(&field.name.as_str())
            && let Some(file) = self.changed_file(store, before)
        {
            return file;
        }
        let of = |text: &str| match field.of.as_str() {
            "" => format!("{text} differs"),
            name => format!("{text} `{name}` differs"),
        };
        match TEXTS.iter().find(|(name, _)| *name == field.name) {
            Some((_, text)) => of(text),
            None => of(&format!("its {}", field.name)),
        }
    }

    /// The first file of the sources that is another one.
    fn changed_file(&self, store: &Store, before: &Inputs) -> Option<String> {
        let sources = self.inputs.sources.iter().zip(&before.sources);
        for ((source, new), (_, old)) in sources {
            let (Ok(new), Ok(old)) = (Tree::decode(new), Tree::decode(old)) else { continue };
            let Ok(changes) = Tree::diff(store, &old, &new) else { continue };
            let top = path::clean(source.as_bytes());
            let literal = !cooper_dockerfile::glob::has_wildcards(source);
            let inside = |at: &[u8]| !literal || top.is_empty() || at == top || path::is_within(at, &top);
            for change in &changes {
                let shown = || String::from_utf8_lossy(change.path()).into_owned();
                let there = old.lookup(store, change.path()).ok().flatten();
                match change {
                    _ if !inside(change.path()) => {}
                    Change::Remove { .. } | Change::Opaque { .. } => {
                        return Some(format!("the file `{}` is gone", shown()));
                    }
                    Change::Upsert { entry, .. } => match there {
                        None => return Some(format!("the file `{}` is new", shown())),
                        Some(there)
                            if there.kind != entry.kind && !both_directories(&there.kind, &entry.kind) =>
                        {
                            return Some(format!("the file `{}` differs", shown()));
                        }
                        Some(there) if there.metadata.mode != entry.metadata.mode => {
                            return Some(format!("the mode of `{}` differs", shown()));
                        }
                        Some(_) => {}
                    },
                }
            }
        }
        None
    }

    /// Keeps what the step was made of, for the next time.
    pub fn keep(&self, store: &Store) {
        let Ok(bytes) = serde_json::to_vec(&self.inputs) else { return };
        if let Err(error) = store.put_record(INPUTS, &self.record.0, &bytes, &[]) {
            tracing::debug!(%error, "what a step was made of is not kept");
        }
    }
}

fn both_directories(one: &NodeKind, other: &NodeKind) -> bool {
    one.is_directory() && other.is_directory()
}

/// Fields that come from files.
const FILES: [&str; 9] = ["items", "directory", "file", "size", "permissions", "link", "item", "uid", "gid"];

/// What the fields of keys are called in a sentence. The name behind is that of the field's [`Field::of`].
const TEXTS: &[(&str, &str)] = &[
    ("platform", "the platform"),
    ("base", "what it builds on (the base image, or the step before)"),
    ("upper", "the files that are linked in"),
    ("arguments", "the command"),
    ("element", "the command"),
    ("script", "the heredoc"),
    ("contents", "what is in"),
    ("environment", "the list of variables"),
    ("value", "the variable"),
    ("name", "the variable or file"),
    ("hosts", "the list of hosts"),
    ("address", "the address of"),
    ("target", "the mount"),
    ("mounts", "the list of mounts"),
    ("sources", "the list of sources"),
    ("directory", "the directory"),
    ("file", "the file"),
];

/// Keeps the reasons of a build.
pub fn keep_last(store: &Store, misses: &[Miss]) {
    let Ok(bytes) = serde_json::to_vec(&(VERSION, misses)) else { return };
    if let Err(error) = store.put_record(LAST, b"", &bytes, &[]) {
        tracing::debug!(%error, "the reasons of this build are not kept");
    }
}

/// The steps that the last build on a store executed, and why; none when nothing is known.
///
/// # Errors
///
/// When the store cannot be read.
pub fn last(store: &Store) -> crate::Result<Option<Vec<Miss>>> {
    let bytes = store.record(LAST, b"")?;
    let read = bytes.and_then(|bytes| serde_json::from_slice::<(u32, Vec<Miss>)>(&bytes).ok());
    Ok(read.filter(|(version, _)| *version == VERSION).map(|(_, misses)| misses))
}
