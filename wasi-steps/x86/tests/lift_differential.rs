//! Translated code against the interpreter, for every instruction form and for random sequences.
//!
//! Each test function loads the flags (`popfq`), runs the instructions and goes on outside of its bounds, where an
//! instruction that reads all flags makes every one of them live. `COOPER_CASES` multiplies the number of cases of the form
//! test: 20 gives the long run of two million.
#![allow(clippy::print_stdout, reason = "the long run prints its totals")]
#![allow(clippy::disallowed_methods, reason = "the length of a test run is the caller's choice")]

mod instructions;
mod lift_support;

use std::sync::atomic::AtomicU8;

use cooper_x86::code::SharedCode;
use cooper_x86::interpreter::{Exit, Interpreter};
use cooper_x86::lift::{FunctionBounds, Refusal, Unit, dump, translate};
use cooper_x86::memory::{PAGE_SIZE, Protection};
use cooper_x86::state::{CpuState, flag, register::*};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, Register};
use instructions::{
    Random, encode, flag_bits, hide, in_scope, instance, is_common, is_comparison, random_state, sequence,
    untestable,
};
use lift_support::{CODE, CODE_SIZE, DATA, End, Image, Map, Runner, validate};

/// Bytes between the starts of two test functions.
const STRIDE: usize = 128;
/// Test functions in one module.
const BATCH: usize = 1024;

/// Bits of MXCSR that instructions set; translated code does not promise them.
const STICKY: u32 = 0x3f;

struct Case {
    instructions: Vec<Instruction>,
    undefined: u64,
    bytes: Vec<u8>,
}

impl Case {
    fn new(instructions: Vec<Instruction>, undefined: u64, index: usize) -> Option<Self> {
        let mut bytes = vec![0x9d];
        for instruction in &instructions {
            let at = CODE + (index % BATCH * STRIDE + bytes.len()) as u64;
            bytes.extend(encode(instruction, at)?);
        }
        (bytes.len() < STRIDE).then_some(Self { instructions, undefined, bytes })
    }
}

struct Tally {
    runs: u64,
    faults: u64,
    /// Runs in which the interpreter had to help.
    stepped: u64,
    wrong: Vec<String>,
}

fn differences(expected: &CpuState, seen: &CpuState) -> String {
    let mut text = String::new();
    let mut note = |name: String, expected: u128, seen: u128| {
        if expected != seen {
            text += &format!("  {name}: interpreted {expected:x}, translated {seen:x}\n");
        }
    };
    for index in 0..16 {
        note(format!("gpr {index}"), expected.gpr[index].into(), seen.gpr[index].into());
        note(format!("xmm {index}"), expected.xmm[index], seen.xmm[index]);
    }
    note("flags".into(), expected.flags.into(), seen.flags.into());
    note("mxcsr".into(), expected.mxcsr.into(), seen.mxcsr.into());
    if expected.x87 != seen.x87 {
        text += "  x87\n";
    }
    text
}

