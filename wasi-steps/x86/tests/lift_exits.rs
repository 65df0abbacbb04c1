//! Where translated code is left: faults, calls that come back elsewhere, too deep a stack, steps that branch, computed
//! gotos.

#![allow(unsafe_code, reason = "reads the machine code of programs that are linked into the test")]

mod lift_support;

use cooper_x86::lift::abi::MAX_DEPTH;
use cooper_x86::lift::{CodeImage, FunctionBounds, Unit, dump, translate};
use cooper_x86::state::{CpuState, register::*};
use lift_support::{CODE, DATA, DATA_SIZE, End, HOME, Image, Pointed, Runner};

/// The stack at entry.
const STACK: u64 = DATA + DATA_SIZE - 64;
/// Nothing is mapped here.
const NOWHERE: u64 = 0x1234_5000;

/// Loads code whose functions begin at `starts`, and gives the state to enter the first one with.
fn loaded(code: &[u8], starts: &[u32]) -> (Runner, CpuState) {
    let mut runner = Runner::new();
    let ends = starts[1..].iter().copied().chain([code.len() as u32]);
    let bounds: Vec<FunctionBounds> =
        starts.iter().zip(ends).map(|(start, end)| FunctionBounds { start: *start, end }).collect();
    let translation = runner.load(&Image(code.to_vec()), &bounds, 3);
    assert_eq!(translation.refused, []);
    let mut cpu = CpuState::at_entry(CODE, STACK);
    cpu.gpr[RDI] = NOWHERE;
    cpu.gpr[RSI] = DATA;
    runner.store.data().memory.store(STACK, HOME).expect("mapped");
    (runner, cpu)
}

#[test]
fn faults_name_the_instruction_and_the_stack() {
    // push rbx, then something at [rdi]: the state's stack pointer is the lower one.
    let cases: [(&str, &[u8]); 12] = [
        ("mov eax, [rdi]", &[0x8b, 0x07]),
        ("mov [rdi+16], rax", &[0x48, 0x89, 0x47, 0x10]),
        ("add [rdi], cl", &[0x00, 0x0f]),
        ("cmp word [rdi+rbp], 5", &[0x66, 0x83, 0x3c, 0x2f, 0x05]),
        ("movdqa xmm1, [rdi]", &[0x66, 0x0f, 0x6f, 0x0f]),
        ("movsd [rdi], xmm0", &[0xf2, 0x0f, 0x11, 0x07]),
        ("addsd xmm0, [rdi]", &[0xf2, 0x0f, 0x58, 0x07]),
        ("lock xadd [rdi], eax", &[0xf0, 0x0f, 0xc1, 0x07]),
        ("xchg [rdi], rcx", &[0x48, 0x87, 0x0f]),
        ("stosd", &[0xab]),
        ("test byte [rdi], 1", &[0xf6, 0x07, 0x01]),
        ("idiv dword [rdi]", &[0xf7, 0x3f]),
    ];
    for (name, bytes) in cases {
        // push rbx; nop; ...; pop rbx; ret
        let code = [&[0x53, 0x90], bytes, &[0x5b, 0xc3]].concat();
        let (mut runner, cpu) = loaded(&code, &[0]);
        let (end, after) = runner.run(3, CODE, &cpu);
        assert_eq!((end, after.gpr[RSP]), (End::Fault(2), STACK - 8), "{name}");
    }
}

#[test]
fn a_fault_in_a_callee_or_a_loop_is_where_it_is() {
    // call 8; ret; nop; nop; sub rsp, 32; mov ecx, 10; 17: dec ecx; jne 17; rep movsb... with rcx = 5
    let code = [
        &[0xe8, 3, 0, 0, 0, 0xc3, 0x90, 0x90][..],
        &[0x48, 0x83, 0xec, 0x20, 0xb9, 10, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc],
        &[0xb9, 5, 0, 0, 0, 0xf3, 0xa4],
        &[0x48, 0x83, 0xc4, 0x20, 0xc3],
    ]
    .concat();
    let (mut runner, cpu) = loaded(&code, &[0, 8]);
    let (end, after) = runner.run(3, CODE, &cpu);
    assert_eq!((end, after.gpr[RSP]), (End::Fault(26), STACK - 40));
}

#[test]
fn a_return_elsewhere_leaves_the_callers_too() {
    // call 8; mov eax, 1; ret; 11: lea rsp, [rsp+8]; mov eax, 9; ret (to the caller's caller)
    let code = [
        &[0xe8, 6, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3][..],
        &[0x48, 0x8d, 0x64, 0x24, 0x08, 0xb8, 9, 0, 0, 0, 0xc3],
    ]
    .concat();
    let (mut runner, cpu) = loaded(&code, &[0, 11]);
    let (end, after) = runner.run(3, CODE, &cpu);
    assert_eq!((end, after.gpr[RAX], after.gpr[RSP]), (End::At(HOME), 9, STACK + 8));
    assert_eq!(runner.store.data().resolved, 1);
}

