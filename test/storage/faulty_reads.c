// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// A drive that fails, for LD_PRELOAD: reads of files whose path begins with FAULTY_PATH go wrong as
// the file FAULTY_ORDERS says, which faulty_reads.py writes and reads while the process runs.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { NOTHING, ERROR, SHORT, DELAY, HANG };

struct orders {
  int32_t kind;
  int32_t value;    // ERROR: errno; SHORT: multiples of it come; DELAY: milliseconds
  int32_t first;    // the reads from this one on ...
  int32_t times;    // ... so many
  int32_t seen;     // reads there were
  int32_t hanging;  // reads that hang now
  int32_t release;  // those that hang go on
  int32_t align;    // direct reads at anything else fail as drives of such blocks do
  int32_t told;     // statx: 0 as it is, else this is the preferred size and nothing is aligned
};

static struct orders* orders(void) {
  static struct orders* shared;
  if (shared == NULL) {
    const char* name = getenv("FAULTY_ORDERS");
    const int fd = name == NULL ? -1 : open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0) return NULL;
    void* at = mmap(NULL, sizeof(struct orders), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) shared = at;
  }
  return shared;
}

static int is_faulty(int fd) {
  const char* wanted = getenv("FAULTY_PATH");
  char link[64] = "/proc/self/fd/", path[4096];
  char digits[16];
  int count = 0;
  if (wanted == NULL || fd < 0) return 0;
  do {
    digits[count++] = (char)('0' + fd % 10);
  } while ((fd /= 10) > 0);
  for (size_t at = strlen(link); count > 0;) {
    link[at++] = digits[--count];
    link[at] = 0;
  }
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return strncmp(path, wanted, strlen(wanted)) == 0;
}

static void sleep_ms(int32_t ms) {
  struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
  nanosleep(&time, NULL);
}

// How many of `length` bytes to read, or -1 with errno.
static ssize_t verdict(int fd, const void* into, size_t length, int64_t offset) {
  struct orders* order = orders();
  if (order == NULL || !is_faulty(fd)) return (ssize_t)length;
  if (order->align > 0 && (fcntl(fd, F_GETFL) & O_DIRECT) != 0 &&
      ((uintptr_t)into | length | (uint64_t)offset) % (uint64_t)order->align != 0) {
    errno = EINVAL;
    return -1;
  }
  const int32_t number = __atomic_fetch_add(&order->seen, 1, __ATOMIC_SEQ_CST);
  if (order->kind == NOTHING || number < order->first || number - order->first >= order->times) {
    return (ssize_t)length;
  }
  switch (order->kind) {
    case ERROR:
      errno = order->value;
      return -1;
    case SHORT:
      if (length > (size_t)order->value) {
        length = length / 2 / (size_t)order->value * (size_t)order->value;
        if (length == 0) length = (size_t)order->value;
      }
      return (ssize_t)length;
    case DELAY:
      sleep_ms(order->value);
      return (ssize_t)length;
    default:
      __atomic_fetch_add(&order->hanging, 1, __ATOMIC_SEQ_CST);
      while (__atomic_load_n(&order->release, __ATOMIC_SEQ_CST) == 0) sleep_ms(1);
      __atomic_fetch_sub(&order->hanging, 1, __ATOMIC_SEQ_CST);
      return (ssize_t)length;
  }
}

#define READ(NAME, OFFSET)                                                          \
  ssize_t NAME(int fd, void* into, size_t length, OFFSET offset) {                  \
    static ssize_t (*real)(int, void*, size_t, OFFSET);                             \
    if (real == NULL) *(void**)&real = dlsym(RTLD_NEXT, #NAME);                     \
    const ssize_t allowed = verdict(fd, into, length, offset);                      \
    return allowed < 0 ? -1 : real(fd, into, (size_t)allowed, offset);              \
  }
READ(pread, off_t)
READ(pread64, off64_t)

// The same of several pieces, the first of which stands for all: none of ours is read so today.
#define READV(NAME, OFFSET)                                                         \
  ssize_t NAME(int fd, const struct iovec* pieces, int count, OFFSET offset) {      \
    static ssize_t (*real)(int, const struct iovec*, int, OFFSET);                  \
    if (real == NULL) *(void**)&real = dlsym(RTLD_NEXT, #NAME);                     \
    if (count < 1) return real(fd, pieces, count, offset);                          \
    const ssize_t allowed = verdict(fd, pieces->iov_base, pieces->iov_len, offset); \
    if (allowed < 0) return -1;                                                     \
    if ((size_t)allowed == pieces->iov_len) return real(fd, pieces, count, offset); \
    const struct iovec some = {pieces->iov_base, (size_t)allowed};                  \
    return real(fd, &some, 1, offset);                                              \
  }
READV(preadv, off_t)
READV(preadv64, off64_t)

int statx(int fd, const char* path, int flags, unsigned mask, struct statx* status) {
  static int (*real)(int, const char*, int, unsigned, struct statx*);
  if (real == NULL) *(void**)&real = dlsym(RTLD_NEXT, "statx");
  const int result = real(fd, path, flags, mask, status);
  const struct orders* order = orders();
  if (result == 0 && order != NULL && order->told > 0 && is_faulty(fd)) {
    status->stx_mask &= ~0x2000U;  // STATX_DIOALIGN
    status->stx_blksize = (unsigned)order->told;
  }
  return result;
}
