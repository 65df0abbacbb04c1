/* Memory and string functions over all small sizes and alignments: the vector code that the C library picks. */
#include "guest.h"
#include <sys/mman.h>

static uint64_t hash = 1469598103934665603ull;
static void mix(uint64_t v)
{
    hash ^= v;
    hash *= 1099511628211ull;
}
#define ROUND(name) (SAY("%s %016llx", name, (unsigned long long)hash))

int main(void)
{
    /* The buffers end at an unmapped page: reading too far is a crash. */
    char *area = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(munmap(area + 8192, 4096));
    char *end = area + 8192, *low = area;
    for (int n = 0; n < 300; n++) {
        char *s = end - n - 1;
        for (int i = 0; i < n; i++)
            s[i] = (char)('a' + i % 23);
        s[n] = 0;
        mix(strlen(s));
        mix(strnlen(s, n / 2));
        char *z = strchr(s, 'v');
        mix(z ? z - s : -1);
        z = strrchr(s, 'b');
        mix(z ? z - s : -1);
        z = memchr(s, 'q', n);
        mix(z ? z - s : -1);
        z = strstr(s, "uvwab");
        mix(z ? z - s : -1);
        mix(strspn(s, "abcdefghijk"));
        mix(strcspn(s, "xyzw"));
        strcpy(low, s);
        mix(strcmp(low, s) == 0);
        mix(memcmp(low, s, n + 1) == 0);
        if (n) {
            low[n - 1]++;
            mix(strcmp(low, s) > 0);
            mix(memcmp(s, low, n) < 0);
            mix(strncmp(low, s, n - 1) == 0);
            mix(strcasecmp(low, s) > 0);
        }
    }
    ROUND("scan");
    for (int n = 0; n < 200; n++)
        for (int shift = 0; shift < 17; shift++) {
            for (int i = 0; i < 400; i++)
                low[i] = (char)(i * 7);
            memmove(low + shift, low, n);
            memmove(low + 50, low + 50 + shift, n);
            memcpy(end - n, low, n);
            memset(low + shift, n, n / 2);
            for (int i = 0; i < n; i++)
                mix((unsigned char)end[i - n]);
            mix((unsigned char)low[shift]);
            mix((unsigned char)low[shift + n / 2]);
        }
    ROUND("move");
    char big[100000];
    memset(big, 'B', sizeof big);
    memmove(big + 1, big, 60000);
    memmove(big + 50, big, 90000);
    for (unsigned i = 0; i < sizeof big; i += 97)
        mix((unsigned char)big[i]);
    ROUND("big");
    char line[] = "  a line,of;several words ", *save, *word = strtok_r(line, " ,;", &save);
    for (; word; word = strtok_r(NULL, " ,;", &save))
        printf("[%s]", word);
    SAY(" ");
    return 0;
}
