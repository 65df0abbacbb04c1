#include "words.h"
#include <stdio.h>

int main(int count, char **words) {
    for (int i = 1; i < count; i++)
        printf("%s %.6f\n", words[i], words_weight(words[i]));
    if (count == 1)
        printf("%.6f\n", words_weight("without words"));
    return 0;
}
