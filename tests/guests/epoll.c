/* epoll, eventfd, signalfd, timerfd. */
#include "guest.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int ep;
static long control(int op, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    return epoll_ctl(ep, op, fd, &e);
}
static void collect(const char *what, int timeout)
{
    struct epoll_event e[8];
    int n = epoll_wait(ep, e, 8, timeout);
    uint64_t sum = 0;
    uint32_t events = 0;
    for (int i = 0; i < n; i++)
        sum += e[i].data.u64, events |= e[i].events;
    SAY("%s: %d events %x data %llu", what, n, events, (unsigned long long)sum);
}

int main(void)
{
    int p[2], q[2];
    char b[16];
    scratch();
    SHOW(epoll_create1(0x1));
    SHOW(syscall(SYS_epoll_create, 0));
    ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    SHOW(fcntl(ep, F_GETFD));
    MUST(pipe(p));
    SHOW(control(EPOLL_CTL_ADD, p[0], EPOLLIN, 100));
    SHOW(control(EPOLL_CTL_ADD, p[0], EPOLLIN, 100));
    SHOW(control(EPOLL_CTL_MOD, p[1], EPOLLOUT, 1));
    SHOW(control(EPOLL_CTL_DEL, p[1], 0, 0));
    SHOW(control(EPOLL_CTL_ADD, ep, EPOLLIN, 1));
    SHOW(control(EPOLL_CTL_ADD, 999, EPOLLIN, 1));
    put("f", "x");
    SHOW(control(EPOLL_CTL_ADD, (int)MUST(open("f", O_RDONLY)), EPOLLIN, 1));
    SHOW(control(77, p[1], EPOLLIN, 1));
    struct epoll_event e;
    SHOW(epoll_wait(ep, &e, 0, 0));
    SHOW(epoll_wait(p[0], &e, 1, 0));

    collect("nothing", 0);
    MUST(write(p[1], "ab", 2));
    collect("level", 0);
    collect("level again", 0);
    SHOW(control(EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 200));
    collect("edge", 0);
    collect("edge again", 0);
    MUST(write(p[1], "c", 1));
    collect("edge after a write", 0);
    SHOW(control(EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 300));
    collect("once", 0);
    collect("once again", 0);
    SHOW(control(EPOLL_CTL_MOD, p[0], EPOLLIN, 400));
    MUST(read(p[0], b, 3));
    collect("drained", 20);
    MUST(pipe(q));
    SHOW(control(EPOLL_CTL_ADD, q[1], EPOLLOUT, 1));
    MUST(write(p[1], "x", 1));
    collect("two", -1);
    close(p[1]);
    SHOW(control(EPOLL_CTL_DEL, q[1], 0, 0));
    MUST(read(p[0], b, 1));
    collect("hang-up", -1);
    close(p[0]);
    collect("closed", 0);

    int outer = (int)MUST(epoll_create1(0)), inner = ep;
    ep = outer;
    SHOW(control(EPOLL_CTL_ADD, inner, EPOLLIN, 5));
    collect("nested, nothing", 0);
    ep = inner;
    SHOW(control(EPOLL_CTL_ADD, q[1], EPOLLOUT, 9));
    ep = outer;
    collect("nested", 0);

    uint64_t v = 0;
    int ev = (int)MUST(eventfd(3, EFD_NONBLOCK));
    SHOW(control(EPOLL_CTL_ADD, ev, EPOLLIN | EPOLLET, 50));
    collect("eventfd", 0);
    SHOW(read(ev, &v, 8));
    SAY("value %llu", (unsigned long long)v);
    SHOW(read(ev, &v, 8));
    SHOW(read(ev, &v, 4));
    v = 5;
    SHOW(write(ev, &v, 8));
    SHOW(write(ev, &v, 8));
    SHOW(read(ev, &v, 8));
    SAY("value %llu", (unsigned long long)v);
    v = -1;
    SHOW(write(ev, &v, 8));
    v = -2;
    SHOW(write(ev, &v, 8));
    v = 1;
    SHOW(write(ev, &v, 8));
    int sem = (int)MUST(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
    SHOW(read(sem, &v, 8));
    SAY("value %llu", (unsigned long long)v);
    SHOW(read(sem, &v, 8));
    SHOW(read(sem, &v, 8));

    int timer = (int)MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    struct itimerspec in10 = {{0, 0}, {0, 10000000}}, now;
    SHOW(read(timer, &v, 8));
    SHOW(timerfd_settime(timer, 0, &in10, NULL));
    SHOW(timerfd_gettime(timer, &now));
    TRUE(now.it_interval.tv_nsec == 0 && now.it_value.tv_nsec <= 10000000);
    SHOW(control(EPOLL_CTL_ADD, timer, EPOLLIN, 70));
    ep = outer;
    struct epoll_event es[4];
    int got = 0;
    while (!got) {
        int n = epoll_wait(ep, es, 4, -1);
        for (int i = 0; i < n; i++)
            got |= es[i].data.u64 == 70;
    }
    SHOW(read(timer, &v, 8));
    SAY("expirations %llu", (unsigned long long)v);

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int sig = (int)MUST(signalfd(-1, &set, SFD_NONBLOCK));
    struct signalfd_siginfo info;
    SHOW(read(sig, &info, sizeof info));
    raise(SIGUSR1);
    SHOW(read(sig, &info, sizeof info) == sizeof info);
    TRUE(info.ssi_signo == SIGUSR1 && (pid_t)info.ssi_pid == getpid());
    return 0;
}
