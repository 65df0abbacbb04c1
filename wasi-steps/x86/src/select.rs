//! Chooses a handler and packs its operands for each instruction of a block.
//!
//! An instruction in a common form gets a handler specialised for it; every other one goes to the general path. Where
//! nothing can look at the flags that an instruction sets before they are set again, the handler does not compute them.

use iced_x86::{Code, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use crate::alu::mask;
use crate::handlers::*;
use crate::host;
use crate::machine::{BLOCK, FS, GS, ZERO};
use crate::operations::{Handler, Operation};

/// One handler for each operand size.
macro_rules! by_size {
    ($size:expr, |$S:ident| $body:expr) => {
        match $size {
            1 => by_size!(@1 $S $body),
            2 => by_size!(@2 $S $body),
            4 => by_size!(@4 $S $body),
            _ => by_size!(@8 $S $body),
        }
    };
    (@$value:literal $S:ident $body:expr) => {{
        const $S: usize = $value;
        ($body) as Handler
    }};
}

/// One handler for each operand size with a register's upper part cleared: four and eight bytes.
macro_rules! by_wide_size {
    ($size:expr, |$S:ident| $body:expr) => {
        match $size {
            4 => by_size!(@4 $S $body),
            8 => by_size!(@8 $S $body),
            _ => return None,
        }
    };
}

macro_rules! by_flag {
    ($flag:expr, |$F:ident| $body:expr) => {
        if $flag {
            const $F: bool = true;
            ($body) as Handler
        } else {
            const $F: bool = false;
            ($body) as Handler
        }
    };
}

/// One handler for each of some numbers.
macro_rules! by_number {
    ($number:expr, $type:ty, [$($value:literal),*], |$O:ident| $body:expr) => {
        match $number {
            $($value => {
                const $O: $type = $value;
                ($body) as Handler
            })*
            _ => return None,
        }
    };
}

macro_rules! by_condition {
    ($code:expr, |$C:ident| $body:expr) => {
        by_number!($code, u8, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], |$C| $body)
    };
}

macro_rules! by_operation {
    ($number:expr, |$O:ident| $body:expr) => {
        by_number!($number, usize, [0, 1, 2, 3, 4, 5, 6, 7], |$O| $body)
    };
}

/// Which operands an instruction has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    RegisterRegister,
    RegisterImmediate,
    RegisterMemory,
    MemoryRegister,
    MemoryImmediate,
    Register,
    Memory,
}

fn blank(handler: Handler, offset: u64) -> Operation {
    Operation {
        handler,
        a: 0,
        b: 0,
        base: ZERO,
        index: ZERO,
        scale: 0,
        c: 0,
        offset: offset as u16,
        displacement: 0,
        immediate: 0,
    }
}

/// Chooses operations for a run of instructions; those of the general path go to the second list.
pub(crate) fn select(instructions: &[Instruction]) -> (Box<[Operation]>, Box<[Instruction]>) {
    let live = live_flags(instructions);
    let mut operations: Vec<Operation> = Vec::with_capacity(instructions.len() + 1);
    let mut general = Vec::new();
    for (at, instruction) in instructions.iter().enumerate() {
        if is_nothing(instruction) {
            continue;
        }
        if let Some(float) = choose_float(instruction, general.len(), operations.len()) {
            general.push(*instruction);
            operations.push(float);
            continue;
        }
        if let Some(mut operation) = choose(instruction, live[at]) {
            operation.offset = instruction.ip() as u16;
            if let Some(last) = operations.last_mut()
                && at > 0
                && instructions[at - 1].ip() == u64::from(last.offset)
                && let Some(handler) = fuse(&instructions[at - 1], instruction)
            {
                last.handler = handler;
            }
            operations.push(operation);
            continue;
        }
        let mut operation = blank(general_path, instruction.ip());
        operation.immediate = general.len() as i32;
        operation.displacement = operations.len() as i32 + 1;
        general.push(*instruction);
        operations.push(operation);
    }
    if let Some(last) = instructions.last()
        && last.flow_control() == FlowControl::Next
    {
        let mut operation = blank(fall_through, last.ip());
        operation.immediate = last.next_ip() as i32;
        operations.push(operation);
    }
    (operations.into(), general.into())
}

/// Instructions that need no operation at all.
fn is_nothing(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64) && !instruction.has_lock_prefix()
}

