/* Unix sockets: pairs, names, datagrams, descriptors and credentials in messages. */
#include "guest.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un name(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    return a;
}
#define ADDR(a) (struct sockaddr *)&(a), sizeof(a)

int main(void)
{
    int s[2], status;
    char b[64] = {0};
    scratch();
    SHOW(socket(AF_UNIX, 77, 0));
    SHOW(socket(999, SOCK_STREAM, 0));
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
    SHOW(fcntl(s[0], F_GETFD));
    SHOW(write(s[0], "abc", 3));
    SHOW(write(s[0], "def", 3));
    SHOW(recv(s[1], b, 4, MSG_PEEK));
    SHOW(read(s[1], b, 4));
    SHOW(recv(s[1], b, sizeof b, MSG_DONTWAIT));
    SHOW(recv(s[1], b, sizeof b, MSG_DONTWAIT));
    SHOW(shutdown(s[0], SHUT_WR));
    SHOW(read(s[1], b, sizeof b));
    SHOW(write(s[1], "back", 4));
    SHOW(read(s[0], b, sizeof b));
    SHOW(lseek(s[0], 0, SEEK_SET));

    int dg[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, dg));
    SHOW(send(dg[0], "first", 5, 0));
    SHOW(send(dg[0], "second", 6, 0));
    SHOW(recv(dg[1], b, 3, 0));
    SHOW(recv(dg[1], b, sizeof b, 0));
    SHOW(recv(dg[1], b, sizeof b, MSG_DONTWAIT));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, dg));
    SHOW(send(dg[0], "packet", 6, 0));
    SHOW(recv(dg[1], b, 2, MSG_TRUNC));
    close(dg[0]);
    SHOW(recv(dg[1], b, 2, 0));

    /* A server by name. */
    struct sockaddr_un a = name("sock"), peer;
    socklen_t len;
    int l = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), c;
    SHOW(connect((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), ADDR(a)));
    SHOW(listen(l, 1));
    SHOW(bind(l, ADDR(a)));
    SHOW(bind((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), ADDR(a)));
    SHOW(bind(l, ADDR(a)));
    SHOW(connect((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), ADDR(a)));
    struct stat st;
    SHOW(stat("sock", &st));
    TRUE(S_ISSOCK(st.st_mode));
    SHOW(open("sock", O_RDWR));
    SHOW(listen(l, 5));
    fflush(stdout);
    if (!fork()) {
        c = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        MUST(connect(c, ADDR(a)));
        MUST(write(c, "hello", 5));
        MUST(shutdown(c, SHUT_WR));
        _exit(read(c, b, sizeof b) == 6 ? 0 : 1);
    }
    len = sizeof peer;
    c = (int)MUST(accept(l, (struct sockaddr *)&peer, &len));
    SAY("peer family %d length %d", peer.sun_family == AF_UNIX, (int)len);
    while (read(c, b, sizeof b) > 0)
        SAY("[%.5s]", b);
    struct ucred cred;
    len = sizeof cred;
    SHOW(getsockopt(c, SOL_SOCKET, SO_PEERCRED, &cred, &len));
    TRUE(cred.uid == getuid() && cred.pid > 1);
    len = sizeof peer;
    SHOW(getsockname(c, (struct sockaddr *)&peer, &len));
    SAY("own name %s", peer.sun_path);
    SHOW(write(c, "answer", 6));
    MUST(wait(&status));
    show_status("client", status);
    int type = 0;
    len = sizeof type;
    SHOW(getsockopt(l, SOL_SOCKET, SO_TYPE, &type, &len));
    SAY("type %d", type == SOCK_STREAM);
    SHOW(getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &type, &len));
    SAY("listens %d", type);
    close(l);
    SHOW(connect((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), ADDR(a)));

    /* The abstract name space, datagrams by name. */
    struct sockaddr_un ab = {.sun_family = AF_UNIX};
    memcpy(ab.sun_path, "\0guest-abstract", 15);
    socklen_t ablen = offsetof(struct sockaddr_un, sun_path) + 15;
    int d1 = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), d2 = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    SHOW(bind(d1, (struct sockaddr *)&ab, ablen));
    SHOW(bind(d2, (struct sockaddr *)&ab, ablen));
    SHOW(sendto(d2, "dgram", 5, 0, (struct sockaddr *)&ab, ablen));
    len = sizeof peer;
    SHOW(recvfrom(d1, b, sizeof b, 0, (struct sockaddr *)&peer, &len));
    SAY("unnamed sender %d", (int)len);

    /* A descriptor travels. */
    put("f", "passed");
    int f = (int)MUST(open("f", O_RDONLY));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec iov = {"x", 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.b, .msg_controllen = sizeof control.b};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &f, sizeof f);
    SHOW(sendmsg(s[0], &m, 0));
    close(f);
    char byte;
    iov = (struct iovec){&byte, 1};
    memset(&control, 0, sizeof control);
    m.msg_controllen = sizeof control.b;
    SHOW(recvmsg(s[1], &m, MSG_CMSG_CLOEXEC));
    h = CMSG_FIRSTHDR(&m);
    TRUE(h && h->cmsg_type == SCM_RIGHTS);
    memcpy(&f, CMSG_DATA(h), sizeof f);
    SHOW(fcntl(f, F_GETFD));
    memset(b, 0, sizeof b);
    SHOW(read(f, b, sizeof b));
    SAY("[%s]", b);
    return 0;
}
