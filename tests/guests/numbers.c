/* Integer and floating arithmetic through the C library: printf, strtod, long double, rounding, wide products. */
#include "guest.h"
#include <fenv.h>
#include <float.h>
#include <limits.h>
#include <math.h>

int main(void)
{
    volatile double d = 3.141592653589793, e = 2.718281828459045, tiny = 5e-324, zero = 0.0;
    volatile float f = 1.1f;
    volatile long double l = 1.0L / 3.0L;
    volatile unsigned long long u = 0xfedcba9876543210ull, w = 0x0123456789abcdefull;
    volatile long long s = -1234567890123456789ll;
    volatile int shift = 13;

    SAY("%.17g %.17g %a %e %g", d, d * e, d, d / e, d - e);
    SAY("%.9g %.17g %g %g", f, f * d, tiny, DBL_MAX);
    SAY("%.20Lg %.20Lg", l, l * l + 1.0L);
    SAY("%g %g %g %d", 1 / zero, -1 / zero, zero / zero * 0 == 0 ? 1.0 : 2.0, isnan(zero / zero) != 0);
    SAY("%llu %llu %llx", u / 12345, u % 12345, (unsigned long long)((unsigned __int128)u * w >> 64));
    SAY("%lld %lld %lld", s / 1000003, s % 1000003, s >> shift);
    SAY("%llx %llx %llx", u << shift | u >> (64 - shift), u ^ w, u & ~w);
    SAY("%d %d %d", __builtin_popcountll(u), __builtin_clzll(w), __builtin_ctzll(u));
    SAY("%llx", (unsigned long long)__builtin_bswap64(u));
    SAY("%d %ld %lld", (int)d, (long)-e, (long long)(d * 1e15));
    SAY("%.17g %.9g %.17g", (double)s, (float)u, (double)u);
    SAY("%u %u", (unsigned)4e9, (unsigned)(unsigned char)-3);
    SAY("%.17g %.17g %.17g", strtod("0.1", NULL), strtod("1e308", NULL), strtod("0x1.8p3", NULL));
    SAY("%.17g %.17g", strtod("123456789012345678901234567890", NULL), strtod("4.9e-324", NULL));
    SAY("%ld %lu %lld", strtol("-0x7f", NULL, 16), strtoul("777", NULL, 8), strtoll("9223372036854775807", NULL, 10));
    SHOW(strtol("99999999999999999999", NULL, 10) == LONG_MAX && errno == ERANGE);
    char b[64];
    snprintf(b, sizeof b, "%-10s|%+05d|%#x|%.3s|%c|%5.1f|%%", "left", 42, 255, "truncated", 'c', 2.25);
    SAY("%s", b);
    /* IEEE answers do not depend on the library. */
    SAY("%.17g %.17g", sqrt(d), floor(-e));
    const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    for (int i = 0; i < 4; i++) {
        fesetround(modes[i]);
        volatile double three = 3.0, third = 1.0 / three, big = 1e300 * 1e-10;
        printf("%a %a ", third + zero, big + tiny);
    }
    fesetround(FE_TONEAREST);
    SAY(" ");
    feclearexcept(FE_ALL_EXCEPT);
    volatile double q = 1.0 / zero;
    (void)q;
    SAY("raised %d %d", fetestexcept(FE_DIVBYZERO) != 0, fetestexcept(FE_INVALID) != 0);
    for (int i = 0; i < 6; i++) {
        volatile double x = i - 2.5;
        printf("%ld/%g/%g ", lrint(x), rint(x), trunc(x));
    }
    SAY(" ");
    return 0;
}
