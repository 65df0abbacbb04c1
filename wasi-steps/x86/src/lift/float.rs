//! Scalar floating point, conversions, rounding and comparisons.
//!
//! Additions and their kin are the same instructions on both sides and obey the same MXCSR. A minimum of x86 gives its
//! second operand when in doubt, which is WebAssembly's pseudo-minimum with the operands exchanged. Conversions to
//! integers that round as MXCSR says are the interpreter's.

use iced_x86::{Instruction, Mnemonic, OpKind};
use wasm_encoder::{Ieee64, Instruction as Wasm};

use super::ir::{Expr, GUEST, Type, and, get, memory, op1, op2, select};
use super::lifter::Lifter;
use super::vector::xmm;

/// An operator on single and double scalars.
fn arithmetic(mnemonic: Mnemonic) -> Option<(Wasm<'static>, bool)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Addss => (Wasm::F32Add, false),
        M::Addsd => (Wasm::F64Add, true),
        M::Subss => (Wasm::F32Sub, false),
        M::Subsd => (Wasm::F64Sub, true),
        M::Mulss => (Wasm::F32Mul, false),
        M::Mulsd => (Wasm::F64Mul, true),
        M::Divss => (Wasm::F32Div, false),
        M::Divsd => (Wasm::F64Div, true),
        _ => return None,
    })
}

/// The rounding of an immediate; `None` when MXCSR decides.
fn rounding(immediate: u8) -> Option<usize> {
    (immediate & 4 == 0).then_some(usize::from(immediate & 3))
}

/// A comparison by its immediate: whether it is on the operands as they stand, and negated.
fn comparison(immediate: u8, is_double: bool) -> Option<(Wasm<'static>, bool)> {
    let (operator, is_negated) = match immediate & 7 {
        0 => ((Wasm::F32x4Eq, Wasm::F64x2Eq), false),
        1 => ((Wasm::F32x4Lt, Wasm::F64x2Lt), false),
        2 => ((Wasm::F32x4Le, Wasm::F64x2Le), false),
        4 => ((Wasm::F32x4Ne, Wasm::F64x2Ne), false),
        5 => ((Wasm::F32x4Lt, Wasm::F64x2Lt), true),
        6 => ((Wasm::F32x4Le, Wasm::F64x2Le), true),
        _ => return None,
    };
    Some((if is_double { operator.1 } else { operator.0 }, is_negated))
}

fn is_extreme(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(mnemonic, M::Minss | M::Minsd | M::Minps | M::Minpd | M::Maxss | M::Maxsd | M::Maxps | M::Maxpd)
}

