/* Symbolic and hard links. */
#include "guest.h"

int main(void)
{
    char b[64] = {0};
    struct stat st;
    scratch();
    put("f", "text");
    SHOW(symlink("f", "s"));
    SHOW(symlink("f", "s"));
    SHOW(symlink("", "empty"));
    SHOW(symlink("nowhere", "dangling"));
    SHOW(readlink("s", b, sizeof b));
    SHOW(readlink("f", b, sizeof b));
    SHOW(readlink("missing", b, sizeof b));
    SHOW(readlink("dangling", b, 3));
    SHOW(syscall(SYS_readlink, "s", b, 0));
    SHOW(lstat("s", &st));
    SAY("mode %o size %ld", st.st_mode, (long)st.st_size);
    SHOW(stat("dangling", &st));
    SHOW(open("dangling", O_RDONLY));
    SHOW(open("dangling", O_CREAT | O_EXCL | O_WRONLY, 0644));
    SHOWPOS(open("dangling", O_CREAT | O_WRONLY, 0644));
    SHOW(access("nowhere", F_OK));
    SHOW(open("s", O_RDONLY | O_NOFOLLOW));
    SHOWPOS(open("s", O_PATH | O_NOFOLLOW));
    SHOW(symlink("loop2", "loop1") | symlink("loop1", "loop2"));
    SHOW(open("loop1", O_RDONLY));
    SHOW(stat("loop1/x", &st));
    SHOW(lstat("loop1", &st));
    SHOW(unlink("loop1"));

    /* Exactly 40 links may be followed. */
    char from[16], to[16];
    for (int i = 0; i < 41; i++) {
        snprintf(from, sizeof from, i ? "c%d" : "f", i - 1);
        snprintf(to, sizeof to, "c%d", i);
        MUST(symlink(from, to));
    }
    SHOW(stat("c39", &st));
    SHOW(stat("c40", &st));

    MUST(mkdir("d", 0755));
    MUST(symlink("d", "sd"));
    put("d/inner", "in");
    cat("sd/inner");
    SHOW(lstat("sd", &st) | S_ISLNK(st.st_mode));
    SHOW(lstat("sd/", &st) | S_ISDIR(st.st_mode));
    SHOW(rmdir("sd"));
    SHOW(rmdir("sd/"));
    SHOW(open("sd", O_DIRECTORY | O_NOFOLLOW));
    SHOWPOS(open("sd/", O_DIRECTORY | O_NOFOLLOW));
    SHOW(mkdir("sd", 0755));
    MUST(symlink("../f", "d/up"));
    cat("d/up");
    cat("sd/up");

    SHOW(link("f", "h"));
    SHOW(link("f", "h"));
    SHOW(link("missing", "x"));
    SHOW(link("d", "hd"));
    SHOW(stat("f", &st));
    SAY("links %ld", (long)st.st_nlink);
    put("h", "changed");
    cat("f");
    SHOW(unlink("f"));
    cat("h");
    SHOW(link("s", "hs"));
    SHOW(lstat("hs", &st) | S_ISLNK(st.st_mode));
    MUST(symlink("h", "sh"));
    SHOW(linkat(AT_FDCWD, "sh", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
    cat("followed");
    SHOW(linkat(AT_FDCWD, "h", AT_FDCWD, "bad", 0x77));
    MUST(stat("h", &st));
    SAY("links %ld", (long)st.st_nlink);

    int fd = (int)MUST(open("h", O_RDONLY));
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    SHOW(linkat(AT_FDCWD, proc, AT_FDCWD, "by-fd", AT_SYMLINK_FOLLOW));
    SHOW(linkat(fd, "", AT_FDCWD, "by-empty", AT_EMPTY_PATH));
    cat("by-fd");
    cat("by-empty");
    return 0;
}
