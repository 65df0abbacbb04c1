/*
 * Every system call with pointers and numbers that make no sense, in children that may die of it: the kernel answers
 * each and goes on. Runs in Cooper only, as what the calls answer depends on the machine. Bounded: a fixed number of
 * calls from a fixed sequence, each child with an alarm.
 */
#include "guest.h"
#include <sys/mman.h>
#include <sys/resource.h>

static const unsigned long odd[] = {
    0, 1, 2, 3, 8, 0xfff, 0x1000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0xfffff000, 0xffffe000,
    0x7fffffffffffffff, 0x8000000000000000, 0xffff800000000000, 0xffffffffffffffff, 0xfffffffffffff000, 4096 * 7 + 1,
};
#define ODD (sizeof odd / sizeof *odd)

/* Calls that only end or stop the caller, wait for ever, or take away what the test stands on. */
static int left_out(int n)
{
    return n == SYS_exit || n == SYS_exit_group || n == SYS_fork || n == SYS_vfork || n == SYS_clone
        || n == SYS_pause || n == SYS_rt_sigreturn || n == SYS_kill || n == SYS_tkill || n == SYS_tgkill
        || n == SYS_rt_sigsuspend || n == SYS_alarm || n == SYS_setitimer;
}
static unsigned long state = 88172645463325252UL;
static unsigned long next(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}
static char *room;
static unsigned long argument(void)
{
    unsigned long r = next();
    switch (r % 8) {
    case 0: return (unsigned long)(room + 4096 - (r >> 8) % 64); /* runs into an unmapped page */
    case 1: return (unsigned long)(room + (r >> 8) % 4096);
    case 2: return (unsigned long)(room + 8192 + (r >> 8) % 4096); /* readable only */
    case 3: return (r >> 8) % 40;
    case 4: return (unsigned long)&errno;
    default: return odd[(r >> 8) % ODD];
    }
}

int main(void)
{
    int rounds = 6, died = 0, last = 460;
    for (int n = 0; n < last; n++) {
        if (left_out(n))
            continue;
        fflush(stdout);
        pid_t child = fork();
        if (child < 0) {
            SAY("fork: %s", errno_name(errno));
            return 1;
        }
        if (!child) {
            alarm(20);
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            room = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            munmap(room + 4096, 4096);
            mprotect(room + 8192, 4096, PROT_READ);
            state ^= n * 2654435761UL;
            int null = open("/dev/null", O_RDWR);
            for (int fd = 0; fd < 3; fd++)
                dup2(null, fd);
            struct timespec soon = {0, 1000000};
            for (int round = 0; round < rounds; round++) {
                /* What would block gets a time that is short where it takes one. */
                memcpy(room, &soon, sizeof soon);
                syscall(n, argument(), argument(), argument(), argument(), argument(), argument());
            }
            _exit(0);
        }
        /* A child that waits for something is ended after a while. */
        int status = 0, spun = 0;
        while (waitpid(child, &status, WNOHANG) == 0) {
            struct timespec t = {0, 2000000};
            nanosleep(&t, NULL);
            if (++spun > 100) {
                kill(child, SIGKILL);
                waitpid(child, &status, 0);
                break;
            }
        }
        died += status != 0;
    }
    TRUE(died < last);
    SAY("every call answered");
    return 0;
}
