//! The registers of one guest thread.
//!
//! [`CpuState`] is the architectural user-mode state of an x86-64 processor with SSE4.2 and x87, as a program sees
//! it between two instructions. It is the value that callers keep, copy for a new thread and put into signal frames.
//!
//! What must hold: `flags` carries only bits a user program can have ([`FLAGS_WRITABLE`] plus bit 1 and IF), and the
//! x87 stack is kept in physical register order, so that FXSAVE images and FNSTENV agree.

/// Index of a register in [`CpuState::gpr`], in the order of the instruction encoding.
pub mod register {
    /// `rax`.
    pub const RAX: usize = 0;
    /// `rcx`.
    pub const RCX: usize = 1;
    /// `rdx`.
    pub const RDX: usize = 2;
    /// `rbx`.
    pub const RBX: usize = 3;
    /// `rsp`.
    pub const RSP: usize = 4;
    /// `rbp`.
    pub const RBP: usize = 5;
    /// `rsi`.
    pub const RSI: usize = 6;
    /// `rdi`.
    pub const RDI: usize = 7;
    /// `r8`.
    pub const R8: usize = 8;
    /// `r9`.
    pub const R9: usize = 9;
    /// `r10`.
    pub const R10: usize = 10;
    /// `r11`.
    pub const R11: usize = 11;
    /// `r12`.
    pub const R12: usize = 12;
    /// `r13`.
    pub const R13: usize = 13;
    /// `r14`.
    pub const R14: usize = 14;
    /// `r15`.
    pub const R15: usize = 15;
}

/// Bits of RFLAGS.
pub mod flag {
    /// Carry.
    pub const CF: u64 = 1;
    /// Parity of the low byte.
    pub const PF: u64 = 1 << 2;
    /// Carry out of bit 3.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled: always set for a user program.
    pub const IF: u64 = 1 << 9;
    /// String instructions go downwards.
    pub const DF: u64 = 1 << 10;
    /// Signed overflow.
    pub const OF: u64 = 1 << 11;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
    /// CPUID can be used, when it can be toggled.
    pub const ID: u64 = 1 << 21;
    /// The six arithmetic flags.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

/// The bits of RFLAGS that user code can change.
pub const FLAGS_WRITABLE: u64 = flag::ARITHMETIC | flag::TF | flag::DF | flag::AC | flag::ID | (1 << 14);
/// RFLAGS of a new program: bit 1, which is always set, and IF.
pub const FLAGS_INITIAL: u64 = 0x202;
/// MXCSR of a new program: all exceptions masked, round to nearest.
pub const MXCSR_INITIAL: u32 = 0x1f80;
/// The bits of MXCSR that exist; loading any other is a general protection fault.
pub const MXCSR_MASK: u32 = 0xffff;
/// x87 control word of a new program: all exceptions masked, 64-bit precision.
pub const X87_CONTROL_INITIAL: u16 = 0x037f;

/// The x87 unit: eight 80-bit registers, used as a stack, and its control words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// Physical registers R0 to R7; each 80-bit value in the low ten bytes.
    pub registers: [u128; 8],
    /// Control word: masks, precision, rounding.
    pub control: u16,
    /// Status word, with the top of the stack in bits 11 to 13.
    pub status: u16,
    /// One bit for each physical register: set when it holds a value.
    pub tag: u8,
    /// Opcode of the last x87 instruction; kept only through FXSAVE images.
    pub opcode: u16,
    /// Address of the last x87 instruction; kept only through FXSAVE images.
    pub instruction: u64,
    /// Address of the last x87 operand; kept only through FXSAVE images.
    pub operand: u64,
}

impl X87 {
    /// The state after FNINIT.
    pub const INITIAL: Self = Self {
        registers: [0; 8],
        control: X87_CONTROL_INITIAL,
        status: 0,
        tag: 0,
        opcode: 0,
        instruction: 0,
        operand: 0,
    };

    /// The physical number of the register at the top of the stack.
    pub fn top(&self) -> usize {
        usize::from(self.status >> 11 & 7)
    }
}

