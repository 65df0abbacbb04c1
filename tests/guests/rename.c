/* rename and renameat2 in all their cases. */
#include "guest.h"
#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif

static long renameat2_(const char *a, const char *b, unsigned flags)
{
    return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, flags);
}

int main(void)
{
    struct stat st;
    scratch();
    put("a", "A");
    put("b", "B");
    SHOW(rename("a", "b"));
    cat("b");
    SHOW(access("a", F_OK));
    SHOW(rename("missing", "x"));
    SHOW(rename("b", "no/x"));
    SHOW(rename("b", "b"));
    MUST(link("b", "twin"));
    SHOW(rename("b", "twin"));
    SHOW(access("b", F_OK) | access("twin", F_OK));

    MUST(mkdir("d", 0755));
    MUST(mkdir("e", 0755));
    SHOW(rename("b", "d"));
    SHOW(rename("d", "b"));
    SHOW(rename("d", "e"));
    SHOW(access("d", F_OK));
    MUST(mkdir("full", 0755));
    put("full/x", "x");
    SHOW(rename("e", "full"));
    SHOW(rename("full", "full/x/y"));
    SHOW(rename("full", "full/inside"));
    SHOW(rename("full", "e"));
    cat("e/x");
    SHOW(rename("e/.", "f"));
    SHOW(rename("e/..", "f"));
    SHOW(rename("/", "f"));
    SHOW(rename("b", "f/"));
    SHOW(rename("e", "f/"));
    SHOW(rename("f/", "e"));
    MUST(stat(".", &st));
    SAY("links %ld", (long)st.st_nlink);

    MUST(symlink("b", "s"));
    SHOW(rename("s", "s2"));
    SHOW(lstat("s2", &st) | S_ISLNK(st.st_mode));
    put("over", "over");
    SHOW(rename("over", "s2"));
    cat("s2");
    cat("b");

    put("p", "P");
    put("q", "Q");
    SHOW(renameat2_("p", "q", RENAME_NOREPLACE));
    SHOW(renameat2_("p", "r", RENAME_NOREPLACE));
    SHOW(renameat2_("r", "q", RENAME_EXCHANGE));
    cat("r");
    cat("q");
    SHOW(renameat2_("r", "e", RENAME_EXCHANGE));
    SHOW(stat("r", &st) | S_ISDIR(st.st_mode));
    cat("e");
    SHOW(renameat2_("q", "missing", RENAME_EXCHANGE));
    SHOW(renameat2_("q", "r", RENAME_EXCHANGE | RENAME_NOREPLACE));
    SHOW(renameat2_("q", "r", 64));

    /* An open file keeps its contents when its name is taken over. */
    put("open", "old");
    put("new", "new");
    int fd = (int)MUST(open("open", O_RDONLY));
    MUST(rename("new", "open"));
    char b[4] = {0};
    MUST(read(fd, b, 3));
    SAY("descriptor [%s]", b);
    cat("open");

    /* A directory moves with everything below it, and with a process inside. */
    MUST(mkdir("tree", 0755));
    MUST(mkdir("tree/sub", 0755));
    put("tree/sub/leaf", "leaf");
    MUST(mkdir("elsewhere", 0755));
    MUST(chdir("tree/sub"));
    SHOW(rename("../../tree", "../../elsewhere/tree"));
    cat("leaf");
    cat("../../../elsewhere/tree/sub/leaf");
    return 0;
}
