//! Instructions per second of the interpreter, and its time against the processor's, on small kernels.
//!
//! `cargo run --release -p cooper-x86 --example speed`
#![allow(unsafe_code, reason = "the kernels also run natively, for the ratio")]
#![allow(clippy::print_stdout, reason = "the measurements are the output")]

use std::arch::global_asm;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use cooper_x86::code::{CodeId, CodeMap, CodeRange, CodeSource, SharedCode};
use cooper_x86::interpreter::{Exit, Interpreter};
use cooper_x86::memory::{GuestMemory, PAGE_SIZE, Protection};
use cooper_x86::state::{CpuState, register::*};

// Each kernel takes a count in rdi and a pointer to a page in rsi, and ends with `ret`. They are position independent.
global_asm!(
    ".globl speed_loop, speed_loop_end, speed_hash, speed_hash_end, speed_calls, speed_calls_end, speed_bytes, speed_bytes_end",
    // A sum with a compare and a branch.
    "speed_loop:",
    "xor eax, eax",
    "2: add rax, rdi",
    "sub rdi, 1",
    "test rdi, rdi",
    "jne 2b",
    "ret",
    "speed_loop_end:",
    // The operations of one SHA-256 round, again and again.
    "speed_hash:",
    "push rbx",
    "push rbp",
    "push r12",
    "mov eax, 0x6a09e667",
    "mov ebx, 0xbb67ae85",
    "mov ecx, 0x3c6ef372",
    "mov edx, 0x510e527f",
    "mov r8d, 0x9b05688c",
    "mov r9d, 0x1f83d9ab",
    "xor r12d, r12d",
    "2: mov r10d, edx",
    "ror r10d, 6",
    "mov r11d, edx",
    "ror r11d, 11",
    "xor r10d, r11d",
    "mov r11d, edx",
    "ror r11d, 25",
    "xor r10d, r11d",
    "mov r11d, r8d",
    "and r11d, edx",
    "mov ebp, edx",
    "not ebp",
    "and ebp, r9d",
    "xor r11d, ebp",
    "add r10d, r11d",
    "add r10d, [rsi + r12*4]",
    "mov ebp, eax",
    "ror ebp, 2",
    "mov r11d, eax",
    "ror r11d, 13",
    "xor ebp, r11d",
    "mov r9d, r8d",
    "mov r8d, edx",
    "lea edx, [r10 + rcx]",
    "mov ecx, ebx",
    "mov ebx, eax",
    "lea eax, [r10 + rbp]",
    "mov [rsi + r12*4], eax",
    "add r12d, 1",
    "and r12d, 63",
    "sub rdi, 1",
    "jne 2b",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "speed_hash_end:",
    // Recursive Fibonacci numbers: calls and returns.
    "speed_calls:",
    "cmp rdi, 2",
    "jae 2f",
    "mov rax, rdi",
    "ret",
    "2: push rbx",
    "push rdi",
    "sub rdi, 1",
    "call speed_calls",
    "mov rbx, rax",
    "pop rdi",
    "sub rdi, 2",
    "call speed_calls",
    "add rax, rbx",
    "pop rbx",
    "ret",
    "speed_calls_end:",
    // Counts bytes below a limit in a page: byte loads, compares, branches.
    "speed_bytes:",
    "xor eax, eax",
    "2: mov ecx, edi",
    "and ecx, 2047",
    "movzx edx, byte ptr [rsi + rcx]",
    "cmp dl, 100",
    "jb 3f",
    "inc rax",
    "3: mov byte ptr [rsi + rcx], al",
    "dec rdi",
    "jne 2b",
    "ret",
    "speed_bytes_end:",
);

unsafe extern "C" {
    fn speed_loop(count: u64, page: *mut u8) -> u64;
    fn speed_loop_end();
    fn speed_hash(count: u64, page: *mut u8) -> u64;
    fn speed_hash_end();
    fn speed_calls(count: u64, page: *mut u8) -> u64;
    fn speed_calls_end();
    fn speed_bytes(count: u64, page: *mut u8) -> u64;
    fn speed_bytes_end();
}

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;

struct Map;

