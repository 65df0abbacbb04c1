//! Handlers of the common instructions, one for each form and operand size.
//!
//! Sizes are in bytes and constants, so that the compiler makes a short function of each combination. A handler does
//! all that can fault before it changes anything.

use iced_x86::Mnemonic;

use crate::alu::{self, Binary, Shift, lift, mask, signed};
use crate::flags::{Flags, kind, sign_zero_parity};
use crate::interpreter::Exit;
use crate::machine::{BLOCK, Machine};
use crate::memory::{Access, GuestMemory};
use crate::operations::{Handler, Next, Operation};
use crate::state::{flag, register::*};

/// Leaves the block at an operation.
#[cold]
#[inline(never)]
fn leave(m: &mut Machine, op: &Operation, exit: Exit) -> Next {
    m.exit = exit;
    m.target = m.r[usize::from(BLOCK)].wrapping_add(u64::from(op.offset));
    Next::Exit
}

/// Leaves the block at an operation whose access failed. The handlers end with a call of this, so that they need no
/// stack frame.
#[cold]
#[inline(never)]
fn faulted(m: &mut Machine, op: &Operation, memory: &GuestMemory, address: u64, access: Access) -> Next {
    let fault = memory.failed(address, access);
    leave(m, op, Exit::Fault(fault))
}

/// The loaded value, or the end of the block at this operation.
macro_rules! load {
    ($size:expr, $m:ident, $op:ident, $memory:ident, $address:expr) => {
        load!($size, $m, $op, $memory, $address, Access::Read)
    };
    ($size:expr, $m:ident, $op:ident, $memory:ident, $address:expr, $access:expr) => {{
        let address = $address;
        match try_load::<{ $size }>($memory, address) {
            Some(value) => value,
            None => return faulted($m, $op, $memory, address, $access),
        }
    }};
}

/// Stores, or ends the block at this operation.
macro_rules! store {
    ($size:expr, $m:ident, $op:ident, $memory:ident, $address:expr, $value:expr) => {{
        let address = $address;
        if try_store::<{ $size }>($memory, address, $value).is_none() {
            return faulted($m, $op, $memory, address, Access::Write);
        }
    }};
}

/// Pushes eight bytes, or ends the block at this operation.
macro_rules! push {
    ($m:ident, $op:ident, $memory:ident, $value:expr) => {{
        let stack = $m.r[RSP].wrapping_sub(8);
        store!(8, $m, $op, $memory, stack, $value);
        $m.r[RSP] = stack;
    }};
}

/// Loads 16 bytes, or ends the block at this operation.
macro_rules! load_wide {
    ($aligned:expr, $m:ident, $op:ident, $memory:ident) => {{
        let address = $op.address($m);
        if $aligned && !address.is_multiple_of(16) {
            return leave($m, $op, Exit::GeneralProtection);
        }
        match $memory.try_load::<u128>(address) {
            Some(value) => value,
            None => return faulted($m, $op, $memory, address, Access::Read),
        }
    }};
}

#[inline(always)]
fn reg<const S: usize>(m: &Machine, register: u8) -> u64 {
    m.r[usize::from(register)] & mask(S)
}

#[inline(always)]
fn set_reg<const S: usize>(m: &mut Machine, register: u8, value: u64) {
    let slot = &mut m.r[usize::from(register)];
    *slot = match S {
        8 => value,
        4 => value & mask(4),
        _ => *slot & !mask(S) | value & mask(S),
    };
}

#[inline(always)]
fn try_load<const S: usize>(memory: &GuestMemory, address: u64) -> Option<u64> {
    Some(match S {
        1 => memory.try_load::<u8>(address)?.into(),
        2 => memory.try_load::<u16>(address)?.into(),
        4 => memory.try_load::<u32>(address)?.into(),
        _ => memory.try_load::<u64>(address)?,
    })
}

#[inline(always)]
fn try_store<const S: usize>(memory: &GuestMemory, address: u64, value: u64) -> Option<()> {
    match S {
        1 => memory.try_store(address, value as u8),
        2 => memory.try_store(address, value as u16),
        4 => memory.try_store(address, value as u32),
        _ => memory.try_store(address, value),
    }
}

/// The immediate, as wide as the operand.
#[inline(always)]
fn immediate<const S: usize>(op: &Operation) -> u64 {
    op.immediate as u64 & mask(S)
}

/// Hands an instruction to the general path.
pub(crate) fn general_path(m: &mut Machine, op: &Operation, _: &GuestMemory) -> Next {
    m.general = op.immediate as u32;
    m.resume = op.displacement as u32;
    Next::General
}

/// Ends a block that reached its limit.
pub(crate) fn fall_through(m: &mut Machine, op: &Operation, _: &GuestMemory) -> Next {
    m.target = m.r[usize::from(BLOCK)].wrapping_add(op.immediate as u64);
    Next::Link0
}

// Moves.

