//! Operands: registers and their parts, memory, immediates.
//!
//! Operands of up to four bytes are i32 values with zeros above, those of eight bytes i64. Addresses are computed in 32
//! bits, because guests live in 4 GiB; a displacement below 64 KiB goes into the operator: the first 64 KiB of guests
//! are never mapped and neither is what lies behind the window, so an address that would have to wrap faults either way.

use iced_x86::{Instruction, OpKind, Register};
use wasm_encoder::Instruction as Wasm;

use super::abi;
use super::ir::{
    Alu, Expr, GUEST, STATE, Statement, Type, Var, alu, constant, extend, get, guest_address, memory, narrow,
    op2, wrap,
};
use super::lifter::Lifter;

/// Where an operand is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A general register's part of this many bytes.
    Register(Var, u32),
    /// `ah`, `ch`, `dh` or `bh`.
    High(Var),
    /// Guest memory: an address that may be evaluated repeatedly, an offset, the size.
    Memory(Expr, u64, u32),
}

impl Place {
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, Self::Memory(..))
    }
}

/// The variable of a general register of any size.
pub(crate) fn gpr(register: Register) -> Option<Var> {
    register.is_gpr().then(|| Var::gpr(register.full_register().number()))
}

/// Loads of integer operands.
pub(crate) fn load(size: u32, address: Expr, offset: u64) -> Expr {
    let place = memory(GUEST, offset);
    let operator = match size {
        1 => Wasm::I32Load8U(place),
        2 => Wasm::I32Load16U(place),
        4 => Wasm::I32Load(place),
        _ => Wasm::I64Load(place),
    };
    Expr::Load(operator, Box::new(address))
}

pub(crate) fn store(size: u32, address: Expr, offset: u64, value: Expr) -> Statement {
    let place = memory(GUEST, offset);
    let operator = match size {
        1 => Wasm::I32Store8(place),
        2 => Wasm::I32Store16(place),
        4 => Wasm::I32Store(place),
        _ => Wasm::I64Store(place),
    };
    Statement::Store(operator, address, value)
}

/// Displacements below this go into operators: as far as the guard behind the window reaches, less an operand.
const FOLDED: i64 = (1 << 16) - 64;

