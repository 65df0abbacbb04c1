//! The toolbox: a shell and core utilities as WebAssembly programs, for images that have none.
//!
//! An image from scratch or a distroless one has no shell, and a step that needs one has nothing to run. The sandbox
//! serves the toolbox to such a step from a mount that is in no layer. This crate embeds the compiled [`PROGRAMS`]; their
//! sources lie beside it and are built reproducibly into `modules`, whose `index` says what each is.
//!
//! What must hold: the toolbox adds nothing to an image that has a shell; each program is one small module, compiled on first use;
//! only these modules, known by their content, have the functions of the host that WASI lacks.

/// An embedded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name of the module.
    pub name: &'static str,
    /// The module, compressed with zstd.
    pub module: &'static [u8],
    /// BLAKE3 digest of the module.
    pub content: [u8; 32],
    /// Bytes of the module, uncompressed.
    pub size: u64,
    /// Names that it answers to: it looks at the last part of its argument 0.
    pub names: &'static [&'static str],
}

/// All programs.
pub const PROGRAMS: &[Program] = include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// The program that answers to a name.
pub fn program(name: &str) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_has_two_programs() {
        let mut names: Vec<&str> = PROGRAMS.iter().flat_map(|program| program.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_program_is_found_by_its_names() {
        for program in PROGRAMS {
            assert!(!program.names.is_empty(), "{}", program.name);
            for name in program.names {
                assert_eq!(super::program(name), Some(program));
            }
        }
        assert_eq!(program("no such tool"), None);
    }
}