pub(crate) fn mov_rr<const S: usize>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let value = reg::<S>(m, op.b);
    set_reg::<S>(m, op.a, value);
    op.next(m, memory)
}

pub(crate) fn mov_ri<const S: usize>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    set_reg::<S>(m, op.a, immediate::<S>(op));
    op.next(m, memory)
}

pub(crate) fn mov_ri_wide(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.r[usize::from(op.a)] = u64::from(op.displacement as u32) << 32 | u64::from(op.immediate as u32);
    op.next(m, memory)
}

/// Loads `S` bytes into a register of `D` bytes; for `D` of 4 and 8 with zeros above.
pub(crate) fn mov_rm<const S: usize, const D: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = load!(S, m, op, memory, op.address(m));
    set_reg::<D>(m, op.a, value);
    op.next(m, memory)
}

pub(crate) fn movzx_rr<const S: usize, const D: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = reg::<S>(m, op.b);
    set_reg::<D>(m, op.a, value);
    op.next(m, memory)
}

pub(crate) fn movsx_rr<const S: usize, const D: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = signed(m.r[usize::from(op.b)], S) as u64;
    set_reg::<D>(m, op.a, value);
    op.next(m, memory)
}

pub(crate) fn movsx_rm<const S: usize, const D: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = load!(S, m, op, memory, op.address(m));
    set_reg::<D>(m, op.a, signed(value, S) as u64);
    op.next(m, memory)
}

pub(crate) fn mov_mr<const S: usize>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    store!(S, m, op, memory, op.address(m), m.r[usize::from(op.b)]);
    op.next(m, memory)
}

pub(crate) fn mov_mi<const S: usize>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    store!(S, m, op, memory, op.address(m), op.immediate as u64);
    op.next(m, memory)
}

pub(crate) fn lea<const D: usize>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let address = op.address(m);
    set_reg::<D>(m, op.a, address);
    op.next(m, memory)
}

pub(crate) fn xchg_rr<const S: usize>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let (a, b) = (reg::<S>(m, op.a), reg::<S>(m, op.b));
    set_reg::<S>(m, op.a, b);
    set_reg::<S>(m, op.b, a);
    op.next(m, memory)
}

// Binary arithmetic: `O` numbers the operation as in [`Binary`], `F` says whether somebody reads the flags.

pub(crate) const OPERATIONS: [Binary; 8] =
    [Binary::Add, Binary::Or, Binary::Adc, Binary::Sbb, Binary::And, Binary::Sub, Binary::Xor, Binary::Cmp];

#[inline(always)]
fn carry_in<const O: usize>(m: &Machine) -> u64 {
    if matches!(OPERATIONS[O], Binary::Adc | Binary::Sbb) { m.flags.carry() } else { 0 }
}

#[inline(always)]
fn set_flags<const O: usize, const S: usize, const F: bool>(m: &mut Machine, a: u64, b: u64, carry: u64) {
    if F {
        m.flags = alu::binary_flags(OPERATIONS[O], a, b, carry, S);
    }
}

#[inline(always)]
fn into_register<const O: usize, const S: usize, const F: bool>(m: &mut Machine, op: &Operation, b: u64) {
    let (a, carry) = (reg::<S>(m, op.a), carry_in::<O>(m));
    if OPERATIONS[O] != Binary::Cmp {
        set_reg::<S>(m, op.a, alu::binary(OPERATIONS[O], a, b, carry, S));
    }
    set_flags::<O, S, F>(m, a, b, carry);
}

pub(crate) fn alu_rr<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let b = reg::<S>(m, op.b);
    into_register::<O, S, F>(m, op, b);
    op.next(m, memory)
}

pub(crate) fn alu_ri<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    into_register::<O, S, F>(m, op, immediate::<S>(op));
    op.next(m, memory)
}

pub(crate) fn alu_rm<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let b = load!(S, m, op, memory, op.address(m));
    into_register::<O, S, F>(m, op, b);
    op.next(m, memory)
}

#[inline(always)]
fn into_memory<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
    b: u64,
) -> Next {
    let address = op.address(m);
    let carry = carry_in::<O>(m);
    let a;
    if OPERATIONS[O] == Binary::Cmp {
        a = load!(S, m, op, memory, address);
    } else {
        a = load!(S, m, op, memory, address, Access::Write);
        store!(S, m, op, memory, address, alu::binary(OPERATIONS[O], a, b, carry, S));
    }
    set_flags::<O, S, F>(m, a, b, carry);
    op.next(m, memory)
}

pub(crate) fn alu_mr<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let b = reg::<S>(m, op.b);
    into_memory::<O, S, F>(m, op, memory, b)
}

pub(crate) fn alu_mi<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    into_memory::<O, S, F>(m, op, memory, immediate::<S>(op))
}

pub(crate) fn test_rr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    m.flags = alu::result_flags(reg::<S>(m, op.a) & reg::<S>(m, op.b), S, 0);
    op.next(m, memory)
}

