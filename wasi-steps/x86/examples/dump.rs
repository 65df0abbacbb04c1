//! What the translator makes of the function at a unit address (hexadecimal) of a file: its nodes, and with a third argument the
//! machine code that the engine makes of them, as an ELF file for a disassembler.
//!
//! `cargo run --profile test -p cooper-x86 --example dump -- FILE ADDRESS [OUTPUT]`
#![allow(clippy::print_stdout, reason = "prints its result")]
#![allow(clippy::disallowed_methods, reason = "works on the files that are named")]

#[allow(dead_code, unreachable_pub, reason = "the sandbox's reader, of which a part is used")]
#[path = "../../sandbox/src/elf.rs"]
mod elf;

use cooper_x86::lift::{Unit, dump, translate};

fn engine() -> wasmtime::Engine {
    let mut config = wasmtime::Config::new();
    config
        .wasm_threads(true)
        .wasm_function_references(true)
        .wasm_branch_hinting(true)
        .wasm_wide_arithmetic(true)
        .wasm_multi_memory(true)
        .memory_reservation(1 << 32)
        .memory_guard_size(1 << 16)
        .table_lazy_init(false)
        .native_unwind_info(false);
    wasmtime::Engine::new(&config).expect("an engine")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, address, ..] = arguments.as_slice() else {
        println!("FILE ADDRESS [OUTPUT]");
        return;
    };
    let bytes = std::fs::read(path).expect("a file");
    let file = elf::Executable::parse(&bytes).expect("an x86-64 program");
    let address = u32::from_str_radix(address.trim_start_matches("0x"), 16).expect("a hexadecimal number");
    let functions = file.functions();
    let bounds = functions.iter().find(|bounds| (bounds.start..bounds.end).contains(&address));
    let bounds = *bounds.expect("a function at that address");
    let unit = Unit { image: &file, functions: &[bounds], extra_entries: &[] };
    println!("{:#x} to {:#x}", bounds.start, bounds.end);
    match dump(&unit, bounds) {
        Ok(text) => println!("{text}"),
        Err(why) => println!("refused: {why}"),
    }
    if let Some(output) = arguments.get(2) {
        let translation = translate(&unit);
        let code = engine().precompile_module(&translation.wasm).expect("it compiles");
        std::fs::write(output, code).expect("a file to write");
    }
}
