// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a process, it counts the calls that change what lies below one folder, and
// disturbs the one it is told to: fails it, fails everything from it on, or kills the process.
// Counter and log are shared with forked children, so that a parent reads what a killed one did.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum action { COUNT, FAIL_ONCE, FAIL_ON, KILL };

struct shared {
  long count;       // calls so far
  double first;     // when the first one came [s], CLOCK_MONOTONIC
  char last[4096];  // the last one: its name and path
  char disturbed[4096];
};

static struct shared* shared;
static char folder[PATH_MAX];
static long wanted;
static int action, error;

struct shared* disturb_arm(const char* path, long call, int what, int number) {
  if (!shared)
    shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memset(shared, 0, sizeof *shared);
  snprintf(folder, sizeof folder, "%s", path);
  wanted = call;
  action = what;
  error = number;
  return shared;
}

// Whether a path, relative to a directory's descriptor, lies below the folder; writes it out.
static int below(int directory, const char* path, char* whole) {
  if (!*folder) return 0;
  if (path[0] == '/') {
    snprintf(whole, PATH_MAX, "%s", path);
  } else {
    char link[64], base[PATH_MAX];
    if (directory == AT_FDCWD)
      snprintf(link, sizeof link, "/proc/self/cwd");
    else
      snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t size = readlink(link, base, sizeof base - 1);
    if (size < 0) return 0;
    base[size] = 0;
    if (snprintf(whole, PATH_MAX, *path ? "%s/%s" : "%s", base, path) >= PATH_MAX) return 0;
  }
  size_t size = strlen(folder);
  return !strncmp(whole, folder, size) && (whole[size] == '/' || !whole[size]);
}

static int open_below(int descriptor, char* whole) {
  return below(descriptor, "", whole);
}

// Count a call; return 1 where it has to fail, with errno set, -1 where the process has to die.
static int disturbed(const char* name, const char* path, int takes_room) {
  int saved = errno;
  if (!shared->count++) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    shared->first = now.tv_sec + now.tv_nsec / 1e9;
  }
  snprintf(shared->last, sizeof shared->last, "%s %s", name, path);
  int here = shared->count == wanted;
  if (here) memcpy(shared->disturbed, shared->last, sizeof shared->last);
  errno = saved;
  if (action == KILL && here) return -1;
  if ((action == FAIL_ONCE && here) || (action == FAIL_ON && wanted && shared->count >= wanted)) {
    if (error == ENOSPC && !takes_room) return 0;  // a full disk lets go of files
    errno = error;
    return 1;
  }
  return 0;
}

static void die(void) {
  syscall(SYS_kill, getpid(), SIGKILL);
}

