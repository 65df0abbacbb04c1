/* Clocks, sleeping, POSIX timers. */
#include "guest.h"
#include <sys/time.h>
#include <sys/times.h>

static volatile int fired;
static void on_timer(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)context;
    fired += info->si_value.sival_int;
}
static long long ns(clockid_t clock)
{
    struct timespec t;
    MUST(clock_gettime(clock, &t));
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(void)
{
    struct timespec t, left;
    const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID,
                                CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME};
    for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        SHOW(clock_gettime(clocks[i], &t));
        long long a = ns(clocks[i]), b = ns(clocks[i]);
        TRUE(b >= a && a > 0);
        SHOW(clock_getres(clocks[i], &t));
    }
    SHOW(clock_gettime(99, &t));
    TRUE(time(NULL) > 1700000000);
    struct timeval tv;
    MUST(gettimeofday(&tv, NULL));
    TRUE(llabs(tv.tv_sec * 1000000000ll - ns(CLOCK_REALTIME)) < 5000000000ll);

    long long start = ns(CLOCK_MONOTONIC);
    t = (struct timespec){0, 20000000};
    SHOW(nanosleep(&t, &left));
    TRUE(ns(CLOCK_MONOTONIC) - start >= 20000000);
    t.tv_nsec = 1000000000;
    SHOW(nanosleep(&t, NULL));
    start = ns(CLOCK_MONOTONIC) + 20000000;
    t = (struct timespec){start / 1000000000, start % 1000000000};
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL));
    TRUE(ns(CLOCK_MONOTONIC) >= start);
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL));

    /* CPU time advances with work, not with sleep. */
    long long cpu = ns(CLOCK_PROCESS_CPUTIME_ID);
    volatile long work = 0;
    while (ns(CLOCK_PROCESS_CPUTIME_ID) - cpu < 2000000)
        work++;
    TRUE(work > 0);
    struct tms tms;
    TRUE(times(&tms) != -1);

    timer_t timer;
    struct sigaction sa = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGRTMIN, &sa, NULL));
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 7};
    SHOW(timer_create(CLOCK_MONOTONIC, &ev, &timer));
    struct itimerspec once = {{0, 0}, {0, 10000000}}, each = {{0, 5000000}, {0, 5000000}}, off = {{0, 0}, {0, 0}}, now;
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, &old);
    SHOW(timer_settime(timer, 0, &once, NULL));
    while (!fired)
        sigsuspend(&old);
    SAY("fired %d", fired);
    SHOW(timer_gettime(timer, &now));
    TRUE(now.it_value.tv_nsec == 0 && now.it_value.tv_sec == 0);
    SHOW(timer_settime(timer, 0, &each, NULL));
    while (fired < 7 * 4)
        sigsuspend(&old);
    SHOW(timer_settime(timer, 0, &off, &now));
    TRUE(now.it_interval.tv_nsec == 5000000);
    SHOW(timer_delete(timer));
    SHOW(timer_create(99, &ev, &timer));
    return 0;
}
