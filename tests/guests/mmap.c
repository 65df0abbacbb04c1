/* mmap, munmap, mprotect, mremap, madvise, msync: private and shared, files and anonymous memory. */
#include "guest.h"
#include <sys/mman.h>

#define PAGE 4096
static char *map(size_t size, int flags, int fd, off_t at)
{
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, at);
    if (p == MAP_FAILED) {
        SAY("mmap: %s", errno_name(errno));
        exit(1);
    }
    return p;
}
#define FAILS(...) do { errno = 0; void *p_ = mmap(__VA_ARGS__); \
    SAY("mmap(" #__VA_ARGS__ ") %s", p_ == MAP_FAILED ? errno_name(errno) : "ok"); } while (0)

int main(void)
{
    int status;
    scratch();
    char *a = map(3 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRUE(((uintptr_t)a & (PAGE - 1)) == 0 && a[0] == 0 && a[3 * PAGE - 1] == 0);
    memset(a, 'a', 3 * PAGE);
    SHOW(munmap(a + PAGE, PAGE));
    TRUE(a[0] == 'a' && a[2 * PAGE] == 'a');
    TRUE(mmap(a + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a + PAGE);
    TRUE(a[PAGE] == 0);
    errno = 0;
    TRUE(mmap(a, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED &&
         errno == EEXIST);
    SHOW(munmap(a, 3 * PAGE));
    SHOW(munmap(a, 3 * PAGE));
    SHOW(munmap(a + 1, PAGE));
    SHOW(munmap(a, 0));
    FAILS(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0);
    FAILS(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0);
    FAILS((void *)12345, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

    /* A private map of a file: its own copy; a shared one: the file. */
    char *text = malloc(2 * PAGE);
    memset(text, 'f', 2 * PAGE);
    text[2 * PAGE - 1] = 0;
    put("f", text);
    int fd = (int)MUST(open("f", O_RDWR));
    char b[4] = {0};
    char *p = map(2 * PAGE, MAP_PRIVATE, fd, 0), *s = map(PAGE, MAP_SHARED, fd, PAGE);
    TRUE(p[0] == 'f' && s[0] == 'f' && s[PAGE - 1] == 0);
    p[0] = 'p';
    s[0] = 's';
    MUST(pread(fd, b, 1, 0));
    SAY("after a private write: %c", b[0]);
    MUST(pread(fd, b, 1, PAGE));
    SAY("after a shared write: %c", b[0]);
    MUST(pwrite(fd, "w", 1, PAGE + 1));
    SAY("a write shows in the shared map: %c", s[1]);
    s[PAGE - 1] = 'x';
    struct stat st;
    MUST(fstat(fd, &st));
    TRUE(st.st_size == 2 * PAGE - 1);
    SHOW(msync(s, PAGE, MS_SYNC));
    SHOW(msync(s, PAGE, 99));
    close(fd);
    SAY("after close: %c", s[0]);
    fd = (int)MUST(open("f", O_RDONLY));
    FAILS(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    FAILS(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 1);
    FAILS(NULL, PAGE, PROT_READ, MAP_PRIVATE, open(".", O_RDONLY), 0);
    TRUE(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) != MAP_FAILED);
    FAILS(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("f", O_WRONLY), 0);

    /* Over fork: private memory parts, shared memory stays together. */
    char *priv = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *share = map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    priv[0] = share[0] = '1';
    fflush(stdout);
    if (!fork()) {
        priv[0] = share[0] = s[0] = '2';
        _exit(0);
    }
    MUST(wait(&status));
    SAY("private %c shared %c file %c", priv[0], share[0], s[0]);

    SHOW(mprotect(priv, PAGE, PROT_READ));
    SHOW(syscall(SYS_mprotect, priv + 1, PAGE, PROT_READ));
    SHOW(mprotect(priv, PAGE, 0x777));
    SHOW(munmap(priv, PAGE));
    SHOW(mprotect(priv, PAGE, PROT_READ));
    SHOW(read(fd, priv, 1));

    /* mremap: shrink, grow, move. */
    a = map(2 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    a[0] = 'm';
    a[PAGE] = 'n';
    TRUE(mremap(a, 2 * PAGE, PAGE, 0) == a);
    a = mremap(a, PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    TRUE(a != MAP_FAILED && a[0] == 'm' && a[PAGE] == 0 && a[64 * PAGE - 1] == 0);
    char *target = map(64 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRUE(mremap(a, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target && target[0] == 'm');
    errno = 0;
    TRUE(mremap(a, PAGE, PAGE, 0) == MAP_FAILED && errno == EFAULT);

    memset(target, 'd', PAGE);
    SHOW(madvise(target, PAGE, MADV_DONTNEED));
    TRUE(target[0] == 0);
    SHOW(madvise(p, 2 * PAGE, MADV_DONTNEED));
    SAY("private file page again: %c", p[0]);
    SHOW(madvise(target, PAGE, 9999));
    SHOW(madvise(target, PAGE, MADV_WILLNEED));

    /* Code written, made executable, run, and changed. */
    unsigned char *code = (unsigned char *)map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const unsigned char ret42[] = {0xb8, 42, 0, 0, 0, 0xc3};
    memcpy(code, ret42, sizeof ret42);
    SHOW(mprotect(code, PAGE, PROT_READ | PROT_EXEC));
    SAY("code says %d", ((int (*)(void))code)());
    SHOW(mprotect(code, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
    code[1] = 43;
    SAY("code says %d", ((int (*)(void))code)());
    SHOW(mlock(target, PAGE));
    SHOW(munlock(target, PAGE));
    return 0;
}
