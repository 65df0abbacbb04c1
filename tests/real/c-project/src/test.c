#include "words.h"

int main(void) { return words_weight("aaaa") == 2.0 && words_weight("xyz") == 0.0 ? 0 : 1; }
