/* System V semaphores and message queues: values, undo, waiting between processes, types of messages, removal. */
#include "guest.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

static long semop1(int id, int number, int change, int flags)
{
    struct sembuf op = {number, change, flags};
    return semop(id, &op, 1);
}
static void semaphores(void)
{
    int status, id = semget(IPC_PRIVATE, 3, 0600);
    TRUE(id >= 0);
    SHOW(semget(IPC_PRIVATE, 0, 0600));
    SHOW(semget(IPC_PRIVATE, 100000, 0600));
    SHOW(semget(0x7a3b0001, 1, 0600));
    SHOW(semctl(id, 0, SETVAL, 2));
    SHOW(semctl(id, 0, SETVAL, 40000));
    SHOW(semctl(id, 5, SETVAL, 1));
    SHOW(semctl(id, 0, GETVAL));
    SHOW(semop1(id, 0, -3, IPC_NOWAIT));
    SHOW(semop1(id, 0, -2, IPC_NOWAIT));
    SHOW(semop1(id, 0, 0, IPC_NOWAIT));
    SHOW(semop1(id, 7, 1, IPC_NOWAIT));
    SHOW(semop1(id, 0, 32767, 0));
    SHOW(semop1(id, 0, 1, 0));
    SHOW(semctl(id, 0, SETVAL, 0));
    struct sembuf two[2] = {{1, 1, 0}, {2, -1, IPC_NOWAIT}};
    SHOW(semop(id, two, 2));
    SHOW(semctl(id, 1, GETVAL));
    SHOW(semop(id, two, 0));
    SHOW(semop(id, two, 1000));
    SHOW(semop(id, (void *)8, 1));
    unsigned short values[3] = {4, 5, 6};
    SHOW(semctl(id, 0, SETALL, values));
    memset(values, 0, sizeof values);
    SHOW(semctl(id, 0, GETALL, values));
    printf("%d %d %d\n", values[0], values[1], values[2]);
    struct semid_ds ds;
    SHOW(semctl(id, 0, IPC_STAT, &ds));
    printf("%d %o\n", (int)ds.sem_nsems, ds.sem_perm.mode);
    TRUE(semctl(id, 1, GETPID) == getpid());
    struct timespec soon = {0, 20000000};
    struct sembuf wait_zero = {0, 0, 0};
    SHOW(semtimedop(id, &wait_zero, 1, &soon));

    /* A child takes with undo and ends; another waits for its turn. */
    semctl(id, 0, SETVAL, 1);
    fflush(stdout);
    pid_t taker = fork();
    if (!taker) {
        semop1(id, 0, -1, SEM_UNDO);
        semop1(id, 1, 1, 0);
        semop1(id, 2, -100, 0);
        _exit(9);
    }
    semctl(id, 2, SETVAL, 0);
    while (semctl(id, 2, GETNCNT) == 0)
        usleep(1000);
    SHOW(semctl(id, 0, GETVAL));
    kill(taker, SIGKILL);
    SHOW(semop1(id, 0, -1, 0));
    MUST(waitpid(taker, &status, 0));
    show_status("taker", status);

    /* Removal ends waits. */
    pid_t waiter = fork();
    if (!waiter) {
        long got = semop1(id, 0, -1, 0);
        _exit(got == -1 && errno == EIDRM ? 3 : 4);
    }
    while (semctl(id, 0, GETNCNT) == 0)
        usleep(1000);
    SHOW(semctl(id, 0, IPC_RMID));
    MUST(waitpid(waiter, &status, 0));
    show_status("waiter", status);
    SHOW(semctl(id, 0, GETVAL));

    /* By key, as two programs find each other. */
    key_t key = 0x7a3b0000 + getpid() % 1000 + 2;
    int first = semget(key, 1, IPC_CREAT | IPC_EXCL | 0600);
    TRUE(first >= 0);
    TRUE(semget(key, 1, 0600) == first);
    SHOW(semget(key, 1, IPC_CREAT | IPC_EXCL | 0600));
    SHOW(semget(key, 2, 0600));
    SHOW(semctl(first, 0, IPC_RMID));
}

struct message {
    long type;
    char text[64];
};
static long enqueue(int id, long type, const char *text, int flags)
{
    struct message m = {type};
    strcpy(m.text, text);
    return msgsnd(id, &m, strlen(text), flags);
}
static void take(int id, long type, size_t size, int flags)
{
    struct message m = {0};
    errno = 0;
    long got = msgrcv(id, &m, size, type, flags);
    if (got < 0)
        printf("receive %ld: %s\n", type, errno_name(errno) + 0);
    else
        printf("receive %ld: %ld %.*s\n", type, m.type, (int)got, m.text);
}
static void messages(void)
{
    int status, id = msgget(IPC_PRIVATE, 0600);
    TRUE(id >= 0);
    SHOW(msgget(0x7a3b0001, 0600));
    SHOW(enqueue(id, 0, "x", 0));
    SHOW(enqueue(id, 3, "three", 0));
    SHOW(enqueue(id, 1, "one", 0));
    SHOW(enqueue(id, 2, "two", 0));
    SHOW(enqueue(id, 3, "drei", 0));
    struct msqid_ds ds;
    SHOW(msgctl(id, IPC_STAT, &ds));
    printf("%d %d %d\n", (int)ds.msg_qnum, (int)ds.msg_cbytes, (int)ds.msg_qbytes);
    TRUE(ds.msg_lspid == getpid());
    take(id, 2, 60, 0);
    take(id, -2, 60, 0);
    take(id, 3, 2, 0);
    take(id, 3, 2, MSG_NOERROR);
    take(id, 3, 60, MSG_EXCEPT | IPC_NOWAIT);
    take(id, 0, 60, IPC_NOWAIT);
    SHOW(msgrcv(id, &ds, -1, 0, IPC_NOWAIT));
    int n = 0;
    char block[4096] = {1};
    while (msgsnd(id, block, 4000, IPC_NOWAIT) == 0)
        n++;
    printf("%d fit: %s\n", n, errno_name(errno));
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        struct message m = {77, "late"};
        _exit(msgsnd(id, &m, 4, 0) ? 1 : 0);
    }
    static char room[8192];
    for (int i = 0; i < n; i++)
        TRUE(msgrcv(id, room, 8000, 0, 0) == 4000);
    take(id, 77, 60, 0);
    MUST(waitpid(child, &status, 0));
    show_status("sender", status);
    child = fork();
    if (!child) {
        long got = msgrcv(id, room, 8000, 0, 0);
        _exit(got == -1 && errno == EIDRM ? 3 : 4);
    }
    usleep(20000);
    SHOW(msgctl(id, IPC_RMID, NULL));
    MUST(waitpid(child, &status, 0));
    printf("receiver %d\n", WEXITSTATUS(status) == 3);
    SHOW(msgctl(id, IPC_STAT, &ds));
}

int main(void)
{
    semaphores();
    messages();
    return 0;
}
