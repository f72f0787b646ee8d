// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "read_plan.hpp"

#include <algorithm>

namespace neuron_chunk {
namespace {

// Direct reads that begin amid a page of memory and leave it take up to a quarter longer.
constexpr std::int64_t kPage = 4096;

std::int64_t floor_to(std::int64_t value, std::int64_t block) {
  return value - value % block;
}

std::int64_t ceil_to(std::int64_t value, std::int64_t block) {
  return floor_to(value + block - 1, block);
}

}  // namespace

template <typename Use>
std::int64_t ReadPlan::each_run(const Extent* extents, std::size_t count, std::int64_t block,
                                std::int64_t at, Use use) {
  // Through the page cache bytes go where they are wanted at once.
  const std::int64_t page = block > 1 ? std::max(block, kPage) : 1;
  std::int64_t slot = at;
  std::int64_t wanted = 0;
  const Extent* const stop = extents + count;
  for (const Extent* first = extents; first != stop;) {
    if (first->length == 0) {
      ++first;
      continue;
    }
    const std::int64_t begin = floor_to(first->offset, block);
    const std::int64_t packed = at + wanted;
    std::int64_t end = first->offset + first->length;
    wanted += first->length;
    const Extent* last = first + 1;
    for (; last != stop; ++last) {
      if (last->length == 0) continue;
      if (last->offset < end || floor_to(last->offset, block) > ceil_to(end, block)) break;
      end = last->offset + last->length;
      wanted += last->length;
    }
    const std::int64_t length = ceil_to(end, block) - begin;
    if (floor_to(slot, page) + page < slot + length) slot = ceil_to(slot, page);
    use(first, last, begin, end, slot, packed);
    slot += length;
    first = last;
  }
  return slot - at;
}

std::int64_t ReadPlan::capacity_of(const Extent* extents, std::size_t count, std::int64_t block,
                                   std::int64_t at) {
  return each_run(extents, count, block, at, [](auto...) {});
}

void ReadPlan::build(const Extent* extents, std::size_t count, std::int64_t block,
                     std::int64_t max_request, std::int64_t at) {
  at_ = at;
  block_ = block;
  max_request_ = max_request;
  requests_.clear();
  moves_.clear();
  bytes_wanted_ = 0;
  capacity_ = each_run(extents, count, block, at,
                       [this](const Extent* first, const Extent* last, std::int64_t begin,
                              std::int64_t end, std::int64_t slot, std::int64_t packed) {
                         add_run(first, last, begin, end, slot, packed);
                       });
  for (const Extent* extent = extents; extent != extents + count; ++extent) {
    bytes_wanted_ += extent->length;
  }
}

void ReadPlan::add_run(const Extent* first, const Extent* last, std::int64_t begin,
                       std::int64_t end, std::int64_t slot, std::int64_t packed) {
  const std::int64_t aligned_end = ceil_to(end, block_);
  const Extent* extent = first;
  std::int64_t next = extent->offset;  // the first byte not yet given its packed place
  for (std::int64_t at = begin; at < aligned_end;) {
    const std::int64_t length = std::min(max_request_, aligned_end - at);
    const std::size_t first_move = moves_.size();
    while (extent != last && next < at + length) {
      const std::int64_t extent_end = extent->offset + extent->length;
      const std::int64_t taken = std::min(extent_end, at + length) - next;
      add_move(first_move, slot + (next - begin), packed, taken);
      packed += taken;
      next += taken;
      if (next < extent_end) break;
      do {
        ++extent;
      } while (extent != last && extent->length == 0);
      if (extent != last) next = extent->offset;
    }
    requests_.push_back({at, slot + (at - begin), static_cast<std::uint32_t>(length),
                         static_cast<std::uint32_t>(std::min(length, end - at)),
                         static_cast<std::uint32_t>(moves_.size()), packed - at_});
    at += length;
  }
}

void ReadPlan::add_move(std::size_t first_of_request, std::int64_t from, std::int64_t to,
                        std::int64_t length) {
  if (from == to) return;
  if (moves_.size() > first_of_request) {
    Move& before = moves_.back();
    if (before.from + before.length == from && before.to + before.length == to) {
      before.length += length;
      return;
    }
  }
  moves_.push_back({from, to, length});
}

}  // namespace neuron_chunk