#[test]
fn a_return_elsewhere_may_come_back() {
    // call 12; add eax, ebx; ret; 8: mov ebx, 30; 12...: lea rax, [rip to 8]; push rax; mov eax, 12; ret (to 8, then back)
    let code = [
        &[0xe8, 9, 0, 0, 0, 0x01, 0xd8, 0xc3][..],
        &[0xbb, 30, 0, 0, 0, 0xc3],
        &[0x48, 0x8d, 0x05, 0xf3, 0xff, 0xff, 0xff, 0x50, 0xb8, 12, 0, 0, 0, 0xc3],
    ]
    .concat();
    let mut runner = Runner::new();
    let bounds = [FunctionBounds { start: 0, end: 8 }, FunctionBounds { start: 14, end: code.len() as u32 }];
    let translation = runner.load(&Image(code), &bounds, 3);
    assert_eq!(translation.refused, []);
    runner.store.data().memory.store(STACK, HOME).expect("mapped");
    let (end, after) = runner.run(3, CODE, &CpuState::at_entry(CODE, STACK));
    assert_eq!((end, after.gpr[RAX], after.gpr[RSP]), (End::At(HOME), 42, STACK + 8));
    let host = runner.store.data();
    assert_eq!((host.resolved, host.steps), (1, 2));
}

#[test]
fn too_deep_a_recursion_goes_on_in_the_interpreter() {
    // f(n) = n == 0 ? 0 : f(n - 1) + n
    // push rbx; mov rbx, rdi; xor eax, eax; test rdi, rdi; je +12; dec rdi; call f; add rax, rbx; pop rbx; ret
    let code = [
        &[0x53, 0x48, 0x89, 0xfb, 0x31, 0xc0, 0x48, 0x85, 0xff, 0x74, 0x0b][..],
        &[0x48, 0xff, 0xcf, 0xe8, 0xed, 0xff, 0xff, 0xff, 0x48, 0x01, 0xd8],
        &[0x5b, 0xc3],
    ]
    .concat();
    for (depth, is_deep) in [(0, false), (MAX_DEPTH - 4000, true), (MAX_DEPTH - 300, true)] {
        let (mut runner, mut cpu) = loaded(&code, &[0]);
        runner.store.data_mut().depth = depth;
        cpu.gpr[RDI] = 100;
        let (end, after) = runner.run(3, CODE, &cpu);
        assert_eq!((end, after.gpr[RAX], after.gpr[RSP]), (End::At(HOME), 5050, STACK + 8), "{depth}");
        let host = runner.store.data();
        assert_eq!([host.unwound, host.resolved], [u64::from(is_deep); 2], "{depth}");
    }
}

#[test]
fn a_step_that_branches_leaves_with_everything_in_the_state() {
    // mov ebx, 7; inc edx; cmp eax, 5; loopne to 0; ret
    let code = [0xbb, 7, 0, 0, 0, 0xff, 0xc2, 0x83, 0xf8, 5, 0xe0, 0xf4, 0xc3];
    let (mut runner, mut cpu) = loaded(&code, &[0]);
    (cpu.gpr[RCX], cpu.gpr[RDX], cpu.gpr[RBX]) = (3, 10, 0);
    let (end, after) = runner.run(3, CODE, &cpu);
    assert_eq!(end, End::At(CODE));
    assert_eq!([RCX, RDX, RBX, RSP].map(|register| after.gpr[register]), [2, 11, 7, STACK]);
    // The last turn goes on behind it.
    cpu.gpr[RCX] = 1;
    let (end, after) = runner.run(3, CODE, &cpu);
    assert_eq!((end, after.gpr[RCX], after.gpr[RDX]), (End::At(HOME), 0, 11));
}

std::arch::global_asm!(
    "
    .text
threaded_start:
    push %rbx
    lea 8f(%rip), %rbx
    xor %eax, %eax
    xor %edx, %edx
    movzbl (%rsi), %ecx
    inc %rsi
    movslq (%rbx,%rcx,4), %rcx
    lea threaded_start(%rip), %r8
    add %r8, %rcx
    jmp *%rcx
1:  add $5, %rax
    jmp 7f
2:  lea (%rax,%rax,2), %rax
    movzbl (%rsi), %ecx
    inc %rsi
    movslq (%rbx,%rcx,4), %rcx
    add %r8, %rcx
    jmp *%rcx
3:  dec %rdi
    jz 4f
    mov %r9, %rsi
    jmp 7f
4:  pop %rbx
    ret
    nop
5:  mov %rsi, %r9
    inc %edx
7:  movzbl (%rsi), %ecx
    inc %rsi
    movslq (%rbx,%rcx,4), %rcx
    add %r8, %rcx
    jmp *%rcx
threaded_end:
8:  .long 1b - threaded_start, 2b - threaded_start, 3b - threaded_start, 5b - threaded_start
threaded_data_end:
    ",
    options(att_syntax)
);

