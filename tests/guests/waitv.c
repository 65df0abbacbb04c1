/* futex_waitv and openat2 with restrictions: by raw calls, as C libraries do not have them. */
#include "guest.h"
#include <pthread.h>

struct waiter { uint64_t value, address; uint32_t flags, reserved; };
struct how { uint64_t flags, mode, resolve; };
static uint32_t words[4] = {1, 2, 3, 4};

static void *wake_third(void *arg)
{
    for (;;) {
        words[2] = 30;
        if (syscall(SYS_futex, &words[2], 1 | 128, 1, NULL, NULL, 0) > 0)
            return NULL;
        usleep(1000);
        if (__atomic_load_n(&words[3], __ATOMIC_SEQ_CST) == 99)
            return NULL;
    }
}
static long waitv(struct waiter *w, int n, int flags, struct timespec *t, int clock)
{
    return syscall(449, w, n, flags, t, clock);
}
static void open2(int dir, const char *path, uint64_t resolve)
{
    struct how how = {O_RDONLY, 0, resolve};
    errno = 0;
    long fd = syscall(437, dir, path, &how, sizeof how);
    char byte = '-';
    if (fd >= 0)
        read((int)fd, &byte, 1), close((int)fd);
    printf("%s %lx: %s %c\n", path, (long)resolve, fd < 0 ? errno_name(errno) : "open", byte);
}
int main(void)
{
    struct waiter w[4];
    struct timespec past = {1, 0};
    for (int i = 0; i < 4; i++)
        w[i] = (struct waiter){words[i], (uint64_t)&words[i], 2 | 128, 0};
    SHOW(waitv(w, 4, 0, &past, CLOCK_MONOTONIC));
    SHOW(waitv(w, 0, 0, NULL, 0));
    SHOW(waitv(w, 4, 1, NULL, 0));
    SHOW(waitv(w, 4, 0, &past, 7));
    w[1].value = 77;
    SHOW(waitv(w, 4, 0, NULL, 0));
    w[1].value = 2;
    pthread_t t;
    pthread_create(&t, NULL, wake_third, NULL);
    long got = waitv(w, 4, 0, NULL, 0);
    TRUE(got == 2 || (got == -1 && errno == EAGAIN));
    __atomic_store_n(&words[3], 99, __ATOMIC_SEQ_CST);
    pthread_join(t, NULL);

    scratch();
    MUST(mkdir("d", 0755));
    MUST(mkdir("d/e", 0755));
    put("d/e/f", "f");
    put("outside", "o");
    MUST(symlink("e/f", "d/inside"));
    MUST(symlink("../outside", "d/out"));
    MUST(symlink("/d/e/f", "d/absolute"));
    MUST(symlink("e", "d/link"));
    MUST(symlink("loop", "d/loop"));
    int dir = (int)MUST(open("d", O_RDONLY | O_DIRECTORY));
    const char *paths[] = {"e/f", "inside", "out", "absolute", "link/f", "../outside", "e/../e/f", "/e/f", "missing",
        "loop", "e/f/", "link/../e/f", "e/../../outside"};
    uint64_t flags[] = {0, 4, 8, 0x10, 2};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        for (size_t j = 0; j < sizeof flags / sizeof *flags; j++)
            open2(dir, paths[i], flags[j]);
    open2(dir, "e/f", 0x18);
    open2(dir, "e/f", 0x100);
    int proc = (int)MUST(open("/proc", O_RDONLY | O_DIRECTORY));
    open2(proc, "self/exe", 2);
    open2(proc, "self/exe", 8);
    open2(AT_FDCWD, "/proc/self/status", 1);
    open2(AT_FDCWD, "d/e/f", 1);
    return 0;
}
