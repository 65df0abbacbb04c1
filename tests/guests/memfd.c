/* memfd_create: large files, shared maps, seals. */
#include "guest.h"
#include <sys/mman.h>

int main(void)
{
    const off_t size = 96 << 20;
    SHOW(memfd_create("x", 0x80));
    int fd = (int)MUST(memfd_create("large", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    SHOW(fcntl(fd, F_GET_SEALS));
    SHOW(ftruncate(fd, size));
    SHOW(pwrite(fd, "end", 3, size - 3));
    char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    TRUE(map != MAP_FAILED);
    TRUE(memcmp(map + size - 3, "end", 3) == 0);
    for (off_t at = 0; at < size; at += 1 << 20)
        map[at] = (char)(at >> 20);
    char byte = 0;
    SHOW(pread(fd, &byte, 1, 70 << 20));
    SHOW(byte);

    /* A child writes through its own map of the same file. */
    int status;
    fflush(stdout);
    if (!fork()) {
        char *own = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 80 << 20);
        own[1] = 'c';
        _exit(own[0]);
    }
    MUST(wait(&status));
    show_status("child", status);
    TRUE(map[(80 << 20) + 1] == 'c');

    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
    SHOW(fcntl(fd, F_GET_SEALS));
    SHOW(ftruncate(fd, 10));
    SHOW(ftruncate(fd, size + 1));
    SHOW(pwrite(fd, "xx", 2, size - 1));
    SHOW(munmap(map, size));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL));
    SHOW(write(fd, "x", 1));
    TRUE(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
    TRUE(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
    TRUE(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) != MAP_FAILED);
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));

    /* Without the flag it is sealed against seals; a program runs from one. */
    int plain = (int)MUST(memfd_create("plain", 0));
    SHOW(fcntl(plain, F_GET_SEALS));
    SHOW(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE));
    SHOW(fcntl(0, F_GET_SEALS));
    return 0;
}
