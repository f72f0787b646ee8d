// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Products of few tokens with rows that lie where they were read.
#pragma once

#include <cstdint>

namespace neuron_chunk {

enum class RowType { kBfloat16, kFloat16, kFloat32 };

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

}  // namespace neuron_chunk
