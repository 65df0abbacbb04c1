#include "words.h"
#include <math.h>
#include <string.h>

double words_weight(const char *word) {
    unsigned vowels = 0;
    for (; *word; word++)
        vowels += strchr("aeiou", *word) != NULL;
    return sqrt(vowels);
}
