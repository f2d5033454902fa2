/* Stands between a process and the C library, by LD_PRELOAD, and breaks what it writes below one folder at the n-th operation.
 *
 * Nothing happens until `fault_arm`. Operations are counted from 1, in all threads together:
 *   w write, pwrite, writev, fwrite, sendfile, copy_file_range    s fsync, fdatasync    c open that may create    t truncate
 *   r rename    l link, symlink    u unlink    m mkdir    d rmdir
 * The clock that `fault_clock` shifts is the real-time clock of this process alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 1, KILL, KILL_HALF, FAIL, FAIL_ONCE, SHORT };  /* SHORT: half of a write, then FAIL */
enum { PASS, HALF, HALF_THEN_KILL, REFUSE };

static int mode, error;
static long at;
static char folder[PATH_MAX], spared[32];  /* kinds that never fail: unlink on a full disk */
static atomic_long count;
static char kinds[1 << 16];
static double shift;

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

void fault_arm(const char *below, int mode_, long at_, int error_, const char *spared_) {
    snprintf(folder, sizeof folder, "%s", below);
    snprintf(spared, sizeof spared, "%s", spared_);
    at = at_;
    error = error_;
    atomic_store(&count, 0);
    mode = mode_;
}
void fault_disarm(void) { mode = 0; }
long fault_count(void) { return count; }
const char *fault_kinds(void) { return kinds; }  /* one letter for each operation */
void fault_clock(double seconds) { shift = seconds; }

static int below(int directory, const char *path) {
    char base[PATH_MAX], link[64];
    size_t length = strlen(folder);
    if (path && path[0] == '/') return !strncmp(path, folder, length);
    snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
    ssize_t size = readlink(link, base, sizeof base - 1);
    return size >= (ssize_t)length && !strncmp(base, folder, length);
}

static int decide(char kind, int directory, const char *path) {
    int saved = errno;
    if (!mode || !below(directory, path)) { errno = saved; return PASS; }
    long n = ++count;
    if (n < (long)sizeof kinds) kinds[n - 1] = kind;
    errno = saved;
    if (mode == KILL && n == at) { kill(getpid(), SIGKILL); pause(); }
    if (mode == KILL_HALF && n == at) return HALF_THEN_KILL;
    if (mode == SHORT && n == at && kind == 'w') return HALF;
    int refuse = mode == FAIL_ONCE ? n == at : (mode == FAIL || mode == SHORT) && n >= at;
    if (!refuse || strchr(spared, kind)) return PASS;
    errno = error;
    return REFUSE;
}

/* `part` makes half of the call, `whole` all of it. */
#define BREAK(kind, directory, path, part, whole)                                                   \
    switch (decide(kind, directory, path)) {                                                        \
        case REFUSE: return -1;                                                                     \
        case HALF: return part;                                                                     \
        case HALF_THEN_KILL: (void)!(part); kill(getpid(), SIGKILL); pause();                       \
    }                                                                                               \
    return whole

ssize_t write(int fd, const void *data, size_t size) { REAL(write); BREAK('w', fd, 0, real(fd, data, size / 2), real(fd, data, size)); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t to) { REAL(pwrite); BREAK('w', fd, 0, real(fd, data, size / 2, to), real(fd, data, size, to)); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t to) { REAL(pwrite64); BREAK('w', fd, 0, real(fd, data, size / 2, to), real(fd, data, size, to)); }
ssize_t writev(int fd, const struct iovec *parts, int n) { REAL(writev); BREAK('w', fd, 0, real(fd, parts, (n + 1) / 2), real(fd, parts, n)); }
ssize_t sendfile(int out, int in, off_t *from, size_t size) {
    static ssize_t (*real)(int, int, off_t *, size_t);
    if (!real) real = (ssize_t (*)(int, int, off_t *, size_t))dlsym(RTLD_NEXT, "sendfile");
    BREAK('w', out, 0, real(out, in, from, size / 2), real(out, in, from, size));
}
ssize_t sendfile64(int out, int in, off64_t *from, size_t size) { return sendfile(out, in, from, size); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    BREAK('w', out, 0, real(in, from, out, to, size / 2, flags), real(in, from, out, to, size, flags));
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {  /* NumPy writes arrays so; the C library's own write is not seen here */
    REAL(fwrite);
    if (!mode || !below(fileno(file), 0)) return real(data, size, n, file);
    switch (decide('w', fileno(file), 0)) {
        case REFUSE: return 0;
        case HALF: n = real(data, size, n / 2, file); fflush(file); errno = error; return n;
        case HALF_THEN_KILL: real(data, size, n / 2, file); fflush(file); kill(getpid(), SIGKILL); pause();
    }
    n = real(data, size, n, file);
    fflush(file);
    return n;
}

#define PLAIN(kind, name, parameters, arguments, directory, path) \
    int name parameters { REAL(name); BREAK(kind, directory, path, 0, real arguments); }

PLAIN('s', fsync, (int fd), (fd), fd, 0)
PLAIN('s', fdatasync, (int fd), (fd), fd, 0)
PLAIN('t', ftruncate, (int fd, off_t size), (fd, size), fd, 0)
PLAIN('t', ftruncate64, (int fd, off64_t size), (fd, size), fd, 0)
PLAIN('t', truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path)
PLAIN('t', truncate64, (const char *path, off64_t size), (path, size), AT_FDCWD, path)
PLAIN('r', rename, (const char *from, const char *to), (from, to), AT_FDCWD, to)
PLAIN('r', renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to)
PLAIN('r', renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags), b, to)
PLAIN('l', link, (const char *from, const char *to), (from, to), AT_FDCWD, to)
PLAIN('l', linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), b, to)
PLAIN('l', symlink, (const char *from, const char *to), (from, to), AT_FDCWD, to)
PLAIN('u', unlink, (const char *path), (path), AT_FDCWD, path)
PLAIN(flags & AT_REMOVEDIR ? 'd' : 'u', unlinkat, (int fd, const char *path, int flags), (fd, path, flags), fd, path)
PLAIN('m', mkdir, (const char *path, mode_t mode_), (path, mode_), AT_FDCWD, path)
PLAIN('m', mkdirat, (int fd, const char *path, mode_t mode_), (fd, path, mode_), fd, path)
PLAIN('d', rmdir, (const char *path), (path), AT_FDCWD, path)

#define OPEN(name, parameters, arguments, directory)                                                \
    int name parameters {                                                                           \
        REAL(name);                                                                                 \
        va_list rest;                                                                               \
        va_start(rest, flags);                                                                      \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                     \
        va_end(rest);                                                                               \
        if (!(flags & O_CREAT)) return real arguments;                                              \
        BREAK('c', directory, path, -1, real arguments);                                            \
    }
OPEN(open, (const char *path, int flags, ...), (path, flags, bits), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, bits), AT_FDCWD)
OPEN(openat, (int fd, const char *path, int flags, ...), (fd, path, flags, bits), fd)
OPEN(openat64, (int fd, const char *path, int flags, ...), (fd, path, flags, bits), fd)

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(which, now);
    if (which == CLOCK_REALTIME) now->tv_sec += (time_t)shift;
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec += (time_t)shift;
    return result;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
