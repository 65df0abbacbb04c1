//! The toolbox: a shell and core utilities as WebAssembly programs, for images that have none.
//!
//! An image from scratch or a distroless one has no shell, and a step that needs one has nothing to run. The toolbox
//! serves such a step from a mount that is in no layer. This crate embeds the compiled programs, each module compressed; their
//! sources lie beside it in `programs`, a workspace of its own, and `builtins/build` makes the same bytes of them on any machine.
//!
//! A [`Module`] holds a tool or a family of tools and answers to several names: the name by which it is called, the last part of
//! `argv[0]`, picks the tool. Modules are for WASI preview 1 and import, beside it, only the two functions of `cooper` that
//! `programs/linux` describes. The list of them is `modules/index`, which the build writes; nothing here knows a tool by name.

use std::sync::LazyLock;

/// A WebAssembly module of the toolbox.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its own name, which no program is called by.
    pub name: &'static str,
    /// Names that it answers to, sorted.
    pub tools: &'static [&'static str],
    /// SHA-256 of the module, in hexadecimal.
    pub digest: &'static str,
    /// Size of the module in bytes, uncompressed.
    pub size: usize,
    compressed: &'static [u8],
}

/// Modules by name, compressed, as the build lists them beside the index.
const EMBEDDED: &[(&str, &[u8])] = include!("../modules/embedded.rs");

static MODULES: LazyLock<Vec<Module>> = LazyLock::new(|| {
    let lines = include_str!("../modules/index").lines().filter(|line| !line.starts_with('#'));
    let module = |line: &'static str| {
        let mut words = line.split(' ');
        let (name, digest) = (words.next()?, words.next()?);
        let size = words.next()?.parse().ok()?;
        let compressed = EMBEDDED.iter().find(|(embedded, _)| *embedded == name)?.1;
        // The index lives as long as the program, and so may the lists of its words.
        Some(Module { name, tools: Vec::leak(words.collect()), digest, size, compressed })
    };
    lines.filter_map(module).collect()
});

/// All modules, sorted by name.
#[must_use]
pub fn modules() -> &'static [Module] {
    &MODULES
}

/// The module that answers to a name.
#[must_use]
pub fn find(tool: &str) -> Option<&'static Module> {
    modules().iter().find(|module| module.tools.contains(&tool))
}

impl Module {
    /// The module itself, `size` bytes.
    ///
    /// # Panics
    ///
    /// If the embedded bytes are not what was compressed, which a test excludes.
    #[must_use]
    pub fn wasm(&self) -> Vec<u8> {
        zstd::bulk::decompress(self.compressed, self.size).expect("the embedded module is whole")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;

    use sha2::{Digest, Sha256};
    use wasmparser::{Parser, Payload, TypeRef, Validator};

    use super::*;

    #[test]
    fn every_line_of_the_index_has_its_module() {
        let names: Vec<&str> = modules().iter().map(|module| module.name).collect();
        let embedded: Vec<&str> = EMBEDDED.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, embedded);
        assert!(names.is_sorted());
    }

    #[test]
    fn no_name_is_answered_twice() {
        let mut seen = BTreeSet::new();
        for module in modules() {
            assert!(module.tools.is_sorted(), "{}", module.name);
            for tool in module.tools {
                assert!(seen.insert(*tool), "{tool} is answered twice");
                assert_eq!(find(tool).map(|found| found.name), Some(module.name));
            }
        }
        assert!(find("no-such-tool").is_none());
    }

    #[test]
    fn modules_are_whole_and_valid() {
        for module in modules() {
            let wasm = module.wasm();
            let digest = Sha256::digest(&wasm).iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").expect("a string takes everything");
                text
            });
            assert_eq!((digest.as_str(), wasm.len()), (module.digest, module.size), "{}", module.name);
            Validator::new().validate_all(&wasm).unwrap_or_else(|error| panic!("{}: {error}", module.name));
        }
    }

    #[test]
    fn modules_import_wasi_and_the_door_to_the_kernel_and_nothing_else() {
        for module in modules() {
            let wasm = module.wasm();
            let mut exports = BTreeSet::new();
            for payload in Parser::new(0).parse_all(&wasm) {
                match payload.expect("a module that was validated") {
                    Payload::ImportSection(imports) => {
                        for import in imports.into_imports() {
                            let import = import.expect("a module that was validated");
                            let known = import.module == "wasi_snapshot_preview1"
                                || import.module == "cooper" && matches!(import.name, "syscall" | "spawn");
                            assert!(known, "{} imports {}.{}", module.name, import.module, import.name);
                            assert!(matches!(import.ty, TypeRef::Func(_)), "{}", import.name);
                        }
                    }
                    Payload::ExportSection(section) => {
                        exports
                            .extend(section.into_iter().map(|export| export.expect("a valid module").name));
                    }
                    _ => {}
                }
            }
            assert!(exports.contains("_start") && exports.contains("memory"), "{}: {exports:?}", module.name);
        }
    }

    #[test]
    fn no_module_holds_a_path_of_the_machine_that_built_it() {
        for module in modules() {
            let wasm = module.wasm();
            for root in ["/home/", "/registry/src/", "/rustc-"] {
                let found = wasm.windows(root.len()).any(|window| window == root.as_bytes());
                assert!(!found, "{} holds {root}", module.name);
            }
        }
    }
}