const ALL_FLAGS: u32 =
    RflagsBits::CF | RflagsBits::PF | RflagsBits::AF | RflagsBits::ZF | RflagsBits::SF | RflagsBits::OF;

/// For each instruction, whether anything can see the flags it sets.
fn live_flags(instructions: &[Instruction]) -> Vec<bool> {
    let mut live = ALL_FLAGS;
    let mut result: Vec<bool> = instructions
        .iter()
        .rev()
        .map(|instruction| {
            let written = instruction.rflags_modified();
            let seen = live & written != 0;
            live = live & !written | instruction.rflags_read();
            if !is_pure(instruction) {
                // It may fault, and then the flags from before are seen.
                live = ALL_FLAGS;
            }
            seen
        })
        .collect();
    result.reverse();
    result
}

/// Whether an instruction surely goes on to the next one, and always sets its flags.
fn is_pure(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let registers = (0..instruction.op_count())
        .all(|n| !matches!(instruction.op_kind(n), OpKind::Memory) || instruction.mnemonic() == M::Lea);
    registers
        && matches!(
            instruction.mnemonic(),
            M::Mov
                | M::Movzx
                | M::Movsx
                | M::Movsxd
                | M::Lea
                | M::Add
                | M::Or
                | M::And
                | M::Sub
                | M::Xor
                | M::Cmp
                | M::Test
                | M::Inc
                | M::Dec
                | M::Neg
                | M::Not
                | M::Imul
                | M::Bswap
                | M::Cdqe
                | M::Cwde
                | M::Cdq
                | M::Cqo
                | M::Nop
        ) | is_pure_shift(instruction)
}

fn is_pure_shift(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Shl | M::Shr | M::Sar)
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Immediate8
        && immediate_count(instruction).is_some()
}

/// A shift count that is neither nothing nor more than the operand.
fn immediate_count(instruction: &Instruction) -> Option<u8> {
    let size = instruction.op0_register().size();
    let count = instruction.immediate8() & if size == 8 { 63 } else { 31 };
    (count > 0 && usize::from(count) < 8 * size).then_some(count)
}

/// Index and size of a register whose bytes begin at the lowest; `ah` and its like have no handlers.
fn plain_register(register: Register) -> Option<(u8, usize)> {
    if register.is_gpr8() {
        let index = register as u32 - Register::AL as u32;
        return match index {
            0..=3 => Some((index as u8, 1)),
            4..=7 => None,
            _ => Some((index as u8 - 4, 1)),
        };
    }
    register.is_gpr().then(|| (register.number() as u8, register.size()))
}

/// Packs the memory operand.
fn pack_memory(instruction: &Instruction, operation: &mut Operation) -> Option<()> {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    operation.base = match base {
        Register::None => ZERO,
        Register::RIP => BLOCK,
        base if base.is_gpr64() => base.number() as u8,
        _ => return None,
    };
    operation.index = match index {
        Register::None => ZERO,
        index if index.is_gpr64() => index.number() as u8,
        _ => return None,
    };
    if base == Register::None && index == Register::None && instruction.memory_displ_size() == 4 {
        // A 32-bit address size, unless the displacement is positive: then it is the same.
        if (instruction.memory_displacement64() as i64) < 0 {
            return None;
        }
    }
    operation.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    operation.displacement = i32::try_from(instruction.memory_displacement64() as i64).ok()?;
    let segment = match instruction.segment_prefix() {
        Register::FS => FS,
        Register::GS => GS,
        _ => return Some(()),
    };
    if instruction.mnemonic() == Mnemonic::Lea {
        return Some(());
    }
    if index != Register::None {
        return None;
    }
    operation.index = segment;
    operation.scale = 0;
    Some(())
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate32to64
    )
}

