//! Translates functions of x86-64 machine code to a WebAssembly module.
//!
//! One guest function becomes one Wasm function. The bytes are decoded into a graph of blocks (`cfg`), the flags that
//! instructions leave are traced to those that look at them (`flags`), each block becomes typed expressions over
//! variables (`ir`, `integer`, `vector`), the registers that have to be written back or read again around exits
//! are found (`dataflow`), and the graph is written as structured control flow (`structure`, `emit`). What no
//! topic knows is left to the interpreter, one instruction at a time, through an import; [`survey()`] says what that is of a
//! function. Computed gotos go through a *hub* (`hub`): the addresses that may be meant are known as a set, and the one that the
//! program computed is looked up in it. [`abi`] says how code, registers and host meet.
//!
//! Code of one file is named by *unit addresses*, offsets in the file; a guest address is a unit address plus the bias
//! of the mapping, so a module serves the file wherever it is mapped.
//!
//! What must hold: any bytes translate without a panic, in time and memory linear in their size; every function either
//! does what the interpreter does or is refused by name.

pub mod abi;
pub mod bounds;
pub mod pointers;

mod atomic;
mod bits;
mod cfg;
mod conditions;
mod control;
mod dataflow;
mod dump;
mod emit;
mod flags;
mod float;
mod function;
mod graph;
mod horizontal;
mod hub;
mod integer;
mod ir;
mod lifter;
mod loads;
mod module;
mod operands;
mod shuffle;
mod strings;
mod structure;
mod survey;
mod tables;
mod text;
mod validate;
mod vector;

pub use dump::dump;
pub use survey::{Left, survey};

/// The bytes that are translated.
pub trait CodeImage {
    /// Executable bytes from unit address `at` to the end of its segment; empty where there are none.
    fn code(&self, at: u32) -> &[u8];

    /// Reads data that cannot change while the code is valid, such as jump tables; whether all of it is such.
    fn read_only(&self, at: u32, buffer: &mut [u8]) -> bool;

    /// Unit addresses from `from` to `to` that the file's data point to, ascending: where computed gotos lead. A guess that
    /// translated code checks.
    fn pointers(&self, from: u32, to: u32) -> Vec<u32> {
        let _ = (from, to);
        Vec::new()
    }

    /// The bounds of the function that holds a unit address, as far as the file says.
    fn function_at(&self, at: u32) -> Option<FunctionBounds> {
        let _ = at;
        None
    }

    /// The bias that the file insists on, when it is linked for a fixed address: absolute addresses in its code and
    /// tables mean something only then.
    fn fixed_bias(&self) -> Option<u32> {
        None
    }
}

/// Unit addresses of a function: the first byte and the one behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionBounds {
    /// First byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

/// What to translate.
#[derive(Clone, Copy)]
pub struct Unit<'a> {
    /// The bytes.
    pub image: &'a dyn CodeImage,
    /// The functions.
    pub functions: &'a [FunctionBounds],
    /// Addresses inside them that become entries as well.
    pub extra_entries: &'a [u32],
}

impl std::fmt::Debug for Unit<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Unit").field("functions", &self.functions).finish_non_exhaustive()
    }
}

/// A translated function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// Its first address.
    pub start: u32,
    /// Where it can be entered: `start`, outermost loop headers, extra entries, known targets of computed gotos.
    pub entries: Vec<u32>,
}

/// An instruction of the module that can trap because of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSite {
    /// Offset in the module's bytes.
    pub wasm_offset: u32,
    /// The guest's instruction.
    pub unit_address: u32,
}

/// Why a function is left to the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than [`MAX_INSTRUCTIONS`].
    #[error("more than {MAX_INSTRUCTIONS} instructions")]
    TooLarge,
    /// Nothing executable, or an undefined instruction, at its start.
    #[error("no code")]
    NoCode,
    /// It looks at arithmetic flags that its caller would have set.
    #[error("flags are live at entry")]
    FlagsAtEntry,
    /// It looks at arithmetic flags that a callee would have set.
    #[error("flags are live across a call")]
    FlagsAcrossCall,
}

/// A module and what its host has to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The module.
    pub wasm: Vec<u8>,
    /// Its functions, in the order of their slots.
    pub functions: Vec<Lifted>,
    /// Functions that were left out.
    pub refused: Vec<(u32, Refusal)>,
    /// Where it can trap, ascending.
    pub faults: Vec<FaultSite>,
}

/// Most instructions of one function: compile time grows faster than size.
pub const MAX_INSTRUCTIONS: usize = 16_000;

/// Translates the functions of a unit.
pub fn translate(unit: &Unit<'_>) -> Translation {
    let mut refused = Vec::new();
    let mut lifted = Vec::new();
    for bounds in unit.functions {
        match function::lift(unit.image, *bounds, unit.extra_entries) {
            Ok(function) => lifted.push((bounds.start, function)),
            Err(refusal) => refused.push((bounds.start, refusal)),
        }
    }
    let starts = module::starts(&lifted.iter().map(|(start, _)| *start).collect::<Vec<_>>());
    let neighbours = emit::Neighbours { starts: &starts };
    let bodies: Vec<_> = lifted.iter().map(|(_, function)| module::write(function, &neighbours)).collect();
    let (wasm, faults) = module::assemble(&bodies);
    let functions =
        lifted.into_iter().map(|(start, function)| Lifted { start, entries: function.entries }).collect();
    Translation { wasm, functions, refused, faults }
}
