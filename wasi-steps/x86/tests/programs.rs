//! Small programs, from their bytes to their exit.

use std::sync::atomic::AtomicU8;

use cooper_x86::code::{CodeId, CodeMap, CodeRange, CodeSource, SharedCode};
use cooper_x86::interpreter::{Exit, Interpreter};
use cooper_x86::memory::{Access, Fault, GuestMemory, PAGE_SIZE, Protection};
use cooper_x86::state::{CpuState, flag, register::*};

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;

struct Map {
    ranges: Vec<CodeRange>,
}

impl CodeMap for Map {
    fn code_at(&self, pc: u64) -> Option<CodeRange> {
        self.ranges.iter().find(|range| pc >= range.start && pc < range.end).copied()
    }

    fn generation(&self) -> u64 {
        1
    }
}

struct Guest {
    memory: GuestMemory,
    map: Map,
    cpu: CpuState,
    interpreter: Interpreter,
}

impl Guest {
    /// A program at `CODE`, two pages of data at `DATA` with the stack at their end.
    fn new(code: &[u8], source: CodeSource) -> Self {
        let memory = GuestMemory::reserve().expect("address space");
        memory.map_anonymous(CODE, PAGE_SIZE, Protection::ReadWrite).expect("code page");
        memory.map_anonymous(DATA, 2 * PAGE_SIZE, Protection::ReadWrite).expect("data pages");
        memory.write(CODE, code).expect("code fits");
        let map = Map { ranges: vec![CodeRange { start: CODE, end: CODE + PAGE_SIZE, source }] };
        let cpu = CpuState::at_entry(CODE, DATA + 2 * PAGE_SIZE);
        Self { memory, map, cpu, interpreter: Interpreter::new(SharedCode::new()) }
    }

    fn run(&mut self) -> Exit {
        self.interpreter.run(&mut self.cpu, &self.memory, &self.map, &AtomicU8::new(0))
    }
}

fn file() -> CodeSource {
    CodeSource::File { id: CodeId([1; 32]), offset: 0x2000 }
}

/// `mov eax, 0; mov ecx, 100; loop: add eax, ecx; dec ecx; jne loop; syscall`
const SUM: &[u8] = &[0xb8, 0, 0, 0, 0, 0xb9, 100, 0, 0, 0, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa, 0x0f, 0x05];

#[test]
fn a_loop_runs_to_its_system_call() {
    for source in [file(), CodeSource::Generated] {
        let mut guest = Guest::new(SUM, source);
        assert_eq!(guest.run(), Exit::Syscall);
        assert_eq!(guest.cpu.gpr[RAX], 5050);
        assert_eq!(guest.cpu.rip, CODE + SUM.len() as u64);
        assert_eq!(guest.cpu.gpr[RCX], guest.cpu.rip);
        assert_eq!(guest.cpu.gpr[R11], guest.cpu.flags);
        assert_eq!(guest.cpu.flags & flag::ZF, flag::ZF);
        assert_eq!(guest.interpreter.instructions(), 2 + 300 + 1);
    }
}

#[test]
fn a_fault_leaves_the_state_before_the_instruction() {
    // inc ebx; add rax, [rsi]; hlt
    let mut guest = Guest::new(&[0xff, 0xc3, 0x48, 0x03, 0x06, 0xf4], file());
    guest.cpu.gpr[RSI] = DATA + 2 * PAGE_SIZE - 4;
    guest.cpu.gpr[RAX] = 7;
    let fault = Fault { address: DATA + 2 * PAGE_SIZE, access: Access::Read };
    assert_eq!(guest.run(), Exit::Fault(fault));
    assert_eq!((guest.cpu.rip, guest.cpu.gpr[RAX], guest.cpu.gpr[RBX]), (CODE + 2, 7, 1));
    assert_eq!(guest.interpreter.instructions(), 1);
    guest.cpu.gpr[RSI] = DATA;
    assert_eq!(guest.run(), Exit::GeneralProtection);
    assert_eq!((guest.cpu.rip, guest.cpu.gpr[RAX]), (CODE + 5, 7));
}

#[test]
fn fetching_outside_executable_memory_is_an_execute_fault() {
    // jmp to the last byte of the page, where an instruction begins that does not end.
    let mut guest = Guest::new(&[0xe9, 0xfa, 0x0f, 0, 0], file());
    guest.memory.store(CODE + PAGE_SIZE - 1, 0xb8_u8).expect("mapped");
    let fault = Fault { address: CODE + PAGE_SIZE, access: Access::Execute };
    assert_eq!(guest.run(), Exit::Fault(fault));
    assert_eq!(guest.cpu.rip, CODE + PAGE_SIZE - 1);
    guest.cpu.rip = 1 << 40;
    assert_eq!(guest.run(), Exit::Fault(Fault { address: 1 << 40, access: Access::Execute }));
}