impl CodeMap for Map {
    fn code_at(&self, pc: u64) -> Option<CodeRange> {
        let source = CodeSource::File { id: CodeId([0; 32]), offset: 0 };
        (CODE..CODE + PAGE_SIZE).contains(&pc).then_some(CodeRange {
            start: CODE,
            end: CODE + PAGE_SIZE,
            source,
        })
    }

    fn generation(&self) -> u64 {
        1
    }
}

/// Processor time of this thread: other load on the machine disturbs it least.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a local structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

type Kernel = unsafe extern "C" fn(u64, *mut u8) -> u64;

/// One kernel on both sides: instructions, times.
fn measure(name: &str, kernel: Kernel, end: unsafe extern "C" fn(), count: u64) {
    let length = end as usize - kernel as usize;
    // SAFETY: the bytes of a kernel, which lie between its two labels.
    let code = unsafe { std::slice::from_raw_parts(kernel as *const u8, length) };
    let memory = GuestMemory::reserve().expect("address space");
    for page in [CODE, DATA] {
        memory.map_anonymous(page, PAGE_SIZE, Protection::ReadWrite).expect("a page");
    }
    memory.write(CODE, code).expect("mapped");
    let hlt = CODE + PAGE_SIZE - 1;
    memory.store(hlt, 0xf4_u8).expect("mapped");
    let mut interpreter = Interpreter::new(SharedCode::new());
    let mut best = Duration::MAX;
    let (mut result, mut instructions) = (0, 0);
    for _ in 0..3 {
        let mut cpu = CpuState::at_entry(CODE, DATA + PAGE_SIZE - 8);
        memory.fill(DATA, 0, PAGE_SIZE as usize).expect("mapped");
        memory.store(DATA + PAGE_SIZE - 8, hlt).expect("mapped");
        (cpu.gpr[RDI], cpu.gpr[RSI]) = (count, DATA);
        let before = interpreter.instructions();
        let start = processor_time();
        let exit = interpreter.run(&mut cpu, &memory, &Map, &AtomicU8::new(0));
        best = best.min(processor_time() - start);
        assert_eq!((exit, cpu.rip), (Exit::GeneralProtection, hlt));
        (result, instructions) = (cpu.gpr[RAX], interpreter.instructions() - before);
    }
    let mut native = Duration::MAX;
    for _ in 0..3 {
        let mut page = [0_u8; PAGE_SIZE as usize];
        let start = processor_time();
        // SAFETY: kernels keep the calling convention and stay within the page.
        let expected = unsafe { kernel(count, page.as_mut_ptr()) };
        native = native.min(processor_time() - start);
        assert!(name == "bytes" || expected == result, "{name}");
    }
    println!(
        "{name:>6}: {:6.1} M/s, {:5.1} times native",
        instructions as f64 / best.as_secs_f64() / 1e6,
        best.as_secs_f64() / native.as_secs_f64()
    );
}

/// What leaving and entering the interpreter costs, by a program of system calls, and what a new one costs.
fn measure_entry() {
    const CALLS: u32 = 1_000_000;
    let memory = GuestMemory::reserve().expect("address space");
    memory.map_anonymous(CODE, PAGE_SIZE, Protection::ReadWrite).expect("a page");
    // syscall; jmp back
    memory.write(CODE, &[0x0f, 0x05, 0xeb, 0xfc]).expect("mapped");
    let shared = SharedCode::new();
    let mut interpreter = Interpreter::new(shared.clone());
    let mut cpu = CpuState::at_entry(CODE, 0);
    let start = processor_time();
    for _ in 0..CALLS {
        assert_eq!(interpreter.run(&mut cpu, &memory, &Map, &AtomicU8::new(0)), Exit::Syscall);
    }
    println!(" entry: {:?} for each system call", (processor_time() - start) / CALLS);
    let start = processor_time();
    for _ in 0..1000 {
        let mut interpreter = Interpreter::new(shared.clone());
        interpreter.run(&mut cpu, &memory, &Map, &AtomicU8::new(0));
    }
    println!("   new: {:?} for each interpreter", (processor_time() - start) / 1000);
}

fn main() {
    measure_entry();
    measure("loop", speed_loop, speed_loop_end, 20_000_000);
    measure("hash", speed_hash, speed_hash_end, 2_000_000);
    measure("calls", speed_calls, speed_calls_end, 29);
    measure("bytes", speed_bytes, speed_bytes_end, 10_000_000);
}
