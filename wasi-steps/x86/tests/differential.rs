//! The interpreter against the processor it runs on.
//!
//! For every instruction form that x86-64-v2 has, random operands and registers go through the host's processor and
//! through the interpreter; registers, flags where they are defined, SSE and x87 state and memory must agree. The code
//! and the data lie at the same addresses on both sides.
#![allow(unsafe_code, reason = "test code is executed natively on a page outside the guest")]

use std::sync::Mutex;
use std::sync::atomic::AtomicU8;

use cooper_x86::code::{CodeMap, CodeRange, CodeSource, SharedCode};
use cooper_x86::interpreter::{Exit, Interpreter};
use cooper_x86::memory::{GuestMemory, PAGE_SIZE, Protection};
use cooper_x86::state::{CpuState, FLAGS_INITIAL, MXCSR_INITIAL, flag, register::*};
use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, FlowControl, Instruction, MemoryOperand, Mnemonic,
    OpCodeOperandKind, OpKind, Register,
};

/// Where the instructions under test lie, natively behind the code that loads the registers.
const CODE: u64 = 0x5000_0000;
const CODE_OFFSET: u64 = 0x400;
const DATA: u64 = 0x6000_0000;
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

/// A reproducible source of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that is often at an edge.
    fn integer(&mut self) -> u64 {
        let edges =
            [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
        match self.below(8) {
            0 => self.pick(&edges),
            1 => self.pick(&edges).wrapping_neg(),
            2 => self.pick(&[i64::MAX as u64, i64::MIN as u64, u64::MAX]),
            3 => self.below(70),
            4 => self.next() >> 32,
            5 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }

    /// An 80-bit number, mostly of usual size.
    fn extended(&mut self) -> u128 {
        let significand = match self.below(4) {
            0 => 1 << 63,
            1 => self.next() >> 60 << 60 | 1 << 63,
            _ => self.next() | 1 << 63,
        };
        let exponent: u64 = match self.below(8) {
            0 => return 0,
            1 => 0x7fff,
            2 => self.next() & 0x7fff,
            3 => return u128::from(self.next() & 0xffff) << 64 | u128::from(self.next()),
            _ => 0x3fff - 20 + self.below(60),
        };
        u128::from(exponent | (self.next() & 1) << 15) << 64 | u128::from(significand)
    }

    /// Sixteen bytes, often floating-point numbers of usual size.
    fn vector(&mut self) -> u128 {
        let singles = [0.0_f32, -0.0, 1.0, -1.5, f32::NAN, f32::INFINITY, 1e-40, 3.4e38, 2.5, 1e10];
        let doubles = [0.0_f64, -0.0, 1.0, -1.5, f64::NAN, f64::INFINITY, 1e-310, 1.7e308, 2.5, 1e19];
        match self.below(5) {
            0 => (0..4).fold(0, |all, _| all << 32 | u128::from(self.pick(&singles).to_bits())),
            1 => (0..2).fold(0, |all, _| all << 64 | u128::from(self.pick(&doubles).to_bits())),
            2 => (0..2).fold(0, |all, _| {
                let value = self.next() as i32 as f64 / 7.0;
                all << 64 | u128::from(value.to_bits())
            }),
            3 => (0..2).fold(0, |all, _| all << 64 | u128::from(self.integer())),
            _ => u128::from(self.next()) << 64 | u128::from(self.next()),
        }
    }
}

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

const GENERAL: [Register; 14] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RBP,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// A general register of a size; RSP and RSI keep their meaning.
fn general(random: &mut Random, size: usize) -> Register {
    use Register as R;
    let full = random.pick(&GENERAL);
    match size {
        1 if random.below(8) == 0 => random.pick(&[R::AH, R::BH, R::CH, R::DH]),
        1 => random.pick(&[R::AL, R::CL, R::DL, R::BL, R::BPL, R::DIL, R::R8L, R::R9L, R::R13L, R::R15L]),
        2 => full.full_register32().info().full_register32().number_register(R::AX),
        4 => full.full_register32(),
        _ => full,
    }
}

trait NumberRegister {
    fn number_register(self, base: Register) -> Register;
}

impl NumberRegister for Register {
    fn number_register(self, base: Register) -> Register {
        base + self.number() as u32
    }
}

fn memory_operand(random: &mut Random) -> MemoryOperand {
    // Half of the operands are aligned.
    let displacement = match random.below(2) {
        0 => random.below(16) as i64 * 16 - 128,
        _ => random.below(256) as i64 - 128,
    };
    match random.below(4) {
        0 => {
            MemoryOperand::with_base_index_scale_displ_size(Register::RSI, Register::R15, 2, displacement, 1)
        }
        1 => MemoryOperand::with_base_displ(Register::None, (DATA as i64) + 2048 + displacement),
        _ => MemoryOperand::with_base_displ(Register::RSI, displacement),
    }
}

/// An instruction of this form with random operands; `None` for forms that cannot be tested alone.
fn instance(code: Code, random: &mut Random) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let memory = memory_operand(random);
    for n in 0..info.op_count() {
        let register = match info.op_kind(n) {
            K::r8_reg | K::r8_opcode => general(random, 1),
            K::r16_reg | K::r16_rm | K::r16_opcode => general(random, 2),
            K::r32_reg | K::r32_rm | K::r32_opcode => general(random, 4),
            K::r64_reg | K::r64_rm | K::r64_opcode => general(random, 8),
            K::xmm_reg | K::xmm_rm => Register::XMM0 + random.below(16) as u32,
            K::mm_reg | K::mm_rm => Register::MM0 + random.below(8) as u32,
            K::sti_opcode => Register::ST0 + random.below(8) as u32,
            K::st0 => Register::ST0,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            kind @ (K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::xmm_or_mem
            | K::mm_or_mem) => {
                if random.below(2) == 0 {
                    Register::None
                } else {
                    match kind {
                        K::r8_or_mem => general(random, 1),
                        K::r16_or_mem => general(random, 2),
                        K::r32_or_mem => general(random, 4),
                        K::r64_or_mem => general(random, 8),
                        K::mm_or_mem => Register::MM0 + random.below(8) as u32,
                        _ => Register::XMM0 + random.below(16) as u32,
                    }
                }
            }
            K::mem | K::mem_offs => Register::None,
            K::imm8_const_1 => {
                instruction.set_op_kind(n, OpKind::Immediate8);
                instruction.set_immediate8(1);
                continue;
            }
            K::imm8 => {
                let kind = if n + 1 == info.op_count() && code == Code::Enterq_imm16_imm8 {
                    OpKind::Immediate8_2nd
                } else {
                    OpKind::Immediate8
                };
                instruction.set_op_kind(n, kind);
                let value = random.integer() as u8;
                if kind == OpKind::Immediate8 {
                    instruction.set_immediate8(value);
                } else {
                    instruction.set_immediate8_2nd(value & 3);
                }
                continue;
            }
            K::imm8sex16 | K::imm8sex32 | K::imm8sex64 => {
                let (kind, value) = (info.op_kind(n), random.integer() as i8);
                match kind {
                    K::imm8sex16 => {
                        instruction.set_op_kind(n, OpKind::Immediate8to16);
                        instruction.set_immediate8to16(value.into());
                    }
                    K::imm8sex32 => {
                        instruction.set_op_kind(n, OpKind::Immediate8to32);
                        instruction.set_immediate8to32(value.into());
                    }
                    _ => {
                        instruction.set_op_kind(n, OpKind::Immediate8to64);
                        instruction.set_immediate8to64(value.into());
                    }
                }
                continue;
            }
            K::imm16 => {
                instruction.set_op_kind(n, OpKind::Immediate16);
                let value = random.integer() as u16;
                instruction.set_immediate16(if code == Code::Enterq_imm16_imm8 {
                    value & 0x3f
                } else {
                    value
                });
                continue;
            }
            K::imm32 => {
                instruction.set_op_kind(n, OpKind::Immediate32);
                instruction.set_immediate32(random.integer() as u32);
                continue;
            }
            K::imm32sex64 => {
                instruction.set_op_kind(n, OpKind::Immediate32to64);
                instruction.set_immediate32to64((random.integer() as i32).into());
                continue;
            }
            K::imm64 => {
                instruction.set_op_kind(n, OpKind::Immediate64);
                instruction.set_immediate64(random.integer());
                continue;
            }
            K::seg_rSI => {
                instruction.set_op_kind(n, OpKind::MemorySegRSI);
                continue;
            }
            K::es_rDI => {
                instruction.set_op_kind(n, OpKind::MemoryESRDI);
                continue;
            }
            K::seg_rBX_al => {
                instruction.set_op_kind(n, OpKind::Memory);
                instruction.set_memory_base(Register::RBX);
                instruction.set_memory_index(Register::AL);
                continue;
            }
            K::seg_rDI => {
                instruction.set_op_kind(n, OpKind::MemorySegRDI);
                continue;
            }
            _ => return None,
        };
        if register == Register::None {
            instruction.set_op_kind(n, OpKind::Memory);
            instruction.set_memory_base(memory.base);
            instruction.set_memory_index(memory.index);
            instruction.set_memory_index_scale(memory.scale);
            instruction.set_memory_displacement64(memory.displacement as u64);
            instruction.set_memory_displ_size(if memory.base == Register::None { 8 } else { 1 });
            if info.op_kind(n) == K::mem_offs {
                instruction.set_memory_base(Register::None);
                instruction.set_memory_index(Register::None);
                instruction.set_memory_index_scale(1);
                instruction.set_memory_displacement64(DATA + random.below(4000));
            }
            if memory.base == Register::None && code.op_code().op_kind(n) != K::mem_offs {
                instruction.set_memory_displ_size(8);
            }
        } else {
            instruction.set_op_kind(n, OpKind::Register);
            instruction.set_op_register(n, register);
        }
    }
    if info.can_use_lock_prefix() && instruction.op0_kind() == OpKind::Memory && random.below(3) == 0 {
        instruction.set_has_lock_prefix(true);
    }
    if instruction.is_string_instruction() && random.below(3) != 0 {
        instruction.set_has_rep_prefix(random.below(2) == 0);
        instruction.set_has_repne_prefix(!instruction.has_rep_prefix());
    }
    Some(instruction)
}

