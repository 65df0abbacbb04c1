/* Eats memory without end; the harness gives it a limit. Runs in Cooper only. */
#include "guest.h"

int main(void)
{
    for (long n = 0;; n++) {
        char *p = malloc(1 << 20);
        if (!p) {
            SAY("malloc: %s", errno_name(errno));
            return 3;
        }
        memset(p, 1, 1 << 20);
    }
}
