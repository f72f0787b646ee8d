// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Products of few tokens with rows that lie where they were read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "values.hpp"

namespace neuron_chunk {

struct RowProduct {
  const float* inputs;  // [tokens, count]
  const void* weights;  // [count, columns]
  float* out;           // [tokens, columns]
  RowType type;
  std::int64_t tokens;
  std::int64_t count;
  std::int64_t columns;
};

// out += inputs @ weights, in float32, each weight read from memory once. The columns are shared
// among `threads` threads, the caller's among them; where the system gives fewer, among fewer.
void add_row_product(const RowProduct& product, int threads);

struct Run {
  std::int64_t first;
  std::int64_t count;
};

// A matrix in memory, its rows `stride` bytes apart.
struct Gather {
  const char* source;  // [tokens, rows]
  std::int64_t source_stride;
  char* target;  // [tokens, room]
  std::int64_t target_stride;
  std::int64_t tokens;
  std::int64_t item;  // bytes of an element
  std::int64_t room;  // elements of a row of the target; what no run fills becomes zero
};

// Copies the source's columns that the runs name, one after another. They fit the target.
void gather_columns(const Gather& gather, const Run* runs, std::size_t count);

}  // namespace neuron_chunk
