//! SSE registers: moves, integer arithmetic, comparisons, shifts.
//!
//! A register is a v128. Memory operands of 16 bytes are not checked for alignment: a misaligned one is a fault on x86
//! that no working program has.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use wasm_encoder::Instruction as Wasm;

use super::flags::{CF, ZF};
use super::ir::{
    Alu, Expr, GUEST, Statement, Type, Var, alu, extend, get, memory, not, op1, op2, select, wrap,
};
use super::lifter::Lifter;

/// The variable of an SSE register.
pub(super) fn xmm(register: Register) -> Option<Var> {
    register.is_xmm().then(|| Var::xmm(register.number()))
}

/// A constant with the same byte everywhere, or the same 32 or 64 bits.
fn splat(bits: u64, size: u32) -> Expr {
    let mut value = 0_u128;
    for place in 0..16 / size {
        value |= u128::from(bits) << (place * 8 * size);
    }
    Expr::V128(value)
}

pub(super) fn zero() -> Expr {
    Expr::V128(0)
}

/// Operators that take the destination and the source.
fn binary(mnemonic: Mnemonic) -> Option<Wasm<'static>> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Paddb => Wasm::I8x16Add,
        M::Paddw => Wasm::I16x8Add,
        M::Paddd => Wasm::I32x4Add,
        M::Paddq => Wasm::I64x2Add,
        M::Psubb => Wasm::I8x16Sub,
        M::Psubw => Wasm::I16x8Sub,
        M::Psubd => Wasm::I32x4Sub,
        M::Psubq => Wasm::I64x2Sub,
        M::Paddsb => Wasm::I8x16AddSatS,
        M::Paddsw => Wasm::I16x8AddSatS,
        M::Paddusb => Wasm::I8x16AddSatU,
        M::Paddusw => Wasm::I16x8AddSatU,
        M::Psubsb => Wasm::I8x16SubSatS,
        M::Psubsw => Wasm::I16x8SubSatS,
        M::Psubusb => Wasm::I8x16SubSatU,
        M::Psubusw => Wasm::I16x8SubSatU,
        M::Pmullw => Wasm::I16x8Mul,
        M::Pmulld => Wasm::I32x4Mul,
        M::Pmaddwd => Wasm::I32x4DotI16x8S,
        M::Pavgb => Wasm::I8x16AvgrU,
        M::Pavgw => Wasm::I16x8AvgrU,
        M::Pminub => Wasm::I8x16MinU,
        M::Pminuw => Wasm::I16x8MinU,
        M::Pminud => Wasm::I32x4MinU,
        M::Pminsb => Wasm::I8x16MinS,
        M::Pminsw => Wasm::I16x8MinS,
        M::Pminsd => Wasm::I32x4MinS,
        M::Pmaxub => Wasm::I8x16MaxU,
        M::Pmaxuw => Wasm::I16x8MaxU,
        M::Pmaxud => Wasm::I32x4MaxU,
        M::Pmaxsb => Wasm::I8x16MaxS,
        M::Pmaxsw => Wasm::I16x8MaxS,
        M::Pmaxsd => Wasm::I32x4MaxS,
        M::Pcmpeqb => Wasm::I8x16Eq,
        M::Pcmpeqw => Wasm::I16x8Eq,
        M::Pcmpeqd => Wasm::I32x4Eq,
        M::Pcmpeqq => Wasm::I64x2Eq,
        M::Pcmpgtb => Wasm::I8x16GtS,
        M::Pcmpgtw => Wasm::I16x8GtS,
        M::Pcmpgtd => Wasm::I32x4GtS,
        M::Pcmpgtq => Wasm::I64x2GtS,
        M::Packsswb => Wasm::I8x16NarrowI16x8S,
        M::Packuswb => Wasm::I8x16NarrowI16x8U,
        M::Packssdw => Wasm::I16x8NarrowI32x4S,
        M::Packusdw => Wasm::I16x8NarrowI32x4U,
        M::Pand | M::Andps | M::Andpd => Wasm::V128And,
        M::Por | M::Orps | M::Orpd => Wasm::V128Or,
        M::Pxor | M::Xorps | M::Xorpd => Wasm::V128Xor,
        M::Addps => Wasm::F32x4Add,
        M::Addpd => Wasm::F64x2Add,
        M::Subps => Wasm::F32x4Sub,
        M::Subpd => Wasm::F64x2Sub,
        M::Mulps => Wasm::F32x4Mul,
        M::Mulpd => Wasm::F64x2Mul,
        M::Divps => Wasm::F32x4Div,
        M::Divpd => Wasm::F64x2Div,
        _ => return None,
    })
}

