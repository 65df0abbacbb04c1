/* The device nodes every image can count on. */
#include "guest.h"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <termios.h>

static void node(const char *path)
{
    struct stat st;
    MUST(stat(path, &st));
    SAY("%s %s %d:%d", path, S_ISCHR(st.st_mode) ? "char" : "?", major(st.st_rdev), minor(st.st_rdev));
}

int main(void)
{
    char b[64], c[64];
    struct stat st;
    scratch();
    node("/dev/null");
    node("/dev/zero");
    node("/dev/full");
    node("/dev/random");
    node("/dev/urandom");
    node("/dev/tty");

    int null = (int)MUST(open("/dev/null", O_RDWR | O_CREAT | O_TRUNC, 0644));
    SHOW(write(null, "gone", 4));
    SHOW(read(null, b, sizeof b));
    SHOW(lseek(null, 100, SEEK_SET));
    SHOW(ftruncate(null, 0));
    SHOW(ioctl(null, TCGETS, b));
    SHOW(isatty(null));
    TRUE(errno == ENOTTY || errno == 0);

    int zero = (int)MUST(open("/dev/zero", O_RDWR));
    memset(b, 1, sizeof b);
    SHOW(read(zero, b, sizeof b));
    TRUE(b[0] == 0 && b[63] == 0);
    SHOW(write(zero, b, 10));
    char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    TRUE(m != MAP_FAILED && m[100] == 0);

    int full = (int)MUST(open("/dev/full", O_RDWR));
    SHOW(write(full, b, 10));
    SHOW(read(full, b, 10));

    int random = (int)MUST(open("/dev/urandom", O_RDONLY));
    SHOW(read(random, b, sizeof b));
    SHOW(read(random, c, sizeof c));
    TRUE(memcmp(b, c, sizeof b) != 0);
    random = (int)MUST(open("/dev/random", O_RDONLY | O_NONBLOCK));
    SHOW(read(random, b, sizeof b));

    /* In a session without a terminal there is no /dev/tty. */
    int status;
    fflush(stdout);
    if (!fork()) {
        setsid();
        SHOW(open("/dev/tty", O_RDWR));
        _exit(0);
    }
    MUST(wait(&status));

    SHOW(stat("/dev/fd/0", &st));
    SHOW(stat("/dev/stdin", &st));
    int out = open("/dev/stdout", O_WRONLY | O_APPEND);
    TRUE(out >= 0);
    SHOW(stat("/dev/shm", &st) | S_ISDIR(st.st_mode));
    SHOW(open("/dev/missing", O_RDONLY));
    SHOW(access("/dev/null", R_OK | W_OK));
    return 0;
}
