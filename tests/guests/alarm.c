/* SIGALRM and interrupted calls: EINTR without SA_RESTART, restart with it, interval timers. */
#include "guest.h"
#include <sys/time.h>

static volatile int fired;
static void on_alarm(int signo) { (void)signo; fired++; }
static int feed;
static void feed_pipe(int signo)
{
    (void)signo;
    fired++;
    (void)!write(feed, "late", 4);
}
static void set(void (*f)(int), int flags)
{
    struct sigaction sa = {.sa_handler = f, .sa_flags = flags};
    MUST(sigaction(SIGALRM, &sa, NULL));
}
static void in_ms(int ms)
{
    struct itimerval t = {{0, 0}, {0, ms * 1000}};
    MUST(setitimer(ITIMER_REAL, &t, NULL));
}

int main(void)
{
    int p[2], status;
    char b[8];
    MUST(pipe(p));
    feed = p[1];

    set(on_alarm, 0);
    in_ms(30);
    SHOW(read(p[0], b, sizeof b));
    SAY("fired %d", fired);
    set(feed_pipe, SA_RESTART);
    in_ms(30);
    SHOW(read(p[0], b, sizeof b));
    SAY("fired %d", fired);

    /* These are never restarted. */
    set(on_alarm, SA_RESTART);
    in_ms(30);
    SHOW(pause());
    in_ms(30);
    struct timespec left = {0, 0}, ten = {10, 0};
    SHOW(nanosleep(&ten, &left));
    TRUE(left.tv_sec == 9);
    in_ms(30);
    SHOW(usleep(5000000));

    /* wait restarts or not, as read does. */
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        pause();
        _exit(0);
    }
    set(on_alarm, 0);
    in_ms(30);
    SHOW(waitpid(pid, &status, 0));
    kill(pid, SIGKILL);
    SHOW(waitpid(pid, &status, 0) == pid);

    fired = 0;
    set(on_alarm, SA_RESTART);
    struct itimerval each = {{0, 5000}, {0, 5000}}, now;
    MUST(setitimer(ITIMER_REAL, &each, NULL));
    while (fired < 5)
        pause();
    each.it_interval.tv_usec = each.it_value.tv_usec = 0;
    MUST(setitimer(ITIMER_REAL, &each, &now));
    TRUE(now.it_interval.tv_usec == 5000);
    SHOW(getitimer(ITIMER_REAL, &now));
    SAY("left %ld", (long)now.it_value.tv_usec);

    SHOW(alarm(100));
    SHOW(alarm(0) >= 99);
    SHOW(alarm(0));

    /* A child starts without its parent's alarm; exec keeps it; default action ends. */
    fflush(stdout);
    alarm(100);
    if (!(pid = fork()))
        _exit((int)alarm(0));
    MUST(waitpid(pid, &status, 0));
    show_status("child's alarm", status);
    alarm(0);
    if (!(pid = fork())) {
        signal(SIGALRM, SIG_DFL);
        in_ms(10);
        for (;;)
            pause();
    }
    MUST(waitpid(pid, &status, 0));
    show_status("default", status);

    /* A spinning program is interrupted too. */
    fired = 0;
    set(on_alarm, 0);
    in_ms(20);
    while (!fired)
        ;
    SAY("spun until %d", fired);
    return 0;
}
