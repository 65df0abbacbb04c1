//! The general path: every instruction, taken from its decoded form operand by operand.
//!
//! It is complete and plain rather than fast. Instructions that matter for speed have handlers of their own and come
//! here only in unusual forms.
//!
//! What must hold: an instruction that ends with an error has changed nothing, except what the hardware changes too
//! (a repeated string instruction keeps its finished iterations).

use std::sync::atomic::{AtomicU8, Ordering};

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};

use crate::alu::{self, Binary, Shift};
use crate::interpreter::Exit;
use crate::machine::{BLOCK, FS, GS, Machine};
use crate::memory::{AtomicScalar, Fault, GuestMemory};
use crate::state::{flag, register::*};
use crate::{mmx, processor, strings, vector, x87};

/// How an instruction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The next instruction follows.
    Next,
    /// Another instruction comes next.
    Jump(u64),
    /// The run ends behind the instruction.
    ExitAfter(Exit),
}

impl From<Fault> for Exit {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// One instruction being executed.
pub(crate) struct Step<'a> {
    pub(crate) m: &'a mut Machine,
    pub(crate) memory: &'a GuestMemory,
    pub(crate) i: &'a Instruction,
    pub(crate) stop: &'a AtomicU8,
}

/// Segment selectors that Linux gives 64-bit programs: code, stack.
const CODE_SELECTOR: u64 = 0x33;
const STACK_SELECTOR: u64 = 0x2b;

/// What a general register operand names: the index, and whether it is the second byte (`ah` to `bh`).
fn general_register(register: Register) -> Option<(usize, usize, bool)> {
    let size = register.size();
    if register.is_gpr8() {
        let index = register as usize - Register::AL as usize;
        return Some(match index {
            0..=3 => (index, 1, false),
            4..=7 => (index - 4, 1, true),
            _ => (index - 4, 1, false),
        });
    }
    register.is_gpr().then(|| (register.number(), size, false))
}

