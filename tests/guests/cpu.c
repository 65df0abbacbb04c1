/* The processor that Cooper promises: exactly x86-64-v2, whatever the host has. Runs in Cooper only. */
#include "guest.h"
#include <cpuid.h>

int main(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    TRUE(__get_cpuid(0, &a, &b, &c, &d));
    TRUE(__get_cpuid(1, &a, &b, &c, &d));
    /* v2 and what it rests on. */
    TRUE(d & (1u << 0) && d & (1u << 8) && d & (1u << 15) && d & (1u << 23)); /* x87 cx8 cmov mmx */
    TRUE(d & (1u << 24) && d & (1u << 25) && d & (1u << 26));                 /* fxsr sse sse2 */
    TRUE(c & (1u << 0) && c & (1u << 9) && c & (1u << 13));                   /* sse3 ssse3 cx16 */
    TRUE(c & (1u << 19) && c & (1u << 20) && c & (1u << 23));                 /* sse4.1 sse4.2 popcnt */
    /* Nothing of v3. */
    TRUE(!(c & (1u << 12)) && !(c & (1u << 22)) && !(c & (1u << 27)) && !(c & (1u << 28))); /* fma movbe osxsave avx */
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        TRUE(!(b & (1u << 3)) && !(b & (1u << 5)) && !(b & (1u << 8)) && !(b & (1u << 16))); /* bmi1 avx2 bmi2 avx512 */
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
        TRUE(c & 1); /* lahf in long mode */
        TRUE(!(c & (1u << 5))); /* lzcnt */
        TRUE(d & (1u << 29)); /* long mode */
    }
    return 0;
}
