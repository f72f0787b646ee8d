// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "aligned_buffer.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <stdexcept>

namespace neuron_chunk {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

AlignedBuffer::AlignedBuffer(std::ptrdiff_t nbytes, bool huge_pages) : nbytes_(nbytes) {
  if (nbytes <= 0) throw std::invalid_argument("a buffer needs a positive number of bytes");
  const auto wanted = static_cast<std::size_t>(nbytes);
  // Where memory is handed out beyond what there is, touching it would end the process.
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  if (wanted / page >= static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES))) throw std::bad_alloc();
  mapped_ = (wanted + kHugePage - 1) / kHugePage * kHugePage;

  // mmap aligns to a page only: map one huge page more and give back what hangs over.
  const std::size_t reserved = mapped_ + kHugePage;
  void* raw = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  auto* start = static_cast<std::byte*>(raw);
  const std::size_t head =
      (kHugePage - reinterpret_cast<std::uintptr_t>(raw) % kHugePage) % kHugePage;
  if (head > 0) munmap(start, head);
  if (kHugePage > head) munmap(start + head + mapped_, kHugePage - head);
  data_ = start + head;

  // Advice only: where the kernel has no transparent huge pages the buffer is slower, not wrong.
  madvise(data_, mapped_, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);

  // A process made by fork finds zeros in its place. Were the pages shared until written, the
  // parent's next write would move them while the drive still fills the old ones.
  madvise(data_, mapped_, MADV_WIPEONFORK);

  // Touched now, so that no read ever waits for a page fault.
  for (std::size_t at = 0; at < mapped_; at += page) {
    *reinterpret_cast<volatile unsigned char*>(data_ + at) = 0;
  }
}

AlignedBuffer::~AlignedBuffer() {
  munmap(data_, mapped_);
}

}  // namespace neuron_chunk
