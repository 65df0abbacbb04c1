//! The interpreter against the processor it runs on.
//!
//! For every instruction form that x86-64-v2 has, random operands and registers go through the host's processor and
//! through the interpreter; registers, flags where they are defined, SSE and x87 state and memory must agree. The code
//! and the data lie at the same addresses on both sides.
#![allow(unsafe_code, reason = "test code is executed natively on a page outside the guest")]

mod instructions;

use std::sync::Mutex;
use std::sync::atomic::AtomicU8;

use cooper_x86::code::{CodeMap, CodeRange, CodeSource, SharedCode};
use cooper_x86::interpreter::{Exit, Interpreter};
use cooper_x86::memory::{GuestMemory, PAGE_SIZE, Protection};
use cooper_x86::state::{CpuState, flag, register::*};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic};
use instructions::{
    CODE, CODE_OFFSET, DATA, Random, encode, flag_bits, hide, in_scope, instance, is_common, is_comparison,
    random_state, sequence, untestable,
};

/// Register values for the native run; not visible to the guest.
const STATE: u64 = 0x7000_0000;

/// Offsets in the state page: registers before and after, flags, the host's stack, two FXSAVE images.
const IN: u64 = 0;
const OUT: u64 = 0x100;
const HOST: u64 = 0x200;
const IN_IMAGE: u64 = 0x400;
const OUT_IMAGE: u64 = 0x800;
const FLAGS_SLOT: u64 = 16 * 8;

/// One native run at a time: the pages have fixed addresses.
static NATIVE: Mutex<()> = Mutex::new(());

struct Map;

impl CodeMap for Map {
    fn code_at(&self, pc: u64) -> Option<CodeRange> {
        (CODE..CODE + PAGE_SIZE).contains(&pc).then_some(CodeRange {
            start: CODE,
            end: CODE + PAGE_SIZE,
            source: CodeSource::Generated,
        })
    }

    fn generation(&self) -> u64 {
        1
    }
}

/// The three native pages and the guest with the same code and data.
struct Rig {
    memory: GuestMemory,
    interpreter: Interpreter,
}

