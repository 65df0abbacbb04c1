/* inotify: what is reported of files and directories, reads, polling, the end of watches. */
#include "guest.h"
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

static int fd;

/* Prints everything that waits; cookies only as equal or not. */
static void events(const char *what)
{
    _Alignas(struct inotify_event) char buffer[4096];
    ssize_t n = read(fd, buffer, sizeof buffer);
    SAY("%s: %s", what, n < 0 ? errno_name(errno) : "");
    unsigned cookie = 0;
    for (char *at = buffer; n > 0 && at < buffer + n;) {
        struct inotify_event *e = (void *)at;
        SAY("  wd %d mask %x name [%s] room %u cookie %s", e->wd, e->mask, e->len ? e->name : "", e->len,
            !e->cookie ? "none" : e->cookie == cookie ? "the same" : "new");
        cookie = e->cookie;
        at += sizeof *e + e->len;
    }
}

int main(void)
{
    scratch();
    MUST(mkdir("d", 0755));
    put("f", "text");
    SHOW(inotify_init1(7));
    fd = (int)MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    SHOW(inotify_add_watch(fd, "none", IN_ALL_EVENTS));
    SHOW(inotify_add_watch(fd, "f", 0));
    SHOW(inotify_add_watch(fd, "f", IN_ALL_EVENTS | IN_ONLYDIR));
    SHOW(inotify_add_watch(0, "f", IN_ALL_EVENTS));
    SHOW(inotify_add_watch(99, "f", IN_ALL_EVENTS));
    SHOW(inotify_add_watch(fd, "d", IN_ALL_EVENTS));
    SHOW(inotify_add_watch(fd, "f", IN_ALL_EVENTS));
    SHOW(inotify_add_watch(fd, "f", IN_ALL_EVENTS));
    SHOW(inotify_add_watch(fd, "f", IN_ALL_EVENTS | IN_MASK_CREATE));
    SHOW(inotify_rm_watch(fd, 77));
    events("nothing");

    put("d/new", "12345");
    events("a new file");
    cat("d/new");
    events("read");
    MUST(chmod("d/new", 0600));
    events("chmod");
    MUST(truncate("d/new", 2));
    events("truncate");
    MUST(mkdir("d/sub", 0755));
    MUST(symlink("new", "d/link"));
    MUST(link("d/new", "d/hard"));
    events("more names");
    MUST(rename("d/new", "d/newer"));
    MUST(rename("d/newer", "out"));
    MUST(rename("out", "d/in"));
    events("renamed");
    MUST(unlink("d/in"));
    MUST(unlink("d/link"));
    MUST(rmdir("d/sub"));
    events("removed");

    int open_one = (int)MUST(open("f", O_RDWR | O_APPEND));
    MUST(write(open_one, "more", 4));
    MUST(pwrite(open_one, "x", 1, 0));
    MUST(ftruncate(open_one, 1));
    MUST(close(open_one));
    events("a file of its own");
    struct pollfd p = {fd, POLLIN, 0};
    SHOW(poll(&p, 1, 0));
    MUST(chmod("f", 0600));
    SHOW(poll(&p, 1, 0));
    int waiting = 0;
    MUST(ioctl(fd, FIONREAD, &waiting));
    TRUE(waiting == sizeof(struct inotify_event));
    char small[8];
    SHOW(read(fd, small, sizeof small));
    events("chmod of f");
    MUST(unlink("f"));
    events("f is gone");
    SHOW(inotify_rm_watch(fd, 2));
    SHOW(inotify_add_watch(fd, "d", IN_CREATE | IN_ONESHOT));
    put("d/first", "");
    put("d/second", "");
    events("once");

    /* A read that blocks until somebody else changes something. */
    int blocking = (int)MUST(inotify_init());
    MUST(inotify_add_watch(blocking, "d", IN_CREATE));
    if (!fork()) {
        usleep(20000);
        put("d/by-child", "");
        _exit(0);
    }
    fd = blocking;
    events("blocked");
    MUST(wait(NULL));
    SHOW(inotify_rm_watch(fd, 1));
    events("ended");
    return 0;
}