/// Operators that take the source alone.
fn unary(mnemonic: Mnemonic) -> Option<&'static [Wasm<'static>]> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pabsb => &[Wasm::I8x16Abs],
        M::Pabsw => &[Wasm::I16x8Abs],
        M::Pabsd => &[Wasm::I32x4Abs],
        M::Sqrtps => &[Wasm::F32x4Sqrt],
        M::Sqrtpd => &[Wasm::F64x2Sqrt],
        M::Cvtdq2ps => &[Wasm::F32x4ConvertI32x4S],
        M::Cvtdq2pd => &[Wasm::F64x2ConvertLowI32x4S],
        M::Cvtps2pd => &[Wasm::F64x2PromoteLowF32x4],
        M::Cvtpd2ps => &[Wasm::F32x4DemoteF64x2Zero],
        M::Pmovzxbw => &[Wasm::I16x8ExtendLowI8x16U],
        M::Pmovzxwd => &[Wasm::I32x4ExtendLowI16x8U],
        M::Pmovzxdq => &[Wasm::I64x2ExtendLowI32x4U],
        M::Pmovzxbd => &[Wasm::I16x8ExtendLowI8x16U, Wasm::I32x4ExtendLowI16x8U],
        M::Pmovzxwq => &[Wasm::I32x4ExtendLowI16x8U, Wasm::I64x2ExtendLowI32x4U],
        M::Pmovzxbq => &[Wasm::I16x8ExtendLowI8x16U, Wasm::I32x4ExtendLowI16x8U, Wasm::I64x2ExtendLowI32x4U],
        M::Pmovsxbw => &[Wasm::I16x8ExtendLowI8x16S],
        M::Pmovsxwd => &[Wasm::I32x4ExtendLowI16x8S],
        M::Pmovsxdq => &[Wasm::I64x2ExtendLowI32x4S],
        M::Pmovsxbd => &[Wasm::I16x8ExtendLowI8x16S, Wasm::I32x4ExtendLowI16x8S],
        M::Pmovsxwq => &[Wasm::I32x4ExtendLowI16x8S, Wasm::I64x2ExtendLowI32x4S],
        M::Pmovsxbq => &[Wasm::I16x8ExtendLowI8x16S, Wasm::I32x4ExtendLowI16x8S, Wasm::I64x2ExtendLowI32x4S],
        _ => return None,
    })
}

/// A shift: the operator, bits of a lane, whether too far a shift fills with the sign.
fn shift(mnemonic: Mnemonic) -> Option<(Wasm<'static>, i64, bool)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Psllw => (Wasm::I16x8Shl, 16, false),
        M::Pslld => (Wasm::I32x4Shl, 32, false),
        M::Psllq => (Wasm::I64x2Shl, 64, false),
        M::Psrlw => (Wasm::I16x8ShrU, 16, false),
        M::Psrld => (Wasm::I32x4ShrU, 32, false),
        M::Psrlq => (Wasm::I64x2ShrU, 64, false),
        M::Psraw => (Wasm::I16x8ShrS, 16, true),
        M::Psrad => (Wasm::I32x4ShrS, 32, true),
        _ => return None,
    })
}

