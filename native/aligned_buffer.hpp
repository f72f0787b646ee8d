// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Memory that direct reads are fast into: huge pages, touched once, reused for every read.
#pragma once

#include <cstddef>

namespace neuron_chunk {

class AlignedBuffer {
 public:
  // Direct reads into ordinary 4 KiB pages stop at about a third of the bandwidth that the same
  // reads reach into huge pages, so `huge_pages` is false only for measuring that.
  // Throws std::invalid_argument when nbytes is not positive, std::bad_alloc when it can't be had.
  explicit AlignedBuffer(std::ptrdiff_t nbytes, bool huge_pages = true);
  ~AlignedBuffer();
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  std::byte* data() const { return data_; }
  std::ptrdiff_t nbytes() const { return nbytes_; }

 private:
  std::byte* data_ = nullptr;
  std::ptrdiff_t nbytes_ = 0;
  std::size_t mapped_ = 0;
};

}  // namespace neuron_chunk
