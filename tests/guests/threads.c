/* POSIX threads: mutexes, conditions, thread-local storage, once, barriers, cancellation, signals, exit. */
#include "guest.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long counter, atomic_counter;
static __thread int local = 5;
static pthread_key_t key;
static int destroyed, once_runs;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_barrier_t barrier;
static sem_t sem;
static volatile sig_atomic_t handled_by_thread;
static __thread int is_target;

static void destroy(void *p) { __atomic_add_fetch(&destroyed, (int)(intptr_t)p, __ATOMIC_SEQ_CST); }
static void run_once(void) { once_runs++; }
static void on_usr1(int signo) { (void)signo; handled_by_thread = is_target; }

static void *count(void *arg)
{
    pthread_once(&once, run_once);
    local += (int)(intptr_t)arg;
    pthread_setspecific(key, (void *)1);
    for (int i = 0; i < 10000; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        pthread_mutex_unlock(&lock);
        __atomic_add_fetch(&atomic_counter, 1, __ATOMIC_RELAXED);
    }
    pthread_barrier_wait(&barrier);
    return (void *)(intptr_t)local;
}

static int turn;
static void *ping(void *arg)
{
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&lock);
        while (turn != me)
            pthread_cond_wait(&changed, &lock);
        turn = !me;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}
static void *forever(void *arg)
{
    (void)arg;
    for (;;)
        pause();
}
static void *target(void *arg)
{
    is_target = 1;
    sem_post(&sem);
    while (!handled_by_thread)
        sched_yield();
    return arg;
}
static void *forks(void *arg)
{
    int status;
    pid_t pid = fork();
    if (!pid)
        _exit(local);
    MUST(waitpid(pid, &status, 0));
    return (void *)(intptr_t)(WEXITSTATUS(status) + (intptr_t)arg);
}
static void *ids(void *arg)
{
    (void)arg;
    return (void *)(intptr_t)(syscall(SYS_gettid) != getpid() && getpid() == *(pid_t *)arg);
}
static void *ends_process(void *arg)
{
    (void)arg;
    exit(21);
}

int main(int argc, char **argv)
{
    pthread_t t[8];
    void *result;
    (void)argv;
    if (argc > 1)
        return 23;
    pthread_key_create(&key, destroy);
    pthread_barrier_init(&barrier, NULL, 8);
    for (int i = 0; i < 8; i++)
        TRUE(pthread_create(&t[i], NULL, count, (void *)(intptr_t)i) == 0);
    long sum = 0;
    for (int i = 0; i < 8; i++) {
        pthread_join(t[i], &result);
        sum += (long)result;
    }
    SAY("counter %ld atomic %ld locals %ld own %d destroyed %d once %d", counter, atomic_counter, sum, local,
        destroyed, once_runs);

    pthread_create(&t[0], NULL, ping, (void *)0);
    pthread_create(&t[1], NULL, ping, (void *)1);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    SAY("ping-pong ended with %d", turn);

    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 20000000;
    if (soon.tv_nsec >= 1000000000)
        soon.tv_sec++, soon.tv_nsec -= 1000000000;
    pthread_mutex_lock(&lock);
    SAY("timed wait: %s", errno_name(pthread_cond_timedwait(&changed, &lock, &soon)));
    SAY("try a held lock: %s", errno_name(pthread_mutex_trylock(&lock)));
    pthread_mutex_unlock(&lock);

    pthread_create(&t[0], NULL, forever, NULL);
    SHOW(pthread_cancel(t[0]));
    pthread_join(t[0], &result);
    TRUE(result == PTHREAD_CANCELED);

    signal(SIGUSR1, on_usr1);
    sem_init(&sem, 0, 0);
    pthread_create(&t[0], NULL, target, NULL);
    sem_wait(&sem);
    SHOW(pthread_kill(t[0], SIGUSR1));
    pthread_join(t[0], NULL);
    SAY("handled by the target %d", handled_by_thread);

    fflush(stdout);
    local = 40;
    pthread_create(&t[0], NULL, forks, (void *)100);
    pthread_join(t[0], &result);
    SAY("fork in a thread %ld", (long)result);
    pid_t me = getpid();
    pthread_create(&t[0], NULL, ids, &me);
    pthread_join(t[0], &result);
    SAY("own tid, same pid %ld", (long)result);

    /* A hundred threads, one after the other: stacks are given back. */
    for (int i = 0; i < 100; i++) {
        pthread_create(&t[0], NULL, ids, &me);
        pthread_join(t[0], NULL);
    }
    int status;
    if (!fork()) {
        pthread_create(&t[0], NULL, ends_process, NULL);
        pthread_join(t[0], NULL);
        _exit(1);
    }
    MUST(wait(&status));
    show_status("exit in a thread", status);
    if (!fork()) {
        pthread_create(&t[0], NULL, forever, NULL);
        pthread_create(&t[1], NULL, forever, NULL);
        return 22;
    }
    MUST(wait(&status));
    show_status("return from main", status);
    if (!fork()) {
        pthread_create(&t[0], NULL, forever, NULL);
        raise(SIGTERM);
        _exit(1);
    }
    MUST(wait(&status));
    show_status("signal to a process of threads", status);
    if (!fork()) {
        pthread_create(&t[0], NULL, forever, NULL);
        execl("/proc/self/exe", "threads", "exec", NULL);
        _exit(9);
    }
    MUST(wait(&status));
    show_status("exec in a process of threads", status);
    return 0;
}