/// Packs one or two operands of general registers, memory and immediates; the form and the size of the first.
fn pack(instruction: &Instruction, operation: &mut Operation) -> Option<(Form, usize)> {
    let immediate = |n: u32, size: usize| {
        let value = instruction.try_immediate(n).ok()?;
        // The handler extends the sign and cuts to the operand's size.
        let value =
            if size == 8 { i32::try_from(value as i64).ok()? } else { (value & mask(size)) as u32 as i32 };
        Some(value)
    };
    let kinds = (instruction.op0_kind(), instruction.op1_kind());
    match (kinds, instruction.op_count()) {
        ((OpKind::Register, _), 1) => {
            let (a, size) = plain_register(instruction.op0_register())?;
            operation.a = a;
            Some((Form::Register, size))
        }
        ((OpKind::Memory, _), 1) => {
            pack_memory(instruction, operation)?;
            Some((Form::Memory, instruction.memory_size().size()))
        }
        ((OpKind::Register, OpKind::Register), _) => {
            let (a, size) = plain_register(instruction.op0_register())?;
            (operation.a, operation.b) = (a, plain_register(instruction.op1_register())?.0);
            Some((Form::RegisterRegister, size))
        }
        ((OpKind::Register, OpKind::Memory), _) => {
            let (a, size) = plain_register(instruction.op0_register())?;
            operation.a = a;
            pack_memory(instruction, operation)?;
            Some((Form::RegisterMemory, size))
        }
        ((OpKind::Memory, OpKind::Register), _) => {
            let (b, size) = plain_register(instruction.op1_register())?;
            operation.b = b;
            pack_memory(instruction, operation)?;
            Some((Form::MemoryRegister, size))
        }
        ((OpKind::Register, kind), _) if is_immediate(kind) => {
            let (a, size) = plain_register(instruction.op0_register())?;
            (operation.a, operation.immediate) = (a, immediate(1, size)?);
            Some((Form::RegisterImmediate, size))
        }
        ((OpKind::Memory, kind), _) if is_immediate(kind) => {
            pack_memory(instruction, operation)?;
            let size = instruction.memory_size().size();
            operation.immediate = immediate(1, size)?;
            Some((Form::MemoryImmediate, size))
        }
        _ => None,
    }
}

/// A floating-point instruction: it keeps a place in the general list for programs that unmask exceptions.
fn choose_float(i: &Instruction, general: usize, at: usize) -> Option<Operation> {
    if i.encoding() != EncodingKind::Legacy || !host::supported() {
        return None;
    }
    let mut op = choose_float_vector(i).or_else(|| choose_float_scalar(i))?;
    op.offset = i.ip() as u16;
    op.immediate = i32::try_from(general).ok()?;
    op.c = u8::try_from(at + 1).ok()?;
    Some(op)
}

fn choose_float_vector(i: &Instruction) -> Option<Operation> {
    let (mut op, size) = vector_operands(i)?;
    op.handler = float_vector(i.mnemonic(), size)?;
    Some(op)
}

/// Conversions and comparisons.
fn choose_float_scalar(i: &Instruction) -> Option<Operation> {
    use Mnemonic as M;
    let mut op = blank(general_path, 0);
    let from_register = i.op1_kind() == OpKind::Register;
    let double = matches!(i.mnemonic(), M::Cvtsi2sd | M::Comisd | M::Ucomisd);
    op.handler = match i.mnemonic() {
        M::Cvtsi2ss | M::Cvtsi2sd => {
            let size = source_size(i);
            if from_register {
                op.b = plain_register(i.op1_register())?.0;
            }
            by_flag!(from_register, |R| by_flag!(double, |D| by_wide_size!(
                size,
                |S| from_integer::<S, D, R>
            )))
        }
        M::Cvttsd2si => {
            let (a, size) = plain_register(i.op0_register())?;
            (op.a, op.b) = (a, vector_index(i.op1_register()));
            by_flag!(from_register, |R| by_wide_size!(size, |S| truncate_double::<S, R>))
        }
        M::Comiss | M::Comisd | M::Ucomiss | M::Ucomisd => {
            op.b = vector_index(i.op1_register());
            let signals = matches!(i.mnemonic(), M::Comiss | M::Comisd);
            let size = if double { 8 } else { 4 };
            by_flag!(from_register, |R| by_flag!(signals, |G| by_wide_size!(size, |S| compare_scalar::<
                S,
                G,
                R,
            >)))
        }
        _ => return None,
    };
    if i.op0_register().is_xmm() {
        op.a = vector_index(i.op0_register());
    }
    if !from_register {
        pack_memory(i, &mut op)?;
    }
    Some(op)
}