impl Lifter<'_> {
    pub(super) fn vector(&mut self, i: &Instruction) -> Option<()> {
        // MMX registers are x87's.
        if (0..i.op_count()).any(|n| i.op_register(n).is_mm()) {
            return None;
        }
        self.vector_move(i)
            .or_else(|| self.vector_arithmetic(i))
            .or_else(|| self.shuffle(i))
            .or_else(|| self.horizontal(i))
            .or_else(|| self.float(i))
            .or_else(|| self.text(i))
    }

    /// The source operand in a v128, with zeros above what memory gives.
    pub(super) fn vector_source(&mut self, i: &Instruction, n: u32) -> Option<Expr> {
        match i.op_kind(n) {
            OpKind::Register => Some(get(xmm(i.op_register(n))?)),
            OpKind::Memory => {
                let size = i.memory_size().size();
                let (address, offset) = self.address(i)?;
                let place = memory(GUEST, offset);
                let load = match size {
                    16 => Wasm::V128Load(place),
                    8 => Wasm::V128Load64Zero(place),
                    4 => Wasm::V128Load32Zero(place),
                    2 => {
                        let value = Expr::Load(Wasm::I32Load16U(place), Box::new(address));
                        return Some(op2(Wasm::I16x8ReplaceLane(0), zero(), value));
                    }
                    _ => return None,
                };
                Some(Expr::Load(load, Box::new(address)))
            }
            _ => None,
        }
    }

    pub(super) fn set_xmm(&mut self, i: &Instruction, value: Expr) -> Option<()> {
        let var = xmm(i.op0_register())?;
        self.set(var, value);
        Some(())
    }

    fn vector_move(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        match i.mnemonic() {
            M::Movaps
            | M::Movups
            | M::Movapd
            | M::Movupd
            | M::Movdqa
            | M::Movdqu
            | M::Lddqu
            | M::Movntdq
            | M::Movntps
            | M::Movntpd
            | M::Movntdqa => {
                if i.op0_kind() == OpKind::Memory {
                    let value = get(xmm(i.op1_register())?);
                    return self.store_vector(i, Wasm::V128Store, value);
                }
                let value = self.vector_source(i, 1)?;
                self.set_xmm(i, value)
            }
            M::Movq | M::Movd => self.move_low(i),
            M::Movss | M::Movsd => self.move_scalar(i),
            M::Movlps | M::Movlpd | M::Movhps | M::Movhpd => {
                let lane = u8::from(matches!(i.mnemonic(), M::Movhps | M::Movhpd));
                if i.op0_kind() == OpKind::Memory {
                    let value = get(xmm(i.op1_register())?);
                    return self.store_vector(i, |memarg| Wasm::V128Store64Lane { memarg, lane }, value);
                }
                if i.op1_kind() != OpKind::Memory {
                    return None;
                }
                let value = self.read(i, 1)?;
                let old = get(xmm(i.op0_register())?);
                self.set_xmm(i, op2(Wasm::I64x2ReplaceLane(lane), old, value))
            }
            M::Pmovmskb | M::Movmskps | M::Movmskpd => {
                let value = get(xmm(i.op1_register())?);
                let operator = match i.mnemonic() {
                    M::Pmovmskb => Wasm::I8x16Bitmask,
                    M::Movmskps => Wasm::I32x4Bitmask,
                    _ => Wasm::I64x2Bitmask,
                };
                let mask = op1(operator, value);
                let mask = if self.size(i, 0) == 8 { extend(mask) } else { mask };
                self.write(i, 0, mask)
            }
            M::Pinsrb | M::Pinsrw | M::Pinsrd | M::Pinsrq => {
                let lane = i.immediate8();
                let operator = match i.mnemonic() {
                    M::Pinsrb => Wasm::I8x16ReplaceLane(lane & 15),
                    M::Pinsrw => Wasm::I16x8ReplaceLane(lane & 7),
                    M::Pinsrd => Wasm::I32x4ReplaceLane(lane & 3),
                    _ => Wasm::I64x2ReplaceLane(lane & 1),
                };
                let value = self.read(i, 1)?;
                let value =
                    if self.size(i, 1) == 8 && i.mnemonic() != M::Pinsrq { wrap(value) } else { value };
                let old = get(xmm(i.op0_register())?);
                self.set_xmm(i, op2(operator, old, value))
            }
            M::Pextrb | M::Pextrw | M::Pextrd | M::Pextrq | M::Extractps => {
                let lane = i.immediate8();
                let operator = match i.mnemonic() {
                    M::Pextrb => Wasm::I8x16ExtractLaneU(lane & 15),
                    M::Pextrw => Wasm::I16x8ExtractLaneU(lane & 7),
                    M::Pextrq => Wasm::I64x2ExtractLane(lane & 1),
                    _ => Wasm::I32x4ExtractLane(lane & 3),
                };
                let value = op1(operator, get(xmm(i.op1_register())?));
                let is_wide = self.size(i, 0) == 8 && i.mnemonic() != M::Pextrq;
                self.write(i, 0, if is_wide { extend(value) } else { value })
            }
            _ => None,
        }
    }

    fn store_vector(
        &mut self,
        i: &Instruction,
        operator: impl FnOnce(wasm_encoder::MemArg) -> Wasm<'static>,
        value: Expr,
    ) -> Option<()> {
        let (address, offset) = self.address(i)?;
        self.out.push(Statement::Store(operator(memory(GUEST, offset)), address, value));
        Some(())
    }

    /// `movd` and `movq`.
    fn move_low(&mut self, i: &Instruction) -> Option<()> {
        let is_wide = match i.op0_kind() {
            OpKind::Register if !i.op0_register().is_xmm() => i.op0_register().size() == 8,
            _ if i.op1_kind() == OpKind::Register && !i.op1_register().is_xmm() => {
                i.op1_register().size() == 8
            }
            _ if i.op0_kind() == OpKind::Memory || i.op1_kind() == OpKind::Memory => {
                i.memory_size().size() == 8
            }
            _ => true,
        };
        let replace = if is_wide { Wasm::I64x2ReplaceLane(0) } else { Wasm::I32x4ReplaceLane(0) };
        let extract = if is_wide { Wasm::I64x2ExtractLane(0) } else { Wasm::I32x4ExtractLane(0) };
        if let Some(source) = xmm(i.op1_register()) {
            if i.op0_kind() == OpKind::Register && i.op0_register().is_xmm() {
                let low = Expr::V128(u64::MAX.into());
                return self.set_xmm(i, op2(Wasm::V128And, get(source), low));
            }
            return self.write(i, 0, op1(extract, get(source)));
        }
        let value = if i.op1_kind() == OpKind::Memory {
            self.vector_source(i, 1)?
        } else {
            op2(replace, zero(), self.read(i, 1)?)
        };
        self.set_xmm(i, value)
    }

    /// `movss` and `movsd`.
    fn move_scalar(&mut self, i: &Instruction) -> Option<()> {
        let is_double = i.mnemonic() == Mnemonic::Movsd;
        if i.op0_kind() == OpKind::Memory {
            let value = get(xmm(i.op1_register())?);
            let lane = 0;
            return self.store_vector(
                i,
                |memarg| {
                    if is_double {
                        Wasm::V128Store64Lane { memarg, lane }
                    } else {
                        Wasm::V128Store32Lane { memarg, lane }
                    }
                },
                value,
            );
        }
        let value = self.vector_source(i, 1)?;
        if i.op1_kind() == OpKind::Memory {
            return self.set_xmm(i, value);
        }
        let old = get(xmm(i.op0_register())?);
        let (replace, extract) = if is_double {
            (Wasm::F64x2ReplaceLane(0), Wasm::F64x2ExtractLane(0))
        } else {
            (Wasm::F32x4ReplaceLane(0), Wasm::F32x4ExtractLane(0))
        };
        self.set_xmm(i, op2(replace, old, op1(extract, value)))
    }

    fn vector_arithmetic(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        let is_same = i.op1_kind() == OpKind::Register && i.op0_register() == i.op1_register();
        if is_same
            && matches!(
                i.mnemonic(),
                M::Pxor | M::Xorps | M::Xorpd | M::Psubb | M::Psubw | M::Psubd | M::Psubq
            )
        {
            return self.set_xmm(i, zero());
        }
        if is_same && matches!(i.mnemonic(), M::Pcmpeqb | M::Pcmpeqw | M::Pcmpeqd | M::Pcmpeqq) {
            return self.set_xmm(i, Expr::V128(u128::MAX));
        }
        if let Some(operator) = binary(i.mnemonic()) {
            let old = get(xmm(i.op0_register())?);
            let source = self.vector_source(i, 1)?;
            return self.set_xmm(i, op2(operator, old, source));
        }
        if let Some(operators) = unary(i.mnemonic()) {
            let source = self.vector_source(i, 1)?;
            let value = operators.iter().fold(source, |value, operator| op1(operator.clone(), value));
            return self.set_xmm(i, value);
        }
        if let Some((operator, bits, is_signed)) = shift(i.mnemonic()) {
            return self.vector_shift(i, operator, bits, is_signed);
        }
        let old = || xmm(i.op0_register()).map(get);
        match i.mnemonic() {
            M::Pandn | M::Andnps | M::Andnpd => {
                let source = self.vector_source(i, 1)?;
                self.set_xmm(i, op2(Wasm::V128AndNot, source, old()?))
            }
            M::Pmulhw | M::Pmulhuw => {
                let source = self.vector_source(i, 1)?;
                let source = self.keep(Type::V128, source);
                let (low, high) = if i.mnemonic() == M::Pmulhw {
                    (Wasm::I32x4ExtMulLowI16x8S, Wasm::I32x4ExtMulHighI16x8S)
                } else {
                    (Wasm::I32x4ExtMulLowI16x8U, Wasm::I32x4ExtMulHighI16x8U)
                };
                let low = op2(low, old()?, source.clone());
                let high = op2(high, old()?, source);
                let lanes = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31];
                self.set_xmm(i, op2(Wasm::I8x16Shuffle(lanes), low, high))
            }
            M::Pmuludq | M::Pmuldq => {
                let source = self.vector_source(i, 1)?;
                let source = self.keep(Type::V128, source);
                let lanes = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];
                let even = |value: Expr| op2(Wasm::I8x16Shuffle(lanes), value.clone(), value);
                let operator = if i.mnemonic() == M::Pmuludq {
                    Wasm::I64x2ExtMulLowI32x4U
                } else {
                    Wasm::I64x2ExtMulLowI32x4S
                };
                self.set_xmm(i, op2(operator, even(old()?), even(source)))
            }
            M::Ptest => {
                let source = self.vector_source(i, 1)?;
                let source = self.keep(Type::V128, source);
                let old = old()?;
                self.set_bits(|n| match n {
                    ZF => Some(not(op1(Wasm::V128AnyTrue, op2(Wasm::V128And, source.clone(), old.clone())))),
                    CF => {
                        Some(not(op1(Wasm::V128AnyTrue, op2(Wasm::V128AndNot, source.clone(), old.clone()))))
                    }
                    _ => None,
                });
                Some(())
            }
            M::Pblendvb | M::Blendvps | M::Blendvpd => {
                let source = self.vector_source(i, 1)?;
                let mask = get(Var::xmm(0));
                let mask = match i.mnemonic() {
                    M::Pblendvb => op2(Wasm::I8x16ShrS, mask, Expr::I32(7)),
                    M::Blendvps => op2(Wasm::I32x4ShrS, mask, Expr::I32(31)),
                    _ => op2(Wasm::I64x2ShrS, mask, Expr::I32(63)),
                };
                self.set_xmm(i, Expr::Op(Wasm::V128Bitselect, vec![source, old()?, mask]))
            }
            _ => None,
        }
    }

    fn vector_shift(
        &mut self,
        i: &Instruction,
        operator: Wasm<'static>,
        bits: i64,
        is_signed: bool,
    ) -> Option<()> {
        let old = get(xmm(i.op0_register())?);
        if i.op1_kind() == OpKind::Immediate8 {
            let count = i64::from(i.immediate8());
            let value = match count {
                count if count < bits => op2(operator, old, Expr::I32(count as i32)),
                _ if is_signed => op2(operator, old, Expr::I32(bits as i32 - 1)),
                _ => zero(),
            };
            return self.set_xmm(i, value);
        }
        let source = self.vector_source(i, 1)?;
        let count = self.keep(Type::I64, op1(Wasm::I64x2ExtractLane(0), source));
        let fits = alu(Alu::LtU, 8, count.clone(), Expr::I64(bits));
        let value = if is_signed {
            let count = select(fits, wrap(count), Expr::I32(bits as i32 - 1));
            op2(operator, old, count)
        } else {
            let shifted = op2(operator, old, wrap(count));
            let all = op1(Wasm::I64x2Splat, alu(Alu::Sub, 8, Expr::I64(0), extend(fits)));
            op2(Wasm::V128And, shifted, all)
        };
        self.set_xmm(i, value)
    }

    /// A constant with the same lanes, for other topics.
    pub(super) fn splat(bits: u64, size: u32) -> Expr {
        splat(bits, size)
    }
}
