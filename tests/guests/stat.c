/* stat, lstat, fstat, newfstatat, statx, statfs, access in their forms. */
#include "guest.h"
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

/* struct statx as the kernel lays it out; old musl has none. */
struct statx_time { int64_t sec; uint32_t nsec; int32_t pad; };
struct statx_answer {
    uint32_t mask, blksize;
    uint64_t attributes;
    uint32_t nlink, uid, gid;
    uint16_t mode, pad;
    uint64_t ino, size, blocks, attributes_mask;
    struct statx_time atime, btime, ctime, mtime;
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
    uint64_t spare[14];
};
enum { BASIC = 0x7ff, TYPE = 1, SIZE = 0x200 };
static long statx_(int fd, const char *path, int flags, unsigned mask, struct statx_answer *to)
{
    return syscall(SYS_statx, fd, path, flags, mask, to);
}

int main(void)
{
    struct stat st, other;
    struct statx_answer sx;
    scratch();
    put("f", "12345");
    MUST(symlink("f", "s"));
    MUST(mkdir("d", 0755));
    SHOW(stat("f", &st));
    SAY("%o %d %d:%d links %ld size %ld", st.st_mode, st.st_blksize > 0, (int)st.st_uid, (int)st.st_gid,
        (long)st.st_nlink, (long)st.st_size);
    SHOW(stat("missing", &st));
    SHOW(syscall(SYS_stat, "f", (void *)8));
    SHOW(syscall(SYS_stat, (void *)8, &other));
    SHOW(fstat(-1, &st));
    MUST(stat("f", &st));
    SHOW(fstatat(AT_FDCWD, "s", &other, 0));
    TRUE(st.st_ino == other.st_ino);
    SHOW(fstatat(AT_FDCWD, "s", &other, AT_SYMLINK_NOFOLLOW));
    TRUE(st.st_ino != other.st_ino && S_ISLNK(other.st_mode));
    int fd = (int)MUST(open("f", O_RDONLY));
    SHOW(fstatat(fd, "", &other, AT_EMPTY_PATH));
    TRUE(st.st_ino == other.st_ino);
    SHOW(fstatat(fd, "", &other, 0));
    SHOW(fstatat(fd, "x", &other, 0));
    SHOW(fstatat(AT_FDCWD, "f", &other, 0x8));
    SHOW(fstat(open("s", O_PATH | O_NOFOLLOW), &other) | S_ISLNK(other.st_mode));

    SHOW(statx_(AT_FDCWD, "f", 0, BASIC, &sx));
    TRUE((sx.mask & BASIC) == BASIC);
    TRUE(sx.ino == st.st_ino && sx.size == 5 && sx.mode == st.st_mode && sx.nlink == 1);
    TRUE(sx.mtime.sec == st.st_mtim.tv_sec && sx.mtime.nsec == (uint32_t)st.st_mtim.tv_nsec);
    TRUE(makedev(sx.dev_major, sx.dev_minor) == st.st_dev);
    SHOW(statx_(AT_FDCWD, "s", AT_SYMLINK_NOFOLLOW, TYPE, &sx));
    TRUE(S_ISLNK(sx.mode));
    SHOW(statx_(fd, "", AT_EMPTY_PATH, SIZE, &sx));
    SHOW(statx_(AT_FDCWD, "missing", 0, TYPE, &sx));
    SHOW(statx_(AT_FDCWD, "f", 0x8, TYPE, &sx));
    SHOW(statx_(AT_FDCWD, "f", 0, 0x80000000, &sx));

    struct statfs fs;
    SHOW(statfs(".", &fs));
    TRUE(fs.f_bsize > 0 && fs.f_blocks > 0 && fs.f_bavail <= fs.f_bfree && fs.f_namelen == 255);
    SHOW(fstatfs(fd, &fs));
    SHOW(statfs("missing", &fs));
    SHOW(statfs("/proc", &fs));
    TRUE(fs.f_type == 0x9fa0);
    struct statvfs vfs;
    SHOW(statvfs("/", &vfs));

    SHOW(access("f", F_OK));
    SHOW(access("f", X_OK));
    SHOW(access("f", 77));
    SHOW(access("d", R_OK | W_OK | X_OK));
    SHOW(access("s", R_OK));
    SHOW(access("missing", F_OK));
    SHOW(access("f/x", F_OK));
    SHOW(syscall(SYS_faccessat2, AT_FDCWD, "s", F_OK, AT_SYMLINK_NOFOLLOW));
    SHOW(syscall(SYS_faccessat2, fd, "", R_OK, AT_EMPTY_PATH));
    SHOW(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, 0x1));
    return 0;
}
