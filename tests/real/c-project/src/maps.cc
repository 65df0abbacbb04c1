#include <iostream>
#include <map>
#include <stdexcept>
#include <string>

int main() {
    std::map<int, std::string> names{{1, "one"}};
    try {
        names.at(2);
    } catch (const std::out_of_range &) {
        std::cout << "caught beside " << names.at(1) << '\n';
    }
}