pub(crate) fn test_ri<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    m.flags = alu::result_flags(reg::<S>(m, op.a) & immediate::<S>(op), S, 0);
    op.next(m, memory)
}

pub(crate) fn test_mr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let a = load!(S, m, op, memory, op.address(m));
    m.flags = alu::result_flags(a & reg::<S>(m, op.b), S, 0);
    op.next(m, memory)
}

pub(crate) fn test_mi<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let a = load!(S, m, op, memory, op.address(m));
    m.flags = alu::result_flags(a & immediate::<S>(op), S, 0);
    op.next(m, memory)
}

/// `inc` (`UP`) and `dec` of a register.
pub(crate) fn step_r<const UP: bool, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let result = reg::<S>(m, op.a).wrapping_add(if UP { 1 } else { u64::MAX });
    set_reg::<S>(m, op.a, result);
    if F {
        set_step_flags::<UP, S>(m, result);
    }
    op.next(m, memory)
}

#[inline(always)]
fn set_step_flags<const UP: bool, const S: usize>(m: &mut Machine, result: u64) {
    let kind = if UP { kind::INC } else { kind::DEC };
    m.flags = Flags { tag: kind | lift(S) << 8, a: result << lift(S), b: m.flags.carry() };
}

/// `inc` (`UP`) and `dec` of memory.
pub(crate) fn step_m<const UP: bool, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let address = op.address(m);
    let old = load!(S, m, op, memory, address, Access::Write);
    let result = old.wrapping_add(if UP { 1 } else { u64::MAX });
    store!(S, m, op, memory, address, result);
    set_step_flags::<UP, S>(m, result);
    op.next(m, memory)
}

pub(crate) fn not_r<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = !m.r[usize::from(op.a)];
    set_reg::<S>(m, op.a, value);
    op.next(m, memory)
}

pub(crate) fn neg_r<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = reg::<S>(m, op.a);
    set_reg::<S>(m, op.a, value.wrapping_neg());
    if F {
        m.flags = alu::binary_flags(Binary::Sub, 0, value, 0, S);
    }
    op.next(m, memory)
}

// Shifts: `O` numbers the operation as in [`SHIFTS`].

pub(crate) const SHIFTS: [Shift; 5] = [Shift::Shl, Shift::Shr, Shift::Sar, Shift::Rol, Shift::Ror];

/// By an immediate that is neither zero nor larger than the operand.
pub(crate) fn shift_ri<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = reg::<S>(m, op.a);
    let count = op.c & 63;
    if F {
        let old = if O >= 3 { m.flags.bits() } else { 0 };
        let (result, flags) = alu::shift(SHIFTS[O], value, count, S, old);
        set_reg::<S>(m, op.a, result);
        if let Some(flags) = flags {
            m.flags = flags;
        }
    } else {
        let bits = 8 * S as u32;
        let result = match SHIFTS[O] {
            Shift::Shl => value << count,
            Shift::Shr => value >> count,
            Shift::Sar => (signed(value, S) >> count) as u64,
            Shift::Rol => value << count | value >> ((bits - u32::from(count)) & 63),
            _ => value >> count | value << ((bits - u32::from(count)) & 63),
        };
        set_reg::<S>(m, op.a, result);
    }
    op.next(m, memory)
}

/// By `cl`.
pub(crate) fn shift_rc<const O: usize, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = reg::<S>(m, op.a);
    let old = if O >= 3 { m.flags.bits() } else { 0 };
    let (result, flags) = alu::shift(SHIFTS[O], value, m.r[RCX] as u8, S, old);
    set_reg::<S>(m, op.a, result);
    if let Some(flags) = flags {
        m.flags = flags;
    }
    op.next(m, memory)
}

// Multiplication.

#[inline(always)]
fn multiply<const S: usize, const F: bool>(m: &mut Machine, op: &Operation, a: u64, b: u64) {
    let (low, overflow) = if S == 8 {
        let (low, overflow) = (a as i64).overflowing_mul(b as i64);
        (low as u64, overflow)
    } else {
        let product = signed(a, S).wrapping_mul(signed(b, S));
        (product as u64 & mask(S), product != signed(product as u64, S))
    };
    set_reg::<S>(m, op.a, low);
    if F {
        m.flags = alu::multiply_flags(low, overflow, S);
    }
}

pub(crate) fn imul_rr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    multiply::<S, F>(m, op, reg::<S>(m, op.a), reg::<S>(m, op.b));
    op.next(m, memory)
}

pub(crate) fn imul_rm<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let b = load!(S, m, op, memory, op.address(m));
    multiply::<S, F>(m, op, reg::<S>(m, op.a), b);
    op.next(m, memory)
}

pub(crate) fn imul_rri<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    multiply::<S, F>(m, op, reg::<S>(m, op.b), immediate::<S>(op));
    op.next(m, memory)
}