/// Two vector operands, and how many bytes the second has in memory: 0 for a register.
fn vector_operands(i: &Instruction) -> Option<(Operation, usize)> {
    let mut op = blank(general_path, 0);
    if !i.op0_register().is_xmm() || i.op_count() != 2 {
        return None;
    }
    op.a = vector_index(i.op0_register());
    match i.op1_kind() {
        OpKind::Register if i.op1_register().is_xmm() => {
            op.b = vector_index(i.op1_register());
            Some((op, 0))
        }
        OpKind::Memory => {
            pack_memory(i, &mut op)?;
            Some((op, i.memory_size().size()))
        }
        _ => None,
    }
}

/// An operation with a handler of its own; `live` says whether its flags are seen.
fn choose(i: &Instruction, live: bool) -> Option<Operation> {
    if i.encoding() != EncodingKind::Legacy {
        return None;
    }
    if let Some(operation) = choose_locked(i) {
        return Some(operation);
    }
    if i.has_lock_prefix() {
        return None;
    }
    if let Some(operation) = choose_high_byte(i).or_else(|| choose_vector(i)) {
        return Some(operation);
    }
    if i.op_count() > 0 && (i.op0_register().is_xmm() || i.op1_register().is_xmm()) {
        return None;
    }
    choose_data(i, live).or_else(|| choose_arithmetic(i, live)).or_else(|| choose_control(i))
}

/// Atomic exchanges with memory, of 4 or 8 bytes.
fn choose_locked(i: &Instruction) -> Option<Operation> {
    use Mnemonic as M;
    if i.op0_kind() != OpKind::Memory || !matches!(i.mnemonic(), M::Cmpxchg | M::Xadd) {
        return None;
    }
    let mut op = blank(general_path, 0);
    let (_, size) = pack(i, &mut op)?;
    op.handler = match i.mnemonic() {
        M::Cmpxchg => by_wide_size!(size, |S| cmpxchg_mr::<S, true>),
        _ => by_wide_size!(size, |S| xadd_mr::<S, true>),
    };
    Some(op)
}

/// The index of `ah`, `ch`, `dh` or `bh`.
fn high_register(register: Register) -> Option<u8> {
    [Register::AH, Register::CH, Register::DH, Register::BH]
        .iter()
        .position(|entry| *entry == register)
        .map(|index| index as u8)
}

/// The forms with `ah` to `bh` that compilers emit.
fn choose_high_byte(i: &Instruction) -> Option<Operation> {
    let mut op = blank(general_path, 0);
    if i.mnemonic() == Mnemonic::Movzx {
        op.b = high_register(i.op1_register())?;
        let (a, size) = plain_register(i.op0_register())?;
        op.a = a;
        op.handler = movzx_high;
        return (size >= 4).then_some(op);
    }
    op.a = high_register(i.op0_register())?;
    if i.op_count() != 2 || i.op1_kind() != OpKind::Immediate8 {
        return None;
    }
    op.immediate = i.immediate8().into();
    op.handler = match i.mnemonic() {
        Mnemonic::Test => alu_high_i::<0, true>,
        mnemonic => by_operation!(binary_number(mnemonic)?, |O| alu_high_i::<O, false>),
    };
    Some(op)
}

