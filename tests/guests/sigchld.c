/* SIGCHLD: delivery, siginfo, SA_NOCLDWAIT, ignoring. */
#include "guest.h"

static volatile int seen, code, status_;
static volatile pid_t from;
static void on_child(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)context;
    seen++;
    code = info->si_code;
    status_ = info->si_status;
    from = info->si_pid;
}

static pid_t child(int how)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid)
        return pid;
    if (how < 0)
        raise(-how), pause();
    _exit(how);
}

int main(void)
{
    int status;
    sigset_t set, old;
    struct sigaction sa = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGCHLD, &sa, NULL));
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &old);

    pid_t pid = child(9);
    while (!seen)
        sigsuspend(&old);
    TRUE(from == pid && code == CLD_EXITED && status_ == 9);
    TRUE(waitpid(pid, &status, 0) == pid);
    seen = 0;
    pid = child(-SIGTERM);
    while (!seen)
        sigsuspend(&old);
    TRUE(from == pid && code == CLD_KILLED && status_ == SIGTERM);
    MUST(waitpid(pid, &status, 0));

    /* A shell's loop: many children, one wait per child, signals may merge. */
    int ended = 0;
    for (int i = 0; i < 20; i++)
        child(i);
    while (ended < 20) {
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            ended++;
        if (ended < 20)
            sigsuspend(&old);
    }
    SAY("ended %d", ended);
    SHOW(waitpid(-1, &status, WNOHANG));

    /* A stop is told unless SA_NOCLDSTOP. */
    while (sigtimedwait(&set, NULL, &(struct timespec){0, 0}) > 0)
        ;
    seen = 0;
    pid = child(-SIGSTOP);
    while (!seen)
        sigsuspend(&old);
    TRUE(code == CLD_STOPPED && from == pid);
    sa.sa_flags |= SA_NOCLDSTOP;
    MUST(sigaction(SIGCHLD, &sa, NULL));
    kill(pid, SIGKILL);
    MUST(waitpid(pid, &status, 0));
    show_status("stopped one", status);

    /* Nobody to wait for: ignored children are reaped by the kernel. */
    sigprocmask(SIG_SETMASK, &old, NULL);
    signal(SIGCHLD, SIG_IGN);
    child(1);
    child(2);
    SHOW(wait(&status));
    sa = (struct sigaction){.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    MUST(sigaction(SIGCHLD, &sa, NULL));
    child(3);
    SHOW(wait(&status));
    return 0;
}
