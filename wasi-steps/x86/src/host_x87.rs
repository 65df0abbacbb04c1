//! x87 instructions, executed by the host's unit on the guest's state.
//!
//! Each call loads the guest's whole x87 state, runs one instruction and saves the state again, so that rounding,
//! tags and condition codes are the processor's. All exceptions are masked meanwhile.
#![allow(unsafe_code, reason = "x87 arithmetic of the guest is executed by the host's instructions")]

use std::arch::asm;

use iced_x86::Code;

/// Size of the state in memory, in the format of FNSAVE.
pub(crate) const IMAGE: usize = 108;

/// The state, a memory operand and the arithmetic flags, in and out.
#[derive(Debug)]
pub(crate) struct Unit {
    /// The x87 state as FNSAVE writes it.
    pub(crate) image: [u8; IMAGE],
    /// The operand in memory.
    pub(crate) operand: [u8; 16],
    /// RFLAGS, for the instructions that read or set them.
    pub(crate) flags: u64,
}

/// What an instruction does with its operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// It has none.
    None,
    /// It loads this many bytes.
    Load(usize),
    /// It stores this many bytes.
    Store(usize),
}

/// Runs an instruction between loading and saving the state.
macro_rules! run {
    ($unit:ident, $text:expr) => {
        // SAFETY: the image and the operand are as large as the instructions need; the unit is empty before and after.
        unsafe {
            asm!("frstor [{image}]", $text, "fnsave [{image}]",
                image = in(reg) &raw mut $unit.image, operand = in(reg) &raw mut $unit.operand,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _)
        }
    };
}

/// As `run` with the flags.
macro_rules! run_with_flags {
    ($unit:ident, $text:expr) => {
        // SAFETY: as in `run`; only arithmetic flags are loaded.
        unsafe {
            asm!("frstor [{image}]", "push {flags}", "popfq", $text, "pushfq", "pop {flags}", "fnsave [{image}]",
                "/* {operand} */",
                image = in(reg) &raw mut $unit.image, operand = in(reg) &raw mut $unit.operand,
                flags = inout(reg) $unit.flags,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _)
        }
    };
}

/// One instruction for each register of the stack.
macro_rules! indexed {
    ($run:ident, $unit:ident, $index:ident, $before:literal, $after:literal) => {
        match $index & 7 {
            0 => $run!($unit, concat!($before, "0", $after, " /* {operand} */")),
            1 => $run!($unit, concat!($before, "1", $after, " /* {operand} */")),
            2 => $run!($unit, concat!($before, "2", $after, " /* {operand} */")),
            3 => $run!($unit, concat!($before, "3", $after, " /* {operand} */")),
            4 => $run!($unit, concat!($before, "4", $after, " /* {operand} */")),
            5 => $run!($unit, concat!($before, "5", $after, " /* {operand} */")),
            6 => $run!($unit, concat!($before, "6", $after, " /* {operand} */")),
            _ => $run!($unit, concat!($before, "7", $after, " /* {operand} */")),
        }
    };
}