/// `mul` of `rax` by a register, for 4 and 8 bytes.
pub(crate) fn mul_r<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let product = u128::from(reg::<S>(m, RAX as u8)) * u128::from(reg::<S>(m, op.a));
    let (low, high) = (product as u64 & mask(S), (product >> (8 * S)) as u64);
    m.r[RAX] = low;
    m.r[RDX] = high;
    m.flags = alu::multiply_flags(low, high != 0, S);
    op.next(m, memory)
}

/// `div` by a register, for 4 and 8 bytes.
pub(crate) fn div_r<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let (divisor, low, high) = (reg::<S>(m, op.a), reg::<S>(m, RAX as u8), reg::<S>(m, RDX as u8));
    if high >= divisor {
        return leave(m, op, Exit::DivideError);
    }
    let (quotient, remainder) = if S == 8 && high != 0 {
        let dividend = u128::from(high) << 64 | u128::from(low);
        ((dividend / u128::from(divisor)) as u64, (dividend % u128::from(divisor)) as u64)
    } else {
        let dividend = if S == 8 { low } else { high << 32 | low };
        (dividend / divisor, dividend % divisor)
    };
    m.r[RAX] = quotient;
    m.r[RDX] = remainder;
    op.next(m, memory)
}

/// `cbw`, `cwde`, `cdqe`: from `S` bytes to twice as many.
pub(crate) fn widen_rax<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = signed(m.r[RAX], S) as u64;
    match S {
        1 => set_reg::<2>(m, RAX as u8, value),
        2 => set_reg::<4>(m, RAX as u8, value),
        _ => m.r[RAX] = value,
    }
    op.next(m, memory)
}

/// `cwd`, `cdq`, `cqo`: the sign of `rax` in all of `rdx`.
pub(crate) fn widen_rdx<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = (signed(m.r[RAX], S) >> 63) as u64;
    set_reg::<S>(m, RDX as u8, value);
    op.next(m, memory)
}

/// `bt` of a register.
pub(crate) fn bt_rr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    test_bit::<S>(m, reg::<S>(m, op.a), m.r[usize::from(op.b)]);
    op.next(m, memory)
}

pub(crate) fn bt_ri<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    test_bit::<S>(m, reg::<S>(m, op.a), op.immediate as u64);
    op.next(m, memory)
}

#[inline(always)]
fn test_bit<const S: usize>(m: &mut Machine, value: u64, number: u64) {
    let bit = value >> (number & (8 * S as u64 - 1)) & 1;
    let flags = m.flags.bits() & !flag::CF | bit;
    m.flags.set(flags);
}

/// `bsf` (`FORWARD`) and `bsr` of registers.
pub(crate) fn scan_rr<const FORWARD: bool, const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = reg::<S>(m, op.b);
    if value != 0 {
        let bit = if FORWARD { value.trailing_zeros() } else { 63 - value.leading_zeros() };
        set_reg::<S>(m, op.a, bit.into());
    }
    if F {
        m.flags = alu::zero_flags(value == 0);
    }
    op.next(m, memory)
}

pub(crate) fn bswap_r<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = reg::<S>(m, op.a).swap_bytes() >> lift(S);
    set_reg::<S>(m, op.a, value);
    op.next(m, memory)
}

// Conditions: `C` is the number in the opcode.

pub(crate) fn setcc_r<const C: u8>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let value = m.flags.condition(C).into();
    set_reg::<1>(m, op.a, value);
    op.next(m, memory)
}

#[inline(always)]
fn move_if<const C: u8, const S: usize>(m: &mut Machine, op: &Operation, b: u64) {
    // The upper half is cleared whatever the condition.
    let value = if m.flags.condition(C) { b } else { reg::<S>(m, op.a) };
    set_reg::<S>(m, op.a, value);
}

pub(crate) fn cmov_rr<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    move_if::<C, S>(m, op, reg::<S>(m, op.b));
    op.next(m, memory)
}

pub(crate) fn cmov_rm<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let b = load!(S, m, op, memory, op.address(m));
    move_if::<C, S>(m, op, b);
    op.next(m, memory)
}

// The stack.

pub(crate) fn push_r(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    push!(m, op, memory, m.r[usize::from(op.a)]);
    op.next(m, memory)
}

pub(crate) fn push_i(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    push!(m, op, memory, op.immediate as u64);
    op.next(m, memory)
}

pub(crate) fn push_m(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let value = load!(8, m, op, memory, op.address(m));
    push!(m, op, memory, value);
    op.next(m, memory)
}

pub(crate) fn pop_r(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let value = load!(8, m, op, memory, m.r[RSP]);
    m.r[RSP] = m.r[RSP].wrapping_add(8);
    m.r[usize::from(op.a)] = value;
    op.next(m, memory)
}

pub(crate) fn leave_frame(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let frame = m.r[RBP];
    m.r[RBP] = load!(8, m, op, memory, frame);
    m.r[RSP] = frame.wrapping_add(8);
    op.next(m, memory)
}

// Branches. A target in the code is relative to the block; `displacement` is where the next instruction is.

