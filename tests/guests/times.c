/* File times: what sets them, utimensat in all its forms. */
#include "guest.h"
#include <sys/time.h>
#include <utime.h>

static void show_times(const char *path)
{
    struct stat st;
    MUST(lstat(path, &st));
    SAY("%s atime %ld.%09ld mtime %ld.%09ld", path, (long)st.st_atim.tv_sec, st.st_atim.tv_nsec,
        (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

static int recent(struct timespec t)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return t.tv_sec >= now.tv_sec - 60 && t.tv_sec <= now.tv_sec + 1;
}

int main(void)
{
    struct stat st;
    struct timespec fixed[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    scratch();
    put("f", "x");
    MUST(symlink("f", "s"));
    MUST(stat("f", &st));
    TRUE(recent(st.st_mtim) && recent(st.st_atim) && recent(st.st_ctim));
    SHOW(utimensat(AT_FDCWD, "f", fixed, 0));
    show_times("f");
    MUST(stat("f", &st));
    TRUE(recent(st.st_ctim));
    struct timespec only_mtime[2] = {{0, UTIME_OMIT}, {7, 8}};
    SHOW(utimensat(AT_FDCWD, "f", only_mtime, 0));
    show_times("f");
    struct timespec now_atime[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
    SHOW(utimensat(AT_FDCWD, "f", now_atime, 0));
    MUST(stat("f", &st));
    TRUE(recent(st.st_atim) && st.st_mtim.tv_sec == 7);
    SHOW(utimensat(AT_FDCWD, "s", fixed, AT_SYMLINK_NOFOLLOW));
    show_times("s");
    MUST(stat("f", &st));
    TRUE(st.st_mtim.tv_sec == 7);
    struct timespec bad[2] = {{0, 1000000000}, {0, 0}};
    SHOW(utimensat(AT_FDCWD, "f", bad, 0));
    SHOW(utimensat(AT_FDCWD, "missing", fixed, 0));
    SHOW(utimensat(AT_FDCWD, "f", fixed, 0x4000000));
    struct timespec before[2] = {{-5, 0}, {-10, 500000000}};
    SHOW(utimensat(AT_FDCWD, "f", before, 0));
    show_times("f");
    int fd = (int)MUST(open("f", O_RDWR));
    SHOW(futimens(fd, fixed));
    show_times("f");
    SHOW(futimens(fd, NULL));
    MUST(fstat(fd, &st));
    TRUE(recent(st.st_mtim) && recent(st.st_atim));
    struct timeval tv[2] = {{50, 5}, {60, 6}};
    SHOW(utimes("f", tv));
    show_times("f");
    struct utimbuf ut = {70, 80};
    SHOW(utime("f", &ut));
    show_times("f");

    /* What changes the mtime: data of a file, entries of a directory. */
    MUST(futimens(fd, fixed));
    MUST(fchmod(fd, 0600));
    MUST(link("f", "g"));
    show_times("f");
    MUST(write(fd, "y", 1));
    MUST(fstat(fd, &st));
    TRUE(recent(st.st_mtim));
    MUST(futimens(fd, fixed));
    MUST(ftruncate(fd, 0));
    MUST(fstat(fd, &st));
    TRUE(recent(st.st_mtim));
    MUST(mkdir("d", 0755));
    MUST(utimensat(AT_FDCWD, "d", fixed, 0));
    MUST(chmod("d", 0700));
    show_times("d");
    put("d/x", "1");
    MUST(stat("d", &st));
    TRUE(recent(st.st_mtim));
    MUST(utimensat(AT_FDCWD, "d", fixed, 0));
    put("d/x", "2");
    MUST(stat("d", &st));
    TRUE(st.st_mtim.tv_sec == 1100000000);
    MUST(unlink("d/x"));
    MUST(stat("d", &st));
    TRUE(recent(st.st_mtim));
    return 0;
}