/// What an instruction does with memory; `None` when it is not executed here.
pub(crate) fn operand(code: Code) -> Option<Operand> {
    Some(match code {
        Code::Fild_m16int
        | Code::Fiadd_m16int
        | Code::Fimul_m16int
        | Code::Ficom_m16int
        | Code::Ficomp_m16int
        | Code::Fisub_m16int
        | Code::Fisubr_m16int
        | Code::Fidiv_m16int
        | Code::Fidivr_m16int => Operand::Load(2),
        Code::Fld_m32fp
        | Code::Fild_m32int
        | Code::Fadd_m32fp
        | Code::Fiadd_m32int
        | Code::Fmul_m32fp
        | Code::Fimul_m32int
        | Code::Fcom_m32fp
        | Code::Ficom_m32int
        | Code::Fcomp_m32fp
        | Code::Ficomp_m32int
        | Code::Fsub_m32fp
        | Code::Fisub_m32int
        | Code::Fsubr_m32fp
        | Code::Fisubr_m32int
        | Code::Fdiv_m32fp
        | Code::Fidiv_m32int
        | Code::Fdivr_m32fp
        | Code::Fidivr_m32int => Operand::Load(4),
        Code::Fld_m64fp
        | Code::Fild_m64int
        | Code::Fadd_m64fp
        | Code::Fmul_m64fp
        | Code::Fcom_m64fp
        | Code::Fcomp_m64fp
        | Code::Fsub_m64fp
        | Code::Fsubr_m64fp
        | Code::Fdiv_m64fp
        | Code::Fdivr_m64fp => Operand::Load(8),
        Code::Fld_m80fp | Code::Fbld_m80bcd => Operand::Load(10),
        Code::Fist_m16int | Code::Fistp_m16int | Code::Fisttp_m16int => Operand::Store(2),
        Code::Fst_m32fp | Code::Fstp_m32fp | Code::Fist_m32int | Code::Fistp_m32int | Code::Fisttp_m32int => {
            Operand::Store(4)
        }
        Code::Fst_m64fp | Code::Fstp_m64fp | Code::Fistp_m64int | Code::Fisttp_m64int => Operand::Store(8),
        Code::Fstp_m80fp | Code::Fbstp_m80bcd => Operand::Store(10),
        Code::Fadd_st0_sti
        | Code::Fadd_sti_st0
        | Code::Faddp_sti_st0
        | Code::Fmul_st0_sti
        | Code::Fmul_sti_st0
        | Code::Fmulp_sti_st0
        | Code::Fsub_st0_sti
        | Code::Fsub_sti_st0
        | Code::Fsubp_sti_st0
        | Code::Fsubr_st0_sti
        | Code::Fsubr_sti_st0
        | Code::Fsubrp_sti_st0
        | Code::Fdiv_st0_sti
        | Code::Fdiv_sti_st0
        | Code::Fdivp_sti_st0
        | Code::Fdivr_st0_sti
        | Code::Fdivr_sti_st0
        | Code::Fdivrp_sti_st0
        | Code::Fcom_st0_sti
        | Code::Fcom_st0_sti_DCD0
        | Code::Fcomp_st0_sti
        | Code::Fcomp_st0_sti_DCD8
        | Code::Fcomp_st0_sti_DED0
        | Code::Fucom_st0_sti
        | Code::Fucomp_st0_sti
        | Code::Fxch_st0_sti
        | Code::Fxch_st0_sti_DDC8
        | Code::Fxch_st0_sti_DFC8
        | Code::Fld_sti
        | Code::Fst_sti
        | Code::Fstp_sti
        | Code::Fstp_sti_DFD0
        | Code::Fstp_sti_DFD8
        | Code::Ffree_sti
        | Code::Ffreep_sti
        | Code::Fcomi_st0_sti
        | Code::Fcomip_st0_sti
        | Code::Fucomi_st0_sti
        | Code::Fucomip_st0_sti
        | Code::Fcmovb_st0_sti
        | Code::Fcmove_st0_sti
        | Code::Fcmovbe_st0_sti
        | Code::Fcmovu_st0_sti
        | Code::Fcmovnb_st0_sti
        | Code::Fcmovne_st0_sti
        | Code::Fcmovnbe_st0_sti
        | Code::Fcmovnu_st0_sti
        | Code::Fchs
        | Code::Fabs
        | Code::Ftst
        | Code::Fxam
        | Code::Fld1
        | Code::Fldl2t
        | Code::Fldl2e
        | Code::Fldpi
        | Code::Fldlg2
        | Code::Fldln2
        | Code::Fldz
        | Code::F2xm1
        | Code::Fyl2x
        | Code::Fptan
        | Code::Fpatan
        | Code::Fxtract
        | Code::Fprem1
        | Code::Fdecstp
        | Code::Fincstp
        | Code::Fprem
        | Code::Fyl2xp1
        | Code::Fsqrt
        | Code::Fsincos
        | Code::Frndint
        | Code::Fscale
        | Code::Fsin
        | Code::Fcos
        | Code::Fucompp
        | Code::Fcompp => Operand::None,
        _ => return None,
    })
}

