#include <stdio.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

int main(void) {
    int numbers[] = {5, 3, 9, 1, 7};
    qsort(numbers, 5, sizeof *numbers, ascending);
    for (int i = 0; i < 5; i++)
        printf("%d\n", numbers[i]);
    return 0;
}
