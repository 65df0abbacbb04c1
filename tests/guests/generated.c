/* Machine code that a program makes itself: pages that change their rights, code patched in place, two maps of one object. */
#include "guest.h"
#include <pthread.h>
#include <sys/mman.h>

typedef int (*function)(void);

/* mov eax, value; ret */
static void emit(unsigned char *at, int value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static unsigned char *patched;
static int go_on = 1;

static void *caller(void *unused)
{
    (void)unused;
    int last = 0, ordered = 1;
    while (__atomic_load_n(&go_on, __ATOMIC_ACQUIRE)) {
        int now = ((function)patched)();
        ordered &= now >= last;
        last = now;
    }
    return (void *)(long)ordered;
}

int main(void)
{
    const int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC;
    unsigned char *pages = mmap(NULL, 4 * 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    /* Each page is rewritten and made executable again while the others stay as they are. */
    int right = 0;
    for (int round = 0; round < 200; round++) {
        unsigned char *page = pages + round % 4 * 4096;
        MUST(mprotect(page, 4096, rw));
        emit(page, round);
        MUST(mprotect(page, 4096, rx));
        for (int back = 0; back < 4 && back <= round; back++)
            right += ((function)(pages + (round - back) % 4 * 4096))() == round - back;
    }
    SHOW(right);

    /* An instruction across two pages of which one changes. */
    MUST(mprotect(pages, 2 * 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
    function across = (function)(pages + 4096 - 2);
    emit(pages + 4096 - 2, 0x1234567);
    TRUE(across() == 0x1234567);
    pages[4096] = 0x89;
    SHOW(across() == 0x1238967);

    /* Written and run without a change of rights, also by another thread. */
    right = 0;
    for (int round = 0; round < 1000; round++) {
        emit(pages, round);
        right += ((function)pages)() == round;
    }
    SHOW(right);
    patched = pages + 64;
    emit(patched + 7, 0);
    patched += 7; /* so that the value is an aligned word: its stores are whole */
    pthread_t thread;
    void *ordered;
    MUST(pthread_create(&thread, NULL, caller, NULL));
    for (int round = 1; round < 20000; round++)
        __atomic_store_n((int *)(patched + 1), round, __ATOMIC_RELEASE);
    __atomic_store_n(&go_on, 0, __ATOMIC_RELEASE);
    MUST(pthread_join(thread, &ordered));
    TRUE(ordered);
    SHOW(((function)patched)());

    /* One object, written through one map and run through another. */
    int fd = (int)MUST(memfd_create("code", MFD_CLOEXEC));
    MUST(ftruncate(fd, 4096));
    unsigned char *writable = mmap(NULL, 4096, rw, MAP_SHARED, fd, 0);
    function executable = (function)mmap(NULL, 4096, rx, MAP_SHARED, fd, 0);
    right = 0;
    for (int round = 0; round < 1000; round++) {
        emit(writable, round);
        right += executable() == round;
    }
    SHOW(right);
    SHOW(munmap(pages, 4 * 4096));
    return 0;
}
