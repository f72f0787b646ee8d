// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "source_file.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "read_failure.hpp"

namespace neuron_chunk {
namespace {

// Kernel 6.1 added direct-I/O alignment to statx. Headers before that (glibc 2.35) have neither
// the flag nor the fields, so both are spelt out here; the structure's layout is kernel ABI.
constexpr unsigned kStatxDioAlign = 0x2000;
constexpr std::size_t kDioMemoryAlignAt = 0x98;
constexpr std::size_t kDioOffsetAlignAt = 0x9C;
static_assert(sizeof(struct statx) == 0x100, "statx's layout is fixed by the kernel");

// Larger than any device's block: an answer above this is not believed.
constexpr std::int64_t kLargestBlock = std::int64_t{1} << 20;
constexpr std::int64_t kPage = 4096;

bool is_block_size(std::int64_t value) {
  return value > 0 && value <= kLargestBlock && (value & (value - 1)) == 0;
}

// The alignment direct reads of this file need, or 0 where it has no direct I/O. Where the kernel
// doesn't tell, stx_blksize is what is *preferred*, which may be a megabyte: no more than a page
// is believed of it, and open_direct tries.
std::int64_t direct_block(const SourceFile& file) {
  // tmpfs takes the flag since 6.6 but copies from memory all the same.
  struct statfs system;
  if (fstatfs(file.fd(), &system) == 0 &&
      (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC)) {
    return 0;
  }
  struct statx status;
  if (statx(file.fd(), "", AT_EMPTY_PATH, kStatxDioAlign | STATX_BASIC_STATS, &status) == 0) {
    if (status.stx_mask & kStatxDioAlign) {
      std::uint32_t memory = 0;
      std::uint32_t offset = 0;
      const char* const raw = reinterpret_cast<const char*>(&status);
      std::memcpy(&memory, raw + kDioMemoryAlignAt, sizeof memory);
      std::memcpy(&offset, raw + kDioOffsetAlignAt, sizeof offset);
      if (memory == 0 || offset == 0) return 0;
      const std::int64_t block = std::max(memory, offset);
      if (is_block_size(block)) return block;
    }
    if (is_block_size(status.stx_blksize)) {
      return std::min<std::int64_t>(status.stx_blksize, kPage);
    }
  }
  return kPage;
}

// Some file systems take O_DIRECT at open and refuse the first read.
bool refuses_direct_read(const SourceFile& file, std::int64_t block) {
  const auto length = static_cast<std::size_t>(block);
  std::unique_ptr<void, decltype(&std::free)> memory(
      std::aligned_alloc(std::max<std::size_t>(length, 4096), std::max<std::size_t>(length, 4096)),
      &std::free);
  return memory != nullptr && pread(file.fd(), memory.get(), length, 0) < 0 && errno == EINVAL;
}

// Opens all files directly. False, with the reason in `note`, when one of them refuses.
bool open_direct(const std::vector<std::string>& paths, FileSet& set) {
  for (const std::string& path : paths) {
    set.files.emplace_back(path, true);
    const SourceFile& file = set.files.back();
    std::int64_t block = file.direct() ? direct_block(file) : 0;
    while (block != 0 && refuses_direct_read(file, block)) {
      block = block < kLargestBlock ? 2 * block : 0;
    }
    if (block == 0) {
      set.note = path + ": the file system has no direct I/O (O_DIRECT)";
      return false;
    }
    set.block = std::max(set.block, block);
  }
  set.direct = true;
  return true;
}

}  // namespace

SourceFile::SourceFile(const std::string& path, bool direct) : path_(path) {
  const auto fail = [&path](int error) {
    throw ReadFailure(error, path, -1, path + ": can't be opened: " + errno_text(error));
  };
  // Looked at before it is opened: opening a FIFO would wait for a writer.
  struct stat status;
  if (stat(path.c_str(), &status) != 0) fail(errno);
  if (!S_ISREG(status.st_mode)) {
    throw ReadFailure(EINVAL, path, -1, path + ": can't be opened: it is not a regular file");
  }
  if (direct) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    direct_ = fd_ >= 0;
    if (fd_ < 0 && errno != EINVAL) fail(errno);
  }
  if (fd_ < 0) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) fail(errno);
  }
  // Of what was opened, whatever had that name before.
  if (fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close();
    fail(EINVAL);
  }
  size_ = status.st_size;
  if (!direct_) {
    // Rows are asked for one by one; reading ahead would only fetch what nobody chose.
    posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM);
  }
}

SourceFile::SourceFile(SourceFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      direct_(other.direct_) {}

SourceFile::~SourceFile() {
  close();
}

void SourceFile::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

FileSet open_files(const std::vector<std::string>& paths, DirectMode mode) {
  FileSet set;
  if (mode != DirectMode::kOff) {
    if (open_direct(paths, set)) return set;
    if (mode == DirectMode::kOn) {
      throw ReadFailure(EINVAL, set.files.back().path(), -1,
                        set.note + "; open with direct='auto' or 'off'");
    }
    set.note += "; reading through the page cache";
    set.files.clear();
    set.block = 1;
  }
  for (const std::string& path : paths) set.files.emplace_back(path, false);
  return set;
}

}  // namespace neuron_chunk