#[inline(always)]
fn relative(m: &Machine, offset: i32) -> u64 {
    m.r[usize::from(BLOCK)].wrapping_add(offset as u64)
}

pub(crate) fn jmp(m: &mut Machine, op: &Operation, _: &GuestMemory) -> Next {
    m.target = relative(m, op.immediate);
    Next::Link1
}

pub(crate) fn jmp_r(m: &mut Machine, op: &Operation, _: &GuestMemory) -> Next {
    m.target = m.r[usize::from(op.a)];
    Next::Jump
}

pub(crate) fn jmp_m(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.target = load!(8, m, op, memory, op.address(m));
    Next::Jump
}

pub(crate) fn call(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    push!(m, op, memory, relative(m, op.displacement));
    m.target = relative(m, op.immediate);
    Next::Link1
}

pub(crate) fn call_r(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let target = m.r[usize::from(op.a)];
    push!(m, op, memory, relative(m, op.immediate));
    m.target = target;
    Next::Jump
}

pub(crate) fn call_m(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let target = load!(8, m, op, memory, op.address(m));
    push!(m, op, memory, relative(m, op.immediate));
    m.target = target;
    Next::Jump
}

pub(crate) fn ret(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.target = load!(8, m, op, memory, m.r[RSP]);
    m.r[RSP] = m.r[RSP].wrapping_add(op.immediate as u64);
    Next::Jump
}

#[inline(always)]
fn branch(m: &mut Machine, taken: bool, op: &Operation, skip: i32) -> Next {
    m.target = relative(m, if taken { op.immediate } else { skip });
    if taken { Next::Link1 } else { Next::Link0 }
}

pub(crate) fn jcc<const C: u8>(m: &mut Machine, op: &Operation, _: &GuestMemory) -> Next {
    let taken = m.flags.condition(C);
    branch(m, taken, op, op.displacement)
}

/// A condition after a subtraction of lifted operands.
#[inline(always)]
fn subtraction_condition<const C: u8>(a: u64, b: u64, shift: u32) -> bool {
    let result = a.wrapping_sub(b);
    let holds = match C >> 1 {
        0 => ((a ^ b) & (a ^ result)) >> 63 != 0,
        1 => a < b,
        2 => a == b,
        3 => a <= b,
        4 => (result as i64) < 0,
        5 => sign_zero_parity(result, shift) & flag::PF != 0,
        6 => (a as i64) < b as i64,
        _ => a as i64 <= b as i64,
    };
    holds != (C & 1 != 0)
}

/// A condition after an operation that clears CF and OF and left this lifted result.
#[inline(always)]
fn logic_condition<const C: u8>(result: u64, shift: u32) -> bool {
    let holds = match C >> 1 {
        0 | 1 => false,
        2 | 3 => result == 0,
        4 | 6 => (result as i64) < 0,
        5 => sign_zero_parity(result, shift) & flag::PF != 0,
        _ => result as i64 <= 0,
    };
    holds != (C & 1 != 0)
}

/// A comparison and the branch behind it; the branch's operands are in the next operation.
#[inline(always)]
fn compare_branch<const C: u8, const S: usize>(m: &mut Machine, op: &Operation, a: u64, b: u64) -> Next {
    let (a, b) = (a << lift(S), b << lift(S));
    m.flags = Flags { tag: kind::SUB | lift(S) << 8, a, b };
    let taken = subtraction_condition::<C>(a, b, lift(S));
    let jump = op.following();
    branch(m, taken, jump, jump.displacement)
}

#[inline(always)]
fn test_branch<const C: u8, const S: usize>(m: &mut Machine, op: &Operation, result: u64) -> Next {
    let result = result << lift(S);
    m.flags = Flags { tag: kind::RESULT | lift(S) << 8, a: result, b: 0 };
    let taken = logic_condition::<C>(result, lift(S));
    let jump = op.following();
    branch(m, taken, jump, jump.displacement)
}

pub(crate) fn cmp_rr_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    _: &GuestMemory,
) -> Next {
    compare_branch::<C, S>(m, op, reg::<S>(m, op.a), reg::<S>(m, op.b))
}

pub(crate) fn cmp_ri_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    _: &GuestMemory,
) -> Next {
    compare_branch::<C, S>(m, op, reg::<S>(m, op.a), immediate::<S>(op))
}

pub(crate) fn cmp_rm_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let b = load!(S, m, op, memory, op.address(m));
    compare_branch::<C, S>(m, op, reg::<S>(m, op.a), b)
}

pub(crate) fn cmp_mr_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let a = load!(S, m, op, memory, op.address(m));
    compare_branch::<C, S>(m, op, a, reg::<S>(m, op.b))
}

pub(crate) fn cmp_mi_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let a = load!(S, m, op, memory, op.address(m));
    compare_branch::<C, S>(m, op, a, immediate::<S>(op))
}