#[test]
fn changed_generated_code_is_decoded_again() {
    let mut guest = Guest::new(SUM, CodeSource::Generated);
    assert_eq!(guest.run(), Exit::Syscall);
    guest.memory.store(CODE + 6, 10_u8).expect("mapped");
    guest.cpu.rip = CODE;
    assert_eq!(guest.run(), Exit::Syscall);
    assert_eq!(guest.cpu.gpr[RAX], 55);
}

#[test]
fn one_file_at_two_addresses_shares_its_code() {
    let mut guest = Guest::new(SUM, file());
    assert_eq!(guest.run(), Exit::Syscall);
    let other = 0x7000_0000;
    guest.memory.map_anonymous(other, PAGE_SIZE, Protection::ReadWrite).expect("free");
    guest.memory.write(other, SUM).expect("mapped");
    guest.map.ranges.push(CodeRange { start: other, end: other + PAGE_SIZE, source: file() });
    guest.cpu.rip = other;
    assert_eq!(guest.run(), Exit::Syscall);
    assert_eq!(guest.cpu.rip, other + SUM.len() as u64);
    assert_eq!(guest.cpu.gpr[RAX], 5050);
}

#[test]
fn a_set_stop_byte_stops_at_once() {
    // jmp to itself
    let mut guest = Guest::new(&[0xeb, 0xfe], file());
    let stop = AtomicU8::new(0);
    let Guest { memory, map, cpu, interpreter } = &mut guest;
    std::thread::scope(|scope| {
        scope.spawn(|| stop.store(1, std::sync::atomic::Ordering::SeqCst));
        assert_eq!(interpreter.run(cpu, memory, map, &stop), Exit::Stopped);
    });
    assert_eq!(cpu.rip, CODE);
}

#[test]
fn single_steps_exit_behind_each_instruction() {
    let mut guest = Guest::new(SUM, file());
    guest.cpu.flags |= flag::TF;
    assert_eq!(guest.run(), Exit::Step);
    assert_eq!(guest.cpu.rip, CODE + 5);
    assert_eq!(guest.run(), Exit::Step);
    assert_eq!(guest.cpu.rip, CODE + 10);
}

#[test]
fn exceptions_are_named() {
    let check = |code: &[u8], exit: Exit, rip: u64| {
        let mut guest = Guest::new(code, file());
        assert_eq!(guest.run(), exit, "{code:02x?}");
        assert_eq!(guest.cpu.rip - CODE, rip, "{code:02x?}");
    };
    check(&[0x90, 0xcc], Exit::Breakpoint, 2);
    check(&[0x90, 0x0f, 0x0b], Exit::Illegal, 1);
    check(&[0xf7, 0xf1], Exit::DivideError, 0);
    check(&[0xf4], Exit::GeneralProtection, 0);
    check(&[0xec], Exit::GeneralProtection, 0);
    check(&[0x0f, 0x30], Exit::GeneralProtection, 0);
    check(&[0xc5, 0xf8, 0x77], Exit::Illegal, 0);
    check(&[0x06], Exit::Illegal, 0);
    // movaps xmm0, [rsp - 8]
    check(&[0x0f, 0x28, 0x44, 0x24, 0xf8], Exit::GeneralProtection, 0);
}

#[test]
fn a_repeated_move_keeps_what_it_did_before_a_fault() {
    // rep movsb; rep movsq
    for (code, width) in [(&[0xf3, 0xa4][..], 1), (&[0xf3, 0x48, 0xa5][..], 8)] {
        let mut guest = Guest::new(code, file());
        let end = DATA + 2 * PAGE_SIZE;
        guest.memory.fill(DATA, 7, 4096).expect("mapped");
        (guest.cpu.gpr[RSI], guest.cpu.gpr[RDI], guest.cpu.gpr[RCX]) = (DATA, end - 24, 100);
        assert_eq!(guest.run(), Exit::Fault(Fault { address: end, access: Access::Write }));
        let done = 24 / width;
        assert_eq!(guest.cpu.gpr[RCX], 100 - done);
        assert_eq!(guest.cpu.gpr[RDI], end);
        assert_eq!(guest.cpu.gpr[RSI], DATA + 24);
        assert_eq!(guest.cpu.rip, CODE);
        assert_eq!(guest.memory.load::<u8>(end - 1), Ok(7));
    }
}

#[test]
fn an_unmasked_exception_is_raised_before_the_result() {
    // divsd xmm0, xmm1
    let mut guest = Guest::new(&[0xf2, 0x0f, 0x5e, 0xc1, 0xf4], file());
    guest.cpu.xmm[0] = u128::from(1.0_f64.to_bits());
    guest.cpu.xmm[1] = 0;
    guest.cpu.mxcsr = 0x1f80 & !(1 << 9);
    assert_eq!(guest.run(), Exit::FloatingPoint);
    assert_eq!((guest.cpu.rip, guest.cpu.xmm[0]), (CODE, u128::from(1.0_f64.to_bits())));
    assert_eq!(guest.cpu.mxcsr & 4, 4);
    guest.cpu.mxcsr = 0x1f80;
    assert_eq!(guest.run(), Exit::GeneralProtection);
    assert_eq!(guest.cpu.xmm[0], u128::from(f64::INFINITY.to_bits()));
    assert_eq!(guest.cpu.mxcsr, 0x1f84);
}

