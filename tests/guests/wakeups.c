/*
 * Futexes, condition variables and signals under contention: a wake-up that gets lost is a program that hangs. A bounded
 * number of rounds, with an alarm.
 */
#include "guest.h"
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

enum { ROUNDS = 400, THREADS = 4 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static int turn, total;
static sem_t ping, pong;
static volatile int signals;

static void on_signal(int s) { __atomic_add_fetch(&signals, 1, __ATOMIC_SEQ_CST); }

/* Each waits for its turn and gives it to the next: every round is a wait and a broadcast with a requeue. */
static void *in_turn(void *arg)
{
    int own = (int)(long)arg;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != own)
            pthread_cond_wait(&changed, &mutex);
        turn++, total++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}
static void *at_barrier(void *arg)
{
    for (int i = 0; i < ROUNDS / 4; i++)
        pthread_barrier_wait(&barrier);
    return NULL;
}
static void *ponger(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        while (sem_wait(&ping))
            ;
        sem_post(&pong);
    }
    return NULL;
}
static void *short_lived(void *arg) { return arg; }

int main(void)
{
    pthread_t t[THREADS];
    alarm(200);
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &sa, NULL);
    for (long i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, in_turn, (void *)i);
    /* Signals without SA_RESTART hit the waits. */
    for (int i = 0; i < 200; i++) {
        pthread_kill(t[i % THREADS], SIGUSR1);
        if (i % 10 == 0)
            usleep(100);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    SHOW(total);
    TRUE(signals >= THREADS);

    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, at_barrier, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    SAY("barriers passed");

    sem_init(&ping, 0, 0), sem_init(&pong, 0, 0);
    pthread_create(&t[0], NULL, ponger, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        sem_post(&ping);
        if (i % 8 == 0)
            pthread_kill(t[0], SIGUSR1);
        while (sem_wait(&pong))
            ;
    }
    pthread_join(t[0], NULL);
    SAY("ping and pong done");

    /* Threads that end while they are joined. */
    long sum = 0;
    for (long i = 0; i < ROUNDS / 2; i++) {
        void *result;
        pthread_create(&t[0], NULL, short_lived, (void *)i);
        pthread_join(t[0], &result);
        sum += (long)result;
    }
    SHOW(sum);

    /* Between processes. */
    int status;
    sem_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_init(&shared[0], 1, 0), sem_init(&shared[1], 1, 0);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        for (int i = 0; i < ROUNDS; i++)
            sem_wait(&shared[0]), sem_post(&shared[1]);
        _exit(5);
    }
    for (int i = 0; i < ROUNDS; i++)
        sem_post(&shared[0]), sem_wait(&shared[1]);
    MUST(waitpid(child, &status, 0));
    show_status("other process", status);
    return 0;
}
