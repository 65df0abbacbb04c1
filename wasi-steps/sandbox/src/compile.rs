//! The helper process that compiles: from a file's bytes and samples of where it runs to an artifact.
//!
//! A step's process starts this same program with `compile`. It gives up what it could harm with - time, memory, open
//! descriptors but the standard three - reads a [`CompileRequest`] and the file, and writes an artifact. So a file made to
//! take a compiler hours or gigabytes takes its helper's share and no more.
//!
//! What must hold: the answer depends on the request only; no guest code runs here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read, Write};
use std::process::ExitCode;

use cooper_x86::code::CodeId;
use cooper_x86::lift::{self, CodeImage, FunctionBounds, Unit};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::elf::Executable;
use crate::engine;
use crate::library;

/// The largest file that is translated, in bytes: unit addresses have 32 bits, and a helper has it all in memory.
pub(crate) const MAX_FILE: u64 = 512 << 20;
/// Processor time of one helper, in seconds.
const MAX_SECONDS: u64 = 120;
/// Address space of one helper, in bytes.
const MAX_MEMORY: u64 = 4 << 30;
/// The largest header of a request, in bytes.
const MAX_REQUEST: u32 = 64 << 20;
/// What the helper gives way by to the guests.
const NICE: i32 = 19;

/// What a helper is asked for; the file's bytes follow it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CompileRequest {
    /// Content of the file.
    pub(crate) id: [u8; 32],
    /// How often samples met code at unit addresses.
    pub(crate) heat: Vec<(u32, u32)>,
    /// Functions with at least so many samples are translated.
    pub(crate) threshold: u32,
    /// Functions that need no translation: they have one, or cannot.
    pub(crate) known: Vec<u32>,
    /// Functions to translate whatever the heat says.
    pub(crate) wanted: Vec<u32>,
    /// Most bytes of guest code.
    pub(crate) most: u32,
    /// Whether somebody waits for the answer; else the helper gives way to the guests.
    pub(crate) is_awaited: bool,
}

/// Writes a request.
pub(crate) fn write_request(
    out: &mut impl Write,
    request: &CompileRequest,
    mut file: impl Read,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(request)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&bytes)?;
    io::copy(&mut file, out)?;
    out.flush()
}

fn read_request(input: &mut impl Read) -> io::Result<(CompileRequest, Vec<u8>)> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_REQUEST {
        return Err(io::Error::other("the request is too large"));
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header)?;
    let mut file = Vec::new();
    input.take(MAX_FILE + 1).read_to_end(&mut file)?;
    if file.len() as u64 > MAX_FILE {
        return Err(io::Error::other("the file is too large"));
    }
    Ok((serde_json::from_slice(&header)?, file))
}

/// Runs the helper: reads a request from descriptor 0, writes the artifact to descriptor 1.
pub fn compile_main() -> ExitCode {
    let done = confine().and_then(|()| {
        let (request, file) = read_request(&mut io::stdin().lock())?;
        if !request.is_awaited {
            rustix::process::nice(NICE)?;
        }
        let artifact = compile(&request, &file).map_err(io::Error::other)?;
        io::stdout().lock().write_all(&artifact)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be listening.
            drop(writeln!(io::stderr(), "{error}"));
            ExitCode::FAILURE
        }
    }
}

fn confine() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(Resource::Cpu, limit(MAX_SECONDS))?;
    rustix::process::setrlimit(Resource::As, limit(MAX_MEMORY))?;
    rustix::process::setrlimit(Resource::Core, limit(0))?;
    Ok(())
}

/// What a helper does.
pub(crate) fn compile(request: &CompileRequest, file: &[u8]) -> Result<Vec<u8>, wasmtime::Error> {
    let executable = Executable::parse(file).ok_or_else(|| wasmtime::Error::msg("no x86-64 program"))?;
    let chosen = choose(request, &executable);
    let unit = Unit { image: &executable, functions: &chosen, extra_entries: &[] };
    let mut translation = lift::translate(&unit);
    // Functions that nothing is known of would be asked for again and again.
    let done: HashSet<u32> = translation.functions.iter().map(|function| function.start).collect();
    let refused: HashSet<u32> = translation.refused.iter().map(|(start, _)| *start).collect();
    let missing =
        chosen.iter().filter(|bounds| !done.contains(&bounds.start) && !refused.contains(&bounds.start));
    translation.refused.extend(missing.map(|bounds| (bounds.start, lift::Refusal::NoCode)));
    let engine = engine::compiler()?;
    let code = engine.precompile_module(&translation.wasm)?;
    Ok(library::encode(code, CodeId(request.id), &translation))
}

