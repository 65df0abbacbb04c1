/* Alternate signal stacks: a handler for an overflown stack, flags, nesting. */
#include "guest.h"
#include <setjmp.h>
#include <sys/resource.h>

static char area[65536] __attribute__((aligned(16)));
static sigjmp_buf out;
static volatile int on_area;

static void overflow(int signo)
{
    char here;
    (void)signo;
    on_area = &here >= area && &here < area + sizeof area;
    siglongjmp(out, 1);
}
static void plain(int signo)
{
    char here;
    stack_t now;
    (void)signo;
    on_area = &here >= area && &here < area + sizeof area;
    sigaltstack(NULL, &now);
    SAY("  flags in the handler %d", now.ss_flags);
    SHOW(sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL));
}
static volatile long sink;
static int deeper(int n)
{
    volatile char room[4096];
    room[0] = (char)n;
    sink += room[0];
    return deeper(n + 1) + room[0];
}

int main(void)
{
    stack_t now, alt = {.ss_sp = area, .ss_size = sizeof area};
    SHOW(sigaltstack(NULL, &now));
    TRUE(now.ss_flags == SS_DISABLE);
    SHOW(sigaltstack(&(stack_t){.ss_sp = area, .ss_size = 16}, NULL));
    SHOW(sigaltstack(&(stack_t){.ss_sp = area, .ss_size = sizeof area, .ss_flags = 77}, NULL));
    SHOW(sigaltstack(&alt, NULL));
    SHOW(sigaltstack(NULL, &now));
    TRUE(now.ss_sp == area && now.ss_size == sizeof area && now.ss_flags == 0);

    struct sigaction sa = {.sa_handler = plain};
    MUST(sigaction(SIGUSR1, &sa, NULL));
    MUST(sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL));
    MUST(sigaltstack(&alt, NULL));
    sa.sa_flags = SA_ONSTACK;
    MUST(sigaction(SIGUSR1, &sa, NULL));
    raise(SIGUSR1);
    SAY("on the alternate stack %d", on_area);

    struct rlimit limit = {256 * 1024, 256 * 1024};
    SHOW(setrlimit(RLIMIT_STACK, &limit));
    sa = (struct sigaction){.sa_handler = overflow, .sa_flags = SA_ONSTACK};
    MUST(sigaction(SIGSEGV, &sa, NULL));
    for (int i = 0; i < 2; i++) {
        on_area = 0;
        if (!sigsetjmp(out, 1))
            deeper(0);
        SAY("overflow caught on the alternate stack %d", on_area);
    }
    MUST(sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL));
    int status;
    fflush(stdout);
    if (!fork()) {
        deeper(0);
        _exit(0);
    }
    MUST(wait(&status));
    show_status("without it", status & ~0x80);
    return 0;
}
