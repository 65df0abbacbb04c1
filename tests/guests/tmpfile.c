/* Files without a name: O_TMPFILE, memfd_create, giving them one. */
#include "guest.h"
#include <sys/mman.h>

int main(void)
{
    char b[16] = {0}, proc[40];
    struct stat st;
    scratch();
    int fd = open(".", O_TMPFILE | O_RDWR, 0640);
    SHOW(fd >= 0);
    SHOW(fstat(fd, &st));
    SAY("mode %o links %ld", st.st_mode, (long)st.st_nlink);
    SHOW(write(fd, "hidden", 6));
    SHOW(rmdir("."));
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    SHOW(linkat(AT_FDCWD, proc, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    cat("named");
    MUST(fstat(fd, &st));
    SAY("links %ld", (long)st.st_nlink);
    int never = (int)MUST(open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600));
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", never);
    SHOW(linkat(AT_FDCWD, proc, AT_FDCWD, "x", AT_SYMLINK_FOLLOW));
    SHOW(open(".", O_TMPFILE | O_RDONLY, 0600));
    SHOW(open("named", O_TMPFILE | O_RDWR, 0600));
    SHOW(open("missing", O_TMPFILE | O_RDWR, 0600));

    int m = (int)MUST(memfd_create("name", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    SHOW(fcntl(m, F_GETFD));
    SHOW(write(m, "memory", 6));
    SHOW(pread(m, b, 10, 0));
    SHOW(fstat(m, &st));
    SAY("mode %o size %ld", st.st_mode, (long)st.st_size);
    SHOW(fcntl(m, F_GET_SEALS));
    SHOW(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK));
    SHOW(write(m, "x", 1));
    SHOW(ftruncate(m, 0));
    SHOW(fcntl(m, F_GET_SEALS));
    char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, m, 0);
    TRUE(p != MAP_FAILED && !memcmp(p, "memory", 6));
    return 0;
}
