/* Timers and limits on processor time. */
#include "guest.h"
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>

static volatile sig_atomic_t caught[65];
static void count(int number) { caught[number]++; }

/* Uses processor time until a signal has come. */
static void burn_until(int number)
{
    volatile unsigned long n = 0;
    while (!caught[number])
        n++;
}

static void timer_on(clockid_t clock, const char *name)
{
    timer_t id;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec value = {{0, 0}, {0, 20000000}};
    caught[SIGUSR1] = 0;
    MUST(timer_create(clock, &event, &id));
    MUST(timer_settime(id, 0, &value, NULL));
    MUST(timer_gettime(id, &value));
    TRUE(value.it_value.tv_sec == 0 && value.it_value.tv_nsec > 0);
    burn_until(SIGUSR1);
    SAY("%s: %d", name, caught[SIGUSR1]);
    MUST(timer_gettime(id, &value));
    TRUE(value.it_value.tv_sec == 0 && value.it_value.tv_nsec == 0);
    MUST(timer_delete(id));
}

int main(void)
{
    struct itimerval value = {{0, 0}, {0, 30000}}, old;
    int status;
    for (int n = 1; n < 32; n++)
        signal(n, n == SIGCHLD ? SIG_DFL : count);
    SHOW(getitimer(ITIMER_VIRTUAL, &old));
    TRUE(old.it_value.tv_sec == 0 && old.it_value.tv_usec == 0);
    SHOW(getitimer(7, &old));
    SHOW(setitimer(7, &value, &old));

    MUST(setitimer(ITIMER_VIRTUAL, &value, NULL));
    MUST(getitimer(ITIMER_VIRTUAL, &old));
    TRUE(old.it_value.tv_usec > 0);
    burn_until(SIGVTALRM);
    SAY("virtual: %d", caught[SIGVTALRM]);
    MUST(setitimer(ITIMER_PROF, &value, NULL));
    burn_until(SIGPROF);
    SAY("profile: %d", caught[SIGPROF]);

    /* Again and again, and a child does not inherit it. */
    caught[SIGPROF] = 0;
    value.it_interval.tv_usec = 10000;
    MUST(setitimer(ITIMER_PROF, &value, NULL));
    while (caught[SIGPROF] < 3)
        ;
    SAY("profile, repeated");
    fflush(stdout);
    if (!fork()) {
        MUST(getitimer(ITIMER_PROF, &old));
        _exit(old.it_value.tv_usec || old.it_interval.tv_usec);
    }
    while (wait(&status) == -1)
        ;
    show_status("without the timer", status);
    value = (struct itimerval){{0, 0}, {0, 0}};
    MUST(setitimer(ITIMER_PROF, &value, &old));
    TRUE(old.it_interval.tv_usec == 10000);

    timer_on(CLOCK_PROCESS_CPUTIME_ID, "timer of the process");
    timer_on(CLOCK_THREAD_CPUTIME_ID, "timer of the thread");

    /* The limit: SIGXCPU, and death at the hard limit. */
    fflush(stdout);
    if (!fork()) {
        struct rlimit limit = {1, 2};
        MUST(setrlimit(RLIMIT_CPU, &limit));
        signal(SIGXCPU, SIG_DFL);
        for (;;)
            ;
    }
    while (wait(&status) == -1)
        ;
    show_status("above the soft limit", status);
    if (!fork()) {
        struct rlimit limit = {1, 1};
        MUST(setrlimit(RLIMIT_CPU, &limit));
        for (;;)
            ;
    }
    while (wait(&status) == -1)
        ;
    show_status("above the hard limit", status);

    struct tms times_now;
    struct rusage usage;
    MUST(times(&times_now));
    TRUE(times_now.tms_utime > 0 && times_now.tms_cutime > 0);
    /* The host may count in whole ticks, so as many calls as it takes. */
    do {
        for (int n = 0; n < 2000; n++)
            getppid(), access("/etc/passwd", R_OK), open("/none", 0);
        MUST(getrusage(RUSAGE_SELF, &usage));
    } while (usage.ru_stime.tv_sec == 0 && usage.ru_stime.tv_usec == 0);
    SAY("system calls take system time");
    TRUE(usage.ru_utime.tv_sec > 0 || usage.ru_utime.tv_usec > 0);
    return 0;
}