fn map_native(address: u64) {
    // SAFETY: `MAP_FIXED_NOREPLACE` replaces nothing; the result is checked.
    let page = unsafe {
        libc::mmap(
            address as *mut libc::c_void,
            PAGE_SIZE as usize,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(page as u64, address, "the page is free");
}

fn unmap_native(address: u64) {
    // SAFETY: one of our own pages.
    unsafe { libc::munmap(address as *mut libc::c_void, PAGE_SIZE as usize) };
}

fn native<'a>(address: u64, length: usize) -> &'a mut [u8] {
    // SAFETY: one of the pages mapped by `Rig::new`, used by one thread at a time.
    unsafe { std::slice::from_raw_parts_mut(address as *mut u8, length) }
}

fn native_u64(address: u64) -> u64 {
    u64::from_le_bytes(native(address, 8).try_into().expect("eight bytes"))
}

impl Rig {
    fn new() -> Self {
        for page in [CODE, DATA, STATE] {
            map_native(page);
        }
        let memory = GuestMemory::reserve().expect("address space");
        for page in [CODE, DATA] {
            memory.map_anonymous(page, PAGE_SIZE, Protection::ReadWrite).expect("a free page");
        }
        Self { memory, interpreter: Interpreter::new(SharedCode::new()) }
    }

    /// Runs `code` on both sides; `None` when the interpreter does not reach its end.
    fn run(&mut self, code: &[u8], before: &CpuState, data: &[u8]) -> Result<[(CpuState, Vec<u8>); 2], Exit> {
        let start = CODE + CODE_OFFSET;
        self.memory.write(start, code).expect("mapped");
        self.memory.store(start + code.len() as u64, 0xcc_u8).expect("mapped");
        self.memory.write(DATA, data).expect("mapped");
        let mut cpu = before.clone();
        cpu.rip = start;
        let exit = self.interpreter.run(&mut cpu, &self.memory, &Map, &AtomicU8::new(0));
        if exit != Exit::Breakpoint || cpu.rip != start + code.len() as u64 + 1 {
            return Err(exit);
        }
        let mut seen = vec![0; data.len()];
        self.memory.read(DATA, &mut seen).expect("mapped");
        cpu.rip = 0;
        Ok([(run_native(code, before, data), native(DATA, data.len()).to_vec()), (cpu, seen)])
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for page in [CODE, DATA, STATE] {
            unmap_native(page);
        }
    }
}

/// `mov reg, [address]` or, as a store, `mov [address], reg`.
fn absolute_move(code: &mut Vec<u8>, load: bool, register: usize, address: u64) {
    code.extend([
        if register >= 8 { 0x4c } else { 0x48 },
        if load { 0x8b } else { 0x89 },
        4 | (register as u8 & 7) << 3,
        0x25,
    ]);
    code.extend((address as u32).to_le_bytes());
}

fn with_address(code: &mut Vec<u8>, bytes: &[u8], address: u64) {
    code.extend(bytes);
    code.extend((address as u32).to_le_bytes());
}

/// Runs code on the host's processor.
fn run_native(code: &[u8], before: &CpuState, data: &[u8]) -> CpuState {
    native(DATA, data.len()).copy_from_slice(data);
    native(STATE + IN_IMAGE, 512).copy_from_slice(&before.fxsave());
    for (index, value) in before.gpr.iter().enumerate() {
        native(STATE + IN + 8 * index as u64, 8).copy_from_slice(&value.to_le_bytes());
    }
    native(STATE + IN + FLAGS_SLOT, 8).copy_from_slice(&before.flags.to_le_bytes());

    // push rbx, rbp, r12 to r15
    let mut all = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
    absolute_move(&mut all, false, RSP, STATE + HOST);
    with_address(&mut all, &[0x48, 0x0f, 0xae, 0x0c, 0x25], STATE + IN_IMAGE); // fxrstor64
    with_address(&mut all, &[0xff, 0x34, 0x25], STATE + IN + FLAGS_SLOT); // push [flags]
    all.push(0x9d); // popfq
    for index in 0..16 {
        absolute_move(&mut all, true, index, STATE + IN + 8 * index as u64);
    }
    assert!(all.len() as u64 <= CODE_OFFSET);
    all.resize(CODE_OFFSET as usize, 0x90);
    all.extend(code);
    for index in 0..16 {
        absolute_move(&mut all, false, index, STATE + OUT + 8 * index as u64);
    }
    absolute_move(&mut all, true, RSP, STATE + HOST);
    all.push(0x9c); // pushfq
    with_address(&mut all, &[0x8f, 0x04, 0x25], STATE + OUT + FLAGS_SLOT); // pop [flags]
    with_address(&mut all, &[0x48, 0x0f, 0xae, 0x04, 0x25], STATE + OUT_IMAGE); // fxsave64
    // fninit; cld; pop r15 to r12, rbp, rbx; ret
    all.extend([0xdb, 0xe3, 0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
    native(CODE, all.len()).copy_from_slice(&all);
    // SAFETY: the code keeps the calling convention, given that the tested instructions only compute; the control
    // register is put back afterwards.
    unsafe {
        let mut control = 0_u32;
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control);
        let function = std::mem::transmute::<u64, extern "C" fn()>(CODE);
        function();
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control);
    }

    let mut after = before.clone();
    after.rip = 0;
    after.fxrstor(native(STATE + OUT_IMAGE, 512).as_ref().try_into().expect("an image"));
    for (index, value) in after.gpr.iter_mut().enumerate() {
        *value = native_u64(STATE + OUT + 8 * index as u64);
    }
    after.flags = native_u64(STATE + OUT + FLAGS_SLOT);
    after
}

/// What differs between two states, in words.
fn differences(expected: &CpuState, seen: &CpuState) -> String {
    let mut text = String::new();
    let mut note = |name: String, expected: u128, seen: u128| {
        if expected != seen {
            text += &format!("  {name}: processor {expected:x}, interpreter {seen:x}\n");
        }
    };
    for index in 0..16 {
        note(format!("gpr {index}"), expected.gpr[index].into(), seen.gpr[index].into());
        note(format!("xmm {index}"), expected.xmm[index], seen.xmm[index]);
    }
    for index in 0..8 {
        note(format!("x87 {index}"), expected.x87.registers[index], seen.x87.registers[index]);
    }
    note("flags".into(), expected.flags.into(), seen.flags.into());
    note("mxcsr".into(), expected.mxcsr.into(), seen.mxcsr.into());
    note("x87 control".into(), expected.x87.control.into(), seen.x87.control.into());
    note("x87 status".into(), expected.x87.status.into(), seen.x87.status.into());
    note("x87 tag".into(), expected.x87.tag.into(), seen.x87.tag.into());
    text
}

/// Runs instructions on both sides and compares: what differs, or the exit that kept the interpreter from the end.
fn compare(
    rig: &mut Rig,
    instructions: &[Instruction],
    random: &mut Random,
    undefined: u64,
) -> Result<String, Exit> {
    let mut code = Vec::new();
    for instruction in instructions {
        match encode(instruction, CODE + CODE_OFFSET + code.len() as u64) {
            Some(bytes) => code.extend(bytes),
            None => return Ok(String::new()),
        }
    }
    let mut before = random_state(random);
    if instructions[0].mnemonic() == Mnemonic::Maskmovdqu {
        // With nothing chosen, some processors fault on a bad address and some do not.
        before.gpr[RDI] = DATA + 64;
    }
    let mut data = vec![0; PAGE_SIZE as usize];
    for chunk in data.chunks_exact_mut(16) {
        chunk.copy_from_slice(&random.vector().to_le_bytes());
    }
    let [(mut expected, expected_data), (mut seen, seen_data)] = rig.run(&code, &before, &data)?;
    hide(&mut expected, undefined);
    hide(&mut seen, undefined);
    let mut text = differences(&expected, &seen);
    if let Some(at) = (0..data.len()).find(|at| expected_data[*at] != seen_data[*at]) {
        text +=
            &format!("  data {at:x}: processor {:x}, interpreter {:x}\n", expected_data[at], seen_data[at]);
    }
    if text.is_empty() {
        return Ok(text);
    }
    let names: Vec<String> = instructions.iter().map(|i| format!("{:?}", i.code())).collect();
    let gpr = &before.gpr;
    Ok(format!("{names:?} {code:02x?} from {gpr:x?} {:x} {:x?}\n{text}", before.flags, &before.xmm))
}

/// How often each form is tried.
const ROUNDS: usize = 100;

#[test]
fn every_instruction_form_does_what_the_processor_does() {
    let _alone = NATIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut rig = Rig::new();
    let mut missing = Vec::new();
    let mut never = Vec::new();
    let mut wrong = Vec::new();
    let (mut forms, mut runs) = (0, 0);
    for code in Code::values().filter(|code| in_scope(*code)) {
        let mut random = Random(code as u64 + 1);
        let Some(first) = instance(code, &mut random) else { continue };
        if untestable(&first) || first.flow_control() != FlowControl::Next {
            continue;
        }
        let (mut done, mut last) = (0, None);
        for _ in 0..ROUNDS {
            let Some(instruction) = instance(code, &mut random) else { continue };
            let undefined = flag_bits(instruction.rflags_undefined());
            match compare(&mut rig, &[instruction], &mut random, undefined) {
                Ok(text) if text.is_empty() => done += 1,
                Ok(text) => {
                    wrong.push(text);
                    done += 1;
                    break;
                }
                Err(Exit::Illegal) => {
                    missing.push(code);
                    done += 1;
                    break;
                }
                Err(exit) => last = Some(exit),
            }
        }
        if done == 0 {
            never.push((code, last));
        }
        forms += 1;
        runs += done;
    }
    assert!(wrong.is_empty(), "{} forms differ:\n{}", wrong.len(), wrong.concat());
    assert!(forms > 900 && runs > 50_000, "{forms} forms, {runs} runs");
    assert!(
        missing.is_empty() && never.is_empty(),
        "not executed: {missing:?}\nalways an exception: {never:?}"
    );
}

#[test]
fn sequences_do_what_the_processor_does() {
    let _alone = NATIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut rig = Rig::new();
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
    assert!(common.len() > 250 && comparisons.len() > 20 && jumps.len() == 32);
    let mut random = Random(99);
    let (mut done, mut branches) = (0, 0);
    for _ in 0..30_000 {
        let (instructions, undefined) = sequence(&mut random, &common, &comparisons, &jumps);
        if let Ok(text) = compare(&mut rig, &instructions, &mut random, undefined) {
            assert!(text.is_empty(), "{text}");
            done += 1;
            branches += usize::from(instructions.iter().any(Instruction::is_jcc_short_or_near));
        }
    }
    assert!(done > 10_000 && branches > 3_000, "{done} ran, {branches} with branches");
}

#[test]
fn random_bytes_never_break_the_interpreter() {
    let memory = GuestMemory::reserve().expect("address space");
    for page in [CODE, DATA] {
        memory.map_anonymous(page, PAGE_SIZE, Protection::ReadWrite).expect("a free page");
    }
    let mut random = Random(5);
    let stop = AtomicU8::new(0);
    let mut illegal = 0;
    for _ in 0..4_000 {
        let mut interpreter = Interpreter::new(SharedCode::new());
        let bytes: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
        memory.fill(CODE, 0xcc, PAGE_SIZE as usize).expect("mapped");
        memory.write(CODE + CODE_OFFSET, &bytes).expect("mapped");
        let mut cpu = random_state(&mut random);
        cpu.rip = CODE + CODE_OFFSET;
        // Loops that the bytes happen to make end through the trap flag.
        for _ in 0..40 {
            cpu.flags |= flag::TF;
            let exit = interpreter.run(&mut cpu, &memory, &Map, &stop);
            illegal += usize::from(exit == Exit::Illegal);
            if exit != Exit::Step {
                break;
            }
        }
    }
    assert!(illegal > 100, "{illegal}");
}
