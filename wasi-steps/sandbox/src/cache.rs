//! Where translated code is kept between steps.
//!
//! The sandbox knows code by name: the file content it was made from, and the [`key`](crate::engine::key) of translator,
//! engine and processor. Whoever keeps it answers with an open file of native code, so [`CodeCache`] is a matter of trust:
//! an implementation gives only files that this user's own cooper has written.

use std::fmt;
use std::fs::File;
use std::io;

use cooper_x86::code::CodeId;

/// Addresses of one file whose samples are kept between steps.
pub const MAX_KEPT_HEAT: usize = 8192;

/// Keeps artifacts.
pub trait CodeCache: Send + Sync + fmt::Debug {
    /// The files under a name, in no order. Using them keeps them from being collected for a while.
    fn open(&self, name: &CodeName) -> Vec<File>;

    /// Keeps one more artifact under a name.
    fn put(&self, name: &CodeName, artifact: &[u8]) -> io::Result<()>;

    /// Replaces all artifacts under a name by one.
    fn replace(&self, name: &CodeName, artifact: &[u8]) -> io::Result<()>;

    /// The samples that were kept for a file and have led to no artifact yet: unit addresses and counts. No more than
    /// [`MAX_KEPT_HEAT`]; any numbers are as good as any others.
    fn heat(&self, name: &CodeName) -> Vec<(u32, u32)>;

    /// Keeps samples instead of those before.
    fn keep_heat(&self, name: &CodeName, heat: &[(u32, u32)]) -> io::Result<()>;
}

/// What an artifact is kept under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeName {
    /// Content of the file that was translated.
    pub id: CodeId,
    /// Translator, engine, settings and processor.
    pub key: String,
}

impl CodeName {
    /// The name that [`stem`](Self::stem) gives.
    pub fn from_stem(stem: &str) -> Option<Self> {
        let (id, key) = stem.split_once('.')?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.len() != 64 || !id.is_ascii() || key.is_empty() || !key.bytes().all(plain) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(id.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self { id: CodeId(bytes), key: key.to_owned() })
    }

    /// A file name: hexadecimal digits, then the key, which has only digits, letters and `-`.
    pub fn stem(&self) -> String {
        let mut stem = String::with_capacity(96);
        for byte in self.id.0 {
            stem.push_str(&format!("{byte:02x}"));
        }
        stem.push('.');
        stem.push_str(&self.key);
        stem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_stem() {
        let name = CodeName { id: CodeId([0xa7; 32]), key: "1-00ff".to_owned() };
        assert_eq!(CodeName::from_stem(&name.stem()), Some(name));
        for wrong in ["", "a7.1", &format!("{}.", "a7".repeat(32)), &format!("{}./x", "a7".repeat(32))] {
            assert_eq!(CodeName::from_stem(wrong), None, "{wrong}");
        }
    }
}