/// Moves, the stack and conditions.
fn choose_data(i: &Instruction, live: bool) -> Option<Operation> {
    use Form as F;
    use Mnemonic as M;
    let mut op = blank(general_path, 0);
    let code = i.condition_code() as u8;
    op.handler = match i.mnemonic() {
        M::Mov if i.op1_kind() == OpKind::Immediate64 => {
            op.a = plain_register(i.op0_register())?.0;
            let value = i.immediate64();
            (op.displacement, op.immediate) = ((value >> 32) as i32, value as i32);
            mov_ri_wide
        }
        M::Mov => match pack(i, &mut op)? {
            (F::RegisterRegister, size) => by_size!(size, |S| mov_rr::<S>),
            (F::RegisterImmediate, size) => by_size!(size, |S| mov_ri::<S>),
            (F::RegisterMemory, size) => by_size!(size, |S| mov_rm::<S, S>),
            (F::MemoryRegister, size) => by_size!(size, |S| mov_mr::<S>),
            (F::MemoryImmediate, size) => by_size!(size, |S| mov_mi::<S>),
            _ => return None,
        },
        M::Movzx => {
            let (form, size) = pack(i, &mut op)?;
            match (form, source_size(i), size) {
                (F::RegisterRegister, 1, 2) => movzx_rr::<1, 2>,
                (F::RegisterRegister, 1, _) => movzx_rr::<1, 8>,
                (F::RegisterRegister, 2, 4 | 8) => movzx_rr::<2, 8>,
                (F::RegisterMemory, 1, 2) => mov_rm::<1, 2>,
                (F::RegisterMemory, 1, _) => mov_rm::<1, 8>,
                (F::RegisterMemory, 2, 4 | 8) => mov_rm::<2, 8>,
                _ => return None,
            }
        }
        M::Movsx | M::Movsxd => {
            let (form, size) = pack(i, &mut op)?;
            match (form, source_size(i)) {
                (F::RegisterRegister, 1) => by_wide_size!(size, |D| movsx_rr::<1, D>),
                (F::RegisterRegister, 2) => by_wide_size!(size, |D| movsx_rr::<2, D>),
                (F::RegisterRegister, 4) => by_wide_size!(size, |D| movsx_rr::<4, D>),
                (F::RegisterMemory, 1) => by_wide_size!(size, |D| movsx_rm::<1, D>),
                (F::RegisterMemory, 2) => by_wide_size!(size, |D| movsx_rm::<2, D>),
                (F::RegisterMemory, 4) => by_wide_size!(size, |D| movsx_rm::<4, D>),
                _ => return None,
            }
        }
        M::Lea => {
            let (_, size) = pack(i, &mut op)?;
            by_wide_size!(size, |D| lea::<D>)
        }
        M::Xchg => match pack(i, &mut op)? {
            (F::RegisterRegister, size) => by_size!(size, |S| xchg_rr::<S>),
            (F::MemoryRegister, size) => by_wide_size!(size, |S| xchg_mr::<S, false>),
            _ => return None,
        },
        M::Push if i.stack_pointer_increment() == -8 => match i.op0_kind() {
            OpKind::Register => {
                let (a, size) = plain_register(i.op0_register())?;
                op.a = a;
                if size != 8 {
                    return None;
                }
                push_r
            }
            OpKind::Memory => {
                pack_memory(i, &mut op)?;
                push_m
            }
            _ => {
                op.immediate = i32::try_from(i.immediate(0) as i64).ok()?;
                push_i
            }
        },
        M::Pop if i.stack_pointer_increment() == 8 && i.op0_kind() == OpKind::Register => {
            op.a = plain_register(i.op0_register())?.0;
            pop_r
        }
        M::Leave if i.code() == Code::Leaveq => leave_frame,
        M::Cbw => widen_rax::<1, false>,
        M::Cwde => widen_rax::<2, false>,
        M::Cdqe => widen_rax::<4, false>,
        M::Cdq => widen_rdx::<4, false>,
        M::Cqo => widen_rdx::<8, false>,
        M::Bsf | M::Tzcnt | M::Bsr | M::Lzcnt => match pack(i, &mut op)? {
            (F::RegisterRegister, size) => by_flag!(live, |L| if matches!(i.mnemonic(), M::Bsf | M::Tzcnt) {
                by_wide_size!(size, |S| scan_rr::<true, S, L>)
            } else {
                by_wide_size!(size, |S| scan_rr::<false, S, L>)
            }),
            _ => return None,
        },
        M::Bswap => {
            let (_, size) = pack(i, &mut op)?;
            by_wide_size!(size, |S| bswap_r::<S, false>)
        }
        M::Bt => match pack(i, &mut op)? {
            (F::RegisterRegister, size) => by_size!(size, |S| bt_rr::<S, true>),
            (F::RegisterImmediate, size) => by_size!(size, |S| bt_ri::<S, true>),
            (F::MemoryImmediate, size) => by_size!(size, |S| bt_mi::<S, true>),
            _ => return None,
        },
        M::Bts | M::Btr | M::Btc => {
            let number = match i.mnemonic() {
                M::Bts => 0,
                M::Btr => 1,
                _ => 2,
            };
            match pack(i, &mut op)? {
                (F::RegisterRegister, size) => {
                    by_wide_size!(size, |S| by_number!(number, u8, [0, 1, 2], |O| change_bit::<O, S, false>))
                }
                (F::RegisterImmediate, size) => {
                    by_wide_size!(size, |S| by_number!(number, u8, [0, 1, 2], |O| change_bit::<O, S, true>))
                }
                _ => return None,
            }
        }
        M::Stosb | M::Stosw | M::Stosd | M::Stosq | M::Movsb | M::Movsw | M::Movsd | M::Movsq
            if i.is_string_instruction() =>
        {
            let plain = |n: u32| {
                matches!(i.op_kind(n), OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::Register)
            };
            let segment = matches!(i.segment_prefix(), Register::FS | Register::GS);
            if i.has_rep_prefix() || i.has_repne_prefix() || segment || !plain(0) || !plain(1) {
                return None;
            }
            let moves = matches!(i.op_kind(1), OpKind::MemorySegRSI);
            by_flag!(moves, |L| by_size!(i.memory_size().size(), |S| string_element::<S, L>))
        }
        _ if code == 0 || i.flow_control() != FlowControl::Next => return None,
        _ => match pack(i, &mut op)? {
            (F::Register, 1) => by_condition!(code - 1, |C| setcc_r::<C>),
            (F::Memory, 1) => by_condition!(code - 1, |C| setcc_m::<C>),
            (F::RegisterRegister, size) => {
                by_wide_size!(size, |S| by_condition!(code - 1, |C| cmov_rr::<C, S>))
            }
            (F::RegisterMemory, size) => {
                by_wide_size!(size, |S| by_condition!(code - 1, |C| cmov_rm::<C, S>))
            }
            _ => return None,
        },
    };
    Some(op)
}