impl Lifter<'_> {
    pub(super) fn float(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        if let Some((operator, is_double)) = arithmetic(i.mnemonic()) {
            let source = self.scalar_source(i, 1, is_double)?;
            let old = self.scalar_target(i, is_double)?;
            return self.set_scalar(i, is_double, op2(operator, old, source));
        }
        // The engine takes the smaller of a number and itself to be the number, x86 may flush it to zero.
        if is_extreme(i.mnemonic()) && i.op0_register() == i.op1_register() {
            return None;
        }
        match i.mnemonic() {
            M::Sqrtss | M::Sqrtsd => {
                let is_double = i.mnemonic() == M::Sqrtsd;
                let source = self.scalar_source(i, 1, is_double)?;
                self.set_scalar(
                    i,
                    is_double,
                    op1(if is_double { Wasm::F64Sqrt } else { Wasm::F32Sqrt }, source),
                )
            }
            M::Minss | M::Minsd | M::Maxss | M::Maxsd => {
                let (operator, is_double) = match i.mnemonic() {
                    M::Minss => (Wasm::F32x4PMin, false),
                    M::Minsd => (Wasm::F64x2PMin, true),
                    M::Maxss => (Wasm::F32x4PMax, false),
                    _ => (Wasm::F64x2PMax, true),
                };
                let old = get(xmm(i.op0_register())?);
                let source = self.vector_source(i, 1)?;
                let value = op1(Self::extract(is_double), op2(operator, source, old));
                self.set_scalar(i, is_double, value)
            }
            M::Minps | M::Minpd | M::Maxps | M::Maxpd => {
                let operator = match i.mnemonic() {
                    M::Minps => Wasm::F32x4PMin,
                    M::Minpd => Wasm::F64x2PMin,
                    M::Maxps => Wasm::F32x4PMax,
                    _ => Wasm::F64x2PMax,
                };
                let old = get(xmm(i.op0_register())?);
                let source = self.vector_source(i, 1)?;
                self.set_xmm(i, op2(operator, source, old))
            }
            M::Ucomiss | M::Comiss | M::Ucomisd | M::Comisd => {
                let is_double = matches!(i.mnemonic(), M::Ucomisd | M::Comisd);
                let source = self.scalar_source(i, 1, is_double)?;
                let old = self.scalar_target(i, is_double)?;
                if self.wanted().any() == 0 {
                    self.touch(source);
                    return Some(());
                }
                self.set_float(is_double, old, source);
                Some(())
            }
            M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd => self.compare_vectors(i),
            M::Roundss | M::Roundsd | M::Roundps | M::Roundpd => self.round(i),
            _ => self.convert(i),
        }
    }

    fn extract(is_double: bool) -> Wasm<'static> {
        if is_double { Wasm::F64x2ExtractLane(0) } else { Wasm::F32x4ExtractLane(0) }
    }

    /// A scalar operand as an f64 or f32.
    fn scalar_source(&mut self, i: &Instruction, n: u32, is_double: bool) -> Option<Expr> {
        if i.op_kind(n) == OpKind::Memory {
            let (address, offset) = self.address(i)?;
            let place = memory(GUEST, offset);
            let load = if is_double { Wasm::F64Load(place) } else { Wasm::F32Load(place) };
            return Some(Expr::Load(load, Box::new(address)));
        }
        Some(op1(Self::extract(is_double), get(xmm(i.op_register(n))?)))
    }

    fn scalar_target(&mut self, i: &Instruction, is_double: bool) -> Option<Expr> {
        Some(op1(Self::extract(is_double), get(xmm(i.op0_register())?)))
    }

    /// Replaces the lowest lane of the destination.
    fn set_scalar(&mut self, i: &Instruction, is_double: bool, value: Expr) -> Option<()> {
        let old = get(xmm(i.op0_register())?);
        let operator = if is_double { Wasm::F64x2ReplaceLane(0) } else { Wasm::F32x4ReplaceLane(0) };
        self.set_xmm(i, op2(operator, old, value))
    }

    fn compare_vectors(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        if !matches!(i.op2_kind(), OpKind::Immediate8) || i.immediate8() > 7 {
            return None;
        }
        let is_double = matches!(i.mnemonic(), M::Cmppd | M::Cmpsd);
        let is_scalar = matches!(i.mnemonic(), M::Cmpss | M::Cmpsd);
        let old = get(xmm(i.op0_register())?);
        let source = self.vector_source(i, 1)?;
        let source = self.keep(Type::V128, source);
        let value = match comparison(i.immediate8(), is_double) {
            Some((operator, is_negated)) => {
                let value = op2(operator, old.clone(), source);
                if is_negated { op1(Wasm::V128Not, value) } else { value }
            }
            None => {
                let operator = if is_double { Wasm::F64x2Eq } else { Wasm::F32x4Eq };
                let itself = |value: Expr| op2(operator.clone(), value.clone(), value);
                let ordered = op2(Wasm::V128And, itself(old.clone()), itself(source));
                if i.immediate8() & 7 == 3 { op1(Wasm::V128Not, ordered) } else { ordered }
            }
        };
        if !is_scalar {
            return self.set_xmm(i, value);
        }
        let (extract, replace) = if is_double {
            (Wasm::I64x2ExtractLane(0), Wasm::I64x2ReplaceLane(0))
        } else {
            (Wasm::I32x4ExtractLane(0), Wasm::I32x4ReplaceLane(0))
        };
        self.set_xmm(i, op2(replace, old, op1(extract, value)))
    }

    fn round(&mut self, i: &Instruction) -> Option<()> {
        let mode = rounding(i.immediate8())?;
        let (operators, scalar) = match i.mnemonic() {
            Mnemonic::Roundps => {
                ([Wasm::F32x4Nearest, Wasm::F32x4Floor, Wasm::F32x4Ceil, Wasm::F32x4Trunc], None)
            }
            Mnemonic::Roundpd => {
                ([Wasm::F64x2Nearest, Wasm::F64x2Floor, Wasm::F64x2Ceil, Wasm::F64x2Trunc], None)
            }
            Mnemonic::Roundss => {
                ([Wasm::F32Nearest, Wasm::F32Floor, Wasm::F32Ceil, Wasm::F32Trunc], Some(false))
            }
            _ => ([Wasm::F64Nearest, Wasm::F64Floor, Wasm::F64Ceil, Wasm::F64Trunc], Some(true)),
        };
        let operator = operators[mode].clone();
        match scalar {
            None => {
                let source = self.vector_source(i, 1)?;
                self.set_xmm(i, op1(operator, source))
            }
            Some(is_double) => {
                let source = self.scalar_source(i, 1, is_double)?;
                self.set_scalar(i, is_double, op1(operator, source))
            }
        }
    }

    fn convert(&mut self, i: &Instruction) -> Option<()> {
        use Mnemonic as M;
        match i.mnemonic() {
            M::Cvtsi2sd | M::Cvtsi2ss => {
                let is_double = i.mnemonic() == M::Cvtsi2sd;
                let is_wide = self.size(i, 1) == 8;
                let value = self.read(i, 1)?;
                let operator = match (is_double, is_wide) {
                    (true, true) => Wasm::F64ConvertI64S,
                    (true, false) => Wasm::F64ConvertI32S,
                    (false, true) => Wasm::F32ConvertI64S,
                    (false, false) => Wasm::F32ConvertI32S,
                };
                self.set_scalar(i, is_double, op1(operator, value))
            }
            M::Cvtss2sd => {
                let source = self.scalar_source(i, 1, false)?;
                self.set_scalar(i, true, op1(Wasm::F64PromoteF32, source))
            }
            M::Cvtsd2ss => {
                let source = self.scalar_source(i, 1, true)?;
                self.set_scalar(i, false, op1(Wasm::F32DemoteF64, source))
            }
            M::Cvttsd2si | M::Cvttss2si => {
                let is_double = i.mnemonic() == M::Cvttsd2si;
                let source = self.scalar_source(i, 1, is_double)?;
                // Every single is a double.
                let source = if is_double { source } else { op1(Wasm::F64PromoteF32, source) };
                let source = self.keep(Type::F64, source);
                let number = |value: f64| Expr::Op(Wasm::F64Const(Ieee64::new(value.to_bits())), Vec::new());
                let value = if self.size(i, 0) == 8 {
                    let fits = op2(
                        Wasm::F64Lt,
                        op1(Wasm::F64Abs, source.clone()),
                        number(9_223_372_036_854_775_808.0),
                    );
                    select(fits, op1(Wasm::I64TruncSatF64S, source), Expr::I64(i64::MIN))
                } else {
                    let fits = and(
                        op2(Wasm::F64Gt, source.clone(), number(-2_147_483_649.0)),
                        op2(Wasm::F64Lt, source.clone(), number(2_147_483_648.0)),
                    );
                    select(fits, op1(Wasm::I32TruncSatF64S, source), Expr::I32(i32::MIN))
                };
                self.write(i, 0, value)
            }
            M::Cvttps2dq => {
                let source = self.vector_source(i, 1)?;
                let source = self.keep(Type::V128, source);
                let limit = Self::splat(u64::from(2_147_483_648.0_f32.to_bits()), 4);
                let fits = op2(Wasm::F32x4Lt, op1(Wasm::F32x4Abs, source.clone()), limit);
                let value = op1(Wasm::I32x4TruncSatF32x4S, source);
                let indefinite = Self::splat(0x8000_0000, 4);
                self.set_xmm(i, Expr::Op(Wasm::V128Bitselect, vec![value, indefinite, fits]))
            }
            _ => None,
        }
    }
}
