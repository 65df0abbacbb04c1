/*
 * Threads that map, protect and unmap what others read, write and pass to system calls: each access works or faults,
 * and nothing else happens. Prints only what holds in any order of events.
 */
#include "guest.h"
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum { PAGES = 16, ROUNDS = 300, THREADS = 3 };
static char *area;
static __thread sigjmp_buf back;
static __thread volatile int guarded;
static int pipes[2], file;
static volatile int stop;

static void on_fault(int s)
{
    if (!guarded)
        _exit(71);
    siglongjmp(back, 1);
}
static void *change(void *arg)
{
    unsigned long seed = (unsigned long)arg;
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 6364136223846793005UL + 1442695040888963407UL;
        char *at = area + (seed >> 33) % PAGES * 4096;
        size_t length = (1 + (seed >> 20) % 4) * 4096;
        if (at + length > area + PAGES * 4096)
            length = 4096;
        switch ((seed >> 50) % 5) {
        case 0: mprotect(at, length, PROT_NONE); break;
        case 1: mprotect(at, length, PROT_READ); break;
        case 2: mmap(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
        case 3: mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0); break;
        case 4: munmap(at, length); break;
        }
        if (i % 50 == 0)
            ftruncate(file, (i / 50 % 3) * 4096), ftruncate(file, PAGES * 4096);
    }
    stop++;
    return NULL;
}
static void *use(void *arg)
{
    volatile long sum = 0;
    long ok = 0, bad = 0;
    for (int i = 0; stop < THREADS; i++) {
        char *at = area + i % PAGES * 4096 + 4000;
        guarded = 1;
        if (!sigsetjmp(back, 1)) {
            sum += *(volatile long *)at;
            *(volatile long *)at = sum;
            memset(at - 100, i, 300);
            memcpy(at, at - 3000, 200);
        }
        guarded = 0;
        struct iovec two[2] = {{at, 200}, {at - 2000, 100}};
        long got = readv(file, two, 2);
        if (got < 0 && errno != EFAULT)
            _exit(72);
        got < 0 ? bad++ : ok++;
        if (pwrite(file, at, 300, 0) < 0 && errno != EFAULT)
            _exit(73);
        lseek(file, 0, SEEK_SET);
        struct stat st;
        if (stat((char *)at, (void *)at) == 0)
            _exit(74);
    }
    return (void *)(ok + bad);
}

int main(void)
{
    pthread_t t[2 * THREADS];
    void *result;
    long all = 0;
    scratch();
    alarm(200);
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    file = (int)MUST(open("f", O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(file, PAGES * 4096));
    area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < THREADS; i++) {
        pthread_create(&t[2 * i], NULL, change, (void *)(i + 1));
        pthread_create(&t[2 * i + 1], NULL, use, (void *)i);
    }
    for (int i = 0; i < 2 * THREADS; i++) {
        pthread_join(t[i], &result);
        all += (long)result;
    }
    TRUE(all > 0);

    /* Code that is written while another thread runs it. */
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, "\xb8\x01\x00\x00\x00\xc3", 6);
    TRUE(((int (*)(void))code)() == 1);
    for (int i = 0; i < 100; i++) {
        code[1] = i;
        if (((int (*)(void))code)() != i)
            SAY("stale code");
    }

    /* Many small maps, then none. */
    char *maps[500];
    int n = 0;
    for (; n < 500; n++) {
        maps[n] = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (maps[n] == MAP_FAILED || mprotect(maps[n], 4096, PROT_READ))
            break;
        maps[n][5000] = n;
    }
    SHOW(n);
    for (int i = 0; i < n; i++)
        if (munmap(maps[i], 8192))
            SAY("munmap: %s", errno_name(errno));
    return 0;
}
