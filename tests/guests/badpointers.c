/* Wrong pointers answer EFAULT; the program goes on. */
#include "guest.h"
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#define BAD ((void *)8)

int main(void)
{
    char *edge, b[16];
    int p[2];
    scratch();
    put("f", "0123456789");
    int fd = (int)MUST(open("f", O_RDWR));
    edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(munmap(edge + 4096, 4096));
    edge += 4096;
    SHOW(syscall(SYS_read, fd, BAD, 5));
    SHOW(syscall(SYS_write, fd, BAD, 5));
    SHOW(lseek(fd, 0, SEEK_SET));
    SHOW(syscall(SYS_read, fd, 0xffff800000000000, 5));
    SHOW(syscall(SYS_open, BAD, O_RDONLY));
    SHOW(syscall(SYS_open, edge - 1, O_RDONLY) == -1 && errno != EFAULT);
    memcpy(edge - 3, "abc", 3);
    SHOW(syscall(SYS_open, edge - 3, O_RDONLY));
    memcpy(edge - 2, "f", 2);
    SHOWPOS(syscall(SYS_open, edge - 2, O_RDONLY));
    SHOW(syscall(SYS_stat, "f", edge - 10));
    SHOW(syscall(SYS_pipe, BAD));
    SHOW(syscall(SYS_wait4, -1, BAD, 0, 0));
    SHOW(syscall(SYS_uname, BAD));
    SHOW(syscall(SYS_getcwd, BAD, 4096));
    SHOW(syscall(SYS_execve, BAD, NULL, NULL));
    SHOW(syscall(SYS_execve, "f", BAD, NULL));
    SHOW(syscall(SYS_rt_sigaction, SIGUSR1, BAD, NULL, 8));
    SHOW(syscall(SYS_rt_sigprocmask, SIG_BLOCK, BAD, NULL, 8));
    SHOW(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, NULL, 4));
    SHOW(syscall(SYS_nanosleep, BAD, NULL));
    SHOW(syscall(SYS_clock_gettime, 0, BAD));
    SHOW(syscall(SYS_poll, BAD, 1, 0));
    SHOW(syscall(SYS_select, 1, BAD, NULL, NULL, NULL));
    SHOW(syscall(SYS_readlink, "f", BAD, 10));
    SHOW(syscall(SYS_rename, "f", BAD));
    SHOW(syscall(SYS_utimensat, AT_FDCWD, "f", BAD, 0));
    SHOW(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, BAD));
    SHOW(syscall(SYS_futex, BAD, 0, 0, NULL));
    SHOW(syscall(SYS_getdents64, open(".", O_RDONLY), BAD, 1000));
    struct iovec iov[2] = {{b, 4}, {BAD, 4}};
    SHOW(lseek(fd, 0, SEEK_SET));
    SHOW(readv(fd, iov, 2));
    SHOW(syscall(SYS_readv, fd, BAD, 2));
    /* A pipe gives what fits before the fault. */
    MUST(pipe(p));
    MUST(write(p[1], "xyz", 3));
    SHOW(read(p[0], BAD, 3));
    SHOW(write(p[1], edge - 2, 10) == -1 ? errno == EFAULT : 1);
    SHOW(read(p[0], b, 16) >= 3);
    return 0;
}
