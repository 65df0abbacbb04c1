//! Cache keys: typed, framed, hashed.
//!
//! A key is the BLAKE3 hash of a sequence of fields. Every field carries its name, its type and its length, so that
//! two different sequences never give the same bytes: there is no joining of strings to be ambiguous. What a field
//! means is fixed by its name; a change of meaning changes [`VERSION`].

use std::fmt;

use cooper_vfs::content::ContentId;
use cooper_vfs::tree::{ContentTreeId, TreeId};
use serde::{Deserialize, Serialize};

/// Version of the meaning of all keys. A new one makes every record a miss.
const VERSION: u32 = 1;

/// A finished cache key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({self})")
    }
}

/// Type of a field, so that equal bytes of two types differ.
#[derive(Clone, Copy)]
enum Kind {
    Bytes = 1,
    Number = 2,
    Absent = 3,
    List = 4,
    Key = 5,
    Tree = 6,
    Content = 7,
    ContentTree = 8,
}

/// Fields that say what the next ones speak of: a variable's name, a mount's target.
const SUBJECTS: [&str; 6] = ["name", "target", "inline", "id", "path", "what"];
/// Bytes of a subject that are kept.
const SUBJECT_BYTES: usize = 80;

/// What is remembered of a field of a key: enough to see that it differs, and to say which it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The field's name.
    pub name: String,
    /// What it speaks of: the value of the last name before it.
    pub of: String,
    /// Stands for the value.
    pub hash: u64,
}

/// Takes the fields of a key, in order.
#[derive(Debug)]
pub struct KeyBuilder {
    hasher: blake3::Hasher,
    /// Only when somebody will ask for them.
    fields: Option<Vec<Field>>,
    subject: String,
}

impl KeyBuilder {
    /// Starts the key of a thing of this kind, for instance `run` or `copy`.
    pub fn new(what: &str) -> Self {
        let mut builder = Self { hasher: blake3::Hasher::new(), fields: None, subject: String::new() };
        builder.field("cooper-key", Kind::Number, &u64::from(VERSION).to_le_bytes());
        builder.bytes("what", what.as_bytes());
        builder
    }

    /// Starts a key that remembers its fields.
    pub fn remembering(what: &str) -> Self {
        let mut builder = Self::new(what);
        builder.fields = Some(Vec::new());
        builder
    }

    /// The fields, when they are remembered.
    pub fn fields(&self) -> &[Field] {
        self.fields.as_deref().unwrap_or_default()
    }

    /// A byte string.
    pub fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.field(name, Kind::Bytes, value)
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.field(name, Kind::Number, &value.to_le_bytes())
    }

    /// A byte string that may be absent, which differs from empty.
    pub fn option(&mut self, name: &str, value: Option<&[u8]>) -> &mut Self {
        match value {
            Some(value) => self.bytes(name, value),
            None => self.field(name, Kind::Absent, b""),
        }
    }

    /// The length of a list whose elements follow.
    pub fn list(&mut self, name: &str, length: usize) -> &mut Self {
        self.field(name, Kind::List, &(length as u64).to_le_bytes())
    }

    /// A list of byte strings.
    pub fn strings<T: AsRef<[u8]>>(&mut self, name: &str, values: &[T]) -> &mut Self {
        self.list(name, values.len());
        for value in values {
            self.bytes("element", value.as_ref());
        }
        self
    }

    /// Another key.
    pub fn key(&mut self, name: &str, value: &Key) -> &mut Self {
        self.field(name, Kind::Key, &value.0)
    }

    /// A whole tree, times included.
    pub fn tree(&mut self, name: &str, value: &TreeId) -> &mut Self {
        self.field(name, Kind::Tree, &value.0)
    }

    /// The bytes of a file.
    pub fn content(&mut self, name: &str, value: &ContentId) -> &mut Self {
        self.field(name, Kind::Content, &value.0)
    }

    /// A directory without its times.
    pub fn content_tree(&mut self, name: &str, value: &ContentTreeId) -> &mut Self {
        self.field(name, Kind::ContentTree, &value.0)
    }

    /// The key.
    pub fn finish(&self) -> Key {
        Key(*self.hasher.finalize().as_bytes())
    }

    fn field(&mut self, name: &str, kind: Kind, value: &[u8]) -> &mut Self {
        self.hasher.update(&(name.len() as u64).to_le_bytes());
        self.hasher.update(name.as_bytes());
        self.hasher.update(&[kind as u8]);
        self.hasher.update(&(value.len() as u64).to_le_bytes());
        self.hasher.update(value);
        self.remember(name, kind, value);
        self
    }

    fn remember(&mut self, name: &str, kind: Kind, value: &[u8]) {
        let Some(fields) = &mut self.fields else { return };
        if SUBJECTS.contains(&name) && matches!(kind, Kind::Bytes) {
            self.subject = String::from_utf8_lossy(&value[..value.len().min(SUBJECT_BYTES)]).into_owned();
        } else if matches!(kind, Kind::List) {
            self.subject.clear();
        }
        let mut hash = [0; 8];
        hash.copy_from_slice(&blake3::hash(value).as_bytes()[..8]);
        let (name, of) = (name.to_owned(), self.subject.clone());
        fields.push(Field { name, of, hash: u64::from_le_bytes(hash) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        let key = |fill: &dyn Fn(&mut KeyBuilder)| {
            let mut builder = KeyBuilder::new("test");
            fill(&mut builder);
            builder.finish()
        };
        let keys = [
            key(&|b| {
                b.bytes("a", b"xy");
            }),
            key(&|b| {
                b.bytes("a", b"x").bytes("a", b"y");
            }),
            key(&|b| {
                b.bytes("ax", b"y");
            }),
            key(&|b| {
                b.strings("a", &["x", "y"]);
            }),
            key(&|b| {
                b.strings("a", &["xy"]);
            }),
            key(&|b| {
                b.option("a", None);
            }),
            key(&|b| {
                b.option("a", Some(b""));
            }),
            key(&|b| {
                b.number("a", 1);
            }),
            key(&|b| {
                b.list("a", 1);
            }),
            KeyBuilder::new("tes").finish(),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "key {index} equals an earlier one");
        }
    }
}
