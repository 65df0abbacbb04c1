//! Translated programs against the interpreter.

#![allow(unsafe_code, reason = "reads the machine code of programs that are linked into the test")]

mod lift_support;

use cooper_x86::interpreter::Exit;
use cooper_x86::lift::{CodeImage, FunctionBounds, Unit, dump};
use cooper_x86::state::{CpuState, register::*};
use lift_support::{CODE, DATA, DATA_SIZE, End, HOME, Image, Map, Runner};
use std::sync::atomic::AtomicU8;

std::arch::global_asm!(include_str!("lift/programs.s"), options(att_syntax));

macro_rules! programs {
    ($($name:ident),*) => {
        unsafe extern "C" { $(fn $name();)* fn programs_end(); }
        /// Names and addresses, in the order of the source.
        fn programs() -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
    };
}
programs!(
    p_mix, p_cmp, p_qs, p_f0, p_f1, p_f2, p_f3, p_fib, p_xorshift, p_collatz, p_switch, p_gcd, p_sieve,
    p_hash, p_bytes, p_sha256, p_compare, p_sort, p_callback, p_bits, p_goto
);

/// The programs as an image, with the bounds of each.
fn image() -> (Image, Vec<(&'static str, FunctionBounds)>) {
    let list = programs();
    let start = list[0].1;
    let end = programs_end as *const () as usize;
    // SAFETY: code between two labels of this executable.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, end - start) }.to_vec();
    let bounds = list
        .iter()
        .enumerate()
        .map(|(index, (name, at))| {
            let next = list.get(index + 1).map_or(end, |(_, next)| *next);
            (*name, FunctionBounds { start: (at - start) as u32, end: (next - start) as u32 })
        })
        .collect();
    (Image(bytes), bounds)
}

fn entry(at: u32, argument: u64) -> CpuState {
    let stack = DATA + DATA_SIZE - 64;
    let mut cpu = CpuState::at_entry(CODE + u64::from(at), stack);
    (cpu.gpr[RDI], cpu.gpr[RSI]) = (argument, DATA);
    for (index, register) in [RBX, RBP, R12, R13, R14, R15].into_iter().enumerate() {
        cpu.gpr[register] = 0x1111_2222_3333_4444 * (index as u64 + 1);
    }
    cpu
}

fn check(name: &str, argument: u64) {
    let (image, all) = image();
    let mut runner = Runner::new();
    let bounds: Vec<FunctionBounds> = all.iter().map(|(_, bounds)| *bounds).collect();
    let translation = runner.load(&image, &bounds, 5);
    assert_eq!(translation.refused, []);
    runner.fill_cache();
    let index = all.iter().position(|(other, _)| *other == name).expect("a program");
    let mut cpu = entry(all[index].1.start, argument);
    let memory = runner.store.data().memory;
    let prepare = || {
        memory.fill(DATA, 3, DATA_SIZE as usize).expect("mapped");
        memory.store(cpu.gpr[RSP], HOME).expect("mapped");
        memory.store(HOME, 0xf4_u8).expect("mapped");
    };
    prepare();
    let pc = cpu.rip;
    let (end, mut seen) = runner.run(5 + index as u32, pc, &cpu);
    assert_eq!(end, End::At(HOME), "{name}");
    let mut data = vec![0; DATA_SIZE as usize];
    memory.read(DATA, &mut data).expect("mapped");
    prepare();
    let mut interpreter = cooper_x86::interpreter::Interpreter::new(cooper_x86::code::SharedCode::new());
    let exit = interpreter.run(&mut cpu, memory, &Map, &AtomicU8::new(0));
    assert_eq!((exit, cpu.rip), (Exit::GeneralProtection, HOME), "{name}");
    let mut expected = vec![0; DATA_SIZE as usize];
    memory.read(DATA, &mut expected).expect("mapped");
    // Flags are dead at a return, and MXCSR's sticky bits are not kept.
    (cpu.flags, cpu.mxcsr, seen.flags, seen.mxcsr) = (0, 0, 0, 0);
    assert_eq!(seen, cpu, "{name}");
    assert!(data == expected, "{name}: memory differs");
    let host = runner.store.data();
    assert_eq!((host.steps, host.dispatched), (0, 0), "{name}");
}

#[test]
fn programs_do_what_the_interpreter_does() {
    for (name, argument) in [
        ("p_fib", 20),
        ("p_xorshift", 10_000),
        ("p_collatz", 3_000),
        ("p_switch", 1_000),
        ("p_gcd", 500),
        ("p_sieve", 5_000),
        ("p_hash", 3_000),
        ("p_bytes", 2_000),
        ("p_sha256", 50),
        ("p_compare", 300),
        ("p_sort", 500),
        ("p_callback", 300),
        ("p_bits", 2_000),
        ("p_goto", 1_000),
    ] {
        check(name, argument);
    }
}

#[test]
fn small_functions_translate_as_before() {
    let (image, all) = image();
    let unit = Unit { image: &image, functions: &[], extra_entries: &[] };
    for (name, bounds) in all {
        let text = dump(&unit, bounds).expect("it is translated");
        assert!(!text.contains("undefined in node"), "{name}:\n{text}");
        insta::assert_snapshot!(name, text);
    }
}

/// What becomes of a few instructions, alone in a function that returns.
fn dumped(code: &[u8]) -> String {
    let mut bytes = code.to_vec();
    bytes.push(0xc3);
    let bounds = FunctionBounds { start: 0, end: bytes.len() as u32 };
    let image = Image(bytes);
    dump(&Unit { image: &image, functions: &[], extra_entries: &[] }, bounds).expect("it is translated")
}

#[test]
fn repeated_loads_are_kept_apart() {
    // mov eax, [rdi]; mov ecx, [rsi]; mov edx, [rdi]
    let text = dumped(&[0x8b, 0x07, 0x8b, 0x0e, 0x8b, 0x17]);
    assert_eq!(text.matches("barrier").count(), 1, "{text}");
    // mov eax, [rdi]; mov [rsi], ecx; mov edx, [rdi]
    let text = dumped(&[0x8b, 0x07, 0x89, 0x0e, 0x8b, 0x17]);
    assert_eq!(text.matches("barrier").count(), 0, "{text}");
}

#[test]
fn a_loop_without_calls_looks_at_the_stop_byte() {
    // dec edi; jne back
    let text = dumped(&[0xff, 0xcf, 0x75, 0xfc]);
    assert_eq!(text.matches("safepoint").count(), 1, "{text}");
}

#[test]
fn the_state_knows_the_stack_before_memory_is_touched() {
    // push rbx; mov rbx, rdi; push rbp; mov [rdi], rsi
    let text = dumped(&[0x53, 0x48, 0x89, 0xfb, 0x55, 0x48, 0x89, 0x37]);
    assert_eq!(text.matches("publish").count(), 1, "{text}");
    let [before, after] = text.split("publish").collect::<Vec<_>>()[..] else { panic!("{text}") };
    let stores = [before, after].map(|part| part.matches("I64Store").count());
    assert_eq!(stores, [2, 1], "{text}");
}

/// A file with two functions.
struct Two(Image, [FunctionBounds; 2]);

impl CodeImage for Two {
    fn code(&self, at: u32) -> &[u8] {
        self.0.code(at)
    }

    fn read_only(&self, at: u32, buffer: &mut [u8]) -> bool {
        self.0.read_only(at, buffer)
    }

    fn function_at(&self, at: u32) -> Option<FunctionBounds> {
        self.1.iter().copied().find(|bounds| (bounds.start..bounds.end).contains(&at))
    }
}

#[test]
fn a_branch_into_the_middle_of_a_function_shares_its_code() {
    // test edi, edi; je 5; ret | push rbx; mov eax, 7; pop rbx; ret
    let bytes = vec![0x85, 0xff, 0x74, 0x02, 0xc3, 0x53, 0xb8, 7, 0, 0, 0, 0x5b, 0xc3];
    let bounds = [FunctionBounds { start: 0, end: 5 }, FunctionBounds { start: 5, end: 13 }];
    let check = |target: u8, inside: usize| {
        let mut bytes = bytes.clone();
        bytes[3] = target - 4;
        let image = Two(Image(bytes), bounds);
        let unit = Unit { image: &image, functions: &[], extra_entries: &[] };
        let text = dump(&unit, bounds[0]).expect("it is translated");
        assert_eq!(text.matches("rax = ").count(), inside, "{text}");
    };
    check(6, 1);
    // A function's start is a call of it.
    check(5, 0);
}

#[test]
fn an_entry_reads_what_it_needs() {
    // mov eax, 1; test edi, edi; je out; loop: add rdx, rbx; add rcx, rdx; dec edi; jne loop; out: ret
    let text = dumped(&[
        0xb8, 1, 0, 0, 0, 0x85, 0xff, 0x74, 10, 0x48, 0x01, 0xda, 0x48, 0x01, 0xd1, 0xff, 0xcf, 0x75, 0xf6,
    ]);
    let arrivals: Vec<&str> = text.lines().filter(|line| line.contains("arrive")).collect();
    assert_eq!(arrivals.len(), 2, "{text}");
    // The loop gives back what it found in rax, the start sets it.
    assert_eq!(arrivals.iter().filter(|line| line.contains("rax")).count(), 1, "{text}");
}
