/* Credentials: the three user ids, groups, what may be set by whom. Needs root. */
#include "guest.h"
#include <grp.h>
#include <sys/fsuid.h>

static void ids(void)
{
    uid_t r, e, s;
    gid_t gr, ge, gs;
    MUST(getresuid(&r, &e, &s));
    MUST(getresgid(&gr, &ge, &gs));
    SAY("  uid %d/%d/%d gid %d/%d/%d", (int)r, (int)e, (int)s, (int)gr, (int)ge, (int)gs);
}
#define CHILD(...) do { int st_; fflush(stdout); if (!fork()) { __VA_ARGS__; fflush(stdout); _exit(0); } \
    MUST(wait(&st_)); show_status("child", st_); } while (0)

int main(void)
{
    gid_t groups[4] = {10, 20, 30}, got[8];
    scratch();
    ids();
    SHOW(setgroups(3, groups));
    SHOW(getgroups(0, NULL));
    SHOW(getgroups(2, got));
    SHOW(getgroups(8, got));
    SAY("%d %d %d", (int)got[0], (int)got[1], (int)got[2]);
    CHILD({
        SHOW(setgid(50));
        SHOW(setuid(1000));
        ids();
        SHOW(setuid(0));
        SHOW(setgid(0));
        SHOW(setgid(50));
        SHOW(setgroups(0, NULL));
        SHOW(setresuid(-1, 1000, -1));
        SHOW(seteuid(1001));
    });
    CHILD({
        SHOW(seteuid(1000));
        ids();
        SHOW(open("x", O_CREAT | O_WRONLY, 0644));
        SHOW(seteuid(0));
        ids();
        SHOW(setreuid(1000, 1001));
        ids();
        SHOW(seteuid(1000));
        SHOW(seteuid(0));
    });
    CHILD({
        SHOW(setresgid(1, 2, 3));
        SHOW(setresuid(4, 5, 6));
        ids();
        SHOW(setresuid(5, 6, 4));
        SHOW(setresuid(7, -1, -1));
        SHOW(setresgid(3, 1, 2));
        ids();
    });
    CHILD({
        SHOW(setegid(10));
        SHOW(setregid(-1, 20));
        ids();
        SHOW(setfsuid(1000));
        SHOW(setfsuid(-1));
        close(open("/tmp", O_RDONLY));
    });
    /* Group membership opens files. */
    put("g", "for the group");
    MUST(chown("g", 0, 20));
    MUST(chmod("g", 0640));
    CHILD({
        MUST(setgroups(3, groups));
        MUST(setresgid(100, 100, 100));
        MUST(setresuid(1000, 1000, 1000));
        cat("g");
    });
    CHILD({
        MUST(setgroups(1, groups));
        MUST(setresgid(100, 100, 100));
        MUST(setresuid(1000, 1000, 1000));
        cat("g");
        SHOW(access("g", R_OK));
    });
    /* access looks at the real user, faccessat with AT_EACCESS at the effective one. */
    CHILD({
        MUST(setgroups(0, NULL));
        MUST(chmod("g", 0600));
        MUST(setresuid(1000, 0, 0));
        SHOW(access("g", R_OK));
        SHOW(faccessat(AT_FDCWD, "g", R_OK, AT_EACCESS));
    });
    /* A user may not signal another one's process; the superuser may. */
    int p[2], status;
    char c;
    MUST(pipe(p));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        MUST(setuid(1000));
        (void)!write(p[1], "r", 1);
        for (;;)
            pause();
    }
    MUST(read(p[0], &c, 1));
    CHILD({
        MUST(setuid(1001));
        SHOW(kill(pid, SIGTERM));
    });
    SHOW(kill(pid, SIGTERM));
    MUST(waitpid(pid, &status, 0));
    show_status("target", status);
    return 0;
}