#define REAL(name, ...)          \
  static __typeof__(name)* real; \
  if (!real) real = (__typeof__(name)*)dlsym(RTLD_NEXT, #name)

#define GUARD(inside, title, path, takes_room)      \
  if (inside) {                                     \
    int found = disturbed(title, path, takes_room); \
    if (found < 0) die();                           \
    if (found) return -1;                           \
  }

#define CHANGES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & (O_CREAT | O_TRUNC)))

static mode_t mode_of(int flags, va_list list) {
  return flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0;
}

#define OPEN(function)                                                      \
  int function(const char* path, int flags, ...) {                          \
    REAL(function);                                                         \
    char whole[PATH_MAX];                                                   \
    va_list list;                                                           \
    va_start(list, flags);                                                  \
    mode_t mode = mode_of(flags, list);                                     \
    va_end(list);                                                           \
    GUARD(CHANGES(flags) && below(AT_FDCWD, path, whole), "open", whole, 1) \
    return real(path, flags, mode);                                         \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                                     \
  int function(int directory, const char* path, int flags, ...) {            \
    REAL(function);                                                          \
    char whole[PATH_MAX];                                                    \
    va_list list;                                                            \
    va_start(list, flags);                                                   \
    mode_t mode = mode_of(flags, list);                                      \
    va_end(list);                                                            \
    GUARD(CHANGES(flags) && below(directory, path, whole), "open", whole, 1) \
    return real(directory, path, flags, mode);                               \
  }
OPENAT(openat)
OPENAT(openat64)

// A write that is disturbed has done half of its work, as on a real disk.
#define TORN(path, title, half)                                                \
  int found = disturbed(title, path, 1);                                       \
  if (found < 0) {                                                             \
    if (size > 1) {                                                            \
      ssize_t done = (half);                                                   \
      (void)done;                                                              \
    }                                                                          \
    die();                                                                     \
  }                                                                            \
  if (found) {                                                                 \
    if (shared->count == wanted && error == ENOSPC && size > 1) return (half); \
    errno = error;                                                             \
    return -1;                                                                 \
  }

ssize_t write(int descriptor, const void* data, size_t size) {
  REAL(write);
  char whole[PATH_MAX];
  if (open_below(descriptor, whole)) {
    TORN(whole, "write", real(descriptor, data, size / 2))
  }
  return real(descriptor, data, size);
}

#define PWRITE(function)                                                          \
  ssize_t function(int descriptor, const void* data, size_t size, off_t offset) { \
    REAL(function);                                                               \
    char whole[PATH_MAX];                                                         \
    if (open_below(descriptor, whole)) {                                          \
      TORN(whole, "pwrite", real(descriptor, data, size / 2, offset))             \
    }                                                                             \
    return real(descriptor, data, size, offset);                                  \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t writev(int descriptor, const struct iovec* parts, int count) {
  REAL(writev);
  char whole[PATH_MAX];
  GUARD(open_below(descriptor, whole), "writev", whole, 1)
  return real(descriptor, parts, count);
}

ssize_t sendfile(int out, int in, off_t* offset, size_t size) {
  REAL(sendfile);
  char whole[PATH_MAX];
  GUARD(open_below(out, whole), "sendfile", whole, 1)
  return real(out, in, offset, size);
}
ssize_t sendfile64(int out, int in, off_t* offset, size_t size) {
  REAL(sendfile64);
  char whole[PATH_MAX];
  GUARD(open_below(out, whole), "sendfile", whole, 1)
  return real(out, in, offset, size);
}

ssize_t copy_file_range(int in, off_t* from, int out, off_t* to, size_t size, unsigned flags) {
  REAL(copy_file_range);
  char whole[PATH_MAX];
  GUARD(open_below(out, whole), "copy_file_range", whole, 1)
  return real(in, from, out, to, size, flags);
}

#define OF_DESCRIPTOR(function, title)                    \
  int function(int descriptor) {                          \
    REAL(function);                                       \
    char whole[PATH_MAX];                                 \
    GUARD(open_below(descriptor, whole), title, whole, 1) \
    return real(descriptor);                              \
  }
OF_DESCRIPTOR(fsync, "fsync")
OF_DESCRIPTOR(fdatasync, "fdatasync")

#define TRUNCATE(function)                                      \
  int function(int descriptor, off_t size) {                    \
    REAL(function);                                             \
    char whole[PATH_MAX];                                       \
    GUARD(open_below(descriptor, whole), "ftruncate", whole, 1) \
    return real(descriptor, size);                              \
  }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

int mkdir(const char* path, mode_t mode) {
  REAL(mkdir);
  char whole[PATH_MAX];
  GUARD(below(AT_FDCWD, path, whole), "mkdir", whole, 1)
  return real(path, mode);
}

int mkdirat(int directory, const char* path, mode_t mode) {
  REAL(mkdirat);
  char whole[PATH_MAX];
  GUARD(below(directory, path, whole), "mkdir", whole, 1)
  return real(directory, path, mode);
}

int rename(const char* from, const char* to) {
  REAL(rename);
  char whole[PATH_MAX];
  GUARD(below(AT_FDCWD, to, whole), "rename", whole, 1)
  return real(from, to);
}

int renameat(int at, const char* from, int there, const char* to) {
  REAL(renameat);
  char whole[PATH_MAX];
  GUARD(below(there, to, whole), "rename", whole, 1)
  return real(at, from, there, to);
}

int renameat2(int at, const char* from, int there, const char* to, unsigned flags) {
  REAL(renameat2);
  char whole[PATH_MAX];
  GUARD(below(there, to, whole), "rename", whole, 1)
  return real(at, from, there, to, flags);
}

int link(const char* from, const char* to) {
  REAL(link);
  char whole[PATH_MAX];
  GUARD(below(AT_FDCWD, to, whole), "link", whole, 1)
  return real(from, to);
}

int linkat(int at, const char* from, int there, const char* to, int flags) {
  REAL(linkat);
  char whole[PATH_MAX];
  GUARD(below(there, to, whole), "link", whole, 1)
  return real(at, from, there, to, flags);
}

int symlink(const char* from, const char* to) {
  REAL(symlink);
  char whole[PATH_MAX];
  GUARD(below(AT_FDCWD, to, whole), "symlink", whole, 1)
  return real(from, to);
}

int unlink(const char* path) {
  REAL(unlink);
  char whole[PATH_MAX];
  GUARD(below(AT_FDCWD, path, whole), "unlink", whole, 0)
  return real(path);
}

int unlinkat(int directory, const char* path, int flags) {
  REAL(unlinkat);
  char whole[PATH_MAX];
  GUARD(below(directory, path, whole), "unlink", whole, 0)
  return real(directory, path, flags);
}

int rmdir(const char* path) {
  REAL(rmdir);
  char whole[PATH_MAX];
  GUARD(below(AT_FDCWD, path, whole), "rmdir", whole, 0)
  return real(path);
}
