//! The helper process that compiles: from a file's bytes and samples of where it runs to an artifact.
//!
//! A step's process starts this same program with `compile`. It gives up what it could harm with - time, memory, open
//! descriptors but the standard three - and answers one [`CompileRequest`] after the other until there are no more. It keeps
//! the files that it was sent, because most are asked about again when more of them is hot. A file made to
//! take a compiler hours or gigabytes takes its helper's share and no more.
//!
//! What must hold: an answer depends on the request and its file only; no guest code runs here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use cooper_x86::code::CodeId;
use cooper_x86::lift::{self, CodeImage, FunctionBounds, Unit};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::elf::Executable;
use crate::engine;
use crate::library;

/// The largest file that is translated, in bytes: unit addresses have 32 bits, and a helper has it all in memory.
pub(crate) const MAX_FILE: u64 = 512 << 20;
/// Processor time of one request, in seconds.
pub(crate) const MAX_SECONDS: u64 = 120;
/// The longest reason for a refusal, in bytes.
const MAX_REASON: u64 = 4096;
/// Address space of one helper, in bytes.
const MAX_MEMORY: u64 = 4 << 30;
/// The largest header of a request, in bytes.
const MAX_REQUEST: u32 = 64 << 20;

/// What a helper is asked for; the file's bytes follow it the first time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CompileRequest {
    /// Content of the file.
    pub(crate) id: [u8; 32],
    /// How many bytes of it follow; `None` when this helper was sent the file before.
    pub(crate) file: Option<u64>,
    /// How often samples met code at unit addresses.
    pub(crate) heat: Vec<(u32, u32)>,
    /// Functions with at least so many samples are translated,
    pub(crate) threshold: u32,
    /// and with at least so many for each 1024 bytes.
    pub(crate) price: u64,
    /// Functions that need no translation: they have one, or cannot.
    pub(crate) known: Vec<u32>,
    /// Functions to translate whatever the heat says.
    pub(crate) wanted: Vec<u32>,
    /// Most bytes of guest code.
    pub(crate) most: u32,
}

/// What a helper answers.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Processor time that the helper has used since its start.
    pub(crate) used: Duration,
    /// What was made, or why nothing could be.
    pub(crate) made: Result<Compiled, String>,
}

/// What a request has led to.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    /// The artifact; `None` when nothing was worth it.
    pub(crate) artifact: Option<Vec<u8>>,
    /// Bytes of guest code in it.
    pub(crate) code: u64,
    /// For each address with samples, whether it has led to something: it lies in a function that is known or was tried.
    pub(crate) settled: Vec<bool>,
}

/// Writes a request and what it says that follows.
pub(crate) fn write_request(
    out: &mut impl Write,
    request: &CompileRequest,
    mut file: impl Read,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(request)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&bytes)?;
    if request.file.is_some() {
        io::copy(&mut file, out)?;
    }
    out.flush()
}

/// Reads a request and the file behind it; `None` at the end.
fn read_request(input: &mut impl Read) -> io::Result<Option<(CompileRequest, Option<Vec<u8>>)>> {
    let mut length = [0; 4];
    if input.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length);
    if length > MAX_REQUEST {
        return Err(io::Error::other("the request is too large"));
    }
    let request: CompileRequest = serde_json::from_slice(&read_exactly(input, length.into())?)?;
    let file = match request.file {
        None => None,
        Some(length) if length > MAX_FILE => return Err(io::Error::other("the file is too large")),
        Some(length) => Some(read_exactly(input, length)?),
    };
    Ok(Some((request, file)))
}