unsafe extern "C" {
    fn threaded_start();
    fn threaded_end();
    fn threaded_data_end();
}

/// A bytecode interpreter whose every operation jumps to the next: its bytes, and where its code ends.
fn threaded() -> (Vec<u8>, u32) {
    let [start, end, data] =
        [threaded_start, threaded_end, threaded_data_end].map(|f| f as *const () as usize);
    // SAFETY: code and data between two labels of this executable.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, data - start) }.to_vec();
    (bytes, (end - start) as u32)
}

fn run_threaded(image: &dyn CodeImage, bytes: &[u8], end: u32) {
    let mut runner = Runner::new();
    let memory = runner.store.data().memory;
    memory.write(CODE, bytes).expect("code fits");
    let bounds = [FunctionBounds { start: 0, end }];
    let translation = translate(&Unit { image, functions: &bounds, extra_entries: &[] });
    assert_eq!(translation.refused, []);
    runner.install(&translation, 3);
    memory.write(DATA, &[3, 0, 1, 0, 2]).expect("mapped");
    memory.store(STACK, HOME).expect("mapped");
    let mut cpu = CpuState::at_entry(CODE, STACK);
    (cpu.gpr[RDI], cpu.gpr[RSI], cpu.gpr[RBX]) = (4, DATA, 77);
    let (finish, after) = runner.run(3, CODE, &cpu);
    let expected = (0..4).fold(0_u64, |value, _| (value + 5) * 3 + 5);
    assert_eq!((finish, after.gpr[RAX], after.gpr[RBX]), (End::At(HOME), expected, 77));
    let host = runner.store.data();
    assert_eq!((host.steps, host.dispatched, host.resolved), (0, 0, 0));
    // Every operation can be entered.
    let entries = &translation.functions[0].entries;
    let labels = bytes[end as usize..]
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    for label in labels {
        assert!(entries.contains(&label), "{label:#x} of {entries:x?}");
    }
}

#[test]
fn computed_gotos_stay_within_the_function() {
    let (bytes, end) = threaded();
    run_threaded(&Image(bytes.clone()), &bytes, end);
    let labels: Vec<u32> = bytes[end as usize..]
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
        .collect();
    run_threaded(&Pointed(Image(bytes.clone()), labels), &bytes, end);
}

#[test]
fn a_learned_target_is_one_of_the_hub() {
    // mov rax, [rsi]; jmp rax; 5: mov eax, 7; ret
    let bytes = vec![0x48, 0x8b, 0x06, 0xff, 0xe0, 0xb8, 7, 0, 0, 0, 0xc3];
    let bounds = FunctionBounds { start: 0, end: bytes.len() as u32 };
    let image = Image(bytes);
    let text = |extra: &[u32]| {
        dump(&Unit { image: &image, functions: &[], extra_entries: extra }, bounds).expect("it is translated")
    };
    assert!(!text(&[]).contains("switch"), "{}", text(&[]));
    assert!(text(&[5]).contains("switch"), "{}", text(&[5]));
}

#[test]
fn stubs_are_looked_through() {
    // call 16; ret; ...; 16: endbr64; jmp [rip+10] (to 32); 32: pointer
    let mut code = vec![0xe8, 11, 0, 0, 0, 0xc3];
    code.resize(16, 0x90);
    code.extend([0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 6, 0, 0, 0]);
    code.resize(32, 0x90);
    code.extend((CODE + 48).to_le_bytes());
    code.resize(48, 0x90);
    // 48: mov eax, 77; ret
    code.extend([0xb8, 77, 0, 0, 0, 0xc3]);
    let mut runner = Runner::new();
    let bounds = [FunctionBounds { start: 0, end: 6 }, FunctionBounds { start: 48, end: 54 }];
    runner.load(&Image(code), &bounds, 3);
    runner.fill_cache();
    runner.store.data().memory.store(STACK, HOME).expect("mapped");
    let (end, after) = runner.run(3, CODE, &CpuState::at_entry(CODE, STACK));
    assert_eq!((end, after.gpr[RAX]), (End::At(HOME), 77));
    let host = runner.store.data();
    assert_eq!((host.steps, host.dispatched, host.resolved), (0, 0, 0));
}
