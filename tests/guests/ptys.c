/* Pseudo terminals: pairs, line editing, raw mode, signals from keys, job control, sessions, hang-up. */
#include "guest.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;
static char name[64];

static void text(const char *what, const char *bytes, long count)
{
    printf("%s = %ld \"", what, count);
    for (long i = 0; i < count; i++)
        printf(bytes[i] < 32 || bytes[i] > 126 ? "\\x%02x" : "%c", (unsigned char)bytes[i]);
    printf("\"%s\n", count < 0 ? errno_name(errno) : "");
    fflush(stdout);
}
static void get(const char *what, int fd, size_t size)
{
    char buffer[256];
    errno = 0;
    text(what, buffer, read(fd, buffer, size));
}
static void type_in(const char *bytes)
{
    MUST(write(master, bytes, strlen(bytes)));
}
static void events(const char *what, int fd)
{
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    poll(&p, 1, 0);
    printf("%s:%s%s%s%s\n", what, p.revents & POLLIN ? " in" : "", p.revents & POLLOUT ? " out" : "",
        p.revents & POLLHUP ? " hup" : "", p.revents & POLLERR ? " err" : "");
}
/* Input arrives at the other side a moment later. */
static void settle(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};
    poll(&p, 1, 5000);
}
static void open_pair(void)
{
    master = posix_openpt(O_RDWR | O_NOCTTY);
    TRUE(master >= 0);
    SHOW(grantpt(master));
    SHOW(unlockpt(master));
    strcpy(name, ptsname(master));
    TRUE(!strncmp(name, "/dev/pts/", 9));
    slave = open(name, O_RDWR | O_NOCTTY);
    TRUE(slave >= 0);
}
static int got_int, got_winch, got_hup;
static void on_int(int s) { got_int++; }
static void on_winch(int s) { got_winch++; }
static void on_hup(int s) { got_hup++; }