pub(crate) fn test_rr_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    _: &GuestMemory,
) -> Next {
    test_branch::<C, S>(m, op, reg::<S>(m, op.a) & reg::<S>(m, op.b))
}

pub(crate) fn test_ri_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    _: &GuestMemory,
) -> Next {
    test_branch::<C, S>(m, op, reg::<S>(m, op.a) & immediate::<S>(op))
}

pub(crate) fn test_mi_jcc<const C: u8, const S: usize>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let a = load!(S, m, op, memory, op.address(m));
    test_branch::<C, S>(m, op, a & immediate::<S>(op))
}

// SSE.

pub(crate) fn movups_rr(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.xmm[usize::from(op.a & 15)] = m.xmm[usize::from(op.b & 15)];
    op.next(m, memory)
}

pub(crate) fn movups_rm<const ALIGNED: bool>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.xmm[usize::from(op.a & 15)] = load_wide!(ALIGNED, m, op, memory);
    op.next(m, memory)
}

pub(crate) fn movups_mr<const ALIGNED: bool>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let address = op.address(m);
    if ALIGNED && !address.is_multiple_of(16) {
        return leave(m, op, Exit::GeneralProtection);
    }
    if memory.try_store(address, m.xmm[usize::from(op.b & 15)]).is_none() {
        return faulted(m, op, memory, address, Access::Write);
    }
    op.next(m, memory)
}

/// `movd`, `movq`, `movss`, `movsd` from memory: zeros above.
pub(crate) fn movq_xm<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    m.xmm[usize::from(op.a & 15)] = load!(S, m, op, memory, op.address(m)).into();
    op.next(m, memory)
}

/// `movd`, `movq`, `movss`, `movsd` to memory.
pub(crate) fn movq_mx<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    store!(S, m, op, memory, op.address(m), m.xmm[usize::from(op.b & 15)] as u64);
    op.next(m, memory)
}

/// `movd`, `movq` from a general register.
pub(crate) fn movq_xr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    m.xmm[usize::from(op.a & 15)] = reg::<S>(m, op.b).into();
    op.next(m, memory)
}

/// `movd`, `movq` to a general register.
pub(crate) fn movq_rx<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = m.xmm[usize::from(op.b & 15)] as u64;
    set_reg::<S>(m, op.a, value);
    op.next(m, memory)
}

/// `movq` between vector registers: zeros above.
pub(crate) fn movq_xx(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.xmm[usize::from(op.a & 15)] = u128::from(m.xmm[usize::from(op.b & 15)] as u64);
    op.next(m, memory)
}

/// `movhps`, `movhpd` from memory.
pub(crate) fn movhps_xm(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let value = load!(8, m, op, memory, op.address(m));
    let slot = &mut m.xmm[usize::from(op.a & 15)];
    *slot = u128::from(*slot as u64) | u128::from(value) << 64;
    op.next(m, memory)
}

pub(crate) fn pmovmskb(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.r[usize::from(op.a)] = crate::host::byte_signs(m.xmm[usize::from(op.b & 15)]).into();
    op.next(m, memory)
}

/// Whether the program masks all floating-point exceptions; otherwise the general path has to look at them.
#[inline(always)]
fn all_masked(m: &Machine) -> bool {
    m.mxcsr >> crate::vector::MASK_SHIFT & crate::host::FLAGS == crate::host::FLAGS
}

/// Hands a floating-point instruction to the general path, where it has a place besides.
#[cold]
fn float_general(m: &mut Machine, op: &Operation) -> Next {
    m.general = op.immediate as u32;
    m.resume = op.c.into();
    Next::General
}

/// Handlers of instructions on two vectors that the host executes. `S` is 0 for two registers, else how many bytes the
/// second operand has in memory.
macro_rules! vector_handlers {
    ($module:ident $find:ident $is_float:literal $($mnemonic:ident $name:ident,)*) => {
        mod $module {
            use super::*;

            $(
                pub(crate) fn $name<const S: usize>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
                    if $is_float && !all_masked(m) {
                        return float_general(m, op);
                    }
                    let b = match S {
                        0 => m.xmm[usize::from(op.b & 15)],
                        16 => load_wide!(true, m, op, memory),
                        _ => load!(S, m, op, memory, op.address(m)).into(),
                    };
                    m.xmm[usize::from(op.a & 15)] = crate::host::$name(m.xmm[usize::from(op.a & 15)], b);
                    op.next(m, memory)
                }
            )*
        }

        /// The handler of an instruction on two vectors.
        pub(crate) fn $find(mnemonic: Mnemonic, size: usize) -> Option<Handler> {
            Some(match (mnemonic, size) {
                $(
                    (Mnemonic::$mnemonic, 0) => $module::$name::<0>,
                    (Mnemonic::$mnemonic, 4) => $module::$name::<4>,
                    (Mnemonic::$mnemonic, 8) => $module::$name::<8>,
                    (Mnemonic::$mnemonic, 16) => $module::$name::<16>,
                )*
                _ => return None,
            })
        }
    };
}

