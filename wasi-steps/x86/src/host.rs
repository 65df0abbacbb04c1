//! Instructions of the host processor that compute for the guest: floating point with the guest's rounding.
//!
//! While guest code runs, the host's MXCSR holds the guest's rounding and flush modes with all exceptions masked, and
//! collects exception flags; Rust code that runs meanwhile uses no floating point. Every function here computes on
//! values only.
#![allow(unsafe_code, reason = "floating point of the guest is executed by the host's instructions")]

use std::arch::asm;
use std::arch::x86_64::__m128i;

use iced_x86::Mnemonic;

/// Exception masks of MXCSR.
const MASKS: u32 = 0x1f80;
/// Exception flags of MXCSR.
pub(crate) const FLAGS: u32 = 0x3f;

fn load_control(value: u32) {
    // SAFETY: all exceptions are masked; the caller restores the previous value before other floating point runs.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, readonly)) };
}

fn store_control() -> u32 {
    let mut value = 0_u32;
    // SAFETY: stores into a local.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack)) };
    value
}

/// Gives the host the guest's modes; the host's own are returned.
pub(crate) fn enter_float(guest: u32) -> u32 {
    let own = store_control();
    let wanted = guest & !FLAGS | MASKS;
    // Flags that the guest has are added to its own again, others must not be.
    if own & !FLAGS != wanted || own & FLAGS & !guest != 0 {
        load_control(wanted);
    }
    own
}

/// Changes the guest's modes while it runs.
pub(crate) fn set_float(guest: u32) {
    load_control(guest & !FLAGS | MASKS);
}

/// The guest's MXCSR with the flags that were raised since.
pub(crate) fn current_float(guest: u32) -> u32 {
    guest | store_control() & FLAGS
}

/// Gives the host its own modes back; the guest's MXCSR.
pub(crate) fn leave_float(own: u32, guest: u32) -> u32 {
    let control = store_control();
    if control & !FLAGS != own & !FLAGS {
        load_control(own);
    }
    guest | control & FLAGS
}

/// The host's time stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// A two-operand SSE instruction on registers: the destination's new value from its old one and the source.
pub(crate) type VectorBinary = fn(u128, u128) -> u128;

fn to_vector(value: u128) -> __m128i {
    // SAFETY: both are 16 plain bytes.
    unsafe { std::mem::transmute::<u128, __m128i>(value) }
}

fn to_integer(value: __m128i) -> u128 {
    // SAFETY: both are 16 plain bytes.
    unsafe { std::mem::transmute::<__m128i, u128>(value) }
}