impl Lifter<'_> {
    /// The address of the memory operand, i32, and an offset to add to it.
    pub(crate) fn address(&mut self, i: &Instruction) -> Option<(Expr, u64)> {
        let segment = match i.memory_segment() {
            Register::FS => Some(abi::FS_BASE_OFFSET),
            Register::GS => Some(abi::GS_BASE_OFFSET),
            _ => None,
        };
        let mut address = None;
        let mut add = |value: Expr| {
            address = Some(match address.take() {
                None => value,
                Some(sum) => op2(Wasm::I32Add, sum, value),
            });
        };
        let mut displacement = i64::from(i.memory_displacement64() as i32);
        if i.is_ip_rel_memory_operand() {
            add(guest_address(i.memory_displacement64() as u32));
            displacement = 0;
        } else {
            if i.memory_base() != Register::None {
                add(wrap(get(gpr(i.memory_base())?)));
            }
            if i.memory_index() != Register::None {
                let index = wrap(get(gpr(i.memory_index())?));
                let shift = i.memory_index_scale().trailing_zeros();
                add(alu(Alu::Shl, 4, index, Expr::I32(shift as i32)));
            }
        }
        if let Some(offset) = segment {
            if i.memory_base().size() == 4 {
                return None;
            }
            add(wrap(Expr::State(Wasm::I64Load(memory(STATE, offset)))));
        }
        Some(match address {
            None => (Expr::I32(displacement as i32), 0),
            Some(address) if (0..FOLDED).contains(&displacement) => (address, displacement as u64),
            Some(address) => (alu(Alu::Add, 4, address, Expr::I32(displacement as i32)), 0),
        })
    }

    /// The effective address as `lea` gives it.
    pub(crate) fn effective_address(&mut self, i: &Instruction) -> Option<Expr> {
        if i.is_ip_rel_memory_operand() {
            return Some(extend(guest_address(i.memory_displacement64() as u32)));
        }
        let mut sum = None;
        let mut add = |value: Expr| {
            sum = Some(match sum.take() {
                None => value,
                Some(sum) => alu(Alu::Add, 8, sum, value),
            });
        };
        if i.memory_base() != Register::None {
            add(get(gpr(i.memory_base())?));
        }
        if i.memory_index() != Register::None {
            let shift = i.memory_index_scale().trailing_zeros();
            add(alu(Alu::Shl, 8, get(gpr(i.memory_index())?), Expr::I64(shift.into())));
        }
        add(Expr::I64(i.memory_displacement64() as i64));
        let is_narrow = i.memory_base().size() == 4 || i.memory_index().size() == 4;
        sum.map(|sum| if is_narrow { extend(wrap(sum)) } else { sum })
    }

    /// The operand as something that can be read and written.
    pub(crate) fn place(&mut self, i: &Instruction, n: u32) -> Option<Place> {
        match i.op_kind(n) {
            OpKind::Register => {
                let register = i.op_register(n);
                let var = gpr(register)?;
                Some(match register {
                    Register::AH | Register::CH | Register::DH | Register::BH => Place::High(var),
                    _ => Place::Register(var, register.size() as u32),
                })
            }
            OpKind::Memory => {
                let size = i.memory_size().size() as u32;
                let (address, offset) = self.address(i)?;
                let address = self.keep(Type::I32, address);
                matches!(size, 1 | 2 | 4 | 8).then_some(Place::Memory(address, offset, size))
            }
            _ => None,
        }
    }

    pub(crate) fn read_place(&self, place: &Place) -> Expr {
        match place {
            Place::Register(var, 8) => get(*var),
            Place::Register(var, size) => narrow(*size, wrap(get(*var))),
            Place::High(var) => narrow(1, alu(Alu::ShrU, 4, wrap(get(*var)), Expr::I32(8))),
            Place::Memory(address, offset, size) => load(*size, address.clone(), *offset),
        }
    }

    pub(crate) fn write_place(&mut self, place: &Place, value: Expr) {
        match place {
            Place::Register(var, 8) => self.set(*var, value),
            Place::Register(var, 4) => self.set(*var, extend(value)),
            Place::Register(var, size) => self.merge(*var, *size, 0, value),
            Place::High(var) => self.merge(*var, 1, 8, value),
            Place::Memory(address, offset, size) => {
                self.out.push(store(*size, address.clone(), *offset, value));
            }
        }
    }

    /// Replaces one or two bytes of a register.
    fn merge(&mut self, var: Var, size: u32, shift: u32, value: Expr) {
        let mask = ((1_i64 << (8 * size)) - 1) << shift;
        let part = alu(Alu::Shl, 8, extend(narrow(size, value)), Expr::I64(shift.into()));
        let rest = op2(Wasm::I64And, get(var), Expr::I64(!mask));
        self.set(var, op2(Wasm::I64Or, rest, part));
    }

    /// The operand's value: a register, memory, an immediate of the instruction's operand size.
    pub(crate) fn read(&mut self, i: &Instruction, n: u32) -> Option<Expr> {
        match i.op_kind(n) {
            OpKind::Register => {
                let place = self.place(i, n)?;
                Some(self.read_place(&place))
            }
            OpKind::Memory => {
                let size = i.memory_size().size() as u32;
                let (address, offset) = self.address(i)?;
                matches!(size, 1 | 2 | 4 | 8).then(|| load(size, address, offset))
            }
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {
                let size = self.size(i, 0);
                Some(narrow(size, constant(size, i.immediate(n) as i64)))
            }
            _ => None,
        }
    }

    /// Size of an operand in bytes.
    pub(crate) fn size(&self, i: &Instruction, n: u32) -> u32 {
        match i.op_kind(n) {
            OpKind::Register => i.op_register(n).size() as u32,
            OpKind::Memory => i.memory_size().size() as u32,
            _ => 8,
        }
    }
}
