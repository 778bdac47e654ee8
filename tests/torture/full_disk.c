/* A disk that fails: from the FAULT_AT-th write below FAULT_BELOW on, every one of them ends with the errno FAULT_ERRNO. Preloaded into
 * the processes of a command. A write is whatever takes room or must reach the disk: write, ftruncate that lengthens, fsync, rename,
 * mkdir, link, making a file. What frees room goes through. FAULT_COUNT names a file whose first eight bytes count the writes, of all
 * processes together; FAULT_LOG, which need not be, one that tells them, a line each.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static size_t length;
static long at;
static int number, log_descriptor = -1;
static _Atomic int64_t *count;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULT_BELOW"), *file = getenv("FAULT_COUNT");
    if (!folder || !file) return;
    snprintf(below, sizeof below, "%s", folder);
    length = strlen(below);
    at = atol(getenv("FAULT_AT"));
    number = atoi(getenv("FAULT_ERRNO"));
    if (getenv("FAULT_LOG")) log_descriptor = open(getenv("FAULT_LOG"), O_WRONLY | O_APPEND | O_CLOEXEC);
    int descriptor = open(file, O_RDWR);
    void *page = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (page != MAP_FAILED) count = page;
}

static _Thread_local char seen[PATH_MAX]; /* the path that is_below last agreed to */

static int is_below(const char *path) {
    if (!count || strncmp(path, below, length) || (path[length] != '/' && path[length])) return 0;
    snprintf(seen, sizeof seen, "%s", path + length);
    return 1;
}

static int is_path_below(int folder, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    if (!count) return 0;
    if (path[0] == '/') return is_below(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, whole, PATH_MAX);
        if (size < 0) return 0;
        whole[size] = 0;
    }
    strcat(whole, "/");
    strncat(whole, path, PATH_MAX - 1);
    return is_below(whole);
}

static int is_descriptor_below(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!count) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

static int fails(const char *call) {
    int64_t n = atomic_fetch_add(count, 1) + 1;
    if (log_descriptor >= 0) dprintf(log_descriptor, "%s %s\n", call, seen);
    if (n < at) return 0;
    errno = number;
    return 1;
}

static int is_absent(int folder, const char *path) {
    struct stat found;
    int saved = errno, absent = fstatat(folder, path, &found, AT_SYMLINK_NOFOLLOW) != 0;
    errno = saved;
    return absent;
}

ssize_t write(int d, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d, data, n);
}
ssize_t writev(int d, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d, parts, n);
}
ssize_t pwrite(int d, const void *data, size_t n, off_t where) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d, data, n, where);
}
ssize_t pwrite64(int d, const void *data, size_t n, off64_t where) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d, data, n, where);
}
ssize_t copy_file_range(int in, off64_t *from, int d, off64_t *to, size_t n, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(in, from, d, to, n, flags);
}
ssize_t sendfile(int d, int in, off_t *from, size_t n) {
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d, in, from, n);
}
ssize_t sendfile64(int d, int in, off64_t *from, size_t n) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d, in, from, n);
}
static int lengthens(int d, off64_t size) {
    struct stat found;
    return fstat(d, &found) == 0 && size > found.st_size;
}
int ftruncate(int d, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    return is_descriptor_below(d) && lengthens(d, size) && fails(__func__) ? -1 : real(d, size);
}
int ftruncate64(int d, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    return is_descriptor_below(d) && lengthens(d, size) && fails(__func__) ? -1 : real(d, size);
}
int posix_fallocate(int d, off_t where, off_t n) {
    REAL(int, "posix_fallocate", int, off_t, off_t);
    return is_descriptor_below(d) && fails(__func__) ? number : real(d, where, n);
}
int fsync(int d) {
    REAL(int, "fsync", int);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d);
}
int fdatasync(int d) {
    REAL(int, "fdatasync", int);
    return is_descriptor_below(d) && fails(__func__) ? -1 : real(d);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return is_path_below(AT_FDCWD, to) && fails(__func__) ? -1 : real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return is_path_below(b, to) && fails(__func__) ? -1 : real(a, from, b, to);
}
int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    return is_path_below(AT_FDCWD, to) && fails(__func__) ? -1 : real(from, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return is_path_below(AT_FDCWD, path) && is_absent(AT_FDCWD, path) && fails(__func__) ? -1 : real(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    return is_path_below(folder, path) && is_absent(folder, path) && fails(__func__) ? -1 : real(folder, path, mode);
}

static int is_made(int folder, const char *path, int flags) {
    return (flags & O_CREAT) && is_path_below(folder, path) && is_absent(folder, path);
}
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        return is_made(AT_FDCWD, path, flags) && fails(__func__) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        return is_made(folder, path, flags) && fails(__func__) ? -1 : real(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)
FILE *fopen(const char *path, const char *how) {
    REAL(FILE *, "fopen", const char *, const char *);
    return how[0] != 'r' && is_path_below(AT_FDCWD, path) && is_absent(AT_FDCWD, path) && fails(__func__) ? NULL : real(path, how);
}
FILE *fopen64(const char *path, const char *how) {
    REAL(FILE *, "fopen64", const char *, const char *);
    return how[0] != 'r' && is_path_below(AT_FDCWD, path) && is_absent(AT_FDCWD, path) && fails(__func__) ? NULL : real(path, how);
}

/* A disk on which writes fail for want of room says so when it is asked. */
#define STATVFS(name, type) \
    int name(const char *path, struct type *found) { \
        REAL(int, #name, const char *, struct type *); \
        int code = real(path, found); \
        if (!code && is_path_below(AT_FDCWD, path) && number == ENOSPC && atomic_load(count) >= at) found->f_bavail = found->f_bfree = 0; \
        return code; \
    }
STATVFS(statvfs, statvfs)
STATVFS(statvfs64, statvfs64)
