/* exec: arguments, environment, scripts, errors, what survives. Runs itself in several roles. */
#include "guest.h"
#include <spawn.h>
#include <sys/sendfile.h>

extern char **environ;

static int run(const char *path, char *const argv[], char *const envp[])
{
    int status;
    fflush(stdout);
    pid_t pid = vfork();
    if (!pid) {
        execve(path, argv, envp);
        _exit(100 + (errno & 63));
    }
    MUST(waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int role(int argc, char **argv)
{
    if (!strcmp(argv[1], "echo")) {
        for (int i = 0; i < argc; i++)
            SAY("  argv[%d] [%s]", i, argv[i]);
        for (char **e = environ; *e; e++)
            SAY("  env [%s]", *e);
        return 11;
    }
    if (!strcmp(argv[1], "state")) {
        int keep = atoi(argv[2]), close_on_exec = atoi(argv[3]);
        struct sigaction sa;
        sigset_t set;
        SHOW(fcntl(keep, F_GETFD) >= 0);
        SHOW(fcntl(close_on_exec, F_GETFD));
        MUST(sigaction(SIGUSR1, NULL, &sa));
        TRUE(sa.sa_handler == SIG_DFL);
        MUST(sigaction(SIGUSR2, NULL, &sa));
        TRUE(sa.sa_handler == SIG_IGN);
        sigprocmask(SIG_BLOCK, NULL, &set);
        TRUE(sigismember(&set, SIGHUP));
        sigpending(&set);
        TRUE(sigismember(&set, SIGHUP));
        mode_t mask = umask(0);
        SAY("umask %o", mask);
        return 12;
    }
    return 1;
}

/* So that the path of the program is the same wherever it was started. */
static void copy_of_this_program(const char *to)
{
    int in = (int)MUST(open("/proc/self/exe", O_RDONLY)), out = (int)MUST(open(to, O_WRONLY | O_CREAT, 0755));
    while (MUST(sendfile(out, in, NULL, 1 << 20)) > 0)
        ;
    close(in);
    SHOW(execve(to, (char *[]){"x", NULL}, environ)); /* open for writing */
    close(out);
}
static void nothing(int signo) { (void)signo; }

int main(int argc, char **argv)
{
    const char *self = "./prog";
    if (argc > 1)
        return role(argc, argv);
    scratch();
    copy_of_this_program(self);

    SHOW(run(self, (char *[]){"zero", "echo", "two words", "", NULL}, (char *[]){"A=1", "B=", NULL}));
    SHOW(run("/proc/self/exe", (char *[]){"x", "echo", NULL}, (char *[]){NULL}));
    SHOW(execve("missing", argv, environ));
    SHOW(execve(".", argv, environ));
    put("plain", "echo no magic\n");
    SHOW(execve("plain", argv, environ));
    MUST(chmod("plain", 0755));
    SHOW(execve("plain", argv, environ));
    put("empty", "");
    MUST(chmod("empty", 0755));
    SHOW(execve("empty", argv, environ));
    put("elf", "\177ELF\2\1\1");
    MUST(chmod("elf", 0755));
    SHOW(execve("elf", argv, environ));
    SHOW(execve("plain/x", argv, environ));
    SHOW(execve("", argv, environ));

    /* Scripts: the interpreter gets its one argument, the path, then the rest. */
    char text[700];
    snprintf(text, sizeof text, "#! %s echo\n", self);
    put("script", text);
    MUST(chmod("script", 0755));
    SHOW(run("./script", (char *[]){"ignored", "more", NULL}, (char *[]){"E=f", NULL}));
    put("two", "#!./script a b\n");
    MUST(chmod("two", 0755));
    SHOW(run("./two", (char *[]){"ignored", "tail", NULL}, (char *[]){NULL}));
    put("bad", "#!/missing/interpreter\n");
    MUST(chmod("bad", 0755));
    SHOW(execve("bad", argv, environ));
    put("self-loop", "#!./self-loop\n");
    MUST(chmod("self-loop", 0755));
    SHOW(execve("./self-loop", argv, environ));

    /* By descriptor. */
    int fd = (int)MUST(open(self, O_RDONLY));
    fflush(stdout);
    int status;
    pid_t pid = fork();
    if (!pid) {
        char *args[] = {"by-fd", "echo", NULL}, *env[] = {"F=1", NULL};
        syscall(SYS_execveat, fd, "", args, env, AT_EMPTY_PATH);
        _exit(99);
    }
    MUST(waitpid(pid, &status, 0));
    show_status("execveat", status);

    /* What an exec keeps: descriptors without close-on-exec, ignored signals, mask, pending, umask. */
    int keep = (int)MUST(open("plain", O_RDONLY)), gone = (int)MUST(open("plain", O_RDONLY | O_CLOEXEC));
    char a[12], b[12];
    snprintf(a, sizeof a, "%d", keep);
    snprintf(b, sizeof b, "%d", gone);
    pid = fork();
    if (!pid) {
        sigset_t set;
        signal(SIGUSR1, nothing);
        signal(SIGUSR2, SIG_IGN);
        sigemptyset(&set);
        sigaddset(&set, SIGHUP);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGHUP);
        umask(057);
        execl(self, "s", "state", a, b, NULL);
        _exit(99);
    }
    MUST(waitpid(pid, &status, 0));
    show_status("state", status);

    char *args[] = {"spawned", "echo", NULL}, *env[] = {"S=1", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "out", O_WRONLY | O_CREAT, 0644);
    SHOW(posix_spawn(&pid, self, &actions, NULL, args, env));
    MUST(waitpid(pid, &status, 0));
    show_status("posix_spawn", status);
    cat("out");
    SAY("missing: %s", errno_name(posix_spawn(&pid, "/missing", NULL, NULL, args, env)));

    /* Arguments up to a megabyte are fine, a single one above 128 KiB is not. */
    char *big = malloc(200000);
    memset(big, 'x', 131072);
    big[131072] = 0;
    SHOW(execve(self, (char *[]){"x", big, NULL}, environ));
    return 0;
}
