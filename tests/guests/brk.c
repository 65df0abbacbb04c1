/* The program break, by raw calls, so that the allocator of the C library is not in the way. */
#include "guest.h"

static char *raw(char *to) { return (char *)syscall(SYS_brk, to); }

int main(void)
{
    int status;
    setvbuf(stdout, NULL, _IONBF, 0);
    char *start = raw(NULL);
    TRUE(start != NULL);
    TRUE(raw(start + 100000) == start + 100000);
    int zero = 1;
    for (int i = 0; i < 100000; i++)
        zero &= start[i] == 0;
    TRUE(zero);
    memset(start, 'b', 100000);
    TRUE(raw(start + 10) == start + 10);
    TRUE(raw(start + 100000) == start + 100000);
    TRUE(start[5] == 'b' && start[99999] == 0);
    TRUE(raw((char *)1) == start + 100000);
    TRUE(raw((char *)-4096) == start + 100000);
    if (!fork()) {
        start[0] = 'c';
        _exit(raw(start + 200000) == start + 200000 ? 0 : 1);
    }
    wait(&status);
    show_status("child", status);
    TRUE(start[0] == 'b' && raw(NULL) == start + 100000);
    return 0;
}
