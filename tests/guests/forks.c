/* Forks without end; the harness gives it a limit of processes. Runs in Cooper only. */
#include "guest.h"

int main(void)
{
    for (;;) {
        pid_t pid = fork();
        if (pid < 0) {
            SAY("fork: %s", errno_name(errno));
            kill(0, SIGKILL);
        }
    }
}