/// Calls a macro with all instructions on two vectors that raise no floating-point exceptions.
macro_rules! with_integer_vectors {
    ($callback:ident) => {
        $callback! {
            Paddb paddb, Paddw paddw, Paddd paddd, Paddq paddq, Psubb psubb, Psubw psubw, Psubd psubd,
            Psubq psubq, Paddsb paddsb, Paddsw paddsw, Paddusb paddusb, Paddusw paddusw, Psubsb psubsb,
            Psubsw psubsw, Psubusb psubusb, Psubusw psubusw, Pand pand, Pandn pandn, Por por, Pxor pxor,
            Andps andps, Andpd andpd, Andnps andnps, Andnpd andnpd, Orps orps, Orpd orpd, Xorps xorps,
            Xorpd xorpd, Pcmpeqb pcmpeqb, Pcmpeqw pcmpeqw, Pcmpeqd pcmpeqd, Pcmpgtb pcmpgtb,
            Pcmpgtw pcmpgtw, Pcmpgtd pcmpgtd, Pminub pminub, Pminsw pminsw, Pmaxub pmaxub, Pmaxsw pmaxsw,
            Pavgb pavgb, Pavgw pavgw, Pmullw pmullw, Pmulhw pmulhw, Pmulhuw pmulhuw, Pmuludq pmuludq,
            Pmaddwd pmaddwd, Psadbw psadbw, Packsswb packsswb, Packuswb packuswb, Packssdw packssdw,
            Punpcklbw punpcklbw, Punpcklwd punpcklwd, Punpckldq punpckldq, Punpcklqdq punpcklqdq,
            Punpckhbw punpckhbw, Punpckhwd punpckhwd, Punpckhdq punpckhdq, Punpckhqdq punpckhqdq,
            Unpcklps unpcklps, Unpcklpd unpcklpd, Unpckhps unpckhps, Unpckhpd unpckhpd, Psllw psllw,
            Pslld pslld, Psllq psllq, Psrlw psrlw, Psrld psrld, Psrlq psrlq, Psraw psraw, Psrad psrad,
            Rcpps rcpps, Rcpss rcpss, Rsqrtps rsqrtps, Rsqrtss rsqrtss, Cvtdq2pd cvtdq2pd,
            Movshdup movshdup, Movsldup movsldup, Movddup movddup, Pshufb pshufb, Phaddw phaddw,
            Phaddd phaddd, Phaddsw phaddsw, Phsubw phsubw, Phsubd phsubd, Phsubsw phsubsw, Psignb psignb,
            Psignw psignw, Psignd psignd, Pmulhrsw pmulhrsw, Pmaddubsw pmaddubsw, Pabsb pabsb, Pabsw pabsw,
            Pabsd pabsd, Pcmpeqq pcmpeqq, Pcmpgtq pcmpgtq, Pminsb pminsb, Pminuw pminuw, Pminud pminud,
            Pminsd pminsd, Pmaxsb pmaxsb, Pmaxuw pmaxuw, Pmaxud pmaxud, Pmaxsd pmaxsd, Pmulld pmulld,
            Pmuldq pmuldq, Packusdw packusdw, Phminposuw phminposuw, Pmovsxbw pmovsxbw, Pmovsxbd pmovsxbd,
            Pmovsxbq pmovsxbq, Pmovsxwd pmovsxwd, Pmovsxwq pmovsxwq, Pmovsxdq pmovsxdq, Pmovzxbw pmovzxbw,
            Pmovzxbd pmovzxbd, Pmovzxbq pmovzxbq, Pmovzxwd pmovzxwd, Pmovzxwq pmovzxwq, Pmovzxdq pmovzxdq,
        }
    };
}

/// Calls a macro with all instructions on two vectors that can raise floating-point exceptions.
macro_rules! with_float_vectors {
    ($callback:ident) => {
        $callback! {
            Addps addps, Addpd addpd, Addss addss, Addsd addsd, Subps subps, Subpd subpd, Subss subss,
            Subsd subsd, Mulps mulps, Mulpd mulpd, Mulss mulss, Mulsd mulsd, Divps divps, Divpd divpd,
            Divss divss, Divsd divsd, Minps minps, Minpd minpd, Minss minss, Minsd minsd, Maxps maxps,
            Maxpd maxpd, Maxss maxss, Maxsd maxsd, Sqrtps sqrtps, Sqrtpd sqrtpd, Sqrtss sqrtss,
            Sqrtsd sqrtsd, Cvtss2sd cvtss2sd, Cvtsd2ss cvtsd2ss, Cvtps2pd cvtps2pd, Cvtpd2ps cvtpd2ps,
            Cvtdq2ps cvtdq2ps, Cvtps2dq cvtps2dq, Cvttps2dq cvttps2dq, Cvtpd2dq cvtpd2dq,
            Cvttpd2dq cvttpd2dq, Haddps haddps, Haddpd haddpd, Hsubps hsubps, Hsubpd hsubpd,
            Addsubps addsubps, Addsubpd addsubpd,
        }
    };
}

pub(crate) use {with_float_vectors, with_integer_vectors};

macro_rules! functions {
    ($find:ident: $($mnemonic:ident $name:ident,)*) => {
        $(
            #[inline(always)]
            pub(crate) fn $name(a: u128, b: u128) -> u128 {
                let mut a = to_vector(a);
                // SAFETY: computes on registers; all floating-point exceptions are masked.
                unsafe {
                    asm!(concat!(stringify!($name), " {a}, {b}"), a = inout(xmm_reg) a, b = in(xmm_reg) to_vector(b),
                        options(nomem, nostack, preserves_flags));
                }
                to_integer(a)
            }
        )*

        fn $find(mnemonic: Mnemonic) -> Option<VectorBinary> {
            Some(match mnemonic {
                $(Mnemonic::$mnemonic => $name,)*
                _ => return None,
            })
        }
    };
}

