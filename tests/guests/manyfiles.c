/* A million files, for as long as the step allows it: an error in the end or none, never more. In Cooper only. */
#include "guest.h"

int main(int count, char **arguments)
{
    long wanted = count > 1 ? atol(arguments[1]) : 1000000, made = 0;
    char name[64];
    mkdir("/many", 0755);
    for (; made < wanted; made++) {
        if (made % 1000 == 0) {
            snprintf(name, sizeof name, "/many/%ld", made / 1000);
            mkdir(name, 0755);
        }
        snprintf(name, sizeof name, "/many/%ld/%ld", made / 1000, made);
        int fd = open(name, O_CREAT | O_WRONLY, 0644);
        if (fd < 0 || write(fd, name, 8) != 8) {
            SAY("ended: %s", errno_name(errno));
            break;
        }
        close(fd);
    }
    SAY("made %s", made == wanted ? "all" : "some");
    return 0;
}
