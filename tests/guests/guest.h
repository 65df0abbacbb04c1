/*
 * What every guest program shares: printing of results in a form that is the same natively and in Cooper.
 *
 * A guest program exercises one family of system calls and prints one line per observation: SHOW(call) prints the
 * call as written, its result and the name of errno. Nothing that differs from run to run (pids, addresses, inode
 * numbers, clock values) may be printed; say `ok` or `no` about it with TRUE(). The harness runs the program natively
 * first, in an empty directory, and then in Cooper; the two outputs must be equal.
 */
#ifndef GUEST_H
#define GUEST_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The name of an errno value; musl has no strerrorname_np. */
static inline const char *errno_name(int e)
{
#define N(x) case x: return #x;
    switch (e) {
    case 0: return "0";
    N(EPERM) N(ENOENT) N(ESRCH) N(EINTR) N(EIO) N(ENXIO) N(E2BIG) N(ENOEXEC) N(EBADF) N(ECHILD) N(EAGAIN) N(ENOMEM)
    N(EACCES) N(EFAULT) N(EBUSY) N(EEXIST) N(EXDEV) N(ENODEV) N(ENOTDIR) N(EISDIR) N(EINVAL) N(ENFILE) N(EMFILE)
    N(ENOTTY) N(ETXTBSY) N(EFBIG) N(ENOSPC) N(ESPIPE) N(EROFS) N(EMLINK) N(EPIPE) N(EDOM) N(ERANGE) N(EDEADLK)
    N(ENAMETOOLONG) N(ENOLCK) N(ENOSYS) N(ENOTEMPTY) N(ELOOP) N(ENODATA) N(ETIME) N(EOVERFLOW) N(ENOTSOCK)
    N(EDESTADDRREQ) N(EMSGSIZE) N(EPROTOTYPE) N(ENOPROTOOPT) N(EPROTONOSUPPORT) N(EOPNOTSUPP) N(EAFNOSUPPORT)
    N(EADDRINUSE) N(EADDRNOTAVAIL) N(ENETUNREACH) N(ECONNABORTED) N(ECONNRESET) N(EISCONN) N(ENOTCONN)
    N(ETIMEDOUT) N(ECONNREFUSED) N(EHOSTUNREACH) N(EALREADY) N(EINPROGRESS) N(ESTALE)
    }
#undef N
    return "E?";
}

/* One observation: `what = value`, with errno's name where the value is -1. */
static inline long show(const char *what, long value)
{
    int e = errno;
    if (value == -1)
        printf("%s = -1 %s\n", what, errno_name(e));
    else
        printf("%s = %ld\n", what, value);
    fflush(stdout);
    errno = 0;
    return value;
}
#define SHOW(call) (errno = 0, show(#call, (long)(call)))
/* The same for a call whose positive result differs from run to run (a descriptor, a pid, an address). */
#define SHOWPOS(call) (errno = 0, show_positive(#call, (long)(call)))
static inline long show_positive(const char *what, long value)
{
    int e = errno;
    if (value == -1)
        printf("%s = -1 %s\n", what, errno_name(e));
    else
        printf("%s = ok\n", what);
    fflush(stdout);
    errno = 0;
    return value;
}
/* A statement that has to hold. */
#define TRUE(condition) (printf("%s: %s\n", #condition, (condition) ? "ok" : "NO"), fflush(stdout))
#define SAY(...) (printf(__VA_ARGS__), putchar('\n'), fflush(stdout))

/* A step that only prepares something: its failure ends the program. */
#define MUST(call) must(#call, __LINE__, (long)(call))
static inline long must(const char *what, int line, long value)
{
    if (value == -1) {
        printf("line %d: %s failed: %s\n", line, what, errno_name(errno));
        exit(99);
    }
    return value;
}

/* How a child ended. */
static inline void show_status(const char *who, int status)
{
    if (WIFEXITED(status))
        SAY("%s: exit %d", who, WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        SAY("%s: signal %d", who, WTERMSIG(status));
    else if (WIFSTOPPED(status))
        SAY("%s: stopped %d", who, WSTOPSIG(status));
    else if (WIFCONTINUED(status))
        SAY("%s: continued", who);
    else
        SAY("%s: odd status %x", who, status);
}

/* Writes a whole file. */
static inline void put(const char *path, const char *text)
{
    int fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

/* Prints a file's contents on one line. */
static inline void cat(const char *path)
{
    char buffer[512];
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        SAY("%s: %s", path, errno_name(errno));
        return;
    }
    ssize_t n = read(fd, buffer, sizeof buffer - 1);
    close(fd);
    buffer[n < 0 ? 0 : n] = 0;
    SAY("%s: [%s]", path, buffer);
}

/* A fresh empty directory, and the working directory from here on. */
static inline void scratch(void)
{
    char path[] = "/tmp/guest-XXXXXX";
    umask(022);
    if (!mkdtemp(path)) {
        printf("mkdtemp: %s\n", errno_name(errno));
        exit(99);
    }
    MUST(chmod(path, 0755));
    MUST(chdir(path));
}
#endif