fn source_size(i: &Instruction) -> usize {
    if i.op1_kind() == OpKind::Memory { i.memory_size().size() } else { i.op1_register().size() }
}

/// The number of a binary operation in [`OPERATIONS`].
fn binary_number(mnemonic: Mnemonic) -> Option<usize> {
    use Mnemonic as M;
    [M::Add, M::Or, M::Adc, M::Sbb, M::And, M::Sub, M::Xor, M::Cmp]
        .iter()
        .position(|entry| *entry == mnemonic)
}

fn shift_number(mnemonic: Mnemonic) -> Option<usize> {
    use Mnemonic as M;
    [M::Shl, M::Shr, M::Sar, M::Rol, M::Ror].iter().position(|entry| *entry == mnemonic)
}

/// Arithmetic.
fn choose_arithmetic(i: &Instruction, live: bool) -> Option<Operation> {
    use Form as F;
    use Mnemonic as M;
    let mut op = blank(general_path, 0);
    if let Some(number) = binary_number(i.mnemonic()) {
        let (form, size) = pack(i, &mut op)?;
        op.handler = match form {
            F::RegisterRegister => {
                by_flag!(live, |L| by_size!(size, |S| by_operation!(number, |O| alu_rr::<O, S, L>)))
            }
            F::RegisterImmediate => {
                by_flag!(live, |L| by_size!(size, |S| by_operation!(number, |O| alu_ri::<O, S, L>)))
            }
            F::RegisterMemory => {
                by_flag!(live, |L| by_size!(size, |S| by_operation!(number, |O| alu_rm::<O, S, L>)))
            }
            F::MemoryRegister => by_size!(size, |S| by_operation!(number, |O| alu_mr::<O, S, true>)),
            F::MemoryImmediate => by_size!(size, |S| by_operation!(number, |O| alu_mi::<O, S, true>)),
            _ => return None,
        };
        return Some(op);
    }
    if let Some(number) = shift_number(i.mnemonic()) {
        op.a = plain_register(i.op0_register())?.0;
        let size = i.op0_register().size();
        op.handler = match i.op1_kind() {
            OpKind::Register => {
                by_size!(size, |S| by_number!(number, usize, [0, 1, 2, 3, 4], |O| shift_rc::<O, S, true>))
            }
            _ => {
                op.c = immediate_count(i)?;
                by_flag!(live, |L| by_size!(size, |S| by_number!(number, usize, [0, 1, 2, 3, 4], |O| {
                    shift_ri::<O, S, L>
                })))
            }
        };
        return Some(op);
    }
    op.handler = match i.mnemonic() {
        M::Test => match pack(i, &mut op)? {
            (F::RegisterRegister, size) => by_size!(size, |S| test_rr::<S, true>),
            (F::RegisterImmediate, size) => by_size!(size, |S| test_ri::<S, true>),
            (F::MemoryRegister, size) => by_size!(size, |S| test_mr::<S, true>),
            (F::MemoryImmediate, size) => by_size!(size, |S| test_mi::<S, true>),
            _ => return None,
        },
        M::Inc | M::Dec => {
            let up = i.mnemonic() == M::Inc;
            match pack(i, &mut op)? {
                (F::Register, size) => {
                    by_flag!(up, |U| by_flag!(live, |L| by_size!(size, |S| step_r::<U, S, L>)))
                }
                (F::Memory, size) => by_flag!(up, |U| by_size!(size, |S| step_m::<U, S, true>)),
                _ => return None,
            }
        }
        M::Not => match pack(i, &mut op)? {
            (F::Register, size) => by_size!(size, |S| not_r::<S, false>),
            _ => return None,
        },
        M::Neg => match pack(i, &mut op)? {
            (F::Register, size) => by_flag!(live, |L| by_size!(size, |S| neg_r::<S, L>)),
            _ => return None,
        },
        M::Imul if i.op_count() == 3 => {
            let (form, size) = pack(i, &mut op)?;
            if form != F::RegisterRegister {
                return None;
            }
            // Encoded in at most 32 bits, whose sign the handler extends.
            op.immediate = i.immediate(2) as u32 as i32;
            by_flag!(live, |L| by_wide_size!(size, |S| imul_rri::<S, L>))
        }
        M::Imul if i.op_count() == 2 => match pack(i, &mut op)? {
            (F::RegisterRegister, size) => by_flag!(live, |L| by_wide_size!(size, |S| imul_rr::<S, L>)),
            (F::RegisterMemory, size) => by_flag!(live, |L| by_wide_size!(size, |S| imul_rm::<S, L>)),
            _ => return None,
        },
        M::Mul => match pack(i, &mut op)? {
            (F::Register, size) => by_wide_size!(size, |S| mul_r::<S, true>),
            _ => return None,
        },
        M::Div => match pack(i, &mut op)? {
            (F::Register, size) => by_wide_size!(size, |S| div_r::<S, true>),
            _ => return None,
        },
        M::Idiv => match pack(i, &mut op)? {
            (F::Register, size) => by_wide_size!(size, |S| idiv_r::<S, true>),
            _ => return None,
        },
        _ => return None,
    };
    Some(op)
}