/// Runs every case of a batch from several states on both sides.
fn run_batch(runner: &mut Runner, cases: &[Case], states: usize, random: &mut Random, tally: &mut Tally) {
    let mut image = vec![0x9c; STRIDE * cases.len() + 16];
    let mut bounds = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let start = index * STRIDE;
        image[start..start + case.bytes.len()].copy_from_slice(&case.bytes);
        bounds.push(FunctionBounds { start: start as u32, end: (start + case.bytes.len()) as u32 });
    }
    let memory = runner.store.data().memory;
    memory.protect(CODE, CODE_SIZE, Protection::ReadWrite).expect("our own pages");
    let translation = runner.load(&Image(image.clone()), &bounds, 0);
    assert!(translation.refused.iter().all(|(_, why)| *why != Refusal::NoCode), "{:?}", translation.refused);
    for byte in &mut image {
        *byte = if *byte == 0x9c { 0xcc } else { *byte };
    }
    for (index, case) in cases.iter().enumerate() {
        image[index * STRIDE..][..case.bytes.len()].copy_from_slice(&case.bytes);
    }
    memory.write(CODE, &image).expect("code fits");
    memory.protect(CODE, CODE_SIZE, Protection::Read).expect("our own pages");
    let mut interpreter = Interpreter::new(SharedCode::new());
    for (slot, function) in translation.functions.iter().enumerate() {
        let case = &cases[function.start as usize / STRIDE];
        let start = CODE + u64::from(function.start);
        for _ in 0..states {
            let mut before = random_state(random);
            if case.instructions[0].mnemonic() == Mnemonic::Maskmovdqu {
                before.gpr[RDI] = DATA + 64;
            }
            let mut data = vec![0; PAGE_SIZE as usize];
            for chunk in data.chunks_exact_mut(16) {
                chunk.copy_from_slice(&random.vector().to_le_bytes());
            }
            before.gpr[RSP] -= 8;
            let at = (before.gpr[RSP] - DATA) as usize;
            data[at..at + 8].copy_from_slice(&before.flags.to_le_bytes());
            before.rip = start;
            let mut expected = before.clone();
            memory.write(DATA, &data).expect("mapped");
            let exit = interpreter.run(&mut expected, memory, &Map, &AtomicU8::new(0));
            let finish = start + case.bytes.len() as u64;
            if exit != Exit::Breakpoint || expected.rip != finish + 1 {
                tally.faults += 1;
                continue;
            }
            expected.rip = finish;
            let mut expected_data = vec![0; data.len()];
            memory.read(DATA, &mut expected_data).expect("mapped");
            memory.write(DATA, &data).expect("mapped");
            let steps = runner.store.data().steps;
            let (end, mut seen) = runner.run(slot as u32, start, &before);
            tally.runs += 1;
            if runner.store.data().steps - steps > 1 {
                tally.stepped += 1;
            }
            let mut seen_data = vec![0; data.len()];
            memory.read(DATA, &mut seen_data).expect("mapped");
            for state in [&mut expected, &mut seen] {
                hide(state, case.undefined);
                state.mxcsr &= !STICKY;
                state.flags &= !flag::TF;
            }
            let mut text = differences(&expected, &seen);
            if end != End::At(finish) {
                text += &format!("  end: {end:x?}\n");
            }
            if let Some(at) = (0..data.len()).find(|at| expected_data[*at] != seen_data[*at]) {
                text += &format!(
                    "  data {at:x}: interpreted {:x}, translated {:x}\n",
                    expected_data[at], seen_data[at]
                );
            }
            if !text.is_empty() {
                let names: Vec<String> =
                    case.instructions.iter().map(|i| format!("{:?}", i.code())).collect();
                tally.wrong.push(format!(
                    "{names:?} {:02x?} from {:x?} {:x}\n{text}",
                    case.bytes, before.gpr, before.flags
                ));
                break;
            }
        }
    }
}

fn run_cases(cases: &[Case], states: usize, random: &mut Random) -> Tally {
    let mut tally = Tally { runs: 0, faults: 0, stepped: 0, wrong: Vec::new() };
    let mut runner = Runner::new();
    // Bit offsets reach far; what they could change is not compared, so it is not there.
    let rest = lift_support::DATA_SIZE - PAGE_SIZE;
    runner.store.data().memory.unmap(DATA + PAGE_SIZE, rest).expect("our own pages");
    for batch in cases.chunks(BATCH) {
        run_batch(&mut runner, batch, states, random, &mut tally);
    }
    tally
}

fn report(tally: &Tally) {
    let count = tally.wrong.len();
    let some = tally.wrong.iter().take(12).cloned().collect::<String>();
    assert!(tally.wrong.is_empty(), "{count} cases differ:\n{some}");
}

