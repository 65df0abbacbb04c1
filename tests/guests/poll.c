/* poll, ppoll, select, pselect: readiness of pipes, files, closed ends; timeouts; masks. */
#include "guest.h"
#include <poll.h>
#include <sys/select.h>
#include <sys/socket.h>

static volatile int seen;
static void on_usr1(int signo) { (void)signo; seen++; }

static void ask(const char *what, int fd, short events)
{
    struct pollfd f = {fd, events, 0};
    int n = poll(&f, 1, 0);
    SAY("%s: %d%s%s%s%s%s", what, n, f.revents & POLLIN ? " in" : "", f.revents & POLLOUT ? " out" : "",
        f.revents & POLLHUP ? " hup" : "", f.revents & POLLERR ? " err" : "", f.revents & POLLNVAL ? " nval" : "");
}

int main(void)
{
    int p[2], s[2];
    char b[70000];
    scratch();
    MUST(pipe(p));
    ask("empty pipe, read end", p[0], POLLIN);
    ask("empty pipe, write end", p[1], POLLOUT);
    MUST(write(p[1], "x", 1));
    ask("pipe with a byte", p[0], POLLIN);
    MUST(fcntl(p[1], F_SETFL, O_NONBLOCK));
    while (write(p[1], b, sizeof b) > 0)
        ;
    ask("full pipe", p[1], POLLOUT);
    close(p[1]);
    ask("writer gone, bytes left", p[0], POLLIN);
    while (read(p[0], b, sizeof b) > 0)
        ;
    ask("writer gone", p[0], POLLIN);
    close(p[0]);
    ask("closed", p[0], POLLIN);
    ask("negative", -1, POLLIN);
    MUST(pipe(p));
    close(p[0]);
    ask("reader gone", p[1], POLLOUT);
    put("f", "x");
    int f = (int)MUST(open("f", O_RDWR));
    ask("file", f, POLLIN | POLLOUT);
    ask("null", (int)MUST(open("/dev/null", O_RDWR)), POLLIN | POLLOUT);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    ask("socket", s[0], POLLIN | POLLOUT);
    MUST(write(s[1], "x", 1));
    ask("socket with a byte", s[0], POLLIN);
    MUST(shutdown(s[1], SHUT_WR));
    ask("socket shut down", s[0], POLLIN | POLLOUT);
    close(s[1]);
    ask("socket closed", s[0], POLLIN | POLLOUT);

    SHOW(poll(NULL, 0, 10));
    MUST(pipe(p));
    struct pollfd two[2] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}};
    SHOW(poll(two, 2, -1));
    SHOW(poll(two, 1, 20));
    int status;
    fflush(stdout);
    if (!fork())
        _exit(write(p[1], "late", 4) == 4 ? 0 : 1);
    SHOW(poll(two, 1, 10000));
    MUST(wait(&status));
    MUST(read(p[0], b, 4));

    fd_set r, w;
    struct timeval tv = {0, 20000};
    FD_ZERO(&r);
    FD_SET(p[0], &r);
    SHOW(select(p[0] + 1, &r, NULL, NULL, &tv));
    TRUE(!FD_ISSET(p[0], &r));
    FD_SET(p[0], &r);
    FD_ZERO(&w);
    FD_SET(p[1], &w);
    SHOW(select(p[1] + 1, &r, &w, NULL, NULL));
    TRUE(!FD_ISSET(p[0], &r) && FD_ISSET(p[1], &w));
    FD_ZERO(&r);
    FD_SET(900, &r);
    SHOW(select(901, &r, NULL, NULL, &tv));
    SHOW(select(-1, NULL, NULL, NULL, &tv));

    /* A signal that is let in only while waiting. */
    sigset_t block, none;
    signal(SIGUSR1, on_usr1);
    sigemptyset(&none);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, NULL);
    raise(SIGUSR1);
    struct timespec ten = {10, 0};
    SHOW(ppoll(two, 1, &ten, &none));
    raise(SIGUSR1);
    FD_ZERO(&r);
    FD_SET(p[0], &r);
    SHOW(pselect(p[0] + 1, &r, NULL, NULL, &ten, &none));
    SAY("seen %d", seen);
    return 0;
}
