/* Mapped files that shrink and grow: SIGBUS behind the end, zeros where it comes back. */
#include "guest.h"
#include <setjmp.h>
#include <sys/mman.h>

static sigjmp_buf back;
static void on_signal(int s) { siglongjmp(back, s); }
static void touch(const char *what, char *at, int writing)
{
    int s = sigsetjmp(back, 1);
    if (s) {
        printf("%s: signal %d\n", what, s);
        return;
    }
    char c = *(volatile char *)at;
    if (writing)
        *(volatile char *)at = 'w';
    printf("%s: %d\n", what, c);
}
static void both(const char *when, char *shared, char *own)
{
    SAY("%s", when);
    touch("shared, first page", shared, 1);
    touch("shared, second page", shared + 4096, 1);
    touch("shared, third page", shared + 8192, 0);
    touch("private, third page", own + 8192, 0);
}
int main(void)
{
    static char block[3 * 4096];
    int status;
    scratch();
    memset(block, 'a', sizeof block);
    signal(SIGBUS, on_signal);
    signal(SIGSEGV, on_signal);
    int fd = (int)MUST(open("f", O_RDWR | O_CREAT, 0600));
    MUST(write(fd, block, sizeof block));
    char *shared = mmap(NULL, sizeof block, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *own = mmap(NULL, sizeof block, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    both("whole", shared, own);
    SHOW(ftruncate(fd, 4096 + 10));
    both("shorter", shared, own);
    printf("%d %d\n", shared[4096 + 9], shared[4096 + 100]);
    SHOW(pread(fd, block, 10, 8192));
    SHOW(ftruncate(fd, sizeof block));
    touch("grown, second page", shared + 4096 + 100, 0);
    touch("grown, third page", shared + 8192, 1);
    SHOW(truncate("f", 0));
    touch("empty", shared, 0);
    errno = 0;
    SHOW(write(1, shared, 10));
    MUST(pwrite(fd, "xyz", 3, 0));
    touch("written again", shared + 1, 0);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        close(open("f", O_RDWR | O_TRUNC));
        _exit(0);
    }
    MUST(waitpid(child, &status, 0));
    touch("emptied by another process", shared, 0);
    return 0;
}
