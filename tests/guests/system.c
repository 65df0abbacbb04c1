/* uname, sysinfo, limits, scheduling, random bytes, prctl: what programs ask about the machine. */
#include "guest.h"
#include <sched.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

static volatile int signalled;
static void on_xfsz(int signo) { (void)signo; signalled++; }

int main(void)
{
    struct utsname u;
    scratch();
    SHOW(uname(&u));
    SAY("%s %s", u.sysname, u.machine);
    TRUE(strlen(u.nodename) > 0 && atoi(u.release) >= 4);
    char name[256] = {0};
    SHOW(gethostname(name, sizeof name));
    TRUE(!strcmp(name, u.nodename));
    struct sysinfo info;
    SHOW(sysinfo(&info));
    TRUE(info.totalram > 0 && info.mem_unit > 0 && info.procs > 0);
    TRUE(sysconf(_SC_NPROCESSORS_ONLN) >= 1 && sysconf(_SC_PAGESIZE) == 4096 && sysconf(_SC_CLK_TCK) == 100);

    struct rlimit r;
    for (int i = 0; i < 16; i++) {
        int answer = getrlimit(i, &r);
        SAY("limit %d: %d %s", i, answer, r.rlim_cur <= r.rlim_max ? "ok" : "NO");
    }
    SHOW(getrlimit(99, &r));
    r = (struct rlimit){20, 10};
    SHOW(setrlimit(RLIMIT_NOFILE, &r));
    r = (struct rlimit){10, 20};
    SHOW(setrlimit(RLIMIT_NOFILE, &r));
    int last = -1, fd;
    while ((fd = dup(0)) >= 0)
        last = fd;
    SAY("last descriptor %d, then %s", last, errno_name(errno));
    for (int i = 3; i < 10; i++)
        close(i);
    SHOW(prlimit(0, RLIMIT_NOFILE, NULL, &r));
    SAY("%ld %ld", (long)r.rlim_cur, (long)r.rlim_max);
    signal(SIGXFSZ, on_xfsz);
    r = (struct rlimit){5, 5};
    int status;
    fflush(stdout);
    if (!fork()) { /* it would cut our own output off, where that is a file */
        MUST(setrlimit(RLIMIT_FSIZE, &r));
        fd = (int)MUST(open("f", O_CREAT | O_WRONLY, 0644));
        int first = (int)write(fd, "0123456789", 10), second = (int)write(fd, "0123456789", 10);
        _exit(first == 5 && second == -1 && errno == EFBIG ? signalled : 77);
    }
    MUST(wait(&status));
    show_status("file size limit", status);

    cpu_set_t set;
    TRUE(syscall(SYS_sched_getaffinity, 0, sizeof set, &set) > 0);
    SHOW(sched_yield());
    SHOW(syscall(SYS_sched_getscheduler, 0));
    /* The test may itself run with less priority. */
    TRUE(getpriority(PRIO_PROCESS, 0) >= 0);
    SHOW(setpriority(PRIO_PROCESS, 0, 7));
    SHOW(getpriority(PRIO_PROCESS, 0));
    unsigned cpu = 9999, nodes = 9999;
    SHOW(syscall(SYS_getcpu, &cpu, &nodes, NULL));
    TRUE(cpu < 9999 && nodes < 9999);

    char a[32], b[32];
    SHOW(getrandom(a, sizeof a, 0));
    SHOW(getrandom(b, sizeof b, GRND_NONBLOCK));
    TRUE(memcmp(a, b, sizeof a));
    SHOW(getrandom(a, 0, 0));
    SHOW(getrandom(a, 1, 0x100));
    SHOW(syscall(SYS_getrandom, (void *)8, 8, 0));

    char comm[17] = {0};
    SHOW(prctl(PR_SET_NAME, "a name that is too long"));
    SHOW(prctl(PR_GET_NAME, comm));
    SAY("[%s]", comm);
    SHOW(prctl(PR_GET_DUMPABLE));
    int death = -1;
    SHOW(prctl(PR_SET_PDEATHSIG, SIGTERM));
    SHOW(prctl(PR_GET_PDEATHSIG, &death));
    SAY("death signal %d", death);
    SHOW(prctl(PR_SET_PDEATHSIG, 99));
    SHOW(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    SHOW(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SHOW(prctl(9999));
    SHOW(prctl(PR_SET_CHILD_SUBREAPER, 1));
    fflush(stdout);
    pid_t me = getpid();
    if (!fork()) {
        pid_t child = getpid();
        if (!fork()) {
            while (getppid() == child)
                sched_yield();
            _exit(getppid() == me ? 3 : 4);
        }
        _exit(0);
    }
    MUST(wait(&status));
    show_status("child", status);
    MUST(wait(&status));
    show_status("grandchild", status);
    SHOW(syscall(9999));
    SHOW(syscall(-1));
    return 0;
}
