/* umask and modes of new things. */
#include "guest.h"

static void mode(const char *path)
{
    struct stat st;
    MUST(lstat(path, &st));
    SAY("%s %o", path, st.st_mode);
}

int main(void)
{
    int status;
    scratch();
    SHOW(umask(0) == 022);
    put("f0", "");
    mode("f0");
    close(open("f1", O_CREAT | O_WRONLY, 07777));
    mode("f1");
    SHOW(mkdir("d0", 07777));
    mode("d0");
    umask(077);
    close(open("f2", O_CREAT | O_WRONLY, 0666));
    mode("f2");
    MUST(mkdir("d2", 0777));
    mode("d2");
    MUST(mkfifo("p2", 0666));
    mode("p2");
    MUST(symlink("f2", "s2"));
    mode("s2");
    SHOW(chmod("f2", 0666));
    mode("f2");
    umask(01777);
    SHOW(umask(0) == 0777);
    umask(0123);
    fflush(stdout);
    if (!fork()) {
        close(open("child", O_CREAT | O_WRONLY, 0777));
        umask(0);
        _exit(0);
    }
    MUST(wait(&status));
    mode("child");
    SHOW(umask(022) == 0123);
    return 0;
}