impl Step<'_> {
    /// Executes the instruction.
    pub(crate) fn run(&mut self) -> Result<Flow, Exit> {
        if self.i.encoding() != EncodingKind::Legacy {
            return Err(Exit::Illegal);
        }
        if let Some(flow) = self.integer()? {
            return Ok(flow);
        }
        if let Some(flow) = self.control()? {
            return Ok(flow);
        }
        if vector::execute(self)? || strings::execute(self)? || mmx::execute(self)? || x87::execute(self)? {
            return Ok(Flow::Next);
        }
        Err(Exit::Illegal)
    }

    /// Address of the next instruction.
    pub(crate) fn next(&self) -> u64 {
        self.m.r[usize::from(BLOCK)].wrapping_add(self.i.next_ip())
    }

    /// The value of a general register, zero-extended.
    pub(crate) fn register(&self, register: Register) -> u64 {
        match general_register(register) {
            Some((index, 1, true)) => self.m.r[index] >> 8 & 0xff,
            Some((index, size, _)) => self.m.r[index] & alu::mask(size),
            None => self.segment_register(register),
        }
    }

    fn segment_register(&self, register: Register) -> u64 {
        match register {
            Register::CS => CODE_SELECTOR,
            Register::SS => STACK_SELECTOR,
            _ => 0,
        }
    }

    /// Sets a general register; 32-bit writes clear the upper half.
    pub(crate) fn set_register(&mut self, register: Register, value: u64) {
        let Some((index, size, high)) = general_register(register) else { return };
        let old = self.m.r[index];
        self.m.r[index] = match size {
            1 if high => old & !0xff00 | (value & 0xff) << 8,
            1 => old & !0xff | value & 0xff,
            2 => old & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// Sets `rax`, `rdx` or another register by index as an operand of `size` bytes.
    fn set_part(&mut self, index: usize, size: usize, value: u64) {
        let old = self.m.r[index];
        self.m.r[index] = match size {
            4 => value & 0xffff_ffff,
            8 => value,
            _ => old & !alu::mask(size) | value & alu::mask(size),
        };
    }

    /// The effective address of the memory operand without its segment.
    fn offset(&self) -> u64 {
        let (base, index) = (self.i.memory_base(), self.i.memory_index());
        let displacement = self.i.memory_displacement64();
        let mut address = match base {
            Register::None => displacement,
            Register::RIP | Register::EIP => displacement.wrapping_add(self.m.r[usize::from(BLOCK)]),
            _ => displacement.wrapping_add(self.register(base)),
        };
        if index != Register::None {
            address = address
                .wrapping_add(self.register(index).wrapping_mul(u64::from(self.i.memory_index_scale())));
        }
        let narrow = match (base, index) {
            (Register::None, Register::None) => self.i.memory_displ_size() == 4,
            (Register::None, index) => index.size() == 4,
            (base, _) => base.size() == 4,
        };
        if narrow { address & 0xffff_ffff } else { address }
    }

    fn segment_base(&self) -> u64 {
        match self.i.memory_segment() {
            Register::FS => self.m.r[usize::from(FS)],
            Register::GS => self.m.r[usize::from(GS)],
            _ => 0,
        }
    }

    /// The linear address of the memory operand.
    pub(crate) fn address(&self) -> u64 {
        self.offset().wrapping_add(self.segment_base())
    }

    /// Loads `size` bytes (1, 2, 4 or 8), zero-extended.
    pub(crate) fn load(&self, address: u64, size: usize) -> Result<u64, Fault> {
        Ok(match size {
            1 => self.memory.load::<u8>(address)?.into(),
            2 => self.memory.load::<u16>(address)?.into(),
            4 => self.memory.load::<u32>(address)?.into(),
            _ => self.memory.load::<u64>(address)?,
        })
    }

    /// Stores the low `size` bytes (1, 2, 4 or 8).
    pub(crate) fn store(&self, address: u64, size: usize, value: u64) -> Result<(), Fault> {
        match size {
            1 => self.memory.store(address, value as u8),
            2 => self.memory.store(address, value as u16),
            4 => self.memory.store(address, value as u32),
            _ => self.memory.store(address, value),
        }
    }

    /// Size in bytes of operand `n`.
    pub(crate) fn size(&self, n: u32) -> usize {
        match self.i.op_kind(n) {
            OpKind::Register => self.i.op_register(n).size(),
            OpKind::Memory => self.i.memory_size().size(),
            OpKind::Immediate8 => 1,
            OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
            OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
            _ => 8,
        }
    }

    /// The value of operand `n`; immediates are sign-extended as encoded.
    pub(crate) fn read(&self, n: u32) -> Result<u64, Exit> {
        match self.i.op_kind(n) {
            OpKind::Register => Ok(self.register(self.i.op_register(n))),
            OpKind::Memory => match self.i.memory_size().size() {
                size @ (1 | 2 | 4 | 8) => Ok(self.load(self.address(), size)?),
                _ => Err(Exit::Illegal),
            },
            _ => self.i.try_immediate(n).map_err(|_| Exit::Illegal),
        }
    }

    /// Sets operand `n`.
    pub(crate) fn write(&mut self, n: u32, value: u64) -> Result<(), Exit> {
        if self.i.op_kind(n) == OpKind::Register {
            self.set_register(self.i.op_register(n), value);
            return Ok(());
        }
        match self.i.memory_size().size() {
            size @ (1 | 2 | 4 | 8) => Ok(self.store(self.address(), size, value)?),
            _ => Err(Exit::Illegal),
        }
    }

    /// Replaces operand 0 by a function of it, atomically where the instruction is locked; the old value.
    fn update(&mut self, change: impl Fn(u64) -> u64) -> Result<u64, Exit> {
        if self.i.op_kind(0) == OpKind::Register {
            if self.i.has_lock_prefix() {
                return Err(Exit::Illegal);
            }
            let old = self.register(self.i.op_register(0));
            self.set_register(self.i.op_register(0), change(old));
            return Ok(old);
        }
        let (address, size) = (self.address(), self.i.memory_size().size());
        self.update_memory(address, size, self.i.has_lock_prefix(), change)
    }

    fn update_memory(
        &mut self,
        address: u64,
        size: usize,
        locked: bool,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Exit> {
        fn atomically<T: AtomicScalar + Into<u64>>(
            memory: &GuestMemory,
            address: u64,
            change: impl Fn(u64) -> T,
        ) -> Result<u64, Exit> {
            Ok(memory.fetch_update(address, |old: T| change(old.into()))?.into())
        }
        let memory = self.memory;
        match (locked, size) {
            (true, 1) => atomically(memory, address, |old| change(old) as u8),
            (true, 2) => atomically(memory, address, |old| change(old) as u16),
            (true, 4) => atomically(memory, address, |old| change(old) as u32),
            (true, _) => atomically(memory, address, change),
            (false, _) => {
                let old = self
                    .load(address, size)
                    .map_err(|fault| Fault { access: crate::memory::Access::Write, ..fault })?;
                self.store(address, size, change(old))?;
                Ok(old)
            }
        }
    }

    fn binary(&mut self, operation: Binary) -> Result<Option<Flow>, Exit> {
        let size = self.size(0);
        let b = self.read(1)? & alu::mask(size);
        let carry = self.m.flags.carry();
        let a = if operation == Binary::Cmp {
            self.read(0)?
        } else {
            self.update(|a| alu::binary(operation, a, b, carry, size))?
        };
        self.m.flags = alu::binary_flags(operation, a, b, carry, size);
        Ok(Some(Flow::Next))
    }

    fn shift(&mut self, operation: Shift) -> Result<Option<Flow>, Exit> {
        let size = self.size(0);
        let count = self.read(1)? as u8;
        let old = self.m.flags.bits();
        let a = self.update(|a| alu::shift(operation, a, count, size, old).0)?;
        if let Some(flags) = alu::shift(operation, a, count, size, old).1 {
            self.m.flags = flags;
        }
        Ok(Some(Flow::Next))
    }

    fn double_shift(&mut self, left: bool) -> Result<Option<Flow>, Exit> {
        let size = self.size(0);
        let fill = self.read(1)?;
        let count = self.read(2)? as u8;
        let shifted = |a| alu::double_shift(left, a, fill, count, size);
        let a = self.update(|a| shifted(a).map_or(a, |(result, _)| result))?;
        if let Some((_, flags)) = shifted(a) {
            self.m.flags = flags;
        } else if size == 4 {
            self.update(|a| a)?;
        }
        Ok(Some(Flow::Next))
    }

    /// `bt`, `bts`, `btr`, `btc`: a register names a bit anywhere relative to a memory operand.
    fn bit_test(&mut self, change: fn(u64, u64) -> u64) -> Result<Option<Flow>, Exit> {
        let size = self.size(0);
        let bits = 8 * size as i64;
        let number = self.read(1)?;
        let bit = 1 << (number as i64 & (bits - 1));
        let old = if self.i.op_kind(0) == OpKind::Memory {
            let mut address = self.address();
            if self.i.op_kind(1) == OpKind::Register {
                let words = alu::signed(number, size) >> bits.trailing_zeros();
                address = address.wrapping_add((words * size as i64) as u64);
            }
            if self.i.mnemonic() == Mnemonic::Bt {
                self.load(address, size)?
            } else {
                self.update_memory(address, size, self.i.has_lock_prefix(), |old| change(old, bit))?
            }
        } else if self.i.mnemonic() == Mnemonic::Bt {
            self.read(0)?
        } else {
            self.update(|old| change(old, bit))?
        };
        let flags = self.m.flags.bits() & !flag::CF | u64::from(old & bit != 0);
        self.m.flags.set(flags);
        Ok(Some(Flow::Next))
    }

    fn bit_scan(&mut self, forward: bool) -> Result<Option<Flow>, Exit> {
        let value = self.read(1)?;
        if value != 0 {
            let bit = if forward { value.trailing_zeros() } else { 63 - value.leading_zeros() };
            self.write(0, bit.into())?;
        }
        let bits = self.m.flags.bits() & !flag::ZF | u64::from(value == 0) << 6;
        self.m.flags.set(bits);
        Ok(Some(Flow::Next))
    }

    fn compare_exchange(&mut self) -> Result<Option<Flow>, Exit> {
        let size = self.size(0);
        let expected = self.m.r[RAX] & alu::mask(size);
        let new = self.read(1)?;
        let old = if self.i.op_kind(0) == OpKind::Register && self.read(0)? != expected {
            self.read(0)?
        } else {
            self.update(|old| if old == expected { new } else { old })?
        };
        if old != expected {
            self.set_part(RAX, size, old);
        }
        self.m.flags = alu::binary_flags(Binary::Cmp, expected, old, 0, size);
        Ok(Some(Flow::Next))
    }

    fn compare_exchange_pair(&mut self, size: usize) -> Result<Option<Flow>, Exit> {
        let address = self.address();
        let pair = |high: u64, low: u64| {
            let half = alu::mask(size);
            u128::from(high & half) << (8 * size) | u128::from(low & half)
        };
        let expected = pair(self.m.r[RDX], self.m.r[RAX]);
        let new = pair(self.m.r[RCX], self.m.r[RBX]);
        let old = if size == 8 {
            if !address.is_multiple_of(16) {
                return Err(Exit::GeneralProtection);
            }
            self.memory.compare_exchange_u128(address, expected, new)?
        } else {
            self.memory.compare_exchange(address, expected as u64, new as u64)?.into()
        };
        let equal = old == expected;
        if !equal {
            self.set_part(RAX, size, old as u64);
            self.set_part(RDX, size, (old >> (8 * size)) as u64);
        }
        let bits = self.m.flags.bits() & !flag::ZF | u64::from(equal) << 6;
        self.m.flags.set(bits);
        Ok(Some(Flow::Next))
    }

    fn multiply(&mut self, is_signed: bool) -> Result<Option<Flow>, Exit> {
        let size = self.size(0);
        let value = self.read(0)?;
        let bits = 8 * size;
        let (low, high, overflow);
        if is_signed {
            let product = i128::from(alu::signed(self.m.r[RAX], size)) * i128::from(alu::signed(value, size));
            (low, high) = (product as u64 & alu::mask(size), (product >> bits) as u64 & alu::mask(size));
            overflow = product != i128::from(alu::signed(low, size));
        } else {
            let product = u128::from(self.m.r[RAX] & alu::mask(size)) * u128::from(value);
            (low, high) = (product as u64 & alu::mask(size), (product >> bits) as u64);
            overflow = high != 0;
        }
        if size == 1 {
            self.set_part(RAX, 2, high << 8 | low);
        } else {
            self.set_part(RAX, size, low);
            self.set_part(RDX, size, high);
        }
        self.m.flags = alu::multiply_flags(low, overflow, size);
        Ok(Some(Flow::Next))
    }

    fn multiply_into(&mut self) -> Result<Option<Flow>, Exit> {
        if self.i.op_count() == 1 {
            return self.multiply(true);
        }
        let size = self.size(0);
        let first = if self.i.op_count() == 3 { 1 } else { 0 };
        let a = alu::signed(self.read(first)?, size);
        let b = alu::signed(self.read(first + 1)?, size);
        let product = i128::from(a) * i128::from(b);
        let low = product as u64 & alu::mask(size);
        self.write(0, low)?;
        self.m.flags = alu::multiply_flags(low, product != i128::from(alu::signed(low, size)), size);
        Ok(Some(Flow::Next))
    }

    fn divide(&mut self, is_signed: bool) -> Result<Option<Flow>, Exit> {
        let size = self.size(0);
        let bits = 8 * size;
        let divisor = self.read(0)?;
        let half = alu::mask(size);
        let dividend = if size == 1 {
            u128::from(self.m.r[RAX] & 0xffff)
        } else {
            u128::from(self.m.r[RDX] & half) << bits | u128::from(self.m.r[RAX] & half)
        };
        let divided = if is_signed {
            let unused = 128 - 2 * bits;
            let dividend = (dividend << unused) as i128 >> unused;
            alu::divide_signed(dividend, alu::signed(divisor, size), size)
        } else {
            alu::divide(dividend, divisor, size)
        };
        let (quotient, remainder) = divided.ok_or(Exit::DivideError)?;
        if size == 1 {
            self.set_part(RAX, 2, remainder << 8 | quotient);
        } else {
            self.set_part(RAX, size, quotient);
            self.set_part(RDX, size, remainder);
        }
        Ok(Some(Flow::Next))
    }

    /// Integer instructions that go on with the next one; `None` when this is none of them.
    fn integer(&mut self) -> Result<Option<Flow>, Exit> {
        use Mnemonic as M;
        match self.i.mnemonic() {
            M::Mov => {
                if self.i.op0_register().is_segment_register() {
                    return self.load_segment().map(Some);
                }
                if self.i.op0_register().is_cr()
                    || self.i.op0_register().is_dr()
                    || self.i.op1_register().is_cr()
                    || self.i.op1_register().is_dr()
                {
                    return Err(Exit::GeneralProtection);
                }
                let value = self.read(1)?;
                self.write(0, value)?;
            }
            M::Movzx => {
                let value = self.read(1)?;
                self.write(0, value)?;
            }
            M::Movsx | M::Movsxd => {
                let value = alu::signed(self.read(1)?, self.size(1)) as u64;
                self.write(0, value)?;
            }
            M::Lea => {
                let value = self.offset();
                self.write(0, value)?;
            }
            M::Add => return self.binary(Binary::Add),
            M::Or => return self.binary(Binary::Or),
            M::Adc => return self.binary(Binary::Adc),
            M::Sbb => return self.binary(Binary::Sbb),
            M::And => return self.binary(Binary::And),
            M::Sub => return self.binary(Binary::Sub),
            M::Xor => return self.binary(Binary::Xor),
            M::Cmp => return self.binary(Binary::Cmp),
            M::Test => {
                let size = self.size(0);
                let value = self.read(0)? & self.read(1)? & alu::mask(size);
                self.m.flags = alu::result_flags(value, size, 0);
            }
            M::Not => {
                self.update(|a| !a)?;
            }
            M::Neg => {
                let size = self.size(0);
                let a = self.update(u64::wrapping_neg)?;
                self.m.flags = alu::binary_flags(Binary::Sub, 0, a, 0, size);
            }
            M::Inc | M::Dec => self.increment()?,
            M::Rol => return self.shift(Shift::Rol),
            M::Ror => return self.shift(Shift::Ror),
            M::Rcl => return self.shift(Shift::Rcl),
            M::Rcr => return self.shift(Shift::Rcr),
            M::Shl | M::Sal => return self.shift(Shift::Shl),
            M::Shr => return self.shift(Shift::Shr),
            M::Sar => return self.shift(Shift::Sar),
            M::Shld => return self.double_shift(true),
            M::Shrd => return self.double_shift(false),
            M::Bt => return self.bit_test(|a, _| a),
            M::Bts => return self.bit_test(|a, bit| a | bit),
            M::Btr => return self.bit_test(|a, bit| a & !bit),
            M::Btc => return self.bit_test(|a, bit| a ^ bit),
            // Without BMI1 and LZCNT in CPUID the prefix means nothing.
            M::Bsf | M::Tzcnt => return self.bit_scan(true),
            M::Bsr | M::Lzcnt => return self.bit_scan(false),
            M::Popcnt => {
                let value = self.read(1)?;
                self.write(0, value.count_ones().into())?;
                self.m.flags = alu::zero_flags(value == 0);
            }
            M::Crc32 => {
                let (size, data) = (self.size(1), self.read(1)?);
                let seed = self.read(0)? as u32;
                self.write(0, alu::crc32(seed, data, size).into())?;
            }
            M::Bswap => {
                let value = self.read(0)?;
                let swapped = match self.size(0) {
                    8 => value.swap_bytes(),
                    4 => u64::from((value as u32).swap_bytes()),
                    _ => 0,
                };
                self.write(0, swapped)?;
            }
            M::Xchg => {
                let value = self.read(1)?;
                let old = if self.i.op_kind(0) == OpKind::Memory {
                    let (address, size) = (self.address(), self.i.memory_size().size());
                    self.update_memory(address, size, true, |_| value)?
                } else {
                    self.update(|_| value)?
                };
                self.write(1, old)?;
            }
            M::Xadd => {
                let (size, value) = (self.size(0), self.read(1)?);
                let old = self.update(|old| old.wrapping_add(value))?;
                // The source comes first: with equal registers the sum stays.
                if self.i.op_kind(0) == OpKind::Register {
                    self.write(1, old)?;
                    self.write(0, old.wrapping_add(value))?;
                } else {
                    self.write(1, old)?;
                }
                self.m.flags = alu::binary_flags(Binary::Add, old, value, 0, size);
            }
            M::Cmpxchg => return self.compare_exchange(),
            M::Cmpxchg8b => return self.compare_exchange_pair(4),
            M::Cmpxchg16b => return self.compare_exchange_pair(8),
            M::Mul => return self.multiply(false),
            M::Imul => return self.multiply_into(),
            M::Div => return self.divide(false),
            M::Idiv => return self.divide(true),
            M::Cbw => self.set_part(RAX, 2, alu::signed(self.m.r[RAX], 1) as u64),
            M::Cwde => self.set_part(RAX, 4, alu::signed(self.m.r[RAX], 2) as u64),
            M::Cdqe => self.set_part(RAX, 8, alu::signed(self.m.r[RAX], 4) as u64),
            M::Cwd => self.set_part(RDX, 2, (alu::signed(self.m.r[RAX], 2) >> 63) as u64),
            M::Cdq => self.set_part(RDX, 4, (alu::signed(self.m.r[RAX], 4) >> 63) as u64),
            M::Cqo => self.set_part(RDX, 8, (alu::signed(self.m.r[RAX], 8) >> 63) as u64),
            M::Clc | M::Stc | M::Cmc => {
                let bits = self.m.flags.bits();
                self.m.flags.set(match self.i.mnemonic() {
                    M::Clc => bits & !flag::CF,
                    M::Stc => bits | flag::CF,
                    _ => bits ^ flag::CF,
                });
            }
            M::Cld => self.m.system_flags &= !flag::DF,
            M::Std => self.m.system_flags |= flag::DF,
            M::Lahf => {
                let bits = self.m.rflags() & 0xd7;
                self.set_register(Register::AH, bits);
            }
            M::Sahf => {
                let bits = self.m.flags.bits() & flag::OF | self.register(Register::AH);
                self.m.flags.set(bits);
            }
            M::Xlatb => {
                let address = self.m.r[RBX].wrapping_add(self.m.r[RAX] & 0xff);
                let value = self.load(address.wrapping_add(self.segment_base()), 1)?;
                self.set_register(Register::AL, value);
            }
            M::Push | M::Pushfq | M::Pushf => self.push_operand()?,
            M::Pop => self.pop_operand()?,
            M::Enter => self.enter()?,
            M::Leave => {
                let size = self.i.op_count() as usize;
                let (frame, size) = (self.m.r[RBP], if size == 0 { self.leave_size() } else { 8 });
                let value = self.load(frame, size)?;
                self.m.r[RSP] = frame.wrapping_add(size as u64);
                self.set_part(RBP, size, value);
            }
            M::Nop
            | M::Endbr64
            | M::Endbr32
            | M::Pause
            | M::Reservednop
            | M::Rdsspd
            | M::Rdsspq
            | M::Fnop => {}
            M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchnta
            | M::Prefetchw
            | M::Prefetch
            | M::Prefetchwt1 => {}
            M::Lfence | M::Sfence => {}
            M::Mfence => std::sync::atomic::fence(Ordering::SeqCst),
            M::Clflush => {
                self.load(self.address(), 1)?;
            }
            M::Cpuid => {
                let [a, b, c, d] = processor::cpuid(self.m.r[RAX] as u32, self.m.r[RCX] as u32);
                for (index, value) in [(RAX, a), (RBX, b), (RCX, c), (RDX, d)] {
                    self.m.r[index] = value.into();
                }
            }
            M::Rdtsc | M::Rdtscp => {
                let time = processor::time_stamp();
                self.m.r[RAX] = time & 0xffff_ffff;
                self.m.r[RDX] = time >> 32;
                if self.i.mnemonic() == M::Rdtscp {
                    self.m.r[RCX] = 0;
                }
            }
            M::Movsb | M::Movsw | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq => self.string()?,
            M::Movsd | M::Cmpsd if self.i.is_string_instruction() => self.string()?,
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => self.string()?,
            M::Cmpsb | M::Cmpsw | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq => self.string()?,
            _ => return self.conditional_data(),
        }
        Ok(Some(Flow::Next))
    }

    /// `setcc` and `cmovcc`.
    fn conditional_data(&mut self) -> Result<Option<Flow>, Exit> {
        use iced_x86::FlowControl;
        let code = self.i.condition_code() as u8;
        if code == 0 || self.i.flow_control() != FlowControl::Next {
            return Ok(None);
        }
        let holds = self.m.flags.condition(code - 1);
        if self.i.op_count() == 1 {
            self.write(0, holds.into())?;
            return Ok(Some(Flow::Next));
        }
        if !self.i.op0_register().is_gpr() {
            return Ok(None);
        }
        // The source is read, and the upper half cleared, whatever the condition.
        let value = self.read(1)?;
        let old = self.read(0)?;
        self.write(0, if holds { value } else { old })?;
        Ok(Some(Flow::Next))
    }

    fn increment(&mut self) -> Result<(), Exit> {
        use crate::flags::{Flags, kind};
        let size = self.size(0);
        let up = self.i.mnemonic() == Mnemonic::Inc;
        let change = |a: u64| if up { a.wrapping_add(1) } else { a.wrapping_sub(1) };
        let carry = self.m.flags.carry();
        let result = change(self.update(change)?);
        let kind = if up { kind::INC } else { kind::DEC };
        self.m.flags = Flags { tag: kind | alu::lift(size) << 8, a: result << alu::lift(size), b: carry };
        Ok(())
    }

    /// Loads of segment registers: the selectors that Linux gives, and null, are accepted.
    fn load_segment(&mut self) -> Result<Flow, Exit> {
        let selector = self.read(1)? & 0xffff;
        match (self.i.op0_register(), selector) {
            (Register::CS, _) => Err(Exit::Illegal),
            (Register::SS, STACK_SELECTOR) => Ok(Flow::Next),
            (Register::SS, _) => Err(Exit::GeneralProtection),
            (_, 0..=3 | STACK_SELECTOR) => Ok(Flow::Next),
            _ => Err(Exit::GeneralProtection),
        }
    }

    /// Pushes `size` bytes.
    pub(crate) fn push(&mut self, value: u64, size: usize) -> Result<(), Exit> {
        let stack = self.m.r[RSP].wrapping_sub(size as u64);
        self.store(stack, size, value)?;
        self.m.r[RSP] = stack;
        Ok(())
    }

    fn push_operand(&mut self) -> Result<(), Exit> {
        let size = self.i.stack_pointer_increment().unsigned_abs() as usize;
        let value = match self.i.mnemonic() {
            // RF and VM read as zero.
            Mnemonic::Pushfq | Mnemonic::Pushf => self.m.rflags(),
            _ => self.read(0)?,
        };
        self.push(value, size)
    }

    fn pop_operand(&mut self) -> Result<(), Exit> {
        let size = self.i.stack_pointer_increment().unsigned_abs() as usize;
        let stack = self.m.r[RSP];
        let value = self.load(stack, size)?;
        // An address relative to rsp is that after the pop; a popped rsp is the value.
        self.m.r[RSP] = stack.wrapping_add(size as u64);
        let written = self.write(0, value);
        if written.is_err() {
            self.m.r[RSP] = stack;
        }
        written
    }

    fn leave_size(&self) -> usize {
        if self.i.code() == iced_x86::Code::Leavew { 2 } else { 8 }
    }

    fn enter(&mut self) -> Result<(), Exit> {
        if self.i.code() != iced_x86::Code::Enterq_imm16_imm8 {
            return Err(Exit::Illegal);
        }
        let (room, level) = (u64::from(self.i.immediate16()), u64::from(self.i.immediate8_2nd() & 31));
        let (stack, mut frame) = (self.m.r[RSP], self.m.r[RBP]);
        let new_frame = stack.wrapping_sub(8);
        self.store(new_frame, 8, frame)?;
        let mut top = new_frame;
        for _ in 1..level {
            frame = frame.wrapping_sub(8);
            top = top.wrapping_sub(8);
            let link = self.load(frame, 8)?;
            self.store(top, 8, link)?;
        }
        if level > 0 {
            top = top.wrapping_sub(8);
            self.store(top, 8, new_frame)?;
        }
        self.m.r[RBP] = new_frame;
        self.m.r[RSP] = top.wrapping_sub(room);
        Ok(())
    }

    /// Jumps, calls, returns and everything that leaves the program; `None` when this is none of them.
    fn control(&mut self) -> Result<Option<Flow>, Exit> {
        use Mnemonic as M;
        let code = self.i.condition_code() as u8;
        match self.i.mnemonic() {
            _ if self.i.is_jcc_short_or_near() => {
                let taken = self.m.flags.condition(code.wrapping_sub(1));
                return self.branch_if(taken).map(Some);
            }
            M::Jrcxz => return self.branch_if(self.m.r[RCX] == 0).map(Some),
            M::Jecxz => return self.branch_if(self.m.r[RCX] as u32 == 0).map(Some),
            M::Loop | M::Loope | M::Loopne => return self.count_down().map(Some),
            M::Jmp => return self.branch_target().map(|target| Some(Flow::Jump(target))),
            M::Call => {
                let target = self.branch_target()?;
                self.push(self.next(), 8)?;
                return Ok(Some(Flow::Jump(target)));
            }
            M::Ret => {
                if self.i.stack_pointer_increment() < 8 {
                    return Err(Exit::Illegal);
                }
                let target = self.load(self.m.r[RSP], 8)?;
                self.m.r[RSP] = self.m.r[RSP].wrapping_add(self.i.stack_pointer_increment() as u64);
                return Ok(Some(Flow::Jump(target)));
            }
            M::Popfq | M::Popf => {
                let size = self.i.stack_pointer_increment() as usize;
                let value = self.load(self.m.r[RSP], size)?;
                self.m.r[RSP] = self.m.r[RSP].wrapping_add(size as u64);
                let kept = if size == 2 { self.m.rflags() & !0xffff } else { 0 };
                self.m.set_rflags(value | kept);
                return Ok(Some(Flow::Jump(self.next())));
            }
            M::Syscall => {
                self.m.r[RCX] = self.next();
                self.m.r[R11] = self.m.rflags();
                return Ok(Some(Flow::ExitAfter(Exit::Syscall)));
            }
            M::Int3 => return Ok(Some(Flow::ExitAfter(Exit::Breakpoint))),
            M::Int1 => return Ok(Some(Flow::ExitAfter(Exit::Step))),
            M::Int => return Err(Exit::GeneralProtection),
            M::Hlt | M::Cli | M::Sti | M::In | M::Out | M::Insb | M::Insw | M::Insd => {}
            M::Outsb | M::Outsw | M::Outsd | M::Rdmsr | M::Wrmsr | M::Rdpmc | M::Clts | M::Lmsw => {}
            M::Invd | M::Wbinvd | M::Invlpg | M::Lgdt | M::Lidt | M::Lldt | M::Ltr | M::Swapgs => {}
            M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Sysretq | M::Sysret | M::Sysexit => {}
            M::Sysexitq | M::Iretq | M::Iretd | M::Iret | M::Retf => {}
            _ => return Ok(None),
        }
        Err(Exit::GeneralProtection)
    }

    fn branch_target(&self) -> Result<u64, Exit> {
        match self.i.op0_kind() {
            OpKind::NearBranch64 => Ok(self.m.r[usize::from(BLOCK)].wrapping_add(self.i.near_branch64())),
            OpKind::Register | OpKind::Memory if self.size(0) == 8 => self.read(0),
            _ => Err(Exit::Illegal),
        }
    }

    fn branch_if(&self, taken: bool) -> Result<Flow, Exit> {
        let target = self.branch_target()?;
        Ok(Flow::Jump(if taken { target } else { self.next() }))
    }

    fn count_down(&mut self) -> Result<Flow, Exit> {
        use iced_x86::Code as C;
        let narrow =
            matches!(self.i.code(), C::Loop_rel8_64_ECX | C::Loope_rel8_64_ECX | C::Loopne_rel8_64_ECX);
        let size = if narrow { 4 } else { 8 };
        let count = self.m.r[RCX].wrapping_sub(1) & alu::mask(size);
        let zero = self.m.flags.bits() & flag::ZF != 0;
        let taken = count != 0
            && match self.i.mnemonic() {
                Mnemonic::Loope => zero,
                Mnemonic::Loopne => !zero,
                _ => true,
            };
        let flow = self.branch_if(taken)?;
        self.m.r[RCX] = count;
        Ok(flow)
    }
}

/// What a string instruction does with one element.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StringKind {
    Move,
    Store,
    Load,
    Compare,
    Scan,
}

/// Element operation and size by mnemonic.
fn string_form(mnemonic: Mnemonic) -> Option<(StringKind, usize)> {
    use Mnemonic as M;
    use StringKind::*;
    Some(match mnemonic {
        M::Movsb => (Move, 1),
        M::Movsw => (Move, 2),
        M::Movsd => (Move, 4),
        M::Movsq => (Move, 8),
        M::Stosb => (Store, 1),
        M::Stosw => (Store, 2),
        M::Stosd => (Store, 4),
        M::Stosq => (Store, 8),
        M::Lodsb => (Load, 1),
        M::Lodsw => (Load, 2),
        M::Lodsd => (Load, 4),
        M::Lodsq => (Load, 8),
        M::Cmpsb => (Compare, 1),
        M::Cmpsw => (Compare, 2),
        M::Cmpsd => (Compare, 4),
        M::Cmpsq => (Compare, 8),
        M::Scasb => (Scan, 1),
        M::Scasw => (Scan, 2),
        M::Scasd => (Scan, 4),
        M::Scasq => (Scan, 8),
        _ => return None,
    })
}

/// Bytes that a repeated move or store handles between two looks at the stop byte.
const STRING_CHUNK: u64 = 1 << 20;
/// Elements that a repeated string instruction handles one by one between two looks at the stop byte.
const STRING_STEPS: u64 = 4096;

impl Step<'_> {
    /// String instructions, repeated or not.
    fn string(&mut self) -> Result<(), Exit> {
        let Some((kind, size)) = string_form(self.i.mnemonic()) else { return Err(Exit::Illegal) };
        let narrow = (0..self.i.op_count())
            .any(|n| matches!(self.i.op_kind(n), OpKind::MemorySegESI | OpKind::MemoryESEDI));
        if narrow {
            // A 32-bit address size changes which registers count; no compiler emits it.
            return Err(Exit::Illegal);
        }
        if !self.i.has_rep_prefix() && !self.i.has_repne_prefix() {
            self.string_element(kind, size)?;
            return Ok(());
        }
        let until = match kind {
            StringKind::Compare | StringKind::Scan => Some(self.i.has_rep_prefix()),
            _ => None,
        };
        let mut steps = 0;
        while self.m.r[RCX] != 0 {
            if !self.m.downwards() && matches!(kind, StringKind::Move | StringKind::Store) {
                self.string_chunk(kind, size)?;
                if self.m.r[RCX] == 0 {
                    break;
                }
            }
            let equal = self.string_element(kind, size)?;
            self.m.r[RCX] = self.m.r[RCX].wrapping_sub(1);
            if until.is_some_and(|while_equal| while_equal != equal) {
                break;
            }
            steps += 1;
            if (steps % STRING_STEPS == 0 || until.is_none())
                && self.m.r[RCX] != 0
                && self.stop.load(Ordering::Relaxed) != 0
            {
                return Err(Exit::Stopped);
            }
        }
        Ok(())
    }

    /// Handles one element; whether a comparison found equality.
    fn string_element(&mut self, kind: StringKind, size: usize) -> Result<bool, Exit> {
        let source = self.m.r[RSI].wrapping_add(self.segment_base());
        let destination = self.m.r[RDI];
        let accumulator = self.m.r[RAX] & alu::mask(size);
        let mut equal = false;
        match kind {
            StringKind::Move => {
                let value = self.load(source, size)?;
                self.store(destination, size, value)?;
            }
            StringKind::Store => self.store(destination, size, accumulator)?,
            StringKind::Load => {
                let value = self.load(source, size)?;
                self.set_part(RAX, size, value);
            }
            StringKind::Compare | StringKind::Scan => {
                let a = if kind == StringKind::Scan { accumulator } else { self.load(source, size)? };
                let b = self.load(destination, size)?;
                self.m.flags = alu::binary_flags(Binary::Cmp, a, b, 0, size);
                equal = a == b;
            }
        }
        let step = if self.m.downwards() { (size as u64).wrapping_neg() } else { size as u64 };
        if matches!(kind, StringKind::Move | StringKind::Load | StringKind::Compare) {
            self.m.r[RSI] = self.m.r[RSI].wrapping_add(step);
        }
        if kind != StringKind::Load {
            self.m.r[RDI] = destination.wrapping_add(step);
        }
        Ok(equal)
    }

    /// Moves or stores many elements upwards at once, as many as are easy; the caller does the rest one by one.
    fn string_chunk(&mut self, kind: StringKind, size: usize) -> Result<(), Exit> {
        let width = size as u64;
        let source = self.m.r[RSI].wrapping_add(self.segment_base());
        let destination = self.m.r[RDI];
        let bytes = self.m.r[RCX].min(STRING_CHUNK / width) * width;
        let done = match kind {
            // A destination just above the source repeats what was copied: then elements matter.
            StringKind::Move if destination.wrapping_sub(source) < width => 0,
            StringKind::Move => self.memory.move_forward(destination, source, bytes as usize),
            _ => {
                let value = self.m.r[RAX];
                let first = value as u8;
                let same = value.to_le_bytes()[..size].iter().all(|byte| *byte == first);
                if same {
                    match self.memory.fill(destination, first, bytes as usize) {
                        Ok(()) => bytes as usize,
                        Err(fault) => fault.done,
                    }
                } else {
                    0
                }
            }
        } as u64;
        let elements = done / width;
        self.m.r[RCX] -= elements;
        self.m.r[RDI] = destination.wrapping_add(elements * width);
        if kind == StringKind::Move {
            self.m.r[RSI] = self.m.r[RSI].wrapping_add(elements * width);
        }
        Ok(())
    }
}
