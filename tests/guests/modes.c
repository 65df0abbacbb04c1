/* chmod, chown and the bits they clear; sticky and setgid directories; special files. Needs root. */
#include "guest.h"
#include <grp.h>
#include <sys/sysmacros.h>

static void mode(const char *path)
{
    struct stat st;
    MUST(lstat(path, &st));
    SAY("%s %o %d:%d", path, st.st_mode, (int)st.st_uid, (int)st.st_gid);
}
/* Runs a block as another user. */
#define AS(uid, gid, ...) do { int st_; fflush(stdout); if (!fork()) { MUST(setgroups(0, NULL)); \
    MUST(setresgid(gid, gid, gid)); MUST(setresuid(uid, uid, uid)); __VA_ARGS__; fflush(stdout); _exit(0); } \
    MUST(wait(&st_)); if (st_) show_status("block", st_); } while (0)

int main(void)
{
    scratch();
    put("f", "x");
    SHOW(chmod("f", 06755));
    mode("f");
    SHOW(chown("f", 1000, 1001));
    mode("f");
    MUST(chmod("f", 06755));
    SHOW(chown("f", -1, -1));
    mode("f");
    MUST(chmod("f", 02644));
    SHOW(chown("f", 1000, 1001));
    mode("f");
    SHOW(chmod("missing", 0));
    SHOW(lchown("missing", 0, 0));
    MUST(symlink("f", "s"));
    SHOW(lchown("s", 5, 6));
    mode("s");
    SHOW(chown("s", 7, 8));
    mode("f");
    SHOW(fchmodat(AT_FDCWD, "s", 0600, 0));
    mode("f");
    SHOW(fchownat(AT_FDCWD, "f", 1000, 1000, AT_SYMLINK_NOFOLLOW));
    MUST(chmod("f", 06777));
    int fd = (int)MUST(open("f", O_WRONLY));
    MUST(write(fd, "y", 1));
    mode("f");

    /* A write by another user takes the setuid and setgid bits away. */
    MUST(chmod(".", 0777));
    put("w", "x");
    MUST(chmod("w", 06777));
    AS(1000, 1000, {
        int d = open("w", O_WRONLY);
        SHOW(write(d, "z", 1));
    });
    mode("w");

    /* Owners and others. */
    put("o", "secret");
    MUST(chown("o", 1000, 1000));
    MUST(chmod("o", 0600));
    AS(1000, 1000, {
        cat("o");
        SHOW(chmod("o", 04700));
        mode("o");
        SHOW(chown("o", 1001, -1));
        SHOW(chown("o", 1000, 5));
        SHOW(chmod("f", 0));
    });
    AS(1001, 1001, {
        cat("o");
        SHOW(chmod("o", 0777));
        SHOW(chown("o", 1001, 1001));
        SHOW(utimensat(AT_FDCWD, "o", NULL, 0));
        SHOW(access("o", R_OK));
        SHOW(access("o", F_OK));
    });
    /* A setgid bit for a group one is not in is dropped. */
    put("g", "");
    MUST(chown("g", 1000, 2000));
    AS(1000, 1000, SHOW(chmod("g", 02755)));
    mode("g");

    MUST(mkdir("sticky", 0755));
    MUST(chmod("sticky", 01777));
    AS(1000, 1000, put("sticky/mine", "1"));
    AS(1001, 1001, {
        SHOW(unlink("sticky/mine"));
        SHOW(rename("sticky/mine", "sticky/other"));
        put("sticky/yours", "2");
        SHOW(rename("sticky/yours", "sticky/mine"));
    });
    AS(1000, 1000, SHOW(unlink("sticky/mine")));

    MUST(mkdir("team", 0755));
    MUST(chown("team", 0, 500));
    MUST(chmod("team", 02777));
    AS(1000, 1000, {
        put("team/file", "");
        MUST(mkdir("team/dir", 0755));
        MUST(symlink("x", "team/link"));
    });
    mode("team/file");
    mode("team/dir");
    mode("team/link");

    MUST(mkdir("locked", 0700));
    put("locked/x", "x");
    AS(1000, 1000, {
        struct stat st;
        SHOW(stat("locked/x", &st));
        SHOW(open("locked", O_RDONLY));
        SHOW(mkdir("locked/y", 0755));
        SHOW(stat("locked/../f", &st));
        SHOW(chdir("locked"));
    });
    MUST(chmod("locked", 0711));
    AS(1000, 1000, {
        cat("locked/x");
        SHOW(open("locked", O_RDONLY));
        SHOW(unlink("locked/x"));
    });
    /* Root reads everything but executes only what somebody may execute. */
    put("none", "x");
    MUST(chmod("none", 0));
    cat("none");
    SHOW(access("none", R_OK | W_OK));
    SHOW(access("none", X_OK));
    SHOW(access("sticky", X_OK));

    SHOW(mknod("fifo", S_IFIFO | 0644, 0));
    SHOW(mknod("plain", S_IFREG | 0604, 0));
    SHOW(mknod("dir", S_IFDIR | 0755, 0));
    mode("fifo");
    mode("plain");
    AS(1000, 1000, SHOW(mknod("dev", S_IFCHR | 0600, makedev(1, 3))));
    return 0;
}