/// Jumps, calls and returns.
fn choose_control(i: &Instruction) -> Option<Operation> {
    use Mnemonic as M;
    let mut op = blank(general_path, 0);
    let target = || i32::try_from(i.near_branch64() as i64).ok();
    let next = i.next_ip() as i32;
    let is_direct = i.op0_kind() == OpKind::NearBranch64;
    op.handler = match i.mnemonic() {
        _ if i.is_jcc_short_or_near() && is_direct => {
            (op.immediate, op.displacement) = (target()?, next);
            by_condition!(i.condition_code() as u8 - 1, |C| jcc::<C>)
        }
        M::Jmp if is_direct => {
            op.immediate = target()?;
            jmp
        }
        M::Call if is_direct => {
            (op.immediate, op.displacement) = (target()?, next);
            call
        }
        M::Jmp | M::Call => {
            let is_jump = i.mnemonic() == M::Jmp;
            op.immediate = next;
            match pack_branch(i, &mut op)? {
                Form::Register if is_jump => jmp_r,
                Form::Register => call_r,
                _ if is_jump => jmp_m,
                _ => call_m,
            }
        }
        M::Ret if i.stack_pointer_increment() >= 8 => {
            op.immediate = i.stack_pointer_increment();
            ret
        }
        _ => return None,
    };
    Some(op)
}

/// The operand of an indirect branch.
fn pack_branch(i: &Instruction, op: &mut Operation) -> Option<Form> {
    match i.code() {
        Code::Jmp_rm64 | Code::Call_rm64 => pack(i, op).map(|(form, _)| form),
        _ => None,
    }
}

