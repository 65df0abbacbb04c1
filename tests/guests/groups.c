/* Process groups and sessions. */
#include "guest.h"

int main(void)
{
    int status, p[2], q[2];
    char c;
    fflush(stdout);
    /* In a child of its own session, so that the starting shell does not matter. */
    pid_t pid = fork();
    if (pid) {
        MUST(waitpid(pid, &status, 0));
        show_status("session", status);
        return 0;
    }
    TRUE(setsid() == getpid());
    TRUE(getpgrp() == getpid() && getsid(0) == getpid());
    SHOW(setsid());
    SHOW(setpgid(0, 0));
    SHOW(getpgid(2147483647));
    SHOW(setpgid(0, 2147483647));
    SHOW(setpgid(0, -1));

    MUST(pipe(p));
    MUST(pipe(q));
    pid_t a = fork();
    if (!a) {
        setpgid(0, 0);
        (void)!write(p[1], "r", 1);
        (void)!read(q[0], &c, 1);
        _exit(1);
    }
    MUST(setpgid(a, a));
    pid_t b = fork();
    if (!b) {
        setpgid(0, a);
        (void)!write(p[1], "r", 1);
        (void)!read(q[0], &c, 1);
        _exit(1);
    }
    setpgid(b, a);
    MUST(read(p[0], &c, 1));
    MUST(read(p[0], &c, 1));
    TRUE(getpgid(a) == a && getpgid(b) == a && getpgid(0) == getpid());
    SHOW(waitpid(-a, &status, WNOHANG));
    SHOW(waitpid(0, &status, WNOHANG));
    SHOW(kill(-a, 0));
    SHOW(killpg(a, SIGTERM));
    for (int i = 0; i < 2; i++) {
        MUST(waitpid(-a, &status, 0));
        show_status("member", status);
    }
    SHOW(waitpid(-a, &status, 0));
    SHOW(kill(-a, 0));

    /* kill(0) reaches the whole group; a child that left it lives on. */
    signal(SIGUSR1, SIG_IGN);
    a = fork();
    if (!a) {
        signal(SIGUSR1, SIG_DFL);
        (void)!write(p[1], "r", 1);
        (void)!read(q[0], &c, 1);
        _exit(1);
    }
    b = fork();
    if (!b) {
        setpgid(0, 0);
        signal(SIGUSR1, SIG_DFL);
        (void)!write(p[1], "r", 1);
        (void)!read(q[0], &c, 1);
        _exit(5);
    }
    MUST(read(p[0], &c, 1));
    MUST(read(p[0], &c, 1));
    SHOW(kill(0, SIGUSR1));
    MUST(waitpid(a, &status, 0));
    show_status("in the group", status);
    MUST(write(q[1], "x", 1));
    MUST(waitpid(b, &status, 0));
    show_status("out of it", status);
    SHOW(tcgetpgrp(p[0]));
    _exit(0);
}
