#include "crc.h"
#include <math.h>
#include <stdio.h>

int main(void) {
    for (int n = 0; n < 16; n++) {
        double values[] = {n, n / 3.0, n * 1e300 * 1e300};
        printf("%2d %08x %.17g %.3Le\n", n, (unsigned)crc(values, sizeof values), values[1], (long double)values[1] / 7);
    }
    return 0;
}
