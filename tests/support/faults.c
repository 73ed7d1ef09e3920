/* A file system that fails: preloaded, it makes the n-th call that changes a file in one folder fail, or be short.

   The folder is named by TASKFOLD_FAULTS. The process itself says when, through taskfold_fail. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { ONCE = 0, FROM_THEN_ON = 1, SHORT = 2 };

static long calls, fails_at;
static int error_number, mode;

/* From the n-th call on (0: never): fail with this error, once or always, or write half and then fail. */
void taskfold_fail(long n, int error, int how) {
    calls = 0;
    fails_at = n;
    error_number = error;
    mode = how;
}

long taskfold_calls(void) { return calls; }

static int is_ours_by_name(const char *path) {
    const char *folder = getenv("TASKFOLD_FAULTS");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_ours(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_ours_by_name(path);
}

/* Whether this call fails: 1 with an error, 2 by being short. */
static int fault(int can_be_short) {
    if (!fails_at) return 0;
    calls++;
    if (mode == SHORT) {
        if (calls == fails_at && can_be_short) return 2;
        if (calls == fails_at || calls == fails_at + 1) { errno = error_number; return 1; }
        return 0;
    }
    if (calls == fails_at || (mode == FROM_THEN_ON && calls > fails_at)) { errno = error_number; return 1; }
    return 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITING(name, parameters, arguments)                        \
    ssize_t name parameters {                                       \
        if (is_ours(descriptor)) {                                  \
            int what = fault(size > 1);                             \
            if (what == 1) return -1;                               \
            if (what == 2) size /= 2;                               \
        }                                                           \
        return NEXT(name) arguments;                                \
    }

WRITING(write, (int descriptor, const void *data, size_t size), (descriptor, data, size))
WRITING(pwrite, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size, at))
WRITING(pwrite64, (int descriptor, const void *data, size_t size, off64_t at), (descriptor, data, size, at))

#define CHANGING(name, parameters, arguments)                       \
    int name parameters {                                           \
        if (is_ours(descriptor) && fault(0)) return -1;             \
        return NEXT(name) arguments;                                \
    }

CHANGING(fsync, (int descriptor), (descriptor))
CHANGING(fdatasync, (int descriptor), (descriptor))
CHANGING(ftruncate, (int descriptor, off_t size), (descriptor, size))
CHANGING(ftruncate64, (int descriptor, off64_t size), (descriptor, size))

int rename(const char *from, const char *to) {
    if (is_ours_by_name(to) && fault(0)) return -1;
    return NEXT(rename)(from, to);
}