/// The features of x86-64-v2 and what came before.
fn in_scope(code: Code) -> bool {
    use CpuidFeature as F;
    code.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::MMX
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::POPCNT
                | F::FPU
                | F::FPU287
                | F::FPU387
                | F::MULTIBYTENOP
                | F::PAUSE
                | F::FXSR
                | F::CLFSH
        )
    })
}

/// Forms whose result is not a function of the state, or that need more than the state.
fn untestable(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let info = instruction.op_code();
    if !info.mode64() || info.encoding() != EncodingKind::Legacy || info.is_privileged() {
        return true;
    }
    matches!(
        instruction.mnemonic(),
        M::Rdtsc
            | M::Rdtscp
            | M::Cpuid
            | M::Popf
            | M::Popfq
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Fldenv
            | M::Frstor
            | M::Fnstenv
            | M::Fnsave
            | M::Fstenv
            | M::Fsave
            | M::Ldmxcsr
            | M::Maskmovq
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::In
            | M::Out
            | M::Lss
            | M::Lfs
            | M::Lgs
            | M::Hlt
            | M::Cli
            | M::Sti
            | M::Pushf
            | M::Pushfq
            | M::Loadall
            | M::Storeall
            | M::Umov
            | M::Ud0
            | M::Ud1
            | M::Ud2
            | M::Bndmov
            | M::Reservednop
    ) || matches!(
        instruction.code(),
        // An undocumented relative of FSTP, and undefined results.
        Code::Fstpnce_sti
            | Code::Bswap_r16
            | Code::Shld_rm16_r16_imm8
            | Code::Shld_rm16_r16_CL
            | Code::Shrd_rm16_r16_imm8
            | Code::Shrd_rm16_r16_CL
    ) || instruction.op_register(0).is_segment_register()
        || instruction.op_register(1).is_segment_register()
}

