//! How fast translated code runs, as ratios to the same machine code run natively in the same process.
//!
//! `cargo run --profile test -p cooper-x86 --example translated [PROGRAM...]`
#![allow(unsafe_code, reason = "runs the programs natively, on a page of this process")]
#![allow(clippy::print_stdout, reason = "prints its result")]

#[path = "../tests/lift_support/mod.rs"]
mod lift_support;

use std::time::{Duration, Instant};

use cooper_x86::lift::FunctionBounds;
use cooper_x86::state::{CpuState, register::*};
use lift_support::{CODE, DATA, DATA_SIZE, End, HOME, Image, Runner};

std::arch::global_asm!(include_str!("../tests/lift/programs.s"), options(att_syntax));

type Program = unsafe extern "C" fn(u64, *mut u8) -> u64;

macro_rules! programs {
    ($($name:ident),*) => {
        unsafe extern "C" { $(fn $name(count: u64, data: *mut u8) -> u64;)* fn programs_end(); }
        /// Names and addresses, in the order of the source.
        fn programs() -> Vec<(&'static str, Program)> {
            vec![$((stringify!($name), $name as Program)),*]
        }
    };
}
programs!(
    p_mix, p_cmp, p_qs, p_f0, p_f1, p_f2, p_f3, p_fib, p_xorshift, p_collatz, p_switch, p_gcd, p_sieve,
    p_hash, p_bytes, p_sha256, p_compare, p_sort, p_callback, p_bits, p_goto
);

/// Which programs are measured, with arguments that make them run for some tenths of a second.
const MEASURED: [(&str, u64); 13] = [
    ("p_fib", 36),
    ("p_xorshift", 100_000_000),
    ("p_collatz", 500_000),
    ("p_switch", 30_000_000),
    ("p_gcd", 50_000),
    ("p_sieve", 250_000),
    ("p_bytes", 20_000_000),
    ("p_sha256", 200_000),
    ("p_compare", 5_000_000),
    ("p_sort", 60_000),
    ("p_callback", 50_000_000),
    ("p_bits", 20_000_000),
    ("p_goto", 50_000_000),
];

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a local that the call fills.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let list = programs();
    let start = list[0].1 as *const () as usize;
    let end = programs_end as *const () as usize;
    // SAFETY: code between two labels of this executable.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, end - start) }.to_vec();
    let bounds: Vec<FunctionBounds> = (0..list.len())
        .map(|index| {
            let at = list[index].1 as *const () as usize - start;
            let next = list.get(index + 1).map_or(end, |(_, next)| *next as *const () as usize) - start;
            FunctionBounds { start: at as u32, end: next as u32 }
        })
        .collect();
    let mut runner = Runner::new();
    let before = Instant::now();
    runner.load(&Image(bytes), &bounds, 5);
    println!("translated and compiled in {:?}", before.elapsed());
    runner.fill_cache();
    let mut product = 1.0_f64;
    let mut count = 0;
    for (name, argument) in MEASURED {
        if !wanted.is_empty() && !wanted.iter().any(|other| other == name) {
            continue;
        }
        let index = list.iter().position(|(other, _)| *other == name).expect("a program");
        let mut data = vec![3_u8; DATA_SIZE as usize];
        let (mut native, mut ours) = (Duration::MAX, Duration::MAX);
        for _ in 0..3 {
            data.fill(3);
            let before = processor_time();
            // SAFETY: the program stays within its data.
            let expected = unsafe { list[index].1(argument, data.as_mut_ptr()) };
            native = native.min(processor_time() - before);
            let memory = runner.store.data().memory;
            memory.fill(DATA, 3, DATA_SIZE as usize).expect("mapped");
            let mut cpu = CpuState::at_entry(CODE + u64::from(bounds[index].start), DATA + DATA_SIZE - 64);
            (cpu.gpr[RDI], cpu.gpr[RSI]) = (argument, DATA);
            memory.store(cpu.gpr[RSP], HOME).expect("mapped");
            let pc = cpu.rip;
            let before = processor_time();
            let (end, after) = runner.run(5 + index as u32, pc, &cpu);
            ours = ours.min(processor_time() - before);
            assert_eq!((end, after.gpr[RAX]), (End::At(HOME), expected), "{name}");
        }
        let ratio = ours.as_secs_f64() / native.as_secs_f64();
        product *= ratio;
        count += 1;
        println!("{name:>12}: native {native:>8.1?} translated {ours:>8.1?} ratio {ratio:5.2}");
    }
    println!("geometric mean of {count}: {:.2}", product.powf(1.0 / f64::from(count)));
}
