/* Signals: handlers and their flags, masks, pending, nesting, siginfo, waiting for them. */
#include "guest.h"
#include <setjmp.h>

static volatile int count, depth, deepest;
static volatile int last_code, last_pid, last_value;

static void counter(int signo) { (void)signo; count++; }
static void nested(int signo)
{
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (count++ < 3)
        raise(signo);
    depth--;
}
static void with_info(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)context;
    last_code = info->si_code;
    last_pid = info->si_pid;
    last_value = info->si_value.sival_int;
}
static sigjmp_buf out;
static void jump(int signo) { siglongjmp(out, signo); }

static void handle(int signo, void (*f)(int), int flags)
{
    struct sigaction sa = {.sa_handler = f, .sa_flags = flags};
    MUST(sigaction(signo, &sa, NULL));
}

int main(void)
{
    sigset_t set, old;
    struct sigaction sa;
    SHOW(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
    SHOW(sigaction(65, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
    SHOW(kill(getpid(), 0));
    SHOW(kill(getpid(), 99));
    SHOW(kill(2147483647, 0));

    handle(SIGUSR1, counter, 0);
    SHOW(raise(SIGUSR1));
    SHOW(kill(getpid(), SIGUSR1));
    SAY("count %d", count);

    /* Blocked signals wait; standard ones do not queue. */
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    SHOW(sigprocmask(SIG_BLOCK, &set, &old));
    raise(SIGUSR1);
    raise(SIGUSR1);
    SAY("count while blocked %d", count);
    sigpending(&old);
    TRUE(sigismember(&old, SIGUSR1));
    SHOW(sigprocmask(SIG_UNBLOCK, &set, NULL));
    SAY("count after %d", count);
    SHOW(sigprocmask(99, &set, NULL));

    /* During a handler its signal is blocked, unless SA_NODEFER says otherwise. */
    count = 0;
    handle(SIGUSR1, nested, 0);
    raise(SIGUSR1);
    SAY("deferred: count %d deepest %d", count, deepest);
    count = deepest = 0;
    handle(SIGUSR1, nested, SA_NODEFER);
    raise(SIGUSR1);
    SAY("nodefer: count %d deepest %d", count, deepest);

    count = 0;
    handle(SIGUSR2, counter, SA_RESETHAND);
    raise(SIGUSR2);
    sigaction(SIGUSR2, NULL, &sa);
    TRUE(sa.sa_handler == SIG_DFL && count == 1);

    /* Real-time signals queue, in order, with their values. */
    struct sigaction rt = {.sa_sigaction = with_info, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGRTMIN + 1, &rt, NULL));
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 1; i <= 3; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i * 10}));
    siginfo_t info;
    struct timespec none = {0, 0};
    SHOW(sigtimedwait(&set, &info, &none) == SIGRTMIN + 1);
    SAY("first value %d, from queue %d, from us %d", info.si_value.sival_int, info.si_code == SI_QUEUE,
        info.si_pid == getpid());
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    SAY("last value %d", last_value);
    sigprocmask(SIG_BLOCK, &set, NULL);
    SHOW(sigtimedwait(&set, &info, &none));
    sigprocmask(SIG_UNBLOCK, &set, NULL);

    MUST(sigaction(SIGUSR1, &rt, NULL));
    MUST(kill(getpid(), SIGUSR1));
    SAY("kill: SI_USER %d, from us %d", last_code == SI_USER, last_pid == getpid());
    MUST(raise(SIGUSR1));
    SAY("raise: SI_TKILL %d", last_code == SI_TKILL);

    /* sigsuspend swaps the mask and waits in one go. */
    handle(SIGUSR1, counter, 0);
    count = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR1);
    SAY("before %d", count);
    SHOW(sigsuspend(&old));
    SAY("after %d", count);
    sigprocmask(SIG_BLOCK, NULL, &set);
    TRUE(sigismember(&set, SIGUSR1));
    sigprocmask(SIG_SETMASK, &old, NULL);

    /* Leaving a handler by a jump restores the mask. */
    handle(SIGUSR2, jump, 0);
    int came = sigsetjmp(out, 1);
    if (!came)
        raise(SIGUSR2);
    SAY("jumped with %d", came == SIGUSR2);
    sigprocmask(SIG_BLOCK, NULL, &set);
    TRUE(!sigismember(&set, SIGUSR2));

    /* Another process signals us; default actions end a child; ignored ones do nothing. */
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid)
        _exit(kill(getppid(), SIGUSR1) ? 1 : 0);
    SHOW(sigwaitinfo(&usr1, &info) == SIGUSR1);
    TRUE(info.si_pid == pid);
    int status;
    MUST(waitpid(pid, &status, 0));
    const int fatal[] = {SIGHUP, SIGINT, SIGTERM, SIGUSR2, SIGALRM, SIGPIPE, SIGVTALRM, SIGIO};
    for (unsigned i = 0; i < sizeof fatal / sizeof *fatal; i++) {
        if (!(pid = fork())) {
            signal(fatal[i], SIG_DFL);
            raise(fatal[i]);
            _exit(0);
        }
        MUST(waitpid(pid, &status, 0));
        show_status("default", status);
    }
    const int harmless[] = {SIGCHLD, SIGURG, SIGWINCH, SIGCONT};
    for (unsigned i = 0; i < sizeof harmless / sizeof *harmless; i++)
        SHOW(raise(harmless[i]));
    signal(SIGTERM, SIG_IGN);
    SHOW(raise(SIGTERM));
    SHOW(syscall(SYS_tgkill, getpid(), getpid(), SIGTERM));
    SHOW(syscall(SYS_tgkill, getpid(), 2147483647, SIGTERM));
    return 0;
}