#[test]
fn every_instruction_form_does_what_the_interpreter_does() {
    let factor: u64 = std::env::var("COOPER_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    // More operands and more states of each.
    let spread = factor.isqrt().max(1);
    let states = 20 * factor.div_ceil(spread);
    let mut cases = Vec::new();
    for code in Code::values().filter(|code| in_scope(*code)) {
        let mut random = Random(code as u64 + 1);
        for _ in 0..8 * spread {
            let Some(instruction) = instance(code, &mut random) else { continue };
            if untestable(&instruction) || instruction.flow_control() != FlowControl::Next {
                break;
            }
            let undefined = flag_bits(instruction.rflags_undefined());
            cases.extend(Case::new(vec![instruction], undefined, cases.len()));
        }
    }
    let tally = run_cases(&cases, states as usize, &mut Random(7));
    println!(
        "{} runs of {} forms' instances, {} faults left out, {} with the interpreter, {} differences",
        tally.runs,
        cases.len(),
        tally.faults,
        tally.stepped,
        tally.wrong.len()
    );
    report(&tally);
    assert!(tally.runs >= 100_000 * factor, "{} runs, {} faults", tally.runs, tally.faults);
    // x87 and MMX forms, a third of all, are the interpreter's.
    assert!(tally.stepped < tally.runs / 2, "{} of {} interpreted", tally.stepped, tally.runs);
}

/// Strings of random bytes hardly have an end or a byte in common: a comparison or saturation first makes them alike.
#[test]
fn comparisons_of_strings_do_what_the_interpreter_does() {
    let mut cases = Vec::new();
    for control in 0..128 {
        for alike in [Code::Pcmpgtb_xmm_xmmm128, Code::Paddusb_xmm_xmmm128, Code::Psubusb_xmm_xmmm128] {
            let instructions = [
                Instruction::with2(alike, Register::XMM1, Register::XMM2),
                Instruction::with2(alike, Register::XMM3, Register::XMM4),
                Instruction::with3(Code::Pcmpistri_xmm_xmmm128_imm8, Register::XMM1, Register::XMM3, control),
            ];
            let instructions = instructions.into_iter().collect::<Result<Vec<_>, _>>().expect("they exist");
            cases.extend(Case::new(instructions, 0, cases.len()));
        }
    }
    let tally = run_cases(&cases, 60, &mut Random(11));
    report(&tally);
    assert!(tally.runs > 20_000, "{} runs", tally.runs);
}

#[test]
fn sequences_do_what_the_interpreter_does() {
    let forms: Vec<Code> = Code::values()
        .filter(|code| in_scope(*code) && code.op_code().mode64() && !format!("{code:?}").contains("_mm"))
        .collect();
    let common: Vec<Code> = forms.iter().copied().filter(|code| is_common(*code)).collect();
    let comparisons: Vec<Code> = forms.iter().copied().filter(|code| is_comparison(*code)).collect();
    let jumps: Vec<Code> = forms
        .iter()
        .copied()
        .filter(|code| code.is_jcc_short_or_near() && format!("{code:?}").ends_with("_64"))
        .collect();
    let mut random = Random(99);
    let mut cases = Vec::new();
    while cases.len() < 6 * BATCH {
        let (instructions, undefined) = sequence(&mut random, &common, &comparisons, &jumps);
        cases.extend(Case::new(instructions, undefined, cases.len()));
    }
    let tally = run_cases(&cases, 6, &mut random);
    report(&tally);
    assert!(tally.runs > 10_000, "{} runs", tally.runs);
}

#[test]
fn any_bytes_translate_to_a_valid_module() {
    let mut random = Random(5);
    let mut functions = 0;
    for _ in 0..300 {
        let mut bytes: Vec<u8> = (0..2048).map(|_| random.next() as u8).collect();
        if random.below(2) == 0 {
            // Mostly short jumps, for graphs of every shape.
            for place in bytes.chunks_exact_mut(4) {
                let jump = [0x70 + random.below(16) as u8, random.next() as u8 & 0xfc];
                place.copy_from_slice(&[0x90, 0x90, jump[0], jump[1]]);
            }
        }
        let bounds = [
            FunctionBounds { start: 0, end: 2048 },
            FunctionBounds { start: random.below(2048) as u32, end: 2048 },
            FunctionBounds { start: 4000, end: 5000 },
        ];
        let image = Image(bytes);
        let extra = [random.below(2048) as u32, random.below(2048) as u32];
        let translation = translate(&Unit { image: &image, functions: &bounds, extra_entries: &extra });
        validate(&translation.wasm);
        let unit = Unit { image: &image, functions: &[], extra_entries: &[] };
        let text = dump(&unit, bounds[0]).unwrap_or_default();
        assert!(!text.contains("undefined in node"), "{text}");
        functions += translation.functions.len();
        assert_eq!(translation.functions.len() + translation.refused.len(), 3);
    }
    assert!(functions > 100, "{functions}");
}
