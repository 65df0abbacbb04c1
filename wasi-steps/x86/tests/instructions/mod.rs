//! Random instructions, operands and states, for every instruction form of x86-64-v2.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "every test uses a part"
)]

use cooper_x86::state::{CpuState, FLAGS_INITIAL, MXCSR_INITIAL, flag, register::*};
use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, Instruction, MemoryOperand, Mnemonic, OpCodeOperandKind,
    OpKind, Register,
};

/// Where the instructions under test lie, natively behind the code that loads the registers.
pub const CODE: u64 = 0x5000_0000;
pub const CODE_OFFSET: u64 = 0x400;
pub const DATA: u64 = 0x6000_0000;

/// A reproducible source of numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that is often at an edge.
    pub fn integer(&mut self) -> u64 {
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
    pub fn extended(&mut self) -> u128 {
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
    pub fn vector(&mut self) -> u128 {
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

pub const GENERAL: [Register; 14] = [
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
pub fn general(random: &mut Random, size: usize) -> Register {
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

pub fn memory_operand(random: &mut Random) -> MemoryOperand {
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
pub fn instance(code: Code, random: &mut Random) -> Option<Instruction> {
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
pub fn in_scope(code: Code) -> bool {
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
pub fn untestable(instruction: &Instruction) -> bool {
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

pub fn encode(instruction: &Instruction, at: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, at).ok()?;
    Some(encoder.take_buffer())
}

pub fn random_state(random: &mut Random) -> CpuState {
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
pub fn flag_bits(flags: u32) -> u64 {
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

pub fn hide(state: &mut CpuState, undefined: u64) {
    state.flags &= !undefined & !(1 << 16);
    state.x87.opcode = 0;
    state.x87.instruction = 0;
    state.x87.operand = 0;
}

/// Instructions that programs are mostly made of.
pub fn is_common(code: Code) -> bool {
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
pub fn is_comparison(code: Code) -> bool {
    matches!(code.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
}

/// A run of instructions, with the flags that are undefined behind it.
pub fn sequence(
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