fn read_exactly(input: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if input.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn write_answer(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let used = u64::try_from(answer.used.as_nanos()).unwrap_or(u64::MAX);
    let (kind, code, settled, body) = match &answer.made {
        Ok(Compiled { artifact, code, settled }) => {
            (u8::from(artifact.is_some()), *code, &settled[..], artifact.as_deref().unwrap_or_default())
        }
        Err(reason) => (2, 0, &[][..], reason.as_bytes()),
    };
    out.write_all(&[kind])?;
    for number in [used, code, settled.len() as u64, body.len() as u64] {
        out.write_all(&number.to_le_bytes())?;
    }
    out.write_all(&settled.iter().map(|settled| u8::from(*settled)).collect::<Vec<_>>())?;
    out.write_all(body)?;
    out.flush()
}

/// Reads an answer of at most `most` bytes.
pub(crate) fn read_answer(input: &mut impl Read, most: u64) -> io::Result<Answer> {
    let mut header = [0; 33];
    input.read_exact(&mut header)?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[1 + 8 * at..9 + 8 * at]);
        u64::from_le_bytes(bytes)
    };
    let [used, code, settled, length] = [0, 1, 2, 3].map(number);
    let too_large = || io::Error::other("the answer is too large");
    if settled.checked_add(length).is_none_or(|size| size > most) {
        return Err(too_large());
    }
    let settled = read_exactly(input, settled)?.into_iter().map(|byte| byte != 0).collect();
    let rest = read_exactly(input, length)?;
    let made = match header[0] {
        0 => Ok(Compiled { artifact: None, code, settled }),
        1 => Ok(Compiled { artifact: Some(rest), code, settled }),
        2 => Err(String::from_utf8_lossy(&rest[..rest.len().min(MAX_REASON as usize)]).into_owned()),
        _ => return Err(io::Error::other("an answer of an unknown kind")),
    };
    Ok(Answer { used: Duration::from_nanos(used), made })
}

/// Runs the helper: reads requests from descriptor 0, writes answers to descriptor 1.
pub fn compile_main() -> ExitCode {
    match confine().and_then(|()| serve(&mut io::stdin().lock(), &mut io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be listening.
            drop(writeln!(io::stderr(), "{error}"));
            ExitCode::FAILURE
        }
    }
}

/// A file and the functions in it.
struct Known {
    bytes: Vec<u8>,
    functions: Vec<FunctionBounds>,
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut files: HashMap<[u8; 32], Known> = HashMap::new();
    while let Some((request, file)) = read_request(input)? {
        limit_time()?;
        if let Some(bytes) = file {
            let functions =
                Executable::parse(&bytes).map(|file| file.functions().to_vec()).unwrap_or_default();
            files.insert(request.id, Known { bytes, functions });
        }
        let made = match files.get(&request.id) {
            Some(known) => compile(&request, known).map_err(|error| format!("{error:#}")),
            None => return Err(io::Error::other("the file was never sent")),
        };
        write_answer(output, &Answer { used: processor_time(), made })?;
    }
    Ok(())
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

pub(crate) fn confine() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(Resource::As, limit(MAX_MEMORY))?;
    rustix::process::setrlimit(Resource::Core, limit(0))?;
    Ok(())
}

/// Bounds the processor time of what comes next.
pub(crate) fn limit_time() -> io::Result<()> {
    let maximum = rustix::process::getrlimit(Resource::Cpu).maximum;
    let current = Some(processor_time().as_secs() + MAX_SECONDS);
    Ok(rustix::process::setrlimit(Resource::Cpu, Rlimit { current, maximum })?)
}

/// What a helper does.
fn compile(request: &CompileRequest, known: &Known) -> Result<Compiled, wasmtime::Error> {
    let executable =
        Executable::parse(&known.bytes).ok_or_else(|| wasmtime::Error::msg("no x86-64 program"))?;
    let Choice { functions: chosen, settled } = choose(request, &executable, &known.functions);
    if chosen.is_empty() {
        return Ok(Compiled { artifact: None, code: 0, settled });
    }
    let unit = Unit { image: &executable, functions: &chosen, extra_entries: &[] };
    let mut translation = lift::translate(&unit);
    // Functions that nothing is known of would be asked for again and again.
    let done: HashSet<u32> = translation.functions.iter().map(|function| function.start).collect();
    let refused: HashSet<u32> = translation.refused.iter().map(|(start, _)| *start).collect();
    let missing =
        chosen.iter().filter(|bounds| !done.contains(&bounds.start) && !refused.contains(&bounds.start));
    translation.refused.extend(missing.map(|bounds| (bounds.start, lift::Refusal::NoCode)));
    let engine = engine::compiler()?;
    let native = engine.precompile_module(&translation.wasm)?;
    let code = chosen.iter().map(|bounds| u64::from(bounds.end - bounds.start)).sum();
    let artifact = library::encode(native, CodeId(request.id), &translation);
    Ok(Compiled { artifact: Some(artifact), code, settled })
}

/// What is to be translated.
struct Choice {
    functions: Vec<FunctionBounds>,
    settled: Vec<bool>,
}

