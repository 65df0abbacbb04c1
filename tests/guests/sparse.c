/* Holes: sparse writes, fallocate in its modes, SEEK_HOLE and SEEK_DATA. */
#include "guest.h"


#ifndef FALLOC_FL_KEEP_SIZE
#define FALLOC_FL_KEEP_SIZE 1
#define FALLOC_FL_PUNCH_HOLE 2
#endif
#define BLOCK 65536
static int zeroes(int fd, off_t at, int n)
{
    char b[BLOCK];
    if (pread(fd, b, n, at) != n)
        return -1;
    for (int i = 0; i < n; i++)
        if (b[i])
            return 0;
    return 1;
}

int main(void)
{
    char b[BLOCK];
    struct stat st;
    scratch();
    memset(b, 'd', sizeof b);
    int fd = (int)MUST(open("f", O_CREAT | O_RDWR, 0644));
    MUST(pwrite(fd, b, BLOCK, 4 * BLOCK));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(lseek(fd, 0, SEEK_DATA));
    SHOW(lseek(fd, 0, SEEK_HOLE));
    SHOW(lseek(fd, 4 * BLOCK, SEEK_HOLE));
    SHOW(lseek(fd, 5 * BLOCK, SEEK_DATA));
    SHOW(lseek(fd, -1, SEEK_HOLE));
    SHOW(zeroes(fd, 3 * BLOCK, BLOCK));
    MUST(fstat(fd, &st));
    TRUE(st.st_blocks * 512 < st.st_size);

    SHOW(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * BLOCK, BLOCK / 2));
    SHOW(zeroes(fd, 4 * BLOCK, BLOCK / 2));
    SHOW(zeroes(fd, 4 * BLOCK + BLOCK / 2, 1));
    SHOW(fallocate(fd, 0, 6 * BLOCK, BLOCK));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(zeroes(fd, 6 * BLOCK, BLOCK));
    SHOW(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20 * BLOCK));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(posix_fallocate(fd, 0, 8 * BLOCK));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(fallocate(fd, 0, -1, 5));
    SHOW(fallocate(fd, 0, 0, 0));
    SHOW(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 5));
    SHOW(fallocate(open("f", O_RDONLY), 0, 0, 5));
    int p[2];
    MUST(pipe(p));
    SHOW(fallocate(p[1], 0, 0, 5));
    SHOW(lseek(p[1], 0, SEEK_DATA));

    SHOW(ftruncate(fd, 3L << 30));
    SHOW(pwrite(fd, "end", 3, (3L << 30) - 3));
    SHOW(pread(fd, b, 3, (3L << 30) - 3));
    SHOW(zeroes(fd, 2L << 30, BLOCK));
    SHOW(ftruncate(fd, 10));
    SHOW(ftruncate(fd, BLOCK));
    SHOW(zeroes(fd, 10, BLOCK - 10));
    return 0;
}
