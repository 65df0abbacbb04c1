/* The start of a program: arguments, environment, auxiliary vector, stack, standard descriptors. */
#include "guest.h"
#include <elf.h>
#include <sys/auxv.h>

extern char **environ;

int main(int argc, char **argv)
{
    TRUE(argc == 1 && argv[1] == NULL);
    TRUE(((uintptr_t)__builtin_frame_address(0) & 15) == 0);
    SAY("page %lu", getauxval(AT_PAGESZ));
    SAY("ticks %lu", getauxval(AT_CLKTCK));
    SAY("uid %lu %lu gid %lu %lu", getauxval(AT_UID), getauxval(AT_EUID), getauxval(AT_GID), getauxval(AT_EGID));
    SAY("secure %lu", getauxval(AT_SECURE));
    TRUE(getauxval(AT_RANDOM) != 0 && getauxval(AT_PHDR) != 0 && getauxval(AT_ENTRY) != 0);
    TRUE(getauxval(AT_PHNUM) > 3 && getauxval(AT_PHENT) == 56);
    const char *self = (const char *)getauxval(AT_EXECFN);
    TRUE(self && strstr(self, "environment"));
    TRUE(!strcmp((const char *)getauxval(AT_PLATFORM), "x86_64"));
    TRUE(getenv("PATH") != NULL);
    SHOW(fcntl(0, F_GETFD));
    SHOW(fcntl(1, F_GETFD));
    SHOW(fcntl(2, F_GETFD));
    SHOW(fcntl(3, F_GETFD));
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    int blocked = 0;
    for (int i = 1; i < 65; i++)
        blocked += sigismember(&set, i) == 1;
    SAY("blocked %d", blocked);
    return 0;
}
