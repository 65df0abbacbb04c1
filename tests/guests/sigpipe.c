/* SIGPIPE: default, handled, ignored, on pipes and sockets. */
#include "guest.h"
#include <sys/socket.h>

static volatile int seen;
static void on_pipe(int signo) { (void)signo; seen++; }

int main(void)
{
    int p[2], status;
    signal(SIGPIPE, SIG_DFL);
    fflush(stdout);
    if (!fork()) {
        MUST(pipe(p));
        close(p[0]);
        (void)!write(p[1], "x", 1);
        _exit(0);
    }
    MUST(wait(&status));
    show_status("default", status);

    signal(SIGPIPE, on_pipe);
    MUST(pipe(p));
    close(p[0]);
    SHOW(write(p[1], "x", 1));
    SAY("handled %d", seen);
    SHOW(write(p[1], "", 0));
    SAY("handled %d", seen);

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    close(p[0]);
    SHOW(write(p[1], "x", 1));
    SAY("handled %d", seen);
    SHOW(send(p[1], "x", 1, MSG_NOSIGNAL));
    SAY("handled %d", seen);
    signal(SIGPIPE, SIG_IGN);
    SHOW(write(p[1], "x", 1));
    SAY("handled %d", seen);

    /* As `yes | head`: the writer ends when its reader does. */
    signal(SIGPIPE, SIG_DFL);
    MUST(pipe(p));
    fflush(stdout);
    if (!fork()) {
        close(p[0]);
        for (;;)
            (void)!write(p[1], "y\n", 2);
    }
    close(p[1]);
    char b[10];
    SHOW(read(p[0], b, 2));
    close(p[0]);
    MUST(wait(&status));
    show_status("yes", status);
    return 0;
}
