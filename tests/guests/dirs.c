/* Directories: make, remove, walk, working directory, openat. */
#include "guest.h"

static void where(void)
{
    char b[4096], *base;
    if (!getcwd(b, sizeof b)) {
        SAY("getcwd: %s", errno_name(errno));
        return;
    }
    base = strstr(b, "/guest-");
    base = base ? strchr(base + 1, '/') : NULL;
    SAY("cwd %s", base ? base : "top");
}

int main(void)
{
    struct stat st, other;
    scratch();
    SHOW(mkdir("d", 0777));
    SHOW(mkdir("d", 0777));
    SHOW(mkdir("no/way", 0777));
    SHOW(mkdir("d/e/", 0700));
    SHOW(mkdir("/", 0700));
    SHOW(mkdir(".", 0700));
    SHOW(stat("d", &st));
    SAY("mode %o", st.st_mode);
    SHOW(rmdir("d"));
    SHOW(rmdir("d/e/."));
    SHOW(rmdir("d/e/.."));
    put("f", "x");
    SHOW(rmdir("f"));
    SHOW(unlink("d"));
    SHOW(mkdir("f/x", 0700));
    SHOW(stat("d/e/../e/./../../f", &st));
    SHOW(stat("f/.", &st));
    SHOW(stat("f/", &st));

    SHOW(chdir("d/e"));
    where();
    SHOW(chdir(".."));
    where();
    SHOW(chdir("../f"));
    SHOW(chdir("nowhere"));
    int top = (int)MUST(open("..", O_RDONLY | O_DIRECTORY));
    SHOW(fchdir(top));
    where();
    SHOW(fchdir(open("f", O_RDONLY)));
    char small[2];
    SHOW(syscall(SYS_getcwd, small, 2));

    int d = (int)MUST(open("d", O_RDONLY | O_DIRECTORY));
    SHOW(mkdirat(d, "sub", 0755));
    SHOWPOS(openat(d, "sub/file", O_CREAT | O_WRONLY, 0644));
    SHOW(faccessat(d, "sub/file", F_OK, 0));
    SHOW(openat(open("f", O_RDONLY), "x", O_RDONLY));
    SHOW(openat(-5, "x", O_RDONLY));
    SHOW(unlinkat(d, "sub", 0));
    SHOW(unlinkat(d, "sub", AT_REMOVEDIR));
    SHOW(unlinkat(d, "sub/file", AT_REMOVEDIR));
    SHOW(unlinkat(d, "sub/file", 0));
    SHOW(unlinkat(d, "sub", AT_REMOVEDIR));

    /* A removed working directory. */
    MUST(mkdir("gone", 0755));
    MUST(chdir("gone"));
    SHOW(rmdir("../gone"));
    where();
    SHOW(open("x", O_CREAT | O_WRONLY, 0644));
    SHOW(stat(".", &st));
    SAY("links %ld", (long)st.st_nlink);
    MUST(fchdir(top));

    /* `..` at the root is the root; two names of a directory are one inode. */
    MUST(stat("/", &st));
    MUST(stat("/../..", &other));
    TRUE(st.st_ino == other.st_ino && st.st_dev == other.st_dev);
    MUST(stat("d", &st));
    MUST(stat("d/e/..", &other));
    TRUE(st.st_ino == other.st_ino);
    TRUE(st.st_nlink == 3);

    char name[300];
    memset(name, 'n', sizeof name);
    name[255] = 0;
    SHOW(mkdir(name, 0755));
    name[255] = 'n';
    name[256] = 0;
    SHOW(mkdir(name, 0755) != 0 ? errno == ENAMETOOLONG : 0);
    char *path = malloc(5000);
    memset(path, '/', 4999);
    path[4999] = 0;
    SHOW(chdir(path));
    return 0;
}