/// The user-mode registers of one guest thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// General registers in encoding order, see [`register`].
    pub gpr: [u64; 16],
    /// Address of the next instruction.
    pub rip: u64,
    /// RFLAGS.
    pub flags: u64,
    /// Base of the FS segment.
    pub fs_base: u64,
    /// Base of the GS segment.
    pub gs_base: u64,
    /// SSE registers.
    pub xmm: [u128; 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// The x87 unit.
    pub x87: X87,
}

/// The registers that translated code keeps: all but MXCSR and x87.
#[derive(Debug)]
pub struct SharedRegisters<'a> {
    /// General registers in encoding order.
    pub gpr: &'a mut [u64; 16],
    /// Address of the next instruction.
    pub rip: &'a mut u64,
    /// RFLAGS.
    pub flags: &'a mut u64,
    /// Base of the FS segment.
    pub fs_base: &'a mut u64,
    /// Base of the GS segment.
    pub gs_base: &'a mut u64,
    /// SSE registers.
    pub xmm: &'a mut [u128; 16],
}

impl CpuState {
    /// The state of a program at its first instruction: `rip` at `entry`, `rsp` at `stack`, all else zero or initial.
    pub fn at_entry(entry: u64, stack: u64) -> Self {
        let mut gpr = [0; 16];
        gpr[register::RSP] = stack;
        Self {
            gpr,
            rip: entry,
            flags: FLAGS_INITIAL,
            fs_base: 0,
            gs_base: 0,
            xmm: [0; 16],
            mxcsr: MXCSR_INITIAL,
            x87: X87::INITIAL,
        }
    }

    /// The image that FXSAVE (64-bit form) writes. Bytes 464 to 511 are zero: they are the caller's.
    pub fn fxsave(&self) -> [u8; 512] {
        let mut image = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.x87.control.to_le_bytes());
        put(2, &self.x87.status.to_le_bytes());
        put(4, &[self.x87.tag]);
        put(6, &self.x87.opcode.to_le_bytes());
        put(8, &self.x87.instruction.to_le_bytes());
        put(16, &self.x87.operand.to_le_bytes());
        put(24, &self.mxcsr.to_le_bytes());
        put(28, &MXCSR_MASK.to_le_bytes());
        for index in 0..8 {
            let value = self.x87.registers[(self.x87.top() + index) & 7];
            put(32 + 16 * index, &value.to_le_bytes()[..10]);
        }
        for (index, value) in self.xmm.iter().enumerate() {
            put(160 + 16 * index, &value.to_le_bytes());
        }
        image
    }

    /// Takes the x87 and SSE state from an FXSAVE image. Reserved MXCSR bits are dropped, as Linux does for
    /// the frames it restores.
    pub fn fxrstor(&mut self, image: &[u8; 512]) {
        let half = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let wide = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&image[at..at + 16]);
            u128::from_le_bytes(bytes)
        };
        self.x87.control = half(0) | 0x40;
        self.x87.status = half(2);
        self.x87.tag = image[4];
        self.x87.opcode = half(6);
        self.x87.instruction = wide(8) as u64;
        self.x87.operand = wide(16) as u64;
        self.mxcsr = wide(24) as u32 & MXCSR_MASK;
        let top = self.x87.top();
        for index in 0..8 {
            self.x87.registers[(top + index) & 7] = wide(32 + 16 * index) & ((1 << 80) - 1);
        }
        for index in 0..16 {
            self.xmm[index] = wide(160 + 16 * index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fxsave_image_restores_to_the_same_state() {
        let mut state = CpuState::at_entry(0x1000, 0x2000);
        state.xmm[3] = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        state.x87.status = 5 << 11;
        state.x87.registers[5] = 0x3fff_8000_0000_0000_0000;
        state.x87.tag = 1 << 5;
        state.mxcsr = 0x9fc0;
        let image = state.fxsave();
        assert_eq!(image[32..42], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        let mut other = CpuState::at_entry(0x1000, 0x2000);
        other.fxrstor(&image);
        assert_eq!(other, state);
    }
}
