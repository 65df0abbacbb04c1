/* Counts vowels and takes the square root of it, so that the project has something to link with libm. */
double words_weight(const char *word);
