/* Pipes and fifos: ends, capacity, non-blocking reads and writes. */
#include "guest.h"
#include <sys/ioctl.h>
#include <sys/uio.h>

int main(void)
{
    int p[2];
    char b[70000];
    scratch();
    signal(SIGPIPE, SIG_IGN);
    SHOW(pipe(p));
    SHOW(write(p[1], "hello", 5));
    int n = 0;
    SHOW(ioctl(p[0], FIONREAD, &n));
    SAY("waiting %d", n);
    SHOW(read(p[0], b, 3));
    SHOW(read(p[0], b, 30));
    SHOW(lseek(p[0], 0, SEEK_SET));
    SHOW(pread(p[0], b, 1, 0));
    SHOW(write(p[0], "x", 1));
    SHOW(read(p[1], b, 1));
    SHOW(fcntl(p[0], F_GETFL) & O_ACCMODE);
    SHOW(fcntl(p[1], F_GETFL) & O_ACCMODE);
    struct stat st;
    SHOW(fstat(p[0], &st) | S_ISFIFO(st.st_mode));
    SHOW(fcntl(p[1], F_GETPIPE_SZ));
    SHOW(fsync(p[0]));
    SHOW(ftruncate(p[1], 0));

    SHOW(fcntl(p[1], F_SETFL, O_NONBLOCK));
    memset(b, 'z', sizeof b);
    SHOW(write(p[1], b, sizeof b));
    SHOW(write(p[1], "x", 1));
    SHOW(read(p[0], b, 4096));
    SHOW(write(p[1], b, 4096));
    SHOW(write(p[1], b, 4096));
    while (read(p[0], b, sizeof b) == sizeof b)
        ;
    SHOW(fcntl(p[0], F_SETFL, O_NONBLOCK));
    SHOW(read(p[0], b, 1));
    SHOW(close(p[1]));
    SHOW(read(p[0], b, 1));

    MUST(pipe2(p, O_CLOEXEC | O_NONBLOCK));
    SHOW(fcntl(p[0], F_GETFD));
    SHOW(!!(fcntl(p[1], F_GETFL) & O_NONBLOCK));
    SHOW(close(p[0]));
    SHOW(write(p[1], "x", 1));
    SHOW(pipe2(p, 0x1));

    /* More than a pipe holds, through a child. */
    MUST(pipe(p));
    fflush(stdout);
    if (!fork()) {
        close(p[0]);
        for (int i = 0; i < 40; i++)
            if (write(p[1], b, 10000) != 10000)
                _exit(1);
        _exit(0);
    }
    close(p[1]);
    long total = 0;
    for (ssize_t got; (got = read(p[0], b, 777)) > 0;)
        total += got;
    SAY("read %ld", total);
    int status;
    MUST(wait(&status));
    show_status("writer", status);

    /* A fifo pairs a reader with a writer. */
    SHOW(mkfifo("fifo", 0640));
    SHOW(mkfifo("fifo", 0640));
    SHOW(stat("fifo", &st));
    SAY("mode %o", st.st_mode);
    SHOW(open("fifo", O_WRONLY | O_NONBLOCK));
    int r = (int)MUST(open("fifo", O_RDONLY | O_NONBLOCK));
    SHOW(read(r, b, 1));
    int w = (int)MUST(open("fifo", O_WRONLY | O_NONBLOCK));
    SHOW(read(r, b, 1));
    SHOW(write(w, "via fifo", 8));
    SHOW(read(r, b, 100));
    close(w);
    SHOW(read(r, b, 1));
    close(r);
    if (!fork()) {
        w = open("fifo", O_WRONLY);
        _exit(write(w, "blocked", 7) == 7 ? 0 : 1);
    }
    r = (int)MUST(open("fifo", O_RDONLY));
    SHOW(read(r, b, 100));
    MUST(wait(&status));
    show_status("fifo writer", status);
    close(r);
    /* Again and again: a writer that is gone before the reader looks was there all the same. */
    for (n = 0; n < 100; n++) {
        fflush(stdout);
        if (!fork()) {
            w = open("fifo", O_WRONLY);
            _exit(write(w, "blocked", 7) == 7 ? 0 : 1);
        }
        r = (int)MUST(open("fifo", O_RDONLY));
        if (read(r, b, 100) != 7)
            SAY("a reader without its writer");
        close(r);
        MUST(wait(&status));
    }
    SAY("%d pairs", n);

    /* splice and tee move bytes between pipes and files. */
    int a[2], c[2];
    MUST(pipe(a));
    MUST(pipe(c));
    put("src", "0123456789");
    int f = (int)MUST(open("src", O_RDWR));
    SHOW(splice(f, NULL, a[1], NULL, 6, 0));
    SHOW(tee(a[0], c[1], 4, 0));
    SHOW(read(c[0], b, 100));
    SHOW(read(a[0], b, 100));
    return 0;
}