/// The functions to translate: the hottest for their size first, up to the request's size, and the stubs that they call; in
/// ascending order.
fn choose(request: &CompileRequest, executable: &Executable<'_>, functions: &[FunctionBounds]) -> Choice {
    let known: HashSet<u32> = request.known.iter().copied().collect();
    let function_at =
        |unit: u32| stub_at(executable, unit).or_else(|| bounds_of(functions, unit, executable.end()));
    let mut heat: BTreeMap<FunctionBounds, u64> = BTreeMap::new();
    let wanted = request.wanted.iter().map(|unit| (*unit, u32::MAX));
    for (unit, count) in request.heat.iter().copied().chain(wanted) {
        if let Some(bounds) = function_at(unit).filter(|bounds| !known.contains(&bounds.start)) {
            *heat.entry(bounds).or_default() += u64::from(count);
        }
    }
    let size = |bounds: &FunctionBounds| u64::from(bounds.end - bounds.start);
    let is_worth_it = |(bounds, heat): &(FunctionBounds, u64)| {
        *heat >= request.threshold.into() && heat.saturating_mul(1024) >= size(bounds) * request.price
    };
    let mut hot: Vec<(FunctionBounds, u64)> = heat.into_iter().filter(is_worth_it).collect();
    let density = |(bounds, heat): &(FunctionBounds, u64)| heat.saturating_mul(1024) / size(bounds).max(1);
    hot.sort_by_key(|function| (std::cmp::Reverse(density(function)), function.0));
    let mut total = 0;
    let mut chosen: BTreeSet<FunctionBounds> = BTreeSet::new();
    for (bounds, _) in hot {
        total += size(&bounds);
        if total > request.most.into() && !chosen.is_empty() {
            break;
        }
        chosen.insert(bounds);
    }
    let settled = request
        .heat
        .iter()
        .map(|(unit, _)| {
            function_at(*unit).is_none_or(|bounds| chosen.contains(&bounds) || known.contains(&bounds.start))
        })
        .collect();
    let stubs: Vec<FunctionBounds> = chosen
        .iter()
        .flat_map(|bounds| branch_targets(executable, *bounds))
        .filter_map(|target| stub_at(executable, target))
        .filter(|stub| !known.contains(&stub.start))
        .collect();
    chosen.extend(stubs);
    Choice { functions: chosen.into_iter().collect(), settled }
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
    fn requests_and_answers_come_back() {
        let request = CompileRequest {
            id: [3; 32],
            file: Some(4),
            heat: vec![(16, 2)],
            threshold: 1,
            price: 7,
            known: vec![64],
            wanted: Vec::new(),
            most: 100,
        };
        let mut stream = Vec::new();
        write_request(&mut stream, &request, &b"file"[..]).expect("memory");
        write_request(&mut stream, &CompileRequest { file: None, ..request }, io::empty()).expect("memory");
        let mut input = stream.as_slice();
        let (first, file) = read_request(&mut input).expect("whole").expect("there");
        assert_eq!((first.heat, first.price, file.as_deref()), (vec![(16, 2)], 7, Some(&b"file"[..])));
        let (second, file) = read_request(&mut input).expect("whole").expect("there");
        assert_eq!((second.known, file), (vec![64], None));
        assert!(read_request(&mut input).expect("the end").is_none());
        let used = Duration::from_nanos(9);
        let compiled = |artifact| Compiled { artifact, code: 5, settled: vec![true, false] };
        for made in [Ok(compiled(Some(b"native".to_vec()))), Ok(compiled(None)), Err("why".to_owned())] {
            let mut stream = Vec::new();
            write_answer(&mut stream, &Answer { used, made }).expect("memory");
            let answer = read_answer(&mut stream.as_slice(), 100).expect("whole");
            assert_eq!(answer.used, used);
            match answer.made {
                Ok(Compiled { artifact, code, settled }) => {
                    assert!(artifact.is_none_or(|artifact| artifact == b"native"));
                    assert_eq!((code, settled), (5, vec![true, false]));
                }
                Err(reason) => assert_eq!(reason, "why"),
            }
            assert!(
                read_answer(&mut stream.as_slice(), 1).is_err()
                    && read_answer(&mut &stream[..20], 100).is_err()
            );
        }
    }

    #[test]
    fn a_unit_address_leads_to_its_function() {
        let functions = [FunctionBounds { start: 16, end: 32 }, FunctionBounds { start: 48, end: 64 }];
        let check = |unit: u32, expected: Option<(u32, u32)>| {
            let found = bounds_of(&functions, unit, 100).map(|bounds| (bounds.start, bounds.end));
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