macro_rules! integer_functions {
    ($($list:tt)*) => { functions! { integer_function: $($list)* } };
}

macro_rules! float_functions {
    ($($list:tt)*) => { functions! { float_function: $($list)* } };
}

with_integer_vectors!(integer_functions);
with_float_vectors!(float_functions);

/// The instruction as a function; the second tells whether it can raise floating-point exceptions.
pub(crate) fn vector_function(mnemonic: Mnemonic) -> Option<(VectorBinary, bool)> {
    integer_function(mnemonic)
        .map(|function| (function, false))
        .or_else(|| float_function(mnemonic).map(|function| (function, true)))
}

/// The top bits of all bytes.
pub(crate) fn byte_signs(value: u128) -> u32 {
    let bits: u32;
    // SAFETY: computes on registers.
    unsafe {
        asm!("pmovmskb {b:e}, {v}", b = out(reg) bits, v = in(xmm_reg) to_vector(value),
            options(pure, nomem, nostack, preserves_flags));
    }
    bits
}

/// Whether the host has what the guest is told it has; otherwise its SSE instructions cannot be executed.
pub(crate) fn supported() -> bool {
    std::arch::is_x86_feature_detected!("sse4.2") && std::arch::is_x86_feature_detected!("ssse3")
}

/// Conversions of a general register; the destination keeps its upper part.
pub(crate) fn from_integer(a: u128, value: u64, wide: bool, double: bool) -> u128 {
    let mut a = to_vector(a);
    // SAFETY: computes on registers.
    unsafe {
        match (wide, double) {
            (false, false) => asm!("cvtsi2ss {a}, {v:e}", a = inout(xmm_reg) a, v = in(reg) value),
            (true, false) => asm!("cvtsi2ss {a}, {v:r}", a = inout(xmm_reg) a, v = in(reg) value),
            (false, true) => asm!("cvtsi2sd {a}, {v:e}", a = inout(xmm_reg) a, v = in(reg) value),
            (true, true) => asm!("cvtsi2sd {a}, {v:r}", a = inout(xmm_reg) a, v = in(reg) value),
        }
    }
    to_integer(a)
}

/// Conversions to a general register, of 64 bits (`wide`) or 32.
pub(crate) fn to_general(mnemonic: Mnemonic, b: u128, wide: bool) -> u64 {
    let b = to_vector(b);
    let value: u64;
    // SAFETY: computes on registers.
    unsafe {
        match (mnemonic, wide) {
            (Mnemonic::Cvtss2si, false) => asm!("cvtss2si {v:e}, {b}", b = in(xmm_reg) b, v = out(reg) value),
            (Mnemonic::Cvtss2si, true) => asm!("cvtss2si {v:r}, {b}", b = in(xmm_reg) b, v = out(reg) value),
            (Mnemonic::Cvtsd2si, false) => asm!("cvtsd2si {v:e}, {b}", b = in(xmm_reg) b, v = out(reg) value),
            (Mnemonic::Cvtsd2si, true) => asm!("cvtsd2si {v:r}, {b}", b = in(xmm_reg) b, v = out(reg) value),
            (Mnemonic::Cvttss2si, false) => {
                asm!("cvttss2si {v:e}, {b}", b = in(xmm_reg) b, v = out(reg) value);
            }
            (Mnemonic::Cvttss2si, true) => {
                asm!("cvttss2si {v:r}, {b}", b = in(xmm_reg) b, v = out(reg) value);
            }
            (Mnemonic::Cvttsd2si, false) => {
                asm!("cvttsd2si {v:e}, {b}", b = in(xmm_reg) b, v = out(reg) value);
            }
            _ => asm!("cvttsd2si {v:r}, {b}", b = in(xmm_reg) b, v = out(reg) value),
        }
    }
    value
}

