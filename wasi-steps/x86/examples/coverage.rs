//! What the translator leaves to the interpreter in real programs: functions that it refuses, by reason, and
//! instructions, by mnemonic, weighted with ten for every loop that they are in.
//!
//! `cargo run --profile test -p cooper-x86 --example coverage -- [--compile BYTES] FILE...`
//!
//! `--compile` compiles every function of at least so many bytes as well, and prints how long that takes.
#![allow(clippy::print_stdout, reason = "prints its result")]
#![allow(clippy::disallowed_methods, reason = "reads the files that are named")]

#[allow(dead_code, unreachable_pub, reason = "the sandbox's reader, of which a part is used")]
#[path = "../../sandbox/src/elf.rs"]
mod elf;

use std::collections::BTreeMap;
use std::time::Instant;

use cooper_x86::lift::{FunctionBounds, Unit, survey, translate};

/// Where lines of a report end.
const LINES: usize = 40;

fn compiler() -> wasmtime::Engine {
    let mut config = wasmtime::Config::new();
    config
        .wasm_threads(true)
        .wasm_function_references(true)
        .wasm_wide_arithmetic(true)
        .wasm_multi_memory(true);
    wasmtime::Engine::new(&config).expect("an engine")
}

/// Translates and compiles one function.
fn compile(engine: &wasmtime::Engine, unit: &Unit<'_>, bounds: FunctionBounds) {
    let functions = [bounds];
    let translation = translate(&Unit { functions: &functions, ..*unit });
    let before = Instant::now();
    let size = engine.precompile_module(&translation.wasm).expect("it compiles").len();
    println!(
        "  {:#x}: {} bytes of code, {} of Wasm, {size} compiled in {:?}",
        bounds.start,
        bounds.end - bounds.start,
        translation.wasm.len(),
        before.elapsed()
    );
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut least = u32::MAX;
    if arguments.first().is_some_and(|first| first == "--compile") {
        least = arguments.get(1).and_then(|text| text.parse().ok()).expect("a number of bytes");
        arguments.drain(..2);
    }
    let engine = compiler();
    let mut mnemonics: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for path in arguments {
        let bytes = std::fs::read(&path).expect("a file");
        let Some(file) = elf::Executable::parse(&bytes) else {
            println!("{path}: no x86-64 program");
            continue;
        };
        let functions = file.functions();
        let unit = Unit { image: &file, functions: &[], extra_entries: &[] };
        let before = Instant::now();
        let mut refused: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let (mut bytes_refused, mut whole) = (0, 0);
        for bounds in functions {
            match survey(&unit, *bounds) {
                Ok(left) => {
                    if bounds.end - bounds.start >= least {
                        compile(&engine, &unit, *bounds);
                    }
                    whole += usize::from(left.is_empty());
                    for one in left {
                        let entry = mnemonics.entry(format!("{:?}", one.mnemonic)).or_default();
                        entry.0 += 1;
                        entry.1 += 10_u64.pow(one.loops.min(4) as u32);
                    }
                }
                Err(why) => {
                    bytes_refused += bounds.end - bounds.start;
                    refused.entry(why.to_string()).or_default().push(bounds.start);
                }
            }
        }
        println!(
            "{path}: {} functions, {whole} without the interpreter, {bytes_refused} bytes refused, {:?}",
            functions.len(),
            before.elapsed()
        );
        for (why, starts) in refused {
            let some: Vec<String> = starts.iter().take(6).map(|at| format!("{at:#x}")).collect();
            println!("  {}: {why}: {}", starts.len(), some.join(" "));
        }
    }
    let mut list: Vec<_> = mnemonics.into_iter().collect();
    list.sort_by_key(|(_, (_, weight))| std::cmp::Reverse(*weight));
    for (name, (count, weight)) in list.into_iter().take(LINES) {
        println!("{weight:>10} {count:>7} {name}");
    }
}
