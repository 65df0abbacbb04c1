/* TCP and UDP over the step's own loopback. */
#include "guest.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#define ADDR(a) (struct sockaddr *)&(a), sizeof(a)
static struct sockaddr_in at(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

int main(void)
{
    int status, one = 1, l = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in a = at(0), peer;
    socklen_t len = sizeof a;
    char b[128] = {0};
    SHOW(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    SHOW(bind(l, ADDR(a)));
    SHOW(listen(l, 4));
    SHOW(getsockname(l, (struct sockaddr *)&a, &len));
    TRUE(ntohs(a.sin_port) != 0 && len == sizeof a);
    fflush(stdout);
    if (!fork()) {
        int c = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(connect(c, ADDR(a)));
        MUST(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
        MUST(write(c, "request", 7));
        MUST(shutdown(c, SHUT_WR));
        long total = 0;
        for (ssize_t n; (n = read(c, b, sizeof b)) > 0;)
            total += n;
        _exit(total == 300000 ? 0 : 1);
    }
    len = sizeof peer;
    int c = (int)MUST(accept4(l, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC));
    TRUE(peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    long got = 0;
    for (ssize_t n; (n = read(c, b + got, sizeof b - got)) > 0;)
        got += n;
    SAY("[%s]", b);
    char *big = calloc(1, 300000);
    long sent = 0;
    while (sent < 300000)
        sent += MUST(send(c, big + sent, 300000 - sent, 0));
    close(c);
    MUST(wait(&status));
    show_status("client", status);

    /* Non-blocking accept and connect. */
    MUST(fcntl(l, F_SETFL, O_NONBLOCK));
    SHOW(accept(l, NULL, NULL));
    c = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    int r = connect(c, ADDR(a));
    TRUE(r == 0 || errno == EINPROGRESS);
    struct pollfd f = {c, POLLOUT, 0};
    SHOW(poll(&f, 1, 10000));
    int err = -1;
    len = sizeof err;
    SHOW(getsockopt(c, SOL_SOCKET, SO_ERROR, &err, &len));
    SAY("error %d", err);
    SHOW(connect(c, ADDR(a)) == -1 ? errno == EISCONN : 1);
    struct pollfd lf = {l, POLLIN, 0};
    SHOW(poll(&lf, 1, 10000));
    int d = (int)MUST(accept(l, NULL, NULL));
    SHOW(read(c, b, 1));
    len = sizeof peer;
    SHOW(getpeername(c, (struct sockaddr *)&peer, &len));
    TRUE(peer.sin_port == a.sin_port);
    close(d);
    f.events = POLLIN;
    SHOW(poll(&f, 1, 10000));
    SHOW(read(c, b, 1));
    close(c);
    close(l);
    c = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    SHOW(connect(c, ADDR(a)));
    SHOW(getpeername(c, (struct sockaddr *)&peer, &len));
    SHOW(bind((int)MUST(socket(AF_INET, SOCK_STREAM, 0)), (struct sockaddr *)&a, 3));

    /* Datagrams. */
    int u1 = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), u2 = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in ua = at(0);
    SHOW(bind(u1, ADDR(ua)));
    len = sizeof ua;
    MUST(getsockname(u1, (struct sockaddr *)&ua, &len));
    SHOW(sendto(u2, "datagram", 8, 0, ADDR(ua)));
    SHOW(sendto(u2, "", 0, 0, ADDR(ua)));
    len = sizeof peer;
    SHOW(recvfrom(u1, b, sizeof b, 0, (struct sockaddr *)&peer, &len));
    SHOW(sendto(u1, "reply", 5, 0, (struct sockaddr *)&peer, len));
    SHOW(recv(u2, b, 3, 0));
    SHOW(recv(u1, b, sizeof b, 0));
    SHOW(recv(u1, b, sizeof b, MSG_DONTWAIT));
    SHOW(connect(u2, ADDR(ua)));
    SHOW(write(u2, "conn", 4));
    SHOW(read(u1, b, sizeof b));
    return 0;
}
