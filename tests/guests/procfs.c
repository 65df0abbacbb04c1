/* /proc as programs use it: about oneself, about others, what does not exist. */
#include "guest.h"
#include <dirent.h>
#include <sys/prctl.h>

static char *slurp(const char *path)
{
    static char b[65536];
    int fd = open(path, O_RDONLY);
    ssize_t n, total = 0;
    if (fd < 0) {
        SAY("%s: %s", path, errno_name(errno));
        return strcpy(b, "");
    }
    while (total < (ssize_t)sizeof b - 1 && (n = read(fd, b + total, sizeof b - 1 - total)) > 0)
        total += n;
    close(fd);
    b[total] = 0;
    return b;
}
static void has(const char *path, const char *text)
{
    SAY("%s has %s: %s", path, text, strstr(slurp(path), text) ? "ok" : "NO");
}
static long field(const char *text, const char *key)
{
    char *at = strstr(text, key);
    return at ? strtol(at + strlen(key), NULL, 10) : -1;
}

int main(int argc, char **argv)
{
    char b[4096] = {0}, path[64];
    (void)argc;
    scratch();
    MUST(readlink("/proc/self", b, sizeof b));
    TRUE(atoi(b) == getpid());
    memset(b, 0, sizeof b);
    MUST(readlink("/proc/self/cwd", b, sizeof b));
    char cwd[4096];
    TRUE(getcwd(cwd, sizeof cwd) && !strcmp(b, cwd));
    memset(b, 0, sizeof b);
    MUST(readlink("/proc/self/root", b, sizeof b));
    SAY("root %s", b);
    memset(b, 0, sizeof b);
    MUST(readlink("/proc/self/exe", b, sizeof b));
    TRUE(strstr(b, "procfs") != NULL);
    TRUE(strlen(slurp("/proc/self/cmdline")) == strlen(argv[0]));
    SAY("comm %s", strstr(slurp("/proc/self/comm"), "procfs") ? "ok" : "NO");
    MUST(prctl(PR_SET_NAME, "renamed"));
    cat("/proc/self/comm");
    setenv("LATER", "1", 1);
    TRUE(!strstr(slurp("/proc/self/environ"), "LATER=1"));

    char *status = slurp("/proc/self/status");
    TRUE(field(status, "\nPid:") == getpid() && field(status, "\nPPid:") == getppid());
    TRUE(field(status, "\nTgid:") == getpid() && field(status, "\nThreads:") == 1);
    TRUE(field(status, "\nUid:") == getuid() && field(status, "\nGid:") == getgid());
    TRUE(strstr(status, "State:\tR (running)") != NULL);
    TRUE(field(status, "\nVmRSS:") > 0 && field(status, "\nVmSize:") > 0);
    char *stat = slurp("/proc/self/stat");
    TRUE(atoi(stat) == getpid() && strstr(stat, "(renamed) R "));
    TRUE(atol(slurp("/proc/self/statm")) > 0);
    has("/proc/self/maps", "[stack]");
    has("/proc/self/maps", "[heap]");
    has("/proc/self/maps", "procfs");
    has("/proc/self/maps", "r-xp");
    has("/proc/self/limits", "Max open files");
    has("/proc/self/mounts", " / ");
    has("/proc/self/mountinfo", " /proc ");
    has("/proc/self/cgroup", ":/");
    has("/proc/meminfo", "MemTotal:");
    has("/proc/meminfo", "MemAvailable:");
    has("/proc/cpuinfo", "processor\t: 0");
    has("/proc/cpuinfo", "sse4_2");
    has("/proc/stat", "cpu ");
    has("/proc/version", "Linux version");
    has("/proc/filesystems", "proc");
    has("/proc/uptime", ".");
    has("/proc/loadavg", "/");
    has("/proc/sys/kernel/osrelease", ".");
    has("/proc/sys/kernel/pid_max", "\n");
    has("/proc/sys/vm/overcommit_memory", "\n");

    /* Open descriptors. */
    put("f", "by descriptor");
    int fd = (int)MUST(open("f", O_RDWR));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    cat(path);
    snprintf(path, sizeof path, "/dev/fd/%d", fd);
    cat(path);
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    SHOW(lstat(path, &st) | S_ISLNK(st.st_mode));
    memset(b, 0, sizeof b);
    MUST(readlink(path, b, sizeof b));
    TRUE(!strcmp(strrchr(b, '/'), "/f"));
    MUST(unlink("f"));
    memset(b, 0, sizeof b);
    MUST(readlink(path, b, sizeof b));
    TRUE(!strcmp(strrchr(b, '/'), "/f (deleted)"));
    cat(path);
    MUST(lseek(fd, 3, SEEK_SET));
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    SAY("pos %ld", field(slurp(path), "pos:"));
    int p[2];
    MUST(pipe(p));
    snprintf(path, sizeof path, "/proc/self/fd/%d", p[1]);
    memset(b, 0, sizeof b);
    MUST(readlink(path, b, sizeof b));
    TRUE(!strncmp(b, "pipe:[", 6));
    int w = (int)MUST(open(path, O_WRONLY));
    SHOW(write(w, "again", 5));
    SHOW(read(p[0], b, 10));
    close(fd);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    SHOW(lstat(path, &st));

    int seen = 0, self = 0;
    DIR *d = opendir("/proc");
    for (struct dirent *e; (e = readdir(d));) {
        seen += !strcmp(e->d_name, "self") || !strcmp(e->d_name, "meminfo") || !strcmp(e->d_name, "cpuinfo");
        self += atoi(e->d_name) == getpid();
    }
    closedir(d);
    SAY("listed %d, own pid %d", seen, self);

    int code;
    MUST(pipe(p));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        close(p[1]);
        _exit((int)read(p[0], b, 1));
    }
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    TRUE(field(slurp(path), "\nPPid:") == getpid());
    SHOW(kill(pid, SIGKILL));
    siginfo_t info;
    MUST(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    TRUE(strstr(slurp(path), "State:\tZ (zombie)") != NULL);
    MUST(waitpid(pid, &code, 0));
    SHOW(open(path, O_RDONLY));
    SHOW(open("/proc/self/missing", O_RDONLY));
    SHOW(mkdir("/proc/x", 0755));
    SHOW(open("/proc/x", O_CREAT | O_WRONLY, 0644));
    SHOW(unlink("/proc/self"));
    return 0;
}