fn encode(instruction: &Instruction, at: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, at).ok()?;
    Some(encoder.take_buffer())
}

fn random_state(random: &mut Random) -> CpuState {
    let mut state = CpuState::at_entry(0, 0);
    for value in &mut state.gpr {
        *value = random.integer();
    }
    if random.below(4) != 0 {
        // Counts of string instructions, addresses in the data.
        state.gpr[RCX] = random.below(24);
        state.gpr[RDI] = DATA + 1024 + random.below(64);
    }
    state.gpr[RBX] = if random.below(2) == 0 { DATA + 512 } else { state.gpr[RBX] };
    state.gpr[R15] = random.below(32);
    state.gpr[RSI] = DATA + 2048;
    state.gpr[RSP] = DATA + 3072;
    state.gpr[RBP] = if random.below(2) == 0 { DATA + 3200 } else { state.gpr[RBP] };
    state.flags =
        FLAGS_INITIAL | random.next() & flag::ARITHMETIC | if random.below(8) == 0 { flag::DF } else { 0 };
    for value in &mut state.xmm {
        *value = random.vector();
    }
    for value in &mut state.x87.registers {
        *value = random.extended();
    }
    state.x87.tag = if random.below(3) == 0 { random.next() as u8 } else { 0xff >> random.below(4) };
    state.x87.status = (random.below(8) as u16) << 11;
    state.x87.control = 0x7f | (random.pick(&[0_u16, 2, 3]) << 8) | (random.below(4) as u16) << 10;
    state.mxcsr = MXCSR_INITIAL | if random.below(3) == 0 { random.next() as u32 & 0xe040 } else { 0 };
    state
}

