/* setjmp and longjmp, deep recursion, function pointers, variadic calls, alloca: control flow of C. */
#include "guest.h"
#include <alloca.h>
#include <setjmp.h>

static jmp_buf env;
static int depth(int n)
{
    volatile char room[64];
    room[n & 63] = 1;
    if (n == 0)
        longjmp(env, 7);
    return depth(n - 1) + room[n & 63];
}
static long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static long ack(long m, long n) { return m == 0 ? n + 1 : n == 0 ? ack(m - 1, 1) : ack(m - 1, ack(m, n - 1)); }
static long sum(int n, ...)
{
    va_list ap;
    long total = 0;
    va_start(ap, n);
    for (int i = 0; i < n; i++)
        total += i % 2 ? (long)va_arg(ap, double) : va_arg(ap, long);
    va_end(ap);
    return total;
}
static int add(int a, int b) { return a + b; }
static int sub(int a, int b) { return a - b; }
static int mul(int a, int b) { return a * b; }
static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
static int classify(int n)
{
    switch (n) {
    case 0: return 10;
    case 1: return 21;
    case 2: return 32;
    case 3: return 43;
    case 4: return 54;
    case 5: return 65;
    case 9: return 99;
    case 1000: return 3;
    default: return -1;
    }
}

int main(void)
{
    volatile int rounds = 0;
    int r = setjmp(env);
    rounds++;
    SAY("setjmp %d", r);
    if (r == 0)
        depth(1000);
    SAY("rounds %d", rounds);
    SAY("fib %ld ack %ld sum %ld", fib(20), ack(2, 50), sum(6, 1L, 2.5, 3L, 4.5, 5L, 6.5));
    int (*const table[])(int, int) = {add, sub, mul};
    for (int i = 0; i < 3; i++)
        SAY("table %d", table[i](20, 3));
    int v[] = {5, 3, 9, -1, 0, 7, 3};
    qsort(v, 7, sizeof *v, compare);
    for (int i = 0; i < 7; i++)
        printf("%d ", v[i]);
    SAY(" ");
    for (int i = -1; i < 11; i++)
        printf("%d ", classify(i));
    SAY("%d", classify(1000));
    char *p = alloca(5000);
    memset(p, 'q', 4999);
    p[4999] = 0;
    SAY("alloca %zu", strlen(p));
    static const void *labels[] = {&&one, &&two, &&three};
    int at = 2;
    goto *labels[at];
one:
    SAY("one");
    return 0;
two:
    SAY("two");
    goto *labels[0];
three:
    SAY("three");
    goto *labels[1];
}
