/* Touches memory that was only reserved, more than the harness allows. Runs in Cooper only. */
#include "guest.h"
#include <sys/mman.h>

int main(void)
{
    size_t size = (size_t)1 << 30;
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        SAY("mmap: %s", errno_name(errno));
        return 3;
    }
    for (;;)
        for (size_t at = 0; at < size; at += 4096)
            p[at]++;
}
