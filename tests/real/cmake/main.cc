#include "shapes.h"
#include <iostream>
#include <string>

int main(int count, char **words) {
    long width = count > 1 ? std::stol(words[1]) : 1, height = count > 2 ? std::stol(words[2]) : 1;
    std::cout << rectangle(width, height) << '\n';
}
