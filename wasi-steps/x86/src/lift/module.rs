//! Puts functions together to a module.

use std::collections::HashMap;

use wasm_encoder::{
    BranchHint, BranchHints, CodeSection, ConstExpr, ElementSection, Elements, EntityType, FunctionSection,
    GlobalType, HeapType, ImportSection, Instruction as Wasm, MemoryType, Module, RefType, TableType,
    TypeSection, ValType,
};

use super::emit::{Emitter, Label, Neighbours, functions, types};
use super::function::Function;
use super::{FaultSite, abi, structure};

/// A function as bytes, and where it can trap: offset in it, unit address.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    faults: Vec<(u32, u32)>,
    hints: Vec<BranchHint>,
}

/// Writes one function.
pub(crate) fn write(function: &Function, neighbours: &Neighbours<'_>) -> Body {
    let mut emitter = Emitter::new(&function.types, neighbours);
    emitter.open(Label::Leave);
    structure::write(&function.nodes, &function.shape, &mut emitter);
    emitter.close();
    emitter.leave();
    emitter.op(&Wasm::End);
    Body { bytes: emitter.function.into_raw_body(), faults: emitter.faults, hints: emitter.hints }
}

/// The type of functions in the table.
const SLOT: RefType = RefType { nullable: true, heap_type: HeapType::Concrete(types::FUNCTION) };

fn type_section() -> TypeSection {
    use ValType::{I32, I64};
    let mut section = TypeSection::new();
    section.ty().function([I64; 4], [I32, I64, I64, I64]);
    section.ty().function([I32], [I32]);
    section.ty().function([I32, I64, I64, I64, I32, I64], [I32]);
    section.ty().function([], [I32, I64, I64, I64]);
    section
}

fn import_section() -> ImportSection {
    let mut section = ImportSection::new();
    let pages = |count| {
        EntityType::Memory(MemoryType {
            minimum: count,
            maximum: Some(count),
            memory64: false,
            shared: false,
            page_size_log2: None,
        })
    };
    section.import(abi::MODULE, abi::MEMORY, pages(65_536));
    section.import(abi::MODULE, abi::STATE, pages(1));
    let slots = u64::from(abi::TABLE_SLOTS);
    let table =
        TableType { element_type: SLOT, table64: false, minimum: slots, maximum: Some(slots), shared: false };
    section.import(abi::MODULE, abi::TABLE, EntityType::Table(table));
    for global in [abi::BIAS, abi::FIRST_SLOT] {
        let kind = GlobalType { val_type: ValType::I32, mutable: false, shared: false };
        section.import(abi::MODULE, global, EntityType::Global(kind));
    }
    for (name, kind) in [
        (abi::DISPATCH, types::FUNCTION),
        (abi::RESOLVE, types::RESOLVE),
        (abi::STEP, types::EXIT),
        (abi::SYSCALL, types::EXIT),
        (abi::STOP, types::EXIT),
    ] {
        section.import(abi::MODULE, name, EntityType::Function(kind));
    }
    section
}

/// Bytes of an unsigned LEB128 number.
fn leb_length(value: usize) -> usize {
    1 + (usize::BITS - 1 - (value | 1).leading_zeros()) as usize / 7
}

/// The module of these functions, and its fault sites.
pub(crate) fn assemble(bodies: &[Body]) -> (Vec<u8>, Vec<FaultSite>) {
    let mut module = Module::new();
    module.section(&type_section()).section(&import_section());
    let mut declared = FunctionSection::new();
    let mut slots = Vec::new();
    for index in 0..bodies.len() as u32 {
        declared.function(types::FUNCTION);
        slots.push(ConstExpr::ref_func(functions::FIRST + index));
    }
    module.section(&declared);
    let mut elements = ElementSection::new();
    elements.active(Some(0), &ConstExpr::global_get(1), Elements::Expressions(SLOT, slots.into()));
    module.section(&elements);
    let mut hints = BranchHints::new();
    for (index, body) in (functions::FIRST..).zip(bodies) {
        hints.function_hints(index, body.hints.iter().copied());
    }
    module.section(&hints);
    let mut code = CodeSection::new();
    for body in bodies {
        code.raw(&body.bytes);
    }
    let section_length: usize =
        bodies.iter().map(|body| leb_length(body.bytes.len()) + body.bytes.len()).sum::<usize>()
            + leb_length(bodies.len());
    let mut at = module.len() + 1 + leb_length(section_length) + leb_length(bodies.len());
    let mut faults = Vec::new();
    for body in bodies {
        at += leb_length(body.bytes.len());
        faults.extend(body.faults.iter().map(|(offset, unit_address)| FaultSite {
            wasm_offset: at as u32 + offset,
            unit_address: *unit_address,
        }));
        at += body.bytes.len();
    }
    module.section(&code);
    (module.finish(), faults)
}

/// Indices of functions by their start.
pub(crate) fn starts(list: &[u32]) -> HashMap<u32, u32> {
    list.iter().copied().zip(0..).collect()
}