int main(void)
{
    struct termios t;
    struct winsize size = {0};
    struct stat by_name, by_number;
    alarm(100);
    open_pair();
    SHOW(isatty(slave));
    SHOW(isatty(master));
    TRUE(!strcmp(ttyname(slave), name));
    MUST(stat(name, &by_name));
    MUST(fstat(slave, &by_number));
    TRUE(S_ISCHR(by_name.st_mode) && by_name.st_rdev == by_number.st_rdev);
    SHOW(by_name.st_rdev >> 8);
    MUST(tcgetattr(slave, &t));
    printf("%o %o %o %o %d\n", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, t.c_cc[VERASE]);
    SHOW(ioctl(slave, TIOCGWINSZ, &size));
    printf("%d %d\n", size.ws_row, size.ws_col);
    SHOW(ioctl(slave, TIOCGPGRP, &size));
    SHOW(ioctl(1, TIOCGPTN, &size));

    /* Lines. */
    events("slave", slave);
    type_in("hello\n");
    settle(slave);
    events("slave", slave);
    get("line", slave, 100);
    get("echo", master, 100);
    type_in("ab\177c\n");
    get("erased", slave, 100);
    get("echo", master, 100);
    type_in("one two\027\025x\n");
    get("killed", slave, 100);
    get("echo", master, 100);
    type_in("long line\n");
    get("part", slave, 4);
    get("rest", slave, 100);
    get("echo", master, 100);
    type_in("end\004");
    get("without newline", slave, 100);
    type_in("\004");
    get("end of file", slave, 100);
    get("echo", master, 100);
    MUST(write(slave, "a\nb\tc\n", 6));
    get("output", master, 100);

    /* Raw. */
    cfmakeraw(&t);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    SHOW(tcsetattr(slave, TCSAFLUSH, &t));
    type_in("\003\004x\r");
    settle(slave);
    get("raw", slave, 100);
    MUST(write(slave, "a\n", 2));
    get("raw output", master, 100);
    t.c_cc[VMIN] = 0;
    SHOW(tcsetattr(slave, TCSANOW, &t));
    get("nothing", slave, 100);
    t.c_cc[VTIME] = 1;
    SHOW(tcsetattr(slave, TCSANOW, &t));
    get("nothing after a while", slave, 100);
    fcntl(master, F_SETFL, O_NONBLOCK);
    get("empty master", master, 100);
    fcntl(master, F_SETFL, 0);
    int count = -1;
    type_in("12345");
    settle(slave);
    SHOW(ioctl(slave, FIONREAD, &count));
    printf("%d waiting\n", count);
    SHOW(tcflush(slave, TCIFLUSH));
    SHOW(ioctl(slave, FIONREAD, &count));
    printf("%d waiting\n", count);
    int packet = 1;
    SHOW(ioctl(master, TIOCPKT, &packet));
    MUST(write(slave, "pk", 2));
    get("packet", master, 100);
    packet = 0;
    SHOW(ioctl(master, TIOCPKT, &packet));

    /* Closing. */
    close(slave);
    events("master without slave", master);
    get("master without slave", master, 100);
    slave = open(name, O_RDWR | O_NOCTTY);
    events("master", master);
    close(master);
    events("slave without master", slave);
    get("slave without master", slave, 100);
    SHOW(write(slave, "x", 1));
    SHOW(open(name, O_RDWR | O_NOCTTY));
    close(slave);

    /* A session with the terminal in control. */
    open_pair();
    fflush(stdout);
    pid_t leader = fork();
    if (!leader) {
        close(master);
        signal(SIGINT, on_int);
        signal(SIGWINCH, on_winch);
        SHOW(open("/dev/tty", O_RDWR));
        TRUE(setsid() == getpid());
        SHOW(ioctl(slave, TIOCSCTTY, 0));
        TRUE(tcgetsid(slave) == getpid());
        TRUE(tcgetpgrp(slave) == getpid());
        int tty = open("/dev/tty", O_RDWR);
        TRUE(tty >= 0);
        MUST(write(tty, "via tty\n", 8));
        MUST(write(slave, "ready\n", 6));
        while (!got_int)
            pause();
        SHOW(got_int);
        while (!got_winch)
            usleep(1000);
        struct winsize now;
        MUST(ioctl(tty, TIOCGWINSZ, &now));
        printf("%d %d\n", now.ws_row, now.ws_col);
        /* A background reader is stopped. */
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            char c;
            setpgid(0, 0);
            read(tty, &c, 1);
            _exit(c);
        }
        setpgid(child, child);
        int status;
        MUST(waitpid(child, &status, WUNTRACED));
        printf("stopped %d by %d\n", WIFSTOPPED(status), WSTOPSIG(status) == SIGTTIN);
        signal(SIGTTOU, SIG_IGN);
        SHOW(tcsetpgrp(tty, child));
        SHOW(tcsetpgrp(tty, 30000));
        MUST(write(slave, "again\n", 6));
        kill(-child, SIGCONT);
        MUST(waitpid(child, &status, 0));
        show_status("reader", status);
        SHOW(tcsetpgrp(tty, getpid()) );
        signal(SIGHUP, on_hup);
        MUST(write(slave, "hang up\n", 8));
        while (!got_hup)
            usleep(1000);
        SHOW(got_hup);
        errno = 0;
        SHOW(write(tty, "x", 1));
        SHOW(open("/dev/tty", O_RDWR));
        _exit(0);
    }
    char buffer[256];
    long n = 0;
    while (n < 16)
        n += read(master, buffer + n, sizeof buffer - n);
    text("from the session", buffer, n);
    type_in("\003");
    usleep(50000);
    struct winsize wide = {40, 100};
    MUST(ioctl(master, TIOCSWINSZ, &wide));
    n = 0;
    while (n < 9)
        n += read(master, buffer + n, sizeof buffer - n);
    text("from the session", buffer, n);
    type_in("Q\n");
    n = 0;
    while (n < 12)
        n += read(master, buffer + n, sizeof buffer - n);
    text("from the session", buffer, n);
    close(slave);
    close(master);
    int status;
    MUST(waitpid(leader, &status, 0));
    show_status("leader", status);
    return 0;
}
