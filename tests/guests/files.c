/* Files: open flags, offsets, vectors, append, truncation, descriptors, copies. */
#include "guest.h"
#include <sys/sendfile.h>
#include <sys/uio.h>

int main(void)
{
    char b[64] = {0};
    scratch();

    SHOW(open("missing", O_RDONLY));
    SHOWPOS(open("a", O_CREAT | O_EXCL | O_RDWR, 0640));
    SHOW(open("a", O_CREAT | O_EXCL | O_RDWR, 0640));
    SHOW(open(".", O_WRONLY));
    SHOW(open("a", O_DIRECTORY | O_RDONLY));
    SHOW(open("a/b", O_RDONLY));
    SHOW(open("new/", O_CREAT | O_WRONLY, 0644));
    SHOW(open("", O_RDONLY));

    int fd = (int)MUST(open("a", O_RDWR));
    SHOW(write(fd, "hello world", 11));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(lseek(fd, -5, SEEK_END));
    SHOW(read(fd, b, sizeof b));
    SAY("[%s]", b);
    SHOW(read(fd, b, sizeof b));
    SHOW(lseek(fd, -1, SEEK_SET));
    SHOW(lseek(fd, 0, 77));
    SHOW(pwrite(fd, "J", 1, 0));
    SHOW(pread(fd, b, 5, 0));
    SHOW(pread(fd, b, 5, -1));
    SHOW(lseek(fd, 20, SEEK_SET));
    SHOW(write(fd, "x", 1));
    SHOW(lseek(fd, 0, SEEK_END));
    memset(b, 1, sizeof b);
    SHOW(pread(fd, b, 21, 0));
    TRUE(b[11] == 0 && b[19] == 0 && b[20] == 'x');

    struct iovec out[3] = {{"one", 3}, {"", 0}, {"two", 3}};
    SHOW(lseek(fd, 0, SEEK_SET));
    SHOW(writev(fd, out, 3));
    char p[2], q[8] = {0};
    struct iovec in[2] = {{p, 2}, {q, 4}};
    SHOW(preadv(fd, in, 2, 0));
    SAY("[%.2s][%s]", p, q);
    SHOW(writev(fd, out, -1));

    SHOW(ftruncate(fd, 4));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(truncate("a", 2));
    SHOW(truncate("a", -1));
    SHOW(truncate(".", 0));
    cat("a");
    SHOW(close(fd));
    SHOW(close(fd));
    SHOW(read(fd, b, 1));

    int app = (int)MUST(open("log", O_WRONLY | O_APPEND | O_CREAT, 0644));
    int other = (int)MUST(open("log", O_WRONLY));
    MUST(write(app, "aaa", 3));
    MUST(write(other, "b", 1));
    MUST(write(app, "cc", 2));
    MUST(lseek(app, 0, SEEK_SET));
    MUST(write(app, "d", 1));
    cat("log");
    SHOW(read(app, b, 1));
    SHOW(fcntl(app, F_GETFL) & (O_ACCMODE | O_APPEND));
    SHOW(fcntl(app, F_SETFL, 0));
    MUST(lseek(app, 0, SEEK_SET));
    MUST(write(app, "Z", 1));
    cat("log");
    SHOWPOS(open("log", O_WRONLY | O_TRUNC));
    cat("log");

    /* Copies of a descriptor share the offset; a second open does not. */
    put("d", "0123456789");
    int d1 = (int)MUST(open("d", O_RDONLY)), d2 = (int)MUST(dup(d1)), d3 = (int)MUST(open("d", O_RDONLY));
    MUST(read(d1, b, 3));
    SHOW(lseek(d2, 0, SEEK_CUR));
    SHOW(lseek(d3, 0, SEEK_CUR));
    SHOW(dup2(d1, 100));
    SHOW(dup2(d1, d1) == d1);
    SHOW(dup3(d1, d1, 0));
    SHOW(dup3(d1, 101, O_CLOEXEC));
    SHOW(fcntl(101, F_GETFD));
    SHOW(fcntl(100, F_GETFD));
    SHOW(fcntl(100, F_SETFD, FD_CLOEXEC));
    SHOW(fcntl(100, F_GETFD));
    SHOW(fcntl(d1, F_DUPFD, 200));
    SHOW(fcntl(d1, F_DUPFD_CLOEXEC, 200));
    SHOW(dup2(999, 5));
    SHOW(dup(-1));
    SHOW(syscall(SYS_close_range, 100, 300, 0));
    SHOW(fcntl(200, F_GETFD));

    /* An unlinked file lives while it is open. */
    int gone = (int)MUST(open("gone", O_CREAT | O_RDWR, 0600));
    MUST(write(gone, "still", 5));
    SHOW(unlink("gone"));
    SHOW(access("gone", F_OK));
    SHOW(pread(gone, b, 5, 0));
    struct stat st;
    SHOW(fstat(gone, &st));
    SAY("links %ld size %ld", (long)st.st_nlink, (long)st.st_size);

    SHOW(lseek(d1, 2, SEEK_SET));
    int target = (int)MUST(open("t", O_CREAT | O_RDWR, 0644));
    SHOW(sendfile(target, d1, NULL, 4));
    off_t at = 8;
    SHOW(sendfile(target, d1, &at, 10));
    SAY("at %ld, offset %ld", (long)at, (long)lseek(d1, 0, SEEK_CUR));
    cat("t");
    off64_t from = 0, to = 1;
    SHOW(copy_file_range(d1, &from, target, &to, 3, 0));
    cat("t");
    SHOW(read(open(".", O_RDONLY), b, 1));
    SHOW(write(d1, "x", 1));
    SHOW(fsync(target));
    SHOW(fdatasync(target));
    SHOW(fsync(-1));
    SHOW(posix_fadvise(d1, 0, 0, POSIX_FADV_SEQUENTIAL));
    SHOW(fcntl(open("t", O_PATH), F_GETFL) == O_PATH || errno);
    SHOW(read(open("t", O_PATH), b, 1));
    return 0;
}
