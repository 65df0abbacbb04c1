/* clone with the flag sets that programs use without a thread library. */
#include "guest.h"
#include <sched.h>
#include <sys/mman.h>

static int value;
static pid_t child_tid;

static int bump(void *arg)
{
    value += (int)(intptr_t)arg;
    return 33;
}
static int cd(void *arg)
{
    return chdir(arg) == 0 ? 0 : 1;
}
static int open_one(void *arg)
{
    int fd = open(arg, O_RDONLY);
    return fd;
}
static int look_at_tid(void *arg)
{
    (void)arg;
    return child_tid == getpid() ? 0 : 1;
}

static int with(int (*f)(void *), int flags, void *arg)
{
    static char *stack;
    int status;
    if (!stack)
        stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    fflush(stdout);
    pid_t pid = clone(f, stack + (1 << 16), flags | SIGCHLD, arg, NULL, NULL, &child_tid);
    if (pid < 0)
        return -1;
    MUST(waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
}

int main(void)
{
    char before[512], after[512];
    scratch();
    SHOW(with(bump, 0, (void *)5));
    SAY("without CLONE_VM %d", value);
    SHOW(with(bump, CLONE_VM | CLONE_VFORK, (void *)7));
    SAY("with CLONE_VM %d", value);
    MUST(mkdir("d", 0755));
    MUST((long)getcwd(before, sizeof before) == 0 ? -1 : 0);
    SHOW(with(cd, 0, "d"));
    MUST(getcwd(after, sizeof after) ? 0 : -1);
    TRUE(!strcmp(before, after));
    SHOW(with(cd, CLONE_FS, "d"));
    MUST(getcwd(after, sizeof after) ? 0 : -1);
    TRUE(strcmp(before, after));
    MUST(chdir(".."));
    put("f", "x");
    int fd = with(open_one, 0, "f");
    SHOW(fcntl(fd, F_GETFD));
    fd = with(open_one, CLONE_FILES, "f");
    SHOW(fcntl(fd, F_GETFD));
    SHOW(with(look_at_tid, CLONE_CHILD_SETTID, NULL));
    child_tid = 77;
    MUST(with(bump, CLONE_CHILD_CLEARTID | CLONE_VM | CLONE_VFORK, 0));
    SAY("cleared tid %d", child_tid);
    SHOW(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0));
    SHOW(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0));
    TRUE(syscall(SYS_gettid) == getpid());
    return 0;
}
