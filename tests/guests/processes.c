/* fork, vfork, wait in its forms, exit codes, what a child shares. */
#include "guest.h"
#include <sched.h>
#include <sys/resource.h>

static int spawn(int code)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(code);
    return pid;
}

int main(void)
{
    int status, p[2];
    pid_t pid;
    scratch();
    SHOW(wait(&status));

    pid = spawn(42);
    TRUE(pid > 0);
    TRUE(waitpid(pid, &status, 0) == pid);
    show_status("child", status);
    SHOW(waitpid(pid, &status, 0));
    pid = spawn(0x1ff);
    MUST(waitpid(-1, &status, 0));
    show_status("only the low byte", status);

    pid = fork();
    if (!pid) {
        raise(SIGKILL);
        _exit(1);
    }
    MUST(waitpid(pid, &status, 0));
    show_status("killed", status);
    pid = fork();
    if (!pid)
        abort();
    MUST(waitpid(pid, &status, 0));
    show_status("aborted", status & 0x7f);

    /* WNOHANG while the child waits for us. */
    MUST(pipe(p));
    pid = fork();
    if (!pid) {
        char c;
        close(p[1]);
        _exit(read(p[0], &c, 1) == 0 ? 7 : 8);
    }
    SHOW(waitpid(pid, &status, WNOHANG));
    close(p[1]);
    close(p[0]);
    TRUE(waitpid(pid, &status, 0) == pid);
    show_status("after WNOHANG", status);

    /* waitid leaves the child with WNOWAIT. */
    siginfo_t info = {0};
    pid = spawn(5);
    SHOW(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    TRUE(info.si_pid == pid);
    SAY("code %d status %d signo %d", info.si_code == CLD_EXITED, info.si_status, info.si_signo);
    SHOW(waitid(P_ALL, 0, &info, WEXITED));
    SHOW(waitid(P_ALL, 0, &info, WEXITED));
    SHOW(waitid(P_ALL, 0, &info, 0));
    pid = fork();
    if (!pid)
        raise(SIGTERM), _exit(0);
    SHOW(waitid(P_PID, pid, &info, WEXITED));
    SAY("killed %d status %d", info.si_code == CLD_KILLED, info.si_status);

    /* Stop and continue are reported when asked for. */
    MUST(pipe(p));
    pid = fork();
    if (!pid) {
        char c;
        close(p[1]);
        raise(SIGSTOP);
        /* Not before the parent has seen that it goes on. */
        read(p[0], &c, 1);
        _exit(3);
    }
    TRUE(waitpid(pid, &status, WUNTRACED) == pid);
    show_status("stopped", status);
    SHOW(kill(pid, SIGCONT));
    MUST(waitpid(pid, &status, WCONTINUED));
    show_status("continued", status);
    close(p[1]);
    close(p[0]);
    MUST(waitpid(pid, &status, 0));
    show_status("ended", status);

    /* Memory is copied, the offset of a file is shared, descriptors are separate. */
    int value = 1;
    put("f", "0123456789");
    int fd = (int)MUST(open("f", O_RDONLY));
    pid = fork();
    if (!pid) {
        char b[4];
        value = 2;
        MUST(read(fd, b, 4));
        close(fd);
        _exit(value);
    }
    MUST(waitpid(pid, &status, 0));
    show_status("writer of its own copy", status);
    SAY("value %d, offset %ld", value, (long)lseek(fd, 0, SEEK_CUR));

    /* vfork shares memory until exit. */
    volatile int shared = 0;
    pid = vfork();
    if (!pid) {
        shared = 9;
        _exit(0);
    }
    SAY("vfork child wrote %d", shared);
    MUST(waitpid(pid, &status, 0));

    /* A grandchild is not our child; its parent is gone when it says so. */
    MUST(pipe(p));
    pid = fork();
    if (!pid) {
        pid_t me = getpid();
        if (!fork()) {
            close(p[0]);
            while (getppid() == me)
                sched_yield();
            MUST(write(p[1], "orphan", 6));
            _exit(0);
        }
        _exit(0);
    }
    close(p[1]);
    MUST(waitpid(pid, &status, 0));
    char b[16] = {0};
    MUST(read(p[0], b, sizeof b));
    SAY("[%s]", b);
    SHOW(read(p[0], b, 1));
    SHOW(wait(&status));

    /* A hundred short children. */
    int sum = 0;
    for (int i = 0; i < 100; i++)
        spawn(i % 7);
    while (wait(&status) > 0)
        sum += WEXITSTATUS(status);
    SAY("sum of codes %d", sum);

    struct rusage usage;
    SHOW(wait4(-1, &status, WNOHANG, &usage));
    pid = spawn(0);
    TRUE(wait4(pid, &status, 0, &usage) == pid);
    SHOW(getrusage(RUSAGE_CHILDREN, &usage));
    SHOW(getrusage(77, &usage));
    TRUE(getppid() > 0 && getpid() > 1);
    return 0;
}
