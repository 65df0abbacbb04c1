/* flock, record locks, locks of open file descriptions, over processes. */
#include "guest.h"
#include <sys/file.h>

static struct flock range(int type, off_t start, off_t len)
{
    return (struct flock){.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}
#define CHILD(...) do { int st_; fflush(stdout); if (!fork()) { __VA_ARGS__; fflush(stdout); _exit(0); } \
    MUST(wait(&st_)); if (st_) show_status("child", st_); } while (0)

int main(int count, char **arguments)
{
    if (count > 1) {
        /* Executed anew by the end of the test: says so, and waits to be told to end. */
        char c = 'x';
        write(atoi(arguments[1]), &c, 1);
        read(atoi(arguments[2]), &c, 1);
        return 6;
    }
    scratch();
    put("f", "0123456789");
    int a = (int)MUST(open("f", O_RDWR)), b = (int)MUST(open("f", O_RDWR));
    SHOW(flock(a, LOCK_EX));
    SHOW(flock(b, LOCK_EX | LOCK_NB));
    SHOW(flock(b, LOCK_SH | LOCK_NB));
    SHOW(flock(a, LOCK_SH));
    SHOW(flock(b, LOCK_SH | LOCK_NB));
    SHOW(flock(a, LOCK_EX | LOCK_NB));
    SHOW(flock(b, LOCK_UN));
    SHOW(flock(a, LOCK_EX | LOCK_NB));
    int c = (int)MUST(dup(a));
    SHOW(close(a));
    SHOW(flock(b, LOCK_EX | LOCK_NB));
    SHOW(close(c));
    SHOW(flock(b, LOCK_EX | LOCK_NB));
    SHOW(flock(b, 99));
    CHILD(SHOW(flock(b, LOCK_EX | LOCK_NB)));
    CHILD(SHOW(flock((int)MUST(open("f", O_RDWR)), LOCK_EX | LOCK_NB)));
    MUST(flock(b, LOCK_UN));

    struct flock l = range(F_WRLCK, 0, 5);
    SHOW(fcntl(b, F_SETLK, &l));
    CHILD({
        int fd = (int)MUST(open("f", O_RDWR));
        struct flock q = range(F_WRLCK, 3, 4);
        SHOW(fcntl(fd, F_SETLK, &q));
        SHOW(fcntl(fd, F_GETLK, &q));
        SAY("held: type %d start %ld len %ld by the parent %d", q.l_type == F_WRLCK, (long)q.l_start, (long)q.l_len,
            q.l_pid == getppid());
        q = range(F_WRLCK, 5, 0);
        SHOW(fcntl(fd, F_SETLK, &q));
        q = range(F_RDLCK, 0, 1);
        SHOW(fcntl(fd, F_SETLK, &q));
    });
    l = range(F_UNLCK, 1, 3);
    SHOW(fcntl(b, F_SETLK, &l));
    CHILD({
        int fd = (int)MUST(open("f", O_RDWR));
        struct flock q = range(F_WRLCK, 1, 3);
        SHOW(fcntl(fd, F_SETLK, &q));
        q = range(F_WRLCK, 4, 1);
        SHOW(fcntl(fd, F_SETLK, &q));
    });
    /* Closing any descriptor of the file gives all record locks up. */
    close((int)MUST(open("f", O_RDONLY)));
    CHILD({
        struct flock q = range(F_WRLCK, 0, 0);
        SHOW(fcntl((int)MUST(open("f", O_RDWR)), F_SETLK, &q));
    });
    l = range(F_WRLCK, 0, 0);
    SHOW(fcntl((int)MUST(open("f", O_RDONLY)), F_SETLK, &l));

    /* A waiter gets the lock when the holder ends. */
    int p[2];
    char byte;
    MUST(pipe(p));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        struct flock q = range(F_WRLCK, 0, 0);
        MUST(fcntl(b, F_SETLK, &q));
        MUST(write(p[1], "x", 1));
        close(p[1]);
        _exit(0);
    }
    MUST(read(p[0], &byte, 1));
    SHOW(fcntl(b, F_SETLKW, &l));
    int status;
    MUST(wait(&status));

    int o1 = (int)MUST(open("f", O_RDWR)), o2 = (int)MUST(open("f", O_RDWR));
    l = range(F_UNLCK, 0, 0);
    MUST(fcntl(b, F_SETLK, &l));
    l = range(F_WRLCK, 0, 0);
    SHOW(fcntl(o1, F_OFD_SETLK, &l));
    SHOW(fcntl(o2, F_OFD_SETLK, &l));
    close(o1);
    SHOW(fcntl(o2, F_OFD_SETLK, &l));
    SHOW(lockf(o2, F_TEST, 0));
    /* A descriptor that is closed by execve lets go of its locks; another keeps them. */
    int ready[2], end[2];
    MUST(pipe(ready));
    MUST(pipe(end));
    close(b);
    put("g", "x"), put("h", "x");
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        char first[16], second[16];
        int closed = open("g", O_RDWR | O_CLOEXEC), kept = open("h", O_RDWR);
        l = range(F_WRLCK, 0, 0);
        fcntl(closed, F_SETLK, &l);
        l = range(F_WRLCK, 0, 0);
        fcntl(kept, F_SETLK, &l);
        snprintf(first, sizeof first, "%d", ready[1]), snprintf(second, sizeof second, "%d", end[0]);
        execl("/proc/self/exe", "locks", first, second, NULL);
        _exit(99);
    }
    MUST(read(ready[0], &byte, 1));
    for (int i = 0; i < 2; i++) {
        int fd = (int)MUST(open(i ? "h" : "g", O_RDWR));
        l = range(F_WRLCK, 0, 0);
        MUST(fcntl(fd, F_GETLK, &l));
        printf("%s is %s\n", i ? "h" : "g", l.l_type == F_UNLCK ? "free" : "locked");
    }
    MUST(write(end[1], "x", 1));
    MUST(waitpid(child, &status, 0));
    show_status("holder", status);
    return 0;
}
