/*
 * Calls that do less than they were asked to, as they may: preloaded into a process, it makes reads and writes short or interrupted, at random,
 * and getrandom too. What it did is written to a file at the end: for each call how often it was seen, cut short and interrupted.
 *
 * SHIM_SEED: which random numbers; 0 for none, and then it counts alone. SHIM_REPORT: the file.
 *
 * It sees what goes through the C library alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { READ, WRITE, PREAD, PWRITE, READV, WRITEV, GETRANDOM, COPY_FILE_RANGE, CALLS };
static const char *const names[CALLS] = {
    "read", "write", "pread64", "pwrite64", "readv", "writev", "getrandom", "copy_file_range",
};
static struct {
    unsigned long seen, cut, interrupted;
} counts[CALLS];
static uint64_t state;

__attribute__((constructor)) static void begin(void) {
    const char *seed = getenv("SHIM_SEED");
    state = seed ? strtoull(seed, NULL, 10) : 0;
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("SHIM_REPORT");
    char text[512];
    int len = 0;
    if (!path) return;
    for (int i = 0; i < CALLS; i++)
        len += snprintf(text + len, sizeof text - len, "%s %lu %lu %lu\n", names[i], counts[i].seen, counts[i].cut,
                        counts[i].interrupted);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0) {
        syscall(SYS_write, fd, text, len);
        close(fd);
    }
}

/* How much of what was asked for will be done; -1 if the call is interrupted before anything is. Standard streams are left alone. */
static ssize_t allowed(enum call call, int fd, size_t len) {
    if (fd >= 0 && fd <= 2) return len;
    __atomic_add_fetch(&counts[call].seen, 1, __ATOMIC_RELAXED);
    if (state == 0 || len == 0) return len;
    uint64_t x = __atomic_add_fetch(&state, 0x9E3779B97F4A7C15, __ATOMIC_RELAXED);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    x ^= x >> 31;
    if (x % 4 == 0) {
        __atomic_add_fetch(&counts[call].interrupted, 1, __ATOMIC_RELAXED);
        errno = EINTR;
        return -1;
    }
    if (x % 4 == 1 || len == 1) return len;
    __atomic_add_fetch(&counts[call].cut, 1, __ATOMIC_RELAXED);
    /* Often by a single byte, or down to one. */
    switch ((x >> 8) % 4) {
    case 0: return 1;
    case 1: return len - 1;
    default: return 1 + (x >> 16) % (len - 1);
    }
}

/* Past the page cache, memory, place and length are of whole sectors; what comes is so, too. */
static int is_direct(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DIRECT);
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))
#define LESS(call, fd, len)                        \
    ssize_t less = allowed(call, fd, len);         \
    if (less < 0) return -1

ssize_t read(int fd, void *to, size_t len) {
    LESS(READ, fd, len);
    return REAL(ssize_t, "read", int, void *, size_t)(fd, to, less);
}

ssize_t write(int fd, const void *from, size_t len) {
    LESS(WRITE, fd, len);
    return REAL(ssize_t, "write", int, const void *, size_t)(fd, from, less);
}

ssize_t pread64(int fd, void *to, size_t len, off64_t at) {
    LESS(PREAD, fd, len);
    if (is_direct(fd) && (size_t)less < len) less = less < 512 ? 512 : less - less % 512;
    return REAL(ssize_t, "pread64", int, void *, size_t, off64_t)(fd, to, less, at);
}

ssize_t pread(int fd, void *to, size_t len, off_t at) {
    return pread64(fd, to, len, at);
}

ssize_t pwrite64(int fd, const void *from, size_t len, off64_t at) {
    LESS(PWRITE, fd, len);
    return REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, from, less, at);
}

ssize_t pwrite(int fd, const void *from, size_t len, off_t at) {
    return pwrite64(fd, from, len, at);
}

/* Of several pieces, the first alone. */
ssize_t readv(int fd, const struct iovec *pieces, int count) {
    LESS(READV, fd, count > 0 ? pieces[0].iov_len : 0);
    return count > 0 ? REAL(ssize_t, "read", int, void *, size_t)(fd, pieces[0].iov_base, less) : 0;
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    LESS(WRITEV, fd, count > 0 ? pieces[0].iov_len : 0);
    return count > 0 ? REAL(ssize_t, "write", int, const void *, size_t)(fd, pieces[0].iov_base, less) : 0;
}

ssize_t getrandom(void *to, size_t len, unsigned int flags) {
    LESS(GETRANDOM, -1, len);
    return REAL(ssize_t, "getrandom", void *, size_t, unsigned int)(to, less, flags);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t len, unsigned int flags) {
    LESS(COPY_FILE_RANGE, from, len);
    return REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned int)(
        from, from_at, to, to_at, less, flags);
}