macro_rules! integer_handlers {
    ($($list:tt)*) => { vector_handlers! { integer_vectors integer_vector false $($list)* } };
}

macro_rules! float_handlers {
    ($($list:tt)*) => { vector_handlers! { float_vectors float_vector true $($list)* } };
}

crate::host::with_integer_vectors!(integer_handlers);
crate::host::with_float_vectors!(float_handlers);

/// A vector shift by an immediate, which is in `c`.
pub(crate) fn vector_shift(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    use crate::host::*;
    const SHIFTS: [VectorBinary; 8] = [psllw, pslld, psllq, psrlw, psrld, psrlq, psraw, psrad];
    let function = SHIFTS[op.immediate as usize & 7];
    m.xmm[usize::from(op.a & 15)] = function(m.xmm[usize::from(op.a & 15)], op.c.into());
    op.next(m, memory)
}

/// The number of a shift in `vector_shift`.
pub(crate) fn vector_shift_number(mnemonic: Mnemonic) -> Option<usize> {
    use Mnemonic as M;
    [M::Psllw, M::Pslld, M::Psllq, M::Psrlw, M::Psrld, M::Psrlq, M::Psraw, M::Psrad]
        .iter()
        .position(|entry| *entry == mnemonic)
}

/// `pshufd` of a register; the order is in `c`.
pub(crate) fn pshufd_rr(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let source = m.xmm[usize::from(op.b & 15)];
    let lane = |at: u32| u128::from((source >> (32 * u32::from(op.c >> (2 * at) & 3))) as u32) << (32 * at);
    m.xmm[usize::from(op.a & 15)] = lane(0) | lane(1) | lane(2) | lane(3);
    op.next(m, memory)
}

/// `movss` and `movsd` between registers, `movlhps`, `movhlps`: one part replaced.
pub(crate) fn mov_part_rr<const KIND: u8>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let (a, b) = (m.xmm[usize::from(op.a & 15)], m.xmm[usize::from(op.b & 15)]);
    const LOW: u128 = u64::MAX as u128;
    m.xmm[usize::from(op.a & 15)] = match KIND {
        0 => a & !(u32::MAX as u128) | b & u32::MAX as u128,
        1 => a & !LOW | b & LOW,
        2 => a & LOW | b << 64,
        _ => a & !LOW | b >> 64,
    };
    op.next(m, memory)
}

/// `cvtsi2ss`, `cvtsi2sd` from a register (`R`) or memory of `S` bytes.
pub(crate) fn from_integer<const S: usize, const DOUBLE: bool, const R: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    if !all_masked(m) {
        return float_general(m, op);
    }
    let value = if R { reg::<S>(m, op.b) } else { load!(S, m, op, memory, op.address(m)) };
    let a = m.xmm[usize::from(op.a & 15)];
    m.xmm[usize::from(op.a & 15)] = crate::host::from_integer(a, value, S == 8, DOUBLE);
    op.next(m, memory)
}

/// `cvttsd2si` to a register of `S` bytes, from a vector register (`R`) or memory.
pub(crate) fn truncate_double<const S: usize, const R: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    if !all_masked(m) {
        return float_general(m, op);
    }
    let b = if R { m.xmm[usize::from(op.b & 15)] } else { load!(8, m, op, memory, op.address(m)).into() };
    let value = crate::host::to_general(Mnemonic::Cvttsd2si, b, S == 8);
    set_reg::<S>(m, op.a, value);
    op.next(m, memory)
}

/// `comisd`, `ucomisd` (`S` is 8), `comiss`, `ucomiss` with a register (`R`) or memory.
pub(crate) fn compare_scalar<const S: usize, const SIGNALS: bool, const R: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    if !all_masked(m) {
        return float_general(m, op);
    }
    let b = if R { m.xmm[usize::from(op.b & 15)] } else { load!(S, m, op, memory, op.address(m)).into() };
    let mnemonic = match (S, SIGNALS) {
        (4, true) => Mnemonic::Comiss,
        (4, false) => Mnemonic::Ucomiss,
        (_, true) => Mnemonic::Comisd,
        _ => Mnemonic::Ucomisd,
    };
    let bits = crate::host::compare(mnemonic, m.xmm[usize::from(op.a & 15)], b);
    m.flags.set(bits);
    op.next(m, memory)
}

// Less common integer forms.

pub(crate) fn bt_mi<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = load!(S, m, op, memory, op.address(m));
    test_bit::<S>(m, value, op.immediate as u64);
    op.next(m, memory)
}

/// `bts` (`O` 0), `btr` (1), `btc` (2) of a register by a register or immediate (`I`).
pub(crate) fn change_bit<const O: u8, const S: usize, const I: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = reg::<S>(m, op.a);
    let number = if I { op.immediate as u64 } else { m.r[usize::from(op.b)] };
    test_bit::<S>(m, value, number);
    let bit = 1 << (number & (8 * S as u64 - 1));
    let changed = match O {
        0 => value | bit,
        1 => value & !bit,
        _ => value ^ bit,
    };
    set_reg::<S>(m, op.a, changed);
    op.next(m, memory)
}

