/* Preloaded into a process: counts the system calls that change what is on a disk, and at the one that was asked for
   ends the process (before the call, or after half of a write), or lets the disk be full from then on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, KILL, TEAR, FULL };
static volatile long count, at;
static volatile int mode;

void fault_arm(long when, int how) { count = 0; at = when; mode = how; }
long fault_count(void) { return count; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* Whether the call is to fail for want of room (only those that take room do). */
static int met(int takes_room) {
    if (mode == OFF) return 0;
    long now = __sync_add_and_fetch(&count, 1);
    if (mode == KILL && now == at) die();
    if (mode == TEAR && now == at && !takes_room) die();
    if (mode == FULL && now >= at && takes_room) { errno = ENOSPC; return 1; }
    return 0;
}

static int is_file(int fd) {
    struct stat held;
    return mode != OFF && fstat(fd, &held) == 0 && S_ISREG(held.st_mode);
}

static int torn(void) { return mode == TEAR && count == at; }

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    if (!is_file(fd)) return real(fd, bytes, size);
    if (met(1)) return -1;
    if (torn()) { real(fd, bytes, size / 2); die(); }
    return real(fd, bytes, size);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    if (!is_file(fd)) return real(fd, parts, n);
    if (met(1)) return -1;
    if (torn()) { if (n) real(fd, parts, 1); die(); }
    return real(fd, parts, n);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t where) {
    REAL(pwrite);
    if (!is_file(fd)) return real(fd, bytes, size, where);
    if (met(1)) return -1;
    if (torn()) { real(fd, bytes, size / 2, where); die(); }
    return real(fd, bytes, size, where);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t where) {
    REAL(pwrite64);
    if (!is_file(fd)) return real(fd, bytes, size, where);
    if (met(1)) return -1;
    if (torn()) { real(fd, bytes, size / 2, where); die(); }
    return real(fd, bytes, size, where);
}
int ftruncate(int fd, off_t size) { REAL(ftruncate); if (met(0)) return -1; if (torn()) die(); return real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); if (met(0)) return -1; if (torn()) die(); return real(fd, size); }
int fsync(int fd) { REAL(fsync); if (met(1)) return -1; if (torn()) die(); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); if (met(1)) return -1; if (torn()) die(); return real(fd); }
int rename(const char *from, const char *to) { REAL(rename); if (met(0)) return -1; return real(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat); if (met(0)) return -1; return real(a, from, b, to);
}
int unlink(const char *path) { REAL(unlink); if (met(0)) return -1; return real(path); }
int unlinkat(int dir, const char *path, int flags) { REAL(unlinkat); if (met(0)) return -1; return real(dir, path, flags); }
int rmdir(const char *path) { REAL(rmdir); if (met(0)) return -1; return real(path); }
int mkdir(const char *path, mode_t bits) { REAL(mkdir); if (met(1)) return -1; if (torn()) die(); return real(path, bits); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    ssize_t (*real)(int, int, off64_t *, size_t) = dlsym(RTLD_NEXT, "sendfile64");
    if (!is_file(out)) return real(out, in, offset, size);
    if (met(1)) return -1;
    if (torn()) { real(out, in, offset, size / 2); die(); }
    return real(out, in, offset, size);
}

#define MODE_OF(flags, bits)                                                                                         \
    mode_t bits = 0;                                                                                                 \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); bits = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) {
    REAL(open); MODE_OF(flags, bits)
    if ((flags & O_CREAT) && met(1)) return -1;
    if ((flags & O_CREAT) && torn()) die();
    return real(path, flags, bits);
}
int open64(const char *path, int flags, ...) {
    REAL(open64); MODE_OF(flags, bits)
    if ((flags & O_CREAT) && met(1)) return -1;
    if ((flags & O_CREAT) && torn()) die();
    return real(path, flags, bits);
}
int openat(int dir, const char *path, int flags, ...) {
    REAL(openat); MODE_OF(flags, bits)
    if ((flags & O_CREAT) && met(1)) return -1;
    if ((flags & O_CREAT) && torn()) die();
    return real(dir, path, flags, bits);
}