/// The RFLAGS bits that iced names.
fn flag_bits(flags: u32) -> u64 {
    use iced_x86::RflagsBits as B;
    [
        (B::CF, flag::CF),
        (B::PF, flag::PF),
        (B::AF, flag::AF),
        (B::ZF, flag::ZF),
        (B::SF, flag::SF),
        (B::OF, flag::OF),
    ]
    .iter()
    .filter(|(bit, _)| flags & bit != 0)
    .fold(0, |all, (_, bit)| all | bit)
}

fn hide(state: &mut CpuState, undefined: u64) {
    state.flags &= !undefined & !(1 << 16);
    state.x87.opcode = 0;
    state.x87.instruction = 0;
    state.x87.operand = 0;
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

/// Instructions that programs are mostly made of.
fn is_common(code: Code) -> bool {
    use Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Lea
            | M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Shl
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Imul
            | M::Bt
            | M::Cdqe
            | M::Cqo
            | M::Xchg
            | M::Nop
            | M::Bswap
            | M::Movd
            | M::Movq
            | M::Pxor
            | M::Movups
            | M::Pcmpeqb
            | M::Pmovmskb
            | M::Ucomisd
            | M::Popcnt
    ) || code.condition_code() as u8 != 0 && code.op_code().op_count() > 0 && !code.is_jcc_short_or_near()
}

/// Comparisons, which are fused with the branch behind them.
fn is_comparison(code: Code) -> bool {
    matches!(code.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
}

/// A run of instructions, with the flags that are undefined behind it.
fn sequence(
    random: &mut Random,
    common: &[Code],
    comparisons: &[Code],
    jumps: &[Code],
) -> (Vec<Instruction>, u64) {
    let mut instructions = Vec::new();
    let mut undefined = 0;
    let length = 2 + random.below(8);
    while (instructions.len() as u64) < length {
        let branches = random.below(4) == 0;
        let code = if branches { random.pick(comparisons) } else { random.pick(common) };
        let Some(instruction) = instance(code, random) else { continue };
        if flag_bits(instruction.rflags_read()) & undefined != 0 || untestable(&instruction) {
            continue;
        }
        let written = flag_bits(instruction.rflags_modified()) & !flag_bits(instruction.rflags_undefined());
        // A shift may be by nothing, and then writes nothing.
        let written =
            if instruction.op1_kind() == OpKind::Immediate8 || instruction.op1_register() == Register::CL {
                0
            } else {
                written
            };
        undefined = undefined & !written | flag_bits(instruction.rflags_undefined());
        instructions.push(instruction);
        if !branches {
            continue;
        }
        // A jump over an instruction of four bytes: lea rbx, [rbx + 1].
        let jump = random.pick(jumps);
        let mut probe = Instruction::with_branch(jump, 0).expect("a jump");
        if flag_bits(probe.rflags_read()) & undefined != 0 {
            continue;
        }
        let at = instructions
            .iter()
            .fold(CODE + CODE_OFFSET, |at, i| at + encode(i, at).map_or(0, |bytes| bytes.len() as u64));
        let size = if format!("{jump:?}").contains("rel8") { 2 } else { 6 };
        probe.set_near_branch64(at + size + 4);
        instructions.push(probe);
        let skipped = MemoryOperand::with_base_displ(Register::RBX, 1);
        instructions
            .push(Instruction::with2(Code::Lea_r64_m, Register::RBX, skipped).expect("an instruction"));
    }
    (instructions, undefined)
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
