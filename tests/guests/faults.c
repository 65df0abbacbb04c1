/* Synchronous signals: what they carry, repairing the cause and going on, ending by them. */
#include "guest.h"
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf out;
static volatile int signo_, code_;
static void *volatile addr_;
static char *page;

static void report(int signo, siginfo_t *info, void *context)
{
    (void)context;
    signo_ = signo;
    code_ = info->si_code;
    addr_ = info->si_addr;
    siglongjmp(out, 1);
}
static void repair(int signo, siginfo_t *info, void *context)
{
    (void)context;
    signo_ = signo;
    addr_ = info->si_addr;
    MUST(mprotect(page, 4096, PROT_READ | PROT_WRITE));
}
static void skip(int signo, siginfo_t *info, void *context)
{
    (void)info;
    signo_ = signo;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2; /* the length of ud2 */
}
static void set(int signo, void (*f)(int, siginfo_t *, void *))
{
    struct sigaction sa = {.sa_sigaction = f, .sa_flags = SA_SIGINFO};
    MUST(sigaction(signo, &sa, NULL));
}

#define FAULT(what, ...) do { signo_ = 0; if (!sigsetjmp(out, 1)) { __VA_ARGS__; } \
    SAY("%s: signal %d code %d", what, signo_, code_); } while (0)

int main(void)
{
    scratch();
    set(SIGSEGV, report);
    set(SIGBUS, report);
    set(SIGFPE, report);
    set(SIGILL, report);
    set(SIGTRAP, report);
    page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    FAULT("null", *(volatile int *)8 = 1);
    TRUE(addr_ == (void *)8);
    FAULT("read only", page[5] = 1);
    TRUE(addr_ == page + 5);
    FAULT("read is fine", (void)*(volatile char *)page);
    MUST(munmap(page + 4096, 4096));
    FAULT("unmapped", (void)*(volatile char *)(page + 4096));
    TRUE(addr_ == page + 4096);
    FAULT("across the edge", *(volatile uint64_t *)(page + 4092));
    TRUE(addr_ == page + 4096);
    FAULT("not executable", ((void (*)(void))page)());
    FAULT("not canonical", *(volatile int *)0x8000000000000000);
    volatile int zero = 0, minus = -1, least = -2147483647 - 1;
    FAULT("divide by zero", zero = least / zero);
    FAULT("divide overflow", zero = least / minus);
    FAULT("ud2", __asm__ volatile("ud2"));
    FAULT("int3", __asm__ volatile("int3"));
    FAULT("privileged", __asm__ volatile("hlt"));

    put("f", "short");
    int fd = (int)MUST(open("f", O_RDWR));
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    FAULT("page beyond the file", (void)*(volatile char *)(map + 4096));
    MUST(ftruncate(fd, 0));
    FAULT("file cut off", (void)*(volatile char *)map);

    set(SIGSEGV, repair);
    page[7] = 'r';
    SAY("repaired: %c", page[7]);
    TRUE(addr_ == page + 7);
    set(SIGILL, skip);
    signo_ = 0;
    __asm__ volatile("ud2");
    SAY("skipped: signal %d", signo_);

    int status;
    fflush(stdout);
    if (!fork()) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile int *)8 = 1;
        _exit(0);
    }
    MUST(wait(&status));
    show_status("default", status & ~0x80);
    if (!fork()) {
        signal(SIGSEGV, SIG_IGN); /* a fault cannot be ignored */
        *(volatile int *)8 = 1;
        _exit(0);
    }
    MUST(wait(&status));
    show_status("ignored", status & ~0x80);
    return 0;
}