/// `comiss` and its kin: the flags they set, as in RFLAGS.
pub(crate) fn compare(mnemonic: Mnemonic, a: u128, b: u128) -> u64 {
    let (a, b) = (to_vector(a), to_vector(b));
    let flags: u64;
    macro_rules! flags_of {
        ($instruction:literal) => {
            asm!(concat!($instruction, " {a}, {b}"), "pushfq", "pop {f}",
                a = in(xmm_reg) a, b = in(xmm_reg) b, f = out(reg) flags)
        };
    }
    // SAFETY: computes on registers and reads the flags through the stack.
    unsafe {
        match mnemonic {
            Mnemonic::Comiss => flags_of!("comiss"),
            Mnemonic::Comisd => flags_of!("comisd"),
            Mnemonic::Ucomiss => flags_of!("ucomiss"),
            _ => flags_of!("ucomisd"),
        }
    }
    flags
}

/// `cmpps` and its kin with a predicate.
pub(crate) fn compare_lanes(mnemonic: Mnemonic, a: u128, b: u128, predicate: u8) -> u128 {
    macro_rules! with_predicate {
        ($instruction:literal) => {
            match predicate & 7 {
                0 => with_predicate!($instruction, 0),
                1 => with_predicate!($instruction, 1),
                2 => with_predicate!($instruction, 2),
                3 => with_predicate!($instruction, 3),
                4 => with_predicate!($instruction, 4),
                5 => with_predicate!($instruction, 5),
                6 => with_predicate!($instruction, 6),
                _ => with_predicate!($instruction, 7),
            }
        };
        ($instruction:literal, $predicate:literal) => {{
            let mut a = to_vector(a);
            // SAFETY: computes on registers.
            unsafe {
                asm!(concat!($instruction, " {a}, {b}, ", $predicate), a = inout(xmm_reg) a, b = in(xmm_reg) to_vector(b),
                    options(nomem, nostack, preserves_flags));
            }
            to_integer(a)
        }};
    }
    match mnemonic {
        Mnemonic::Cmpps => with_predicate!("cmpps"),
        Mnemonic::Cmppd => with_predicate!("cmppd"),
        Mnemonic::Cmpss => with_predicate!("cmpss"),
        _ => with_predicate!("cmpsd"),
    }
}

/// `roundps` and its kin with a mode.
pub(crate) fn round(mnemonic: Mnemonic, a: u128, b: u128, mode: u8) -> u128 {
    macro_rules! with_mode {
        ($instruction:literal) => {
            match mode & 15 {
                0 => with_mode!($instruction, 0),
                1 => with_mode!($instruction, 1),
                2 => with_mode!($instruction, 2),
                3 => with_mode!($instruction, 3),
                8 => with_mode!($instruction, 8),
                9 => with_mode!($instruction, 9),
                10 => with_mode!($instruction, 10),
                11 => with_mode!($instruction, 11),
                4..=7 => with_mode!($instruction, 4),
                _ => with_mode!($instruction, 12),
            }
        };
        ($instruction:literal, $mode:literal) => {{
            let mut a = to_vector(a);
            // SAFETY: computes on registers.
            unsafe {
                asm!(concat!($instruction, " {a}, {b}, ", $mode), a = inout(xmm_reg) a, b = in(xmm_reg) to_vector(b),
                    options(nomem, nostack, preserves_flags));
            }
            to_integer(a)
        }};
    }
    match mnemonic {
        Mnemonic::Roundps => with_mode!("roundps"),
        Mnemonic::Roundpd => with_mode!("roundpd"),
        Mnemonic::Roundss => with_mode!("roundss"),
        _ => with_mode!("roundsd"),
    }
}

/// `pcmpistri` with a control byte that libraries use: the index and RFLAGS.
pub(crate) fn compare_text(a: u128, b: u128, control: u8) -> Option<(u32, u64)> {
    let (a, b) = (to_vector(a), to_vector(b));
    let index: u32;
    let flags: u64;
    macro_rules! with_control {
        ($($control:literal),*) => {
            match control {
                $(
                    // SAFETY: computes on registers and reads the flags through the stack.
                    $control => unsafe {
                        asm!("pcmpistri {a}, {b}, {control}", "pushfq", "pop {f}", a = in(xmm_reg) a, b = in(xmm_reg) b,
                            f = out(reg) flags, out("ecx") index, control = const $control);
                    },
                )*
                _ => return None,
            }
        };
    }
    with_control!(0x00, 0x02, 0x08, 0x0a, 0x0c, 0x10, 0x12, 0x14, 0x18, 0x1a, 0x38, 0x3a, 0x40, 0x44);
    Some((index, flags))
}