/// The functions to translate: the hottest first, up to the request's size, and the stubs that they call; in ascending order.
fn choose(request: &CompileRequest, executable: &Executable<'_>) -> Vec<FunctionBounds> {
    let functions = executable.functions();
    let known: HashSet<u32> = request.known.iter().copied().collect();
    let mut heat: BTreeMap<FunctionBounds, u64> = BTreeMap::new();
    let wanted = request.wanted.iter().map(|unit| (*unit, u32::MAX));
    for (unit, count) in request.heat.iter().copied().chain(wanted) {
        let bounds = stub_at(executable, unit).or_else(|| bounds_of(functions, unit, executable.end()));
        if let Some(bounds) = bounds.filter(|bounds| !known.contains(&bounds.start)) {
            *heat.entry(bounds).or_default() += u64::from(count);
        }
    }
    let mut hot: Vec<(FunctionBounds, u64)> =
        heat.into_iter().filter(|(_, heat)| *heat >= request.threshold.into()).collect();
    hot.sort_by_key(|(bounds, heat)| (std::cmp::Reverse(*heat), *bounds));
    let mut size = 0_u64;
    let mut chosen: BTreeSet<FunctionBounds> = BTreeSet::new();
    for (bounds, _) in hot {
        size += u64::from(bounds.end - bounds.start);
        if size > request.most.into() && !chosen.is_empty() {
            break;
        }
        chosen.insert(bounds);
    }
    let stubs: Vec<FunctionBounds> = chosen
        .iter()
        .flat_map(|bounds| branch_targets(executable, *bounds))
        .filter_map(|target| stub_at(executable, target))
        .filter(|stub| !known.contains(&stub.start))
        .collect();
    chosen.extend(stubs);
    chosen.into_iter().collect()
}

/// A stub of the procedure linkage table at a unit address: a jump through a word of memory. Each is a function of its own
/// here, whatever the call frame information says, so that calls to other files need no interpreter.
fn stub_at(executable: &Executable<'_>, at: u32) -> Option<FunctionBounds> {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    const BND: &[u8] = &[0xf2];
    /// `jmp [rip + displacement]`.
    const JUMP: &[u8] = &[0xff, 0x25];
    let all = executable.code(at);
    let code = all.strip_prefix(ENDBR64).unwrap_or(all);
    let code = code.strip_prefix(BND).unwrap_or(code);
    let rest = code.strip_prefix(JUMP)?.get(4..)?;
    Some(FunctionBounds { start: at, end: at + (all.len() - rest.len()) as u32 })
}

/// Where near calls and jumps in a function may lead. What only looks like one gives an address as well.
fn branch_targets<'a>(
    executable: &'a Executable<'_>,
    bounds: FunctionBounds,
) -> impl Iterator<Item = u32> + 'a {
    let length = (bounds.end - bounds.start) as usize;
    let code = executable.code(bounds.start);
    let code = &code[..length.min(code.len())];
    code.windows(5).enumerate().filter(|(_, bytes)| matches!(bytes[0], 0xe8 | 0xe9)).map(
        move |(at, bytes)| {
            let distance = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
            bounds.start.wrapping_add(at as u32 + 5).wrapping_add(distance)
        },
    )
}

/// The function that holds a unit address; where none is known, what lies between the address and the next one.
fn bounds_of(functions: &[FunctionBounds], unit: u32, end: u32) -> Option<FunctionBounds> {
    let after = functions.partition_point(|bounds| bounds.start <= unit);
    if let Some(bounds) = after.checked_sub(1).and_then(|before| functions.get(before))
        && unit < bounds.end
    {
        return Some(*bounds);
    }
    let end = functions.get(after).map_or(end, |bounds| bounds.start);
    (unit < end).then_some(FunctionBounds { start: unit, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_address_leads_to_its_function() {
        let functions = [FunctionBounds { start: 16, end: 32 }, FunctionBounds { start: 48, end: 64 }];
        let check = |unit: u32, expected: Option<(u32, u32)>| {
            let found = bounds_of(functions, unit, 100).map(|bounds| (bounds.start, bounds.end));
            assert_eq!(found, expected, "{unit}");
        };
        check(16, Some((16, 32)));
        check(31, Some((16, 32)));
        check(32, Some((32, 48)));
        check(8, Some((8, 16)));
        check(64, Some((64, 100)));
        check(100, None);
    }
}
