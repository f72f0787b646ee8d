// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "row_products.hpp"

#include <algorithm>
#include <cstring>

#include "thread_pool.hpp"

namespace neuron_chunk {
namespace {

constexpr std::int64_t kSums = 4096;  // columns whose sums stay in the first cache
constexpr std::int64_t kTile = 512;   // columns widened at a time, where several tokens want them
constexpr std::int64_t kRows = 8;     // rows added in one go: their sum is loaded and stored once
constexpr std::int64_t kLine = 64;    // columns; a thread's share is a multiple

struct Share {
  std::int64_t begin;
  std::int64_t end;
};

// One token: widened and multiplied in one go. Several: a tile of rows is widened once for all.
template <typename Format>
[[gnu::always_inline]] inline void add_rows(const RowProduct& product, Share share) {
  using Stored = typename Format::Stored;
  const Stored* const weights = static_cast<const Stored*>(product.weights);
  const std::int64_t columns = product.columns, count = product.count;
  const std::int64_t step = product.tokens == 1 ? kSums : kTile;
  alignas(64) float tile[kRows][kTile];
  for (std::int64_t first = share.begin; first < share.end; first += step) {
    const std::int64_t width = std::min(step, share.end - first);
    std::int64_t row = 0;
    for (; row + kRows <= count; row += kRows) {
      const Stored* __restrict w0 = weights + row * columns + first;
      if (product.tokens == 1) {
        const Stored* __restrict w1 = w0 + columns;
        const Stored* __restrict w2 = w1 + columns;
        const Stored* __restrict w3 = w2 + columns;
        const Stored* __restrict w4 = w3 + columns;
        const Stored* __restrict w5 = w4 + columns;
        const Stored* __restrict w6 = w5 + columns;
        const Stored* __restrict w7 = w6 + columns;
        const float* x = product.inputs + row;
        const float x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
        const float x4 = x[4], x5 = x[5], x6 = x[6], x7 = x[7];
        float* __restrict out = product.out + first;
        for (std::int64_t c = 0; c < width; ++c) {
          out[c] += ((x0 * Format::widened(w0[c]) + x1 * Format::widened(w1[c])) +
                     (x2 * Format::widened(w2[c]) + x3 * Format::widened(w3[c]))) +
                    ((x4 * Format::widened(w4[c]) + x5 * Format::widened(w5[c])) +
                     (x6 * Format::widened(w6[c]) + x7 * Format::widened(w7[c])));
        }
        continue;
      }
      for (std::int64_t i = 0; i < kRows; ++i) {
        const Stored* __restrict w = w0 + i * columns;
        float* __restrict wide = tile[i];
        for (std::int64_t c = 0; c < width; ++c) wide[c] = Format::widened(w[c]);
      }
      for (std::int64_t token = 0; token < product.tokens; ++token) {
        const float* x = product.inputs + token * count + row;
        const float x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
        const float x4 = x[4], x5 = x[5], x6 = x[6], x7 = x[7];
        float* __restrict out = product.out + token * columns + first;
        for (std::int64_t c = 0; c < width; ++c) {
          out[c] += ((x0 * tile[0][c] + x1 * tile[1][c]) + (x2 * tile[2][c] + x3 * tile[3][c])) +
                    ((x4 * tile[4][c] + x5 * tile[5][c]) + (x6 * tile[6][c] + x7 * tile[7][c]));
        }
      }
    }
    for (; row < count; ++row) {
      const Stored* __restrict w = weights + row * columns + first;
      for (std::int64_t token = 0; token < product.tokens; ++token) {
        const float x = product.inputs[token * count + row];
        float* __restrict out = product.out + token * columns + first;
        for (std::int64_t c = 0; c < width; ++c) out[c] += x * Format::widened(w[c]);
      }
    }
  }
}

NEURON_CHUNK_CLONES void add_bfloat16(const RowProduct& product, Share share) {
  add_rows<Bfloat16>(product, share);
}

NEURON_CHUNK_CLONES void add_float16(const RowProduct& product, Share share) {
  add_rows<Float16>(product, share);
}

NEURON_CHUNK_CLONES void add_float32(const RowProduct& product, Share share) {
  add_rows<Float32>(product, share);
}

void add(const RowProduct& product, Share share) {
  if (product.type == RowType::kBfloat16) {
    add_bfloat16(product, share);
  } else if (product.type == RowType::kFloat16) {
    add_float16(product, share);
  } else {
    add_float32(product, share);
  }
}

}  // namespace

void gather_columns(const Gather& gather, const Run* runs, std::size_t count) {
  for (std::int64_t token = 0; token < gather.tokens; ++token) {
    const char* source = gather.source + token * gather.source_stride;
    char* const row = gather.target + token * gather.target_stride;
    char* target = row;
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t bytes = runs[i].count * gather.item;
      std::memcpy(target, source + runs[i].first * gather.item, static_cast<std::size_t>(bytes));
      target += bytes;
    }
    std::memset(target, 0, static_cast<std::size_t>(row + gather.room * gather.item - target));
  }
}

void add_row_product(const RowProduct& product, int threads) {
  const std::int64_t lines = (product.columns + kLine - 1) / kLine;
  // Waking a thread takes some 20 us, in which one reads half a megabyte.
  const std::int64_t worth = 1 + product.count * product.columns / (1 << 18);
  const auto shares = static_cast<int>(std::min<std::int64_t>({threads, lines, worth}));
  share_out(shares, [&](int number, int of) {
    add(product, {lines * number / of * kLine,
                  std::min(lines * (number + 1) / of * kLine, product.columns)});
  });
}

}  // namespace neuron_chunk