#[test]
fn the_rounding_mode_is_the_guests_and_only_there() {
    // ldmxcsr [rsi]; addsd xmm0, xmm1; stmxcsr [rsi]; hlt
    let code = [0x0f, 0xae, 0x16, 0xf2, 0x0f, 0x58, 0xc1, 0x0f, 0xae, 0x1e, 0xf4];
    let tiny = 1e-30_f64;
    for (mode, expected) in [(0, 1.0), (2 << 13, 1.0 + f64::EPSILON)] {
        let mut guest = Guest::new(&code, file());
        guest.cpu.gpr[RSI] = DATA;
        guest.memory.store(DATA, 0x1f80_u32 | mode).expect("mapped");
        guest.cpu.xmm[0] = u128::from(1.0_f64.to_bits());
        guest.cpu.xmm[1] = u128::from(tiny.to_bits());
        assert_eq!(guest.run(), Exit::GeneralProtection);
        assert_eq!(f64::from_bits(guest.cpu.xmm[0] as u64), expected);
        assert_eq!(guest.memory.load::<u32>(DATA), Ok(0x1f80 | mode | 0x20));
        assert_eq!(std::hint::black_box(1.0) + std::hint::black_box(tiny), 1.0);
    }
}

#[test]
fn an_unmasked_x87_exception_waits_for_the_next_instruction() {
    // fldcw [rsi]; fld1; fldz; fdivp; nop; fwait; hlt
    let code = [0xd9, 0x2e, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x90, 0x9b, 0xf4];
    let mut guest = Guest::new(&code, file());
    guest.cpu.gpr[RSI] = DATA;
    guest.memory.store(DATA, 0x037b_u16).expect("mapped");
    assert_eq!(guest.run(), Exit::FloatingPoint);
    assert_eq!(guest.cpu.rip, CODE + 9);
    assert_eq!(guest.cpu.x87.status & 0x84, 0x84);
}

#[test]
fn the_processor_is_x86_64_v2_and_nothing_more() {
    // cpuid; hlt
    let ask = |leaf: u64| {
        let mut guest = Guest::new(&[0x0f, 0xa2, 0xf4], file());
        (guest.cpu.gpr[RAX], guest.cpu.gpr[RCX]) = (leaf, 0);
        assert_eq!(guest.run(), Exit::GeneralProtection);
        [RAX, RBX, RCX, RDX].map(|register| guest.cpu.gpr[register] as u32)
    };
    let [_, b, c, d] = ask(0);
    assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"GenuineIntel");
    let [_, _, c, d] = ask(1);
    // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; no AVX, XSAVE, RDRAND, MOVBE, AES, PCLMULQDQ.
    assert_eq!(c, 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23);
    assert_eq!(d & (1 << 26), 1 << 26);
    assert_eq!(ask(7), [0; 4]);
    assert_eq!(ask(0x8000_0001)[2] & 1, 1);
}

#[test]
fn locked_additions_of_several_threads_are_not_lost() {
    // loop: lock inc qword [rsi]; lock xadd [rsi+8], rdx; dec ecx; jne loop; syscall
    let code = [
        0xf0, 0x48, 0xff, 0x06, 0xba, 1, 0, 0, 0, 0xf0, 0x48, 0x0f, 0xc1, 0x56, 0x08, 0xff, 0xc9, 0x75, 0xed,
        0x0f, 0x05,
    ];
    let guest = Guest::new(&code, file());
    let shared = SharedCode::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut cpu = guest.cpu.clone();
                (cpu.gpr[RSI], cpu.gpr[RCX]) = (DATA, 5_000);
                let mut interpreter = Interpreter::new(shared.clone());
                let exit = interpreter.run(&mut cpu, &guest.memory, &guest.map, &AtomicU8::new(0));
                assert_eq!(exit, Exit::Syscall);
            });
        }
    });
    assert_eq!(guest.memory.load::<u64>(DATA), Ok(15_000));
    assert_eq!(guest.memory.load::<u64>(DATA + 8), Ok(15_000));
}

#[test]
fn another_code_map_with_the_same_generation_is_noticed() {
    let mut guest = Guest::new(SUM, file());
    assert_eq!(guest.run(), Exit::Syscall);
    let none = Map { ranges: Vec::new() };
    guest.cpu.rip = CODE;
    let exit = guest.interpreter.run(&mut guest.cpu, &guest.memory, &none, &AtomicU8::new(0));
    assert_eq!(exit, Exit::Fault(Fault { address: CODE, access: Access::Execute }));
}