/// Executes an instruction that [`operand`] knows; `index` is the stack register it names.
pub(crate) fn execute(unit: &mut Unit, code: Code, index: usize) {
    match code {
        Code::Fadd_st0_sti => indexed!(run, unit, index, "fadd st(0), st(", ")"),
        Code::Fadd_sti_st0 => indexed!(run, unit, index, "fadd st(", "), st(0)"),
        Code::Faddp_sti_st0 => indexed!(run, unit, index, "faddp st(", "), st(0)"),
        Code::Fmul_st0_sti => indexed!(run, unit, index, "fmul st(0), st(", ")"),
        Code::Fmul_sti_st0 => indexed!(run, unit, index, "fmul st(", "), st(0)"),
        Code::Fmulp_sti_st0 => indexed!(run, unit, index, "fmulp st(", "), st(0)"),
        Code::Fsub_st0_sti => indexed!(run, unit, index, "fsub st(0), st(", ")"),
        Code::Fsub_sti_st0 => indexed!(run, unit, index, "fsub st(", "), st(0)"),
        Code::Fsubp_sti_st0 => indexed!(run, unit, index, "fsubp st(", "), st(0)"),
        Code::Fsubr_st0_sti => indexed!(run, unit, index, "fsubr st(0), st(", ")"),
        Code::Fsubr_sti_st0 => indexed!(run, unit, index, "fsubr st(", "), st(0)"),
        Code::Fsubrp_sti_st0 => indexed!(run, unit, index, "fsubrp st(", "), st(0)"),
        Code::Fdiv_st0_sti => indexed!(run, unit, index, "fdiv st(0), st(", ")"),
        Code::Fdiv_sti_st0 => indexed!(run, unit, index, "fdiv st(", "), st(0)"),
        Code::Fdivp_sti_st0 => indexed!(run, unit, index, "fdivp st(", "), st(0)"),
        Code::Fdivr_st0_sti => indexed!(run, unit, index, "fdivr st(0), st(", ")"),
        Code::Fdivr_sti_st0 => indexed!(run, unit, index, "fdivr st(", "), st(0)"),
        Code::Fdivrp_sti_st0 => indexed!(run, unit, index, "fdivrp st(", "), st(0)"),
        Code::Fcom_st0_sti => indexed!(run, unit, index, "fcom st(", ")"),
        Code::Fcom_st0_sti_DCD0 => indexed!(run, unit, index, "fcom st(", ")"),
        Code::Fcomp_st0_sti => indexed!(run, unit, index, "fcomp st(", ")"),
        Code::Fcomp_st0_sti_DCD8 => indexed!(run, unit, index, "fcomp st(", ")"),
        Code::Fcomp_st0_sti_DED0 => indexed!(run, unit, index, "fcomp st(", ")"),
        Code::Fucom_st0_sti => indexed!(run, unit, index, "fucom st(", ")"),
        Code::Fucomp_st0_sti => indexed!(run, unit, index, "fucomp st(", ")"),
        Code::Fxch_st0_sti => indexed!(run, unit, index, "fxch st(", ")"),
        Code::Fxch_st0_sti_DDC8 => indexed!(run, unit, index, "fxch st(", ")"),
        Code::Fxch_st0_sti_DFC8 => indexed!(run, unit, index, "fxch st(", ")"),
        Code::Fld_sti => indexed!(run, unit, index, "fld st(", ")"),
        Code::Fst_sti => indexed!(run, unit, index, "fst st(", ")"),
        Code::Fstp_sti => indexed!(run, unit, index, "fstp st(", ")"),
        Code::Fstp_sti_DFD0 => indexed!(run, unit, index, "fstp st(", ")"),
        Code::Fstp_sti_DFD8 => indexed!(run, unit, index, "fstp st(", ")"),
        Code::Ffree_sti => indexed!(run, unit, index, "ffree st(", ")"),
        Code::Ffreep_sti => indexed!(run, unit, index, "ffreep st(", ")"),
        Code::Fcomi_st0_sti => indexed!(run_with_flags, unit, index, "fcomi st, st(", ")"),
        Code::Fcomip_st0_sti => indexed!(run_with_flags, unit, index, "fcomip st, st(", ")"),
        Code::Fucomi_st0_sti => indexed!(run_with_flags, unit, index, "fucomi st, st(", ")"),
        Code::Fucomip_st0_sti => indexed!(run_with_flags, unit, index, "fucomip st, st(", ")"),
        Code::Fcmovb_st0_sti => indexed!(run_with_flags, unit, index, "fcmovb st, st(", ")"),
        Code::Fcmove_st0_sti => indexed!(run_with_flags, unit, index, "fcmove st, st(", ")"),
        Code::Fcmovbe_st0_sti => indexed!(run_with_flags, unit, index, "fcmovbe st, st(", ")"),
        Code::Fcmovu_st0_sti => indexed!(run_with_flags, unit, index, "fcmovu st, st(", ")"),
        Code::Fcmovnb_st0_sti => indexed!(run_with_flags, unit, index, "fcmovnb st, st(", ")"),
        Code::Fcmovne_st0_sti => indexed!(run_with_flags, unit, index, "fcmovne st, st(", ")"),
        Code::Fcmovnbe_st0_sti => indexed!(run_with_flags, unit, index, "fcmovnbe st, st(", ")"),
        Code::Fcmovnu_st0_sti => indexed!(run_with_flags, unit, index, "fcmovnu st, st(", ")"),
        Code::Fchs => run!(unit, "fchs /* {operand} */"),
        Code::Fabs => run!(unit, "fabs /* {operand} */"),
        Code::Ftst => run!(unit, "ftst /* {operand} */"),
        Code::Fxam => run!(unit, "fxam /* {operand} */"),
        Code::Fld1 => run!(unit, "fld1 /* {operand} */"),
        Code::Fldl2t => run!(unit, "fldl2t /* {operand} */"),
        Code::Fldl2e => run!(unit, "fldl2e /* {operand} */"),
        Code::Fldpi => run!(unit, "fldpi /* {operand} */"),
        Code::Fldlg2 => run!(unit, "fldlg2 /* {operand} */"),
        Code::Fldln2 => run!(unit, "fldln2 /* {operand} */"),
        Code::Fldz => run!(unit, "fldz /* {operand} */"),
        Code::F2xm1 => run!(unit, "f2xm1 /* {operand} */"),
        Code::Fyl2x => run!(unit, "fyl2x /* {operand} */"),
        Code::Fptan => run!(unit, "fptan /* {operand} */"),
        Code::Fpatan => run!(unit, "fpatan /* {operand} */"),
        Code::Fxtract => run!(unit, "fxtract /* {operand} */"),
        Code::Fprem1 => run!(unit, "fprem1 /* {operand} */"),
        Code::Fdecstp => run!(unit, "fdecstp /* {operand} */"),
        Code::Fincstp => run!(unit, "fincstp /* {operand} */"),
        Code::Fprem => run!(unit, "fprem /* {operand} */"),
        Code::Fyl2xp1 => run!(unit, "fyl2xp1 /* {operand} */"),
        Code::Fsqrt => run!(unit, "fsqrt /* {operand} */"),
        Code::Fsincos => run!(unit, "fsincos /* {operand} */"),
        Code::Frndint => run!(unit, "frndint /* {operand} */"),
        Code::Fscale => run!(unit, "fscale /* {operand} */"),
        Code::Fsin => run!(unit, "fsin /* {operand} */"),
        Code::Fcos => run!(unit, "fcos /* {operand} */"),
        Code::Fucompp => run!(unit, "fucompp /* {operand} */"),
        Code::Fcompp => run!(unit, "fcompp /* {operand} */"),
        Code::Fld_m32fp => run!(unit, "fld dword ptr [{operand}]"),
        Code::Fld_m64fp => run!(unit, "fld qword ptr [{operand}]"),
        Code::Fld_m80fp => run!(unit, "fld tbyte ptr [{operand}]"),
        Code::Fild_m16int => run!(unit, "fild word ptr [{operand}]"),
        Code::Fild_m32int => run!(unit, "fild dword ptr [{operand}]"),
        Code::Fild_m64int => run!(unit, "fild qword ptr [{operand}]"),
        Code::Fbld_m80bcd => run!(unit, "fbld tbyte ptr [{operand}]"),
        Code::Fadd_m32fp => run!(unit, "fadd dword ptr [{operand}]"),
        Code::Fadd_m64fp => run!(unit, "fadd qword ptr [{operand}]"),
        Code::Fiadd_m16int => run!(unit, "fiadd word ptr [{operand}]"),
        Code::Fiadd_m32int => run!(unit, "fiadd dword ptr [{operand}]"),
        Code::Fmul_m32fp => run!(unit, "fmul dword ptr [{operand}]"),
        Code::Fmul_m64fp => run!(unit, "fmul qword ptr [{operand}]"),
        Code::Fimul_m16int => run!(unit, "fimul word ptr [{operand}]"),
        Code::Fimul_m32int => run!(unit, "fimul dword ptr [{operand}]"),
        Code::Fcom_m32fp => run!(unit, "fcom dword ptr [{operand}]"),
        Code::Fcom_m64fp => run!(unit, "fcom qword ptr [{operand}]"),
        Code::Ficom_m16int => run!(unit, "ficom word ptr [{operand}]"),
        Code::Ficom_m32int => run!(unit, "ficom dword ptr [{operand}]"),
        Code::Fcomp_m32fp => run!(unit, "fcomp dword ptr [{operand}]"),
        Code::Fcomp_m64fp => run!(unit, "fcomp qword ptr [{operand}]"),
        Code::Ficomp_m16int => run!(unit, "ficomp word ptr [{operand}]"),
        Code::Ficomp_m32int => run!(unit, "ficomp dword ptr [{operand}]"),
        Code::Fsub_m32fp => run!(unit, "fsub dword ptr [{operand}]"),
        Code::Fsub_m64fp => run!(unit, "fsub qword ptr [{operand}]"),
        Code::Fisub_m16int => run!(unit, "fisub word ptr [{operand}]"),
        Code::Fisub_m32int => run!(unit, "fisub dword ptr [{operand}]"),
        Code::Fsubr_m32fp => run!(unit, "fsubr dword ptr [{operand}]"),
        Code::Fsubr_m64fp => run!(unit, "fsubr qword ptr [{operand}]"),
        Code::Fisubr_m16int => run!(unit, "fisubr word ptr [{operand}]"),
        Code::Fisubr_m32int => run!(unit, "fisubr dword ptr [{operand}]"),
        Code::Fdiv_m32fp => run!(unit, "fdiv dword ptr [{operand}]"),
        Code::Fdiv_m64fp => run!(unit, "fdiv qword ptr [{operand}]"),
        Code::Fidiv_m16int => run!(unit, "fidiv word ptr [{operand}]"),
        Code::Fidiv_m32int => run!(unit, "fidiv dword ptr [{operand}]"),
        Code::Fdivr_m32fp => run!(unit, "fdivr dword ptr [{operand}]"),
        Code::Fdivr_m64fp => run!(unit, "fdivr qword ptr [{operand}]"),
        Code::Fidivr_m16int => run!(unit, "fidivr word ptr [{operand}]"),
        Code::Fidivr_m32int => run!(unit, "fidivr dword ptr [{operand}]"),
        Code::Fst_m32fp => run!(unit, "fst dword ptr [{operand}]"),
        Code::Fstp_m32fp => run!(unit, "fstp dword ptr [{operand}]"),
        Code::Fst_m64fp => run!(unit, "fst qword ptr [{operand}]"),
        Code::Fstp_m64fp => run!(unit, "fstp qword ptr [{operand}]"),
        Code::Fstp_m80fp => run!(unit, "fstp tbyte ptr [{operand}]"),
        Code::Fist_m16int => run!(unit, "fist word ptr [{operand}]"),
        Code::Fist_m32int => run!(unit, "fist dword ptr [{operand}]"),
        Code::Fistp_m16int => run!(unit, "fistp word ptr [{operand}]"),
        Code::Fistp_m32int => run!(unit, "fistp dword ptr [{operand}]"),
        Code::Fistp_m64int => run!(unit, "fistp qword ptr [{operand}]"),
        Code::Fisttp_m16int => run!(unit, "fisttp word ptr [{operand}]"),
        Code::Fisttp_m32int => run!(unit, "fisttp dword ptr [{operand}]"),
        Code::Fisttp_m64int => run!(unit, "fisttp qword ptr [{operand}]"),
        Code::Fbstp_m80bcd => run!(unit, "fbstp tbyte ptr [{operand}]"),
        _ => {}
    }
}
