/*
 * A guest that tries to see the host. Runs in Cooper only. The harness puts a canary on the host (a file whose path is
 * the first argument, whose text is the second) and a variable COOPER_CANARY into Cooper's own environment; nothing of them may be
 * seen. Every line is `ok` or starts with LEAK.
 */
#include "guest.h"
#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <ftw.h>
#include <stddef.h>

static const char *canary_path, *canary_text;
static int leaks, looked;

static void leak(const char *what, const char *where)
{
    SAY("LEAK %s: %s", what, where);
    leaks++;
}
/* A file that may exist but must not tell the canary's text. */
static void look(const char *path)
{
    static char b[1 << 16];
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISFIFO(st.st_mode))
        return;
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return;
    ssize_t n = read(fd, b, sizeof b - 1);
    close(fd);
    looked++;
    if (n <= 0)
        return;
    for (ssize_t i = 0; i < n; i++)
        if (!b[i])
            b[i] = ' ';
    b[n] = 0;
    if (strstr(b, canary_text))
        leak("canary text", path);
    if (strstr(b, "COOPER_CANARY"))
        leak("cooper's environment", path);
}
static int visit(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    if (kind == FTW_F && strncmp(path, "/dev/", 5))
        look(path);
    return 0;
}
static void through_a_link(const char *name, const char *target)
{
    char path[4200];
    if (symlink(target, name) < 0)
        return;
    look(name);
    snprintf(path, sizeof path, "%s%s", name, canary_path);
    look(path);
}

int main(int argc, char **argv)
{
    char path[4200], up[4200] = "";
    struct stat st;
    if (argc < 3)
        return 2;
    canary_path = argv[1];
    canary_text = argv[2];
    /* Not part of the search: our own arguments name the canary. */
    scratch();

    look(canary_path);
    for (int i = 0; i < 20; i++) {
        strcat(up, "/..");
        snprintf(path, sizeof path, "%s%s", up, canary_path);
        look(path);
        snprintf(path, sizeof path, "/proc/self/root%s%s", up, canary_path);
        look(path);
        snprintf(path, sizeof path, "/proc/1/root%s%s", up, canary_path);
        look(path);
        snprintf(path, sizeof path, "/proc/self/cwd%s%s", up, canary_path);
        look(path);
    }
    SAY("paths ok");
    through_a_link("l1", canary_path);
    through_a_link("l2", "/..");
    through_a_link("l3", "/proc/1/root");
    through_a_link("l4", "/proc/self/root/../../..");
    through_a_link("l5", "/proc/1/cwd");
    SAY("links ok");

    /* Descriptors that somebody forgot, and what may be reached from them. */
    for (int fd = 0; fd < 1024; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            continue;
        if (fd > 2)
            leak("open descriptor", "above 2");
        if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
            leak("directory on a descriptor", "0-2");
        int at = openat(fd, canary_path + 1, O_RDONLY);
        if (at >= 0)
            leak("canary through a descriptor", "openat");
        snprintf(path, sizeof path, "/proc/self/fd/%d/..%s", fd, canary_path);
        look(path);
    }
    SAY("descriptors ok");

    if (getenv("COOPER_CANARY"))
        leak("environment", "getenv");
    nftw("/sys", visit, 16, FTW_PHYS);
    DIR *d = opendir("/proc");
    int processes = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        static const char *const parts[] = {"environ", "maps", "mounts", "mountinfo", "status", "cgroup", "stat", "io"};
        if (!atoi(e->d_name)) {
            if (e->d_type == DT_REG) {
                snprintf(path, sizeof path, "/proc/%s", e->d_name);
                look(path);
            }
            continue;
        }
        processes++;
        for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(path, sizeof path, "/proc/%s/%s", e->d_name, parts[i]);
            look(path);
        }
    }
    if (processes > 2)
        leak("processes of others", "/proc");
    nftw("/proc/sys", visit, 16, FTW_PHYS);
    SAY("proc ok");

    /* Devices: nothing that is a disk, memory or a terminal of the host. */
    static const char *const devices[] = {"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/sda", "/dev/vda",
                                          "/dev/nvme0n1", "/dev/loop0", "/dev/fuse", "/dev/kvm", "/dev/vsock", "/dev/net/tun"};
    for (unsigned i = 0; i < sizeof devices / sizeof *devices; i++)
        if (open(devices[i], O_RDONLY | O_NONBLOCK) >= 0)
            leak("device", devices[i]);
    if (mknod("disk", S_IFBLK | 0600, (254 << 8) | 0) == 0 && open("disk", O_RDONLY) >= 0)
        leak("device node made here", "disk");
    if (mknod("mem", S_IFCHR | 0600, (1 << 8) | 1) == 0 && open("mem", O_RDONLY) >= 0)
        leak("device node made here", "mem");
    SAY("devices ok");

    /* Sockets of daemons on the host, the host's abstract names, the pod's loopback. */
    static const char *const sockets[] = {"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock",
                                          "/run/dbus/system_bus_socket", "/run/systemd/private"};
    for (unsigned i = 0; i < sizeof sockets / sizeof *sockets; i++) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strcpy(a.sun_path, sockets[i]);
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        if (s >= 0 && connect(s, (struct sockaddr *)&a, sizeof a) == 0)
            leak("socket", sockets[i]);
        close(s);
    }
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, "\0cooper-canary", 14);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (s >= 0 && connect(s, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 14) == 0)
        leak("abstract socket", "cooper-canary");
    close(s);
    SAY("sockets ok");

    /* Powers that only a real superuser would have. */
    static const struct { const char *name; long number; } calls[] = {
        {"mount", SYS_mount}, {"pivot_root", SYS_pivot_root}, {"init_module", SYS_init_module}, {"reboot", SYS_reboot},
        {"swapon", SYS_swapon}, {"bpf", SYS_bpf}, {"setns", SYS_setns}, {"open_by_handle_at", SYS_open_by_handle_at},
        {"process_vm_readv", SYS_process_vm_readv}, {"kexec_load", SYS_kexec_load}, {"ioperm", SYS_ioperm}};
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
        if (syscall(calls[i].number, 1, 1, 1, 1, 1, 1) >= 0)
            leak("system call", calls[i].name);
    if (chroot(".") == 0) {
        for (int i = 0; i < 30; i++)
            (void)!chdir("..");
        look(canary_path);
        look(canary_path + 1);
    }
    /* Signals to what may be the host's processes. */
    for (pid_t pid = 1; pid < 5000; pid++)
        if (pid != getpid() && pid != getppid() && kill(pid, 0) == 0 && pid != 1)
            leak("a process of somebody else", "kill");
    SAY("powers ok");
    TRUE(looked > 0);
    return leaks ? 1 : 0;
}
