// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// From the extents a caller wants to what the device is asked for. Pure arithmetic, no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace neuron_chunk {

struct Extent {
  std::int64_t offset;
  std::int64_t length;
};

// One read the device is asked for: whole blocks from a block boundary into a block boundary.
struct Request {
  std::int64_t file_offset;
  std::int64_t buffer_offset;
  std::uint32_t length;
  // Bytes that must arrive. Below `length` only where the request's last block holds slack, which
  // the file's end may cut off.
  std::uint32_t required;
  // The plan's moves up to here are possible once this request and all before it are done.
  std::uint32_t moves_end;
  // Packed bytes, from the batch's begin, that are in their place then.
  std::int64_t packed_end;
};

// Bytes to move down inside the buffer: to < from, and never onto bytes still to be moved.
struct Move {
  std::int64_t from;
  std::int64_t to;
  std::int64_t length;
};

// Extents that ascend without overlapping and lie in the same or in neighbouring blocks become
// one run; a run is read as requests of at most `max_request` bytes into one slot of whole
// blocks. Slots follow each other in list order; where reads are direct (a block of more than one
// byte), one that does not fit into the rest of a page begins with the next. Since a slot is never
// shorter than the bytes wanted from it, each extent's packed place lies at or before the place it
// was read to: packing is moving down, in order, in place. Where runs are whole pages nothing
// moves.
class ReadPlan {
 public:
  // `at` and `max_request` are multiples of `block`; extents are inside the file. Storage is
  // kept from one build to the next.
  void build(const Extent* extents, std::size_t count, std::int64_t block,
             std::int64_t max_request, std::int64_t at);

  // What capacity() of the plan for such extents would be, without making it.
  static std::int64_t capacity_of(const Extent* extents, std::size_t count, std::int64_t block,
                                  std::int64_t at);

  const std::vector<Request>& requests() const { return requests_; }
  const std::vector<Move>& moves() const { return moves_; }
  std::int64_t bytes_wanted() const { return bytes_wanted_; }
  // Buffer bytes used from `at` on.
  std::int64_t capacity() const { return capacity_; }

 private:
  // use(first, last, begin, end, slot, packed) for each run; returns the buffer bytes used.
  template <typename Use>
  static std::int64_t each_run(const Extent* extents, std::size_t count, std::int64_t block,
                               std::int64_t at, Use use);
  void add_run(const Extent* first, const Extent* last, std::int64_t begin, std::int64_t end,
               std::int64_t slot, std::int64_t packed);
  void add_move(std::size_t first_of_request, std::int64_t from, std::int64_t to,
                std::int64_t length);

  std::int64_t at_ = 0;
  std::int64_t block_ = 1;
  std::int64_t max_request_ = 1;
  std::int64_t bytes_wanted_ = 0;
  std::int64_t capacity_ = 0;
  std::vector<Request> requests_;
  std::vector<Move> moves_;
};

}  // namespace neuron_chunk
