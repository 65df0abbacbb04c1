/* Reading directories: all entries once, kinds, positions, while entries come and go. */
#include "guest.h"
#include <dirent.h>

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(void)
{
    char path[300];
    scratch();
    MUST(mkdir("kinds", 0755));
    MUST(chdir("kinds"));
    put("file", "");
    MUST(mkdir("dir", 0755));
    MUST(symlink("file", "link"));
    MUST(mkfifo("fifo", 0644));
    DIR *d = opendir(".");
    char *names[16];
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        MUST(lstat(e->d_name, &st));
        char line[300];
        snprintf(line, sizeof line, "%s type %d inode %s", e->d_name, e->d_type, e->d_ino == st.st_ino ? "ok" : "NO");
        names[n++] = strdup(line);
    }
    qsort(names, n, sizeof *names, by_name);
    for (int i = 0; i < n; i++)
        SAY("%s", names[i]);
    rewinddir(d);
    int again = 0;
    while (readdir(d))
        again++;
    SAY("after rewind %d", again);
    closedir(d);

    MUST(chdir(".."));
    MUST(mkdir("many", 0755));
    for (int i = 0; i < 1000; i++) {
        snprintf(path, sizeof path, "many/entry-with-a-longer-name-%04d", i);
        close((int)MUST(open(path, O_CREAT | O_WRONLY, 0644)));
    }
    char seen[1000] = {0};
    int twice = 0, total = 0;
    d = opendir("many");
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        int i = atoi(e->d_name + 25);
        twice += seen[i]++;
        total++;
    }
    closedir(d);
    SAY("total %d twice %d", total, twice);

    /* As rm -r does: remove while reading; everything is found. */
    int left = 0;
    d = opendir("many");
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "many/%s", e->d_name);
        MUST(unlink(path));
    }
    rewinddir(d);
    while (readdir(d))
        left++;
    SAY("left %d", left);
    SHOW(rmdir("many"));
    SHOW(readdir(d) == NULL);
    closedir(d);

    char b[16];
    int fd = (int)MUST(open("kinds", O_RDONLY | O_DIRECTORY));
    SHOW(syscall(SYS_getdents64, fd, b, sizeof b));
    SHOW(syscall(SYS_getdents64, open("kinds/file", O_RDONLY), b, sizeof b));
    SHOW(syscall(SYS_getdents64, -1, b, sizeof b));
    d = opendir("kinds");
    readdir(d);
    long at = telldir(d);
    struct dirent *e = readdir(d);
    char second[256];
    strcpy(second, e->d_name);
    readdir(d);
    seekdir(d, at);
    TRUE(!strcmp(readdir(d)->d_name, second));
    return 0;
}