/// SSE instructions.
fn choose_vector(i: &Instruction) -> Option<Operation> {
    use Mnemonic as M;
    let mut op = blank(general_path, 0);
    let (first, second) = (i.op0_register(), i.op1_register());
    let registers = first.is_xmm() && second.is_xmm();
    let loads = first.is_xmm() && i.op1_kind() == OpKind::Memory;
    let stores = i.op0_kind() == OpKind::Memory && second.is_xmm();
    (op.a, op.b) = (vector_index(first), vector_index(second));
    if first.is_xmm() && i.op1_kind() == OpKind::Immediate8 && host::supported() {
        let number = vector_shift_number(i.mnemonic())?;
        (op.handler, op.immediate, op.c) = (vector_shift, number as i32, i.immediate8());
        return Some(op);
    }
    if host::supported()
        && let Some((mut op, size)) = vector_operands(i)
        && let Some(handler) = integer_vector(i.mnemonic(), size)
    {
        op.handler = handler;
        return Some(op);
    }
    let size = if i.mnemonic() == M::Movss { 4 } else { 8 };
    op.handler = match i.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa | M::Movups | M::Movupd | M::Movdqu if registers => movups_rr,
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu if loads => movups_rm::<false>,
        M::Movups | M::Movupd | M::Movdqu if stores => movups_mr::<false>,
        M::Movaps | M::Movapd | M::Movdqa if loads => movups_rm::<true>,
        M::Movaps | M::Movapd | M::Movdqa | M::Movntdq | M::Movntps | M::Movntpd if stores => {
            movups_mr::<true>
        }
        M::Movss if registers => mov_part_rr::<0>,
        M::Movsd if registers => mov_part_rr::<1>,
        M::Movlhps if registers => mov_part_rr::<2>,
        M::Movhlps if registers => mov_part_rr::<3>,
        M::Pshufd if registers => {
            op.c = i.immediate8();
            pshufd_rr
        }
        M::Movss | M::Movsd if loads => by_wide_size!(size, |S| movq_xm::<S, false>),
        M::Movss | M::Movsd if stores => by_wide_size!(size, |S| movq_mx::<S, false>),
        M::Movd | M::Movq if loads => by_wide_size!(i.memory_size().size(), |S| movq_xm::<S, false>),
        M::Movd | M::Movq if stores => by_wide_size!(i.memory_size().size(), |S| movq_mx::<S, false>),
        M::Movq if registers => movq_xx,
        M::Movd | M::Movq if first.is_xmm() && second.is_gpr() => {
            op.b = plain_register(second)?.0;
            by_wide_size!(second.size(), |S| movq_xr::<S, false>)
        }
        M::Movd | M::Movq if first.is_gpr() && second.is_xmm() => {
            op.a = plain_register(first)?.0;
            by_wide_size!(first.size(), |S| movq_rx::<S, false>)
        }
        M::Movhps | M::Movhpd if loads => movhps_xm,
        M::Movlps | M::Movlpd if stores => movq_mx::<8, false>,
        M::Pmovmskb if second.is_xmm() => {
            op.a = plain_register(first)?.0;
            pmovmskb
        }
        _ => return None,
    };
    if loads || stores {
        pack_memory(i, &mut op)?;
    }
    Some(op)
}

fn vector_index(register: Register) -> u8 {
    if register.is_xmm() { register.number() as u8 } else { 0 }
}

/// One handler for a comparison and the conditional jump behind it.
fn fuse(first: &Instruction, jump: &Instruction) -> Option<Handler> {
    if !jump.is_jcc_short_or_near() || jump.op0_kind() != OpKind::NearBranch64 {
        return None;
    }
    let code = jump.condition_code() as u8 - 1;
    let (form, size) = pack(first, &mut blank(general_path, 0))?;
    macro_rules! fused {
        ($handler:ident) => {
            match size {
                1 => by_condition!(code, |C| $handler::<C, 1>),
                4 => by_condition!(code, |C| $handler::<C, 4>),
                8 => by_condition!(code, |C| $handler::<C, 8>),
                _ => return None,
            }
        };
    }
    Some(match (first.mnemonic(), form) {
        (Mnemonic::Cmp, Form::RegisterRegister) => fused!(cmp_rr_jcc),
        (Mnemonic::Cmp, Form::RegisterImmediate) => fused!(cmp_ri_jcc),
        (Mnemonic::Cmp, Form::RegisterMemory) => fused!(cmp_rm_jcc),
        (Mnemonic::Cmp, Form::MemoryRegister) => fused!(cmp_mr_jcc),
        (Mnemonic::Cmp, Form::MemoryImmediate) => fused!(cmp_mi_jcc),
        (Mnemonic::Test, Form::RegisterRegister) => fused!(test_rr_jcc),
        (Mnemonic::Test, Form::RegisterImmediate) => fused!(test_ri_jcc),
        (Mnemonic::Test, Form::MemoryImmediate) => fused!(test_mi_jcc),
        _ => return None,
    })
}
