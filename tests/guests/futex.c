/* futex by raw calls: wait, wake, timeouts, bitsets, requeue, between processes. */
#include "guest.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

/* From the kernel's futex.h, which musl does not bring. */
enum { FUTEX_WAIT = 0, FUTEX_WAKE = 1, FUTEX_CMP_REQUEUE = 4, FUTEX_WAIT_BITSET = 9, FUTEX_WAKE_BITSET = 10 };
enum { FUTEX_PRIVATE_FLAG = 128, FUTEX_CLOCK_REALTIME = 256, FUTEX_BITSET_MATCH_ANY = -1 };

static int word, second;
static long futex(int *at, int op, int value, const struct timespec *t, int *at2, int v3)
{
    return syscall(SYS_futex, at, op, value, t, at2, v3);
}
static int waiting;
static void *waits(void *arg)
{
    (void)arg;
    __atomic_add_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 0)
        futex(&word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
    return NULL;
}

/* Condition variables over a lock with priority inheritance. */
enum { FUTEX_LOCK_PI = 6, FUTEX_UNLOCK_PI = 7, FUTEX_WAIT_REQUEUE_PI = 11, FUTEX_CMP_REQUEUE_PI = 12 };
static int condition, lock, entered, inside;
static void *waits_for_lock(void *arg)
{
    (void)arg;
    __atomic_add_fetch(&entered, 1, __ATOMIC_SEQ_CST);
    long r;
    do
        r = futex(&condition, FUTEX_WAIT_REQUEUE_PI | FUTEX_PRIVATE_FLAG, 0, NULL, &lock, 0);
    while (r == -1 && errno == EINTR);
    if (r == 0) {
        int own = (lock & 0x3fffffff) == (int)syscall(SYS_gettid);
        int alone = __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST) == 1;
        sched_yield();
        __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
        r = !own + 2 * !alone;
        futex(&lock, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
    }
    return (void *)r;
}

static void requeue_pi(void)
{
    struct timespec past = {1, 0};
    pthread_t t[3];
    SHOW(futex(&condition, FUTEX_WAIT_REQUEUE_PI, 1, NULL, &lock, 0));
    SHOW(futex(&condition, FUTEX_WAIT_REQUEUE_PI, 0, &past, &lock, 0));
    SHOW(futex(&condition, FUTEX_WAIT_REQUEUE_PI, 0, &past, &condition, 0));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI, 2, (void *)1, &lock, 0));
    SHOW(futex(&condition, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, &lock, 1));
    lock = 0;
    SHOW(futex(&lock, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0));
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&t[i], NULL, waits_for_lock, NULL));
    while (__atomic_load_n(&entered, __ATOMIC_SEQ_CST) < 3)
        sched_yield();
    /* Until all three wait, which nothing tells. */
    int moved = 0;
    while (moved < 3) {
        long r = futex(&condition, FUTEX_CMP_REQUEUE_PI | FUTEX_PRIVATE_FLAG, 1, (void *)10, &lock, 0);
        moved += r > 0 ? r : 0;
        sched_yield();
    }
    TRUE(moved == 3);
    SHOW(futex(&lock, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0));
    for (int i = 0; i < 3; i++) {
        void *r = (void *)1;
        pthread_join(t[i], &r);
        TRUE(r == NULL);
    }
    TRUE((lock & 0x3fffffff) == 0);
}

int main(void)
{
    struct timespec soon = {0, 10000000}, odd = {0, 1000000000}, past = {1, 0};
    word = 7;
    SHOW(futex(&word, FUTEX_WAIT, 8, NULL, NULL, 0));
    SHOW(futex(&word, FUTEX_WAIT, 7, &soon, NULL, 0));
    SHOW(futex(&word, FUTEX_WAIT, 7, &odd, NULL, 0));
    SHOW(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0));
    SHOW(futex((int *)((char *)&word + 1), FUTEX_WAIT, 7, &soon, NULL, 0));
    SHOW(futex((int *)16, FUTEX_WAIT, 7, &soon, NULL, 0));
    SHOW(futex(&word, 77, 7, NULL, NULL, 0));
    SHOW(futex(&word, FUTEX_WAIT_BITSET, 7, &past, NULL, FUTEX_BITSET_MATCH_ANY));
    SHOW(futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 7, &past, NULL, 1));
    SHOW(futex(&word, FUTEX_WAIT_BITSET, 7, &past, NULL, 0));
    SHOW(futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0));
    SHOW(futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)1, &second, 8));
    SHOW(futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)1, &second, 7));

    word = 0;
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, waits, NULL);
    while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) < 4)
        sched_yield();
    __atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
    TRUE(futex(&word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 100, NULL, NULL, 0) >= 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    SAY("all woken");

    requeue_pi();

    /* A shared word between two processes. */
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), status;
    fflush(stdout);
    if (!fork()) {
        while (__atomic_load_n(shared, __ATOMIC_SEQ_CST) == 0)
            futex(shared, FUTEX_WAIT, 0, NULL, NULL, 0);
        _exit(*shared);
    }
    __atomic_store_n(shared, 31, __ATOMIC_SEQ_CST);
    futex(shared, FUTEX_WAKE, 1, NULL, NULL, 0);
    MUST(wait(&status));
    show_status("woken by another process", status);
    return 0;
}
