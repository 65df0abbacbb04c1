//! MMX instructions, executed by the host on values.
#![allow(unsafe_code, reason = "MMX arithmetic of the guest is executed by the host's instructions")]

use std::arch::asm;

use iced_x86::Mnemonic;

macro_rules! binary {
    ($($mnemonic:ident $name:ident,)*) => {
        /// The destination's new value from its old one and the source; `None` when it is not executed here.
        pub(crate) fn binary(mnemonic: Mnemonic, mut a: u64, b: u64) -> Option<u64> {
            match mnemonic {
                $(
                    // SAFETY: computes on two MMX registers and leaves the x87 unit empty, as it was.
                    Mnemonic::$mnemonic => unsafe {
                        asm!("movq mm0, [{a}]", "movq mm1, [{b}]", concat!(stringify!($name), " mm0, mm1"),
                            "movq [{a}], mm0", "emms", a = in(reg) &raw mut a, b = in(reg) &raw const b,
                            out("mm0") _, out("mm1") _, out("st(0)") _, out("st(1)") _);
                    },
                )*
                _ => return None,
            }
            Some(a)
        }
    };
}

binary! {
    Packsswb packsswb, Packssdw packssdw, Packuswb packuswb, Paddb paddb, Paddw paddw, Paddd paddd,
    Paddq paddq, Paddsb paddsb, Paddsw paddsw, Paddusb paddusb, Paddusw paddusw, Pand pand, Pandn pandn,
    Por por, Pxor pxor, Pcmpeqb pcmpeqb, Pcmpeqw pcmpeqw, Pcmpeqd pcmpeqd, Pcmpgtb pcmpgtb, Pcmpgtw pcmpgtw,
    Pcmpgtd pcmpgtd, Pmaddwd pmaddwd, Pmulhw pmulhw, Pmullw pmullw, Psllw psllw, Pslld pslld, Psllq psllq,
    Psrlw psrlw, Psrld psrld, Psrlq psrlq, Psraw psraw, Psrad psrad, Psubb psubb, Psubw psubw, Psubd psubd,
    Psubq psubq, Psubsb psubsb, Psubsw psubsw, Psubusb psubusb, Psubusw psubusw, Punpcklbw punpcklbw,
    Punpcklwd punpcklwd, Punpckldq punpckldq, Punpckhbw punpckhbw, Punpckhwd punpckhwd, Punpckhdq punpckhdq,
    Pavgb pavgb, Pavgw pavgw, Pmaxsw pmaxsw, Pmaxub pmaxub, Pminsw pminsw, Pminub pminub, Pmulhuw pmulhuw,
    Psadbw psadbw, Pmuludq pmuludq, Pshufb pshufb, Phaddw phaddw, Phaddd phaddd, Phaddsw phaddsw,
    Phsubw phsubw, Phsubd phsubd, Phsubsw phsubsw, Psignb psignb, Psignw psignw, Psignd psignd,
    Pmulhrsw pmulhrsw, Pmaddubsw pmaddubsw, Pabsb pabsb, Pabsw pabsw, Pabsd pabsd,
}
