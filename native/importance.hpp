// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// How much each row of a group matters to a step's tokens.
#pragma once

#include <cstdint>

#include "values.hpp"

namespace neuron_chunk {

struct Activations {
  const void* data;     // [tokens, rows] of `type`
  std::int64_t stride;  // bytes from token to token
  RowType type;
  std::int64_t tokens;
  std::int64_t rows;
};

// out[kind][row] = the sum over tokens of weights[kind][token] * |activation|, in float32.
// weights: [kinds, tokens]; out: [kinds, rows]. Shared among `threads` threads.
void sum_magnitudes(const Activations& activations, const float* weights, std::int64_t kinds,
                    float* out, int threads);

}  // namespace neuron_chunk
