//! Which processor a guest sees: x86-64-v2, the same on every host.

/// The highest basic leaf.
const MAX_BASIC: u32 = 7;
/// The highest extended leaf.
const MAX_EXTENDED: u32 = 0x8000_0008;

/// Leaf 1 EAX: family 6, a model of the first generation with all of x86-64-v2.
const SIGNATURE: u32 = 0x0002_06c2;
/// Leaf 1 EBX: CLFLUSH lines of 64 bytes, one logical processor.
const BRAND: u32 = 0x0001_0800;
/// Leaf 1 ECX: SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT.
const FEATURES_C: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23;
/// Leaf 1 EDX: FPU, TSC, CMPXCHG8B, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2.
const FEATURES_D: u32 = 1 | 1 << 4 | 1 << 8 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26;
/// Extended leaf 1 ECX: LAHF in 64-bit mode.
const EXTENDED_C: u32 = 1;
/// Extended leaf 1 EDX: SYSCALL, NX, RDTSCP, long mode.
const EXTENDED_D: u32 = 1 << 11 | 1 << 20 | 1 << 27 | 1 << 29;

/// Leaf 4: caches as type and level, associativity, sets; all with lines of 64 bytes.
const CACHES: [(u32, u32, u32); 4] =
    [(1 | 1 << 5, 8, 64), (2 | 1 << 5, 8, 64), (3 | 2 << 5, 8, 512), (3 | 3 << 5, 16, 8192)];

/// The answer to `cpuid`: EAX, EBX, ECX, EDX.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    match leaf {
        0 => [MAX_BASIC, word(b"Genu"), word(b"ntel"), word(b"ineI")],
        1 => [SIGNATURE, BRAND, FEATURES_C, FEATURES_D],
        // One descriptor: look at leaf 4.
        2 => [0x00ff_ff01, 0, 0, 0],
        4 => CACHES
            .get(subleaf as usize)
            .map_or([0; 4], |&(kind, ways, sets)| [kind | 1 << 8, (ways - 1) << 22 | 63, sets - 1, 0]),
        0x8000_0000 => [MAX_EXTENDED, 0, 0, 0],
        0x8000_0001 => [0, 0, EXTENDED_C, EXTENDED_D],
        0x8000_0002 => brand(0),
        0x8000_0003 => brand(16),
        0x8000_0004 => brand(32),
        0x8000_0006 => [0, 0, 256 << 16 | 6 << 12 | 64, 0],
        // 36 physical, 48 linear address bits.
        0x8000_0008 => [48 << 8 | 36, 0, 0, 0],
        _ => [0; 4],
    }
}

/// The name that programs print.
const NAME: &[u8; 48] = b"x86-64-v2 virtual processor\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn brand(at: usize) -> [u32; 4] {
    [word(&NAME[at..]), word(&NAME[at + 4..]), word(&NAME[at + 8..]), word(&NAME[at + 12..])]
}

/// A counter that only grows: the host's.
pub(crate) fn time_stamp() -> u64 {
    crate::host::time_stamp()
}