/// `movzx` of `ah` to `bh`.
pub(crate) fn movzx_high(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    m.r[usize::from(op.a)] = m.r[usize::from(op.b)] >> 8 & 0xff;
    op.next(m, memory)
}

/// A binary operation on `ah` to `bh` and an immediate; `TEST` replaces it by `test`.
pub(crate) fn alu_high_i<const O: usize, const TEST: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let full = m.r[usize::from(op.a)];
    let (a, b, carry) = (full >> 8 & 0xff, immediate::<1>(op), carry_in::<O>(m));
    if TEST {
        m.flags = alu::result_flags(a & b, 1, 0);
        return op.next(m, memory);
    }
    if OPERATIONS[O] != Binary::Cmp {
        m.r[usize::from(op.a)] = full & !0xff00 | alu::binary(OPERATIONS[O], a, b, carry, 1) << 8;
    }
    m.flags = alu::binary_flags(OPERATIONS[O], a, b, carry, 1);
    op.next(m, memory)
}

pub(crate) fn setcc_m<const C: u8>(m: &mut Machine, op: &Operation, memory: &GuestMemory) -> Next {
    let value = m.flags.condition(C).into();
    store!(1, m, op, memory, op.address(m), value);
    op.next(m, memory)
}

/// `stos` (`MOVE` false) and `movs` of one element, upwards or downwards.
pub(crate) fn string_element<const S: usize, const MOVE: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let value = if MOVE { load!(S, m, op, memory, m.r[RSI]) } else { m.r[RAX] };
    store!(S, m, op, memory, m.r[RDI], value);
    let step = if m.downwards() { (S as u64).wrapping_neg() } else { S as u64 };
    m.r[RDI] = m.r[RDI].wrapping_add(step);
    if MOVE {
        m.r[RSI] = m.r[RSI].wrapping_add(step);
    }
    op.next(m, memory)
}

/// `xchg` with memory.
pub(crate) fn xchg_mr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let address = op.address(m);
    let value = m.r[usize::from(op.b)];
    let old = if S == 4 {
        memory.exchange(address, value as u32).map(u64::from)
    } else {
        memory.exchange(address, value)
    };
    match old {
        Ok(old) => m.r[usize::from(op.b)] = old,
        Err(_) => return faulted(m, op, memory, address, Access::Write),
    }
    op.next(m, memory)
}

/// `lock cmpxchg`, also without the prefix.
pub(crate) fn cmpxchg_mr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let address = op.address(m);
    let (expected, new) = (m.r[RAX] & mask(S), m.r[usize::from(op.b)]);
    let old = if S == 4 {
        memory.compare_exchange(address, expected as u32, new as u32).map(u64::from)
    } else {
        memory.compare_exchange(address, expected, new)
    };
    let Ok(old) = old else { return faulted(m, op, memory, address, Access::Write) };
    if old != expected {
        m.r[RAX] = old;
    }
    m.flags = alu::binary_flags(Binary::Cmp, expected, old, 0, S);
    op.next(m, memory)
}

/// `lock xadd`.
pub(crate) fn xadd_mr<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let address = op.address(m);
    let value = reg::<S>(m, op.b);
    let old = if S == 4 {
        memory.fetch_add(address, value as u32).map(u64::from)
    } else {
        memory.fetch_add(address, value)
    };
    let Ok(old) = old else { return faulted(m, op, memory, address, Access::Write) };
    m.r[usize::from(op.b)] = old;
    m.flags = alu::binary_flags(Binary::Add, old, value, 0, S);
    op.next(m, memory)
}

/// `idiv` by a register, for 4 and 8 bytes.
pub(crate) fn idiv_r<const S: usize, const F: bool>(
    m: &mut Machine,
    op: &Operation,
    memory: &GuestMemory,
) -> Next {
    let divisor = signed(m.r[usize::from(op.a)], S);
    let (low, high) = (reg::<S>(m, RAX as u8), reg::<S>(m, RDX as u8));
    let value = signed(low, S);
    let simple = signed(high, S) == value >> 63 && divisor != 0 && !(divisor == -1 && value == i64::MIN);
    let divided = if simple {
        let quotient = value / divisor;
        (quotient == signed(quotient as u64, S))
            .then(|| (quotient as u64 & mask(S), (value % divisor) as u64 & mask(S)))
    } else {
        let unused = 128 - 16 * S as u32;
        let dividend = (u128::from(high) << (8 * S) | u128::from(low)) << unused;
        alu::divide_signed(dividend as i128 >> unused, divisor, S)
    };
    let Some((quotient, remainder)) = divided else { return leave(m, op, Exit::DivideError) };
    m.r[RAX] = quotient;
    m.r[RDX] = remainder;
    op.next(m, memory)
}
