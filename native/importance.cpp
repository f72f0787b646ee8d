// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "importance.hpp"

#include <algorithm>
#include <cmath>

#include "thread_pool.hpp"

namespace neuron_chunk {
namespace {

constexpr std::int64_t kTile = 1024;  // rows whose sums stay in the first cache

struct Sums {
  const Activations& activations;
  const float* weights;
  std::int64_t kinds;
  float* out;
};

template <typename Format>
[[gnu::always_inline]] inline void sum_rows(const Sums& sums, std::int64_t begin,
                                            std::int64_t end) {
  using Stored = typename Format::Stored;
  const Activations& activations = sums.activations;
  for (std::int64_t first = begin; first < end; first += kTile) {
    const std::int64_t width = std::min(kTile, end - first);
    for (std::int64_t kind = 0; kind < sums.kinds; ++kind) {
      std::fill_n(sums.out + kind * activations.rows + first, width, 0.0F);
    }
    for (std::int64_t token = 0; token < activations.tokens; ++token) {
      const auto* __restrict x =
          reinterpret_cast<const Stored*>(static_cast<const char*>(activations.data) +
                                          token * activations.stride) +
          first;
      for (std::int64_t kind = 0; kind < sums.kinds; ++kind) {
        const float weight = sums.weights[kind * activations.tokens + token];
        if (weight == 0.0F) continue;
        float* __restrict out = sums.out + kind * activations.rows + first;
        for (std::int64_t row = 0; row < width; ++row) {
          out[row] += weight * std::fabs(Format::widened(x[row]));
        }
      }
    }
  }
}

NEURON_CHUNK_CLONES void sum_bfloat16(const Sums& sums, std::int64_t begin, std::int64_t end) {
  sum_rows<Bfloat16>(sums, begin, end);
}

NEURON_CHUNK_CLONES void sum_float16(const Sums& sums, std::int64_t begin, std::int64_t end) {
  sum_rows<Float16>(sums, begin, end);
}

NEURON_CHUNK_CLONES void sum_float32(const Sums& sums, std::int64_t begin, std::int64_t end) {
  sum_rows<Float32>(sums, begin, end);
}

}  // namespace

void sum_magnitudes(const Activations& activations, const float* weights, std::int64_t kinds,
                    float* out, int threads) {
  const Sums sums{activations, weights, kinds, out};
  const auto work = [&](int number, int of) {
    const std::int64_t begin = activations.rows * number / of;
    const std::int64_t end = activations.rows * (number + 1) / of;
    if (activations.type == RowType::kBfloat16) {
      sum_bfloat16(sums, begin, end);
    } else if (activations.type == RowType::kFloat16) {
      sum_float16(sums, begin, end);
    } else {
      sum_float32(sums, begin, end);
    }
  };
  // Waking a thread takes as long as summing up some 2^20 of them.
  const std::int64_t worth = 1 + activations.tokens * activations.rows / (1 << 21);
  share_out(static_cast<int>(std::min<std::int64_t>(threads, worth)), work);
}

}  // namespace neuron_chunk
