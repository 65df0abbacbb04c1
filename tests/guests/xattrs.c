/* Extended attributes. */
#include "guest.h"
#include <sys/xattr.h>

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void list(const char *path)
{
    char b[512], *names[16];
    int n = 0;
    ssize_t size = llistxattr(path, b, sizeof b);
    if (size < 0) {
        SAY("list %s: %s", path, errno_name(errno));
        return;
    }
    for (char *p = b; p < b + size && n < 16; p += strlen(p) + 1)
        names[n++] = p;
    qsort(names, n, sizeof *names, by_name);
    printf("list %s:", path);
    for (int i = 0; i < n; i++)
        printf(" %s", names[i]);
    SAY(" ");
}

int main(void)
{
    char b[64] = {0};
    scratch();
    put("f", "x");
    MUST(symlink("f", "s"));
    MUST(mkdir("d", 0755));
    list("f");
    SHOW(setxattr("f", "user.one", "1", 1, 0));
    SHOW(setxattr("f", "user.two", "twotwo", 6, 0));
    SHOW(setxattr("f", "user.none", "", 0, 0));
    SHOW(setxattr("f", "user.one", "x", 1, XATTR_CREATE));
    SHOW(setxattr("f", "user.three", "x", 1, XATTR_REPLACE));
    SHOW(setxattr("f", "user.one", "first", 5, XATTR_REPLACE));
    SHOW(getxattr("f", "user.one", b, sizeof b));
    SAY("[%s]", b);
    SHOW(getxattr("f", "user.one", NULL, 0));
    SHOW(getxattr("f", "user.one", b, 2));
    SHOW(getxattr("f", "user.none", b, sizeof b));
    SHOW(getxattr("f", "user.absent", b, sizeof b));
    SHOW(getxattr("missing", "user.one", b, sizeof b));
    SHOW(getxattr("s", "user.two", b, sizeof b));
    SHOW(lgetxattr("s", "user.two", b, sizeof b));
    SHOW(setxattr("f", "plain", "x", 1, 0));
    SHOW(setxattr("f", "unknown.name", "x", 1, 0));
    SHOW(setxattr("f", "user.", "x", 1, 0));
    SHOW(lsetxattr("s", "user.link", "x", 1, 0));
    SHOW(setxattr("d", "user.dir", "x", 1, 0));
    list("f");
    list("d");
    SHOW(listxattr("f", b, 4));
    SHOW(removexattr("f", "user.one"));
    SHOW(removexattr("f", "user.one"));
    list("f");
    int fd = (int)MUST(open("f", O_RDWR));
    SHOW(fsetxattr(fd, "user.byfd", "1", 1, 0));
    SHOW(fgetxattr(fd, "user.byfd", b, sizeof b));
    SHOW(fremovexattr(fd, "user.two"));
    SHOW(flistxattr(fd, NULL, 0));
    list("f");
    MUST(link("f", "h"));
    list("h");

    /* Capabilities of files: root may set them, a write drops them. */
    const unsigned char caps[20] = {1, 0, 0, 2, 0, 0x20};
    SHOW(setxattr("f", "security.capability", caps, sizeof caps, 0));
    SHOW(getxattr("f", "security.capability", b, sizeof b));
    SHOW(write(fd, "y", 1));
    SHOW(getxattr("f", "security.capability", b, sizeof b));
    return 0;
}
