/* Broken programs: what exec answers to each, as the kernel checks an ELF file. A child says how it ended. */
#include "guest.h"
#include <elf.h>
#include <stddef.h>

static struct { Elf64_Ehdr e; Elf64_Phdr p[4]; unsigned char code[64]; } good;

/* A program of one segment that ends with 42 by raw system calls. */
static void reset(void)
{
    static const unsigned char exit42[] = {0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05};
    memset(&good, 0, sizeof good);
    memcpy(good.e.e_ident, "\177ELF\2\1\1", 7);
    good.e.e_type = ET_EXEC;
    good.e.e_machine = EM_X86_64;
    good.e.e_version = 1;
    good.e.e_entry = 0x400000 + offsetof(__typeof__(good), code);
    good.e.e_phoff = offsetof(__typeof__(good), p);
    good.e.e_ehsize = sizeof good.e;
    good.e.e_phentsize = sizeof(Elf64_Phdr);
    good.e.e_phnum = 1;
    good.p[0] = (Elf64_Phdr){PT_LOAD, PF_R | PF_X, 0, 0x400000, 0x400000, sizeof good, sizeof good, 4096};
    memcpy(good.code, exit42, sizeof exit42);
}

static void try_bytes(const char *what, const void *bytes, size_t size)
{
    int status, p[2], e = 0;
    unlink("prog");
    int fd = (int)MUST(open("prog", O_CREAT | O_WRONLY, 0755));
    MUST(write(fd, bytes, size));
    close(fd);
    MUST(pipe2(p, O_CLOEXEC));
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        execl("./prog", "prog", NULL);
        e = errno;
        (void)!write(p[1], &e, sizeof e);
        _exit(99);
    }
    close(p[1]);
    (void)!read(p[0], &e, sizeof e);
    close(p[0]);
    MUST(waitpid(pid, &status, 0));
    if (e)
        SAY("%s: %s", what, errno_name(e));
    else
        show_status(what, status & ~0x80);
}
#define TRY(what, ...) do { reset(); __VA_ARGS__; try_bytes(what, &good, sizeof good); } while (0)

int main(void)
{
    scratch();
    TRY("good", (void)0);
    reset();
    try_bytes("only the magic", &good, 4);
    try_bytes("half a header", &good, 32);
    try_bytes("a header alone", &good, sizeof good.e);
    try_bytes("half a program header", &good, sizeof good.e + 20);
    try_bytes("nothing", &good, 0);
    TRY("for arm64", good.e.e_machine = EM_AARCH64);
    TRY("for a 32-bit machine", good.e.e_machine = EM_ARM, good.e.e_ident[EI_CLASS] = ELFCLASS32);
    TRY("an object file", good.e.e_type = ET_REL);
    TRY("a core file", good.e.e_type = ET_CORE);
    TRY("no program headers", good.e.e_phnum = 0);
    TRY("odd header size", good.e.e_phentsize = 55);
    TRY("too many headers", good.e.e_phnum = 65535);
    TRY("headers beyond the file", good.e.e_phoff = 1 << 20);
    TRY("headers far beyond the file", good.e.e_phoff = 1ull << 62);
    TRY("a missing interpreter", good.e.e_phnum = 2; good.p[1] = (Elf64_Phdr){PT_INTERP, PF_R,
        offsetof(__typeof__(good), code) + 16, 0, 0, 13, 13, 1}; memcpy(good.code + 16, "/not/a/loader", 14);
        good.p[1].p_filesz = 14);
    TRY("an interpreter without an end", good.e.e_phnum = 2; good.p[1] = (Elf64_Phdr){PT_INTERP, PF_R,
        offsetof(__typeof__(good), code) + 16, 0, 0, 5, 5, 1}; memcpy(good.code + 16, "/dev/null", 10));
    TRY("an interpreter of no length", good.e.e_phnum = 2; good.p[1] = (Elf64_Phdr){PT_INTERP, PF_R, 0, 0, 0, 0, 0, 1});
    TRY("an interpreter of absurd length", good.e.e_phnum = 2;
        good.p[1] = (Elf64_Phdr){PT_INTERP, PF_R, 0, 0, 0, 1ull << 40, 0, 1});
    TRY("big-endian is not looked at", good.e.e_ident[EI_DATA] = ELFDATA2MSB);
    TRY("position independent", good.e.e_type = ET_DYN; good.e.e_entry -= 0x400000; good.p[0].p_vaddr = 0;
        good.p[0].p_paddr = 0);
    TRY("memory beyond the file", good.p[0].p_memsz = 1 << 20; good.p[0].p_flags |= PF_W);
    TRY("an executable stack is asked for", good.e.e_phnum = 2; good.p[1] = (Elf64_Phdr){PT_GNU_STACK,
        PF_R | PF_W | PF_X, 0, 0, 0, 0, 0, 16});
    TRY("unknown headers are skipped", good.e.e_phnum = 2; good.p[1] = (Elf64_Phdr){0x60000000, 7, 1, 2, 3, 4, 5, 6});
    TRY("an entry that is mapped nowhere", good.e.e_entry = 0x10);
    TRY("two segments side by side", good.e.e_phnum = 2; good.p[1] = (Elf64_Phdr){PT_LOAD, PF_R | PF_W, 0, 0x600000,
        0x600000, sizeof good, 3 * 4096, 4096});
    TRY("a segment with an odd offset", good.p[0].p_vaddr += 8);
    return 0;
}
